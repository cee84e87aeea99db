/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The user network: a NAT made of ordinary sockets by libslirp, in a thread of its own. The guest
 * sees 10.0.2.0/24 and fec0::/64 as in QEMU: router and host .2, DNS .3, itself .15 by DHCP.
 *
 *   send --> ring of frames --> slirp thread: checksum, slirp_input --> sockets
 *   sockets --> slirp thread: send_packet --> join segments --> device, or backlog until rx_ready
 *
 * libslirp knows no offloads. Towards it, a large TCP segment goes through whole, because it ends
 * the connection itself; from it, segments in a row are joined before the device gets them, which
 * saves the guest most of its work. Its state is touched by the one thread only; a lock of the
 * process stands around it, because parts of libslirp are global.
 *
 * Left out: TFTP, SMB, guestfwd, saving the connections (a restored guest makes new ones).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/linux/net_port.h"
#include "hosts/linux/net_user.h"

enum {
    RING_SIZE = 1 << 20,      /* of frames from the guest; a power of two */
    RING_SKIP = UINT32_MAX,   /* length of an entry: go on at the beginning */
    JOINERS = 8,              /* flows whose segments are joined at the same time */
    BACKLOG_MAX = 8 << 20,    /* bytes that wait for the guest */
    BACKLOG_STOP = 256 << 10, /* from here on the sockets are not read */
    SLIRP_TIMERS = 4,
    SLIRP_FRAME = 65535 - NET_HEADERS_MAX,
};

struct user_timer {
    SlirpTimerCb fn;
    void *ctx;
    int64_t due_ms; /* -1: not armed */
    bool used;
};

struct backlog {
    struct backlog *next;
    u32 len;
    struct net_hdr hdr;
    u8 frame[];
};

struct net_user {
    struct net_port port;
    struct slirp_lib lib;
    Slirp *slirp;
    u64 offloads; /* atomic: what the driver accepted */
    u32 log_count;

    u8 *ring;
    u32 head, tail; /* atomic, free running: the thread takes at tail */
    u32 sleeping;   /* atomic: the thread is about to wait */
    u32 ring_full;  /* atomic: a send found no room */

    struct pollfd *fds;
    u32 fd_count, fd_cap;
    struct user_timer timer[SLIRP_TIMERS];

    struct gro *join; /* JOINERS of them */
    struct net_hdr hdr;
    struct backlog *first, **last;
    size_t backlog_bytes;
    struct gso gso;
};

static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

static struct net_user *user_of(struct net_port *p) {
    return CONTAINER_OF(p, struct net_user, port);
}

static int64_t now_ms(void) {
    return (int64_t)(linux_now(NULL) / 1000000);
}

/* --- from the guest --------------------------------------------------------------------------- */

/* Entry: u32 length | header and frame | padding to 8. */
static u32 entry_size(u32 len) {
    return ALIGN_UP(4 + len, 8u);
}

/* Where an entry of so many bytes can be written; NULL: the ring is full. */
static u8 *ring_room(struct net_user *u, u32 *head, u32 size) {
    u32 tail = __atomic_load_n(&u->tail, __ATOMIC_ACQUIRE);
    u32 at = *head & (RING_SIZE - 1), skip = at + size > RING_SIZE ? RING_SIZE - at : 0;
    if (*head + skip + size - tail > RING_SIZE) {
        return NULL;
    }
    if (skip) {
        u32 mark = RING_SKIP;
        memcpy(u->ring + at, &mark, 4);
        *head += skip;
    }
    return u->ring + (*head & (RING_SIZE - 1));
}

