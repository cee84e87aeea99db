/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x87 environment in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR in their four formats (16 or 32
 * bits; protected or real-address mode). Intel SDM volume 1, figures 8-9 to 8-12.
 *
 *   32-bit protected        16-bit protected     real-address mode: FIP and FDP are linear
 * addresses 0 FCW   | ffff          0 FCW                split over two fields, the opcode shares
 * one 4 FSW   | ffff          2 FSW 8 FTW   | ffff          4 FTW 12 FIP                   6 FIP 16
 * FCS   | 0 FOP         8 FCS 20 FDP                  10 FDP 24 FDS   | ffff         12 FDS
 *
 * FCS and FDS are 0 (CPUID.7.EBX[13]). The work is done on the XSAVE image after the registers came
 * home; the next x87 instruction loads them again.
 */
#include "engines/soft/vec.h"

enum { ENV_MAX = 28, ST_BYTES = 80, FSW_ES = 0x80, FSW_B = 0x8000 };

static bool real_format(const struct soft_vcpu *c) {
    return !(c->mode_key & KEY_PE) || (c->mode_key & KEY_V86);
}

/* Summary bits follow from the flags and the masks. */
u16 x87_summary(u16 fsw, u16 fcw) {
    fsw &= (u16) ~(FSW_ES | FSW_B);
    return fsw & ~fcw & 0x3f ? fsw | FSW_ES | FSW_B : fsw;
}

/* --- tag word ----------------------------------------------------------------------------------
 */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static u32 tag_of(const u8 *st) {
    u64 mantissa = get64(st);
    u16 exponent = get16(st + 8) & 0x7fff;
    if (exponent == 0 && mantissa == 0) {
        return TAG_ZERO;
    }
    return exponent != 0 && exponent != 0x7fff && mantissa >> 63 ? TAG_VALID : TAG_SPECIAL;
}

static u16 tag_word(const u8 *x) {
    u32 top = get16(x + XS_FSW) >> 11 & 7;
    u32 tags = 0;
    for (u32 n = 0; n < 8; n++) {
        bool full = x[XS_FTW] >> n & 1;
        tags |= (full ? tag_of(x + XS_ST + 16 * ((n + 8 - top) & 7)) : TAG_EMPTY) << (2 * n);
    }
    return (u16)tags;
}

static u8 tag_abridge(u16 tags) {
    u32 out = 0;
    for (u32 n = 0; n < 8; n++) {
        out |= (u32)((tags >> (2 * n) & 3) != TAG_EMPTY) << n;
    }
    return (u8)out;
}

/* --- environment -------------------------------------------------------------------------------
 */

static u32 env_size(const struct uop *u) {
    return u->opsize == 2 ? 14 : 28;
}

static void env_pack32(const u8 *x, bool real, u8 *e) {
    u32 fip = get32(x + XS_FIP), fdp = get32(x + XS_FDP);
    u32 fop = get16(x + XS_FOP) & 0x7ffu;
    put32(e, 0xffff0000u | get16(x + XS_FCW));
    put32(e + 4, 0xffff0000u | get16(x + XS_FSW));
    put32(e + 8, 0xffff0000u | tag_word(x));
    if (real) {
        put32(e + 12, 0xffff0000u | (fip & 0xffff));
        put32(e + 16, (fip >> 16) << 12 | fop);
        put32(e + 20, 0xffff0000u | (fdp & 0xffff));
        put32(e + 24, (fdp >> 16) << 12);
    } else {
        put32(e + 12, fip);
        put32(e + 16, fop << 16);
        put32(e + 20, fdp);
        put32(e + 24, 0xffff0000u);
    }
}

static void env_pack16(const u8 *x, bool real, u8 *e) {
    u32 fip = get32(x + XS_FIP), fdp = get32(x + XS_FDP);
    put16(e, get16(x + XS_FCW));
    put16(e + 2, get16(x + XS_FSW));
    put16(e + 4, tag_word(x));
    put16(e + 6, (u16)fip);
    put16(e + 8, real ? (u16)((fip >> 4 & 0xf000) | (get16(x + XS_FOP) & 0x7ff)) : 0);
    put16(e + 10, (u16)fdp);
    put16(e + 12, real ? (u16)(fdp >> 4 & 0xf000) : 0);
}

static void env_unpack_pointers(u8 *x, const u8 *e, u32 size, bool real) {
    u64 fip, fdp;
    u16 fop = 0;
    if (size == 14) {
        u16 high_ip = get16(e + 8), high_dp = get16(e + 12);
        fip = get16(e + 6) | (real ? (u32)(high_ip & 0xf000) << 4 : 0);
        fdp = get16(e + 10) | (real ? (u32)(high_dp & 0xf000) << 4 : 0);
        fop = real ? high_ip & 0x7ff : 0;
    } else if (real) {
        fip = get16(e + 12) | (get32(e + 16) >> 12 & 0xffff) << 16;
        fdp = get16(e + 20) | (get32(e + 24) >> 12 & 0xffff) << 16;
        fop = get16(e + 16) & 0x7ff;
    } else {
        fip = get32(e + 12);
        fdp = get32(e + 20);
        fop = get16(e + 18) & 0x7ff;
    }
    put64(x + XS_FIP, fip);
    put64(x + XS_FDP, fdp);
    put16(x + XS_FOP, fop);
}

