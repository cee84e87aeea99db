/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio network device: virtio 1.2, section 5.1. */
#ifndef CORE_VIRTIO_NET_H
#define CORE_VIRTIO_NET_H

#include "core/dev/token_bucket.h"
#include "core/virtio/virtio.h"

enum { VIRTIO_NET_PAIRS_MAX = 8 };

struct virtio_net_opts {
    u8 mac[6];
    u16 mtu;                  /* 68..65535; 0: none is offered */
    u16 pairs;                /* of queues, 1..VIRTIO_NET_PAIRS_MAX; 0 means 1 */
    struct rate_limit rx, tx; /* all zero: none */
};

struct virtio_net_stats {
    u64 rx_frames, rx_bytes; /* delivered to the driver; bytes of frames, without headers */
    u64 tx_frames, tx_bytes;
    u64 rx_dropped;  /* no driver, no cable, malformed, or larger than the driver's buffers */
    u64 rx_filtered; /* not for this card */
    u64 rx_waits;    /* no buffer: the back end was asked to keep the frame */
    u64 rx_limited, tx_limited; /* waits for the rate limit */
    u64 tx_dropped;             /* malformed, or no cable */
    u64 tx_waits;               /* the back end was full */
};

/* backend may be NULL: the link is down and frames vanish. It stays open when the device is
 * destroyed. */
struct virtio_device *virtio_net_create(struct device_env *env, struct net_backend *backend,
                                        const struct virtio_net_opts *opts, struct err *err);
/* These take the board lock. */
void virtio_net_set_link(struct virtio_device *vdev, bool up);
/* Asks the driver to tell the network where it is now (after a restore). */
void virtio_net_announce(struct virtio_device *vdev);
/* New limits, full buckets; NULL: that direction keeps its own. */
void virtio_net_set_limits(struct virtio_device *vdev, const struct rate_limit *rx,
                           const struct rate_limit *tx);
void virtio_net_get_stats(struct virtio_device *vdev, struct virtio_net_stats *out);

#endif
