/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket device, to the guest: virtio 1.2, section 5.10.6. One packet per connection in turn,
 * so that one that sends much does not hold up the others; data is read from the host's socket
 * straight into guest memory, so nothing of it is kept here, and only as much as the guest has
 * credit for. Lock rule: board lock held.
 */
#include "core/base/err.h"
#include "core/virtio/vsock_int.h"

static struct vsock_hdr header(const struct virtio_vsock *v, struct vsock_conn *c, u16 op) {
    c->told = c->forwarded; /* every packet carries the credit */
    c->pending &= (u8)~SEND_CREDIT;
    return (struct vsock_hdr){.src_cid = VSOCK_CID_HOST,
                              .dst_cid = v->cid,
                              .src_port = c->host_port,
                              .dst_port = c->guest_port,
                              .type = VSOCK_TYPE_STREAM,
                              .op = op,
                              .buf_alloc = VSOCK_BUF,
                              .fwd_cnt = c->forwarded};
}

static u32 put_header(struct virtio_vsock *v, const struct vsock_hdr *h) {
    return (u32)vq_chain_write(v->vdev.env->ram, &v->chain, 0, h, sizeof(*h));
}

static u32 peer_free(const struct vsock_conn *c) {
    u32 out = c->sent - c->peer_fwd;
    return out < c->peer_alloc ? c->peer_alloc - out : 0;
}

/* The host's side has said its last word, or is gone. */
static void end_of_data(struct virtio_vsock *v, struct vsock_conn *c, bool gone) {
    c->pending &= (u8)~SEND_DATA;
    bool both = gone || v->be->ops->hung_up(v->be, vsock_number(v, c));
    vsock_host_shut(v, c, both ? SHUT_BOTH : SHUT_SEND);
}

/* A packet with data into the chain; its length, or 0 with SEND_DATA cleared or left waiting for
 * credit. */
static u32 put_data(struct virtio_vsock *v, struct vsock_conn *c) {
    u64 room = v->chain.in_len - sizeof(struct vsock_hdr);
    u32 len = (u32)MIN(room, (u64)peer_free(c));
    if (!len) {
        c->pending |= c->asked ? 0 : SEND_CREDIT_REQUEST;
        return 0;
    }
    u32 count = vq_chain_in(&v->chain, sizeof(struct vsock_hdr), len, v->iov, NULL);
    s64 n = v->be->ops->read(v->be, vsock_number(v, c), v->iov, count);
    if (n == -ERR_AGAIN) {
        c->pending &= (u8)~SEND_DATA;
        return 0;
    }
    if (n <= 0 || n > len) {
        end_of_data(v, c, n != 0);
        return 0;
    }
    struct vsock_hdr h = header(v, c, OP_RW);
    h.len = (u32)n;
    c->sent += (u32)n;
    v->stats.rx_bytes += (u64)n;
    vq_chain_written(v->vdev.env->ram, &v->chain, sizeof(h) + (u64)n);
    return put_header(v, &h) + (u32)n;
}

static bool take(struct vsock_conn *c, u8 what) {
    bool is = c->pending & what;
    c->pending &= (u8)~what;
    return is;
}

/* The next packet without data: its operation, or 0. */
static u16 control_op(struct vsock_conn *c) {
    if (take(c, SEND_REQUEST)) {
        return OP_REQUEST;
    }
    if (take(c, SEND_RESPONSE)) {
        return OP_RESPONSE;
    }
    if (take(c, SEND_CREDIT_REQUEST)) {
        c->asked = true;
        return OP_CREDIT_REQUEST;
    }
    if (take(c, SEND_SHUTDOWN)) {
        return OP_SHUTDOWN;
    }
    return take(c, SEND_CREDIT) ? OP_CREDIT_UPDATE : 0;
}

