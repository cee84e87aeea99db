/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cached translations of one vCPU: for each of a few address spaces (PCIDs) and each privilege
 * (enum mmu_index) a direct-mapped table by linear page.
 *
 *   entry:  read tag | write tag | exec tag | host address - linear address
 *
 * A tag is the linear page address when the access may go straight to host memory, so a hit is one
 * comparison and one addition. TLB_SLOW in a tag: the translation is valid but the access has to
 * take the slow path (registers behind it, code on the page, a watchpoint, ROM). TLB_NONE: not
 * translated for this kind of access.
 */
#ifndef ENGINES_SOFT_TLB_H
#define ENGINES_SOFT_TLB_H

#include "engines/soft/soft.h"

enum { TLB_BITS = 10, TLB_SIZE = 1 << TLB_BITS, TLB_CONTEXTS = 8 };
enum { TLB_FILTER_BITS = 8192, TLB_LARGE_BITS = 512 };

#define TLB_SLOW BIT(0)
#define TLB_NONE UINT64_MAX

struct tlb_entry {
    u64 read, write, exec;
    u64 addend;
};

_Static_assert(sizeof(struct tlb_entry) == 32, "tlb_slot shifts by 5");

/* Low bits of tlb_set.phys */
#define PHYS_GLOBAL BIT(0)
#define PHYS_MMIO   BIT(1) /* not RAM; addend means nothing */
#define PHYS_ROM    BIT(2) /* writes vanish */
#define PHYS_2M     BIT(3) /* part of a 2 MiB page, */
#define PHYS_4M     BIT(4) /* a 4 MiB page, */
#define PHYS_1G     BIT(5) /* a 1 GiB page */
#define PHYS_LARGE  (PHYS_2M | PHYS_4M | PHYS_1G)

struct tlb_set {
    struct tlb_entry e[TLB_SIZE];
    u64 phys[TLB_SIZE]; /* guest-physical page | PHYS_* */
    u64 used[TLB_SIZE / 64];
};

struct tlb_context {
    bool ready; /* its entries are TLB_NONE or filled; else zeros that nobody looks at */
    bool valid;
    u16 pcid;
    u64 stamp;      /* when it was last current */
    u64 generation; /* part of jump_key: changes when a translation for fetches is forgotten */
    u64 huge;       /* 1 GiB regions with such a page in the table, hashed */
    u64 fetched[TLB_FILTER_BITS / 64]; /* pages fetched from since generation, hashed */
    u64 large[TLB_LARGE_BITS / 64]; /* 2 MiB regions with such a page, or part of a 4 MiB page, in
                                       the table, hashed: tlb_large_hash */
    struct tlb_set set[MMU_COUNT];
};

struct soft_tlb {
    struct tlb_context *now;
    struct soft_look *look; /* look.h; NULL without the translator */
    u64 next_generation, next_stamp;
    u32 forgot; /* counts times that something was forgotten */
    /* Fetches through global pages: changes when one of their translations may be forgotten, and
     * those since then, hashed. loose: pages that are not global were taken for such; then it
     * changes with all address spaces (tr_page.c). */
    u64 global_generation;
    u64 global_fetched[TLB_FILTER_BITS / 64];
    bool loose;
    struct tlb_entry empty[TLB_SIZE]; /* dtlb when all accesses are slow; never filled */
    struct tlb_context context[TLB_CONTEXTS];
};

void soft_tlb_create(struct soft_vcpu *c, struct soft_tlb *tlb); /* tlb: zeros */

static inline u32 tlb_index(u64 linear) {
    return (u32)(linear >> PAGE_SHIFT) & (TLB_SIZE - 1);
}

/* Filters: each half of the address space has half of the bits, since kernels use large pages for
 * themselves, and invalidate small ones of programs. */
static inline u32 tlb_filter_bit(u64 hash, u64 linear, u32 bits) {
    return (u32)(hash & (bits / 2 - 1)) | (linear >> 63 ? bits / 2 : 0);
}
static inline u32 tlb_large_hash(u64 linear) {
    u64 region = linear >> 21;
    return tlb_filter_bit(region ^ region >> 9 ^ region >> 18, linear, TLB_LARGE_BITS);
}
/* Of PHYS_*: log2 of the large page's size, 0: it is none. */
static inline u32 tlb_large_shift(u64 phys) {
    return phys & PHYS_2M ? 21 : phys & PHYS_4M ? 22 : phys & PHYS_1G ? 30 : 0;
}
/* Might the large page around `page` have linear's bit in the filter? */
static inline bool tlb_large_like(u64 page, u32 shift, u64 linear) {
    u32 h = tlb_large_hash(linear);
    return tlb_large_hash(page) == h || (shift == 22 && tlb_large_hash(page ^ BIT(21)) == h);
}

/* The entry that may hold linear. */
static inline struct tlb_entry *tlb_slot(struct tlb_entry *table, u64 linear) {
    u64 at = (linear >> (PAGE_SHIFT - 5)) & ((u64)(TLB_SIZE - 1) << 5);
    return (struct tlb_entry *)(void *)((u8 *)table + at);
}

/*
 * The translation of linear for access, from the table or by a page walk; raises #PF. The entry
 * stays valid until the vCPU leaves guest mode or fills another entry of the same index.
 * linear must be canonical.
 */
struct tlb_entry *soft_tlb_get(struct soft_vcpu *c, u64 linear, enum access access,
                               enum mmu_index mmu, u64 *phys);

/* Forgets write translations: of one guest-physical page, or of all. Own thread only. */
void soft_tlb_drop_writes(struct soft_vcpu *c, u64 gpa_page);
void soft_tlb_drop_all_writes(struct soft_vcpu *c);

#endif
