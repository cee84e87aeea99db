/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio network device over a network in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "tests/unit/lib_virtio.h"

enum { RX, TX };

#define F_CSUM       BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_MTU        BIT(3)
#define F_MAC        BIT(5)
#define F_HOST_TSO4  BIT(11)
#define F_MRG_RXBUF  BIT(15)
#define F_STATUS     BIT(16)

struct rig {
    struct vt vt;
    struct vd d;
    struct fake_net *net;
    struct virtio_device *vdev;
    struct device *dev;
    u64 buf;
};

static struct rig *setup_with(struct fake_net *net, u64 features) {
    const struct virtio_net_opts opts = {.mac = {2, 0, 0, 1, 2, 3}, .mtu = 1400};
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->net = net;
    r->vdev = virtio_net_create(&r->vt.env, net ? &net->be : NULL, &opts, NULL);
    r->dev = virtio_pci_attach(&r->vt.host, r->vdev, 5, NULL);
    assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
    assert_true(vd_find_pci(&r->d, &r->vt, 5));
    vd_msix_on(&r->d);
    assert_true(vd_start(&r->d, features, 2));
    r->buf = vt_alloc(&r->vt, 65536, 64);
    return r;
}

static void teardown(struct rig *r) {
    vt_fini(&r->vt);
    if (r->net) {
        fake_net_destroy(r->net);
    }
    free(r);
}

static int send_frame(struct rig *r, u8 flags, u8 gso, u32 len) {
    u8 *p = r->vt.mem + r->buf;
    const struct vd_seg seg[] = {{r->buf, 12, false}, {r->buf + 64, len, false}};
    memset(p, 0, 12);
    p[0] = flags;
    p[1] = gso;
    p[4] = 100; /* gso_size */
    for (u32 i = 0; i < len; i++) {
        p[64 + i] = (u8)i;
    }
    int head = vd_add(&r->d, TX, seg, 2);
    vd_kick(&r->d, TX);
    return head;
}

static void config_space(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, UINT64_MAX), F_MAC | F_STATUS | F_MTU);
    assert_int_equal(vd_config(&r->d, 0, 4), 0x01000002);
    assert_int_equal(vd_config(&r->d, 4, 2), 0x0302);
    assert_int_equal(vd_config(&r->d, 6, 2), 1);
    assert_int_equal(vd_config(&r->d, 10, 2), 1400);
    assert_int_equal(vd_offered(&r->d) & 0xfffff, F_MAC | F_STATUS | F_MTU | F_MRG_RXBUF);
    virtio_net_set_link(r->vdev, false);
    assert_int_equal(vd_config(&r->d, 6, 2), 0);
    assert_int_equal(vt_msis_with(&r->vt, 0x40), 1);
    send_frame(r, 0, 0, 60);
    assert_int_equal(r->net->frames, 0);
    teardown(r);
}

static void transmit(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC);
    assert_true(send_frame(r, 0, 0, 60) >= 0);
    assert_int_equal(r->net->frames, 1);
    assert_int_equal(r->net->frame_len[0], 60);
    assert_int_equal(r->net->frame[0][59], 59);
    assert_true(vd_used(&r->d, TX, NULL) >= 0);
    send_frame(r, 0, 0, 13); /* no Ethernet frame */
    send_frame(r, 1, 0, 60); /* asks for a checksum that was not negotiated */
    send_frame(r, 0, 1, 60);
    send_frame(r, 0, 99, 60);
    const struct vd_seg tiny = {r->buf, 5, false};
    vd_add(&r->d, TX, &tiny, 1);
    vd_kick(&r->d, TX);
    assert_int_equal(r->net->frames, 1);
    for (u32 i = 0; i < 5; i++) {
        assert_true(vd_used(&r->d, TX, NULL) >= 0);
    }
    teardown(r);
}

static void transmit_offload(void **state) {
    (void)state;
    struct rig *r =
        setup_with(fake_net_create(true, F_CSUM | F_HOST_TSO4), F_MAC | F_CSUM | F_HOST_TSO4);
    send_frame(r, 0xff, 1, 1000);
    assert_int_equal(r->net->frames, 1);
    assert_int_equal(r->net->frame_len[0], 1012);
    assert_int_equal(r->net->frame[0][0], 1); /* other flags do not pass */
    assert_int_equal(r->net->frame[0][1], 1);
    send_frame(r, 1, 4, 1000); /* TSO6 was not offered */
    assert_int_equal(r->net->frames, 1);
    teardown(r);
}

static void transmit_full(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC);
    r->net->full = true;
    int a = send_frame(r, 0, 0, 60);
    assert_int_equal(vd_used(&r->d, TX, NULL), -1);
    r->net->full = false;
    r->net->be.writable(r->net->be.device);
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    assert_int_equal(r->net->frames, 1);
    teardown(r);
}

static void give(struct rig *r, u64 at, u32 len) {
    const struct vd_seg seg = {r->buf + at, len, true};
    assert_true(vd_add(&r->d, RX, &seg, 1) >= 0);
}

static u16 num_buffers(struct rig *r, u64 at) {
    u16 n;
    memcpy(&n, r->vt.mem + r->buf + at + 10, 2);
    return n;
}

