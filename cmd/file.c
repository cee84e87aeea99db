/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files as read-only memory: kernels, initrds, modules. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cmd.h"

/* Larger files are read as they are used: a sparse initrd of a terabyte is refused for its size
 * before anybody reads it. */
enum { POPULATE_MAX = 64 << 20 };

static int map_open_file(int fd, const char *what, const char *path, struct blob *out,
                         struct err *err) {
    struct stat st;
    if (fstat(fd, &st)) {
        return ERR_SET(err, ERR_IO, "%s %s: %s", what, path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return ERR_SET(err, ERR_INVAL, "%s %s: %s", what, path,
                       S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file");
    }
    if (!st.st_size) {
        return ERR_SET(err, ERR_INVAL, "%s %s: is empty", what, path);
    }
    int flags = MAP_PRIVATE | (st.st_size <= POPULATE_MAX ? MAP_POPULATE : 0);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, flags, fd, 0);
    if (p == MAP_FAILED) {
        return ERR_SET(err, ERR_IO, "%s %s: %s", what, path, strerror(errno));
    }
    *out = (struct blob){.data = p, .size = (u64)st.st_size, .name = path};
    return 0;
}

int file_map(const char *what, const char *path, struct blob *out, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ERR_SET(err, ERR_NOTFOUND, "%s %s: %s", what, path, strerror(errno));
    }
    int rc = map_open_file(fd, what, path, out, err);
    close(fd);
    return rc;
}

void file_unmap(struct blob *blob) {
    if (blob->data) {
        munmap((void *)(uintptr_t)blob->data, blob->size);
    }
    *blob = (struct blob){0};
}
