/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254: every mode, access mode, latches, read-back, gates, BCD, port 0x61. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_chips.h"

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static void program(struct chips *c, u32 n, u8 mode, u16 count) {
    chips_out(c, 0x43, (u8)(n << 6 | 0x30 | mode << 1));
    chips_out(c, (u16)(0x40 + n), (u8)count);
    chips_out(c, (u16)(0x40 + n), (u8)(count >> 8));
}

static u16 latch(struct chips *c, u32 n) {
    chips_out(c, 0x43, (u8)(n << 6));
    u8 low = chips_in(c, (u16)(0x40 + n));
    return (u16)(low | chips_in(c, (u16)(0x40 + n)) << 8);
}

/* Moves the clock so that exactly t ticks have passed since the last call of mark. */
static u64 marked;
static void mark(struct chips *c) {
    marked = c->fake->now;
}
static void to_tick(struct chips *c, u64 t) {
    u64 at = marked + muldiv_up(t, NSEC_PER_SEC, PIT_HZ);
    fake_advance(c->fake, at - c->fake->now);
}

static bool out2(struct chips *c) {
    return chips_in(c, 0x61) & 0x20;
}

/* Interrupts of counter 0 since the last call: edges at the IOAPIC would be lost, so look at the
 * PIC. */
static bool irq0(struct chips *c) {
    bool irr = c->irq->pic.s[0].irr & 1;
    c->irq->pic.s[0].irr &= 0xfe;
    return irr;
}

static void test_mode0(void **state) {
    struct chips *c = *state;
    program(c, 0, 0, 1000);
    mark(c);
    to_tick(c, 400);
    assert_int_equal(latch(c, 0), 600);
    to_tick(c, 999);
    assert_false(irq0(c));
    to_tick(c, 1000);
    assert_true(irq0(c));
    to_tick(c, 1001);
    assert_int_equal(latch(c, 0), 65535); /* goes on below zero */
    to_tick(c, 80000);
    assert_false(irq0(c)); /* once */
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
}

static void test_mode2(void **state) {
    struct chips *c = *state;
    program(c, 0, 2, 5000);
    mark(c);
    for (u64 i = 1; i <= 10; i++) {
        to_tick(c, i * 5000 - 1);
        assert_false(irq0(c));
        assert_int_equal(latch(c, 0), 1);
        to_tick(c, i * 5000);
        assert_true(irq0(c));
        assert_int_equal(latch(c, 0), 5000);
    }
}

static void test_mode3(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x61, 1);
    program(c, 2, 3, 1000);
    mark(c);
    assert_true(out2(c));
    to_tick(c, 100);
    assert_int_equal(latch(c, 2), 800); /* counts by two */
    to_tick(c, 499);
    assert_true(out2(c));
    to_tick(c, 500);
    assert_false(out2(c));
    to_tick(c, 999);
    assert_false(out2(c));
    to_tick(c, 1000);
    assert_true(out2(c));
}

static void test_mode4_and_5(void **state) {
    struct chips *c = *state;
    program(c, 0, 4, 100);
    mark(c);
    to_tick(c, 100);
    assert_false(irq0(c)); /* low for this tick */
    to_tick(c, 101);
    assert_true(irq0(c));
    to_tick(c, 90000);
    assert_false(irq0(c));
    chips_out(c, 0x61, 0);
    program(c, 2, 5, 100);
    assert_true(out2(c));
    chips_out(c, 0x61, 1); /* trigger */
    mark(c);
    to_tick(c, 99);
    assert_true(out2(c));
    to_tick(c, 100);
    assert_false(out2(c));
    to_tick(c, 101);
    assert_true(out2(c));
}

static void test_mode1(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x61, 0);
    program(c, 2, 1, 100);
    assert_true(out2(c)); /* waits for its trigger */
    chips_out(c, 0x61, 1);
    mark(c);
    assert_false(out2(c));
    to_tick(c, 60);
    chips_out(c, 0x61, 0);
    chips_out(c, 0x61, 1); /* again */
    mark(c);
    to_tick(c, 99);
    assert_false(out2(c));
    to_tick(c, 100);
    assert_true(out2(c));
}

static void test_gate(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x61, 1);
    program(c, 2, 0, 1000);
    mark(c);
    to_tick(c, 300);
    chips_out(c, 0x61, 0);
    to_tick(c, 5000);
    assert_int_equal(latch(c, 2), 700); /* held */
    assert_false(out2(c));
    chips_out(c, 0x61, 1);
    mark(c);
    to_tick(c, 699);
    assert_false(out2(c));
    to_tick(c, 700);
    assert_true(out2(c));
    program(c, 2, 2, 1000);
    mark(c);
    to_tick(c, 999);
    assert_false(out2(c));
    chips_out(c, 0x61, 0);
    assert_true(out2(c)); /* a low gate raises the output */
}

