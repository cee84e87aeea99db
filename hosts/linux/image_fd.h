/* SPDX-License-Identifier: Apache-2.0 */
/* Files of disk images on Linux. */
#ifndef HOSTS_LINUX_IMAGE_FD_H
#define HOSTS_LINUX_IMAGE_FD_H

#include "image/image.h"

struct image_fd {
    struct image_file file;
    int fd;
};

static inline int image_fd(struct image_file *f) {
    return CONTAINER_OF(f, struct image_fd, file)->fd;
}

/* Opens and locks. A file that is empty is no error here. */
int image_fd_open(const char *path, bool readonly, struct image_file **out, struct err *err);
/* Creates, or empties and takes over what is there (a block device keeps its size). */
int image_fd_create(const char *path, struct image_file **out, struct err *err);
/* Takes fd over when it succeeds. */
int image_fd_wrap(int fd, u64 size, bool readonly, struct image_file **out);
/* Reads or writes all of it at `offset`; zeros beyond the end. 0, -ERR_IO or -ERR_NOSPACE. */
int fd_transfer(int fd, bool write, u64 offset, const struct iov *iov, u32 iov_count);

#endif
