/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions of the software engine against the real processor: element and address
 * sizes, directions, overlaps, repetition counts, and faults in the middle (what was done, where it
 * stands, CR2). RAM ends with an inaccessible page on both sides of the comparison.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/unit/lib_native.h"
#include "tests/unit/lib_vec.h"

enum { RAM_BYTES = 2 << 20, WINDOW_BYTES = 3 * 4096 };

struct fixture {
    struct soft_vcpu *c;
    struct native_state *n;
    u64 seed;
    u32 faults;
    u8 before[WINDOW_BYTES], native[WINDOW_BYTES];
};

static u64 rnd(struct fixture *f) {
    return native_random(&f->seed);
}

static u8 *window(void) {
    return (u8 *)NATIVE_RAM + RAM_BYTES - WINDOW_BYTES;
}

static void load_guest(struct fixture *f) {
    memcpy(f->c->s.gpr, f->n->gpr, sizeof(f->c->s.gpr));
    soft_rflags_set(f->c, f->n->flags);
}

static void describe(struct fixture *f, const u8 *code, const char *what, u64 native, u64 guest) {
    fail_msg(
        "%02x %02x %02x %02x rcx %llx rsi %llx rdi %llx flags %llx: %s: native %llx guest %llx",
        code[0], code[1], code[2], code[3], (unsigned long long)f->n->gpr[GPR_RCX],
        (unsigned long long)f->n->gpr[GPR_RSI], (unsigned long long)f->n->gpr[GPR_RDI],
        (unsigned long long)f->n->flags, what, (unsigned long long)native,
        (unsigned long long)guest);
}

static void run_both(struct fixture *f, const u8 *code, u32 len) {
    memcpy(f->before, window(), WINDOW_BYTES);
    native_run(f->n, code, len);
    memcpy(f->native, window(), WINDOW_BYTES);
    memcpy(window(), f->before, WINDOW_BYTES);
    load_guest(f);
    int fault = test_exec(f->c, code, len);
    if ((u32)fault != f->n->fault) {
        describe(f, code, "fault", f->n->fault, (u64)fault);
    }
    if (fault && f->c->fault_cr2 != f->n->address) {
        describe(f, code, "cr2", f->n->address, f->c->fault_cr2);
    }
    f->faults += fault != 0;
    for (u32 i = 0; i < 16; i++) {
        if (f->n->gpr_out[i] != f->c->s.gpr[i]) {
            describe(f, code, "gpr", f->n->gpr_out[i], f->c->s.gpr[i]);
        }
    }
    if ((f->n->flags_out ^ f->c->aflags) & FLAG_ARITH) {
        describe(f, code, "flags", f->n->flags_out, f->c->aflags);
    }
    for (u32 i = 0; i < WINDOW_BYTES; i++) {
        if (window()[i] != f->native[i]) {
            describe(f, code, "memory", f->native[i], window()[i]);
        }
    }
}

