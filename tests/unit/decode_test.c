/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction decoder, case by case: one group per rule of SDM volume 2, chapter 2, in 16-, 32-
 * and 64-bit mode. The breadth comes from tests/conformance/decode_zydis.c; here stands what must
 * hold and why. Each valid case is also cut short at every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/cpu/cpuid.h"
#include "core/cpu/decode.h"
#include "core/cpu/state.h"

static size_t bytes_of(const char *hex, u8 *out, size_t size) {
    size_t n = 0;
    for (const char *s = hex; *s && n < size; s++) {
        if (*s != ' ') {
            out[n++] = (u8)strtoul((char[]){s[0], s[1], 0}, NULL, 16);
            s++;
        }
    }
    return n;
}

static enum decode_status decode_hex(struct insn *insn, const char *hex, u8 mode) {
    u8 code[32];
    size_t n = bytes_of(hex, code, sizeof(code));
    u8 *exact = malloc(n); /* ASan sees a read past avail */
    assert_non_null(exact);
    memcpy(exact, code, n);
    enum decode_status status = insn_decode(insn, exact, n, mode);
    free(exact);
    return status;
}

/* Every proper prefix of a valid instruction asks for more bytes. */
static void check_cut(const char *hex, u8 mode) {
    u8 code[32];
    struct insn insn;
    size_t n = bytes_of(hex, code, sizeof(code));
    for (size_t cut = 0; cut < n; cut++) {
        u8 *exact = malloc(cut + 1);
        assert_non_null(exact);
        memcpy(exact, code, cut);
        assert_int_equal(insn_decode(&insn, exact, cut, mode), DECODE_MORE);
        free(exact);
    }
}

static struct insn check(u8 mode, const char *hex, const char *text) {
    struct insn insn;
    char got[96];
    u8 code[32];
    enum decode_status status = decode_hex(&insn, hex, mode);
    if (status != DECODE_OK)
        fail_msg("%u-bit %s: status %d", mode, hex, status);
    insn_format(&insn, 0x1000, got, sizeof(got));
    if (strcmp(got, text) != 0)
        fail_msg("%u-bit %s: \"%s\", not \"%s\"", mode, hex, got, text);
    assert_int_equal(insn.len, bytes_of(hex, code, sizeof(code)));
    check_cut(hex, mode);
    return insn;
}

static void check_invalid(u8 mode, const char *hex) {
    struct insn insn;
    enum decode_status status = decode_hex(&insn, hex, mode);
    if (status != DECODE_INVALID)
        fail_msg("%u-bit %s: status %d, not invalid", mode, hex, status);
    assert_int_equal(insn.id, INSN_INVALID);
}

struct text_case {
    u8 mode;
    const char *hex, *text;
};

static void check_all(const struct text_case *c, size_t count) {
    for (size_t i = 0; i < count; i++)
        check(c[i].mode, c[i].hex, c[i].text);
}

static void test_operand_sizes(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {16, "01 d8", "add ax, bx"},
        {16, "66 01 d8", "add eax, ebx"},
        {32, "01 d8", "add eax, ebx"},
        {32, "66 01 d8", "add ax, bx"},
        {64, "01 d8", "add eax, ebx"},
        {64, "48 01 d8", "add rax, rbx"},
        {64, "66 48 01 d8", "add rax, rbx"}, /* REX.W beats 66 */
        {64, "48 66 01 d8", "add ax, bx"},   /* REX not directly before the opcode is void */
        {64, "48 05 fe ff ff ff", "add rax, 0xfffffffffffffffe"},
        {64, "66 83 c0 ff", "add ax, 0xffff"},
        {64, "48 b8 88 77 66 55 44 33 22 11", "mov rax, 0x1122334455667788"},
        {64, "48 c7 c0 ff ff ff ff", "mov rax, 0xffffffffffffffff"},
        {64, "50", "push rax"},
        {64, "66 50", "push ax"},
        {64, "41 57", "push r15"},
        {32, "50", "push eax"},
        {64, "6a 80", "push 0xffffffffffffff80"},
        {64, "9c", "pushfq"},
        {32, "66 9c", "pushf"},
        {64, "48 cf", "iretq"},
        {64, "cf", "iretd"},
        {64, "48 98", "cdqe"},
        {64, "66 99", "cwd"},
        {64, "0f 20 c0", "mov rax, cr0"},
        {64, "44 0f 20 c0", "mov rax, cr8"},
        {32, "0f 22 18", "mov cr3, eax"}, /* mod is ignored */
        {64, "48 0f c7 0e", "cmpxchg16b xmmword ptr [rsi]"},
        {64, "66 0f 01 e0", "smsw ax"},
        {64, "8e d0", "mov ss, ax"},
    };
    check_all(cases, ARRAY_LEN(cases));
}

