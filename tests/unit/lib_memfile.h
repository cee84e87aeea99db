/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file in memory for tests of disk images. It remembers every write and flush, so that a test can
 * build what would be on disk after a crash at any of them; and it can be full, or fail.
 */
#ifndef TESTS_UNIT_LIB_MEMFILE_H
#define TESTS_UNIT_LIB_MEMFILE_H

#include "image/image.h"

enum memop_kind { MEM_WRITE, MEM_ZERO, MEM_FLUSH, MEM_TRUNCATE };

struct memop {
    enum memop_kind kind;
    u64 offset, length;
    u8 *data; /* of a write */
};

struct memfile {
    struct image_file file; /* file.size is what the driver thinks; `end` what is there */
    u8 *data;
    u64 cap, end;
    struct memop *log;
    u32 ops, log_cap;
    bool logging;
    bool closed;
    u64 room;    /* writes beyond this many bytes fail with -ERR_NOSPACE; default: none */
    s64 fail_in; /* counts down with every write and flush; at 0 -ERR_IO. -1: never */
    u64 flushes;
};

struct memfile *memfile_create(void);
void memfile_destroy(struct memfile *m);
struct memfile *memfile_copy(const struct memfile *m);
/* Applies one logged operation. */
void memfile_apply(struct memfile *m, const struct memop *op);
/* After it was closed by its image: ready to be opened again. */
struct image_file *memfile_again(struct memfile *m);

#endif
