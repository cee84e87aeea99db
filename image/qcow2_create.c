/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an empty qcow2 image:
 *
 *   cluster 0        1 ...            then             then
 *   | header, name | refcount table | refcount block | L1 table ... |
 */
#include "core/base/fmt.h"
#include "image/qcow2_int.h"

static int create_check(const struct qcow2_create *c, u32 cluster_bits, u32 order,
                        struct err *err) {
    if (cluster_bits < 9 || cluster_bits > 21) {
        return ERR_SET(err, ERR_INVAL, "cluster size: not a power of two from 512 to 2M");
    }
    if (order > 6 || (c->version == 2 && order != 4)) {
        return ERR_SET(err, ERR_INVAL,
                       "refcount bits: not 1, 2, 4, 8, 16, 32 or 64 (16 with version 2)");
    }
    if (c->version != 0 && c->version != 2 && c->version != 3) {
        return ERR_SET(err, ERR_INVAL, "version: not 2 or 3");
    }
    if (c->version == 2 && c->lazy) {
        return ERR_SET(err, ERR_INVAL, "lazy refcounts need version 3");
    }
    if (c->backing && str_len(c->backing) > QCOW2_NAME_MAX) {
        return ERR_SET(err, ERR_INVAL, "the name of the backing file is longer than 1023 bytes");
    }
    return c->size % IMAGE_SECTOR
               ? ERR_SET(err, ERR_INVAL, "the size is not a multiple of 512 bytes")
               : 0;
}

static u32 log2_of(u32 bits) {
    u32 order = 0;
    while (order < 7 && (1u << order) < bits) {
        order++;
    }
    return (1u << order) == bits ? order : 7;
}

static int header_fill(u8 *h, u64 room, const struct qcow2_create *c, u32 version) {
    u64 at = version >= 3 ? QCOW2_HEADER_LEN : QCOW2_HEADER_V2;
    u64 format = c->backing_format ? str_len(c->backing_format) : 0;
    u64 name = c->backing ? str_len(c->backing) : 0;
    if (at + 8 + ALIGN_UP(format, 8ull) + 8 + name > room) {
        return -ERR_RANGE;
    }
    if (name && format) {
        be32_put(h + at, (u32)QCOW2_EXT_BACKING_FORMAT);
        be32_put(h + at + 4, (u32)format);
        memcpy(h + at + 8, c->backing_format, (size_t)format);
        at += 8 + ALIGN_UP(format, 8ull);
    }
    at += 8; /* the end of the extensions */
    if (name) {
        be64_put(h + H_BACKING_OFFSET, at);
        be32_put(h + H_BACKING_SIZE, (u32)name);
        memcpy(h + at, c->backing, (size_t)name);
    }
    return 0;
}

struct layout {
    u32 cluster_bits, order, version;
    u64 cluster, l1_size, l1_clusters, rt_clusters, blocks, total;
};

static int layout_make(const struct qcow2_create *c, struct layout *l) {
    u64 reach = BIT(2 * l->cluster_bits - 3), per_block = BIT(l->cluster_bits + 3 - l->order);
    l->cluster = BIT(l->cluster_bits);
    l->l1_size = c->size / reach + (c->size % reach != 0);
    if (l->l1_size > QCOW2_L1_MAX || c->size > INT64_MAX) {
        return -ERR_RANGE;
    }
    l->l1_clusters = ALIGN_UP(MAX(l->l1_size, 1ull) * 8, l->cluster) / l->cluster;
    l->rt_clusters = l->blocks = 1;
    for (u32 i = 0; i < 64; i++) {
        l->total = 1 + l->rt_clusters + l->blocks + l->l1_clusters;
        l->blocks = (l->total + per_block - 1) / per_block;
        l->rt_clusters = ALIGN_UP(l->blocks * 8, l->cluster) / l->cluster;
    }
    l->total = 1 + l->rt_clusters + l->blocks + l->l1_clusters;
    return 0;
}

