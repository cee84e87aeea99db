/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PVH boot ABI: the kernel is entered in flat 32-bit mode with EBX at struct hvm_start_info
 * (Xen: xen/include/public/arch-x86/hvm/start_info.h, version 1). The initrd is the first module.
 */
#include "core/boot/elf.h"

#include "core/base/fmt.h"
#include "core/boot/entry.h"
#include "core/boot/layout.h"

struct start_info {
    u32 magic, version, flags, module_count;
    u64 modules, cmdline, rsdp, memmap;
    u32 memmap_count, reserved;
} PACKED;

struct pvh_module {
    u64 paddr, size, cmdline, reserved;
} PACKED;

struct pvh_memmap {
    u64 addr, size;
    u32 type, reserved;
} PACKED;

_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info, version 1");
_Static_assert(sizeof(struct pvh_module) == 32, "hvm_modlist_entry");
_Static_assert(sizeof(struct pvh_memmap) == 24, "hvm_memmap_table_entry");

enum {
    START_MAGIC = 0x336ec578,
    STRING_MAX = 256, /* bytes per module command line with its NUL */
};

#define PVH_MODULES (LAYOUT_PVH + 0x100)
#define PVH_MEMMAP  (PVH_MODULES + sizeof(struct pvh_module) * BOOT_MAX_MODULES)
#define PVH_STRINGS LAYOUT_MULTIBOOT

_Static_assert(PVH_MEMMAP + sizeof(struct pvh_memmap) * E820_MAX <= LAYOUT_ZERO_PAGE,
               "start info fits its page");
_Static_assert(PVH_STRINGS + (u64)STRING_MAX * BOOT_MAX_MODULES <= LAYOUT_FREE,
               "module command lines fit");

static int add_module(const struct boot_request *req, struct start_info *info,
                      const struct blob *file, const char *cmdline, u64 floor, u64 *ceiling,
                      struct err *err) {
    char text[STRING_MAX];
    struct pvh_module m = {.size = file->size,
                           .cmdline = PVH_STRINGS + (u64)info->module_count * STRING_MAX};
    m.paddr = boot_place_high(req, file->size, floor, *ceiling);
    if (!m.paddr) {
        return ERR_SET(err, ERR_RANGE,
                       "%s: %llu KiB do not fit into the guest's memory beside the kernel",
                       file->name, (unsigned long long)(file->size + 1023) / 1024);
    }
    *ceiling = m.paddr;
    memset(text, 0, sizeof(text));
    str_copy(text, sizeof(text), cmdline);
    u64 at = PVH_MODULES + (u64)info->module_count * sizeof(m);
    int rc = boot_copy(req, file->name, "the module", m.paddr, file->data, file->size, err);
    rc = rc ? rc : boot_copy(req, file->name, "its line", m.cmdline, text, sizeof(text), err);
    rc = rc ? rc : boot_copy(req, file->name, "its entry", at, &m, sizeof(m), err);
    info->module_count++;
    return rc;
}

static int add_modules(const struct boot_request *req, struct start_info *info, u64 floor,
                       struct err *err) {
    u64 ceiling = 4 * GIB;
    int rc = 0;
    if (req->initrd.data) {
        rc = add_module(req, info, &req->initrd, "", floor, &ceiling, err);
    }
    for (u32 i = 0; i < req->module_count && !rc; i++) {
        rc = add_module(req, info, &req->modules[i].file, req->modules[i].cmdline, floor, &ceiling,
                        err);
    }
    return rc;
}

static int write_memmap(const struct boot_request *req, struct err *err) {
    struct pvh_memmap map[E820_MAX] = {0};
    for (u32 i = 0; i < req->e820->count; i++) {
        const struct e820_entry *e = &req->e820->entry[i];
        map[i] = (struct pvh_memmap){.addr = e->addr, .size = e->size, .type = e->type};
    }
    return boot_copy(req, req->kernel.name, "the memory map", PVH_MEMMAP, map, sizeof(map), err);
}

int pvh_load(const struct boot_request *req, struct cpu_state *state, struct err *err) {
    struct start_info info = {.magic = START_MAGIC,
                              .version = 1,
                              .modules = PVH_MODULES,
                              .cmdline = LAYOUT_CMDLINE,
                              .rsdp = req->rsdp,
                              .memmap = PVH_MEMMAP,
                              .memmap_count = req->e820->count};
    struct elf_image elf;
    u64 entry = 0;
    int rc = elf_open(&req->kernel, &elf, err);
    if (rc) {
        return rc;
    }
    if (!elf_pvh_entry(&elf, &entry) || entry >= 4 * GIB) {
        return ERR_SET(err, ERR_FORMAT, "%s: the PVH entry point 0x%llx is not below 4 GiB",
                       req->kernel.name, (unsigned long long)entry);
    }
    rc = elf_load(req, &elf, err);
    if (!rc && (entry < elf.low || entry >= elf.high)) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: the PVH entry point 0x%llx is outside what was loaded",
                     req->kernel.name, (unsigned long long)entry);
    }
    rc = rc ? rc : add_modules(req, &info, ALIGN_UP(elf.high, PAGE_SIZE), err);
    rc = rc ? rc : boot_copy_cmdline(req, NULL, LAYOUT_CMDLINE_MAX, err);
    rc = rc ? rc : write_memmap(req, err);
    rc = rc ? rc
            : boot_copy(req, req->kernel.name, "the start info", LAYOUT_PVH, &info, sizeof(info),
                        err);
    if (rc) {
        return rc;
    }
    rc = entry_flat32(state, req->ram, entry);
    state->gpr[GPR_RBX] = LAYOUT_PVH;
    return rc;
}
