/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device side of virtio that is common to all devices and transports: virtio 1.2, chapters 2
 * and 3; see virtio.h. Left out: VIRTIO_F_RING_RESET, shared memory regions. Lock rule: board lock
 * held, except doorbell_rang, again_fire, pause, resume and fini, which are called without.
 */
#include "core/virtio/virtio.h"

#include "core/base/err.h"
#include "core/if/log.h"
#include "core/if/trace.h"

static void again_fire(void *ctx);

static bool queues_init(struct virtio_device *vdev, u32 count, u16 size) {
    vdev->queue = host_alloc(vdev->env->host, count * sizeof(vdev->queue[0]));
    if (!vdev->queue) {
        return false;
    }
    vdev->queue_count = count;
    for (u32 q = 0; q < count; q++) {
        vq_init(&vdev->queue[q].vq, vdev->env->ram, size);
        vdev->queue[q].vdev = vdev;
        vdev->queue[q].index = q;
    }
    return true;
}

int virtio_init(struct virtio_device *vdev, struct device_env *env, const struct virtio_ops *ops,
                u64 features, u32 queue_count, u16 queue_size, u32 config_size, struct err *err) {
    struct host *host = env->host;
    vdev->env = env;
    vdev->ops = ops;
    vdev->offered = features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
    vdev->config_size = config_size;
    if (!queue_count || queue_count > VIRTIO_QUEUES_MAX || config_size > VIRTIO_CONFIG_MAX ||
        queue_size > VQ_SIZE_MAX) {
        return ERR_SET(err, ERR_INVAL, "%s: %u queues of %u entries cannot be", ops->name,
                       queue_count, queue_size);
    }
    vdev->again = host->ops->timer_create(host, again_fire, vdev);
    if (!vdev->again || !queues_init(vdev, queue_count, queue_size)) {
        virtio_fini(vdev);
        return ERR_SET(err, ERR_NOMEM, "%s: out of memory", ops->name);
    }
    return 0;
}

void virtio_fini(struct virtio_device *vdev) {
    struct host *host = vdev->env->host;
    if (vdev->again) {
        host->ops->timer_destroy(host, vdev->again);
        vdev->again = NULL;
    }
    host_free(host, vdev->queue, vdev->queue_count * sizeof(vdev->queue[0]));
    vdev->queue = NULL;
    vdev->queue_count = 0;
}

/* --- queues ----------------------------------------------------------------------------------- */

bool virtio_queue_ready(struct virtio_device *vdev, u32 queue) {
    u32 wrong = VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED;
    return queue < vdev->queue_count && (vdev->status & VIRTIO_STATUS_DRIVER_OK) &&
           !(vdev->status & wrong) && !vdev->paused && !vdev->reset_pending && vdev->dma &&
           vdev->queue[queue].vq.enabled;
}

int virtio_pop(struct virtio_device *vdev, u32 queue, struct vq_chain *chain) {
    if (!virtio_queue_ready(vdev, queue)) {
        return 0;
    }
    int got = vq_pop(&vdev->queue[queue].vq, chain);
    if (got < 0) {
        virtio_needs_reset(vdev, vdev->queue[queue].vq.why);
    }
    return got;
}

void virtio_push(struct virtio_device *vdev, u32 queue, u16 head, u32 written) {
    vq_push(&vdev->queue[queue].vq, head, written);
}

void virtio_signal(struct virtio_device *vdev, u32 queue) {
    if ((vdev->status & VIRTIO_STATUS_DRIVER_OK) && vdev->transport &&
        vq_should_interrupt(&vdev->queue[queue].vq)) {
        vdev->transport->notify_queue(vdev->transport_ctx, queue);
    }
}

static void run_later(struct virtio_device *vdev, u32 queue) {
    struct host *host = vdev->env->host;
    vdev->queue[queue].again = true;
    host->ops->timer_arm(host, vdev->again, host_now(host));
}

void virtio_queue_run(struct virtio_device *vdev, u32 queue) {
    if (!virtio_queue_ready(vdev, queue)) {
        return;
    }
    if (vdev->queue[queue].vq.broken) {
        virtio_needs_reset(vdev, vdev->queue[queue].vq.why);
    } else if (vdev->ops->queue_run(vdev, queue)) {
        run_later(vdev, queue);
    }
}

