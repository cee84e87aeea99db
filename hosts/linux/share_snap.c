/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved state of a shared folder: which files the guest knows, by parent and name, and which it has
 * open. Loading touches no file; each is opened again when it is asked for, and answers ESTALE when
 * it is another one (its inode number differs) or is gone. Files that were removed while they were
 * open cannot be had again at all. Lock rule: nothing is in flight; struct share's lock held.
 *
 *   next id u64 | node count u32 | {id, parent, count, ino u64, type u32, xdev u8, name len u8,
 * name} handle count u32 | {id, node u64, flags u32, dir u8}
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/err.h"
#include "hosts/linux/share_int.h"

static void save_node(const struct node *n, struct snap_writer *w) {
    bool gone = n->stale || n->pinned;
    size_t len = gone || !n->name ? 0 : strlen(n->name);
    snap_put64(w, n->id);
    snap_put64(w, n->parent ? n->parent->id : 0);
    snap_put64(w, n->count);
    snap_put64(w, n->ino);
    snap_put32(w, n->type);
    snap_put8(w, n->xdev);
    snap_put8(w, (u8)len);
    if (len) {
        snap_put(w, n->name, len);
    }
}

static void save_handles(const struct share *s, struct snap_writer *w) {
    snap_put32(w, s->handles);
    for (u32 i = 0; i < SHARE_HANDLE_BUCKETS; i++) {
        for (const struct handle *h = s->handle[i]; h; h = h->next) {
            snap_put64(w, h->id);
            snap_put64(w, h->node->id);
            snap_put32(w, (u32)h->flags);
            snap_put8(w, h->dir);
        }
    }
}

void share_save(struct share_backend *be, struct snap_writer *w) {
    struct share *s = share_of(be);
    pthread_mutex_lock(&s->lock);
    snap_put64(w, s->next_id);
    snap_put32(w, s->nodes - 1);
    for (const struct node *n = s->all; n; n = n->all_next) {
        if (n != s->root_node) {
            save_node(n, w);
        }
    }
    save_handles(s, w);
    share_unlock(s);
}

/* Until all are there, `refs` keeps a node and by_id finds it; parents come in a second round. */
static int load_node(struct share *s, struct snap_reader *r, u64 *parent) {
    char name[SHARE_NAME_MAX + 1] = "";
    u64 id = snap_get64(r);
    *parent = snap_get64(r);
    u64 count = snap_get64(r), ino = snap_get64(r);
    u32 type = snap_get32(r);
    bool xdev = snap_get_bool(r);
    snap_get(r, name, snap_get8(r));
    bool good = id > SHARE_ROOT && id <= s->next_id && !(type & ~(u32)S_IFMT) &&
                (!name[0] || !name_check(name));
    if (r->failed || !good || node_find(s, id)) {
        return -ERR_FORMAT;
    }
    struct node *n = node_new(s, id, xdev ? UINT64_MAX : s->root_node->dev, ino, type);
    if (!n) {
        return -ERR_NOMEM;
    }
    n->xdev = xdev;
    n->count = count;
    n->refs = 1;
    n->name = name[0] ? strdup(name) : NULL;
    n->stale = !n->name;
    node_hash(s, n);
    return 0;
}

static int load_nodes(struct share *s, struct snap_reader *r, u32 count, u64 *parents) {
    for (u32 i = 0; i < count; i++) {
        int rc = load_node(s, r, &parents[i]);
        if (rc) {
            return rc;
        }
    }
    /* the list has the latest first */
    struct node *n = s->all;
    for (u32 i = count; i-- > 0; n = n->all_next) {
        struct node *up = parents[i] ? node_find(s, parents[i]) : NULL;
        if (parents[i] && (!up || up->type != S_IFDIR)) {
            return -ERR_FORMAT;
        }
        n->parent = up;
        if (up) {
            up->refs++;
        }
    }
    return 0;
}

static int load_handles(struct share *s, struct snap_reader *r) {
    u32 count = snap_get32(r);
    const u32 known = O_ACCMODE | O_SYNC | O_DSYNC | O_DIRECTORY;
    if (count > SHARE_HANDLES_MAX) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < count; i++) {
        u64 id = snap_get64(r);
        struct node *n = node_find(s, snap_get64(r));
        u32 flags = snap_get32(r);
        bool dir = snap_get_bool(r);
        bool writes = (flags & O_ACCMODE) != O_RDONLY;
        if (r->failed || !n || !id || id > s->next_id || (flags & ~known) ||
            dir != (n->type == S_IFDIR)) {
            return -ERR_FORMAT;
        }
        struct handle *h = handle_new(s, id, n, -1, (int)flags, dir);
        if (h) {
            h->stale = s->readonly && writes;
        }
    }
    return r->failed ? -ERR_FORMAT : 0;
}

/* The reference of load_node goes; who is needed by nobody goes as well. */
static void settle(struct share *s, struct node **nodes, u32 count) {
    for (u32 i = 0; i < count; i++) {
        node_unref(s, nodes[i]);
    }
}

static int load_locked(struct share *s, struct snap_reader *r) {
    s->next_id = snap_get64(r);
    u32 count = snap_get32(r);
    enum { RECORD_MIN = 8 * 4 + 4 + 2 };
    if (r->failed || count >= SHARE_NODES_MAX || count > (r->len - r->pos) / RECORD_MIN ||
        s->next_id < SHARE_ROOT || s->next_id > INT64_MAX) {
        s->next_id = MAX(s->next_id & INT64_MAX, (u64)SHARE_ROOT);
        return -ERR_FORMAT;
    }
    u64 *parents = calloc(count + 1, sizeof(u64));
    struct node **nodes = calloc(count + 1, sizeof(struct node *));
    int rc = parents && nodes ? load_nodes(s, r, count, parents) : -ERR_NOMEM;
    rc = rc ? rc : load_handles(s, r);
    if (!rc) {
        u32 i = 0;
        for (struct node *n = s->all; n; n = n->all_next) {
            if (n != s->root_node && i < count) {
                nodes[i++] = n;
            }
        }
        settle(s, nodes, i);
    }
    free(parents);
    free(nodes);
    return rc;
}

/* From a state that cannot be used nothing is left; the circles that it may have made are cut. */
static void clear(struct share *s) {
    for (struct node *n = s->all; n; n = n->all_next) {
        n->parent = NULL;
        n->refs = 0;
    }
    nodes_forget_all(s);
}

int share_load(struct share_backend *be, struct snap_reader *r) {
    struct share *s = share_of(be);
    pthread_mutex_lock(&s->lock);
    handles_close_all(s);
    clear(s);
    int rc = load_locked(s, r);
    if (rc) {
        handles_close_all(s);
        clear(s);
    }
    share_unlock(s);
    return rc;
}
