/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUSH and POP of general registers, immediates and memory, PUSHA, POPA, ENTER, LEAVE.
 * Segment registers and flags are pushed and popped by seg.c and sys.c.
 *
 * Intel SDM volume 1, chapter 6; volume 2. RSP changes last, after everything that can fault.
 */
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

/* A flat stack of the operand's size. */
#define FLAT_HANDLERS(T)                                                                           \
    static inline void push_##T(struct soft_vcpu *c, T v) {                                        \
        u64 sp = (c->s.gpr[GPR_RSP] - sizeof(T)) & c->addr_mask;                                   \
        mem_store_##T(c, sp, v);                                                                   \
        c->s.gpr[GPR_RSP] = sp;                                                                    \
    }                                                                                              \
    HANDLER(push_r_##T) {                                                                          \
        push_##T(c, get_##T(c, u->src));                                                           \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(push_i_##T) {                                                                          \
        push_##T(c, (T)u->imm);                                                                    \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(pop_r_##T) {                                                                           \
        u64 sp = c->s.gpr[GPR_RSP] & c->addr_mask;                                                 \
        T v = mem_load_##T(c, sp);                                                                 \
        c->s.gpr[GPR_RSP] = (sp + sizeof(T)) & c->addr_mask;                                       \
        set_##T(c, u->dst, v);                                                                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(leave_##T) {                                                                           \
        u64 sp = c->s.gpr[GPR_RBP] & c->addr_mask;                                                 \
        T v = mem_load_##T(c, sp);                                                                 \
        c->s.gpr[GPR_RSP] = (sp + sizeof(T)) & c->addr_mask;                                       \
        c->s.gpr[GPR_RBP] = v;                                                                     \
        NEXT(c, u);                                                                                \
    }
FLAT_HANDLERS(u32)
FLAT_HANDLERS(u64)

HANDLER(push_r_any) {
    u64 sp = soft_push(c, soft_sp(c), u->opsize, soft_gpr_get(c, u->src, u->opsize));
    soft_sp_set(c, sp);
    NEXT(c, u);
}
HANDLER(push_i_any) {
    u64 sp = soft_push(c, soft_sp(c), u->opsize, u->imm);
    soft_sp_set(c, sp);
    NEXT(c, u);
}
HANDLER(pop_r_any) {
    u64 v;
    u64 sp = soft_pop(c, soft_sp(c), u->opsize, &v);
    soft_sp_set(c, sp);
    soft_gpr_set(c, u->dst, u->opsize, v);
    NEXT(c, u);
}

