/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pseudo-random values to every port, configuration register, device window, MSR and APIC register;
 * then the machine must still run code, take exceptions and talk. Left out: what ends or resets the
 * machine (the exit port, 0x64, 0x92, 0xcf9, the PM registers) and the console. Values depend on
 * the seed alone.
 */
#include "lib/guest.h"

static u64 seed = 0x9e3779b97f4a7c15ull;

static u64 next(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static u32 pm_base(void) {
    const u8 *t = acpi_find("FACP");
    u32 v = 0x600;
    if (t) {
        memcpy(&v, t + 56, 4);
    }
    return v;
}

/* Ports that end or reset the machine: the exit device, i8042 command, fast A20, reset control, PM1
 * blocks, and FADT's reset and sleep registers wherever they are near them. */
static bool left_out(u32 port, u32 pm) {
    return (port >= 0xf1 && port <= 0xf7) || (port >= 0x61 && port <= 0x64) ||
           (port >= 0x8f && port <= 0x92) || (port >= 0xcf6 && port <= 0xcf9) ||
           (port >= 0x3f5 && port <= 0x3ff) || (port + 8 > pm && port < pm + 0x40) ||
           (port >= 0xae00 && port < 0xb100) || (port >= 0xb0 && port <= 0xb4) ||
           (port >= 0x500 && port < 0x520);
}

static void touch_port(u32 port) {
    u32 v = (u32)next();
    switch (next() % 6) {
    case 0:
        outb((u16)port, (u8)v);
        break;
    case 1:
        outw((u16)port, (u16)v);
        break;
    case 2:
        outl((u16)port, v);
        break;
    case 3:
        (void)inb((u16)port);
        break;
    case 4:
        (void)inw((u16)port);
        break;
    default:
        (void)inl((u16)port);
        break;
    }
}

static void ports(void) {
    u32 pm = pm_base();
    print("PM registers at 0x%x\n", pm);
    for (u32 round = 0; round < 4; round++) {
        for (u32 port = 0; port < 0x10000; port += port < 0x1000 ? 1 : 1 + next() % 31) {
            if (!left_out(port, pm)) {
                touch_port(port);
            }
        }
    }
}

static void window(u64 base, u32 size, u32 times) {
    for (u32 i = 0; i < times; i++) {
        u64 at = base + next() % size, v = next();
        switch (next() % 8) {
        case 0:
            *(volatile u8 *)at = (u8)v;
            break;
        case 1:
            *(volatile u16 *)at = (u16)v;
            break;
        case 2:
            *(volatile u32 *)(at & ~3ull) = (u32)v;
            break;
        case 3:
            *(volatile u64 *)(at & ~7ull) = v;
            break;
        case 4:
            (void)*(volatile u8 *)at;
            break;
        case 5:
            (void)*(volatile u64 *)at;
            break;
        case 6:
            *(volatile u32 *)at = (u32)v;
            break;
        default:
            (void)*(volatile u32 *)(at & ~3ull);
            break;
        }
    }
}

/* Device windows first where they are, then configuration space, which moves them anywhere but over
 * RAM's start: BARs lose to RAM in any case. */
static void pci(void) {
    for (u32 bdf = 0; bdf < 256; bdf++) {
        if (pci_read(bdf, 0) == 0xffffffff) {
            continue;
        }
        pci_write(bdf, 4, 7);
        for (u32 i = 0; i < 6; i++) {
            u32 v = pci_read(bdf, 0x10 + i * 4);
            if (v && !(v & 1) && bdf) {
                window(v & ~15u, 0x8000, 3000);
            }
        }
    }
    for (u32 i = 0; i < 20000; i++) {
        u32 bdf = next() & 0x1ff;
        pci_write(bdf, next() & 0xfc, (u32)next());
        (void)pci_read(bdf, next() & 0xfc);
    }
    window(0xe0000000, 0x100000, 20000);
    for (u32 bdf = 0; bdf < 256; bdf++) {
        pci_write(bdf, 4, 0); /* decoding off: the console must be where it was */
    }
}

static void do_wrmsr(void *arg) {
    wrmsr((u32)(u64)arg, next());
}

static void do_rdmsr(void *arg) {
    rdmsr((u32)(u64)arg);
}

static void msrs(void) {
    static const u32 bases[] = {0, 0x170, 0x200, 0x400, 0x800, 0xc0010000, 0x4b564d00, 0xc0000100};
    for (u32 i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
        for (u32 n = 0; n < 0x100; n++) {
            u32 index = bases[i] + n;
            catch (do_rdmsr, (void *)(u64)index);
            if (index == 0x1b || index == 0xc0000100 || (index >= 0x200 && index < 0x300) ||
                (index >= 0x4b564d00 && index < 0x4b564e00) || index == 0x10 || index == 0x3b ||
                (index >= 0x11 && index <= 0x12)) {
                continue; /* would move the APIC, the cache types, the clock or memory that KVM
                             writes */
            }
            int v = catch (do_wrmsr, (void *)(u64)index);
            CHECK(v == -1 || v == 13);
        }
    }
}

static void do_ud(void *arg) {
    (void)arg;
    __asm__ volatile("ud2");
}

static volatile u32 interrupts;

static void on_irq(struct frame *f) {
    (void)f;
    interrupts++;
    mmio_write(LAPIC + 0xb0, 0);
}

static void quiet(void) {
    wrmsr(0x1b, LAPIC | 0x100); /* the APIC as after reset */
    wrmsr(0x1b, LAPIC | 0x900);
    for (u32 i = 0; i < 24; i++) {
        ioapic_write(0x10 + i * 2, 1 << 16);
    }
}

static void answers(void) {
    quiet();
    CHECK_EQ(catch (do_ud, NULL), 6);
    mmio_write(LAPIC + 0xf0, 0x1ff);
    interrupts = 0;
    mmio_write(LAPIC + 0x300, 0x40045);
    irq_on();
    delay_us(100);
    irq_off();
    CHECK_EQ(interrupts, 1);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    tsc_hz();
    irq_handler(0x45, on_irq);
    quiet();
    ports();
    print("ports done\n");
    answers();
    msrs();
    print("MSRs done\n");
    answers();
    window(0xfec00000, 0x1000, 5000);
    for (u32 i = 0; i < 5000;
         i++) { /* no INIT or start-up messages: those reach other processors */
        u64 at = next() & 0xff0;
        if (at != 0x300) {
            mmio_write(LAPIC + at, (u32)next());
        }
        (void)mmio_read(LAPIC + (next() & 0xfff & ~3ull));
    }
    print("APICs done\n");
    answers();
    window(0xc0000000, 0x100000, 5000);
    window(0xff000000, 0x20000, 5000);
    pci();
    print("PCI done\n");
    answers();
    CHECK(inb(0x3fd) != 0xff);
}
