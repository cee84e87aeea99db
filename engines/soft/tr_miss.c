/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What generated code calls, and what becomes of processor exceptions in it. All guest registers
 * are in c->s.gpr here, flags in c->tr_flags; a fault unwinds to the run loop as from any handler.
 */
#include "engines/soft/serialise.h"
#include "engines/soft/tr.h"
#include "engines/soft/verify.h"

static bool wanted(const struct soft_vcpu *c) {
    return c->leave | (__atomic_load_n(&c->request, __ATOMIC_RELAXED) & SOFT_REQ_OTHER);
}

static bool is_canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}

/* At the instruction of an exit, as the interpreter stands before it. */
static void stand_at(struct soft_vcpu *c, const struct tr_exit *e) {
    c->block = NULL;
    c->block_rip = c->next_rip = e->rip + tr_off_by(c, e);
    c->uop = &c->cache->fetch;
    tr_flags_home(c, e->flags);
}

static u64 address_of(const struct soft_vcpu *c, const struct tr_exit *e, u64 r15) {
    u64 a = (u64)(s64)e->ea_disp;
    if ((e->ea_how & EA_KIND) == EA_R15) {
        return r15;
    }
    if ((e->ea_how & EA_KIND) == EA_CONST) {
        return (r15 & ~PAGE_MASK) + a;
    }
    a += c->s.gpr[e->ea_regs & 15];
    return e->ea_how & EA_INDEX ? a + (c->s.gpr[e->ea_regs >> 4] << (e->ea_how >> 2 & 3)) : a;
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

/* --- accesses that the interpreter does ---------------------------------------------------------
 */

static bool fresh(const struct tr_block *b) {
    return __atomic_load_n(b->generation, __ATOMIC_SEQ_CST) == b->seen;
}

/* Guest RAM may be changing. */
__attribute__((no_sanitize_thread)) static u32 code_read(const struct soft_vcpu *c, u64 gpa,
                                                         u8 bytes[INSN_MAX_LEN]) {
    u32 n = (u32)MIN(PAGE_SIZE - (gpa & PAGE_MASK), (u64)INSN_MAX_LEN);
    const volatile u8 *code = ram_ptr(c->vm->ram, gpa, n);
    for (u32 k = 0; code && k < n; k++) {
        bytes[k] = code[k];
    }
    return code ? n : 0;
}

/* The instruction of trace b at gpa by itself; NULL when its code is not there any more or goes on
 * in another page. */
static const struct tr_slow *slow_single(struct soft_vcpu *c, const struct tr_block *b, u64 gpa) {
    struct soft_tr *t = c->tr;
    u32 at = (u32)(gpa ^ gpa >> 12) % TR_SLOW;
    struct tr_slow *s = &t->slow[at];
    u8 bytes[INSN_MAX_LEN];
    struct insn insn;
    if (s->block && s->gpa == gpa && s->key == b->key && s->generation == b->generation &&
        s->seen == b->seen && fresh(b)) {
        return s;
    }
    u32 avail = code_read(c, gpa, bytes);
    if (insn_decode(&insn, bytes, avail, c->mode) != DECODE_OK || !fresh(b)) {
        return NULL;
    }
    size_t used = at * tr_slow_size();
    *s = (struct tr_slow){
        .gpa = gpa, .key = b->key, .generation = b->generation, .seen = b->seen, .len = insn.len};
    s->block = soft_block_single(c, gpa, bytes, insn.len, 1, t->slow_room, &used);
    return s;
}

/* Page crossings, registers, stores beside code, watchpoints: the instructions of the look by the
 * interpreter, and on in generated code when nothing else is wanted. */
static u32 slow(struct soft_vcpu *c, const struct tr_exit *e) {
    struct soft_tr *t = c->tr;
    const struct tr_block *b = &t->blocks[e->block];
    u64 gpa = (b->gpa & ~PAGE_MASK) | (e->rip & PAGE_MASK);
    u64 behind = e->rip + tr_off_by(c, e) + (u64)(s64)e->go_on;
    u32 done = 0, forgot = c->tlb->forgot;
    t->stats.slow++;
    do {
        const struct tr_slow *one = slow_single(c, b, gpa);
        if (!one) {
            t->force = true;
            return 1;
        }
        gpa += one->len;
        c->block = one->block;
        c->block_rip = c->next_rip;
        c->uop = one->block->uop;
        c->stats.instructions += !c->vm->ev->translator.count; /* else counted already */
        c->uop->fn(c, c->uop);
        tr_flags_out(c);
    } while (++done < e->count && !wanted(c));
    bool same = c->tlb->forgot == forgot; /* else addends in c->tr_addend may be wrong */
    if (same && done == e->count && e->after && c->next_rip == behind && !wanted(c)) {
        c->tr_resume = (u64)(uintptr_t)t->code.rx + e->after;
        return 0;
    }
    return !tr_go_on(c);
}

/* A group's look cannot be had: on without groups, from its leader, and next time without C code.
 */
static u32 apart(struct soft_vcpu *c, const struct tr_exit *e) {
    struct soft_tr *t = c->tr;
    const struct tr_block *b = &t->blocks[e->block];
    u64 gpa = (b->gpa & ~PAGE_MASK) | (e->rip & PAGE_MASK);
    struct tr_block *n = tr_cache_find_alone(t, gpa, b->key, e->rip);
    if (!n || n->floats != b->floats) {
        bool recipe = e->flags >= FLAGS_AT_RECIPE;
        t->want_alone = true;
        t->want_recipe =
            recipe ? t->recipes[e->flags - FLAGS_AT_RECIPE] : (struct tr_recipe){.size = 0};
        return 1;
    }
    if (tr_apart_join(t, c->tr_exit, n)) {
        t->stats.links++;
        serialise();
    }
    c->tr_resume = (u64)(uintptr_t)t->code.rx + n->entry[ENTRY_M];
    return 0;
}

static u32 give_up(struct soft_vcpu *c, const struct tr_exit *e) {
    return e->ea_how & EA_GROUP ? apart(c, e) : slow(c, e);
}

u32 tr_miss_call(struct soft_vcpu *c, u64 r15) {
    struct soft_tr *t = c->tr;
    const struct tr_exit *e = &t->exits[c->tr_exit];
    u64 linear = address_of(c, e, r15);
    c->tr_resume = (u64)(uintptr_t)t->code.rx + e->patch;
    bool crosses = (linear & PAGE_MASK) + e->size > PAGE_SIZE;
    u64 phys;
    stand_at(c, e);
    t->stats.misses++;
    t->stats.crossed += crosses;
    bool odd = e->len && ((linear + e->first) & (e->len - 1u)); /* #GP comes before #PF */
    if (crosses || odd || !is_canonical(linear) || (e->entry && !c->seg_open[e->entry])) {
        return give_up(c, e);
    }
    if ((e->ea_how & EA_QUIET) &&
        tlb_slot(c->tlb->now->set[c->mmu].e, linear)->write != (linear & ~PAGE_MASK)) {
        return give_up(c, e);
    }
    const struct tlb_entry *now =
        soft_tlb_get(c, linear + e->first, (enum access)e->access, c->mmu, &phys);
    if (!soft_look_fill(c, linear, now, phys, (enum access)e->access)) {
        return give_up(c, e);
    }
    return 0;
}

u32 tr_step_call(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    const struct tr_exit *e = &t->exits[c->tr_exit];
    c->tr_resume = (u64)(uintptr_t)t->code.rx + e->patch;
    struct soft_block *b = t->singles[e->next_in];
    stand_at(c, e);
    if (UNLIKELY(c->verify) && !soft_verify_may_step(c, e)) {
        t->force = true;
        return 1;
    }
    c->block = b;
    c->uop = b->uop;
    t->stats.steps += b->count;
    t->step_count[e->size] += b->count;
    c->stats.instructions += b->count;
    u64 after = e->rip + tr_off_by(c, e) + e->len;
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
