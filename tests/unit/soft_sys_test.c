/* SPDX-License-Identifier: Apache-2.0 */
/* System instructions: far transfers through every kind of gate, IRET and RET flavours, task
 * switches, fast system calls, control registers, descriptor instructions, UMIP, flags. */
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

static void push_frame(u32 size, const u64 *words, u32 count) {
    m->s.gpr[GPR_RSP] -= (u64)size * count;
    for (u32 i = 0; i < count; i++) {
        sm_put(m, m->s.seg[SEG_SS].base + m->s.gpr[GPR_RSP] + i * size, size, words[i]);
    }
}

static void test_iret_long(void **state) {
    (void)state;
    /* to user, with everything in RFLAGS that may be set */
    sm_setup(m, SM_LONG, 0);
    u64 out[] = {SM_DATA, SEL_UCS64 | 3, 0x3c7fd7 & ~(u64)(FLAG_TF | FLAG_NT), SM_USTACK,
                 SEL_UDS | 3};
    push_frame(8, out, 5);
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
    push_frame(8, same, 5);
    sm_hex(m, SM_CODE, "48cf");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - 0x100);
    assert_true(m->s.seg[SEG_SS].attr & SEG_ATTR_UNUSABLE);
    /* to compatibility mode */
    sm_setup(m, SM_LONG, 0);
    u64 compat[] = {SM_DATA, SEL_UCS32 | 3, 2, SM_USTACK, SEL_UDS | 3};
    push_frame(8, compat, 5);
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
        push_frame(8, f, 5);
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
    push_frame(4, out, 5);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "fa fb 0f0b"); /* allowed by IOPL 3 */
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), SM_DATA + 2);
    assert_int_equal(m->s.seg[SEG_DS].sel, 0); /* DPL 0 data became null */
    /* at CPL 3 with IOPL 0 neither IF nor IOPL changes */
    sm_setup(m, SM_PROT32, 3);
    u64 same[] = {SM_DATA, SEL_UCS32 | 3, 2 | FLAG_IF | FLAG_IOPL | FLAG_CF};
    push_frame(4, same, 3);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 2, 4) & (FLAG_IF | FLAG_IOPL | FLAG_CF), FLAG_CF);
    /* to an inner level: #GP */
    sm_setup(m, SM_PROT32, 3);
    u64 inner[] = {SM_DATA, SEL_CS32, 2};
    push_frame(4, inner, 3);
    sm_hex(m, SM_CODE, "cf");
    expect_fault(13, SEL_CS32, 4);
    /* to a 16-bit stack: the upper half of ESP stays */
    sm_setup(m, SM_PROT32, 0);
    sm_gdt(m, SEL_DS1, sm_desc(0, 0xfffff, 0xf3, 0x8));
    u64 small[] = {SM_DATA, SEL_UCS32 | 3, 2, 0x77775000, SEL_DS1 | 3};
    push_frame(4, small, 5);
    sm_hex(m, SM_CODE, "cf");
    sm_hex(m, SM_DATA, "0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 3, 4), ((SM_STACK - 20) & 0xffff0000) | 0x5000);
    /* to V86 */
    sm_setup(m, SM_PROT32, 0);
    u64 v86[] = {0x10, SM_DATA >> 4, 2 | FLAG_VM, 0x800, 0x3000, 0x1111, 0x2222, 0x3333, 0x4444};
    push_frame(4, v86, 9);
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
    push_frame(2, f, 3);
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
    push_frame(4, f, 2);
    sm_hex(m, SM_CODE, "ca1000"); /* 4-byte operands, 16 bytes dropped */
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK + 16);
    assert_int_equal(m->s.seg[SEG_CS].sel, SEL_CS32);
    sm_setup(m, SM_LONG, 3);
    u64 inner[] = {SM_DATA, SEL_CS64};
    push_frame(8, inner, 2);
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

/* --- control registers -------------------------------------------------------------------------
 */

struct cr_row {
    enum sm_mode mode;
    const char *code; /* mov crN, rax */
    u64 value;
    int vector; /* -1: taken */
};

