/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A random case: one instruction of a form chosen evenly (now and then a few), and the state before
 * it. Operand addresses are aimed: mostly into writable memory, often at page ends, sometimes at
 * the read-only page, the hole behind it, or nowhere. Values are random or corners.
 */
#include <string.h>

#include "tests/conformance/conform.h"

struct maker {
    struct cf_gen *g;
    struct cf_case *t;
    const struct cf_view *v;
    const struct cf_form *form;
    struct insn insn;
    u8 code[32];
    u32 len;
    u64 target; /* linear address that the first operand was aimed at */
};

static u64 rnd(struct maker *k) {
    return cf_random(&k->g->rng);
}
static u64 below(struct maker *k, u64 n) {
    return cf_below(&k->g->rng, n);
}
static bool chance(struct maker *k, u32 percent) {
    return below(k, 100) < percent;
}

/* --- values ------------------------------------------------------------------------------------
 */

static u64 value(struct maker *k) {
    static const u64 corner[] = {0x7f,       0x80,      0xff,       0x7fff,
                                 0x8000,     0xffff,    0x7fffffff, 0x80000000,
                                 0xffffffff, INT64_MAX, 1ull << 63, UINT64_MAX};
    switch (below(k, 8)) {
    case 0:
        return below(k, 70);
    case 1:
        return (u64)-below(k, 70);
    case 2:
        return BIT(below(k, 64)) - below(k, 3);
    case 3:
        return corner[below(k, ARRAY_LEN(corner))];
    case 4:
        return rnd(k) >> below(k, 64);
    default:
        return rnd(k);
    }
}

static double number(struct maker *k) {
    static const double values[] = {0.0,
                                    -0.0,
                                    1.0,
                                    -1.0,
                                    0.5,
                                    1.5,
                                    2.0,
                                    3.0,
                                    1e300,
                                    1e-300,
                                    1e-310,
                                    5e-324,
                                    7e9,
                                    -2147483649.0,
                                    1e18,
                                    -1e19,
                                    1e38,
                                    1e-38,
                                    1e-45,
                                    65504.0,
                                    6e-8,
                                    0.1,
                                    9223372036854775808.0,
                                    2147483647.5,
                                    127.5,
                                    -32768.5};
    u64 bits;
    double d = values[below(k, ARRAY_LEN(values))];
    static const u64 special[] = {0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
                                  0x7ff0000000000001, 0xfff8000000000123, 0x7fefffffffffffff,
                                  0x0010000000000000, 0x000fffffffffffff};
    if (chance(k, 25)) {
        bits = special[below(k, ARRAY_LEN(special))];
        memcpy(&d, &bits, 8);
    }
    return d;
}

static u32 number32(struct maker *k) {
    static const u32 special[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffc00123,
                                  0x7f7fffff, 0x00800000, 0x007fffff, 1,          0x80000001};
    u32 bits;
    float f;
    if (chance(k, 25)) {
        return special[below(k, ARRAY_LEN(special))];
    }
    double d = number(k);
    f = d > 3e38 || d < -3e38 ? 3e38f : (float)d;
    memcpy(&bits, &f, 4);
    return bits;
}

static void random_bytes(struct maker *k, u8 *p, u32 size) {
    u32 kind = (u32)below(k, 5);
    for (u32 i = 0; i + 8 <= size; i += 8) {
        u64 v = rnd(k);
        if (kind == 1) {
            double d = number(k);
            memcpy(&v, &d, 8);
        } else if (kind == 2) {
            v = number32(k) | (u64)number32(k) << 32;
        } else if (kind == 3) {
            v = v & 4 ? 0 : ~0ull;
        } else if (kind == 4) {
            v &= 0x0f1f070f3f0f0f1full; /* small elements: shuffles, counts, lengths */
        }
        memcpy(p + i, &v, 8);
    }
}

static void put16(u8 *p, u32 v) {
    u16 w = (u16)v;
    memcpy(p, &w, 2);
}
static void put32(u8 *p, u32 v) {
    memcpy(p, &v, 4);
}
static void put64(u8 *p, u64 v) {
    memcpy(p, &v, 8);
}

