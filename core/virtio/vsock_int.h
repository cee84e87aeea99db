/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the socket device share.
 *
 *   guest -> TX queue -> vsock_tx.c: packet -> connection -> host socket, or the connection's
 * buffer host socket -> event -> ready list -> vsock_rx.c: one packet per connection in turn -> RX
 * queue
 *
 * A connection has the number that the back end gave its socket.
 *
 *            REQUEST                 connected, RESPONSE sent
 *   FREE ---------------> DIALLING -------------------------> OPEN --- guest's RST, data left -->
 * DRAIN |                                                        ^ | |
 *    +-- incoming -> OFFERED (REQUEST sent) -- RESPONSE ------+ +-- over: RST to be sent | ^ | v |
 *    +------------------+----------------------------------- CLOSING |
 *    +---------------------------------------------------------------------------------------------+
 *
 * Credit (5.10.6.3), with counters that wrap: the guest may send VSOCK_BUF - (received -
 * forwarded), where forwarded counts what the host's socket took; we may send peer_alloc - (sent -
 * peer_fwd).
 */
#ifndef CORE_VIRTIO_VSOCK_INT_H
#define CORE_VIRTIO_VSOCK_INT_H

#include "core/virtio/vsock.h"

enum { VSOCK_RX = 0, VSOCK_TX = 1, VSOCK_EVENT = 2, VSOCK_QUEUES = 3, VSOCK_QUEUE_SIZE = 128 };

enum {
    VSOCK_BUF = 128 * 1024, /* what a connection may have on its way to the host */
    VSOCK_ORPHANS = 64,     /* RSTs to be sent for connections that do not exist */
    VSOCK_BUCKETS = 256,
    VSOCK_MAX = 4096,
};

#define VSOCK_OFFER_NS (10 * NSEC_PER_SEC) /* for the guest to answer a REQUEST */
#define VSOCK_CLOSE_NS                                                                             \
    (8 * NSEC_PER_SEC) /* for the guest to answer a SHUTDOWN, as Linux has it                      \
                        */
#define VSOCK_TICK_NS NSEC_PER_SEC

enum vsock_op {
    OP_REQUEST = 1,
    OP_RESPONSE,
    OP_RST,
    OP_SHUTDOWN,
    OP_RW,
    OP_CREDIT_UPDATE,
    OP_CREDIT_REQUEST,
};

enum { VSOCK_TYPE_STREAM = 1, SHUT_RECEIVE = 1, SHUT_SEND = 2, SHUT_BOTH = 3 };

struct vsock_hdr { /* 5.10.6 */
    u64 src_cid, dst_cid;
    u32 src_port, dst_port;
    u32 len;
    u16 type, op;
    u32 flags;
    u32 buf_alloc, fwd_cnt;
} PACKED;
_Static_assert(sizeof(struct vsock_hdr) == 44, "struct virtio_vsock_hdr");

enum vsock_state { CONN_FREE, CONN_DIALLING, CONN_OFFERED, CONN_OPEN, CONN_CLOSING, CONN_DRAIN };

/* What is to be sent to the guest. */
enum {
    SEND_RST = 1,
    SEND_REQUEST = 2,
    SEND_RESPONSE = 4,
    SEND_CREDIT_REQUEST = 8,
    SEND_DATA = 16, /* the host's socket may have some */
    SEND_SHUTDOWN = 32,
    SEND_CREDIT = 64,
};

struct vsock_conn {
    u8 state;                 /* enum vsock_state */
    u8 pending;               /* SEND_* */
    bool queued;              /* is in the ready list */
    bool asked;               /* CREDIT_REQUEST was sent since the last packet */
    u8 guest_shut, host_shut; /* SHUT_*: what that side does no more */
    u16 next;                 /* of its bucket: number + 1 */
    u32 guest_port, host_port;
    u32 received, forwarded, told; /* guest to host; told: forwarded as the guest knows it */
    u32 sent, peer_alloc, peer_fwd;
    u8 *buf; /* VSOCK_BUF bytes, when the host's socket did not take all; else NULL */
    u32 head, used;
    u64 deadline; /* host clock; HOST_FOREVER: none */
};

struct vsock_orphan {
    u64 dst_cid; /* whom the guest had addressed */
    u32 guest_port, host_port;
};

struct virtio_vsock {
    struct virtio_device vdev;
    struct vsock_backend *be;
    struct host_timer *timer; /* runs without the lock */
    u64 cid;
    struct vsock_conn *conn; /* be->max of them */
    u16 *ready;              /* a ring of as many */
    u32 ready_first, ready_count;
    u16 bucket[VSOCK_BUCKETS]; /* number + 1 */
    struct vsock_orphan orphan[VSOCK_ORPHANS];
    u32 orphans;
    bool tx_stalled;    /* the TX queue waits for room there */
    bool event_due;     /* TRANSPORT_RESET is to be told */
    u32 next_host_port; /* names of the host's programs that connect */
    struct virtio_vsock_stats stats;
    struct vq_chain chain;
    struct iov iov[VQ_SEGS_MAX];
};

static inline struct virtio_vsock *vsock_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_vsock, vdev);
}

/* vsock.c: connections. The board lock is held. */
struct vsock_conn *vsock_find(struct virtio_vsock *v, u32 guest_port, u32 host_port);
u32 vsock_number(const struct virtio_vsock *v, const struct vsock_conn *c);
void vsock_conn_begin(struct virtio_vsock *v, u32 n, enum vsock_state state, u32 guest_port,
                      u32 host_port);
/* Forgets it and closes its socket. */
void vsock_conn_free(struct virtio_vsock *v, struct vsock_conn *c);
/* Ends it with a RST to the guest. */
void vsock_conn_reset(struct virtio_vsock *v, struct vsock_conn *c);
/* The guest knows it no more; what it had sent still goes to the host. */
void vsock_conn_drain(struct virtio_vsock *v, struct vsock_conn *c);
/* Adds to what is to be sent, and takes it up in the ready list. */
void vsock_conn_send(struct virtio_vsock *v, struct vsock_conn *c, u32 what);
void vsock_conn_deadline(struct virtio_vsock *v, struct vsock_conn *c, u64 ns);
/* The host's side sends (takes) no more: SHUT_*. */
void vsock_host_shut(struct virtio_vsock *v, struct vsock_conn *c, u32 flags);

/* vsock_tx.c */
/* Takes packets from the guest; true: there may be more. */
bool vsock_tx_run(struct virtio_vsock *v);
/* Buffered data to the host's socket, and what follows from its being empty. */
void vsock_flush(struct virtio_vsock *v, struct vsock_conn *c);

/* vsock_rx.c */
/* Packets to the guest as long as there are buffers; true: there may be more. */
bool vsock_rx_run(struct virtio_vsock *v);

#endif