static int counts_write(struct image_file *file, const struct layout *l, u8 *buf) {
    u64 per_block = BIT(l->cluster_bits + 3 - l->order), block0 = 1 + l->rt_clusters;
    int rc = 0;
    for (u64 b = 0; b < l->blocks && !rc; b++) {
        memset(buf, 0, (size_t)l->cluster);
        for (u64 i = 0; i < per_block && b * per_block + i < l->total; i++) {
            refcount_write(buf, l->order, i, 1);
        }
        rc = file_write(file, (block0 + b) << l->cluster_bits, buf, (size_t)l->cluster);
    }
    for (u64 t = 0; t < l->rt_clusters && !rc; t++) {
        memset(buf, 0, (size_t)l->cluster);
        for (u64 i = 0; i < l->cluster / 8 && t * (l->cluster / 8) + i < l->blocks; i++) {
            be64_put(buf + i * 8, (block0 + t * (l->cluster / 8) + i) << l->cluster_bits);
        }
        rc = file_write(file, (1 + t) << l->cluster_bits, buf, (size_t)l->cluster);
    }
    return rc;
}

static int image_write_empty(struct image_file *file, const struct qcow2_create *c,
                             const struct layout *l, u8 *buf) {
    int rc = counts_write(file, l, buf);
    memset(buf, 0, (size_t)l->cluster);
    for (u64 i = 0; i < l->l1_clusters && !rc; i++) {
        u64 at = (l->total - l->l1_clusters + i) << l->cluster_bits;
        rc = file_write(file, at, buf, (size_t)l->cluster);
    }
    be32_put(buf + H_MAGIC, QCOW2_MAGIC);
    be32_put(buf + H_VERSION, l->version);
    be32_put(buf + H_CLUSTER_BITS, l->cluster_bits);
    be64_put(buf + H_SIZE, c->size);
    be32_put(buf + H_L1_SIZE, (u32)l->l1_size);
    be64_put(buf + H_L1_OFFSET, (l->total - l->l1_clusters) << l->cluster_bits);
    be64_put(buf + H_RT_OFFSET, l->cluster);
    be32_put(buf + H_RT_CLUSTERS, (u32)l->rt_clusters);
    if (l->version >= 3) {
        be64_put(buf + H_COMPAT, c->lazy ? QCOW2_COMPAT_LAZY : 0);
        be32_put(buf + H_REFCOUNT_ORDER, l->order);
        be32_put(buf + H_LENGTH, QCOW2_HEADER_LEN);
    }
    rc = rc ? rc : header_fill(buf, l->cluster, c, l->version);
    rc = rc ? rc : file_write(file, 0, buf, (size_t)l->cluster);
    return rc ? rc : file->ops->flush(file);
}

int qcow2_create(struct host *host, struct image_file *file, const struct qcow2_create *c,
                 struct err *err) {
    struct layout l = {.cluster_bits = c->cluster_bits ? c->cluster_bits : 16,
                       .order = log2_of(c->refcount_bits ? c->refcount_bits : 16),
                       .version = c->version ? c->version : 3};
    int rc = create_check(c, l.cluster_bits, l.order, err);
    if (rc) {
        return rc;
    }
    if (layout_make(c, &l)) {
        return ERR_SET(err, ERR_INVAL, "the size is too large for clusters of %u bytes",
                       1u << l.cluster_bits);
    }
    u8 *buf = host->ops->pages(host, (size_t)l.cluster);
    if (!buf) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    rc = image_write_empty(file, c, &l, buf);
    host->ops->pages_free(host, buf, (size_t)l.cluster);
    if (rc == -ERR_RANGE) {
        return ERR_SET(err, ERR_INVAL, "the name of the backing file does not fit a cluster");
    }
    if (rc) {
        return ERR_SET(err, (enum err_code) - rc, "the image cannot be written: %s", err_name(rc));
    }
    file->size = MAX(file->size, l.total << l.cluster_bits);
    return 0;
}
