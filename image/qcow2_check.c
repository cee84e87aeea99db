/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking a qcow2 image: counts every reference to every host cluster and compares with what the
 * image says. Leaks (counted too often) can be mended in place; anything else by building the
 * counts anew behind the last cluster in use. What cannot be mended: tables that overlap or point
 * outside the file. Nothing else uses the image meanwhile.
 */
#include "core/base/fmt.h"
#include "image/qcow2_int.h"

#define CHECK_CLUSTERS_MAX BIT(28) /* 1 GiB of counters, untouched where the file is empty */

enum { FINDINGS = 20 };

struct check {
    struct qcow2 *q;
    u32 *used; /* references found, by host cluster */
    u64 clusters;
    u64 *rt; /* the table as it is on disk */
    size_t rt_bytes;
    u8 *table;
    u32 said;
    bool overlap;
    qcow2_say_fn say;
    void *ctx;
    struct qcow2_check_result *out;
};

static void find(struct check *c, const char *what, u64 offset) {
    char text[120];
    c->out->errors++;
    if (c->say && c->said++ < FINDINGS) {
        fmt_str(text, sizeof(text), "%s at %llx", what, (unsigned long long)offset);
        c->say(c->ctx, text);
    }
}

static bool count_range(struct check *c, u64 offset, u64 clusters, const char *what) {
    u64 first = offset >> c->q->cluster_bits;
    if (in_cluster(c->q, offset) || first >= c->clusters || clusters > c->clusters - first) {
        find(c, what, offset);
        return false;
    }
    for (u64 i = 0; i < clusters; i++) {
        if (c->used[first + i] < UINT32_MAX) {
            c->used[first + i]++;
        }
    }
    c->out->end = MAX(c->out->end, (first + clusters) << c->q->cluster_bits);
    return true;
}

static void count_entry(struct check *c, u64 entry) {
    struct qcow2 *q = c->q;
    u64 offset, bytes, first, last;
    switch (qcluster_of(q, entry)) {
    case Q_DATA:
    case Q_ZERO_ALLOC:
        c->out->clusters += count_range(c, entry & QCOW2_OFFSET, 1, "cluster outside the file");
        break;
    case Q_COMPRESSED:
        packed_place(q, entry, &offset, &bytes);
        first = ALIGN_DOWN(offset, q->cluster_size);
        last = ALIGN_UP(offset + bytes, q->cluster_size);
        if (count_range(c, first, (last - first) >> q->cluster_bits,
                        "compressed cluster outside the file")) {
            c->out->clusters++;
            c->out->compressed++;
        }
        break;
    case Q_BAD:
        find(c, "damaged L2 entry", entry & QCOW2_OFFSET);
        break;
    default:
        break;
    }
}

static int count_l2(struct check *c, u64 offset, bool active) {
    if (!count_range(c, offset, 1, "L2 table outside the file")) {
        return 0;
    }
    if (active && c->used[offset >> c->q->cluster_bits] > 1) {
        find(c, "L2 table overlaps something", offset);
        c->overlap = true;
        return 0;
    }
    int rc = file_read(c->q->im.file, offset, c->table, (size_t)c->q->cluster_size);
    for (u64 i = 0; i < BIT(c->q->l2_bits) && !rc; i++) {
        count_entry(c, be64_get(c->table + i * 8));
    }
    return rc;
}

static int count_l1(struct check *c, const u64 *l1, u32 size, u64 offset, bool active) {
    int rc = 0;
    if (size) {
        count_range(c, offset, ALIGN_UP(size * 8ull, c->q->cluster_size) >> c->q->cluster_bits,
                    "L1 table outside the file");
    }
    for (u32 i = 0; i < size && !rc; i++) {
        if (l1[i] & QCOW2_OFFSET) {
            rc = count_l2(c, l1[i] & QCOW2_OFFSET, active);
        }
    }
    return rc;
}

static int count_snapshot_l1(struct check *c, u64 offset, u32 size) {
    struct host *host = c->q->im.host;
    if (size > QCOW2_L1_MAX) {
        find(c, "snapshot with an impossible L1 table", offset);
        return 0;
    }
    u64 *l1 = host->ops->pages(host, MAX(size, 1u) * 8ull);
    int rc = l1 ? file_read(c->q->im.file, offset, l1, size * 8ull) : -ERR_NOMEM;
    for (u32 i = 0; i < size && !rc; i++) {
        l1[i] = be64_get((const u8 *)&l1[i]);
    }
    rc = rc ? rc : count_l1(c, l1, size, offset, false);
    if (l1) {
        host->ops->pages_free(host, l1, MAX(size, 1u) * 8ull);
    }
    return rc;
}

