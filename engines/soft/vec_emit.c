/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a stub: one guest instruction, re-encoded so that it runs as host 64-bit code with
 * its operands in fixed places.
 *
 *   rdi  struct soft_vcpu    rsi  memory operand, always [rsi]    rdx  host MXCSR
 *   r8   GPR in modrm.reg    r9   GPR in modrm.rm                 r10  GPR in VEX.vvvv
 *   rax, rcx, rdx            implicit GPRs, in their own places
 *   vector registers         in the host register of the same number
 *
 * So a stub never touches a callee-saved register nor the stack pointer, and stubs that differ only
 * in the memory operand's address are the same bytes (vec_pool.c shares them). Encodings: Intel SDM
 * volume 2, chapter 2. The flags come in by SAHF and an addition that sets OF, which is far cheaper
 * than POPF and cannot touch TF, AC or DF.
 */
#include "engines/soft/vec.h"

/* Where a GPR operand is encoded. */
enum { SLOT_REG = 1, SLOT_RM = 2, SLOT_V = 4 };

enum { HOST_REG = 8, HOST_RM = 9, HOST_V = 10 };

struct emit {
    u8 *buf;
    u32 len;
    const struct insn *insn;
    u8 gpr, gpr_written; /* SLOT_* */
    u8 reg, rm, v;       /* guest register numbers of the encoding's fields */
    u16 xmm, ymm;        /* vector registers to load: one bit each */
    u16 written, written_ymm;
    u8 implicit, implicit_written; /* rax, rcx, rdx by bit */
    bool mxcsr, flags_in, flags_out;
};

static void put(struct emit *e, u8 byte) {
    if (e->len < STUB_MAX) {
        e->buf[e->len++] = byte;
    }
}

static void put_imm32(struct emit *e, u32 v) {
    for (u32 i = 0; i < 4; i++) {
        put(e, (u8)(v >> (8 * i)));
    }
}

/* modrm and displacement of [rdi + offset]. */
static void put_state(struct emit *e, u32 reg, size_t offset) {
    put(e, (u8)(0x80 | (reg & 7) << 3 | 7));
    put_imm32(e, (u32)offset);
}

static size_t gpr_offset(u32 n) {
    return offsetof(struct soft_vcpu, s.gpr) + 8 * n;
}
static size_t xmm_offset(u32 n) {
    return offsetof(struct soft_vcpu, s.xsave) + XS_XMM + 16 * n;
}
static size_t ymmh_offset(u32 n) {
    return offsetof(struct soft_vcpu, s.xsave) + XS_YMMH + 16 * n;
}

/* mov host, [rdi+offset] or the other way round, 64 bits. */
static void put_gpr(struct emit *e, bool store, u32 host, size_t offset) {
    put(e, host >= 8 ? 0x4c : 0x48);
    put(e, store ? 0x89 : 0x8b);
    put_state(e, host, offset);
}

/* --- what the instruction names ----------------------------------------------------------------
 */

static bool is_vector(const struct insn *i) {
    return (i->flags & (INSN_SSE | INSN_AVX | INSN_MMX | INSN_X87)) != 0;
}

static void slots_0f(struct emit *e) {
    const struct insn *i = e->insn;
    bool scalar = i->vex_pp >= 2;
    switch (i->opcode) {
    case 0x50: /* MOVMSKPS/PD */
    case 0xc5: /* PEXTRW */
    case 0xd7: /* PMOVMSKB */
        e->gpr = e->gpr_written = SLOT_REG;
        break;
    case 0x2c: /* CVTTSS2SI, CVTTSD2SI; without F3/F2 the destination is MMX */
    case 0x2d:
        e->gpr = e->gpr_written = scalar ? SLOT_REG : 0;
        break;
    case 0x2a: /* CVTSI2SS, CVTSI2SD */
        e->gpr = scalar ? SLOT_RM : 0;
        break;
    case 0x6e: /* MOVD, MOVQ from a GPR */
    case 0xc4: /* PINSRW */
        e->gpr = SLOT_RM;
        break;
    case 0x7e: /* MOVD, MOVQ to a GPR; with F3 between vector registers */
        e->gpr = e->gpr_written = i->vex_pp == 2 ? 0 : SLOT_RM;
        break;
    case 0xb8: /* POPCNT */
    case 0xbc: /* TZCNT */
    case 0xbd: /* LZCNT */
        e->gpr = SLOT_REG | SLOT_RM;
        e->gpr_written = SLOT_REG;
        break;
    case 0xc7: /* RDRAND, RDSEED */
        e->gpr = e->gpr_written = SLOT_RM;
        break;
    default:
        break;
    }
}

