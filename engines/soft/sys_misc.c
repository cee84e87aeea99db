/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSRs and the remaining system instructions: RDMSR, WRMSR, RDPMC, XGETBV, XSETBV, RDPKRU, WRPKRU,
 * SWAPGS, RD/WRFSBASE and GSBASE, INVLPG, INVPCID, INVD, WBINVD, HLT, and those that no policy
 * offers, which are #UD.
 *
 * Intel SDM volume 2, the instructions. State-only MSRs are core/cpu/msr.c's, the machine's go
 * through callouts.
 */
#include "core/cpu/cpuid.h"
#include "core/cpu/msr.h"
#include "core/if/callout.h"
#include "engines/soft/sys.h"
#include "engines/soft/vec.h"

static void need_cpl0(struct soft_vcpu *c) {
    if (c->cpl != 0) {
        soft_gp(c, 0);
    }
}

static u64 edx_eax(const struct soft_vcpu *c) {
    return (u32)c->s.gpr[GPR_RAX] | c->s.gpr[GPR_RDX] << 32;
}

static void set_edx_eax(struct soft_vcpu *c, u64 value) {
    c->s.gpr[GPR_RAX] = (u32)value;
    c->s.gpr[GPR_RDX] = value >> 32;
}

/* --- MSRs ------------------------------------------------------------------------------------- */

static const struct cpuid_policy *policy(const struct soft_vcpu *c) {
    return c->ev->vm->cpuid;
}

static void op_rdmsr(struct soft_vcpu *c, const struct uop *u) {
    u32 index = (u32)c->s.gpr[GPR_RCX];
    u64 value = 0;
    need_cpl0(c);
    if (index == MSR_TSC) {
        c->s.msr.tsc = soft_tsc(c);
    }
    if (msr_read(&c->s, policy(c), index, &value)) {
        soft_guest_leave(c);
        int rc = callout_rdmsr(c->ev, index, &value);
        soft_guest_enter(c);
        if (rc) {
            soft_gp(c, 0);
        }
    }
    set_edx_eax(c, value);
    NEXT(c, u);
}

/* What a write means beyond the state. */
static void msr_written(struct soft_vcpu *c, u32 index, u64 old_efer) {
    if (index == MSR_TSC || index == MSR_TSC_ADJUST) {
        soft_tsc_set(c, c->s.msr.tsc);
        soft_guest_leave(c);
        callout_tsc_changed(c->ev);
        soft_guest_enter(c);
        c->leave |= SOFT_LEAVE_LOOP; /* the deadline may be over */
    }
    if (index == MSR_EFER) {
        if ((old_efer ^ c->s.msr.efer) & EFER_NXE) {
            soft_tlb_flush_all(c);
        }
        c->leave |= SOFT_LEAVE_LOOP;
    }
    soft_mode_update(c);
}

static void op_wrmsr(struct soft_vcpu *c, const struct uop *u) {
    u32 index = (u32)c->s.gpr[GPR_RCX];
    u64 value = edx_eax(c), old_efer = c->s.msr.efer;
    (void)u;
    need_cpl0(c);
    if (index == MSR_TSC || index == MSR_TSC_ADJUST) {
        c->s.msr.tsc = soft_tsc(c);
    }
    if (!msr_write(&c->s, policy(c), index, value)) {
        msr_written(c, index, old_efer);
        GOTO_RIP(c, soft_rip_after(c));
    }
    soft_guest_leave(c);
    int rc = callout_wrmsr(c->ev, index, value);
    soft_guest_enter(c);
    if (rc) {
        soft_gp(c, 0);
    }
    if (index == MSR_APIC_BASE) {
        c->s.msr.apic_base = value; /* CPUID shows whether the APIC is on */
    }
    c->leave |= SOFT_LEAVE_LOOP; /* an interrupt may have become pending */
    GOTO_RIP(c, soft_rip_after(c));
}

/* No performance counters: every index is invalid. */
static void op_rdpmc(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_gp(c, 0);
}

/* --- XCR0, PKRU ------------------------------------------------------------------------------- */

static void need_osxsave(struct soft_vcpu *c) {
    if (!(c->s.cr4 & CR4_OSXSAVE)) {
        soft_ud(c);
    }
}

