/* SPDX-License-Identifier: Apache-2.0 */
/* core/mem: the map of RAM and checked access to it; buses with regions of every access size. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "core/mem/bus.h"
#include "core/mem/ram.h"

enum { LOW = 4 * 4096, HIGH = 8 * 4096 };

static u8 low[LOW], high[HIGH];
static struct ram ram;
static u64 told_gpa, told_size;
static u32 told;

static void written(void *ctx, u64 gpa, u64 size) {
    (void)ctx;
    told_gpa = gpa;
    told_size = size;
    told++;
}

static int setup(void **state) {
    (void)state;
    ram = (struct ram){.written = written};
    told = 0;
    memset(low, 0, sizeof(low));
    memset(high, 0, sizeof(high));
    assert_int_equal(ram_add(&ram, 4 * GIB, HIGH, high, 0), 0); /* out of order: sorted */
    assert_int_equal(ram_add(&ram, 0, LOW, low, 0), 0);
    return 0;
}

/* --- RAM -------------------------------------------------------------------------------------- */

static void test_ram_add(void **state) {
    (void)state;
    assert_int_equal(ram.count, 2);
    assert_int_equal(ram.slot[0].gpa, 0);
    assert_int_equal(ram_add(&ram, LOW - 4096, 8192, low, 0), -ERR_RANGE);     /* overlaps below */
    assert_int_equal(ram_add(&ram, 4 * GIB - 4096, 8192, low, 0), -ERR_RANGE); /* and above */
    assert_int_equal(ram_add(&ram, 0, 8 * GIB, low, 0), -ERR_RANGE);           /* contains */
    assert_int_equal(ram_add(&ram, 4096, 4096, low, 0), -ERR_RANGE);           /* is contained */
    assert_int_equal(ram_add(&ram, MIB, 0, low, 0), -ERR_RANGE);
    assert_int_equal(ram_add(&ram, MIB + 1, 4096, low, 0), -ERR_RANGE);
    assert_int_equal(ram_add(&ram, MIB, 4097, low, 0), -ERR_RANGE);
    assert_int_equal(ram_add(&ram, UINT64_MAX - 4095, 8192, low, 0), -ERR_RANGE); /* wraps */
    assert_int_equal(ram_add(&ram, LOW, 4096, low, RAM_READONLY), 0); /* touches: fine */
    for (u64 i = ram.count; i < RAM_SLOTS_MAX; i++) {
        assert_int_equal(ram_add(&ram, i * MIB, 4096, low, 0), 0);
    }
    assert_int_equal(ram_add(&ram, 100 * MIB, 4096, low, 0), -ERR_NOMEM);
    for (u32 i = 1; i < ram.count; i++) {
        assert_true(ram.slot[i - 1].gpa < ram.slot[i].gpa);
    }
}

static void test_ram_ptr(void **state) {
    (void)state;
    assert_ptr_equal(ram_ptr(&ram, 0, LOW), low);
    assert_ptr_equal(ram_ptr(&ram, LOW - 1, 1), low + LOW - 1);
    assert_null(ram_ptr(&ram, LOW - 1, 2));
    assert_null(ram_ptr(&ram, 0, LOW + 1));
    assert_null(ram_ptr(&ram, LOW, 1));
    assert_null(ram_ptr(&ram, 16, UINT64_MAX)); /* the sum would wrap */
    assert_null(ram_ptr(&ram, UINT64_MAX, 1));
    assert_ptr_equal(ram_ptr(&ram, 4 * GIB, 1), high);
    assert_null(ram_ptr(&ram, 4 * GIB - 1, 2));
    assert_null(ram_find(&ram, 4 * GIB + HIGH));
    assert_ptr_equal(ram_find(&ram, 4 * GIB + HIGH - 1), &ram.slot[1]);
}

