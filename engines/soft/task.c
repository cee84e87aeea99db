/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches between 16-bit and 32-bit TSSs, by JMP, CALL, IRET and through task gates.
 * Long mode has none.
 *
 *   checks, all reads and write probes   | faults belong to the old task
 *   old state saved, new state loaded, TR, CR0.TS     <- commit
 *   LDTR, segment registers, EIP limit   | faults belong to the new task, at its first instruction
 *
 * Intel SDM volume 3, section 8.3 (steps 1 to 13), tables 8-1 and 8-2, figures 8-2 and 8-10.
 */
#include "engines/soft/sys.h"

enum { TSS32_SIZE = 104, TSS16_SIZE = 44 };
enum { TSS_LINK = 0 };

/* Where the fields lie: base of the registers and distance between them. */
struct tss_layout {
    u8 size;
    u8 word; /* 2 or 4 */
    u8 eip, eflags, gpr, seg, seg_count, ldt;
};

static const struct tss_layout layout32 = {TSS32_SIZE, 4, 32, 36, 40, 72, 6, 96};
static const struct tss_layout layout16 = {TSS16_SIZE, 2, 14, 16, 18, 34, 4, 42};

/* A TSS in memory, read whole. */
struct tss_image {
    const struct tss_layout *l;
    u8 raw[TSS32_SIZE];
};

static u32 image_get(const struct tss_image *t, u32 offset, u32 size) {
    u32 v = 0;
    memcpy(&v, t->raw + offset, size);
    return v;
}

static void image_put(struct tss_image *t, u32 offset, u32 size, u32 value) {
    memcpy(t->raw + offset, &value, size);
}

static const struct tss_layout *layout_of(u32 type) {
    return type >= DESC_TSS ? &layout32 : &layout16;
}

/* A TSS may cross pages; each access goes by itself so that base + offset wraps at 4 GiB. */
static void image_read(struct soft_vcpu *c, struct tss_image *t, u64 base) {
    for (u32 i = 0; i < t->l->size; i += 2) {
        u16 v = (u16)sys_load(c, base, i, 2);
        memcpy(t->raw + i, &v, 2);
    }
}

/* Writes [from, to) of the image. */
static void image_write(struct soft_vcpu *c, const struct tss_image *t, u64 base, u32 from,
                        u32 to) {
    for (u32 i = from; i < to; i += 2) {
        u16 v;
        memcpy(&v, t->raw + i, 2);
        sys_store(c, base, i, 2, v);
    }
}

/* --- saving ----------------------------------------------------------------------------------- */

static void image_save(struct soft_vcpu *c, struct tss_image *t, u64 flags, u64 next_rip) {
    const struct tss_layout *l = t->l;
    image_put(t, l->eip, l->word, (u32)next_rip);
    image_put(t, l->eflags, l->word, (u32)flags);
    for (u32 i = 0; i < 8; i++) {
        image_put(t, l->gpr + i * l->word, l->word, (u32)c->s.gpr[i]);
    }
    for (u32 i = 0; i < l->seg_count; i++) {
        image_put(t, l->seg + i * l->word, 2, c->s.seg[i].sel);
    }
}

/* Writes the dynamic fields of the old task: EIP up to the last segment register. A fault on the
 * first or last byte comes before anything is written. */
static void save_old(struct soft_vcpu *c, u64 flags, u64 next_rip) {
    struct tss_image old = {.l = layout_of(c->s.tr.attr & SEG_ATTR_TYPE)};
    u32 end = old.l->seg + old.l->seg_count * old.l->word;
    image_read(c, &old, c->s.tr.base);
    sys_store(c, c->s.tr.base, end - 2, 2, image_get(&old, end - 2, 2));
    image_save(c, &old, flags, next_rip);
    image_write(c, &old, c->s.tr.base, old.l->eip, end);
}

