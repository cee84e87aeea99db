/* SPDX-License-Identifier: Apache-2.0 */
/* The MP table and SMBIOS: found where kernels look, checksums, entries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/boot/layout.h"
#include "core/boot/platform.h"
#include "tests/unit/lib_boot.h"

static u8 sum(const struct boot_fixture *f, u64 gpa, u32 n) {
    const u8 *p = ram_ptr(&f->ram, gpa, n);
    u8 s = 0;
    assert_non_null(p);
    for (u32 i = 0; i < n; i++) {
        s = (u8)(s + p[i]);
    }
    return s;
}

static void test_mptable(void **state) {
    struct platform p = {
        .vcpus = 3, .pci = true, .mmio = {{0xc0001000, 4096, 16}}, .mmio_count = 1};
    static const u8 sizes[5] = {20, 8, 8, 8, 8};
    struct boot_fixture f;
    u32 counts[5] = {0};
    (void)state;
    boot_fixture_init(&f, 2 * MIB, 0);
    assert_int_equal(mptable_write(&p, &f.ram, &f.err), 0);
    assert_memory_equal(ram_ptr(&f.ram, LAYOUT_MPTABLE, 4), "_MP_", 4);
    assert_int_equal(sum(&f, LAYOUT_MPTABLE, 16), 0);
    u64 table = guest32(&f, LAYOUT_MPTABLE + 4), at = table + 44;
    u32 length = guest16(&f, table + 4), entries = guest16(&f, table + 34);
    assert_int_equal(sum(&f, table, length), 0);
    bool pit = false, level16 = false;
    for (u32 i = 0; i < entries; i++) {
        const u8 *e = ram_ptr(&f.ram, at, 8);
        assert_true(e[0] < 5);
        counts[e[0]]++;
        pit |= e[0] == 3 && e[4] == 1 && e[5] == 0 && e[7] == 2;
        level16 |= e[0] == 3 && e[4] == 1 && e[5] == 16 && e[7] == 16 && e[2] == 0x0d;
        at += sizes[e[0]];
    }
    assert_int_equal(at, table + length);
    assert_int_equal(counts[0], 3);
    assert_int_equal(counts[1], 2);
    assert_int_equal(counts[2], 1);
    assert_int_equal(counts[3], 128 + 21);
    assert_int_equal(counts[4], 2);
    assert_true(pit && level16);
    assert_int_equal(guest16(&f, 0x40e), 0x9fc0);
    assert_int_equal(guest16(&f, 0x413), 639);
    boot_fixture_done(&f);
}

static void test_smbios(void **state) {
    struct platform p = {.vcpus = 1, .uuid = {1, 2, 3}};
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 2 * MIB, 0);
    assert_int_equal(smbios_write(&p, &f.ram, &f.err), 0);
    assert_memory_equal(ram_ptr(&f.ram, LAYOUT_SMBIOS, 5), "_SM3_", 5);
    assert_int_equal(sum(&f, LAYOUT_SMBIOS, 24), 0);
    u64 at = guest64(&f, LAYOUT_SMBIOS + 16), end = at + guest32(&f, LAYOUT_SMBIOS + 12);
    static const u8 types[] = {0, 1, 3, 127};
    for (u32 i = 0; i < 4; i++) {
        const u8 *s = ram_ptr(&f.ram, at, 4);
        assert_int_equal(s[0], types[i]);
        for (at += s[1]; guest16(&f, at) != 0; at++) {
        }
        at += 2;
    }
    assert_int_equal(at, end);
    boot_fixture_done(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mptable),
        cmocka_unit_test(test_smbios),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
