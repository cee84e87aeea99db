/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cached translations; see tlb.h. Filling by the page walk of core/mem/walk.h, INVLPG, INVPCID and
 * CR3 writes (Intel SDM volume 3, section 5.10).
 *
 * Large pages are cached in pieces of 4 KiB. Invalidating one linear address must forget all pieces
 * of its page, so each context remembers (hashed, by 4 MiB region) where large pages were used.
 * Block links and the jump cache depend on fetch translations through the context's generation.
 * Lock rule: everything here belongs to the vCPU's thread.
 */
#include "engines/soft/tlb.h"

#include "core/cpu/cpuid.h"
#include "core/mem/walk.h"
#include "engines/soft/engine.h"
#include "engines/soft/look.h"
#include "engines/soft/smc.h"
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"
#include "engines/soft/verify.h"

/* --- contexts ----------------------------------------------------------------------------------
 */

static void entry_clear(struct tlb_entry *e) {
    e->read = e->write = e->exec = TLB_NONE;
}

static void set_clear(struct tlb_set *set, bool keep_global) {
    for (u32 word = 0; word < ARRAY_LEN(set->used); word++) {
        u64 bits = set->used[word], kept = 0;
        while (bits) {
            u32 bit = (u32)__builtin_ctzll(bits);
            u32 i = word * 64 + bit;
            bits &= bits - 1;
            if (keep_global && (set->phys[i] & PHYS_GLOBAL)) {
                kept |= BIT(bit);
            } else {
                entry_clear(&set->e[i]);
            }
        }
        set->used[word] = kept;
    }
}

static void global_renew(struct soft_tlb *tlb) {
    tlb->global_generation++;
    tlb->loose = false;
    memset(tlb->global_fetched, 0, sizeof(tlb->global_fetched));
}

static void context_renew(struct soft_tlb *tlb, struct tlb_context *ctx) {
    if (tlb->loose) {
        global_renew(tlb);
    }
    ctx->generation = ++tlb->next_generation;
    memset(ctx->fetched, 0, sizeof(ctx->fetched));
}

static void context_clear(struct soft_tlb *tlb, struct tlb_context *ctx, bool keep_global) {
    for (u32 i = 0; i < MMU_COUNT; i++) {
        set_clear(&ctx->set[i], keep_global);
    }
    soft_look_clear(tlb->look, (u32)(ctx - tlb->context), keep_global);
    tlb->forgot++;
    if (!keep_global) { /* else large global pages may remain: keep the superset */
        memset(ctx->large, 0, sizeof(ctx->large));
        ctx->huge = 0;
    }
    context_renew(tlb, ctx);
}

static struct tlb_context *context_find(struct soft_tlb *tlb, u16 pcid) {
    for (u32 i = 0; i < TLB_CONTEXTS; i++) {
        if (tlb->context[i].valid && tlb->context[i].pcid == pcid) {
            return &tlb->context[i];
        }
    }
    return NULL;
}

static struct tlb_context *context_replace(struct soft_tlb *tlb, u16 pcid) {
    struct tlb_context *victim = &tlb->context[0];
    for (u32 i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *ctx = &tlb->context[i];
        if (!ctx->valid) {
            victim = ctx;
            break;
        }
        if (ctx->stamp < victim->stamp) {
            victim = ctx;
        }
    }
    if (!victim->ready) { /* not before: a machine that does not use them does not pay for them */
        for (u32 m = 0; m < MMU_COUNT; m++) {
            memset(victim->set[m].e, 0xff, sizeof(victim->set[m].e));
        }
        victim->ready = true;
    }
    context_clear(tlb, victim, false);
    victim->valid = true;
    victim->pcid = pcid;
    return victim;
}

static void context_enter(struct soft_vcpu *c, struct tlb_context *ctx) {
    if (c->tlb->loose) {
        global_renew(c->tlb);
    }
    ctx->stamp = ++c->tlb->next_stamp;
    c->tlb->now = ctx;
    soft_derived_update(c);
}

void soft_tlb_create(struct soft_vcpu *c, struct soft_tlb *tlb) {
    memset(tlb->empty, 0xff, sizeof(tlb->empty));
    c->tlb = tlb;
    tlb->now = context_replace(tlb, 0);
}

