/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See doorbell.h. Locks: `turn` (one who carries out) > `lock` (the list). `lock` is below the
 * board lock; `turn` is never taken with it held.
 */
#include "core/board/doorbell.h"

#include "core/if/trace.h"

struct record {
    struct record *next;
    struct virtio_doorbell bell;
    bool wanted, registered, refused;
};

struct doorbells {
    struct host *host;
    struct engine_vm *engine;
    struct mutex turn, lock;
    struct record *first;
    bool posted;
    bool dead; /* destroyed while posted: the posted call frees */
};

struct doorbells *doorbells_create(struct host *host, struct engine_vm *engine) {
    struct doorbells *d = host_alloc(host, sizeof(*d));
    if (d) {
        d->host = host;
        d->engine = engine;
    }
    return d;
}

static bool same(const struct virtio_doorbell *a, const struct virtio_doorbell *b) {
    return a->address == b->address && a->size == b->size && a->has_match == b->has_match &&
           a->match == b->match && a->ctx == b->ctx;
}

/* The first record that needs the engine: to be removed (add false) or added. lock held. */
static struct record *next_change(struct doorbells *d, bool add) {
    for (struct record *r = d->first; r; r = r->next) {
        if (r->wanted == add && r->registered != add && !(add && r->refused)) {
            return r;
        }
    }
    return NULL;
}

static void drop_idle(struct doorbells *d) {
    for (struct record **at = &d->first; *at;) {
        struct record *r = *at;
        if (r->wanted || r->registered) {
            at = &r->next;
        } else {
            *at = r->next;
            host_free(d->host, r, sizeof(*r));
        }
    }
}

static int tell_engine(struct doorbells *d, const struct virtio_doorbell *b, bool add) {
    const struct engine_ops *ops = d->engine->ops;
    int rc =
        add ? ops->doorbell_add(d->engine, true, b->address, b->size, b->has_match, b->match, b->fn,
                                b->ctx)
            : ops->doorbell_remove(d->engine, true, b->address, b->size, b->has_match, b->match);
    TRACE(d->engine->trace, TRACE_VIRTIO, "doorbell %s at 0x%llx: %s", add ? "added" : "removed",
          (unsigned long long)b->address, err_name(rc));
    return rc;
}

/* Records are freed only here, under turn, so r outlives the time without lock. */
static void carry_out(struct doorbells *d, bool add) {
    struct record *r;
    while ((r = next_change(d, add))) {
        struct virtio_doorbell bell = r->bell;
        mutex_unlock(d->host, &d->lock);
        int rc = tell_engine(d, &bell, add);
        mutex_lock(d->host, &d->lock);
        r->registered = add && !rc;
        r->refused = add && rc;
    }
}

void doorbells_sync(struct doorbells *d) {
    mutex_lock(d->host, &d->turn);
    mutex_lock(d->host, &d->lock);
    carry_out(d, false);
    carry_out(d, true);
    drop_idle(d);
    mutex_unlock(d->host, &d->lock);
    mutex_unlock(d->host, &d->turn);
}

static void on_post(void *ctx) {
    struct doorbells *d = ctx;
    mutex_lock(d->host, &d->lock);
    d->posted = false;
    bool dead = d->dead;
    mutex_unlock(d->host, &d->lock);
    if (dead) {
        host_free(d->host, d, sizeof(*d));
    } else {
        doorbells_sync(d);
    }
}

static struct record *find_or_add(struct doorbells *d, const struct virtio_doorbell *bell,
                                  bool add) {
    for (struct record *r = d->first; r; r = r->next) {
        if (same(&r->bell, bell)) {
            return r;
        }
    }
    struct record *r = add ? host_alloc(d->host, sizeof(*r)) : NULL;
    if (r) {
        r->bell = *bell;
        r->next = d->first;
        d->first = r;
    }
    return r;
}

void doorbells_want(void *ctx, const struct virtio_doorbell *bell, bool add) {
    struct doorbells *d = ctx;
    mutex_lock(d->host, &d->lock);
    struct record *r = find_or_add(d, bell, add);
    bool post = r && !d->posted;
    if (r) {
        r->wanted = add;
        r->refused = false;
        d->posted = true;
    }
    mutex_unlock(d->host, &d->lock);
    if (post && d->host->ops->post(d->host, on_post, d)) {
        mutex_lock(d->host, &d->lock);
        d->posted = false; /* the next wish tries again; until then exits do */
        mutex_unlock(d->host, &d->lock);
    }
}

void doorbells_destroy(struct doorbells *d) {
    if (!d) {
        return;
    }
    mutex_lock(d->host, &d->lock);
    for (struct record *r = d->first; r; r = r->next) {
        r->wanted = false;
    }
    mutex_unlock(d->host, &d->lock);
    doorbells_sync(d);
    mutex_lock(d->host, &d->lock);
    d->dead = true;
    bool posted = d->posted;
    mutex_unlock(d->host, &d->lock);
    if (!posted) {
        host_free(d->host, d, sizeof(*d));
    }
}
