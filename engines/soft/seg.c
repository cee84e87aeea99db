/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segment registers: descriptors read from GDT and LDT, the checks of a load in every mode, and
 * what is derived from the registers (mode, CPL, privilege of memory accesses).
 *
 * Intel SDM volume 3, chapters 3 and 6; volume 2, "MOV" and "LDS". CPL is SS.DPL, as in VMX. In
 * real mode a load keeps limit and size bits ("unreal mode").
 */
#include "engines/soft/sys.h"

u64 sys_load(struct soft_vcpu *c, u64 base, u64 offset, u32 size) {
    return soft_lin_load(c, sys_linear(c, base, offset), size, c->mmu_implicit);
}

void sys_store(struct soft_vcpu *c, u64 base, u64 offset, u32 size, u64 value) {
    soft_lin_store(c, sys_linear(c, base, offset), size, value, c->mmu_implicit);
}

/* --- descriptors ------------------------------------------------------------------------------ */

u32 desc_limit(const struct desc *d) {
    u32 limit = (u32)(d->raw & 0xffff) | (u32)(d->raw >> 32 & 0xf0000);
    return desc_attr(d) & SEG_ATTR_G ? limit << 12 | 0xfff : limit;
}

/* Base and limit of the table that sel points into; false when there is none. */
static bool desc_table_of(const struct soft_vcpu *c, u16 sel, u64 *base, u32 *limit) {
    if (!(sel & 4)) {
        *base = c->s.gdtr.base;
        *limit = c->s.gdtr.limit;
        return true;
    }
    *base = c->s.ldtr.base;
    *limit = c->s.ldtr.limit;
    return !(c->s.ldtr.attr & SEG_ATTR_UNUSABLE) && (c->s.ldtr.attr & SEG_ATTR_P);
}

bool desc_read(struct soft_vcpu *c, u16 sel, struct desc *d) {
    u64 base;
    u32 limit;
    if (!desc_table_of(c, sel, &base, &limit) || (sel | 7u) > limit) {
        return false;
    }
    d->sel = sel;
    d->high = 0;
    d->linear = sys_linear(c, base, sel & ~7u);
    d->raw = soft_lin_load(c, d->linear, 8, c->mmu_implicit);
    return true;
}

void desc_fetch(struct soft_vcpu *c, u16 sel, struct desc *d, u8 vector) {
    if (!desc_read(c, sel, d)) {
        soft_fault(c, vector, true, sel_error(sel));
    }
}

void desc_read_high(struct soft_vcpu *c, struct desc *d, u8 vector) {
    u64 base;
    u32 limit;
    if (!desc_table_of(c, d->sel, &base, &limit) || (d->sel & ~7u) + 15 > limit) {
        soft_fault(c, vector, true, sel_error(d->sel));
    }
    d->high = sys_load(c, d->linear, 8, 8);
}

/* The access byte is byte 5. A byte is always aligned, so the host's atomics apply. */
static void desc_change(struct soft_vcpu *c, struct desc *d, u8 set, u8 clear) {
    u64 linear = sys_linear(c, d->linear, 5);
    u8 *p = soft_lin_ptr(c, linear, 1, ACCESS_RMW, c->mmu_implicit);
    if (!p) {
        u64 old = soft_lin_load(c, linear, 1, c->mmu_implicit);
        soft_lin_store(c, linear, 1, (old | set) & ~(u64)clear, c->mmu_implicit);
    } else if (set) {
        __atomic_fetch_or(p, set, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(p, (u8)~clear, __ATOMIC_SEQ_CST);
    }
    d->raw = (d->raw | (u64)set << 40) & ~((u64)clear << 40);
}

void desc_set_bits(struct soft_vcpu *c, struct desc *d, u8 bits) {
    desc_change(c, d, bits, 0);
}

void desc_clear_bits(struct soft_vcpu *c, struct desc *d, u8 bits) {
    desc_change(c, d, 0, bits);
}

void desc_mark_accessed(struct soft_vcpu *c, struct desc *d) {
    if (!(desc_type(d) & TYPE_ACCESSED)) {
        desc_set_bits(c, d, TYPE_ACCESSED);
    }
}

/* --- registers -------------------------------------------------------------------------------- */

void seg_from_desc(struct segment *seg, u16 sel, const struct desc *d) {
    seg->sel = sel;
    seg->base = desc_base(d);
    seg->limit = desc_limit(d);
    seg->attr = desc_attr(d);
}

void seg_set_null(struct segment *seg, u16 sel, u32 dpl) {
    seg->sel = sel;
    seg->base = 0;
    seg->limit = 0;
    seg->attr = SEG_ATTR_UNUSABLE | dpl << SEG_ATTR_DPL_SHIFT;
}

void seg_set_flat(struct segment *seg, u16 sel, u32 attr) {
    seg->sel = sel;
    seg->base = 0;
    seg->limit = 0xffffffffu;
    seg->attr = attr;
}

void seg_set_real(struct soft_vcpu *c, u8 index, u16 sel) {
    struct segment *seg = &c->s.seg[index];
    u32 kept = seg->attr & (SEG_ATTR_G | SEG_ATTR_DB);
    if (in_v86(c) || (seg->attr & SEG_ATTR_UNUSABLE)) {
        seg->limit = 0xffff;
        kept = 0;
    }
    seg->sel = sel;
    seg->base = (u32)sel << 4;
    seg->attr = in_v86(c) ? ATTR_V86 : ATTR_REAL_DATA | kept;
}

void seg_check_stack(struct soft_vcpu *c, u16 sel, u32 cpl, struct desc *d, u8 vector) {
    desc_fetch(c, sel, d, vector);
    if ((sel & 3u) != cpl || !desc_is_writable_data(d) || desc_dpl(d) != cpl) {
        soft_fault(c, vector, true, sel_error(sel));
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_SS, true, sel_error(sel));
    }
}

