/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What generated code calls, and what becomes of processor exceptions in it. All guest registers
 * are in c->s.gpr here, flags in c->tr_flags; a fault unwinds to the run loop as from any handler.
 */
#include "engines/soft/tr.h"
#include "engines/soft/verify.h"

void tr_flags_home(struct soft_vcpu *c) {
    c->aflags = (c->tr_flags >> 8 & 0xff) | (c->tr_flags & 1) << 11;
}

void tr_flags_out(struct soft_vcpu *c) {
    c->tr_flags = (c->aflags & 0xff) << 8 | (c->aflags >> 11 & 1);
}

static bool wanted(const struct soft_vcpu *c) {
    return c->leave | (__atomic_load_n(&c->request, __ATOMIC_RELAXED) & SOFT_REQ_OTHER);
}

static bool is_canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}

/* At the instruction of an exit, as the interpreter stands before it. */
static void stand_at(struct soft_vcpu *c, u64 rip) {
    c->block = NULL;
    c->block_rip = c->next_rip = rip;
    c->uop = &c->cache->fetch;
    tr_flags_home(c);
}

static u64 address_of(const struct soft_vcpu *c, const struct tr_exit *e, u64 r15) {
    u64 a = (u64)(s64)e->ea_disp;
    if (e->ea_kind == EA_R15) {
        return r15;
    }
    if (e->ea_kind == EA_CONST) {
        return (r15 & ~PAGE_MASK) + a;
    }
    a += c->s.gpr[e->ea_base & 15];
    return e->ea_index == MEM_NONE ? a : a + (c->s.gpr[e->ea_index & 15] << e->ea_shift);
}

u32 tr_miss_call(struct soft_vcpu *c, u64 r15) {
    struct soft_tr *t = c->tr;
    const struct tr_exit *e = &t->exits[c->tr_exit];
    u64 linear = address_of(c, e, r15);
    c->tr_resume = (u64)(uintptr_t)t->code.rx + e->patch;
    bool crosses = (linear & PAGE_MASK) + e->size > PAGE_SIZE;
    u64 phys;
    stand_at(c, e->rip);
    t->stats.misses++;
    bool odd = e->len && (linear & (e->size - 1u)); /* #GP comes before #PF */
    if (crosses || odd || !is_canonical(linear)) {
        t->stats.slow++;
        t->force = true;
        return 1;
    }
    const struct tlb_entry *now =
        soft_tlb_get(c, linear + e->unjoined, (enum access)e->access, c->mmu, &phys);
    if (!soft_look_fill(c, linear, now, phys, (enum access)e->access)) {
        t->stats.slow++;
        t->force = true;
        return 1;
    }
    return 0;
}

/* What the run loop's round looks at (run.c). */
static bool undisturbed(const struct soft_vcpu *c) {
    const struct cpu_events *e = &c->s.events;
    if ((c->leave & ~(u32)SOFT_LEAVE_LOOP) | __atomic_load_n(&c->request, __ATOMIC_RELAXED) |
        __atomic_load_n(&c->ev->attention, __ATOMIC_RELAXED)) {
        return false;
    }
    if (e->exception_pending | e->nmi_pending | e->interrupt_pending) {
        return false;
    }
    return !(c->mode_key & KEY_ONE) && !(c->window_wanted && (c->s.rflags & FLAG_IF));
}

/* Control went to c->next_rip: there is code for that, and nobody wants a round of the run loop.
 * Entry X checks the mode. */
static bool tr_go_on(struct soft_vcpu *c) {
    u64 host = tr_jump_find(c, c->next_rip);
    if (!host || !undisturbed(c)) {
        return false;
    }
    c->leave = 0;
    c->s.rflags &= ~(u64)FLAG_RF;
    c->tr_resume = host;
    return true;
}

u32 tr_step_call(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    const struct tr_exit *e = &t->exits[c->tr_exit];
    c->tr_resume = (u64)(uintptr_t)t->code.rx + e->patch;
    struct soft_block *b = t->singles[e->next_in];
    stand_at(c, e->rip);
    if (UNLIKELY(c->verify) && !soft_verify_may_step(c, e)) {
        t->force = true;
        return 1;
    }
    c->block = b;
    c->uop = b->uop;
    t->stats.steps++;
    t->step_count[e->size]++;
    c->stats.instructions++;
    u64 after = e->rip + e->len;
    bool end = e->kind == TR_STEP_END;
    b->uop[0].fn(c, b->uop);
    tr_flags_out(c);
    if (!end && c->next_rip == after && !wanted(c)) {
        return 0;
    }
    return !tr_go_on(c);
}

bool tr_host_fault(struct host_fault *fault) {
    struct soft_vcpu *c = fault->ctx;
    if (!c || !c->tr || fault->rip - (u64)(uintptr_t)c->tr->code.rx < c->tr->first ||
        fault->vector == EXC_PF) {
        return false; /* memory was checked before: this is no guest's fault */
    }
    c->tr_fault_rip = fault->rip;
    c->tr_fault_flags = fault->rflags;
    fault->gpr[H_TEMP] = 0;
    fault->rip = (u64)(uintptr_t)c->tr->code.rx + c->tr->stub[STUB_EXIT];
    return true;
}
