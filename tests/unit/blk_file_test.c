/* SPDX-License-Identifier: Apache-2.0 */
/* Raw disk images: every operation, short files, many parts, what cannot be opened, locks, a full
 * disk, and closing with requests in flight. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/lib_host.h"

enum { DISK = 1 << 20, PARTS = 1000, REQUESTS = 500 };

static struct real_host h;
static char dir[64], path[96];
static enum blk_aio aio; /* every test runs with io_uring, where there is one, and with threads */

struct request {
    struct block_req req; /* first */
    struct iov one;
    u32 done;
    int status;
};

static void request_done(struct block_req *req, int status) {
    struct request *r = (struct request *)(void *)req;
    r->status = status;
    __atomic_fetch_add(&r->done, 1, __ATOMIC_RELEASE);
}

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, true);
    strcpy(dir, "/tmp/blk_file_test.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/disk", dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    rmdir(dir);
    real_host_teardown(&h);
    return 0;
}

static void file_make(off_t size) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

static struct block_backend *disk_open(bool readonly) {
    struct block_backend *be = NULL;
    struct err err = {0};
    struct blk_options o = {
        .path = path, .format = BLK_FORMAT_RAW, .aio = aio, .readonly = readonly};
    int rc = blk_open(h.lh, &o, &be, &err);
    if (rc) {
        fail_msg("%s", err.text);
    }
    return be;
}

static struct block_backend *disk(off_t size) {
    file_make(size);
    return disk_open(false);
}

static void submit(struct block_backend *be, struct request *r, enum block_op op, u64 offset,
                   void *buf, u64 len) {
    *r = (struct request){.one = {.base = buf, .len = len}};
    r->req = (struct block_req){.op = op,
                                .offset = offset,
                                .length = len,
                                .iov = &r->one,
                                .iov_count = buf ? 1 : 0,
                                .done = request_done};
    be->ops->submit(be, &r->req);
}

static int run(struct block_backend *be, enum block_op op, u64 offset, void *buf, u64 len) {
    struct request r;
    submit(be, &r, op, offset, buf, len);
    assert_true(wait_until(&r.done, 1));
    return r.status;
}

static void test_read_write(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    u8 a[4096], b[4096], zero[4096] = {0};
    memset(a, 0x5a, sizeof(a));
    assert_int_equal(be->capacity, DISK);
    assert_int_equal(be->block_size, 512);
    assert_int_equal(run(be, BLOCK_WRITE, 512, a, sizeof(a)), 0);
    assert_int_equal(run(be, BLOCK_READ, 512, b, sizeof(b)), 0);
    assert_memory_equal(a, b, sizeof(a));
    assert_int_equal(run(be, BLOCK_READ, 0, b, 512), 0);
    assert_memory_equal(b, zero, 512);
    assert_int_equal(run(be, BLOCK_WRITE, DISK - 4096, a, 4096), 0);
    assert_int_equal(run(be, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run(be, BLOCK_DISCARD, 512, NULL, 4096), 0);
    assert_int_equal(run(be, BLOCK_READ, 512, b, sizeof(b)), 0);
    assert_memory_equal(b, zero, sizeof(b));
    assert_int_equal(run(be, BLOCK_WRITE_ZEROES, DISK - 4096, NULL, 4096), 0);
    assert_int_equal(run(be, BLOCK_WRITE_ZEROES, 0, NULL, 0), 0);
    assert_int_equal(run(be, BLOCK_READ, DISK - 4096, b, sizeof(b)), 0);
    assert_memory_equal(b, zero, sizeof(b));
    be->ops->close(be);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, DISK); /* neither grown nor cut */
}

static void test_out_of_range(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    u8 buf[1024];
    assert_int_equal(run(be, BLOCK_READ, DISK - 512, buf, 1024), -ERR_RANGE);
    assert_int_equal(run(be, BLOCK_WRITE, DISK, buf, 512), -ERR_RANGE);
    assert_int_equal(run(be, BLOCK_READ, UINT64_MAX - 511, buf, 512), -ERR_RANGE);
    assert_int_equal(run(be, BLOCK_DISCARD, 512, NULL, UINT64_MAX - 511), -ERR_RANGE);
    assert_int_equal(run(be, BLOCK_WRITE_ZEROES, DISK, NULL, 512), -ERR_RANGE);
    assert_int_equal(run(be, (enum block_op)77, 0, NULL, 0), -ERR_UNSUPPORTED);
    be->ops->close(be);
}

