/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio over MMIO: virtio 1.2, section 4.2, register layout version 2. */
#ifndef CORE_VIRTIO_VMMIO_H
#define CORE_VIRTIO_VMMIO_H

#include "core/virtio/virtio.h"

enum { VIRTIO_MMIO_SIZE = 4096 };

/*
 * Maps the registers of vdev at base (4 KiB) with its interrupt on a GSI of its own, level
 * triggered, active high. Takes vdev over as virtio_pci_attach does.
 */
struct device *virtio_mmio_attach(struct device_env *env, struct virtio_device *vdev, u64 base,
                                  u32 gsi, struct err *err);

#endif
