/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ADD OR ADC SBB AND SUB XOR CMP, TEST, INC DEC NEG NOT, XADD and CMPXCHG: all sizes, register,
 * immediate and memory forms, with and without LOCK.
 *
 * Intel SDM volume 2. A LOCKed form is the real locked instruction on guest memory.
 */
#include "engines/soft/int.h"

/* --- the operations ----------------------------------------------------------------------------
 */

/* Text before the instruction, and the operand it needs. */
#define CARRY_PRE "btl $0, %k[fin]\n\t"
#define CARRY_IN  [fin] "r"(c->aflags)
#define PLAIN_PRE ""
#define PLAIN_IN
#define COMMA_CARRY ,
#define COMMA_PLAIN

#define OP2(op, kind, T)                                                                           \
    static inline T do_##op##_##T(struct soft_vcpu *c, T a, T b) {                                 \
        u64 f;                                                                                     \
        __asm__(kind##_PRE #op SUFFIX_##T " %" MOD_##T "[b], %" MOD_##T "[a]" SAVE_FLAGS "%q[f]"   \
                : [a] "+q"(a), [f] "=&r"(f)                                                        \
                : [b] "q"(b)COMMA_##kind kind##_IN                                                 \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }                                                                                              \
    static inline void lock_##op##_##T(struct soft_vcpu *c, void *p, T b) {                        \
        u64 f;                                                                                     \
        __asm__ volatile(kind##_PRE "lock " #op SUFFIX_##T " %" MOD_##T "[b], %[a]" SAVE_FLAGS     \
                                                                        "%q[f]"                    \
                         : [a] "+m"(((struct ram_##T *)p)->v), [f] "=&r"(f)                        \
                         : [b] "q"(b)COMMA_##kind kind##_IN                                        \
                         : "cc", "memory");                                                        \
        c->aflags = f;                                                                             \
    }

#define OP1(op, kind, T)                                                                           \
    static inline T do_##op##_##T(struct soft_vcpu *c, T a) {                                      \
        u64 f;                                                                                     \
        __asm__(kind##_PRE #op SUFFIX_##T " %" MOD_##T "[a]" SAVE_FLAGS "%q[f]"                    \
                : [a] "+q"(a), [f] "=&r"(f)                                                        \
                : kind##_IN                                                                        \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }                                                                                              \
    static inline void lock_##op##_##T(struct soft_vcpu *c, void *p) {                             \
        u64 f;                                                                                     \
        __asm__ volatile(kind##_PRE "lock " #op SUFFIX_##T " %[a]" SAVE_FLAGS "%q[f]"              \
                         : [a] "+m"(((struct ram_##T *)p)->v), [f] "=&r"(f)                        \
                         : kind##_IN                                                               \
                         : "cc", "memory");                                                        \
        c->aflags = f;                                                                             \
    }

/* CMP and TEST */
#define OP_COMPARE(op, T)                                                                          \
    static inline void do_##op##_##T(struct soft_vcpu *c, T a, T b) {                              \
        u64 f;                                                                                     \
        __asm__(#op SUFFIX_##T " %" MOD_##T "[b], %" MOD_##T "[a]" SAVE_FLAGS "%q[f]"              \
                : [f] "=r"(f)                                                                      \
                : [a] "q"(a), [b] "q"(b)                                                           \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
    }

/* --- handlers ----------------------------------------------------------------------------------
 */

#define RMW(T, expr)                                                                               \
    do {                                                                                           \
        u64 at = uop_addr(c, u);                                                                   \
        void *p = mem_rmw(c, at, sizeof(T));                                                       \
        if (LIKELY(p)) {                                                                           \
            T v = RAM_AT(T, p);                                                                    \
            RAM_AT(T, p) = (expr);                                                                 \
        } else {                                                                                   \
            T v = (T)soft_rmw_load(c, at, sizeof(T));                                              \
            u64 before = c->aflags;                                                                \
            T r = (expr);                                                                          \
            u64 after = c->aflags;                                                                 \
            c->aflags = before; /* if the store faults after all */                                \
            soft_store_slow(c, at, sizeof(T), r);                                                  \
            c->aflags = after;                                                                     \
        }                                                                                          \
    } while (0)

#define LOCKED(T, statement)                                                                       \
    do {                                                                                           \
        u64 at = uop_addr(c, u);                                                                   \
        void *p = mem_lock(c, at, sizeof(T));                                                      \
        if (LIKELY(p)) {                                                                           \
            statement;                                                                             \
        } else {                                                                                   \
            struct lock_op lock;                                                                   \
            soft_lock_begin(c, &lock, at, sizeof(T));                                              \
            p = lock.p;                                                                            \
            statement;                                                                             \
            soft_lock_end(c, &lock);                                                               \
        }                                                                                          \
    } while (0)

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

#define HANDLERS2(op, T)                                                                           \
    HANDLER(op##_rr_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), get_##T(c, u->src)));              \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_ri_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), (T)u->imm));                       \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_rm_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), m));                               \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    GUEST_RAM HANDLER(op##_mr_##T) {                                                               \
        RMW(T, do_##op##_##T(c, v, get_##T(c, u->src)));                                           \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    GUEST_RAM HANDLER(op##_mi_##T) {                                                               \
        RMW(T, do_##op##_##T(c, v, (T)u->imm));                                                    \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_lr_##T) {                                                                         \
        LOCKED(T, lock_##op##_##T(c, p, get_##T(c, u->src)));                                      \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_li_##T) {                                                                         \
        LOCKED(T, lock_##op##_##T(c, p, (T)u->imm));                                               \
        NEXT(c, u);                                                                                \
    }

#define HANDLERS1(op, T)                                                                           \
    HANDLER(op##_r_##T) {                                                                          \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst)));                                  \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    GUEST_RAM HANDLER(op##_m_##T) {                                                                \
        RMW(T, do_##op##_##T(c, v));                                                               \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_l_##T) {                                                                          \
        LOCKED(T, lock_##op##_##T(c, p));                                                          \
        NEXT(c, u);                                                                                \
    }

#define HANDLERS_COMPARE(op, T)                                                                    \
    HANDLER(op##_rr_##T) {                                                                         \
        do_##op##_##T(c, get_##T(c, u->dst), get_##T(c, u->src));                                  \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_ri_##T) {                                                                         \
        do_##op##_##T(c, get_##T(c, u->dst), (T)u->imm);                                           \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_rm_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        do_##op##_##T(c, get_##T(c, u->dst), m);                                                   \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_mr_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        do_##op##_##T(c, m, get_##T(c, u->src));                                                   \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_mi_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        do_##op##_##T(c, m, (T)u->imm);                                                            \
        NEXT(c, u);                                                                                \
    }

#define ALL2(T)                                                                                    \
    OP2(add, PLAIN, T)                                                                             \
    OP2(or, PLAIN, T)                                                                              \
    OP2(adc, CARRY, T)                                                                             \
    OP2(sbb, CARRY, T)                                                                             \
    OP2(and, PLAIN, T)                                                                             \
    OP2(sub, PLAIN, T)                                                                             \
    OP2(xor, PLAIN, T)                                                                             \
    OP1(inc, CARRY, T)                                                                             \
    OP1(dec, CARRY, T)                                                                             \
    OP1(neg, PLAIN, T)                                                                             \
    OP_COMPARE(cmp, T)                                                                             \
    OP_COMPARE(test, T)                                                                            \
    HANDLERS2(add, T)                                                                              \
    HANDLERS2(or, T)                                                                               \
    HANDLERS2(adc, T)                                                                              \
    HANDLERS2(sbb, T)                                                                              \
    HANDLERS2(and, T)                                                                              \
    HANDLERS2(sub, T)                                                                              \
    HANDLERS2(xor, T)                                                                              \
    HANDLERS1(inc, T)                                                                              \
    HANDLERS1(dec, T)                                                                              \
    HANDLERS1(neg, T)                                                                              \
    HANDLERS_COMPARE(cmp, T)                                                                       \
    HANDLERS_COMPARE(test, T)

FOR_TYPES(ALL2)

/* --- NOT: no flags -----------------------------------------------------------------------------
 */

#define NOT_HANDLERS(T)                                                                            \
    HANDLER(not_r_##T) {                                                                           \
        set_##T(c, u->dst, (T)~get_##T(c, u->dst));                                                \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    GUEST_RAM HANDLER(not_m_##T) {                                                                 \
        RMW(T, (T)~v);                                                                             \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    static inline void lock_not_##T(void *p) {                                                     \
        __asm__ volatile("lock not" SUFFIX_##T " %0" : "+m"(((struct ram_##T *)p)->v)::"memory");  \
    }                                                                                              \
    HANDLER(not_l_##T) {                                                                           \
        LOCKED(T, lock_not_##T(p));                                                                \
        NEXT(c, u);                                                                                \
    }

FOR_TYPES(NOT_HANDLERS)

/* --- XADD, CMPXCHG -----------------------------------------------------------------------------
 */

/* dst: memory or register operand, src: the register. With memory both are one locked instruction
 * in any case: the plain forms may be more atomic than asked. */
#define XADD_HANDLERS(T)                                                                           \
    HANDLER(xadd_r_##T) {                                                                          \
        T old = get_##T(c, u->dst);                                                                \
        T sum = do_add_##T(c, old, get_##T(c, u->src));                                            \
        set_##T(c, u->src, old);                                                                   \
        set_##T(c, u->dst, sum);                                                                   \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    static inline T lock_xadd_##T(struct soft_vcpu *c, void *p, T v) {                             \
        u64 f;                                                                                     \
        __asm__ volatile("lock xadd" SUFFIX_##T " %" MOD_##T "[v], %[a]" SAVE_FLAGS "%q[f]"        \
                         : [a] "+m"(((struct ram_##T *)p)->v), [v] "+q"(v), [f] "=&r"(f)           \
                         :                                                                         \
                         : "cc", "memory");                                                        \
        c->aflags = f;                                                                             \
        return v;                                                                                  \
    }                                                                                              \
    HANDLER(xadd_m_##T) {                                                                          \
        T old = get_##T(c, u->src);                                                                \
        LOCKED(T, old = lock_xadd_##T(c, p, old));                                                 \
        set_##T(c, u->src, old);                                                                   \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(cmpxchg_r_##T) {                                                                       \
        T a = (T)c->s.gpr[GPR_RAX], d = get_##T(c, u->dst);                                        \
        do_cmp_##T(c, a, d);                                                                       \
        if (a == d) {                                                                              \
            set_##T(c, u->dst, get_##T(c, u->src));                                                \
        } else {                                                                                   \
            set_##T(c, GPR_RAX, d);                                                                \
        }                                                                                          \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    static inline T lock_cmpxchg_##T(struct soft_vcpu *c, void *p, T a, T v) {                     \
        u64 f, rax = a;                                                                            \
        __asm__ volatile("lock cmpxchg" SUFFIX_##T " %" MOD_##T "[v], %[m]" SAVE_FLAGS "%q[f]"     \
                         : [m] "+m"(((struct ram_##T *)p)->v), "+a"(rax), [f] "=&r"(f)             \
                         : [v] "q"(v)                                                              \
                         : "cc", "memory");                                                        \
        c->aflags = f;                                                                             \
        return (T)rax;                                                                             \
    }                                                                                              \
    HANDLER(cmpxchg_m_##T) {                                                                       \
        T a = (T)c->s.gpr[GPR_RAX], found = a;                                                     \
        LOCKED(T, found = lock_cmpxchg_##T(c, p, a, get_##T(c, u->src)));                          \
        if (found != a) {                                                                          \
            set_##T(c, GPR_RAX, found);                                                            \
        }                                                                                          \
        NEXT(c, u);                                                                                \
    }

FOR_TYPES(XADD_HANDLERS)

/* --- binding -----------------------------------------------------------------------------------
 */

struct alu2 {
    uop_fn rr[4], ri[4], rm[4], mr[4], mi[4], lr[4], li[4];
};
struct alu1 {
    uop_fn r[4], m[4], l[4];
};

#define ALU2(op)                                                                                   \
    {                                                                                              \
        TABLE4(op##_rr), TABLE4(op##_ri), TABLE4(op##_rm), TABLE4(op##_mr), TABLE4(op##_mi),       \
            TABLE4(op##_lr), TABLE4(op##_li)                                                       \
    }
#define COMPARE(op)                                                                                \
    { TABLE4(op##_rr), TABLE4(op##_ri), TABLE4(op##_rm), TABLE4(op##_mr), TABLE4(op##_mi), }
#define ALU1(op)                                                                                   \
    { TABLE4(op##_r), TABLE4(op##_m), TABLE4(op##_l) }

static const struct alu2 table2[] = {ALU2(add), ALU2(or),  ALU2(adc),    ALU2(sbb),    ALU2(and),
                                     ALU2(sub), ALU2(xor), COMPARE(cmp), COMPARE(test)};
static const struct alu1 table1[] = {ALU1(inc), ALU1(dec), ALU1(neg), ALU1(not )};

static bool bind2(struct bind *b, const struct alu2 *t, bool writes) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    u32 size = dst->size, i = size_index(size);
    bool lock = b->insn->prefixes & PREFIX_LOCK;
    if (is_mem(dst)) {
        need_mem(b, size, writes ? ACCESS_RMW : ACCESS_READ);
        b->uop->src = is_imm(src) ? 0 : reg_of(src);
        return done(b, is_imm(src) ? (lock ? t->li[i] : t->mi[i]) : (lock ? t->lr[i] : t->mr[i]));
    }
    b->uop->dst = reg_of(dst);
    if (is_mem(src)) {
        need_mem(b, size, ACCESS_READ);
        return done(b, t->rm[i]);
    }
    b->uop->src = is_imm(src) ? 0 : reg_of(src);
    return done(b, is_imm(src) ? t->ri[i] : t->rr[i]);
}

static bool bind_compare(struct bind *b, const struct alu2 *t, enum fuse_form rr) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    bool test = rr == FUSE_TEST_RR;
    u32 form = is_mem(dst)   ? (is_imm(src) ? (test ? FUSE_TEST_MI : FUSE_CMP_MI)
                                            : (test ? FUSE_TEST_MR : FUSE_CMP_MR))
               : is_mem(src) ? FUSE_CMP_RM
               : is_imm(src) ? rr + 1u
                             : rr;
    b->uop->spare = (u16)(FUSE | form << 2 | size_index(dst->size));
    return bind2(b, t, false);
}

static bool bind1(struct bind *b, const struct alu1 *t) {
    const struct insn_operand *dst = &b->insn->op[0];
    u32 i = size_index(dst->size);
    if (is_mem(dst)) {
        need_mem(b, dst->size, ACCESS_RMW);
        return done(b, b->insn->prefixes & PREFIX_LOCK ? t->l[i] : t->m[i]);
    }
    b->uop->dst = reg_of(dst);
    return done(b, t->r[i]);
}

static bool bind_exchange(struct bind *b, const uop_fn *reg, const uop_fn *mem) {
    const struct insn_operand *dst = &b->insn->op[0];
    u32 i = size_index(dst->size);
    b->uop->src = reg_of(&b->insn->op[1]);
    if (is_mem(dst)) {
        need_mem(b, dst->size, ACCESS_RMW);
        return done(b, mem[i]);
    }
    b->uop->dst = reg_of(dst);
    return done(b, reg[i]);
}

bool bind_alu(struct bind *b) {
    static const uop_fn xadd_r[] = TABLE4(xadd_r), xadd_m[] = TABLE4(xadd_m);
    static const uop_fn cmpxchg_r[] = TABLE4(cmpxchg_r), cmpxchg_m[] = TABLE4(cmpxchg_m);
    switch (b->insn->id) {
    case INSN_ADD:
        return bind2(b, &table2[0], true);
    case INSN_OR:
        return bind2(b, &table2[1], true);
    case INSN_ADC:
        return bind2(b, &table2[2], true);
    case INSN_SBB:
        return bind2(b, &table2[3], true);
    case INSN_AND:
        return bind2(b, &table2[4], true);
    case INSN_SUB:
        return bind2(b, &table2[5], true);
    case INSN_XOR:
        return bind2(b, &table2[6], true);
    case INSN_CMP:
        return bind_compare(b, &table2[7], FUSE_CMP_RR);
    case INSN_TEST:
        return bind_compare(b, &table2[8], FUSE_TEST_RR);
    case INSN_INC:
        return bind1(b, &table1[0]);
    case INSN_DEC:
        return bind1(b, &table1[1]);
    case INSN_NEG:
        return bind1(b, &table1[2]);
    case INSN_NOT:
        return bind1(b, &table1[3]);
    case INSN_XADD:
        return bind_exchange(b, xadd_r, xadd_m);
    case INSN_CMPXCHG:
        return bind_exchange(b, cmpxchg_r, cmpxchg_m);
    default:
        return false;
    }
}
