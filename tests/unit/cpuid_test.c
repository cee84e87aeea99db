/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU policy: a subset of the host, consistent in itself, also on processors that are not here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/cpuid.h"
#include "core/cpu/cpuid_table.h"
#include "core/cpu/state.h"

static struct cpuid_policy host_policy(u32 vcpus) {
    struct cpuid_policy p;
    struct err err = {0};
    if (cpuid_policy_init(&p, 2300000000ull, vcpus, &err)) {
        fail_msg("%s", err.text);
    }
    return p;
}

static void query(const struct cpuid_policy *p, u32 leaf, u32 subleaf, u32 v[4]) {
    cpuid_query(p, 0, NULL, leaf, subleaf, v);
}

/* --- processors that are not here --- */

struct fake_cpu {
    u32 count;
    struct cpuid_entry entry[64];
};

static void fake_query(void *ctx, u32 leaf, u32 subleaf, u32 out[4]) {
    const struct fake_cpu *cpu = ctx;
    memset(out, 0, 16);
    for (u32 i = 0; i < cpu->count; i++) {
        const struct cpuid_entry *e = &cpu->entry[i];
        if (e->leaf == leaf && (!e->indexed || e->subleaf == subleaf)) {
            out[0] = e->eax, out[1] = e->ebx, out[2] = e->ecx, out[3] = e->edx;
        }
    }
}

static void fake_add(struct fake_cpu *cpu, u32 leaf, u32 subleaf, u32 a, u32 b, u32 c, u32 d) {
    cpu->entry[cpu->count++] =
        (struct cpuid_entry){.leaf = leaf,
                             .subleaf = subleaf,
                             .indexed = leaf == 7 || leaf == 0xd || leaf == 4,
                             .eax = a,
                             .ebx = b,
                             .ecx = c,
                             .edx = d};
}

