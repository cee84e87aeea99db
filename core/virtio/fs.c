/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio file system device: virtio 1.2, section 5.11, carrying FUSE (fuse_wire.h). The device
 * turns messages into requests for a service of the host (core/if/share.h) and results into
 * replies; it touches no file itself.
 *
 *   pop -> copy, fs_decode -> submit ....... done -> fs_encode -> copy, push -> signal
 *              \-> error: reply at once
 *
 * At most FS_REQUESTS are at the back end; what the driver offers beyond that waits in the rings.
 * Left out: the notification queue, DAX. Lock rule: board lock held; fs_done takes it.
 */
#include "core/base/err.h"
#include "core/base/fmt.h"
#include "core/if/trace.h"
#include "core/virtio/fs_int.h"

struct fs_config { /* 5.11.4 */
    u8 tag[VIRTIO_FS_TAG_MAX];
    u32 num_request_queues;
};
_Static_assert(sizeof(struct fs_config) == 40, "struct virtio_fs_config");

static struct virtio_fs *fs_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_fs, vdev);
}

/* --- replies ---------------------------------------------------------------------------------- */

static void request_put(struct virtio_fs *fs, struct fs_request *r) {
    r->next = fs->free;
    fs->free = r;
}

/* size: bytes of r->out; data: bytes that are in guest memory already, instead. */
static u32 reply_write(struct fs_request *r, int status, u32 size, u32 data) {
    struct ram *ram = r->fs->vdev.env->ram;
    struct fuse_out_header h = {.error = status, .unique = r->header.unique};
    if (r->reply == REPLY_NONE || r->chain.in_len < sizeof(h)) {
        return 0;
    }
    if (!status && size > r->chain.in_len - sizeof(h)) {
        h.error = -FS_ERANGE;
    }
    size = h.error ? 0 : size;
    data = h.error ? 0 : data;
    h.len = (u32)sizeof(h) + size + data;
    vq_chain_write(ram, &r->chain, 0, &h, sizeof(h));
    vq_chain_write(ram, &r->chain, sizeof(h), r->out, size);
    return h.len;
}

static void finish(struct fs_request *r, int status) {
    struct virtio_fs *fs = r->fs;
    bool data = r->reply == REPLY_DATA && !status;
    u32 size = status ? 0 : fs_encode(r);
    u32 written = reply_write(r, status, size, data ? (u32)r->req.result : 0);
    virtio_push(&fs->vdev, r->queue, r->chain.head, written);
}

/* A read reached guest memory through the iov, whatever became of the request. */
static void read_landed(const struct fs_request *r) {
    for (u32 i = 0; r->reply == REPLY_DATA && i < r->data_count; i++) {
        ram_written(r->fs->vdev.env->ram, r->data_gpa[i], r->data[i].len);
    }
}

static void starved_run(struct virtio_fs *fs) {
    if (fs->starved) {
        fs->starved = false;
        virtio_run_all(&fs->vdev);
    }
}

static void fs_done(struct share_req *req) {
    struct fs_request *r = CONTAINER_OF(req, struct fs_request, req);
    struct virtio_fs *fs = r->fs;
    struct device_env *env = fs->vdev.env;
    mutex_lock(env->host, env->lock);
    read_landed(r);
    if (virtio_request_end(&fs->vdev, r->epoch)) {
        if (req->op == SHARE_RESET) {
            fs->started = r->reply == REPLY_INIT && !req->status;
        }
        finish(r, req->status);
        virtio_signal(&fs->vdev, r->queue);
    }
    request_put(fs, r);
    starved_run(fs);
    mutex_unlock(env->host, env->lock);
}

/* --- requests --------------------------------------------------------------------------------- */

/* True when it was answered at once. */
static bool request_start(struct virtio_fs *fs, struct fs_request *r) {
    u64 front = sizeof(r->header);
    vq_chain_read(&r->chain, 0, &r->header, sizeof(r->header));
    /* of a write's data a bit is copied, too, and not looked at */
    u64 rest = MIN(r->chain.out_len, (u64)r->header.len) - MIN(front, (u64)r->header.len);
    u64 limit = r->header.opcode == FUSE_WRITE ? sizeof(struct fuse_rw_in) : FS_IN_MAX;
    r->in_len = (u32)vq_chain_read(&r->chain, front, r->in, (size_t)MIN(rest, limit));
    int status = fs_decode(r);
    TRACE(fs->vdev.env->trace, TRACE_VIRTIO, "virtio-fs: opcode %u node %llu out %llu in %llu: %d",
          r->header.opcode, (unsigned long long)r->header.nodeid,
          (unsigned long long)r->chain.out_len, (unsigned long long)r->chain.in_len, status);
    if (status) {
        finish(r, status);
        return true;
    }
    fs->free = r->next;
    r->epoch = fs->vdev.epoch;
    r->req.done = fs_done;
    virtio_request_begin(&fs->vdev);
    fs->be->ops->submit(fs->be, &r->req);
    return false;
}

