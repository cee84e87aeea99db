/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio block device: virtio 1.2, section 5.2. Requests go to the back end asynchronously, at most
 * BLK_REQUESTS at a time over all queues; what the driver offers beyond that waits in the rings.
 *
 *   pop -> parse header -> submit ......... done -> status byte -> push -> signal
 *                       |  \-> (write through) flush --/    |
 *                       +-> attempt (no waiting) -----------+
 *
 * Left out: zoned devices, secure erase, lifetime, several ranges in one discard.
 * Lock rule: board lock held; blk_done comes from the event thread and takes it.
 */
#include "core/virtio/blk.h"

#include "core/base/err.h"
#include "core/base/fmt.h"
#include "core/if/trace.h"

#define VIRTIO_BLK_F_SEG_MAX      BIT(2)
#define VIRTIO_BLK_F_RO           BIT(5)
#define VIRTIO_BLK_F_BLK_SIZE     BIT(6)
#define VIRTIO_BLK_F_FLUSH        BIT(9)
#define VIRTIO_BLK_F_TOPOLOGY     BIT(10)
#define VIRTIO_BLK_F_CONFIG_WCE   BIT(11)
#define VIRTIO_BLK_F_MQ           BIT(12)
#define VIRTIO_BLK_F_DISCARD      BIT(13)
#define VIRTIO_BLK_F_WRITE_ZEROES BIT(14)

enum {
    BLK_T_IN = 0,
    BLK_T_OUT = 1,
    BLK_T_FLUSH = 4,
    BLK_T_GET_ID = 8,
    BLK_T_DISCARD = 11,
    BLK_T_WRITE_ZEROES = 13,
};

enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

enum {
    BLK_REQUESTS = 64,
    BLK_QUEUE_SIZE = 256,
    BLK_SEG_MAX = VQ_SEGS_MAX - 2, /* beside header and status */
    BLK_SECTOR = 512,
    BLK_ID_BYTES = 20,
    BLK_RANGE_MAX = 0x3fffff, /* sectors of one discard or write zeroes */
    BLK_UNMAP = 1,            /* flag of a range */
    BLK_AT_ONCE = 2 << 20,    /* bytes that one notification may have copied with the board lock */
};

struct blk_config { /* 5.2.4 */
    u64 capacity;   /* sectors of 512 bytes */
    u32 size_max;
    u32 seg_max;
    u16 cylinders;
    u8 heads, sectors;
    u32 blk_size;
    u8 physical_block_exp, alignment_offset;
    u16 min_io_size;
    u32 opt_io_size;
    u8 writeback;
    u8 unused0;
    u16 num_queues;
    u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
    u32 max_write_zeroes_sectors, max_write_zeroes_seg;
    u8 write_zeroes_may_unmap;
    u8 unused1[3];
    u32 max_secure_erase_sectors; /* 0; named, or it would be padding with stray bytes */
};
_Static_assert(offsetof(struct blk_config, max_secure_erase_sectors) == 0x3c &&
                   sizeof(struct blk_config) == 0x40,
               "struct virtio_blk_config without padding");
_Static_assert(offsetof(struct blk_config, writeback) == 0x20, "struct virtio_blk_config");
_Static_assert(sizeof(struct blk_config) <= VIRTIO_CONFIG_MAX, "fits");

struct blk_header {
    u32 type, reserved;
    u64 sector;
};

struct blk_range { /* struct virtio_blk_discard_write_zeroes */
    u64 sector;
    u32 num_sectors, flags;
};

struct virtio_blk;

struct blk_request {
    struct block_req req;
    struct virtio_blk *blk;
    struct blk_request *next; /* free list */
    u32 epoch;
    u16 queue, head;
    u8 type;
    bool flush_after; /* write through: this write is followed by a flush */
    u8 *status;       /* where the driver wants it */
    u64 status_gpa;
    struct iov iov[VQ_SEGS_MAX];
    u64 gpa[VQ_SEGS_MAX];
};

struct virtio_blk {
    struct virtio_device vdev;
    struct block_backend *be;
    bool readonly;
    bool starved; /* a queue was left with work for want of a free request */
    u64 at_once;  /* bytes left of BLK_AT_ONCE */
    struct virtio_blk_stats stats;
    u8 serial[BLK_ID_BYTES];
    struct blk_request *pool; /* BLK_REQUESTS of them */
    struct blk_request *free;
    struct vq_chain chain; /* the one being parsed */
};

