/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies of FUSE: from a finished struct share_req to bytes. Lock rule: none; a request is touched
 * by one thread at a time.
 */
#include "core/virtio/fs_int.h"

static struct fuse_attr attr_of(const struct share_attr *a) {
    return (struct fuse_attr){.ino = a->ino,
                              .size = a->size,
                              .blocks = a->blocks,
                              .atime = a->atime.sec,
                              .mtime = a->mtime.sec,
                              .ctime = a->ctime.sec,
                              .atimensec = a->atime.nsec,
                              .mtimensec = a->mtime.nsec,
                              .ctimensec = a->ctime.nsec,
                              .mode = a->mode,
                              .nlink = a->nlink,
                              .uid = a->uid,
                              .gid = a->gid,
                              .rdev = a->rdev,
                              .blksize = a->blksize};
}

static struct fuse_entry_out entry_of(const struct share_entry *e) {
    return (struct fuse_entry_out){.nodeid = e->node,
                                   .entry_valid = FS_VALID_SECONDS,
                                   .attr_valid = FS_VALID_SECONDS,
                                   .attr = attr_of(&e->attr)};
}

bool fs_emit(struct share_req *req, const struct share_dirent *d, const struct share_entry *e) {
    struct fs_request *r = CONTAINER_OF(req, struct fs_request, req);
    u32 front = req->plus ? sizeof(struct fuse_entry_out) : 0;
    u32 size = front + (u32)ALIGN_UP(sizeof(struct fuse_dirent) + d->name_len, 8ull);
    struct fuse_dirent out = {
        .ino = d->ino, .off = d->offset, .namelen = d->name_len, .type = d->type};
    if (d->name_len > SHARE_NAME_MAX || size > r->out_cap - r->out_len) {
        return false;
    }
    u8 *at = r->out + r->out_len;
    memset(at, 0, size);
    if (front && e) {
        struct fuse_entry_out entry = entry_of(e);
        memcpy(at, &entry, sizeof(entry));
    }
    memcpy(at + front, &out, sizeof(out));
    memcpy(at + front + sizeof(out), d->name, d->name_len);
    r->out_len += size;
    return true;
}

static u32 put(struct fs_request *r, u32 at, const void *data, u32 size) {
    memcpy(r->out + at, data, size);
    return at + size;
}

static u32 put_entry(struct fs_request *r) {
    struct fuse_entry_out e = entry_of(&r->req.entry);
    return put(r, 0, &e, sizeof(e));
}

static u32 put_open(struct fs_request *r, u32 at) {
    struct fuse_open_out o = {.fh = r->req.new_handle};
    return put(r, at, &o, sizeof(o));
}

static u32 put_attr(struct fs_request *r) {
    struct fuse_attr_out a = {.attr_valid = FS_VALID_SECONDS, .attr = attr_of(&r->req.entry.attr)};
    return put(r, 0, &a, sizeof(a));
}

static u32 put_write(struct fs_request *r) {
    struct fuse_write_out w = {.size = (u32)r->req.result};
    return put(r, 0, &w, sizeof(w));
}

static u32 put_statfs(struct fs_request *r) {
    const struct share_statfs *s = &r->req.statfs;
    struct fuse_statfs_out o = {.blocks = s->blocks,
                                .bfree = s->bfree,
                                .bavail = s->bavail,
                                .files = s->files,
                                .ffree = s->ffree,
                                .bsize = s->bsize,
                                .namelen = s->namelen,
                                .frsize = s->frsize};
    return put(r, 0, &o, sizeof(o));
}

/* Asked with size 0 for how much there is, else for the value itself. */
static u32 put_xattr(struct fs_request *r) {
    struct fuse_getxattr_out o = {.size = (u32)r->req.result};
    return r->req.length ? (u32)MIN(r->req.result, (u64)r->req.buf_size) : put(r, 0, &o, sizeof(o));
}

static u32 put_init(struct fs_request *r) {
    struct fuse_init_out o = {.major = FUSE_MAJOR,
                              .minor = r->fs->minor,
                              .max_readahead = (u32)MIN(r->req.length, (u64)FS_IO_MAX),
                              .flags = r->fs->init_flags,
                              .max_background = FS_REQUESTS,
                              .congestion_threshold = FS_REQUESTS / 4 * 3,
                              .max_write = FS_IO_MAX,
                              .time_gran = 1,
                              .max_pages = FS_PAGES_MAX};
    return put(r, 0, &o, sizeof(o));
}

u32 fs_encode(struct fs_request *r) {
    switch (r->reply) {
    case REPLY_ENTRY:
        return put_entry(r);
    case REPLY_CREATE:
        return put_open(r, put_entry(r));
    case REPLY_ATTR:
        return put_attr(r);
    case REPLY_OPEN:
        return put_open(r, 0);
    case REPLY_WRITE:
        return put_write(r);
    case REPLY_STATFS:
        return put_statfs(r);
    case REPLY_BUFFER:
        return (u32)MIN(r->req.result, (u64)r->req.buf_size);
    case REPLY_XATTR:
        return put_xattr(r);
    case REPLY_DIR:
        return r->out_len;
    case REPLY_LSEEK:
        return put(r, 0, &r->req.result, sizeof(r->req.result));
    case REPLY_INIT:
        return put_init(r);
    default:
        return 0;
    }
}
