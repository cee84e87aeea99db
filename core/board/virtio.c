/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio devices of a PC: on PCI, or in windows of 4 KiB from 0xc0001000 with a GSI each. Which
 * GSIs: those that no ISA device, the SCI or PCI uses, ISA ones first because kernels without an
 * IOAPIC reach only these.
 */
#include "core/base/fmt.h"
#include "core/board/doorbell.h"
#include "core/board/pc_int.h"
#include "core/virtio/blk.h"
#include "core/virtio/console.h"
#include "core/virtio/fs.h"
#include "core/virtio/net.h"
#include "core/virtio/rng.h"
#include "core/virtio/vmmio.h"
#include "core/virtio/vpci.h"
#include "core/virtio/vsock.h"

#define WINDOWS_BASE 0xc0001000ull

static const u8 window_gsis[] = {5, 6, 7, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 13, 12};

_Static_assert(sizeof(window_gsis) <= PLATFORM_MAX_MMIO, "every GSI has a window");

/* --- doorbells ---------------------------------------------------------------------------------
 */

/* Without memory for it the devices work all the same, with an exit per notification. */
static void use_doorbells(struct pc *pc, const struct machine_config *cfg) {
    struct vm *vm = pc->vm;
    if ((vm->caps & ENGINE_CAP_DOORBELL) && !cfg->no_doorbell) {
        pc->doorbells = doorbells_create(vm->host, &vm->engine);
    }
}

static void set_hooks(struct pc *pc, virtio_doorbell_fn fn) {
    struct vm *vm = pc->vm;
    mutex_lock(vm->host, &vm->lock);
    for (u32 i = 0; i < pc->virtio_count; i++) {
        virtio_set_doorbell_hook(pc->virtio[i], fn, pc->doorbells);
    }
    mutex_unlock(vm->host, &vm->lock);
}

void pc_remove_doorbells(struct pc *pc) {
    if (pc->doorbells) {
        set_hooks(pc, NULL);
        doorbells_destroy(pc->doorbells);
        pc->doorbells = NULL;
    }
}

/* --- transports --------------------------------------------------------------------------------
 */

static struct device *attach_mmio(struct pc *pc, struct virtio_device *vdev, struct err *err) {
    struct platform *plat = &pc->plat;
    u32 n = plat->mmio_count;
    if (n == sizeof(window_gsis)) {
        ERR_SET(err, ERR_RANGE, "more than %u virtio devices on MMIO: put some on PCI",
                (u32)sizeof(window_gsis));
        return NULL;
    }
    struct platform_mmio m = {.base = WINDOWS_BASE + (u64)n * VIRTIO_MMIO_SIZE,
                              .size = VIRTIO_MMIO_SIZE,
                              .gsi = window_gsis[n]};
    struct device *dev = virtio_mmio_attach(&pc->vm->env, vdev, m.base, m.gsi, err);
    if (dev) {
        plat->mmio[plat->mmio_count++] = m;
    }
    return dev;
}

/* Takes vdev over, also when it fails. */
static int attach(struct pc *pc, const struct machine_config *cfg, struct virtio_device *vdev,
                  enum device_transport transport, const char *id, struct err *err) {
    struct vm *vm = pc->vm;
    if (!vdev) {
        return ERR_SET(err, ERR_NOMEM, "%s cannot be created", id);
    }
    if (transport == TRANSPORT_DEFAULT) {
        transport = cfg->transport == TRANSPORT_MMIO ? TRANSPORT_MMIO : TRANSPORT_PCI;
    }
    struct device *dev = transport == TRANSPORT_MMIO
                             ? attach_mmio(pc, vdev, err)
                             : virtio_pci_attach(&pc->host, vdev, PCI_SLOT_AUTO, err);
    if (!dev) {
        vdev->ops->destroy(vdev);
        return ERR_SET(err, ERR_RANGE, "%s: no place on the bus", id);
    }
    int rc = device_add(&vm->devices, dev, id);
    if (rc) {
        dev->ops->remove(dev);
        return ERR_SET(err, ERR_EXISTS, "%s: there are two of it", id);
    }
    if (pc->virtio_count < ARRAY_LEN(pc->virtio)) {
        pc->virtio[pc->virtio_count++] = vdev;
    }
    return 0;
}