static void random_x87(struct maker *k, u8 *x) {
    u32 kind = (u32)below(k, 4), fcw = 0x7f | (u32)(rnd(k) & 0xf00);
    u32 fsw = (u32)(rnd(k) & 0x7f00);
    if (chance(k, 20)) {
        fcw &= ~(u32)(rnd(k) & 0x3f);
    }
    if (chance(k, 20)) {
        fsw |= (u32)(rnd(k) & 0x7f);
    }
    put16(x + CF_FCW, fcw | 0x40);
    fsw &= ~0x8080u;
    put16(x + CF_FSW, fsw & ~fcw & 0x3f ? fsw | 0x8080 : fsw);
    x[CF_FTW] = kind == 0 ? 0 : kind == 1 ? 0xff : (u8)rnd(k);
    for (u32 i = 0; i < 8; i++) {
        u8 *st = x + CF_ST + 16 * i;
        long double v = (long double)number(k);
        memset(st, 0, 16);
        if (below(k, 4)) {
            memcpy(st, &v, 10);
        } else {
            put64(st, rnd(k));
            put16(st + 8, (u32)rnd(k));
        }
    }
}

static void random_vectors(struct maker *k) {
    u8 *x = k->t->xsave;
    u32 mxcsr = 0x1f80 | (u32)(rnd(k) & 0x603f);
    memset(x, 0, CF_XSAVE);
    random_x87(k, x);
    if (chance(k, 25)) {
        mxcsr = (u32)rnd(k) & 0xffff;
    } else if (chance(k, 50)) {
        mxcsr |= (u32)rnd(k) & 0x8040;
    }
    put32(x + CF_MXCSR, mxcsr);
    for (u32 i = 0; i < 16; i++) {
        random_bytes(k, x + CF_XMM + 16 * i, 16);
        random_bytes(k, x + CF_YMMH + 16 * i, 16);
    }
}

/* --- state before ------------------------------------------------------------------------------
 */

static void random_segments(struct maker *k) {
    static const u16 other[] = {CF_SEL_DS,     CF_SEL_LDT_DS32, CF_SEL_LDT_DS16,
                                CF_SEL_LDT_RO, CF_SEL_LDT_DOWN, 0};
    static const u16 stack[] = {CF_SEL_DS, CF_SEL_LDT_DS32, CF_SEL_LDT_DS16, CF_SEL_LDT_DOWN};
    struct cf_case *t = k->t;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        t->sel[i] = chance(k, 10) ? other[below(k, ARRAY_LEN(other))] : k->v->data;
        if (i >= SEG_FS && chance(k, 50)) {
            t->sel[i] = 0;
        }
    }
    t->sel[SEG_CS] = k->v->cs;
    t->sel[SEG_SS] = chance(k, 15) ? stack[below(k, ARRAY_LEN(stack))] : k->v->data;
    t->fs_base = t->gs_base = 0;
    if (k->v->bits == 64) {
        t->sel[SEG_SS] = CF_SEL_DS;
        for (u32 i = 0; i < 2; i++) {
            u64 sign = chance(k, 30) ? 0xffff800000000000 : 0;
            u64 b = chance(k, 30) ? 0 : (rnd(k) & 0x7fffffffffff) | sign;
            *(i ? &t->gs_base : &t->fs_base) = b;
            t->sel[SEG_FS + i] = 0;
        }
        return;
    }
    for (u32 i = SEG_FS; i <= SEG_GS; i++) {
        u64 b = t->sel[i] & 4 ? cf_ldt[t->sel[i] >> 3].base : 0;
        *(i == SEG_FS ? &t->fs_base : &t->gs_base) = b;
    }
}

static void random_state(struct maker *k) {
    struct cf_case *t = k->t;
    for (u32 i = 0; i < 16; i++) {
        t->gpr[i] = value(k);
        if (k->v->bits != 64) {
            t->gpr[i] = i < 8 ? (u32)t->gpr[i] : 0;
        }
    }
    t->flags = 0x202 | (rnd(k) & FLAG_ARITH) | (chance(k, 25) ? FLAG_DF : 0) |
               (chance(k, 10) ? FLAG_AC : 0) | (chance(k, 5) ? FLAG_ID : 0) |
               (chance(k, 3) ? FLAG_NT : 0);
    random_vectors(k);
    random_segments(k);
}

static u64 seg_base(const struct cf_case *t, u8 seg) {
    if (seg == SEG_FS || seg == SEG_GS) {
        return seg == SEG_FS ? t->fs_base : t->gs_base;
    }
    u16 sel = t->sel[seg];
    return cf_view[t->side].bits != 64 && (sel & 4) ? cf_ldt[sel >> 3].base : 0;
}

