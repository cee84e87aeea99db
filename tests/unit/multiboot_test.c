/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1 images: address fields, ELF32, ELF64, modules, hostile headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/boot/layout.h"
#include "core/boot/multiboot.h"
#include "tests/unit/lib_boot.h"

enum { SIZE = 0x1000, AT = 0x300 };

static u8 file[SIZE];

static void header(u64 at, u32 flags) {
    put32(file, at, 0x1badb002);
    put32(file, at + 4, flags);
    put32(file, at + 8, 0u - 0x1badb002u - flags);
}

static void make_flat(struct blob *blob) {
    memset(file, 0x11, SIZE);
    header(AT, 0x10003);
    put32(file, AT + 12, 0x100000 + AT);
    put32(file, AT + 16, 0x100000);
    put32(file, AT + 20, 0x100800);
    put32(file, AT + 24, 0x104000);
    put32(file, AT + 28, 0x100020);
    *blob = (struct blob){.data = file, .size = SIZE, .name = "k.flat"};
}

static void make_elf(struct blob *blob, bool is64) {
    memset(file, 0, SIZE);
    memcpy(file,
           is64 ? "\x7f"
                  "ELF\2\1\1"
                : "\x7f"
                  "ELF\1\1\1",
           7);
    put16(file, 16, 2);
    put16(file, 18, is64 ? 62 : 3);
    if (is64) {
        put64(file, 24, 0x80100030);
        put64(file, 32, 64);
        put16(file, 54, 56);
        put16(file, 56, 1);
        u64 load[7] = {1, 0x200, 0x80100000, 0x100000, 0x400, 0x2000, 8};
        memcpy(file + 64, load, sizeof(load));
    } else {
        put32(file, 24, 0x100030);
        put32(file, 28, 52);
        put16(file, 42, 32);
        put16(file, 44, 1);
        u32 load[8] = {1, 0x200, 0x100000, 0x100000, 0x400, 0x2000, 7, 4};
        memcpy(file + 52, load, sizeof(load));
    }
    header(AT, 3);
    *blob = (struct blob){.data = file, .size = SIZE, .name = "k.elf"};
}

static void test_flat(void **state) {
    struct boot_fixture f;
    (void)state;
    boot_fixture_init(&f, 16 * MIB, 0);
    make_flat(&f.req.kernel);
    f.req.cmdline = "smp 3";
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x100020);
    assert_int_equal(f.state.gpr[GPR_RAX], 0x2badb002);
    u64 info = f.state.gpr[GPR_RBX];
    assert_int_equal(guest32(&f, info) & 0x24d, 0x24d);
    assert_int_equal(guest32(&f, info + 4), 639);
    assert_int_equal(guest32(&f, info + 8), 15 * 1024);
    assert_string_equal(ram_ptr(&f.ram, guest32(&f, info + 16), 16), "k.flat smp 3");
    assert_int_equal(guest32(&f, info + 44), f.e820.count * 24);
    assert_int_equal(guest32(&f, guest32(&f, info + 48)), 20);
    assert_int_equal(guest32(&f, 0x1007fc), 0x11111111);
    assert_int_equal(guest32(&f, 0x100800), 0);
    boot_fixture_done(&f);
}

static void test_elf(void **state) {
    static const u8 data[3] = {1, 2, 3};
    struct boot_module m = {.file = {data, 3, "m"}, .cmdline = "mod arg"};
    (void)state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct boot_fixture f;
        boot_fixture_init(&f, 16 * MIB, 0);
        make_elf(&f.req.kernel, is64);
        f.req.initrd = (struct blob){data, 2, "env"};
        f.req.modules = &m;
        f.req.module_count = 1;
        assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
        assert_int_equal(f.state.rip, 0x100030);
        u64 info = f.state.gpr[GPR_RBX], mods = guest32(&f, info + 24);
        assert_int_equal(guest32(&f, info + 20), 2);
        assert_int_equal(guest32(&f, mods), 0x102000);
        assert_int_equal(guest32(&f, mods + 4), 0x102002);
        assert_string_equal(ram_ptr(&f.ram, guest32(&f, mods + 8), 4), "env");
        assert_int_equal(guest32(&f, mods + 16), 0x103000);
        assert_string_equal(ram_ptr(&f.ram, guest32(&f, mods + 24), 8), "mod arg");
        boot_fixture_done(&f);
    }
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
    make_flat(&f.req.kernel);
    put32(file, AT + 16, 0x200000);
    expect_error(&f, "damaged");
    make_flat(&f.req.kernel);
    put32(file, AT + 20, 0x200000);
    expect_error(&f, "truncated");
    make_flat(&f.req.kernel);
    put32(file, AT + 20, 0x1000);
    expect_error(&f, "truncated");
    make_flat(&f.req.kernel);
    put32(file, AT + 24, 0xf0000000);
    expect_error(&f, "not free guest memory");
    make_flat(&f.req.kernel);
    put32(file, AT + 28, 0xf0000000);
    expect_error(&f, "entry point");
    make_flat(&f.req.kernel);
    header(AT, 0x10013);
    expect_error(&f, "features 0x10");
    make_flat(&f.req.kernel);
    header(AT, 3);
    expect_error(&f, "neither ELF");
    boot_fixture_done(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