static void test_byte_registers(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {64, "88 e0", "mov al, ah"},       {64, "40 88 e0", "mov al, spl"},
        {64, "44 88 e0", "mov al, r12b"},  {32, "b7 01", "mov bh, 0x1"},
        {64, "41 b7 01", "mov r15b, 0x1"}, {64, "0f b6 c4", "movzx eax, ah"},
        {64, "0f 94 c7", "sete bh"},
    };
    check_all(cases, ARRAY_LEN(cases));
}

static void test_addressing(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {16, "8b 00", "mov ax, word ptr [bx+si]"},
        {16, "8b 42 fe", "mov ax, word ptr [bp+si-0x2]"},
        {16, "8b 06 34 12", "mov ax, word ptr [0x1234]"},
        {16, "8b 87 00 80", "mov ax, word ptr [bx-0x8000]"},
        {16, "67 8b 04 8d 44 33 22 11", "mov ax, word ptr [ecx*4+0x11223344]"},
        {32, "67 8b 46 02", "mov eax, dword ptr [bp+0x2]"},
        {32, "8b 05 44 33 22 11", "mov eax, dword ptr [0x11223344]"},
        {64, "8b 05 44 33 22 11", "mov eax, dword ptr [rip+0x11223344]"},
        {64, "67 8b 05 44 33 22 11", "mov eax, dword ptr [eip+0x11223344]"},
        {64, "8b 04 25 44 33 22 f1", "mov eax, dword ptr [0xfffffffff1223344]"},
        {64, "8b 04 24", "mov eax, dword ptr [rsp]"},
        {64, "42 8b 04 24", "mov eax, dword ptr [rsp+r12]"}, /* REX.X makes index 4 a register */
        {64, "41 8b 45 00", "mov eax, dword ptr [r13]"},
        {64, "41 8b 04 25 01 00 00 00", "mov eax, dword ptr [0x1]"},
        {64, "4b 8d 44 bd 10", "lea rax, [r13+r15*4+0x10]"},
        {64, "a1 08 07 06 05 04 03 02 01", "mov eax, dword ptr [0x102030405060708]"},
        {64, "67 a0 04 03 02 f1", "mov al, byte ptr [0xf1020304]"},
        {32, "a3 04 03 02 f1", "mov dword ptr [0xf1020304], eax"},
        {16, "a2 34 f2", "mov byte ptr [0xf234], al"},
    };
    check_all(cases, ARRAY_LEN(cases));
}

static void test_segments(void **state) {
    (void)state;
    struct insn a = check(32, "8b 45 00", "mov eax, dword ptr [ebp]");
    assert_int_equal(a.mem.seg, SEG_SS);
    a = check(32, "8b 04 24", "mov eax, dword ptr [esp]");
    assert_int_equal(a.mem.seg, SEG_SS);
    a = check(32, "3e 8b 45 00", "mov eax, dword ptr [ds:ebp]");
    assert_true(a.mem.seg_override);
    a = check(64, "2e 8b 03", "mov eax, dword ptr [rbx]"); /* ignored in 64-bit mode */
    assert_int_equal(a.mem.seg, SEG_DS);
    assert_false(a.mem.seg_override);
    a = check(64, "65 8b 03", "mov eax, dword ptr [gs:rbx]");
    a = check(64, "64 3e 8b 03", "mov eax, dword ptr [fs:rbx]");
    a = check(32, "64 3e 8b 03", "mov eax, dword ptr [ds:ebx]");
    a = check(64, "65 a4", "gs movsb");
    assert_int_equal(a.mem.seg, SEG_GS);
    a = check(16, "8b 46 00", "mov ax, word ptr [bp]");
    assert_int_equal(a.mem.seg, SEG_SS);
    a = check(64, "41 8b 45 00", "mov eax, dword ptr [r13]");
    assert_int_equal(a.mem.seg, SEG_DS);
}

