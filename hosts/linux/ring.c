/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_uring, one ring per disk: reads, writes and fdatasync without a thread of ours in between. The
 * ring's own descriptor is watched by the event loop; who drains reaps by itself. One lock for both
 * queues: they are short, and it orders what one thread put into an operation before what another
 * one reads from it.
 */
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hosts/linux/host.h"
#include "hosts/linux/ring.h"

struct ring {
    struct io_uring uring;
    pthread_mutex_t lock;
    u32 in_flight; /* never more than RING_DEPTH, so that completions always have room */
};

/* No filter of system calls sees what a ring does: it may do only what this file does (Linux 5.10).
 * Else an intruder could open files and sockets with it. */
static int restrict_operations(struct io_uring *uring) {
    static const u8 ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_NOP};
    struct io_uring_restriction allow[ARRAY_LEN(ops)] = {0};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        allow[i].opcode = IORING_RESTRICTION_SQE_OP;
        allow[i].sqe_op = ops[i];
    }
    /* Debian 12's liburing declares calls for these two and lacks them */
    long rc = syscall(SYS_io_uring_register, uring->ring_fd, IORING_REGISTER_RESTRICTIONS, allow,
                      ARRAY_LEN(allow));
    rc = rc ? rc
            : syscall(SYS_io_uring_register, uring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return (int)rc;
}

struct ring *ring_create(void) {
    struct ring *r = calloc(1, sizeof(*r));
    if (r && io_uring_queue_init(RING_DEPTH, &r->uring, IORING_SETUP_R_DISABLED)) {
        free(r);
        return NULL;
    }
    if (r && restrict_operations(&r->uring)) {
        io_uring_queue_exit(&r->uring);
        free(r);
        return NULL;
    }
    if (r) {
        pthread_mutex_init(&r->lock, NULL);
    }
    return r;
}

void ring_destroy(struct ring *r) {
    if (r) {
        io_uring_queue_exit(&r->uring);
        pthread_mutex_destroy(&r->lock);
        free(r);
    }
}

int ring_fd(struct ring *r) {
    return r->uring.ring_fd;
}

static void prepare(struct io_uring_sqe *sqe, struct ring_op *op) {
    const struct iovec *v = (const struct iovec *)(const void *)op->iov;
    if (op->op == BLOCK_READ) {
        io_uring_prep_readv(sqe, op->fd, v, op->iov_count, op->offset);
    } else if (op->op == BLOCK_WRITE) {
        io_uring_prep_writev(sqe, op->fd, v, op->iov_count, op->offset);
    } else {
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
    }
    io_uring_sqe_set_data(sqe, op);
}

/* An entry that the kernel did not take must not stay in the queue, to be taken later: it becomes
 * one that nobody waits for. */
static int submit_locked(struct ring *r, struct ring_op *op) {
    struct io_uring_sqe *sqe = r->in_flight < RING_DEPTH ? io_uring_get_sqe(&r->uring) : NULL;
    if (!sqe) {
        return -ERR_AGAIN;
    }
    prepare(sqe, op);
    int n = io_uring_submit(&r->uring);
    if (n < 0 && io_uring_sq_ready(&r->uring)) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, NULL);
        return -ERR_IO;
    }
    r->in_flight++;
    return 0;
}

int ring_submit(struct ring *r, struct ring_op *op) {
    pthread_mutex_lock(&r->lock);
    int rc = submit_locked(r, op);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

struct ring_op *ring_reap(struct ring *r) {
    struct ring_op *first = NULL, **tail = &first;
    struct io_uring_cqe *cqe;
    pthread_mutex_lock(&r->lock);
    while (!io_uring_peek_cqe(&r->uring, &cqe)) {
        struct ring_op *op = io_uring_cqe_get_data(cqe);
        if (op) {
            op->result = cqe->res;
            op->next = NULL;
            *tail = op;
            tail = &op->next;
            r->in_flight--;
        }
        io_uring_cqe_seen(&r->uring, cqe);
    }
    pthread_mutex_unlock(&r->lock);
    return first;
}