static u32 put_control(struct virtio_vsock *v, struct vsock_conn *c, u16 op) {
    struct vsock_hdr h = header(v, c, op);
    h.flags = op == OP_SHUTDOWN ? c->host_shut : 0;
    if (op == OP_SHUTDOWN && c->host_shut == SHUT_BOTH) {
        vsock_conn_deadline(v, c, VSOCK_CLOSE_NS);
    }
    return put_header(v, &h);
}

/* Fills the chain with one packet of the connection; 0: it had none to send after all. */
static u32 put_packet(struct virtio_vsock *v, struct vsock_conn *c) {
    if (c->pending & SEND_RST) {
        struct vsock_hdr h = header(v, c, OP_RST);
        vsock_conn_free(v, c);
        return put_header(v, &h);
    }
    /* what asks and answers goes first, the end of data behind the data */
    u8 first = SEND_REQUEST | SEND_RESPONSE | SEND_CREDIT_REQUEST;
    u32 len = 0;
    if (!(c->pending & first) && (c->pending & SEND_DATA) && c->state == CONN_OPEN) {
        len = put_data(v, c);
    }
    u16 op = len || c->state == CONN_FREE ? 0 : control_op(c);
    return op ? put_control(v, c, op) : len;
}

static u32 put_orphan(struct virtio_vsock *v) {
    const struct vsock_orphan *o = &v->orphan[0];
    struct vsock_hdr h = {.src_cid = o->dst_cid,
                          .dst_cid = v->cid,
                          .src_port = o->host_port,
                          .dst_port = o->guest_port,
                          .type = VSOCK_TYPE_STREAM,
                          .op = OP_RST};
    memmove(&v->orphan[0], &v->orphan[1], --v->orphans * sizeof(v->orphan[0]));
    return put_header(v, &h);
}

/* Data that waits for credit is looked at again when the guest says something. */
static bool may_go_on(const struct vsock_conn *c) {
    return c->state != CONN_FREE &&
           ((c->pending & ~SEND_DATA) ||
            ((c->pending & SEND_DATA) && c->state == CONN_OPEN && (peer_free(c) || !c->asked)));
}

static u32 put_ready(struct virtio_vsock *v) {
    struct vsock_conn *c = &v->conn[v->ready[v->ready_first]];
    v->ready_first = (v->ready_first + 1) % v->be->max;
    v->ready_count--;
    c->queued = false;
    u32 len = put_packet(v, c);
    if (may_go_on(c)) {
        vsock_conn_send(v, c, 0);
    }
    return len;
}

/* One packet; false: no buffer, or a bad one. */
static bool send_one(struct virtio_vsock *v, u32 *done, int *got) {
    struct virtio_device *vdev = &v->vdev;
    *got = virtio_pop(vdev, VSOCK_RX, &v->chain);
    if (*got <= 0) {
        return false;
    }
    if (v->chain.in_len <= sizeof(struct vsock_hdr)) {
        virtio_needs_reset(vdev, "a receive buffer without room for a packet");
        *got = -ERR_FORMAT;
        return false;
    }
    u32 len = v->orphans ? put_orphan(v) : put_ready(v);
    if (len) {
        virtio_push(vdev, VSOCK_RX, v->chain.head, len);
        v->stats.rx_packets++;
        (*done)++;
    } else {
        vq_unpop(&vdev->queue[VSOCK_RX].vq, v->chain.head, v->chain.redone);
    }
    return true;
}

bool vsock_rx_run(struct virtio_vsock *v) {
    struct virtio_device *vdev = &v->vdev;
    struct vq *vq = &vdev->queue[VSOCK_RX].vq;
    u32 done = 0, steps = 0;
    int got = 1;
    if (!virtio_queue_ready(vdev, VSOCK_RX)) {
        return false;
    }
    vq_notify_off(vq);
    while ((v->orphans || v->ready_count) && steps++ < 2u * vq->size && send_one(v, &done, &got)) {
    }
    if (done) {
        virtio_signal(vdev, VSOCK_RX);
    }
    bool left = v->orphans || v->ready_count;
    return got >= 0 && ((left && got > 0) || (vq_notify_on(vq) && left));
}