void virtio_run_all(struct virtio_device *vdev) {
    for (u32 q = 0; q < vdev->queue_count; q++) {
        virtio_queue_run(vdev, q);
    }
}

static void again_fire(void *ctx) {
    struct virtio_device *vdev = ctx;
    mutex_lock(vdev->env->host, vdev->env->lock);
    for (u32 q = 0; q < vdev->queue_count; q++) {
        bool again = vdev->queue[q].again;
        vdev->queue[q].again = false;
        if (again) {
            virtio_queue_run(vdev, q);
        }
    }
    mutex_unlock(vdev->env->host, vdev->env->lock);
}

void virtio_notify(struct virtio_device *vdev, u32 queue) {
    TRACE(vdev->env->trace, TRACE_VIRTIO, "%s: notify queue %u", vdev->ops->name, queue);
    virtio_queue_run(vdev, queue);
}

struct virtio_queue *virtio_selected(struct virtio_device *vdev) {
    return vdev->queue_select < vdev->queue_count ? &vdev->queue[vdev->queue_select] : NULL;
}

void virtio_queue_size(struct virtio_device *vdev, u32 value) {
    struct virtio_queue *q = virtio_selected(vdev);
    if (q && !q->vq.enabled && value <= q->vq.size_max) {
        q->vq.size = (u16)value;
    }
}

void virtio_queue_enable(struct virtio_device *vdev, bool enable) {
    struct virtio_queue *q = virtio_selected(vdev);
    if (!q || q->vq.enabled == enable) {
        return;
    }
    if (enable) {
        vq_enable(&q->vq);
        TRACE(vdev->env->trace, TRACE_VIRTIO, "%s: queue %u of %u entries at %llx", vdev->ops->name,
              q->index, q->vq.size, (unsigned long long)q->vq.desc);
        virtio_queue_run(vdev, q->index);
    } else if (!q->vq.inflight_count) {
        vq_reset(&q->vq);
    }
}

/* --- requests at a back end ------------------------------------------------------------------- */

void virtio_request_begin(struct virtio_device *vdev) {
    vdev->inflight++;
}

bool virtio_request_end(struct virtio_device *vdev, u32 epoch) {
    vdev->inflight--;
    if (vdev->reset_pending && !vdev->inflight) {
        vdev->reset_pending = false;
        virtio_run_all(vdev); /* of a driver that did not wait */
    }
    return epoch == vdev->epoch;
}

/* --- features and status ---------------------------------------------------------------------- */

u32 virtio_device_features(struct virtio_device *vdev) {
    u32 select = vdev->device_feature_select;
    return select < 2 ? (u32)(vdev->offered >> (select * 32)) : 0;
}

void virtio_driver_features(struct virtio_device *vdev, u32 value) {
    u32 select = vdev->driver_feature_select;
    if (select < 2 && !(vdev->status & VIRTIO_STATUS_FEATURES_OK)) {
        vdev->features &= ~((u64)UINT32_MAX << (select * 32));
        vdev->features |= (u64)value << (select * 32);
    }
}

u8 virtio_status(const struct virtio_device *vdev) {
    return vdev->reset_pending && !vdev->status ? vdev->reset_status : vdev->status;
}

static bool features_ok(const struct virtio_device *vdev) {
    return !(vdev->features & ~vdev->offered) && (vdev->features & VIRTIO_F_VERSION_1);
}

static void features_apply(struct virtio_device *vdev) {
    for (u32 q = 0; q < vdev->queue_count; q++) {
        vdev->queue[q].vq.event_idx = vdev->features & VIRTIO_F_EVENT_IDX;
        vdev->queue[q].vq.indirect = vdev->features & VIRTIO_F_INDIRECT_DESC;
    }
}

static void driver_ok(struct virtio_device *vdev) {
    features_apply(vdev);
    if (vdev->ops->start) {
        vdev->ops->start(vdev);
    }
    virtio_run_all(vdev); /* buffers may have been made available before */
}

