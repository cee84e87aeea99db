/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of operands over a page end (tr_group.c): often, in turns with others, with faults, with
 * code that changes or is forgotten in between. Flags are seen in the frame of the fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engines/soft/tr.h"
#include "tests/unit/soft_machine.h"

enum { PT = 0x100000, PAGES = 0x200000, OFTEN = 300 };

#define DATA   0x600000ull
#define OVER   (DATA + 0xff8)  /* the first page and the second */
#define WITHIN (DATA + 0x100)  /* the first */
#define FAULTS (DATA + 0x2ff8) /* the third and one that is not there */
#define FLAGS  (FLAG_ARITH)

/* A loop over addresses: flags, two operands 8 bytes apart, add r10, rdx. RAX is 5, RCX 9. */
static const struct row {
    const char *flags, *operands, *behind;
    u64 frame; /* flags at the fault */
    u64 over, within;
    bool loads;  /* first, and stores then; else the other way round */
    bool joined; /* does the miss lead to the other trace without C code? */
} rows[] = {
    /* cmp rax, rcx; mov [rbx], rax; mov rdx, [rbx + 8] */
    {"4839c8", "488903 488b5308", "", 0x95, 13, 19, false, true},
    /* cmp; mov rdx, [rbx]; mov [rbx + 8], rdx */
    {"4839c8", "488b13 48895308", "", 0x95, 11, 17, true, true},
    /* cmp; bt eax, ecx: no recipe */
    {"4839c8 0fa3c8", "488903 488b5308", "", 0x94, 13, 19, false, true},
    /* cmp; ..; adc r9d, 0: who reads them is in the same trace */
    {"4839c8", "488903 488b5308", "4183d100", 0x95, 13, 19, false, true},
    /* the same of mov r8, 1; neg r8 */
    {"49c7c001000000 49f7d8", "488903 488b5308", "4183d100", 0x95, 13, 19, false, true},
    /* cmp; jb 1f; jae 1f; hlt; 1: they come from another trace */
    {"4839c8 7203 7301 f4", "488903 488b5308", "", 0x95, 13, 19, false, true},
    {"4839c8 7203 7301 f4", "488b13 48895308", "", 0x95, 11, 17, true, true},
};

static struct sm *m;
static struct soft_vcpu *c;
static struct cpu_state begin;
static u32 fault_at; /* offset of the second operand's instruction */

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    c = soft_of(&m->vcpu);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

static void code_put(const struct row *r) {
    u32 n = sm_hex(m, SM_CODE, "488b1e 4883c608"); /* 1: mov rbx, [rsi]; add rsi, 8 */
    n += sm_hex(m, SM_CODE + n, r->flags);
    fault_at = n + 3;
    n += sm_hex(m, SM_CODE + n, r->operands);
    n += sm_hex(m, SM_CODE + n, r->behind);
    n += sm_hex(m, SM_CODE + n, "4901d2 ffcf 7500 f4"); /* add r10, rdx; dec edi; jnz 1b; hlt */
    sm_put(m, SM_CODE + n - 2, 1, (1 - n) & 0xff);
}

static void page_set(u32 n, bool present) {
    sm_put(m, PT + 8ull * n, 8, present ? (PAGES + ((u64)n << PAGE_SHIFT)) | 3 : 0);
}

static void prepare(const struct row *r) {
    sm_setup(m, SM_LONG, 0);
    sm_put(m, SM_PT + 0x2000 + (DATA >> 21) * 8, 8, PT | 3);
    for (u32 n = 0; n < 3; n++) {
        page_set(n, true);
    }
    code_put(r);
    m->s.gpr[GPR_RAX] = 5;
    m->s.gpr[GPR_RCX] = 9;
    m->s.gpr[GPR_RSI] = SM_DATA;
    begin = m->s;
}