static void receive(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC);
    u8 frame[200];
    u32 used;
    memset(frame, 0xab, sizeof(frame));
    assert_int_equal(fake_net_input(r->net, frame, 100), -ERR_AGAIN);
    give(r, 0, 1526);
    vd_kick(&r->d, RX);
    assert_int_equal(fake_net_input(r->net, frame, 100), 0);
    assert_true(vd_used(&r->d, RX, &used) >= 0);
    assert_int_equal(used, 112);
    assert_int_equal(num_buffers(r, 0), 1);
    assert_memory_equal(r->vt.mem + r->buf + 12, frame, 100);
    assert_int_equal(r->vt.mem[r->buf + 112], 0);
    give(r, 0, 64); /* too small without MRG_RXBUF: the frame is dropped, the buffer stays */
    assert_int_equal(fake_net_input(r->net, frame, 100), 0);
    assert_int_equal(vd_used(&r->d, RX, NULL), -1);
    assert_int_equal(fake_net_input(r->net, frame, 52), 0);
    assert_true(vd_used(&r->d, RX, &used) >= 0);
    assert_int_equal(used, 64);
    assert_int_equal(fake_net_input(r->net, frame, 3), 0); /* no frame */
    teardown(r);
}

static void receive_merged(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC | F_MRG_RXBUF);
    u8 frame[250];
    u32 used;
    for (u32 i = 0; i < sizeof(frame); i++) {
        frame[i] = (u8)i;
    }
    give(r, 0, 100);
    give(r, 1000, 100);
    assert_int_equal(fake_net_input(r->net, frame, 250), -ERR_AGAIN);
    assert_int_equal(vd_used(&r->d, RX, NULL), -1);
    give(r, 2000, 100);
    assert_int_equal(fake_net_input(r->net, frame, 250), 0);
    assert_int_equal(num_buffers(r, 0), 3);
    vd_used(&r->d, RX, &used);
    assert_int_equal(used, 100);
    vd_used(&r->d, RX, &used);
    assert_int_equal(used, 100);
    vd_used(&r->d, RX, &used);
    assert_int_equal(used, 62);
    assert_memory_equal(r->vt.mem + r->buf + 12, frame, 88);
    assert_memory_equal(r->vt.mem + r->buf + 1000, frame + 88, 100);
    assert_memory_equal(r->vt.mem + r->buf + 2000, frame + 188, 62);
    for (u32 i = 0; i < VD_QUEUE_SIZE; i++) { /* the whole queue would not do: dropped */
        give(r, i * 16, i ? 1 : 12);
    }
    assert_int_equal(fake_net_input(r->net, frame, 250), 0);
    assert_int_equal(vd_used(&r->d, RX, NULL), -1);
    assert_int_equal(fake_net_input(r->net, frame, 20), 0);
    assert_int_equal(num_buffers(r, 0), 21);
    teardown(r);
}

static void receive_header(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(true, F_GUEST_CSUM), F_MAC | F_GUEST_CSUM);
    u8 frame[112] = {1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0xff, 0xff};
    u32 used;
    give(r, 0, 1526);
    assert_int_equal(fake_net_input(r->net, frame, 112), 0);
    vd_used(&r->d, RX, &used);
    assert_int_equal(used, 112);
    assert_int_equal(r->vt.mem[r->buf], 1);
    assert_int_equal(r->vt.mem[r->buf + 6], 34);
    assert_int_equal(num_buffers(r, 0), 1);
    teardown(r);
}

static void header_does_not_fit(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC | F_MRG_RXBUF);
    u8 frame[60] = {0};
    give(r, 0, 11);
    assert_int_equal(fake_net_input(r->net, frame, 60), 0);
    assert_true(vd_status(&r->d) & 64);
    assert_int_equal(fake_net_input(r->net, frame, 60), -ERR_AGAIN);
    vd_set_status(&r->d, 0);
    assert_int_equal(fake_net_input(r->net, frame, 60), 0); /* no driver: thrown away */
    teardown(r);
}

static void no_backend(void **state) {
    (void)state;
    struct rig *r = setup_with(NULL, F_MAC | F_STATUS);
    assert_int_equal(vd_config(&r->d, 6, 2), 0);
    int a = send_frame(r, 0, 0, 60);
    assert_int_equal(vd_used(&r->d, TX, NULL), a);
    give(r, 0, 1526);
    vd_kick(&r->d, RX);
    teardown(r);
}

static void save_load(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0), F_MAC | F_MRG_RXBUF);
    struct rig *s = setup_with(fake_net_create(false, 0), F_MAC);
    size_t len, len2;
    u8 frame[100] = {7};
    give(r, 0, 100);
    r->net->full = true;
    int a = send_frame(r, 0, 0, 60);
    u8 *buf = vt_save(r->dev, &len);
    memcpy(s->vt.mem, r->vt.mem, VT_RAM_SIZE);
    s->d = r->d;
    s->d.vt = &s->vt;
    assert_int_equal(vt_load(s->dev, buf, len), 0);
    u8 *again = vt_save(s->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(buf, again, len);
    fake_advance(s->vt.fake, 1);
    assert_int_equal(s->net->frames, 1);
    assert_int_equal(vd_used(&s->d, TX, NULL), a);
    assert_int_equal(fake_net_input(s->net, frame, 88), 0);
    assert_true(vd_used(&s->d, RX, NULL) >= 0);
    free(buf);
    free(again);
    teardown(r);
    teardown(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_space),     cmocka_unit_test(transmit),
        cmocka_unit_test(transmit_offload), cmocka_unit_test(transmit_full),
        cmocka_unit_test(receive),          cmocka_unit_test(receive_merged),
        cmocka_unit_test(receive_header),   cmocka_unit_test(header_does_not_fit),
        cmocka_unit_test(no_backend),       cmocka_unit_test(save_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
