/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of the Linux host: the monitor's own from the C library, large tables and guest RAM from
 * mmap, generated code as shared memory mapped twice (read-write and read-execute).
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hosts/linux/host.h"

#define LARGE (2 * MIB) /* a large page of x86 */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

void *linux_alloc(struct host *host, size_t size) {
    (void)host;
    return calloc(1, size);
}

void linux_free(struct host *host, void *ptr, size_t size) {
    (void)host;
    (void)size;
    free(ptr);
}

/* Fresh addresses that begin where a large page could; nothing is there yet. NULL: none. */
static void *reserve_aligned(size_t size) {
    size_t all = ALIGN_UP(size, (size_t)PAGE_SIZE) + LARGE;
    if (all < size) {
        return NULL;
    }
    u8 *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if ((void *)p == MAP_FAILED) {
        return NULL;
    }
    size_t before = -(uintptr_t)p & (LARGE - 1);
    if (before) {
        munmap(p, before);
    }
    munmap(p + before + (all - LARGE), LARGE - before);
    return p + before;
}

void *linux_pages(struct host *host, size_t size) {
    (void)host;
    void *want = size >= LARGE ? reserve_aligned(size) : NULL;
    void *p = mmap(want, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (want ? MAP_FIXED : 0), -1, 0);
    if (p == MAP_FAILED) {
        if (want) {
            munmap(want, size);
        }
        return NULL;
    }
    if (size >= LARGE) { /* touched here and there: no huge pages. Not all kernels know of them. */
        (void)madvise(p, size, MADV_NOHUGEPAGE);
    }
    return p;
}

void linux_pages_free(struct host *host, void *ptr, size_t size) {
    (void)host;
    if (ptr) {
        munmap(ptr, size);
    }
}

/* Private memory takes no MADV_REMOVE, shared memory keeps its pages at MADV_DONTNEED. */
void linux_pages_discard(struct host *host, void *ptr, size_t size) {
    (void)host;
    if (madvise(ptr, size, MADV_REMOVE)) {
        (void)madvise(ptr, size, MADV_DONTNEED);
    }
}

void linux_pages_join(struct host *host, void *ptr, size_t size) {
    (void)host;
    uintptr_t begin = ALIGN_UP((uintptr_t)ptr, (uintptr_t)LARGE);
    uintptr_t end = ((uintptr_t)ptr + size) & ~((uintptr_t)LARGE - 1);
    if (begin < end) { /* kernels that cannot leave it as it was; once given back it is small */
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
        (void)madvise((void *)begin, end - begin, MADV_COLLAPSE);
        (void)madvise((void *)begin, end - begin, MADV_NOHUGEPAGE);
    }
}

/* KSM takes no shared memory. */
int linux_ram_alloc_private(struct host *host, u64 size, struct host_ram *out) {
    (void)host;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) {
        return -ERR_NOMEM;
    }
    madvise(p, size, MADV_DONTDUMP);
    *out = (struct host_ram){.hva = p, .size = size, .fd = -1};
    linux_ram_merge(out);
    return 0;
}

int linux_ram_alloc(struct host *host, u64 size, struct host_ram *out) {
    (void)host;
    int fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -ERR_NOMEM;
    }
    if (ftruncate(fd, (off_t)size)) {
        close(fd);
        return -ERR_NOMEM;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return -ERR_NOMEM;
    }
    /* Huge pages where the host allows them for shared memory; guest RAM stays out of core dumps.
     */
    madvise(p, size, MADV_HUGEPAGE);
    madvise(p, size, MADV_DONTDUMP);
    *out = (struct host_ram){.hva = p, .size = size, .fd = fd};
    return 0;
}

int linux_ram_map(int fd, u64 size, struct host_ram *out) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
        return -ERR_NOMEM;
    }
    madvise(p, size, MADV_DONTDUMP);
    *out = (struct host_ram){.hva = p, .size = size, .fd = fd, .file = true};
    return 0;
}

void linux_ram_mergeable(struct linux_host *lh) {
    lh->merging = *lh->host.ops;
    lh->merging.ram_alloc = linux_ram_alloc_private;
    lh->host.ops = &lh->merging;
}

void linux_ram_merge(const struct host_ram *ram) {
    (void)madvise(ram->hva, ram->size, MADV_MERGEABLE);
}

enum ksm_state linux_ksm_state(void) {
    char on = 0;
    int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, &on, 1) : 0;
    if (fd >= 0) {
        close(fd);
    }
    return n != 1 ? KSM_MISSING : on == '1' ? KSM_ON : KSM_OFF;
}

void linux_ram_free(struct host *host, struct host_ram *ram) {
    (void)host;
    if (ram->hva) {
        munmap(ram->hva, ram->size);
        if (ram->fd >= 0) {
            close(ram->fd);
        }
    }
    *ram = (struct host_ram){.fd = -1};
}

/* Shared memory: a hole in its file, which every mapping of it sees. Private memory (of a machine
 * that was restored) takes no MADV_REMOVE; there the copies that were made are dropped. */
int linux_ram_discard(struct host *host, u8 *hva, u64 size) {
    (void)host;
    if (!madvise(hva, size, MADV_REMOVE) || !madvise(hva, size, MADV_DONTNEED)) {
        return 0;
    }
    return -ERR_UNSUPPORTED;
}

/* Shared anonymous memory twice: perf takes names for it from /tmp/perf-PID.map, which it does not
 * for a memfd. An old size of 0 makes mremap map the same memory once more. */
int linux_code_alloc(struct host *host, size_t size, struct host_code *out) {
    (void)host;
    void *rw = reserve_aligned(size), *rx = reserve_aligned(size);
    if (!rw || !rx ||
        mmap(rw, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED ||
        mremap(rw, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, rx) == MAP_FAILED ||
        mprotect(rx, size, PROT_READ | PROT_EXEC)) {
        if (rx) {
            munmap(rx, size);
        }
        if (rw) {
            munmap(rw, size);
        }
        return -ERR_NOMEM;
    }
    *out = (struct host_code){.rw = rw, .rx = rx, .size = size};
    return 0;
}

void linux_code_free(struct host *host, struct host_code *code) {
    (void)host;
    if (code->rw) {
        munmap(code->rw, code->size);
        munmap(code->rx, code->size);
    }
    *code = (struct host_code){0};
}
