/* SPDX-License-Identifier: Apache-2.0 */
/* Consoles: the terminal of the command, a pseudo-terminal, a file. All are streams (stream.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "hosts/linux/stream.h"

enum { CTRL_A = 1, PTY_DROP_MS = 5000 };

struct con {
    struct stream stream;
    void (*leave)(void *ctx);
    void *leave_ctx;
    bool escape; /* Ctrl-A was the last key */
    bool raw;
    struct termios saved;
    int own_fd, slave_fd; /* to close at the end, -1: none */
    char name[64];        /* of the pseudo-terminal, */
    char *link;           /* and the symbolic link to it; NULL: none */
};

static struct con *con_of(struct stream *s) {
    return CONTAINER_OF(s, struct con, stream);
}

/* --- standard input and output ---------------------------------------------------------------- */

static struct termios *exit_termios; /* what to put back however the process ends */

static void terminal_restore(void) {
    if (exit_termios) {
        tcsetattr(STDIN_FILENO, TCSANOW, exit_termios);
        exit_termios = NULL;
        linux_host_log_raw(false);
    }
}

static void show_help(void) {
    static const char text[] = "\r\nCtrl-A x  leave (the machine is stopped)\r\n"
                               "Ctrl-A a  send Ctrl-A\r\nCtrl-A h  this help\r\n";
    ssize_t n = write(STDOUT_FILENO, text, sizeof(text) - 1);
    (void)n;
}

/* The key after Ctrl-A. Returns true when it is for the guest. */
static bool escape_key(struct con *c, u8 key) {
    switch (key) {
    case 'x':
    case 'X':
        c->leave(c->leave_ctx);
        return false;
    case 'h':
    case '?':
        show_help();
        return false;
    default:
        return true;
    }
}

static size_t stdio_filter(struct stream *s, u8 *data, size_t len) {
    struct con *c = con_of(s);
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        u8 key = data[i];
        if (c->escape) {
            c->escape = false;
            if (key == 'a' || key == CTRL_A) {
                data[kept++] = CTRL_A;
            } else if (escape_key(c, key)) {
                data[kept++] = key;
            }
        } else if (key == CTRL_A) {
            c->escape = true;
        } else {
            data[kept++] = key;
        }
    }
    return kept;
}

static int terminal_raw(struct con *c) {
    struct termios t;
    if (tcgetattr(STDIN_FILENO, &c->saved)) {
        return -1;
    }
    t = c->saved;
    cfmakeraw(&t); /* the guest sends CR LF itself, and log lines do while the terminal is raw */
    if (tcsetattr(STDIN_FILENO, TCSANOW, &t)) {
        return -1;
    }
    exit_termios = &c->saved;
    linux_host_log_raw(true);
    atexit(terminal_restore);
    return 0;
}

/* Unless it leads to somebody else's terminal by now; behind the fence that cannot be seen. */
static void link_remove(struct con *c) {
    char to[sizeof(c->name)] = "";
    ssize_t n = c->link ? readlink(c->link, to, sizeof(to) - 1) : 0;
    if ((n > 0 && !strcmp(to, c->name)) || (n < 0 && errno == EPERM)) {
        unlink(c->link);
    }
    free(c->link);
    c->link = NULL;
}

static void con_closed(struct stream *s) {
    struct con *c = con_of(s);
    if (c->raw) {
        terminal_restore();
    }
    if (c->own_fd >= 0) {
        close(c->own_fd);
    }
    if (c->slave_fd >= 0) {
        close(c->slave_fd);
    }
    link_remove(c);
}

static struct con *con_new(struct err *err) {
    struct con *c = calloc(1, sizeof(*c));
    if (!c) {
        ERR_SET(err, ERR_NOMEM, "console: out of memory");
        return NULL;
    }
    c->own_fd = c->slave_fd = -1;
    c->stream.closed = con_closed;
    return c;
}

static int con_start(struct con *c, struct linux_host *lh, int in_fd, int out_fd,
                     struct char_backend **out, struct err *err) {
    int rc = stream_start(&c->stream, lh, in_fd, out_fd, err);
    if (rc) {
        con_closed(&c->stream);
        free(c);
        return rc;
    }
    *out = &c->stream.be;
    return 0;
}

int con_stdio_open(struct linux_host *lh, void (*leave)(void *ctx), void *ctx,
                   struct char_backend **out, struct err *err) {
    struct con *c = con_new(err);
    if (!c) {
        return -ERR_NOMEM;
    }
    c->leave = leave;
    c->leave_ctx = ctx;
    c->stream.filter = stdio_filter;
    c->raw = isatty(STDIN_FILENO) && !terminal_raw(c);
    return con_start(c, lh, STDIN_FILENO, STDOUT_FILENO, out, err);
}

/* --- others ----------------------------------------------------------------------------------- */

static int link_make(struct con *c, const char *path, struct err *err) {
    struct stat st;
    if (!lstat(path, &st) && S_ISLNK(st.st_mode)) {
        unlink(path); /* of a machine before this */
    }
    if (symlink(c->name, path)) {
        return ERR_SET(err, ERR_INVAL, "console pty: link %s: %s", path, strerror(errno));
    }
    c->link = strdup(path);
    return c->link ? 0 : ERR_SET(err, ERR_NOMEM, "out of memory");
}

static int pty_make(struct con *c, struct err *err) {
    struct termios t;
    c->own_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (c->own_fd < 0 || grantpt(c->own_fd) || unlockpt(c->own_fd) ||
        ptsname_r(c->own_fd, c->name, sizeof(c->name))) {
        return ERR_SET(err, ERR_IO, "console pty: %s", strerror(errno));
    }
    /* Kept open on our side too: without any opener the master reads as hung up and would spin. */
    c->slave_fd = open(c->name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (c->slave_fd >= 0 && !tcgetattr(c->slave_fd, &t)) {
        cfmakeraw(&t);
        tcsetattr(c->slave_fd, TCSANOW, &t);
    }
    c->stream.drop_after_ms = PTY_DROP_MS; /* nobody may ever open it */
    return 0;
}

int con_pty_open(struct linux_host *lh, const char *link, char *name, size_t size,
                 struct char_backend **out, struct err *err) {
    struct con *c = con_new(err);
    if (!c) {
        return -ERR_NOMEM;
    }
    int rc = pty_make(c, err);
    rc = rc || !link ? rc : link_make(c, link, err);
    rc = rc || !link ? rc : linux_fence_folder_of(lh, link, FENCE_SOCKETS);
    if (rc) {
        con_closed(&c->stream);
        free(c);
        return rc;
    }
    snprintf(name, size, "%s", c->name);
    return con_start(c, lh, c->own_fd, c->own_fd, out, err);
}

int con_file_open(struct linux_host *lh, const char *path, struct char_backend **out,
                  struct err *err) {
    struct con *c = con_new(err);
    if (!c) {
        return -ERR_NOMEM;
    }
    c->own_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (c->own_fd < 0) {
        int rc = ERR_SET(err, ERR_INVAL, "console %s: %s", path, strerror(errno));
        free(c);
        return rc;
    }
    c->stream.drop_errors = true; /* a full disk may have room again */
    return con_start(c, lh, -1, c->own_fd, out, err);
}
