/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio network device over a network in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "tests/unit/frames.h"
#include "tests/unit/lib_virtio.h"

enum { RX, TX };

#define F_CSUM                BIT(0)
#define F_GUEST_CSUM          BIT(1)
#define F_MTU                 BIT(3)
#define F_MAC                 BIT(5)
#define F_HOST_TSO4           BIT(11)
#define F_HOST_TSO6           BIT(12)
#define F_GUEST_TSO4          BIT(7)
#define F_HOST_ECN            BIT(13)
#define F_MRG_RXBUF           BIT(15)
#define F_STATUS              BIT(16)
#define F_CTRL_VQ             BIT(17)
#define F_CTRL_RX             BIT(18)
#define F_CTRL_EXTRA          BIT(20)
#define F_ANNOUNCE            BIT(21)
#define F_MQ                  BIT(22)
#define F_CTRL_MAC            BIT(23)
#define F_CTRL_GUEST_OFFLOADS BIT(2)

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
    assert_true(vd_start(&r->d, features, features & F_CTRL_VQ ? 3 : 2));
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
    assert_int_equal(vd_offered(&r->d) & 0xffffff, F_MAC | F_STATUS | F_MTU | F_MRG_RXBUF | F_CSUM |
                                                       F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN |
                                                       F_CTRL_VQ | F_CTRL_RX | F_CTRL_EXTRA |
                                                       F_ANNOUNCE | F_CTRL_MAC);
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

/* Hands a frame with this header to the device. */
static void send_raw(struct rig *r, const struct net_hdr *h, const u8 *frame, u32 len) {
    const struct vd_seg seg[] = {{r->buf, 12, false}, {r->buf + 64, len, false}};
    memcpy(r->vt.mem + r->buf, h, 12);
    memcpy(r->vt.mem + r->buf + 64, frame, len);
    assert_true(vd_add(&r->d, TX, seg, 2) >= 0);
    vd_kick(&r->d, TX);
    assert_true(vd_used(&r->d, TX, NULL) >= 0);
}

static u8 frame[NET_FRAME_MAX];
static const struct frame_opts tcp4 = {.ip = 4, .proto = PACKET_TCP, .flags = 0x18};
static const struct frame_opts tcp6 = {.ip = 6, .proto = PACKET_TCP, .flags = 0x18};

static void transmit_offload(void **state) {
    (void)state;
    struct rig *r =
        setup_with(fake_net_create(true, F_CSUM | F_HOST_TSO4), F_MAC | F_CSUM | F_HOST_TSO4);
    u32 len = frame_make(frame, &tcp4, 1900);
    struct net_hdr h = frame_header(frame, len, 1000);
    h.flags |= 0xfc;
    send_raw(r, &h, frame, len);
    assert_int_equal(r->net->frames, 1);
    assert_int_equal(r->net->frame_len[0], 12 + len);
    assert_int_equal(r->net->frame[0][0], 1); /* other flags do not pass */
    assert_int_equal(r->net->frame[0][1], NET_GSO_TCPV4);
    h.gso_type = NET_GSO_TCPV6; /* not offered, and not true */
    send_raw(r, &h, frame, len);
    h = frame_header(frame, len, 1000);
    h.csum_start = 3;
    send_raw(r, &h, frame, len);
    assert_int_equal(r->net->frames, 1);
    struct virtio_net_stats stats;
    virtio_net_get_stats(r->vdev, &stats);
    assert_int_equal(stats.tx_frames, 1);
    assert_int_equal(stats.tx_bytes, len);
    assert_int_equal(stats.tx_dropped, 2);
    teardown(r);
}

