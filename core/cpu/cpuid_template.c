/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processors that are narrower than they could be, on request (struct cpu_template). Bits can only
 * be taken away: what the policy does not offer no engine executes. (What an engine executes
 * without the processor's help cpuid_policy_emulate has added before.) Everything that was asked
 * for is looked up afterwards; whatever did not come true is an error.
 */
#include "core/base/fmt.h"
#include "core/cpu/cpuid.h"

static u32 *entry_reg(struct cpuid_entry *e, u32 reg) {
    switch (reg) {
    case 0:
        return &e->eax;
    case 1:
        return &e->ebx;
    case 2:
        return &e->ecx;
    default:
        return &e->edx;
    }
}

static void clear_bits(struct cpuid_entry *entry, u32 count, const struct cpu_modifier *m) {
    for (u32 i = 0; i < count; i++) {
        if (entry[i].leaf == m->leaf && (!entry[i].indexed || entry[i].subleaf == m->subleaf)) {
            *entry_reg(&entry[i], m->reg) &= ~(m->mask & ~m->value);
        }
    }
}

static int check(const struct cpuid_policy *p, const struct cpu_modifier *m, struct err *err) {
    static const char *const names[] = {"eax", "ebx", "ecx", "edx"};
    u32 out[4];
    cpuid_query(p, 0, NULL, m->leaf, m->subleaf, out);
    u32 wrong = (out[m->reg & 3] ^ m->value) & m->mask;
    if (!wrong) {
        return 0;
    }
    u32 bit = (u32)__builtin_ctz(wrong);
    return ERR_SET(err, ERR_UNSUPPORTED,
                   "CPUID leaf 0x%x, subleaf 0x%x, %s: bit %u cannot be %u on this host and engine",
                   m->leaf, m->subleaf, names[m->reg & 3], bit, m->value >> bit & 1);
}

int cpuid_policy_template(struct cpuid_policy *p, const struct cpu_template *t, struct err *err) {
    struct cpuid_entry entry[CPUID_MAX_ENTRIES];
    u32 count = MIN(p->count, (u32)CPUID_MAX_ENTRIES);
    memcpy(entry, p->entry, count * sizeof(entry[0]));
    for (u32 i = 0; i < t->count; i++) {
        clear_bits(entry, count, &t->modifier[i]);
    }
    cpuid_policy_limit(p, entry, count, ~(t->arch_mask & ~t->arch_value));
    int rc = 0;
    for (u32 i = 0; i < t->count && !rc; i++) {
        rc = check(p, &t->modifier[i], err);
    }
    u64 wrong = (p->arch_capabilities ^ t->arch_value) & t->arch_mask;
    if (!rc && wrong) {
        rc = ERR_SET(err, ERR_UNSUPPORTED,
                     "MSR 0x10a (IA32_ARCH_CAPABILITIES): bit %u cannot be %u on this host and "
                     "engine",
                     (u32)__builtin_ctzll(wrong),
                     (u32)(t->arch_value >> __builtin_ctzll(wrong) & 1));
    }
    return rc;
}
