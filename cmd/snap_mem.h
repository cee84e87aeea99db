/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory file of a snapshot: guest RAM in the order of the host's mapping (low memory, then
 * what lies above 4 GiB), page-aligned, exactly as long as the memory. A full one leaves pages of
 * zeros out (holes); an incremental one holds exactly the pages of its bitmap, zeros too, so that
 * tools that look for data (SEEK_DATA) find them.
 *
 * Checksums: for each chunk of 2 MiB SHA-256 of a bitmap of its pages (64 bytes) and of these
 * pages; in a full file those that are not all zeros, in an incremental one those of its bitmap. A
 * chunk without pages has 32 zeros.
 */
#ifndef CMD_SNAP_MEM_H
#define CMD_SNAP_MEM_H

#include "cmd/snap_file.h"
#include "core/if/host.h"

struct snap_mem_write {
    const struct host_ram *ram;
    const u64 *pages; /* incremental: which; NULL: all that are not zero */
    int fd;           /* empty file, for writing */
    const char *name; /* for messages */
    int pagemap;      /* /proc/self/pagemap: what the guest never touched is not read; -1: it is */
    u8 *sums;         /* out: SHA256_SIZE for each chunk; NULL: snap_mem_sum does it later */
    u64 written;      /* out: bytes of pages */
};

/* The machine stands still. 0, -ERR_NOSPACE, -ERR_IO or -ERR_NOMEM. */
int snap_mem_write(struct snap_mem_write *w, struct err *err);

/* Opens the memory file of f and looks whether it is the right one: its length and the identifier
 * at vmgenid (an offset). A descriptor or a negative code. */
int snap_mem_open(const char *path, const struct snap_file *f, u64 vmgenid, struct err *err);
int snap_mem_fd_check(const char *path, int fd, const struct snap_file *f, u64 vmgenid,
                      struct err *err);

/* Reads all of it: the checksums into sums, SHA256_SIZE for each chunk. 0, -ERR_IO or
 * -ERR_NOMEM. */
int snap_mem_sum(const char *path, int fd, const struct snap_file *f, u8 *sums, struct err *err);
/* Reads all of it and compares the checksums: 0, -ERR_FORMAT, -ERR_IO or -ERR_NOMEM. */
int snap_mem_check(const char *path, int fd, const struct snap_file *f, struct err *err);

/* The bytes of [at, at + size) of an open file: 0, or -ERR_IO with errno. */
int snap_read_at(int fd, void *buf, size_t size, u64 at);
/* 0, -ERR_NOSPACE or -ERR_IO. */
int snap_write_at(int fd, const void *buf, size_t size, u64 at);
/* err for what it returned: that code. name: of the file */
int snap_write_error(const char *name, int rc, struct err *err);

#endif
