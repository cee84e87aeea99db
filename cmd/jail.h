/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `sosia jail` share. All print nothing and return 0 or a code with err filled.
 */
#ifndef CMD_JAIL_H
#define CMD_JAIL_H

#include <limits.h>
#include <sys/types.h>

#include "core/base/err.h"
#include "core/base/types.h"

enum { JAIL_CGROUPS = 32, JAIL_ID_MAX = 64 };

struct jail {
    const char *id, *exec_file, *base, *netns, *parent_cgroup;
    const char *name; /* last part of exec_file */
    uid_t uid;
    gid_t gid;
    int cgroup_version;               /* 1 or 2 */
    const char *cgroup[JAIL_CGROUPS]; /* "FILE=VALUE" */
    u32 cgroups;
    u64 limit_fsize; /* bytes; 0: none */
    u64 limit_files;
    bool daemonize, new_pid_ns;
    char root[PATH_MAX]; /* BASE/NAME/ID/root */
    char **args;         /* what the jailed program gets: argv[0] is ours to fill */
    int arg_count;
};

/* jail_cgroup.c: makes the group of this machine, writes its files, moves this process into it. */
int jail_cgroup_enter(const struct jail *j, struct err *err);

/* jail_root.c: the folder that becomes "/", with a copy of exec_file when copy is true; then, in a
 * mount namespace of its own, "/" itself, with the devices that a machine opens. */
int jail_root_make(struct jail *j, bool copy, struct err *err);
int jail_root_enter(const struct jail *j, struct err *err);

#endif
