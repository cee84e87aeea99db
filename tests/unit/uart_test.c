/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A: identification, interrupts and their priority, FIFOs, loopback, flow control. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/uart16550.h"
#include "tests/unit/lib_chips.h"

enum { P = UART_COM1 };

static struct fake_char *ch;

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    ch = fake_char_create();
    assert_int_equal(uart_add(&c.list, &c.env, "serial0", P, 4, &ch->be, NULL), 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    assert_null(ch->be.receive);
    fake_char_destroy(ch);
    return 0;
}

static bool irq(struct chips *c) {
    return c->irq->ioapic.s.lines & BIT(4);
}

static void test_identification(void **state) {
    struct chips *c = *state;
    assert_int_equal(chips_in(c, P + 5), 0x60);
    assert_int_equal(chips_in(c, P + 6), 0xb0);
    assert_int_equal(chips_in(c, P + 2), 0x01);
    chips_out(c, P + 2, 0x01);
    assert_int_equal(chips_in(c, P + 2), 0xc1);
    chips_out(c, P + 7, 0x5a);
    assert_int_equal(chips_in(c, P + 7), 0x5a);
    chips_out(c, P + 1, 0xff);
    assert_int_equal(chips_in(c, P + 1), 0x0f);
    chips_out(c, P + 3, 0x83);
    chips_out(c, P, 0x34);
    chips_out(c, P + 1, 0x12);
    assert_int_equal(chips_in(c, P), 0x34);
    assert_int_equal(chips_in(c, P + 1), 0x12);
    chips_out(c, P + 3, 0x03);
    assert_int_equal(chips_in(c, P + 1), 0x0f);
    assert_int_equal(ch->out_len, 0);
}

static void test_output(void **state) {
    struct chips *c = *state;
    for (const char *s = "hello"; *s; s++) {
        chips_out(c, P, (u8)*s);
    }
    assert_int_equal(ch->out_len, 5);
    assert_memory_equal(ch->out, "hello", 5);
    assert_int_equal(chips_in(c, P + 5), 0x60);
}

static void test_output_waits(void **state) {
    struct chips *c = *state;
    chips_out(c, P + 2, 0x01);
    chips_out(c, P + 1, 0x02);
    assert_true(irq(c));
    assert_int_equal(chips_in(c, P + 2), 0xc2);
    assert_false(irq(c)); /* reading IIR takes it away */
    ch->accept = 3;
    for (u8 i = 0; i < 16; i++) {
        chips_out(c, P, 'a' + i);
    }
    assert_int_equal(chips_in(c, P + 5), 0x00); /* neither empty nor idle */
    chips_out(c, P + 2, 0x07);                  /* clearing the FIFO does not unsend */
    ch->accept = 4;
    ch->be.writable(ch->be.device);
    assert_int_equal(chips_in(c, P + 5), 0x00);
    assert_false(irq(c));
    ch->accept = SIZE_MAX;
    ch->be.writable(ch->be.device);
    assert_int_equal(chips_in(c, P + 5), 0x60);
    assert_true(irq(c));
    assert_int_equal(ch->out_len, 16);
    assert_memory_equal(ch->out, "abcdefghijklmnop", 16);
}

static void test_input_with_fifo(void **state) {
    struct chips *c = *state;
    chips_out(c, P + 2, 0x81); /* trigger at 8 */
    chips_out(c, P + 1, 0x01);
    assert_int_equal(fake_char_input(ch, "0123456", 7), 7);
    assert_true(irq(c));
    assert_int_equal(chips_in(c, P + 2), 0xcc); /* below the trigger: timeout */
    assert_int_equal(fake_char_input(ch, "789abcdefghij", 13), 9);
    assert_int_equal(chips_in(c, P + 2), 0xc4);
    for (u32 i = 0; i < 16; i++) {
        assert_int_equal(chips_in(c, P + 5) & 0x03, 1); /* data, no overrun */
        assert_int_equal(ch->rx_ready_calls, 0);
        assert_int_equal(chips_in(c, P), "0123456789abcdef"[i]);
    }
    assert_int_equal(ch->rx_ready_calls, 1);
    assert_false(irq(c));
    assert_int_equal(chips_in(c, P + 5), 0x60);
    assert_int_equal(chips_in(c, P), 0);
}