static void test_cr_checks(void **state) {
    static const char cr0[] = "0f22c0 f4", cr3[] = "0f22d8 f4", cr4[] = "0f22e0 f4",
                      cr8[] = "440f22c0 f4", cr1[] = "0f22c8 f4";
    static const struct cr_row rows[] = {
        {SM_LONG, cr0, CR0_PG | CR0_PE | CR0_WP, -1},
        {SM_LONG, cr0, CR0_PG, 13},                   /* PG without PE */
        {SM_LONG, cr0, CR0_PE, 13},                   /* paging off in 64-bit mode */
        {SM_LONG, cr0, CR0_PG | CR0_PE | CR0_NW, 13}, /* NW without CD */
        {SM_LONG, cr0, CR0_PG | CR0_PE | BIT(32), 13},
        {SM_PROT32, cr0, CR0_PE | CR0_CD | CR0_NW, -1},
        {SM_LONG, cr3, SM_PT, -1},
        {SM_LONG, cr3, SM_PT | BIT(62), 13},
        {SM_LONG, cr3, SM_PT | BIT(63), 13}, /* without PCIDE */
        {SM_LONG, cr4, CR4_PAE | CR4_PGE | CR4_OSFXSR, -1},
        {SM_LONG, cr4, 0, 13},                 /* PAE off in long mode */
        {SM_LONG, cr4, CR4_PAE | BIT(13), 13}, /* VMXE */
        {SM_LONG, cr4, CR4_PAE | BIT(23), 13}, /* CET */
        {SM_LONG, cr4, CR4_PAE | CR4_LA57, 13},
        {SM_LONG, cr4, CR4_PAE | BIT(40), 13},
        {SM_PROT32, cr4, CR4_PCIDE, 13}, /* outside long mode */
        {SM_PROT32, cr4, CR4_PAE, -1},
        {SM_LONG, cr8, 5, -1},
        {SM_LONG, cr8, 16, 13},
        {SM_LONG, cr1, 0, 6},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, rows[i].mode, 0);
        m->s.gpr[GPR_RAX] = rows[i].value;
        u64 before = m->s.cr0 ^ m->s.cr4 << 1 ^ m->s.cr3 << 2;
        sm_hex(m, SM_CODE, rows[i].code);
        enum exit_kind kind = sm_run(m);
        int vector = sm_vector(m);
        if (kind != EXIT_HLT || vector != rows[i].vector) {
            fail_msg("row %zu: exit %d vector %d", i, (int)kind, vector);
        }
        if (vector >= 0) {
            assert_int_equal(before, m->s.cr0 ^ m->s.cr4 << 1 ^ m->s.cr3 << 2);
        }
    }
    /* reads, and CR8 reaches the machine */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "b807000000 440f22c0 440f20c1 0f20e2 0f20c3 f4");
    run_to_hlt(SM_CODE + 19);
    assert_int_equal(m->cr8, 7);
    assert_int_equal(m->s.gpr[GPR_RCX], 7);
    assert_int_equal(m->s.gpr[GPR_RDX], m->s.cr4);
    assert_int_equal(m->s.gpr[GPR_RBX], m->s.cr0);
    m->cr8 = 0;
}

static void test_enter_long(void **state) {
    (void)state;
    /* 32-bit protected mode to long mode and back, as boot code does it */
    sm_setup(m, SM_PROT32, 0);
    sm_hex(m, SM_CODE,
           "b820000000 0f22e0"               /* cr4.pae */
           "b800100000 0f22d8"               /* cr3 */
           "b9800000c0 b800010000 31d2 0f30" /* efer.lme */
           "0f20c0 0d00000080 0f22c0"        /* paging: compatibility mode */
           "ea 00000400 0800");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_int_equal(m->s.msr.efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    assert_true(m->s.seg[SEG_CS].attr & SEG_ATTR_L);
    /* LME cannot change while paging is on */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "b9800000c0 31c0 31d2 0f30 f4");
    expect_fault(13, 0, 8);
    /* leaving from compatibility mode clears LMA */
    sm_setup(m, SM_COMPAT, 0);
    sm_hex(m, SM_CODE, "0f20c0 25ffffff7f 0f22c0 f4");
    run_to_hlt(SM_CODE + 11);
    assert_int_equal(m->s.msr.efer & (EFER_LME | EFER_LMA), EFER_LME);
    /* entering without PAE */
    sm_setup(m, SM_PROT32, 0);
    m->s.msr.efer = EFER_LME;
    sm_hex(m, SM_CODE, "0f20c0 0d00000080 0f22c0");
    expect_fault(13, 0, 4);
    /* real mode to protected mode by LMSW, which cannot go back */
    sm_setup(m, SM_REAL, 0);
    m->s.gdtr = (struct desc_table){SM_GDT, SM_GDT_LIMIT};
    sm_hex(m, SM_CODE, "b80100 0f01f0 31c0 0f01f0 0f20c3 66ea 00000400 1800");
    sm_hex(m, SM_DATA, "f4");
    run_to_hlt(SM_DATA);
    assert_true(m->s.gpr[GPR_RBX] & CR0_PE);
    /* PAE without long mode: bad PDPTEs */
    sm_setup(m, SM_PROT32, 0);
    m->s.cr4 = CR4_PAE;
    m->s.cr3 = SM_PT;
    sm_put(m, SM_PT, 8, (SM_PT + 0x1000) | 0x1e7);
    sm_hex(m, SM_CODE, "0f20c0 0d00000080 0f22c0");
    expect_fault(13, 0, 4);
}

