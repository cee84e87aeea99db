/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio entropy device: virtio 1.2, section 5.4. Its source is host_ops.entropy. */
#ifndef CORE_VIRTIO_RNG_H
#define CORE_VIRTIO_RNG_H

#include "core/virtio/virtio.h"

struct virtio_device *virtio_rng_create(struct device_env *env, struct err *err);

#endif
