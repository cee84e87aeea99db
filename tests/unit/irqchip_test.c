/* SPDX-License-Identifier: Apache-2.0 */
/* The chips together: routing, ExtINT, the engine's own chips, saving and loading. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_chips.h"

static void init_pics(struct chips *c) {
    static const u8 base[] = {0x20, 0xa0}, vector[] = {0x30, 0x38}, wiring[] = {4, 2};
    for (u32 i = 0; i < 2; i++) {
        chips_out(c, base[i], 0x11);
        chips_out(c, base[i] + 1, vector[i]);
        chips_out(c, base[i] + 1, wiring[i]);
        chips_out(c, base[i] + 1, 1);
        chips_out(c, base[i] + 1, 0);
    }
}

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, 2, 0);
    init_pics(&c);
    chips_attention(&c, 0);
    chips_attention(&c, 1);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static void test_virtual_wire(void **state) {
    struct chips *c = *state;
    irq_pulse(c->irq, 4);
    assert_int_equal(chips_attention(c, 0), ATTN_INTERRUPT);
    assert_true(irqchip_pending(c->irq, 0));
    assert_false(irqchip_pending(c->irq, 1)); /* its LINT0 is masked */
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x34);
    assert_false(irqchip_pending(c->irq, 0));
    chips_out(c, 0x20, 0x20);
    /* LINT0 masked: the PIC is cut off. */
    chips_apic_write(c, 0, LAPIC_LVT_LINT0, 0x10700);
    irq_pulse(c->irq, 4);
    assert_false(irqchip_pending(c->irq, 0));
    chips_apic_write(c, 0, LAPIC_LVT_LINT0, 0x700);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x34);
}

static void test_apic_off(void **state) {
    struct chips *c = *state;
    for (u32 i = 0; i < 2; i++) {
        assert_int_equal(lapic_msr_write(irqchip_lapic(c->irq, i), 0x1b, 0xfee00000), 0);
    }
    irq_pulse(c->irq, 4);
    assert_false(irqchip_pending(c->irq, 1));
    assert_int_equal(irqchip_accept(c->irq, 0), 0x34);
    chips_out(c, 0x20, 0x20);
    /* An interrupt that LINT0 held back shows when the APIC goes off. */
    assert_int_equal(lapic_msr_write(irqchip_lapic(c->irq, 0), 0x1b, 0xfee00800), 0);
    irq_pulse(c->irq, 4);
    assert_false(irqchip_pending(c->irq, 0));
    chips_attention(c, 0);
    assert_int_equal(lapic_msr_write(irqchip_lapic(c->irq, 0), 0x1b, 0xfee00000), 0);
    assert_int_equal(chips_attention(c, 0), ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x34);
}

/* Messages from several threads at once: every vector arrives, none twice. */
struct sender {
    struct chips *c;
    u8 base;
};

static void send_many(void *ctx) {
    struct sender *s = ctx;
    for (u32 i = 0; i < 64; i++) {
        irq_msi(s->c->irq, 0xfee01000, s->base + i);
        irq_set(s->c->irq, 16 + s->base / 64, i & 1);
    }
}

static void test_messages_from_threads(void **state) {
    struct chips *c = *state;
    struct host *host = &c->fake->host;
    struct sender s[3] = {{c, 0x40}, {c, 0x80}, {c, 0xc0}};
    struct host_thread *thread[3];
    chips_apic_enable(c, 1);
    for (u32 i = 0; i < 3; i++) {
        thread[i] = host->ops->thread_start(host, "sender", send_many, &s[i]);
        assert_non_null(thread[i]);
    }
    u32 got = 0;
    bool seen[256] = {false};
    for (u32 joined = 0; joined < 3 || irqchip_pending(c->irq, 1);) {
        int vector = irqchip_accept(c->irq, 1);
        if (vector >= 0) {
            assert_false(seen[vector]);
            seen[vector] = true;
            got++;
            chips_apic_write(c, 1, LAPIC_EOI, 0);
        } else if (joined < 3) {
            host->ops->thread_join(host, thread[joined++]);
        }
    }
    assert_int_equal(got, 192);
}

