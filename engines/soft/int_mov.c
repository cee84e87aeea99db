/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOV (not to or from segment, control and debug registers), MOVZX, MOVSX, MOVSXD, LEA, XCHG,
 * MOVBE, MOVNTI, MOVDIRI, BSWAP, XLAT. Intel SDM volume 2. No flags.
 */
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

/* --- MOV ---------------------------------------------------------------------------------------
 */

#define MOV_HANDLERS(T)                                                                            \
    HANDLER(mov_rr_##T) {                                                                          \
        set_##T(c, u->dst, get_##T(c, u->src));                                                    \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(mov_ri_##T) {                                                                          \
        set_##T(c, u->dst, (T)u->imm);                                                             \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(mov_rm_##T) {                                                                          \
        set_##T(c, u->dst, mem_load_##T(c, uop_addr(c, u)));                                       \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(mov_mr_##T) {                                                                          \
        mem_store_##T(c, uop_addr(c, u), get_##T(c, u->src));                                      \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(mov_mi_##T) {                                                                          \
        mem_store_##T(c, uop_addr(c, u), (T)u->imm);                                               \
        NEXT(c, u);                                                                                \
    }

FOR_TYPES(MOV_HANDLERS)

/* Base and displacement only, flat 64-bit: the most frequent loads and stores. */
#define MOV_SHORT(T)                                                                               \
    HANDLER(mov_rb_##T) {                                                                          \
        set_##T(c, u->dst, mem_load_##T(c, c->s.gpr[u->base] + (u64)(s64)u->disp));                \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(mov_br_##T) {                                                                          \
        mem_store_##T(c, c->s.gpr[u->base] + (u64)(s64)u->disp, get_##T(c, u->src));               \
        NEXT(c, u);                                                                                \
    }

FOR_TYPES(MOV_SHORT)

static bool is_short(const struct bind *b) {
    const struct insn_mem *m = &b->insn->mem;
    return b->c->mode == 64 && b->insn->addrsize == 8 && m->base < 16 && m->index == MEM_NONE &&
           m->seg != SEG_FS && m->seg != SEG_GS;
}

static bool bind_move(struct bind *b) {
    static const uop_fn rr[] = TABLE4(mov_rr), ri[] = TABLE4(mov_ri), rm[] = TABLE4(mov_rm),
                        mr[] = TABLE4(mov_mr), mi[] = TABLE4(mov_mi), rb[] = TABLE4(mov_rb),
                        br[] = TABLE4(mov_br);
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    u32 i = size_index(dst->size);
    if ((dst->kind == OPERAND_REG && !is_reg(dst)) || (src->kind == OPERAND_REG && !is_reg(src))) {
        return false;
    }
    b->uop->dst = is_reg(dst) ? reg_of(dst) : 0;
    b->uop->src = is_reg(src) ? reg_of(src) : 0;
    if (is_mem(dst)) {
        if (is_short(b) && is_reg(src)) {
            return done(b, br[i]);
        }
        need_mem(b, dst->size, ACCESS_WRITE);
        return done(b, is_imm(src) ? mi[i] : mr[i]);
    }
    if (is_mem(src)) {
        if (is_short(b)) {
            return done(b, rb[i]);
        }
        need_mem(b, dst->size, ACCESS_READ);
        return done(b, rm[i]);
    }
    return done(b, is_imm(src) ? ri[i] : rr[i]);
}

/* --- MOVZX, MOVSX ------------------------------------------------------------------------------
 */

#define EXTEND(name, D, S, cast)                                                                   \
    HANDLER(name##_r_##D##_##S) {                                                                  \
        set_##D(c, u->dst, (D)(cast)get_##S(c, u->src));                                           \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(name##_m_##D##_##S) {                                                                  \
        set_##D(c, u->dst, (D)(cast)mem_load_##S(c, uop_addr(c, u)));                              \
        NEXT(c, u);                                                                                \
    }

EXTEND(zx, u16, u8, u8)
EXTEND(zx, u32, u8, u8)
EXTEND(zx, u64, u8, u8)
EXTEND(zx, u16, u16, u16)
EXTEND(zx, u32, u16, u16)
EXTEND(zx, u64, u16, u16)
EXTEND(sx, u16, u8, s8)
EXTEND(sx, u32, u8, s8)
EXTEND(sx, u64, u8, s8)
EXTEND(sx, u16, u16, s16)
EXTEND(sx, u32, u16, s16)
EXTEND(sx, u64, u16, s16)
EXTEND(sx, u32, u32, s32)
EXTEND(sx, u64, u32, s32)

