/* SPDX-License-Identifier: Apache-2.0 */
/* The machine and the driver of the virtio tests; see lib_virtio.h. */
#include "tests/unit/lib_virtio.h"

#include <stdlib.h>
#include <string.h>

/* --- the machine ------------------------------------------------------------------------------ */

static struct vt *vt_of(struct engine_vm *vm) {
    return (struct vt *)(void *)vm;
}

static int capture_line(struct engine_vm *vm, u32 gsi, bool level) {
    struct vt *vt = vt_of(vm);
    vt->raises[gsi] += level && !vt->level[gsi];
    vt->level[gsi] = level;
    return 0;
}

static int capture_msi(struct engine_vm *vm, u64 address, u32 data) {
    struct vt *vt = vt_of(vm);
    vt->msi[vt->msi_count++ % VT_MSIS] = (struct vt_msi){address, data};
    return 0;
}

static const struct engine_ops capture_ops = {
    .name = "capture", .irq_line = capture_line, .msi = capture_msi};

static void capture_written(void *ctx, u64 gpa, u64 size) {
    struct vt *vt = ctx;
    if (!ram_ptr(&vt->ram, gpa, size)) {
        abort();
    }
    vt->written += size;
}

static void capture_request(void *machine, int request, int code) {
    (void)code;
    ((struct vt *)machine)->resets += request == MACHINE_RESET;
}

void vt_init(struct vt *vt) {
    const struct pci_host_opts opts = {.ecam_base = VT_ECAM,
                                       .ecam_buses = 2,
                                       .mem32 = {0xc1000000, 0x1f000000},
                                       .mem64 = {64 * GIB, 64 * GIB},
                                       .io = {0x1000, 0xf000}};
    memset(vt, 0, sizeof(*vt));
    vt->fake = fake_host_create();
    vt->engine = (struct engine_vm){.ops = &capture_ops, .host = &vt->fake->host, .vcpu_count = 1};
    vt->pio.limit = 0xffff;
    vt->mmio.limit = BIT(52) - 1;
    vt->mem = aligned_alloc(4096, VT_RAM_SIZE);
    if (!vt->mem || irqchip_create(&vt->engine, ENGINE_CAP_IRQCHIP, &vt->irq, NULL) ||
        ram_add(&vt->ram, 0, VT_RAM_SIZE, vt->mem, 0)) {
        abort();
    }
    memset(vt->mem, 0, VT_RAM_SIZE);
    vt->ram.written = capture_written;
    vt->ram.written_ctx = vt;
    vt->next = 0x1000;
    vt->env = (struct device_env){.host = &vt->fake->host,
                                  .lock = &vt->lock,
                                  .pio = &vt->pio,
                                  .mmio = &vt->mmio,
                                  .ram = &vt->ram,
                                  .irq = vt->irq,
                                  .request = capture_request,
                                  .machine = vt};
    if (pci_host_init(&vt->host, &vt->env, &opts, NULL)) {
        abort();
    }
}

void vt_fini(struct vt *vt) {
    for (u32 d = 1; d < ARRAY_LEN(vt->host.function); d++) {
        if (vt->host.function[d]) {
            vt->host.function[d]->dev.ops->remove(&vt->host.function[d]->dev);
        }
    }
    vt->host.bridge.dev.ops->remove(&vt->host.bridge.dev);
    irqchip_destroy(vt->irq);
    if (vt->fake->allocated || vt->mmio.first || vt->pio.first || vt->lock.word) {
        abort(); /* something was left behind */
    }
    fake_host_destroy(vt->fake);
    free(vt->mem);
}

u64 vt_alloc(struct vt *vt, u64 size, u64 align) {
    u64 at = ALIGN_UP(vt->next, align);
    vt->next = at + size;
    if (vt->next > VT_RAM_SIZE) {
        abort();
    }
    return at;
}

static void lock(struct vt *vt) {
    mutex_lock(&vt->fake->host, &vt->lock);
}

static void unlock(struct vt *vt) {
    mutex_unlock(&vt->fake->host, &vt->lock);
}

u64 vt_read(struct vt *vt, u64 address, u32 size) {
    lock(vt);
    u64 value = bus_read(&vt->mmio, address, size);
    unlock(vt);
    return value;
}

void vt_write(struct vt *vt, u64 address, u32 size, u64 value) {
    lock(vt);
    bus_write(&vt->mmio, address, size, value);
    unlock(vt);
}

u32 vt_config_read(struct vt *vt, u32 devfn, u32 reg, u32 size) {
    lock(vt);
    bus_write(&vt->pio, 0xcf8, 4, BIT(31) | devfn << 8 | (reg & 0xfc));
    u32 value = (u32)bus_read(&vt->pio, 0xcfc + (reg & 3), size);
    unlock(vt);
    return value;
}

