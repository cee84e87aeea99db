/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio socket device: virtio 1.2, section 5.10. Stream sockets between programs of the guest and
 * of the host (CID 2), without a network. What a port of the host is, the back end knows.
 */
#ifndef CORE_VIRTIO_VSOCK_H
#define CORE_VIRTIO_VSOCK_H

#include "core/virtio/virtio.h"

#define VSOCK_CID_HOST 2ull
#define VSOCK_CID_MIN  3ull
#define VSOCK_CID_MAX  0xfffffffeull

struct virtio_vsock_stats {
    u64 rx_packets, rx_bytes; /* to the guest; bytes of data */
    u64 tx_packets, tx_bytes; /* from the guest */
    u64 opened;               /* connections that came about */
    u64 refused;              /* that the host or the guest did not want */
    u64 violations;           /* ended because the guest broke a rule */
    u32 connections;          /* now */
};

/* cid: VSOCK_CID_MIN..VSOCK_CID_MAX. The back end stays the caller's. */
struct virtio_device *virtio_vsock_create(struct device_env *env, struct vsock_backend *backend,
                                          u64 cid, struct err *err);
/* No lock held. */
void virtio_vsock_get_stats(struct virtio_device *vdev, struct virtio_vsock_stats *out);

#endif
