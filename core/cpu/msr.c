/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of model-specific registers: who has each, where its value lives, and which values it
 * takes. An index that is not in the table, or whose feature the policy withholds, raises #GP.
 *
 * Intel SDM volume 4, chapter 2; volume 3, sections 10.11 (SYSENTER, SYSCALL), 12.11 (MTRRs), 12.12
 * (PAT), 16.3 (machine check). A few of AMD's registers read as 0 for kernels that touch them
 * without asking. Left out: performance counters, last-branch records, power management.
 */
#include "core/cpu/msr.h"

#include "core/base/err.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/state.h"

/* How a value is checked and where it goes. */
enum msr_kind {
    KIND_STATE,     /* a u64 of struct cpu_state; writes: bits outside mask are #GP */
    KIND_CANONICAL, /* a u64 of struct cpu_state that must be canonical */
    KIND_CONST,     /* reads as mask; writes are #GP */
    KIND_IGNORE,    /* reads as mask; writes vanish */
    KIND_COMMAND,   /* not readable; writes of bits in mask do nothing here */
    KIND_SPECIAL,   /* read_special, write_special */
};

struct msr_def {
    u32 first, count;
    u8 kind;
    bool amd;   /* only where the vendor is AMD */
    u16 offset; /* in struct cpu_state, for KIND_STATE and KIND_CANONICAL */
    u64 mask;
    const char *feature; /* name of the CPUID bit that offers it, NULL: always */
};

#define FIELD(f) offsetof(struct cpu_state, f)
#define M(f)     FIELD(msr.f)
#define ALL      UINT64_MAX

/* IA32_MISC_ENABLE: bits that may be written, and those that only tell. */
#define MISC_WRITABLE (BIT(0) | BIT(3) | BIT(16) | BIT(18) | BIT(22) | BIT(23) | BIT(34) | BIT(38))
#define MISC_READONLY (BIT(7) | BIT(11) | BIT(12))

/* Fixed-range MTRRs, write-combining, MTRR_VAR_COUNT variable ranges. */
#define MTRRCAP_VALUE (BIT(8) | BIT(10) | MTRR_VAR_COUNT)
/* Banks, and MCG_CTL is there. */
#define MCG_CAP_VALUE (BIT(8) | MSR_MC_BANKS)

_Static_assert(sizeof(struct cpu_state) < 65536, "offsets fit 16 bits");

