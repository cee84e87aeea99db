/* SPDX-License-Identifier: Apache-2.0 */
/* The PCI transport: capabilities, negotiation, vectors, INTx, access through configuration space,
 * doorbells, moving BARs, bus mastering. The device behind it is the entropy source. */
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
    u64 buf;
};

static struct rig *setup(void) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->vdev = virtio_rng_create(&r->vt.env, NULL, NULL);
    r->dev = virtio_pci_attach(&r->vt.host, r->vdev, 2, NULL);
    assert_non_null(r->dev);
    assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
    assert_true(vd_find_pci(&r->d, &r->vt, 2));
    r->buf = vt_alloc(&r->vt, 4096, 64);
    return r;
}

static void teardown(struct rig *r) {
    vt_fini(&r->vt);
    free(r);
}

static bool entropy(struct rig *r, u32 len) {
    const struct vd_seg seg = {r->buf, len, true};
    u32 used = 0;
    int head = vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    return vd_used(&r->d, 0, &used) == head && used == len;
}

static void identity(void **state) {
    (void)state;
    struct rig *r = setup();
    assert_int_equal(vt_config_read(&r->vt, 16, 0, 4), 0x10441af4);
    assert_int_equal(vt_config_read(&r->vt, 16, 8, 1), 1); /* revision: non-transitional */
    assert_int_equal(vt_config_read(&r->vt, 16, 6, 2) & 0x10, 0x10);
    assert_int_equal(vt_read(&r->vt, r->d.common + 0x12, 2), 1);
    assert_int_equal(r->d.device, 0); /* no device configuration, no capability */
    assert_true(vd_offered(&r->d) & VIRTIO_F_VERSION_1);
    teardown(r);
}

static void negotiation(void **state) {
    (void)state;
    struct rig *r = setup();
    assert_false(vd_negotiate(&r->d, 0)); /* not without VERSION_1 */
    assert_int_equal(vd_status(&r->d), 3);
    vd_driver_ok(&r->d); /* nor DRIVER_OK without FEATURES_OK */
    assert_int_equal(vd_status(&r->d), 3);
    assert_false(vd_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(3))); /* what was not offered */
    assert_false(vd_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(63)));
    assert_true(vd_negotiate(&r->d, VIRTIO_F_VERSION_1));
    vt_write(&r->vt, r->d.common + 0x0c, 4, 0); /* too late to change */
    assert_int_equal(vt_read(&r->vt, r->d.common + 0x0c, 4), 1);
    vt_write(&r->vt, r->d.common + 0x08, 4, 2);
    assert_int_equal(vt_read(&r->vt, r->d.common + 0x0c, 4), 0);
    vd_set_status(&r->d, 64 | 11); /* NEEDS_RESET is not the driver's to set */
    assert_int_equal(vd_status(&r->d), 11);
    vd_set_status(&r->d, 0);
    assert_int_equal(vd_status(&r->d), 0);
    teardown(r);
}

static void register_access(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 c = r->d.common;
    vt_write(&r->vt, c + 0x20, 4, 0x11223340);
    vt_write(&r->vt, c + 0x24, 4, 0x55667788);
    assert_int_equal(vt_read(&r->vt, c + 0x20, 8), 0x5566778811223340ull);
    assert_int_equal(vt_read(&r->vt, c + 0x22, 2), 0x1122);
    vt_write(&r->vt, c + 0x20, 1, 0xff); /* wrong width: dropped */
    assert_int_equal(vt_read(&r->vt, c + 0x20, 4), 0x11223340);
    vt_write(&r->vt, c + 0x28, 8, 0x1020304050607080ull); /* the bus splits it */
    assert_int_equal(vt_read(&r->vt, c + 0x28, 8), 0x1020304050607080ull);
    vt_write(&r->vt, c + 0x16, 2, 9); /* a queue that is not there */
    for (u32 i = 0x18; i < 0x38; i += 2) {
        assert_int_equal(vt_read(&r->vt, c + i, 2), i == 0x1a ? 0xffff : 0);
        vt_write(&r->vt, c + i, 2, 1);
        vt_write(&r->vt, c + i, 4, 1);
    }
    vt_write(&r->vt, c + 0x16, 2, 0);
    vt_write(&r->vt, c + 0x1a, 2, 2); /* vector out of range */
    assert_int_equal(vt_read(&r->vt, c + 0x1a, 2), 0xffff);
    vt_write(&r->vt, c + 0x1a, 2, 1);
    assert_int_equal(vt_read(&r->vt, c + 0x1a, 2), 1);
    vt_write(&r->vt, c + 0x18, 2, 128); /* larger than offered */
    assert_int_equal(vt_read(&r->vt, c + 0x18, 2), 64);
    assert_int_equal(vt_read(&r->vt, c + 0x38, 4), 0);
    assert_int_equal(vt_read(&r->vt, c + 0x3ffe, 2), 0);
    teardown(r);
}

