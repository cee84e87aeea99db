/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio console over a character stream in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_virtio.h"

enum { RX, TX };

struct rig {
    struct vt vt;
    struct vd d;
    struct fake_char *ch;
    struct virtio_device *vdev;
    struct device *dev;
    u64 buf;
};

static struct rig *setup_backend(bool backend, const struct virtio_console_opts *opts) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->ch = fake_char_create();
    r->vdev = virtio_console_create(&r->vt.env, backend ? &r->ch->be : NULL, opts, NULL);
    r->dev = virtio_pci_attach(&r->vt.host, r->vdev, PCI_SLOT_AUTO, NULL);
    assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
    assert_true(vd_find_pci(&r->d, &r->vt, 1));
    vd_msix_on(&r->d);
    r->buf = vt_alloc(&r->vt, 8192, 64);
    return r;
}

static struct rig *setup(void) {
    struct rig *r = setup_backend(true, NULL);
    assert_true(vd_start(&r->d, 0, 2));
    return r;
}

static void teardown(struct rig *r) {
    vt_fini(&r->vt);
    assert_true(r->ch->be.receive == NULL);
    fake_char_destroy(r->ch);
    free(r);
}

static int send(struct rig *r, u32 at, const char *text) {
    u32 len = (u32)strlen(text);
    const struct vd_seg seg[] = {{r->buf + at, len / 2, false},
                                 {r->buf + at + len / 2, len - len / 2, false}};
    memcpy(r->vt.mem + r->buf + at, text, len);
    int head = vd_add(&r->d, TX, seg, 2);
    vd_kick(&r->d, TX);
    return head;
}

static void transmit(void **state) {
    (void)state;
    struct rig *r = setup();
    int a = send(r, 0, "hello, "), b = send(r, 100, "world");
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    assert_int_equal(vd_used(&r->d, TX, NULL), b);
    assert_memory_equal(r->ch->out, "hello, world", 12);
    assert_int_equal(vt_msis_with(&r->vt, 0x42), 2);
    teardown(r);
}

static void transmit_slowly(void **state) {
    (void)state;
    struct rig *r = setup();
    r->ch->accept = 3;
    int a = send(r, 0, "abcdef"), b = send(r, 100, "gh");
    assert_int_equal(r->ch->out_len, 3);
    assert_int_equal(vd_used(&r->d, TX, NULL), -1);
    r->ch->accept = 2;
    r->ch->be.writable(r->ch->be.device);
    assert_int_equal(r->ch->out_len, 5);
    r->ch->accept = 2;
    r->ch->be.writable(r->ch->be.device);
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    assert_int_equal(vd_used(&r->d, TX, NULL), -1);
    r->ch->accept = SIZE_MAX;
    r->ch->be.writable(r->ch->be.device);
    assert_int_equal(vd_used(&r->d, TX, NULL), b);
    assert_memory_equal(r->ch->out, "abcdefgh", 8);
    teardown(r);
}

static void receive(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 used;
    assert_int_equal(fake_char_input(r->ch, "xyz", 3), 0); /* no buffers yet */
    u32 calls = r->ch->rx_ready_calls;
    const struct vd_seg seg[] = {{r->buf, 4, true}}, seg2[] = {{r->buf + 64, 4, true}};
    vd_add(&r->d, RX, seg, 1);
    vd_add(&r->d, RX, seg2, 1);
    vd_kick(&r->d, RX);
    assert_int_equal(r->ch->rx_ready_calls, calls + 1);
    assert_int_equal(fake_char_input(r->ch, "0123456789", 10), 8);
    assert_true(vd_used(&r->d, RX, &used) >= 0);
    assert_int_equal(used, 4);
    assert_true(vd_used(&r->d, RX, &used) >= 0);
    assert_memory_equal(r->vt.mem + r->buf + 64, "4567", 4);
    vd_add(&r->d, RX, seg, 1);
    assert_int_equal(fake_char_input(r->ch, "89", 2), 2);
    vd_used(&r->d, RX, &used);
    assert_int_equal(used, 2);
    assert_int_equal(vt_msis_with(&r->vt, 0x41), 2);
    teardown(r);
}

