/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A crash at every single write to a qcow2 image. Of each run two disks are built for every point
 * of its log: what a killed process leaves (all writes so far) and what a power cut leaves (all up
 * to the last flush, then any of the later ones, in any order, single sectors of them lost). Each
 * must open, have nothing worse than leaks, and hold for every sector what the guest had flushed,
 * or something it wrote since.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hosts/fake/fake.h"
#include "image/qcow2_int.h"
#include "tests/unit/lib_memfile.h"

enum { SECTORS = 2048, STEPS = 70, RUNS = 12, HISTORY = STEPS + 2 };

static struct fake_host *fake;
static u64 seed;

static u32 rnd(u32 n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 11) % n;
}

/* What was in a sector, and since which step; value 0: zeros. */
struct past {
    u32 count;
    struct {
        u32 step, value;
    } at[HISTORY];
};

static struct past past[SECTORS];
static u32 step_begin[STEPS + 2]; /* log position when the step began */
static u32 flush_done[STEPS + 2]; /* log position when its flush returned; 0: it was none */
static struct memfile *below;     /* or NULL */

static void remember(u32 sector, u32 step, u32 value) {
    struct past *p = &past[sector];
    p->at[p->count].step = step;
    p->at[p->count++].value = value;
}

static void sector_fill(u8 *p, u32 sector, u32 value) {
    for (u32 i = 0; i < 512; i += 8) {
        be32_put(p + i, value ? sector : 0);
        be32_put(p + i + 4, value);
    }
}

static void step_run(struct image *im, struct memfile *m, u32 step) {
    u8 buf[64 * 512];
    u32 sector = rnd(SECTORS), n = 1 + rnd(rnd(4) ? 8 : 64), what = rnd(12);
    n = sector + n > SECTORS ? SECTORS - sector : n;
    step_begin[step] = m->ops;
    if (what < 3) {
        assert_int_equal(im->ops->flush(im), 0);
        flush_done[step] = m->ops;
    } else if (what < 6) {
        for (u32 i = 0; i < n; i++) {
            remember(sector + i, step, 0);
        }
        assert_int_equal(im->ops->zero(im, sector * 512ull, n * 512ull, what & 1), 0);
    } else {
        for (u32 i = 0; i < n; i++) {
            remember(sector + i, step, step + 1);
            sector_fill(buf + i * 512, sector + i, step + 1);
        }
        assert_int_equal(image_write(im, sector * 512ull, buf, n * 512), 0);
    }
}

static bool sector_allowed(const u8 *p, u32 sector, u32 flushed, u32 begun) {
    const struct past *h = &past[sector];
    u32 from = 0;
    u8 want[512];
    for (u32 i = 0; i < h->count; i++) {
        from = h->at[i].step <= flushed ? i : from;
    }
    for (u32 i = from; i < h->count && h->at[i].step <= begun; i++) {
        sector_fill(want, sector, h->at[i].value);
        if (!memcmp(p, want, 512)) {
            return true;
        }
    }
    return false;
}

static struct image *reopen(struct memfile *m, bool readonly) {
    struct image *im = NULL;
    struct err err = {0};
    if (qcow2_open(&fake->host, memfile_again(m), readonly, NULL, &im, &err)) {
        fail_msg("after a crash: %s", err.text);
    }
    if (below) {
        assert_int_equal(
            qcow2_open(&fake->host, memfile_again(below), true, NULL, &im->backing, NULL), 0);
    }
    return im;
}

static void say(void *ctx, const char *text) {
    (void)ctx;
    print_message("%s\n", text);
}

/* The disk as a crash at log position `at` left it. */
static void survive(struct memfile *m, u32 at, bool lazy) {
    struct qcow2_check_result r;
    u32 flushed = 0, begun = 0;
    static u8 all[SECTORS * 512];
    for (u32 s = 1; s <= STEPS; s++) {
        flushed = flush_done[s] && flush_done[s] <= at ? s : flushed;
        begun = step_begin[s] <= at ? s : begun;
    }
    if (!lazy) { /* nothing that needs mending before the first look */
        struct image *im = reopen(m, true);
        assert_int_equal(qcow2_check(im, 0, say, NULL, &r), 0);
        if (r.errors) {
            fail_msg("%u errors after a crash at %u", (u32)r.errors, at);
        }
        im->ops->close(im);
    }
    struct image *im = reopen(m, false);
    assert_int_equal(image_read(im, 0, all, sizeof(all)), 0);
    for (u32 s = 0; s < SECTORS; s++) {
        if (!sector_allowed(all + s * 512, s, flushed, begun)) {
            fail_msg("sector %u after a crash at %u: version %u, flushed up to step %u", s, at,
                     be32_get(all + s * 512 + 4), flushed);
        }
    }
    assert_int_equal(qcow2_check(im, QCOW2_FIX_LEAKS, NULL, NULL, &r), 0);
    assert_int_equal(r.errors, 0);
    assert_int_equal(im->ops->close(im), 0);
}

