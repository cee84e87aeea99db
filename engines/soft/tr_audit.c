/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit of generated code; see tr_audit.h. It shares the decoder with the translator, nothing
 * else, and believes only what it sees in the bytes:
 *
 *   - An access without GS goes to guest RAM by way of a look: the tag of its last byte's page was
 *     compared with the slot of its first byte, "not equal" left, the addend comes from the same
 *     slot, and all bytes lie between these two. Stores need the write tag. A repeated string
 *     instruction needs its count and the end of its run within the page compared as well.
 *   - RCX is the guest's, but within a look that keeps flags, which is one sequence that nobody
 *     jumps into.
 *   - An access through GS is to a fixed place in struct soft_vcpu, a store to one of those in
 *     `places`; the table of indirect jumps is indexed by a value cut to its size.
 *   - No other segment, nothing that pushes or pops, changes segments, modes, DF or control
 *     registers, traps or reaches ports; no indirect jump but that through the table.
 *   - Direct jumps lead to instructions of the trace, to stubs, or to entries of live traces.
 *
 * Values are followed from one label to the next (a label: where a jump or a stub may come in).
 * Nothing is known behind one, but where only one jump comes in, and where a look that failed goes
 * on: there guest registers are as they were, since none is changed between that place and the
 * look. The same where the stub that loads vector registers comes back to, and where the
 * interpreter may have done an access (it changes what the instruction changes, and does not come
 * back when addends in slots may have become wrong). That only fast translations of RAM are in the
 * tables (look.c), and that the stubs (tr_stub.c) and C code are right, is not shown here.
 */
#include "engines/soft/tr_audit.h"

#include "core/base/fmt.h"
#include "engines/soft/look.h"

#define FAIL(a, reason) ((a)->why = (reason), false)

/* --- places in struct soft_vcpu ----------------------------------------------------------------
 */

static const struct {
    u32 from, size;
} places[] = {
    {C_OFF(s.gpr), sizeof(((struct soft_vcpu *)0)->s.gpr)},
    {C_OFF(s.rflags), 8},
    {C_OFF(s.cr2), 8},
    {C_OFF(s.seg[SEG_FS].base), 8},
    {C_OFF(s.seg[SEG_GS].base), 8},
    {C_OFF(s.msr.kernel_gs_base), 8},
    {C_OFF(mmu), 1},
    {C_OFF(next_rip), 8},
    {C_OFF(request) + 3, 1},
    {C_OFF(tr_flags), 8},
    {C_OFF(tr_lazy), 4},
    {C_OFF(tr_resume), 8},
    {C_OFF(tr_temp), 8},
    {C_OFF(tr_addend), sizeof(((struct soft_vcpu *)0)->tr_addend)},
    {C_OFF(tr_turns), 8},
    {C_OFF(tr_counted), sizeof(struct engine_tr_counted)},
};

static bool place_allowed(u64 at, u32 size) {
    for (u32 i = 0; i < ARRAY_LEN(places); i++) {
        if (at >= places[i].from && at + size <= (u64)places[i].from + places[i].size) {
            return true;
        }
    }
    return false;
}

/* --- memory ------------------------------------------------------------------------------------
 */

static bool host_allowed(struct audit *a, const struct audit_value *p, u32 size, bool write) {
    u64 into = p->c - p->at;
    if (p->kind != AUDIT_HOST) {
        return FAIL(a, "an access that was not looked up");
    }
    if (into > p->len || size > p->len - into) {
        return FAIL(a, "an access beyond what was looked up");
    }
    return !write || p->write ? true : FAIL(a, "a store where only a load was looked up");
}

static bool gs_allowed(struct audit *a, u32 size, bool write) {
    const struct insn_mem *m = &a->insn.mem;
    u64 at = (u64)m->disp;
    if (m->base != MEM_NONE) {
        return FAIL(a, "GS with a base register");
    }
    if (m->index != MEM_NONE) {
        const struct audit_value *v = &a->v[m->index & 15];
        u64 table = C_OFF(tr_jump), bytes = sizeof(a->c->tr_jump);
        bool inside =
            v->kind == AUDIT_BOUND && at >= table && at - table + v->c * m->scale + size <= bytes;
        return inside && !write ? true : FAIL(a, "GS with an index that is not bounded");
    }
    if (at >= sizeof(struct soft_vcpu) || at + size > sizeof(struct soft_vcpu)) {
        return FAIL(a, "GS beyond the processor's state");
    }
    if (!write || place_allowed(at, size)) {
        return true;
    }
    u32 reg = a->insn.op[1].reg & 15;
    bool plain = a->insn.id == INSN_MOV && size == 8 && a->insn.op[1].kind == OPERAND_REG;
    bool table = plain && ((at == C_OFF(look) && a->v[reg].kind == AUDIT_LOOK) ||
                           (at == C_OFF(dtlb) && a->v[reg].kind == AUDIT_DTLB));
    return table ? true : FAIL(a, "a store to the processor's state that is not allowed");
}

