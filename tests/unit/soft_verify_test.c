/* SPDX-License-Identifier: Apache-2.0 */
/* Lock-step and audit find what is wrong: translated code is changed behind their back, and that
 * must be reported with the instruction or the rule; unchanged code passes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engines/soft/tr_audit.h"
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

/* --- the audit ---------------------------------------------------------------------------------
 */

/* Puts bytes over the last place where generated code has these; the audit must say why not. */
static void expect_refused(const char *hex, const void *from, const void *to, size_t n,
                           const char *why) {
    char text[200] = "";
    u8 *found = NULL, keep[16];
    prepare(hex);
    struct soft_tr *t = soft_of(&m->vcpu)->tr;
    assert_true(tr_audit_all(soft_of(&m->vcpu), text, sizeof(text)));
    for (u32 at = t->first; at + n <= t->used; at++) {
        found = memcmp(t->code.rw + at, from, n) ? found : t->code.rw + at;
    }
    assert_non_null(found);
    memcpy(keep, found, n);
    memcpy(found, to, n);
    assert_false(tr_audit_all(soft_of(&m->vcpu), text, sizeof(text)));
    if (!strstr(text, why)) {
        fail_msg("wanted: %s\ngot: %s", why, text);
    }
    memcpy(found, keep, n);
    assert_true(tr_audit_all(soft_of(&m->vcpu), text, sizeof(text)));
}

static void test_audit_access(void **state) {
    u32 disp = 0x344, beyond = 0x345, far = 0x10344;
    const char *store = "31c0 898744030000 f4"; /* mov [rdi + 0x344], eax */
    (void)state;
    expect_refused(store, &disp, &beyond, 4, "beyond what was looked up");
    expect_refused(store, &disp, &far, 4, "beyond what was looked up");
}

static const struct {
    u8 code[5];
    const char *why;
} bad[] = {
    {{0x0f, 0x05, 0x90, 0x90, 0x90}, "may not contain"}, /* syscall */
    {{0x0f, 0x30, 0x90, 0x90, 0x90}, "may not contain"}, /* wrmsr */
    {{0x9d, 0x90, 0x90, 0x90, 0x90}, "may not contain"}, /* popf */
    {{0x50, 0x90, 0x90, 0x90, 0x90}, "may not contain"}, /* push rax */
    {{0xcd, 0x80, 0x90, 0x90, 0x90}, "may not contain"}, /* int 80h */
    {{0xf3, 0x0f, 0xae, 0xd8, 0x90}, "may not contain"}, /* wrgsbase eax */
    {{0x0f, 0x01, 0xef, 0x90, 0x90}, "may not contain"}, /* wrpkru */
    {{0xe8, 0x00, 0x00, 0x00, 0x00}, "may not contain"}, /* call */
    {{0xfd, 0x90, 0x90, 0x90, 0x90}, "may not contain"}, /* std */
    {{0xff, 0xe0, 0x90, 0x90, 0x90}, "indirect jump"},   /* jmp rax */
    {{0xe9, 0x01, 0x00, 0x00, 0x10}, "jump to nowhere"}, /* jmp far away */
    {{0xeb, 0x01, 0x48, 0x31, 0xc0}, "inside an instr"}, /* into an instruction */
    {{0x89, 0x07, 0x90, 0x90, 0x90}, "not looked up"},   /* mov [rdi], eax */
    {{0x8b, 0x04, 0x24, 0x90, 0x90}, "not looked up"},   /* mov eax, [rsp] */
    {{0x64, 0x8b, 0x07, 0x90, 0x90}, "FS"},              /* mov eax, fs:[rdi] */
    {{0x65, 0x89, 0x07, 0x90, 0x90}, "GS with a base"},  /* mov gs:[rdi], eax */
    {{0xf3, 0xa4, 0x90, 0x90, 0x90}, "not looked up"},   /* rep movsb */
};

/* mov eax, imm32 in the middle of the trace becomes something else. */
static void test_audit_instructions(void **state) {
    u8 from[5] = {0xb8, 0x44, 0x33, 0x22, 0x11};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect_refused("31c9 b844332211 89c2 f4", from, bad[i].code, 5, bad[i].why);
    }
}

/* Stores to what generated code may not change in the processor's state. */
static void test_audit_state(void **state) {
    u32 good = (u32)tr_gpr(GPR_R14), self = (u32)C_OFF(tr_self), cr3 = (u32)C_OFF(s.cr3),
        beyond = sizeof(struct soft_vcpu) - 4;
    const char *code = "31c0 49ffc6 f4"; /* inc r14 */
    (void)state;
    expect_refused(code, &good, &self, 4, "not allowed");
    expect_refused(code, &good, &cr3, 4, "not allowed");
    expect_refused(code, &good, &beyond, 4, "beyond");
}

/* A group's addend comes from its slot: another slot, and a later access beyond the group. */
static void test_audit_group(void **state) {
    /* mov rax, [rdi]; mov rcx, [rsp]; mov [rdi+44h], rax */
    const char *code = "488b07 488b0c24 48894744 f4";
    u8 load[9] = {0x65, 0x4c, 0x8b, 0x34, 0x25}, other[9];
    u8 store[5] = {0x4a, 0x89, 0x44, 0x37, 0x44}, beyond[5] = {0x4a, 0x89, 0x44, 0x37, 0x45};
    u32 slot = (u32)C_OFF(tr_addend), next = slot + 8;
    (void)state;
    memcpy(load + 5, &slot, 4);
    memcpy(other, load, 5);
    memcpy(other + 5, &next, 4);
    expect_refused(code, load, other, 9, "not looked up");
    expect_refused(code, store, beyond, 5, "beyond what was looked up");
}

/* A look that keeps flags is one piece: each part of it is needed. */
static void test_audit_keep(void **state) {
    static const struct {
        u8 n, from[8], to[8];
        const char *why;
    } row[] = {
        {3, {0x48, 0xf7, 0xd1}, {0x48, 0xf7, 0xd9}, "another kind"},              /* neg rcx */
        {4, {0x47, 0x10, 0, 0}, {0x40, 0x10, 0, 0}, "beyond what was looked up"}, /* first byte */
        {4, {0x47, 0x10, 0, 0}, {0x47, 0x20, 0, 0}, "another kind"},
        {3, {0xe3, 0x05, 0xe9}, {0xe3, 0x08, 0xe9}, "another kind"},  /* over mov rcx, r15 */
        {3, {0x4c, 0x89, 0xf9}, {0x4c, 0x89, 0xfa}, "another kind"},  /* mov rdx, r15 */
        {3, {0x49, 0x89, 0xcf}, {0x49, 0x89, 0xd7}, "not looked up"}, /* mov r15, rdx before */
    };
    (void)state;
    if (!soft_of(&m->vcpu)->tr->host_bmi2) {
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        /* stc; adc rax, [rdi+40h] */
        expect_refused("f9 48134740 f4", row[i].from, row[i].to, row[i].n, row[i].why);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_register, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flags, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stray_store, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_vector, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_audit_access, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_audit_instructions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_audit_group, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_audit_keep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_audit_state, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
