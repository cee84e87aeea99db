/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio entropy device: virtio 1.2, section 5.4. Its source is host_ops.entropy. */
#ifndef CORE_VIRTIO_RNG_H
#define CORE_VIRTIO_RNG_H

#include "core/dev/token_bucket.h"
#include "core/virtio/virtio.h"

/* limit: bytes and requests; NULL or all zero: none. */
struct virtio_device *virtio_rng_create(struct device_env *env, const struct rate_limit *limit,
                                        struct err *err);

#endif
