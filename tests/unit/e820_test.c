/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware memory map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/boot/layout.h"
#include "tests/unit/lib_boot.h"

static void check_sorted(const struct e820_map *m) {
    for (u32 i = 1; i < m->count; i++) {
        assert_true(m->entry[i - 1].addr + m->entry[i - 1].size <= m->entry[i].addr);
    }
}

static u64 sum(const struct e820_map *m, u32 type) {
    u64 total = 0;
    for (u32 i = 0; i < m->count; i++) {
        total += m->entry[i].type == type ? m->entry[i].size : 0;
    }
    return total;
}

static void test_small(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 64 * MIB, 0);
    check_sorted(&f.e820);
    assert_int_equal(f.e820.count, 5);
    assert_int_equal(f.e820.entry[0].size, LAYOUT_EBDA);
    assert_int_equal(sum(&f.e820, E820_RAM), 63 * MIB + LAYOUT_EBDA);
    assert_int_equal(e820_low_end(&f.e820), 64 * MIB);
    boot_fixture_done(&f);
}

static void test_large(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 0xc0000000, 64 * GIB);
    check_sorted(&f.e820);
    assert_int_equal(e820_low_end(&f.e820), 0xc0000000);
    assert_int_equal(f.e820.entry[f.e820.count - 1].addr, 4 * GIB);
    assert_int_equal(f.e820.entry[f.e820.count - 1].size, 64 * GIB);
    boot_fixture_done(&f);
}

static void test_one_mib(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, MIB, 0);
    check_sorted(&f.e820);
    assert_int_equal(sum(&f.e820, E820_RAM), LAYOUT_EBDA);
    boot_fixture_done(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_one_mib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