/* --- descriptor instructions -------------------------------------------------------------------
 */

struct desc_row {
    u16 sel;
    u32 cpl;
    int lar, lsl, verr, verw; /* ZF */
};

static void test_desc_table(void **state) {
    static const struct desc_row rows[] = {
        {0, 0, 0, 0, 0, 0},
        {SEL_DS, 0, 1, 1, 1, 1},
        {SEL_DS, 3, 0, 0, 0, 0},
        {SEL_DS | 3, 0, 0, 0, 0, 0},
        {SEL_UDS | 3, 3, 1, 1, 1, 1},
        {SEL_RO, 0, 1, 1, 1, 0},
        {SEL_XO, 0, 1, 1, 0, 0},
        {SEL_CS64, 0, 1, 1, 1, 0},
        {SEL_CONF | 3, 3, 1, 1, 1, 0},
        {SEL_NP_DATA, 0, 1, 1, 1, 1},
        {SEL_TSS, 0, 1, 1, 0, 0},
        {SEL_TSS, 3, 0, 0, 0, 0},
        {SEL_LDT, 0, 1, 1, 0, 0},
        {SEL_GATE, 0, 1, 0, 0, 0},     /* call gate */
        {SEL_TASKGATE, 0, 0, 0, 0, 0}, /* task gate: not in long mode */
        {0xf8, 0, 0, 0, 0, 0},         /* type 0 */
        {0x100, 0, 0, 0, 0, 0},        /* beyond the limit */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (int kind = 0; kind < 4; kind++) {
            static const char *const code[] = {"0f02d8", "0f03d8", "0f00e0", "0f00e8"};
            int want = kind == 0   ? rows[i].lar
                       : kind == 1 ? rows[i].lsl
                       : kind == 2 ? rows[i].verr
                                   : rows[i].verw;
            sm_setup(m, SM_LONG, rows[i].cpl);
            sm_gate(m, SM_GDT + SEL_GATE, SEL_CS64, 0, 0x8c, 0, true);
            sm_gate(m, SM_GDT + SEL_TASKGATE, SEL_TSS2, 0, 0x85, 0, false);
            m->s.gpr[GPR_RAX] = rows[i].sel;
            m->s.gpr[GPR_RBX] = 0x1122334455667788ull;
            u32 n = sm_hex(m, SM_CODE, code[kind]);
            sm_hex(m, SM_CODE + n, "0f0b");
            run_to_vector(6);
            bool zf = sm_frame(m, 2, 8) & FLAG_ZF;
            if (zf != (want != 0)) {
                fail_msg("selector %x at CPL %u, kind %d: ZF %d", rows[i].sel, rows[i].cpl, kind,
                         zf);
            }
            if (!zf || kind > 1) {
                assert_int_equal(m->s.gpr[GPR_RBX], 0x1122334455667788ull);
            }
        }
    }
    sm_setup(m, SM_LONG, 0);
    m->s.gpr[GPR_RAX] = SEL_DS;
    sm_hex(m, SM_CODE, "0f02d8 0f03c8 b850000000 0f03d0 f4");
    run_to_hlt(SM_CODE + 14);
    assert_int_equal(m->s.gpr[GPR_RBX], 0xcf9300);
    assert_int_equal(m->s.gpr[GPR_RCX], 0xffffffff);
    assert_int_equal(m->s.gpr[GPR_RDX], 0x67);
}

