/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names in a shared folder: looking up, making, removing, renaming, listing. Lock rule: none held;
 * nodes and handles take struct share's.
 *
 * What is made belongs to the user who asked when the monitor may do that (root, without the
 * fence): the thread takes that user's file system identity for the one call. Set-user-ID and
 * set-group-ID programs are never made: a guest must not leave them on the host. Neither are device
 * nodes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

enum { LIST_MAX = 32 << 10 };

/* What getdents64 writes. */
struct list_entry {
    u64 ino, offset;
    u16 size;
    u8 type;
    char name[];
};
enum { LIST_NAME = offsetof(struct list_entry, name) };

/* --- who asks ------------------------------------------------------------------------------------
 */

/* Asked at the first request: the fence, which takes capabilities away, is up by then. */
static bool identities(struct share *s) {
    int known = __atomic_load_n(&s->identities, __ATOMIC_RELAXED);
    if (known < 0) {
        const u64 want = BIT(CAP_SETUID) | BIT(CAP_SETGID);
        struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct d[2] = {0};
        known = !geteuid() && !syscall(SYS_capget, &h, d) && (d[0].effective & want) == want;
        __atomic_store_n(&s->identities, known, __ATOMIC_RELAXED);
    }
    return known;
}

static int identity_take(struct share *s, const struct share_req *r) {
    if (!identities(s)) {
        return 0;
    }
    setfsgid(r->gid);
    setfsuid(r->uid);
    if ((uid_t)setfsuid((uid_t)-1) == r->uid && (gid_t)setfsgid((gid_t)-1) == r->gid) {
        return 0;
    }
    setfsuid(geteuid());
    setfsgid(getegid());
    return -EPERM;
}

static void identity_return(struct share *s) {
    if (identities(s)) {
        setfsuid(geteuid());
        setfsgid(getegid());
    }
}

/* --- looking up
 * ----------------------------------------------------------------------------------- */

/* The guest gets the file of that name. */
static int give(struct share *s, struct node *dir, const char *name, struct share_req *r) {
    struct stat st;
    int fd = child_open(s, dir->fd, name, &st);
    return fd < 0 ? fd : node_give(s, dir, name, fd, &st, &r->entry);
}

int share_lookup(struct share *s, struct share_req *r) {
    struct node *dir;
    int rc = node_use_dir(s, r->node, &dir);
    if (!rc) {
        rc = give(s, dir, r->name, r);
        node_done(s, dir);
    }
    return rc;
}

/* --- making
 * ---------------------------------------------------------------------------------------- */

static int make(struct share *s, struct node *dir, const struct share_req *r) {
    u32 type = r->mode & S_IFMT;
    int rc = identity_take(s, r);
    if (rc) {
        return rc;
    }
    if (r->op == SHARE_SYMLINK) {
        rc = symlinkat(r->name2, dir->fd, r->name);
    } else if (r->op == SHARE_MKDIR) {
        rc = mkdirat(dir->fd, r->name, r->mode & 01777);
    } else if (type == S_IFREG || type == S_IFIFO || type == S_IFSOCK || !type) {
        rc = mknodat(dir->fd, r->name, type | (r->mode & 01777), 0);
    } else {
        errno = EPERM;
        rc = -1;
    }
    rc = rc ? -errno : 0;
    identity_return(s);
    return rc;
}

static int make_and_give(struct share *s, struct share_req *r) {
    struct node *dir;
    int rc = s->readonly ? -EROFS : name_check(r->name);
    rc = rc ? rc : node_use_dir(s, r->node, &dir);
    if (!rc) {
        rc = make(s, dir, r);
        rc = rc ? rc : give(s, dir, r->name, r);
        node_done(s, dir);
    }
    return rc;
}

int share_symlink(struct share *s, struct share_req *r) {
    return make_and_give(s, r);
}

int share_mknod(struct share *s, struct share_req *r) {
    return make_and_give(s, r);
}

int share_mkdir(struct share *s, struct share_req *r) {
    return make_and_give(s, r);
}

