/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's page walk: linear to guest-physical address through 2-level (with 4 MiB pages), PAE
 * and 4-level page tables, with the permissions, reserved bits, error codes and accessed/dirty
 * updates of the processor. Used by the software engine for each miss of its translation caches
 * and by the debugger to look at memory.
 *
 * Intel SDM volume 3, chapter 5. Not here: 5-level paging, PKS, shadow-stack pages (no CPU policy
 * offers them); PDPTEs are read with each walk instead of being loaded by MOV CR3.
 */
#ifndef CORE_MEM_WALK_H
#define CORE_MEM_WALK_H

#include "core/base/err.h"
#include "core/base/types.h"
#include "core/mem/ram.h"

enum walk_access { WALK_READ, WALK_WRITE, WALK_EXEC };

struct walk_env {
    u64 cr0, cr3, cr4, efer;
    u32 pkru;
    u8 phys_bits; /* MAXPHYADDR, 32..52 */
};

#define WALK_USER BIT(0) /* a user-mode access: CPL 3 and not implicit */
#define WALK_SMAP BIT(1) /* supervisor access with SMAP in force: user pages are out of reach */
#define WALK_PEEK BIT(2) /* permissions are not checked and no bit is changed */

struct walk_result {
    u64 gpa;       /* of the byte at linear */
    u32 error;     /* page-fault error code when the walk failed */
    u8 page_shift; /* 12, 21, 22 or 30 */
    bool global;
    /* What the same kind of accessor may do now without another walk: a clean page is not
     * writable, its first write has to set D. */
    bool read, write, exec;
};

/* 0, or -ERR_FAULT with out->error. Page tables outside RAM read as if a reserved bit was set. */
int walk_linear(struct ram *ram, const struct walk_env *env, u64 linear, enum walk_access access,
                u32 flags, struct walk_result *out);

/* For debuggers: the guest-physical address, or -ERR_FAULT. Changes nothing. */
int walk_peek(struct ram *ram, const struct walk_env *env, u64 linear, u64 *gpa);

#endif
