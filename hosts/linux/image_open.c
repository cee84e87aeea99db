/* SPDX-License-Identifier: Apache-2.0 */
/* Opening disk images on Linux: the file, its format, and what it stands on. */
#include <errno.h>
#include <string.h>

#include "hosts/linux/host.h"
#include "hosts/linux/image_fd.h"

int image_open(struct host *host, const struct blk_options *o, struct image **out,
               struct err *err) {
    struct image_file *file = NULL;
    if (o->snapshot || o->format == BLK_FORMAT_QCOW2) {
        return ERR_SET(err, ERR_UNSUPPORTED, "disk %s: only raw images yet", o->path);
    }
    int rc = image_fd_open(o->path, o->readonly, &file, err);
    if (rc) {
        return rc;
    }
    if (file->size < IMAGE_SECTOR) {
        rc = ERR_SET(err, ERR_INVAL, "disk %s: is empty; make it at least 512 bytes", o->path);
    }
    rc = rc ? rc : raw_image_open(host, file, o->readonly, out, err);
    if (rc) {
        file->ops->close(file);
    }
    return rc;
}

int blk_open(struct linux_host *lh, const struct blk_options *o, struct block_backend **out,
             struct err *err) {
    struct image *im = NULL;
    int rc = image_open(&lh->host, o, &im, err);
    rc = rc ? rc : blk_image_create(lh, im, o, out, err);
    if (rc && im) {
        im->ops->close(im);
    }
    return rc;
}

int blk_file_open(struct linux_host *lh, const char *path, bool readonly,
                  struct block_backend **out, struct err *err) {
    struct blk_options o = {.path = path, .format = BLK_FORMAT_RAW, .readonly = readonly};
    return blk_open(lh, &o, out, err);
}
