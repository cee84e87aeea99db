/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server of a machine's control socket; see control.h. Everything but control_done runs on the
 * event thread without a lock; control_done hands the call over by a post. A connection:
 *
 *   readable -> lines -> request -> handler -> answer -> next line ...
 *                                     | CONTROL_LATER
 *                                     +-> (call pending) -> control_done -> answer -> next line
 *
 * Answers are sent without waiting; what the socket does not take is tried again by a timer, and a
 * client that takes nothing for STUCK_NS is dropped.
 */
#include "cmd/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd/control_parse.h"
#include "cmd/registry.h"
#include "hosts/linux/linux.h"

#define RETRY_NS (10 * 1000000ull)
#define STUCK_NS (10 * NSEC_PER_SEC)

enum { SEND_BUFFER = 256 * 1024 };

struct pending {
    struct control_call call; /* first: control_done converts */
    struct conn *conn;
    u32 finished; /* atomic: control_done was here, rc and err are valid */
    int rc;
    struct err err;
};

struct conn {
    struct control *c;
    int fd;
    pid_t pid;
    uid_t uid;
    struct control_lines lines;
    int fds[CONTROL_MAX_FDS]; /* came and not yet given to a request */
    u32 fd_count;
    bool fds_lost; /* more than there is room for */
    struct pending *pending;
    char *out; /* rest of an answer */
    size_t out_at, out_len;
    u64 stuck_since;
    bool watched, dead; /* dead: to be freed once its answers are out */
    struct conn *next;
};

struct control {
    struct linux_host *lh;
    int fd; /* the registration's */
    struct host_timer *retry;
    struct {
        const struct control_verb *verbs;
        u32 count;
        void *ctx;
    } table[CONTROL_MAX_TABLES];
    u32 table_count, conn_count;
    struct conn *conns;
};

/* --- descriptors that came along -------------------------------------------------------------- */

