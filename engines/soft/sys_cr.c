/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control and debug registers: MOV CR, MOV DR, CLTS, LMSW, SMSW, with every condition that raises
 * #GP, the way in and out of long mode, and what each change means for cached translations.
 *
 * Intel SDM volume 3, sections 2.5, 4.1 (paging modes), 10.8.5 (long mode), 18.2 (debug registers);
 * volume 2, "MOV - Move to/from Control Registers".
 */
#include "core/cpu/cpuid.h"
#include "core/if/callout.h"
#include "engines/soft/sys.h"

#define CR0_WRITABLE                                                                               \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR0_FLUSH (CR0_PG | CR0_WP | CR0_PE)
#define CR4_FLUSH                                                                                  \
    (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_LA57)

#define DR6_ONES     0xffff0ff0ull
#define DR6_WRITABLE 0xe00full
#define DR7_ONES     0x400ull
#define DR7_WRITABLE 0xffff23ffull
#define DR6_BD       BIT(13)
#define DR7_GD       BIT(13)

static void need_cpl0(struct soft_vcpu *c) {
    if (c->cpl != 0) {
        soft_gp(c, 0);
    }
}

static u8 phys_bits(const struct soft_vcpu *c) {
    return c->ev->vm->cpuid->phys_bits;
}

/* --- CR0 -------------------------------------------------------------------------------------- */

bool soft_pdpte_valid(struct soft_vcpu *c, u64 cr3) {
    u64 reserved = 0x1e6 | ~(BIT(phys_bits(c)) - 1);
    const u8 *p = ram_ptr(c->ev->vm->ram, cr3 & 0xffffffe0, 32);
    for (u32 i = 0; p && i < 4; i++) {
        u64 entry;
        memcpy(&entry, p + i * 8, sizeof(entry));
        if ((entry & 1) && (entry & reserved)) {
            return false;
        }
    }
    return p;
}

/* Paging goes on: into long mode when EFER.LME asks for it, else PAE may need its PDPTEs. */
static void check_paging_on(struct soft_vcpu *c) {
    u32 tss = c->s.tr.attr & SEG_ATTR_TYPE;
    if (c->s.msr.efer & EFER_LME) {
        if (!(c->s.cr4 & CR4_PAE) || (c->s.seg[SEG_CS].attr & SEG_ATTR_L) || tss == DESC_TSS16 ||
            tss == DESC_TSS16_BUSY) {
            soft_gp(c, 0);
        }
    } else if ((c->s.cr4 & CR4_PAE) && !soft_pdpte_valid(c, c->s.cr3)) {
        soft_gp(c, 0);
    }
}

void soft_write_cr0(struct soft_vcpu *c, u64 value) {
    u64 old = c->s.cr0;
    bool pg = value & CR0_PG;
    if (value >> 32 || (pg && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD))) {
        soft_gp(c, 0);
    }
    if (pg && !(old & CR0_PG)) {
        check_paging_on(c);
    }
    if (!pg && (old & CR0_PG) && (c->mode == 64 || (c->s.cr4 & CR4_PCIDE))) {
        soft_gp(c, 0);
    }
    c->s.cr0 = (value & CR0_WRITABLE) | CR0_ET;
    if (pg && (c->s.msr.efer & EFER_LME)) {
        c->s.msr.efer |= EFER_LMA;
    } else {
        c->s.msr.efer &= ~(u64)EFER_LMA;
    }
    soft_mode_update(c);
    if ((old ^ c->s.cr0) & CR0_FLUSH) {
        soft_tlb_flush_all(c);
        c->leave |= SOFT_LEAVE_LOOP;
    }
}

/* --- CR3, CR4 --------------------------------------------------------------------------------- */

void soft_write_cr3(struct soft_vcpu *c, u64 value) {
    bool keep = (c->s.cr4 & CR4_PCIDE) && (value & BIT(63));
    if (keep) {
        value &= ~BIT(63);
    }
    if (c->mode == 64 && (value & ~(BIT(phys_bits(c)) - 1))) {
        soft_gp(c, 0);
    }
    bool pae = (c->s.cr0 & CR0_PG) && (c->s.cr4 & CR4_PAE) && !c->long_mode;
    if (pae && !soft_pdpte_valid(c, value)) {
        soft_gp(c, 0);
    }
    c->s.cr3 = value;
    soft_tlb_cr3(c, value, keep);
}