static struct virtio_blk *blk_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_blk, vdev);
}

static u64 blk_sectors(const struct virtio_blk *blk) {
    return blk->be->capacity / BLK_SECTOR;
}

/* 5.2.6.2: without FLUSH, or with the cache set to write through, a write is done when it is
 * stable. */
static bool write_through(const struct virtio_blk *blk) {
    if (blk->vdev.features & VIRTIO_BLK_F_CONFIG_WCE) {
        return !blk->vdev.config[offsetof(struct blk_config, writeback)];
    }
    return !(blk->vdev.features & VIRTIO_BLK_F_FLUSH);
}

/* --- completion ------------------------------------------------------------------------------- */

static void request_put(struct virtio_blk *blk, struct blk_request *r) {
    r->next = blk->free;
    blk->free = r;
}

static u8 blk_status(int status) {
    if (status == -ERR_UNSUPPORTED) {
        return BLK_S_UNSUPP;
    }
    return status ? BLK_S_IOERR : BLK_S_OK;
}

/* written: bytes in front of the status byte that were filled. */
static void complete(struct virtio_blk *blk, u32 queue, u16 head, u8 *status, u64 status_gpa,
                     u8 value, u64 written) {
    *status = value;
    ram_written(blk->vdev.env->ram, status_gpa, 1);
    virtio_push(&blk->vdev, queue, head, (u32)MIN(written + 1, UINT32_MAX));
}

static void starved_run(struct virtio_blk *blk) {
    if (blk->starved) {
        blk->starved = false;
        virtio_run_all(&blk->vdev);
    }
}

/* Reads reached guest memory through the iov, whatever became of the request. */
static void read_landed(struct virtio_blk *blk, const struct blk_request *r) {
    for (u32 i = 0; r->req.op == BLOCK_READ && i < r->req.iov_count; i++) {
        ram_written(blk->vdev.env->ram, r->gpa[i], r->iov[i].len);
    }
}

static void count(struct virtio_blk *blk, const struct block_req *req, int status) {
    struct virtio_blk_stats *s = &blk->stats;
    u64 bytes = status ? 0 : req->length;
    s->errors += status ? 1 : 0;
    switch (req->op) {
    case BLOCK_READ:
        s->reads++;
        s->read_bytes += bytes;
        break;
    case BLOCK_WRITE:
        s->writes++;
        s->write_bytes += bytes;
        break;
    case BLOCK_FLUSH:
        s->flushes++;
        break;
    default:
        s->discards++;
        break;
    }
}

static void blk_done(struct block_req *req, int status) {
    struct blk_request *r = CONTAINER_OF(req, struct blk_request, req);
    struct virtio_blk *blk = r->blk;
    struct device_env *env = blk->vdev.env;
    mutex_lock(env->host, env->lock);
    read_landed(blk, r);
    count(blk, req, status);
    if (!status && r->flush_after && r->epoch == blk->vdev.epoch) {
        r->flush_after = false;
        r->req = (struct block_req){.op = BLOCK_FLUSH, .done = blk_done};
        blk->be->ops->submit(blk->be, &r->req);
        mutex_unlock(env->host, env->lock);
        return;
    }
    u64 written = r->req.op == BLOCK_READ && !status ? r->req.length : 0;
    request_put(blk, r);
    if (virtio_request_end(&blk->vdev, r->epoch)) {
        complete(blk, r->queue, r->head, r->status, r->status_gpa, blk_status(status), written);
        virtio_signal(&blk->vdev, r->queue);
    }
    starved_run(blk);
    mutex_unlock(env->host, env->lock);
}

/* --- requests --------------------------------------------------------------------------------- */

static bool range_ok(const struct virtio_blk *blk, u64 sector, u64 bytes) {
    u64 sectors = blk_sectors(blk);
    return bytes % BLK_SECTOR == 0 && sector <= sectors && bytes / BLK_SECTOR <= sectors - sector;
}

static u8 submit(struct virtio_blk *blk, struct blk_request *r, enum block_op op, u64 sector,
                 u64 length, u32 iov_count) {
    bool writes = op != BLOCK_READ && op != BLOCK_FLUSH;
    r->epoch = blk->vdev.epoch;
    r->flush_after = writes && write_through(blk);
    r->req = (struct block_req){.op = op,
                                .offset = sector * BLK_SECTOR,
                                .length = length,
                                .iov = r->iov,
                                .iov_count = iov_count,
                                .done = blk_done};
    blk->free = r->next;
    virtio_request_begin(&blk->vdev);
    blk->be->ops->submit(blk->be, &r->req);
    return BLK_S_OK;
}

