/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the translator by themselves: tables of translations (look.c), flags that follow from
 * registers (tr_flags.c), operands that are looked up once (tr_share.c, tr_group.c), 32-bit code's
 * own instructions, counters. */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engines/soft/look.h"
#include "engines/soft/tr.h"
#include "engines/soft/tr_audit.h"
#include "tests/unit/soft_machine.h"

static struct sm *m;
static struct soft_vcpu *c;

static int set_up(void **state) {
    (void)state;
    setenv("SOSIA_TEST_TRANSLATOR", "1", 0);
    m = sm_create();
    c = soft_of(&m->vcpu);
    sm_setup(m, SM_LONG, 0);
    sm_hex(m, SM_CODE, "f4");
    assert_int_equal(sm_run(m), EXIT_HLT);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

/* --- look.c ------------------------------------------------------------------------------------
 */

#define PAGE_A 0x7fff12345000ull
#define PAGE_B 0x7ffe12345000ull /* the same slot */

static u32 slot_of(u64 linear) {
    return (u32)linear >> PAGE_SHIFT;
}

/* The table that generated code would look into. */
static const struct look_set *table(void) {
    return (const struct look_set *)(uintptr_t)(c->look - LOOK_BIAS);
}

static bool fill(u64 page, bool write, u64 phys) {
    struct tlb_entry e = {.read = page, .write = write ? page : TLB_NONE, .addend = 0x1000};
    return soft_look_fill(c, page + 0x123, &e, phys, write ? ACCESS_WRITE : ACCESS_READ);
}

static void test_look_fill(void **state) {
    (void)state;
    struct tlb_entry slow = {.read = PAGE_A | TLB_SLOW, .write = TLB_NONE, .addend = 1};
    assert_false(soft_look_fill(c, PAGE_A, &slow, 0x5000, ACCESS_READ));
    assert_int_equal(table()->read[slot_of(PAGE_A)], 0);
    assert_true(fill(PAGE_A, false, 0x5000));
    assert_true(table()->read[slot_of(PAGE_A)] == (PAGE_A | PAGE_MASK));
    assert_int_equal(table()->write[slot_of(PAGE_A)], 0);
    assert_int_equal(table()->addend[slot_of(PAGE_A)], 0x1000);
    assert_true(fill(PAGE_A, true, 0x5000));
    assert_true(table()->write[slot_of(PAGE_A)] == (PAGE_A | PAGE_MASK));
    assert_true(fill(PAGE_B, false, 0x6000)); /* takes the slot over */
    assert_true(table()->read[slot_of(PAGE_A)] == (PAGE_B | PAGE_MASK));
    assert_int_equal(table()->write[slot_of(PAGE_A)], 0);
}

static u32 context(void) {
    return (u32)(c->tlb->now - c->tlb->context);
}

static void test_look_forget(void **state) {
    struct soft_look *look = c->tlb->look;
    u32 a = slot_of(PAGE_A), b = a + 1;
    (void)state;
    fill(PAGE_A, true, 0x5000);
    fill(PAGE_A + PAGE_SIZE, true, 0x6000 | PHYS_GLOBAL);
    soft_look_drop_writes(look, 0x6000);
    assert_int_not_equal(table()->write[a], 0);
    assert_int_equal(table()->write[b], 0);
    assert_int_not_equal(table()->read[b], 0);
    soft_look_drop_all_writes(look);
    assert_int_equal(table()->write[a], 0);
    fill(PAGE_A, true, 0x5000);
    soft_look_clear(look, context(), true); /* global ones stay */
    assert_int_equal(table()->read[a] | table()->write[a], 0);
    assert_int_not_equal(table()->read[b], 0);
    soft_look_clear(look, context(), false);
    assert_int_equal(table()->read[b], 0);
    fill(PAGE_A, false, 0x5000);
    soft_look_drop_page(look, context(), PAGE_A + 5, false);
    assert_int_equal(table()->read[a], 0);
}

static void test_look_large(void **state) {
    struct soft_look *look = c->tlb->look;
    u64 base = PAGE_A & ~(u64)0x3fffff;
    (void)state;
    fill(base, false, 0x5000 | PHYS_2M);
    fill(base + 0x3000, false, 0x8000 | PHYS_2M);
    fill(base + 0x4000, false, 0x9000);
    fill(base + 0x400000, false, 0x10000 | PHYS_2M);
    soft_look_drop_page(look, context(), base + 0x1000, true);
    assert_int_equal(table()->read[slot_of(base)], 0);
    assert_int_equal(table()->read[slot_of(base + 0x3000)], 0);
    assert_int_not_equal(table()->read[slot_of(base + 0x4000)], 0); /* a small page of its own */
    assert_int_not_equal(table()->read[slot_of(base + 0x400000)], 0);
    soft_look_clear(look, context(), false);
}

/* Too much touched, or too many fills: all tables begin anew. */
static void test_look_reset(void **state) {
    struct soft_look *look = c->tlb->look;
    u64 resets = look->resets;
    (void)state;
    for (u32 n = 0; n <= look->touched_max; n++) {
        assert_true(fill((u64)n << (PAGE_SHIFT + LOOK_REGION_BITS), false, 0x5000));
    }
    assert_int_equal(look->resets, resets + 1);
    assert_true(look->touched < look->touched_max);
    for (u32 n = 0; n <= LOOK_FILLS; n++) {
        assert_true(fill(n & 1 ? PAGE_A : PAGE_B, false, 0x5000));
        assert_true(look->fills <= LOOK_FILLS);
    }
    assert_int_equal(look->resets, resets + 2);
    u32 slot = slot_of(PAGE_A);
    assert_true(table()->read[slot] == (PAGE_B | PAGE_MASK));
    assert_true(table()->read[0] == look_none(0));
}

/* What is global stays when room is made, and is forgotten as before. */
static void test_look_global(void **state) {
    struct soft_look *look = c->tlb->look;
    u64 kernel = 0xffffffff81000000, beside = 0x7fff81001000, away = 0x7fff91000000, resets;
    (void)state;
    if (c->verify) { /* forgets all */
        skip();
    }
    resets = look->resets;
    assert_true(fill(kernel, true, 0x5000 | PHYS_GLOBAL));
    assert_true(fill(beside, true, 0x6000));
    assert_true(fill(away, true, 0x7000));
    for (u32 n = 0; look->resets == resets; n++) {
        assert_true(fill((u64)n << (PAGE_SHIFT + LOOK_REGION_BITS), false, 0x8000));
    }
    u32 k = slot_of(kernel);
    assert_true(table()->read[k] == (kernel | PAGE_MASK) && table()->addend[k] == 0x1000);
    assert_true(table()->write[k] == (kernel | PAGE_MASK));
    assert_int_equal(table()->read[slot_of(beside)] | table()->write[slot_of(beside)], 0);
    assert_int_equal(table()->read[slot_of(away)] | table()->write[slot_of(away)], 0);
    assert_true(look->touched < 10 && look->fills < 10);
    u64 other = kernel + PAGE_SIZE;
    assert_true(fill(other, true, 0x9000 | PHYS_GLOBAL));
    soft_look_drop_page(look, (u32)(c->tlb->now - c->tlb->context), other, false);
    assert_int_equal(table()->read[slot_of(other)], 0);
    soft_look_drop_writes(look, 0x5000);
    assert_true(table()->write[k] == 0 && table()->read[k] != 0);
    soft_look_clear(look, (u32)(c->tlb->now - c->tlb->context), true);
    assert_int_not_equal(table()->read[k], 0);
    soft_look_clear(look, (u32)(c->tlb->now - c->tlb->context), false);
    assert_int_equal(table()->read[k], 0);
}

/* Where nearly all is global, all goes: else each fill would make room anew. */
static void test_look_all_global(void **state) {
    struct soft_look *look = c->tlb->look;
    (void)state;
    for (u32 n = 1; n <= look->touched_max; n++) {
        u64 page = 0xffffffff00000000 | (u64)n << (PAGE_SHIFT + LOOK_REGION_BITS);
        assert_true(fill(page, false, (page & UINT32_MAX) | PHYS_GLOBAL));
    }
    u64 resets = look->resets;
    for (u32 n = 0; n < 1000; n++) {
        assert_true(fill(n & 1 ? PAGE_A : PAGE_B, false, 0x5000));
    }
    assert_true(look->resets - resets <= 1 && look->touched < look->touched_max);
}

/* --- tr_flags.c --------------------------------------------------------------------------------
 */

enum { FAULTS = 0x40000000 }; /* not mapped */

/* Runs to the page fault: RFLAGS in its frame. */
static u64 faulted_flags(void) {
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), EXC_PF);
    assert_int_equal(m->s.cr2, FAULTS);
    return sm_frame(m, 3, 8) & FLAG_ARITH;
}