/* --- where operands are ------------------------------------------------------------------------
 */

static u64 pick_target(struct maker *k, u32 size) {
    size = MAX(size, 1u);
    switch (below(k, 40)) {
    case 0 ... 4:
        return CF_RAM + below(k, CF_RAM_WRITABLE - 64);
    case 5 ... 7:
        return CF_RAM + 0x1000 - below(k, size + 1);
    case 8 ... 9:
        return CF_RAM + CF_RAM_WRITABLE - below(k, size + 1);
    case 10:
        return CF_RAM + CF_RAM_BYTES - below(k, size + 1);
    case 11:
        return CF_RAM + CF_RAM_WRITABLE + below(k, 4096 - 64);
    case 12:
        return CF_RAM + CF_RAM_BYTES + below(k, 4096);
    case 13:
        return k->v->bits != 64 ? CF_RAM - below(k, size + 1)
               : chance(k, 50)  ? 0x800000000000 - below(k, size + 1)
                                : rnd(k) | 0x10000000000000 | BIT(62);
    case 14 ... 19: /* on a cache line's end */
        return CF_RAM + 64 + (below(k, 64) << 6) - below(k, size + 1);
    default:
        return CF_RAM + 0x200 + (below(k, 0x1c0) << 4);
    }
}

/* The part of a register that an address of that size uses; the rest keeps what it has. */
static void set_address(struct maker *k, u8 reg, u64 v, u32 size) {
    u64 *r = &k->t->gpr[reg];
    u64 mask = size == 2 ? 0xffff : size == 4 ? 0xffffffff : UINT64_MAX;
    *r = (*r & ~mask) | (v & mask);
    if (k->v->bits == 64 && size == 8) {
        *r = v;
    } else if (k->v->bits != 64) {
        *r = (u32)*r;
    }
}

static void patch_disp(struct maker *k, u64 v) {
    const struct insn *i = &k->insn;
    memcpy(k->code + i->disp_offset, &v, i->mem.disp_size);
}

static void aim_vsib(struct maker *k) {
    u8 *x = k->t->xsave;
    const struct insn_mem *m = &k->insn.mem;
    bool wide = k->form->opcode & 1;
    for (u32 n = 0; n < 16; n += 4) {
        u32 lo = (u32)below(k, 128) - 64, hi = (u32)below(k, 128) - 64;
        if (wide && (n & 4)) { /* sign of the element below */
            s32 s;
            memcpy(&s, x + CF_XMM + 16 * m->index + n - 4, 4);
            lo = (u32)(s >> 31);
            memcpy(&s, x + CF_YMMH + 16 * m->index + n - 4, 4);
            hi = (u32)(s >> 31);
        }
        if (chance(k, 95)) {
            put32(x + CF_XMM + 16 * m->index + n, lo);
            put32(x + CF_YMMH + 16 * m->index + n, hi);
        }
    }
}

/* Makes the memory operand's offset be `offset`, by its registers or its displacement. */
static void aim_offset(struct maker *k, u64 offset, u64 rip_next) {
    const struct insn *i = &k->insn;
    const struct insn_mem *m = &i->mem;
    u32 size = i->addrsize;
    if (m->base == MEM_RIP) {
        patch_disp(k, offset - rip_next);
        return;
    }
    u64 index = 0;
    if (m->index < 16 && !m->vsib && m->index != m->base) {
        if (chance(k, 60)) {
            set_address(k, m->index, below(k, 64), size);
        }
        index = k->t->gpr[m->index] * m->scale;
    } else if (m->index < 16 && !m->vsib) { /* both: the displacement must do */
        if (chance(k, 80)) {
            set_address(k, m->base, below(k, 256), size);
        }
        if (m->disp_size > 1) {
            patch_disp(k, offset - k->t->gpr[m->base] * (1u + m->scale));
        }
        return;
    }
    if (m->base == MEM_NONE) {
        patch_disp(k, offset - index);
        return;
    }
    set_address(k, m->base, offset - index - (u64)m->disp, size);
}

static bool is_bit_string(const struct insn *i) {
    return i->map == MAP_0F &&
           (i->opcode == 0xa3 || i->opcode == 0xab || i->opcode == 0xb3 || i->opcode == 0xbb);
}