static void test_ram_copy(void **state) {
    (void)state;
    u8 buf[16] = "0123456789abcde";
    assert_int_equal(ram_write(&ram, 4095, buf, 16), 0); /* crosses a page */
    assert_memory_equal(low + 4095, buf, 16);
    assert_int_equal(told, 1);
    assert_int_equal(told_gpa, 4095);
    assert_int_equal(told_size, 16);
    memset(buf, 0xee, sizeof(buf));
    assert_int_equal(ram_read(&ram, 4096, buf, 4), 0);
    assert_memory_equal(buf, "1234", 4);
    assert_int_equal(ram_write(&ram, LOW - 8, buf, 16), -ERR_FAULT); /* nothing of it */
    assert_int_equal(low[LOW - 8], 0);
    assert_int_equal(told, 1);
    assert_int_equal(ram_read(&ram, LOW - 8, buf, 16), -ERR_FAULT);
    ram_written(&ram, 0, 0);
    assert_int_equal(told, 1);
}

static void test_ram_pages(void **state) {
    (void)state;
    u64 dirty[1] = {0};
    assert_int_equal(ram_page_count(&ram), 12);
    assert_int_equal(ram_page_index(&ram, 0), 0);
    assert_int_equal(ram_page_index(&ram, LOW - 1), 3);
    assert_int_equal(ram_page_index(&ram, 4 * GIB), 4);
    assert_int_equal(ram_page_index(&ram, 4 * GIB + HIGH - 1), 11);
    assert_true(ram_page_index(&ram, LOW) == UINT64_MAX);
    ram.dirty = dirty;
    ram_written(&ram, 4095, 2);
    assert_int_equal(dirty[0], 3);
    ram_written(&ram, 4 * GIB + HIGH - 1, 1);
    assert_int_equal(dirty[0], 3 | BIT(11));
    ram_written(&ram, LOW - 1, 2); /* half outside: no bit of another page */
    assert_int_equal(dirty[0] & ~(3 | BIT(11) | BIT(3)), 0);
    ram_written(&ram, 2 * GIB, 1);
    assert_int_equal(dirty[0] & ~(3 | BIT(11) | BIT(3)), 0);
}

/* --- buses ------------------------------------------------------------------------------------ */

/* A device of 32 bytes that notes each access: r/w, offset, size. */
struct dev {
    u8 bytes[32];
    char log[256];
    size_t len;
};

static void dev_note(struct dev *d, char what, u64 offset, u32 size) {
    if (d->len + 4 < sizeof(d->log)) {
        d->log[d->len++] = what;
        d->log[d->len++] = (char)((offset < 10 ? '0' : 'a' - 10) + (int)offset);
        d->log[d->len++] = (char)('0' + size);
        d->log[d->len++] = ' ';
    }
    d->log[d->len] = 0;
}

static u64 dev_read(void *device, u32 region, u64 offset, u32 size) {
    struct dev *d = device;
    u64 v = UINT64_MAX; /* more than asked for: the bus cuts it */
    assert_int_equal(region, 5);
    assert_true(offset + size <= sizeof(d->bytes));
    memcpy(&v, d->bytes + offset, size);
    dev_note(d, 'r', offset, size);
    return v;
}

static void dev_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct dev *d = device;
    assert_int_equal(region, 5);
    assert_true(offset + size <= sizeof(d->bytes));
    assert_true(size == 8 || value < BIT(size * 8));
    memcpy(d->bytes + offset, &value, size);
    dev_note(d, 'w', offset, size);
}

static const struct bus_ops ops_any = {dev_read, dev_write, 1, 8};
static const struct bus_ops ops_byte = {dev_read, dev_write, 1, 1};
static const struct bus_ops ops_dword = {dev_read, dev_write, 4, 4};
static const struct bus_ops ops_word_dword = {dev_read, dev_write, 2, 4};

static struct dev dev;

static struct bus_region region_at(u64 base, u64 size, const struct bus_ops *ops) {
    for (u32 i = 0; i < sizeof(dev.bytes); i++) {
        dev.bytes[i] = (u8)(0x10 + i);
    }
    dev.len = 0;
    dev.log[0] = 0;
    return (struct bus_region){
        .base = base, .size = size, .ops = ops, .device = &dev, .region = 5, .name = "test"};
}

