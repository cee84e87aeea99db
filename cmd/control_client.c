/* SPDX-License-Identifier: Apache-2.0 */
/* The client of a control socket; see control_client.h. Blocking, one question at a time. */
#include "cmd/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cmd/control.h"
#include "cmd/registry.h"
#include "hosts/linux/linux.h"

enum { ANSWER_MAX = 64 << 20 };

struct control_client {
    int fd;
    char *buf; /* what came behind the last answer's newline never matters: nothing does */
    size_t used, size;
};

static int path_connect(const char *path, struct err *err) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(at.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "%s: longer than a socket's name can be", path);
    }
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at))) {
        int rc = ERR_SET(err, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return fd;
}

int control_connect(const char *machine, struct control_client **out, struct err *err) {
    *out = NULL;
    int fd = strchr(machine, '/') ? path_connect(machine, err) : registry_connect(machine, err);
    if (fd < 0) {
        return fd;
    }
    struct control_client *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    c->fd = fd;
    *out = c;
    return 0;
}

void control_close(struct control_client *c) {
    if (c) {
        close(c->fd);
        free(c->buf);
        free(c);
    }
}

pid_t control_pid(const struct control_client *c) {
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);
    return getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) ? 0 : cred.pid;
}

static int send_all(int fd, const char *text, size_t len, const int *fds, u32 fd_count) {
    union {
        char space[CMSG_SPACE(CONTROL_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } u = {.space = {0}};
    while (len) {
        struct iovec iov = {(char *)(uintptr_t)text, len};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (fd_count) {
            m.msg_control = u.space;
            m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
            struct cmsghdr *h = CMSG_FIRSTHDR(&m);
            *h = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                  .cmsg_type = SCM_RIGHTS,
                                  .cmsg_len = CMSG_LEN(fd_count * sizeof(int))};
            memcpy(CMSG_DATA(h), fds, fd_count * sizeof(int));
        }
        ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        if (n > 0) {
            fd_count = 0; /* they went with the first bytes */
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static u64 now_ms(void) {
    return linux_now_ns() / 1000000;
}

static int buf_grow(struct control_client *c) {
    size_t size = c->size ? c->size * 2 : 4096;
    char *buf = size <= ANSWER_MAX ? realloc(c->buf, size) : NULL;
    if (!buf) {
        return -1;
    }
    c->buf = buf;
    c->size = size;
    return 0;
}

/* The next line, in c->buf; its length, or a negative code. */
static ssize_t line_read(struct control_client *c, int timeout_ms, struct err *err) {
    u64 until = now_ms() + (timeout_ms < 0 ? 0 : (u64)timeout_ms);
    c->used = 0;
    for (;;) {
        u64 now = now_ms();
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        int left = timeout_ms < 0 ? -1 : now < until ? (int)(until - now) : 0;
        if (poll(&p, 1, left) == 0) {
            return ERR_SET(err, ERR_AGAIN, "the machine did not answer in time");
        }
        if (c->used == c->size && buf_grow(c)) {
            return ERR_SET(err, ERR_NOMEM, "the machine's answer is too long");
        }
        ssize_t n = recv(c->fd, c->buf + c->used, c->size - c->used, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return ERR_SET(err, ERR_IO, "the machine has ended or does not talk to this user");
        }
        char *end = memchr(c->buf + c->used, '\n', (size_t)n);
        c->used += (size_t)n;
        if (end) {
            return end - c->buf;
        }
    }
}

static int code_of(const char *name) {
    for (int code = ERR_INVAL; name && code <= ERR_NOSPACE; code++) {
        if (!strcmp(name, err_name(code))) {
            return code;
        }
    }
    return ERR_STATE;
}

/* Takes over the reference to o. */
static int judge(json_t *o, json_t **reply, struct err *err) {
    int rc = 0;
    if (!json_is_true(json_object_get(o, "ok"))) {
        const char *text = json_string_value(json_object_get(o, "error"));
        int code = code_of(json_string_value(json_object_get(o, "code")));
        rc = ERR_SET(err, (enum err_code)code, "%.200s",
                     text ? text : "the machine's answer is bad");
    }
    if (reply && !rc) {
        *reply = o;
    } else {
        json_decref(o);
    }
    return rc;
}

int control_ask(struct control_client *c, json_t *request, const int *fds, u32 fd_count,
                int timeout_ms, json_t **reply, struct err *err) {
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    size_t len = text ? strlen(text) : 0;
    if (!text || len >= CONTROL_LINE_MAX || fd_count > CONTROL_MAX_FDS) {
        free(text);
        return ERR_SET(err, ERR_INVAL, "the request cannot be put into JSON");
    }
    text[len] = '\n'; /* the length goes along, so the 0 is not missed */
    int rc = send_all(c->fd, text, len + 1, fds, fd_count);
    free(text);
    if (rc) {
        return ERR_SET(err, ERR_IO, "the machine does not listen: %s", strerror(errno));
    }
    ssize_t n = line_read(c, timeout_ms, err);
    if (n < 0) {
        return (int)n;
    }
    json_t *o = json_loadb(c->buf, (size_t)n, 0, NULL);
    return o ? judge(o, reply, err) : ERR_SET(err, ERR_FORMAT, "the machine's answer is no JSON");
}

int control_request(const char *machine, json_t *request, const int *fds, u32 fd_count,
                    json_t **reply, struct err *err) {
    struct control_client *c;
    int rc = control_connect(machine, &c, err);
    if (rc) {
        json_decref(request);
        return rc;
    }
    rc = control_ask(c, request, fds, fd_count, -1, reply, err);
    control_close(c);
    return rc;
}