/* --- devices -----------------------------------------------------------------------------------
 */

static int add_disk(struct pc *pc, const struct machine_config *cfg, u32 i, struct err *err) {
    const struct disk_config *d = &cfg->disk[i];
    char id[16], serial[21];
    fmt_str(id, sizeof(id), "disk%u", i);
    fmt_str(serial, sizeof(serial), "sosia-disk%u", i);
    struct virtio_blk_opts opts = {
        .serial = d->serial[0] ? d->serial : serial, .queues = d->queues, .readonly = d->readonly};
    struct virtio_device *vdev = virtio_blk_create(&pc->vm->env, d->backend, &opts, err);
    return attach(pc, cfg, vdev, d->transport, id, err);
}

static int add_net(struct pc *pc, const struct machine_config *cfg, u32 i, struct err *err) {
    static const u8 none[6] = {0};
    const struct net_config *n = &cfg->net[i];
    struct virtio_net_opts opts = {.mac = {0x52, 0x54, 0x00, 0x50, 0x1a, (u8)i},
                                   .mtu = n->mtu,
                                   .pairs = n->queues,
                                   .rx = n->rx,
                                   .tx = n->tx};
    char id[16];
    fmt_str(id, sizeof(id), "net%u", i);
    if (memcmp(n->mac, none, sizeof(none)) != 0) {
        memcpy(opts.mac, n->mac, sizeof(opts.mac));
    }
    struct virtio_device *vdev = virtio_net_create(&pc->vm->env, n->backend, &opts, err);
    return attach(pc, cfg, vdev, n->transport, id, err);
}

static int add_share(struct pc *pc, const struct machine_config *cfg, u32 i, struct err *err) {
    const struct share_config *c = &cfg->share[i];
    char id[16];
    fmt_str(id, sizeof(id), "share%u", i);
    struct virtio_device *vdev = virtio_fs_create(&pc->vm->env, c->backend, c->tag, err);
    return attach(pc, cfg, vdev, c->transport, id, err);
}

static int add_all(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    struct device_env *env = &pc->vm->env;
    int rc = 0;
    for (u32 i = 0; i < cfg->disk_count && !rc; i++) {
        rc = add_disk(pc, cfg, i, err);
    }
    for (u32 i = 0; i < cfg->net_count && !rc; i++) {
        rc = add_net(pc, cfg, i, err);
    }
    for (u32 i = 0; i < cfg->share_count && !rc; i++) {
        rc = add_share(pc, cfg, i, err);
    }
    if (!rc && cfg->console) {
        struct virtio_console_opts opts = {0};
        rc = attach(pc, cfg, virtio_console_create(env, cfg->console, &opts, err),
                    TRANSPORT_DEFAULT, "console", err);
    }
    if (!rc && cfg->rng) {
        rc = attach(pc, cfg, virtio_rng_create(env, &cfg->rng_limit, err), TRANSPORT_DEFAULT, "rng",
                    err);
    }
    if (!rc && cfg->balloon.present) {
        rc = attach(pc, cfg, virtio_balloon_create(env, &cfg->balloon.opts, err), TRANSPORT_DEFAULT,
                    "balloon", err);
    }
    if (!rc && cfg->seed) {
        const struct virtio_blk_opts opts = {.serial = "sosia-seed", .readonly = true};
        rc = attach(pc, cfg, virtio_blk_create(env, cfg->seed, &opts, err), TRANSPORT_DEFAULT,
                    "seed", err);
    }
    if (!rc && cfg->vsock.backend) {
        rc = attach(pc, cfg, virtio_vsock_create(env, cfg->vsock.backend, cfg->vsock.cid, err),
                    TRANSPORT_DEFAULT, "vsock", err);
    }
    return rc;
}