/* RFLAGS in the frame of the page fault behind `code`, whose flags nobody reads. */
static u64 frame_flags(const char *code, u64 a, u64 b) {
    sm_setup(m, SM_LONG, 0);
    u32 n = sm_hex(m, SM_CODE, code);
    sm_hex(m, SM_CODE + n, "8b0a 83c101 f4"); /* mov ecx, [rdx]; add ecx, 1; hlt */
    m->s.gpr[GPR_RAX] = a;
    m->s.gpr[GPR_RBX] = b;
    m->s.gpr[GPR_RDX] = FAULTS;
    return faulted_flags();
}

/* The same by the processor. */
#define NATIVE(text)                                                                               \
    static u64 text##_flags(u64 a, u64 b) {                                                        \
        u64 f;                                                                                     \
        __asm__("sub $128, %%rsp\n\t" CODE_##text "\n\tpushfq\n\tpop %0\n\tadd $128, %%rsp"        \
                : "=&r"(f), "+a"(a), "+b"(b)::"cc");                                               \
        return f & FLAG_ARITH;                                                                     \
    }
#define CODE_add   "add %%rbx, %%rax"
#define CODE_add32 "add %%ebx, %%eax"
#define CODE_sub   "sub %%rbx, %%rax"
#define CODE_sub8  "sub %%bl, %%al"
#define CODE_cmp16 "cmp %%bx, %%ax"
#define CODE_cmp   "cmp %%rbx, %%rax"
#define CODE_test  "test %%ebx, %%eax"
#define CODE_and   "and %%rbx, %%rax"
#define CODE_xor   "xor %%bx, %%ax"
#define CODE_or    "or %%ebx, %%eax"
#define CODE_neg   "neg %%rax"
#define CODE_neg8  "neg %%al"
#define CODE_imm   "cmp $-3, %%eax"
NATIVE(add)
NATIVE(add32)
NATIVE(sub)
NATIVE(sub8)
NATIVE(cmp16)
NATIVE(cmp)
NATIVE(test)
NATIVE(and)
NATIVE(xor)
NATIVE(or)
NATIVE(neg)
NATIVE(neg8)
NATIVE(imm)

