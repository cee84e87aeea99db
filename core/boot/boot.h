/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a kernel without firmware: finds out what the file is, loads it and its companions into
 * guest RAM, and fills the registers of the first processor. Files are hostile: every length is
 * checked, and what is wrong is said in one line that names the file.
 */
#ifndef CORE_BOOT_BOOT_H
#define CORE_BOOT_BOOT_H

#include "core/base/err.h"
#include "core/boot/blob.h"
#include "core/boot/e820.h"
#include "core/cpu/state.h"
#include "core/if/trace.h"
#include "core/mem/ram.h"

enum { BOOT_MAX_MODULES = 33, BOOT_SEED_SIZE = 32 };

struct boot_module {
    struct blob file;
    const char *cmdline; /* never NULL */
};

struct boot_request {
    struct ram *ram; /* zero-filled */
    const struct e820_map *e820;
    struct blob kernel;
    struct blob initrd; /* data NULL: none */
    const struct boot_module *modules;
    u32 module_count;    /* at most BOOT_MAX_MODULES - 1 */
    const char *cmdline; /* never NULL */
    u64 rsdp;            /* address of the ACPI RSDP; 0: none */
    bool has_seed;       /* seed goes to Linux as setup_data type 9 */
    u8 seed[BOOT_SEED_SIZE];
    const struct trace *trace; /* may be NULL */
};

enum boot_kind { BOOT_BZIMAGE, BOOT_PVH, BOOT_MULTIBOOT };

/* What kind of kernel it is; an error says why it is none. */
int boot_detect(const struct blob *kernel, enum boot_kind *kind, struct err *err);

/* state must hold the reset state; the loader changes what the kernel's entry needs. */
int boot_load(const struct boot_request *req, struct cpu_state *state, struct err *err);

/* --- for the loaders ---------------------------------------------------------------------------
 */

/* Copies to guest RAM at gpa or says that `what` of file does not fit. */
int boot_copy(const struct boot_request *req, const char *file, const char *what, u64 gpa,
              const void *data, u64 size, struct err *err);

/* The command line with its NUL at LAYOUT_CMDLINE; max: bytes without the NUL that the kernel
 * takes. prefix (may be NULL) and a space go in front of it. */
int boot_copy_cmdline(const struct boot_request *req, const char *prefix, u64 max, struct err *err);

/*
 * The highest page-aligned place for size bytes in RAM within [floor, ceiling), below 4 GiB.
 * Returns 0 when there is none.
 */
u64 boot_place_high(const struct boot_request *req, u64 size, u64 floor, u64 ceiling);

/* Unaligned little-endian reads that give 0 outside the file. */
u16 blob_u16(const struct blob *b, u64 offset);
u32 blob_u32(const struct blob *b, u64 offset);
u64 blob_u64(const struct blob *b, u64 offset);
/* [offset, offset+size) lies inside the file. */
bool blob_has(const struct blob *b, u64 offset, u64 size);

#endif
