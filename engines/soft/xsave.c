/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR and the XSAVE family (Intel SDM volume 1, sections 10.5 and 13), LDMXCSR and
 * STMXCSR. State components: 0 x87, 1 SSE, 2 AVX, 9 PKRU; no supervisor components are offered.
 *
 *   0    FCW FSW FTW FOP FIP FDP | 24 MXCSR, mask | 32 ST | 160 XMM | 416 not written | 512 header
 *   standard:  AVX at 576, PKRU at the policy's offset
 *   compacted: the components of XCOMP_BV one after the other from 576
 *
 * XINUSE is computed by comparing with the initial values, so the init optimisation is as good as
 * it can be; the modified optimisation of XSAVEOPT and XSAVES is not used. FCS and FDS are 0
 * (CPUID.7.EBX[13]): without REX.W only the low halves of FIP and FDP are kept.
 *
 * XRSTOR reads everything before it changes anything. XSAVE may fault after having written a part,
 * which the restarted instruction writes again; the header is written last.
 */
#include "core/base/err.h"
#include "core/cpu/cpuid.h"
#include "engines/soft/vec.h"

enum {
    AVX_BYTES = 256,
    PKRU_BYTES = 8,
    HEADER_BYTES = 64,
    COMPONENT_X87 = 0,
    COMPONENT_SSE = 1,
    COMPONENT_AVX = 2,
    COMPONENT_PKRU = 9,
};

#define XCOMP_COMPACT BIT(63)

/* One save or restore: where, and what. */
struct area {
    struct soft_vcpu *c;
    const struct uop *u;
    u64 ea;
    u64 rfbm;
    bool wide; /* REX.W: 64-bit FIP and FDP */
    bool mode64;
    u64 compact; /* XCOMP_BV with bit 63 for the compacted format, 0: standard */
};

static const struct cpuid_policy *policy(const struct soft_vcpu *c) {
    return c->ev->vm->cpuid;
}

/* --- memory ------------------------------------------------------------------------------------
 */

static u64 area_linear(const struct area *a, u32 at, u32 size, enum access access) {
    u64 offset = a->ea + at;
    offset = a->u->addrsize == 8 ? offset : a->u->addrsize == 4 ? (u32)offset : (u16)offset;
    return soft_linear(a->c, a->u->seg, offset, size, access);
}

static void area_read(const struct area *a, u32 at, void *buf, u32 size) {
    soft_lin_read(a->c, area_linear(a, at, size, ACCESS_READ), buf, size, a->c->mmu);
}

static void area_write(const struct area *a, u32 at, const void *buf, u32 size) {
    soft_lin_write(a->c, area_linear(a, at, size, ACCESS_WRITE), buf, size, a->c->mmu);
}

static void area_begin(struct area *a, struct soft_vcpu *c, const struct uop *u, u32 align,
                       enum access access) {
    *a = (struct area){.c = c, .u = u, .ea = soft_ea(c, u)};
    a->mode64 = u->insn->mode == 64;
    a->wide = a->mode64 && (u->insn->rex & 8);
    u64 linear = area_linear(a, 0, 1, access);
    if (linear & (align - 1)) {
        soft_fault(c, c->align_check && (linear & 7) ? EXC_AC : EXC_GP, true, 0);
    }
    soft_vec_leave(c);
}

/* --- initial values ----------------------------------------------------------------------------
 */

static bool all_zero(const u8 *p, u32 n) {
    u64 any = 0;
    for (u32 i = 0; i < n; i += 8) {
        any |= get64(p + i);
    }
    return any == 0;
}

static u32 component_offset(const struct soft_vcpu *c, u32 component) {
    return component == COMPONENT_AVX ? (u32)XS_YMMH : policy(c)->pkru_offset;
}

static bool x87_initial(const u8 *x) {
    return get64(x) == FCW_DEFAULT && all_zero(x + 8, 16) && all_zero(x + XS_ST, XS_XMM - XS_ST);
}

/* XINUSE; MXCSR is not part of it here. */
static u64 in_use(const struct soft_vcpu *c) {
    const u8 *x = c->s.xsave;
    u64 bits = x87_initial(x) ? 0 : XCR0_X87;
    bits |= all_zero(x + XS_XMM, 256) ? 0 : XCR0_SSE;
    bits |= all_zero(x + XS_YMMH, AVX_BYTES) ? 0 : XCR0_AVX;
    return soft_pkru_get(c) ? bits | XCR0_PKRU : bits;
}

