/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices are connected to: block storage, a network, a character stream. Asynchronous with
 * completion callbacks, so that a file on Linux and an NVMe queue on bare metal look the same.
 * Callbacks run on the host's event thread with no lock held.
 */
#ifndef CORE_IF_BACKEND_H
#define CORE_IF_BACKEND_H

#include "core/base/types.h"

struct iov {
    void *base;
    size_t len;
};

/* --- block -------------------------------------------------------------------------------------
 */

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_req {
    enum block_op op;
    u64 offset;            /* bytes; a multiple of 512 */
    u64 length;            /* bytes; the sum of iov for reads and writes */
    const struct iov *iov; /* stays valid until done */
    u32 iov_count;
    /* status 0 or -ERR_IO, -ERR_NOSPACE, -ERR_UNSUPPORTED, -ERR_RANGE, -ERR_PERM. Never called
     * before submit returns. */
    void (*done)(struct block_req *req, int status);
};

struct block_backend;
struct block_backend_ops {
    void (*submit)(struct block_backend *be, struct block_req *req);
    /* Optional (may be NULL): does the request at once when that needs no waiting (a read from the
     * host's cache). True: finished with *status, done is not called. False: submit it. */
    bool (*attempt)(struct block_backend *be, struct block_req *req, int *status);
    /* Returns when no request is in flight and all callbacks have returned; some of them may run
     * on this thread. Must not need the event thread: that may be waiting for the caller. */
    void (*drain)(struct block_backend *be);
    void (*close)(struct block_backend *be);
};

struct block_backend {
    const struct block_backend_ops *ops;
    u64 capacity;   /* bytes, a multiple of 512 */
    u32 block_size; /* logical block in bytes, 512 or 4096 */
    bool readonly;
    bool discard;      /* BLOCK_DISCARD is supported */
    bool write_zeroes; /* BLOCK_WRITE_ZEROES is supported */
};

/* --- character stream (serial ports, console) --------------------------------------------------
 */

struct char_backend;
struct char_backend_ops {
    /* Takes up to len bytes to send; returns how many were taken (fewer: try after writable). */
    size_t (*write)(struct char_backend *be, const u8 *data, size_t len);
    /* The device has room again: input that was refused may be offered once more. */
    void (*rx_ready)(struct char_backend *be);
    void (*close)(struct char_backend *be);
};

struct char_backend {
    const struct char_backend_ops *ops;
    /* Filled by the device that is attached; may be NULL. Called on the event thread, no lock held.
     */
    size_t (*receive)(void *device, const u8 *data, size_t len); /* returns how many it took */
    void (*writable)(void *device);
    void *device;
};

/* --- network -----------------------------------------------------------------------------------
 */

struct net_backend;
struct net_backend_ops {
    /* One frame with its virtio_net_hdr (12 bytes, virtio 1.2 section 5.1.6) in front when
     * be->vnet_hdr. Returns 0, or -ERR_AGAIN when the queue is full (call again after writable). */
    int (*send)(struct net_backend *be, const struct iov *iov, u32 count);
    /* The VIRTIO_NET_F_* of `offloads` that the driver accepted: frames it receives must need no
     * others. May be NULL when offloads is 0. */
    void (*set_offloads)(struct net_backend *be, u64 offloads);
    void (*rx_ready)(struct net_backend *be);
    void (*close)(struct net_backend *be);
};

struct net_backend {
    const struct net_backend_ops *ops;
    bool vnet_hdr;
    u64 offloads; /* VIRTIO_NET_F_* bits that the backend can handle */
    int (*receive)(void *device, const struct iov *iov,
                   u32 count); /* 0, or -ERR_AGAIN: no buffer */
    void (*writable)(void *device);
    void *device;
};

#endif