#define MEM_HANDLERS(T)                                                                            \
    HANDLER(push_m_##T) {                                                                          \
        T v = mem_load_##T(c, uop_addr(c, u));                                                     \
        u64 sp = soft_push(c, soft_sp(c), sizeof(T), v);                                           \
        soft_sp_set(c, sp);                                                                        \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(pop_m_##T) {                                                                           \
        u64 v;                                                                                     \
        u64 sp = soft_pop(c, soft_sp(c), sizeof(T), &v);                                           \
        mem_store_##T(c, uop_addr(c, u), (T)v);                                                    \
        soft_sp_set(c, sp);                                                                        \
        NEXT(c, u);                                                                                \
    }
FOR_WIDE(MEM_HANDLERS)

/* --- PUSHA, POPA, ENTER, LEAVE -----------------------------------------------------------------
 */

HANDLER(pusha) {
    u64 sp = soft_sp(c);
    for (u8 r = 0; r < 8; r++) {
        sp = soft_push(c, sp, u->opsize, soft_gpr_get(c, r, u->opsize));
    }
    soft_sp_set(c, sp);
    NEXT(c, u);
}

HANDLER(popa) {
    u64 v[8], sp = soft_sp(c);
    for (u32 i = 0; i < 8; i++) {
        sp = soft_pop(c, sp, u->opsize, &v[7 - i]);
    }
    for (u8 r = 0; r < 8; r++) {
        if (r != GPR_RSP) {
            soft_gpr_set(c, r, u->opsize, v[r]);
        }
    }
    soft_sp_set(c, sp);
    NEXT(c, u);
}

HANDLER(leave_any) {
    u64 v, sp = soft_pop(c, c->s.gpr[GPR_RBP], u->opsize, &v);
    soft_sp_set(c, sp);
    soft_gpr_set(c, GPR_RBP, u->opsize, v);
    NEXT(c, u);
}

/* imm: bytes to allocate, src: nesting level 0..31 */
HANDLER(enter) {
    u64 sp = soft_push(c, soft_sp(c), u->opsize, soft_gpr_get(c, GPR_RBP, u->opsize));
    u64 mask = c->mode == 64                         ? UINT64_MAX
               : c->s.seg[SEG_SS].attr & SEG_ATTR_DB ? UINT32_MAX
                                                     : UINT16_MAX;
    /* The frame pointer has the operand's size, also on a 16-bit stack. */
    u64 frame = (c->s.gpr[GPR_RSP] & ~mask) | sp, bp = c->s.gpr[GPR_RBP], v;
    for (u32 i = 1; i < u->src; i++) {
        bp -= u->opsize;
        (void)soft_pop(c, bp, u->opsize, &v);
        sp = soft_push(c, sp, u->opsize, v);
    }
    if (u->src) {
        sp = soft_push(c, sp, u->opsize, frame);
    }
    sp -= u->imm;
    u64 at = soft_linear(c, SEG_SS, sp & mask, u->opsize, ACCESS_WRITE);
    soft_lin_probe(c, at, u->opsize, ACCESS_WRITE, (enum mmu_index)c->mmu);
    soft_gpr_set(c, GPR_RBP, u->opsize, frame);
    soft_sp_set(c, sp);
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

/* 0: any, 4 or 8: flat stack of that width */
static u32 flat_size(const struct bind *b) {
    u64 flat = KEY_FLAT | KEY_SS_32;
    if (b->c->mode == 64) {
        return b->insn->opsize == 8 ? 8 : 0;
    }
    bool flat32 = b->c->mode == 32 && (b->c->mode_key & flat) == flat;
    return flat32 && b->insn->opsize == 4 ? 4 : 0;
}

static bool pick(struct bind *b, uop_fn any, uop_fn fn32, uop_fn fn64) {
    u32 flat = flat_size(b);
    b->uop->seg = SEG_SS;
    return done(b, flat == 8 ? fn64 : flat == 4 ? fn32 : any);
}

static bool bind_push(struct bind *b) {
    static const uop_fn m[] = TABLE3(push_m);
    const struct insn_operand *op = &b->insn->op[0];
    if (is_imm(op)) {
        return pick(b, push_i_any, push_i_u32, push_i_u64);
    }
    if (is_mem(op)) {
        need_mem(b, b->insn->opsize, ACCESS_READ);
        return done(b, m[size_index(b->insn->opsize)]);
    }
    if (!is_reg(op)) {
        return false; /* segment register */
    }
    b->uop->src = op->reg;
    return pick(b, push_r_any, push_r_u32, push_r_u64);
}

static bool bind_pop(struct bind *b) {
    static const uop_fn m[] = TABLE3(pop_m);
    const struct insn_operand *op = &b->insn->op[0];
    if (is_mem(op)) {
        if (b->insn->mem.base == GPR_RSP) {
            b->uop->disp += b->insn->opsize; /* the address is computed with RSP incremented */
        }
        need_mem(b, b->insn->opsize, ACCESS_WRITE);
        return done(b, m[size_index(b->insn->opsize)]);
    }
    if (!is_reg(op)) {
        return false;
    }
    b->uop->dst = op->reg;
    return pick(b, pop_r_any, pop_r_u32, pop_r_u64);
}

bool bind_stack(struct bind *b) {
    switch (b->insn->id) {
    case INSN_PUSH:
        return bind_push(b);
    case INSN_POP:
        return bind_pop(b);
    case INSN_PUSHA:
        return done(b, pusha);
    case INSN_POPA:
        return done(b, popa);
    case INSN_LEAVE:
        return pick(b, leave_any, leave_u32, leave_u64);
    case INSN_ENTER:
        b->uop->imm = b->insn->imm & 0xffff;
        b->uop->src = (u8)(b->insn->imm2 & 31);
        return done(b, enter);
    default:
        return false;
    }
}
