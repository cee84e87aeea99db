/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio block device on PCI, driven through its rings, over a disk in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "tests/unit/lib_virtio.h"

enum {
    T_IN,
    T_OUT,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
    S_OK = 0,
    S_IOERR = 1,
    S_UNSUPP = 2,
    SECTORS = 256,
};

#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_FLUSH        BIT(9)
#define F_CONFIG_WCE   BIT(11)
#define F_MQ           BIT(12)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)
#define F_ALL          (F_SEG_MAX | F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES)

struct rig {
    struct vt vt;
    struct vd d;
    struct fake_disk *disk;
    struct device *dev;
    struct virtio_device *vdev;
    u64 header, data, status; /* scratch guest memory */
};

static struct rig *setup_opts(const struct virtio_blk_opts *opts, u64 features, u32 queues) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->disk = fake_disk_create(r->vt.fake, SECTORS * 512);
    r->vdev = virtio_blk_create(&r->vt.env, &r->disk->be, opts, NULL);
    assert_non_null(r->vdev);
    r->dev = virtio_pci_attach(&r->vt.host, r->vdev, 1, NULL);
    assert_non_null(r->dev);
    assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
    assert_true(vd_find_pci(&r->d, &r->vt, 1));
    vd_msix_on(&r->d);
    assert_true(vd_start(&r->d, features, queues));
    r->header = vt_alloc(&r->vt, 64 * 32, 16);
    r->data = vt_alloc(&r->vt, 65536, 512);
    r->status = vt_alloc(&r->vt, 64, 16);
    return r;
}

static struct rig *setup(u64 features) {
    const struct virtio_blk_opts opts = {.serial = "disk-0"};
    return setup_opts(&opts, features, 1);
}

static void teardown(struct rig *r) {
    vt_fini(&r->vt);
    fake_disk_destroy(r->disk);
    free(r);
}

static void put_header(struct rig *r, u32 slot, u32 type, u64 sector) {
    u8 *p = r->vt.mem + r->header + slot * 32;
    memset(p, 0, 16);
    memcpy(p, &type, 4);
    memcpy(p + 8, &sector, 8);
}

/* Queues one request with data at r->data + slot * 4096 and its status byte in slot. */
static int request(struct rig *r, u32 slot, u32 type, u64 sector, u32 len) {
    struct vd_seg seg[3] = {{r->header + slot * 32, 16, false}};
    u32 n = 1;
    put_header(r, slot, type, sector);
    if (len) {
        seg[n++] = (struct vd_seg){r->data + slot * 4096, len, type == T_IN || type == T_GET_ID};
    }
    seg[n++] = (struct vd_seg){r->status + slot, 1, true};
    r->vt.mem[r->status + slot] = 0xee;
    return vd_add(&r->d, 0, seg, n);
}

static u8 status_of(struct rig *r, u32 slot) {
    return r->vt.mem[r->status + slot];
}

/* Runs one request to its end; the status byte. */
static u8 run(struct rig *r, u32 type, u64 sector, u32 len, u32 *used) {
    int head = request(r, 0, type, sector, len);
    vd_kick(&r->d, 0);
    while (fake_disk_complete(r->disk)) {
    }
    assert_int_equal(vd_used(&r->d, 0, used), head);
    return status_of(r, 0);
}

static void config_space(void **state) {
    (void)state;
    struct rig *r = setup(F_ALL);
    assert_int_equal(vt_config_read(&r->vt, 8, 0, 4), 0x10421af4);
    assert_int_equal(vd_config(&r->d, 0, 4), SECTORS);
    assert_int_equal(vd_config(&r->d, 4, 4), 0);
    assert_int_equal(vd_config(&r->d, 0xc, 4), 254);
    assert_int_equal(vd_config(&r->d, 0x14, 4), 512);
    assert_int_equal(vd_config(&r->d, 0x20, 1), 1);
    assert_int_equal(vd_config(&r->d, 0x3c, 4), 0); /* nothing of the monitor's stack */
    vd_config_set(&r->d, 0, 4, 7);                  /* read only */
    assert_int_equal(vd_config(&r->d, 0, 4), SECTORS);
    vd_config_set(&r->d, 0x20, 1, 0);
    assert_int_equal(vd_config(&r->d, 0x20, 1), 0);
    assert_int_equal(vd_config(&r->d, 0x200, 4), 0);
    assert_int_equal(vd_offered(&r->d) & (F_ALL | F_RO | F_MQ), F_ALL);
    assert_int_equal(vd_queue_max(&r->d, 0), VD_QUEUE_SIZE); /* as set */
    vd_set_status(&r->d, 0);
    assert_int_equal(vd_queue_max(&r->d, 0), 256);
    assert_int_equal(vd_queue_max(&r->d, 1), 0);
    teardown(r);
}

