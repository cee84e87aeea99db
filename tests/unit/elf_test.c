/* SPDX-License-Identifier: Apache-2.0 */
/* ELF files with a PVH note: loading, start info, modules, hostile headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/boot/elf.h"
#include "core/boot/layout.h"
#include "tests/unit/lib_boot.h"

enum { SIZE = 0x1000, TEXT = 0x400 };

static u8 file[SIZE];

/* One PT_LOAD of TEXT bytes at 1 MiB and one PT_NOTE. */
static void make64(struct blob *blob) {
    memset(file, 0, SIZE);
    memcpy(file,
           "\x7f"
           "ELF\2\1\1",
           7);
    put16(file, 16, 2);
    put16(file, 18, 62);
    put64(file, 24, 0xffffffff81000000);
    put64(file, 32, 64);
    put16(file, 54, 56);
    put16(file, 56, 2);
    put32(file, 64, 1);
    put64(file, 64 + 8, 0x200);
    put64(file, 64 + 16, 0xffffffff81000000);
    put64(file, 64 + 24, 0x100000);
    put64(file, 64 + 32, TEXT);
    put64(file, 64 + 40, 0x10000);
    put32(file, 120, 4);
    put64(file, 120 + 8, 0x800);
    put64(file, 120 + 32, 32);
    put64(file, 120 + 48, 4);
    put32(file, 0x800, 4);
    put32(file, 0x804, 8);
    put32(file, 0x808, 18);
    memcpy(file + 0x80c, "Xen", 4);
    put64(file, 0x810, 0x100040);
    memset(file + 0x200, 0xcc, TEXT);
    *blob = (struct blob){.data = file, .size = SIZE, .name = "vmlinux"};
}

static void make32(struct blob *blob) {
    memset(file, 0, SIZE);
    memcpy(file,
           "\x7f"
           "ELF\1\1\1",
           7);
    put16(file, 16, 2);
    put16(file, 18, 3);
    put32(file, 24, 0x100000);
    put32(file, 28, 52);
    put16(file, 42, 32);
    put16(file, 44, 2);
    u32 load[8] = {1, 0x200, 0x100000, 0x100000, TEXT, TEXT, 7, 4};
    u32 note[8] = {4, 0x800, 0, 0, 20, 20, 4, 4};
    memcpy(file + 52, load, 32);
    memcpy(file + 84, note, 32);
    put32(file, 0x800, 4);
    put32(file, 0x804, 4);
    put32(file, 0x808, 18);
    memcpy(file + 0x80c, "Xen", 4);
    put32(file, 0x810, 0x100010);
    *blob = (struct blob){.data = file, .size = SIZE, .name = "vmlinux32"};
}

static void test_pvh64(void **state) {
    static const u8 initrd[10] = {7, 8, 9};
    struct boot_module module = {.file = {initrd, 3, "mod"}, .cmdline = "the module"};
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 16 * MIB, 0);
    make64(&f.req.kernel);
    f.req.initrd = (struct blob){initrd, sizeof(initrd), "initrd"};
    f.req.modules = &module;
    f.req.module_count = 1;
    f.req.cmdline = "a b";
    f.req.rsdp = 0xe0000;
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x100040);
    assert_int_equal(f.state.gpr[GPR_RBX], LAYOUT_PVH);
    assert_int_equal(f.state.cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(guest32(&f, 0x100000), 0xcccccccc);
    assert_int_equal(guest32(&f, LAYOUT_PVH), 0x336ec578);
    assert_int_equal(guest32(&f, LAYOUT_PVH + 12), 2);
    u64 modules = guest64(&f, LAYOUT_PVH + 16);
    assert_int_equal(guest64(&f, modules + 8), sizeof(initrd));
    assert_int_equal(guest32(&f, guest64(&f, modules)) & 0xffffff, 0x090807);
    assert_string_equal(ram_ptr(&f.ram, guest64(&f, modules + 32 + 16), 16), "the module");
    assert_string_equal(ram_ptr(&f.ram, guest64(&f, LAYOUT_PVH + 24), 4), "a b");
    assert_int_equal(guest64(&f, LAYOUT_PVH + 32), 0xe0000);
    assert_int_equal(guest32(&f, LAYOUT_PVH + 48), f.e820.count);
    boot_fixture_done(&f);
}

static void test_pvh32(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 16 * MIB, 0);
    make32(&f.req.kernel);
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x100010);
    boot_fixture_done(&f);
}

static void expect_error(struct boot_fixture *f, const char *part) {
    memset(&f->err, 0, sizeof(f->err));
    assert_true(boot_load(&f->req, &f->state, &f->err) < 0);
    if (!strstr(f->err.text, part)) {
        fail_msg("\"%s\" lacks \"%s\"", f->err.text, part);
    }
}

static void test_bad(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 16 * MIB, 0);
    make64(&f.req.kernel);
    put16(file, 18, 183);
    expect_error(&f, "arm64");
    make64(&f.req.kernel);
    f.req.kernel.size = 0x500;
    expect_error(&f, "truncated");
    make64(&f.req.kernel);
    f.req.kernel.size = 30;
    expect_error(&f, "truncated");
    make64(&f.req.kernel);
    put64(file, 32, 0xfffffffffffffff0);
    expect_error(&f, "truncated");
    make64(&f.req.kernel);
    put64(file, 64 + 24, 0x10000000);
    expect_error(&f, "not free guest memory");
    make64(&f.req.kernel);
    put64(file, 64 + 24, 0x1000);
    expect_error(&f, "not free guest memory");
    make64(&f.req.kernel);
    put64(file, 64 + 40, 0xfffffffffffff000);
    expect_error(&f, "not free guest memory");
    make64(&f.req.kernel);
    put16(file, 16, 1);
    expect_error(&f, "not an executable");
    make64(&f.req.kernel);
    put32(file, 0x808, 1);
    expect_error(&f, "PVH note");
    make64(&f.req.kernel);
    put32(file, 0x804, 0xfffffff0);
    expect_error(&f, "PVH note");
    make64(&f.req.kernel);
    put32(file, 64, 0);
    expect_error(&f, "nothing to load");
    make64(&f.req.kernel);
    put64(file, 0x810, 0x110000); /* behind the only segment */
    expect_error(&f, "entry point");
    put64(file, 0x810, 0xfffff000);
    expect_error(&f, "entry point");
    boot_fixture_done(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pvh64),
        cmocka_unit_test(test_pvh32),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
