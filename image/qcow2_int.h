/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the qcow2 driver share. The format is docs/interop/qcow2.txt of QEMU; numbers
 * on disk are big-endian.
 *
 *   header (cluster 0)
 *     |-- L1 table --> L2 tables --> data clusters      guest offset = L1 index | L2 index | in
 * cluster
 *     '-- refcount table --> refcount blocks            one count per host cluster
 *
 * Order on disk, so that a crash after any write leaves an image whose every reference is counted
 * (a count without a reference, a leak, is harmless). `=` is a flush of the file:
 *
 *   data, copied data, refcount blocks = refcount table = L2 tables = L1 table = counts of what was
 *   freed (only now may it be used again)
 *
 * Lock rule: `meta` is held by one operation that reads or changes tables at a time, also while it
 * waits for the file; `map` is a leaf, held for moments around what image_map looks at: L1, and the
 * tables in the L2 cache. Data moves without a lock when its place is held (`flight`).
 */
#ifndef IMAGE_QCOW2_INT_H
#define IMAGE_QCOW2_INT_H

#include "image/qcow2.h"

#define QCOW2_MAGIC      0x514649fbu
#define QCOW2_COPIED     BIT(63)
#define QCOW2_COMPRESSED BIT(62)
#define QCOW2_ZERO       BIT(0)
#define QCOW2_OFFSET     0x00fffffffffffe00ull

#define QCOW2_INCOMPAT_DIRTY       BIT(0)
#define QCOW2_INCOMPAT_CORRUPT     BIT(1)
#define QCOW2_INCOMPAT_DATA_FILE   BIT(2)
#define QCOW2_INCOMPAT_COMPRESSION BIT(3)
#define QCOW2_INCOMPAT_EXTENDED_L2 BIT(4)
#define QCOW2_COMPAT_LAZY          BIT(0)

enum {
    QCOW2_L1_MAX = 4 << 20, /* entries: 32 MiB, as QEMU */
    QCOW2_RT_BYTES_MAX = 8 << 20,
    QCOW2_SNAPSHOTS_MAX = 65536,
    QCOW2_NAME_MAX = 1023,
    QCOW2_HEADER_V2 = 72,
    QCOW2_HEADER_V3 = 104,
    QCOW2_HEADER_LEN = 112,
    QCOW2_EXT_BACKING_FORMAT = (int)0xe2792aca,
};

/* Offsets in the header. */
enum {
    H_MAGIC = 0,
    H_VERSION = 4,
    H_BACKING_OFFSET = 8,
    H_BACKING_SIZE = 16,
    H_CLUSTER_BITS = 20,
    H_SIZE = 24,
    H_CRYPT = 32,
    H_L1_SIZE = 36,
    H_L1_OFFSET = 40,
    H_RT_OFFSET = 48,
    H_RT_CLUSTERS = 56,
    H_NB_SNAPSHOTS = 60,
    H_SNAPSHOTS_OFFSET = 64,
    H_INCOMPAT = 72,
    H_COMPAT = 80,
    H_AUTOCLEAR = 88,
    H_REFCOUNT_ORDER = 96,
    H_LENGTH = 100,
    H_COMPRESSION = 104,
};

