/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions as generated code: those that run often in kernels, where their common case
 * is a few host instructions. A case that is not common is a step to the interpreter, behind the
 * trace. The interpreter's handlers (sys_*.c, int_misc.c) are the reference.
 *
 * Intel SDM volume 2, the instructions. CPL is part of mode_key, so privilege is known here.
 */
#include "core/cpu/cpuid.h"
#include "engines/soft/engine.h"
#include "engines/soft/tr.h"

/* --- which -------------------------------------------------------------------------------------
 */

static bool is_reg(const struct insn_operand *op, u8 reg_class) {
    return op->kind == OPERAND_REG && op->reg_class == reg_class;
}

static bool can_move(const struct soft_tr *t, const struct insn *i) {
    const struct insn_operand *to = &i->op[0], *from = &i->op[1];
    bool kernel = t->c->cpl == 0;
    if (is_reg(from, REG_SEG)) {
        return is_reg(to, REG_GPR) && i->opsize >= 4 && from->reg < SEG_COUNT;
    }
    if (is_reg(from, REG_CR)) {
        return kernel && (from->reg == 0 || (from->reg >= 2 && from->reg <= 4));
    }
    return kernel && is_reg(to, REG_CR) && to->reg == 2 && i->mode == 64;
}

bool tr_sys_known(const struct soft_tr *t, const struct insn *i) {
    bool kernel = t->c->cpl == 0, word = i->opsize == (i->mode == 64 ? 8 : 4);
    if ((i->cpuid & ~t->c->vm->ev->cpuid->features) || (i->prefixes & PREFIX_LOCK)) {
        return false;
    }
    switch (i->id) {
    case INSN_CLI:
    case INSN_STI:
    case INSN_SWAPGS:
    case INSN_CLAC:
    case INSN_STAC:
        return kernel;
    case INSN_PUSHF:
    case INSN_POPF:
        return word;
    case INSN_POP:
        return word && is_reg(&i->op[0], REG_GPR) && i->op[0].reg == GPR_RSP;
    case INSN_RDTSC:
    case INSN_RDTSCP:
        return t->c->vm->tsc_native && !t->c->verify; /* lock-step: time passes once */
    case INSN_RDFSBASE:
    case INSN_RDGSBASE:
    case INSN_WRFSBASE:
    case INSN_WRGSBASE:
    case INSN_CLD:
    case INSN_STD:
        return true;
    case INSN_MOV:
        return can_move(t, i);
    default:
        return false;
    }
}

/* --- flags -------------------------------------------------------------------------------------
 */

/* and, or with an immediate, test */
enum { ALU_OR = 1, ALU_AND = 4 };

static void rflags_alu(struct soft_tr *t, u32 op, u32 v) {
    tr_gs(t, false, 0x81, op, C_OFF(s.rflags));
    tr_u32(t, v);
}

static void set_bits(struct soft_tr *t, const struct tr_insn *i, u32 bits) {
    tr_flags_clobber(t, i->live_in);
    rflags_alu(t, ALU_OR, bits);
}

static void clear_bits(struct soft_tr *t, const struct tr_insn *i, u32 bits) {
    tr_flags_clobber(t, i->live_in);
    rflags_alu(t, ALU_AND, ~bits);
}

/* Only the privilege of data accesses depends on AC at CPL 0. */
static void put_ac(struct soft_tr *t, const struct tr_insn *i, bool on) {
    if (on) {
        set_bits(t, i, FLAG_AC);
    } else {
        clear_bits(t, i, FLAG_AC);
    }
    tr_gs_load(t, H_TEMP, on ? C_OFF(dtlb_ac[1]) : C_OFF(dtlb_ac[0]));
    tr_gs_store(t, H_TEMP, C_OFF(dtlb));
    tr_gs_load(t, H_TEMP, on ? C_OFF(look_ac[1]) : C_OFF(look_ac[0]));
    tr_gs_store(t, H_TEMP, C_OFF(look));
    tr_gs(t, false, 0x0fb6, H_TEMP, on ? C_OFF(mmu_ac[1]) : C_OFF(mmu_ac[0]));
    tr_gs(t, false, 0x88, H_TEMP, C_OFF(mmu));
}

/* When nobody waits for interrupts to be allowed, nothing happens: one that comes later is seen at
 * the next poll, which is behind the next instruction at least. Else the interpreter does it. */
static void put_sti(struct soft_tr *t, const struct tr_insn *i) {
    tr_flags_clobber(t, FLAG_ARITH);
    tr_gs(t, false, 0x80, 7, C_OFF(window_wanted));
    tr_u8(t, 0);
    u32 quiet = tr_jcc(t, 4);
    tr_step(t, i, 1, true);
    tr_fix_here(t, quiet);
    rflags_alu(t, ALU_OR, FLAG_IF);
}

