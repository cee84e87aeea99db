/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR and the XSAVE family of the software engine against the real processor, on the
 * same state and the same memory; header checks; the image between runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_native.h"
#include "tests/unit/lib_vec.h"

enum { RAM_BYTES = 2 << 20, AREA = 0x100000, AREA_BYTES = 1024 };

struct fixture {
    struct soft_vcpu *c;
    struct native_state *n;
    u64 seed;
    u8 before[AREA_BYTES], native[AREA_BYTES];
};

static u64 rnd(struct fixture *f) {
    return native_random(&f->seed);
}

static u8 *area(void) {
    return (u8 *)NATIVE_RAM + AREA;
}

static void fill(struct fixture *f, u8 *p, u32 n) {
    for (u32 i = 0; i < n; i += 8) {
        put64(p + i, rnd(f));
    }
}

/* A plausible image: anything that the processor would keep as it is. */
static void random_image(struct fixture *f, u8 *x, u64 bv) {
    memset(x, 0, AREA_BYTES);
    u16 fcw = (u16)(0x40 | (rnd(f) & 0xf3f));
    put16(x + XS_FCW, fcw);
    put16(x + XS_FSW, x87_summary((u16)(rnd(f) & 0x7f7f), fcw));
    x[XS_FTW] = (u8)rnd(f);
    put16(x + XS_FOP, rnd(f) & 0x7ff);
    put64(x + XS_FIP, rnd(f) & 0x7fffffffffff);
    put64(x + XS_FDP, rnd(f) & 0x7fffffffffff);
    put32(x + XS_MXCSR, rnd(f) & 0xffff);
    put32(x + XS_MXCSR_MASK, 0xffff);
    for (u32 i = 0; i < 8; i++) {
        put64(x + XS_ST + 16 * i, rnd(f));
        put16(x + XS_ST + 16 * i + 8, (u16)rnd(f));
    }
    fill(f, x + XS_XMM, 256);
    fill(f, x + XS_YMMH, 256);
    put64(x + XS_BV, bv);
}

static int run_both(struct fixture *f, const u8 *code, u32 len) {
    struct insn insn;
    u8 padded[16] = {0};
    memcpy(padded, code, len);
    assert_int_equal(insn_decode(&insn, padded, 15, 64), DECODE_OK);
    memcpy(f->before, area(), AREA_BYTES);
    native_run(f->n, code, insn.len);
    memcpy(f->native, area(), AREA_BYTES);
    memcpy(area(), f->before, AREA_BYTES);
    memcpy(f->c->s.gpr, f->n->gpr, sizeof(f->n->gpr));
    soft_rflags_set(f->c, f->n->flags);
    memcpy(f->c->s.xsave, f->n->in, 1024);
    soft_vec_state_loaded(f->c);
    int fault = test_exec(f->c, code, len);
    if ((u32)fault != f->n->fault) {
        fail_msg("%s: native fault %x, guest %x", insn_name(insn.id), f->n->fault, (unsigned)fault);
    }
    return fault;
}

static bool component_set(u64 bv, u32 n) {
    return bv >> n & 1;
}

/* The state after a restore; components that the real processor calls initial included. */
static void compare_state(struct fixture *f, const char *what) {
    u8 a[1024];
    const u8 *b = f->c->s.xsave;
    memcpy(a, f->n->out, sizeof(a));
    u64 bv = get64(a + XS_BV);
    if (!component_set(bv, 0)) {
        vec_x87_init(a);
    }
    if (!component_set(bv, 1)) {
        memset(a + XS_XMM, 0, 256);
    }
    if (!component_set(bv, 2)) {
        memset(a + XS_YMMH, 0, 256);
    }
    for (u32 i = 0; i < XS_YMMH + 256; i += 2) {
        bool compared = i < XS_MXCSR_MASK || (i >= XS_ST && i < XS_LEGACY) || i >= XS_YMMH;
        if (compared && get16(a + i) != get16(b + i)) {
            fail_msg("%s: state at %u: native %x, guest %x", what, i, get16(a + i), get16(b + i));
        }
    }
}

