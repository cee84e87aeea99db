/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over PCI: virtio 1.2, section 4.1, non-transitional. All structures lie in one 64-bit BAR
 * (4, with its upper half in 5), MSI-X has BAR 1:
 *
 *   0x0000 common configuration   0x1000 ISR status   0x2000 device configuration
 *   0x3000 notifications, 4 bytes per queue
 *
 * The same structures can be reached through configuration space (4.1.4.9). Without bus mastering
 * the device takes no buffers. Left out: VIRTIO_F_NOTIFICATION_DATA, queue reset, shared memory.
 * Lock rule: board lock held; device_ops.pause, resume and remove without.
 */
#include "core/virtio/vpci.h"

#include "core/base/err.h"

enum {
    VPCI_BAR = 4,
    VPCI_MSIX_BAR = 1,
    VPCI_COMMON = 0x0000,
    VPCI_ISR = 0x1000,
    VPCI_DEVICE = 0x2000,
    VPCI_NOTIFY = 0x3000,
    VPCI_BAR_SIZE = 0x4000,
    VPCI_AREA = 0x1000,
    VPCI_NOTIFY_STEP = 4, /* notify_off_multiplier */
};

enum { /* struct virtio_pci_common_cfg (4.1.4.3), offsets */
       COMMON_DEVICE_FEATURE_SELECT = 0x00,
       COMMON_DEVICE_FEATURE = 0x04,
       COMMON_DRIVER_FEATURE_SELECT = 0x08,
       COMMON_DRIVER_FEATURE = 0x0c,
       COMMON_CONFIG_MSIX_VECTOR = 0x10,
       COMMON_NUM_QUEUES = 0x12,
       COMMON_DEVICE_STATUS = 0x14,
       COMMON_CONFIG_GENERATION = 0x15,
       COMMON_QUEUE_SELECT = 0x16,
       COMMON_QUEUE_SIZE = 0x18,
       COMMON_QUEUE_MSIX_VECTOR = 0x1a,
       COMMON_QUEUE_ENABLE = 0x1c,
       COMMON_QUEUE_NOTIFY_OFF = 0x1e,
       COMMON_QUEUE_DESC = 0x20,
       COMMON_QUEUE_DRIVER = 0x28,
       COMMON_QUEUE_DEVICE = 0x30,
       COMMON_SIZE = 0x38,
};

enum { /* struct virtio_pci_cap (4.1.4) */
       CAP_ID_VENDOR = 0x09,
       CAP_LEN = 2,
       CAP_CFG_TYPE = 3,
       CAP_BAR = 4,
       CAP_OFFSET = 8,
       CAP_LENGTH = 12,
       CAP_SIZE = 16,
       CAP_NOTIFY_MULTIPLIER = 16,
       CAP_PCI_CFG_DATA = 16,
       CAP_TYPE_COMMON = 1,
       CAP_TYPE_NOTIFY = 2,
       CAP_TYPE_ISR = 3,
       CAP_TYPE_DEVICE = 4,
       CAP_TYPE_PCI = 5,
};

enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

struct vpci {
    struct pci_device pci;
    struct virtio_device *vdev;
    u8 cfg_cap; /* offset of the configuration access capability */
    u8 isr;
    u16 config_vector;
    u16 queue_vector[VIRTIO_QUEUES_MAX];
};

static struct vpci *vpci_of(struct device *dev) {
    return CONTAINER_OF(dev, struct vpci, pci.dev);
}

/* --- interrupts ------------------------------------------------------------------------------- */

static void interrupt(struct vpci *v, u8 cause, u16 vector) {
    if (pci_msix_enabled(&v->pci)) {
        pci_msix_notify(&v->pci, vector); /* NO_VECTOR is out of range: nothing */
        return;
    }
    v->isr |= cause;
    pci_intx_set(&v->pci, true);
}

static void vpci_notify_queue(void *transport, u32 queue) {
    struct vpci *v = transport;
    interrupt(v, ISR_QUEUE, v->queue_vector[queue]);
}

static void vpci_notify_config(void *transport) {
    struct vpci *v = transport;
    interrupt(v, ISR_CONFIG, v->config_vector);
}

static void vpci_transport_reset(void *transport) {
    struct vpci *v = transport;
    v->isr = 0;
    v->config_vector = VIRTIO_NO_VECTOR;
    for (u32 q = 0; q < VIRTIO_QUEUES_MAX; q++) {
        v->queue_vector[q] = VIRTIO_NO_VECTOR;
    }
    pci_intx_set(&v->pci, false);
}