static void aim_memory(struct maker *k, u64 rip_next) {
    const struct insn *i = &k->insn;
    const struct insn_operand *op = insn_mem_operand(i);
    if (!op || chance(k, 1)) {
        return;
    }
    u32 size = op->size ? op->size : i->id == INSN_FXSAVE || i->id == INSN_FXRSTOR ? 512 : 28;
    k->target = pick_target(k, size);
    if (i->mem.vsib) {
        aim_vsib(k);
    }
    if (is_bit_string(i) && chance(k, 90)) {
        u8 reg = (u8)((i->modrm >> 3 & 7) | (i->rex & 4) << 1);
        k->t->gpr[reg] = (u64)below(k, 2048) - 1024;
        if (k->v->bits != 64) {
            k->t->gpr[reg] = (u32)k->t->gpr[reg];
        }
    }
    aim_offset(k, k->target - seg_base(k->t, i->mem.seg), rip_next);
}

static void aim_register(struct maker *k, u8 reg, u8 seg, u32 size, u32 addrsize) {
    u64 target = pick_target(k, size);
    set_address(k, reg, target - seg_base(k->t, seg), addrsize);
    k->target = target;
}

static void aim_string(struct maker *k) {
    const struct insn *i = &k->insn;
    u64 count = chance(k, 90) ? below(k, 70) : chance(k, 80) ? below(k, 3000) : value(k);
    if (i->id == INSN_MOVS || i->id == INSN_CMPS || i->id == INSN_LODS) {
        aim_register(k, GPR_RSI, i->mem.seg, i->opsize, i->addrsize);
    }
    if (i->id != INSN_LODS) {
        aim_register(k, GPR_RDI, SEG_ES, i->opsize, i->addrsize);
    }
    if (i->prefixes & (PREFIX_REP | PREFIX_REPNE)) {
        set_address(k, GPR_RCX, count, i->addrsize);
    }
}

static u32 stack_size(const struct maker *k) {
    u16 sel = k->t->sel[SEG_SS];
    if (k->v->bits == 64) {
        return 8;
    }
    return (sel & 4) && !cf_ldt[sel >> 3].wide ? 2 : 4;
}

static void aim_implicit(struct maker *k) {
    const struct insn *i = &k->insn;
    if (i->flags & INSN_STRING) {
        aim_string(k);
    } else if (i->id == INSN_XLAT) {
        aim_register(k, GPR_RBX, i->mem.seg, 1, i->addrsize);
    } else if (i->id == INSN_MASKMOVQ || i->id == INSN_MASKMOVDQU || i->id == INSN_VMASKMOVDQU) {
        aim_register(k, GPR_RDI, i->mem.seg, 16, i->addrsize);
    } else if (i->id == INSN_LEAVE) {
        aim_register(k, GPR_RBP, SEG_SS, i->opsize, stack_size(k));
    } else if (i->implicit_read & 1u << GPR_RSP) {
        u64 operand = k->target; /* PUSH and POP with a memory operand */
        bool memory = insn_mem_operand(i) != NULL;
        if (memory && (i->mem.base == GPR_RSP || i->mem.index == GPR_RSP)) {
            return;
        }
        if (i->id == INSN_ENTER && chance(k, 60)) {
            aim_register(k, GPR_RBP, SEG_SS, 16, stack_size(k));
        }
        aim_register(k, GPR_RSP, SEG_SS, i->id == INSN_PUSHA || i->id == INSN_POPA ? 32 : 8,
                     stack_size(k));
        if (memory) {
            k->target = operand;
        }
    }
}

/* --- control flow and segments -----------------------------------------------------------------
 */

static u16 pick_selector(struct maker *k, bool code) {
    static const u16 codes[] = {CF_SEL_CS32, CF_SEL_CS64, CF_SEL_LDT_CS32, CF_SEL_LDT_CS16,
                                CF_SEL_LDT_XO};
    static const u16 datas[] = {CF_SEL_DS, CF_SEL_LDT_DS32, CF_SEL_LDT_DS16, CF_SEL_LDT_RO,
                                CF_SEL_LDT_DOWN};
    static const u16 bad[] = {0,    1,    2,    3,    CF_SEL_LDT_NP, 0x04,   0x24,
                              0x2c, 0x10, 0x18, 0x28, 0x29,          0x20,   0x30,
                              0x47, 0x4f, 0x83, 0xff, 0x100,         0xfff8, CF_SEL_DS};
    if (chance(k, 30)) {
        return bad[below(k, ARRAY_LEN(bad))];
    }
    bool want = chance(k, 90) ? code : !code;
    return want ? codes[below(k, ARRAY_LEN(codes))] : datas[below(k, ARRAY_LEN(datas))];
}