/* All feature bits set, so that what is withheld shows; AMD's or Intel's name. */
static void fake_everything(struct fake_cpu *cpu, bool amd) {
    *cpu = (struct fake_cpu){0};
    if (amd) {
        fake_add(cpu, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
    } else {
        fake_add(cpu, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
    }
    fake_add(cpu, 1, 0, amd ? 0x00a20f10 : 0x000806f8, 0x00080800, ~0u, ~0u);
    if (!amd) {
        fake_add(cpu, 4, 0, 0x1c004121, 0x02c0003f, 0x3f, 0);
        fake_add(cpu, 4, 1, 0x1c004122, 0x01c0003f, 0x3f, 0);
        fake_add(cpu, 4, 2, 0x1c004143, 0x03c0003f, 0x7ff, 0);
        fake_add(cpu, 4, 3, 0x1c03c163, 0x04c0003f, 0xffff, 0);
    }
    fake_add(cpu, 6, 0, ~0u, ~0u, ~0u, 0);
    fake_add(cpu, 7, 0, 2, ~0u, ~0u, ~0u);
    fake_add(cpu, 7, 1, ~0u, ~0u, ~0u, ~0u);
    fake_add(cpu, 0xd, 0, 0x602e7, 11008, 11008, 0);
    fake_add(cpu, 0xd, 1, 0x1f, 11008, 0, 0);
    fake_add(cpu, 0xd, 2, 256, 576, 0, 0);
    fake_add(cpu, 0xd, 9, 8, 2688, 0, 0);
    fake_add(cpu, 0x80000000u, 0, amd ? 0x80000028u : 0x80000008u, 0, 0, 0);
    fake_add(cpu, 0x80000001u, 0, amd ? 0x00a20f10 : 0, ~0u, ~0u, ~0u);
    fake_add(cpu, 0x80000006u, 0, 0, 0x1, 0x02006140, 0x1);
    fake_add(cpu, 0x80000007u, 0, 0, 0, 0, 0x100);
    fake_add(cpu, 0x80000008u, 0, 0x3934, ~0u, 0x7007, 0);
    fake_add(cpu, 0x80000021u, 0, ~0u, 0, 0, 0);
}

static struct cpuid_policy fake_policy(struct fake_cpu *cpu, u64 xcr0, u32 vcpus) {
    struct cpuid_source src = {.query = fake_query, .ctx = cpu, .xcr0 = xcr0};
    struct cpuid_policy p;
    struct err err = {0};
    if (cpuid_policy_build(&p, &src, 3000000000ull, vcpus, &err)) {
        fail_msg("%s", err.text);
    }
    return p;
}

/* --- rules that hold for every policy --- */

static void check_needs(const struct cpuid_policy *p) {
    for (u32 i = 0; i < cpuid_needs_count; i++) {
        if (cpuid_policy_has(p, cpuid_needs[i].name) &&
            !cpuid_policy_has(p, cpuid_needs[i].needs)) {
            fail_msg("%s without %s", cpuid_needs[i].name, cpuid_needs[i].needs);
        }
    }
}

/* No bit is set that the table does not know, and none that it withholds. */
static void check_bits(const struct cpuid_policy *p) {
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        if (b->rule == RULE_NEVER && cpuid_policy_has(p, b->name)) {
            fail_msg("%s is offered", b->name);
        }
        for (u32 k = 0; k < i; k++) {
            assert_string_not_equal(b->name, cpuid_bits[k].name);
        }
        if (b->feature != FEATURE_NONE && cpuid_policy_has(p, b->name)) {
            assert_true(p->features & BIT(b->feature));
        }
    }
}

static void check_xsave(const struct cpuid_policy *p) {
    struct cpu_state s;
    u32 v[4];
    cpu_state_reset(&s, true);
    cpuid_query(p, 0, &s, 0xd, 0, v);
    if (!cpuid_policy_has(p, "xsave")) {
        assert_int_equal(v[0], 0);
        return;
    }
    assert_int_equal(v[0], p->xcr0_allowed);
    assert_int_equal(v[1], 576);
    assert_int_equal(v[2], p->xsave_size);
    assert_true(p->xsave_size <= XSAVE_AREA_SIZE);
    assert_int_equal(!!(p->xcr0_allowed & XCR0_AVX), cpuid_policy_has(p, "avx"));
    assert_int_equal(!!(p->xcr0_allowed & XCR0_PKRU), cpuid_policy_has(p, "pku"));
    assert_int_equal(!!p->pkru_offset, cpuid_policy_has(p, "pku"));
    s.xcr0 = p->xcr0_allowed;
    s.cr4 = CR4_OSXSAVE | CR4_PKE;
    cpuid_query(p, 0, &s, 0xd, 0, v);
    assert_int_equal(v[1], p->xsave_size);
    cpuid_query(p, 0, &s, 1, 0, v);
    assert_true(v[2] & BIT(27));
    s.msr.apic_base = 0;
    cpuid_query(p, 0, &s, 1, 0, v);
    assert_false(v[3] & BIT(9));
    for (u32 i = 2; i < 63; i++) {
        query(p, 0xd, i, v);
        assert_int_equal(v[0] != 0, (p->xcr0_allowed >> i & 1));
    }
}

static void check_order(const struct cpuid_policy *p) {
    assert_true(p->count < CPUID_MAX_ENTRIES);
    for (u32 i = 1; i < p->count; i++) {
        const struct cpuid_entry *a = &p->entry[i - 1], *b = &p->entry[i];
        assert_true(a->leaf < b->leaf || (a->leaf == b->leaf && a->subleaf < b->subleaf));
    }
}

static void check_policy(const struct cpuid_policy *p) {
    check_needs(p);
    check_bits(p);
    check_xsave(p);
    check_order(p);
    assert_in_range(p->phys_bits, 36, 46);
}

/* --- tests --- */

static void test_host_subset(void **state) {
    (void)state;
    struct cpuid_policy p = host_policy(4);
    check_policy(&p);
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        if (b->rule == RULE_EMUL || b->rule == RULE_DERIVE || !cpuid_policy_has(&p, b->name)) {
            continue;
        }
        u32 v[4];
        cpuid_host(b->leaf, b->subleaf, v);
        if (!(v[b->reg] >> b->bit & 1)) {
            fail_msg("the host does not have %s", b->name);
        }
    }
}

static void test_host_offsets(void **state) {
    (void)state;
    struct cpuid_policy p = host_policy(1);
    u32 v[4];
    if (p.xcr0_allowed & XCR0_AVX) {
        cpuid_host(0xd, 2, v);
        assert_int_equal(v[0], 256);
        assert_int_equal(v[1], 576);
    }
    if (p.xcr0_allowed & XCR0_PKRU) {
        cpuid_host(0xd, 9, v);
        assert_int_equal(v[1], p.pkru_offset);
    }
}

