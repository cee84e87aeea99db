/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host that a device shares with the guest. The device (core/virtio/fs.c) knows the
 * wire protocol, the host's service (hosts/linux/share*.c) knows the files and alone is responsible
 * for what can be reached: every number and name in a request comes from a hostile guest.
 *
 * Nodes are files that the guest has been told about; SHARE_ROOT always exists. Each entry given to
 * the guest (`entry` of a result, emit with an entry) adds one to the node's count, SHARE_FORGET
 * takes it back. Handles are open files and directories. Numbers are never used twice.
 *
 * Values that the wire takes over from Linux are Linux's here, too: errno, O_*, S_IF*, SEEK_*,
 * FALLOC_FL_*, RENAME_*, XATTR_*.
 */
#ifndef CORE_IF_SHARE_H
#define CORE_IF_SHARE_H

#include "core/base/snap.h"
#include "core/if/backend.h" /* struct iov */

#define SHARE_ROOT 1ull /* the number of the shared folder's node */

enum {
    SHARE_NAME_MAX = 255,      /* bytes of a name */
    SHARE_TARGET_MAX = 4095,   /* bytes of a symbolic link's content */
    SHARE_XATTR_MAX = 65536,   /* bytes of an extended attribute's value */
    SHARE_COPY_MAX = 16 << 20, /* bytes that one SHARE_COPY does at most */
};

enum share_op {
    SHARE_RESET,     /* forgets every node but the root, closes every handle */
    SHARE_FORGET,    /* forget[] */
    SHARE_LOOKUP,    /* node, name -> entry */
    SHARE_GETATTR,   /* node -> entry.attr */
    SHARE_SETATTR,   /* node, handle, valid, set -> entry.attr */
    SHARE_READLINK,  /* node -> buf, result */
    SHARE_SYMLINK,   /* node, name, name2 (content) -> entry */
    SHARE_MKNOD,     /* node, name, mode -> entry */
    SHARE_MKDIR,     /* node, name, mode -> entry */
    SHARE_UNLINK,    /* node, name */
    SHARE_RMDIR,     /* node, name */
    SHARE_RENAME,    /* node, name, node2, name2, flags */
    SHARE_LINK,      /* node2 gets a further name: node, name -> entry */
    SHARE_OPEN,      /* node, flags -> new_handle */
    SHARE_CREATE,    /* node, name, flags, mode -> entry, new_handle */
    SHARE_READ,      /* handle, offset, iov -> result */
    SHARE_WRITE,     /* handle, offset, iov, append -> result */
    SHARE_RELEASE,   /* handle */
    SHARE_FSYNC,     /* handle, flags: 1 data only */
    SHARE_FALLOCATE, /* handle, offset, length, mode */
    SHARE_LSEEK,     /* handle, offset, flags: SEEK_DATA or SEEK_HOLE -> result */
    SHARE_COPY,      /* handle, offset -> handle2, offset2, length -> result */
    SHARE_OPENDIR,   /* node -> new_handle */
    SHARE_READDIR,   /* handle, offset, length, plus: emit */
    SHARE_STATFS,    /* node -> statfs */
    SHARE_SYNCFS,
    SHARE_SETXATTR,    /* node, name, buf, length, flags */
    SHARE_GETXATTR,    /* node, name, length -> buf, result (0: the size needed) */
    SHARE_LISTXATTR,   /* node, length -> buf, result */
    SHARE_REMOVEXATTR, /* node, name */
};

struct share_time {
    u64 sec; /* since 1970, two's complement */
    u32 nsec;
};

struct share_attr {
    u64 ino, size, blocks; /* blocks of 512 bytes */
    struct share_time atime, mtime, ctime;
    u32 mode, nlink, uid, gid, rdev, blksize; /* rdev as in struct stat of the kernel, 32 bits */
};

struct share_entry {
    u64 node;
    struct share_attr attr;
};

struct share_statfs {
    u64 blocks, bfree, bavail, files, ffree;
    u32 bsize, namelen, frsize;
};

/* What SHARE_SETATTR changes. */
enum {
    SHARE_SET_MODE = 1 << 0,
    SHARE_SET_UID = 1 << 1,
    SHARE_SET_GID = 1 << 2,
    SHARE_SET_SIZE = 1 << 3,
    SHARE_SET_ATIME = 1 << 4,
    SHARE_SET_MTIME = 1 << 5,
    SHARE_SET_HANDLE = 1 << 6,    /* handle names an open file */
    SHARE_SET_ATIME_NOW = 1 << 7, /* with ATIME: the host's time */
    SHARE_SET_MTIME_NOW = 1 << 8,
};

struct share_forget {
    u64 node, count;
};

struct share_dirent {
    const char *name;
    u32 name_len;
    u64 ino;
    u64 offset; /* where the next entry begins */
    u32 type;   /* DT_* */
};

struct share_req {
    enum share_op op;
    u32 uid, gid; /* who asks: the owner of what is made, when the host may do that */
    u64 node, handle, node2, handle2;
    const char *name, *name2; /* NUL-terminated */
    u64 offset, offset2, length;
    u32 flags, mode, valid;
    bool append; /* SHARE_WRITE: at the end of the file, wherever that is now */
    bool plus;   /* SHARE_READDIR: with entries */
    struct share_attr set;
    const struct share_forget *forget;
    u32 forget_count;
    const struct iov *iov; /* guest memory; stays valid until done */
    u32 iov_count;
    u8 *buf; /* value or result; buf_size bytes */
    u32 buf_size;
    /* Takes a directory entry; false when there is no room for it (and it is not taken). entry
     * NULL: without attributes. On the thread that does the request, no lock held. */
    bool (*emit)(struct share_req *req, const struct share_dirent *d, const struct share_entry *e);

    void *space[6]; /* the back end's own, while it has the request */

    int status; /* 0 or a negative errno */
    u64 result, new_handle;
    struct share_entry entry;
    struct share_statfs statfs;
    /* On any thread, no lock held. */
    void (*done)(struct share_req *req);
};

struct share_backend;
struct share_backend_ops {
    void (*submit)(struct share_backend *be, struct share_req *req);
    /* Returns when no request is in flight and every done has returned. No lock held. */
    void (*drain)(struct share_backend *be);
    /* Nodes and handles; nothing is in flight. A file that is not what it was when the state is
     * loaded answers ESTALE from then on. load: 0 or -ERR_FORMAT, then nothing but the root is
     * known. */
    void (*save)(struct share_backend *be, struct snap_writer *w);
    int (*load)(struct share_backend *be, struct snap_reader *r);
    void (*close)(struct share_backend *be);
};

struct share_backend {
    const struct share_backend_ops *ops;
};

#endif