/* Memory after a save. Where the real processor did not notice that a component is initial, it
 * wrote it and set its bit; both are allowed. */
static void compare_memory(struct fixture *f, const char *what, bool header) {
    u64 native = get64(f->native + XS_BV), guest = get64(area() + XS_BV);
    if (header && (guest & ~native)) {
        fail_msg("%s: XSTATE_BV native %llx, guest %llx", what, (unsigned long long)native,
                 (unsigned long long)guest);
    }
    for (u32 i = 0; i < XS_YMMH + 256; i++) {
        u32 component = i < XS_MXCSR || (i >= XS_ST && i < XS_XMM) ? 0 : i < XS_YMMH ? 1 : 2;
        bool skip =
            header && ((i >= XS_BV && i < XS_BV + 8) || component_set(native ^ guest, component));
        if (!skip && f->native[i] != area()[i]) {
            fail_msg("%s: memory at %u: native %x, guest %x (before %x)", what, i, f->native[i],
                     area()[i], f->before[i]);
        }
    }
}

static void begin(struct fixture *f) {
    random_image(f, f->n->in, 7);
    fill(f, area(), AREA_BYTES);
    for (u32 i = 0; i < 16; i++) {
        f->n->gpr[i] = rnd(f);
    }
    f->n->flags = 0x202;
    f->n->gpr[GPR_RBX] = NATIVE_RAM + AREA;
    f->n->gpr[GPR_RAX] = rnd(f) & 7;
    f->n->gpr[GPR_RDX] = 0;
}

struct form {
    const char *name;
    u8 code[4];
    bool header;
    u8 feature;
};

static bool offered(const struct fixture *f, const struct form *form) {
    return f->c->ev->vm->cpuid->features >> form->feature & 1;
}

static void test_save(void **state) {
    struct fixture *f = *state;
    static const struct form forms[] = {
        {"fxsave", {0x0f, 0xae, 0x03}, false, FEATURE_XSAVE},
        {"fxsave64", {0x48, 0x0f, 0xae, 0x03}, false, FEATURE_XSAVE},
        {"xsave", {0x0f, 0xae, 0x23}, true, FEATURE_XSAVE},
        {"xsave64", {0x48, 0x0f, 0xae, 0x23}, true, FEATURE_XSAVE},
        {"xsaveopt", {0x0f, 0xae, 0x33}, true, FEATURE_XSAVEOPT},
        {"xsaveopt64", {0x48, 0x0f, 0xae, 0x33}, true, FEATURE_XSAVEOPT},
        {"xsavec", {0x0f, 0xc7, 0x23}, true, FEATURE_XSAVEC},
        {"xsavec64", {0x48, 0x0f, 0xc7, 0x23}, true, FEATURE_XSAVEC},
    };
    native_signals_use();
    for (u32 n = 0; n < 4000; n++) {
        const struct form *form = &forms[n % ARRAY_LEN(forms)];
        if (!offered(f, form)) {
            continue;
        }
        begin(f);
        put64(f->n->in + XS_BV, n % 3 ? 7 : rnd(f) & 7);
        put64(area() + XS_BV, rnd(f) & 7);
        if (n % 5 == 0) {
            put32(f->n->in + XS_MXCSR, MXCSR_DEFAULT);
        }
        if (n % 16 == 1) {
            f->n->gpr[GPR_RBX] += 8u << rnd(f) % 4;
        }
        run_both(f, form->code, 4);
        compare_memory(f, form->name, form->header);
    }
}

