/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions and interrupts: frames, error codes and privilege changes in every mode; double and
 * triple faults; IST; task gates; debug traps and interrupt shadows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/lib_native.h"
#include "tests/unit/soft_machine.h"

static struct sm *m;

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    native_signals_keep(); /* the host's, which cmocka replaces around each test */
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

/* --- one exception of each kind ----------------------------------------------------------------
 */

#define NO_ERROR (-1)

struct fault_row {
    const char *code;
    int vector;
    int error;   /* NO_ERROR, or the code */
    u32 rip_off; /* of the pushed RIP from the start of the code */
};

static void check_frame(const struct fault_row *r, u32 size, u16 cs) {
    u32 at = 0;
    if (r->error != NO_ERROR) {
        assert_int_equal(sm_frame(m, at++, size), r->error);
    }
    assert_int_equal(sm_frame(m, at++, size), SM_CODE + r->rip_off);
    assert_int_equal(sm_frame(m, at++, size) & 0xffff, cs);
}

static const struct fault_row long_rows[] = {
    {"31c9 f7f1", 0, NO_ERROR, 2},                /* div ecx */
    {"f1", 1, NO_ERROR, 1},                       /* int1 */
    {"cd02", 2, NO_ERROR, 2},                     /* int 2 */
    {"cc", 3, NO_ERROR, 1},                       /* int3 */
    {"cd04", 4, NO_ERROR, 2},                     /* int 4 */
    {"0f0b", 6, NO_ERROR, 0},                     /* ud2 */
    {"0fffc0", 6, NO_ERROR, 0},                   /* ud0 */
    {"0fb9c0", 6, NO_ERROR, 0},                   /* ud1 */
    {"0f01c1", 6, NO_ERROR, 0},                   /* vmcall */
    {"0faa", 6, NO_ERROR, 0},                     /* rsm */
    {"0f01c8", 6, NO_ERROR, 0},                   /* monitor: not offered */
    {"0f37", 6, NO_ERROR, 0},                     /* getsec */
    {"b811000000 8ed8", 0, 0, 0},                 /* replaced below */
    {"b860000000 8ed8", 11, 0x60, 5},             /* ds not present */
    {"b860000000 8ed0", 12, 0x60, 5},             /* ss not present */
    {"b888888888 8ed8", 13, 0x8888, 5},           /* beyond the limit */
    {"b870000000 8ed0", 13, 0x70, 5},             /* ss read-only */
    {"b812000000 8ed0", 13, 0x10, 5},             /* ss RPL 2 */
    {"48b80000000000800000 488b00", 13, 0, 10},   /* non-canonical load */
    {"48bd0000000000800000 488b4500", 12, 0, 10}, /* through rbp: the stack segment */
    {"b800008000 8b00", 14, 0, 5},                /* read of a page that is not there */
    {"b800008000 8900", 14, 2, 5},                /* write */
    {"b9ffffff7f 0f32", 13, 0, 5},                /* rdmsr of nothing */
    {"0f09 cd21", 0x21, NO_ERROR, 4},             /* wbinvd, int 0x21 */
};

static void test_long_faults(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(long_rows); i++) {
        const struct fault_row *r = &long_rows[i];
        if (r->vector == 0 && r->error == 0) {
            continue;
        }
        sm_setup(m, SM_LONG, 0);
        sm_hex(m, SM_CODE, r->code);
        print_message("%s\n", r->code);
        run_to_vector(r->vector);
        check_frame(r, 8, SEL_CS64);
        assert_int_equal(m->s.gpr[GPR_RSP] % 16, r->error == NO_ERROR ? 8 : 0);
    }
}