static void slots_0f38(struct emit *e) {
    const struct insn *i = e->insn;
    switch (i->opcode) {
    case 0xf0: /* MOVBE load, CRC32 */
        e->gpr = SLOT_REG | SLOT_RM;
        e->gpr_written = SLOT_REG;
        break;
    case 0xf1: /* MOVBE store, CRC32 */
        e->gpr = SLOT_REG | SLOT_RM;
        e->gpr_written = i->id == INSN_MOVBE ? 0 : SLOT_REG;
        break;
    case 0xf3: /* BLSR, BLSMSK, BLSI: modrm.reg extends the opcode */
        e->gpr = SLOT_V | SLOT_RM;
        e->gpr_written = SLOT_V;
        break;
    case 0xf6: /* MULX writes two; ADCX, ADOX */
        e->gpr = SLOT_REG | SLOT_RM | (i->enc == ENC_VEX ? SLOT_V : 0);
        e->gpr_written = SLOT_REG | (i->enc == ENC_VEX ? SLOT_V : 0);
        break;
    case 0xf2: /* ANDN */
    case 0xf5: /* BZHI, PEXT, PDEP */
    case 0xf7: /* BEXTR, SHLX, SARX, SHRX */
        e->gpr = SLOT_REG | SLOT_RM | SLOT_V;
        e->gpr_written = SLOT_REG;
        break;
    default:
        break;
    }
}

static void slots_0f3a(struct emit *e) {
    switch (e->insn->opcode) {
    case 0x14: /* PEXTRB */
    case 0x15: /* PEXTRW */
    case 0x16: /* PEXTRD, PEXTRQ */
    case 0x17: /* EXTRACTPS */
        e->gpr = e->gpr_written = SLOT_RM;
        break;
    case 0x20: /* PINSRB */
    case 0x22: /* PINSRD, PINSRQ */
        e->gpr = SLOT_RM;
        break;
    case 0xf0: /* RORX */
        e->gpr = SLOT_REG | SLOT_RM;
        e->gpr_written = SLOT_REG;
        break;
    default:
        break;
    }
}

static bool plan_operand(struct emit *e, const struct insn_operand *op) {
    if (op->kind != OPERAND_REG) {
        return true;
    }
    u16 bit = (u16)(1u << (op->reg & 15));
    bool write = (op->flags & OPERAND_WRITE) != 0;
    switch (op->reg_class) {
    case REG_XMM:
        e->xmm |= bit;
        e->written |= write ? bit : 0;
        return true;
    case REG_YMM:
        e->ymm |= bit;
        e->written |= write ? bit : 0;
        e->written_ymm |= write ? bit : 0;
        return true;
    case REG_GPR:
        if (op->flags & OPERAND_IMPLICIT) { /* FNSTSW AX */
            e->implicit |= (u8)bit;
            e->implicit_written |= write ? (u8)bit : 0;
            return op->reg <= GPR_RDX;
        }
        return true;
    case REG_MMX:
    case REG_ST:
        return true; /* live in the real unit */
    default:
        return false;
    }
}

/* Registers that the syntax does not name. */
static void plan_hidden(struct emit *e) {
    const struct insn *i = e->insn;
    e->implicit |= (u8)((i->implicit_read | i->implicit_write) & 7);
    e->implicit_written |= (u8)(i->implicit_write & 7);
    if (i->id == INSN_PCMPESTRM || i->id == INSN_PCMPISTRM || i->id == INSN_VPCMPESTRM ||
        i->id == INSN_VPCMPISTRM) {
        e->xmm |= 1;
        e->written |= 1;
    }
}

