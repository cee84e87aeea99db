/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binding of the instructions that change control and privilege: far JMP, CALL and RET, INT n,
 * INT3, INT1, INTO, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT. What they do is in far.c, exc.c,
 * iret.c and syscall.c; all end their block.
 *
 * Intel SDM volume 2, the instructions; volume 3, section 22.3 (interrupts in virtual-8086 mode)
 * and table 22-2 (VME).
 */
#include "engines/soft/sys.h"

/* --- far pointers ----------------------------------------------------------------------------- */

/* The far pointer of the instruction: immediate, or opsize bytes of offset and two of selector in
 * memory. */
static u64 far_pointer(struct soft_vcpu *c, const struct uop *u, u16 *sel) {
    const struct insn *insn = u->insn;
    if (insn->op[0].kind == OPERAND_FAR) {
        *sel = (u16)insn->imm2;
        return insn->imm;
    }
    return soft_load_far(c, u, u->opsize, sel);
}

u64 soft_load_far(struct soft_vcpu *c, const struct uop *u, u32 size, u16 *sel) {
    u64 at = soft_ea(c, u);
    u64 mask = u->addrsize == 8 ? UINT64_MAX : u->addrsize == 4 ? UINT32_MAX : UINT16_MAX;
    u64 offset = soft_lin_load(c, soft_linear(c, u->seg, at, size, ACCESS_READ), size, c->mmu);
    at = (at + size) & mask;
    *sel = (u16)soft_lin_load(c, soft_linear(c, u->seg, at, 2, ACCESS_READ), 2, c->mmu);
    return offset;
}

static void op_jmp_far(struct soft_vcpu *c, const struct uop *u) {
    u16 sel;
    u64 offset = far_pointer(c, u, &sel);
    far_jmp(c, sel, offset, u->opsize);
}

static void op_call_far(struct soft_vcpu *c, const struct uop *u) {
    u16 sel;
    u64 offset = far_pointer(c, u, &sel);
    far_call(c, sel, offset, u->opsize);
}

static void op_ret_far(struct soft_vcpu *c, const struct uop *u) {
    far_ret(c, u->opsize, (u32)u->insn->imm);
}

/* --- software interrupts ---------------------------------------------------------------------- */

/* VME: does the redirection bitmap (32 bytes below the I/O bitmap) send INT n to the V86 handler?
 */
static bool vme_redirected(struct soft_vcpu *c, u8 vector) {
    if (103 > c->s.tr.limit) {
        soft_gp(c, 0);
    }
    u32 map = (u32)sys_load(c, c->s.tr.base, 102, 2);
    u32 at = map - 32 + vector / 8;
    if (map < 32 || at > c->s.tr.limit) {
        soft_gp(c, 0);
    }
    return !(sys_load(c, c->s.tr.base, at, 1) >> (vector % 8) & 1);
}

/* Through the interrupt table at linear 0, as in real mode; below IOPL 3 VIF stands for IF. */
static void vme_interrupt(struct soft_vcpu *c, u8 vector) {
    struct stack st;
    bool virtual = iopl(c) != 3;
    u64 flags = soft_rflags(c) | 2;
    if (virtual) {
        flags |= FLAG_IOPL;
        flags = flags & FLAG_VIF ? flags | FLAG_IF : flags & ~(u64)FLAG_IF;
    }
    u32 entry = (u32)soft_lin_load(c, (u64)vector * 4, 4, c->mmu_implicit);
    stack_current(c, &st);
    stack_push(c, &st, 2, flags & 0xffff);
    stack_push(c, &st, 2, c->s.seg[SEG_CS].sel);
    stack_push(c, &st, 2, soft_rip_after(c) & 0xffff);
    stack_commit_sp(c, &st);
    seg_set_real(c, SEG_CS, (u16)(entry >> 16));
    soft_goto(c, entry & 0xffff);
    flags_load(c, 0, FLAG_TF | FLAG_NT | (virtual ? FLAG_VIF : FLAG_IF));
}

static void op_int(struct soft_vcpu *c, const struct uop *u) {
    u8 vector = (u8)u->insn->imm;
    if (in_v86(c)) {
        if ((c->s.cr4 & CR4_VME) && vme_redirected(c, vector)) {
            vme_interrupt(c, vector);
            return;
        }
        if (iopl(c) != 3) {
            soft_gp(c, 0);
        }
    }
    soft_deliver(c, vector, EVENT_SOFT, false, 0, soft_rip_after(c));
}

static void op_int3(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    if (c->debug.enabled && c->exit) {
        c->exit->kind = EXIT_DEBUG;
        c->exit->insn_len = 1;
        c->exit->debug.rip = soft_rip(c);
        c->exit->debug.dr6 = 0;
        c->exit->debug.int3 = true;
        c->leave |= SOFT_LEAVE_EXIT;
        GOTO_RIP(c, soft_rip(c));
    }
    soft_deliver(c, EXC_BP, EVENT_SOFT, false, 0, soft_rip_after(c));
}

static void op_into(struct soft_vcpu *c, const struct uop *u) {
    if (!(c->aflags & FLAG_OF)) {
        NEXT(c, u);
    }
    soft_deliver(c, EXC_OF, EVENT_SOFT, false, 0, soft_rip_after(c));
}

/* INT1 is a trap by itself: no DPL check, EXT set in nested error codes. */
static void op_int1(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_deliver(c, EXC_DB, EVENT_TRAP, false, 0, soft_rip_after(c));
}

/* --- IRET, fast system calls ------------------------------------------------------------------ */

static void op_iret(struct soft_vcpu *c, const struct uop *u) {
    soft_iret(c, u->opsize);
}

static void op_syscall(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_syscall(c);
}

static void op_sysret(struct soft_vcpu *c, const struct uop *u) {
    soft_sysret(c, u->opsize);
}

static void op_sysenter(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_sysenter(c);
}

static void op_sysexit(struct soft_vcpu *c, const struct uop *u) {
    soft_sysexit(c, u->opsize);
}

/* --- binding ---------------------------------------------------------------------------------- */

static const struct {
    u16 id;
    uop_fn fn;
} table[] = {
    {INSN_JMP_FAR, op_jmp_far}, {INSN_CALL_FAR, op_call_far}, {INSN_RET_FAR, op_ret_far},
    {INSN_INT, op_int},         {INSN_INT3, op_int3},         {INSN_INT1, op_int1},
    {INSN_INTO, op_into},       {INSN_IRET, op_iret},         {INSN_SYSCALL, op_syscall},
    {INSN_SYSRET, op_sysret},   {INSN_SYSENTER, op_sysenter}, {INSN_SYSEXIT, op_sysexit},
};

bool bind_sys_transfer(struct bind *b) {
    for (u32 i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].id == b->insn->id) {
            b->uop->fn = table[i].fn;
            b->uop->opsize = b->insn->opsize;
            b->last = true;
            return true;
        }
    }
    return false;
}
