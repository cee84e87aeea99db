/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio network device with one queue pair: virtio 1.2, section 5.1. */
#ifndef CORE_VIRTIO_NET_H
#define CORE_VIRTIO_NET_H

#include "core/virtio/virtio.h"

struct virtio_net_opts {
    u8 mac[6];
    u16 mtu; /* 0: none is offered */
};

/* backend may be NULL: the link is down and frames vanish. It stays open when the device is
 * destroyed. */
struct virtio_device *virtio_net_create(struct device_env *env, struct net_backend *backend,
                                        const struct virtio_net_opts *opts, struct err *err);
/* Takes the board lock. */
void virtio_net_set_link(struct virtio_device *vdev, bool up);

#endif
