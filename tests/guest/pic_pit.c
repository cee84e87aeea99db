/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8259 pair and the 8254 timer (their data sheets), through LINT0 as ExtINT; lines by
 * pc-testdev. The IOAPIC stays masked.
 */
#include "lib/guest.h"

enum { MASTER = 0x20, SLAVE = 0xa0, BASE = 0x30, EOI = 0x20, PIT = 0x40, LINE_PORT = 0x2000 };

static volatile u32 log_at, handler_isr;
static u8 log_vector[16];
static volatile u32 ticks;

static void pic_init(u8 icw4) {
    outb(MASTER, 0x11);
    outb(MASTER + 1, BASE);
    outb(MASTER + 1, 4);
    outb(MASTER + 1, icw4);
    outb(SLAVE, 0x11);
    outb(SLAVE + 1, BASE + 8);
    outb(SLAVE + 1, 2);
    outb(SLAVE + 1, 1);
    outb(MASTER + 1, 0xff);
    outb(SLAVE + 1, 0xff);
}

static u8 pic_read(u16 port, u8 ocw3) {
    outb(port, ocw3); /* 0x0a IRR, 0x0b ISR */
    return inb(port);
}

static void line(u32 n, u8 up) {
    outb((u16)(LINE_PORT + n), up);
}

static void pulse(u32 n) {
    line(n, 0);
    line(n, 1);
}

static void on_irq(struct frame *f) {
    u32 n = (u32)f->vector - BASE;
    log_vector[log_at++ & 15] = (u8)f->vector;
    handler_isr = pic_read(MASTER, 0x0b) | (u32)pic_read(SLAVE, 0x0b) << 8;
    line(n, 0);
    if (n >= 8) {
        outb(SLAVE, EOI);
    }
    outb(MASTER, EOI);
}

/* IRQ 0 counts; no EOI is needed in automatic mode, one does no harm. */
static void on_tick(struct frame *f) {
    (void)f;
    ticks++;
    outb(MASTER, EOI);
}

static u32 settle(void) {
    irq_on();
    delay_us(200);
    irq_off();
    u32 n = log_at;
    log_at = 0;
    return n;
}

static void delivery(void) {
    pic_init(1);
    CHECK_EQ(inb(MASTER + 1), 0xff);
    CHECK_EQ(inb(SLAVE + 1), 0xff);
    outb(MASTER + 1, 0xd3); /* 2, 3 and 5 on */
    outb(SLAVE + 1, 0xef);  /* 12 on */
    CHECK_EQ(inb(MASTER + 1), 0xd3);
    CHECK_EQ(inb(SLAVE + 1), 0xef);
    pulse(5);
    CHECK(pic_read(MASTER, 0x0a) & 0x20);
    CHECK_EQ(settle(), 1);
    CHECK_EQ(log_vector[0], BASE + 5);
    CHECK_EQ(handler_isr, 0x20);
    CHECK_EQ(pic_read(MASTER, 0x0b), 0);
    pulse(5);
    pulse(3);
    pulse(12);
    CHECK_EQ(settle(), 3); /* the slave stands at 2, before 3 */
    CHECK_EQ(log_vector[0], BASE + 12);
    CHECK_EQ(log_vector[1], BASE + 3);
    CHECK_EQ(log_vector[2], BASE + 5);
    pulse(12);
    settle();
    CHECK_EQ(handler_isr, 0x1004);
}

static void masks(void) {
    outb(MASTER + 1, 0xff);
    pulse(5);
    CHECK_EQ(settle(), 0);
    CHECK(pic_read(MASTER, 0x0a) & 0x20); /* remembered */
    outb(MASTER + 1, 0xdf);
    CHECK_EQ(settle(), 1);
    outb(MASTER + 1, 0xd3);
}

static void level(void) {
    outb(0x4d0, 0x20);
    CHECK_EQ(inb(0x4d0), 0x20);
    line(5, 0);
    line(5, 1);
    CHECK_EQ(settle(), 1);
    line(5, 1);
    line(5, 0); /* gone before anybody asked */
    CHECK_EQ(settle(), 0);
    outb(0x4d0, 0xff);
    CHECK_EQ(inb(0x4d0), 0xf8); /* 0, 1 and 2 are always edge */
    outb(0x4d0, 0);
}

/* With an acknowledge that finds nothing, IRQ 7 is reported and no ISR bit is set. */
static void poll_mode(void) {
    outb(MASTER, 0x0c);
    CHECK_EQ(inb(MASTER) & 0x80, 0);
    pulse(5);
    outb(MASTER, 0x0c);
    CHECK_EQ(inb(MASTER), 0x85);
    CHECK_EQ(pic_read(MASTER, 0x0b), 0x20);
    outb(MASTER, 0x65); /* specific EOI */
    CHECK_EQ(pic_read(MASTER, 0x0b), 0);
    line(5, 0);
}

static void special(void) {
    outb(MASTER, 0xc4); /* priority: 4 lowest, so 5 is first */
    pulse(3);
    pulse(5);
    CHECK_EQ(settle(), 2);
    CHECK_EQ(log_vector[0], BASE + 5);
    CHECK_EQ(log_vector[1], BASE + 3);
    outb(MASTER, 0xc7); /* as it was */
}

/* --- PIT ---------------------------------------------------------------------------------------
 */

