/* SPDX-License-Identifier: Apache-2.0 */
/* Corner cases of the software engine's system side: what one part of the machine must tell
 * another, structures that cross pages, segment and address wrap, priorities of faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/soft_machine.h"

static struct sm *m;

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

static void run_to_vector(int vector) {
    enum exit_kind kind = sm_run(m);
    if (kind != EXIT_HLT || sm_vector(m) != vector) {
        fail_msg("wanted vector %d: exit %d at %x:%llx, vector %d", vector, (int)kind,
                 m->s.seg[SEG_CS].sel, (unsigned long long)m->s.rip, sm_vector(m));
    }
}

static void run_to_hlt(u64 rip) {
    enum exit_kind kind = sm_run(m);
    if (kind != EXIT_HLT || m->s.rip != rip + 1) {
        fail_msg("wanted HLT at %llx: exit %d at %x:%llx, vector %d", (unsigned long long)rip,
                 (int)kind, m->s.seg[SEG_CS].sel, (unsigned long long)m->s.rip, sm_vector(m));
    }
}

/* A write of the TSC, either way, moves the TSC deadline: the machine is told. */
static void test_tsc_written(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    m->tsc_changes = 0;
    sm_hex(m, SM_CODE, "b910000000 31c0 31d2 0f30 f4"); /* IA32_TIME_STAMP_COUNTER */
    run_to_hlt(SM_CODE + 11);
    assert_int_equal(m->tsc_changes, 1);
    if (cpuid_policy_has(&m->policy, "tsc_adjust")) {
        sm_setup(m, SM_LONG, 0);
        sm_hex(m, SM_CODE, "b93b000000 b800100000 31d2 0f30 f4");
        run_to_hlt(SM_CODE + 14);
        assert_int_equal(m->tsc_changes, 2);
    }
}

/* A machine that was saved in its first second: its TSC is what the state says, although a state
 * was read and written back before, which itself sets nothing. */
static void test_tsc_restored(void **state) {
    (void)state;
    const struct engine_ops *ops = m->vm.ops;
    sm_setup(m, SM_LONG, 0);
    assert_int_equal(ops->state_get(&m->vcpu, STATE_ALL, &m->s), 0);
    u64 before = ops->tsc_get(&m->vcpu);
    assert_int_equal(ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    assert_true(ops->tsc_get(&m->vcpu) >= before);
    u64 early = m->s.msr.tsc + 500000000;
    m->s.msr.tsc = early;
    assert_int_equal(ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    assert_true(ops->tsc_get(&m->vcpu) >= early);
}

/* WRPKRU takes effect on pages whose translation is cached. */
static void test_wrpkru(void **state) {
    (void)state;
    sm_offer_pku(m);
    sm_setup(m, SM_LONG, 3);
    m->s.cr4 |= CR4_PKE | CR4_OSXSAVE;
    m->s.xcr0 |= XCR0_PKRU;
    sm_put(m, SM_PT + 0x2008, 8, 0x200087 | BIT(59)); /* key 1; 0 is the handler's stack's, too */
    /* load, wrpkru(AD of key 1), load */
    sm_hex(m, SM_CODE, "8a1c2500002800 31c9 31d2 b804000000 0f01ef 8a1c2500002800 f4");
    run_to_vector(EXC_PF);
}

/* System structures above 4 GiB that cross a page, used from compatibility mode. */
static void test_compat_high_tables(void **state) {
    const u64 high = 0xffff800000000000ull, tss = 0x50000 - 8;
    (void)state;
    sm_setup(m, SM_COMPAT, 3);
    sm_put(m, SM_PT + 256 * 8, 8, sm_get(m, SM_PT, 8));
    sm_put(m, tss + 4, 8, SM_RSP0); /* RSP0 crosses into the next page */
    m->s.tr.base = high + tss;
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(EXC_UD);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_RSP0 - 40);
}

/* POP [ESP-based] computes its address with the new ESP, PUSH with the old. */
static void test_pop_esp(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 0);
    sm_put(m, SM_STACK - 16, 4, 0x1234);
    m->s.gpr[GPR_RSP] = SM_STACK - 16;
    sm_hex(m, SM_CODE, "8f0424 ff7424fc f4"); /* pop [esp]; push [esp-4] */
    run_to_hlt(SM_CODE + 7);
    assert_int_equal(sm_get(m, SM_STACK - 12, 4), 0x1234);
    assert_int_equal(sm_get(m, SM_STACK - 16, 4), 0x1234);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - 16);
    sm_setup(m, SM_PROT32, 0);
    sm_hex(m, SM_CODE, "54 58 f4"); /* push esp; pop eax */
    run_to_hlt(SM_CODE + 2);
    assert_int_equal(m->s.gpr[GPR_RAX], SM_STACK);
}