static void msix_vectors(void **state) {
    (void)state;
    struct rig *r = setup();
    vd_msix_on(&r->d);
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 64));
    assert_int_equal(vt_msis_with(&r->vt, 0x41), 1);
    assert_int_equal(vt_read(&r->vt, r->d.isr, 1), 0);
    assert_false(r->vt.level[10]);
    vd_no_interrupt(&r->d, 0, true);
    assert_true(entropy(r, 64));
    assert_int_equal(r->vt.msi_count, 1);
    teardown(r);
}

static void intx_and_isr(void **state) {
    (void)state;
    struct rig *r = setup();
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 64));
    assert_true(r->vt.level[10]);
    assert_int_equal(vd_interrupt_status(&r->d), 1);
    assert_false(r->vt.level[10]);
    assert_int_equal(vd_interrupt_status(&r->d), 0);
    vd_avail_push(&r->d, 0, 999); /* a broken ring: configuration interrupt */
    vd_kick(&r->d, 0);
    assert_true(r->vt.level[10]);
    assert_int_equal(vd_interrupt_status(&r->d), 2);
    assert_int_equal(vd_status(&r->d), 15 | 64);
    assert_true(strstr(r->vt.fake->log, "virtio-rng") != NULL);
    vd_set_status(&r->d, 0);
    assert_false(r->vt.level[10]);
    teardown(r);
}

static void cfg_write(struct rig *r, u64 address, u32 size, u32 value) {
    u32 cap = r->d.cfg_cap;
    vt_config_write(&r->vt, 16, cap + 4, 1, 4);
    vt_config_write(&r->vt, 16, cap + 8, 4, (u32)(address - r->d.common));
    vt_config_write(&r->vt, 16, cap + 12, 4, size);
    vt_config_write(&r->vt, 16, cap + 16, size > 4 ? 4 : size, value);
}

static u32 cfg_read(struct rig *r, u64 address, u32 size) {
    u32 cap = r->d.cfg_cap;
    vt_config_write(&r->vt, 16, cap + 4, 1, 4);
    vt_config_write(&r->vt, 16, cap + 8, 4, (u32)(address - r->d.common));
    vt_config_write(&r->vt, 16, cap + 12, 4, size);
    return vt_config_read(&r->vt, 16, cap + 16, size > 4 ? 4 : size);
}

static void config_access(void **state) {
    (void)state;
    struct rig *r = setup();
    assert_int_equal(cfg_read(r, r->d.common + 0x12, 2), 1);
    cfg_write(r, r->d.common + 0x14, 1, 1);
    assert_int_equal(vd_status(&r->d), 1);
    assert_int_equal(cfg_read(r, r->d.common + 0x14, 1), 1);
    cfg_write(r, r->d.common + 0x14, 1, 0);
    /* nonsense: offsets and lengths outside, another BAR */
    cfg_read(r, r->d.common + 0x4000, 4);
    cfg_write(r, r->d.common + 0xfffffffc, 4, 1);
    cfg_read(r, r->d.common + 1, 2);
    cfg_read(r, r->d.common, 3);
    cfg_read(r, r->d.common, 0x80000000);
    cfg_write(r, r->d.common, 8, 5);
    vt_config_write(&r->vt, 16, r->d.cfg_cap + 4u, 1, 1);
    vt_config_read(&r->vt, 16, r->d.cfg_cap + 16u, 4);
    assert_int_equal(vd_status(&r->d), 0);
    teardown(r);
}