static void load_ss(struct soft_vcpu *c, u16 sel) {
    struct desc d;
    if (sel_is_null(sel)) {
        if (c->mode != 64 || c->cpl == 3 || (sel & 3u) != c->cpl) {
            soft_gp(c, 0);
        }
        seg_set_null(&c->s.seg[SEG_SS], sel, c->cpl);
        return;
    }
    seg_check_stack(c, sel, c->cpl, &d, EXC_GP);
    desc_mark_accessed(c, &d);
    seg_from_desc(&c->s.seg[SEG_SS], sel, &d);
}

static void load_data(struct soft_vcpu *c, u8 seg, u16 sel) {
    struct desc d;
    if (sel_is_null(sel)) {
        seg_set_null(&c->s.seg[seg], sel, 0);
        return;
    }
    desc_fetch(c, sel, &d, EXC_GP);
    bool readable = desc_is_segment(&d) && (!desc_is_code(&d) || (desc_type(&d) & TYPE_READABLE));
    bool level = desc_is_conforming(&d) || (desc_dpl(&d) >= (sel & 3u) && desc_dpl(&d) >= c->cpl);
    if (!readable || !level) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    desc_mark_accessed(c, &d);
    seg_from_desc(&c->s.seg[seg], sel, &d);
}

void soft_load_segment(struct soft_vcpu *c, u8 seg, u16 sel) {
    if (!in_protected(c)) {
        seg_set_real(c, seg, sel);
    } else if (seg == SEG_SS) {
        load_ss(c, sel);
    } else {
        load_data(c, seg, sel);
    }
    soft_mode_update(c);
}

void seg_drop_privileged(struct soft_vcpu *c) {
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (u32 i = 0; i < ARRAY_LEN(data); i++) {
        struct segment *seg = &c->s.seg[data[i]];
        u32 type = seg->attr & SEG_ATTR_TYPE;
        bool conforming = (type & TYPE_CODE) && (type & TYPE_CONFORMING);
        if (!conforming && (seg->attr >> SEG_ATTR_DPL_SHIFT & 3) < c->cpl &&
            !(seg->attr & SEG_ATTR_UNUSABLE)) {
            seg_set_null(seg, 0, 0);
        }
    }
}

/* --- targets of transfers --------------------------------------------------------------------- */

/* Outside 64-bit code only 32 bits of the offset count, whatever the operand size was. */
void target_check_rip(struct soft_vcpu *c, struct target *t) {
    bool code64 = c->long_mode && (desc_attr(&t->d) & SEG_ATTR_L);
    t->rip = code64 ? t->rip : (u32)t->rip;
    if (code64 ? !is_canonical(t->rip) : t->rip > desc_limit(&t->d)) {
        soft_gp(c, 0);
    }
}

void target_commit(struct soft_vcpu *c, struct target *t) {
    desc_mark_accessed(c, &t->d);
    seg_from_desc(&c->s.seg[SEG_CS], (u16)((t->sel & ~3u) | t->cpl), &t->d);
    soft_goto(c, t->rip);
}

/* --- derived state ---------------------------------------------------------------------------- */

static u8 derive_cpl(const struct soft_vcpu *c) {
    if (in_real_mode(c)) {
        return 0;
    }
    return in_v86(c) ? 3 : (u8)(c->s.seg[SEG_SS].attr >> SEG_ATTR_DPL_SHIFT & 3);
}

static u8 derive_mode(const struct soft_vcpu *c) {
    u32 attr = c->s.seg[SEG_CS].attr;
    if (c->long_mode && (attr & SEG_ATTR_L)) {
        return 64;
    }
    return attr & SEG_ATTR_DB ? 32 : 16;
}

/* May all of the segment be read and written in 32-bit mode? */
static bool derive_open(const struct segment *seg) {
    const u32 mask = SEG_ATTR_UNUSABLE | SEG_ATTR_S | SEG_ATTR_P | TYPE_CODE | TYPE_WRITABLE;
    return (seg->attr & mask) == (SEG_ATTR_S | SEG_ATTR_P | TYPE_WRITABLE) &&
           !(seg->attr & TYPE_DOWN) && seg->limit == UINT32_MAX;
}