static void test_topology(void **state) {
    (void)state;
    for (u32 n = 1; n <= 16; n++) {
        struct cpuid_policy p = host_policy(n);
        struct cpu_state s;
        u32 v[4];
        cpu_state_reset(&s, true);
        cpuid_query(&p, n - 1, &s, 1, 0, v);
        assert_int_equal(v[1] >> 24, n - 1);
        assert_int_equal(v[1] >> 16 & 0xff, n);
        assert_int_equal(!!(v[3] & BIT(28)), n > 1);
        cpuid_query(&p, n - 1, &s, 0xb, 0, v);
        assert_int_equal(v[0], 0);
        assert_int_equal(v[1], 1);
        assert_int_equal(v[2], 0x100);
        assert_int_equal(v[3], n - 1);
        cpuid_query(&p, n - 1, &s, 0xb, 1, v);
        assert_true(1u << v[0] >= n && (n == 1 || 1u << v[0] < 2 * n));
        assert_int_equal(v[1], n);
        cpuid_query(&p, n - 1, &s, 0xb, 2, v);
        assert_int_equal(v[1], 0);
        assert_int_equal(v[2], 2);
        assert_int_equal(v[3], n - 1);
    }
}

static void test_everything_intel(void **state) {
    (void)state;
    struct fake_cpu cpu;
    u32 v[4];
    fake_everything(&cpu, false);
    struct cpuid_policy p = fake_policy(&cpu, 0x602e7, 8);
    check_policy(&p);
    assert_false(p.amd);
    assert_int_equal(p.xcr0_allowed, XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU);
    assert_int_equal(p.pkru_offset, 2688);
    assert_int_equal(p.xsave_size, 2696);
    assert_true(cpuid_policy_has(&p, "pku"));
    assert_true(cpuid_policy_has(&p, "avx2"));
    assert_false(cpuid_policy_has(&p, "avx512f"));
    assert_false(cpuid_policy_has(&p, "mmxext"));
    assert_int_equal(p.phys_bits, 46);
    query(&p, 0x1f, 1, v);
    assert_int_equal(v[1], 8);
    query(&p, 4, 0, v); /* level 1: one core; level 3: all eight */
    assert_int_equal(v[0] >> 14 & 0xfff, 0);
    assert_int_equal(v[0] >> 26, 7);
    query(&p, 4, 3, v);
    assert_int_equal(v[0] >> 14 & 0xfff, 7);
    query(&p, 4, 4, v);
    assert_int_equal(v[0], 0);
    query(&p, 7, 1, v); /* nothing of 7.1 is offered */
    assert_int_equal(v[0] | v[1] | v[2] | v[3], 0);
    query(&p, 0xa, 0, v);
    assert_int_equal(v[0], 0);
    query(&p, 5, 0, v);
    assert_int_equal(v[0], 0);
}

static void test_everything_amd(void **state) {
    (void)state;
    struct fake_cpu cpu;
    u32 v[4], w[4];
    fake_everything(&cpu, true);
    struct cpuid_policy p = fake_policy(&cpu, 0x207, 6);
    check_policy(&p);
    assert_true(p.amd);
    assert_string_equal(p.vendor, "AuthenticAMD");
    assert_true(cpuid_policy_has(&p, "mmxext"));
    assert_false(cpuid_policy_has(&p, "svm"));
    query(&p, 1, 0, v);
    query(&p, 0x80000001u, 0, w);
    assert_int_equal(w[3] & 0x0183f3ff, v[3] & 0x0183f3ff);
    assert_true(w[2] & BIT(1)); /* CmpLegacy */
    query(&p, 0x80000008u, 0, v);
    assert_int_equal(v[2] & 0xff, 5);
    assert_int_equal(v[2] >> 12 & 0xf, 3);
    query(&p, 0x70000000, 0, v); /* beyond the last leaf: zeros */
    assert_int_equal(v[0] | v[1] | v[2] | v[3], 0);
}

/* Protection keys where the processor has none: only when asked for and the engine emulates them.
 */
static void test_emulated(void **state) {
    (void)state;
    struct fake_cpu cpu;
    const struct cpu_template ask = {.count = 1,
                                     .modifier = {{.leaf = 7, .reg = 2, .mask = 8, .value = 8}}};
    struct cpu_template refuse = ask;
    refuse.modifier[0].value = 0;
    fake_everything(&cpu, false);
    struct cpuid_policy saved = fake_policy(&cpu, 0x602e7, 1), p = fake_policy(&cpu, 7, 1), q = p;
    assert_false(cpuid_policy_has(&p, "pku"));
    cpuid_policy_emulate(&p, 0, &ask, &saved);
    cpuid_policy_emulate(&p, BIT(FEATURE_PKU), NULL, NULL);
    cpuid_policy_emulate(&p, BIT(FEATURE_PKU), &refuse, NULL);
    assert_memory_equal(&p, &q, sizeof(p));
    assert_int_equal(cpuid_policy_template(&p, &ask, NULL), -ERR_UNSUPPORTED);
    cpuid_policy_emulate(&p, BIT(FEATURE_PKU), &ask, NULL);
    assert_int_equal(cpuid_policy_template(&p, &ask, NULL), 0);
    assert_true(p.features & BIT(FEATURE_PKU));
    assert_int_equal(p.pkru_offset, 2688);
    check_policy(&p);
    u64 weaker;
    saved.pkru_offset = 2432; /* AMD's place */
    cpuid_policy_emulate(&q, BIT(FEATURE_PKU), NULL, &saved);
    assert_int_equal(q.pkru_offset, 2432);
    assert_int_equal(cpuid_policy_adopt(&q, &saved, &weaker, NULL), 0);
    q = fake_policy(&cpu, 7, 1);
    saved.pkru_offset = 0xfff8;
    cpuid_policy_emulate(&q, BIT(FEATURE_PKU), NULL, &saved);
    assert_int_equal(q.pkru_offset, 2688);
    assert_int_equal(cpuid_policy_adopt(&q, &saved, &weaker, NULL), -ERR_UNSUPPORTED);
}