/* RFLAGS in memory, arithmetic flags from where they were saved. */
static void put_pushf(struct soft_tr *t, const struct tr_insn *i) {
    tr_flags_clobber(t, FLAG_ARITH);
    tr_stack_operand(t, i, -(s32)tr_word(t), tr_word(t), true);
    tr_gs_load(t, H_TEMP, C_OFF(s.rflags));
    tr_rr(t, true, 0x81, 4, H_TEMP); /* and */
    tr_u32(t, ~(u32)(FLAG_ARITH | FLAG_RF | FLAG_VM));
    tr_gs(t, false, 0x0fb6, H_TEMP2, C_OFF(tr_flags) + 1); /* movzx: as LAHF, with bit 1 */
    tr_rr(t, true, 0x09, H_TEMP2, H_TEMP);
    tr_gs(t, false, 0x0fb6, H_TEMP2, C_OFF(tr_flags));
    tr_rr(t, false, 0xc1, 4, H_TEMP2); /* shl: OF */
    tr_u8(t, 11);
    tr_rr(t, true, 0x09, H_TEMP2, H_TEMP);
    tr_rm(t, tr_wide(t), 0x89, H_TEMP, H_ADDR, 0);
    tr_rm(t, tr_wide(t), 0x8d, GPR_RSP, GPR_RSP, -(s32)tr_word(t));
}

/* Arithmetic flags of the image in H_TEMP to where they are saved. */
static void image_to_flags(struct soft_tr *t) {
    tr_rr(t, false, 0x0fb6, H_TEMP2, H_TEMP); /* movzx r13d, r14b */
    tr_rr(t, false, 0xc1, 4, H_TEMP2);        /* shl r13d, 8 */
    tr_u8(t, 8);
    tr_rr(t, false, 0x0fba, 4, H_TEMP); /* bt r14d, 11 */
    tr_u8(t, 11);
    tr_rr(t, false, 0x0f92, 0, H_TEMP2); /* setc r13b */
    tr_gs(t, false, 0x89, H_TEMP2, C_OFF(tr_flags));
}

/* POPFQ, POPFD. Common: of the system flags at most IF changes, at CPL 0, and nobody waits for
 * that. */
static void put_popf(struct soft_tr *t, const struct tr_insn *i) {
    u32 odd = FLAG_TF | FLAG_DF | FLAG_NT | FLAG_IOPL | FLAG_AC | FLAG_ID;
    bool kernel = t->c->cpl == 0;
    tr_flags_clobber(t, FLAG_ARITH);
    tr_stack_operand(t, i, 0, tr_word(t), false);
    tr_rm(t, tr_wide(t), 0x8b, H_TEMP, H_ADDR, 0);
    tr_rr(t, true, 0x89, H_TEMP, H_TEMP2);
    tr_gs(t, true, 0x33, H_TEMP2, C_OFF(s.rflags)); /* xor */
    tr_rr(t, false, 0xf7, 0, H_TEMP2);              /* test */
    tr_u32(t, kernel ? odd : odd | FLAG_IF);
    u32 from[2] = {tr_jcc(t, 5)}, count = 1;
    if (kernel) {
        tr_rr(t, false, 0x81, 4, H_TEMP2); /* and r13d, IF */
        tr_u32(t, FLAG_IF);
        u32 same = tr_jcc(t, 4);
        tr_gs(t, false, 0x80, 7, C_OFF(window_wanted));
        tr_u8(t, 0);
        from[count++] = tr_jcc(t, 5);
        tr_gs(t, false, 0x31, H_TEMP2, C_OFF(s.rflags)); /* xor */
        tr_fix_here(t, same);
    }
    image_to_flags(t);
    tr_rm(t, tr_wide(t), 0x8d, GPR_RSP, GPR_RSP, (s32)tr_word(t));
    tr_step_late(t, i, from, count);
    t->saved = true;
}

/* --- registers ---------------------------------------------------------------------------------
 */

/* A register of the guest, for writing: the host register that stands for it. */
static u32 target(u32 guest) {
    return tr_in_memory(guest) ? (u32)H_TEMP : guest;
}

static void target_done(struct soft_tr *t, u32 guest) {
    if (tr_in_memory(guest)) {
        tr_gs_store(t, H_TEMP, tr_gpr(guest));
    }
}

static u32 source(struct soft_tr *t, u32 guest) {
    if (tr_in_memory(guest)) {
        tr_gs_load(t, H_TEMP, tr_gpr(guest));
    }
    return target(guest);
}

static size_t cr_offset(u32 n) {
    return n == 0 ? C_OFF(s.cr0) : n == 2 ? C_OFF(s.cr2) : n == 3 ? C_OFF(s.cr3) : C_OFF(s.cr4);
}

static void put_move(struct soft_tr *t, const struct insn *i) {
    const struct insn_operand *to = &i->op[0], *from = &i->op[1];
    if (is_reg(to, REG_CR)) {
        tr_gs_store(t, source(t, from->reg), C_OFF(s.cr2));
        return;
    }
    if (is_reg(from, REG_CR)) {
        tr_gs(t, tr_wide(t), 0x8b, target(to->reg), cr_offset(from->reg));
    } else { /* movzx */
        size_t at = C_OFF(s.seg) + from->reg * sizeof(struct segment);
        tr_gs(t, false, 0x0fb7, target(to->reg), at + offsetof(struct segment, sel));
    }
    target_done(t, to->reg);
}

