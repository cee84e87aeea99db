/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio console with one port: virtio 1.2, section 5.3. */
#ifndef CORE_VIRTIO_CONSOLE_H
#define CORE_VIRTIO_CONSOLE_H

#include "core/virtio/virtio.h"

struct virtio_console_opts {
    u16 cols, rows; /* 0: no size is offered */
};

/* backend may be NULL: output vanishes. It stays open when the device is destroyed. */
struct virtio_device *virtio_console_create(struct device_env *env, struct char_backend *backend,
                                            const struct virtio_console_opts *opts,
                                            struct err *err);
/* The terminal changed its size; only when a size was given at creation. Takes the board lock. */
void virtio_console_resize(struct virtio_device *vdev, u16 cols, u16 rows);

#endif