static const struct virtio_transport vpci_transport = {
    .notify_queue = vpci_notify_queue,
    .notify_config = vpci_notify_config,
    .reset = vpci_transport_reset,
};

static u16 vector_check(const struct vpci *v, u32 value) {
    return value < v->pci.msix.count ? (u16)value : VIRTIO_NO_VECTOR;
}

static u8 isr_read(struct vpci *v) {
    u8 isr = v->isr;
    v->isr = 0; /* reading acknowledges (4.1.4.5) */
    pci_intx_set(&v->pci, false);
    return isr;
}

/* --- common configuration --------------------------------------------------------------------- */

static u64 queue_field_read(struct vpci *v, u32 field) {
    struct virtio_queue *q = virtio_selected(v->vdev);
    if (!q) {
        return field == COMMON_QUEUE_MSIX_VECTOR ? VIRTIO_NO_VECTOR : 0;
    }
    switch (field) {
    case COMMON_QUEUE_SIZE:
        return q->vq.size;
    case COMMON_QUEUE_MSIX_VECTOR:
        return v->queue_vector[q->index];
    case COMMON_QUEUE_ENABLE:
        return q->vq.enabled;
    case COMMON_QUEUE_NOTIFY_OFF:
        return q->index;
    case COMMON_QUEUE_DESC:
        return q->vq.desc;
    case COMMON_QUEUE_DRIVER:
        return q->vq.avail;
    case COMMON_QUEUE_DEVICE:
        return q->vq.used;
    default:
        return 0;
    }
}

static u64 common_field_read(struct vpci *v, u32 field) {
    struct virtio_device *vdev = v->vdev;
    switch (field) {
    case COMMON_DEVICE_FEATURE_SELECT:
        return vdev->device_feature_select;
    case COMMON_DEVICE_FEATURE:
        return virtio_device_features(vdev);
    case COMMON_DRIVER_FEATURE_SELECT:
        return vdev->driver_feature_select;
    case COMMON_DRIVER_FEATURE:
        return vdev->driver_feature_select < 2
                   ? (u32)(vdev->features >> (vdev->driver_feature_select * 32))
                   : 0;
    case COMMON_CONFIG_MSIX_VECTOR:
        return v->config_vector;
    case COMMON_NUM_QUEUES:
        return vdev->queue_count;
    case COMMON_DEVICE_STATUS:
        return virtio_status(vdev);
    case COMMON_CONFIG_GENERATION:
        return (u8)vdev->generation;
    case COMMON_QUEUE_SELECT:
        return vdev->queue_select;
    default:
        return queue_field_read(v, field);
    }
}

/* Start of the field that holds each 2 bytes of the structure; the two byte-wide ones share one. */
static const u8 common_field[COMMON_SIZE / 2] = {
    0x00, 0x00, 0x04, 0x04, 0x08, 0x08, 0x0c, 0x0c, 0x10, 0x12, 0x14, 0x16, 0x18, 0x1a,
    0x1c, 0x1e, 0x20, 0x20, 0x20, 0x20, 0x28, 0x28, 0x28, 0x28, 0x30, 0x30, 0x30, 0x30,
};

static u8 common_read_byte(struct vpci *v, u32 offset) {
    if (offset >= COMMON_SIZE) {
        return 0;
    }
    if (offset == COMMON_DEVICE_STATUS || offset == COMMON_CONFIG_GENERATION) {
        return (u8)common_field_read(v, offset);
    }
    u32 field = common_field[offset / 2];
    return (u8)(common_field_read(v, field) >> ((offset - field) * 8));
}

static u32 common_read(struct vpci *v, u32 offset, u32 size) {
    u32 value = 0;
    for (u32 i = 0; i < size; i++) {
        value |= (u32)common_read_byte(v, offset + i) << (i * 8);
    }
    return value;
}

/* Writes a 64-bit ring address, or one half of it. */
static void ring_address_write(struct vpci *v, u64 *address, u32 offset, u32 value) {
    struct virtio_queue *q = virtio_selected(v->vdev);
    u32 shift = offset & 4 ? 32 : 0;
    if (q && !q->vq.enabled) {
        *address = (*address & ~((u64)UINT32_MAX << shift)) | (u64)value << shift;
    }
}