void virtio_set_status(struct virtio_device *vdev, u8 status) {
    TRACE(vdev->env->trace, TRACE_VIRTIO, "%s: status %02x -> %02x", vdev->ops->name, vdev->status,
          status);
    if (!status) {
        virtio_reset(vdev);
        return;
    }
    u8 old = vdev->status;
    status |= old; /* the driver clears nothing but by reset (2.1.1) */
    if (!(old & VIRTIO_STATUS_FEATURES_OK) && !features_ok(vdev)) {
        status &= (u8)~VIRTIO_STATUS_FEATURES_OK;
    }
    if (!(status & VIRTIO_STATUS_FEATURES_OK)) {
        status &= (u8)~VIRTIO_STATUS_DRIVER_OK;
    }
    if (!(old & VIRTIO_STATUS_NEEDS_RESET)) {
        status &= (u8)~VIRTIO_STATUS_NEEDS_RESET; /* ours to set */
    }
    vdev->status = status;
    if (!(old & VIRTIO_STATUS_DRIVER_OK) && (status & VIRTIO_STATUS_DRIVER_OK)) {
        driver_ok(vdev);
    }
}

void virtio_needs_reset(struct virtio_device *vdev, const char *why) {
    if (vdev->status & VIRTIO_STATUS_NEEDS_RESET) {
        return;
    }
    log_limited(vdev->env->host, &vdev->log_count, LOG_WARN, "%s: needs a reset by its driver: %s",
                vdev->ops->name, why ? why : "broken queue");
    vdev->status |= VIRTIO_STATUS_NEEDS_RESET;
    if ((vdev->status & VIRTIO_STATUS_DRIVER_OK) && vdev->transport) {
        vdev->transport->notify_config(vdev->transport_ctx);
    }
}

void virtio_reset(struct virtio_device *vdev) {
    if (vdev->inflight && !vdev->reset_pending) {
        vdev->reset_pending = true;
        vdev->reset_status = vdev->status ? vdev->status : VIRTIO_STATUS_ACKNOWLEDGE;
    }
    vdev->epoch++;
    vdev->ops->reset(vdev);
    for (u32 q = 0; q < vdev->queue_count; q++) {
        vq_reset(&vdev->queue[q].vq);
        vdev->queue[q].again = false;
    }
    vdev->features = 0;
    vdev->status = 0;
    vdev->device_feature_select = vdev->driver_feature_select = vdev->queue_select = 0;
    if (vdev->transport) {
        vdev->transport->reset(vdev->transport_ctx);
    }
}

/* --- configuration space ---------------------------------------------------------------------- */

u32 virtio_config_read(struct virtio_device *vdev, u32 offset, u32 size) {
    u32 value = 0;
    for (u32 i = 0; i < size && offset + i < vdev->config_size; i++) {
        value |= (u32)vdev->config[offset + i] << (i * 8);
    }
    return value;
}

void virtio_config_write(struct virtio_device *vdev, u32 offset, u32 size, u32 value) {
    if (vdev->ops->config_write && offset < vdev->config_size &&
        size <= vdev->config_size - offset) {
        vdev->ops->config_write(vdev, offset, size, value);
    }
}

void virtio_set_config(struct virtio_device *vdev, u32 offset, const void *data, u32 size) {
    if (offset <= VIRTIO_CONFIG_MAX && size <= VIRTIO_CONFIG_MAX - offset) {
        memcpy(vdev->config + offset, data, size);
    }
}

void virtio_config_changed(struct virtio_device *vdev) {
    vdev->generation++;
    if ((vdev->status & VIRTIO_STATUS_DRIVER_OK) && vdev->transport) {
        vdev->transport->notify_config(vdev->transport_ctx);
    }
}

/* --- doorbells -------------------------------------------------------------------------------- */

static void doorbell_rang(void *ctx) {
    struct virtio_queue *q = ctx;
    struct device_env *env = q->vdev->env;
    mutex_lock(env->host, env->lock);
    virtio_notify(q->vdev, q->index);
    mutex_unlock(env->host, env->lock);
}

static void bell_hang(struct virtio_device *vdev, struct virtio_queue *q, bool add) {
    if (vdev->doorbell && q->bell.address && q->rung != add) {
        q->rung = add;
        vdev->doorbell(vdev->doorbell_ctx, &q->bell, add);
    }
}

void virtio_doorbell_move(struct virtio_device *vdev, u32 queue, const struct virtio_doorbell *at) {
    struct virtio_queue *q = &vdev->queue[queue];
    bell_hang(vdev, q, false);
    q->bell = *at;
    q->bell.fn = doorbell_rang;
    q->bell.ctx = q;
    bell_hang(vdev, q, true);
}

