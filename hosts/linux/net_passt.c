/* SPDX-License-Identifier: Apache-2.0 */
/*
 * passt as network back end: a process of its own that translates the guest's connections to
 * sockets of the host, reached through its Unix socket (`passt --socket PATH`). Each frame is
 * preceded by its length, four bytes, big-endian; no frame header, so checksums and segments are
 * made here, and segments that come in a row are joined for drivers that take them so.
 * Manual: passt(1); QEMU's -netdev stream has the same protocol.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "hosts/linux/net_port.h"

enum { PASST_FRAME_MAX = 65535, PASST_BUFFER = 256 * 1024, PASST_OUT = 256 * 1024 };

struct net_passt {
    struct net_port port;
    u64 offloads; /* atomic: what the driver accepted */
    u8 in[PASST_BUFFER];
    u32 in_at, in_len; /* bytes of `in` looked at, and there */
    struct gro gro;
    struct net_hdr hdr; /* of the frame that gro gave out */
    struct gso gso;
    u8 frame[NET_FRAME_MAX];
    /* What the socket did not take yet: sent by the next send, or by the port thread. */
    pthread_mutex_t lock;
    u8 out[PASST_OUT];
    u32 out_at, out_len; /* bytes sent of it, and there */
};

static struct net_passt *passt_of(struct net_port *p) {
    return CONTAINER_OF(p, struct net_passt, port);
}

/* --- to passt --------------------------------------------------------------------------------- */

static void out_add(struct net_passt *s, const void *data, u32 len) {
    if (!len) {
        return;
    }
    memcpy(s->out + s->out_len, data, len);
    s->out_len += len;
}

/* Room for one more frame was checked by the caller. */
static void out_frame(struct net_passt *s, const u8 *a, u32 a_len, const u8 *b, u32 b_len) {
    u32 len = a_len + b_len;
    u8 prefix[4] = {(u8)(len >> 24), (u8)(len >> 16), (u8)(len >> 8), (u8)len};
    if (len <= PASST_FRAME_MAX) {
        out_add(s, prefix, 4);
        out_add(s, a, a_len);
        out_add(s, b, b_len);
    }
}

static void out_write(struct net_passt *s) {
    while (s->out_at < s->out_len) {
        ssize_t n = send(s->port.fd, s->out + s->out_at, s->out_len - s->out_at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        s->out_at = n > 0 ? s->out_at + (u32)n : s->out_len; /* nobody there: lost */
    }
    s->out_len -= s->out_at;
    memmove(s->out, s->out + s->out_at, s->out_len);
    s->out_at = 0;
}

static u32 gather(u8 *to, struct net_hdr *hdr, const struct iov *iov, u32 count) {
    u32 len = 0;
    memcpy(hdr, iov[0].base, sizeof(*hdr)); /* the device's own memory, in one piece */
    for (u32 i = 1; i < count; i++) {
        memcpy(to + len, iov[i].base, iov[i].len);
        len += (u32)iov[i].len;
    }
    return len;
}

static void out_any(struct net_passt *s, const struct net_hdr *hdr, u32 len) {
    const u8 *payload;
    u32 head, part;
    if (hdr->gso_type == NET_GSO_NONE) {
        if (hdr->flags & NET_HDR_NEEDS_CSUM) {
            packet_checksum(s->frame, len, hdr->csum_start, hdr->csum_offset);
        }
        out_frame(s, s->frame, len, NULL, 0);
    } else if (gso_begin(&s->gso, hdr, s->frame, len, PASST_FRAME_MAX - NET_HEADERS_MAX)) {
        while (gso_next(&s->gso, &head, &payload, &part)) {
            out_frame(s, s->gso.head, head, payload, part);
        }
    }
}

static int passt_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct net_passt *s = passt_of(net_port_of(be));
    struct net_hdr hdr;
    pthread_mutex_lock(&s->lock);
    out_write(s);
    bool room = s->out_len <= PASST_OUT - 2 * NET_FRAME_MAX;
    if (room) {
        u32 len = gather(s->frame, &hdr, iov, count);
        out_any(s, &hdr, len);
        out_write(s);
    }
    bool rest = s->out_len;
    pthread_mutex_unlock(&s->lock);
    int wait = rest ? net_port_full(&s->port) : 0;
    return room ? 0 : wait;
}

