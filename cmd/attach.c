/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs `sosia console` and `sosia logs`. Both make socket pairs, pass one end of each to the
 * machine through its control socket, and copy between the other end and the terminal. The machine
 * never waits for them: what is not read in time is lost and counted (hosts/linux/feed.h).
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/terminal.h"

enum { CHUNK = 4096 };

struct request_words {
    const char *verb, *port;
    bool follow, replay;
};

/* Passes the far ends of count socket pairs along; near[] is what stays here. */
static int attach(const char *machine, const struct request_words *w, int *near, u32 count,
                  struct err *err) {
    int far[2] = {-1, -1};
    u32 made = 0;
    for (; made < count; made++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
            break;
        }
        near[made] = pair[0];
        far[made] = pair[1];
    }
    json_t *request = json_pack("{s:s, s:b, s:b, s:s*}", "request", w->verb, "follow", w->follow,
                                "replay", w->replay, "port", w->port);
    int rc = made < count ? ERR_SET(err, ERR_IO, "no socket: %s", strerror(errno)) : 0;
    if (rc) {
        json_decref(request);
    } else {
        rc = control_request(machine, request, far, count, NULL, err);
    }
    for (u32 i = 0; i < made; i++) {
        close(far[i]);
    }
    return rc;
}

static int write_all(int fd, const char *data, size_t len) {
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            return -1;
        }
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, 1000);
        }
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Copies what is there; 0: end of file or an error of either side. */
static int copy_some(int from, int to) {
    char buf[CHUNK];
    ssize_t n = read(from, buf, sizeof(buf));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return 1;
    }
    return n > 0 && !write_all(to, buf, (size_t)n);
}

static int report(const char *verb, const struct err *err) {
    complain("%s: %s", verb, err->text);
    return EXIT_BAD_INPUT;
}

/* --- console ---------------------------------------------------------------------------------- */

enum key { KEY_MORE, KEY_LEAVE, KEY_END };

/* Keys to the machine, up to the escape character. */
static enum key keys_copy(int fd, int escape) {
    char buf[CHUNK];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return KEY_MORE;
    }
    if (n <= 0) {
        return KEY_END;
    }
    char *end = escape < 0 ? NULL : memchr(buf, escape, (size_t)n);
    if (write_all(fd, buf, end ? (size_t)(end - buf) : (size_t)n)) {
        return KEY_MORE; /* the machine has ended: reading will tell */
    }
    return end ? KEY_LEAVE : KEY_MORE;
}

/* True: left by the escape key; false: the machine has ended. */
static bool console_copy(int fd, int escape) {
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR) {
            return false;
        }
        if (p[0].revents && !copy_some(fd, STDOUT_FILENO)) {
            return false;
        }
        if (p[1].revents) {
            enum key key = keys_copy(fd, escape);
            if (key == KEY_LEAVE) {
                return true;
            }
            p[1].fd = key == KEY_END ? -1 : STDIN_FILENO; /* its output may still be wanted */
        }
    }
}

static int console_run(const char *machine, const struct request_words *w, int escape) {
    struct err err = {0};
    struct termios saved;
    int fd = -1;
    if (attach(machine, w, &fd, 1, &err)) {
        return report("console", &err);
    }
    bool raw = terminal_raw(&saved);
    if (raw && escape >= 0) {
        char key[4];
        escape_name(escape, key);
        fprintf(stderr, "sosia: attached to %s; %s leaves\r\n", machine, key);
    }
    bool left = console_copy(fd, escape);
    if (raw) {
        tcsetattr(STDIN_FILENO, TCSANOW, &saved);
        fprintf(stderr, left ? "\nsosia: left %s\n" : "\nsosia: %s has closed its console\n",
                machine);
    }
    return 0;
}

int cmd_console(int argc, char **argv) {
    static const char help[] =
        "usage: sosia console [OPTIONS] MACHINE\n\n"
        "Attaches to a machine's console; its last output is shown first. ^] leaves it.\n\n"
        "  --port NAME      serial0 (COM1) to serial3, or virtio\n"
        "  --escape KEY     the key that leaves: ^X, one character, or none\n"
        "  --no-replay      begin with what comes from now on\n";
    static const struct option options[] = {{"port", required_argument, NULL, 'p'},
                                            {"escape", required_argument, NULL, 'e'},
                                            {"no-replay", no_argument, NULL, 'n'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct request_words w = {.verb = "console", .replay = true, .follow = true};
    int escape = ESCAPE_DEFAULT, id;
    optind = 0;
    while ((id = getopt_long(argc, argv, "p:e:h", options, NULL)) != -1) {
        w.port = id == 'p' ? optarg : w.port;
        w.replay = id != 'n' && w.replay;
        escape = id == 'e' ? escape_parse(optarg) : escape;
        if (id == 'h' || id == '?' || escape == ESCAPE_BAD) {
            fputs(help, id == 'h' ? stdout : stderr);
            return id == 'h' ? 0 : EXIT_BAD_INPUT;
        }
    }
    if (optind != argc - 1) {
        fputs(help, stderr);
        return EXIT_BAD_INPUT;
    }
    return console_run(argv[optind], &w, escape);
}

/* --- logs ------------------------------------------------------------------------------------- */

static void logs_copy(const int fd[2]) {
    struct pollfd p[2] = {{.fd = fd[0], .events = POLLIN}, {.fd = fd[1], .events = POLLIN}};
    static const int to[2] = {STDOUT_FILENO, STDERR_FILENO};
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (poll(p, 2, -1) < 0 && errno != EINTR) {
            return;
        }
        for (int i = 0; i < 2; i++) {
            if (p[i].fd >= 0 && p[i].revents && !copy_some(p[i].fd, to[i])) {
                p[i].fd = -1;
            }
        }
    }
}

int cmd_logs(int argc, char **argv) {
    static const char help[] =
        "usage: sosia logs [OPTIONS] MACHINE\n\n"
        "Prints what a machine's console said last on standard output, and the last lines of its\n"
        "log on standard error.\n\n"
        "  -f, --follow     go on until the machine ends\n"
        "  --port NAME      which console: serial0 (COM1) to serial3, or virtio\n";
    static const struct option options[] = {{"follow", no_argument, NULL, 'f'},
                                            {"port", required_argument, NULL, 'p'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct request_words w = {.verb = "logs", .replay = true};
    struct err err = {0};
    int id, fd[2] = {-1, -1};
    optind = 0;
    while ((id = getopt_long(argc, argv, "fp:h", options, NULL)) != -1) {
        w.follow = id == 'f' || w.follow;
        w.port = id == 'p' ? optarg : w.port;
        if (id == 'h' || id == '?') {
            fputs(help, id == 'h' ? stdout : stderr);
            return id == 'h' ? 0 : EXIT_BAD_INPUT;
        }
    }
    if (optind != argc - 1) {
        fputs(help, stderr);
        return EXIT_BAD_INPUT;
    }
    if (attach(argv[optind], &w, fd, 2, &err)) {
        return report("logs", &err);
    }
    logs_copy(fd);
    return 0;
}
