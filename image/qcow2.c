/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 images: opening with every check that a hostile file deserves, creating, closing. */
#include "image/qcow2_int.h"

#include "core/base/fmt.h"

enum { L2_CACHE_BYTES = 4 << 20, RB_CACHE_BYTES = 1 << 20 };

static int bad(struct err *err, const char *what) {
    return ERR_SET(err, ERR_FORMAT, "qcow2: the image is damaged: %s", what);
}

bool qcow2_probe(struct image_file *file) {
    u8 magic[4];
    return !file_read(file, 0, magic, sizeof(magic)) && be32_get(magic) == QCOW2_MAGIC;
}

/* --- header -----------------------------------------------------------------------------------
 */

static int features_check(const struct qcow2 *q, struct err *err) {
    u64 known = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_COMPRESSION;
    if (q->incompat & QCOW2_INCOMPAT_DATA_FILE) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: external data files are not offered");
    }
    if (q->incompat & QCOW2_INCOMPAT_EXTENDED_L2) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "qcow2: extended L2 entries (subclusters) are not offered");
    }
    if (q->incompat & ~known) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: unknown incompatible features %llx",
                       (unsigned long long)(q->incompat & ~known));
    }
    if (q->compression > 1 ||
        !!(q->incompat & QCOW2_INCOMPAT_COMPRESSION) != (q->compression != 0)) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: unknown compression type %u", q->compression);
    }
    if ((q->incompat & QCOW2_INCOMPAT_CORRUPT) && !q->im.readonly) {
        return ERR_SET(err, ERR_FORMAT,
                       "qcow2: the image is marked as corrupt; copy what is in it with readonly");
    }
    return 0;
}

static int header_v3(struct qcow2 *q, const u8 *h, struct err *err) {
    if (q->version < 3) {
        q->refcount_order = 4;
        q->header_length = QCOW2_HEADER_V2;
        return 0;
    }
    q->incompat = be64_get(h + H_INCOMPAT);
    q->compat = be64_get(h + H_COMPAT);
    q->autoclear = be64_get(h + H_AUTOCLEAR);
    q->refcount_order = be32_get(h + H_REFCOUNT_ORDER);
    q->header_length = be32_get(h + H_LENGTH);
    q->compression = q->header_length > H_COMPRESSION ? h[H_COMPRESSION] : 0;
    q->lazy = q->compat & QCOW2_COMPAT_LAZY;
    if (q->refcount_order > 6) {
        return bad(err, "refcounts of more than 64 bits");
    }
    if (q->header_length < QCOW2_HEADER_V3 || q->header_length > q->cluster_size ||
        q->header_length % 8) {
        return bad(err, "impossible header length");
    }
    return features_check(q, err);
}

static int header_parse(struct qcow2 *q, const u8 *h, struct err *err) {
    if (be32_get(h + H_MAGIC) != QCOW2_MAGIC) {
        return ERR_SET(err, ERR_FORMAT, "not a qcow2 image");
    }
    q->version = be32_get(h + H_VERSION);
    if (q->version != 2 && q->version != 3) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: version %u is not offered", q->version);
    }
    q->cluster_bits = be32_get(h + H_CLUSTER_BITS);
    if (q->cluster_bits < 9 || q->cluster_bits > 21) {
        return bad(err, "clusters are not of 512 bytes to 2 MiB");
    }
    q->cluster_size = BIT(q->cluster_bits);
    q->l2_bits = q->cluster_bits - 3;
    if (be32_get(h + H_CRYPT)) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: encrypted images are not offered");
    }
    q->im.size = be64_get(h + H_SIZE);
    q->l1_size = be32_get(h + H_L1_SIZE);
    q->l1_offset = be64_get(h + H_L1_OFFSET);
    q->rt_offset = be64_get(h + H_RT_OFFSET);
    q->snapshots = be32_get(h + H_NB_SNAPSHOTS);
    q->snapshots_offset = be64_get(h + H_SNAPSHOTS_OFFSET);
    return header_v3(q, h, err);
}

u32 qcow2_l1_need(const struct qcow2 *q, u64 size) {
    u64 reach = BIT(q->cluster_bits + q->l2_bits);
    u64 n = size / reach + (size % reach != 0);
    return n > QCOW2_L1_MAX ? UINT32_MAX : (u32)n;
}