void soft_derived_update(struct soft_vcpu *c) {
    struct tlb_context *ctx = c->tlb->now;
    bool mode64 = c->mode == 64;
    c->align_check = c->mode_key & KEY_AC;
    c->cs_base = mode64 ? 0 : c->s.seg[SEG_CS].base;
    c->cs_limit = mode64 ? UINT64_MAX : c->s.seg[SEG_CS].limit;
    c->addr_mask = mode64 ? UINT64_MAX : UINT32_MAX;
    bool slow = c->align_check || soft_verify_shadow(c);
    c->dtlb = slow ? c->tlb->empty : ctx->set[c->mmu].e;
    c->itlb = ctx->set[c->cpl == 3 ? MMU_USER : MMU_SYS].e;
    c->mmu_ac[0] = c->mmu_implicit;
    c->mmu_ac[1] = MMU_SYS;
    c->dtlb_ac[0] = ctx->set[c->mmu_implicit].e;
    c->dtlb_ac[1] = ctx->set[MMU_SYS].e;
    c->jump_key = ctx->generation << 24 | c->mode_key;
    if (c->tr) {
        soft_tr_context(c, (u32)(ctx - c->tlb->context));
    }
    soft_look_select(c);
}

/* --- filling -----------------------------------------------------------------------------------
 */

static u32 fetched_hash(u64 linear) {
    u64 page = linear >> PAGE_SHIFT;
    return tlb_filter_bit(page ^ page >> 13, linear, TLB_FILTER_BITS);
}

static u64 huge_bit(u64 linear) {
    u64 region = linear >> 30;
    return BIT(tlb_filter_bit(region ^ region >> 6 ^ region >> 12, linear, 64));
}

static void note_large(struct tlb_context *ctx, u64 linear, u8 shift) {
    if (shift == 30) {
        ctx->huge |= huge_bit(linear);
    } else if (shift > PAGE_SHIFT) {
        for (u64 piece = 0; piece < BIT(shift); piece += BIT(21)) {
            u32 h = tlb_large_hash(linear ^ piece);
            ctx->large[h / 64] |= BIT(h % 64);
        }
    }
}

/* What the slow path needs to know of the page, and where it lies in the host. */
static u64 phys_of(const struct soft_vcpu *c, const struct walk_result *w, u64 *addend,
                   u64 linear) {
    u64 page = w->gpa & ~PAGE_MASK;
    u64 phys = page | (w->global ? PHYS_GLOBAL : 0);
    phys |= w->page_shift == 21   ? PHYS_2M
            : w->page_shift == 22 ? PHYS_4M
            : w->page_shift == 30 ? PHYS_1G
                                  : 0;
    const struct ram_slot *slot = ram_find(c->vm->ram, page);
    *addend = 0;
    if (!slot) {
        return phys | PHYS_MMIO;
    }
    *addend = (u64)(uintptr_t)(slot->hva + (page - slot->gpa)) - (linear & ~PAGE_MASK);
    return phys | (slot->flags & RAM_READONLY ? PHYS_ROM : 0);
}

/* With the dirty log on only a write makes a write translation, and marks the page. */
static bool dirty_allows(struct soft_vcpu *c, u64 gpa, bool write) {
    u64 *dirty = __atomic_load_n(&c->vm->ram->dirty, __ATOMIC_ACQUIRE);
    if (!dirty) {
        return true;
    }
    u64 index = ram_page_index(c->vm->ram, gpa);
    if (write && index < c->vm->page_count) {
        __atomic_fetch_or(&dirty[index / 64], BIT(index % 64), __ATOMIC_SEQ_CST);
    }
    return write;
}

static void entry_fill(struct soft_vcpu *c, struct tlb_set *set, u32 i, u64 linear, bool write,
                       const struct walk_result *w) {
    struct tlb_entry *e = &set->e[i];
    u64 page = linear & ~PAGE_MASK;
    u64 phys = phys_of(c, w, &e->addend, linear);
    u64 slow = (phys & PHYS_MMIO) || (c->watch && soft_watch_page(c, page)) ? TLB_SLOW : 0;
    u64 slow_write = slow | (phys & PHYS_ROM ? TLB_SLOW : 0);
    if (w->write && !slow_write && smc_page_opened(c, phys & ~PAGE_MASK)) {
        slow_write = TLB_SLOW;
    }
    set->phys[i] = phys;
    set->used[i / 64] |= BIT(i % 64);
    e->read = w->read ? page | slow : TLB_NONE;
    bool writable = w->write && ((phys & PHYS_MMIO) || dirty_allows(c, phys, write));
    e->write = writable ? page | slow_write : TLB_NONE;
    e->exec = w->exec ? page | (phys & PHYS_MMIO ? TLB_SLOW : 0) : TLB_NONE;
    if (UNLIKELY(c->verify) && e->write == page) {
        soft_verify_opened(c, e, phys);
    }
}

