/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables in memory: a small cache of L2 tables and one of refcount blocks, each entry a cluster of
 * the file, found by hashing its offset, evicted second chance. And the set of offsets that hold
 * such tables, which no data may be written to. Locks: see qcow2_int.h; a slot changes its offset
 * or bytes only with both locks held.
 */
#include "image/qcow2_int.h"

static u32 bucket_of(const struct qcache *c, u64 offset) {
    return (u32)((offset >> 9) * 0x9e3779b97f4a7c15ull >> 32) & (c->count - 1);
}

int qcache_init(struct qcow2 *q, struct qcache *c, u32 count) {
    struct host *host = q->im.host;
    c->t = host_alloc(host, count * sizeof(c->t[0]));
    c->bucket = host_alloc(host, count * sizeof(c->bucket[0]));
    c->mem = host->ops->pages(host, (size_t)(count * q->cluster_size));
    c->count = count;
    if (!c->t || !c->bucket || !c->mem) {
        qcache_fini(q, c);
        return -ERR_NOMEM;
    }
    for (u32 i = 0; i < count; i++) {
        c->t[i].data = c->mem + i * q->cluster_size;
    }
    return 0;
}

void qcache_fini(struct qcow2 *q, struct qcache *c) {
    struct host *host = q->im.host;
    host_free(host, c->t, c->count * sizeof(c->t[0]));
    host_free(host, c->bucket, c->count * sizeof(c->bucket[0]));
    if (c->mem) {
        host->ops->pages_free(host, c->mem, (size_t)(c->count * q->cluster_size));
    }
    *c = (struct qcache){0};
}

struct qtable *qcache_find(const struct qcache *c, u64 offset) {
    for (u32 i = c->bucket[bucket_of(c, offset)]; i; i = c->t[i - 1].next) {
        if (c->t[i - 1].offset == offset) {
            return &c->t[i - 1];
        }
    }
    return NULL;
}

/* map held */
static void slot_unhash(struct qcache *c, struct qtable *t) {
    u32 *at = &c->bucket[bucket_of(c, t->offset)];
    while (t->offset && *at) {
        if (&c->t[*at - 1] == t) {
            *at = t->next;
            break;
        }
        at = &c->t[*at - 1].next;
    }
    t->offset = 0;
    t->dirty = false;
}

/* map held */
static void slot_hash(struct qcache *c, struct qtable *t, u64 offset) {
    u32 *head = &c->bucket[bucket_of(c, offset)];
    t->offset = offset;
    t->next = *head;
    t->recent = true;
    *head = (u32)(t - c->t) + 1;
}

static int table_write(struct qcow2 *q, struct qtable *t) {
    int rc = file_write(q->im.file, t->offset, t->data, (size_t)q->cluster_size);
    if (!rc) {
        t->dirty = false;
        q->high = MAX(q->high, t->offset + q->cluster_size);
    }
    return rc;
}

/* A refcount block may be written at any time: a count too many is a leak, and counts are lowered
 * only when nothing refers any more. An L2 table has to wait for what it refers to. */
static int slot_clean(struct qcow2 *q, struct qcache *c, struct qtable *t) {
    if (!t->dirty) {
        return 0;
    }
    return c == &q->rb ? table_write(q, t) : tables_write(q);
}

static int slot_take(struct qcow2 *q, struct qcache *c, const struct qtable *keep,
                     struct qtable **out) {
    for (u32 tries = 0; tries < 3 * c->count; tries++) {
        struct qtable *t = &c->t[c->hand];
        c->hand = (c->hand + 1) % c->count;
        if (t == keep || (t->offset && t->recent)) {
            t->recent = false;
            continue;
        }
        int rc = slot_clean(q, c, t);
        if (rc) {
            return rc;
        }
        mutex_lock(q->im.host, &q->map);
        slot_unhash(c, t);
        mutex_unlock(q->im.host, &q->map);
        *out = t;
        return 0;
    }
    return -ERR_NOMEM; /* cannot be: the cache has more slots than anybody keeps */
}

