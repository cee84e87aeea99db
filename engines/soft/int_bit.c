/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BT BTS BTR BTC, BSF BSR, POPCNT LZCNT TZCNT, CRC32, ADCX ADOX. Intel SDM volume 2.
 *
 * BT and its kin with a register offset address memory bit-wise: the byte address moves by the
 * offset's upper bits, in steps of the operand size. BSF and BSR of zero leave the destination
 * alone, as processors do. BMI1 and BMI2 instructions with VEX encodings are run by vec.c.
 */
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

/* --- BT ----------------------------------------------------------------------------------------
 */

#define OP_BIT(op, T)                                                                              \
    static inline T do_##op##_##T(struct soft_vcpu *c, T a, T bit) {                               \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS #op SUFFIX_##T " %" MOD_##T "[b], %" MOD_##T "[v]" SAVE_FLAGS "%%rax"   \
                : [v] "+r"(a), "+&a"(f)                                                            \
                : [b] "r"(bit)                                                                     \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return a;                                                                                  \
    }
#define BIT_REG(op, T)                                                                             \
    HANDLER(op##_ri_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), (T)u->imm));                       \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_rr_##T) {                                                                         \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), get_##T(c, u->src)));              \
        NEXT(c, u);                                                                                \
    }

/* The T in memory that holds the bit; *bit is cut to it. The sum is computed before the segment is
 * applied, so the general address functions are used. */
#define BIT_PLACE(T, S)                                                                            \
    static u64 bit_place_##T(struct soft_vcpu *c, const struct uop *u, enum access access,         \
                             T *bit) {                                                             \
        u64 at = soft_ea(c, u);                                                                    \
        if (u->src2) { /* the offset is in a register */                                           \
            S offset = (S)get_##T(c, u->src);                                                      \
            s64 units = (s64)offset >> (sizeof(T) == 2 ? 4 : sizeof(T) == 4 ? 5 : 6);              \
            at += (u64)(units * (s64)sizeof(T));                                                   \
            at &= u->addrsize == 8 ? UINT64_MAX : u->addrsize == 4 ? UINT32_MAX : UINT16_MAX;      \
            *bit = (T)offset;                                                                      \
        } else {                                                                                   \
            *bit = (T)u->imm;                                                                      \
        }                                                                                          \
        *bit &= sizeof(T) * 8 - 1;                                                                 \
        return soft_linear(c, u->seg, at, sizeof(T), access);                                      \
    }
BIT_PLACE(u16, s16)
BIT_PLACE(u32, s32)
BIT_PLACE(u64, s64)

#define BT_REG(T)                                                                                  \
    HANDLER(bt_ri_##T) {                                                                           \
        do_bt_##T(c, get_##T(c, u->dst), (T)u->imm);                                               \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(bt_rr_##T) {                                                                           \
        do_bt_##T(c, get_##T(c, u->dst), get_##T(c, u->src));                                      \
        NEXT(c, u);                                                                                \
    }
#define BT_MEM(T)                                                                                  \
    HANDLER(bt_m_##T) {                                                                            \
        T bit;                                                                                     \
        u64 at = bit_place_##T(c, u, ACCESS_READ, &bit);                                           \
        do_bt_##T(c, mem_load_##T(c, at), bit);                                                    \
        NEXT(c, u);                                                                                \
    }

