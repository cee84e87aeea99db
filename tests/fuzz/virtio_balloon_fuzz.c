/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the virtio balloon: rings, registers, targets, statistics, hinting, save and load. */
#include "tests/fuzz/virtio_fuzz.h"

static void balloon_event(void *ctx, struct fuzz_input *in) {
    struct virtio_device *vdev = ctx;
    struct balloon_stats stats;
    struct balloon_hinting hint;
    u8 what = fuzz8(in);
    switch (what & 7) {
    case 0:
        balloon_set_target(vdev, what >> 6);
        break;
    case 1:
        balloon_set_interval(vdev, what >> 6);
        break;
    case 2:
        balloon_hinting_start(vdev, what & 64);
        break;
    case 3:
        balloon_hinting_stop(vdev);
        break;
    default:
        balloon_hinting_get(vdev, &hint);
        balloon_stats_get(vdev, &stats);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct virtio_fuzz f;
    struct fuzz_input in = {data, size};
    u8 how = fuzz8(&in);
    const struct balloon_opts opts = {
        .stats_seconds = how & 1, .reporting = how & 2, .hinting = how & 4};
    memset(&f, 0, sizeof(f));
    vt_init(&f.vt);
    struct virtio_device *vdev = virtio_balloon_create(&f.vt.env, &opts, NULL);
    f.dev = virtio_mmio_attach(&f.vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    f.queues = how & 8 ? 5 : 3;
    f.features = vdev->offered;
    f.event = balloon_event;
    f.ctx = vdev;
    fuzz_run(&f, &in);
    vt_fini(&f.vt);
    return 0;
}
