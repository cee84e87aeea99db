/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the software engine: cached translations and what forgets them, page faults and
 * crossings, self-modifying code, LOCK, device writes, the dirty log, code in odd places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "tests/unit/soft_machine.h"

/* A 4 KiB page table for linear 0x40000000: pages n -> physical POOL + n pages. */
enum { PT = 0x100000, PT2 = 0x101000, ROOT2 = 0x102000, POOL = 0x180000 };
#define WINDOW 0x40000000ull

static struct sm *m;

static void map_page(u64 pt, u32 n, u64 gpa, u64 bits) {
    sm_put(m, pt + n * 8, 8, gpa | bits);
}

static void window(u64 pt) {
    u64 pd = SM_PT + 0x2000;
    sm_put(m, pd - 0x1000 + 8, 8, (PT + 0x8000) | 7); /* PDPT[1] -> a page directory */
    sm_put(m, PT + 0x8000, 8, pt | 7);
    for (u32 n = 0; n < 16; n++) {
        map_page(pt, n, POOL + n * 4096, 7);
    }
}

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    sm_setup(m, SM_LONG, 0);
    window(PT);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

static void run_hex(const char *hex) {
    sm_hex(m, SM_CODE, hex);
    m->s.rip = SM_CODE;
    enum exit_kind kind = sm_run(m);
    if (kind != EXIT_HLT || sm_vector(m) >= 0) {
        fail_msg("exit %d at %llx vector %d cr2 %llx", (int)kind, (unsigned long long)m->s.rip,
                 sm_vector(m), (unsigned long long)m->s.cr2);
    }
}

static void run_fault(const char *hex, int vector) {
    sm_hex(m, SM_CODE, hex);
    m->s.rip = SM_CODE;
    sm_run(m);
    assert_int_equal(sm_vector(m), vector);
}

/* --- page crossings and faults -----------------------------------------------------------------
 */

static void test_crossing(void **state) {
    (void)state;
    m->s.gpr[GPR_RDI] = WINDOW + 0xffd;
    m->s.gpr[GPR_RAX] = 0x8877665544332211ull;
    map_page(PT, 1, POOL + 0x5000, 7); /* not next to one another */
    run_hex("488907 488b1f f4");
    assert_true(m->s.gpr[GPR_RBX] == 0x8877665544332211ull);
    assert_int_equal(sm_get(m, POOL + 0xffd, 3), 0x332211);
    assert_true(sm_get(m, POOL + 0x5000, 5) == 0x8877665544ull);
}

static void test_crossing_fault(void **state) {
    (void)state;
    map_page(PT, 1, POOL + 0x1000, 0);
    m->s.gpr[GPR_RDI] = WINDOW + 0xffd;
    m->s.gpr[GPR_RAX] = ~0ull;
    run_fault("488907 f4", EXC_PF);
    assert_int_equal(m->s.cr2, WINDOW + 0x1000);
    assert_int_equal(sm_frame(m, 0, 8), PF_W);
    assert_int_equal(sm_get(m, POOL + 0xffd, 3), 0); /* all or nothing */
}

static void test_read_only(void **state) {
    (void)state;
    map_page(PT, 0, POOL, 5);
    m->s.gpr[GPR_RDI] = WINDOW;
    run_fault("8b07 830701 f4", EXC_PF);
    assert_int_equal(m->s.cr2, WINDOW);
    assert_int_equal(sm_frame(m, 0, 8), PF_W | PF_P);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 2);
    assert_int_equal(sm_get(m, PT, 8) & 0x60, 0x20);
}

static void test_canonical(void **state) {
    (void)state;
    m->s.gpr[GPR_RDI] = 0x800000000000ull;
    run_fault("8b07 f4", EXC_GP);
    sm_setup(m, SM_LONG, 0);
    m->s.gpr[GPR_RBP] = 0x800000000000ull;
    run_fault("8b4500 f4", EXC_SS);
    sm_setup(m, SM_LONG, 0);
    m->s.gpr[GPR_RDI] = 0x7ffffffffffdull; /* crosses into the hole */
    run_fault("8b07 f4", EXC_GP);
}