static bool table_allowed(struct audit *a, const struct audit_value *p, u32 size, bool write) {
    u32 array;
    u64 slot;
    if (write || size != 8) {
        return FAIL(a, "a table is only read, in words");
    }
    if (p->kind == AUDIT_SEEN) {
        return p->at / 8 < a->t->slot_max ? true : FAIL(a, "beyond the table of pages");
    }
    return audit_look_place(p, &array, &slot) ? true : FAIL(a, "beside the table of looks");
}

static bool is_hint(u16 id) {
    return id == INSN_LEA || id == INSN_NOP || id == INSN_PREFETCH || id == INSN_PREFETCHW ||
           id == INSN_PREFETCHNTA || id == INSN_PREFETCHT0 || id == INSN_PREFETCHT1 ||
           id == INSN_PREFETCHT2;
}

static bool is_bit(u16 id) {
    return id == INSN_BT || id == INSN_BTS || id == INSN_BTR || id == INSN_BTC;
}

/* Sums that are too long to be followed get a name, before they are added to others. */
static void name_registers(struct audit *a) {
    const struct insn_mem *m = &a->insn.mem;
    if (!insn_mem_operand(&a->insn) || m->base >= MEM_RIP || m->index == MEM_NONE) {
        return;
    }
    struct audit_value sum = audit_as_sum(a->v[m->base & 15]),
                       index = audit_as_sum(a->v[m->index & 15]);
    if (sum.kind == AUDIT_SUM && index.kind == AUDIT_SUM &&
        !audit_sum_sum(&sum, &index, m->scale)) {
        a->v[m->base & 15] = audit_fresh(a);
        a->v[m->index & 15] = audit_fresh(a);
    }
}

static bool memory(struct audit *a) {
    const struct insn *i = &a->insn;
    const struct insn_operand *mem = insn_mem_operand(i);
    struct audit_value p;
    if (!mem || is_hint(i->id)) {
        return mem || !i->has_modrm || i->modrm >= 0xc0 || is_hint(i->id)
                   ? true
                   : FAIL(a, "memory without an operand");
    }
    bool write = mem->flags & (OPERAND_WRITE | OPERAND_COND);
    if (!mem->size || mem->size > PAGE_SIZE || i->mem.vsib) {
        return FAIL(a, "an operand of unknown size");
    }
    if (i->mem.seg == SEG_FS) {
        return FAIL(a, "FS");
    }
    if (is_bit(i->id) && i->op[1].kind == OPERAND_REG) {
        const struct audit_value *bit = &a->v[i->op[1].reg & 15];
        if (bit->kind != AUDIT_BOUND || bit->c >= 8u * mem->size) {
            return FAIL(a, "a bit that is not bounded");
        }
    }
    if (i->mem.seg == SEG_GS) {
        return gs_allowed(a, mem->size, write);
    }
    if (!audit_address(a, &p)) {
        return FAIL(a, "an address that cannot be followed");
    }
    if (p.kind == AUDIT_LOOK || p.kind == AUDIT_SLOT || p.kind == AUDIT_SEEN) {
        return table_allowed(a, &p, mem->size, write);
    }
    return host_allowed(a, &p, mem->size, write);
}

/* --- strings -----------------------------------------------------------------------------------
 */

static bool run_known(const struct audit *a, const struct audit_value *host, u32 size) {
    const struct audit_value *count = &a->v[GPR_RCX];
    struct audit_value from = *host;
    bool most = false, run = false;
    from.c = host->at;
    for (u32 i = 0; i < a->facts; i++) {
        const struct fact *f = &a->fact[i];
        if (count->kind == AUDIT_SUM && f->sym == count->sym[0] && !count->sym[1] &&
            count->coef[0] == 1 && f->plus == count->c) {
            most |= !f->run && f->most <= PAGE_SIZE;
            run |= f->run && f->size == size && audit_same_sum(&f->from, &from);
        }
    }
    return most && run;
}

