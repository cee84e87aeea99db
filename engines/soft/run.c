/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop of a vCPU.
 *
 *   soft_run --> round: requests, attention, pending events --> blocks, one after another
 *      ^           ^                                             |             |
 *      |           +---- something changed (leave, request) -----+             |
 *      |           +---- fault: delivered by soft_handle_fault <-- soft_longjmp
 *      +-- c->exit is filled
 *
 * Between two blocks only three words are looked at: c->leave, c->request and the attention word.
 * Interrupt priority: Intel SDM volume 3, table 6-2. Runs on the vCPU's thread.
 */
#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/smc.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"

void soft_request(struct soft_vcpu *c, u32 bits) {
    __atomic_fetch_or(&c->request, bits, __ATOMIC_SEQ_CST);
}

/* --- blocks ------------------------------------------------------------------------------------
 */

static inline void run_block(struct soft_vcpu *c, struct soft_block *b, u64 rip) {
    c->block = b;
    c->block_rip = rip;
    c->uop = b->uop;
    c->stats.instructions += b->count;
    b->uop[0].fn(c, b->uop);
}

/* The next block by jump cache, hash or decoding. */
struct soft_block *soft_find_next(struct soft_vcpu *c, u64 rip, u64 linear) {
    struct block_jump *j = jump_slot(c->cache, linear, c->jump_key);
    if (LIKELY(j->linear == linear && j->key == c->jump_key && j->to && block_fresh(j->to)) &&
        LIKELY(rip + j->to->bytes - 1 <= c->cs_limit)) {
        return j->to;
    }
    struct soft_block *b = soft_block_find(c, rip, linear);
    if (b->cached && !b->crosses) {
        *j = (struct block_jump){.linear = linear, .key = c->jump_key, .to = b};
    }
    return b;
}

static inline bool must_look(const struct soft_vcpu *c, const u32 *attention) {
    return c->leave | __atomic_load_n(&c->request, __ATOMIC_RELAXED) |
           __atomic_load_n(attention, __ATOMIC_RELAXED);
}

/* In 32- and 16-bit modes the segment's end may have to be checked: no links there. */
static void link_blocks(struct soft_vcpu *c, struct soft_block *from, u64 linear,
                        struct soft_block *to) {
    if (!to->cached || to->crosses || c->cs_limit < UINT32_MAX) {
        return;
    }
    from->link[from->next_link] =
        (struct block_jump){.linear = linear, .key = c->jump_key, .to = to};
    from->next_link ^= 1;
}

/* The block that `from` is linked to for next_rip; NULL: none. */
static inline struct soft_block *linked_block(const struct soft_vcpu *c,
                                              const struct soft_block *from) {
    u64 linear = (c->next_rip + c->cs_base) & c->addr_mask;
    const struct block_jump *l = from->link;
    struct soft_block *next = NULL;
    if (LIKELY(l[0].linear == linear && l[0].key == c->jump_key)) {
        next = l[0].to;
    } else if (LIKELY(l[1].linear == linear && l[1].key == c->jump_key)) {
        next = l[1].to;
    }
    return LIKELY(next && block_fresh(next)) ? next : NULL;
}

struct soft_block *soft_linked_block(const struct soft_vcpu *c, const struct soft_block *from) {
    return linked_block(c, from);
}

struct soft_block *soft_next_block(struct soft_vcpu *c, struct soft_block *from) {
    u64 rip = c->next_rip, linear = (rip + c->cs_base) & c->addr_mask, resets = c->cache->resets;
    struct soft_block *next = soft_find_next(c, rip, linear);
    if (LIKELY(resets == c->cache->resets)) {
        link_blocks(c, from, linear, next);
    }
    return next;
}

/* The block at next_rip, after `from`. */
static inline struct soft_block *next_block(struct soft_vcpu *c, struct soft_block *from) {
    struct soft_block *next = linked_block(c, from);
    return LIKELY(next != NULL) ? next : soft_next_block(c, from);
}

/* Until something wants attention. */
static void run_blocks(struct soft_vcpu *c) {
    const u32 *attention = &c->ev->attention;
    u64 rip = c->next_rip;
    struct soft_block *b = soft_find_next(c, rip, (rip + c->cs_base) & c->addr_mask);
    for (;;) {
        run_block(c, b, rip);
        if (UNLIKELY(must_look(c, attention))) {
            return;
        }
        rip = c->next_rip;
        b = next_block(c, b);
    }
}

/* One instruction, with everything debuggers want to know (debug.c). */
static void run_one(struct soft_vcpu *c) {
    u64 rip = c->next_rip;
    if (!soft_insn_begin(c, rip)) {
        return;
    }
    run_block(c, soft_block_find(c, rip, (rip + c->cs_base) & c->addr_mask), rip);
    soft_insn_end(c);
}

