/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images, versions 2 and 3, read and write. Left out: encryption, external data files,
 * extended L2 entries (subclusters), persistent bitmaps (dropped when an image is written), taking
 * and reverting internal snapshots (existing ones are kept intact), writing compressed clusters.
 */
#ifndef IMAGE_QCOW2_H
#define IMAGE_QCOW2_H

#include "image/image.h"

struct qcow2_create {
    u64 size;                   /* bytes, a multiple of 512 */
    u32 cluster_bits;           /* 9..21; 0: 16 */
    u32 refcount_bits;          /* 1, 2, 4 .. 64; 0: 16 */
    u32 version;                /* 2 or 3; 0: 3 */
    bool lazy;                  /* lazy refcounts */
    const char *backing;        /* name to record, or NULL */
    const char *backing_format; /* "raw" or "qcow2"; with backing */
};

struct qcow2_info {
    u32 version, refcount_bits, snapshots;
    u64 cluster_size, size;
    u64 incompat, compat, autoclear;
    const char *backing, *backing_format, *compression; /* backing "" when there is none */
    bool lazy, dirty, corrupt;
    u64 data_clusters, zero_clusters, packed_clusters; /* only after qcow2_count */
};

struct qcow2_check_result {
    u64 clusters;    /* of the guest that have a place */
    u64 compressed;  /* among them */
    u64 leaks;       /* host clusters that are counted more often than used */
    u64 errors;      /* anything worse: use without count, tables outside the file, overlaps */
    u64 fixed_leaks; /* with repair */
    u64 fixed_errors;
    u64 end; /* of the last host cluster in use, in bytes */
};

typedef void (*qcow2_say_fn)(void *ctx, const char *text);
/* Told how far long work is; false: stop. NULL is fine. */
typedef bool (*image_progress_fn)(void *ctx, u64 done, u64 total);

bool qcow2_probe(struct image_file *file);
/* Writes an empty image into a file that reads as zeros. */
int qcow2_create(struct host *host, struct image_file *file, const struct qcow2_create *c,
                 struct err *err);
/* Takes the file over when it succeeds. An image that was not closed properly is repaired when it
 * is opened for writing. The backing image is the caller's to open and to set in (*out)->backing.
 */
int qcow2_open(struct host *host, struct image_file *file, bool readonly,
               const struct image_codec *codec, struct image **out, struct err *err);
/* Name of the backing image and its format ("" when not given), "" when there is none. */
const char *qcow2_backing(struct image *im, const char **format);
void qcow2_info(struct image *im, struct qcow2_info *out);
bool image_is_qcow2(const struct image *im);

enum { QCOW2_FIX_LEAKS = 1, QCOW2_FIX_ERRORS = 2 };
/* Of an open image that nothing else uses. say is told each of the first few findings. 0 also when
 * there are findings; negative: the check itself could not be done. */
int qcow2_check(struct image *im, u32 fix, qcow2_say_fn say, void *ctx,
                struct qcow2_check_result *out);
/* New size, a multiple of 512; shrinking drops what is beyond. Nothing else uses the image. */
int qcow2_resize(struct image *im, u64 size, struct err *err);
/* Makes every cluster one of the backing image again. */
int qcow2_empty(struct image *im);

/* copy.c: all of src to dst, at least as large and reading as zeros where `fresh`; zeros become
 * holes. length: how much of src (beyond its end reads as zeros). */
int image_copy(struct image *dst, struct image *src, u64 length, bool fresh,
               image_progress_fn progress, void *ctx);
/* What the top layer of im holds goes to its backing image. */
int image_commit(struct image *im, image_progress_fn progress, void *ctx);
/* 0: same, 1: different at *where, negative: error. Beyond the end of one: zeros. */
int image_compare(struct image *a, struct image *b, u64 *where, image_progress_fn progress,
                  void *ctx);

#endif
