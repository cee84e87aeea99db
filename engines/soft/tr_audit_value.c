/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The values that the audit follows through generated code: sums of unknown numbers, what looks
 * make of them, and what each instruction does to them; see tr_audit.h.
 */
#include "engines/soft/look.h"
#include "engines/soft/tr_audit.h"

/* --- values ------------------------------------------------------------------------------------
 */

struct audit_value audit_fresh(struct audit *a) {
    return (struct audit_value){.sym = {++a->next_sym}, .coef = {1}};
}

struct audit_value audit_constant(u64 c) {
    return (struct audit_value){.c = c};
}

bool audit_same_symbols(const struct audit_value *x, const struct audit_value *y) {
    return x->sym[0] == y->sym[0] && x->sym[1] == y->sym[1] && x->coef[0] == y->coef[0] &&
           x->coef[1] == y->coef[1];
}

bool audit_same_sum(const struct audit_value *x, const struct audit_value *y) {
    return audit_same_symbols(x, y) && x->c == y->c;
}

/* Adds symbol * coef; false when there is no room. */
static bool sum_add(struct audit_value *s, u32 sym, u32 coef) {
    for (u32 i = 0; i < 2 && sym; i++) {
        if (s->sym[i] == sym || !s->sym[i]) {
            s->sym[i] = sym;
            s->coef[i] = (u8)(s->coef[i] + coef);
            if (s->sym[1] && s->sym[0] > s->sym[1]) {
                struct audit_value old = *s;
                s->sym[0] = old.sym[1], s->sym[1] = old.sym[0];
                s->coef[0] = old.coef[1], s->coef[1] = old.coef[0];
            }
            return true;
        }
    }
    return !sym;
}

/* As a number of 64 bits. */
struct audit_value audit_as_sum(struct audit_value v) {
    bool named = v.kind == AUDIT_LOW || v.kind == AUDIT_BOUND || v.kind == AUDIT_OFFSET;
    return named ? (struct audit_value){.sym = {v.own}, .coef = {1}} : v;
}

static struct audit_value low_half(struct audit *a, struct audit_value v) {
    v.kind = AUDIT_LOW;
    v.own = ++a->next_sym;
    return v;
}

/* to += v * scale, both sums; false: not followed */
bool audit_sum_sum(struct audit_value *to, const struct audit_value *v, u32 scale) {
    if (v->kind != AUDIT_SUM || v->coef[0] * scale > 16 || v->coef[1] * scale > 16) {
        return false;
    }
    to->c += v->c * scale;
    return sum_add(to, v->sym[0], v->coef[0] * scale) && sum_add(to, v->sym[1], v->coef[1] * scale);
}

/* x + y where one of them may be an addend. */
static bool value_add(struct audit_value *x, const struct audit_value *y) {
    if (x->kind == AUDIT_SUM && y->kind == AUDIT_SUM) {
        return audit_sum_sum(x, y, 1);
    }
    const struct audit_value *addend = x->kind == AUDIT_ADDEND ? x : y;
    const struct audit_value *sum = addend == x ? y : x;
    if (addend->kind != AUDIT_ADDEND || sum->kind != AUDIT_SUM ||
        !audit_same_symbols(addend, sum)) {
        return false;
    }
    struct audit_value host = *addend;
    host.kind = AUDIT_HOST;
    host.c = sum->c + (addend->c - addend->at);
    *x = host;
    return true;
}

/* The operand's address; false: not followed. */
bool audit_address(struct audit *a, struct audit_value *out) {
    const struct insn_mem *m = &a->insn.mem;
    struct audit_value base =
        m->base == MEM_NONE ? audit_constant(0) : audit_as_sum(a->v[m->base & 15]);
    struct audit_value index =
        m->index == MEM_NONE ? audit_constant(0) : audit_as_sum(a->v[m->index & 15]);
    if (m->base == MEM_RIP || a->insn.addrsize != 8) {
        return false;
    }
    if (base.kind == AUDIT_LOOK && index.kind == AUDIT_INDEX && m->scale == 8) {
        base = index;
        base.kind = AUDIT_SLOT;
        base.at = (u64)m->disp;
        *out = base;
        return true;
    }
    if (base.kind == AUDIT_SLOT || base.kind == AUDIT_LOOK || base.kind == AUDIT_SEEN) {
        *out = base;
        out->at = (u64)m->disp;
        return m->index == MEM_NONE;
    }
    if (index.kind == AUDIT_ADDEND && m->scale != 1) {
        return false;
    }
    *out = base;
    if (index.kind == AUDIT_ADDEND ? !value_add(out, &index)
        : (out->kind == AUDIT_HOST || out->kind == AUDIT_ADDEND)
            ? m->index != MEM_NONE && !value_add(out, &index)
            : !audit_sum_sum(out, &index, m->scale)) {
        return false;
    }
    out->c += (u64)m->disp;
    return true;
}

