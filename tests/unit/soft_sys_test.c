/* SPDX-License-Identifier: Apache-2.0 */
/* System instructions that transfer control: far transfers through every kind of gate, IRET and RET
 * flavours, task switches, fast system calls. The others: soft_sysreg_test.c. */
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

/* Runs to a HLT at rip (the address of the HLT). */
static void run_to_hlt(u64 rip) {
    enum exit_kind kind = sm_run(m);
    if (kind != EXIT_HLT || m->s.rip != rip + 1) {
        fail_msg("wanted HLT at %llx: exit %d at %x:%llx, vector %d", (unsigned long long)rip,
                 (int)kind, m->s.seg[SEG_CS].sel, (unsigned long long)m->s.rip, sm_vector(m));
    }
}

static void expect_fault(int vector, u64 error, u32 size) {
    run_to_vector(vector);
    assert_int_equal(sm_frame(m, 0, size), error);
}

/* --- far JMP -----------------------------------------------------------------------------------
 */

static void test_jmp_modes(void **state) {
    (void)state;
    /* 32-bit to 16-bit code and back */
    sm_setup(m, SM_PROT32, 0);
    sm_hex(m, SM_CODE, "ea 00000400 3800");
    sm_hex(m, SM_DATA, "66ea 10000400 1800");
    sm_hex(m, SM_DATA + 16, "f4");
    run_to_hlt(SM_DATA + 16);
    assert_int_equal(m->s.seg[SEG_CS].sel, SEL_CS32);
    /* compatibility to 64-bit mode and back by a far pointer in memory */
    sm_setup(m, SM_COMPAT, 0);
    sm_hex(m, SM_CODE, "ea 00000400 0800");
    sm_put(m, SM_DATA + 0x100, 8, SM_DATA + 0x200);
    sm_put(m, SM_DATA + 0x104, 2, SEL_CS32);
    sm_hex(m, SM_DATA, "ff2c2500010400");
    sm_hex(m, SM_DATA + 0x200, "f4");
    run_to_hlt(SM_DATA + 0x200);
    assert_int_equal(m->s.seg[SEG_CS].attr & SEG_ATTR_L, 0);
    /* conforming code keeps CPL, and the selector's RPL is replaced by it */
    sm_setup(m, SM_PROT32, 3);
    sm_hex(m, SM_CODE, "ea 00000400 4800");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 1, 4), SEL_CONF | 3);
    /* real mode */
    sm_setup(m, SM_REAL, 0);
    sm_hex(m, SM_CODE, "ea 34120040");
    sm_hex(m, SM_DATA + 0x1234, "f4");
    run_to_hlt(0x1234);
    assert_int_equal(m->s.seg[SEG_CS].base, SM_DATA);
}

static void test_jmp_faults(void **state) {
    static const struct {
        u16 sel;
        u32 cpl;
        int vector;
        u32 error;
    } rows[] = {
        {SEL_UCS32 | 3, 0, 13, SEL_UCS32}, /* DPL above CPL */
        {SEL_CS32, 3, 13, SEL_CS32},       /* DPL below CPL */
        {SEL_CS32 | 3, 0, 13, SEL_CS32},   /* RPL above CPL */
        {SEL_UCONF, 0, 13, SEL_UCONF},     /* conforming, DPL above CPL */
        {SEL_NP_CODE, 0, 11, SEL_NP_CODE},
        {SEL_LDT, 0, 13, SEL_LDT},
        {SEL_TSS, 0, 13, SEL_TSS}, /* busy */
        {0x4, 0, 13, 0x4},         /* LDT, entry 0: no descriptor type 0 */
        {0x84, 0, 13, 0x84},       /* beyond the LDT */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_PROT32, rows[i].cpl);
        sm_hex(m, SM_CODE, "ea 00000400 0000");
        sm_put(m, SM_CODE + 5, 2, rows[i].sel);
        expect_fault(rows[i].vector, rows[i].error, 4);
    }
    /* beyond the target's limit */
    sm_setup(m, SM_PROT32, 0);
    sm_gdt(m, SEL_GATE, sm_desc(0, 0xffff, 0x9b, 4));
    sm_hex(m, SM_CODE, "ea 00000100 9000");
    expect_fault(13, 0, 4);
    /* L and D both set */
    sm_setup(m, SM_COMPAT, 0);
    sm_gdt(m, SEL_GATE, sm_desc(0, 0xfffff, 0x9b, 0xe));
    sm_hex(m, SM_CODE, "ea 00000400 9000");
    expect_fault(13, SEL_GATE, 8);
}