void virtio_set_doorbell_hook(struct virtio_device *vdev, virtio_doorbell_fn fn, void *ctx) {
    for (u32 q = 0; q < vdev->queue_count; q++) {
        bell_hang(vdev, &vdev->queue[q], false);
    }
    vdev->doorbell = fn;
    vdev->doorbell_ctx = ctx;
    for (u32 q = 0; q < vdev->queue_count; q++) {
        bell_hang(vdev, &vdev->queue[q], true);
    }
}

/* --- saving ----------------------------------------------------------------------------------- */

#define VIRTIO_TAG SNAP_TAG('V', 'I', 'R', 'T')

void virtio_save(struct virtio_device *vdev, struct snap_writer *w) {
    size_t section = snap_begin(w, VIRTIO_TAG, 1);
    snap_put16(w, vdev->ops->device_id);
    snap_put64(w, vdev->features);
    snap_put8(w, vdev->status);
    snap_put32(w, vdev->device_feature_select);
    snap_put32(w, vdev->driver_feature_select);
    snap_put32(w, vdev->queue_select);
    snap_put32(w, vdev->generation);
    snap_put32(w, vdev->config_size);
    snap_put(w, vdev->config, vdev->config_size);
    snap_put32(w, vdev->queue_count);
    for (u32 q = 0; q < vdev->queue_count; q++) {
        vq_save(&vdev->queue[q].vq, w);
    }
    snap_end(w, section);
    section = snap_begin(w, vdev->ops->tag, vdev->ops->version);
    vdev->ops->save(vdev, w);
    snap_end(w, section);
}

static int load_common(struct virtio_device *vdev, struct snap_reader *r) {
    u8 config[VIRTIO_CONFIG_MAX];
    u16 id = snap_get16(r);
    vdev->features = snap_get64(r);
    vdev->status = snap_get8(r);
    vdev->device_feature_select = snap_get32(r);
    vdev->driver_feature_select = snap_get32(r);
    vdev->queue_select = snap_get32(r);
    vdev->generation = snap_get32(r);
    if (r->failed || id != vdev->ops->device_id || snap_get32(r) != vdev->config_size) {
        return -ERR_FORMAT;
    }
    snap_get(r, config, vdev->config_size);
    if (snap_get32(r) != vdev->queue_count) {
        return -ERR_FORMAT;
    }
    for (u32 q = 0; q < vdev->queue_count; q++) {
        if (vq_load(&vdev->queue[q].vq, r)) {
            return -ERR_FORMAT;
        }
    }
    bool negotiated = vdev->status & VIRTIO_STATUS_FEATURES_OK;
    if (snap_finish(r) || (negotiated && !features_ok(vdev)) ||
        ((vdev->status & VIRTIO_STATUS_DRIVER_OK) && !negotiated)) {
        return -ERR_FORMAT;
    }
    memcpy(vdev->config, config, vdev->config_size);
    return 0;
}

int virtio_load(struct virtio_device *vdev, struct snap_reader *r) {
    struct snap_reader sub;
    virtio_reset(vdev);
    u32 version = snap_section(r, VIRTIO_TAG, 1, &sub);
    int error = version ? load_common(vdev, &sub) : -ERR_FORMAT;
    if (!error) {
        version = snap_section(r, vdev->ops->tag, vdev->ops->version, &sub);
        error = version ? vdev->ops->load(vdev, &sub, version) : -ERR_FORMAT;
    }
    if (error) {
        virtio_reset(vdev);
        return error;
    }
    if (vdev->status & VIRTIO_STATUS_DRIVER_OK) {
        features_apply(vdev);
        if (vdev->ops->start) {
            vdev->ops->start(vdev);
        }
        for (u32 q = 0; q < vdev->queue_count; q++) {
            run_later(vdev, q);
        }
    }
    return 0;
}

void virtio_pause(struct virtio_device *vdev) {
    mutex_lock(vdev->env->host, vdev->env->lock);
    vdev->paused = true;
    mutex_unlock(vdev->env->host, vdev->env->lock);
    if (vdev->ops->drain) {
        vdev->ops->drain(vdev);
    }
}

void virtio_resume(struct virtio_device *vdev) {
    mutex_lock(vdev->env->host, vdev->env->lock);
    vdev->paused = false;
    virtio_run_all(vdev);
    mutex_unlock(vdev->env->host, vdev->env->lock);
}
