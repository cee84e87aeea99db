/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables: reachable from the RSDP, checksums, contents; iasl reads the DSDT where it is
 * installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/boot/aml.h"
#include "core/boot/layout.h"
#include "core/boot/platform.h"
#include "tests/unit/lib_boot.h"

static const struct platform full = {
    .vcpus = 64,
    .ecam_base = 0xe0000000,
    .ecam_buses = 1,
    .mem32_base = 0xc1000000,
    .mem32_size = 0x1f000000,
    .mem64_base = 0x1000000000,
    .mem64_size = 0x1000000000,
    .pci = true,
    .serial = {{0x3f8, 4}, {0x2f8, 3}},
    .serial_count = 2,
    .mmio = {{0xc0001000, 4096, 5}, {0xc0002000, 4096, 16}},
    .mmio_count = 2,
    .mmio_in_acpi = true,
};

static u8 sum(const struct boot_fixture *f, u64 gpa, u32 n) {
    const u8 *p = ram_ptr(&f->ram, gpa, n);
    u8 s = 0;
    assert_non_null(p);
    for (u32 i = 0; i < n; i++) {
        s = (u8)(s + p[i]);
    }
    return s;
}

static u64 find(const struct boot_fixture *f, u64 xsdt, const char *signature) {
    u32 n = (guest32(f, xsdt + 4) - 36) / 8;
    for (u32 i = 0; i < n; i++) {
        u64 at = guest64(f, xsdt + 36 + i * 8);
        assert_int_equal(sum(f, at, guest32(f, at + 4)), 0);
        if (memcmp(ram_ptr(&f->ram, at, 4), signature, 4) == 0) {
            return at;
        }
    }
    return 0;
}

static u64 write_tables(struct boot_fixture *f, const struct platform *p) {
    u64 rsdp = 0;
    boot_fixture_init(f, 16 * MIB, 0);
    assert_int_equal(acpi_write(p, &f->ram, &rsdp, &f->err), 0);
    assert_memory_equal(ram_ptr(&f->ram, rsdp, 8), "RSD PTR ", 8);
    assert_int_equal(sum(f, rsdp, 20), 0);
    assert_int_equal(sum(f, rsdp, 36), 0);
    return guest64(f, rsdp + 24);
}

static void test_tables(void **state) {
    struct boot_fixture f;
    u64 xsdt = write_tables(&f, &full);
    (void)state;
    assert_int_equal(sum(&f, xsdt, guest32(&f, xsdt + 4)), 0);
    u64 rsdt = guest32(&f, LAYOUT_ACPI + 16);
    assert_int_equal(sum(&f, rsdt, guest32(&f, rsdt + 4)), 0);
    assert_int_equal(guest32(&f, rsdt + 36), guest64(&f, xsdt + 36));

    u64 fadt = find(&f, xsdt, "FACP"), madt = find(&f, xsdt, "APIC"), mcfg = find(&f, xsdt, "MCFG");
    assert_true(fadt && madt && mcfg);
    assert_int_equal(guest64(&f, mcfg + 44), 0xe0000000);
    u64 facs = guest32(&f, fadt + 36), dsdt = guest64(&f, fadt + 140);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(ram_ptr(&f.ram, facs, 4), "FACS", 4);
    assert_memory_equal(ram_ptr(&f.ram, dsdt, 4), "DSDT", 4);
    assert_int_equal(sum(&f, dsdt, guest32(&f, dsdt + 4)), 0);
    assert_int_equal(guest32(&f, fadt + 76), 0x608);
    assert_int_equal(guest16(&f, fadt + 46), 9);
    boot_fixture_done(&f);
}

static void test_madt(void **state) {
    struct boot_fixture f;
    u64 madt = find(&f, write_tables(&f, &full), "APIC");
    u32 counts[16] = {0}, length = guest32(&f, madt + 4);
    (void)state;
    for (u32 at = 44; at < length;) {
        const u8 *e = ram_ptr(&f.ram, madt + at, 2);
        assert_true(e[0] < 16 && e[1] >= 2);
        counts[e[0]]++;
        at += e[1];
    }
    assert_int_equal(counts[0], 64);
    assert_int_equal(counts[1], 1);
    assert_int_equal(counts[2], 4);
    assert_int_equal(counts[4], 1);
    boot_fixture_done(&f);
}

static void test_iasl(void **state) {
    struct boot_fixture f;
    char dir[] = "/tmp/acpi_testXXXXXX", cmd[512];
    u64 xsdt = write_tables(&f, &full), fadt = find(&f, xsdt, "FACP");
    static const char *const names[] = {"FACP", "APIC", "MCFG", "DSDT"};
    (void)state;
    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        print_message("iasl (acpica-tools) is not installed: not checked\n");
        boot_fixture_done(&f);
        skip();
    }
    assert_non_null(mkdtemp(dir));
    for (u32 i = 0; i < 4; i++) {
        u64 at = i == 3 ? guest64(&f, fadt + 140) : find(&f, xsdt, names[i]);
        snprintf(cmd, sizeof(cmd), "%s/%s.aml", dir, names[i]);
        FILE *out = fopen(cmd, "wb");
        assert_non_null(out);
        u32 n = guest32(&f, at + 4);
        assert_int_equal(fwrite(ram_ptr(&f.ram, at, n), 1, n, out), n);
        fclose(out);
    }
    /* Disassemble all, then compile the DSDT again: no error and no warning. */
    snprintf(
        cmd, sizeof(cmd),
        "cd %s && for t in FACP APIC MCFG DSDT; do iasl -d $t.aml >$t.log 2>&1 || exit 1; done; "
        "grep -il 'warning\\|invalid\\|incorrect' *.log *.dsl && exit 2; "
        "iasl -p again DSDT.dsl >again.log 2>&1 || exit 3; "
        "grep -q ' 0 Errors, 0 Warnings' again.log || { cat again.log; exit 4; }",
        dir);
    int rc = system(cmd);
    assert_int_equal(rc, 0);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
    boot_fixture_done(&f);
}

static void test_too_small(void **state) {
    struct boot_fixture f;
    u64 rsdp = 0;
    (void)state;
    boot_fixture_init(&f, 512 * KIB, 0);
    assert_int_equal(acpi_write(&full, &f.ram, &rsdp, &f.err), -ERR_RANGE);
    boot_fixture_done(&f);
}

static void test_aml_limits(void **state) {
    u8 buf[8];
    struct aml a = {.buf = buf, .cap = sizeof(buf)};
    (void)state;
    size_t dev = aml_device(&a, "ABCD");
    aml_name_int(&a, "_UID", 0x123456789);
    aml_end(&a, dev);
    assert_true(a.failed);
    assert_true(a.len <= sizeof(buf));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),     cmocka_unit_test(test_madt),
        cmocka_unit_test(test_iasl),       cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_aml_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
