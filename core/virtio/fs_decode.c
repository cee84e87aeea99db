/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of FUSE: from bytes that a hostile guest wrote to struct share_req. Each opcode has a
 * row that says how long its arguments are, how many names follow and what is answered; a function
 * fills in the rest. Everything is parsed from a copy (r->in) but for data of reads and writes,
 * which goes between guest memory and file without looking at it. Names end with a zero byte inside
 * the copy.
 *
 * Left out: locks (the guest keeps them among its own processes), ioctl, poll, bmap, DAX mappings.
 * These answer ENOSYS, and Linux does not ask again. FLUSH does so, too: data is with the host once
 * a write was answered. Lock rule: board lock held.
 */
#include "core/virtio/fs_int.h"

enum { O_APPEND_BIT = 02000 };

struct decoder {
    u8 op;       /* enum share_op */
    u8 reply;    /* enum fs_reply */
    u8 arg_size; /* bytes in front of names */
    u8 names;    /* 0..2 */
    int (*fn)(struct fs_request *r, const void *arg);
    bool known;
};

static u64 reply_room(const struct fs_request *r) {
    return r->chain.in_len - sizeof(struct fuse_out_header);
}

static int decode_mode(struct fs_request *r, const void *arg) {
    const struct fuse_mkdir_in *in = arg; /* MKNOD begins with its mode as well */
    r->req.mode = in->mode;
    return 0;
}

static int decode_forget(struct fs_request *r, const void *arg) {
    const struct fuse_forget_in *in = arg;
    struct share_forget *f = (struct share_forget *)(void *)r->out;
    *f = (struct share_forget){.node = r->header.nodeid, .count = in->nlookup};
    r->req.forget = f;
    r->req.forget_count = 1;
    return 0;
}

/* struct fuse_forget_one is struct share_forget. */
static int decode_batch_forget(struct fs_request *r, const void *arg) {
    const struct fuse_batch_forget_in *in = arg;
    u32 fit = (r->in_len - (u32)sizeof(*in)) / (u32)sizeof(struct share_forget);
    r->req.forget = (const struct share_forget *)(const void *)(r->in + sizeof(*in));
    r->req.forget_count = MIN(in->count, fit);
    return 0;
}

static int decode_getattr(struct fs_request *r, const void *arg) {
    const struct fuse_getattr_in *in = arg;
    r->req.handle = in->fh;
    r->req.valid = in->flags & FUSE_GETATTR_FH ? SHARE_SET_HANDLE : 0;
    return 0;
}

_Static_assert((int)SHARE_SET_MODE == (int)FUSE_FATTR_MODE &&
                   (int)SHARE_SET_UID == (int)FUSE_FATTR_UID &&
                   (int)SHARE_SET_GID == (int)FUSE_FATTR_GID &&
                   (int)SHARE_SET_SIZE == (int)FUSE_FATTR_SIZE &&
                   (int)SHARE_SET_ATIME == (int)FUSE_FATTR_ATIME &&
                   (int)SHARE_SET_MTIME == (int)FUSE_FATTR_MTIME &&
                   (int)SHARE_SET_HANDLE == (int)FUSE_FATTR_FH &&
                   (int)SHARE_SET_ATIME_NOW == (int)FUSE_FATTR_ATIME_NOW &&
                   (int)SHARE_SET_MTIME_NOW == (int)FUSE_FATTR_MTIME_NOW,
               "the same bits");

static int decode_setattr(struct fs_request *r, const void *arg) {
    const struct fuse_setattr_in *in = arg;
    r->req.handle = in->fh;
    r->req.valid = in->valid & 0x1ff;
    r->req.set = (struct share_attr){.size = in->size,
                                     .atime = {in->atime, in->atimensec},
                                     .mtime = {in->mtime, in->mtimensec},
                                     .mode = in->mode,
                                     .uid = in->uid,
                                     .gid = in->gid};
    return 0;
}

static int decode_rename(struct fs_request *r, const void *arg) {
    const struct fuse_rename_in *in = arg;
    r->req.node2 = in->newdir;
    return 0;
}

static int decode_rename2(struct fs_request *r, const void *arg) {
    const struct fuse_rename2_in *in = arg;
    r->req.node2 = in->newdir;
    r->req.flags = in->flags;
    return 0;
}

