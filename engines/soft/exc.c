/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: faults raised by instructions, traps, interrupts, and their way through the vector table
 * in real, protected, virtual-8086 and long mode. A fault met on that way becomes the next event, a
 * double fault, or shutdown.
 *
 *   soft_fault -> (unwind) -> run loop -> soft_handle_fault -> soft_deliver
 *   run loop, external interrupt or NMI ------------------------^   |  a fault in here unwinds to
 *   INT n handler: soft_deliver(EVENT_SOFT); its faults unwind      |  `attempt` and is combined
 *   to the run loop as faults of that instruction                   +--(table 7-5)--> next event
 *
 * Intel SDM volume 3, chapter 7 (events), 7.15 (double fault classes), 22.1 (real mode), 22.3
 * (V86); volume 2, "INT n". Registers change only when the whole frame has been written.
 */
#include "engines/soft/sys.h"

struct event {
    u8 vector;
    u8 kind; /* enum soft_event */
    bool has_error;
    u32 error;
    u64 rip;
};

/* --- raising ---------------------------------------------------------------------------------- */

static bool carries_ext(u8 vector) {
    return vector >= EXC_TS && vector <= EXC_GP;
}

_Noreturn void soft_fault(struct soft_vcpu *c, u8 vector, bool has_error, u32 error) {
    c->fault_vector = vector;
    c->fault_has_error = has_error;
    c->fault_error = error | (c->event_ext && carries_ext(vector) ? 1 : 0);
    soft_longjmp(c->jump, 1);
}

_Noreturn void soft_page_fault(struct soft_vcpu *c, u64 linear, u32 error) {
    c->fault_cr2 = linear;
    soft_fault(c, EXC_PF, true, error);
}

/* --- what is common to the modes -------------------------------------------------------------- */

/* Error code that names the IDT entry. EXT is added by soft_fault. */
static u32 idt_error(const struct event *ev) {
    return (u32)ev->vector * 8 + 2;
}

/* RFLAGS as pushed: faults set RF so that an instruction breakpoint does not strike twice. */
static u64 pushed_flags(const struct soft_vcpu *c, const struct event *ev) {
    u64 flags = soft_rflags(c) | 2;
    return ev->kind == EVENT_FAULT ? flags | FLAG_RF : flags;
}

static void clear_flags(struct soft_vcpu *c, u64 bits) {
    c->s.rflags &= ~bits;
}

/* A gate's segment: an inner or equal, present code segment. */
static void gate_target(struct soft_vcpu *c, u16 sel, struct target *t) {
    t->sel = sel;
    if (sel_is_null(sel)) {
        soft_gp(c, 0);
    }
    desc_fetch(c, sel, &t->d, EXC_GP);
    if (!desc_is_code(&t->d) || desc_dpl(&t->d) > c->cpl) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&t->d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    t->cpl = desc_is_conforming(&t->d) ? c->cpl : desc_dpl(&t->d);
}

/* --- real mode -------------------------------------------------------------------------------- */