static void test_branches(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {64, "eb fe", "jmp 0x1000"},
        {64, "66 eb fd", "jmp 0x1000"}, /* 66 is ignored on near branches */
        {64, "66 e9 00 00 00 00", "jmp 0x1006"},
        {32, "66 e9 00 10", "jmp 0x2004"},
        {16, "e8 fd ff", "call 0x1000"},
        {64, "0f 84 10 00 00 00", "je 0x1016"},
        {64, "ff d0", "call rax"},
        {64, "66 ff 20", "jmp qword ptr [rax]"},
        {32, "ff 28", "jmp far fword ptr [eax]"},
        {64, "48 ff 28", "jmp far tbyte ptr [rax]"},
        {32, "9a 44 33 22 11 66 55", "call far 0x5566:0x11223344"},
        {16, "ea 22 11 66 55", "jmp far 0x5566:0x1122"},
        {64, "e3 00", "jrcxz 0x1002"},
        {64, "67 e3 00", "jecxz 0x1003"},
        {64, "c2 08 00", "ret 0x8"},
        {64, "cb", "retf"},
        {64, "c8 10 00 01", "enter 0x10, 0x1"},
    };
    check_all(cases, ARRAY_LEN(cases));
    struct insn a = check(64, "66 ff d0", "call rax");
    assert_int_equal(a.opsize, 8);
    assert_int_equal(a.flags & (INSN_BRANCH | INSN_ENDS_BLOCK), INSN_BRANCH | INSN_ENDS_BLOCK);
}

static void test_strings_and_io(void **state) {
    (void)state;
    struct insn a = check(64, "f3 48 a5", "rep movsq");
    assert_int_equal(a.opsize, 8);
    assert_true(a.flags & INSN_STRING);
    assert_int_equal(a.implicit_write, 1u << GPR_RSI | 1u << GPR_RDI | 1u << GPR_RCX);
    a = check(64, "66 f2 67 af", "repne scasw");
    assert_int_equal(a.addrsize, 4);
    a = check(64, "48 6d", "insd");
    assert_int_equal(a.opsize, 4);
    assert_true(a.flags & INSN_IO);
    a = check(64, "a4", "movsb");
    assert_int_equal(a.opsize, 1);
    a = check(64, "f2 f3 a4", "rep movsb"); /* the last of F2 and F3 counts */
    check(64, "ec", "in al, dx");
    check(64, "48 e5 80", "in eax, 0x80");
    check(16, "e7 80", "out 0x80, ax");
}

static void test_mandatory_prefixes(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {64, "0f 58 c1", "addps xmm0, xmm1"},
        {64, "66 0f 58 c1", "addpd xmm0, xmm1"},
        {64, "66 f3 0f 58 c1", "addss xmm0, xmm1"}, /* F3 and F2 go before 66 */
        {64, "f3 f2 0f 58 c1", "addsd xmm0, xmm1"}, /* and the last of them counts */
        {64, "66 f3 0f b8 c1", "popcnt ax, cx"},    /* 66 still sizes general registers */
        {64, "66 f2 0f 38 f1 c1", "crc32 eax, cx"},
        {64, "66 0f 38 f0 01", "movbe ax, word ptr [rcx]"},
        {64, "f3 0f bc c1", "tzcnt eax, ecx"},
        {64, "f2 0f bc c1", "bsf eax, ecx"},
        {64, "66 48 0f 6e c0", "movq xmm0, rax"},
        {64, "66 0f 6e c0", "movd xmm0, eax"},
        {64, "f3 0f 1e fa", "endbr64"},
        {64, "f3 90", "pause"},
        {64, "41 90", "xchg r8d, eax"},
        {64, "f3 41 90", "pause"},
        {64, "90", "nop"},
    };
    check_all(cases, ARRAY_LEN(cases));
    check_invalid(64, "f3 0f 14 c1"); /* UNPCKLPS has forms with none and 66 only */
    check_invalid(64, "f3 0f 38 f0 01");
    check_invalid(64, "f3 0f ae 00 00");
}

static void test_lock(void **state) {
    (void)state;
    struct insn a = check(64, "f0 48 0f b1 0e", "lock cmpxchg qword ptr [rsi], rcx");
    assert_true(a.flags & INSN_LOCKABLE);
    check(64, "f0 ff 00", "lock inc dword ptr [rax]");
    check(64, "f0 0f ba 28 01", "lock bts dword ptr [rax], 0x1");
    check_invalid(64, "f0 01 c0");       /* register destination */
    check_invalid(64, "f0 03 00");       /* memory is the source */
    check_invalid(64, "f0 0f ba 20 01"); /* BT does not write */
    check_invalid(64, "f0 90");
    check_invalid(64, "f0 89 00");
    check_invalid(64, "f0 0f 20 c0");
}

