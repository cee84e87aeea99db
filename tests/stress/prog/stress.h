/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stress programs share: they run under Linux, natively or in a guest, for about
 * STRESS_SECONDS (default 2), check themselves and return 0 when all was right. Random numbers
 * come from a fixed seed (STRESS_SEED).
 */
#ifndef TESTS_STRESS_H
#define TESTS_STRESS_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

enum { PAGE = 4096 };

static atomic_uint stress_bad;

/* Counts a failure and prints the first few. */
#define BAD(...)                                                                                   \
    do {                                                                                           \
        if (atomic_fetch_add(&stress_bad, 1) < 8) {                                                \
            printf("  line %d: ", __LINE__);                                                       \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            fflush(stdout);                                                                        \
        }                                                                                          \
    } while (0)

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            BAD("%s", #cond);                                                                      \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        u64 va_ = (u64)(a), vb_ = (u64)(b);                                                        \
        if (va_ != vb_) {                                                                          \
            BAD("%s is %#llx, not %#llx", #a, (unsigned long long)va_, (unsigned long long)vb_);   \
        }                                                                                          \
    } while (0)

/* Something that the program needs is missing: not the monitor's fault, but nothing was tested. */
#define NEED(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("  needs %s\n", #cond);                                                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static u64 stress_end;

static inline void stress_begin(void) {
    const char *s = getenv("STRESS_SECONDS");
    stress_end = now_ns() + (u64)((s ? atof(s) : 2.0) * 1e9);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static inline bool stress_more(void) {
    return now_ns() < stress_end && !atomic_load(&stress_bad);
}

/* Splits the time: a part that begins now ends after share of what is left. */
static inline u64 stress_share(double share) {
    u64 now = now_ns();
    return now + (stress_end > now ? (u64)((double)(stress_end - now) * share) : 0);
}

static inline int stress_done(const char *what, u64 rounds) {
    u32 bad = atomic_load(&stress_bad);
    printf("  %s: %llu rounds, %u failures\n", what, (unsigned long long)rounds, bad);
    return bad != 0;
}

static inline u64 rnd_step(u64 *state) {
    u64 z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline u64 rnd_seed(void) {
    const char *s = getenv("STRESS_SEED");
    return s ? strtoull(s, NULL, 0) : 12345;
}

static inline void on_signal(int sig, void (*fn)(int, siginfo_t *, void *)) {
    struct sigaction sa;
    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = fn;
    sa.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigaction(sig, &sa, NULL);
}

/* Signals of this thread come on a stack of their own. */
static inline void own_signal_stack(void) {
    static __thread u8 stack[32768];
    stack_t s = {.ss_sp = stack, .ss_size = sizeof(stack)};
    NEED(sigaltstack(&s, NULL) == 0);
}

static inline pthread_t start(void *(*fn)(void *), void *arg) {
    pthread_t t;
    NEED(pthread_create(&t, NULL, fn, arg) == 0);
    return t;
}

static inline u8 *map_pages(u32 pages, int prot) {
    u8 *p = mmap(NULL, (size_t)pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(p != MAP_FAILED);
    return p;
}

#endif