static bool string(struct audit *a) {
    const struct insn *i = &a->insn;
    u32 size = i->opcode & 1 ? i->opsize : 1;
    bool rep = i->prefixes & (PREFIX_REP | PREFIX_REPNE);
    const struct audit_value *d = &a->v[GPR_RDI], *s = &a->v[GPR_RSI];
    if ((i->id != INSN_MOVS && i->id != INSN_STOS) || i->addrsize != 8 || i->mem.seg == SEG_FS ||
        i->mem.seg == SEG_GS) {
        return FAIL(a, "a string instruction of that kind");
    }
    if (!host_allowed(a, d, size, true) ||
        (i->id == INSN_MOVS && !host_allowed(a, s, size, false))) {
        return false;
    }
    if (rep && (!run_known(a, d, size) || (i->id == INSN_MOVS && !run_known(a, s, size)))) {
        return FAIL(a, "a repetition that may leave its page");
    }
    a->v[GPR_RDI] = audit_fresh(a);
    a->v[GPR_RSI] = audit_fresh(a);
    a->v[GPR_RCX] = audit_fresh(a);
    a->anchor = 0;
    return true;
}

/* --- comparisons -------------------------------------------------------------------------------
 */

/* What the addend of p is good for when the last byte is `last` and their pages are the same. */
static bool addend_of(struct audit *a, struct audit_value p, const struct audit_value *last,
                      u32 array) {
    if (!audit_same_symbols(&p, last)) {
        p = (struct audit_value){.sym = {p.own}, .coef = {1}};
    }
    if (!audit_same_symbols(&p, last) || last->c - p.c >= PAGE_SIZE) {
        return false;
    }
    a->cmp = p;
    a->cmp.kind = AUDIT_ADDEND;
    a->cmp.at = p.c;
    a->cmp.len = (u32)(last->c - p.c) + 1;
    a->cmp.write = array == ARRAY_WRITE;
    return true;
}

/* The tag of the last byte against the slot of the first. */
static bool compare_tag(struct audit *a, const struct audit_value *tag) {
    struct audit_value p;
    u32 array;
    u64 slot;
    if (tag->kind != AUDIT_TAG && !(tag->kind == AUDIT_SUM && !tag->sym[0])) {
        return false;
    }
    if (!audit_address(a, &p) || (p.kind != AUDIT_SLOT && p.kind != AUDIT_LOOK) ||
        !audit_look_place(&p, &array, &slot) || array == ARRAY_ADDEND) {
        return false;
    }
    if (p.kind == AUDIT_LOOK) { /* a constant address, the whole page */
        p = audit_constant(tag->c & ~PAGE_MASK);
        if (tag->sym[0] || (tag->c & PAGE_MASK) != PAGE_MASK || slot != (u32)p.c >> PAGE_SHIFT) {
            return false;
        }
    }
    return addend_of(a, p, tag, array);
}

static void compare(struct audit *a) {
    const struct insn *i = &a->insn;
    const struct insn_operand *x = &i->op[0], *y = &i->op[1];
    a->compared = CMP_NONE;
    if (i->id != INSN_CMP || x->kind != OPERAND_REG || x->reg_class != REG_GPR) {
        return;
    }
    struct audit_value *v = &a->v[x->reg & 15];
    if (y->kind == OPERAND_IMM && v->kind != AUDIT_END && (v->kind != AUDIT_SUM || !v->sym[0])) {
        *v = audit_fresh(a); /* a count: it needs a name */
    }
    if (y->kind == OPERAND_MEM && i->mem.seg != SEG_GS && x->size == 8) {
        a->compared = compare_tag(a, v) ? CMP_TAG : CMP_NONE;
    } else if (y->kind == OPERAND_IMM && x->size == 8 && v->kind == AUDIT_SUM) {
        a->compared = CMP_COUNT;
    } else if (y->kind == OPERAND_IMM && v->kind == AUDIT_END) {
        a->compared = CMP_RUN;
    }
    if (a->compared == CMP_COUNT || a->compared == CMP_RUN) {
        a->cmp = *v;
        a->cmp_imm = i->imm;
    }
}

