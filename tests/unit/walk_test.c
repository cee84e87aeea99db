/* SPDX-License-Identifier: Apache-2.0 */
/* The page walk: formats, permissions with their error codes, accessed and dirty bits, reserved
 * bits, protection keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu/state.h"
#include "core/mem/walk.h"

enum { MEM = 1 << 20, ROOT = 0x1000, L2 = 0x2000, L1 = 0x3000, L0 = 0x4000 };

static u8 *mem;
static struct ram ram;
static struct walk_env env;
static u32 hook_calls;

static void hook(void *ctx, u64 gpa, u64 size) {
    (void)ctx, (void)gpa, (void)size;
    hook_calls++;
}

static int set_up(void **state) {
    (void)state;
    mem = aligned_alloc(4096, MEM);
    memset(mem, 0, MEM);
    memset(&ram, 0, sizeof(ram));
    assert_int_equal(ram_add(&ram, 0, MEM, mem, 0), 0);
    ram.written = hook;
    hook_calls = 0;
    env = (struct walk_env){.cr0 = CR0_PE | CR0_PG | CR0_WP,
                            .cr3 = ROOT,
                            .cr4 = CR4_PAE,
                            .efer = EFER_LME | EFER_LMA | EFER_NXE,
                            .phys_bits = 40};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(mem);
    return 0;
}

static void put(u64 at, u64 v, u32 size) {
    memcpy(mem + at, &v, size);
}
static u64 get(u64 at, u32 size) {
    u64 v = 0;
    memcpy(&v, mem + at, size);
    return v;
}

/* Maps linear 0x5000 to 0x9000 with the leaf's and the upper levels' bits. */
static void map4(u64 leaf, u64 upper) {
    put(ROOT, L2 | upper, 8);
    put(L2, L1 | upper, 8);
    put(L1, L0 | upper, 8);
    put(L0 + 5 * 8, 0x9000 | leaf, 8);
}

static u32 fault(u64 linear, enum walk_access access, u32 flags) {
    struct walk_result out;
    assert_int_equal(walk_linear(&ram, &env, linear, access, flags, &out), -ERR_FAULT);
    return out.error;
}
static u64 good(u64 linear, enum walk_access access, u32 flags) {
    struct walk_result out;
    assert_int_equal(walk_linear(&ram, &env, linear, access, flags, &out), 0);
    return out.gpa;
}

static void test_levels(void **state) {
    (void)state;
    map4(0x7, 0x7);
    assert_int_equal(good(0x5123, WALK_READ, 0), 0x9123);
    assert_int_equal(fault(0x6000, WALK_READ, 0), 0);
    assert_int_equal(fault(0x6000, WALK_WRITE, WALK_USER), PF_W | PF_U);
    assert_int_equal(fault(0x6000, WALK_EXEC, WALK_USER), PF_I | PF_U);
    env.efer &= ~EFER_NXE;
    assert_int_equal(fault(0x6000, WALK_EXEC, 0), 0);
    env.cr4 |= CR4_SMEP;
    assert_int_equal(fault(0x6000, WALK_EXEC, 0), PF_I);
    put(L1 + 8, 0x400087, 8);
    assert_int_equal(good(0x212345, WALK_READ, 0), 0x412345);
    put(L2 + 8, 0x40000087, 8);
    assert_int_equal(good(0x40000000 + 0x3456789, WALK_READ, 0), 0x40000000 + 0x3456789);
}

static void test_accessed_dirty(void **state) {
    (void)state;
    struct walk_result out;
    map4(0x7, 0x7);
    assert_int_equal(walk_linear(&ram, &env, 0x5000, WALK_READ, 0, &out), 0);
    assert_false(out.write); /* clean: the first write has to come back */
    assert_int_equal(get(ROOT, 8) & 0x60, 0x20);
    assert_int_equal(get(L2, 8) & 0x60, 0x20);
    assert_int_equal(get(L1, 8) & 0x60, 0x20);
    assert_int_equal(get(L0 + 40, 8) & 0x60, 0x20);
    assert_int_equal(hook_calls, 4);
    assert_int_equal(walk_linear(&ram, &env, 0x5000, WALK_WRITE, 0, &out), 0);
    assert_true(out.write);
    assert_int_equal(get(L0 + 40, 8) & 0x60, 0x60);
    assert_int_equal(get(L1, 8) & 0x60, 0x20);
    assert_int_equal(hook_calls, 5);
    map4(0x5, 0x7);
    fault(0x5000, WALK_WRITE, 0);
    assert_int_equal(get(L0 + 40, 8) & 0x60, 0);
    u64 gpa;
    assert_int_equal(walk_peek(&ram, &env, 0x5678, &gpa), 0);
    assert_int_equal(gpa, 0x9678);
    assert_int_equal(get(L0 + 40, 8) & 0x60, 0);
}