/* More parts than one system call takes, of uneven sizes, some of them empty. */
static void test_many_parts(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    static u8 out[DISK], in[DISK];
    static struct iov w[PARTS], r[PARTS];
    u64 at = 0;
    for (u64 i = 0; i < PARTS; i++) {
        u64 len = i % 300 < 3 ? 0 : 1 + i * 7 % 600;
        w[i] = (struct iov){.base = out + at, .len = len};
        r[i] = (struct iov){.base = in + at, .len = len};
        at += len;
    }
    for (u64 i = 0; i < at; i++) {
        out[i] = (u8)(i * 31 + (i >> 8));
    }
    struct request q = {0};
    q.req = (struct block_req){.op = BLOCK_WRITE,
                               .offset = 1024,
                               .length = at,
                               .iov = w,
                               .iov_count = PARTS,
                               .done = request_done};
    be->ops->submit(be, &q.req);
    assert_true(wait_until(&q.done, 1));
    assert_int_equal(q.status, 0);
    q.req.op = BLOCK_READ;
    q.req.iov = r;
    be->ops->submit(be, &q.req);
    assert_true(wait_until(&q.done, 2));
    assert_int_equal(q.status, 0);
    assert_memory_equal(in, out, at);
    assert_int_equal(run(be, BLOCK_WRITE, 0, out, 0), 0);
    be->ops->close(be);
}