/* How Linux calibrates its TSC: counter 2 in mode 0, wait for the output. */
static void test_linux_calibration(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x61, (chips_in(c, 0x61) & 0xfd) | 1);
    chips_out(c, 0x43, 0xb0);
    chips_out(c, 0x42, 11932 & 0xff); /* 10 ms */
    chips_out(c, 0x42, 11932 >> 8);
    u64 before = c->fake->now;
    while (!out2(c)) {
        fake_advance(c->fake, 1000);
    }
    u64 took = c->fake->now - before;
    assert_true(took >= 10000000 && took <= 10002000);
}

static void test_access_modes_and_latches(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x43, 0x14); /* low byte only */
    chips_out(c, 0x40, 0x80);
    assert_int_equal(c->irq->pit.s.channel[0].count, 0x80);
    assert_int_equal(chips_in(c, 0x40), 0x80);
    chips_out(c, 0x43, 0x24); /* high byte only */
    chips_out(c, 0x40, 0x12);
    assert_int_equal(c->irq->pit.s.channel[0].count, 0x1200);
    assert_int_equal(chips_in(c, 0x40), 0x12);
    program(c, 0, 2, 0);
    assert_int_equal(c->irq->pit.s.channel[0].count, 65536);
    mark(c);
    chips_out(c, 0x43, 0x00);
    to_tick(c, 0x1234);
    chips_out(c, 0x43, 0x00); /* ignored: the first latch stands */
    assert_int_equal(chips_in(c, 0x40), 0);
    assert_int_equal(chips_in(c, 0x40), 0);
    u8 low = chips_in(c, 0x40);
    assert_int_equal(low | chips_in(c, 0x40) << 8, 65536 - 0x1234);
    /* Read-back: status and count of counters 0 and 2. */
    chips_out(c, 0x43, 0xb6);
    chips_out(c, 0x43, 0xc2 | 0x08);
    assert_int_equal(chips_in(c, 0x40), 0xb4); /* out, both bytes, mode 2 */
    assert_int_equal(latch(c, 0), 65536 - 0x1234);
    assert_int_equal(chips_in(c, 0x42), 0xf6); /* null count */
    assert_int_equal(chips_in(c, 0x43), 0xff);
}

static void test_bcd(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x43, 0x35);
    chips_out(c, 0x40, 0x00);
    chips_out(c, 0x40, 0x20);
    mark(c);
    assert_int_equal(c->irq->pit.s.channel[0].count, 2000);
    to_tick(c, 766);
    assert_int_equal(latch(c, 0), 0x1234);
}

static void test_port61(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x61, 0xff);
    assert_int_equal(chips_in(c, 0x61) & 0x0f, 3);
    u32 toggles = 0;
    u8 last = chips_in(c, 0x61);
    for (u32 i = 0; i < 1000; i++) {
        fake_advance(c->fake, 1000);
        u8 now = chips_in(c, 0x61);
        toggles += (now ^ last) >> 4 & 1;
        last = now;
    }
    assert_true(toggles >= 60 && toggles <= 62);
}

static void test_fast_rate_is_bounded(void **state) {
    struct chips *c = *state;
    program(c, 0, 2, 1);
    u32 timers = 0;
    for (u64 end = c->fake->now + 1000000; c->fake->now < end; timers++) {
        fake_advance(c->fake, fake_next_timer(c->fake) - c->fake->now);
    }
    assert_true(timers <= 51);
}

static void test_state_rejects_nonsense(void **state) {
    struct chips *c = *state;
    struct pit_state s;
    pit_get(&c->irq->pit, &s);
    s.channel[1].mode = 6;
    assert_int_equal(pit_set(&c->irq->pit, &s), -ERR_FORMAT);
    s.channel[1].mode = 0xff; /* what KVM has before the first control word */
    assert_int_equal(pit_set(&c->irq->pit, &s), 0);
    s.channel[0].count = 65537;
    assert_int_equal(pit_set(&c->irq->pit, &s), -ERR_FORMAT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_mode0),
        T(test_mode1),
        T(test_mode2),
        T(test_mode3),
        T(test_mode4_and_5),
        T(test_gate),
        T(test_linux_calibration),
        T(test_access_modes_and_latches),
        T(test_bcd),
        T(test_port61),
        T(test_fast_rate_is_bounded),
        T(test_state_rejects_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
