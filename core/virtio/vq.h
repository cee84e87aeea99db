/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtqueue walker, device side: the only code that reads or writes rings. Virtio 1.2, section
 * 2.7 (split virtqueues).
 *
 *   desc[size]                     avail (driver area)            used (device area)
 *   +------------------------+     +-------+-----+---------+      +-------+-----+---------------+
 *   | addr len flags next    |<----| flags | idx | ring[]  |      | flags | idx | {id, len}[]   |
 *   | ...     NEXT -> next   |     +-------+-----+---------+      +-------+-----+---------------+
 *   |  INDIRECT -> own table |     | used_event           |      | avail_event              |
 *   +------------------------+     +----------------------+      +--------------------------+
 *
 * The driver is hostile. Everything it wrote is read once, copied, checked and bounded: indices
 * against the table, chains against the queue size, memory through ram_ptr. Whatever breaks a rule
 * sets `broken`: the queue stops, and the device reports DEVICE_NEEDS_RESET.
 *
 * In-flight chains are remembered by head, so a queue can be saved while requests are outstanding:
 * a loaded queue hands those chains out again first. (Devices still drain before they save, where
 * they can: a write repeated after a load is harmless for a disk, not for a network.)
 *
 * Left out: packed virtqueues, VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA.
 * Lock rule: board lock held.
 */
#ifndef CORE_VIRTIO_VQ_H
#define CORE_VIRTIO_VQ_H

#include "core/base/snap.h"
#include "core/base/types.h"
#include "core/if/backend.h" /* struct iov */
#include "core/mem/ram.h"

enum {
    VQ_SIZE_MAX = 256,
    VQ_SEGS_MAX = VQ_SIZE_MAX, /* segments of a chain: a chain is never longer than its queue */
};

struct vq {
    struct ram *ram;
    /* set by the driver through the transport */
    u16 size_max; /* largest size offered; power of two */
    u16 size;
    bool enabled;
    u64 desc, avail, used; /* guest-physical */
    /* negotiated */
    bool event_idx;
    bool indirect;
    /* walking */
    bool broken;
    const char *why; /* static text, for one log line */
    u8 *desc_p, *avail_p, *used_p;
    u16 last_avail; /* free running: next entry of avail to take */
    u16 used_idx;   /* free running: next entry of used to fill */
    u16 signalled;  /* used_idx at the last interrupt decision */
    bool signalled_valid;
    u32 inflight_count;
    u64 inflight[VQ_SIZE_MAX / 64]; /* by head */
    u64 redo[VQ_SIZE_MAX / 64];     /* loaded as in flight, to be handed out again */
};

/* A chain of buffers: `out` segments the device reads, then `in` segments it writes. */
struct vq_chain {
    u16 head;
    bool redone; /* handed out a second time, after a load */
    u16 out_count, in_count;
    u64 out_len, in_len;         /* bytes */
    struct iov iov[VQ_SEGS_MAX]; /* out, then in; neighbours in memory are merged */
    u64 gpa[VQ_SEGS_MAX];
};

void vq_init(struct vq *vq, struct ram *ram, u16 size_max);
void vq_reset(struct vq *vq);
/* Checks and takes the ring addresses; marks the queue broken when they are unusable. */
void vq_enable(struct vq *vq);

/* 1: a chain; 0: none; -ERR_FORMAT: the queue is (now) broken. */
int vq_pop(struct vq *vq, struct vq_chain *chain);
/* Puts back the chain popped last (head and redone are its fields); several in reverse order. */
void vq_unpop(struct vq *vq, u16 head, bool redone);
bool vq_has_work(struct vq *vq);

/* Returns a chain; written: bytes written into its `in` part, from its beginning. */
void vq_push(struct vq *vq, u16 head, u32 written);
/* Several at once: fill n entries (index 0..n-1), then publish them together. */
void vq_push_at(struct vq *vq, u16 index, u16 head, u32 written);
void vq_publish(struct vq *vq, u16 count);

/* Does the driver want an interrupt for what was used since the last call? */
bool vq_should_interrupt(struct vq *vq);

/* Notification by the driver: off while working, on before leaving. vq_notify_on returns true when
 * there is work again: take it before leaving. */
void vq_notify_off(struct vq *vq);
bool vq_notify_on(struct vq *vq);

/* Copies between a chain and a buffer, from byte offset of its out (in) part; bytes copied. */
size_t vq_chain_read(const struct vq_chain *chain, u64 offset, void *buf, size_t size);
size_t vq_chain_write(struct ram *ram, const struct vq_chain *chain, u64 offset, const void *buf,
                      size_t size);
/* iov of [offset, offset+length) of the out (in) part into dst (VQ_SEGS_MAX entries), and their
 * guest addresses into gpa (or NULL). The number of entries. */
u32 vq_chain_out(const struct vq_chain *chain, u64 offset, u64 length, struct iov *dst);
u32 vq_chain_in(const struct vq_chain *chain, u64 offset, u64 length, struct iov *dst, u64 *gpa);
/* The first `length` bytes of the in part were written through the iov: tell core/mem/ram.h. */
void vq_chain_written(struct ram *ram, const struct vq_chain *chain, u64 length);

void vq_save(const struct vq *vq, struct snap_writer *w);
int vq_load(struct vq *vq, struct snap_reader *r);

#endif