static void queue_field_write(struct vpci *v, u32 offset, u32 value) {
    struct virtio_queue *q = virtio_selected(v->vdev);
    if (!q) {
        return;
    }
    switch (offset) {
    case COMMON_QUEUE_SIZE:
        virtio_queue_size(v->vdev, value);
        break;
    case COMMON_QUEUE_MSIX_VECTOR:
        v->queue_vector[q->index] = vector_check(v, value);
        break;
    case COMMON_QUEUE_ENABLE:
        if (value == 1) { /* the driver never writes 0 (4.1.4.3.2) */
            virtio_queue_enable(v->vdev, true);
        }
        break;
    case COMMON_QUEUE_DESC:
    case COMMON_QUEUE_DESC + 4:
        ring_address_write(v, &q->vq.desc, offset, value);
        break;
    case COMMON_QUEUE_DRIVER:
    case COMMON_QUEUE_DRIVER + 4:
        ring_address_write(v, &q->vq.avail, offset, value);
        break;
    case COMMON_QUEUE_DEVICE:
    case COMMON_QUEUE_DEVICE + 4:
        ring_address_write(v, &q->vq.used, offset, value);
        break;
    default:
        break;
    }
}

/* Fields are written whole, 64-bit ones in halves (4.1.3.1); other writes are dropped. */
static u32 common_write_size(u32 offset) {
    if (offset == COMMON_DEVICE_STATUS) {
        return 1;
    }
    return offset < COMMON_CONFIG_MSIX_VECTOR || offset >= COMMON_QUEUE_DESC ? 4 : 2;
}

static void common_write(struct vpci *v, u32 offset, u32 size, u32 value) {
    struct virtio_device *vdev = v->vdev;
    if (offset >= COMMON_SIZE || size != common_write_size(offset)) {
        return;
    }
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        vdev->device_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT:
        vdev->driver_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE:
        virtio_driver_features(vdev, value);
        break;
    case COMMON_CONFIG_MSIX_VECTOR:
        v->config_vector = vector_check(v, value);
        break;
    case COMMON_DEVICE_STATUS:
        virtio_set_status(vdev, (u8)value);
        break;
    case COMMON_QUEUE_SELECT:
        vdev->queue_select = value;
        break;
    default:
        queue_field_write(v, offset, value);
        break;
    }
}

/* --- the BAR ---------------------------------------------------------------------------------- */

static u64 vpci_read(void *device, u32 region UNUSED, u64 offset, u32 size) {
    struct vpci *v = device;
    u32 at = (u32)offset & (VPCI_AREA - 1);
    switch (offset & ~(u64)(VPCI_AREA - 1)) {
    case VPCI_COMMON:
        return common_read(v, at, size);
    case VPCI_ISR:
        return at == 0 ? isr_read(v) : 0;
    case VPCI_DEVICE:
        return virtio_config_read(v->vdev, at, size);
    default:
        return 0;
    }
}

static void vpci_write(void *device, u32 region UNUSED, u64 offset, u32 size, u64 value) {
    struct vpci *v = device;
    u32 at = (u32)offset & (VPCI_AREA - 1);
    switch (offset & ~(u64)(VPCI_AREA - 1)) {
    case VPCI_COMMON:
        common_write(v, at, size, (u32)value);
        break;
    case VPCI_DEVICE:
        virtio_config_write(v->vdev, at, size, (u32)value);
        break;
    case VPCI_NOTIFY:
        virtio_notify(v->vdev, at / VPCI_NOTIFY_STEP);
        break;
    default:
        break;
    }
}

static const struct bus_ops vpci_bus_ops = {vpci_read, vpci_write, 1, 4};

static void vpci_bar_moved(struct pci_device *pci, u32 index) {
    struct vpci *v = CONTAINER_OF(pci, struct vpci, pci);
    const struct bus_region *r = &pci->bar[index].region;
    if (index != VPCI_BAR) {
        return;
    }
    for (u32 q = 0; q < v->vdev->queue_count; q++) {
        struct virtio_doorbell bell = {
            .address = r->mapped ? r->base + VPCI_NOTIFY + q * VPCI_NOTIFY_STEP : 0};
        virtio_doorbell_move(v->vdev, q, &bell);
    }
}

/* --- access through configuration space (4.1.4.9) --------------------------------------------- */

