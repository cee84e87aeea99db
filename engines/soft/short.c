/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The short way through SYSCALL, SYSRET, IRETQ and the delivery of events in 64-bit mode: what an
 * operating system does all day, flat segments and everything in the translation cache. Each
 * function either does the whole, or changes nothing and returns false; the general code
 * (syscall.c, iret.c, exc.c) is the reference and has the manual's sections.
 *
 * Not taken while single steps or breakpoints need a look at each instruction (c->one), nor by the
 * interpreter in lock-step, whose memory is a copy (verify.c).
 */
#include "engines/soft/mem.h"
#include "engines/soft/sys.h"
#include "engines/soft/verify.h"

/* --- parts -------------------------------------------------------------------------------------
 */

static bool usual(const struct soft_vcpu *c) {
    return c->mode == 64 && !c->one && !c->watch && !c->s.events.shadow && !soft_verify_shadow(c);
}

/* Host address of plain RAM that may be read or written now; NULL: not in the cache. */
static u64 *at(struct soft_vcpu *c, u64 linear, u32 size, bool write, u32 mmu) {
    const struct tlb_entry *e = tlb_slot(c->tlb->now->set[mmu].e, linear);
    u64 tag = write ? e->write : e->read;
    return LIKELY(tag == TAG_OF(linear, size)) ? (u64 *)(uintptr_t)(linear + e->addend) : NULL;
}

GUEST_RAM static inline u64 get(const u64 *p, u32 n) {
    return RAM_AT(u64, p + n);
}

GUEST_RAM static inline void put(u64 *p, u32 n, u64 v) {
    RAM_AT(u64, p + n) = v;
}

/* The descriptor of a selector into the GDT, with these attributes but G, AVL and the type's bit 1
 * (readable, writable). */
static bool descriptor(struct soft_vcpu *c, u16 sel, u32 attr, struct desc *d) {
    const u32 any = SEG_ATTR_G | SEG_ATTR_AVL | 2;
    *d = (struct desc){0};
    if ((sel & 4) || (sel | 7u) > c->s.gdtr.limit) {
        return false;
    }
    const u64 *p = at(c, c->s.gdtr.base + (sel & ~7u), 8, false, c->mmu_implicit);
    if (!p) {
        return false;
    }
    *d = (struct desc){.raw = get(p, 0), .sel = sel};
    return (desc_attr(d) & ~any) == (attr & ~any);
}

enum { CODE64 = 0xa099, DATA = 0xc091 };

static bool code64(struct soft_vcpu *c, u16 sel, u32 dpl, struct desc *d) {
    return descriptor(c, sel, CODE64 | dpl << SEG_ATTR_DPL_SHIFT, d);
}

/* What depends on CPL and on AC, for 64-bit code. */
static void privilege(struct soft_vcpu *c, u8 cpl) {
    bool smap = c->mmu_implicit == MMU_SMAP && !(c->s.rflags & FLAG_AC);
    u64 key = c->mode_key & ~(u64)(KEY_CPL | KEY_AC); /* AC at CPL 3 is not usual */
    c->cpl = cpl;
    c->mmu = cpl == 3 ? MMU_USER : smap ? MMU_SMAP : MMU_SYS;
    c->mode_key = key | (u64)cpl << KEY_CPL_SHIFT;
    c->leave |= SOFT_LEAVE_LOOP;
    soft_derived_update(c);
}

static void flags_set(struct soft_vcpu *c, u64 flags) {
    c->s.rflags = c->aflags = (flags | 2) & ~(u64)FLAG_RF;
}

/* --- SYSCALL, SYSRET ---------------------------------------------------------------------------
 */

bool short_syscall(struct soft_vcpu *c) {
    u64 flags = (soft_rflags(c) | 2) & ~(u64)FLAG_RF;
    u16 cs = (u16)(c->s.msr.star >> 32) & 0xfffc;
    if (!usual(c) || !(c->s.msr.efer & EFER_SCE) || (flags & FLAG_AC)) {
        return false;
    }
    c->s.gpr[GPR_RCX] = soft_rip_after(c);
    c->s.gpr[GPR_R11] = flags;
    seg_set_flat(&c->s.seg[SEG_CS], cs, ATTR_FLAT_CS64);
    seg_set_flat(&c->s.seg[SEG_SS], (u16)(cs + 8), ATTR_FLAT_SS);
    soft_goto(c, c->s.msr.lstar);
    flags_set(c, flags & ~c->s.msr.sfmask);
    privilege(c, 0);
    return true;
}

bool short_sysret(struct soft_vcpu *c) {
    const u64 mask = 0x3c7fd7;
    u64 rip = c->s.gpr[GPR_RCX], flags = c->s.gpr[GPR_R11];
    u16 base = (u16)(c->s.msr.star >> 48);
    const u32 dpl3 = 3u << SEG_ATTR_DPL_SHIFT;
    if (!usual(c) || c->cpl || !(c->s.msr.efer & EFER_SCE) || !is_canonical(rip) ||
        (flags & (FLAG_TF | FLAG_AC))) {
        return false;
    }
    seg_set_flat(&c->s.seg[SEG_CS], (u16)((base + 16) | 3), ATTR_FLAT_CS64 | dpl3);
    seg_set_flat(&c->s.seg[SEG_SS], (u16)((base + 8) | 3), ATTR_FLAT_SS | dpl3);
    soft_goto(c, rip);
    flags_set(c, (soft_rflags(c) & ~mask) | (flags & mask));
    privilege(c, 3);
    return true;
}

