/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sosia-agent: runs commands for `sosia exec` in a Linux guest. Listens at AF_VSOCK port
 * AGENT_PORT; one process for each connection, one command for each of those. The protocol is in
 * cmd/agent_proto.h and docs/exec.md.
 *
 * The host may do anything here, as it may with the machine; only connections from it (CID 2) are
 * taken. Memory is bounded all the same: one frame each way and AGENT_WINDOW bytes of input. Users
 * come from /etc/passwd and /etc/group only, so that a static program needs no libraries.
 *
 * usage: sosia-agent      runs until it is killed; status 1 when there is no vsock
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "cmd/agent_proto.h"

enum { CONNECTIONS = 64, GROUPS = 64, FIRST_FRAME_MS = 10000, LAST_READS = 64 };

struct user {
    uid_t uid;
    gid_t gid;
    char name[64], home[PATH_MAX], shell[256];
};

struct session {
    int conn, signals;
    uint8_t in[AGENT_HEAD + AGENT_PAYLOAD_MAX];
    size_t in_len;
    uint8_t out[2 * AGENT_PAYLOAD_MAX]; /* frames for the host */
    size_t out_len;
    uint8_t input[AGENT_WINDOW]; /* for the command */
    size_t input_len;
    bool input_end;          /* no more comes */
    uint32_t credit;         /* taken by the command, not yet told */
    uint32_t window;         /* what the host may send yet */
    int to, from, from_err;  /* pipes, or the terminal; -1: closed */
    bool tty, greeted, last; /* last: the connection ends when all is sent */
    pid_t pid;               /* 0: no command yet */
    int status;              /* of wait, when ended */
    bool ended;
    int reads; /* of output since then */
};

/* --- frames ----------------------------------------------------------------------------------- */

static uint32_t get16(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p) {
    return get16(p) | get16(p + 2) << 16;
}

static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> 8 * i);
    }
}

/* There is always room: output is read while `out` is empty only, and the rest is small. */
static void send_frame(struct session *s, enum agent_type type, const void *data, size_t len) {
    if (sizeof(s->out) - s->out_len < AGENT_HEAD + len) {
        return;
    }
    uint8_t *p = s->out + s->out_len;
    put32(p, (uint32_t)len);
    put32(p + 4, type);
    if (len) {
        memcpy(p + AGENT_HEAD, data, len);
    }
    s->out_len += AGENT_HEAD + len;
}

static void send_error(struct session *s, int code, const char *text) {
    uint8_t data[2 + AGENT_TEXT_MAX] = {(uint8_t)code, (uint8_t)(code >> 8)};
    size_t len = strnlen(text, AGENT_TEXT_MAX);
    memcpy(data + 2, text, len);
    send_frame(s, AGENT_ERROR, data, 2 + len);
    s->last = true;
}

/* --- users ------------------------------------------------------------------------------------ */

/* Cuts a line of /etc/passwd or /etc/group at its colons; true: it has that many fields. */
static bool fields_cut(char *line, char **field, int count) {
    line[strcspn(line, "\n")] = 0;
    for (int i = 0; i < count; i++) {
        field[i] = line;
        line = line ? strchr(line, ':') : NULL;
        if (line) {
            *line++ = 0;
        }
    }
    return field[count - 1];
}

static bool number(const char *text, uint32_t *out) {
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    *out = (uint32_t)v;
    return *text >= '0' && *text <= '9' && !*end && v < UINT32_MAX;
}