/* Which array of the table, and for a constant place which slot. */
bool audit_look_place(const struct audit_value *at, u32 *array, u64 *slot) {
    u64 offset = at->at + LOOK_BIAS, bytes = (u64)LOOK_SLOTS * 8;
    *array = (u32)(offset / bytes);
    *slot = offset % bytes / 8;
    return !(offset & 7) && offset < 3 * bytes && (at->kind == AUDIT_LOOK || *slot == 0);
}

/* --- what instructions do to values ------------------------------------------------------------
 */

bool audit_is_gpr(const struct insn_operand *op, u32 size) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR && op->size == size &&
           !op->high_byte;
}

static struct audit_value loaded(struct audit *a) {
    const struct insn *i = &a->insn;
    u64 at = (u64)i->mem.disp;
    struct audit_value p;
    u32 array;
    if (i->mem.seg == SEG_GS) {
        bool fixed = i->mem.index == MEM_NONE;
        bool look = at == C_OFF(look) || at == C_OFF(look_ac) || at == C_OFF(look_ac) + 8;
        bool dtlb = at == C_OFF(dtlb_ac) || at == C_OFF(dtlb_ac) + 8;
        if (fixed && (look || dtlb || at == C_OFF(tr_seen))) {
            return (struct audit_value){.kind = look ? AUDIT_LOOK : dtlb ? AUDIT_DTLB : AUDIT_SEEN};
        }
        u64 slot = at - C_OFF(tr_addend);
        if (fixed && slot < 8 * TR_GROUPS && !(slot & 7)) {
            return a->v[SLOTS + slot / 8];
        }
        a->temp_read |= at == C_OFF(tr_temp);
        return fixed && at == C_OFF(tr_temp) ? a->v[TEMP] : audit_fresh(a);
    }
    u64 slot;
    if (!audit_address(a, &p) || !audit_look_place(&p, &array, &slot) || array != ARRAY_ADDEND ||
        !a->has_passed) {
        return audit_fresh(a);
    }
    struct audit_value addend = a->passed;
    struct audit_value own = {.sym = {p.own}, .coef = {1}};
    bool same = p.kind == AUDIT_SLOT
                    ? audit_same_sum(&p, &addend) || (p.own && audit_same_sum(&own, &addend))
                    : !addend.sym[0] && slot == ((u32)addend.c >> PAGE_SHIFT);
    return (p.kind == AUDIT_SLOT || p.kind == AUDIT_LOOK) && same ? addend : audit_fresh(a);
}

/* MOV, 8 or 4 bytes. */
static struct audit_value moved(struct audit *a) {
    const struct insn *i = &a->insn;
    const struct insn_operand *from = &i->op[1];
    if (from->kind == OPERAND_IMM) {
        return audit_constant(i->opsize == 4 ? (u32)i->imm : i->imm);
    }
    if (from->kind == OPERAND_MEM) {
        return i->opsize == 8 ? loaded(a) : audit_fresh(a);
    }
    if (from->reg_class != REG_GPR) {
        return audit_fresh(a);
    }
    struct audit_value v = a->v[from->reg & 15];
    if (i->opsize == 8 || v.kind == AUDIT_BOUND || v.kind == AUDIT_INDEX) {
        return v;
    }
    return v.kind == AUDIT_SUM ? low_half(a, v) : v.kind == AUDIT_LOW ? v : audit_fresh(a);
}

