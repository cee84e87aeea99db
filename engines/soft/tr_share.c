/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that share a look: a value is loaded, worked on and stored again, or compared twice.
 * Where the same memory operand is named once more, its registers have not changed and all between
 * is copied, the place that was found is still in H_TEMP and H_ADDR.
 *
 *   addpd xmm0, [rdx+rax]   look for a write (the second will write)
 *   movaps [rdx+rax], xmm0  none
 *
 * When a later one writes and the first does not, the first looks for a translation that may be
 * written. A miss then must raise nothing, since a page that may only be read is no reason for a
 * fault yet: when the translation cache does not have it the interpreter does all of them
 * (tr_miss.c).
 */
#include "engines/soft/tr.h"

enum { SHARE_MAX = 12 };

static bool writes(const struct insn *i) {
    return insn_mem_operand(i)->flags & (OPERAND_WRITE | OPERAND_COND);
}

static u16 bit_of(u32 reg) {
    return (u16)(reg < GPR_COUNT ? BIT(reg) : 0);
}

/* The registers of an operand that can be shared; 0: it cannot. */
static u16 address_regs(const struct tr_insn *ti) {
    const struct insn_mem *m = &ti->insn.mem;
    bool odd = m->base >= GPR_COUNT || tr_in_memory(m->base) ||
               (m->index != MEM_NONE && tr_in_memory(m->index));
    if (ti->class != CLASS_COPY || !insn_has_mem(&ti->insn) || odd || m->seg == SEG_FS ||
        m->seg == SEG_GS || tr_names_memory_register(&ti->insn)) {
        return 0;
    }
    return (u16)(bit_of(m->base) | bit_of(m->index));
}

static bool same_address(const struct insn *a, const struct insn *b) {
    const struct insn_mem *x = &a->mem, *y = &b->mem;
    return x->base == y->base && x->index == y->index && x->scale == y->scale &&
           x->disp == y->disp && a->addrsize == b->addrsize && x->seg != SEG_FS &&
           y->seg != SEG_FS && y->seg != SEG_GS &&
           insn_mem_operand(b)->size <= insn_mem_operand(a)->size;
}

/* Does i leave the place alone, whatever it does? */
static bool between(const struct soft_tr *t, const struct tr_insn *i, bool vectors) {
    const struct insn *insn = &i->insn;
    if (i->class == CLASS_NOP) {
        return true;
    }
    if (tr_names_memory_register(insn)) {
        return false;
    }
    if (i->class == CLASS_LEA) {
        const struct insn_mem *m = &insn->mem;
        return !(m->base < GPR_COUNT && tr_in_memory(m->base)) &&
               !(m->index < GPR_COUNT && tr_in_memory(m->index));
    }
    return i->class == CLASS_COPY && (!i->vector || vectors || t->vec_done);
}

u32 tr_share(const struct soft_tr *t, u32 at, bool *write) {
    const struct tr_insn *first = &t->trace[at];
    u16 regs = address_regs(first), changed = 0;
    u32 end = MIN(at + SHARE_MAX, t->trace_len), n = 1;
    *write = false;
    for (u32 k = at + 1; k < end && regs && !first->group; k++) {
        const struct tr_insn *i = &t->trace[k];
        changed = (u16)(changed | tr_regs_written(&i[-1].insn));
        if ((changed & regs) || !between(t, i, first->vector)) {
            break;
        }
        if (i->class == CLASS_COPY && insn_has_mem(&i->insn)) {
            if (i->group || !address_regs(i) || !same_address(&first->insn, &i->insn)) {
                break;
            }
            *write |= writes(&i->insn);
            n = k - at + 1;
        }
    }
    return n;
}
