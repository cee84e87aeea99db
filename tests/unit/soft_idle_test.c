/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine gives back when a vCPU rests, and that the guest does not notice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/soft_machine.h"

enum { LOTS = 0x100000 };

static struct sm *m;
static u32 lots_size; /* bytes of code that make several MiB, decoded or translated */

static int set_up(void **state) {
    (void)state;
    lots_size = getenv("SOSIA_TEST_TRANSLATOR") ? 0xd0000 : 0x18000;
    m = sm_create();
    m->vm.translator.heat = 0; /* less is translated when room is short, and more decoded */
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

/* Lots of two-instruction blocks (ADD EAX, 1; JMP on), then HLT. */
static void prepare(void) {
    static const u8 block[] = {0x83, 0xc0, 0x01, 0xeb, 0x00};
    u32 at = LOTS;
    sm_setup(m, SM_LONG, 0);
    for (; at + sizeof(block) < LOTS + lots_size; at += sizeof(block)) {
        sm_bytes(m, at, block, sizeof(block));
    }
    sm_put(m, at, 1, 0xf4);
    sm_hex(m, SM_CODE, "31c0 b900001000 ffe1"); /* xor eax,eax; mov ecx,LOTS; jmp rcx */
}

static void run_all(void) {
    m->s.rip = SM_CODE;
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.gpr[0], (lots_size - 1) / 5);
}

/* A sleep of so long after being awake for so long. */
static void awake_then_asleep(u64 awake_ms, u64 asleep_ms) {
    fake_advance(m->fake, awake_ms * 1000000);
    m->vm.ops->idle(&m->vcpu, true);
    fake_advance(m->fake, asleep_ms * 1000000);
    m->vm.ops->idle(&m->vcpu, false);
}

static void test_rests(void **state) {
    const char *mode = getenv("SOSIA_TEST_TRANSLATOR");
    (void)state;
    if (mode && !strcmp(mode, "verify")) {
        skip(); /* lock-step keeps its own record of the memory that it compares */
    }
    prepare();
    run_all();
    awake_then_asleep(1, 10); /* the first window begins */
    for (int i = 0; i < 66; i++) {
        awake_then_asleep(1, 1000);
    }
    assert_true(m->fake->trimmed > 3 * MIB);
    u64 trimmed = m->fake->trimmed;
    for (int i = 0; i < 20; i++) { /* nothing has come since: nothing to give */
        awake_then_asleep(1, 1000);
    }
    assert_int_equal(m->fake->trimmed, trimmed);
    run_all();
    run_all();
}

/* Pauses of less than a minute: what comes next finds its code. */
static void test_pauses(void **state) {
    (void)state;
    prepare();
    run_all();
    awake_then_asleep(1, 10);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 50; i++) {
            awake_then_asleep(1, 1000);
        }
        awake_then_asleep(2000, 4000);
    }
    assert_int_equal(m->fake->trimmed, 0);
    run_all();
}

/* One sleep can be as long as many short ones. */
static void test_sleeps_long(void **state) {
    const char *mode = getenv("SOSIA_TEST_TRANSLATOR");
    (void)state;
    if (mode && !strcmp(mode, "verify")) {
        skip();
    }
    prepare();
    run_all();
    awake_then_asleep(1, 5000); /* the first window begins */
    awake_then_asleep(1, 10);
    awake_then_asleep(1, 100000);
    awake_then_asleep(1, 10);
    assert_true(m->fake->trimmed > 3 * MIB);
    run_all();
}

static void test_works(void **state) {
    (void)state;
    prepare();
    run_all();
    for (int i = 0; i < 20; i++) {
        awake_then_asleep(500, 500);
    }
    assert_int_equal(m->fake->trimmed, 0);
    run_all();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pauses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sleeps_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_works, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
