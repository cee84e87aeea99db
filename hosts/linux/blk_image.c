/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images as block back ends. A request whose bytes have a known place in a file goes to
 * io_uring (or, without it, to the thread pool); what needs an image's tables goes to the pool,
 * too.
 *
 *   attempt: in the host's page cache? -> preadv2(RWF_NOWAIT), done at once
 *   submit --> image_map: DATA -----> ring (or pool) --+
 *              |          ZERO ---------------------- finished --> done on the event thread
 *              +--------- SLOW -----> pool: readv, writev, zero, discard, flush of the image
 *
 * Lock rule: `lock` guards the list of finished jobs; it is a leaf.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/host.h"
#include "hosts/linux/image_fd.h"
#include "hosts/linux/ring.h"

struct blk_image {
    struct block_backend be;
    struct linux_host *lh;
    struct image *im;
    struct ring *ring; /* NULL: the thread pool does everything */
    bool unsafe;       /* what is written is thrown away at the end: no flushes */
    bool no_attempt;   /* the file system cannot tell whether a read would wait */
    u32 in_flight;     /* atomic: submitted and not yet called back */
    pthread_mutex_t lock;
    struct blk_job *finished, **finished_tail; /* to be called back; under lock */
};

struct blk_job {
    struct pool_job pool;
    struct ring_op op;
    struct blk_image *disk;
    struct block_req *req;
    struct image_extent extent; /* held while op is at the ring */
    struct blk_job *next;       /* in finished */
    int status;
};

static struct blk_image *disk_of(struct block_backend *be) {
    return CONTAINER_OF(be, struct blk_image, be);
}

/* --- completion -------------------------------------------------------------------------------
 */

static void job_end(struct blk_job *job) {
    struct blk_image *d = job->disk;
    job->req->done(job->req, job->status);
    free(job);
    __atomic_fetch_sub(&d->in_flight, 1, __ATOMIC_RELEASE); /* the last one may free d */
}

/* Whoever comes first, the event thread or one that drains, calls back what has finished. */
static void call_back(void *ctx) {
    struct blk_image *d = ctx;
    pthread_mutex_lock(&d->lock);
    struct blk_job *job = d->finished;
    d->finished = NULL;
    d->finished_tail = &d->finished;
    pthread_mutex_unlock(&d->lock);
    while (job) {
        struct blk_job *next = job->next;
        job_end(job);
        job = next;
    }
}

/* Posted under the lock, so that a disk whose last request was taken from the list is not named by
 * a post that is still to come. */
static void job_finish(struct blk_job *job) {
    struct blk_image *d = job->disk;
    pthread_mutex_lock(&d->lock);
    bool first = !d->finished;
    job->next = NULL;
    *d->finished_tail = job;
    d->finished_tail = &job->next;
    while (first && loop_post(d->lh->loop, call_back, d)) {
        sched_yield(); /* out of memory for a moment; the request must not be lost */
    }
    pthread_mutex_unlock(&d->lock);
}

/* --- the pool's part --------------------------------------------------------------------------
 */

static int execute(struct blk_image *d, const struct block_req *req) {
    const struct image_ops *ops = d->im->ops;
    switch (req->op) {
    case BLOCK_READ:
        return ops->readv(d->im, req->offset, req->iov, req->iov_count, req->length);
    case BLOCK_WRITE:
        return ops->writev(d->im, req->offset, req->iov, req->iov_count, req->length);
    case BLOCK_FLUSH:
        return d->unsafe ? 0 : ops->flush(d->im);
    case BLOCK_DISCARD:
        return ops->discard(d->im, req->offset, req->length);
    case BLOCK_WRITE_ZEROES:
        return ops->zero(d->im, req->offset, req->length, true);
    }
    return -ERR_UNSUPPORTED;
}

static void job_run(struct pool_job *pool) {
    struct blk_job *job = CONTAINER_OF(pool, struct blk_job, pool);
    job->status = execute(job->disk, job->req);
    job_finish(job);
}

