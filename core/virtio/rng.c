/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio entropy device: virtio 1.2, section 5.4. Each request gets at most RNG_CHUNK bytes, so
 * that a driver cannot keep the monitor busy; it asks again. Lock rule: board lock held.
 */
#include "core/virtio/rng.h"

#include "core/base/err.h"

enum { RNG_QUEUE_SIZE = 64, RNG_CHUNK = 4096 };

struct virtio_rng {
    struct virtio_device vdev;
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

static bool rng_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_rng *rng = rng_of(vdev);
    struct vq *vq = &vdev->queue[queue].vq;
    u32 done = 0;
    int got = 1;
    vq_notify_off(vq);
    while (done < vq->size && (got = virtio_pop(vdev, queue, &rng->chain)) > 0) {
        virtio_push(vdev, queue, rng->chain.head, rng_fill(rng));
        done++;
    }
    if (done) {
        virtio_signal(vdev, queue);
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}

static void rng_reset(struct virtio_device *vdev UNUSED) {
}

static void rng_save(struct virtio_device *vdev UNUSED, struct snap_writer *w UNUSED) {
}

static int rng_load(struct virtio_device *vdev UNUSED, struct snap_reader *r, u32 version UNUSED) {
    return snap_finish(r);
}

static void rng_destroy(struct virtio_device *vdev) {
    struct virtio_rng *rng = rng_of(vdev);
    struct host *host = vdev->env->host;
    virtio_fini(vdev);
    host_free(host, rng, sizeof(*rng));
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .device_id = VIRTIO_ID_ENTROPY,
    .tag = SNAP_TAG('V', 'R', 'N', 'G'),
    .version = 1,
    .queue_run = rng_queue_run,
    .reset = rng_reset,
    .save = rng_save,
    .load = rng_load,
    .destroy = rng_destroy,
};

struct virtio_device *virtio_rng_create(struct device_env *env, struct err *err) {
    struct virtio_rng *rng = host_alloc(env->host, sizeof(*rng));
    if (!rng) {
        ERR_SET(err, ERR_NOMEM, "virtio-rng: out of memory");
        return NULL;
    }
    if (virtio_init(&rng->vdev, env, &rng_ops, 0, 1, RNG_QUEUE_SIZE, 0, err)) {
        host_free(env->host, rng, sizeof(*rng));
        return NULL;
    }
    return &rng->vdev;
}
