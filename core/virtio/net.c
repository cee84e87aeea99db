/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio network device, one pair of queues: virtio 1.2, section 5.1. Queue 0 receives, queue 1
 * transmits. Each frame has a virtio_net_hdr of 12 bytes in front; checksum and segmentation
 * offloads are passed through to a back end that knows the header, and not offered otherwise.
 *
 *   guest -> tx chain [hdr | frame] -> back end [hdr |] frame     hdr: only when be->vnet_hdr
 *   back end [hdr |] frame -> rx chains [hdr frame...][...frame]  several only with MRG_RXBUF
 *
 * Left out: control queue (so no multiqueue, no filters, no offload changes at run time), RSS.
 * Lock rule: board lock held; net_receive and net_writable come from the event thread.
 */
#include "core/virtio/net.h"

#include "core/base/err.h"

#define VIRTIO_NET_F_CSUM       BIT(0)
#define VIRTIO_NET_F_GUEST_CSUM BIT(1)
#define VIRTIO_NET_F_MTU        BIT(3)
#define VIRTIO_NET_F_MAC        BIT(5)
#define VIRTIO_NET_F_GUEST_TSO4 BIT(7)
#define VIRTIO_NET_F_GUEST_TSO6 BIT(8)
#define VIRTIO_NET_F_GUEST_ECN  BIT(9)
#define VIRTIO_NET_F_HOST_TSO4  BIT(11)
#define VIRTIO_NET_F_HOST_TSO6  BIT(12)
#define VIRTIO_NET_F_HOST_ECN   BIT(13)
#define VIRTIO_NET_F_MRG_RXBUF  BIT(15)
#define VIRTIO_NET_F_STATUS     BIT(16)

#define NET_TX_OFFLOADS                                                                            \
    (VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN)
#define NET_RX_OFFLOADS                                                                            \
    (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 |                 \
     VIRTIO_NET_F_GUEST_ECN)

enum {
    NET_RX = 0,
    NET_TX = 1,
    NET_QUEUES = 2,
    NET_QUEUE_SIZE = 256,
    NET_FRAME_MIN = 14,             /* an Ethernet header */
    NET_FRAME_MAX = 65536 + 14 + 4, /* the largest segment with header and VLAN tag */
    NET_S_LINK_UP = 1,
    NET_MTU_MIN = 68,
};

enum {
    HDR_F_NEEDS_CSUM = 1,
    HDR_GSO_NONE = 0,
    HDR_GSO_TCPV4 = 1,
    HDR_GSO_TCPV6 = 4,
    HDR_GSO_ECN = 0x80
};

struct net_hdr { /* 5.1.6 */
    u8 flags, gso_type;
    u16 hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_hdr) == 12, "struct virtio_net_hdr");

struct net_config { /* 5.1.4 */
    u8 mac[6];
    u16 status;
    u16 max_virtqueue_pairs;
    u16 mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "struct virtio_net_config");

struct rx_used {
    u16 head;
    bool redone;
    u32 written;
};

struct virtio_net {
    struct virtio_device vdev;
    struct net_backend *be; /* may be NULL */
    bool refused;           /* a frame was refused: tell the back end when there are buffers */
    bool tx_blocked;        /* the back end is full; net_writable goes on */
    struct vq_chain chain;
    struct iov iov[VQ_SEGS_MAX + 1];
    struct rx_used used[NET_QUEUE_SIZE]; /* chains of the frame being received */
};

static struct virtio_net *net_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_net, vdev);
}

static bool link_up(const struct virtio_net *net) {
    return net->be && (net->vdev.config[offsetof(struct net_config, status)] & NET_S_LINK_UP);
}

/* --- transmit --------------------------------------------------------------------------------- */

/* Is what the header asks for something the driver negotiated? */
static bool tx_header_ok(const struct virtio_net *net, const struct net_hdr *hdr) {
    u64 f = net->vdev.features;
    if ((hdr->flags & HDR_F_NEEDS_CSUM) && !(f & VIRTIO_NET_F_CSUM)) {
        return false;
    }
    if ((hdr->gso_type & HDR_GSO_ECN) && !(f & VIRTIO_NET_F_HOST_ECN)) {
        return false;
    }
    switch (hdr->gso_type & ~HDR_GSO_ECN) {
    case HDR_GSO_NONE:
        return true;
    case HDR_GSO_TCPV4:
        return (f & VIRTIO_NET_F_HOST_TSO4) && hdr->gso_size;
    case HDR_GSO_TCPV6:
        return (f & VIRTIO_NET_F_HOST_TSO6) && hdr->gso_size;
    default:
        return false;
    }
}

