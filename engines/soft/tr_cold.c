/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that is not hot, beside the translator: its blocks are interpreted one after another, and
 * what each of them was before decides when it gets a translation. Most cold code runs once, and
 * then each table looked at is a line from far memory: what is certain without is not looked up.
 *
 * Lock rule: all belongs to the vCPU's thread.
 */
#include "engines/soft/tr.h"

u16 tr_former_lives(struct soft_tr *t, const struct soft_block *b) {
    u8 *lives = &t->lives[soft_place_hash(b->gpa, b->key) % ARRAY_LEN(t->lives)];
    *lives = *lives == UINT8_MAX ? UINT8_MAX : (u8)(*lives + 1);
    return tr_cache_relax(t) ? (u16)(*lives - 1) : 0;
}

/* Is it time to look for a translation of b, or to make one? */
static bool is_warm(const struct soft_tr *t, const struct soft_block *b) {
    return !b->tr_no && b->cached && (b->translated || !b->heat || b->heat + 1u >= t->heat);
}

struct soft_block *tr_known_cold(const struct soft_vcpu *c, u64 rip) {
    u64 linear = (rip + c->cs_base) & c->addr_mask;
    const struct block_jump *j = jump_slot(c->cache, linear, c->jump_key);
    struct soft_block *b = j->to;
    if (j->linear != linear || j->key != c->jump_key || !b || !block_fresh(b) ||
        rip + b->bytes - 1 > c->cs_limit) {
        return NULL;
    }
    return b->cached && !b->translated && b->heat && b->heat + 1u < c->tr->heat ? b : NULL;
}

/* Behind b, in its page: does no translation begin at rip for sure? */
static bool nothing_begins(const struct soft_vcpu *c, const struct soft_block *b, u64 rip) {
    u64 gpa = (b->gpa & ~PAGE_MASK) | (rip & PAGE_MASK);
    return !((rip ^ c->block_rip) >> PAGE_SHIFT) && !tr_cache_head(c->tr, gpa);
}

/* A block that was just decoded, where no translation begins: what find() would say of it. False:
 * find() has to. */
static bool settle_new(struct soft_tr *t, struct soft_block *b) {
    if (b->heat || b->tr_no || !b->cached || tr_cache_head(t, b->gpa)) {
        return false;
    }
    b->heat = (u16)(tr_former_lives(t, b) + 1);
    return b->heat < t->heat;
}

void tr_interpret(struct soft_vcpu *c, struct soft_block *b, bool able) {
    struct soft_tr *t = c->tr;
    bool once = t->force;
    t->force = false;
    for (;;) {
        t->stats.cold++;
        c->block = b;
        c->block_rip = c->next_rip;
        c->uop = b->uop;
        c->stats.instructions += b->count;
        b->uop[0].fn(c, b->uop);
        if (UNLIKELY(once || tr_must_look(c))) {
            return;
        }
        struct soft_block *next = soft_linked_block(c, b);
        u64 rip = c->next_rip;
        if (!next) {
            soft_block_ahead(c, (b->gpa & ~PAGE_MASK) | (rip & PAGE_MASK));
        }
        if (!next && able && !nothing_begins(c, b, rip) && !tr_known_cold(c, rip) &&
            tr_jump_find(c, rip)) {
            return; /* not to be decoded for nothing */
        }
        b = next ? next : soft_next_block(c, b);
        if (!able || settle_new(t, b)) {
            continue;
        }
        if (is_warm(t, b)) {
            return;
        }
        if (b->heat < t->heat) {
            b->heat++;
        }
    }
}
