/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the virtio socket device: rings, registers, packets that are nearly right, a host's side
 * that takes little, ends and hangs up, save and load.
 */
#include "core/virtio/vsock_int.h"
#include "tests/fuzz/virtio_fuzz.h"

enum { FUZZ_SOCKS = 8, CID = 5 };

struct fuzz_peer {
    struct vsock_backend be;
    struct virtio_fuzz *f;
    bool used[FUZZ_SOCKS], ends[FUZZ_SOCKS];
    u32 to_read, accept;
    bool broken;
};

static struct fuzz_peer *peer_of(struct vsock_backend *be) {
    return CONTAINER_OF(be, struct fuzz_peer, be);
}

/* A number that the device must not use any more is a finding. */
static void check(const struct fuzz_peer *p, u32 n) {
    if (n >= FUZZ_SOCKS || !p->used[n]) {
        abort();
    }
}

static int peer_connect(struct vsock_backend *be, u32 port) {
    struct fuzz_peer *p = peer_of(be);
    for (int n = 0; n < FUZZ_SOCKS && port != 13; n++) {
        if (!p->used[n]) {
            p->used[n] = true;
            p->ends[n] = false;
            return n;
        }
    }
    return -ERR_NOSPACE;
}

static void peer_accepted(struct vsock_backend *be, u32 n, u32 port) {
    (void)port;
    check(peer_of(be), n);
}

static s64 peer_read(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    struct fuzz_peer *p = peer_of(be);
    s64 done = 0;
    check(p, n);
    for (u32 i = 0; i < count; i++) {
        u32 len = (u32)MIN(iov[i].len, p->to_read);
        memset(iov[i].base, 'x', len);
        p->to_read -= len;
        done += len;
    }
    return done ? done : p->broken ? -ERR_IO : p->ends[n] ? 0 : -ERR_AGAIN;
}

static s64 peer_write(struct vsock_backend *be, u32 n, const struct iov *iov, u32 count) {
    static volatile u8 sum;
    struct fuzz_peer *p = peer_of(be);
    s64 done = 0;
    check(p, n);
    for (u32 i = 0; i < count; i++) {
        u32 len = (u32)MIN(iov[i].len, p->accept);
        for (u32 k = 0; k < len; k++) {
            sum = (u8)(sum + ((const u8 *)iov[i].base)[k]);
        }
        p->accept -= len;
        done += len;
    }
    return done ? done : p->broken ? -ERR_IO : -ERR_AGAIN;
}

static bool peer_hung_up(struct vsock_backend *be, u32 n) {
    check(peer_of(be), n);
    return peer_of(be)->ends[n] && peer_of(be)->broken;
}

static void peer_shutdown(struct vsock_backend *be, u32 n, bool receive, bool send) {
    (void)receive;
    (void)send;
    check(peer_of(be), n);
}

static void peer_close(struct vsock_backend *be, u32 n) {
    check(peer_of(be), n);
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

/* A packet of one of few connections, with its length near the truth. */
static void send_packet(struct fuzz_peer *p, struct fuzz_input *in) {
    struct virtio_fuzz *f = p->f;
    u8 how = fuzz8(in);
    u32 data = how & 128 ? fuzz16(in) & 0x7fff : 0;
    struct vsock_hdr h = {.src_cid = CID,
                          .dst_cid = 2,
                          .src_port = how >> 3 & 3,
                          .dst_port = how & 64 ? (1u << 30) + (how >> 3 & 3) : 1,
                          .len = data + (how & 32 ? fuzz8(in) : 0u),
                          .type = 1,
                          .op = how & 7,
                          .flags = how & 3,
                          .buf_alloc = fuzz16(in),
                          .fwd_cnt = fuzz16(in)};
    const struct vd_seg seg[] = {{f->area, sizeof(h), false}, {f->area + 64, data, false}};
    memcpy(f->vt.mem + f->area, &h, sizeof(h));
    if (f->d.q[VSOCK_TX].free_count >= 8) {
        vd_add(&f->d, VSOCK_TX, seg, data ? 2 : 1);
        vd_kick(&f->d, VSOCK_TX);
    }
}

static void give_buffers(struct fuzz_peer *p, u32 count) {
    struct virtio_fuzz *f = p->f;
    for (u32 i = 0; i < count && f->d.q[VSOCK_RX].free_count >= 8; i++) {
        const struct vd_seg seg = {f->area + 0x8000 + i * 512, 512, true};
        vd_add(&f->d, VSOCK_RX, &seg, 1);
    }
    vd_kick(&f->d, VSOCK_RX);
}

static void peer_event(void *ctx, struct fuzz_input *in) {
    struct fuzz_peer *p = ctx;
    u8 what = fuzz8(in);
    u32 n = what >> 4 & 7;
    int taken;
    switch (what & 15) {
    case 0:
        taken = peer_connect(&p->be, 1);
        if (taken >= 0) {
            p->be.incoming(p->be.device, (u32)taken, n);
        }
        break;
    case 1:
    case 2:
        if (p->used[n]) {
            p->be.connected(p->be.device, n, what & 2);
        }
        break;
    case 3:
        p->to_read = fuzz16(in);
        p->be.event(p->be.device, n);
        break;
    case 4:
        p->accept = fuzz16(in);
        p->be.event(p->be.device, n);
        break;
    case 5:
        p->ends[n] = true;
        p->be.event(p->be.device, n);
        break;
    case 6:
        p->broken = what & 128;
        break;
    case 7:
        fake_advance(p->f->vt.fake, 3 * NSEC_PER_SEC);
        break;
    case 8:
    case 9:
        give_buffers(p, 1 + n);
        break;
    default:
        send_packet(p, in);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct virtio_fuzz f;
    struct fuzz_peer p = {.be = {.ops = &peer_ops, .max = FUZZ_SOCKS}, .f = &f};
    struct fuzz_input in = {data, size};
    memset(&f, 0, sizeof(f));
    vt_init(&f.vt);
    struct virtio_device *vdev = virtio_vsock_create(&f.vt.env, &p.be, CID, NULL);
    f.dev = virtio_mmio_attach(&f.vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    f.queues = 3;
    f.features = vdev->offered;
    f.event = peer_event;
    f.ctx = &p;
    fuzz_run(&f, &in);
    for (u32 n = 0; n < FUZZ_SOCKS; n++) {
        if (p.used[n]) {
            abort(); /* the device forgot it */
        }
    }
    if (f.vt.fake->allocated > 4 << 20) {
        abort();
    }
    vt_fini(&f.vt);
    return 0;
}
