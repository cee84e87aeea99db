/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers that are state of the processor: what each holds, which values it takes.
 * One table for every engine. The machine's own MSRs (local APIC, TSC deadline) are not here: see
 * callout_rdmsr. IA32_TIME_STAMP_COUNTER is: s->msr.tsc must be current when it is read.
 *
 * Intel SDM volume 4, chapter 2. Lock rule: none, the caller owns the state.
 */
#ifndef CORE_CPU_MSR_H
#define CORE_CPU_MSR_H

#include "core/base/types.h"

struct cpu_state;
struct cpuid_policy;

enum msr_index {
    MSR_P5_MC_ADDR = 0x0,
    MSR_P5_MC_TYPE = 0x1,
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_SMI_COUNT = 0x34,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDT_TRIG = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_FLUSH_CMD = 0x10b,
    MSR_BBL_CR_CTL3 = 0x11e,
    MSR_MISC_FEATURES_ENABLES = 0x140,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MCG_CTL = 0x17b,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LASTBRANCHFROMIP = 0x1db,
    MSR_LASTBRANCHTOIP = 0x1dc,
    MSR_LASTINTFROMIP = 0x1dd,
    MSR_LASTINTTOIP = 0x1de,
    MSR_MTRR_VAR = 0x200, /* base, mask pairs */
    MSR_MTRR_FIX64K_00000 = 0x250,
    MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX16K_A0000 = 0x259,
    MSR_MTRR_FIX4K_C0000 = 0x268, /* to 0x26f */
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_MC0_CTL = 0x400, /* CTL, STATUS, ADDR, MISC per bank */
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
    MSR_XSS = 0xda0,
    MSR_EFER = 0xc0000080,
    MSR_STAR = 0xc0000081,
    MSR_LSTAR = 0xc0000082,
    MSR_CSTAR = 0xc0000083,
    MSR_SFMASK = 0xc0000084,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    MSR_KERNEL_GS_BASE = 0xc0000102,
    MSR_TSC_AUX = 0xc0000103,
    /* AMD */
    MSR_AMD_SYSCFG = 0xc0010010,
    MSR_AMD_HWCR = 0xc0010015,
    MSR_AMD_NB_CFG = 0xc001001f,
    MSR_AMD_PATCH_LOADER = 0xc0010020,
    MSR_AMD_VM_CR = 0xc0010114,
    MSR_AMD_LS_CFG = 0xc0011020,
    MSR_AMD_DC_CFG = 0xc0011022,
    MSR_AMD_BU_CFG = 0xc0011023,
    MSR_AMD_DE_CFG = 0xc0011029,
    MSR_AMD_BU_CFG2 = 0xc001102a,
};

enum { MSR_MC_BANKS = 10, MSR_MICROCODE_REVISION = 0x1 };

/* 0, or -ERR_INVAL where RDMSR raises #GP(0): unknown, or not offered by the policy. */
int msr_read(const struct cpu_state *s, const struct cpuid_policy *p, u32 index, u64 *value);

/*
 * 0, or -ERR_INVAL where WRMSR raises #GP(0), and then nothing changed. Effects beyond the state
 * (EFER.NXE and translations, FS/GS base in an engine's own registers) are the engine's.
 */
int msr_write(struct cpu_state *s, const struct cpuid_policy *p, u32 index, u64 value);

/* EFER bits that may be set under the policy; LMA is never written. */
u64 msr_efer_valid(const struct cpuid_policy *p);

/* The MSRs that struct cpu_state keeps and that an engine with its own MSRs (KVM) must carry over:
 * index 0.. in order, or -ERR_RANGE behind the last. */
int msr_state_list(u32 n, u32 *index);

#endif
