/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes of files in a shared folder. Of extended attributes the guest sees those named user.*
 * only: others (security.*, trusted.*, system.*) mean something to the host. Lock rule: none held.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

static int stat_node(struct share *s, const struct node *n, struct share_req *r) {
    struct stat st;
    if (fstatat(n->fd, "", &st, AT_EMPTY_PATH)) {
        return -errno;
    }
    r->entry.node = n->id;
    attr_fill(s, &st, &r->entry.attr);
    return 0;
}

/* By the open file when there is one: it answers also when its name has gone. */
static int stat_handle(struct share *s, struct share_req *r) {
    struct handle *h;
    struct stat st;
    int rc = handle_use(s, r->handle, false, &h);
    if (!rc) {
        rc = fstat(h->fd, &st) ? -errno : 0;
        if (!rc) {
            attr_fill(s, &st, &r->entry.attr);
        }
        handle_done(s, h);
    }
    return rc;
}

int share_getattr(struct share *s, struct share_req *r) {
    struct node *n;
    if ((r->valid & SHARE_SET_HANDLE) && !stat_handle(s, r)) {
        return 0;
    }
    int rc = node_use(s, r->node, &n);
    if (!rc) {
        rc = stat_node(s, n, r);
        node_done(s, n);
    }
    return rc;
}

/* --- changing
 * --------------------------------------------------------------------------------------- */

static int set_mode(const struct node *n, const struct share_req *r) {
    char name[PROC_NAME_MAX];
    u32 keep = n->type == S_IFDIR ? 07777 : 01777; /* no set-user-ID programs, see share_dir.c */
    if (n->type == S_IFLNK) {
        return -EOPNOTSUPP;
    }
    proc_name(name, n->fd);
    return chmod(name, r->set.mode & keep) ? -errno : 0;
}