/* [source size index][destination size index][memory] */
#define PAIR(name, D, S)                                                                           \
    { name##_r_##D##_##S, name##_m_##D##_##S }
static const uop_fn zx_table[3][4][2] = {
    {{0}, PAIR(zx, u16, u8), PAIR(zx, u32, u8), PAIR(zx, u64, u8)},
    {{0}, PAIR(zx, u16, u16), PAIR(zx, u32, u16), PAIR(zx, u64, u16)},
};
static const uop_fn sx_table[3][4][2] = {
    {{0}, PAIR(sx, u16, u8), PAIR(sx, u32, u8), PAIR(sx, u64, u8)},
    {{0}, PAIR(sx, u16, u16), PAIR(sx, u32, u16), PAIR(sx, u64, u16)},
    {{0}, {0}, PAIR(sx, u32, u32), PAIR(sx, u64, u32)},
};

static bool bind_extend(struct bind *b, const uop_fn (*table)[4][2]) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    u32 s = size_index(src->size), d = size_index(dst->size);
    uop_fn fn = s < 3 ? table[s][d][is_mem(src)] : NULL;
    if (!fn) {
        return false;
    }
    b->uop->dst = reg_of(dst);
    if (is_mem(src)) {
        need_mem(b, src->size, ACCESS_READ);
    } else {
        b->uop->src = reg_of(src);
    }
    return done(b, fn);
}

/* MOVSXD with a 16-bit operand size is a plain move of 16 bits. */
static bool bind_movsxd(struct bind *b) {
    return b->insn->op[0].size == 2 || b->insn->op[1].size == b->insn->op[0].size
               ? bind_move(b)
               : bind_extend(b, sx_table);
}

/* --- LEA ---------------------------------------------------------------------------------------
 */

#define LEA_HANDLERS(T)                                                                            \
    HANDLER(lea_##T) { /* 64-bit addresses */                                                      \
        u64 a = field64(c, u->base_off) + (field64(c, u->index_off) << u->scale_shift) +           \
                (u64)(s64)u->disp;                                                                 \
        set_##T(c, u->dst, (T)a);                                                                  \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(lea_any_##T) {                                                                         \
        set_##T(c, u->dst, (T)soft_ea(c, u));                                                      \
        NEXT(c, u);                                                                                \
    }

FOR_WIDE(LEA_HANDLERS)

static void lea_offsets(struct bind *b) {
    const struct insn_mem *m = &b->insn->mem;
    const u16 gpr = (u16)offsetof(struct soft_vcpu, s.gpr);
    if (m->base < 16) {
        b->uop->base_off = (u16)(gpr + m->base * 8);
    }
    if (m->index < 16) {
        b->uop->index_off = (u16)(gpr + m->index * 8);
    }
}

static bool bind_lea(struct bind *b) {
    static const uop_fn flat[] = TABLE3(lea), any[] = TABLE3(lea_any);
    const struct insn *insn = b->insn;
    u32 i = size_index(insn->op[0].size);
    b->uop->dst = reg_of(&insn->op[0]);
    if (insn->addrsize == 8 && insn->mem.base != MEM_RIP) {
        lea_offsets(b);
        return done(b, flat[i]);
    }
    return done(b, any[i]);
}

/* --- XCHG: with memory always locked -----------------------------------------------------------
 */