static void test_long_user(void **state) {
    static const struct fault_row rows[] = {
        {"f4", 13, 0, 0},                 /* hlt */
        {"0f20c0", 13, 0, 0},             /* mov rax, cr0 */
        {"0f01f8", 13, 0, 0},             /* swapgs */
        {"0f30", 13, 0, 0},               /* wrmsr */
        {"fa", 13, 0, 0},                 /* cli, IOPL 0 */
        {"0f01ca", 6, NO_ERROR, 0},       /* clac */
        {"cd80", 13, 0x80 * 8 + 2, 0},    /* int 0x80: gate DPL 0 */
        {"cc", 13, 3 * 8 + 2, 0},         /* int3 too */
        {"f1", 1, NO_ERROR, 1},           /* int1 needs no DPL */
        {"b800008000 8900", 14, 6, 5},    /* write, user */
        {"48cf", 13, 0, 0},               /* iretq to zeros: null cs */
        {"b810000000 8ed8", 13, 0x10, 5}, /* ds with DPL 0 */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct fault_row *r = &rows[i];
        sm_setup(m, SM_LONG, 3);
        m->s.gpr[GPR_RSP] = SM_USTACK - 64;
        sm_hex(m, SM_CODE, r->code);
        print_message("user %s\n", r->code);
        run_to_vector(r->vector);
        check_frame(r, 8, SEL_UCS64 | 3);
        u32 at = r->error == NO_ERROR ? 2 : 3;
        u64 flags = sm_frame(m, at, 8);
        assert_int_equal(flags & FLAG_RF, r->rip_off == 1 ? 0 : FLAG_RF);
        assert_int_equal(sm_frame(m, at + 1, 8), SM_USTACK - 64);
        assert_int_equal(sm_frame(m, at + 2, 8), SEL_UDS | 3);
        assert_int_equal(m->s.gpr[GPR_RSP], SM_RSP0 - 8 * (at + 3));
        assert_int_equal(m->s.seg[SEG_SS].sel, 0);
        assert_true(m->s.seg[SEG_SS].attr & SEG_ATTR_UNUSABLE);
    }
}

static void test_prot_faults(void **state) {
    static const struct fault_row rows[] = {
        {"31c9 f7f1", 0, NO_ERROR, 2},
        {"cc", 3, NO_ERROR, 1},
        {"b0ff b47f 00e4 b07f 0401 ce", 4, NO_ERROR, 11}, /* into after overflow */
        {"0f0b", 6, NO_ERROR, 0},
        {"0f05", 6, NO_ERROR, 0}, /* syscall outside 64-bit mode */
        {"b860000000 8ed8", 11, 0x60, 5},
        {"b860000000 8ed0", 12, 0x60, 5},
        {"31c0 8ed0", 13, 0, 2},                  /* null ss */
        {"31c0 8ed8 a100000000", 13, 0, 4},       /* use of a null ds */
        {"b878000000 8ed8", 13, 0x78, 5},         /* execute-only into ds */
        {"b8b8000000 8ed8 a1000f0000", 13, 0, 7}, /* expand-down: below the limit */
        {"ea000001006800", 11, 0x68, 0},          /* jmp far, not present */
        {"ea000001001000", 13, 0x10, 0},          /* jmp far to data */
        {"ea000001000000", 13, 0, 0},             /* jmp far to null */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct fault_row *r = &rows[i];
        sm_setup(m, SM_PROT32, 0);
        sm_hex(m, SM_CODE, r->code);
        print_message("prot %s\n", r->code);
        run_to_vector(r->vector);
        check_frame(r, 4, SEL_CS32);
        /* the frame only: no stack switch */
        assert_int_equal(m->s.gpr[GPR_RSP], SM_STACK - (r->error == NO_ERROR ? 12 : 16));
    }
}

static void test_prot_inner(void **state) {
    static const struct fault_row rows[] = {
        {"0f0b", 6, NO_ERROR, 0},
        {"f4", 13, 0, 0},
        {"b810000000 8ed8", 13, 0x10, 5},
        {"cd30", 0x30, NO_ERROR, 2},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct fault_row *r = &rows[i];
        sm_setup(m, SM_PROT32, 3);
        sm_idt(m, 0x30, SEL_CS32, SM_HANDLER + 0x300, 0xef, 0); /* trap gate, DPL 3 */
        m->s.rflags |= FLAG_IF | FLAG_NT;
        sm_hex(m, SM_CODE, r->code);
        run_to_vector(r->vector);
        check_frame(r, 4, SEL_UCS32 | 3);
        u32 at = r->error == NO_ERROR ? 2 : 3;
        assert_int_equal(sm_frame(m, at, 4) & (FLAG_IF | FLAG_NT), FLAG_IF | FLAG_NT);
        assert_int_equal(sm_frame(m, at + 1, 4), SM_USTACK);
        assert_int_equal(sm_frame(m, at + 2, 4), SEL_UDS | 3);
        assert_int_equal(m->s.seg[SEG_SS].sel, SEL_DS);
        assert_int_equal(m->s.rflags & FLAG_NT, 0);
        assert_int_equal(m->s.rflags & FLAG_IF, r->vector == 0x30 ? FLAG_IF : 0);
    }
}

