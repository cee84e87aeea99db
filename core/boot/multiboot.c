/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Multiboot 1 loader. The kernel is entered in flat 32-bit mode with the magic in EAX and the
 * information structure in EBX. As with QEMU the command line starts with the file's name, and an
 * initrd is the first module. Left out: video modes (a request is not honoured), drives, APM,
 * symbols.
 */
#include "core/boot/multiboot.h"

#include "core/base/fmt.h"
#include "core/boot/elf.h"
#include "core/boot/entry.h"
#include "core/boot/layout.h"

enum {
    SEARCH_BYTES = 8192,
    HEADER_FLAG_ALIGN = 1 << 0,
    HEADER_FLAG_MEMORY = 1 << 1,
    HEADER_FLAG_VIDEO = 1 << 2,
    HEADER_MUST_UNDERSTAND = 0xffff,
    HEADER_FLAG_ADDRESSES = 1 << 16,
    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MMAP = 1 << 6,
    INFO_LOADER_NAME = 1 << 9,
    STRING_MAX = 256,
};

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u

struct multiboot_info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline;
    u32 mods_count, mods_addr;
    u32 syms[4];
    u32 mmap_length, mmap_addr;
    u32 drives_length, drives_addr, config_table, boot_loader_name, apm_table;
    u32 vbe[7];
} PACKED;

struct multiboot_module {
    u32 start, end, string, reserved;
} PACKED;

struct multiboot_mmap {
    u32 size;
    u64 addr, len;
    u32 type;
} PACKED;

_Static_assert(sizeof(struct multiboot_mmap) == 24, "size field not counted: 20");

#define MB_INFO    LAYOUT_MULTIBOOT
#define MB_MODULES (LAYOUT_MULTIBOOT + 0x400)
#define MB_MMAP    (LAYOUT_MULTIBOOT + 0x1000)
#define MB_NAME    (LAYOUT_MULTIBOOT + 0x2000)
#define MB_STRINGS (LAYOUT_MULTIBOOT + 0x3000)

_Static_assert(sizeof(struct multiboot_module) * BOOT_MAX_MODULES <= 0xc00, "module list fits");
_Static_assert(MB_STRINGS + (u64)STRING_MAX * BOOT_MAX_MODULES <= LAYOUT_FREE, "strings fit");

static bool find_header(const struct blob *k, u64 *at) {
    for (u64 i = 0; i + 12 <= MIN(k->size, (u64)SEARCH_BYTES); i += 4) {
        if (blob_u32(k, i) == HEADER_MAGIC &&
            blob_u32(k, i) + blob_u32(k, i + 4) + blob_u32(k, i + 8) == 0) {
            *at = i;
            return true;
        }
    }
    return false;
}

bool multiboot_is(const struct blob *k) {
    u64 at;
    return find_header(k, &at);
}

struct image {
    u64 entry;
    u64 end; /* first byte behind kernel and bss */
};

/* Load addresses from the header: a flat image, or an ELF file whose header overrides. */
static int load_by_addresses(const struct boot_request *req, u64 at, struct image *img,
                             struct err *err) {
    const struct blob *k = &req->kernel;
    u64 header = blob_u32(k, at + 12), load = blob_u32(k, at + 16), end = blob_u32(k, at + 20);
    u64 bss_end = blob_u32(k, at + 24);
    if (!blob_has(k, at, 32) || load > header || header - load > at) {
        return ERR_SET(err, ERR_FORMAT, "%s: the Multiboot header's addresses are damaged",
                       k->name);
    }
    u64 offset = at - (header - load);
    u64 size = end ? end - load : k->size - offset;
    if ((end && end < load) || !blob_has(k, offset, size)) {
        return ERR_SET(err, ERR_FORMAT,
                       "%s: this Multiboot image is truncated: it has %llu bytes, its header asks "
                       "for %llu",
                       k->name, (unsigned long long)k->size, (unsigned long long)(offset + size));
    }
    u64 top = MAX(load + size, bss_end);
    if (load < LAYOUT_HIGH || top <= load || !ram_ptr(req->ram, load, top - load)) {
        return ERR_SET(err, ERR_RANGE,
                       "%s: the image wants 0x%llx..0x%llx, which is not free guest memory",
                       k->name, (unsigned long long)load, (unsigned long long)top);
    }
    *img = (struct image){.entry = blob_u32(k, at + 28), .end = top};
    return boot_copy(req, k->name, "the image", load, k->data + offset, size, err);
}

static int load_by_elf(const struct boot_request *req, struct image *img, struct err *err) {
    const struct blob *k = &req->kernel;
    struct elf_image elf;
    if (!elf_is(k)) {
        return ERR_SET(err, ERR_FORMAT,
                       "%s: this Multiboot image is neither ELF nor does its header say where to "
                       "load it",
                       k->name);
    }
    int rc = elf_open(k, &elf, err);
    rc = rc ? rc : elf_load(req, &elf, err);
    if (!rc) {
        *img = (struct image){.entry = elf_physical(&elf, elf.entry), .end = elf.high};
    }
    return rc;
}

