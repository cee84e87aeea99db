/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions and data over the end of a page: every split of several instructions, with the
 * second page missing at first; loads, stores, read-modify-writes and locked operations of 2 to 32
 * bytes at every offset, with the second page missing or read-only, when nothing at all may have
 * been written.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <immintrin.h>
#include <setjmp.h>

static u8 *code, *data;
static u64 rounds, rnd;
static volatile u64 fault_addr, faults;
static sigjmp_buf back;
static volatile bool repair; /* the second page of code appears at the first fault */

static void on_segv(int sig, siginfo_t *info, void *ctx) {
    (void)sig;
    (void)ctx;
    fault_addr = (u64)(uintptr_t)info->si_addr;
    faults++;
    if (repair) {
        mprotect(code + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
        repair = false;
        return;
    }
    siglongjmp(back, 1);
}

/* --- instructions
 * ---------------------------------------------------------------------------------- */

struct sample {
    u8 len, bytes[12];
};

/* Each works on RAX, RDI (a pointer) and XMM0. */
static const struct sample samples[] = {
    {10, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}},             /* mov rax, imm64 */
    {7, {0x48, 0x81, 0xc0, 0x44, 0x33, 0x22, 0x11}},        /* add rax, imm32 */
    {7, {0x48, 0x8b, 0x87, 0x10, 0, 0, 0}},                 /* mov rax, [rdi + 16] */
    {8, {0xf0, 0x48, 0x01, 0x87, 8, 0, 0, 0}},              /* lock add [rdi + 8], rax */
    {4, {0x48, 0xc1, 0xc0, 13}},                            /* rol rax, 13 */
    {5, {0xf3, 0x0f, 0x6f, 0x47, 0x20}},                    /* movdqu xmm0, [rdi + 32] */
    {11, {0x48, 0xc7, 0x87, 0x18, 0, 0, 0, 9, 9, 9, 0x79}}, /* mov [rdi + 24], imm32 */
    {2, {0xeb, 0x00}},                                      /* jmp to the next */
    {6, {0x0f, 0x84, 0, 0, 0, 0}},                          /* jz to the next */
    {4, {0x66, 0x0f, 0x6e, 0xc0}},                          /* movd xmm0, eax */
    {2, {0xd9, 0xe8}},                                      /* fld1 */
    {2, {0xdd, 0xd8}},                                      /* fstp st0 */
    {3, {0x48, 0xf7, 0xd8}},                                /* neg rax */
    {2, {0x0f, 0xa2}},                                      /* cpuid */
};

static u64 run_code(u8 *at, u64 rax, u64 *mem) {
    __asm__ volatile("call *%[at]"
                     : "+a"(rax)
                     : [at] "S"(at), "D"(mem)
                     : "rbx", "rcx", "rdx", "xmm0", "memory", "cc");
    return rax;
}

static u32 put_sequence(u8 *w, const u32 *which, u32 n) {
    u32 len = 0;
    for (u32 i = 0; i < n; i++) {
        memcpy(w + len, samples[which[i]].bytes, samples[which[i]].len);
        len += samples[which[i]].len;
    }
    w[len++] = 0xc3;
    return len;
}

static void instructions(u64 end) {
    enum { COUNT = sizeof(samples) / sizeof(*samples), SEQUENCE = 6 };
    while (now_ns() < end && !stress_bad) {
        u32 which[SEQUENCE];
        for (u32 i = 0; i < SEQUENCE; i++) {
            which[i] = (u32)(rnd_step(&rnd) % COUNT);
        }
        which[0] = 0;
        /* fld1 and fstp must not meet a full or empty stack: keep them out but in pairs */
        for (u32 i = 0; i < SEQUENCE; i++) {
            which[i] = which[i] == 11 ? 12 : which[i];
            if (which[i] == 10) {
                which[i] = i + 1 < SEQUENCE ? 10 : 12;
                if (i + 1 < SEQUENCE) {
                    which[++i] = 11;
                }
            }
            which[i] = which[i] == 13 && i > 1 ? 4 : which[i];
        }
        u64 mem[2][8];
        u32 len = put_sequence(code, which, SEQUENCE);
        for (u32 i = 0; i < 8; i++) {
            mem[0][i] = mem[1][i] = rnd_step(&rnd);
        }
        u64 want = run_code(code, 5, mem[0]);
        for (u32 split = 1; split < len && split < 40; split++) {
            u8 *at = code + PAGE - split;
            u32 runs = rnd_step(&rnd) % 8 ? 1 : 40;
            put_sequence(at, which, SEQUENCE);
            mprotect(code + PAGE, PAGE, PROT_NONE);
            repair = true;
            u64 before = faults;
            u64 got = run_code(at, 5, mem[1]);
            CHECK_EQ(faults, before + 1);
            CHECK_EQ(fault_addr, code + PAGE);
            CHECK_EQ(got, want);
            for (u32 i = 0; i < 8; i++) {
                CHECK_EQ(mem[1][i], mem[0][i]);
            }
            for (u32 k = 0; k < runs; k++) {
                run_code(at, 5, mem[1]);
            }
            for (u32 k = 0; k < runs + 1; k++) { /* as often as the other */
                run_code(code, 5, mem[0]);
            }
            memcpy(mem[1], mem[0], sizeof(mem[0]));
            put_sequence(code, which, SEQUENCE);
            want = run_code(code, 5, mem[0]);
            rounds++;
        }
    }
}