static void test_real(void **state) {
    (void)state;
    sm_setup(m, SM_REAL, 0);
    m->s.rflags |= FLAG_IF;
    sm_hex(m, SM_CODE, "fb 90 cd21"); /* sti nop int 0x21 */
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.seg[SEG_CS].base + m->s.rip - 1, SM_HANDLER + 0x210);
    assert_int_equal(m->s.gpr[GPR_RSP], 0x1000 - 6);
    assert_int_equal(sm_frame(m, 0, 2), 4);
    assert_int_equal(sm_frame(m, 1, 2), SM_CODE >> 4);
    assert_int_equal(sm_frame(m, 2, 2) & FLAG_IF, FLAG_IF);
    assert_int_equal(m->s.rflags & FLAG_IF, 0);

    sm_setup(m, SM_REAL, 0);
    sm_hex(m, SM_CODE, "31c9 f7f1"); /* #DE: a fault pushes its own address, no error code */
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.seg[SEG_CS].base + m->s.rip - 1, SM_HANDLER);
    assert_int_equal(sm_frame(m, 0, 2), 2);

    sm_setup(m, SM_REAL, 0);
    m->s.idtr.limit = 0x3f;
    sm_hex(m, SM_CODE, "cd21"); /* beyond the table: #GP */
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.seg[SEG_CS].base + m->s.rip - 1, SM_HANDLER + 13 * 16);
    assert_int_equal(sm_frame(m, 0, 2), 0);
}

/* --- gates that are not as they should be ------------------------------------------------------
 */

static void test_bad_gates(void **state) {
    struct {
        u32 access;
        u16 sel;
        int vector, error;
    } rows[] = {
        {0x0e, SEL_CS64, 11, 0x21 * 8 + 2},   /* gate not present */
        {0x8c, SEL_CS64, 13, 0x21 * 8 + 2},   /* a call gate */
        {0x85, SEL_CS64, 13, 0x21 * 8 + 2},   /* a task gate, in long mode */
        {0x8e, 0, 13, 0},                     /* null selector */
        {0x8e, SEL_DS, 13, SEL_DS},           /* data */
        {0x8e, SEL_CS32, 13, SEL_CS32},       /* not 64-bit */
        {0x8e, SEL_NP_CODE, 11, SEL_NP_CODE}, /* not present */
        {0x8e, SEL_UCS64, 13, SEL_UCS64},     /* an outer level */
        {0x8e, 0x1000, 13, 0x1000},           /* beyond the table */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sm_setup(m, SM_LONG, 0);
        sm_hex(m, SM_CODE, "cd21");
        sm_idt(m, 0x21, rows[i].sel, SM_HANDLER + 0x210, rows[i].access, 0);
        run_to_vector(rows[i].vector);
        assert_int_equal(sm_frame(m, 0, 8), rows[i].error);
        assert_int_equal(sm_frame(m, 1, 8), SM_CODE); /* the INT itself: it restarts */

        /* met while an exception is delivered: EXT is set */
        sm_setup(m, SM_LONG, 0);
        sm_hex(m, SM_CODE, "0f0b");
        sm_idt(m, 6, rows[i].sel, SM_HANDLER + 0x60, rows[i].access, 0);
        run_to_vector(rows[i].vector);
        u32 error = (u32)rows[i].error;
        if (error == 0x21 * 8 + 2) {
            error = 6 * 8 + 2;
        }
        assert_int_equal(sm_frame(m, 0, 8), error | 1);
    }
}

