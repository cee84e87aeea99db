/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory files of snapshots; see snap_mem.h. Chunks are shared out among a few threads. What the
 * guest never touched is found without reading it: holes of the shared memory, or pages of a
 * private mapping that are neither in the page tables nor in its file.
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

/* --- bytes of files ----------------------------------------------------------------------------
 */

int snap_read_at(int fd, void *buf, size_t size, u64 at) {
    for (u8 *p = buf; size;) {
        ssize_t n = pread(fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n ? errno : EIO;
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

int snap_write_error(const char *name, int rc, struct err *err) {
    return rc == -ERR_NOSPACE ? ERR_SET(err, ERR_NOSPACE, "%s: the file system is full", name)
                              : ERR_SET(err, ERR_IO, "%s: cannot be written", name);
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

static bool bit(const u64 *bits, u32 n) {
    return bits[n / 64] >> n % 64 & 1;
}

static bool chunk_has(const struct chunk *c, u32 page) {
    return bit(c->map, page);
}

static void chunk_add(struct chunk *c, u32 page) {
    c->map[page / 64] |= BIT(page % 64);
    c->any = true;
}

/* Adds the pages of `bits`; those of zeros only with `zeros`. */
static void chunk_find(struct chunk *c, const u64 bits[CHUNK_WORDS], bool zeros) {
    for (u32 i = 0; i < c->pages; i++) {
        if (bit(bits, i) && (zeros || !page_is_zero(c->data + (size_t)i * PAGE_SIZE))) {
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

/* The next run of set bits from *from on; its length, 0 at the end. */
static u32 bits_run(const u64 *bits, u32 count, u32 *from) {
    u32 n = 0;
    while (*from < count && !bit(bits, *from)) {
        ++*from;
    }
    while (*from + n < count && bit(bits, *from + n)) {
        n++;
    }
    return n;
}

static int chunk_write(const struct chunk *c, int fd, u64 at) {
    int rc = 0;
    for (u32 i = 0, n; !rc && (n = bits_run(c->map, c->pages, &i)); i += n) {
        rc = snap_write_at(fd, c->data + (size_t)i * PAGE_SIZE, (size_t)n * PAGE_SIZE,
                           at + (u64)i * PAGE_SIZE);
    }
    return rc;
}

/* --- many chunks on a few threads --------------------------------------------------------------
 */

struct crew {
    int (*one)(struct crew *crew, u64 chunk, u8 *room);
    void *ctx;
    size_t room;     /* each member has so much memory for itself */
    u64 next, count; /* next: atomic */
    int result;      /* the first that was not 0; atomic */
    struct sha256 fresh;
};

static void crew_result(struct crew *crew, int rc) {
    int none = 0;
    __atomic_compare_exchange_n(&crew->result, &none, rc, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
}

static void *crew_member(void *ctx) {
    struct crew *crew = ctx;
    u8 *room = crew->room ? malloc(crew->room) : NULL;
    if (crew->room && !room) {
        crew_result(crew, -ERR_NOMEM);
    }
    while (!__atomic_load_n(&crew->result, __ATOMIC_RELAXED)) {
        u64 chunk = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        int rc = chunk < crew->count ? crew->one(crew, chunk, room) : 1;
        if (rc == 1) {
            break;
        }
        if (rc) {
            crew_result(crew, rc);
        }
    }
    free(room);
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

static void bits_set(u64 *bits, u64 from, u64 to) {
    for (u64 i = from; i < to; i++) {
        bits[i / 64] |= BIT(i % 64);
    }
}

/* A bit for each page of a file that has data there (free it); all when it cannot say. One pass
 * over all of it: to look for the end of the data in each chunk anew would take its square. NULL:
 * no memory. */
static u64 *file_pages(int fd, u64 size) {
    u64 *bits = calloc(1, snap_page_bytes(size));
    off_t end = (off_t)size, data, hole;
    for (off_t pos = 0; bits && pos < end; pos = hole) {
        data = lseek(fd, pos, SEEK_DATA);
        hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        if (data >= end || (data < 0 && errno == ENXIO)) {
            break;
        }
        if (hole <= data) {
            bits_set(bits, 0, size / PAGE_SIZE);
            break;
        }
        hole = MIN(hole, end);
        bits_set(bits, (u64)data / PAGE_SIZE, ((u64)hole + PAGE_SIZE - 1) / PAGE_SIZE);
    }
    return bits;
}

/* The pages that the process has of its own, or of the file. */
static void mapped_pages(int pagemap, const u8 *data, u32 pages, u64 *bits) {
    u64 entry[CHUNK_PAGES], at = (u64)(uintptr_t)data / PAGE_SIZE * ENTRY_SIZE;
    if (pagemap < 0 || snap_read_at(pagemap, entry, pages * sizeof(u64), at)) {
        bits_set(bits, 0, pages);
        return;
    }
    for (u32 i = 0; i < pages; i++) {
        bits[i / 64] |= entry[i] & PAGEMAP_PRESENT ? BIT(i % 64) : 0;
    }
}

/* Those of a bitmap of all pages that are in chunk n, which begins with one of its words. */
static void bitmap_pages(const void *bitmap, u64 memory, u64 n, u64 bits[CHUNK_WORDS]) {
    size_t size = CHUNK_WORDS * sizeof(u64), all = snap_page_bytes(memory), at = n * size;
    memcpy(bits, (const u8 *)bitmap + at, MIN(size, all - at));
}

static u32 chunk_pages(u64 memory, u64 chunk) {
    return (u32)(MIN(SNAP_CHUNK, memory - chunk * SNAP_CHUNK) / PAGE_SIZE);
}

struct writing {
    struct snap_mem_write *w;
    const u64 *pages; /* that may hold anything: a look at others would make them. NULL: all */
};

static int write_chunk(struct crew *crew, u64 n, u8 *room) {
    const struct writing *ctx = crew->ctx;
    struct snap_mem_write *w = ctx->w;
    u64 at = n * SNAP_CHUNK, bits[CHUNK_WORDS] = {0}, bytes = 0;
    struct chunk c = {.data = w->ram->hva + at, .pages = chunk_pages(w->ram->size, n)};
    (void)room;
    if (ctx->pages) {
        bitmap_pages(ctx->pages, w->ram->size, n, bits);
    } else {
        bits_set(bits, 0, c.pages);
    }
    if (w->ram->file && ctx->pages && !w->pages) {
        mapped_pages(w->pagemap, c.data, c.pages, bits);
    }
    chunk_find(&c, bits, w->pages);
    int rc = chunk_write(&c, w->fd, at);
    if (!rc && w->sums) {
        chunk_sum(&c, &crew->fresh, w->sums + n * SHA256_SIZE);
    }
    for (u32 i = 0; i < CHUNK_WORDS; i++) {
        bytes += (u64)__builtin_popcountll(c.map[i]) * PAGE_SIZE;
    }
    __atomic_fetch_add(&w->written, bytes, __ATOMIC_RELAXED);
    return rc;
}

int snap_mem_write(struct snap_mem_write *w, struct err *err) {
    u64 *data = w->pages || w->ram->fd < 0 ? NULL : file_pages(w->ram->fd, w->ram->size);
    struct writing ctx = {.w = w, .pages = w->pages ? w->pages : data};
    struct crew crew = {.one = write_chunk, .ctx = &ctx, .count = snap_chunks(w->ram->size)};
    w->written = 0;
    if (ftruncate(w->fd, (off_t)w->ram->size)) {
        free(data);
        return ERR_SET(err, errno == EFBIG || errno == ENOSPC ? ERR_NOSPACE : ERR_IO, "%s: %s",
                       w->name, strerror(errno));
    }
    int rc = crew_run(&crew);
    free(data);
    return rc ? snap_write_error(w->name, rc, err) : 0;
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
    const void *pages; /* those to read */
    u8 *sums;          /* NULL: compare with those of f */
};

/* The pages of `bits` to their places in the chunk. */
static int chunk_read(int fd, u64 at, const u64 bits[CHUNK_WORDS], u32 pages, u8 *data) {
    int rc = 0;
    for (u32 i = 0, n; !rc && (n = bits_run(bits, pages, &i)); i += n) {
        rc = snap_read_at(fd, data + (size_t)i * PAGE_SIZE, (size_t)n * PAGE_SIZE,
                          at + (u64)i * PAGE_SIZE);
    }
    return rc;
}

static int check_chunk(struct crew *crew, u64 n, u8 *room) {
    const struct checker *ck = crew->ctx;
    u64 memory = ck->f->info.memory, at = n * SNAP_CHUNK, bits[CHUNK_WORDS] = {0};
    struct chunk c = {.data = room, .pages = chunk_pages(memory, n)};
    u8 sum[SHA256_SIZE];
    bitmap_pages(ck->pages, memory, n, bits);
    int rc = chunk_read(ck->fd, at, bits, c.pages, room);
    if (rc) {
        return rc;
    }
    chunk_find(&c, bits, ck->f->pages);
    chunk_sum(&c, &crew->fresh, sum);
    if (ck->sums) {
        memcpy(ck->sums + n * SHA256_SIZE, sum, sizeof(sum));
        return 0;
    }
    return memcmp(sum, ck->f->sums + n * SHA256_SIZE, sizeof(sum)) ? -ERR_FORMAT : 0;
}

static int read_all(const char *path, struct checker *ck, struct err *err) {
    struct crew crew = {
        .one = check_chunk, .ctx = ck, .count = ck->f->sum_count, .room = SNAP_CHUNK};
    u64 *data = ck->f->pages ? NULL : file_pages(ck->fd, ck->f->info.memory);
    ck->pages = ck->f->pages ? (const void *)ck->f->pages : data;
    int rc = ck->pages ? crew_run(&crew) : -ERR_NOMEM;
    free(data);
    switch (rc) {
    case 0:
        return 0;
    case -ERR_FORMAT:
        return ERR_SET(err, ERR_FORMAT, "%s: damaged: a checksum of the memory is wrong", path);
    case -ERR_NOMEM:
        return ERR_SET(err, ERR_NOMEM, "%s: out of memory", path);
    default:
        return ERR_SET(err, ERR_IO, "%s: cannot be read", path);
    }
}

int snap_mem_sum(const char *path, int fd, const struct snap_file *f, u8 *sums, struct err *err) {
    struct checker ck = {.fd = fd, .f = f, .sums = sums};
    return read_all(path, &ck, err);
}

int snap_mem_check(const char *path, int fd, const struct snap_file *f, struct err *err) {
    struct checker ck = {.fd = fd, .f = f};
    return read_all(path, &ck, err);
}
