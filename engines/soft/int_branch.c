/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Near control flow: JMP, Jcc, JCXZ, LOOP, CALL, RET; SETcc and CMOVcc; and the joining of a
 * comparison with the conditional jump behind it into one micro-operation.
 *
 * Targets are kept relative to the block's start, so that a block runs at any linear address: imm
 * is the branch target, disp the instruction's end. Outside 64-bit mode a target is cut to the
 * operand size and checked against the limit of CS. Intel SDM volume 1, section 7.3.8; volume 2.
 */
#include "engines/soft/block.h"
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

/* Target of an indirect or 16/32-bit branch: #GP where it may not go. */
static inline u64 check_target(struct soft_vcpu *c, u64 rip, u8 opsize) {
    if (c->mode == 64) {
        if (UNLIKELY((u64)((s64)(rip << 16) >> 16) != rip)) {
            soft_gp(c, 0);
        }
        return rip;
    }
    rip &= opsize == 2 ? UINT16_MAX : UINT32_MAX;
    if (UNLIKELY(rip > c->cs_limit)) {
        soft_gp(c, 0);
    }
    return rip;
}

static inline u64 branch_to(struct soft_vcpu *c, const struct uop *u) {
    return check_target(c, c->block_rip + u->imm, u->opsize);
}
static inline u64 branch_end(const struct soft_vcpu *c, const struct uop *u) {
    return (c->block_rip + (u64)(s64)u->disp) & c->addr_mask;
}

/* --- JMP, Jcc ----------------------------------------------------------------------------------
 */

HANDLER(jmp_rel) {
    GOTO_RIP(c, c->block_rip + u->imm);
}
HANDLER(jmp_rel_checked) {
    GOTO_RIP(c, branch_to(c, u));
}

