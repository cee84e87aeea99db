/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening disk images on Linux: the file, its format, and what it stands on.
 *
 *   snapshot:  file without a name (qcow2) -> FILE -> its backing file -> ...
 *
 * An image file is somebody's word about which other files to open. That is followed only when
 * asked for (blk_options.backing), or inside one directory (backing_dir), which is checked on the
 * file that was opened, not on its name.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hosts/linux/host.h"
#include "hosts/linux/image_fd.h"
#include "image/qcow2.h"

struct identity {
    dev_t dev;
    ino_t ino;
};

/* A chain being opened. */
struct chain {
    struct host *host;
    const struct blk_options *o;
    struct identity seen[IMAGE_CHAIN_MAX];
    u32 depth;
    struct err *err;
};

static int chain_fail(struct chain *c, const char *path, const struct err *why) {
    return ERR_SET(c->err, (enum err_code) - why->code, "disk %s: %s", path, why->text);
}

/* --- policy -----------------------------------------------------------------------------------
 */

static bool inside(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (path[n] == '/' || n == 1);
}

/* Is the opened file in the permitted directory? */
static bool fd_permitted(const struct chain *c, int fd) {
    char link[64], path[PATH_MAX + 1], dir[PATH_MAX + 1];
    if (c->o->backing) {
        return true;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX);
    if (n <= 0 || !realpath(c->o->backing_dir, dir)) {
        return false;
    }
    path[n] = 0;
    return inside(path, dir);
}

/* "name" next to the image that names it, unless it is absolute. */
static int backing_path(struct chain *c, const char *image, const char *name, char *out) {
    const char *slash = strrchr(image, '/'), *colon = strchr(name, ':');
    size_t dir = name[0] != '/' && slash ? (size_t)(slash - image) + 1 : 0;
    if (!strncmp(name, "file:", 5)) {
        name += 5;
    } else if (colon && !memchr(name, '/', (size_t)(colon - name))) {
        return ERR_SET(c->err, ERR_UNSUPPORTED,
                       "disk %s: its backing file '%s' is not a plain file name", image, name);
    }
    if (dir + strlen(name) > PATH_MAX) {
        return ERR_SET(c->err, ERR_INVAL, "disk %s: the name of its backing file is too long",
                       image);
    }
    memcpy(out, image, dir);
    memcpy(out + dir, name, strlen(name) + 1);
    return 0;
}

static int not_seen(struct chain *c, const char *path) {
    struct stat st;
    if (stat(path, &st)) {
        return ERR_SET(c->err, ERR_NOTFOUND, "disk %s: %s", path, strerror(errno));
    }
    for (u32 i = 0; i < c->depth; i++) {
        if (c->seen[i].dev == st.st_dev && c->seen[i].ino == st.st_ino) {
            return ERR_SET(c->err, ERR_FORMAT, "disk %s: its chain of backing files is a loop",
                           path);
        }
    }
    if (c->depth == IMAGE_CHAIN_MAX) {
        return ERR_SET(c->err, ERR_FORMAT, "disk %s: more than %d backing files", path,
                       IMAGE_CHAIN_MAX);
    }
    c->seen[c->depth++] = (struct identity){st.st_dev, st.st_ino};
    return 0;
}

static int format_of(struct chain *c, const char *path, const char *name, enum blk_format *out) {
    if (!name[0]) {
        *out = BLK_FORMAT_AUTO;
    } else if (!strcmp(name, "raw") || !strcmp(name, "qcow2")) {
        *out = name[0] == 'r' ? BLK_FORMAT_RAW : BLK_FORMAT_QCOW2;
    } else {
        return ERR_SET(c->err, ERR_UNSUPPORTED,
                       "disk %s: its backing file has the format '%s', not raw or qcow2", path,
                       name);
    }
    return 0;
}

/* --- layers -----------------------------------------------------------------------------------
 */

static int layer_open(struct chain *c, const char *path, enum blk_format format, bool readonly,
                      struct image **out);

static int backing_open(struct chain *c, const char *path, struct image *im) {
    const char *format_name, *name = qcow2_backing(im, &format_name);
    enum blk_format format = BLK_FORMAT_AUTO;
    char below[PATH_MAX + 1];
    if (!name[0] || c->o->no_backing) {
        return 0;
    }
    if (!c->o->backing && !c->o->backing_dir) {
        return ERR_SET(c->err, ERR_PERM,
                       "disk %s: stands on the backing file '%s'; say 'backing' to open it, or "
                       "'backing-dir=DIR' to open what is in DIR",
                       path, name);
    }
    int rc = backing_path(c, path, name, below);
    rc = rc ? rc : format_of(c, path, format_name, &format);
    bool readonly = !c->o->commit || c->depth > 1;
    return rc ? rc : layer_open(c, below, format, readonly, &im->backing);
}