/* Goes over that many of each; in turns when there are both. Returns how many looks missed. */
static u64 go(u32 over, u32 within, bool fault) {
    u32 n = 0;
    sm_put(m, PAGES + 0xff8, 8, 11);
    sm_put(m, PAGES + 0x1000, 8, 13);
    sm_put(m, PAGES + 0x100, 8, 17);
    sm_put(m, PAGES + 0x108, 8, 19);
    for (u32 o = 0, w = 0; o < over || w < within;) {
        bool next = w >= within || (o < over && o <= w);
        sm_put(m, SM_DATA + 8 * n++, 8, next ? OVER : WITHIN);
        next ? o++ : w++;
    }
    if (fault) {
        sm_put(m, SM_DATA + 8 * n++, 8, FAULTS);
    }
    m->s = begin;
    m->s.gpr[GPR_RDI] = n;
    u64 misses = c->tr ? c->tr->stats.misses : 0;
    assert_int_equal(sm_run(m), EXIT_HLT);
    return c->tr ? c->tr->stats.misses - misses : 0;
}

static u64 good(const struct row *r, u32 over, u32 within) {
    u64 misses = go(over, within, false);
    assert_int_equal(sm_vector(m), -1);
    assert_int_equal(m->s.gpr[GPR_R10], over * r->over + within * r->within);
    assert_int_equal(m->s.gpr[GPR_R9], *r->behind ? over + within : 0);
    assert_int_equal(sm_get(m, PAGES + (r->loads ? 0x1000 : 0xff8), 8),
                     over ? (r->loads ? 11 : 5) : (r->loads ? 13 : 11));
    assert_int_equal(sm_get(m, PAGES + (r->loads ? 0x108 : 0x100), 8),
                     within ? (r->loads ? 17 : 5) : (r->loads ? 19 : 17));
    return misses;
}

static void faulty(const struct row *r, u32 over, u64 cr2) {
    (void)go(over, 0, cr2 == DATA + 0x3000);
    assert_int_equal(sm_vector(m), EXC_PF);
    assert_int_equal(m->s.cr2, cr2);
    assert_int_equal(sm_frame(m, 0, 8), r->loads ? 2 : 0);
    assert_int_equal(sm_frame(m, 1, 8), SM_CODE + fault_at);
    assert_int_equal(sm_frame(m, 3, 8) & FLAGS, r->frame);
}

/* Is there anything to count? */
static bool counts(void) {
    return c->tr && !c->verify;
}

/* Where the misses of a group lead without C code, 0: nowhere. */
static u32 leads_to(const struct tr_exit *e) {
    if (e->kind != TR_MISS || !(e->ea_how & EA_GROUP)) {
        return 0;
    }
    u32 at = e->patch + (u32)e->go_on, off;
    memcpy(&off, c->tr->code.rw + at + 7, sizeof(off));
    return c->tr->code.rw[at + 1] == (0xb8 | (H_TEMP2 & 7)) ? at + 11 + off : 0;
}

/* Of live traces at SM_CODE: the one from *at on, TR_NONE. */
static u32 next_block(u32 *at) {
    while (*at) {
        const struct tr_block *b = &c->tr->blocks[(*at - 1) >> 1];
        *at = b->next_page[(*at - 1) & 1];
        if (!b->dead) {
            return (u32)(b - c->tr->blocks);
        }
    }
    return TR_NONE;
}

/* Such an exit of a live trace, 0: none. */
static u32 joined(void) {
    u32 at = c->tr ? *tr_cache_page(c->tr, SM_CODE) : 0;
    for (u32 b = next_block(&at); c->tr && b != TR_NONE; b = next_block(&at)) {
        for (u32 n = c->tr->blocks[b].exit_from; n < c->tr->blocks[b].exit_to; n++) {
            if (leads_to(&c->tr->exits[n])) {
                return n;
            }
        }
    }
    return 0;
}

