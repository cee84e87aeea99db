/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the folder sharing service share; see share.c for the whole. */
#ifndef HOSTS_LINUX_SHARE_INT_H
#define HOSTS_LINUX_SHARE_INT_H

#include <sys/stat.h>

#include "core/if/share.h"
#include "hosts/linux/host.h"

enum {
    SHARE_NODES_MAX = 1 << 20,
    SHARE_HANDLES_MAX = 1 << 16,
    SHARE_HANDLE_BUCKETS = 1024,
    SHARE_DEAD_MAX = 32,
    SHARE_DEPTH_MAX = 4096, /* folders inside folders that are opened again one by one */
};

/* A file that the guest knows. Found by number and by (dev, ino) while count is not 0; lives on
 * while refs is not 0: children (they name it as parent), handles, requests. */
struct node {
    u64 id;
    struct node *by_id, *by_ino; /* hash chains */
    struct node *all_next, **all_prev;
    struct node *lru_next, *lru_prev; /* nodes with a descriptor, latest use first */
    u64 dev, ino;
    u32 type;  /* S_IFMT bits: a file never changes them */
    u64 count; /* times that the guest was given it, less what it forgot */
    u32 refs;
    u32 users; /* requests that are using fd */
    bool hashed;
    bool pinned;         /* its name is gone: fd is the only way to it */
    bool stale;          /* it cannot be found any more */
    bool xdev;           /* on another file system than the shared folder */
    int fd;              /* O_PATH, or -1: opened again when it is needed */
    struct node *parent; /* where it was found last, and by which name; NULL: the root */
    char *name;
};

struct handle {
    u64 id;
    struct handle *next; /* hash chain */
    struct node *node;
    u32 refs;
    int fd; /* -1: loaded, not opened yet */
    int flags;
    bool dir, stale, closed;
    pthread_mutex_t lock; /* position of a directory */
};

struct share {
    struct share_backend be;
    struct pool *pool;
    int root; /* O_PATH; also the root node's fd */
    bool readonly;
    int identities; /* 1: what is made can be given to the user who asked; -1: not known yet */

    /* Guards everything below, node and handle fields but fd of a node in use, and inflight. A
     * descriptor that has to be opened again is opened under it; all else is done without. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    u32 inflight;
    struct node *all;
    struct node **by_id, **by_ino;
    u32 buckets, nodes;
    struct node lru; /* head of the ring */
    u32 fds, fds_max;
    int dead[SHARE_DEAD_MAX]; /* to be closed without the lock */
    u32 dead_count;
    struct handle **handle;
    u32 handles, handles_max;
    u64 next_id;
    struct node *root_node;
};

static inline struct share *share_of(struct share_backend *be) {
    return CONTAINER_OF(be, struct share, be);
}

/* --- share_path.c: the boundary --------------------------------------------------------------- */

/* "/proc/self/fd/N": the file itself that a descriptor stands for. */
enum { PROC_NAME_MAX = 32 };
void proc_name(char name[PROC_NAME_MAX], int fd);
/* 0 or -EINVAL, -ENAMETOOLONG: a single component that is not "." or "..". */
int name_check(const char *name);
/* The file of that name in a directory, as O_PATH; symbolic links are files. Fills st. A descriptor
 * or -errno. */
int child_open(struct share *s, int dir, const char *name, struct stat *st);
/* Opens the file of an O_PATH descriptor: regular files and directories, nothing else. */
int file_reopen(int fd, u32 type, int flags);
/* 0, or -ESTALE when the file was moved out of the folder. */
int inside_check(struct share *s, int fd);
/* A file system that shows the kernel's insides. */
bool kernel_window(int fd);
void attr_fill(struct share *s, const struct stat *st, struct share_attr *out);

/* --- share_node.c; those marked L want the lock held -------------------------------------------
 */

/* The last close of a file that was removed frees its blocks, which takes a while: it is put off
 * until the lock is released. */
void share_bury(struct share *s, int fd); /* L */
void share_unlock(struct share *s);

