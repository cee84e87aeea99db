/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the virtio network device: rings, registers, frames of all sizes, save and load. */
#include "tests/fuzz/virtio_fuzz.h"

static void net_event(void *ctx, struct fuzz_input *in) {
    static u8 frame[70000];
    struct fake_net *net = ctx;
    u8 what = fuzz8(in);
    net->frames = 0;
    net->full = what & 1;
    if (!net->full && net->be.writable) {
        net->be.writable(net->be.device);
    }
    frame[fuzz16(in)] = what;
    fake_net_input(net, frame, what & 2 ? fuzz16(in) + 4000 : fuzz16(in) & 0x7ff);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct virtio_fuzz f;
    struct fuzz_input in = {data, size};
    u8 how = fuzz8(&in);
    const struct virtio_net_opts opts = {.mac = {2, 0, 0, 0, 0, 1},
                                         .pairs = how & 4 ? 2 : 1,
                                         .rx.ops = {how & 8 ? 1 : 0, 1, 0},
                                         .tx.bandwidth = {how & 8 ? 100 : 0, 1, 0}};
    memset(&f, 0, sizeof(f));
    vt_init(&f.vt);
    struct fake_net *net = fake_net_create(how & 1, how & 16 ? 0 : UINT64_MAX);
    struct virtio_device *vdev = virtio_net_create(&f.vt.env, &net->be, &opts, NULL);
    f.dev = virtio_mmio_attach(&f.vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    f.queues = how & 4 ? 5 : 3;
    f.features = vdev->offered & (how & 2 ? UINT64_MAX : ~BIT(15));
    f.event = net_event;
    f.ctx = net;
    fuzz_run(&f, &in);
    vt_fini(&f.vt);
    fake_net_destroy(net);
    return 0;
}
