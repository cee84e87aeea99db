/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC: registers in both modes, priorities, messages, local interrupts, the timer. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_chips.h"

#define MSR(reg) (0x800u + (reg))

static int setup(void **state) {
    static struct chips c;
    chips_setup(&c, CHIPS_VCPUS, 0);
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        chips_apic_enable(&c, i);
    }
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    chips_teardown(*state);
    return 0;
}

static struct lapic *apic(struct chips *c, u32 i) {
    return irqchip_lapic(c->irq, i);
}

static void go_x2(struct chips *c, u32 i) {
    u64 base;
    assert_int_equal(lapic_msr_read(apic(c, i), 0x1b, &base), 0);
    assert_int_equal(lapic_msr_write(apic(c, i), 0x1b, base | APIC_BASE_EXTD), 0);
}

static void send(struct chips *c, u32 from, u32 dest, u32 low) {
    chips_apic_write(c, from, LAPIC_ICR_HIGH, dest << 24);
    chips_apic_write(c, from, LAPIC_ICR, low);
}

static void test_reset_values(void **state) {
    struct chips c;
    (void)state;
    chips_setup(&c, 2, 0);
    assert_int_equal(chips_apic_read(&c, 1, LAPIC_ID), 1u << 24);
    assert_int_equal(chips_apic_read(&c, 1, LAPIC_VERSION), 0x50014);
    assert_int_equal(chips_apic_read(&c, 1, LAPIC_SVR), 0xff);
    assert_int_equal(chips_apic_read(&c, 1, LAPIC_DFR), UINT32_MAX);
    for (u32 i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++) {
        assert_int_equal(chips_apic_read(&c, 1, i), 0x10000);
    }
    u64 base;
    assert_int_equal(lapic_msr_read(apic(&c, 0), 0x1b, &base), 0);
    assert_int_equal(base, 0xfee00900);
    assert_int_equal(lapic_msr_read(apic(&c, 1), 0x1b, &base), 0);
    assert_int_equal(base, 0xfee00800);
    assert_true(lapic_mmio_hit(apic(&c, 0), 0xfee00020));
    assert_false(lapic_mmio_hit(apic(&c, 0), 0xfee01000));
    chips_teardown(&c);
}

static void test_priority_and_eoi(void **state) {
    struct chips *c = *state;
    send(c, 0, 1, 0x4031);
    send(c, 0, 1, 0x4055);
    assert_int_equal(chips_attention(c, 1), ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x55);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_PPR), 0x50);
    assert_false(irqchip_pending(c->irq, 1)); /* 0x31 waits for the EOI */
    send(c, 0, 1, 0x4058);                    /* same class: waits too, and does not disturb */
    assert_int_equal(chips_attention(c, 1), 0);
    send(c, 0, 1, 0x4061); /* a higher class nests */
    assert_int_equal(chips_attention(c, 1), ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x61);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(chips_attention(c, 1), ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x58);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x31);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    chips_apic_write(c, 1, LAPIC_EOI, 0); /* one too many does nothing */
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
}

static void test_tpr_and_cr8(void **state) {
    struct chips *c = *state;
    lapic_cr8_set(apic(c, 1), 5);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TPR), 0x50);
    send(c, 0, 1, 0x4051);
    assert_false(irqchip_pending(c->irq, 1));
    assert_int_equal(chips_attention(c, 1), 0);
    chips_apic_write(c, 1, LAPIC_TPR, 0x4f);
    assert_int_equal(lapic_cr8_get(apic(c, 1)), 4);
    assert_int_equal(chips_attention(c, 1), ATTN_INTERRUPT);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x51);
}

static void test_kick_only_for_news(void **state) {
    struct chips *c = *state;
    send(c, 0, 1, 0x4051);
    u32 kicks = c->kicks[1];
    send(c, 0, 1, 0x4051);
    assert_int_equal(c->kicks[1], kicks);
}

