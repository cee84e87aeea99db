/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio socket device: virtio 1.2, section 5.10; drawing in vsock_int.h. This file has the
 * connections, what the back end says, and the device's life. Connections are not saved: a machine
 * that is loaded has none, and its driver is told so by a transport reset event (5.10.6.7). Left
 * out: seqpacket and datagram sockets. Lock rule: board lock held, but where said.
 */
#include "core/virtio/vsock.h"

#include "core/base/err.h"
#include "core/virtio/vsock_int.h"

#define FIRST_HOST_PORT (1u << 30) /* as in Firecracker: no port that a program would choose */

enum { EVENT_TRANSPORT_RESET = 0 };

static void lock(struct virtio_vsock *v) {
    mutex_lock(v->vdev.env->host, v->vdev.env->lock);
}

static void unlock(struct virtio_vsock *v) {
    mutex_unlock(v->vdev.env->host, v->vdev.env->lock);
}

/* --- connections ------------------------------------------------------------------------------ */

static u16 *bucket_of(struct virtio_vsock *v, u32 guest_port, u32 host_port) {
    u32 h = (guest_port ^ (host_port * 0x9e3779b1u)) * 0x85ebca6bu;
    return &v->bucket[h >> 24];
}
_Static_assert(VSOCK_BUCKETS == 256, "indexed by 8 bits");

struct vsock_conn *vsock_find(struct virtio_vsock *v, u32 guest_port, u32 host_port) {
    u16 n = *bucket_of(v, guest_port, host_port);
    while (n) {
        struct vsock_conn *c = &v->conn[n - 1];
        if (c->guest_port == guest_port && c->host_port == host_port) {
            return c;
        }
        n = c->next;
    }
    return NULL;
}

u32 vsock_number(const struct virtio_vsock *v, const struct vsock_conn *c) {
    return (u32)(c - v->conn);
}

void vsock_conn_begin(struct virtio_vsock *v, u32 n, enum vsock_state state, u32 guest_port,
                      u32 host_port) {
    struct vsock_conn *c = &v->conn[n];
    u16 *bucket = bucket_of(v, guest_port, host_port);
    bool queued = c->queued; /* the ready list may still hold the number's last connection */
    *c = (struct vsock_conn){.state = (u8)state,
                             .queued = queued,
                             .guest_port = guest_port,
                             .host_port = host_port,
                             .next = *bucket,
                             .deadline = HOST_FOREVER};
    *bucket = (u16)(n + 1);
    v->stats.connections++;
}

static void unhash(struct virtio_vsock *v, struct vsock_conn *c) {
    u16 *at = bucket_of(v, c->guest_port, c->host_port);
    while (*at && *at != vsock_number(v, c) + 1) {
        at = &v->conn[*at - 1].next;
    }
    if (*at) {
        *at = c->next;
    }
}

static void buf_free(struct virtio_vsock *v, struct vsock_conn *c) {
    host_free(v->vdev.env->host, c->buf, VSOCK_BUF);
    c->buf = NULL;
    c->used = 0;
}

void vsock_conn_free(struct virtio_vsock *v, struct vsock_conn *c) {
    unhash(v, c);
    buf_free(v, c);
    c->state = CONN_FREE;
    c->pending = 0;
    c->deadline = HOST_FOREVER;
    v->stats.connections--;
    v->be->ops->close(v->be, vsock_number(v, c));
}

void vsock_conn_send(struct virtio_vsock *v, struct vsock_conn *c, u32 what) {
    c->pending |= (u8)what;
    if (!c->queued) {
        c->queued = true;
        v->ready[(v->ready_first + v->ready_count++) % v->be->max] = (u16)vsock_number(v, c);
    }
}

void vsock_conn_reset(struct virtio_vsock *v, struct vsock_conn *c) {
    buf_free(v, c);
    if (c->state ==
        CONN_OPEN) { /* the other side learns it now, whenever the guest takes its RST */
        v->be->ops->shutdown(v->be, vsock_number(v, c), true, true);
    }
    c->state = CONN_CLOSING;
    c->pending = 0;
    c->deadline = HOST_FOREVER;
    vsock_conn_send(v, c, SEND_RST);
}

void vsock_conn_drain(struct virtio_vsock *v, struct vsock_conn *c) {
    if (c->state != CONN_OPEN || !c->used) {
        vsock_conn_free(v, c);
        return;
    }
    unhash(v, c);
    c->state = CONN_DRAIN;
    c->pending = 0;
    c->deadline = HOST_FOREVER;
}

/* ns from now; 0: none. */
void vsock_conn_deadline(struct virtio_vsock *v, struct vsock_conn *c, u64 ns) {
    struct host *host = v->vdev.env->host;
    u64 now = host_now(host);
    c->deadline = ns ? now + ns : HOST_FOREVER;
    if (ns) {
        host->ops->timer_arm(host, v->timer, now + VSOCK_TICK_NS);
    }
}