static int user_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct net_user *u = user_of(net_port_of(be));
    u32 len = 0, head = u->head;
    for (u32 i = 0; i < count; i++) {
        len += (u32)iov[i].len;
    }
    u8 *to = ring_room(u, &head, entry_size(len));
    if (!to) {
        __atomic_store_n(&u->ring_full, 1, __ATOMIC_SEQ_CST);
        to = ring_room(u, &head, entry_size(len)); /* it may have been emptied meanwhile */
        if (!to) {
            return -ERR_AGAIN;
        }
    }
    memcpy(to, &len, 4);
    u8 *data = to + 4;
    for (u32 i = 0; i < count; i++) {
        memcpy(data, iov[i].base, iov[i].len);
        data += iov[i].len;
    }
    __atomic_store_n(&u->head, head + entry_size(len), __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&u->sleeping, __ATOMIC_SEQ_CST) &&
        __atomic_exchange_n(&u->sleeping, 0, __ATOMIC_SEQ_CST)) {
        net_port_wake(&u->port);
    }
    return 0;
}

/* libslirp checks checksums, so they are made; segments only as far as its lengths demand. */
static void give_to_slirp(struct net_user *u, u8 *data, u32 len) {
    struct net_hdr hdr;
    u32 head, part;
    const u8 *payload;
    memcpy(&hdr, data, sizeof(hdr));
    data += sizeof(hdr);
    len -= (u32)sizeof(hdr);
    if (hdr.gso_type == NET_GSO_NONE) {
        if (hdr.flags & NET_HDR_NEEDS_CSUM) {
            packet_checksum(data, len, hdr.csum_start, hdr.csum_offset);
        }
        u->lib.input(u->slirp, data, (int)len);
        return;
    }
    if (!gso_begin(&u->gso, &hdr, data, len, SLIRP_FRAME)) {
        return;
    }
    while (gso_next(&u->gso, &head, &payload, &part)) {
        /* the payload lies where it did; the bytes in front of it were sent already */
        u8 *start = (u8 *)(uintptr_t)payload - head;
        memcpy(start, u->gso.head, head);
        u->lib.input(u->slirp, start, (int)(head + part));
    }
}

static void ring_take(struct net_user *u) {
    u32 tail = u->tail;
    while (tail != __atomic_load_n(&u->head, __ATOMIC_ACQUIRE)) {
        u8 *at = u->ring + (tail & (RING_SIZE - 1));
        u32 len;
        memcpy(&len, at, 4);
        if (len == RING_SKIP) {
            tail += RING_SIZE - (tail & (RING_SIZE - 1));
        } else {
            give_to_slirp(u, at + 4, len);
            tail += entry_size(len);
        }
        __atomic_store_n(&u->tail, tail, __ATOMIC_SEQ_CST);
        if (u->backlog_bytes > BACKLOG_STOP) {
            break;
        }
    }
}

/* --- to the guest ----------------------------------------------------------------------------- */

static void backlog_add(struct net_user *u, const struct net_hdr *hdr, const u8 *frame, u32 len) {
    struct backlog *b = u->backlog_bytes + len > BACKLOG_MAX ? NULL : malloc(sizeof(*b) + len);
    if (!b) {
        return; /* lost, as on any wire */
    }
    *b = (struct backlog){.hdr = *hdr, .len = len};
    memcpy(b->frame, frame, len);
    *u->last = b;
    u->last = &b->next;
    u->backlog_bytes += len;
}

/* The first of the backlog is kept by the port while it is blocked. */
static void backlog_run(struct net_user *u) {
    while (u->first && !u->port.blocked) {
        struct backlog *b = u->first;
        struct iov iov[2] = {{&b->hdr, sizeof(b->hdr)}, {b->frame, b->len}};
        if (!net_port_deliver(&u->port, iov, 2)) {
            return;
        }
        u->first = b->next;
        u->last = u->first ? u->last : &u->first;
        u->backlog_bytes -= b->len;
        free(b);
    }
}

/* The frame that was kept has been taken: it is the first of the backlog. */
static void user_resumed(struct net_port *p) {
    struct net_user *u = user_of(p);
    struct backlog *b = u->first;
    if (b) {
        u->first = b->next;
        u->last = u->first ? u->last : &u->first;
        u->backlog_bytes -= b->len;
        free(b);
    }
    backlog_run(u);
}

