/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory files of snapshots; see snap_mem.h. Chunks are shared out among a few threads, because
 * checksums take longer than copies. What the guest never touched is found without reading it:
 * holes of the shared memory, or pages of a private mapping that are neither in the page tables nor
 * in its file.
 */
#include "cmd/snap_mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHUNK_PAGES = SNAP_CHUNK / PAGE_SIZE,
    CHUNK_WORDS = CHUNK_PAGES / 64,
    MAX_THREADS = 4,
    ENTRY_SIZE = 8,
};

#define PAGEMAP_PRESENT (BIT(63) | BIT(62)) /* or swapped out */

int snap_read_at(int fd, void *buf, size_t size, u64 at) {
    for (u8 *p = buf; size;) {
        ssize_t n = pread(fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -ERR_IO;
        }
        p += n;
        at += (u64)n;
        size -= (size_t)n;
    }
    return 0;
}

int snap_write_at(int fd, const void *buf, size_t size, u64 at) {
    for (const u8 *p = buf; size;) {
        ssize_t n = pwrite(fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            bool full = n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG);
            return full ? -ERR_NOSPACE : -ERR_IO;
        }
        p += n;
        at += (u64)n;
        size -= (size_t)n;
    }
    return 0;
}

/* --- pages of a chunk --------------------------------------------------------------------------
 */

static bool page_is_zero(const u8 *page) {
    const u64 *w = (const u64 *)(const void *)page;
    for (size_t i = 0; i < PAGE_SIZE / 8; i += 8) {
        if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7]) {
            return false;
        }
    }
    return true;
}

struct chunk {
    const u8 *data;
    u32 pages; /* in it: the last one may be short */
    u64 map[CHUNK_WORDS];
    bool any;
};

static bool chunk_has(const struct chunk *c, u32 page) {
    return c->map[page / 64] >> page % 64 & 1;
}

static void chunk_add(struct chunk *c, u32 page) {
    c->map[page / 64] |= BIT(page % 64);
    c->any = true;
}

static void chunk_find(struct chunk *c, const u64 *pages, u64 first) {
    for (u32 i = 0; i < c->pages; i++) {
        bool take = pages ? pages[(first + i) / 64] >> (first + i) % 64 & 1
                          : !page_is_zero(c->data + (size_t)i * PAGE_SIZE);
        if (take) {
            chunk_add(c, i);
        }
    }
}

static void chunk_sum(const struct chunk *c, const struct sha256 *fresh, u8 *sum) {
    struct sha256 s = *fresh;
    memset(sum, 0, SHA256_SIZE);
    if (!c->any) {
        return;
    }
    sha256_update(&s, c->map, sizeof(c->map));
    for (u32 i = 0; i < c->pages; i++) {
        if (chunk_has(c, i)) {
            sha256_update(&s, c->data + (size_t)i * PAGE_SIZE, PAGE_SIZE);
        }
    }
    sha256_final(&s, sum);
}

/* The next run of pages from *from on; its length, 0 at the end. */
static u32 chunk_run(const struct chunk *c, u32 *from) {
    u32 n = 0;
    while (*from < c->pages && !chunk_has(c, *from)) {
        ++*from;
    }
    while (*from + n < c->pages && chunk_has(c, *from + n)) {
        n++;
    }
    return n;
}

static int chunk_write(const struct chunk *c, int fd, u64 at) {
    int rc = 0;
    for (u32 i = 0, n; !rc && (n = chunk_run(c, &i)); i += n) {
        rc = snap_write_at(fd, c->data + (size_t)i * PAGE_SIZE, (size_t)n * PAGE_SIZE,
                           at + (u64)i * PAGE_SIZE);
    }
    return rc;
}

/* --- many chunks on a few threads --------------------------------------------------------------
 */

struct crew {
    int (*one)(struct crew *crew, u64 chunk);
    void *ctx;
    u64 next, count; /* next: atomic */
    int result;      /* the first that was not 0; atomic */
    struct sha256 fresh;
};