void vsock_host_shut(struct virtio_vsock *v, struct vsock_conn *c, u32 flags) {
    if (c->state == CONN_DRAIN) {
        return; /* the guest knows it no more; flushed() ends it */
    }
    if (flags & ~(u32)c->host_shut) {
        c->host_shut |= (u8)flags;
        vsock_conn_send(v, c, SEND_SHUTDOWN);
    }
}

/* --- running ---------------------------------------------------------------------------------- */

/* Both queues, as what one takes makes work for the other. */
static bool pump(struct virtio_vsock *v) {
    bool more = vsock_tx_run(v);
    more |= vsock_rx_run(v);
    return more || (v->tx_stalled && v->orphans < VSOCK_ORPHANS);
}

static bool event_run(struct virtio_vsock *v) {
    u32 id = EVENT_TRANSPORT_RESET;
    if (v->event_due && virtio_pop(&v->vdev, VSOCK_EVENT, &v->chain) > 0) {
        u32 len = (u32)vq_chain_write(v->vdev.env->ram, &v->chain, 0, &id, sizeof(id));
        v->event_due = false;
        virtio_push(&v->vdev, VSOCK_EVENT, v->chain.head, len);
        virtio_signal(&v->vdev, VSOCK_EVENT);
    }
    return false;
}

static bool vsock_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_vsock *v = vsock_of(vdev);
    return queue == VSOCK_EVENT ? event_run(v) : pump(v);
}

/* --- what the back end says: event thread, no lock held --------------------------------------- */

/* A name for the program that connects, free for this port of the guest. */
static bool host_port_find(struct virtio_vsock *v, u32 guest_port, u32 *port) {
    for (u32 i = 0; i <= v->be->max; i++) {
        *port = v->next_host_port++;
        if (v->next_host_port < FIRST_HOST_PORT) {
            v->next_host_port = FIRST_HOST_PORT;
        }
        if (!vsock_find(v, guest_port, *port)) {
            return true;
        }
    }
    return false;
}

static void on_incoming(void *device, u32 n, u32 port) {
    struct virtio_vsock *v = device;
    u32 host_port;
    lock(v);
    if (!virtio_queue_ready(&v->vdev, VSOCK_RX) || !host_port_find(v, port, &host_port)) {
        v->stats.refused++;
        v->be->ops->close(v->be, n);
    } else {
        vsock_conn_begin(v, n, CONN_OFFERED, port, host_port);
        vsock_conn_deadline(v, &v->conn[n], VSOCK_OFFER_NS);
        vsock_conn_send(v, &v->conn[n], SEND_REQUEST);
        virtio_queue_run(&v->vdev, VSOCK_RX);
    }
    unlock(v);
}

static void on_connected(void *device, u32 n, bool ok) {
    struct virtio_vsock *v = device;
    struct vsock_conn *c = &v->conn[n];
    lock(v);
    if (c->state == CONN_DIALLING && ok) {
        c->state = CONN_OPEN;
        v->stats.opened++;
        vsock_conn_send(v, c, SEND_RESPONSE | SEND_DATA);
    } else if (c->state == CONN_DIALLING) {
        v->stats.refused++;
        vsock_conn_reset(v, c);
    }
    virtio_queue_run(&v->vdev, VSOCK_RX);
    unlock(v);
}

/* The program that had connected did not wait for the guest's answer. */
static void offer_event(struct virtio_vsock *v, struct vsock_conn *c) {
    if (v->be->ops->hung_up(v->be, vsock_number(v, c))) {
        if (c->pending & SEND_REQUEST) {
            vsock_conn_free(v, c);
        } else {
            vsock_conn_reset(v, c);
        }
    }
}

static void open_event(struct virtio_vsock *v, struct vsock_conn *c) {
    vsock_flush(v, c);
    if (c->state != CONN_OPEN) {
        return;
    }
    if (!(c->guest_shut & SHUT_RECEIVE) && !(c->host_shut & SHUT_SEND)) {
        vsock_conn_send(v, c, SEND_DATA);
    } else if (v->be->ops->hung_up(v->be, vsock_number(v, c))) {
        vsock_host_shut(v, c, SHUT_BOTH);
    }
}

static void on_event(void *device, u32 n) {
    struct virtio_vsock *v = device;
    struct vsock_conn *c = &v->conn[n];
    lock(v);
    if (c->state == CONN_OFFERED) {
        offer_event(v, c);
    } else if (c->state == CONN_OPEN) {
        open_event(v, c);
    } else if (c->state == CONN_DRAIN) {
        vsock_flush(v, c);
    }
    virtio_queue_run(&v->vdev, VSOCK_RX);
    unlock(v);
}

/* Runs only while some connection has a deadline. */
static void on_tick(void *ctx) {
    struct virtio_vsock *v = ctx;
    struct host *host = v->vdev.env->host;
    bool any = false;
    lock(v);
    u64 now = host_now(host);
    for (u32 i = 0; i < v->be->max; i++) {
        struct vsock_conn *c = &v->conn[i];
        if (c->deadline <= now) {
            v->stats.refused += c->state == CONN_OFFERED;
            vsock_conn_reset(v, c);
        }
        any |= c->deadline != HOST_FOREVER;
    }
    if (any) {
        host->ops->timer_arm(host, v->timer, now + VSOCK_TICK_NS);
    }
    virtio_queue_run(&v->vdev, VSOCK_RX);
    unlock(v);
}