static void read_write(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH);
    u32 used;
    memset(r->vt.mem + r->data, 0x5a, 4096);
    assert_int_equal(run(r, T_OUT, 8, 4096, &used), S_OK);
    assert_int_equal(used, 1);
    assert_int_equal(r->disk->data[8 * 512], 0x5a);
    assert_int_equal(r->disk->data[16 * 512], 0);
    assert_int_equal(r->disk->flushes, 0);
    memset(r->vt.mem + r->data, 0, 4096);
    u64 before = r->vt.written;
    assert_int_equal(run(r, T_IN, 9, 512, &used), S_OK);
    assert_int_equal(used, 513);
    assert_int_equal(r->vt.mem[r->data + 511], 0x5a);
    assert_int_equal(r->vt.mem[r->data + 512], 0);
    assert_true(r->vt.written - before >= 513);
    assert_int_equal(run(r, T_FLUSH, 0, 0, &used), S_OK);
    assert_int_equal(r->disk->flushes, 1);
    assert_true(vt_msis_with(&r->vt, 0x41) >= 3);
    teardown(r);
}

static void get_id(void **state) {
    (void)state;
    struct rig *r = setup(0);
    u32 used;
    assert_int_equal(run(r, T_GET_ID, 0, 20, &used), S_OK);
    assert_int_equal(used, 21);
    assert_memory_equal(r->vt.mem + r->data, "disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    assert_int_equal(run(r, T_GET_ID, 0, 3, &used), S_OK);
    assert_int_equal(run(r, 77, 0, 0, &used), S_UNSUPP);
    teardown(r);
}

static void bounds(void **state) {
    (void)state;
    struct rig *r = setup(F_ALL);
    assert_int_equal(run(r, T_IN, SECTORS - 1, 512, NULL), S_OK);
    assert_int_equal(run(r, T_IN, SECTORS - 1, 1024, NULL), S_IOERR);
    assert_int_equal(run(r, T_IN, SECTORS, 512, NULL), S_IOERR);
    assert_int_equal(run(r, T_OUT, UINT64_MAX, 512, NULL), S_IOERR);
    assert_int_equal(run(r, T_OUT, UINT64_MAX / 512, 512, NULL), S_IOERR);
    assert_int_equal(run(r, T_OUT, 0, 511, NULL), S_IOERR);
    assert_int_equal(run(r, T_IN, 0, 0, NULL), S_OK);
    assert_int_equal(run(r, T_OUT, SECTORS, 0, NULL), S_OK);
    r->disk->fail_next = -ERR_IO;
    assert_int_equal(run(r, T_OUT, 0, 512, NULL), S_IOERR);
    r->disk->fail_next = -ERR_UNSUPPORTED;
    assert_int_equal(run(r, T_FLUSH, 0, 0, NULL), S_UNSUPP);
    teardown(r);
}

static u8 range(struct rig *r, u32 type, u64 sector, u32 sectors, u32 flags) {
    u8 *p = r->vt.mem + r->data;
    memcpy(p, &sector, 8);
    memcpy(p + 8, &sectors, 4);
    memcpy(p + 12, &flags, 4);
    return run(r, type, 0, 16, NULL);
}

static void ranges(void **state) {
    (void)state;
    struct rig *r = setup(F_ALL);
    memset(r->disk->data, 0xaa, SECTORS * 512);
    assert_int_equal(range(r, T_WRITE_ZEROES, 4, 2, 1), S_OK);
    assert_int_equal(r->disk->data[4 * 512 - 1], 0xaa);
    assert_int_equal(r->disk->data[4 * 512], 0);
    assert_int_equal(r->disk->data[6 * 512], 0xaa);
    assert_int_equal(range(r, T_DISCARD, 8, 1, 0), S_OK);
    assert_int_equal(range(r, T_DISCARD, 8, 1, 1), S_UNSUPP);
    assert_int_equal(range(r, T_WRITE_ZEROES, 8, 1, 2), S_UNSUPP);
    assert_int_equal(range(r, T_DISCARD, SECTORS, 1, 0), S_IOERR);
    assert_int_equal(range(r, T_DISCARD, 0, UINT32_MAX, 0), S_IOERR);
    assert_int_equal(range(r, T_DISCARD, 0, 0, 0), S_OK);
    assert_int_equal(run(r, T_DISCARD, 0, 32, NULL), S_IOERR); /* two ranges */
    teardown(r);
    r = setup(F_FLUSH); /* not negotiated */
    assert_int_equal(range(r, T_DISCARD, 8, 1, 0), S_UNSUPP);
    teardown(r);
}

static void write_through(void **state) {
    (void)state;
    struct rig *r = setup(0); /* without FLUSH a write is stable when it is done */
    int head = request(r, 0, T_OUT, 0, 512);
    vd_kick(&r->d, 0);
    assert_int_equal(fake_disk_complete(r->disk), 1);
    assert_int_equal(vd_used(&r->d, 0, NULL), -1);
    assert_int_equal(fake_disk_complete(r->disk), 1);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    assert_int_equal(r->disk->flushes, 1);
    teardown(r);
    r = setup(F_FLUSH | F_CONFIG_WCE);
    assert_int_equal(run(r, T_OUT, 0, 512, NULL), S_OK);
    assert_int_equal(r->disk->flushes, 0);
    vd_config_set(&r->d, 0x20, 1, 0);
    assert_int_equal(run(r, T_OUT, 0, 512, NULL), S_OK);
    assert_int_equal(r->disk->flushes, 1);
    teardown(r);
}

static void readonly(void **state) {
    (void)state;
    const struct virtio_blk_opts opts = {.readonly = true};
    struct rig *r = setup_opts(&opts, F_RO | F_FLUSH, 1);
    assert_true(vd_offered(&r->d) & F_RO);
    assert_false(vd_offered(&r->d) & F_DISCARD);
    assert_int_equal(run(r, T_OUT, 0, 512, NULL), S_IOERR);
    assert_int_equal(run(r, T_IN, 0, 512, NULL), S_OK);
    teardown(r);
}

static void many_queues(void **state) {
    (void)state;
    const struct virtio_blk_opts opts = {.queues = 4};
    struct rig *r = setup_opts(&opts, F_MQ | F_FLUSH, 4);
    assert_int_equal(vd_config(&r->d, 0x22, 2), 4);
    for (u32 q = 0; q < 4; q++) {
        const struct vd_seg seg[] = {
            {r->header, 16, false}, {r->data + q * 512, 512, true}, {r->status + q, 1, true}};
        put_header(r, 0, T_IN, q);
        r->disk->data[q * 512] = (u8)(q + 1);
        vd_add(&r->d, q, seg, 3);
        vd_kick(&r->d, q);
    }
    fake_disk_complete(r->disk);
    for (u32 q = 0; q < 4; q++) {
        assert_true(vd_used(&r->d, q, NULL) >= 0);
        assert_int_equal(r->vt.mem[r->data + q * 512], q + 1);
        assert_int_equal(vt_msis_with(&r->vt, 0x41 + q), 1);
    }
    teardown(r);
}

static void odd_framing(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH | VIRTIO_F_INDIRECT_DESC);
    /* header in two parts, data in uneven pieces, the status byte glued to the data */
    const struct vd_seg seg[] = {{r->header, 5, false},
                                 {r->header + 5, 11, false},
                                 {r->data, 100, true},
                                 {r->data + 200, 411, true},
                                 {r->data + 700, 2, true}};
    put_header(r, 0, T_IN, 3);
    memset(r->disk->data + 3 * 512, 0x77, 512);
    u32 used;
    int head = vd_add_indirect(&r->d, 0, seg, 5);
    vd_kick(&r->d, 0);
    fake_disk_complete(r->disk);
    assert_int_equal(vd_used(&r->d, 0, &used), head);
    assert_int_equal(used, 513);
    assert_int_equal(r->vt.mem[r->data + 99], 0x77);
    assert_int_equal(r->vt.mem[r->data + 100], 0);
    assert_int_equal(r->vt.mem[r->data + 700], 0x77);
    assert_int_equal(r->vt.mem[r->data + 701], S_OK);
    teardown(r);
}