int qcache_get(struct qcow2 *q, struct qcache *c, u64 offset, struct qtable **out) {
    struct qtable *t = qcache_find(c, offset);
    if (!t) {
        int rc = slot_take(q, c, NULL, &t);
        rc = rc ? rc : file_read(q->im.file, offset, t->data, (size_t)q->cluster_size);
        if (rc) {
            return rc;
        }
        mutex_lock(q->im.host, &q->map);
        slot_hash(c, t, offset);
        mutex_unlock(q->im.host, &q->map);
    }
    t->recent = true;
    *out = t;
    return 0;
}

int qcache_new(struct qcow2 *q, struct qcache *c, u64 offset, const struct qtable *keep,
               struct qtable **out) {
    struct qtable *t;
    qcache_forget(q, c, offset);
    int rc = slot_take(q, c, keep, &t);
    if (rc) {
        return rc;
    }
    memset(t->data, 0, (size_t)q->cluster_size);
    mutex_lock(q->im.host, &q->map);
    slot_hash(c, t, offset);
    mutex_unlock(q->im.host, &q->map);
    t->dirty = true;
    mark_unclean(q);
    *out = t;
    return 0;
}

void qcache_forget(struct qcow2 *q, struct qcache *c, u64 offset) {
    struct qtable *t = qcache_find(c, offset);
    if (t) {
        mutex_lock(q->im.host, &q->map);
        slot_unhash(c, t);
        mutex_unlock(q->im.host, &q->map);
    }
}

int qcache_write(struct qcow2 *q, struct qcache *c, bool *wrote) {
    int rc = 0;
    for (u32 i = 0; i < c->count && !rc; i++) {
        if (c->t[i].dirty) {
            rc = table_write(q, &c->t[i]);
            *wrote = true;
        }
    }
    return rc;
}

bool qcache_dirty(const struct qcache *c) {
    for (u32 i = 0; i < c->count; i++) {
        if (c->t[i].dirty) {
            return true;
        }
    }
    return false;
}

/* --- offsets of tables ------------------------------------------------------------------------
 */

enum { SET_REMOVED = 1 };

static u32 set_start(u64 offset, u32 cap) {
    return (u32)((offset >> 9) * 0x9e3779b97f4a7c15ull >> 32) & (cap - 1);
}

static void set_put(u64 *slot, u32 cap, u64 offset) {
    u32 i = set_start(offset, cap);
    while (slot[i] > SET_REMOVED) {
        i = (i + 1) & (cap - 1);
    }
    slot[i] = offset;
}

static int set_grow(struct qcow2 *q) {
    struct qset *s = &q->tables;
    struct host *host = q->im.host;
    u32 cap = s->cap ? s->cap * 2 : 256;
    u64 *slot = host->ops->pages(host, cap * sizeof(*slot));
    if (!slot) {
        return -ERR_NOMEM;
    }
    u32 used = 0;
    for (u32 i = 0; i < s->cap; i++) {
        if (s->slot[i] > SET_REMOVED) {
            set_put(slot, cap, s->slot[i]);
            used++;
        }
    }
    qset_free(q);
    *s = (struct qset){.slot = slot, .cap = cap, .used = used};
    return 0;
}

/* map held (or nobody else there yet): image_map looks at the set. */
int qset_add(struct qcow2 *q, u64 offset) {
    struct qset *s = &q->tables;
    if (s->used * 2 >= s->cap && set_grow(q)) {
        return -ERR_NOMEM;
    }
    if (qset_has(s, offset)) {
        return -ERR_EXISTS;
    }
    set_put(s->slot, s->cap, offset);
    s->used++;
    return 0;
}

void qset_remove(struct qcow2 *q, u64 offset) {
    struct qset *s = &q->tables;
    for (u32 i = s->cap ? set_start(offset, s->cap) : 0; s->cap && s->slot[i];
         i = (i + 1) & (s->cap - 1)) {
        if (s->slot[i] == offset) {
            s->slot[i] = SET_REMOVED;
            return;
        }
    }
}

bool qset_has(const struct qset *s, u64 offset) {
    for (u32 i = s->cap ? set_start(offset, s->cap) : 0; s->cap && s->slot[i];
         i = (i + 1) & (s->cap - 1)) {
        if (s->slot[i] == offset) {
            return true;
        }
    }
    return false;
}

void qset_free(struct qcow2 *q) {
    struct qset *s = &q->tables;
    if (s->slot) {
        q->im.host->ops->pages_free(q->im.host, s->slot, s->cap * sizeof(*s->slot));
    }
    *s = (struct qset){0};
}