/* Entry: L1 offset u64, L1 size u32, id length u16, name length u16, ... extra data length u32 at
 * 36, then extra data, id, name; padded to 8. */
static int count_snapshots(struct check *c) {
    struct qcow2 *q = c->q;
    u64 at = q->snapshots_offset;
    u8 h[40];
    int rc = 0;
    for (u32 i = 0; i < q->snapshots && !rc; i++) {
        rc = file_read(q->im.file, at, h, sizeof(h));
        rc = rc ? rc : count_snapshot_l1(c, be64_get(h), be32_get(h + 8));
        u64 id = (u64)h[12] << 8 | h[13], name = (u64)h[14] << 8 | h[15];
        at += ALIGN_UP(sizeof(h) + be32_get(h + 36) + id + name, 8ull);
        if (at > q->im.file->size + q->cluster_size) {
            find(c, "snapshot table outside the file", at);
            return 0;
        }
    }
    u64 bytes = ALIGN_UP(at - q->snapshots_offset, q->cluster_size);
    if (q->snapshots && !rc) {
        count_range(c, q->snapshots_offset, bytes >> q->cluster_bits, "snapshot table outside");
    }
    return rc;
}

/* Everything but the refcount structures themselves. */
static int count_all(struct check *c) {
    count_range(c, 0, 1, "header");
    int rc = count_l1(c, c->q->l1, c->q->l1_size, c->q->l1_offset, true);
    return rc ? rc : count_snapshots(c);
}

static int rt_load(struct check *c) {
    struct qcow2 *q = c->q;
    int rc = file_read(q->im.file, q->rt_offset, c->rt, q->rt_size * 8ull);
    for (u32 i = 0; i < q->rt_size && !rc; i++) {
        c->rt[i] = be64_get((const u8 *)&c->rt[i]);
    }
    return rc;
}

static void count_counts(struct check *c) {
    struct qcow2 *q = c->q;
    count_range(c, q->rt_offset, q->rt_size * 8ull >> q->cluster_bits,
                "refcount table outside the file");
    for (u32 i = 0; i < q->rt_size; i++) {
        u64 offset = c->rt[i] & ~(u64)0x1ff;
        if (offset && !count_range(c, offset, 1, "refcount block outside the file")) {
            c->rt[i] = 0;
        } else if (offset && c->used[offset >> q->cluster_bits] > 1) {
            find(c, "refcount block overlaps something", offset);
        }
    }
}

/* --- comparing --------------------------------------------------------------------------------
 */

static u32 block_shift(const struct qcow2 *q) {
    return q->cluster_bits + 3 - q->refcount_order;
}

static void compare_one(struct check *c, u64 cluster, u64 says) {
    u64 uses = cluster < c->clusters ? c->used[cluster] : 0;
    if (says > uses) {
        c->out->leaks++;
        if (c->say && c->said++ < FINDINGS) {
            char text[120];
            fmt_str(text, sizeof(text), "leaked cluster %llu: counted %llu, used %llu",
                    (unsigned long long)cluster, (unsigned long long)says,
                    (unsigned long long)uses);
            c->say(c->ctx, text);
        }
    } else if (says < uses) {
        find(c, "cluster used more often than counted", cluster << c->q->cluster_bits);
    }
}

static int compare(struct check *c) {
    struct qcow2 *q = c->q;
    u64 per_block = BIT(block_shift(q)), blocks = (c->clusters + per_block - 1) / per_block;
    int rc = 0;
    for (u64 b = 0; b < MAX(blocks, (u64)q->rt_size) && !rc; b++) {
        u64 offset = b < q->rt_size ? c->rt[b] & ~(u64)0x1ff : 0;
        if (offset) {
            rc = file_read(q->im.file, offset, c->table, (size_t)q->cluster_size);
        }
        for (u64 i = 0; i < per_block && !rc && (offset || b * per_block + i < c->clusters); i++) {
            u64 says = offset ? refcount_read(c->table, q->refcount_order, i) : 0;
            compare_one(c, b * per_block + i, says);
        }
    }
    return rc;
}

/* COPIED must say exactly "counted once": a write in place relies on it. */
static u64 copied_right(const struct check *c, u64 entry) {
    u64 cluster = (entry & QCOW2_OFFSET) >> c->q->cluster_bits;
    bool once = cluster < c->clusters && c->used[cluster] == 1;
    return once ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
}