static struct audit_value lea(struct audit *a) {
    const struct insn_mem *m = &a->insn.mem;
    struct audit_value p, base;
    if (m->base == MEM_RIP) {
        return audit_fresh(a);
    }
    if (m->base != MEM_NONE && m->index != MEM_NONE && a->insn.opsize == 8 && !m->disp) {
        base = a->v[m->base & 15]; /* offset in page + count * size */
        const struct audit_value *count = &a->v[m->index & 15];
        if (base.kind == AUDIT_OFFSET && count->kind == AUDIT_SUM && !count->sym[1] &&
            count->coef[0] == 1) {
            base.kind = AUDIT_END;
            base.len = count->sym[0];
            base.plus = count->c;
            base.at = m->scale;
            return base;
        }
    }
    if (!audit_address(a, &p)) {
        return audit_fresh(a);
    }
    if (p.kind == AUDIT_SLOT && a->insn.opsize == 8 && !p.at) {
        return p;
    }
    if (p.kind == AUDIT_SUM && a->insn.opsize == 4) {
        return low_half(a, p);
    }
    return a->insn.opsize == 8 && (p.kind == AUDIT_SUM || p.kind == AUDIT_HOST) ? p
                                                                                : audit_fresh(a);
}

/* AND, OR, XOR, SHR with an immediate */
static struct audit_value immediate(struct audit *a, struct audit_value v) {
    const struct insn *i = &a->insn;
    u64 imm = i->op[1].kind == OPERAND_IMM ? i->imm : UINT64_MAX;
    struct audit_value sum = v.kind == AUDIT_LOW ? v : audit_as_sum(v);
    bool known = v.kind == AUDIT_LOW || sum.kind == AUDIT_SUM;
    if (i->id == INSN_OR && imm == PAGE_LOW && i->opsize == 8 && known) {
        v = audit_as_sum(v);
        v.kind = AUDIT_TAG;
        return v;
    }
    if (i->id == INSN_SHR && imm == PAGE_SHIFT && i->opsize == 4 && known) {
        sum.kind = AUDIT_INDEX;
        return sum;
    }
    if (i->id == INSN_AND && imm == PAGE_LOW && known) {
        sum.kind = AUDIT_OFFSET;
        sum.own = ++a->next_sym;
        return sum;
    }
    if (i->id == INSN_XOR && imm <= INT32_MAX && v.kind == AUDIT_BOUND) {
        v.c |= imm;
        v.own = ++a->next_sym;
        return v;
    }
    if (i->id == INSN_AND && imm <= INT32_MAX) {
        return (struct audit_value){.kind = AUDIT_BOUND, .c = imm, .own = ++a->next_sym};
    }
    return audit_fresh(a);
}

static struct audit_value added(struct audit *a, struct audit_value v) {
    const struct insn *i = &a->insn;
    const struct insn_operand *from = &i->op[1];
    bool reg = audit_is_gpr(from, 8);
    struct audit_value y = reg                         ? audit_as_sum(a->v[from->reg & 15])
                           : from->kind == OPERAND_IMM ? audit_constant(i->imm)
                                                       : audit_fresh(a);
    if (i->opsize != 8) {
        return audit_fresh(a);
    }
    v = audit_as_sum(v);
    if (i->id == INSN_ADD) {
        return value_add(&v, &y) ? v : audit_fresh(a);
    }
    if (from->kind == OPERAND_IMM && v.kind == AUDIT_SUM) {
        v.c -= i->imm;
        return v;
    }
    /* host address - its linear address */
    if (reg && v.kind == AUDIT_HOST && y.kind == AUDIT_SUM && audit_same_symbols(&v, &y)) {
        v.kind = AUDIT_ADDEND;
        v.c = v.c - y.c + v.at;
        return v;
    }
    return audit_fresh(a);
}

/* SHRX by c->look's low bits: LOOK_BIAS is the page shift. */
static struct audit_value shifted(struct audit *a) {
    const struct insn *i = &a->insn;
    struct audit_value v = a->v[i->op[1].reg & 15];
    bool page = i->op[1].kind == OPERAND_REG && a->v[i->op[2].reg & 15].kind == AUDIT_LOOK;
    if (i->opsize != 4 || !page || (v.kind != AUDIT_SUM && v.kind != AUDIT_LOW)) {
        return audit_fresh(a);
    }
    v.kind = AUDIT_INDEX;
    return v;
}

static struct audit_value computed(struct audit *a) {
    const struct insn *i = &a->insn;
    struct audit_value v = a->v[i->op[0].reg & 15];
    switch (i->id) {
    case INSN_MOV:
        return moved(a);
    case INSN_LEA:
        return lea(a);
    case INSN_AND:
    case INSN_OR:
    case INSN_XOR:
    case INSN_SHR:
        return immediate(a, v);
    case INSN_ADD:
    case INSN_SUB:
        return added(a, v);
    case INSN_SHRX:
        return shifted(a);
    default:
        return audit_fresh(a);
    }
}

