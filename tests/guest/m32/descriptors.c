/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All 32 types of descriptors, present or not, DPL 0 and 3, by all RPLs, from CPL 0 and 3: LAR,
 * LSL, VERR, VERW, loads of DS and SS, far jumps; and every kind of limit with accesses around it.
 *
 * Expected values: SDM vol. 2, the pages of these instructions (LAR and LSL: their tables of
 * types); vol. 3, sections 5.3 (limits), 5.6 (data segments), 5.7 (SS), 5.8.1 (code segments).
 */
#include "lib/m32.h"

enum { S = FREE };
enum { VALID = 1, READABLE = 2, WRITABLE = 4, LIMIT = 8 };

static struct one {
    u8 type, dpl, rpl, cpl;
    bool present;
} now;

/* --- what the manual says ----------------------------------------------------------------------
 */

static bool is_segment(void) {
    return now.type & 0x10;
}
static bool is_code(void) {
    return (now.type & 0x18) == 0x18;
}
static bool is_conforming(void) {
    return (now.type & 0x1c) == 0x1c;
}
static bool is_readable(void) {
    return is_segment() && (!is_code() || (now.type & 2));
}
static bool is_writable(void) {
    return is_segment() && !is_code() && (now.type & 2);
}
static bool may(void) {
    return is_conforming() || (now.rpl <= now.dpl && now.cpl <= now.dpl);
}

static u32 expected_look(void) {
    static const u16 lar = 0x1a3e, lsl = 0x0a0e; /* system types 1-5, 9, b, c; 1-3, 9, b */
    u32 r = 0;
    if (!may()) {
        return 0;
    }
    r |= is_segment() || (lar >> now.type & 1) ? VALID : 0;
    r |= is_segment() || (lsl >> now.type & 1) ? LIMIT : 0;
    r |= is_readable() ? READABLE : 0;
    return r | (is_writable() ? WRITABLE : 0);
}

static int expected_ds(void) {
    return !is_readable() || !may() ? 13 : now.present ? -1 : 11;
}

static int expected_ss(void) {
    bool good = is_writable() && now.rpl == now.cpl && now.dpl == now.cpl;
    return !good ? 13 : now.present ? -1 : 12;
}

static int expected_jump(void) {
    bool good = is_code() &&
                (is_conforming() ? now.dpl <= now.cpl : now.rpl <= now.cpl && now.dpl == now.cpl);
    return !good ? 13 : now.present ? -1 : 11;
}

/* --- what the processor says, at either CPL ----------------------------------------------------
 */

static u32 selector, seen_look, seen_limit, seen_rights;

static void look(void) {
    u8 lar, lsl, verr, verw;
    u32 rights = 0, limit = 0;
    __asm__ volatile("lar %2, %0\n setz %1" : "+r"(rights), "=q"(lar) : "r"(selector) : "cc");
    __asm__ volatile("lsl %2, %0\n setz %1" : "+r"(limit), "=q"(lsl) : "r"(selector) : "cc");
    __asm__ volatile("verr %w1\n setz %0" : "=q"(verr) : "r"(selector) : "cc");
    __asm__ volatile("verw %w1\n setz %0" : "=q"(verw) : "r"(selector) : "cc");
    seen_look =
        (lar ? VALID : 0) | (verr ? READABLE : 0) | (verw ? WRITABLE : 0) | (lsl ? LIMIT : 0);
    seen_rights = rights;
    seen_limit = limit;
}

static void load_ds(void) {
    u32 keep;
    __asm__ volatile("mov %%ds, %0\n mov %1, %%ds\n mov %0, %%ds" : "=&r"(keep) : "r"(selector));
}

static void load_ss(void) {
    u32 keep;
    __asm__ volatile("mov %%ss, %0\n mov %1, %%ss\n mov %0, %%ss" : "=&r"(keep) : "r"(selector));
}

static void jump(void) {
    u32 cs;
    __asm__ volatile("mov %%cs, %0\n movl $1f, far_target\n ljmp *far_target\n"
                     "1: mov %0, far_target + 4\n movl $2f, far_target\n ljmp *far_target\n2:"
                     : "=&r"(cs)
                     :
                     : "memory");
}
__asm__(".data\n.globl far_target\nfar_target: .long 0, 0\n.text\n");
extern u32 far_target[2];

__asm__(".globl user_look, user_ds, user_ss, user_jump\n"
        "user_look: call do_look\n int $0x80\n"
        "user_ds: call do_ds\n int $0x80\n"
        "user_ss: call do_ss\n int $0x80\n"
        "user_jump: call do_jump\n int $0x80\n");
void user_look(void);
void user_ds(void);
void user_ss(void);
void user_jump(void);
void do_look(void *);
void do_ds(void *);
void do_ss(void *);
void do_jump(void *);
void do_look(void *arg) {
    (void)arg;
    look();
}
void do_ds(void *arg) {
    (void)arg;
    load_ds();
}
void do_ss(void *arg) {
    (void)arg;
    load_ss();
}
void do_jump(void *arg) {
    (void)arg;
    jump();
}

static int at_cpl(void (*kernel)(void *), void (*user)(void)) {
    if (now.cpl == 0) {
        return catch (kernel, NULL);
    }
    int v = run_user(user);
    return v == 0x80 ? -1 : v;
}

