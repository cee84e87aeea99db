/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images in memory: every geometry, random work against a model, tables that grow, full
 * disks, failures, and what no image may bring about. Crashes: qcow2_crash_test.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hosts/fake/fake.h"
#include "image/qcow2_int.h"
#include "tests/unit/lib_memfile.h"

static struct fake_host *fake;
static u64 seed;

static u32 rnd(u32 n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 11) % n;
}

static int setup(void **state) {
    (void)state;
    fake = fake_host_create();
    seed = 0x1234567;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    assert_int_equal(fake->allocated, 0);
    fake_host_destroy(fake);
    return 0;
}

static struct memfile *create(const struct qcow2_create *c) {
    struct memfile *m = memfile_create();
    struct err err = {0};
    if (qcow2_create(&fake->host, &m->file, c, &err)) {
        fail_msg("%s", err.text);
    }
    return m;
}

static struct image *open_rw(struct memfile *m) {
    struct image *im = NULL;
    struct err err = {0};
    if (qcow2_open(&fake->host, memfile_again(m), false, NULL, &im, &err)) {
        fail_msg("%s", err.text);
    }
    return im;
}

static void say(void *ctx, const char *text) {
    (void)ctx;
    print_message("%s\n", text);
}

static void check_clean(struct memfile *m, u64 leaks) {
    struct qcow2_check_result r;
    struct image *im = NULL;
    assert_int_equal(qcow2_open(&fake->host, memfile_again(m), true, NULL, &im, NULL), 0);
    assert_int_equal(qcow2_check(im, 0, say, NULL, &r), 0);
    assert_int_equal(r.errors, 0);
    assert_true(r.leaks <= leaks);
    im->ops->close(im);
}

static void close_clean(struct image *im, struct memfile *m) {
    assert_int_equal(im->ops->close(im), 0);
    assert_true(m->closed);
    check_clean(m, 0);
}

/* --- a model ----------------------------------------------------------------------------------
 */

struct model {
    struct memfile *m, *below_m;
    struct image *im, *below;
    u8 *bytes;
    u64 size;
};

static void model_open(struct model *x) {
    x->im = open_rw(x->m);
    if (x->below_m) {
        assert_int_equal(
            qcow2_open(&fake->host, memfile_again(x->below_m), true, NULL, &x->below, NULL), 0);
        x->im->backing = x->below;
    }
    assert_int_equal(x->im->size, x->size);
}

static void model_close(struct model *x, u64 leaks) {
    assert_int_equal(x->im->ops->close(x->im), 0);
    check_clean(x->m, leaks);
}

static void model_compare(struct model *x) {
    u8 *buf = malloc(x->size);
    assert_int_equal(image_read(x->im, 0, buf, x->size), 0);
    for (u64 i = 0; i < x->size; i++) {
        if (buf[i] != x->bytes[i]) {
            fail_msg("byte %llu: %02x, not %02x", (unsigned long long)i, buf[i], x->bytes[i]);
        }
    }
    free(buf);
}

static void random_range(const struct model *x, u64 *offset, u64 *length) {
    u64 sectors = x->size / 512;
    *offset = (u64)rnd((u32)sectors) * 512;
    u64 most = rnd(8) ? 16 : 400;
    most = MIN(most, sectors - *offset / 512);
    *length = (1 + rnd((u32)most)) * 512;
}

/* A write in uneven pieces. */
static int model_write(struct model *x, u64 offset, u64 length) {
    static u8 data[400 * 512];
    struct iov iov[8];
    u32 n = 0;
    for (u64 i = 0; i < length; i++) {
        data[i] = (u8)rnd(256);
    }
    for (u64 at = 0; at < length;) {
        u64 len = n == 7 ? length : 1 + rnd(3000);
        len = MIN(len, length - at);
        iov[n++] = (struct iov){.base = data + at, .len = len};
        at += len;
    }
    int rc = x->im->ops->writev(x->im, offset, iov, n, length);
    if (!rc) {
        memcpy(x->bytes + offset, data, length);
    }
    return rc;
}

