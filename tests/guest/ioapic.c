/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The IOAPIC (82093AA data sheet) with the interrupt lines of pc-testdev at ports 0x2000+n: edge
 * and level, remote IRR and EOI, masks, destinations.
 */
#include "lib/guest.h"

enum { LINE = 5, VECTOR = 0x52, MASK = 1 << 16, LEVEL = 1 << 15, REMOTE_IRR = 1 << 14, EOI = 0xb0 };

static volatile u32 count;
static volatile bool lower_in_handler, irr_in_handler;

static u32 low(void) {
    return ioapic_read(0x10 + LINE * 2);
}

static void entry(u32 value, u32 destination) {
    ioapic_write(0x11 + LINE * 2, destination << 24);
    ioapic_write(0x10 + LINE * 2, value);
}

static void line(u8 up) {
    outb(0x2000 + LINE, up);
}

static void on_line(struct frame *f) {
    (void)f;
    count++;
    irr_in_handler = low() & REMOTE_IRR;
    if (lower_in_handler || count > 5) {
        line(0);
    }
    mmio_write(LAPIC + EOI, 0);
}

static u32 settle(void) {
    irq_on();
    delay_us(200);
    irq_off();
    u32 n = count;
    count = 0;
    return n;
}

static void registers(void) {
    u32 version = ioapic_read(1);
    CHECK((version & 0xff) == 0x11 || (version & 0xff) == 0x20);
    CHECK_EQ(version >> 16 & 0xff, 23);
    ioapic_write(0, 0x0a000000);
    CHECK_EQ(ioapic_read(0), 0x0a000000);
    ioapic_write(0, 0);
    for (u32 i = 0; i < 24; i++) {
        CHECK_EQ(ioapic_read(0x10 + i * 2) & MASK, MASK); /* masked at reset */
    }
    ioapic_write(0x10 + LINE * 2, 0xffffffff);
    CHECK_EXACT(low() == 0x1afff); /* delivery status and remote IRR are not the guest's */
    entry(MASK, 0);
    CHECK_EQ(mmio_read(0xfec00000), 0x10 + LINE * 2);
}

static void edge(void) {
    entry(VECTOR, 0);
    line(1);
    CHECK_EQ(settle(), 1);
    CHECK(!irr_in_handler);
    line(1);
    CHECK_EQ(settle(), 0);
    line(0);
    CHECK_EQ(settle(), 0);
    line(1);
    line(0);
    CHECK_EQ(settle(), 1);
    entry(MASK | VECTOR, 0);
    line(1); /* masked: lost */
    line(0);
    entry(VECTOR, 0);
    CHECK_EQ(settle(), 0);
}

static void level(void) {
    lower_in_handler = true;
    entry(LEVEL | VECTOR, 0);
    line(1);
    CHECK(low() & REMOTE_IRR);
    CHECK_EQ(settle(), 1);
    CHECK(irr_in_handler);
    CHECK(!(low() & REMOTE_IRR));
    lower_in_handler = false; /* the handler lowers it the sixth time */
    line(1);
    CHECK_EQ(settle(), 6);
    CHECK(!(low() & REMOTE_IRR));
    lower_in_handler = true;
    entry(MASK | LEVEL | VECTOR, 0);
    line(1);
    CHECK_EQ(settle(), 0);
    entry(LEVEL | VECTOR, 0); /* masked levels are not lost */
    CHECK_EQ(settle(), 1);
    line(1);
    line(0); /* accepted already: comes once */
    CHECK_EQ(settle(), 1);
}

static void destinations(void) {
    lower_in_handler = false;
    mmio_write(LAPIC + 0xe0, 0xffffffff);
    mmio_write(LAPIC + 0xd0, 0x04000000);
    entry(1 << 11 | VECTOR, 4); /* logical, flat */
    line(1);
    line(0);
    CHECK_EQ(settle(), 1);
    entry(1 << 11 | VECTOR, 2); /* nobody */
    line(1);
    line(0);
    CHECK_EQ(settle(), 0);
    entry(1 << 11 | 1 << 8 | VECTOR, 0xff); /* lowest priority */
    line(1);
    line(0);
    CHECK_EQ(settle(), 1);
    entry(VECTOR, 0xff); /* physical broadcast */
    line(1);
    line(0);
    CHECK_EQ(settle(), 1);
    entry(VECTOR, 0x30); /* no such processor */
    line(1);
    line(0);
    CHECK_EQ(settle(), 0);
    entry(4 << 8, 0); /* NMI */
    line(1);
    line(0);
    CHECK_EQ(settle(), 1);
    entry(MASK, 0);
}

static void on_nmi(struct frame *f) {
    (void)f;
    count++;
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    mmio_write(LAPIC + 0xf0, 0x1ff);
    irq_handler(VECTOR, on_line);
    irq_handler(2, on_nmi);
    registers();
    edge();
    level();
    destinations();
}