/* name: of a user, or a number. False: there is none of that name. */
static bool user_find(const char *name, struct user *u) {
    char line[4096], *f[7];
    uint32_t id, uid, gid;
    bool numeric = number(name, &id), found = false;
    FILE *file = fopen("/etc/passwd", "re");
    while (file && !found && fgets(line, sizeof(line), file)) {
        if (fields_cut(line, f, 7) && number(f[2], &uid) && number(f[3], &gid) &&
            (numeric ? uid == id : !strcmp(f[0], name))) {
            *u = (struct user){.uid = uid, .gid = gid};
            snprintf(u->name, sizeof(u->name), "%s", f[0]);
            snprintf(u->home, sizeof(u->home), "%s", f[5]);
            snprintf(u->shell, sizeof(u->shell), "%s", *f[6] ? f[6] : "/bin/sh");
            found = true;
        }
    }
    if (file) {
        fclose(file);
    }
    if (!found && (numeric || !strcmp(name, "root"))) { /* a system without such a file */
        id = numeric ? id : 0;
        *u = (struct user){.uid = id, .gid = id, .shell = "/bin/sh"};
        snprintf(u->name, sizeof(u->name), "%s", id ? name : "root");
        strcpy(u->home, id || access("/root", X_OK) ? "/" : "/root");
        found = true;
    }
    return found;
}

/* The groups that list the user. */
static int groups_find(const struct user *u, gid_t *out) {
    char line[4096], *f[4], *rest;
    uint32_t gid;
    int count = 0;
    FILE *file = fopen("/etc/group", "re");
    out[count++] = u->gid;
    while (file && count < GROUPS && fgets(line, sizeof(line), file)) {
        if (!fields_cut(line, f, 4) || !number(f[2], &gid) || gid == u->gid) {
            continue;
        }
        for (char *m = strtok_r(f[3], ",", &rest); m; m = strtok_r(NULL, ",", &rest)) {
            if (!strcmp(m, u->name)) {
                out[count++] = gid;
                break;
            }
        }
    }
    if (file) {
        fclose(file);
    }
    return count;
}

/* --- the command ------------------------------------------------------------------------------ */

/* AGENT_EXEC, taken apart; pointers into the frame. */
struct request {
    uint32_t flags, rows, cols, argc, envc;
    const char *user, *dir;
    char *argv[AGENT_ARGS_MAX + 1], *env[AGENT_ARGS_MAX + 1];
};

/* The next text that ends with a 0, or NULL. */
static char *text_next(uint8_t **at, const uint8_t *end) {
    uint8_t *p = *at, *zero = p < end ? memchr(p, 0, (size_t)(end - p)) : NULL;
    *at = zero ? zero + 1 : p;
    return zero ? (char *)p : NULL;
}

static bool request_parse(struct request *r, uint8_t *p, size_t len) {
    const uint8_t *end = p + len;
    if (len < AGENT_EXEC_HEAD) {
        return false;
    }
    r->flags = get16(p);
    r->rows = get16(p + 2);
    r->cols = get16(p + 4);
    r->argc = get16(p + 6);
    r->envc = get16(p + 8);
    p += AGENT_EXEC_HEAD;
    r->user = text_next(&p, end);
    r->dir = r->user ? text_next(&p, end) : NULL;
    bool ok = r->dir && r->argc && r->argc <= AGENT_ARGS_MAX && r->envc <= AGENT_ARGS_MAX;
    for (uint32_t i = 0; ok && i < r->argc; i++) {
        ok = (r->argv[i] = text_next(&p, end)) != NULL;
    }
    for (uint32_t i = 0; ok && i < r->envc; i++) {
        ok = (r->env[i] = text_next(&p, end)) != NULL && strchr(r->env[i], '=');
    }
    return ok && p == end;
}

static void environment_set(const struct request *r, const struct user *u) {
    clearenv();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", u->home, 1);
    setenv("USER", u->name, 1);
    setenv("LOGNAME", u->name, 1);
    setenv("SHELL", u->shell, 1);
    for (uint32_t i = 0; i < r->envc; i++) {
        putenv(r->env[i]);
    }
}

/* Descriptors of the child: its ends of the pipes, or the terminal. */
struct ends {
    int in, out, err;
};

