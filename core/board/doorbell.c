/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See doorbell.h. Locks: `turn` (one who carries out) > `lock` (the list). `lock` is below the
 * board lock; `turn` is never taken with it held.
 */
#include "core/board/doorbell.h"

#include "core/if/trace.h"

enum { BUDGET = 64 }; /* engine calls in one go */

struct record {
    struct record *next;
    struct virtio_doorbell bell;
    bool wanted, registered, refused;
    bool busy; /* the engine is being told: not to be freed */
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

/* Tells the engine of at most *budget changes. r is busy meanwhile, so it outlives the time without
 * lock. */
static void carry_out(struct doorbells *d, bool add, u32 *budget) {
    struct record *r;
    while (*budget && (r = next_change(d, add))) {
        struct virtio_doorbell bell = r->bell;
        --*budget;
        r->busy = true;
        mutex_unlock(d->host, &d->lock);
        int rc = tell_engine(d, &bell, add);
        mutex_lock(d->host, &d->lock);
        r->busy = false;
        r->registered = add && !rc;
        r->refused = add && rc;
    }
}

/* True: there is more to do. */
static bool sync_some(struct doorbells *d, u32 budget) {
    mutex_lock(d->host, &d->turn);
    mutex_lock(d->host, &d->lock);
    carry_out(d, false, &budget);
    carry_out(d, true, &budget);
    drop_idle(d);
    bool more = next_change(d, false) || next_change(d, true);
    mutex_unlock(d->host, &d->lock);
    mutex_unlock(d->host, &d->turn);
    return more;
}

void doorbells_sync(struct doorbells *d) {
    while (sync_some(d, BUDGET)) {
    }
}

static void on_post(void *ctx);

static void post(struct doorbells *d) {
    if (d->host->ops->post(d->host, on_post, d)) {
        mutex_lock(d->host, &d->lock);
        d->posted = false; /* the next wish tries again; until then exits do */
        mutex_unlock(d->host, &d->lock);
    }
}

/* A guest that moves its BARs without end must not keep the event thread here. */
static void sync_on_event_thread(struct doorbells *d) {
    if (sync_some(d, BUDGET)) {
        mutex_lock(d->host, &d->lock);
        bool again = !d->posted;
        d->posted = true;
        mutex_unlock(d->host, &d->lock);
        if (again) {
            post(d);
        }
    }
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
        sync_on_event_thread(d);
    }
}

/* What the engine never heard of is forgotten at once: a guest can wish faster than we carry out.
 */
static void forget_unheard(struct doorbells *d, struct record *gone) {
    struct record **at = &d->first;
    while (*at && *at != gone) {
        at = &(*at)->next;
    }
    if (*at && !gone->registered && !gone->busy) {
        *at = gone->next;
        host_free(d->host, gone, sizeof(*gone));
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
    bool first = r && !d->posted;
    if (r) {
        r->wanted = add;
        r->refused = false;
        d->posted = true;
        if (!add) {
            forget_unheard(d, r);
        }
    }
    mutex_unlock(d->host, &d->lock);
    if (first) {
        post(d);
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
