/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the instructions of a trace: from the start of a decoded block along direct jumps, calls
 * and the untaken side of conditional jumps, within one page; what each one is to the translator;
 * and which flags live where, backwards from the exits, at which all do.
 *
 * The bytes are copied first, their granules marked as code, and compared again (smc.h).
 */
#include "engines/soft/smc.h"
#include "engines/soft/tr.h"

enum { JOIN_AFTER = 4 }; /* instructions that a trace has at least when it ends at another's head */

static bool is_near(const struct insn *i) {
    return i->operand_count && i->op[0].kind == OPERAND_REL;
}

static bool canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}

static u32 word(const struct insn *i) {
    return i->mode == 64 ? 8 : 4;
}

static enum tr_class class_jump(const struct insn *i, u64 target) {
    bool rel = is_near(i) && i->opsize != 2 && canonical(target);
    bool mem = insn_has_mem(i);
    bool wide = i->op[0].kind <= OPERAND_MEM && i->op[0].size == word(i) &&
                (!mem || tr_mem_known(i, false));
    switch (i->id) {
    case INSN_JMP:
        return rel ? CLASS_JMP : wide ? CLASS_JMP_IND : CLASS_STEP_END;
    case INSN_CALL:
        return rel ? CLASS_CALL : wide ? CLASS_CALL_IND : CLASS_STEP_END;
    case INSN_JCC:
        return rel ? CLASS_JCC : CLASS_STEP_END;
    case INSN_JCXZ:
        return rel && i->addrsize >= 4 ? CLASS_JCC : CLASS_STEP_END;
    case INSN_RET:
        return i->opsize == word(i) && i->imm < 0x7000 ? CLASS_RET : CLASS_STEP_END;
    default:
        return CLASS_STEP_END;
    }
}

static bool plain_gpr(const struct insn_operand *op) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR;
}

static enum tr_class class_stack(const struct insn *i) {
    const struct insn_operand *op = &i->op[0];
    if (i->opsize != word(i)) {
        return CLASS_STEP;
    }
    if (i->id == INSN_LEAVE) {
        return CLASS_LEAVE;
    }
    if (i->id == INSN_PUSH) {
        bool mem = op->kind == OPERAND_MEM && tr_mem_known(i, false);
        return plain_gpr(op) || op->kind == OPERAND_IMM ? CLASS_PUSH
               : mem                                    ? CLASS_PUSH_MEM
                                                        : CLASS_STEP;
    }
    return plain_gpr(op) && op->reg != GPR_RSP ? CLASS_POP : CLASS_STEP;
}

static bool is_control_move(const struct insn *i) {
    for (u32 n = 0; n < i->operand_count; n++) {
        u32 class = i->op[n].reg_class;
        if (i->op[n].kind == OPERAND_REG && class != REG_GPR) {
            return true;
        }
    }
    return false;
}

static enum tr_class class_other(const struct soft_tr *t, struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    if (tr_string_known(i)) {
        return CLASS_STRING;
    }
    switch (i->id) {
    case INSN_NOP:
    case INSN_ENDBR32:
    case INSN_ENDBR64:
    case INSN_PREFETCH:
    case INSN_PREFETCHW:
    case INSN_PREFETCHNTA:
    case INSN_PREFETCHT0:
    case INSN_PREFETCHT1:
    case INSN_PREFETCHT2:
        return i->prefixes & PREFIX_LOCK ? CLASS_STEP : CLASS_NOP;
    case INSN_LEA:
        return i->opsize >= 4 && i->addrsize >= 4 ? CLASS_LEA : CLASS_STEP;
    case INSN_MOV:
        if (is_control_move(i)) { /* reading one changes nothing else */
            return i->op[0].kind == OPERAND_REG && i->op[0].reg_class != REG_GPR ? CLASS_STEP_END
                                                                                 : CLASS_STEP;
        }
        if (i->map == MAP_1BYTE && i->opcode >= 0xa0 && i->opcode <= 0xa3) {
            return i->addrsize == word(i) && tr_mem_known(i, i->opcode >= 0xa2) ? CLASS_MOFFS
                                                                                : CLASS_STEP;
        }
        break;
    case INSN_PUSH:
    case INSN_POP:
    case INSN_LEAVE:
        return class_stack(i);
    default:
        break;
    }
    return tr_can_copy(t, ti) ? CLASS_COPY : CLASS_STEP;
}

static enum tr_class classify(const struct soft_tr *t, struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    if (i->flags & INSN_BRANCH) {
        return class_jump(i, tr_target(ti));
    }
    if (tr_sys_known(t, i)) {
        return CLASS_SYSTEM;
    }
    return i->flags & INSN_ENDS_BLOCK ? CLASS_STEP_END : class_other(t, ti);
}

