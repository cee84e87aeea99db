/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory for integer handlers: the fast path inline, everything else in mem.c.
 *
 * Accesses of up to 8 bytes are one host instruction each, so that they are as atomic for other
 * vCPUs as on the real processor.
 */
#ifndef ENGINES_SOFT_MEM_H
#define ENGINES_SOFT_MEM_H

#include "engines/soft/soft.h"
#include "engines/soft/tlb.h"

/* Guest RAM races are the guest's business, not the thread sanitizer's. */
#define GUEST_RAM __attribute__((no_sanitize_thread))

struct ram_u8 {
    u8 v;
} PACKED __attribute__((may_alias));
struct ram_u16 {
    u16 v;
} PACKED __attribute__((may_alias));
struct ram_u32 {
    u32 v;
} PACKED __attribute__((may_alias));
struct ram_u64 {
    u64 v;
} PACKED __attribute__((may_alias));

/* The T at host address p, at any alignment. */
#define RAM_AT(T, p) (((volatile struct ram_##T *)(void *)(p))->v)

/* Where an access goes: in one piece, or in two when it crosses a page. */
struct mem_at {
    u8 *host; /* NULL: registers */
    u64 gpa;
    u32 size;
    bool slow; /* written through a slow entry: look for code afterwards */
    bool rom;
    struct tlb_entry *entry;
};
struct mem_span {
    u32 count;
    struct mem_at at[2];
};

/* --- slow paths (mem.c): ordinary data accesses of the current uop ------------------------------
 */

u64 soft_load_slow(struct soft_vcpu *c, u64 linear, u32 size);
void soft_store_slow(struct soft_vcpu *c, u64 linear, u32 size, u64 value);
/* Read-modify-write without LOCK: the load raises all faults that the store could. */
u64 soft_rmw_load(struct soft_vcpu *c, u64 linear, u32 size);

/* LOCK: p is where the atomic instruction is to act: guest RAM, or a copy while all other vCPUs
 * stand still. */
struct lock_op {
    void *p;
    bool copy;
    struct mem_span span;
    u8 bytes[16] ALIGNED(16);
};
void soft_lock_begin(struct soft_vcpu *c, struct lock_op *lock, u64 linear, u32 size);
void soft_lock_end(struct soft_vcpu *c, struct lock_op *lock);

/* --- addresses ---------------------------------------------------------------------------------
 */

static inline u64 field64(const struct soft_vcpu *c, u16 offset) {
    return *(const u64 *)(const void *)((const u8 *)c + offset);
}

/* Linear address of an operand prepared by the binder: flat, or computed by uop_linear. */
static inline u64 uop_addr(const struct soft_vcpu *c, const struct uop *u) {
    u64 a = field64(c, u->base_off) + (field64(c, u->index_off) << u->scale_shift) +
            (u64)(s64)u->disp + field64(c, u->seg_off);
    return a & c->addr_mask;
}

/* --- fast paths --------------------------------------------------------------------------------
 */

#define TAG_OF(linear, size) (((linear) + (size)-1) & ~PAGE_MASK)

#define MEM_ACCESSORS(T)                                                                           \
    GUEST_RAM static inline T mem_load_##T(struct soft_vcpu *c, u64 linear) {                      \
        const struct tlb_entry *e = tlb_slot(c->dtlb, linear);                                     \
        if (LIKELY(e->read == TAG_OF(linear, sizeof(T)))) {                                        \
            return RAM_AT(T, linear + e->addend);                                                  \
        }                                                                                          \
        return (T)soft_load_slow(c, linear, sizeof(T));                                            \
    }                                                                                              \
    GUEST_RAM static inline void mem_store_##T(struct soft_vcpu *c, u64 linear, T value) {         \
        const struct tlb_entry *e = tlb_slot(c->dtlb, linear);                                     \
        if (LIKELY(e->write == TAG_OF(linear, sizeof(T)))) {                                       \
            RAM_AT(T, linear + e->addend) = value;                                                 \
        } else {                                                                                   \
            soft_store_slow(c, linear, sizeof(T), value);                                          \
        }                                                                                          \
    }

MEM_ACCESSORS(u8)
MEM_ACCESSORS(u16)
MEM_ACCESSORS(u32)
MEM_ACCESSORS(u64)

/* Host address for a read-modify-write, NULL: use soft_rmw_load and soft_store_slow. */
static inline void *mem_rmw(struct soft_vcpu *c, u64 linear, u32 size) {
    const struct tlb_entry *e = tlb_slot(c->dtlb, linear);
    return LIKELY(e->write == TAG_OF(linear, size)) ? (void *)(uintptr_t)(linear + e->addend)
                                                    : NULL;
}

/* The same for a LOCKed instruction. One that crosses a cache line would be a split lock on the
 * host, which may forbid it: NULL, and soft_lock_begin makes the other vCPUs stand still. */
static inline void *mem_lock(struct soft_vcpu *c, u64 linear, u32 size) {
    return LIKELY((linear & 63) + size <= 64) ? mem_rmw(c, linear, size) : NULL;
}

#endif