/* The XSAVE image as it stands between runs: after state_set and reset, before state_get. */
void soft_vec_state_loaded(struct soft_vcpu *c) {
    u8 *x = c->s.xsave;
    u64 bv = get64(x + XS_BV);
    if (c->vec) {
        c->vec->x87_live = false;
    }
    if (!(bv & XCR0_X87)) {
        vec_x87_init(x);
    }
    if (!(bv & XCR0_SSE)) {
        memset(x + XS_XMM, 0, 256);
    }
    if (!(bv & XCR0_AVX)) {
        memset(x + XS_YMMH, 0, AVX_BYTES);
    }
    if (!(bv & XCR0_PKRU)) {
        soft_pkru_set(c, 0);
    }
    put32(x + XS_MXCSR_MASK, c->vec ? c->vec->mxcsr_mask : 0xffff);
}

void soft_vec_state_store(struct soft_vcpu *c) {
    u8 *x = c->s.xsave;
    soft_vec_leave(c);
    u64 bv = in_use(c);
    bv |= get32(x + XS_MXCSR) != MXCSR_DEFAULT ? XCR0_SSE : 0;
    memset(x + XS_BV, 0, HEADER_BYTES);
    put64(x + XS_BV, bv);
}

int soft_vec_state_check(const struct soft_vcpu *c, const u8 *xsave, u64 xcr0) {
    u64 allowed = policy(c)->xcr0_allowed;
    u64 bv = get64(xsave + XS_BV) & ~XCR0_SSE; /* XMM registers are there without XSAVE, too */
    bool avx_alone = (xcr0 & (XCR0_SSE | XCR0_AVX)) == XCR0_AVX;
    if ((bv & ~allowed) || (xcr0 & ~allowed) || !(xcr0 & XCR0_X87) || avx_alone) {
        return -ERR_INVAL;
    }
    if (get64(xsave + XS_XCOMP) || (get32(xsave + XS_MXCSR) & ~c->vec->mxcsr_mask)) {
        return -ERR_INVAL;
    }
    return 0;
}

u32 soft_pkru_get(const struct soft_vcpu *c) {
    u32 at = policy(c)->pkru_offset;
    return at ? get32(c->s.xsave + at) : 0;
}

void soft_pkru_set(struct soft_vcpu *c, u32 value) {
    u32 at = policy(c)->pkru_offset;
    if (at) {
        put64(c->s.xsave + at, value);
    }
}

/* --- legacy region -----------------------------------------------------------------------------
 */

static u32 xmm_bytes(const struct area *a) {
    return a->mode64 ? 256 : 128;
}

/* x87 part as it appears in memory: bytes 0..23 and 32..159. */
static void x87_pack(const struct area *a, u8 *out) {
    const u8 *x = a->c->s.xsave;
    memcpy(out, x, XS_XMM);
    if (!a->wide) {
        put64(out + XS_FIP, get32(x + XS_FIP));
        put64(out + XS_FDP, get32(x + XS_FDP));
    }
    out[XS_FTW + 1] = 0;
}

/* The x87 unit keeps FIP as a linear address, sign-extended from its width (but all of FDP). */
static u64 pointer_kept(const struct soft_vcpu *c, u64 v) {
    u32 above = 64u - (c->vec->linear_bits ? c->vec->linear_bits : 48u);
    return (u64)((s64)(v << above) >> above);
}

static void x87_unpack(const struct area *a, const u8 *in) {
    u8 *x = a->c->s.xsave;
    memcpy(x, in, XS_MXCSR);
    memset(x + XS_ST, 0, XS_XMM - XS_ST);
    for (u32 n = 0; n < 8; n++) {
        memcpy(x + XS_ST + 16 * n, in + XS_ST + 16 * n, 10);
    }
    u16 fcw = (u16)((get16(in + XS_FCW) & 0x1f7f) | 0x40);
    put16(x + XS_FCW, fcw);
    put16(x + XS_FSW, x87_summary(get16(in + XS_FSW), fcw));
    x[XS_FTW + 1] = 0;
    put16(x + XS_FOP, get16(in + XS_FOP) & 0x7ff);
    u64 fip = get64(in + XS_FIP), fdp = get64(in + XS_FDP);
    put64(x + XS_FIP, a->wide ? pointer_kept(a->c, fip) : (u32)fip);
    put64(x + XS_FDP, a->wide ? fdp : (u32)fdp);
}

static void check_mxcsr(struct soft_vcpu *c, u32 value) {
    if (value & ~c->vec->mxcsr_mask) {
        soft_gp(c, 0);
    }
}

