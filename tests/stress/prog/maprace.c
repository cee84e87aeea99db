/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings that change under threads that use them. When mprotect, munmap, mmap or madvise returns,
 * no processor may go on with the old translation:
 *   - behind mprotect(PROT_READ) a word that others keep writing stands still;
 *   - behind a new mapping at the same address nobody sees the old file page;
 *   - behind madvise(MADV_DONTNEED) nobody finds what was there before;
 *   - behind mprotect without PROT_EXEC nobody executes.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>

enum { WORKERS = 3, FILE_PAGES = 8 };

static atomic_bool quit;
static _Atomic u64 rounds;
static u8 *area;
static atomic_uint epoch;      /* behind its publication nothing older may be seen */
static atomic_uint epoch_next; /* what may be seen already */
static __thread sigjmp_buf back;
static __thread volatile bool guarded;

static void on_segv(int sig, siginfo_t *info, void *ctx) {
    (void)ctx;
    u64 at = (u64)(uintptr_t)info->si_addr - (u64)(uintptr_t)area;
    if (!guarded || at >= (u64)FILE_PAGES * PAGE) {
        static const char text[] = "  stray fault\n";
        ssize_t n = write(1, text, sizeof(text) - 1);
        (void)n;
        _exit(1);
    }
    (void)sig;
    siglongjmp(back, 1);
}

static void *writer(void *arg) {
    volatile u64 *word = (volatile u64 *)(void *)(area + 64 * (u64)(uintptr_t)arg);
    while (!atomic_load(&quit)) {
        guarded = true;
        if (!sigsetjmp(back, 0)) {
            for (u32 i = 0; i < 200; i++) {
                ++*word;
            }
        } else {
            sigset_t s;
            sigemptyset(&s);
            sigaddset(&s, SIGSEGV);
            pthread_sigmask(SIG_UNBLOCK, &s, NULL);
            sched_yield();
        }
        guarded = false;
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void run_workers(void *(*fn)(void *), void (*change)(void), u64 end) {
    pthread_t t[WORKERS];
    atomic_store(&quit, false);
    for (u64 i = 0; i < WORKERS; i++) {
        t[i] = start(fn, (void *)(uintptr_t)i);
    }
    while (now_ns() < end && !stress_bad) {
        change();
    }
    atomic_store(&quit, true);
    for (u32 i = 0; i < WORKERS; i++) {
        pthread_join(t[i], NULL);
    }
}

/* --- mprotect ----------------------------------------------------------------------------------
 */

static void protect_and_watch(void) {
    NEED(mprotect(area, PAGE, PROT_READ) == 0);
    u64 first[WORKERS];
    for (u32 i = 0; i < WORKERS; i++) {
        first[i] = *(volatile u64 *)(void *)(area + 64 * i);
    }
    for (u32 spin = 0; spin < 3000; spin++) {
        for (u32 i = 0; i < WORKERS; i++) {
            CHECK_EQ(*(volatile u64 *)(void *)(area + 64 * i), first[i]);
        }
    }
    if (rnd_step(&(u64){first[0]}) & 1) {
        NEED(mprotect(area, PAGE, PROT_NONE) == 0);
    }
    NEED(mprotect(area, PAGE, PROT_READ | PROT_WRITE) == 0);
    struct timespec t = {0, 20000};
    nanosleep(&t, NULL);
}

/* --- new mappings at the same address
 * -------------------------------------------------------------- */

static int file;

static void *reader(void *arg) {
    (void)arg;
    while (!atomic_load(&quit) && !stress_bad) {
        u32 low = atomic_load(&epoch);
        u32 got = *(volatile u32 *)(void *)(area + PAGE);
        u32 high = atomic_load(&epoch_next);
        if (got < low || got > high) {
            BAD("page of version %u seen, allowed %u to %u", got, low, high);
        }
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void remap(void) {
    u32 version = atomic_load(&epoch) + 1;
    off_t at = (off_t)(version % FILE_PAGES) * PAGE;
    NEED(pwrite(file, &version, 4, at) == 4);
    atomic_store(&epoch_next, version);
    NEED(mmap(area + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, at) == area + PAGE);
    atomic_store(&epoch, version);
    sched_yield();
}

/* --- MADV_DONTNEED -------------------------------------------------------------------------------
 */

static void *zero_reader(void *arg) {
    (void)arg;
    while (!atomic_load(&quit) && !stress_bad) {
        u32 low = atomic_load(&epoch);
        u32 got = *(volatile u32 *)(void *)(area + 2 * PAGE);
        if (got && got < low) {
            BAD("%u seen behind MADV_DONTNEED of %u", got, low);
        }
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void drop(void) {
    u32 version = atomic_load(&epoch) + 1;
    *(volatile u32 *)(void *)(area + 2 * PAGE) = version;
    NEED(madvise(area + 2 * PAGE, PAGE, MADV_DONTNEED) == 0);
    atomic_store(&epoch, version + 1);
    CHECK_EQ(*(volatile u32 *)(void *)(area + 2 * PAGE), 0);
}

/* --- PROT_EXEC -----------------------------------------------------------------------------------
 */

/* lock inc dword [rdi]; ret: counts while it may be executed */
static void *executor(void *arg) {
    volatile u32 *count = (volatile u32 *)(void *)(area + 4 * PAGE + 64 * (u64)(uintptr_t)arg);
    while (!atomic_load(&quit)) {
        guarded = true;
        if (!sigsetjmp(back, 1)) {
            for (u32 i = 0; i < 100; i++) {
                __asm__ volatile("call *%0" ::"r"(area + 3 * PAGE), "D"(count) : "memory", "cc");
            }
        } else {
            sched_yield();
        }
        guarded = false;
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void forbid_execution(void) {
    volatile u32 *count = (volatile u32 *)(void *)(area + 4 * PAGE);
    NEED(mprotect(area + 3 * PAGE, PAGE, PROT_READ) == 0);
    u32 first[WORKERS];
    for (u32 i = 0; i < WORKERS; i++) {
        /* the instruction under way may still end: mprotect's interrupt came behind it */
        first[i] = count[16 * i];
    }
    for (u32 spin = 0; spin < 2000; spin++) {
        for (u32 i = 0; i < WORKERS; i++) {
            CHECK_EQ(count[16 * i], first[i]);
        }
    }
    NEED(mprotect(area + 3 * PAGE, PAGE, PROT_READ | PROT_EXEC) == 0);
    struct timespec t = {0, 20000};
    nanosleep(&t, NULL);
}

int main(void) {
    static const u8 inc[] = {0xf0, 0xff, 0x07, 0xc3};
    stress_begin();
    on_signal(SIGSEGV, on_segv);
    area = map_pages(FILE_PAGES, PROT_READ | PROT_WRITE);
    file = memfd_create("pages", 0);
    NEED(file >= 0 && ftruncate(file, FILE_PAGES * PAGE) == 0);
    run_workers(writer, protect_and_watch, stress_share(0.25));
    remap();
    run_workers(reader, remap, stress_share(0.33));
    run_workers(zero_reader, drop, stress_share(0.5));
    memcpy(area + 3 * PAGE, inc, sizeof(inc));
    NEED(mprotect(area + 3 * PAGE, PAGE, PROT_READ | PROT_EXEC) == 0);
    run_workers(executor, forbid_execution, stress_end);
    return stress_done("mapping races", atomic_load(&rounds));
}