static void test_destinations(void **state) {
    struct chips *c = *state;
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        chips_apic_write(c, i, LAPIC_LDR, 1u << (24 + i));
    }
    send(c, 0, 0x0a, 0x4841); /* flat: 1 and 3 */
    assert_int_equal(irqchip_accept(c->irq, 0), -1);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x41);
    assert_int_equal(irqchip_accept(c->irq, 2), -1);
    assert_int_equal(irqchip_accept(c->irq, 3), 0x41);
    for (u32 i = 0; i < CHIPS_VCPUS; i++) { /* clusters 0 and 1, two members each */
        chips_apic_write(c, i, LAPIC_DFR, 0);
        chips_apic_write(c, i, LAPIC_LDR, (i / 2) << 28 | 1u << (24 + i % 2));
    }
    send(c, 0, 0x12, 0x4852);
    assert_int_equal(irqchip_accept(c->irq, 2), -1);
    assert_int_equal(irqchip_accept(c->irq, 3), 0x52);
    send(c, 0, 0xff, 0x4063); /* physical broadcast */
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        assert_int_equal(irqchip_accept(c->irq, i), 0x63);
    }
}

static void test_shorthands(void **state) {
    struct chips *c = *state;
    send(c, 2, 0, 0x44000 | 0x71); /* self */
    assert_int_equal(irqchip_accept(c->irq, 2), 0x71);
    send(c, 2, 0, 0x84000 | 0x82); /* all */
    send(c, 2, 0, 0xc4000 | 0x93); /* all but self */
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        if (i != 2) {
            assert_int_equal(irqchip_accept(c->irq, i), 0x93);
            chips_apic_write(c, i, LAPIC_EOI, 0);
        }
        assert_int_equal(irqchip_accept(c->irq, i), 0x82);
        assert_int_equal(irqchip_accept(c->irq, i), -1);
    }
}

static void test_lowest_priority(void **state) {
    struct chips *c = *state;
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        chips_apic_write(c, i, LAPIC_LDR, 1u << (24 + i));
        chips_apic_write(c, i, LAPIC_TPR, i == 2 ? 0 : 0x20);
    }
    send(c, 0, 0x0f, 0x4941);
    assert_int_equal(irqchip_accept(c->irq, 2), 0x41);
    /* Now 2 is busy: the others take turns. */
    u32 got[CHIPS_VCPUS] = {0};
    for (u32 n = 0; n < 6; n++) {
        send(c, 0, 0x0f, 0x4900 | (0x42 + n));
        for (u32 i = 0; i < CHIPS_VCPUS; i++) {
            if (irqchip_accept(c->irq, i) >= 0) {
                got[i]++;
                chips_apic_write(c, i, LAPIC_EOI, 0);
            }
        }
    }
    assert_int_equal(got[2], 0);
    assert_int_equal(got[0] + got[1] + got[3], 6);
    assert_true(got[0] && got[1] && got[3]);
}

static void test_init_sipi_nmi(void **state) {
    struct chips *c = *state;
    send(c, 0, 1, 0x4500);
    assert_int_equal(chips_attention(c, 1), ATTN_INIT);
    send(c, 0, 1, 0x8500); /* level de-assert: nothing */
    assert_int_equal(chips_attention(c, 1), 0);
    send(c, 0, 1, 0x4699);
    assert_int_equal(chips_attention(c, 1), ATTN_SIPI);
    assert_int_equal(irqchip_sipi_vector(c->irq, 1), 0x99);
    send(c, 0, 1, 0x4400);
    assert_int_equal(chips_attention(c, 1), ATTN_NMI);
    send(c, 0, 1, 0x4200); /* SMI: ignored */
    assert_int_equal(chips_attention(c, 1), 0);
    chips_apic_write(c, 1, LAPIC_ID, 0x7u << 24);
    chips_apic_write(c, 1, LAPIC_TPR, 0x30);
    irqchip_init_vcpu(c->irq, 1);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_ID), 0x7u << 24);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TPR), 0);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_SVR), 0xff);
    send(c, 0, 7, 0x4500); /* software-disabled: INIT arrives all the same, */
    assert_int_equal(chips_attention(c, 1), ATTN_INIT);
    send(c, 0, 7, 0x4055); /* interrupts do not */
    chips_apic_enable(c, 1);
    assert_false(irqchip_pending(c->irq, 1));
}

