/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of `sosia exec`: between a connection to the guest's agent, which the machine makes of a
 * socket pair that comes through its control socket, and the standard streams. Blocking streams are
 * written to in pieces that a pipe with room takes; signals come through a descriptor. What the
 * guest sends goes through agent_session.c. One thread.
 */
#include "cmd/agent_client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/terminal.h"

enum { ANSWER_MS = 15000, AGAIN_MS = 200, KILL_AFTER_MS = 5000, INTERRUPTS = 3 };

struct loop {
    const struct agent_exec *e;
    const char *verb;
    struct agent_session *s;
    int conn, signals;
    bool raw;
    bool in_end;    /* and the guest knows */
    bool hung_up;   /* the connection has ended */
    u32 interrupts; /* of a person who loses patience */
    u64 deadline;   /* 0: none */
    bool timed_out; /* SIGTERM was sent, */
    bool killed;    /* and then SIGKILL */
    int status;     /* when left: */
    bool left, escaped;
};

static u64 now_ms(void) {
    return linux_now_ns() / 1000000;
}

static void leave(struct loop *l, int status) {
    l->left = true;
    l->status = status;
}

static void leave_with(struct loop *l, int status, const char *text) {
    complain("%s: %s: %s", l->verb, l->e->machine, text);
    leave(l, status);
}

/* --- the connection --------------------------------------------------------------------------- */

/* A descriptor, or a negative code with err filled. */
static int dial(const char *machine, struct err *err) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
        return ERR_SET(err, ERR_IO, "no socket: %s", strerror(errno));
    }
    json_t *request = json_pack("{s:s, s:i}", "request", "vsock", "port", AGENT_PORT);
    int rc = control_request(machine, request, &pair[1], 1, NULL, err);
    close(pair[1]);
    if (rc) {
        close(pair[0]);
        return rc;
    }
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    return pair[0];
}

/* Bytes, 0: nothing now, -1: it has ended. */
static int conn_read(int conn, struct agent_session *s) {
    size_t room;
    u8 *to = agent_session_room(s, &room);
    ssize_t n = room ? recv(conn, to, room, 0) : 0;
    if (n > 0) {
        agent_session_fed(s, (size_t)n);
        return 1;
    }
    return !room || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? 0 : -1;
}

/* Waits for the agent's hello. 1: there, 0: nobody answers, negative with err filled. */
static int greet(int conn, struct agent_session *s, u64 until, struct err *err) {
    while (s->state < AGENT_STATE_GREETED) {
        struct pollfd p = {.fd = conn, .events = POLLIN};
        u64 now = now_ms();
        if (now >= until || poll(&p, 1, (int)(until - now)) == 0 || conn_read(conn, s) < 0) {
            return 0;
        }
        int rc = agent_session_next(s, err);
        if (rc) {
            return rc < 0 ? rc : 0;
        }
    }
    return 1;
}

/* A connection with an agent at its other end; it is tried until wait_ms are over. */
static int connect_agent(const struct agent_exec *e, struct agent_session *s, struct err *err) {
    u64 until = now_ms() + (u64)e->wait_ms;
    for (;;) {
        agent_session_init(s);
        int conn = dial(e->machine, err);
        if (conn < 0) {
            return conn;
        }
        int rc = greet(conn, s, now_ms() + ANSWER_MS, err);
        if (rc > 0) {
            return conn;
        }
        close(conn);
        if (rc < 0) {
            return rc;
        }
        if (now_ms() >= until) {
            return ERR_SET(err, ERR_STATE,
                           "no agent answers in the guest: it is not installed, or has not "
                           "started yet (--wait SECONDS)");
        }
        usleep(AGAIN_MS * 1000);
    }
}

/* --- output ----------------------------------------------------------------------------------- */

static void ended(struct loop *l) {
    const struct agent_session *s = l->s;
    if (s->error) {
        leave_with(l, s->error == ENOENT ? EXEC_NOT_FOUND : EXEC_CANNOT, s->text);
    } else if (l->timed_out) {
        leave_with(l, EXEC_TIMEOUT, "the command took too long");
    } else {
        leave(l, s->by_signal ? EXEC_SIGNAL + s->status : s->status);
    }
}

/* What has come, up to the next output. */
static void take(struct loop *l) {
    struct err err = {0};
    int rc = agent_session_next(l->s, &err);
    if (rc < 0) {
        leave_with(l, EXEC_FAILED, err.text);
    } else if (rc == AGENT_HAS_ENDED) {
        ended(l);
    } else if (l->hung_up && rc == AGENT_NEEDS_MORE) {
        leave_with(l, EXEC_FAILED, "the guest has ended, or its agent; so may the command");
    }
}

static void output(struct loop *l) {
    struct agent_session *s = l->s;
    int fd = s->pending_error ? l->e->error : l->e->out;
    ssize_t n = write(fd, s->pending, MIN(s->pending_len, (size_t)PIPE_BUF));
    if (n > 0) {
        agent_session_took(s, (size_t)n);
    } else if (errno == EPIPE) {
        leave(l, EXEC_SIGNAL + SIGPIPE); /* the command is hung up */
    } else if (errno != EAGAIN && errno != EINTR) {
        leave_with(l, EXEC_FAILED, strerror(errno));
    }
}

static void conn_send(struct loop *l) {
    ssize_t n = send(l->conn, l->s->out, l->s->out_len, MSG_NOSIGNAL);
    if (n > 0) {
        agent_session_sent(l->s, (size_t)n);
    } else if (errno != EAGAIN && errno != EINTR) {
        agent_session_sent(l->s, l->s->out_len); /* nobody takes it; what came may tell more */
    }
}

