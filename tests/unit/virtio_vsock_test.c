/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio socket device against a back end of the test: opening, data, credit, ends, nonsense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/virtio/vsock_int.h"
#include "tests/unit/lib_virtio.h"

enum { CID = 7, SOCKS = 100, BUFFERS = 16, BUFFER = 4096 };

/* A back end whose sockets are byte counts and a few flags. */
struct peer {
    struct vsock_backend be;
    bool used[SOCKS];
    u32 port[SOCKS];
    bool shut_receive[SOCKS], shut_send[SOCKS], hung_up[SOCKS], broken[SOCKS];
    u64 to_read[SOCKS], accept[SOCKS], got[SOCKS];
    bool end[SOCKS];
    u32 accepted_port, last; /* connection made */
    bool refuse;
};

struct rig {
    struct vt vt;
    struct vd d;
    struct peer p;
    struct virtio_device *vdev;
    struct device *dev;
    u64 rx, tx;
    u32 rx_at[256]; /* buffer of a head */
};

static struct peer *peer_of(struct vsock_backend *be) {
    return CONTAINER_OF(be, struct peer, be);
}

static int peer_connect(struct vsock_backend *be, u32 port) {
    struct peer *p = peer_of(be);
    for (int n = 0; n < SOCKS && !p->refuse; n++) {
        if (!p->used[n]) {
            p->used[n] = true;
            p->last = (u32)n;
            p->port[n] = port;
            p->shut_receive[n] = p->shut_send[n] = p->hung_up[n] = p->broken[n] = p->end[n] = false;
            p->to_read[n] = p->got[n] = 0;
            p->accept[n] = UINT64_MAX;
            return n;
        }
    }
    return -ERR_NOSPACE;
}

static void peer_accepted(struct vsock_backend *be, u32 n, u32 host_port) {
    assert_true(peer_of(be)->used[n]);
    peer_of(be)->accepted_port = host_port;
}

static s64 peer_read(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    struct peer *p = peer_of(be);
    u64 done = 0;
    assert_true(p->used[n]);
    for (u32 i = 0; i < count; i++) {
        u64 len = MIN(iov[i].len, p->to_read[n]);
        memset(iov[i].base, 'r', len);
        p->to_read[n] -= len;
        done += len;
    }
    return done ? (s64)done : p->end[n] ? 0 : -ERR_AGAIN;
}

static s64 peer_write(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    struct peer *p = peer_of(be);
    u64 done = 0;
    assert_true(p->used[n]);
    if (p->broken[n]) {
        return -ERR_IO;
    }
    for (u32 i = 0; i < count; i++) {
        u64 len = MIN(iov[i].len, p->accept[n]);
        p->accept[n] -= p->accept[n] == UINT64_MAX ? 0 : len;
        done += len;
    }
    p->got[n] += done;
    return done ? (s64)done : -ERR_AGAIN;
}

static bool peer_hung_up(struct vsock_backend *be, u32 n) {
    return peer_of(be)->hung_up[n];
}

static void peer_shutdown(struct vsock_backend *be, u32 n, bool receive, bool send) {
    assert_true(peer_of(be)->used[n]);
    peer_of(be)->shut_receive[n] |= receive;
    peer_of(be)->shut_send[n] |= send;
}

static void peer_close(struct vsock_backend *be, u32 n) {
    assert_true(peer_of(be)->used[n]);
    peer_of(be)->used[n] = false;
}

static void peer_nothing(struct vsock_backend *be) {
    (void)be;
}

static const struct vsock_backend_ops peer_ops = {
    .connect = peer_connect,
    .accepted = peer_accepted,
    .read = peer_read,
    .write = peer_write,
    .hung_up = peer_hung_up,
    .shutdown = peer_shutdown,
    .close = peer_close,
    .start = peer_nothing,
    .stop = peer_nothing,
    .destroy = peer_nothing,
};

static void give_buffer(struct rig *r, u32 i) {
    const struct vd_seg seg[] = {{r->rx + i * BUFFER, sizeof(struct vsock_hdr), true},
                                 {r->rx + i * BUFFER + 64, BUFFER - 64, true}};
    int head = vd_add(&r->d, VSOCK_RX, seg, 2);
    assert_true(head >= 0);
    r->rx_at[head] = i;
}

