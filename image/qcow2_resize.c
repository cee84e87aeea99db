/* SPDX-License-Identifier: Apache-2.0 */
/* Changing the size of a qcow2 image, and emptying it. Nothing else uses the image meanwhile. */
#include "image/qcow2_int.h"

/* A longer L1 table goes to new clusters; the header's one write switches to it. */
static int l1_grow(struct qcow2 *q, u32 need) {
    struct host *host = q->im.host;
    u32 old_size = q->l1_size;
    u64 old = q->l1_offset, place;
    u64 *l1 = host->ops->pages(host, need * 8ull), *before = q->l1;
    u64 clusters = ALIGN_UP(need * 8ull, q->cluster_size) >> q->cluster_bits;
    int rc = l1 ? tables_write(q) : -ERR_NOMEM;
    rc = rc ? rc : clusters_alloc_exact(q, clusters, &place);
    if (rc) {
        if (l1) {
            host->ops->pages_free(host, l1, need * 8ull);
        }
        return rc;
    }
    memcpy(l1, before, old_size * 8ull);
    mutex_lock(host, &q->map);
    q->l1 = l1;
    q->l1_size = need;
    q->l1_offset = place;
    mutex_unlock(host, &q->map);
    q->l1_dirty_from = q->l1_dirty_to = 0;
    host->ops->pages_free(host, before, MAX(old_size, 1u) * 8ull);
    rc = l1_write(q, place, 0, need);
    rc = rc ? rc : tables_write(q); /* the counts of its clusters */
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    rc = rc ? rc : header_update(q);
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (rc) {
        image_corrupt(q); /* which table is valid is not known */
        return rc;
    }
    q->high = MAX(q->high, place + (clusters << q->cluster_bits));
    if (old_size) {
        clusters_free(q, old, ALIGN_UP(old_size * 8ull, q->cluster_size) >> q->cluster_bits);
    }
    return 0;
}

static int size_set(struct qcow2 *q, u64 size) {
    u64 before = q->im.size;
    q->im.size = size;
    int rc = header_update(q);
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (rc) {
        q->im.size = before;
    }
    return rc;
}

/* Every cluster from `offset` on, entry by entry, becomes one of the backing image. */
static int entries_drop(struct qcow2 *q, u64 offset) {
    u64 reach = BIT(q->cluster_bits + q->l2_bits);
    int rc = 0;
    for (u64 at = offset; at < q->im.size && !rc; at += q->cluster_size) {
        struct qtable *t;
        u32 index;
        rc = l2_load(q, at, &t, &index);
        if (!rc && !t) {
            at = ALIGN_DOWN(at, reach) + reach - q->cluster_size;
            continue;
        }
        u64 entry = rc ? 0 : l2_get(t, index);
        if (!entry) {
            continue;
        }
        rc = l2_own(q, at, &t, &index);
        if (!rc) {
            l2_set(q, t, index, 0);
            entry_free(q, entry);
            rc = clusters_free_room(q) ? 0 : tables_commit(q);
        }
    }
    return rc;
}

int qcow2_empty(struct image *im) {
    struct qcow2 *q = qcow2_of(im);
    mutex_lock(im->host, &q->meta);
    int rc = meta_begin(q);
    rc = rc ? rc : entries_drop(q, 0);
    rc = rc ? rc : tables_commit(q);
    mutex_unlock(im->host, &q->meta);
    return rc;
}

/* The tail of the last cluster must read as zeros, should the image grow again. */
static int shrink(struct qcow2 *q, u64 size) {
    u64 whole = ALIGN_UP(size, q->cluster_size);
    int rc = 0;
    if (whole > size && size < q->im.size) {
        mutex_unlock(q->im.host, &q->meta);
        rc = qcow2_zero(&q->im, size, MIN(whole, q->im.size) - size, true);
        mutex_lock(q->im.host, &q->meta);
    }
    rc = rc ? rc : entries_drop(q, whole);
    rc = rc ? rc : tables_commit(q);
    return rc ? rc : size_set(q, size);
}

/* What a longer backing image holds there must not come to light: new disk is zeros. */
static int grow(struct qcow2 *q, u64 size) {
    u32 need = qcow2_l1_need(q, size);
    int rc = need > q->l1_size ? l1_grow(q, need) : 0;
    if (!rc && has_backing(q)) {
        mutex_unlock(q->im.host, &q->meta);
        rc = qcow2_zero(&q->im, q->im.size, size - q->im.size, true);
        mutex_lock(q->im.host, &q->meta);
        rc = rc ? rc : tables_commit(q);
    }
    return rc ? rc : size_set(q, size);
}

int qcow2_resize(struct image *im, u64 size, struct err *err) {
    struct qcow2 *q = qcow2_of(im);
    if (size % IMAGE_SECTOR || size > INT64_MAX || qcow2_l1_need(q, size) == UINT32_MAX) {
        return ERR_SET(err, ERR_INVAL, "%llu bytes: not a size that this image can have",
                       (unsigned long long)size);
    }
    if (q->snapshots) {
        return ERR_SET(err, ERR_UNSUPPORTED, "an image with internal snapshots is not resized");
    }
    mutex_lock(im->host, &q->meta);
    int rc = meta_begin(q);
    rc = rc ? rc : size < im->size ? shrink(q, size) : grow(q, size);
    rc = rc ? rc : tables_commit(q);
    mutex_unlock(im->host, &q->meta);
    return rc ? ERR_SET(err, (enum err_code) - rc, "the image could not be resized: %s",
                        err_name(rc))
              : 0;
}