void vt_config_write(struct vt *vt, u32 devfn, u32 reg, u32 size, u32 value) {
    lock(vt);
    bus_write(&vt->pio, 0xcf8, 4, BIT(31) | devfn << 8 | (reg & 0xfc));
    bus_write(&vt->pio, 0xcfc + (reg & 3), size, value);
    unlock(vt);
}

u32 vt_msis_with(const struct vt *vt, u32 data) {
    u32 n = 0;
    for (u32 i = 0; i < VT_MSIS && i < vt->msi_count; i++) {
        n += vt->msi[i].data == data;
    }
    return n;
}

u8 *vt_save(struct device *dev, size_t *len) {
    struct snap_writer w = {0};
    dev->ops->save(dev, &w);
    u8 *buf = malloc(w.len);
    w = (struct snap_writer){.buf = buf, .cap = w.len};
    dev->ops->save(dev, &w);
    if (!buf || w.failed || w.len != w.cap) {
        abort();
    }
    *len = w.len;
    return buf;
}

int vt_load(struct device *dev, const u8 *data, size_t len) {
    struct snap_reader r = {.buf = data, .len = len};
    int error = dev->ops->load(dev, &r, dev->ops->version);
    return error ? error : snap_finish(&r);
}

/* --- finding a device ------------------------------------------------------------------------- */

static u64 bar_address(struct vt *vt, u32 devfn, u32 bar) {
    u64 low = vt_config_read(vt, devfn, 0x10 + bar * 4, 4);
    u64 high = low & 4 ? vt_config_read(vt, devfn, 0x14 + bar * 4, 4) : 0;
    return (low & ~15ull) | high << 32;
}

static void take_virtio_cap(struct vd *d, u32 cap) {
    struct vt *vt = d->vt;
    u64 at = bar_address(vt, d->devfn, vt_config_read(vt, d->devfn, cap + 4, 1)) +
             vt_config_read(vt, d->devfn, cap + 8, 4);
    switch (vt_config_read(vt, d->devfn, cap + 3, 1)) {
    case 1:
        d->common = at;
        break;
    case 2:
        d->notify = at;
        d->notify_multiplier = vt_config_read(vt, d->devfn, cap + 16, 4);
        break;
    case 3:
        d->isr = at;
        break;
    case 4:
        d->device = at;
        break;
    case 5:
        d->cfg_cap = (u8)cap;
        break;
    default:
        break;
    }
}

bool vd_find_pci(struct vd *d, struct vt *vt, u32 slot) {
    memset(d, 0, sizeof(*d));
    d->vt = vt;
    d->pci = true;
    d->devfn = slot * 8;
    if (vt_config_read(vt, d->devfn, 0, 2) != 0x1af4) {
        return false;
    }
    vt_config_write(vt, d->devfn, 4, 2, 6); /* memory, bus master */
    u32 cap = vt_config_read(vt, d->devfn, 0x34, 1);
    for (u32 guard = 0; cap && guard < 48; guard++) {
        u32 id = vt_config_read(vt, d->devfn, cap, 1);
        if (id == 0x09) {
            take_virtio_cap(d, cap);
        } else if (id == 0x11) {
            d->msix_cap = (u8)cap;
            u32 table = vt_config_read(vt, d->devfn, cap + 4, 4);
            d->msix_table = bar_address(vt, d->devfn, table & 7) + (table & ~7u);
        }
        cap = vt_config_read(vt, d->devfn, cap + 1, 1);
    }
    return d->common && d->notify && d->isr && d->cfg_cap && d->msix_cap;
}

bool vd_find_mmio(struct vd *d, struct vt *vt, u64 base) {
    memset(d, 0, sizeof(*d));
    d->vt = vt;
    d->common = base;
    d->device = base + 0x100;
    return vt_read(vt, base, 4) == 0x74726976 && vt_read(vt, base + 4, 4) == 2 &&
           vt_read(vt, base + 8, 4) != 0;
}

void vd_msix_on(struct vd *d) {
    u32 control = vt_config_read(d->vt, d->devfn, d->msix_cap + 2u, 2);
    for (u32 v = 0; v <= (control & 0x7ff); v++) {
        vt_write(d->vt, d->msix_table + v * 16, 4, 0xfee00000);
        vt_write(d->vt, d->msix_table + v * 16 + 4, 4, 0);
        vt_write(d->vt, d->msix_table + v * 16 + 8, 4, 0x40 + v);
        vt_write(d->vt, d->msix_table + v * 16 + 12, 4, 0);
    }
    vt_config_write(d->vt, d->devfn, d->msix_cap + 2u, 2, control | 0x8000);
}