static void test_ist(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_idt(m, 6, SEL_CS64, SM_HANDLER + 0x60, 0x8e, 1);
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(6);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_IST1 - 40);
    assert_int_equal(m->s.seg[SEG_SS].sel, SEL_DS); /* CPL did not change */
    assert_int_equal(sm_frame(m, 3, 8), SM_STACK);
    /* IST beyond the TSS limit */
    sm_setup(m, SM_LONG, 0);
    m->s.tr.limit = 0x20;
    sm_idt(m, 6, SEL_CS64, SM_HANDLER + 0x60, 0x8e, 1);
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(10);
    assert_int_equal(sm_frame(m, 0, 8), SEL_TSS | 1);
}

/* --- double and triple faults ------------------------------------------------------------------
 */

static void break_vector(u8 vector) { /* its gate is not present: #NP */
    sm_idt(m, vector, SEL_CS64, 0, 0x0e, 0);
}

static void test_double(void **state) {
    (void)state;
    /* contributory after contributory: #DE's gate gives #NP */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "31c9 f7f1");
    break_vector(0);
    run_to_vector(8);
    assert_int_equal(sm_frame(m, 0, 8), 0);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 2);
    /* benign first: #NP is delivered by itself */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "0f0b");
    break_vector(6);
    run_to_vector(11);
    assert_int_equal(sm_frame(m, 0, 8), 6 * 8 + 3);
    /* page fault, then contributory */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "b800008000 8b00");
    break_vector(14);
    run_to_vector(8);
    assert_int_equal(m->s.cr2, 0x800000);
    /* contributory, then page fault: the page fault is delivered (its handler has a stack) */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "48bc0000800000000000 31c9 f7f1"); /* mov rsp, 0x800000: not mapped */
    sm_idt(m, 14, SEL_CS64, SM_HANDLER + 14 * 16, 0x8e, 1);
    run_to_vector(14);
    assert_int_equal(m->s.cr2, 0x800000 - 8);
    assert_int_equal(sm_frame(m, 0, 8), 2);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 12);
    /* page fault during page fault */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "48bc0000800000000000 8b0425 00008000");
    sm_idt(m, 8, SEL_CS64, SM_HANDLER + 8 * 16, 0x8e, 1);
    run_to_vector(8);
}

static void test_triple(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "31c9 f7f1");
    break_vector(0);
    break_vector(8);
    assert_int_equal(sm_run(m), EXIT_SHUTDOWN);
    sm_setup(m, SM_LONG, 0);
    m->s.idtr.limit = 0;
    sm_hex(m, SM_CODE, "cc");
    assert_int_equal(sm_run(m), EXIT_SHUTDOWN);
    sm_setup(m, SM_REAL, 0);
    m->s.idtr.limit = 0;
    sm_hex(m, SM_CODE, "cc");
    assert_int_equal(sm_run(m), EXIT_SHUTDOWN);
    sm_setup(m, SM_PROT32, 0);
    m->s.idtr.limit = 0;
    sm_hex(m, SM_CODE, "0f0b");
    assert_int_equal(sm_run(m), EXIT_SHUTDOWN);
}

/* --- virtual-8086 mode -------------------------------------------------------------------------
 */