struct recipe_row {
    const char *code;
    u64 (*native)(u64 a, u64 b);
    u64 undefined;
};
static const struct recipe_row recipe_row[] = {
    {"4801d8", add_flags, 0},      {"01d8", add32_flags, 0},       {"4829d8", sub_flags, 0},
    {"28d8", sub8_flags, 0},       {"6639d8", cmp16_flags, 0},     {"4839d8", cmp_flags, 0},
    {"85d8", test_flags, FLAG_AF}, {"4821d8", and_flags, FLAG_AF}, {"6631d8", xor_flags, FLAG_AF},
    {"09d8", or_flags, FLAG_AF},   {"48f7d8", neg_flags, 0},       {"f6d8", neg8_flags, 0},
    {"83f8fd", imm_flags, 0},
};
static const u64 recipe_value[] = {
    0,           1,         2,       0x7f,       0x80,           0xff,
    0x7fff,      0x8000,    0xffff,  0x7fffffff, 0x80000000,     0xffffffff,
    0x100000000, INT64_MAX, BIT(63), UINT64_MAX, UINT64_MAX - 2, 0x123456789abcdef0};

static void recipe_check(const struct recipe_row *r, u64 a, u64 b,
                         u64 (*run)(const char *, u64, u64)) {
    u64 want = r->native(a, b) & ~r->undefined, got = run(r->code, a, b) & ~r->undefined;
    if (want != got) {
        fail_msg("%s: %llx, %llx: want %llx, got %llx", r->code, (unsigned long long)a,
                 (unsigned long long)b, (unsigned long long)want, (unsigned long long)got);
    }
}

static void recipe_check_all(u64 (*run)(const char *, u64, u64)) {
    for (size_t r = 0; r < ARRAY_LEN(recipe_row); r++) {
        for (size_t i = 0; i < ARRAY_LEN(recipe_value); i++) {
            for (size_t k = 0; k < ARRAY_LEN(recipe_value); k++) {
                recipe_check(&recipe_row[r], recipe_value[i], recipe_value[k], run);
            }
        }
    }
}

static void test_recipes(void **state) {
    (void)state;
    recipe_check_all(frame_flags);
    assert_true(c->tr->recipe_count > 0);
}

/* The same where a jump forwards leads from the code to the fault, for the twelfth time. */
static u64 jump_flags(const char *code, u64 a, u64 b) {
    sm_setup(m, SM_LONG, 0);
    u32 n = sm_hex(m, SM_CODE, "be0c000000"); /* mov esi, 12 */
    u32 loop = n;
    n += sm_hex(m, SM_CODE + n, "4c89c0"); /* 1: mov rax, r8 */
    n += sm_hex(m, SM_CODE + n, code);
    /* jb 2f; jae 2f; hlt; 2: mov ecx, [rdx]; add ecx, 1; dec esi; cmovz rdx, rdi; jmp 1b */
    n += sm_hex(m, SM_CODE + n, "7203 7301 f4 8b0a 83c101 ffce 480f44d7 eb00");
    sm_put(m, SM_CODE + n - 1, 1, (loop - n) & 0xff);
    m->s.gpr[GPR_R8] = a;
    m->s.gpr[GPR_RBX] = b;
    m->s.gpr[GPR_RDX] = SM_DATA;
    m->s.gpr[GPR_RDI] = FAULTS;
    return faulted_flags();
}

/* That trace alone is outdated. */
static void trace_kill(u32 block) {
    c->tr->blocks[block].seen--;
    soft_tr_outdated(c->vm, c->tr->blocks[block].gpa);
    soft_tr_purge(c);
    assert_true(c->tr->blocks[block].dead);
}

/* The edge of a live trace that tells its target by its piece, 0: none. */
static u32 telling(void) {
    for (u32 n = c->tr->exit_count; --n;) {
        const struct tr_exit *e = &c->tr->exits[n];
        if (e->kind == TR_EDGE && e->access == (EDGE_PIECE | EDGE_TELLS) && e->target != TR_NONE) {
            return n;
        }
    }
    return 0;
}

static void test_recipes_brought(void **state) {
    char text[160];
    (void)state;
    recipe_check(&recipe_row[5], 3, 5, jump_flags);
    u32 n = telling();
    const struct tr_exit *e = &c->tr->exits[n];
    const u8 *piece = c->tr->code.rw + e->unjoined;
    assert_int_not_equal(n, 0);
    assert_memory_equal(piece + 2, &e->flags, 4);
    assert_true(tr_audit_all(c, text, sizeof(text)));
    c->tr->code.rw[e->unjoined + 7]++; /* beside the entry */
    assert_false(tr_audit_all(c, text, sizeof(text)));
    c->tr->code.rw[e->unjoined + 7]--;
    trace_kill(e->target); /* the piece leads to the monitor again, with the exit's number */
    assert_int_equal(e->target, TR_NONE);
    assert_int_equal(e->access, EDGE_PIECE);
    assert_memory_equal(piece + 2, &n, 4);
    assert_true(tr_audit_all(c, text, sizeof(text)));
    recipe_check_all(jump_flags);
}