static void model_step(struct model *x) {
    u64 offset, length;
    u8 buf[400 * 512];
    random_range(x, &offset, &length);
    switch (rnd(10)) {
    case 0:
        assert_int_equal(x->im->ops->zero(x->im, offset, length, rnd(2)), 0);
        memset(x->bytes + offset, 0, length);
        break;
    case 1: /* what a discard leaves is whatever is read next */
        assert_int_equal(x->im->ops->discard(x->im, offset, length), 0);
        assert_int_equal(image_read(x->im, offset, x->bytes + offset, length), 0);
        break;
    case 2:
        assert_int_equal(x->im->ops->flush(x->im), 0);
        break;
    case 3:
    case 4:
    case 5:
        assert_int_equal(image_read(x->im, offset, buf, length), 0);
        assert_memory_equal(buf, x->bytes + offset, length);
        break;
    default:
        assert_int_equal(model_write(x, offset, length), 0);
        break;
    }
}

static void model_run(struct model *x, u32 steps) {
    model_open(x);
    for (u32 i = 0; i < steps; i++) {
        model_step(x);
        if (rnd(60) == 0) {
            model_close(x, 0);
            model_open(x);
        }
    }
    model_compare(x);
    model_close(x, 0);
}

static void model_free(struct model *x) {
    memfile_destroy(x->m);
    if (x->below_m) {
        memfile_destroy(x->below_m);
    }
    free(x->bytes);
}

/* --- tests ------------------------------------------------------------------------------------
 */

static void test_geometries(void **state) {
    (void)state;
    for (u32 bits = 9; bits <= 21; bits++) {
        for (u32 refcount = 1; refcount <= 64; refcount *= 2) {
            struct qcow2_create c = {.size = bits < 12 ? MIB : 16 * MIB,
                                     .cluster_bits = bits,
                                     .refcount_bits = refcount,
                                     .lazy = refcount == 8};
            struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
            check_clean(x.m, 0);
            model_run(&x, 25);
            model_free(&x);
        }
    }
}

static void test_version_2(void **state) {
    (void)state;
    struct qcow2_create c = {.size = 2 * MIB, .cluster_bits = 12, .version = 2};
    struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
    model_run(&x, 400);
    model_free(&x);
}

static void test_random(void **state) {
    (void)state;
    for (u32 k = 0; k < 6; k++) {
        struct qcow2_create c = {
            .size = 3 * MIB + 512, .cluster_bits = 9 + k, .refcount_bits = 16, .lazy = k & 1};
        struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
        model_run(&x, 1200);
        model_free(&x);
    }
}

/* On top of another image, that is shorter. */
static void test_backing(void **state) {
    (void)state;
    for (u32 k = 0; k < 4; k++) {
        struct qcow2_create b = {.size = MIB + 1024, .cluster_bits = 12};
        struct qcow2_create c = {.size = 2 * MIB,
                                 .cluster_bits = 10 + 2 * k,
                                 .version = k == 2 ? 2 : 3,
                                 .backing = "below",
                                 .backing_format = "qcow2"};
        struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
        struct model below = {.m = create(&b), .size = b.size, .bytes = calloc(1, b.size)};
        const char *format;
        model_run(&below, 200);
        memcpy(x.bytes, below.bytes, b.size);
        x.below_m = below.m;
        model_open(&x);
        assert_string_equal(qcow2_backing(x.im, &format), "below");
        assert_string_equal(format, "qcow2");
        model_compare(&x);
        model_close(&x, 0);
        model_run(&x, 600);
        free(below.bytes);
        model_free(&x);
    }
}

static void test_commit_and_empty(void **state) {
    (void)state;
    struct qcow2_create b = {.size = 2 * MIB, .cluster_bits = 12};
    struct qcow2_create c = {.size = 2 * MIB, .cluster_bits = 13, .backing = "below"};
    struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
    struct model below = {.m = create(&b), .size = b.size, .bytes = calloc(1, b.size)};
    model_run(&below, 100);
    memcpy(x.bytes, below.bytes, b.size);
    x.im = open_rw(x.m);
    x.im->backing = open_rw(below.m);
    for (u32 i = 0; i < 100; i++) {
        model_step(&x);
    }
    assert_int_equal(image_commit(x.im, NULL, NULL), 0);
    assert_int_equal(qcow2_empty(x.im), 0);
    model_compare(&x);
    bool own, zero;
    u64 length = 2 * MIB;
    assert_int_equal(x.im->ops->status(x.im, 0, &length, &own, &zero), 0);
    assert_false(own);
    close_clean(x.im, x.m);
    check_clean(below.m, 0);
    free(below.bytes);
    memfile_destroy(below.m);
    model_free(&x);
}

