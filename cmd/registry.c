/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The register of running machines; see registry.h. The lock file is what counts: the kernel lets
 * go of it with the process. Taking and removing race with each other, so after a lock was taken
 * the name is looked up again: a file that another process has removed meanwhile does not count
 * (still_there). The directory is the user's own and nobody else may write into it, but what lies
 * there is still not followed when it is a symbolic link, and not used when it is no socket.
 */
#include "cmd/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cmd/registry_end.h"
#include "hosts/linux/linux.h"

enum {
    DIR_MAX = 1024,
    FILE_MAX = REGISTRY_NAME_MAX + 8,
    UNIQUE_TRIES = 1000,
    CLAIM_TRIES = 20,
    LOOK_NS = 10000000, /* `sosia ls` holds the lock of a dead machine for less than this */
};

struct registration {
    char name[REGISTRY_NAME_MAX + 1];
    int dir_fd, lock_fd, socket_fd;
    int end_fd; /* its record; -1: keeps none */
};

/* --- names ------------------------------------------------------------------------------------ */

static bool name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

bool registry_name_valid(const char *name) {
    size_t len = strlen(name);
    if (!len || len > REGISTRY_NAME_MAX || strchr("._-", name[0])) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (!name_char(name[i])) {
            return false;
        }
    }
    return true;
}

void registry_name_derive(const char *text, char *out) {
    enum { DERIVED_MAX = 32 }; /* room for "-1000" */
    const char *slash = strrchr(text, '/');
    const char *from = slash ? slash + 1 : text;
    const char *dot = strrchr(from, '.');
    size_t len = dot && dot > from ? (size_t)(dot - from) : strlen(from), n = 0;
    for (size_t i = 0; i < len && n < DERIVED_MAX; i++) {
        char c = '-';
        if (name_char(from[i])) {
            c = from[i];
        }
        if (n || !strchr("._-", c)) {
            out[n++] = c;
        }
    }
    out[n] = 0;
    if (!n) {
        snprintf(out, REGISTRY_NAME_MAX + 1, "machine");
    }
}

/* --- files ------------------------------------------------------------------------------------ */

static int dir_open(char *path, size_t size, struct err *err) {
    int rc = linux_runtime_dir(path, size, err);
    int fd = rc ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (!rc && fd < 0) {
        rc = ERR_SET(err, ERR_IO, "runtime directory %s: %s", path, strerror(errno));
    }
    return rc ? rc : fd;
}

static void file_name(char *out, const char *name, const char *suffix) {
    snprintf(out, FILE_MAX, "%s%s", name, suffix);
}

/* An address is at most 108 bytes long; a descriptor's link makes any directory short. */
static void address(struct sockaddr_un *at, int dir_fd, const char *name) {
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(at->sun_path, sizeof(at->sun_path), "/proc/self/fd/%d/%s.ctl", dir_fd, name);
}

static bool still_there(int dir_fd, const char *file, int fd) {
    struct stat mine, now;
    return !fstat(fd, &mine) && !fstatat(dir_fd, file, &now, AT_SYMLINK_NOFOLLOW) &&
           mine.st_dev == now.st_dev && mine.st_ino == now.st_ino;
}

/* The lock of a machine, taken: a descriptor. -EWOULDBLOCK: the machine lives; else -errno. */
static int lock_take(int dir_fd, const char *name, int flags) {
    char file[FILE_MAX];
    struct stat st;
    file_name(file, name, ".lock");
    for (int i = 0; i < CLAIM_TRIES; i++) {
        int fd = openat(dir_fd, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
        if (fd < 0) {
            return -errno;
        }
        int error = fstat(fd, &st)                 ? errno
                    : !S_ISREG(st.st_mode)         ? EINVAL
                    : flock(fd, LOCK_EX | LOCK_NB) ? errno
                                                   : 0;
        if (!error && still_there(dir_fd, file, fd)) {
            return fd;
        }
        close(fd);
        if (error) {
            return -error;
        }
    }
    return -EAGAIN;
}

/* With the lock held. */
static void files_remove(int dir_fd, const char *name) {
    char file[FILE_MAX];
    file_name(file, name, ".ctl");
    unlinkat(dir_fd, file, 0);
    record_remove(dir_fd, name, true);
    file_name(file, name, ".lock");
    unlinkat(dir_fd, file, 0);
}

static long pid_read(int dir_fd, const char *name) {
    char file[FILE_MAX], text[32] = "";
    file_name(file, name, ".lock");
    int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 ? pid : 0;
}

/* --- a machine's own side --------------------------------------------------------------------- */

void registry_set_pid(struct registration *reg) {
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(reg->lock_fd, 0) || pwrite(reg->lock_fd, text, (size_t)n, 0) != n) {
        return; /* found by its name still */
    }
}

