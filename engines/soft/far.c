/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far JMP, CALL and RET in every mode: direct, through call gates (16, 32 and 64 bit), to tasks, to
 * inner levels with parameter copy and back to outer ones.
 *
 * Intel SDM volume 2, "JMP", "CALL", "RET"; volume 3, sections 6.8 (transfers between code
 * segments) and 8.3 (task switches). Each function changes registers only after its last check and
 * access.
 */
#include "engines/soft/sys.h"

static u64 cut(u64 v, u32 size) {
    return size == 2 ? (u16)v : size == 4 ? (u32)v : v;
}

/* The next instruction's RIP as a return address of this size. */
static u64 return_rip(const struct soft_vcpu *c, u32 size) {
    return cut(soft_rip_after(c), size);
}

/* Real and V86 mode: no checks but the limit. */
static void check_real_rip(struct soft_vcpu *c, u64 rip) {
    if (rip > c->s.seg[SEG_CS].limit) {
        soft_gp(c, 0);
    }
}

/* --- code segments as targets ----------------------------------------------------------------- */

/* JMP and CALL straight to a code segment: the level does not change. */
static void direct_check(struct soft_vcpu *c, struct target *t) {
    u32 attr = desc_attr(&t->d), dpl = desc_dpl(&t->d);
    if (c->long_mode && (attr & SEG_ATTR_L) && (attr & SEG_ATTR_DB)) {
        soft_gp(c, sel_error(t->sel));
    }
    bool ok = desc_is_conforming(&t->d) ? dpl <= c->cpl : (t->sel & 3u) <= c->cpl && dpl == c->cpl;
    if (!ok) {
        soft_gp(c, sel_error(t->sel));
    }
    if (!desc_present(&t->d)) {
        soft_fault(c, EXC_NP, true, sel_error(t->sel));
    }
    t->cpl = c->cpl;
}

/* A gate may be used from CPL and RPL up to its DPL, and must be present. */
static void gate_check(struct soft_vcpu *c, const struct desc *gate) {
    if (desc_dpl(gate) < c->cpl || desc_dpl(gate) < (gate->sel & 3u)) {
        soft_gp(c, sel_error(gate->sel));
    }
    if (!desc_present(gate)) {
        soft_fault(c, EXC_NP, true, sel_error(gate->sel));
    }
}

/* The code segment behind a call gate. inner: CALL may go to a more privileged level. */
static void call_gate_target(struct soft_vcpu *c, struct desc *gate, struct target *t, bool inner) {
    u32 type = desc_type(gate);
    if (c->long_mode) {
        desc_read_high(c, gate, EXC_GP);
        if (gate->high >> 40 & 0x1f) {
            soft_gp(c, sel_error(gate->sel));
        }
    }
    gate_check(c, gate);
    t->sel = (u16)(gate->raw >> 16);
    if (sel_is_null(t->sel)) {
        soft_gp(c, 0);
    }
    desc_fetch(c, t->sel, &t->d, EXC_GP);
    u32 attr = desc_attr(&t->d), dpl = desc_dpl(&t->d);
    bool level = inner || desc_is_conforming(&t->d) ? dpl <= c->cpl : dpl == c->cpl;
    bool code64 = (attr & SEG_ATTR_L) && !(attr & SEG_ATTR_DB);
    if (!desc_is_code(&t->d) || !level || (c->long_mode && !code64)) {
        soft_gp(c, sel_error(t->sel));
    }
    if (!desc_present(&t->d)) {
        soft_fault(c, EXC_NP, true, sel_error(t->sel));
    }
    t->cpl = desc_is_conforming(&t->d) ? c->cpl : dpl;
    t->rip = gate->raw & 0xffff;
    if (type == DESC_CALL) {
        t->rip |= gate->raw >> 32 & 0xffff0000;
    }
    if (c->long_mode) {
        t->rip |= gate->high << 32;
    }
}

/* A system descriptor as target of JMP or CALL: true when it was a task and is done. */
static bool far_to_task(struct soft_vcpu *c, struct desc *d, enum task_cause cause) {
    u32 type = desc_type(d);
    bool tss = type == DESC_TSS || type == DESC_TSS16;
    if (c->long_mode || (!tss && type != DESC_TASK_GATE)) {
        return false;
    }
    gate_check(c, d);
    if (tss) {
        if (d->sel & 4) {
            soft_gp(c, sel_error(d->sel));
        }
        task_switch(c, d, cause, soft_rip_after(c));
    } else {
        task_gate(c, (u16)(d->raw >> 16), cause, soft_rip_after(c));
    }
    return true;
}

static bool is_call_gate(const struct soft_vcpu *c, const struct desc *d) {
    u32 type = desc_type(d);
    return type == DESC_CALL || (type == DESC_CALL16 && !c->long_mode);
}

/* --- JMP -------------------------------------------------------------------------------------- */

