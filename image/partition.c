/* SPDX-License-Identifier: Apache-2.0 */
/* Where the partitions of a disk are: GPT (UEFI 2.10, section 5.3), MBR with logical partitions. */
#include "image/ext4.h"

static u32 le32(const u8 *p) {
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static u64 le64(const u8 *p) {
    return le32(p) | (u64)le32(p + 4) << 32;
}

static bool sector_read(struct image *im, u64 sector, u8 *buf) {
    return sector < im->size / IMAGE_SECTOR && !image_read(im, sector * IMAGE_SECTOR, buf, 512);
}

/* Numbers of sectors, cut to the disk. */
static void add(struct image *im, struct partition *out, u32 *count, u64 first, u64 sectors,
                u32 number) {
    u64 disk = im->size / IMAGE_SECTOR;
    if (first && first < disk && sectors && *count < PARTITIONS_MAX) {
        out[(*count)++] = (struct partition){first * IMAGE_SECTOR,
                                             MIN(sectors, disk - first) * IMAGE_SECTOR, number};
    }
}

static u32 gpt_find(struct image *im, struct partition *out) {
    u8 h[512], e[512];
    u32 count = 0;
    if (!sector_read(im, 1, h) || memcmp(h, "EFI PART", 8) != 0) {
        return 0;
    }
    u64 at = le64(h + 72);
    u32 entries = MIN(le32(h + 80), 128u), size = le32(h + 84);
    if (size < 128 || size > 512 || (size & (size - 1)) || at > im->size / IMAGE_SECTOR) {
        return 0;
    }
    for (u32 i = 0; i < entries; i++) {
        u64 byte = (u64)i * size;
        const u8 *p = e + byte % 512;
        static const u8 unused[16] = {0};
        if (!sector_read(im, at + byte / 512, e)) {
            break;
        }
        u64 first = le64(p + 32), last = le64(p + 40);
        if (memcmp(p, unused, 16) != 0 && last >= first) {
            add(im, out, &count, first, last - first + 1, i + 1);
        }
    }
    return count;
}

/* The chain of logical partitions: each link holds one and where the next link is. */
static void logical_find(struct image *im, struct partition *out, u32 *count, u64 extended) {
    u8 s[512];
    u64 link = extended;
    for (u32 n = 5; n < 5 + PARTITIONS_MAX && sector_read(im, link, s); n++) {
        if (s[510] != 0x55 || s[511] != 0xaa) {
            break;
        }
        add(im, out, count, link + le32(s + 454), le32(s + 458), n);
        if (!le32(s + 470)) {
            break;
        }
        link = extended + le32(s + 470);
    }
}

static u32 mbr_find(struct image *im, struct partition *out) {
    u8 s[512];
    u32 count = 0;
    if (!sector_read(im, 0, s) || s[510] != 0x55 || s[511] != 0xaa) {
        return 0;
    }
    for (u32 i = 0; i < 4; i++) {
        const u8 *p = s + 446 + i * 16;
        u8 type = p[4];
        if (type == 0x05 || type == 0x0f || type == 0x85) {
            logical_find(im, out, &count, le32(p + 8));
        } else if (type) {
            add(im, out, &count, le32(p + 8), le32(p + 12), i + 1);
        }
    }
    return count;
}

u32 partitions_find(struct image *im, struct partition *out) {
    u32 count = gpt_find(im, out);
    count = count ? count : mbr_find(im, out);
    if (!count) {
        out[0] = (struct partition){0, im->size, 0};
        count = 1;
    }
    return count;
}
