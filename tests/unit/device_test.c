/* SPDX-License-Identifier: Apache-2.0 */
/* Every legacy device: random accesses, save, load into a fresh machine, compare; damaged states.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>

#include "core/dev/acpi_dev.h"
#include "core/dev/debugport.h"
#include "core/dev/i8042.h"
#include "core/dev/rtc_dev.h"
#include "core/dev/testdev.h"
#include "core/dev/uart16550.h"
#include "tests/unit/lib_chips.h"

enum { STATE_MAX = 128 * 1024 };

struct machine {
    struct chips c;
    struct fake_char *serial;
    struct i8042 *kbc;
    struct acpipm *pm;
};

static void machine_setup(struct machine *m, u32 vcpus) {
    struct rtc_config cfg = {.low_memory = GIB, .vcpus = vcpus};
    chips_setup(&m->c, vcpus, 0);
    m->serial = fake_char_create();
    if (rtc_add(&m->c.list, &m->c.env, &cfg, NULL) < 0 ||
        acpipm_add(&m->c.list, &m->c.env, &m->pm, NULL) < 0 ||
        uart_add(&m->c.list, &m->c.env, "serial0", UART_COM1, 4, &m->serial->be, NULL) < 0 ||
        uart_add(&m->c.list, &m->c.env, "serial1", UART_COM2, 3, NULL, NULL) < 0 ||
        i8042_add(&m->c.list, &m->c.env, &m->kbc, NULL) < 0 ||
        debugport_add(&m->c.list, &m->c.env, NULL, NULL) < 0 ||
        testdev_add(&m->c.list, &m->c.env, NULL) < 0) {
        abort();
    }
}

static void machine_teardown(struct machine *m) {
    chips_teardown(&m->c);
    fake_char_destroy(m->serial);
}

static const u16 port[] = {
    0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x4d1, 0x40,  0x41,  0x42,   0x43,   0x61,  0x70,
    0x71,  0x70,  0x71,  0x600, 0x602, 0x604, 0x608, 0x601, 0x603,  0x3f8,  0x3f9, 0x3fa,
    0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x2f8, 0x2f9, 0x2fa, 0x2fc,  0x60,   0x64,  0x60,
    0x64,  0x92,  0xe9,  0x80,  0xed,  0xe0,  0xe4,  0xe8,  0x200a, 0x2011, 0xeb,  0xf4,
};

/* What it did to the outside goes into the result, so that two machines can be compared. */
static u64 disturb(struct machine *m, u64 *rng, u32 steps) {
    u64 seen = 0;
    for (u32 i = 0; i < steps; i++) {
        u64 r = chips_random(rng);
        u16 p = port[(r >> 8) % ARRAY_LEN(port)];
        u32 size = 1u << ((r >> 20) % 3), value = (u32)(r >> 24);
        u64 in = 0;
        switch (r % 8) {
        case 0:
        case 1:
        case 2:
            bus_write(&m->c.pio, p, size, value);
            break;
        case 3:
        case 4:
            size = p == 0x60 || p == 0x61 ? 1 : size;
            in = bus_read(&m->c.pio, p, size);
            in &= p == 0x61 ? ~0x10ull : ~0ull; /* the refresh bit is the host's clock */
            break;
        case 5:
            fake_advance(m->c.fake, value % 3000000);
            break;
        case 6:
            in = fake_char_input(m->serial, &value, value % 5);
            break;
        default:
            bus_write(&m->c.mmio, TESTDEV_MEMORY_BASE + (value & 0xfff8), 8, r);
            in = (u64)irqchip_accept(m->c.irq, 0);
            break;
        }
        seen = (seen ^ in) * 0x100000001b3ull + (u64)m->c.requests;
    }
    return seen + m->serial->out_len;
}

static void same_clocks(struct machine *b, const struct machine *a) {
    b->c.fake->now = a->c.fake->now / 3; /* another host */
    b->c.fake->wall_offset = a->c.fake->wall_offset + a->c.fake->now - b->c.fake->now;
    b->c.tsc_offset = a->c.vm.ops->tsc_get(&((struct machine *)(uintptr_t)a)->c.vcpu[0]) -
                      b->c.vm.ops->tsc_get(&b->c.vcpu[0]);
    b->c.requests = a->c.requests;
    b->serial->out_len = a->serial->out_len;
}

