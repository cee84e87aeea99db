/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arithmetic flags that nobody will read, but for the frame of a fault or an interrupt. Looks into
 * the translation cache destroy RFLAGS; saving them first costs as much as half a look. Mostly they
 * need not be saved: they follow from registers that are still there, so each exit says how, and
 * where they are wanted in RFLAGS after all, the instruction is done once more (tr_flags_remake).
 *
 *   cmp rax, rbx | jb .. | mov rcx, [rdx] <- an exit here: flags of rax - rbx | add rcx, 1
 *
 * Where the last instruction that wrote flags is in another trace of the page, that trace brings
 * the recipe's number along in H_TEMP2, and the jump is joined to an entry (L) that trusts it when
 * the exits of the target come before any register of the recipe changes. Conditional jumps
 * backwards, those of loops, set it beforehand. Others are joined by way of their late pieces
 * (tr_flow.c), so that the way on that does not jump pays nothing:
 *
 *   unjoined   jb piece ..   piece: mov r14d, exit;   jmp STUB_EXIT_FLAGS
 *   joined     jb piece ..   piece: mov r13d, number; jmp L
 */
#include "engines/soft/tr.h"

/* --- recipes -----------------------------------------------------------------------------------
 */

static bool plain_reg(const struct insn_operand *op) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR && !op->high_byte;
}

static bool recipe_op(u16 id, u8 *op) {
    switch (id) {
    case INSN_ADD:
        *op = RECIPE_ADD;
        return true;
    case INSN_SUB:
        *op = RECIPE_SUB;
        return true;
    case INSN_CMP:
        *op = RECIPE_CMP;
        return true;
    case INSN_TEST:
        *op = RECIPE_TEST;
        return true;
    case INSN_AND:
    case INSN_OR:
    case INSN_XOR:
        *op = RECIPE_LOGIC;
        return true;
    case INSN_NEG:
        *op = RECIPE_NEG;
        return true;
    default:
        return false;
    }
}

/* From what is in registers behind the instruction. */
static bool recipe_of(const struct insn *i, struct tr_recipe *r) {
    const struct insn_operand *a = &i->op[0], *b = &i->op[1];
    *r = (struct tr_recipe){.b = MEM_NONE};
    if (!recipe_op(i->id, &r->op) || !plain_reg(a)) {
        return false;
    }
    r->a = a->reg;
    r->size = (u8)a->size;
    if (r->op == RECIPE_LOGIC || r->op == RECIPE_NEG) {
        return true;
    }
    if (b->kind == OPERAND_IMM) {
        r->imm = (s32)i->imm;
        return (u64)(s64)r->imm == i->imm;
    }
    r->b = b->reg;
    return plain_reg(b) && !(r->op == RECIPE_ADD && r->a == r->b);
}

static u16 recipe_regs(const struct tr_recipe *r) {
    return (u16)(1u << r->a | (r->b == MEM_NONE ? 0 : 1u << r->b));
}

/* --- translating -------------------------------------------------------------------------------
 */

u16 tr_regs_written(const struct insn *i) {
    u16 mask = i->implicit_write;
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (op->kind == OPERAND_REG && op->reg_class == REG_GPR &&
            (op->flags & (OPERAND_WRITE | OPERAND_COND))) {
            mask |= (u16)(1u << op->reg);
        }
    }
    return mask;
}

/* Exits of such instructions, if any, are looks that miss and exceptions. */
static bool looks_only(const struct tr_insn *i) {
    switch (i->class) {
    case CLASS_COPY:
    case CLASS_NOP:
    case CLASS_LEA:
    case CLASS_MOFFS:
    case CLASS_PUSH:
    case CLASS_POP:
    case CLASS_LEAVE:
    case CLASS_PUSH_MEM:
        return true;
    case CLASS_CALL:
    case CLASS_JMP:
        return i->followed;
    default:
        return false;
    }
}

