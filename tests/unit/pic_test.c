/* SPDX-License-Identifier: Apache-2.0 */
/* The 8259 pair: initialisation, priorities, every end-of-interrupt command, modes, spurious ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_chips.h"

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 2, 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static void init_pics(struct chips *c, u8 icw4) {
    static const u8 base[] = {0x20, 0xa0}, vector[] = {0x30, 0x38}, wiring[] = {4, 2};
    for (u32 i = 0; i < 2; i++) {
        chips_out(c, base[i], 0x11);
        chips_out(c, base[i] + 1, vector[i]);
        chips_out(c, base[i] + 1, wiring[i]);
        chips_out(c, base[i] + 1, icw4);
        chips_out(c, base[i] + 1, 0);
    }
}

static u8 isr(struct chips *c, u16 base) {
    chips_out(c, base, 0x0b);
    return chips_in(c, base);
}

static u8 irr(struct chips *c, u16 base) {
    chips_out(c, base, 0x0a);
    return chips_in(c, base);
}

static int take(struct chips *c) {
    return irqchip_accept(c->irq, 0);
}

static void test_masked_after_reset(void **state) {
    struct chips *c = *state;
    irq_pulse(c->irq, 1);
    assert_false(irqchip_pending(c->irq, 0));
    assert_int_equal(chips_in(c, 0x21), 0xff);
}

static void test_vectors_and_nesting(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    chips_attention(c, 0);
    irq_pulse(c->irq, 4);
    assert_true(chips_attention(c, 0) & ATTN_INTERRUPT);
    assert_int_equal(take(c), 0x34);
    irq_pulse(c->irq, 5); /* lower: waits */
    assert_int_equal(take(c), -1);
    irq_pulse(c->irq, 1); /* higher: nests */
    assert_int_equal(take(c), 0x31);
    assert_int_equal(isr(c, 0x20), 0x12);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(isr(c, 0x20), 0x10);
    assert_int_equal(take(c), -1);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(take(c), 0x35);
}

static void test_slave(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    irq_pulse(c->irq, 8);
    irq_pulse(c->irq, 12);
    assert_int_equal(take(c), 0x38);
    assert_int_equal(isr(c, 0x20), 0x04);
    assert_int_equal(isr(c, 0xa0), 0x01);
    assert_int_equal(take(c), -1);
    chips_out(c, 0xa0, 0x20);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(take(c), 0x3c);
    chips_out(c, 0xa0, 0x64); /* specific EOI of input 4 */
    chips_out(c, 0x20, 0x62);
    assert_int_equal(isr(c, 0xa0), 0);
    assert_int_equal(isr(c, 0x20), 0);
}

static void test_level_inputs_and_spurious(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    chips_out(c, 0x4d0, 0xff);
    chips_out(c, 0x4d1, 0xff);
    assert_int_equal(chips_in(c, 0x4d0), 0xf8);
    assert_int_equal(chips_in(c, 0x4d1), 0xde);
    irq_set(c->irq, 5, true);
    assert_int_equal(take(c), 0x35);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(take(c), 0x35); /* still asserted */
    irq_set(c->irq, 5, false);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(take(c), -1);
    /* The line falls between the processor's look and its acknowledge: IRQ 7 and 15. */
    struct pic pic;
    pic_init(&pic);
    pic_set(&pic, c->irq->pic.s);
    assert_int_equal(pic_accept(&pic), 0x37);
    assert_int_equal(pic.s[0].isr, 0);
    pic_set_line(&pic, 10, true);
    pic.s[1].irr = 0;
    assert_int_equal(pic_accept(&pic), 0x3f);
    assert_int_equal(pic.s[0].isr, 4);
    assert_int_equal(pic.s[1].isr, 0);
}

static void test_masking(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    chips_out(c, 0x21, 0x08);
    irq_pulse(c->irq, 3);
    assert_int_equal(take(c), -1);
    assert_int_equal(irr(c, 0x20), 0x08); /* the edge is kept */
    chips_out(c, 0x21, 0);
    assert_int_equal(take(c), 0x33);
    assert_int_equal(irr(c, 0x20), 0);
}

static void test_rotation(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    irq_pulse(c->irq, 3);
    assert_int_equal(take(c), 0x33);
    chips_out(c, 0x20, 0xa0); /* rotate on non-specific EOI: 3 is lowest now */
    irq_pulse(c->irq, 3);
    irq_pulse(c->irq, 4);
    assert_int_equal(take(c), 0x34);
    chips_out(c, 0x20, 0x20);
    assert_int_equal(take(c), 0x33);
    chips_out(c, 0x20, 0xe3); /* rotate on specific EOI */
    chips_out(c, 0x20, 0xc7); /* set priority: 7 lowest, the usual order */
    irq_pulse(c->irq, 3);
    irq_pulse(c->irq, 4);
    assert_int_equal(take(c), 0x33);
}

static void test_auto_eoi(void **state) {
    struct chips *c = *state;
    init_pics(c, 3);
    irq_pulse(c->irq, 6);
    assert_int_equal(take(c), 0x36);
    assert_int_equal(isr(c, 0x20), 0);
    chips_out(c, 0x20, 0x80); /* rotate in automatic EOI mode */
    irq_pulse(c->irq, 4);
    assert_int_equal(take(c), 0x34);
    irq_pulse(c->irq, 4);
    irq_pulse(c->irq, 5);
    assert_int_equal(take(c), 0x35);
    assert_int_equal(take(c), 0x34);
}

static void test_special_mask(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    irq_pulse(c->irq, 3);
    assert_int_equal(take(c), 0x33);
    irq_pulse(c->irq, 5);
    assert_int_equal(take(c), -1);
    chips_out(c, 0x21, 0x08);
    chips_out(c, 0x20, 0x68);
    assert_int_equal(take(c), 0x35);
    chips_out(c, 0x20, 0x20); /* non-specific EOI spares what is masked */
    assert_int_equal(isr(c, 0x20), 0x08);
    chips_out(c, 0x20, 0x48);
}

static void test_special_fully_nested(void **state) {
    struct chips *c = *state;
    init_pics(c, 0x11);
    irq_pulse(c->irq, 12);
    assert_int_equal(take(c), 0x3c);
    irq_pulse(c->irq, 9); /* the slave may interrupt itself */
    assert_int_equal(take(c), 0x39);
}

static void test_poll(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    chips_out(c, 0x20, 0x0c);
    assert_int_equal(chips_in(c, 0x20), 0);
    irq_pulse(c->irq, 6);
    chips_out(c, 0x20, 0x0c);
    assert_int_equal(chips_in(c, 0x20), 0x86);
    assert_int_equal(isr(c, 0x20), 0x40);
    assert_int_equal(take(c), -1);
}

static void test_silent_during_initialisation(void **state) {
    struct chips *c = *state;
    init_pics(c, 1);
    chips_out(c, 0x20, 0x11);
    irq_pulse(c->irq, 1);
    assert_int_equal(take(c), -1);
    chips_out(c, 0x21, 0x48);
    chips_out(c, 0x21, 4);
    chips_out(c, 0x21, 1);
    assert_int_equal(take(c), 0x49);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_masked_after_reset),
        T(test_vectors_and_nesting),
        T(test_slave),
        T(test_level_inputs_and_spurious),
        T(test_masking),
        T(test_rotation),
        T(test_auto_eoi),
        T(test_special_mask),
        T(test_special_fully_nested),
        T(test_poll),
        T(test_silent_during_initialisation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
