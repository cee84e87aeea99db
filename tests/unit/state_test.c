/* SPDX-License-Identifier: Apache-2.0 */
/* Reset, INIT, saving, loading and checking of the processor state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "core/base/snap.h"
#include "core/cpu/state.h"

enum { BUFFER = 8192 };

static u32 random_next(u32 *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* A 64-bit user process in the middle of things. */
static void long_mode(struct cpu_state *s) {
    static const u64 bv = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    cpu_state_reset(s, true);
    s->cr0 = CR0_PG | CR0_PE | CR0_WP | CR0_NE | CR0_ET;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_PCIDE | CR4_SMEP;
    s->cr3 = 0x1234001;
    s->msr.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    s->seg[SEG_CS] = (struct segment){.sel = 0x33, .limit = ~0u, .attr = 0xa0fb};
    s->seg[SEG_FS].base = 0x7ffff7d8a740;
    s->msr.lstar = 0xffffffff81e00010ull;
    s->msr.tsc = 123456789;
    s->msr.mtrr_mask[7] = 0x3fff80000800;
    s->rip = 0x7ffff7ec1234;
    s->rflags = FLAG_IF | FLAG_ZF | 2;
    s->xcr0 = bv;
    s->dr6 = 0xffff0ff0;
    memcpy(s->xsave + 512, &bv, sizeof(bv));
    memset(s->xsave + 160, 0xa5, 256);
    memset(s->xsave + 576, 0x5a, 256);
    s->events.interrupt_pending = true;
    s->events.interrupt_vector = 0xec;
    s->events.exception_pending = true;
    s->events.exception_vector = EXC_PF;
    s->events.exception_has_error = true;
    s->events.exception_cr2 = 0xdeadbeef000;
    s->mp_state = MP_RUNNABLE;
}

static size_t save(const struct cpu_state *s, u8 *buf) {
    struct snap_writer w = {.buf = buf, .cap = BUFFER};
    cpu_state_save(s, &w);
    assert_false(w.failed);
    return w.len;
}

static int load(struct cpu_state *s, const u8 *buf, size_t len) {
    struct snap_reader r = {.buf = buf, .len = len};
    int rc = cpu_state_load(s, &r);
    assert_int_equal(rc != 0, r.failed);
    return rc;
}

static void test_reset(void **state) {
    (void)state;
    struct cpu_state s;
    memset(&s, 0xee, sizeof(s));
    cpu_state_reset(&s, true);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.seg[SEG_CS].sel, 0xf000);
    assert_int_equal(s.seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(s.seg[SEG_CS].attr, 0x9b);
    assert_int_equal(s.seg[SEG_DS].attr, 0x93);
    assert_int_equal(s.ldtr.attr, 0x82);
    assert_int_equal(s.tr.attr, 0x8b);
    assert_int_equal(s.idtr.limit, 0xffff);
    assert_int_equal(s.dr6, 0xffff0ff0);
    assert_int_equal(s.dr7, 0x400);
    assert_int_equal(s.msr.apic_base, 0xfee00900);
    assert_int_equal(s.msr.pat, 0x0007040600070406ull);
    assert_int_equal(s.mp_state, MP_RUNNABLE);
    assert_int_equal(s.xsave[0], 0x40);
    assert_int_equal(s.xsave[24] | s.xsave[25] << 8, 0x1f80);
    assert_int_equal(cpu_state_check(&s, STATE_ALL), 0);
    cpu_state_reset(&s, false);
    assert_int_equal(s.mp_state, MP_WAIT_SIPI);
    assert_int_equal(s.msr.apic_base, 0xfee00800);
}

static void test_init(void **state) {
    (void)state;
    struct cpu_state s, before;
    long_mode(&s);
    s.cr0 |= CR0_CD;
    before = s;
    cpu_state_init(&s, false);
    assert_int_equal(s.cr0, CR0_CD | CR0_ET);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.msr.efer, 0);
    assert_int_equal(s.cr4, 0);
    assert_int_equal(s.mp_state, MP_WAIT_SIPI);
    assert_false(s.events.exception_pending);
    assert_int_equal(s.msr.lstar, before.msr.lstar);
    assert_int_equal(s.msr.tsc, before.msr.tsc);
    assert_int_equal(s.xcr0, before.xcr0);
    assert_memory_equal(s.xsave, before.xsave, sizeof(s.xsave));
    assert_int_equal(cpu_state_check(&s, STATE_ALL), 0);
}

