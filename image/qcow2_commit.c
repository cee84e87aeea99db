/* SPDX-License-Identifier: Apache-2.0 */
/* Writing tables back in the order that qcow2_int.h draws, and the header. meta held throughout. */
#include "image/qcow2_int.h"

enum { CHUNK = 64 }; /* entries written at a time: a sector */

static int file_flush(struct qcow2 *q) {
    return q->im.file->ops->flush(q->im.file);
}

void mark_unclean(struct qcow2 *q) {
    __atomic_store_n(&q->unclean, true, __ATOMIC_RELAXED);
}

int image_corrupt(struct qcow2 *q) {
    __atomic_store_n(&q->corrupt, true, __ATOMIC_RELAXED);
    return -ERR_FORMAT;
}

/* Entries [from, to), widened to whole sectors, which is as much as a disk writes in one piece. */
static int entries_write(struct qcow2 *q, u64 offset, const u64 *entry, u32 size, u32 from,
                         u32 to) {
    u8 buf[CHUNK * 8];
    int rc = 0;
    for (u32 i = ALIGN_DOWN(from, (u32)CHUNK); i < to && !rc; i += CHUNK) {
        u32 n = MIN((u32)CHUNK, size - i);
        for (u32 k = 0; k < n; k++) {
            be64_put(buf + (size_t)k * 8, entry[i + k]);
        }
        rc = file_write(q->im.file, offset + i * 8ull, buf, n * 8ull);
    }
    return rc;
}

int l1_write(struct qcow2 *q, u64 offset, u32 from, u32 to) {
    return entries_write(q, offset, q->l1, q->l1_size, from, to);
}

int rt_write(struct qcow2 *q, u64 offset, const u64 *rt, u32 from, u32 to) {
    return entries_write(q, offset, rt, MAX(to, q->rt_size), from, to);
}

/* One write within a sector: old or new, never half. */
int header_update(struct qcow2 *q) {
    u8 h[QCOW2_HEADER_V3];
    int rc = file_read(q->im.file, 0, h, sizeof(h));
    if (rc) {
        return rc;
    }
    be64_put(h + H_SIZE, q->im.size);
    be32_put(h + H_L1_SIZE, q->l1_size);
    be64_put(h + H_L1_OFFSET, q->l1_offset);
    be64_put(h + H_RT_OFFSET, q->rt_offset);
    be32_put(h + H_RT_CLUSTERS, (u32)(q->rt_size * 8ull >> q->cluster_bits));
    if (q->version >= 3) {
        be64_put(h + H_INCOMPAT, q->incompat);
        be64_put(h + H_AUTOCLEAR, q->autoclear);
    }
    return file_write(q->im.file, 0, h, q->version >= 3 ? QCOW2_HEADER_V3 : QCOW2_HEADER_V2);
}

/* With lazy refcounts the counts on disk are allowed to be wrong while the image says so. */
int meta_begin(struct qcow2 *q) {
    if (q->im.readonly) {
        return -ERR_PERM;
    }
    if (q->corrupt) {
        return -ERR_FORMAT;
    }
    if (!q->lazy || q->marked_dirty) {
        return 0;
    }
    q->incompat |= QCOW2_INCOMPAT_DIRTY;
    int rc = header_update(q);
    rc = rc ? rc : file_flush(q);
    if (rc) {
        q->incompat &= ~QCOW2_INCOMPAT_DIRTY;
        return rc;
    }
    q->marked_dirty = true;
    return 0;
}

static int counts_write(struct qcow2 *q, bool *wrote) {
    int rc = qcache_write(q, &q->rb, wrote);
    if (!rc && q->rt_dirty_from != q->rt_dirty_to) {
        rc = file_flush(q);
        rc = rc ? rc : rt_write(q, q->rt_offset, q->rt, q->rt_dirty_from, q->rt_dirty_to);
        if (!rc) {
            q->rt_dirty_from = q->rt_dirty_to = 0;
            *wrote = true;
        }
    }
    return rc;
}

static int maps_write(struct qcow2 *q, bool flush_first) {
    bool wrote, l1 = q->l1_dirty_from != q->l1_dirty_to;
    if (!l1 && !qcache_dirty(&q->l2)) {
        return 0;
    }
    int rc = flush_first || q->barrier ? file_flush(q) : 0;
    if (rc) {
        return rc;
    }
    q->barrier = false;
    rc = qcache_write(q, &q->l2, &wrote);
    if (!rc && l1) {
        rc = file_flush(q);
        rc = rc ? rc : l1_write(q, q->l1_offset, q->l1_dirty_from, q->l1_dirty_to);
        if (!rc) {
            q->l1_dirty_from = q->l1_dirty_to = 0;
        }
    }
    return rc;
}

int tables_write(struct qcow2 *q) {
    bool wrote = false;
    if (q->corrupt) {
        return -ERR_FORMAT; /* what is in memory may be worse than what is on disk */
    }
    int rc = q->lazy && q->marked_dirty ? 0 : counts_write(q, &wrote);
    return rc ? rc : maps_write(q, wrote);
}

/* What was freed counts less once the tables that no longer refer to it are stable. */
int tables_commit(struct qcow2 *q) {
    int rc = tables_write(q);
    if (rc) {
        return rc;
    }
    __atomic_store_n(&q->unclean, false, __ATOMIC_RELAXED);
    if (q->freed.count || q->freed_before.count) {
        rc = file_flush(q);
        rc = rc ? rc : freed_release(q);
        mark_unclean(q);
    }
    return rc;
}