/* The file is cut by somebody else while it is in use: what is gone reads as zeros. */
static void test_short_file(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    u8 buf[8192], zero[8192] = {0};
    memset(buf, 0x77, sizeof(buf));
    assert_int_equal(run(be, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(run(be, BLOCK_READ, 0, buf, sizeof(buf)), 0);
    assert_int_equal(buf[999], 0x77);
    assert_memory_equal(buf + 1000, zero, sizeof(buf) - 1000);
    memset(buf, 0x66, sizeof(buf));
    assert_int_equal(run(be, BLOCK_READ, 65536, buf, sizeof(buf)), 0);
    assert_memory_equal(buf, zero, sizeof(buf));
    be->ops->close(be);
}

static void test_odd_size(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK + 100); /* the last, partial sector does not exist */
    assert_int_equal(be->capacity, DISK);
    be->ops->close(be);
}

static void test_readonly(void **state) {
    (void)state;
    u8 buf[512] = {0};
    file_make(DISK);
    chmod(path, 0400);
    struct block_backend *be = disk_open(true);
    assert_true(be->readonly);
    assert_false(be->discard);
    assert_false(be->write_zeroes);
    assert_int_equal(run(be, BLOCK_READ, 0, buf, 512), 0);
    assert_int_equal(run(be, BLOCK_WRITE, 0, buf, 512), -ERR_PERM);
    assert_int_equal(run(be, BLOCK_DISCARD, 0, NULL, 512), -ERR_PERM);
    assert_int_equal(run(be, BLOCK_WRITE_ZEROES, 0, NULL, 512), -ERR_PERM);
    assert_int_equal(run(be, BLOCK_FLUSH, 0, NULL, 0), 0);
    be->ops->close(be);
}

static void refuse(const char *name, bool readonly, const char *why) {
    struct block_backend *be = NULL;
    struct err err = {0};
    assert_true(blk_file_open(h.lh, name, readonly, &be, &err) < 0);
    assert_null(be);
    assert_non_null(strstr(err.text, name));
    if (!strstr(err.text, why)) {
        fail_msg("%s: expected '%s'", err.text, why);
    }
}

static void test_refused(void **state) {
    (void)state;
    refuse(path, false, "No such file");
    refuse(dir, false, "is a directory");
    refuse(dir, true, "is a directory");
    refuse("/dev/null", false, "neither a file nor a block device");
    file_make(0);
    refuse(path, false, "is empty");
    file_make(511);
    refuse(path, true, "is empty");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse(path, true, "neither a file nor a block device"); /* and does not block in open */
}

static void test_locks(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    refuse(path, false, "in use by another machine");
    refuse(path, true, "in use by another machine");
    be->ops->close(be);
    struct block_backend *a = disk_open(true);
    struct block_backend *b = disk_open(true); /* two readers are fine */
    refuse(path, false, "in use by another machine");
    a->ops->close(a);
    b->ops->close(b);
    be = disk_open(false);
    be->ops->close(be);
}

/* No room: the guest gets an error, and what was written before stays. */
static void test_disk_full(void **state) {
    (void)state;
    struct rlimit before, small = {.rlim_cur = 65536};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct block_backend *be = disk(DISK);
    u8 a[16384], b[16384];
    memset(a, 0xa5, sizeof(a));
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int first = run(be, BLOCK_WRITE, 49152, a, sizeof(a));
    int crossing = run(be, BLOCK_WRITE, 57344, a, sizeof(a));
    int beyond = run(be, BLOCK_WRITE, 131072, a, sizeof(a));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(first, 0);
    assert_int_equal(crossing, -ERR_IO);
    assert_int_equal(beyond, -ERR_IO);
    assert_int_equal(run(be, BLOCK_READ, 49152, b, sizeof(b)), 0);
    assert_memory_equal(a, b, sizeof(b));
    assert_int_equal(run(be, BLOCK_WRITE, 131072, a, sizeof(a)),
                     0); /* goes on when there is room */
    be->ops->close(be);
}

static void test_drain_and_close(void **state) {
    (void)state;
    static struct request r[REQUESTS];
    static u8 buf[REQUESTS][512], check[512];
    struct block_backend *be = disk(DISK);
    for (u32 i = 0; i < REQUESTS; i++) {
        memset(buf[i], (int)i, sizeof(buf[i]));
        submit(be, &r[i], BLOCK_WRITE, (u64)i * 512, buf[i], 512);
    }
    be->ops->drain(be);
    for (u32 i = 0; i < REQUESTS; i++) {
        assert_int_equal(__atomic_load_n(&r[i].done, __ATOMIC_ACQUIRE), 1);
        assert_int_equal(r[i].status, 0);
    }
    for (u32 i = 0; i < REQUESTS; i++) {
        submit(be, &r[i], BLOCK_READ, (u64)i * 512, buf[i], 512);
    }
    be->ops->close(be);
    for (u32 i = 0; i < REQUESTS; i++) {
        assert_int_equal(__atomic_load_n(&r[i].done, __ATOMIC_ACQUIRE), 1);
        memset(check, (int)i, sizeof(check));
        assert_memory_equal(buf[i], check, sizeof(check));
    }
}

struct drainer {
    struct block_backend *be;
    struct request r[8];
    u8 buf[8][512];
    u32 done;
};

static void drain_on_loop(void *ctx) {
    struct drainer *d = ctx;
    for (u32 i = 0; i < 8; i++) {
        submit(d->be, &d->r[i], BLOCK_READ, 0, d->buf[i], 512);
    }
    d->be->ops->drain(d->be);
    __atomic_store_n(&d->done, 1, __ATOMIC_RELEASE);
}

/* Draining needs no event thread: that may wait for the vCPU that drains (a debugger's pause). */
static void test_drain_on_event_thread(void **state) {
    (void)state;
    static struct drainer d;
    d = (struct drainer){.be = disk(DISK)};
    assert_int_equal(h.host->ops->post(h.host, drain_on_loop, &d), 0);
    assert_true(wait_until(&d.done, 1));
    for (u32 i = 0; i < 8; i++) {
        assert_int_equal(d.r[i].done, 1);
    }
    d.be->ops->close(d.be);
}

/* The command closes disks after its loop has ended: completions still come. */
static void test_close_without_loop(void **state) {
    (void)state;
    struct request r[8];
    u8 buf[8][512];
    struct block_backend *be = disk(DISK);
    real_host_stop(&h);
    for (u32 i = 0; i < 8; i++) {
        submit(be, &r[i], BLOCK_READ, 0, buf[i], 512);
    }
    be->ops->close(be);
    for (u32 i = 0; i < 8; i++) {
        assert_int_equal(r[i].done, 1);
    }
}

/* What is in the host's cache is read at once; what is not permitted is left to submit. */
static void test_attempt(void **state) {
    (void)state;
    struct block_backend *be = disk(DISK);
    u8 a[4096], b[4096] = {0};
    memset(a, 0x3c, sizeof(a));
    assert_int_equal(run(be, BLOCK_WRITE, 8192, a, sizeof(a)), 0);
    struct iov one = {.base = b, .len = sizeof(b)};
    struct block_req req = {
        .op = BLOCK_READ, .offset = 8192, .length = sizeof(b), .iov = &one, .iov_count = 1};
    int status = 1;
    if (be->ops->attempt(be, &req, &status)) {
        assert_int_equal(status, 0);
        assert_memory_equal(a, b, sizeof(b));
    }
    req.op = BLOCK_WRITE;
    assert_false(be->ops->attempt(be, &req, &status));
    req.op = BLOCK_READ;
    req.offset = DISK;
    assert_false(be->ops->attempt(be, &req, &status));
    be->ops->close(be);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_read_write),
        T(test_out_of_range),
        T(test_many_parts),
        T(test_short_file),
        T(test_odd_size),
        T(test_readonly),
        T(test_refused),
        T(test_locks),
        T(test_disk_full),
        T(test_drain_and_close),
        T(test_drain_on_event_thread),
        T(test_close_without_loop),
        T(test_attempt),
    };
    int failed = 0;
    for (aio = BLK_AIO_AUTO; aio <= BLK_AIO_THREADS; aio++) {
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
