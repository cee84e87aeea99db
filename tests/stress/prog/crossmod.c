/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread changes code that others execute, in the ways that the manual allows (Intel SDM volume
 * 3, section 9.1.3) or kernels rely on:
 *   - INT3 over the first byte, then the rest, then the first byte; who meets INT3 goes on behind;
 *   - one aligned store of 8 bytes that holds a whole MOV with its immediate;
 *   - a jump's displacement, aligned.
 * Executors must see old or new code and nothing else; and when the writer has published a version
 * and they have serialised, no older version than that.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>

enum { EXECUTORS = 3 };

static u8 *code, *alias_of;
static atomic_uint published; /* versions that the code returns only grow */
static atomic_uint poking;    /* the version that may appear already */
static atomic_bool quit;
static _Atomic u64 runs;

/* poked:  mov eax, imm32 (5 bytes); ret     at 0
 * word:   mov eax, imm32; ret; nop nop, in 8 aligned bytes at 64
 * jump:   jmp rel32 aligned at 127 to one of many "mov eax, n; ret" from 1024 on */
enum { POKED = 0, WORD = 64, JUMP = 127, TARGETS = 1024, TARGET_COUNT = 384 };

static void on_trap(int sig, siginfo_t *info, void *ctx) {
    ucontext_t *u = ctx;
    (void)sig;
    (void)info;
    if (u->uc_mcontext.gregs[REG_RIP] != (greg_t)(uintptr_t)(code + POKED + 1)) {
        BAD("trap at %#llx", (unsigned long long)u->uc_mcontext.gregs[REG_RIP]);
    }
    /* as if the instruction were any of the versions allowed now */
    u->uc_mcontext.gregs[REG_RAX] = atomic_load(&published);
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(code + POKED + 5);
}

static u32 call_at(u32 at) {
    u32 got;
    __asm__ volatile("call *%1" : "=a"(got) : "r"(code + at) : "memory", "cc");
    return got;
}

static void serialise(void) {
    u32 a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

static void *execute(void *arg) {
    u32 at = *(u32 *)arg;
    while (!atomic_load(&quit) && !stress_bad) {
        u32 low = atomic_load(&published);
        serialise();
        for (u32 i = 0; i < 50; i++) {
            u32 got = call_at(at);
            u32 high = atomic_load(&poking);
            if (got < low || got > high) {
                BAD("code at %u returned %u, allowed %u to %u", at, got, low, high);
            }
        }
        atomic_fetch_add(&runs, 50);
    }
    return NULL;
}

static void barrier_all(void) {
    /* every thread passes the kernel: a signal-free way to be sure that they serialised */
    struct timespec t = {0, 2000};
    nanosleep(&t, NULL);
}

static void put_u8(u8 *p, u8 v) {
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

static void poke(u8 *w, u32 version) {
    put_u8(w + POKED, 0xcc);
    barrier_all();
    for (u32 i = 0; i < 4; i++) {
        put_u8(w + POKED + 1 + i, (u8)(version >> 8 * i));
    }
    barrier_all();
    put_u8(w + POKED, 0xb8);
}

static void store_word(u8 *w, u32 version) {
    u64 v = 0x9090c300000000b8u | (u64)version << 8;
    __atomic_store_n((u64 *)(void *)(w + WORD), v, __ATOMIC_SEQ_CST);
}

static void store_jump(u8 *w, u32 version) {
    u32 target = TARGETS + 8 * (version % TARGET_COUNT);
    u64 v = 0x9090c300000000b8u | (u64)version << 8;
    __atomic_store_n((u64 *)(void *)(w + target), v, __ATOMIC_SEQ_CST);
    __atomic_store_n((u32 *)(void *)(w + JUMP + 1), target - (JUMP + 5), __ATOMIC_SEQ_CST);
}

static void phase(u32 at, void (*change)(u8 *w, u32 version), u64 end) {
    pthread_t t[EXECUTORS];
    atomic_store(&quit, false);
    for (u32 i = 0; i < EXECUTORS; i++) {
        t[i] = start(execute, &at);
    }
    u32 version = atomic_load(&published);
    while (now_ns() < end && !stress_bad) {
        version++;
        atomic_store(&poking, version);
        change(version & 1 ? code : alias_of, version);
        atomic_store(&published, version);
        if (version % 8 == 0) {
            sched_yield();
        }
    }
    atomic_store(&quit, true);
    for (u32 i = 0; i < EXECUTORS; i++) {
        pthread_join(t[i], NULL);
    }
}

int main(void) {
    stress_begin();
    on_signal(SIGTRAP, on_trap);
    int fd = memfd_create("code", 0);
    NEED(fd >= 0 && ftruncate(fd, PAGE) == 0);
    code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0);
    alias_of = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEED(code != MAP_FAILED && alias_of != MAP_FAILED);
    code[POKED] = 0xb8;
    code[POKED + 5] = 0xc3;
    code[JUMP] = 0xe9;
    phase(POKED, poke, stress_share(0.34));
    store_word(code, atomic_load(&published));
    phase(WORD, store_word, stress_share(0.5));
    store_jump(code, atomic_load(&published));
    phase(JUMP, store_jump, stress_end);
    printf("  %u versions\n", atomic_load(&published));
    return stress_done("cross-modified code", atomic_load(&runs));
}