/* Every combination of page rights, control bits and access against the manual's rules. */
static void test_rights(void **state) {
    (void)state;
    for (u32 n = 0; n < 1u << 12; n++) {
        bool u_leaf = n & 1, w_leaf = n & 2, nx = n & 4, u_up = n & 8, w_up = n & 16;
        bool wp = n & 32, smep = n & 64, smap = n & 128, user = n & 256;
        enum walk_access access = (enum walk_access)(n >> 9 & 3);
        if (access > WALK_EXEC || (user && smap)) {
            continue;
        }
        map4(1 | (u64)w_leaf << 1 | (u64)u_leaf << 2 | (u64)nx << 63,
             1 | (u64)w_up << 1 | (u64)u_up << 2);
        env.cr0 = CR0_PE | CR0_PG | (wp ? CR0_WP : 0);
        env.cr4 = CR4_PAE | (smep ? CR4_SMEP : 0);
        bool u = u_leaf && u_up, w = w_leaf && w_up, ok;
        if (access == WALK_EXEC) {
            ok = !nx && (user ? u : !(u && smep));
        } else {
            ok = user ? u : !(u && smap);
            ok = ok && (access == WALK_READ || w || (!user && !wp));
        }
        struct walk_result out;
        u32 flags = (user ? (u32)WALK_USER : 0) | (smap ? (u32)WALK_SMAP : 0);
        int r = walk_linear(&ram, &env, 0x5000, access, flags, &out);
        assert_int_equal(r, ok ? 0 : -ERR_FAULT);
        if (!ok) {
            u32 want = PF_P | (user ? PF_U : 0) | (access == WALK_WRITE ? PF_W : 0) |
                       (access == WALK_EXEC ? PF_I : 0);
            assert_int_equal(out.error, want);
        }
    }
}

static void test_reserved(void **state) {
    (void)state;
    map4(0x7 | BIT(40), 0x7);
    assert_int_equal(fault(0x5000, WALK_READ, 0), PF_P | PF_RSVD);
    map4(0x6 | BIT(40), 0x7); /* not present comes first */
    assert_int_equal(fault(0x5000, WALK_READ, 0), 0);
    map4(0x7 | BIT(63), 0x7);
    env.efer &= ~EFER_NXE;
    assert_int_equal(fault(0x5000, WALK_WRITE, WALK_USER), PF_P | PF_RSVD | PF_W | PF_U);
    map4(0x7, 0x7);
    put(ROOT, L2 | 0x87, 8); /* PS in the PML4 */
    assert_int_equal(fault(0x5000, WALK_READ, 0), PF_P | PF_RSVD);
    map4(0x7, 0x7);
    put(L1, 0x402087, 8); /* low bits of a 2 MiB page's address */
    assert_int_equal(fault(0x5000, WALK_READ, 0), PF_P | PF_RSVD);
    map4(0x7, 0x7);
    put(L1, 0x80000007, 8); /* a table outside RAM */
    assert_int_equal(fault(0x5000, WALK_READ, 0), PF_P | PF_RSVD);
}

static void test_two_level(void **state) {
    (void)state;
    env.cr4 = 0;
    env.efer = 0;
    put(ROOT, L1 | 7, 4);
    put(L1 + 5 * 4, 0x9000 | 7, 4);
    assert_int_equal(good(0x5123, WALK_WRITE, WALK_USER), 0x9123);
    assert_int_equal(get(ROOT, 4) & 0x60, 0x20);
    assert_int_equal(get(L1 + 20, 4) & 0x60, 0x60);
    put(ROOT + 4, 0x00800087 | 3 << 13, 4);
    assert_int_equal(fault(0x412345, WALK_READ, 0), PF_P | PF_RSVD); /* a table outside RAM */
    env.cr4 = CR4_PSE;
    assert_int_equal(good(0x412345, WALK_READ, 0), 0x300812345);
    put(ROOT + 4, 0x00a00087, 4);
    assert_int_equal(fault(0x412345, WALK_READ, 0), PF_P | PF_RSVD);
}