static int decode_link(struct fs_request *r, const void *arg) {
    const struct fuse_link_in *in = arg;
    r->req.node2 = in->oldnodeid;
    return 0;
}

static int decode_open(struct fs_request *r, const void *arg) {
    const struct fuse_open_in *in = arg;
    r->req.flags = in->flags;
    return 0;
}

static int decode_create(struct fs_request *r, const void *arg) {
    const struct fuse_create_in *in = arg;
    r->req.flags = in->flags;
    r->req.mode = in->mode;
    return 0;
}

static int decode_release(struct fs_request *r, const void *arg) {
    const struct fuse_release_in *in = arg;
    r->req.handle = in->fh;
    return 0;
}

static int decode_fsync(struct fs_request *r, const void *arg) {
    const struct fuse_fsync_in *in = arg;
    r->req.handle = in->fh;
    r->req.flags = in->flags & 1;
    return 0;
}

static int decode_read(struct fs_request *r, const void *arg) {
    const struct fuse_rw_in *in = arg;
    if (in->size > FS_IO_MAX || in->size > reply_room(r)) {
        return -FS_EINVAL;
    }
    r->req.handle = in->fh;
    r->req.offset = in->offset;
    r->data_count =
        vq_chain_in(&r->chain, sizeof(struct fuse_out_header), in->size, r->data, r->data_gpa);
    r->req.iov = r->data;
    r->req.iov_count = r->data_count;
    return 0;
}

static int decode_write(struct fs_request *r, const void *arg) {
    const struct fuse_rw_in *in = arg;
    u64 at = sizeof(struct fuse_in_header) + sizeof(*in);
    if (in->size > FS_IO_MAX || in->size > r->chain.out_len - at) {
        return -FS_EINVAL;
    }
    r->req.handle = in->fh;
    r->req.offset = in->offset;
    r->req.append = (in->flags & O_APPEND_BIT) && !(in->rw_flags & FUSE_WRITE_CACHE);
    r->req.iov = r->data;
    r->req.iov_count = vq_chain_out(&r->chain, at, in->size, r->data);
    return 0;
}

static int decode_readdir(struct fs_request *r, const void *arg) {
    const struct fuse_rw_in *in = arg;
    r->req.handle = in->fh;
    r->req.offset = in->offset;
    r->req.plus = r->header.opcode == FUSE_READDIRPLUS;
    r->out_cap = (u32)MIN((u64)MIN(in->size, (u32)FS_OUT_MAX), reply_room(r));
    r->req.length = r->out_cap;
    r->req.emit = fs_emit;
    return 0;
}

static int decode_readlink(struct fs_request *r, const void *arg UNUSED) {
    r->req.buf = r->out;
    r->req.buf_size = (u32)MIN((u64)SHARE_TARGET_MAX, reply_room(r));
    return 0;
}

static int decode_setxattr(struct fs_request *r, const void *arg) {
    const struct fuse_setxattr_in *in = arg;
    u32 at = (u32)((const u8 *)r->req.name - r->in);
    while (r->in[at]) { /* there is a zero byte: the name was found */
        at++;
    }
    at++;
    if (in->size > SHARE_XATTR_MAX || in->size > r->in_len - at) {
        return -FS_EINVAL;
    }
    r->req.buf = r->in + at;
    r->req.buf_size = in->size;
    r->req.length = in->size;
    r->req.flags = in->flags;
    return 0;
}

static int decode_getxattr(struct fs_request *r, const void *arg) {
    const struct fuse_getxattr_in *in = arg;
    if (in->size > reply_room(r)) {
        return -FS_EINVAL;
    }
    r->req.buf = r->out;
    r->req.buf_size = MIN(in->size, (u32)FS_OUT_MAX);
    r->req.length = r->req.buf_size;
    return 0;
}

static int decode_fallocate(struct fs_request *r, const void *arg) {
    const struct fuse_fallocate_in *in = arg;
    r->req.handle = in->fh;
    r->req.offset = in->offset;
    r->req.length = in->length;
    r->req.mode = in->mode;
    return 0;
}