/* Many clusters with wide counts: the refcount table has to move several times. */
static void test_refcount_growth(void **state) {
    (void)state;
    struct qcow2_create c = {.size = 24 * MIB, .cluster_bits = 9, .refcount_bits = 64};
    struct memfile *m = create(&c);
    struct image *im = open_rw(m);
    u64 first = qcow2_of(im)->rt_offset;
    static u8 buf[65536], back[65536];
    for (u64 at = 0; at < c.size; at += sizeof(buf)) {
        memset(buf, (int)(at >> 16) + 1, sizeof(buf));
        assert_int_equal(image_write(im, at, buf, sizeof(buf)), 0);
    }
    assert_int_not_equal(qcow2_of(im)->rt_offset, first);
    close_clean(im, m);
    im = open_rw(m);
    for (u64 at = 0; at < c.size; at += sizeof(buf)) {
        memset(buf, (int)(at >> 16) + 1, sizeof(buf));
        assert_int_equal(image_read(im, at, back, sizeof(back)), 0);
        assert_memory_equal(buf, back, sizeof(buf));
    }
    /* everything can be let go again, and is used again */
    u64 end = m->end;
    assert_int_equal(im->ops->discard(im, 0, c.size), 0);
    assert_int_equal(im->ops->flush(im), 0);
    for (u64 at = 0; at < c.size / 2; at += sizeof(buf)) {
        assert_int_equal(image_write(im, at, buf, sizeof(buf)), 0);
    }
    close_clean(im, m);
    assert_true(m->end <= end);
    memfile_destroy(m);
}

static void test_resize(void **state) {
    (void)state;
    struct qcow2_create c = {.size = MIB, .cluster_bits = 9};
    struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, 64 * MIB)};
    model_run(&x, 200);
    model_open(&x);
    const u64 sizes[] = {40 * MIB, 2 * MIB + 512, 2 * MIB + 1024, 512, 3 * MIB, 0, MIB};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        assert_int_equal(qcow2_resize(x.im, sizes[i], NULL), 0);
        if (sizes[i] < x.size) {
            memset(x.bytes + sizes[i], 0, x.size - sizes[i]);
        }
        x.size = sizes[i];
        assert_int_equal(x.im->size, x.size);
        model_compare(&x);
        for (u32 k = 0; k < 40 && x.size; k++) {
            model_step(&x);
        }
    }
    assert_int_equal(qcow2_resize(x.im, 513, NULL), -ERR_INVAL);
    assert_int_equal(qcow2_resize(x.im, UINT64_MAX - 511, NULL), -ERR_INVAL);
    model_close(&x, 0);
    model_free(&x);
}

/* A full host disk: writes fail, nothing that was there is lost, and with room it goes on. */
static void test_full(void **state) {
    (void)state;
    for (u32 k = 0; k < 24; k++) {
        struct qcow2_create c = {.size = 4 * MIB, .cluster_bits = 9 + k % 4, .lazy = k & 4};
        struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
        model_open(&x);
        u32 failed = 0;
        x.m->room = 100000 + 10000 * (u64)k;
        for (u32 i = 0; i < 120; i++) {
            u64 offset, length;
            random_range(&x, &offset, &length);
            int rc = model_write(&x, offset, length);
            if (rc) { /* part of it may have been written */
                assert_int_equal(rc, -ERR_NOSPACE);
                assert_int_equal(image_read(x.im, offset, x.bytes + offset, length), 0);
                failed++;
            }
            if (i % 7 == 0) {
                rc = x.im->ops->flush(x.im);
                assert_true(rc == 0 || rc == -ERR_NOSPACE);
            }
        }
        assert_true(failed > 0);
        model_compare(&x);
        x.m->room = UINT64_MAX;
        for (u32 i = 0; i < 50; i++) {
            model_step(&x);
        }
        model_compare(&x);
        model_close(&x, 0);
        model_run(&x, 50);
        model_free(&x);
    }
}