/* What the host has at hand is answered here and now; everything else goes its asynchronous way. */
static u8 submit_read(struct virtio_blk *blk, struct blk_request *r, u64 sector, u64 length,
                      u32 iov_count, u64 *written, bool *sent) {
    int status = 0;
    r->req = (struct block_req){.op = BLOCK_READ,
                                .offset = sector * BLK_SECTOR,
                                .length = length,
                                .iov = r->iov,
                                .iov_count = iov_count,
                                .done = blk_done};
    *sent = length > blk->at_once || !blk->be->ops->attempt ||
            !blk->be->ops->attempt(blk->be, &r->req, &status);
    if (*sent) {
        return submit(blk, r, BLOCK_READ, sector, length, iov_count);
    }
    blk->at_once -= length;
    read_landed(blk, r);
    count(blk, &r->req, status);
    *written = status ? 0 : length;
    return blk_status(status);
}

/* Each returns a status, with *sent set when the back end has the request and will tell. */
static u8 do_read(struct virtio_blk *blk, struct blk_request *r, u64 sector, u64 *written,
                  bool *sent) {
    u64 length = blk->chain.in_len - 1;
    if (!range_ok(blk, sector, length)) {
        return BLK_S_IOERR;
    }
    if (!length) {
        return BLK_S_OK;
    }
    u32 count = vq_chain_in(&blk->chain, 0, length, r->iov, r->gpa);
    return submit_read(blk, r, sector, length, count, written, sent);
}

static u8 do_write(struct virtio_blk *blk, struct blk_request *r, u64 sector, bool *sent) {
    u64 length = blk->chain.out_len - sizeof(struct blk_header);
    if (blk->readonly || !range_ok(blk, sector, length)) {
        return BLK_S_IOERR;
    }
    if (!length) {
        return BLK_S_OK;
    }
    *sent = true;
    u32 count = vq_chain_out(&blk->chain, sizeof(struct blk_header), length, r->iov);
    return submit(blk, r, BLOCK_WRITE, sector, length, count);
}

static u8 do_flush(struct virtio_blk *blk, struct blk_request *r, bool *sent) {
    *sent = true;
    return submit(blk, r, BLOCK_FLUSH, 0, 0, 0);
}

static u8 do_range(struct virtio_blk *blk, struct blk_request *r, bool discard, bool *sent) {
    struct blk_range range;
    u64 feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
    u32 flags_ok = discard ? 0 : BLK_UNMAP;
    if (!(blk->vdev.features & feature)) {
        return BLK_S_UNSUPP;
    }
    if (blk->chain.out_len != sizeof(struct blk_header) + sizeof(range)) {
        return BLK_S_IOERR;
    }
    vq_chain_read(&blk->chain, sizeof(struct blk_header), &range, sizeof(range));
    if (range.flags & ~flags_ok) {
        return BLK_S_UNSUPP;
    }
    u64 length = range.num_sectors * (u64)BLK_SECTOR;
    if (blk->readonly || range.num_sectors > BLK_RANGE_MAX ||
        !range_ok(blk, range.sector, length)) {
        return BLK_S_IOERR;
    }
    if (!length) {
        return BLK_S_OK;
    }
    *sent = true;
    return submit(blk, r, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, range.sector, length, 0);
}

static u8 do_get_id(struct virtio_blk *blk, u64 *written) {
    u64 room = blk->chain.in_len - 1;
    *written = MIN(room, (u64)BLK_ID_BYTES);
    vq_chain_write(blk->vdev.env->ram, &blk->chain, 0, blk->serial, (size_t)*written);
    return BLK_S_OK;
}

/* Where the status byte goes: the last one that the device may write. */
static void find_status(const struct vq_chain *chain, struct blk_request *r) {
    u32 last = chain->out_count + (u32)chain->in_count - 1;
    size_t at = chain->iov[last].len - 1;
    r->status = (u8 *)chain->iov[last].base + at;
    r->status_gpa = chain->gpa[last] + at;
}