/* MMIO answers all ones; a locked access to it, and one over a page end, still work. */
static void test_mmio_lock(void **state) {
    (void)state;
    sm_put(m, PT + 16, 8, 0xfee00000 | 7);
    m->s.gpr[GPR_RDI] = WINDOW + 0x2000;
    m->s.gpr[GPR_RAX] = 5;
    run_hex("f0480fc107 8b5f10 f4");
    assert_true(m->s.gpr[GPR_RAX] == ~0ull);
    assert_int_equal(m->s.gpr[GPR_RBX], 0xffffffff);
    m->s.gpr[GPR_RDI] = WINDOW + 0xffe;
    m->s.gpr[GPR_RAX] = 0x11223344;
    sm_put(m, POOL + 0xffe, 4, 0x01010101);
    run_hex("f00107 f4");
    assert_int_equal(sm_get(m, POOL + 0xffe, 4), 0x12233445);
}

static void test_alignment(void **state) {
    (void)state;
    sm_setup(m, SM_LONG, 3);
    window(PT);
    m->s.cr0 |= CR0_AM;
    m->s.rflags |= FLAG_AC;
    m->s.gpr[GPR_RDI] = WINDOW + 4;
    run_fault("8b07 488b07 f4", EXC_AC);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 2);
}

/* --- translations that are forgotten -----------------------------------------------------------
 */

/* Changes the entry of window page 0 behind the translation's back; only INVLPG makes it seen. */
static void test_invlpg(void **state) {
    (void)state;
    sm_put(m, POOL, 4, 0x11111111);
    sm_put(m, POOL + 0x3000, 4, 0x22222222);
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = PT;
    /* mov eax,[rdi]; mov dword [rsi],POOL+0x3007; mov ebx,[rdi]; invlpg [rdi]; mov ecx,[rdi] */
    run_hex("8b07 c70607301800 8b1f 0f013f 8b0f f4");
    assert_int_equal(m->s.gpr[GPR_RAX], 0x11111111);
    assert_int_equal(m->s.gpr[GPR_RCX], 0x22222222);
}

static void test_cr3_flush(void **state) {
    (void)state;
    sm_put(m, POOL, 4, 0x11111111);
    sm_put(m, POOL + 0x3000, 4, 0x22222222);
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = PT;
    run_hex("8b07 c70607301800 0f20d8 0f22d8 8b0f f4");
    assert_int_equal(m->s.gpr[GPR_RCX], 0x22222222);
}

/* Two PCIDs: switching with bit 63 keeps what each has; without it the translation goes. */
static void test_pcid(void **state) {
    (void)state;
    m->s.cr4 |= CR4_PCIDE;
    sm_put(m, POOL, 4, 0x11111111);
    sm_put(m, POOL + 0x3000, 4, 0x22222222);
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = PT;
    m->s.gpr[GPR_R8] = SM_PT | 5;
    m->s.gpr[GPR_R9] = SM_PT | BIT(63);
    /* load; switch to PCID 5; change the entry; load ebx there; back with keep; load ecx; back
     * without keep (r9 cleared of bit 63); load edx */
    run_hex("8b07 410f22d8 c70607301800 8b1f 410f22d9 8b0f 490fbaf13f 410f22d9 8b17 f4");
    assert_int_equal(m->s.gpr[GPR_RAX], 0x11111111);
    assert_int_equal(m->s.gpr[GPR_RBX], 0x22222222);
    assert_int_equal(m->s.gpr[GPR_RDX], 0x22222222);
}

/* Code at the same linear address in two address spaces, and remapped with INVLPG. */
static void test_code_remap(void **state) {
    (void)state;
    sm_hex(m, POOL, "b801000000 c3");
    sm_hex(m, POOL + 0x3000, "b802000000 c3");
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = PT;
    /* call rdi; mov ebx,eax; call rdi; remap; invlpg; call rdi */
    run_hex("ffd7 89c3 ffd7 c70607301800 0f013f ffd7 f4");
    assert_int_equal(m->s.gpr[GPR_RBX], 1);
    assert_int_equal(m->s.gpr[GPR_RAX], 2);
}

