/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files and directories of a shared folder, found by number. A loaded one is opened at its
 * first use. Lock rule: struct share's lock; a handle in use (refs) outlives its release.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

static struct handle **bucket(struct share *s, u64 id) {
    return &s->handle[id % SHARE_HANDLE_BUCKETS];
}

static struct handle *find(struct share *s, u64 id) {
    struct handle *h = *bucket(s, id);
    while (h && h->id != id) {
        h = h->next;
    }
    return h;
}

static void handle_free(struct share *s, struct handle *h) {
    if (h->fd >= 0) {
        share_bury(s, h->fd);
    }
    node_unref(s, h->node);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

struct handle *handle_new(struct share *s, u64 id, struct node *n, int fd, int flags, bool dir) {
    struct handle *h = s->handles < s->handles_max ? calloc(1, sizeof(*h)) : NULL;
    if (h) {
        *h = (struct handle){.id = id, .node = n, .fd = fd, .flags = flags, .dir = dir};
        pthread_mutex_init(&h->lock, NULL);
        h->next = *bucket(s, id);
        *bucket(s, id) = h;
        n->refs++;
        s->handles++;
    }
    return h;
}

int handle_add(struct share *s, struct node *n, int fd, int flags, bool dir, u64 *id) {
    pthread_mutex_lock(&s->lock);
    struct handle *h = handle_new(s, ++s->next_id, n, fd, flags, dir);
    *id = h ? h->id : 0;
    share_unlock(s);
    if (!h) {
        close(fd);
    }
    return h ? 0 : -ENFILE;
}

static int reopen(struct share *s, struct handle *h) {
    int rc = node_use_locked(s, h->node);
    if (!rc) {
        rc = inside_check(s, h->node->fd);
        int fd = rc ? rc : file_reopen(h->node->fd, h->node->type, h->flags);
        rc = fd < 0 ? fd : 0;
        h->fd = fd < 0 ? -1 : fd;
        node_done_locked(s, h->node);
    }
    h->stale = rc;
    return rc ? -ESTALE : 0;
}

int handle_use(struct share *s, u64 id, bool dir, struct handle **out) {
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    struct handle *h = find(s, id);
    if (!h || h->dir != dir) {
        rc = -EBADF;
    } else if (h->stale) {
        rc = -ESTALE;
    } else if (h->fd < 0) {
        rc = reopen(s, h);
    }
    if (!rc) {
        h->refs++;
    }
    share_unlock(s);
    *out = rc ? NULL : h;
    return rc;
}

void handle_done(struct share *s, struct handle *h) {
    if (h) {
        pthread_mutex_lock(&s->lock);
        if (!--h->refs && h->closed) {
            handle_free(s, h);
        }
        share_unlock(s);
    }
}

/* Takes it out of the table; the last user frees it. */
static void drop(struct share *s, struct handle **p) {
    struct handle *h = *p;
    *p = h->next;
    s->handles--;
    h->closed = true;
    if (!h->refs) {
        handle_free(s, h);
    }
}

int handle_release(struct share *s, u64 id) {
    pthread_mutex_lock(&s->lock);
    struct handle **p = bucket(s, id);
    while (*p && (*p)->id != id) {
        p = &(*p)->next;
    }
    bool found = *p;
    if (found) {
        drop(s, p);
    }
    share_unlock(s);
    return found ? 0 : -EBADF;
}

void handles_close_all(struct share *s) {
    for (u32 i = 0; i < SHARE_HANDLE_BUCKETS; i++) {
        while (s->handle[i]) {
            drop(s, &s->handle[i]);
        }
    }
}

int handles_init(struct share *s) {
    s->handle = calloc(SHARE_HANDLE_BUCKETS, sizeof(struct handle *));
    return s->handle ? 0 : -ENOMEM;
}

void handles_fini(struct share *s) {
    free(s->handle);
    s->handle = NULL;
}