/* A place of INT3 in this case's slot, as an offset in the code segment; seldom a bad one. */
static u64 pick_landing(struct maker *k, bool ldt) {
    u64 here = (ldt ? 0 : CF_CODE) + (k->t->entry & ~(CF_SLOT - 1u)) + 56 + below(k, 8);
    switch (below(k, 20)) {
    case 0:
        return (ldt ? 0 : CF_CODE) + CF_CODE_BYTES + below(k, 64);
    case 1:
        return k->v->bits == 64 ? value(k) | BIT(50) : value(k) | BIT(15);
    case 2:
        return CF_RAM + below(k, CF_RAM_BYTES);
    default:
        return here;
    }
}

static void patch_pointer(struct maker *k, u8 *p, u32 size) {
    u16 sel = pick_selector(k, true);
    u64 at = pick_landing(k, (sel & 4) != 0);
    memcpy(p, &at, size);
    memcpy(p + size, &sel, 2);
}

static void patch_frame(struct maker *k, u8 *p, u32 size) {
    bool same = chance(k, 70);
    u16 sel = same ? k->v->cs : pick_selector(k, true);
    u64 word[5] = {pick_landing(k, (sel & 4) != 0), sel,
                   0x202 | (rnd(k) & (FLAG_ARITH | FLAG_DF | FLAG_ID | FLAG_IOPL)), CF_RAM + 0x800,
                   pick_selector(k, false)};
    if (chance(k, 10)) {
        word[2] |=
            rnd(k) & 0x3fffff & ~(u64)(FLAG_TF | FLAG_AC); /* AC: Linux takes it for a split lock */
    }
    for (u32 n = 0; n < 5; n++) {
        memcpy(p + n * size, &word[n], size);
    }
}

/* What memory must hold for the instruction to get anywhere. */
static void prepare_memory(struct maker *k) {
    const struct insn *i = &k->insn;
    u8 *p = k->t->patch;
    u64 at;
    switch (i->id) {
    case INSN_IRET:
    case INSN_RET_FAR:
        patch_frame(k, p, i->opsize);
        break;
    case INSN_RET:
        at = pick_landing(k, k->v->ldt);
        memcpy(p, &at, 8);
        break;
    case INSN_JMP:
    case INSN_CALL:
        at = pick_landing(k, k->v->ldt);
        if (insn_has_mem(i)) {
            memcpy(p, &at, 8);
        } else if (i->has_modrm) {
            k->t->gpr[(i->modrm & 7) | (i->rex & 1) << 3] = k->v->bits == 64 ? at : (u32)at;
        }
        break;
    case INSN_JMP_FAR:
    case INSN_CALL_FAR:
        patch_pointer(k, p, i->opsize);
        break;
    case INSN_LDS:
    case INSN_LES:
    case INSN_LSS:
    case INSN_LFS:
    case INSN_LGS:
        put16(p + i->opsize, pick_selector(k, false));
        break;
    case INSN_POP:
        put16(p, chance(k, 50) ? pick_selector(k, false) : (u32)rnd(k));
        break;
    case INSN_LDMXCSR:
    case INSN_VLDMXCSR:
        put32(p, (u32)rnd(k) & (chance(k, 90) ? 0xffff : 0xffffffff));
        break;
    case INSN_FXRSTOR:
    case INSN_FXRSTOR64:
        put32(p + CF_MXCSR, (u32)rnd(k) & (chance(k, 90) ? 0xffff : 0xffffffff));
        break;
    case INSN_CMPXCHG:
        if (chance(k, 60)) {
            put64(p, k->t->gpr[GPR_RAX]);
        }
        break;
    case INSN_CMPXCHG8B:
    case INSN_CMPXCHG16B:
        if (chance(k, 60)) {
            u32 half = i->id == INSN_CMPXCHG8B ? 4 : 8;
            memcpy(p, &k->t->gpr[GPR_RAX], half);
            memcpy(p + half, &k->t->gpr[GPR_RDX], half);
        }
        break;
    default:
        break;
    }
}