/* Port thread: the socket takes more. */
static void passt_output(struct net_port *p) {
    struct net_passt *s = passt_of(p);
    pthread_mutex_lock(&s->lock);
    out_write(s);
    bool rest = s->out_len;
    pthread_mutex_unlock(&s->lock);
    if (rest) {
        net_port_full(p);
    }
}

/* --- from passt ------------------------------------------------------------------------------- */

/* False: the device is full. */
static bool flush(struct net_passt *s) {
    u32 len = gro_flush(&s->gro, &s->hdr);
    struct iov iov[2] = {{&s->hdr, sizeof(s->hdr)}, {s->gro.frame, len}};
    return !len || net_port_deliver(&s->port, iov, 2);
}

static bool take(struct net_passt *s, const u8 *frame, u32 len) {
    bool join = __atomic_load_n(&s->offloads, __ATOMIC_RELAXED) & NET_F_GUEST_TSO4;
    if (s->gro.len && (!join || !gro_add(&s->gro, frame, len))) {
        if (!flush(s)) {
            return false; /* the frame stays in `in` */
        }
    } else if (s->gro.len) {
        return true;
    }
    return gro_add(&s->gro, frame, len);
}

/* Delivers what is buffered until the device is full. */
static void passt_work(struct net_port *p) {
    struct net_passt *s = passt_of(p);
    while (!p->blocked && s->in_len - s->in_at >= 4) {
        const u8 *at = s->in + s->in_at;
        u32 len = (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
        if (len > PASST_FRAME_MAX) {
            net_port_hangup(p, "passt sent a frame of impossible length");
            return;
        }
        if (s->in_len - s->in_at - 4 < len) {
            break;
        }
        if (len < NET_FRAME_MIN || take(s, at + 4, len)) {
            s->in_at += 4 + len;
        }
    }
    if (!p->blocked) {
        flush(s);
    }
    if (s->in_at) {
        s->in_len -= s->in_at;
        memmove(s->in, s->in + s->in_at, s->in_len);
        s->in_at = 0;
    }
}

static void passt_input(struct net_port *p) {
    struct net_passt *s = passt_of(p);
    ssize_t n = recv(p->fd, s->in + s->in_len, PASST_BUFFER - s->in_len, MSG_DONTWAIT);
    if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        net_port_hangup(p, "passt ended");
        return;
    }
    s->in_len += n > 0 ? (u32)n : 0;
    passt_work(p);
}

/* --- life ------------------------------------------------------------------------------------- */

static void passt_set_offloads(struct net_backend *be, u64 offloads) {
    __atomic_store_n(&passt_of(net_port_of(be))->offloads, offloads, __ATOMIC_RELAXED);
}

static void passt_free(struct net_port *p) {
    pthread_mutex_destroy(&passt_of(p)->lock);
    free(passt_of(p));
}

static const struct net_backend_ops passt_ops = {.send = passt_send,
                                                 .set_offloads = passt_set_offloads,
                                                 .rx_ready = net_port_rx_ready,
                                                 .start = net_port_start,
                                                 .stop = net_port_stop,
                                                 .close = net_port_close};

static int passt_connect(struct net_port *p, const char *path, struct err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int size = 1 << 20;
    if (strlen(path) >= sizeof(a.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "--net passt=%s: the name of a socket is at most %zu long",
                       path, sizeof(a.sun_path) - 1);
    }
    memcpy(a.sun_path, path, strlen(path) + 1);
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&a, sizeof(a))) {
        return ERR_SET(err, ERR_IO,
                       "--net passt=%s: %s; start it with `passt --socket %s` before the machine",
                       path, strerror(errno), path);
    }
    setsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    return 0;
}

int net_passt_open(struct linux_host *lh, const char *path, struct net_backend **out,
                   struct err *err) {
    struct net_passt *s = calloc(1, sizeof(*s));
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "--net passt: out of memory");
    }
    struct net_port *p = &s->port;
    pthread_mutex_init(&s->lock, NULL);
    p->be = (struct net_backend){
        .ops = &passt_ops, .vnet_hdr = true, .offloads = NET_F_TX | (NET_F_RX & ~NET_F_GUEST_ECN)};
    p->input = passt_input;
    p->output = passt_output;
    p->resumed = passt_work;
    p->free = passt_free;
    int rc = net_port_init(p, lh, "passt", path, err);
    rc = rc ? rc : passt_connect(p, path, err);
    if (rc) {
        net_port_close(&p->be);
        return rc;
    }
    *out = &p->be;
    return 0;
}