/* --- tr_share.c --------------------------------------------------------------------------------
 */

/* Instructions of the trace that is made of the code and what the first shares. */
static u32 shared(u8 mode, const char *hex, bool *write) {
    static struct soft_tr t;
    u8 code[64];
    u32 n = sm_hex(m, SM_CODE, hex), at = 0;
    memset(&t, 0, sizeof(t));
    t.mode = mode;
    t.c = c;
    t.host_avx = true;
    memcpy(code, m->hram.hva + SM_CODE, n);
    while (at < n) {
        struct tr_insn *i = &t.trace[t.trace_len++];
        assert_int_equal(insn_decode(&i->insn, code + at, n - at, mode), DECODE_OK);
        i->class = i->insn.id == INSN_LEA   ? CLASS_LEA
                   : i->insn.id == INSN_NOP ? CLASS_NOP
                   : tr_can_copy(&t, i)     ? CLASS_COPY
                                            : CLASS_STEP;
        at += i->insn.len;
    }
    return tr_share(&t, 0, write);
}

static void test_share(void **state) {
    bool write;
    (void)state;
    assert_int_equal(shared(64, "488b03 4883c001 488903", &write), 3);
    assert_true(write);
    assert_int_equal(shared(64, "488b4308 90 488d5101 483b4308", &write), 4);
    assert_false(write);
    assert_int_equal(shared(64, "488b03 48890b 48894b08", &write), 2); /* another place */
    assert_true(write);
    assert_int_equal(shared(64, "488b1b 48891b", &write), 1);        /* the base changes */
    assert_int_equal(shared(64, "8b03 488903", &write), 1);          /* a longer one */
    assert_int_equal(shared(64, "488b03 678903", &write), 1);        /* another address size */
    assert_int_equal(shared(64, "658b03 658903", &write), 1);        /* GS */
    assert_int_equal(shared(64, "498b45 00 49894500", &write), 1);   /* r13 */
    assert_int_equal(shared(64, "488b03 4c89ee 488903", &write), 1); /* needs r13's place */
    assert_int_equal(shared(64, "488b0433 48890433", &write), 2);    /* with an index */
    assert_int_equal(shared(64, "488b0433 48890473", &write), 1);    /* another scale */
    assert_int_equal(shared(64, "8b05 00000000 890500000000", &write), 1); /* RIP */
    assert_int_equal(shared(64, "488b03 0fa2 488903", &write), 1);         /* CPUID is a step */
    assert_int_equal(shared(32, "8b03 40 8903", &write), 3);
    assert_true(write);
    assert_int_equal(shared(32, "8b03 2e8903", &write), 1); /* CS may not be written */
}

/* A page that becomes writable only with the store: the load alone raises nothing, the store does,
 * with the load done. */
static void test_share_fault(void **state) {
    u64 pt = 0x100000, data = 0x600000;
    (void)state;
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_PT + 0x2000 + (data >> 21) * 8, 8, pt | 3);
    sm_put(m, pt, 8, 0x200000 | 1); /* read only */
    sm_put(m, 0x200010, 8, 41);
    m->s.gpr[GPR_RBX] = data;
    m->s.gpr[GPR_RDX] = 7;
    sm_hex(m, SM_CODE, "488b4310 4883c001 48894310 f4");
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), EXC_PF);
    assert_int_equal(sm_frame(m, 0, 8), 3); /* present, write */
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + 8);
    assert_int_equal(m->s.gpr[GPR_RAX], 42);
    assert_int_equal(m->s.cr2, data + 0x10);
    assert_int_equal(sm_get(m, pt, 8) & 0x60, 0x20); /* accessed, not dirty */
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_PT + 0x2000 + (data >> 21) * 8, 8, pt | 3);
    sm_put(m, pt, 8, 0x200000 | 3);
    sm_put(m, 0x200010, 8, 41);
    m->s.gpr[GPR_RBX] = data;
    m->s.gpr[GPR_RCX] = 100;
    /* 1: mov rax, [rbx+10h]; add rax, 1; mov [rbx+10h], rax; dec ecx; jnz 1b; hlt */
    sm_hex(m, SM_CODE, "488b4310 4883c001 48894310 ffc9 75f0 f4");
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), -1);
    assert_int_equal(sm_get(m, 0x200010, 8), 141);
    assert_int_equal(sm_get(m, pt, 8) & 0x60, 0x60);
}

/* A loop reads and writes under all rights, then, by way of rights that it takes from itself, once
 * more: what it has looked up before must not let it. */