/* clang-format off */
static const struct msr_def msr_table[] = {
    {MSR_P5_MC_ADDR, 2, KIND_IGNORE},
    {MSR_TSC, 1, KIND_SPECIAL, .feature = "tsc"},
    {MSR_PLATFORM_ID, 1, KIND_CONST},
    {MSR_EBL_CR_POWERON, 1, KIND_IGNORE},
    {MSR_SMI_COUNT, 1, KIND_CONST},
    {MSR_FEATURE_CONTROL, 1, KIND_CONST, .mask = 1}, /* locked, nothing enabled */
    {MSR_TSC_ADJUST, 1, KIND_SPECIAL, .feature = "tsc_adjust"},
    {MSR_SPEC_CTRL, 1, KIND_SPECIAL, .feature = "spec_ctrl"},
    {MSR_PRED_CMD, 1, KIND_COMMAND, .mask = BIT(0), .feature = "spec_ctrl"},
    {MSR_BIOS_UPDT_TRIG, 1, KIND_COMMAND, .mask = ALL},
    {MSR_BIOS_SIGN_ID, 1, KIND_IGNORE, .mask = (u64)MSR_MICROCODE_REVISION << 32},
    {MSR_PLATFORM_INFO, 1, KIND_SPECIAL},
    {MSR_MTRRCAP, 1, KIND_CONST, .mask = MTRRCAP_VALUE, .feature = "mtrr"},
    {MSR_ARCH_CAPABILITIES, 1, KIND_SPECIAL, .feature = "arch_capabilities"},
    {MSR_FLUSH_CMD, 1, KIND_COMMAND, .mask = BIT(0), .feature = "flush_l1d"},
    {MSR_BBL_CR_CTL3, 1, KIND_CONST, .mask = 0xbe702111},
    {MSR_MISC_FEATURES_ENABLES, 1, KIND_SPECIAL},
    {MSR_SYSENTER_CS, 1, KIND_STATE, .offset = M(sysenter_cs), .mask = 0xffffffff},
    {MSR_SYSENTER_ESP, 1, KIND_CANONICAL, .offset = M(sysenter_esp)},
    {MSR_SYSENTER_EIP, 1, KIND_CANONICAL, .offset = M(sysenter_eip)},
    {MSR_MCG_CAP, 1, KIND_CONST, .mask = MCG_CAP_VALUE, .feature = "mca"},
    {MSR_MCG_STATUS, 1, KIND_STATE, .offset = M(mcg_status), .mask = 7, .feature = "mca"},
    {MSR_MCG_CTL, 1, KIND_SPECIAL, .feature = "mca"},
    {MSR_PERF_STATUS, 1, KIND_CONST, .mask = 1000},
    {MSR_PERF_CTL, 1, KIND_IGNORE},
    {MSR_MISC_ENABLE, 1, KIND_SPECIAL},
    {MSR_DEBUGCTL, 1, KIND_STATE, .offset = M(debugctl), .mask = 3}, /* LBR, BTF */
    {MSR_LASTBRANCHFROMIP, 4, KIND_CONST},
    {MSR_MTRR_VAR, 2 * MTRR_VAR_COUNT, KIND_SPECIAL, .feature = "mtrr"},
    {MSR_MTRR_FIX64K_00000, 1, KIND_SPECIAL, .feature = "mtrr"},
    {MSR_MTRR_FIX16K_80000, 2, KIND_SPECIAL, .feature = "mtrr"},
    {MSR_MTRR_FIX4K_C0000, 8, KIND_SPECIAL, .feature = "mtrr"},
    {MSR_PAT, 1, KIND_SPECIAL, .feature = "pat"},
    {MSR_MTRR_DEF_TYPE, 1, KIND_SPECIAL, .feature = "mtrr"},
    {MSR_MC0_CTL, 4 * MSR_MC_BANKS, KIND_SPECIAL, .feature = "mca"},
    {MSR_XSS, 1, KIND_STATE, .offset = M(xss), .mask = 0, .feature = "xsaves"},
    {MSR_EFER, 1, KIND_SPECIAL},
    {MSR_STAR, 1, KIND_STATE, .offset = M(star), .mask = ALL},
    {MSR_LSTAR, 1, KIND_CANONICAL, .offset = M(lstar)},
    {MSR_CSTAR, 1, KIND_CANONICAL, .offset = M(cstar)},
    {MSR_SFMASK, 1, KIND_STATE, .offset = M(sfmask), .mask = 0xffffffff},
    {MSR_FS_BASE, 1, KIND_CANONICAL, .offset = FIELD(seg[SEG_FS].base)},
    {MSR_GS_BASE, 1, KIND_CANONICAL, .offset = FIELD(seg[SEG_GS].base)},
    {MSR_KERNEL_GS_BASE, 1, KIND_CANONICAL, .offset = M(kernel_gs_base)},
    {MSR_TSC_AUX, 1, KIND_STATE, .offset = M(tsc_aux), .mask = 0xffffffff, .feature = "rdtscp"},
    {MSR_AMD_SYSCFG, 1, KIND_IGNORE, true},
    {MSR_AMD_HWCR, 1, KIND_IGNORE, true},
    {MSR_AMD_NB_CFG, 1, KIND_IGNORE, true},
    {MSR_AMD_PATCH_LOADER, 1, KIND_COMMAND, true, .mask = ALL},
    {MSR_AMD_VM_CR, 1, KIND_CONST, true, .mask = BIT(4)}, /* SVM disabled */
    {MSR_AMD_LS_CFG, 1, KIND_IGNORE, true},
    {MSR_AMD_DC_CFG, 1, KIND_IGNORE, true},
    {MSR_AMD_BU_CFG, 1, KIND_IGNORE, true},
    {MSR_AMD_DE_CFG, 1, KIND_CONST, true, .mask = BIT(1)}, /* LFENCE serialises */
    {MSR_AMD_BU_CFG2, 1, KIND_IGNORE, true},
};
/* clang-format on */

static const struct msr_def *msr_find(const struct cpuid_policy *p, u32 index) {
    for (u32 i = 0; i < ARRAY_LEN(msr_table); i++) {
        const struct msr_def *d = &msr_table[i];
        if (index - d->first >= d->count) {
            continue;
        }
        bool offered = (!d->amd || p->amd) && (!d->feature || cpuid_policy_has(p, d->feature));
        return offered ? d : NULL;
    }
    return NULL;
}

static u64 *state_field(struct cpu_state *s, u32 offset) {
    return (u64 *)(void *)((u8 *)s + offset);
}

static u64 state_value(const struct cpu_state *s, u32 offset) {
    u64 v;
    memcpy(&v, (const u8 *)s + offset, sizeof(v));
    return v;
}

static bool canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}

/* --- memory types ----------------------------------------------------------------------------- */

