/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT. Segment registers get fixed contents; no
 * descriptor is read. Where the policy says AMD, SYSCALL also works outside 64-bit mode and
 * SYSENTER and SYSEXIT do not in long mode; else it is the other way round, as on Intel.
 *
 * Intel SDM volume 2, the four instructions; AMD APM volume 3, the same; volume 3, section 6.8.7
 * and 6.8.8. A single-step trap after SYSCALL and SYSRET goes by the new value of TF.
 */
#include "core/cpu/cpuid.h"
#include "engines/soft/sys.h"

#define ATTR_DPL3 (3u << SEG_ATTR_DPL_SHIFT)

static void set_flat(struct soft_vcpu *c, u16 cs, u32 cs_attr, u16 ss, u32 dpl) {
    seg_set_flat(&c->s.seg[SEG_CS], cs, cs_attr | dpl);
    seg_set_flat(&c->s.seg[SEG_SS], ss, ATTR_FLAT_SS | dpl);
}

/* The trap that TF asks for comes at once, not after one more instruction. */
static void step_by_new_tf(struct soft_vcpu *c) {
    if (!(c->s.rflags & FLAG_TF)) {
        c->step_armed = false;
    } else if (!c->step_armed) {
        c->dr6_pending |= BIT(14); /* BS */
        soft_mode_update(c);
    }
}

static bool is_amd(const struct soft_vcpu *c) {
    return c->ev->vm->cpuid->amd;
}

static void check_syscall(struct soft_vcpu *c) {
    bool here = c->mode == 64 || (is_amd(c) && in_protected(c));
    if (!here || !(c->s.msr.efer & EFER_SCE)) {
        soft_ud(c);
    }
}

/* AMD outside long mode: the target is in STAR. */
static void syscall_legacy(struct soft_vcpu *c, u16 cs) {
    c->s.gpr[GPR_RCX] = (u32)soft_rip_after(c);
    set_flat(c, cs, ATTR_FLAT_CS32, (u16)(cs + 8), 0);
    soft_goto(c, (u32)c->s.msr.star);
    flags_load(c, 0, FLAG_VM | FLAG_IF | FLAG_RF);
}

void soft_syscall(struct soft_vcpu *c) {
    if (LIKELY(short_syscall(c))) {
        return;
    }
    u64 flags = (soft_rflags(c) | 2) & ~(u64)FLAG_RF;
    u16 cs = (u16)(c->s.msr.star >> 32) & 0xfffc;
    check_syscall(c);
    if (!c->long_mode) {
        syscall_legacy(c, cs);
        return;
    }
    u64 entry = c->mode == 64 ? c->s.msr.lstar : c->s.msr.cstar;
    c->s.gpr[GPR_RCX] = soft_rip_after(c);
    c->s.gpr[GPR_R11] = flags;
    set_flat(c, cs, ATTR_FLAT_CS64, (u16)(cs + 8), 0);
    soft_goto(c, entry);
    soft_rflags_set(c, (flags & ~c->s.msr.sfmask) | 2);
    soft_mode_update(c);
    step_by_new_tf(c);
}

void soft_sysret(struct soft_vcpu *c, u32 opsize) {
    bool wide = opsize == 8;
    if (LIKELY(wide && short_sysret(c))) {
        return;
    }
    u16 base = (u16)(c->s.msr.star >> 48);
    u64 rip = c->s.gpr[GPR_RCX];
    check_syscall(c);
    if (c->cpl != 0 || (wide && !is_canonical(rip))) {
        soft_gp(c, 0);
    }
    set_flat(c, (u16)((wide ? base + 16 : base) | 3), wide ? ATTR_FLAT_CS64 : ATTR_FLAT_CS32,
             (u16)((base + 8) | 3), ATTR_DPL3);
    soft_goto(c, wide ? rip : (u32)rip);
    if (c->long_mode) {
        flags_load(c, c->s.gpr[GPR_R11], 0x3c7fd7);
    } else {
        flags_load(c, FLAG_IF, FLAG_IF);
    }
    step_by_new_tf(c);
}

void soft_sysenter(struct soft_vcpu *c) {
    u16 cs = (u16)c->s.msr.sysenter_cs & 0xfffc;
    if (c->long_mode && is_amd(c)) {
        soft_ud(c);
    }
    if (in_real_mode(c) || cs == 0) {
        soft_gp(c, 0);
    }
    bool wide = c->long_mode;
    c->s.rflags &= ~(u64)(FLAG_VM | FLAG_IF | FLAG_RF);
    set_flat(c, cs, wide ? ATTR_FLAT_CS64 : ATTR_FLAT_CS32, (u16)(cs + 8), 0);
    c->s.gpr[GPR_RSP] = wide ? c->s.msr.sysenter_esp : (u32)c->s.msr.sysenter_esp;
    soft_goto(c, wide ? c->s.msr.sysenter_eip : (u32)c->s.msr.sysenter_eip);
    soft_mode_update(c);
}

void soft_sysexit(struct soft_vcpu *c, u32 opsize) {
    u16 cs = (u16)c->s.msr.sysenter_cs & 0xfffc;
    u64 rip = c->s.gpr[GPR_RDX], rsp = c->s.gpr[GPR_RCX];
    bool wide = opsize == 8;
    if (c->long_mode && is_amd(c)) {
        soft_ud(c);
    }
    if (cs == 0 || in_real_mode(c) || c->cpl != 0) {
        soft_gp(c, 0);
    }
    if (wide && (!is_canonical(rip) || !is_canonical(rsp))) {
        soft_gp(c, 0);
    }
    set_flat(c, (u16)((cs + (wide ? 32 : 16)) | 3), wide ? ATTR_FLAT_CS64 : ATTR_FLAT_CS32,
             (u16)((cs + (wide ? 40 : 24)) | 3), ATTR_DPL3);
    c->s.gpr[GPR_RSP] = wide ? rsp : (u32)rsp;
    soft_goto(c, wide ? rip : (u32)rip);
    soft_mode_update(c);
}