int nodes_init(struct share *s, u64 dev, u64 ino);
void nodes_fini(struct share *s);
void nodes_forget_all(struct share *s); /* L: what no request uses goes at once */
/* A node by number with one more user of its descriptor; -errno when unknown or gone. */
int node_use(struct share *s, u64 id, struct node **out);
int node_use_dir(struct share *s, u64 id, struct node **out); /* -ENOTDIR for what is none */
int node_use_locked(struct share *s, struct node *n);         /* L */
void node_done(struct share *s, struct node *n);              /* NULL: nothing */
void node_done_locked(struct share *s, struct node *n);       /* L */
/* Takes fd over: gives the guest the node for it (new or known) in entry. 0 or -errno. */
int node_give(struct share *s, struct node *parent, const char *name, int fd, const struct stat *st,
              struct share_entry *entry);
void node_forget(struct share *s, u64 id, u64 count);
/* The name is about to go: keeps the way to a file that the guest knows. */
void node_unnamed(struct share *s, struct node *dir, const char *name);
void node_renamed(struct share *s, const struct stat *st, struct node *dir, const char *name);
struct node *node_find(struct share *s, u64 id);                            /* L */
struct node *node_new(struct share *s, u64 id, u64 dev, u64 ino, u32 type); /* L */
void node_hash(struct share *s, struct node *n);                            /* L */
void node_unref(struct share *s, struct node *n);                           /* L */

/* --- share_handle.c -----------------------------------------------------------------------------
 */

int handles_init(struct share *s);
void handles_fini(struct share *s);
void handles_close_all(struct share *s); /* L */
/* Takes fd over. 0 or -errno. */
int handle_add(struct share *s, struct node *n, int fd, int flags, bool dir, u64 *id);
int handle_use(struct share *s, u64 id, bool dir, struct handle **out);
void handle_done(struct share *s, struct handle *h);
int handle_release(struct share *s, u64 id);
struct handle *handle_new(struct share *s, u64 id, struct node *n, int fd, int flags,
                          bool dir); /* L */

/* share.c: does a request on the calling thread. */
void share_run(struct share *s, struct share_req *r);

/* --- requests: 0 or -errno ----------------------------------------------------------------------
 */

/* share_dir.c */
int share_lookup(struct share *s, struct share_req *r);
int share_symlink(struct share *s, struct share_req *r);
int share_mknod(struct share *s, struct share_req *r);
int share_mkdir(struct share *s, struct share_req *r);
int share_unlink(struct share *s, struct share_req *r);
int share_rename(struct share *s, struct share_req *r);
int share_link(struct share *s, struct share_req *r);
int share_create(struct share *s, struct share_req *r);
int share_opendir(struct share *s, struct share_req *r);
int share_readdir(struct share *s, struct share_req *r);
/* share_file.c */
int share_open_file(struct share *s, struct share_req *r);
int share_read(struct share *s, struct share_req *r);
int share_write(struct share *s, struct share_req *r);
int share_fsync(struct share *s, struct share_req *r);
int share_fallocate(struct share *s, struct share_req *r);
int share_lseek(struct share *s, struct share_req *r);
int share_copy(struct share *s, struct share_req *r);
int share_syncfs(struct share *s, struct share_req *r);
/* share_attr.c */
int share_getattr(struct share *s, struct share_req *r);
int share_setattr(struct share *s, struct share_req *r);
int share_readlink(struct share *s, struct share_req *r);
int share_statfs(struct share *s, struct share_req *r);
int share_setxattr(struct share *s, struct share_req *r);
int share_getxattr(struct share *s, struct share_req *r);
int share_listxattr(struct share *s, struct share_req *r);
int share_removexattr(struct share *s, struct share_req *r);
/* share_file.c: what of a guest's O_* the host opens a file with. */
int open_flags(int guest_flags);
/* Set-user-ID and set-group-ID do not survive that the guest may change a file. */
void drop_privilege_bits(int fd);
/* share_snap.c */
void share_save(struct share_backend *be, struct snap_writer *w);
int share_load(struct share_backend *be, struct snap_reader *r);

#endif