void far_jmp(struct soft_vcpu *c, u16 sel, u64 offset, u32 opsize) {
    struct target t = {.sel = sel, .rip = cut(offset, opsize)};
    if (!in_protected(c)) {
        check_real_rip(c, t.rip);
        seg_set_real(c, SEG_CS, sel);
        soft_goto(c, t.rip);
        soft_mode_update(c);
        return;
    }
    if (sel_is_null(sel)) {
        soft_gp(c, 0);
    }
    desc_fetch(c, sel, &t.d, EXC_GP);
    if (desc_is_code(&t.d)) {
        direct_check(c, &t);
    } else if (!desc_is_segment(&t.d) && is_call_gate(c, &t.d)) {
        struct desc gate = t.d;
        call_gate_target(c, &gate, &t, false);
    } else if (!desc_is_segment(&t.d) && far_to_task(c, &t.d, TASK_JMP)) {
        return;
    } else {
        soft_gp(c, sel_error(sel));
    }
    target_check_rip(c, &t);
    target_commit(c, &t);
    soft_mode_update(c);
}

/* --- CALL ------------------------------------------------------------------------------------- */

static void call_real(struct soft_vcpu *c, u16 sel, u64 rip, u32 opsize) {
    struct stack st;
    stack_current(c, &st);
    stack_push(c, &st, opsize, c->s.seg[SEG_CS].sel);
    stack_push(c, &st, opsize, return_rip(c, opsize));
    check_real_rip(c, rip);
    stack_commit_sp(c, &st);
    seg_set_real(c, SEG_CS, sel);
    soft_goto(c, rip);
    soft_mode_update(c);
}

/* On the same stack. */
static void call_same(struct soft_vcpu *c, struct target *t, u32 size) {
    struct stack st;
    stack_current(c, &st);
    if (c->long_mode) { /* the pushes are already those of the new mode */
        bool wide = desc_attr(&t->d) & SEG_ATTR_L;
        st.mask = wide ? UINT64_MAX : st.seg.attr & SEG_ATTR_DB ? UINT32_MAX : UINT16_MAX;
    }
    stack_push(c, &st, size, c->s.seg[SEG_CS].sel);
    stack_push(c, &st, size, return_rip(c, size));
    target_check_rip(c, t);
    desc_mark_accessed(c, &t->d);
    stack_commit_sp(c, &st);
    target_commit(c, t);
    soft_mode_update(c);
}

/* Copies count parameters of size bytes from the old stack to the new one, in order. */
static void copy_parameters(struct soft_vcpu *c, struct stack *to, u32 count, u32 size) {
    struct stack from;
    u64 value[32];
    stack_current(c, &from);
    for (u32 i = 0; i < count; i++) {
        value[i] = stack_pop(c, &from, size);
    }
    for (u32 i = count; i-- > 0;) {
        stack_push(c, to, size, value[i]);
    }
}

/* To an inner level: stack from the TSS, old SS:ESP and the parameters on it. */
static void call_inner(struct soft_vcpu *c, struct target *t, const struct desc *gate, u32 size) {
    struct stack st;
    struct desc ss = {0};
    if (c->long_mode) {
        stack_new(c, &st, NULL, (u16)t->cpl, rsp_from_tss(c, t->cpl, 0), t->cpl);
    } else {
        stack_from_tss(c, &st, t->cpl, &ss);
    }
    target_check_rip(c, t);
    stack_push(c, &st, size, c->s.seg[SEG_SS].sel);
    stack_push(c, &st, size, c->s.gpr[GPR_RSP]);
    if (!c->long_mode) {
        copy_parameters(c, &st, (u32)(gate->raw >> 32) & 31, size);
    }
    stack_push(c, &st, size, c->s.seg[SEG_CS].sel);
    stack_push(c, &st, size, return_rip(c, size));
    desc_mark_accessed(c, &t->d);
    if (!c->long_mode) {
        desc_mark_accessed(c, &ss);
        seg_from_desc(&st.seg, ss.sel, &ss);
    }
    c->s.seg[SEG_SS] = st.seg;
    c->s.gpr[GPR_RSP] = c->long_mode ? st.sp : (u32)st.sp;
    target_commit(c, t);
    soft_mode_update(c);
}

static void call_through_gate(struct soft_vcpu *c, struct desc *gate) {
    struct target t;
    u32 size = c->long_mode ? 8 : desc_type(gate) == DESC_CALL ? 4 : 2;
    call_gate_target(c, gate, &t, true);
    if (t.cpl < c->cpl) {
        call_inner(c, &t, gate, size);
    } else {
        call_same(c, &t, size);
    }
}

