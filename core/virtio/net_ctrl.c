/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control queue of the virtio network device: virtio 1.2, section 5.1.6.5. A command is
 *
 *   chain [class u8 | command u8 | data] [ack u8]     ack: 0 done, 1 refused
 *
 * Left out: VLAN filtering, RSS and hash reports, notification coalescing. Lock rule: board lock
 * held.
 */
#include "core/virtio/net_int.h"

enum { CTRL_RX = 0, CTRL_MAC = 1, CTRL_ANNOUNCE = 3, CTRL_MQ = 4, CTRL_GUEST_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { CTRL_OK = 0, CTRL_ERR = 1, CTRL_DATA = 2 /* offset of the data */ };

/* --- filter ----------------------------------------------------------------------------------- */

/* Until the driver says what it wants it gets everything. */
void net_filter_reset(struct net_filter *f) {
    *f = (struct net_filter){.promisc = true};
}

static bool macs_have(const struct net_macs *t, const u8 *mac) {
    for (u32 i = 0; i < t->count; i++) {
        if (memcmp(t->mac[i], mac, 6) == 0) {
            return true;
        }
    }
    return t->overflow;
}

bool net_filter_accepts(const struct virtio_net *net, const u8 *destination) {
    static const u8 broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_filter *f = &net->filter;
    if (f->promisc) {
        return true;
    }
    if (memcmp(destination, broadcast, 6) == 0) {
        return !f->nobcast;
    }
    if (destination[0] & 1) {
        return !f->nomulti && (f->allmulti || macs_have(&f->multi, destination));
    }
    return !f->nouni && (f->alluni || memcmp(destination, net->vdev.config, 6) == 0 ||
                         macs_have(&f->uni, destination));
}

/* --- commands --------------------------------------------------------------------------------- */

static bool data_get(const struct vq_chain *c, u64 at, void *data, size_t size) {
    return vq_chain_read(c, CTRL_DATA + at, data, size) == size;
}

static bool set_rx_mode(struct virtio_net *net, const struct vq_chain *c, u8 command) {
    struct net_filter *f = &net->filter;
    bool *const mode[] = {&f->promisc, &f->allmulti, &f->alluni,
                          &f->nomulti, &f->nouni,    &f->nobcast};
    u64 need = command > RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX;
    u8 on;
    if (!(net->vdev.features & need) || command >= ARRAY_LEN(mode) || !data_get(c, 0, &on, 1)) {
        return false;
    }
    *mode[command] = on;
    return true;
}

/* One table: le32 count, then addresses. Returns where the next begins, 0 when it does not fit. */
static u64 macs_get(const struct vq_chain *c, u64 at, struct net_macs *t) {
    u32 count;
    if (!data_get(c, at, &count, sizeof(count)) || count > c->out_len / 6) {
        return 0;
    }
    t->overflow = count > NET_MACS_MAX;
    t->count = t->overflow ? 0 : count;
    u64 end = at + sizeof(count) + (u64)count * 6;
    if (CTRL_DATA + end > c->out_len ||
        (t->count && !data_get(c, at + sizeof(count), t->mac, t->count * 6ul))) {
        return 0;
    }
    return end;
}

static bool set_mac(struct virtio_net *net, const struct vq_chain *c, u8 command) {
    struct net_macs uni = {0}, multi = {0};
    u8 mac[6];
    u64 at;
    switch (command) {
    case MAC_TABLE_SET:
        at = macs_get(c, 0, &uni);
        if (!(net->vdev.features & VIRTIO_NET_F_CTRL_RX) || !at || !macs_get(c, at, &multi)) {
            return false;
        }
        net->filter.uni = uni;
        net->filter.multi = multi;
        return true;
    case MAC_ADDR_SET:
        if (!(net->vdev.features & VIRTIO_NET_F_CTRL_MAC_ADDR) || !data_get(c, 0, mac, 6)) {
            return false;
        }
        virtio_set_config(&net->vdev, 0, mac, 6);
        return true;
    default:
        return false;
    }
}

static bool set_pairs(struct virtio_net *net, const struct vq_chain *c, u8 command) {
    u16 pairs;
    if (!(net->vdev.features & VIRTIO_NET_F_MQ) || command || !data_get(c, 0, &pairs, 2) ||
        !pairs || pairs > net->pairs) {
        return false;
    }
    net->pairs_active = pairs;
    memset(net->steer, 0, sizeof(net->steer));
    return true;
}

void net_set_offloads(struct virtio_net *net, u64 offloads) {
    net->rx_offloads = offloads;
    if (net->be && net->be->ops->set_offloads) {
        net->be->ops->set_offloads(net->be, offloads);
    }
}

static bool set_offloads(struct virtio_net *net, const struct vq_chain *c, u8 command) {
    u64 offloads;
    if (!(net->vdev.features & VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || command ||
        !data_get(c, 0, &offloads, 8) || (offloads & ~(net->vdev.features & NET_RX_OFFLOADS))) {
        return false;
    }
    net_set_offloads(net, offloads);
    return true;
}

static bool announced(struct virtio_net *net, u8 command) {
    if (!(net->vdev.features & VIRTIO_NET_F_GUEST_ANNOUNCE) || command) {
        return false;
    }
    net->vdev.config[offsetof(struct net_config, status)] &= (u8)~NET_S_ANNOUNCE;
    return true;
}

static bool command_do(struct virtio_net *net, const struct vq_chain *c) {
    u8 what[2];
    if (vq_chain_read(c, 0, what, 2) < 2) {
        return false;
    }
    switch (what[0]) {
    case CTRL_RX:
        return set_rx_mode(net, c, what[1]);
    case CTRL_MAC:
        return set_mac(net, c, what[1]);
    case CTRL_ANNOUNCE:
        return announced(net, what[1]);
    case CTRL_MQ:
        return set_pairs(net, c, what[1]);
    case CTRL_GUEST_OFFLOADS:
        return set_offloads(net, c, what[1]);
    default:
        return false;
    }
}

bool net_ctrl_run(struct virtio_net *net, u32 queue) {
    struct virtio_device *vdev = &net->vdev;
    struct vq *vq = &vdev->queue[queue].vq;
    u32 done = 0;
    int got = 1;
    vq_notify_off(vq);
    while (done < vq->size && (got = virtio_pop(vdev, queue, &net->chain)) > 0) {
        u8 ack = command_do(net, &net->chain) ? CTRL_OK : CTRL_ERR;
        size_t n = vq_chain_write(vdev->env->ram, &net->chain, 0, &ack, 1);
        virtio_push(vdev, queue, net->chain.head, (u32)n);
        done++;
    }
    if (done) {
        virtio_signal(vdev, queue);
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}