static u32 *recipe_place(struct soft_tr *t, const struct tr_recipe *r) {
    u64 bits;
    memcpy(&bits, r, sizeof(bits));
    bits *= 0x9e3779b97f4a7c15;
    return &t->recipe_seen[bits >> 40 & (ARRAY_LEN(t->recipe_seen) - 1)];
}

/* Most are in the region already: TEST EAX, EAX. */
static u32 recipe_new(struct soft_tr *t, const struct tr_recipe *r) {
    u32 *seen = recipe_place(t, r);
    _Static_assert(sizeof(*r) == sizeof(u64), "compared as a number");
    if (*seen && !memcmp(&t->recipes[*seen - FLAGS_AT_RECIPE], r, sizeof(*r))) {
        return *seen;
    }
    if (t->recipe_count == t->recipe_end) {
        return FLAGS_AT_HOME;
    }
    t->recipes[t->recipe_count] = *r;
    *seen = FLAGS_AT_RECIPE + t->recipe_count++;
    return *seen;
}

/* Are flags wanted in RFLAGS at i? */
static bool flags_wanted(const struct tr_insn *i) {
    const struct insn *insn = &i->insn;
    return !looks_only(i) || insn->flags_read ||
           (insn->flags_write && (i->live_out & ~tr_flags_killed(insn)));
}

/* Has a register of the recipe changed where i wants them? Calls and returns want them last. */
static bool changed_for(const struct tr_insn *i, u16 changed, u16 regs) {
    bool last = i->class == CLASS_CALL || i->class == CLASS_CALL_IND || i->class == CLASS_RET;
    changed |= last ? tr_regs_written(&i->insn) | (1u << GPR_RSP) : 0;
    return changed & regs;
}

/* From t->now on: do the registers of r last until flags are written again, at each exit before,
 * and until they are wanted in RFLAGS, when the recipe is followed in generated code? */
static bool recipe_lasts(const struct soft_tr *t, const struct tr_recipe *r) {
    u16 regs = recipe_regs(r), changed = 0, odd = (u16)(7u << H_TEMP2);
    for (u32 n = t->writer + 1; n < t->trace_len; n++) {
        const struct tr_insn *i = &t->trace[n];
        if (n >= t->now) {
            if (flags_wanted(i)) {
                return !(regs & odd) && !changed_for(i, changed, regs);
            }
            if (tr_may_exit(i) && (changed & regs)) {
                return false;
            }
            if (i->insn.flags_write) {
                return true;
            }
        }
        changed |= tr_regs_written(&i->insn);
    }
    return !(regs & odd) && !(changed & regs);
}

u32 tr_flags_number(struct soft_tr *t, const struct tr_recipe *r) {
    bool odd = recipe_regs(r) & 7u << H_TEMP2;
    return r->size && !odd ? recipe_new(t, r) : (u32)FLAGS_AT_HOME;
}

u32 tr_flags_recipe(struct soft_tr *t) {
    struct tr_recipe r;
    if (t->writer == TR_NONE || !recipe_of(&t->trace[t->writer].insn, &r) || !recipe_lasts(t, &r)) {
        return FLAGS_AT_HOME;
    }
    if (t->recipe_of != t->writer || !t->recipe_number) {
        t->recipe_of = t->writer;
        t->recipe_number = recipe_new(t, &r);
    }
    return t->recipe_number;
}

/* op of the recipe's size: a register and an immediate, or another register; opcode is that of the
 * second form. */
static void remake_op(struct soft_tr *t, const struct tr_recipe *r, u32 reg, u32 opcode, u32 ext) {
    bool test = opcode == 0x85, wide = r->size == 8;
    u32 byte = r->size == 1;
    if (r->size == 2) {
        tr_u8(t, 0x66);
    }
    tr_u8(t, 0x40 | (wide ? 8u : 0) | (r->b == MEM_NONE ? 0 : (r->b & 8u) >> 1) | (reg & 8) >> 3);
    if (r->b != MEM_NONE) {
        tr_u8(t, opcode - byte);
        tr_u8(t, 0xc0 | (r->b & 7u) << 3 | (reg & 7));
        return;
    }
    tr_u8(t, (test ? 0xf7u : 0x81u) - byte);
    tr_u8(t, 0xc0 | ext << 3 | (reg & 7));
    if (byte) {
        tr_u8(t, (u32)r->imm);
    } else if (r->size == 2) {
        tr_u16(t, (u32)r->imm);
    } else {
        tr_u32(t, (u32)r->imm);
    }
}