static void child_end(int report, int code, const char *what) {
    char text[AGENT_TEXT_MAX];
    int len =
        snprintf(text, sizeof(text), "%c%c%s: %s", code & 0xff, code >> 8, what, strerror(code));
    ssize_t n = write(report, text, (size_t)(len < (int)sizeof(text) ? len : AGENT_TEXT_MAX - 1));
    _exit(n > 0 ? 127 : 126);
}

static void child_user(const struct request *r, const struct user *u, int report) {
    gid_t group[GROUPS];
    int groups = groups_find(u, group);
    if (geteuid() == 0 && (setgroups((size_t)groups, group) || setgid(u->gid) || setuid(u->uid))) {
        child_end(report, errno, u->name);
    }
    if (geteuid() != u->uid) {
        child_end(report, EPERM, u->name);
    }
    if (chdir(*r->dir ? r->dir : u->home)) {
        if (*r->dir) {
            child_end(report, errno, r->dir);
        } else if (chdir("/")) {
            child_end(report, errno, "/");
        }
    }
}

static void child_run(const struct request *r, const struct user *u, struct ends e, int report) {
    sigset_t none;
    setsid();
    if (r->flags & AGENT_FLAG_TTY && ioctl(e.in, TIOCSCTTY, 0)) {
        child_end(report, errno, "terminal");
    }
    if (dup2(e.in, 0) < 0 || dup2(e.out, 1) < 0 || dup2(e.err, 2) < 0) {
        child_end(report, errno, "descriptors");
    }
    if (r->flags & AGENT_FLAG_TTY && geteuid() == 0 && fchown(0, u->uid, u->gid)) {
        child_end(report, errno, "terminal");
    }
    child_user(r, u, report);
    environment_set(r, u);
    for (int sig = 1; sig < NSIG; sig++) { /* a shell's background job ignores some */
        signal(sig, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(r->argv[0], r->argv);
    child_end(report, errno, r->argv[0]);
}

static void close_all(const int *fd, int count) {
    for (int i = 0; i < count; i++) {
        if (fd[i] >= 0) {
            close(fd[i]);
        }
    }
}

static int terminal_open(struct session *s, const struct request *r, struct ends *e) {
    struct winsize size = {.ws_row = (unsigned short)r->rows, .ws_col = (unsigned short)r->cols};
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64];
    if (master < 0 || grantpt(master) || unlockpt(master) ||
        ptsname_r(master, name, sizeof(name))) {
        close_all(&master, 1);
        return -1;
    }
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        close(master);
        return -1;
    }
    ioctl(master, TIOCSWINSZ, &size);
    *e = (struct ends){slave, slave, slave};
    s->to = s->from = master;
    return 0;
}

static int pipes_open(struct session *s, struct ends *e) {
    int p[6] = {-1, -1, -1, -1, -1, -1};
    if (pipe2(p, O_CLOEXEC) || pipe2(p + 2, O_CLOEXEC) || pipe2(p + 4, O_CLOEXEC)) {
        close_all(p, 6);
        return -1;
    }
    *e = (struct ends){p[0], p[3], p[5]};
    s->to = p[1];
    s->from = p[2];
    s->from_err = p[4];
    return 0;
}

static void ends_close(struct session *s, struct ends e) {
    const int pipes[3] = {e.in, e.out, e.err};
    close_all(pipes, s->tty ? 1 : 3);
}

/* Waits for the child's exec; what went wrong is in its report. */
static void child_await(struct session *s, int report) {
    uint8_t data[AGENT_TEXT_MAX + 1], pid[4];
    ssize_t n;
    do {
        n = read(report, data, AGENT_TEXT_MAX);
    } while (n < 0 && errno == EINTR);
    if (n > 2) {
        data[n] = 0;
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
        send_error(s, (int)get16(data), (char *)data + 2);
        return;
    }
    put32(pid, (uint32_t)s->pid);
    send_frame(s, AGENT_STARTED, pid, sizeof(pid));
    fcntl(s->to, F_SETFL, O_NONBLOCK);
    fcntl(s->from, F_SETFL, O_NONBLOCK);
    if (s->from_err >= 0) {
        fcntl(s->from_err, F_SETFL, O_NONBLOCK);
    }
}