static void job_to_pool(struct blk_job *job) {
    job->pool.fn = job_run;
    if (pool_submit(job->disk->lh->pool, &job->pool)) {
        job->status = -ERR_NOMEM;
        job_finish(job);
    }
}

/* --- the ring's part --------------------------------------------------------------------------
 */

static u64 op_length(const struct blk_job *job) {
    return job->req->op == BLOCK_FLUSH ? 0 : job->req->length;
}

/* What the kernel did not do in one go (end of file, full disk, interrupted) the pool does again
 * from its beginning: it knows all the cases, and repeating is harmless. */
static void ring_ready(void *ctx) {
    struct blk_image *d = ctx;
    struct ring_op *op = ring_reap(d->ring);
    while (op) {
        struct blk_job *job = CONTAINER_OF(op, struct blk_job, op);
        op = op->next;
        image_unmap(&job->extent);
        if (job->op.result < 0 || (u64)job->op.result != op_length(job)) {
            job_to_pool(job);
        } else {
            job->status = 0;
            job_end(job);
        }
    }
}

static bool job_to_ring(struct blk_job *job, struct image_file *file, u64 offset) {
    const struct block_req *req = job->req;
    if (!job->disk->ring || req->iov_count > RING_IOV) {
        return false;
    }
    job->op = (struct ring_op){.op = req->op,
                               .fd = image_fd(file),
                               .offset = offset,
                               .iov = req->iov,
                               .iov_count = req->iov_count};
    return !ring_submit(job->disk->ring, &job->op);
}

/* --- requests ---------------------------------------------------------------------------------
 */

static int request_check(const struct blk_image *d, const struct block_req *req) {
    if (req->op > BLOCK_WRITE_ZEROES) {
        return -ERR_UNSUPPORTED;
    }
    if (req->op == BLOCK_FLUSH) {
        return 0;
    }
    if (req->offset > d->be.capacity || req->length > d->be.capacity - req->offset) {
        return -ERR_RANGE;
    }
    return d->be.readonly && req->op != BLOCK_READ ? -ERR_PERM : 0;
}

/* True when the job is on its way, or has its status. */
static bool transfer_quick(struct blk_job *job, bool *finished) {
    const struct block_req *req = job->req;
    struct blk_image *d = job->disk;
    image_map(d->im, req->offset, req->length, req->op == BLOCK_WRITE, &job->extent);
    bool whole = job->extent.length == req->length;
    if (whole && job->extent.kind == EXTENT_DATA &&
        job_to_ring(job, job->extent.file, job->extent.offset)) {
        return true;
    }
    if (whole && job->extent.kind == EXTENT_ZERO && req->op == BLOCK_READ) {
        iov_zero(req->iov, req->iov_count);
        *finished = true;
        return true;
    }
    image_unmap(&job->extent);
    job->extent.kind = EXTENT_SLOW;
    return false;
}

static bool flush_quick(struct blk_job *job, bool *finished) {
    struct blk_image *d = job->disk;
    job->extent.kind = EXTENT_SLOW;
    if (d->be.readonly || d->unsafe) {
        *finished = true;
        return true;
    }
    return d->im->ops->clean(d->im) && job_to_ring(job, d->im->file, 0);
}

static void job_start(struct blk_job *job) {
    const struct block_req *req = job->req;
    bool finished = false, away = false;
    job->status = request_check(job->disk, req);
    if (job->status || (!req->length && req->op != BLOCK_FLUSH)) {
        finished = away = true;
    } else if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
        away = transfer_quick(job, &finished);
    } else if (req->op == BLOCK_FLUSH) {
        away = flush_quick(job, &finished);
    }
    if (finished) {
        job_finish(job);
    } else if (!away) {
        job_to_pool(job);
    }
}

static void failed_now(void *ctx) {
    struct block_req *req = ctx;
    req->done(req, -ERR_NOMEM);
}

