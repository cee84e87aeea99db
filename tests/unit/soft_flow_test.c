/* SPDX-License-Identifier: Apache-2.0 */
/* Control flow that the translator keeps in generated code: instructions over page ends that are
 * rewritten, POPFQ, system calls and interrupts' returns in loops, more code than the cache holds.
 * Each test holds for the interpreter too. */
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

static void run_to_hlt(u64 rip) {
    enum exit_kind kind = sm_run(m);
    if (kind != EXIT_HLT || m->s.rip != rip + 1) {
        fail_msg("wanted HLT at %llx: exit %d at %llx, vector %d", (unsigned long long)rip,
                 (int)kind, (unsigned long long)m->s.rip, sm_vector(m));
    }
}

/* mov eax, 11h over a page end; the immediate's second byte, on the second page, is changed when
 * 20 of 40 rounds are left. */
static void test_crossing(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "b928000000 e9f40f0000"); /* mov ecx, 40; jmp 10ffe */
    sm_hex(m, SM_CODE + 0xffe, "b811000000");
    /* add ebx, eax; cmp ecx, 20; jne 1f; mov byte [11000h], 1; 1: dec ecx; jnz 10ffe; hlt */
    sm_hex(m, SM_CODE + 0x1003, "01c3 83f914 7508 c604250010010001 ffc9 75e8 f4");
    run_to_hlt(SM_CODE + 0x1016);
    assert_int_equal(m->s.gpr[GPR_RBX], 21 * 0x11 + 19 * 0x111);
}

/* What POPFQ loads at CPL 0 of an image, from flags `old`. */
static u64 popf_model(u64 old, u64 image) {
    const u64 mask = FLAG_ARITH | FLAG_IF | FLAG_DF | FLAG_NT | FLAG_IOPL | FLAG_AC | FLAG_ID;
    return (old & ~mask) | (image & mask) | 2;
}

static void test_popf(void **state) {
    static const u64 image[] = {0x2,
                                FLAG_ARITH,
                                FLAG_CF,
                                FLAG_OF | FLAG_ZF,
                                FLAG_SF | FLAG_PF | FLAG_AF,
                                FLAG_IF,
                                FLAG_IF | FLAG_CF,
                                FLAG_DF,
                                FLAG_NT,
                                FLAG_IOPL,
                                FLAG_AC,
                                FLAG_ID | FLAG_OF,
                                FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP | FLAG_ZF,
                                0xffffffffffc0802a};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(image); i++) {
        for (size_t k = 0; k < ARRAY_LEN(image); k++) {
            sm_setup(m, SM_LONG, 0);
            m->s.gpr[GPR_RAX] = image[i];
            m->s.gpr[GPR_RBX] = image[k];
            /* push rax; popfq; push rbx; popfq; jc +0; pushfq; pop rcx; hlt */
            sm_hex(m, SM_CODE, "50 9d 53 9d 7200 9c 59 f4");
            run_to_hlt(SM_CODE + 8);
            u64 want = popf_model(popf_model(2, image[i]), image[k]);
            assert_int_equal(m->s.gpr[GPR_RCX], want & ~(u64)(FLAG_RF | FLAG_VM));
            assert_int_equal(m->s.rflags, want);
        }
    }
}

/* 100 system calls; the kernel adds its argument and returns with SYSRET or, by the lowest bit,
 * IRETQ. */
static void test_syscalls(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 3);
    m->s.msr.star = (u64)SEL_UCS32 << 48 | (u64)SEL_CS64 << 32;
    m->s.msr.lstar = SM_DATA;
    m->s.msr.sfmask = FLAG_IF | FLAG_DF | FLAG_CF;
    m->s.gpr[GPR_RSP] = SM_USTACK;
    /* mov edi, 100; 1: stc; syscall; jnc 2f; dec edi; jnz 1b; ud2; 2: ud2 */
    sm_hex(m, SM_CODE, "bf64000000 f9 0f05 7306 ffcf 75f7 0f0b 0f0b");
    /* add rbx, rdi; test edi, 1; jnz 1f; sysretq; 1: mov r8, rsp; mov esp, 22000h; push 2bh;
     * push r8; push r11; push 33h; push rcx; iretq */
    sm_hex(m, SM_DATA, "4801fb f7c701000000 7503 480f07 4989e0 bc00200200 6a2b 4150 4153 6a33 51");
    sm_hex(m, SM_DATA + 31, "48cf");
    enum exit_kind kind = sm_run(m);
    assert_int_equal(kind, EXIT_HLT);
    assert_int_equal(sm_vector(m), 6);
    assert_int_equal(m->s.gpr[GPR_RDI], 0);
    assert_int_equal(m->s.gpr[GPR_RBX], 5050);
    assert_int_equal(sm_frame(m, 0, 8), SM_CODE + 14);
    assert_int_equal(sm_frame(m, 1, 8), SEL_UCS64 | 3);
    assert_int_equal(sm_frame(m, 3, 8), SM_USTACK);
}