static void test_restore(void **state) {
    struct fixture *f = *state;
    static const struct form forms[] = {
        {"fxrstor", {0x0f, 0xae, 0x0b}, false, FEATURE_XSAVE},
        {"fxrstor64", {0x48, 0x0f, 0xae, 0x0b}, false, FEATURE_XSAVE},
        {"xrstor", {0x0f, 0xae, 0x2b}, true, FEATURE_XSAVE},
        {"xrstor64", {0x48, 0x0f, 0xae, 0x2b}, true, FEATURE_XSAVE},
    };
    u32 faults = 0;
    native_signals_use();
    for (u32 n = 0; n < 4000; n++) {
        const struct form *form = &forms[n % ARRAY_LEN(forms)];
        begin(f);
        random_image(f, area(), rnd(f) & 7);
        put16(area() + XS_FCW, (u16)rnd(f)); /* what the processor has to clean */
        put16(area() + XS_FSW, (u16)rnd(f));
        put16(area() + XS_FOP, (u16)rnd(f));
        area()[XS_FTW + 1] = (u8)rnd(f);
        if (form->header && (rnd(f) & 1) && (f->c->ev->vm->cpuid->features & BIT(FEATURE_XSAVEC))) {
            u64 comp = rnd(f) & 7, bv = rnd(f) & 7 & (rnd(f) % 8 ? comp : 7);
            put64(area() + XS_BV, bv);
            put64(area() + XS_XCOMP, BIT(63) | comp);
        }
        switch (rnd(f) % 12) { /* damage */
        case 0:
            put32(area() + XS_MXCSR, (u32)rnd(f));
            break;
        case 1:
            put64(area() + XS_BV, get64(area() + XS_BV) | BIT(rnd(f) & 1 ? 20 : 62));
            break;
        case 2:
            put64(area() + XS_XCOMP, get64(area() + XS_XCOMP) | BIT(rnd(f) & 1 ? 1 : 40));
            break;
        case 3:
            area()[XS_BV + 16 + rnd(f) % 48] = 1;
            break;
        case 4:
            f->n->gpr[GPR_RBX] += 8u << rnd(f) % 4;
            break;
        default:
            break;
        }
        int fault = run_both(f, form->code, 4);
        faults += fault != 0;
        if (!fault) { /* the processor may have restored a part before it sees MXCSR */
            compare_state(f, form->name);
        }
    }
    assert_true(faults > 200 && faults < 3000);
}

static void test_mxcsr(void **state) {
    struct fixture *f = *state;
    static const u8 codes[][4] = {
        {0x0f, 0xae, 0x13}, {0x0f, 0xae, 0x1b}, {0xc5, 0xf8, 0xae, 0x13}, {0xc5, 0xf8, 0xae, 0x1b}};
    native_signals_use();
    for (u32 n = 0; n < 400; n++) {
        begin(f);
        put32(area(), (u32)(rnd(f) & (n & 64 ? ~0u : 0xffff)));
        run_both(f, codes[n % 4], 4);
        compare_memory(f, "mxcsr", false);
        compare_state(f, "mxcsr");
    }
}

/* Bits of the guest's XCR0 decide, not those of the host's. */
static void test_xcr0(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    static const u8 xsave[] = {0x0f, 0xae, 0x23}, xrstor[] = {0x0f, 0xae, 0x2b};
    native_signals_use();
    begin(f);
    memcpy(c->s.gpr, f->n->gpr, sizeof(c->s.gpr));
    memcpy(c->s.xsave, f->n->in, 1024);
    soft_vec_state_loaded(c);
    c->s.gpr[GPR_RAX] = c->s.gpr[GPR_RDX] = ~0ull;
    c->s.xcr0 = 3;
    memset(area(), 0, AREA_BYTES);
    assert_int_equal(test_exec(c, xsave, 3), 0);
    assert_int_equal(get64(area() + XS_BV), 3);
    assert_int_equal(get64(area() + XS_YMMH), 0);
    put64(area() + XS_BV, 4);
    assert_int_equal(test_exec(c, xrstor, 3), 0x10d);
    c->s.xcr0 = 7;
    assert_int_equal(test_exec(c, xrstor, 3), 0);
    assert_int_equal(get64(c->s.xsave + XS_XMM), 0);
}

