/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program (-m32): arithmetic, x87, system calls by INT 80h and through the vDSO, segments
 * of its own (modify_ldt) through FS and GS with base and limit, 16-bit code in a segment, far
 * calls into 64-bit code and back, faults with their registers, threads and fork.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <asm/ldt.h>
#include <math.h>
#include <setjmp.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static u64 rnd, rounds;
static sigjmp_buf back;
static volatile u32 fault_eip, fault_cr2, fault_trap;

static void on_fault(int sig, siginfo_t *info, void *ctx) {
    ucontext_t *u = ctx;
    (void)sig;
    fault_eip = (u32)u->uc_mcontext.gregs[REG_EIP];
    fault_trap = (u32)u->uc_mcontext.gregs[REG_TRAPNO];
    fault_cr2 = (u32)(uintptr_t)info->si_addr;
    siglongjmp(back, 1);
}

/* False when the kernel refuses: some are built without 16-bit segments. */
static bool ldt_set(u32 entry, void *base, u32 limit, bool wide, bool code) {
    struct user_desc d = {.entry_number = entry,
                          .base_addr = (u32)(uintptr_t)base,
                          .limit = limit,
                          .seg_32bit = wide,
                          .contents = code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
                          .useable = 1};
    return syscall(SYS_modify_ldt, 1, &d, sizeof(d)) == 0;
}

static u16 selector(u32 entry) {
    return (u16)(entry << 3 | 7);
}

/* --- data segments
 * -------------------------------------------------------------------------------- */

static u32 load_fs(u16 sel, u32 offset) {
    u32 v;
    __asm__ volatile("push %%fs; mov %1, %%fs; mov %%fs:(%2), %0; pop %%fs"
                     : "=&r"(v)
                     : "r"((u32)sel), "r"(offset));
    return v;
}

static void store_fs(u16 sel, u32 offset, u32 v) {
    __asm__ volatile(
        "push %%fs; mov %0, %%fs; mov %1, %%fs:(%2); lock addl $1, %%fs:(%2); pop %%fs" ::"r"(
            (u32)sel),
        "r"(v), "r"(offset)
        : "memory", "cc");
}

static void data_segments(u8 *area) {
    u32 base = (u32)rnd_step(&rnd) % 3000, limit = (u32)(1000 + rnd_step(&rnd) % 2000);
    NEED(ldt_set(1, area + base, limit, true, false));
    for (u32 i = 0; i < 40; i++) {
        u32 at = (u32)(rnd_step(&rnd) % (limit - 3)), v = (u32)rnd_step(&rnd), got;
        store_fs(selector(1), at, v);
        memcpy(&got, area + base + at, 4);
        CHECK_EQ(got, v + 1);
        CHECK_EQ(load_fs(selector(1), at), v + 1);
    }
    u16 keep;
    __asm__ volatile("mov %%fs, %0" : "=r"(keep));
    volatile u32 over = 0;
    for (volatile u32 at = limit - 3; at < limit + 2; at++) {
        if (!sigsetjmp(back, 1)) {
            load_fs(selector(1), at);
        } else {
            over++;
            CHECK_EQ(fault_trap, 13);
            __asm__ volatile("mov %0, %%fs" ::"r"((u32)keep));
        }
    }
    CHECK_EQ(over, 4); /* limit - 3 still fits */
}

/* --- code segments
 * -------------------------------------------------------------------------------- */

struct far {
    u32 offset;
    u16 sel;
} __attribute__((packed));

/* 16-bit code: add ax, [bx]; rol ax, 3; retf with a 32-bit frame */
static void code_16(u8 *area) {
    static const u8 code[] = {0x03, 0x07, 0xc1, 0xc0, 0x03, 0x66, 0xcb};
    memcpy(area, code, sizeof(code));
    if (!ldt_set(2, area, PAGE - 1, false, true)) {
        return;
    }
    NEED(ldt_set(3, area, PAGE - 1, true, false));
    u16 word = (u16)rnd_step(&rnd);
    memcpy(area + 512, &word, 2);
    struct far to = {0, selector(2)};
    for (u32 i = 0; i < 30; i++) {
        u32 a = (u32)rnd_step(&rnd), in = a;
        __asm__ volatile("push %%ds; mov %2, %%ds; lcall *%%es:(%1); pop %%ds"
                         : "+a"(a)
                         : "r"(&to), "r"((u32)selector(3)), "b"(512)
                         : "memory", "cc");
        u16 want = (u16)(in + word);
        want = (u16)(want << 3 | want >> 13);
        CHECK_EQ(a, (in & 0xffff0000) | want);
    }
}

