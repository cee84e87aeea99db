/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU that the guest sees: one policy, the same for every engine. It is a subset of what the
 * host processor has and the engines really execute (x86-64-v3 plus what makes Linux fast).
 */
#ifndef CORE_CPU_CPUID_H
#define CORE_CPU_CPUID_H

#include "core/base/err.h"
#include "core/base/types.h"

/* Bits of insn.cpuid and cpuid_policy.features: one per feature that decides whether an instruction
 * exists. Baseline (x86-64-v1: x87, MMX, SSE, SSE2, FXSR, CX8, CMOV, SYSCALL) has no bit. */
enum feature {
    FEATURE_SSE3,
    FEATURE_SSSE3,
    FEATURE_SSE4_1,
    FEATURE_SSE4_2,
    FEATURE_POPCNT,
    FEATURE_CX16,
    FEATURE_MOVBE,
    FEATURE_AES,
    FEATURE_PCLMUL,
    FEATURE_XSAVE,
    FEATURE_XSAVEOPT,
    FEATURE_XSAVEC,
    FEATURE_XSAVES,
    FEATURE_AVX,
    FEATURE_F16C,
    FEATURE_FMA,
    FEATURE_AVX2,
    FEATURE_BMI1,
    FEATURE_BMI2,
    FEATURE_LZCNT,
    FEATURE_ADX,
    FEATURE_SHA,
    FEATURE_RDRAND,
    FEATURE_RDSEED,
    FEATURE_FSGSBASE,
    FEATURE_INVPCID,
    FEATURE_SMAP,
    FEATURE_PKU,
    FEATURE_RDTSCP,
    FEATURE_RDPID,
    FEATURE_CLFLUSHOPT,
    FEATURE_CLWB,
    FEATURE_MONITOR,
    FEATURE_PREFETCHW,
    FEATURE_VAES,
    FEATURE_VPCLMUL,
    FEATURE_GFNI,
    FEATURE_AVX_VNNI,
    FEATURE_MOVDIRI,
    FEATURE_MOVDIR64B,
    FEATURE_SERIALIZE,
    FEATURE_SSE4A,
    FEATURE_XOP,
    FEATURE_TBM,
    FEATURE_3DNOW,
    FEATURE_CET,
    FEATURE_MPX,
    FEATURE_RTM,
    FEATURE_VMX,
    FEATURE_SVM,
    FEATURE_WAITPKG,
    FEATURE_ENQCMD,
    FEATURE_CLDEMOTE,
    FEATURE_PTWRITE,
    FEATURE_SGX,
    FEATURE_SMX,
    FEATURE_WBNOINVD,
    FEATURE_UINTR,
    FEATURE_TSXLDTRK,
    FEATURE_HRESET,
    FEATURE_OTHER,
    FEATURE_COUNT
};

_Static_assert(FEATURE_COUNT <= 64, "features fit one mask");

struct cpuid_entry {
    u32 leaf, subleaf;
    bool indexed; /* subleaf matters */
    u32 eax, ebx, ecx, edx;
};

enum { CPUID_MAX_ENTRIES = 64 };

struct cpuid_policy {
    u32 count;
    struct cpuid_entry entry[CPUID_MAX_ENTRIES]; /* sorted; before what cpuid_query adds */
    u64 features;                                /* BIT(FEATURE_*) */
    u64 xcr0_allowed;                            /* XCR0 bits the guest may set */
    u32 pkru_offset;   /* of component 9 in the standard XSAVE format, 0: no PKU */
    u32 xsave_size;    /* bytes of the standard format with everything in xcr0_allowed */
    u8 phys_bits;      /* MAXPHYADDR */
    bool pkru_aligned; /* component 9 is 64-byte aligned in the compacted format */
    bool amd;          /* AMD's vendor string (or Hygon's): SYSENTER, SYSCALL and leaves differ */
    char vendor[13];
    u32 vcpus;
    u64 tsc_hz;
    u64 arch_capabilities; /* IA32_ARCH_CAPABILITIES, 0 when CPUID does not offer the MSR */
};

/* CPUID of the processor that runs this code. */
void cpuid_host(u32 leaf, u32 subleaf, u32 out[4]);