static void test_round_trip(void **state) {
    (void)state;
    u8 buf[BUFFER], again[BUFFER];
    struct cpu_state s, t;
    long_mode(&s);
    size_t len = save(&s, buf);
    memset(&t, 0xee, sizeof(t));
    assert_int_equal(load(&t, buf, len), 0);
    assert_int_equal(save(&t, again), len);
    assert_memory_equal(buf, again, len);
    assert_memory_equal(s.gpr, t.gpr, sizeof(s.gpr));
    assert_memory_equal(&s.msr, &t.msr, sizeof(s.msr));
    assert_memory_equal(s.xsave, t.xsave, sizeof(s.xsave));
    assert_int_equal(s.seg[SEG_FS].base, t.seg[SEG_FS].base);
    assert_int_equal(s.events.exception_cr2, t.events.exception_cr2);
    assert_int_equal(s.dr6, t.dr6);
    struct snap_writer measure = {0};
    cpu_state_save(&s, &measure);
    assert_int_equal(measure.len, len);
}

static void check_harmless(const struct cpu_state *s) {
    assert_int_equal(s->mp_state, MP_WAIT_SIPI);
    assert_int_equal(cpu_state_check(s, STATE_ALL), 0);
}

static void test_truncated(void **state) {
    (void)state;
    u8 buf[BUFFER];
    struct cpu_state s;
    long_mode(&s);
    size_t len = save(&s, buf);
    for (size_t n = 0; n < len; n++) {
        assert_int_equal(load(&s, buf, n), -ERR_FORMAT);
        check_harmless(&s);
    }
}

/* Whatever is flipped: either it is refused, or it is a state that a processor could be in. */
static void test_corrupted(void **state) {
    (void)state;
    u8 good[BUFFER], bad[BUFFER];
    struct cpu_state s;
    u32 seed = 7, refused = 0;
    long_mode(&s);
    size_t len = save(&s, good);
    for (u32 i = 0; i < 20000; i++) {
        memcpy(bad, good, len);
        u32 flips = 1 + random_next(&seed) % 4;
        for (u32 k = 0; k < flips; k++) {
            bad[random_next(&seed) % len] ^= (u8)(1u << random_next(&seed) % 8);
        }
        if (load(&s, bad, len)) {
            refused++;
            check_harmless(&s);
        } else {
            assert_int_equal(cpu_state_check(&s, STATE_ALL), 0);
        }
    }
    assert_true(refused > 5000);
}

static void refuse(void (*spoil)(struct cpu_state *s)) {
    u8 buf[BUFFER];
    struct cpu_state s;
    long_mode(&s);
    assert_int_equal(cpu_state_check(&s, STATE_ALL), 0);
    spoil(&s);
    assert_int_equal(cpu_state_check(&s, STATE_ALL), -ERR_INVAL);
    assert_int_equal(load(&s, buf, save(&s, buf)), -ERR_FORMAT);
}

static void spoil_paging(struct cpu_state *s) {
    s->cr0 &= ~CR0_PE;
}
static void spoil_lma(struct cpu_state *s) {
    s->msr.efer &= ~EFER_LMA;
}
static void spoil_pae(struct cpu_state *s) {
    s->cr4 &= ~CR4_PAE;
}
static void spoil_cs(struct cpu_state *s) {
    s->seg[SEG_CS].attr |= SEG_ATTR_DB;
}
static void spoil_rip(struct cpu_state *s) {
    s->rip = 0x800000000000;
}
static void spoil_base(struct cpu_state *s) {
    s->seg[SEG_GS].base = 0x1234567812345678;
}
static void spoil_lstar(struct cpu_state *s) {
    s->msr.lstar = 0x8000000000000000;
}
static void spoil_mxcsr(struct cpu_state *s) {
    s->xsave[27] = 1;
}
static void spoil_bv(struct cpu_state *s) {
    s->xsave[512] = 0x27;
}
static void spoil_compact(struct cpu_state *s) {
    s->xsave[527] = 0x80;
}
static void spoil_xcr0(struct cpu_state *s) {
    s->xcr0 = XCR0_X87 | XCR0_AVX;
}
static void spoil_flags(struct cpu_state *s) {
    s->rflags |= BIT(3);
}
static void spoil_vm(struct cpu_state *s) {
    s->rflags |= FLAG_VM;
}
static void spoil_vector(struct cpu_state *s) {
    s->events.exception_vector = 32;
}
static void spoil_pat(struct cpu_state *s) {
    s->msr.pat = 2;
}
static void spoil_cr8(struct cpu_state *s) {
    s->cr8 = 16;
}

static void test_refused(void **state) {
    (void)state;
    static void (*const spoil[])(struct cpu_state * s) = {
        spoil_paging, spoil_lma,    spoil_pae, spoil_cs,      spoil_rip,  spoil_base,
        spoil_lstar,  spoil_mxcsr,  spoil_bv,  spoil_compact, spoil_xcr0, spoil_flags,
        spoil_vm,     spoil_vector, spoil_pat, spoil_cr8,
    };
    for (u32 i = 0; i < ARRAY_LEN(spoil); i++) {
        refuse(spoil[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),      cmocka_unit_test(test_init),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_corrupted),  cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
