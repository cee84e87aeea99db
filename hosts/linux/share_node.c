/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a shared folder that the guest knows. Each has an O_PATH descriptor while there is
 * room for it; of those that nobody is using, the ones longest unused are closed and opened again
 * when they are needed, from the parent by name. A file that is another one by then answers ESTALE.
 *
 *   root <-parent- sub <-parent- file        name, (dev, ino), maybe a descriptor
 *
 * Lock rule: struct share's lock, as the header says for each.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

enum { BUCKETS_FIRST = 1024 };

/* --- tables ------------------------------------------------------------------------------------
 */

static u32 id_bucket(const struct share *s, u64 id) {
    return (u32)id & (s->buckets - 1);
}

static u32 ino_bucket(const struct share *s, u64 dev, u64 ino) {
    return (u32)(((ino ^ dev << 32) * 0x9e3779b97f4a7c15ull) >> 32) & (s->buckets - 1);
}

struct node *node_find(struct share *s, u64 id) {
    struct node *n = s->by_id[id_bucket(s, id)];
    while (n && n->id != id) {
        n = n->by_id;
    }
    return n;
}

static struct node *find_ino(struct share *s, u64 dev, u64 ino) {
    struct node *n = s->by_ino[ino_bucket(s, dev, ino)];
    while (n && (n->ino != ino || n->dev != dev)) {
        n = n->by_ino;
    }
    return n;
}

static void hash_insert(struct share *s, struct node *n) {
    struct node **id = &s->by_id[id_bucket(s, n->id)];
    struct node **ino = &s->by_ino[ino_bucket(s, n->dev, n->ino)];
    n->by_id = *id;
    *id = n;
    n->by_ino = *ino;
    *ino = n;
}

/* Twice as many buckets; without memory for it chains grow longer. */
static void tables_grow(struct share *s) {
    u32 count = s->buckets * 2;
    struct node **id = calloc(count, sizeof(struct node *));
    struct node **ino = calloc(count, sizeof(struct node *));
    if (!id || !ino) {
        free(id);
        free(ino);
        return;
    }
    free(s->by_id);
    free(s->by_ino);
    s->by_id = id;
    s->by_ino = ino;
    s->buckets = count;
    for (struct node *n = s->all; n; n = n->all_next) {
        if (n->hashed) {
            hash_insert(s, n);
        }
    }
}

void node_hash(struct share *s, struct node *n) {
    if (s->nodes > s->buckets && s->buckets < SHARE_NODES_MAX) {
        tables_grow(s);
    }
    hash_insert(s, n);
    n->hashed = true;
}

static void unhash(struct share *s, struct node *n) {
    struct node **p = &s->by_id[id_bucket(s, n->id)];
    if (!n->hashed) {
        return;
    }
    while (*p != n) {
        p = &(*p)->by_id;
    }
    *p = n->by_id;
    p = &s->by_ino[ino_bucket(s, n->dev, n->ino)];
    while (*p != n) {
        p = &(*p)->by_ino;
    }
    *p = n->by_ino;
    n->hashed = false;
}

/* --- lock ---------------------------------------------------------------------------------------
 */

void share_bury(struct share *s, int fd) {
    if (s->dead_count < ARRAY_LEN(s->dead)) {
        s->dead[s->dead_count++] = fd;
    } else {
        close(fd);
    }
}

void share_unlock(struct share *s) {
    int dead[SHARE_DEAD_MAX];
    u32 count = s->dead_count;
    memcpy(dead, s->dead, count * sizeof(dead[0]));
    s->dead_count = 0;
    pthread_mutex_unlock(&s->lock);
    for (u32 i = 0; i < count; i++) {
        close(dead[i]);
    }
}

/* --- descriptors -------------------------------------------------------------------------------
 */

static void lru_remove(struct node *n) {
    n->lru_prev->lru_next = n->lru_next;
    n->lru_next->lru_prev = n->lru_prev;
}

static void lru_insert(struct share *s, struct node *n) {
    n->lru_prev = &s->lru;
    n->lru_next = s->lru.lru_next;
    n->lru_next->lru_prev = n;
    s->lru.lru_next = n;
}

static void fd_close(struct share *s, struct node *n) {
    if (n->fd >= 0) {
        lru_remove(n);
        s->fds--;
        if (n->fd != s->root) {
            share_bury(s, n->fd);
        }
        n->fd = -1;
    }
}

/* Closes descriptors that nobody uses until there is room for one more. */
static void fds_trim(struct share *s) {
    struct node *n = s->lru.lru_prev;
    while (s->fds >= s->fds_max && n != &s->lru) {
        struct node *next = n->lru_prev;
        if (!n->users && !n->pinned && n->parent) {
            fd_close(s, n);
        }
        n = next;
    }
}

