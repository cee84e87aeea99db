/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `sosia image` share. */
#ifndef CMD_IMAGE_H
#define CMD_IMAGE_H

#include "hosts/linux/linux.h"
#include "image/qcow2.h"

struct image_args {
    struct host *host;
    const char *format, *to, *backing_name, *backing_format, *repair;
    struct blk_options open; /* format, backing, backing_dir */
    struct qcow2_create create;
    bool shrink, quiet, json;
    const char *file[2];
    int files;
};

/* Exit statuses of check and compare, as qemu-img's. */
enum { IMAGE_DIFFERENT = 1, IMAGE_ERRORS = 2, IMAGE_LEAKS = 3 };

/* Each returns the exit status, with err filled when it is EXIT_FAILURE_OTHER or EXIT_BAD_INPUT and
 * nothing was said yet. */
int image_create(struct image_args *a, struct err *err);
int image_info(struct image_args *a, struct err *err);
int image_resize(struct image_args *a, struct err *err);
int image_check(struct image_args *a, struct err *err);
int image_convert(struct image_args *a, struct err *err);
int image_commit_cmd(struct image_args *a, struct err *err);
int image_compare_cmd(struct image_args *a, struct err *err);

int image_status(int rc); /* of an error code */
int image_open_file(const struct image_args *a, const char *path, bool readonly, struct image **out,
                    struct err *err);
/* An empty image of this format and size at path. *fresh: it reads as zeros. */
int image_new(const struct image_args *a, const char *path, const char *format, u64 size,
              struct image **out, bool *fresh, struct err *err);

#endif