static int decode_lseek(struct fs_request *r, const void *arg) {
    const struct fuse_lseek_in *in = arg;
    r->req.handle = in->fh;
    r->req.offset = in->offset;
    r->req.flags = in->whence;
    return 0;
}

static int decode_copy(struct fs_request *r, const void *arg) {
    const struct fuse_copy_in *in = arg;
    r->req.handle = in->fh_in;
    r->req.offset = in->off_in;
    r->req.handle2 = in->fh_out;
    r->req.offset2 = in->off_out;
    r->req.length = MIN(in->len, (u64)SHARE_COPY_MAX);
    return in->flags ? -FS_EINVAL : 0;
}

static int decode_init(struct fs_request *r, const void *arg) {
    const struct fuse_init_in *in = arg;
    const u32 offered = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |
                        FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                        FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                        FUSE_HANDLE_KILLPRIV_V2;
    if (in->major < FUSE_MAJOR || (in->major == FUSE_MAJOR && in->minor < FUSE_MINOR_MIN)) {
        return -FS_EPROTO;
    }
    /* a later major version: it shall ask again with ours */
    r->fs->minor = in->major > FUSE_MAJOR ? FUSE_MINOR : MIN(in->minor, (u32)FUSE_MINOR);
    r->fs->init_flags = in->flags & offered;
    r->req.length = in->max_readahead;
    return 0;
}

