/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions on descriptor tables and descriptors: LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR,
 * LAR, LSL, VERR, VERW, ARPL.
 *
 * Intel SDM volume 2, the instructions; volume 3, section 2.8.1 and 6.10 (pointer validation). SGDT
 * and SIDT store all 32 bits of the base for every operand size, as processors do.
 */
#include "engines/soft/sys.h"

static void need_cpl0(struct soft_vcpu *c) {
    if (c->cpl != 0) {
        soft_gp(c, 0);
    }
}

/* Not recognised in real and virtual-8086 mode. */
static void need_protected(struct soft_vcpu *c) {
    if (!in_protected(c)) {
        soft_ud(c);
    }
}

static void check_umip(struct soft_vcpu *c) {
    if (c->cpl != 0 && (c->s.cr4 & CR4_UMIP)) {
        soft_gp(c, 0);
    }
}

/* The r/m16 operand n. */
static u16 read_rm16(struct soft_vcpu *c, const struct uop *u, u32 n) {
    const struct insn_operand *op = &u->insn->op[n];
    return (u16)(op->kind == OPERAND_MEM ? soft_load(c, u, 2) : c->s.gpr[op->reg]);
}

static void set_zf(struct soft_vcpu *c, bool on) {
    c->aflags = on ? c->aflags | FLAG_ZF : c->aflags & ~(u64)FLAG_ZF;
}

/* --- GDTR, IDTR ------------------------------------------------------------------------------- */

static void op_load_table(struct soft_vcpu *c, const struct uop *u) {
    struct desc_table *t = u->src ? &c->s.idtr : &c->s.gdtr;
    u8 raw[10] = {0};
    u32 size = c->mode == 64 ? 10 : 6;
    need_cpl0(c);
    soft_lin_read(c, soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_READ), raw, size, c->mmu);
    u64 base;
    u16 limit;
    memcpy(&limit, raw, 2);
    memcpy(&base, raw + 2, 8);
    if (c->mode == 64 && !is_canonical(base)) {
        soft_gp(c, 0);
    }
    t->base = c->mode != 64 && u->opsize == 2 ? base & 0xffffff : base;
    t->limit = limit;
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_store_table(struct soft_vcpu *c, const struct uop *u) {
    const struct desc_table *t = u->src ? &c->s.idtr : &c->s.gdtr;
    u8 raw[10];
    u32 size = c->mode == 64 ? 10 : 6;
    check_umip(c);
    memcpy(raw, &t->limit, 2);
    memcpy(raw + 2, &t->base, 8);
    soft_lin_write(c, soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_WRITE), raw, size, c->mmu);
    NEXT(c, u);
}

/* --- LDTR, TR --------------------------------------------------------------------------------- */

/* Reads the system descriptor of LLDT and LTR and its upper half in long mode. */
static void fetch_system(struct soft_vcpu *c, u16 sel, struct desc *d) {
    if (sel & 4) {
        soft_gp(c, sel_error(sel));
    }
    desc_fetch(c, sel, d, EXC_GP);
    if (c->long_mode) {
        desc_read_high(c, d, EXC_GP);
    }
}

static void load_system(struct soft_vcpu *c, struct segment *seg, u16 sel, const struct desc *d) {
    u64 base = desc_base(d) | (c->long_mode ? d->high << 32 : 0);
    if (c->long_mode && (!is_canonical(base) || (d->high >> 40 & 0x1f))) {
        soft_gp(c, sel_error(sel));
    }
    seg_from_desc(seg, sel, d);
    seg->base = base;
}

static void op_lldt(struct soft_vcpu *c, const struct uop *u) {
    struct desc d;
    need_protected(c);
    need_cpl0(c);
    u16 sel = read_rm16(c, u, 0);
    if (sel_is_null(sel)) {
        seg_set_null(&c->s.ldtr, sel, 0);
        NEXT(c, u);
    }
    fetch_system(c, sel, &d);
    if (desc_is_segment(&d) || desc_type(&d) != DESC_LDT) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    load_system(c, &c->s.ldtr, sel, &d);
    NEXT(c, u);
}

static void op_ltr(struct soft_vcpu *c, const struct uop *u) {
    struct segment tr;
    struct desc d;
    need_protected(c);
    need_cpl0(c);
    u16 sel = read_rm16(c, u, 0);
    if (sel_is_null(sel)) {
        soft_gp(c, 0);
    }
    fetch_system(c, sel, &d);
    u32 type = desc_type(&d);
    if (desc_is_segment(&d) || (type != DESC_TSS && (type != DESC_TSS16 || c->long_mode))) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    load_system(c, &tr, sel, &d);
    desc_set_bits(c, &d, 2); /* busy */
    tr.attr |= 2;
    c->s.tr = tr;
    NEXT(c, u);
}

