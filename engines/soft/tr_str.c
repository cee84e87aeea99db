/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions whose addresses depend on more than their operand: MOVS and STOS with and without
 * REP, LODS, SCAS and CMPS without, and BT, BTS, BTR, BTC with the bit's number in a register.
 *
 * A repeated instruction runs on the real processor when all of it lies in one page on each side;
 * else, and backwards, it is the interpreter's (str.c), behind the trace. Intel SDM volume 2, REP,
 * "BT".
 */
#include "engines/soft/tr.h"

static bool is_bit(u16 id) {
    return id == INSN_BT || id == INSN_BTS || id == INSN_BTR || id == INSN_BTC;
}

static bool repeated(const struct insn *i) {
    return i->prefixes & (PREFIX_REP | PREFIX_REPNE);
}

bool tr_string_known(const struct insn *i) {
    bool segment = i->mem.seg == SEG_FS || i->mem.seg == SEG_GS;
    if (i->addrsize != (i->mode == 64 ? 8 : 4) || (i->mode != 64 && segment)) {
        return false;
    }
    if (is_bit(i->id)) {
        return tr_mem_known(i, i->id != INSN_BT) && insn_has_mem(i) &&
               i->op[1].kind == OPERAND_REG && (s32)i->mem.disp == i->mem.disp;
    }
    switch (i->id) {
    case INSN_STOS:
        return true;
    case INSN_MOVS:
        return !segment;
    case INSN_LODS:
    case INSN_CMPS:
        return !segment && !repeated(i);
    case INSN_SCAS:
        return !repeated(i);
    default:
        return false;
    }
}

/* --- bit strings -------------------------------------------------------------------------------
 */

/* H_ADDR += the unit of opsize bytes that holds the bit; the bit in it goes to c->tr_temp. */
static void bit_place(struct soft_tr *t, const struct insn *i) {
    static const u8 movsx[] = {0, 0, 1, 0, 2, 0, 0, 0, 3}; /* and log2 of the unit */
    u32 shift = movsx[i->opsize], reg = i->op[1].reg;
    if (tr_in_memory(reg)) {
        tr_gs_load(t, H_TEMP, tr_gpr(reg));
        reg = H_TEMP;
    }
    tr_rr(t, true, i->opsize == 2 ? 0x0fbf : i->opsize == 4 ? 0x63 : 0x8b, H_TEMP, reg);
    tr_rr(t, true, 0x89, H_TEMP, H_TEMP2);
    tr_rr(t, false, 0x83, 4, H_TEMP2); /* and */
    tr_u8(t, i->opsize * 8 - 1u);
    tr_gs_store(t, H_TEMP2, C_OFF(tr_temp));
    tr_rr(t, true, 0xc1, 7, H_TEMP); /* sar */
    tr_u8(t, 3 + shift);
    tr_u8(t, tr_wide(t) ? 0x4f : 0x47); /* lea r15, [r15 + r14 * opsize] */
    tr_u8(t, 0x8d);
    tr_u8(t, (H_ADDR & 7) << 3 | 4);
    tr_u8(t, shift << 6 | (H_TEMP & 7) << 3 | (H_ADDR & 7));
}

static void put_bit(struct soft_tr *t, const struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    tr_flags_clobber(t, ti->live_in);
    u32 back = t->used;
    tr_offset(t, i, ti->rip, H_ADDR);
    bit_place(t, i);
    (void)tr_seg_base(t, i); /* no jump: only in 64-bit mode */
    tr_check(t, ti, back, i->opsize, i->id != INSN_BT);
    if (ti->live_out & ~(u32)FLAG_CF) { /* the others stay */
        tr_flags_need(t);
    }
    tr_gs_load(t, H_TEMP2, C_OFF(tr_temp));
    if (i->prefixes & PREFIX_LOCK) {
        tr_u8(t, 0xf0);
    }
    if (i->opsize == 2) {
        tr_u8(t, 0x66);
    }
    tr_rm(t, i->opsize == 8, 0x0f00u | i->opcode, H_TEMP2, H_ADDR, 0);
    t->saved = false;
}

