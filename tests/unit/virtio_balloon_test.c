/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio memory balloon: what goes back to the host, statistics, hinting, saving. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_virtio.h"

enum { STATS_VQ = BIT(1), ON_OOM = BIT(2), HINT = BIT(3), REPORT = BIT(5) };
enum { CONFIG_TARGET = 0, CONFIG_ACTUAL = 4, CONFIG_CMD = 8 };
/* the rings take less than 64 KiB from address 0x1000 on */
enum { PAGES_AT = 0x80, PAGES = 0x60 };

struct rig {
    struct vt vt;
    struct vd d;
    struct virtio_device *vdev;
    struct device *dev;
    u64 buf;
};

static struct rig *setup_with(const struct balloon_opts *opts, u64 features, u32 queues) {
    struct rig *r = calloc(1, sizeof(*r));
    struct err err = {0};
    assert_non_null(r);
    vt_init(&r->vt);
    r->vdev = virtio_balloon_create(&r->vt.env, opts, &err);
    assert_non_null(r->vdev);
    r->dev = virtio_mmio_attach(&r->vt.env, r->vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    assert_true(vd_find_mmio(&r->d, &r->vt, VT_MMIO_BASE));
    assert_true(vd_start(&r->d, features | VIRTIO_F_INDIRECT_DESC, queues));
    r->buf = vt_alloc(&r->vt, 32768, 4096);
    memset(r->vt.mem + (PAGES_AT << 12), 0xaa, PAGES << 12);
    return r;
}

static void teardown(struct rig *r) {
    r->dev->ops->remove(r->dev);
    vt_fini(&r->vt);
    free(r);
}

static bool page_is(struct rig *r, u32 pfn, u8 value) {
    for (u32 i = 0; i < 4096; i++) {
        if (r->vt.mem[pfn * 4096 + i] != value) {
            return false;
        }
    }
    return true;
}

static void send_pfns(struct rig *r, u32 queue, const u32 *pfn, u32 count) {
    const struct vd_seg seg = {r->buf, count * 4, false};
    memcpy(r->vt.mem + r->buf, pfn, count * sizeof(*pfn));
    vd_add(&r->d, queue, &seg, 1);
    vd_kick(&r->d, queue);
    assert_true(vd_used(&r->d, queue, NULL) >= 0);
}

static void inflates(void **state) {
    (void)state;
    struct rig *r = setup_with(&(struct balloon_opts){.target_mib = 1}, 0, 2);
    const u32 pfn[] = {PAGES_AT + 5, PAGES_AT + 3, PAGES_AT + 4, PAGES_AT + 9, PAGES_AT + 3};
    struct balloon_stats s;
    assert_int_equal(vd_config(&r->d, CONFIG_TARGET, 4), 256);
    r->vt.written = 0;
    send_pfns(r, 0, pfn, ARRAY_LEN(pfn));
    for (u32 i = 0; i < 12; i++) {
        bool gone = (i >= 3 && i <= 5) || i == 9;
        assert_true(page_is(r, PAGES_AT + i, gone ? 0 : 0xaa));
    }
    assert_int_equal(r->vt.fake->discarded, 4 * 4096);
    assert_true(r->vt.written >= 4 * 4096); /* engines were told */
    vd_config_set(&r->d, CONFIG_ACTUAL, 4, 4);
    balloon_stats_get(r->vdev, &s);
    assert_int_equal(s.inflated_pages, 4);
    assert_int_equal(s.actual_pages, 4);
    assert_int_equal(s.target_mib, 1);
    send_pfns(r, 1, pfn, ARRAY_LEN(pfn)); /* deflated: nothing happens */
    assert_int_equal(r->vt.fake->discarded, 4 * 4096);
    teardown(r);
}

/* Page numbers outside memory, half of a number, and more than a chain may have. */
static void inflates_nonsense(void **state) {
    (void)state;
    struct rig *r = setup_with(&(struct balloon_opts){0}, 0, 2);
    const u32 bad[] = {UINT32_MAX, 0xfffff, VT_RAM_SIZE >> 12, UINT32_MAX - 1};
    static u32 many[8000];
    send_pfns(r, 0, bad, ARRAY_LEN(bad));
    assert_int_equal(r->vt.fake->discarded, 0);
    const struct vd_seg half = {r->buf, 3, false};
    vd_add(&r->d, 0, &half, 1);
    vd_kick(&r->d, 0);
    assert_true(vd_used(&r->d, 0, NULL) >= 0);
    for (u32 i = 0; i < ARRAY_LEN(many); i++) {
        many[i] = PAGES_AT + 2 * (i % (PAGES / 2));
    }
    send_pfns(r, 0, many, ARRAY_LEN(many));
    assert_true(page_is(r, PAGES_AT, 0));
    assert_true(page_is(r, PAGES_AT + 1, 0xaa));
    assert_int_equal(vd_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
    teardown(r);
}

static void target_moves(void **state) {
    (void)state;
    struct rig *r = setup_with(&(struct balloon_opts){0}, 0, 2);
    struct err err = {0};
    u32 raises = r->vt.raises[VT_MMIO_GSI];
    assert_int_equal(balloon_set_target(r->vdev, 1), 0);
    assert_int_equal(vd_config(&r->d, CONFIG_TARGET, 4), 256);
    assert_int_equal(r->vt.raises[VT_MMIO_GSI], raises + 1);
    assert_int_equal(vd_interrupt_status(&r->d), 2);
    assert_int_equal(balloon_set_target(r->vdev, 2), -ERR_RANGE);
    vd_config_set(&r->d, CONFIG_TARGET, 4, 77); /* not the guest's to write */
    assert_int_equal(vd_config(&r->d, CONFIG_TARGET, 4), 256);
    assert_null(virtio_balloon_create(&r->vt.env, &(struct balloon_opts){.target_mib = 9}, &err));
    assert_non_null(strstr(err.text, "9 MiB"));
    teardown(r);
}

static void put_stat(u8 *at, u16 tag, u64 value) {
    memcpy(at, &tag, 2);
    memcpy(at + 2, &value, 8);
}

static void statistics(void **state) {
    (void)state;
    struct rig *r = setup_with(&(struct balloon_opts){.stats_seconds = 3}, STATS_VQ, 3);
    struct balloon_stats s;
    const struct vd_seg seg = {r->buf, 35, false}; /* three and a half */
    put_stat(r->vt.mem + r->buf, BALLOON_FREE_MEMORY, 12345678);
    put_stat(r->vt.mem + r->buf + 10, BALLOON_DIRECT_RECLAIM, 7);
    put_stat(r->vt.mem + r->buf + 20, 999, 1);
    vd_add(&r->d, 2, &seg, 1);
    vd_kick(&r->d, 2);
    assert_int_equal(vd_used(&r->d, 2, NULL), -1); /* kept until they are wanted anew */
    balloon_stats_get(r->vdev, &s);
    assert_int_equal(s.present, BIT(BALLOON_FREE_MEMORY) | BIT(BALLOON_DIRECT_RECLAIM));
    assert_int_equal(s.value[BALLOON_FREE_MEMORY], 12345678);
    assert_int_equal(s.updates, 1);
    fake_advance(r->vt.fake, 3 * NSEC_PER_SEC);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
    fake_advance(r->vt.fake, 9 * NSEC_PER_SEC); /* nothing to give back */
    vd_add(&r->d, 2, &seg, 1);
    vd_add(&r->d, 2, &seg, 1); /* one too many: the first comes back */
    vd_kick(&r->d, 2);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
    assert_int_equal(vd_used(&r->d, 2, NULL), -1);
    assert_int_equal(balloon_set_interval(r->vdev, 0), -ERR_STATE);
    assert_int_equal(balloon_set_interval(r->vdev, 100000), -ERR_RANGE);
    assert_int_equal(balloon_set_interval(r->vdev, 1), 0);
    fake_advance(r->vt.fake, NSEC_PER_SEC);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
    vd_set_status(&r->d, 0);
    assert_int_equal(fake_next_timer(r->vt.fake), HOST_FOREVER); /* no driver, no ticks */
    teardown(r);
}

/* Free pages may be any range: only whole pages of it go. */
static void reports_on(struct rig *r, u32 queue) {
    u64 at = PAGES_AT * 4096ull;
    const struct vd_seg seg[] = {
        {at + 100, 8192, true}, {at + 0x10000, 4096, true}, {at, 17, true}};
    vd_add(&r->d, queue, seg, 3);
    vd_kick(&r->d, queue);
    assert_true(vd_used(&r->d, queue, NULL) >= 0);
    assert_true(page_is(r, PAGES_AT, 0xaa));
    assert_true(page_is(r, PAGES_AT + 1, 0));
    assert_true(page_is(r, PAGES_AT + 2, 0xaa));
    assert_true(page_is(r, PAGES_AT + 16, 0));
    assert_int_equal(r->vt.fake->discarded, 8192);
}

/* With reporting only, Linux uses queue 2 and the specification means queue 4. */
static void reporting_numbers(void **state) {
    (void)state;
    const struct balloon_opts opts = {.reporting = true, .stats_seconds = 1, .hinting = true};
    struct rig *r = setup_with(&opts, REPORT, 3);
    reports_on(r, 2);
    teardown(r);
    r = setup_with(&opts, REPORT, 5);
    reports_on(r, 4);
    teardown(r);
    r = setup_with(&opts, REPORT | STATS_VQ | HINT, 5);
    reports_on(r, 4);
    teardown(r);
}

static void send_cmd(struct rig *r, u32 cmd) {
    const struct vd_seg seg = {r->buf, 4, false};
    memcpy(r->vt.mem + r->buf, &cmd, 4);
    vd_add(&r->d, 2, &seg, 1);
    vd_kick(&r->d, 2);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
}

static void send_free(struct rig *r, u32 pfn) {
    const struct vd_seg seg = {pfn * 4096ull, 4096, true};
    vd_add(&r->d, 2, &seg, 1);
    vd_kick(&r->d, 2);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
}

static void hinting(void **state) {
    (void)state;
    struct rig *r = setup_with(&(struct balloon_opts){.hinting = true}, HINT, 3);
    struct balloon_hinting h;
    send_free(r, PAGES_AT); /* nobody asked */
    assert_true(page_is(r, PAGES_AT, 0xaa));
    assert_int_equal(balloon_hinting_start(r->vdev, true), 0);
    u32 cmd = vd_config(&r->d, CONFIG_CMD, 4);
    assert_true(cmd >= 2);
    send_free(r, PAGES_AT + 1); /* of a run that the guest has not begun */
    assert_true(page_is(r, PAGES_AT + 1, 0xaa));
    send_cmd(r, cmd);
    send_free(r, PAGES_AT + 2);
    assert_true(page_is(r, PAGES_AT + 2, 0));
    send_cmd(r, 0);
    assert_int_equal(vd_config(&r->d, CONFIG_CMD, 4), 1); /* acknowledged: done */
    send_free(r, PAGES_AT + 3);
    assert_true(page_is(r, PAGES_AT + 3, 0xaa));
    assert_int_equal(balloon_hinting_start(r->vdev, false), 0);
    assert_int_equal(vd_config(&r->d, CONFIG_CMD, 4), cmd + 1);
    assert_int_equal(balloon_hinting_stop(r->vdev), 0);
    assert_int_equal(balloon_hinting_get(r->vdev, &h), 0);
    assert_int_equal(h.host_cmd, 1);
    assert_int_equal(h.guest_cmd, 0);
    teardown(r);
    r = setup_with(&(struct balloon_opts){0}, 0, 2);
    assert_int_equal(balloon_hinting_start(r->vdev, true), -ERR_STATE);
    teardown(r);
}

static void save_and_load(void **state) {
    (void)state;
    const struct balloon_opts opts = {.stats_seconds = 2, .reporting = true, .hinting = true};
    struct rig *r = setup_with(&opts, STATS_VQ | REPORT | HINT, 5);
    const struct vd_seg seg = {r->buf, 10, false};
    struct balloon_stats s;
    size_t len, len2;
    put_stat(r->vt.mem + r->buf, BALLOON_AVAILABLE, 4711);
    vd_add(&r->d, 2, &seg, 1);
    vd_kick(&r->d, 2);
    vd_config_set(&r->d, CONFIG_ACTUAL, 4, 99);
    balloon_set_interval(r->vdev, 5);
    u8 *a = vt_save(r->dev, &len);
    vd_set_status(&r->d, 0);
    assert_int_equal(vt_load(r->dev, a, len), 0);
    u8 *b = vt_save(r->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    balloon_stats_get(r->vdev, &s);
    assert_int_equal(s.actual_pages, 99);
    assert_int_equal(s.interval, 5);
    assert_int_equal(s.value[BALLOON_AVAILABLE], 4711);
    fake_advance(r->vt.fake, 1); /* queues are looked at: the buffer is taken again */
    fake_advance(r->vt.fake, 5 * NSEC_PER_SEC);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_not_equal(vt_load(r->dev, a, cut), 0);
    }
    free(a);
    free(b);
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inflates),          cmocka_unit_test(inflates_nonsense),
        cmocka_unit_test(target_moves),      cmocka_unit_test(statistics),
        cmocka_unit_test(reporting_numbers), cmocka_unit_test(hinting),
        cmocka_unit_test(save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
