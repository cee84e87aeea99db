/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and block devices as struct image_file: blocking system calls, continued when they are
 * short. Files are locked (open file description lock) so that two machines cannot write one, nor
 * one read what another writes. No lock: every call is whole, the kernel orders them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/image_fd.h"

enum { IOV_BATCH = 256, ZERO_CHUNK = 64 * 1024 };

_Static_assert(sizeof(struct iov) == sizeof(struct iovec) &&
                   offsetof(struct iov, len) == offsetof(struct iovec, iov_len),
               "struct iov is struct iovec");

static int error_of(int e) {
    return e == ENOSPC || e == EDQUOT ? -ERR_NOSPACE : -ERR_IO;
}

/* Moves the window of a batch forward by n bytes. */
static void iov_advance(struct iovec *v, int *count, int *first, size_t n) {
    while (*first < *count && n >= v[*first].iov_len) {
        n -= v[*first].iov_len;
        (*first)++;
    }
    if (*first < *count) {
        v[*first].iov_base = (u8 *)v[*first].iov_base + n;
        v[*first].iov_len -= n;
    }
}

/* One batch of iovecs, to the end: short transfers are continued, end of file reads as zeros. */
static int transfer_batch(int fd, bool write, struct iovec *v, int count, u64 offset) {
    int first = 0;
    iov_advance(v, &count, &first, 0); /* empty parts at the start would look like the end */
    while (first < count) {
        ssize_t n = write ? pwritev(fd, v + first, count - first, (off_t)offset)
                          : preadv(fd, v + first, count - first, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 || (n == 0 && write)) {
            return n < 0 ? error_of(errno) : -ERR_IO;
        }
        if (n == 0) {
            for (; first < count; first++) {
                memset(v[first].iov_base, 0, v[first].iov_len);
            }
            return 0;
        }
        offset += (u64)n;
        iov_advance(v, &count, &first, (size_t)n);
    }
    return 0;
}

int fd_transfer(int fd, bool write, u64 offset, const struct iov *iov, u32 iov_count) {
    struct iovec v[IOV_BATCH];
    int rc = 0;
    for (u32 i = 0; i < iov_count && !rc; i += IOV_BATCH) {
        int count = (int)MIN(iov_count - i, (u32)IOV_BATCH);
        u64 bytes = 0;
        for (int k = 0; k < count; k++) {
            v[k] = (struct iovec){.iov_base = iov[i + (u32)k].base, .iov_len = iov[i + (u32)k].len};
            bytes += v[k].iov_len;
        }
        rc = transfer_batch(fd, write, v, count, offset);
        offset += bytes;
    }
    return rc;
}

static int fd_readv(struct image_file *f, u64 offset, const struct iov *iov, u32 count) {
    return fd_transfer(image_fd(f), false, offset, iov, count);
}

static int fd_writev(struct image_file *f, u64 offset, const struct iov *iov, u32 count) {
    return f->readonly ? -ERR_PERM : fd_transfer(image_fd(f), true, offset, iov, count);
}

static int fd_flush(struct image_file *f) {
    return fdatasync(image_fd(f)) ? error_of(errno) : 0;
}

/* Where the file system can neither punch holes nor make ranges of zeros. */
static int write_zeros(int fd, u64 offset, u64 length) {
    static u8 zeros[ZERO_CHUNK];
    for (u64 done = 0; done < length;) {
        struct iovec v = {.iov_base = zeros, .iov_len = MIN(length - done, sizeof(zeros))};
        u64 len = v.iov_len;
        int rc = transfer_batch(fd, true, &v, 1, offset + done);
        if (rc) {
            return rc;
        }
        done += len;
    }
    return 0;
}

/* A hole reads as zeros and costs nothing; a range that must keep its storage is converted in
 * place. KEEP_SIZE: beyond the end there is nothing to punch, and it reads as zeros. */
static int fd_zero(struct image_file *f, u64 offset, u64 length, bool unmap) {
    int fd = image_fd(f);
    if (f->readonly) {
        return -ERR_PERM;
    }
    int punch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    if (!length ||
        !fallocate(fd, unmap ? punch : FALLOC_FL_ZERO_RANGE, (off_t)offset, (off_t)length)) {
        return 0;
    }
    if (errno == EOPNOTSUPP && !unmap && !fallocate(fd, punch, (off_t)offset, (off_t)length)) {
        return 0;
    }
    return errno == EOPNOTSUPP || errno == ENODEV ? write_zeros(fd, offset, length)
                                                  : error_of(errno);
}

static int fd_discard(struct image_file *f, u64 offset, u64 length) {
    int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    if (!length || !fallocate(image_fd(f), mode, (off_t)offset, (off_t)length)) {
        return 0;
    }
    return errno == EOPNOTSUPP || errno == ENODEV ? -ERR_UNSUPPORTED : error_of(errno);
}

static int fd_truncate(struct image_file *f, u64 size) {
    if (ftruncate(image_fd(f), (off_t)size)) {
        return error_of(errno);
    }
    f->size = size;
    return 0;
}