/* --- negotiation ------------------------------------------------------------------------------ */

u8 vd_status(struct vd *d) {
    return (u8)(d->pci ? vt_read(d->vt, d->common + 0x14, 1) : vt_read(d->vt, d->common + 0x70, 4));
}

void vd_set_status(struct vd *d, u8 status) {
    if (d->pci) {
        vt_write(d->vt, d->common + 0x14, 1, status);
    } else {
        vt_write(d->vt, d->common + 0x70, 4, status);
    }
}

u64 vd_offered(struct vd *d) {
    u64 value = 0;
    for (u32 i = 0; i < 2; i++) {
        vt_write(d->vt, d->common + (d->pci ? 0 : 0x14), 4, i);
        value |= vt_read(d->vt, d->common + (d->pci ? 4 : 0x10), 4) << (i * 32);
    }
    return value;
}

bool vd_negotiate(struct vd *d, u64 features) {
    vd_set_status(d, 0);
    if (vd_status(d) != 0) {
        return false;
    }
    vd_set_status(d, 1);
    vd_set_status(d, 3);
    for (u32 i = 0; i < 2; i++) {
        vt_write(d->vt, d->common + (d->pci ? 8 : 0x24), 4, i);
        vt_write(d->vt, d->common + (d->pci ? 0xc : 0x20), 4, (u32)(features >> (i * 32)));
    }
    vd_set_status(d, 3 | 8);
    d->features = features;
    return vd_status(d) == (3 | 8);
}

static void queue_select(struct vd *d, u32 q) {
    if (d->pci) {
        vt_write(d->vt, d->common + 0x16, 2, q);
    } else {
        vt_write(d->vt, d->common + 0x30, 4, q);
    }
}

u16 vd_queue_max(struct vd *d, u32 q) {
    queue_select(d, q);
    return (u16)(d->pci ? vt_read(d->vt, d->common + 0x18, 2)
                        : vt_read(d->vt, d->common + 0x34, 4));
}

static void write64(struct vd *d, u64 address, u64 value) {
    vt_write(d->vt, address, 4, (u32)value);
    vt_write(d->vt, address + 4, 4, value >> 32);
}

void vd_queue_program(struct vd *d, u32 q) {
    struct vd_queue *vq = &d->q[q];
    queue_select(d, q);
    if (d->pci) {
        vt_write(d->vt, d->common + 0x18, 2, vq->size);
        vt_write(d->vt, d->common + 0x1a, 2, q + 1);
        write64(d, d->common + 0x20, vq->desc);
        write64(d, d->common + 0x28, vq->avail);
        write64(d, d->common + 0x30, vq->used);
        vt_write(d->vt, d->common + 0x1c, 2, 1);
    } else {
        vt_write(d->vt, d->common + 0x38, 4, vq->size);
        write64(d, d->common + 0x80, vq->desc);
        write64(d, d->common + 0x90, vq->avail);
        write64(d, d->common + 0xa0, vq->used);
        vt_write(d->vt, d->common + 0x44, 4, 1);
    }
}

void vd_queue_setup(struct vd *d, u32 q, u16 size) {
    struct vd_queue *vq = &d->q[q];
    memset(vq, 0, sizeof(*vq));
    vq->size = size;
    vq->desc = vt_alloc(d->vt, 16ull * size, 16);
    vq->avail = vt_alloc(d->vt, 6 + 2ull * size, 2);
    vq->used = vt_alloc(d->vt, 6 + 8ull * size, 4);
    memset(d->vt->mem + vq->desc, 0, d->vt->next - vq->desc);
    for (u16 i = 0; i < size; i++) {
        vq->free[vq->free_count++] = (u16)(size - 1 - i);
    }
    vd_queue_program(d, q);
}

void vd_driver_ok(struct vd *d) {
    vd_set_status(d, 1 | 2 | 8 | 4);
}

bool vd_start(struct vd *d, u64 features, u32 queues) {
    if (!vd_negotiate(d, features | VIRTIO_F_VERSION_1)) {
        return false;
    }
    if (d->pci) {
        vt_write(d->vt, d->common + 0x10, 2, 0); /* configuration changes: vector 0 */
    }
    for (u32 q = 0; q < queues; q++) {
        vd_queue_setup(d, q, VD_QUEUE_SIZE);
    }
    vd_driver_ok(d);
    return vd_status(d) == 15;
}

u32 vd_config(struct vd *d, u32 offset, u32 size) {
    return (u32)vt_read(d->vt, d->device + offset, size);
}

void vd_config_set(struct vd *d, u32 offset, u32 size, u32 value) {
    vt_write(d->vt, d->device + offset, size, value);
}

