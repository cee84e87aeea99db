/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors: start-up, locked operations, inter-processor interrupts, code written by one
 * processor and run by another (SDM vol. 3, sections 8.1, 8.4, 10.6). Run with --cpus 4.
 */
#include "lib/guest.h"

enum { ROUNDS = 20000, IPI_VECTOR = 0x50, NMI = 2 };

static volatile u32 phase, arrived, ipis, nmis;
static u32 counter, cpus;
static u64 wide[2] __attribute__((aligned(16)));
static u8 code[64] __attribute__((aligned(64)));
static volatile u32 code_version, code_seen[65], code_wrong;

static void on_ipi(struct frame *f) {
    (void)f;
    __atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
    mmio_write(LAPIC + 0xb0, 0);
}

static void on_nmi(struct frame *f) {
    (void)f;
    __atomic_fetch_add(&nmis, 1, __ATOMIC_SEQ_CST);
}

static void barrier(u32 next) {
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    while (phase < next) {
        __asm__ volatile("pause");
    }
}

static void release(u32 next) {
    while (arrived < cpus - 1) {
        __asm__ volatile("pause");
    }
    arrived = 0;
    phase = next;
}

static void count(void) {
    for (int i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incl %0" : "+m"(counter));
        /* cmpxchg16b: both halves advance together or not at all */
        u64 lo = wide[0], hi = wide[1];
        u8 ok;
        do {
            __asm__ volatile("lock cmpxchg16b %1; sete %0"
                             : "=q"(ok), "+m"(wide), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 2));
        } while (!ok);
    }
}

/* mov eax, version; ret */
static u32 run_code(void) {
    return ((u32(*)(void))code)();
}

static void watch_code(u32 index) {
    u32 version = 0;
    while (version < 50) {
        u32 announced = code_version;
        __asm__ volatile("cpuid" : : "a"(0), "c"(0) : "ebx", "edx", "memory"); /* serialise */
        version = run_code();
        if (version < announced) {
            __atomic_fetch_add(&code_wrong, 1, __ATOMIC_SEQ_CST);
        }
        code_seen[index] = version;
    }
}

void ap_main(u32 index) {
    mmio_write(LAPIC + 0xf0, 0x1ff);
    barrier(1);
    count();
    barrier(2);
    irq_on();
    barrier(3);
    irq_off();
    watch_code(index);
    barrier(4);
    for (;;) {
        __asm__ volatile("hlt");
    }
}

static void write_code(u32 version) {
    memcpy(code + 1, &version, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    code_version = version;
    for (u32 i = 1; i < cpus; i++) {
        u64 end = rdtsc() + tsc_hz() * 5;
        while (code_seen[i] < version && rdtsc() < end) {
            __asm__ volatile("pause");
        }
        CHECK_EXACT(code_seen[i] >= version);
    }
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    irq_handler(IPI_VECTOR, on_ipi);
    irq_handler(NMI, on_nmi);
    code[0] = 0xb8;
    code[5] = 0xc3;
    cpus = ap_boot() + 1;
    print("%u processors\n", cpus);
    CHECK(cpus > 1);
    if (cpus == 1) {
        return;
    }
    release(1);
    count();
    release(2);
    CHECK_EQ(counter, cpus * ROUNDS);
    CHECK_EQ(wide[0], (u64)cpus * ROUNDS);
    CHECK_EQ(wide[1], (u64)cpus * ROUNDS * 2);
    delay_us(1000);
    mmio_write(LAPIC + 0x300, 0xc4000 | IPI_VECTOR);
    mmio_write(LAPIC + 0x300, 0xc4400); /* NMI */
    delay_us(200000);
    CHECK_EQ(ipis, cpus - 1);
    CHECK_EQ(nmis, cpus - 1);
    release(3);
    for (u32 v = 1; v <= 50; v++) {
        write_code(v);
    }
    release(4);
    CHECK_EXACT(code_wrong == 0);
}
