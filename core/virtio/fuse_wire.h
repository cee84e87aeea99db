/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of FUSE 7.31 and later, as far as a virtio file system device meets them: Linux
 * include/uapi/linux/fuse.h describes them; tests/unit/virtio_fs_test.c compares the layouts with
 * it. Everything is little-endian, which is what both sides are.
 *
 *   request: fuse_in_header | arguments | names or data
 *   reply:   fuse_out_header | result | data
 */
#ifndef CORE_VIRTIO_FUSE_WIRE_H
#define CORE_VIRTIO_FUSE_WIRE_H

#include "core/base/types.h"

enum { FUSE_MAJOR = 7, FUSE_MINOR_MIN = 31, FUSE_MINOR = 37 };

enum fuse_opcode {
    FUSE_LOOKUP = 1,
    FUSE_FORGET = 2,
    FUSE_GETATTR = 3,
    FUSE_SETATTR = 4,
    FUSE_READLINK = 5,
    FUSE_SYMLINK = 6,
    FUSE_MKNOD = 8,
    FUSE_MKDIR = 9,
    FUSE_UNLINK = 10,
    FUSE_RMDIR = 11,
    FUSE_RENAME = 12,
    FUSE_LINK = 13,
    FUSE_OPEN = 14,
    FUSE_READ = 15,
    FUSE_WRITE = 16,
    FUSE_STATFS = 17,
    FUSE_RELEASE = 18,
    FUSE_FSYNC = 20,
    FUSE_SETXATTR = 21,
    FUSE_GETXATTR = 22,
    FUSE_LISTXATTR = 23,
    FUSE_REMOVEXATTR = 24,
    FUSE_INIT = 26,
    FUSE_OPENDIR = 27,
    FUSE_READDIR = 28,
    FUSE_RELEASEDIR = 29,
    FUSE_FSYNCDIR = 30,
    FUSE_CREATE = 35,
    FUSE_INTERRUPT = 36,
    FUSE_DESTROY = 38,
    FUSE_BATCH_FORGET = 42,
    FUSE_FALLOCATE = 43,
    FUSE_READDIRPLUS = 44,
    FUSE_RENAME2 = 45,
    FUSE_LSEEK = 46,
    FUSE_COPY_FILE_RANGE = 47,
    FUSE_SYNCFS = 50,
    FUSE_OPCODES
};

/* Flags of INIT. */
#define FUSE_ASYNC_READ         BIT(0)
#define FUSE_ATOMIC_O_TRUNC     BIT(3)
#define FUSE_BIG_WRITES         BIT(5)
#define FUSE_AUTO_INVAL_DATA    BIT(12)
#define FUSE_DO_READDIRPLUS     BIT(13)
#define FUSE_READDIRPLUS_AUTO   BIT(14)
#define FUSE_ASYNC_DIO          BIT(15)
#define FUSE_PARALLEL_DIROPS    BIT(18)
#define FUSE_MAX_PAGES          BIT(22)
#define FUSE_HANDLE_KILLPRIV_V2 BIT(28)

/* Flags elsewhere. */
enum {
    FUSE_GETATTR_FH = 1,
    FUSE_WRITE_CACHE = 1, /* a page of the guest's cache, not what a program wrote just now */
    FUSE_FATTR_MODE = 1 << 0,
    FUSE_FATTR_UID = 1 << 1,
    FUSE_FATTR_GID = 1 << 2,
    FUSE_FATTR_SIZE = 1 << 3,
    FUSE_FATTR_ATIME = 1 << 4,
    FUSE_FATTR_MTIME = 1 << 5,
    FUSE_FATTR_FH = 1 << 6,
    FUSE_FATTR_ATIME_NOW = 1 << 7,
    FUSE_FATTR_MTIME_NOW = 1 << 8,
};

struct fuse_in_header {
    u32 len, opcode;
    u64 unique, nodeid;
    u32 uid, gid, pid;
    u32 unused;
};

struct fuse_out_header {
    u32 len;
    s32 error;
    u64 unique;
};

