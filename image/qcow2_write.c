/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a qcow2 image: in place where a cluster is counted once, else into new clusters, which
 * then replace the old ones. meta is held to the end of a write that changes tables: it waits for
 * the data, since a table must not point to what may still fail.
 *
 *   | head |<------- data ------->| tail |     head and tail: what the old clusters read as
 *   ^ cluster                            ^ cluster
 */
#include "image/qcow2_int.h"

enum { PARTS = 256 };

/* The request, and how much of it is done. */
struct write {
    u64 offset;
    const struct iov *iov;
    u32 count;
    u64 from, left;
};

static bool all_zero(const u8 *p, u64 len) {
    return !len || (!p[0] && !memcmp(p, p + 1, (size_t)len - 1));
}

static bool plain(const struct qcow2 *q, u64 entry) {
    return qcluster_of(q, entry) == Q_DATA && (entry & QCOW2_COPIED) != 0;
}

/* Clusters from index on, at most n, that are plain and adjacent, or that are all not plain. */
static u64 run_length(const struct qcow2 *q, const struct qtable *t, u32 index, u64 n) {
    u64 first = l2_get(t, index), k = 1;
    for (; k < n && index + k < BIT(q->l2_bits); k++) {
        u64 entry = l2_get(t, index + (u32)k);
        if (plain(q, first) != plain(q, entry) ||
            (plain(q, first) &&
             (entry & QCOW2_OFFSET) != (first & QCOW2_OFFSET) + (k << q->cluster_bits))) {
            break;
        }
    }
    return k;
}

static int write_in_place(struct qcow2 *q, const struct write *w, u64 entry, u64 bytes, u64 *done) {
    struct iov part[PARTS];
    u32 n;
    u64 place = entry & QCOW2_OFFSET;
    if (range_is_table(q, place,
                       ALIGN_UP(in_cluster(q, w->offset) + bytes, q->cluster_size) >>
                           q->cluster_bits)) {
        return image_corrupt(q);
    }
    *done = iov_part(w->iov, w->count, w->from, bytes, part, PARTS, &n);
    return q->im.file->ops->writev(q->im.file, place + in_cluster(q, w->offset), part, n);
}

/* What surrounds the data in its first and last cluster. */
struct cow {
    u8 *head, *tail;
    u64 head_len, tail_len;
    bool copied; /* there is something in them that must not be lost */
};

static int cow_read(struct qcow2 *q, u64 offset, u64 bytes, struct cow *c) {
    u64 end = offset + bytes;
    int rc = 0;
    *c = (struct cow){.head_len = in_cluster(q, offset),
                      .tail_len = in_cluster(q, end) ? q->cluster_size - in_cluster(q, end) : 0};
    c->head = buffer_get(q, &q->cow[0], 1);
    c->tail = buffer_get(q, &q->cow[1], 1);
    if (!c->head || !c->tail) {
        return -ERR_NOMEM;
    }
    if (c->head_len) {
        rc = read_locked(q, offset - c->head_len, c->head, c->head_len);
    }
    if (!rc && c->tail_len) {
        u64 inside = end < q->im.size ? MIN(c->tail_len, q->im.size - end) : 0;
        memset(c->tail, 0, (size_t)c->tail_len);
        rc = inside ? read_locked(q, end, c->tail, inside) : 0;
    }
    c->copied = !all_zero(c->head, c->head_len) || !all_zero(c->tail, c->tail_len);
    return rc;
}

/* Zeros around the data need no writing where the file has never been written. */
static int new_clusters_write(struct qcow2 *q, const struct iov *part, u32 n, u64 place,
                              const struct cow *c, u64 clusters) {
    struct iov v[PARTS + 2];
    u32 k = 0;
    bool fresh = place >= q->high;
    bool head = c->head_len && !(fresh && all_zero(c->head, c->head_len));
    bool tail = c->tail_len && !(fresh && all_zero(c->tail, c->tail_len));
    if (head) {
        v[k++] = (struct iov){.base = c->head, .len = (size_t)c->head_len};
    }
    memcpy(v + k, part, n * sizeof(*v));
    k += n;
    if (tail) {
        v[k++] = (struct iov){.base = c->tail, .len = (size_t)c->tail_len};
    }
    q->high = MAX(q->high, place + (clusters << q->cluster_bits));
    q->im.file->size = MAX(q->im.file->size, q->high);
    return q->im.file->ops->writev(q->im.file, place + (head ? 0 : c->head_len), v, k);
}

/* New places for `clusters` entries; what they replace is let go. */
static void link_new(struct qcow2 *q, struct qtable *t, u32 index, u64 place, u64 clusters) {
    for (u64 i = 0; i < clusters; i++) {
        u64 old = l2_get(t, index + (u32)i);
        l2_set(q, t, index + (u32)i, (place + (i << q->cluster_bits)) | QCOW2_COPIED);
        entry_free(q, old);
    }
}

static int write_new(struct qcow2 *q, const struct write *w, struct qtable *t, u32 index,
                     u64 clusters, u64 *done) {
    struct iov part[PARTS];
    struct cow c;
    u32 n;
    u64 place, got, head = in_cluster(q, w->offset);
    u64 bytes = MIN(w->left, (clusters << q->cluster_bits) - head);
    bytes = iov_part(w->iov, w->count, w->from, bytes, part, PARTS, &n);
    clusters = ALIGN_UP(head + bytes, q->cluster_size) >> q->cluster_bits;
    int rc = clusters_alloc(q, clusters, &place, &got);
    if (rc) {
        return rc;
    }
    bytes = MIN(bytes, (got << q->cluster_bits) - head);
    bytes = iov_part(w->iov, w->count, w->from, bytes, part, PARTS, &n);
    rc = cow_read(q, w->offset, bytes, &c);
    rc = rc ? rc : new_clusters_write(q, part, n, place, &c, got);
    if (rc) {
        clusters_unalloc(q, place, got);
        return rc;
    }
    /* reading around the data may have moved the table in its cache */
    rc = l2_own(q, w->offset, &t, &index);
    if (rc) {
        clusters_unalloc(q, place, got);
        return rc;
    }
    q->barrier |= c.copied || q->lazy; /* without counts to wait for, data is waited for */
    link_new(q, t, index, place, got);
    *done = bytes;
    return 0;
}