/* 100 turns of a loop that calls code through a page which is remapped on each. */
static void remap_loop(const char *loop) {
    sm_hex(m, POOL, "ffc3 c3");
    sm_hex(m, POOL + 0x3000, "81c300010000 c3");
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = PT;
    m->s.gpr[GPR_RCX] = 100;
    m->s.gpr[GPR_RBX] = 0;
    run_hex(loop);
    assert_int_equal(m->s.gpr[GPR_RBX], 50 * 0x101);
}

static void test_code_remap_loop(void **state) {
    (void)state;
    /* call rdi; xor dword [rsi],0x3000; invlpg [rdi]; dec ecx; jnz */
    remap_loop("ffd7 813600300000 0f013f ffc9 75f1 f4");
}

/* The same with global pages: translations of them outlive CR3 writes, and end with INVLPG and with
 * a change of CR4.PGE. */
static void test_code_global(void **state) {
    static const char *const loops[] = {
        /* call rdi; xor dword [rsi],0x3000; invlpg [rdi]; mov rax,cr3; mov cr3,rax; dec ecx; jnz */
        "ffd7 813600300000 0f013f 0f20d8 0f22d8 ffc9 75eb f4",
        /* the same, but xor rax,PGE; mov cr4,rax, twice */
        "ffd7 813600300000 0f20e0 483580000000 0f22e0 483580000000 0f22e0 ffc9 75df f4"};
    (void)state;
    for (u32 k = 0; k < 2 * ARRAY_LEN(loops); k++) {
        sm_setup(m, SM_LONG, 0);
        window(PT);
        m->s.cr4 |= k & 1 ? CR4_PGE | CR4_PCIDE : CR4_PGE;
        map_page(PT, 0, POOL, 0x107);
        remap_loop(loops[k / 2]);
    }
}

static void test_fetch_faults(void **state) {
    (void)state;
    map_page(PT, 1, POOL + 0x1000, 0);
    sm_hex(m, POOL + 0xffd, "b80102");
    m->s.gpr[GPR_RDI] = WINDOW + 0xffd;
    run_fault("ffe7 f4", EXC_PF);
    assert_int_equal(m->s.cr2, WINDOW + 0x1000);
    assert_int_equal(sm_frame(m, 0, 8), PF_I);
    assert_int_equal(sm_frame(m, 1, 8), WINDOW + 0xffd);
    sm_setup(m, SM_LONG, 0);
    window(PT);
    map_page(PT, 0, POOL, 7 | BIT(63));
    m->s.gpr[GPR_RDI] = WINDOW;
    run_fault("ffe7 f4", EXC_PF);
    assert_int_equal(sm_frame(m, 0, 8), PF_I | PF_P);
}

/* An instruction over a page end; the second page is then remapped. */
static void test_crossing_code(void **state) {
    (void)state;
    sm_hex(m, POOL + 0xffd, "b80102");
    sm_hex(m, POOL + 0x1000, "0304 c3");
    sm_hex(m, POOL + 0x3000, "0506 c3");
    m->s.gpr[GPR_RDI] = WINDOW + 0xffd;
    m->s.gpr[GPR_RSI] = PT + 8;
    m->s.gpr[GPR_RDX] = WINDOW + 0x1000;
    run_hex("ffd7 89c3 ffd7 c70607301800 0f013a ffd7 f4");
    assert_int_equal(m->s.gpr[GPR_RBX], 0x04030201);
    assert_int_equal(m->s.gpr[GPR_RAX], 0x06050201);
}

/* --- code that changes -------------------------------------------------------------------------
 */