static int image_make(struct chain *c, const char *path, struct image_file *file,
                      enum blk_format format, bool readonly, struct image **out) {
    struct err why = {0};
    bool qcow2 = format == BLK_FORMAT_QCOW2 || (format == BLK_FORMAT_AUTO && qcow2_probe(file));
    int rc = qcow2 ? qcow2_open(c->host, file, readonly, &linux_codec, out, &why)
                   : raw_image_open(c->host, file, readonly, out, &why);
    if (rc) {
        file->ops->close(file);
        return chain_fail(c, path, &why);
    }
    rc = qcow2 ? backing_open(c, path, *out) : 0;
    if (rc) {
        (*out)->throwaway = true;
        (*out)->ops->close(*out);
        *out = NULL;
    }
    return rc;
}

static int layer_open(struct chain *c, const char *path, enum blk_format format, bool readonly,
                      struct image **out) {
    struct image_file *file = NULL;
    bool top = c->depth == 0;
    int rc = not_seen(c, path);
    rc = rc ? rc : image_fd_open(path, readonly, &file, c->err);
    if (rc) {
        return rc;
    }
    if (!top && !fd_permitted(c, image_fd(file))) {
        rc = ERR_SET(c->err, ERR_PERM, "disk %s: this backing file is not in %s", path,
                     c->o->backing_dir);
    } else if (file->size < IMAGE_SECTOR) {
        rc = ERR_SET(c->err, ERR_INVAL, "disk %s: is empty; make it at least 512 bytes", path);
    }
    if (rc) {
        file->ops->close(file);
        return rc;
    }
    return image_make(c, path, file, format, readonly, out);
}

int image_open(struct host *host, const struct blk_options *o, struct image **out,
               struct err *err) {
    struct chain c = {.host = host, .o = o, .err = err};
    return layer_open(&c, o->path, o->format, o->readonly || o->snapshot, out);
}

/* --- snapshots: what is written is thrown away ------------------------------------------------
 */

static int nameless_file(const char *path, struct err *err) {
    const char *dir = getenv("TMPDIR");
    dir = dir && *dir ? dir : "/var/tmp";
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    char name[PATH_MAX];
    if (fd < 0 && snprintf(name, sizeof(name), "%s/sosia.XXXXXX", dir) < (int)sizeof(name)) {
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0) {
            unlink(name);
        }
    }
    return fd >= 0 ? fd
                   : ERR_SET(err, ERR_IO, "disk %s: no file for its snapshot in %s: %s", path, dir,
                             strerror(errno));
}

/* The image under it is closed with it when this succeeds. */
static int snapshot_over(struct host *host, const char *path, struct image *below,
                         struct image **out, struct err *err) {
    struct image_file *file = NULL;
    struct qcow2_create create = {.size = below->size};
    int fd = nameless_file(path, err);
    if (fd < 0) {
        return fd;
    }
    if (image_fd_wrap(fd, 0, false, &file)) {
        close(fd);
        return ERR_SET(err, ERR_NOMEM, "disk %s: out of memory", path);
    }
    int rc = qcow2_create(host, file, &create, err);
    rc = rc ? rc : qcow2_open(host, file, false, NULL, out, err);
    if (rc) {
        file->ops->close(file);
        return rc;
    }
    (*out)->backing = below;
    (*out)->throwaway = true;
    return 0;
}

int blk_open(struct linux_host *lh, const struct blk_options *o, struct block_backend **out,
             struct err *err) {
    struct image *im = NULL, *top = NULL;
    int rc = image_open(&lh->host, o, &im, err);
    if (!rc && o->snapshot) {
        rc = snapshot_over(&lh->host, o->path, im, &top, err);
        im = rc ? im : top;
    }
    if (!rc && im->size < IMAGE_SECTOR) {
        rc = ERR_SET(err, ERR_INVAL, "disk %s: is a disk of no bytes; resize it", o->path);
    }
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

static int memory_file(const void *data, u64 size, struct image_file **out) {
    const struct iov v = {(void *)(uintptr_t)data, size};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    int rc = fd < 0 ? -ERR_NOMEM : fd_transfer(fd, true, 0, &v, 1);
    rc = rc ? rc : image_fd_wrap(fd, size, true, out);
    if (rc && fd >= 0) {
        close(fd);
    }
    return rc;
}

int blk_memory_open(struct linux_host *lh, const char *name, const void *data, u64 size,
                    struct block_backend **out, struct err *err) {
    const struct blk_options o = {.path = name, .aio = BLK_AIO_THREADS, .readonly = true};
    struct image_file *file = NULL;
    struct image *im = NULL;
    if (memory_file(data, size, &file)) {
        return ERR_SET(err, ERR_NOMEM, "disk %s: out of memory", name);
    }
    int rc = raw_image_open(&lh->host, file, true, &im, err);
    if (rc) {
        file->ops->close(file);
        return rc;
    }
    rc = blk_image_create(lh, im, &o, out, err);
    if (rc) {
        im->ops->close(im);
    }
    return rc;
}