#define ROW(op, reply, args, names, fn)                                                            \
    { SHARE_##op, REPLY_##reply, args, names, fn, true }

static const struct decoder decoders[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = ROW(LOOKUP, ENTRY, 0, 1, NULL),
    [FUSE_FORGET] = ROW(FORGET, NONE, sizeof(struct fuse_forget_in), 0, decode_forget),
    [FUSE_GETATTR] = ROW(GETATTR, ATTR, sizeof(struct fuse_getattr_in), 0, decode_getattr),
    [FUSE_SETATTR] = ROW(SETATTR, ATTR, sizeof(struct fuse_setattr_in), 0, decode_setattr),
    [FUSE_READLINK] = ROW(READLINK, BUFFER, 0, 0, decode_readlink),
    [FUSE_SYMLINK] = ROW(SYMLINK, ENTRY, 0, 2, NULL),
    [FUSE_MKNOD] = ROW(MKNOD, ENTRY, sizeof(struct fuse_mknod_in), 1, decode_mode),
    [FUSE_MKDIR] = ROW(MKDIR, ENTRY, sizeof(struct fuse_mkdir_in), 1, decode_mode),
    [FUSE_UNLINK] = ROW(UNLINK, STATUS, 0, 1, NULL),
    [FUSE_RMDIR] = ROW(RMDIR, STATUS, 0, 1, NULL),
    [FUSE_RENAME] = ROW(RENAME, STATUS, sizeof(struct fuse_rename_in), 2, decode_rename),
    [FUSE_RENAME2] = ROW(RENAME, STATUS, sizeof(struct fuse_rename2_in), 2, decode_rename2),
    [FUSE_LINK] = ROW(LINK, ENTRY, sizeof(struct fuse_link_in), 1, decode_link),
    [FUSE_OPEN] = ROW(OPEN, OPEN, sizeof(struct fuse_open_in), 0, decode_open),
    [FUSE_CREATE] = ROW(CREATE, CREATE, sizeof(struct fuse_create_in), 1, decode_create),
    [FUSE_READ] = ROW(READ, DATA, sizeof(struct fuse_rw_in), 0, decode_read),
    [FUSE_WRITE] = ROW(WRITE, WRITE, sizeof(struct fuse_rw_in), 0, decode_write),
    [FUSE_STATFS] = ROW(STATFS, STATFS, 0, 0, NULL),
    [FUSE_RELEASE] = ROW(RELEASE, STATUS, sizeof(struct fuse_release_in), 0, decode_release),
    [FUSE_RELEASEDIR] = ROW(RELEASE, STATUS, sizeof(struct fuse_release_in), 0, decode_release),
    [FUSE_FSYNC] = ROW(FSYNC, STATUS, sizeof(struct fuse_fsync_in), 0, decode_fsync),
    [FUSE_FSYNCDIR] = ROW(FSYNC, STATUS, sizeof(struct fuse_fsync_in), 0, decode_fsync),
    [FUSE_SETXATTR] = ROW(SETXATTR, STATUS, sizeof(struct fuse_setxattr_in), 1, decode_setxattr),
    [FUSE_GETXATTR] = ROW(GETXATTR, XATTR, sizeof(struct fuse_getxattr_in), 1, decode_getxattr),
    [FUSE_LISTXATTR] = ROW(LISTXATTR, XATTR, sizeof(struct fuse_getxattr_in), 0, decode_getxattr),
    [FUSE_REMOVEXATTR] = ROW(REMOVEXATTR, STATUS, 0, 1, NULL),
    [FUSE_INIT] = ROW(RESET, INIT, sizeof(struct fuse_init_in), 0, decode_init),
    [FUSE_DESTROY] = ROW(RESET, STATUS, 0, 0, NULL),
    [FUSE_OPENDIR] = ROW(OPENDIR, OPEN, sizeof(struct fuse_open_in), 0, NULL),
    [FUSE_READDIR] = ROW(READDIR, DIR, sizeof(struct fuse_rw_in), 0, decode_readdir),
    [FUSE_READDIRPLUS] = ROW(READDIR, DIR, sizeof(struct fuse_rw_in), 0, decode_readdir),
    [FUSE_BATCH_FORGET] =
        ROW(FORGET, NONE, sizeof(struct fuse_batch_forget_in), 0, decode_batch_forget),
    [FUSE_FALLOCATE] =
        ROW(FALLOCATE, STATUS, sizeof(struct fuse_fallocate_in), 0, decode_fallocate),
    [FUSE_LSEEK] = ROW(LSEEK, LSEEK, sizeof(struct fuse_lseek_in), 0, decode_lseek),
    [FUSE_COPY_FILE_RANGE] = ROW(COPY, WRITE, sizeof(struct fuse_copy_in), 0, decode_copy),
    [FUSE_SYNCFS] = ROW(SYNCFS, STATUS, 0, 0, NULL),
};

/* The string at r->in + *at; moves *at behind it. */
static int take_name(struct fs_request *r, u32 *at, u32 max, const char **name) {
    u32 begin = *at;
    while (*at < r->in_len && r->in[*at]) {
        ++*at;
    }
    if (*at == r->in_len) {
        return -FS_EINVAL;
    }
    *name = (const char *)r->in + begin;
    u32 len = (*at)++ - begin;
    return len > max ? -FS_ENAMETOOLONG : 0;
}

static int take_names(struct fs_request *r, const struct decoder *d) {
    u32 at = d->arg_size;
    int rc = 0;
    if (d->names > 0) {
        rc = take_name(r, &at, SHARE_NAME_MAX, &r->req.name);
    }
    if (!rc && d->names > 1) {
        u32 max = d->op == SHARE_SYMLINK ? SHARE_TARGET_MAX : SHARE_NAME_MAX;
        rc = take_name(r, &at, max, &r->req.name2);
    }
    return rc;
}

int fs_decode(struct fs_request *r) {
    const struct fuse_in_header *h = &r->header;
    const struct decoder *d = h->opcode < FUSE_OPCODES ? &decoders[h->opcode] : &decoders[0];
    r->req = (struct share_req){.uid = h->uid, .gid = h->gid, .node = h->nodeid};
    r->out_len = r->out_cap = r->data_count = 0;
    r->reply = d->known ? (enum fs_reply)d->reply : REPLY_STATUS;
    if (h->opcode == FUSE_INTERRUPT) { /* it has no reply of its own; requests run to their end */
        r->reply = REPLY_NONE;
        return -FS_ENOSYS;
    }
    if (!d->known) {
        return -FS_ENOSYS;
    }
    if (!r->fs->started && h->opcode != FUSE_INIT) {
        return -FS_EIO;
    }
    if (r->reply != REPLY_NONE && r->chain.in_len < sizeof(struct fuse_out_header)) {
        return -FS_EINVAL;
    }
    if (r->in_len < d->arg_size) {
        return -FS_EINVAL;
    }
    r->req.op = (enum share_op)d->op;
    int rc = take_names(r, d);
    return !rc && d->fn ? d->fn(r, r->in) : rc;
}