static int set_owner(const struct node *n, const struct share_req *r) {
    uid_t uid = r->valid & SHARE_SET_UID ? r->set.uid : (uid_t)-1;
    gid_t gid = r->valid & SHARE_SET_GID ? r->set.gid : (gid_t)-1;
    return fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int set_size(struct share *s, const struct node *n, const struct share_req *r) {
    struct handle *h = NULL;
    if (r->set.size > INT64_MAX) {
        return -EFBIG;
    }
    if ((r->valid & SHARE_SET_HANDLE) && !handle_use(s, r->handle, false, &h)) {
        int rc = h->node != n ? -EBADF : ftruncate(h->fd, (off_t)r->set.size) ? -errno : 0;
        handle_done(s, h);
        return rc;
    }
    int fd = n->type == S_IFDIR ? -EISDIR : file_reopen(n->fd, n->type, O_WRONLY);
    if (fd < 0) {
        return fd;
    }
    drop_privilege_bits(fd);
    int rc = ftruncate(fd, (off_t)r->set.size) ? -errno : 0;
    close(fd);
    return rc;
}

static struct timespec time_to_set(const struct share_req *r, u32 which, u32 now,
                                   const struct share_time *t) {
    if (!(r->valid & which)) {
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    }
    if (r->valid & now) {
        return (struct timespec){.tv_nsec = UTIME_NOW};
    }
    return (struct timespec){.tv_sec = (time_t)t->sec, .tv_nsec = (long)MIN(t->nsec, 999999999u)};
}

static int set_times(const struct node *n, const struct share_req *r) {
    struct timespec t[2] = {
        time_to_set(r, SHARE_SET_ATIME, SHARE_SET_ATIME_NOW, &r->set.atime),
        time_to_set(r, SHARE_SET_MTIME, SHARE_SET_MTIME_NOW, &r->set.mtime),
    };
    return utimensat(n->fd, "", t, AT_EMPTY_PATH) ? -errno : 0;
}

static int set_all(struct share *s, const struct node *n, struct share_req *r) {
    int rc = 0;
    if (r->valid & SHARE_SET_MODE) {
        rc = set_mode(n, r);
    }
    if (!rc && (r->valid & (SHARE_SET_UID | SHARE_SET_GID))) {
        rc = set_owner(n, r);
    }
    if (!rc && (r->valid & SHARE_SET_SIZE)) {
        rc = set_size(s, n, r);
    }
    if (!rc && (r->valid & (SHARE_SET_ATIME | SHARE_SET_MTIME))) {
        rc = set_times(n, r);
    }
    return rc ? rc : stat_node(s, n, r);
}

int share_setattr(struct share *s, struct share_req *r) {
    struct node *n;
    int rc = s->readonly ? -EROFS : node_use(s, r->node, &n);
    if (!rc) {
        rc = set_all(s, n, r);
        node_done(s, n);
    }
    return rc;
}

/* --- reading
 * ---------------------------------------------------------------------------------------- */

int share_readlink(struct share *s, struct share_req *r) {
    struct node *n;
    int rc = node_use(s, r->node, &n);
    if (rc) {
        return rc;
    }
    ssize_t len = n->type == S_IFLNK ? readlinkat(n->fd, "", (char *)r->buf, r->buf_size) : -1;
    rc = n->type != S_IFLNK ? -EINVAL : len < 0 ? -errno : 0;
    r->result = len < 0 ? 0 : (u64)len;
    node_done(s, n);
    return rc;
}

int share_statfs(struct share *s, struct share_req *r) {
    struct node *n;
    struct statfs fs;
    int rc = node_use(s, r->node, &n);
    if (rc) {
        return rc;
    }
    rc = fstatfs(n->fd, &fs) ? -errno : 0;
    node_done(s, n);
    if (!rc) {
        r->statfs = (struct share_statfs){.blocks = fs.f_blocks,
                                          .bfree = fs.f_bfree,
                                          .bavail = fs.f_bavail,
                                          .files = fs.f_files,
                                          .ffree = fs.f_ffree,
                                          .bsize = (u32)fs.f_bsize,
                                          .namelen = (u32)fs.f_namelen,
                                          .frsize = (u32)fs.f_frsize};
    }
    return rc;
}

/* --- extended attributes
 * ------------------------------------------------------------------------------ */

static bool is_user(const char *name) {
    return !strncmp(name, "user.", 5) && name[5];
}

/* The node and its name for calls that take paths. Symbolic links and special files cannot have
 * user.* attributes. */
static int xattr_use(struct share *s, struct share_req *r, struct node **n, char *path) {
    int rc = r->name && !is_user(r->name) ? -EOPNOTSUPP : 0;
    rc = rc ? rc : node_use(s, r->node, n);
    if (!rc && (*n)->type != S_IFREG && (*n)->type != S_IFDIR) {
        node_done(s, *n);
        rc = r->op == SHARE_SETXATTR ? -EPERM : -ENODATA;
    }
    if (!rc) {
        proc_name(path, (*n)->fd);
    }
    return rc;
}

int share_setxattr(struct share *s, struct share_req *r) {
    struct node *n;
    char path[PROC_NAME_MAX];
    int rc = s->readonly ? -EROFS : xattr_use(s, r, &n, path);
    if (!rc) {
        rc = setxattr(path, r->name, r->buf, r->buf_size, (int)r->flags) ? -errno : 0;
        node_done(s, n);
    }
    return rc;
}

int share_getxattr(struct share *s, struct share_req *r) {
    struct node *n;
    char path[PROC_NAME_MAX];
    int rc = xattr_use(s, r, &n, path);
    if (!rc) {
        ssize_t len = getxattr(path, r->name, r->buf, r->buf_size);
        rc = len < 0 ? -errno : 0;
        r->result = len < 0 ? 0 : (u64)len;
        node_done(s, n);
    }
    return rc;
}

/* Keeps the user.* names of a list; their bytes. */
static size_t filter(char *out, const char *list, size_t len) {
    size_t kept = 0;
    for (size_t at = 0; at < len;) {
        size_t n = strnlen(list + at, len - at) + 1;
        if (at + n <= len && is_user(list + at)) {
            memcpy(out + kept, list + at, n);
            kept += n;
        }
        at += n;
    }
    return kept;
}

int share_listxattr(struct share *s, struct share_req *r) {
    struct node *n;
    char path[PROC_NAME_MAX];
    char list[SHARE_XATTR_MAX], kept[SHARE_XATTR_MAX];
    int rc = xattr_use(s, r, &n, path);
    if (rc) {
        return rc == -ENODATA ? 0 : rc; /* a file that cannot have any */
    }
    ssize_t len = listxattr(path, list, sizeof(list));
    rc = len < 0 ? -errno : 0;
    node_done(s, n);
    if (rc) {
        return rc;
    }
    r->result = filter(kept, list, (size_t)len);
    if (r->length && r->result > r->buf_size) {
        return -ERANGE;
    }
    if (r->length) {
        memcpy(r->buf, kept, r->result);
    }
    return 0;
}

int share_removexattr(struct share *s, struct share_req *r) {
    struct node *n;
    char path[PROC_NAME_MAX];
    int rc = s->readonly ? -EROFS : xattr_use(s, r, &n, path);
    if (!rc) {
        rc = removexattr(path, r->name) ? -errno : 0;
        node_done(s, n);
    }
    return rc;
}