u32 vd_interrupt_status(struct vd *d) {
    if (d->pci) {
        return (u32)vt_read(d->vt, d->isr, 1);
    }
    u32 status = (u32)vt_read(d->vt, d->common + 0x60, 4);
    vt_write(d->vt, d->common + 0x64, 4, status);
    return status;
}

/* --- rings ------------------------------------------------------------------------------------ */

static void put16(struct vd *d, u64 gpa, u16 value) {
    memcpy(d->vt->mem + gpa, &value, 2);
}

static u16 get16(struct vd *d, u64 gpa) {
    u16 value;
    memcpy(&value, d->vt->mem + gpa, 2);
    return value;
}

static void desc_put(struct vd *d, u64 at, u64 gpa, u32 len, u16 flags, u16 next) {
    memcpy(d->vt->mem + at, &gpa, 8);
    memcpy(d->vt->mem + at + 8, &len, 4);
    put16(d, at + 12, flags);
    put16(d, at + 14, next);
}

void vd_desc_set(struct vd *d, u32 q, u16 index, u64 gpa, u32 len, u16 flags, u16 next) {
    desc_put(d, d->q[q].desc + index * 16u, gpa, len, flags, next);
}

void vd_avail_push(struct vd *d, u32 q, u16 head) {
    struct vd_queue *vq = &d->q[q];
    put16(d, vq->avail + 4 + (vq->avail_idx & (vq->size - 1u)) * 2, head);
    put16(d, vq->avail + 2, ++vq->avail_idx);
}

int vd_add(struct vd *d, u32 q, const struct vd_seg *seg, u32 count) {
    struct vd_queue *vq = &d->q[q];
    if (count > vq->free_count) {
        return -1;
    }
    u16 head = vq->free[vq->free_count - 1], index = head;
    for (u32 i = 0; i < count; i++) {
        index = vq->free[--vq->free_count];
        bool last = i + 1 == count;
        u16 next = last ? 0 : vq->free[vq->free_count - 1];
        vq->chain_next[index] = next;
        vd_desc_set(d, q, index, seg[i].gpa, seg[i].len,
                    (u16)((last ? 0 : 1) | (seg[i].write ? 2 : 0)), next);
    }
    vq->chain_len[head] = (u16)count;
    vd_avail_push(d, q, head);
    return head;
}

int vd_add_indirect(struct vd *d, u32 q, const struct vd_seg *seg, u32 count) {
    struct vd_queue *vq = &d->q[q];
    u64 table = vt_alloc(d->vt, count * 16ull, 16);
    if (!vq->free_count) {
        return -1;
    }
    for (u32 i = 0; i < count; i++) {
        bool last = i + 1 == count;
        desc_put(d, table + i * 16ull, seg[i].gpa, seg[i].len,
                 (u16)((last ? 0 : 1) | (seg[i].write ? 2 : 0)), (u16)(last ? 0 : i + 1));
    }
    u16 head = vq->free[--vq->free_count];
    vq->chain_len[head] = 1;
    vd_desc_set(d, q, head, table, count * 16, 4, 0);
    vd_avail_push(d, q, head);
    return head;
}

void vd_kick(struct vd *d, u32 q) {
    if (d->pci) {
        vt_write(d->vt, d->notify + q * d->notify_multiplier, 2, q);
    } else {
        vt_write(d->vt, d->common + 0x50, 4, q);
    }
}

bool vd_wants_kick(struct vd *d, u32 q) {
    struct vd_queue *vq = &d->q[q];
    if (d->features & VIRTIO_F_EVENT_IDX) {
        u16 event = get16(d, vq->used + 4 + vq->size * 8u);
        return (u16)(vq->avail_idx - event - 1) < 1; /* for one buffer added last */
    }
    return !(get16(d, vq->used) & 1);
}

int vd_used(struct vd *d, u32 q, u32 *len) {
    struct vd_queue *vq = &d->q[q];
    u32 elem[2];
    if (get16(d, vq->used + 2) == vq->used_idx) {
        return -1;
    }
    memcpy(elem, d->vt->mem + vq->used + 4 + (vq->used_idx & (vq->size - 1u)) * 8, 8);
    vq->used_idx++;
    if (len) {
        *len = elem[1];
    }
    u16 index = (u16)elem[0], count = index < vq->size ? vq->chain_len[index] : 0;
    while (count-- && index < vq->size && vq->free_count < vq->size) {
        vq->free[vq->free_count++] = index;
        index = vq->chain_next[index];
    }
    return (int)elem[0];
}

void vd_no_interrupt(struct vd *d, u32 q, bool off) {
    put16(d, d->q[q].avail, off);
}

void vd_set_used_event(struct vd *d, u32 q, u16 event) {
    put16(d, d->q[q].avail + 4 + d->q[q].size * 2u, event);
}