static void joiner_flush(struct net_user *u, struct gro *g) {
    struct net_hdr hdr;
    u32 len = gro_flush(g, &hdr);
    struct iov iov[2] = {{&hdr, sizeof(hdr)}, {g->frame, len}};
    if (!len || (!u->first && !u->port.be.receive(u->port.be.device, iov, 2))) {
        return;
    }
    backlog_add(u, &hdr, g->frame, len);
    backlog_run(u);
}

static void joiners_flush(struct net_user *u) {
    for (u32 i = 0; i < JOINERS; i++) {
        joiner_flush(u, &u->join[i]);
    }
}

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque) {
    struct net_user *u = opaque;
    u64 offloads = __atomic_load_n(&u->offloads, __ATOMIC_RELAXED);
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX) {
        return (ssize_t)len;
    }
    struct gro *g = &u->join[packet_flow_hash(buf, (u32)len, (u32)len) % JOINERS];
    if (g->len && (!(offloads & NET_F_GUEST_TSO4) || !gro_add(g, buf, (u32)len))) {
        joiner_flush(u, g);
    } else if (g->len) {
        return (ssize_t)len;
    }
    gro_add(g, buf, (u32)len);
    return (ssize_t)len;
}

/* --- what libslirp asks of its host ----------------------------------------------------------- */

static void cb_guest_error(const char *msg, void *opaque) {
    struct net_user *u = opaque;
    char text[160];
    if (u->log_count++ < 10) {
        int n = snprintf(text, sizeof(text), "--net user: the guest: %.120s", msg);
        linux_log(&u->port.lh->host, LOG_WARN, text, (size_t)n);
    }
}

static int64_t cb_clock(void *opaque) {
    (void)opaque;
    return (int64_t)linux_now(NULL);
}

static void *cb_timer_new(SlirpTimerCb fn, void *ctx, void *opaque) {
    struct net_user *u = opaque;
    for (u32 i = 0; i < SLIRP_TIMERS; i++) {
        if (!u->timer[i].used) {
            u->timer[i] = (struct user_timer){.fn = fn, .ctx = ctx, .due_ms = -1, .used = true};
            return &u->timer[i];
        }
    }
    return NULL;
}

static void cb_timer_free(void *timer, void *opaque) {
    (void)opaque;
    ((struct user_timer *)timer)->used = false;
}

static void cb_timer_mod(void *timer, int64_t due_ms, void *opaque) {
    (void)opaque;
    ((struct user_timer *)timer)->due_ms = due_ms;
}

static void cb_fd(int fd, void *opaque) {
    (void)fd;
    (void)opaque;
}

static void cb_notify(void *opaque) {
    (void)opaque; /* always on the thread that polls next */
}

static const SlirpCb callbacks = {.send_packet = cb_send_packet,
                                  .guest_error = cb_guest_error,
                                  .clock_get_ns = cb_clock,
                                  .timer_new = cb_timer_new,
                                  .timer_free = cb_timer_free,
                                  .timer_mod = cb_timer_mod,
                                  .register_poll_fd = cb_fd,
                                  .unregister_poll_fd = cb_fd,
                                  .notify = cb_notify};

/* --- the thread ------------------------------------------------------------------------------- */

static short events_to_poll(int events) {
    return (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                   (events & SLIRP_POLL_PRI ? POLLPRI : 0));
}

