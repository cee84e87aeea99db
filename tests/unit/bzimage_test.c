/* SPDX-License-Identifier: Apache-2.0 */
/* The bzImage loader on made-up images: placement, zero page, entry states, hostile headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/boot/bzimage.h"
#include "core/boot/layout.h"
#include "tests/unit/lib_boot.h"

enum { SETUP = 1024, BODY = 8192, SIZE = SETUP + BODY };

struct image {
    u8 file[SIZE];
};

static void make(struct image *img, struct blob *blob) {
    u8 *f = img->file;
    memset(f, 0, SIZE);
    memset(f + SETUP, 0x90, BODY);
    f[0x1f1] = 1;
    put32(f, 0x1f4, BODY / 16);
    put16(f, 0x1fe, 0xaa55);
    f[0x200] = 0xeb;
    f[0x201] = 0x66;
    memcpy(f + 0x202, "HdrS", 4);
    put16(f, 0x206, 0x20f);
    f[0x211] = 1;
    put32(f, 0x214, 0x100000);
    put32(f, 0x22c, 0x7fffffff);
    put32(f, 0x230, 0x200000);
    f[0x234] = 1;
    put16(f, 0x236, 3);
    put32(f, 0x238, 2047);
    put64(f, 0x258, 0x1000000);
    put32(f, 0x260, 0x300000);
    *blob = (struct blob){.data = f, .size = SIZE, .name = "bzImage"};
}

static void test_entry64(void **state) {
    static const u8 initrd[5000] = {1, 2, 3};
    struct boot_fixture f;
    struct image img;
    (void)state;
    boot_fixture_init(&f, 64 * MIB, 0);
    make(&img, &f.req.kernel);
    f.req.initrd = (struct blob){.data = initrd, .size = sizeof(initrd), .name = "initrd"};
    f.req.cmdline = "console=ttyS0";
    f.req.rsdp = 0xe0000;
    f.req.has_seed = true;
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x1000200);
    assert_int_equal(f.state.gpr[GPR_RSI], LAYOUT_ZERO_PAGE);
    assert_true(f.state.msr.efer & EFER_LMA);
    assert_true(f.state.cr0 & CR0_PG);
    assert_int_equal(f.state.seg[SEG_CS].sel, 0x10);
    assert_true(f.state.seg[SEG_CS].attr & SEG_ATTR_L);
    assert_int_equal(guest32(&f, 0x1000000), 0x90909090);
    u64 zp = LAYOUT_ZERO_PAGE;
    assert_int_equal(guest32(&f, zp + 0x202), 0x53726448);
    assert_int_equal(guest64(&f, zp + 0x70), 0xe0000);
    assert_int_equal(guest32(&f, zp + 0x21c), sizeof(initrd));
    u32 at = guest32(&f, zp + 0x218);
    assert_int_equal(at, 64 * MIB - 8192);
    assert_int_equal(guest32(&f, at), 0x00030201);
    assert_int_equal(*(u8 *)ram_ptr(&f.ram, zp + 0x1e8, 1), f.e820.count);
    assert_string_equal(ram_ptr(&f.ram, guest32(&f, zp + 0x228), 14), "console=ttyS0");
    assert_int_equal(guest64(&f, zp + 0x250), LAYOUT_SETUP_DATA);
    assert_int_equal(guest32(&f, LAYOUT_SETUP_DATA + 8), 9);
    /* the page tables map the first 4 GiB one to one */
    assert_int_equal(guest64(&f, LAYOUT_PAGE_TABLES + 0x2000 + 8), 0x200083);
    boot_fixture_done(&f);
}

static void test_real_mode_only(void **state) {
    struct boot_fixture f;
    struct image img;
    (void)state;
    boot_fixture_init(&f, 64 * MIB, 0);
    make(&img, &f.req.kernel);
    put16(img.file, 0x206, 0x207);
    put32(img.file, 0x214, 0);
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(f.err.text, "BIOS"));
    boot_fixture_done(&f);
}

static void test_entry32(void **state) {
    struct boot_fixture f;
    struct image img;
    (void)state;
    boot_fixture_init(&f, 64 * MIB, 0);
    make(&img, &f.req.kernel);
    put16(img.file, 0x206, 0x206);
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x100000);
    assert_int_equal(f.state.cr0 & (CR0_PG | CR0_PE), CR0_PE);
    assert_int_equal(f.state.msr.efer, 0);
    assert_true(f.state.seg[SEG_CS].attr & SEG_ATTR_DB);
    boot_fixture_done(&f);
}