/* Handles the chain just popped; true when it was answered at once. */
static bool request_start(struct virtio_blk *blk, u32 queue) {
    struct blk_header header;
    struct blk_request *r = blk->free;
    struct vq_chain *chain = &blk->chain;
    u64 written = 0;
    bool sent = false;
    u8 status = BLK_S_UNSUPP;
    find_status(chain, r);
    r->queue = (u16)queue;
    r->head = chain->head;
    vq_chain_read(chain, 0, &header, sizeof(header));
    TRACE(blk->vdev.env->trace, TRACE_VIRTIO, "virtio-blk: type %u sector %llu out %llu in %llu",
          header.type, (unsigned long long)header.sector, (unsigned long long)chain->out_len,
          (unsigned long long)chain->in_len);
    switch (header.type) {
    case BLK_T_IN:
        status = do_read(blk, r, header.sector, &written, &sent);
        break;
    case BLK_T_OUT:
        status = do_write(blk, r, header.sector, &sent);
        break;
    case BLK_T_FLUSH:
        status = do_flush(blk, r, &sent);
        break;
    case BLK_T_GET_ID:
        status = do_get_id(blk, &written);
        break;
    case BLK_T_DISCARD:
    case BLK_T_WRITE_ZEROES:
        status = do_range(blk, r, header.type == BLK_T_DISCARD, &sent);
        break;
    default:
        break;
    }
    if (!sent) {
        complete(blk, queue, chain->head, r->status, r->status_gpa, status, written);
    }
    return !sent;
}

static bool blk_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_blk *blk = blk_of(vdev);
    struct vq *vq = &vdev->queue[queue].vq;
    bool answered = false;
    int got = 1;
    blk->at_once = BLK_AT_ONCE;
    vq_notify_off(vq);
    for (u32 n = 0; n < vq->size && blk->free && got > 0; n++) {
        got = virtio_pop(vdev, queue, &blk->chain);
        if (got > 0 && (blk->chain.out_len < sizeof(struct blk_header) || !blk->chain.in_len)) {
            virtio_needs_reset(vdev, "a block request without header or status");
            got = -1;
        }
        if (got > 0) {
            answered |= request_start(blk, queue);
        }
    }
    if (answered) {
        virtio_signal(vdev, queue);
    }
    if (!blk->free) {
        blk->starved = true; /* the next completion looks again */
        return false;
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}

/* --- configuration ---------------------------------------------------------------------------- */

static void config_fill(struct virtio_blk *blk) {
    const struct block_backend *be = blk->be;
    struct blk_config c = {
        .capacity = blk_sectors(blk),
        .seg_max = BLK_SEG_MAX,
        .blk_size = be->block_size,
        .physical_block_exp = be->block_size == BLK_SECTOR ? 3 : 0, /* 4 KiB */
        .min_io_size = 1,
        .writeback = 1,
        .num_queues = (u16)blk->vdev.queue_count,
        .max_discard_sectors = BLK_RANGE_MAX,
        .max_discard_seg = 1,
        .discard_sector_alignment = be->block_size / BLK_SECTOR,
        .max_write_zeroes_sectors = BLK_RANGE_MAX,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = 1,
    };
    virtio_set_config(&blk->vdev, 0, &c, sizeof(c));
}

static void blk_config_write(struct virtio_device *vdev, u32 offset, u32 size, u32 value) {
    if (offset == offsetof(struct blk_config, writeback) && size == 1 &&
        (vdev->features & VIRTIO_BLK_F_CONFIG_WCE)) {
        vdev->config[offset] = value & 1;
    }
}

static u64 features_of(const struct block_backend *be, bool readonly, u32 queues) {
    u64 f =
        VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_TOPOLOGY;
    if (queues > 1) {
        f |= VIRTIO_BLK_F_MQ;
    }
    if (readonly) {
        return f | VIRTIO_BLK_F_RO;
    }
    return f | VIRTIO_BLK_F_CONFIG_WCE | (be->discard ? VIRTIO_BLK_F_DISCARD : 0) |
           (be->write_zeroes ? VIRTIO_BLK_F_WRITE_ZEROES : 0);
}

/* --- life ------------------------------------------------------------------------------------- */

static void blk_reset(struct virtio_device *vdev) {
    blk_of(vdev)->starved = false;
    config_fill(blk_of(vdev));
}

static void blk_drain(struct virtio_device *vdev) {
    struct block_backend *be = blk_of(vdev)->be;
    be->ops->drain(be);
}