static bool plan(struct emit *e) {
    const struct insn *i = e->insn;
    if (i->mem.vsib || i->map == MAP_3DNOW || ((i->implicit_read | i->implicit_write) >> 3)) {
        return false;
    }
    e->reg = (u8)((i->rex & 4) << 1 | (i->modrm >> 3 & 7));
    e->rm = (u8)((i->rex & 1) << 3 | (i->modrm & 7));
    e->v = i->vex_v & 15;
    switch (i->map) {
    case MAP_0F:
        slots_0f(e);
        break;
    case MAP_0F38:
        slots_0f38(e);
        break;
    case MAP_0F3A:
        slots_0f3a(e);
        break;
    default:
        break;
    }
    if (insn_has_mem(i)) {
        e->gpr &= (u8)~SLOT_RM;
        e->gpr_written &= (u8)~SLOT_RM;
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        if (!plan_operand(e, &i->op[n])) {
            return false;
        }
    }
    plan_hidden(e);
    e->mxcsr = vec_uses_mxcsr(i);
    e->flags_out = (i->flags & INSN_WRITES_FLAGS) != 0;
    /* Integer forms may leave some flags as they were. */
    e->flags_in =
        (i->flags & INSN_READS_FLAGS) || (e->flags_out && !(i->flags & (INSN_SSE | INSN_AVX)));
    return !(e->mxcsr && e->implicit); /* rdx is taken */
}

/* --- the instruction ---------------------------------------------------------------------------
 */

