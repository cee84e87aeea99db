/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ext4 file system, read-only: Documentation/filesystems/ext4 of Linux. Superblock -> group
 * descriptors -> inode table -> inode -> extent tree or block map -> data; directories are read in
 * a line, hashed ones too. The journal is not replayed: of a system that was not shut down, what
 * was written last may be missing. Left out: encrypted and inline files, meta block groups,
 * checksums. No lock.
 */
#include "image/ext4.h"

#include "core/base/fmt.h"

enum {
    EXT4_MAGIC = 0xef53,
    EXTENT_MAGIC = 0xf30a,
    EXTENT_DEPTH = 5,
    EXTENT_UNWRITTEN = 32768,
    LINKS_MAX = 8,
    PATH_MAX_BYTES = 1024,
    DIR_MAX = 16 << 20,
};

#define INCOMPAT_64BIT 0x80u
/* filetype, recover, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline, encrypt
 */
#define INCOMPAT_KNOWN                                                                             \
    (0x2u | 0x4u | 0x40u | 0x80u | 0x100u | 0x200u | 0x400u | 0x2000u | 0x4000u | 0x8000u |        \
     0x10000u)
#define INODE_EXTENTS 0x80000u
#define INODE_REFUSED (0x10000000u | 0x800u) /* inline data, encrypted */

static u16 le16(const u8 *p) {
    return (u16)(p[0] | p[1] << 8);
}

static u32 le32(const u8 *p) {
    return (u32)le16(p) | (u32)le16(p + 2) << 16;
}

static int disk_read(const struct ext4 *fs, u64 offset, void *buf, size_t len) {
    if (offset > fs->length || len > fs->length - offset) {
        return -ERR_FORMAT;
    }
    return image_read(fs->im, fs->start + offset, buf, len);
}

static int block_read(const struct ext4 *fs, u64 block, u64 from, void *buf, size_t len) {
    return block < fs->blocks ? disk_read(fs, block * fs->block_size + from, buf, len)
                              : -ERR_FORMAT;
}

int ext4_open(struct image *im, const struct partition *p, struct ext4 *fs) {
    u8 s[1024] = {0};
    *fs = (struct ext4){.im = im, .start = p->start, .length = p->length};
    int rc = disk_read(fs, 1024, s, sizeof(s));
    if (rc || le16(s + 0x38) != EXT4_MAGIC) {
        return rc ? rc : -ERR_FORMAT;
    }
    u32 log = le32(s + 0x18), incompat = le32(s + 0x60);
    if (log > 6 || (incompat & ~INCOMPAT_KNOWN)) {
        return -ERR_UNSUPPORTED;
    }
    fs->block_size = 1024u << log;
    fs->inode_size = le32(s + 0x4c) ? le16(s + 0x58) : 128;
    fs->desc_size = incompat & INCOMPAT_64BIT ? le16(s + 0xfe) : 32;
    fs->inodes = le32(s);
    fs->inodes_per_group = le32(s + 0x28);
    fs->first_block = le32(s + 0x14);
    fs->blocks = le32(s + 4) | (incompat & INCOMPAT_64BIT ? (u64)le32(s + 0x150) << 32 : 0);
    fs->blocks = MIN(fs->blocks, fs->length / fs->block_size);
    memcpy(fs->uuid, s + 0x68, sizeof(fs->uuid));
    bool good = fs->inode_size >= 128 && fs->inode_size <= fs->block_size && fs->desc_size >= 32 &&
                fs->desc_size <= 1024 && fs->inodes_per_group;
    return good ? 0 : -ERR_FORMAT;
}

