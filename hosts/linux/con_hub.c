/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A console that may be looked at from several places: what stands between a serial port and its
 * terminal, file or nothing, keeps the last output (feed.h) and lets sockets attach. Output is
 * paced by the back end below, when there is one; those who are attached never pace it. Input comes
 * from below and from all who are attached, mixed as it comes.
 *
 *   device <-> hub <-> below (terminal, file, pseudo-terminal, nothing)
 *               ^ +--> ring, attached sockets
 *               +----- their input
 *
 * con_socket_open is a hub with nothing below and a listening socket, each connection attached.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hosts/linux/feed.h"
#include "hosts/linux/host.h"

enum { HUB_RING = 64 * 1024 };

struct con_hub {
    struct char_backend be; /* first */
    struct linux_host *lh;
    struct char_backend *below; /* may be NULL */
    struct feed *feed;
    int listen_fd; /* -1: none */
    struct sockaddr_un at;
};

static struct con_hub *hub_of(struct char_backend *be) {
    return CONTAINER_OF(be, struct con_hub, be);
}

/* --- the device's side ------------------------------------------------------------------------ */

static size_t hub_write(struct char_backend *be, const u8 *data, size_t len) {
    struct con_hub *h = hub_of(be);
    size_t taken = h->below ? h->below->ops->write(h->below, data, len) : len;
    feed_put(h->feed, data, taken);
    return taken;
}

static void hub_rx_ready(struct char_backend *be) {
    struct con_hub *h = hub_of(be);
    feed_input_resume(h->feed);
    if (h->below) {
        h->below->ops->rx_ready(h->below);
    }
}

static void hub_close(struct char_backend *be) {
    struct con_hub *h = hub_of(be);
    if (h->listen_fd >= 0) {
        loop_unwatch(h->lh->loop, h->listen_fd);
        close(h->listen_fd);
        unlink(h->at.sun_path);
    }
    if (h->below) {
        h->below->ops->close(h->below);
    }
    feed_destroy(h->feed);
    free(h);
}

static const struct char_backend_ops hub_ops = {
    .write = hub_write, .rx_ready = hub_rx_ready, .close = hub_close};

/* --- below and beside ------------------------------------------------------------------------- */

/* A machine without a device at this console takes everything. */
static size_t hub_receive(void *hub, const u8 *data, size_t len) {
    struct con_hub *h = hub;
    return h->be.receive ? h->be.receive(h->be.device, data, len) : len;
}

static void hub_writable(void *hub) {
    struct con_hub *h = hub;
    if (h->be.writable) {
        h->be.writable(h->be.device);
    }
}

int con_hub_open(struct linux_host *lh, struct char_backend *below, struct con_hub **out,
                 struct err *err) {
    struct con_hub *h = calloc(1, sizeof(*h));
    *out = NULL;
    if (!h) {
        return ERR_SET(err, ERR_NOMEM, "console: out of memory");
    }
    h->be.ops = &hub_ops;
    h->lh = lh;
    h->listen_fd = -1;
    int rc = feed_create(lh, HUB_RING, &h->feed, err);
    if (rc) {
        free(h);
        return rc;
    }
    feed_input(h->feed, hub_receive, h);
    h->below = below;
    if (below) {
        below->receive = hub_receive;
        below->writable = hub_writable;
        below->device = h;
    }
    *out = h;
    return 0;
}

struct char_backend *con_hub_backend(struct con_hub *h) {
    return &h->be;
}

struct feed *con_hub_feed(struct con_hub *h) {
    return h->feed;
}

/* --- a listening socket ----------------------------------------------------------------------- */

static void on_connect(void *ctx) {
    struct con_hub *h = ctx;
    int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0 && feed_attach(h->feed, fd, FEED_REPLAY | FEED_FOLLOW | FEED_INPUT, NULL)) {
        close(fd);
    }
}

/* A socket that nobody listens at any more is in the way; anything else there is somebody's. */
static void stale_remove(const struct sockaddr_un *at) {
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !lstat(at->sun_path, &st) && S_ISSOCK(st.st_mode) &&
        connect(fd, (const struct sockaddr *)at, sizeof(*at)) && errno == ECONNREFUSED) {
        unlink(at->sun_path);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static int listen_at(struct con_hub *h, const char *path, struct err *err) {
    h->at.sun_family = AF_UNIX;
    memcpy(h->at.sun_path, path, strlen(path) + 1);
    stale_remove(&h->at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&h->at, sizeof(h->at))) {
        int rc = ERR_SET(err, ERR_INVAL, "console socket %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    h->listen_fd = fd;
    if (linux_fence_folder_of(h->lh, path, FENCE_SOCKETS) || listen(fd, 8) ||
        loop_watch(h->lh->loop, fd, on_connect, h)) {
        return ERR_SET(err, ERR_IO, "console socket %s: cannot listen", path);
    }
    return 0;
}

int con_socket_open(struct linux_host *lh, const char *path, struct con_hub **out,
                    struct err *err) {
    struct con_hub *h = NULL;
    *out = NULL;
    if (strlen(path) >= sizeof(h->at.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "console socket %s: the name is too long", path);
    }
    int rc = con_hub_open(lh, NULL, &h, err);
    if (rc || !h) {
        return rc;
    }
    rc = listen_at(h, path, err);
    if (rc) {
        hub_close(&h->be);
        return rc;
    }
    *out = h;
    return 0;
}