static int socket_bind(struct registration *reg, struct err *err) {
    struct sockaddr_un at;
    char file[FILE_MAX];
    address(&at, reg->dir_fd, reg->name);
    file_name(file, reg->name, ".ctl");
    unlinkat(reg->dir_fd, file, 0); /* of a machine that died */
    reg->socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (reg->socket_fd < 0 || bind(reg->socket_fd, (struct sockaddr *)&at, sizeof(at))) {
        return ERR_SET(err, ERR_IO, "control socket %s: %s", file, strerror(errno));
    }
    return 0;
}

/* 0, -ERR_EXISTS, or another error. */
static int claim_one(struct registration *reg, const char *name, struct err *err) {
    snprintf(reg->name, sizeof(reg->name), "%s", name);
    int fd = lock_take(reg->dir_fd, name, O_CREAT);
    for (int i = 0; fd == -EWOULDBLOCK && i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        fd = lock_take(reg->dir_fd, name, O_CREAT);
    }
    if (fd == -EWOULDBLOCK) {
        return -ERR_EXISTS;
    }
    if (fd < 0) {
        return ERR_SET(err, ERR_IO, "machine %s: its lock file: %s", name, strerror(-fd));
    }
    reg->lock_fd = fd;
    record_remove(reg->dir_fd, name, false); /* of the last machine of that name */
    registry_set_pid(reg);
    return socket_bind(reg, err);
}

static int claim_unique(struct registration *reg, const char *name, struct err *err) {
    char next[REGISTRY_NAME_MAX + 16];
    int rc = claim_one(reg, name, err);
    for (int i = 2; rc == -ERR_EXISTS && i <= UNIQUE_TRIES; i++) {
        snprintf(next, sizeof(next), "%s-%d", name, i);
        if (!registry_name_valid(next)) {
            break;
        }
        rc = claim_one(reg, next, err);
    }
    return rc;
}

int registry_claim(const char *name, bool unique, struct registration **out, struct err *err) {
    char dir[DIR_MAX];
    *out = NULL;
    if (!registry_name_valid(name)) {
        return ERR_SET(err, ERR_INVAL,
                       "name '%s': not 1 to %d letters, digits, '.', '_', '-', the first a letter "
                       "or digit",
                       name, REGISTRY_NAME_MAX);
    }
    struct registration *reg = calloc(1, sizeof(*reg));
    if (!reg) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    reg->lock_fd = reg->socket_fd = reg->end_fd = -1;
    reg->dir_fd = dir_open(dir, sizeof(dir), err);
    int rc = reg->dir_fd < 0 ? reg->dir_fd
             : unique        ? claim_unique(reg, name, err)
                             : claim_one(reg, name, err);
    if (rc == -ERR_EXISTS) {
        ERR_SET(err, ERR_EXISTS, "a machine called %s runs already; choose another --name", name);
    }
    if (rc) {
        registry_release(reg);
        return rc;
    }
    *out = reg;
    return 0;
}

void registry_record(struct registration *reg) {
    reg->end_fd = record_create(reg->dir_fd, reg->name);
}

void registry_ended(struct registration *reg, int status) {
    if (reg->end_fd >= 0) {
        record_write(reg->end_fd, status);
    }
}

static void close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

void registry_leave(struct registration *reg) {
    if (reg->lock_fd >= 0) {
        files_remove(reg->dir_fd, reg->name);
        close_fd(reg->lock_fd);
        reg->lock_fd = -1;
    }
}

void registry_release(struct registration *reg) {
    if (!reg) {
        return;
    }
    registry_leave(reg);
    close_fd(reg->end_fd);
    close_fd(reg->socket_fd);
    close_fd(reg->dir_fd);
    free(reg);
}

const char *registry_name(const struct registration *reg) {
    return reg->name;
}

int registry_socket(const struct registration *reg) {
    return reg->socket_fd;
}

/* --- everyone else's side --------------------------------------------------------------------- */

