/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups: memory operands of one trace that lie near one another, at an address that is the same
 * sum of registers but for a constant, share one look. It is made by the first of them (the leader)
 * for all bytes from the lowest to the highest, which must lie in one page.
 *
 *   push rbp             leader: look for a write, rsp - 8 to rsp + 16; the addend to a slot
 *   sub rsp, 32          the distance from the leader's registers is known
 *   mov rax, [rsp + 48]  no look
 *   mov rcx, [rdi]       its own look
 *   mov [rsp + 24], rcx  the addend from the slot
 *
 * Slots (c->tr_addend) hold for the trace: nothing in it forgets a translation but what ends all
 * groups here, or an access by the interpreter, which then does not come back (tr_miss.c).
 *
 * A run of PUSH or POP is a group, too.
 *
 * A look that fails and cannot be filled (its bytes lie in two pages, a page is watched, or may be
 * read only where a later one writes) raises nothing: control goes to another trace that begins at
 * the leader and has no groups ("alone"). Its looks raise what is due and fill what can be filled,
 * so from then on all misses of that look may go there: where flags allow it the look's late piece
 * is joined to the alone trace as edges are to their targets (tr_apart_join).
 */
#include "engines/soft/tr.h"

enum {
    SPAN_STACK = 256,   /* bytes of a group at RSP: struct tr_exit.first */
    SPAN_OTHER = 96,    /* elsewhere: the chance to meet a page end is that many times 1 / 4096 */
    OFF_MAX = 1 << 24,  /* of a register from its symbol */
    SYM_STACK = GPR_RSP /* symbols below GPR_COUNT: what the registers held at the start */
};

struct place {
    u16 base, index; /* symbols; SYM_NONE */
    u8 scale;
    bool write;
    s32 off, first; /* of the lowest byte, of what is accessed first */
    u32 size, count;
};
enum { SYM_NONE = 0xffff };

struct plan {
    u16 sym[GPR_COUNT], next;
    s32 off[GPR_COUNT];
    u32 jumps;               /* conditional ones passed */
    u32 open[TR_GROUPS + 1]; /* u32: `jumps` when the group began, + 1; 0: it has ended */
};

/* --- which addresses ---------------------------------------------------------------------------
 */

static bool is_host(u32 reg) {
    return reg < GPR_COUNT && !tr_in_memory(reg);
}

static bool place_operand(const struct plan *p, const struct insn *i, struct place *a) {
    const struct insn_mem *m = &i->mem;
    const struct insn_operand *op = insn_mem_operand(i);
    bool index = m->index != MEM_NONE;
    if (!op || !is_host(m->base) || (index && !is_host(m->index)) || i->addrsize != 8 ||
        m->seg == SEG_FS || m->seg == SEG_GS || m->disp > OFF_MAX || m->disp < -OFF_MAX) {
        return false;
    }
    a->base = p->sym[m->base];
    a->index = index ? p->sym[m->index] : (u16)SYM_NONE;
    a->scale = index ? m->scale : 1;
    a->off = p->off[m->base] + (s32)m->disp + (index ? p->off[m->index] * a->scale : 0);
    a->first = a->off;
    a->size = op->size;
    a->write = op->flags & (OPERAND_WRITE | OPERAND_COND);
    return true;
}

static void place_stack(const struct plan *p, u32 reg, s32 disp, u32 size, bool write,
                        struct place *a) {
    a->base = p->sym[reg];
    a->off = a->first = p->off[reg] + disp;
    a->size = size;
    a->write = write;
}