static void fact_add(struct audit *a, const struct fact *f) {
    if (a->facts < FACTS) {
        a->fact[a->facts++] = *f;
    }
}

/* Where the jump at `at` leads, by way of another behind the trace; 0: it is none. */
static u32 jump_end(const struct audit *a, u32 at) {
    const u8 *code = a->t->code.rw;
    s32 rel;
    if (at + 2 <= a->to && code[at] == 0xeb) {
        at += 2 + (u32)(s8)code[at + 1];
    }
    if (at < a->from || at + 5 > a->to || code[at] != 0xe9) {
        return 0;
    }
    memcpy(&rel, code + at + 1, sizeof(rel));
    return at + 5 + (u32)rel;
}

/* A look failed: generated code goes on at the anchor by way of that stub, or, when it is a
 * group's, in another trace (tr_group.c: mov H_TEMP2, number; and a jump, which is looked at
 * later). */
static bool miss_fine(struct audit *a, enum tr_stub stub) {
    const u8 *code = a->t->code.rw;
    u32 at = (u32)(a->at + a->insn.len + a->insn.imm), exit;
    static const u8 rcx_back[] = {0x4c, 0x89, 0xf9}; /* mov rcx, H_ADDR */
    bool back = at >= a->from && at + 3 <= a->to && stub == STUB_MISS_FLAGS &&
                !memcmp(code + at, rcx_back, sizeof(rcx_back));
    at += back ? (u32)sizeof(rcx_back) : 0;
    if (at >= a->from && at + 11 <= a->to && code[at] == 0x41 &&
        code[at + 1] == (0xb8 | (H_TEMP2 & 7)) && code[at + 6] == 0xe9 &&
        back == (stub == STUB_MISS_FLAGS)) {
        return true;
    }
    if (at < a->from || at + 6 > a->to || code[at] != 0x41 ||
        code[at + 1] != (0xb8 | (H_TEMP & 7)) || jump_end(a, at + 6) != a->t->stub[stub]) {
        return FAIL(a, "a look that does not lead to a miss");
    }
    memcpy(&exit, code + at + 2, sizeof(exit));
    bool mine = exit >= a->b->exit_from && exit < a->b->exit_to;
    const struct tr_exit *e = &a->t->exits[mine ? exit : 0];
    return mine && e->kind == TR_MISS && a->anchor && e->patch == a->anchor
               ? true
               : FAIL(a, "a look that goes on where registers differ");
}

/* The conditional jump was not taken. */
static void not_taken(struct audit *a) {
    const struct audit_value *v = &a->cmp;
    if (a->insn.cond == 5 && a->compared == CMP_TAG) {
        a->passed = a->cmp;
        a->has_passed = true;
    }
    if (a->insn.cond == 7 && a->compared == CMP_COUNT && !v->sym[1] && v->coef[0] == 1) {
        fact_add(a, &(struct fact){.sym = v->sym[0], .plus = v->c, .most = a->cmp_imm});
    }
    if (a->insn.cond == 7 && a->compared == CMP_RUN && a->cmp_imm <= PAGE_SIZE) {
        struct fact f = {
            .sym = v->len, .plus = v->plus, .run = true, .size = (u32)v->at, .from = a->cmp};
        fact_add(a, &f);
    }
}

/* --- control flow ------------------------------------------------------------------------------
 */

static bool bit_get(const u64 *map, u32 n) {
    return map[n / 64] >> (n % 64) & 1;
}
static void bit_set(u64 *map, u32 n) {
    map[n / 64] |= BIT(n % 64);
}

static u32 target_of(const struct audit *a) {
    return (u32)(a->at + a->insn.len + a->insn.imm);
}

static bool inside(const struct audit *a, u32 at) {
    return at >= a->from && at < a->to;
}

static bool is_stub(const struct audit *a, u32 at) {
    for (u32 i = 0; i < STUB_COUNT; i++) {
        if (a->t->stub[i] && a->t->stub[i] == at) {
            return true;
        }
    }
    return false;
}

static bool is_entry(const struct audit *a, u32 at) {
    for (u32 n = 0; n < a->t->block_count; n++) {
        const struct tr_block *b = &a->t->blocks[n];
        for (u32 i = 0; i < ENTRY_COUNT; i++) {
            if (!b->dead && b->entry[i] == at && b->key == a->b->key) {
                return true;
            }
        }
    }
    return false;
}