static void put_modrm(struct emit *e, u8 reg) {
    const struct insn *i = e->insn;
    if (insn_has_mem(i)) {
        put(e, (u8)((reg & 7) << 3 | 6)); /* [rsi] */
    } else {
        u8 rm = e->gpr & SLOT_RM ? HOST_RM : e->rm;
        put(e, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
    }
}

static void put_immediate(struct emit *e) {
    const struct insn *i = e->insn;
    if (i->id == INSN_VBLENDVPS || i->id == INSN_VBLENDVPD || i->id == INSN_VPBLENDVB) {
        put(e, (u8)(i->op[3].reg << 4));
    } else if (i->imm_size) {
        put(e, (u8)i->imm);
    }
}

/* REX.W or VEX.W. Outside 64-bit mode W does not widen a GPR or its memory form. */
static bool wide(const struct emit *e) {
    const struct insn *i = e->insn;
    if (!(i->rex & 8)) {
        return false;
    }
    if (i->mode == 64) {
        return true;
    }
    if (e->gpr || !is_vector(i)) {
        return false;
    }
    u8 op = i->opcode; /* MOVD/MOVQ, CVTSI2xx in memory forms; PEXTRx, PINSRx; VPCMPESTRx */
    if (i->map == MAP_0F) {
        return !(op == 0x2a || op == 0x6e || (op == 0x7e && i->vex_pp == 1));
    }
    return !(i->map == MAP_0F3A && (op == 0x16 || op == 0x22 || op == 0x60 || op == 0x61));
}

static void put_legacy_prefixes(struct emit *e) {
    const struct insn *i = e->insn;
    if (is_vector(i) || i->id == INSN_ADCX || i->id == INSN_ADOX) {
        if (i->vex_pp == 1) {
            put(e, 0x66);
        }
    } else if (i->opsize == 2 && !(i->id == INSN_CRC32 && i->opcode == 0xf0)) {
        put(e, 0x66);
    }
    if (i->vex_pp == 2) {
        put(e, 0xf3);
    } else if (i->vex_pp == 3) {
        put(e, 0xf2);
    }
}

static void put_legacy(struct emit *e) {
    const struct insn *i = e->insn;
    u8 reg = e->gpr & SLOT_REG ? HOST_REG : e->reg;
    u8 rm = insn_has_mem(i) ? 0 : e->gpr & SLOT_RM ? HOST_RM : e->rm;
    if (i->map != MAP_1BYTE) {
        put_legacy_prefixes(e);
    }
    u8 rex = (u8)((wide(e) ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0));
    if (rex && i->map != MAP_1BYTE) {
        put(e, (u8)(0x40 | rex));
    }
    if (i->map != MAP_1BYTE) {
        put(e, 0x0f);
    }
    if (i->map == MAP_0F38 || i->map == MAP_0F3A) {
        put(e, i->map == MAP_0F38 ? 0x38 : 0x3a);
    }
    put(e, i->opcode);
    if (i->has_modrm) {
        put_modrm(e, reg);
    }
    put_immediate(e);
}

static void put_vex(struct emit *e) {
    const struct insn *i = e->insn;
    u8 reg = e->gpr & SLOT_REG ? HOST_REG : e->reg;
    u8 rm = insn_has_mem(i) ? 0 : e->gpr & SLOT_RM ? HOST_RM : e->rm;
    u8 v = e->gpr & SLOT_V ? HOST_V : e->v;
    u8 map = i->map == MAP_0F ? 1 : i->map == MAP_0F38 ? 2 : 3;
    put(e, 0xc4);
    put(e, (u8)((reg >= 8 ? 0 : 0x80) | 0x40 | (rm >= 8 ? 0 : 0x20) | map));
    put(e, (u8)((wide(e) ? 0x80 : 0) | (~v & 15) << 3 | (i->vex_l ? 4 : 0) | i->vex_pp));
    put(e, i->opcode);
    put_modrm(e, reg);
    put_immediate(e);
}

/* --- operands in and out -----------------------------------------------------------------------
 */

static void put_flags_in(struct emit *e) {
    put(e, 0x8b); /* mov ecx, [rdi+aflags] */
    put_state(e, 1, offsetof(struct soft_vcpu, aflags));
    static const u8 code[] = {
        0x89, 0xc8,       /* mov eax, ecx */
        0xc1, 0xe8, 0x0b, /* shr eax, 11 */
        0x24, 0x01,       /* and al, 1 */
        0x04, 0x7f,       /* add al, 0x7f: OF */
        0x88, 0xcc,       /* mov ah, cl */
        0x9e,             /* sahf: the other five */
    };
    for (u32 n = 0; n < sizeof(code); n++) {
        put(e, code[n]);
    }
}

static void put_xmm(struct emit *e, bool store, u32 n) {
    if (e->insn->enc == ENC_VEX) {
        put(e, 0xc5);
        put(e, n >= 8 ? 0x78 : 0xf8);
    } else {
        if (n >= 8) {
            put(e, 0x44);
        }
        put(e, 0x0f);
    }
    put(e, store ? 0x29 : 0x28); /* movaps */
    put_state(e, n, xmm_offset(n));
}

static void put_ymm_high(struct emit *e, bool store, u32 n) {
    put(e, 0xc4);
    put(e, n >= 8 ? 0x63 : 0xe3);
    put(e, store ? 0x7d : (u8)(0x05 | (~n & 15) << 3));
    put(e, store ? 0x19 : 0x18); /* vextractf128, vinsertf128 */
    put_state(e, n, ymmh_offset(n));
    put(e, 1);
}

static void put_zero_high(struct emit *e, u32 n) {
    for (u32 half = 0; half < 16; half += 8) {
        put(e, 0x48); /* mov qword [rdi+..], 0 */
        put(e, 0xc7);
        put_state(e, 0, ymmh_offset(n) + half);
        put_imm32(e, 0);
    }
}

static void put_vectors_in(struct emit *e) {
    for (u32 n = 0; n < 16; n++) {
        if ((e->xmm | e->ymm) >> n & 1) {
            put_xmm(e, false, n);
        }
        if (e->ymm >> n & 1) {
            put_ymm_high(e, false, n);
        }
    }
}

static void put_vectors_out(struct emit *e) {
    for (u32 n = 0; n < 16; n++) {
        if (!(e->written >> n & 1)) {
            continue;
        }
        put_xmm(e, true, n);
        if (e->written_ymm >> n & 1) {
            put_ymm_high(e, true, n);
        } else if (e->insn->enc == ENC_VEX) {
            put_zero_high(e, n);
        }
    }
}

static bool high_byte_source(const struct insn *i, u8 *reg) {
    for (u32 n = 0; n < i->operand_count; n++) {
        if (i->op[n].kind == OPERAND_REG && i->op[n].high_byte) {
            *reg = i->op[n].reg & 3;
            return true;
        }
    }
    return false;
}

static void put_gprs_in(struct emit *e) {
    u8 high;
    for (u32 n = 0; n < 3; n++) {
        if (e->implicit >> n & 1) {
            put_gpr(e, false, n, gpr_offset(n));
        }
    }
    if (e->gpr & SLOT_REG) {
        put_gpr(e, false, HOST_REG, gpr_offset(e->reg));
    }
    if (e->gpr & SLOT_RM) {
        if (high_byte_source(e->insn, &high)) {
            put(e, 0x44); /* movzx r9d, byte [rdi+..] */
            put(e, 0x0f);
            put(e, 0xb6);
            put_state(e, HOST_RM, gpr_offset(high) + 1);
        } else {
            put_gpr(e, false, HOST_RM, gpr_offset(e->rm));
        }
    }
    if (e->gpr & SLOT_V) {
        put_gpr(e, false, HOST_V, gpr_offset(e->v));
    }
}

static void put_gprs_out(struct emit *e) {
    for (u32 n = 0; n < 3; n++) {
        if (e->implicit_written >> n & 1) {
            put_gpr(e, true, n, gpr_offset(n));
        }
    }
    if (e->gpr_written & SLOT_V) { /* before REG: MULX with both the same keeps the high half */
        put_gpr(e, true, HOST_V, gpr_offset(e->v));
    }
    if (e->gpr_written & SLOT_REG) {
        put_gpr(e, true, HOST_REG, gpr_offset(e->reg));
    }
    if (e->gpr_written & SLOT_RM) {
        put_gpr(e, true, HOST_RM, gpr_offset(e->rm));
    }
}

static void put_mxcsr(struct emit *e, bool store) {
    put(e, 0x0f);
    put(e, 0xae);
    put_state(e, store ? 3 : 2, offsetof(struct soft_vcpu, s.xsave) + XS_MXCSR);
}

static void put_results(struct emit *e) {
    if (e->flags_out) {
        put(e, 0x9c); /* pushfq; pop [rdi+aflags] */
        put(e, 0x8f);
        put_state(e, 0, offsetof(struct soft_vcpu, aflags));
    }
    put_vectors_out(e);
    put_gprs_out(e);
    if (e->mxcsr) {
        put_mxcsr(e, true);
        put(e, 0x0f); /* ldmxcsr [rdx] */
        put(e, 0xae);
        put(e, 0x12);
    }
    if (e->ymm || (e->insn->enc == ENC_VEX && e->insn->vex_l)) {
        put(e, 0xc5); /* vzeroupper */
        put(e, 0xf8);
        put(e, 0x77);
    }
    put(e, 0x31); /* xor eax, eax; ret */
    put(e, 0xc0);
    put(e, 0xc3);
}

u32 vec_emit(const struct insn *insn, u8 *buf) {
    struct emit e = {.buf = buf, .insn = insn};
    if (!plan(&e)) {
        return 0;
    }
    if (e.flags_in) {
        put_flags_in(&e);
    }
    put_gprs_in(&e);
    if (e.mxcsr) {
        put_mxcsr(&e, false);
    }
    put_vectors_in(&e);
    if (insn->enc == ENC_VEX) {
        put_vex(&e);
    } else {
        put_legacy(&e);
    }
    put_results(&e);
    return e.len < STUB_MAX ? e.len : 0;
}

static bool mxcsr_0f(u8 op) {
    switch (op) {
    case 0x2a: /* conversions with integers, comparisons to flags */
    case 0x2c:
    case 0x2d:
    case 0x2e:
    case 0x2f:
    case 0x51: /* SQRT */
    case 0x7c: /* HADD, HSUB */
    case 0x7d:
    case 0xc2: /* CMPxx */
    case 0xd0: /* ADDSUB */
    case 0xe6: /* CVTDQ2PD and back */
        return true;
    default:
        return op >= 0x58 && op <= 0x5f;
    }
}

bool vec_uses_mxcsr(const struct insn *i) {
    u8 op = i->opcode;
    if (!(i->flags & (INSN_SSE | INSN_AVX))) {
        return i->map == MAP_0F && (op == 0x2a || op == 0x2c || op == 0x2d) && is_vector(i);
    }
    switch (i->map) {
    case MAP_0F:
        return mxcsr_0f(op);
    case MAP_0F38: /* VCVTPH2PS, FMA */
        return i->enc == ENC_VEX && (op == 0x13 || (op >= 0x96 && op <= 0xbf && (op & 15) >= 6));
    case MAP_0F3A: /* ROUND, VCVTPS2PH, DPPS, DPPD */
        return (op >= 0x08 && op <= 0x0b) || op == 0x1d || op == 0x40 || op == 0x41;
    default:
        return false;
    }
}