static void test_save_and_load(void **state) {
    (void)state;
    u64 rng = 0xfeedbeef;
    u8 *first = malloc(STATE_MAX), *second = malloc(STATE_MAX);
    static struct machine a, b;
    for (u32 round = 0; round < 300; round++) {
        machine_setup(&a, 1);
        machine_setup(&b, 1);
        disturb(&a, &rng, 150);
        same_clocks(&b, &a);
        size_t n = chips_save(&a.c, first, STATE_MAX);
        assert_int_equal(chips_load(&b.c, first, n), 0);
        assert_int_equal(chips_save(&b.c, second, STATE_MAX), n);
        assert_memory_equal(first, second, n);
        assert_int_equal(a.c.irq->ioapic.s.lines, b.c.irq->ioapic.s.lines);
        u64 rng_b = rng;
        assert_int_equal(disturb(&a, &rng, 100), disturb(&b, &rng_b, 100));
        n = chips_save(&a.c, first, STATE_MAX);
        assert_int_equal(chips_save(&b.c, second, STATE_MAX), n);
        assert_memory_equal(first, second, n);
        machine_teardown(&a);
        machine_teardown(&b);
    }
    free(first);
    free(second);
}

static void test_damaged_state(void **state) {
    (void)state;
    u64 rng = 0xabcdef;
    u8 *good = malloc(STATE_MAX), *bad = malloc(STATE_MAX);
    static struct machine m;
    machine_setup(&m, 1);
    disturb(&m, &rng, 300);
    size_t n = chips_save(&m.c, good, STATE_MAX);
    for (size_t cut = 0; cut < n; cut += cut < 2000 ? 3 : 999) {
        assert_true(chips_load(&m.c, good, cut) < 0);
        disturb(&m, &rng, 2);
    }
    for (u32 i = 0; i < 3000; i++) {
        memcpy(bad, good, n);
        for (u32 k = 0; k < 4; k++) {
            bad[chips_random(&rng) % MIN(n, (size_t)2000)] = (u8)chips_random(&rng);
        }
        chips_load(&m.c, bad, n);
        disturb(&m, &rng, 5);
    }
    assert_int_equal(chips_load(&m.c, good, n), 0);
    machine_teardown(&m);
    free(good);
    free(bad);
}

static void test_list(void **state) {
    (void)state;
    static struct machine m;
    machine_setup(&m, 1);
    struct device *dev = device_find(&m.c.list, "serial1");
    assert_non_null(dev);
    assert_string_equal(dev->ops->name, "uart16550");
    assert_null(device_find(&m.c.list, "serial2"));
    struct device other = {.ops = dev->ops, .env = &m.c.env};
    assert_int_equal(device_add(&m.c.list, &other, "serial1"), -ERR_EXISTS);
    assert_int_equal(device_add(&m.c.list, &other, ""), -ERR_INVAL);
    assert_int_equal(device_add(&m.c.list, &other, "a name that is longer than a device may have"),
                     -ERR_INVAL);
    u64 rng = 7;
    disturb(&m, &rng, 200);
    irqchip_reset(m.c.irq);
    device_reset_all(&m.c.list);
    /* Another configuration does not take this machine's state. */
    u8 *buf = malloc(STATE_MAX);
    size_t n = chips_save(&m.c, buf, STATE_MAX);
    struct chips empty;
    chips_setup(&empty, 1, 0);
    assert_int_equal(chips_load(&empty, buf, n), -ERR_FORMAT);
    chips_teardown(&empty);
    free(buf);
    machine_teardown(&m);
    assert_int_equal(m.c.pio.first == NULL, 1); /* every port is free again */
}

/* No memory for the n-th allocation: an error, and nothing left behind. */
static void test_out_of_memory(void **state) {
    (void)state;
    for (s64 n = 0; n < 8; n++) {
        struct chips c;
        chips_setup(&c, 1, 0);
        u64 before = c.fake->allocated;
        struct rtc_config cfg = {0};
        struct err err = {0};
        c.fake->fail_alloc = n;
        int rc = rtc_add(&c.list, &c.env, &cfg, &err);
        rc = rc ? rc : acpipm_add(&c.list, &c.env, NULL, &err);
        rc = rc ? rc : uart_add(&c.list, &c.env, "serial0", UART_COM1, 4, NULL, &err);
        rc = rc ? rc : i8042_add(&c.list, &c.env, NULL, &err);
        rc = rc ? rc : debugport_add(&c.list, &c.env, NULL, &err);
        rc = rc ? rc : testdev_add(&c.list, &c.env, &err);
        assert_int_equal(rc, n < 6 ? -ERR_NOMEM : 0);
        c.fake->fail_alloc = -1;
        device_remove_all(&c.list);
        assert_int_equal(c.fake->allocated, before);
        chips_teardown(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_damaged_state),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