static void fds_close(int *fds, u32 count) {
    for (u32 i = 0; i < count; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

static void fds_take(struct conn *n, const struct cmsghdr *h) {
    size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
        if (n->fd_count < CONTROL_MAX_FDS) {
            n->fds[n->fd_count++] = fd;
        } else {
            close(fd);
            n->fds_lost = true;
        }
    }
}

/* As recv, but keeps descriptors. */
static ssize_t conn_recv(struct conn *n, char *to, size_t room) {
    union {
        char space[CMSG_SPACE(CONTROL_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } u;
    struct iovec iov = {to, room};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = u.space,
                       .msg_controllen = sizeof(u.space)};
    ssize_t got = recvmsg(n->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *h = got >= 0 ? CMSG_FIRSTHDR(&m) : NULL; h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
            fds_take(n, h);
        }
    }
    n->fds_lost = n->fds_lost || (got >= 0 && (m.msg_flags & MSG_CTRUNC));
    return got;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void conn_unwatch(struct conn *n) {
    if (n->watched) {
        linux_fd_unwatch(n->c->lh, n->fd);
        n->watched = false;
    }
}

static void conn_kill(struct conn *n) {
    conn_unwatch(n);
    n->dead = true;
    free(n->out);
    n->out = NULL;
}

/* Sends what is left of the answer; arms the timer for what does not go now. */
static void out_flush(struct conn *n) {
    struct host *host = linux_host_host(n->c->lh);
    while (n->out) {
        ssize_t sent =
            send(n->fd, n->out + n->out_at, n->out_len - n->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0 && (errno != EAGAIN || host_now(host) - n->stuck_since > STUCK_NS)) {
            conn_kill(n);
        } else if (sent < 0) {
            host->ops->timer_arm(host, n->c->retry, host_now(host) + RETRY_NS);
            return;
        } else {
            n->stuck_since = host_now(host);
            n->out_at += (size_t)sent;
            if (n->out_at == n->out_len) {
                free(n->out);
                n->out = NULL;
            }
        }
    }
}

static void answer(struct conn *n, json_t *reply) {
    char *text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    size_t len = text ? strlen(text) : 0;
    char *line = text ? realloc(text, len + 1) : NULL;
    if (!line) {
        free(text);
        conn_kill(n);
        return;
    }
    line[len] = '\n'; /* where the 0 was */
    n->out = line;
    n->out_at = 0;
    n->out_len = len + 1;
    n->stuck_since = host_now(linux_host_host(n->c->lh));
    out_flush(n);
}

/* A message may hold a guest's or a client's bytes: what is no UTF-8 is not given to JSON. */
static json_t *error_reply(int rc, const struct err *err) {
    json_t *o = json_object();
    json_object_set_new(o, "ok", json_false());
    json_object_set_new(o, "code", json_string(err_name(rc)));
    json_t *text = json_string(err && err->text[0] ? err->text : err_name(rc));
    json_object_set_new(o, "error", text ? text : json_string("(the message is no UTF-8)"));
    return o;
}

static void answer_call(struct pending *p, int rc, const struct err *err) {
    struct conn *n = p->conn;
    json_t *reply = rc ? error_reply(rc, err) : json_incref(p->call.reply);
    if (!rc) {
        json_object_set_new(reply, "ok", json_true());
    }
    if (n->dead) {
        json_decref(reply);
    } else {
        answer(n, reply);
    }
    n->pending = NULL;
    fds_close(p->call.fd, p->call.fd_count);
    json_decref((json_t *)(uintptr_t)p->call.request);
    json_decref(p->call.reply);
    free(p);
}

/* --- requests --------------------------------------------------------------------------------- */

static int call_handler(struct control *c, struct control_call *call, struct err *err) {
    const char *name = json_string_value(json_object_get(call->request, "request"));
    for (u32 t = 0; t < c->table_count; t++) {
        for (u32 i = 0; i < c->table[t].count; i++) {
            if (!strcmp(c->table[t].verbs[i].name, name)) {
                return c->table[t].verbs[i].fn(c->table[t].ctx, call, err);
            }
        }
    }
    return ERR_SET(err, ERR_UNSUPPORTED, "unknown request '%.40s'", name);
}

/* Takes over the reference to request. */
static void serve(struct conn *n, json_t *request) {
    struct err err = {0};
    struct pending *p = calloc(1, sizeof(*p));
    json_t *reply = json_object();
    if (!p || !reply) {
        free(p);
        json_decref(reply);
        json_decref(request);
        conn_kill(n);
        return;
    }
    p->conn = n;
    p->call = (struct control_call){.request = request,
                                    .reply = reply,
                                    .fd_count = n->fd_count,
                                    .peer_pid = n->pid,
                                    .peer_uid = n->uid};
    memcpy(p->call.fd, n->fds, sizeof(n->fds));
    n->fd_count = 0;
    n->pending = p;
    int rc = n->fds_lost ? ERR_SET(&err, ERR_RANGE, "more than %d descriptors", CONTROL_MAX_FDS)
                         : call_handler(n->c, &p->call, &err);
    n->fds_lost = false;
    if (rc <= 0) {
        answer_call(p, rc, &err);
    }
}

static void serve_lines(struct conn *n) {
    while (!n->dead && !n->pending && !n->out) {
        struct err err = {0};
        json_t *request = NULL;
        int rc = control_lines_next(&n->lines, &request, &err);
        if (!rc) {
            return;
        }
        if (rc > 0) {
            serve(n, request);
            continue;
        }
        answer(n, error_reply(rc, &err));
        if (rc == -ERR_RANGE) {
            conn_unwatch(n);
            n->dead = true;
        }
    }
}

/* --- connections ------------------------------------------------------------------------------ */

static void conn_free(struct conn *n) {
    struct control *c = n->c;
    for (struct conn **at = &c->conns; *at; at = &(*at)->next) {
        if (*at == n) {
            *at = n->next;
            c->conn_count--;
            break;
        }
    }
    conn_unwatch(n);
    fds_close(n->fds, n->fd_count);
    control_lines_free(&n->lines);
    free(n->out);
    close(n->fd);
    free(n);
}

/* After anything that may have ended it. */
static void conn_settle(struct conn *n) {
    if (n->dead && !n->pending && !n->out) {
        conn_free(n);
    }
}

/* The client has hung up, or said that nothing more comes: what it asked is answered still. */
static void conn_eof(struct conn *n) {
    conn_unwatch(n);
    n->dead = n->dead || !n->pending;
    if (n->pending && n->pending->call.gone) {
        n->pending->call.gone(&n->pending->call);
    }
}

static void on_readable(void *ctx) {
    struct conn *n = ctx;
    size_t room;
    char *to = control_lines_room(&n->lines, &room);
    ssize_t got = room ? conn_recv(n, to, room) : -1;
    if (!room) { /* pending, and more than a buffer full waits: not a client of ours */
        conn_kill(n);
    } else if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    } else if (got <= 0) {
        conn_eof(n);
    } else {
        control_lines_fed(&n->lines, (size_t)got);
        serve_lines(n);
    }
    conn_settle(n);
}

static bool peer_allowed(int fd, struct ucred *cred) {
    socklen_t len = sizeof(*cred);
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, cred, &len) &&
           (cred->uid == 0 || cred->uid == geteuid());
}

