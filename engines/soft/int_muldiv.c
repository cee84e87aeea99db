/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MUL IMUL DIV IDIV. Intel SDM volume 2.
 *
 * The real instruction computes result and flags; divisions are checked first so that it cannot
 * raise #DE in the monitor.
 */
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

struct wide {
    u64 lo, hi; /* rAX and rDX, or AX in lo */
};

/* rDX:rAX and the operand through one instruction, on the guest's flags. */
#define OP_WIDE(op, T)                                                                             \
    static inline struct wide run_##op##_##T(struct soft_vcpu *c, u64 lo, u64 hi, T src) {         \
        u64 f, a = flags_in(c);                                                                    \
        __asm__ volatile(LOAD_FLAGS "movq %[lo], %%rax\n\t" #op SUFFIX_##T " %" MOD_##T            \
                         "[s]" SAVE_FLAGS "%q[f]"                                                  \
                         : "+&a"(a), "+&d"(hi), [f] "=&r"(f)                                       \
                         : [lo] "r"(lo), [s] "q"(src)                                              \
                         : "cc");                                                                  \
        c->aflags = f;                                                                             \
        return (struct wide){a, hi};                                                               \
    }
#define ALL_WIDE(T)                                                                                \
    OP_WIDE(mul, T)                                                                                \
    OP_WIDE(imul, T)                                                                               \
    OP_WIDE(div, T)                                                                                \
    OP_WIDE(idiv, T)
FOR_TYPES(ALL_WIDE)

static inline void store_u8(struct soft_vcpu *c, struct wide w) {
    set_u16(c, GPR_RAX, (u16)w.lo);
}
#define STORE(T)                                                                                   \
    static inline void store_##T(struct soft_vcpu *c, struct wide w) {                             \
        set_##T(c, GPR_RAX, (T)w.lo);                                                              \
        set_##T(c, GPR_RDX, (T)w.hi);                                                              \
    }
FOR_WIDE(STORE)

/* --- checks ------------------------------------------------------------------------------------
 */

static _Noreturn void divide_error(struct soft_vcpu *c) {
    soft_fault(c, EXC_DE, false, 0);
}

/* Upper and lower half of the dividend, each of the operand's width. */
static inline u64 div_hi(const struct soft_vcpu *c, u32 bits) {
    return bits == 8 ? c->s.gpr[GPR_RAX] >> 8 & 0xff
                     : c->s.gpr[GPR_RDX] & (UINT64_MAX >> (64 - bits));
}
static inline u64 div_lo(const struct soft_vcpu *c, u32 bits) {
    return c->s.gpr[GPR_RAX] & (UINT64_MAX >> (64 - bits));
}

static inline void check_div(struct soft_vcpu *c, u64 src, u32 bits) {
    if (UNLIKELY(div_hi(c, bits) >= src)) { /* src 0, or the quotient does not fit */
        divide_error(c);
    }
}

static u64 quotient(u64 hi, u64 lo, u64 d, u32 bits) { /* hi < d */
    if (bits < 64) {
        return (hi << bits | lo) / d;
    }
    __asm__("divq %[d]" : "+a"(lo), "+d"(hi) : [d] "r"(d) : "cc");
    return lo;
}

static void check_idiv(struct soft_vcpu *c, u64 src, u32 bits) {
    u64 mask = UINT64_MAX >> (64 - bits), sign = BIT(bits - 1);
    u64 hi = div_hi(c, bits), lo = div_lo(c, bits);
    src &= mask;
    if (LIKELY(src != 0 && src != mask && hi == (lo & sign ? mask : 0))) {
        return; /* the dividend is one extended register, the divisor not 0 or -1 */
    }
    bool negative = hi & sign, result_negative = negative != !!(src & sign);
    if (negative) {
        lo = -lo & mask;
        hi = (~hi + (lo == 0)) & mask;
    }
    if (src & sign) {
        src = -src & mask;
    }
    if (hi >= src || quotient(hi, lo, src, bits) > sign - !result_negative) {
        divide_error(c);
    }
}

/* --- handlers ----------------------------------------------------------------------------------
 */

#define NO_CHECK(c, src, bits) (void)0
#define BITS_OF(T)             (sizeof(T) * 8)

