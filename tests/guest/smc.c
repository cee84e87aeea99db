/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Self-modifying code (SDM vol. 3, 8.1.3 and 11.6): what a store changed is what runs next, also
 * for the instruction just ahead, across a page boundary, through another mapping of the page, by
 * string instructions, and from another page table entry.
 */
#include "lib/guest.h"

static u8 pages[2][4096] __attribute__((aligned(4096)));
#define ALIAS 0x40000000ull

typedef u32 (*fn)(void);

/* mov eax, v; ret */
static void put_mov(u8 *at, u32 v) {
    at[0] = 0xb8;
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static void rewrite(void) {
    u8 *code = pages[0];
    for (u32 i = 0; i < 300; i++) {
        put_mov(code, i);
        CHECK_EQ(((fn)code)(), i);
    }
    for (u32 i = 0; i < 300; i++) { /* run hot before it changes */
        put_mov(code, i);
        u32 sum = 0;
        for (u32 k = 0; k < 100; k++) {
            sum += ((fn)code)();
        }
        CHECK_EQ(sum, i * 100);
    }
}

/* The store changes the immediate of the very next instruction. */
static void next_instruction(void) {
    for (u32 i = 0; i < 50; i++) {
        u32 v;
        __asm__ volatile("movl %1, 1f + 1(%%rip)\n"
                         "1: mov $0, %%eax\n"
                         : "=a"(v)
                         : "r"(i * 3 + 1)
                         : "memory");
        CHECK_EQ(v, i * 3 + 1);
    }
}

/* A loop whose body rewrites an instruction that lies before it in the same block. */
static void in_loop(void) {
    u32 sum;
    __asm__ volatile("xor %%eax, %%eax\n"
                     "movl $1, 1f + 1(%%rip)\n"
                     "mov $10, %%ecx\n"
                     "1: .byte 0x05, 1, 0, 0, 0\n" /* 05 id */
                     "incl 1b + 1(%%rip)\n"
                     "dec %%ecx\n"
                     "jnz 1b\n"
                     : "=a"(sum)
                     :
                     : "ecx", "memory", "cc");
    CHECK_EQ(sum, 55);
}

static void crossing(void) {
    u8 *at = pages[1] - 3; /* the immediate lies in both pages */
    for (u32 i = 0; i < 100; i++) {
        put_mov(at, i << 24 | (i ^ 0x5a));
        CHECK_EQ(((fn)at)(), i << 24 | (i ^ 0x5a));
        pages[1][1] = (u8)(i + 1); /* the top byte alone, in the second page */
        CHECK_EQ(((fn)at)() >> 24, (i + 1) & 0xff);
    }
}

static void alias(void) {
    put_mov(pages[0], 1);
    map_page(ALIAS, (u64)pages[0], 3);
    for (u32 i = 0; i < 100; i++) {
        put_mov((u8 *)ALIAS, i);
        CHECK_EQ(((fn)pages[0])(), i);
        put_mov(pages[0], i + 1000);
        CHECK_EQ(((fn)ALIAS)(), i + 1000);
    }
}

static void strings(void) {
    static u8 image[2][6];
    put_mov(image[0], 111);
    put_mov(image[1], 222);
    for (u32 i = 0; i < 20; i++) {
        void *to = pages[0] + 64, *from = image[i & 1];
        u64 n = 6;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        CHECK_EQ(((fn)(pages[0] + 64))(), i & 1 ? 222 : 111);
    }
    for (u32 i = 0; i < 20; i++) { /* whole pages */
        void *to = pages[0];
        u64 n = 4096;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x90) : "memory");
        put_mov(pages[0] + 128, i);
        CHECK_EQ(((fn)pages[0])(), i);
    }
}

static void other_page(void) {
    put_mov(pages[0], 10);
    put_mov(pages[1], 20);
    for (u32 i = 0; i < 50; i++) {
        map_page(ALIAS, (u64)pages[i & 1], 3);
        CHECK_EQ(((fn)ALIAS)(), i & 1 ? 20 : 10);
    }
}

/* An instruction's operand that stands in front of where it is executed: read-modify-write of code.
 */
static void locked(void) {
    put_mov(pages[0], 0);
    for (u32 i = 1; i < 100; i++) {
        __asm__ volatile("lock incl %0" : "+m"(*(u32 *)(pages[0] + 1)));
        CHECK_EQ(((fn)pages[0])(), i);
    }
    for (u32 i = 0; i < 50; i++) {
        u64 was = *(u64 *)pages[0], now = (was & ~0xff00ull) | (u64)i << 8;
        __asm__ volatile("lock cmpxchgq %2, %1"
                         : "+a"(was), "+m"(*(u64 *)pages[0])
                         : "r"(now)
                         : "memory");
        CHECK_EQ(((fn)pages[0])() & 0xff, i);
    }
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    rewrite();
    next_instruction();
    in_loop();
    crossing();
    alias();
    strings();
    other_page();
    locked();
}
