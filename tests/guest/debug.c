/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single step, debug registers, ICEBP, INT3, the resume flag (SDM vol. 3, chapter 17).
 */
#include "lib/guest.h"

#define READ_DR(n)                                                                                 \
    ({                                                                                             \
        u64 v_;                                                                                    \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v_));                                         \
        v_;                                                                                        \
    })
#define WRITE_DR(n, v) __asm__ volatile("mov %0, %%dr" #n ::"r"((u64)(v)) : "memory")

enum { BS = 1 << 14, BD = 1 << 13, DR6_FIXED = 0xffff0ff0, DR7_FIXED = 0x400, DE = 8 };
enum { EXEC = 0, DATA_WRITE = 1, IO = 2, DATA_RW = 3 };

static struct hit { u64 rip, dr6, flags; } hits[32];
static volatile u32 hit_count;
static volatile bool set_rf = true, stop_step;
static u64 word[2] __attribute__((aligned(16)));

static void on_debug(struct frame *f) {
    u64 dr6 = READ_DR(6);
    hits[hit_count++ & 31] = (struct hit){f->rip, dr6, f->rflags};
    WRITE_DR(6, DR6_FIXED);
    if (set_rf && !(dr6 & BS)) {
        f->rflags |= 1 << 16;
    }
    if (hit_count > 28) {
        f->rflags &= ~0x100ull;
        WRITE_DR(7, DR7_FIXED);
    }
}

static void arm(u32 n, const volatile void *at, u32 kind, u32 size) {
    u64 control = kind | (size == 8 ? 2 : size - 1) << 2;
    switch (n) {
    case 0:
        WRITE_DR(0, at);
        break;
    case 1:
        WRITE_DR(1, at);
        break;
    case 2:
        WRITE_DR(2, at);
        break;
    default:
        WRITE_DR(3, at);
        break;
    }
    hit_count = 0;
    WRITE_DR(7, DR7_FIXED | 2u << n * 2 | control << (16 + n * 4));
}

static void disarm(void) {
    WRITE_DR(7, DR7_FIXED);
    WRITE_DR(6, DR6_FIXED);
}

/* --- the pieces of code that are watched -------------------------------------------------------
 */

__asm__(".globl step_a, step_b, step_c, step_d, step_e, step_f, step_g, step_h, watched_fn, "
        "watched_nop\n"
        ".globl write_it, write_done, read_it, read_done, port_it, port_done, ice_done, mid_start\n"
        "step_code:\n"
        "    pushf\n    orl $0x100, (%rsp)\n    popf\n"
        "step_a: nop\n"
        "step_b: mov %ss, %eax\n"
        "step_c: mov %eax, %ss\n" /* no trap until after the next instruction */
        "step_d: nop\n"
        "step_e: cpuid\n"
        "step_f: pushf\n"
        "    andl $~0x100, (%rsp)\n"
        "step_g: popf\n"
        "step_h: nop\n"
        "    ret\n"
        "watched_fn: nop\n"
        "watched_nop: nop\n"
        "    ret\n"
        "write_it: movl $5, (%rdi)\n"
        "write_done: ret\n"
        "read_it: movl (%rdi), %eax\n"
        "read_done: ret\n"
        "port_it: inb $0xe0, %al\n"
        "port_done: ret\n"
        "ice: .byte 0xf1\n"
        "ice_done: ret\n"
        "strings: pushf\n    orl $0x100, (%rsp)\n    popf\n"
        "    rep movsb\n"
        "    pushf\n    andl $~0x100, (%rsp)\n    popf\n"
        "    ret\n");
void step_code(void);
void strings(void);
void ice(void);
extern char step_a[], step_b[], step_c[], step_d[], step_e[], step_f[], step_g[], step_h[];
extern char watched_fn[], watched_nop[], write_it[], write_done[], read_it[], read_done[];
extern char port_it[], port_done[], ice_done[];

static void call(const char *fn, volatile void *arg) {
    __asm__ volatile("call *%1" ::"D"(arg), "a"(fn) : "rcx", "rdx", "rbx", "memory", "cc");
}

/* --- checks ------------------------------------------------------------------------------------
 */

