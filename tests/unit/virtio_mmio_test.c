/* SPDX-License-Identifier: Apache-2.0 */
/* The MMIO transport, with the entropy source and the disk behind it. */
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
    struct virtio_device *vdev;
    struct device *dev;
    struct fake_disk *disk;
    u64 buf;
};

static struct rig *setup(bool disk) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    if (disk) {
        r->disk = fake_disk_create(r->vt.fake, 65536);
        r->vdev = virtio_blk_create(&r->vt.env, &r->disk->be, NULL, NULL);
    } else {
        r->vdev = virtio_rng_create(&r->vt.env, NULL, NULL);
    }
    r->dev = virtio_mmio_attach(&r->vt.env, r->vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    assert_non_null(r->dev);
    assert_true(vd_find_mmio(&r->d, &r->vt, VT_MMIO_BASE));
    r->buf = vt_alloc(&r->vt, 4096, 64);
    return r;
}

static void teardown(struct rig *r) {
    r->dev->ops->remove(r->dev);
    vt_fini(&r->vt);
    if (r->disk) {
        fake_disk_destroy(r->disk);
    }
    free(r);
}

static bool entropy(struct rig *r, u32 len) {
    const struct vd_seg seg = {r->buf, len, true};
    u32 used = 0;
    int head = vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    return vd_used(&r->d, 0, &used) == head && used == len;
}

static void registers(void **state) {
    (void)state;
    struct rig *r = setup(false);
    u64 b = VT_MMIO_BASE;
    assert_int_equal(vt_read(&r->vt, b, 4), 0x74726976);
    assert_int_equal(vt_read(&r->vt, b + 4, 4), 2);
    assert_int_equal(vt_read(&r->vt, b + 8, 4), 4);
    assert_int_equal(vt_read(&r->vt, b + 0x34, 4), 64);
    assert_int_equal(vt_read(&r->vt, b + 0xb0, 4), 0xffffffff);
    assert_int_equal(vt_read(&r->vt, b, 1), 0); /* control registers are 32 bits wide */
    assert_int_equal(vt_read(&r->vt, b + 2, 4), 0);
    vt_write(&r->vt, b + 0x70, 1, 1);
    assert_int_equal(vd_status(&r->d), 0);
    vt_write(&r->vt, b + 0x30, 4, 1);
    assert_int_equal(vt_read(&r->vt, b + 0x34, 4), 0);
    for (u32 i = 0; i < 0x1000; i += 4) { /* nothing anywhere breaks it */
        vt_write(&r->vt, b + i, 4, 0xffffffff);
        vt_read(&r->vt, b + i, 4);
        vt_read(&r->vt, b + i + 3, 2);
    }
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 8));
    teardown(r);
}

static void level_interrupt(void **state) {
    (void)state;
    struct rig *r = setup(false);
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 100));
    assert_true(r->vt.level[VT_MMIO_GSI]);
    assert_true(entropy(r, 100));
    assert_int_equal(r->vt.raises[VT_MMIO_GSI], 1);
    vt_write(&r->vt, VT_MMIO_BASE + 0x64, 4, 2); /* not this one */
    assert_true(r->vt.level[VT_MMIO_GSI]);
    assert_int_equal(vd_interrupt_status(&r->d), 1);
    assert_false(r->vt.level[VT_MMIO_GSI]);
    assert_true(entropy(r, 100));
    assert_true(r->vt.level[VT_MMIO_GSI]);
    vd_set_status(&r->d, 0);
    assert_false(r->vt.level[VT_MMIO_GSI]);
    teardown(r);
}