/* The access that the capability describes, when it is one that the BAR takes. */
static bool cfg_access(struct vpci *v, u32 offset, u32 size, u32 *at, u32 *len) {
    u32 data = v->cfg_cap + (u32)CAP_PCI_CFG_DATA;
    *at = pci_get32(&v->pci, v->cfg_cap + CAP_OFFSET);
    *len = pci_get32(&v->pci, v->cfg_cap + CAP_LENGTH);
    return offset < data + 4 && offset + size > data &&
           v->pci.config[v->cfg_cap + CAP_BAR] == VPCI_BAR &&
           (*len == 1 || *len == 2 || *len == 4) && !(*at & (*len - 1)) && *at < VPCI_BAR_SIZE;
}

static void vpci_config_read(struct pci_device *pci, u32 offset, u32 size) {
    struct vpci *v = CONTAINER_OF(pci, struct vpci, pci);
    u32 at, len;
    if (cfg_access(v, offset, size, &at, &len)) {
        u32 value = (u32)vpci_read(v, VPCI_BAR, at, len);
        pci_set32(pci, v->cfg_cap + (u32)CAP_PCI_CFG_DATA, value);
    }
}

static void vpci_config_write(struct pci_device *pci, u32 offset, u32 size) {
    struct vpci *v = CONTAINER_OF(pci, struct vpci, pci);
    u32 at, len;
    if (cfg_access(v, offset, size, &at, &len)) {
        vpci_write(v, VPCI_BAR, at, len, pci_get32(pci, v->cfg_cap + (u32)CAP_PCI_CFG_DATA));
    }
    bool dma = pci_bus_master(pci);
    if (dma != v->vdev->dma) {
        v->vdev->dma = dma;
        virtio_run_all(v->vdev);
    }
}

static const struct pci_ops vpci_pci_ops = {
    .config_read = vpci_config_read,
    .config_write = vpci_config_write,
    .bar_moved = vpci_bar_moved,
};

/* --- life ------------------------------------------------------------------------------------- */

static void vpci_reset(struct device *dev) {
    struct vpci *v = vpci_of(dev);
    virtio_reset(v->vdev);
    pci_device_reset(&v->pci);
    v->vdev->dma = pci_bus_master(&v->pci);
}

static void vpci_save(struct device *dev, struct snap_writer *w) {
    struct vpci *v = vpci_of(dev);
    virtio_save(v->vdev, w);
    pci_device_save(&v->pci, w);
    snap_put8(w, v->isr);
    snap_put16(w, v->config_vector);
    for (u32 q = 0; q < v->vdev->queue_count; q++) {
        snap_put16(w, v->queue_vector[q]);
    }
}

static int vpci_load(struct device *dev, struct snap_reader *r, u32 version UNUSED) {
    struct vpci *v = vpci_of(dev);
    int error = virtio_load(v->vdev, r);
    if (!error) {
        error = pci_device_load(&v->pci, r);
    }
    v->isr = snap_get8(r) & (ISR_QUEUE | ISR_CONFIG);
    v->config_vector = vector_check(v, snap_get16(r));
    for (u32 q = 0; q < v->vdev->queue_count; q++) {
        v->queue_vector[q] = vector_check(v, snap_get16(r));
    }
    if (error || r->failed) {
        vpci_reset(dev);
        return -ERR_FORMAT;
    }
    v->vdev->dma = pci_bus_master(&v->pci);
    return 0;
}

static void vpci_remove(struct device *dev) {
    struct vpci *v = vpci_of(dev);
    struct host *host = dev->env->host;
    pci_device_remove(&v->pci);
    v->vdev->transport = NULL;
    v->vdev->ops->destroy(v->vdev);
    host_free(host, v, sizeof(*v));
}

static void vpci_pause(struct device *dev) {
    virtio_pause(vpci_of(dev)->vdev);
}

static void vpci_resume(struct device *dev) {
    virtio_resume(vpci_of(dev)->vdev);
}

static const struct device_ops vpci_device_ops = {
    .name = "virtio-pci",
    .tag = SNAP_TAG('V', 'P', 'C', 'I'),
    .version = 1,
    .reset = vpci_reset,
    .save = vpci_save,
    .load = vpci_load,
    .remove = vpci_remove,
    .pause = vpci_pause,
    .resume = vpci_resume,
};

