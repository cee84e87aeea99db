/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables that translated code looks into: one per address space (PCID) and privilege, by bits
 * 12 to 31 of the linear address, so that the index is one shift of a 32-bit register.
 *
 *   read tags | write tags | host address - linear address      2^20 slots of 8 bytes each
 *
 * A tag is the linear page address with all bits of the offset set when the access may go straight
 * to host memory, else 0, which no address compares equal to. So untouched tables say "none", and
 * they are reserved address space of which little is ever touched: a page of each array covers 2
 * MiB of guest addresses. Looks that keep flags (tr_mem.c) ask whether the last byte lies in the
 * 4096 bytes that end with the tag; around address 0 another number than 0 has to say "none".
 *
 * Entries are copies of what tlb.h holds. They are forgotten one by one from a list of fills, never
 * by going over a table. When the list is full or too much of the tables is touched they are given
 * back, but for what is global, the kernel: programs come and go, and so do the places they touch.
 *
 * Lock rule: everything here belongs to the vCPU's thread.
 */
#ifndef ENGINES_SOFT_LOOK_H
#define ENGINES_SOFT_LOOK_H

#include "engines/soft/tlb.h"

enum {
    LOOK_SLOTS = 1 << 20,
    LOOK_SETS = TLB_CONTEXTS * MMU_COUNT,
    LOOK_FILLS = 1 << 15,
    LOOK_HEADS = 1 << 12,
    LOOK_REGION_BITS = 9, /* slots in a host page */
    LOOK_REGIONS = LOOK_SLOTS >> LOOK_REGION_BITS,
    /* Regions of all sets together, 12 KiB each: of one vCPU; of all, unless they are very many. */
    LOOK_TOUCHED_MAX = 600,
    LOOK_TOUCHED_ALL = 2400,
    LOOK_TOUCHED_MIN = 100,
    /* c->look points this far into a set: its low bits are the count of a SHRX by the page size. */
    LOOK_BIAS = PAGE_SHIFT,
};

struct look_set {
    u64 read[LOOK_SLOTS], write[LOOK_SLOTS], addend[LOOK_SLOTS];
};

/* The tag of a slot without a translation. Operands that end in the 4096 bytes up to address 0 may
 * begin in the last two slots and in the first. */
static inline u64 look_none(u32 slot) {
    return slot == 0 || slot >= LOOK_SLOTS - 2 ? 1u << 31 : 0;
}

struct look_fill {
    u64 linear;                    /* page | PHYS_GLOBAL, PHYS_LARGE */
    u64 gpa;                       /* page */
    u32 next_in_set, next_in_page; /* index + 1 */
    u32 set;
    u32 spare;
};

struct soft_look {
    struct look_set *set[LOOK_SETS];          /* NULL: nothing was filled yet */
    struct look_set *empty;                   /* stands for those */
    u32 set_head[LOOK_SETS];                  /* fills, index + 1 */
    u32 page_head[LOOK_HEADS];                /* the same by guest-physical page, hashed */
    u64 region[LOOK_SETS][LOOK_REGIONS / 64]; /* touched */
    u64 keep[LOOK_SETS][LOOK_REGIONS / 64];   /* those with global pages, while giving back */
    u32 touched, touched_max, fills;
    u64 resets;
    struct look_fill fill[LOOK_FILLS];
};

/* -ERR_NOMEM; c->tlb exists. */
int soft_look_create(struct soft_vcpu *c);
void soft_look_destroy(struct soft_vcpu *c);
/* Empties all tables and gives their memory back. */
void soft_look_trim(struct soft_vcpu *c);

/* The table for accesses of now -> c->look. */
void soft_look_select(struct soft_vcpu *c);

/* Copies the translation of linear's page for c->mmu; false when e does not allow access by the
 * fast way, or there is no memory. */
bool soft_look_fill(struct soft_vcpu *c, u64 linear, const struct tlb_entry *e, u64 phys,
                    enum access access);

/* context: index of the address space. look may be NULL. drop_page: when `large`, do pieces of
 * other large pages remain that have the same tlb_large_hash? */
void soft_look_clear(struct soft_look *look, u32 context, bool keep_global);
bool soft_look_drop_page(struct soft_look *look, u32 context, u64 linear, bool large);
void soft_look_drop_writes(struct soft_look *look, u64 gpa_page);
void soft_look_drop_all_writes(struct soft_look *look);

#endif