static void test_errors(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 0, LAPIC_LVT_ERROR, 0x44);
    send(c, 0, 1, 0x4005);
    assert_int_equal(irqchip_accept(c->irq, 0), 0x44);
    assert_int_equal(chips_apic_read(c, 0, LAPIC_ESR), 0); /* shows after a write only */
    chips_apic_write(c, 0, LAPIC_ESR, 0);
    assert_int_equal(chips_apic_read(c, 0, LAPIC_ESR), 0x20);
    irq_msi(c->irq, 0xfee00000, 0x0003);
    chips_apic_read(c, 0, 0x3d);
    chips_apic_write(c, 0, LAPIC_ESR, 0);
    assert_int_equal(chips_apic_read(c, 0, LAPIC_ESR), 0xc0);
    /* An error whose own vector is illegal must not run away. */
    chips_apic_write(c, 0, LAPIC_LVT_ERROR, 0x04);
    send(c, 0, 1, 0x4005);
    chips_apic_write(c, 0, LAPIC_ESR, 0);
    assert_int_equal(chips_apic_read(c, 0, LAPIC_ESR), 0x20);
}

static void test_software_disable_masks_lvt(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 1, LAPIC_LVT_LINT1, 0x400);
    chips_apic_write(c, 1, LAPIC_SVR, 0xff);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_LVT_LINT1), 0x10400);
    chips_apic_write(c, 1, LAPIC_LVT_LINT1, 0x400);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_LVT_LINT1), 0x10400);
}

static void test_access_sizes(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 1);
    chips_apic_write(c, 1, LAPIC_LDR, 0xab000000);
    assert_int_equal(lapic_mmio_read(l, 0xd3, 1), 0xab);
    assert_int_equal(lapic_mmio_read(l, 0xd2, 2), 0xab00);
    assert_int_equal(lapic_mmio_read(l, 0xd0, 8), 0xab000000);
    assert_int_equal(lapic_mmio_read(l, 0xd4, 4), 0);
    lapic_mmio_write(l, 0xd3, 1, 0x12);
    lapic_mmio_write(l, 0xd4, 4, 0x12345678);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_LDR), 0xab000000);
}

static void test_base_transitions(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 1);
    u64 base = 0xfee00000, en = APIC_BASE_EN, x2 = APIC_BASE_EN | APIC_BASE_EXTD;
    assert_int_equal(lapic_msr_write(l, 0x1b, base | APIC_BASE_EXTD), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, 0x1b, base | en | 1), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, 0x1b, base | en | BIT(45)), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, 0x1b, base), 0); /* off */
    assert_false(lapic_mmio_hit(l, base));
    send(c, 0, 1, 0x4500);
    assert_int_equal(chips_attention(c, 1), 0); /* it hears nothing, not even INIT */
    assert_int_equal(lapic_msr_write(l, 0x1b, base | x2), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, 0x1b, 0x123450000ull | en), 0);
    assert_true(lapic_mmio_hit(l, 0x123450020ull));
    assert_int_equal(chips_apic_read(c, 1, LAPIC_SVR), 0xff); /* as after power-up */
    assert_int_equal(lapic_msr_write(l, 0x1b, base | x2), 0);
    assert_false(lapic_mmio_hit(l, base));
    assert_int_equal(lapic_msr_write(l, 0x1b, base | en), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, 0x1b, base), 0);
    assert_int_equal(lapic_msr_write(l, 0x1b, base | en), 0);
}

static void test_x2apic_registers(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 3);
    u64 v;
    assert_int_equal(lapic_msr_read(l, MSR(LAPIC_ID), &v), -ERR_INVAL);
    go_x2(c, 3);
    assert_int_equal(lapic_msr_read(l, MSR(LAPIC_ID), &v), 0);
    assert_int_equal(v, 3);
    assert_int_equal(lapic_msr_read(l, MSR(LAPIC_LDR), &v), 0);
    assert_int_equal(v, 8);
    static const u32 bad_write[] = {LAPIC_ID,
                                    LAPIC_VERSION,
                                    LAPIC_PPR,
                                    LAPIC_LDR,
                                    LAPIC_DFR,
                                    LAPIC_ISR,
                                    LAPIC_TIMER_CURRENT,
                                    LAPIC_ICR_HIGH,
                                    LAPIC_APR,
                                    LAPIC_RRD,
                                    0x3d,
                                    0x40,
                                    0xff};
    for (u32 i = 0; i < ARRAY_LEN(bad_write); i++) {
        assert_int_equal(lapic_msr_write(l, MSR(bad_write[i]), 0), -ERR_INVAL);
    }
    static const u32 bad_read[] = {
        LAPIC_EOI, LAPIC_DFR, LAPIC_ICR_HIGH, LAPIC_SELF_IPI, LAPIC_APR, LAPIC_LVT_CMCI, 0x41};
    for (u32 i = 0; i < ARRAY_LEN(bad_read); i++) {
        assert_int_equal(lapic_msr_read(l, MSR(bad_read[i]), &v), -ERR_INVAL);
    }
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_EOI), 1), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ESR), 1), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_TPR), 0x100), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_LVT_TIMER), BIT(32)), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ICR), 0x100000), -ERR_INVAL);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ICR), 3ull << 32 | 0x4077), 0);
    assert_int_equal(lapic_msr_read(l, MSR(LAPIC_ICR), &v), 0);
    assert_int_equal(v, 3ull << 32 | 0x4077);
    assert_int_equal(irqchip_accept(c->irq, 3), 0x77);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_SELF_IPI), 0x88), 0);
    assert_int_equal(irqchip_accept(c->irq, 3), 0x88);
}