static void test_ltr_lldt(void **state) {
    static const struct {
        const char *op;
        u16 sel;
        int vector;
        u32 error;
    } rows[] = {
        {"0f00d8", 0, 13, 0},               /* ltr null */
        {"0f00d8", SEL_TSS, 13, SEL_TSS},   /* busy */
        {"0f00d8", SEL_LDT, 13, SEL_LDT},   /* not a TSS */
        {"0f00d8", 4, 13, 4},               /* in the LDT */
        {"0f00d8", 0x100, 13, 0x100},       /* beyond */
        {"0f00d8", SEL_TSS2, 13, SEL_TSS2}, /* upper half has a type */
        {"0f00d0", SEL_TSS, 13, SEL_TSS},   /* lldt of a TSS */
        {"0f00d0", 0xfc, 13, 0xfc},
        {"0f00d0", SEL_LDT, -1, 0},
        {"0f00d0", 0, -1, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RAX] = rows[i].sel;
        sm_put(m, SM_GDT + SEL_LDT + 8, 8, 0);
        u32 n = sm_hex(m, SM_CODE, rows[i].op);
        sm_hex(m, SM_CODE + n, "f4");
        if (rows[i].vector < 0) {
            run_to_hlt(SM_CODE + n);
            assert_int_equal(m->s.ldtr.sel, rows[i].sel);
        } else {
            expect_fault(rows[i].vector, rows[i].error, 8);
        }
    }
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_GDT + SEL_GATE, 8, sm_desc(0x44556677, 0x67, 0x89, 0));
    sm_put(m, SM_GDT + SEL_GATE + 8, 8, 0xffff8000);
    m->s.gpr[GPR_RAX] = SEL_GATE;
    sm_hex(m, SM_CODE, "0f00d8 0f00c9 f4");
    run_to_hlt(SM_CODE + 6);
    assert_true(m->s.tr.base == 0xffff800044556677ull);
    assert_int_equal(m->s.gpr[GPR_RCX], SEL_GATE);
    assert_int_equal(sm_get(m, SM_GDT + SEL_GATE + 5, 1), 0x8b);
}

static void test_tables(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_DATA, 2, 0x1ff);
    sm_put(m, SM_DATA + 2, 8, 0xffff800000001234ull);
    sm_hex(m, SM_CODE, "0f011c2500000400 0f010c2510000400 0f01042520000400 f4");
    run_to_hlt(SM_CODE + 24);
    assert_true(m->s.idtr.base == 0xffff800000001234ull);
    assert_int_equal(m->s.idtr.limit, 0x1ff);
    assert_true(sm_get(m, SM_DATA + 0x12, 8) == 0xffff800000001234ull);
    assert_int_equal(sm_get(m, SM_DATA + 0x20, 2), SM_GDT_LIMIT);
    assert_int_equal(sm_get(m, SM_DATA + 0x22, 8), SM_GDT);
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_DATA + 2, 8, 0x800000000000ull);
    sm_hex(m, SM_CODE, "0f01142500000400");
    expect_fault(13, 0, 8);
    /* 16-bit operand: 24 bits of base */
    sm_setup(m, SM_PROT32, 0);
    sm_put(m, SM_DATA, 2, SM_GDT_LIMIT);
    sm_put(m, SM_DATA + 2, 4, 0xff000000u | SM_GDT);
    sm_hex(m, SM_CODE, "660f011500000400 f4");
    run_to_hlt(SM_CODE + 8);
    assert_int_equal(m->s.gdtr.base, SM_GDT);
}

static void test_umip(void **state) {
    static const char *const code[] = {"0f010c2500000300", "0f01042500000300", "0f00c0", "0f00c8",
                                       "0f01e0"};
    (void)state;
    if (!cpuid_policy_has(&m->policy, "umip")) {
        print_message("SKIP: no umip in the policy\n");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(code); i++) {
        for (int on = 0; on < 2; on++) {
            sm_setup(m, SM_LONG, 3);
            m->s.cr4 |= on ? CR4_UMIP : 0;
            u32 n = sm_hex(m, SM_CODE, code[i]);
            sm_hex(m, SM_CODE + n, "0f0b");
            run_to_vector(on ? 13 : 6);
        }
        sm_setup(m, SM_LONG, 0);
        m->s.cr4 |= CR4_UMIP;
        u32 n = sm_hex(m, SM_CODE, code[i]);
        sm_hex(m, SM_CODE + n, "f4");
        run_to_hlt(SM_CODE + n);
    }
}

/* --- flags -------------------------------------------------------------------------------------
 */

