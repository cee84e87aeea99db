/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What threads may rely on: locked operations of every size, also over cache lines and pages, count
 * exactly; x86 memory order (message passing without fences; store buffering with MFENCE or a
 * locked operation); clocks of the vDSO and the time-stamp counter never run back, whichever
 * processor is asked; deep calls, indirect calls and stack switches come back where they belong.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>
#include <sys/syscall.h>

enum { THREADS = 4 };

static _Atomic u64 rounds;
static u64 part_end;

static bool part_more(void) {
    return now_ns() < part_end && !stress_bad;
}

static void all(void *(*fn)(void *), double share) {
    pthread_t t[THREADS];
    part_end = stress_share(share);
    for (u64 i = 0; i < THREADS; i++) {
        t[i] = start(fn, (void *)(uintptr_t)i);
    }
    for (u32 i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
    }
}

/* --- counting
 * --------------------------------------------------------------------------------------- */

static struct { _Alignas(PAGE) u8 bytes[4 * PAGE]; } shared;
static _Atomic u64 added;
static u8 *const line_split = shared.bytes + 64 * 9 - 3; /* two lines */
static u8 *const page_split = shared.bytes + PAGE - 5;   /* two pages */

static void *count(void *arg) {
    u64 mine = 0, (*wide)[2] = (void *)(shared.bytes + 2 * PAGE);
    (void)arg;
    while (part_more()) {
        for (u32 i = 0; i < 100; i++, mine++) {
            u8 *b = shared.bytes;
            u64 one = 1;
            __asm__ volatile("lock incb (%0); lock addw $1, 64(%0); lock subl $-1, 128(%0)\n\t"
                             "mov $1, %%eax; lock xaddq %%rax, 192(%0)\n\t" ::"r"(b)
                             : "rax", "memory", "cc");
            if (i % 25 == 0) { /* dear: all processors stop */
                __asm__ volatile("lock addl %1, (%0)" ::"r"(line_split), "r"((u32)one)
                                 : "memory", "cc");
                __asm__ volatile("lock addq %1, (%0)" ::"r"(page_split), "r"(one) : "memory", "cc");
            }
            u64 old = __atomic_load_n((u64 *)(void *)(b + 256), __ATOMIC_RELAXED);
            while (!__atomic_compare_exchange_n((u64 *)(void *)(b + 256), &old, old + 1, false,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            }
            u64 low = (*wide)[0], high = (*wide)[1], done = 0;
            while (!done) {
                __asm__ volatile("lock cmpxchg16b %3; setz %b2"
                                 : "+a"(low), "+d"(high), "+r"(done), "+m"(*wide)
                                 : "b"(low + 1), "c"(high + 3)
                                 : "cc");
            }
        }
    }
    added += mine;
    return NULL;
}

static void count_check(void) {
    u64 n = added, v64, split_line, split_page;
    u32 v32;
    u16 v16;
    u64 *wide = (void *)(shared.bytes + 2 * PAGE);
    memcpy(&v16, shared.bytes + 64, 2);
    memcpy(&v32, shared.bytes + 128, 4);
    memcpy(&v64, shared.bytes + 192, 8);
    CHECK_EQ(shared.bytes[0], (u8)n);
    CHECK_EQ(v16, (u16)n);
    CHECK_EQ(v32, (u32)n);
    CHECK_EQ(v64, n);
    memcpy(&v64, shared.bytes + 256, 8);
    CHECK_EQ(v64, n);
    memcpy(&split_page, page_split, 8);
    memcpy(&v32, line_split, 4);
    split_line = v32;
    CHECK_EQ(split_line, n / 25);
    CHECK_EQ(split_page, n / 25);
    CHECK_EQ(wide[0], n);
    CHECK_EQ(wide[1], 3 * n);
    rounds += n;
}

/* --- order
 * ------------------------------------------------------------------------------------------- */

static struct {
    _Alignas(64) volatile u64 x;
    _Alignas(64) volatile u64 y;
    _Alignas(64) volatile u64 seen[2];
    _Alignas(64) atomic_uint turn;
} box[2];

static void *message(void *arg) {
    u64 me = (u64)(uintptr_t)arg, pair = me / 2, i = 0;
    while (part_more()) {
        for (u32 k = 0; k < 1000; k++) {
            if (me & 1) {
                i++;
                box[pair].x = i;
                __asm__ volatile("" ::: "memory");
                box[pair].y = i;
            } else {
                u64 y = box[pair].y;
                __asm__ volatile("" ::: "memory");
                u64 x = box[pair].x;
                if (x < y) {
                    BAD("message %llu before its data %llu", (unsigned long long)y,
                        (unsigned long long)x);
                }
            }
        }
        rounds += 1000;
    }
    return NULL;
}

/* Both threads of a pair come here for the n-th time; false when the time is over. */
static bool meet(u64 pair, u32 n) {
    atomic_fetch_add(&box[pair].turn, 1);
    for (u32 spins = 1; atomic_load(&box[pair].turn) < 2 * n; spins++) {
        if (spins % 64 == 0) {
            sched_yield();
            if (!part_more()) {
                return false;
            }
        }
    }
    return true;
}

/* Each stores and then reads the other's: at least one of both must see the other's store. */
static void *buffering(void *arg) {
    u64 me = (u64)(uintptr_t)arg, pair = me / 2, side = me & 1;
    for (u32 i = 1; part_more() && meet(pair, 2 * i - 1); i++) {
        volatile u64 *mine = side ? &box[pair].y : &box[pair].x;
        volatile u64 *other = side ? &box[pair].x : &box[pair].y;
        *mine = i;
        if (i & 1) {
            __asm__ volatile("mfence" ::: "memory");
        } else {
            u64 t = 0;
            __asm__ volatile("lock addq $0, %0" : "+m"(t)::"memory", "cc");
        }
        box[pair].seen[side] = *other;
        if (!meet(pair, 2 * i)) {
            break;
        }
        if (!side && box[pair].seen[0] < i && box[pair].seen[1] < i) {
            BAD("both loads were earlier than both stores");
        }
        rounds++;
    }
    return NULL;
}

/* --- clocks
 * ------------------------------------------------------------------------------------------- */

static _Atomic u64 last_ns, last_tsc, last_raw;

static void newer(_Atomic u64 *last, u64 before, u64 now, const char *what) {
    if (now < before) {
        BAD("%s went back from %llu to %llu", what, (unsigned long long)before,
            (unsigned long long)now);
    }
    u64 old = before;
    while (old < now && !atomic_compare_exchange_weak(last, &old, now)) {
    }
}

static void *clocks(void *arg) {
    (void)arg;
    while (part_more()) {
        for (u32 i = 0; i < 50; i++) {
            struct timespec raw;
            u64 before = last_ns;
            newer(&last_ns, before, now_ns(), "CLOCK_MONOTONIC of the vDSO");
            before = last_tsc;
            u32 low, high, aux;
            __asm__ volatile("lfence; rdtscp; lfence" : "=a"(low), "=d"(high), "=c"(aux)::"memory");
            newer(&last_tsc, before, (u64)high << 32 | low, "the time-stamp counter");
            before = last_raw;
            syscall(SYS_clock_gettime, CLOCK_MONOTONIC_RAW, &raw);
            newer(&last_raw, before, (u64)raw.tv_sec * 1000000000u + (u64)raw.tv_nsec,
                  "CLOCK_MONOTONIC_RAW of the kernel");
        }
        rounds += 50;
        sched_yield();
    }
    return NULL;
}

/* --- calls
 * -------------------------------------------------------------------------------------------- */

static u64 deep(u64 n, u64 v);
static u64 deep_a(u64 n, u64 v) {
    return n ? deep(n - 1, v * 3 + 1) ^ n : v;
}
static u64 deep_b(u64 n, u64 v) {
    return n ? deep(n - 1, v + 7) + n : v;
}
static u64 deep_c(u64 n, u64 v) {
    return n ? deep_a(n - 1, v ^ n) - n : v;
}
static u64 (*const volatile deeper[])(u64, u64) = {deep_a, deep_b, deep_c, deep_b};
static u64 deep(u64 n, u64 v) {
    return deeper[v & 3](n, v);
}

struct stacks {
    ucontext_t main, side;
    u64 value;
    u8 stack[65536];
};

static void side_stack(u32 high, u32 low) {
    struct stacks *s = (void *)(uintptr_t)((u64)high << 32 | low);
    for (;;) {
        s->value += deep(20, s->value);
        swapcontext(&s->side, &s->main);
    }
}

static void *calls(void *arg) {
    struct stacks *s = calloc(1, sizeof(*s));
    volatile u64 seed = (u64)(uintptr_t)arg;
    NEED(s);
    getcontext(&s->side);
    s->side.uc_stack.ss_sp = s->stack;
    s->side.uc_stack.ss_size = sizeof(s->stack);
    makecontext(&s->side, (void (*)(void))side_stack, 2, (u32)((u64)(uintptr_t)s >> 32),
                (u32)(uintptr_t)s);
    while (part_more()) {
        u64 state = seed, v = rnd_step(&state), n = v % 900;
        seed = state;
        u64 first = deep(n, v);
        CHECK_EQ(deep(n, v), first);
        u64 before = s->value;
        swapcontext(&s->main, &s->side);
        CHECK_EQ(s->value, before + deep(20, before));
        rounds++;
    }
    free(s);
    return NULL;
}

int main(void) {
    stress_begin();
    all(count, 0.25);
    count_check();
    all(message, 0.2);
    memset((void *)&box, 0, sizeof(box));
    all(buffering, 0.3);
    all(clocks, 0.5);
    all(calls, 1);
    return stress_done("order and time", rounds);
}