static void set_old_busy(struct soft_vcpu *c, bool busy) {
    struct desc d;
    if (!(c->s.tr.sel & 4) && !sel_is_null(c->s.tr.sel) && desc_read(c, c->s.tr.sel, &d)) {
        if (busy) {
            desc_set_bits(c, &d, 2);
        } else {
            desc_clear_bits(c, &d, 2);
        }
    }
}

/* --- loading: faults here are the new task's ----------------------------------------------------
 */

static _Noreturn void ts_fault(struct soft_vcpu *c, u16 sel) {
    soft_fault(c, EXC_TS, true, sel_error(sel));
}

static void load_ldt(struct soft_vcpu *c, u16 sel) {
    struct desc d;
    seg_set_null(&c->s.ldtr, sel, 0);
    if (sel_is_null(sel)) {
        return;
    }
    if ((sel & 4) || !desc_read(c, sel, &d) || desc_is_segment(&d) || desc_type(&d) != DESC_LDT ||
        !desc_present(&d)) {
        ts_fault(c, sel);
    }
    seg_from_desc(&c->s.ldtr, sel, &d);
}

static void load_task_cs(struct soft_vcpu *c, u16 sel, u32 cpl) {
    struct desc d;
    if (sel_is_null(sel)) {
        ts_fault(c, sel);
    }
    desc_fetch(c, sel, &d, EXC_TS);
    bool level = desc_is_conforming(&d) ? desc_dpl(&d) <= cpl : desc_dpl(&d) == cpl;
    if (!desc_is_code(&d) || !level) {
        ts_fault(c, sel);
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    desc_mark_accessed(c, &d);
    seg_from_desc(&c->s.seg[SEG_CS], sel, &d);
}

static void load_task_ss(struct soft_vcpu *c, u16 sel, u32 cpl) {
    struct desc d;
    if (sel_is_null(sel)) {
        ts_fault(c, sel);
    }
    seg_check_stack(c, sel, cpl, &d, EXC_TS);
    desc_mark_accessed(c, &d);
    seg_from_desc(&c->s.seg[SEG_SS], sel, &d);
}

static void load_task_data(struct soft_vcpu *c, u8 seg, u16 sel, u32 cpl) {
    struct desc d;
    if (sel_is_null(sel)) {
        return; /* already null */
    }
    desc_fetch(c, sel, &d, EXC_TS);
    bool readable = desc_is_segment(&d) && (!desc_is_code(&d) || (desc_type(&d) & TYPE_READABLE));
    bool level = desc_is_conforming(&d) || (desc_dpl(&d) >= (sel & 3u) && desc_dpl(&d) >= cpl);
    if (!readable || !level) {
        ts_fault(c, sel);
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    desc_mark_accessed(c, &d);
    seg_from_desc(&c->s.seg[seg], sel, &d);
}

static void load_segments(struct soft_vcpu *c, const u16 *sel) {
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    u32 cpl = sel[SEG_CS] & 3u;
    if (in_v86(c)) {
        for (u8 i = 0; i < SEG_COUNT; i++) {
            seg_set_real(c, i, sel[i]);
        }
        return;
    }
    load_task_cs(c, sel[SEG_CS], cpl);
    load_task_ss(c, sel[SEG_SS], cpl);
    soft_mode_update(c);
    for (u32 i = 0; i < ARRAY_LEN(data); i++) {
        load_task_data(c, data[i], sel[data[i]], cpl);
    }
}

/* Registers without any check: selectors are visible, their hidden parts are not usable yet. */
static void load_registers(struct soft_vcpu *c, const struct tss_image *t, u16 *sel) {
    const struct tss_layout *l = t->l;
    for (u32 i = 0; i < 8; i++) {
        u32 v = image_get(t, l->gpr + i * l->word, l->word);
        c->s.gpr[i] = l->word == 2 ? 0xffff0000u | v : v;
    }
    for (u32 i = 0; i < SEG_COUNT; i++) {
        sel[i] = i < l->seg_count ? (u16)image_get(t, l->seg + i * l->word, 2) : 0;
    }
    for (u32 i = 0; i < SEG_COUNT; i++) {
        seg_set_null(&c->s.seg[i], sel[i], sel[SEG_CS] & 3u);
    }
    c->s.seg[SEG_CS].attr |= l->word == 4 ? SEG_ATTR_DB : 0;
    c->s.seg[SEG_SS].attr |= l->word == 4 ? SEG_ATTR_DB : 0;
}

/* --- the switch ------------------------------------------------------------------------------- */

static void enter(struct soft_vcpu *c, const struct tss_image *t, u64 new_flags) {
    u16 sel[SEG_COUNT];
    u64 rip = image_get(t, t->l->eip, t->l->word);
    bool trap = t->l->word == 4 && (image_get(t, 100, 2) & 1);
    load_registers(c, t, sel);
    soft_rflags_set(c, (new_flags & 0x3f7fd5) | 2);
    soft_goto(c, rip);
    c->event_rip = rip;
    if (c->uop) { /* a fault now is at the new task's first instruction */
        c->block_rip = rip - c->uop->offset;
    }
    c->s.dr7 &= ~0x155ull; /* local breakpoints end with the task */
    soft_mode_update(c);
    load_ldt(c, (u16)image_get(t, t->l->ldt, 2));
    load_segments(c, sel);
    soft_mode_update(c);
    if (rip > c->s.seg[SEG_CS].limit) {
        soft_gp(c, 0);
    }
    if (trap) {
        c->dr6_pending |= BIT(15); /* BT */
        soft_mode_update(c);
    }
    c->leave |= SOFT_LEAVE_LOOP;
}

/* CR3 comes from a 32-bit TSS when paging is on. */
static void load_cr3(struct soft_vcpu *c, const struct tss_image *t) {
    if (t->l->word == 4 && (c->s.cr0 & CR0_PG)) {
        u64 cr3 = image_get(t, 28, 4);
        if ((c->s.cr4 & CR4_PAE) && !soft_pdpte_valid(c, cr3)) {
            soft_gp(c, 0);
        }
        c->s.cr3 = cr3;
        soft_tlb_cr3(c, cr3, false);
    }
}

void task_switch(struct soft_vcpu *c, struct desc *d, enum task_cause cause, u64 next_rip) {
    struct tss_image t = {.l = layout_of(desc_type(d))};
    u64 flags = soft_rflags(c) | 2, base = desc_base(d);
    if (desc_limit(d) < t.l->size - 1u) {
        ts_fault(c, d->sel);
    }
    image_read(c, &t, base);
    u64 new_flags = image_get(&t, t.l->eflags, t.l->word);
    save_old(c, cause == TASK_IRET ? flags & ~FLAG_NT : flags, next_rip);
    if (cause == TASK_JMP || cause == TASK_IRET) {
        set_old_busy(c, false);
    }
    if (cause == TASK_CALL || cause == TASK_EVENT) {
        sys_store(c, base, TSS_LINK, 2, c->s.tr.sel);
        new_flags |= FLAG_NT;
    }
    if (cause != TASK_IRET) {
        desc_set_bits(c, d, 2);
    }
    load_cr3(c, &t);
    c->s.cr0 |= CR0_TS;
    seg_from_desc(&c->s.tr, d->sel, d);
    c->s.tr.attr |= 2;
    enter(c, &t, new_flags);
}

void task_gate(struct soft_vcpu *c, u16 sel, enum task_cause cause, u64 next_rip) {
    struct desc d;
    if ((sel & 4) || sel_is_null(sel)) {
        soft_gp(c, sel_error(sel));
    }
    desc_fetch(c, sel, &d, EXC_GP);
    if (desc_is_segment(&d) || (desc_type(&d) != DESC_TSS && desc_type(&d) != DESC_TSS16)) {
        soft_gp(c, sel_error(sel));
    }
    if (!desc_present(&d)) {
        soft_fault(c, EXC_NP, true, sel_error(sel));
    }
    task_switch(c, &d, cause, next_rip);
}
