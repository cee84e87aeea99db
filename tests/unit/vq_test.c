/* SPDX-License-Identifier: Apache-2.0 */
/* The virtqueue walker against well-behaved and hostile rings, without a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "tests/unit/lib_virtio.h"

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, SIZE = 8, BUF = 0x8000 };

struct rig {
    struct vt vt;
    struct vq vq;
    struct vd d; /* only its rings are used */
    struct vq_chain chain;
};

static void rig_init(struct rig *r) {
    memset(r, 0, sizeof(*r));
    vt_init(&r->vt);
    vq_init(&r->vq, &r->vt.ram, 256);
    struct vd_queue *q = &r->d.q[0];
    r->d.vt = &r->vt;
    q->size = SIZE;
    q->desc = vt_alloc(&r->vt, 16 * SIZE, 16);
    q->avail = vt_alloc(&r->vt, 6 + 2 * SIZE, 2);
    q->used = vt_alloc(&r->vt, 6 + 8 * SIZE, 4);
    for (u16 i = 0; i < SIZE; i++) {
        q->free[q->free_count++] = (u16)(SIZE - 1 - i);
    }
    r->vq.size = SIZE;
    r->vq.desc = q->desc;
    r->vq.avail = q->avail;
    r->vq.used = q->used;
    r->vq.indirect = true;
    vq_enable(&r->vq);
    assert_false(r->vq.broken);
}

static struct rig *setup(void) {
    struct rig *r = malloc(sizeof(*r));
    assert_non_null(r);
    rig_init(r);
    return r;
}

static void done(struct rig *r) {
    vt_fini(&r->vt);
    free(r);
}

static void desc(struct rig *r, u16 i, u64 gpa, u32 len, u16 flags, u16 next) {
    vd_desc_set(&r->d, 0, i, gpa, len, flags, next);
}

static int pop(struct rig *r) {
    return vq_pop(&r->vq, &r->chain);
}

/* One chain starting at descriptor 0 must break the queue. */
static void expect_broken(struct rig *r) {
    vd_avail_push(&r->d, 0, 0);
    assert_int_equal(pop(r), -ERR_FORMAT);
    assert_true(r->vq.broken);
    assert_non_null(r->vq.why);
    assert_int_equal(pop(r), -ERR_FORMAT);
    assert_false(vq_has_work(&r->vq));
    vq_push(&r->vq, 0, 1); /* must do nothing */
    done(r);
}

static void simple_chain(void **state) {
    (void)state;
    struct rig *r = setup();
    u32 len;
    const struct vd_seg seg[] = {
        {BUF, 16, false}, {BUF + 0x100, 32, false}, {BUF + 0x200, 8, true}, {BUF + 0x300, 1, true}};
    assert_int_equal(pop(r), 0);
    int head = vd_add(&r->d, 0, seg, 4);
    assert_true(vq_has_work(&r->vq));
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.head, head);
    assert_int_equal(r->chain.out_count, 2);
    assert_int_equal(r->chain.in_count, 2);
    assert_int_equal(r->chain.out_len, 48);
    assert_int_equal(r->chain.in_len, 9);
    assert_ptr_equal(r->chain.iov[1].base, r->vt.mem + BUF + 0x100);
    assert_int_equal(r->vq.inflight_count, 1);
    vq_push(&r->vq, r->chain.head, 9);
    assert_int_equal(r->vq.inflight_count, 0);
    assert_int_equal(vd_used(&r->d, 0, &len), head);
    assert_int_equal(len, 9);
    vq_push(&r->vq, r->chain.head, 9); /* twice: nothing */
    assert_int_equal(vd_used(&r->d, 0, &len), -1);
    assert_true(r->vt.written >= 10);
    done(r);
}

static void neighbours_merge(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg[] = {{BUF, 16, false},      {BUF + 16, 16, false}, {BUF + 99, 0, true},
                                 {BUF + 32, 512, true}, {BUF + 544, 1, true},  {BUF, 4, true}};
    vd_add(&r->d, 0, seg, 6);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.out_count, 1);
    assert_int_equal(r->chain.iov[0].len, 32);
    assert_int_equal(r->chain.in_count, 2);
    assert_int_equal(r->chain.iov[1].len, 513);
    assert_int_equal(r->chain.in_len, 517);
    done(r);
}

