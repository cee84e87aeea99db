/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random work on a disk image through the image library, and the same on a raw file, which says
 * what the image must read as: for tests/storage/interop.py, which lets qemu-img compare them.
 *
 * usage: poke IMAGE MODEL SEED STEPS [BACKING-DIR]
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/linux/linux.h"
#include "image/image.h"

enum { MOST = 300 * 512 };

static u64 seed;

static u64 rnd(u64 n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (seed >> 11) % n;
}

static int step(struct image *im, int model) {
    static u8 buf[MOST];
    u64 sectors = im->size / 512, offset = rnd(sectors) * 512;
    u64 length = (1 + rnd(rnd(6) ? 20 : 300)) * 512;
    length = length > im->size - offset ? im->size - offset : length;
    u64 what = rnd(10);
    int rc;
    if (what == 0) {
        return im->ops->flush(im);
    }
    memset(buf, what < 3 ? 0 : (int)(1 + rnd(255)), length);
    if (what < 3) {
        rc = im->ops->zero(im, offset, length, what & 1);
    } else if (what == 3) { /* whatever it leaves */
        rc = im->ops->discard(im, offset, length);
        rc = rc ? rc : image_read(im, offset, buf, length);
    } else {
        rc = image_write(im, offset, buf, length);
    }
    return rc || pwrite(model, buf, length, (off_t)offset) == (ssize_t)length ? rc : -ERR_IO;
}

int main(int argc, char **argv) {
    struct linux_host *lh = NULL;
    struct image *im = NULL;
    struct err err = {0};
    if (argc < 5) {
        return 2;
    }
    struct blk_options o = {.path = argv[1], .backing_dir = argc > 5 ? argv[5] : NULL};
    seed = strtoull(argv[3], NULL, 10) * 2654435761u + 1;
    int model = open(argv[2], O_RDWR);
    int rc = linux_host_create(&lh, &err);
    rc = rc ? rc : image_open(linux_host_host(lh), &o, &im, &err);
    for (long n = strtol(argv[4], NULL, 10); n > 0 && !rc; n--) {
        rc = step(im, model);
    }
    if (im && im->ops->close(im)) {
        rc = -ERR_IO;
    }
    if (rc) {
        fprintf(stderr, "poke: %s %s\n", err_name(rc), err.text);
    }
    linux_host_destroy(lh);
    return rc != 0;
}
