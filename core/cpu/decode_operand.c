/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operands of an instruction: what each operand code of the tables means once prefixes, modrm and
 * the form are known (SDM volume 2, sections 2.1.5, 2.2.1 and appendix A.2).
 */
#include "core/cpu/decode_priv.h"

/* clang-format off */

#define GPR_RM(reg_sz, mem_sz) {SPEC_RM, REG_GPR, SIZE_##reg_sz, SIZE_##mem_sz, 0, 0}
#define GPR_REG(sz)            {SPEC_REG, REG_GPR, SIZE_##sz, 0, 0, 0}
#define FIXED(cls, sz, n)      {SPEC_FIXED, REG_##cls, SIZE_##sz, 0, n, 0}
#define MEMORY(sz)             {SPEC_MEM, REG_GPR, 0, SIZE_##sz, 0, 0}
#define ALIGNED_MEMORY(sz)     {SPEC_MEM, REG_GPR, 0, SIZE_##sz, 0, 1}
#define XMM_RM(reg_sz, mem_sz, al) {SPEC_RM, REG_XMM, SIZE_##reg_sz, SIZE_##mem_sz, 0, al}
#define IMM(kind, op_sz, enc_sz) {kind, 0, SIZE_##op_sz, SIZE_##enc_sz, 0, 0}
#define VSIB(sz, xmm)          {SPEC_VSIB, REG_XMM, 0, SIZE_##sz, xmm, 0}

