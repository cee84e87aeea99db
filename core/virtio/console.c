/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio console, one port: virtio 1.2, section 5.3. Queue 0 receives, queue 1 transmits. When the
 * back end takes no more, the chain being sent stays out and goes on where it stopped.
 * Left out: VIRTIO_CONSOLE_F_MULTIPORT (so port0 is the console and there is no control queue).
 * Lock rule: board lock held; console_receive and console_writable come from the event thread.
 */
#include "core/virtio/console.h"

#include "core/base/err.h"

#define VIRTIO_CONSOLE_F_SIZE        BIT(0)
#define VIRTIO_CONSOLE_F_EMERG_WRITE BIT(2)

enum { CONSOLE_RX = 0, CONSOLE_TX = 1, CONSOLE_QUEUES = 2, CONSOLE_QUEUE_SIZE = 64 };

struct console_config { /* 5.3.4 */
    u16 cols, rows;
    u32 max_nr_ports;
    u32 emerg_wr;
};
_Static_assert(sizeof(struct console_config) == 12, "struct virtio_console_config");

struct virtio_console {
    struct virtio_device vdev;
    struct char_backend *be; /* may be NULL */
    bool refused;            /* input was refused: tell the back end when there is room */
    bool tx_busy;            /* chain tx is out; tx_done bytes of it are sent */
    u64 tx_done;
    struct vq_chain tx;
    struct vq_chain rx;
};

static struct virtio_console *console_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_console, vdev);
}

/* --- transmit --------------------------------------------------------------------------------- */

/* Sends what is left of the chain; true when all of it went. */
static bool tx_send(struct virtio_console *con) {
    u64 at = 0;
    for (u32 i = 0; i < con->tx.out_count; i++) {
        const struct iov *v = &con->tx.iov[i];
        u64 skip = con->tx_done > at ? MIN(con->tx_done - at, v->len) : 0;
        size_t want = v->len - (size_t)skip;
        size_t sent = want;
        if (want && con->be) {
            sent = con->be->ops->write(con->be, (const u8 *)v->base + skip, want);
        }
        con->tx_done += sent;
        if (sent < want) {
            return false;
        }
        at += v->len;
    }
    return true;
}

static bool tx_run(struct virtio_console *con) {
    struct virtio_device *vdev = &con->vdev;
    struct vq *vq = &vdev->queue[CONSOLE_TX].vq;
    u32 done = 0;
    int got = 1;
    vq_notify_off(vq);
    while (done < vq->size) {
        if (!con->tx_busy) {
            got = virtio_pop(vdev, CONSOLE_TX, &con->tx);
            if (got <= 0) {
                break;
            }
            con->tx_busy = true;
            con->tx_done = con->tx.redone ? con->tx_done : 0;
        }
        if (!tx_send(con)) {
            got = 1;
            break;
        }
        con->tx_busy = false;
        con->tx_done = 0;
        virtio_push(vdev, CONSOLE_TX, con->tx.head, 0);
        done++;
    }
    if (done) {
        virtio_signal(vdev, CONSOLE_TX);
    }
    if (con->tx_busy) {
        return false; /* console_writable goes on */
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}

static void console_writable(void *device) {
    struct virtio_console *con = device;
    struct device_env *env = con->vdev.env;
    mutex_lock(env->host, env->lock);
    virtio_queue_run(&con->vdev, CONSOLE_TX);
    mutex_unlock(env->host, env->lock);
}

/* --- receive ---------------------------------------------------------------------------------- */

static size_t rx_fill(struct virtio_console *con, const u8 *data, size_t len) {
    struct virtio_device *vdev = &con->vdev;
    size_t done = 0;
    u32 chains = 0;
    while (done < len && chains < CONSOLE_QUEUE_SIZE &&
           virtio_pop(vdev, CONSOLE_RX, &con->rx) > 0) {
        size_t n = vq_chain_write(vdev->env->ram, &con->rx, 0, data + done, len - done);
        virtio_push(vdev, CONSOLE_RX, con->rx.head, (u32)n);
        done += n;
        chains++;
    }
    if (chains) {
        virtio_signal(vdev, CONSOLE_RX);
    }
    return done;
}

static size_t console_receive(void *device, const u8 *data, size_t len) {
    struct virtio_console *con = device;
    struct device_env *env = con->vdev.env;
    mutex_lock(env->host, env->lock);
    size_t done = rx_fill(con, data, len);
    if (done < len && virtio_queue_ready(&con->vdev, CONSOLE_RX) &&
        vq_notify_on(&con->vdev.queue[CONSOLE_RX].vq)) {
        done += rx_fill(con, data + done, len - done); /* the driver was quicker than our wish */
    }
    con->refused = done < len;
    mutex_unlock(env->host, env->lock);
    return done;
}

static bool console_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_console *con = console_of(vdev);
    if (queue == CONSOLE_TX) {
        return tx_run(con);
    }
    if (con->refused && con->be) {
        con->refused = false;
        con->be->ops->rx_ready(con->be);
    }
    return false;
}