#define TARGET_REG(T)                                                                              \
    HANDLER(jmp_r_##T) {                                                                           \
        GOTO_RIP(c, check_target(c, get_##T(c, u->src), u->opsize));                               \
    }                                                                                              \
    HANDLER(jmp_m_##T) {                                                                           \
        GOTO_RIP(c, check_target(c, mem_load_##T(c, uop_addr(c, u)), u->opsize));                  \
    }
FOR_WIDE(TARGET_REG)

#define FOR_CONDITIONS(M, ...)                                                                     \
    M(0, "o", __VA_ARGS__)                                                                         \
    M(1, "no", __VA_ARGS__)                                                                        \
    M(2, "c", __VA_ARGS__)                                                                         \
    M(3, "nc", __VA_ARGS__)                                                                        \
    M(4, "z", __VA_ARGS__)                                                                         \
    M(5, "nz", __VA_ARGS__)                                                                        \
    M(6, "be", __VA_ARGS__)                                                                        \
    M(7, "nbe", __VA_ARGS__)                                                                       \
    M(8, "s", __VA_ARGS__)                                                                         \
    M(9, "ns", __VA_ARGS__)                                                                        \
    M(10, "p", __VA_ARGS__)                                                                        \
    M(11, "np", __VA_ARGS__)                                                                       \
    M(12, "l", __VA_ARGS__)                                                                        \
    M(13, "nl", __VA_ARGS__)                                                                       \
    M(14, "le", __VA_ARGS__)                                                                       \
    M(15, "nle", __VA_ARGS__)

#define JCC_HANDLERS(n, name, _)                                                                   \
    HANDLER(jcc_##n) {                                                                             \
        GOTO_RIP(c, c->block_rip + (flags_cond(c->aflags, n) ? u->imm : (u64)(s64)u->disp));       \
    }                                                                                              \
    HANDLER(jcc_checked_##n) {                                                                     \
        GOTO_RIP(c, flags_cond(c->aflags, n) ? branch_to(c, u) : branch_end(c, u));                \
    }
FOR_CONDITIONS(JCC_HANDLERS, )

#define NAME_JCC(n, name, _)         jcc_##n,
#define NAME_JCC_CHECKED(n, name, _) jcc_checked_##n,
static const uop_fn jcc_table[16] = {FOR_CONDITIONS(NAME_JCC, )};
static const uop_fn jcc_checked_table[16] = {FOR_CONDITIONS(NAME_JCC_CHECKED, )};

/* JCXZ, LOOP, LOOPE, LOOPNE: the counter has the address size. */
static inline u64 counter_mask(const struct uop *u) {
    return u->addrsize == 8 ? UINT64_MAX : u->addrsize == 4 ? UINT32_MAX : UINT16_MAX;
}

HANDLER(jcxz) {
    bool taken = !(c->s.gpr[GPR_RCX] & counter_mask(u));
    GOTO_RIP(c, taken ? branch_to(c, u) : branch_end(c, u));
}

static void loop_if(struct soft_vcpu *c, const struct uop *u, bool cond) {
    u64 count = (c->s.gpr[GPR_RCX] - 1) & counter_mask(u);
    u64 rip = count && cond ? branch_to(c, u) : branch_end(c, u);
    soft_gpr_set(c, GPR_RCX, u->addrsize, count);
    GOTO_RIP(c, rip);
}
HANDLER(loop) {
    loop_if(c, u, true);
}
HANDLER(loope) {
    loop_if(c, u, c->aflags & FLAG_ZF);
}
HANDLER(loopne) {
    loop_if(c, u, !(c->aflags & FLAG_ZF));
}

/* --- CALL, RET ---------------------------------------------------------------------------------
 */

/* A flat stack of the operand's size: 64-bit mode, or 32-bit code with flat segments. */
#define FLAT_HANDLERS(T)                                                                           \
    HANDLER(call_rel_##T) {                                                                        \
        u64 sp = (c->s.gpr[GPR_RSP] - sizeof(T)) & c->addr_mask;                                   \
        mem_store_##T(c, sp, (T)(c->block_rip + (u64)(s64)u->disp));                               \
        c->s.gpr[GPR_RSP] = sp;                                                                    \
        GOTO_RIP(c, (c->block_rip + u->imm) & c->addr_mask);                                       \
    }                                                                                              \
    HANDLER(call_r_##T) {                                                                          \
        u64 sp = (c->s.gpr[GPR_RSP] - sizeof(T)) & c->addr_mask;                                   \
        mem_store_##T(c, sp, (T)(c->block_rip + (u64)(s64)u->disp));                               \
        u64 to = check_target(c, get_##T(c, u->src), sizeof(T));                                   \
        c->s.gpr[GPR_RSP] = sp;                                                                    \
        GOTO_RIP(c, to);                                                                           \
    }                                                                                              \
    HANDLER(ret_##T) {                                                                             \
        u64 sp = c->s.gpr[GPR_RSP] & c->addr_mask;                                                 \
        u64 to = check_target(c, mem_load_##T(c, sp), sizeof(T));                                  \
        c->s.gpr[GPR_RSP] = (sp + sizeof(T) + u->imm) & c->addr_mask;                              \
        GOTO_RIP(c, to);                                                                           \
    }
FLAT_HANDLERS(u32)
FLAT_HANDLERS(u64)

static void call_to(struct soft_vcpu *c, const struct uop *u, u64 target) {
    u64 sp = soft_push(c, soft_sp(c), u->opsize, soft_rip_after(c) & c->addr_mask);
    u64 to = check_target(c, target, u->opsize);
    soft_sp_set(c, sp);
    GOTO_RIP(c, to);
}

HANDLER(call_rel_any) {
    call_to(c, u, c->block_rip + u->imm);
}
HANDLER(call_r_any) {
    call_to(c, u, soft_gpr_get(c, u->src, u->opsize));
}
#define CALL_MEM(T)                                                                                \
    HANDLER(call_m_##T) {                                                                          \
        call_to(c, u, mem_load_##T(c, uop_addr(c, u)));                                            \
    }
FOR_WIDE(CALL_MEM)

HANDLER(ret_any) {
    u64 value;
    u64 sp = soft_pop(c, soft_sp(c), u->opsize, &value);
    u64 to = check_target(c, value, u->opsize);
    soft_sp_set(c, sp + u->imm);
    GOTO_RIP(c, to);
}

/* --- SETcc, CMOVcc -----------------------------------------------------------------------------
 */

#define SETCC_HANDLERS(n, name, _)                                                                 \
    HANDLER(setcc_r_##n) {                                                                         \
        set_u8(c, u->dst, flags_cond(c->aflags, n));                                               \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(setcc_m_##n) {                                                                         \
        mem_store_u8(c, uop_addr(c, u), flags_cond(c->aflags, n));                                 \
        NEXT(c, u);                                                                                \
    }
FOR_CONDITIONS(SETCC_HANDLERS, )
#define NAME_SETCC_R(n, name, _) setcc_r_##n,
#define NAME_SETCC_M(n, name, _) setcc_m_##n,
static const uop_fn setcc_table[2][16] = {{FOR_CONDITIONS(NAME_SETCC_R, )},
                                          {FOR_CONDITIONS(NAME_SETCC_M, )}};

/* The load happens either way, and a 32-bit destination is zero-extended either way. */
#define CMOV_HANDLERS(n, name, T)                                                                  \
    HANDLER(cmov_r_##T##_##n) {                                                                    \
        T v = flags_cond(c->aflags, n) ? get_##T(c, u->src) : get_##T(c, u->dst);                  \
        set_##T(c, u->dst, v);                                                                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(cmov_m_##T##_##n) {                                                                    \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_##T(c, u->dst, flags_cond(c->aflags, n) ? m : get_##T(c, u->dst));                     \
        NEXT(c, u);                                                                                \
    }
FOR_CONDITIONS(CMOV_HANDLERS, u16)
FOR_CONDITIONS(CMOV_HANDLERS, u32)
FOR_CONDITIONS(CMOV_HANDLERS, u64)
#define NAME_CMOV_R(n, name, T) cmov_r_##T##_##n,
#define NAME_CMOV_M(n, name, T) cmov_m_##T##_##n,
#define CMOV_TABLE(T)                                                                              \
    {                                                                                              \
        {FOR_CONDITIONS(NAME_CMOV_R, T)}, {                                                        \
            FOR_CONDITIONS(NAME_CMOV_M, T)                                                         \
        }                                                                                          \
    }
static const uop_fn cmov_table[3][2][16] = {CMOV_TABLE(u16), CMOV_TABLE(u32), CMOV_TABLE(u64)};

/* --- comparison and jump in one ----------------------------------------------------------------
 */

#define FUSED(form, op, T, n, name, load, a, b)                                                    \
    HANDLER(fused_##form##_##T##_##n) {                                                            \
        u64 f;                                                                                     \
        bool taken;                                                                                \
        load;                                                                                      \
        __asm__(#op SUFFIX_##T " %" MOD_##T "3, %" MOD_##T "2" SAVE_FLAGS "%q0"                    \
                : "=r"(f), "=@cc" name(taken)                                                      \
                : "q"((T)(a)), "q"((T)(b)));                                                       \
        c->aflags = f;                                                                             \
        GOTO_RIP(c, (c->block_rip + (taken ? u[1].imm : (u64)(s64)u[1].disp)) & c->addr_mask);     \
    }

#define NO_LOAD(T)  (void)0
#define MEM_LOAD(T) T m = mem_load_##T(c, uop_addr(c, u))

#define FUSED_ALL(n, name, T)                                                                      \
    FUSED(cmp_rr, cmp, T, n, name, NO_LOAD(T), get_##T(c, u->dst), get_##T(c, u->src))             \
    FUSED(cmp_ri, cmp, T, n, name, NO_LOAD(T), get_##T(c, u->dst), u->imm)                         \
    FUSED(cmp_rm, cmp, T, n, name, MEM_LOAD(T), get_##T(c, u->dst), m)                             \
    FUSED(cmp_mr, cmp, T, n, name, MEM_LOAD(T), m, get_##T(c, u->src))                             \
    FUSED(cmp_mi, cmp, T, n, name, MEM_LOAD(T), m, u->imm)                                         \
    FUSED(test_rr, test, T, n, name, NO_LOAD(T), get_##T(c, u->dst), get_##T(c, u->src))           \
    FUSED(test_ri, test, T, n, name, NO_LOAD(T), get_##T(c, u->dst), u->imm)                       \
    FUSED(test_mr, test, T, n, name, MEM_LOAD(T), m, get_##T(c, u->src))                           \
    FUSED(test_mi, test, T, n, name, MEM_LOAD(T), m, u->imm)
FOR_CONDITIONS(FUSED_ALL, u8)
FOR_CONDITIONS(FUSED_ALL, u32)
FOR_CONDITIONS(FUSED_ALL, u64)

#define NAME_FUSED(n, name, form_type) fused_##form_type##_##n,
#define FUSED_ROW(form)                                                                            \
    {                                                                                              \
        {FOR_CONDITIONS(NAME_FUSED, form##_u8)}, {0}, {FOR_CONDITIONS(NAME_FUSED, form##_u32)}, {  \
            FOR_CONDITIONS(NAME_FUSED, form##_u64)                                                 \
        }                                                                                          \
    }
static const uop_fn fused_table[FUSE_FORMS][4][16] = {
    FUSED_ROW(cmp_rr),  FUSED_ROW(cmp_ri),  FUSED_ROW(cmp_rm),
    FUSED_ROW(cmp_mr),  FUSED_ROW(cmp_mi),  FUSED_ROW(test_rr),
    FUSED_ROW(test_ri), FUSED_ROW(test_mr), FUSED_ROW(test_mi),
};

void soft_fuse(struct uop *uop, u32 count) {
    if (count < 2 || !(uop[count - 1].spare & FUSE_JCC) || !(uop[count - 2].spare & FUSE)) {
        return;
    }
    u32 cond = uop[count - 1].spare & 15, code = uop[count - 2].spare & 0xff;
    if (uop[count - 2].fn == uop_linear || code >> 2 >= FUSE_FORMS) {
        return;
    }
    uop_fn fn = fused_table[code >> 2][code & 3][cond];
    if (fn) {
        uop[count - 2].fn = fn;
    }
}

/* --- binding -----------------------------------------------------------------------------------
 */

/* imm: target, disp: end, both from the block's start. */
static void set_targets(struct bind *b) {
    struct uop *u = b->uop;
    u->disp = u->offset + u->len;
    u->imm += (u64)(s64)u->disp;
    b->last = true;
}

/* Targets need no check: 64-bit mode, or flat CS and the operand size of the mode. */
static bool unchecked(const struct bind *b) {
    return b->c->mode == 64;
}

static bool flat_stack(const struct bind *b) {
    u64 flat = KEY_FLAT | KEY_SS_32;
    if (b->c->mode == 64) {
        return b->insn->opsize == 8;
    }
    return b->c->mode == 32 && b->insn->opsize == 4 && (b->c->mode_key & flat) == flat;
}

static bool bind_jcc(struct bind *b) {
    u8 cond = b->insn->cond & 15;
    set_targets(b);
    bool flat32 = b->c->mode == 32 && b->c->seg_flat && b->insn->opsize == 4;
    if (unchecked(b) || flat32) {
        b->uop->spare = (u16)(FUSE_JCC | cond);
    }
    return done(b, unchecked(b) ? jcc_table[cond] : jcc_checked_table[cond]);
}

static bool bind_jmp(struct bind *b) {
    static const uop_fn r[] = TABLE3(jmp_r), m[] = TABLE3(jmp_m);
    const struct insn_operand *op = &b->insn->op[0];
    b->last = true;
    if (op->kind == OPERAND_REL) {
        set_targets(b);
        return done(b, unchecked(b) ? jmp_rel : jmp_rel_checked);
    }
    u32 i = size_index(op->size);
    if (is_mem(op)) {
        need_mem(b, op->size, ACCESS_READ);
        return done(b, m[i]);
    }
    b->uop->src = reg_of(op);
    return done(b, r[i]);
}

static bool bind_call(struct bind *b) {
    static const uop_fn m[] = TABLE3(call_m);
    const struct insn_operand *op = &b->insn->op[0];
    bool flat = flat_stack(b), wide = b->insn->opsize == 8;
    u64 imm = b->uop->imm;
    if (is_mem(op)) { /* disp belongs to the address; the end follows from offset and len */
        need_mem(b, op->size, ACCESS_READ);
        b->last = true;
        return done(b, m[size_index(op->size)]);
    }
    set_targets(b);
    b->uop->seg = SEG_SS;
    if (op->kind == OPERAND_REL) {
        return done(b, !flat ? call_rel_any : wide ? call_rel_u64 : call_rel_u32);
    }
    b->uop->imm = imm;
    b->uop->src = reg_of(op);
    return done(b, !flat ? call_r_any : wide ? call_r_u64 : call_r_u32);
}

static bool bind_ret(struct bind *b) {
    bool flat = flat_stack(b);
    b->uop->seg = SEG_SS;
    b->uop->imm = b->insn->imm_size ? b->uop->imm & 0xffff : 0;
    b->last = true;
    return done(b, !flat ? ret_any : b->insn->opsize == 8 ? ret_u64 : ret_u32);
}

static bool bind_setcc(struct bind *b) {
    const struct insn_operand *op = &b->insn->op[0];
    if (is_mem(op)) {
        need_mem(b, 1, ACCESS_WRITE);
    } else {
        b->uop->dst = reg_of(op);
    }
    return done(b, setcc_table[is_mem(op)][b->insn->cond & 15]);
}

static bool bind_cmov(struct bind *b) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    b->uop->dst = reg_of(dst);
    if (is_mem(src)) {
        need_mem(b, dst->size, ACCESS_READ);
    } else {
        b->uop->src = reg_of(src);
    }
    return done(b, cmov_table[size_index(dst->size) - 1][is_mem(src)][b->insn->cond & 15]);
}

static bool bind_loop(struct bind *b, uop_fn fn) {
    set_targets(b);
    return done(b, fn);
}

bool bind_branch(struct bind *b) {
    switch (b->insn->id) {
    case INSN_JCC:
        return bind_jcc(b);
    case INSN_JMP:
        return bind_jmp(b);
    case INSN_CALL:
        return bind_call(b);
    case INSN_RET:
        return bind_ret(b);
    case INSN_SETCC:
        return bind_setcc(b);
    case INSN_CMOVCC:
        return bind_cmov(b);
    case INSN_JCXZ:
        return bind_loop(b, jcxz);
    case INSN_LOOP:
        return bind_loop(b, loop);
    case INSN_LOOPE:
        return bind_loop(b, loope);
    case INSN_LOOPNE:
        return bind_loop(b, loopne);
    default:
        return false;
    }
}