/* The system has not enabled AVX, or the processor is old: what builds on it goes too. */
static void test_without_avx(void **state) {
    (void)state;
    struct fake_cpu cpu;
    fake_everything(&cpu, false);
    struct cpuid_policy p = fake_policy(&cpu, 3, 1);
    check_policy(&p);
    assert_true(cpuid_policy_has(&p, "xsave"));
    assert_false(cpuid_policy_has(&p, "avx"));
    assert_false(cpuid_policy_has(&p, "avx2"));
    assert_false(cpuid_policy_has(&p, "fma"));
    assert_false(cpuid_policy_has(&p, "pku"));
    assert_false(p.features & BIT(FEATURE_AVX2));
    p = fake_policy(&cpu, 0, 1);
    check_policy(&p);
    assert_int_equal(p.xcr0_allowed & XCR0_AVX, 0);
}

static void test_too_old(void **state) {
    (void)state;
    struct fake_cpu cpu;
    struct cpuid_policy p;
    struct err err = {0};
    fake_everything(&cpu, false);
    for (u32 i = 0; i < cpu.count; i++) {
        if (cpu.entry[i].leaf == 0x80000001u) {
            cpu.entry[i].edx &= ~(u32)BIT(29); /* no long mode */
        }
    }
    struct cpuid_source src = {.query = fake_query, .ctx = &cpu, .xcr0 = 7};
    assert_int_equal(cpuid_policy_build(&p, &src, 0, 1, &err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "lm"));
    assert_int_equal(cpuid_policy_init(&p, 0, 0, NULL), -ERR_INVAL);
    assert_int_equal(cpuid_policy_init(&p, 0, 256, NULL), -ERR_INVAL);
}

static void test_limit(void **state) {
    (void)state;
    struct fake_cpu cpu, less;
    fake_everything(&cpu, false);
    fake_everything(&less, false);
    struct cpuid_policy p = fake_policy(&cpu, 0x602e7, 2), again;
    for (u32 i = 0; i < less.count; i++) {
        if (less.entry[i].leaf == 0xd && less.entry[i].subleaf == 0) {
            less.entry[i].eax = 3; /* no AVX state */
        } else if (less.entry[i].leaf == 7 && less.entry[i].subleaf == 0) {
            less.entry[i].edx &= ~(u32)BIT(26); /* no SPEC_CTRL */
        } else if (less.entry[i].leaf == 0x80000008u) {
            less.entry[i].eax = 0x3028;
        }
    }
    cpuid_policy_limit(&p, less.entry, less.count, BIT(0) | BIT(1));
    check_policy(&p);
    assert_false(cpuid_policy_has(&p, "avx2"));
    assert_false(cpuid_policy_has(&p, "spec_ctrl"));
    assert_int_equal(p.arch_capabilities, BIT(0)); /* IBRS_ALL needs SPEC_CTRL */
    assert_int_equal(p.phys_bits, 40);
    again = p;
    cpuid_policy_limit(&again, less.entry, less.count, BIT(0) | BIT(1));
    assert_memory_equal(&p, &again, sizeof(p));
    cpuid_policy_limit(&p, NULL, 0, 0); /* an engine that supports nothing: still consistent */
    check_needs(&p);
    assert_int_equal(p.arch_capabilities, 0);
    assert_int_equal(p.features, 0);
}

