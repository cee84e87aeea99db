/* SPDX-License-Identifier: Apache-2.0 */
/* Lock-step finds what is wrong: translated code is changed behind its back, and the difference
 * must be reported with the instruction; unchanged code passes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engines/soft/tr.h"
#include "tests/unit/soft_machine.h"

static struct sm *m;

static int set_up(void **state) {
    (void)state;
    setenv("SOSIA_TEST_TRANSLATOR", "verify", 1);
    m = sm_create();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

static struct engine_verify_stats stats(void) {
    struct engine_stats s = {0};
    m->vm.ops->stats(&m->vcpu, &s);
    return s.verify;
}

/* Runs the code at SM_CODE to its HLT, or to a difference. */
static enum exit_kind run_code(void) {
    m->s.rip = SM_CODE;
    m->s.gpr[GPR_RDI] = SM_DATA;
    if (m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s)) {
        sm_fail("state_set refused the state");
    }
    sm_signals(SM_SIGNALS_USE);
    int rc = m->vm.ops->run(&m->vcpu, &m->exit);
    sm_signals(SM_SIGNALS_DROP);
    if (rc || m->vm.ops->state_get(&m->vcpu, STATE_ALL, &m->s)) {
        sm_fail("run failed");
    }
    return m->exit.kind;
}

/* Changes the last place in generated code that holds the 32-bit value. */
static void corrupt(u32 from, u32 to) {
    struct soft_tr *t = soft_of(&m->vcpu)->tr;
    u32 found = 0;
    for (u32 at = t->first; at + 4 <= t->used; at++) {
        found = memcmp(t->code.rw + at, &from, 4) ? found : at;
    }
    assert_true(found);
    memcpy(t->code.rw + found, &to, 4);
}

static void prepare(const char *hex) {
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, hex);
    assert_int_equal(run_code(), EXIT_HLT);
    assert_int_equal(stats().divergences, 0);
    assert_true(stats().windows > 0);
}

static void expect_difference(const char *instruction) {
    assert_int_equal(run_code(), EXIT_ERROR);
    assert_int_equal(stats().divergences, 1);
    assert_non_null(strstr(m->exit.error.text, "differ"));
    if (!strstr(m->fake->log, instruction)) {
        fail_msg("not reported: %s\n%s", instruction, m->fake->log);
    }
}

static void test_register(void **state) {
    (void)state;
    prepare("31c0 0544332211 89c2 f4"); /* add eax, 0x11223344 */
    corrupt(0x11223344, 0x11223345);
    expect_difference("the instruction: 0000000000010002  add eax, 0x11223344");
}

static void test_flags(void **state) {
    (void)state;
    assert_int_equal(stats().divergences, 0);
    prepare("31c0 3d44332211 f4");
    corrupt(0x11223344, 0x80000000);
    expect_difference("cmp eax, 0x11223344");
}

static void test_memory(void **state) {
    (void)state;
    prepare("31c0 c70744332211 f4"); /* mov dword [rdi], 0x11223344 */
    corrupt(0x11223344, 0x11223345);
    expect_difference("memory at guest-physical 0x40000");
}

/* A store beside the right place in the right page. */
static void test_stray_store(void **state) {
    (void)state;
    prepare("31c0 898744030000 f4"); /* mov [rdi + 0x344], eax */
    memset(m->hram.hva + SM_DATA, 0x55, 4096);
    corrupt(0x344, 0x348);
    expect_difference("memory at guest-physical 0x40340");
}

static void test_vector(void **state) {
    (void)state;
    if (!soft_of(&m->vcpu)->tr->host_avx) {
        skip();
    }
    prepare("31c0 b844332211 660f6ec0 660fefc9 f4"); /* movd xmm0, eax */
    corrupt(0x11223344, 0x11223346);
    expect_difference("mov eax, 0x11223344");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_register, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flags, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stray_store, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_vector, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