/* --- IRETQ -------------------------------------------------------------------------------------
 */

/* SS for a return to 64-bit code at level rpl, which may be null below 3. */
static bool return_stack(struct soft_vcpu *c, u16 sel, u32 rpl, struct segment *seg) {
    struct desc d;
    if ((sel & 3u) != rpl) {
        return false;
    }
    if (sel_is_null(sel)) {
        seg_set_null(seg, sel, rpl);
        return rpl != 3;
    }
    bool ok = descriptor(c, sel, DATA | rpl << SEG_ATTR_DPL_SHIFT, &d) && desc_is_writable_data(&d);
    seg_from_desc(seg, sel, &d);
    return ok;
}

bool short_iret(struct soft_vcpu *c) {
    const u64 mask = FLAG_ARITH | FLAG_DF | FLAG_IF | FLAG_IOPL | FLAG_AC | FLAG_ID | FLAG_VIF |
                     FLAG_VIP | FLAG_TF | FLAG_NT;
    struct segment ss;
    struct desc cs;
    const u64 *frame = at(c, c->s.gpr[GPR_RSP], 40, false, c->mmu);
    if (!usual(c) || c->cpl || (c->s.rflags & FLAG_NT) || !frame) {
        return false;
    }
    u64 rip = get(frame, 0), flags = get(frame, 2), rsp = get(frame, 3);
    u16 sel = (u16)get(frame, 1), stack = (u16)get(frame, 4);
    u32 rpl = sel & 3u;
    if ((rpl != 0 && rpl != 3) || !is_canonical(rip) || (flags & (FLAG_TF | FLAG_NT)) ||
        (rpl && (flags & FLAG_AC)) || !code64(c, sel, rpl, &cs) ||
        !return_stack(c, stack, rpl, &ss)) {
        return false;
    }
    c->s.events.nmi_blocked = false;
    seg_from_desc(&c->s.seg[SEG_CS], sel, &cs);
    c->s.seg[SEG_SS] = ss;
    c->s.gpr[GPR_RSP] = rsp;
    soft_goto(c, rip);
    flags_set(c, (soft_rflags(c) & ~mask) | (flags & mask));
    privilege(c, (u8)rpl);
    if (rpl) {
        seg_drop_privileged(c);
    }
    return true;
}

/* --- events ------------------------------------------------------------------------------------
 */

/* The stack that the frame goes to: RSP of the level, of the gate, or as it is. 0: not known. */
static u64 event_stack(struct soft_vcpu *c, u32 ist) {
    if (!c->cpl && !ist) {
        return c->s.gpr[GPR_RSP];
    }
    u32 offset = ist ? 28 + 8 * ist : 4;
    const u64 *p = at(c, c->s.tr.base + offset, 8, false, c->mmu_implicit);
    return p && offset + 7 <= c->s.tr.limit && (c->s.tr.attr & SEG_ATTR_TYPE) == DESC_TSS_BUSY
               ? get(p, 0)
               : 0;
}

static void event_frame(struct soft_vcpu *c, u64 *frame, const struct short_event *e) {
    u64 flags = soft_rflags(c) | 2;
    if (e->has_error) {
        put(frame++, 0, e->error);
    }
    put(frame, 0, e->rip);
    put(frame, 1, c->s.seg[SEG_CS].sel);
    put(frame, 2, e->fault ? flags | FLAG_RF : flags);
    put(frame, 3, c->s.gpr[GPR_RSP]);
    put(frame, 4, c->s.seg[SEG_SS].sel);
}

bool short_deliver(struct soft_vcpu *c, const struct short_event *e) {
    struct desc cs;
    const u64 *gate = at(c, c->s.idtr.base + e->vector * 16u, 16, false, c->mmu_implicit);
    if (!usual(c) || (c->cpl && c->cpl != 3) || e->vector * 16u + 15 > c->s.idtr.limit || !gate) {
        return false;
    }
    u64 low = get(gate, 0), high = get(gate, 1);
    u32 type = (u32)(low >> 40) & 0x9f, ist = (u32)(low >> 32) & 7;
    u64 rip = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32, rsp = event_stack(c, ist);
    bool trap = type == (0x80 | DESC_TRAP);
    if ((type != (0x80 | DESC_INT) && !trap) || !rsp || !is_canonical(rip) ||
        !code64(c, (u16)(low >> 16), 0, &cs) || !(low >> 16 & 0xfffc)) {
        return false;
    }
    u32 mmu = c->cpl == 0 && !ist ? c->mmu : c->mmu_implicit, bytes = e->has_error ? 48 : 40;
    rsp = (rsp & ~15ull) - bytes;
    u64 *frame = at(c, rsp, bytes, true, mmu);
    if (!frame) {
        return false;
    }
    event_frame(c, frame, e);
    if (c->cpl) {
        seg_set_null(&c->s.seg[SEG_SS], 0, 0);
    }
    c->s.gpr[GPR_RSP] = rsp;
    seg_from_desc(&c->s.seg[SEG_CS], (u16)(low >> 16) & 0xfffc, &cs);
    soft_goto(c, rip);
    c->s.rflags &= ~(u64)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (trap ? 0 : FLAG_IF));
    privilege(c, 0);
    return true;
}