/* What Linux makes of leaf 0x15 must be the frequency, within a part in a million. */
static void test_clock(void **state) {
    (void)state;
    static const u64 hz[] = {1000000000, 1996250000, 2299998123, 2300000000,
                             3392145000, 4200000000, 799999999,  5699123456};
    struct fake_cpu cpu;
    fake_everything(&cpu, false);
    struct cpuid_policy p = fake_policy(&cpu, 7, 1);
    for (u32 i = 0; i < ARRAY_LEN(hz); i++) {
        u32 v[4];
        cpuid_policy_set_tsc(&p, hz[i]);
        query(&p, 0x15, 0, v);
        assert_true(v[0] && v[1]);
        u32 khz = v[2] / 1000 * v[1] / v[0]; /* in 32 bits, as Linux does */
        u64 told = khz * 1000ull, off = told > hz[i] ? told - hz[i] : hz[i] - told;
        if (off * 500000 > hz[i]) {
            fail_msg("%lu Hz are told as %u/%u: %u kHz", hz[i], v[1], v[0], khz);
        }
        query(&p, 0x40000010, 0, v);
        assert_int_equal(v[0], hz[i] / 1000);
        assert_int_equal(v[1], 1000000);
    }
    check_order(&p);
}

static void test_hypervisor(void **state) {
    (void)state;
    struct cpuid_policy p = host_policy(1);
    u32 v[4];
    query(&p, 0x40000000, 0, v);
    assert_memory_equal(v + 1, "KVMKVMKVM\0\0\0", 12);
    query(&p, 0x40000100, 0, v);
    assert_memory_equal(v + 1, "SosiaSosia  ", 12);
    query(&p, 0x40000001, 0, v);
    assert_int_equal(v[0], 2);
}

static void count_line(void *ctx, const char *text) {
    u32 *lines = ctx;
    assert_true(strlen(text) < 160);
    assert_null(strchr(text, '\n'));
    ++*lines;
}

static void test_print(void **state) {
    (void)state;
    struct cpuid_policy p = host_policy(2);
    u32 lines = 0;
    cpuid_policy_print(&p, count_line, &lines);
    assert_true(lines > 40);
}

static void test_template(void **state) {
    (void)state;
    struct cpuid_policy p = host_policy(1);
    struct err err = {0};
    u32 v[4];
    query(&p, 1, 0, v);
    bool popcnt = v[2] >> 23 & 1;
    /* POPCNT away, SSE2 as it is */
    struct cpu_template t = {
        .count = 2,
        .modifier = {{.leaf = 1, .reg = 2, .mask = 1u << 23, .value = 0},
                     {.leaf = 1, .reg = 3, .mask = 1u << 26, .value = 1u << 26}}};
    assert_int_equal(cpuid_policy_template(&p, &t, &err), 0);
    query(&p, 1, 0, v);
    assert_int_equal(v[2] >> 23 & 1, 0);
    assert_false(p.features & BIT(FEATURE_POPCNT));
    struct cpuid_policy whole = host_policy(1);
    assert_int_equal(!!(whole.features & BIT(FEATURE_POPCNT)), popcnt);
    /* VMX cannot be offered, the family is not a feature, the leaf is unknown */
    static const struct cpu_modifier wrong[] = {
        {.leaf = 1, .reg = 2, .mask = 1u << 5, .value = 1u << 5},
        {.leaf = 0, .reg = 1, .mask = 1, .value = 0},
        {.leaf = 0x1234, .reg = 0, .mask = 1, .value = 1}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        t = (struct cpu_template){.count = 1, .modifier = {wrong[i]}};
        err = (struct err){0};
        p = host_policy(1);
        if (i) { /* whichever it is, the other one */
            query(&p, wrong[i].leaf, 0, v);
            t.modifier[0].value = ~v[wrong[i].reg] & 1;
        }
        assert_int_equal(cpuid_policy_template(&p, &t, &err), -ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, "cannot be"));
    }
    p = host_policy(1);
    t = (struct cpu_template){.arch_mask = 3, .arch_value = 0};
    assert_int_equal(cpuid_policy_template(&p, &t, &err), 0);
    assert_int_equal(p.arch_capabilities & 3, 0);
    t.arch_value = t.arch_mask = BIT(50); /* not defined */
    assert_int_equal(cpuid_policy_template(&p, &t, &err), -ERR_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_subset), cmocka_unit_test(test_host_offsets),
        cmocka_unit_test(test_topology),    cmocka_unit_test(test_everything_intel),
        cmocka_unit_test(test_emulated),    cmocka_unit_test(test_everything_amd),
        cmocka_unit_test(test_without_avx), cmocka_unit_test(test_too_old),
        cmocka_unit_test(test_limit),       cmocka_unit_test(test_clock),
        cmocka_unit_test(test_hypervisor),  cmocka_unit_test(test_print),
        cmocka_unit_test(test_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