static void *crew_member(void *ctx) {
    struct crew *crew = ctx;
    while (!__atomic_load_n(&crew->result, __ATOMIC_RELAXED)) {
        u64 chunk = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        int rc = chunk < crew->count ? crew->one(crew, chunk) : 1, none = 0;
        if (rc == 1) {
            break;
        }
        if (rc) {
            __atomic_compare_exchange_n(&crew->result, &none, rc, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

/* What a thread could not be had for, the others do. */
static int crew_run(struct crew *crew) {
    pthread_t thread[MAX_THREADS];
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    u32 started = 0, want = (u32)MIN(MAX(cpus, 1), (long)MAX_THREADS);
    want = (u32)MIN((u64)want, crew->count);
    sha256_init(&crew->fresh);
    while (started + 1 < want && !pthread_create(&thread[started], NULL, crew_member, crew)) {
        started++;
    }
    crew_member(crew);
    while (started) {
        pthread_join(thread[--started], NULL);
    }
    return crew->result;
}

/* --- writing -----------------------------------------------------------------------------------
 */

static bool file_hole(int fd, u64 at, u64 size) {
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (u64)data >= at + size;
}

static bool mapped_pages(const struct snap_mem_write *w, const u8 *data, u32 pages) {
    u64 entry[CHUNK_PAGES], any = 0;
    u64 at = (u64)(uintptr_t)data / PAGE_SIZE * ENTRY_SIZE;
    if (w->pagemap < 0 || snap_read_at(w->pagemap, entry, pages * sizeof(u64), at)) {
        return true;
    }
    for (u32 i = 0; i < pages; i++) {
        any |= entry[i] & PAGEMAP_PRESENT;
    }
    return any;
}

/* Zeros for sure, without a look at them. */
static bool untouched(const struct snap_mem_write *w, u64 at, const struct chunk *c) {
    const struct host_ram *ram = w->ram;
    if (ram->fd < 0 || !file_hole(ram->fd, at, (u64)c->pages * PAGE_SIZE)) {
        return false;
    }
    return !ram->file || !mapped_pages(w, c->data, c->pages);
}

static u32 chunk_pages(u64 memory, u64 chunk) {
    return (u32)(MIN(SNAP_CHUNK, memory - chunk * SNAP_CHUNK) / PAGE_SIZE);
}

static int write_chunk(struct crew *crew, u64 n) {
    struct snap_mem_write *w = crew->ctx;
    u64 at = n * SNAP_CHUNK;
    struct chunk c = {.data = w->ram->hva + at, .pages = chunk_pages(w->ram->size, n)};
    if (w->pages || !untouched(w, at, &c)) {
        chunk_find(&c, w->pages, at / PAGE_SIZE);
    }
    int rc = chunk_write(&c, w->fd, at);
    if (!rc) {
        u64 bytes = 0;
        for (u32 i = 0; i < CHUNK_WORDS; i++) {
            bytes += (u64)__builtin_popcountll(c.map[i]) * PAGE_SIZE;
        }
        chunk_sum(&c, &crew->fresh, w->sums + n * SHA256_SIZE);
        __atomic_fetch_add(&w->written, bytes, __ATOMIC_RELAXED);
    }
    return rc;
}

int snap_mem_write(struct snap_mem_write *w, struct err *err) {
    struct crew crew = {.one = write_chunk, .ctx = w, .count = snap_chunks(w->ram->size)};
    w->written = 0;
    if (ftruncate(w->fd, (off_t)w->ram->size)) {
        return ERR_SET(err, errno == EFBIG || errno == ENOSPC ? ERR_NOSPACE : ERR_IO, "%s: %s",
                       w->name, strerror(errno));
    }
    int rc = crew_run(&crew);
    return !rc                  ? 0
           : rc == -ERR_NOSPACE ? ERR_SET(err, ERR_NOSPACE, "%s: the file system is full", w->name)
                                : ERR_SET(err, ERR_IO, "%s: cannot be written", w->name);
}

/* --- reading -----------------------------------------------------------------------------------
 */

int snap_mem_fd_check(const char *path, int fd, const struct snap_file *f, u64 vmgenid,
                      struct err *err) {
    struct stat st;
    u8 id[SNAP_ID_SIZE];
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        return ERR_SET(err, ERR_FORMAT, "%s: not a file", path);
    }
    if ((u64)st.st_size != f->info.memory) {
        return ERR_SET(err, ERR_FORMAT, "%s: %s: %llu bytes instead of %llu", path,
                       (u64)st.st_size < f->info.memory ? "truncated" : "not this memory",
                       (unsigned long long)st.st_size, (unsigned long long)f->info.memory);
    }
    if (snap_read_at(fd, id, sizeof(id), vmgenid) || memcmp(id, f->info.id, sizeof(id)) != 0) {
        return ERR_SET(err, ERR_FORMAT, "%s: the memory of another snapshot", path);
    }
    return 0;
}

int snap_mem_open(const char *path, const struct snap_file *f, u64 vmgenid, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ERR_SET(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    }
    int rc = snap_mem_fd_check(path, fd, f, vmgenid, err);
    if (rc) {
        close(fd);
    }
    return rc ? rc : fd;
}

struct checker {
    int fd;
    const struct snap_file *f;
};

static int check_chunk(struct crew *crew, u64 n) {
    const struct checker *ck = crew->ctx;
    u64 memory = ck->f->info.memory, at = n * SNAP_CHUNK;
    struct chunk c = {.pages = chunk_pages(memory, n)};
    const u8 *want = ck->f->sums + n * SHA256_SIZE;
    u8 sum[SHA256_SIZE] = {0}, *data = NULL;
    bool hole = file_hole(ck->fd, at, (u64)c.pages * PAGE_SIZE);
    if (!hole || ck->f->pages) {
        size_t size = (size_t)c.pages * PAGE_SIZE;
        data = calloc(1, SNAP_CHUNK);
        if (!data || snap_read_at(ck->fd, data, size, at)) {
            free(data);
            return -ERR_IO;
        }
        u64 bits[CHUNK_WORDS] = {0};
        if (ck->f->pages) {
            memcpy(bits, ck->f->pages + at / PAGE_SIZE / 8,
                   MIN(sizeof(bits), snap_page_bytes(memory) - at / PAGE_SIZE / 8));
        }
        c.data = data;
        chunk_find(&c, ck->f->pages ? bits : NULL, 0);
        chunk_sum(&c, &crew->fresh, sum);
        free(data);
    }
    return memcmp(sum, want, SHA256_SIZE) ? -ERR_FORMAT : 0;
}

int snap_mem_check(const char *path, int fd, const struct snap_file *f, struct err *err) {
    struct checker ck = {.fd = fd, .f = f};
    struct crew crew = {.one = check_chunk, .ctx = &ck, .count = f->sum_count};
    int rc = crew_run(&crew);
    return !rc ? 0
           : rc == -ERR_FORMAT
               ? ERR_SET(err, ERR_FORMAT, "%s: damaged: a checksum of the memory is wrong", path)
               : ERR_SET(err, ERR_IO, "%s: cannot be read", path);
}