static void remember(struct audit *a, u32 to) {
    if (to > a->at && to < a->to && a->jumps < LATE_MAX) {
        struct late *l = &a->late[a->jumps++];
        l->to = to;
        memcpy(l->v, a->v, sizeof(l->v));
    }
}

/* Behind a jump to a piece that loads the vector registers and comes back just here (a->load):
 * guest registers and slots are what they were.
 *
 *   lea H_TEMP, [back]; jmp STUB_VLOAD */
static void note_load(struct audit *a, u32 to) {
    u8 shape[12] = {0x4c, 0x8d, 0x35, 0, 0, 0, 0, 0xe9};
    u32 back = a->at + a->insn.len, lea = back - (to + 7);
    u32 stub = a->t->stub[STUB_VLOAD] - (to + (u32)sizeof(shape));
    _Static_assert(H_TEMP == 14, "shape");
    memcpy(shape + 3, &lea, 4);
    memcpy(shape + 8, &stub, 4);
    if (inside(a, to) && to + sizeof(shape) <= a->to && !bit_get(a->many, to - a->from) &&
        !memcmp(a->t->code.rw + to, shape, sizeof(shape))) {
        a->load = back;
    }
}

static bool jump(struct audit *a) {
    const struct insn *i = &a->insn;
    const struct insn_operand *op = &i->op[0];
    if (op->kind == OPERAND_REL && i->opsize != 2) {
        u32 to = target_of(a);
        bool own = inside(a, to) && bit_get(a->start, to - a->from);
        remember(a, to);
        if (a->insn.id == INSN_JCC) {
            note_load(a, to);
        }
        if (a->compared == CMP_TAG && a->insn.cond == 5 && !miss_fine(a, STUB_MISS)) {
            return false;
        }
        return own || is_stub(a, to) || is_entry(a, to) ? true : FAIL(a, "a jump to nowhere");
    }
    bool table = i->id == INSN_JMP && op->kind == OPERAND_MEM && op->size == 8 &&
                 i->mem.seg == SEG_GS && i->mem.index != MEM_NONE;
    u64 into = (u64)i->mem.disp - C_OFF(tr_jump);
    if (!table || into % sizeof(struct tr_jump) != offsetof(struct tr_jump, host) ||
        i->mem.scale != 8) {
        return FAIL(a, "an indirect jump");
    }
    return gs_allowed(a, 8, false);
}

/* --- instructions ------------------------------------------------------------------------------
 */

static bool forbidden(const struct insn *i) {
    if (i->flags & (INSN_PRIVILEGED | INSN_IO)) {
        return true;
    }
    switch (i->id) {
    case INSN_JMP:
    case INSN_JCC:
    case INSN_JCXZ:
        return false;
    case INSN_PUSH:
    case INSN_POP:
    case INSN_PUSHF:
    case INSN_POPF:
    case INSN_ENTER:
    case INSN_LEAVE:
    case INSN_STD:
    case INSN_CLD:
    case INSN_XLAT:
    case INSN_CPUID:
    case INSN_MASKMOVDQU:
    case INSN_VMASKMOVDQU:
    case INSN_MASKMOVQ:
    case INSN_RDFSBASE:
    case INSN_RDGSBASE:
    case INSN_WRFSBASE:
    case INSN_WRGSBASE:
    case INSN_WRPKRU:
    case INSN_LDMXCSR:
    case INSN_VLDMXCSR:
    case INSN_FXRSTOR:
    case INSN_XRSTOR:
    case INSN_UD2:
        return true;
    default:
        break;
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        u8 class = i->op[n].reg_class;
        if (i->op[n].kind == OPERAND_FAR ||
            (i->op[n].kind == OPERAND_REG &&
             (class == REG_SEG || class == REG_CR || class == REG_DR))) {
            return true;
        }
    }
    return i->flags & (INSN_BRANCH | INSN_ENDS_BLOCK);
}

static void forget(struct audit *a) {
    for (u32 r = 0; r < VALUES; r++) {
        a->v[r] = audit_fresh(a);
    }
    a->facts = 0;
    a->has_passed = false;
    a->compared = CMP_NONE;
}