/* --- FXSAVE, FXRSTOR ---------------------------------------------------------------------------
 */

static void fxsave(struct soft_vcpu *c, const struct uop *u) {
    struct area a;
    u8 out[XS_LEGACY];
    area_begin(&a, c, u, 16, ACCESS_WRITE);
    /* all 512 bytes must be there, though not all are written */
    soft_lin_probe(c, area_linear(&a, 0, 512, ACCESS_WRITE), 512, ACCESS_WRITE, c->mmu);
    x87_pack(&a, out);
    put32(out + XS_MXCSR_MASK, c->vec->mxcsr_mask);
    memcpy(out + XS_XMM, c->s.xsave + XS_XMM, xmm_bytes(&a));
    area_write(&a, 0, out, XS_XMM + xmm_bytes(&a));
    NEXT(c, u);
}

static void fxrstor(struct soft_vcpu *c, const struct uop *u) {
    struct area a;
    u8 in[512];
    area_begin(&a, c, u, 16, ACCESS_READ);
    area_read(&a, 0, in, sizeof(in));
    check_mxcsr(c, get32(in + XS_MXCSR));
    x87_unpack(&a, in);
    put32(c->s.xsave + XS_MXCSR, get32(in + XS_MXCSR));
    memcpy(c->s.xsave + XS_XMM, in + XS_XMM, xmm_bytes(&a));
    NEXT(c, u);
}

/* --- XSAVE, XSAVEOPT, XSAVEC, XSAVES -----------------------------------------------------------
 */

static u64 edx_eax(const struct soft_vcpu *c) {
    return c->s.gpr[GPR_RDX] << 32 | (u32)c->s.gpr[GPR_RAX];
}

/* Offset of PKRU in the area: AVX comes before it, at 576. */
static u32 area_pkru(const struct area *a) {
    if (!a->compact) {
        return policy(a->c)->pkru_offset;
    }
    return XS_YMMH + (a->compact & XCR0_AVX ? (u32)AVX_BYTES : 0);
}

static void save_extended(const struct area *a, u64 which) {
    const u8 *x = a->c->s.xsave;
    if (which & XCR0_AVX) {
        area_write(a, XS_YMMH, x + XS_YMMH, xmm_bytes(a));
    }
    if (which & XCR0_PKRU) {
        area_write(a, area_pkru(a), x + component_offset(a->c, COMPONENT_PKRU), PKRU_BYTES);
    }
}

static void save_mxcsr(const struct area *a) {
    u8 out[8];
    put32(out, get32(a->c->s.xsave + XS_MXCSR));
    put32(out + 4, a->c->vec->mxcsr_mask);
    area_write(a, XS_MXCSR, out, sizeof(out));
}

/* The components `which`, MXCSR apart. */
static void save_components(const struct area *a, u64 which) {
    u8 out[XS_XMM];
    if (which & XCR0_X87) {
        x87_pack(a, out);
        area_write(a, 0, out, XS_MXCSR);
        area_write(a, XS_ST, out + XS_ST, XS_XMM - XS_ST);
    }
    if (which & XCR0_SSE) {
        area_write(a, XS_XMM, a->c->s.xsave + XS_XMM, xmm_bytes(a));
    }
    save_extended(a, which);
}

static void xsave_standard(struct soft_vcpu *c, const struct uop *u, bool optimise) {
    struct area a;
    u8 old[8];
    area_begin(&a, c, u, 64, ACCESS_WRITE);
    a.rfbm = edx_eax(c) & c->s.xcr0;
    area_read(&a, XS_BV, old, sizeof(old));
    u64 used = in_use(c);
    save_components(&a, optimise ? a.rfbm & used : a.rfbm);
    if (a.rfbm & (XCR0_SSE | XCR0_AVX)) {
        save_mxcsr(&a);
    }
    put64(old, (get64(old) & ~a.rfbm) | (used & a.rfbm));
    area_write(&a, XS_BV, old, sizeof(old));
    NEXT(c, u);
}

static void xsave(struct soft_vcpu *c, const struct uop *u) {
    xsave_standard(c, u, false);
}

static void xsaveopt(struct soft_vcpu *c, const struct uop *u) {
    xsave_standard(c, u, true);
}

