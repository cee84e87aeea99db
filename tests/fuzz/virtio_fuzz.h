/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the harnesses of the virtio devices share: the input is a program of register accesses, ring
 * memory contents, well-formed chains, back-end events, resets and save/load cycles, played against
 * a device on the MMIO transport whose driver has started.
 *
 * The driver of the unit tests is compiled in, so that a harness is one translation unit.
 */
#ifndef TESTS_FUZZ_VIRTIO_FUZZ_H
#define TESTS_FUZZ_VIRTIO_FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "tests/unit/lib_virtio.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const u8 *data;
    size_t size;
};

static inline u8 fuzz8(struct fuzz_input *in) {
    if (!in->size) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static inline u32 fuzz16(struct fuzz_input *in) {
    u32 low = fuzz8(in);
    return low | (u32)fuzz8(in) << 8;
}

static inline u32 fuzz32(struct fuzz_input *in) {
    u32 low = fuzz16(in);
    return low | fuzz16(in) << 16;
}

struct virtio_fuzz {
    struct vt vt;
    struct vd d;
    struct device *dev;
    u32 queues;
    u64 features;
    u64 area;                                        /* 64 KiB of buffers, behind the rings */
    void (*event)(void *ctx, struct fuzz_input *in); /* something happens at the back end */
    void *ctx;
};

static inline void fuzz_restart(struct virtio_fuzz *f) {
    f->vt.next = 0x1000;
    if (!vd_start(&f->d, f->features, f->queues)) {
        f->event(f->ctx, &(struct fuzz_input){0}); /* a reset may wait for the back end */
        f->vt.next = 0x1000;
        vd_start(&f->d, f->features, f->queues);
    }
    f->area = vt_alloc(&f->vt, 65536, 4096);
}

/* A chain of up to 6 segments that is well formed but for its lengths and places. */
static inline void fuzz_chain(struct virtio_fuzz *f, struct fuzz_input *in) {
    struct vd_seg seg[6];
    u32 q = fuzz8(in) % f->queues, shape = fuzz8(in), n = 1 + shape % 6;
    u32 readable = (shape >> 4) % (n + 1);
    for (u32 i = 0; i < n; i++) {
        seg[i] = (struct vd_seg){f->area + fuzz16(in), fuzz16(in) & 0x3fff, i >= readable};
    }
    if (f->d.q[q].free_count < 8) {
        return;
    }
    if (shape & 8 && f->vt.next + 4096 < VT_RAM_SIZE) {
        vd_add_indirect(&f->d, q, seg, n);
    } else {
        vd_add(&f->d, q, seg, n);
    }
    vd_kick(&f->d, q);
}

static inline void fuzz_poke(struct virtio_fuzz *f, struct fuzz_input *in) {
    u32 at = fuzz16(in), len = fuzz8(in) & 31;
    for (u32 i = 0; i < len; i++) {
        f->vt.mem[0x1000 + at + i] = fuzz8(in);
    }
}

static inline void fuzz_save_load(struct virtio_fuzz *f, struct fuzz_input *in) {
    size_t len;
    f->dev->ops->pause(f->dev);
    u8 *a = vt_save(f->dev, &len);
    u32 flips = fuzz8(in) & 3;
    for (u32 i = 0; i < flips; i++) {
        a[fuzz16(in) % len] ^= fuzz8(in);
    }
    vt_load(f->dev, a, len);
    f->dev->ops->resume(f->dev);
    free(a);
}

static inline void fuzz_step(struct virtio_fuzz *f, struct fuzz_input *in) {
    u32 op = fuzz8(in), at = 0;
    switch (op & 15) {
    case 0:
    case 1:
        at = fuzz16(in) & 0x1ff;
        vt_write(&f->vt, VT_MMIO_BASE + at, 1u << ((op >> 4) & 3), fuzz32(in));
        break;
    case 2:
        vt_read(&f->vt, VT_MMIO_BASE + (fuzz16(in) & 0x1ff), 1u << ((op >> 4) & 3));
        break;
    case 3:
    case 4:
        fuzz_poke(f, in);
        break;
    case 5:
        vd_kick(&f->d, op >> 4);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        fuzz_chain(f, in);
        break;
    case 10:
    case 11:
        f->event(f->ctx, in);
        break;
    case 12:
        fuzz_restart(f);
        break;
    case 13:
        fuzz_save_load(f, in);
        break;
    case 14:
        fake_advance(f->vt.fake, 1);
        break;
    default:
        while (vd_used(&f->d, (op >> 4) % f->queues, NULL) >= 0) {
        }
        break;
    }
}

/* vt is initialised and dev attached; everything is removed again. */
static inline void fuzz_run(struct virtio_fuzz *f, struct fuzz_input *in) {
    vd_find_mmio(&f->d, &f->vt, VT_MMIO_BASE);
    fuzz_restart(f);
    for (u32 steps = 0; in->size && steps < 400; steps++) {
        fuzz_step(f, in);
    }
    f->dev->ops->remove(f->dev);
}

#endif