/* What the stubs leave in the registers that are no guest's: c->look is in H_TEMP2 behind those
 * that call C code, and that for vector registers leaves it there. */
static void forget_own(struct audit *a) {
    if (a->v[H_TEMP2].kind != AUDIT_LOOK) {
        a->v[H_TEMP2] = audit_fresh(a);
    }
    a->v[H_TEMP] = audit_fresh(a);
    a->v[H_ADDR] = audit_fresh(a);
    a->has_passed = false;
    a->compared = CMP_NONE;
}

/* falls: control comes from the instruction before as well. */
static void label_passed(struct audit *a, bool falls) {
    u32 n = a->at - a->from;
    bool loaded = bit_get(a->loaded, n), back = bit_get(a->back, n);
    bool many = bit_get(a->many, n) || (loaded && a->load != a->at);
    a->temp_read = false;
    if ((back || loaded) && !many) {
        forget_own(a);
        a->anchor = back ? a->at : 0;
        return;
    }
    forget(a);
    a->anchor = back ? a->at : 0;
    for (u32 i = 0; i < a->jumps && !falls && !many; i++) {
        if (a->late[i].to == a->at) {
            memcpy(a->v, a->late[i].v, sizeof(a->v));
        }
    }
}

static bool decode(struct audit *a) {
    size_t left = a->to - a->at;
    return insn_decode(&a->insn, a->t->code.rw + a->at, MIN(left, (size_t)INSN_MAX_LEN), 64) ==
           DECODE_OK;
}

/* --- looks that keep flags ---------------------------------------------------------------------
 *
 *   mov rcx, [slot + tag]; not rcx; lea rcx, [rcx + last byte + 0x1000], in one or two steps
 *   shrx rcx, rcx, H_TEMP2; jrcxz hit; jmp piece; hit: mov rcx, H_ADDR
 */

/* The next instruction, and nobody comes in there. */
static bool next(struct audit *a) {
    a->at += a->insn.len;
    return a->at < a->to && decode(a) && !bit_get(a->label, a->at - a->from) &&
           !bit_get(a->after, a->at - a->from);
}

static bool is_rcx(const struct insn_operand *op) {
    return audit_is_gpr(op, 8) && op->reg == GPR_RCX;
}

static bool rcx_by(const struct audit *a, u32 reg) {
    const struct insn_operand *by = &a->insn.op[a->insn.operand_count - 1];
    return is_rcx(&a->insn.op[0]) && audit_is_gpr(by, 8) && by->reg == reg;
}

/* RCX, whose value counts as 0 here, and more; without a segment. */
static bool lea_more(struct audit *a) {
    const struct insn_mem *m = &a->insn.mem;
    bool base = m->base == GPR_RCX && m->index != GPR_RCX;
    bool index = m->index == GPR_RCX && m->base != GPR_RCX && m->scale == 1;
    struct audit_value sum;
    if (!is_rcx(&a->insn.op[0]) || a->insn.addrsize != 8 || !(base || index) ||
        !audit_address(a, &sum) || sum.kind != AUDIT_SUM) {
        return false;
    }
    a->v[GPR_RCX] = sum;
    return true;
}

/* The rest of the look, of the slot p; RCX will be what it was. */
static bool keep_rest(struct audit *a, const struct audit_value *p, u32 array) {
    struct audit_value last;
    if (!next(a) || a->insn.id != INSN_NOT || !is_rcx(&a->insn.op[0])) {
        return false;
    }
    a->v[GPR_RCX] = audit_constant(0);
    for (u32 n = 0; n < 3; n++) {
        if (!next(a)) {
            return false;
        }
        if (a->insn.id != INSN_LEA) {
            break;
        }
        if (!lea_more(a)) {
            return false;
        }
    }
    last = a->v[GPR_RCX];
    last.c -= PAGE_SIZE;
    if (a->insn.id != INSN_SHRX || !rcx_by(a, H_TEMP2) || !is_rcx(&a->insn.op[1]) ||
        a->v[H_TEMP2].kind != AUDIT_LOOK || !addend_of(a, *p, &last, array)) {
        return false;
    }
    if (!next(a) || a->insn.id != INSN_JCXZ || a->insn.addrsize != 8) {
        return false;
    }
    u32 hit = target_of(a);
    if (!next(a) || a->insn.id != INSN_JMP || !miss_fine(a, STUB_MISS_FLAGS)) {
        return false;
    }
    a->at += a->insn.len;
    return a->at == hit && !bit_get(a->many, hit - a->from) && decode(a) &&
           a->insn.id == INSN_MOV && rcx_by(a, H_ADDR);
}