static struct rig *setup_buffers(u32 buffers) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->p.be = (struct vsock_backend){.ops = &peer_ops, .max = SOCKS};
    r->vdev = virtio_vsock_create(&r->vt.env, &r->p.be, CID, NULL);
    assert_non_null(r->vdev);
    r->dev = virtio_mmio_attach(&r->vt.env, r->vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    assert_true(vd_find_mmio(&r->d, &r->vt, VT_MMIO_BASE));
    assert_true(vd_start(&r->d, 0, 3));
    assert_int_equal(vd_config(&r->d, 0, 4), CID);
    r->rx = vt_alloc(&r->vt, BUFFERS * BUFFER, 4096);
    r->tx = vt_alloc(&r->vt, 256 * 1024, 4096);
    for (u32 i = 0; i < buffers; i++) {
        give_buffer(r, i);
    }
    vd_kick(&r->d, VSOCK_RX);
    return r;
}

static struct rig *setup(void) {
    return setup_buffers(BUFFERS);
}

static void teardown(struct rig *r) {
    r->dev->ops->remove(r->dev);
    for (u32 n = 0; n < SOCKS; n++) {
        assert_false(r->p.used[n]);
    }
    vt_fini(&r->vt);
    free(r);
}

static struct vsock_hdr packet(u32 guest_port, u32 host_port, u16 op) {
    return (struct vsock_hdr){.src_cid = CID,
                              .dst_cid = 2,
                              .src_port = guest_port,
                              .dst_port = host_port,
                              .type = 1,
                              .op = op,
                              .buf_alloc = 65536};
}

/* data: bytes that really follow the header. */
static void send_hdr(struct rig *r, struct vsock_hdr h, u32 data) {
    const struct vd_seg seg[] = {{r->tx, sizeof(h), false}, {r->tx + 64, data, false}};
    memcpy(r->vt.mem + r->tx, &h, sizeof(h));
    assert_true(vd_add(&r->d, VSOCK_TX, seg, data ? 2 : 1) >= 0);
    vd_kick(&r->d, VSOCK_TX);
    vd_used(&r->d, VSOCK_TX, NULL);
}

static void send_op(struct rig *r, u32 guest_port, u32 host_port, u16 op) {
    send_hdr(r, packet(guest_port, host_port, op), 0);
}

static void send_data(struct rig *r, u32 guest_port, u32 host_port, u32 len) {
    struct vsock_hdr h = packet(guest_port, host_port, OP_RW);
    h.len = len;
    send_hdr(r, h, len);
}

/* The next packet from the device; its buffer goes back. False: none. */
static bool receive(struct rig *r, struct vsock_hdr *h) {
    u32 len;
    int head = vd_used(&r->d, VSOCK_RX, &len);
    if (head < 0) {
        return false;
    }
    u32 at = r->rx_at[head];
    memcpy(h, r->vt.mem + r->rx + at * BUFFER, sizeof(*h));
    assert_int_equal(len, sizeof(*h) + h->len);
    assert_true(h->src_cid != CID && h->dst_cid == CID);
    give_buffer(r, at);
    vd_kick(&r->d, VSOCK_RX);
    return true;
}

static struct vsock_hdr expect(struct rig *r, u16 op) {
    struct vsock_hdr h;
    assert_true(receive(r, &h));
    assert_int_equal(h.op, op);
    return h;
}

static void expect_nothing(struct rig *r) {
    struct vsock_hdr h;
    assert_false(receive(r, &h));
}

/* The guest connects; the number of the socket. */
static u32 open_from_guest(struct rig *r, u32 guest_port, u32 host_port) {
    send_op(r, guest_port, host_port, OP_REQUEST);
    expect_nothing(r);
    u32 n = r->p.last;
    assert_int_equal(r->p.port[n], host_port);
    r->p.be.connected(r->p.be.device, n, true);
    struct vsock_hdr h = expect(r, OP_RESPONSE);
    assert_int_equal(h.src_port, host_port);
    assert_int_equal(h.dst_port, guest_port);
    assert_int_equal(h.buf_alloc, VSOCK_BUF);
    return n;
}

static void guest_connects(void **state) {
    (void)state;
    struct rig *r = setup();
    struct virtio_vsock_stats s;
    u32 n = open_from_guest(r, 1000, 52);
    send_data(r, 1000, 52, 5000);
    assert_int_equal(r->p.got[n], 5000);
    r->p.to_read[n] = 10000;
    r->p.be.event(r->p.be.device, n);
    u32 got = 0;
    while (got < 10000) {
        got += expect(r, OP_RW).len;
    }
    assert_int_equal(got, 10000);
    send_op(r, 1000, 52, OP_RST);
    assert_false(r->p.used[n]);
    expect_nothing(r);
    r->p.refuse = true;
    send_op(r, 1, 2, OP_REQUEST);
    expect(r, OP_RST);
    r->p.refuse = false;
    send_op(r, 1, 2, OP_REQUEST);
    r->p.be.connected(r->p.be.device, 0, false);
    expect(r, OP_RST);
    assert_false(r->p.used[0]);
    virtio_vsock_get_stats(r->vdev, &s);
    assert_int_equal(s.connections, 0);
    assert_int_equal(s.opened, 1);
    assert_int_equal(s.refused, 2);
    assert_int_equal(s.tx_bytes, 5000);
    assert_int_equal(s.rx_bytes, 10000);
    teardown(r);
}

