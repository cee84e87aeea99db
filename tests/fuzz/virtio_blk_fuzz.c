/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the virtio block device: rings, registers, completions, errors, save and load. */
#include "core/base/err.h"
#include "tests/fuzz/virtio_fuzz.h"

static void disk_event(void *ctx, struct fuzz_input *in) {
    struct fake_disk *disk = ctx;
    disk->fail_next = fuzz8(in) & 1 ? -ERR_IO : 0;
    fake_disk_complete(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct virtio_fuzz f;
    struct fuzz_input in = {data, size};
    u8 how = fuzz8(&in);
    memset(&f, 0, sizeof(f));
    vt_init(&f.vt);
    struct fake_disk *disk = fake_disk_create(f.vt.fake, 65536);
    const struct virtio_blk_opts opts = {.queues = 1 + (how & 1), .readonly = (how & 14) == 14};
    struct virtio_device *vdev = virtio_blk_create(&f.vt.env, &disk->be, &opts, NULL);
    f.dev = virtio_mmio_attach(&f.vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    f.queues = opts.queues;
    f.features = vdev->offered & (how & 16 ? UINT64_MAX : ~(BIT(9) | BIT(11)));
    f.event = disk_event;
    f.ctx = disk;
    fuzz_run(&f, &in);
    vt_fini(&f.vt);
    fake_disk_destroy(disk);
    return 0;
}