#define BIT_MEM(op, T)                                                                             \
    HANDLER(op##_m_##T) {                                                                          \
        T bit;                                                                                     \
        u64 at = bit_place_##T(c, u, ACCESS_RMW, &bit), before = c->aflags;                        \
        T v = (T)soft_rmw_load(c, at, sizeof(T));                                                  \
        v = do_##op##_##T(c, v, bit);                                                              \
        u64 after = c->aflags;                                                                     \
        c->aflags = before;                                                                        \
        soft_store_slow(c, at, sizeof(T), v);                                                      \
        c->aflags = after;                                                                         \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    static inline void lock_##op##_##T(struct soft_vcpu *c, void *p, T bit) {                      \
        u64 f = flags_in(c);                                                                       \
        __asm__ volatile(LOAD_FLAGS "lock " #op SUFFIX_##T " %" MOD_##T "[b], %[m]" SAVE_FLAGS     \
                                                                        "%%rax"                    \
                         : [m] "+m"(((struct ram_##T *)p)->v), "+&a"(f)                            \
                         : [b] "r"(bit)                                                            \
                         : "cc", "memory");                                                        \
        c->aflags = f;                                                                             \
    }                                                                                              \
    HANDLER(op##_l_##T) {                                                                          \
        T bit;                                                                                     \
        u64 at = bit_place_##T(c, u, ACCESS_RMW, &bit);                                            \
        void *p = mem_lock(c, at, sizeof(T));                                                      \
        if (LIKELY(p)) {                                                                           \
            lock_##op##_##T(c, p, bit);                                                            \
        } else {                                                                                   \
            struct lock_op lock;                                                                   \
            soft_lock_begin(c, &lock, at, sizeof(T));                                              \
            lock_##op##_##T(c, lock.p, bit);                                                       \
            soft_lock_end(c, &lock);                                                               \
        }                                                                                          \
        NEXT(c, u);                                                                                \
    }

#define ALL_BITS(T)                                                                                \
    OP_BIT(bt, T)                                                                                  \
    OP_BIT(bts, T)                                                                                 \
    OP_BIT(btr, T)                                                                                 \
    OP_BIT(btc, T)                                                                                 \
    BIT_REG(bts, T)                                                                                \
    BIT_REG(btr, T)                                                                                \
    BIT_REG(btc, T)                                                                                \
    BT_REG(T)                                                                                      \
    BT_MEM(T)                                                                                      \
    BIT_MEM(bts, T)                                                                                \
    BIT_MEM(btr, T)                                                                                \
    BIT_MEM(btc, T)
FOR_WIDE(ALL_BITS)

/* --- scans and counts --------------------------------------------------------------------------
 */

#define OP_SCAN(op, T)                                                                             \
    static inline T do_##op##_##T(struct soft_vcpu *c, T old, T src) {                             \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS #op SUFFIX_##T " %" MOD_##T "[s], %" MOD_##T "[d]" SAVE_FLAGS "%%rax"   \
                : [d] "+&r"(old), "+&a"(f)                                                         \
                : [s] "r"(src)                                                                     \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return old;                                                                                \
    }

/* The whole register is handed to BSF and BSR: with a zero source the processor keeps it, upper
 * half of a 32-bit destination included or not as it likes; the result is what the host does. */
#define SCAN_HANDLERS(op, T)                                                                       \
    OP_SCAN(op, T)                                                                                 \
    HANDLER(op##_r_##T) {                                                                          \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), get_##T(c, u->src)));              \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(op##_m_##T) {                                                                          \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_##T(c, u->dst, do_##op##_##T(c, get_##T(c, u->dst), m));                               \
        NEXT(c, u);                                                                                \
    }

#define WIDE_SCAN(op)                                                                              \
    static inline u64 wide_##op(struct soft_vcpu *c, u64 old, u32 src) {                           \
        u64 f = flags_in(c);                                                                       \
        __asm__(LOAD_FLAGS #op "l %k[s], %k[d]" SAVE_FLAGS "%%rax"                                 \
                : [d] "+&r"(old), "+&a"(f)                                                         \
                : [s] "r"(src)                                                                     \
                : "cc");                                                                           \
        c->aflags = f;                                                                             \
        return old;                                                                                \
    }                                                                                              \
    HANDLER(wide_##op##_r) {                                                                       \
        c->s.gpr[u->dst] = wide_##op(c, c->s.gpr[u->dst], get_u32(c, u->src));                     \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(wide_##op##_m) {                                                                       \
        u32 m = mem_load_u32(c, uop_addr(c, u));                                                   \
        c->s.gpr[u->dst] = wide_##op(c, c->s.gpr[u->dst], m);                                      \
        NEXT(c, u);                                                                                \
    }
WIDE_SCAN(bsf)
WIDE_SCAN(bsr)

SCAN_HANDLERS(bsf, u16)
SCAN_HANDLERS(bsf, u64)
SCAN_HANDLERS(bsr, u16)
SCAN_HANDLERS(bsr, u64)
#define ALL_COUNTS(T)                                                                              \
    SCAN_HANDLERS(popcnt, T)                                                                       \
    SCAN_HANDLERS(lzcnt, T)                                                                        \
    SCAN_HANDLERS(tzcnt, T)
FOR_WIDE(ALL_COUNTS)

/* ADCX and ADOX: 32 and 64 bits. */
SCAN_HANDLERS(adcx, u32)
SCAN_HANDLERS(adcx, u64)
SCAN_HANDLERS(adox, u32)
SCAN_HANDLERS(adox, u64)

/* CRC32: the destination is 32 bits wide (zero-extended), the source any size. No flags. */
static inline u32 do_crc32_u8(u32 crc, u8 v) {
    __asm__("crc32b %b1, %k0" : "+r"(crc) : "q"(v));
    return crc;
}
static inline u32 do_crc32_u16(u32 crc, u16 v) {
    __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(v));
    return crc;
}
static inline u32 do_crc32_u32(u32 crc, u32 v) {
    __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(v));
    return crc;
}
static inline u32 do_crc32_u64(u32 crc, u64 v) {
    u64 acc = crc;
    __asm__("crc32q %q1, %q0" : "+r"(acc) : "r"(v));
    return (u32)acc;
}
#define CRC_HANDLERS(T)                                                                            \
    HANDLER(crc32_r_##T) {                                                                         \
        set_u32(c, u->dst, do_crc32_##T(get_u32(c, u->dst), get_##T(c, u->src)));                  \
        NEXT(c, u);                                                                                \
    }                                                                                              \
    HANDLER(crc32_m_##T) {                                                                         \
        T m = mem_load_##T(c, uop_addr(c, u));                                                     \
        set_u32(c, u->dst, do_crc32_##T(get_u32(c, u->dst), m));                                   \
        NEXT(c, u);                                                                                \
    }
FOR_TYPES(CRC_HANDLERS)

/* --- binding -----------------------------------------------------------------------------------
 */

struct bits {
    uop_fn ri[4], rr[4], m[4], l[4];
};
#define BITS(op)                                                                                   \
    { TABLE3(op##_ri), TABLE3(op##_rr), TABLE3(op##_m), TABLE3(op##_l) }
static const struct bits bits_table[] = {
    {TABLE3(bt_ri), TABLE3(bt_rr), TABLE3(bt_m), {0}}, BITS(bts), BITS(btr), BITS(btc)};

static bool bind_bt(struct bind *b, const struct bits *t) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    u32 i = size_index(dst->size);
    bool lock = b->insn->prefixes & PREFIX_LOCK;
    b->uop->src2 = !is_imm(src);
    b->uop->src = is_imm(src) ? 0 : src->reg;
    if (is_mem(dst)) {
        return done(b, lock ? t->l[i] : t->m[i]);
    }
    b->uop->dst = dst->reg;
    return done(b, is_imm(src) ? t->ri[i] : t->rr[i]);
}

static bool bind_scan(struct bind *b, const uop_fn *reg, const uop_fn *mem, u32 index) {
    const struct insn_operand *dst = &b->insn->op[0], *src = &b->insn->op[1];
    if (!reg[index]) {
        return false;
    }
    b->uop->dst = dst->reg;
    if (is_mem(src)) {
        need_mem(b, src->size, ACCESS_READ);
        return done(b, mem[index]);
    }
    b->uop->src = reg_of(src);
    return done(b, reg[index]);
}

bool bind_bit(struct bind *b) {
    static const uop_fn bsf_r[] = {NULL, bsf_r_u16, wide_bsf_r, bsf_r_u64};
    static const uop_fn bsf_m[] = {NULL, bsf_m_u16, wide_bsf_m, bsf_m_u64};
    static const uop_fn bsr_r[] = {NULL, bsr_r_u16, wide_bsr_r, bsr_r_u64};
    static const uop_fn bsr_m[] = {NULL, bsr_m_u16, wide_bsr_m, bsr_m_u64};
    static const uop_fn popcnt_r[] = TABLE3(popcnt_r), popcnt_m[] = TABLE3(popcnt_m);
    static const uop_fn lzcnt_r[] = TABLE3(lzcnt_r), lzcnt_m[] = TABLE3(lzcnt_m);
    static const uop_fn tzcnt_r[] = TABLE3(tzcnt_r), tzcnt_m[] = TABLE3(tzcnt_m);
    static const uop_fn adcx_r[] = {NULL, NULL, adcx_r_u32, adcx_r_u64};
    static const uop_fn adcx_m[] = {NULL, NULL, adcx_m_u32, adcx_m_u64};
    static const uop_fn adox_r[] = {NULL, NULL, adox_r_u32, adox_r_u64};
    static const uop_fn adox_m[] = {NULL, NULL, adox_m_u32, adox_m_u64};
    static const uop_fn crc_r[] = TABLE4(crc32_r), crc_m[] = TABLE4(crc32_m);
    u32 size = size_index(b->insn->op[0].size);
    switch (b->insn->id) {
    case INSN_BT:
        return bind_bt(b, &bits_table[0]);
    case INSN_BTS:
        return bind_bt(b, &bits_table[1]);
    case INSN_BTR:
        return bind_bt(b, &bits_table[2]);
    case INSN_BTC:
        return bind_bt(b, &bits_table[3]);
    case INSN_BSF:
        return bind_scan(b, bsf_r, bsf_m, size);
    case INSN_BSR:
        return bind_scan(b, bsr_r, bsr_m, size);
    case INSN_POPCNT:
        return bind_scan(b, popcnt_r, popcnt_m, size);
    case INSN_LZCNT:
        return bind_scan(b, lzcnt_r, lzcnt_m, size);
    case INSN_TZCNT:
        return bind_scan(b, tzcnt_r, tzcnt_m, size);
    case INSN_ADCX:
        return bind_scan(b, adcx_r, adcx_m, size);
    case INSN_ADOX:
        return bind_scan(b, adox_r, adox_m, size);
    case INSN_CRC32:
        return bind_scan(b, crc_r, crc_m, size_index(b->insn->op[1].size));
    default:
        return false;
    }
}
