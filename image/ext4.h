/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading files of an ext4 file system in a disk image, so that a machine can start the kernel that
 * its disk holds. Read-only; nothing is allocated; everything on the disk is hostile. Files of ext4
 * (extents) and of ext2 and ext3 (block maps).
 */
#ifndef IMAGE_EXT4_H
#define IMAGE_EXT4_H

#include "image/image.h"

enum { EXT4_NAME_MAX = 255, EXT4_ROOT = 2, PARTITIONS_MAX = 32 };

struct ext4 {
    struct image *im;
    u64 start, length; /* of the partition, bytes */
    u32 block_size, inode_size, desc_size, inodes_per_group, inodes, first_block;
    u64 blocks;
    u8 uuid[16];
};

struct ext4_file {
    u32 inode;
    u16 mode;
    u32 flags;
    u64 size;
    u8 map[60]; /* i_block */
};

struct partition {
    u64 start, length; /* bytes */
    u32 number;        /* 1.. as Linux counts them; 0: the whole disk */
};

/* Partitions of a disk (GPT, else MBR with its logical ones; else the disk itself as one). How many
 * were found, at most PARTITIONS_MAX. */
u32 partitions_find(struct image *im, struct partition *out);

/* 0, -ERR_FORMAT when this is no such file system, -ERR_UNSUPPORTED, -ERR_IO. */
int ext4_open(struct image *im, const struct partition *p, struct ext4 *fs);
/* Follows symbolic links. 0 or -ERR_NOTFOUND, -ERR_FORMAT, -ERR_UNSUPPORTED, -ERR_IO. */
int ext4_find(const struct ext4 *fs, const char *path, struct ext4_file *out);
int ext4_read(const struct ext4 *fs, const struct ext4_file *f, u64 offset, void *buf, size_t len);
/* Calls fn for each name (with NUL) in a directory until it returns false. */
int ext4_list(const struct ext4 *fs, const struct ext4_file *dir,
              bool (*fn)(void *ctx, const char *name, u32 inode), void *ctx);

static inline bool ext4_is_file(const struct ext4_file *f) {
    return (f->mode & 0xf000) == 0x8000;
}

static inline bool ext4_is_dir(const struct ext4_file *f) {
    return (f->mode & 0xf000) == 0x4000;
}

#endif
