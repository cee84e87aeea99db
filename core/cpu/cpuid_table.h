/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table behind the CPUID policy: one line per feature bit, with the rule that decides whether
 * the guest sees it and the reason. Private to core/cpu/cpuid*.c.
 */
#ifndef CORE_CPU_CPUID_TABLE_H
#define CORE_CPU_CPUID_TABLE_H

#include "core/base/types.h"
#include "core/cpu/cpuid.h"

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

enum cpuid_rule {
    RULE_NEED,   /* offered; a host without it cannot run Sosia */
    RULE_HOST,   /* offered when the host has it */
    RULE_EMUL,   /* offered always: every engine emulates it */
    RULE_AMD,    /* as RULE_HOST, but only where the vendor is AMD (reserved elsewhere) */
    RULE_DERIVE, /* set by cpuid.c from the number of processors or by cpuid_query */
    RULE_NEVER,  /* withheld */
};

enum { FEATURE_NONE = FEATURE_COUNT };

struct cpuid_bit {
    u32 leaf;
    u8 subleaf, reg, bit;
    u8 rule;
    u8 feature;       /* enum feature of insn.cpuid, or FEATURE_NONE */
    const char *name; /* as /proc/cpuinfo spells it, where it does */
    const char *why;  /* for a person */
};

extern const struct cpuid_bit cpuid_bits[];
extern const u32 cpuid_bits_count;

/* A feature that is worth nothing, or undefined, without another one. */
struct cpuid_need {
    const char *name, *needs;
};

extern const struct cpuid_need cpuid_needs[];
extern const u32 cpuid_needs_count;

/* After a change of entries: takes back what lacks its foundation, sums up the features and makes
 * the leaves that follow from them. */
void cpuid_policy_settle(struct cpuid_policy *p);

#endif