static void copies_and_slices(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg[] = {
        {BUF, 3, false}, {BUF + 0x10, 5, false}, {BUF + 0x20, 4, true}, {BUF + 0x30, 4, true}};
    struct iov iov[VQ_SEGS_MAX];
    u64 gpa[VQ_SEGS_MAX];
    char buf[16] = {0};
    vd_add(&r->d, 0, seg, 4);
    memcpy(r->vt.mem + BUF, "abc", 3);
    memcpy(r->vt.mem + BUF + 0x10, "defgh", 5);
    assert_int_equal(pop(r), 1);
    assert_int_equal(vq_chain_read(&r->chain, 1, buf, sizeof(buf)), 7);
    assert_string_equal(buf, "bcdefgh");
    assert_int_equal(vq_chain_read(&r->chain, 8, buf, 1), 0);
    assert_int_equal(vq_chain_read(&r->chain, 99, buf, 1), 0);
    assert_int_equal(vq_chain_write(&r->vt.ram, &r->chain, 2, "123456789", 9), 6);
    assert_memory_equal(r->vt.mem + BUF + 0x22, "12", 2);
    assert_memory_equal(r->vt.mem + BUF + 0x30, "3456", 4);
    assert_int_equal(vq_chain_out(&r->chain, 2, 3, iov), 2);
    assert_int_equal(iov[0].len, 1);
    assert_int_equal(iov[1].len, 2);
    assert_int_equal(vq_chain_in(&r->chain, 5, 100, iov, gpa), 1);
    assert_int_equal(gpa[0], BUF + 0x31);
    assert_int_equal(iov[0].len, 3);
    u64 before = r->vt.written;
    vq_chain_written(&r->vt.ram, &r->chain, 5);
    assert_int_equal(r->vt.written - before, 5);
    done(r);
}

static void indirect_chain(void **state) {
    (void)state;
    struct rig *r = setup();
    struct vd_seg seg[20];
    for (u32 i = 0; i < 20; i++) { /* longer than the queue: allowed here */
        seg[i] = (struct vd_seg){BUF + i * 64, 16, i >= 10};
    }
    int head = vd_add_indirect(&r->d, 0, seg, 20);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.head, head);
    assert_int_equal(r->chain.out_count, 10);
    assert_int_equal(r->chain.in_count, 10);
    /* direct descriptors followed by an indirect one are legal too */
    desc(r, 0, BUF, 4, NEXT, 1);
    desc(r, 1, r->vq.desc + 16 * 2, 16, INDIRECT, 0);
    desc(r, 2, BUF + 64, 4, WRITE, 0);
    r->vq.inflight[0] = 0;
    vd_avail_push(&r->d, 0, 0);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.out_count, 1);
    assert_int_equal(r->chain.in_count, 1);
    done(r);
}

static void indirect_abuse(void **state) {
    (void)state;
    struct rig *r = setup();
    desc(r, 0, BUF, 32, INDIRECT | NEXT, 1); /* with NEXT */
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, 24, INDIRECT, 0); /* not whole */
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, 0, INDIRECT, 0); /* empty */
    expect_broken(r);
    r = setup();
    desc(r, 0, VT_RAM_SIZE - 16, 32, INDIRECT, 0); /* leaves memory */
    expect_broken(r);
    r = setup();
    desc(r, 0, r->vq.desc + 16, 16, INDIRECT, 0); /* nested */
    desc(r, 1, r->vq.desc + 32, 16, INDIRECT, 0);
    expect_broken(r);
    r = setup();
    r->vq.indirect = false; /* not negotiated */
    desc(r, 0, r->vq.desc + 16, 16, INDIRECT, 0);
    expect_broken(r);
    r = setup();
    desc(r, 0, r->vq.desc + 16, 16, INDIRECT, 0);
    desc(r, 1, BUF, 16, NEXT, 1); /* links behind its table of one */
    expect_broken(r);
    r = setup();
    desc(r, 0, r->vq.desc + 16, 32, INDIRECT, 0);
    desc(r, 1, BUF, 16, NEXT, 1);
    desc(r, 2, BUF + 64, 16, NEXT, 0); /* a loop in the table */
    expect_broken(r);
}

static void bad_chains(void **state) {
    (void)state;
    struct rig *r = setup();
    desc(r, 0, BUF, 16, NEXT, 0); /* loop */
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, 0, NEXT, 1); /* loop of empty ones */
    desc(r, 1, BUF, 0, NEXT, 0);
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, 16, NEXT, SIZE); /* link outside the table */
    expect_broken(r);
    r = setup();
    desc(r, 0, VT_RAM_SIZE - 8, 16, 0, 0); /* across the end of memory */
    expect_broken(r);
    r = setup();
    desc(r, 0, UINT64_MAX - 4, 16, WRITE, 0); /* wraps */
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, UINT32_MAX, WRITE, 0); /* huge */
    expect_broken(r);
    r = setup();
    desc(r, 0, BUF, 16, NEXT | WRITE, 1);
    desc(r, 1, BUF, 16, 0, 0); /* readable after writable */
    expect_broken(r);
    r = setup();
    r->vt.ram.slot[0].flags = RAM_READONLY;
    desc(r, 0, BUF, 16, WRITE, 0);
    expect_broken(r);
}

