/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk rows of the benchmark table, natively on a file and in guests on a disk: 4 KiB random
 * reads one at a time and from 8 threads, sequential reads and writes of 1 MiB, all past the page
 * cache (O_DIRECT), and a 4 KiB write with fdatasync. Each for SECONDS, but writing a new disk,
 * which is done NEW_TIMES, wholly. Prints "row NAME VALUE UNIT DONE".
 *
 * usage: disk FILE SIZE_MIB SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 20, THREADS = 8, NEW_TIMES = 4 };

static int fd;
static uint64_t size;
static double budget;

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* done: how often, or how many MiB, so that who runs us can divide processor time by it. */
static void print_row(const char *name, double value, const char *unit, uint64_t done) {
    printf("row %s %.1f %s %llu\n", name, value, unit, (unsigned long long)done);
    fflush(stdout);
}

static void *buffer(void) {
    void *p = NULL;
    if (posix_memalign(&p, 4096, LARGE)) {
        die("memory");
    }
    memset(p, 0x5a, LARGE);
    return p;
}

static void *random_reads(void *arg) {
    uint64_t x = 88172645463325252ull + (uintptr_t)arg * 977, done = 0;
    void *buf = buffer();
    for (double end = now() + budget; now() < end;) {
        for (int i = 0; i < 16; i++, done++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if (pread(fd, buf, SMALL, (off_t)(x % (size / SMALL) * SMALL)) != SMALL) {
                die("read");
            }
        }
    }
    free(buf);
    return (void *)(uintptr_t)done;
}

static void row_random(const char *name, uintptr_t threads) {
    pthread_t t[THREADS];
    uintptr_t sum = 0;
    double begin = now();
    for (uintptr_t i = 0; i < threads; i++) {
        pthread_create(&t[i], NULL, random_reads, (void *)i);
    }
    for (uintptr_t i = 0; i < threads; i++) {
        void *done;
        pthread_join(t[i], &done);
        sum += (uintptr_t)done;
    }
    print_row(name, (double)sum / (now() - begin), "IOPS", sum);
}

/* The disk as it was when new: nothing of it is stored anywhere. */
static void forget(void) {
    uint64_t range[2] = {0, size};
    struct stat st;
    int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    fstat(fd, &st);
    if (S_ISBLK(st.st_mode) ? ioctl(fd, BLKDISCARD, range) : fallocate(fd, mode, 0, (off_t)size)) {
        die("discard");
    }
    if (fdatasync(fd)) { /* only then may what was freed be used again */
        die("discard");
    }
}

/*
 * The whole disk written, discarded, and written again; the best of them. Where the host is a
 * virtual machine itself, memory for its page cache may have to come from its own host first, ten
 * times slower than writing: what was just given back is there, whoever measures.
 */
static void row_new(const char *name) {
    void *buf = buffer();
    double best = 0;
    for (int i = 0; i < NEW_TIMES; i++) {
        forget();
        double begin = now();
        for (uint64_t at = 0; at < size; at += LARGE) {
            if (pwrite(fd, buf, LARGE, (off_t)at) != LARGE) {
                die(name);
            }
        }
        double rate = (double)size / (now() - begin) / LARGE;
        best = rate > best ? rate : best;
    }
    print_row(name, best, "MiB/s", NEW_TIMES * size / LARGE);
    free(buf);
}

static void row_sequential(const char *name, int write) {
    void *buf = buffer();
    uint64_t at = 0, done = 0;
    double begin = now();
    while (now() < begin + budget) {
        ssize_t n = write ? pwrite(fd, buf, LARGE, (off_t)at) : pread(fd, buf, LARGE, (off_t)at);
        if (n != LARGE) {
            die(name);
        }
        done += LARGE;
        at = at + 2 * LARGE > size ? 0 : at + LARGE;
    }
    print_row(name, (double)done / (now() - begin) / LARGE, "MiB/s", done / LARGE);
    free(buf);
}

static void row_fsync(const char *name) {
    void *buf = buffer();
    uint64_t n = 0, x = 12345;
    if (fdatasync(fd)) { /* what the rows before have written is not this one's */
        die(name);
    }
    double begin = now();
    while (now() < begin + budget) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        if (pwrite(fd, buf, SMALL, (off_t)((x >> 33) % (size / SMALL) * SMALL)) != SMALL ||
            fdatasync(fd)) {
            die(name);
        }
        n++;
    }
    print_row(name, (now() - begin) / (double)n * 1e6, "us", n);
    free(buf);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        return 2;
    }
    size = strtoull(argv[2], NULL, 10) << 20;
    budget = strtod(argv[3], NULL);
    fd = open(argv[1], O_RDWR | O_DIRECT);
    if (fd < 0) {
        die(argv[1]);
    }
    printf("disk ready\n");
    fflush(stdout);
    row_new("seq-write-new");
    row_sequential("seq-write", 1);
    row_sequential("seq-read", 0);
    row_random("rand-read-1", 1);
    row_random("rand-read-8", THREADS);
    row_fsync("fsync");
    return 0;
}
