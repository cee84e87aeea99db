/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest offsets to places in the file: L1 table, L2 tables and their entries.
 *
 *   entry  63 COPIED: counted once, may be written in place
 *          62 COMPRESSED: then sectors above, offset below, see packed_place
 *          55:9 offset of the cluster
 *           0 ZERO: reads as zeros; with an offset the cluster stays reserved
 *
 * Locks: see qcow2_int.h.
 */
#include "image/qcow2_int.h"

enum qcluster qcluster_of(const struct qcow2 *q, u64 entry) {
    u64 offset = entry & QCOW2_OFFSET;
    if (entry & QCOW2_COMPRESSED) {
        return Q_COMPRESSED;
    }
    if (in_cluster(q, offset) || ((entry & QCOW2_ZERO) && q->version < 3)) {
        return Q_BAD;
    }
    if (entry & QCOW2_ZERO) {
        return offset ? Q_ZERO_ALLOC : Q_ZERO;
    }
    return offset ? Q_DATA : Q_NONE;
}

u64 l2_get(const struct qtable *t, u32 i) {
    return be64_get(t->data + (size_t)i * 8);
}

void l2_set(struct qcow2 *q, struct qtable *t, u32 i, u64 entry) {
    mutex_lock(q->im.host, &q->map);
    be64_put(t->data + (size_t)i * 8, entry);
    mutex_unlock(q->im.host, &q->map);
    t->dirty = true;
    t->recent = true;
    mark_unclean(q);
}

static u32 l1_index(const struct qcow2 *q, u64 offset) {
    return (u32)(offset >> (q->cluster_bits + q->l2_bits));
}

static u32 l2_index(const struct qcow2 *q, u64 offset) {
    return (u32)(offset >> q->cluster_bits) & (u32)(BIT(q->l2_bits) - 1);
}

int l2_load(struct qcow2 *q, u64 offset, struct qtable **t, u32 *index) {
    u32 i = l1_index(q, offset);
    u64 place = i < q->l1_size ? q->l1[i] & QCOW2_OFFSET : 0;
    *index = l2_index(q, offset);
    *t = NULL;
    return place ? qcache_get(q, &q->l2, place, t) : 0;
}

static void l1_set(struct qcow2 *q, u32 i, u64 entry) {
    mutex_lock(q->im.host, &q->map);
    q->l1[i] = entry;
    mutex_unlock(q->im.host, &q->map);
    q->l1_dirty_from = q->l1_dirty_from == q->l1_dirty_to ? i : MIN(q->l1_dirty_from, i);
    q->l1_dirty_to = MAX(q->l1_dirty_to, i + 1);
    mark_unclean(q);
}

static int l2_make(struct qcow2 *q, u32 i, const struct qtable *from, struct qtable **t) {
    u64 place = 0;
    int rc = clusters_alloc_exact(q, 1, &place);
    if (rc) {
        return rc;
    }
    rc = qcache_new(q, &q->l2, place, from, t);
    if (!rc) {
        mutex_lock(q->im.host, &q->map);
        rc = qset_add(q, place);
        mutex_unlock(q->im.host, &q->map);
    }
    if (rc) {
        qcache_forget(q, &q->l2, place);
        clusters_unalloc(q, place, 1);
        return rc;
    }
    if (from) {
        memcpy((*t)->data, from->data, (size_t)q->cluster_size);
    }
    l1_set(q, i, place | QCOW2_COPIED);
    return 0;
}

/* A table that an internal snapshot uses, too, is copied; its clusters stay counted for both. */
int l2_own(struct qcow2 *q, u64 offset, struct qtable **t, u32 *index) {
    u32 i = l1_index(q, offset);
    int rc = l2_load(q, offset, t, index);
    if (rc || (*t && (q->l1[i] & QCOW2_COPIED))) {
        return rc;
    }
    u64 old = q->l1[i] & QCOW2_OFFSET;
    struct qtable *from = *t;
    rc = l2_make(q, i, from, t);
    if (!rc && old) {
        clusters_free(q, old, 1);
    }
    return rc;
}

/* Compressed: x = 62 - (cluster_bits - 8) bits of offset, above them the number of further sectors.
 */
void packed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *bytes) {
    u32 x = 62 - (q->cluster_bits - 8);
    u64 sectors = (entry >> x & (BIT(q->cluster_bits - 8) - 1)) + 1;
    *offset = entry & (BIT(x) - 1);
    *bytes = sectors * IMAGE_SECTOR - (*offset & (IMAGE_SECTOR - 1));
}

bool entry_free(struct qcow2 *q, u64 entry) {
    u64 offset, bytes;
    switch (qcluster_of(q, entry)) {
    case Q_DATA:
    case Q_ZERO_ALLOC:
        return clusters_free(q, entry & QCOW2_OFFSET, 1);
    case Q_COMPRESSED:
        packed_place(q, entry, &offset, &bytes);
        bytes += in_cluster(q, offset);
        return clusters_free(q, ALIGN_DOWN(offset, q->cluster_size),
                             ALIGN_UP(bytes, q->cluster_size) >> q->cluster_bits);
    default:
        return true;
    }
}