static void test_input_without_fifo(void **state) {
    struct chips *c = *state;
    assert_int_equal(fake_char_input(ch, "xy", 2), 1);
    assert_int_equal(fake_char_input(ch, "y", 1), 0);
    assert_int_equal(chips_in(c, P), 'x');
    assert_int_equal(ch->rx_ready_calls, 1);
    assert_int_equal(fake_char_input(ch, "y", 1), 1);
    chips_out(c, P + 2, 0x01); /* turning the FIFO on clears it */
    assert_int_equal(chips_in(c, P + 5), 0x60);
}

static void test_loopback(void **state) {
    struct chips *c = *state;
    chips_out(c, P + 4, 0x10);
    assert_int_equal(chips_in(c, P + 6) & 0xf0, 0);
    chips_out(c, P + 4, 0x1a); /* RTS and OUT2: as Linux probes */
    assert_int_equal(chips_in(c, P + 6) & 0xf0, 0x90);
    chips_out(c, P, 0x42);
    assert_int_equal(ch->out_len, 0);
    assert_int_equal(fake_char_input(ch, "z", 1), 0); /* the line is cut */
    chips_out(c, P, 0x43);                            /* one too many without FIFO */
    assert_int_equal(chips_in(c, P + 5), 0x63);
    assert_int_equal(chips_in(c, P + 5), 0x61);
    assert_int_equal(chips_in(c, P), 0x42);
    chips_out(c, P + 4, 0x0b);
    assert_int_equal(ch->rx_ready_calls, 1);
    assert_int_equal(chips_in(c, P + 6) & 0xf0, 0xb0);
}

static void test_priorities(void **state) {
    struct chips *c = *state;
    chips_out(c, P + 1, 0x0f);
    chips_out(c, P + 4, 0x10);
    chips_out(c, P, 1);
    chips_out(c, P, 2);
    assert_int_equal(chips_in(c, P + 2), 0x06);
    chips_in(c, P + 5);
    assert_int_equal(chips_in(c, P + 2), 0x04);
    chips_in(c, P);
    assert_int_equal(chips_in(c, P + 2), 0x02);
    assert_int_equal(chips_in(c, P + 2), 0x00);
    assert_int_equal(chips_in(c, P + 6) & 0x0f, 0x0b);
    assert_int_equal(chips_in(c, P + 2), 0x01);
    assert_false(irq(c));
}

/* Many bytes through a slow back end, driven by interrupts: none is lost, none doubled. */
static void test_nothing_is_lost(void **state) {
    struct chips *c = *state;
    u64 rng = 42;
    u32 sent = 0;
    chips_out(c, P + 2, 0x01);
    chips_out(c, P + 1, 0x02);
    ch->accept = 0;
    for (u32 step = 0; step < 20000 && sent < 20000; step++) {
        if (irq(c) && (chips_in(c, P + 2) & 0x0f) == 0x02) {
            for (u32 i = 0; i < 16; i++) {
                chips_out(c, P, (u8)(sent++ * 7));
            }
        }
        ch->accept = chips_random(&rng) % 20;
        ch->be.writable(ch->be.device);
    }
    ch->accept = SIZE_MAX;
    ch->be.writable(ch->be.device);
    assert_true(sent >= 20000);
    assert_int_equal(ch->out_len, sent);
    for (u32 i = 0; i < sent; i++) {
        assert_int_equal(ch->out[i], (u8)(i * 7));
    }
}

static void test_bad_setup(void **state) {
    struct chips *c = *state;
    struct err err = {0};
    assert_int_equal(uart_add(&c->list, &c->env, "serial1", P + 4, 4, NULL, &err), -ERR_EXISTS);
    assert_non_null(strstr(err.text, "serial1"));
    assert_int_equal(uart_add(&c->list, &c->env, "serial0", 0x2f8, 3, NULL, NULL), -ERR_EXISTS);
    assert_int_equal(uart_add(&c->list, &c->env, "serial1", 0x2f8, 3, NULL, NULL), 0);
    chips_out(c, 0x2f8, 'x'); /* nobody listens */
    assert_int_equal(chips_in(c, 0x2fd), 0x60);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_identification),  T(test_output),          T(test_output_waits),
        T(test_input_with_fifo), T(test_loopback),        T(test_input_without_fifo),
        T(test_priorities),      T(test_nothing_is_lost), T(test_bad_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
