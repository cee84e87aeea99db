/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and loading ELF executables; see elf.h. System V ABI, chapters 4 and 5. */
#include "core/boot/elf.h"

#include "core/boot/layout.h"

enum {
    EI_CLASS = 4,
    EI_DATA = 5,
    E_TYPE = 16,
    E_MACHINE = 18,
    CLASS_32 = 1,
    CLASS_64 = 2,
    DATA_LSB = 1,
    ET_EXEC = 2,
    ET_DYN = 3,
    EM_386 = 3,
    EM_X86_64 = 62,
    PT_LOAD = 1,
    PT_NOTE = 4,
    PHNUM_MAX = 256,
    NOTE_MAX = 4096, /* notes looked at */
    XEN_ELFNOTE_PHYS32_ENTRY = 18,
};

bool elf_is(const struct blob *file) {
    return blob_u32(file, 0) == 0x464c457f;
}

static const char *machine_name(u16 machine) {
    switch (machine) {
    case 8:
        return "MIPS";
    case 20:
    case 21:
        return "PowerPC";
    case 22:
        return "s390";
    case 40:
        return "32-bit ARM";
    case 183:
        return "arm64";
    case 243:
        return "RISC-V";
    case 258:
        return "LoongArch";
    default:
        return "another processor";
    }
}

static int check_ident(const struct blob *f, struct err *err) {
    if (f->size < 52) {
        return ERR_SET(err, ERR_FORMAT, "%s: this ELF file is truncated (%llu bytes)", f->name,
                       (unsigned long long)f->size);
    }
    u16 type = blob_u16(f, E_TYPE), machine = blob_u16(f, E_MACHINE);
    u8 class = f->data[EI_CLASS];
    if (f->data[EI_DATA] != DATA_LSB || (class != CLASS_32 && class != CLASS_64)) {
        return ERR_SET(err, ERR_FORMAT, "%s: is an ELF file of a big-endian or unknown machine",
                       f->name);
    }
    if (machine != EM_386 && machine != EM_X86_64) {
        return ERR_SET(err, ERR_FORMAT, "%s: is an ELF file for %s (machine %u), not for x86",
                       f->name, machine_name(machine), machine);
    }
    if (type != ET_EXEC && type != ET_DYN) {
        return ERR_SET(err, ERR_FORMAT, "%s: is an ELF file but not an executable (type %u)",
                       f->name, type);
    }
    return 0;
}

static int check_segments(const struct elf_image *elf, struct err *err) {
    const struct blob *f = elf->file;
    for (u32 i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);
        if ((s.type == PT_LOAD || s.type == PT_NOTE) && !blob_has(f, s.offset, s.filesz)) {
            return ERR_SET(err, ERR_FORMAT,
                           "%s: this ELF file is truncated or damaged: it has 0x%llx bytes, a "
                           "segment of 0x%llx bytes is said to be at 0x%llx",
                           f->name, (unsigned long long)f->size, (unsigned long long)s.filesz,
                           (unsigned long long)s.offset);
        }
    }
    return 0;
}

int elf_open(const struct blob *f, struct elf_image *elf, struct err *err) {
    int rc = check_ident(f, err);
    if (rc) {
        return rc;
    }
    bool is64 = f->data[EI_CLASS] == CLASS_64;
    *elf = (struct elf_image){
        .file = f,
        .is64 = is64,
        .entry = is64 ? blob_u64(f, 24) : blob_u32(f, 24),
        .phoff = is64 ? blob_u64(f, 32) : blob_u32(f, 28),
        .phentsize = blob_u16(f, is64 ? 54 : 42),
        .phnum = blob_u16(f, is64 ? 56 : 44),
    };
    u32 least = is64 ? 56 : 32;
    if (!elf->phnum || elf->phnum > PHNUM_MAX || elf->phentsize < least) {
        return ERR_SET(err, ERR_FORMAT, "%s: the ELF program headers are damaged (%u of %u bytes)",
                       f->name, elf->phnum, elf->phentsize);
    }
    if (!blob_has(f, elf->phoff, (u64)elf->phnum * elf->phentsize)) {
        return ERR_SET(err, ERR_FORMAT,
                       "%s: this ELF file is truncated: its program headers lie behind its end",
                       f->name);
    }
    return check_segments(elf, err);
}

