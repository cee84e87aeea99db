/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of files in a shared folder. Data goes between guest memory and the file directly. Lock
 * rule: none held; handles take struct share's.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

/* What of a guest's O_* matters to the host. O_APPEND comes with each write, O_DIRECT is the
 * guest's own affair, O_TRUNC is done once. */
int open_flags(int guest_flags) {
    return guest_flags & (O_ACCMODE | O_SYNC | O_DSYNC);
}

void drop_privilege_bits(int fd) {
    struct stat st;
    if (!fstat(fd, &st) && (st.st_mode & (S_ISUID | S_ISGID)) && S_ISREG(st.st_mode)) {
        fchmod(fd, st.st_mode & 01777);
    }
}

int share_open_file(struct share *s, struct share_req *r) {
    struct node *n;
    int flags = open_flags((int)r->flags), trunc = (int)r->flags & O_TRUNC;
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (s->readonly && (writes || trunc)) {
        return -EROFS;
    }
    int rc = node_use(s, r->node, &n);
    if (rc) {
        return rc;
    }
    int fd = n->type == S_IFDIR ? -EISDIR : file_reopen(n->fd, n->type, flags | trunc);
    if (fd >= 0 && (writes || trunc)) {
        drop_privilege_bits(fd);
    }
    rc = fd < 0 ? fd : handle_add(s, n, fd, flags, false, &r->new_handle);
    node_done(s, n);
    return rc;
}

int share_read(struct share *s, struct share_req *r) {
    struct handle *h;
    int rc = handle_use(s, r->handle, false, &h);
    if (rc) {
        return rc;
    }
    const struct iovec *v = (const struct iovec *)(const void *)r->iov;
    ssize_t got = preadv(h->fd, v, (int)r->iov_count, (off_t)r->offset);
    rc = got < 0 ? -errno : 0;
    r->result = got < 0 ? 0 : (u64)got;
    handle_done(s, h);
    return rc;
}

static ssize_t write_out(const struct handle *h, const struct share_req *r) {
    const struct iovec *v = (const struct iovec *)(const void *)r->iov;
    if (r->append) {
        return pwritev2(h->fd, v, (int)r->iov_count, (off_t)r->offset, RWF_APPEND);
    }
    return pwritev(h->fd, v, (int)r->iov_count, (off_t)r->offset);
}

int share_write(struct share *s, struct share_req *r) {
    struct handle *h;
    int rc = s->readonly ? -EROFS : handle_use(s, r->handle, false, &h);
    if (rc) {
        return rc;
    }
    ssize_t got = write_out(h, r);
    rc = got < 0 ? -errno : 0;
    r->result = got < 0 ? 0 : (u64)got;
    handle_done(s, h);
    return rc;
}

static int sync_handle(struct share *s, const struct share_req *r, bool dir) {
    struct handle *h;
    int rc = handle_use(s, r->handle, dir, &h);
    if (!rc) {
        rc = r->flags ? fdatasync(h->fd) : fsync(h->fd);
        rc = rc ? -errno : 0;
        handle_done(s, h);
    }
    return rc;
}

int share_fsync(struct share *s, struct share_req *r) {
    int rc = sync_handle(s, r, false);
    return rc == -EBADF ? sync_handle(s, r, true) : rc;
}

int share_fallocate(struct share *s, struct share_req *r) {
    const u32 known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    struct handle *h;
    if (r->mode & ~known) {
        return -EOPNOTSUPP;
    }
    int rc = s->readonly ? -EROFS : handle_use(s, r->handle, false, &h);
    if (!rc) {
        rc = fallocate(h->fd, (int)r->mode, (off_t)r->offset, (off_t)r->length) ? -errno : 0;
        handle_done(s, h);
    }
    return rc;
}

int share_lseek(struct share *s, struct share_req *r) {
    struct handle *h;
    if (r->flags != SEEK_DATA && r->flags != SEEK_HOLE) {
        return -EINVAL;
    }
    int rc = handle_use(s, r->handle, false, &h);
    if (!rc) {
        off_t at = lseek(h->fd, (off_t)r->offset, (int)r->flags);
        rc = at < 0 ? -errno : 0;
        r->result = at < 0 ? 0 : (u64)at;
        handle_done(s, h);
    }
    return rc;
}

int share_copy(struct share *s, struct share_req *r) {
    struct handle *from = NULL, *to = NULL;
    off_t from_at = (off_t)r->offset, to_at = (off_t)r->offset2;
    int rc = s->readonly ? -EROFS : handle_use(s, r->handle, false, &from);
    rc = rc ? rc : handle_use(s, r->handle2, false, &to);
    if (!rc) {
        u64 length = MIN(r->length, (u64)SHARE_COPY_MAX);
        ssize_t n = copy_file_range(from->fd, &from_at, to->fd, &to_at, (size_t)length, 0);
        rc = n < 0 ? -errno : 0;
        r->result = n < 0 ? 0 : (u64)n;
    }
    handle_done(s, to);
    handle_done(s, from);
    return rc;
}

int share_syncfs(struct share *s, struct share_req *r UNUSED) {
    if (s->readonly) {
        return 0;
    }
    int fd = file_reopen(s->root, S_IFDIR, O_RDONLY | O_DIRECTORY);
    int rc = fd < 0 ? fd : 0;
    if (!rc) {
        rc = syncfs(fd) ? -errno : 0;
        close(fd);
    }
    return rc;
}
