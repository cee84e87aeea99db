/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports, strings and vector instructions through the whole software engine: permissions, faults
 * delivered by the IDT, restarts, modes. (Single instructions against the real processor:
 * soft_vec_test.c, soft_str_test.c.) The machine's ports read as their own number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engines/soft/vec.h"
#include "tests/unit/lib_native.h"
#include "tests/unit/soft_machine.h"

static struct sm *start(enum sm_mode mode, u32 cpl, const char *hex) {
    struct sm *m = sm_create();
    sm_setup(m, mode, cpl);
    sm_hex(m, SM_CODE, hex);
    m->s.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    return m;
}

/* Ended by the program's own HLT (CPL 0) rather than by an exception. */
static void assert_done(struct sm *m) {
    assert_int_equal(m->exit.kind, EXIT_HLT);
    assert_int_equal(sm_vector(m), -1);
}

static void test_in_sizes(void **state) {
    (void)state;
    /* in al, 0x70; in ax, dx; in eax, dx; hlt */
    struct sm *m = start(SM_LONG, 0, "e470 4889c3 66ed 4889c6 ed f4");
    m->s.gpr[GPR_RAX] = 0x1122334455667788;
    m->s.gpr[GPR_RDX] = 0xfff03f8;
    sm_run(m);
    assert_done(m);
    assert_int_equal(m->s.gpr[GPR_RBX], 0x1122334455667770);
    assert_int_equal(m->s.gpr[GPR_RSI], 0x11223344556603f8);
    assert_int_equal(m->s.gpr[GPR_RAX], 0x3f8);
    sm_destroy(m);
}

static void test_rep_ins(void **state) {
    (void)state;
    struct sm *m = start(SM_LONG, 0, "f3 66 6d f4"); /* rep insw */
    m->s.gpr[GPR_RCX] = 5;
    m->s.gpr[GPR_RDX] = 0x1f0;
    m->s.gpr[GPR_RDI] = SM_DATA + 0xffb; /* one crosses the page */
    sm_run(m);
    assert_done(m);
    assert_int_equal(m->s.gpr[GPR_RCX], 0);
    assert_int_equal(m->s.gpr[GPR_RDI], SM_DATA + 0x1005);
    for (u32 i = 0; i < 5; i++) {
        assert_int_equal(sm_get(m, SM_DATA + 0xffb + 2 * i, 2), 0x1f0);
    }
    sm_destroy(m);
}

/* INS that may not write does not read the port; it stands where it faulted. */
static void test_ins_fault(void **state) {
    (void)state;
    struct sm *m = start(SM_LONG, 0, "f3 6d f4"); /* rep insd */
    m->s.gpr[GPR_RCX] = 9;
    m->s.gpr[GPR_RDX] = 0x1f0;
    m->s.gpr[GPR_RDI] = SM_RAM - 8;
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_PF);
    assert_int_equal(m->s.cr2, SM_RAM);
    assert_int_equal(m->s.gpr[GPR_RCX], 7);
    assert_int_equal(m->s.gpr[GPR_RDI], SM_RAM);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE);
    sm_destroy(m);
}

static void test_permission(void **state) {
    (void)state;
    static const struct {
        u32 iopl, port, size, limit;
        bool allowed;
    } rows[] = {
        {0, 0x40, 1, 0x88, true},   {0, 0x41, 1, 0x88, false}, {0, 0x42, 4, 0x88, true},
        {0, 0x3f, 2, 0x88, true},   {0, 0x40, 2, 0x88, false}, {3, 0x41, 1, 0x88, true},
        {0, 0x100, 1, 0x88, false}, /* beyond the limit */
        {0, 0x40, 1, 0x67, false},  /* no bitmap */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sm *m = start(SM_LONG, 3,
                             rows[i].size == 1   ? "ec 0f0b"
                             : rows[i].size == 2 ? "66ed 0f0b"
                                                 : "ed 0f0b");
        m->s.tr.limit = rows[i].limit;
        m->s.rflags |= (u64)rows[i].iopl << 12;
        sm_put(m, SM_TSS + 104 + 8, 1, 0x02); /* port 0x41 */
        m->s.gpr[GPR_RDX] = rows[i].port;
        sm_run(m);
        if (sm_vector(m) != (rows[i].allowed ? EXC_UD : EXC_GP)) {
            fail_msg("row %zu: vector %d", i, sm_vector(m));
        }
        sm_destroy(m);
    }
}