static int copied_l2(struct check *c, u64 offset, bool fix) {
    struct qcow2 *q = c->q;
    bool changed = false;
    int rc = file_read(q->im.file, offset, c->table, (size_t)q->cluster_size);
    for (u64 i = 0; i < BIT(q->l2_bits) && !rc; i++) {
        u64 entry = be64_get(c->table + i * 8);
        enum qcluster kind = qcluster_of(q, entry);
        if ((kind == Q_DATA || kind == Q_ZERO_ALLOC) && copied_right(c, entry) != entry) {
            find(c, "wrong COPIED flag of the cluster", entry & QCOW2_OFFSET);
            be64_put(c->table + i * 8, copied_right(c, entry));
            changed = true;
            c->out->fixed_errors += fix;
        }
    }
    if (!rc && changed && fix) {
        qcache_forget(q, &q->l2, offset);
        rc = file_write(q->im.file, offset, c->table, (size_t)q->cluster_size);
    }
    return rc;
}

static int copied_all(struct check *c, bool fix) {
    struct qcow2 *q = c->q;
    bool changed = false;
    int rc = 0;
    for (u32 i = 0; i < q->l1_size && !rc; i++) {
        u64 offset = q->l1[i] & QCOW2_OFFSET;
        if (!offset || offset >> q->cluster_bits >= c->clusters) {
            continue;
        }
        if (copied_right(c, q->l1[i]) != q->l1[i]) {
            find(c, "wrong COPIED flag of the L2 table", offset);
            if (fix) {
                q->l1[i] = copied_right(c, q->l1[i]);
                c->out->fixed_errors++;
                changed = true;
            }
        }
        rc = copied_l2(c, offset, fix);
    }
    return rc || !changed ? rc : l1_write(q, q->l1_offset, 0, q->l1_size);
}

/* --- mending ----------------------------------------------------------------------------------
 */

static int leaks_fix(struct check *c) {
    struct qcow2 *q = c->q;
    u64 per_block = BIT(block_shift(q));
    int rc = 0;
    for (u64 b = 0; b < q->rt_size && !rc; b++) {
        u64 offset = c->rt[b] & ~(u64)0x1ff;
        bool changed = false;
        if (!offset) {
            continue;
        }
        rc = file_read(q->im.file, offset, c->table, (size_t)q->cluster_size);
        for (u64 i = 0; i < per_block && !rc; i++) {
            u64 cluster = b * per_block + i, uses = cluster < c->clusters ? c->used[cluster] : 0;
            if (refcount_read(c->table, q->refcount_order, i) > uses) {
                refcount_write(c->table, q->refcount_order, i, uses);
                changed = true;
                c->out->fixed_leaks++;
            }
        }
        if (!rc && changed) {
            qcache_forget(q, &q->rb, offset);
            rc = file_write(q->im.file, offset, c->table, (size_t)q->cluster_size);
        }
    }
    q->free_from = 0;
    return rc;
}

/* The new structures, behind everything in use:  | table | block | block ... | */
static int rebuild_write(struct check *c, u64 start, u64 table, u64 blocks, u64 *rt) {
    struct qcow2 *q = c->q;
    u64 per_block = BIT(block_shift(q)), end = start + table + blocks;
    int rc = 0;
    for (u64 b = 0; b < blocks && !rc; b++) {
        memset(c->table, 0, (size_t)q->cluster_size);
        for (u64 i = 0; i < per_block && b * per_block + i < end; i++) {
            u64 k = b * per_block + i;
            refcount_write(c->table, q->refcount_order, i, k < start ? c->used[k] : 1);
        }
        rt[b] = (start + table + b) << q->cluster_bits;
        rc = file_write(q->im.file, rt[b], c->table, (size_t)q->cluster_size);
    }
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    return rc ? rc : rt_write(q, start << q->cluster_bits, rt, 0, (u32)(table << q->l2_bits));
}

static void rebuild_switch(struct qcow2 *q, u64 *rt, u64 start, u64 table, u64 blocks) {
    struct host *host = q->im.host;
    for (u32 i = 0; i < q->rt_size; i++) {
        qset_remove(q, q->rt[i] & ~(u64)0x1ff);
    }
    for (u32 i = 0; i < q->rb.count; i++) {
        if (q->rb.t[i].offset) {
            qcache_forget(q, &q->rb, q->rb.t[i].offset);
        }
    }
    host->ops->pages_free(host, q->rt, MAX(q->rt_size, 1u) * 8ull);
    q->rt = rt;
    q->rt_size = (u32)(table << q->l2_bits);
    q->rt_offset = start << q->cluster_bits;
    q->rt_dirty_from = q->rt_dirty_to = 0;
    q->free_from = 0;
    q->high = MAX(q->high, (start + table + blocks) << q->cluster_bits);
    q->im.file->size = MAX(q->im.file->size, q->high);
    for (u64 b = 0; b < blocks; b++) {
        qset_add(q, rt[b]);
    }
}