/* 16-bit addresses and SP wrap inside their 64 KiB; what crosses the limit faults. */
static void test_wrap16(void **state) {
    (void)state;
    sm_setup(m, SM_REAL, 0);
    m->s.gpr[GPR_RBX] = 0xffff;
    sm_hex(m, SM_CODE, "8a4702 f4"); /* mov al, [bx+2]: offset 1 */
    sm_put(m, 1, 1, 0x5a);
    run_to_hlt(3);
    assert_int_equal(m->s.gpr[GPR_RAX] & 0xff, 0x5a);
    sm_setup(m, SM_REAL, 0);
    m->s.gpr[GPR_RBX] = 0xffff;
    sm_hex(m, SM_CODE, "8b07"); /* a word at ffff */
    run_to_vector(EXC_GP);
    sm_setup(m, SM_REAL, 0);
    m->s.gpr[GPR_RSP] = 0;
    sm_hex(m, SM_CODE, "50 f4"); /* push at SP 0 goes to fffe */
    m->s.gpr[GPR_RAX] = 0xbeef;
    run_to_hlt(1);
    assert_int_equal(m->s.gpr[GPR_RSP], 0xfffe);
    assert_int_equal(sm_get(m, 0x2fffe, 2), 0xbeef);
}

/* Expand-down: only offsets above the limit. */
static void test_expand_down(void **state) {
    static const struct {
        u32 offset;
        int vector;
    } rows[] = {{0xfff, 13}, {0x1000, -1}, {0xffe, 13}, {0x41000, -1}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_PROT32, 0);
        sm_hex(m, SM_CODE, "b8b8000000 8ec0 268b03 f4"); /* es = SEL_DOWN; mov eax, es:[ebx] */
        m->s.gpr[GPR_RBX] = rows[i].offset;
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_int_equal(sm_vector(m), rows[i].vector);
    }
}