/* neg H_TEMP2, of that size */
static void remake_neg(struct soft_tr *t, u32 size) {
    if (size == 2) {
        tr_u8(t, 0x66);
    }
    tr_u8(t, size == 8 ? 0x49 : 0x41);
    tr_u8(t, size == 1 ? 0xf6 : 0xf7);
    tr_u8(t, 0xd8 | (H_TEMP2 & 7));
}

/* H_TEMP2 is free. */
void tr_flags_remake(struct soft_tr *t) {
    struct tr_recipe r = t->recipes[t->lost - FLAGS_AT_RECIPE];
    t->lost = FLAGS_AT_HOME;
    switch (r.op) {
    case RECIPE_CMP:
        remake_op(t, &r, r.a, 0x39, 7);
        return;
    case RECIPE_TEST:
        remake_op(t, &r, r.a, 0x85, 0);
        return;
    case RECIPE_LOGIC:
        r.b = r.a;
        remake_op(t, &r, r.a, 0x85, 0);
        return;
    default:
        break;
    }
    /* what it was before, and then once more */
    tr_rr(t, r.size == 8, 0x89, r.a, H_TEMP2);
    if (r.op == RECIPE_NEG) {
        remake_neg(t, r.size);
        remake_neg(t, r.size);
        return;
    }
    bool add = r.op == RECIPE_ADD;
    remake_op(t, &r, H_TEMP2, add ? 0x29 : 0x01, add ? 5 : 0);
    remake_op(t, &r, H_TEMP2, add ? 0x01 : 0x39, add ? 0 : 7);
}

u32 tr_flags_hint(struct soft_tr *t) {
    struct tr_recipe r;
    u16 changed = 0;
    if (t->saved || t->lost || t->writer == TR_NONE || !recipe_of(&t->trace[t->writer].insn, &r)) {
        return FLAGS_AT_HOME;
    }
    for (u32 n = t->writer + 1; n <= t->now && n < t->trace_len; n++) {
        changed |= tr_regs_written(&t->trace[n].insn);
        changed |= t->trace[n].class == CLASS_CALL ? 1u << GPR_RSP : 0;
    }
    return changed & recipe_regs(&r) ? (u32)FLAGS_AT_HOME : recipe_new(t, &r);
}

/* Does i look for itself? */
static bool looks(const struct tr_insn *i) {
    switch (i->class) {
    case CLASS_COPY:
        return insn_has_mem(&i->insn) && !i->found;
    case CLASS_MOFFS:
    case CLASS_PUSH_MEM:
        return true;
    default:
        return (i->class == CLASS_PUSH || i->class == CLASS_POP || i->class == CLASS_LEAVE ||
                i->class == CLASS_CALL) &&
               !i->found;
    }
}

/* A look that keeps flags costs three instructions more; saving and restoring them five each, and
 * both wait for memory. */
enum { KEEP_MAX = 4 };

enum tr_flags_ahead tr_flags_ahead(const struct soft_tr *t, u32 n) {
    u32 count = 0;
    for (; n < t->trace_len; n++) {
        const struct tr_insn *i = &t->trace[n];
        bool jump = i->class == CLASS_JCC;
        if ((!looks_only(i) && !jump) || (i->vector && !t->vec_done)) {
            return FLAGS_SAVE; /* wants them saved */
        }
        if (looks(i)) {
            if (!tr_look_may_keep(t, i)) {
                return FLAGS_SAVE;
            }
            count++;
        }
        if (flags_wanted(i)) {
            return count <= KEEP_MAX ? FLAGS_KEEP_WANTED : FLAGS_SAVE;
        }
        if (i->insn.flags_write) {
            break;
        }
        n += i->class == CLASS_PUSH || i->class == CLASS_POP ? tr_stack_run(t, n) - 1 : 0;
    }
    return count == 1 ? FLAGS_KEEP_ONCE : FLAGS_SAVE;
}