/* Is it the tag for such a look that is loaded, with RCX in H_ADDR? */
static bool keep_begins(struct audit *a, struct audit_value *p, u32 *array) {
    const struct insn *i = &a->insn;
    u64 slot;
    return i->id == INSN_MOV && is_rcx(&i->op[0]) && i->op[1].kind == OPERAND_MEM &&
           i->mem.seg != SEG_GS && audit_address(a, p) && p->kind == AUDIT_SLOT &&
           audit_look_place(p, array, &slot) && *array != ARRAY_ADDEND &&
           !memcmp(&a->v[H_ADDR], &a->v[GPR_RCX], sizeof(a->v[0]));
}

static bool keep(struct audit *a, const struct audit_value *p, u32 array) {
    struct audit_value rcx = a->v[GPR_RCX];
    if (!keep_rest(a, p, array)) {
        return a->why ? false : FAIL(a, "a look that keeps flags, of another kind");
    }
    a->v[GPR_RCX] = rcx;
    a->passed = a->cmp;
    a->has_passed = true;
    a->compared = CMP_NONE;
    return true;
}

/* --- one after the other -----------------------------------------------------------------------
 */

static bool one(struct audit *a) {
    const struct insn *i = &a->insn;
    struct audit_value slot;
    u32 array;
    if (keep_begins(a, &slot, &array)) {
        return keep(a, &slot, array);
    }
    if (forbidden(i)) {
        return FAIL(a, "an instruction that generated code may not contain");
    }
    if (i->flags & INSN_BRANCH) {
        bool fine = jump(a);
        if (i->id == INSN_JCC) {
            not_taken(a);
        } else if (i->id == INSN_JMP) {
            forget(a);
        }
        a->compared = CMP_NONE;
        return fine;
    }
    if (i->flags & INSN_STRING) {
        return string(a);
    }
    name_registers(a);
    if (!memory(a)) {
        return false;
    }
    compare(a);
    audit_values(a);
    return true;
}

/* jump: one of a kind that leaves a note of what is known. */
static void label_set(struct audit *a, u32 at, bool jump) {
    if (inside(a, at)) {
        if (!jump || bit_get(a->label, at - a->from)) {
            bit_set(a->many, at - a->from);
        }
        bit_set(a->label, at - a->from);
    }
}

static void label_of_look(struct audit *a, u32 at) {
    if (inside(a, at)) {
        if (bit_get(a->label, at - a->from) && !bit_get(a->back, at - a->from) &&
            !bit_get(a->loaded, at - a->from)) {
            bit_set(a->many, at - a->from);
        }
        bit_set(a->back, at - a->from);
        bit_set(a->label, at - a->from);
    }
}

/* Where instructions begin and where control may come in. */
static bool find_labels(struct audit *a) {
    for (a->at = a->from; a->at < a->to; a->at += a->insn.len) {
        if (!decode(a)) {
            return FAIL(a, "bytes that are no instruction");
        }
        bit_set(a->start, a->at - a->from);
        if (a->insn.operand_count && a->insn.op[0].kind == OPERAND_REL) {
            label_set(a, target_of(a), target_of(a) > a->at);
        }
        if (a->insn.id == INSN_LEA && a->insn.mem.base == MEM_RIP) { /* where stubs go on */
            u32 at = (u32)(a->at + a->insn.len + (u64)a->insn.mem.disp);
            label_set(a, at, true);
            if (inside(a, at)) {
                bit_set(a->loaded, at - a->from);
            }
        }
    }
    for (u32 i = 0; i < ENTRY_COUNT; i++) {
        label_set(a, a->b->entry[i], false);
    }
    for (u32 n = a->b->exit_from; n < a->b->exit_to; n++) {
        u8 kind = a->t->exits[n].kind;
        if (kind == TR_STEP) {
            label_set(a, a->t->exits[n].patch, false);
        }
    }
    for (u32 n = a->b->exit_from; n < a->b->exit_to; n++) {
        const struct tr_exit *e = &a->t->exits[n];
        if (e->kind == TR_MISS) {
            label_of_look(a, e->patch);
            if (inside(a, e->after)) {
                bit_set(a->after, e->after - a->from);
            }
        }
    }
    return true;
}