static void test_lint0_fixed(void **state) {
    struct chips *c = *state;
    chips_apic_enable(c, 0);
    chips_apic_write(c, 0, LAPIC_LVT_LINT0, 0x51);
    irq_pulse(c->irq, 3);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x51);
    assert_int_equal(irqchip_accept(c->irq, 0), -1);
}

static void test_extint_message(void **state) {
    struct chips *c = *state;
    chips_apic_enable(c, 1);
    chips_apic_write(c, 0, LAPIC_LVT_LINT0, 0x10700);
    irq_pulse(c->irq, 3);
    irq_msi(c->irq, 0xfee01000, 0x700);
    assert_true(chips_attention(c, 1) & ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x33);
    chips_out(c, 0x20, 0x20);
    irq_pulse(c->irq, 3);
    assert_int_equal(irqchip_accept(c->irq, 1), -1); /* it was for one interrupt */
}

static void test_apic_first(void **state) {
    struct chips *c = *state;
    chips_apic_enable(c, 0);
    irq_pulse(c->irq, 4);
    irq_msi(c->irq, 0xfee00000, 0x20);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x20);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x34); /* whatever the task priority */
}

static void test_msi(void **state) {
    struct chips *c = *state;
    chips_apic_enable(c, 0);
    chips_apic_enable(c, 1);
    irq_msi(c->irq, 0xfee01000, 0x4031);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x31);
    irq_msi(c->irq, 0xfed01000, 0x4032);
    irq_msi(c->irq, 0x1fee01000, 0x4032);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    irq_msi(c->irq, 0xfeeff000, 0x4043);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x43);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x43);
}

static void test_pit_interrupt(void **state) {
    struct chips *c = *state;
    chips_out(c, 0x43, 0x34);
    chips_out(c, 0x40, 0xa9); /* 1193 ticks: about a millisecond */
    chips_out(c, 0x40, 0x04);
    u32 count = 0;
    for (u32 i = 0; i < 1000; i++) {
        fake_advance(c->fake, 1000000);
        if (irqchip_accept(c->irq, 0) == 0x30) {
            chips_out(c, 0x20, 0x20);
            count++;
        }
    }
    assert_true(count >= 999 && count <= 1001);
}

static void test_engine_has_the_chips(void **state) {
    struct chips c;
    (void)state;
    chips_setup(&c, 2, ENGINE_CAP_IRQCHIP);
    irq_set(c.irq, 5, true);
    assert_int_equal(c.line_calls, 1);
    assert_int_equal(c.last_gsi, 5);
    assert_true(c.last_level);
    irq_set(c.irq, 5, true); /* no change, no call */
    assert_int_equal(c.line_calls, 1);
    irq_pulse(c.irq, 0);
    assert_int_equal(c.line_calls, 3);
    irq_msi(c.irq, 0xfee01000, 0x31);
    assert_int_equal(c.msi_calls, 1);
    assert_int_equal(c.last_data, 0x31);
    assert_null(irqchip_lapic(c.irq, 0));
    assert_false(irqchip_pending(c.irq, 0));
    assert_null(bus_find(&c.pio, 0x20));
    u8 buf[16384];
    size_t len = chips_save(&c, buf, sizeof(buf));
    assert_int_equal(chips_load(&c, buf, len), 0);
    irq_set(c.irq, 5, true); /* after a load the kernel's level is unknown */
    assert_int_equal(c.line_calls, 4);
    chips_teardown(&c);
}

/* --- saving and loading -------------------------------------------------------------------------
 */

