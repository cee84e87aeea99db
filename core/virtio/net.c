/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio network device: virtio 1.2, section 5.1. Its life, features, configuration and saved
 * state; frames in net_rx.c and net_tx.c, the control queue in net_ctrl.c.
 *
 * Offloads for transmission are always offered: what the back end cannot do is done here. Those for
 * reception are offered as far as the back end has a use for them.
 *
 * Left out: UDP segmentation, VLAN filtering, RSS, hash reports, notification coalescing, speed and
 * duplex, standby. Lock rule: board lock held; net_receive, net_writable, net_link and the timers
 * come without and take it.
 */
#include "core/base/err.h"
#include "core/virtio/net_int.h"

/* --- queues ----------------------------------------------------------------------------------- */

static bool net_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_net *net = net_of(vdev);
    if ((vdev->features & VIRTIO_NET_F_CTRL_VQ) && queue == net_ctrl_queue(net)) {
        return net_ctrl_run(net, queue);
    }
    if (queue / 2 >= net->pairs_active) {
        return false;
    }
    if (queue & 1) {
        return net_tx_run(net, queue);
    }
    net_rx_ready(net);
    return false;
}

static void net_writable(void *device) {
    struct virtio_net *net = device;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    if (net->tx_blocked) {
        net_tx_run_all(net);
    }
    mutex_unlock(env->host, env->lock);
}

static void tx_timer_fire(void *ctx) {
    struct virtio_net *net = ctx;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    if (vtimer_due(&net->tx_timer, host_now(env->host))) {
        net_tx_run_all(net);
    }
    mutex_unlock(env->host, env->lock);
}

static void rx_timer_fire(void *ctx) {
    struct virtio_net *net = ctx;
    struct device_env *env = net->vdev.env;
    mutex_lock(env->host, env->lock);
    if (vtimer_due(&net->rx_timer, host_now(env->host))) {
        net_rx_ready(net);
    }
    mutex_unlock(env->host, env->lock);
}

/* --- configuration ---------------------------------------------------------------------------- */

static void status_set(struct virtio_net *net, u8 clear, u8 set) {
    u8 *status = &net->vdev.config[offsetof(struct net_config, status)];
    u8 value = (*status & (u8)~clear) | set;
    if (*status != value) {
        *status = value;
        virtio_config_changed(&net->vdev);
    }
}

static void net_link(void *device, bool up) {
    virtio_net_set_link(&((struct virtio_net *)device)->vdev, up);
}

void virtio_net_set_link(struct virtio_device *vdev, bool up) {
    mutex_lock(vdev->env->host, vdev->env->lock);
    status_set(net_of(vdev), NET_S_LINK_UP, up ? NET_S_LINK_UP : 0);
    mutex_unlock(vdev->env->host, vdev->env->lock);
}

void virtio_net_announce(struct virtio_device *vdev) {
    mutex_lock(vdev->env->host, vdev->env->lock);
    if (vdev->features & VIRTIO_NET_F_GUEST_ANNOUNCE) {
        status_set(net_of(vdev), 0, NET_S_ANNOUNCE);
    }
    mutex_unlock(vdev->env->host, vdev->env->lock);
}

void virtio_net_set_limits(struct virtio_device *vdev, const struct rate_limit *rx,
                           const struct rate_limit *tx) {
    struct virtio_net *net = net_of(vdev);
    struct host *host = vdev->env->host;
    mutex_lock(host, vdev->env->lock);
    if (rx) {
        rate_limiter_init(&net->rx_limit, rx, host_now(host));
        net_rx_ready(net);
    }
    if (tx) {
        rate_limiter_init(&net->tx_limit, tx, host_now(host));
        net_tx_run_all(net);
    }
    mutex_unlock(host, vdev->env->lock);
}

void virtio_net_get_stats(struct virtio_device *vdev, struct virtio_net_stats *out) {
    mutex_lock(vdev->env->host, vdev->env->lock);
    *out = net_of(vdev)->stats;
    mutex_unlock(vdev->env->host, vdev->env->lock);
}