#define XCHG_HANDLERS(T)                                                                           \
    HANDLER(xchg_r_##T) {                                                                          \
        T a = get_##T(c, u->dst), s = get_##T(c, u->src);                                          \
        set_##T(c, u->src, a);                                                                     \
        set_##T(c, u->dst, s);                                                                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    static inline T lock_xchg_##T(void *p, T v) {                                                  \
        __asm__ volatile("xchg" SUFFIX_##T " %" MOD_##T "0, %1"                                    \
                         : "+q"(v), "+m"(((struct ram_##T *)p)->v)::"memory");                     \
        return v;                                                                                  \
    }                                                                                              \
    HANDLER(xchg_m_##T) {                                                                          \
        u64 at = uop_addr(c, u);                                                                   \
        void *p = mem_lock(c, at, sizeof(T));                                                      \
        T v = get_##T(c, u->src);                                                                  \
        if (LIKELY(p)) {                                                                           \
            v = lock_xchg_##T(p, v);                                                               \
        } else {                                                                                   \
            struct lock_op lock;                                                                   \
            soft_lock_begin(c, &lock, at, sizeof(T));                                              \
            v = lock_xchg_##T(lock.p, v);                                                          \
            soft_lock_end(c, &lock);                                                               \
        }                                                                                          \
        set_##T(c, u->src, v);                                                                     \
        NEXT(c, u);                                                                                \
    }

FOR_TYPES(XCHG_HANDLERS)

static bool bind_xchg(struct bind *b) {
    static const uop_fn r[] = TABLE4(xchg_r), m[] = TABLE4(xchg_m);
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    b->uop->src = reg_of(src);
    if (is_mem(dst)) {
        need_mem(b, dst->size, ACCESS_RMW);
        return done(b, m[size_index(dst->size)]);
    }
    b->uop->dst = reg_of(dst);
    return done(b, r[size_index(dst->size)]);
}

/* --- byte order, XLAT --------------------------------------------------------------------------
 */

static inline u16 swap_u16(u16 v) {
    return __builtin_bswap16(v);
}
static inline u32 swap_u32(u32 v) {
    return __builtin_bswap32(v);
}
static inline u64 swap_u64(u64 v) {
    return __builtin_bswap64(v);
}

#define SWAP_HANDLERS(T)                                                                           \
    HANDLER(movbe_rm_##T) {                                                                        \
        set_##T(c, u->dst, swap_##T(mem_load_##T(c, uop_addr(c, u))));                             \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(movbe_mr_##T) {                                                                        \
        mem_store_##T(c, uop_addr(c, u), swap_##T(get_##T(c, u->src)));                            \
        NEXT(c, u);                                                                                \
    }

FOR_WIDE(SWAP_HANDLERS)

HANDLER(bswap_u16) { /* undefined; processors clear the register */
    set_u16(c, u->dst, 0);
    NEXT(c, u);
}
HANDLER(bswap_u32) {
    set_u32(c, u->dst, swap_u32(get_u32(c, u->dst)));
    NEXT(c, u);
}
HANDLER(bswap_u64) {
    set_u64(c, u->dst, swap_u64(get_u64(c, u->dst)));
    NEXT(c, u);
}

HANDLER(xlat) {
    u64 offset = c->s.gpr[GPR_RBX] + (u8)c->s.gpr[GPR_RAX];
    offset &= u->addrsize == 8 ? UINT64_MAX : u->addrsize == 4 ? UINT32_MAX : UINT16_MAX;
    u64 a = soft_linear(c, u->seg, offset, 1, ACCESS_READ);
    set_u8(c, 0, mem_load_u8(c, a));
    NEXT(c, u);
}

static bool bind_movbe(struct bind *b) {
    static const uop_fn rm[] = TABLE3(movbe_rm), mr[] = TABLE3(movbe_mr);
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    if (is_mem(dst)) {
        b->uop->src = reg_of(src);
        need_mem(b, dst->size, ACCESS_WRITE);
        return done(b, mr[size_index(dst->size)]);
    }
    b->uop->dst = reg_of(dst);
    need_mem(b, dst->size, ACCESS_READ);
    return done(b, rm[size_index(dst->size)]);
}

static bool bind_bswap(struct bind *b) {
    static const uop_fn fn[] = TABLE3(bswap);
    b->uop->dst = reg_of(&b->insn->op[0]);
    return done(b, fn[size_index(b->insn->op[0].size)]);
}

bool bind_mov(struct bind *b) {
    switch (b->insn->id) {
    case INSN_MOV:
    case INSN_MOVNTI:
    case INSN_MOVDIRI:
        return bind_move(b);
    case INSN_MOVZX:
        return bind_extend(b, zx_table);
    case INSN_MOVSX:
        return bind_extend(b, sx_table);
    case INSN_MOVSXD:
        return bind_movsxd(b);
    case INSN_LEA:
        return bind_lea(b);
    case INSN_XCHG:
        return bind_xchg(b);
    case INSN_MOVBE:
        return bind_movbe(b);
    case INSN_BSWAP:
        return bind_bswap(b);
    case INSN_XLAT:
        return done(b, xlat);
    default:
        return false;
    }
}