/* Sends the chain, or drops it when it is no frame. False: the back end is full. */
static bool tx_send(struct virtio_net *net) {
    struct net_hdr hdr;
    u32 n = 0;
    u64 length = net->chain.out_len - MIN(net->chain.out_len, sizeof(hdr));
    if (vq_chain_read(&net->chain, 0, &hdr, sizeof(hdr)) < sizeof(hdr) || !link_up(net) ||
        length < NET_FRAME_MIN || length > NET_FRAME_MAX || !tx_header_ok(net, &hdr)) {
        return true;
    }
    if (net->be->vnet_hdr) {
        hdr.flags &= HDR_F_NEEDS_CSUM;
        hdr.num_buffers = 0;
        net->iov[n++] = (struct iov){&hdr, sizeof(hdr)};
    }
    n += vq_chain_out(&net->chain, sizeof(hdr), length, net->iov + n);
    return net->be->ops->send(net->be, net->iov, n) != -ERR_AGAIN;
}

static bool tx_run(struct virtio_net *net) {
    struct virtio_device *vdev = &net->vdev;
    struct vq *vq = &vdev->queue[NET_TX].vq;
    u32 done = 0;
    int got = 1;
    vq_notify_off(vq);
    net->tx_blocked = false;
    while (done < vq->size && (got = virtio_pop(vdev, NET_TX, &net->chain)) > 0) {
        if (!tx_send(net)) {
            vq_unpop(vq, net->chain.head, net->chain.redone);
            net->tx_blocked = true;
            break;
        }
        virtio_push(vdev, NET_TX, net->chain.head, 0);
        done++;
    }
    if (done) {
        virtio_signal(vdev, NET_TX);
    }
    return !net->tx_blocked && (got > 0 || (got == 0 && vq_notify_on(vq)));
}

static void net_writable(void *device) {
    struct virtio_net *net = device;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    virtio_queue_run(&net->vdev, NET_TX);
    mutex_unlock(env->host, env->lock);
}

/* --- receive ---------------------------------------------------------------------------------- */

struct rx_frame {
    const struct iov *iov;
    u32 count;
    u64 length; /* with the header in front */
    struct net_hdr hdr;
    bool hdr_in_iov;
};