static void disturb(struct chips *c, u64 *rng, u32 steps) {
    static const u16 port[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61};
    for (u32 i = 0; i < steps; i++) {
        u64 r = chips_random(rng);
        u32 vcpu = (u32)(r >> 8) & 1, reg = (u32)(r >> 16) & 0x3f, value = (u32)(r >> 24);
        struct lapic *l = irqchip_lapic(c->irq, vcpu);
        u64 ignored;
        switch (r % 10) {
        case 0:
            chips_out(c, port[reg % ARRAY_LEN(port)], (u8)value);
            break;
        case 1:
            chips_in(c, port[reg % ARRAY_LEN(port)]);
            break;
        case 2:
            chips_ioapic_write(c, reg, value);
            break;
        case 3:
        case 4:
            if (lapic_mmio_hit(l, LAPIC_DEFAULT_BASE)) {
                chips_apic_write(c, vcpu, reg, value);
            }
            break;
        case 5:
            irqchip_accept(c->irq, vcpu);
            break;
        case 6:
            irq_set(c->irq, reg % 26, value & 1);
            break;
        case 7:
            lapic_msr_write(l, value & 15 ? 0x800 + reg : 0x1b,
                            value & 15 ? value & 0xfff : 0xfee00000 | (value & 0xd00));
            break;
        case 8:
            lapic_msr_read(l, 0x800 + reg, &ignored);
            lapic_mmio_read(l, reg * 16 + (value & 15), 1 + (value >> 4) % 8);
            break;
        default:
            fake_advance(c->fake, value % 300000);
            break;
        }
    }
}

static void test_save_and_load(void **state) {
    (void)state;
    u64 rng = 0x1234567;
    u8 first[16384], second[16384];
    for (u32 round = 0; round < 300; round++) {
        struct chips a, b;
        chips_setup(&a, 2, 0);
        chips_setup(&b, 2, 0);
        disturb(&a, &rng, 100);
        b.fake->now = a.fake->now / 2; /* another host, another clock */
        b.fake->wall_offset += a.fake->now - b.fake->now;
        b.tsc_offset = a.vm.ops->tsc_get(&a.vcpu[0]) - b.vm.ops->tsc_get(&b.vcpu[0]);
        size_t n = chips_save(&a, first, sizeof(first));
        assert_int_equal(chips_load(&b, first, n), 0);
        assert_int_equal(chips_save(&b, second, sizeof(second)), n);
        assert_memory_equal(first, second, n);
        chips_attention(&a, 0);
        chips_attention(&b, 0);
        /* And both go on alike. The lines that devices hold are driven again by their devices. */
        b.irq->lines = a.irq->lines;
        b.irq->lines_known = a.irq->lines_known;
        b.irq->next_lowest = a.irq->next_lowest;
        u64 rng_b = rng;
        disturb(&a, &rng, 50);
        disturb(&b, &rng_b, 50);
        n = chips_save(&a, first, sizeof(first));
        assert_int_equal(chips_save(&b, second, sizeof(second)), n);
        assert_memory_equal(first, second, n);
        chips_teardown(&a);
        chips_teardown(&b);
    }
}

static void test_damaged_state(void **state) {
    struct chips *c = *state;
    u64 rng = 0x99887766;
    u8 good[16384], bad[16384];
    disturb(c, &rng, 200);
    size_t n = chips_save(c, good, sizeof(good));
    for (size_t cut = 0; cut < n; cut += 7) {
        assert_true(chips_load(c, good, cut) < 0);
    }
    for (u32 i = 0; i < 3000; i++) {
        memcpy(bad, good, n);
        for (u32 k = 0; k < 3; k++) {
            bad[chips_random(&rng) % n] = (u8)chips_random(&rng);
        }
        if (chips_load(c, bad, n) == 0) {
            disturb(c, &rng, 3);
        }
    }
    assert_int_equal(chips_load(c, good, n), 0);
    struct chips other;
    chips_setup(&other, 1, 0); /* a machine with another number of processors */
    assert_int_equal(chips_load(&other, good, n), -ERR_FORMAT);
    chips_teardown(&other);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_virtual_wire),
        T(test_apic_off),
        T(test_messages_from_threads),
        T(test_lint0_fixed),
        T(test_extint_message),
        T(test_apic_first),
        T(test_msi),
        T(test_pit_interrupt),
        cmocka_unit_test(test_engine_has_the_chips),
        cmocka_unit_test(test_save_and_load),
        T(test_damaged_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
