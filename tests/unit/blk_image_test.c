/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images as back ends on Linux: many requests at once against a model, on both ways of doing
 * I/O; snapshots; backing files and who may open them; closing what is left to write.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/linux/image_fd.h"
#include "image/qcow2.h"
#include "tests/unit/lib_host.h"

/* Slots share clusters, so that allocation and copying of neighbours meet. */
enum { SLOTS = 24, SLOT = 20 * 1024, ROUNDS = 60, DISK = 4 << 20 };

static struct real_host h;
static char dir[64], path[96], other[96];
static enum blk_aio aio;
static u64 seed = 12345;

static u32 rnd(u32 n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 11) % n;
}

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, true);
    strcpy(dir, "/tmp/blk_image_test.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/disk", dir);
    snprintf(other, sizeof(other), "%s/other", dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    unlink(other);
    rmdir(dir);
    real_host_teardown(&h);
    return 0;
}

static void create(const char *name, u32 cluster_bits, const char *backing) {
    struct image_file *file = NULL;
    struct qcow2_create c = {.size = DISK,
                             .cluster_bits = cluster_bits,
                             .backing = backing,
                             .backing_format = backing ? "qcow2" : NULL};
    assert_int_equal(image_fd_create(name, &file, NULL), 0);
    assert_int_equal(qcow2_create(h.host, file, &c, NULL), 0);
    file->ops->close(file);
}

static struct block_backend *disk_open(const struct blk_options *options) {
    struct blk_options o = *options;
    struct block_backend *be = NULL;
    struct err err = {0};
    o.path = path;
    o.aio = aio;
    if (blk_open(h.lh, &o, &be, &err)) {
        fail_msg("%s", err.text);
    }
    return be;
}

struct slot {
    struct block_req req; /* first */
    struct iov iov;
    u32 done;
    int status;
    u32 index;
    bool reading;
    u8 buf[SLOT], model[SLOT];
};

static struct slot slots[SLOTS];

static void slot_done(struct block_req *req, int status) {
    struct slot *s = (struct slot *)(void *)req;
    s->status = status;
    __atomic_fetch_add(&s->done, 1, __ATOMIC_RELEASE);
}

static void slot_submit(struct block_backend *be, struct slot *s) {
    u32 from = rnd(SLOT / 512), n = 1 + rnd(SLOT / 512 - from), what = rnd(8);
    u64 offset = (u64)s->index * SLOT + from * 512;
    s->iov = (struct iov){.base = s->buf + from * 512, .len = n * 512};
    s->req = (struct block_req){.op = BLOCK_READ,
                                .offset = offset,
                                .length = n * 512,
                                .iov = &s->iov,
                                .iov_count = 1,
                                .done = slot_done};
    s->reading = what < 3;
    if (what == 3) {
        s->req.op = BLOCK_FLUSH;
    } else if (what == 4) {
        s->req.op = BLOCK_WRITE_ZEROES;
        memset(s->model + from * 512, 0, n * 512);
    } else if (!s->reading) {
        s->req.op = BLOCK_WRITE;
        memset(s->buf + from * 512, 1 + (int)rnd(255), n * 512);
        memcpy(s->model + from * 512, s->buf + from * 512, n * 512);
    }
    int status = 1;
    if (s->reading && rnd(2) && be->ops->attempt(be, &s->req, &status)) {
        slot_done(&s->req, status);
    } else {
        be->ops->submit(be, &s->req);
    }
}

static void slot_check(struct slot *s) {
    assert_int_equal(s->status, 0);
    if (s->reading) {
        size_t at = (size_t)((u8 *)s->iov.base - s->buf);
        assert_memory_equal(s->iov.base, s->model + at, s->iov.len);
    }
}

static void slots_run(struct block_backend *be) {
    for (u32 r = 0; r < ROUNDS; r++) {
        for (u32 i = 0; i < SLOTS; i++) {
            slots[i].done = 0;
            slots[i].index = i;
            slot_submit(be, &slots[i]);
        }
        for (u32 i = 0; i < SLOTS; i++) {
            assert_true(wait_until(&slots[i].done, 1));
            slot_check(&slots[i]);
        }
    }
}