/* --- call gates --------------------------------------------------------------------------------
 */

static void call_gate(u16 sel, u64 offset, u32 access, u32 count, bool wide) {
    sm_gate(m, SM_GDT + SEL_GATE, sel, offset, access, count, wide);
}

static void test_call_gate32(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 3);
    call_gate(SEL_CS32, SM_DATA, 0xec, 2, false);
    sm_hex(m, SM_CODE, "6a11 6a22 9a 00000000 9300 0f0b"); /* push, push, call far */
    sm_hex(m, SM_DATA, "f4 ca0800");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_RSP0 - 24);
    static const u32 want[] = {SM_CODE + 11, SEL_UCS32 | 3, 0x22, 0x11, SM_USTACK - 8, SEL_UDS | 3};
    for (u32 i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(sm_frame(m, i, 4), want[i]);
    }
    assert_int_equal(m->s.seg[SEG_CS].sel, SEL_CS32);
    assert_int_equal(m->s.seg[SEG_SS].sel, SEL_DS);
    /* RETF 8 to the outer level drops the parameters on both stacks and nulls DS (DPL 0) */
    m->s.seg[SEG_DS].sel = SEL_DS;
    m->s.seg[SEG_DS].attr = 0xc093;
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), SM_CODE + 11);
    assert_int_equal(sm_frame(m, 3, 4), SM_USTACK);
    assert_int_equal(m->s.seg[SEG_DS].sel, 0);
    assert_true(m->s.seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
    assert_int_equal(m->s.seg[SEG_ES].sel, SEL_UDS | 3);
}

static void test_call_gate16(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 0); /* same level through a 16-bit gate: 16-bit frame */
    call_gate(SEL_CS32, 0xc123, 0x84, 0, false);
    sm_hex(m, 0xc123, "f4");
    sm_hex(m, SM_CODE, "9a 00000000 9000");
    run_to_hlt(0xc123);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - 4);
    assert_int_equal(sm_frame(m, 0, 2), (SM_CODE + 7) & 0xffff);
    assert_int_equal(sm_frame(m, 1, 2), SEL_CS32);
}

static void test_call_gate64(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 3);
    call_gate(SEL_CS64, SM_DATA, 0xec, 0, true);
    sm_put(m, SM_DATA + 0x104, 2, SEL_GATE | 3);
    sm_hex(m, SM_CODE, "ff1c2500010400 0f0b");
    sm_hex(m, SM_DATA, "f4 48cb");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_RSP0 - 32);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 7);
    assert_int_equal(sm_frame(m, 1, 8), SEL_UCS64 | 3);
    assert_int_equal(sm_frame(m, 2, 8), SM_USTACK);
    assert_int_equal(sm_frame(m, 3, 8), SEL_UDS | 3);
    assert_int_equal(m->s.seg[SEG_SS].sel, 0);
    run_to_vector(6); /* REX.W RETF back to user */
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 7);
    assert_int_equal(sm_frame(m, 3, 8), SM_USTACK);
    /* a gate to compatibility code, or with a type in its upper half */
    sm_setup(m, SM_LONG, 0);
    call_gate(SEL_CS32, SM_DATA, 0x8c, 0, true);
    sm_put(m, SM_DATA + 0x104, 2, SEL_GATE);
    sm_hex(m, SM_CODE, "ff1c2500010400");
    expect_fault(13, SEL_CS32, 8);
    sm_setup(m, SM_LONG, 0);
    call_gate(SEL_CS64, SM_DATA, 0x8c, 0, true);
    sm_put(m, SM_GDT + SEL_GATE + 13, 1, 1);
    sm_put(m, SM_DATA + 0x104, 2, SEL_GATE);
    sm_hex(m, SM_CODE, "ff1c2500010400");
    expect_fault(13, SEL_GATE, 8);
}

