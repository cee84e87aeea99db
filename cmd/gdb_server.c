/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debugger's socket. Listens on loopback or a Unix socket; one connection at a time, later ones
 * wait in the backlog. Bytes go to core/vm/gdbstub on the event thread. Replies are small and the
 * debugger reads them at once, so sending may block, but for a bounded time.
 */
#include "cmd/gdb_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/vm/gdbstub.h"

enum { SEND_WAIT_MS = 2000 };

struct gdb_server {
    struct linux_host *lh;
    struct vm *vm;
    struct gdbstub *stub;
    int listen_fd, fd;   /* fd: the connection, -1: none */
    bool waiting;        /* the machine is paused until the first debugger comes */
    char unix_path[108]; /* to remove at the end; empty for TCP */
};

static void connection_close(struct gdb_server *s) {
    if (s->fd >= 0) {
        linux_fd_unwatch(s->lh, s->fd);
        close(s->fd);
        s->fd = -1;
        gdbstub_disconnected(s->stub);
    }
}

static void server_send(void *ctx, const u8 *data, size_t len) {
    struct gdb_server *s = ctx;
    while (len && s->fd >= 0) {
        ssize_t n = send(s->fd, data, len, MSG_NOSIGNAL);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        if (n < 0 && (errno == EAGAIN || errno == EINTR) && poll(&p, 1, SEND_WAIT_MS) > 0) {
            continue;
        }
        shutdown(s->fd, SHUT_RDWR); /* the next read sees the end and closes */
        return;
    }
}

static void connection_ready(void *ctx) {
    struct gdb_server *s = ctx;
    u8 buf[4096];
    ssize_t n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        connection_close(s);
        return;
    }
    gdbstub_input(s->stub, buf, (size_t)n);
}

static void listener_ready(void *ctx) {
    struct gdb_server *s = ctx;
    int one = 1;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (s->fd >= 0) { /* one debugger at a time */
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    s->fd = fd;
    if (linux_fd_watch(s->lh, fd, connection_ready, s)) {
        close(fd);
        s->fd = -1;
        return;
    }
    gdbstub_connected(s->stub);
    if (s->waiting) {
        s->waiting = false;
        vm_resume(s->vm); /* the stub holds its own pause now */
    }
}

static int listen_unix(struct gdb_server *s, const char *path, struct err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof(a.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "--gdb unix:%s: not a usable socket path", path);
    }
    memcpy(a.sun_path, path, strlen(path));
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&a, sizeof(a)) ||
        listen(s->listen_fd, 1)) {
        return ERR_SET(err, ERR_INVAL, "--gdb unix:%s: %s", path, strerror(errno));
    }
    snprintf(s->unix_path, sizeof(s->unix_path), "%s", path);
    return linux_fence_folder_of(s->lh, path, FENCE_SOCKETS);
}

/* "ADDRESS:PORT"; an empty address is 127.0.0.1: the stub gives full control to whoever connects.
 */
static int listen_tcp(struct gdb_server *s, const char *where, struct err *err) {
    char host[256];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *a;
    int one = 1;
    const char *colon = strrchr(where, ':');
    if (!colon || !colon[1] || (size_t)(colon - where) >= sizeof(host)) {
        return ERR_SET(err, ERR_INVAL, "--gdb tcp:%s: not ADDRESS:PORT", where);
    }
    snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
    if (getaddrinfo(!*host || !strcmp(host, "localhost") ? "127.0.0.1" : host, colon + 1, &hints,
                    &a)) {
        return ERR_SET(err, ERR_INVAL, "--gdb tcp:%s: not ADDRESS:PORT", where);
    }
    s->listen_fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    int failed = s->listen_fd < 0 || bind(s->listen_fd, a->ai_addr, a->ai_addrlen) ||
                 listen(s->listen_fd, 1);
    int error = errno;
    freeaddrinfo(a);
    return failed ? ERR_SET(err, ERR_INVAL, "--gdb tcp:%s: %s", where, strerror(error)) : 0;
}

int gdb_server_create(struct linux_host *lh, struct vm *vm, const char *where, bool wait,
                      struct gdb_server **out, struct err *err) {
    struct gdb_server *s = calloc(1, sizeof(*s));
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    *s = (struct gdb_server){.lh = lh, .vm = vm, .listen_fd = -1, .fd = -1, .waiting = wait};
    int rc =
        strncmp(where, "unix:", 5) ? listen_tcp(s, where + 4, err) : listen_unix(s, where + 5, err);
    rc = rc ? rc : gdbstub_create(vm, server_send, s, &s->stub, err);
    if (!rc && linux_fd_watch(lh, s->listen_fd, listener_ready, s)) {
        rc = ERR_SET(err, ERR_IO, "--gdb %s: cannot watch the socket", where);
    }
    if (rc) {
        s->waiting = false;
        gdb_server_destroy(s);
        return rc;
    }
    if (wait) {
        vm_pause(vm);
    }
    *out = s;
    return 0;
}

void gdb_server_exited(struct gdb_server *s, int status) {
    if (s && s->fd >= 0) {
        gdbstub_exited(s->stub, status);
    }
}

void gdb_server_destroy(struct gdb_server *s) {
    if (!s) {
        return;
    }
    connection_close(s);
    gdbstub_destroy(s->stub);
    if (s->listen_fd >= 0) {
        linux_fd_unwatch(s->lh, s->listen_fd);
        close(s->listen_fd);
    }
    if (s->unix_path[0]) {
        unlink(s->unix_path);
    }
    free(s);
}
