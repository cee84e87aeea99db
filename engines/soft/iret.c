/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IRET, IRETD and IRETQ: real mode, virtual-8086 mode, protected mode (same level, outer level,
 * back to virtual-8086 mode, nested task), compatibility and 64-bit mode.
 *
 * Intel SDM volume 2, "IRET"; volume 3, section 7.7.1 (NMI unblocking). NMIs are unblocked also
 * when IRET itself faults. Registers change only after the last check and access.
 */
#include "engines/soft/sys.h"

/* Flags that every IRET of the mode loads; privilege adds to them. */
#define IRET_BASE  (FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT)
#define IRET_UPPER (FLAG_RF | FLAG_AC | FLAG_ID)

static void iret_real(struct soft_vcpu *c, u32 opsize) {
    struct stack st;
    u64 mask = IRET_BASE | FLAG_IF;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 sel = (u16)stack_pop(c, &st, opsize);
    u64 flags = stack_pop(c, &st, opsize);
    if (rip > c->s.seg[SEG_CS].limit) {
        soft_gp(c, 0);
    }
    if (!in_v86(c)) {
        mask |= FLAG_IOPL;
    }
    if (opsize != 2) {
        mask |= IRET_UPPER;
    }
    stack_commit_sp(c, &st);
    seg_set_real(c, SEG_CS, sel);
    soft_goto(c, rip);
    flags_load(c, flags, mask);
}

/* V86 below IOPL 3 with VME: the 16-bit form works on VIF. */
static void iret_virtual(struct soft_vcpu *c) {
    struct stack st;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, 2);
    u16 sel = (u16)stack_pop(c, &st, 2);
    u64 flags = stack_pop(c, &st, 2);
    if (rip > c->s.seg[SEG_CS].limit) {
        soft_gp(c, 0);
    }
    flags_load_virtual(c, flags);
    stack_commit_sp(c, &st);
    seg_set_real(c, SEG_CS, sel);
    soft_goto(c, rip);
    soft_mode_update(c);
}

static void iret_task(struct soft_vcpu *c) {
    struct desc d;
    u16 link = (u16)sys_load(c, c->s.tr.base, 0, 2);
    if ((link & 4) || !desc_read(c, link, &d)) {
        soft_fault(c, EXC_TS, true, sel_error(link));
    }
    u32 type = desc_type(&d);
    if (desc_is_segment(&d) || (type != DESC_TSS_BUSY && type != DESC_TSS16_BUSY)) {
        soft_fault(c, EXC_TS, true, sel_error(link));
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(link));
    }
    task_switch(c, &d, TASK_IRET, soft_rip_after(c));
}

static void iret_to_v86(struct soft_vcpu *c, struct stack *st, u64 rip, u16 cs, u64 flags) {
    static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    u16 sel[ARRAY_LEN(order)];
    u64 sp = stack_pop(c, st, 4);
    for (u32 i = 0; i < ARRAY_LEN(order); i++) {
        sel[i] = (u16)stack_pop(c, st, 4);
    }
    if (rip > 0xffff) {
        soft_gp(c, 0);
    }
    c->s.rflags |= FLAG_VM; /* seg_set_real then loads V86 segments */
    seg_set_real(c, SEG_CS, cs);
    for (u32 i = 0; i < ARRAY_LEN(order); i++) {
        seg_set_real(c, order[i], sel[i]);
    }
    c->s.gpr[GPR_RSP] = (u32)sp;
    soft_goto(c, rip);
    flags_load(c, flags,
               IRET_BASE | IRET_UPPER | FLAG_IF | FLAG_IOPL | FLAG_VM | FLAG_VIF | FLAG_VIP);
}

static u64 protected_mask(const struct soft_vcpu *c, u32 opsize) {
    u64 mask = IRET_BASE;
    if (c->cpl <= iopl(c)) {
        mask |= FLAG_IF;
    }
    if (c->cpl == 0) {
        mask |= FLAG_IOPL;
    }
    if (opsize != 2) {
        mask |= IRET_UPPER | (c->cpl == 0 ? FLAG_VIF | FLAG_VIP : 0);
    }
    return mask;
}

/* SS is checked before RIP; a bad RIP leaves both as they were. */
static void return_stack(struct soft_vcpu *c, struct target *t, u16 ss, u64 sp) {
    struct segment old = c->s.seg[SEG_SS], fresh;
    u64 old_sp = c->s.gpr[GPR_RSP], fresh_sp;
    return_load_stack(c, t, ss, sp);
    fresh = c->s.seg[SEG_SS];
    fresh_sp = c->s.gpr[GPR_RSP];
    c->s.seg[SEG_SS] = old;
    c->s.gpr[GPR_RSP] = old_sp;
    target_check_rip(c, t);
    c->s.seg[SEG_SS] = fresh;
    c->s.gpr[GPR_RSP] = fresh_sp;
}

/* The processor takes RSP and SS with the AC that it has just popped, though a fault there reports
 * the old one: seen on Sapphire Rapids, the manual does not tell. */
static void check_popped_ac(struct soft_vcpu *c, const struct stack *st, u32 opsize) {
    if (c->cpl == 3 && (c->s.cr0 & CR0_AM) && (st->sp & (opsize - 1))) {
        soft_fault(c, EXC_AC, true, 0);
    }
}

static void iret_protected(struct soft_vcpu *c, u32 opsize) {
    struct stack st;
    struct target t;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    u64 flags = stack_pop(c, &st, opsize);
    if (!c->long_mode && opsize == 4 && (flags & FLAG_VM) && c->cpl == 0) {
        iret_to_v86(c, &st, rip, cs, flags);
        return;
    }
    u64 sp = 0, mask = protected_mask(c, opsize);
    u16 ss = 0;
    bool wide = c->mode == 64; /* 64-bit mode pops SS:RSP always */
    return_check_cs(c, cs, rip, &t);
    bool outer = t.cpl > c->cpl;
    if (wide && (flags & mask & FLAG_AC)) {
        check_popped_ac(c, &st, opsize);
    }
    if (wide || outer) {
        sp = stack_pop(c, &st, opsize);
        ss = (u16)stack_pop(c, &st, opsize);
    }
    if (wide || outer) {
        return_stack(c, &t, ss, sp);
    } else {
        target_check_rip(c, &t);
        stack_commit_sp(c, &st);
    }
    desc_mark_accessed(c, &t.d);
    target_commit(c, &t);
    flags_load(c, flags, mask);
    if (outer) {
        seg_drop_privileged(c);
        soft_mode_update(c);
    }
}

void soft_iret(struct soft_vcpu *c, u32 opsize) {
    if (LIKELY(opsize == 8 && short_iret(c))) {
        return;
    }
    c->s.events.nmi_blocked = false;
    if (in_v86(c) && iopl(c) != 3) {
        if (!(c->s.cr4 & CR4_VME) || opsize != 2) {
            soft_gp(c, 0);
        }
        iret_virtual(c);
    } else if (!in_protected(c)) {
        iret_real(c, opsize);
    } else if (c->s.rflags & FLAG_NT) {
        if (c->long_mode) {
            soft_gp(c, 0);
        }
        iret_task(c);
    } else {
        iret_protected(c, opsize);
    }
    c->leave |= SOFT_LEAVE_LOOP;
}
