/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ROL ROR RCL RCR SHL SHR SAR by 1, immediate and CL; SHLD, SHRD. Intel SDM volume 2.
 *
 * Rotates change only CF and OF and a count of zero changes nothing, so the instruction runs on the
 * guest's flags: undefined ones come out as the host has them.
 */
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

#define OP_SHIFT(op, T)                                                                            \
    static inline T do_##op##_##T(struct soft_vcpu *c, T a, u8 count) {                            \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS #op SUFFIX_##T " %%cl, %" MOD_##T "[v]" SAVE_FLAGS "%%rax"              \
                : [v] "+q"(a), "+&a"(f)                                                            \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }

#define RMW_SHIFT(op, T, count)                                                                    \
    do {                                                                                           \
        u64 at = uop_addr(c, u);                                                                   \
        u64 before = c->aflags;                                                                    \
        void *p = mem_rmw(c, at, sizeof(T));                                                       \
        T v = p ? RAM_AT(T, p) : (T)soft_rmw_load(c, at, sizeof(T));                               \
        T r = do_##op##_##T(c, v, (count));                                                        \
        if (LIKELY(p)) {                                                                           \
            RAM_AT(T, p) = r;                                                                      \
        } else {                                                                                   \
            u64 after = c->aflags;                                                                 \
            c->aflags = before;                                                                    \
            soft_store_slow(c, at, sizeof(T), r);                                                  \
            c->aflags = after;                                                                     \
        }                                                                                          \
    } while (0)

#define SHIFT_HANDLERS(op, T)                                                                      \
    OP_SHIFT(op, T)                                                                                \
    HANDLER(op##_rc_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), (u8)c->s.gpr[GPR_RCX]));           \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    GUEST_RAM HANDLER(op##_mc_##T) {                                                               \
        RMW_SHIFT(op, T, (u8)c->s.gpr[GPR_RCX]);                                                   \
        NEXT(c, u);                                                                                \
    }

#define SHIFT_MEM_IMM(op, T)                                                                       \
    GUEST_RAM HANDLER(op##_mi_##T) {                                                               \
        RMW_SHIFT(op, T, (u8)u->imm);                                                              \
        NEXT(c, u);                                                                                \
    }
#define SHIFT_IMM(op, T)                                                                           \
    HANDLER(op##_ri_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), (u8)u->imm));                      \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    SHIFT_MEM_IMM(op, T)

/* rotate.S */
extern const u8 soft_rol_u8[], soft_rol_u16[], soft_rol_u32[], soft_rol_u64[];
extern const u8 soft_ror_u8[], soft_ror_u16[], soft_ror_u32[], soft_ror_u64[];

#define ROTATE_REG_IMM(op, T)                                                                      \
    static inline T do_##op##_imm_##T(struct soft_vcpu *c, T a, u8 count) {                        \
        u64 f = flags_in(c), v = a;                                                                \
        const u8 *fn = soft_##op##_##T + (count & 63) * 8;                                         \
        __asm__(LOAD_FLAGS "call *%[fn]" SAVE_FLAGS "%%rax"                                        \
                : "+&d"(v), "+&a"(f)                                                               \
                : [fn] "r"(fn)                                                                     \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return (T)v;                                                                               \
    }                                                                                              \
    HANDLER(op##_ri_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_imm_##T(c, get_##T(c, u->dst), (u8)u->imm));                  \
        NEXT(c, u);                                                                                \
    }
#define ROTATES_REG_IMM(T)                                                                         \
    ROTATE_REG_IMM(rol, T)                                                                         \
    ROTATE_REG_IMM(ror, T)
FOR_TYPES(ROTATES_REG_IMM)

#define ALL_SHIFTS(T)                                                                              \
    SHIFT_HANDLERS(rol, T)                                                                         \
    SHIFT_HANDLERS(ror, T)                                                                         \
    SHIFT_HANDLERS(rcl, T)                                                                         \
    SHIFT_HANDLERS(rcr, T)                                                                         \
    SHIFT_HANDLERS(shl, T)                                                                         \
    SHIFT_HANDLERS(shr, T)                                                                         \
    SHIFT_HANDLERS(sar, T)                                                                         \
    SHIFT_MEM_IMM(ror, T)                                                                          \
    SHIFT_MEM_IMM(rol, T)                                                                          \
    SHIFT_IMM(rcl, T)                                                                              \
    SHIFT_IMM(rcr, T)                                                                              \
    SHIFT_IMM(shl, T)                                                                              \
    SHIFT_IMM(shr, T)                                                                              \
    SHIFT_IMM(sar, T)
FOR_TYPES(ALL_SHIFTS)

/* --- SHLD, SHRD --------------------------------------------------------------------------------
 */

#define DOUBLE_HANDLERS(op, T)                                                                     \
    static inline T do_##op##_##T(struct soft_vcpu *c, T a, T b, u8 count) {                       \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS #op SUFFIX_##T " %%cl, %" MOD_##T "[b], %" MOD_##T "[v]" SAVE_FLAGS     \
                                                                              "%%rax"              \
                : [v] "+r"(a), "+&a"(f)                                                            \
                : "c"(count), [b] "r"(b)                                                           \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }                                                                                              \
    static inline u8 op##_count_##T(const struct soft_vcpu *c, const struct uop *u) {              \
        return u->src2 ? (u8)c->s.gpr[GPR_RCX] : (u8)u->imm;                                       \
    }                                                                                              \
    HANDLER(op##_r_##T) {                                                                          \
        T r = do_##op##_##T(c, get_##T(c, u->dst), get_##T(c, u->src), op##_count_##T(c, u));      \
        set_##T(c, u->dst, r);                                                                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_m_##T) {                                                                          \
        u64 at = uop_addr(c, u), before = c->aflags;                                               \
        T v = (T)soft_rmw_load(c, at, sizeof(T));                                                  \
        v = do_##op##_##T(c, v, get_##T(c, u->src), op##_count_##T(c, u));                         \
        u64 after = c->aflags;                                                                     \
        c->aflags = before;                                                                        \
        soft_store_slow(c, at, sizeof(T), v);                                                      \
        c->aflags = after;                                                                         \
        NEXT(c, u);                                                                                \
    }