/* Whose CPUID the policy narrows: the host's, or a made-up processor in tests. */
struct cpuid_source {
    void (*query)(void *ctx, u32 leaf, u32 subleaf, u32 out[4]);
    void *ctx;
    u64 xcr0; /* components that the host's system has enabled; 0 without OSXSAVE */
};

/*
 * Builds the policy from the host's CPUID. tsc_hz as told to the guest (leaves 0x15 and 0x16 and
 * the hypervisor's timing leaf 0x40000010; 0: not told); vcpus 1..255 for the topology leaves.
 * -ERR_UNSUPPORTED when the host lacks what every x86-64 processor has, -ERR_INVAL for vcpus.
 */
int cpuid_policy_init(struct cpuid_policy *p, u64 tsc_hz, u32 vcpus, struct err *err);
int cpuid_policy_build(struct cpuid_policy *p, const struct cpuid_source *host, u64 tsc_hz,
                       u32 vcpus, struct err *err);

/*
 * Narrows the policy to what an engine supports: entries as KVM_GET_SUPPORTED_CPUID gives them, and
 * the IA32_ARCH_CAPABILITIES bits that hold under it. Never widens; may be applied twice.
 */
void cpuid_policy_limit(struct cpuid_policy *p, const struct cpuid_entry *entry, u32 count,
                        u64 arch_capabilities);

/* Bits of the processor that somebody wants to have certain values. */
enum { CPU_TEMPLATE_MAX = 64 };

struct cpu_modifier {
    u32 leaf, subleaf;
    u32 reg;         /* 0 EAX, 1 EBX, 2 ECX, 3 EDX */
    u32 mask, value; /* bits of mask are to be those of value */
};

struct cpu_template {
    u32 count;
    struct cpu_modifier modifier[CPU_TEMPLATE_MAX];
    u64 arch_mask, arch_value; /* of IA32_ARCH_CAPABILITIES */
};

/* Takes away what t wants to be 0. -ERR_UNSUPPORTED with a message that names the first bit that is
 * not as t wants it: it is not a feature that can be taken away, or cannot be offered. */
int cpuid_policy_template(struct cpuid_policy *p, const struct cpu_template *t, struct err *err);

/*
 * Offers, among the features that an engine executes by itself (engine_ops.cpuid_emulates), those
 * that are asked for and that the processor does not have: by t, or because a saved machine has
 * them. Either may be NULL; saved may be hostile. Before cpuid_policy_template and _adopt.
 */
void cpuid_policy_emulate(struct cpuid_policy *p, u64 emulates, const struct cpu_template *t,
                          const struct cpuid_policy *saved);

/* Tells the guest another TSC frequency. */
void cpuid_policy_set_tsc(struct cpuid_policy *p, u64 tsc_hz);

struct snap_writer;
struct snap_reader;
/* One section CPID. Load checks the form only, not what is offered. 0 or -ERR_FORMAT. */
void cpuid_policy_save(const struct cpuid_policy *p, struct snap_writer *w);
int cpuid_policy_load(struct cpuid_policy *p, struct snap_reader *r);

/*
 * Makes *p (what this host and engine can offer) the saved processor, so that a guest that was
 * saved on another host or engine finds what it had. -ERR_UNSUPPORTED with a message that names
 * what is missing here. saved may be hostile: nothing that is not in *p is taken. *weaker: the
 * IA32_ARCH_CAPABILITIES bits ("not affected by ...") that the guest was told and that do not hold
 * here; it goes on believing them.
 */
int cpuid_policy_adopt(struct cpuid_policy *p, const struct cpuid_policy *saved, u64 *weaker,
                       struct err *err);

/* Is this bit (by its name in /proc/cpuinfo) offered? For tests and messages. */
bool cpuid_policy_has(const struct cpuid_policy *p, const char *name);

/* The policy as text for a person: features offered and withheld and why, MSRs, TSC. */
void cpuid_policy_print(const struct cpuid_policy *p, void (*line)(void *ctx, const char *text),
                        void *ctx);

/* What CPUID returns on a vCPU: adds APIC id, OSXSAVE, OSPKE, XSAVE sizes for the present XCR0 and
 * the APIC's presence. s may be NULL: as after reset. */
struct cpu_state;
void cpuid_query(const struct cpuid_policy *p, u32 vcpu_id, const struct cpu_state *s, u32 leaf,
                 u32 subleaf, u32 out[4]);

#endif
