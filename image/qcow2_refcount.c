/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counting host clusters: refcount table -> refcount blocks -> 2^order bits per cluster; finding
 * free ones; letting go of those whose reference is gone. meta held throughout.
 *
 * A missing refcount block is made inside the range that it covers, as its first cluster, so that
 * it counts itself. A table that is too short moves to the end, see rt_grow.
 */
#include "image/qcow2_int.h"

#define SCAN_MAX BIT(26)

u64 refcount_read(const u8 *block, u32 order, u64 i) {
    u32 bits = 1u << order;
    u64 value = 0;
    if (order < 3) {
        u32 per_byte = 8 / bits;
        return (u64)(block[i / per_byte] >> (i % per_byte * bits)) & ((1u << bits) - 1);
    }
    for (u32 b = 0; b < bits / 8; b++) {
        value = value << 8 | block[i * (bits / 8) + b];
    }
    return value;
}

void refcount_write(u8 *block, u32 order, u64 i, u64 value) {
    u32 bits = 1u << order;
    if (order < 3) {
        u32 per_byte = 8 / bits, shift = (u32)(i % per_byte) * bits;
        u32 mask = ((1u << bits) - 1) << shift;
        u8 *p = &block[i / per_byte];
        *p = (u8)((*p & ~mask) | ((u32)value << shift & mask));
        return;
    }
    for (u32 b = bits / 8; b-- > 0; value >>= 8) {
        block[i * (bits / 8) + b] = (u8)value;
    }
}

/* Clusters that one refcount block counts, as a power of two. */
static u32 block_bits(const struct qcow2 *q) {
    return q->cluster_bits + 3 - q->refcount_order;
}

static bool overlaps(u64 a, u64 a_len, u64 b, u64 b_len) {
    return a < b + b_len && b < a + a_len;
}

bool range_is_table(const struct qcow2 *q, u64 offset, u64 clusters) {
    u64 len = clusters << q->cluster_bits;
    if (overlaps(offset, len, 0, q->cluster_size) ||
        overlaps(offset, len, q->l1_offset, ALIGN_UP(q->l1_size * 8ull, q->cluster_size)) ||
        overlaps(offset, len, q->rt_offset, q->rt_size * 8ull)) {
        return true;
    }
    for (u64 i = 0; i < clusters; i++) {
        if (qset_has(&q->tables, offset + (i << q->cluster_bits))) {
            return true;
        }
    }
    return false;
}

int refcount_get(struct qcow2 *q, u64 cluster, u64 *count) {
    u64 index = cluster >> block_bits(q);
    u64 offset = index < q->rt_size ? q->rt[index] : 0;
    struct qtable *t;
    *count = 0;
    if (!offset) {
        return 0;
    }
    int rc = qcache_get(q, &q->rb, offset, &t);
    if (!rc) {
        *count = refcount_read(t->data, q->refcount_order, cluster & (BIT(block_bits(q)) - 1));
    }
    return rc;
}

/* --- growing ----------------------------------------------------------------------------------
 */

static int tables_add(struct qcow2 *q, u64 offset) {
    mutex_lock(q->im.host, &q->map);
    int rc = qset_add(q, offset);
    mutex_unlock(q->im.host, &q->map);
    return rc;
}

static int block_make(struct qcow2 *q, u64 index) {
    u64 offset = index << (block_bits(q) + q->cluster_bits);
    struct qtable *t;
    if (range_is_table(q, offset, 1)) {
        return image_corrupt(q);
    }
    int rc = qcache_new(q, &q->rb, offset, NULL, &t);
    rc = rc ? rc : tables_add(q, offset);
    if (rc) {
        return rc;
    }
    refcount_write(t->data, q->refcount_order, 0, 1);
    q->rt[index] = offset;
    q->rt_dirty_from =
        q->rt_dirty_from == q->rt_dirty_to ? (u32)index : MIN(q->rt_dirty_from, (u32)index);
    q->rt_dirty_to = MAX(q->rt_dirty_to, (u32)index + 1);
    return 0;
}

/*
 * The new table and the blocks that count it lie where the old table's reach ends:
 *
 *   start = first cluster that is not covered:  | new table | block | block ...
 *
 * Everything is written and stable before the header's one write makes it valid.
 */
struct rt_plan {
    u64 start;  /* cluster */
    u32 size;   /* entries of the new table */
    u64 table;  /* clusters of it */
    u64 blocks; /* new ones */
};

static int rt_plan_make(const struct qcow2 *q, u64 need, struct rt_plan *p) {
    u64 per_cluster = q->cluster_size / 8, per_block = BIT(block_bits(q));
    p->start = (u64)q->rt_size << block_bits(q);
    u64 entries = MAX(need + 1, q->rt_size * 3ull / 2 + 1);
    for (u32 tries = 0; tries < 64; tries++) {
        entries = ALIGN_UP(entries, per_cluster);
        p->table = entries / per_cluster;
        p->blocks = 1;
        while (p->blocks * per_block < p->table + p->blocks) {
            p->blocks++;
        }
        if (q->rt_size + p->blocks <= entries) {
            break;
        }
        entries = q->rt_size + p->blocks;
    }
    p->size = (u32)entries;
    return entries * 8 <= QCOW2_RT_BYTES_MAX ? 0 : -ERR_RANGE;
}