static void test_x2apic_destinations(void **state) {
    struct chips *c = *state;
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        go_x2(c, i);
    }
    struct lapic *l = apic(c, 0);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ICR), 0x6ull << 32 | 0x4841), 0);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x41);
    assert_int_equal(irqchip_accept(c->irq, 2), 0x41);
    assert_int_equal(irqchip_accept(c->irq, 3), -1);
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ICR), 0xffffffffull << 32 | 0x4052), 0);
    for (u32 i = 0; i < CHIPS_VCPUS; i++) {
        assert_int_equal(irqchip_accept(c->irq, i), 0x52);
    }
    assert_int_equal(lapic_msr_write(l, MSR(LAPIC_ICR), 0xffull << 32 | 0x4061), 0);
    assert_int_equal(irqchip_accept(c->irq, 1), -1); /* 0xff is nobody here */
    irq_msi(c->irq, 0xfee03000, 0x72);               /* an MSI's 8-bit destination */
    assert_int_equal(irqchip_accept(c->irq, 3), 0x72);
}

/* --- timer --------------------------------------------------------------------------------------
 */

static void test_timer_one_shot(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x40);
    chips_apic_write(c, 1, LAPIC_TIMER_DIVIDE, 0x3); /* 16 */
    chips_apic_write(c, 1, LAPIC_TIMER_INITIAL, 1000);
    fake_advance(c->fake, 8000);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TIMER_CURRENT), 500);
    fake_advance(c->fake, 7999);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    fake_advance(c->fake, 1);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x40);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TIMER_CURRENT), 0);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    fake_advance(c->fake, 1000000);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
}

static void test_timer_periodic(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 1, LAPIC_TIMER_DIVIDE, 0xb); /* 1 */
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x20040);
    chips_apic_write(c, 1, LAPIC_TIMER_INITIAL, 1000000);
    for (u32 i = 0; i < 5; i++) {
        fake_advance(c->fake, 999999);
        assert_int_equal(irqchip_accept(c->irq, 1), -1);
        assert_int_equal(chips_apic_read(c, 1, LAPIC_TIMER_CURRENT), 1);
        fake_advance(c->fake, 1);
        assert_int_equal(irqchip_accept(c->irq, 1), 0x40);
        chips_apic_write(c, 1, LAPIC_EOI, 0);
    }
    /* Masked it counts on, silently and without waking the host. */
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x30040);
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
    fake_advance(c->fake, 2500000);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TIMER_CURRENT), 500000);
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x20040);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    fake_advance(c->fake, 500000);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x40);
}

static void test_timer_divide_change(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x40);
    chips_apic_write(c, 1, LAPIC_TIMER_DIVIDE, 0xb);
    chips_apic_write(c, 1, LAPIC_TIMER_INITIAL, 100000);
    fake_advance(c->fake, 40000);
    chips_apic_write(c, 1, LAPIC_TIMER_DIVIDE, 0); /* 2 */
    assert_int_equal(chips_apic_read(c, 1, LAPIC_TIMER_CURRENT), 60000);
    fake_advance(c->fake, 119999);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    fake_advance(c->fake, 1);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x40);
}

static void test_timer_short_period_is_bounded(void **state) {
    struct chips *c = *state;
    chips_apic_write(c, 1, LAPIC_TIMER_DIVIDE, 0xb);
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x20040);
    chips_apic_write(c, 1, LAPIC_TIMER_INITIAL, 1);
    u32 kicks = 0;
    for (u32 i = 0; i < 100; i++) {
        fake_advance(c->fake, 10000);
        if (irqchip_accept(c->irq, 1) >= 0) {
            chips_apic_write(c, 1, LAPIC_EOI, 0);
            kicks++;
        }
    }
    assert_true(kicks >= 40 && kicks <= 60);
}

