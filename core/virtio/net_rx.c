/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receive side of the virtio network device: virtio 1.2, sections 5.1.6.3 and 5.1.6.4.
 *
 *   back end [hdr |] frame -- filter -- limit --+-- the driver knows its header's offloads ----+
 *                                               +-- else: linear copy -> checksum or segments -+
 *                                                                                              |
 *                   rx chains [hdr frame...][...frame]  several only with MRG_RXBUF  <---------+
 *
 * With several queue pairs a flow's frames go to the pair on which the driver last sent some of it.
 * Lock rule: board lock held; net_receive takes it.
 */
#include "core/base/err.h"
#include "core/virtio/net_int.h"

struct rx_frame {
    struct net_hdr hdr;
    struct iov iov[4]; /* of the frame, without header */
    u32 count;
    u32 length;
    u32 queue;
};

/* --- into the rings --------------------------------------------------------------------------- */

/* Copies bytes [from, from+len) of header and frame into the in part of the chain, from its start.
 */
static void rx_copy(struct virtio_net *net, const struct rx_frame *f, u64 from, u64 len) {
    struct ram *ram = net->vdev.env->ram;
    u64 at = sizeof(f->hdr), to = 0;
    if (from < at) {
        to = MIN(len, at - from);
        vq_chain_write(ram, &net->chain, 0, (const u8 *)&f->hdr + from, (size_t)to);
        from += to;
        len -= to;
    }
    for (u32 i = 0; i < f->count && len; at += f->iov[i].len, i++) {
        if (from >= at + f->iov[i].len) {
            continue;
        }
        u64 skip = from - at;
        size_t n = (size_t)MIN(len, f->iov[i].len - skip);
        vq_chain_write(ram, &net->chain, to, (const u8 *)f->iov[i].base + skip, n);
        from += n;
        to += n;
        len -= n;
    }
}

/* Where in guest memory num_buffers of the first chain lies: two bytes that may be apart. The value
 * is known only when the last chain was taken. */
struct rx_mark {
    u8 *p[2];
    u64 gpa[2];
};

static void rx_mark_find(const struct virtio_net *net, struct rx_mark *mark) {
    struct iov iov[1];
    for (u32 i = 0; i < 2; i++) {
        u64 at = offsetof(struct net_hdr, num_buffers) + i;
        vq_chain_in(&net->chain, at, 1, iov, &mark->gpa[i]);
        mark->p[i] = iov[0].base;
    }
}

static void rx_mark_set(struct virtio_net *net, const struct rx_mark *mark, u32 count) {
    for (u32 i = 0; i < 2 && mark->p[i]; i++) {
        *mark->p[i] = (u8)(count >> (i * 8));
        ram_written(net->vdev.env->ram, mark->gpa[i], 1);
    }
}

static void rx_undo(struct virtio_net *net, u32 queue, u32 count) {
    while (count--) {
        vq_unpop(&net->vdev.queue[queue].vq, net->used[count].head, net->used[count].redone);
    }
}

static void rx_finish(struct virtio_net *net, const struct rx_frame *f, const struct rx_mark *mark,
                      u32 count) {
    struct vq *vq = &net->vdev.queue[f->queue].vq;
    rx_mark_set(net, mark, count);
    for (u32 i = 0; i < count; i++) {
        vq_push_at(vq, (u16)i, net->used[i].head, net->used[i].written);
    }
    vq_publish(vq, (u16)count); /* all at once: the driver takes the frame whole */
    virtio_signal(&net->vdev, f->queue);
    net->stats.rx_frames++;
    net->stats.rx_bytes += f->length;
}

