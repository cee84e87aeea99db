/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all virtio devices have in common: feature negotiation, the status register, queues,
 * configuration space with its generation, and their life. Virtio 1.2, chapters 2 and 3.
 *
 *   blk console rng net fs     (struct virtio_ops: one file each)
 *           |
 *     struct virtio_device     (this file)
 *           |
 *      vpci   vmmio            (struct virtio_transport: registers, interrupts)
 *
 * Reset with requests in flight: the rings are let go at once and the registers are as after reset,
 * but the status register does not read 0 before the last request came back, which is what the
 * driver has to wait for (2.4.1, 4.1.4.3.2). Nothing is written to guest memory after that.
 *
 * Lock rule: board lock held, except where a function says otherwise.
 */
#ifndef CORE_VIRTIO_VIRTIO_H
#define CORE_VIRTIO_VIRTIO_H

#include "core/dev/device.h"
#include "core/virtio/vq.h"

/* Device status (2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER      2u
#define VIRTIO_STATUS_DRIVER_OK   4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED      128u

/* Feature bits that belong to no device (6). */
#define VIRTIO_F_INDIRECT_DESC  BIT(28)
#define VIRTIO_F_EVENT_IDX      BIT(29)
#define VIRTIO_F_VERSION_1      BIT(32)
#define VIRTIO_F_ORDER_PLATFORM BIT(36)

/* Device ids (5). */
enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_ENTROPY = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_VSOCK = 19,
    VIRTIO_ID_FS = 26,
};

enum { VIRTIO_QUEUES_MAX = 64, VIRTIO_CONFIG_MAX = 128, VIRTIO_NO_VECTOR = 0xffff };

struct virtio_device;

struct virtio_ops {
    const char *name; /* "virtio-blk" */
    u16 device_id;
    u32 tag, version; /* of the device's own section */
    /* The driver wrote device configuration (in bounds, size 1, 2 or 4). May be NULL. */
    void (*config_write)(struct virtio_device *vdev, u32 offset, u32 size, u32 value);
    /*
     * The driver notified a queue, or a device is to look at it again. Takes at most a queue full
     * of chains; returns true when there may be more (it is called again from the event thread).
     */
    bool (*queue_run)(struct virtio_device *vdev, u32 queue);
    /* DRIVER_OK was set (features are final). May be NULL. */
    void (*start)(struct virtio_device *vdev);
    /* Forget all chains. Requests that cannot be recalled stay counted in vdev->inflight. */
    void (*reset)(struct virtio_device *vdev);
    /* No lock held: returns when no request is in flight. May be NULL. */
    void (*drain)(struct virtio_device *vdev);
    void (*save)(struct virtio_device *vdev, struct snap_writer *w);
    int (*load)(struct virtio_device *vdev, struct snap_reader *r, u32 version);
    /* No lock held. Frees vdev itself. */
    void (*destroy)(struct virtio_device *vdev);
};

struct virtio_transport {
    /* A used buffer notification of a queue; a configuration change notification. */
    void (*notify_queue)(void *transport, u32 queue);
    void (*notify_config)(void *transport);
    /* The driver reset the device: so does the transport with its own registers. */
    void (*reset)(void *transport);
};

/*
 * An address whose write is nothing but a notification: an engine with ENGINE_CAP_DOORBELL can take
 * it without an exit (engine_ops.doorbell_add has the same arguments). fn runs on the event thread
 * with no lock held.
 */
struct virtio_doorbell {
    u64 address; /* MMIO */
    u32 size;    /* 0: any */
    bool has_match;
    u64 match;
    void (*fn)(void *ctx);
    void *ctx;
};

/* Called with the board lock held whenever a doorbell appears (add) or disappears. */
typedef void (*virtio_doorbell_fn)(void *ctx, const struct virtio_doorbell *bell, bool add);

struct virtio_queue {
    struct vq vq;
    struct virtio_device *vdev; /* for the doorbell's fn */
    u32 index;
    bool again; /* wants queue_run from the event thread */
    bool rung;  /* the doorbell below is registered */
    struct virtio_doorbell bell;
};

struct virtio_device {
    const struct virtio_ops *ops;
    struct device_env *env;
    const struct virtio_transport *transport;
    void *transport_ctx;