/* --- strings -----------------------------------------------------------------------------------
 */

/* Jumps when [reg, reg + rcx * size) leaves its page; rcx is not above 4096 / size. */
static u32 leaves_page(struct soft_tr *t, u32 reg, u32 size) {
    u32 shift = size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;
    tr_rr(t, false, 0x89, reg, H_TEMP);
    tr_rr(t, false, 0x81, 4, H_TEMP); /* and */
    tr_u32(t, PAGE_MASK);
    tr_u8(t, 0x4d); /* lea r14, [r14 + rcx * size] */
    tr_u8(t, 0x8d);
    tr_u8(t, (H_TEMP & 7) << 3 | 4);
    tr_u8(t, shift << 6 | GPR_RCX << 3 | (H_TEMP & 7));
    tr_rr(t, false, 0x81, 7, H_TEMP); /* cmp */
    tr_u32(t, PAGE_SIZE);
    return tr_jcc(t, 7);
}

/* 32-bit code: the processor takes the lower half of a register, which may have more only when code
 * of 64-bit mode left it there. */
static void cut(struct soft_tr *t, u32 reg) {
    if (!tr_wide(t)) {
        tr_rr(t, false, 0x89, reg, reg);
    }
}

static void cut_places(struct soft_tr *t, const struct insn *i) {
    cut(t, GPR_RDI);
    if (i->id == INSN_MOVS) {
        cut(t, GPR_RSI);
    }
}

/* The tests that REP needs; jump: what leads to the step, 0 ends. Returns the jump for rcx = 0. */
static u32 rep_tests(struct soft_tr *t, const struct insn *i, u32 size, u32 *jump) {
    cut(t, GPR_RCX); /* also when the count is 0, as in str.c */
    cut_places(t, i);
    tr_rr(t, true, 0x85, GPR_RCX, GPR_RCX);
    u32 none = tr_jcc(t, 4);
    tr_rr(t, true, 0x81, 7, GPR_RCX); /* cmp */
    tr_u32(t, PAGE_SIZE / size);
    *jump++ = tr_jcc(t, 7);
    *jump++ = leaves_page(t, GPR_RDI, size);
    if (i->id == INSN_MOVS) {
        *jump++ = leaves_page(t, GPR_RSI, size);
    }
    *jump = 0;
    return none;
}

static void put_op(struct soft_tr *t, const struct insn *i) {
    if (repeated(i)) {
        tr_u8(t, 0xf3);
    }
    if (i->opcode & 1 && i->opsize == 2) {
        tr_u8(t, 0x66);
    }
    if (i->opcode & 1 && i->opsize == 8) {
        tr_u8(t, 0x48);
    }
    tr_u8(t, i->opcode);
}

/* While the instruction runs, rdi and rsi are host addresses. */
static void put_stos(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    u32 back = t->used;
    tr_rr(t, true, 0x89, GPR_RDI, H_ADDR);
    tr_check(t, i, back, size, true);
    tr_rr(t, true, 0x29, GPR_RDI, H_ADDR); /* sub: host - linear */
    tr_rr(t, true, 0x01, H_ADDR, GPR_RDI);
    put_op(t, &i->insn);
    tr_rr(t, tr_wide(t), 0x29, H_ADDR, GPR_RDI);
}