static void pkru_taken(const char *change, u64 rip, u32 error) {
    u64 image = 0x60000, data = 0x280000; /* in the second large page, which has key 1 */
    sm_setup(m, SM_LONG, 3);
    m->s.cr4 |= CR4_PKE | CR4_OSXSAVE;
    m->s.xcr0 |= XCR0_PKRU;
    sm_put(m, SM_PT + 0x2008, 8, 0x200087 | BIT(59));
    sm_put(m, image + 512, 8, XCR0_PKRU);
    sm_put(m, image + m->policy.pkru_offset, 8, 1 << 2); /* AD */
    m->s.gpr[GPR_RBP] = image;
    /* 0: mov esi, 32; 1: mov bl, [data]; mov [data+1], bl; dec esi; jnz 1b; inc edi; cmp edi, 2;
     * jne 2f; hlt; 2: change; jmp 0b */
    u32 n = sm_hex(m, SM_CODE, "be20000000 8a1c2500002800 881c2501002800 ffce 75ee ffc7 83ff02");
    n += sm_hex(m, SM_CODE + n, "7501 f4");
    n += sm_hex(m, SM_CODE + n, change);
    sm_hex(m, SM_CODE + n, "e9d0ffffff");
    assert_int_equal(n, 43);
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), EXC_PF);
    assert_int_equal(sm_frame(m, 0, 8), error);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + rip);
    assert_int_equal(m->s.cr2, rip == 5 ? data : data + 1);
    assert_int_equal(m->s.gpr[GPR_RDI], 1);
}

static void test_pkru(void **state) {
    (void)state;
    sm_offer_pku(m);
    pkru_taken("31c9 31d2 b808000000 0f01ef", 12, 0x27); /* wrpkru: WD */
    pkru_taken("31c9 31d2 b804000000 0f01ef", 5, 0x25);  /* AD */
    pkru_taken("b800020000 31d2 0fae6d00 90", 5, 0x25);  /* xrstor */
    pkru_taken("b800020000 31d2 480fae6d00", 5, 0x25);   /* xrstor64 */
}

/* --- looks that keep flags (tr_mem.c) ----------------------------------------------------------
 */

enum { KEEP_FLAGS = FLAG_CF | FLAG_OF | FLAG_SF };

struct keep_row {
    const char *code; /* adc rax, .. */
    u64 rbx, rcx, operand;
};

static void keep_setup(const struct keep_row *r, u64 flags) {
    sm_setup(m, SM_LONG, 0);
    u32 n = sm_hex(m, SM_CODE, r->code);
    sm_hex(m, SM_CODE + n, "9c 5a f4"); /* pushf; pop rdx; hlt */
    m->s.gpr[GPR_RAX] = 1000;
    m->s.gpr[GPR_RBX] = r->rbx;
    m->s.gpr[GPR_RCX] = r->rcx;
    m->s.rflags |= flags;
}

/* Has a trace since block number `first` a look of that kind: jrcxz over a jump? */
static bool keeps_flags(u32 first) {
    const struct soft_tr *t = c->tr;
    for (u32 at = t->blocks[first].from; first < t->block_count && at + 2 < t->used; at++) {
        if (t->code.rw[at] == 0xe3 && t->code.rw[at + 1] == 5 && t->code.rw[at + 2] == 0xe9) {
            return true;
        }
    }
    return false;
}

/* Without it looks do not keep flags. */
static void need_bmi2(void) {
    if (!c->tr->host_bmi2) {
        skip();
    }
}

static void test_keep(void **state) {
    static const struct keep_row row[] = {
        {"481303", SM_DATA, 7, SM_DATA},
        {"48134308", SM_DATA, 7, SM_DATA + 8},
        {"481383f8ffffff", SM_DATA, 7, SM_DATA - 8},
        {"481301", 7, SM_DATA, SM_DATA},
        {"48134110", 7, SM_DATA, SM_DATA + 16},
        {"481304cb", SM_DATA, 3, SM_DATA + 24},
        {"481344cb08", SM_DATA, 3, SM_DATA + 32},
        {"481304d9", 3, SM_DATA, SM_DATA + 24},
        {"48130409", 7, SM_DATA / 2, SM_DATA},
        {"48130424", 7, 7, SM_STACK},
    };
    (void)state;
    need_bmi2();
    for (size_t n = 0; n < 2 * ARRAY_LEN(row); n++) {
        const struct keep_row *r = &row[n / 2];
        u64 carry = n & 1, first = c->tr->block_count;
        keep_setup(r, carry ? KEEP_FLAGS : KEEP_FLAGS & ~FLAG_CF);
        sm_put(m, r->operand, 8, 0x7ffffffffffffff0);
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_int_equal(sm_vector(m), -1);
        assert_true(m->s.gpr[GPR_RAX] == 0x7ffffffffffffff0ull + 1000 + carry);
        assert_true(m->s.gpr[GPR_RBX] == r->rbx && m->s.gpr[GPR_RCX] == r->rcx);
        assert_int_equal(m->s.gpr[GPR_RDX] & KEEP_FLAGS, FLAG_OF | FLAG_SF);
        assert_true(keeps_flags((u32)first));
    }
}

/* Nobody has these pages: flags and RCX are what they were. Around address 0 the tables' own
 * numbers for "none" must not be met. */
