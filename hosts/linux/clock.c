/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, the frequency of the time-stamp counter, and entropy. */
#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { CALIBRATE_NS = 3000000, CALIBRATE_TRIES = 16, CALIBRATE_ROUND_HZ = 50000 };
enum { CONFIRM_NS = 500000, CONFIRM_PART = 2000 };

static u64 clock_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

u64 linux_now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

u64 linux_now(struct host *host) {
    (void)host;
    return linux_now_ns();
}

u64 linux_wall(struct host *host) {
    (void)host;
    return clock_ns(CLOCK_REALTIME);
}

/* CPUID 0x15 gives the exact frequency where it is filled in (SDM vol. 3, section 18.7.3). */
static u64 tsc_hz_cpuid(void) {
    u32 a = 0x15, b, c = 0, d, max;
    __asm__ volatile("cpuid" : "=a"(max), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    if (max < 0x15) {
        return 0;
    }
    c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return a && b && c ? (u64)c * b / a : 0;
}

/*
 * The kernel's own conversion from TSC to nanoseconds, from the page of a dummy perf event
 * (perf_event_open(2), time_mult and time_shift). Exact and takes no time; 0 where it is not
 * allowed.
 */
static u64 tsc_hz_perf(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof(attr),
                                   .config = PERF_COUNT_SW_DUMMY,
                                   .exclude_kernel = 1,
                                   .exclude_hv = 1};
    u64 hz = 0;
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    struct perf_event_mmap_page *page = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) {
        if (page->cap_user_time && page->time_mult) {
            hz = (u64)(((unsigned __int128)NSEC_PER_SEC << page->time_shift) / page->time_mult);
        }
        munmap(page, PAGE_SIZE);
    }
    close(fd);
    return hz;
}

/* The TSC at a moment of the clock: of several tries the one that was interrupted least. */
static void clock_pair(u64 *ns, u64 *tsc) {
    u64 best = UINT64_MAX;
    for (int i = 0; i < CALIBRATE_TRIES; i++) {
        u64 before = __builtin_ia32_rdtsc();
        u64 t = linux_now_ns();
        u64 after = __builtin_ia32_rdtsc();
        if (after - before < best) {
            best = after - before;
            *ns = t;
            *tsc = before + (after - before) / 2;
        }
    }
}

/* Two pairs a few milliseconds apart: some 5 parts per million. Rounded, since frequencies are. */
static u64 tsc_hz_measure(void) {
    u64 t0 = 0, c0 = 0, t1 = 0, c1 = 0;
    clock_pair(&t0, &c0);
    while (linux_now_ns() - t0 < CALIBRATE_NS) {
        __builtin_ia32_pause();
    }
    clock_pair(&t1, &c1);
    u64 hz = (u64)((unsigned __int128)(c1 - c0) * NSEC_PER_SEC / (t1 - t0));
    return (hz + CALIBRATE_ROUND_HZ / 2) / CALIBRATE_ROUND_HZ * CALIBRATE_ROUND_HZ;
}

/* The same for the whole process; a race only measures twice. */
static u64 tsc_hz_known;

u64 linux_tsc_hz(struct host *host) {
    (void)host;
    u64 hz = __atomic_load_n(&tsc_hz_known, __ATOMIC_RELAXED);
    if (!hz) {
        hz = tsc_hz_cpuid();
        hz = hz ? hz : tsc_hz_perf();
        hz = hz ? hz : tsc_hz_measure();
        __atomic_store_n(&tsc_hz_known, hz, __ATOMIC_RELAXED);
    }
    return hz;
}

void linux_tsc_begin(struct linux_tsc_mark *mark) {
    clock_pair(&mark->ns, &mark->tsc);
}

void linux_tsc_confirm(const struct linux_tsc_mark *mark, u64 hz) {
    struct linux_tsc_mark now;
    do {
        clock_pair(&now.ns, &now.tsc);
    } while (now.ns - mark->ns < CONFIRM_NS);
    u64 ticks = now.tsc - mark->tsc;
    u64 want = (u64)((unsigned __int128)(now.ns - mark->ns) * hz / NSEC_PER_SEC);
    u64 off = want > ticks ? want - ticks : ticks - want;
    if (hz && off < ticks / CONFIRM_PART) {
        __atomic_store_n(&tsc_hz_known, hz, __ATOMIC_RELAXED);
    }
}

void linux_entropy(struct host *host, void *buf, size_t size) {
    (void)host;
    u8 *p = buf;
    while (size) {
        ssize_t n = getrandom(p, size, 0);
        if (n < 0 && errno != EINTR) {
            abort(); /* cannot fail on Linux 3.17 and later with these arguments */
        }
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        }
    }
}