static void broken_requests(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH);
    const struct vd_seg no_status[] = {{r->header, 16, false}};
    vd_add(&r->d, 0, no_status, 1);
    vd_kick(&r->d, 0);
    assert_true(vd_status(&r->d) & 64);
    assert_int_equal(vt_msis_with(&r->vt, 0x40), 1); /* the configuration change tells */
    vd_kick(&r->d, 0);
    assert_true(vd_start(&r->d, F_FLUSH, 1)); /* a reset heals it */
    assert_int_equal(run(r, T_IN, 0, 512, NULL), S_OK);
    const struct vd_seg short_header[] = {{r->header, 15, false}, {r->status, 1, true}};
    vd_add(&r->d, 0, short_header, 2);
    vd_kick(&r->d, 0);
    assert_true(vd_status(&r->d) & 64);
    teardown(r);
}

/* More than the device keeps in flight: the rest waits in the ring and is taken up later. */
static void backlog(void **state) {
    (void)state;
    const struct virtio_blk_opts opts = {.queues = 4};
    struct rig *r =
        setup_opts(&opts, F_MQ | F_FLUSH | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC, 4);
    u32 total = 0, back = 0;
    for (u32 q = 0; q < 4; q++) {
        for (u32 i = 0; i < VD_QUEUE_SIZE; i++, total++) {
            const struct vd_seg seg[] = {
                {r->header, 16, false}, {r->data, 512, true}, {r->status, 1, true}};
            assert_true(vd_add_indirect(&r->d, q, seg, 3) >= 0);
        }
        vd_kick(&r->d, q);
    }
    assert_int_equal(r->disk->queued, 64);
    while (fake_disk_complete(r->disk)) {
        fake_advance(r->vt.fake, 1);
        assert_true(r->disk->queued <= 64);
    }
    for (u32 q = 0; q < 4; q++) {
        while (vd_used(&r->d, q, NULL) >= 0) {
            back++;
        }
    }
    assert_int_equal(back, total);
    teardown(r);
}

