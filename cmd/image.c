/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia image`: its options, and making, describing and resizing disk images. */
#include "cmd/image.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "hosts/linux/image_fd.h"

static const char help_text[] =
    "usage: sosia image create  [OPTIONS] FILE SIZE     an empty image (SIZE may be left out with\n"
    "                                                   --backing-file)\n"
    "       sosia image info    [--json] FILE           what an image is\n"
    "       sosia image check   [--repair leaks|all] FILE\n"
    "       sosia image resize  [--shrink] FILE [+]SIZE\n"
    "       sosia image convert [OPTIONS] FILE NEW      a copy in another format, zeros as holes\n"
    "       sosia image commit  --backing FILE          what FILE holds goes to its backing file\n"
    "       sosia image compare FILE FILE\n\n"
    "  --format raw|qcow2       of FILE (default: by its first bytes; create: qcow2)\n"
    "  --to raw|qcow2           of NEW (default: qcow2)\n"
    "  --backing                open the backing files that an image names\n"
    "  --backing-dir DIR        open those in DIR or below\n"
    "  --backing-file NAME      create: the new image stands on this one\n"
    "  --backing-format raw|qcow2\n"
    "                           create: its format\n"
    "  --cluster-size SIZE      qcow2: 512 to 2M (default: 64K)\n"
    "  --refcount-bits N        qcow2: 1, 2, 4 ... 64 (default: 16)\n"
    "  --lazy-refcounts         qcow2: counts are written when the image is closed\n"
    "  --version 2|3            qcow2: of the format (default: 3)\n"
    "  --quiet                  no progress bar\n\n"
    "Exit status: 0 done, 1 failed (compare: different), 2 bad usage or input (check: errors\n"
    "found), 3 check: leaks found.\n";

enum {
    IOPT_FORMAT = 256,
    IOPT_TO,
    IOPT_BACKING,
    IOPT_BACKING_DIR,
    IOPT_BACKING_FILE,
    IOPT_BACKING_FORMAT,
    IOPT_CLUSTER,
    IOPT_REFCOUNT,
    IOPT_LAZY,
    IOPT_VERSION,
    IOPT_REPAIR,
    IOPT_SHRINK,
    IOPT_QUIET,
    IOPT_JSON,
    IOPT_HELP,
};

static const struct option options[] = {
    {"format", required_argument, NULL, IOPT_FORMAT},
    {"to", required_argument, NULL, IOPT_TO},
    {"backing", no_argument, NULL, IOPT_BACKING},
    {"backing-dir", required_argument, NULL, IOPT_BACKING_DIR},
    {"backing-file", required_argument, NULL, IOPT_BACKING_FILE},
    {"backing-format", required_argument, NULL, IOPT_BACKING_FORMAT},
    {"cluster-size", required_argument, NULL, IOPT_CLUSTER},
    {"refcount-bits", required_argument, NULL, IOPT_REFCOUNT},
    {"lazy-refcounts", no_argument, NULL, IOPT_LAZY},
    {"version", required_argument, NULL, IOPT_VERSION},
    {"repair", required_argument, NULL, IOPT_REPAIR},
    {"shrink", no_argument, NULL, IOPT_SHRINK},
    {"quiet", no_argument, NULL, IOPT_QUIET},
    {"json", no_argument, NULL, IOPT_JSON},
    {"help", no_argument, NULL, IOPT_HELP},
    {0},
};

/* --- options ----------------------------------------------------------------------------------
 */

/* Bytes unless a unit follows, as qemu-img takes it. */
static int size_parse(const char *text, u64 *bytes) {
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return -ERR_INVAL;
    }
    unsigned long long n = strtoull(text, &end, 10);
    if (!*end) {
        *bytes = n;
        return 0;
    }
    return parse_size(text, bytes);
}

static int format_take(const char *option, const char *arg, const char **out, struct err *err) {
    if (strcmp(arg, "raw") && strcmp(arg, "qcow2")) {
        return ERR_SET(err, ERR_INVAL, "%s %s: not raw or qcow2", option, arg);
    }
    *out = arg;
    return 0;
}

static int cluster_take(struct image_args *a, const char *arg, struct err *err) {
    u64 size = 0;
    if (size_parse(arg, &size) || size < 512 || size > 2 * MIB || (size & (size - 1))) {
        return ERR_SET(err, ERR_INVAL, "--cluster-size %s: not a power of two from 512 to 2M", arg);
    }
    a->create.cluster_bits = (u32)__builtin_ctzll(size);
    return 0;
}

static int option_take(struct image_args *a, int id, const char *arg, struct err *err) {
    switch (id) {
    case IOPT_FORMAT:
        return format_take("--format", arg, &a->format, err);
    case IOPT_TO:
        return format_take("--to", arg, &a->to, err);
    case IOPT_BACKING:
        a->open.backing = true;
        return 0;
    case IOPT_BACKING_DIR:
        a->open.backing_dir = arg;
        return 0;
    case IOPT_BACKING_FILE:
        a->backing_name = arg;
        return 0;
    case IOPT_BACKING_FORMAT:
        return format_take("--backing-format", arg, &a->backing_format, err);
    case IOPT_CLUSTER:
        return cluster_take(a, arg, err);
    case IOPT_REFCOUNT:
        a->create.refcount_bits = (u32)strtoul(arg, NULL, 10);
        return 0;
    case IOPT_LAZY:
        a->create.lazy = true;
        return 0;
    case IOPT_VERSION:
        a->create.version = (u32)strtoul(arg, NULL, 10);
        return 0;
    case IOPT_REPAIR:
        a->repair = arg;
        return strcmp(arg, "leaks") && strcmp(arg, "all")
                   ? ERR_SET(err, ERR_INVAL, "--repair %s: not leaks or all", arg)
                   : 0;
    case IOPT_SHRINK:
        a->shrink = true;
        return 0;
    case IOPT_QUIET:
        a->quiet = true;
        return 0;
    case IOPT_JSON:
        a->json = true;
        return 0;
    default:
        return ERR_SET(err, ERR_INVAL, "unknown option or missing value; see `sosia image --help`");
    }
}

/* --- helpers ----------------------------------------------------------------------------------
 */

int image_status(int rc) {
    if (!rc) {
        return 0;
    }
    return rc == -ERR_NOMEM || rc == -ERR_IO || rc == -ERR_NOSPACE ? EXIT_FAILURE_OTHER
                                                                   : EXIT_BAD_INPUT;
}

int image_open_file(const struct image_args *a, const char *path, bool readonly, struct image **out,
                    struct err *err) {
    struct blk_options o = a->open;
    o.path = path;
    o.readonly = readonly;
    if (a->format) {
        o.format = a->format[0] == 'r' ? BLK_FORMAT_RAW : BLK_FORMAT_QCOW2;
    }
    return image_open(a->host, &o, out, err);
}

static int raw_new(const struct image_args *a, const char *path, struct image_file *file, u64 size,
                   struct image **out, struct err *err) {
    if (file->size < size && file->ops->truncate(file, size)) {
        return ERR_SET(err, ERR_IO, "image %s: cannot be made %llu bytes large", path,
                       (unsigned long long)size);
    }
    return raw_image_open(a->host, file, false, out, err);
}

int image_new(const struct image_args *a, const char *path, const char *format, u64 size,
              struct image **out, bool *fresh, struct err *err) {
    struct image_file *file = NULL;
    struct qcow2_create c = a->create;
    int rc = image_fd_create(path, &file, err);
    if (rc) {
        return rc;
    }
    *fresh = file->size == 0; /* a block device holds what it held */
    if (!strcmp(format, "raw")) {
        rc = raw_new(a, path, file, size, out, err);
    } else {
        c.size = size;
        c.backing = a->backing_name;
        c.backing_format = a->backing_format;
        rc = qcow2_create(a->host, file, &c, err);
        rc = rc ? rc : qcow2_open(a->host, file, false, NULL, out, err);
        *fresh = true;
    }
    if (rc) {
        file->ops->close(file);
    }
    return rc;
}

/* --- create -----------------------------------------------------------------------------------
 */

/* The backing file named is looked at once, for its size and to see that it is there. */
static int backing_size(const struct image_args *a, u64 *size, struct err *err) {
    struct blk_options o = {.readonly = true, .no_backing = true};
    struct image *im = NULL;
    char path[4096];
    const char *slash = a->backing_name[0] == '/' ? NULL : strrchr(a->file[0], '/');
    int dir = slash ? (int)(slash - a->file[0]) + 1 : 0;
    snprintf(path, sizeof(path), "%.*s%s", dir, a->file[0], a->backing_name);
    o.path = path;
    o.format = a->backing_format && a->backing_format[0] == 'r' ? BLK_FORMAT_RAW : BLK_FORMAT_AUTO;
    int rc = image_open(a->host, &o, &im, err);
    if (!rc) {
        *size = im->size;
        im->ops->close(im);
    }
    return rc;
}

int image_create(struct image_args *a, struct err *err) {
    const char *format = a->format ? a->format : "qcow2";
    struct image *im = NULL;
    bool fresh;
    u64 size = 0;
    int rc = 0;
    if (a->backing_name && (!strcmp(format, "raw") || !a->backing_format)) {
        return image_status(
            ERR_SET(err, ERR_INVAL, "--backing-file needs the format qcow2, and --backing-format"));
    }
    if (a->files < 2 && !a->backing_name) {
        return image_status(ERR_SET(err, ERR_INVAL, "create needs a file and a size"));
    }
    rc = a->backing_name ? backing_size(a, &size, err) : 0;
    if (!rc && a->files == 2 && (size_parse(a->file[1], &size) || !size || size % 512)) {
        rc =
            ERR_SET(err, ERR_INVAL, "size %s: not a multiple of 512 bytes such as 10G", a->file[1]);
    }
    rc = rc ? rc : image_new(a, a->file[0], format, size, &im, &fresh, err);
    if (!rc && im && im->ops->close(im)) {
        rc = ERR_SET(err, ERR_IO, "image %s: could not be written", a->file[0]);
    }
    return image_status(rc);
}

/* --- info -------------------------------------------------------------------------------------
 */

static void say_size(const char *what, u64 bytes) {
    static const char units[] = {'B', 'K', 'M', 'G', 'T', 'P', 'E'};
    double v = (double)bytes;
    u32 u = 0;
    while (v >= 1024 && u + 1 < sizeof(units)) {
        v /= 1024;
        u++;
    }
    printf("%s: %.4g %c%s (%llu bytes)\n", what, v, units[u], u ? "iB" : "",
           (unsigned long long)bytes);
}

static void info_print(const char *path, struct image *im, const struct qcow2_info *q, u64 disk) {
    printf("image: %s\nformat: %s\n", path, im->ops->name);
    say_size("size", im->size);
    say_size("on disk", disk);
    if (!q->version) {
        return;
    }
    say_size("cluster size", q->cluster_size);
    printf("version: %u\nrefcount bits: %u\ncompression: %s\n", q->version, q->refcount_bits,
           q->compression);
    printf("lazy refcounts: %s\ndirty: %s\ncorrupt: %s\n", q->lazy ? "yes" : "no",
           q->dirty ? "yes" : "no", q->corrupt ? "yes" : "no");
    if (q->snapshots) {
        printf("internal snapshots: %u\n", q->snapshots);
    }
    if (q->backing[0]) {
        printf("backing file: %s\nbacking format: %s\n", q->backing,
               q->backing_format[0] ? q->backing_format : "not given");
    }
}

static void info_json(const char *path, struct image *im, const struct qcow2_info *q, u64 disk) {
    json_t *j = json_pack("{s:s, s:s, s:I, s:I}", "filename", path, "format", im->ops->name,
                          "virtual-size", (json_int_t)im->size, "actual-size", (json_int_t)disk);
    if (j && q->version) {
        json_object_set_new(j, "cluster-size", json_integer((json_int_t)q->cluster_size));
        json_object_set_new(j, "dirty-flag", json_boolean(q->dirty));
        json_object_set_new(j, "version", json_integer(q->version));
        json_object_set_new(j, "refcount-bits", json_integer(q->refcount_bits));
        json_object_set_new(j, "lazy-refcounts", json_boolean(q->lazy));
        json_object_set_new(j, "corrupt", json_boolean(q->corrupt));
        json_object_set_new(j, "compression-type", json_string(q->compression));
    }
    if (j && q->version && q->backing[0]) {
        json_object_set_new(j, "backing-filename", json_string(q->backing));
        json_object_set_new(j, "backing-filename-format", json_string(q->backing_format));
    }
    if (j) {
        json_dumpf(j, stdout, JSON_INDENT(4));
        putchar('\n');
        json_decref(j);
    }
}

int image_info(struct image_args *a, struct err *err) {
    struct image *im = NULL;
    struct qcow2_info q = {0};
    struct stat st = {0};
    a->open.no_backing = true;
    int rc = image_open_file(a, a->file[0], true, &im, err);
    if (rc) {
        return image_status(rc);
    }
    if (image_is_qcow2(im)) {
        qcow2_info(im, &q);
    }
    stat(a->file[0], &st);
    u64 disk = (u64)st.st_blocks * 512;
    if (a->json) {
        info_json(a->file[0], im, &q, disk);
    } else {
        info_print(a->file[0], im, &q, disk);
    }
    im->ops->close(im);
    return 0;
}

/* --- resize -----------------------------------------------------------------------------------
 */

static int new_size(const struct image_args *a, u64 now, u64 *size, struct err *err) {
    const char *text = a->file[1];
    char sign = *text;
    bool relative = sign == '+' || sign == '-';
    text += relative;
    if (size_parse(text, size) || (sign == '-' && *size > now) ||
        (sign == '+' && *size > INT64_MAX - now)) {
        return ERR_SET(err, ERR_INVAL, "size %s: not a size such as 10G, +1G or -1G", a->file[1]);
    }
    *size = sign == '+' ? now + *size : sign == '-' ? now - *size : *size;
    if (!*size || *size % 512) {
        return ERR_SET(err, ERR_INVAL, "size %s: not a multiple of 512 bytes", a->file[1]);
    }
    if (*size < now && !a->shrink) {
        return ERR_SET(err, ERR_INVAL,
                       "size %s: smaller than the %llu bytes of now; say --shrink to cut what is "
                       "behind",
                       a->file[1], (unsigned long long)now);
    }
    return 0;
}

int image_resize(struct image_args *a, struct err *err) {
    struct image *im = NULL;
    u64 size = 0;
    a->open.no_backing = true;
    int rc = image_open_file(a, a->file[0], false, &im, err);
    if (rc) {
        return image_status(rc);
    }
    rc = new_size(a, im->size, &size, err);
    if (!rc && image_is_qcow2(im)) {
        rc = qcow2_resize(im, size, err);
    } else if (!rc && im->file->ops->truncate(im->file, size)) {
        rc = ERR_SET(err, ERR_IO, "image %s: could not be resized", a->file[0]);
    }
    if (im->ops->close(im) && !rc) {
        rc = ERR_SET(err, ERR_IO, "image %s: could not be written", a->file[0]);
    }
    return image_status(rc);
}

/* --- the verb ---------------------------------------------------------------------------------
 */

struct image_verb {
    const char *name;
    int (*run)(struct image_args *a, struct err *err);
    int least, most; /* files */
};

static const struct image_verb verbs[] = {
    {"create", image_create, 1, 2},      {"info", image_info, 1, 1},
    {"check", image_check, 1, 1},        {"resize", image_resize, 2, 2},
    {"convert", image_convert, 2, 2},    {"commit", image_commit_cmd, 1, 1},
    {"compare", image_compare_cmd, 2, 2}};

static int args_parse(struct image_args *a, int argc, char **argv, struct err *err) {
    int id, rc = 0;
    optind = 0;
    opterr = 0;
    while (!rc && (id = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (id == IOPT_HELP || id == 'h') {
            fputs(help_text, stdout);
            return 1;
        }
        rc = option_take(a, id, optarg, err);
    }
    for (; !rc && optind < argc; optind++) {
        if (a->files == 2) {
            rc = ERR_SET(err, ERR_INVAL, "%s: one file too many", argv[optind]);
        } else {
            a->file[a->files++] = argv[optind];
        }
    }
    return rc;
}

static int run_verb(const struct image_verb *v, int argc, char **argv, struct err *err) {
    struct linux_host *lh = NULL;
    struct image_args a = {0};
    int rc = args_parse(&a, argc, argv, err);
    if (rc == 1) {
        return 0;
    }
    if (!rc && (a.files < v->least || a.files > v->most)) {
        rc = ERR_SET(err, ERR_INVAL, "image %s: wrong number of files; see `sosia image --help`",
                     v->name);
    }
    rc = rc ? rc : linux_host_create(&lh, err);
    if (rc) {
        return image_status(rc);
    }
    a.host = linux_host_host(lh);
    int status = v->run(&a, err);
    linux_host_destroy(lh);
    return status;
}

int cmd_image(int argc, char **argv) {
    struct err err = {0};
    int status = EXIT_BAD_INPUT;
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(help_text, stdout);
        return 0;
    }
    const struct image_verb *v = NULL;
    for (size_t i = 0; i < ARRAY_LEN(verbs) && argc > 1; i++) {
        v = !strcmp(argv[1], verbs[i].name) ? &verbs[i] : v;
    }
    if (v) {
        status = run_verb(v, argc - 1, argv + 1, &err);
    } else {
        ERR_SET(&err, ERR_INVAL,
                "image: not create, info, check, resize, convert, commit or "
                "compare; see `sosia image --help`");
    }
    if (err.code) {
        complain("%s", err.text);
    }
    return status;
}