static void blk_save(struct virtio_device *vdev, struct snap_writer *w) {
    snap_put64(w, blk_sectors(blk_of(vdev)));
    snap_put8(w, vdev->config[offsetof(struct blk_config, writeback)]);
}

static int blk_load(struct virtio_device *vdev, struct snap_reader *r, u32 version UNUSED) {
    struct virtio_blk *blk = blk_of(vdev);
    u64 sectors = snap_get64(r);
    bool writeback = snap_get_bool(r);
    config_fill(blk);
    vdev->config[offsetof(struct blk_config, writeback)] = writeback;
    return snap_finish(r) || sectors != blk_sectors(blk) ? -ERR_FORMAT : 0;
}

static void blk_destroy(struct virtio_device *vdev) {
    struct virtio_blk *blk = blk_of(vdev);
    struct host *host = vdev->env->host;
    if (blk->pool) {
        virtio_pause(vdev);
        host->ops->pages_free(host, blk->pool, BLK_REQUESTS * sizeof(blk->pool[0]));
    }
    virtio_fini(vdev);
    host_free(host, blk, sizeof(*blk));
}

void virtio_blk_get_stats(struct virtio_device *vdev, struct virtio_blk_stats *out) {
    *out = blk_of(vdev)->stats;
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .device_id = VIRTIO_ID_BLOCK,
    .tag = SNAP_TAG('V', 'B', 'L', 'K'),
    .version = 1,
    .config_write = blk_config_write,
    .queue_run = blk_queue_run,
    .reset = blk_reset,
    .drain = blk_drain,
    .save = blk_save,
    .load = blk_load,
    .destroy = blk_destroy,
};

int virtio_blk_change(struct virtio_device *vdev, struct block_backend *backend, struct err *err) {
    struct virtio_blk *blk = blk_of(vdev);
    struct device_env *env = vdev->env;
    if (backend->block_size != blk->be->block_size || (backend->readonly && !blk->readonly)) {
        return ERR_SET(err, ERR_INVAL,
                       "the new file has blocks of %u bytes and is %s, the old one "
                       "%u bytes and %s",
                       backend->block_size, backend->readonly ? "read-only" : "writable",
                       blk->be->block_size, blk->readonly ? "read-only" : "writable");
    }
    virtio_pause(vdev);
    mutex_lock(env->host, env->lock);
    u8 writeback = vdev->config[offsetof(struct blk_config, writeback)];
    blk->be = backend;
    config_fill(blk);
    vdev->config[offsetof(struct blk_config, writeback)] = writeback;
    virtio_config_changed(vdev);
    mutex_unlock(env->host, env->lock);
    virtio_resume(vdev);
    return 0;
}

/* In order of address, so that a lightly used disk touches few pages. */
static bool pool_init(struct virtio_blk *blk) {
    struct host *host = blk->vdev.env->host;
    blk->pool = host->ops->pages(host, BLK_REQUESTS * sizeof(blk->pool[0]));
    for (u32 i = BLK_REQUESTS; blk->pool && i > 0; i--) {
        blk->pool[i - 1].blk = blk;
        request_put(blk, &blk->pool[i - 1]);
    }
    return blk->pool;
}

struct virtio_device *virtio_blk_create(struct device_env *env, struct block_backend *backend,
                                        const struct virtio_blk_opts *opts, struct err *err) {
    const struct virtio_blk_opts none = {0};
    opts = opts ? opts : &none;
    u32 queues = opts->queues ? opts->queues : 1;
    struct virtio_blk *blk = host_alloc(env->host, sizeof(*blk));
    if (!blk) {
        ERR_SET(err, ERR_NOMEM, "virtio-blk: out of memory");
        return NULL;
    }
    blk->be = backend;
    blk->readonly = opts->readonly || backend->readonly;
    if (opts->serial) {
        memcpy(blk->serial, opts->serial, MIN(str_len(opts->serial), sizeof(blk->serial)));
    }
    if (virtio_init(&blk->vdev, env, &blk_ops, features_of(backend, blk->readonly, queues), queues,
                    BLK_QUEUE_SIZE, sizeof(struct blk_config), err)) {
        host_free(env->host, blk, sizeof(*blk));
        return NULL;
    }
    if (!pool_init(blk)) {
        ERR_SET(err, ERR_NOMEM, "virtio-blk: out of memory");
        blk_destroy(&blk->vdev);
        return NULL;
    }
    config_fill(blk);
    return &blk->vdev;
}