static int write_step(struct qcow2 *q, const struct write *w, u64 *done) {
    struct qtable *t;
    u32 index;
    int rc = l2_own(q, w->offset, &t, &index);
    if (rc) {
        return rc;
    }
    u64 head = in_cluster(q, w->offset), entry = l2_get(t, index);
    u64 want = ALIGN_UP(head + w->left, q->cluster_size) >> q->cluster_bits;
    u64 clusters = run_length(q, t, index, want);
    for (u64 i = 0; i < clusters; i++) {
        if (qcluster_of(q, l2_get(t, index + (u32)i)) == Q_BAD) {
            return image_corrupt(q);
        }
    }
    if (plain(q, entry)) {
        return write_in_place(q, w, entry, MIN(w->left, (clusters << q->cluster_bits) - head),
                              done);
    }
    return write_new(q, w, t, index, clusters, done);
}

static int write_locked(struct qcow2 *q, u64 offset, const struct iov *iov, u32 count, u64 length) {
    struct write w = {.offset = offset, .iov = iov, .count = count, .left = length};
    int rc = meta_begin(q);
    while (w.left && !rc) {
        u64 done = 0;
        rc = write_step(q, &w, &done);
        w.offset += done;
        w.from += done;
        w.left -= done;
    }
    return rc;
}

int qcow2_writev(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length) {
    struct qcow2 *q = qcow2_of(im);
    mutex_lock(im->host, &q->meta);
    int rc = write_locked(q, offset, iov, count, length);
    mutex_unlock(im->host, &q->meta);
    return rc;
}

/* --- zeros ------------------------------------------------------------------------------------
 */

/* Part of a cluster: written as any other data, unless it reads as zeros already. */
static int zero_part(struct qcow2 *q, u64 offset, u64 length) {
    u8 *buf = buffer_get(q, &q->scratch, 1);
    if (!buf) {
        return -ERR_NOMEM;
    }
    int rc = read_locked(q, offset, buf, length);
    if (rc || all_zero(buf, length)) {
        return rc;
    }
    memset(buf, 0, (size_t)length);
    struct iov one = {.base = buf, .len = (size_t)length};
    return write_locked(q, offset, &one, 1, length);
}

/* What an entry becomes when its cluster shall read as zeros (or, for a discard, as anything). */
static u64 zero_entry(const struct qcow2 *q, u64 entry, bool unmap, bool keep) {
    if (q->version < 3) {
        return 0;
    }
    enum qcluster kind = qcluster_of(q, entry);
    bool place = kind == Q_DATA || kind == Q_ZERO_ALLOC;
    if (place && (entry & QCOW2_COPIED) && (!unmap || keep)) {
        return entry | QCOW2_ZERO;
    }
    return kind == Q_NONE && !has_backing(q) ? 0 : QCOW2_ZERO;
}

/* One whole cluster. keep: there is no room to note a freed cluster. */
static int zero_cluster(struct qcow2 *q, u64 offset, bool unmap) {
    struct qtable *t;
    u32 index;
    int rc = l2_load(q, offset, &t, &index);
    if (rc || (!t && !has_backing(q))) {
        return rc;
    }
    rc = l2_own(q, offset, &t, &index);
    if (rc) {
        return rc;
    }
    u64 entry = l2_get(t, index);
    if (qcluster_of(q, entry) == Q_BAD) {
        return image_corrupt(q);
    }
    u64 now = zero_entry(q, entry, unmap, !clusters_free_room(q));
    if (now != entry) {
        l2_set(q, t, index, now);
        if (!(now & QCOW2_OFFSET)) {
            entry_free(q, entry);
        }
    }
    return 0;
}

/* Version 2 has no zero clusters: only where nothing lies below can one be dropped. */
static int zero_locked(struct qcow2 *q, u64 offset, u64 length, bool unmap, bool parts) {
    int rc = meta_begin(q);
    for (u64 n; length && !rc; offset += n, length -= n) {
        n = MIN(length, q->cluster_size - in_cluster(q, offset));
        bool whole = n == q->cluster_size || (!in_cluster(q, offset) && offset + n == q->im.size);
        if (whole && (q->version >= 3 || !has_backing(q))) {
            rc = zero_cluster(q, offset, unmap);
        } else if (parts) {
            rc = zero_part(q, offset, n);
        }
        if (!rc && !clusters_free_room(q)) {
            rc = tables_commit(q);
        }
    }
    return rc;
}

int qcow2_zero(struct image *im, u64 offset, u64 length, bool unmap) {
    struct qcow2 *q = qcow2_of(im);
    mutex_lock(im->host, &q->meta);
    int rc = zero_locked(q, offset, length, unmap, true);
    mutex_unlock(im->host, &q->meta);
    return rc;
}

/* Only whole clusters; they read as zeros afterwards, so that an old backing image's bytes do not
 * come back. */
int qcow2_discard(struct image *im, u64 offset, u64 length) {
    struct qcow2 *q = qcow2_of(im);
    mutex_lock(im->host, &q->meta);
    int rc = zero_locked(q, offset, length, true, false);
    mutex_unlock(im->host, &q->meta);
    return rc;
}