static struct walk_env walk_env_of(const struct soft_vcpu *c) {
    return (struct walk_env){
        .cr0 = c->s.cr0,
        .cr3 = c->s.cr3,
        .cr4 = c->s.cr4,
        .efer = c->s.msr.efer,
        .pkru = c->s.cr4 & CR4_PKE ? soft_pkru_get(c) : 0,
        .phys_bits = c->vm->ev->cpuid->phys_bits,
    };
}

static struct tlb_entry *tlb_miss(struct soft_vcpu *c, u64 linear, enum access access,
                                  enum mmu_index mmu) {
    static const u8 kind[] = {WALK_READ, WALK_WRITE, WALK_EXEC, WALK_WRITE};
    struct walk_env env = walk_env_of(c);
    struct walk_result w;
    u32 flags = mmu == MMU_USER ? (u32)WALK_USER : mmu == MMU_SMAP ? (u32)WALK_SMAP : 0;
    soft_verify_walking(c, true);
    int rc = walk_linear(c->vm->ram, &env, linear, (enum walk_access)kind[access], flags, &w);
    soft_verify_walking(c, false);
    if (rc) {
        soft_page_fault(c, linear, w.error);
    }
    struct tlb_context *ctx = c->tlb->now;
    u32 i = tlb_index(linear);
    note_large(ctx, linear, w.page_shift);
    entry_fill(c, &ctx->set[mmu], i, linear, kind[access] == WALK_WRITE, &w);
    return &ctx->set[mmu].e[i];
}

static u64 tag_for(const struct tlb_entry *e, enum access access) {
    return access == ACCESS_READ ? e->read : access == ACCESS_EXEC ? e->exec : e->write;
}

struct tlb_entry *soft_tlb_get(struct soft_vcpu *c, u64 linear, enum access access,
                               enum mmu_index mmu, u64 *phys) {
    struct tlb_context *ctx = c->tlb->now;
    struct tlb_set *set = &ctx->set[mmu];
    struct tlb_entry *e = &set->e[tlb_index(linear)];
    if ((tag_for(e, access) & ~TLB_SLOW) != (linear & ~PAGE_MASK)) {
        e = tlb_miss(c, linear, access, mmu);
    }
    *phys = set->phys[tlb_index(linear)];
    if (access == ACCESS_EXEC) {
        u32 h = fetched_hash(linear);
        ctx->fetched[h / 64] |= BIT(h % 64);
        c->tlb->global_fetched[h / 64] |= *phys & PHYS_GLOBAL ? BIT(h % 64) : 0;
    }
    return e;
}

/* --- invalidation ------------------------------------------------------------------------------
 */

/* Forgets the pieces of the large page around linear. Are there others that have the same bit in
 * the filter? */
static bool context_drop_large(struct tlb_context *ctx, u64 linear) {
    bool others = false;
    for (u32 m = 0; m < MMU_COUNT; m++) {
        struct tlb_set *set = &ctx->set[m];
        for (u32 i = 0; i < TLB_SIZE; i++) {
            u32 shift = tlb_large_shift(set->phys[i]);
            u64 tag = MIN(MIN(set->e[i].read, set->e[i].write), set->e[i].exec);
            if (!shift || tag == TLB_NONE) {
                continue;
            }
            if (!((tag ^ linear) >> shift)) {
                entry_clear(&set->e[i]);
            } else {
                others |= tlb_large_like(tag, shift, linear);
            }
        }
    }
    return others;
}

static void context_drop_page(struct soft_tlb *tlb, struct tlb_context *ctx, u64 linear,
                              bool global_only) {
    u32 i = tlb_index(linear), lh = tlb_large_hash(linear), fh = fetched_hash(linear);
    bool large = (ctx->huge & huge_bit(linear)) || (ctx->large[lh / 64] & BIT(lh % 64));
    bool others = false;
    for (u32 m = 0; m < MMU_COUNT; m++) {
        struct tlb_set *set = &ctx->set[m];
        if (!global_only || (set->phys[i] & PHYS_GLOBAL)) {
            entry_clear(&set->e[i]); /* whichever page it holds: forgetting more is allowed */
        }
    }
    if (large) {
        others = context_drop_large(ctx, linear);
    }
    others |= soft_look_drop_page(tlb->look, (u32)(ctx - tlb->context), linear, large);
    if (large && !others) { /* memory that had a large page may be given out in small ones now */
        ctx->large[lh / 64] &= ~BIT(lh % 64);
    }
    if (large || (ctx->fetched[fh / 64] & BIT(fh % 64))) {
        context_renew(tlb, ctx);
    }
    if (large || (tlb->global_fetched[fh / 64] & BIT(fh % 64))) {
        global_renew(tlb);
    }
}