static void test_call_gate_faults(void **state) {
    static const struct {
        u16 sel, target;
        u32 access;
        int vector;
        u32 error;
    } rows[] = {
        {SEL_GATE | 3, SEL_CS32, 0x8c, 13, SEL_GATE}, /* DPL 0 from CPL 3 */
        {SEL_GATE | 3, SEL_CS32, 0x6c, 11, SEL_GATE}, /* not present */
        {SEL_GATE | 3, 0, 0xec, 13, 0},               /* null target */
        {SEL_GATE | 3, SEL_DS, 0xec, 13, SEL_DS},     /* data */
        {SEL_GATE | 3, 0x2000, 0xec, 13, 0x2000},     /* beyond the table */
        {SEL_GATE | 3, SEL_NP_CODE, 0xec, 11, SEL_NP_CODE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_PROT32, 3);
        call_gate(rows[i].target, SM_DATA, rows[i].access, 0, false);
        sm_hex(m, SM_CODE, "9a 00000000 0000");
        sm_put(m, SM_CODE + 5, 2, rows[i].sel);
        expect_fault(rows[i].vector, rows[i].error, 4);
        assert_int_equal(sm_frame(m, 1, 4), SM_CODE);
    }
    /* JMP through a gate may not change the level */
    sm_setup(m, SM_PROT32, 3);
    call_gate(SEL_CS32, SM_DATA, 0xec, 0, false);
    sm_hex(m, SM_CODE, "ea 00000000 9300");
    expect_fault(13, SEL_CS32, 4);
    /* bad stacks in the TSS for level 1; the handlers' level 0 has a good one */
    static const struct {
        u16 ss;
        int vector;
        u32 error;
    } stacks[] = {
        {0, 10, 0},
        {SEL_UDS | 3, 10, SEL_UDS},         /* RPL and DPL 3 */
        {SEL_DS | 1, 10, SEL_DS},           /* DPL 0 */
        {SEL_RO | 1, 10, SEL_RO},           /* not writable */
        {0x1231, 10, 0x1230},               /* beyond the table */
        {SEL_NP_DATA | 1, 12, SEL_NP_DATA}, /* not present */
    };
    for (size_t i = 0; i < ARRAY_LEN(stacks); i++) {
        sm_setup(m, SM_PROT32, 3);
        call_gate(SEL_CS1, SM_DATA, 0xec, 0, false);
        sm_gdt(m, SEL_NP_DATA, sm_desc(0, 0xfffff, 0x33, 0xc));
        sm_put(m, SM_TSS + 16, 2, stacks[i].ss);
        sm_hex(m, SM_CODE, "9a 00000000 9300");
        expect_fault(stacks[i].vector, stacks[i].error, 4);
    }
}

/* --- RETF, IRET --------------------------------------------------------------------------------
 */

static void test_iret_long(void **state) {
    (void)state;
    /* to user, with everything in RFLAGS that may be set */
    sm_setup(m, SM_LONG, 0);
    u64 out[] = {SM_DATA, SEL_UCS64 | 3, 0x3c7fd7 & ~(u64)(FLAG_TF | FLAG_NT), SM_USTACK,
                 SEL_UDS | 3};
    sm_push_frame(m, 8, out, 5);
    sm_hex(m, SM_CODE, "48cf");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 8), SM_DATA);
    assert_int_equal(sm_frame(m, 1, 8), SEL_UCS64 | 3);
    assert_int_equal(sm_frame(m, 2, 8) & (FLAG_IOPL | FLAG_IF | FLAG_AC | FLAG_ID | FLAG_CF),
                     FLAG_IOPL | FLAG_IF | FLAG_AC | FLAG_ID | FLAG_CF);
    assert_int_equal(sm_frame(m, 3, 8), SM_USTACK);
    /* same level in 64-bit mode pops SS:RSP too, null SS allowed */
    sm_setup(m, SM_LONG, 0);
    u64 same[] = {SM_DATA, SEL_CS64, 2, SM_STACK - 0x100, 0};
    sm_push_frame(m, 8, same, 5);
    sm_hex(m, SM_CODE, "48cf");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - 0x100);
    assert_true(m->s.seg[SEG_SS].attr & SEG_ATTR_UNUSABLE);
    /* to compatibility mode */
    sm_setup(m, SM_LONG, 0);
    u64 compat[] = {SM_DATA, SEL_UCS32 | 3, 2, SM_USTACK, SEL_UDS | 3};
    sm_push_frame(m, 8, compat, 5);
    sm_hex(m, SM_CODE, "48cf");
    sm_hex(m, SM_DATA, "48 0f0b"); /* dec eax there */
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 8), SM_DATA + 1);
}

