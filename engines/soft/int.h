/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the integer handlers share: registers by type, flags in and out of real instructions, the
 * forms of operands.
 *
 * Arithmetic is done by the instruction itself, and the flags it leaves are kept as they are
 * (c->aflags), so that also those that the manual calls undefined are the host's. Where the flags
 * before matter (carry in, instructions that change only some), they are loaded first: bt for CF,
 * or add al,0x7f (OF) and sahf (the rest) with flags_in() in ax.
 *
 * Byte registers: the binder turns the number of a byte register into its offset in the register
 * file, so dst, src and src2 of byte operations are byte offsets; all others are register numbers.
 */
#ifndef ENGINES_SOFT_INT_H
#define ENGINES_SOFT_INT_H

#include "engines/soft/mem.h"
#include "engines/soft/soft.h"

bool bind_mov(struct bind *b);    /* int_mov.c */
bool bind_alu(struct bind *b);    /* int_alu.c */
bool bind_branch(struct bind *b); /* int_branch.c */
bool bind_stack(struct bind *b);  /* int_stack.c */
bool bind_shift(struct bind *b);  /* int_shift.c */
bool bind_bit(struct bind *b);    /* int_bit.c */
bool bind_muldiv(struct bind *b); /* int_muldiv.c */
bool bind_misc(struct bind *b);   /* int_misc.c */

/* --- registers ---------------------------------------------------------------------------------
 */

static inline u8 get_u8(const struct soft_vcpu *c, u8 at) {
    return ((const u8 *)c->s.gpr)[at];
}
static inline u16 get_u16(const struct soft_vcpu *c, u8 r) {
    return (u16)c->s.gpr[r];
}
static inline u32 get_u32(const struct soft_vcpu *c, u8 r) {
    return (u32)c->s.gpr[r];
}
static inline u64 get_u64(const struct soft_vcpu *c, u8 r) {
    return c->s.gpr[r];
}
static inline void set_u8(struct soft_vcpu *c, u8 at, u8 v) {
    ((u8 *)c->s.gpr)[at] = v;
}
static inline void set_u16(struct soft_vcpu *c, u8 r, u16 v) {
    *(u16 *)(void *)&c->s.gpr[r] = v;
}
static inline void set_u32(struct soft_vcpu *c, u8 r, u32 v) {
    c->s.gpr[r] = v;
}
static inline void set_u64(struct soft_vcpu *c, u8 r, u64 v) {
    c->s.gpr[r] = v;
}

/* --- flags -------------------------------------------------------------------------------------
 */

/* For LOAD_FLAGS, in rax. */
static inline u64 flags_in(const struct soft_vcpu *c) {
    return (c->aflags & 0xff) << 8 | (c->aflags >> 11 & 1);
}
#define LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
#define SAVE_FLAGS "\n\tpushfq\n\tpopq "

static inline bool flags_cond(u64 f, u32 cond) {
    bool r;
    switch (cond >> 1) {
    case 0:
        r = f & FLAG_OF;
        break;
    case 1:
        r = f & FLAG_CF;
        break;
    case 2:
        r = f & FLAG_ZF;
        break;
    case 3:
        r = f & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        r = f & FLAG_SF;
        break;
    case 5:
        r = f & FLAG_PF;
        break;
    case 6:
        r = (f >> 7 ^ f >> 11) & 1;
        break;
    default:
        r = ((f >> 7 ^ f >> 11) & 1) || (f & FLAG_ZF);
        break;
    }
    return r ^ (cond & 1);
}

/* --- types: suffix of the instruction, operand modifier ----------------------------------------
 */

#define SUFFIX_u8  "b"
#define SUFFIX_u16 "w"
#define SUFFIX_u32 "l"
#define SUFFIX_u64 "q"
#define MOD_u8     "b"
#define MOD_u16    "w"
#define MOD_u32    "k"
#define MOD_u64    "q"

#define FOR_TYPES(M) M(u8) M(u16) M(u32) M(u64)
#define FOR_WIDE(M)  M(u16) M(u32) M(u64)
#define TABLE4(name)                                                                               \
    { name##_u8, name##_u16, name##_u32, name##_u64 }
#define TABLE3(name)                                                                               \
    { NULL, name##_u16, name##_u32, name##_u64 }

/* Index of an operand size in a table: 0..3. */
static inline u32 size_index(u32 size) {
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

/* --- operands ----------------------------------------------------------------------------------
 */

static inline bool is_reg(const struct insn_operand *op) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR;
}
static inline bool is_mem(const struct insn_operand *op) {
    return op->kind == OPERAND_MEM;
}
static inline bool is_imm(const struct insn_operand *op) {
    return op->kind == OPERAND_IMM;
}

/* How a handler names the register: byte offset or number. */
static inline u8 reg_of(const struct insn_operand *op) {
    if (op->size != 1) {
        return op->reg;
    }
    return (u8)(op->high_byte ? (op->reg & 3) * 8 + 1 : op->reg * 8);
}

/* The handler uses uop_addr for an operand of that size. */
static inline void need_mem(struct bind *b, u32 size, enum access access) {
    b->linear = true;
    b->access_size = (u8)size;
    b->access = (u8)access;
}

static inline bool done(struct bind *b, uop_fn fn) {
    b->uop->fn = fn;
    return true;
}

/* --- fusing (int_branch.c) ---------------------------------------------------------------------
 */

/* uop.spare of what can be joined with a jump behind it: form << 2 | size index, plus FUSE. */
enum fuse_form {
    FUSE_CMP_RR,
    FUSE_CMP_RI,
    FUSE_CMP_RM,
    FUSE_CMP_MR,
    FUSE_CMP_MI,
    FUSE_TEST_RR,
    FUSE_TEST_RI,
    FUSE_TEST_MR,
    FUSE_TEST_MI,
    FUSE_FORMS
};
#define FUSE     0x100u
#define FUSE_JCC 0x200u /* uop.spare of such a jump; low bits: condition */

#endif