static int fd_keep(struct share *s, struct node *n, int fd) {
    fds_trim(s);
    if (s->fds >= s->fds_max + s->fds_max / 2) { /* all of them in use, or without a name */
        close(fd);
        return -ENFILE;
    }
    n->fd = fd;
    s->fds++;
    lru_insert(s, n);
    return 0;
}

static int fd_reopen(struct share *s, struct node *n) {
    struct stat st;
    int fd = n->name && n->parent ? child_open(s, n->parent->fd, n->name, &st) : -ESTALE;
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EACCES) {
        return fd; /* it may come back */
    }
    if (fd >= 0 && (st.st_ino != n->ino || (st.st_mode & S_IFMT) != n->type ||
                    (st.st_dev != s->root_node->dev) != n->xdev)) {
        close(fd);
        fd = -ESTALE;
    }
    if (fd < 0) {
        n->stale = true;
        return -ESTALE;
    }
    return fd_keep(s, n, fd);
}

/* Opens what is missing on the way down from the nearest parent that is open. */
int node_use_locked(struct share *s, struct node *n) {
    int rc = 0;
    for (int i = 0; i < SHARE_DEPTH_MAX && n->fd < 0 && !n->stale && !rc; i++) {
        struct node *top = n;
        for (int depth = 0; top->parent && top->parent->fd < 0 && depth < SHARE_DEPTH_MAX;
             depth++) {
            top = top->parent;
        }
        if (!top->parent || top->parent->fd < 0 || top->stale) {
            rc = -ESTALE; /* too deep, in circles, or nothing to begin with */
            break;
        }
        top->parent->users++; /* not to be closed for want of room just now */
        rc = fd_reopen(s, top);
        top->parent->users--;
    }
    if (rc || n->fd < 0) {
        return rc ? rc : -ESTALE;
    }
    lru_remove(n);
    lru_insert(s, n);
    n->users++;
    n->refs++;
    return 0;
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct node *node_new(struct share *s, u64 id, u64 dev, u64 ino, u32 type) {
    struct node *n = s->nodes < SHARE_NODES_MAX ? calloc(1, sizeof(*n)) : NULL;
    if (n) {
        *n = (struct node){.id = id, .dev = dev, .ino = ino, .type = type, .fd = -1};
        n->all_next = s->all;
        n->all_prev = &s->all;
        if (s->all) {
            s->all->all_prev = &n->all_next;
        }
        s->all = n;
        s->nodes++;
    }
    return n;
}

static void node_free(struct share *s, struct node *n) {
    unhash(s, n);
    fd_close(s, n);
    *n->all_prev = n->all_next;
    if (n->all_next) {
        n->all_next->all_prev = n->all_prev;
    }
    s->nodes--;
    free(n->name);
    free(n);
}

/* Whoever is not known to the guest and not needed goes, and may take its parents along. */
static void collect(struct share *s, struct node *n) {
    while (n && !n->refs && !n->count && n != s->root_node) {
        struct node *parent = n->parent;
        node_free(s, n);
        if (parent) {
            parent->refs--;
        }
        n = parent;
    }
}

void node_unref(struct share *s, struct node *n) {
    n->refs--;
    collect(s, n);
}

void node_done_locked(struct share *s, struct node *n) {
    n->users--;
    node_unref(s, n);
}

void node_done(struct share *s, struct node *n) {
    if (n) {
        pthread_mutex_lock(&s->lock);
        node_done_locked(s, n);
        share_unlock(s);
    }
}

int node_use(struct share *s, u64 id, struct node **out) {
    *out = NULL;
    pthread_mutex_lock(&s->lock);
    struct node *n = node_find(s, id);
    int rc = n ? node_use_locked(s, n) : -ESTALE;
    share_unlock(s);
    if (!rc && inside_check(s, n->fd)) {
        node_done(s, n);
        rc = -ESTALE;
    }
    *out = rc ? NULL : n;
    return rc;
}

int node_use_dir(struct share *s, u64 id, struct node **out) {
    int rc = node_use(s, id, out);
    if (!rc && (*out)->type != S_IFDIR) {
        node_done(s, *out);
        *out = NULL;
        rc = -ENOTDIR;
    }
    return rc;
}

/* Where it is now. Not below itself: the host may have moved directories behind our back. */
static void place(struct share *s, struct node *n, struct node *parent, const char *name) {
    struct node *up = parent;
    for (int i = 0; up && up != n && i < SHARE_DEPTH_MAX; i++) {
        up = up->parent;
    }
    char *copy = up || n == s->root_node ? NULL : strdup(name);
    if (!copy || !parent) {
        free(copy);
        return;
    }
    struct node *old = n->parent;
    free(n->name);
    n->name = copy;
    n->parent = parent;
    parent->refs++;
    if (old) {
        node_unref(s, old);
    }
}

static bool placed_at(const struct node *n, const struct node *parent, const char *name) {
    return n->parent == parent && n->name && !strcmp(n->name, name);
}

/* The node for a file just found; -ENFILE when there are too many. */
static int node_for(struct share *s, int fd, const struct stat *st, struct node **out) {
    struct node *n = find_ino(s, st->st_dev, st->st_ino);
    int rc = 0;
    if (n && (n->type != (st->st_mode & S_IFMT) || (n->stale && n->fd < 0))) {
        if (n == s->root_node) {
            rc = -ESTALE;
        } else {
            unhash(s, n); /* its number on the disk was used again for another file */
            n->stale = true;
            n = NULL;
        }
    }
    if (!n && !rc) {
        n = node_new(s, ++s->next_id, st->st_dev, st->st_ino, st->st_mode & S_IFMT);
        rc = n ? 0 : -ENFILE;
        if (n) {
            n->xdev = s->root_node && st->st_dev != s->root_node->dev;
            node_hash(s, n);
        }
    }
    if (!rc && n->fd < 0) {
        rc = fd_keep(s, n, fd);
        if (rc) {
            collect(s, n);
        }
    } else {
        close(fd);
    }
    *out = rc ? NULL : n;
    return rc;
}

int node_give(struct share *s, struct node *parent, const char *name, int fd, const struct stat *st,
              struct share_entry *entry) {
    struct node *n = NULL;
    pthread_mutex_lock(&s->lock);
    int rc = node_for(s, fd, st, &n);
    if (!rc) {
        if (!placed_at(n, parent, name)) {
            place(s, n, parent, name);
        }
        n->pinned = false;
        n->count++;
        entry->node = n->id;
        attr_fill(s, st, &entry->attr);
    }
    share_unlock(s);
    return rc;
}

static void forget_locked(struct share *s, struct node *n, u64 count) {
    n->count -= MIN(n->count, count);
    if (!n->count && n != s->root_node) {
        unhash(s, n);
        collect(s, n);
    }
}

void node_forget(struct share *s, u64 id, u64 count) {
    pthread_mutex_lock(&s->lock);
    struct node *n = node_find(s, id);
    if (n) {
        forget_locked(s, n, count);
    }
    share_unlock(s);
}

/* A file without a name cannot be opened again, so its descriptor stays. */
void node_unnamed(struct share *s, struct node *dir, const char *name) {
    struct stat st;
    if (fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    struct node *n = find_ino(s, st.st_dev, st.st_ino);
    if (n && n->parent && n->type == (st.st_mode & S_IFMT) && placed_at(n, dir, name) &&
        !node_use_locked(s, n)) {
        n->pinned = true;
        node_done_locked(s, n);
    }
    share_unlock(s);
}

void node_renamed(struct share *s, const struct stat *st, struct node *dir, const char *name) {
    pthread_mutex_lock(&s->lock);
    struct node *n = find_ino(s, st->st_dev, st->st_ino);
    if (n && n->type == (st->st_mode & S_IFMT)) {
        place(s, n, dir, name);
        n->pinned = false;
    }
    share_unlock(s);
}

/* --- all of them ---------------------------------------------------------------------------------
 */

void nodes_forget_all(struct share *s) {
    bool more = true;
    for (struct node *n = s->all; n; n = n->all_next) {
        n->count = 0;
        if (n != s->root_node) {
            unhash(s, n);
        }
    }
    while (more) { /* children before parents: each round takes a level with it, at least */
        more = false;
        struct node *n = s->all;
        while (n) {
            struct node *gone = n;
            n = n->all_next;
            if (!gone->refs && gone != s->root_node) {
                if (gone->parent) {
                    gone->parent->refs--;
                }
                node_free(s, gone);
                more = true;
            }
        }
    }
}

int nodes_init(struct share *s, u64 dev, u64 ino) {
    s->buckets = BUCKETS_FIRST;
    s->by_id = calloc(s->buckets, sizeof(struct node *));
    s->by_ino = calloc(s->buckets, sizeof(struct node *));
    s->lru.lru_next = s->lru.lru_prev = &s->lru;
    s->next_id = SHARE_ROOT;
    struct node *n = s->by_id && s->by_ino ? node_new(s, SHARE_ROOT, dev, ino, S_IFDIR) : NULL;
    if (!n) {
        return -ENOMEM;
    }
    s->root_node = n;
    node_hash(s, n);
    return fd_keep(s, n, s->root);
}

/* No request is in flight: what is left hangs together in circles that only a loaded state has. */
void nodes_fini(struct share *s) {
    struct node *n = s->all;
    while (n) {
        struct node *next = n->all_next;
        node_free(s, n);
        n = next;
    }
    free(s->by_id);
    free(s->by_ino);
    s->by_id = s->by_ino = NULL;
    s->root_node = NULL;
}
