/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, the frequency of the time-stamp counter, and entropy. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "hosts/linux/host.h"

enum { CALIBRATE_NS = 20000000, CALIBRATE_ROUND_HZ = 100000 };

static u64 clock_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

u64 linux_now(struct host *host) {
    (void)host;
    return clock_ns(CLOCK_MONOTONIC);
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

static u64 tsc_hz_measure(void) {
    u64 t0 = clock_ns(CLOCK_MONOTONIC_RAW);
    u64 c0 = __builtin_ia32_rdtsc();
    u64 t1;
    do {
        t1 = clock_ns(CLOCK_MONOTONIC_RAW);
    } while (t1 - t0 < CALIBRATE_NS);
    u64 c1 = __builtin_ia32_rdtsc();
    u64 hz = (u64)((unsigned __int128)(c1 - c0) * NSEC_PER_SEC / (t1 - t0));
    return (hz + CALIBRATE_ROUND_HZ / 2) / CALIBRATE_ROUND_HZ * CALIBRATE_ROUND_HZ;
}

u64 linux_tsc_hz(struct host *host) {
    (void)host;
    static u64 cached; /* the same for the whole process; a race only measures twice */
    u64 hz = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (!hz) {
        hz = tsc_hz_cpuid();
        hz = hz ? hz : tsc_hz_measure();
        __atomic_store_n(&cached, hz, __ATOMIC_RELAXED);
    }
    return hz;
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