static void test_tsc_deadline(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 1);
    u64 now = c->vm.ops->tsc_get(&c->vcpu[1]), v;
    assert_int_equal(lapic_msr_write(l, 0x6e0, now + 2000), 0); /* not in that mode: ignored */
    assert_int_equal(lapic_msr_read(l, 0x6e0, &v), 0);
    assert_int_equal(v, 0);
    chips_apic_write(c, 1, LAPIC_LVT_TIMER, 0x40041);
    lapic_msr_write(l, 0x6e0, now + 2000000);
    lapic_msr_read(l, 0x6e0, &v);
    assert_int_equal(v, now + 2000000);
    fake_advance(c->fake, 999999);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    fake_advance(c->fake, 1);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x41);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    lapic_msr_read(l, 0x6e0, &v);
    assert_int_equal(v, 0);
    lapic_msr_write(l, 0x6e0, 1); /* in the past */
    assert_int_equal(irqchip_accept(c->irq, 1), 0x41);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    lapic_msr_write(l, 0x6e0, UINT64_MAX); /* far away: no overflow */
    fake_advance(c->fake, NSEC_PER_SEC);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    c->tsc_offset = UINT64_MAX - c->vm.ops->tsc_get(&c->vcpu[1]); /* the guest wrote its TSC */
    lapic_tsc_changed(l);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x41);
    lapic_msr_write(l, 0x6e0, UINT64_MAX);
    lapic_msr_write(l, 0x6e0, 0);
    assert_int_equal(fake_next_timer(c->fake), HOST_FOREVER);
}

static void test_lint_level(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 1);
    chips_apic_write(c, 1, LAPIC_LVT_LINT1, 0x8045); /* fixed, level */
    lapic_lint_set(l, 1, true);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x45);
    assert_int_equal(chips_apic_read(c, 1, LAPIC_LVT_LINT1), 0xc045);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), 0x45); /* still asserted */
    lapic_lint_set(l, 1, false);
    chips_apic_write(c, 1, LAPIC_EOI, 0);
    assert_int_equal(irqchip_accept(c->irq, 1), -1);
    chips_apic_write(c, 1, LAPIC_LVT_LINT1, 0x400);
    chips_attention(c, 1);
    irqchip_nmi(c->irq);
    assert_int_equal(chips_attention(c, 1), ATTN_NMI);
}

static void test_state_rejects_nonsense(void **state) {
    struct chips *c = *state;
    struct lapic *l = apic(c, 1);
    struct lapic_state s, again;
    lapic_get(l, &s);
    s.apic_base = 0xfee00000 | APIC_BASE_EXTD;
    assert_int_equal(lapic_set(l, &s), -ERR_FORMAT);
    lapic_get(l, &s);
    s.regs[LAPIC_IRR] = 1;
    assert_int_equal(lapic_set(l, &s), -ERR_FORMAT);
    lapic_get(l, &s);
    memset(s.regs, 0xff, sizeof(s.regs));
    s.regs[LAPIC_IRR] = s.regs[LAPIC_ISR] = 0xffff0000;
    s.timer_start_ns = UINT64_MAX;
    assert_int_equal(lapic_set(l, &s), 0); /* what registers cannot hold is dropped */
    lapic_get(l, &s);
    assert_int_equal(s.regs[LAPIC_VERSION], 0x50014);
    assert_int_equal(lapic_set(l, &s), 0);
    lapic_get(l, &again);
    assert_memory_equal(&s, &again, sizeof(s));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_values),
        T(test_priority_and_eoi),
        T(test_tpr_and_cr8),
        T(test_kick_only_for_news),
        T(test_destinations),
        T(test_shorthands),
        T(test_lowest_priority),
        T(test_init_sipi_nmi),
        T(test_errors),
        T(test_software_disable_masks_lvt),
        T(test_access_sizes),
        T(test_base_transitions),
        T(test_x2apic_registers),
        T(test_x2apic_destinations),
        T(test_timer_one_shot),
        T(test_timer_periodic),
        T(test_timer_divide_change),
        T(test_timer_short_period_is_bounded),
        T(test_tsc_deadline),
        T(test_lint_level),
        T(test_state_rejects_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