enum soft_handling soft_tr_handling(struct engine_vcpu *vcpu, const struct insn *insn) {
    const struct soft_tr *t = soft_of(vcpu)->tr;
    struct tr_insn ti = {.insn = *insn};
    if (!t || insn->mode == 16) {
        return SOFT_CALLOUT;
    }
    switch (classify(t, &ti)) {
    case CLASS_COPY:
    case CLASS_LEA:
    case CLASS_NOP:
        return SOFT_IDENTICAL;
    case CLASS_STEP:
    case CLASS_STEP_END:
        return SOFT_CALLOUT;
    default:
        return SOFT_INLINE;
    }
}

/* --- the walk ----------------------------------------------------------------------------------
 */

static bool same_page(const struct soft_tr *t, u64 rip) {
    return !((rip ^ t->rip) >> PAGE_SHIFT);
}

static bool seen(const struct soft_tr *t, u64 rip) {
    return t->seen_at[(rip & PAGE_MASK) / 64] >> (rip & 63) & 1;
}

/* Where the trace goes on behind i; false when it ends with i. */
static bool follow(struct soft_tr *t, struct tr_insn *i, u64 *rip) {
    u64 to = tr_target(i);
    switch (i->class) {
    case CLASS_JMP:
    case CLASS_CALL:
        if (t->trace_len == TR_TRACE_MAX || !same_page(t, to) || seen(t, to)) {
            return false;
        }
        i->followed = true;
        *rip = to;
        return true;
    case CLASS_CALL_IND:
    case CLASS_JMP_IND:
    case CLASS_RET:
    case CLASS_STEP_END:
        return false;
    default:
        *rip = i->rip + i->insn.len;
        return t->trace_len < TR_TRACE_MAX && same_page(t, *rip) && !seen(t, *rip);
    }
}

/* Copies those pieces of the page that an instruction at `at` may reach into. */
static void fill(struct soft_tr *t, u32 at) {
    u32 last = MIN(at + INSN_MAX_LEN - 1, (u32)PAGE_MASK) / 64;
    for (u32 n = at / 64; n <= last; n++) {
        if (!(t->page_have >> n & 1)) {
            soft_code_copy(t->page + 64 * n, t->host_page + 64 * n, 64);
            t->page_have |= BIT(n);
        }
    }
}

static bool take(struct soft_tr *t, u64 rip) {
    struct tr_insn *i = &t->trace[t->trace_len];
    u32 at = (u32)(rip & PAGE_MASK);
    fill(t, at);
    /* the decoder clears its part */
    memset((u8 *)i + sizeof(i->insn), 0, sizeof(*i) - sizeof(i->insn));
    i->rip = rip;
    if (insn_decode(&i->insn, t->page + at, t->page_bytes - at, t->mode) != DECODE_OK) {
        return false;
    }
    i->class = (u8)classify(t, i);
    i->named = tr_regs_named(&i->insn, 0);
    i->written = tr_regs_named(&i->insn, OPERAND_WRITE | OPERAND_COND);
    t->seen_at[at / 64] |= BIT(at % 64);
    t->trace_len++;
    return true;
}

/* Another trace begins there: a jump to it is cheaper than the same code once more. Not for traces
 * without groups, which are to write flags within, as the one that leads there (tr_flow.c). */
static bool begins_here(struct soft_tr *t, u64 rip) {
    return tr_cache_find(t, (t->gpa & ~PAGE_MASK) | (rip & PAGE_MASK), t->c->mode_key, rip, 0);
}

static void walk(struct soft_tr *t) {
    u64 rip = t->rip;
    t->trace_len = 0;
    t->trace_next = rip;
    memset(t->seen_at, 0, sizeof(t->seen_at));
    while (take(t, rip)) {
        struct tr_insn *i = &t->trace[t->trace_len - 1];
        t->trace_next = i->rip + i->insn.len;
        if (!follow(t, i, &rip)) {
            return;
        }
        t->trace_next = rip;
        if (t->trace_len >= JOIN_AFTER && !t->alone && begins_here(t, rip)) {
            return;
        }
    }
}

u16 tr_flags_killed(const struct insn *i) {
    if (i->flags & INSN_FLAGS_COND) {
        return 0;
    }
    switch (i->id) {
    case INSN_DIV:
    case INSN_IDIV:
        return 0;
    case INSN_BT:
    case INSN_BTS:
    case INSN_BTR:
    case INSN_BTC:
        return FLAG_CF;
    case INSN_BSF:
    case INSN_BSR:
        return FLAG_ZF;
    case INSN_LZCNT:
    case INSN_TZCNT:
        return FLAG_CF | FLAG_ZF;
    case INSN_MUL:
    case INSN_IMUL:
        return FLAG_CF | FLAG_OF;
    case INSN_ANDN:
    case INSN_BEXTR:
    case INSN_BLSI:
    case INSN_BLSMSK:
    case INSN_BLSR:
    case INSN_BZHI:
        return FLAG_CF | FLAG_ZF | FLAG_SF | FLAG_OF;
    default:
        return i->flags_write;
    }
}

/* Can generated code be left at the instruction, before it has done anything? Then all flags must
 * be known there, for the frame of a fault. */