static void command_start(struct session *s, uint8_t *data, size_t len) {
    static struct request r; /* one command for each process */
    static struct user u;
    struct ends e;
    char own[16];
    int report[2];
    if (!request_parse(&r, data, len)) {
        send_error(s, EINVAL, "the request is malformed");
        return;
    }
    snprintf(own, sizeof(own), "%u", geteuid());
    if (!user_find(*r.user ? r.user : own, &u)) {
        send_error(s, EINVAL, "there is no such user");
        return;
    }
    s->tty = r.flags & AGENT_FLAG_TTY;
    if (s->tty ? terminal_open(s, &r, &e) : pipes_open(s, &e)) {
        send_error(s, errno, s->tty ? "no terminal can be had" : "no pipe can be had");
        return;
    }
    if (pipe2(report, O_CLOEXEC)) {
        send_error(s, errno, "no pipe can be had");
        return;
    }
    s->pid = fork();
    if (s->pid == 0) {
        child_run(&r, &u, e, report[1]);
    }
    close(report[1]);
    ends_close(s, e);
    if (s->pid < 0) {
        s->pid = 0;
        send_error(s, errno, "no process can be had");
    } else {
        child_await(s, report[0]);
    }
    close(report[0]);
}

/* --- what the host says ----------------------------------------------------------------------- */

static void set_time(struct session *s, const uint8_t *p, size_t len) {
    if (len != 12) {
        send_error(s, EINVAL, "the request is malformed");
        return;
    }
    uint64_t sec = get32(p) | (uint64_t)get32(p + 4) << 32;
    struct timespec t = {.tv_sec = (time_t)sec, .tv_nsec = (long)get32(p + 8)};
    if (clock_settime(CLOCK_REALTIME, &t)) {
        send_error(s, errno, strerror(errno));
        return;
    }
    send_frame(s, AGENT_DONE, NULL, 0);
    s->last = true;
}

static bool take_input(struct session *s, const uint8_t *data, size_t len) {
    if (len > s->window || s->input_end) {
        return false;
    }
    s->window -= (uint32_t)len;
    if (s->to < 0) { /* nobody reads it */
        s->credit += (uint32_t)len;
        return true;
    }
    memcpy(s->input + s->input_len, data, len); /* at most AGENT_WINDOW is under way */
    s->input_len += len;
    return true;
}

static void resize(struct session *s, const uint8_t *p) {
    struct winsize size = {.ws_row = (unsigned short)get16(p),
                           .ws_col = (unsigned short)get16(p + 2)};
    if (s->tty && s->to >= 0) {
        ioctl(s->to, TIOCSWINSZ, &size);
    }
}

/* A terminal gives the signals of its keys to what runs in the foreground; so here. */
static void pass_signal(struct session *s, int sig) {
    pid_t group = 0;
    if (s->pid && !s->ended && sig > 0 && sig < NSIG) {
        if (!s->tty || ioctl(s->to, TIOCGPGRP, &group) || group <= 0) {
            group = s->pid;
        }
        kill(-group, sig);
    }
}

/* False: the host breaks the rules, or this is all. */
static bool take_frame(struct session *s, enum agent_type type, uint8_t *data, size_t len) {
    if (!s->greeted) {
        s->greeted =
            type == AGENT_HELLO && len >= AGENT_HELLO_SIZE && !memcmp(data, AGENT_MAGIC, 4);
        return s->greeted;
    }
    switch (type) {
    case AGENT_EXEC:
        if (s->pid || s->last) {
            return false;
        }
        command_start(s, data, len);
        return true;
    case AGENT_SET_TIME:
        if (s->pid || s->last) {
            return false;
        }
        set_time(s, data, len);
        return true;
    case AGENT_STDIN:
        return take_input(s, data, len);
    case AGENT_STDIN_END:
        s->input_end = true;
        return true;
    case AGENT_RESIZE:
        if (len == 4) {
            resize(s, data);
        }
        return len == 4;
    case AGENT_SIGNAL:
        if (len == 1) {
            pass_signal(s, data[0]);
        }
        return len == 1;
    default:
        return true; /* of a later version */
    }
}