int pc_add_virtio(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    int rc = add_all(pc, cfg, err);
    use_doorbells(pc, cfg);
    if (!rc && pc->doorbells) {
        set_hooks(pc, doorbells_want);
    }
    return rc;
}

/* --- while it runs -----------------------------------------------------------------------------
 */

/* The device of a kind that was added as number i, or NULL. */
static struct virtio_device *find(struct pc *pc, u16 device_id, u32 i) {
    for (u32 n = 0; n < pc->virtio_count; n++) {
        if (pc->virtio[n]->ops->device_id == device_id && i-- == 0) {
            return pc->virtio[n];
        }
    }
    return NULL;
}

bool pc_net_stats(struct pc *pc, u32 i, struct virtio_net_stats *out) {
    struct virtio_device *vdev = find(pc, VIRTIO_ID_NET, i);
    if (vdev) {
        virtio_net_get_stats(vdev, out);
    }
    return vdev;
}

void pc_net_limit(struct pc *pc, u32 i, const struct rate_limit *rx, const struct rate_limit *tx) {
    struct virtio_device *vdev = find(pc, VIRTIO_ID_NET, i);
    if (vdev) {
        virtio_net_set_limits(vdev, rx, tx);
    }
}

int pc_disk_change(struct pc *pc, u32 i, struct block_backend *backend, struct err *err) {
    struct virtio_device *vdev = find(pc, VIRTIO_ID_BLOCK, i);
    return vdev ? virtio_blk_change(vdev, backend, err)
                : ERR_SET(err, ERR_NOTFOUND, "there is no disk %u", i);
}

bool pc_disk_stats(struct pc *pc, u32 i, struct virtio_blk_stats *out) {
    struct virtio_device *vdev = find(pc, VIRTIO_ID_BLOCK, i);
    if (vdev) {
        virtio_blk_get_stats(vdev, out);
    }
    return vdev;
}

static struct virtio_device *balloon_of(struct pc *pc) {
    return find(pc, VIRTIO_ID_BALLOON, 0);
}

int pc_balloon_set_target(struct pc *pc, u32 mib) {
    struct virtio_device *vdev = balloon_of(pc);
    return vdev ? balloon_set_target(vdev, mib) : -ERR_NOTFOUND;
}

int pc_balloon_stats(struct pc *pc, struct balloon_stats *out) {
    struct virtio_device *vdev = balloon_of(pc);
    if (vdev) {
        balloon_stats_get(vdev, out);
    }
    return vdev ? 0 : -ERR_NOTFOUND;
}

int pc_balloon_set_interval(struct pc *pc, u32 seconds) {
    struct virtio_device *vdev = balloon_of(pc);
    return vdev ? balloon_set_interval(vdev, seconds) : -ERR_NOTFOUND;
}

int pc_balloon_hinting_start(struct pc *pc, bool acknowledge) {
    struct virtio_device *vdev = balloon_of(pc);
    return vdev ? balloon_hinting_start(vdev, acknowledge) : -ERR_NOTFOUND;
}

int pc_balloon_hinting_stop(struct pc *pc) {
    struct virtio_device *vdev = balloon_of(pc);
    return vdev ? balloon_hinting_stop(vdev) : -ERR_NOTFOUND;
}

int pc_balloon_hinting_get(struct pc *pc, struct balloon_hinting *out) {
    struct virtio_device *vdev = balloon_of(pc);
    return vdev ? balloon_hinting_get(vdev, out) : -ERR_NOTFOUND;
}

bool pc_vsock_stats(struct pc *pc, struct virtio_vsock_stats *out) {
    struct virtio_device *vdev = find(pc, VIRTIO_ID_VSOCK, 0);
    if (vdev) {
        virtio_vsock_get_stats(vdev, out);
    }
    return vdev;
}