/* A reset while a read is at the disk: status stays non-zero until it came back, and the buffer
 * is not touched after that; the used ring never. */
static void reset_in_flight(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH);
    u64 used_ring = r->d.q[0].used;
    request(r, 0, T_IN, 0, 512);
    vd_kick(&r->d, 0);
    vd_set_status(&r->d, 0);
    assert_int_not_equal(vd_status(&r->d), 0);
    memset(r->vt.mem + used_ring, 0xcc, 8);
    fake_disk_complete(r->disk);
    assert_int_equal(vd_status(&r->d), 0);
    assert_int_equal(r->vt.mem[used_ring + 2], 0xcc);
    assert_int_equal(status_of(r, 0), 0xee);
    assert_int_equal(r->vdev->inflight, 0);
    assert_true(vd_start(&r->d, F_FLUSH, 1));
    assert_int_equal(run(r, T_IN, 0, 512, NULL), S_OK);
    /* a driver that does not wait: its requests run when the old ones are gone */
    request(r, 0, T_IN, 0, 512);
    vd_kick(&r->d, 0);
    vd_set_status(&r->d, 0);
    vd_set_status(&r->d, 3);
    vt_write(&r->vt, r->d.common + 8, 4, 1);
    vt_write(&r->vt, r->d.common + 12, 4, 1);
    vd_set_status(&r->d, 11);
    vd_queue_setup(&r->d, 0, VD_QUEUE_SIZE);
    vd_driver_ok(&r->d);
    int head = request(r, 1, T_IN, 0, 512);
    vd_kick(&r->d, 0);
    assert_int_equal(r->disk->queued, 1);
    fake_disk_complete(r->disk);
    assert_int_equal(r->disk->queued, 1);
    fake_disk_complete(r->disk);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    assert_int_equal(status_of(r, 1), S_OK);
    teardown(r);
}