static void test_invalid_in_64_bit(void **state) {
    (void)state;
    static const char *const gone[] = {"06", "27",    "37",       "60",
                                       "61", "62 00", "82 c0 00", "9a 00 00 00 00 00 00",
                                       "ce", "d4 0a", "d6",       "ea 00 00"};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        check_invalid(64, gone[i]);
    check(32, "d6", "salc");
    check(32, "62 08", "bound ecx, qword ptr [eax]");
    check(32, "63 c8", "arpl ax, cx");
    check(64, "63 c8", "movsxd ecx, eax");
    check(64, "48 63 c8", "movsxd rcx, eax");
    check(32, "40", "inc eax");
    check_invalid(32, "0f 01 f8"); /* SWAPGS only in 64-bit mode */
    check(64, "0f 01 f8", "swapgs");
}

static void test_undefined(void **state) {
    (void)state;
    static const char *const undefined[] = {
        "0f 04",    "0f 0a",    "0f 24 c0",    "0f 20 c8", "44 0f 21 c0", "8e c8",    "8e f0",
        "8c f0",    "8d c0",    "fe d0",       "ff f8",    "ff d8",       "c6 c8",    "8f c8",
        "0f 01 c6", "0f c7 c8", "0f 71 00 00", "d9 d1",    "0f 38 ff c0", "0f 0f c0", "62 f1",
    };
    for (size_t i = 0; i < ARRAY_LEN(undefined); i++)
        check_invalid(64, undefined[i]);
    check(64, "db e8", "fucomi st0, st0");
    check(64, "dd c8", "fxch st0");
    check(64, "0f 0b", "ud2");
    check(64, "0f b9 c0", "ud1 eax, eax");
    check(64, "0f ff c0", "ud0 eax, eax");
}

static void test_vex(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {64, "c5 f4 58 c2", "vaddps ymm0, ymm1, ymm2"},
        {64, "c5 f0 58 00", "vaddps xmm0, xmm1, xmmword ptr [rax]"},
        {64, "c4 41 34 58 c2", "vaddps ymm8, ymm9, ymm10"},
        {64, "c4 e2 fd 00 c1", "vpshufb ymm0, ymm0, ymm1"},
        {64, "c4 e2 70 f2 c2", "andn eax, ecx, edx"},
        {64, "c4 e2 f0 f2 c2", "andn rax, rcx, rdx"},
        {32, "c4 e2 f0 f2 c2", "andn eax, ecx, edx"}, /* W only in 64-bit mode */
        {64, "c4 e2 75 90 04 d7", "vpgatherdd ymm0, dword ptr [rdi+ymm2*8], ymm1"},
        {64, "c4 e2 f5 90 04 d7", "vpgatherdq ymm0, qword ptr [rdi+xmm2*8], ymm1"},
        {64, "c4 e3 75 4a c2 30", "vblendvps ymm0, ymm1, ymm2, ymm3"},
        {64, "c5 f8 77", "vzeroupper"},
        {64, "c4 e2 7d 21 00", "vpmovsxbd ymm0, qword ptr [rax]"},
        {64, "65 67 c5 f8 10 03", "vmovups xmm0, xmmword ptr [gs:ebx]"},
        {32, "c5 f0 58 c2", "vaddps xmm0, xmm1, xmm2"},
        {32, "c5 08", "lds ecx, fword ptr [eax]"},
        {16, "c4 0f", "les cx, dword ptr [bx]"},
        {32, "c4 e1 38 58 c2", "vaddps xmm0, xmm0, xmm2"}, /* the high bit of vvvv is ignored */
        {64, "c4 e2 f1 98 c2", "vfmadd132pd xmm0, xmm1, xmm2"},
    };
    check_all(cases, ARRAY_LEN(cases));
    check_invalid(64, "66 c5 f0 58 c2"); /* no 66, F2, F3, LOCK or REX before VEX */
    check_invalid(64, "f3 c5 f0 58 c2");
    check_invalid(64, "f0 c5 f0 58 00");
    check_invalid(64, "40 c5 f0 58 c2");
    check_invalid(64, "c5 f0 10 c2");       /* unused vvvv must be 1111 */
    check_invalid(32, "c4 e1 38 10 c2");    /* all four bits of it, also in 32-bit mode */
    check_invalid(64, "c4 e2 74 f2 c2");    /* ANDN needs L0 */
    check_invalid(64, "c4 e3 7d 00 c2 00"); /* VPERMQ needs W1 */
    check_invalid(64, "c4 e3 f9 00 c2 00"); /* and L1 */
    check_invalid(64, "c4 e0 78 10 c2");    /* map 0 */
}