static void test_keep_faults(void **state) {
    static const u64 at[] = {FAULTS,        0 - 8ull,      0 - 7ull,      0 - 1ull,
                             0 - 0x1000ull, 0 - 0x1001ull, 0 - 0x1007ull, 0 - 0x1008ull,
                             0x80000000,    0x7fffffff,    0xffffffff,    0x7ffffffff000,
                             BIT(47) - 8};
    (void)state;
    need_bmi2();
    for (size_t n = 0; n < 4 * ARRAY_LEN(at); n++) {
        bool by_rcx = n & 1, store = n & 2;
        u64 address = at[n / 4];
        struct keep_row r = {.rbx = by_rcx ? 7 : address, .rcx = by_rcx ? address : 7};
        u32 first = c->tr->block_count;
        r.code = store ? by_rcx ? "481111" : "481113" : by_rcx ? "481301" : "481303";
        keep_setup(&r, KEEP_FLAGS);
        assert_int_equal(sm_run(m), EXIT_HLT);
        bool wraps = address + 7 < address;
        assert_true(sm_vector(m) == EXC_PF || (wraps && sm_vector(m) == EXC_GP));
        assert_true(wraps || m->s.cr2 == address);
        assert_int_equal(sm_frame(m, 3, 8) & KEEP_FLAGS, KEEP_FLAGS);
        assert_true(m->s.gpr[GPR_RCX] == r.rcx && m->s.gpr[GPR_RAX] == 1000);
        assert_true(keeps_flags(first));
    }
}

/* --- tr_group.c --------------------------------------------------------------------------------
 */

static u32 looks_of(const char *hex, u32 *groups) {
    u32 first = c->tr->exit_count, looks = 0;
    sm_setup(m, SM_LONG, 0);
    first = c->tr->exit_count;
    m->s.gpr[GPR_RBX] = SM_DATA + 64;
    m->s.gpr[GPR_RSI] = SM_DATA + 0x800;
    sm_hex(m, SM_CODE, hex);
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), -1);
    *groups = 0;
    for (u32 n = first; n < c->tr->exit_count; n++) {
        const struct tr_exit *e = &c->tr->exits[n];
        looks += e->kind == TR_MISS;
        *groups += e->kind == TR_MISS && (e->ea_how & EA_GROUP);
    }
    return looks;
}

static void test_groups(void **state) {
    u32 groups;
    (void)state;
    /* mov [rbx], rax; mov rdx, [rbx+8]; mov ecx, [rbx+20h] */
    assert_int_equal(looks_of("488903 488b5308 8b4b20 f4", &groups), 1);
    assert_int_equal(groups, 1);
    /* mov [rbx], rax; add rbx, 16; mov rcx, [rsi]; lea rdx, [rbx-8]; mov [rdx+8], rax */
    assert_int_equal(looks_of("488903 4883c310 488b0e 488d53f8 48894208 f4", &groups), 2);
    assert_int_equal(groups, 1);
    assert_int_equal(sm_get(m, SM_DATA + 80, 8), sm_get(m, SM_DATA + 64, 8));
    /* push rax; sub rsp, 20h; mov [rsp+8], rax; mov rcx, [rsi]; add rsp, 20h; pop rdx */
    assert_int_equal(looks_of("50 4883ec20 4889442408 488b0e 4883c420 5a f4", &groups), 2);
    assert_int_equal(looks_of("488b03 488b8300010000 f4", &groups), 2);           /* too far away */
    assert_int_equal(looks_of("488b03 31db 488b9b40000400 f4", &groups), 2);      /* another base */
    assert_int_equal(looks_of("488b03 0fa2 bb40000400 488b4308 f4", &groups), 2); /* a step */
}

/* Two pages, of which the second is not there, or may only be read. */
static void cross_setup(u64 second) {
    u64 pt = 0x100000, data = 0x600000;
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_PT + 0x2000 + (data >> 21) * 8, 8, pt | 3);
    sm_put(m, pt, 8, 0x200000 | 3);
    sm_put(m, pt + 8, 8, second);
    sm_put(m, 0x200ff0, 8, 40);
    sm_put(m, 0x201000, 8, 50);
    m->s.gpr[GPR_RBX] = data + 0xff8;
    m->s.gpr[GPR_RAX] = 7;
    m->s.gpr[GPR_RCX] = 20;
}

static void test_group_crosses(void **state) {
    /* 1: add [rbx-8], rax; mov rdx, [rbx+8]; add [rbx+8], rax; dec ecx; jnz 1b; hlt */
    const char *code = "480143f8 488b5308 48014308 ffc9 75f0 f4";
    static const u64 second[] = {0, 0x201001, 0x201003};
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(second); k++) {
        cross_setup(second[k]);
        sm_hex(m, SM_CODE, code);
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_int_equal(sm_vector(m), k == 2 ? -1 : EXC_PF);
        assert_int_equal(sm_get(m, 0x200ff0, 8), k == 2 ? 180 : 47);
        assert_int_equal(sm_get(m, 0x201000, 8), k == 2 ? 190 : 50);
        if (k < 2) {
            assert_int_equal(m->s.cr2, 0x601000);
            assert_int_equal(sm_frame(m, 1, 8), SM_CODE + (k ? 8 : 4));
            assert_int_equal(sm_frame(m, 0, 8), k ? 3 : 0);
        }
    }
}

