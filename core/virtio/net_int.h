/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the virtio network device share: net.c, net_rx.c, net_tx.c, net_ctrl.c. */
#ifndef CORE_VIRTIO_NET_INT_H
#define CORE_VIRTIO_NET_INT_H

#include "core/base/packet.h"
#include "core/time/vtimer.h"
#include "core/virtio/net.h"

#define VIRTIO_NET_F_CSUM                BIT(0)
#define VIRTIO_NET_F_GUEST_CSUM          BIT(1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS BIT(2)
#define VIRTIO_NET_F_MTU                 BIT(3)
#define VIRTIO_NET_F_MAC                 BIT(5)
#define VIRTIO_NET_F_GUEST_TSO4          BIT(7)
#define VIRTIO_NET_F_GUEST_TSO6          BIT(8)
#define VIRTIO_NET_F_GUEST_ECN           BIT(9)
#define VIRTIO_NET_F_HOST_TSO4           BIT(11)
#define VIRTIO_NET_F_HOST_TSO6           BIT(12)
#define VIRTIO_NET_F_HOST_ECN            BIT(13)
#define VIRTIO_NET_F_MRG_RXBUF           BIT(15)
#define VIRTIO_NET_F_STATUS              BIT(16)
#define VIRTIO_NET_F_CTRL_VQ             BIT(17)
#define VIRTIO_NET_F_CTRL_RX             BIT(18)
#define VIRTIO_NET_F_CTRL_RX_EXTRA       BIT(20)
#define VIRTIO_NET_F_GUEST_ANNOUNCE      BIT(21)
#define VIRTIO_NET_F_MQ                  BIT(22)
#define VIRTIO_NET_F_CTRL_MAC_ADDR       BIT(23)

#define NET_TX_OFFLOADS                                                                            \
    (VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN)
#define NET_RX_OFFLOADS                                                                            \
    (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 |                 \
     VIRTIO_NET_F_GUEST_ECN)

enum { NET_QUEUE_SIZE = 256, NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2, NET_MTU_MIN = 68 };
enum { NET_MACS_MAX = 64, NET_STEER_SIZE = 256 };

struct net_config { /* 5.1.4 */
    u8 mac[6];
    u16 status;
    u16 max_virtqueue_pairs;
    u16 mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "struct virtio_net_config");

/* A table of addresses to accept (5.1.6.5.2); overflow: it was too long, accept all. */
struct net_macs {
    u32 count;
    bool overflow;
    u8 mac[NET_MACS_MAX][6];
};

struct net_filter { /* 5.1.6.5.1 */
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    struct net_macs uni, multi;
};

struct rx_used {
    u16 head;
    bool redone;
    u32 written;
};

struct virtio_net {
    struct virtio_device vdev;
    struct net_backend *be; /* may be NULL */
    u8 mac[6];              /* the permanent address */
    u16 pairs, pairs_active;
    u64 rx_offloads; /* NET_RX_OFFLOADS in force */
    struct net_filter filter;
    bool refused;             /* a frame was refused: tell the back end when there are buffers */
    bool tx_blocked;          /* the back end is full; net_writable goes on */
    u8 steer[NET_STEER_SIZE]; /* flow hash -> pair that the driver sent on last (5.1.6.5.6.1) */
    struct rate_limiter rx_limit, tx_limit;
    struct vtimer rx_timer, tx_timer; /* when the limits let the next frame through */
    struct virtio_net_stats stats;
    struct vq_chain chain;
    struct iov iov[VQ_SEGS_MAX + 1];
    struct rx_used used[NET_QUEUE_SIZE]; /* chains of the frame being received */
    struct gso gso;
    u8 linear[NET_FRAME_MAX]; /* a frame in one piece, for work in software */
};

static inline struct virtio_net *net_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_net, vdev);
}

static inline bool net_link_up(const struct virtio_net *net) {
    return net->be && (net->vdev.config[offsetof(struct net_config, status)] & NET_S_LINK_UP);
}

/* Queues (5.1.2): receiveq1, transmitq1, ..., then the control queue. */
static inline u32 net_ctrl_queue(const struct virtio_net *net) {
    return net->vdev.features & VIRTIO_NET_F_MQ ? 2u * net->pairs : 2u;
}

/* net_tx.c: takes at most a queue full from transmit queue; true: there may be more. */
bool net_tx_run(struct virtio_net *net, u32 queue);
void net_tx_run_all(struct virtio_net *net);
/* net_rx.c: net_backend.receive; the device's lock is not held. */
int net_receive(void *device, const struct iov *iov, u32 count);
/* The back end may offer the refused frame again. */
void net_rx_ready(struct virtio_net *net);
/* net_ctrl.c */
bool net_ctrl_run(struct virtio_net *net, u32 queue);
void net_filter_reset(struct net_filter *f);
bool net_filter_accepts(const struct virtio_net *net, const u8 *destination);
void net_set_offloads(struct virtio_net *net, u64 offloads);

#endif
