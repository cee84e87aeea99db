/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the virtqueue walker: ring addresses, sizes and all ring memory come from the input, which
 * also changes them between calls. Chains must lie in RAM and keep to their bounds.
 */
#include "tests/fuzz/virtio_fuzz.h"

enum { FUZZ_RAM = 8192 };

struct rig {
    u8 mem[FUZZ_RAM] ALIGNED(4096);
    struct ram ram;
    struct vq vq;
    struct vq_chain chain;
};

static void check_chain(const struct rig *r) {
    const struct vq_chain *c = &r->chain;
    u32 n = c->out_count + (u32)c->in_count;
    u64 out = 0, in = 0;
    if (n > VQ_SEGS_MAX || c->head >= r->vq.size) {
        abort();
    }
    for (u32 i = 0; i < n; i++) {
        const u8 *p = c->iov[i].base;
        if (p < r->mem || p + c->iov[i].len > r->mem + FUZZ_RAM || p != r->mem + c->gpa[i] ||
            !c->iov[i].len) {
            abort();
        }
        *(i < c->out_count ? &out : &in) += c->iov[i].len;
    }
    if (out != c->out_len || in != c->in_len) {
        abort();
    }
}

static void use_chain(struct rig *r, struct fuzz_input *in) {
    u8 buf[64];
    struct iov iov[VQ_SEGS_MAX];
    u64 gpa[VQ_SEGS_MAX];
    u64 offset = fuzz8(in);
    vq_chain_read(&r->chain, offset, buf, sizeof(buf));
    if (vq_chain_out(&r->chain, offset, r->chain.out_len, iov) > r->chain.out_count ||
        vq_chain_in(&r->chain, offset, r->chain.in_len, iov, gpa) > r->chain.in_count) {
        abort();
    }
    vq_chain_write(&r->ram, &r->chain, offset, buf, sizeof(buf)); /* may hit the rings: fine */
}

static void save_load(struct rig *r) {
    u8 buf[128];
    struct snap_writer w = {.buf = buf, .cap = sizeof(buf)};
    vq_save(&r->vq, &w);
    struct snap_reader s = {.buf = buf, .len = w.len};
    if (w.failed || vq_load(&r->vq, &s)) {
        abort();
    }
}

static void step(struct rig *r, struct fuzz_input *in) {
    u8 op = fuzz8(in);
    u32 at = 0;
    switch (op & 7) {
    case 0:
    case 1:
        if (vq_pop(&r->vq, &r->chain) == 1) {
            check_chain(r);
            use_chain(r, in);
        }
        break;
    case 2:
        vq_push(&r->vq, (u16)(op >> 3), op);
        vq_should_interrupt(&r->vq);
        break;
    case 3:
        vq_notify_off(&r->vq);
        vq_notify_on(&r->vq);
        break;
    case 4:
        save_load(r);
        break;
    case 5: /* one more available */
        memcpy(&at, r->mem + ((r->vq.avail + 2) & (FUZZ_RAM - 2)), 2);
        at++;
        memcpy(r->mem + ((r->vq.avail + 2) & (FUZZ_RAM - 2)), &at, 2);
        break;
    default:
        at = fuzz16(in) % (FUZZ_RAM - 16);
        for (u32 i = 0; i < 16; i++) {
            r->mem[at + i] = fuzz8(in);
        }
        break;
    }
    if (r->vq.inflight_count > VQ_SIZE_MAX) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct rig r;
    struct fuzz_input in = {data, size};
    memset(&r, 0, sizeof(r));
    ram_add(&r.ram, 0, FUZZ_RAM, r.mem, 0);
    vq_init(&r.vq, &r.ram, 256);
    u8 how = fuzz8(&in);
    r.vq.size = (u16)(how & 128 ? fuzz16(&in) % 257 : 1u << (how & 7));
    r.vq.desc = how & 64 ? fuzz16(&in) : 0;
    r.vq.avail = how & 64 ? fuzz16(&in) : 4096;
    r.vq.used = how & 64 ? fuzz16(&in) : 6144;
    r.vq.indirect = how & 8;
    r.vq.event_idx = how & 16;
    u32 prefix = fuzz16(&in) % (how & 32 ? FUZZ_RAM : 512);
    for (u32 i = 0; i < prefix && in.size; i++) {
        r.mem[i] = fuzz8(&in);
    }
    vq_enable(&r.vq);
    for (u32 steps = 0; in.size && steps < 500; steps++) {
        step(&r, &in);
    }
    return 0;
}