static void queue_ready(void **state) {
    (void)state;
    struct rig *r = setup(false);
    assert_true(vd_start(&r->d, 0, 1));
    assert_int_equal(vt_read(&r->vt, VT_MMIO_BASE + 0x44, 4), 1);
    vt_write(&r->vt, VT_MMIO_BASE + 0x80, 4, 0xdead0000); /* in use: fixed */
    assert_true(entropy(r, 8));
    vt_write(&r->vt, VT_MMIO_BASE + 0x44, 4, 0);
    assert_int_equal(vt_read(&r->vt, VT_MMIO_BASE + 0x44, 4), 0);
    const struct vd_seg seg = {r->buf, 8, true};
    vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    assert_int_equal(vd_used(&r->d, 0, NULL), -1);
    vt_write(&r->vt, VT_MMIO_BASE + 0x50, 4, 77); /* no such queue */
    teardown(r);
}

/* Drivers of this transport do not wait for a reset: it is complete when the write returns. */
static void reset_waits(void **state) {
    (void)state;
    struct rig *r = setup(true);
    assert_true(vd_start(&r->d, 0, 1));
    memset(r->vt.mem + r->buf, 0, 16);
    const struct vd_seg seg[] = {
        {r->buf, 16, false}, {r->buf + 512, 512, true}, {r->buf + 64, 1, true}};
    vd_add(&r->d, 0, seg, 3);
    vd_kick(&r->d, 0);
    assert_int_equal(r->disk->queued, 1);
    vd_set_status(&r->d, 0);
    assert_int_equal(r->disk->queued, 0);
    assert_int_equal(vd_status(&r->d), 0);
    assert_int_equal(vd_used(&r->d, 0, NULL), -1);
    assert_false(r->vt.level[VT_MMIO_GSI]);
    teardown(r);
}

static void on_bell(void *ctx, const struct virtio_doorbell *bell, bool add) {
    assert_int_equal(bell->address, VT_MMIO_BASE + 0x50);
    assert_true(bell->has_match);
    assert_int_equal(bell->size, 4);
    *(int *)ctx += add ? 1 : -1;
}

static void doorbell(void **state) {
    (void)state;
    struct rig *r = setup(false);
    int bells = 0;
    virtio_set_doorbell_hook(r->vdev, on_bell, &bells);
    assert_int_equal(bells, 1);
    virtio_set_doorbell_hook(r->vdev, NULL, NULL);
    assert_int_equal(bells, 0);
    virtio_set_doorbell_hook(r->vdev, on_bell, &bells);
    teardown(r);
    assert_int_equal(bells, 0);
}

static void taken_address(void **state) {
    (void)state;
    struct rig *r = setup(false);
    struct err err = {0};
    struct virtio_device *other = virtio_rng_create(&r->vt.env, NULL, NULL);
    assert_null(virtio_mmio_attach(&r->vt.env, other, VT_MMIO_BASE + 0x800, 6, &err));
    assert_int_equal(err.code, -ERR_EXISTS);
    other->ops->destroy(other);
    teardown(r);
}

static void save_load(void **state) {
    (void)state;
    struct rig *r = setup(false), *s = setup(false);
    size_t len, len2;
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 64));
    u8 *a = vt_save(r->dev, &len);
    memcpy(s->vt.mem, r->vt.mem, VT_RAM_SIZE);
    s->d = r->d;
    s->d.vt = &s->vt;
    assert_int_equal(vt_load(s->dev, a, len), 0);
    assert_true(s->vt.level[VT_MMIO_GSI]);
    u8 *b = vt_save(s->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    assert_int_equal(vd_interrupt_status(&s->d), 1);
    assert_true(entropy(s, 64));
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_not_equal(vt_load(s->dev, a, cut), 0);
        assert_false(s->vt.level[VT_MMIO_GSI]);
    }
    struct rig *blk = setup(true); /* another kind of device */
    assert_int_not_equal(vt_load(blk->dev, a, len), 0);
    free(a);
    free(b);
    teardown(r);
    teardown(s);
    teardown(blk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),   cmocka_unit_test(level_interrupt),
        cmocka_unit_test(queue_ready), cmocka_unit_test(reset_waits),
        cmocka_unit_test(doorbell),    cmocka_unit_test(taken_address),
        cmocka_unit_test(save_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