static u32 offer(struct rig *r, u32 port) {
    int n = peer_connect(&r->p.be, port);
    assert_true(n >= 0);
    r->p.be.incoming(r->p.be.device, (u32)n, port);
    return (u32)n;
}

static void host_connects(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 n = offer(r, 1234);
    struct vsock_hdr h = expect(r, OP_REQUEST);
    assert_int_equal(h.dst_port, 1234);
    assert_int_equal(h.src_port, 1u << 30);
    assert_int_equal(r->p.accepted_port, 0);
    r->p.to_read[n] = 100; /* sent along with CONNECT */
    send_op(r, 1234, h.src_port, OP_RESPONSE);
    assert_int_equal(r->p.accepted_port, 1u << 30);
    assert_int_equal(expect(r, OP_RW).len, 100);
    /* one that the guest refuses, one that goes before it answers, one that it never answers */
    u32 a = offer(r, 5), b = offer(r, 6), c = offer(r, 7);
    u32 port = expect(r, OP_REQUEST).src_port;
    expect(r, OP_REQUEST);
    expect(r, OP_REQUEST);
    send_op(r, 5, port, OP_RST);
    assert_false(r->p.used[a]);
    r->p.hung_up[b] = true;
    r->p.be.event(r->p.be.device, b);
    assert_int_equal(expect(r, OP_RST).dst_port, 6);
    fake_advance(r->vt.fake, 20 * NSEC_PER_SEC);
    assert_int_equal(expect(r, OP_RST).dst_port, 7);
    assert_false(r->p.used[c]);
    assert_true(r->p.used[n]);
    assert_int_equal(fake_next_timer(r->vt.fake), HOST_FOREVER); /* nothing ticks */
    vd_set_status(&r->d, 0);
    u32 late = offer(r, 8); /* nobody there */
    assert_false(r->p.used[late]);
    teardown(r);
}

/* The host does not read: exactly the credit fits, and one byte more ends the connection. */
static void credit_of_guest(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 n = open_from_guest(r, 1, 2);
    r->p.accept[n] = 1000;
    for (u32 sent = 0; sent < VSOCK_BUF; sent += 32768) {
        send_data(r, 1, 2, 32768);
    }
    assert_int_equal(r->p.got[n], 1000);
    struct vsock_hdr h = expect(r, OP_CREDIT_UPDATE);
    assert_int_equal(h.fwd_cnt, 1000);
    send_data(r, 1, 2, 1000);
    expect_nothing(r);
    r->p.accept[n] = 50000;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_CREDIT_UPDATE).fwd_cnt, 51000);
    r->p.accept[n] = UINT64_MAX;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(r->p.got[n], VSOCK_BUF + 1000);
    expect(r, OP_CREDIT_UPDATE);
    r->p.accept[n] = 0;
    for (u32 sent = 0; sent < VSOCK_BUF; sent += 32768) {
        send_data(r, 1, 2, 32768);
    }
    assert_true(r->p.used[n]);
    send_data(r, 1, 2, 1);
    expect(r, OP_RST);
    assert_false(r->p.used[n]);
    teardown(r);
}

/* The guest's credit ends; it is asked once, and more comes with its next word. */
static void credit_of_host(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 n = open_from_guest(r, 1, 2);
    r->p.to_read[n] = 100000;
    r->p.be.event(r->p.be.device, n);
    u32 got = 0;
    struct vsock_hdr h;
    while (got < 65536) {
        got += expect(r, OP_RW).len;
    }
    assert_int_equal(got, 65536);
    expect(r, OP_CREDIT_REQUEST);
    r->p.be.event(r->p.be.device, n);
    expect_nothing(r);
    h = packet(1, 2, OP_CREDIT_UPDATE);
    h.fwd_cnt = 65536;
    send_hdr(r, h, 0);
    while (got < 100000) {
        got += expect(r, OP_RW).len;
    }
    expect_nothing(r);
    r->p.to_read[n] = 10;
    h.fwd_cnt = 200000; /* more than was ever sent: no credit at all */
    send_hdr(r, h, 0);
    r->p.be.event(r->p.be.device, n);
    expect(r, OP_CREDIT_REQUEST);
    expect_nothing(r);
    send_op(r, 1, 2, OP_CREDIT_REQUEST);
    while (receive(r, &h)) {
        assert_int_not_equal(h.op, OP_RW);
    }
    teardown(r);
}

