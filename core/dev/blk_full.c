/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens when the host's disk is full: requests that met it are held and tried again, and who
 * runs the machine is told so that it can stand still meanwhile. Lock rule: `lock` guards the lists
 * and is a leaf; callbacks run without it.
 */
#include "core/dev/blk_limit.h"
#include "core/if/mutex.h"

#define RETRY_NS (NSEC_PER_SEC / 2)

struct held {
    struct block_req req; /* a copy, with our own done */
    struct block_req *guest;
    struct blk_full *full;
    struct held *next;
    bool stuck; /* counted below */
};

struct blk_full {
    struct block_backend be;
    struct block_backend *lower;
    struct host *host;
    struct host_timer *timer;
    blk_full_fn fn;
    void *ctx;
    struct mutex lock;
    struct held *held; /* waiting for the timer */
    u32 stuck;         /* requests that met the full disk and have not passed since */
    u32 draining;
};

static void held_done(struct block_req *req, int status);

static struct blk_full *full_of(struct block_backend *be) {
    return CONTAINER_OF(be, struct blk_full, be);
}

static void held_submit(struct held *h) {
    h->req = *h->guest;
    h->req.done = held_done;
    h->full->lower->ops->submit(h->full->lower, &h->req);
}

static void resubmit_all(struct blk_full *f) {
    mutex_lock(f->host, &f->lock);
    struct held *h = f->held;
    f->held = NULL;
    mutex_unlock(f->host, &f->lock);
    while (h) {
        struct held *next = h->next;
        held_submit(h);
        h = next;
    }
}

static void full_timer(void *ctx) {
    resubmit_all(ctx);
}

static bool hold(struct blk_full *f, struct held *h, int status, bool *tell, bool *now_full) {
    bool again = status == -ERR_NOSPACE && !f->draining;
    if (again && !h->stuck) {
        *tell = f->stuck++ == 0;
        h->stuck = true;
    } else if (!again && h->stuck) {
        *tell = --f->stuck == 0;
    }
    *now_full = again;
    return again;
}

static void held_done(struct block_req *req, int status) {
    struct held *h = CONTAINER_OF(req, struct held, req);
    struct blk_full *f = h->full;
    bool tell = false, full = false;
    mutex_lock(f->host, &f->lock);
    bool again = hold(f, h, status, &tell, &full);
    if (again) {
        h->next = f->held;
        f->held = h;
        f->host->ops->timer_arm(f->host, f->timer, host_now(f->host) + RETRY_NS);
    }
    mutex_unlock(f->host, &f->lock);
    if (!again) {
        struct block_req *guest = h->guest;
        host_free(f->host, h, sizeof(*h));
        guest->done(guest, status);
    }
    if (tell) {
        f->fn(f->ctx, full);
    }
}

static void full_submit(struct block_backend *be, struct block_req *req) {
    struct blk_full *f = full_of(be);
    struct held *h = req->op == BLOCK_READ ? NULL : host_alloc(f->host, sizeof(*h));
    if (!h) { /* a read needs no room; without memory the guest sees the error */
        f->lower->ops->submit(f->lower, req);
        return;
    }
    *h = (struct held){.guest = req, .full = f};
    held_submit(h);
}

static bool full_attempt(struct block_backend *be, struct block_req *req, int *status) {
    struct block_backend *lower = full_of(be)->lower;
    return lower->ops->attempt && lower->ops->attempt(lower, req, status);
}

static void drain_count(struct blk_full *f, bool begin) {
    mutex_lock(f->host, &f->lock);
    f->draining += begin ? 1 : UINT32_MAX;
    mutex_unlock(f->host, &f->lock);
}

static void full_drain(struct block_backend *be) {
    struct blk_full *f = full_of(be);
    drain_count(f, true);
    resubmit_all(f);
    f->lower->ops->drain(f->lower);
    resubmit_all(f); /* held between the two lines above */
    f->lower->ops->drain(f->lower);
    drain_count(f, false);
}

static void full_close(struct block_backend *be) {
    struct blk_full *f = full_of(be);
    full_drain(be);
    f->host->ops->timer_destroy(f->host, f->timer);
    f->lower->ops->close(f->lower);
    host_free(f->host, f, sizeof(*f));
}

static const struct block_backend_ops full_ops = {
    .submit = full_submit, .attempt = full_attempt, .drain = full_drain, .close = full_close};

int blk_full_create(struct host *host, struct block_backend *lower, blk_full_fn fn, void *ctx,
                    struct block_backend **out, struct err *err) {
    struct blk_full *f = host_alloc(host, sizeof(*f));
    struct host_timer *timer = f ? host->ops->timer_create(host, full_timer, f) : NULL;
    if (!timer) {
        host_free(host, f, sizeof(*f));
        return ERR_SET(err, ERR_NOMEM, "out of memory for a disk");
    }
    *f = (struct blk_full){.be = *lower, .lower = lower, .host = host, .timer = timer};
    f->be.ops = &full_ops;
    f->fn = fn;
    f->ctx = ctx;
    *out = &f->be;
    return 0;
}