static void put_movs(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    u32 back = t->used;
    tr_rr(t, true, 0x89, GPR_RSI, H_ADDR);
    tr_check(t, i, back, size, false);
    tr_rr(t, true, 0x29, GPR_RSI, H_ADDR);
    tr_gs_store(t, H_ADDR, C_OFF(tr_temp));
    back = t->used;
    tr_rr(t, true, 0x89, GPR_RDI, H_ADDR);
    tr_check(t, i, back, size, true);
    tr_rr(t, true, 0x29, GPR_RDI, H_ADDR);
    tr_gs_load(t, H_TEMP, C_OFF(tr_temp));
    tr_rr(t, true, 0x01, H_ADDR, GPR_RDI);
    tr_rr(t, true, 0x01, H_TEMP, GPR_RSI);
    put_op(t, &i->insn);
    tr_rr(t, tr_wide(t), 0x29, H_ADDR, GPR_RDI);
    tr_rr(t, tr_wide(t), 0x29, H_TEMP, GPR_RSI);
}

/* opcode, as for bytes, with memory, in the element's size */
static void put_sized(struct soft_tr *t, u32 size, u32 opcode, u32 reg, const struct tr_at *at) {
    if (size == 2) {
        tr_u8(t, 0x66);
    }
    tr_mem(t, size == 8, opcode | (size > 1), reg, at);
}

static void advance(struct soft_tr *t, u32 reg, u32 size) {
    tr_rm(t, tr_wide(t), 0x8d, reg, reg, (s32)size);
}

static void put_lods(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RSI, 0, size, false, &at);
    put_sized(t, size, 0x8a, GPR_RAX, &at);
    advance(t, GPR_RSI, size);
}

static void put_scas(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RDI, 0, size, false, &at);
    put_sized(t, size, 0x3a, GPR_RAX, &at); /* cmp */
    advance(t, GPR_RDI, size);
}

/* The operand at rDI is read first, as in str.c. */
static void put_cmps(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RDI, 0, size, false, &at);
    put_sized(t, size, 0x8a, H_ADDR, &at);
    tr_gs_store(t, H_ADDR, C_OFF(tr_temp));
    tr_look_base(t, i, GPR_RSI, 0, size, false, &at);
    put_sized(t, size, 0x8a, H_ADDR, &at);
    tr_gs_load(t, H_TEMP, C_OFF(tr_temp));
    if (size == 2) {
        tr_u8(t, 0x66);
    }
    tr_rr(t, size == 8, size > 1 ? 0x3b : 0x3a, H_ADDR, H_TEMP);
    advance(t, GPR_RDI, size);
    advance(t, GPR_RSI, size);
}

static void put_element(struct soft_tr *t, const struct tr_insn *i, u32 size) {
    switch (i->insn.id) {
    case INSN_MOVS:
        put_movs(t, i, size);
        break;
    case INSN_STOS:
        put_stos(t, i, size);
        break;
    case INSN_LODS:
        put_lods(t, i, size);
        break;
    case INSN_SCAS:
        put_scas(t, i, size);
        break;
    default:
        put_cmps(t, i, size);
        break;
    }
}

static void put_string(struct soft_tr *t, const struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    u32 size = i->opcode & 1 ? i->opsize : 1, jump[5], none = 0, n = 1;
    tr_flags_clobber(t, FLAG_ARITH);
    tr_gs(t, false, 0xf7, 0, C_OFF(s.rflags)); /* test */
    tr_u32(t, FLAG_DF);
    jump[0] = tr_jcc(t, 5);
    jump[1] = 0;
    if (repeated(i)) {
        none = rep_tests(t, i, size, &jump[1]);
    } else if (i->id == INSN_MOVS || i->id == INSN_STOS) {
        cut_places(t, i);
    }
    put_element(t, ti, size);
    if (none) {
        tr_fix_here(t, none);
    }
    while (n < 4 && jump[n]) {
        n++;
    }
    tr_step_late(t, ti, jump, n);
    if (i->flags_write) {
        t->saved = false;
        t->lost = FLAGS_AT_HOME;
    }
}

void tr_string(struct soft_tr *t, const struct tr_insn *ti) {
    if (is_bit(ti->insn.id)) {
        put_bit(t, ti);
    } else {
        put_string(t, ti);
    }
}