/* Sectors of a write reach the disk one by one. */
static void apply_torn(struct memfile *m, const struct memop *op) {
    if (op->kind != MEM_WRITE) {
        memfile_apply(m, op);
        return;
    }
    for (u64 i = 0; i < op->length; i += 512) {
        struct memop part = {MEM_WRITE, op->offset + i, MIN(op->length - i, (u64)512),
                             op->data + i};
        if (rnd(8)) {
            memfile_apply(m, &part);
        }
    }
}

static void power_cut(const struct memfile *start, const struct memfile *run, u32 at, bool lazy) {
    struct memfile *m = memfile_copy(start);
    u32 stable = 0;
    for (u32 i = 0; i < at; i++) {
        stable = run->log[i].kind == MEM_FLUSH ? i + 1 : stable;
    }
    for (u32 i = 0; i < stable; i++) {
        memfile_apply(m, &run->log[i]);
    }
    u32 mode = rnd(3); /* forwards, backwards, single sectors; some never arrive */
    for (u32 i = 0; i < at - stable; i++) {
        const struct memop *op = &run->log[mode == 1 ? at - 1 - i : stable + i];
        if (rnd(3) && mode == 2) {
            apply_torn(m, op);
        } else if (rnd(3)) {
            memfile_apply(m, op);
        }
    }
    survive(m, at, lazy);
    memfile_destroy(m);
}

static void crash_everywhere(const struct qcow2_create *c) {
    struct memfile *m = memfile_create();
    assert_int_equal(qcow2_create(&fake->host, &m->file, c, NULL), 0);
    struct memfile *start = memfile_copy(m), *killed = memfile_copy(m);
    struct image *im = reopen(m, false);
    memset(past, 0, sizeof(past));
    memset(flush_done, 0, sizeof(flush_done));
    u8 *first = malloc(SECTORS * 512);
    assert_int_equal(image_read(im, 0, first, SECTORS * 512), 0);
    for (u32 s = 0; s < SECTORS; s++) {
        remember(s, 0, be32_get(first + s * 512 + 4));
    }
    free(first);
    m->logging = true;
    for (u32 step = 1; step <= STEPS; step++) {
        step_run(im, m, step);
    }
    assert_int_equal(im->ops->close(im), 0);
    for (u32 at = 0; at < m->ops; at++) {
        memfile_apply(killed, &m->log[at]);
        if (m->log[at].kind != MEM_FLUSH) {
            struct memfile *copy = memfile_copy(killed);
            survive(copy, at + 1, c->lazy);
            memfile_destroy(copy);
            power_cut(start, m, at + 1, c->lazy);
        }
    }
    print_message("%u operations\n", m->ops);
    memfile_destroy(start);
    memfile_destroy(killed);
    memfile_destroy(m);
}

static void runs(bool lazy, bool backing) {
    for (u32 k = 0; k < RUNS; k++) {
        struct qcow2_create c = {.size = SECTORS * 512,
                                 .cluster_bits = 9 + k % 3 * 2,
                                 .refcount_bits = k % 3 ? 16 : 64,
                                 .lazy = lazy,
                                 .backing = backing ? "below" : NULL};
        seed = 99 + k;
        fake = fake_host_create();
        if (backing) {
            struct qcow2_create b = {.size = SECTORS * 512, .cluster_bits = 12};
            u8 buf[512];
            below = memfile_create();
            assert_int_equal(qcow2_create(&fake->host, &below->file, &b, NULL), 0);
            struct image *im = NULL;
            assert_int_equal(qcow2_open(&fake->host, memfile_again(below), false, NULL, &im, NULL),
                             0);
            for (u32 s = 0; s < SECTORS; s++) {
                sector_fill(buf, s, 0x1000000 + s);
                assert_int_equal(image_write(im, s * 512ull, buf, 512), 0);
            }
            assert_int_equal(im->ops->close(im), 0);
        }
        crash_everywhere(&c);
        if (backing) {
            memfile_destroy(below);
            below = NULL;
        }
        assert_int_equal(fake->allocated, 0);
        fake_host_destroy(fake);
    }
}

static void test_crash(void **state) {
    (void)state;
    runs(false, false);
}

static void test_crash_lazy(void **state) {
    (void)state;
    runs(true, false);
}

static void test_crash_backing(void **state) {
    (void)state;
    runs(false, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_crash_lazy),
        cmocka_unit_test(test_crash_backing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