static void single_step(void) {
    hit_count = 0;
    __asm__ volatile("call step_code" ::: "rax", "rbx", "rcx", "rdx", "memory", "cc");
    const char *want[] = {step_b, step_c, step_e, step_f, NULL, step_g, step_h};
    CHECK_EQ(hit_count, 7);
    for (u32 i = 0; i < 7 && i < hit_count; i++) {
        if (want[i]) {
            CHECK_EQ(hits[i].rip, (u64)want[i]);
        }
        CHECK_EQ(hits[i].dr6 & (BS | 0xf), BS);
        CHECK_EQ(hits[i].flags & 0x100, i == 6 ? 0 : 0x100);
    }
    static u8 from[4] = "abc", to[4];
    hit_count = 0;
    __asm__ volatile("call strings" ::"S"(from), "D"(to), "c"(3) : "memory", "cc");
    CHECK_EQ(hit_count, 6); /* one per byte, then three instructions */
    CHECK_EQ(hits[0].rip, hits[1].rip);
    CHECK_EQ(to[2], 'c');
}

static void execution(void) {
    arm(0, watched_nop, EXEC, 1);
    call(watched_fn, NULL);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)watched_nop); /* a fault: before it */
    CHECK_EQ(hits[0].dr6 & (BS | 0xf), 1);
    CHECK_EQ(hits[0].flags & 1 << 16, 0); /* 17.3.1.1: RF as it was, unlike for other faults */
    set_rf = true;
    disarm();
    call(watched_fn, NULL);
    CHECK_EQ(hit_count, 1);
    arm(3, watched_fn, EXEC, 1);
    call(watched_fn, NULL);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].dr6 & (BS | 0xf), 8);
    disarm();
}

static void data(void) {
    arm(1, &word[0], DATA_WRITE, 4);
    call(read_it, &word[0]);
    CHECK_EQ(hit_count, 0);
    call(write_it, &word[0]);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)write_done); /* a trap: after it */
    CHECK_EQ(hits[0].dr6 & (BS | 0xf), 2);
    CHECK_EQ((u32)word[0], 5);
    call(write_it, (u8 *)word + 4);
    CHECK_EQ(hit_count, 1);
    call(write_it, (u8 *)word + 2); /* overlaps */
    CHECK_EQ(hit_count, 2);
    arm(2, &word[1], DATA_RW, 8);
    call(read_it, (u8 *)word + 12);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)read_done);
    CHECK_EQ(hits[0].dr6 & (BS | 0xf), 4);
    call(write_it, (u8 *)word + 4);
    CHECK_EQ(hit_count, 1);
    static u8 from[8] = "abcdefg", to[8];
    arm(0, &to[3], DATA_WRITE, 1);
    __asm__ volatile("rep movsb" : : "S"(from), "D"(to), "c"(8) : "memory");
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(to[7], from[7]);
    disarm();
}

static void ports(void) {
    WRITE_CR(4, READ_CR(4) | DE);
    arm(0, (void *)0xe0, IO, 1);
    call(port_it, NULL);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)port_done);
    CHECK_EQ(hits[0].dr6 & 0xf, 1);
    disarm();
    WRITE_CR(4, READ_CR(4) & ~(u64)DE);
}

static void instructions(void) {
    hit_count = 0;
    __asm__ volatile("call ice" ::: "memory");
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)ice_done);
    CHECK_EQ(hits[0].dr6 & (BS | BD | 0xf), 0);
}

static void do_dr4(void *arg) {
    (void)arg;
    (void)READ_DR(4);
}

static void do_dr7(void *arg) {
    WRITE_DR(7, arg);
}

static void do_dr6(void *arg) {
    WRITE_DR(6, arg);
}

static void registers(void) {
    disarm();
    CHECK_EQ(READ_DR(7), DR7_FIXED);
    CHECK_EQ(READ_DR(6), DR6_FIXED);
    WRITE_DR(0, 0x123456789aull);
    CHECK_EQ(READ_DR(0), 0x123456789aull);
    WRITE_DR(6, 0);
    CHECK_EQ(READ_DR(6) & 0xefff, DR6_FIXED & 0xefff); /* reserved ones stay 1; RTM aside */
    disarm();
    CHECK_EQ(READ_DR(4), READ_DR(6)); /* the same while CR4.DE is 0 */
    WRITE_CR(4, READ_CR(4) | DE);
    CHECK_EQ(catch (do_dr4, NULL), 6);
    WRITE_CR(4, READ_CR(4) & ~(u64)DE);
    CHECK_EQ(catch (do_dr7, (void *)(1ull << 32)), 13);
    CHECK_EQ(catch (do_dr6, (void *)(1ull << 32)), 13);
    hit_count = 0;
    WRITE_DR(7, DR7_FIXED | 1 << 13); /* GD: the next access to a debug register */
    u64 v = READ_DR(0);
    (void)v;
    CHECK(hit_count >= 1);
    CHECK_EQ(hits[0].dr6 & BD, BD);
    disarm();
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    irq_handler(1, on_debug);
    single_step();
    execution();
    data();
    ports();
    instructions();
    registers();
}