static void conn_create(struct control *c, int fd) {
    struct ucred cred;
    int room = SEND_BUFFER;
    struct conn *n = c->conn_count < CONTROL_MAX_CLIENTS && peer_allowed(fd, &cred)
                         ? calloc(1, sizeof(*n))
                         : NULL;
    if (!n) {
        close(fd);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    *n = (struct conn){.c = c, .fd = fd, .pid = cred.pid, .uid = cred.uid, .next = c->conns};
    c->conns = n;
    c->conn_count++;
    n->watched = !linux_fd_watch(c->lh, fd, on_readable, n);
    if (!n->watched) {
        conn_free(n);
    }
}

static void on_connect(void *ctx) {
    struct control *c = ctx;
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        conn_create(c, fd);
    }
}

static void on_retry(void *ctx) {
    struct control *c = ctx;
    for (struct conn *n = c->conns, *next; n; n = next) {
        next = n->next;
        if (n->out) {
            out_flush(n);
            serve_lines(n);
            conn_settle(n);
        }
    }
}

/* --- calls that take longer ------------------------------------------------------------------- */

static void call_finish(void *ctx) {
    struct pending *p = ctx;
    struct conn *n = p->conn;
    answer_call(p, p->rc, &p->err);
    if (!n->watched) { /* end of input was seen: nothing more comes */
        n->dead = true;
    }
    serve_lines(n);
    conn_settle(n);
}

void control_done(struct control_call *call, int rc, const struct err *err) {
    struct pending *p = (struct pending *)(void *)call;
    p->rc = rc;
    if (err) {
        p->err = *err;
    }
    __atomic_store_n(&p->finished, 1, __ATOMIC_RELEASE);
    linux_post(p->conn->c->lh, call_finish, p); /* else control_destroy answers */
}

/* --- life ------------------------------------------------------------------------------------- */

int control_create(struct linux_host *lh, struct registration *reg, struct control **out,
                   struct err *err) {
    struct host *host = linux_host_host(lh);
    *out = NULL;
    if (!reg) {
        return 0;
    }
    struct control *c = calloc(1, sizeof(*c));
    if (c) {
        c->lh = lh;
        c->fd = -1;
        c->retry = host->ops->timer_create(host, on_retry, c);
    }
    if (!c || !c->retry) {
        free(c);
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    c->fd = registry_socket(reg);
    if (listen(c->fd, 16) || linux_fd_watch(lh, c->fd, on_connect, c)) {
        control_destroy(c);
        return ERR_SET(err, ERR_IO, "control socket: %s", strerror(errno));
    }
    *out = c;
    return 0;
}

/* The last words to a client whose call is not done. */
static void conn_end(struct conn *n) {
    struct err err = {0};
    struct pending *p = n->pending;
    if (p) {
        linux_post_forget(n->c->lh, p);
        bool finished = __atomic_load_n(&p->finished, __ATOMIC_ACQUIRE);
        if (!finished) {
            ERR_SET(&err, ERR_STATE, "the machine has ended");
        }
        answer_call(p, finished ? p->rc : -ERR_STATE, finished ? &p->err : &err);
    }
    conn_free(n);
}

void control_destroy(struct control *c) {
    if (!c) {
        return;
    }
    struct host *host = linux_host_host(c->lh);
    if (c->fd >= 0) {
        linux_fd_unwatch(c->lh, c->fd);
    }
    for (struct conn *n = c->conns, *next; n; n = next) {
        next = n->next;
        conn_end(n);
    }
    host->ops->timer_destroy(host, c->retry);
    free(c);
}

int control_add(struct control *c, const struct control_verb *verbs, u32 count, void *ctx) {
    if (!c) {
        return 0;
    }
    if (c->table_count == CONTROL_MAX_TABLES) {
        return -ERR_NOSPACE;
    }
    c->table[c->table_count].verbs = verbs;
    c->table[c->table_count].count = count;
    c->table[c->table_count++].ctx = ctx;
    return 0;
}