/* The store changes the instruction right behind it. */
static void test_smc_next(void **state) {
    (void)state;
    m->s.gpr[GPR_RDI] = SM_CODE + 4;
    /* mov byte [rdi], 0x22 (3 bytes); mov al, 0x11 */
    run_hex("c60722 b011 f4");
    assert_int_equal(m->s.gpr[GPR_RAX] & 0xff, 0x22);
}

/* A loop that increments its own immediate. */
static void test_smc_loop(void **state) {
    (void)state;
    m->s.gpr[GPR_RCX] = 200;
    m->s.gpr[GPR_RBX] = 0;
    m->s.gpr[GPR_RDI] = SM_CODE + 2;
    /* add ebx, 0; inc byte [rdi]; dec ecx; jnz */
    run_hex("81c300000000 fe07 ffc9 75f4 f4");
    u32 sum = 0;
    for (u32 i = 0; i < 200; i++) {
        sum += i;
    }
    assert_int_equal(m->s.gpr[GPR_RBX], sum);
}

/* The same through another linear address of the page. */
static void test_smc_alias(void **state) {
    (void)state;
    map_page(PT, 7, SM_CODE, 7);
    m->s.gpr[GPR_RCX] = 200;
    m->s.gpr[GPR_RBX] = 0;
    m->s.gpr[GPR_RDI] = WINDOW + 0x7000 + 2;
    run_hex("81c300000000 fe07 ffc9 75f4 f4");
    assert_int_equal(m->s.gpr[GPR_RBX], 199 * 200 / 2);
}

/* Data next to code is written often: right, and without outdating the code each time. */
static void test_data_beside_code(void **state) {
    (void)state;
    m->s.gpr[GPR_RCX] = 100000;
    m->s.gpr[GPR_RDI] = SM_CODE + 0x800;
    sm_put(m, SM_CODE + 0x800, 8, 0);
    run_hex("83070148834708 03 ffc9 75f4 f4");
    assert_int_equal(sm_get(m, SM_CODE + 0x800, 4), 100000);
    assert_int_equal(sm_get(m, SM_CODE + 0x808, 4), 300000);
}

/* A page of code becomes data, and code again. */
static void test_code_data_code(void **state) {
    (void)state;
    sm_hex(m, POOL, "b801000000 c3");
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RCX] = 100;
    /* call rdi; mov ebx,eax; L: inc dword [rdi+0x100]; dec ecx; jnz L; mov byte [rdi+1],9; call */
    run_hex("ffd7 89c3 ff8700010000 ffc9 75f6 c6470109 ffd7 f4");
    assert_int_equal(m->s.gpr[GPR_RBX], 1);
    assert_int_equal(m->s.gpr[GPR_RAX], 9);
    assert_int_equal(sm_get(m, POOL + 0x100, 4), 100);
    sm_put(m, POOL + 1, 1, 0x33); /* a device writes */
    run_hex("ffd7 f4");
    assert_int_equal(m->s.gpr[GPR_RAX], 0x33);
}

/* REP STOS over its own page's code, and a string of NOPs run afterwards. */
static void test_smc_string(void **state) {
    (void)state;
    m->s.gpr[GPR_RDI] = SM_CODE + 8;
    m->s.gpr[GPR_RCX] = 2;
    m->s.gpr[GPR_RAX] = 0x90;
    m->s.gpr[GPR_RBX] = 7;
    run_hex("f3aa eb04 90909090 ffc3 f4"); /* inc ebx becomes two NOPs */
    assert_int_equal(m->s.gpr[GPR_RBX], 7);
}

/* --- dirty log, statistics, restart ------------------------------------------------------------
 */

