/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state file of a snapshot; the guest's memory is a second file beside it (snap_mem.h). All
 * little-endian.
 *
 *   0   "SOSIASNP"          8   format version u32      12  bytes of this header (64) u32
 *   16  bytes of the file u64                            24  id (16 bytes)   40  zero
 *   64  sections of core/base/snap.h: INFO, CONF, DISK, CPID, CSUM, PAGE, MACH
 *   end - 32  SHA-256 of everything before
 *
 * The id is random, and also stands in the memory file at the place of the generation identifier
 * (LAYOUT_VMGENID), so that a state and another snapshot's memory are not taken together.
 */
#ifndef CMD_SNAP_FILE_H
#define CMD_SNAP_FILE_H

#include "core/base/err.h"
#include "core/base/sha256.h"
#include "core/base/snap.h"
#include "core/cpu/cpuid.h"

enum {
    SNAP_VERSION = 1,
    SNAP_HEADER_SIZE = 64,
    SNAP_ID_SIZE = 16,
    SNAP_MAX_DISKS = 16,
    SNAP_TEXT_MAX = 4096, /* bytes of a path or name, its NUL included */
};

#define SNAP_FILE_MAX (256 * MIB)
/* One checksum covers so much memory. */
#define SNAP_CHUNK (2 * MIB)

/* What a disk was when the machine was saved: one that was written since does not fit the guest's
 * memory any more. */
struct snap_disk {
    char path[SNAP_TEXT_MAX];
    u64 size;     /* bytes of the file */
    s64 mtime_ns; /* since 1970; 0: not looked at */
    bool writable;
};

struct snap_info {
    u8 id[SNAP_ID_SIZE];
    bool incremental;                /* memory has only the pages of `pages`; the rest is base's */
    u8 base_id[SNAP_ID_SIZE];        /* incremental: the snapshot it stands on, */
    char base[SNAP_TEXT_MAX];        /* and where its state file was */
    char memory_path[SNAP_TEXT_MAX]; /* "": the state file's name and ".mem" */
    char engine[16];                 /* that ran it; for a person */
    char program[32];                /* version that wrote it */
    u64 wall_ns;                     /* when, since 1970 */
    u64 tsc_hz;
    u64 memory; /* bytes */
    u32 vcpus;
    u32 disk_count;
    struct snap_disk disk[SNAP_MAX_DISKS];
};

/* A state file in memory. What is not a copy points into buf. */
struct snap_file {
    u8 *buf; /* malloc */
    size_t size;
    struct snap_info info;
    struct cpuid_policy cpuid;
    const char *conf; /* JSON, not terminated */
    size_t conf_size;
    const u8 *sums; /* SHA256_SIZE bytes for each chunk of memory */
    u64 sum_count;
    const u8 *pages; /* incremental: a bit for each page of memory; else NULL */
    struct snap_reader machine;
};

/* Takes buf (malloc) over when it succeeds. Looks at everything but the machine's own sections.
 * name is for messages. 0, -ERR_FORMAT, or -ERR_UNSUPPORTED for a newer one. */
int snap_file_parse(const char *name, u8 *buf, size_t size, struct snap_file *out, struct err *err);
/* Reads and parses; -ERR_NOTFOUND and others of opening it, too. */
int snap_file_load(const char *path, struct snap_file *out, struct err *err);
int snap_file_read(const char *name, int fd, struct snap_file *out, struct err *err);
void snap_file_free(struct snap_file *f);

/* A file that snap_file_build left unsealed: its checksums are zeros still. They go into f, and the
 * file's own last; f->buf is then what it must be. sums: SHA256_SIZE for each of f->sum_count. */
int snap_file_read_unsealed(const char *name, int fd, struct snap_file *out, struct err *err);
void snap_file_seal(struct snap_file *f, const u8 *sums);

/* What is needed to write one. */
struct snap_parts {
    const struct snap_info *info;
    const struct cpuid_policy *cpuid;
    const char *conf;
    const u8 *sums; /* NULL: not known yet, the file stays unsealed and will not load */
    const u8 *pages;
    const u8 *machine; /* what vm_save wrote */
    size_t machine_size;
};

/* The file in memory (malloc): 0 or -ERR_NOMEM, -ERR_RANGE. */
int snap_file_build(const struct snap_parts *p, u8 **buf, size_t *size, struct err *err);

/* The memory file that belongs to the state file at path. */
int snap_memory_path(const char *path, const struct snap_info *info, char *out, size_t size,
                     struct err *err);

static inline u64 snap_chunks(u64 memory) {
    return (memory + SNAP_CHUNK - 1) / SNAP_CHUNK;
}

/* A bitmap with a bit for each page: its bytes, and one of its bits. */
static inline size_t snap_page_bytes(u64 memory) {
    return (size_t)((memory / PAGE_SIZE + 63) / 64 * 8);
}
static inline bool snap_page_in(const u8 *pages, u64 page) {
    return pages[page / 8] >> page % 8 & 1;
}

#endif
