/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small machine without processors, and the guest's side of virtio: finds a device on PCI or MMIO
 * through its registers only, negotiates, sets up split rings in guest memory and uses them.
 * Free of cmocka, so that the fuzz harnesses can use it too.
 */
#ifndef TESTS_UNIT_LIB_VIRTIO_H
#define TESTS_UNIT_LIB_VIRTIO_H

#include "core/dev/pcihost.h"
#include "core/irq/irqchip.h"
#include "core/virtio/balloon.h"
#include "core/virtio/blk.h"
#include "core/virtio/console.h"
#include "core/virtio/net.h"
#include "core/virtio/rng.h"
#include "core/virtio/vmmio.h"
#include "core/virtio/vpci.h"
#include "hosts/fake/fake.h"

enum {
    VT_RAM_SIZE = 1 << 20,
    VT_MSIS = 64,
    VT_MMIO_BASE = 0xc0001000,
    VT_MMIO_GSI = 5,
    VT_ECAM = 0xe0000000,
};

struct vt_msi {
    u64 address;
    u32 data;
};

struct vt {                  /* the machine */
    struct engine_vm engine; /* first */
    struct fake_host *fake;
    struct mutex lock;
    struct bus pio, mmio;
    struct ram ram;
    u8 *mem;
    struct irqchip *irq;
    struct device_env env;
    struct pci_host host;
    bool level[IOAPIC_PINS];
    u32 raises[IOAPIC_PINS];
    struct vt_msi msi[VT_MSIS]; /* the last ones */
    u32 msi_count;
    u64 written; /* bytes that devices reported as written */
    u32 resets;
    u64 next; /* guest memory not handed out yet */
};

void vt_init(struct vt *vt);
void vt_fini(struct vt *vt);
u64 vt_alloc(struct vt *vt, u64 size, u64 align);
u64 vt_read(struct vt *vt, u64 address, u32 size);
void vt_write(struct vt *vt, u64 address, u32 size, u64 value);
u32 vt_config_read(struct vt *vt, u32 devfn, u32 reg, u32 size);
void vt_config_write(struct vt *vt, u32 devfn, u32 reg, u32 size, u32 value);
u32 vt_msis_with(const struct vt *vt, u32 data); /* how many of the last ones carry data */

enum { VD_QUEUES = 5, VD_QUEUE_SIZE = 32 };

struct vd_queue {
    u16 size;
    u64 desc, avail, used;
    u16 avail_idx, used_idx;
    u16 free[256];
    u16 free_count;
    u16 chain_next[256]; /* the descriptors of a chain, to free them */
    u16 chain_len[256];
};

struct vd { /* a driver */
    struct vt *vt;
    bool pci;
    u32 devfn;
    u64 common, isr, device, notify; /* addresses of the structures */
    u32 notify_multiplier;
    u8 cfg_cap, msix_cap;
    u64 msix_table;
    u64 features;
    struct vd_queue q[VD_QUEUES];
};

struct vd_seg {
    u64 gpa;
    u32 len;
    bool write;
};

/* False when there is no virtio device of this kind. */
bool vd_find_pci(struct vd *d, struct vt *vt, u32 slot);
bool vd_find_mmio(struct vd *d, struct vt *vt, u64 base);
/* All MSI-X vectors unmasked: vector n sends data 0x40 + n. */
void vd_msix_on(struct vd *d);

u8 vd_status(struct vd *d);
void vd_set_status(struct vd *d, u8 status);
u64 vd_offered(struct vd *d);
/* Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK; false when the device refused. */
bool vd_negotiate(struct vd *d, u64 features);
u16 vd_queue_max(struct vd *d, u32 q);
void vd_queue_setup(struct vd *d, u32 q, u16 size);
void vd_queue_program(struct vd *d, u32 q); /* q[] filled already */
void vd_driver_ok(struct vd *d);
/* Everything at once: VERSION_1 and `features`, queues 0..queues-1, DRIVER_OK. */
bool vd_start(struct vd *d, u64 features, u32 queues);
u32 vd_config(struct vd *d, u32 offset, u32 size);
void vd_config_set(struct vd *d, u32 offset, u32 size, u32 value);
u32 vd_interrupt_status(struct vd *d); /* reads ISR, or InterruptStatus and acknowledges it */

/* Makes a chain available; the head, or -1 when the table is full. */
int vd_add(struct vd *d, u32 q, const struct vd_seg *seg, u32 count);
int vd_add_indirect(struct vd *d, u32 q, const struct vd_seg *seg, u32 count);
void vd_desc_set(struct vd *d, u32 q, u16 index, u64 gpa, u32 len, u16 flags, u16 next);
void vd_avail_push(struct vd *d, u32 q, u16 head);
void vd_kick(struct vd *d, u32 q);
bool vd_wants_kick(struct vd *d, u32 q); /* as the device asked, by flag or event index */
/* Takes a used chain; its head, or -1. */
int vd_used(struct vd *d, u32 q, u32 *len);
void vd_no_interrupt(struct vd *d, u32 q, bool off);
void vd_set_used_event(struct vd *d, u32 q, u16 event);

/* A device's section, in memory; the caller frees. */
u8 *vt_save(struct device *dev, size_t *len);
int vt_load(struct device *dev, const u8 *data, size_t len);

#endif