/* Is the machine alive? What a dead one left is removed. */
static bool alive(int dir_fd, const char *name) {
    int fd = lock_take(dir_fd, name, 0);
    if (fd >= 0) {
        files_remove(dir_fd, name);
        close(fd);
    }
    return fd == -EWOULDBLOCK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in the directory, alive or not; freed by names_free. */
static u32 names_read(int dir_fd, char ***out) {
    int fd = dup(dir_fd);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    char **names = calloc(REGISTRY_MAX_MACHINES, sizeof(*names));
    struct dirent *e;
    u32 n = 0;
    if (!d) {
        close_fd(fd);
    } else {
        rewinddir(d);
    }
    while (d && names && n < REGISTRY_MAX_MACHINES && (e = readdir(d))) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".lock")) {
            continue;
        }
        *dot = 0;
        names[n] = registry_name_valid(e->d_name) ? strdup(e->d_name) : NULL;
        n += names[n] ? 1 : 0;
    }
    if (d) {
        closedir(d);
    }
    if (names) {
        qsort(names, n, sizeof(*names), by_name);
    }
    *out = names;
    return n;
}

static void names_free(char **names, u32 n) {
    for (u32 i = 0; i < n; i++) {
        free(names[i]);
    }
    free(names);
}

int registry_walk(int (*fn)(void *ctx, const char *name, long pid), void *ctx, struct err *err) {
    char dir[DIR_MAX], **names;
    int dir_fd = dir_open(dir, sizeof(dir), err), rc = 0;
    if (dir_fd < 0) {
        return dir_fd;
    }
    u32 n = names_read(dir_fd, &names);
    for (u32 i = 0; i < n && !rc; i++) {
        rc = alive(dir_fd, names[i]) ? fn(ctx, names[i], pid_read(dir_fd, names[i])) : 0;
    }
    names_free(names, n);
    record_prune(dir_fd);
    close(dir_fd);
    return rc;
}

int registry_status(const char *name, int *status) {
    char dir[DIR_MAX];
    int dir_fd = registry_name_valid(name) ? dir_open(dir, sizeof(dir), NULL) : -1;
    if (dir_fd < 0) {
        return -ERR_NOTFOUND;
    }
    record_prune(dir_fd);
    int rc = record_read(dir_fd, name, status);
    close(dir_fd);
    return rc;
}

void registry_prune(void) {
    char dir[DIR_MAX];
    int dir_fd = dir_open(dir, sizeof(dir), NULL);
    if (dir_fd >= 0) {
        record_prune(dir_fd);
        close(dir_fd);
    }
}

struct search {
    long pid;
    char name[REGISTRY_NAME_MAX + 1];
};

static int match_pid(void *ctx, const char *name, long pid) {
    struct search *s = ctx;
    if (pid != s->pid) {
        return 0;
    }
    snprintf(s->name, sizeof(s->name), "%s", name);
    return 1;
}

/* "1234" is a process unless a machine is called so. */
static const char *resolve(int dir_fd, const char *name, struct search *s) {
    char *end;
    s->pid = strtol(name, &end, 10);
    if (*end || s->pid <= 0 || alive(dir_fd, name)) {
        return name;
    }
    return registry_walk(match_pid, s, NULL) == 1 ? s->name : name;
}

static int socket_connect(int dir_fd, const char *name, struct err *err) {
    struct sockaddr_un at;
    struct stat st;
    char file[FILE_MAX];
    file_name(file, name, ".ctl");
    if (fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) || !S_ISSOCK(st.st_mode)) {
        return ERR_SET(err, ERR_NOTFOUND, "machine %s has no control socket", name);
    }
    address(&at, dir_fd, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at))) {
        int error = errno;
        close_fd(fd);
        return error == ECONNREFUSED
                   ? ERR_SET(err, ERR_AGAIN, "machine %s is just starting or ending", name)
                   : ERR_SET(err, ERR_IO, "machine %s: %s", name, strerror(error));
    }
    return fd;
}

int registry_connect(const char *name, struct err *err) {
    char dir[DIR_MAX];
    struct search s;
    if (!registry_name_valid(name)) {
        return ERR_SET(err, ERR_INVAL, "'%s' is not the name of a machine", name);
    }
    int dir_fd = dir_open(dir, sizeof(dir), err);
    if (dir_fd < 0) {
        return dir_fd;
    }
    const char *found = resolve(dir_fd, name, &s);
    int rc = alive(dir_fd, found) ? socket_connect(dir_fd, found, err)
                                  : ERR_SET(err, ERR_NOTFOUND,
                                            "no machine is called %s; `sosia ls` lists them", name);
    close(dir_fd);
    return rc;
}
