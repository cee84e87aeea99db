/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host, shared with a guest: the service behind core/virtio/fs.c.
 *
 *   fs.c -> submit -> pool of threads -> share_dir, share_file, share_attr -> done -> fs.c
 *                                            |              |
 *                                        share_node     share_handle      what the guest knows, has
 * open
 *                                            |
 *                                        share_path                       what can be reached at
 * all
 *
 * The threads have no umask (the guest's kernel has applied its own) and take no signals. Requests
 * run side by side and in any order, as a file server's do. Lock rule: see share_int.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/share_int.h"

_Static_assert(sizeof(struct iov) == sizeof(struct iovec) &&
                   offsetof(struct iov, len) == offsetof(struct iovec, iov_len),
               "struct iov is struct iovec");

/* A request on its way to a thread; lives in share_req.space. */
struct share_job {
    struct pool_job job;
    struct share *s;
    struct share_req *req;
};
_Static_assert(sizeof(struct share_job) <= sizeof(((struct share_req *)0)->space), "it fits");

/* --- requests
 * ------------------------------------------------------------------------------------- */

static int share_reset(struct share *s, struct share_req *r UNUSED) {
    pthread_mutex_lock(&s->lock);
    handles_close_all(s);
    nodes_forget_all(s);
    share_unlock(s);
    return 0;
}

static int share_forget(struct share *s, struct share_req *r) {
    for (u32 i = 0; i < r->forget_count; i++) {
        node_forget(s, r->forget[i].node, r->forget[i].count);
    }
    return 0;
}

static int share_release(struct share *s, struct share_req *r) {
    return handle_release(s, r->handle);
}

static int (*const calls[])(struct share *s, struct share_req *r) = {
    [SHARE_RESET] = share_reset,         [SHARE_FORGET] = share_forget,
    [SHARE_LOOKUP] = share_lookup,       [SHARE_GETATTR] = share_getattr,
    [SHARE_SETATTR] = share_setattr,     [SHARE_READLINK] = share_readlink,
    [SHARE_SYMLINK] = share_symlink,     [SHARE_MKNOD] = share_mknod,
    [SHARE_MKDIR] = share_mkdir,         [SHARE_UNLINK] = share_unlink,
    [SHARE_RMDIR] = share_unlink,        [SHARE_RENAME] = share_rename,
    [SHARE_LINK] = share_link,           [SHARE_OPEN] = share_open_file,
    [SHARE_CREATE] = share_create,       [SHARE_READ] = share_read,
    [SHARE_WRITE] = share_write,         [SHARE_RELEASE] = share_release,
    [SHARE_FSYNC] = share_fsync,         [SHARE_FALLOCATE] = share_fallocate,
    [SHARE_LSEEK] = share_lseek,         [SHARE_COPY] = share_copy,
    [SHARE_OPENDIR] = share_opendir,     [SHARE_READDIR] = share_readdir,
    [SHARE_STATFS] = share_statfs,       [SHARE_SYNCFS] = share_syncfs,
    [SHARE_SETXATTR] = share_setxattr,   [SHARE_GETXATTR] = share_getxattr,
    [SHARE_LISTXATTR] = share_listxattr, [SHARE_REMOVEXATTR] = share_removexattr,
};

void share_run(struct share *s, struct share_req *r) {
    bool known = (u32)r->op < ARRAY_LEN(calls) && calls[r->op];
    r->status = known ? calls[r->op](s, r) : -ENOSYS;
}

static void job_run(struct pool_job *job) {
    struct share_job *j = CONTAINER_OF(job, struct share_job, job);
    struct share *s = j->s;
    struct share_req *r = j->req;
    share_run(s, r);
    r->done(r);
    pthread_mutex_lock(&s->lock);
    if (!--s->inflight) {
        pthread_cond_broadcast(&s->idle);
    }
    share_unlock(s);
}

/* There are threads since share_open, so that this cannot fail. */
static void share_submit(struct share_backend *be, struct share_req *req) {
    struct share *s = share_of(be);
    struct share_job *j = (struct share_job *)(void *)req->space;
    *j = (struct share_job){.job.fn = job_run, .s = s, .req = req};
    pthread_mutex_lock(&s->lock);
    s->inflight++;
    share_unlock(s);
    pool_submit(s->pool, &j->job);
}

static void share_drain(struct share_backend *be) {
    struct share *s = share_of(be);
    pthread_mutex_lock(&s->lock);
    while (s->inflight) {
        pthread_cond_wait(&s->idle, &s->lock);
    }
    share_unlock(s);
}

/* --- life
 * -------------------------------------------------------------------------------------------- */

static void share_free(struct share *s) {
    pool_destroy(s->pool);
    pthread_mutex_lock(&s->lock);
    if (s->handle) {
        handles_close_all(s);
    }
    if (s->by_id) {
        nodes_fini(s);
    }
    share_unlock(s);
    handles_fini(s);
    if (s->root >= 0) {
        close(s->root);
    }
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void share_close(struct share_backend *be) {
    share_drain(be);
    share_free(share_of(be));
}

static const struct share_backend_ops share_ops = {
    .submit = share_submit,
    .drain = share_drain,
    .save = share_save,
    .load = share_load,
    .close = share_close,
};

/* A thread's own working directory and umask, so that the umask can go; behind the fence it is too
 * late for that. */
static void thread_begin(void) {
    if (!unshare(CLONE_FS)) {
        umask(0);
    }
}

/* Descriptors for this folder: a part of what the process may have, which is raised as far as that
 * goes without privileges. */
static void limits_set(struct share *s) {
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};
    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    u64 files = MIN((u64)limit.rlim_cur, (u64)SHARE_NODES_MAX);
    s->fds_max = (u32)MAX(files / 8, 64);
    s->handles_max = (u32)MIN(MAX(files / 8, 64), (u64)SHARE_HANDLES_MAX);
}

static bool beneath_supported(int dir) {
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
    long fd = syscall(SYS_openat2, dir, ".", &how, sizeof(how));
    if (fd >= 0) {
        close((int)fd);
    }
    return fd >= 0;
}

static int root_open(struct share *s, const char *path, struct err *err) {
    struct stat st;
    s->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->root < 0 || fstatat(s->root, "", &st, AT_EMPTY_PATH)) {
        enum err_code code = errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_PERM;
        return ERR_SET(err, code, "--share %s: %s", path, strerror(errno));
    }
    if (kernel_window(s->root)) {
        return ERR_SET(err, ERR_PERM, "--share %s: the kernel's own files are not shared", path);
    }
    int want = s->readonly ? R_OK | X_OK : R_OK | W_OK | X_OK;
    if (faccessat(AT_FDCWD, path, want, AT_EACCESS)) {
        return ERR_SET(err, ERR_PERM, "--share %s: %s%s", path, strerror(errno),
                       s->readonly ? "" : "; with readonly it may be shared for reading");
    }
    if (!beneath_supported(s->root) || access("/proc/self/fd", X_OK)) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "--share %s: needs Linux 5.8 or later (openat2) and /proc", path);
    }
    return handles_init(s) || nodes_init(s, st.st_dev, st.st_ino)
               ? ERR_SET(err, ERR_NOMEM, "--share %s: out of memory", path)
               : 0;
}

int share_open(struct linux_host *lh, const char *path, bool readonly, struct share_backend **out,
               struct err *err) {
    struct share *s = calloc(1, sizeof(*s));
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "--share %s: out of memory", path);
    }
    *s = (struct share){.be.ops = &share_ops, .root = -1, .readonly = readonly, .identities = -1};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    limits_set(s);
    s->pool = pool_create_started(lh, thread_begin);
    int rc =
        s->pool ? root_open(s, path, err) : ERR_SET(err, ERR_NOMEM, "--share %s: no threads", path);
    if (!rc && linux_fence_path(lh, path, readonly ? FENCE_READ : FENCE_READ | FENCE_WRITE)) {
        rc = ERR_SET(err, ERR_NOMEM, "--share %s: out of memory", path);
    }
    if (rc) {
        share_free(s);
        return rc;
    }
    *out = &s->be;
    return 0;
}