/* --- start, reset, saving --------------------------------------------------------------------- */

static void net_start(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    net_set_offloads(net, net->rx_offloads & vdev->features & NET_RX_OFFLOADS);
}

static void net_reset(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    net->tx_blocked = false;
    net->pairs_active = 1;
    net->rx_offloads = NET_RX_OFFLOADS; /* those the driver accepts count from net_start on */
    net_filter_reset(&net->filter);
    memcpy(vdev->config, net->mac, sizeof(net->mac));
    vtimer_cancel(&net->tx_timer);
    vtimer_cancel(&net->rx_timer);
    vdev->config[offsetof(struct net_config, status)] &= (u8)~NET_S_ANNOUNCE;
    net_rx_ready(net); /* what waits there is to be thrown away */
}

static void macs_save(const struct net_macs *t, struct snap_writer *w) {
    snap_put32(w, t->count);
    snap_put8(w, t->overflow);
    snap_put(w, t->mac, t->count * 6ul);
}

static void macs_load(struct net_macs *t, struct snap_reader *r) {
    *t = (struct net_macs){.count = snap_get32(r)};
    t->overflow = snap_get_bool(r);
    if (t->count > NET_MACS_MAX) {
        t->count = 0;
        r->failed = true;
    }
    snap_get(r, t->mac, t->count * 6ul);
}

static u8 filter_bits(const struct net_filter *f) {
    return (u8)(f->promisc | f->allmulti << 1 | f->alluni << 2 | f->nomulti << 3 | f->nouni << 4 |
                f->nobcast << 5);
}

/* Frames are sent and received whole while the lock is held: nothing of them is left to save. Where
 * flows were steered is learnt again. */
static void net_save(struct virtio_device *vdev, struct snap_writer *w) {
    struct virtio_net *net = net_of(vdev);
    u64 now = host_now(vdev->env->host);
    snap_put16(w, net->pairs_active);
    snap_put64(w, net->rx_offloads);
    snap_put8(w, filter_bits(&net->filter));
    macs_save(&net->filter.uni, w);
    macs_save(&net->filter.multi, w);
    rate_limiter_save(&net->rx_limit, w, now);
    rate_limiter_save(&net->tx_limit, w, now);
}

