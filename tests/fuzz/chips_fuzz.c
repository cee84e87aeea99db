/* SPDX-License-Identifier: Apache-2.0 */
/* Local APICs (page and MSRs), IOAPIC, PICs and PIT under arbitrary accesses and loaded states. */
#include "tests/fuzz/ports.h"

static const u16 ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61};

static void other(struct chips *c, u8 which, u16 value) {
    u32 vcpu = which >> 7, reg = value & 0x3f;
    struct lapic *l = irqchip_lapic(c->irq, vcpu);
    u32 wide = (u32)value * 0x10001u;
    u64 ignored = 0;
    switch (which & 15) {
    case 0:
        if (lapic_mmio_hit(l, LAPIC_DEFAULT_BASE)) {
            lapic_mmio_write(l, value & 0xfff, 1 + (which >> 4) % 8, wide);
        }
        break;
    case 1:
    case 2:
        if (lapic_mmio_hit(l, LAPIC_DEFAULT_BASE)) {
            lapic_mmio_write(l, reg * 16, 4, (u64)value >> 6 | (u64)(which >> 4) << 8);
        }
        break;
    case 3:
        lapic_mmio_read(l, value & 0xfff, 1 + (which >> 4) % 8);
        break;
    case 4:
        lapic_msr_write(l, 0x800 + (value & 0xff), which >> 4);
        break;
    case 5:
        lapic_msr_write(l, 0x1b, 0xfee00000 | (value & 0xfff));
        break;
    case 6:
        lapic_msr_write(l, 0x6e0, (u64)value << 24);
        break;
    case 7:
        lapic_msr_read(l, 0x800 + (value & 0xff), &ignored);
        break;
    case 8:
        irqchip_accept(c->irq, vcpu);
        break;
    case 9:
        irq_set(c->irq, value & 31, value >> 15);
        break;
    case 10:
        irq_msi(c->irq, 0xfee00000 | (u64)(which >> 4) << 12 | (value >> 12), value);
        break;
    case 11:
        lapic_cr8_set(l, value);
        break;
    case 12:
        chips_ioapic_write(c, value & 0x3f, (u32)value << 8 | which);
        break;
    case 13:
        irqchip_init_vcpu(c->irq, vcpu);
        break;
    case 14:
        c->tsc_offset = wide;
        lapic_tsc_changed(l);
        break;
    default:
        irqchip_reset(c->irq);
        break;
    }
    if (irqchip_pending(c->irq, vcpu) && irqchip_accept(c->irq, vcpu) < 0) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chips c;
    chips_setup(&c, 2, 0);
    fuzz_run(&c, ports, ARRAY_LEN(ports), other, data, size);
    chips_teardown(&c);
    return 0;
}