static void test_v86(void **state) {
    (void)state;
    sm_setup(m, SM_V86, 3);
    m->s.seg[SEG_DS].sel = 0x1234;
    m->s.seg[SEG_DS].base = 0x12340;
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(6);
    static const u16 want[] = {0, SM_CODE >> 4, 0, 0x1000, 0x3000, 0, 0x1234, 0, 0};
    for (u32 i = 0; i < ARRAY_LEN(want); i++) {
        u64 v = sm_frame(m, i, 4);
        assert_int_equal(i == 2 ? 0 : v & 0xffff, want[i]);
        assert_true(i != 2 || (v & FLAG_VM));
    }
    assert_int_equal(m->s.seg[SEG_DS].sel, 0);
    assert_true(m->s.seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
    assert_int_equal(m->s.rflags & FLAG_VM, 0);

    static const char *const iopl_sensitive[] = {"fa", "fb", "9c", "9d", "cf", "cd21"};
    for (size_t i = 0; i < ARRAY_LEN(iopl_sensitive); i++) {
        sm_setup(m, SM_V86, 3);
        sm_hex(m, SM_CODE, iopl_sensitive[i]);
        run_to_vector(13);
        assert_int_equal(sm_frame(m, 0, 4), 0);
    }
    /* not recognised there */
    static const char *const undefined[] = {"0f00c0", "0f02c0", "0f03c0", "0f00e0", "63c0"};
    for (size_t i = 0; i < ARRAY_LEN(undefined); i++) {
        sm_setup(m, SM_V86, 3);
        sm_hex(m, SM_CODE, undefined[i]);
        run_to_vector(6);
    }
    /* with IOPL 3 INT goes through the IDT, whose gate needs DPL 3 */
    sm_setup(m, SM_V86, 3);
    m->s.rflags |= FLAG_IOPL;
    sm_idt(m, 0x21, SEL_CS32, SM_HANDLER + 0x210, 0xee, 0);
    sm_hex(m, SM_CODE, "cd21");
    run_to_vector(0x21);
    assert_int_equal(sm_frame(m, 0, 4), 2);
    /* and back: IRET to V86 with the same frame */
    sm_setup(m, SM_V86, 3);
    m->s.rflags |= FLAG_IOPL;
    sm_idt(m, 0x21, SEL_CS32, SM_DATA, 0xee, 0);
    sm_hex(m, SM_DATA, "cf");
    sm_hex(m, SM_CODE, "cd21 0f0b");
    run_to_vector(6);
    assert_int_equal(sm_frame(m, 0, 4), 2);
    assert_int_equal(sm_frame(m, 4, 4), 0x3000);
    /* a handler at DPL 1 is #GP */
    sm_setup(m, SM_V86, 3);
    sm_idt(m, 6, SEL_CS1 | 1, SM_HANDLER + 0x60, 0x8e, 0);
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(13);
    assert_int_equal(sm_frame(m, 0, 4), SEL_CS1 | 1);
}

/* --- task gates --------------------------------------------------------------------------------
 */

static void make_tss2(u64 eip) {
    sm_put(m, SM_TSS2 + 32, 4, eip);
    sm_put(m, SM_TSS2 + 36, 4, 2);
    sm_put(m, SM_TSS2 + 56, 4, SM_IST1);
    for (u32 i = 0; i < 6; i++) {
        sm_put(m, SM_TSS2 + 72 + i * 4, 2, i == SEG_CS ? SEL_CS32 : SEL_DS);
    }
}

static void test_task_gate(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 0);
    make_tss2(SM_DATA);
    sm_hex(m, SM_DATA, "f4");
    sm_idt(m, 13, SEL_TSS2, 0, 0x85, 0);
    sm_hex(m, SM_CODE, "b888880000 8ed8");
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.rip, SM_DATA + 1);
    assert_int_equal(m->s.tr.sel, SEL_TSS2);
    assert_int_equal(m->s.gpr[GPR_RSP], SM_IST1 - 4);
    assert_int_equal(sm_frame(m, 0, 4), 0x8888);
    assert_true(m->s.rflags & FLAG_NT);
    assert_true(m->s.cr0 & CR0_TS);
    assert_int_equal(sm_get(m, SM_TSS2, 2), SEL_TSS);
    assert_int_equal(sm_get(m, SM_TSS + 32, 4), SM_CODE + 5);
    assert_int_equal(sm_get(m, SM_TSS + 40, 4), 0x8888); /* eax */
    assert_int_equal(sm_get(m, SM_GDT + SEL_TSS2 + 5, 1), 0x8b);
    assert_int_equal(sm_get(m, SM_GDT + SEL_TSS + 5, 1), 0x8b);
}

/* --- debug traps and shadows -------------------------------------------------------------------
 */

