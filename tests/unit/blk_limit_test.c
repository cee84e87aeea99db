/* SPDX-License-Identifier: Apache-2.0 */
/* The layers in front of a disk: rate limits, and holding requests while the host's disk is full.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/blk_limit.h"
#include "hosts/fake/fake.h"

enum { COUNT = 40 };
#define MS 1000000ull

struct rig {
    struct fake_host *fake;
    struct fake_disk *disk;
    struct block_backend *be;
    struct block_req req[COUNT];
    struct iov iov;
    u8 buf[4096];
    u32 calls; /* of the full callback */
    bool full;
};

static u32 finished;
static int last_status;

static void on_done(struct block_req *req, int status) {
    (void)req;
    finished++;
    last_status = status;
}

static void on_full(void *ctx, bool full) {
    struct rig *r = ctx;
    r->calls++;
    r->full = full;
}

static struct rig rig_make(void) {
    struct rig r = {.fake = fake_host_create()};
    r.disk = fake_disk_create(r.fake, 1 << 20);
    finished = 0;
    return r;
}

static void rig_free(struct rig *r) {
    r->be->ops->close(r->be);
    fake_disk_destroy(r->disk);
    assert_int_equal(r->fake->allocated, 0);
    fake_host_destroy(r->fake);
}

static void submit(struct rig *r, u32 i, enum block_op op, u64 len) {
    r->iov = (struct iov){r->buf, len};
    r->req[i] = (struct block_req){
        .op = op, .length = len, .iov = &r->iov, .iov_count = 1, .done = on_done};
    r->be->ops->submit(r->be, &r->req[i]);
}

static void advance(struct rig *r, u64 ns) {
    fake_advance(r->fake, ns);
    fake_disk_complete(r->disk);
}

static void test_iops(void **state) {
    (void)state;
    struct rig r = rig_make();
    struct rate_limit limit = {.ops = {.size = 10, .refill_ms = 1000}};
    assert_int_equal(blk_limit_create(&r.fake->host, &r.disk->be, &limit, &r.be, NULL), 0);
    for (u32 i = 0; i < COUNT; i++) {
        submit(&r, i, i % 2 ? BLOCK_READ : BLOCK_FLUSH, i % 2 ? 512 : 0);
    }
    advance(&r, 0);
    assert_int_equal(finished, 10);
    advance(&r, 1000 * MS);
    assert_int_equal(finished, 20);
    advance(&r, 550 * MS);
    assert_int_equal(finished, 25);
    r.be->ops->drain(r.be); /* who drains does not wait for tokens */
    assert_int_equal(finished, COUNT);
    rig_free(&r);
}

static void test_bytes(void **state) {
    (void)state;
    struct rig r = rig_make();
    struct rate_limit limit = {.bandwidth = {.size = 8192, .refill_ms = 1000}}, none = {0};
    assert_int_equal(blk_limit_create(&r.fake->host, &r.disk->be, &limit, &r.be, NULL), 0);
    for (u32 i = 0; i < 6; i++) {
        submit(&r, i, BLOCK_WRITE, 4096);
    }
    advance(&r, 0);
    assert_int_equal(finished, 2);
    advance(&r, 500 * MS);
    assert_int_equal(finished, 3);
    blk_limit_set(r.be, &none);
    advance(&r, 0);
    assert_int_equal(finished, 6);
    rig_free(&r);
}

static void test_full(void **state) {
    (void)state;
    struct rig r = rig_make();
    assert_int_equal(blk_full_create(&r.fake->host, &r.disk->be, on_full, &r, &r.be, NULL), 0);
    submit(&r, 0, BLOCK_WRITE, 512);
    r.disk->fail_next = -ERR_NOSPACE;
    advance(&r, 0);
    assert_int_equal(finished, 0);
    assert_true(r.full);
    submit(&r, 1, BLOCK_READ, 512); /* reads go on */
    advance(&r, 0);
    assert_int_equal(finished, 1);
    fake_advance(r.fake, 500 * MS);
    r.disk->fail_next = -ERR_NOSPACE;
    fake_disk_complete(r.disk);
    assert_int_equal(finished, 1);
    assert_int_equal(r.calls, 1);
    advance(&r, 500 * MS);
    assert_int_equal(finished, 2);
    assert_int_equal(last_status, 0);
    assert_int_equal(r.calls, 2);
    assert_false(r.full);
    submit(&r, 2, BLOCK_WRITE, 512); /* other errors pass */
    r.disk->fail_next = -ERR_IO;
    advance(&r, 0);
    assert_int_equal(last_status, -ERR_IO);
    assert_int_equal(r.calls, 2);
    rig_free(&r);
}

/* Who drains gets the error: a machine that stops cannot wait for room. */
static void test_full_drain(void **state) {
    (void)state;
    struct rig r = rig_make();
    assert_int_equal(blk_full_create(&r.fake->host, &r.disk->be, on_full, &r, &r.be, NULL), 0);
    submit(&r, 0, BLOCK_WRITE, 512);
    r.disk->fail_next = -ERR_NOSPACE;
    advance(&r, 0);
    assert_true(r.full);
    r.disk->fail_next = -ERR_NOSPACE;
    r.be->ops->drain(r.be);
    assert_int_equal(finished, 1);
    assert_int_equal(last_status, -ERR_NOSPACE);
    assert_false(r.full);
    rig_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_iops), cmocka_unit_test(test_bytes),
                                       cmocka_unit_test(test_full),
                                       cmocka_unit_test(test_full_drain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