static void env_unpack(u8 *x, const u8 *e, u32 size, bool real) {
    u32 step = size == 14 ? 2 : 4;
    u16 fcw = (u16)((get16(e) & 0x1f7f) | 0x40);
    put16(x + XS_FCW, fcw);
    put16(x + XS_FSW, x87_summary(get16(e + step), fcw));
    x[XS_FTW] = tag_abridge(get16(e + 2 * step));
    env_unpack_pointers(x, e, size, real);
}

static u32 env_pack(struct soft_vcpu *c, const struct uop *u, u8 *e) {
    u32 size = env_size(u);
    if (size == 14) {
        env_pack16(c->s.xsave, real_format(c), e);
    } else {
        env_pack32(c->s.xsave, real_format(c), e);
    }
    return size;
}

void vec_x87_init(u8 *x) {
    memset(x, 0, XS_MXCSR);
    put16(x + XS_FCW, FCW_DEFAULT);
    memset(x + XS_ST, 0, XS_XMM - XS_ST);
}

/* FNINIT leaves the registers' contents, only empty. */
static void x87_reset(u8 *x) {
    u8 st[XS_XMM - XS_ST];
    u32 top = get16(x + XS_FSW) >> 11 & 7;
    memcpy(st, x + XS_ST, sizeof(st));
    memset(x, 0, XS_MXCSR);
    put16(x + XS_FCW, FCW_DEFAULT);
    for (u32 n = 0; n < 8; n++) { /* TOP becomes 0: see mmx_enter */
        memcpy(x + XS_ST + 16 * ((n + top) & 7), st + 16 * n, 16);
    }
}

/* --- handlers ----------------------------------------------------------------------------------
 */

static void home_waiting(struct soft_vcpu *c) {
    soft_vec_leave(c);
    if (get16(c->s.xsave + XS_FSW) & FSW_ES) {
        soft_fault(c, EXC_MF, false, 0);
    }
}

static void fnstenv(struct soft_vcpu *c, const struct uop *u) {
    u8 e[ENV_MAX], *x = c->s.xsave;
    soft_vec_leave(c);
    u32 size = env_pack(c, u, e);
    soft_lin_write(c, soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_WRITE), e, size, c->mmu);
    u16 fcw = get16(x + XS_FCW) | 0x3f;
    put16(x + XS_FCW, fcw);
    put16(x + XS_FSW, x87_summary(get16(x + XS_FSW), fcw));
    NEXT(c, u);
}

static void fldenv(struct soft_vcpu *c, const struct uop *u) {
    u8 e[ENV_MAX], st[8][16], *x = c->s.xsave;
    u32 size = env_size(u);
    home_waiting(c);
    soft_lin_read(c, soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_READ), e, size, c->mmu);
    u32 top = get16(x + XS_FSW) >> 11 & 7;
    memcpy(st, x + XS_ST, sizeof(st));
    env_unpack(x, e, size, real_format(c));
    u32 turn = top + 8 - (get16(x + XS_FSW) >> 11 & 7); /* the registers stay, TOP moves */
    for (u32 n = 0; n < 8; n++) {
        memcpy(x + XS_ST + 16 * ((n + turn) & 7), st[n], 16);
    }
    NEXT(c, u);
}

static void fnsave(struct soft_vcpu *c, const struct uop *u) {
    u8 e[ENV_MAX + ST_BYTES], *x = c->s.xsave;
    soft_vec_leave(c);
    u32 size = env_pack(c, u, e);
    for (u32 n = 0; n < 8; n++) {
        memcpy(e + size + 10 * n, x + XS_ST + 16 * n, 10);
    }
    size += ST_BYTES;
    soft_lin_write(c, soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_WRITE), e, size, c->mmu);
    x87_reset(x);
    NEXT(c, u);
}

static void frstor(struct soft_vcpu *c, const struct uop *u) {
    u8 e[ENV_MAX + ST_BYTES], *x = c->s.xsave;
    u32 size = env_size(u);
    home_waiting(c);
    u64 linear = soft_linear(c, u->seg, soft_ea(c, u), size + ST_BYTES, ACCESS_READ);
    soft_lin_read(c, linear, e, size + ST_BYTES, c->mmu);
    env_unpack(x, e, size, real_format(c));
    for (u32 n = 0; n < 8; n++) {
        memcpy(x + XS_ST + 16 * n, e + size + 10 * n, 10);
    }
    NEXT(c, u);
}

bool vec_bind_env(struct bind *b) {
    switch (b->insn->id) {
    case INSN_FNSTENV:
        b->uop->fn = fnstenv;
        break;
    case INSN_FLDENV:
        b->uop->fn = fldenv;
        break;
    case INSN_FNSAVE:
        b->uop->fn = fnsave;
        break;
    case INSN_FRSTOR:
        b->uop->fn = frstor;
        break;
    default:
        return false;
    }
    b->uop->opsize = b->insn->opsize == 2 ? 2 : 4;
    return true;
}