/* --- configuration ---------------------------------------------------------------------------- */

static void console_config_write(struct virtio_device *vdev, u32 offset, u32 size UNUSED,
                                 u32 value) {
    struct virtio_console *con = console_of(vdev);
    u8 c = (u8)value;
    if (offset == offsetof(struct console_config, emerg_wr) && con->be) {
        con->be->ops->write(con->be, &c, 1); /* before any queue works, and without one */
    }
}

void virtio_console_resize(struct virtio_device *vdev, u16 cols, u16 rows) {
    struct device_env *env = vdev->env;
    u16 size[2] = {cols, rows};
    mutex_lock(env->host, env->lock);
    if ((vdev->offered & VIRTIO_CONSOLE_F_SIZE) && memcmp(vdev->config, size, sizeof(size))) {
        virtio_set_config(vdev, 0, size, sizeof(size));
        virtio_config_changed(vdev);
    }
    mutex_unlock(env->host, env->lock);
}

/* --- life ------------------------------------------------------------------------------------- */

/* The terminal may have been refused before there was a driver. */
static void console_start(struct virtio_device *vdev) {
    struct virtio_console *con = console_of(vdev);
    if (con->be) {
        con->refused = false;
        con->be->ops->rx_ready(con->be);
    }
}

static void console_reset(struct virtio_device *vdev) {
    struct virtio_console *con = console_of(vdev);
    con->tx_busy = false;
    con->tx_done = 0;
}

static void console_save(struct virtio_device *vdev, struct snap_writer *w) {
    snap_put64(w, console_of(vdev)->tx_done);
}

/* The chain that was being sent comes again first, and goes on behind what was sent. */
static int console_load(struct virtio_device *vdev, struct snap_reader *r, u32 version UNUSED) {
    console_of(vdev)->tx_done = snap_get64(r);
    return snap_finish(r);
}

static void console_destroy(struct virtio_device *vdev) {
    struct virtio_console *con = console_of(vdev);
    struct host *host = vdev->env->host;
    if (con->be) {
        con->be->receive = NULL;
        con->be->writable = NULL;
    }
    virtio_fini(vdev);
    host_free(host, con, sizeof(*con));
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console",
    .device_id = VIRTIO_ID_CONSOLE,
    .tag = SNAP_TAG('V', 'C', 'O', 'N'),
    .version = 1,
    .config_write = console_config_write,
    .queue_run = console_queue_run,
    .start = console_start,
    .reset = console_reset,
    .save = console_save,
    .load = console_load,
    .destroy = console_destroy,
};

struct virtio_device *virtio_console_create(struct device_env *env, struct char_backend *backend,
                                            const struct virtio_console_opts *opts,
                                            struct err *err) {
    bool sized = opts && opts->cols && opts->rows;
    u64 features = VIRTIO_CONSOLE_F_EMERG_WRITE | (sized ? VIRTIO_CONSOLE_F_SIZE : 0);
    struct virtio_console *con = host_alloc(env->host, sizeof(*con));
    if (!con) {
        ERR_SET(err, ERR_NOMEM, "virtio-console: out of memory");
        return NULL;
    }
    if (virtio_init(&con->vdev, env, &console_ops, features, CONSOLE_QUEUES, CONSOLE_QUEUE_SIZE,
                    sizeof(struct console_config), err)) {
        host_free(env->host, con, sizeof(*con));
        return NULL;
    }
    struct console_config config = {
        .cols = sized ? opts->cols : 0, .rows = sized ? opts->rows : 0, .max_nr_ports = 1};
    virtio_set_config(&con->vdev, 0, &config, sizeof(config));
    con->be = backend;
    if (backend) {
        backend->device = con;
        backend->receive = console_receive;
        backend->writable = console_writable;
    }
    return &con->vdev;
}
