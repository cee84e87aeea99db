/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared folder of its own for a test, with the real service behind it, whose requests wait until
 * the test lets them run (lib_share_complete): what happens is repeatable. Beside the folder there
 * is a canary that nobody may reach. Header only, so that a fuzz harness is one translation unit.
 */
#ifndef TESTS_UNIT_LIB_SHARE_H
#define TESTS_UNIT_LIB_SHARE_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

#define LIB_SHARE_CANARY "must not be read or written"

struct lib_share {
    struct share_backend be; /* for the device */
    struct linux_host *lh;
    struct share_backend *real;
    struct share_req *queue[64];
    u32 queued;
    char base[64], dir[96];
};

static inline int lib_share_remove(const char *path, const struct stat *st, int type,
                                   struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* The same, but for the folder itself. */
static inline int lib_share_clear(const char *path, const struct stat *st, int type,
                                  struct FTW *ftw) {
    return ftw->level ? lib_share_remove(path, st, type, ftw) : 0;
}

static inline void lib_share_put(const struct lib_share *l, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", l->base, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        abort();
    }
    close(fd);
}

static inline void lib_share_fill(struct lib_share *l) {
    char path[256];
    snprintf(path, sizeof(path), "%s/dir/sub", l->base);
    if (mkdir(path, 0755)) {
        abort();
    }
    lib_share_put(l, "dir/a", "content of a");
    lib_share_put(l, "dir/sub/b", "content of b");
    snprintf(path, sizeof(path), "%s/dir/link", l->base);
    if (symlink("../canary", path)) {
        abort();
    }
}

/* The canary is as it was, and nothing is beside it and the folder. */
static inline bool lib_share_sound(const struct lib_share *l) {
    char path[256], text[64] = "";
    struct stat st;
    int entries = 0;
    snprintf(path, sizeof(path), "%s/canary", l->base);
    int fd = open(path, O_RDONLY | O_NOFOLLOW);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    DIR *d = opendir(l->base);
    while (d && readdir(d)) {
        entries++;
    }
    closedir(d);
    return n == (ssize_t)strlen(LIB_SHARE_CANARY) && !strcmp(text, LIB_SHARE_CANARY) &&
           entries == 4 && !stat(l->base, &st) && (st.st_mode & 0777) == 0700;
}

static inline struct lib_share *lib_share_of(struct share_backend *be) {
    return CONTAINER_OF(be, struct lib_share, be);
}

static inline void lib_share_submit(struct share_backend *be, struct share_req *req) {
    struct lib_share *l = lib_share_of(be);
    if (l->queued == ARRAY_LEN(l->queue)) {
        abort(); /* the device promised to bound what is in flight */
    }
    l->queue[l->queued++] = req;
}

/* Runs and answers up to count requests, oldest first; how many. */
static inline u32 lib_share_complete(struct lib_share *l, u32 count) {
    u32 done = 0;
    while (l->queued && done < count) {
        struct share_req *req = l->queue[0];
        memmove(l->queue, l->queue + 1, (--l->queued) * sizeof(l->queue[0]));
        share_run(share_of(l->real), req);
        req->done(req);
        done++;
    }
    return done;
}

static inline void lib_share_drain(struct share_backend *be) {
    while (lib_share_complete(lib_share_of(be), UINT32_MAX)) {
    }
}

static inline void lib_share_save(struct share_backend *be, struct snap_writer *w) {
    lib_share_of(be)->real->ops->save(lib_share_of(be)->real, w);
}

static inline int lib_share_load(struct share_backend *be, struct snap_reader *r) {
    return lib_share_of(be)->real->ops->load(lib_share_of(be)->real, r);
}

static inline void lib_share_close(struct share_backend *be) {
    (void)be; /* the test destroys it */
}

static inline struct lib_share *lib_share_create(bool readonly) {
    static const struct share_backend_ops ops = {.submit = lib_share_submit,
                                                 .drain = lib_share_drain,
                                                 .save = lib_share_save,
                                                 .load = lib_share_load,
                                                 .close = lib_share_close};
    struct lib_share *l = calloc(1, sizeof(*l));
    /* in memory where there is such a place: syncs cost nothing */
    const char *place = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    if (!l) {
        abort();
    }
    l->be.ops = &ops;
    snprintf(l->base, sizeof(l->base), "%s/lib_share.XXXXXX", place);
    if (!mkdtemp(l->base)) {
        abort();
    }
    snprintf(l->dir, sizeof(l->dir), "%s/dir", l->base);
    if (mkdir(l->dir, 0755)) {
        abort();
    }
    lib_share_fill(l);
    lib_share_put(l, "canary", LIB_SHARE_CANARY);
    if (linux_host_create(&l->lh, NULL) || share_open(l->lh, l->dir, readonly, &l->real, NULL)) {
        abort();
    }
    return l;
}

static inline void lib_share_destroy(struct lib_share *l) {
    l->real->ops->close(l->real);
    linux_host_destroy(l->lh);
    nftw(l->base, lib_share_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(l);
}

#endif