static void test_iret_long_faults(void **state) {
    static const struct {
        u64 rip, cs, flags, ss;
        int vector;
        u32 error;
    } rows[] = {
        {SM_DATA, 0, 2, SEL_UDS | 3, 13, 0},
        {SM_DATA, SEL_DS, 2, SEL_UDS | 3, 13, SEL_DS},
        {SM_DATA, SEL_NP_CODE, 2, SEL_DS, 11, SEL_NP_CODE},
        {0x800000000000ull, SEL_UCS64 | 3, 2, SEL_UDS | 3, 13, 0},
        {SM_DATA, SEL_UCS64 | 3, 2, 3, 13, 0},           /* null SS to level 3 */
        {SM_DATA, SEL_UCS64 | 3, 2, SEL_DS, 13, SEL_DS}, /* SS of another level */
        {SM_DATA, SEL_UCS64 | 3, 2, SEL_DS | 3, 13, SEL_DS},
        {SM_DATA, SEL_CS32, 2, 0, 13, 0}, /* null SS to compatibility mode */
        {SM_DATA, SEL_CS64, 2, SEL_NP_DATA, 12, SEL_NP_DATA},
        {SM_DATA, SEL_CS64 | 3, 2, SEL_UDS | 3, 13, SEL_CS64},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_LONG, 0);
        u64 f[] = {rows[i].rip, rows[i].cs, rows[i].flags, SM_USTACK, rows[i].ss};
        sm_push_frame(m, 8, f, 5);
        sm_hex(m, SM_CODE, "48cf");
        run_to_vector(rows[i].vector);
        assert_int_equal(sm_frame(m, 0, 8), rows[i].error);
        assert_int_equal(sm_frame(m, 1, 8), SM_CODE);
        assert_int_equal(sm_frame(m, 4, 8), SM_STACK - 40); /* RSP as before IRET */
    }
    /* NT in long mode */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_NT;
    sm_hex(m, SM_CODE, "48cf");
    expect_fault(13, 0, 8);
}