static void deliver_real(struct soft_vcpu *c, const struct event *ev) {
    struct stack st;
    if ((u32)ev->vector * 4 + 3 > c->s.idtr.limit) {
        soft_gp(c, idt_error(ev));
    }
    u32 entry = (u32)sys_load(c, c->s.idtr.base, (u64)ev->vector * 4, 4);
    stack_current(c, &st);
    stack_push(c, &st, 2, (u16)soft_rflags(c) | 2);
    stack_push(c, &st, 2, c->s.seg[SEG_CS].sel);
    stack_push(c, &st, 2, (u16)ev->rip);
    stack_commit_sp(c, &st);
    clear_flags(c, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
    seg_set_real(c, SEG_CS, (u16)(entry >> 16));
    soft_goto(c, entry & 0xffff);
}

/* --- protected and virtual-8086 mode ---------------------------------------------------------- */

static void push_v86_segments(struct soft_vcpu *c, struct stack *st, u32 size) {
    static const u8 order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (u32 i = 0; i < ARRAY_LEN(order); i++) {
        stack_push(c, st, size, c->s.seg[order[i]].sel);
    }
}

static void null_v86_segments(struct soft_vcpu *c) {
    static const u8 all[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (u32 i = 0; i < ARRAY_LEN(all); i++) {
        seg_set_null(&c->s.seg[all[i]], 0, 0);
    }
}

static void push_frame(struct soft_vcpu *c, struct stack *st, const struct event *ev, u32 size) {
    stack_push(c, st, size, pushed_flags(c, ev));
    stack_push(c, st, size, c->s.seg[SEG_CS].sel);
    stack_push(c, st, size, ev->rip);
    if (ev->has_error) {
        stack_push(c, st, size, ev->error);
    }
}

static void gate_flags(struct soft_vcpu *c, u32 type) {
    clear_flags(c, FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
    if (!(type & 1)) { /* interrupt gate */
        clear_flags(c, FLAG_IF);
    }
}

/* To an inner level: a stack from the TSS, with the old one on it. */
static void deliver_inner(struct soft_vcpu *c, const struct event *ev, struct target *t, u32 type) {
    u32 size = type & 8 ? 4 : 2;
    bool v86 = in_v86(c);
    struct stack st;
    struct desc ss;
    if (v86 && t->cpl != 0) {
        soft_gp(c, sel_error(t->sel));
    }
    stack_from_tss(c, &st, t->cpl, &ss);
    if (v86) {
        push_v86_segments(c, &st, size);
    }
    target_check_rip(c, t);
    stack_push(c, &st, size, c->s.seg[SEG_SS].sel);
    stack_push(c, &st, size, c->s.gpr[GPR_RSP]);
    push_frame(c, &st, ev, size);
    desc_mark_accessed(c, &ss);
    desc_mark_accessed(c, &t->d);
    gate_flags(c, type);
    if (v86) {
        null_v86_segments(c);
    }
    seg_from_desc(&c->s.seg[SEG_SS], ss.sel, &ss);
    c->s.gpr[GPR_RSP] = (u32)st.sp;
    target_commit(c, t);
}

static void deliver_same(struct soft_vcpu *c, const struct event *ev, struct target *t, u32 type) {
    struct stack st;
    if (in_v86(c) || t->cpl != c->cpl) {
        soft_gp(c, sel_error(t->sel));
    }
    target_check_rip(c, t);
    stack_current(c, &st);
    push_frame(c, &st, ev, type & 8 ? 4 : 2);
    desc_mark_accessed(c, &t->d);
    stack_commit_sp(c, &st);
    gate_flags(c, type);
    target_commit(c, t);
}

static void deliver_task(struct soft_vcpu *c, const struct event *ev, u16 sel) {
    struct stack st;
    if (ev->kind == EVENT_FAULT) { /* goes into the old task's image */
        c->s.rflags |= FLAG_RF;
    }
    task_gate(c, sel, TASK_EVENT, ev->rip);
    if (ev->has_error) {
        u32 size = (c->s.tr.attr & SEG_ATTR_TYPE) >= DESC_TSS ? 4 : 2;
        stack_current(c, &st);
        stack_push(c, &st, size, ev->error);
        stack_commit_sp(c, &st);
    }
}

static void check_gate(struct soft_vcpu *c, const struct event *ev, const struct desc *gate) {
    if (ev->kind == EVENT_SOFT && desc_dpl(gate) < c->cpl) {
        soft_gp(c, idt_error(ev));
    }
    if (!desc_present(gate)) {
        soft_fault(c, EXC_NP, true, idt_error(ev));
    }
}

static void deliver_protected(struct soft_vcpu *c, const struct event *ev) {
    struct desc gate = {0};
    struct target t;
    if ((u32)ev->vector * 8 + 7 > c->s.idtr.limit) {
        soft_gp(c, idt_error(ev));
    }
    gate.raw = sys_load(c, c->s.idtr.base, (u64)ev->vector * 8, 8);
    u32 type = desc_type(&gate);
    bool known = type == DESC_TASK_GATE || (type & ~9u) == DESC_INT16;
    if (desc_is_segment(&gate) || !known) {
        soft_gp(c, idt_error(ev));
    }
    check_gate(c, ev, &gate);
    if (type == DESC_TASK_GATE) {
        deliver_task(c, ev, (u16)(gate.raw >> 16));
        return;
    }
    gate_target(c, (u16)(gate.raw >> 16), &t);
    t.rip = (gate.raw & 0xffff) | (type & 8 ? gate.raw >> 32 & 0xffff0000 : 0);
    if (!desc_is_conforming(&t.d) && t.cpl < c->cpl) {
        deliver_inner(c, ev, &t, type);
    } else {
        deliver_same(c, ev, &t, type);
    }
}

/* --- long mode -------------------------------------------------------------------------------- */

static void long_frame(struct soft_vcpu *c, const struct event *ev, struct stack *st) {
    st->sp &= ~15ull;
    stack_push(c, st, 8, c->s.seg[SEG_SS].sel);
    stack_push(c, st, 8, c->s.gpr[GPR_RSP]);
    push_frame(c, st, ev, 8);
}

/* Long mode switches stacks by RSPn or ISTn; only a change of CPL makes SS null. */
static void long_stack(struct soft_vcpu *c, struct stack *st, u32 cpl, u32 ist) {
    u64 rsp = c->s.gpr[GPR_RSP];
    if (cpl != c->cpl || ist) {
        rsp = rsp_from_tss(c, cpl, ist);
    }
    stack_new(c, st, NULL, (u16)cpl, rsp, cpl);
    if (cpl == c->cpl && !ist) {
        st->mmu = c->mmu;
    }
}

static void deliver_long(struct soft_vcpu *c, const struct event *ev) {
    struct desc gate = {0};
    struct target t;
    struct stack st;
    if ((u32)ev->vector * 16 + 15 > c->s.idtr.limit) {
        soft_gp(c, idt_error(ev));
    }
    gate.raw = sys_load(c, c->s.idtr.base, (u64)ev->vector * 16, 8);
    gate.high = sys_load(c, c->s.idtr.base, (u64)ev->vector * 16 + 8, 8);
    u32 type = desc_type(&gate);
    if (desc_is_segment(&gate) || (type != DESC_INT && type != DESC_TRAP)) {
        soft_gp(c, idt_error(ev));
    }
    check_gate(c, ev, &gate);
    gate_target(c, (u16)(gate.raw >> 16), &t);
    if (!(desc_attr(&t.d) & SEG_ATTR_L) || (desc_attr(&t.d) & SEG_ATTR_DB)) {
        soft_gp(c, sel_error(t.sel));
    }
    t.rip = (gate.raw & 0xffff) | (gate.raw >> 32 & 0xffff0000) | gate.high << 32;
    long_stack(c, &st, t.cpl, (u32)(gate.raw >> 32) & 7);
    target_check_rip(c, &t);
    long_frame(c, ev, &st);
    desc_mark_accessed(c, &t.d);
    gate_flags(c, type);
    if (t.cpl != c->cpl) {
        c->s.seg[SEG_SS] = st.seg;
    }
    c->s.gpr[GPR_RSP] = st.sp;
    target_commit(c, &t);
}

/* --- delivery --------------------------------------------------------------------------------- */

/* What delivery does beside the frame. */
static void delivered(struct soft_vcpu *c, const struct event *ev) {
    c->s.events.shadow = 0;
    c->step_armed = false;
    if (ev->kind == EVENT_EXTERNAL && ev->vector == EXC_NMI) {
        c->s.events.nmi_blocked = true;
    }
    if (ev->vector == EXC_DB && (ev->kind == EVENT_FAULT || ev->kind == EVENT_TRAP)) {
        c->s.dr7 &= ~BIT(13);       /* GD, so that the handler may use the debug registers */
        c->s.msr.debugctl &= ~3ull; /* LBR, BTF */
    }
    soft_mode_update(c);
    c->leave |= SOFT_LEAVE_LOOP;
}

static void deliver_once(struct soft_vcpu *c, const struct event *ev) {
    c->event_ext = ev->kind != EVENT_SOFT;
    c->event_rip = ev->rip;
    if (in_real_mode(c)) {
        deliver_real(c, ev);
    } else if (c->long_mode) {
        deliver_long(c, ev);
    } else {
        deliver_protected(c, ev);
    }
    c->event_ext = false;
    delivered(c, ev);
}

/* False when a fault unwound to here. Kept apart: no local changes between setjmp and longjmp. */
static __attribute__((noinline)) bool attempt(struct soft_vcpu *c, const struct event *ev) {
    if (soft_setjmp(c->jump)) {
        return false;
    }
    deliver_once(c, ev);
    return true;
}

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE, CLASS_DOUBLE };

static enum fault_class classify(const struct event *ev) {
    if (ev->kind == EVENT_EXTERNAL || ev->kind == EVENT_SOFT) {
        return CLASS_BENIGN;
    }
    switch (ev->vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP:
        return CLASS_CONTRIBUTORY;
    case EXC_PF:
        return CLASS_PAGE;
    case EXC_DF:
        return CLASS_DOUBLE;
    default:
        return CLASS_BENIGN;
    }
}

/* Table 7-5: the fault in c->fault_* was met while delivering ev. False: shutdown. */
static bool combine(struct soft_vcpu *c, struct event *ev) {
    struct event next = {.vector = c->fault_vector,
                         .kind = EVENT_FAULT,
                         .has_error = c->fault_has_error,
                         .error = c->fault_error,
                         .rip = c->event_rip};
    enum fault_class first = classify(ev), second = classify(&next);
    bool bad = second == CLASS_CONTRIBUTORY || second == CLASS_PAGE;
    if (next.vector == EXC_PF) {
        c->s.cr2 = c->fault_cr2;
    }
    if (first == CLASS_DOUBLE && bad) {
        return false;
    }
    if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
        (first == CLASS_PAGE && bad)) {
        next.vector = EXC_DF;
        next.has_error = true;
        next.error = 0;
    }
    *ev = next;
    return true;
}

static void shut_down(struct soft_vcpu *c) {
    c->event_ext = false;
    soft_goto(c, c->event_rip);
    if (c->exit) {
        c->exit->kind = EXIT_SHUTDOWN;
        c->exit->insn_len = 0;
    }
    soft_mode_update(c);
    c->leave |= SOFT_LEAVE_EXIT;
}

void soft_deliver(struct soft_vcpu *c, u8 vector, enum soft_event kind, bool has_error, u32 error,
                  u64 return_rip) {
    struct event ev = {.vector = vector,
                       .kind = (u8)kind,
                       .has_error = has_error,
                       .error = error,
                       .rip = return_rip};
    void *outer[ARRAY_LEN(c->jump)];
    if (kind == EVENT_SOFT) { /* a fault is one of the instruction: the run loop's frame takes it */
        deliver_once(c, &ev);
        return;
    }
    if (vector == EXC_PF && kind == EVENT_FAULT) {
        c->s.cr2 = c->fault_cr2;
    }
    struct short_event e = {.vector = vector,
                            .fault = kind == EVENT_FAULT,
                            .has_error = has_error,
                            .error = error,
                            .rip = return_rip};
    if (vector != EXC_DB && LIKELY(short_deliver(c, &e))) {
        c->step_armed = false;
        c->s.events.nmi_blocked |= kind == EVENT_EXTERNAL && vector == EXC_NMI;
        return;
    }
    memcpy(outer, c->jump, sizeof(outer));
    for (u32 tries = 0; !attempt(c, &ev); tries++) {
        /* The table ends after four steps; the bound only guards against a hole in it. */
        if (!combine(c, &ev) || tries == 8) {
            shut_down(c);
            break;
        }
    }
    memcpy(c->jump, outer, sizeof(outer));
}

void soft_handle_fault(struct soft_vcpu *c) {
    u64 rip = soft_rip(c);
    c->event_ext = false; /* INT n clears it; a fault in a handler never had it */
    c->dr6_pending = 0;   /* traps of an instruction that did not complete */
    c->stats.exceptions++;
    soft_deliver(c, c->fault_vector, EVENT_FAULT, c->fault_has_error, c->fault_error, rip);
    debug_step_fault(c);
}
