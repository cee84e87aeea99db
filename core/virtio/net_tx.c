/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transmit side of the virtio network device: virtio 1.2, section 5.1.6.2. Each chain is a header
 * and a frame. What the header asks for (a checksum, cutting a large TCP segment) is passed on to a
 * back end that can do it, and done here otherwise.
 *
 *   chain [hdr | frame] --+-- limit --+-- back end knows it: [hdr | frame] as they lie in memory
 *                                     +-- else: linear copy -> checksum or segments -> back end
 *
 * Lock rule: board lock held.
 */
#include "core/base/err.h"
#include "core/virtio/net_int.h"

/* Bytes taken per call, so that the lock is not held for long; the rest on the event thread. */
#define TX_BYTES_PER_RUN (1 * MIB)

enum tx_result { TX_DONE, TX_DROPPED, TX_FULL, TX_LIMITED };

/* Is what the header asks for something the driver negotiated? */
static bool tx_negotiated(const struct virtio_net *net, const struct net_hdr *hdr) {
    u64 f = net->vdev.features;
    if (((hdr->flags & NET_HDR_NEEDS_CSUM) && !(f & VIRTIO_NET_F_CSUM)) ||
        ((hdr->gso_type & NET_GSO_ECN) && !(f & VIRTIO_NET_F_HOST_ECN))) {
        return false;
    }
    switch (hdr->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE:
        return true;
    case NET_GSO_TCPV4:
        return f & VIRTIO_NET_F_HOST_TSO4;
    case NET_GSO_TCPV6:
        return f & VIRTIO_NET_F_HOST_TSO6;
    default:
        return false;
    }
}

static bool backend_can(const struct net_backend *be, const struct net_hdr *hdr) {
    u64 need = hdr->flags & NET_HDR_NEEDS_CSUM ? VIRTIO_NET_F_CSUM : 0;
    need |= hdr->gso_type & NET_GSO_ECN ? VIRTIO_NET_F_HOST_ECN : 0;
    switch (hdr->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        need |= VIRTIO_NET_F_HOST_TSO4;
        break;
    case NET_GSO_TCPV6:
        need |= VIRTIO_NET_F_HOST_TSO6;
        break;
    default:
        break;
    }
    return !need || (be->vnet_hdr && !(need & ~be->offloads));
}

/* Sends a frame that needs nothing any more: one or two pieces behind an empty header. */
static int send_plain(struct virtio_net *net, const u8 *a, u32 a_len, const u8 *b, u32 b_len) {
    static const struct net_hdr empty;
    struct iov iov[3] = {{(void *)(uintptr_t)&empty, sizeof(empty)},
                         {(void *)(uintptr_t)a, a_len},
                         {(void *)(uintptr_t)b, b_len}};
    u32 first = net->be->vnet_hdr ? 0 : 1;
    return net->be->ops->send(net->be, iov + first, (b_len ? 3 : 2) - first);
}

/* Once a segment is out, those that find no room are lost, as on any wire. */
static enum tx_result send_segments(struct virtio_net *net, const struct net_hdr *hdr, u32 len) {
    const u8 *payload;
    u32 head_len, payload_len, sent = 0;
    if (!gso_begin(&net->gso, hdr, net->linear, len, 0)) {
        return TX_DROPPED;
    }
    while (gso_next(&net->gso, &head_len, &payload, &payload_len)) {
        if (send_plain(net, net->gso.head, head_len, payload, payload_len) == -ERR_AGAIN) {
            return sent ? TX_DONE : TX_FULL;
        }
        sent++;
    }
    return TX_DONE;
}

static enum tx_result send_software(struct virtio_net *net, const struct net_hdr *hdr, u32 len) {
    vq_chain_read(&net->chain, sizeof(*hdr), net->linear, len);
    if (hdr->gso_type != NET_GSO_NONE) {
        return send_segments(net, hdr, len);
    }
    if (!packet_checksum(net->linear, len, hdr->csum_start, hdr->csum_offset)) {
        return TX_DROPPED;
    }
    return send_plain(net, net->linear, len, NULL, 0) == -ERR_AGAIN ? TX_FULL : TX_DONE;
}

