/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saves, loads and checks the architectural state of a processor. A saved state is hostile input:
 * cpu_state_check admits only states that a processor could be in, so that no engine meets a mode
 * it has no meaning for (SDM vol. 3, section 27.3 lists the same rules for a VM entry).
 * Pure functions, no lock.
 */
#include "core/cpu/state.h"

#include "core/base/err.h"
#include "core/base/snap.h"

enum { STATE_VERSION = 1, XSAVE_MXCSR = 24, XSAVE_HEADER = 512, XSAVE_ALIGN = 64 };

#define STATE_TAG SNAP_TAG('C', 'P', 'U', 'S')

#define SEG_ATTR_ALL                                                                               \
    (0xffu | SEG_ATTR_AVL | SEG_ATTR_L | SEG_ATTR_DB | SEG_ATTR_G | SEG_ATTR_UNUSABLE)

/* Bits that may be set; each engine narrows them further by the CPUID policy. */
#define CR0_ALL                                                                                    \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |     \
     CR0_PG)
#define CR4_ALL                                                                                    \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |      \
     CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP |  \
     CR4_SMAP | CR4_PKE)
#define EFER_ALL (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define XCR0_ALL (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU)
#define FLAG_ALL                                                                                   \
    (FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |          \
     FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID | BIT(1))

/* --- checks ------------------------------------------------------------------------------------
 */

static bool canonical(u64 va) {
    return (u64)((s64)(va << 16) >> 16) == va;
}

static bool gpr_valid(const struct cpu_state *s) {
    return !(s->rflags & ~(u64)FLAG_ALL) && (s->rflags & BIT(1));
}

static bool segments_valid(const struct cpu_state *s) {
    for (u32 i = 0; i < SEG_COUNT; i++) {
        if ((s->seg[i].attr & ~SEG_ATTR_ALL) || !canonical(s->seg[i].base)) {
            return false;
        }
    }
    return !(s->ldtr.attr & ~SEG_ATTR_ALL) && !(s->tr.attr & ~SEG_ATTR_ALL) &&
           canonical(s->ldtr.base) && canonical(s->tr.base) && canonical(s->gdtr.base) &&
           canonical(s->idtr.base);
}

static bool control_valid(const struct cpu_state *s) {
    if ((s->cr0 & ~(u64)CR0_ALL) || (s->cr4 & ~(u64)CR4_ALL) || s->cr8 > 15 || s->cr3 >> 52 ||
        (s->msr.efer & ~(u64)EFER_ALL)) {
        return false;
    }
    if ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)) {
        return false;
    }
    return !(s->cr0 & CR0_NW) || (s->cr0 & CR0_CD);
}

/* Long mode: LMA is LME with paging on; it needs PAE, and CS cannot be both 64-bit and 32-bit. */
static bool mode_valid(const struct cpu_state *s) {
    bool lma = s->msr.efer & EFER_LMA;
    u32 cs = s->seg[SEG_CS].attr;
    if (lma != ((s->msr.efer & EFER_LME) && (s->cr0 & CR0_PG))) {
        return false;
    }
    if (lma && (!(s->cr4 & CR4_PAE) || ((cs & SEG_ATTR_L) && (cs & SEG_ATTR_DB)))) {
        return false;
    }
    return lma || !(s->cr4 & CR4_PCIDE);
}

static bool debug_valid(const struct cpu_state *s) {
    return !(s->dr6 >> 32) && !(s->dr7 >> 32);
}

/* Anything else here makes the host's own FXRSTOR or XRSTOR fault. */
static bool xsave_valid(const struct cpu_state *s) {
    u32 mxcsr;
    u64 header[8];
    memcpy(&mxcsr, s->xsave + XSAVE_MXCSR, sizeof(mxcsr));
    memcpy(header, s->xsave + XSAVE_HEADER, sizeof(header));
    for (u32 i = 1; i < ARRAY_LEN(header); i++) {
        if (header[i]) {
            return false;
        }
    }
    if (mxcsr >> 16 || (header[0] & ~(u64)XCR0_ALL) || (s->xcr0 & ~(u64)XCR0_ALL)) {
        return false;
    }
    return (s->xcr0 & XCR0_X87) && (!(s->xcr0 & XCR0_AVX) || (s->xcr0 & XCR0_SSE));
}