    u64 offered;  /* feature bits */
    u64 features; /* what the driver wrote; final once FEATURES_OK */
    u8 status;
    u32 device_feature_select, driver_feature_select, queue_select;
    u32 generation; /* of configuration space */
    u32 config_size;
    u8 config[VIRTIO_CONFIG_MAX];

    u32 queue_count;
    struct virtio_queue *queue; /* queue_count of them */

    u32 inflight;       /* requests that a back end holds */
    u32 epoch;          /* counts resets: a request of an older one must not touch the rings */
    bool reset_pending; /* requests of an older epoch are still out */
    u8 reset_status;    /* what the status register shows until then */
    bool paused;        /* no new chains are taken: about to be saved */
    bool dma;           /* the transport lets the device reach memory (PCI: bus master) */

    struct host_timer *again; /* runs queues again on the event thread */
    virtio_doorbell_fn doorbell;
    void *doorbell_ctx;
    u32 log_count;
};

/* --- for devices ------------------------------------------------------------------------------ */

/* vdev is embedded in the device's zeroed structure. */
int virtio_init(struct virtio_device *vdev, struct device_env *env, const struct virtio_ops *ops,
                u64 features, u32 queue_count, u16 queue_size, u32 config_size, struct err *err);
/* Frees what virtio_init took; no lock held. */
void virtio_fini(struct virtio_device *vdev);
/* May chains be taken: DRIVER_OK, not paused, not waiting for a reset, queue enabled and sound? */
bool virtio_queue_ready(struct virtio_device *vdev, u32 queue);
/* vq_pop that turns a broken ring into NEEDS_RESET. 1, 0 or negative. */
int virtio_pop(struct virtio_device *vdev, u32 queue, struct vq_chain *chain);
/* vq_push; signal separately, once for several. */
void virtio_push(struct virtio_device *vdev, u32 queue, u16 head, u32 written);
void virtio_signal(struct virtio_device *vdev, u32 queue);
/* Runs a queue now, bounded; what is left runs on the event thread. */
void virtio_queue_run(struct virtio_device *vdev, u32 queue);
void virtio_run_all(struct virtio_device *vdev);
/* The device changed its configuration. */
void virtio_config_changed(struct virtio_device *vdev);
void virtio_set_config(struct virtio_device *vdev, u32 offset, const void *data, u32 size);
void virtio_needs_reset(struct virtio_device *vdev, const char *why);
/* A request went to a back end, or came back (epoch: vdev->epoch when it went). True from _end when
 * the request still belongs to the driver: complete it in the ring. */
void virtio_request_begin(struct virtio_device *vdev);
bool virtio_request_end(struct virtio_device *vdev, u32 epoch);

/* --- for transports --------------------------------------------------------------------------- */

u32 virtio_device_features(struct virtio_device *vdev);
void virtio_driver_features(struct virtio_device *vdev, u32 value);
u8 virtio_status(const struct virtio_device *vdev);
void virtio_set_status(struct virtio_device *vdev, u8 status);
u32 virtio_config_read(struct virtio_device *vdev, u32 offset, u32 size);
void virtio_config_write(struct virtio_device *vdev, u32 offset, u32 size, u32 value);
/* The selected queue, or NULL. */
struct virtio_queue *virtio_selected(struct virtio_device *vdev);
void virtio_queue_size(struct virtio_device *vdev, u32 value);
void virtio_queue_enable(struct virtio_device *vdev, bool enable);
void virtio_notify(struct virtio_device *vdev, u32 queue);
/* Where the queue's doorbell is now; address 0: nowhere. */
void virtio_doorbell_move(struct virtio_device *vdev, u32 queue, const struct virtio_doorbell *at);
void virtio_reset(struct virtio_device *vdev);
void virtio_save(struct virtio_device *vdev, struct snap_writer *w);
int virtio_load(struct virtio_device *vdev, struct snap_reader *r);
/* No lock held. pause returns when nothing is in flight. */
void virtio_pause(struct virtio_device *vdev);
void virtio_resume(struct virtio_device *vdev);

/* --- for the board ---------------------------------------------------------------------------- */

/* Asks to be told about doorbells, those that exist already included. fn NULL: no more. */
void virtio_set_doorbell_hook(struct virtio_device *vdev, virtio_doorbell_fn fn, void *ctx);

#endif
