/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices are connected to: block storage, a network, a character stream, sockets.
 * Asynchronous with completion callbacks, so that a file on Linux and an NVMe queue on bare metal
 * look the same. Callbacks run on the host's event thread with no lock held.
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
    /* One frame with its struct net_hdr (core/base/packet.h) in front when be->vnet_hdr; the header
     * has been checked against the frame. Returns 0, or -ERR_AGAIN when the queue is full (call
     * again after writable). Called with the board lock held: it must not wait. */
    int (*send)(struct net_backend *be, const struct iov *iov, u32 count);
    /* The VIRTIO_NET_F_GUEST_* that the driver accepted. A back end without this function may
     * deliver anything of `offloads`: the device does in software what its driver does not know. */
    void (*set_offloads)(struct net_backend *be, u64 offloads);
    /* There is room again for a frame that receive refused. Board lock held. */
    void (*rx_ready)(struct net_backend *be);
    /* Optional. A device is connected (receive, writable and device are filled): callbacks may
     * come from now on, on any one thread of the host, with no lock held. */
    void (*start)(struct net_backend *be);
    /* Optional. No lock held: returns when no callback is running, and none comes any more. */
    void (*stop)(struct net_backend *be);
    void (*close)(struct net_backend *be);
};

/* A back end may also stand between a device and another back end (to answer some frames itself):
 * it is the device of the one behind it. */
struct net_backend {
    const struct net_backend_ops *ops;
    bool vnet_hdr;
    u64 offloads; /* VIRTIO_NET_F_* bits that the back end can handle; with vnet_hdr only */
    int (*receive)(void *device, const struct iov *iov,
                   u32 count); /* 0, or -ERR_AGAIN: no buffer */
    void (*writable)(void *device);
    /* The cable was plugged or pulled: the peer came or went. */
    void (*link)(void *device, bool up);
    void *device;
};

/* --- stream sockets of the host (vsock) --------------------------------------------------------
 */

struct vsock_backend;
/* A connection of the host is a number below `max`: one that connect returned or incoming brought,
 * until close. With the board lock held, from any thread, unless noted; none may wait. */
struct vsock_backend_ops {
    /* Begins to connect to what the host offers to the guest as `port`; connected() tells how it
     * went. The number of the connection, or negative: none is left. */
    int (*connect)(struct vsock_backend *be, u32 port);
    /* The guest took what incoming() brought; host_port is this side's name in the guest. */
    void (*accepted)(struct vsock_backend *be, u32 sock, u32 host_port);
    /* Bytes; 0 from read: the other side sends no more. -ERR_AGAIN: nothing now, event() follows.
     * -ERR_IO: the other side is gone (read), or takes no more (write). */
    s64 (*read)(struct vsock_backend *be, u32 sock, const struct iov *iov, u32 count);
    s64 (*write)(struct vsock_backend *be, u32 sock, const struct iov *iov, u32 count);
    /* The other side has closed both directions; what it sent can still be read. */
    bool (*hung_up)(struct vsock_backend *be, u32 sock);
    /* The guest receives (sends) no more. */
    void (*shutdown)(struct vsock_backend *be, u32 sock, bool receive, bool send);
    void (*close)(struct vsock_backend *be, u32 sock);
    /* A device is connected (all below is filled): callbacks may come. No lock held. */
    void (*start)(struct vsock_backend *be);
    /* No lock held: returns when no callback is running, and none comes any more. */
    void (*stop)(struct vsock_backend *be);
    /* After stop. Frees it. */
    void (*destroy)(struct vsock_backend *be);
};

struct vsock_backend {
    const struct vsock_backend_ops *ops;
    u32 max; /* connections at a time, at most 4096 */
    /* On the event thread, no lock held. Somebody wants to talk to the guest's `port`. */
    void (*incoming)(void *device, u32 sock, u32 port);
    void (*connected)(void *device, u32 sock, bool ok);
    /* It may be readable or writable again, or hung up. May come for nothing. */
    void (*event)(void *device, u32 sock);
    void *device;
};

#endif