static bool take_frames(struct session *s) {
    size_t at = 0;
    bool good = true;
    while (good && s->in_len - at >= AGENT_HEAD) {
        size_t len = get32(s->in + at);
        good = len <= AGENT_PAYLOAD_MAX;
        if (!good || s->in_len - at < AGENT_HEAD + len) {
            break;
        }
        good = take_frame(s, s->in[at + 4], s->in + at + AGENT_HEAD, len);
        at += AGENT_HEAD + len;
    }
    memmove(s->in, s->in + at, s->in_len - at);
    s->in_len -= at;
    return good;
}

/* False: the connection is over. */
static bool conn_read(struct session *s) {
    ssize_t n = read(s->conn, s->in + s->in_len, sizeof(s->in) - s->in_len);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        return false;
    }
    s->in_len += (size_t)n;
    return take_frames(s);
}

static bool conn_write(struct session *s) {
    ssize_t n = send(s->conn, s->out, s->out_len, MSG_NOSIGNAL);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    memmove(s->out, s->out + n, s->out_len - (size_t)n);
    s->out_len -= (size_t)n;
    return true;
}

/* --- between the host and the command --------------------------------------------------------- */

static void input_close(struct session *s) {
    if (s->to >= 0 && !s->tty) {
        close(s->to);
    }
    s->credit += (uint32_t)s->input_len;
    s->input_len = 0;
    s->to = s->tty ? s->to : -1;
}

static void input_write(struct session *s) {
    if (s->input_len) {
        ssize_t n = write(s->to, s->input, s->input_len);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            input_close(s);
        } else if (n > 0) {
            memmove(s->input, s->input + n, s->input_len - (size_t)n);
            s->input_len -= (size_t)n;
            s->credit += (uint32_t)n;
        }
    }
    if (s->input_end && !s->input_len && s->to >= 0) {
        if (s->tty) { /* as the key for it does; what is not at the start of a line needs two */
            s->input_end = write(s->to, "\4", 1) == 1 ? false : s->input_end;
        } else {
            input_close(s);
        }
    }
}