static void disk_submit(struct block_backend *be, struct block_req *req) {
    struct blk_image *d = disk_of(be);
    struct blk_job *job = calloc(1, sizeof(*job));
    if (!job) {
        loop_post(d->lh->loop, failed_now, req);
        return;
    }
    job->disk = d;
    job->req = req;
    __atomic_fetch_add(&d->in_flight, 1, __ATOMIC_RELAXED);
    job_start(job);
}

/* A read of what the host has in its cache is over sooner than another thread could be told. */
static bool read_now(struct blk_image *d, const struct block_req *req,
                     const struct image_extent *e) {
    const struct iovec *v = (const struct iovec *)(const void *)req->iov;
    ssize_t n = preadv2(image_fd(e->file), v, (int)req->iov_count, (off_t)e->offset, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        __atomic_store_n(&d->no_attempt, true, __ATOMIC_RELAXED);
    }
    return n >= 0 && (u64)n == req->length;
}

static bool disk_attempt(struct block_backend *be, struct block_req *req, int *status) {
    struct blk_image *d = disk_of(be);
    struct image_extent e;
    bool done = false;
    if (req->op != BLOCK_READ || req->iov_count > RING_IOV || !req->length ||
        __atomic_load_n(&d->no_attempt, __ATOMIC_RELAXED) || request_check(d, req)) {
        return false;
    }
    image_map(d->im, req->offset, req->length, false, &e);
    if (e.length == req->length && e.kind == EXTENT_DATA) {
        done = read_now(d, req, &e);
    } else if (e.length == req->length && e.kind == EXTENT_ZERO) {
        iov_zero(req->iov, req->iov_count);
        done = true;
    }
    image_unmap(&e);
    *status = 0;
    return done;
}

/* Does not need the event thread, which may itself be waiting for the vCPU that drains. */
static void disk_drain(struct block_backend *be) {
    struct blk_image *d = disk_of(be);
    for (;;) {
        if (d->ring) {
            ring_ready(d);
        }
        call_back(d);
        if (!__atomic_load_n(&d->in_flight, __ATOMIC_ACQUIRE)) {
            break;
        }
        usleep(100);
    }
}

static void disk_close(struct block_backend *be) {
    struct blk_image *d = disk_of(be);
    struct host *host = &d->lh->host;
    disk_drain(be);
    if (d->ring) {
        loop_unwatch(d->lh->loop, ring_fd(d->ring));
        ring_destroy(d->ring);
    }
    loop_forget(d->lh->loop, d);
    if (d->im->ops->close(d->im)) {
        log_line(host, LOG_ERROR, "a disk image could not be written back when it was closed");
    }
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct block_backend_ops disk_ops = {
    .submit = disk_submit, .attempt = disk_attempt, .drain = disk_drain, .close = disk_close};

static void ring_start(struct blk_image *d) {
    d->ring = ring_create();
    if (d->ring && loop_watch(d->lh->loop, ring_fd(d->ring), ring_ready, d)) {
        ring_destroy(d->ring);
        d->ring = NULL;
    }
}

int blk_image_create(struct linux_host *lh, struct image *im, const struct blk_options *o,
                     struct block_backend **out, struct err *err) {
    struct blk_image *d = calloc(1, sizeof(*d));
    if (!d) {
        return ERR_SET(err, ERR_NOMEM, "disk %s: out of memory", o->path);
    }
    bool readonly = im->readonly;
    *d = (struct blk_image){.lh = lh, .im = im, .unsafe = o->snapshot};
    pthread_mutex_init(&d->lock, NULL);
    d->finished_tail = &d->finished;
    if (o->aio != BLK_AIO_THREADS) {
        ring_start(d);
    }
    if (!d->ring && o->aio == BLK_AIO_IO_URING) {
        pthread_mutex_destroy(&d->lock);
        free(d);
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "disk %s: this host has no io_uring; use aio=threads or leave it out",
                       o->path);
    }
    d->be = (struct block_backend){.ops = &disk_ops,
                                   .capacity = im->size,
                                   .block_size = IMAGE_SECTOR,
                                   .readonly = readonly,
                                   .discard = !readonly,
                                   .write_zeroes = !readonly};
    *out = &d->be;
    return 0;
}