/* --- without waiting --------------------------------------------------------------------------
 */

/* May a write go to this cluster as it is? */
static bool writable(const struct qcow2 *q, u64 entry) {
    return (entry & QCOW2_COPIED) && !qset_has(&q->tables, entry & QCOW2_OFFSET) &&
           (entry & QCOW2_OFFSET) != 0;
}

static bool follows(const struct qcow2 *q, enum qcluster kind, u64 first, u64 entry, u64 n,
                    bool write) {
    if (qcluster_of(q, entry) != kind || (write && !writable(q, entry))) {
        return false;
    }
    return kind != Q_DATA ||
           (entry & QCOW2_OFFSET) == (first & QCOW2_OFFSET) + (n << q->cluster_bits);
}

struct run {
    enum qcluster kind;
    u64 entry, length;
};

/* The run of equal or adjacent clusters at offset, within one L2 table. map or meta held. False:
 * the table is not in memory. */
static bool run_look(const struct qcow2 *q, u64 offset, u64 length, bool write, struct run *r) {
    u64 reach = BIT(q->cluster_bits + q->l2_bits);
    u32 i = l1_index(q, offset), k = l2_index(q, offset);
    u64 place = i < q->l1_size ? q->l1[i] & QCOW2_OFFSET : 0;
    if (!place) {
        *r = (struct run){Q_NONE, 0, MIN(length, reach - (offset & (reach - 1)))};
        return true;
    }
    const struct qtable *t = qcache_find(&q->l2, place);
    if (!t) {
        return false;
    }
    r->entry = l2_get(t, k);
    r->kind = qcluster_of(q, r->entry);
    if (write && !writable(q, r->entry)) {
        r->kind = r->kind == Q_DATA ? Q_BAD : r->kind;
    }
    u64 n = 1, end = q->cluster_size - in_cluster(q, offset);
    while (end < length && k + n < BIT(q->l2_bits) && r->kind != Q_COMPRESSED && r->kind != Q_BAD &&
           follows(q, r->kind, r->entry, l2_get(t, k + (u32)n), n, write)) {
        n++;
        end += q->cluster_size;
    }
    r->length = MIN(length, end);
    return true;
}

static void hold(struct qcow2 *q, u64 offset, const struct run *r, struct image_extent *e) {
    e->kind = EXTENT_DATA;
    e->file = q->im.file;
    e->offset = (r->entry & QCOW2_OFFSET) + in_cluster(q, offset);
    e->epoch = q->epoch;
    q->flight[q->epoch & 1]++;
}

/* Nothing of ours there: what is below, or zeros. */
static void map_backing(struct qcow2 *q, u64 offset, u64 length, struct image_extent *e) {
    struct image *below = q->im.backing;
    if (!below || offset >= below->size) {
        e->kind = EXTENT_ZERO;
        return;
    }
    image_map(below, offset, MIN(length, below->size - offset), false, e);
}

void qcow2_map(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e) {
    struct qcow2 *q = qcow2_of(im);
    struct run r = {.kind = Q_BAD, .length = length};
    if (write && (im->readonly || __atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))) {
        return;
    }
    mutex_lock(im->host, &q->map);
    bool known = run_look(q, offset, length, write, &r);
    if (known && r.kind == Q_DATA) {
        hold(q, offset, &r, e);
    }
    mutex_unlock(im->host, &q->map);
    if (!known) {
        return;
    }
    e->length = r.length;
    if (!write && (r.kind == Q_ZERO || r.kind == Q_ZERO_ALLOC)) {
        e->kind = EXTENT_ZERO;
    } else if (!write && r.kind == Q_NONE) {
        map_backing(q, offset, r.length, e);
    }
}

void qcow2_unmap(struct image *im, const struct image_extent *e) {
    struct qcow2 *q = qcow2_of(im);
    mutex_lock(im->host, &q->map);
    q->flight[e->epoch & 1]--;
    mutex_unlock(im->host, &q->map);
}

int qcow2_status(struct image *im, u64 offset, u64 *length, bool *own, bool *zero) {
    struct qcow2 *q = qcow2_of(im);
    struct run r = {.kind = Q_BAD, .length = *length};
    struct qtable *t;
    u32 index;
    mutex_lock(im->host, &q->meta);
    int rc = l2_load(q, offset, &t, &index);
    if (!rc) {
        run_look(q, offset, *length, false, &r);
    }
    mutex_unlock(im->host, &q->meta);
    if (rc) {
        return rc;
    }
    *length = r.length;
    *own = r.kind != Q_NONE;
    *zero = r.kind == Q_ZERO || r.kind == Q_ZERO_ALLOC || (r.kind == Q_NONE && !im->backing);
    return r.kind == Q_BAD ? -ERR_FORMAT : 0;
}