/* The back end can do nothing, or not this: the device does it. */
static void transmit_software(void **state) {
    (void)state;
    for (u32 hdr = 0; hdr < 2; hdr++) {
        struct rig *r = setup_with(fake_net_create(hdr, F_HOST_TSO4),
                                   F_MAC | F_CSUM | F_HOST_TSO4 | F_HOST_TSO6);
        for (u32 ip = 4; ip <= 6; ip += 2) {
            u32 len = frame_make(frame, ip == 4 ? &tcp4 : &tcp6, 2500), skip = hdr ? 12 : 0;
            struct net_hdr h = frame_header(frame, len, 1000);
            r->net->frames = 0;
            send_raw(r, &h, frame, len);
            assert_int_equal(r->net->frames, 3);
            for (u32 i = 0; i < 3; i++) {
                assert_true(frame_good(r->net->frame[i] + skip, (u32)r->net->frame_len[i] - skip));
                assert_int_equal(hdr ? r->net->frame[i][0] : 0, 0);
            }
            len = frame_make(frame, ip == 4 ? &tcp4 : &tcp6, 77);
            h = frame_header(frame, len, 0);
            send_raw(r, &h, frame, len);
            assert_int_equal(r->net->frame_len[3], len + skip);
            assert_true(frame_good(r->net->frame[3] + skip, len));
        }
        teardown(r);
    }
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
    u32 used;
    memset(frame, 0xab, 200);
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
    u32 used;
    for (u32 i = 0; i < 250; i++) {
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
    u8 in[112] = {1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0xff, 0xff};
    u32 used;
    give(r, 0, 1526);
    assert_int_equal(fake_net_input(r->net, in, 112), 0);
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
    memset(frame, 0, 60);
    give(r, 0, 11);
    assert_int_equal(fake_net_input(r->net, frame, 60), 0);
    assert_true(vd_status(&r->d) & 64);
    assert_int_equal(fake_net_input(r->net, frame, 60), -ERR_AGAIN);
    vd_set_status(&r->d, 0);
    assert_int_equal(fake_net_input(r->net, frame, 60), 0); /* no driver: thrown away */
    teardown(r);
}

/* From a neighbour that sends what it likes to a driver that knows no offloads. */
static void receive_software(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(true, UINT64_MAX), F_MAC);
    static u8 in[12 + NET_FRAME_MAX];
    u32 len = frame_make(in + 12, &tcp4, 2500), used;
    struct net_hdr h = frame_header(in + 12, len, 1000);
    memcpy(in, &h, 12);
    assert_int_equal(fake_net_input(r->net, in, 12 + len), -ERR_AGAIN);
    for (u32 i = 0; i < 4; i++) {
        give(r, i * 2048, 2000);
    }
    assert_int_equal(fake_net_input(r->net, in, 12 + len), 0);
    for (u32 i = 0; i < 3; i++) {
        assert_true(vd_used(&r->d, RX, &used) >= 0);
        assert_true(frame_good(r->vt.mem + r->buf + i * 2048 + 12, used - 12));
        assert_int_equal(r->vt.mem[r->buf + i * 2048], 0);
    }
    len = frame_make(in + 12, &tcp6, 33);
    h = frame_header(in + 12, len, 0);
    memcpy(in, &h, 12);
    assert_int_equal(fake_net_input(r->net, in, 12 + len), 0);
    assert_true(vd_used(&r->d, RX, &used) >= 0);
    assert_true(frame_good(r->vt.mem + r->buf + 3 * 2048 + 12, used - 12));
    h.csum_start = 9999; /* a header that lies */
    memcpy(in, &h, 12);
    assert_int_equal(fake_net_input(r->net, in, 12 + len), 0);
    assert_int_equal(vd_used(&r->d, RX, NULL), -1);
    teardown(r);
}

/* --- control queue ---------------------------------------------------------------------------- */

/* The answer to a command, 0xff when there is none. */
static u8 command(struct rig *r, u32 queue, u8 class, u8 what, const void *data, u32 len) {
    u8 *p = r->vt.mem + r->buf + 60000;
    const struct vd_seg seg[] = {
        {r->buf + 60000, 2, false}, {r->buf + 60002, len, false}, {r->buf + 61000, 1, true}};
    p[0] = class;
    p[1] = what;
    memcpy(p + 2, data, len);
    p[1000] = 0xff;
    assert_true(vd_add(&r->d, queue, seg, 3) >= 0);
    vd_kick(&r->d, queue);
    assert_true(vd_used(&r->d, queue, NULL) >= 0);
    return p[1000];
}

static bool arrives(struct rig *r, const char *destination) {
    u8 in[60] = {0};
    memcpy(in, destination, 6);
    give(r, 0, 100);
    assert_int_equal(fake_net_input(r->net, in, sizeof(in)), 0);
    return vd_used(&r->d, RX, NULL) >= 0;
}

