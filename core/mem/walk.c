/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's page walk; see walk.h.
 *
 *   linear, 4-level:  | sign | PML4 9 | PDPT 9 | PD 9 | PT 9 | offset 12 |     8-byte entries
 *   linear, PAE:                      | PDPT 2 | PD 9 | PT 9 | offset 12 |     8-byte entries
 *   linear, 2-level:                     | PD 10 | PT 10 | offset 12 |         4-byte entries
 *
 * Entries are read first and checked; only a walk that succeeds sets accessed and dirty bits, each
 * by compare-and-exchange against the value that was checked, and starts over when it changed.
 * Lock rule: none; guest RAM is shared with running processors.
 */
#include "core/mem/walk.h"

#include "core/cpu/state.h"

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

#define PTE_PKEY_SHIFT 59

enum { MAX_LEVELS = 4, MAX_TRIES = 64 };

struct walk {
    struct ram *ram;
    const struct walk_env *env;
    u64 linear;
    u32 flags;
    enum walk_access access;
    u32 entry_size; /* 4 or 8 */
    u32 depth;      /* entries read so far */
    u64 entry[MAX_LEVELS];
    u64 at[MAX_LEVELS]; /* guest-physical address of each */
    u64 rights;         /* PTE_U and PTE_W that all levels grant */
    bool nx;
    u64 leaf;
};

static bool env_long(const struct walk_env *env) {
    return env->efer & EFER_LMA;
}

static u64 bits_between(u32 low, u32 high) { /* [low, high) */
    return high <= low ? 0 : (high == 64 ? 0 : BIT(high)) - BIT(low);
}

/* --- entries in memory -------------------------------------------------------------------------
 */

static bool entry_read(struct walk *w, u64 gpa, u64 *value) {
    void *p = ram_ptr(w->ram, gpa, w->entry_size);
    if (!p) {
        return false;
    }
    *value = w->entry_size == 8 ? __atomic_load_n((u64 *)p, __ATOMIC_RELAXED)
                                : __atomic_load_n((u32 *)p, __ATOMIC_RELAXED);
    return true;
}