static void test_string_modes(void **state) {
    (void)state;
    /* Real mode: rep movsb with 16-bit pointers that wrap; es override of the source. */
    struct sm *m = start(SM_REAL, 0, "f3 26 a4 f4");
    sm_bytes(m, SM_DATA + 0xfffe, "xy", 2);
    sm_bytes(m, SM_DATA, "zw", 2);
    m->s.seg[SEG_ES].base = SM_DATA;
    m->s.seg[SEG_ES].sel = SM_DATA >> 4;
    m->s.gpr[GPR_RCX] = 0xabc0004;
    m->s.gpr[GPR_RSI] = 0xdef0fffe;
    m->s.gpr[GPR_RDI] = 0x100;
    sm_run(m);
    assert_int_equal(m->exit.kind, EXIT_HLT);
    assert_memory_equal(m->hram.hva + SM_DATA + 0x100, "xyzw", 4);
    assert_int_equal(m->s.gpr[GPR_RCX], 0xabc0000);
    assert_int_equal(m->s.gpr[GPR_RSI], 0xdef00002);
    sm_destroy(m);
    /* Protected mode: stops at the limit of ES with #GP. */
    m = start(SM_PROT32, 0, "f3 aa f4");
    m->s.seg[SEG_ES].base = SM_DATA;
    m->s.seg[SEG_ES].limit = 0x10f;
    m->s.gpr[GPR_RAX] = 0x77;
    m->s.gpr[GPR_RCX] = 0x200;
    m->s.gpr[GPR_RDI] = 0x100;
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_GP);
    assert_int_equal(m->s.gpr[GPR_RCX], 0x1f0);
    assert_int_equal(m->s.gpr[GPR_RDI], 0x110);
    assert_int_equal(sm_get(m, SM_DATA + 0x10f, 2), 0x77);
    sm_destroy(m);
}

static void test_self_modifying_string(void **state) {
    (void)state;
    /* rep stosb over the code behind it: 16 HLTs where there was UD2 */
    struct sm *m = start(SM_LONG, 0, "f3 aa 0f0b 0f0b 0f0b");
    m->s.gpr[GPR_RAX] = 0xf4;
    m->s.gpr[GPR_RCX] = 16;
    m->s.gpr[GPR_RDI] = SM_CODE + 2;
    sm_run(m);
    assert_done(m);
    assert_int_equal(m->s.rip, SM_CODE + 3);
    sm_destroy(m);
}

static void test_simd_exception(void **state) {
    (void)state;
    native_signals_use();
    struct sm *m = start(SM_LONG, 0, "0f5ec1 f4"); /* divps xmm0, xmm1: 0 / 0 */
    put32(m->s.xsave + XS_MXCSR, 0);
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_XM);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE);
    assert_int_equal(get32(m->s.xsave + XS_MXCSR), 1);
    sm_destroy(m);
    m = start(SM_LONG, 0, "0f5ec1 f4");
    put32(m->s.xsave + XS_MXCSR, 0);
    m->s.cr4 &= ~CR4_OSXMMEXCPT;
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_UD);
    sm_destroy(m);
}

/* Lazy switching as kernels do it: #NM on the first use, CLTS, again. */
static void test_device_not_available(void **state) {
    (void)state;
    struct sm *m = start(SM_LONG, 0, "d9e8 660fefc0 f4"); /* fld1; pxor; hlt */
    m->s.cr0 |= CR0_TS;
    sm_hex(m, SM_HANDLER + 16 * EXC_NM, "ffc3 0f06 48cf"); /* inc ebx; clts; iretq */
    m->s.gpr[GPR_RBX] = 0;
    sm_run(m);
    assert_done(m);
    assert_int_equal(m->s.gpr[GPR_RBX], 1);
    sm_destroy(m);
}