static bool labels_are_starts(struct audit *a) {
    for (u32 n = 0; n < (a->to - a->from + 63) / 64; n++) {
        if ((a->label[n] | a->after[n]) & ~a->start[n]) {
            return FAIL(a, "a label inside an instruction");
        }
    }
    return true;
}

static bool audit_block(struct audit *a) {
    if (a->to - a->from > CODE_MAX || a->to > a->t->used || a->from >= a->to) {
        return FAIL(a, "a trace of an impossible size");
    }
    a->at = a->from;
    if (!find_labels(a) || !labels_are_starts(a)) {
        return false;
    }
    bool falls = false;
    forget(a);
    for (a->at = a->from; a->at < a->to; a->at += a->insn.len) {
        if (bit_get(a->label, a->at - a->from)) {
            label_passed(a, falls);
        } else if (bit_get(a->after, a->at - a->from)) {
            forget_own(a);
        }
        if (!decode(a) || !one(a)) {
            return false;
        }
        if (falls && a->insn.id == INSN_LEA && a->insn.mem.base == MEM_RIP) {
            return FAIL(a, "a piece for vector registers that is not apart");
        }
        falls = a->insn.id != INSN_JMP;
    }
    return a->insn.id == INSN_JMP ? true : FAIL(a, "the trace's end is open");
}

/* The instructions around the one that was found, to the log. */
static void show(struct audit *a) {
    struct host *host = a->c->vm->host;
    u32 found = a->at;
    char text[128], insn[96];
    for (a->at = a->from; a->at < a->to && decode(a); a->at += a->insn.len) {
        if (a->at + 80 < found || a->at > found) {
            continue;
        }
        insn_format(&a->insn, a->at, insn, sizeof(insn));
        size_t n = fmt_str(text, sizeof(text), "audit: %6u%c %s", a->at - a->from,
                           bit_get(a->label, a->at - a->from) ? ':' : ' ', insn);
        host->ops->log(host, LOG_ERROR, text, MIN(n, sizeof(text) - 1));
    }
}

void tr_audit_free(struct soft_tr *t, struct host *host) {
    if (t->audit) {
        host->ops->pages_free(host, t->audit, sizeof(struct audit));
    }
}

/* Kept from block to block, since most of it is not touched; cleared as far as the block needs. */
static struct audit *audit_begin(struct soft_vcpu *c, u32 block) {
    struct host *host = c->vm->host;
    struct audit *a = c->tr->audit ? c->tr->audit : host->ops->pages(host, sizeof(*a));
    if (!a) {
        return NULL;
    }
    c->tr->audit = a;
    memset(a, 0, offsetof(struct audit, late));
    a->why = NULL;
    a->load = 0;
    a->c = c;
    a->t = c->tr;
    a->b = &c->tr->blocks[block];
    a->from = a->b->from;
    a->to = a->b->to;
    size_t bytes = MIN((size_t)(a->to - a->from) / 64 + 1, ARRAY_LEN(a->start)) * sizeof(u64);
    memset(a->many, 0, bytes);
    memset(a->back, 0, bytes);
    memset(a->after, 0, bytes);
    memset(a->loaded, 0, bytes);
    memset(a->start, 0, bytes);
    memset(a->label, 0, bytes);
    return a;
}

bool tr_audit(struct soft_vcpu *c, u32 block, char *text, size_t size) {
    struct audit *a = audit_begin(c, block);
    if (!a) {
        fmt_str(text, size, "audit: no memory");
        return false;
    }
    bool fine = audit_block(a);
    if (!fine) {
        char insn[80] = "?";
        insn_format(&a->insn, a->at, insn, sizeof(insn));
        fmt_str(text, size, "audit: trace of RIP 0x%llx, byte %u, %s: %s",
                (unsigned long long)a->b->rip, a->at - a->from, insn, a->why ? a->why : "?");
        show(a);
    }
    return fine;
}

bool tr_audit_all(struct soft_vcpu *c, char *text, size_t size) {
    for (u32 n = 0; c->tr && n < c->tr->block_count; n++) {
        if (!c->tr->blocks[n].dead && !tr_audit(c, n, text, size)) {
            return false;
        }
    }
    return true;
}