static int net_load(struct virtio_device *vdev, struct snap_reader *r, u32 version) {
    struct virtio_net *net = net_of(vdev);
    u64 now = host_now(vdev->env->host);
    if (version == 1) { /* one pair, no control queue */
        return snap_finish(r);
    }
    u16 pairs = snap_get16(r);
    net->rx_offloads = snap_get64(r) & NET_RX_OFFLOADS;
    u8 bits = snap_get8(r);
    struct net_filter *f = &net->filter;
    *f = (struct net_filter){.promisc = bits & 1,
                             .allmulti = bits >> 1 & 1,
                             .alluni = bits >> 2 & 1,
                             .nomulti = bits >> 3 & 1,
                             .nouni = bits >> 4 & 1,
                             .nobcast = bits >> 5 & 1};
    macs_load(&f->uni, r);
    macs_load(&f->multi, r);
    rate_limiter_load(&net->rx_limit, r, now);
    rate_limiter_load(&net->tx_limit, r, now);
    if (snap_finish(r) || !pairs || pairs > net->pairs) {
        net_filter_reset(f);
        return -ERR_FORMAT;
    }
    net->pairs_active = pairs;
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

static void net_free(struct virtio_net *net) {
    struct host *host = net->vdev.env->host;
    vtimer_fini(&net->rx_timer);
    vtimer_fini(&net->tx_timer);
    virtio_fini(&net->vdev);
    host_free(host, net, sizeof(*net));
}

static void net_destroy(struct virtio_device *vdev) {
    struct virtio_net *net = net_of(vdev);
    if (net->be) {
        if (net->be->ops->stop) {
            net->be->ops->stop(net->be);
        }
        net->be->receive = NULL;
        net->be->writable = NULL;
        net->be->link = NULL;
    }
    net_free(net);
}

static const struct virtio_ops net_ops = {
    .name = "virtio-net",
    .device_id = VIRTIO_ID_NET,
    .tag = SNAP_TAG('V', 'N', 'E', 'T'),
    .version = 2,
    .queue_run = net_queue_run,
    .start = net_start,
    .reset = net_reset,
    .save = net_save,
    .load = net_load,
    .destroy = net_destroy,
};

static u64 features_of(const struct net_backend *be, const struct virtio_net_opts *opts) {
    u64 f = VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_CTRL_VQ |
            VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_MAC_ADDR |
            VIRTIO_NET_F_GUEST_ANNOUNCE | NET_TX_OFFLOADS;
    if (opts->mtu >= NET_MTU_MIN) {
        f |= VIRTIO_NET_F_MTU;
    }
    if (opts->pairs > 1) {
        f |= VIRTIO_NET_F_MQ;
    }
    if (be && be->vnet_hdr && (be->offloads & NET_RX_OFFLOADS)) {
        f |= (be->offloads & NET_RX_OFFLOADS) | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
    }
    return f;
}

static int net_init(struct virtio_net *net, struct device_env *env,
                    const struct virtio_net_opts *opts, struct err *err) {
    struct host *host = env->host;
    net->pairs = net->pairs_active = opts->pairs ? opts->pairs : 1;
    net->rx_offloads = NET_RX_OFFLOADS;
    net_filter_reset(&net->filter);
    rate_limiter_init(&net->rx_limit, &opts->rx, host_now(host));
    rate_limiter_init(&net->tx_limit, &opts->tx, host_now(host));
    int rc = virtio_init(&net->vdev, env, &net_ops, features_of(net->be, opts), 2u * net->pairs + 1,
                         NET_QUEUE_SIZE, sizeof(struct net_config), err);
    if (rc) {
        return rc;
    }
    if (vtimer_init(&net->rx_timer, host, rx_timer_fire, net) ||
        vtimer_init(&net->tx_timer, host, tx_timer_fire, net)) {
        return ERR_SET(err, ERR_NOMEM, "virtio-net: out of memory");
    }
    net->pairs_active = 1;
    struct net_config config = {
        .status = net->be ? NET_S_LINK_UP : 0, .max_virtqueue_pairs = net->pairs, .mtu = opts->mtu};
    memcpy(config.mac, opts->mac, sizeof(config.mac));
    memcpy(net->mac, opts->mac, sizeof(net->mac));
    virtio_set_config(&net->vdev, 0, &config, sizeof(config));
    return 0;
}

static void connect_backend(struct virtio_net *net) {
    struct net_backend *be = net->be;
    be->device = net;
    be->receive = net_receive;
    be->writable = net_writable;
    be->link = net_link;
    if (be->ops->start) {
        be->ops->start(be);
    }
}

struct virtio_device *virtio_net_create(struct device_env *env, struct net_backend *backend,
                                        const struct virtio_net_opts *opts, struct err *err) {
    if (opts->pairs > VIRTIO_NET_PAIRS_MAX || (opts->mtu && opts->mtu < NET_MTU_MIN)) {
        ERR_SET(err, ERR_INVAL, "virtio-net: %u queue pairs (at most %u), MTU %u (at least %u)",
                opts->pairs, (u32)VIRTIO_NET_PAIRS_MAX, opts->mtu, (u32)NET_MTU_MIN);
        return NULL;
    }
    struct virtio_net *net = host_alloc(env->host, sizeof(*net));
    if (!net) {
        ERR_SET(err, ERR_NOMEM, "virtio-net: out of memory");
        return NULL;
    }
    net->be = backend;
    net->vdev.env = env;
    if (net_init(net, env, opts, err)) {
        net_free(net);
        return NULL;
    }
    if (backend) {
        connect_backend(net);
    }
    return &net->vdev;
}