static void test_gather_registers(void **state) {
    (void)state;
    check_invalid(64, "c4 e2 6d 90 04 d7"); /* mask ymm2 is the index */
    check_invalid(64, "c4 e2 7d 90 04 d7"); /* mask ymm0 is the destination */
    check_invalid(64, "c4 e2 75 90 14 d7"); /* destination ymm2 is the index */
    check_invalid(64, "c4 e2 75 90 07");    /* no SIB */
    check_invalid(64, "c4 e2 75 90 c7");    /* no memory */
}

static void test_x87(void **state) {
    (void)state;
    static const struct text_case cases[] = {
        {64, "d8 c1", "fadd st0, st1"},
        {64, "dc c1", "fadd st1, st0"},
        {64, "de c9", "fmulp st1, st0"},
        {64, "db 28", "fld tbyte ptr [rax]"},
        {64, "dd 38", "fnstsw word ptr [rax]"},
        {64, "df e0", "fnstsw ax"},
        {64, "d9 f0", "f2xm1"},
        {64, "da c1", "fcmovb st0, st1"},
        {64, "db e3", "fninit"},
        {64, "de d9", "fcompp"},
        {64, "df 28", "fild qword ptr [rax]"},
        {64, "9b", "fwait"},
        {64, "dc e1", "fsubr st1, st0"},
        {64, "dc e9", "fsub st1, st0"},
    };
    check_all(cases, ARRAY_LEN(cases));
    struct insn a = check(32, "d9 30", "fnstenv [eax]");
    assert_int_equal(a.op[0].size, 28);
    a = check(32, "66 dd 30", "fnsave [eax]");
    assert_int_equal(a.op[0].size, 94);
    assert_true(a.flags & INSN_X87);
}

static void test_flags(void **state) {
    (void)state;
    struct insn a = check(64, "11 c8", "adc eax, ecx");
    assert_int_equal(a.flags_read, FLAG_CF);
    assert_int_equal(a.flags_write, FLAG_ARITH);
    a = check(64, "ff c0", "inc eax");
    assert_int_equal(a.flags_write, FLAG_ARITH & ~FLAG_CF);
    a = check(64, "7f 00", "jg 0x1002");
    assert_int_equal(a.cond, 15);
    assert_int_equal(a.flags_read, FLAG_ZF | FLAG_SF | FLAG_OF);
    assert_false(a.flags & INSN_WRITES_FLAGS);
    a = check(64, "d3 e0", "shl eax, cl");
    assert_true(a.flags & INSN_FLAGS_COND);
    a = check(64, "0f 01 10", "lgdt tbyte ptr [rax]");
    assert_true(a.flags & INSN_PRIVILEGED);
    a = check(64, "0f 01 cb", "stac"); /* #UD, not #GP, outside ring 0 */
    assert_false(a.flags & INSN_PRIVILEGED);
    a = check(64, "66 0f 6f 00", "movdqa xmm0, xmmword ptr [rax]");
    assert_true(a.flags & INSN_ALIGNED);
    assert_true(a.flags & INSN_SSE);
    a = check(64, "f3 0f 6f 00", "movdqu xmm0, xmmword ptr [rax]");
    assert_false(a.flags & INSN_ALIGNED);
    a = check(64, "c5 fd 6f 00", "vmovdqa ymm0, ymmword ptr [rax]");
    assert_int_equal(a.flags & (INSN_ALIGNED | INSN_AVX), INSN_ALIGNED | INSN_AVX);
    a = check(64, "c5 f9 fe 00", "vpaddd xmm0, xmm0, xmmword ptr [rax]");
    assert_false(a.flags & INSN_ALIGNED);
}

static void test_features(void **state) {
    (void)state;
    struct insn a = check(64, "0f 01 d9", "vmmcall");
    assert_int_equal(a.cpuid, BIT(FEATURE_SVM));
    a = check(64, "c5 fd fe c1", "vpaddd ymm0, ymm0, ymm1");
    assert_int_equal(a.cpuid, BIT(FEATURE_AVX) | BIT(FEATURE_AVX2));
    a = check(64, "c5 f9 fe c1", "vpaddd xmm0, xmm0, xmm1");
    assert_int_equal(a.cpuid, BIT(FEATURE_AVX));
    a = check(64, "c4 e2 70 f2 c2", "andn eax, ecx, edx");
    assert_int_equal(a.cpuid, BIT(FEATURE_BMI1));
    a = check(64, "0f a2", "cpuid");
    assert_int_equal(a.cpuid, 0);
    a = check(64, "0f c7 f8", "rdseed eax");
    assert_int_equal(a.cpuid, BIT(FEATURE_RDSEED));
}

