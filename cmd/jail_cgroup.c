/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups of a jailed machine, cgroup v1 and v2 (cgroups(7)). The group is
 * MOUNT/PARENT/ID; v1 has one below each controller that a file's name begins with ("cpu.shares").
 */
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/jail.h"

/* Where the hierarchy is mounted: of this controller (v1), or the only one (v2). */
static bool mount_point(int version, const char *controller, char *out, size_t size) {
    struct mntent entry, *m;
    char text[2048];
    bool found = false;
    FILE *f = setmntent("/proc/self/mounts", "r");
    while (f && !found && (m = getmntent_r(f, &entry, text, sizeof(text)))) {
        found = version == 2 ? !strcmp(m->mnt_type, "cgroup2")
                             : !strcmp(m->mnt_type, "cgroup") && hasmntopt(m, controller);
        if (found) {
            found = (size_t)snprintf(out, size, "%s", m->mnt_dir) < size;
        }
    }
    if (f) {
        endmntent(f);
    }
    return found;
}

static int write_text(const char *dir, const char *file, const char *text, struct err *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path)) {
        return ERR_SET(err, ERR_INVAL, "cgroup %s: the path is too long", file);
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd >= 0 ? write(fd, text, strlen(text)) : -1;
    int error = errno;
    if (fd >= 0) {
        close(fd);
    }
    return n < 0 ? ERR_SET(err, ERR_INVAL, "cgroup: %s: %s", path, strerror(error)) : 0;
}

static int group_make(const char *mount, const char *parent, const char *id, char *out,
                      struct err *err) {
    const char *parts[] = {parent, id};
    size_t n = (size_t)snprintf(out, PATH_MAX, "%s", mount);
    for (u32 i = 0; i < ARRAY_LEN(parts); i++) {
        n += (size_t)snprintf(out + n, n < PATH_MAX ? PATH_MAX - n : 0, "/%s", parts[i]);
        if (n >= PATH_MAX) {
            return ERR_SET(err, ERR_INVAL, "cgroup %s: the path is too long", id);
        }
        if (mkdir(out, 0755) && errno != EEXIST) {
            return ERR_SET(err, ERR_IO, "cgroup: %s: %s", out, strerror(errno));
        }
    }
    return 0;
}

/* v1: a new cpuset takes no process before it has processors and memory nodes: its parent's. */
static void cpuset_inherit(const char *group) {
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
    char dir[PATH_MAX], path[PATH_MAX + 32], text[4096];
    snprintf(dir, sizeof(dir), "%s", group);
    *strrchr(dir, '/') = 0; /* the parent that we made */
    const char *const level[] = {dir, group};
    for (u32 i = 0; i < 2; i++) {
        for (u32 k = 0; k < ARRAY_LEN(files); k++) {
            snprintf(path, sizeof(path), "%s/../%s", level[i], files[k]);
            FILE *f = fopen(path, "re");
            if (f && fgets(text, sizeof(text), f)) {
                (void)write_text(level[i], files[k], text, NULL);
            }
            if (f) {
                fclose(f);
            }
        }
    }
}

/* v2: a controller is there for children only when each group above passes it on. */
static void controller_pass_on(const char *mount, const char *parent, const char *controller) {
    char text[80], dir[PATH_MAX];
    snprintf(text, sizeof(text), "+%s", controller);
    (void)write_text(mount, "cgroup.subtree_control", text, NULL);
    if (snprintf(dir, sizeof(dir), "%s/%s", mount, parent) < (int)sizeof(dir)) {
        (void)write_text(dir, "cgroup.subtree_control", text, NULL);
    }
}

/* "FILE=VALUE": in its group, which is made and entered when it is the first of its controller. */
static int set_one(const struct jail *j, const char *setting, struct err *err) {
    char controller[64], file[128], mount[PATH_MAX], group[PATH_MAX];
    const char *equals = strchr(setting, '='), *dot = strchr(setting, '.');
    if (!equals || !dot || dot > equals || (size_t)(equals - setting) >= sizeof(file) ||
        (size_t)(dot - setting) >= sizeof(controller) ||
        memchr(setting, '/', (size_t)(equals - setting))) {
        return ERR_SET(err, ERR_INVAL, "--cgroup %s: not FILE=VALUE, such as cpu.shares=10",
                       setting);
    }
    snprintf(controller, sizeof(controller), "%.*s", (int)(dot - setting), setting);
    snprintf(file, sizeof(file), "%.*s", (int)(equals - setting), setting);
    if (!mount_point(j->cgroup_version, controller, mount, sizeof(mount))) {
        return ERR_SET(err, ERR_NOTFOUND, "--cgroup %s: no cgroup v%d hierarchy with it is mounted",
                       setting, j->cgroup_version);
    }
    int rc = group_make(mount, j->parent_cgroup, j->id, group, err);
    if (!rc && j->cgroup_version == 2) {
        controller_pass_on(mount, j->parent_cgroup, controller);
    } else if (!rc && !strcmp(controller, "cpuset")) {
        cpuset_inherit(group);
    }
    rc = rc ? rc : write_text(group, file, equals + 1, err);
    return rc ? rc : write_text(group, "cgroup.procs", "0", err);
}

/* v2 without a setting: into the parent group that was named, as in Firecracker's jailer. */
static int enter_parent(const struct jail *j, struct err *err) {
    char mount[PATH_MAX], dir[PATH_MAX];
    if (!mount_point(2, NULL, mount, sizeof(mount)) ||
        snprintf(dir, sizeof(dir), "%s/%s", mount, j->parent_cgroup) >= (int)sizeof(dir)) {
        return ERR_SET(err, ERR_NOTFOUND, "--parent-cgroup: no cgroup v2 hierarchy is mounted");
    }
    return write_text(dir, "cgroup.procs", "0", err);
}

int jail_cgroup_enter(const struct jail *j, struct err *err) {
    int rc = 0;
    for (u32 i = 0; i < j->cgroups && !rc; i++) {
        rc = set_one(j, j->cgroup[i], err);
    }
    if (!j->cgroups && j->cgroup_version == 2 && strcmp(j->parent_cgroup, j->name)) {
        rc = enter_parent(j, err);
    }
    return rc;
}
