/* SPDX-License-Identifier: Apache-2.0 */
/* User code that runs at several linear addresses: the same physical pages at multiples of 1 GiB,
 * so that translated code (tr_page.c: floating traces) is met where it was not made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/soft_machine.h"

enum { CROSSING = SM_CODE + 0xffe, VALUE = 0x80, STORED = 0x88 };

static struct sm *m;

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    sm_setup(m, SM_LONG, 3);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

/* All memory again at each multiple of 1 GiB. */
static void map(void) {
    for (u32 k = 1; k < 512; k++) {
        sm_put(m, SM_PT + 0x1000 + 8 * k, 8, (SM_PT + 0x2000) | 7);
    }
}

static void code(void) {
    /* call f; mov r9,rax; mov rbx,[rip+value]; lea rcx,[rip: start]; call rsi; mov r10,rax;
     * mov r11,r8; mov edx,20; xor edi,edi; 1: add rdi,[rip+value]; dec edx; jnz 1b; call rbp;
     * mov [rip+stored],rcx; hlt */
    sm_hex(m, SM_CODE,
           "e85b000000 4989c1 488b1d71000000 488d0deaffffff ffd6 4989c2 4d89c3 ba14000000 31ff"
           "48033d54000000 ffca 75f5 ffd5 48890d4f000000 f4");
    /* f: mov rax,[rsp]; lea r8,[rip: start]; ret */
    sm_hex(m, SM_CODE + 0x60, "488b0424 4c8d0595ffffff c3");
    sm_hex(m, CROSSING, "41bc78563412 c3"); /* mov r12d,0x12345678; ret */
    sm_put(m, SM_CODE + VALUE, 8, 0x1234);
}

/* At base; f at the other one, too. */
static void run_at(u64 base, u64 other, u64 f_start) {
    const u64 *r = m->s.gpr;
    sm_setup(m, SM_LONG, 3);
    map();
    code();
    sm_put(m, SM_CODE + 0x67, 4, (u64)(s64)(s32)(f_start - 0x6b)); /* lea's displacement */
    m->s.rip = base + SM_CODE;
    m->s.gpr[GPR_RSI] = other + SM_CODE + 0x60;
    m->s.gpr[GPR_RBP] = other + CROSSING;
    assert_int_equal(sm_run(m), EXIT_HLT); /* in the handler of #GP */
    assert_true(m->s.rip == SM_HANDLER + 16 * EXC_GP + 1);
    assert_true(sm_get(m, SM_RSP0 - 40, 8) == base + SM_CODE + 0x39);
    assert_true(r[GPR_R9] == base + SM_CODE + 5);
    assert_true(r[GPR_R10] == base + SM_CODE + 0x18);
    assert_true(r[GPR_R11] == other + SM_CODE + f_start);
    assert_true(r[GPR_RCX] == base + SM_CODE);
    assert_true(r[GPR_RBX] == 0x1234 && r[GPR_RDI] == 20 * 0x1234);
    assert_true(r[GPR_R12] == 0x12345678);
    assert_true(sm_get(m, SM_CODE + STORED, 8) == base + SM_CODE);
}

static void test_places(void **state) {
    static const u64 bases[] = {5 * GIB, 300 * GIB, 0, 511 * GIB, 4 * GIB, GIB};
    (void)state;
    for (u32 k = 0; k < 72; k++) {
        run_at(bases[k % 6], bases[(k / 6 + k) % 6], 0);
    }
}

/* The code is written between two runs, and f answers something else. */
static void test_written(void **state) {
    (void)state;
    for (u32 k = 0; k < 40; k++) {
        run_at((5 + k % 3) * GIB, (5 + k % 7) * GIB, k);
    }
}

/* One run: a loop calls f where 300 mappings have it, one after the other, and adds up. */
static void test_many(void **state) {
    (void)state;
    u64 sum = 0;
    sm_setup(m, SM_LONG, 3);
    map();
    code();
    /* 1: call rsi; add rdi,r8; add rsi,rbx; dec edx; jnz 1b; hlt */
    sm_hex(m, SM_CODE + 0x200, "ffd6 4c01c7 4801de ffca 75f4 f4");
    m->s.rip = 7 * GIB + SM_CODE + 0x200;
    m->s.gpr[GPR_RSI] = 8 * GIB + SM_CODE + 0x60;
    m->s.gpr[GPR_RBX] = GIB;
    m->s.gpr[GPR_RDX] = 300;
    m->s.gpr[GPR_RDI] = 0;
    assert_int_equal(sm_run(m), EXIT_HLT);
    for (u32 k = 0; k < 300; k++) {
        sum += (8 + k) * GIB + SM_CODE;
    }
    assert_true(m->s.gpr[GPR_RDI] == sum);
    assert_true(sm_get(m, SM_RSP0 - 40, 8) == 7 * GIB + SM_CODE + 0x20c);
}

/* A fault of the processor and one of a page, at an address where the trace was not made. */
static void test_faults(void **state) {
    (void)state;
    for (u32 k = 4; k < 12; k++) {
        u64 base = k * GIB + SM_CODE;
        sm_setup(m, SM_LONG, 3);
        map();
        sm_hex(m, SM_CODE, "31d2 31c9 b801000000 f7f1 f4"); /* xor edx,edx; ... div ecx */
        m->s.rip = base;
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_true(m->s.rip == SM_HANDLER + 1);
        assert_true(sm_get(m, SM_RSP0 - 40, 8) == base + 9);
        sm_hex(m, SM_CODE + 0x40, "488b05 00004000 f4"); /* mov rax,[rip+4 MiB] */
        m->s.rip = base + 0x40;
        m->s.gpr[GPR_RSP] = SM_USTACK;
        sm_seg(m, SEG_CS, SEL_UCS64 | 3, 0xa0fb, 0xffffffff);
        sm_seg(m, SEG_SS, SEL_UDS | 3, 0xc0f3, 0xffffffff);
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_true(m->s.rip == SM_HANDLER + 16 * EXC_PF + 1);
        assert_true(m->s.cr2 == base + 0x47 + 0x400000);
        assert_true(sm_get(m, SM_RSP0 - 48 + 8, 8) == base + 0x40);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_faults, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
