/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests/gdb debugs: functions to stop in, variables to watch, an alias to read memory by,
 * vector registers with known contents, processors that count. Without a debugger it runs through.
 */
#include "lib/guest.h"

volatile u32 hold, rounds = 3;
volatile u64 watched, stored_sum, ap_counts[65];
u8 pattern[32] __attribute__((aligned(32)));
static bool has_avx;

__attribute__((noinline)) void gdb_ready(void) {
    __asm__ volatile("nop");
}

__attribute__((noinline)) void gdb_marker(u64 n) {
    __asm__ volatile("nop\n nop" ::"r"(n));
    stored_sum += n;
}

__attribute__((noinline)) void gdb_store(u64 v) {
    watched = v;
    __asm__ volatile("nop");
    stored_sum += watched; /* a read */
}

__attribute__((noinline)) void gdb_steps(void) {
    __asm__ volatile(
        ".globl gdb_step0\n gdb_step0: mov $1, %%eax\n mov $2, %%ecx\n add %%ecx, %%eax\n"
        "push %%rax\n pop %%rdx\n" ::
            : "rax", "rcx", "rdx", "cc");
}

__attribute__((noinline)) void gdb_vector(void) {
    __asm__ volatile("movdqa (%0), %%xmm1" ::"r"(pattern));
    if (has_avx) {
        __asm__ volatile("vmovdqa (%0), %%ymm2" ::"r"(pattern));
    }
    __asm__ volatile(".globl gdb_vector_at\n gdb_vector_at: nop");
}

void ap_main(u32 index) {
    for (;;) {
        ap_counts[index]++;
        __asm__ volatile("pause");
    }
}

static void avx_on(void) {
    u32 r[4];
    cpuid(1, 0, r);
    has_avx = r[2] >> 28 & 1;
    if (has_avx) {
        WRITE_CR(4, READ_CR(4) | 1 << 18);
        __asm__ volatile("xsetbv" ::"a"(7), "c"(0), "d"(0));
    }
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    avx_on();
    for (u32 i = 0; i < 32; i++) {
        pattern[i] = (u8)(0x10 + i);
    }
    memcpy(spare_page[0], "read by its virtual address", 28);
    map_page(0x40000000, (u64)spare_page[0], 3);
    ap_boot();
    gdb_ready();
    for (u32 i = 0; i < rounds; i++) {
        gdb_marker(i);
    }
    gdb_store(5);
    gdb_store(6);
    gdb_steps();
    gdb_vector();
    while (hold) {
        __asm__ volatile("pause");
    }
    CHECK_EQ(stored_sum, 3 + 11); /* gdb changes nothing but what it says */
}
