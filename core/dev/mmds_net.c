/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames for the metadata service leave the card's way here (see mmds_net.h): send runs with the
 * board lock on a vCPU's thread, so it only copies the frame into a short queue and sets a timer to
 * now; the timer's function, on the event thread, feeds the stack and sends what that answers. A
 * frame that finds the queue full is lost, as on any wire.
 *
 * Lock rule: `lock` guards the queue and `stopped`; it is innermost and held for a copy only. The
 * stack belongs to the event thread.
 */
#include "core/dev/mmds_net.h"

#include "core/base/packet.h"
#include "core/if/mutex.h"

enum { QUEUE_FRAMES = 32 };

struct queued {
    u32 len;
    u8 data[MMDS_FRAME_MAX];
};

struct mmds_net {
    struct net_backend be;
    struct net_backend *lower; /* may be NULL */
    struct host *host;
    struct host_timer *timer;
    struct mmds_stack *stack;
    u32 address;
    struct mutex lock;
    bool stopped;
    bool blocked; /* the card had no buffer for an answer */
    u32 first, count;
    struct queued queue[QUEUE_FRAMES];
    struct queued now; /* the frame being worked on */
};

static struct mmds_net *net_of(struct net_backend *be) {
    return CONTAINER_OF(be, struct mmds_net, be);
}

/* Due now, not long ago: other timers of the event thread get their turn under a flood of frames.
 */
static void kick(struct mmds_net *m) {
    m->host->ops->timer_arm(m->host, m->timer, host_now(m->host));
}

/* --- from the card ---------------------------------------------------------------------------- */

/* Copies up to size bytes behind the first skip. */
static size_t copy_out(const struct iov *iov, u32 count, size_t skip, u8 *out, size_t size) {
    size_t done = 0;
    for (u32 i = 0; i < count && done < size; i++) {
        size_t from = MIN(skip, iov[i].len);
        size_t n = MIN(iov[i].len - from, size - done);
        memcpy(out + done, (const u8 *)iov[i].base + from, n);
        skip -= from;
        done += n;
    }
    return done;
}

static size_t length_of(const struct iov *iov, u32 count) {
    size_t len = 0;
    for (u32 i = 0; i < count; i++) {
        len += iov[i].len;
    }
    return len;
}

static void take(struct mmds_net *m, const struct iov *iov, u32 count, size_t skip) {
    mutex_lock(m->host, &m->lock);
    if (m->count < QUEUE_FRAMES && !m->stopped) {
        struct queued *q = &m->queue[(m->first + m->count++) % QUEUE_FRAMES];
        q->len = (u32)copy_out(iov, count, skip, q->data, sizeof(q->data));
        kick(m);
    }
    mutex_unlock(m->host, &m->lock);
}

static int mmds_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct mmds_net *m = net_of(be);
    size_t skip = be->vnet_hdr ? sizeof(struct net_hdr) : 0;
    u8 head[64];
    size_t have = copy_out(iov, count, skip, head, sizeof(head));
    if (mmds_stack_wants(m->address, head, have)) {
        if (length_of(iov, count) <= skip + MMDS_FRAME_MAX) {
            take(m, iov, count, skip);
        }
        return 0;
    }
    return m->lower ? m->lower->ops->send(m->lower, iov, count) : 0;
}

static void mmds_set_offloads(struct net_backend *be, u64 offloads) {
    struct net_backend *lower = net_of(be)->lower;
    if (lower && lower->ops->set_offloads) {
        lower->ops->set_offloads(lower, offloads);
    }
}

static void mmds_rx_ready(struct net_backend *be) {
    struct mmds_net *m = net_of(be);
    if (m->lower) {
        m->lower->ops->rx_ready(m->lower);
    }
    mutex_lock(m->host, &m->lock);
    if (m->blocked && !m->stopped) {
        m->blocked = false;
        kick(m);
    }
    mutex_unlock(m->host, &m->lock);
}

/* --- to the card ------------------------------------------------------------------------------ */

static int deliver(void *ctx, const u8 *frame, size_t len) {
    static const struct net_hdr empty;
    struct mmds_net *m = ctx;
    struct iov iov[2] = {{(void *)(uintptr_t)&empty, sizeof(empty)},
                         {(void *)(uintptr_t)frame, len}};
    u32 first = m->be.vnet_hdr ? 0 : 1;
    int rc = m->be.receive ? m->be.receive(m->be.device, iov + first, 2 - first) : 0;
    if (rc) {
        mutex_lock(m->host, &m->lock);
        m->blocked = true;
        mutex_unlock(m->host, &m->lock);
    }
    return rc;
}