/* Counters of used clusters must not include the old structures: see qcow2_check. */
static int rebuild(struct check *c) {
    struct qcow2 *q = c->q;
    struct host *host = q->im.host;
    u64 per_block = BIT(block_shift(q)), start = c->out->end >> q->cluster_bits;
    u64 blocks = 1, table = 1;
    for (u32 i = 0; i < 64; i++) {
        blocks = (start + table + blocks + per_block - 1) / per_block;
        table = (blocks * 8 + q->cluster_size - 1) >> q->cluster_bits;
    }
    if (table << q->cluster_bits > QCOW2_RT_BYTES_MAX) {
        return -ERR_RANGE;
    }
    u64 bytes = table << q->cluster_bits;
    u64 *rt = host->ops->pages(host, (size_t)bytes);
    int rc = rt ? rebuild_write(c, start, table, blocks, rt) : -ERR_NOMEM;
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (rc) {
        if (rt) {
            host->ops->pages_free(host, rt, (size_t)bytes);
        }
        return rc;
    }
    rebuild_switch(q, rt, start, table, blocks);
    rc = header_update(q);
    return rc ? rc : q->im.file->ops->flush(q->im.file);
}

/* --- the check --------------------------------------------------------------------------------
 */

static void check_fini(struct check *c) {
    struct host *host = c->q->im.host;
    if (c->used) {
        host->ops->pages_free(host, c->used, c->clusters * sizeof(*c->used));
    }
    if (c->rt) {
        host->ops->pages_free(host, c->rt, c->rt_bytes);
    }
    if (c->table) {
        host->ops->pages_free(host, c->table, (size_t)c->q->cluster_size);
    }
}

static int check_init(struct check *c) {
    struct qcow2 *q = c->q;
    struct host *host = q->im.host;
    c->clusters = ALIGN_UP(q->im.file->size, q->cluster_size) >> q->cluster_bits;
    if (c->clusters > CHECK_CLUSTERS_MAX || (q->autoclear & 1)) {
        return -ERR_UNSUPPORTED; /* too large; bitmaps, whose clusters are not looked at */
    }
    c->used = host->ops->pages(host, c->clusters * sizeof(*c->used));
    c->rt_bytes = MAX(q->rt_size, 1u) * 8ull;
    c->rt = host->ops->pages(host, c->rt_bytes);
    c->table = host->ops->pages(host, (size_t)q->cluster_size);
    return c->used && c->rt && c->table ? 0 : -ERR_NOMEM;
}

static int check_once(struct check *c, bool counts) {
    int rc = check_init(c);
    rc = rc ? rc : rt_load(c);
    rc = rc ? rc : count_all(c);
    if (!rc && counts) {
        count_counts(c);
        rc = compare(c);
    }
    return rc;
}

static int fix_errors(struct qcow2 *q, struct qcow2_check_result *out) {
    struct qcow2_check_result r = {0};
    struct check c = {.q = q, .out = &r};
    int rc = check_once(&c, false);
    if (!rc && !c.overlap) {
        rc = rebuild(&c);
    }
    check_fini(&c);
    if (!rc) {
        out->fixed_leaks = out->leaks;
    }
    return rc;
}

int qcow2_check(struct image *im, u32 fix, qcow2_say_fn say, void *ctx,
                struct qcow2_check_result *out) {
    struct qcow2 *q = qcow2_of(im);
    struct check c = {.q = q, .say = say, .ctx = ctx, .out = out};
    *out = (struct qcow2_check_result){0};
    fix = im->readonly || q->corrupt ? 0 : fix;
    int rc = im->readonly || q->corrupt ? 0 : tables_commit(q);
    rc = rc ? rc : check_once(&c, true);
    u64 count_errors = out->errors;
    rc = rc ? rc : copied_all(&c, (fix & QCOW2_FIX_ERRORS) && !count_errors);
    if (!rc && (fix & QCOW2_FIX_LEAKS) && out->leaks && !count_errors) {
        rc = leaks_fix(&c);
    }
    check_fini(&c);
    if (!rc && (fix & QCOW2_FIX_ERRORS) && count_errors) {
        rc = fix_errors(q, out);
        struct qcow2_check_result again = {0};
        rc = rc ? rc : qcow2_check(im, QCOW2_FIX_LEAKS, NULL, NULL, &again);
        if (!rc && again.errors) { /* flags, now that the counts are right */
            rc = qcow2_check(im, QCOW2_FIX_LEAKS | QCOW2_FIX_ERRORS * (again.errors < out->errors),
                             NULL, NULL, &again);
            again.errors -= MIN(again.errors, again.fixed_errors);
        }
        out->fixed_errors = out->errors - MIN(out->errors, again.errors);
        return rc;
    }
    if (!rc && fix && !im->readonly) {
        rc = im->file->ops->flush(im->file);
    }
    return rc;
}
