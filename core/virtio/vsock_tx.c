/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket device, from the guest: virtio 1.2, sections 5.10.6.4 to 5.10.6.6. A packet that
 * belongs to no connection, or is not allowed in its state, is answered with RST; when as many
 * answers wait as we remember, no further packets are taken. Data goes to the host's socket at
 * once, as far as that takes it, and the rest into the connection's buffer, which is as large as
 * the credit that the guest was given. Left out: seqpacket. Lock rule: board lock held.
 */
#include "core/base/err.h"
#include "core/virtio/vsock_int.h"

/* --- data to the host ------------------------------------------------------------------------- */

static u8 *buf_get(struct virtio_vsock *v, struct vsock_conn *c) {
    if (!c->buf) {
        c->buf = host_alloc(v->vdev.env->host, VSOCK_BUF);
        c->head = c->used = 0;
    }
    return c->buf;
}

/* What the socket did not take: offset bytes of the packet's data are with the host already. */
static bool buf_append(struct virtio_vsock *v, struct vsock_conn *c, u64 offset, u32 len) {
    u8 *buf = buf_get(v, c);
    if (!buf) {
        return false;
    }
    while (len) {
        u32 at = (c->head + c->used) % VSOCK_BUF;
        u32 n = MIN(len, VSOCK_BUF - at);
        vq_chain_read(&v->chain, sizeof(struct vsock_hdr) + offset, buf + at, n);
        c->used += n;
        offset += n;
        len -= n;
    }
    return true;
}

/* Nobody will read what the guest sends: it counts as forwarded. */
static void buf_drop(struct virtio_vsock *v, struct vsock_conn *c) {
    host_free(v->vdev.env->host, c->buf, VSOCK_BUF);
    c->buf = NULL;
    c->forwarded += c->used;
    c->head = c->used = 0;
}

/* Tells the guest before it can run out of credit. */
static void credit_check(struct virtio_vsock *v, struct vsock_conn *c) {
    if (c->state == CONN_OPEN && c->received - c->told > VSOCK_BUF / 2 && c->forwarded != c->told) {
        vsock_conn_send(v, c, SEND_CREDIT);
    }
}

/* All that the guest sent is with the host. */
static void flushed(struct virtio_vsock *v, struct vsock_conn *c) {
    buf_drop(v, c);
    if (c->state == CONN_DRAIN) {
        vsock_conn_free(v, c);
    } else if (c->guest_shut == SHUT_BOTH) {
        vsock_conn_reset(v, c);
    } else if (c->guest_shut & SHUT_SEND) {
        v->be->ops->shutdown(v->be, vsock_number(v, c), false, true);
    }
}

static s64 buf_write(struct virtio_vsock *v, struct vsock_conn *c) {
    u32 first = MIN(c->used, VSOCK_BUF - c->head);
    const struct iov iov[2] = {{c->buf + c->head, first}, {c->buf, c->used - first}};
    return v->be->ops->write(v->be, vsock_number(v, c), iov, c->used > first ? 2 : 1);
}

void vsock_flush(struct virtio_vsock *v, struct vsock_conn *c) {
    while (c->used) {
        s64 n = buf_write(v, c);
        if (n == -ERR_AGAIN) {
            break;
        }
        if (n <= 0 || n > c->used) {
            buf_drop(v, c);
            vsock_host_shut(v, c, SHUT_RECEIVE);
            break;
        }
        c->head = (c->head + (u32)n) % VSOCK_BUF;
        c->used -= (u32)n;
        c->forwarded += (u32)n;
    }
    if (!c->used && (c->buf || c->state == CONN_DRAIN)) {
        flushed(v, c);
    }
    if (c->state != CONN_FREE) {
        credit_check(v, c);
    }
}

/* Straight from guest memory when nothing waits before it; the bytes that went. Negative: the
 * host's side takes no more. */
static s64 write_through(struct virtio_vsock *v, struct vsock_conn *c, u32 len) {
    if (c->used) {
        return 0;
    }
    u32 count = vq_chain_out(&v->chain, sizeof(struct vsock_hdr), len, v->iov);
    s64 n = v->be->ops->write(v->be, vsock_number(v, c), v->iov, count);
    return n == -ERR_AGAIN ? 0 : n > len ? -ERR_IO : n;
}

static void violation(struct virtio_vsock *v, struct vsock_conn *c) {
    v->stats.violations++;
    vsock_conn_reset(v, c);
}

static void take_data(struct virtio_vsock *v, struct vsock_conn *c, u32 len) {
    if (c->state != CONN_OPEN || (c->guest_shut & SHUT_SEND) ||
        len > VSOCK_BUF - (c->received - c->told)) {
        violation(v, c); /* out of turn, or more than it was given credit for */
        return;
    }
    c->received += len;
    v->stats.tx_bytes += len;
    if (c->host_shut & SHUT_RECEIVE) {
        c->forwarded += len;
        credit_check(v, c);
        return;
    }
    s64 n = len ? write_through(v, c, len) : 0;
    if (n < 0) {
        c->forwarded += len;
        vsock_host_shut(v, c, SHUT_RECEIVE);
        return;
    }
    c->forwarded += (u32)n;
    if ((u32)n < len && !buf_append(v, c, (u64)n, len - (u32)n)) {
        vsock_conn_reset(v, c); /* no memory */
        return;
    }
    credit_check(v, c);
}