static int load_image(const struct boot_request *req, struct image *img, struct err *err) {
    const struct blob *k = &req->kernel;
    u64 at = 0;
    if (!find_header(k, &at)) {
        return ERR_SET(err, ERR_FORMAT, "%s: has no Multiboot header", k->name);
    }
    u32 flags = blob_u32(k, at + 4);
    u32 unknown = flags & HEADER_MUST_UNDERSTAND &
                  ~(u32)(HEADER_FLAG_ALIGN | HEADER_FLAG_MEMORY | HEADER_FLAG_VIDEO);
    if (unknown) {
        return ERR_SET(err, ERR_UNSUPPORTED, "%s: requires Multiboot features 0x%x, not offered",
                       k->name, unknown);
    }
    int rc = flags & HEADER_FLAG_ADDRESSES ? load_by_addresses(req, at, img, err)
                                           : load_by_elf(req, img, err);
    if (!rc && (img->entry >= 4 * GIB || !ram_ptr(req->ram, img->entry, 1))) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: the entry point 0x%llx is outside the guest's memory",
                     k->name, (unsigned long long)img->entry);
    }
    return rc;
}

static int add_module(const struct boot_request *req, struct multiboot_info *info,
                      const struct blob *file, const char *cmdline, u64 *next, struct err *err) {
    char text[STRING_MAX];
    u64 at = ALIGN_UP(*next, PAGE_SIZE), index = info->mods_count;
    if (file->size > 4 * GIB || at + file->size > 4 * GIB) {
        return ERR_SET(err, ERR_RANGE, "%s: does not fit below 4 GiB", file->name);
    }
    struct multiboot_module m = {.start = (u32)at,
                                 .end = (u32)(at + file->size),
                                 .string = (u32)(MB_STRINGS + index * STRING_MAX)};
    memset(text, 0, sizeof(text));
    str_copy(text, sizeof(text), cmdline);
    int rc = boot_copy(req, file->name, "the module", at, file->data, file->size, err);
    rc = rc ? rc : boot_copy(req, file->name, "its line", m.string, text, sizeof(text), err);
    rc = rc ? rc
            : boot_copy(req, file->name, "its entry", MB_MODULES + index * sizeof(m), &m, sizeof(m),
                        err);
    info->mods_count++;
    *next = at + file->size;
    return rc;
}

static int add_modules(const struct boot_request *req, struct multiboot_info *info, u64 next,
                       struct err *err) {
    int rc = 0;
    if (req->initrd.data) {
        rc = add_module(req, info, &req->initrd, req->initrd.name, &next, err);
    }
    for (u32 i = 0; i < req->module_count && !rc; i++) {
        const struct boot_module *m = &req->modules[i];
        rc = add_module(req, info, &m->file, m->cmdline, &next, err);
    }
    return rc;
}

static int write_mmap(const struct boot_request *req, struct multiboot_info *info,
                      struct err *err) {
    struct multiboot_mmap map[E820_MAX] = {0};
    for (u32 i = 0; i < req->e820->count; i++) {
        const struct e820_entry *e = &req->e820->entry[i];
        map[i] = (struct multiboot_mmap){
            .size = sizeof(map[0]) - 4, .addr = e->addr, .len = e->size, .type = e->type};
    }
    info->mmap_addr = (u32)MB_MMAP;
    info->mmap_length = (u32)(req->e820->count * sizeof(map[0]));
    return boot_copy(req, req->kernel.name, "the memory map", MB_MMAP, map, info->mmap_length, err);
}

static int write_info(const struct boot_request *req, struct multiboot_info *info,
                      struct err *err) {
    static const char name[] = "Sosia";
    u64 low_end = e820_low_end(req->e820);
    info->flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME;
    info->mem_lower = (u32)(LAYOUT_EBDA / 1024);
    info->mem_upper = low_end > LAYOUT_HIGH ? (u32)((low_end - LAYOUT_HIGH) / 1024) : 0;
    info->cmdline = (u32)LAYOUT_CMDLINE;
    info->mods_addr = (u32)MB_MODULES;
    info->boot_loader_name = (u32)MB_NAME;
    int rc =
        boot_copy(req, req->kernel.name, "the loader's name", MB_NAME, name, sizeof(name), err);
    return rc ? rc
              : boot_copy(req, req->kernel.name, "the information", MB_INFO, info, sizeof(*info),
                          err);
}

int multiboot_load(const struct boot_request *req, struct cpu_state *state, struct err *err) {
    struct multiboot_info info = {0};
    struct image img = {0};
    int rc = load_image(req, &img, err);
    rc = rc ? rc : add_modules(req, &info, MAX(img.end, LAYOUT_HIGH), err);
    rc = rc ? rc : boot_copy_cmdline(req, req->kernel.name, LAYOUT_CMDLINE_MAX, err);
    rc = rc ? rc : write_mmap(req, &info, err);
    rc = rc ? rc : write_info(req, &info, err);
    if (rc) {
        return rc;
    }
    rc = entry_flat32(state, req->ram, img.entry);
    state->gpr[GPR_RAX] = LOADER_MAGIC;
    state->gpr[GPR_RBX] = MB_INFO;
    return rc;
}