static void expect_log(const char *log) {
    assert_string_equal(dev.log, log);
    dev.len = 0;
    dev.log[0] = 0;
}

static void test_bus_map(void **state) {
    (void)state;
    struct bus bus = {.limit = 0xffff};
    struct bus_region a = region_at(0x100, 16, &ops_any), b = region_at(0x110, 16, &ops_any);
    struct bus_region c = region_at(0x108, 16, &ops_any), end = region_at(0xffff, 1, &ops_any);
    struct bus_region out = region_at(0xffff, 2, &ops_any), none = region_at(0x10, 0, &ops_any);
    struct bus_region far = region_at(0x10000, 1, &ops_any);
    struct bus_region all = region_at(0, 0x10000, &ops_any);
    assert_int_equal(bus_map(&bus, &b), 0);
    assert_int_equal(bus_map(&bus, &a), 0);
    assert_int_equal(bus_map(&bus, &a), -ERR_RANGE); /* mapped already */
    assert_int_equal(bus_map(&bus, &c), -ERR_EXISTS);
    assert_int_equal(bus_map(&bus, &all), -ERR_EXISTS);
    assert_int_equal(bus_map(&bus, &end), 0);
    assert_int_equal(bus_map(&bus, &out), -ERR_RANGE);
    assert_int_equal(bus_map(&bus, &none), -ERR_RANGE);
    assert_int_equal(bus_map(&bus, &far), -ERR_RANGE);
    assert_ptr_equal(bus_find(&bus, 0x10f), &a);
    assert_ptr_equal(bus_find(&bus, 0x110), &b);
    assert_null(bus_find(&bus, 0x120));
    assert_null(bus_find(&bus, 0xff));
    bus_unmap(&bus, &a); /* also forgotten where the last access hit */
    bus_unmap(&bus, &a);
    assert_null(bus_find(&bus, 0x10f));
    assert_int_equal(bus_map(&bus, &c), -ERR_EXISTS); /* b is still there */
    bus_unmap(&bus, &b);
    assert_int_equal(bus_map(&bus, &c), 0);
    assert_ptr_equal(bus_find(&bus, 0x117), &c);
    bus_unmap(&bus, &c);
    bus_unmap(&bus, &end);
    assert_int_equal(bus_map(&bus, &all), 0);
    assert_ptr_equal(bus_find(&bus, 0xffff), &all);
}

static void test_bus_nobody(void **state) {
    (void)state;
    struct bus bus = {.limit = 0xffff};
    assert_int_equal(bus_read(&bus, 0x10, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0x10, 2), 0xffff);
    assert_int_equal(bus_read(&bus, 0x10, 4), 0xffffffff);
    assert_true(bus_read(&bus, 0x10, 8) == UINT64_MAX);
    assert_int_equal(bus_read(&bus, 0xffff, 4), 0xffffffff);
    assert_int_equal(bus_read(&bus, UINT64_MAX, 4), 0xffffffff);
    bus_write(&bus, 0xfffe, 4, 1);
    bus_write(&bus, UINT64_MAX, 8, 1);
}

static void test_bus_any(void **state) {
    (void)state;
    struct bus bus = {.limit = UINT64_MAX};
    struct bus_region r = region_at(0x1000, 32, &ops_any);
    assert_int_equal(bus_map(&bus, &r), 0);
    assert_int_equal(bus_read(&bus, 0x1001, 1), 0x11);
    assert_int_equal(bus_read(&bus, 0x1002, 2), 0x1312);
    assert_int_equal(bus_read(&bus, 0x1003, 4), 0x16151413); /* not aligned: the device's matter */
    assert_true(bus_read(&bus, 0x1008, 8) == 0x1f1e1d1c1b1a1918);
    expect_log("r11 r22 r34 r88 ");
    assert_int_equal(bus_read(&bus, 0x1004, 3), 0x161514); /* odd sizes by bytes */
    expect_log("r41 r51 r61 ");
    assert_int_equal(bus_read(&bus, 0x101e, 4), 0xffff2f2e); /* off the end */
    expect_log("ru1 rv1 ");
    assert_int_equal(bus_read(&bus, 0xfff, 2), 0x10ff); /* in from before the start */
    expect_log("r01 ");
    bus_write(&bus, 0x101f, 2, 0xbbaa);
    expect_log("wv1 ");
    assert_int_equal(dev.bytes[31], 0xaa);
    bus_write(&bus, 0x1000, 4, 0xffffffff12345678); /* more than fits is cut */
    expect_log("w04 ");
    assert_int_equal(bus_read(&bus, 0x1000, 4), 0x12345678);
}

