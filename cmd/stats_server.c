/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sosia stats`: each running machine listens at a Unix socket PID.sock in the runtime directory,
 * answers whoever connects with its counters (stats_text) and hangs up. The directory is
 * $XDG_RUNTIME_DIR/sosia, or /run/sosia for root; it must be a real directory of the user's that
 * nobody else may enter, or there is no socket. The answer fits the socket's buffer and is sent
 * without waiting, so a client cannot hold the machine up. All on the event thread.
 */
#include "cmd/stats.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cmd/cmd.h"

struct stats_server {
    struct linux_host *lh;
    struct vm *vm;
    const struct engine_ops *engine;
    int fd;
    struct sockaddr_un at;
    char text[STATS_TEXT_MAX];
};

/* 0 with the directory's name in dir, or -1. */
static int runtime_dir(char *dir, size_t size) {
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (!base || base[0] != '/') {
        base = geteuid() ? NULL : "/run";
    }
    int n = base ? snprintf(dir, size, "%s/sosia", base) : -1;
    return n > 0 && (size_t)n < size ? 0 : -1;
}

static bool dir_is_mine(const char *dir) {
    struct stat st;
    return !lstat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & (S_IRWXG | S_IRWXO));
}

static void serve_one(void *ctx) {
    struct stats_server *s = ctx;
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    int room = 2 * STATS_TEXT_MAX;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    size_t len = stats_text(s->vm, s->engine, s->text, sizeof(s->text));
    (void)!send(fd, s->text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static int server_listen(struct stats_server *s) {
    char dir[80];
    if (runtime_dir(dir, sizeof(dir)) || (mkdir(dir, 0700) && errno != EEXIST) ||
        !dir_is_mine(dir)) {
        return -1;
    }
    s->at.sun_family = AF_UNIX;
    snprintf(s->at.sun_path, sizeof(s->at.sun_path), "%s/%d.sock", dir, (int)getpid());
    unlink(s->at.sun_path); /* of a process that had this number before */
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&s->at, sizeof(s->at))) {
        s->at.sun_path[0] = 0;
        return -1;
    }
    return listen(s->fd, 4) || linux_fd_watch(s->lh, s->fd, serve_one, s) ? -1 : 0;
}

struct stats_server *stats_server_create(struct linux_host *lh, struct vm *vm,
                                         const struct engine_ops *engine) {
    struct stats_server *s = calloc(1, sizeof(*s));
    if (!s) {
        return NULL;
    }
    s->lh = lh;
    s->vm = vm;
    s->engine = engine;
    s->fd = -1;
    if (server_listen(s)) {
        stats_server_destroy(s);
        return NULL;
    }
    return s;
}

void stats_server_destroy(struct stats_server *s) {
    if (!s) {
        return;
    }
    if (s->fd >= 0) {
        linux_fd_unwatch(s->lh, s->fd);
        close(s->fd);
    }
    if (s->at.sun_path[0]) {
        unlink(s->at.sun_path);
    }
    free(s);
}

/* --- the verb
 * -------------------------------------------------------------------------------------
 */

/* Prints what the machine at path says; 0, or an error number. */
static int ask(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char buf[4096];
    ssize_t n;
    if (strlen(path) >= sizeof(at.sun_path)) {
        return ENAMETOOLONG;
    }
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at))) {
        int error = errno;
        if (fd >= 0) {
            close(fd);
        }
        return error;
    }
    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        fwrite(buf, 1, (size_t)n, stdout);
    }
    close(fd);
    return 0;
}

static int list(const char *dir) {
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (pid > 0 && !strcmp(end, ".sock")) {
            printf("%ld\n", pid);
        }
    }
    if (d) {
        closedir(d);
    }
    return 0;
}

int cmd_stats(int argc, char **argv) {
    char dir[80] = "", path[128];
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        bool help = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
        fputs(
            "usage: sosia stats [PID|SOCKET]\n\nPrints the counters of a running machine; without "
            "argument, which machines there are.\n",
            help ? stdout : stderr);
        return help ? 0 : EXIT_BAD_INPUT;
    }
    bool no_dir = runtime_dir(dir, sizeof(dir));
    if (argc == 1) {
        return list(dir);
    }
    bool pid = isdigit((unsigned char)argv[1][0]);
    if (pid && no_dir) {
        complain("stats: no runtime directory: XDG_RUNTIME_DIR is not set");
        return EXIT_BAD_INPUT;
    }
    snprintf(path, sizeof(path), pid ? "%s/%s.sock" : "%.0s%s", dir, argv[1]);
    int error = ask(path);
    if (error) {
        complain("stats: %s: %s", path, strerror(error));
        return EXIT_BAD_INPUT;
    }
    return 0;
}
