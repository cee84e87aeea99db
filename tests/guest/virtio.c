/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for virtio-rng on PCI (virtio 1.2, 4.1, 2.7, 5.4): negotiation, a request, its MSI-X
 * interrupt, code written by the device; then rings that no driver would write, after each of which
 * a reset device must work again.
 */
#include "lib/guest.h"

enum { SIZE = 8, VECTOR = 0x54, DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { ACK = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 0x40 };

struct desc {
    u64 address;
    u32 length;
    u16 flags, next;
};

static struct desc table[SIZE] __attribute__((aligned(4096)));
static volatile struct avail {
    u16 flags, index, ring[SIZE], used_event;
} avail __attribute__((aligned(4096)));
static volatile struct used {
    u16 flags, index;
    struct {
        u32 id, length;
    } ring[SIZE];
    u16 avail_event;
} used __attribute__((aligned(4096)));
static u8 buffer[4096] __attribute__((aligned(4096)));

static u64 common, notify;
static u32 bdf, notify_multiplier, msix_cap;
static u64 msix_table;
static volatile u32 interrupts;

#define C8(at)  (*(volatile u8 *)(common + (at)))
#define C16(at) (*(volatile u16 *)(common + (at)))
#define C32(at) (*(volatile u32 *)(common + (at)))

static u64 bar(u32 n) {
    u32 v = pci_read(bdf, 0x10 + n * 4);
    u64 at = v & ~15u;
    return (v & 6) == 4 ? at | (u64)pci_read(bdf, 0x14 + n * 4) << 32 : at;
}

static bool find(void) {
    bdf = pci_find(0x10441af4);
    if (bdf == ~0u) {
        return false;
    }
    pci_write(bdf, 4, 0x406);
    for (u32 at = pci_read(bdf, 0x34) & 0xfc; at; at = pci_read(bdf, at) >> 8 & 0xfc) {
        u32 head = pci_read(bdf, at);
        if ((head & 0xff) == 9) {
            u64 where = bar(pci_read(bdf, at + 4) & 0xff) + pci_read(bdf, at + 8);
            if (head >> 24 == 1) {
                common = where;
            } else if (head >> 24 == 2) {
                notify = where;
                notify_multiplier = pci_read(bdf, at + 16);
            }
        } else if ((head & 0xff) == 0x11) {
            u32 t = pci_read(bdf, at + 4);
            msix_cap = at;
            msix_table = bar(t & 7) + (t & ~7u);
        }
    }
    return common && notify;
}

static bool start(void) {
    C8(20) = 0;
    for (u32 i = 0; C8(20) && i < 100000; i++) {
    }
    CHECK_EQ(C8(20), 0);
    memset((void *)&avail, 0, sizeof(avail));
    memset((void *)&used, 0, sizeof(used));
    memset(table, 0, sizeof(table));
    C8(20) = ACK | DRIVER;
    C32(0) = 1;
    CHECK(C32(4) & 1); /* VIRTIO_F_VERSION_1 */
    C32(8) = 0;
    C32(12) = 0;
    C32(8) = 1;
    C32(12) = 1;
    C8(20) = ACK | DRIVER | FEATURES_OK;
    CHECK_EQ(C8(20), ACK | DRIVER | FEATURES_OK);
    C16(16) = 0xffff;
    C16(22) = 0;
    CHECK(C16(24) >= SIZE);
    C16(24) = SIZE;
    C16(26) = 0; /* vector 0 */
    CHECK_EQ(C16(26), 0);
    C32(32) = (u32)(u64)table;
    C32(36) = 0;
    C32(40) = (u32)(u64)&avail;
    C32(44) = 0;
    C32(48) = (u32)(u64)&used;
    C32(52) = 0;
    C16(28) = 1;
    C8(20) = ACK | DRIVER | FEATURES_OK | DRIVER_OK;
    return C8(20) & DRIVER_OK;
}

static void kick(void) {
    C16(22) = 0;
    *(volatile u16 *)(notify + (u64)C16(30) * notify_multiplier) = 0;
}

static bool wait_used(u16 index, u32 us) {
    u64 end = rdtsc() + tsc_hz() / 1000000 * us;
    irq_on();
    while (used.index != index && rdtsc() < end) {
        __asm__ volatile("pause");
    }
    delay_us(100);
    irq_off();
    return used.index == index;
}

static void request(u32 length) {
    table[0] = (struct desc){(u64)buffer, length, DESC_WRITE, 0};
    avail.ring[avail.index % SIZE] = 0;
    __asm__ volatile("" ::: "memory");
    avail.index++;
    kick();
}

static void on_irq(struct frame *f) {
    (void)f;
    interrupts++;
    mmio_write(LAPIC + 0xb0, 0);
}

static void wait_interrupts(u32 n) {
    u64 end = rdtsc() + tsc_hz();
    irq_on();
    while (interrupts < n && rdtsc() < end) {
        __asm__ volatile("pause");
    }
    irq_off();
}

static void works(bool interrupt) {
    CHECK(start());
    memset(buffer, 0, sizeof(buffer));
    u32 before = interrupts;
    request(64);
    CHECK(wait_used(1, 1000000));
    CHECK_EQ(used.ring[0].id, 0);
    u32 length = used.ring[0].length, sum = 0;
    CHECK(length >= 1 && length <= 64);
    for (u32 i = 0; i < 64; i++) {
        sum += buffer[i] != 0;
    }
    CHECK(sum > 0 && sum <= length);
    CHECK_EQ(buffer[64], 0);
    if (interrupt) {
        wait_interrupts(before + 1);
        CHECK_EQ(interrupts, before + 1);
    }
}

static void msix(void) {
    CHECK(msix_cap != 0);
    mmio_write(msix_table, 0xfee00000);
    mmio_write(msix_table + 4, 0);
    mmio_write(msix_table + 8, VECTOR);
    mmio_write(msix_table + 12, 0);
    CHECK_EQ(mmio_read(msix_table + 8), VECTOR);
    pci_write(bdf, msix_cap, 0x80000000);
    works(true);
    u32 before = interrupts;
    mmio_write(msix_table + 12, 1); /* masked: remembered, sent at the unmasking */
    request(16);
    CHECK(wait_used(2, 1000000));
    CHECK_EQ(interrupts, before);
    mmio_write(msix_table + 12, 0);
    wait_interrupts(before + 1);
    CHECK_EQ(interrupts, before + 1);
}

/* Random bytes go over code that has just run: with length 1 and "mov eax, imm; ret" any byte is
 * seen. */
static void over_code(void) {
    buffer[0] = 0xb8;
    memset(buffer + 1, 0, 4);
    buffer[5] = 0xc3;
    u32 (*code)(void) = (u32(*)(void))buffer;
    CHECK_EQ(code(), 0);
    CHECK(start());
    table[0] = (struct desc){(u64)buffer + 1, 4, DESC_WRITE, 0};
    avail.ring[0] = 0;
    __asm__ volatile("" ::: "memory");
    avail.index = 1;
    kick();
    CHECK(wait_used(1, 1000000));
    u32 v;
    memcpy(&v, buffer + 1, 4);
    CHECK_EQ(code(), v);
}

static void hostile(void) {
    static const struct desc bad[] = {
        {0xffffffffffff0000ull, 64, DESC_WRITE, 0},    /* outside memory */
        {0xfee00000, 64, DESC_WRITE, 0},               /* a device */
        {0x100000, 0xffffffff, DESC_WRITE, 0},         /* too long */
        {0x100000, 0, DESC_WRITE, 0},                  /* empty */
        {0x3fffff0, 4096, DESC_WRITE, 0},              /* leaves memory half way */
        {0xffffffffffffffffull, 2, DESC_WRITE, 0},     /* wraps */
        {0, 64, DESC_WRITE | DESC_NEXT, 0},            /* points at itself */
        {0, 64, DESC_WRITE | DESC_NEXT, 0xffff},       /* beyond the table */
        {0, 64, 0, 0},                                 /* not for the device to write */
        {0, 16, DESC_INDIRECT, 0},                     /* not negotiated */
        {0xfffffffffffffff0ull, 16, DESC_INDIRECT, 0}, /* and outside */
        {0, 64, 0xffff, 1},
    };
    for (u32 i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        start();
        table[0] = bad[i];
        if (!table[0].address) {
            table[0].address = (u64)buffer;
        }
        avail.ring[0] = 0;
        __asm__ volatile("" ::: "memory");
        avail.index = 1;
        kick();
        delay_us(200);
        works(true);
    }
    static const u16 indices[] = {SIZE + 1, 0x8000, 0xffff};
    for (u32 i = 0; i < 3; i++) {
        start();
        table[0] = (struct desc){(u64)buffer, 8, DESC_WRITE, 0};
        avail.index = indices[i]; /* more than the ring holds */
        kick();
        delay_us(200);
        works(true);
    }
    start();
    for (u32 i = 0; i < SIZE; i++) {
        avail.ring[i] = (u16)(0xfff0 + i);
    }
    avail.index = SIZE;
    kick();
    works(true);
    static const u64 rings[] = {~0ull, 0xfee00000, 0xfffffff0, 1, 0x4000000 - 2};
    for (u32 i = 0; i < 5; i++) { /* rings in no memory */
        C8(20) = 0;
        C8(20) = ACK | DRIVER;
        C32(8) = 1;
        C32(12) = 1;
        C8(20) = ACK | DRIVER | FEATURES_OK;
        C16(22) = 0;
        for (u32 at = 32; at < 56; at += 8) {
            C32(at) = (u32)rings[i];
            C32(at + 4) = (u32)(rings[i] >> 32);
        }
        C16(24) = 3; /* not a power of two */
        C16(28) = 1;
        C8(20) = ACK | DRIVER | FEATURES_OK | DRIVER_OK;
        kick();
        delay_us(100);
        works(true);
    }
    C16(22) = 77; /* a queue that is not there */
    CHECK_EQ(C16(24), 0);
    C16(28) = 1;
    kick();
    works(true);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    mmio_write(LAPIC + 0xf0, 0x1ff);
    irq_handler(VECTOR, on_irq);
    bool found = find();
    CHECK(found);
    if (found) {
        works(false);
        msix();
        over_code();
        hostile();
    }
}