/* A table of the header: aligned, not in the header's cluster, inside the file. */
static bool place_ok(const struct qcow2 *q, u64 offset, u64 bytes) {
    u64 end = ALIGN_UP(q->im.file->size, q->cluster_size);
    return !in_cluster(q, offset) && offset >= q->cluster_size && offset <= end &&
           bytes <= end - offset;
}

static int tables_check(struct qcow2 *q, const u8 *h, struct err *err) {
    u64 rt_bytes = (u64)be32_get(h + H_RT_CLUSTERS) << q->cluster_bits;
    u32 need = q->im.size > INT64_MAX ? UINT32_MAX : qcow2_l1_need(q, q->im.size);
    if (need == UINT32_MAX || q->l1_size > QCOW2_L1_MAX) {
        return ERR_SET(err, ERR_UNSUPPORTED, "qcow2: the disk of %llu bytes is too large",
                       (unsigned long long)q->im.size);
    }
    if (q->l1_size < need) {
        return bad(err, "the L1 table is too short for the disk");
    }
    if (q->l1_size && !place_ok(q, q->l1_offset, q->l1_size * 8ull)) {
        return bad(err, "the L1 table is outside the file");
    }
    if (rt_bytes > QCOW2_RT_BYTES_MAX) {
        return bad(err, "the refcount table is larger than 8 MiB");
    }
    if (!q->im.readonly && (!rt_bytes || !place_ok(q, q->rt_offset, rt_bytes))) {
        return bad(err, "the refcount table is outside the file");
    }
    q->rt_size = (u32)(rt_bytes / 8);
    if (q->snapshots > QCOW2_SNAPSHOTS_MAX ||
        (q->snapshots && !place_ok(q, q->snapshots_offset, 0))) {
        return bad(err, "the snapshot table is impossible");
    }
    return 0;
}

/* --- extensions and the backing image's name ---------------------------------------------------
 */

static int name_read(struct qcow2 *q, const u8 *h, struct err *err) {
    u64 offset = be64_get(h + H_BACKING_OFFSET);
    u32 size = be32_get(h + H_BACKING_SIZE);
    if (!offset) {
        return 0;
    }
    if (size > QCOW2_NAME_MAX || offset > q->cluster_size || size > q->cluster_size - offset) {
        return bad(err, "the name of the backing file is outside the header");
    }
    int rc = file_read(q->im.file, offset, q->backing, size);
    if (rc) {
        return ERR_SET(err, ERR_IO, "qcow2: the header cannot be read");
    }
    return str_len(q->backing) == size ? 0 : bad(err, "the name of the backing file is no text");
}

static int extensions_read(struct qcow2 *q, const u8 *h, struct err *err) {
    u64 end = be64_get(h + H_BACKING_OFFSET);
    end = end && end < q->cluster_size ? end : q->cluster_size;
    u8 e[8];
    for (u64 at = q->header_length; at + sizeof(e) <= end;) {
        if (file_read(q->im.file, at, e, sizeof(e))) {
            return ERR_SET(err, ERR_IO, "qcow2: the header cannot be read");
        }
        u32 type = be32_get(e), len = be32_get(e + 4);
        at += sizeof(e);
        if (!type) {
            break;
        }
        if (len > end - at) {
            return bad(err, "a header extension is outside the header");
        }
        if (type == (u32)QCOW2_EXT_BACKING_FORMAT) {
            if (len >= sizeof(q->backing_format) ||
                file_read(q->im.file, at, q->backing_format, len)) {
                return bad(err, "the format of the backing file is no name");
            }
        }
        at += ALIGN_UP(len, 8u);
    }
    return 0;
}

/* --- tables in memory -------------------------------------------------------------------------
 */

static u64 *table_read(struct qcow2 *q, u64 offset, u32 entries) {
    struct host *host = q->im.host;
    u64 *t = host->ops->pages(host, MAX(entries, 1u) * 8ull);
    if (t && entries && file_read(q->im.file, offset, t, entries * 8ull)) {
        host->ops->pages_free(host, t, MAX(entries, 1u) * 8ull);
        return NULL;
    }
    for (u32 i = 0; t && i < entries; i++) {
        t[i] = be64_get((const u8 *)&t[i]);
    }
    return t;
}