static int rt_blocks_write(struct qcow2 *q, const struct rt_plan *p, u64 *rt) {
    u64 used = p->table + p->blocks, per_block = BIT(block_bits(q));
    int rc = 0;
    for (u64 b = 0; b < p->blocks && !rc; b++) {
        u64 offset = (p->start + p->table + b) << q->cluster_bits;
        struct qtable *t;
        rc = qcache_new(q, &q->rb, offset, NULL, &t);
        rc = rc ? rc : tables_add(q, offset);
        for (u64 i = 0; !rc && i < per_block && b * per_block + i < used; i++) {
            refcount_write(t->data, q->refcount_order, i, 1);
        }
        rt[q->rt_size + b] = offset;
    }
    bool wrote;
    return rc ? rc : qcache_write(q, &q->rb, &wrote);
}

static int rt_switch(struct qcow2 *q, const struct rt_plan *p, u64 *rt) {
    u64 offset = p->start << q->cluster_bits, old = q->rt_offset, old_size = q->rt_size;
    int rc = rt_write(q, offset, rt, 0, p->size);
    q->high = MAX(q->high, (p->start + p->table + p->blocks) << q->cluster_bits);
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (rc) {
        return rc;
    }
    u64 *before = q->rt;
    q->rt = rt;
    q->rt_size = p->size;
    q->rt_offset = offset;
    q->rt_dirty_from = q->rt_dirty_to = 0;
    rc = header_update(q);
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (rc) { /* nobody knows which table is the valid one */
        image_corrupt(q);
        return rc;
    }
    q->im.host->ops->pages_free(q->im.host, before, (size_t)old_size * 8);
    clusters_free(q, old, ALIGN_UP(old_size * 8, q->cluster_size) >> q->cluster_bits);
    return 0;
}

static int rt_grow(struct qcow2 *q, u64 need) {
    struct rt_plan p;
    struct host *host = q->im.host;
    int rc = rt_plan_make(q, need, &p);
    if (rc) {
        return rc;
    }
    u64 *rt = host->ops->pages(host, p.size * 8ull);
    if (!rt) {
        return -ERR_NOMEM;
    }
    memcpy(rt, q->rt, q->rt_size * 8ull);
    rc = rt_blocks_write(q, &p, rt);
    rc = rc ? rc : rt_switch(q, &p, rt);
    if (rc && q->rt != rt) {
        host->ops->pages_free(host, rt, p.size * 8ull);
    }
    return rc;
}

static int block_for(struct qcow2 *q, u64 cluster, struct qtable **t) {
    u64 index = cluster >> block_bits(q);
    int rc = index >= q->rt_size ? rt_grow(q, index) : 0;
    if (!rc && !q->rt[index]) {
        rc = block_make(q, index);
    }
    return rc ? rc : qcache_get(q, &q->rb, q->rt[index], t);
}

static int refcount_set(struct qcow2 *q, u64 cluster, u64 value) {
    struct qtable *t;
    int rc = block_for(q, cluster, &t);
    if (!rc) {
        refcount_write(t->data, q->refcount_order, cluster & (BIT(block_bits(q)) - 1), value);
        t->dirty = true;
        mark_unclean(q);
    }
    return rc;
}

/* --- allocation -------------------------------------------------------------------------------
 */

static u64 cluster_limit(const struct qcow2 *q) {
    return BIT(56 - q->cluster_bits);
}

/* Making a refcount block takes a cluster that looked free: it is made before anything is chosen
 * in its range. */
static int cluster_is_free(struct qcow2 *q, u64 cluster, bool *is_free) {
    struct qtable *t;
    u64 count;
    if (cluster >= cluster_limit(q)) {
        return -ERR_NOSPACE;
    }
    int rc = block_for(q, cluster, &t);
    rc = rc ? rc : refcount_get(q, cluster, &count);
    *is_free = !rc && count == 0;
    return rc;
}

/* The first free cluster from *at on, and how many follow it, at most `want`. */
static int run_find(struct qcow2 *q, u64 want, u64 *at, u64 *len) {
    bool is_free = false;
    int rc = 0;
    for (u64 c = *at; !rc && !is_free; c++) {
        if (c - q->free_from > SCAN_MAX) {
            return image_corrupt(q); /* counts without end; free_from saves honest images from it */
        }
        *at = c;
        rc = cluster_is_free(q, c, &is_free);
    }
    *len = 1;
    while (!rc && *len < want) {
        rc = cluster_is_free(q, *at + *len, &is_free);
        if (!is_free) {
            break;
        }
        ++*len;
    }
    return rc;
}