bool tr_may_exit(const struct tr_insn *i) {
    const struct insn *insn = &i->insn;
    bool memory = insn_has_mem(insn);
    bool locked = (insn->prefixes & PREFIX_LOCK) || insn->id == INSN_XCHG;
    switch (i->class) {
    case CLASS_COPY:
        return i->vector || insn->id == INSN_DIV || insn->id == INSN_IDIV ||
               (memory && (!i->found || locked || insn->id == INSN_CMPXCHG16B));
    case CLASS_PUSH:
    case CLASS_POP:
    case CLASS_LEAVE:
    case CLASS_CALL:
        return !i->found;
    case CLASS_NOP:
    case CLASS_LEA:
    case CLASS_JMP:
        return false;
    case CLASS_SYSTEM:
        switch (insn->id) {
        case INSN_CLI:
        case INSN_CLD:
        case INSN_STD:
        case INSN_CLAC:
        case INSN_STAC:
        case INSN_SWAPGS:
        case INSN_MOV:
            return false;
        default:
            return true;
        }
    default:
        return true;
    }
}

/* Where are the flags best kept when the trace begins? */
static enum tr_flags_at flags_at(const struct soft_tr *t) {
    for (u32 n = 0; n < t->trace_len; n++) {
        const struct tr_insn *i = &t->trace[n];
        if (!i->live_in) {
            return FLAGS_DEAD;
        }
        if (i->class != CLASS_JCC && tr_may_exit(i) && tr_flags_ahead(t, n) != FLAGS_KEEP_WANTED) {
            return FLAGS_SAVED;
        }
        if (i->class == CLASS_JCC || i->insn.flags_read || i->insn.flags_write) {
            return FLAGS_LIVE;
        }
    }
    return FLAGS_LIVE;
}

static void liveness(struct soft_tr *t) {
    u16 live = FLAG_ARITH;
    for (u32 n = t->trace_len; n--;) {
        struct tr_insn *i = &t->trace[n];
        const struct insn *insn = &i->insn;
        i->live_out = live;
        live &= (u16)~tr_flags_killed(insn);
        live |= insn->flags_read & FLAG_ARITH;
        if (tr_may_exit(i)) {
            live = FLAG_ARITH;
        }
        i->live_in = live;
    }
    t->flags_at = flags_at(t);
}

/* Marks the bytes of instructions as code; false when they are not what was translated. */
static bool keep_run(struct soft_tr *t, u32 at, u32 len) {
    return smc_mark(smc_page_of(t->c->vm, t->gpa), at, len) &&
           soft_code_same(t->page + at, t->host_page + at, len);
}

/* The same of those from trace[n] on that lie one behind the other; returns how many, 0: changed.
 * One over the page's end is alone in its trace. */
static u32 keep(struct soft_tr *t, const struct soft_block *b, u32 n) {
    const struct tr_insn *i = &t->trace[n];
    u32 at = (u32)(i->rip & PAGE_MASK), len = i->insn.len, count = 1;
    u32 first = MIN(len, (u32)PAGE_SIZE - at), second = len - first;
    while (n + count < t->trace_len && i[count].rip == i->rip + first && !second &&
           at + first + i[count].insn.len <= PAGE_SIZE) {
        first += i[count++].insn.len;
    }
    if (!keep_run(t, at, first)) {
        return 0;
    }
    bool same = !second || (smc_mark(smc_page_of(t->c->vm, block_second(b)->gpa), 0, second) &&
                            soft_code_same(t->page + PAGE_SIZE, t->second_page, second));
    return same ? count : 0;
}

static bool fresh(const struct soft_block *b) {
    return block_fresh(b) && (!b->crosses || second_fresh(b));
}

/* The instruction behind STI must follow without a poll in between. Lock-step stops in front of HLT
 * and its like, where the interpreter has a shadow of STI and inline code has none: it leaves both
 * to the interpreter. */
static void end_with_sti(struct soft_tr *t) {
    for (u32 n = 0; t->c->verify && n + 1 < t->trace_len; n++) {
        u8 next = t->trace[n + 1].class;
        if (t->trace[n].insn.id == INSN_STI && (next == CLASS_STEP || next == CLASS_STEP_END)) {
            t->trace_len = n + 1;
        }
    }
    struct tr_insn *last = t->trace_len ? &t->trace[t->trace_len - 1] : NULL;
    if (last && last->insn.id == INSN_STI) {
        last->class = CLASS_STEP_END;
    }
}

bool tr_scan(struct soft_tr *t, const struct soft_block *b) {
    t->page_have = 0;
    t->vec_done = false;
    t->page_bytes = PAGE_SIZE;
    if (t->second_page) {
        soft_code_copy(t->page + PAGE_SIZE, t->second_page, INSN_MAX_LEN);
        t->page_bytes += INSN_MAX_LEN;
    }
    walk(t);
    end_with_sti(t);
    for (u32 n = 0, kept; n < t->trace_len; n += kept) {
        kept = keep(t, b, n);
        if (!kept) {
            return false;
        }
    }
    tr_groups(t);
    liveness(t);
    return t->trace_len && fresh(b);
}