void far_call(struct soft_vcpu *c, u16 sel, u64 offset, u32 opsize) {
    struct target t = {.sel = sel, .rip = cut(offset, opsize)};
    if (!in_protected(c)) {
        call_real(c, sel, t.rip, opsize);
        return;
    }
    if (sel_is_null(sel)) {
        soft_gp(c, 0);
    }
    desc_fetch(c, sel, &t.d, EXC_GP);
    if (desc_is_code(&t.d)) {
        direct_check(c, &t);
        call_same(c, &t, opsize);
    } else if (!desc_is_segment(&t.d) && is_call_gate(c, &t.d)) {
        call_through_gate(c, &t.d);
    } else if (desc_is_segment(&t.d) || !far_to_task(c, &t.d, TASK_CALL)) {
        soft_gp(c, sel_error(sel));
    }
}

/* --- RET -------------------------------------------------------------------------------------- */

void return_check_cs(struct soft_vcpu *c, u16 sel, u64 rip, struct target *t) {
    t->sel = sel;
    t->rip = rip;
    t->cpl = sel & 3u;
    if (sel_is_null(sel)) {
        soft_gp(c, 0);
    }
    desc_fetch(c, sel, &t->d, EXC_GP);
    u32 attr = desc_attr(&t->d), dpl = desc_dpl(&t->d);
    bool level = desc_is_conforming(&t->d) ? dpl <= t->cpl : dpl == t->cpl;
    bool bits = !c->long_mode || !(attr & SEG_ATTR_L) || !(attr & SEG_ATTR_DB);
    if (!desc_is_code(&t->d) || t->cpl < c->cpl || !level || !bits) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&t->d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
}

void return_load_stack(struct soft_vcpu *c, const struct target *t, u16 sel, u64 sp) {
    bool code64 = c->long_mode && (desc_attr(&t->d) & SEG_ATTR_L);
    struct segment seg;
    struct desc d;
    if (sel_is_null(sel)) {
        if (!code64 || t->cpl == 3 || (sel & 3u) != t->cpl) {
            soft_gp(c, sel_error(sel));
        }
        seg_set_null(&seg, sel, t->cpl);
    } else {
        seg_check_stack(c, sel, t->cpl, &d, EXC_GP);
        desc_mark_accessed(c, &d);
        seg_from_desc(&seg, sel, &d);
    }
    c->s.seg[SEG_SS] = seg;
    if (code64) {
        c->s.gpr[GPR_RSP] = sp;
    } else if (seg.attr & SEG_ATTR_DB) {
        c->s.gpr[GPR_RSP] = (u32)sp;
    } else { /* a 16-bit stack: the upper half stays, as on the processor */
        c->s.gpr[GPR_RSP] = (u32)(c->s.gpr[GPR_RSP] & 0xffff0000) | (u16)sp;
    }
}

/* Takes bytes from the stack: CS is loaded by then, so that in a 64-bit segment all of RSP counts,
 * whatever SS is. */
static void ret_drop(struct soft_vcpu *c, const struct target *t, u64 bytes) {
    bool code64 = c->long_mode && (desc_attr(&t->d) & SEG_ATTR_L);
    struct stack st = {.sp = c->s.gpr[GPR_RSP], .mask = 0xffff};
    if (code64) {
        st.mask = UINT64_MAX;
    } else if (c->s.seg[SEG_SS].attr & SEG_ATTR_DB) {
        st.mask = UINT32_MAX;
    }
    stack_skip(&st, bytes);
    c->s.gpr[GPR_RSP] = st.sp;
}

static void ret_outer(struct soft_vcpu *c, struct stack *st, struct target *t, u32 opsize,
                      u32 drop) {
    stack_skip(st, drop);
    u64 sp = stack_pop(c, st, opsize);
    u16 ss = (u16)stack_pop(c, st, opsize);
    target_check_rip(c, t);
    desc_mark_accessed(c, &t->d);
    return_load_stack(c, t, ss, sp);
    ret_drop(c, t, drop); /* the parameters are dropped from the caller's stack too */
    target_commit(c, t);
    soft_mode_update(c);
    seg_drop_privileged(c);
    soft_mode_update(c);
}

void far_ret(struct soft_vcpu *c, u32 opsize, u32 drop) {
    struct stack st;
    struct target t;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 sel = (u16)stack_pop(c, &st, opsize);
    if (!in_protected(c)) {
        check_real_rip(c, rip);
        stack_skip(&st, drop);
        stack_commit_sp(c, &st);
        seg_set_real(c, SEG_CS, sel);
        soft_goto(c, rip);
        soft_mode_update(c);
        return;
    }
    return_check_cs(c, sel, rip, &t);
    if (t.cpl > c->cpl) {
        ret_outer(c, &st, &t, opsize, drop);
        return;
    }
    target_check_rip(c, &t);
    desc_mark_accessed(c, &t.d);
    /* one addition, of a number as wide as the old stack pointer: that is what the processor does
     */
    ret_drop(c, &t, (drop + 2 * opsize) & st.mask);
    target_commit(c, &t);
    soft_mode_update(c);
}
