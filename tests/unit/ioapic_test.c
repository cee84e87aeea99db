/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC: registers, edges, levels with remote IRR, destinations. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_chips.h"

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 2, 0);
    chips_apic_enable(&c, 0);
    chips_apic_enable(&c, 1);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static int take(struct chips *c) { /* and finish */
    int vector = irqchip_accept(c->irq, 1);
    if (vector >= 0) {
        chips_apic_write(c, 1, LAPIC_EOI, 0);
    }
    return vector;
}

#define TO_1 (1ull << 56)

static void test_registers(void **state) {
    struct chips *c = *state;
    assert_int_equal(chips_ioapic_read(c, 1), 0x00170011);
    chips_ioapic_write(c, 0, 0xffffffff);
    assert_int_equal(chips_ioapic_read(c, 0), 0x0f000000);
    chips_ioapic_write(c, 1, 0);
    assert_int_equal(chips_ioapic_read(c, 1), 0x00170011);
    assert_int_equal(chips_ioapic_read(c, 0x10), 0x10000);
    chips_ioapic_write(c, 0x10, 0xffffffff);
    chips_ioapic_write(c, 0x11, 0xffffffff);
    assert_int_equal(chips_ioapic_read(c, 0x10), 0x1afff); /* no delivery status, no remote IRR */
    assert_int_equal(chips_ioapic_read(c, 0x11), 0xff000000);
    assert_int_equal(chips_ioapic_read(c, 0x40), 0);
    assert_int_equal(bus_read(&c->mmio, IOAPIC_BASE, 4), 0x40);
}

static void test_edge(void **state) {
    struct chips *c = *state;
    chips_ioapic_pin(c, 5, TO_1 | 0x55);
    irq_set(c->irq, 5, true);
    assert_int_equal(take(c), 0x55);
    assert_int_equal(take(c), -1);
    irq_set(c->irq, 5, false);
    irq_set(c->irq, 5, true);
    assert_int_equal(take(c), 0x55);
    irq_set(c->irq, 5, false);
    chips_ioapic_pin(c, 5, TO_1 | 0x55 | IOAPIC_MASKED);
    irq_pulse(c->irq, 5); /* lost */
    chips_ioapic_pin(c, 5, TO_1 | 0x55);
    assert_int_equal(take(c), -1);
}

static void test_level(void **state) {
    struct chips *c = *state;
    chips_ioapic_pin(c, 16, TO_1 | IOAPIC_LEVEL | 0x66);
    irq_set(c->irq, 16, true);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x66);
    assert_true(chips_ioapic_read(c, 0x30) & IOAPIC_REMOTE_IRR);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TMR + 3), 1u << 6);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x66); /* still asserted */
    irq_set(c->irq, 16, false);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    assert_false(chips_ioapic_read(c, 0x30) & IOAPIC_REMOTE_IRR);
    /* A level that came while masked shows when it is unmasked. */
    chips_ioapic_pin(c, 16, TO_1 | IOAPIC_LEVEL | IOAPIC_MASKED | 0x66);
    irq_set(c->irq, 16, true);
    assert_int_equal(take(c), -1);
    chips_ioapic_write(c, 0x30, IOAPIC_LEVEL | 0x66);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x66);
    /* Switching to edge and back clears remote IRR: how software recovers a lost EOI. */
    chips_ioapic_write(c, 0x30, IOAPIC_MASKED | 0x66);
    assert_false(chips_ioapic_read(c, 0x30) & IOAPIC_REMOTE_IRR);
}

static void test_pit_pin_and_range(void **state) {
    struct chips *c = *state;
    chips_ioapic_pin(c, 2, TO_1 | 0x42);
    irq_pulse(c->irq, 0);
    assert_int_equal(take(c), 0x42);
    irq_pulse(c->irq, 24); /* no such line */
    irq_pulse(c->irq, UINT32_MAX);
    assert_int_equal(take(c), -1);
}

static void test_delivery_modes(void **state) {
    struct chips *c = *state;
    chips_attention(c, 1);
    chips_ioapic_pin(c, 7, TO_1 | 0x400 | IOAPIC_LEVEL);
    irq_pulse(c->irq, 7);
    assert_int_equal(chips_attention(c, 1), ATTN_NMI);
    chips_ioapic_pin(c, 7, TO_1 | 0x500);
    irq_pulse(c->irq, 7);
    assert_int_equal(chips_attention(c, 1), ATTN_INIT);
    chips_apic_write(c, 0, LAPIC_LDR, 1u << 24);
    chips_apic_write(c, 1, LAPIC_LDR, 2u << 24);
    chips_apic_write(c, 0, LAPIC_TPR, 0x10);
    chips_ioapic_pin(c, 7, 3ull << 56 | 0x100 | IOAPIC_LOGICAL | 0x77);
    irq_pulse(c->irq, 7);
    assert_int_equal(take(c), 0x77);
}

static void test_eoi_register(void **state) {
    struct chips *c = *state;
    c->irq->ioapic.has_eoi = true;
    c->irq->directed_eoi = true;
    irqchip_reset(c->irq);
    assert_int_equal(chips_ioapic_read(c, 1), 0x00170020);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_VERSION), 0x1050014);
    chips_apic_write(c, 1, LAPIC_SVR, 0x11ff);
    chips_ioapic_pin(c, 20, TO_1 | IOAPIC_LEVEL | 0x66);
    irq_set(c->irq, 20, true);
    assert_int_equal(take(c), 0x66); /* EOI broadcast suppressed */
    assert_int_equal(take(c), -1);
    bus_write(&c->mmio, IOAPIC_BASE + 0x40, 4, 0x66);
    assert_int_equal(take(c), 0x66);
}

static void test_state_rejects_nonsense(void **state) {
    struct chips *c = *state;
    struct ioapic_state s = c->irq->ioapic.s;
    s.lines = 1u << 24;
    assert_int_equal(ioapic_set(&c->irq->ioapic, &s), -ERR_FORMAT);
    s.lines = 0;
    s.select = 0x100;
    assert_int_equal(ioapic_set(&c->irq->ioapic, &s), -ERR_FORMAT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_registers),
        T(test_edge),
        T(test_level),
        T(test_pit_pin_and_range),
        T(test_delivery_modes),
        T(test_eoi_register),
        T(test_state_rejects_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