static void test_dirty(void **state) {
    (void)state;
    u64 bits[SM_RAM / 4096 / 64] = {0};
    m->s.gpr[GPR_RDI] = WINDOW + 0x2000;
    run_hex("8907 f4");
    assert_int_equal(m->vm.ops->dirty_log(&m->vm, true), 0);
    run_hex("8907 8b8700100000 f4");
    assert_int_equal(m->vm.ops->dirty_get(&m->vm, 0, SM_RAM, bits), 0);
    u64 page = (POOL + 0x2000) / 4096;
    assert_true(bits[page / 64] & BIT(page % 64));
    assert_false(bits[(page + 1) / 64] & BIT((page + 1) % 64));
    memset(bits, 0, sizeof(bits));
    assert_int_equal(m->vm.ops->dirty_get(&m->vm, 0, SM_RAM, bits), 0);
    assert_false(bits[page / 64] & BIT(page % 64));
    run_hex("8907 f4");
    assert_int_equal(m->vm.ops->dirty_get(&m->vm, 0, SM_RAM, bits), 0);
    assert_true(bits[page / 64] & BIT(page % 64));
    assert_int_equal(m->vm.ops->dirty_log(&m->vm, false), 0);
}

static void test_count(void **state) {
    (void)state;
    struct engine_stats a, b;
    if (getenv("SOSIA_TEST_TRANSLATOR")) {
        skip(); /* translated code does not count */
    }
    m->s.gpr[GPR_RCX] = 1000;
    m->vm.ops->stats(&m->vcpu, &a);
    run_hex("39c8 7500 ffc9 75f8 f4");
    m->vm.ops->stats(&m->vcpu, &b);
    assert_int_equal(b.instructions - a.instructions, 4001);
    m->s.gpr[GPR_RDI] = 0x900000; /* not mapped */
    run_fault("90 90 8b07 90 f4", EXC_PF);
    m->vm.ops->stats(&m->vcpu, &a);
    assert_int_equal(a.instructions - b.instructions, 3); /* two NOPs, and the handler's HLT */
    assert_int_equal(a.exceptions - b.exceptions, 1);
}

static void test_kick(void **state) {
    (void)state;
    sm_hex(m, SM_CODE, "ebfe");
    m->s.rip = SM_CODE;
    m->vm.ops->kick(&m->vcpu);
    assert_int_equal(sm_run(m), EXIT_KICK);
    m->vcpu.attention = ATTN_PAUSE;
    assert_int_equal(sm_more(m), EXIT_KICK);
    assert_int_equal(m->s.rip, SM_CODE);
    m->vcpu.attention = 0;
}

/* Real mode: wrapping addresses, a limit, a block at the segment's end. */
static void test_real_mode(void **state) {
    (void)state;
    sm_setup(m, SM_REAL, 0);
    sm_hex(m, SM_CODE, "b80100 40 bbfeff 8907 8b0f f4");
    m->s.seg[SEG_DS].base = SM_DATA;
    m->s.rip = 0;
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(m->s.gpr[GPR_RAX], 2);
    assert_int_equal(m->s.gpr[GPR_RCX] & 0xffff, 2);
    m->s.gpr[GPR_RBX] = 0xffff;
    m->s.rip = 7; /* a word at offset 0xffff: #GP, through vector 13 */
    sm_run(m);
    assert_int_equal(m->s.rip - 1, (SM_HANDLER & 0xffff) + 13 * 16);
}

/* --- two processors ----------------------------------------------------------------------------
 */

struct pair {
    struct engine_vcpu ev;
    struct cpu_state s;
};

static void *second(void *arg) {
    struct pair *p = arg;
    struct vm_exit exit;
    do {
        m->vm.ops->run(&p->ev, &exit);
    } while (exit.kind == EXIT_KICK);
    return (void *)(uintptr_t)exit.kind;
}

static void second_create(struct pair *p) {
    struct err err = {0};
    memset(p, 0, sizeof(*p));
    p->ev.vm = &m->vm;
    p->ev.id = 1;
    assert_int_equal(m->vm.ops->vcpu_create(&p->ev, &err), 0);
}

