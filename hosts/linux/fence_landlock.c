/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Landlock (Documentation/userspace-api/landlock.rst of Linux): names of files, TCP ports, signals
 * and abstract sockets outside are out of reach for the calling thread and those it starts. Rights
 * that an older kernel does not know are left out.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/types.h"
#include "hosts/linux/fence.h"

/* The kernel's interface, in the form of ABI 6; the headers of Debian 12 stop at ABI 3. */
struct ruleset_attr {
    u64 fs, net, scoped;
};

struct path_beneath {
    u64 allowed;
    s32 parent;
} __attribute__((packed));

enum { CREATE_RULESET_VERSION = 1, RULE_PATH_BENEATH = 1 };

enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_DIR = 1 << 4,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_SOCK = 1 << 9,
    FS_REFER = 1 << 13,
    FS_TRUNCATE = 1 << 14,
    FS_IOCTL_DEV = 1 << 15,
    FS_FILE_ONLY = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
};

/* All file system rights that ABI 1 to 5 know; from the sixth on none was added. */
static u64 fs_rights(int abi) {
    static const u8 bits[] = {13, 14, 15, 15, 16};
    return (1ull << bits[abi > 5 ? 4 : abi - 1]) - 1;
}

static u64 wanted(u32 rights) {
    u64 r = 0;
    r |= rights & FENCE_READ ? FS_READ_FILE | FS_READ_DIR : 0;
    r |= rights & FENCE_WRITE ? (u64)(0xffff & ~(FS_EXECUTE | FS_IOCTL_DEV)) : 0;
    r |= rights & FENCE_SOCKETS ? FS_REMOVE_FILE | FS_MAKE_SOCK : 0;
    return r;
}

/* A path that is not there is no error: there is nothing to reach. */
static void allow(int ruleset, const struct fence_path *p, u64 handled) {
    int fd = open(p->path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    struct path_beneath rule = {.allowed = wanted(p->rights) & handled, .parent = fd};
    if (syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) && errno == EINVAL) {
        rule.allowed &= FS_FILE_ONLY; /* it is a file: rights of directories are refused there */
        syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0);
    }
    close(fd);
}

int fence_landlock_rules(const struct fence_path *paths, u32 count, bool tcp) {
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
    if (abi < 1) {
        return -ERR_UNSUPPORTED;
    }
    struct ruleset_attr attr = {
        .fs = fs_rights((int)abi), .net = abi >= 4 && !tcp ? 3 : 0, .scoped = abi >= 6 ? 3 : 0};
    size_t size = abi >= 6   ? sizeof(attr)
                  : abi >= 4 ? offsetof(struct ruleset_attr, scoped)
                             : offsetof(struct ruleset_attr, net);
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
    if (ruleset < 0) {
        return -ERR_UNSUPPORTED;
    }
    for (u32 i = 0; i < count; i++) {
        allow(ruleset, &paths[i], attr.fs);
    }
    return ruleset;
}

bool fence_landlock_enter(int ruleset) {
    return !syscall(SYS_landlock_restrict_self, ruleset, 0);
}