static void test_flags(void **state) {
    (void)state;
    /* popf at CPL 3, IOPL 0: IF and IOPL stay, AC, ID, TF-less the rest goes in */
    sm_setup(m, SM_LONG, 3);
    m->s.rflags |= FLAG_IF;
    u64 f = 0x3ffeff & ~(u64)FLAG_IF;
    push_frame(8, &f, 1);
    sm_hex(m, SM_CODE, "9d 0f0b");
    run_to_vector(6);
    u64 flags = sm_frame(m, 2, 8);
    assert_int_equal(flags & (FLAG_IF | FLAG_IOPL), FLAG_IF);
    assert_int_equal(flags & (FLAG_VM | FLAG_VIF | FLAG_VIP), 0);
    assert_int_equal(flags & (FLAG_AC | FLAG_ID | FLAG_NT | FLAG_DF),
                     FLAG_AC | FLAG_ID | FLAG_NT | FLAG_DF);
    /* 16-bit popf leaves the upper half */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_AC | FLAG_ID;
    f = FLAG_IOPL | FLAG_CF;
    push_frame(2, &f, 1);
    sm_hex(m, SM_CODE, "669d f4");
    run_to_hlt(SM_CODE + 2);
    assert_int_equal(m->s.rflags, 2 | FLAG_AC | FLAG_ID | FLAG_IOPL | FLAG_CF);
    /* pushf shows neither RF nor VM */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_IF | FLAG_ZF;
    sm_hex(m, SM_CODE, "9c f4");
    run_to_hlt(SM_CODE + 1);
    assert_int_equal(sm_frame(m, 0, 8), 2 | FLAG_IF | FLAG_ZF);
    /* SMAP: a supervisor access to a user page needs AC */
    if (cpuid_policy_has(&m->policy, "smap")) {
        sm_setup(m, SM_LONG, 0);
        m->s.cr4 |= CR4_SMAP;
        sm_put(m, SM_PT + 0x2000, 8, 0x83);     /* 0..2M supervisor */
        sm_put(m, SM_PT + 0x2008, 8, 0x200087); /* 2M..4M user */
        sm_hex(m, SM_CODE, "0f01cb 8b042500002000 0f01ca 8b042500002000");
        expect_fault(14, 1, 8);
        assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 13);
        assert_int_equal(m->s.cr2, 0x200000);
    }
    /* VME: cli and sti work on VIF below IOPL 3 */
    if (cpuid_policy_has(&m->policy, "vme")) {
        sm_setup(m, SM_V86, 3);
        m->s.cr4 |= CR4_VME;
        m->s.rflags |= FLAG_IF;
        sm_hex(m, SM_CODE, "fb 9c 58 fa 9c 5b 0f0b");
        run_to_vector(6);
        assert_int_equal(m->s.gpr[GPR_RAX] & (FLAG_IF | FLAG_IOPL), FLAG_IF | FLAG_IOPL);
        assert_int_equal(m->s.gpr[GPR_RBX] & (FLAG_IF | FLAG_IOPL), FLAG_IOPL);
        assert_true(sm_frame(m, 2, 4) & FLAG_IF);
        sm_setup(m, SM_V86, 3);
        m->s.cr4 |= CR4_VME;
        m->s.rflags |= FLAG_VIP;
        sm_hex(m, SM_CODE, "fb");
        expect_fault(13, 0, 4);
    }
}

/* --- segment loads -----------------------------------------------------------------------------
 */

