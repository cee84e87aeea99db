/* SPDX-License-Identifier: Apache-2.0 */
/* The MSR table: which values each register takes, which indexes exist. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/base/err.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/msr.h"
#include "core/cpu/state.h"

#define NONCANON 0x0000800000000000ull
#define CANON    0xffff800000000000ull

static struct cpuid_policy policy;

static int set_up(void **state) {
    (void)state;
    return cpuid_policy_init(&policy, 2500000000ull, 1, NULL);
}

struct row {
    u32 index;
    u64 value;
    int ok;     /* the write is taken */
    u64 expect; /* what reads then, when ok */
};

static const struct row rows[] = {
    {MSR_STAR, 0x0023001000000000ull, 1, 0x0023001000000000ull},
    {MSR_LSTAR, CANON, 1, CANON},
    {MSR_LSTAR, NONCANON, 0, 0},
    {MSR_CSTAR, NONCANON, 0, 0},
    {MSR_SFMASK, 0x47700, 1, 0x47700},
    {MSR_SFMASK, 1ull << 32, 0, 0},
    {MSR_FS_BASE, CANON + 8, 1, CANON + 8},
    {MSR_FS_BASE, NONCANON, 0, 0},
    {MSR_GS_BASE, 0x7fffffffffffull, 1, 0x7fffffffffffull},
    {MSR_GS_BASE, 0x8000000000000000ull, 0, 0},
    {MSR_KERNEL_GS_BASE, NONCANON, 0, 0},
    {MSR_SYSENTER_CS, 0x10, 1, 0x10},
    {MSR_SYSENTER_ESP, NONCANON, 0, 0},
    {MSR_SYSENTER_EIP, CANON, 1, CANON},
    {MSR_PAT, 0x0007040600070406ull, 1, 0x0007040600070406ull},
    {MSR_PAT, 0x0007040600070402ull, 0, 0},
    {MSR_PAT, 0x0207040600070406ull, 0, 0},
    {MSR_PAT, 0x0105040600070406ull, 1, 0x0105040600070406ull},
    {MSR_MTRR_DEF_TYPE, 0xc06, 1, 0xc06},
    {MSR_MTRR_DEF_TYPE, 0xc02, 0, 0},
    {MSR_MTRR_DEF_TYPE, 0x100, 0, 0},
    {MSR_MTRR_FIX64K_00000, 0x0606060606060606ull, 1, 0x0606060606060606ull},
    {MSR_MTRR_FIX64K_00000, 0x0706060606060606ull, 0, 0},
    {MSR_MTRR_FIX16K_A0000, 0x0101010101010101ull, 1, 0x0101010101010101ull},
    {0x268, 0x0505050505050505ull, 1, 0x0505050505050505ull},
    {0x26f, 0x0404040404040404ull, 1, 0x0404040404040404ull},
    {0x200, 0xc0000006, 1, 0xc0000006},
    {0x200, 0xc0000003, 0, 0},
    {0x200, 0xc0000106, 0, 0},
    {0x200, 1ull << 60, 0, 0},
    {0x201, 0xc0000800, 1, 0xc0000800},
    {0x201, 0xc0000400, 0, 0},
    {0x20f, 0x800, 1, 0x800},
    {0x210, 0, 0, 0},
    {MSR_MTRRCAP, 0, 0, 0},
    {MSR_PLATFORM_INFO, 0, 0, 0},
    {MSR_FEATURE_CONTROL, 1, 0, 0},
    {MSR_BIOS_SIGN_ID, 0, 1, 1ull << 32},
    {MSR_BIOS_UPDT_TRIG, 0x1234, 1, 0},
    {MSR_MISC_ENABLE, 0x1, 1, 0x1801},
    {MSR_MISC_ENABLE, 0x2, 0, 0},
    {MSR_MCG_STATUS, 7, 1, 7},
    {MSR_MCG_STATUS, 8, 0, 0},
    {MSR_MCG_CTL, UINT64_MAX, 1, UINT64_MAX},
    {MSR_MCG_CTL, 5, 0, 0},
    {MSR_MC0_CTL, 0, 1, UINT64_MAX},
    {MSR_MC0_CTL + 1, 0, 1, 0},
    {MSR_MC0_CTL + 1, 1, 0, 0},
    {MSR_MC0_CTL + 4 * MSR_MC_BANKS, 0, 0, 0},
    {MSR_DEBUGCTL, 3, 1, 3},
    {MSR_DEBUGCTL, 0x40, 0, 0},
    {MSR_SPEC_CTRL, 1, 1, 1},
    {MSR_SPEC_CTRL, 0x10, 0, 0},
    {MSR_PRED_CMD, 1, 1, 0},
    {MSR_PRED_CMD, 2, 0, 0},
    {MSR_SMI_COUNT, 0, 0, 0},
    {MSR_XSS, 0, 0, 0},
    {MSR_MISC_FEATURES_ENABLES, 0, 1, 0},
    {MSR_MISC_FEATURES_ENABLES, 1, 0, 0},
    {MSR_APIC_BASE, 0xfee00900, 0, 0},
    {MSR_TSC_DEADLINE, 1, 0, 0},
    {0x802, 1, 0, 0},
    {0x12345678, 0, 0, 0},
    {0x4b564d01, 0, 0, 0},
};