/* --- events ------------------------------------------------------------------------------------
 */

static void deliver_external(struct soft_vcpu *c, u8 vector, enum soft_event kind) {
    c->stats.interrupts++;
    soft_deliver(c, vector, kind, false, 0, c->next_rip);
}

static void deliver_exception(struct soft_vcpu *c) {
    struct cpu_events *e = &c->s.events;
    e->exception_pending = false;
    c->fault_cr2 = e->exception_cr2;
    c->stats.exceptions++;
    soft_deliver(c, e->exception_vector, EVENT_FAULT, e->exception_has_error, e->exception_error,
                 c->next_rip);
}

/* True when an event was delivered. */
static bool deliver_pending(struct soft_vcpu *c) {
    struct cpu_events *e = &c->s.events;
    if (e->exception_pending) {
        deliver_exception(c);
        return true;
    }
    if (e->nmi_pending && !e->nmi_blocked && !(e->shadow & SHADOW_MOV_SS)) {
        e->nmi_pending = false;
        e->nmi_blocked = true;
        deliver_external(c, EXC_NMI, EVENT_EXTERNAL);
        return true;
    }
    bool may = (c->s.rflags & FLAG_IF) && !e->shadow;
    if (e->interrupt_pending && (may || e->interrupt_soft)) {
        e->interrupt_pending = false;
        deliver_external(c, e->interrupt_vector, e->interrupt_soft ? EVENT_SOFT : EVENT_EXTERNAL);
        return true;
    }
    return false;
}

static bool window_open(const struct soft_vcpu *c) {
    const struct cpu_events *e = &c->s.events;
    return (c->s.rflags & FLAG_IF) && !e->shadow && !e->exception_pending && !e->interrupt_pending;
}

/* --- rounds ------------------------------------------------------------------------------------
 */

/* True when the run loop is to be left with EXIT_KICK. */
static bool serve_requests(struct soft_vcpu *c) {
    u32 request = __atomic_load_n(&c->request, __ATOMIC_SEQ_CST);
    if (request & (SOFT_REQ_PURGE | SOFT_REQ_STOP)) {
        soft_guest_leave(c);
        soft_guest_enter(c);
    }
    if (request & SOFT_REQ_CODE) {
        soft_tr_purge(c);
    }
    if (request & SOFT_REQ_KICK) {
        __atomic_fetch_and(&c->request, ~(u32)SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
        return true;
    }
    return __atomic_load_n(&c->ev->attention, __ATOMIC_SEQ_CST) != 0;
}

/* False: leave, the exit record is filled. */
static bool run_round(struct soft_vcpu *c) {
    c->block = NULL;
    if (c->leave & SOFT_LEAVE_EXIT) {
        c->leave &= ~(u32)SOFT_LEAVE_EXIT;
        return false;
    }
    c->leave = 0;
    if (serve_requests(c)) {
        c->exit->kind = EXIT_KICK;
        return false;
    }
    if (deliver_pending(c)) {
        return true;
    }
    if (c->window_wanted && window_open(c)) {
        c->exit->kind = EXIT_INTR_WINDOW;
        return false;
    }
    if (c->mode_key & KEY_ONE) {
        run_one(c);
    } else {
        c->s.rflags &= ~FLAG_RF; /* it covers one instruction, and only breakpoints look at it */
        if (c->tr) {
            soft_tr_blocks(c);
        } else {
            run_blocks(c);
        }
    }
    return true;
}

/* Instructions of the present block that were not run are not counted. */
static void uncount(struct soft_vcpu *c) {
    const struct soft_block *b = c->block;
    if (!b || c->uop < b->uop || c->uop >= b->uop + b->uops) {
        return;
    }
    u32 done = 0;
    for (const struct uop *u = b->uop; u < c->uop; u++) {
        done += u[1].offset != u->offset;
    }
    c->stats.instructions -= b->count - MIN(done, (u32)b->count);
}

int soft_run(struct engine_vcpu *ev, struct vm_exit *exit) {
    struct soft_vcpu *c = soft_of(ev);
    *exit = (struct vm_exit){.kind = EXIT_KICK};
    c->exit = exit;
    c->next_rip = c->s.rip;
    c->leave |= SOFT_LEAVE_LOOP;
    soft_tr_run_begin(c);
    soft_guest_enter(c);
    if (soft_setjmp(c->jump)) {
        uncount(c);
        soft_handle_fault(c);
    }
    while (run_round(c)) {
    }
    soft_guest_leave(c);
    soft_vec_leave(c);
    c->s.rip = c->next_rip;
    c->uop = &c->cache->fetch;
    c->block = NULL;
    c->block_rip = c->s.rip;
    c->stats.exits++;
    return 0;
}