/* Where instruction `at` and those translated with it access memory; false: not followed. */
static bool place_of(const struct soft_tr *t, const struct plan *p, u32 at, struct place *a) {
    const struct tr_insn *i = &t->trace[at];
    *a = (struct place){.index = SYM_NONE, .scale = 1, .count = 1};
    switch (i->class) {
    case CLASS_COPY:
        return insn_has_mem(&i->insn) && place_operand(p, &i->insn, a);
    case CLASS_PUSH:
        a->count = tr_stack_run(t, at);
        place_stack(p, GPR_RSP, -8 * (s32)a->count, 8 * a->count, true, a);
        a->first += 8 * (s32)(a->count - 1);
        return true;
    case CLASS_POP:
        a->count = tr_stack_run(t, at);
        place_stack(p, GPR_RSP, 0, 8 * a->count, false, a);
        return true;
    case CLASS_CALL:
        place_stack(p, GPR_RSP, -8, 8, true, a);
        return true;
    case CLASS_CALL_IND:
        place_stack(p, GPR_RSP, -8, 8, true, a);
        return i->insn.modrm >= 0xc0;
    case CLASS_RET:
        place_stack(p, GPR_RSP, 0, 8, false, a);
        return true;
    case CLASS_LEAVE:
        place_stack(p, GPR_RBP, 0, 8, false, a);
        return true;
    default:
        return false;
    }
}

/* --- registers ---------------------------------------------------------------------------------
 */

static void fresh(struct plan *p, u32 reg) {
    p->sym[reg] = p->next++;
    p->off[reg] = 0;
}

static void moved(struct plan *p, u32 to, u32 from, s64 by) {
    s64 off = p->off[from] + by;
    if (!is_host(from) || !is_host(to) || by > OFF_MAX || by < -OFF_MAX || off > OFF_MAX ||
        off < -OFF_MAX) {
        fresh(p, to);
        return;
    }
    p->sym[to] = p->sym[from];
    p->off[to] = (s32)off;
}

static bool whole(const struct insn_operand *op) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR && op->size == 8;
}

static void after_copy(struct plan *p, const struct insn *i) {
    const struct insn_operand *to = &i->op[0], *from = &i->op[1];
    u16 written = tr_regs_written(i);
    bool sum = (i->id == INSN_ADD || i->id == INSN_SUB) && from->kind == OPERAND_IMM;
    if (sum && whole(to)) {
        moved(p, to->reg, to->reg, i->id == INSN_ADD ? (s64)i->imm : -(s64)i->imm);
        return;
    }
    if (i->id == INSN_MOV && whole(to) && whole(from)) {
        moved(p, to->reg, from->reg, 0);
        return;
    }
    for (; written; written &= (u16)(written - 1)) {
        fresh(p, (u32)__builtin_ctz(written));
    }
}

static void after_lea(struct plan *p, const struct insn *i) {
    const struct insn_mem *m = &i->mem;
    if (i->opsize == 8 && i->addrsize == 8 && is_host(m->base) && m->index == MEM_NONE) {
        moved(p, i->op[0].reg, m->base, m->disp);
    } else {
        fresh(p, i->op[0].reg);
    }
}

/* What the registers hold behind the n instructions from `at` on, and which groups go on. */
static void pass(const struct soft_tr *t, struct plan *p, u32 at, u32 n) {
    const struct tr_insn *i = &t->trace[at];
    s32 words = 8 * (s32)n;
    switch (i->class) {
    case CLASS_COPY:
        after_copy(p, &i->insn);
        return;
    case CLASS_LEA:
        after_lea(p, &i->insn);
        return;
    case CLASS_NOP:
    case CLASS_JMP:
    case CLASS_RET:
        return;
    case CLASS_JCC:
        p->jumps++;
        return;
    case CLASS_PUSH:
    case CLASS_PUSH_MEM:
    case CLASS_CALL:
    case CLASS_CALL_IND:
        moved(p, GPR_RSP, GPR_RSP, -words);
        return;
    case CLASS_POP:
        for (u32 k = 0; k < n; k++) {
            fresh(p, i[k].insn.op[0].reg);
        }
        moved(p, GPR_RSP, GPR_RSP, words);
        return;
    case CLASS_LEAVE:
        moved(p, GPR_RSP, GPR_RBP, 8);
        fresh(p, GPR_RBP);
        return;
    default: /* anything by which translations can change */
        for (u32 r = 0; r < GPR_COUNT; r++) {
            fresh(p, r);
        }
        memset(p->open, 0, sizeof(p->open));
    }
}

/* --- groups ------------------------------------------------------------------------------------
 */