/* Moves the file position, which nothing else here uses. */
static bool fd_hole(struct image_file *f, u64 offset, u64 *length) {
    off_t data = lseek(image_fd(f), (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
        return true; /* to the end of the file */
    }
    if (data > (off_t)offset) {
        *length = MIN(*length, (u64)data - offset);
        return true;
    }
    off_t hole = data < 0 ? -1 : lseek(image_fd(f), (off_t)offset, SEEK_HOLE);
    if (hole > (off_t)offset) {
        *length = MIN(*length, (u64)hole - offset);
    }
    return false;
}

static void fd_close(struct image_file *f) {
    close(image_fd(f));
    free(CONTAINER_OF(f, struct image_fd, file));
}

static const struct image_file_ops fd_ops = {
    .readv = fd_readv,
    .writev = fd_writev,
    .flush = fd_flush,
    .zero = fd_zero,
    .discard = fd_discard,
    .truncate = fd_truncate,
    .hole = fd_hole,
    .close = fd_close,
};

/* --- opening ----------------------------------------------------------------------------------
 */

/*
 * QEMU's way of sharing image files (block/file-posix.c), so that its tools know what we hold and
 * we what they hold: a shared lock on byte 100 + p says "I do p", on byte 200 + p "nobody else may
 * do p"; both are looked for in others after they were taken.
 */
enum { LOCK_DO = 100, LOCK_ALONE = 200, PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, PERMS = 4 };

static int byte_lock(int fd, int byte) {
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static int byte_test(int fd, int byte) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock)) {
        return -1;
    }
    errno = EAGAIN;
    return lock.l_type == F_UNLCK ? 0 : -1;
}

static int file_lock(int fd, bool readonly) {
    u32 alone = BIT(PERM_WRITE) | BIT(PERM_RESIZE);
    u32 mine = BIT(PERM_READ) | (readonly ? 0 : alone);
    int rc = 0;
    for (int p = 0; p < PERMS && !rc; p++) {
        rc = mine & BIT(p) ? byte_lock(fd, LOCK_DO + p) : 0;
        rc = !rc && (alone & BIT(p)) ? byte_lock(fd, LOCK_ALONE + p) : rc;
    }
    for (int p = 0; p < PERMS && !rc; p++) {
        rc = mine & BIT(p) ? byte_test(fd, LOCK_ALONE + p) : 0;
        rc = !rc && (alone & BIT(p)) ? byte_test(fd, LOCK_DO + p) : rc;
    }
    return rc;
}

static int file_size(int fd, const struct stat *st, u64 *size) {
    if (S_ISBLK(st->st_mode)) {
        return ioctl(fd, BLKGETSIZE64, size);
    }
    *size = (u64)st->st_size;
    return 0;
}

/* Everything that can be wrong with the path, in words. */
static int file_check(int fd, const char *path, bool readonly, u64 *size, struct err *err) {
    struct stat st;
    if (fstat(fd, &st)) {
        return ERR_SET(err, ERR_IO, "disk %s: %s", path, strerror(errno));
    }
    if (S_ISDIR(st.st_mode)) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is a directory, not an image file", path);
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is neither a file nor a block device", path);
    }
    if (file_size(fd, &st, size)) {
        return ERR_SET(err, ERR_IO, "disk %s: %s", path, strerror(errno));
    }
    if (file_lock(fd, readonly)) {
        bool used = errno == EAGAIN || errno == EACCES;
        return ERR_SET(err, ERR_STATE, "disk %s: %s", path,
                       used ? "in use by another machine" : strerror(errno));
    }
    return 0;
}

int image_fd_wrap(int fd, u64 size, bool readonly, struct image_file **out) {
    struct image_fd *f = calloc(1, sizeof(*f));
    if (!f) {
        return -ERR_NOMEM;
    }
    *f = (struct image_fd){.file = {.ops = &fd_ops, .size = size, .readonly = readonly}, .fd = fd};
    *out = &f->file;
    return 0;
}

int image_fd_open(const char *path, bool readonly, struct image_file **out, struct err *err) {
    u64 size = 0;
    int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EISDIR) {
        return ERR_SET(err, ERR_INVAL, "disk %s: is a directory, not an image file", path);
    }
    if (fd < 0) {
        return ERR_SET(err, ERR_NOTFOUND, "disk %s: %s", path, strerror(errno));
    }
    int rc = file_check(fd, path, readonly, &size, err);
    if (!rc && image_fd_wrap(fd, size, readonly, out)) {
        rc = ERR_SET(err, ERR_NOMEM, "disk %s: out of memory", path);
    }
    if (rc) {
        close(fd);
    }
    return rc;
}

int image_fd_create(const char *path, struct image_file **out, struct err *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    u64 size = 0;
    if (fd < 0) {
        return ERR_SET(err, ERR_IO, "image %s: %s", path, strerror(errno));
    }
    int rc = file_check(fd, path, false, &size, err);
    struct stat st;
    if (!rc && !fstat(fd, &st) && S_ISREG(st.st_mode)) {
        rc = ftruncate(fd, 0) ? ERR_SET(err, ERR_IO, "image %s: %s", path, strerror(errno)) : 0;
        size = 0;
    }
    if (!rc && image_fd_wrap(fd, size, false, out)) {
        rc = ERR_SET(err, ERR_NOMEM, "image %s: out of memory", path);
    }
    if (rc) {
        close(fd);
    }
    return rc;
}