static inline u32 be32_get(const u8 *p) {
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static inline u64 be64_get(const u8 *p) {
    return (u64)be32_get(p) << 32 | be32_get(p + 4);
}

static inline void be32_put(u8 *p, u32 v) {
    p[0] = (u8)(v >> 24);
    p[1] = (u8)(v >> 16);
    p[2] = (u8)(v >> 8);
    p[3] = (u8)v;
}

static inline void be64_put(u8 *p, u64 v) {
    be32_put(p, (u32)(v >> 32));
    be32_put(p + 4, (u32)v);
}

/* --- cache of tables of one cluster each (qcow2_cache.c) -------------------------------------- */

struct qtable {
    u64 offset; /* in the file; 0: unused */
    u8 *data;
    u32 next; /* in its bucket: index + 1 */
    bool dirty, recent;
};

struct qcache {
    struct qtable *t;
    u32 *bucket; /* index + 1; 0: empty */
    u8 *mem;
    u32 count, hand; /* count is a power of two; as many buckets */
};

/* --- clusters that hold tables (qcow2_cache.c): an open hash of offsets -------------------------
 */

struct qset {
    u64 *slot; /* 0: empty, 1: was removed */
    u32 cap, used;
};

/* Clusters whose reference is gone, waiting for their count to go. */
struct qfree {
    u64 offset, clusters;
};

struct qfree_list {
    struct qfree *r;
    u32 count, cap;
};

enum { QFREE_MAX = 1 << 16 };

struct qcow2 {
    struct image im;
    const struct image_codec *codec;
    struct mutex meta, map;

    u32 version, cluster_bits, l2_bits, refcount_order, header_length;
    u64 cluster_size;
    u64 incompat, compat, autoclear; /* as on disk */
    u8 compression;
    u32 snapshots;
    u64 snapshots_offset;
    bool lazy, corrupt;
    bool marked_dirty; /* QCOW2_INCOMPAT_DIRTY is on disk by our doing */

    u64 *l1; /* host order */
    u32 l1_size;
    u64 l1_offset;
    u32 l1_dirty_from, l1_dirty_to; /* entries; empty when equal */

    u64 *rt;
    u32 rt_size; /* entries */
    u64 rt_offset;
    u32 rt_dirty_from, rt_dirty_to;

    struct qcache l2, rb;
    struct qset tables; /* L2 tables and refcount blocks; not kept for read-only images */
    u64 free_from;      /* cluster index: none below is free */
    u64 high;           /* bytes: the file reads as zeros from here on */
    bool barrier;       /* copied data must be stable before an L2 table points to it */
    bool unclean;       /* atomic: flush has tables to write */

    u32 epoch;     /* under map */
    u32 flight[2]; /* places held, by parity of the epoch they were taken in; under map */
    struct qfree_list freed, freed_before; /* in this epoch, and in the one before */

    u8 *cow[2];   /* a cluster each; made when first needed */
    u8 *scratch;  /* a cluster */
    u8 *packed;   /* two clusters */
    u8 *unpacked; /* a cluster: what `unpacked_entry` says */
    u64 unpacked_entry;

    char backing[QCOW2_NAME_MAX + 1], backing_format[16];
};

static inline struct qcow2 *qcow2_of(struct image *im) {
    return CONTAINER_OF(im, struct qcow2, im);
}

static inline u64 in_cluster(const struct qcow2 *q, u64 offset) {
    return offset & (q->cluster_size - 1);
}

/* Is anything below, also when it was not opened? */
static inline bool has_backing(const struct qcow2 *q) {
    return q->im.backing || q->backing[0];
}

/* cache.c. All with meta held. */
int qcache_init(struct qcow2 *q, struct qcache *c, u32 count);
void qcache_fini(struct qcow2 *q, struct qcache *c);
/* Also with map instead of meta. NULL: not there. */
struct qtable *qcache_find(const struct qcache *c, u64 offset);
int qcache_get(struct qcow2 *q, struct qcache *c, u64 offset, struct qtable **out);
/* A table of zeros, dirty, that is not read from the file; `keep` is not evicted (or NULL). */
int qcache_new(struct qcow2 *q, struct qcache *c, u64 offset, const struct qtable *keep,
               struct qtable **out);
void qcache_forget(struct qcow2 *q, struct qcache *c, u64 offset);
int qcache_write(struct qcow2 *q, struct qcache *c, bool *wrote);
bool qcache_dirty(const struct qcache *c);

int qset_add(struct qcow2 *q, u64 offset);
void qset_remove(struct qcow2 *q, u64 offset);
bool qset_has(const struct qset *s, u64 offset);
void qset_free(struct qcow2 *q);

/* refcount.c */
int refcount_get(struct qcow2 *q, u64 cluster, u64 *count);
/* Up to `want` free clusters in a row, counted once each. */
int clusters_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got);
/* All of them in a row. */
int clusters_alloc_exact(struct qcow2 *q, u64 want, u64 *offset);
/* Takes back what was allocated and never referenced. */
void clusters_unalloc(struct qcow2 *q, u64 offset, u64 count);
/* One reference less, once the tables on disk say so. False: no room, keep the reference. */
bool clusters_free(struct qcow2 *q, u64 offset, u64 count);
bool clusters_free_room(const struct qcow2 *q);
int freed_release(struct qcow2 *q);
void freed_fini(struct qcow2 *q);
u64 refcount_read(const u8 *block, u32 order, u64 i);
void refcount_write(u8 *block, u32 order, u64 i, u64 value);
/* Is this host range part of the image's tables? */
bool range_is_table(const struct qcow2 *q, u64 offset, u64 clusters);

/* commit.c */
int tables_write(struct qcow2 *q);  /* everything but the counts of freed clusters */
int tables_commit(struct qcow2 *q); /* and those */
int meta_begin(struct qcow2 *q);    /* before the first change: may mark the image as dirty */
int header_update(struct qcow2 *q);
int image_corrupt(struct qcow2 *q);
void mark_unclean(struct qcow2 *q);
int l1_write(struct qcow2 *q, u64 offset, u32 from, u32 to);
int rt_write(struct qcow2 *q, u64 offset, const u64 *rt, u32 from, u32 to);

/* map.c */
enum qcluster { Q_NONE, Q_DATA, Q_ZERO, Q_ZERO_ALLOC, Q_COMPRESSED, Q_BAD };
enum qcluster qcluster_of(const struct qcow2 *q, u64 entry);
u64 l2_get(const struct qtable *t, u32 i);
void l2_set(struct qcow2 *q, struct qtable *t, u32 i, u64 entry);
/* The L2 table of a guest offset; *t NULL: there is none. */
int l2_load(struct qcow2 *q, u64 offset, struct qtable **t, u32 *index);
/* The same, made or made ours when needed. */
int l2_own(struct qcow2 *q, u64 offset, struct qtable **t, u32 *index);
/* One reference to what an entry points to less. */
bool entry_free(struct qcow2 *q, u64 entry);
void packed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *bytes);
void qcow2_map(struct image *im, u64 offset, u64 length, bool write, struct image_extent *e);
void qcow2_unmap(struct image *im, const struct image_extent *e);
int qcow2_status(struct image *im, u64 offset, u64 *length, bool *own, bool *zero);

/* io.c, write.c */
int qcow2_readv(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length);
int qcow2_writev(struct image *im, u64 offset, const struct iov *iov, u32 count, u64 length);
int qcow2_zero(struct image *im, u64 offset, u64 length, bool unmap);
int qcow2_discard(struct image *im, u64 offset, u64 length);
/* meta held */
int read_locked(struct qcow2 *q, u64 offset, void *buf, u64 length);
u8 *buffer_get(struct qcow2 *q, u8 **buf, u64 clusters);

/* qcow2.c, for check.c and resize.c */
int qcow2_mark_clean(struct qcow2 *q);
u32 qcow2_l1_need(const struct qcow2 *q, u64 size);

#endif