/* Copies frame bytes [from, from+len) into the in part of the chain at its byte `to`. */
static void rx_copy(struct virtio_net *net, const struct rx_frame *f, u64 from, u64 to, u64 len) {
    struct ram *ram = net->vdev.env->ram;
    u64 at = f->hdr_in_iov ? 0 : sizeof(f->hdr);
    if (!f->hdr_in_iov && from < sizeof(f->hdr)) {
        size_t n = (size_t)MIN(len, sizeof(f->hdr) - from);
        vq_chain_write(ram, &net->chain, to, (const u8 *)&f->hdr + from, n);
        from += n;
        to += n;
        len -= n;
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

static void rx_undo(struct virtio_net *net, u32 count) {
    while (count--) {
        vq_unpop(&net->vdev.queue[NET_RX].vq, net->used[count].head, net->used[count].redone);
    }
}

static void rx_finish(struct virtio_net *net, const struct rx_mark *mark, u32 count) {
    struct vq *vq = &net->vdev.queue[NET_RX].vq;
    rx_mark_set(net, mark, count);
    for (u32 i = 0; i < count; i++) {
        vq_push_at(vq, (u16)i, net->used[i].head, net->used[i].written);
    }
    vq_publish(vq, (u16)count); /* all at once: the driver takes the frame whole */
    virtio_signal(&net->vdev, NET_RX);
}

/* 0: delivered or dropped; -ERR_AGAIN: not enough buffers now, nothing changed. */
static int rx_deliver(struct virtio_net *net, const struct rx_frame *f) {
    struct virtio_device *vdev = &net->vdev;
    bool merge = vdev->features & VIRTIO_NET_F_MRG_RXBUF;
    struct rx_mark mark = {0};
    u64 done = 0;
    u32 n = 0;
    while (done < f->length) {
        int got = n < NET_QUEUE_SIZE ? virtio_pop(vdev, NET_RX, &net->chain) : 0;
        if (got <= 0) {
            rx_undo(net, n);
            /* larger than all the driver can ever offer: drop it, or it would block the queue */
            return got < 0 || n >= vdev->queue[NET_RX].vq.size ? 0 : -ERR_AGAIN;
        }
        u64 part = MIN(net->chain.in_len, f->length - done);
        net->used[n] = (struct rx_used){net->chain.head, net->chain.redone, (u32)part};
        n++;
        if (net->chain.in_len < (n == 1 ? sizeof(struct net_hdr) : 1)) {
            virtio_needs_reset(vdev, "a receive buffer without room for the header");
            return 0;
        }
        if (!merge && part < f->length) {
            rx_undo(net, n);
            return 0; /* does not fit: dropped */
        }
        if (n == 1) {
            rx_mark_find(net, &mark);
        }
        rx_copy(net, f, done, 0, part);
        done += part;
    }
    rx_finish(net, &mark, n);
    return 0;
}

static int rx_locked(struct virtio_net *net, const struct iov *iov, u32 count) {
    struct virtio_device *vdev = &net->vdev;
    struct rx_frame f = {.iov = iov, .count = count, .hdr_in_iov = net->be->vnet_hdr};
    for (u32 i = 0; i < count; i++) {
        f.length += iov[i].len;
    }
    f.length += f.hdr_in_iov ? 0 : sizeof(f.hdr);
    if (f.length < sizeof(f.hdr) + NET_FRAME_MIN || f.length > sizeof(f.hdr) + NET_FRAME_MAX ||
        !link_up(net) || !(vdev->status & VIRTIO_STATUS_DRIVER_OK)) {
        return 0;
    }
    int error = rx_deliver(net, &f);
    if (error && virtio_queue_ready(vdev, NET_RX) && vq_notify_on(&vdev->queue[NET_RX].vq)) {
        error = rx_deliver(net, &f);
    }
    net->refused = error;
    return error;
}

static int net_receive(void *device, const struct iov *iov, u32 count) {
    struct virtio_net *net = device;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    int error = rx_locked(net, iov, count);
    mutex_unlock(env->host, env->lock);
    return error;
}

static bool net_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_net *net = net_of(vdev);
    if (queue == NET_TX) {
        return tx_run(net);
    }
    if (net->refused) {
        net->refused = false;
        net->be->ops->rx_ready(net->be);
    }
    return false;
}

/* --- life ------------------------------------------------------------------------------------- */

void virtio_net_set_link(struct virtio_device *vdev, bool up) {
    struct device_env *env = vdev->env;
    u8 *status = &vdev->config[offsetof(struct net_config, status)];
    mutex_lock(env->host, env->lock);
    if ((*status & NET_S_LINK_UP) != up) {
        *status = up ? NET_S_LINK_UP : 0;
        virtio_config_changed(vdev);
    }
    mutex_unlock(env->host, env->lock);
}

static void net_start(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    if (net->be && net->be->ops->set_offloads) {
        net->be->ops->set_offloads(net->be, vdev->features & NET_RX_OFFLOADS);
    }
}

static void net_reset(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    net->tx_blocked = false;
    if (net->refused) {
        net->refused = false;
        net->be->ops->rx_ready(net->be); /* what waits there is to be thrown away */
    }
}

/* Frames are sent and received whole while the lock is held: nothing beyond the rings. */
static void net_save(struct virtio_device *vdev UNUSED, struct snap_writer *w UNUSED) {
}

static int net_load(struct virtio_device *vdev UNUSED, struct snap_reader *r, u32 version UNUSED) {
    return snap_finish(r);
}

static void net_destroy(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    struct host *host = vdev->env->host;
    if (net->be) {
        net->be->receive = NULL;
        net->be->writable = NULL;
    }
    virtio_fini(vdev);
    host_free(host, net, sizeof(*net));
}

static const struct virtio_ops net_ops = {
    .name = "virtio-net",
    .device_id = VIRTIO_ID_NET,
    .tag = SNAP_TAG('V', 'N', 'E', 'T'),
    .version = 1,
    .queue_run = net_queue_run,
    .start = net_start,
    .reset = net_reset,
    .save = net_save,
    .load = net_load,
    .destroy = net_destroy,
};

static u64 features_of(const struct net_backend *be, const struct virtio_net_opts *opts) {
    u64 f = VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_MRG_RXBUF;
    if (opts->mtu >= NET_MTU_MIN) {
        f |= VIRTIO_NET_F_MTU;
    }
    if (be && be->vnet_hdr) {
        f |= be->offloads & (NET_TX_OFFLOADS | NET_RX_OFFLOADS);
    }
    return f;
}

struct virtio_device *virtio_net_create(struct device_env *env, struct net_backend *backend,
                                        const struct virtio_net_opts *opts, struct err *err) {
    struct virtio_net *net = host_alloc(env->host, sizeof(*net));
    if (!net) {
        ERR_SET(err, ERR_NOMEM, "virtio-net: out of memory");
        return NULL;
    }
    if (virtio_init(&net->vdev, env, &net_ops, features_of(backend, opts), NET_QUEUES,
                    NET_QUEUE_SIZE, sizeof(struct net_config), err)) {
        host_free(env->host, net, sizeof(*net));
        return NULL;
    }
    struct net_config config = {
        .status = backend ? NET_S_LINK_UP : 0, .max_virtqueue_pairs = 1, .mtu = opts->mtu};
    memcpy(config.mac, opts->mac, sizeof(config.mac));
    virtio_set_config(&net->vdev, 0, &config, sizeof(config));
    net->be = backend;
    if (backend) {
        backend->device = net;
        backend->receive = net_receive;
        backend->writable = net_writable;
    }
    return &net->vdev;
}