#define BROADCAST "\xff\xff\xff\xff\xff\xff"

static void filters(void **state) {
    (void)state;
    struct rig *r = setup_with(fake_net_create(false, 0),
                               F_MAC | F_CTRL_VQ | F_CTRL_RX | F_CTRL_EXTRA | F_CTRL_MAC);
    static const u8 table[] = {1, 0, 0, 0, 2, 9, 9, 9, 9, 9, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
    u8 on = 1, off = 0, many[4 + 65 * 6 + 4] = {65};
    assert_true(arrives(r, "\2aaaaa")); /* everything, until the driver says otherwise */
    assert_int_equal(command(r, 2, 0, 0, &off, 1), 0);
    assert_false(arrives(r, "\2aaaaa"));
    assert_true(arrives(r, "\2\0\0\1\2\3"));
    assert_true(arrives(r, BROADCAST));
    assert_false(arrives(r, "\1\0\x5e\0\0\1"));
    assert_int_equal(command(r, 2, 1, 0, table, sizeof(table)), 0);
    assert_true(arrives(r, "\1\0\x5e\0\0\1"));
    assert_true(arrives(r, "\2\t\t\t\t\t"));
    assert_int_equal(command(r, 2, 1, 0, table, sizeof(table) - 1), 1); /* cut short */
    assert_int_equal(command(r, 2, 1, 0, many, sizeof(many)), 0);       /* too many: all */
    assert_true(arrives(r, "\2aaaaa"));
    many[3] = 0xff;
    assert_int_equal(command(r, 2, 1, 0, many, sizeof(many)), 1);
    assert_int_equal(command(r, 2, 0, 5, &on, 1), 0); /* no broadcast */
    assert_false(arrives(r, BROADCAST));
    assert_int_equal(command(r, 2, 0, 6, &on, 1), 1);
    assert_int_equal(command(r, 2, 1, 1, "\2bbbbb", 6), 0);
    assert_int_equal(vd_config(&r->d, 0, 4), 0x62626202);
    assert_int_equal(command(r, 2, 4, 0, &on, 1), 1); /* not negotiated */
    assert_int_equal(command(r, 2, 99, 0, &on, 1), 1);
    vd_set_status(&r->d, 0);
    assert_int_equal(vd_config(&r->d, 0, 4), 0x01000002); /* its own again */
    teardown(r);
}

static struct rig *setup_opts(const struct virtio_net_opts *opts, u64 features, u32 queues) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->net = fake_net_create(false, 0);
    r->vdev = virtio_net_create(&r->vt.env, &r->net->be, opts, NULL);
    assert_non_null(r->vdev);
    r->dev = virtio_pci_attach(&r->vt.host, r->vdev, 5, NULL);
    assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
    assert_true(vd_find_pci(&r->d, &r->vt, 5));
    vd_msix_on(&r->d);
    assert_true(vd_start(&r->d, features, queues));
    r->buf = vt_alloc(&r->vt, 65536, 64);
    return r;
}

static void queue_pairs(void **state) {
    (void)state;
    const struct virtio_net_opts opts = {.mac = {2}, .pairs = 2};
    struct rig *r = setup_opts(&opts, F_MAC | F_CTRL_VQ | F_MQ, 5);
    const struct vd_seg give3 = {r->buf + 4096, 2000, true};
    u16 two = 2, three = 3;
    u32 len = frame_make(frame, &tcp4, 10);
    assert_int_equal(vd_config(&r->d, 8, 2), 2);
    assert_int_equal(command(r, 4, 4, 0, &three, 2), 1);
    assert_int_equal(command(r, 4, 4, 0, &two, 2), 0);
    assert_true(vd_add(&r->d, 2, &give3, 1) >= 0);
    give(r, 0, 2000);
    /* the driver sends on the second pair: that is where answers go */
    const struct vd_seg seg[] = {{r->buf + 8192, 12, false}, {r->buf + 8300, len, false}};
    memset(r->vt.mem + r->buf + 8192, 0, 12);
    memcpy(r->vt.mem + r->buf + 8300, frame, len);
    assert_true(vd_add(&r->d, 3, seg, 2) >= 0);
    vd_kick(&r->d, 3);
    assert_int_equal(r->net->frames, 1);
    assert_int_equal(fake_net_input(r->net, frame, len), 0);
    assert_true(vd_used(&r->d, 2, NULL) >= 0);
    memset(frame, 0, 60); /* no flow */
    assert_int_equal(fake_net_input(r->net, frame, 60), 0);
    assert_true(vd_used(&r->d, RX, NULL) >= 0);
    teardown(r);
}

