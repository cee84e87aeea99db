/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file system of a jailed machine: a folder with a few device nodes, made "/" with
 * pivot_root(2) in a mount namespace of its own, so that nothing outside has a name.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cmd/jail.h"

/* mkdir -p, mode 0700 for what is new. */
static int folders_make(char *path, struct err *err) {
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p) {
            continue;
        }
        char end = *p;
        *p = 0;
        int failed = mkdir(path, 0700) && errno != EEXIST;
        *p = end;
        if (failed) {
            return ERR_SET(err, ERR_IO, "jail: %s: %s", path, strerror(errno));
        }
        if (!end) {
            return 0;
        }
    }
}

static int file_copy(const char *from, const char *to, struct err *err) {
    struct stat st;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, rc = 0;
    if (in >= 0 && !fstat(in, &st)) {
        unlink(to);
        out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0755);
    }
    for (off_t left = out >= 0 ? st.st_size : 0; left > 0 && !rc;) {
        ssize_t n = sendfile(out, in, NULL, (size_t)left);
        rc = n > 0 ? 0 : -1;
        left -= n > 0 ? n : 0;
    }
    if (out < 0 || rc) {
        rc = ERR_SET(err, ERR_IO, "jail: copy of %s to %s: %s", from, to, strerror(errno));
    }
    close(in);
    close(out);
    return rc;
}

int jail_root_make(struct jail *j, bool copy, struct err *err) {
    char to[PATH_MAX];
    if (snprintf(j->root, sizeof(j->root), "%s/%s/%s/root", j->base, j->name, j->id) >=
            (int)sizeof(j->root) ||
        snprintf(to, sizeof(to), "%s/%s", j->root, j->name) >= (int)sizeof(to)) {
        return ERR_SET(err, ERR_INVAL, "--chroot-base-dir: the path is too long");
    }
    int rc = folders_make(j->root, err);
    rc = rc || !copy ? rc : file_copy(j->exec_file, to, err);
    if (!rc && chown(j->root, j->uid, j->gid)) {
        rc = ERR_SET(err, ERR_PERM, "jail: %s: %s", j->root, strerror(errno));
    }
    /* user networks ask the host's name server */
    char conf[PATH_MAX], etc[PATH_MAX];
    if (!rc && snprintf(etc, sizeof(etc), "%s/etc", j->root) < (int)sizeof(etc) &&
        snprintf(conf, sizeof(conf), "%s/etc/resolv.conf", j->root) < (int)sizeof(conf) &&
        !access("/etc/resolv.conf", R_OK)) {
        rc = folders_make(etc, err);
        chmod(etc, 0755);
        rc = rc ? rc : file_copy("/etc/resolv.conf", conf, err);
    }
    return rc;
}

/* The minor number of a misc device; it is given out as drivers come. -1: there is none. */
static int misc_minor(const char *name) {
    char line[128], have[64];
    int minor = -1, n;
    FILE *f = fopen("/proc/misc", "re");
    while (f && minor < 0 && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%d %63s", &n, have) == 2 && !strcmp(have, name)) {
            minor = n;
        }
    }
    if (f) {
        fclose(f);
    }
    return minor;
}

struct node {
    const char *path;
    dev_t dev;
};

static int nodes_make(const struct jail *j, int uffd_minor, struct err *err) {
    const struct node nodes[] = {
        {"/dev/kvm", makedev(10, 232)},
        {"/dev/net/tun", makedev(10, 200)},
        {"/dev/urandom", makedev(1, 9)},
        {"/dev/null", makedev(1, 3)},
        {"/dev/userfaultfd", uffd_minor < 0 ? 0 : makedev(10, (unsigned)uffd_minor)},
    };
    if ((mkdir("/dev", 0755) && errno != EEXIST) || (mkdir("/dev/net", 0755) && errno != EEXIST) ||
        (mkdir("/run", 0755) && errno != EEXIST) || chown("/run", j->uid, j->gid)) {
        return ERR_SET(err, ERR_IO, "jail: /dev, /run: %s", strerror(errno));
    }
    for (u32 i = 0; i < ARRAY_LEN(nodes); i++) {
        if (!nodes[i].dev) {
            continue;
        }
        if ((mknod(nodes[i].path, S_IFCHR | 0600, nodes[i].dev) && errno != EEXIST) ||
            chown(nodes[i].path, j->uid, j->gid)) {
            return ERR_SET(err, ERR_IO, "jail: %s: %s", nodes[i].path, strerror(errno));
        }
    }
    return 0;
}

int jail_root_enter(const struct jail *j, struct err *err) {
    int uffd = misc_minor("userfaultfd");
    if (unshare(CLONE_NEWNS)) {
        return ERR_SET(err, ERR_PERM, "jail: a mount namespace: %s", strerror(errno));
    }
    /* our mounts stay ours; a folder must be a mount point to become "/" */
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) ||
        mount(j->root, j->root, NULL, MS_BIND | MS_REC, NULL) || chdir(j->root)) {
        return ERR_SET(err, ERR_PERM, "jail: %s: %s", j->root, strerror(errno));
    }
    if ((mkdir("old_root", 0700) && errno != EEXIST) || syscall(SYS_pivot_root, ".", "old_root") ||
        chdir("/") || umount2("old_root", MNT_DETACH) || rmdir("old_root")) {
        return ERR_SET(err, ERR_PERM, "jail: pivot_root to %s: %s", j->root, strerror(errno));
    }
    return nodes_make(j, uffd, err);
}