/* 0: delivered or dropped; -ERR_AGAIN: not enough buffers now, nothing changed. */
static int rx_try(struct virtio_net *net, const struct rx_frame *f) {
    struct virtio_device *vdev = &net->vdev;
    bool merge = vdev->features & VIRTIO_NET_F_MRG_RXBUF;
    struct rx_mark mark = {0};
    u64 done = 0, total = sizeof(f->hdr) + f->length;
    u32 n = 0;
    while (done < total) {
        int got = n < NET_QUEUE_SIZE ? virtio_pop(vdev, f->queue, &net->chain) : 0;
        if (got <= 0) {
            rx_undo(net, f->queue, n);
            /* larger than all the driver can ever offer: drop it, or it would block the queue */
            bool hopeless = got < 0 || n >= vdev->queue[f->queue].vq.size;
            net->stats.rx_dropped += hopeless;
            return hopeless ? 0 : -ERR_AGAIN;
        }
        u64 part = MIN(net->chain.in_len, total - done);
        net->used[n] = (struct rx_used){net->chain.head, net->chain.redone, (u32)part};
        n++;
        if (net->chain.in_len < (n == 1 ? sizeof(struct net_hdr) : 1)) {
            virtio_needs_reset(vdev, "a receive buffer without room for the header");
            return 0;
        }
        if (!merge && part < total) {
            rx_undo(net, f->queue, n);
            net->stats.rx_dropped++;
            return 0; /* does not fit */
        }
        if (n == 1) {
            rx_mark_find(net, &mark);
        }
        rx_copy(net, f, done, part);
        done += part;
    }
    rx_finish(net, f, &mark, n);
    return 0;
}

/* As rx_try; asks the driver for notifications before it gives up. */
static int rx_deliver(struct virtio_net *net, const struct rx_frame *f) {
    struct virtio_device *vdev = &net->vdev;
    int error = rx_try(net, f);
    if (error && virtio_queue_ready(vdev, f->queue) && vq_notify_on(&vdev->queue[f->queue].vq)) {
        error = rx_try(net, f);
    }
    return error;
}

/* --- offloads that the driver does not know --------------------------------------------------- */

static bool driver_knows(const struct virtio_net *net, const struct net_hdr *hdr) {
    u64 need = hdr->flags & NET_HDR_NEEDS_CSUM ? VIRTIO_NET_F_GUEST_CSUM : 0;
    need |= hdr->gso_type & NET_GSO_ECN ? VIRTIO_NET_F_GUEST_ECN : 0;
    switch (hdr->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        need |= VIRTIO_NET_F_GUEST_TSO4;
        break;
    case NET_GSO_TCPV6:
        need |= VIRTIO_NET_F_GUEST_TSO6;
        break;
    default:
        break;
    }
    return !(need & ~net->rx_offloads);
}

static void linearize(struct virtio_net *net, const struct rx_frame *f) {
    u32 at = 0;
    for (u32 i = 0; i < f->count; i++) {
        memcpy(net->linear + at, f->iov[i].base, f->iov[i].len);
        at += (u32)f->iov[i].len;
    }
}

/* Once a segment is delivered, those that find no buffer are lost, as on any wire. */
static int rx_segments(struct virtio_net *net, const struct rx_frame *whole) {
    struct rx_frame f = {.queue = whole->queue, .count = 2};
    const u8 *payload;
    u32 head_len, payload_len, delivered = 0;
    if (!gso_begin(&net->gso, &whole->hdr, net->linear, whole->length, 0)) {
        net->stats.rx_dropped++;
        return 0;
    }
    while (gso_next(&net->gso, &head_len, &payload, &payload_len)) {
        f.iov[0] = (struct iov){net->gso.head, head_len};
        f.iov[1] = (struct iov){(void *)(uintptr_t)payload, payload_len};
        f.length = head_len + payload_len;
        if (rx_deliver(net, &f)) {
            net->stats.rx_dropped += delivered > 0;
            return delivered ? 0 : -ERR_AGAIN;
        }
        delivered++;
    }
    return 0;
}

static int rx_software(struct virtio_net *net, const struct rx_frame *whole) {
    linearize(net, whole);
    if (whole->hdr.gso_type != NET_GSO_NONE) {
        return rx_segments(net, whole);
    }
    struct rx_frame f = {.queue = whole->queue, .count = 1, .length = whole->length};
    f.iov[0] = (struct iov){net->linear, whole->length};
    packet_checksum(net->linear, whole->length, whole->hdr.csum_start, whole->hdr.csum_offset);
    return rx_deliver(net, &f);
}