static int entries_check(struct qcow2 *q, const u64 *table, u32 size, u64 mask, const char *what,
                         struct err *err) {
    u64 end = ALIGN_UP(q->im.file->size, q->cluster_size);
    for (u32 i = 0; i < size; i++) {
        u64 offset = table[i] & mask;
        if (!offset) {
            continue;
        }
        if (in_cluster(q, offset) || offset >= end) {
            return ERR_SET(err, ERR_FORMAT,
                           "qcow2: the image is damaged: %s entry %u points outside the file", what,
                           i);
        }
        int rc = q->im.readonly                 ? 0
                 : range_is_table(q, offset, 1) ? -ERR_EXISTS
                                                : qset_add(q, offset);
        if (rc == -ERR_NOMEM) {
            return ERR_SET(err, ERR_NOMEM, "qcow2: out of memory");
        }
        if (rc) {
            return ERR_SET(err, ERR_FORMAT,
                           "qcow2: the image is damaged: %s entry %u points to another table", what,
                           i);
        }
    }
    return 0;
}

static u32 cache_slots(const struct qcow2 *q, u64 bytes, u32 least) {
    u64 n = bytes >> q->cluster_bits;
    return (u32)MAX(n, least);
}

static int tables_load(struct qcow2 *q, struct err *err) {
    q->l1 = table_read(q, q->l1_offset, q->l1_size);
    q->rt = q->im.readonly ? NULL : table_read(q, q->rt_offset, q->rt_size);
    if (!q->l1 || (!q->im.readonly && !q->rt)) {
        return ERR_SET(err, ERR_NOMEM, "qcow2: the tables cannot be read: out of memory");
    }
    if (qcache_init(q, &q->l2, cache_slots(q, L2_CACHE_BYTES, 4)) ||
        (!q->im.readonly && qcache_init(q, &q->rb, cache_slots(q, RB_CACHE_BYTES, 2)))) {
        return ERR_SET(err, ERR_NOMEM, "qcow2: out of memory");
    }
    int rc = 0;
    if (!q->im.readonly && range_is_table(q, q->l1_offset, 1) && q->l1_size &&
        q->l1_offset < q->rt_offset + q->rt_size * 8ull &&
        q->rt_offset < q->l1_offset + ALIGN_UP(q->l1_size * 8ull, q->cluster_size)) {
        rc = bad(err, "L1 table and refcount table overlap");
    }
    rc = rc ? rc : entries_check(q, q->l1, q->l1_size, QCOW2_OFFSET, "L1", err);
    if (!rc && !q->im.readonly) {
        rc = entries_check(q, q->rt, q->rt_size, ~(u64)0x1ff, "refcount table", err);
    }
    return rc;
}

/* --- life -------------------------------------------------------------------------------------
 */

static void buffers_free(struct qcow2 *q) {
    struct host *host = q->im.host;
    u8 *one[] = {q->cow[0], q->cow[1], q->scratch, q->unpacked};
    for (u32 i = 0; i < ARRAY_LEN(one); i++) {
        if (one[i]) {
            host->ops->pages_free(host, one[i], (size_t)q->cluster_size);
        }
    }
    if (q->packed) {
        host->ops->pages_free(host, q->packed, (size_t)q->cluster_size * 2);
    }
}

static void qcow2_destroy(struct qcow2 *q) {
    struct host *host = q->im.host;
    qcache_fini(q, &q->l2);
    qcache_fini(q, &q->rb);
    qset_free(q);
    freed_fini(q);
    buffers_free(q);
    if (q->l1) {
        host->ops->pages_free(host, q->l1, MAX(q->l1_size, 1u) * 8ull);
    }
    if (q->rt) {
        host->ops->pages_free(host, q->rt, MAX(q->rt_size, 1u) * 8ull);
    }
    host_free(host, q, sizeof(*q));
}

/* The counts are right and stable: says so on disk. */
int qcow2_mark_clean(struct qcow2 *q) {
    q->lazy = false; /* now the counts are written, too */
    int rc = tables_write(q);
    rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    if (!rc && (q->incompat & QCOW2_INCOMPAT_DIRTY)) {
        q->incompat &= ~QCOW2_INCOMPAT_DIRTY;
        rc = header_update(q);
        rc = rc ? rc : q->im.file->ops->flush(q->im.file);
    }
    q->marked_dirty = false;
    q->lazy = q->compat & QCOW2_COMPAT_LAZY;
    return rc;
}

static int write_back(struct qcow2 *q) {
    int rc = tables_commit(q);
    return rc ? rc : qcow2_mark_clean(q);
}

static int qcow2_close(struct image *im) {
    struct qcow2 *q = qcow2_of(im);
    int rc = 0;
    if (!im->readonly && !im->throwaway && !q->corrupt) {
        rc = write_back(q);
    }
    if (im->backing) {
        int below = im->backing->ops->close(im->backing);
        rc = rc ? rc : below;
    }
    im->file->ops->close(im->file);
    qcow2_destroy(q);
    return rc;
}