/* --- data
 * -------------------------------------------------------------------------------------------- */

#define ACCESS(name, body)                                                                         \
    __attribute__((noinline, target("avx2"))) static void name(u8 *p) {                            \
        body;                                                                                      \
    }

ACCESS(st16, __asm__ volatile("movw $0x1234, (%0)" ::"r"(p) : "memory"))
ACCESS(st32, __asm__ volatile("movl $0x12345678, (%0)" ::"r"(p) : "memory"))
ACCESS(st64, __asm__ volatile("movq %1, (%0)" ::"r"(p), "r"(0x123456789abcdefu) : "memory"))
ACCESS(rmw64, __asm__ volatile("addq $0x1234567, (%0)" ::"r"(p) : "memory", "cc"))
ACCESS(lock64, __asm__ volatile("lock; subq $0x7654321, (%0)" ::"r"(p) : "memory", "cc"))
ACCESS(xchg32, __asm__ volatile("xchgl %1, (%0)" ::"r"(p), "r"(77) : "memory"))
ACCESS(push64, __asm__ volatile("xchg %%rsp, %0; push $-5; xchg %%rsp, %0" ::"r"(p + 8) : "memory"))
ACCESS(sse, __asm__ volatile("movups %%xmm1, (%0)" ::"r"(p) : "memory"))
ACCESS(fst80, __asm__ volatile("fldpi; fstpt (%0)" ::"r"(p) : "memory"))
ACCESS(movs, __asm__ volatile(
                 "mov %0, %%rdi; lea samples(%%rip), %%rsi; mov $9, %%ecx; rep movsb" ::"r"(p)
                 : "memory", "rdi", "rsi", "rcx"))
ACCESS(cx16, __asm__ volatile("cmpxchg %1, (%0)" ::"r"(p), "r"(0x5555aaaa5555aaaau), "a"(0)
                              : "memory", "cc"))
ACCESS(avx, __asm__ volatile("vmovups %%ymm1, (%0); vzeroupper" ::"r"(p) : "memory"))

static const struct {
    void (*fn)(u8 *p);
    u8 size;
    bool partial; /* bytes in front of the fault may be written: processors do with FSTP and MOVS */
    bool avx;
} accesses[] = {{st16, 2, 0, 0},   {st32, 4, 0, 0},   {st64, 8, 0, 0},   {rmw64, 8, 0, 0},
                {lock64, 8, 0, 0}, {xchg32, 4, 0, 0}, {push64, 8, 0, 0}, {sse, 16, 0, 0},
                {fst80, 10, 1, 0}, {movs, 9, 1, 0},   {cx16, 8, 0, 0},   {avx, 32, 0, 1}};

static void fill(void) {
    for (u32 i = 0; i < 2 * PAGE; i++) {
        data[i] = (u8)(i * 7 + (i >> 8));
    }
}

static void access_once(u32 n, u32 before, int prot) {
    u8 image[128], *p = data + PAGE - before, *from = data + PAGE - 64;
    volatile u32 runs = rnd_step(&rnd) % 16 ? 1 : 30;
    memcpy(image, from, sizeof(image));
    mprotect(data + PAGE, PAGE, prot);
    for (volatile u32 k = 0; k < runs; k++) {
        u64 old = faults;
        if (!sigsetjmp(back, 1)) {
            accesses[n].fn(p);
        } else {
            __asm__ volatile("fninit");
        }
        CHECK_EQ(faults, old + 1);
        CHECK_EQ(fault_addr, data + PAGE);
    }
    mprotect(data + PAGE, PAGE, PROT_READ | PROT_WRITE);
    if (!accesses[n].partial) {
        if (memcmp(from, image, sizeof(image))) {
            BAD("access %u, %u bytes before the page's end: partly done", n, before);
        }
    }
    /* whole, and the same as within a page */
    memcpy(data + 512, from, sizeof(image));
    accesses[n].fn(data + 512 + 64 - before);
    accesses[n].fn(p);
    if (memcmp(from, data + 512, sizeof(image))) {
        BAD("access %u, %u bytes before the page's end", n, before);
    }
    rounds++;
}

static void accesses_all(u64 end) {
    bool has_avx = __builtin_cpu_supports("avx2");
    while (now_ns() < end && !stress_bad) {
        fill();
        for (u32 n = 0; n < sizeof(accesses) / sizeof(*accesses); n++) {
            for (u32 before = 1; before < accesses[n].size && (has_avx || !accesses[n].avx);
                 before++) {
                access_once(n, before, rnd_step(&rnd) & 1 ? PROT_READ : PROT_NONE);
            }
        }
    }
}

int main(void) {
    stress_begin();
    rnd = rnd_seed();
    own_signal_stack();
    on_signal(SIGSEGV, on_segv);
    code = map_pages(3, PROT_READ | PROT_WRITE | PROT_EXEC);
    data = map_pages(3, PROT_READ | PROT_WRITE);
    instructions(stress_share(0.5));
    accesses_all(stress_end);
    return stress_done("page crossings", rounds);
}
