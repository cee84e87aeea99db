/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets: rates over time, bursts, requests larger than the bucket, extreme numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/token_bucket.h"

#define MS 1000000ull

static struct token_bucket bucket(u64 size, u64 refill_ms, u64 burst) {
    struct token_bucket b;
    token_bucket_init(&b, &(struct token_bucket_config){size, refill_ms, burst}, 0);
    return b;
}

static bool take(struct token_bucket *b, u64 tokens, u64 now) {
    if (token_bucket_wait(b, tokens, now)) {
        return false;
    }
    token_bucket_spend(b, tokens);
    return true;
}

static void no_limit(void **state) {
    (void)state;
    struct token_bucket a = bucket(0, 100, 5), b = bucket(100, 0, 5);
    assert_true(take(&a, UINT64_MAX, 0) && take(&a, UINT64_MAX, 0));
    assert_true(take(&b, UINT64_MAX, 0) && take(&b, UINT64_MAX, 0));
    token_bucket_give(&a, 7);
}

static void rate(void **state) {
    (void)state;
    struct token_bucket b = bucket(1000, 100, 0); /* 10 a millisecond */
    assert_true(take(&b, 600, 0));
    assert_true(take(&b, 400, 0));
    assert_int_equal(token_bucket_wait(&b, 50, 0), 5 * MS);
    assert_int_equal(token_bucket_wait(&b, 50, 3 * MS), 2 * MS);
    assert_int_equal(token_bucket_wait(&b, 50, 5 * MS - 1), 1);
    assert_true(take(&b, 50, 5 * MS));
    assert_false(take(&b, 1, 5 * MS));
    assert_true(take(&b, 1000, 1000 * MS)); /* never more than full */
    assert_false(take(&b, 1, 1000 * MS));
    assert_int_equal(token_bucket_wait(&b, 1, 900 * MS), MS / 10); /* a clock that went back */
}

/* Asking often must not lose the fractions of tokens. */
static void rate_over_time(void **state) {
    (void)state;
    struct token_bucket b = bucket(7, 3, 0); /* 2333.3 a second */
    u64 got = 0;
    assert_true(take(&b, 7, 0));
    for (u64 now = 0; now <= 3000 * MS; now += 977) {
        got += take(&b, 1, now);
    }
    assert_in_range(got, 6990, 7000);
}

static void burst(void **state) {
    (void)state;
    struct token_bucket b = bucket(100, 100, 50);
    assert_true(take(&b, 150, 0)); /* at once, and only once */
    assert_false(take(&b, 1, 0));
    assert_true(take(&b, 100, 1000 * MS));
    assert_false(take(&b, 1, 1000 * MS));
}

static void larger_than_the_bucket(void **state) {
    (void)state;
    struct token_bucket b = bucket(100, 100, 0);
    assert_true(take(&b, 300, 0));
    assert_int_equal(token_bucket_wait(&b, 1, 0), 201 * MS);
    assert_int_equal(token_bucket_wait(&b, 300, 0), 300 * MS);
    assert_false(take(&b, 300, 299 * MS));
    assert_true(take(&b, 300, 300 * MS));
    token_bucket_give(&b, 250);
    assert_true(take(&b, 50, 300 * MS));
    assert_false(take(&b, 1, 300 * MS));
}

static void extremes(void **state) {
    (void)state;
    struct token_bucket b = bucket(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_true(take(&b, UINT64_MAX, 1));
    assert_true(take(&b, UINT64_MAX, 2));
    assert_true(token_bucket_wait(&b, UINT64_MAX, 3) > 0);
    token_bucket_spend(&b, UINT64_MAX);
    assert_true(token_bucket_wait(&b, UINT64_MAX, UINT64_MAX) > 0);
    b = bucket(1, UINT64_MAX, 0);
    assert_true(take(&b, 1, 0));
    assert_true(token_bucket_wait(&b, 1, 1) > 1000 * MS);
    b = bucket(UINT64_MAX, 1, 0);
    assert_true(take(&b, UINT64_MAX, 0));
    assert_true(take(&b, 1, 1));
    b = bucket(12500000000ull, 1000, 0); /* 100 Gbit/s */
    assert_true(take(&b, 12500000000ull, 0));
    assert_true(take(&b, 12500, 1000));
    assert_false(take(&b, 1, 1000));
}

static const struct rate_limit both = {.bandwidth = {1000, 100, 0}, .ops = {4, 100, 0}};

static void limiter(void **state) {
    (void)state;
    struct rate_limiter rl;
    rate_limiter_init(&rl, &(struct rate_limit){0}, 0);
    assert_false(rate_limiter_active(&rl));
    assert_int_equal(rate_limiter_take(&rl, UINT64_MAX, 0), 0);
    rate_limiter_init(&rl, &both, 0);
    assert_true(rate_limiter_active(&rl));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(rate_limiter_take(&rl, 200, 0), 0);
    }
    assert_int_equal(rate_limiter_take(&rl, 200, 0),
                     25 * MS); /* bytes were there, operations not */
    assert_int_equal(rl.bandwidth.budget, 200);
    rate_limiter_give(&rl, 200);
    assert_int_equal(rate_limiter_take(&rl, 400, 0), 0);
    assert_int_equal(rate_limiter_take(&rl, 800, 50 * MS), 30 * MS);
}

static void save_load(void **state) {
    (void)state;
    struct rate_limiter a, b;
    u8 buf[64];
    struct snap_writer w = {.buf = buf, .cap = sizeof(buf)};
    rate_limiter_init(&a, &both, 0);
    rate_limiter_take(&a, 1000, 0);
    rate_limiter_save(&a, &w, 1 * MS);
    assert_int_equal(w.len, 64);
    struct snap_reader r = {.buf = buf, .len = w.len};
    rate_limiter_init(&b, &both, 77 * MS);
    rate_limiter_load(&b, &r, 77 * MS);
    assert_int_equal(snap_finish(&r), 0);
    assert_int_equal(rate_limiter_take(&b, 50, 77 * MS), 4 * MS);
    memset(buf, 0xff, sizeof(buf)); /* hostile */
    r = (struct snap_reader){.buf = buf, .len = sizeof(buf)};
    rate_limiter_load(&b, &r, 77 * MS);
    assert_int_equal(b.bandwidth.budget, 1000);
    assert_int_equal(b.bandwidth.burst, 0);
    rate_limiter_take(&b, 50, 78 * MS);
    r = (struct snap_reader){.buf = buf, .len = 3};
    rate_limiter_load(&b, &r, 0);
    assert_true(r.failed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_limit),
        cmocka_unit_test(rate),
        cmocka_unit_test(rate_over_time),
        cmocka_unit_test(burst),
        cmocka_unit_test(larger_than_the_bucket),
        cmocka_unit_test(extremes),
        cmocka_unit_test(limiter),
        cmocka_unit_test(save_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