static bool mtrr_type_valid(u64 type) {
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool eight_types_valid(u64 value, bool pat) {
    for (u32 i = 0; i < 8; i++) {
        u64 type = value >> (i * 8) & 0xff;
        if (!mtrr_type_valid(type) && !(pat && type == 7)) {
            return false;
        }
    }
    return true;
}

/* Number in mtrr_fixed, which follows the order of the indexes. */
static u32 mtrr_fixed_slot(u32 index) {
    return index == MSR_MTRR_FIX64K_00000 ? 0
           : index < MSR_MTRR_FIX4K_C0000 ? index - MSR_MTRR_FIX16K_80000 + 1
                                          : index - MSR_MTRR_FIX4K_C0000 + 3;
}

static int write_mtrr_var(struct cpu_state *s, const struct cpuid_policy *p, u32 n, u64 value) {
    bool is_mask = n & 1;
    u64 above = ~(BIT(p->phys_bits) - 1);
    u64 reserved = above | (is_mask ? 0x7ff : 0xf00);
    if ((value & reserved) || (!is_mask && !mtrr_type_valid(value & 0xff))) {
        return -ERR_INVAL;
    }
    *(is_mask ? &s->msr.mtrr_mask[n / 2] : &s->msr.mtrr_base[n / 2]) = value;
    return 0;
}

/* --- registers with rules of their own -------------------------------------------------------- */

/* Machine-check banks: no errors ever. CTL reads as all enabled; STATUS takes only 0. */
static u64 read_bank(u32 index) {
    return (index - MSR_MC0_CTL) % 4 == 0 ? ALL : 0;
}

static int write_bank(u32 index, u64 value) {
    return (index - MSR_MC0_CTL) % 4 == 0 || value == 0 ? 0 : -ERR_INVAL;
}

static u64 read_special(const struct cpu_state *s, const struct cpuid_policy *p, u32 index) {
    switch (index) {
    case MSR_TSC:
        return s->msr.tsc;
    case MSR_TSC_ADJUST:
        return s->msr.tsc_adjust;
    case MSR_SPEC_CTRL:
        return s->msr.spec_ctrl;
    case MSR_PLATFORM_INFO: /* maximum ratio in units of 100 MHz */
        return (p->tsc_hz / 100000000 & 0xff) << 8;
    case MSR_ARCH_CAPABILITIES:
        return p->arch_capabilities;
    case MSR_MCG_CTL:
        return s->msr.mcg_ctl;
    case MSR_MISC_ENABLE:
        return s->msr.misc_enable;
    case MSR_PAT:
        return s->msr.pat;
    case MSR_MTRR_DEF_TYPE:
        return s->msr.mtrr_def_type;
    case MSR_EFER:
        return s->msr.efer;
    default:
        break;
    }
    if (index >= MSR_MC0_CTL) {
        return read_bank(index);
    }
    if (index >= MSR_MTRR_FIX64K_00000) {
        return s->msr.mtrr_fixed[mtrr_fixed_slot(index)];
    }
    if (index >= MSR_MTRR_VAR) {
        u32 n = index - MSR_MTRR_VAR;
        return n & 1 ? s->msr.mtrr_mask[n / 2] : s->msr.mtrr_base[n / 2];
    }
    return 0; /* MSR_MISC_FEATURES_ENABLES */
}

u64 msr_efer_valid(const struct cpuid_policy *p) {
    return EFER_SCE | EFER_LMA | (cpuid_policy_has(p, "lm") ? EFER_LME : 0) |
           (cpuid_policy_has(p, "nx") ? EFER_NXE : 0);
}

static int write_efer(struct cpu_state *s, const struct cpuid_policy *p, u64 value) {
    u64 old = s->msr.efer;
    if ((value & ~msr_efer_valid(p)) || (((old ^ value) & EFER_LME) && (s->cr0 & CR0_PG))) {
        return -ERR_INVAL;
    }
    s->msr.efer = (value & ~(u64)EFER_LMA) | (old & EFER_LMA);
    return 0;
}

/* A write of one shows in the other (SDM vol. 3, section 18.17.3). */
static int write_tsc(struct cpu_state *s, u32 index, u64 value) {
    if (index == MSR_TSC) {
        s->msr.tsc_adjust += value - s->msr.tsc;
        s->msr.tsc = value;
    } else {
        s->msr.tsc += value - s->msr.tsc_adjust;
        s->msr.tsc_adjust = value;
    }
    return 0;
}

static int store_checked(u64 *field, u64 value, bool ok) {
    if (!ok) {
        return -ERR_INVAL;
    }
    *field = value;
    return 0;
}

static u64 spec_ctrl_valid(const struct cpuid_policy *p) {
    return BIT(0) | (cpuid_policy_has(p, "stibp") ? BIT(1) : 0) |
           (cpuid_policy_has(p, "ssbd") ? BIT(2) : 0);
}

static int write_special(struct cpu_state *s, const struct cpuid_policy *p, u32 index, u64 value) {
    switch (index) {
    case MSR_TSC:
    case MSR_TSC_ADJUST:
        return write_tsc(s, index, value);
    case MSR_SPEC_CTRL:
        return store_checked(&s->msr.spec_ctrl, value, !(value & ~spec_ctrl_valid(p)));
    case MSR_PLATFORM_INFO:
    case MSR_ARCH_CAPABILITIES:
        return -ERR_INVAL;
    case MSR_MISC_FEATURES_ENABLES:
        return value ? -ERR_INVAL : 0;
    case MSR_MCG_CTL:
        return store_checked(&s->msr.mcg_ctl, value, value == 0 || value == ALL);
    case MSR_MISC_ENABLE:
        return store_checked(&s->msr.misc_enable,
                             (value & MISC_WRITABLE) | (s->msr.misc_enable & MISC_READONLY),
                             !(value & ~(MISC_WRITABLE | MISC_READONLY)));
    case MSR_PAT:
        return store_checked(&s->msr.pat, value, eight_types_valid(value, true));
    case MSR_MTRR_DEF_TYPE:
        return store_checked(&s->msr.mtrr_def_type, value,
                             !(value & ~0xc07ull) && mtrr_type_valid(value & 7));
    case MSR_EFER:
        return write_efer(s, p, value);
    default:
        break;
    }
    if (index >= MSR_MC0_CTL) {
        return write_bank(index, value);
    }
    if (index >= MSR_MTRR_FIX64K_00000) {
        return store_checked(&s->msr.mtrr_fixed[mtrr_fixed_slot(index)], value,
                             eight_types_valid(value, false));
    }
    return write_mtrr_var(s, p, index - MSR_MTRR_VAR, value);
}

/* --- entry points ----------------------------------------------------------------------------- */

int msr_read(const struct cpu_state *s, const struct cpuid_policy *p, u32 index, u64 *value) {
    const struct msr_def *d = msr_find(p, index);
    if (!d || d->kind == KIND_COMMAND) {
        return -ERR_INVAL;
    }
    switch ((enum msr_kind)d->kind) {
    case KIND_STATE:
    case KIND_CANONICAL:
        *value = state_value(s, d->offset);
        break;
    case KIND_SPECIAL:
        *value = read_special(s, p, index);
        break;
    default:
        *value = d->mask;
        break;
    }
    return 0;
}

int msr_write(struct cpu_state *s, const struct cpuid_policy *p, u32 index, u64 value) {
    const struct msr_def *d = msr_find(p, index);
    if (!d) {
        return -ERR_INVAL;
    }
    switch ((enum msr_kind)d->kind) {
    case KIND_STATE:
        return store_checked(state_field(s, d->offset), value, !(value & ~d->mask));
    case KIND_CANONICAL:
        return store_checked(state_field(s, d->offset), value, canonical(value));
    case KIND_IGNORE:
        return 0;
    case KIND_COMMAND:
        return value & ~d->mask ? -ERR_INVAL : 0;
    case KIND_SPECIAL:
        return write_special(s, p, index, value);
    default:
        return -ERR_INVAL;
    }
}

/* What KVM_GET_MSRS and KVM_SET_MSRS must carry besides the KVM_*_SREGS structures. EFER, FS and GS
 * base and the APIC base are there already. The TSC comes last: it runs. */
int msr_state_list(u32 n, u32 *index) {
    static const u32 single[] = {
        MSR_STAR,
        MSR_LSTAR,
        MSR_CSTAR,
        MSR_SFMASK,
        MSR_KERNEL_GS_BASE,
        MSR_SYSENTER_CS,
        MSR_SYSENTER_ESP,
        MSR_SYSENTER_EIP,
        MSR_PAT,
        MSR_TSC_ADJUST,
        MSR_TSC_AUX,
        MSR_MISC_ENABLE,
        MSR_DEBUGCTL,
        MSR_SPEC_CTRL,
        MSR_XSS,
        MSR_MCG_STATUS,
        MSR_MCG_CTL,
        MSR_MTRR_DEF_TYPE,
        MSR_MTRR_FIX64K_00000,
        MSR_MTRR_FIX16K_80000,
        MSR_MTRR_FIX16K_A0000,
    };
    const u32 singles = ARRAY_LEN(single), fixed = 8, var = 2 * MTRR_VAR_COUNT;
    if (n < singles) {
        *index = single[n];
    } else if (n < singles + fixed) {
        *index = MSR_MTRR_FIX4K_C0000 + (n - singles);
    } else if (n < singles + fixed + var) {
        *index = MSR_MTRR_VAR + (n - singles - fixed);
    } else if (n == singles + fixed + var) {
        *index = MSR_TSC;
    } else {
        return -ERR_RANGE;
    }
    return 0;
}