static void prepare_registers(struct maker *k) {
    const struct insn *i = &k->insn;
    u64 *r = k->t->gpr;
    u8 rm = (u8)((i->modrm & 7) | (i->rex & 1) << 3);
    bool selector = i->id == INSN_LAR || i->id == INSN_LSL || i->id == INSN_VERR ||
                    i->id == INSN_VERW || i->id == INSN_ARPL ||
                    (i->id == INSN_MOV && i->map == MAP_1BYTE && i->opcode == 0x8e);
    if (selector && chance(k, 90)) {
        u16 sel = pick_selector(k, chance(k, 30));
        if (i->modrm >= 0xc0) {
            r[rm] = (r[rm] & ~0xffffull) | sel;
        } else {
            put16(k->t->patch, sel);
        }
    }
    if ((i->id == INSN_DIV || i->id == INSN_IDIV) && chance(k, 70)) {
        u64 high = chance(k, 50) ? 0 : below(k, 100);
        r[GPR_RDX] = i->id == INSN_IDIV && chance(k, 30) ? (u64)-1 : high;
        if (k->v->bits != 64) {
            r[GPR_RDX] = (u32)r[GPR_RDX];
        }
    }
    if ((i->id == INSN_LOOP || i->id == INSN_LOOPE || i->id == INSN_LOOPNE || i->id == INSN_JCXZ) &&
        chance(k, 70)) {
        set_address(k, GPR_RCX, below(k, 3), i->addrsize);
    }
}

/* --- encodings ---------------------------------------------------------------------------------
 */

static u8 pick_modrm(struct maker *k) {
    const struct cf_form *f = k->form;
    u64 left = f->allowed;
    for (u64 n = below(k, (u64)__builtin_popcountll(left)); n; n--) {
        left &= left - 1;
    }
    u8 bits = (u8)__builtin_ctzll(left);
    if (!f->memory) {
        return 0xc0 | bits;
    }
    u8 rm = chance(k, 60) ? bits & 7 : (u8)below(k, 8);
    return (u8)(below(k, 3) << 6 | (bits & 0x38) | rm);
}

static void put_operand(struct maker *k, u32 addrsize) {
    u8 modrm = pick_modrm(k);
    k->code[k->len++] = modrm;
    if (modrm >= 0xc0) {
        return;
    }
    u32 mod = modrm >> 6, rm = modrm & 7,
        disp = mod == 1   ? 1
               : mod == 2 ? (addrsize == 2 ? 2 : 4)
                          : 0;
    if (addrsize != 2 && rm == 4) {
        u8 sib = (u8)rnd(k);
        k->code[k->len++] = sib;
        if (mod == 0 && (sib & 7) == 5) {
            disp = 4;
        }
    } else if (mod == 0 && (addrsize == 2 ? rm == 6 : rm == 5)) {
        disp = addrsize == 2 ? 2 : 4;
    }
    u64 v = disp == 1 || chance(k, 50) ? rnd(k) : below(k, 256);
    memcpy(k->code + k->len, &v, disp);
    k->len += disp;
}