#define WIDE_HANDLERS(op, check, T)                                                                \
    static inline void one_##op##_##T(struct soft_vcpu *c, T src) {                                \
        check(c, src, BITS_OF(T));                                                                 \
        store_##T(c, run_##op##_##T(c, c->s.gpr[GPR_RAX], c->s.gpr[GPR_RDX], src));                \
    }                                                                                              \
    HANDLER(op##_r_##T) {                                                                          \
        one_##op##_##T(c, get_##T(c, u->src));                                                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_m_##T) {                                                                          \
        one_##op##_##T(c, mem_load_##T(c, uop_addr(c, u)));                                        \
        NEXT(c, u);                                                                                \
    }
#define ALL_HANDLERS(T)                                                                            \
    WIDE_HANDLERS(mul, NO_CHECK, T)                                                                \
    WIDE_HANDLERS(imul, NO_CHECK, T)                                                               \
    WIDE_HANDLERS(div, check_div, T)                                                               \
    WIDE_HANDLERS(idiv, check_idiv, T)
FOR_TYPES(ALL_HANDLERS)

/* IMUL with two and three operands. */
#define IMUL_HANDLERS(T)                                                                           \
    static inline T do_imul_##T(struct soft_vcpu *c, T a, T b) {                                   \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS "imul" SUFFIX_##T " %" MOD_##T "[b], %" MOD_##T "[v]" SAVE_FLAGS        \
                                                                           "%%rax"                 \
                : [v] "+r"(a), "+&a"(f)                                                            \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }                                                                                              \
    HANDLER(imul2_r_##T) {                                                                         \
        set_##T(c, u->dst, do_imul_##T(c, get_##T(c, u->dst), get_##T(c, u->src)));                \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(imul2_m_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_##T(c, u->dst, do_imul_##T(c, get_##T(c, u->dst), m));                                 \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(imul3_r_##T) {                                                                         \
        set_##T(c, u->dst, do_imul_##T(c, get_##T(c, u->src), (T)u->imm));                         \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(imul3_m_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_##T(c, u->dst, do_imul_##T(c, m, (T)u->imm));                                          \
        NEXT(c, u);                                                                                \
    }
FOR_WIDE(IMUL_HANDLERS)

/* --- binding -----------------------------------------------------------------------------------
 */

static bool bind_one(struct bind *b, const uop_fn *reg, const uop_fn *mem) {
    const struct insn_operand *op = &b->insn->op[0];
    u32 i = size_index(op->size);
    if (is_mem(op)) {
        need_mem(b, op->size, ACCESS_READ);
        return done(b, mem[i]);
    }
    b->uop->src = reg_of(op);
    return done(b, reg[i]);
}

static bool bind_imul(struct bind *b) {
    static const uop_fn r1[] = TABLE4(imul_r), m1[] = TABLE4(imul_m);
    static const uop_fn r2[] = TABLE3(imul2_r), m2[] = TABLE3(imul2_m);
    static const uop_fn r3[] = TABLE3(imul3_r), m3[] = TABLE3(imul3_m);
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    if (b->insn->map == MAP_1BYTE && (b->insn->opcode & 0xfe) == 0xf6) {
        return bind_one(b, r1, m1);
    }
    bool three = b->insn->map == MAP_1BYTE;
    u32 i = size_index(dst->size);
    b->uop->dst = dst->reg;
    if (is_mem(src)) {
        need_mem(b, src->size, ACCESS_READ);
        return done(b, three ? m3[i] : m2[i]);
    }
    b->uop->src = src->reg;
    return done(b, three ? r3[i] : r2[i]);
}

bool bind_muldiv(struct bind *b) {
    static const uop_fn mul_r[] = TABLE4(mul_r), mul_m[] = TABLE4(mul_m);
    static const uop_fn div_r[] = TABLE4(div_r), div_m[] = TABLE4(div_m);
    static const uop_fn idiv_r[] = TABLE4(idiv_r), idiv_m[] = TABLE4(idiv_m);
    switch (b->insn->id) {
    case INSN_MUL:
        return bind_one(b, mul_r, mul_m);
    case INSN_IMUL:
        return bind_imul(b);
    case INSN_DIV:
        return bind_one(b, div_r, div_m);
    case INSN_IDIV:
        return bind_one(b, idiv_r, idiv_m);
    default:
        return false;
    }
}