static void host_ends(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 n = open_from_guest(r, 1, 2);
    r->p.to_read[n] = 10;
    r->p.end[n] = true; /* half closed, behind the data */
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_RW).len, 10);
    assert_int_equal(expect(r, OP_SHUTDOWN).flags, SHUT_SEND);
    send_data(r, 1, 2, 77);
    assert_int_equal(r->p.got[n], 77);
    r->p.hung_up[n] = true;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_SHUTDOWN).flags, SHUT_BOTH);
    send_op(r, 1, 2, OP_RST);
    assert_false(r->p.used[n]);
    /* a guest that does not answer is not waited for */
    n = open_from_guest(r, 1, 2);
    r->p.end[n] = r->p.hung_up[n] = true;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_SHUTDOWN).flags, SHUT_BOTH);
    fake_advance(r->vt.fake, 10 * NSEC_PER_SEC);
    expect(r, OP_RST);
    assert_false(r->p.used[n]);
    /* the other side takes no more, but has something to say still */
    n = open_from_guest(r, 1, 2);
    r->p.broken[n] = true;
    send_data(r, 1, 2, 5);
    assert_int_equal(expect(r, OP_SHUTDOWN).flags, SHUT_RECEIVE);
    r->p.to_read[n] = 3;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_RW).len, 3);
    teardown(r);
}

static void shut(struct rig *r, u32 flags) {
    struct vsock_hdr h = packet(1, 2, OP_SHUTDOWN);
    h.flags = flags;
    send_hdr(r, h, 0);
}

static void guest_ends(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 n = open_from_guest(r, 1, 2);
    r->p.accept[n] = 0;
    send_data(r, 1, 2, 100);
    shut(r, SHUT_SEND);
    assert_false(r->p.shut_send[n]); /* not before the data */
    r->p.accept[n] = 100;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(r->p.got[n], 100);
    assert_true(r->p.shut_send[n] && !r->p.shut_receive[n]);
    r->p.to_read[n] = 5;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(expect(r, OP_RW).len, 5);
    shut(r, SHUT_RECEIVE);
    expect(r, OP_RST);
    assert_false(r->p.used[n]);
    /* both at once with data on its way, then the guest loses patience: the host still gets it */
    n = open_from_guest(r, 1, 2);
    r->p.accept[n] = 0;
    send_data(r, 1, 2, 100);
    shut(r, SHUT_BOTH);
    expect_nothing(r);
    send_op(r, 1, 2, OP_RST);
    assert_true(r->p.used[n]);
    u32 other = open_from_guest(r, 1, 2); /* the same ports again */
    assert_int_not_equal(other, n);
    r->p.accept[n] = UINT64_MAX;
    r->p.be.event(r->p.be.device, n);
    assert_int_equal(r->p.got[n], 100);
    assert_false(r->p.used[n]);
    shut(r, SHUT_SEND); /* sending after that is against the rules */
    send_data(r, 1, 2, 1);
    expect(r, OP_RST);
    teardown(r);
}

static void nonsense(void **state) {
    (void)state;
    struct rig *r = setup();
    static const u16 ops[] = {0, OP_RESPONSE, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, 99};
    struct vsock_hdr h;
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        send_op(r, 9, 9, ops[i]); /* of no connection */
        h = expect(r, OP_RST);
        assert_true(h.dst_port == 9 && h.src_port == 9 && h.src_cid == 2);
    }
    send_op(r, 9, 9, OP_RST); /* never answered */
    expect_nothing(r);
    h = packet(1, 2, OP_REQUEST);
    h.dst_cid = 3;
    send_hdr(r, h, 0);
    assert_int_equal(expect(r, OP_RST).src_cid, 3);
    h = packet(1, 2, OP_REQUEST);
    h.type = 2;
    send_hdr(r, h, 0);
    expect(r, OP_RST);
    h = packet(1, 2, OP_REQUEST);
    h.src_cid = CID + 1;
    send_hdr(r, h, 0);
    expect(r, OP_RST);
    u32 n = open_from_guest(r, 1, 2);
    h = packet(1, 2, OP_RW);
    h.len = 100; /* and none of it there */
    send_hdr(r, h, 0);
    expect(r, OP_RST);
    assert_false(r->p.used[n]);
    open_from_guest(r, 1, 2);
    send_op(r, 1, 2, OP_REQUEST); /* a second time */
    expect(r, OP_RST);
    const struct vd_seg cut = {r->tx, 20, false};
    vd_add(&r->d, VSOCK_TX, &cut, 1);
    vd_kick(&r->d, VSOCK_TX);
    assert_true(vd_used(&r->d, VSOCK_TX, NULL) >= 0);
    expect_nothing(r);
    const struct vd_seg tiny = {r->rx, 20, true};
    for (u32 i = 0; i < BUFFERS; i++) { /* use up the good ones */
        send_op(r, 9, 9, OP_RW);
        assert_true(vd_used(&r->d, VSOCK_RX, NULL) >= 0);
    }
    vd_add(&r->d, VSOCK_RX, &tiny, 1);
    send_op(r, 9, 9, OP_RW);
    assert_int_not_equal(vd_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
    teardown(r);
}

