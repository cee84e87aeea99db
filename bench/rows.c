/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of the benchmark table: one static program that runs natively and in the guests. Each
 * row is repeated for about the time given on the command line (default 0.3 s) in batches; the best
 * batch counts, since everything else on the machine only adds. Prints "row NAME NANOSECONDS" for
 * each.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;
static double budget = 0.3;

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void alu(long n) {
    uint64_t x = 1;
    for (long i = 0; i < n; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        x ^= x >> 17;
        __asm__ volatile("" : "+r"(x));
    }
    sink = x;
}

__attribute__((noinline)) static int fib_of(int k) {
    return k < 2 ? k : fib_of(k - 1) + fib_of(k - 2);
}

static void fib(long n) {
    for (long i = 0; i < n; i++) {
        sink = (uint64_t)fib_of(20);
    }
}

static uint32_t heap[4096];

static void sift(uint32_t *a, int root, int end) {
    for (int child; (child = 2 * root + 1) < end; root = child) {
        child += child + 1 < end && a[child] < a[child + 1];
        if (a[root] >= a[child]) {
            return;
        }
        uint32_t t = a[root];
        a[root] = a[child];
        a[child] = t;
    }
}

static void heapsort_rows(long n) {
    for (long k = 0; k < n; k++) {
        uint32_t x = 12345;
        for (int i = 0; i < 4096; i++) {
            heap[i] = x = x * 1664525u + 1013904223u;
        }
        for (int i = 2047; i >= 0; i--) {
            sift(heap, i, 4096);
        }
        for (int i = 4095; i > 0; i--) {
            uint32_t t = heap[0];
            heap[0] = heap[i];
            heap[i] = t;
            sift(heap, 0, i);
        }
    }
    sink = heap[100];
}

static uint64_t op_add(uint64_t x) {
    return x + 3;
}
static uint64_t op_xor(uint64_t x) {
    return x ^ 0x55;
}
static uint64_t op_mul(uint64_t x) {
    return x * 5;
}
static uint64_t op_ror(uint64_t x) {
    return x >> 3 | x << 61;
}

static void indirect(long n) {
    static uint64_t (*const volatile ops[4])(uint64_t) = {op_add, op_xor, op_mul, op_ror};
    uint64_t x = 1;
    for (long i = 0; i < n; i++) {
        x = ops[(x ^ (uint64_t)i) & 3](x);
    }
    sink = x;
}

static void *chase_ring(size_t bytes) {
    size_t n = bytes / 64;
    void **ring = aligned_alloc(64, bytes);
    size_t *order = malloc(n * sizeof(*order));
    uint64_t x = 88172645463325252ull;
    for (size_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (size_t i = n - 1; i > 0; i--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        size_t j = x % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (size_t i = 0; i < n; i++) {
        ring[order[i] * 8] = &ring[order[(i + 1) % n] * 8];
    }
    free(order);
    return ring;
}

static void chase(void *start, long n) {
    void *p = start;
    for (long i = 0; i < n; i++) {
        p = *(void **)p;
    }
    sink = (uint64_t)(uintptr_t)p;
}

static void chase_small(long n) {
    static void *ring;
    ring = ring ? ring : chase_ring(16 << 10);
    chase(ring, n);
}

static void chase_medium(long n) {
    static void *ring;
    ring = ring ? ring : chase_ring(512 << 10);
    chase(ring, n);
}

static char from[1 << 20], to[1 << 20];

static void copy(long n) {
    for (long i = 0; i < n; i++) {
        memcpy(to, from, sizeof(to));
        __asm__ volatile("" ::: "memory");
    }
}

static void rep_movsb(long n) {
    for (long i = 0; i < n; i++) {
        void *d = to, *s = from;
        size_t c = 65536;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
    }
}

static void fp_chain(long n) {
    double x = 1.0;
    for (long i = 0; i < n; i++) {
        x = x * 1.0000001 + 0.5;
        __asm__ volatile("" : "+x"(x));
    }
    sink = (uint64_t)x;
}

static void sse_dot(long n) {
    static float a[1024], b[1024];
    float total = 0;
    for (long k = 0; k < n; k++) {
        typedef float v4 __attribute__((vector_size(16)));
        v4 s = {0};
        for (int i = 0; i < 1024; i += 4) {
            s += *(v4 *)&a[i] * *(v4 *)&b[i];
        }
        total += s[0] + s[1] + s[2] + s[3];
        __asm__ volatile("" ::: "memory");
    }
    sink = (uint64_t)total;
}

static void getppid_row(long n) {
    for (long i = 0; i < n; i++) {
        syscall(SYS_getppid);
    }
}

static void page_fault(long n) {
    while (n > 0) {
        long batch = n < 256 ? n : 256;
        char *p = mmap(NULL, (size_t)batch * 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (long i = 0; i < batch; i++) {
            p[i * 4096] = 1;
        }
        munmap(p, (size_t)batch * 4096);
        n -= batch;
    }
}

static void on_signal(int s) {
    (void)s;
}

static void signal_self(long n) {
    signal(SIGUSR1, on_signal);
    pid_t pid = getpid();
    for (long i = 0; i < n; i++) {
        kill(pid, SIGUSR1);
    }
}

static void fork_wait(long n) {
    for (long i = 0; i < n; i++) {
        pid_t pid = fork();
        if (!pid) {
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
}

static void pipe_pingpong(long n) {
    int a[2], b[2];
    char c = 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof(one), &one);
    if (pipe(a) || pipe(b)) {
        exit(1);
    }
    pid_t pid = fork();
    for (long i = 0; i < n; i++) {
        if (!pid) {
            if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1) {
                _exit(1);
            }
        } else if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1) {
            exit(1);
        }
    }
    if (!pid) {
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    close(a[0]);
    close(a[1]);
    close(b[0]);
    close(b[1]);
}

static void measure(const char *name, void (*fn)(long n), long n) {
    double best = 1e9, end = now() + budget;
    fn(n / 16 + 1); /* warm up */
    do {
        double start = now();
        fn(n);
        double each = (now() - start) / (double)n;
        best = each < best ? each : best;
    } while (now() < end);
    printf("row %s %.3f\n", name, best * 1e9);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        budget = atof(argv[1]);
    }
    measure("alu-chain", alu, 1000000);
    measure("fib-20", fib, 20);
    measure("heapsort-4k", heapsort_rows, 4);
    measure("indirect-call", indirect, 300000);
    measure("chase-16K", chase_small, 500000);
    measure("chase-512K", chase_medium, 500000);
    measure("memcpy-1M", copy, 20);
    measure("rep-movsb-64K", rep_movsb, 50);
    measure("fp-chain", fp_chain, 300000);
    measure("sse-dot-1024", sse_dot, 200);
    measure("getppid", getppid_row, 20000);
    measure("page-fault", page_fault, 2048);
    measure("signal-self", signal_self, 2000);
    measure("fork-wait", fork_wait, 20);
    measure("pipe-pingpong", pipe_pingpong, 500);
    return 0;
}