static u32 pit_latch(u32 channel) {
    outb(PIT + 3, (u8)(channel << 6));
    u32 v = inb((u16)(PIT + channel));
    return v | (u32)inb((u16)(PIT + channel)) << 8;
}

static void pit_set(u32 channel, u32 mode, u32 count) {
    outb(PIT + 3, (u8)(channel << 6 | 0x30 | mode << 1));
    outb((u16)(PIT + channel), (u8)count);
    outb((u16)(PIT + channel), (u8)(count >> 8));
}

static u8 pit_status(u32 channel) {
    outb(PIT + 3, (u8)(0xe0 | 2 << channel));
    return inb((u16)(PIT + channel));
}

static void speaker_gate(u8 on) {
    outb(0x61, (u8)((inb(0x61) & 0xc) | on));
}

static void pit_one_shot(void) {
    speaker_gate(1);
    CHECK_EQ(inb(0x61) & 3, 1);
    u64 start = rdtsc();
    pit_set(2, 0, 59659);                 /* 50 ms */
    CHECK_EQ(pit_status(2) & 0xbf, 0x30); /* OUT low, both bytes, mode 0, binary */
    CHECK(!(inb(0x61) & 0x20));
    u32 a = pit_latch(2);
    delay_us(1000);
    u32 b = pit_latch(2);
    CHECK(a <= 59659 && b < a);
    while (!(inb(0x61) & 0x20) && tsc_us(rdtsc() - start) < 1000000) {
    }
    u32 us = tsc_us(rdtsc() - start);
    CHECK(us >= 49900 && us < 900000);
    CHECK_EQ(pit_status(2) & 0x80, 0x80);
    pit_set(2, 0, 11932);
    speaker_gate(0); /* the gate stops the count */
    a = pit_latch(2);
    delay_us(500);
    CHECK_EQ(pit_latch(2), a);
    u8 refresh = inb(0x61) & 0x10;
    u32 i = 0;
    while ((inb(0x61) & 0x10) == refresh && ++i < 100000) {
    }
    CHECK(i < 100000);
}

static void pit_modes(void) {
    speaker_gate(1);
    pit_set(2, 2, 1000);
    CHECK_EQ(pit_status(2) & 0x0e, 4);
    for (u32 i = 0; i < 50; i++) {
        u32 v = pit_latch(2);
        CHECK(v >= 1 && v <= 1000);
    }
    pit_set(2, 3, 1000);
    u32 high = 0, low = 0;
    for (u64 end = rdtsc() + tsc_hz() / 200; rdtsc() < end;) {
        *((inb(0x61) & 0x20) ? &high : &low) += 1;
    }
    CHECK(high && low);  /* a square wave */
    outb(PIT + 3, 0xb1); /* BCD */
    outb(PIT + 2, 0x00);
    outb(PIT + 2, 0x99);
    for (u32 i = 0; i < 50; i++) {
        u32 v = pit_latch(2);
        CHECK_EXACT((v & 15) < 10 && (v >> 4 & 15) < 10 && (v >> 8 & 15) < 10 && v >> 12 < 10);
    }
    outb(PIT + 3, 0x90); /* one byte: the low one */
    outb(PIT + 2, 0x80);
    CHECK(inb(PIT + 2) <= 0x80);
    pit_set(2, 0, 60000);
    outb(PIT + 3, 0xc8); /* count and status of channel 2 */
    CHECK_EQ(inb(PIT + 2) & 0x3f, 0x30);
    u32 v = inb(PIT + 2);
    v |= (u32)inb(PIT + 2) << 8;
    CHECK(v <= 60000 && v > 10000);
    speaker_gate(0);
}

static void pit_interrupts(void) {
    pic_init(3); /* automatic EOI */
    outb(MASTER + 1, 0xfe);
    irq_handler(BASE, on_tick);
    pit_set(0, 2, 1193); /* 1 kHz */
    ticks = 0;
    irq_on();
    u64 start = rdtsc();
    while (ticks < 20 && tsc_us(rdtsc() - start) < 1000000) {
        __asm__ volatile("hlt");
    }
    u32 us = tsc_us(rdtsc() - start);
    CHECK(ticks >= 20);
    CHECK(us >= 14000);
    irq_off();
    CHECK_EQ(pic_read(MASTER, 0x0b), 0);
    pit_set(0, 0, 59659); /* 50 ms; nothing of the periodic mode stays pending */
    pic_init(3);
    outb(MASTER + 1, 0xfe);
    ticks = 0;
    start = rdtsc();
    irq_on();
    while (!ticks && tsc_us(rdtsc() - start) < 1000000) {
        __asm__ volatile("pause");
    }
    delay_us(5000);
    irq_off();
    CHECK_EQ(ticks, 1); /* mode 0 ends with one edge */
    CHECK_EQ(pit_status(0) & 0x80, 0x80);
    outb(MASTER + 1, 0xff);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    mmio_write(LAPIC + 0xf0, 0x1ff);
    mmio_write(LAPIC + 0x350, 0x700);
    for (u32 i = 0; i < 16; i++) {
        irq_handler((u8)(BASE + i), on_irq);
    }
    delivery();
    masks();
    level();
    poll_mode();
    special();
    pit_one_shot();
    pit_modes();
    pit_interrupts();
}