/* A group over a page end, in front of which flags are live: the trace without groups has them. */
static void test_keep_group(void **state) {
    /* 1: adc [rbx-8], rdx; adc rax, [rbx+8]; dec ecx; jnz 1b; hlt */
    const char *code = "481153f8 48134308 ffc9 75f4 f4";
    (void)state;
    need_bmi2();
    for (u32 moved = 0; moved < 2; moved++) {
        u32 turns = 40;
        u64 low = 0xfffffffffffffff0, rax = 7, high = 0xf000000000000001, carry = 1;
        cross_setup(0x201003);
        u64 at = moved ? 0x200800 : 0x200ff8, other = moved ? at + 8 : 0x201000;
        u32 first = c->tr->exit_count, kept = 0;
        m->s.gpr[GPR_RBX] = moved ? 0x600800 : 0x600ff8;
        m->s.gpr[GPR_RCX] = turns;
        m->s.gpr[GPR_RDX] = 3;
        m->s.rflags |= FLAG_CF;
        sm_put(m, at - 8, 8, low);
        sm_put(m, other, 8, high);
        sm_hex(m, SM_CODE, code);
        assert_int_equal(sm_run(m), EXIT_HLT);
        assert_int_equal(sm_vector(m), -1);
        for (u32 n = first; n < c->tr->exit_count; n++) {
            const struct tr_exit *e = &c->tr->exits[n];
            kept += e->kind == TR_MISS && (e->ea_how & EA_GROUP) && (e->ea_how & EA_KEPT);
        }
        assert_true(kept);
        for (u32 n = 0; n < turns; n++) {
            u64 sum = low + 3 + carry;
            carry = sum < low;
            low = sum;
            sum = rax + high + carry;
            carry = sum < rax || (carry && sum == rax);
            rax = sum;
        }
        assert_true(sm_get(m, at - 8, 8) == low && m->s.gpr[GPR_RAX] == rax);
        assert_int_equal(m->s.rflags & FLAG_CF, carry);
        assert_int_equal(m->s.gpr[GPR_RCX], 0);
    }
}

/* --- 32-bit code -------------------------------------------------------------------------------
 */

static void run_32(const char *hex, u64 end) {
    sm_hex(m, SM_CODE, hex);
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), -1);
    assert_int_equal(m->s.rip, SM_CODE + end + 1);
}

static void test_32(void **state) {
    static const enum sm_mode mode[] = {SM_PROT32, SM_COMPAT};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(mode); i++) {
        sm_setup(m, mode[i], 0);
        u64 traces = c->tr->stats.blocks;
        m->s.gpr[GPR_RBX] = 0xfffff000; /* an address that wraps */
        sm_put(m, SM_DATA, 4, 0x11223344);
        /* mov ecx, 10; 1: inc eax; dec ecx; jnz 1b; mov edx, [ebx+SM_DATA+1000h]; mov esi, [moffs];
         * call 2f; hlt; 2: pushf; popf; push esp; pop edi; ret */
        run_32("b90a000000 40 49 75fc 8b9300100400 8b3500000400 e801000000 f4 9c 9d 54 5f c3", 26);
        assert_int_equal(m->s.gpr[GPR_RAX], 10);
        assert_int_equal(m->s.gpr[GPR_RDX], 0x11223344);
        assert_int_equal(m->s.gpr[GPR_RSI], 0x11223344);
        assert_int_equal(m->s.gpr[GPR_RDI], SM_STACK - 4);
        assert_true(c->tr->stats.blocks > traces);
    }
}

/* GS with a base; then with a limit, which must hold. */
static void test_32_gs(void **state) {
    (void)state;
    sm_setup(m, SM_PROT32, 0);
    m->s.seg[SEG_GS].base = SM_DATA;
    sm_put(m, SM_DATA + 8, 4, 99);
    run_32("65a108000000 65ff0508000000 f4", 13); /* mov eax, gs:[8]; inc dword gs:[8] */
    assert_int_equal(m->s.gpr[GPR_RAX], 99);
    assert_int_equal(sm_get(m, SM_DATA + 8, 4), 100);
    sm_setup(m, SM_PROT32, 0);
    m->s.seg[SEG_GS].base = SM_DATA;
    m->s.seg[SEG_GS].limit = 10;
    sm_hex(m, SM_CODE, "65a107000000 65a108000000 f4");
    assert_int_equal(sm_run(m), EXIT_HLT);
    assert_int_equal(sm_vector(m), EXC_GP);
    assert_int_equal(sm_frame(m, 1, 4), SM_CODE + 6);
}

/* --- counters ----------------------------------------------------------------------------------
 */

/* Forms that work on R13 to R15 where they live, or take them from there; most
 * read what the one before wrote. The last but one is LFENCE with a register that it ignores. */
#define PLACES_HEX                                                                                 \
    "4901c5 4c01e8 4501f5 4d29fe 664101c5 4100c5 4431f0 410fb6d5 4c0fbfea 49c1e503 "               \
    "49d3ee 6641c1c705 0f90c0 49c1cd0f 0f90c2 4d85ed 410f95c6 4c0f45e8 490f48d7 "                  \
    "4d0faff5 49f7e5 4d11f7 4c19f8 c442e3f6fd 664c0f38f6f0 f3490f38f6dd 490fbae609 "               \
    "490fbafd05 490fbcd6 490fa4c507 49f7de 49f7d7 41ffc5 6641ffce 4183fd4d "                       \
    "49c7c778563412 4589ee 41b709 4995 490fc1de f3490fb8d5 410faeed 4f8d6c7505 "