static void expect_model(const struct blk_options *o) {
    struct blk_options options = *o;
    struct image *im = NULL;
    struct qcow2_check_result r;
    static u8 buf[SLOT];
    options.path = path;
    options.readonly = true;
    assert_int_equal(image_open(h.host, &options, &im, NULL), 0);
    for (u32 i = 0; i < SLOTS; i++) {
        assert_int_equal(image_read(im, (u64)i * SLOT, buf, SLOT), 0);
        assert_memory_equal(buf, slots[i].model, SLOT);
    }
    assert_int_equal(qcow2_check(im, 0, NULL, NULL, &r), 0);
    assert_int_equal(r.errors + r.leaks, 0);
    im->ops->close(im);
}

static void test_parallel(void **state) {
    (void)state;
    for (u32 bits = 9; bits <= 18; bits += 3) {
        struct blk_options o = {.format = BLK_FORMAT_AUTO};
        memset(slots, 0, sizeof(slots));
        create(path, bits, NULL);
        struct block_backend *be = disk_open(&o);
        assert_int_equal(be->capacity, DISK);
        slots_run(be);
        be->ops->close(be);
        expect_model(&o);
    }
}

static void test_backing(void **state) {
    (void)state;
    struct blk_options plain = {0}, o = {.backing_dir = dir}, elsewhere = {.backing_dir = "/usr"};
    struct block_backend *be = NULL;
    struct err err = {0};
    memset(slots, 0, sizeof(slots));
    create(other, 12, NULL);
    create(path, 16, "other");
    plain.path = elsewhere.path = path;
    assert_int_equal(blk_open(h.lh, &plain, &be, &err), -ERR_PERM);
    assert_non_null(strstr(err.text, "stands on the backing file 'other'"));
    err = (struct err){0};
    assert_int_equal(blk_open(h.lh, &elsewhere, &be, &err), -ERR_PERM);
    assert_non_null(strstr(err.text, "not in /usr"));
    be = disk_open(&o);
    slots_run(be);
    be->ops->close(be);
    expect_model(&o);
    create(path, 16, "disk");
    err = (struct err){0};
    plain.backing = true;
    assert_int_equal(blk_open(h.lh, &plain, &be, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "loop"));
}

static void test_snapshot(void **state) {
    (void)state;
    struct blk_options o = {.snapshot = true};
    struct stat before, after;
    memset(slots, 0, sizeof(slots));
    create(path, 16, NULL);
    assert_int_equal(stat(path, &before), 0);
    struct block_backend *be = disk_open(&o);
    assert_false(be->readonly);
    slots_run(be);
    be->ops->close(be);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    memset(slots, 0, sizeof(slots));
    o.snapshot = false;
    expect_model(&o); /* nothing of it is left */
}

static void test_refused(void **state) {
    (void)state;
    struct blk_options o = {.path = path, .format = BLK_FORMAT_QCOW2};
    struct block_backend *be = NULL;
    struct err err = {0};
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, 65536), 0);
    assert_int_equal(blk_open(h.lh, &o, &be, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "not a qcow2 image"));
    assert_non_null(strstr(err.text, path));
    assert_int_equal(pwrite(fd, "QFI\xfb", 4, 0), 4); /* and nothing behind it */
    close(fd);
    err = (struct err){0};
    o.format = BLK_FORMAT_AUTO;
    assert_true(blk_open(h.lh, &o, &be, &err) < 0);
    assert_non_null(strstr(err.text, "version 0"));
    o.format = BLK_FORMAT_RAW; /* as it is */
    assert_int_equal(blk_open(h.lh, &o, &be, NULL), 0);
    be->ops->close(be);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {T(test_parallel), T(test_backing), T(test_snapshot),
                                       T(test_refused)};
    int failed = 0;
    for (aio = BLK_AIO_AUTO; aio <= BLK_AIO_THREADS; aio++) {
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
