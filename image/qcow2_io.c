/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a qcow2 image when waiting is allowed. Tables are read with meta held, data without,
 * while its place is held.
 */
#include "image/qcow2_int.h"

enum { PARTS = 256 };

u8 *buffer_get(struct qcow2 *q, u8 **buf, u64 clusters) {
    if (!*buf) {
        *buf = q->im.host->ops->pages(q->im.host, (size_t)(clusters * q->cluster_size));
    }
    return *buf;
}

/* One compressed cluster into q->unpacked, where the last one still may be. meta held. */
static int unpack(struct qcow2 *q, u64 entry) {
    u64 offset, bytes;
    u8 *in = buffer_get(q, &q->packed, 2), *out = buffer_get(q, &q->unpacked, 1);
    int (*decode)(const u8 *, size_t, u8 *, size_t) = NULL;
    if (!in || !out) {
        return -ERR_NOMEM;
    }
    if (q->unpacked_entry == entry) {
        return 0;
    }
    if (q->codec) {
        decode = q->compression ? q->codec->zstd : q->codec->inflate;
    }
    if (!decode) {
        return -ERR_UNSUPPORTED;
    }
    packed_place(q, entry, &offset, &bytes);
    q->unpacked_entry = 0;
    int rc = file_read(q->im.file, offset, in, (size_t)bytes);
    rc = rc ? rc : decode(in, (size_t)bytes, out, (size_t)q->cluster_size);
    if (!rc) {
        q->unpacked_entry = entry;
    }
    return rc;
}

/* Loads the table of offset, so that image_map knows; or copies what only we can: *done bytes. */
static int prepare(struct qcow2 *q, u64 offset, const struct iov *iov, u32 count, u64 from,
                   u64 length, u64 *done) {
    struct qtable *t;
    u32 index;
    *done = 0;
    int rc = l2_load(q, offset, &t, &index);
    u64 entry = !rc && t ? l2_get(t, index) : 0;
    enum qcluster kind = qcluster_of(q, entry);
    if (rc || kind == Q_BAD) {
        return rc ? rc : -ERR_FORMAT;
    }
    if (kind == Q_COMPRESSED) {
        u64 within = in_cluster(q, offset), n = MIN(length, q->cluster_size - within);
        rc = unpack(q, entry);
        if (!rc) {
            iov_put(iov, count, from, q->unpacked + within, (size_t)n);
            *done = n;
        }
    }
    return rc;
}

static int read_extent(const struct image_extent *e, u64 offset, const struct iov *iov, u32 count,
                       u64 from, u64 *done) {
    struct iov part[PARTS];
    u32 n;
    int rc = 0;
    *done = iov_part(iov, count, from, e->length, part, PARTS, &n);
    if (e->kind == EXTENT_ZERO) {
        iov_zero(part, n);
    } else if (e->kind == EXTENT_DATA) {
        rc = e->file->ops->readv(e->file, e->offset, part, n);
    } else { /* a lower image must look */
        rc = e->owner->ops->readv(e->owner, offset, part, n, *done);
    }
    return rc;
}

static int read_step(struct qcow2 *q, u64 offset, const struct iov *iov, u32 count, u64 from,
                     u64 length, bool locked, u64 *done) {
    struct image_extent e;
    image_map(&q->im, offset, length, false, &e);
    if (e.kind == EXTENT_SLOW && e.owner == &q->im) {
        if (!locked) {
            mutex_lock(q->im.host, &q->meta);
        }
        int rc = prepare(q, offset, iov, count, from, length, done);
        if (!locked) {
            mutex_unlock(q->im.host, &q->meta);
        }
        return rc;
    }
    int rc = read_extent(&e, offset, iov, count, from, done);
    image_unmap(&e);
    return rc;
}

/* A table that is evicted again before it was looked at is read again; others make progress
 * meanwhile, so that does not go on for ever. */
static int read_loop(struct qcow2 *q, u64 offset, const struct iov *iov, u32 count, u64 length,
                     bool locked) {
    int rc = 0;
    for (u64 at = 0; at < length && !rc;) {
        u64 done = 0;
        rc = read_step(q, offset + at, iov, count, at, length - at, locked, &done);
        at += done;
    }
    return rc;
}

int qcow2_readv(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length) {
    return read_loop(qcow2_of(im), offset, iov, count, length, false);
}

int read_locked(struct qcow2 *q, u64 offset, void *buf, u64 length) {
    struct iov one = {.base = buf, .len = (size_t)length};
    return read_loop(q, offset, &one, 1, length, true);
}