static void test_pae(void **state) {
    (void)state;
    env.efer = EFER_NXE;
    env.cr3 = ROOT + 0x20;
    put(ROOT + 0x20 + 3 * 8, L1 | 1, 8);
    put(L1 + 8, L0 | 7, 8);
    put(L0 + 5 * 8, 0x9000 | 7 | BIT(63), 8);
    assert_int_equal(good(0xc0205123, WALK_WRITE, WALK_USER), 0x9123);
    assert_int_equal(fault(0xc0205123, WALK_EXEC, WALK_USER), PF_P | PF_U | PF_I);
    assert_int_equal(get(ROOT + 0x20 + 24, 8), L1 | 1); /* PDPTEs have no accessed bit */
    assert_int_equal(fault(0x5000, WALK_READ, 0), 0);
    put(L1 + 16, 0x600087, 8);
    assert_int_equal(good(0xc0412345, WALK_READ, 0), 0x612345);
}

static void test_keys(void **state) {
    (void)state;
    env.cr4 |= CR4_PKE;
    map4(0x7 | 5ull << 59, 0x7);
    env.pkru = 1u << 10; /* key 5: no access */
    assert_int_equal(fault(0x5000, WALK_READ, WALK_USER), PF_P | PF_U | PF_PK);
    assert_int_equal(fault(0x5000, WALK_WRITE, 0), PF_P | PF_W | PF_PK);
    good(0x5000, WALK_EXEC, WALK_USER);
    env.pkru = 2u << 10; /* no write */
    good(0x5000, WALK_READ, WALK_USER);
    assert_int_equal(fault(0x5000, WALK_WRITE, WALK_USER), PF_P | PF_U | PF_W | PF_PK);
    env.cr0 &= ~CR0_WP;
    good(0x5000, WALK_WRITE, 0);
    map4(0x3 | 5ull << 59, 0x7); /* supervisor pages have no key */
    env.pkru = ~0u;
    good(0x5000, WALK_WRITE, 0);
}

/* SDM volume 3, 4.6.2: AD takes data accesses to user pages away, WD the writes of user mode, and
 * of supervisor mode with CR0.WP; fetches and supervisor pages have no key. */
static void one_key(u32 n) {
    bool user_page = n & 1, writable = n & 2, user = n & 4, wp = n & 8, pke = n & 16;
    bool ad = n >> 5 & 1, wd = n >> 6 & 1;
    u32 access = n >> 7, key = 1 + n % 15;
    env.cr0 = wp ? env.cr0 | CR0_WP : env.cr0 & ~CR0_WP;
    env.cr4 = pke ? env.cr4 | CR4_PKE : env.cr4 & ~CR4_PKE;
    env.pkru = ~(3u << 2 * key) | ((u32)ad | (u32)wd << 1) << 2 * key;
    map4(1 | (writable ? 2 : 0) | (user_page ? 4 : 0) | (u64)key << 59, 7);
    bool page = (user_page || !user) &&
                (access != WALK_WRITE || writable || (!user && !wp)); /* without the key */
    bool keyed = pke && user_page && access != WALK_EXEC;
    bool denied = keyed && (ad || (wd && access == WALK_WRITE && (user || wp)));
    u32 flags = user ? (u32)WALK_USER : 0;
    if (page && !denied) {
        good(0x5000, access, flags);
        return;
    }
    u32 error = fault(0x5000, access, flags);
    assert_int_equal(error & (PF_P | PF_U), PF_P | (user ? (u32)PF_U : 0));
    assert_int_equal(!!(error & PF_PK), denied); /* 4.7: whatever else is missing */
}

static void test_key_matrix(void **state) {
    (void)state;
    for (u32 n = 0; n < 3u << 7; n++) {
        one_key(n);
    }
}

static void test_no_paging(void **state) {
    (void)state;
    env.cr0 = CR0_PE;
    assert_int_equal(good(0x123456789, WALK_WRITE, WALK_USER), 0x23456789);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_accessed_dirty, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rights, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reserved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_level, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pae, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_key_matrix, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_paging, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