static int inode_read(const struct ext4 *fs, u32 inode, struct ext4_file *f) {
    u8 d[64] = {0}, i[128] = {0};
    if (!inode || inode > fs->inodes) {
        return -ERR_FORMAT;
    }
    u64 group = (inode - 1) / fs->inodes_per_group, index = (inode - 1) % fs->inodes_per_group;
    u64 at = (fs->first_block + 1ull) * fs->block_size + group * fs->desc_size;
    int rc = disk_read(fs, at, d, MIN(fs->desc_size, (u32)sizeof(d)));
    u64 table = le32(d + 8) | (fs->desc_size >= 64 ? (u64)le32(d + 0x28) << 32 : 0);
    u64 byte = index * fs->inode_size;
    rc = rc ? rc
            : block_read(fs, table + byte / fs->block_size, byte % fs->block_size, i, sizeof(i));
    if (rc) {
        return rc;
    }
    *f = (struct ext4_file){.inode = inode, .mode = le16(i), .flags = le32(i + 0x20)};
    f->size = le32(i + 4) | (u64)le32(i + 0x6c) << 32;
    memcpy(f->map, i + 0x28, sizeof(f->map));
    return f->flags & INODE_REFUSED ? -ERR_UNSUPPORTED : 0;
}

/* --- where a block of a file is ---------------------------------------------------------------
 */

/* place 0: a hole. run: how many blocks from there on are alike. */
struct spot {
    u64 place, run;
};

/* One node: `entries` of 12 bytes behind the header. The entry that covers the block, or the gap.
 */
static int extent_leaf(const u8 *node, u32 entries, u64 block, struct spot *out) {
    *out = (struct spot){0, 1u << 30};
    for (u32 i = 0; i < entries; i++) {
        const u8 *e = node + 12 + (size_t)i * 12;
        u64 first = le32(e), len = le16(e + 4);
        bool written = len <= EXTENT_UNWRITTEN;
        len -= written ? 0 : EXTENT_UNWRITTEN;
        if (block >= first && block - first < len) {
            u64 place = (le32(e + 8) | (u64)le16(e + 6) << 32) + (block - first);
            *out = (struct spot){written ? place : 0, len - (block - first)};
            return 0;
        }
        if (first > block) {
            out->run = MIN(out->run, first - block);
        }
    }
    return 0;
}

static int extent_find(const struct ext4 *fs, const struct ext4_file *f, u64 block,
                       struct spot *out) {
    u8 node[4096];
    u32 room = sizeof(f->map), depth = EXTENT_DEPTH + 1;
    u64 limit = 1u << 30;
    memcpy(node, f->map, room);
    for (;;) {
        u32 entries = le16(node + 2), here = le16(node + 6);
        if (le16(node) != EXTENT_MAGIC || here >= depth || 12 + entries * 12 > room) {
            return -ERR_FORMAT; /* each level is one lower than the one above */
        }
        if (!here) {
            int rc = extent_leaf(node, entries, block, out);
            out->run = MIN(out->run, limit);
            return rc;
        }
        u64 child = 0;
        for (u32 i = 0; i < entries; i++) {
            const u8 *e = node + 12 + (size_t)i * 12;
            if (le32(e) <= block) {
                child = le32(e + 4) | (u64)le16(e + 8) << 32;
            } else {
                limit = MIN(limit, le32(e) - block);
                break;
            }
        }
        depth = here;
        room = MIN(fs->block_size, (u32)sizeof(node));
        int rc = child ? block_read(fs, child, 0, node, room) : -ERR_FORMAT;
        if (rc) {
            return rc;
        }
    }
}

/* ext2 and ext3: 12 blocks, then one, two and three levels of tables. */
static int map_find(const struct ext4 *fs, const struct ext4_file *f, u64 block, struct spot *out) {
    u64 per = fs->block_size / 4, span = 1;
    *out = (struct spot){0, 1};
    if (block < 12) {
        out->place = le32(f->map + block * 4);
        return 0;
    }
    block -= 12;
    for (u32 level = 1; level <= 3; level++) {
        span *= per;
        if (block >= span) {
            block -= span;
            continue;
        }
        u64 place = le32(f->map + (11 + level) * 4);
        for (u64 s = span / per; place && s; s /= per) {
            u8 e[4] = {0};
            int rc = block_read(fs, place, block / s % per * 4, e, sizeof(e));
            if (rc) {
                return rc;
            }
            place = le32(e);
        }
        out->place = place;
        return 0;
    }
    return -ERR_FORMAT;
}

