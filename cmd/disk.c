/* SPDX-License-Identifier: Apache-2.0 */
/* --disk FILE[,OPTION...]: from its text to a block back end with its layers. */
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/disk.h"
#include "cmd/item.h"
#include "core/board/config.h"

struct choice {
    const char *name;
    int value;
};

static const struct choice formats[] = {
    {"raw", BLK_FORMAT_RAW}, {"qcow2", BLK_FORMAT_QCOW2}, {NULL, 0}};
static const struct choice aios[] = {{"auto", BLK_AIO_AUTO},
                                     {"threads", BLK_AIO_THREADS},
                                     {"io_uring", BLK_AIO_IO_URING},
                                     {NULL, 0}};
static const struct choice fulls[] = {{"error", 0}, {"pause", 1}, {NULL, 0}};

static int take_choice(const struct item *it, const struct choice *c, const char *what, int *out) {
    for (; c->name; c++) {
        if (it->value && !strcmp(c->name, it->value)) {
            *out = c->value;
            return 0;
        }
    }
    return item_bad(it, what);
}

static int take_serial(struct disk_option *d, const struct item *it) {
    if (!it->value || !*it->value || strlen(it->value) > 20) {
        return item_bad(it, "a name of 1 to 20 characters");
    }
    memcpy(d->serial, it->value, strlen(it->value) + 1);
    return 0;
}

static int take_dir(struct disk_option *d, const struct item *it) {
    if (!it->value || !*it->value) {
        return item_bad(it, "a directory");
    }
    d->open.backing_dir = it->value;
    return 0;
}

static int take_queues(struct disk_option *d, const struct item *it) {
    u64 n = 0;
    int rc = item_number(it, 1, 64, &n);
    d->queues = (u32)n;
    return rc;
}

static void limit_per_second(struct token_bucket_config *b, u64 tokens) {
    *b = (struct token_bucket_config){.size = tokens, .refill_ms = 1000};
}

static int take_one(struct disk_option *d, const struct item *it) {
    int n = 0, rc = 0;
    u64 rate = 0;
    if (!strcmp(it->key, "readonly") || !strcmp(it->key, "ro")) {
        rc = item_flag(it, &d->open.readonly);
    } else if (!strcmp(it->key, "snapshot")) {
        rc = item_flag(it, &d->open.snapshot);
    } else if (!strcmp(it->key, "backing")) {
        rc = item_flag(it, &d->open.backing);
    } else if (!strcmp(it->key, "backing-dir")) {
        rc = take_dir(d, it);
    } else if (!strcmp(it->key, "format")) {
        rc = take_choice(it, formats, "raw or qcow2", &n);
        d->open.format = (enum blk_format)n;
    } else if (!strcmp(it->key, "aio")) {
        rc = take_choice(it, aios, "auto, threads or io_uring", &n);
        d->open.aio = (enum blk_aio)n;
    } else if (!strcmp(it->key, "on-full")) {
        rc = take_choice(it, fulls, "error or pause", &n);
        d->pause_when_full = n;
    } else if (!strcmp(it->key, "serial")) {
        rc = take_serial(d, it);
    } else if (!strcmp(it->key, "queues")) {
        rc = take_queues(d, it);
    } else if (!strcmp(it->key, "iops")) {
        rc = item_number(it, 1, INT64_MAX, &rate);
        limit_per_second(&d->limit.ops, rate);
    } else if (!strcmp(it->key, "bps")) {
        rc = item_rate(it, &rate);
        limit_per_second(&d->limit.bandwidth, rate);
    } else {
        rc = item_unknown(it);
    }
    return rc;
}

int disk_option_parse(struct disk_option *d, char *text, struct err *err) {
    *d = (struct disk_option){.open.path = text};
    char *next = option_cut_name(text);
    if (!*text) {
        return ERR_SET(err, ERR_INVAL, "--disk: no file named");
    }
    struct item it = {.option = "--disk", .of = text, .err = err};
    int rc = 0;
    while (!rc && item_next(&next, &it)) {
        rc = take_one(d, &it);
    }
    if (!rc && d->open.snapshot && d->open.readonly) {
        rc = ERR_SET(err, ERR_INVAL, "--disk %s: readonly and snapshot together make no sense",
                     text);
    }
    return rc;
}

/* --- opening ----------------------------------------------------------------------------------
 */

static int add_layers(struct linux_host *lh, const struct disk_option *d, blk_full_fn full,
                      void *ctx, struct block_backend **be, struct err *err) {
    struct host *host = linux_host_host(lh);
    int rc = 0;
    if (d->pause_when_full) {
        rc = blk_full_create(host, *be, full, ctx, be, err);
    }
    if (!rc && (d->limit_always || d->limit.ops.size || d->limit.bandwidth.size)) {
        rc = blk_limit_create(host, *be, &d->limit, be, err);
    }
    return rc;
}

int disk_open(struct linux_host *lh, const struct disk_option *d, blk_full_fn full, void *ctx,
              struct block_backend **out, struct err *err) {
    struct block_backend *be = NULL;
    int rc = blk_open(lh, &d->open, &be, err);
    rc = rc ? rc : add_layers(lh, d, full, ctx, &be, err);
    if (rc && be) {
        be->ops->close(be);
        be = NULL;
    }
    *out = be;
    return rc;
}
