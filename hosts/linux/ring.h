/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring for disk images; see ring.c. */
#ifndef HOSTS_LINUX_RING_H
#define HOSTS_LINUX_RING_H

#include "core/if/backend.h"

struct ring;

struct ring_op {
    enum block_op op; /* BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH */
    int fd;
    u64 offset;
    const struct iov *iov; /* at most RING_IOV; stays valid until reaped */
    u32 iov_count;
    s64 result; /* bytes, or -errno */
    struct ring_op *next;
};

enum { RING_IOV = 1024, RING_DEPTH = 128 };

/* NULL where the kernel has no io_uring or does not let us (seccomp, sysctl). */
struct ring *ring_create(void);
void ring_destroy(struct ring *r);
/* Readable when something can be reaped. */
int ring_fd(struct ring *r);
/* 0, or negative: the ring is full or gone; do it otherwise. */
int ring_submit(struct ring *r, struct ring_op *op);
/* What has finished, oldest first; NULL: nothing. */
struct ring_op *ring_reap(struct ring *r);

#endif