bool tr_flags_lazy(const struct soft_tr *t, u16 *early) {
    u16 changed = 0;
    *early = 0;
    for (u32 n = 0; n < t->trace_len; n++) {
        const struct tr_insn *i = &t->trace[n];
        u16 killed = tr_flags_killed(&i->insn);
        if (!looks_only(i) || i->insn.flags_read) {
            return false;
        }
        *early |= tr_may_exit(i) ? changed : 0;
        if (killed == FLAG_ARITH) {
            return true;
        }
        if (i->insn.flags_write) {
            return !(i->live_out & ~killed);
        }
        changed |= tr_regs_written(&i->insn);
    }
    return false;
}

bool tr_flags_trusted(const struct soft_tr *t, u32 hint, u16 early) {
    return hint >= FLAGS_AT_RECIPE && hint - FLAGS_AT_RECIPE < t->recipe_total &&
           !(recipe_regs(&t->recipes[hint - FLAGS_AT_RECIPE]) & early);
}

/* --- running -----------------------------------------------------------------------------------
 */

static u64 flags_of_result(u64 result, u32 bits) {
    u32 low = (u32)(result ^ result >> 4) & 15;
    u64 flags = 0x6996 >> low & 1 ? 0 : FLAG_PF;
    flags |= result ? 0 : FLAG_ZF;
    return flags | (result >> (bits - 1) & 1 ? FLAG_SF : 0);
}

/* x op y = result; carry and overflow of an addition, or of a subtraction */
static u64 flags_of_sum(u64 x, u64 y, u64 result, u32 bits, bool sub) {
    u64 over = sub ? (x ^ y) & (x ^ result) : (x ^ result) & (y ^ result);
    u64 flags = flags_of_result(result, bits);
    flags |= (sub ? x < y : result < x) ? FLAG_CF : 0;
    flags |= (x ^ y ^ result) & FLAG_AF;
    return flags | (over >> (bits - 1) & 1 ? FLAG_OF : 0);
}

static u64 recipe_flags(const struct soft_vcpu *c, const struct tr_recipe *r) {
    u32 bits = r->size * 8u;
    u64 mask = UINT64_MAX >> (64 - bits), a = c->s.gpr[r->a & 15] & mask;
    u64 b = (r->b == MEM_NONE ? (u64)(s64)r->imm : c->s.gpr[r->b & 15]) & mask;
    switch (r->op) {
    case RECIPE_ADD:
        return flags_of_sum((a - b) & mask, b, a, bits, false);
    case RECIPE_SUB:
        return flags_of_sum((a + b) & mask, b, a, bits, true);
    case RECIPE_CMP:
        return flags_of_sum(a, b, (a - b) & mask, bits, true);
    case RECIPE_NEG:
        return flags_of_sum(0, (0 - a) & mask, a, bits, true);
    case RECIPE_TEST:
        return flags_of_result(a & b, bits);
    default:
        return flags_of_result(a, bits);
    }
}

void tr_flags_home(struct soft_vcpu *c, u32 at) {
    const struct soft_tr *t = c->tr;
    at = at == FLAGS_AT_LAZY ? c->tr_lazy : at;
    if (at >= FLAGS_AT_RECIPE && at - FLAGS_AT_RECIPE < t->recipe_total) {
        c->aflags = recipe_flags(c, &t->recipes[at - FLAGS_AT_RECIPE]);
        tr_flags_out(c);
    } else {
        c->aflags = (c->tr_flags >> 8 & 0xff) | (c->tr_flags & 1) << 11;
    }
    c->tr_lazy = FLAGS_AT_HOME;
}

void tr_flags_out(struct soft_vcpu *c) {
    c->tr_flags = (c->aflags & 0xff) << 8 | (c->aflags >> 11 & 1);
}