static bool next_frame(struct mmds_net *m) {
    mutex_lock(m->host, &m->lock);
    bool some = m->count && !m->stopped;
    if (some) {
        const struct queued *q = &m->queue[m->first];
        m->now.len = q->len;
        memcpy(m->now.data, q->data, q->len);
        m->first = (m->first + 1) % QUEUE_FRAMES;
        m->count--;
    }
    mutex_unlock(m->host, &m->lock);
    return some;
}

/* The timer: bounded by the queue, what comes meanwhile sets it again. */
static void work(void *ctx) {
    struct mmds_net *m = ctx;
    for (u32 i = 0; i < QUEUE_FRAMES && next_frame(m); i++) {
        mmds_stack_input(m->stack, m->now.data, m->now.len);
    }
    mutex_lock(m->host, &m->lock);
    bool stopped = m->stopped;
    mutex_unlock(m->host, &m->lock);
    u64 next = stopped ? HOST_FOREVER : mmds_stack_work(m->stack);
    mutex_lock(m->host, &m->lock);
    if (!m->stopped && (m->count || next != HOST_FOREVER)) {
        u64 at = m->count ? host_now(m->host) : next;
        m->host->ops->timer_arm(m->host, m->timer, at);
    }
    mutex_unlock(m->host, &m->lock);
}

/* --- what the lower back end calls ------------------------------------------------------------ */

static int lower_receive(void *device, const struct iov *iov, u32 count) {
    struct mmds_net *m = device;
    return m->be.receive(m->be.device, iov, count);
}

static void lower_writable(void *device) {
    struct mmds_net *m = device;
    m->be.writable(m->be.device);
}

static void lower_link(void *device, bool up) {
    struct mmds_net *m = device;
    m->be.link(m->be.device, up);
}

/* --- life ------------------------------------------------------------------------------------- */

static void mmds_start(struct net_backend *be) {
    struct mmds_net *m = net_of(be);
    m->stopped = false;
    if (m->lower) {
        m->lower->device = m;
        m->lower->receive = lower_receive;
        m->lower->writable = lower_writable;
        m->lower->link = lower_link;
        if (m->lower->ops->start) {
            m->lower->ops->start(m->lower);
        }
    }
}

/* The timer's function may be running on the event thread; who stops may be there, too. Destroying
 * the timer waits for it. */
static void timer_end(struct mmds_net *m) {
    mutex_lock(m->host, &m->lock);
    m->stopped = true;
    struct host_timer *timer = m->timer;
    m->timer = NULL;
    mutex_unlock(m->host, &m->lock);
    if (timer) {
        m->host->ops->timer_destroy(m->host, timer);
    }
}

static void mmds_stop(struct net_backend *be) {
    struct mmds_net *m = net_of(be);
    timer_end(m);
    if (m->lower && m->lower->ops->stop) {
        m->lower->ops->stop(m->lower);
    }
}

static void mmds_close(struct net_backend *be) {
    struct mmds_net *m = net_of(be);
    timer_end(m);
    if (m->lower) {
        m->lower->ops->close(m->lower);
    }
    mmds_stack_destroy(m->stack);
    host_free(m->host, m, sizeof(*m));
}

static const struct net_backend_ops mmds_ops = {
    .send = mmds_send,
    .set_offloads = mmds_set_offloads,
    .rx_ready = mmds_rx_ready,
    .start = mmds_start,
    .stop = mmds_stop,
    .close = mmds_close,
};

int mmds_net_create(struct host *host, struct net_backend *lower, const struct mmds_opts *opts,
                    struct net_backend **out, struct err *err) {
    struct mmds_net *m = host_alloc(host, sizeof(*m));
    if (!m) {
        return ERR_SET(err, ERR_NOMEM, "metadata service: out of memory");
    }
    struct mmds_opts own = *opts;
    own.output = deliver;
    own.output_ctx = m;
    m->host = host;
    m->address = opts->address;
    m->be.ops = &mmds_ops;
    m->be.vnet_hdr = lower && lower->vnet_hdr;
    m->be.offloads = lower ? lower->offloads : 0;
    m->stack = mmds_stack_create(host, &own);
    m->timer = host->ops->timer_create(host, work, m);
    if (!m->stack || !m->timer) {
        mmds_close(&m->be); /* lower is not ours yet */
        return ERR_SET(err, ERR_NOMEM, "metadata service: out of memory");
    }
    m->lower = lower;
    *out = &m->be;
    return 0;
}

void mmds_net_counters(struct net_backend *be, struct mmds_counters *out) {
    mmds_stack_counters(net_of(be)->stack, out);
}