static void announce(void **state) {
    (void)state;
    struct rig *r =
        setup_with(fake_net_create(false, 0), F_MAC | F_STATUS | F_CTRL_VQ | F_ANNOUNCE);
    virtio_net_announce(r->vdev);
    assert_int_equal(vd_config(&r->d, 6, 2), 3);
    assert_int_equal(command(r, 2, 3, 0, "", 0), 0);
    assert_int_equal(vd_config(&r->d, 6, 2), 1);
    teardown(r);
}

/* --- rate limits ------------------------------------------------------------------------------ */

static void limits(void **state) {
    (void)state;
    const struct virtio_net_opts opts = {
        .mac = {2}, .rx.ops = {1, 1000, 0}, .tx.bandwidth = {100, 1000, 0}};
    struct rig *r = setup_opts(&opts, F_MAC, 2);
    struct virtio_net_stats stats;
    u8 in[60] = {0};
    for (u32 i = 0; i < 3; i++) {
        give(r, i * 100, 100);
        send_frame(r, 0, 0, 60);
    }
    assert_int_equal(r->net->frames, 1);
    fake_advance(r->vt.fake, NSEC_PER_SEC / 5);
    assert_int_equal(r->net->frames, 2); /* 40 + 20 bytes */
    fake_advance(r->vt.fake, NSEC_PER_SEC);
    assert_int_equal(r->net->frames, 3);
    assert_int_equal(fake_net_input(r->net, in, 60), 0);
    assert_int_equal(fake_net_input(r->net, in, 60), -ERR_AGAIN);
    u32 calls = r->net->rx_ready_calls;
    fake_advance(r->vt.fake, NSEC_PER_SEC);
    assert_int_equal(r->net->rx_ready_calls, calls + 1);
    assert_int_equal(fake_net_input(r->net, in, 60), 0);
    virtio_net_set_limits(r->vdev, &(struct rate_limit){0}, &(struct rate_limit){0});
    assert_int_equal(fake_net_input(r->net, in, 60), 0);
    virtio_net_get_stats(r->vdev, &stats);
    assert_int_equal(stats.rx_limited, 1);
    assert_int_equal(stats.rx_frames, 3);
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
    struct rig *r =
        setup_with(fake_net_create(false, 0), F_MAC | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX);
    struct rig *s = setup_with(fake_net_create(false, 0), F_MAC);
    size_t len, len2;
    u8 off = 0;
    assert_int_equal(command(r, 2, 0, 0, &off, 1), 0);
    memset(frame, 0, 88);
    frame[0] = 3;
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
    assert_int_equal(fake_net_input(s->net, frame, 88), 0); /* a multicast nobody asked for */
    assert_int_equal(vd_used(&s->d, RX, NULL), -1);
    memset(frame, 0xff, 6);
    assert_int_equal(fake_net_input(s->net, frame, 88), 0);
    assert_true(vd_used(&s->d, RX, NULL) >= 0);
    free(buf);
    free(again);
    teardown(r);
    teardown(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_space),
        cmocka_unit_test(transmit),
        cmocka_unit_test(transmit_offload),
        cmocka_unit_test(transmit_software),
        cmocka_unit_test(transmit_full),
        cmocka_unit_test(receive),
        cmocka_unit_test(receive_merged),
        cmocka_unit_test(receive_header),
        cmocka_unit_test(header_does_not_fit),
        cmocka_unit_test(receive_software),
        cmocka_unit_test(filters),
        cmocka_unit_test(queue_pairs),
        cmocka_unit_test(announce),
        cmocka_unit_test(limits),
        cmocka_unit_test(no_backend),
        cmocka_unit_test(save_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