static int run_take(struct qcow2 *q, u64 first, u64 count, u64 *offset) {
    int rc = 0;
    *offset = first << q->cluster_bits;
    if (range_is_table(q, *offset, count)) {
        return image_corrupt(q);
    }
    for (u64 i = 0; i < count && !rc; i++) {
        rc = refcount_set(q, first + i, 1);
        if (rc) {
            clusters_unalloc(q, *offset, i);
        }
    }
    return rc;
}

int clusters_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got) {
    u64 first = q->free_from;
    int rc = run_find(q, want, &first, got);
    rc = rc ? rc : run_take(q, first, *got, offset);
    if (!rc) {
        q->free_from = first + *got;
    }
    return rc;
}

int clusters_alloc_exact(struct qcow2 *q, u64 want, u64 *offset) {
    u64 at = q->free_from, len = 0;
    int rc = run_find(q, want, &at, &len);
    while (!rc && len < want) {
        at += len;
        rc = run_find(q, want, &at, &len);
    }
    return rc ? rc : run_take(q, at, want, offset);
}

void clusters_unalloc(struct qcow2 *q, u64 offset, u64 count) {
    u64 first = offset >> q->cluster_bits;
    for (u64 i = 0; i < count; i++) {
        refcount_set(q, first + i, 0);
    }
    q->free_from = MIN(q->free_from, first);
}

/* --- letting go -------------------------------------------------------------------------------
 */

static bool list_grow(struct qcow2 *q, struct qfree_list *l) {
    struct host *host = q->im.host;
    u32 cap = l->cap ? l->cap * 2 : 64;
    struct qfree *r = cap <= QFREE_MAX ? host_alloc(host, cap * sizeof(*r)) : NULL;
    if (!r) {
        return false;
    }
    if (l->r) {
        memcpy(r, l->r, l->count * sizeof(*r));
        host_free(host, l->r, l->cap * sizeof(*r));
    }
    l->r = r;
    l->cap = cap;
    return true;
}

bool clusters_free_room(const struct qcow2 *q) {
    return q->freed.count < QFREE_MAX - 8;
}

bool clusters_free(struct qcow2 *q, u64 offset, u64 count) {
    struct qfree_list *l = &q->freed;
    struct qfree *last = l->count ? &l->r[l->count - 1] : NULL;
    mark_unclean(q);
    if (last && last->offset + (last->clusters << q->cluster_bits) == offset) {
        last->clusters += count;
        return true;
    }
    if (l->count == l->cap && !list_grow(q, l)) {
        return false; /* a leak */
    }
    l->r[l->count++] = (struct qfree){offset, count};
    return true;
}

/* A cluster that is free now gives its storage back to the host. */
static int range_release(struct qcow2 *q, const struct qfree *r) {
    u64 first = r->offset >> q->cluster_bits, gone = 0;
    int rc = 0;
    for (u64 i = 0; i <= r->clusters && !rc; i++) {
        u64 count = 0;
        if (i < r->clusters) {
            rc = refcount_get(q, first + i, &count);
        }
        if (count) {
            rc = refcount_set(q, first + i, count - 1);
        }
        if (count == 1) {
            gone++;
            mutex_lock(q->im.host, &q->map);
            qset_remove(q, (first + i) << q->cluster_bits);
            mutex_unlock(q->im.host, &q->map);
            qcache_forget(q, &q->l2, (first + i) << q->cluster_bits);
            q->free_from = MIN(q->free_from, first + i);
        } else if (gone) {
            q->im.file->ops->discard(q->im.file, (first + i - gone) << q->cluster_bits,
                                     gone << q->cluster_bits);
            gone = 0;
        }
    }
    return rc;
}

static int list_release(struct qcow2 *q, struct qfree_list *l) {
    int rc = 0;
    while (l->count && !rc) {
        rc = range_release(q, &l->r[l->count - 1]);
        l->count--; /* one that failed half way is a leak */
    }
    return rc;
}

/* What was freed in the epoch before this one is in nobody's hands when the places that were held
 * then have been given back. The tables on disk do not refer to any of it: see tables_commit. */
int freed_release(struct qcow2 *q) {
    mutex_lock(q->im.host, &q->map);
    bool before_idle = !q->flight[(q->epoch + 1) & 1];
    bool idle = before_idle && !q->flight[q->epoch & 1];
    mutex_unlock(q->im.host, &q->map);
    int rc = 0;
    if (before_idle) {
        rc = list_release(q, &q->freed_before);
        struct qfree_list empty = q->freed_before;
        q->freed_before = q->freed;
        q->freed = empty;
        mutex_lock(q->im.host, &q->map);
        q->epoch++;
        mutex_unlock(q->im.host, &q->map);
    }
    if (idle && !rc) {
        rc = list_release(q, &q->freed_before);
    }
    return rc;
}

void freed_fini(struct qcow2 *q) {
    host_free(q->im.host, q->freed.r, q->freed.cap * sizeof(struct qfree));
    host_free(q->im.host, q->freed_before.r, q->freed_before.cap * sizeof(struct qfree));
}
