/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boundary of a shared folder: how names become descriptors, and descriptors open files.
 *
 *  - A name is one component, never "." or "..", never with '/'; it is looked up in a directory
 * that is held as O_PATH descriptor, by openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS. What
 * is found is held as O_PATH, too: that opens nothing, so a FIFO, a socket or a device node sees
 *    nobody. Symbolic links are files like others; the guest reads and follows them on its own.
 *  - Only regular files and directories are opened, through /proc/self/fd: exactly the file that
 * was looked up, whatever its name means by now.
 *  - A directory that somebody on the host moves out of the folder while the guest knows it leads
 *    nowhere from then on (inside_check, before each operation).
 *  - File systems that are windows into the kernel (proc, sysfs ...) and happen to be mounted below
 *    the folder are not entered.
 *
 * Lock rule: none needed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

enum { BENEATH_TRIES = 8, PATH_TEXT_MAX = 4096 };

void proc_name(char name[PROC_NAME_MAX], int fd) {
    snprintf(name, PROC_NAME_MAX, "/proc/self/fd/%d", fd);
}

int name_check(const char *name) {
    size_t len = strnlen(name, SHARE_NAME_MAX + 1);
    if (len > SHARE_NAME_MAX) {
        return -ENAMETOOLONG;
    }
    if (!len || memchr(name, '/', len) || !strcmp(name, ".") || !strcmp(name, "..")) {
        return -EINVAL;
    }
    return 0;
}

bool kernel_window(int fd) {
    static const u32 magic[] = {
        PROC_SUPER_MAGIC,   SYSFS_MAGIC,   DEBUGFS_MAGIC,       TRACEFS_MAGIC,  SECURITYFS_MAGIC,
        CGROUP_SUPER_MAGIC, BPF_FS_MAGIC,  CGROUP2_SUPER_MAGIC, PSTOREFS_MAGIC, EFIVARFS_MAGIC,
        BINFMTFS_MAGIC,     SELINUX_MAGIC, 0x62656570 /* configfs */};
    struct statfs fs;
    if (fstatfs(fd, &fs)) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(magic); i++) {
        if ((u32)fs.f_type == magic[i]) {
            return true;
        }
    }
    return false;
}

static int beneath_open(int dir, const char *name) {
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    for (int i = 0; i < BENEATH_TRIES; i++) {
        long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno != EAGAIN) {
            return -errno;
        }
    }
    return -EAGAIN;
}

int child_open(struct share *s, int dir, const char *name, struct stat *st) {
    int rc = name_check(name);
    int fd = rc ? rc : beneath_open(dir, name);
    if (fd < 0) {
        return fd;
    }
    if (fstatat(fd, "", st, AT_EMPTY_PATH)) {
        rc = -errno;
    } else if (s->root_node && st->st_dev != s->root_node->dev && kernel_window(fd)) {
        rc = -EACCES;
    }
    if (rc) {
        close(fd);
        return rc;
    }
    return fd;
}

int file_reopen(int fd, u32 type, int flags) {
    char name[PROC_NAME_MAX];
    if (type != S_IFREG && type != S_IFDIR) {
        return type == S_IFLNK ? -ELOOP : -ENXIO;
    }
    proc_name(name, fd);
    int file = open(name, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return file < 0 ? -errno : file;
}

static ssize_t path_of(int fd, char *text) {
    char name[PROC_NAME_MAX];
    proc_name(name, fd);
    ssize_t len = readlink(name, text, PATH_TEXT_MAX);
    if (len == PATH_TEXT_MAX) {
        errno = ENAMETOOLONG;
    }
    return len < 0 || len == PATH_TEXT_MAX ? -1 : len;
}

/* Up from a directory whose path is too long to be told, ".." by "..", to the shared folder. */
static int inside_walk(struct share *s, int fd) {
    struct stat st, up;
    int at = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < SHARE_DEPTH_MAX && at >= 0 && !fstatat(at, "", &st, AT_EMPTY_PATH); i++) {
        if (st.st_dev == s->root_node->dev && st.st_ino == s->root_node->ino) {
            close(at);
            return 0;
        }
        int next = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = next;
        if (at < 0 || fstatat(at, "", &up, AT_EMPTY_PATH) ||
            (up.st_dev == st.st_dev && up.st_ino == st.st_ino)) {
            break;
        }
    }
    if (at >= 0) {
        close(at);
    }
    return -ESTALE;
}

int inside_check(struct share *s, int fd) {
    char root[PATH_TEXT_MAX], path[PATH_TEXT_MAX];
    if (fd == s->root) {
        return 0;
    }
    ssize_t root_len = path_of(s->root, root), len = path_of(fd, path);
    if (root_len > 0 && len < 0 && errno == ENAMETOOLONG) {
        return inside_walk(s, fd);
    }
    if (root_len <= 0 || len <= 0) {
        return -ESTALE;
    }
    root_len = root_len == 1 && root[0] == '/' ? 0 : root_len;
    bool inside = len > root_len && !memcmp(root, path, (size_t)root_len) && path[root_len] == '/';
    return inside ? 0 : -ESTALE;
}

static struct share_time time_of(struct timespec t) {
    return (struct share_time){.sec = (u64)t.tv_sec, .nsec = (u32)t.tv_nsec};
}

/* Numbers of files on file systems mounted below the folder are told apart from the folder's own.
 */
static u64 ino_of(const struct share *s, const struct stat *st) {
    u64 own = s->root_node->dev;
    return st->st_dev == own ? st->st_ino : st->st_ino ^ st->st_dev * 0x9e3779b97f4a7c15ull;
}

void attr_fill(struct share *s, const struct stat *st, struct share_attr *out) {
    u32 major_nr = major(st->st_rdev), minor_nr = minor(st->st_rdev);
    *out =
        (struct share_attr){.ino = ino_of(s, st),
                            .size = (u64)st->st_size,
                            .blocks = (u64)st->st_blocks,
                            .atime = time_of(st->st_atim),
                            .mtime = time_of(st->st_mtim),
                            .ctime = time_of(st->st_ctim),
                            .mode = st->st_mode,
                            .nlink = (u32)MIN(st->st_nlink, (u64)UINT32_MAX),
                            .uid = st->st_uid,
                            .gid = st->st_gid,
                            .rdev = (minor_nr & 0xff) | major_nr << 8 | (minor_nr & ~0xffu) << 12,
                            .blksize = (u32)st->st_blksize};
}