static void test_pkru(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    struct cpuid_policy policy = *c->ev->vm->cpuid, *p = &policy;
    const struct cpuid_policy *before = c->ev->vm->cpuid;
    static const u8 xsave[] = {0x0f, 0xae, 0x23}, xrstor[] = {0x0f, 0xae, 0x2b},
                    xsavec[] = {0x0f, 0xc7, 0x23};
    if (!(p->xcr0_allowed & XCR0_PKRU)) { /* this host has none: as if it had */
        p->xcr0_allowed |= XCR0_PKRU;
        p->pkru_offset = 2688;
    }
    c->ev->vm->cpuid = p;
    native_signals_use();
    begin(f);
    memcpy(c->s.gpr, f->n->gpr, sizeof(c->s.gpr));
    c->s.gpr[GPR_RAX] = 0x207;
    c->s.gpr[GPR_RDX] = 0;
    c->s.xcr0 = 0x207;
    soft_pkru_set(c, 0x55555554);
    memset(area(), 0, 4096);
    assert_int_equal(test_exec(c, xsave, 3), 0);
    assert_int_equal(get64(area() + p->pkru_offset), 0x55555554);
    assert_true(get64(area() + XS_BV) & 0x200);
    soft_pkru_set(c, 0);
    assert_int_equal(test_exec(c, xrstor, 3), 0);
    assert_int_equal(soft_pkru_get(c), 0x55555554);
    c->s.gpr[GPR_RAX] = 0x201;
    memset(area(), 0, 4096);
    assert_int_equal(test_exec(c, xsavec, 3), 0);
    assert_int_equal(get64(area() + XS_YMMH), 0x55555554); /* no AVX in front of it */
    soft_pkru_set(c, 0);
    assert_int_equal(test_exec(c, xrstor, 3), 0);
    assert_int_equal(soft_pkru_get(c), 0x55555554);
    soft_pkru_set(c, 0);
    c->s.xcr0 = 7;
    c->ev->vm->cpuid = before;
}

/* The image as state_get and state_set exchange it. */
static void test_image(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    u8 *x = c->s.xsave;
    memset(x, 0xff, 1024);
    put64(x + XS_BV, 0);
    put32(x + XS_MXCSR, MXCSR_DEFAULT);
    soft_vec_state_loaded(c);
    soft_vec_state_store(c);
    assert_int_equal(get64(x + XS_BV), 0);
    assert_int_equal(get16(x + XS_FCW), FCW_DEFAULT);
    assert_int_equal(get64(x + XS_XMM), 0);
    static const u8 fld1[] = {0xd9, 0xe8};
    assert_int_equal(test_exec(c, fld1, 2), 0);
    soft_vec_state_store(c);
    assert_int_equal(get64(x + XS_BV), 1);
    assert_int_equal(get16(x + XS_ST + 8), 0x3fff);
    assert_int_equal(soft_vec_state_check(c, x, 7), 0);
    assert_true(soft_vec_state_check(c, x, 6) < 0);
    assert_true(soft_vec_state_check(c, x, 5) < 0);
    put32(x + XS_MXCSR, 0x10000);
    assert_true(soft_vec_state_check(c, x, 7) < 0);
    put32(x + XS_MXCSR, MXCSR_DEFAULT);
    put64(x + XS_BV, BIT(40));
    assert_true(soft_vec_state_check(c, x, 7) < 0);
    put64(x + XS_BV, 0);
    soft_vec_state_loaded(c);
}

#define TEST(name) cmocka_unit_test_prestate(name, &f)

int main(void) {
    static struct fixture f;
    f.n = native_setup(RAM_BYTES);
    if (!f.n) {
        fputs("cannot map the fixed addresses of the native runner\n", stderr);
        return 1;
    }
    f.c = test_vcpu_create(RAM_BYTES);
    f.seed = 42;
    native_signals_keep();
    const struct CMUnitTest tests[] = {
        TEST(test_save), TEST(test_restore), TEST(test_mxcsr),
        TEST(test_xcr0), TEST(test_pkru),    TEST(test_image),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_vcpu_destroy(f.c);
    native_teardown();
    return rc;
}
