/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio entropy device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_virtio.h"

struct rig {
    struct vt vt;
    struct vd d;
    struct device *dev;
    u64 buf;
};

static struct rig *setup_limited(const struct rate_limit *limit) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    struct virtio_device *vdev = virtio_rng_create(&r->vt.env, limit, NULL);
    r->dev = virtio_mmio_attach(&r->vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    assert_true(vd_find_mmio(&r->d, &r->vt, VT_MMIO_BASE));
    assert_true(vd_start(&r->d, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC, 1));
    r->buf = vt_alloc(&r->vt, 65536, 4096);
    return r;
}

static struct rig *setup(void) {
    return setup_limited(NULL);
}

static void teardown(struct rig *r) {
    r->dev->ops->remove(r->dev);
    vt_fini(&r->vt);
    free(r);
}

static void fills_buffers(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg[] = {{r->buf, 33, true}, {r->buf + 1000, 7, true}};
    u32 used;
    vd_add(&r->d, 0, seg, 2);
    vd_kick(&r->d, 0);
    assert_true(vd_used(&r->d, 0, &used) >= 0);
    assert_int_equal(used, 40);
    u32 zeros = 0;
    for (u32 i = 0; i < 7; i++) {
        zeros += r->vt.mem[r->buf + 1000 + i] == 0;
    }
    assert_true(zeros < 4);
    assert_int_equal(r->vt.mem[r->buf + 33], 0);
    assert_true(r->vt.written >= 40);
    teardown(r);
}

static void bounded(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg big = {r->buf, 65536, true};
    u32 used;
    vd_add(&r->d, 0, &big, 1);
    vd_kick(&r->d, 0);
    vd_used(&r->d, 0, &used);
    assert_int_equal(used, 4096);
    assert_int_equal(r->vt.mem[r->buf + 4096] | r->vt.mem[r->buf + 9000], 0);
    teardown(r);
}

static void nothing_to_write(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg out = {r->buf, 16, false}, empty = {r->buf, 0, true};
    u32 used;
    vd_add(&r->d, 0, &out, 1);
    vd_add(&r->d, 0, &empty, 1);
    vd_kick(&r->d, 0);
    assert_true(vd_used(&r->d, 0, &used) >= 0);
    assert_int_equal(used, 0);
    assert_true(vd_used(&r->d, 0, &used) >= 0);
    assert_int_equal(used, 0);
    teardown(r);
}

static void event_index(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {r->buf, 16, true};
    vd_set_used_event(&r->d, 0, 2); /* interrupt me when the third is used */
    for (u32 i = 0; i < 3; i++) {
        vd_add(&r->d, 0, &seg, 1);
        assert_true(vd_wants_kick(&r->d, 0));
        vd_kick(&r->d, 0);
        vd_interrupt_status(&r->d);
    }
    /* the first decision always interrupts, the second not, the third does */
    assert_int_equal(r->vt.raises[VT_MMIO_GSI], 2);
    teardown(r);
}

/* 1000 bytes at once, then 100 in a millisecond; a request waits for all it wants. */
static void limited(void **state) {
    (void)state;
    const struct rate_limit limit = {.bandwidth = {.size = 1000, .refill_ms = 10}};
    struct rig *r = setup_limited(&limit);
    const struct vd_seg seg = {r->buf, 600, true};
    size_t len;
    u32 used;
    vd_add(&r->d, 0, &seg, 1);
    vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    assert_true(vd_used(&r->d, 0, &used) >= 0);
    assert_int_equal(used, 600);
    assert_int_equal(vd_used(&r->d, 0, &used), -1);
    fake_advance(r->vt.fake, 1000000);
    assert_int_equal(vd_used(&r->d, 0, &used), -1);
    u8 *a = vt_save(r->dev, &len);
    assert_int_equal(vt_load(r->dev, a, len), 0);
    free(a);
    fake_advance(r->vt.fake, 1000000);
    assert_true(vd_used(&r->d, 0, &used) >= 0);
    assert_int_equal(used, 600);
    vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    vd_set_status(&r->d, 0);
    assert_int_equal(fake_next_timer(r->vt.fake), HOST_FOREVER);
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_buffers),    cmocka_unit_test(bounded),
        cmocka_unit_test(nothing_to_write), cmocka_unit_test(event_index),
        cmocka_unit_test(limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
