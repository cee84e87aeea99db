/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate limit in front of a block back end. Lock rule: `lock` is held while requests are handed to
 * the lower back end, so that who drains finds every request either waiting here or down there; the
 * lower back end never calls back from submit.
 */
#include "core/dev/blk_limit.h"

#include "core/if/mutex.h"

enum { WAIT_MAX = 256 }; /* more than a device has in flight; what comes beyond passes unlimited */

struct blk_limit {
    struct block_backend be;
    struct block_backend *lower;
    struct host *host;
    struct host_timer *timer;
    struct mutex lock;
    struct rate_limiter limiter;
    u32 first, count;
    struct block_req *waiting[WAIT_MAX]; /* a ring */
};

static struct blk_limit *limit_of(struct block_backend *be) {
    return CONTAINER_OF(be, struct blk_limit, be);
}

static u64 cost_of(const struct block_req *req) {
    return req->op == BLOCK_READ || req->op == BLOCK_WRITE ? req->length : 0;
}

/* Hands down what may pass, and sets the timer for the next one. */
static void pass_waiting(struct blk_limit *l, bool all) {
    while (l->count) {
        struct block_req *req = l->waiting[l->first];
        u64 now = host_now(l->host);
        u64 wait = all ? 0 : rate_limiter_take(&l->limiter, cost_of(req), now);
        if (wait) {
            l->host->ops->timer_arm(l->host, l->timer, now + wait);
            return;
        }
        l->first = (l->first + 1) % WAIT_MAX;
        l->count--;
        l->lower->ops->submit(l->lower, req);
    }
}

static void limit_timer(void *ctx) {
    struct blk_limit *l = ctx;
    mutex_lock(l->host, &l->lock);
    pass_waiting(l, false);
    mutex_unlock(l->host, &l->lock);
}

static void limit_submit(struct block_backend *be, struct block_req *req) {
    struct blk_limit *l = limit_of(be);
    mutex_lock(l->host, &l->lock);
    if (l->count == WAIT_MAX) {
        l->lower->ops->submit(l->lower, req);
    } else {
        l->waiting[(l->first + l->count++) % WAIT_MAX] = req;
        if (l->count == 1) {
            pass_waiting(l, false);
        }
    }
    mutex_unlock(l->host, &l->lock);
}

static bool limit_attempt(struct block_backend *be, struct block_req *req, int *status) {
    struct blk_limit *l = limit_of(be);
    bool done = false;
    mutex_lock(l->host, &l->lock);
    if (l->lower->ops->attempt && !l->count &&
        !rate_limiter_take(&l->limiter, cost_of(req), host_now(l->host))) {
        done = l->lower->ops->attempt(l->lower, req, status);
        if (!done) {
            rate_limiter_give(&l->limiter, cost_of(req));
        }
    }
    mutex_unlock(l->host, &l->lock);
    return done;
}

static void limit_drain(struct block_backend *be) {
    struct blk_limit *l = limit_of(be);
    mutex_lock(l->host, &l->lock);
    pass_waiting(l, true);
    mutex_unlock(l->host, &l->lock);
    l->lower->ops->drain(l->lower);
}

static void limit_close(struct block_backend *be) {
    struct blk_limit *l = limit_of(be);
    limit_drain(be);
    l->host->ops->timer_destroy(l->host, l->timer);
    l->lower->ops->close(l->lower);
    host_free(l->host, l, sizeof(*l));
}

static const struct block_backend_ops limit_ops = {
    .submit = limit_submit, .attempt = limit_attempt, .drain = limit_drain, .close = limit_close};

int blk_limit_create(struct host *host, struct block_backend *lower, const struct rate_limit *limit,
                     struct block_backend **out, struct err *err) {
    struct blk_limit *l = host_alloc(host, sizeof(*l));
    struct host_timer *timer = l ? host->ops->timer_create(host, limit_timer, l) : NULL;
    if (!timer) {
        host_free(host, l, sizeof(*l));
        return ERR_SET(err, ERR_NOMEM, "out of memory for a disk's rate limit");
    }
    l->be = *lower;
    l->be.ops = &limit_ops;
    l->lower = lower;
    l->host = host;
    l->timer = timer;
    rate_limiter_init(&l->limiter, limit, host_now(host));
    *out = &l->be;
    return 0;
}

void blk_limit_set(struct block_backend *be, const struct rate_limit *limit) {
    struct blk_limit *l = limit_of(be);
    mutex_lock(l->host, &l->lock);
    rate_limiter_init(&l->limiter, limit, host_now(l->host));
    pass_waiting(l, false);
    mutex_unlock(l->host, &l->lock);
}