static void test_iret_prot(void **state) {
    (void)state;
    /* outer level; IOPL and IF load at CPL 0 */
    sm_setup(m, SM_PROT32, 0);
    u64 out[] = {SM_DATA, SEL_UCS32 | 3, 2 | FLAG_IF | FLAG_IOPL, SM_USTACK, SEL_UDS | 3};
    sm_push_frame(m, 4, out, 5);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "fa fb 0f0b"); /* allowed by IOPL 3 */
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), SM_DATA + 2);
    assert_int_equal(m->s.seg[SEG_DS].sel, 0); /* DPL 0 data became null */
    /* at CPL 3 with IOPL 0 neither IF nor IOPL changes */
    sm_setup(m, SM_PROT32, 3);
    u64 same[] = {SM_DATA, SEL_UCS32 | 3, 2 | FLAG_IF | FLAG_IOPL | FLAG_CF};
    sm_push_frame(m, 4, same, 3);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 2, 4) & (FLAG_IF | FLAG_IOPL | FLAG_CF), FLAG_CF);
    /* to an inner level: #GP */
    sm_setup(m, SM_PROT32, 3);
    u64 inner[] = {SM_DATA, SEL_CS32, 2};
    sm_push_frame(m, 4, inner, 3);
    sm_hex(m, SM_CODE, "cf");
    expect_fault(13, SEL_CS32, 4);
    /* to a 16-bit stack: the upper half of ESP stays */
    sm_setup(m, SM_PROT32, 0);
    sm_gdt(m, SEL_DS1, sm_desc(0, 0xfffff, 0xf3, 0x8));
    u64 small[] = {SM_DATA, SEL_UCS32 | 3, 2, 0x77775000, SEL_DS1 | 3};
    sm_push_frame(m, 4, small, 5);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 3, 4), ((SM_STACK - 20) & 0xffff0000) | 0x5000);
    /* to V86 */
    sm_setup(m, SM_PROT32, 0);
    u64 v86[] = {0x10, SM_DATA >> 4, 2 | FLAG_VM, 0x800, 0x3000, 0x1111, 0x2222, 0x3333, 0x4444};
    sm_push_frame(m, 4, v86, 9);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA + 0x10, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), 0x10);
    assert_int_equal(sm_frame(m, 5, 4), 0x1111);
    assert_int_equal(sm_frame(m, 8, 4), 0x4444);
}

static void test_iret_real(void **state) {
    (void)state;
    sm_setup(m, SM_REAL, 0);
    u64 f[] = {0x20, SM_DATA >> 4, FLAG_IF | FLAG_IOPL | FLAG_CF};
    sm_push_frame(m, 2, f, 3);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA + 0x20, "f4");
    run_to_hlt(0x20);
    assert_int_equal(m->s.rflags, 2 | FLAG_IF | FLAG_IOPL | FLAG_CF);
    assert_int_equal(m->s.gpr[GPR_RSP], 0x1000);
}

static void test_retf(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    u64 f[] = {SM_DATA, SEL_CS32};
    sm_push_frame(m, 4, f, 2);
    sm_hex(m, SM_CODE, "ca1000"); /* 4-byte operands, 16 bytes dropped */
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK + 16);
    assert_int_equal(m->s.seg[SEG_CS].sel, SEL_CS32);
    sm_setup(m, SM_LONG, 3);
    u64 inner[] = {SM_DATA, SEL_CS64};
    sm_push_frame(m, 8, inner, 2);
    sm_hex(m, SM_CODE, "48cb");
    expect_fault(13, SEL_CS64, 8);
}

/* --- tasks -------------------------------------------------------------------------------------
 */

static void make_tss2(u64 eip) {
    sm_put(m, SM_TSS2 + 32, 4, eip);
    sm_put(m, SM_TSS2 + 36, 4, 2);
    sm_put(m, SM_TSS2 + 40, 4, 0x11223344);
    sm_put(m, SM_TSS2 + 56, 4, SM_IST1);
    for (u32 i = 0; i < 6; i++) {
        sm_put(m, SM_TSS2 + 72 + i * 4, 2, i == SEG_CS ? SEL_CS32 : SEL_DS);
    }
    sm_put(m, SM_TSS2 + 96, 2, SEL_LDT);
}