static void put_swapgs(struct soft_tr *t) {
    size_t base = C_OFF(s.seg[SEG_GS].base), other = C_OFF(s.msr.kernel_gs_base);
    tr_gs_load(t, H_TEMP, base);
    tr_gs_load(t, H_TEMP2, other);
    tr_gs_store(t, H_TEMP, other);
    tr_gs_store(t, H_TEMP2, base);
}

/* Is the bit of CR4 set? Returns the jump that is taken when it is (cond 5) or is not (4). */
static u32 test_cr4(struct soft_tr *t, u64 bit, u32 cond) {
    tr_gs(t, false, 0xf7, 0, C_OFF(s.cr4));
    tr_u32(t, (u32)bit);
    return tr_jcc(t, cond);
}

static void put_base(struct soft_tr *t, const struct tr_insn *i) {
    u16 id = i->insn.id;
    u32 reg = i->insn.op[0].reg, seg = id == INSN_RDFSBASE || id == INSN_WRFSBASE ? SEG_FS : SEG_GS;
    size_t base = C_OFF(s.seg) + seg * sizeof(struct segment) + offsetof(struct segment, base);
    bool wide = i->insn.opsize == 8;
    tr_flags_clobber(t, FLAG_ARITH);
    u32 from[2] = {test_cr4(t, CR4_FSGSBASE, 4)}, count = 1;
    if (id == INSN_RDFSBASE || id == INSN_RDGSBASE) {
        tr_gs(t, wide, 0x8b, target(reg), base);
        target_done(t, reg);
    } else {
        u32 host = source(t, reg);
        tr_rr(t, wide, 0x89, host, H_TEMP2);
        if (wide) { /* canonical? */
            tr_rr(t, true, 0xc1, 4, H_TEMP2);
            tr_u8(t, 16);
            tr_rr(t, true, 0xc1, 7, H_TEMP2);
            tr_u8(t, 16);
            tr_rr(t, true, 0x39, H_TEMP2, host);
            from[count++] = tr_jcc(t, 5);
        }
        tr_gs_store(t, H_TEMP2, base);
    }
    tr_step_late(t, i, from, count);
}

/* The machine's clock is the host's, moved. */
static void put_rdtsc(struct soft_tr *t, const struct tr_insn *i) {
    bool aux = i->insn.id == INSN_RDTSCP, user = t->c->cpl != 0;
    u32 from = 0;
    tr_flags_clobber(t, FLAG_ARITH);
    if (user) {
        from = test_cr4(t, CR4_TSD, 5);
    }
    tr_u8(t, 0x0f);
    tr_u8(t, aux ? 0x01 : 0x31);
    if (aux) {
        tr_u8(t, 0xf9);
    }
    tr_rr(t, true, 0xc1, 4, GPR_RDX); /* shl rdx, 32 */
    tr_u8(t, 32);
    tr_rr(t, true, 0x09, GPR_RAX, GPR_RDX);
    tr_imm(t, H_TEMP, t->c->vm->tsc_start);
    tr_rr(t, true, 0x29, H_TEMP, GPR_RDX);
    tr_gs(t, true, 0x03, GPR_RDX, C_OFF(tsc_offset));
    tr_rr(t, false, 0x89, GPR_RDX, GPR_RAX);
    tr_rr(t, true, 0xc1, 5, GPR_RDX); /* shr */
    tr_u8(t, 32);
    if (aux) {
        tr_gs(t, false, 0x8b, GPR_RCX, C_OFF(s.msr.tsc_aux));
    }
    if (user) {
        tr_step_late(t, i, &from, 1);
    }
}

static void put_pop_rsp(struct soft_tr *t, const struct tr_insn *i) {
    tr_stack_operand(t, i, 0, tr_word(t), false);
    tr_rm(t, tr_wide(t), 0x8b, GPR_RSP, H_ADDR, 0);
}

void tr_system(struct soft_tr *t, const struct tr_insn *i) {
    switch (i->insn.id) {
    case INSN_CLI:
        clear_bits(t, i, FLAG_IF);
        break;
    case INSN_STI:
        put_sti(t, i);
        break;
    case INSN_CLD:
        clear_bits(t, i, FLAG_DF);
        break;
    case INSN_STD:
        set_bits(t, i, FLAG_DF);
        break;
    case INSN_CLAC:
    case INSN_STAC:
        put_ac(t, i, i->insn.id == INSN_STAC);
        break;
    case INSN_PUSHF:
        put_pushf(t, i);
        break;
    case INSN_POPF:
        put_popf(t, i);
        break;
    case INSN_POP:
        put_pop_rsp(t, i);
        break;
    case INSN_RDTSC:
    case INSN_RDTSCP:
        put_rdtsc(t, i);
        break;
    case INSN_SWAPGS:
        put_swapgs(t);
        break;
    case INSN_MOV:
        put_move(t, &i->insn);
        break;
    default:
        put_base(t, i);
        break;
    }
}
