/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process of a switch: sockets around vswitch.c. One thread, one epoll.
 *
 *   machine -- SOCK_SEQPACKET -- port -- vswitch_frame --> port's socket, or its queue when full
 *
 * A lock file says which process serves a name. It ends some seconds after the last port left. A
 * machine that does not read fills its own queue only: at most QUEUE_MAX bytes, of which one sender
 * gets no more than what is still free, so a flood leaves room for the others. Each port is read a
 * few frames at a time, in turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hosts/linux/net_port.h"
#include "hosts/linux/net_switch.h"
#include "hosts/linux/vswitch.h"

enum {
    FRAMES_PER_TURN = 16,
    QUEUE_MAX = 1 << 20, /* bytes that wait for a port */
    LINGER_MS = 3000,    /* without ports; the first must come within this, too */
    STRANGERS_MAX = 32,  /* connections without a hello */
    EVENTS = 64,
};

struct queued {
    struct queued *next;
    u32 len;
    u16 from;
    u8 data[];
};

struct conn {
    int fd;
    int port; /* -1: no hello yet */
    struct queued *first, **last;
    u32 queued;
    u32 queued_from[VSWITCH_PORTS];
};

struct server {
    int epoll, listener, lock;
    struct vswitch sw;
    struct conn *port[VSWITCH_PORTS];
    u32 ports, strangers;
    struct conn *doomed[EVENTS];
    u32 doomed_count;
    u8 frame[PORT_FRAME];
};

/* --- connections ------------------------------------------------------------------------------ */

static void conn_events(struct server *s, struct conn *c, u32 events) {
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &ev);
}

static void queue_free_first(struct conn *c) {
    struct queued *q = c->first;
    c->first = q->next;
    c->last = c->first ? c->last : &c->first;
    c->queued -= q->len;
    c->queued_from[q->from] -= q->len;
    free(q);
}

/* Freed by reap: a batch of events may still name it. */
static void conn_close(struct server *s, struct conn *c) {
    if (c->fd < 0) {
        return;
    }
    close(c->fd);
    c->fd = -1;
    while (c->first) {
        queue_free_first(c);
    }
    if (c->port >= 0) {
        vswitch_unplug(&s->sw, (u32)c->port);
        s->port[c->port] = NULL;
        s->ports--;
        for (u32 i = 0; i < s->sw.high; i++) {
            if (s->port[i]) {
                s->port[i]->queued_from[c->port] = 0; /* the number may be another's soon */
            }
        }
    } else {
        s->strangers--;
    }
    s->doomed[s->doomed_count++] = c;
}

static void reap(struct server *s) {
    while (s->doomed_count) {
        free(s->doomed[--s->doomed_count]);
    }
}

static void conn_accept(struct server *s) {
    struct ucred who;
    socklen_t len = sizeof(who);
    int size = 8 << 20;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct conn *c = fd < 0 ? NULL : calloc(1, sizeof(*c));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (!c || s->strangers >= STRANGERS_MAX ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) || who.uid != geteuid() ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev)) {
        free(c);
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    c->fd = fd;
    c->port = -1;
    c->last = &c->first;
    s->strangers++;
}

/* --- hello ------------------------------------------------------------------------------------ */

static size_t status_line(const struct server *s, u32 i, char *text, size_t size) {
    const struct vswitch_port *p = &s->sw.port[i];
    int n = snprintf(text, size,
                     "port %u vlan %u mac %02x:%02x:%02x:%02x:%02x:%02x frames %llu bytes %llu "
                     "spoofed %llu flooded %llu lost %llu macs %u\n",
                     i, p->vlan, p->mac[0], p->mac[1], p->mac[2], p->mac[3], p->mac[4], p->mac[5],
                     (unsigned long long)p->frames, (unsigned long long)p->bytes,
                     (unsigned long long)p->spoofed, (unsigned long long)p->flooded,
                     (unsigned long long)p->lost, p->macs);
    return n < 0 ? 0 : (size_t)n;
}

