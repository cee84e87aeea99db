/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio over PCI: virtio 1.2, section 4.1, modern (non-transitional) devices only. */
#ifndef CORE_VIRTIO_VPCI_H
#define CORE_VIRTIO_VPCI_H

#include "core/dev/pcihost.h"
#include "core/virtio/virtio.h"

/*
 * Puts vdev on the bus (slot: 1..31 or PCI_SLOT_AUTO) and takes it over: removing the returned
 * device destroys vdev. The caller adds it to the machine's device list. NULL on failure; vdev then
 * still belongs to the caller.
 */
struct device *virtio_pci_attach(struct pci_host *host, struct virtio_device *vdev, int slot,
                                 struct err *err);

#endif