static int cap_add(struct vpci *v, u8 type, u32 offset, u32 length, u8 size) {
    int at = pci_cap_add(&v->pci, CAP_ID_VENDOR, size);
    if (at < 0) {
        return at;
    }
    v->pci.config[at + CAP_LEN] = size;
    v->pci.config[at + CAP_CFG_TYPE] = type;
    v->pci.config[at + CAP_BAR] = VPCI_BAR;
    pci_set32(&v->pci, (u32)at + CAP_OFFSET, offset);
    pci_set32(&v->pci, (u32)at + CAP_LENGTH, length);
    return at;
}

static int caps_add(struct vpci *v) {
    u32 notify_size = v->vdev->queue_count * VPCI_NOTIFY_STEP;
    int notify = cap_add(v, CAP_TYPE_NOTIFY, VPCI_NOTIFY, notify_size, CAP_SIZE + 4);
    int cfg = cap_add(v, CAP_TYPE_PCI, 0, 0, CAP_SIZE + 4);
    if (notify < 0 || cfg < 0 ||
        cap_add(v, CAP_TYPE_COMMON, VPCI_COMMON, COMMON_SIZE, CAP_SIZE) < 0 ||
        cap_add(v, CAP_TYPE_ISR, VPCI_ISR, 1, CAP_SIZE) < 0) {
        return -ERR_NOMEM;
    }
    pci_set32(&v->pci, (u32)notify + CAP_NOTIFY_MULTIPLIER, VPCI_NOTIFY_STEP);
    v->cfg_cap = (u8)cfg;
    v->pci.config[cfg + CAP_BAR] = 0;
    v->pci.write_mask[cfg + CAP_BAR] = 0xff;
    memset(v->pci.write_mask + cfg + CAP_OFFSET, 0xff, 12); /* offset, length, data */
    if (!v->vdev->config_size) {
        return 0;
    }
    int device = cap_add(v, CAP_TYPE_DEVICE, VPCI_DEVICE, v->vdev->config_size, CAP_SIZE);
    return device < 0 ? device : 0;
}

static u32 class_code(u16 device_id) {
    switch (device_id) {
    case VIRTIO_ID_NET:
        return 0x020000; /* Ethernet controller */
    case VIRTIO_ID_BLOCK:
        return 0x010000; /* SCSI controller, as drivers have always seen it */
    case VIRTIO_ID_CONSOLE:
    case VIRTIO_ID_VSOCK:
        return 0x078000; /* other communication controller */
    default:
        return 0x00ff00;
    }
}

static int vpci_define(struct vpci *v) {
    struct pci_ids ids = {.vendor = 0x1af4,
                          .device = (u16)(0x1040 + v->vdev->ops->device_id),
                          .subsystem_vendor = 0x1af4,
                          .subsystem = 0x1100,
                          .class_code = class_code(v->vdev->ops->device_id),
                          .revision = 1};
    pci_device_init(&v->pci, &ids, &vpci_pci_ops);
    pci_intx_define(&v->pci);
    int error = pci_msix_define(&v->pci, VPCI_MSIX_BAR, (u16)(v->vdev->queue_count + 1));
    if (!error) {
        error = pci_bar_define(&v->pci, VPCI_BAR, PCI_BAR_MEM64, true, VPCI_BAR_SIZE, &vpci_bus_ops,
                               v, v->vdev->ops->name);
    }
    return error ? error : caps_add(v);
}

struct device *virtio_pci_attach(struct pci_host *host, struct virtio_device *vdev, int slot,
                                 struct err *err) {
    struct device_env *env = vdev->env;
    struct vpci *v = host_alloc(env->host, sizeof(*v));
    if (!v) {
        ERR_SET(err, ERR_NOMEM, "%s: out of memory", vdev->ops->name);
        return NULL;
    }
    v->pci.dev.ops = &vpci_device_ops;
    v->pci.dev.env = env;
    v->vdev = vdev;
    int error = vpci_define(v);
    if (error) {
        ERR_SET(err, ERR_INVAL, "%s: does not fit a PCI function", vdev->ops->name);
    } else {
        error = pci_device_add(host, &v->pci, slot, err);
    }
    if (error) {
        host_free(env->host, v, sizeof(*v));
        return NULL;
    }
    vdev->transport = &vpci_transport;
    vdev->transport_ctx = v;
    vdev->dma = false;
    vpci_transport_reset(v);
    return &v->pci.dev;
}
