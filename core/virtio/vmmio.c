/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over MMIO: virtio 1.2, section 4.2.2, register layout version 2. The interrupt line is the
 * level of InterruptStatus. Drivers of this transport do not wait for a reset to finish, so here
 * the reset does: while requests are at the back end the board lock is given up and the back end
 * drained. Left out: shared memory regions, queue reset.
 * Lock rule: board lock held; device_ops.pause, resume and remove without.
 */
#include "core/virtio/vmmio.h"

#include "core/base/err.h"

enum { /* offsets (table 4.1) */
       MMIO_MAGIC = 0x000,
       MMIO_VERSION = 0x004,
       MMIO_DEVICE_ID = 0x008,
       MMIO_VENDOR_ID = 0x00c,
       MMIO_DEVICE_FEATURES = 0x010,
       MMIO_DEVICE_FEATURES_SEL = 0x014,
       MMIO_DRIVER_FEATURES = 0x020,
       MMIO_DRIVER_FEATURES_SEL = 0x024,
       MMIO_QUEUE_SEL = 0x030,
       MMIO_QUEUE_NUM_MAX = 0x034,
       MMIO_QUEUE_NUM = 0x038,
       MMIO_QUEUE_READY = 0x044,
       MMIO_QUEUE_NOTIFY = 0x050,
       MMIO_INTERRUPT_STATUS = 0x060,
       MMIO_INTERRUPT_ACK = 0x064,
       MMIO_STATUS = 0x070,
       MMIO_QUEUE_DESC = 0x080,
       MMIO_QUEUE_DRIVER = 0x090,
       MMIO_QUEUE_DEVICE = 0x0a0,
       MMIO_SHM_LEN = 0x0b0,
       MMIO_SHM_BASE = 0x0b8,
       MMIO_CONFIG_GENERATION = 0x0fc,
       MMIO_CONFIG = 0x100,
};

enum { INT_USED = 1, INT_CONFIG = 2 };

#define MMIO_MAGIC_VALUE 0x74726976u /* "virt" */
#define MMIO_VENDOR      0x1af4u

struct vmmio {
    struct device dev;
    struct virtio_device *vdev;
    struct bus_region region;
    u32 gsi;
    u32 interrupt_status;
};

static void interrupt_set(struct vmmio *m, u32 status) {
    bool before = m->interrupt_status, after = status;
    m->interrupt_status = status;
    if (before != after) {
        irq_set(m->dev.env->irq, m->gsi, after);
    }
}

static void vmmio_notify_queue(void *transport, u32 queue UNUSED) {
    struct vmmio *m = transport;
    interrupt_set(m, m->interrupt_status | INT_USED);
}

static void vmmio_notify_config(void *transport) {
    struct vmmio *m = transport;
    interrupt_set(m, m->interrupt_status | INT_CONFIG);
}

static void vmmio_transport_reset(void *transport) {
    interrupt_set(transport, 0);
}

static const struct virtio_transport vmmio_transport = {
    .notify_queue = vmmio_notify_queue,
    .notify_config = vmmio_notify_config,
    .reset = vmmio_transport_reset,
};

/* --- registers -------------------------------------------------------------------------------- */

static u32 register_read(struct vmmio *m, u32 offset) {
    struct virtio_device *vdev = m->vdev;
    struct virtio_queue *q = virtio_selected(vdev);
    switch (offset) {
    case MMIO_MAGIC:
        return MMIO_MAGIC_VALUE;
    case MMIO_VERSION:
        return 2;
    case MMIO_DEVICE_ID:
        return vdev->ops->device_id;
    case MMIO_VENDOR_ID:
        return MMIO_VENDOR;
    case MMIO_DEVICE_FEATURES:
        return virtio_device_features(vdev);
    case MMIO_QUEUE_NUM_MAX:
        return q ? q->vq.size_max : 0;
    case MMIO_QUEUE_READY:
        return q ? q->vq.enabled : 0;
    case MMIO_INTERRUPT_STATUS:
        return m->interrupt_status;
    case MMIO_STATUS:
        return virtio_status(vdev);
    case MMIO_SHM_LEN:
    case MMIO_SHM_LEN + 4:
    case MMIO_SHM_BASE:
    case MMIO_SHM_BASE + 4:
        return UINT32_MAX; /* no such region (4.2.2.1) */
    case MMIO_CONFIG_GENERATION:
        return vdev->generation;
    default:
        return 0; /* the others are write only */
    }
}

static void status_write(struct vmmio *m, u32 value) {
    struct virtio_device *vdev = m->vdev;
    struct device_env *env = vdev->env;
    virtio_set_status(vdev, (u8)value);
    if (!value && vdev->reset_pending && vdev->ops->drain) {
        mutex_unlock(env->host, env->lock);
        vdev->ops->drain(vdev);
        mutex_lock(env->host, env->lock);
    }
}

static void ring_address_write(struct vmmio *m, u32 offset, u32 value) {
    struct virtio_queue *q = virtio_selected(m->vdev);
    u32 shift = offset & 4 ? 32 : 0;
    if (!q || q->vq.enabled) {
        return;
    }
    u64 *address = &q->vq.used;
    if ((offset & ~4u) == MMIO_QUEUE_DESC) {
        address = &q->vq.desc;
    } else if ((offset & ~4u) == MMIO_QUEUE_DRIVER) {
        address = &q->vq.avail;
    }
    *address = (*address & ~((u64)UINT32_MAX << shift)) | (u64)value << shift;
}