/* #UD comes before #GP: LOCK where it may not stand, VEX outside protected mode, LLDT in V86. */
static void test_ud_first(void **state) {
    static const struct {
        enum sm_mode mode;
        const char *code;
    } rows[] = {
        {SM_LONG, "f0f4"},   {SM_LONG, "f00f22c0"},   {SM_LONG, "f089c0"}, {SM_LONG, "f08b07"},
        {SM_V86, "0f00d0"},  {SM_V86, "0f00d8"},      {SM_V86, "0f02c0"},  {SM_V86, "63c0"},
        {SM_REAL, "0f00d0"}, {SM_REAL, "c5f877"},     {SM_V86, "c5f877"},  {SM_LONG, "0f0b"},
        {SM_LONG, "0fff00"}, {SM_LONG, "f0660f58c0"}, {SM_LONG, "0f01c8"}, {SM_LONG, "0f01c9"},
        {SM_LONG, "06"},     {SM_LONG, "8ec8"},       {SM_LONG, "8ef0"},   {SM_LONG, "0f20c8"},
        {SM_LONG, "62"},     {SM_LONG, "8d c0"},      {SM_LONG, "0f01c1"}, {SM_LONG, "0f01d9"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        u32 cpl = rows[i].mode == SM_LONG ? 3 : 0;
        sm_setup(m, rows[i].mode, cpl);
        if (!strcmp(rows[i].code, "0f20c8")) { /* CR1: at CPL 0, where nothing else is wrong */
            sm_setup(m, SM_LONG, 0);
        }
        sm_hex(m, SM_CODE, rows[i].code);
        sm_run(m);
        if (sm_vector(m) != EXC_UD) {
            fail_msg("%s: exit %d, vector %d", rows[i].code, (int)m->exit.kind, sm_vector(m));
        }
    }
}

/* A 48-bit far pointer wants the alignment of its offset. */
static void test_far_pointer_alignment(void **state) {
    (void)state;
    sm_setup(m, SM_COMPAT, 3);
    m->s.cr0 |= CR0_AM;
    m->s.rflags |= FLAG_AC;
    sm_put(m, SM_DATA + 4, 6, 0); /* a null selector */
    sm_hex(m, SM_CODE, "c40504000400 0f0b");
    run_to_vector(EXC_UD);
    sm_setup(m, SM_COMPAT, 3);
    m->s.cr0 |= CR0_AM;
    m->s.rflags |= FLAG_AC;
    sm_hex(m, SM_CODE, "c40502000400 0f0b");
    run_to_vector(EXC_AC);
}

/* A LOCKed instruction over a cache line's end that hits code of the same page is noticed. */
static void test_split_lock_code(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    /* 40 bytes in: the loop at +62 is `inc eax; nop`, which the split lock turns into `nop; hlt` */
    m->s.gpr[GPR_RDI] = SM_CODE + 62;
    sm_hex(m, SM_CODE, "e83900000000 f0 8107 00000000 90"); /* call +62; lock add [rdi], 0 */
    sm_hex(m, SM_CODE + 5, "f0 810700000000 90 e82c000000 f4");
    sm_hex(m, SM_CODE + 62, "9090 9090 c3");
    sm_put(m, SM_CODE + 8, 4, 0x64649090u - 0x90909090u); /* 90 90 -> 90 90 64 64 */
    run_to_hlt(SM_CODE + 18);
    assert_int_equal(sm_get(m, SM_CODE + 62, 4), 0x64649090u);
}

/* LOCKed instructions over the end of a cache line and of a page, in a loop so that they are
 * translated: a host that detects split locks must not see one. And #AC where the guest asks. */
static void test_split_lock(void **state) {
    static const u64 at[] = {0x40000 + 62, 0x40000 + 0xffe, 0x40000 + 57};
    (void)state;
    for (u32 i = 0; i < ARRAY_LEN(at); i++) {
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RDI] = at[i];
        m->s.gpr[GPR_RCX] = 300;
        m->s.gpr[GPR_RBX] = 1;
        /* lock inc dword [rdi]; lock xadd [rdi+8], ebx; xchg [rdi+64], rbx; dec ecx; jnz */
        sm_hex(m, SM_CODE, "f0 ff07 f0 0fc15f08 48 875f40 ffc9 75f0 f4");
        run_to_hlt(SM_CODE + 16);
        assert_int_equal(sm_get(m, at[i], 4), 300);
        assert_int_not_equal(sm_get(m, at[i] + 8, 4), 0);
        sm_setup(m, SM_LONG, 3);
        m->s.cr0 |= CR0_AM;
        m->s.rflags |= FLAG_AC;
        m->s.gpr[GPR_RDI] = at[i];
        sm_hex(m, SM_CODE, "f0 ff07");
        run_to_vector(EXC_AC);
        assert_int_equal(sm_get(m, at[i], 4), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tsc_written),
        cmocka_unit_test(test_tsc_restored),
        cmocka_unit_test(test_wrpkru),
        cmocka_unit_test(test_compat_high_tables),
        cmocka_unit_test(test_pop_esp),
        cmocka_unit_test(test_wrap16),
        cmocka_unit_test(test_expand_down),
        cmocka_unit_test(test_ud_first),
        cmocka_unit_test(test_far_pointer_alignment),
        cmocka_unit_test(test_split_lock_code),
        cmocka_unit_test(test_split_lock),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
