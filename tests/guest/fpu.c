/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 and MMX state (SDM vol. 1, chapters 8 and 9): results, stack faults, #MF with CR0.NE and by
 * IRQ 13, FNSAVE, FXSAVE and their images, tags.
 */
#include "lib/guest.h"

static u8 area[512] __attribute__((aligned(16)));

static u16 status(void) {
    u16 v;
    __asm__ volatile("fnstsw %0" : "=a"(v));
    return v;
}

static void control(u16 v) {
    __asm__ volatile("fldcw %0" ::"m"(v));
}

static void do_divide(void *arg) {
    (void)arg;
    __asm__ volatile("fninit\n fnstcw %0\n andw $~4, %0\n fldcw %0\n fld1\n fldz\n fdivrp\n fwait"
                     : "+m"(*(u16 *)area));
}

static void do_wait(void *arg) {
    (void)arg;
    __asm__ volatile("fwait");
}

static void do_fld1(void *arg) {
    (void)arg;
    __asm__ volatile("fld1");
}

static void do_fxsave(void *arg) {
    __asm__ volatile("fxsave (%0)" ::"r"(arg) : "memory");
}

static void do_fxrstor(void *arg) {
    __asm__ volatile("fxrstor (%0)" ::"r"(arg) : "memory");
}

static void arithmetic(void) {
    u64 value;
    u32 a = 3, b = 7;
    __asm__ volatile("fninit\n fildl %1\n fildl %2\n fdivrp\n fstpl %0"
                     : "=m"(value)
                     : "m"(a), "m"(b));
    CHECK(value == 0x3fdb6db6db6db6dbull || value == 0x4002aaaaaaaaaaabull); /* 3/7 or 7/3 */
    __asm__ volatile("fninit\n fldpi\n fstpl %0" : "=m"(value));
    CHECK_EQ(value, 0x400921fb54442d18ull);
    __asm__ volatile("fninit\n fldpi\n fsin\n fstpl %0" : "=m"(value));
    CHECK_EQ(value >> 52 & 0x7ff, 0x3bf); /* about -5e-20, pi rounded to 64 bits */
    CHECK_EQ(status() & 0x3800, 0);
    __asm__ volatile("fninit\n fldz\n fld1\n fcomi %st(1)\n ");
    u8 above;
    __asm__ volatile("fcomi %%st(1)\n seta %0" : "=r"(above)::"cc");
    CHECK_EQ(above, 1);
    CHECK_EQ(status() & 0x3800, 6 << 11);
}

static void stack_faults(void) {
    __asm__ volatile("fninit\n fstp %st(0)"); /* underflow */
    CHECK_EQ(status() & 0x241, 0x41);
    __asm__ volatile("fninit");
    for (u32 i = 0; i < 9; i++) {
        __asm__ volatile("fld1");
    }
    CHECK_EQ(status() & 0x241, 0x241); /* overflow: C1 */
    __asm__ volatile("fninit");
    CHECK_EQ(status(), 0);
}

static void errors(void) {
    CHECK_EQ(catch (do_divide, NULL), 16);
    CHECK_EQ(status() & 0x84, 0x84); /* ES, ZE */
    CHECK_EQ(catch (do_wait, NULL), 16);
    CHECK_EQ(catch (do_fld1, NULL), 16);
    __asm__ volatile("fnclex");
    CHECK_EQ(status() & 0xff, 0);
    CHECK_EQ(catch (do_wait, NULL), -1);
    __asm__ volatile("fninit");
    CHECK_EQ(catch (do_wait, NULL), -1);
}

static void fnsave(void) {
    __asm__ volatile("fninit\n fldpi\n fld1\n fnsave (%0)" ::"r"(area) : "memory");
    CHECK_EQ(*(u16 *)area, 0x37f);
    CHECK_EQ(*(u16 *)(area + 4), 6 << 11);
    CHECK_EQ(*(u16 *)(area + 8), 0x0fff);      /* registers 6 and 7 are in use */
    CHECK_EQ(*(u64 *)(area + 28), 1ull << 63); /* ST0: 1.0 */
    CHECK_EQ(*(u16 *)(area + 36), 0x3fff);
    CHECK_EQ(*(u64 *)(area + 38), 0xc90fdaa22168c235ull); /* ST1: pi */
    CHECK_EQ(*(u16 *)(area + 46), 0x4000);
    CHECK_EQ(status(), 0); /* and initialised */
    __asm__ volatile("frstor (%0)" ::"r"(area) : "memory");
    CHECK_EQ(status(), 6 << 11);
    static u8 env[28];
    __asm__ volatile("fnstenv (%0)" ::"r"(env) : "memory");
    CHECK_EQ(memcmp(env, area, 6), 0);
    u16 cw;
    __asm__ volatile("fnstcw %0" : "=m"(cw));
    CHECK_EQ(cw, 0x37f);
    control(0x027f);
    __asm__ volatile("data16 fnsave (%0)" ::"r"(area) : "memory");
    CHECK_EQ(*(u16 *)area, 0x027f); /* 16-bit format: 14 bytes, then registers */
    CHECK_EQ(*(u16 *)(area + 4), 0x0fff);
    CHECK_EQ(*(u16 *)(area + 14 + 8), 0x3fff);
}

static void fxsave(void) {
    memset(area, 0xaa, sizeof(area));
    __asm__ volatile("fninit\n fldpi");
    do_fxsave(area);
    CHECK_EQ(*(u16 *)area, 0x37f);
    CHECK_EQ(*(u16 *)(area + 2), 7 << 11);
    CHECK_EQ(area[4], 0x80); /* abridged tags */
    CHECK_EQ(*(u64 *)(area + 32), 0xc90fdaa22168c235ull);
    CHECK_EQ(*(u32 *)(area + 24), 0x1f80);
    CHECK_EQ(area[480], 0xaa); /* for software */
    CHECK_EQ(catch (do_fxsave, area + 8), 13);
    __asm__ volatile("fninit");
    do_fxrstor(area);
    CHECK_EQ(status(), 7 << 11);
    *(u32 *)(area + 24) = 0xffff0000;
    CHECK_EQ(catch (do_fxrstor, area), 13);
}

static void mmx(void) {
    u64 v;
    __asm__ volatile("fninit\n movq %1, %%mm3\n paddb %%mm3, %%mm3\n movq %%mm3, %0"
                     : "=m"(v)
                     : "m"((u64){0x0102030405060708ull}));
    CHECK_EQ(v, 0x020406080a0c0e10ull);
    do_fxsave(area);
    CHECK_EQ(area[4], 0xff); /* every tag valid, TOP 0 */
    CHECK_EQ(status() & 0x3800, 0);
    CHECK_EQ(*(u16 *)(area + 32 + 3 * 16 + 8), 0xffff);
    __asm__ volatile("emms");
    do_fxsave(area);
    CHECK_EQ(area[4], 0);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    arithmetic();
    stack_faults();
    errors();
    fnsave();
    fxsave();
    mmx();
}