static int events_from_poll(short events) {
    return (events & POLLIN ? SLIRP_POLL_IN : 0) | (events & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (events & POLLPRI ? SLIRP_POLL_PRI : 0) | (events & POLLERR ? SLIRP_POLL_ERR : 0) |
           (events & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int add_poll(int fd, int events, void *opaque) {
    struct net_user *u = opaque;
    if (u->fd_count == u->fd_cap) {
        u32 cap = u->fd_cap ? u->fd_cap * 2 : 64;
        struct pollfd *fds = realloc(u->fds, cap * sizeof(*fds));
        if (!fds) {
            return -1;
        }
        u->fds = fds;
        u->fd_cap = cap;
    }
    u->fds[u->fd_count] = (struct pollfd){.fd = fd, .events = events_to_poll(events)};
    return (int)u->fd_count++;
}

static int get_revents(int index, void *opaque) {
    struct net_user *u = opaque;
    return index < 0 ? 0 : events_from_poll(u->fds[index].revents);
}

static int timers_timeout(const struct net_user *u, u32 slirp_ms) {
    int64_t wait = slirp_ms > INT32_MAX ? -1 : (int64_t)slirp_ms, now = now_ms();
    for (u32 i = 0; i < SLIRP_TIMERS; i++) {
        if (u->timer[i].used && u->timer[i].due_ms >= 0) {
            int64_t left = MAX(u->timer[i].due_ms - now, 0);
            wait = wait < 0 ? left : MIN(wait, left);
        }
    }
    return (int)MIN(wait, INT32_MAX);
}

static void timers_run(struct net_user *u) {
    int64_t now = now_ms();
    for (u32 i = 0; i < SLIRP_TIMERS; i++) {
        struct user_timer *t = &u->timer[i];
        if (t->used && t->due_ms >= 0 && t->due_ms <= now) {
            t->due_ms = -1;
            t->fn(t->ctx);
        }
    }
}

/* The ring is half empty again: the device may go on. */
static void ring_tell(struct net_user *u) {
    if (__atomic_load_n(&u->ring_full, __ATOMIC_SEQ_CST) &&
        __atomic_load_n(&u->head, __ATOMIC_ACQUIRE) - u->tail <= RING_SIZE / 2) {
        __atomic_store_n(&u->ring_full, 0, __ATOMIC_SEQ_CST);
        u->port.be.writable(u->port.be.device);
    }
}

static void user_wait(struct net_user *u, u32 slirp_ms) {
    __atomic_store_n(&u->sleeping, 1, __ATOMIC_SEQ_CST);
    bool full = u->backlog_bytes > BACKLOG_STOP;
    bool work = !full && __atomic_load_n(&u->head, __ATOMIC_SEQ_CST) != u->tail;
    /* with a full backlog nothing but the guest's buffers counts */
    poll(u->fds, full ? 1 : u->fd_count, work ? 0 : timers_timeout(u, slirp_ms));
    __atomic_store_n(&u->sleeping, 0, __ATOMIC_SEQ_CST);
    if (u->fds[0].revents) {
        u64 value;
        ssize_t n = read(u->port.wake_fd, &value, sizeof(value));
        (void)n;
    }
}

static void user_round(struct net_user *u) {
    uint32_t timeout = UINT32_MAX;
    pthread_mutex_lock(&slirp_lock);
    u->fd_count = 1;
    u->lib.pollfds_fill(u->slirp, &timeout, add_poll, u);
    pthread_mutex_unlock(&slirp_lock);
    for (u32 i = 0; i < u->fd_count; i++) {
        u->fds[i].revents = 0;
    }
    user_wait(u, timeout);
    net_port_retry(&u->port);
    if (u->backlog_bytes <= BACKLOG_STOP) {
        pthread_mutex_lock(&slirp_lock);
        u->lib.pollfds_poll(u->slirp, 0, get_revents, u);
        timers_run(u);
        ring_take(u);
        pthread_mutex_unlock(&slirp_lock);
    }
    joiners_flush(u);
    ring_tell(u);
}

static void user_run(struct net_port *p) {
    struct net_user *u = user_of(p);
    while (!net_port_quitting(p)) {
        user_round(u);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static void user_set_offloads(struct net_backend *be, u64 offloads) {
    __atomic_store_n(&user_of(net_port_of(be))->offloads, offloads, __ATOMIC_RELAXED);
}

static void user_free(struct net_port *p) {
    struct net_user *u = user_of(p);
    if (u->slirp) {
        pthread_mutex_lock(&slirp_lock);
        u->lib.cleanup(u->slirp);
        pthread_mutex_unlock(&slirp_lock);
    }
    while (u->first) {
        struct backlog *b = u->first;
        u->first = b->next;
        free(b);
    }
    free(u->fds);
    free(u->join);
    free(u->ring);
    free(u);
}

static const struct net_backend_ops user_ops = {.send = user_send,
                                                .set_offloads = user_set_offloads,
                                                .rx_ready = net_port_rx_ready,
                                                .start = net_port_start,
                                                .stop = net_port_stop,
                                                .close = net_port_close};

static int forward_add(struct net_user *u, const char *text, struct err *err) {
    struct net_forward f;
    int rc = net_forward_parse(text, &f, err);
    if (rc) {
        return rc;
    }
    struct sockaddr_in *guest = (struct sockaddr_in *)(void *)&f.guest;
    if (guest->sin_family == AF_INET && !guest->sin_addr.s_addr) {
        inet_pton(AF_INET, "10.0.2.15", &guest->sin_addr);
    }
    if (u->lib.add_hostxfwd(u->slirp, (struct sockaddr *)&f.host, f.host_len,
                            (struct sockaddr *)&f.guest, f.guest_len,
                            f.udp ? SLIRP_HOSTFWD_UDP : 0)) {
        return ERR_SET(err, ERR_IO, "--net user,hostfwd=%s: %s", text, strerror(errno));
    }
    return 0;
}

static int slirp_make(struct net_user *u, const struct net_user_opts *opts, struct err *err) {
    u16 mtu = opts->mtu ? opts->mtu : 1500;
    SlirpConfig cfg = {.version = 3,
                       .restricted = opts->restricted,
                       .disable_host_loopback = opts->no_loopback,
                       .in_enabled = true,
                       .in6_enabled = true,
                       .vprefix_len = 64,
                       .if_mtu = mtu,
                       .if_mru = mtu};
    inet_pton(AF_INET, "10.0.2.0", &cfg.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &cfg.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &cfg.vhost);
    inet_pton(AF_INET, "10.0.2.15", &cfg.vdhcp_start);
    inet_pton(AF_INET, "10.0.2.3", &cfg.vnameserver);
    inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &cfg.vhost6);
    inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6);
    pthread_mutex_lock(&slirp_lock);
    u->slirp = u->lib.create(&cfg, &callbacks, u);
    int rc = u->slirp ? 0 : ERR_SET(err, ERR_UNSUPPORTED, "--net user: libslirp refuses");
    for (u32 i = 0; !rc && i < opts->forward_count; i++) {
        rc = forward_add(u, opts->forward[i], err);
    }
    pthread_mutex_unlock(&slirp_lock);
    return rc;
}

static int user_memory(struct net_user *u, struct err *err) {
    u->ring = malloc(RING_SIZE);
    u->join = calloc(JOINERS, sizeof(*u->join));
    if (!u->ring || !u->join || add_poll(u->port.wake_fd, SLIRP_POLL_IN, u) < 0) {
        return ERR_SET(err, ERR_NOMEM, "--net user: out of memory");
    }
    return 0;
}

int net_user_open(struct linux_host *lh, const struct net_user_opts *opts, struct net_backend **out,
                  struct err *err) {
    struct net_user *u = calloc(1, sizeof(*u));
    if (!u) {
        return ERR_SET(err, ERR_NOMEM, "--net user: out of memory");
    }
    struct net_port *p = &u->port;
    p->be = (struct net_backend){
        .ops = &user_ops, .vnet_hdr = true, .offloads = NET_F_TX | (NET_F_RX & ~NET_F_GUEST_ECN)};
    p->run = user_run;
    p->resumed = user_resumed;
    p->free = user_free;
    u->last = &u->first;
    int rc = net_port_init(p, lh, "user", "", err);
    rc = rc ? rc : slirp_lib_load(&u->lib, err);
    rc = rc ? rc : user_memory(u, err);
    rc = rc ? rc : slirp_make(u, opts, err);
    linux_fence_need(lh, FENCE_INET);
    rc = rc ? rc : linux_fence_path(lh, "/etc/resolv.conf", FENCE_READ); /* read when it changes */
    if (rc) {
        net_port_close(&p->be);
        return rc;
    }
    *out = &p->be;
    return 0;
}