/* A disk that fails at the n-th write or flush and then works again. */
static void test_failures(void **state) {
    (void)state;
    for (u32 n = 1; n < 150; n++) {
        struct qcow2_create c = {.size = MIB, .cluster_bits = 10, .refcount_bits = 64};
        struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
        model_open(&x);
        x.m->fail_in = n;
        for (u32 i = 0; i < 60; i++) {
            u64 offset, length;
            random_range(&x, &offset, &length);
            if (model_write(&x, offset, length)) {
                x.m->fail_in = -1;
                image_read(x.im, offset, x.bytes + offset, length);
            }
            if (i % 5 == 0 && x.im->ops->flush(x.im)) {
                x.m->fail_in = -1;
            }
        }
        x.m->fail_in = -1;
        bool corrupt = qcow2_of(x.im)->corrupt;
        int rc = x.im->ops->close(x.im);
        assert_true(corrupt || rc == 0);
        check_clean(x.m, UINT64_MAX);
        model_free(&x);
    }
}

static void expect_bad(struct memfile *m, const char *why) {
    struct image *im = NULL;
    struct err err = {0};
    assert_true(qcow2_open(&fake->host, memfile_again(m), false, NULL, &im, &err) < 0);
    if (!strstr(err.text, why)) {
        fail_msg("'%s' instead of '%s'", err.text, why);
    }
    assert_int_equal(fake->allocated, 0);
}

static void hostile(u32 at, u32 size, u64 value, const char *why) {
    struct qcow2_create c = {.size = 4 * MIB, .cluster_bits = 12, .backing = "b"};
    struct memfile *m = create(&c);
    u8 v[8];
    be64_put(v, value << (64 - size * 8));
    memcpy(m->data + at, v, size);
    expect_bad(m, why);
    memfile_destroy(m);
}

static void test_hostile_headers(void **state) {
    (void)state;
    hostile(H_MAGIC, 4, 7, "not a qcow2 image");
    hostile(H_VERSION, 4, 4, "version 4");
    hostile(H_CLUSTER_BITS, 4, 8, "clusters are not");
    hostile(H_CLUSTER_BITS, 4, 22, "clusters are not");
    hostile(H_CLUSTER_BITS, 4, 0xffffffff, "clusters are not");
    hostile(H_SIZE, 8, UINT64_MAX, "too large");
    hostile(H_SIZE, 8, 1ull << 62, "too large");
    hostile(H_SIZE, 8, 64 * MIB, "L1 table is too short");
    hostile(H_CRYPT, 4, 1, "encrypted");
    hostile(H_L1_SIZE, 4, 0xffffffff, "too large");
    hostile(H_L1_SIZE, 4, 0, "too short");
    hostile(H_L1_OFFSET, 8, 1ull << 63, "L1 table is outside");
    hostile(H_L1_OFFSET, 8, 4096 * 5 + 8, "L1 table is outside");
    hostile(H_L1_OFFSET, 8, 0, "L1 table is outside");
    hostile(H_L1_OFFSET, 8, 4096, "overlap");
    hostile(H_RT_OFFSET, 8, UINT64_MAX - 4095, "refcount table is outside");
    hostile(H_RT_CLUSTERS, 4, 0xffffffff, "larger than 8 MiB");
    hostile(H_RT_CLUSTERS, 4, 0, "refcount table is outside");
    hostile(H_REFCOUNT_ORDER, 4, 7, "64 bits");
    hostile(H_LENGTH, 4, 0xffff, "header length");
    hostile(H_LENGTH, 4, 60, "header length");
    hostile(H_INCOMPAT, 8, 1ull << 40, "unknown incompatible");
    hostile(H_INCOMPAT, 8, QCOW2_INCOMPAT_DATA_FILE, "external data");
    hostile(H_INCOMPAT, 8, QCOW2_INCOMPAT_EXTENDED_L2, "extended L2");
    hostile(H_INCOMPAT, 8, QCOW2_INCOMPAT_CORRUPT, "marked as corrupt");
    hostile(H_COMPRESSION, 1, 9, "compression");
    hostile(H_NB_SNAPSHOTS, 4, 0xffffffff, "snapshot table");
    hostile(H_BACKING_SIZE, 4, 5000, "name of the backing file");
    hostile(H_BACKING_OFFSET, 8, 4095, "");
    hostile(QCOW2_HEADER_LEN, 8, 0xe2792aca00010000ull, "extension is outside");
}

