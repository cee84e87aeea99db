/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw disk images: a file or a block device, read and written by the thread pool, completions on
 * the event thread. The image is locked (open file description lock) so that two machines cannot
 * write it, nor one read what another writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { SECTOR = 512, IOV_BATCH = 256, ZERO_CHUNK = 64 * 1024 };

struct blk_file {
    struct block_backend be;
    struct linux_host *lh;
    int fd;
    u32 in_flight; /* atomic: submitted and not yet called back */
    pthread_mutex_t lock;
    struct blk_job *finished; /* to be called back; under lock */
};

struct blk_job {
    struct pool_job pool;
    struct blk_file *file;
    struct block_req *req;
    struct blk_job *next; /* in finished */
    int status;
};

static struct blk_file *file_of(struct block_backend *be) {
    return CONTAINER_OF(be, struct blk_file, be);
}

/* Moves the window of a batch forward by n bytes. */
static void iov_advance(struct iovec *v, int *count, int *first, size_t n) {
    while (*first < *count && n >= v[*first].iov_len) {
        n -= v[*first].iov_len;
        (*first)++;
    }
    if (*first < *count) {
        v[*first].iov_base = (u8 *)v[*first].iov_base + n;
        v[*first].iov_len -= n;
    }
}

/* One batch of iovecs, to the end: short transfers are continued, end of file reads as zeros. */
static int transfer_batch(struct blk_file *f, bool write, struct iovec *v, int count, u64 offset) {
    int first = 0;
    iov_advance(v, &count, &first, 0); /* empty parts at the start would look like the end */
    while (first < count) {
        ssize_t n = write ? pwritev(f->fd, v + first, count - first, (off_t)offset)
                          : preadv(f->fd, v + first, count - first, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 || (n == 0 && write)) {
            return -ERR_IO;
        }
        if (n == 0) {
            for (; first < count; first++) {
                memset(v[first].iov_base, 0, v[first].iov_len);
            }
            return 0;
        }
        offset += (u64)n;
        iov_advance(v, &count, &first, (size_t)n);
    }
    return 0;
}

static int transfer(struct blk_file *f, const struct block_req *req) {
    struct iovec v[IOV_BATCH];
    u64 offset = req->offset;
    int rc = 0;
    for (u32 i = 0; i < req->iov_count && !rc; i += IOV_BATCH) {
        int count = (int)MIN(req->iov_count - i, (u32)IOV_BATCH);
        u64 bytes = 0;
        for (int k = 0; k < count; k++) {
            v[k] = (struct iovec){.iov_base = req->iov[i + (u32)k].base,
                                  .iov_len = req->iov[i + (u32)k].len};
            bytes += v[k].iov_len;
        }
        rc = transfer_batch(f, req->op == BLOCK_WRITE, v, count, offset);
        offset += bytes;
    }
    return rc;
}

static int punch(struct blk_file *f, const struct block_req *req) {
    int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    if (!req->length || !fallocate(f->fd, mode, (off_t)req->offset, (off_t)req->length)) {
        return 0;
    }
    return errno == EOPNOTSUPP ? -ERR_UNSUPPORTED : -ERR_IO;
}

/* Where the file system cannot punch holes. */
static int write_zeroes(struct blk_file *f, const struct block_req *req) {
    static u8 zeros[ZERO_CHUNK];
    for (u64 done = 0; done < req->length;) {
        struct iovec v = {.iov_base = zeros, .iov_len = MIN(req->length - done, sizeof(zeros))};
        u64 len = v.iov_len;
        int rc = transfer_batch(f, true, &v, 1, req->offset + done);
        if (rc) {
            return rc;
        }
        done += len;
    }
    return 0;
}

static int execute(struct blk_file *f, const struct block_req *req) {
    if (req->offset > f->be.capacity || req->length > f->be.capacity - req->offset) {
        return -ERR_RANGE;
    }
    if (f->be.readonly && req->op != BLOCK_READ && req->op != BLOCK_FLUSH) {
        return -ERR_PERM;
    }
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return transfer(f, req);
    case BLOCK_FLUSH:
        return f->be.readonly || !fdatasync(f->fd) ? 0 : -ERR_IO;
    case BLOCK_DISCARD:
        return punch(f, req);
    case BLOCK_WRITE_ZEROES:
        return punch(f, req) ? write_zeroes(f, req) : 0;
    }
    return -ERR_UNSUPPORTED;
}

/* Whoever comes first, the event thread or one that drains, calls back what has finished. */
static void call_back(void *ctx) {
    struct blk_file *f = ctx;
    pthread_mutex_lock(&f->lock);
    struct blk_job *job = f->finished;
    f->finished = NULL;
    pthread_mutex_unlock(&f->lock);
    while (job) {
        struct blk_job *next = job->next;
        job->req->done(job->req, job->status);
        free(job);
        __atomic_fetch_sub(&f->in_flight, 1, __ATOMIC_RELEASE); /* the last one may free f */
        job = next;
    }
}