/* --- what comes from the back end ------------------------------------------------------------- */

/* Splits header and frame; false when that is none. */
static bool rx_take(struct virtio_net *net, struct rx_frame *f, const struct iov *iov, u32 count) {
    size_t skip = net->be->vnet_hdr ? sizeof(f->hdr) : 0;
    u64 length = 0;
    f->hdr = (struct net_hdr){0};
    if (skip) {
        if (!count || iov[0].len < skip) {
            return false;
        }
        memcpy(&f->hdr, iov[0].base, skip);
    }
    f->count = 0;
    for (u32 i = 0; i < count; i++, skip = 0) {
        if (iov[i].len > skip) {
            if (f->count == ARRAY_LEN(f->iov)) {
                return false;
            }
            f->iov[f->count++] = (struct iov){(u8 *)iov[i].base + skip, iov[i].len - skip};
            length += iov[i].len - skip;
        }
    }
    f->length = (u32)MIN(length, UINT32_MAX);
    return length >= NET_FRAME_MIN && length <= NET_FRAME_MAX;
}

static u32 rx_head(const struct rx_frame *f, u8 *head, u32 size) {
    u32 have = 0;
    for (u32 i = 0; i < f->count && have < size; i++) {
        u32 n = (u32)MIN(f->iov[i].len, size - have);
        memcpy(head + have, f->iov[i].base, n);
        have += n;
    }
    return have;
}

static bool rx_limited(struct virtio_net *net, u32 len) {
    u64 now = host_now(net->vdev.env->host);
    u64 wait = rate_limiter_take(&net->rx_limit, len, now);
    if (wait) {
        net->stats.rx_limited++;
        vtimer_arm(&net->rx_timer, wait > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + wait);
    }
    return wait;
}

/* 0, or -ERR_AGAIN: keep the frame. */
static int rx_locked(struct virtio_net *net, const struct iov *iov, u32 count) {
    struct rx_frame f;
    u8 head[NET_HEADERS_MAX];
    if (!net_link_up(net) || !(net->vdev.status & VIRTIO_STATUS_DRIVER_OK) ||
        !rx_take(net, &f, iov, count)) {
        net->stats.rx_dropped++;
        return 0;
    }
    u32 have = rx_head(&f, head, sizeof(head));
    if (!packet_header_ok(&f.hdr, head, have, f.length)) {
        net->stats.rx_dropped++;
        return 0;
    }
    if (!net_filter_accepts(net, head)) {
        net->stats.rx_filtered++;
        return 0;
    }
    f.queue = 0;
    if (net->pairs_active > 1) {
        u32 pair = net->steer[packet_flow_hash(head, have, f.length) % NET_STEER_SIZE];
        f.queue = 2 * (pair < net->pairs_active ? pair : 0);
    }
    if (rx_limited(net, f.length)) {
        return -ERR_AGAIN;
    }
    if (!(net->rx_offloads & VIRTIO_NET_F_GUEST_CSUM)) {
        f.hdr.flags &= (u8)~NET_HDR_DATA_VALID;
    }
    int error = driver_knows(net, &f.hdr) ? rx_deliver(net, &f) : rx_software(net, &f);
    if (error) {
        rate_limiter_give(&net->rx_limit, f.length);
        net->stats.rx_waits++;
    }
    return error;
}

int net_receive(void *device, const struct iov *iov, u32 count) {
    struct virtio_net *net = device;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    int error = rx_locked(net, iov, count);
    net->refused |= error != 0; /* until rx_ready: others may have been refused before this one */
    mutex_unlock(env->host, env->lock);
    return error;
}

void net_rx_ready(struct virtio_net *net) {
    if (net->refused) {
        net->refused = false;
        net->be->ops->rx_ready(net->be);
    }
}