const struct operand_spec decode_specs[SPEC_COUNT] = {
    [Eb] = GPR_RM(1, 1), [Ew] = GPR_RM(2, 2), [Ed] = GPR_RM(4, 4), [Ev] = GPR_RM(V, V),
    [Ey] = GPR_RM(Y, Y), [Ez] = GPR_RM(Z, Z), [Em] = GPR_RM(MODE, MODE), [EvMw] = GPR_RM(V, 2),
    [EzMw] = GPR_RM(Z, 2), [RdMb] = GPR_RM(4, 1), [RdMw] = GPR_RM(4, 2),
    [Rd] = GPR_RM(4, 4), [Rq] = GPR_RM(8, 8), [Ry] = GPR_RM(Y, Y), [Rv] = GPR_RM(V, V), [Rm] = GPR_RM(MODE, MODE),
    [Gb] = GPR_REG(1), [Gw] = GPR_REG(2), [Gd] = GPR_REG(4), [Gv] = GPR_REG(V), [Gy] = GPR_REG(Y),
    [Gz] = GPR_REG(Z), [Gm] = GPR_REG(MODE), [Ga] = {SPEC_REG, REG_GPR, SIZE_ADDR, 0, 0, 0},
    [By] = {SPEC_VVVV, REG_GPR, SIZE_Y, 0, 0, 0},
    [Zb] = {SPEC_OPCODE, REG_GPR, SIZE_1, 0, 0, 0}, [Zv] = {SPEC_OPCODE, REG_GPR, SIZE_V, 0, 0, 0},
    [rAL] = FIXED(GPR, 1, GPR_RAX), [rAX] = FIXED(GPR, 2, GPR_RAX), [rvAX] = FIXED(GPR, V, GPR_RAX),
    [rzAX] = FIXED(GPR, Z, GPR_RAX), [rCL] = FIXED(GPR, 1, GPR_RCX), [rDX] = FIXED(GPR, 2, GPR_RDX),
    [One] = IMM(SPEC_ONE, 1, 0),
    [M0] = MEMORY(0), [Mb] = MEMORY(1), [Mw] = MEMORY(2), [Md] = MEMORY(4), [Mq] = MEMORY(8),
    [Mdq] = MEMORY(16), [Mdqa] = ALIGNED_MEMORY(16), [Mv] = MEMORY(V), [Mx] = MEMORY(X),
    [Mxa] = ALIGNED_MEMORY(X), [My] = MEMORY(Y), [Mp] = MEMORY(P), [Ms] = MEMORY(S), [Ma] = MEMORY(A),
    [M10] = MEMORY(10), [Menv] = MEMORY(ENV), [Msave] = MEMORY(SAVE), [M64] = MEMORY(64), [M512] = MEMORY(512),
    [Sw] = {SPEC_SEG, REG_SEG, SIZE_2, 0, 0, 0},
    [sES] = FIXED(SEG, 2, SEG_ES), [sCS] = FIXED(SEG, 2, SEG_CS), [sSS] = FIXED(SEG, 2, SEG_SS),
    [sDS] = FIXED(SEG, 2, SEG_DS), [sFS] = FIXED(SEG, 2, SEG_FS), [sGS] = FIXED(SEG, 2, SEG_GS),
    [Cm] = {SPEC_CR, REG_CR, SIZE_MODE, 0, 0, 0}, [Dm] = {SPEC_DR, REG_DR, SIZE_MODE, 0, 0, 0},
    [ST0] = FIXED(ST, 10, 0), [STi] = {SPEC_ST, REG_ST, SIZE_10, 0, 0, 0},
    [Ib] = IMM(SPEC_IMM, 1, 1), [Ibz] = IMM(SPEC_SIMM, 1, 1), [Ibs] = IMM(SPEC_SIMM, V, 1), [Iw] = IMM(SPEC_IMM, 2, 2),
    [Iz] = IMM(SPEC_SIMM, V, Z), [Iv] = IMM(SPEC_IMM, V, V),
    [Jb] = IMM(SPEC_REL, V, 1), [Jz] = IMM(SPEC_REL, V, Z), [Ap] = IMM(SPEC_FAR, P, Z),
    [Ob] = {SPEC_MOFFS, 0, 0, SIZE_1, 0, 0}, [Ov] = {SPEC_MOFFS, 0, 0, SIZE_V, 0, 0},
    [Pq] = {SPEC_MMREG, REG_MMX, SIZE_8, 0, 0, 0}, [Qq] = {SPEC_MMRM, REG_MMX, SIZE_8, SIZE_8, 0, 0},
    [Qd] = {SPEC_MMRM, REG_MMX, SIZE_8, SIZE_4, 0, 0}, [Nq] = {SPEC_MMRM, REG_MMX, SIZE_8, SIZE_8, 0, 0},
    [Vdq] = {SPEC_REG, REG_XMM, SIZE_16, 0, 0, 0}, [Vx] = {SPEC_REG, REG_XMM, SIZE_X, 0, 0, 0},
    [Udq] = XMM_RM(16, 16, 0), [Ux] = XMM_RM(X, X, 0), [Wdq] = XMM_RM(16, 16, 0), [Wdqa] = XMM_RM(16, 16, 1),
    [Wq] = XMM_RM(16, 8, 0), [Wd] = XMM_RM(16, 4, 0), [Ww] = XMM_RM(16, 2, 0), [Wb] = XMM_RM(16, 1, 0),
    [Wx] = XMM_RM(X, X, 0), [Wxa] = XMM_RM(X, X, 1), [Wxh] = XMM_RM(16, XH, 0), [Wxq] = XMM_RM(16, XQ, 0),
    [Wxe] = XMM_RM(16, XE, 0),
    [Hdq] = {SPEC_VVVV, REG_XMM, SIZE_16, 0, 0, 0}, [Hx] = {SPEC_VVVV, REG_XMM, SIZE_X, 0, 0, 0},
    [Lx] = {SPEC_IS4, REG_XMM, SIZE_X, 0, 0, 0}, [xXMM0] = FIXED(XMM, 16, 0),
    [Td_x] = VSIB(4, 0), [Tq_x] = VSIB(8, 0), [Tq_dq] = VSIB(8, 1),
};

/* clang-format on */

static u16 size_variable(const struct insn *insn, u8 code) {
    switch (code) {
    case SIZE_Z:
        return MIN(insn->opsize, 4);
    case SIZE_Y:
        return insn->mode == 64 && (insn->rex & REX_W) ? 8 : 4;
    case SIZE_MODE:
        return insn->mode == 64 ? 8 : 4;
    case SIZE_ADDR:
        return insn->addrsize;
    case SIZE_P:
        return (u16)(2 + insn->opsize);
    case SIZE_S:
        return insn->mode == 64 ? 10 : 6;
    case SIZE_A:
        return (u16)(2 * insn->opsize);
    case SIZE_X:
        return (u16)(16 << insn->vex_l);
    case SIZE_XH:
        return (u16)(8 << insn->vex_l);
    case SIZE_XQ:
        return (u16)(4 << insn->vex_l);
    case SIZE_XE:
        return (u16)(2 << insn->vex_l);
    case SIZE_ENV:
        return insn->opsize == 2 ? 14 : 28;
    default: /* SIZE_SAVE */
        return insn->opsize == 2 ? 94 : 108;
    }
}

