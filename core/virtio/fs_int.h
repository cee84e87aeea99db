/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the virtio file system device share; see fs.c. */
#ifndef CORE_VIRTIO_FS_INT_H
#define CORE_VIRTIO_FS_INT_H

#include "core/virtio/fs.h"
#include "core/virtio/fuse_wire.h"

enum {
    FS_REQUESTS = 64,
    FS_QUEUE_SIZE = 256,
    FS_QUEUES = 2,                      /* high priority, requests */
    FS_PAGES_MAX = 240,                 /* of one transfer: a chain holds them and its headers */
    FS_IO_MAX = FS_PAGES_MAX * 4096,    /* bytes of one read or write */
    FS_IN_MAX = SHARE_XATTR_MAX + 1024, /* what follows a request's header, but for data */
    FS_OUT_MAX = SHARE_XATTR_MAX,       /* what follows a reply's header, but for data */
    FS_VALID_SECONDS = 1,               /* that the guest may trust names and attributes */
};

/* The errno values of Linux that this device itself gives. */
enum {
    FS_EIO = 5,
    FS_EINVAL = 22,
    FS_ERANGE = 34,
    FS_ENAMETOOLONG = 36,
    FS_ENOSYS = 38,
    FS_EPROTO = 71,
};

enum fs_reply {
    REPLY_STATUS, /* the header alone */
    REPLY_NONE,   /* not even that */
    REPLY_ENTRY,
    REPLY_ATTR,
    REPLY_OPEN,
    REPLY_CREATE,
    REPLY_DATA, /* in guest memory already */
    REPLY_WRITE,
    REPLY_STATFS,
    REPLY_BUFFER, /* req.result bytes of `out` */
    REPLY_XATTR,  /* the same, or the size */
    REPLY_DIR,    /* out_len bytes of `out` */
    REPLY_LSEEK,
    REPLY_INIT,
};

struct virtio_fs;

struct fs_request {
    struct share_req req;
    struct virtio_fs *fs;
    struct fs_request *next; /* free list */
    u32 epoch;
    u32 queue;
    struct fuse_in_header header;
    enum fs_reply reply;
    u32 in_len;  /* bytes in `in` */
    u32 out_len; /* bytes in `out` */
    u32 out_cap; /* bytes that REPLY_DIR may fill */
    struct vq_chain chain;
    struct iov data[VQ_SEGS_MAX]; /* of a read or write */
    u64 data_gpa[VQ_SEGS_MAX];
    u32 data_count;
    u8 in[FS_IN_MAX] ALIGNED(8);
    u8 out[FS_OUT_MAX] ALIGNED(8);
};

struct virtio_fs {
    struct virtio_device vdev;
    struct share_backend *be;
    bool started; /* INIT was answered */
    u32 minor;    /* of the protocol, then */
    u32 init_flags;
    bool starved;            /* a queue was left with work for want of a free request */
    struct fs_request *pool; /* FS_REQUESTS of them */
    struct fs_request *free;
};

/* fs_decode.c: what the guest sent (r->header, r->in) to r->req and r->reply. 0: submit it;
 * negative errno: answer that. */
int fs_decode(struct fs_request *r);

/* fs_encode.c: the result to r->out; returns the bytes of the reply behind its header. For
 * REPLY_DIR, fs_emit has filled it while the request was on its way. */
u32 fs_encode(struct fs_request *r);
bool fs_emit(struct share_req *req, const struct share_dirent *d, const struct share_entry *e);

#endif
