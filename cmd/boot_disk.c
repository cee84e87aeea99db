/* SPDX-License-Identifier: Apache-2.0 */
/* --boot disk: finds a kernel and its initial RAM disk in a disk image, as a boot loader would. */
#include "cmd/boot_disk.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cmd/cmd.h"
#include "image/ext4.h"

enum { FILE_MAX = 1 << 30 };

struct found {
    char kernel[280], initrd[280];
};

/* Versions in the order of numbers: 6.10 is newer than 6.9. */
static int version_order(const char *a, const char *b) {
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            char *x, *y;
            unsigned long long m = strtoull(a, &x, 10), n = strtoull(b, &y, 10);
            if (m != n) {
                return m < n ? -1 : 1;
            }
            a = x;
            b = y;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    return *a ? 1 : *b ? -1 : 0;
}

static bool newest_one(void *ctx, const char *name, u32 inode) {
    char *best = ctx;
    (void)inode;
    if (!strncmp(name, "vmlinuz-", 8) && strlen(name) < 256 &&
        (!*best || version_order(name, best) > 0)) {
        strcpy(best, name);
    }
    return true;
}

static bool is_there(const struct ext4 *fs, const char *path) {
    struct ext4_file f;
    return !ext4_find(fs, path, &f) && ext4_is_file(&f) && f.size;
}

/* The newest kernel in a directory, with the initial RAM disk of the same version. */
static bool newest_find(const struct ext4 *fs, const char *dir, struct found *out) {
    struct ext4_file d;
    char best[256] = "";
    if (ext4_find(fs, dir, &d) || ext4_list(fs, &d, newest_one, best) || !*best) {
        return false;
    }
    snprintf(out->kernel, sizeof(out->kernel), "%s%s", dir, best);
    snprintf(out->initrd, sizeof(out->initrd), "%sinitrd.img-%.240s", dir, best + 8);
    if (!is_there(fs, out->initrd)) {
        snprintf(out->initrd, sizeof(out->initrd), "%sinitramfs-%.230s.img", dir, best + 8);
    }
    return is_there(fs, out->kernel);
}

static bool kernel_find(const struct ext4 *fs, struct found *out) {
    static const char *const pairs[][2] = {{"/vmlinuz", "/initrd.img"},
                                           {"/boot/vmlinuz", "/boot/initrd.img"}};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        if (is_there(fs, pairs[i][0])) {
            strcpy(out->kernel, pairs[i][0]);
            strcpy(out->initrd, pairs[i][1]);
            return true;
        }
    }
    return newest_find(fs, "/boot/", out) || newest_find(fs, "/", out);
}

static int file_load(const struct ext4 *fs, const char *path, char *name, size_t room,
                     struct blob *out, struct err *err) {
    struct ext4_file f;
    int rc = ext4_find(fs, path, &f);
    if (!rc && (!ext4_is_file(&f) || !f.size || f.size > FILE_MAX)) {
        rc = -ERR_FORMAT;
    }
    void *p = MAP_FAILED;
    if (!rc) {
        p = mmap(NULL, (size_t)f.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        rc = p == MAP_FAILED ? -ERR_NOMEM : ext4_read(fs, &f, 0, p, (size_t)f.size);
    }
    if (rc) {
        if (p != MAP_FAILED) {
            munmap(p, (size_t)f.size);
        }
        return ERR_SET(err, (enum err_code) - rc, "%s in the disk image cannot be read: %s", path,
                       err_name(rc));
    }
    snprintf(name, room, "disk:%s", path);
    *out = (struct blob){.data = p, .size = f.size, .name = name};
    return 0;
}

/* The root file system is where /etc is; with a partition for /boot alone one has to be told. */
static void cmdline_make(const struct ext4 *fs, struct boot_disk *out) {
    struct ext4_file f;
    const u8 *u = fs->uuid;
    strcpy(out->cmdline, "console=ttyS0");
    if (!ext4_find(fs, "/etc", &f) && ext4_is_dir(&f)) {
        snprintf(out->cmdline, sizeof(out->cmdline),
                 "console=ttyS0 root=UUID=%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
                 "%02x%02x%02x%02x%02x%02x ro",
                 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
                 u[13], u[14], u[15]);
    }
}

static int load_from(const struct ext4 *fs, const struct found *found, struct boot_disk *out,
                     struct err *err) {
    int rc =
        file_load(fs, found->kernel, out->kernel_name, sizeof(out->kernel_name), &out->kernel, err);
    if (!rc && is_there(fs, found->initrd)) {
        rc = file_load(fs, found->initrd, out->initrd_name, sizeof(out->initrd_name), &out->initrd,
                       err);
    }
    cmdline_make(fs, out);
    return rc;
}

static int search(struct image *im, const char *path, struct boot_disk *out, struct err *err) {
    struct partition p[PARTITIONS_MAX];
    struct found found = {{0}, {0}};
    struct ext4 fs;
    u32 count = partitions_find(im, p);
    bool any = false;
    for (u32 i = 0; i < count; i++) {
        if (!ext4_open(im, &p[i], &fs)) {
            any = true;
            if (kernel_find(&fs, &found)) {
                return load_from(&fs, &found, out, err);
            }
        }
    }
    return ERR_SET(err, ERR_NOTFOUND,
                   any ? "--boot disk: %s has no vmlinuz in / or /boot"
                       : "--boot disk: %s has no ext4 file system",
                   path);
}

int boot_disk_load(struct host *host, const struct blk_options *disk, struct boot_disk *out,
                   struct err *err) {
    struct blk_options o = *disk;
    struct image *im = NULL;
    o.readonly = true;
    int rc = image_open(host, &o, &im, err);
    if (!rc) {
        rc = search(im, o.path, out, err);
        im->ops->close(im);
    }
    if (rc) {
        file_unmap(&out->kernel);
        file_unmap(&out->initrd);
    }
    return rc;
}