static void test_single_step(void **state) {
    (void)state;
    /* TF set by popf: the trap comes after the next instruction */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "9c 800c2400 810c2400010000 9d 90 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 14);
    assert_int_equal(m->s.dr6 & 0x4000, 0x4000);
    assert_int_equal(m->s.rflags & FLAG_TF, 0);
    assert_int_equal(sm_frame(m, 2, 8) & FLAG_TF, FLAG_TF);
    /* after a MOV SS the trap waits for one more instruction */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    m->s.gpr[GPR_RAX] = SEL_DS;
    sm_hex(m, SM_CODE, "8ed0 90 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 3);
    /* INT n clears TF without a trap */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    sm_hex(m, SM_CODE, "cd40");
    run_to_vector(0x40);
    /* a faulting instruction delivers its fault, not a trap */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    sm_hex(m, SM_CODE, "0f0b");
    run_to_vector(6);
    assert_true(sm_frame(m, 2, 8) & FLAG_TF);
    /* a REP string instruction traps after each iteration */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    m->s.gpr[GPR_RCX] = 5;
    m->s.gpr[GPR_RDI] = SM_DATA;
    sm_hex(m, SM_CODE, "f3aa");
    run_to_vector(1);
    assert_int_equal(m->s.gpr[GPR_RCX], 4);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE);
    /* HLT under TF: the trap ends it */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    sm_hex(m, SM_CODE, "f4");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 1);
}

/* IA32_DEBUGCTL.BTF: the trap comes after a taken branch only. */
static void test_branch_step(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_TF;
    m->s.msr.debugctl = 2;
    sm_hex(m, SM_CODE, "90 90 7500 eb02 9090 90 90");
    m->s.rflags |= FLAG_ZF;
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 8);
    assert_int_equal(m->s.msr.debugctl, 0); /* #DB clears it */
}

/* Faults of the x87 and SSE units, and alignment checks. */
static void test_unit_faults(void **state) {
    (void)state;
    native_signals_use();
    sm_setup(m, SM_LONG, 0);
    m->s.cr0 |= CR0_TS;
    sm_hex(m, SM_CODE, "d9e8");
    run_to_vector(7);
    sm_setup(m, SM_LONG, 0);
    m->s.cr0 |= CR0_EM;
    sm_hex(m, SM_CODE, "d9e8");
    run_to_vector(7);
    sm_setup(m, SM_LONG, 0); /* unmasked division by zero shows at the next x87 instruction */
    sm_hex(m, SM_CODE, "dbe3 68 7b030000 d92c24 d9e8 d9ee def9 90 9b");
    run_to_vector(16);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 17);
    sm_setup(m, SM_LONG, 0); /* SSE: divps with everything unmasked */
    m->s.cr4 |= CR4_OSXMMEXCPT;
    sm_hex(m, SM_CODE, "6a00 0fae1424 0f57c0 0f5ec0");
    run_to_vector(19);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 9);
    sm_setup(m, SM_LONG, 3);
    m->s.cr0 |= CR0_AM;
    m->s.rflags |= FLAG_AC;
    sm_hex(m, SM_CODE, "8b042501000400");
    run_to_vector(17);
    assert_int_equal(sm_frame(m, 0, 8), 0);
    sm_setup(m, SM_LONG, 0); /* not at CPL 0 */
    m->s.cr0 |= CR0_AM;
    m->s.rflags |= FLAG_AC;
    sm_hex(m, SM_CODE, "8b042501000400 0f0b");
    run_to_vector(6);
    sm_setup(m, SM_PROT32, 0); /* BOUND */
    sm_put(m, SM_DATA, 8, 9ull << 32 | 5);
    sm_hex(m, SM_CODE, "b804000000 620500000400");
    run_to_vector(5);
    assert_int_equal(sm_frame(m, 0, 4), SM_CODE + 5);
}