static inline u16 size_bytes(const struct insn *insn, u8 code) {
    static const u16 fixed[SIZE_V] = {
        [SIZE_1] = 1,   [SIZE_2] = 2,   [SIZE_4] = 4,   [SIZE_8] = 8,     [SIZE_16] = 16,
        [SIZE_32] = 32, [SIZE_10] = 10, [SIZE_64] = 64, [SIZE_512] = 512,
    };
    if (code == SIZE_V)
        return insn->opsize;
    return code < SIZE_V ? fixed[code] : size_variable(insn, code);
}

/* ah, ch, dh, bh exist only without REX or VEX. */
static void set_reg(struct decoder *d, struct insn_operand *op, u8 reg_class, u8 reg, u16 size) {
    op->kind = OPERAND_REG;
    op->reg_class = reg_class == REG_XMM && size == 32 ? REG_YMM : reg_class;
    op->size = size;
    op->reg = reg;
    if (reg_class == REG_GPR && size == 1 && reg >= 4 && reg < 8 && !d->has_rex) {
        op->high_byte = true;
        op->reg = (u8)(reg - 4);
    }
}

/* Immediates in the order of the encoding: the first goes to imm, a second one to imm2. */
static bool fetch_imm(struct decoder *d, struct insn_operand *op, u8 size, bool sign) {
    struct insn *insn = d->insn;
    u8 at = (u8)(d->p - d->start);
    u64 v;
    if (!decode_fetch(d, size, &v))
        return false;
    if (sign)
        v = (u64)decode_sign_extend(v, size);
    op->kind = OPERAND_IMM;
    if (insn->imm_size) {
        insn->imm2 = v;
        insn->imm2_size = size;
    } else {
        insn->imm = v;
        insn->imm_size = size;
        insn->imm_offset = at;
    }
    return true;
}

static bool fetch_far(struct decoder *d, struct insn_operand *op, u8 offset_size) {
    bool ok = fetch_imm(d, op, offset_size, false) && fetch_imm(d, op, 2, false);
    op->kind = OPERAND_FAR;
    return ok;
}

static bool fetch_moffs(struct decoder *d, struct insn_operand *op, u16 size) {
    struct insn *insn = d->insn;
    u64 v;
    insn->disp_offset = (u8)(d->p - d->start);
    if (!decode_fetch(d, insn->addrsize, &v))
        return false;
    insn->mem.base = insn->mem.index = MEM_NONE;
    insn->mem.scale = 1;
    insn->mem.disp = (s64)v;
    insn->mem.disp_size = insn->addrsize;
    op->kind = OPERAND_MEM;
    op->size = size;
    return true;
}

static void set_mem(struct decoder *d, const struct operand_spec *spec, struct insn_operand *op) {
    op->kind = OPERAND_MEM;
    op->size = size_bytes(d->insn, spec->mem_size);
    if (spec->aligned)
        d->insn->flags |= INSN_ALIGNED;
}

/* A gather needs an SIB byte, 32- or 64-bit addresses, and index, mask and destination distinct. */
static bool set_vsib(struct decoder *d, const struct operand_spec *spec, struct insn_operand *op) {
    struct insn *insn = d->insn;
    u8 dest = (u8)((insn->modrm >> 3 & 7) | (insn->rex & REX_R) << 1);
    if (insn->addrsize == 2 || (insn->modrm & 7) != 4)
        return false;
    set_mem(d, spec, op);
    insn->mem.vsib = true;
    insn->mem.index = (u8)((insn->sib >> 3 & 7) | (insn->rex & REX_X) << 2);
    insn->mem.scale = (u8)(1 << (insn->sib >> 6));
    op->reg_class = insn->vex_l && !spec->value ? REG_YMM : REG_XMM;
    op->reg = insn->mem.index;
    d->vvvv_used = true;
    return dest != insn->mem.index && dest != insn->vex_v && insn->mem.index != insn->vex_v;
}

