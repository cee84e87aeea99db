/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio file system device: virtio 1.2, section 5.11. */
#ifndef CORE_VIRTIO_FS_H
#define CORE_VIRTIO_FS_H

#include "core/if/share.h"
#include "core/virtio/virtio.h"

enum { VIRTIO_FS_TAG_MAX = 36 };

/* tag: the name to mount it by, 1..VIRTIO_FS_TAG_MAX bytes. The back end stays open when the device
 * is destroyed. */
struct virtio_device *virtio_fs_create(struct device_env *env, struct share_backend *backend,
                                       const char *tag, struct err *err);

#endif