/* Posted under the lock, so that a file whose last request was taken from the list is not named by
 * a post that is still to come. */
static void job_finish(struct blk_job *job) {
    struct blk_file *f = job->file;
    pthread_mutex_lock(&f->lock);
    struct blk_job **at = &f->finished;
    while (*at) {
        at = &(*at)->next;
    }
    job->next = NULL;
    *at = job;
    while (loop_post(f->lh->loop, call_back, f)) {
        sched_yield(); /* out of memory for a moment; the request must not be lost */
    }
    pthread_mutex_unlock(&f->lock);
}

static void job_run(struct pool_job *pool) {
    struct blk_job *job = CONTAINER_OF(pool, struct blk_job, pool);
    job->status = execute(job->file, job->req);
    job_finish(job);
}

static void failed_now(void *ctx) {
    struct block_req *req = ctx;
    req->done(req, -ERR_NOMEM);
}

static void file_submit(struct block_backend *be, struct block_req *req) {
    struct blk_file *f = file_of(be);
    struct blk_job *job = calloc(1, sizeof(*job));
    if (job) {
        *job = (struct blk_job){.pool.fn = job_run, .file = f, .req = req};
        __atomic_fetch_add(&f->in_flight, 1, __ATOMIC_RELAXED);
        if (!pool_submit(f->lh->pool, &job->pool)) {
            return; /* the job belongs to the pool now */
        }
        job->status = -ERR_NOMEM;
        job_finish(job);
        return;
    }
    loop_post(f->lh->loop, failed_now, req);
}

/* Does not need the event thread, which may itself be waiting for the vCPU that drains. */
static void file_drain(struct block_backend *be) {
    struct blk_file *f = file_of(be);
    for (;;) {
        call_back(f);
        if (!__atomic_load_n(&f->in_flight, __ATOMIC_ACQUIRE)) {
            break;
        }
        usleep(100);
    }
}

static void file_close(struct block_backend *be) {
    struct blk_file *f = file_of(be);
    file_drain(be);
    loop_forget(f->lh->loop, f);
    pthread_mutex_destroy(&f->lock);
    close(f->fd);
    free(f);
}

static const struct block_backend_ops file_ops = {
    .submit = file_submit, .drain = file_drain, .close = file_close};

static int file_lock(int fd, bool readonly) {
    struct flock lock = {.l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static int file_size(int fd, const struct stat *st, u64 *size) {
    if (S_ISBLK(st->st_mode)) {
        return ioctl(fd, BLKGETSIZE64, size);
    }
    *size = (u64)st->st_size;
    return 0;
}

/* Everything that can be wrong with the path, in words. */
static int file_check(int fd, const char *path, bool readonly, u64 *size, struct err *err) {
    struct stat st;
    if (fstat(fd, &st)) {
        return ERR_SET(err, ERR_IO, "disk %s: %s", path, strerror(errno));
    }
    if (S_ISDIR(st.st_mode)) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is a directory, not an image file", path);
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is neither a file nor a block device", path);
    }
    if (file_size(fd, &st, size)) {
        return ERR_SET(err, ERR_IO, "disk %s: %s", path, strerror(errno));
    }
    if (*size < SECTOR) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is empty; make it at least 512 bytes", path);
    }
    if (file_lock(fd, readonly)) {
        bool used = errno == EAGAIN || errno == EACCES;
        return ERR_SET(err, ERR_STATE, "disk %s: %s", path,
                       used ? "in use by another machine" : strerror(errno));
    }
    return 0;
}

int blk_file_open(struct linux_host *lh, const char *path, bool readonly,
                  struct block_backend **out, struct err *err) {
    u64 size = 0;
    int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EISDIR) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is a directory, not an image file", path);
    }
    if (fd < 0) {
        return ERR_SET(err, ERR_NOTFOUND, "disk %s: %s", path, strerror(errno));
    }
    int rc = file_check(fd, path, readonly, &size, err);
    struct blk_file *f = rc ? NULL : calloc(1, sizeof(*f));
    if (!f) {
        close(fd);
        return rc ? rc : ERR_SET(err, ERR_NOMEM, "disk %s: out of memory", path);
    }
    *f = (struct blk_file){.lh = lh, .fd = fd};
    pthread_mutex_init(&f->lock, NULL);
    f->be = (struct block_backend){.ops = &file_ops,
                                   .capacity = ALIGN_DOWN(size, (u64)SECTOR),
                                   .block_size = SECTOR,
                                   .readonly = readonly,
                                   .discard = !readonly,
                                   .write_zeroes = !readonly};
    *out = &f->be;
    return 0;
}