/* A new file, opened: it is ours since O_EXCL made it. -EEXIST when the name is taken. */
static int create_new(struct share *s, struct node *dir, const struct share_req *r, int flags) {
    int rc = identity_take(s, r);
    if (rc) {
        return rc;
    }
    int fd = openat(dir->fd, r->name,
                    flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                    r->mode & 01777);
    rc = fd < 0 ? -errno : fd;
    identity_return(s);
    return rc;
}

/* The node of the open file, and its handle. */
static int create_give(struct share *s, struct node *dir, struct share_req *r, int path, int file,
                       const struct stat *st) {
    struct node *n;
    int rc = node_give(s, dir, r->name, path, st, &r->entry);
    if (rc) {
        close(file);
        return rc;
    }
    rc = node_use(s, r->entry.node, &n);
    if (rc) {
        close(file);
        node_forget(s, r->entry.node, 1);
        return rc;
    }
    rc = handle_add(s, n, file, open_flags((int)r->flags), false, &r->new_handle);
    node_done(s, n);
    if (rc) {
        node_forget(s, r->entry.node, 1);
    }
    return rc;
}

static int create_in(struct share *s, struct node *dir, struct share_req *r) {
    struct stat st;
    int flags = open_flags((int)r->flags), path = -1;
    int file = create_new(s, dir, r, flags);
    if (file >= 0) {
        char name[PROC_NAME_MAX];
        proc_name(name, file);
        path = open(name, O_PATH | O_CLOEXEC);
        path = path < 0 ? -errno : path;
        if (path >= 0 && fstat(file, &st)) {
            close(path);
            path = -errno;
        }
    } else if (file == -EEXIST && !(r->flags & O_EXCL)) { /* somebody on the host was faster */
        path = child_open(s, dir->fd, r->name, &st);
        file = path < 0 ? path
                        : file_reopen(path, st.st_mode & S_IFMT, flags | ((int)r->flags & O_TRUNC));
    }
    if (file < 0 || path < 0) {
        int rc = file < 0 ? file : path;
        close(file < 0 ? path : file); /* the other one; a negative number closes nothing */
        return rc;
    }
    return create_give(s, dir, r, path, file, &st);
}

int share_create(struct share *s, struct share_req *r) {
    struct node *dir;
    int rc = s->readonly ? -EROFS : name_check(r->name);
    rc = rc ? rc : node_use_dir(s, r->node, &dir);
    if (!rc) {
        rc = create_in(s, dir, r);
        node_done(s, dir);
    }
    return rc;
}

int share_link(struct share *s, struct share_req *r) {
    struct node *dir = NULL, *n = NULL;
    char from[PROC_NAME_MAX];
    int rc = s->readonly ? -EROFS : name_check(r->name);
    rc = rc ? rc : node_use(s, r->node2, &n);
    rc = rc ? rc : node_use_dir(s, r->node, &dir);
    if (!rc) {
        proc_name(from, n->fd);
        rc = linkat(AT_FDCWD, from, dir->fd, r->name, AT_SYMLINK_FOLLOW) ? -errno : 0;
        rc = rc ? rc : give(s, dir, r->name, r);
    }
    node_done(s, dir);
    node_done(s, n);
    return rc;
}

/* --- removing, renaming
 * ---------------------------------------------------------------------------- */

int share_unlink(struct share *s, struct share_req *r) {
    struct node *dir;
    int rc = s->readonly ? -EROFS : name_check(r->name);
    rc = rc ? rc : node_use_dir(s, r->node, &dir);
    if (!rc) {
        node_unnamed(s, dir, r->name);
        int flags = r->op == SHARE_RMDIR ? AT_REMOVEDIR : 0;
        rc = unlinkat(dir->fd, r->name, flags) ? -errno : 0;
        node_done(s, dir);
    }
    return rc;
}

static bool stat_child(const struct node *dir, const char *name, struct stat *st) {
    return !fstatat(dir->fd, name, st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT);
}