static void register_write(struct vmmio *m, u32 offset, u32 value) {
    struct virtio_device *vdev = m->vdev;
    switch (offset) {
    case MMIO_DEVICE_FEATURES_SEL:
        vdev->device_feature_select = value;
        break;
    case MMIO_DRIVER_FEATURES:
        virtio_driver_features(vdev, value);
        break;
    case MMIO_DRIVER_FEATURES_SEL:
        vdev->driver_feature_select = value;
        break;
    case MMIO_QUEUE_SEL:
        vdev->queue_select = value;
        break;
    case MMIO_QUEUE_NUM:
        virtio_queue_size(vdev, value);
        break;
    case MMIO_QUEUE_READY:
        virtio_queue_enable(vdev, value & 1);
        break;
    case MMIO_QUEUE_NOTIFY:
        virtio_notify(vdev, value);
        break;
    case MMIO_INTERRUPT_ACK:
        interrupt_set(m, m->interrupt_status & ~value);
        break;
    case MMIO_STATUS:
        status_write(m, value);
        break;
    case MMIO_QUEUE_DESC:
    case MMIO_QUEUE_DESC + 4:
    case MMIO_QUEUE_DRIVER:
    case MMIO_QUEUE_DRIVER + 4:
    case MMIO_QUEUE_DEVICE:
    case MMIO_QUEUE_DEVICE + 4:
        ring_address_write(m, offset, value);
        break;
    default:
        break;
    }
}

/* Control registers take aligned 32-bit accesses only (4.2.2.2); configuration space any. */
static u64 vmmio_read(void *device, u32 region UNUSED, u64 offset, u32 size) {
    struct vmmio *m = device;
    if (offset >= MMIO_CONFIG) {
        return virtio_config_read(m->vdev, (u32)offset - MMIO_CONFIG, size);
    }
    return size == 4 && !(offset & 3) ? register_read(m, (u32)offset) : 0;
}

static void vmmio_write(void *device, u32 region UNUSED, u64 offset, u32 size, u64 value) {
    struct vmmio *m = device;
    if (offset >= MMIO_CONFIG) {
        virtio_config_write(m->vdev, (u32)offset - MMIO_CONFIG, size, (u32)value);
    } else if (size == 4 && !(offset & 3)) {
        register_write(m, (u32)offset, (u32)value);
    }
}

static const struct bus_ops vmmio_bus_ops = {vmmio_read, vmmio_write, 1, 4};

/* --- life ------------------------------------------------------------------------------------- */

static struct vmmio *vmmio_of(struct device *dev) {
    return CONTAINER_OF(dev, struct vmmio, dev);
}

static void vmmio_reset(struct device *dev) {
    virtio_reset(vmmio_of(dev)->vdev);
}

static void vmmio_save(struct device *dev, struct snap_writer *w) {
    virtio_save(vmmio_of(dev)->vdev, w);
    snap_put32(w, vmmio_of(dev)->interrupt_status);
}

static int vmmio_load(struct device *dev, struct snap_reader *r, u32 version UNUSED) {
    struct vmmio *m = vmmio_of(dev);
    int error = virtio_load(m->vdev, r);
    interrupt_set(m, snap_get32(r) & (INT_USED | INT_CONFIG));
    if (error || r->failed) {
        vmmio_reset(dev);
        return -ERR_FORMAT;
    }
    return 0;
}

static void vmmio_remove(struct device *dev) {
    struct vmmio *m = vmmio_of(dev);
    struct host *host = dev->env->host;
    const struct virtio_doorbell none = {0};
    interrupt_set(m, 0);
    bus_unmap(dev->env->mmio, &m->region);
    for (u32 q = 0; q < m->vdev->queue_count; q++) {
        virtio_doorbell_move(m->vdev, q, &none);
    }
    m->vdev->transport = NULL;
    m->vdev->ops->destroy(m->vdev);
    host_free(host, m, sizeof(*m));
}

static void vmmio_pause(struct device *dev) {
    virtio_pause(vmmio_of(dev)->vdev);
}

static void vmmio_resume(struct device *dev) {
    virtio_resume(vmmio_of(dev)->vdev);
}

static const struct device_ops vmmio_device_ops = {
    .name = "virtio-mmio",
    .tag = SNAP_TAG('V', 'M', 'I', 'O'),
    .version = 1,
    .reset = vmmio_reset,
    .save = vmmio_save,
    .load = vmmio_load,
    .remove = vmmio_remove,
    .pause = vmmio_pause,
    .resume = vmmio_resume,
};

struct device *virtio_mmio_attach(struct device_env *env, struct virtio_device *vdev, u64 base,
                                  u32 gsi, struct err *err) {
    struct vmmio *m = host_alloc(env->host, sizeof(*m));
    if (!m) {
        ERR_SET(err, ERR_NOMEM, "%s: out of memory", vdev->ops->name);
        return NULL;
    }
    m->dev.ops = &vmmio_device_ops;
    m->dev.env = env;
    m->vdev = vdev;
    m->gsi = gsi;
    m->region = (struct bus_region){.base = base,
                                    .size = VIRTIO_MMIO_SIZE,
                                    .ops = &vmmio_bus_ops,
                                    .device = m,
                                    .name = vdev->ops->name};
    if (bus_map(env->mmio, &m->region)) {
        ERR_SET(err, ERR_EXISTS, "%s: the addresses at %#llx are taken", vdev->ops->name,
                (unsigned long long)base);
        host_free(env->host, m, sizeof(*m));
        return NULL;
    }
    vdev->transport = &vmmio_transport;
    vdev->transport_ctx = m;
    vdev->dma = true;
    for (u32 q = 0; q < vdev->queue_count; q++) {
        struct virtio_doorbell bell = {
            .address = base + MMIO_QUEUE_NOTIFY, .size = 4, .has_match = true, .match = q};
        virtio_doorbell_move(vdev, q, &bell);
    }
    return &m->dev;
}
