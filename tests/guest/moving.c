/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that is saved, restored and moved to another engine while it works (tests/snapshot,
 * tests/kvm): a pattern in memory that is checked and changed each round, timer interrupts that
 * must come, a TSC that must not go back, vector and segment registers that must stay, other
 * processors that count. It says "beat N"; with "brief" on the command line so often that
 * there is time to move it, with "long" until it is ended.
 */
#include "lib/guest.h"

enum {
    ROUNDS = 10,
    ROUNDS_BRIEF = 120,
    ROUNDS_LONG = 1000000,
    WORDS = 0x20000,
    TIMER_VECTOR = 0x40,
    EOI = 0xb0,
    SVR = 0xf0,
    LVT_TIMER = 0x320,
    TIMER_INITIAL = 0x380,
    TIMER_DIVIDE = 0x3e0,
    PERIODIC = 1 << 17,
    TICKS_PER_BEAT = 5,
    PATIENCE = 2000,
};

static u64 pattern[WORDS];
static volatile u32 ticks;
static volatile u64 counts[64];

static void on_tick(struct frame *f) {
    (void)f;
    ticks++;
    mmio_write(LAPIC + EOI, 0);
}

void ap_main(u32 index) {
    for (;;) {
        counts[index & 63]++;
        __asm__ volatile("pause");
    }
}

static u64 word(u32 i, u32 round) {
    return (i * 0x9e3779b97f4a7c15ull) ^ round;
}

static u32 wrong_words(u32 round) {
    u32 wrong = 0;
    for (u32 i = 0; i < WORDS; i++) {
        wrong += pattern[i] != word(i, round);
        pattern[i] = word(i, round + 1);
    }
    return wrong;
}

static bool plain; /* "plain" on the command line: not every KVM emulates vector instructions */

static u64 vector_set(u64 v) {
    if (plain) {
        return v;
    }
    __asm__ volatile("movq %0, %%xmm7" ::"r"(v));
    return v;
}

static u64 vector_get(u64 want) {
    u64 v = want;
    if (plain) {
        return v;
    }
    __asm__ volatile("movq %%xmm7, %0" : "=r"(v));
    return v;
}

/* Each of the others counts on, sooner or later: the host may be busy. */
static bool others_count(u64 *was, u32 others) {
    u32 from = ticks;
    bool all = true;
    for (u32 i = 1; i <= others; i++) {
        while (counts[i] == was[i] && ticks - from < PATIENCE) {
            __asm__ volatile("sti; hlt");
        }
        all = all && counts[i] != was[i];
        was[i] = counts[i];
    }
    return all;
}

static void beat(u32 round, u64 *tsc, u64 *was, u32 others) {
    u32 from = ticks;
    u64 v = vector_set(0x123456789abcdefull * (round + 1));
    while (ticks - from < TICKS_PER_BEAT) {
        __asm__ volatile("sti; hlt");
    }
    u64 now = rdtsc();
    u32 wrong = wrong_words(round) ? 1 : 0;
    wrong |= now <= *tsc ? 2 : 0;
    wrong |= vector_get(v) != v ? 4 : 0;
    wrong |= rdmsr(0xc0000102) != 0x12345000 ? 8 : 0;
    wrong |= others_count(was, others) ? 0 : 16;
    if (wrong) {
        print("round %u: wrong %x (1 memory, 2 TSC, 4 vectors, 8 an MSR, 16 processors), TSC %lx "
              "after %lx\n",
              round, wrong, now, *tsc);
        CHECK_EQ(wrong, 0);
    }
    *tsc = now;
    print("beat %u\n", round + 1);
}

void guest_main(u64 mb_info) {
    static u64 was[64];
    u64 tsc = 0;
    u32 rounds = cmdline_has(mb_info, "long")    ? ROUNDS_LONG
                 : cmdline_has(mb_info, "brief") ? ROUNDS_BRIEF
                                                 : ROUNDS;
    plain = cmdline_has(mb_info, "plain");
    u32 others = ap_boot();
    WRITE_CR(4, READ_CR(4) | 0x600); /* OSFXSR, OSXMMEXCPT */
    wrmsr(0xc0000102, 0x12345000);   /* KERNEL_GS_BASE */
    irq_handler(TIMER_VECTOR, on_tick);
    mmio_write(LAPIC + SVR, 0x1ff);
    mmio_write(LAPIC + TIMER_DIVIDE, 0xb);
    mmio_write(LAPIC + LVT_TIMER, TIMER_VECTOR | PERIODIC);
    mmio_write(LAPIC + TIMER_INITIAL, 10000000); /* 10 ms at 1 GHz */
    for (u32 i = 0; i < WORDS; i++) {
        pattern[i] = word(i, 0);
    }
    for (u32 round = 0; round < rounds; round++) {
        beat(round, &tsc, was, others);
    }
    CHECK(ticks >= rounds * TICKS_PER_BEAT);
}
