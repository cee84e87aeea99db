/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware: the timer, status and enable bits, SCI, power off. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/acpi_dev.h"
#include "tests/unit/lib_chips.h"

static struct acpipm *pm;

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 1, 0);
    assert_int_equal(acpipm_add(&c.list, &c.env, &pm, NULL), 0);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static u32 get(struct chips *c, u16 port, u32 size) {
    return (u32)bus_read(&c->pio, port, size);
}

static void set(struct chips *c, u16 port, u32 size, u32 value) {
    bus_write(&c->pio, port, size, value);
}

static bool sci(struct chips *c) {
    return c->irq->ioapic.s.lines & BIT(9);
}

static void test_timer(void **state) {
    struct chips *c = *state;
    assert_int_equal(get(c, ACPIPM_TMR, 4), 0);
    fake_advance(c->fake, NSEC_PER_SEC);
    assert_int_equal(get(c, ACPIPM_TMR, 4), 3579545);
    assert_int_equal(get(c, ACPIPM_TMR + 1, 1), 3579545 >> 8 & 0xff);
    set(c, ACPIPM_TMR, 4, 0);
    assert_int_equal(get(c, ACPIPM_TMR, 4), 3579545);
    fake_advance(c->fake, 1199 * NSEC_PER_SEC);
    assert_int_equal(get(c, ACPIPM_TMR, 4), (u32)(1200ull * 3579545));
    acpipm_reset(pm); /* runs on */
    assert_int_equal(get(c, ACPIPM_TMR, 4), (u32)(1200ull * 3579545));
}

static void test_timer_interrupt(void **state) {
    struct chips *c = *state;
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
    set(c, 0x602, 2, 0xffff);
    assert_int_equal(get(c, 0x602, 2), 0x0721);
    fake_advance(c->fake, 599 * NSEC_PER_SEC);
    assert_false(sci(c));
    fake_advance(c->fake, NSEC_PER_SEC); /* the top bit changes after 599.93 s */
    assert_true(sci(c));
    assert_int_equal(get(c, 0x600, 2), 1);
    set(c, 0x600, 2, 1);
    assert_false(sci(c));
    fake_advance(c->fake, 600 * NSEC_PER_SEC);
    assert_true(sci(c));
}

static void test_power_button(void **state) {
    struct chips *c = *state;
    mutex_lock(&c->fake->host, &c->lock);
    acpipm_power_button(pm);
    mutex_unlock(&c->fake->host, &c->lock);
    assert_false(sci(c));
    set(c, 0x603, 1, 0x01);
    assert_true(sci(c));
    set(c, 0x600, 4, 0x01000001); /* clears another bit, keeps the enable */
    assert_true(sci(c));
    set(c, 0x601, 1, 0x01);
    assert_false(sci(c));
    assert_int_equal(get(c, 0x600, 4), 0x01000000);
}

static void test_event(void **state) {
    struct chips *c = *state;
    mutex_lock(&c->fake->host, &c->lock);
    acpipm_event(pm, ACPIPM_GPE_VMGENID);
    mutex_unlock(&c->fake->host, &c->lock);
    assert_false(sci(c));
    assert_int_equal(get(c, ACPIPM_GPE0, 2), BIT(ACPIPM_GPE_VMGENID));
    set(c, ACPIPM_GPE0 + 2, 1, BIT(ACPIPM_GPE_VMGENID));
    assert_true(sci(c));
    set(c, ACPIPM_GPE0, 1, 0);
    assert_true(sci(c));
    set(c, ACPIPM_GPE0, 1, BIT(ACPIPM_GPE_VMGENID));
    assert_false(sci(c));
    assert_int_equal(get(c, ACPIPM_GPE0, 4), BIT(ACPIPM_GPE_VMGENID) << 16);
}

static void test_poweroff(void **state) {
    struct chips *c = *state;
    assert_int_equal(get(c, 0x604, 2), 1); /* always in ACPI mode */
    set(c, 0x604, 2, 0x2000);              /* S0 */
    set(c, 0x604, 2, ACPIPM_S5_SLP_TYP << 10);
    assert_int_equal(c->requests, 0);
    assert_int_equal(get(c, 0x604, 2), ACPIPM_S5_SLP_TYP << 10 | 1);
    set(c, 0x604, 2, 0x2001 | ACPIPM_S5_SLP_TYP << 10);
    assert_int_equal(c->requests, 1);
    assert_int_equal(c->request, MACHINE_POWEROFF);
    assert_int_equal(get(c, 0x604, 2) & 0x2000, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {T(test_timer), T(test_timer_interrupt), T(test_power_button),
                                       T(test_poweroff), T(test_event)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