/* The CR4 bits that come with a CPUID bit. */
static const struct {
    u64 bits;
    const char *name;
} cr4_features[] = {
    {CR4_VME | CR4_PVI, "vme"}, {CR4_TSD, "tsc"},       {CR4_DE, "de"},
    {CR4_PSE, "pse"},           {CR4_PAE, "pae"},       {CR4_MCE, "mce"},
    {CR4_PGE, "pge"},           {CR4_OSFXSR, "fxsr"},   {CR4_OSXMMEXCPT, "sse"},
    {CR4_UMIP, "umip"},         {CR4_LA57, "la57"},     {CR4_FSGSBASE, "fsgsbase"},
    {CR4_PCIDE, "pcid"},        {CR4_OSXSAVE, "xsave"}, {CR4_SMEP, "smep"},
    {CR4_SMAP, "smap"},         {CR4_PKE, "pku"},
};

/* Of the bits that a write sets, those that the policy does not offer. */
static u64 cr4_reserved(const struct soft_vcpu *c, u64 value) {
    u64 valid = CR4_PCE;
    for (u32 i = 0; i < ARRAY_LEN(cr4_features); i++) {
        if ((value & cr4_features[i].bits) &&
            cpuid_policy_has(c->ev->vm->cpuid, cr4_features[i].name)) {
            valid |= cr4_features[i].bits;
        }
    }
    return value & ~valid;
}