static int qcow2_flush(struct image *im) {
    struct qcow2 *q = qcow2_of(im);
    if (im->readonly) {
        return 0;
    }
    mutex_lock(im->host, &q->meta);
    int rc = tables_commit(q);
    mutex_unlock(im->host, &q->meta);
    return rc ? rc : im->file->ops->flush(im->file);
}

static bool qcow2_clean(struct image *im) {
    return !__atomic_load_n(&qcow2_of(im)->unclean, __ATOMIC_RELAXED);
}

static const struct image_ops qcow2_ops = {
    .name = "qcow2",
    .map = qcow2_map,
    .unmap = qcow2_unmap,
    .readv = qcow2_readv,
    .writev = qcow2_writev,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .clean = qcow2_clean,
    .status = qcow2_status,
    .close = qcow2_close,
};

bool image_is_qcow2(const struct image *im) {
    return im->ops == &qcow2_ops;
}

/* What a writer must do first: drop what it does not keep up to date, and mend the counts of an
 * image that was not closed. */
static int writer_begin(struct qcow2 *q, struct err *err) {
    int rc = 0;
    if (q->autoclear) {
        q->autoclear = 0;
        rc = header_update(q);
    }
    if (!rc && (q->incompat & QCOW2_INCOMPAT_DIRTY)) {
        struct qcow2_check_result r;
        rc = qcow2_check(&q->im, QCOW2_FIX_LEAKS | QCOW2_FIX_ERRORS, NULL, NULL, &r);
        rc = rc ? rc : r.errors > r.fixed_errors ? -ERR_FORMAT : qcow2_mark_clean(q);
        q->lazy = q->compat & QCOW2_COMPAT_LAZY;
    }
    return rc ? ERR_SET(err, (enum err_code) - rc, "qcow2: the image cannot be made ready: %s",
                        err_name(rc))
              : 0;
}

static int load(struct qcow2 *q, struct err *err) {
    u8 h[QCOW2_HEADER_LEN];
    if (file_read(q->im.file, 0, h, sizeof(h))) {
        return ERR_SET(err, ERR_IO, "qcow2: the header cannot be read");
    }
    int rc = header_parse(q, h, err);
    rc = rc ? rc : tables_check(q, h, err);
    rc = rc ? rc : name_read(q, h, err);
    rc = rc ? rc : extensions_read(q, h, err);
    rc = rc ? rc : tables_load(q, err);
    if (!rc) {
        q->high = ALIGN_UP(q->im.file->size, q->cluster_size);
        q->im.size = ALIGN_UP(q->im.size, (u64)IMAGE_SECTOR);
    }
    return rc || q->im.readonly ? rc : writer_begin(q, err);
}

int qcow2_open(struct host *host, struct image_file *file, bool readonly,
               const struct image_codec *codec, struct image **out, struct err *err) {
    struct qcow2 *q = host_alloc(host, sizeof(*q));
    if (!q) {
        return ERR_SET(err, ERR_NOMEM, "qcow2: out of memory");
    }
    q->im = (struct image){
        .ops = &qcow2_ops, .host = host, .file = file, .readonly = readonly || file->readonly};
    q->codec = codec;
    int rc = load(q, err);
    if (rc) {
        qcow2_destroy(q);
        return rc;
    }
    *out = &q->im;
    return 0;
}

const char *qcow2_backing(struct image *im, const char **format) {
    if (format) {
        *format = qcow2_of(im)->backing_format;
    }
    return qcow2_of(im)->backing;
}

void qcow2_info(struct image *im, struct qcow2_info *out) {
    const struct qcow2 *q = qcow2_of(im);
    *out = (struct qcow2_info){
        .version = q->version,
        .refcount_bits = 1u << q->refcount_order,
        .snapshots = q->snapshots,
        .cluster_size = q->cluster_size,
        .size = q->im.size,
        .incompat = q->incompat,
        .compat = q->compat,
        .autoclear = q->autoclear,
        .backing = q->backing,
        .backing_format = q->backing_format,
        .compression = q->compression ? "zstd" : "zlib",
        .lazy = q->compat & QCOW2_COMPAT_LAZY,
        .dirty = q->incompat & QCOW2_INCOMPAT_DIRTY,
        .corrupt = q->corrupt || (q->incompat & QCOW2_INCOMPAT_CORRUPT),
    };
}