static void test_segments(void **state) {
    (void)state;
    /* the accessed bit */
    sm_setup(m, SM_PROT32, 0);
    sm_gdt(m, SEL_GATE, sm_desc(0x12345678, 0xff, 0x92, 0x4));
    m->s.gpr[GPR_RAX] = SEL_GATE;
    sm_hex(m, SM_CODE, "8ed8 f4");
    run_to_hlt(SM_CODE + 2);
    assert_int_equal(sm_get(m, SM_GDT + SEL_GATE + 5, 1), 0x93);
    assert_int_equal(m->s.seg[SEG_DS].base, 0x12345678);
    assert_int_equal(m->s.seg[SEG_DS].limit, 0xff);
    /* LSS loads both; LFS, LGS */
    sm_setup(m, SM_PROT32, 0);
    sm_put(m, SM_DATA, 4, 0x3000);
    sm_put(m, SM_DATA + 4, 2, SEL_DS16);
    sm_hex(m, SM_CODE, "0fb22500000400 0fb41d00000400 f4");
    run_to_hlt(SM_CODE + 14);
    assert_int_equal(m->s.gpr[GPR_RSP], 0x3000);
    assert_int_equal(m->s.seg[SEG_SS].sel, SEL_DS16);
    assert_int_equal(m->s.seg[SEG_FS].sel, SEL_DS16);
    /* push and pop; a faulting POP leaves RSP */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "0fa0 0fa9 66 0fa0 f4");
    run_to_hlt(SM_CODE + 7);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - 2);
    sm_setup(m, SM_LONG, 0);
    u64 bad = 0x8888;
    push_frame(8, &bad, 1);
    sm_hex(m, SM_CODE, "0fa1");
    expect_fault(13, 0x8888, 8);
    assert_int_equal(sm_frame(m, 4, 8), SM_STACK - 8);
    /* null SS in 64-bit mode below CPL 3 */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "31c0 8ed0 50 f4");
    run_to_hlt(SM_CODE + 5);
    /* FS and GS bases */
    if (cpuid_policy_has(&m->policy, "fsgsbase")) {
        sm_setup(m, SM_LONG, 0);
        m->s.cr4 |= CR4_FSGSBASE;
        m->s.gpr[GPR_RAX] = 0xffff800000000010ull;
        m->s.msr.kernel_gs_base = 0x5000;
        sm_hex(m, SM_CODE, "f3480faed8 f3480faed0 0f01f8 f3480faec9 f3480faec2 f4");
        run_to_hlt(SM_CODE + 23);
        assert_int_equal(m->s.gpr[GPR_RCX], 0x5000);
        assert_true(m->s.gpr[GPR_RDX] == 0xffff800000000010ull);
        assert_true(m->s.msr.kernel_gs_base == 0xffff800000000010ull);
        sm_setup(m, SM_LONG, 0);
        sm_hex(m, SM_CODE, "f3480faec0"); /* CR4 bit clear */
        run_to_vector(6);
    }
}

static void test_misc(void **state) {
    (void)state;
    /* XSETBV's rules */
    static const struct {
        u64 value;
        int vector;
    } xcr[] = {{1, -1}, {0, 13}, {3, -1}, {5, 13}, {BIT(40) | 1, 13}};
    for (size_t i = 0; i < ARRAY_LEN(xcr); i++) {
        sm_setup(m, SM_LONG, 0);
        m->s.cr4 |= CR4_OSXSAVE;
        m->s.gpr[GPR_RAX] = (u32)xcr[i].value;
        m->s.gpr[GPR_RDX] = xcr[i].value >> 32;
        sm_hex(m, SM_CODE, "0f01d1 0f01d0 f4");
        enum exit_kind kind = sm_run(m);
        assert_int_equal(kind, EXIT_HLT);
        assert_int_equal(sm_vector(m), xcr[i].vector);
    }
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "0f01d0"); /* OSXSAVE clear */
    run_to_vector(6);
    /* MSRs */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "b9e0060000 b811000000 31d2 0f30 31c0 0f32 f4");
    run_to_hlt(SM_CODE + 18);
    assert_int_equal(m->s.gpr[GPR_RAX], 0x11);
    /* INVPCID's checks */
    if (cpuid_policy_has(&m->policy, "invpcid")) {
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RAX] = 2;
        sm_hex(m, SM_CODE, "660f38820425 00000400 f4");
        run_to_hlt(SM_CODE + 9 + 1);
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RAX] = 4;
        sm_hex(m, SM_CODE, "660f38820425 00000400 f4");
        expect_fault(13, 0, 8);
    }
    /* debug registers: DR4 is DR6 unless DE, reserved bits read as fixed */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "31c0 0f23f0 0f21f3 0f21e1 0f23f8 0f21fa f4");
    run_to_hlt(SM_CODE + 17);
    assert_int_equal(m->s.gpr[GPR_RBX], 0xffff0ff0);
    assert_int_equal(m->s.gpr[GPR_RCX], 0xffff0ff0);
    assert_int_equal(m->s.gpr[GPR_RDX], 0x400);
    sm_setup(m, SM_LONG, 0);
    m->s.cr4 |= CR4_DE;
    sm_hex(m, SM_CODE, "0f21e0");
    run_to_vector(6);
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
        cmocka_unit_test(test_cr_checks),   cmocka_unit_test(test_enter_long),
        cmocka_unit_test(test_desc_table),  cmocka_unit_test(test_ltr_lldt),
        cmocka_unit_test(test_tables),      cmocka_unit_test(test_umip),
        cmocka_unit_test(test_flags),       cmocka_unit_test(test_segments),
        cmocka_unit_test(test_misc),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
