/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio entropy device: virtio 1.2, section 5.4. Each request gets at most RNG_CHUNK bytes, so
 * that a driver cannot keep the monitor busy; it asks again. With a rate limit requests wait in the
 * queue, and a timer looks at it again. Lock rule: board lock held, but for the timer.
 */
#include "core/virtio/rng.h"

#include "core/base/err.h"

enum { RNG_QUEUE_SIZE = 64, RNG_CHUNK = 4096 };

struct virtio_rng {
    struct virtio_device vdev;
    struct host_timer *timer; /* NULL: no limit */
    struct rate_limiter limiter;
    struct vq_chain chain;
};

static struct virtio_rng *rng_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_rng, vdev);
}

static u32 rng_fill(struct virtio_rng *rng) {
    struct vq_chain *chain = &rng->chain;
    struct host *host = rng->vdev.env->host;
    u64 left = MIN(chain->in_len, (u64)RNG_CHUNK);
    u32 total = (u32)left;
    for (u32 i = chain->out_count; left; i++) {
        size_t n = (size_t)MIN(left, chain->iov[i].len);
        host->ops->entropy(host, chain->iov[i].base, n);
        left -= n;
    }
    vq_chain_written(rng->vdev.env->ram, chain, total);
    return total;
}

/* May so much pass now? If not the chain goes back to the queue, until the timer. */
static bool rng_limited(struct virtio_rng *rng, u64 bytes) {
    struct host *host = rng->vdev.env->host;
    u64 now = host_now(host);
    u64 wait = rng->timer ? rate_limiter_take(&rng->limiter, bytes, now) : 0;
    if (wait) {
        vq_unpop(&rng->vdev.queue[0].vq, rng->chain.head, rng->chain.redone);
        host->ops->timer_arm(host, rng->timer, now + wait);
    }
    return wait;
}

static void rng_timer(void *ctx) {
    struct virtio_rng *rng = ctx;
    struct device_env *env = rng->vdev.env;
    mutex_lock(env->host, env->lock);
    virtio_queue_run(&rng->vdev, 0);
    mutex_unlock(env->host, env->lock);
}

static bool rng_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_rng *rng = rng_of(vdev);
    struct vq *vq = &vdev->queue[queue].vq;
    u32 done = 0;
    int got = 1;
    bool limited = false;
    vq_notify_off(vq);
    while (done < vq->size && (got = virtio_pop(vdev, queue, &rng->chain)) > 0) {
        limited = rng_limited(rng, MIN(rng->chain.in_len, (u64)RNG_CHUNK));
        if (limited) {
            break;
        }
        virtio_push(vdev, queue, rng->chain.head, rng_fill(rng));
        done++;
    }
    if (done) {
        virtio_signal(vdev, queue);
    }
    return !limited && (got > 0 || (got == 0 && vq_notify_on(vq)));
}

static void rng_reset(struct virtio_device *vdev) {
    struct virtio_rng *rng = rng_of(vdev);
    struct host *host = vdev->env->host;
    if (rng->timer) {
        host->ops->timer_cancel(host, rng->timer);
    }
}

static void rng_save(struct virtio_device *vdev, struct snap_writer *w) {
    rate_limiter_save(&rng_of(vdev)->limiter, w, host_now(vdev->env->host));
}

/* The first version had no limit. */
static int rng_load(struct virtio_device *vdev, struct snap_reader *r, u32 version) {
    if (version >= 2) {
        rate_limiter_load(&rng_of(vdev)->limiter, r, host_now(vdev->env->host));
    }
    return snap_finish(r);
}

static void rng_destroy(struct virtio_device *vdev) {
    struct virtio_rng *rng = rng_of(vdev);
    struct host *host = vdev->env->host;
    if (rng->timer) {
        host->ops->timer_destroy(host, rng->timer);
    }
    virtio_fini(vdev);
    host_free(host, rng, sizeof(*rng));
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .device_id = VIRTIO_ID_ENTROPY,
    .tag = SNAP_TAG('V', 'R', 'N', 'G'),
    .version = 2,
    .queue_run = rng_queue_run,
    .reset = rng_reset,
    .save = rng_save,
    .load = rng_load,
    .destroy = rng_destroy,
};

static int limit_set(struct virtio_rng *rng, const struct rate_limit *limit, struct err *err) {
    struct host *host = rng->vdev.env->host;
    rate_limiter_init(&rng->limiter, limit, host_now(host));
    if (rate_limiter_active(&rng->limiter)) {
        rng->timer = host->ops->timer_create(host, rng_timer, rng);
        return rng->timer ? 0 : ERR_SET(err, ERR_NOMEM, "virtio-rng: out of memory");
    }
    return 0;
}

struct virtio_device *virtio_rng_create(struct device_env *env, const struct rate_limit *limit,
                                        struct err *err) {
    static const struct rate_limit none;
    struct virtio_rng *rng = host_alloc(env->host, sizeof(*rng));
    if (!rng) {
        ERR_SET(err, ERR_NOMEM, "virtio-rng: out of memory");
        return NULL;
    }
    rng->vdev.env = env;
    if (virtio_init(&rng->vdev, env, &rng_ops, 0, 1, RNG_QUEUE_SIZE, 0, err) ||
        limit_set(rng, limit ? limit : &none, err)) {
        rng_destroy(&rng->vdev);
        return NULL;
    }
    return &rng->vdev;
}