static bool derive_flat(const struct soft_vcpu *c) {
    static const u8 data[] = {SEG_ES, SEG_SS, SEG_DS};
    const struct segment *cs = &c->s.seg[SEG_CS];
    if (c->mode != 32 || cs->base || cs->limit != 0xffffffffu) {
        return false;
    }
    for (u32 i = 0; i < ARRAY_LEN(data); i++) {
        const struct segment *seg = &c->s.seg[data[i]];
        if (seg->base || !derive_open(seg)) {
            return false;
        }
    }
    return (cs->attr & TYPE_READABLE) && (c->s.seg[SEG_SS].attr & SEG_ATTR_DB);
}

/* Any of the four breakpoints enabled in dr7? */
static bool any_enabled(u64 dr7) {
    return dr7 & 0xff;
}

/* Any enabled one that watches data or I/O (R/W field not 0)? */
static bool any_data(u64 dr7) {
    for (u32 i = 0; i < 4; i++) {
        if ((dr7 >> (i * 2) & 3) && (dr7 >> (16 + i * 4) & 3)) {
            return true;
        }
    }
    return false;
}

/* Tells one set of armed breakpoints from another; 0 when none is armed. */
static u64 watch_mark(const struct soft_vcpu *c, u64 extra) {
    u64 mark = c->s.dr7 ^ extra << 32 ^ 1;
    for (u32 i = 0; i < 4; i++) {
        mark = (mark ^ c->s.dr[i]) * 0x9e3779b97f4a7c15ull;
        mark = (mark ^ c->debug.dr[i]) * 0x9e3779b97f4a7c15ull;
    }
    return mark;
}

static void derive_debug(struct soft_vcpu *c) {
    u64 extra = c->debug.enabled ? c->debug.dr7 : 0;
    c->watch = any_data(c->s.dr7) || any_data(extra);
    c->one = (c->s.rflags & FLAG_TF) || c->s.events.shadow || any_enabled(c->s.dr7) ||
             any_enabled(extra) || c->dr6_pending || (c->debug.enabled && c->debug.single_step);
    u64 mark = c->watch ? watch_mark(c, extra) : 0;
    if (mark != c->watch_mark) { /* the fast cache must not hold a watched page */
        c->watch_mark = mark;
        soft_tlb_flush_all(c);
    }
}

static u64 derive_key(const struct soft_vcpu *c) {
    u64 cr0 = c->s.cr0, cr4 = c->s.cr4;
    const u64 avx = XCR0_SSE | XCR0_AVX;
    u64 key = (u64)c->cpl << KEY_CPL_SHIFT;
    key |= c->mode == 64 ? KEY_MODE_64 : c->mode == 32 ? KEY_MODE_32 : 0;
    key |= c->seg_flat ? KEY_FLAT : 0;
    key |= c->mode != 64 && (c->s.seg[SEG_SS].attr & SEG_ATTR_DB) ? KEY_SS_32 : 0;
    key |= cr0 & CR0_PE ? KEY_PE : 0;
    key |= in_v86(c) ? KEY_V86 : 0;
    key |= c->long_mode ? KEY_LMA : 0;
    key |= c->one ? KEY_ONE : 0;
    key |= (cr0 & CR0_AM) && (c->s.rflags & FLAG_AC) && c->cpl == 3 ? KEY_AC : 0;
    key |= cr0 & CR0_MP ? KEY_MP : 0;
    key |= cr0 & CR0_EM ? KEY_EM : 0;
    key |= cr0 & CR0_TS ? KEY_TS : 0;
    key |= cr4 & CR4_OSFXSR ? KEY_OSFXSR : 0;
    key |= cr4 & CR4_OSXMMEXCPT ? KEY_XMMEXC : 0;
    key |= cr4 & CR4_OSXSAVE ? KEY_OSXSAVE : 0;
    key |= (cr4 & CR4_OSXSAVE) && (c->s.xcr0 & avx) == avx ? KEY_AVX : 0;
    return key;
}

void soft_mode_update(struct soft_vcpu *c) {
    bool smap = c->s.cr4 & CR4_SMAP;
    c->long_mode = c->s.msr.efer & EFER_LMA;
    c->cpl = derive_cpl(c);
    c->mode = derive_mode(c);
    c->mmu_implicit = smap ? MMU_SMAP : MMU_SYS;
    if (c->cpl == 3) {
        c->mmu = MMU_USER;
    } else {
        c->mmu = smap && !(c->s.rflags & FLAG_AC) ? MMU_SMAP : MMU_SYS;
    }
    c->seg_flat = derive_flat(c);
    c->seg_open[SEG_FS] = derive_open(&c->s.seg[SEG_FS]);
    c->seg_open[SEG_GS] = derive_open(&c->s.seg[SEG_GS]);
    derive_debug(c);
    u64 key = derive_key(c);
    if (key != c->mode_key) {
        c->mode_key = key;
        c->leave |= SOFT_LEAVE_LOOP;
    }
    soft_derived_update(c);
}