/* XSS holds no bit that the policy allows, so XSAVES differs from XSAVEC by its privilege. */
static void xsave_compact(struct soft_vcpu *c, const struct uop *u) {
    struct area a;
    u8 header[16];
    area_begin(&a, c, u, 64, ACCESS_WRITE);
    a.rfbm = edx_eax(c) & c->s.xcr0;
    a.compact = a.rfbm | XCOMP_COMPACT;
    u64 used = in_use(c) | (get32(c->s.xsave + XS_MXCSR) != MXCSR_DEFAULT ? XCR0_SSE : 0);
    used &= a.rfbm;
    save_components(&a, used);
    if (used & XCR0_SSE) {
        save_mxcsr(&a);
    }
    put64(header, used);
    put64(header + 8, a.compact);
    area_write(&a, XS_BV, header, sizeof(header));
    NEXT(c, u);
}

/* --- XRSTOR, XRSTORS ---------------------------------------------------------------------------
 */

/* What was read, before anything is changed. */
struct restore {
    u8 header[HEADER_BYTES];
    u8 legacy[XS_LEGACY];
    u8 avx[AVX_BYTES];
    u8 pkru[PKRU_BYTES];
    u64 load; /* components from memory; those of RFBM beside them become initial */
    bool mxcsr;
};

/* The header's rules: SDM volume 1, 13.8. */
static void check_header(struct area *a, struct restore *r, bool supervisor) {
    struct soft_vcpu *c = a->c;
    u64 bv = get64(r->header), comp = get64(r->header + 8);
    bool compact = comp & XCOMP_COMPACT;
    bool bad;
    if (compact) {
        bad = !(policy(c)->features & BIT(FEATURE_XSAVEC)) ||
              (comp & ~XCOMP_COMPACT & ~c->s.xcr0) || (bv & ~comp) ||
              !all_zero(r->header + 16, HEADER_BYTES - 16);
    } else {
        bad = supervisor || (bv & ~c->s.xcr0) || comp || get64(r->header + 16);
    }
    if (bad) {
        soft_gp(c, 0);
    }
    a->compact = comp; /* 0 in the standard format */
    r->load = bv & a->rfbm;
    r->mxcsr = compact ? (r->load & XCR0_SSE) != 0 : (a->rfbm & (XCR0_SSE | XCR0_AVX)) != 0;
}

static void restore_read(const struct area *a, struct restore *r) {
    if (r->load & XCR0_X87) {
        area_read(a, 0, r->legacy, XS_XMM);
    }
    if (r->mxcsr) {
        area_read(a, XS_MXCSR, r->legacy + XS_MXCSR, 4);
        check_mxcsr(a->c, get32(r->legacy + XS_MXCSR));
    }
    if (r->load & XCR0_SSE) {
        area_read(a, XS_XMM, r->legacy + XS_XMM, xmm_bytes(a));
    }
    if (r->load & XCR0_AVX) {
        area_read(a, XS_YMMH, r->avx, xmm_bytes(a));
    }
    if (r->load & XCR0_PKRU) {
        area_read(a, area_pkru(a), r->pkru, PKRU_BYTES);
    }
}

static void pkru_change(struct soft_vcpu *c, u32 value) {
    if (soft_pkru_get(c) != value) {
        soft_pkru_set(c, value);
        soft_tlb_flush_all(c);
    }
}

static void restore_vectors(const struct area *a, const struct restore *r) {
    u8 *x = a->c->s.xsave;
    if (a->rfbm & XCR0_SSE) {
        if (r->load & XCR0_SSE) {
            memcpy(x + XS_XMM, r->legacy + XS_XMM, xmm_bytes(a));
        } else {
            memset(x + XS_XMM, 0, xmm_bytes(a));
        }
    }
    if (a->rfbm & XCR0_AVX) {
        if (r->load & XCR0_AVX) {
            memcpy(x + XS_YMMH, r->avx, xmm_bytes(a));
        } else {
            memset(x + XS_YMMH, 0, xmm_bytes(a));
        }
    }
    if (r->mxcsr) {
        put32(x + XS_MXCSR, get32(r->legacy + XS_MXCSR));
    } else if (a->compact && (a->rfbm & XCR0_SSE)) {
        put32(x + XS_MXCSR, MXCSR_DEFAULT);
    }
}

static void restore_apply(const struct area *a, const struct restore *r) {
    if (r->load & XCR0_X87) {
        x87_unpack(a, r->legacy);
    } else if (a->rfbm & XCR0_X87) {
        vec_x87_init(a->c->s.xsave);
    }
    restore_vectors(a, r);
    if (a->rfbm & XCR0_PKRU) {
        pkru_change(a->c, r->load & XCR0_PKRU ? get32(r->pkru) : 0);
    }
}

