/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock: time in every format, setting it, alarm, interrupts, CMOS. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/rtc_dev.h"
#include "tests/unit/lib_chips.h"

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    struct rtc_config cfg = {.low_memory = 3 * GIB, .high_memory = 5 * GIB, .vcpus = 4};
    /* 2024-02-29 12:34:56.5 UTC, a Thursday */
    c.fake->wall_offset = 1709210096ull * NSEC_PER_SEC + NSEC_PER_SEC / 2 - c.fake->now;
    assert_int_equal(rtc_add(&c.list, &c.env, &cfg, NULL), 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static u8 get(struct chips *c, u8 reg) {
    chips_out(c, 0x70, reg);
    return chips_in(c, 0x71);
}

static void set(struct chips *c, u8 reg, u8 value) {
    chips_out(c, 0x70, reg);
    chips_out(c, 0x71, value);
}

static bool irq8(struct chips *c) {
    return c->irq->ioapic.s.lines & BIT(8);
}

static void expect(struct chips *c, u8 cent, u8 y, u8 mo, u8 d, u8 dow, u8 h, u8 mi, u8 s) {
    assert_int_equal(get(c, 0x32), cent);
    assert_int_equal(get(c, 9), y);
    assert_int_equal(get(c, 8), mo);
    assert_int_equal(get(c, 7), d);
    assert_int_equal(get(c, 6), dow);
    assert_int_equal(get(c, 4), h);
    assert_int_equal(get(c, 2), mi);
    assert_int_equal(get(c, 0), s);
}

static void test_time_formats(void **state) {
    struct chips *c = *state;
    expect(c, 0x20, 0x24, 0x02, 0x29, 5, 0x12, 0x34, 0x56);
    set(c, 0x0b, 0x06); /* binary, 24 hours */
    expect(c, 20, 24, 2, 29, 5, 12, 34, 56);
    set(c, 0x0b, 0x00); /* BCD, 12 hours */
    expect(c, 0x20, 0x24, 0x02, 0x29, 5, 0x92, 0x34, 0x56);
    fake_advance(c->fake, 13ull * 3600 * NSEC_PER_SEC);
    expect(c, 0x20, 0x24, 0x03, 0x01, 6, 0x01, 0x34, 0x56);
    fake_advance(c->fake, 23ull * 3600 * NSEC_PER_SEC);
    assert_int_equal(get(c, 4), 0x12); /* 00:34: 12 am */
}

static void test_update_in_progress(void **state) {
    struct chips *c = *state;
    assert_int_equal(get(c, 0x0a), 0x26);
    fake_advance(c->fake, 499800000);
    assert_int_equal(get(c, 0x0a), 0xa6);
    fake_advance(c->fake, 200000);
    assert_int_equal(get(c, 0x0a), 0x26);
    assert_int_equal(get(c, 0), 0x57);
}

/* As Linux does it: SET, divider reset, write, release. */
static void test_set_time(void **state) {
    struct chips *c = *state;
    set(c, 0x0b, 0x82);
    set(c, 0x0a, 0x76);
    static const u8 time[][2] = {{9, 0x99}, {8, 0x12}, {7, 0x31},   {4, 0x23},
                                 {2, 0x59}, {0, 0x58}, {0x32, 0x19}};
    for (u32 i = 0; i < ARRAY_LEN(time); i++) {
        set(c, time[i][0], time[i][1]);
    }
    fake_advance(c->fake, 10 * NSEC_PER_SEC); /* it stands still meanwhile */
    assert_int_equal(get(c, 0), 0x58);
    set(c, 0x0b, 0x02);
    set(c, 0x0a, 0x26);
    fake_advance(c->fake, NSEC_PER_SEC / 2 - 1); /* first update after half a second */
    assert_int_equal(get(c, 0), 0x58);
    fake_advance(c->fake, 1);
    assert_int_equal(get(c, 0), 0x59);
    fake_advance(c->fake, NSEC_PER_SEC);
    expect(c, 0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0); /* 2000-01-01 was a Saturday */
    set(c, 4, 0x05);                               /* while it runs */
    assert_int_equal(get(c, 4), 0x05);
    assert_int_equal(get(c, 7), 0x01);
}

static void test_update_interrupt(void **state) {
    struct chips *c = *state;
    set(c, 0x0b, 0x12);
    assert_false(irq8(c));
    fake_advance(c->fake, 499999999);
    assert_false(irq8(c));
    fake_advance(c->fake, 1);
    assert_true(irq8(c));
    fake_advance(c->fake, 5 * NSEC_PER_SEC);
    assert_int_equal(get(c, 0x0c) & 0x90, 0x90);
    assert_false(irq8(c));
    fake_advance(c->fake, NSEC_PER_SEC);
    assert_true(irq8(c));
    set(c, 0x0b, 0x82); /* SET clears the enable */
    assert_int_equal(get(c, 0x0b), 0x82);
}

static void test_periodic_interrupt(void **state) {
    struct chips *c = *state;
    get(c, 0x0c);
    set(c, 0x0b, 0x42); /* 1024 Hz */
    u32 count = 0;
    for (u32 i = 0; i < 10000; i++) {
        fake_advance(c->fake, 100000);
        if (irq8(c)) {
            assert_int_equal(get(c, 0x0c) & 0xc0, 0xc0);
            count++;
        }
    }
    assert_true(count >= 1023 && count <= 1025);
    set(c, 0x0a, 0x2f); /* 2 Hz */
    get(c, 0x0c);
    fake_advance(c->fake, NSEC_PER_SEC / 2);
    assert_true(irq8(c));
    set(c, 0x0b, 0x02);
    assert_false(irq8(c));
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
}

static void test_alarm(void **state) {
    struct chips *c = *state;
    set(c, 5, 0x12);
    set(c, 3, 0x35);
    set(c, 1, 0x03);
    get(c, 0x0c);
    set(c, 0x0b, 0x22);
    fake_advance(c->fake, 6 * NSEC_PER_SEC);
    assert_false(irq8(c));
    fake_advance(c->fake, NSEC_PER_SEC);
    assert_true(irq8(c));
    assert_int_equal(get(c, 0x0c) & 0xa0, 0xa0);
    fake_advance(c->fake, 3600 * NSEC_PER_SEC);
    assert_false(irq8(c));
    set(c, 5, 0xff); /* any hour, any minute */
    set(c, 3, 0xc0);
    fake_advance(c->fake, 60 * NSEC_PER_SEC);
    assert_true(irq8(c));
    /* Without the interrupt the flag shows whenever somebody looks, even a year later. */
    set(c, 0x0b, 0x02);
    get(c, 0x0c);
    fake_advance(c->fake, 365ull * 86400 * NSEC_PER_SEC);
    assert_int_equal(get(c, 0x0c) & 0xa0, 0x20);
}

static void test_cmos_and_memory_size(void **state) {
    struct chips *c = *state;
    assert_int_equal(get(c, 0x15) | get(c, 0x16) << 8, 640);
    assert_int_equal(get(c, 0x17) | get(c, 0x18) << 8, 0xffff);
    assert_int_equal(get(c, 0x34) | get(c, 0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(get(c, 0x5b) | get(c, 0x5c) << 8 | get(c, 0x5d) << 16, 5 * 16384);
    assert_int_equal(get(c, 0x5f), 3);
    assert_int_equal(get(c, 0x0d), 0x80);
    set(c, 0x8f, 0x0a); /* NMI off, shutdown status */
    assert_int_equal(get(c, 0x0f), 0x0a);
    assert_int_equal(chips_in(c, 0x70), 0xff);
}

static void test_nonsense_time(void **state) {
    struct chips *c = *state;
    set(c, 0x0b, 0x86);
    for (u8 reg = 0; reg < 10; reg++) {
        set(c, reg, 0xff);
    }
    set(c, 0x32, 0xff);
    set(c, 0x0b, 0x06);
    assert_in_range(get(c, 0), 0, 59);
    assert_in_range(get(c, 4), 0, 23);
    assert_in_range(get(c, 7), 1, 31);
    assert_in_range(get(c, 8), 1, 12);
    set(c, 0x0b, 0x86);
    for (u8 reg = 0; reg < 10; reg++) {
        set(c, reg, 0);
    }
    set(c, 0x32, 0);
    set(c, 0x0b, 0x06);
    assert_in_range(get(c, 8), 1, 12);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_time_formats),         T(test_update_in_progress), T(test_set_time),
        T(test_update_interrupt),     T(test_periodic_interrupt), T(test_alarm),
        T(test_cmos_and_memory_size), T(test_nonsense_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
