/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks that are not yet, or no longer, SS:RSP: the ones that events, call gates and returns
 * switch to. Nothing of the processor changes until the caller commits, so a fault in the middle
 * leaves the state as it was.
 *
 * Intel SDM volume 3, sections 6.8.5 and 7.12 (stack switching), 8.7 (64-bit TSS).
 */
#include "engines/soft/sys.h"

static u64 stack_mask(const struct soft_vcpu *c, const struct segment *ss) {
    if (c->mode == 64) {
        return UINT64_MAX;
    }
    return ss->attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu;
}

void stack_current(struct soft_vcpu *c, struct stack *st) {
    st->seg = c->s.seg[SEG_SS];
    st->mask = stack_mask(c, &st->seg);
    st->sp = c->s.gpr[GPR_RSP];
    st->error = 0;
    st->mmu = c->mmu;
}

void stack_new(struct soft_vcpu *c, struct stack *st, const struct desc *d, u16 sel, u64 sp,
               u32 cpl) {
    if (d) {
        seg_from_desc(&st->seg, sel, d);
        st->mask = st->seg.attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu;
    } else {
        seg_set_null(&st->seg, sel, cpl);
        st->mask = UINT64_MAX;
    }
    st->sp = sp;
    st->error = d ? sel_error(sel) : 0;
    st->mmu = cpl == 3 ? MMU_USER : c->mmu_implicit;
}

/* Is [offset, offset+size) inside the segment? */
static bool stack_inside(const struct stack *st, u64 offset, u32 size) {
    u64 last = offset + size - 1;
    if (st->seg.attr & SEG_ATTR_UNUSABLE) {
        return false;
    }
    if (!(st->seg.attr & TYPE_CODE) && (st->seg.attr & TYPE_DOWN)) {
        return offset > st->seg.limit && last <= st->mask;
    }
    return last <= st->seg.limit || st->seg.limit == UINT32_MAX; /* 4 GiB: it wraps */
}

static u64 stack_linear(struct soft_vcpu *c, const struct stack *st, u64 offset, u32 size) {
    if (st->mask == UINT64_MAX) {
        if (!is_canonical(offset) || !is_canonical(offset + size - 1)) {
            if (c->align_check && is_canonical(offset) && (offset & (size - 1))) {
                soft_fault(c, EXC_AC, true, 0);
            }
            soft_fault(c, EXC_SS, true, st->error);
        }
        return offset;
    }
    if (!stack_inside(st, offset, size)) {
        soft_fault(c, EXC_SS, true, st->error);
    }
    return (u32)(st->seg.base + offset);
}

void stack_push(struct soft_vcpu *c, struct stack *st, u32 size, u64 value) {
    u64 sp = (st->sp - size) & st->mask;
    soft_lin_store(c, stack_linear(c, st, sp, size), size, value, st->mmu);
    st->sp = (st->sp & ~st->mask) | sp;
}

u64 stack_pop(struct soft_vcpu *c, struct stack *st, u32 size) {
    u64 value = soft_lin_load(c, stack_linear(c, st, st->sp & st->mask, size), size, st->mmu);
    stack_skip(st, size);
    return value;
}

void stack_skip(struct stack *st, u64 bytes) {
    st->sp = (st->sp & ~st->mask) | ((st->sp + bytes) & st->mask);
}

void stack_commit_sp(struct soft_vcpu *c, const struct stack *st) {
    c->s.gpr[GPR_RSP] = st->mask == UINT64_MAX ? st->sp : (u32)st->sp;
}

void stack_from_tss(struct soft_vcpu *c, struct stack *st, u32 cpl, struct desc *d) {
    bool wide = (c->s.tr.attr & SEG_ATTR_TYPE) >= DESC_TSS;
    u32 offset = wide ? cpl * 8 + 4 : cpl * 4 + 2;
    if (offset + (wide ? 5 : 3) > c->s.tr.limit) {
        soft_fault(c, EXC_TS, true, sel_error(c->s.tr.sel));
    }
    u64 sp = sys_load(c, c->s.tr.base, offset, wide ? 4 : 2);
    u16 sel = (u16)sys_load(c, c->s.tr.base, offset + (wide ? 4 : 2), 2);
    if (sel_is_null(sel)) {
        soft_fault(c, EXC_TS, true, 0);
    }
    seg_check_stack(c, sel, cpl, d, EXC_TS);
    stack_new(c, st, d, sel, sp, cpl);
}

u64 rsp_from_tss(struct soft_vcpu *c, u32 cpl, u32 ist) {
    u32 offset = ist ? ist * 8 + 28 : cpl * 8 + 4;
    if (offset + 7 > c->s.tr.limit) {
        soft_fault(c, EXC_TS, true, sel_error(c->s.tr.sel));
    }
    u64 rsp = sys_load(c, c->s.tr.base, offset, 8);
    if (!is_canonical(rsp)) {
        soft_fault(c, EXC_SS, true, 0);
    }
    return rsp;
}