static void test_relocated_when_small(void **state) {
    struct boot_fixture f;
    struct image img;
    (void)state;
    boot_fixture_init(&f, 8 * MIB, 0);
    make(&img, &f.req.kernel);
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(f.state.rip, 0x200200);
    boot_fixture_done(&f);
}

static void test_initrd_above_4g(void **state) {
    struct boot_fixture f;
    struct image img;
    u8 *initrd = calloc(1, 32 * MIB);
    (void)state;
    boot_fixture_init(&f, 32 * MIB, 64 * MIB);
    make(&img, &f.req.kernel);
    f.req.initrd = (struct blob){.data = initrd, .size = 32 * MIB, .name = "initrd"};
    assert_int_equal(boot_load(&f.req, &f.state, &f.err), 0);
    assert_int_equal(guest32(&f, LAYOUT_ZERO_PAGE + 0xc0), 1);
    assert_int_equal(guest32(&f, LAYOUT_ZERO_PAGE + 0x218), 0);
    free(initrd);
    boot_fixture_done(&f);
}

static void expect_error(struct boot_fixture *f, int code, const char *part) {
    memset(&f->err, 0, sizeof(f->err));
    assert_int_equal(boot_load(&f->req, &f->state, &f->err), -code);
    assert_non_null(strstr(f->err.text, part));
    assert_null(strchr(f->err.text, '\n'));
}

static void test_bad(void **state) {
    struct boot_fixture f;
    struct image img;
    u8 *big = calloc(1, 65 * MIB);
    char *line = calloc(1, 3000);
    (void)state;
    boot_fixture_init(&f, 64 * MIB, 0);
    make(&img, &f.req.kernel);
    f.req.kernel.size = SIZE - 512;
    expect_error(&f, ERR_FORMAT, "truncated");
    make(&img, &f.req.kernel);
    put16(img.file, 0x206, 0x203);
    expect_error(&f, ERR_UNSUPPORTED, "too old");
    make(&img, &f.req.kernel);
    img.file[0x211] = 0;
    expect_error(&f, ERR_UNSUPPORTED, "zImage");
    make(&img, &f.req.kernel);
    put32(img.file, 0x260, 0xffffffff);
    expect_error(&f, ERR_RANGE, "too small");
    make(&img, &f.req.kernel);
    f.req.initrd = (struct blob){.data = big, .size = 65 * MIB, .name = "big.cpio"};
    expect_error(&f, ERR_RANGE, "big.cpio");
    f.req.initrd = (struct blob){0};
    memset(line, 'x', 2999);
    f.req.cmdline = line;
    expect_error(&f, ERR_RANGE, "command line");
    free(big);
    free(line);
    boot_fixture_done(&f);
}

static void detect(const char *bytes, size_t n, size_t at, const char *part) {
    static u8 file[4096];
    struct err err = {0};
    enum boot_kind kind;
    struct blob b = {.data = file, .size = sizeof(file), .name = "vmlinuz"};
    memset(file, 0, sizeof(file));
    memcpy(file + at, bytes, n);
    assert_int_not_equal(boot_detect(&b, &kind, &err), 0);
    assert_non_null(strstr(err.text, part));
    assert_non_null(strstr(err.text, "vmlinuz"));
}

static void test_foreign(void **state) {
    struct err err = {0};
    enum boot_kind kind;
    struct blob empty = {.data = (const u8 *)"", .size = 0, .name = "vmlinuz"};
    struct blob tiny = {.data = (const u8 *)"abc", .size = 3, .name = "vmlinuz"};
    (void)state;
    detect("ARM\x64", 4, 0x38, "arm64");
    detect("\x1f\x8b", 2, 0, "gzip");
    detect("MZ", 2, 0, "EFI");
    detect("070701", 6, 0, "initramfs");
    detect("hello", 5, 0, "not a kernel");
    assert_int_equal(boot_detect(&empty, &kind, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "empty"));
    err.code = 0;
    assert_int_equal(boot_detect(&tiny, &kind, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "too short"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entry64),         cmocka_unit_test(test_entry32),
        cmocka_unit_test(test_real_mode_only),  cmocka_unit_test(test_relocated_when_small),
        cmocka_unit_test(test_initrd_above_4g), cmocka_unit_test(test_bad),
        cmocka_unit_test(test_foreign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