/* Each byte of PAT is a memory type: UC, WC, WT, WP, WB or UC-. */
static bool pat_valid(u64 pat) {
    for (u32 i = 0; i < 64; i += 8) {
        u32 type = pat >> i & 0xff;
        if (type > 7 || type == 2 || type == 3) {
            return false;
        }
    }
    return true;
}

static bool msr_valid(const struct cpu_state *s) {
    const struct cpu_msrs *m = &s->msr;
    return canonical(m->lstar) && canonical(m->cstar) && canonical(m->kernel_gs_base) &&
           canonical(m->sysenter_esp) && canonical(m->sysenter_eip) && pat_valid(m->pat) &&
           !(m->sfmask >> 32) && !(m->tsc_aux >> 32) && !(m->mtrr_def_type & ~0xcffull);
}

static bool events_valid(const struct cpu_state *s) {
    const struct cpu_events *e = &s->events;
    return e->exception_vector < 32 && !(e->shadow & ~(SHADOW_STI | SHADOW_MOV_SS)) &&
           s->mp_state <= MP_INIT_RECEIVED;
}

int cpu_state_check(const struct cpu_state *s, u64 mask) {
    bool ok = (!(mask & STATE_GPR) || gpr_valid(s)) &&
              (!(mask & STATE_SREG) || (segments_valid(s) && control_valid(s) && mode_valid(s))) &&
              (!(mask & STATE_DEBUG) || debug_valid(s)) &&
              (!(mask & STATE_XSAVE) || xsave_valid(s)) && (!(mask & STATE_MSR) || msr_valid(s)) &&
              (!(mask & STATE_EVENTS) || events_valid(s));
    if (ok && (mask & STATE_GPR) && (mask & STATE_SREG) && (s->msr.efer & EFER_LMA)) {
        ok = !(s->rflags & FLAG_VM) && (!(s->seg[SEG_CS].attr & SEG_ATTR_L) || canonical(s->rip));
    }
    return ok ? 0 : -ERR_INVAL;
}

/* --- save ----------------------------------------------------------------------------------------
 */

static void put_all(struct snap_writer *w, const u64 *v, u32 n) {
    for (u32 i = 0; i < n; i++) {
        snap_put64(w, v[i]);
    }
}

static void put_segment(struct snap_writer *w, const struct segment *seg) {
    snap_put64(w, seg->base);
    snap_put32(w, seg->limit);
    snap_put32(w, seg->attr);
    snap_put16(w, seg->sel);
}

static void put_table(struct snap_writer *w, const struct desc_table *t) {
    snap_put64(w, t->base);
    snap_put16(w, t->limit);
}

static void put_events(struct snap_writer *w, const struct cpu_events *e) {
    snap_put8(w, e->exception_pending);
    snap_put8(w, e->exception_has_error);
    snap_put8(w, e->exception_vector);
    snap_put32(w, e->exception_error);
    snap_put64(w, e->exception_cr2);
    snap_put8(w, e->interrupt_pending);
    snap_put8(w, e->interrupt_soft);
    snap_put8(w, e->interrupt_vector);
    snap_put8(w, e->nmi_pending);
    snap_put8(w, e->nmi_blocked);
    snap_put8(w, e->shadow);
}

/* The image up to its last byte that is not zero; the rest is zero again after loading. */
static u32 xsave_used(const struct cpu_state *s) {
    u32 n = XSAVE_AREA_SIZE;
    while (n && !s->xsave[n - 1]) {
        n--;
    }
    return ALIGN_UP(n, XSAVE_ALIGN);
}

/* The order of struct cpu_msrs, which is all u64: one list for saving and loading. */
_Static_assert(sizeof(struct cpu_msrs) % sizeof(u64) == 0, "cpu_msrs is an array of u64");
_Static_assert(sizeof(struct cpu_msrs) / sizeof(u64) == 22 + MTRR_FIXED_COUNT + 2 * MTRR_VAR_COUNT,
               "a new MSR needs a new STATE_VERSION");

