/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio block device: virtio 1.2, section 5.2. */
#ifndef CORE_VIRTIO_BLK_H
#define CORE_VIRTIO_BLK_H

#include "core/virtio/virtio.h"

struct virtio_blk_opts {
    const char *serial; /* up to 20 characters for GET_ID; NULL: none */
    u32 queues;         /* 1..VIRTIO_QUEUES_MAX; 0 means 1 */
    bool readonly;      /* also when the back end is */
};

/* Requests that the back end was given and has done. */
struct virtio_blk_stats {
    u64 reads, writes, flushes, discards; /* write zeroes count as discards */
    u64 read_bytes, write_bytes;          /* of those that went well */
    u64 errors;
};

/* opts may be NULL. The back end stays open when the device is destroyed. */
struct virtio_device *virtio_blk_create(struct device_env *env, struct block_backend *backend,
                                        const struct virtio_blk_opts *opts, struct err *err);

/* Another back end for a device that may be running: waits for requests at the old one, which the
 * caller then closes, and tells the driver the new capacity. -ERR_INVAL: it has another block size
 * or can only be read where the old one could be written. No lock held; not on a vCPU thread. */
int virtio_blk_change(struct virtio_device *vdev, struct block_backend *backend, struct err *err);

/* Board lock not needed: each counter is of some moment. */
void virtio_blk_get_stats(struct virtio_device *vdev, struct virtio_blk_stats *out);

#endif