/* 64-bit code from a 32-bit program: CS 33h is Linux' own. mov rax, rbx shifted; retf */
static void code_64(u8 *area) {
    static const u8 code[] = {0x48, 0xc1, 0xe0, 0x20, /* shl rax, 32 */
                              0x48, 0x01, 0xd8,       /* add rax, rbx */
                              0x49, 0x89, 0xc7,       /* mov r15, rax */
                              0x4c, 0x89, 0xf8,       /* mov rax, r15 */
                              0x48, 0xc1, 0xe8, 0x10, /* shr rax, 16 */
                              0xcb};                  /* retf, 32-bit frame */
    memcpy(area + 1024, code, sizeof(code));
    struct far to = {(u32)(uintptr_t)(area + 1024), 0x33};
    for (u32 i = 0; i < 30; i++) {
        u32 a = (u32)rnd_step(&rnd), b = (u32)rnd_step(&rnd), in = a;
        __asm__ volatile("lcall *(%1)" : "+a"(a) : "r"(&to), "b"(b) : "memory", "cc");
        CHECK_EQ(a, (u32)((((u64)in << 32) + b) >> 16));
    }
}

/* --- computation
 * ----------------------------------------------------------------------------------- */

static u32 hash(const u8 *p, u32 n, u32 h) {
    while (n--) {
        h = (h ^ *p++) * 16777619u;
        h = h << 5 | h >> 27;
    }
    return h;
}

static void arithmetic(void) {
    u64 a = rnd_step(&rnd), b = rnd_step(&rnd) >> 20 | 1;
    u64 q = a / b, r = a % b;
    CHECK(q * b + r == a && r < b);
    double x = (double)(u32)a / 4294967296.0 + 0.1;
    double s = sin(x), c = cos(x), e = exp(log(x)), t = sqrt(x);
    CHECK(fabs(s * s + c * c - 1) < 1e-15);
    CHECK(fabs(e - x) < 1e-14);
    CHECK(fabs(t * t - x) < 1e-15);
    long double y = 0, z = x;
    __asm__("fsin" : "=t"(y) : "0"(z));
    CHECK(fabsl(y - (long double)s) < 1e-15L);
    u8 buf[256], copy[256];
    for (u32 i = 0; i < sizeof(buf); i++) {
        buf[i] = (u8)(a >> (i & 31));
    }
    u32 n = sizeof(buf);
    u8 *from = buf, *to = copy;
    __asm__ volatile("cld; rep movsb" : "+S"(from), "+D"(to), "+c"(n)::"memory");
    CHECK_EQ(hash(copy, sizeof(copy), 1), hash(buf, sizeof(buf), 1));
}

static void system_calls(void) {
    u32 by_int, direct = (u32)getpid();
    __asm__ volatile("int $0x80" : "=a"(by_int) : "0"(SYS_getpid) : "memory");
    CHECK_EQ(by_int, direct);
    u64 t0 = now_ns(), t1 = now_ns();
    CHECK(t1 >= t0);
}

static void fault(u8 *forbidden) {
    u32 at = (u32)(uintptr_t)forbidden + ((u32)rnd_step(&rnd) & 0xffc), here;
    if (!sigsetjmp(back, 1)) {
        __asm__ volatile("movl $1f, %0\n1: movl $5, (%1)" : "=&m"(here) : "r"(at) : "memory");
        BAD("no fault at %#x", at);
    } else {
        CHECK_EQ(fault_cr2, at);
        CHECK_EQ(fault_trap, 14);
    }
}

static void child(void) {
    pid_t pid = fork();
    if (pid == 0) {
        _exit((int)(hash((const u8 *)"child", 5, 7) & 0x7f));
    }
    int status;
    NEED(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(WEXITSTATUS(status), hash((const u8 *)"child", 5, 7) & 0x7f);
}

int main(void) {
    stress_begin();
    rnd = rnd_seed();
    own_signal_stack();
    on_signal(SIGSEGV, on_fault);
    u8 *area = map_pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
    u8 *forbidden = map_pages(1, PROT_NONE);
    while (stress_more()) {
        for (u32 i = 0; i < 20; i++) {
            data_segments(area);
            code_16(area);
            code_64(area);
            for (u32 k = 0; k < 50; k++) {
                arithmetic();
                system_calls();
            }
            fault(forbidden);
            rounds++;
        }
        child();
    }
    return stress_done("32-bit program", rounds);
}