static void test_breakpoints(void **state) {
    (void)state;
    /* instruction breakpoint: a fault, RF clear in the image */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[1] = SM_CODE + 1;
    m->s.dr7 = 0x400 | BIT(2);
    sm_hex(m, SM_CODE, "90 90 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 1);
    assert_int_equal(m->s.dr6 & 0xf, 2);
    assert_int_equal(sm_frame(m, 2, 8) & FLAG_RF, 0);
    /* RF holds it back for one instruction */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[1] = SM_CODE;
    m->s.dr7 = 0x400 | BIT(2);
    m->s.rflags |= FLAG_RF;
    sm_hex(m, SM_CODE, "90 0f0b");
    run_to_vector(6);
    /* data write: a trap behind the instruction */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[0] = SM_DATA + 2;
    m->s.dr7 = 0x400 | BIT(1) | 0x10000;
    sm_hex(m, SM_CODE, "8b042500000400 c7042500000400 01000000 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 18);
    assert_int_equal(m->s.dr6 & 0xf, 1);
    /* read or write */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[3] = SM_DATA;
    m->s.dr7 = 0x400 | BIT(6) | 0xf0000000;
    sm_hex(m, SM_CODE, "90 8b042500000400 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 8);
    assert_int_equal(m->s.dr6 & 0xf, 8);
    /* held back by MOV SS until the next instruction is done */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[0] = SM_DATA;
    m->s.dr7 = 0x400 | BIT(1) | 0xd0000;
    sm_put(m, SM_DATA, 2, SEL_DS);
    m->s.dr7 = 0x400 | BIT(1) | 0x70000;
    sm_hex(m, SM_CODE, "8e142500000400 90 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 8);
    /* a breakpoint on the next instruction shows with the trap */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[0] = SM_DATA;
    m->s.dr[2] = SM_CODE + 11;
    m->s.dr7 = 0x400 | BIT(1) | BIT(4) | 0xd0000;
    sm_hex(m, SM_CODE, "c7042500000400 01000000 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 11);
    assert_int_equal(m->s.dr6 & 0xf, 5);
    /* a watched page that was written just before */
    sm_setup(m, SM_LONG, 0);
    m->s.dr[0] = 0x100000;
    m->s.dr7 = 0x400 | BIT(1) | 0xd0000;
    m->s.gpr[GPR_RAX] = SM_DATA;
    sm_hex(m, SM_CODE, "c60000 c60000 0f23c0 c60000 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 12);
    /* general detect */
    sm_setup(m, SM_LONG, 0);
    m->s.dr7 = 0x400 | BIT(13);
    sm_hex(m, SM_CODE, "90 0f21c0");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 1);
    assert_true(m->s.dr6 & BIT(13));
    assert_int_equal(m->s.dr7 & BIT(13), 0);
    /* I/O breakpoint */
    sm_setup(m, SM_LONG, 0);
    m->s.cr4 |= CR4_DE;
    m->s.dr[0] = 0x80;
    m->s.dr7 = 0x400 | BIT(1) | 0x20000;
    sm_hex(m, SM_CODE, "e680 90");
    run_to_vector(1);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 2);
}

static void inject(u8 vector) {
    m->vm.ops->inject_interrupt(&m->vcpu, vector);
}

static void test_interrupts(void **state) {
    (void)state;
    /* external interrupt: return address is the next instruction, RF clear */
    sm_setup(m, SM_LONG, 3);
    m->s.rflags |= FLAG_IF;
    sm_hex(m, SM_CODE, "ebfe");
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    assert_true(m->vm.ops->can_interrupt(&m->vcpu));
    inject(0x55);
    assert_int_equal(sm_more(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), 0x55);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE);
    assert_int_equal(sm_frame(m, 2, 8) & (FLAG_RF | FLAG_IF), FLAG_IF);
    /* STI's shadow: the window opens after the following instruction */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "fb 90 90 90 f4");
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->intr_window(&m->vcpu, true);
    assert_false(m->vm.ops->can_interrupt(&m->vcpu));
    assert_int_equal(sm_more(m), EXIT_INTR_WINDOW);
    assert_int_equal(m->s.rip, SM_CODE + 2);
    m->vm.ops->intr_window(&m->vcpu, false);
    /* sti; hlt: the halt comes first */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "fb f4");
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->intr_window(&m->vcpu, true);
    assert_int_equal(sm_more(m), EXIT_HLT);
    assert_true(m->vm.ops->can_interrupt(&m->vcpu));
    m->vm.ops->intr_window(&m->vcpu, false);
    /* MOV SS's */
    sm_setup(m, SM_LONG, 0);
    m->s.rflags |= FLAG_IF;
    m->s.gpr[GPR_RAX] = SEL_DS;
    sm_hex(m, SM_CODE, "8ed0 90 90 f4");
    m->s.events.shadow = SHADOW_MOV_SS;
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->intr_window(&m->vcpu, true);
    assert_int_equal(sm_more(m), EXIT_INTR_WINDOW);
    assert_int_equal(m->s.rip, SM_CODE + 3);
    m->vm.ops->intr_window(&m->vcpu, false);
    /* popf opens at once */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "6802020000 9d 90 f4");
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->intr_window(&m->vcpu, true);
    assert_int_equal(sm_more(m), EXIT_INTR_WINDOW);
    assert_int_equal(m->s.rip, SM_CODE + 6);
    m->vm.ops->intr_window(&m->vcpu, false);
}