/* Does that one lead to a live trace? */
static bool leads_well(u32 exit) {
    u32 at = *tr_cache_page(c->tr, SM_CODE), to = leads_to(&c->tr->exits[exit]);
    for (u32 b = next_block(&at); b != TR_NONE; b = next_block(&at)) {
        const struct tr_block *block = &c->tr->blocks[b];
        if (block->alone && to > block->from && to < block->to) {
            return true;
        }
    }
    return false;
}

static void test_often(void **state) {
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        const struct row *r = &rows[k];
        prepare(r);
        (void)good(r, 0, 20);
        (void)good(r, 20, 0);
        u64 misses = good(r, OFTEN, 0);
        if (counts()) {
            assert_int_equal(joined() != 0, r->joined);
            assert_in_range(misses, r->joined ? 0 : OFTEN, r->joined ? 9 : 2 * OFTEN);
        }
        misses = good(r, 0, OFTEN);
        assert_true(!counts() || misses < 9);
        (void)good(r, OFTEN / 2, OFTEN / 2);
    }
}

static void test_faults(void **state) {
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        const struct row *r = &rows[k];
        prepare(r);
        for (u32 n = 0; n < 4; n++) {
            faulty(r, n * 10, DATA + 0x3000);
            page_set(1, false); /* and one that was there */
            faulty(r, n * 10 + 1, DATA + 0x1000);
            page_set(1, true);
            (void)good(r, 10, 5);
        }
    }
}

/* A trace without groups of the code at SM_CODE; TR_NONE. */
static u32 alone(void) {
    u32 at = c->tr ? *tr_cache_page(c->tr, SM_CODE) : 0, b = next_block(&at);
    while (b != TR_NONE && !c->tr->blocks[b].alone) {
        b = next_block(&at);
    }
    return b;
}

/* Where the misses lead to goes: they lead to C code again, which makes another. */
static void test_outdated(void **state) {
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        const struct row *r = &rows[k];
        prepare(r);
        (void)good(r, 20, 0);
        u32 n = alone(), exit = joined();
        if (n == TR_NONE) {
            continue;
        }
        c->tr->blocks[n].seen--;
        soft_tr_outdated(c->vm, SM_CODE);
        soft_tr_purge(c);
        assert_true(c->tr->blocks[n].dead);
        assert_int_equal(joined(), 0);
        if (exit) {
            const struct tr_exit *e = &c->tr->exits[exit];
            assert_memory_equal(c->tr->code.rw + e->patch + e->go_on + 2, &exit, 4);
        }
        (void)good(r, 20, 3);
        faulty(r, 3, DATA + 0x3000);
    }
}

/* The same page gets other code. */
static void test_rewritten(void **state) {
    (void)state;
    prepare(&rows[0]);
    for (u32 n = 0; n < 40; n++) {
        const struct row *r = &rows[n * 3 % ARRAY_LEN(rows)];
        code_put(r);
        (void)good(r, 12, n % 5);
        faulty(r, 2, DATA + 0x3000);
    }
}

/* Part of the code cache goes; what is left leads to nothing that is gone. */
static void forget_some(u32 *alive) {
    tr_cache_make_room(c);
    u32 exit = joined();
    *alive += exit != 0;
    assert_true(!exit || leads_well(exit));
}

/* With either trace, or both. */
static void test_forgotten(void **state) {
    u32 alive = 0;
    (void)state;
    for (u32 n = 0; c->tr && n < 50 * ARRAY_LEN(rows); n++) {
        const struct row *r = &rows[n / 50];
        if (n % 50 == 0) {
            prepare(r);
        }
        if (n % 3) {
            forget_some(&alive);
        }
        (void)good(r, n % 4 ? 0 : 5, 3);
        if (n % 5 > 1) {
            forget_some(&alive);
        }
        (void)good(r, 8, n % 7);
    }
    assert_true(!counts() || alive > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_often, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_faults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_outdated, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rewritten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_forgotten, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