/* A whole register that generated code had put aside. */
static bool takes_back(const struct insn *i) {
    bool own = i->op[1].kind != OPERAND_REG || i->op[1].reg >= H_TEMP2;
    return i->id == INSN_MOV && i->opsize == 8 && own;
}

/* One register of the start, and a constant. */
static bool is_moved(const struct insn *i, const struct audit_value *v) {
    bool whole = i->opsize == 8 &&
                 (i->id == INSN_MOV || i->id == INSN_LEA || i->id == INSN_ADD || i->id == INSN_SUB);
    return whole && v->kind == AUDIT_SUM && v->sym[0] && v->coef[0] == 1 && !v->sym[1];
}

/* What a guest's own instruction leaves in its register is a new value, whatever it looks like (a
 * constant, too: it needs a name), but for a register that was moved by a constant. */
static struct audit_value result(struct audit *a) {
    struct audit_value v = computed(a);
    bool guest = a->insn.op[0].reg_class == REG_GPR && a->insn.op[0].reg < H_TEMP2;
    bool constant = v.kind == AUDIT_SUM && !v.sym[0];
    bool followed = takes_back(&a->insn) || v.kind == AUDIT_HOST || is_moved(&a->insn, &v);
    return guest && (constant || !followed) ? audit_fresh(a) : v;
}

static void slots_stored(struct audit *a, u64 at, u32 size, bool whole) {
    for (u32 n = 0; n < TR_GROUPS; n++) {
        u64 slot = C_OFF(tr_addend) + 8 * n;
        if (at < slot + 8 && at + size > slot) {
            a->v[SLOTS + n] = whole && at == slot ? a->v[a->insn.op[1].reg & 15] : audit_fresh(a);
        }
    }
}

static void look_changed(struct audit *a) {
    for (u32 r = 0; r < VALUES; r++) {
        if (a->v[r].kind == AUDIT_LOOK || a->v[r].kind == AUDIT_SLOT) {
            a->v[r] = audit_fresh(a);
        }
    }
}

static void gs_stored(struct audit *a) {
    const struct insn *i = &a->insn;
    const struct insn_operand *mem = insn_mem_operand(i);
    if (!mem || i->mem.seg != SEG_GS || !(mem->flags & (OPERAND_WRITE | OPERAND_COND))) {
        return;
    }
    bool whole = i->id == INSN_MOV && audit_is_gpr(&i->op[1], 8);
    if (i->mem.disp == (s64)C_OFF(tr_temp)) {
        a->v[TEMP] = whole ? a->v[i->op[1].reg & 15] : audit_fresh(a);
    }
    slots_stored(a, (u64)i->mem.disp, mem->size, whole);
    if (i->mem.disp == (s64)C_OFF(look)) {
        look_changed(a);
    }
}

void audit_values(struct audit *a) {
    const struct insn *i = &a->insn;
    bool whole = i->operand_count && (audit_is_gpr(&i->op[0], 8) || audit_is_gpr(&i->op[0], 4)) &&
                 (i->op[0].flags & OPERAND_WRITE);
    struct audit_value first = audit_constant(0);
    struct audit_value before[VALUES];
    memcpy(before, a->v, sizeof(before));
    gs_stored(a);
    if (whole) {
        first = result(a);
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (op->kind == OPERAND_REG && op->reg_class == REG_GPR &&
            (op->flags & (OPERAND_WRITE | OPERAND_COND))) {
            a->v[op->reg & 15] = audit_fresh(a);
        }
    }
    for (u32 r = 0; r < GPR_COUNT; r++) {
        if (i->implicit_write >> r & 1) {
            a->v[r] = audit_fresh(a);
        }
    }
    if (whole) {
        a->v[i->op[0].reg & 15] = first;
    }
    for (u32 r = 0; r < VALUES; r++) {
        bool own = r == H_TEMP2 || r == H_TEMP || r == H_ADDR || (r == TEMP && !a->temp_read);
        if (!own && memcmp(&before[r], &a->v[r], sizeof(before[r]))) {
            a->anchor = 0;
        }
    }
}