static void op_xgetbv(struct soft_vcpu *c, const struct uop *u) {
    need_osxsave(c);
    if ((u32)c->s.gpr[GPR_RCX] != 0) {
        soft_gp(c, 0);
    }
    set_edx_eax(c, c->s.xcr0);
    NEXT(c, u);
}

static void op_xsetbv(struct soft_vcpu *c, const struct uop *u) {
    u64 value = edx_eax(c);
    (void)u;
    need_osxsave(c);
    need_cpl0(c);
    bool avx_alone = (value & XCR0_AVX) && !(value & XCR0_SSE);
    if ((u32)c->s.gpr[GPR_RCX] != 0 || !(value & XCR0_X87) || avx_alone ||
        (value & ~policy(c)->xcr0_allowed)) {
        soft_gp(c, 0);
    }
    c->s.xcr0 = value;
    soft_mode_update(c);
    GOTO_RIP(c, soft_rip_after(c));
}

static void need_pke(struct soft_vcpu *c) {
    if (!(c->s.cr4 & CR4_PKE)) {
        soft_ud(c);
    }
    if ((u32)c->s.gpr[GPR_RCX] != 0) {
        soft_gp(c, 0);
    }
}

static void op_rdpkru(struct soft_vcpu *c, const struct uop *u) {
    need_pke(c);
    set_edx_eax(c, soft_pkru_get(c));
    NEXT(c, u);
}

static void op_wrpkru(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    need_pke(c);
    if ((u32)c->s.gpr[GPR_RDX] != 0) {
        soft_gp(c, 0);
    }
    if (soft_pkru_get(c) != (u32)c->s.gpr[GPR_RAX]) {
        soft_pkru_set(c, (u32)c->s.gpr[GPR_RAX]);
        soft_tlb_flush_all(c); /* translations hold the rights that PKRU gave */
    }
    GOTO_RIP(c, soft_rip_after(c));
}

/* --- FS and GS bases -------------------------------------------------------------------------- */

static void op_swapgs(struct soft_vcpu *c, const struct uop *u) {
    if (c->mode != 64) {
        soft_ud(c);
    }
    need_cpl0(c);
    u64 base = c->s.seg[SEG_GS].base;
    c->s.seg[SEG_GS].base = c->s.msr.kernel_gs_base;
    c->s.msr.kernel_gs_base = base;
    NEXT(c, u);
}

static void need_fsgsbase(struct soft_vcpu *c) {
    if (c->mode != 64 || !(c->s.cr4 & CR4_FSGSBASE)) {
        soft_ud(c);
    }
}

static void op_rdbase(struct soft_vcpu *c, const struct uop *u) {
    need_fsgsbase(c);
    soft_gpr_set(c, u->dst, u->opsize, c->s.seg[u->src].base);
    NEXT(c, u);
}

static void op_wrbase(struct soft_vcpu *c, const struct uop *u) {
    need_fsgsbase(c);
    u64 value = soft_gpr_get(c, u->dst, u->opsize);
    if (!is_canonical(value)) {
        soft_gp(c, 0);
    }
    c->s.seg[u->src].base = value;
    NEXT(c, u);
}

/* --- caches and translations ------------------------------------------------------------------ */