static void test_x87_exception(void **state) {
    (void)state;
    /* fninit; fldcw [rsi]; fldz; fld1; fdiv st, st(1); nop; fwait; hlt */
    struct sm *m = start(SM_LONG, 0, "dbe3 d92e d9ee d9e8 d8f1 90 9b f4");
    m->s.gpr[GPR_RSI] = SM_DATA;
    sm_put(m, SM_DATA, 2, 0x37b);
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_MF);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 11); /* at FWAIT, not at FDIV */
    assert_int_equal(get64(m->s.xsave + XS_FIP), SM_CODE + 8);
    assert_int_equal(get16(m->s.xsave + XS_FSW) & 0x84, 0x84);
    sm_destroy(m);
}

/* x87 state crosses runs, and reaches memory in real-address mode. */
static void test_real_mode_x87(void **state) {
    (void)state;
    struct sm *m = start(SM_REAL, 0, "dbe3 d9eb f4 d91e0004 f4"); /* fldpi; hlt; fstp [0x400] */
    sm_run(m);
    assert_int_equal(m->exit.kind, EXIT_HLT);
    assert_int_equal(get64(m->s.xsave + XS_ST), 0xc90fdaa22168c235);
    sm_more(m);
    assert_int_equal(m->exit.kind, EXIT_HLT);
    assert_int_equal(sm_get(m, 0x400, 4), 0x40490fdb);
    sm_destroy(m);
}

static void test_alignment(void **state) {
    (void)state;
    struct sm *m = start(SM_LONG, 0, "0f2806 f4"); /* movaps xmm0, [rsi] */
    m->s.gpr[GPR_RSI] = SM_DATA + 8;
    sm_run(m);
    assert_int_equal(sm_vector(m), EXC_GP);
    assert_int_equal(sm_frame(m, 0, 8), 0);
    sm_destroy(m);
    m = start(SM_LONG, 0, "0f1006 0f1107 f4"); /* movups, page crossing both */
    m->s.gpr[GPR_RSI] = SM_DATA + 0xff9;
    m->s.gpr[GPR_RDI] = SM_DATA + 0x2ff3;
    sm_bytes(m, SM_DATA + 0xff9, "0123456789abcdef", 16);
    sm_run(m);
    assert_done(m);
    assert_memory_equal(m->hram.hva + SM_DATA + 0x2ff3, "0123456789abcdef", 16);
    sm_destroy(m);
}

/* Registers beyond RAM: 16 bytes of what nobody answers. */
static void test_mmio_operand(void **state) {
    (void)state;
    struct sm *m = start(SM_LONG, 0, "0f2806 0f2906 f4");
    sm_put(m, SM_PT + 0x2010, 8, 0xfe000087);
    m->s.gpr[GPR_RSI] = 0x400000;
    sm_run(m);
    assert_done(m);
    assert_int_equal(get64(m->s.xsave + XS_XMM), UINT64_MAX);
    assert_int_equal(get64(m->s.xsave + XS_XMM + 8), UINT64_MAX);
    sm_destroy(m);
}

int main(void) {
    sm_destroy(sm_create()); /* the host's fault handlers are there now */
    native_signals_keep();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_sizes),       cmocka_unit_test(test_rep_ins),
        cmocka_unit_test(test_ins_fault),      cmocka_unit_test(test_permission),
        cmocka_unit_test(test_string_modes),   cmocka_unit_test(test_self_modifying_string),
        cmocka_unit_test(test_simd_exception), cmocka_unit_test(test_device_not_available),
        cmocka_unit_test(test_x87_exception),  cmocka_unit_test(test_real_mode_x87),
        cmocka_unit_test(test_alignment),      cmocka_unit_test(test_mmio_operand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
