/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 state of threads that take turns on the same processors: each fills XMM or YMM
 * registers, the x87 stack, control words and MXCSR with its own values, gives up the processor in
 * various ways, and looks whether they are still there.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>
#include <sys/syscall.h>

enum { THREADS = 6 };

static _Atomic u64 rounds;

#define ALL(op)                                                                                    \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) \
        op(15)
#define LOAD_Y(n)  "vmovdqu " #n "*32(%0), %%ymm" #n "\n\t"
#define STORE_Y(n) "vmovdqu %%ymm" #n ", " #n "*32(%1)\n\t"
#define LOAD_X(n)  "movdqu " #n "*32(%0), %%xmm" #n "\n\t"
#define STORE_X(n) "movdqu %%xmm" #n ", " #n "*32(%1)\n\t"

/* In one piece of assembly: nothing but the system call comes in between. */
#define ROUND(load, store)                                                                         \
    __asm__ volatile(                                                                              \
        "ldmxcsr (%4)\n\t"                                                                         \
        "fninit; fldcw 4(%4); fldt (%2); fldt 16(%2); fldt 32(%2)\n\t" ALL(                        \
            load) "mov %5, %%eax\n\t"                                                              \
                  "syscall\n\t" ALL(store) "fstpt 32(%3); fstpt 16(%3); fstpt (%3)\n\t"            \
                                           "stmxcsr 8(%4); fnstcw 12(%4); fninit\n\t" ::"r"(in),   \
        "r"(out), "r"(fin), "r"(fout), "r"(words), "m"(call)                                       \
        : "rax", "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",     \
          "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

__attribute__((target("avx2"), noinline)) static void
round_avx(const u8 *in, u8 *out, const u8 *fin, u8 *fout, u32 *words, u32 call) {
    ROUND(LOAD_Y, STORE_Y);
    __asm__ volatile("vzeroupper");
}

__attribute__((noinline)) static void round_sse(const u8 *in, u8 *out, const u8 *fin, u8 *fout,
                                                u32 *words, u32 call) {
    ROUND(LOAD_X, STORE_X);
}

static void *thread(void *arg) {
    u64 seed = rnd_seed() + (u64)(uintptr_t)arg;
    bool avx = __builtin_cpu_supports("avx2") && ((u64)(uintptr_t)arg & 1);
    u32 normal;
    __asm__ volatile("stmxcsr %0" : "=m"(normal));
    while (stress_more()) {
        u8 in[512], out[512] = {0}, fin[48] = {0}, fout[48] = {0};
        for (u32 i = 0; i < sizeof(in); i += 8) {
            u64 v = rnd_step(&seed);
            memcpy(in + i, &v, 8);
        }
        for (u32 i = 0; i < 3; i++) {
            long double v = (long double)rnd_step(&seed) / 3.0L;
            memcpy(fin + 16 * i, &v, 10);
        }
        u32 rounding = (u32)(rnd_step(&seed) & 3);
        u32 words[4] = {0x1f80 | rounding << 13, 0x37f | rounding << 10, 0, 0};
        u32 kind = (u32)(rnd_step(&seed) % 4);
        u32 call = kind == 0 ? SYS_sched_yield : kind == 1 ? SYS_getppid : SYS_gettid;
        if (kind == 3) {
            struct timespec t = {0, 1000};
            nanosleep(&t, NULL);
        }
        (avx ? round_avx : round_sse)(in, out, fin, fout, words, call);
        __asm__ volatile("ldmxcsr %0" ::"m"(normal));
        for (u32 i = 0; i < 16; i++) {
            CHECK(memcmp(in + 32 * i, out + 32 * i, avx ? 32 : 16) == 0);
        }
        for (u32 i = 0; i < 3; i++) {
            CHECK(memcmp(fin + 16 * i, fout + 16 * i, 10) == 0);
        }
        CHECK_EQ(words[2], words[0]);
        CHECK_EQ(words[3] & 0xffff, words[1]);
        rounds++;
    }
    return NULL;
}

int main(void) {
    pthread_t t[THREADS];
    stress_begin();
    for (u64 i = 0; i < THREADS; i++) {
        t[i] = start(thread, (void *)(uintptr_t)i);
    }
    for (u32 i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
    }
    return stress_done("vector and x87 state", rounds);
}