/* One random instruction and state. */
static void one(struct fixture *f) {
    static const u8 ops[] = {0xa4, 0xaa, 0xac, 0xa6, 0xae};
    u8 code[8] = {0};
    u32 len = 0;
    bool sparse = rnd(f) & 1;
    for (u32 i = 0; i < WINDOW_BYTES; i += 8) {
        put64(window() + i, sparse ? 0x4242424242424242ull : rnd(f));
    }
    if (sparse) {
        window()[rnd(f) % WINDOW_BYTES] = 7;
    }
    for (u32 i = 0; i < 16; i++) {
        f->n->gpr[i] = rnd(f);
    }
    if (rnd(f) % 3) {
        code[len++] = rnd(f) & 1 ? 0xf3 : 0xf2;
    }
    bool small = rnd(f) % 4 == 0;
    if (small) {
        code[len++] = 0x67;
    }
    u32 size = (u32)(rnd(f) & 3);
    if (size == 1) {
        code[len++] = 0x66;
    } else if (size == 3) {
        code[len++] = 0x48;
    }
    code[len++] = (u8)(ops[rnd(f) % ARRAY_LEN(ops)] | (size != 0));
    static const u64 counts[] = {0, 1, 2, 3, 7, 64, 511, 1000, 4096, 20000};
    u64 high = small ? rnd(f) << 32 : 0;
    f->n->gpr[GPR_RCX] = counts[rnd(f) % ARRAY_LEN(counts)] | high;
    f->n->gpr[GPR_RSI] = ((u64)window() + rnd(f) % WINDOW_BYTES) | high;
    f->n->gpr[GPR_RDI] = ((u64)window() + rnd(f) % WINDOW_BYTES) | high;
    if (rnd(f) & 1) { /* overlap */
        f->n->gpr[GPR_RDI] = f->n->gpr[GPR_RSI] + rnd(f) % 24 - 12;
    }
    if (rnd(f) & 1) {
        f->n->gpr[GPR_RAX] = 0x4242424242424242ull;
    }
    f->n->flags = 0x202 | (rnd(f) & FLAG_ARITH) | (rnd(f) % 3 == 0 ? FLAG_DF : 0);
    if (f->n->flags & FLAG_DF) { /* stay above the window's start */
        f->n->gpr[GPR_RCX] = (f->n->gpr[GPR_RCX] & 0x1ff) | high;
        u64 delta = f->n->gpr[GPR_RDI] - f->n->gpr[GPR_RSI];
        f->n->gpr[GPR_RSI] = ((u64)window() + 0x1010 + rnd(f) % 0x1fe0) | high;
        if (delta + 12 > 24) {
            delta = ((u64)window() + 0x1010 + rnd(f) % 0x1fe0) - (u32)f->n->gpr[GPR_RSI];
        }
        f->n->gpr[GPR_RDI] = f->n->gpr[GPR_RSI] + delta;
    }
    run_both(f, code, len);
}

static void test_random(void **state) {
    struct fixture *f = *state;
    native_signals_use();
    memset(f->n->in, 0, sizeof(f->n->in));
    put32(f->n->in + XS_MXCSR, MXCSR_DEFAULT);
    for (u32 n = 0; n < 6000; n++) {
        one(f);
    }
    assert_true(f->faults > 100);
}

/* Somebody wants the vCPU: the instruction stays where it is, with progress made. */
static void test_gives_way(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    static const u8 stosb[] = {0xf3, 0xaa};
    native_signals_use();
    u64 to = NATIVE_RAM + 0x10800;
    memset((void *)(NATIVE_RAM + 0x10000), 0, 0x4000);
    c->s.rflags = 0x202;
    c->s.gpr[GPR_RCX] = 0x2000;
    c->s.gpr[GPR_RDI] = to;
    c->s.gpr[GPR_RAX] = 0x55;
    c->ev->attention = ATTN_PAUSE;
    assert_int_equal(test_exec(c, stosb, 2), 0);
    assert_int_equal(c->next_rip, native_rip());
    assert_int_equal(c->s.gpr[GPR_RCX], 0x2000 - 0x800);
    assert_int_equal(c->s.gpr[GPR_RDI], to + 0x800);
    c->ev->attention = 0;
    assert_int_equal(test_exec(c, stosb, 2), 0);
    assert_int_equal(c->s.gpr[GPR_RCX], 0);
    assert_int_equal(((u8 *)to)[0x1fff], 0x55);
    assert_int_equal(((u8 *)to)[0x2000], 0);

    c->one = true; /* single step: one iteration */
    c->s.gpr[GPR_RCX] = 3;
    assert_int_equal(test_exec(c, stosb, 2), 0);
    assert_int_equal(c->s.gpr[GPR_RCX], 2);
    assert_int_equal(c->next_rip, native_rip());
    c->one = false;
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
    f.seed = 99;
    native_signals_keep();
    const struct CMUnitTest tests[] = {TEST(test_random), TEST(test_gives_way)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_vcpu_destroy(f.c);
    native_teardown();
    return rc;
}
