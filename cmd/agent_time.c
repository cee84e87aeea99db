/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the agent in a restored guest what time it is, as `sosia exec --set-time` does. A guest
 * without an agent refuses the connection: after TRIES of that, or TRY_NS without an answer, it is
 * left alone. What the guest sends is checked by agent_session.c; all runs on the event thread, a
 * few steps at a time.
 */
#include "cmd/agent_time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cmd/agent_session.h"
#include "cmd/machine.h"

enum { TRIES = 3 };

#define TRY_NS   (5 * NSEC_PER_SEC)
#define AGAIN_NS (NSEC_PER_SEC / 2)

struct agent_time {
    struct linux_host *lh;
    struct vsock_backend *be;
    struct host_timer *timer;
    u32 tries;
    int fd; /* -1: between two tries, or done */
    struct agent_session s;
};

static void arm(struct agent_time *t, u64 ns) {
    struct host *host = linux_host_host(t->lh);
    host->ops->timer_arm(host, t->timer, host_now(host) + ns);
}

static void hang_up(struct agent_time *t) {
    if (t->fd >= 0) {
        linux_fd_unwatch(t->lh, t->fd);
        close(t->fd);
        t->fd = -1;
    }
}

/* The connections of the saved machine end in the guest when it goes on, perhaps this one, too. */
static void try_later(struct agent_time *t) {
    hang_up(t);
    if (t->tries < TRIES) {
        arm(t, AGAIN_NS);
    }
}

static void done(struct agent_time *t) {
    const struct agent_session *s = &t->s;
    struct host *host = linux_host_host(t->lh);
    char text[64 + sizeof(s->text)];
    host->ops->timer_cancel(host, t->timer);
    snprintf(text, sizeof(text), "the agent cannot set the guest's clock: %s", s->text);
    linux_log_note(s->error ? LOG_WARN : LOG_INFO, s->error ? text : "the guest's clock is set");
    t->tries = TRIES;
    hang_up(t);
}

/* One read, and what follows from it. */
static void step(struct agent_time *t) {
    struct timespec now;
    size_t room;
    u8 *to = agent_session_room(&t->s, &room);
    ssize_t n = room ? recv(t->fd, to, room, MSG_DONTWAIT) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n > 0) {
        agent_session_fed(&t->s, (size_t)n);
    }
    int rc = n > 0 ? agent_session_next(&t->s, NULL) : -ERR_IO;
    if (rc == AGENT_HAS_ENDED) {
        done(t);
        return;
    }
    if (rc) { /* output without being asked is none of an agent */
        try_later(t);
        return;
    }
    if (t->s.state == AGENT_STATE_GREETED) {
        clock_gettime(CLOCK_REALTIME, &now);
        agent_session_set_time(&t->s, now.tv_sec, (u32)now.tv_nsec);
    }
    n = t->s.out_len ? send(t->fd, t->s.out, t->s.out_len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    agent_session_sent(&t->s, n > 0 ? (size_t)n : 0);
}

static void on_ready(void *ctx) {
    step(ctx);
}

static void dial(struct agent_time *t) {
    int pair[2];
    t->tries++;
    agent_session_init(&t->s);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
        try_later(t);
        return;
    }
    if (vsock_unix_adopt(t->be, pair[1], AGENT_PORT)) {
        close(pair[0]);
        close(pair[1]);
        try_later(t);
        return;
    }
    t->fd = pair[0];
    arm(t, TRY_NS);
    linux_fd_watch(t->lh, t->fd, on_ready, t);
}

static void on_timer(void *ctx) {
    struct agent_time *t = ctx;
    if (t->fd >= 0) { /* nobody answered in time */
        t->tries = TRIES;
        hang_up(t);
    } else {
        dial(t);
    }
}

struct agent_time *agent_time_begin(struct machine *m) {
    struct host *host = linux_host_host(m->lh);
    struct agent_time *t = m->cfg.vsock.backend ? calloc(1, sizeof(*t)) : NULL;
    if (!t) {
        return NULL;
    }
    t->lh = m->lh;
    t->be = m->cfg.vsock.backend;
    t->fd = -1;
    t->timer = host->ops->timer_create(host, on_timer, t);
    if (!t->timer) {
        free(t);
        return NULL;
    }
    arm(t, 0);
    return t;
}

void agent_time_end(struct agent_time *t) {
    if (t) {
        struct host *host = linux_host_host(t->lh);
        host->ops->timer_cancel(host, t->timer);
        hang_up(t);
        host->ops->timer_destroy(host, t->timer);
        free(t);
    }
}