static void xrstor_any(struct soft_vcpu *c, const struct uop *u, bool supervisor) {
    struct area a;
    struct restore r;
    area_begin(&a, c, u, 64, ACCESS_READ);
    a.rfbm = edx_eax(c) & c->s.xcr0;
    area_read(&a, XS_BV, r.header, sizeof(r.header));
    check_header(&a, &r, supervisor);
    restore_read(&a, &r);
    restore_apply(&a, &r);
    NEXT(c, u);
}

static void xrstor(struct soft_vcpu *c, const struct uop *u) {
    xrstor_any(c, u, false);
}

static void xrstors(struct soft_vcpu *c, const struct uop *u) {
    xrstor_any(c, u, true);
}

/* --- MXCSR -------------------------------------------------------------------------------------
 */

static void ldmxcsr(struct soft_vcpu *c, const struct uop *u) {
    u32 value = (u32)soft_load(c, u, 4);
    check_mxcsr(c, value);
    put32(c->s.xsave + XS_MXCSR, value);
    NEXT(c, u);
}

static void stmxcsr(struct soft_vcpu *c, const struct uop *u) {
    soft_store(c, u, 4, get32(c->s.xsave + XS_MXCSR));
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

static void raise_gp(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_gp(c, 0);
}

struct xsave_form {
    u16 id;
    u8 rule;
    uop_fn fn;
};

enum { RULE_FX, RULE_XSAVE, RULE_SUPERVISOR, RULE_SSE, RULE_AVX };

static const struct xsave_form xsave_forms[] = {
    {INSN_FXSAVE, RULE_FX, fxsave},
    {INSN_FXSAVE64, RULE_FX, fxsave},
    {INSN_FXRSTOR, RULE_FX, fxrstor},
    {INSN_FXRSTOR64, RULE_FX, fxrstor},
    {INSN_XSAVE, RULE_XSAVE, xsave},
    {INSN_XSAVE64, RULE_XSAVE, xsave},
    {INSN_XSAVEOPT, RULE_XSAVE, xsaveopt},
    {INSN_XSAVEOPT64, RULE_XSAVE, xsaveopt},
    {INSN_XSAVEC, RULE_XSAVE, xsave_compact},
    {INSN_XSAVEC64, RULE_XSAVE, xsave_compact},
    {INSN_XSAVES, RULE_SUPERVISOR, xsave_compact},
    {INSN_XSAVES64, RULE_SUPERVISOR, xsave_compact},
    {INSN_XRSTOR, RULE_XSAVE, xrstor},
    {INSN_XRSTOR64, RULE_XSAVE, xrstor},
    {INSN_XRSTORS, RULE_SUPERVISOR, xrstors},
    {INSN_XRSTORS64, RULE_SUPERVISOR, xrstors},
    {INSN_LDMXCSR, RULE_SSE, ldmxcsr},
    {INSN_STMXCSR, RULE_SSE, stmxcsr},
    {INSN_VLDMXCSR, RULE_AVX, ldmxcsr},
    {INSN_VSTMXCSR, RULE_AVX, stmxcsr},
};

static const struct xsave_form *form_find(u16 id) {
    for (u32 n = 0; n < ARRAY_LEN(xsave_forms); n++) {
        if (xsave_forms[n].id == id) {
            return &xsave_forms[n];
        }
    }
    return NULL;
}

bool vec_is_xsave(u16 id) {
    return form_find(id) != NULL;
}

static uop_fn rule_fault(u8 rule, u64 key) {
    bool ts = key & KEY_TS, em = key & KEY_EM;
    switch (rule) {
    case RULE_FX:
        return em || ts ? vec_nm() : NULL;
    case RULE_SSE:
        return em || !(key & KEY_OSFXSR) ? vec_ud() : ts ? vec_nm() : NULL;
    case RULE_AVX:
        if (!(key & KEY_PE) || (key & KEY_V86) || !(key & KEY_AVX)) {
            return vec_ud();
        }
        return ts ? vec_nm() : NULL;
    default:
        if (!(key & KEY_OSXSAVE)) {
            return vec_ud();
        }
        if (ts) {
            return vec_nm();
        }
        return rule == RULE_SUPERVISOR && (key & KEY_CPL) ? raise_gp : NULL;
    }
}

bool vec_bind_xsave(struct bind *b) {
    const struct xsave_form *form = form_find(b->insn->id);
    if (!form) {
        return false;
    }
    uop_fn fault = rule_fault(form->rule, b->c->mode_key);
    b->uop->fn = fault ? fault : form->fn;
    return true;
}
