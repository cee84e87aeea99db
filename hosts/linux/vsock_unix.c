/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets of the guest as Unix sockets of the host, by Firecracker's hybrid protocol:
 *
 *   a program of the host connects to PATH and sends "CONNECT 1234\n"; when a program of the guest
 *   that listens at port 1234 has taken the connection it gets "OK 1073741824\n", and data follows;
 *   a program of the guest that connects to CID 2, port 52, reaches whoever listens at PATH_52.
 *
 * All sockets are in an epoll set of their own, edge-triggered; the event loop watches the set. The
 * device reads and writes without waiting, on any thread; connecting, accepting and shutting down
 * are done on the event thread, as the fence keeps them from vCPUs.
 *
 *   FREE -> GREETING (accepted, no line yet) -> OPEN (the device's) -> CLOSED -> FREE
 *     +---> DIALLING (connect to be called) ------^
 *
 * A number is free again only after the event thread came by, so that no callback is about its next
 * life. Lock: `lock` guards states and descriptors; the device's calls come with the board lock,
 * outside of it. Callbacks are made without it.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum {
    SOCKS = 512,
    GREETINGS = 64, /* programs that have connected and said nothing; then the oldest goes */
    GREETING = 32,  /* bytes of "CONNECT PORT\n" at most */
    BACKLOG = 64,
    EVENTS = 64,
    PORT_DIGITS = 11, /* "_4294967295" */
    LISTENER = UINT16_MAX,
};

#define ACCEPT_AGAIN_NS (100 * NSEC_PER_SEC / 1000) /* no descriptor was left */

enum state { FREE, GREETING_STATE, DIALLING, OPEN, CLOSED };
enum { TODO_SHUT_RECEIVE = 1, TODO_SHUT_SEND = 2 };

struct sock {
    int fd;
    u8 state, todo;
    u32 port;  /* of the host, while DIALLING */
    u64 order; /* of GREETING, which is older */
};

struct vsock_unix {
    struct vsock_backend be;
    struct linux_host *lh;
    struct host_timer *timer; /* accepts again */
    int listener, epoll;
    pthread_mutex_t lock;
    bool posted, running;
    u64 accepted;
    u32 greetings;
    u32 last; /* where the search for a free number begins */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct sock sock[SOCKS];
};

static struct vsock_unix *unix_of(struct vsock_backend *be) {
    return CONTAINER_OF(be, struct vsock_unix, be);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static int sock_take(struct vsock_unix *u, enum state state, int fd) {
    for (u32 i = 0; i < SOCKS; i++) {
        u32 n = (u->last + i) % SOCKS;
        if (u->sock[n].state == FREE) {
            u->sock[n] = (struct sock){.fd = fd, .state = (u8)state};
            u->last = n + 1;
            return (int)n;
        }
    }
    return -ERR_NOSPACE;
}

static void sock_close(struct sock *s, enum state after) {
    if (s->fd >= 0) {
        close(s->fd); /* which takes it out of the epoll set */
    }
    s->fd = -1;
    s->todo = 0;
    s->state = (u8)after;
}

static int set_add(struct vsock_unix *u, int fd, u32 events, u32 number) {
    struct epoll_event ev = {.events = events, .data.u32 = number};
    return epoll_ctl(u->epoll, EPOLL_CTL_ADD, fd, &ev);
}

static int sock_watch(struct vsock_unix *u, u32 n) {
    return set_add(u, u->sock[n].fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, n);
}

/* --- work of the event thread ----------------------------------------------------------------- */

static int dial(const struct vsock_unix *u, u32 port) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char name[sizeof(u->path) + PORT_DIGITS];
    int len = snprintf(name, sizeof(name), "%s_%u", u->path, port);
    if (!u->path[0] || len < 0 || (size_t)len >= sizeof(to.sun_path)) {
        return -1; /* vsock_unix_open has seen to that there is room */
    }
    memcpy(to.sun_path, name, (size_t)len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Connects for the device and tells it. */
static void sock_dial(struct vsock_unix *u, u32 n) {
    struct sock *s = &u->sock[n];
    s->fd = dial(u, s->port);
    bool ok = s->fd >= 0 && !sock_watch(u, n);
    s->state = OPEN;
    pthread_mutex_unlock(&u->lock);
    u->be.connected(u->be.device, n, ok);
    pthread_mutex_lock(&u->lock);
}

static void sock_shut(struct sock *s) {
    int how = s->todo == (TODO_SHUT_RECEIVE | TODO_SHUT_SEND) ? SHUT_RDWR
              : s->todo & TODO_SHUT_SEND                      ? SHUT_WR
                                                              : SHUT_RD;
    s->todo = 0;
    if (s->fd >= 0) {
        shutdown(s->fd, how);
    }
}

static void work(void *ctx) {
    struct vsock_unix *u = ctx;
    pthread_mutex_lock(&u->lock);
    u->posted = false;
    for (u32 n = 0; n < SOCKS && u->running; n++) {
        struct sock *s = &u->sock[n];
        if (s->state == CLOSED) {
            s->state = FREE;
        } else if (s->state == DIALLING) {
            sock_dial(u, n);
        }
        if (s->state == OPEN && s->todo) {
            sock_shut(s);
        }
    }
    pthread_mutex_unlock(&u->lock);
}

/* lock held. Without memory for it the work is done when something else is. */
static void work_post(struct vsock_unix *u) {
    if (!u->posted && u->running) {
        u->posted = !linux_post(u->lh, work, u);
    }
}

/* --- programs of the host that connect -------------------------------------------------------- */

static void greeting_end(struct vsock_unix *u, u32 n, bool open) {
    u->greetings--;
    if (open) {
        u->sock[n].state = OPEN;
    } else {
        sock_close(&u->sock[n], FREE);
    }
}

static void greeting_drop_oldest(struct vsock_unix *u) {
    u32 oldest = SOCKS;
    for (u32 n = 0; n < SOCKS; n++) {
        if (u->sock[n].state == GREETING_STATE &&
            (oldest == SOCKS || u->sock[n].order < u->sock[oldest].order)) {
            oldest = n;
        }
    }
    if (oldest < SOCKS) {
        greeting_end(u, oldest, false);
    }
}

/* "CONNECT 1234\n"; the word in any case, blanks between. */
static bool greeting_parse(const char *line, size_t len, u32 *port) {
    static const char word[] = "CONNECT";
    size_t i = sizeof(word) - 1;
    u64 value = 0;
    u32 digits = 0;
    if (len <= i || strncasecmp(line, word, i) != 0 || line[i] != ' ') {
        return false;
    }
    for (; i < len && line[i] == ' '; i++) {
    }
    for (; i < len && isdigit((unsigned char)line[i]) && digits < 11; i++, digits++) {
        value = value * 10 + (u64)(line[i] - '0');
    }
    *port = (u32)value;
    return digits && value <= UINT32_MAX && i == len - 1 && line[i] == '\n';
}

/* Looks at the line without taking what follows it. 1: complete; 0: not yet; negative: no line. */
static int greeting_read(int fd, u32 *port) {
    char line[GREETING];
    ssize_t n = recv(fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
    if (!end) {
        struct pollfd p = {.fd = fd, .events = POLLRDHUP};
        bool more = n > 0 && n < (ssize_t)sizeof(line) && poll(&p, 1, 0) == 0;
        return more ? 0 : -ERR_FORMAT;
    }
    size_t len = (size_t)(end - line) + 1;
    return greeting_parse(line, len, port) && recv(fd, line, len, MSG_DONTWAIT) == (ssize_t)len
               ? 1
               : -ERR_FORMAT;
}

/* lock held; gives it up for the callback. */
static void greeting_event(struct vsock_unix *u, u32 n) {
    u32 port = 0;
    int rc = greeting_read(u->sock[n].fd, &port);
    if (!rc) {
        return;
    }
    greeting_end(u, n, rc > 0);
    if (rc > 0) {
        pthread_mutex_unlock(&u->lock);
        u->be.incoming(u->be.device, n, port);
        pthread_mutex_lock(&u->lock);
    }
}

/* False: none came, or there was no place for it. */
static bool accept_one(struct vsock_unix *u) {
    int fd = accept4(u->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) {
        return false;
    }
    int n = fd < 0 ? -ERR_NOSPACE : sock_take(u, GREETING_STATE, fd);
    if (n < 0) { /* one that waits costs nothing; looking for it again and again does */
        epoll_ctl(u->epoll, EPOLL_CTL_DEL, u->listener, NULL);
        struct host *host = linux_host_host(u->lh);
        host->ops->timer_arm(host, u->timer, host_now(host) + ACCEPT_AGAIN_NS);
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    u->sock[n].order = u->accepted++;
    if (++u->greetings > GREETINGS) {
        greeting_drop_oldest(u);
    }
    if (sock_watch(u, (u32)n)) {
        greeting_end(u, (u32)n, false);
    }
    return true;
}

int vsock_unix_adopt(struct vsock_backend *be, int fd, u32 port) {
    struct vsock_unix *u = unix_of(be);
    int flags = fcntl(fd, F_GETFL);
    pthread_mutex_lock(&u->lock);
    int n = u->running ? sock_take(u, OPEN, fd) : -ERR_NOSPACE;
    if (n >= 0 && (fcntl(fd, F_SETFL, flags | O_NONBLOCK) || sock_watch(u, (u32)n))) {
        u->sock[n].fd = -1;
        sock_close(&u->sock[n], FREE);
        n = -ERR_NOSPACE;
    }
    pthread_mutex_unlock(&u->lock);
    if (n >= 0) {
        be->incoming(be->device, (u32)n, port);
    }
    return n < 0 ? n : 0;
}

static void accept_again(void *ctx) {
    struct vsock_unix *u = ctx;
    if (u->listener >= 0) {
        set_add(u, u->listener, EPOLLIN, LISTENER);
    }
}

/* --- events ----------------------------------------------------------------------------------- */

/* lock held. */
static void sock_event(struct vsock_unix *u, u32 n) {
    if (n == LISTENER) {
        for (u32 i = 0; i < BACKLOG && accept_one(u); i++) {
        }
    } else if (u->sock[n].state == GREETING_STATE) {
        greeting_event(u, n);
    } else if (u->sock[n].state == OPEN) {
        pthread_mutex_unlock(&u->lock);
        u->be.event(u->be.device, n);
        pthread_mutex_lock(&u->lock);
    }
}

static void set_ready(void *ctx) {
    struct vsock_unix *u = ctx;
    struct epoll_event ev[EVENTS];
    int count = epoll_wait(u->epoll, ev, EVENTS, 0);
    pthread_mutex_lock(&u->lock);
    for (int i = 0; i < count; i++) {
        sock_event(u, ev[i].data.u32);
    }
    pthread_mutex_unlock(&u->lock);
}

/* --- the device's calls ----------------------------------------------------------------------- */

static int unix_connect(struct vsock_backend *be, u32 port) {
    struct vsock_unix *u = unix_of(be);
    pthread_mutex_lock(&u->lock);
    int n = sock_take(u, DIALLING, -1);
    if (n >= 0) {
        u->sock[n].port = port;
        work_post(u);
    }
    pthread_mutex_unlock(&u->lock);
    return n;
}

static void unix_accepted(struct vsock_backend *be, u32 n, u32 host_port) {
    char line[32];
    int len = snprintf(line, sizeof(line), "OK %u\n", host_port);
    /* nothing was written to this socket before: it has room */
    ssize_t sent = send(unix_of(be)->sock[n].fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

static struct msghdr message(const struct iov *iov, u32 count) {
    return (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
}

static s64 unix_read(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    struct msghdr m = message(iov, count);
    ssize_t got = recvmsg(unix_of(be)->sock[n].fd, &m, MSG_DONTWAIT);
    return got >= 0 ? got : errno == EAGAIN || errno == EINTR ? -ERR_AGAIN : -ERR_IO;
}

static s64 unix_write(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    struct msghdr m = message(iov, count);
    ssize_t put = sendmsg(unix_of(be)->sock[n].fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    return put >= 0 ? put : errno == EAGAIN || errno == EINTR ? -ERR_AGAIN : -ERR_IO;
}

static bool unix_hung_up(struct vsock_backend *be, u32 n) {
    struct pollfd p = {.fd = unix_of(be)->sock[n].fd};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

static void unix_shutdown(struct vsock_backend *be, u32 n, bool receive, bool send) {
    struct vsock_unix *u = unix_of(be);
    pthread_mutex_lock(&u->lock);
    u->sock[n].todo |= (u8)((receive ? TODO_SHUT_RECEIVE : 0) | (send ? TODO_SHUT_SEND : 0));
    work_post(u);
    pthread_mutex_unlock(&u->lock);
}

static void unix_close(struct vsock_backend *be, u32 n) {
    struct vsock_unix *u = unix_of(be);
    pthread_mutex_lock(&u->lock);
    sock_close(&u->sock[n], u->running ? CLOSED : FREE);
    work_post(u);
    pthread_mutex_unlock(&u->lock);
}

/* --- life ------------------------------------------------------------------------------------- */

static void unix_start(struct vsock_backend *be) {
    struct vsock_unix *u = unix_of(be);
    u->running = true;
    accept_again(u);
    linux_fd_watch(u->lh, u->epoll, set_ready, u);
}

static void unix_stop(struct vsock_backend *be) {
    struct vsock_unix *u = unix_of(be);
    struct host *host = linux_host_host(u->lh);
    pthread_mutex_lock(&u->lock);
    bool was = u->running;
    u->running = false;
    pthread_mutex_unlock(&u->lock);
    if (was) {
        linux_fd_unwatch(u->lh, u->epoll);
        linux_post_forget(u->lh, u);
        host->ops->timer_cancel(host, u->timer);
    }
}

static void unix_destroy(struct vsock_backend *be) {
    struct vsock_unix *u = unix_of(be);
    struct host *host = linux_host_host(u->lh);
    unix_stop(be);
    for (u32 n = 0; n < SOCKS; n++) {
        sock_close(&u->sock[n], FREE);
    }
    if (u->timer) {
        host->ops->timer_destroy(host, u->timer);
    }
    if (u->listener >= 0) {
        close(u->listener);
        unlink(u->path);
    }
    if (u->epoll >= 0) {
        close(u->epoll);
    }
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static const struct vsock_backend_ops unix_ops = {
    .connect = unix_connect,
    .accepted = unix_accepted,
    .read = unix_read,
    .write = unix_write,
    .hung_up = unix_hung_up,
    .shutdown = unix_shutdown,
    .close = unix_close,
    .start = unix_start,
    .stop = unix_stop,
    .destroy = unix_destroy,
};

/* A socket that nobody listens at any more was left by a process that was killed. */
static void remove_stale(const char *path, const struct sockaddr_un *at) {
    struct stat st;
    int fd = lstat(path, &st) || !S_ISSOCK(st.st_mode)
                 ? -1
                 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) {
        if (connect(fd, (const struct sockaddr *)at, sizeof(*at)) && errno == ECONNREFUSED) {
            unlink(path);
        }
        close(fd);
    }
}

static int listener_open(struct vsock_unix *u, struct err *err) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, u->path, sizeof(at.sun_path));
    remove_stale(u->path, &at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at))) {
        int why = errno;
        if (fd >= 0) {
            close(fd);
        }
        return ERR_SET(err, ERR_IO, "vsock: socket %s: %s", u->path, strerror(why));
    }
    u->listener = fd; /* from here on the name is ours to remove */
    return listen(fd, BACKLOG)
               ? ERR_SET(err, ERR_IO, "vsock: socket %s: %s", u->path, strerror(errno))
               : 0;
}

static int unix_open(struct vsock_unix *u, struct err *err) {
    struct host *host = linux_host_host(u->lh);
    u->timer = host->ops->timer_create(host, accept_again, u);
    u->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!u->timer || u->epoll < 0) {
        return ERR_SET(err, ERR_NOMEM, "vsock: out of memory or descriptors");
    }
    if (!u->path[0]) {
        return 0;
    }
    linux_fence_need(u->lh, FENCE_UNIX);
    int rc = linux_fence_folder_of(u->lh, u->path, FENCE_SOCKETS);
    return rc ? ERR_SET(err, ERR_NOMEM, "vsock: out of memory") : listener_open(u, err);
}

int vsock_unix_open(struct linux_host *lh, const char *path, struct vsock_backend **out,
                    struct err *err) {
    size_t len = path ? strlen(path) : 0;
    struct vsock_unix *u = calloc(1, sizeof(*u));
    if (!u) {
        return ERR_SET(err, ERR_NOMEM, "vsock: out of memory");
    }
    *u = (struct vsock_unix){
        .be = {.ops = &unix_ops, .max = SOCKS}, .lh = lh, .listener = -1, .epoll = -1};
    pthread_mutex_init(&u->lock, NULL);
    for (u32 n = 0; n < SOCKS; n++) {
        u->sock[n].fd = -1;
    }
    int rc = 0;
    if (path && (!len || len + PORT_DIGITS >= sizeof(u->path))) {
        rc = ERR_SET(err, ERR_INVAL, "vsock: socket %.120s: a name has 1 to %zu characters", path,
                     sizeof(u->path) - PORT_DIGITS - 1);
    } else {
        memcpy(u->path, path ? path : "", len + 1);
        rc = unix_open(u, err);
    }
    if (rc) {
        unix_destroy(&u->be);
        return rc;
    }
    *out = &u->be;
    return 0;
}