/* Locked increments from two vCPUs, also over a page end, lose nothing. */
static void test_lock_two(void **state) {
    (void)state;
    if (m->vm.translator.verify) {
        skip(); /* lock-step is for one vCPU */
    }
    struct pair p;
    pthread_t thread;
    second_create(&p);
    m->s.gpr[GPR_RDI] = WINDOW + 0x10;
    m->s.gpr[GPR_RSI] = WINDOW + 0x1ffe; /* r8: over a cache line */
    m->s.gpr[GPR_R8] = WINDOW + 0x23e;
    m->s.gpr[GPR_RCX] = 20000;
    m->s.rip = SM_CODE;
    /* lock inc dword [rdi]; lock add dword [rsi], 1; dec ecx; jnz */
    sm_hex(m, SM_CODE, "f0ff07 f0830601 f041830001 ffc9 75f0 f4");
    p.s = m->s;
    p.s.gpr[GPR_RSP] = SM_STACK - 0x800;
    assert_int_equal(m->vm.ops->state_set(&p.ev, STATE_ALL, &p.s), 0);
    pthread_create(&thread, NULL, second, &p);
    assert_int_equal(sm_run(m), EXIT_HLT);
    pthread_join(thread, NULL);
    assert_int_equal(sm_get(m, POOL + 0x10, 4), 40000);
    assert_int_equal(sm_get(m, POOL + 0x1ffe, 4), 40000);
    assert_int_equal(sm_get(m, POOL + 0x23e, 4), 40000);
    m->vm.ops->vcpu_destroy(&p.ev);
}

/* One vCPU patches the code that the other runs, with a handshake in memory: no patch is missed. */
static void test_cross_modify(void **state) {
    (void)state;
    if (m->vm.translator.verify) {
        skip(); /* lock-step is for one vCPU */
    }
    struct pair p;
    pthread_t thread;
    second_create(&p);
    sm_hex(m, POOL, "b800000000 c3"); /* mov eax, N; ret */
    m->s.gpr[GPR_RDI] = WINDOW;
    m->s.gpr[GPR_RSI] = WINDOW + 0x2000; /* request, answer at +64 */
    m->s.gpr[GPR_RCX] = 2000;
    m->s.gpr[GPR_RBX] = 0;
    p.s = m->s;
    /* the runner: wait until [rsi] == ecx; serialise (cpuid); call rdi; [rsi+64] = eax; dec; jnz */
    sm_hex(m, SM_CODE + 0x200,
           "390e 75fc 5153 31c0 0fa2 5b59 ffd7 89 4640 89c0 29c8 09c3 ffc9 75e5 f4");
    /* the writer: [rdi+1] = ecx; [rsi] = ecx; wait until [rsi+64] == ecx; dec; jnz */
    sm_hex(m, SM_CODE, "894f01 890e 394e40 75fb ffc9 75f2 f4");
    p.s.rip = SM_CODE + 0x200;
    p.s.gpr[GPR_RSP] = SM_STACK - 0x800;
    m->s.rip = SM_CODE;
    assert_int_equal(m->vm.ops->state_set(&p.ev, STATE_ALL, &p.s), 0);
    pthread_create(&thread, NULL, second, &p);
    assert_int_equal(sm_run(m), EXIT_HLT);
    pthread_join(thread, NULL);
    assert_int_equal(m->vm.ops->state_get(&p.ev, STATE_ALL, &p.s), 0);
    assert_int_equal(p.s.gpr[GPR_RBX], 0);
    m->vm.ops->vcpu_destroy(&p.ev);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(test_crossing),
        T(test_crossing_fault),
        T(test_read_only),
        T(test_canonical),
        T(test_mmio_lock),
        T(test_alignment),
        T(test_invlpg),
        T(test_cr3_flush),
        T(test_pcid),
        T(test_code_remap),
        T(test_code_remap_loop),
        T(test_code_global),
        T(test_fetch_faults),
        T(test_crossing_code),
        T(test_smc_next),
        T(test_smc_loop),
        T(test_smc_alias),
        T(test_data_beside_code),
        T(test_code_data_code),
        T(test_smc_string),
        T(test_dirty),
        T(test_count),
        T(test_kick),
        T(test_real_mode),
        T(test_lock_two),
        T(test_cross_modify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
