/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOV, PUSH and POP of segment registers, and LDS, LES, LFS, LGS, LSS.
 *
 * Intel SDM volume 2, the instructions. A load of SS by MOV or POP (not by LSS) holds interrupts
 * and debug traps back over the next instruction.
 */
#include "engines/soft/sys.h"

static void shadow_ss(struct soft_vcpu *c) {
    c->s.events.shadow |= SHADOW_MOV_SS;
    c->shadow_fresh = true;
    soft_mode_update(c);
    c->leave |= SOFT_LEAVE_LOOP;
}

static void op_mov_to_seg(struct soft_vcpu *c, const struct uop *u) {
    const struct insn_operand *src = &u->insn->op[1];
    u64 sel = src->kind == OPERAND_MEM ? soft_load(c, u, 2) : c->s.gpr[src->reg];
    soft_load_segment(c, u->dst, (u16)sel);
    if (u->dst == SEG_SS) {
        shadow_ss(c);
    }
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_mov_from_seg(struct soft_vcpu *c, const struct uop *u) {
    const struct insn_operand *dst = &u->insn->op[0];
    u16 sel = c->s.seg[u->src].sel;
    if (dst->kind == OPERAND_MEM) {
        soft_store(c, u, 2, sel);
    } else {
        soft_gpr_set(c, dst->reg, u->opsize, sel);
    }
    NEXT(c, u);
}

/* RSP moves by the operand size, but only the selector's two bytes are written, as processors do;
 * with a 64-bit operand all eight. */
static void op_push_seg(struct soft_vcpu *c, const struct uop *u) {
    struct stack st;
    u32 size = u->opsize == 8 ? 8 : 2;
    stack_current(c, &st);
    stack_skip(&st, (u64)size - u->opsize);
    stack_push(c, &st, size, c->s.seg[u->src].sel);
    stack_commit_sp(c, &st);
    NEXT(c, u);
}

/* Only the selector is read, whatever the stack pointer is moved by. */
static void op_pop_seg(struct soft_vcpu *c, const struct uop *u) {
    struct stack st;
    stack_current(c, &st);
    u64 sel = stack_pop(c, &st, 2);
    stack_skip(&st, u->opsize - 2u);
    soft_load_segment(c, u->dst, (u16)sel);
    stack_commit_sp(c, &st); /* by the old SS's width */
    if (u->dst == SEG_SS) {
        shadow_ss(c);
    }
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_load_far(struct soft_vcpu *c, const struct uop *u) {
    u16 sel;
    u64 offset = soft_load_far(c, u, u->opsize, &sel);
    soft_load_segment(c, u->src, sel);
    soft_gpr_set(c, u->dst, u->opsize, offset);
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_ud(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_ud(c);
}

static bool is_seg(const struct insn *insn, u32 n) {
    return insn->op[n].kind == OPERAND_REG && insn->op[n].reg_class == REG_SEG;
}

/* Operand n is the segment register that is loaded. */
static bool bind_to_seg(struct bind *b, u32 n, uop_fn fn) {
    u8 seg = b->insn->op[n].reg;
    b->uop->dst = seg;
    b->uop->fn = seg == SEG_CS || seg >= SEG_COUNT ? op_ud : fn;
    b->last = true;
    return true;
}

static bool bind_far(struct bind *b, u8 seg) {
    b->uop->dst = b->insn->op[0].reg;
    b->uop->src = seg;
    b->uop->fn = op_load_far;
    b->last = true;
    return true;
}

static bool bind_from_seg(struct bind *b, u32 n, uop_fn fn) {
    u8 seg = b->insn->op[n].reg;
    b->uop->src = seg;
    b->uop->fn = seg >= SEG_COUNT ? op_ud : fn;
    return true;
}

bool bind_sys_seg(struct bind *b) {
    b->uop->opsize = b->insn->opsize;
    switch (b->insn->id) {
    case INSN_MOV:
        if (is_seg(b->insn, 0)) {
            return bind_to_seg(b, 0, op_mov_to_seg);
        }
        return is_seg(b->insn, 1) && bind_from_seg(b, 1, op_mov_from_seg);
    case INSN_PUSH:
        return is_seg(b->insn, 0) && bind_from_seg(b, 0, op_push_seg);
    case INSN_POP:
        return is_seg(b->insn, 0) && bind_to_seg(b, 0, op_pop_seg);
    case INSN_LDS:
        return bind_far(b, SEG_DS);
    case INSN_LES:
        return bind_far(b, SEG_ES);
    case INSN_LSS:
        return bind_far(b, SEG_SS);
    case INSN_LFS:
        return bind_far(b, SEG_FS);
    case INSN_LGS:
        return bind_far(b, SEG_GS);
    default:
        return false;
    }
}
