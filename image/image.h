/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: what a guest's disk is made of, independent of the host. A `struct image_file` is
 * where bytes are kept (a file on Linux, memory in tests); a `struct image` is a disk in it, raw or
 * qcow2, perhaps on top of another image that holds what it does not (its backing image).
 *
 *   device -> block_backend (hosts/linux/blk_image.c) -> struct image -> struct image_file
 *                                                          | backing
 *                                                        struct image -> struct image_file
 *
 * Two ways in. image_map never waits: it says where the bytes of a range are, when that is known
 * without reading tables, so that a host can move them with asynchronous I/O. Everything else goes
 * through readv, writev, zero, discard and flush, which block and may be called from any thread
 * that may block. Freestanding; compression comes from the host through struct image_codec.
 *
 * Errors: 0, -ERR_IO, -ERR_NOSPACE (host disk full; nothing was lost, try again later), -ERR_FORMAT
 * (the image is damaged), -ERR_RANGE, -ERR_PERM (read-only), -ERR_NOMEM, -ERR_UNSUPPORTED.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include "core/base/err.h"
#include "core/if/backend.h" /* struct iov */
#include "core/if/mutex.h"

enum { IMAGE_SECTOR = 512, IMAGE_CHAIN_MAX = 32 };

/* --- where bytes are kept ----------------------------------------------------------------------
 */

struct image_file;
struct image_file_ops {
    /* Bytes beyond the end read as zeros. */
    int (*readv)(struct image_file *f, u64 offset, const struct iov *iov, u32 count);
    int (*writev)(struct image_file *f, u64 offset, const struct iov *iov, u32 count);
    /* What was written is on stable storage when it returns 0. */
    int (*flush)(struct image_file *f);
    /* The range reads as zeros afterwards; gives storage back where it can (unmap). */
    int (*zero)(struct image_file *f, u64 offset, u64 length, bool unmap);
    /* The range will not be read again: storage may be given back. -ERR_UNSUPPORTED: it cannot. */
    int (*discard)(struct image_file *f, u64 offset, u64 length);
    int (*truncate)(struct image_file *f, u64 size);
    /* Optional: is offset in a hole? *length is cut to where the answer changes. */
    bool (*hole)(struct image_file *f, u64 offset, u64 *length);
    void (*close)(struct image_file *f);
};

struct image_file {
    const struct image_file_ops *ops;
    u64 size; /* bytes; at open, then raised by whoever writes beyond it */
    bool readonly;
};

static inline int file_read(struct image_file *f, u64 offset, void *buf, size_t len) {
    struct iov one = {.base = buf, .len = len};
    return f->ops->readv(f, offset, &one, 1);
}

static inline int file_write(struct image_file *f, u64 offset, const void *buf, size_t len) {
    struct iov one = {.base = (void *)(uintptr_t)buf, .len = len};
    return f->ops->writev(f, offset, &one, 1);
}

/* Both return 0 when exactly out_len bytes came out, else -ERR_FORMAT. NULL: not available. */
struct image_codec {
    int (*inflate)(const u8 *in, size_t in_len, u8 *out, size_t out_len); /* raw deflate */
    int (*zstd)(const u8 *in, size_t in_len, u8 *out, size_t out_len);
};

/* --- images ------------------------------------------------------------------------------------
 */

enum image_kind { EXTENT_DATA, EXTENT_ZERO, EXTENT_SLOW };

/* Where the first `length` bytes of a range are. DATA: at `offset` of `file`; the place stays
 * theirs until image_unmap. SLOW: not known without waiting, or not a plain place. */
struct image_extent {
    enum image_kind kind;
    u64 length;
    struct image_file *file;
    u64 offset;
    struct image *owner; /* holds the place */
    u32 epoch;
};

struct image;
struct image_ops {
    const char *name; /* "raw", "qcow2" */
    void (*map)(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e);
    void (*unmap)(struct image *im, const struct image_extent *e);
    int (*readv)(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length);
    int (*writev)(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length);
    /* unmap: storage may be given back. */
    int (*zero)(struct image *im, u64 offset, u64 length, bool unmap);
    int (*discard)(struct image *im, u64 offset, u64 length);
    int (*flush)(struct image *im);
    /* True when flush has nothing to do but flush the file. */
    bool (*clean)(struct image *im);
    /* Is [offset, offset+*length) of this layer's own (not its backing image's)? *length is cut to
     * where the answer changes; *zero: it reads as zeros without storage. */
    int (*status)(struct image *im, u64 offset, u64 *length, bool *own, bool *zero);
    /* Writes back and closes the file, and the backing image. The first error, or 0. */
    int (*close)(struct image *im);
};

struct image {
    const struct image_ops *ops;
    struct host *host;
    struct image_file *file; /* owned */
    struct image *backing;   /* owned; NULL: none */
    u64 size;                /* bytes of the disk, a multiple of 512 */
    bool readonly;
    bool throwaway; /* nobody will open it again: close writes nothing back */
};

/* Takes the file over when it succeeds. */
int raw_image_open(struct host *host, struct image_file *file, bool readonly, struct image **out,
                   struct err *err);

/* The range must lie in the image. Backing images are looked through. */
void image_map(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e);
void image_unmap(const struct image_extent *e);
int image_read(struct image *im, u64 offset, void *buf, size_t len);
int image_write(struct image *im, u64 offset, const void *buf, size_t len);
/* Reads what lies beyond the end as zeros. */
int image_readv_padded(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length);

/* --- iov helpers -------------------------------------------------------------------------------
 */

void iov_zero(const struct iov *iov, u32 count);
/* Copies between a buffer and bytes [from, from+len) of an iov. */
void iov_get(const struct iov *iov, u32 count, u64 from, void *buf, size_t len);
void iov_put(const struct iov *iov, u32 count, u64 from, const void *buf, size_t len);
/* The part [from, from+len) into dst, at most `max` entries; returns how many bytes fitted. */
u64 iov_part(const struct iov *iov, u32 count, u64 from, u64 len, struct iov *dst, u32 max,
             u32 *dst_count);

#endif
