/* SPDX-License-Identifier: Apache-2.0 */
/* Recognising kernels, and what all loaders share; see boot.h. */
#include "core/boot/boot.h"

#include "core/base/fmt.h"
#include "core/boot/bzimage.h"
#include "core/boot/elf.h"
#include "core/boot/layout.h"
#include "core/boot/multiboot.h"

bool blob_has(const struct blob *b, u64 offset, u64 size) {
    return offset <= b->size && size <= b->size - offset;
}

u16 blob_u16(const struct blob *b, u64 offset) {
    u16 v = 0;
    if (blob_has(b, offset, sizeof(v))) {
        memcpy(&v, b->data + offset, sizeof(v));
    }
    return v;
}

u32 blob_u32(const struct blob *b, u64 offset) {
    u32 v = 0;
    if (blob_has(b, offset, sizeof(v))) {
        memcpy(&v, b->data + offset, sizeof(v));
    }
    return v;
}

u64 blob_u64(const struct blob *b, u64 offset) {
    u64 v = 0;
    if (blob_has(b, offset, sizeof(v))) {
        memcpy(&v, b->data + offset, sizeof(v));
    }
    return v;
}

int boot_copy(const struct boot_request *req, const char *file, const char *what, u64 gpa,
              const void *data, u64 size, struct err *err) {
    if (!size) {
        return 0;
    }
    if (ram_write(req->ram, gpa, data, size)) {
        return ERR_SET(err, ERR_RANGE,
                       "%s: %s (%llu KiB at 0x%llx) does not fit into the guest's memory", file,
                       what, (unsigned long long)(size + 1023) / 1024, (unsigned long long)gpa);
    }
    TRACE(req->trace, TRACE_BOOT, "boot: %s of %s at 0x%llx, 0x%llx bytes", what, file,
          (unsigned long long)gpa, (unsigned long long)size);
    return 0;
}

int boot_copy_cmdline(const struct boot_request *req, const char *prefix, u64 max,
                      struct err *err) {
    u64 at = LAYOUT_CMDLINE;
    u64 own = str_len(req->cmdline), front = prefix ? str_len(prefix) + 1 : 0;
    max = MIN(max, LAYOUT_CMDLINE_MAX - 1);
    if (own > max || front > max - own) {
        return ERR_SET(
            err, ERR_RANGE, "%s: the command line has %llu bytes, this kernel takes at most %llu",
            req->kernel.name, (unsigned long long)(own + front), (unsigned long long)max);
    }
    if (prefix) {
        int rc = boot_copy(req, req->kernel.name, "its name", at, prefix, front - 1, err);
        rc = rc ? rc : boot_copy(req, req->kernel.name, "a space", at + front - 1, " ", 1, err);
        if (rc) {
            return rc;
        }
    }
    return boot_copy(req, req->kernel.name, "the command line", at + front, req->cmdline, own + 1,
                     err);
}

u64 boot_place_high(const struct boot_request *req, u64 size, u64 floor, u64 ceiling) {
    u64 best = 0;
    for (u32 i = 0; i < req->e820->count; i++) {
        const struct e820_entry *e = &req->e820->entry[i];
        u64 from = MAX(e->addr, floor), to = MIN(MIN(e->addr + e->size, ceiling), 4 * GIB);
        if (e->type != E820_RAM || from >= to || size > to - from) {
            continue;
        }
        u64 at = ALIGN_DOWN(to - size, PAGE_SIZE);
        if (at >= from && at > best) {
            best = at;
        }
    }
    return best;
}

struct signature {
    u64 offset;
    u8 bytes[8];
    u8 len;
    const char *what;
};

/* What people give by mistake. */
static const struct signature foreign[] = {
    {0x38, "ARM\x64", 4, "an arm64 kernel image; this machine is x86-64"},
    {0x38, "RSC\x05", 4, "a RISC-V kernel image; this machine is x86-64"},
    {0x24, {0x18, 0x28, 0x6f, 0x01}, 4, "a 32-bit ARM zImage; this machine is x86-64"},
    {0, {0x1f, 0x8b}, 2, "gzip-compressed; unpack it first (gunzip)"},
    {0, {0x28, 0xb5, 0x2f, 0xfd}, 4, "zstd-compressed; unpack it first (unzstd)"},
    {0, {0xfd, '7', 'z', 'X', 'Z', 0}, 6, "xz-compressed; unpack it first (unxz)"},
    {0, "BZh", 3, "bzip2-compressed; unpack it first (bunzip2)"},
    {0, "07070", 5, "a cpio archive: an initramfs, not a kernel (use --initrd)"},
    {0, "QFI\xfb", 4, "a qcow2 disk image, not a kernel (use --disk)"},
    {0, "!<arch>", 7, "an archive (a .deb package or a library); unpack it first"},
    {0, "\xca\xfe\xba\xbe", 4, "a Mach-O or Java file, not a kernel"},
    {0, "#!", 2, "a script, not a kernel"},
};

static int unknown_image(const struct blob *k, struct err *err) {
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++) {
        const struct signature *s = &foreign[i];
        if (blob_has(k, s->offset, s->len) && memcmp(k->data + s->offset, s->bytes, s->len) == 0) {
            return ERR_SET(err, ERR_FORMAT, "%s: is %s", k->name, s->what);
        }
    }
    if (blob_u16(k, 0) == 0x5a4d) {
        return ERR_SET(err, ERR_FORMAT, "%s: is an EFI or Windows program without a Linux header",
                       k->name);
    }
    if (k->size < BZIMAGE_MIN_SIZE) {
        return ERR_SET(err, ERR_FORMAT, "%s: is too short for a kernel (%llu bytes)", k->name,
                       (unsigned long long)k->size);
    }
    return ERR_SET(err, ERR_FORMAT,
                   "%s: is not a kernel (neither bzImage, ELF with a PVH note, nor Multiboot)",
                   k->name);
}

int boot_detect(const struct blob *kernel, enum boot_kind *kind, struct err *err) {
    struct elf_image elf;
    u64 entry;
    int rc = 0;
    if (!kernel->data || !kernel->size) {
        return ERR_SET(err, ERR_FORMAT, "%s: is empty", kernel->name ? kernel->name : "kernel");
    }
    if (bzimage_is(kernel)) {
        *kind = BOOT_BZIMAGE;
    } else if (multiboot_is(kernel)) {
        *kind = BOOT_MULTIBOOT;
    } else if (!elf_is(kernel)) {
        rc = unknown_image(kernel, err);
    } else if (!(rc = elf_open(kernel, &elf, err))) {
        *kind = BOOT_PVH;
        if (!elf_pvh_entry(&elf, &entry)) {
            rc = ERR_SET(err, ERR_UNSUPPORTED,
                         "%s: this ELF file has neither a PVH note (CONFIG_PVH) nor a Multiboot "
                         "header",
                         kernel->name);
        }
    }
    return rc;
}

int boot_load(const struct boot_request *req, struct cpu_state *state, struct err *err) {
    enum boot_kind kind;
    int rc = boot_detect(&req->kernel, &kind, err);
    if (rc) {
        return rc;
    }
    if (req->initrd.data && !req->initrd.size) {
        return ERR_SET(err, ERR_FORMAT, "%s: is empty", req->initrd.name);
    }
    switch (kind) {
    case BOOT_BZIMAGE:
        return bzimage_load(req, state, err);
    case BOOT_PVH:
        return pvh_load(req, state, err);
    default:
        return multiboot_load(req, state, err);
    }
}