/* --- packets ---------------------------------------------------------------------------------- */

static void orphan(struct virtio_vsock *v, const struct vsock_hdr *h) {
    if (h->op != OP_RST && v->orphans < VSOCK_ORPHANS) {
        v->orphan[v->orphans++] = (struct vsock_orphan){
            .dst_cid = h->dst_cid, .guest_port = h->src_port, .host_port = h->dst_port};
    }
}

static void take_request(struct virtio_vsock *v, const struct vsock_hdr *h) {
    int n = v->be->ops->connect(v->be, h->dst_port);
    if (n < 0 || (u32)n >= v->be->max) {
        v->stats.refused++;
        orphan(v, h);
        return;
    }
    vsock_conn_begin(v, (u32)n, CONN_DIALLING, h->src_port, h->dst_port);
    v->conn[n].peer_alloc = h->buf_alloc;
    v->conn[n].peer_fwd = h->fwd_cnt;
}

static void take_response(struct virtio_vsock *v, struct vsock_conn *c) {
    if (c->state != CONN_OFFERED || (c->pending & SEND_REQUEST)) {
        violation(v, c);
        return;
    }
    c->state = CONN_OPEN;
    v->stats.opened++;
    vsock_conn_deadline(v, c, 0);
    v->be->ops->accepted(v->be, vsock_number(v, c), c->host_port);
    vsock_conn_send(v, c, SEND_DATA);
}

static void take_shutdown(struct virtio_vsock *v, struct vsock_conn *c, u32 flags) {
    if (c->state != CONN_OPEN) {
        violation(v, c);
        return;
    }
    u8 more = (u8)(flags & SHUT_BOTH & ~(u32)c->guest_shut);
    c->guest_shut |= more;
    if (more & SHUT_RECEIVE) {
        c->pending &= (u8)~SEND_DATA;
        v->be->ops->shutdown(v->be, vsock_number(v, c), true, false);
    }
    if (!c->used && more) {
        flushed(v, c);
    }
}

/* It has no answer. An offer is refused by it; what is buffered still belongs to the host. */
static void take_rst(struct virtio_vsock *v, struct vsock_conn *c) {
    v->stats.refused += c->state == CONN_OFFERED;
    vsock_conn_drain(v, c);
}

static void take_packet(struct virtio_vsock *v, struct vsock_conn *c, const struct vsock_hdr *h) {
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->asked = false;
    if (c->pending & SEND_DATA) { /* it may have waited for credit */
        vsock_conn_send(v, c, SEND_DATA);
    }
    switch (h->op) {
    case OP_RESPONSE:
        take_response(v, c);
        break;
    case OP_RST:
        take_rst(v, c);
        break;
    case OP_SHUTDOWN:
        take_shutdown(v, c, h->flags);
        break;
    case OP_RW:
        take_data(v, c, h->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        vsock_conn_send(v, c, SEND_CREDIT);
        break;
    default: /* a second REQUEST, or nothing known */
        violation(v, c);
        break;
    }
}

static void take_chain(struct virtio_vsock *v) {
    struct vsock_hdr h;
    if (vq_chain_read(&v->chain, 0, &h, sizeof(h)) != sizeof(h)) {
        return; /* nobody to answer to */
    }
    v->stats.tx_packets++;
    if (h.src_cid != v->cid || h.dst_cid != VSOCK_CID_HOST || h.type != VSOCK_TYPE_STREAM) {
        orphan(v, &h);
        return;
    }
    struct vsock_conn *c = vsock_find(v, h.src_port, h.dst_port);
    if (c && h.op == OP_RW && h.len > v->chain.out_len - sizeof(h)) {
        violation(v, c); /* more data announced than there is */
    } else if (c) {
        if (c->state != CONN_CLOSING) { /* it gets its RST anyway */
            take_packet(v, c, &h);
        } else if (h.op == OP_RST) {
            vsock_conn_free(v, c);
        }
    } else if (h.op == OP_REQUEST) {
        take_request(v, &h);
    } else {
        orphan(v, &h);
    }
}

bool vsock_tx_run(struct virtio_vsock *v) {
    struct virtio_device *vdev = &v->vdev;
    struct vq *vq = &vdev->queue[VSOCK_TX].vq;
    u32 done = 0;
    int got = 1;
    if (!virtio_queue_ready(vdev, VSOCK_TX)) {
        return false;
    }
    vq_notify_off(vq);
    while (done < vq->size && v->orphans < VSOCK_ORPHANS &&
           (got = virtio_pop(vdev, VSOCK_TX, &v->chain)) > 0) {
        take_chain(v);
        virtio_push(vdev, VSOCK_TX, v->chain.head, 0);
        done++;
    }
    if (done) {
        virtio_signal(vdev, VSOCK_TX);
    }
    v->tx_stalled = v->orphans >= VSOCK_ORPHANS;
    return !v->tx_stalled && (got > 0 || (got == 0 && vq_notify_on(vq)));
}