/* False when the entry is no longer what the walk saw. */
static bool entry_set_bits(struct walk *w, u32 level, u64 bits) {
    u64 old = w->entry[level], new = old | bits;
    const struct ram_slot *slot = ram_find(w->ram, w->at[level]);
    if (old == new || !slot || (slot->flags & RAM_READONLY)) {
        return true;
    }
    void *p = ram_ptr(w->ram, w->at[level], w->entry_size);
    bool done;
    if (w->entry_size == 8) {
        done = __atomic_compare_exchange_n((u64 *)p, &old, new, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    } else {
        u32 old32 = (u32)old;
        done = __atomic_compare_exchange_n((u32 *)p, &old32, (u32) new, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    }
    if (done) {
        ram_written(w->ram, w->at[level], w->entry_size);
    }
    return done;
}

static bool update_accessed_dirty(struct walk *w, u32 first_level) {
    for (u32 i = first_level; i < w->depth; i++) {
        u64 bits = PTE_A;
        if (i == w->depth - 1 && w->access == WALK_WRITE) {
            bits |= PTE_D;
        }
        if (!entry_set_bits(w, i, bits)) {
            return false;
        }
    }
    return true;
}

/* --- permissions -------------------------------------------------------------------------------
 */

static u32 error_base(const struct walk *w) {
    const struct walk_env *env = w->env;
    bool tells_fetch = (env->cr4 & CR4_SMEP) || ((env->cr4 & CR4_PAE) && (env->efer & EFER_NXE));
    u32 error = w->flags & WALK_USER ? (u32)PF_U : 0;
    if (w->access == WALK_WRITE) {
        error |= (u32)PF_W;
    }
    if (w->access == WALK_EXEC && tells_fetch) {
        error |= (u32)PF_I;
    }
    return error;
}

/* Protection keys: which of read and write they take away. Data accesses to user pages only. */
static void pkey_rights(const struct walk *w, bool *no_read, bool *no_write) {
    const struct walk_env *env = w->env;
    *no_read = *no_write = false;
    if (!(env->cr4 & CR4_PKE) || !env_long(env) || !(w->rights & PTE_U)) {
        return;
    }
    u32 key = (u32)(w->leaf >> PTE_PKEY_SHIFT) & 15;
    u32 bits = env->pkru >> (key * 2) & 3;
    *no_read = bits & 1;
    *no_write = (bits & 1) || ((bits & 2) && ((w->flags & WALK_USER) || (env->cr0 & CR0_WP)));
}

/* Fills out's rights and returns the error code bits of the access (0: allowed). */
static u32 check_rights(const struct walk *w, struct walk_result *out) {
    const struct walk_env *env = w->env;
    bool user_page = w->rights & PTE_U, user = w->flags & WALK_USER;
    bool no_read, no_write;
    pkey_rights(w, &no_read, &no_write);
    bool reach = user ? user_page : !(user_page && (w->flags & WALK_SMAP));
    bool writable = (w->rights & PTE_W) || (!user && !(env->cr0 & CR0_WP));
    bool exec = user ? user_page : !(user_page && (env->cr4 & CR4_SMEP));
    bool may_write = reach && writable && !no_write;
    out->read = reach && !no_read;
    out->write = may_write && (w->access == WALK_WRITE || (w->leaf & PTE_D));
    out->exec = exec && !w->nx;
    bool ok = w->access == WALK_READ ? out->read : w->access == WALK_WRITE ? may_write : out->exec;
    if (ok) {
        return 0;
    }
    /* told also where other rights are missing (4.7, PK flag) */
    bool by_key = w->access == WALK_READ ? no_read : w->access == WALK_WRITE && no_write;
    return (u32)(PF_P | (by_key ? PF_PK : 0));
}

/* --- the formats -------------------------------------------------------------------------------
 */

/* Reserved bits of an 8-byte entry. level: 3 PML4 ... 0 PT. */
static u64 reserved_bits(const struct walk_env *env, u32 level, u64 entry) {
    u64 mask = bits_between(env->phys_bits, 52);
    if (!(env->efer & EFER_NXE)) {
        mask |= PTE_NX;
    }
    if (!env_long(env)) {
        mask |= bits_between(52, 63);
    }
    if (level == 3) {
        mask |= PTE_PS;
    } else if ((level == 2 || level == 1) && (entry & PTE_PS)) {
        mask |= bits_between(13, level == 2 ? 30 : 21);
    }
    return mask;
}

static u64 reserved_pdpte(const struct walk_env *env) {
    return BIT(1) | BIT(2) | bits_between(5, 9) | ~(BIT(env->phys_bits) - 1);
}

/* Reads and checks one entry; returns error code bits, 0 when it can be used. */
static u32 take_entry(struct walk *w, u64 gpa, u64 *entry) {
    if (!entry_read(w, gpa, entry)) {
        return (u32)(PF_P | PF_RSVD);
    }
    if (!(*entry & PTE_P)) {
        return 0x80000000u; /* a fault whose error code has P clear */
    }
    w->at[w->depth] = gpa;
    w->entry[w->depth++] = *entry;
    return 0;
}

static u32 walk_8byte(struct walk *w, struct walk_result *out) {
    const struct walk_env *env = w->env;
    bool lm = env_long(env);
    u64 frame = bits_between(12, 52), entry;
    u64 table = lm ? env->cr3 & frame : env->cr3 & 0xffffffe0u;
    for (u32 level = lm ? 3 : 2;; level--) {
        u32 shift = 12 + 9 * level;
        u64 index = w->linear >> shift & (!lm && level == 2 ? 3 : 511);
        u32 error = take_entry(w, table + index * 8, &entry);
        if (error) {
            return error;
        }
        bool pdpte = !lm && level == 2;
        if (entry & (pdpte ? reserved_pdpte(env) : reserved_bits(env, level, entry))) {
            return (u32)(PF_P | PF_RSVD);
        }
        if (!pdpte) {
            w->rights &= entry;
            w->nx |= (entry & PTE_NX) != 0;
        }
        if (level == 0 || (!pdpte && (entry & PTE_PS))) {
            u64 page = BIT(shift);
            out->gpa = (entry & frame & ~(page - 1)) | (w->linear & (page - 1));
            out->page_shift = (u8)shift;
            w->leaf = entry;
            return 0;
        }
        table = entry & frame;
    }
}

static u32 walk_4byte(struct walk *w, struct walk_result *out) {
    const struct walk_env *env = w->env;
    u64 entry;
    u64 table = env->cr3 & 0xfffff000u;
    u32 error = take_entry(w, table + (w->linear >> 22 & 1023) * 4, &entry);
    if (error) {
        return error;
    }
    w->rights &= entry;
    if ((env->cr4 & CR4_PSE) && (entry & PTE_PS)) {
        u32 high = env->phys_bits > 40 ? 40 : env->phys_bits; /* PSE-36: bits 39:32 in 20:13 */
        if (entry & (BIT(21) | bits_between(13 + (high - 32), 21))) {
            return (u32)(PF_P | PF_RSVD);
        }
        out->gpa = (entry & 0xffc00000u) | (entry >> 13 & 0xff) << 32 | (w->linear & 0x3fffff);
        out->page_shift = 22;
        w->leaf = entry;
        return 0;
    }
    error = take_entry(w, (entry & 0xfffff000u) + (w->linear >> 12 & 1023) * 4, &entry);
    if (error) {
        return error;
    }
    w->rights &= entry;
    out->gpa = (entry & 0xfffff000u) | (w->linear & 0xfff);
    out->page_shift = 12;
    w->leaf = entry;
    return 0;
}

/* --- entry points ------------------------------------------------------------------------------
 */

static int walk_fail(const struct walk *w, u32 error, struct walk_result *out) {
    out->error = error_base(w) | (error & 0x7fffffffu);
    return -ERR_FAULT;
}

/* 1: page tables changed meanwhile, try again. */
static int walk_once(struct walk *w, struct walk_result *out) {
    const struct walk_env *env = w->env;
    bool wide = env->cr4 & CR4_PAE;
    w->depth = 0;
    w->rights = PTE_U | PTE_W;
    w->nx = false;
    w->entry_size = wide ? 8 : 4;
    u32 error = wide ? walk_8byte(w, out) : walk_4byte(w, out);
    if (error) {
        return walk_fail(w, error, out);
    }
    out->global = (env->cr4 & CR4_PGE) && (w->leaf & PTE_G);
    if (w->flags & WALK_PEEK) {
        return 0;
    }
    error = check_rights(w, out);
    if (error) {
        return walk_fail(w, error, out);
    }
    bool has_pdpte = wide && !env_long(env);
    return update_accessed_dirty(w, has_pdpte ? 1 : 0) ? 0 : 1;
}

int walk_linear(struct ram *ram, const struct walk_env *env, u64 linear, enum walk_access access,
                u32 flags, struct walk_result *out) {
    *out =
        (struct walk_result){.page_shift = PAGE_SHIFT, .read = true, .write = true, .exec = true};
    if (!(env->cr0 & CR0_PG)) {
        out->gpa = (u32)linear;
        return 0;
    }
    struct walk w = {.ram = ram, .env = env, .linear = linear, .flags = flags, .access = access};
    int r = 1;
    for (u32 tries = 0; r > 0 && tries < MAX_TRIES; tries++) {
        r = walk_once(&w, out);
    }
    return r < 0 ? r : 0;
}

int walk_peek(struct ram *ram, const struct walk_env *env, u64 linear, u64 *gpa) {
    struct walk_result out;
    int r = walk_linear(ram, env, linear, WALK_READ, WALK_PEEK, &out);
    *gpa = out.gpa;
    return r;
}