static void describe(void) {
    segment(S, 0, 0xfffff, (u8)((now.present ? 0x80 : 0) | now.dpl << 5 | now.type),
            BIG | GRANULAR);
    selector = S | now.rpl;
}

static void check_one(int line, int got, int want) {
    u32 id = now.type | now.dpl << 8 | now.rpl << 12 | now.cpl << 16 | (u32)now.present << 20;
    check_result(got == want, line, "the manual's result");
    if (got != want) {
        check_equal((u32)got, (u32)want, line, "vector");
        check_equal(id, 0, line, "type, DPL, RPL, CPL, P");
    } else if (want >= 0) {
        check_result(last_frame.error == S, line, "error code");
    }
}

/* Valid gates and TSSs lead elsewhere. */
static bool jumps_away(void) {
    static const u16 away = 0x1a3a; /* 1, 3, 4, 5, 9, b, c */
    return !is_segment() && (away >> now.type & 1);
}

static void one(void) {
    describe();
    check_one(__LINE__, at_cpl(do_look, user_look), -1);
    check_equal(seen_look, expected_look(), __LINE__, "LAR, VERR, VERW, LSL");
    if (seen_look & LIMIT) {
        check_equal(seen_limit, 0xffffffff, __LINE__, "LSL");
    }
    if (seen_look & VALID) {
        u32 access = (u32)(gdt[S / 8] >> 32) & 0xf0ff00;
        check_equal(seen_rights & 0xf0ff00, access, __LINE__, "LAR");
    }
    check_one(__LINE__, at_cpl(do_ds, user_ds), expected_ds());
    describe();
    check_one(__LINE__, at_cpl(do_ss, user_ss), expected_ss());
    describe();
    if (!jumps_away()) {
        far_target[1] = selector;
        check_one(__LINE__, at_cpl(do_jump, user_jump), expected_jump());
    }
}

static void matrix(void) {
    for (u32 n = 0; n < 32u * 2 * 2 * 4 * 2; n++) {
        now = (struct one){.type = n & 31,
                           .present = n >> 5 & 1,
                           .dpl = n >> 6 & 1 ? 3 : 0,
                           .rpl = n >> 7 & 3,
                           .cpl = n >> 9 ? 3 : 0};
        one();
    }
}

/* --- limits ------------------------------------------------------------------------------------
 */

static u8 area[0x3000] __attribute__((aligned(4096)));

static void do_load(void *arg) {
    __asm__ volatile("mov %0, %%fs" ::"r"(S));
    __asm__ volatile("movb %%fs:(%0), %%al" ::"r"(arg) : "eax");
}
static void do_load2(void *arg) {
    __asm__ volatile("mov %0, %%fs" ::"r"(S));
    __asm__ volatile("movw %%fs:(%0), %%ax" ::"r"(arg) : "eax");
}
static void do_load4(void *arg) {
    __asm__ volatile("mov %0, %%fs" ::"r"(S));
    __asm__ volatile("movl %%fs:(%0), %%eax" ::"r"(arg) : "eax");
}
static void do_load8(void *arg) {
    __asm__ volatile("mov %0, %%fs" ::"r"(S));
    __asm__ volatile("fildll %%fs:(%0)\n fstp %%st(0)" ::"r"(arg));
}

static bool inside(u32 limit, bool down, bool big, u32 offset, u32 size) {
    u64 last = (u64)offset + size - 1;
    if (down) {
        return offset > limit && last <= (big ? 0xffffffff : 0xffff);
    }
    return last <= limit;
}

static void limits(void) {
    static void (*const load[])(void *) = {do_load, do_load2, do_load4, do_load8};
    static const struct {
        u32 limit;
        u8 type, flags;
    } kind[] = {{0x7ff, RW, BIG},        {0x7ff, RW, 0},     {0, RW, BIG | GRANULAR},
                {1, RO, GRANULAR},       {0, RW, BIG},       {0x7ff, DOWN, BIG},
                {0x7ff, DOWN, 0},        {0x7ff, 0x95, BIG}, {0, DOWN, BIG | GRANULAR},
                {0x7ff, CONFORMING, BIG}};
    __asm__ volatile("fninit");
    for (u32 n = 0; n < sizeof(kind) / sizeof(kind[0]); n++) {
        u32 limit = kind[n].flags & GRANULAR ? kind[n].limit << 12 | 0xfff : kind[n].limit;
        bool down = (kind[n].type & 0x0c) == 4;
        segment(S, (u32)area, kind[n].limit, kind[n].type, kind[n].flags);
        for (u32 k = 0; k < 4 * 20; k++) {
            u32 size = 1u << (k & 3), offset = limit + 1 - 10 + (k >> 2);
            int want = inside(limit, down, kind[n].flags & BIG, offset, size) ? -1 : 13;
            check_equal((u32) catch (load[k & 3], (void *)offset), (u32)want, __LINE__, "limit");
        }
        for (u32 k = 0; k < 4 && down && !(kind[n].flags & BIG); k++) { /* up to ffff */
            u32 size = 1u << k;
            check_equal((u32) catch (load[k], (void *)(0x10000 - size)), (u32)-1, __LINE__, "top");
            check_equal((u32) catch (load[k], (void *)(0x10001 - size)), 13, __LINE__, "above");
        }
    }
    __asm__ volatile("mov %0, %%fs" ::"r"(DATA));
}

void guest_main(void) {
    matrix();
    limits();
}
