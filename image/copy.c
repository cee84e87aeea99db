/* SPDX-License-Identifier: Apache-2.0 */
/* Copying, committing and comparing whole images, a piece at a time; zeros stay holes. */
#include "image/qcow2.h"

enum { PIECE = 2 << 20, GRAIN = 64 * 1024 };

static bool all_zero(const u8 *p, u64 len) {
    return !p[0] && !memcmp(p, p + 1, (size_t)len - 1);
}

/* Does [offset, offset+*length) read as zeros, as far as the layers say without reading data? */
static bool known_zero(struct image *im, u64 offset, u64 *length) {
    for (; im; im = im->backing) {
        bool own, zero;
        if (offset >= im->size) {
            return true;
        }
        *length = MIN(*length, im->size - offset);
        if (im->ops->status(im, offset, length, &own, &zero)) {
            return false;
        }
        if (own || zero) {
            return zero;
        }
    }
    return true;
}

/* Runs of zeros and of data in turn, in steps of GRAIN. */
static int piece_write(struct image *dst, u64 offset, u8 *buf, u64 length, bool fresh) {
    int rc = 0;
    for (u64 at = 0, n; at < length && !rc; at += n) {
        n = MIN(length - at, (u64)GRAIN);
        bool zero = all_zero(buf + at, n);
        while (at + n < length) {
            u64 next = MIN(length - at - n, (u64)GRAIN);
            if (all_zero(buf + at + n, next) != zero) {
                break;
            }
            n += next;
        }
        if (!zero) {
            rc = image_write(dst, offset + at, buf + at, (size_t)n);
        } else if (!fresh) {
            rc = dst->ops->zero(dst, offset + at, n, true);
        }
    }
    return rc;
}

static int piece_copy(struct image *dst, struct image *src, u64 offset, u8 *buf, u64 *length,
                      bool fresh) {
    u64 run = *length;
    if (known_zero(src, offset, &run)) {
        *length = run;
        return fresh ? 0 : dst->ops->zero(dst, offset, run, true);
    }
    *length = MIN(*length, (u64)PIECE);
    struct iov one = {.base = buf, .len = (size_t)*length};
    int rc = image_readv_padded(src, offset, &one, 1, *length);
    return rc ? rc : piece_write(dst, offset, buf, *length, fresh);
}

int image_copy(struct image *dst, struct image *src, u64 length, bool fresh,
               image_progress_fn progress, void *ctx) {
    u8 *buf = dst->host->ops->pages(dst->host, PIECE);
    int rc = buf ? 0 : -ERR_NOMEM;
    for (u64 at = 0; at < length && !rc;) {
        u64 n = MIN(length - at, (u64)PIECE * 64);
        rc = piece_copy(dst, src, at, buf, &n, fresh);
        at += n;
        if (!rc && progress && !progress(ctx, at, length)) {
            rc = -ERR_STATE;
        }
    }
    if (buf) {
        dst->host->ops->pages_free(dst->host, buf, PIECE);
    }
    return rc ? rc : dst->ops->flush(dst);
}

static int commit_piece(struct image *im, u64 at, u8 *buf, u64 *n) {
    bool own, zero;
    int rc = im->ops->status(im, at, n, &own, &zero);
    if (rc || !own) {
        return rc;
    }
    if (zero) {
        return im->backing->ops->zero(im->backing, at, *n, true);
    }
    *n = MIN(*n, (u64)PIECE);
    rc = image_read(im, at, buf, (size_t)*n);
    return rc ? rc : image_write(im->backing, at, buf, (size_t)*n);
}

int image_commit(struct image *im, image_progress_fn progress, void *ctx) {
    struct image *below = im->backing;
    if (!below || below->readonly) {
        return below ? -ERR_PERM : -ERR_NOTFOUND;
    }
    if (below->size < im->size) {
        return -ERR_RANGE;
    }
    u8 *buf = im->host->ops->pages(im->host, PIECE);
    int rc = buf ? 0 : -ERR_NOMEM;
    for (u64 at = 0; at < im->size && !rc;) {
        u64 n = im->size - at;
        rc = commit_piece(im, at, buf, &n);
        at += n;
        if (!rc && progress && !progress(ctx, at, im->size)) {
            rc = -ERR_STATE;
        }
    }
    if (buf) {
        im->host->ops->pages_free(im->host, buf, PIECE);
    }
    return rc ? rc : below->ops->flush(below);
}

static u64 first_difference(const u8 *a, const u8 *b, u64 n) {
    u64 i = 0;
    while (i < n && a[i] == b[i]) {
        i++;
    }
    return i;
}

static int compare_piece(struct image *a, struct image *b, u64 at, u8 *buf, u64 *n, u64 *where) {
    u64 za = *n, zb = *n;
    if (known_zero(a, at, &za) && known_zero(b, at, &zb)) {
        *n = MIN(za, zb);
        return 0;
    }
    *n = MIN(*n, (u64)PIECE);
    struct iov x = {.base = buf, .len = (size_t)*n}, y = {.base = buf + PIECE, .len = (size_t)*n};
    int rc = image_readv_padded(a, at, &x, 1, *n);
    rc = rc ? rc : image_readv_padded(b, at, &y, 1, *n);
    if (!rc && memcmp(buf, buf + PIECE, (size_t)*n) != 0) {
        *where = at + first_difference(buf, buf + PIECE, *n);
        return 1;
    }
    return rc;
}

int image_compare(struct image *a, struct image *b, u64 *where, image_progress_fn progress,
                  void *ctx) {
    u64 length = MAX(a->size, b->size);
    u8 *buf = a->host->ops->pages(a->host, PIECE * 2);
    int rc = buf ? 0 : -ERR_NOMEM;
    for (u64 at = 0; at < length && !rc;) {
        u64 n = length - at;
        rc = compare_piece(a, b, at, buf, &n, where);
        at += n;
        if (!rc && progress && !progress(ctx, at, length)) {
            rc = -ERR_STATE;
        }
    }
    if (buf) {
        a->host->ops->pages_free(a->host, buf, PIECE * 2);
    }
    return rc;
}