static void status_send(struct server *s, struct conn *c) {
    static char text[VSWITCH_PORTS * 200];
    size_t len = 0;
    for (u32 i = 0; i < s->sw.high; i++) {
        if (s->port[i]) {
            len += status_line(s, i, text + len, sizeof(text) - len);
        }
    }
    send(c->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    conn_close(s, c);
}

static void conn_hello(struct server *s, struct conn *c) {
    struct switch_hello h = {0};
    ssize_t n = recv(c->fd, &h, sizeof(h), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n != sizeof(h) || h.magic != SWITCH_MAGIC) {
        conn_close(s, c);
        return;
    }
    if (h.kind == SWITCH_STATUS) {
        status_send(s, c);
        return;
    }
    int port = h.kind == SWITCH_PLUG
                   ? vswitch_plug(&s->sw, h.vlan, h.mac, h.generated, linux_now(NULL))
                   : -ERR_UNSUPPORTED;
    struct switch_welcome w = {
        .magic = SWITCH_MAGIC, .result = port < 0 ? port : 0, .port = (u16)(port < 0 ? 0 : port)};
    memcpy(w.mac, h.mac, sizeof(w.mac));
    if (port >= 0) {
        c->port = port;
        s->port[port] = c;
        s->ports++;
        s->strangers--;
    }
    if (send(c->fd, &w, sizeof(w), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(w) || port < 0) {
        conn_close(s, c);
    }
}

/* --- frames ----------------------------------------------------------------------------------- */

/* At most what is free goes to one sender: the more it has waiting, the less it gets. */
static bool queue_admits(const struct conn *c, u16 from, u32 len) {
    u32 left = QUEUE_MAX - MIN(c->queued, (u32)QUEUE_MAX);
    return len <= left && c->queued_from[from] <= left;
}

static void queue_add(struct server *s, struct conn *c, u16 from, const u8 *data, u32 len) {
    struct queued *q = queue_admits(c, from, len) ? malloc(sizeof(*q) + len) : NULL;
    if (!q) {
        s->sw.port[c->port].lost++;
        return;
    }
    *q = (struct queued){.len = len, .from = from};
    memcpy(q->data, data, len);
    if (!c->first) {
        conn_events(s, c, EPOLLIN | EPOLLOUT);
    }
    *c->last = q;
    c->last = &q->next;
    c->queued += len;
    c->queued_from[from] += len;
}

static void frame_out(struct server *s, struct conn *c, u16 from, const u8 *data, u32 len) {
    if (!c->first) {
        ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0 || (errno != EAGAIN && errno != EINTR)) {
            return; /* a peer that is gone is noticed when its socket is read */
        }
    }
    queue_add(s, c, from, data, len);
}

static void queue_run(struct server *s, struct conn *c) {
    while (c->first) {
        ssize_t n = send(c->fd, c->first->data, c->first->len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        queue_free_first(c);
    }
    conn_events(s, c, EPOLLIN);
}

/* A neighbour's word that checksums are right is worth nothing. */
static void frame_switch(struct server *s, struct conn *c, u32 len) {
    struct vswitch_set to;
    u32 header = sizeof(struct net_hdr);
    if (len < header + NET_FRAME_MIN) {
        return;
    }
    s->frame[offsetof(struct net_hdr, flags)] &= NET_HDR_NEEDS_CSUM;
    vswitch_frame(&s->sw, (u32)c->port, s->frame + header, len - header, linux_now(NULL), &to);
    for (u32 word = 0; word < ARRAY_LEN(to.bits); word++) {
        for (u64 bits = to.bits[word]; bits; bits &= bits - 1) {
            struct conn *dest = s->port[word * 64 + (u32)__builtin_ctzll(bits)];
            if (dest) {
                frame_out(s, dest, (u16)c->port, s->frame, len);
            }
        }
    }
}

static void conn_input(struct server *s, struct conn *c) {
    for (u32 i = 0; i < FRAMES_PER_TURN && c->fd >= 0; i++) {
        if (c->port < 0) {
            conn_hello(s, c);
            return;
        }
        ssize_t n = recv(c->fd, s->frame, sizeof(s->frame), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            conn_close(s, c);
            return;
        }
        if (n <= (ssize_t)sizeof(s->frame)) {
            frame_switch(s, c, (u32)n);
        }
    }
}

/* --- the process ------------------------------------------------------------------------------ */

static void server_loop(struct server *s) {
    struct epoll_event events[EVENTS];
    for (;;) {
        bool alone = !s->ports && !s->strangers;
        int n = epoll_wait(s->epoll, events, EVENTS, alone ? LINGER_MS : -1);
        if (!n && alone) {
            return;
        }
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                conn_accept(s);
                continue;
            }
            if (c->fd >= 0 && (events[i].events & EPOLLOUT)) {
                queue_run(s, c);
            }
            if (c->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
                conn_input(s, c);
            }
        }
        reap(s);
    }
}

static int server_listen(struct server *s, const struct sockaddr_un *a, struct err *err) {
    struct epoll_event ev = {.events = EPOLLIN};
    unlink(a->sun_path); /* of a switch that was killed: its lock is ours */
    s->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->listener < 0 || s->epoll < 0 ||
        bind(s->listener, (const struct sockaddr *)a, sizeof(*a)) || listen(s->listener, 64) ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &ev)) {
        return ERR_SET(err, ERR_IO, "switch: %s: %s", a->sun_path, strerror(errno));
    }
    return 0;
}

/* 1: another process serves this name. */
static int server_lock(struct server *s, const struct sockaddr_un *a, struct err *err) {
    char path[sizeof(a->sun_path) + 8];
    snprintf(path, sizeof(path), "%s.lock", a->sun_path);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0) {
        return ERR_SET(err, ERR_IO, "switch: %s: %s", path, strerror(errno));
    }
    return flock(s->lock, LOCK_EX | LOCK_NB) ? 1 : 0;
}

int switch_serve(const char *name, struct err *err) {
    struct sockaddr_un a;
    struct server *s = calloc(1, sizeof(*s));
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "switch: out of memory");
    }
    s->epoll = s->listener = s->lock = -1;
    int rc = switch_address(name, &a, err);
    rc = rc ? rc : server_lock(s, &a, err);
    if (!rc) {
        rc = server_listen(s, &a, err);
        if (!rc) {
            server_loop(s);
        }
        unlink(a.sun_path);
    }
    close(s->listener);
    close(s->epoll);
    close(s->lock);
    free(s);
    return rc == 1 ? 0 : rc;
}

int switch_status(const char *name, int out, struct err *err) {
    struct switch_hello h = {.magic = SWITCH_MAGIC, .kind = SWITCH_STATUS};
    struct sockaddr_un a;
    char *text = NULL;
    int rc = switch_address(name, &a, err);
    if (rc) {
        return rc;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        rc = ERR_SET(err, ERR_NOTFOUND, "switch %s: no machine is connected to one of this name",
                     name);
    }
    text = rc ? NULL : malloc(VSWITCH_PORTS * 200);
    ssize_t n = !text || send(fd, &h, sizeof(h), MSG_NOSIGNAL) < 0
                    ? -1
                    : recv(fd, text, VSWITCH_PORTS * 200, 0);
    if (!rc && (n < 0 || write(out, text, (size_t)n) != n)) {
        rc = ERR_SET(err, ERR_IO, "switch %s: %s", name, strerror(errno));
    }
    free(text);
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}