struct fuse_attr {
    u64 ino, size, blocks, atime, mtime, ctime;
    u32 atimensec, mtimensec, ctimensec;
    u32 mode, nlink, uid, gid, rdev, blksize, flags;
};

struct fuse_entry_out {
    u64 nodeid, generation;
    u64 entry_valid, attr_valid; /* seconds that the guest may trust its copy */
    u32 entry_valid_nsec, attr_valid_nsec;
    struct fuse_attr attr;
};

struct fuse_attr_out {
    u64 attr_valid;
    u32 attr_valid_nsec, unused;
    struct fuse_attr attr;
};

struct fuse_getattr_in {
    u32 flags, unused;
    u64 fh;
};

struct fuse_setattr_in {
    u32 valid, unused;
    u64 fh, size, lock_owner, atime, mtime, ctime;
    u32 atimensec, mtimensec, ctimensec, mode, unused4, uid, gid, unused5;
};

struct fuse_mknod_in {
    u32 mode, rdev, umask, unused;
};

struct fuse_mkdir_in {
    u32 mode, umask;
};

struct fuse_rename_in {
    u64 newdir;
};

struct fuse_rename2_in {
    u64 newdir;
    u32 flags, unused;
};

struct fuse_link_in {
    u64 oldnodeid;
};

struct fuse_open_in {
    u32 flags, open_flags;
};

struct fuse_create_in {
    u32 flags, mode, umask, open_flags;
};

struct fuse_open_out {
    u64 fh;
    u32 open_flags, unused;
};

struct fuse_release_in {
    u64 fh;
    u32 flags, release_flags;
    u64 lock_owner;
};

/* READ, READDIR, READDIRPLUS; WRITE looks the same, its flags are those of the write. */
struct fuse_rw_in {
    u64 fh, offset;
    u32 size, rw_flags;
    u64 lock_owner;
    u32 flags, unused; /* O_* of the file at that moment */
};

struct fuse_write_out {
    u32 size, unused;
};

struct fuse_statfs_out {
    u64 blocks, bfree, bavail, files, ffree;
    u32 bsize, namelen, frsize, unused, spare[6];
};

struct fuse_fsync_in {
    u64 fh;
    u32 flags, unused;
};

struct fuse_setxattr_in {
    u32 size, flags;
};

struct fuse_getxattr_in {
    u32 size, unused;
};

struct fuse_getxattr_out {
    u32 size, unused;
};

struct fuse_init_in {
    u32 major, minor, max_readahead, flags;
};

struct fuse_init_out {
    u32 major, minor, max_readahead, flags;
    u16 max_background, congestion_threshold;
    u32 max_write, time_gran;
    u16 max_pages, map_alignment;
    u32 flags2, unused[7];
};

struct fuse_forget_in {
    u64 nlookup;
};

struct fuse_batch_forget_in {
    u32 count, unused;
};

struct fuse_fallocate_in {
    u64 fh, offset, length;
    u32 mode, unused;
};

struct fuse_lseek_in {
    u64 fh, offset;
    u32 whence, unused;
};

struct fuse_copy_in {
    u64 fh_in, off_in, nodeid_out, fh_out, off_out, len, flags;
};

/* Names follow; entries begin at multiples of 8 bytes. READDIRPLUS: a fuse_entry_out in front. */
struct fuse_dirent {
    u64 ino, off;
    u32 namelen, type;
};

_Static_assert(sizeof(struct fuse_in_header) == 40 && sizeof(struct fuse_out_header) == 16 &&
                   sizeof(struct fuse_attr) == 88 && sizeof(struct fuse_entry_out) == 128 &&
                   sizeof(struct fuse_setattr_in) == 88 && sizeof(struct fuse_rw_in) == 40 &&
                   sizeof(struct fuse_statfs_out) == 80 && sizeof(struct fuse_init_out) == 64 &&
                   sizeof(struct fuse_copy_in) == 56 && sizeof(struct fuse_dirent) == 24,
               "FUSE's structures");

#endif