#define PLACES_ASM                                                                                 \
    "add %%rax,%%r13\n\tadd %%r13,%%rax\n\tadd %%r14d,%%r13d\n\tsub %%r15,%%r14\n\t"               \
    "add %%ax,%%r13w\n\tadd %%al,%%r13b\n\txor %%r14d,%%eax\n\tmovzbl %%r13b,%%edx\n\t"            \
    "movswq %%dx,%%r13\n\tshl $0x3,%%r13\n\tshr %%cl,%%r14\n\trol $0x5,%%r15w\n\t"                 \
    "seto %%al\n\tror $0xf,%%r13\n\tseto %%dl\n\t"                                                 \
    "test %%r13,%%r13\n\tsetne %%r14b\n\tcmovne %%rax,%%r13\n\tcmovs %%r15,%%rdx\n\t"              \
    "imul %%r13,%%r14\n\tmul %%r13\n\tadc %%r14,%%r15\n\tsbb %%r15,%%rax\n\t"                      \
    "mulx %%r13,%%rbx,%%r15\n\tadcx %%rax,%%r14\n\tadox %%r13,%%rbx\n\tbt $0x9,%%r14\n\t"          \
    "btc $0x5,%%r13\n\tbsf %%r14,%%rdx\n\tshld $0x7,%%rax,%%r13\n\tneg %%r14\n\t"                  \
    "not %%r15\n\tinc %%r13d\n\tdec %%r14w\n\tcmp $0x4d,%%r13d\n\t"                                \
    "mov $0x12345678,%%r15\n\tmov %%r13d,%%r14d\n\tmov $0x9,%%r15b\n\t"                            \
    "xchg %%rax,%%r13\n\txadd %%rbx,%%r14\n\tpopcnt %%r13,%%rdx\n\t"                               \
    ".byte 0x41, 0x0f, 0xae, 0xed\n\tlea 0x5(%%r13,%%r14,2),%%r13\n\t"

static bool has_adx(void) {
    u32 eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx >> 8 & 1) && (ebx >> 19 & 1);
}

/* rax, rdx, rbx, r13, r14, r15 */
static void places_native(u64 v[6]) {
    register u64 r13 __asm__("r13") = v[3], r14 __asm__("r14") = v[4], r15 __asm__("r15") = v[5];
    u64 count = 12;
    __asm__ volatile("1:\n\t" PLACES_ASM "decl %%esi\n\tjnz 1b"
                     : "+a"(v[0]), "+d"(v[1]), "+b"(v[2]), "+r"(r13), "+r"(r14), "+r"(r15),
                       "+S"(count)
                     : "c"(3)
                     : "cc");
    v[3] = r13, v[4] = r14, v[5] = r15;
}

static void test_places(void **state) {
    static const u32 reg[] = {GPR_RAX, GPR_RDX, GPR_RBX, GPR_R13, GPR_R14, GPR_R15};
    u64 v[6] = {0x123456789abcdef, 77, 0xfedcba9876543210, UINT64_MAX - 5, BIT(63) + 1, 0x8080};
    (void)state;
    if (!has_adx()) {
        skip();
    }
    sm_setup(m, SM_LONG, 0);
    for (u32 i = 0; i < ARRAY_LEN(reg); i++) {
        m->s.gpr[reg[i]] = v[i];
    }
    m->s.gpr[GPR_RCX] = 3;
    u32 n = sm_hex(m, SM_CODE, "be0c000000"), loop = n; /* mov esi, 12 */
    n += sm_hex(m, SM_CODE + n, PLACES_HEX);
    n += sm_hex(m, SM_CODE + n, "ffce 0f8500000000 f4"); /* dec esi; jnz; hlt */
    sm_put(m, SM_CODE + n - 5, 4, loop - (n - 1));
    assert_int_equal(sm_run(m), EXIT_HLT);
    places_native(v);
    for (u32 i = 0; i < ARRAY_LEN(reg); i++) {
        assert_int_equal(m->s.gpr[reg[i]], v[i]);
    }
}

static void test_counters(void **state) {
    struct engine_stats before, after;
    (void)state;
    m->vm.translator.count = true;
    sm_setup(m, SM_LONG, 0);
    m->s.gpr[GPR_RBX] = SM_DATA;
    /* mov ecx, 1000; 1: add [rbx], ecx; nop; dec ecx; jnz 1b; hlt */
    sm_hex(m, SM_CODE, "b9e8030000 010b 90 ffc9 75f9 f4");
    m->vm.ops->stats(&m->vcpu, &before);
    assert_int_equal(sm_run(m), EXIT_HLT);
    m->vm.ops->stats(&m->vcpu, &after);
    u64 insns = after.tr.counted.instructions - before.tr.counted.instructions;
    u64 looks = after.tr.counted.looks - before.tr.counted.looks;
    assert_true(after.tr.counting);
    assert_in_range(insns, 3900, 4010);
    assert_in_range(looks, 980, 1005);
    assert_in_range(after.instructions - before.instructions, insns, 4100);
    m->vm.translator.count = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_look_fill, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_look_forget, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_look_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_look_reset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_look_global, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_look_all_global, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_recipes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_recipes_brought, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_share, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_share_fault, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keep_faults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_group_crosses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keep_group, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_32, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_32_gs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pkru, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_counters, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