static bool fs_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_fs *fs = fs_of(vdev);
    struct vq *vq = &vdev->queue[queue].vq;
    bool answered = false;
    int got = 1;
    vq_notify_off(vq);
    for (u32 n = 0; n < vq->size && fs->free && got > 0; n++) {
        struct fs_request *r = fs->free;
        got = virtio_pop(vdev, queue, &r->chain);
        r->queue = queue;
        if (got > 0 && r->chain.out_len < sizeof(r->header)) {
            virtio_needs_reset(vdev, "a file system request without header");
            got = -1;
        }
        if (got > 0) {
            answered |= request_start(fs, r);
        }
    }
    if (answered) {
        virtio_signal(vdev, queue);
    }
    if (!fs->free) {
        fs->starved = true; /* the next completion looks again */
        return false;
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}

/* --- life ------------------------------------------------------------------------------------- */

/* What the guest knew of files is forgotten when the next driver says INIT. */
static void fs_reset(struct virtio_device *vdev) {
    fs_of(vdev)->starved = false;
    fs_of(vdev)->started = false;
}

static void fs_drain(struct virtio_device *vdev) {
    struct share_backend *be = fs_of(vdev)->be;
    be->ops->drain(be);
}

static void fs_save(struct virtio_device *vdev, struct snap_writer *w) {
    struct virtio_fs *fs = fs_of(vdev);
    snap_put8(w, fs->started);
    snap_put32(w, fs->minor);
    snap_put32(w, fs->init_flags);
    fs->be->ops->save(fs->be, w);
}

static int fs_load(struct virtio_device *vdev, struct snap_reader *r, u32 version UNUSED) {
    struct virtio_fs *fs = fs_of(vdev);
    bool started = snap_get_bool(r);
    fs->minor = snap_get32(r);
    fs->init_flags = snap_get32(r);
    int rc = r->failed ? -ERR_FORMAT : fs->be->ops->load(fs->be, r);
    rc = rc ? rc : snap_finish(r);
    fs->started = !rc && started;
    return rc;
}

static void fs_destroy(struct virtio_device *vdev) {
    struct virtio_fs *fs = fs_of(vdev);
    struct host *host = vdev->env->host;
    if (fs->pool) {
        virtio_pause(vdev);
        host->ops->pages_free(host, fs->pool, FS_REQUESTS * sizeof(fs->pool[0]));
    }
    virtio_fini(vdev);
    host_free(host, fs, sizeof(*fs));
}

static const struct virtio_ops fs_ops = {
    .name = "virtio-fs",
    .device_id = VIRTIO_ID_FS,
    .tag = SNAP_TAG('V', 'F', 'S', ' '),
    .version = 1,
    .queue_run = fs_queue_run,
    .reset = fs_reset,
    .drain = fs_drain,
    .save = fs_save,
    .load = fs_load,
    .destroy = fs_destroy,
};

static bool pool_init(struct virtio_fs *fs) {
    struct host *host = fs->vdev.env->host;
    fs->pool = host->ops->pages(host, FS_REQUESTS * sizeof(fs->pool[0]));
    for (u32 i = FS_REQUESTS; fs->pool && i > 0; i--) {
        fs->pool[i - 1].fs = fs;
        request_put(fs, &fs->pool[i - 1]);
    }
    return fs->pool;
}

struct virtio_device *virtio_fs_create(struct device_env *env, struct share_backend *backend,
                                       const char *tag, struct err *err) {
    struct fs_config config = {.num_request_queues = FS_QUEUES - 1};
    size_t len = str_len(tag);
    if (!len || len > sizeof(config.tag)) {
        ERR_SET(err, ERR_INVAL, "virtio-fs: a tag has 1 to %d characters", VIRTIO_FS_TAG_MAX);
        return NULL;
    }
    struct virtio_fs *fs = host_alloc(env->host, sizeof(*fs));
    if (!fs) {
        ERR_SET(err, ERR_NOMEM, "virtio-fs: out of memory");
        return NULL;
    }
    fs->be = backend;
    if (virtio_init(&fs->vdev, env, &fs_ops, 0, FS_QUEUES, FS_QUEUE_SIZE, sizeof(config), err)) {
        host_free(env->host, fs, sizeof(*fs));
        return NULL;
    }
    if (!pool_init(fs)) {
        ERR_SET(err, ERR_NOMEM, "virtio-fs: out of memory");
        fs_destroy(&fs->vdev);
        return NULL;
    }
    memcpy(config.tag, tag, len);
    virtio_set_config(&fs->vdev, 0, &config, sizeof(config));
    return &fs->vdev;
}