static void test_hostile_tables(void **state) {
    (void)state;
    struct qcow2_create c = {.size = 4 * MIB, .cluster_bits = 12};
    u8 buf[4096] = {1};
    struct memfile *m = create(&c);
    struct image *im = open_rw(m);
    assert_int_equal(image_write(im, 0, buf, sizeof(buf)), 0);
    assert_int_equal(image_write(im, 2 * MIB, buf, sizeof(buf)), 0);
    u64 l1 = qcow2_of(im)->l1_offset, rt = qcow2_of(im)->rt_offset;
    u64 l2 = qcow2_of(im)->l1[0] & QCOW2_OFFSET;
    close_clean(im, m);
    struct memfile *copy = memfile_copy(m);
    be64_put(copy->data + l1, 1ull << 50);
    expect_bad(copy, "L1 entry 0 points outside");
    be64_put(copy->data + l1, l2 + 512);
    expect_bad(copy, "L1 entry 0 points outside");
    be64_put(copy->data + l1, be64_get(copy->data + l1 + 8));
    expect_bad(copy, "L1 entry 1 points to another table");
    be64_put(copy->data + l1, 0);
    be64_put(copy->data + rt, l1);
    expect_bad(copy, "refcount table entry 0 points to another table");
    memfile_destroy(copy);
    /* a cluster that lies over a table is not written, and the image is not touched any more */
    copy = memfile_copy(m);
    be64_put(copy->data + l2, l1 | QCOW2_COPIED);
    im = open_rw(copy);
    assert_int_equal(image_write(im, 512, buf, 512), -ERR_FORMAT);
    assert_int_equal(image_write(im, MIB, buf, 512), -ERR_FORMAT);
    assert_int_equal(image_read(im, 2 * MIB, buf, 512), 0);
    im->ops->close(im);
    be64_put(copy->data + l2, 0x1234567 << 1 | QCOW2_COPIED); /* not aligned */
    im = open_rw(copy);
    assert_int_equal(image_read(im, 0, buf, 512), -ERR_FORMAT);
    assert_int_equal(image_write(im, 0, buf, 512), -ERR_FORMAT);
    im->ops->close(im);
    memfile_destroy(copy);
    /* counts that call a table's cluster free */
    copy = memfile_copy(m);
    memset(copy->data + be64_get(copy->data + rt), 0, 4096);
    im = open_rw(copy);
    assert_int_equal(image_write(im, MIB, buf, 512), -ERR_FORMAT);
    im->ops->close(im);
    memfile_destroy(copy);
    memfile_destroy(m);
}

static void test_repair(void **state) {
    (void)state;
    for (u32 k = 0; k < 3; k++) {
        struct qcow2_create c = {.size = 2 * MIB, .cluster_bits = 12, .refcount_bits = 16};
        struct model x = {.m = create(&c), .size = c.size, .bytes = calloc(1, c.size)};
        struct qcow2_check_result r;
        model_run(&x, 100);
        struct image *im = open_rw(x.m);
        u64 block = qcow2_of(im)->rt[0], rt = qcow2_of(im)->rt_offset;
        im->ops->close(im);
        if (k == 0) { /* too many */
            be32_put(x.m->data + block + 40, 0x00020002);
        } else if (k == 1) { /* too few */
            memset(x.m->data + block + 20, 0, 100);
        } else { /* all of them gone */
            be64_put(x.m->data + rt, 0);
        }
        im = NULL;
        assert_int_equal(qcow2_open(&fake->host, memfile_again(x.m), false, NULL, &im, NULL), 0);
        assert_int_equal(qcow2_check(im, QCOW2_FIX_LEAKS | QCOW2_FIX_ERRORS, NULL, NULL, &r), 0);
        assert_true(r.errors + r.leaks > 0);
        assert_int_equal(r.errors, r.fixed_errors);
        close_clean(im, x.m);
        model_run(&x, 100);
        model_free(&x);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_geometries),       T(test_version_2),       T(test_random),         T(test_backing),
        T(test_commit_and_empty), T(test_refcount_growth), T(test_resize),         T(test_full),
        T(test_failures),         T(test_hostile_headers), T(test_hostile_tables), T(test_repair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