struct elf_segment elf_segment(const struct elf_image *elf, u32 i) {
    const struct blob *f = elf->file;
    u64 at = elf->phoff + (u64)i * elf->phentsize;
    if (elf->is64) {
        return (struct elf_segment){
            .type = blob_u32(f, at),
            .offset = blob_u64(f, at + 8),
            .vaddr = blob_u64(f, at + 16),
            .paddr = blob_u64(f, at + 24),
            .filesz = blob_u64(f, at + 32),
            .memsz = blob_u64(f, at + 40),
            .align = blob_u64(f, at + 48),
        };
    }
    return (struct elf_segment){
        .type = blob_u32(f, at),
        .offset = blob_u32(f, at + 4),
        .vaddr = blob_u32(f, at + 8),
        .paddr = blob_u32(f, at + 12),
        .filesz = blob_u32(f, at + 16),
        .memsz = blob_u32(f, at + 20),
        .align = blob_u32(f, at + 28),
    };
}

/* Not over the boot structures in low memory, nor over EBDA and ROM. */
static bool range_allowed(const struct boot_request *req, u64 at, u64 size) {
    bool low = at >= LAYOUT_FREE && at < LAYOUT_EBDA && size <= LAYOUT_EBDA - at;
    return (low || at >= LAYOUT_HIGH) && ram_ptr(req->ram, at, size);
}

static int load_segment(const struct boot_request *req, struct elf_image *elf,
                        const struct elf_segment *s, struct err *err) {
    const struct blob *f = elf->file;
    if (!s->memsz) {
        return 0;
    }
    if (s->filesz > s->memsz) {
        return ERR_SET(err, ERR_FORMAT,
                       "%s: this ELF file is damaged: a segment of 0x%llx bytes has 0x%llx of them "
                       "in the file",
                       f->name, (unsigned long long)s->memsz, (unsigned long long)s->filesz);
    }
    if (!range_allowed(req, s->paddr, s->memsz)) {
        return ERR_SET(
            err, ERR_RANGE, "%s: a segment wants 0x%llx..0x%llx, which is not free guest memory",
            f->name, (unsigned long long)s->paddr, (unsigned long long)(s->paddr + s->memsz));
    }
    elf->low = MIN(elf->low, s->paddr);
    elf->high = MAX(elf->high, s->paddr + s->memsz);
    return boot_copy(req, f->name, "a segment", s->paddr, f->data + s->offset, s->filesz, err);
}

int elf_load(const struct boot_request *req, struct elf_image *elf, struct err *err) {
    elf->low = UINT64_MAX;
    elf->high = 0;
    for (u32 i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);
        int rc = s.type == PT_LOAD ? load_segment(req, elf, &s, err) : 0;
        if (rc) {
            return rc;
        }
    }
    if (!elf->high) {
        return ERR_SET(err, ERR_FORMAT, "%s: this ELF file has nothing to load", elf->file->name);
    }
    return 0;
}

u64 elf_physical(const struct elf_image *elf, u64 vaddr) {
    for (u32 i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);
        if (s.type == PT_LOAD && vaddr - s.vaddr < s.memsz) {
            return s.paddr + (vaddr - s.vaddr);
        }
    }
    return vaddr;
}

/* One PT_NOTE segment: namesz, descsz, type, name, descriptor, each padded. */
static bool scan_notes(const struct blob *f, const struct elf_segment *s, u64 *entry) {
    u64 at = s->offset, end = s->offset + s->filesz, align = s->align == 8 ? 8 : 4;
    if (!blob_has(f, s->offset, s->filesz)) {
        return false;
    }
    for (int i = 0; i < NOTE_MAX && end - at >= 12; i++) {
        u64 namesz = blob_u32(f, at), descsz = blob_u32(f, at + 4);
        u64 name = at + 12, desc = name + ALIGN_UP(namesz, align);
        if (desc > end || descsz > end - desc) {
            return false;
        }
        if (blob_u32(f, at + 8) == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 &&
            memcmp(f->data + name, "Xen", 4) == 0 && descsz >= 4) {
            *entry = descsz >= 8 ? blob_u64(f, desc) : blob_u32(f, desc);
            return true;
        }
        at = MIN(desc + ALIGN_UP(descsz, align), end);
    }
    return false;
}

bool elf_pvh_entry(const struct elf_image *elf, u64 *entry) {
    for (u32 i = 0; i < elf->phnum; i++) {
        struct elf_segment s = elf_segment(elf, i);
        if (s.type == PT_NOTE && scan_notes(elf->file, &s, entry)) {
            return true;
        }
    }
    return false;
}
