/* SPDX-License-Identifier: Apache-2.0 */
/* The rate limit of a serial port: what passes, what is lost, input as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev/char_limit.h"
#include "hosts/fake/fake.h"

static size_t got;
static u32 room;

static size_t on_receive(void *device, const u8 *data, size_t len) {
    (void)data;
    got += len;
    assert_ptr_equal(device, &got);
    return len;
}

static void on_writable(void *device) {
    (void)device;
    room++;
}

static size_t put(struct char_backend *be, size_t len) {
    static const u8 zeros[100];
    return be->ops->write(be, zeros, len);
}

static void test_limit(void **state) {
    (void)state;
    struct fake_host *fake = fake_host_create();
    struct fake_char *lower = fake_char_create();
    struct char_backend *be = NULL;
    const struct token_bucket_config limit = {.size = 100, .refill_ms = 1000};
    assert_int_equal(char_limit_create(&fake->host, &lower->be, &limit, &be, NULL), 0);
    fake_char_input(lower, "x", 1); /* nobody is connected yet */
    be->device = &got;
    be->receive = on_receive;
    be->writable = on_writable;
    for (int i = 0; i < 15; i++) {
        assert_int_equal(put(be, 10), 10);
    }
    assert_int_equal(lower->out_len, 100);
    assert_int_equal(char_limit_dropped(be), 50);
    fake_advance(fake, NSEC_PER_SEC / 2);
    assert_int_equal(put(be, 50), 50);
    assert_int_equal(put(be, 1), 1);
    assert_int_equal(lower->out_len, 150);
    assert_int_equal(char_limit_dropped(be), 51);
    fake_advance(fake, NSEC_PER_SEC);
    lower->accept = 3; /* what the stream does not take is not paid for */
    assert_int_equal(put(be, 10), 3);
    lower->accept = SIZE_MAX;
    assert_int_equal(put(be, 97), 97);
    assert_int_equal(char_limit_dropped(be), 51);
    fake_char_input(lower, "abc", 3);
    assert_int_equal(got, 3);
    lower->be.writable(lower->be.device);
    assert_int_equal(room, 1);
    be->ops->rx_ready(be);
    assert_int_equal(lower->rx_ready_calls, 1);
    be->ops->close(be);
    assert_null(lower->be.receive);
    fake_char_destroy(lower);
    assert_int_equal(fake->allocated, 0);
    fake_host_destroy(fake);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