static void op_invlpg(struct soft_vcpu *c, const struct uop *u) {
    need_cpl0(c);
    u64 linear = soft_ea(c, u);
    if (c->mode != 64) {
        linear = (u32)(linear + c->s.seg[u->seg].base);
    } else if (u->seg == SEG_FS || u->seg == SEG_GS) {
        linear += c->s.seg[u->seg].base;
    }
    if (c->mode != 64 || is_canonical(linear)) {
        soft_tlb_flush_page(c, linear);
    }
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_invpcid(struct soft_vcpu *c, const struct uop *u) {
    u64 desc[2];
    if (in_v86(c)) {
        soft_gp(c, 0);
    }
    need_cpl0(c);
    u64 type = soft_gpr_get(c, u->dst, c->mode == 64 ? 8 : 4);
    soft_lin_read(c, soft_linear(c, u->seg, soft_ea(c, u), 16, ACCESS_READ), desc, 16, c->mmu);
    bool needs_zero = type < 2 && !(c->s.cr4 & CR4_PCIDE) && (desc[0] & 0xfff);
    if (type > 3 || desc[0] >> 12 || needs_zero || (type == 0 && !is_canonical(desc[1]))) {
        soft_gp(c, 0);
    }
    soft_tlb_invpcid(c, (u32)type, (u16)(desc[0] & 0xfff), desc[1]);
    GOTO_RIP(c, soft_rip_after(c));
}

/* INVD, WBINVD: the host's caches are coherent; nothing to do. */
static void op_cache(struct soft_vcpu *c, const struct uop *u) {
    need_cpl0(c);
    NEXT(c, u);
}

/* --- the rest --------------------------------------------------------------------------------- */

static void op_hlt(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    need_cpl0(c);
    if (c->exit) {
        c->exit->kind = EXIT_HLT;
        c->exit->insn_len = 1;
    }
    c->leave |= SOFT_LEAVE_EXIT;
    GOTO_RIP(c, soft_rip_after(c));
}

static void op_ud(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_ud(c);
}

/* --- binding ---------------------------------------------------------------------------------- */

static const struct {
    u16 id;
    bool last;
    uop_fn fn;
} table[] = {
    {INSN_RDMSR, false, op_rdmsr},    {INSN_WRMSR, true, op_wrmsr},
    {INSN_RDPMC, false, op_rdpmc},    {INSN_XGETBV, false, op_xgetbv},
    {INSN_XSETBV, true, op_xsetbv},   {INSN_RDPKRU, false, op_rdpkru},
    {INSN_WRPKRU, true, op_wrpkru},   {INSN_SWAPGS, false, op_swapgs},
    {INSN_INVLPG, true, op_invlpg},   {INSN_INVPCID, true, op_invpcid},
    {INSN_INVD, false, op_cache},     {INSN_WBINVD, false, op_cache},
    {INSN_WBNOINVD, false, op_cache}, {INSN_HLT, true, op_hlt},
};

/* Known to the decoder, offered to nobody. */
static const u16 undefined[] = {
    INSN_UD0,     INSN_UD1,     INSN_UD2,      INSN_RSM,      INSN_MONITOR, INSN_MWAIT,
    INSN_VMCALL,  INSN_VMMCALL, INSN_VMLAUNCH, INSN_VMRESUME, INSN_VMXOFF,  INSN_VMXON,
    INSN_VMCLEAR, INSN_VMPTRLD, INSN_VMPTRST,  INSN_VMREAD,   INSN_VMWRITE, INSN_VMFUNC,
    INSN_INVEPT,  INSN_INVVPID, INSN_VMRUN,    INSN_VMLOAD,   INSN_VMSAVE,  INSN_STGI,
    INSN_CLGI,    INSN_SKINIT,  INSN_INVLPGA,  INSN_GETSEC,   INSN_ENCLS,   INSN_ENCLU,
    INSN_ENCLV,   INSN_PCONFIG,
};

static bool bind_base(struct bind *b) {
    struct uop *u = b->uop;
    u->dst = b->insn->op[0].reg;
    u->opsize = b->insn->rex & 8 ? 8 : 4; /* whatever 66 says */
    switch (b->insn->id) {
    case INSN_RDFSBASE:
    case INSN_RDGSBASE:
        u->src = b->insn->id == INSN_RDFSBASE ? SEG_FS : SEG_GS;
        u->fn = op_rdbase;
        return true;
    case INSN_WRFSBASE:
    case INSN_WRGSBASE:
        u->src = b->insn->id == INSN_WRFSBASE ? SEG_FS : SEG_GS;
        u->fn = op_wrbase;
        return true;
    default:
        return false;
    }
}

bool bind_sys_misc(struct bind *b) {
    for (u32 i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].id == b->insn->id) {
            b->uop->fn = table[i].fn;
            b->uop->dst = b->insn->op[0].reg;
            b->last = table[i].last;
            return true;
        }
    }
    for (u32 i = 0; i < ARRAY_LEN(undefined); i++) {
        if (undefined[i] == b->insn->id) {
            b->uop->fn = op_ud;
            b->last = true;
            return true;
        }
    }
    return bind_base(b);
}