/* A guest that sends without ever taking answers is let wait, and nothing runs meanwhile. */
static void without_buffers(void **state) {
    (void)state;
    struct rig *r = setup_buffers(0);
    struct vsock_hdr h = packet(9, 9, OP_RW);
    u32 taken = 0;
    memcpy(r->vt.mem + r->tx, &h, sizeof(h));
    const struct vd_seg seg = {r->tx, sizeof(h), false};
    for (u32 i = 0; i < 100; i++) {
        if (vd_add(&r->d, VSOCK_TX, &seg, 1) >= 0) {
            vd_kick(&r->d, VSOCK_TX);
        }
        while (vd_used(&r->d, VSOCK_TX, NULL) >= 0) {
            taken++;
        }
    }
    assert_int_equal(taken, VSOCK_ORPHANS);
    fake_advance(r->vt.fake, 1);
    assert_int_equal(fake_next_timer(r->vt.fake), HOST_FOREVER);
    for (u32 i = 0; i < BUFFERS; i++) {
        give_buffer(r, i);
    }
    vd_kick(&r->d, VSOCK_RX);
    u32 answers = 0;
    while (receive(r, &h)) {
        answers++;
        fake_advance(r->vt.fake, 1);
        while (vd_used(&r->d, VSOCK_TX, NULL) >= 0) {
            taken++;
        }
    }
    assert_true(taken > VSOCK_ORPHANS);
    assert_int_equal(answers, taken);
    teardown(r);
}

/* One that has much to send does not keep the others from it. */
static void fair(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 a = open_from_guest(r, 1, 10), b = open_from_guest(r, 1, 11), seen = 0;
    r->p.to_read[a] = r->p.to_read[b] = 60000;
    r->p.be.event(r->p.be.device, a);
    r->p.be.event(r->p.be.device, b);
    for (u32 i = 0; i < 20; i++) {
        u32 from_b = expect(r, OP_RW).src_port == 11;
        seen += i >= BUFFERS && from_b; /* those at first went before b had anything */
    }
    assert_true(seen >= 1);
    teardown(r);
}

static void saves(void **state) {
    (void)state;
    struct rig *r = setup();
    size_t len;
    u32 n = open_from_guest(r, 1, 2);
    const struct vd_seg event = {r->tx, 8, true};
    vd_add(&r->d, VSOCK_EVENT, &event, 1);
    vd_kick(&r->d, VSOCK_EVENT);
    r->dev->ops->pause(r->dev);
    u8 *a = vt_save(r->dev, &len);
    r->dev->ops->resume(r->dev);
    assert_true(r->p.used[n]); /* saving does no harm */
    memset(r->vt.mem + r->tx, 0xff, 8);
    assert_int_equal(vt_load(r->dev, a, len), 0);
    assert_false(r->p.used[n]);
    u32 used = 0, id = 1;
    fake_advance(r->vt.fake, 1);
    assert_true(vd_used(&r->d, VSOCK_EVENT, &used) >= 0);
    assert_int_equal(used, 4);
    memcpy(&id, r->vt.mem + r->tx, 4);
    assert_int_equal(id, 0);
    open_from_guest(r, 1, 2); /* and it goes on */
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_not_equal(vt_load(r->dev, a, cut), 0);
    }
    free(a);
    assert_null(virtio_vsock_create(&r->vt.env, &r->p.be, 2, NULL));
    assert_null(virtio_vsock_create(&r->vt.env, &r->p.be, 0xffffffff, NULL));
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_connects),
        cmocka_unit_test(host_connects),
        cmocka_unit_test(credit_of_guest),
        cmocka_unit_test(credit_of_host),
        cmocka_unit_test(host_ends),
        cmocka_unit_test(guest_ends),
        cmocka_unit_test(nonsense),
        cmocka_unit_test(without_buffers),
        cmocka_unit_test(fair),
        cmocka_unit_test(saves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