static enum tx_result send_direct(struct virtio_net *net, struct net_hdr *hdr, u32 len) {
    u32 n = 0;
    if (net->be->vnet_hdr) {
        net->iov[n++] = (struct iov){hdr, sizeof(*hdr)};
    }
    n += vq_chain_out(&net->chain, sizeof(*hdr), len, net->iov + n);
    return net->be->ops->send(net->be, net->iov, n) == -ERR_AGAIN ? TX_FULL : TX_DONE;
}

static enum tx_result tx_limited(struct virtio_net *net, u32 len) {
    u64 now = host_now(net->vdev.env->host);
    u64 wait = rate_limiter_take(&net->tx_limit, len, now);
    if (wait) {
        net->stats.tx_limited++;
        vtimer_arm(&net->tx_timer, wait > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + wait);
        return TX_LIMITED;
    }
    return TX_DONE;
}

/* The frame in net->chain. */
static enum tx_result tx_frame(struct virtio_net *net, u32 pair) {
    struct net_hdr hdr;
    u8 head[NET_HEADERS_MAX];
    u64 length = net->chain.out_len - MIN(net->chain.out_len, sizeof(hdr));
    if (vq_chain_read(&net->chain, 0, &hdr, sizeof(hdr)) < sizeof(hdr) || !net_link_up(net) ||
        length < NET_FRAME_MIN || length > NET_FRAME_MAX) {
        return TX_DROPPED;
    }
    u32 len = (u32)length;
    u32 have = (u32)vq_chain_read(&net->chain, sizeof(hdr), head, MIN(len, sizeof(head)));
    if (!packet_header_ok(&hdr, head, have, len) || !tx_negotiated(net, &hdr)) {
        return TX_DROPPED;
    }
    if (net->pairs_active > 1) {
        net->steer[packet_flow_hash(head, have, len) % NET_STEER_SIZE] = (u8)pair;
    }
    if (tx_limited(net, len) == TX_LIMITED) {
        return TX_LIMITED;
    }
    enum tx_result result =
        backend_can(net->be, &hdr) ? send_direct(net, &hdr, len) : send_software(net, &hdr, len);
    if (result == TX_DONE) {
        net->stats.tx_frames++;
        net->stats.tx_bytes += len;
    } else {
        rate_limiter_give(&net->tx_limit, len);
    }
    return result;
}

bool net_tx_run(struct virtio_net *net, u32 queue) {
    struct virtio_device *vdev = &net->vdev;
    struct vq *vq = &vdev->queue[queue].vq;
    enum tx_result result = TX_DONE;
    u32 done = 0;
    u64 bytes = 0;
    int got = 1;
    vq_notify_off(vq);
    while (done < vq->size && bytes < TX_BYTES_PER_RUN &&
           (got = virtio_pop(vdev, queue, &net->chain)) > 0) {
        result = tx_frame(net, queue / 2);
        if (result == TX_FULL || result == TX_LIMITED) {
            vq_unpop(vq, net->chain.head, net->chain.redone);
            net->tx_blocked |= result == TX_FULL;
            net->stats.tx_waits += result == TX_FULL;
            break;
        }
        net->stats.tx_dropped += result == TX_DROPPED;
        virtio_push(vdev, queue, net->chain.head, 0);
        bytes += net->chain.out_len;
        done++;
    }
    if (done) {
        virtio_signal(vdev, queue);
    }
    return result < TX_FULL && (got > 0 || (got == 0 && vq_notify_on(vq)));
}

void net_tx_run_all(struct virtio_net *net) {
    net->tx_blocked = false;
    for (u32 pair = 0; pair < net->pairs_active; pair++) {
        virtio_queue_run(&net->vdev, pair * 2 + 1);
    }
}
