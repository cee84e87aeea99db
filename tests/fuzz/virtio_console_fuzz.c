/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the virtio console: rings, registers, a stream that stalls, save and load. */
#include "tests/fuzz/virtio_fuzz.h"

struct console_fuzz {
    struct fake_char *ch;
    struct virtio_device *vdev;
};

static void char_event(void *ctx, struct fuzz_input *in) {
    struct console_fuzz *c = ctx;
    u8 what = fuzz8(in);
    c->ch->out_len = 0;
    c->ch->accept = what & 1 ? fuzz8(in) : SIZE_MAX;
    if (c->ch->be.writable) {
        c->ch->be.writable(c->ch->be.device);
        fake_char_input(c->ch, "the quick brown fox jumps over the lazy dog", what % 44);
    }
    if (what & 64) {
        virtio_console_resize(c->vdev, what, 25);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct virtio_fuzz f;
    struct console_fuzz c;
    struct fuzz_input in = {data, size};
    const struct virtio_console_opts opts = {80, 25};
    memset(&f, 0, sizeof(f));
    vt_init(&f.vt);
    c.ch = fake_char_create();
    c.vdev = virtio_console_create(&f.vt.env, &c.ch->be, &opts, NULL);
    f.dev = virtio_mmio_attach(&f.vt.env, c.vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    f.queues = 2;
    f.features = c.vdev->offered;
    f.event = char_event;
    f.ctx = &c;
    fuzz_run(&f, &in);
    vt_fini(&f.vt);
    fake_char_destroy(c.ch);
    return 0;
}
