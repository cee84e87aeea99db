/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FS and GS in a 64-bit program: bases by arch_prctl and WRGSBASE, negative offsets, 32-bit address
 * size, all kinds of instructions with the override, a base of each thread's own over context
 * switches, non-canonical addresses; and a far call into 32-bit code and back.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <asm/prctl.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

enum { THREADS = 4 };

static _Atomic u64 rounds;
static __thread sigjmp_buf back;
static __thread volatile u32 trap;

static void on_fault(int sig, siginfo_t *info, void *ctx) {
    (void)sig;
    (void)info;
    trap = (u32)((ucontext_t *)ctx)->uc_mcontext.gregs[REG_TRAPNO];
    siglongjmp(back, 1);
}

static void base_set(u64 base, bool direct) {
    if (direct) {
        __asm__ volatile("wrgsbase %0" ::"r"(base));
    } else {
        NEED(syscall(SYS_arch_prctl, ARCH_SET_GS, base) == 0);
    }
}

static void accesses(u8 *area, u64 *seed, bool direct) {
    u64 mid = (u64)(uintptr_t)area + PAGE;
    base_set(mid, direct);
    for (u32 i = 0; i < 30; i++) {
        s64 at = (s64)(rnd_step(seed) % 4000) - 2000;
        u64 v = rnd_step(seed), got, sum = v;
        u32 low;
        __asm__ volatile("mov %2, %%gs:(%3)\n\t"
                         "add %%gs:(%3), %1\n\t"
                         "lock addq $3, %%gs:(%3)\n\t"
                         "push %%gs:(%3); pop %0\n\t"
                         : "=&r"(got), "+r"(sum)
                         : "r"(v), "r"(at)
                         : "memory", "cc");
        CHECK_EQ(got, v + 3);
        CHECK_EQ(sum, 2 * v);
        memcpy(&got, (u8 *)(uintptr_t)mid + at, 8);
        CHECK_EQ(got, v + 3);
        if (at >= 0) { /* addr32: the offset is cut, not the sum */
            __asm__ volatile("mov %%gs:(%k1), %0" : "=r"(low) : "r"(at | (s64)0x7700000000));
            CHECK_EQ(low, (u32)(v + 3));
        }
        __asm__ volatile("movq %%gs:(%1), %%xmm0; movq %%xmm0, %0" : "=r"(got) : "r"(at) : "xmm0");
        CHECK_EQ(got, v + 3);
    }
}

static void strings(u8 *area, u64 *seed) {
    u8 *to = area + 2 * PAGE;
    u64 n = rnd_step(seed) % 300, count = n;
    s64 from = 64;
    for (u32 i = 0; i < 400; i++) {
        area[PAGE + 64 + i] = (u8)rnd_step(seed);
    }
    u8 *end = to;
    __asm__ volatile("cld; rep movsb %%gs:(%%rsi), %%es:(%%rdi)"
                     : "+S"(from), "+D"(end), "+c"(count)::"memory");
    CHECK_EQ(from, 64 + n);
    CHECK(memcmp(to, area + PAGE + 64, n) == 0);
}

static void wild(void) {
    base_set(0, false);
    if (!sigsetjmp(back, 1)) {
        __asm__ volatile("mov %%gs:(%0), %%rax" ::"r"(0x800000000000u) : "rax");
        BAD("non-canonical address read");
    } else {
        CHECK_EQ(trap, 13);
    }
}

/* 32-bit code below 4 GiB: mov eax, ss:[ebx]; inc eax; push eax; pop ecx; retf */
static void code_32(u8 *low, u64 *seed) {
    static const u8 code[] = {0x36, 0x8b, 0x03, 0x40, 0x50, 0x59, 0xcb};
    struct {
        u32 offset;
        u16 sel;
    } __attribute__((packed)) to = {(u32)(uintptr_t)low, 0x23};
    u32 v = (u32)rnd_step(seed), a = 0, c = 0, *stack_top = (void *)(low + 3 * PAGE);
    memcpy(low, code, sizeof(code));
    memcpy(low + 256, &v, 4);
    u64 keep;
    for (u32 i = 0; i < 30; i++) {
        __asm__ volatile("mov %%rsp, %[keep]; mov %[top], %%rsp; lcall *(%[to]); mov %[keep], %%rsp"
                         : "=a"(a), "=c"(c), [keep] "=&r"(keep)
                         : "b"(low + 256), [to] "S"(&to), [top] "D"(stack_top)
                         : "memory", "cc", "rdx", "r8", "r9", "r10", "r11");
        CHECK_EQ(a, v + 1);
        CHECK_EQ(c, v + 1);
    }
}

static void *thread(void *arg) {
    u64 seed = rnd_seed() + (u64)(uintptr_t)arg;
    bool direct = getauxval(AT_HWCAP2) & 2;
    u8 *area = map_pages(4, PROT_READ | PROT_WRITE);
    u8 *low = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    NEED(low != MAP_FAILED);
    own_signal_stack();
    while (stress_more()) {
        accesses(area, &seed, direct && (seed & 1));
        sched_yield();
        u64 base;
        NEED(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0);
        CHECK_EQ(base, area + PAGE);
        strings(area, &seed);
        code_32(low, &seed);
        base_set((u64)(uintptr_t)area + PAGE, false);
        wild();
        rounds++;
    }
    return NULL;
}

int main(void) {
    pthread_t t[THREADS];
    stress_begin();
    on_signal(SIGSEGV, on_fault);
    for (u64 i = 0; i < THREADS; i++) {
        t[i] = start(thread, (void *)(uintptr_t)i);
    }
    for (u32 i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
    }
    return stress_done("FS and GS", rounds);
}