static int rename_in(struct share *s, struct node *from, struct node *to,
                     const struct share_req *r) {
    struct stat moved, other;
    bool exchange = r->flags & RENAME_EXCHANGE;
    bool known = stat_child(from, r->name, &moved);
    bool known_other = exchange && stat_child(to, r->name2, &other);
    if (!exchange) {
        node_unnamed(s, to, r->name2);
    }
    if (renameat2(from->fd, r->name, to->fd, r->name2, r->flags)) {
        return -errno;
    }
    if (known) {
        node_renamed(s, &moved, to, r->name2);
    }
    if (known_other) {
        node_renamed(s, &other, from, r->name);
    }
    return 0;
}

int share_rename(struct share *s, struct share_req *r) {
    struct node *from = NULL, *to = NULL;
    int rc = s->readonly ? -EROFS : name_check(r->name);
    rc = rc ? rc : name_check(r->name2);
    if (!rc && (r->flags & ~(u32)(RENAME_NOREPLACE | RENAME_EXCHANGE))) {
        rc = -EINVAL; /* a whiteout is a device node */
    }
    rc = rc ? rc : node_use_dir(s, r->node, &from);
    rc = rc ? rc : node_use_dir(s, r->node2, &to);
    rc = rc ? rc : rename_in(s, from, to, r);
    node_done(s, to);
    node_done(s, from);
    return rc;
}

/* --- listing
 * ---------------------------------------------------------------------------------------- */

int share_opendir(struct share *s, struct share_req *r) {
    struct node *n;
    int rc = node_use_dir(s, r->node, &n);
    if (rc) {
        return rc;
    }
    int fd = file_reopen(n->fd, n->type, O_RDONLY | O_DIRECTORY);
    rc = fd < 0 ? fd : handle_add(s, n, fd, O_RDONLY | O_DIRECTORY, true, &r->new_handle);
    node_done(s, n);
    return rc;
}

static bool is_dots(const char *name) {
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* False when there is no room for it. */
static bool list_one(struct share *s, struct share_req *r, struct node *dir,
                     const struct list_entry *e) {
    struct share_req found = {0};
    struct share_dirent d = {.name = e->name,
                             .name_len = (u32)strlen(e->name),
                             .ino = e->ino,
                             .offset = e->offset,
                             .type = e->type};
    if (is_dots(e->name)) { /* above the folder there is nothing to be told about */
        d.ino = e->name[1] && dir == s->root_node ? s->root_node->ino : e->ino;
        return r->emit(r, &d, NULL);
    }
    if (!r->plus || give(s, dir, e->name, &found)) {
        return r->emit(r, &d, NULL);
    }
    d.ino = found.entry.attr.ino;
    bool taken = r->emit(r, &d, &found.entry);
    if (!taken) {
        node_forget(s, found.entry.node, 1);
    }
    return taken;
}

static int list(struct share *s, struct share_req *r, struct node *dir, int fd) {
    u8 buf[LIST_MAX] ALIGNED(8);
    /* an entry takes as much room here as there, or less than a fifth of it with its attributes */
    size_t want = MIN(MAX(r->plus ? r->length / 4 : r->length, 1024), sizeof(buf));
    bool room = true;
    int count = 0;
    if (lseek(fd, (off_t)r->offset, SEEK_SET) < 0) {
        return -errno;
    }
    while (room) {
        long got = syscall(SYS_getdents64, fd, buf, want);
        if (got <= 0) {
            return got < 0 && !count ? -errno : 0;
        }
        for (long at = 0; at < got && room; count++) {
            const struct list_entry *e = (const struct list_entry *)(const void *)(buf + at);
            room = list_one(s, r, dir, e);
            at += e->size;
        }
    }
    return 0;
}

int share_readdir(struct share *s, struct share_req *r) {
    struct handle *h = NULL;
    struct node *n = NULL;
    int rc = handle_use(s, r->handle, true, &h);
    if (!rc) { /* entries are given from the directory that is open, if it is the one asked for */
        rc = node_use_dir(s, r->node, &n);
        rc = !rc && n != h->node ? -EBADF : rc;
    }
    if (!rc) {
        pthread_mutex_lock(&h->lock);
        rc = list(s, r, h->node, h->fd);
        pthread_mutex_unlock(&h->lock);
    }
    node_done(s, n);
    handle_done(s, h);
    return rc;
}
