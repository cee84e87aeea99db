/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged and hostile qcow2 images. Input: how the image begins (an empty one of some geometry,
 * with something written to it, or the rest of the input as it is), patches to it, and what is then
 * done with it. Whatever happens, every error is one, and what the image says it wrote can be read.
 */
#include <stdlib.h>
#include <string.h>

#include "hosts/fake/fake.h"
#include "image/qcow2_int.h"
#include "tests/unit/lib_memfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const u8 *p;
    size_t left;
};

static u32 take(struct input *in, u32 bytes) {
    u32 v = 0;
    for (u32 i = 0; i < bytes && in->left; i++, in->p++, in->left--) {
        v = v << 8 | *in->p;
    }
    return v;
}

static struct image *open_image(struct fake_host *fake, struct memfile *m, bool readonly) {
    struct image *im = NULL;
    struct err err = {0};
    int rc = qcow2_open(&fake->host, memfile_again(m), readonly, NULL, &im, &err);
    if (rc && !err.code) {
        __builtin_trap(); /* an error without a message */
    }
    return im;
}

static struct memfile *begin(struct fake_host *fake, struct input *in) {
    struct memfile *m = memfile_create();
    u32 how = take(in, 1);
    if (how >= 0xf0) { /* the input is the image */
        file_write(&m->file, 0, in->p, in->left);
        return m;
    }
    struct qcow2_create c = {.size = 256 * KIB,
                             .cluster_bits = 9 + how % 4,
                             .refcount_bits = 1u << (how / 4 % 7),
                             .lazy = how & 0x80};
    if (qcow2_create(&fake->host, &m->file, &c, NULL)) {
        __builtin_trap();
    }
    struct image *im = open_image(fake, m, false);
    u8 buf[3000] = {1, 2, 3};
    for (u32 i = 0; i < 12; i++) {
        image_write(im, i * 20480ull, buf, 2560);
    }
    im->ops->close(im);
    return m;
}

static void patch(struct memfile *m, struct input *in) {
    u32 n = take(in, 1) & 15;
    for (u32 i = 0; i < n; i++) {
        u32 at = take(in, 2), len = take(in, 1) & 7;
        for (u32 k = 0; k <= len && at + k < m->end; k++) {
            m->data[at + k] = (u8)take(in, 1);
        }
    }
}

static void write_and_read(struct image *im, u64 offset, u8 *buf, u32 len) {
    u8 back[8192];
    memset(buf, (int)offset | 1, len);
    if (!image_write(im, offset, buf, len) && !image_read(im, offset, back, len) &&
        memcmp(buf, back, len) != 0) {
        __builtin_trap();
    }
}

static void step(struct image *im, struct input *in) {
    u8 buf[8192];
    struct qcow2_check_result r;
    u32 what = take(in, 1);
    if (im->size < 512) {
        return;
    }
    u64 offset = take(in, 3) * 512ull % im->size;
    u32 len = (1 + (what >> 4)) * 512;
    len = (u32)MIN((u64)len, im->size - offset);
    switch (what & 7) {
    case 0:
        im->ops->zero(im, offset, len * 3ull > im->size - offset ? len : len * 3ull, what & 8);
        break;
    case 1:
        im->ops->discard(im, offset, len);
        break;
    case 2:
        im->ops->flush(im);
        break;
    case 3:
        qcow2_check(im, what >> 3 & 3, NULL, NULL, &r);
        break;
    case 4:
        image_read(im, offset, buf, len);
        break;
    case 5:
        qcow2_resize(im, (u64)take(in, 2) * 512, NULL);
        break;
    default:
        write_and_read(im, offset, buf, len);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fake_host *fake = fake_host_create();
    struct input in = {data, size};
    struct memfile *m = begin(fake, &in);
    patch(m, &in);
    for (u32 i = 0; i < 3; i++) {
        struct image *im = open_image(fake, m, i == 0);
        for (u32 k = 0; im && k < 24 && (in.left || k < 2); k++) {
            step(im, &in);
        }
        if (im) {
            im->ops->close(im);
        }
    }
    memfile_destroy(m);
    if (fake->allocated) {
        __builtin_trap();
    }
    fake_host_destroy(fake);
    return 0;
}