/* 3000 pieces of code in 750 pages; three rounds. Translated they are more than the cache
 * holds, so that old ones are forgotten while jumps to them are joined. */
static void test_much_code(void **state) {
    enum { START = 0x100000, COUNT = 3000, STEP = 0x400 };
    (void)state;
    sm_setup(m, SM_LONG, 0);
    for (u32 i = 0; i < COUNT; i++) { /* add rbx, i; add [40000h], rbx; ...; jmp next */
        u64 at = START + (u64)i * STEP;
        sm_hex(m, at, "4881c300000000 48011c2500000400 4831d9 e900000000");
        sm_put(m, at + 3, 4, i);
        sm_put(m, at + 19, 4, STEP - 23);
    }
    /* dec edx; jnz start; hlt */
    u64 end = START + (u64)COUNT * STEP;
    sm_hex(m, end, "ffca 0f8500000000 f4");
    sm_put(m, end + 4, 4, (u32)(START - (end + 8)));
    m->s.gpr[GPR_RDX] = 3;
    m->s.rip = START;
    u64 rbx = 0, rcx = 0, sum = 0;
    for (u32 n = 0; n < 3 * COUNT; n++) {
        rbx += n % COUNT;
        sum += rbx;
        rcx ^= rbx;
    }
    run_to_hlt(end + 8);
    assert_int_equal(m->s.gpr[GPR_RBX], rbx);
    assert_int_equal(m->s.gpr[GPR_RCX], rcx);
    assert_int_equal(sm_get(m, SM_DATA, 8), sum);
}

/* A sum's carry from round to round, which JRCXZ must leave alone; taken forwards and backwards. */
static void test_jrcxz(void **state) {
    (void)state;
    for (u32 rounds = 1; rounds < 40; rounds++) {
        u64 value = 0x8000000180000001, carry = 0;
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RBX] = value;
        m->s.gpr[GPR_RCX] = rounds;
        /* xor eax, eax; 1: adc rbx, rbx; lea rcx, [rcx-1]; jrcxz 2f; jmp 1b; 2: pushfq; pop rdx;
         * hlt */
        sm_hex(m, SM_CODE, "31c0 4811db 488d49ff e302 ebf5 9c 5a f4");
        run_to_hlt(SM_CODE + 15);
        for (u32 n = 0; n < rounds; n++) {
            u64 out = value >> 63;
            value = value << 1 | carry;
            carry = out;
        }
        assert_int_equal(m->s.gpr[GPR_RBX], value);
        assert_int_equal(m->s.gpr[GPR_RDX] & FLAG_CF, carry);
    }
    for (u32 round = 0; round < 40; round++) {
        sm_setup(m, SM_LONG, 0);
        m->s.gpr[GPR_RCX] = 0x100000000;
        /* jmp 2f; 1: mov al, 1; hlt; 2: jrcxz 1b; jecxz 1b; hlt */
        sm_hex(m, SM_CODE, "eb03 b001 f4 e3fb 67e3f8 f4");
        m->s.gpr[GPR_RAX] = 0;
        run_to_hlt(SM_CODE + 4);
        assert_int_equal(m->s.gpr[GPR_RAX], 1);
        m->s.rip = SM_CODE; /* and with neither */
        m->s.gpr[GPR_RCX] = 0x100000001;
        run_to_hlt(SM_CODE + 10);
    }
}

/* 32-bit code looks at ECX, or with a prefix at CX. */
static void test_jecxz(void **state) {
    static const u32 ecx[] = {0, 1, 0x10000};
    (void)state;
    for (size_t i = 0; i < 40 * ARRAY_LEN(ecx); i++) {
        u32 value = ecx[i % ARRAY_LEN(ecx)];
        sm_setup(m, SM_PROT32, 0);
        m->s.gpr[GPR_RCX] = value;
        /* xor eax, eax; jecxz 1f; or al, 1; 1: jcxz 2f; or al, 2; 2: hlt */
        sm_hex(m, SM_CODE, "31c0 e302 0c01 67e302 0c02 f4");
        run_to_hlt(SM_CODE + 11);
        assert_int_equal(m->s.gpr[GPR_RAX], (value ? 1 : 0) | (value & 0xffff ? 2 : 0));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crossing), cmocka_unit_test(test_popf),
        cmocka_unit_test(test_jrcxz),    cmocka_unit_test(test_jecxz),
        cmocka_unit_test(test_syscalls), cmocka_unit_test(test_much_code),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