static void test_tasks(void **state) {
    (void)state;
    /* JMP: the old task is no longer busy, no link, no NT */
    sm_setup(m, SM_PROT32, 0);
    make_tss2(SM_DATA);
    sm_hex(m, SM_CODE, "ea 00000000 a800");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RAX], 0x11223344);
    assert_int_equal(m->s.tr.sel, SEL_TSS2);
    assert_int_equal(sm_get(m, SM_GDT + SEL_TSS + 5, 1), 0x89);
    assert_int_equal(sm_get(m, SM_GDT + SEL_TSS2 + 5, 1), 0x8b);
    assert_int_equal(m->s.rflags & FLAG_NT, 0);
    /* CALL and IRET back */
    sm_setup(m, SM_PROT32, 0);
    make_tss2(SM_DATA);
    m->s.gpr[GPR_RBX] = 0x5555;
    sm_hex(m, SM_CODE, "9a 00000000 a800 f4");
    sm_hex(m, SM_DATA, "ffc3 cf");
    run_to_hlt(SM_CODE + 7);
    assert_int_equal(m->s.gpr[GPR_RBX], 0x5555);
    assert_int_equal(m->s.tr.sel, SEL_TSS);
    assert_int_equal(sm_get(m, SM_GDT + SEL_TSS2 + 5, 1), 0x89);
    assert_int_equal(sm_get(m, SM_TSS2 + 52, 4), 1); /* ebx of the other task */
    assert_int_equal(sm_get(m, SM_TSS2 + 32, 4), SM_DATA + 3);
    assert_int_equal(m->s.rflags & FLAG_NT, 0);
    /* through a task gate in the GDT */
    sm_setup(m, SM_PROT32, 0);
    make_tss2(SM_DATA);
    sm_gate(m, SM_GDT + SEL_TASKGATE, SEL_TSS2, 0, 0x85, 0, false);
    sm_hex(m, SM_CODE, "9a 00000000 a000 f4");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_true(m->s.rflags & FLAG_NT);
    assert_int_equal(sm_get(m, SM_TSS2, 2), SEL_TSS);
    /* faults of the new task come at its first instruction */
    static const struct {
        u8 seg;
        u16 sel;
        int vector;
        u32 error;
    } rows[] = {
        {SEG_DS, SEL_NP_DATA, 11, SEL_NP_DATA},
        {SEG_DS, SEL_XO, 10, SEL_XO},
        {SEG_FS, 0x2228, 10, 0x2228},
        {SEG_GS, SEL_CS1, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows) && rows[i].vector; i++) {
        sm_setup(m, SM_PROT32, 0);
        make_tss2(SM_DATA);
        sm_put(m, SM_TSS2 + 72 + rows[i].seg * 4u, 2, rows[i].sel);
        sm_hex(m, SM_CODE, "ea 00000000 a800");
        expect_fault(rows[i].vector, rows[i].error, 4);
        assert_int_equal(sm_frame(m, 1, 4), SM_DATA);
        assert_int_equal(m->s.tr.sel, SEL_TSS2);
    }
    /* a TSS that is too small */
    sm_setup(m, SM_PROT32, 0);
    sm_gdt(m, SEL_TSS2, sm_desc(SM_TSS2, 0x66, 0x89, 0));
    sm_hex(m, SM_CODE, "ea 00000000 a800");
    expect_fault(10, SEL_TSS2, 4);
    assert_int_equal(m->s.tr.sel, SEL_TSS);
    /* not in long mode */
    sm_setup(m, SM_COMPAT, 0);
    sm_hex(m, SM_CODE, "ea 00000000 a800");
    expect_fault(13, SEL_TSS2, 8);
    /* IRET with NT and a bad link */
    sm_setup(m, SM_PROT32, 0);
    m->s.rflags |= FLAG_NT;
    sm_put(m, SM_TSS, 2, SEL_TSS2);
    sm_hex(m, SM_CODE, "cf");
    expect_fault(10, SEL_TSS2, 4); /* not busy */
    /* the T flag */
    sm_setup(m, SM_PROT32, 0);
    make_tss2(SM_DATA);
    sm_put(m, SM_TSS2 + 100, 2, 1);
    sm_hex(m, SM_CODE, "ea 00000000 a800");
    sm_hex(m, SM_DATA, "f4");
    run_to_vector(1);
    assert_true(m->s.dr6 & BIT(15));
    assert_int_equal(sm_frame(m, 0, 4), SM_DATA);
}

/* --- fast system calls -------------------------------------------------------------------------
 */