/* Returns the address size. */
static u32 put_prefixes(struct maker *k) {
    static const u8 seg[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    const struct cf_form *f = k->form;
    bool address = chance(k, 10);
    u32 n = 0;
    if (address) {
        k->code[n++] = 0x67;
    }
    if (chance(k, 10)) {
        k->code[n++] = seg[below(k, 6)];
    }
    if ((f->memory && chance(k, 12)) || chance(k, 1)) {
        k->code[n++] = 0xf0;
    }
    if (!f->vex && (f->pp == 1 || (f->pp && chance(k, 20)))) {
        k->code[n++] = 0x66;
    }
    if (!f->vex && f->pp >= 2) {
        k->code[n++] = f->pp == 2 ? 0xf3 : 0xf2;
    }
    if (f->vex && chance(k, 1)) {
        k->code[n++] = (u8)(chance(k, 50) ? 0x66 : 0xf3);
    }
    k->len = n;
    u32 normal = k->v->bits / 8;
    return !address ? normal : normal == 4 ? 2 : 4;
}

static void put_vex(struct maker *k) {
    const struct cf_form *f = k->form;
    u8 vvvv = (u8)below(k, 16), rxb = k->v->bits == 64 ? (u8)below(k, 8) : 7;
    struct insn insn;
    u8 probe[16] = {0xc4, (u8)(0xe0 | f->map), (u8)((f->wide ? 0x80 : 0) | f->vex_l << 2 | f->pp),
                    f->opcode, (u8)(f->memory ? 0 : 0xc0)};
    probe[4] |= (u8)__builtin_ctzll(f->allowed);
    /* vvvv = 0 is the register that nobody uses, if the instruction does not read it */
    bool used = f->id != INSN_INVALID && insn_decode(&insn, probe, 16, k->v->bits) == DECODE_OK;
    if (!used && chance(k, 95)) {
        vvvv = 15;
    }
    u8 last = (u8)(vvvv << 3 | f->vex_l << 2 | f->pp);
    if (f->map == MAP_0F && !f->wide && (rxb & 3) == 3 && chance(k, 50)) {
        k->code[k->len++] = 0xc5;
        k->code[k->len++] = (u8)((rxb & 4) << 5 | last);
        return;
    }
    k->code[k->len++] = 0xc4;
    k->code[k->len++] = (u8)(rxb << 5 | f->map);
    k->code[k->len++] = (u8)((f->wide ? 0x80 : 0) | last);
}

static void put_opcode(struct maker *k) {
    const struct cf_form *f = k->form;
    if (f->vex) {
        put_vex(k);
    } else {
        if (k->v->bits == 64 && (f->wide || chance(k, 50))) {
            k->code[k->len++] = (u8)(0x40 | (f->wide ? 8 : 0) | below(k, 8));
        }
        if (f->map != MAP_1BYTE) {
            k->code[k->len++] = 0x0f;
        }
        if (f->map == MAP_0F38 || f->map == MAP_0F3A) {
            k->code[k->len++] = f->map == MAP_0F38 ? 0x38 : 0x3a;
        }
    }
    k->code[k->len++] = f->opcode;
}

static void random_immediate(struct maker *k) {
    const struct insn *i = &k->insn;
    u64 v = chance(k, 50) ? value(k) : below(k, 32);
    u32 size = i->imm_size + i->imm2_size;
    if (i->id == INSN_ENTER) {
        v = below(k, 64) | (chance(k, 70) ? below(k, 4) : below(k, 256)) << 16;
    } else if (i->id == INSN_JMP_FAR || i->id == INSN_CALL_FAR) {
        u8 p[16];
        patch_pointer(k, p, i->imm_size);
        memcpy(k->code + i->imm_offset, p, size);
        return;
    } else if ((i->id == INSN_RET || i->id == INSN_RET_FAR) && chance(k, 90)) {
        v = below(k, 256);
    }
    if (i->id == INSN_INT && (v & 0xff) == 0x80) {
        v = 3;
    }
    if (i->imm_offset) {
        memcpy(k->code + i->imm_offset, &v, MIN(size, 8u));
    }
}

/* A jump's displacement: to the INT3s behind the case, so that it stays in its slot. */
static void aim_jump(struct maker *k, u32 at) {
    const struct insn *i = &k->insn;
    bool relative = i->operand_count && i->op[0].kind == OPERAND_REL;
    if (!relative) {
        return;
    }
    u64 next = (k->v->ldt ? 0 : CF_CODE) + k->t->entry + at + i->len;
    u64 rel =
        i->imm_size == 1 ? 56 + below(k, 8) - (at + i->len) : pick_landing(k, k->v->ldt) - next;
    if (i->imm_size > 1 && k->v->bits == 64 && rel + 0x80000000 > UINT32_MAX) {
        rel = 0;
    }
    memcpy(k->code + i->imm_offset, &rel, i->imm_size);
}

/* Instructions that may go elsewhere, change segments or stop the case: only as the last. */
static bool is_last(const struct insn *i) {
    if (i->id == INSN_LSL) { /* may tell which processor runs it: the comparison must see that */
        return true;
    }
    return (i->flags & (INSN_BRANCH | INSN_ENDS_BLOCK)) != 0;
}

static bool allowed(struct maker *k, enum decode_status st) {
    const struct insn *i = &k->insn;
    if (st == DECODE_MORE) {
        return false;
    }
    if (st != DECODE_OK) {
        return k->form->id == INSN_INVALID || i->len <= INSN_MAX_LEN;
    }
    return !(i->cpuid & ~k->g->features) && !cf_excluded(i);
}

/* One instruction of form into k->code; false: try again. */
static bool encode(struct maker *k) {
    u8 padded[32] = {0};
    u32 addrsize = put_prefixes(k);
    put_opcode(k);
    if (k->form->has_modrm) {
        put_operand(k, addrsize);
    }
    memcpy(padded, k->code, k->len);
    enum decode_status st = insn_decode(&k->insn, padded, 16, k->v->bits);
    if (!allowed(k, st)) {
        return false;
    }
    if (st != DECODE_OK) {
        k->insn = (struct insn){.id = INSN_INVALID, .len = (u8)MIN(k->len + 4, 15u)};
    }
    memset(k->code + k->len, 0, sizeof(k->code) - k->len);
    k->len = k->insn.len;
    random_immediate(k);
    return true;
}

static u32 pick_form(struct maker *k) {
    const struct cf_forms *f = &k->g->forms;
    u32 m = k->v->bits == 64 ? 0 : k->v->bits == 32 ? 1 : 2;
    bool undefined = chance(k, 7);
    u32 from = undefined ? f->undefined[m] : f->first[m];
    return from + (u32)below(k, (undefined ? f->first[m + 1] : f->undefined[m]) - from);
}

static void place_case(struct maker *k, u32 slot) {
    struct cf_case *t = k->t;
    t->entry = slot * CF_SLOT;
    if (t->insns == 1 && !is_last(&k->insn) && chance(k, 4)) { /* at a page's end, or at the hole */
        u32 end = chance(k, 50) ? 0x5000 : CF_CODE_BYTES;
        t->entry = end - 1 - (u32)below(k, t->len + 1u);
    }
}

/* Appends one instruction; false when it does not fit. */
static bool append(struct maker *k, bool first) {
    struct cf_case *t = k->t;
    if (t->len + k->len > CF_BODY || k->insn.id == INSN_INVALID + 0u) {
        if (!first || t->len + k->len > CF_BODY) {
            return false;
        }
    }
    if (!first && k->insn.has_modrm && (k->insn.id == INSN_JMP || k->insn.id == INSN_CALL)) {
        return false; /* the register or memory may have changed: it could go to another case */
    }
    t->at[t->insns++] = t->len;
    k->target = CF_RAM + 0x400;
    if (first) {
        t->len = (u8)k->len;
        place_case(k, t->entry / CF_SLOT);
        t->len = 0;
    }
    u64 next = (k->v->ldt ? 0 : CF_CODE) + t->entry + t->len + k->len;
    prepare_registers(k);
    if (k->insn.id != INSN_INVALID) {
        aim_memory(k, next);
        aim_implicit(k);
        prepare_memory(k);
        aim_jump(k, t->len);
    }
    if (first) {
        u64 at = k->target - CF_RAM;
        t->patch_at = (u32)MIN(at, (u64)CF_RAM_WRITABLE - CF_PATCH);
    }
    memcpy(t->code + t->len, k->code, k->len);
    t->len = (u8)(t->len + k->len);
    return true;
}

static bool chosen(struct maker *k) {
    return !k->g->only || !strcmp(k->g->only, insn_name(k->insn.id));
}

void cf_generate(struct cf_gen *g, struct cf_case *t, u32 slot, u64 ram_seed) {
    static const u8 sides[] = {CF_64, CF_64, CF_64, CF_64, CF_64,     CF_64,
                               CF_32, CF_32, CF_16, CF_16, CF_32_LDT, CF_32_LDT};
    struct maker k = {.g = g, .t = t};
    do {
        t->side = sides[below(&k, ARRAY_LEN(sides))];
    } while (!(g->side_mask >> t->side & 1));
    k.v = &cf_view[t->side];
    t->len = t->insns = 0;
    t->entry = slot * CF_SLOT;
    t->ram_seed = ram_seed;
    random_state(&k);
    random_bytes(&k, t->patch, CF_PATCH);
    u32 want = chance(&k, 20) ? 2 + (u32)below(&k, CF_INSNS - 1) : 1;
    for (u32 tries = 0; t->insns < want && tries < 100000; tries++) {
        u32 n = pick_form(&k);
        k.form = &g->forms.form[n];
        if (!encode(&k) || !chosen(&k) || !append(&k, t->insns == 0)) {
            continue;
        }
        g->chosen[t->insns - 1] = n;
        if (is_last(&k.insn) || k.insn.id == INSN_INVALID || t->entry >= CF_SLOTS * CF_SLOT) {
            break;
        }
        k.t = t;
    }
}
