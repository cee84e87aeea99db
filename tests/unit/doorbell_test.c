/* SPDX-License-Identifier: Apache-2.0 */
/* Doorbell wishes become engine calls on the event thread, removals first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/board/doorbell.h"
#include "hosts/fake/fake.h"

static char calls[256];
static int next_result;

static int on_add(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match, u64 match,
                  void (*fn)(void *ctx), void *ctx) {
    (void)vm, (void)size, (void)has_match, (void)match, (void)fn, (void)ctx;
    assert_true(mmio);
    strcat(calls, address == 0x1000 ? "+a " : "+b ");
    return next_result;
}

static int on_remove(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                     u64 match) {
    (void)vm, (void)mmio, (void)size, (void)has_match, (void)match;
    strcat(calls, address == 0x1000 ? "-a " : "-b ");
    return 0;
}

static void on_ring(void *ctx) {
    (void)ctx;
}

static const struct engine_ops ops = {.doorbell_add = on_add, .doorbell_remove = on_remove};

struct fixture {
    struct fake_host *fake;
    struct engine_vm engine;
    struct doorbells *d;
    struct virtio_doorbell a, b;
};

static void begin(struct fixture *f) {
    calls[0] = 0;
    next_result = 0;
    *f = (struct fixture){.fake = fake_host_create(),
                          .a = {.address = 0x1000, .fn = on_ring},
                          .b = {.address = 0x2000, .fn = on_ring}};
    f->engine = (struct engine_vm){.ops = &ops, .host = &f->fake->host};
    f->d = doorbells_create(&f->fake->host, &f->engine);
    assert_non_null(f->d);
}

static void end(struct fixture *f) {
    doorbells_destroy(f->d);
    fake_run_posted(f->fake);
    assert_int_equal(f->fake->allocated, 0);
    fake_host_destroy(f->fake);
}

static void test_order(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    doorbells_want(f.d, &f.a, true);
    assert_string_equal(calls, "");
    fake_run_posted(f.fake);
    assert_string_equal(calls, "+a ");
    doorbells_want(f.d, &f.b, true);
    doorbells_want(f.d, &f.a, false);
    fake_run_posted(f.fake);
    assert_string_equal(calls, "+a -a +b ");
    doorbells_want(f.d, &f.b, false); /* off and on again: nothing to do */
    doorbells_want(f.d, &f.b, true);
    fake_run_posted(f.fake);
    assert_string_equal(calls, "+a -a +b ");
    end(&f);
    assert_string_equal(calls, "+a -a +b -b ");
}

static void test_refused(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    next_result = -ERR_EXISTS;
    doorbells_want(f.d, &f.a, true);
    fake_run_posted(f.fake);
    doorbells_want(f.d, &f.a, false);
    doorbells_want(f.d, &f.b, false); /* never wanted */
    end(&f);
    assert_string_equal(calls, "+a ");
}

static void test_destroy_before_post(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    doorbells_want(f.d, &f.a, true);
    end(&f);
    assert_string_equal(calls, "");
}

static u32 adds, removes;

static int count_add(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                     u64 match, void (*fn)(void *ctx), void *ctx) {
    (void)vm, (void)mmio, (void)address, (void)size, (void)has_match, (void)match, (void)fn,
        (void)ctx;
    adds++;
    return 0;
}

static int count_remove(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                        u64 match) {
    (void)vm, (void)mmio, (void)address, (void)size, (void)has_match, (void)match;
    removes++;
    return 0;
}

/* A guest that moves its BARs faster than the engine is told: nothing piles up, and what is wanted
 * in the end is there. */
static void test_flood(void **state) {
    static const struct engine_ops counting = {.doorbell_add = count_add,
                                               .doorbell_remove = count_remove};
    struct fixture f;
    (void)state;
    begin(&f);
    f.engine.ops = &counting;
    adds = removes = 0;
    doorbells_want(f.d, &f.a, true);
    u64 before = f.fake->allocated;
    for (u32 i = 1; i <= 10000; i++) {
        doorbells_want(f.d, &f.a, false);
        f.a.address = 0x1000 * i;
        doorbells_want(f.d, &f.a, true);
    }
    assert_int_equal(f.fake->allocated, before);
    for (u32 i = 0; i < 1000; i++) {
        f.b.address = 0x100000000ull + 0x1000 * i;
        doorbells_want(f.d, &f.b, true);
    }
    fake_run_posted(f.fake); /* in several goes */
    assert_int_equal(adds, 1001);
    end(&f);
    assert_int_equal(removes, 1001);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_destroy_before_post),
        cmocka_unit_test(test_flood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
