/* SPDX-License-Identifier: Apache-2.0 */
/* Records of machines that have ended; see registry_end.h. One line: the status in decimal. */
#include "cmd/registry_end.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cmd/registry.h"
#include "core/base/err.h"
#include "core/base/types.h"

enum { FILE_MAX = REGISTRY_NAME_MAX + 8, SEEN_MAX = 4 * RECORDS_MAX };

static const char suffix[] = ".end";

static void file_name(char out[FILE_MAX], const char *name) {
    snprintf(out, FILE_MAX, "%s%s", name, suffix);
}

int record_create(int dir_fd, const char *name) {
    char file[FILE_MAX];
    file_name(file, name);
    unlinkat(dir_fd, file, 0);
    return openat(dir_fd, file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

void record_write(int fd, int status) {
    char text[16];
    int n = snprintf(text, sizeof(text), "%d\n", status & 0xff);
    if (pwrite(fd, text, (size_t)n, 0) != n) {
        return; /* as if it had died */
    }
}

void record_remove(int dir_fd, const char *name, bool empty) {
    char file[FILE_MAX];
    struct stat st;
    file_name(file, name);
    if (!empty || (!fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) && !st.st_size)) {
        unlinkat(dir_fd, file, 0);
    }
}

int record_read(int dir_fd, const char *name, int *status) {
    char file[FILE_MAX], text[16] = "", *end = text;
    struct stat st;
    file_name(file, name);
    int fd = openat(dir_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return -ERR_NOTFOUND;
    }
    ssize_t n = !fstat(fd, &st) && S_ISREG(st.st_mode) ? read(fd, text, sizeof(text) - 1) : -1;
    close(fd);
    long value = n > 0 ? strtol(text, &end, 10) : -1;
    if (end == text || *end != '\n' || value < 0 || value > 255) {
        return -ERR_NOTFOUND;
    }
    *status = (int)value;
    return 0;
}

/* --- keeping them few --------------------------------------------------------------------------
 */

struct seen {
    char file[FILE_MAX];
    time_t when;
};

static int newest_first(const void *a, const void *b) {
    const struct seen *p = a, *q = b;
    return (p->when < q->when) - (p->when > q->when);
}

/* Records that have something in them; the empty ones belong to machines that run. */
static u32 look(int dir_fd, DIR *d, struct seen seen[SEEN_MAX]) {
    struct dirent *e;
    struct stat st;
    u32 n = 0;
    while (n < SEEN_MAX && (e = readdir(d))) {
        const char *dot = strrchr(e->d_name, '.');
        size_t len = strlen(e->d_name);
        if (dot && !strcmp(dot, suffix) && len < FILE_MAX &&
            !fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size) {
            memcpy(seen[n].file, e->d_name, len + 1);
            seen[n++].when = st.st_mtime;
        }
    }
    return n;
}

void record_prune(int dir_fd) {
    struct seen *seen = calloc(SEEN_MAX, sizeof(*seen));
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    time_t now = time(NULL);
    if (!d && fd >= 0) {
        close(fd);
    }
    if (d && seen) {
        u32 n = look(dir_fd, d, seen);
        qsort(seen, n, sizeof(*seen), newest_first);
        for (u32 i = 0; i < n; i++) {
            if (i >= RECORDS_MAX || now - seen[i].when > RECORD_SECONDS) {
                unlinkat(dir_fd, seen[i].file, 0);
            }
        }
    }
    if (d) {
        closedir(d);
    }
    free(seen);
}