static bool readable(u32 index) {
    return index != MSR_BIOS_UPDT_TRIG && index != MSR_PRED_CMD;
}

static void test_table(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct cpu_state s, before;
        u64 v = 0;
        cpu_state_reset(&s, true);
        before = s;
        int rc = msr_write(&s, &policy, rows[i].index, rows[i].value);
        if ((rc == 0) != rows[i].ok) {
            fail_msg("msr %x value %llx: %d", rows[i].index, (unsigned long long)rows[i].value, rc);
        }
        if (!rows[i].ok) {
            assert_memory_equal(&s, &before, sizeof(s));
        } else if (readable(rows[i].index)) {
            assert_int_equal(msr_read(&s, &policy, rows[i].index, &v), 0);
            if (v != rows[i].expect) {
                fail_msg("msr %x reads %llx", rows[i].index, (unsigned long long)v);
            }
        } else {
            assert_int_equal(msr_read(&s, &policy, rows[i].index, &v), -ERR_INVAL);
        }
    }
}

static void test_efer(void **state) {
    struct cpu_state s;
    (void)state;
    cpu_state_reset(&s, true);
    assert_int_equal(msr_write(&s, &policy, MSR_EFER, EFER_LME | EFER_NXE | EFER_SCE), 0);
    assert_int_equal(msr_write(&s, &policy, MSR_EFER, BIT(1)), -ERR_INVAL);
    assert_int_equal(msr_write(&s, &policy, MSR_EFER, EFER_LME | EFER_LMA), 0);
    assert_int_equal(s.msr.efer, EFER_LME); /* LMA cannot be written */
    s.cr0 |= CR0_PG | CR0_PE;
    s.msr.efer |= EFER_LMA;
    assert_int_equal(msr_write(&s, &policy, MSR_EFER, 0), -ERR_INVAL);
    assert_int_equal(msr_write(&s, &policy, MSR_EFER, EFER_LME | EFER_SCE), 0);
    assert_int_equal(s.msr.efer, EFER_LME | EFER_LMA | EFER_SCE);
}

static void test_tsc(void **state) {
    struct cpu_state s;
    u64 v;
    (void)state;
    cpu_state_reset(&s, true);
    s.msr.tsc = 1000;
    assert_int_equal(msr_write(&s, &policy, MSR_TSC, 5000), 0);
    assert_int_equal(s.msr.tsc_adjust, 4000);
    assert_int_equal(msr_write(&s, &policy, MSR_TSC_ADJUST, 0), 0);
    assert_int_equal(s.msr.tsc, 1000);
    assert_int_equal(msr_read(&s, &policy, MSR_TSC, &v), 0);
    assert_int_equal(v, 1000);
    assert_int_equal(msr_read(&s, &policy, MSR_PLATFORM_INFO, &v), 0);
    assert_int_equal(v, 25 << 8);
}

static void test_list(void **state) {
    struct cpu_state s;
    u32 index, n = 0;
    u64 v;
    (void)state;
    cpu_state_reset(&s, true);
    while (msr_state_list(n, &index) == 0) {
        bool offered = msr_read(&s, &policy, index, &v) == 0;
        assert_true(offered || index == MSR_XSS || index == MSR_TSC_AUX);
        n++;
    }
    assert_int_equal(index, MSR_TSC);
    assert_int_equal(msr_state_list(n + 1, &index), -ERR_RANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_efer),
        cmocka_unit_test(test_tsc),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
