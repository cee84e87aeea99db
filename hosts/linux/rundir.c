/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime directory: sockets of running machines and switches of one user. $XDG_RUNTIME_DIR
 * /sosia, /run/sosia for root, else /tmp/sosia-UID. Nobody else may write into it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hosts/linux/linux.h"

static void choose(char *path, size_t size) {
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (base && base[0] == '/') {
        snprintf(path, size, "%s/sosia", base);
    } else if (!geteuid() && !access("/run", W_OK)) {
        snprintf(path, size, "/run/sosia");
    } else {
        snprintf(path, size, "/tmp/sosia-%u", (unsigned)geteuid());
    }
}

int linux_runtime_dir(char *path, size_t size, struct err *err) {
    struct stat st;
    choose(path, size);
    if (mkdir(path, 0700) && errno != EEXIST) {
        return ERR_SET(err, ERR_IO, "runtime directory %s: %s", path, strerror(errno));
    }
    if (lstat(path, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022)) {
        return ERR_SET(err, ERR_PERM,
                       "runtime directory %s: not a directory of yours that only you can write to",
                       path);
    }
    return 0;
}