static void before_the_driver(void **state) {
    (void)state;
    struct rig *r = setup_backend(true, NULL);
    assert_int_equal(fake_char_input(r->ch, "early", 5), 0);
    assert_true(vd_start(&r->d, 0, 2));
    assert_true(r->ch->rx_ready_calls >= 1);
    teardown(r);
}

static void emergency_write(void **state) {
    (void)state;
    struct rig *r = setup_backend(true, NULL);
    vd_config_set(&r->d, 8, 4, '!');
    vd_config_set(&r->d, 0, 4, '?');
    assert_int_equal(r->ch->out_len, 1);
    assert_int_equal(r->ch->out[0], '!');
    teardown(r);
}

static void size_changes(void **state) {
    (void)state;
    const struct virtio_console_opts opts = {.cols = 80, .rows = 25};
    struct rig *r = setup_backend(true, &opts);
    assert_true(vd_start(&r->d, 1, 2));
    assert_int_equal(vd_config(&r->d, 0, 4), 25 << 16 | 80);
    u32 generation = (u32)vt_read(&r->vt, r->d.common + 0x15, 1);
    virtio_console_resize(r->vdev, 132, 50);
    assert_int_equal(vd_config(&r->d, 0, 2), 132);
    assert_int_equal(vd_config(&r->d, 2, 2), 50);
    assert_int_not_equal(vt_read(&r->vt, r->d.common + 0x15, 1), generation);
    assert_int_equal(vt_msis_with(&r->vt, 0x40), 1);
    virtio_console_resize(r->vdev, 132, 50); /* no change */
    assert_int_equal(vt_msis_with(&r->vt, 0x40), 1);
    teardown(r);
    r = setup();
    assert_false(vd_offered(&r->d) & 1);
    virtio_console_resize(r->vdev, 132, 50);
    assert_int_equal(vd_config(&r->d, 0, 4), 0);
    teardown(r);
}

static void no_backend(void **state) {
    (void)state;
    struct rig *r = setup_backend(false, NULL);
    assert_true(vd_start(&r->d, 0, 2));
    int a = send(r, 0, "void");
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    vd_config_set(&r->d, 8, 4, '!');
    vd_kick(&r->d, RX);
    teardown(r);
}

/* Saved in the middle of a chain: the rest, and only the rest, comes out of the loaded machine. */
static void save_in_a_chain(void **state) {
    (void)state;
    struct rig *r = setup(), *s = setup();
    size_t len, len2;
    r->ch->accept = 4;
    int a = send(r, 0, "0123456789"), b = send(r, 100, "abc");
    u8 *buf = vt_save(r->dev, &len);
    memcpy(s->vt.mem, r->vt.mem, VT_RAM_SIZE);
    s->d = r->d;
    s->d.vt = &s->vt;
    assert_int_equal(vt_load(s->dev, buf, len), 0);
    u8 *again = vt_save(s->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(buf, again, len);
    fake_advance(s->vt.fake, 1);
    assert_int_equal(s->ch->out_len, 9);
    assert_memory_equal(s->ch->out, "456789abc", 9);
    assert_int_equal(vd_used(&s->d, TX, NULL), a);
    assert_int_equal(vd_used(&s->d, TX, NULL), b);
    vd_set_status(&r->d, 0); /* a reset drops the rest */
    r->ch->accept = SIZE_MAX;
    r->ch->be.writable(r->ch->be.device);
    assert_int_equal(r->ch->out_len, 4);
    free(buf);
    free(again);
    teardown(r);
    teardown(s);
}

static void hostile_ring(void **state) {
    (void)state;
    struct rig *r = setup();
    vd_desc_set(&r->d, RX, 0, UINT64_MAX, 16, 2, 0);
    vd_avail_push(&r->d, RX, 0);
    assert_int_equal(fake_char_input(r->ch, "x", 1), 0);
    assert_true(vd_status(&r->d) & 64);
    assert_int_equal(fake_char_input(r->ch, "x", 1), 0);
    assert_true(vd_start(&r->d, 0, 2));
    int a = send(r, 0, "fine");
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transmit),        cmocka_unit_test(transmit_slowly),
        cmocka_unit_test(receive),         cmocka_unit_test(before_the_driver),
        cmocka_unit_test(emergency_write), cmocka_unit_test(size_changes),
        cmocka_unit_test(no_backend),      cmocka_unit_test(save_in_a_chain),
        cmocka_unit_test(hostile_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