static void test_bus_split(void **state) {
    (void)state;
    struct bus bus = {.limit = UINT64_MAX};
    struct bus_region r = region_at(0x1000, 32, &ops_byte);
    assert_int_equal(bus_map(&bus, &r), 0);
    assert_int_equal(bus_read(&bus, 0x1004, 4), 0x17161514);
    expect_log("r41 r51 r61 r71 ");
    bus_write(&bus, 0x1004, 2, 0xaabb);
    expect_log("w41 w51 ");
    assert_int_equal(dev.bytes[4], 0xbb);
    bus_unmap(&bus, &r);
    r = region_at(0x1000, 32, &ops_dword);
    assert_int_equal(bus_map(&bus, &r), 0);
    assert_true(bus_read(&bus, 0x1008, 8) == 0x1f1e1d1c1b1a1918);
    expect_log("r84 rc4 ");
    bus_write(&bus, 0x1008, 8, 0x1122334455667788);
    expect_log("w84 wc4 ");
    assert_int_equal(dev.bytes[15], 0x11);
}

/* Smaller than the device knows: reads are cut out of a whole one, writes are dropped. */
static void test_bus_narrow(void **state) {
    (void)state;
    struct bus bus = {.limit = UINT64_MAX};
    struct bus_region r = region_at(0x1000, 32, &ops_dword);
    assert_int_equal(bus_map(&bus, &r), 0);
    assert_int_equal(bus_read(&bus, 0x1006, 1), 0x16);
    assert_int_equal(bus_read(&bus, 0x1006, 2), 0x1716);
    expect_log("r44 r44 ");
    assert_int_equal(bus_read(&bus, 0x1007, 2), 0x1817); /* across two registers: by bytes */
    expect_log("r44 r84 ");
    bus_write(&bus, 0x1004, 1, 0);
    bus_write(&bus, 0x1004, 2, 0);
    expect_log("");
    bus_unmap(&bus, &r);
    r = region_at(0x1000, 32, &ops_word_dword);
    assert_int_equal(bus_map(&bus, &r), 0);
    assert_int_equal(bus_read(&bus, 0x1002, 2), 0x1312);
    assert_int_equal(bus_read(&bus, 0x1003, 1), 0x13);
    assert_true(bus_read(&bus, 0x1000, 8) == 0x1716151413121110);
    expect_log("r22 r22 r04 r44 ");
}

/* Two neighbours: an access over the border reaches both. */
static void test_bus_border(void **state) {
    (void)state;
    struct bus bus = {.limit = 0xffff};
    struct bus_region a = region_at(0x10, 4, &ops_any), b = region_at(0x14, 4, &ops_any);
    assert_int_equal(bus_map(&bus, &a), 0);
    assert_int_equal(bus_map(&bus, &b), 0);
    assert_int_equal(bus_read(&bus, 0x12, 4), 0x11101312);
    expect_log("r21 r31 r01 r11 ");
    bus_write(&bus, 0x13, 2, 0xccdd);
    expect_log("w31 w01 ");
}

#define T(name) cmocka_unit_test_setup(name, setup)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_ram_add),    T(test_ram_ptr),    T(test_ram_copy), T(test_ram_pages),
        T(test_bus_map),    T(test_bus_nobody), T(test_bus_any),  T(test_bus_split),
        T(test_bus_narrow), T(test_bus_border),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