static void bad_avail(void **state) {
    (void)state;
    struct rig *r = setup();
    vd_avail_push(&r->d, 0, SIZE); /* head outside the table */
    assert_int_equal(pop(r), -ERR_FORMAT);
    done(r);
    r = setup();
    desc(r, 0, BUF, 16, 0, 0);
    vd_avail_push(&r->d, 0, 0);
    vd_avail_push(&r->d, 0, 0); /* the same again while it is out */
    assert_int_equal(pop(r), 1);
    assert_int_equal(pop(r), -ERR_FORMAT);
    done(r);
    r = setup();
    desc(r, 0, BUF, 16, 0, 0);
    r->d.q[0].avail_idx = SIZE; /* index jumps beyond the ring */
    vd_avail_push(&r->d, 0, 0);
    assert_int_equal(pop(r), -ERR_FORMAT);
    done(r);
}

static void bad_rings(void **state) {
    (void)state;
    const struct {
        u16 size;
        u64 desc, avail, used;
    } bad[] = {
        {0, 0x1000, 0x2000, 0x3000},           {3, 0x1000, 0x2000, 0x3000},
        {512, 0x1000, 0x2000, 0x3000},         {8, 0x1008, 0x2000, 0x3000},
        {8, 0x1000, 0x2001, 0x3000},           {8, 0x1000, 0x2000, 0x3002},
        {8, VT_RAM_SIZE - 64, 0x2000, 0x3000}, {8, 0x1000, VT_RAM_SIZE - 4, 0x3000},
        {8, 0x1000, 0x2000, VT_RAM_SIZE - 4},  {8, UINT64_MAX - 15, 0x2000, 0x3000},
        {8, 0x1000, 0x2000, BIT(63)},
    };
    struct rig *r = setup();
    for (u32 i = 0; i < ARRAY_LEN(bad); i++) {
        vq_reset(&r->vq);
        r->vq.size = bad[i].size;
        r->vq.desc = bad[i].desc;
        r->vq.avail = bad[i].avail;
        r->vq.used = bad[i].used;
        vq_enable(&r->vq);
        assert_true(r->vq.broken);
        assert_int_equal(pop(r), -ERR_FORMAT);
        assert_false(vq_notify_on(&r->vq));
        assert_false(vq_should_interrupt(&r->vq));
        vq_notify_off(&r->vq);
        vq_publish(&r->vq, 1);
    }
    done(r);
}

static void wraps_around(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    for (u32 i = 0; i < 70000; i++) { /* past 16 bits */
        int head = vd_add(&r->d, 0, &seg, 1);
        assert_int_equal(pop(r), 1);
        vq_push(&r->vq, r->chain.head, i & 15);
        u32 len;
        assert_int_equal(vd_used(&r->d, 0, &len), head);
        assert_int_equal(len, i & 15);
    }
    assert_int_equal(pop(r), 0);
    done(r);
}

static void out_of_order(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    int a = vd_add(&r->d, 0, &seg, 1), b = vd_add(&r->d, 0, &seg, 1);
    assert_int_equal(pop(r), 1);
    assert_int_equal(pop(r), 1);
    vq_push_at(&r->vq, 1, (u16)a, 1);
    vq_push_at(&r->vq, 0, (u16)b, 2);
    assert_int_equal(vd_used(&r->d, 0, NULL), -1); /* not published yet */
    vq_publish(&r->vq, 2);
    assert_int_equal(vd_used(&r->d, 0, NULL), b);
    assert_int_equal(vd_used(&r->d, 0, NULL), a);
    done(r);
}

static void unpop(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    int a = vd_add(&r->d, 0, &seg, 1);
    assert_int_equal(pop(r), 1);
    vq_unpop(&r->vq, r->chain.head, r->chain.redone);
    assert_int_equal(r->vq.inflight_count, 0);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.head, a);
    done(r);
}

