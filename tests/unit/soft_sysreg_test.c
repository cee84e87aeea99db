/* SPDX-License-Identifier: Apache-2.0 */
/* System instructions that read and write registers: control registers, descriptor tables and
 * instructions, UMIP, flags, segment loads, FS and GS bases, XCR0, MSRs. Transfers of control:
 * soft_sys_test.c. */
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
    sm_push_frame(m, 8, &f, 1);
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
    sm_push_frame(m, 2, &f, 1);
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
    sm_push_frame(m, 8, &bad, 1);
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
        cmocka_unit_test(test_cr_checks),  cmocka_unit_test(test_enter_long),
        cmocka_unit_test(test_desc_table), cmocka_unit_test(test_ltr_lldt),
        cmocka_unit_test(test_tables),     cmocka_unit_test(test_umip),
        cmocka_unit_test(test_flags),      cmocka_unit_test(test_segments),
        cmocka_unit_test(test_misc),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