static bool joins(const struct plan *p, const struct tr_group *g, u32 n, const struct place *a) {
    s32 lo = MIN(g->lo, a->off), hi = MAX(g->hi, a->off + (s32)a->size);
    bool stack = g->base == SYM_STACK;
    bool straight = p->open[n] == p->jumps + 1;
    return p->open[n] && g->base == a->base && g->index == a->index && g->scale == a->scale &&
           hi - lo <= (stack ? SPAN_STACK : SPAN_OTHER) &&
           (g->write || !a->write || stack || straight);
}

static u32 group_for(struct soft_tr *t, struct plan *p, u32 at, const struct place *a) {
    for (u32 n = 1; n <= t->group_count; n++) {
        struct tr_group *g = &t->group[n];
        if (joins(p, g, n, a)) {
            g->write |= a->write;
            g->lo = MIN(g->lo, a->off);
            g->hi = MAX(g->hi, a->off + (s32)a->size);
            g->count++;
            return n;
        }
    }
    if (t->group_count == TR_GROUPS) {
        return 0;
    }
    u32 n = ++t->group_count;
    t->group[n] = (struct tr_group){.base = a->base,
                                    .index = a->index,
                                    .scale = a->scale,
                                    .leader = (u8)at,
                                    .count = (u8)MIN(a->count, 2),
                                    .write = a->write,
                                    .quiet = !a->write,
                                    .off = a->off,
                                    .first = a->first,
                                    .lo = a->off,
                                    .hi = a->off + (s32)a->size};
    p->open[n] = p->jumps + 1;
    return n;
}

static void find_groups(struct soft_tr *t) {
    struct plan p = {.next = GPR_COUNT};
    struct place a;
    for (u32 r = 0; r < GPR_COUNT; r++) {
        p.sym[r] = (u16)r;
    }
    for (u32 at = 0, n; at < t->trace_len; at += n) {
        bool follows = place_of(t, &p, at, &a);
        n = a.count;
        u32 group = follows ? group_for(t, &p, at, &a) : 0;
        for (u32 k = 0; k < n; k++) {
            t->trace[at + k].group = (u8)group;
        }
        pass(t, &p, at, n);
    }
}

/* Does the instruction, of no group, leave H_TEMP alone? */
static bool keeps(const struct soft_tr *t, const struct tr_insn *i) {
    const struct insn *insn = &i->insn;
    switch (i->class) {
    case CLASS_NOP:
    case CLASS_JMP:
        return true;
    case CLASS_JCC:
        return !t->c->vm->ev->translator.count;
    case CLASS_LEA:
        return !tr_names_memory_register(insn) && !tr_in_memory(insn->mem.base) &&
               !tr_in_memory(insn->mem.index);
    case CLASS_COPY:
        return !insn_has_mem(insn) && tr_copy_keeps_temp(i);
    default:
        return false;
    }
}

/* Which members have to take the addend from its slot, since H_TEMP was used for something else. */
static void find_reloads(struct soft_tr *t) {
    u32 held = 0;
    bool vector = false;
    for (u32 at = 0, n; at < t->trace_len; at += n) {
        struct tr_insn *i = &t->trace[at];
        struct tr_group *g = &t->group[i->group];
        n = i->class == CLASS_PUSH || i->class == CLASS_POP ? tr_stack_run(t, at) : 1;
        if ((i->vector && !vector) || i->class == CLASS_CALL_IND) { /* its own use comes first */
            held = 0;
        }
        vector |= i->vector;
        if (!i->group) {
            held = keeps(t, i) ? held : 0;
            continue;
        }
        for (u32 k = 0; k < n; k++) {
            i[k].found = g->leader != at;
        }
        i->reload = i->found && held != i->group;
        g->spill |= i->reload;
        held = i->class == CLASS_COPY && !tr_copy_keeps_temp(i) ? 0 : i->group;
    }
}

void tr_groups(struct soft_tr *t) {
    t->group_count = 0;
    if (t->mode != 64 || t->second_page || t->alone) {
        return;
    }
    find_groups(t);
    for (u32 n = 0; n < t->trace_len; n++) {
        struct tr_insn *i = &t->trace[n];
        i->group = t->group[i->group].count > 1 ? i->group : 0;
    }
    find_reloads(t);
}
