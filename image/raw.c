/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: byte n of the disk is byte n of the file. Also what all images share: looking through
 * backing images and the arithmetic of scatter lists. No lock: the file orders its own requests.
 */
#include "image/image.h"

/* --- iov --------------------------------------------------------------------------------------
 */

void iov_zero(const struct iov *iov, u32 count) {
    for (u32 i = 0; i < count; i++) {
        memset(iov[i].base, 0, iov[i].len);
    }
}

u64 iov_part(const struct iov *iov, u32 count, u64 from, u64 len, struct iov *dst, u32 max,
             u32 *dst_count) {
    u64 done = 0;
    u32 n = 0;
    for (u32 i = 0; i < count && done < len && n < max; i++) {
        if (from >= iov[i].len) {
            from -= iov[i].len;
            continue;
        }
        u64 take = MIN(iov[i].len - from, len - done);
        dst[n++] = (struct iov){.base = (u8 *)iov[i].base + from, .len = take};
        done += take;
        from = 0;
    }
    *dst_count = n;
    return done;
}

void iov_get(const struct iov *iov, u32 count, u64 from, void *buf, size_t len) {
    struct iov part;
    u32 n;
    for (size_t done = 0; done < len;) {
        u64 got = iov_part(iov, count, from + done, len - done, &part, 1, &n);
        if (!got) {
            break;
        }
        memcpy((u8 *)buf + done, part.base, (size_t)got);
        done += (size_t)got;
    }
}

void iov_put(const struct iov *iov, u32 count, u64 from, const void *buf, size_t len) {
    struct iov part;
    u32 n;
    for (size_t done = 0; done < len;) {
        u64 got = iov_part(iov, count, from + done, len - done, &part, 1, &n);
        if (!got) {
            break;
        }
        memcpy(part.base, (const u8 *)buf + done, (size_t)got);
        done += (size_t)got;
    }
}

/* --- all images -------------------------------------------------------------------------------
 */

void image_map(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e) {
    *e = (struct image_extent){.kind = EXTENT_SLOW, .length = length, .owner = im};
    im->ops->map(im, offset, length, write, e);
}

void image_unmap(const struct image_extent *e) {
    if (e->kind == EXTENT_DATA && e->owner->ops->unmap) {
        e->owner->ops->unmap(e->owner, e);
    }
}

int image_read(struct image *im, u64 offset, void *buf, size_t len) {
    struct iov one = {.base = buf, .len = len};
    return im->ops->readv(im, offset, &one, 1, len);
}

int image_write(struct image *im, u64 offset, const void *buf, size_t len) {
    struct iov one = {.base = (void *)(uintptr_t)buf, .len = len};
    return im->ops->writev(im, offset, &one, 1, len);
}

int image_readv_padded(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length) {
    struct iov part[64];
    u64 inside = offset < im->size ? MIN(length, im->size - offset) : 0;
    int rc = 0;
    for (u64 done = 0; done < length && !rc;) {
        u32 n;
        u64 want = done < inside ? inside - done : length - done;
        u64 got = iov_part(iov, count, done, want, part, ARRAY_LEN(part), &n);
        if (!got) {
            break;
        }
        if (done < inside) {
            rc = im->ops->readv(im, offset + done, part, n, got);
        } else {
            iov_zero(part, n);
        }
        done += got;
    }
    return rc;
}

/* --- raw --------------------------------------------------------------------------------------
 */

static void raw_map(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e) {
    (void)length;
    if (!write || !im->readonly) {
        e->kind = EXTENT_DATA;
        e->file = im->file;
        e->offset = offset;
    }
}

static int raw_readv(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length) {
    (void)length;
    return im->file->ops->readv(im->file, offset, iov, count);
}

static int raw_writev(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length) {
    (void)length;
    return im->readonly ? -ERR_PERM : im->file->ops->writev(im->file, offset, iov, count);
}

static int raw_zero(struct image *im, u64 offset, u64 length, bool unmap) {
    return im->readonly ? -ERR_PERM : im->file->ops->zero(im->file, offset, length, unmap);
}

static int raw_discard(struct image *im, u64 offset, u64 length) {
    return im->readonly ? -ERR_PERM : im->file->ops->discard(im->file, offset, length);
}

static int raw_flush(struct image *im) {
    return im->readonly ? 0 : im->file->ops->flush(im->file);
}

static bool raw_clean(struct image *im) {
    (void)im;
    return true;
}

static int raw_status(struct image *im, u64 offset, u64 *length, bool *own, bool *zero) {
    *own = true;
    *zero = im->file->ops->hole && im->file->ops->hole(im->file, offset, length);
    return 0;
}

static int raw_close(struct image *im) {
    im->file->ops->close(im->file);
    host_free(im->host, im, sizeof(*im));
    return 0;
}

static const struct image_ops raw_ops = {
    .name = "raw",
    .map = raw_map,
    .readv = raw_readv,
    .writev = raw_writev,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .clean = raw_clean,
    .status = raw_status,
    .close = raw_close,
};

int raw_image_open(struct host *host, struct image_file *file, bool readonly, struct image **out,
                   struct err *err) {
    struct image *im = host_alloc(host, sizeof(*im));
    if (!im) {
        return ERR_SET(err, ERR_NOMEM, "out of memory for a disk image");
    }
    *im = (struct image){.ops = &raw_ops,
                         .host = host,
                         .file = file,
                         .size = ALIGN_DOWN(file->size, (u64)IMAGE_SECTOR),
                         .readonly = readonly || file->readonly};
    *out = im;
    return 0;
}