/* --- input ------------------------------------------------------------------------------------ */

static void input(struct loop *l) {
    u8 data[AGENT_DATA_MAX];
    ssize_t n = read(l->e->in, data, MIN(sizeof(data), agent_session_input_room(l->s)));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    const u8 *end =
        n > 0 && l->raw && l->e->escape >= 0 ? memchr(data, l->e->escape, (size_t)n) : NULL;
    if (end) {
        leave(l, EXEC_SIGNAL + SIGHUP);
        l->escaped = true;
    } else if (n > 0) {
        agent_session_input(l->s, data, (size_t)n);
    } else {
        agent_session_input_end(l->s);
        l->in_end = true;
    }
}

static void window_size(u32 *rows, u32 *cols) {
    struct winsize w;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w)) {
        w = (struct winsize){.ws_row = 24, .ws_col = 80};
    }
    *rows = w.ws_row;
    *cols = w.ws_col;
}

/* A signal for the command. Whoever presses ^C again and again means this one. */
static void signal_come(struct loop *l) {
    struct signalfd_siginfo info;
    u32 rows, cols;
    if (read(l->signals, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGWINCH) {
        window_size(&rows, &cols);
        agent_session_resize(l->s, rows, cols);
    } else if (l->s->state != AGENT_STATE_RUNNING || ++l->interrupts > INTERRUPTS) {
        leave(l, EXEC_SIGNAL + (int)info.ssi_signo);
    } else {
        agent_session_signal(l->s, (int)info.ssi_signo);
    }
}

static void signals_block(sigset_t *set, bool tty) {
    static const int passed[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
    sigemptyset(set);
    for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
        sigaddset(set, passed[i]);
    }
    if (tty) {
        sigaddset(set, SIGWINCH);
    }
    sigprocmask(SIG_BLOCK, set, NULL);
}

/* --- the loop --------------------------------------------------------------------------------- */

static void check_time(struct loop *l) {
    u64 now = now_ms();
    if (!l->deadline || now < l->deadline) {
        return;
    }
    if (l->killed || l->s->state != AGENT_STATE_RUNNING) {
        leave_with(l, EXEC_TIMEOUT, "the command took too long, and the agent does not answer");
        return;
    }
    agent_session_signal(l->s, l->timed_out ? SIGKILL : SIGTERM);
    l->killed = l->timed_out;
    l->timed_out = true;
    l->deadline = now + KILL_AFTER_MS;
}

static int time_left(const struct loop *l) {
    u64 now = now_ms();
    return !l->deadline ? -1 : l->deadline > now ? (int)MIN(l->deadline - now, (u64)INT_MAX) : 0;
}

static void step(struct loop *l) {
    struct agent_session *s = l->s;
    int to = s->pending_error ? l->e->error : l->e->out;
    if (s->out_len) {
        conn_send(l);
    }
    /* asked now: what has just left may have made room */
    bool wants = l->e->in >= 0 && !l->in_end && agent_session_input_room(s) > 0;
    /* while output waits for its taker the guest has to wait, too */
    short events = (short)((s->pending_len ? 0 : POLLIN) | (s->out_len ? POLLOUT : 0));
    struct pollfd p[4] = {
        {.fd = l->hung_up || !events ? -1 : l->conn, .events = events},
        {.fd = s->pending_len ? to : -1, .events = POLLOUT},
        {.fd = wants ? l->e->in : -1, .events = POLLIN},
        {.fd = l->signals, .events = POLLIN},
    };
    if (poll(p, ARRAY_LEN(p), time_left(l)) < 0 && errno != EINTR) {
        leave_with(l, EXEC_FAILED, strerror(errno));
        return;
    }
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
        l->hung_up = conn_read(l->conn, l->s) < 0;
    }
    if (p[1].revents) {
        output(l);
    }
    if (p[2].revents) {
        input(l);
    }
    if (p[3].revents) {
        signal_come(l);
    }
    check_time(l);
    if (!l->left) {
        take(l);
    }
}

static int ask(struct loop *l, struct err *err) {
    struct agent_command c = l->e->command;
    if (l->e->set_time) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        agent_session_set_time(l->s, t.tv_sec, (u32)t.tv_nsec);
        l->deadline = now_ms() + ANSWER_MS;
        return 0;
    }
    window_size(&c.rows, &c.cols);
    return agent_session_exec(l->s, &c, err);
}

static int run(struct loop *l) {
    struct err err = {0};
    struct termios saved;
    sigset_t set;
    l->conn = connect_agent(l->e, l->s, &err);
    int rc = l->conn < 0 ? l->conn : ask(l, &err);
    if (rc < 0) {
        complain("%s: %s: %s", l->verb, l->e->machine, err.text);
        return EXEC_FAILED;
    }
    signals_block(&set, l->e->command.tty);
    l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (l->e->timeout_ms >= 0) {
        l->deadline = now_ms() + (u64)l->e->timeout_ms;
    }
    l->raw = l->e->command.tty && terminal_raw(&saved);
    while (!l->left) {
        step(l);
    }
    if (l->raw) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
        if (l->escaped) {
            fprintf(stderr, "\nsosia: left %s\n", l->e->machine);
        }
    }
    close(l->signals);
    return l->status;
}

int agent_run(const char *verb, const struct agent_exec *e) {
    struct loop l = {.e = e, .verb = verb, .conn = -1, .signals = -1};
    l.s = malloc(sizeof(*l.s));
    if (!l.s) {
        complain("%s: out of memory", verb);
        return EXEC_FAILED;
    }
    int status = run(&l);
    if (l.conn >= 0) {
        close(l.conn);
    }
    free(l.s);
    return status;
}