/* --- life ------------------------------------------------------------------------------------- */

static void vsock_reset(struct virtio_device *vdev) {
    struct virtio_vsock *v = vsock_of(vdev);
    struct host *host = vdev->env->host;
    host->ops->timer_cancel(host, v->timer);
    for (u32 i = 0; i < v->be->max; i++) {
        if (v->conn[i].state != CONN_FREE) {
            vsock_conn_free(v, &v->conn[i]);
        }
        v->conn[i].queued = false;
    }
    v->ready_first = v->ready_count = 0;
    v->orphans = 0;
    v->tx_stalled = false;
    v->event_due = false;
}

static void vsock_save(struct virtio_device *vdev, struct snap_writer *w) {
    snap_put32(w, vsock_of(vdev)->next_host_port);
}

/* The connections went with the reset before. The address is this machine's own. */
static int vsock_load(struct virtio_device *vdev, struct snap_reader *r, u32 version UNUSED) {
    struct virtio_vsock *v = vsock_of(vdev);
    u32 port = snap_get32(r);
    if (snap_finish(r)) {
        return -ERR_FORMAT;
    }
    v->next_host_port = MAX(port, FIRST_HOST_PORT);
    v->event_due = vdev->status & VIRTIO_STATUS_DRIVER_OK;
    virtio_set_config(vdev, 0, &v->cid, sizeof(v->cid));
    return 0;
}

static void parts_free(struct virtio_vsock *v) {
    struct host *host = v->vdev.env->host;
    if (v->timer) {
        host->ops->timer_destroy(host, v->timer);
    }
    virtio_fini(&v->vdev);
    host_free(host, v->conn, v->be->max * sizeof(v->conn[0]));
    host_free(host, v->ready, v->be->max * sizeof(v->ready[0]));
    host_free(host, v, sizeof(*v));
}

static void vsock_destroy(struct virtio_device *vdev) {
    struct virtio_vsock *v = vsock_of(vdev);
    v->be->ops->stop(v->be);
    lock(v);
    vsock_reset(vdev);
    unlock(v);
    parts_free(v);
}

static const struct virtio_ops vsock_ops = {
    .name = "virtio-vsock",
    .device_id = VIRTIO_ID_VSOCK,
    .tag = SNAP_TAG('V', 'S', 'C', 'K'),
    .version = 1,
    .queue_run = vsock_queue_run,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
    .destroy = vsock_destroy,
};

static int parts_create(struct virtio_vsock *v, struct device_env *env, struct err *err) {
    struct host *host = env->host;
    int rc = virtio_init(&v->vdev, env, &vsock_ops, 0, VSOCK_QUEUES, VSOCK_QUEUE_SIZE,
                         sizeof(v->cid), err);
    if (rc) {
        return rc;
    }
    v->timer = host->ops->timer_create(host, on_tick, v);
    v->conn = host_alloc(host, v->be->max * sizeof(v->conn[0]));
    v->ready = host_alloc(host, v->be->max * sizeof(v->ready[0]));
    if (!v->timer || !v->conn || !v->ready) {
        return ERR_SET(err, ERR_NOMEM, "virtio-vsock: out of memory");
    }
    for (u32 i = 0; i < v->be->max; i++) {
        v->conn[i].deadline = HOST_FOREVER;
    }
    return 0;
}

static void connect_backend(struct virtio_vsock *v) {
    v->be->device = v;
    v->be->incoming = on_incoming;
    v->be->connected = on_connected;
    v->be->event = on_event;
    v->be->ops->start(v->be);
}

struct virtio_device *virtio_vsock_create(struct device_env *env, struct vsock_backend *backend,
                                          u64 cid, struct err *err) {
    if (cid < VSOCK_CID_MIN || cid > VSOCK_CID_MAX || !backend->max || backend->max > VSOCK_MAX) {
        ERR_SET(err, ERR_INVAL, "vsock: the guest's CID %llu is not from 3 to 4294967294",
                (unsigned long long)cid);
        return NULL;
    }
    struct virtio_vsock *v = host_alloc(env->host, sizeof(*v));
    if (!v) {
        ERR_SET(err, ERR_NOMEM, "virtio-vsock: out of memory");
        return NULL;
    }
    v->be = backend;
    v->cid = cid;
    v->next_host_port = FIRST_HOST_PORT;
    v->vdev.env = env;
    if (parts_create(v, env, err)) {
        parts_free(v);
        return NULL;
    }
    virtio_set_config(&v->vdev, 0, &cid, sizeof(cid));
    connect_backend(v);
    return &v->vdev;
}

void virtio_vsock_get_stats(struct virtio_device *vdev, struct virtio_vsock_stats *out) {
    struct virtio_vsock *v = vsock_of(vdev);
    lock(v);
    *out = v->stats;
    unlock(v);
}