static void output_read(struct session *s, int *fd, enum agent_type type) {
    static uint8_t data[AGENT_DATA_MAX];
    ssize_t n = read(*fd, data, sizeof(data));
    if (n > 0) {
        send_frame(s, type, data, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) { /* EIO: a terminal's other end */
        if (!s->tty) {
            close(*fd);
        }
        *fd = -1;
    }
    if (s->ended && (n < 0 || ++s->reads >= LAST_READS)) {
        *fd = -1; /* what is still open belongs to processes that it left behind */
    }
}

static void child_reap(struct session *s) {
    struct signalfd_siginfo info;
    ssize_t n = read(s->signals, &info, sizeof(info));
    (void)n;
    if (s->pid && !s->ended && waitpid(s->pid, &s->status, WNOHANG) == s->pid) {
        s->ended = true;
    }
}

/* Tells the end when all output has been sent. */
static void finish(struct session *s) {
    if (s->ended && !s->last && s->from < 0 && s->from_err < 0 && !s->out_len) {
        bool by_signal = WIFSIGNALED(s->status);
        const uint8_t data[2] = {
            by_signal, (uint8_t)(by_signal ? WTERMSIG(s->status) : WEXITSTATUS(s->status))};
        send_frame(s, AGENT_EXIT, data, sizeof(data));
        s->last = true;
    }
}

static void give_credit(struct session *s) {
    uint8_t data[4];
    if (s->credit && (s->credit >= AGENT_WINDOW / 4 || !s->input_len)) {
        put32(data, s->credit);
        send_frame(s, AGENT_CREDIT, data, sizeof(data));
        s->window += s->credit;
        s->credit = 0;
    }
}

/* --- one connection --------------------------------------------------------------------------- */

static bool step(struct session *s) {
    bool idle = !s->out_len;
    struct pollfd p[5] = {
        {.fd = s->conn, .events = (short)(POLLIN | (idle ? 0 : POLLOUT))},
        {.fd = s->signals, .events = POLLIN},
        {.fd = s->input_len || (s->input_end && s->pid) ? s->to : -1, .events = POLLOUT},
        {.fd = idle ? s->from : -1, .events = POLLIN},
        {.fd = idle ? s->from_err : -1, .events = POLLIN}};
    /* its output may be held open by others: what there is of it is taken without waiting */
    bool drain = s->ended && idle;
    int n = poll(p, 5, drain ? 0 : s->pid ? -1 : FIRST_FRAME_MS);
    if ((n < 0 && errno != EINTR) || (n == 0 && !s->pid)) {
        return false;
    }
    if (p[1].revents) {
        child_reap(s);
    }
    if (p[2].revents) {
        input_write(s);
    }
    if (s->from >= 0 && idle && (p[3].revents || drain)) {
        output_read(s, &s->from, AGENT_STDOUT);
    }
    if (s->from_err >= 0 && !s->out_len && (p[4].revents || drain)) {
        output_read(s, &s->from_err, AGENT_STDERR);
    }
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR) && !conn_read(s)) {
        return false;
    }
    give_credit(s);
    finish(s);
    return (!s->out_len || conn_write(s)) && (!s->last || s->out_len);
}

/* The end of a connection is that of its command, as with a terminal that is hung up. */
static void hang_up(struct session *s) {
    if (s->pid && !s->ended) {
        kill(-s->pid, SIGHUP);
        kill(-s->pid, SIGCONT);
        for (int i = 0; i < 20 && waitpid(s->pid, NULL, WNOHANG) == 0; i++) {
            usleep(100000);
        }
        kill(-s->pid, SIGKILL);
    }
}

static void serve(int conn) {
    static struct session s;
    uint8_t hello[AGENT_HELLO_SIZE] = AGENT_MAGIC;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_DFL);
    s = (struct session){
        .conn = conn, .to = -1, .from = -1, .from_err = -1, .window = AGENT_WINDOW};
    s.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    fcntl(conn, F_SETFL, O_NONBLOCK);
    put32(hello + 4, AGENT_VERSION);
    send_frame(&s, AGENT_HELLO, hello, sizeof(hello));
    while (s.signals >= 0 && step(&s)) {
    }
    if (s.last) { /* the host hangs up when it has read all; closing earlier could lose some */
        struct pollfd p = {.fd = conn, .events = POLLRDHUP};
        shutdown(conn, SHUT_WR);
        poll(&p, 1, FIRST_FRAME_MS);
    }
    hang_up(&s);
}

/* --- all of them ------------------------------------------------------------------------------ */

static int listen_open(void) {
    struct sockaddr_vm at = {
        .svm_family = AF_VSOCK, .svm_port = AGENT_PORT, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, CONNECTIONS)) {
        fprintf(stderr, "sosia-agent: vsock port %d: %s\n", AGENT_PORT, strerror(errno));
        return -1;
    }
    return fd;
}

int main(void) {
    int listener = listen_open();
    if (listener < 0) {
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* no zombies of connections */
    for (;;) {
        struct sockaddr_vm from = {0};
        socklen_t len = sizeof(from);
        int conn = accept4(listener, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);
        if (conn < 0) {
            usleep(errno == EINTR || errno == ECONNABORTED ? 0 : 100000);
            continue;
        }
        if (from.svm_cid == VMADDR_CID_HOST && fork() == 0) {
            serve(conn);
            _exit(0);
        }
        close(conn);
    }
}