void soft_tlb_flush_page(struct soft_vcpu *c, u64 linear) {
    struct soft_tlb *tlb = c->tlb;
    for (u32 i = 0; i < TLB_CONTEXTS; i++) {
        if (tlb->context[i].valid) {
            context_drop_page(tlb, &tlb->context[i], linear, &tlb->context[i] != tlb->now);
        }
    }
    soft_derived_update(c);
}

void soft_tlb_flush_all(struct soft_vcpu *c) {
    global_renew(c->tlb);
    for (u32 i = 0; i < TLB_CONTEXTS; i++) {
        if (c->tlb->context[i].valid) {
            context_clear(c->tlb, &c->tlb->context[i], false);
        }
    }
    /* Another PCID may be current now (CR4.PCIDE was changed). */
    u16 pcid = c->s.cr4 & CR4_PCIDE ? (u16)(c->s.cr3 & 0xfff) : 0;
    c->tlb->now->pcid = pcid;
    for (u32 i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *ctx = &c->tlb->context[i];
        ctx->valid = ctx == c->tlb->now;
    }
    soft_derived_update(c);
}

void soft_tlb_flush_context(struct soft_vcpu *c) {
    context_clear(c->tlb, c->tlb->now, true);
    soft_derived_update(c);
}

void soft_tlb_invpcid(struct soft_vcpu *c, u32 type, u16 pcid, u64 linear) {
    struct soft_tlb *tlb = c->tlb;
    struct tlb_context *one = context_find(tlb, pcid);
    switch (type) {
    case 0:
        if (one) {
            context_drop_page(tlb, one, linear, false);
        }
        break;
    case 1:
        if (one) {
            context_clear(tlb, one, true);
        }
        break;
    case 2:
        soft_tlb_flush_all(c);
        break;
    default:
        for (u32 i = 0; i < TLB_CONTEXTS; i++) {
            if (tlb->context[i].valid) {
                context_clear(tlb, &tlb->context[i], true);
            }
        }
        break;
    }
    soft_derived_update(c);
}

void soft_tlb_cr3(struct soft_vcpu *c, u64 cr3, bool keep) {
    if (!(c->s.cr4 & CR4_PCIDE)) {
        soft_tlb_flush_context(c);
        return;
    }
    u16 pcid = (u16)(cr3 & 0xfff);
    struct tlb_context *ctx = context_find(c->tlb, pcid);
    if (!ctx) {
        ctx = context_replace(c->tlb, pcid);
    } else if (!keep) {
        context_clear(c->tlb, ctx, true);
    }
    context_enter(c, ctx);
}

/* --- code pages --------------------------------------------------------------------------------
 */

void soft_tlb_drop_writes(struct soft_vcpu *c, u64 gpa_page) {
    soft_look_drop_writes(c->tlb->look, gpa_page);
    c->tlb->forgot++;
    for (u32 n = 0; n < TLB_CONTEXTS * MMU_COUNT; n++) {
        struct tlb_set *set = &c->tlb->context[n / MMU_COUNT].set[n % MMU_COUNT];
        for (u32 word = 0; word < ARRAY_LEN(set->used); word++) {
            for (u64 bits = set->used[word]; bits; bits &= bits - 1) {
                u32 i = word * 64 + (u32)__builtin_ctzll(bits);
                if ((set->phys[i] & ~PAGE_MASK) == gpa_page) {
                    set->e[i].write = TLB_NONE;
                }
            }
        }
    }
}

void soft_tlb_drop_all_writes(struct soft_vcpu *c) {
    soft_look_drop_all_writes(c->tlb->look);
    c->tlb->forgot++;
    for (u32 n = 0; n < TLB_CONTEXTS * MMU_COUNT; n++) {
        struct tlb_set *set = &c->tlb->context[n / MMU_COUNT].set[n % MMU_COUNT];
        for (u32 word = 0; word < ARRAY_LEN(set->used); word++) {
            for (u64 bits = set->used[word]; bits; bits &= bits - 1) {
                set->e[word * 64 + (u32)__builtin_ctzll(bits)].write = TLB_NONE;
            }
        }
    }
}
