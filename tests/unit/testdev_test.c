/* SPDX-License-Identifier: Apache-2.0 */
/* Test devices and debug ports: what test suites written for QEMU do with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/debugport.h"
#include "core/dev/testdev.h"
#include "tests/unit/lib_chips.h"

static struct fake_char *ch;

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    ch = fake_char_create();
    assert_int_equal(debugport_add(&c.list, &c.env, &ch->be, NULL), 0);
    assert_int_equal(testdev_add(&c.list, &c.env, NULL), 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    fake_char_destroy(ch);
    return 0;
}

static void test_exit(void **state) {
    struct chips *c = *state;
    bus_write(&c->pio, 0xf4, 4, 0x10);
    assert_int_equal(c->requests, 1);
    assert_int_equal(c->request, MACHINE_EXIT_CODE);
    assert_int_equal(c->request_code, 0x21);
    bus_write(&c->pio, 0xf4, 1, 0);
    assert_int_equal(c->request_code, 1);
    assert_int_equal(bus_read(&c->pio, 0xf4, 4), 0);
}

static void test_register(void **state) {
    struct chips *c = *state;
    bus_write(&c->pio, 0xe0, 4, 0x12345678);
    assert_int_equal(bus_read(&c->pio, 0xe0, 4), 0x12345678);
    assert_int_equal(bus_read(&c->pio, 0xe1, 1), 0x56);
    bus_write(&c->pio, 0xe2, 2, 0xabcd);
    assert_int_equal(bus_read(&c->pio, 0xe0, 4), 0xabcd5678);
    bus_write(&c->pio, 0xe3, 1, 0x11);
    assert_int_equal(bus_read(&c->pio, 0xe0, 4), 0x11cd5678);
    bus_write(&c->pio, 0xe8, 1, 0x99);
    assert_int_equal(bus_read(&c->pio, 0xe0, 4), 0x11cd5699);
    assert_int_equal(bus_read(&c->pio, 0xea, 2), 0x11cd);
    bus_write(&c->pio, 0xe4, 4, 0x1000);
    assert_int_equal(bus_read(&c->pio, 0xe0, 4), 0x11cd5699);
}

static void test_lines(void **state) {
    struct chips *c = *state;
    bus_write(&c->pio, 0x200e, 1, 1);
    assert_true(c->irq->ioapic.s.lines & BIT(14));
    bus_write(&c->pio, 0x200e, 1, 0);
    assert_false(c->irq->ioapic.s.lines & BIT(14));
    bus_write(&c->pio, 0x2017, 1, 1);
    assert_true(c->irq->ioapic.s.lines & BIT(23));
    device_reset_all(&c->list);
    assert_false(c->irq->ioapic.s.lines & BIT(23));
}

static void test_memory(void **state) {
    struct chips *c = *state;
    u64 end = TESTDEV_MEMORY_BASE + TESTDEV_MEMORY;
    bus_write(&c->mmio, TESTDEV_MEMORY_BASE + 8, 8, 0x1122334455667788);
    assert_int_equal(bus_read(&c->mmio, TESTDEV_MEMORY_BASE + 8, 8), 0x1122334455667788);
    assert_int_equal(bus_read(&c->mmio, TESTDEV_MEMORY_BASE + 11, 2), 0x4455);
    bus_write(&c->mmio, end - 2, 4, 0xaabbccdd);
    assert_int_equal(bus_read(&c->mmio, end - 2, 2), 0xccdd);
    assert_int_equal(bus_read(&c->mmio, end - 2, 4), 0xffffccdd);
}

static void test_debug_ports(void **state) {
    struct chips *c = *state;
    assert_int_equal(chips_in(c, 0xe9), 0xe9);
    chips_out(c, 0xe9, 'o');
    chips_out(c, 0xe9, 'k');
    assert_int_equal(ch->out_len, 2);
    assert_memory_equal(ch->out, "ok", 2);
    chips_out(c, 0x80, 0x77);
    chips_out(c, 0xed, 0x66);
    assert_int_equal(chips_in(c, 0x80), 0x77);
    assert_int_equal(chips_in(c, 0xed), 0x66);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {T(test_exit), T(test_register), T(test_lines),
                                       T(test_memory), T(test_debug_ports)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