void soft_write_cr4(struct soft_vcpu *c, u64 value) {
    u64 old = c->s.cr4, change = old ^ value;
    bool pae_paging = (c->s.cr0 & CR0_PG) && (value & CR4_PAE) && !c->long_mode;
    /* Bits that are set already have been checked. */
    if (cr4_reserved(c, value & ~old)) {
        soft_gp(c, 0);
    }
    if (c->long_mode && (change & (CR4_PAE | CR4_LA57))) {
        soft_gp(c, 0);
    }
    if ((value & ~old & CR4_PCIDE) && (!c->long_mode || (c->s.cr3 & 0xfff))) {
        soft_gp(c, 0);
    }
    if (pae_paging && (change & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
        !soft_pdpte_valid(c, c->s.cr3)) {
        soft_gp(c, 0);
    }
    c->s.cr4 = value;
    soft_mode_update(c);
    if (change & CR4_FLUSH) {
        soft_tlb_flush_all(c);
        c->leave |= SOFT_LEAVE_LOOP;
    }
}

static void write_cr8(struct soft_vcpu *c, u64 value) {
    if (value > 15) {
        soft_gp(c, 0);
    }
    c->s.cr8 = value;
    soft_guest_leave(c);
    callout_cr8_write(c->ev, value);
    soft_guest_enter(c);
    c->leave |= SOFT_LEAVE_LOOP;
}

static u64 read_cr8(struct soft_vcpu *c) {
    soft_guest_leave(c);
    u64 value = callout_cr8_read(c->ev);
    soft_guest_enter(c);
    return value & 15;
}

static u64 read_cr(struct soft_vcpu *c, u32 n) {
    switch (n) {
    case 0:
        return c->s.cr0;
    case 2:
        return c->s.cr2;
    case 3:
        return c->s.cr3;
    case 4:
        return c->s.cr4;
    default:
        return read_cr8(c);
    }
}

static bool cr_exists(const struct soft_vcpu *c, u32 n) {
    return n == 0 || n == 2 || n == 3 || n == 4 || (n == 8 && c->mode == 64);
}

static void op_mov_from_cr(struct soft_vcpu *c, const struct uop *u) {
    if (!cr_exists(c, u->src)) {
        soft_ud(c);
    }
    need_cpl0(c);
    soft_gpr_set(c, u->dst, c->mode == 64 ? 8 : 4, read_cr(c, u->src));
    NEXT(c, u);
}

static void op_mov_to_cr(struct soft_vcpu *c, const struct uop *u) {
    u64 value = soft_gpr_get(c, u->src, c->mode == 64 ? 8 : 4);
    if (!cr_exists(c, u->dst)) {
        soft_ud(c);
    }
    need_cpl0(c);
    u64 next = soft_rip_after(c);
    switch (u->dst) {
    case 0:
        soft_write_cr0(c, value);
        break;
    case 2:
        c->s.cr2 = value;
        break;
    case 3:
        soft_write_cr3(c, value);
        break;
    case 4:
        soft_write_cr4(c, value);
        break;
    default:
        write_cr8(c, value);
        break;
    }
    GOTO_RIP(c, next);
}

static void op_clts(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    need_cpl0(c);
    c->s.cr0 &= ~(u64)CR0_TS;
    soft_mode_update(c);
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_lmsw(struct soft_vcpu *c, const struct uop *u) {
    const u64 mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    need_cpl0(c);
    bool mem = u->insn->op[0].kind == OPERAND_MEM;
    u64 value = mem ? soft_load(c, u, 2) : c->s.gpr[u->insn->op[0].reg];
    value = (value & mask) | (c->s.cr0 & CR0_PE); /* PE can be set, not cleared */
    u64 next = soft_rip_after(c);
    soft_write_cr0(c, (c->s.cr0 & ~mask) | value);
    GOTO_RIP(c, next);
}

static void op_smsw(struct soft_vcpu *c, const struct uop *u) {
    if (c->cpl != 0 && (c->s.cr4 & CR4_UMIP)) {
        soft_gp(c, 0);
    }
    if (u->insn->op[0].kind == OPERAND_MEM) {
        soft_store(c, u, 2, c->s.cr0 & 0xffff);
    } else {
        soft_gpr_set(c, u->insn->op[0].reg, u->insn->opsize, c->s.cr0);
    }
    NEXT(c, u);
}

/* --- debug registers -------------------------------------------------------------------------- */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE is set; GD guards them all. Returns the register. */
static u32 dr_access(struct soft_vcpu *c, u32 n) {
    if (n > 7 || ((n == 4 || n == 5) && (c->s.cr4 & CR4_DE))) {
        soft_ud(c);
    }
    need_cpl0(c);
    if (c->s.dr7 & DR7_GD) {
        c->s.dr6 |= DR6_BD;
        soft_fault(c, EXC_DB, false, 0);
    }
    return n == 4 || n == 5 ? n + 2 : n;
}

static void op_mov_from_dr(struct soft_vcpu *c, const struct uop *u) {
    u32 n = dr_access(c, u->src);
    u64 value = n == 6 ? c->s.dr6 : n == 7 ? c->s.dr7 : c->s.dr[n & 3];
    soft_gpr_set(c, u->dst, c->mode == 64 ? 8 : 4, value);
    NEXT(c, u);
}

static void op_mov_to_dr(struct soft_vcpu *c, const struct uop *u) {
    u64 value = soft_gpr_get(c, u->src, c->mode == 64 ? 8 : 4);
    u32 n = dr_access(c, u->dst);
    if (n >= 6 && value >> 32) {
        soft_gp(c, 0);
    }
    if (n == 6) {
        c->s.dr6 = (value & DR6_WRITABLE) | DR6_ONES;
    } else if (n == 7) {
        c->s.dr7 = (value & DR7_WRITABLE) | DR7_ONES;
    } else {
        c->s.dr[n & 3] = value;
    }
    soft_mode_update(c);
    c->leave |= SOFT_LEAVE_LOOP;
    GOTO_RIP(c, soft_rip_after(c));
}

/* --- binding ---------------------------------------------------------------------------------- */

static bool is_reg(const struct insn *insn, u32 n, u8 reg_class) {
    return insn->op[n].kind == OPERAND_REG && insn->op[n].reg_class == reg_class;
}

static bool bind_mov(struct bind *b) {
    const struct insn *insn = b->insn;
    struct uop *u = b->uop;
    u->dst = insn->op[0].reg;
    u->src = insn->op[1].reg;
    if (is_reg(insn, 0, REG_CR)) {
        u->fn = op_mov_to_cr;
        b->last = true;
    } else if (is_reg(insn, 0, REG_DR)) {
        u->fn = op_mov_to_dr;
        b->last = true;
    } else if (is_reg(insn, 1, REG_CR)) {
        u->fn = op_mov_from_cr;
    } else if (is_reg(insn, 1, REG_DR)) {
        u->fn = op_mov_from_dr;
    } else {
        return false;
    }
    return true;
}

bool bind_sys_cr(struct bind *b) {
    switch (b->insn->id) {
    case INSN_MOV:
        return bind_mov(b);
    case INSN_CLTS:
        b->uop->fn = op_clts;
        b->last = true;
        return true;
    case INSN_LMSW:
        b->uop->fn = op_lmsw;
        b->last = true;
        return true;
    case INSN_SMSW:
        b->uop->fn = op_smsw;
        return true;
    default:
        return false;
    }
}