static void save_drained(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH);
    size_t len, len2;
    int head = request(r, 0, T_OUT, 5, 512);
    r->vt.mem[r->data] = 0x99;
    vd_kick(&r->d, 0);
    r->dev->ops->pause(r->dev); /* drains */
    assert_int_equal(r->disk->queued, 0);
    int late = request(r, 1, T_IN, 5, 512);
    vd_kick(&r->d, 0); /* paused: not taken */
    assert_int_equal(r->disk->queued, 0);
    u8 *a = vt_save(r->dev, &len);
    r->dev->ops->reset(r->dev);
    assert_int_equal(vt_load(r->dev, a, len), 0);
    u8 *b = vt_save(r->dev, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    r->dev->ops->resume(r->dev);
    fake_disk_complete(r->disk);
    assert_int_equal(vd_used(&r->d, 0, NULL), head);
    assert_int_equal(vd_used(&r->d, 0, NULL), late);
    assert_int_equal(r->vt.mem[r->data + 4096], 0x99);
    free(a);
    free(b);
    teardown(r);
}

/* Saved with requests outstanding, loaded into another machine: they are done there. */
static void save_in_flight(void **state) {
    (void)state;
    struct rig *r = setup(F_FLUSH);
    size_t len;
    request(r, 0, T_OUT, 1, 512);
    request(r, 1, T_IN, 2, 512);
    r->vt.mem[r->data] = 0x42;
    vd_kick(&r->d, 0);
    u8 *a = vt_save(r->dev, &len);
    struct rig *s = setup(F_FLUSH);
    memcpy(s->vt.mem, r->vt.mem, VT_RAM_SIZE);
    s->d.q[0] = r->d.q[0];
    assert_int_equal(vt_load(s->dev, a, len), 0);
    fake_advance(s->vt.fake, 1);
    assert_int_equal(s->disk->queued, 2);
    fake_disk_complete(s->disk);
    assert_int_equal(s->disk->data[512], 0x42);
    assert_true(vd_used(&s->d, 0, NULL) >= 0);
    assert_true(vd_used(&s->d, 0, NULL) >= 0);
    assert_int_equal(vd_used(&s->d, 0, NULL), -1);
    assert_int_equal(status_of(s, 1), S_OK);
    for (size_t cut = 0; cut < len; cut += 5) {
        assert_int_not_equal(vt_load(s->dev, a, cut), 0);
        assert_int_equal(vd_status(&s->d), 0);
    }
    for (size_t i = 0; i < 400 && i < len; i++) { /* damaged: any answer, but no crash */
        a[i] ^= 0x41;
        vt_load(s->dev, a, len);
        fake_advance(s->vt.fake, 1);
        fake_disk_complete(s->disk);
        a[i] ^= 0x41;
    }
    fake_disk_complete(r->disk);
    free(a);
    teardown(r);
    teardown(s);
}

static void out_of_memory(void **state) {
    (void)state;
    struct vt vt;
    struct err err;
    vt_init(&vt);
    struct fake_disk *disk = fake_disk_create(vt.fake, 4096);
    for (s64 fail = 0;; fail++) {
        memset(&err, 0, sizeof(err));
        vt.fake->fail_alloc = fail;
        struct virtio_device *vdev = virtio_blk_create(&vt.env, &disk->be, NULL, &err);
        vt.fake->fail_alloc = -1;
        if (vdev) {
            assert_true(fail >= 3);
            vt.fake->fail_alloc = 0;
            assert_null(virtio_pci_attach(&vt.host, vdev, 1, &err));
            vt.fake->fail_alloc = -1;
            vdev->ops->destroy(vdev);
            break;
        }
        assert_int_equal(err.code, -ERR_NOMEM);
    }
    vt_fini(&vt);
    fake_disk_destroy(disk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_space),  cmocka_unit_test(read_write),
        cmocka_unit_test(get_id),        cmocka_unit_test(bounds),
        cmocka_unit_test(ranges),        cmocka_unit_test(write_through),
        cmocka_unit_test(readonly),      cmocka_unit_test(many_queues),
        cmocka_unit_test(odd_framing),   cmocka_unit_test(broken_requests),
        cmocka_unit_test(backlog),       cmocka_unit_test(reset_in_flight),
        cmocka_unit_test(save_drained),  cmocka_unit_test(save_in_flight),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