#define ALL_DOUBLES(T)                                                                             \
    DOUBLE_HANDLERS(shld, T)                                                                       \
    DOUBLE_HANDLERS(shrd, T)
FOR_WIDE(ALL_DOUBLES)

/* --- binding -----------------------------------------------------------------------------------
 */

struct shift {
    uop_fn ri[4], rc[4], mi[4], mc[4];
};
#define SHIFT(op)                                                                                  \
    { TABLE4(op##_ri), TABLE4(op##_rc), TABLE4(op##_mi), TABLE4(op##_mc) }
static const struct shift shifts[] = {SHIFT(rol), SHIFT(ror), SHIFT(rcl), SHIFT(rcr),
                                      SHIFT(shl), SHIFT(shr), SHIFT(sar)};

static bool bind_single(struct bind *b, const struct shift *t) {
    const struct insn_operand *dst = &b->insn->op[0];
    u8 opcode = b->insn->opcode;
    u32 i = size_index(dst->size);
    bool by_cl = (opcode & 0xfe) == 0xd2;
    if ((opcode & 0xfe) == 0xd0) {
        b->uop->imm = 1;
    }
    if (is_mem(dst)) {
        need_mem(b, dst->size, ACCESS_RMW);
        return done(b, by_cl ? t->mc[i] : t->mi[i]);
    }
    b->uop->dst = reg_of(dst);
    return done(b, by_cl ? t->rc[i] : t->ri[i]);
}

static bool bind_double(struct bind *b, const uop_fn *reg, const uop_fn *mem) {
    const struct insn_operand *dst = &b->insn->op[0];
    u32 i = size_index(dst->size);
    b->uop->src = b->insn->op[1].reg;
    b->uop->src2 = b->insn->opcode & 1; /* A5, AD: by CL */
    if (is_mem(dst)) {
        need_mem(b, dst->size, ACCESS_RMW);
        return done(b, mem[i]);
    }
    b->uop->dst = reg_of(dst);
    return done(b, reg[i]);
}

bool bind_shift(struct bind *b) {
    static const uop_fn shld_r[] = TABLE3(shld_r), shld_m[] = TABLE3(shld_m),
                        shrd_r[] = TABLE3(shrd_r), shrd_m[] = TABLE3(shrd_m);
    switch (b->insn->id) {
    case INSN_ROL:
        return bind_single(b, &shifts[0]);
    case INSN_ROR:
        return bind_single(b, &shifts[1]);
    case INSN_RCL:
        return bind_single(b, &shifts[2]);
    case INSN_RCR:
        return bind_single(b, &shifts[3]);
    case INSN_SHL:
        return bind_single(b, &shifts[4]);
    case INSN_SHR:
        return bind_single(b, &shifts[5]);
    case INSN_SAR:
        return bind_single(b, &shifts[6]);
    case INSN_SHLD:
        return bind_double(b, shld_r, shld_m);
    case INSN_SHRD:
        return bind_double(b, shrd_r, shrd_m);
    default:
        return false;
    }
}
