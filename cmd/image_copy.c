/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia image` check, convert, commit and compare: long work on whole images, with its progress.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/image.h"

/* --- a progress bar on a terminal -------------------------------------------------------------
 */

struct bar {
    const char *what;
    bool on, shown;
    double begin, last;
};

static double seconds(void) {
    return (double)linux_now_ns() / 1e9;
}

static struct bar bar_begin(const struct image_args *a, const char *what) {
    double now = seconds();
    return (struct bar){
        .what = what, .on = !a->quiet && isatty(STDERR_FILENO), .begin = now, .last = now};
}

/* Work that is over at once needs no bar. */
static bool bar_step(void *ctx, u64 done, u64 total) {
    struct bar *b = ctx;
    double now = seconds();
    if (b->on && now - b->begin > 0.3 && now - b->last > 0.1) {
        char fill[41];
        int n = (int)(done / (total / 40 + 1));
        n = MIN(n, 40);
        memset(fill, '#', sizeof(fill));
        fill[n] = 0;
        double rate = (double)done / (now - b->begin) / (double)MIB;
        fprintf(stderr, "\r%s [%-40s] %3d %%  %.0f MiB/s ", b->what, fill,
                (int)((double)done * 100 / (double)total), rate);
        b->last = now;
        b->shown = true;
    }
    return true;
}

static void bar_end(const struct bar *b) {
    if (b->shown) {
        fprintf(stderr, "\r%80s\r", "");
    }
}

/* --- check ------------------------------------------------------------------------------------
 */

static void check_say(void *ctx, const char *text) {
    (void)ctx;
    puts(text);
}

static void check_report(const struct qcow2_check_result *r) {
    if (r->errors) {
        printf("%llu errors, %llu repaired\n", (unsigned long long)r->errors,
               (unsigned long long)r->fixed_errors);
    }
    if (r->leaks) {
        printf("%llu leaked clusters, %llu given back; leaks cost room, nothing else\n",
               (unsigned long long)r->leaks, (unsigned long long)r->fixed_leaks);
    }
    if (!r->errors && !r->leaks) {
        puts("no errors");
    }
    printf("%llu clusters in use, %llu compressed, the last one ends at %llu\n",
           (unsigned long long)r->clusters, (unsigned long long)r->compressed,
           (unsigned long long)r->end);
}

static int check_status(const struct qcow2_check_result *r) {
    if (r->errors > r->fixed_errors) {
        return IMAGE_ERRORS;
    }
    return r->leaks > r->fixed_leaks ? IMAGE_LEAKS : 0;
}

int image_check(struct image_args *a, struct err *err) {
    struct image *im = NULL;
    struct qcow2_check_result r = {0};
    u32 fix = !a->repair ? 0 : QCOW2_FIX_LEAKS | (a->repair[0] == 'a' ? QCOW2_FIX_ERRORS : 0);
    a->open.no_backing = true;
    int rc = image_open_file(a, a->file[0], !fix, &im, err);
    if (rc) {
        return image_status(rc);
    }
    if (!image_is_qcow2(im)) {
        im->ops->close(im);
        return image_status(
            ERR_SET(err, ERR_UNSUPPORTED, "image %s: raw, there is nothing to check", a->file[0]));
    }
    rc = qcow2_check(im, fix, check_say, NULL, &r);
    if (rc) {
        ERR_SET(err, (enum err_code) - rc, "image %s: cannot be checked: %s", a->file[0],
                err_name(rc));
    } else {
        check_report(&r);
    }
    im->ops->close(im);
    return rc ? EXIT_FAILURE_OTHER : check_status(&r);
}

/* --- convert ----------------------------------------------------------------------------------
 */

static int convert_to(struct image_args *a, struct image *src, struct err *err) {
    struct image *dst = NULL;
    struct bar bar = bar_begin(a, "convert");
    bool fresh, there = access(a->file[1], F_OK) == 0;
    const char *format = a->to ? a->to : "qcow2";
    int rc = image_new(a, a->file[1], format, src->size, &dst, &fresh, err);
    if (rc) {
        return rc;
    }
    if (dst->size < src->size) {
        rc = ERR_SET(err, ERR_INVAL, "image %s: smaller than %s", a->file[1], a->file[0]);
    }
    rc = rc ? rc : image_copy(dst, src, src->size, fresh, bar_step, &bar);
    bar_end(&bar);
    int closed = dst->ops->close(dst);
    rc = rc ? rc : closed;
    if (rc) {
        ERR_SET(err, (enum err_code) - rc, "image %s: %s", a->file[1], err_name(rc));
        if (!there) {
            unlink(a->file[1]);
        }
    }
    return rc;
}

int image_convert(struct image_args *a, struct err *err) {
    struct image *src = NULL;
    int rc = image_open_file(a, a->file[0], true, &src, err);
    if (!rc) {
        rc = convert_to(a, src, err);
        src->ops->close(src);
    }
    return image_status(rc);
}

/* --- commit -----------------------------------------------------------------------------------
 */

static int commit_now(struct image_args *a, struct image *im, struct err *err) {
    struct bar bar = bar_begin(a, "commit");
    if (!image_is_qcow2(im) || !im->backing) {
        return ERR_SET(err, ERR_INVAL, "image %s: has no backing file", a->file[0]);
    }
    if (im->backing->size < im->size) {
        return ERR_SET(err, ERR_INVAL,
                       "image %s: larger than its backing file; resize that one first", a->file[0]);
    }
    int rc = image_commit(im, bar_step, &bar);
    rc = rc ? rc : qcow2_empty(im);
    bar_end(&bar);
    return rc ? ERR_SET(err, (enum err_code) - rc, "image %s: %s", a->file[0], err_name(rc)) : 0;
}

int image_commit_cmd(struct image_args *a, struct err *err) {
    struct image *im = NULL;
    a->open.commit = true;
    int rc = image_open_file(a, a->file[0], false, &im, err);
    if (!rc) {
        rc = commit_now(a, im, err);
        if (im->ops->close(im) && !rc) {
            rc = ERR_SET(err, ERR_IO, "image %s: could not be written", a->file[0]);
        }
    }
    return image_status(rc);
}

/* --- compare ----------------------------------------------------------------------------------
 */

int image_compare_cmd(struct image_args *a, struct err *err) {
    struct image *x = NULL, *y = NULL;
    struct bar bar = bar_begin(a, "compare");
    u64 where = 0;
    int rc = image_open_file(a, a->file[0], true, &x, err);
    rc = rc ? rc : image_open_file(a, a->file[1], true, &y, err);
    if (!rc) {
        rc = image_compare(x, y, &where, bar_step, &bar);
        bar_end(&bar);
        if (rc < 0) {
            ERR_SET(err, (enum err_code) - rc, "cannot be compared: %s", err_name(rc));
        } else if (rc) {
            printf("different at byte %llu\n", (unsigned long long)where);
        } else {
            puts("same");
        }
    }
    if (x) {
        x->ops->close(x);
    }
    if (y) {
        y->ops->close(y);
    }
    return rc == 1 ? IMAGE_DIFFERENT : image_status(rc);
}