static void bus_mastering(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {r->buf, 32, true};
    assert_true(vd_start(&r->d, 0, 1));
    vt_config_write(&r->vt, 16, 4, 2, 2);
    int head = vd_add(&r->d, 0, &seg, 1);
    vd_kick(&r->d, 0);
    assert_int_equal(vd_used(&r->d, 0, NULL), -1);
    vt_config_write(&r->vt, 16, 4, 2, 6);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    teardown(r);
}

struct bells {
    struct virtio_doorbell bell;
    u32 added, removed;
};

static void on_bell(void *ctx, const struct virtio_doorbell *bell, bool add) {
    struct bells *b = ctx;
    b->bell = *bell;
    b->added += add;
    b->removed += !add;
}

static void doorbells_follow_the_bar(void **state) {
    (void)state;
    struct rig *r = setup();
    struct bells b = {0};
    const struct vd_seg seg = {r->buf, 32, true};
    virtio_set_doorbell_hook(r->vdev, on_bell, &b);
    assert_int_equal(b.added, 1);
    assert_int_equal(b.bell.address, r->d.notify);
    assert_int_equal(b.bell.size, 0);
    assert_true(vd_start(&r->d, 0, 1));
    int head = vd_add(&r->d, 0, &seg, 1);
    b.bell.fn(b.bell.ctx); /* as the event thread */
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    vt_config_write(&r->vt, 16, 0x20, 4, 0xd0000000);
    assert_int_equal(b.removed, 1);
    assert_int_equal(b.added, 2);
    assert_int_equal(b.bell.address, 0xd0003000);
    vt_config_write(&r->vt, 16, 4, 2, 0);
    assert_int_equal(b.removed, 2);
    vt_config_write(&r->vt, 16, 4, 2, 6);
    assert_int_equal(b.added, 3);
    /* the device works at its new place */
    assert_true(vd_find_pci(&r->d, &r->vt, 2));
    assert_true(vd_start(&r->d, 0, 1));
    assert_true(entropy(r, 16));
    teardown(r);
    assert_int_equal(b.added, 3);
}

static void save_load(void **state) {
    (void)state;
    struct rig *r = setup();
    size_t len, len2;
    vd_msix_on(&r->d);
    assert_true(vd_start(&r->d, VIRTIO_F_EVENT_IDX, 1));
    assert_true(entropy(r, 64));
    r->dev->ops->pause(r->dev);
    u8 *a = vt_save(r->dev, &len);
    struct rig *s = setup();
    memcpy(s->vt.mem, r->vt.mem, VT_RAM_SIZE);
    s->d = r->d;
    s->d.vt = &s->vt;
    assert_int_equal(vt_load(s->dev, a, len), 0);
    u8 *b = vt_save(s->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    vd_set_used_event(&s->d, 0, 1);
    assert_true(entropy(s, 64));
    assert_int_equal(vt_msis_with(&s->vt, 0x41), 1);
    for (size_t i = 0; i < len; i++) {
        a[i] ^= 0xff;
        vt_load(s->dev, a, len);
        fake_advance(s->vt.fake, 1);
        a[i] ^= 0xff;
    }
    free(a);
    free(b);
    teardown(r);
    teardown(s);
}

/* A driver that refills the ring as fast as it empties cannot hold a vCPU in one notification. */
static void bounded_work(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {r->buf, 8, true};
    assert_true(vd_start(&r->d, 0, 1));
    for (u32 i = 0; i < VD_QUEUE_SIZE; i++) {
        vd_add(&r->d, 0, &seg, 1);
    }
    vd_kick(&r->d, 0); /* a full round: the rest is left to the event thread */
    for (u32 i = 0; i < VD_QUEUE_SIZE; i++) {
        assert_true(vd_used(&r->d, 0, NULL) >= 0);
    }
    int head = vd_add(&r->d, 0, &seg, 1); /* no kick */
    fake_advance(r->vt.fake, 1);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),        cmocka_unit_test(negotiation),
        cmocka_unit_test(register_access), cmocka_unit_test(msix_vectors),
        cmocka_unit_test(intx_and_isr),    cmocka_unit_test(config_access),
        cmocka_unit_test(bus_mastering),   cmocka_unit_test(doorbells_follow_the_bar),
        cmocka_unit_test(save_load),       cmocka_unit_test(bounded_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
