/* SPDX-License-Identifier: Apache-2.0 */
/* The keyboard controller: what drivers ask it, its interrupt, the ways to reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/i8042.h"
#include "tests/unit/lib_chips.h"

static struct i8042 *kbc;

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    assert_int_equal(i8042_add(&c.list, &c.env, &kbc, NULL), 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static bool irq(struct chips *c) {
    return c->irq->ioapic.s.lines & BIT(1);
}

static u8 answer(struct chips *c) {
    assert_int_equal(chips_in(c, 0x64) & 0x23, 0x01); /* full, not the mouse's, input empty */
    return chips_in(c, 0x60);
}

static u8 command(struct chips *c, u8 value) {
    chips_out(c, 0x64, value);
    return answer(c);
}

static void command_with(struct chips *c, u8 value, u8 data) {
    chips_out(c, 0x64, value);
    chips_out(c, 0x60, data);
}

/* The questions of Linux's i8042 driver. */
static void test_linux_probe(void **state) {
    struct chips *c = *state;
    assert_int_equal(chips_in(c, 0x64) & 1, 0);
    assert_int_equal(command(c, 0x20), 0x65);
    assert_int_equal(command(c, 0xaa), 0x55);
    command_with(c, 0x60, 0x74);
    assert_int_equal(command(c, 0x20), 0x74);
    command_with(c, 0xd3, 0x5a);
    assert_int_equal(chips_in(c, 0x64) & 0x21, 0x01); /* not from a mouse port */
    assert_int_equal(chips_in(c, 0x60), 0x5a);
    assert_int_equal(command(c, 0xa9), 0x01);
    assert_int_equal(command(c, 0xab), 0x00);
    assert_int_equal(chips_in(c, 0x64) & 1, 0);
}

static void test_keyboard(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x60, 0xff);
    assert_true(irq(c));
    assert_int_equal(answer(c), 0xfa);
    assert_true(irq(c));
    assert_int_equal(answer(c), 0xaa);
    assert_false(irq(c));
    command_with(c, 0x60, 0x05); /* no translation */
    chips_out(c, 0x60, 0xf2);
    assert_int_equal(answer(c), 0xfa);
    assert_int_equal(answer(c), 0xab);
    assert_int_equal(answer(c), 0x83);
    chips_out(c, 0x60, 0xed);
    assert_int_equal(answer(c), 0xfa);
    chips_out(c, 0x60, 0x02);
    assert_int_equal(answer(c), 0xfa);
    chips_out(c, 0x60, 0xf0);
    assert_int_equal(answer(c), 0xfa);
    chips_out(c, 0x60, 0x00);
    assert_int_equal(answer(c), 0xfa);
    assert_int_equal(answer(c), 0x02);
    chips_out(c, 0x60, 0xee);
    assert_int_equal(answer(c), 0xee);
    chips_out(c, 0x60, 0x12); /* no such command */
    assert_int_equal(answer(c), 0xfe);
}

static void test_interrupt_and_interface_enable(void **state) {
    struct chips *c = *state;
    command_with(c, 0x60, 0x44);
    i8042_type(kbc, (const u8 *)"\x1e\x9e", 2);
    assert_false(irq(c));
    command_with(c, 0x60, 0x45);
    assert_true(irq(c));
    assert_int_equal(answer(c), 0x1e);
    assert_int_equal(answer(c), 0x9e);
    chips_out(c, 0x64, 0xad);
    i8042_type(kbc, (const u8 *)"\x1e", 1);
    assert_int_equal(chips_in(c, 0x64) & 1, 0);
    assert_int_equal(command(c, 0x20), 0x55); /* answers come all the same */
    chips_out(c, 0x64, 0xae);
    assert_int_equal(answer(c), 0x1e);
    chips_out(c, 0x60, 0xf5);
    assert_int_equal(answer(c), 0xfa);
    i8042_ctrl_alt_del(kbc); /* scanning is off */
    assert_int_equal(chips_in(c, 0x64) & 1, 0);
    chips_out(c, 0x60, 0xf4);
    assert_int_equal(answer(c), 0xfa);
    i8042_ctrl_alt_del(kbc);
    assert_int_equal(answer(c), 0x1d);
}

static void test_resets(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x64, 0xfe);
    assert_int_equal(c->requests, 1);
    assert_int_equal(c->request, MACHINE_RESET);
    chips_out(c, 0x64, 0xff); /* pulses nothing */
    assert_int_equal(c->requests, 1);
    command_with(c, 0xd1, 0xfe);
    assert_int_equal(c->requests, 2);
    chips_out(c, 0x92, 0x03);
    assert_int_equal(c->requests, 3);
    chips_out(c, 0x92, 0x03);
    assert_int_equal(c->requests, 3);
}

static void test_a20(void **state) {
    struct chips *c = *state;
    assert_int_equal(chips_in(c, 0x92), 2);
    command_with(c, 0xd1, 0xdd);
    assert_int_equal(chips_in(c, 0x92), 0);
    command_with(c, 0xd1, 0xdf);
    assert_int_equal(chips_in(c, 0x92), 2);
    assert_int_equal(command(c, 0xd0) & 0x03, 0x03);
    chips_out(c, 0x92, 0x00);
    assert_int_equal(command(c, 0xd0) & 0x03, 0x01);
    assert_int_equal(c->requests, 0);
}

static void test_flood(void **state) {
    struct chips *c = *state;
    for (u32 i = 0; i < 1000; i++) {
        chips_out(c, 0x64, 0xab);
        chips_out(c, 0x60, 0xf2);
    }
    u32 n = 0;
    while (chips_in(c, 0x64) & 1) {
        chips_in(c, 0x60);
        assert_true(++n < 100);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_linux_probe), T(test_keyboard), T(test_interrupt_and_interface_enable),
        T(test_resets),      T(test_a20),      T(test_flood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