static void test_offsets(void **state) {
    (void)state;
    struct insn a = check(64, "48 81 84 24 44 33 22 11 88 77 66 55",
                          "add qword ptr [rsp+0x11223344], 0x55667788");
    assert_int_equal(a.modrm_offset, 2);
    assert_int_equal(a.disp_offset, 4);
    assert_int_equal(a.imm_offset, 8);
    assert_int_equal(a.imm_size, 4);
    assert_int_equal(a.mem.disp_size, 4);
    a = check(64, "a1 08 07 06 05 04 03 02 01", "mov eax, dword ptr [0x102030405060708]");
    assert_int_equal(a.disp_offset, 1);
    a = check(64, "0f 05", "syscall");
    assert_int_equal(a.modrm_offset, 0);
}

static void test_too_long(void **state) {
    (void)state;
    struct insn insn;
    u8 code[16];
    memset(code, 0x66, sizeof(code));
    assert_int_equal(insn_decode(&insn, code, 15, 64), DECODE_TOO_LONG);
    assert_int_equal(insn_decode(&insn, code, 16, 64), DECODE_TOO_LONG);
    assert_int_equal(insn_decode(&insn, code, 14, 64), DECODE_MORE);
    code[14] = 0x90;
    assert_int_equal(insn_decode(&insn, code, 15, 64), DECODE_OK);
    assert_int_equal(insn.len, 15);
    code[13] = 0x04; /* ADD AL, imm8 ends exactly at byte 15 */
    assert_int_equal(insn_decode(&insn, code, 16, 64), DECODE_OK);
    code[13] = 0x05; /* ADD AX, imm16 does not */
    assert_int_equal(insn_decode(&insn, code, 16, 64), DECODE_TOO_LONG);
    assert_int_equal(insn_decode(&insn, code, 0, 64), DECODE_MORE);
}

static void test_names(void **state) {
    (void)state;
    struct insn insn;
    char text[8];
    assert_string_equal(insn_name(INSN_MOVZX), "MOVZX");
    assert_non_null(insn_name(INSN_INVALID));
    assert_non_null(insn_name(0xffff));
    assert_int_equal(decode_hex(&insn, "48 b8 88 77 66 55 44 33 22 11", 64), DECODE_OK);
    assert_int_equal(insn_format(&insn, 0, text, sizeof(text)),
                     strlen("mov rax, 0x1122334455667788"));
    assert_string_equal(text, "mov rax");
    assert_int_equal(insn_format(&insn, 0, NULL, 0), strlen("mov rax, 0x1122334455667788"));
}

/* Prints the speed on a mix as compilers and kernels make it; asserts nothing about time. */
static void test_speed(void **state) {
    (void)state;
    static const char mix[] =
        "55 48 89 e5 41 57 53 48 83 ec 18 48 8b 47 10 89 75 cc 85 f6 74 2a 48 8d 0c c5 00 00 00 00"
        "8b 05 44 33 22 11 0f b6 4f 08 48 01 d8 39 c1 0f 8f 10 00 00 00 e8 00 10 00 00 31 c0 5b 41 "
        "5f"
        "c9 c3 f3 0f 10 45 f8 66 0f 6f 04 24 c5 fd 6f 07 65 48 8b 04 25 28 00 00 00 f0 0f b1 0e c1 "
        "e0 04";
    enum { ROUNDS = 40000 };
    u8 code[160];
    size_t n = bytes_of(mix, code, sizeof(code));
    struct timespec a, b;
    struct insn insn;
    u64 count = 0;
    bool bad = false;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (u32 round = 0; round < ROUNDS; round++) {
        for (size_t at = 0; at < n; at += insn.len, count++)
            bad |= insn_decode(&insn, code + at, n - at, 64) != DECODE_OK;
    }
    assert_false(bad);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    printf("decoder: %.1f million instructions a second\n", (double)count / s / 1e6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operand_sizes),
        cmocka_unit_test(test_byte_registers),
        cmocka_unit_test(test_addressing),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_branches),
        cmocka_unit_test(test_strings_and_io),
        cmocka_unit_test(test_mandatory_prefixes),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_invalid_in_64_bit),
        cmocka_unit_test(test_undefined),
        cmocka_unit_test(test_vex),
        cmocka_unit_test(test_gather_registers),
        cmocka_unit_test(test_x87),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