int ext4_read(const struct ext4 *fs, const struct ext4_file *f, u64 offset, void *buf, size_t len) {
    u8 *p = buf;
    if (offset > f->size || len > f->size - offset) {
        return -ERR_RANGE;
    }
    while (len) {
        struct spot spot;
        u64 block = offset / fs->block_size, within = offset % fs->block_size;
        int rc = f->flags & INODE_EXTENTS ? extent_find(fs, f, block, &spot)
                                          : map_find(fs, f, block, &spot);
        if (rc) {
            return rc;
        }
        u64 n = MIN(len, spot.run * fs->block_size - within);
        if (!spot.place) {
            memset(p, 0, (size_t)n);
        } else if (spot.place >= fs->blocks || spot.run > fs->blocks - spot.place) {
            return -ERR_FORMAT;
        } else {
            rc = disk_read(fs, spot.place * fs->block_size + within, p, (size_t)n);
        }
        if (rc) {
            return rc;
        }
        offset += n;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* --- names ------------------------------------------------------------------------------------
 */

int ext4_list(const struct ext4 *fs, const struct ext4_file *dir,
              bool (*fn)(void *ctx, const char *name, u32 inode), void *ctx) {
    char name[EXT4_NAME_MAX + 1];
    u8 e[8] = {0};
    if (!ext4_is_dir(dir) || dir->size > DIR_MAX) {
        return -ERR_FORMAT;
    }
    for (u64 at = 0; at + sizeof(e) <= dir->size;) {
        int rc = ext4_read(fs, dir, at, e, sizeof(e));
        u32 inode = le32(e), step = le16(e + 4), len = e[6];
        if (rc || step < sizeof(e) || len > step - sizeof(e)) {
            return rc ? rc : -ERR_FORMAT;
        }
        if (inode && len) {
            rc = ext4_read(fs, dir, at + sizeof(e), name, len);
            name[len] = 0;
            if (rc || !fn(ctx, name, inode)) {
                return rc;
            }
        }
        at += step;
    }
    return 0;
}

struct lookup {
    const char *name;
    size_t len;
    u32 inode;
};

static bool lookup_one(void *ctx, const char *name, u32 inode) {
    struct lookup *l = ctx;
    if (str_len(name) == l->len && !memcmp(name, l->name, l->len)) {
        l->inode = inode;
    }
    return !l->inode;
}

static int link_read(const struct ext4 *fs, const struct ext4_file *f, char *out) {
    if (f->size >= PATH_MAX_BYTES) {
        return -ERR_FORMAT;
    }
    out[f->size] = 0;
    if (f->size < sizeof(f->map)) {
        memcpy(out, f->map, (size_t)f->size);
        return 0;
    }
    return ext4_read(fs, f, 0, out, (size_t)f->size);
}

/* What is left of a path goes behind a link's target. */
static int path_join(char *path, const char *target, const char *rest) {
    char joined[PATH_MAX_BYTES];
    size_t n = fmt_str(joined, sizeof(joined), "%s/%s", target, rest);
    if (n >= sizeof(joined)) {
        return -ERR_FORMAT;
    }
    memcpy(path, joined, n + 1);
    return 0;
}

int ext4_find(const struct ext4 *fs, const char *given, struct ext4_file *out) {
    char path[PATH_MAX_BYTES], target[PATH_MAX_BYTES];
    struct ext4_file dir;
    u32 links = 0;
    if (str_copy(path, sizeof(path), given) >= sizeof(path)) {
        return -ERR_NOTFOUND;
    }
    int rc = inode_read(fs, EXT4_ROOT, &dir);
    for (char *p = path; !rc;) {
        while (*p == '/') {
            p++;
        }
        if (!*p) {
            *out = dir;
            return 0;
        }
        struct lookup l = {.name = p};
        while (p[l.len] && p[l.len] != '/') {
            l.len++;
        }
        rc = ext4_list(fs, &dir, lookup_one, &l);
        rc = rc || l.inode ? rc : -ERR_NOTFOUND;
        rc = rc ? rc : inode_read(fs, l.inode, out);
        if (!rc && (out->mode & 0xf000) == 0xa000) {
            rc = ++links > LINKS_MAX ? -ERR_FORMAT : link_read(fs, out, target);
            rc = rc ? rc : path_join(path, target, p + l.len);
            p = path;
            rc = rc || target[0] != '/' ? rc : inode_read(fs, EXT4_ROOT, &dir);
            continue;
        }
        dir = *out;
        p += l.len;
    }
    return rc;
}
