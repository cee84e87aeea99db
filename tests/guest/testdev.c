/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's pc-testdev and isa-debug-exit, as kernel test suites use them. */
#include "lib/guest.h"

#define MEMORY 0xff000000ull

static void ports(void) {
    outl(0xe0, 0x12345678);
    CHECK_EQ(inl(0xe0), 0x12345678);
    CHECK_EQ(inw(0xe0), 0x5678);
    CHECK_EQ(inb(0xe0), 0x78);
    outw(0xe0, 0xabcd);
    CHECK_EQ(inl(0xe0) & 0xffff, 0xabcd);
    outb(0xe0, 0x42);
    CHECK_EQ(inb(0xe0), 0x42);
    outb(0xe8, 0x99);
    CHECK_EQ(inb(0xe8), 0x99);
    outl(0xe4, 0x1000); /* "flush the page": nothing is seen of it */
}

static void strings(void) {
    static u32 from[4] = {1, 2, 3, 0x04030201}, to[4];
    u32 *s = from, *d = to;
    u64 n = 4;
    __asm__ volatile("rep outsl" : "+S"(s), "+c"(n) : "d"(0xe0) : "memory");
    CHECK_EQ(inl(0xe0), 0x04030201);
    n = 4;
    __asm__ volatile("rep insl" : "+D"(d), "+c"(n) : "d"(0xe0) : "memory");
    CHECK_EQ(to[0], 0x04030201);
    CHECK_EQ(to[3], 0x04030201);
    CHECK_EQ((u64)d, (u64)(to + 4));
}

static void memory(void) {
    volatile u8 *b = (volatile u8 *)MEMORY;
    volatile u16 *w = (volatile u16 *)MEMORY;
    volatile u32 *l = (volatile u32 *)MEMORY;
    volatile u64 *q = (volatile u64 *)MEMORY;
    *q = 0x1122334455667788ull;
    CHECK_EQ(*q, 0x1122334455667788ull);
    CHECK_EQ(l[1], 0x11223344);
    CHECK_EQ(w[1], 0x5566);
    CHECK_EQ(b[7], 0x11);
    b[3] = 0xee;
    CHECK_EQ(*l, 0xee667788);
    *(volatile u32 *)(MEMORY + 6) = 0xcafebabe; /* not aligned */
    CHECK_EQ(*(volatile u32 *)(MEMORY + 6), 0xcafebabe);
    l[8] = 10; /* read-modify-write and comparisons on a device */
    __asm__ volatile("addl $5, %0" : "+m"(l[8]));
    CHECK_EQ(l[8], 15);
    __asm__ volatile("lock xaddl %1, %0" : "+m"(l[8]) : "r"(3));
    CHECK_EQ(l[8], 18);
    u32 old = 7;
    __asm__ volatile("xchgl %1, %0" : "+m"(l[8]), "+r"(old));
    CHECK_EQ(old, 18);
    CHECK_EQ(l[8], 7);
    u8 zero;
    __asm__ volatile("cmpl $7, %1; setz %0" : "=r"(zero) : "m"(l[8]));
    CHECK_EQ(zero, 1);
    static u8 text[40] = "a string that goes to a device, copied";
    void *to = (void *)MEMORY, *from = text;
    u64 n = sizeof(text);
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    CHECK_EQ(memcmp((void *)MEMORY, text, sizeof(text)), 0);
    __asm__ volatile("movdqu (%0), %%xmm0\n movdqu %%xmm0, 64(%0)" ::"r"(MEMORY) : "memory");
    CHECK_EQ(memcmp((void *)(MEMORY + 64), text, 16), 0);
}

static volatile u32 count;

static void on_line(struct frame *f) {
    (void)f;
    count++;
    mmio_write(LAPIC + 0xb0, 0);
}

static void lines(void) {
    mmio_write(LAPIC + 0xf0, 0x1ff);
    irq_handler(0x52, on_line);
    static const u8 free_lines[] = {5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    u32 usable = loose_chips ? 3 : sizeof(free_lines); /* QEMU has sixteen lines */
    for (u32 i = 0; i < usable; i++) {
        u32 n = free_lines[i];
        ioapic_write(0x11 + n * 2, 0);
        ioapic_write(0x10 + n * 2, 0x52);
        outb((u16)(0x2000 + n), 1);
        irq_on();
        delay_us(50);
        irq_off();
        outb((u16)(0x2000 + n), 0);
        ioapic_write(0x10 + n * 2, 1 << 16);
        CHECK_EQ(count, i + 1);
    }
}

/* Nothing there: all ones, and writes vanish. */
static void nothing(void) {
    CHECK_EQ(inb(0x3333), 0xff);
    CHECK_EQ(inw(0x3333), 0xffff);
    CHECK_EQ(inl(0x3334), 0xffffffff);
    outl(0x3334, 1);
    CHECK_EQ(*(volatile u32 *)0xd0000000, 0xffffffff);
    *(volatile u32 *)0xd0000000 = 0;
    CHECK_EQ(*(volatile u64 *)0xd0000000, ~0ull);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    ports();
    strings();
    memory();
    lines();
    nothing();
}