static void test_nmi(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "ebfe");
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->inject_nmi(&m->vcpu);
    assert_int_equal(sm_more(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), 2);
    assert_true(m->s.events.nmi_blocked);
    /* a second one waits for IRET */
    sm_hex(m, SM_HANDLER + 0x20, "ffc3 48cf");
    sm_hex(m, SM_CODE, "f4");
    m->s.rip = SM_HANDLER + 0x20;
    assert_int_equal(m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s), 0);
    m->vm.ops->inject_nmi(&m->vcpu);
    assert_int_equal(sm_more(m), EXIT_HLT);
    assert_int_equal(m->s.gpr[GPR_RBX], 2);
    assert_int_equal(m->s.rip, SM_CODE + 1);
    assert_false(m->s.events.nmi_blocked);
}

static void test_debugger(void **state) {
    struct engine_debug debug = {.enabled = true};
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "90 cc 90 90 f4");
    assert_int_equal(m->vm.ops->debug_set(&m->vcpu, &debug), 0);
    assert_int_equal(sm_run(m), EXIT_DEBUG);
    assert_true(m->exit.debug.int3);
    assert_int_equal(m->s.rip, SM_CODE + 1);
    sm_hex(m, SM_CODE + 1, "90");
    debug.single_step = true;
    assert_int_equal(m->vm.ops->debug_set(&m->vcpu, &debug), 0);
    assert_int_equal(sm_more(m), EXIT_DEBUG);
    assert_int_equal(m->s.rip, SM_CODE + 2);
    debug.single_step = false;
    debug.dr[0] = SM_CODE + 4;
    debug.dr7 = 1;
    assert_int_equal(m->vm.ops->debug_set(&m->vcpu, &debug), 0);
    assert_int_equal(sm_more(m), EXIT_DEBUG);
    assert_int_equal(m->s.rip, SM_CODE + 4);
    assert_int_equal(m->exit.debug.dr6 & 0xf, 1);
    /* a step that faults stops at the handler */
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "0f0b");
    debug = (struct engine_debug){.enabled = true, .single_step = true};
    assert_int_equal(m->vm.ops->debug_set(&m->vcpu, &debug), 0);
    assert_int_equal(sm_run(m), EXIT_DEBUG);
    assert_int_equal(m->s.rip, SM_HANDLER + 0x60);
    debug = (struct engine_debug){0};
    assert_int_equal(m->vm.ops->debug_set(&m->vcpu, &debug), 0);
    assert_int_equal(sm_more(m), EXIT_HLT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_faults), cmocka_unit_test(test_long_user),
        cmocka_unit_test(test_prot_faults), cmocka_unit_test(test_prot_inner),
        cmocka_unit_test(test_real),        cmocka_unit_test(test_bad_gates),
        cmocka_unit_test(test_ist),         cmocka_unit_test(test_double),
        cmocka_unit_test(test_triple),      cmocka_unit_test(test_v86),
        cmocka_unit_test(test_task_gate),   cmocka_unit_test(test_single_step),
        cmocka_unit_test(test_branch_step), cmocka_unit_test(test_unit_faults),
        cmocka_unit_test(test_breakpoints), cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_nmi),         cmocka_unit_test(test_debugger),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