static void op_store_sel(struct soft_vcpu *c, const struct uop *u) {
    u16 sel = u->src ? c->s.tr.sel : c->s.ldtr.sel;
    need_protected(c);
    check_umip(c);
    if (u->insn->op[0].kind == OPERAND_MEM) {
        soft_store(c, u, 2, sel);
    } else {
        soft_gpr_set(c, u->insn->op[0].reg, u->insn->opsize, sel);
    }
    NEXT(c, u);
}

/* --- looking at descriptors ------------------------------------------------------------------- */

/* Types that LAR and LSL accept for system descriptors, as bit masks; long mode has fewer. */
#define LAR_LEGACY 0x1a3eu /* TSS16, LDT, busy TSS16, call 16, task gate, TSS, busy TSS, call */
#define LAR_LONG   0x1a04u
#define LSL_LEGACY 0x0a0eu
#define LSL_LONG   0x0a04u

/* Is the descriptor visible at CPL and RPL? */
static bool visible(struct soft_vcpu *c, u16 sel, struct desc *d, u32 system_types) {
    if (sel_is_null(sel) || !desc_read(c, sel, d)) {
        return false;
    }
    if (!desc_is_segment(d) && !(system_types >> desc_type(d) & 1)) {
        return false;
    }
    return desc_is_conforming(d) || (desc_dpl(d) >= c->cpl && desc_dpl(d) >= (sel & 3u));
}

static void op_lar(struct soft_vcpu *c, const struct uop *u) {
    struct desc d;
    need_protected(c);
    u16 sel = read_rm16(c, u, 1);
    bool ok = visible(c, sel, &d, c->long_mode ? LAR_LONG : LAR_LEGACY);
    if (ok) {
        soft_gpr_set(c, u->insn->op[0].reg, u->insn->opsize, d.raw >> 32 & 0xffff00);
    }
    set_zf(c, ok);
    NEXT(c, u);
}

static void op_lsl(struct soft_vcpu *c, const struct uop *u) {
    struct desc d;
    need_protected(c);
    u16 sel = read_rm16(c, u, 1);
    bool ok = visible(c, sel, &d, c->long_mode ? LSL_LONG : LSL_LEGACY);
    if (ok) {
        soft_gpr_set(c, u->insn->op[0].reg, u->insn->opsize, desc_limit(&d));
    }
    set_zf(c, ok);
    NEXT(c, u);
}

/* VERR, VERW (u->src). Present does not matter to them. */
static void op_verify(struct soft_vcpu *c, const struct uop *u) {
    struct desc d;
    need_protected(c);
    bool ok = visible(c, read_rm16(c, u, 0), &d, 0);
    if (ok && u->src) {
        ok = desc_is_writable_data(&d);
    } else if (ok) {
        ok = !desc_is_code(&d) || (desc_type(&d) & TYPE_READABLE);
    }
    set_zf(c, ok);
    NEXT(c, u);
}

static void op_arpl(struct soft_vcpu *c, const struct uop *u) {
    const struct insn_operand *dst = &u->insn->op[0];
    need_protected(c);
    u16 rpl = c->s.gpr[u->insn->op[1].reg] & 3;
    u16 sel = read_rm16(c, u, 0);
    bool raise = (sel & 3) < rpl;
    if (raise) {
        sel = (u16)((sel & ~3u) | rpl);
    }
    if (raise && dst->kind == OPERAND_MEM) {
        soft_store(c, u, 2, sel);
    } else if (raise) {
        soft_gpr_set(c, dst->reg, 2, sel);
    }
    set_zf(c, raise);
    NEXT(c, u);
}

/* --- binding ---------------------------------------------------------------------------------- */

static const struct {
    u16 id;
    u8 which; /* goes to u->src: which of two registers or checks */
    bool last;
    uop_fn fn;
} table[] = {
    {INSN_LGDT, 0, true, op_load_table},   {INSN_LIDT, 1, true, op_load_table},
    {INSN_SGDT, 0, false, op_store_table}, {INSN_SIDT, 1, false, op_store_table},
    {INSN_LLDT, 0, false, op_lldt},        {INSN_LTR, 0, false, op_ltr},
    {INSN_SLDT, 0, false, op_store_sel},   {INSN_STR, 1, false, op_store_sel},
    {INSN_LAR, 0, false, op_lar},          {INSN_LSL, 0, false, op_lsl},
    {INSN_VERR, 0, false, op_verify},      {INSN_VERW, 1, false, op_verify},
    {INSN_ARPL, 0, false, op_arpl},
};

bool bind_sys_desc(struct bind *b) {
    for (u32 i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].id == b->insn->id) {
            b->uop->fn = table[i].fn;
            b->uop->src = table[i].which;
            b->uop->opsize = b->insn->opsize;
            b->last = table[i].last;
            return true;
        }
    }
    return false;
}