static void interrupts(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    for (u32 i = 0; i < 4; i++) {
        vd_add(&r->d, 0, &seg, 1);
    }
    assert_int_equal(pop(r), 1);
    vq_push(&r->vq, r->chain.head, 0);
    assert_true(vq_should_interrupt(&r->vq));
    vd_no_interrupt(&r->d, 0, true);
    assert_false(vq_should_interrupt(&r->vq));
    r->vq.event_idx = true; /* the flag means nothing now */
    vd_set_used_event(&r->d, 0, 2);
    assert_true(vq_should_interrupt(&r->vq)); /* the first decision */
    pop(r);
    vq_push(&r->vq, r->chain.head, 0);
    assert_false(vq_should_interrupt(&r->vq)); /* index 2: event 2 is crossed by 3 */
    pop(r);
    vq_push(&r->vq, r->chain.head, 0);
    assert_true(vq_should_interrupt(&r->vq));
    assert_false(vq_should_interrupt(&r->vq)); /* nothing new */
    done(r);
}

static void notifications(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    vq_notify_off(&r->vq);
    assert_false(vd_wants_kick(&r->d, 0));
    assert_false(vq_notify_on(&r->vq));
    assert_true(vd_wants_kick(&r->d, 0));
    r->vq.event_idx = true;
    r->d.features = VIRTIO_F_EVENT_IDX;
    vd_add(&r->d, 0, &seg, 1);
    assert_true(vd_wants_kick(&r->d, 0));
    vd_add(&r->d, 0, &seg, 1);
    assert_false(vd_wants_kick(&r->d, 0));
    assert_true(vq_notify_on(&r->vq)); /* there is work: take it first */
    pop(r);
    pop(r);
    assert_false(vq_notify_on(&r->vq));
    vd_add(&r->d, 0, &seg, 1);
    assert_true(vd_wants_kick(&r->d, 0));
    done(r);
}

static void changed_under_feet(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg[] = {{BUF, 16, false}, {BUF + 64, 16, true}};
    int head = vd_add(&r->d, 0, seg, 2);
    assert_int_equal(pop(r), 1);
    memset(r->vt.mem + r->vq.desc, 0xff, 16 * SIZE); /* everything popped stays as it was */
    assert_int_equal(r->chain.iov[0].len, 16);
    assert_int_equal(vq_chain_write(&r->vt.ram, &r->chain, 0, "0123456789abcdefXX", 18), 16);
    vq_push(&r->vq, (u16)head, 16);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    vd_avail_push(&r->d, 0, 1);
    assert_int_equal(pop(r), -ERR_FORMAT);
    done(r);
}

static void save_with_inflight(void **state) {
    (void)state;
    struct rig *r = setup();
    const struct vd_seg seg = {BUF, 16, true};
    u8 buf[256];
    int head[3];
    for (u32 i = 0; i < 3; i++) {
        head[i] = vd_add(&r->d, 0, &seg, 1);
        assert_int_equal(pop(r), 1);
    }
    vq_push(&r->vq, (u16)head[1], 4);
    struct snap_writer w = {.buf = buf, .cap = sizeof(buf)};
    vq_save(&r->vq, &w);
    assert_false(w.failed);
    int fresh = vd_add(&r->d, 0, &seg, 1); /* while the machine is on its way */
    vq_reset(&r->vq);
    struct snap_reader s = {.buf = buf, .len = w.len};
    assert_int_equal(vq_load(&r->vq, &s), 0);
    assert_int_equal(snap_finish(&s), 0);
    assert_true(vq_has_work(&r->vq));
    u32 seen = 0;
    for (u32 i = 0; i < 2; i++) { /* the two that were out come first */
        assert_int_equal(pop(r), 1);
        assert_true(r->chain.redone);
        seen |= 1u << r->chain.head;
    }
    assert_int_equal(seen, 1u << head[0] | 1u << head[2]);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->chain.head, fresh);
    assert_false(r->chain.redone);
    assert_int_equal(pop(r), 0);
    for (size_t cut = 0; cut < w.len; cut++) {
        struct snap_reader part = {.buf = buf, .len = cut};
        assert_int_not_equal(vq_load(&r->vq, &part), 0);
    }
    done(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_chain),
        cmocka_unit_test(neighbours_merge),
        cmocka_unit_test(copies_and_slices),
        cmocka_unit_test(indirect_chain),
        cmocka_unit_test(indirect_abuse),
        cmocka_unit_test(bad_chains),
        cmocka_unit_test(bad_avail),
        cmocka_unit_test(bad_rings),
        cmocka_unit_test(wraps_around),
        cmocka_unit_test(out_of_order),
        cmocka_unit_test(unpop),
        cmocka_unit_test(interrupts),
        cmocka_unit_test(notifications),
        cmocka_unit_test(changed_under_feet),
        cmocka_unit_test(save_with_inflight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