static void test_syscall(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 3);
    m->s.msr.star = (u64)(SEL_UCS32 | 3) << 48 | (u64)SEL_CS64 << 32;
    m->s.msr.lstar = SM_DATA;
    m->s.msr.sfmask = FLAG_IF | FLAG_DF;
    m->s.rflags |= FLAG_IF | FLAG_DF | FLAG_CF;
    sm_hex(m, SM_CODE, "0f05 0f0b");
    sm_hex(m, SM_DATA, "f4 480f07");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RCX], SM_CODE + 2);
    assert_int_equal(m->s.gpr[GPR_R11], 2 | FLAG_IF | FLAG_DF | FLAG_CF);
    assert_int_equal(m->s.rflags, 2 | FLAG_CF);
    assert_int_equal(m->s.seg[SEG_CS].sel, SEL_CS64);
    assert_int_equal(m->s.seg[SEG_SS].sel, SEL_DS);
    assert_int_equal(m->s.seg[SEG_CS].attr, 0xa09b);
    run_to_vector(6); /* SYSRET, then UD2 in user mode */
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 2);
    assert_int_equal(sm_frame(m, 1, 8), SEL_UCS64 | 3);
    assert_int_equal(sm_frame(m, 2, 8) & (FLAG_IF | FLAG_DF | FLAG_CF),
                     FLAG_IF | FLAG_DF | FLAG_CF);
    assert_int_equal(sm_frame(m, 4, 8), SEL_UDS | 3);
    /* to compatibility mode without REX.W */
    sm_setup(m, SM_LONG, 0);
    m->s.msr.star = (u64)(SEL_UCS32 | 3) << 48;
    m->s.gpr[GPR_RCX] = 0xffffffff00000000ull | SM_DATA;
    m->s.gpr[GPR_R11] = 2;
    sm_hex(m, SM_CODE, "0f07");
    sm_hex(m, SM_DATA, "480f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 8), SM_DATA + 1);
    assert_int_equal(sm_frame(m, 1, 8), SEL_UCS32 | 3);
    /* non-canonical RCX: #GP at CPL 0 */
    sm_setup(m, SM_LONG, 0);
    m->s.gpr[GPR_RCX] = 0x800000000000ull;
    sm_hex(m, SM_CODE, "480f07");
    expect_fault(13, 0, 8);
    assert_int_equal(sm_frame(m, 2, 8), SEL_CS64);
    /* SCE clear */
    sm_setup(m, SM_LONG, 0);
    m->s.msr.efer &= ~(u64)EFER_SCE;
    sm_hex(m, SM_CODE, "0f05");
    run_to_vector(6);
}

static void test_sysenter(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 3);
    m->s.msr.sysenter_cs = SEL_CS32;
    m->s.msr.sysenter_eip = SM_DATA;
    m->s.msr.sysenter_esp = SM_RSP0;
    m->s.rflags |= FLAG_IF;
    sm_hex(m, SM_CODE, "0f34");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_RSP0);
    assert_int_equal(m->s.seg[SEG_SS].sel, SEL_CS32 + 8);
    assert_int_equal(m->s.rflags & FLAG_IF, 0);
    sm_setup(m, SM_PROT32, 0);
    m->s.msr.sysenter_cs = SEL_DS; /* exit: cs 0x20, ss 0x28 */
    m->s.gpr[GPR_RDX] = SM_DATA;
    m->s.gpr[GPR_RCX] = SM_USTACK;
    sm_hex(m, SM_CODE, "0f35");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), SM_DATA);
    assert_int_equal(sm_frame(m, 1, 4), SEL_UCS32 | 3);
    assert_int_equal(sm_frame(m, 3, 4), SM_USTACK);
    sm_setup(m, SM_PROT32, 3);
    sm_hex(m, SM_CODE, "0f34"); /* no MSR set */
    expect_fault(13, 0, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jmp_modes),   cmocka_unit_test(test_jmp_faults),
        cmocka_unit_test(test_call_gate32), cmocka_unit_test(test_call_gate16),
        cmocka_unit_test(test_call_gate64), cmocka_unit_test(test_call_gate_faults),
        cmocka_unit_test(test_iret_long),   cmocka_unit_test(test_iret_long_faults),
        cmocka_unit_test(test_iret_prot),   cmocka_unit_test(test_iret_real),
        cmocka_unit_test(test_retf),        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_syscall),     cmocka_unit_test(test_sysenter),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