static bool set_control(struct decoder *d, const struct operand_spec *spec,
                        struct insn_operand *op) {
    u8 reg = (u8)((d->insn->modrm >> 3 & 7) | (d->insn->rex & REX_R) << 1);
    u16 size = size_bytes(d->insn, spec->reg_size);
    set_reg(d, op, spec->reg_class, reg, size);
    if (spec->kind == SPEC_DR)
        return reg < 8;
    return reg == 0 || reg == 2 || reg == 3 || reg == 4 || reg == 8;
}

static bool operand_encoded(struct decoder *d, const struct operand_spec *spec,
                            struct insn_operand *op) {
    const struct insn *insn = d->insn;
    u16 size = size_bytes(insn, spec->reg_size);
    u8 rm = (u8)((insn->modrm & 7) | (insn->rex & REX_B) << 3);
    u8 reg = (u8)((insn->modrm >> 3 & 7) | (insn->rex & REX_R) << 1);

    switch (spec->kind) {
    case SPEC_RM:
        if (d->mod3)
            set_reg(d, op, spec->reg_class, rm, size);
        else
            set_mem(d, spec, op);
        return true;
    case SPEC_MEM:
        set_mem(d, spec, op);
        return true;
    case SPEC_REG:
        set_reg(d, op, spec->reg_class, reg, size);
        return true;
    case SPEC_MMRM:
        if (d->mod3)
            set_reg(d, op, REG_MMX, rm & 7, 8);
        else
            set_mem(d, spec, op);
        return true;
    case SPEC_MMREG:
        set_reg(d, op, REG_MMX, reg & 7, 8);
        return true;
    case SPEC_VVVV:
        set_reg(d, op, spec->reg_class, insn->vex_v, size);
        d->vvvv_used = true;
        return true;
    case SPEC_OPCODE:
        set_reg(d, op, REG_GPR, (u8)((insn->opcode & 7) | (insn->rex & REX_B) << 3), size);
        return true;
    case SPEC_SEG:
        set_reg(d, op, REG_SEG, reg & 7, 2);
        return (reg & 7) < SEG_COUNT;
    case SPEC_ST:
        set_reg(d, op, REG_ST, rm & 7, 10);
        return true;
    case SPEC_CR:
    case SPEC_DR:
        return set_control(d, spec, op);
    default:
        return set_vsib(d, spec, op);
    }
}

/* Returns false when bytes are missing (d->short_of_bytes) or the encoding is invalid. */
bool decode_operand(struct decoder *d, const struct operand_spec *spec, struct insn_operand *op) {
    struct insn *insn = d->insn;
    if (spec->kind <= SPEC_LAST_ENCODED)
        return operand_encoded(d, spec, op);
    u16 size = size_bytes(insn, spec->reg_size);
    u8 enc = (u8)size_bytes(insn, spec->mem_size);

    switch (spec->kind) {
    case SPEC_FIXED:
        set_reg(d, op, spec->reg_class, spec->value, size);
        op->flags |= OPERAND_IMPLICIT;
        return true;
    case SPEC_IMM:
    case SPEC_SIMM:
        op->size = size;
        return fetch_imm(d, op, enc, spec->kind == SPEC_SIMM);
    case SPEC_ONE:
        op->kind = OPERAND_IMM;
        op->size = 1;
        op->flags |= OPERAND_IMPLICIT;
        insn->imm = 1;
        return true;
    case SPEC_REL:
        op->size = size;
        if (!fetch_imm(d, op, enc, true))
            return false;
        op->kind = OPERAND_REL;
        return true;
    case SPEC_FAR:
        op->size = size;
        return fetch_far(d, op, enc);
    case SPEC_MOFFS:
        return fetch_moffs(d, op, enc);
    default: /* SPEC_IS4 */
        if (!fetch_imm(d, op, 1, false))
            return false;
        set_reg(d, op, REG_XMM, (u8)(insn->imm >> 4 & (insn->mode == 64 ? 15 : 7)), size);
        return true;
    }
}