void cpu_state_save(const struct cpu_state *s, struct snap_writer *w) {
    size_t begin = snap_begin(w, STATE_TAG, STATE_VERSION);
    put_all(w, s->gpr, GPR_COUNT);
    snap_put64(w, s->rip);
    snap_put64(w, s->rflags);
    for (u32 i = 0; i < SEG_COUNT; i++) {
        put_segment(w, &s->seg[i]);
    }
    put_segment(w, &s->ldtr);
    put_segment(w, &s->tr);
    put_table(w, &s->gdtr);
    put_table(w, &s->idtr);
    put_all(w, (const u64[]){s->cr0, s->cr2, s->cr3, s->cr4, s->cr8, s->xcr0}, 6);
    put_all(w, s->dr, ARRAY_LEN(s->dr));
    put_all(w, (const u64[]){s->dr6, s->dr7}, 2);
    put_all(w, (const u64 *)&s->msr, sizeof(s->msr) / sizeof(u64));
    put_events(w, &s->events);
    snap_put32(w, s->mp_state);
    u32 used = xsave_used(s);
    snap_put32(w, used);
    snap_put(w, s->xsave, used);
    snap_end(w, begin);
}

/* --- load ----------------------------------------------------------------------------------------
 */

static void get_all(struct snap_reader *r, u64 *v, u32 n) {
    for (u32 i = 0; i < n; i++) {
        v[i] = snap_get64(r);
    }
}

static void get_segment(struct snap_reader *r, struct segment *seg) {
    seg->base = snap_get64(r);
    seg->limit = snap_get32(r);
    seg->attr = snap_get32(r);
    seg->sel = snap_get16(r);
}

static void get_table(struct snap_reader *r, struct desc_table *t) {
    t->base = snap_get64(r);
    t->limit = snap_get16(r);
}

static void get_events(struct snap_reader *r, struct cpu_events *e) {
    e->exception_pending = snap_get_bool(r);
    e->exception_has_error = snap_get_bool(r);
    e->exception_vector = snap_get8(r);
    e->exception_error = snap_get32(r);
    e->exception_cr2 = snap_get64(r);
    e->interrupt_pending = snap_get_bool(r);
    e->interrupt_soft = snap_get_bool(r);
    e->interrupt_vector = snap_get8(r);
    e->nmi_pending = snap_get_bool(r);
    e->nmi_blocked = snap_get_bool(r);
    e->shadow = snap_get8(r);
}

static void get_xsave(struct snap_reader *r, struct cpu_state *s) {
    u32 used = snap_get32(r);
    memset(s->xsave, 0, sizeof(s->xsave));
    if (used > XSAVE_AREA_SIZE) {
        r->failed = true;
        return;
    }
    snap_get(r, s->xsave, used);
}

static void state_read(struct cpu_state *s, struct snap_reader *r) {
    u64 cr[6], dr[2];
    get_all(r, s->gpr, GPR_COUNT);
    s->rip = snap_get64(r);
    s->rflags = snap_get64(r);
    for (u32 i = 0; i < SEG_COUNT; i++) {
        get_segment(r, &s->seg[i]);
    }
    get_segment(r, &s->ldtr);
    get_segment(r, &s->tr);
    get_table(r, &s->gdtr);
    get_table(r, &s->idtr);
    get_all(r, cr, ARRAY_LEN(cr));
    get_all(r, s->dr, ARRAY_LEN(s->dr));
    get_all(r, dr, ARRAY_LEN(dr));
    s->cr0 = cr[0], s->cr2 = cr[1], s->cr3 = cr[2], s->cr4 = cr[3];
    s->cr8 = cr[4], s->xcr0 = cr[5];
    s->dr6 = dr[0], s->dr7 = dr[1];
    get_all(r, (u64 *)&s->msr, sizeof(s->msr) / sizeof(u64));
    get_events(r, &s->events);
    s->mp_state = snap_get32(r);
    get_xsave(r, s);
}

int cpu_state_load(struct cpu_state *s, struct snap_reader *r) {
    struct snap_reader sub;
    if (snap_section(r, STATE_TAG, STATE_VERSION, &sub)) {
        state_read(s, &sub);
        if (!snap_finish(&sub) && !cpu_state_check(s, STATE_ALL)) {
            return 0;
        }
    }
    r->failed = true;
    cpu_state_reset(s, false); /* a processor that waits does no harm */
    return -ERR_FORMAT;
}
