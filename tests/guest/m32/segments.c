/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation in 32-bit protected mode: limits, types, what loads refuse, LDT, far transfers, call
 * gates with and without a change of level, task switches (SDM vol. 3, chapters 3, 5 and 7), and
 * the instructions that exist only outside 64-bit mode.
 */
#include "lib/m32.h"

enum {
    S = FREE,
    S2 = FREE + 8,
    LDT_SEL = FREE + 16,
    GATE = FREE + 24,
    TSS2 = FREE + 32,
    S16 = FREE + 48
};
enum { TASK_GATE = FREE + 56 };

static u8 buffer[8192] __attribute__((aligned(4096)));

static void do_load_fs(void *arg) {
    __asm__ volatile("mov %0, %%fs" ::"r"(arg));
}

static void do_load_ss(void *arg) {
    __asm__ volatile("mov %0, %%ss" ::"r"(arg));
}

static void do_load_cs(void *arg) {
    (void)arg;
    __asm__ volatile(".byte 0x8e, 0xc8"); /* mov cs, eax */
}

static void do_read4(void *arg) {
    u32 v;
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(v) : "r"(arg));
}

static void do_write4(void *arg) {
    __asm__ volatile("movl %%eax, %%fs:(%0)" ::"r"(arg) : "memory");
}

static void do_read_cs(void *arg) {
    u32 v;
    __asm__ volatile("movl %%cs:(%1), %0" : "=r"(v) : "r"(arg));
}

static void do_write_cs(void *arg) {
    __asm__ volatile("movl %%eax, %%cs:(%0)" ::"r"(arg) : "memory");
}

static void do_read_ss(void *arg) {
    u32 v;
    __asm__ volatile("movl %%ss:(%1), %0" : "=r"(v) : "r"(arg));
}

/* A segment in FS, then an access: the vector of either. */
static int with_fs(u32 base, u32 limit, u8 access, u8 flags, void (*fn)(void *), u32 offset) {
    segment(S, base, limit, access, flags);
    int v = catch (do_load_fs, (void *)S);
    return v >= 0 ? v : catch (fn, (void *)offset);
}

static void limits(void) {
    u32 b = (u32)buffer;
    CHECK_EQ(with_fs(b, 15, RW, BIG, do_read4, 12), -1);
    CHECK_EQ(with_fs(b, 15, RW, BIG, do_read4, 13), 13);
    CHECK_EQ(last_frame.error, 0);
    CHECK_EQ(with_fs(b, 15, RW, BIG, do_write4, 16), 13);
    CHECK_EQ(with_fs(b, 15, RW, BIG, do_read4, 0xfffffffe), 13);
    CHECK_EQ(with_fs(b, 0, RW, BIG | GRANULAR, do_read4, 0xffc), -1);
    CHECK_EQ(with_fs(b, 0, RW, BIG | GRANULAR, do_read4, 0xffd), 13);
    CHECK_EQ(with_fs(b, 0xfff, DOWN, BIG, do_read4, 0x1000), -1); /* expand-down: above the limit */
    CHECK_EQ(with_fs(b, 0xfff, DOWN, BIG, do_read4, 0xfff), 13);
    CHECK_EQ(with_fs(b, 0xfff, DOWN, 0, do_read4, 0xfffe), 13); /* B clear: up to 0xffff */
    CHECK_EQ(with_fs(0x1000, 0xfffff, RW, BIG | GRANULAR, do_read4, b - 0x1000), -1);
    CHECK_EQ(with_fs(0xfffff000, 0xfffff, RW, BIG | GRANULAR, do_read4, b + 0x1000),
             -1);                              /* wraps */
    segment(S2, 0, 0xfff, RW, BIG | GRANULAR); /* 16 MiB */
    CHECK_EQ(catch (do_load_ss, (void *)S2), -1);
    CHECK_EQ(catch (do_read_ss, (void *)0x1000000), 12);
    CHECK_EQ(last_frame.error, 0);
    __asm__ volatile("mov %0, %%ss" ::"r"(DATA));
}

static void types(void) {
    u32 b = (u32)buffer;
    CHECK_EQ(with_fs(b, 15, RO, BIG, do_read4, 0), -1);
    CHECK_EQ(with_fs(b, 15, RO, BIG, do_write4, 0), 13);
    CHECK_EQ(with_fs(b, 15, XR, BIG, do_read4, 0), -1);
    CHECK_EQ(with_fs(b, 15, XR, BIG, do_write4, 0), 13);
    CHECK_EQ(with_fs(b, 15, XO, BIG, do_read4, 0), 13); /* execute-only cannot be loaded */
    CHECK_EQ(last_frame.error, S);
    CHECK_EQ(catch (do_read_cs, buffer), -1);
    CHECK_EQ(catch (do_write_cs, buffer), 13);
    segment(S, b, 15, RW & ~1, BIG);
    do_load_fs((void *)S);
    CHECK_EQ(gdt[S / 8] >> 40 & 1, 1); /* accessed */
    do_load_fs(NULL);
    CHECK_EQ(catch (do_read4, buffer), 13);
    do_load_fs((void *)3); /* null with any RPL */
}

static int load_fs(u8 access, u32 selector) {
    segment(selector & ~7u, 0, 0xfffff, access, BIG | GRANULAR);
    return catch (do_load_fs, (void *)selector);
}

static void loads(void) {
    CHECK_EQ(load_fs(RW & 0x7f, S), 11);
    CHECK_EQ(last_frame.error, S);
    CHECK_EQ(load_fs(RW, S | 3), 13); /* RPL above DPL */
    CHECK_EQ(last_frame.error, S);
    CHECK_EQ(load_fs(RW | 0x60, S | 3), -1);
    CHECK_EQ(load_fs(CONFORMING, S | 3), -1);        /* conforming code has no such check */
    CHECK_EQ(load_fs(0x89, S), 13);                  /* a system descriptor */
    CHECK_EQ(catch (do_load_fs, (void *)0x100), 13); /* beyond the GDT */
    CHECK_EQ(last_frame.error, 0x100);
    CHECK_EQ(catch (do_load_fs, (void *)(S | 4)), 13); /* no LDT */
    CHECK_EQ(last_frame.error, S | 4);
    CHECK_EQ(catch (do_load_cs, NULL), 6);
    CHECK_EQ(catch (do_load_ss, NULL), 13);
    CHECK_EQ(last_frame.error, 0);
    segment(S, 0, 0xfffff, RW & 0x7f, BIG | GRANULAR);
    CHECK_EQ(catch (do_load_ss, (void *)S), 12);
    CHECK_EQ(last_frame.error, S);
    segment(S, 0, 0xfffff, RO, BIG | GRANULAR);
    CHECK_EQ(catch (do_load_ss, (void *)S), 13);
    static u64 ldt[2];
    segment(LDT_SEL, (u32)ldt, sizeof(ldt) - 1, LDT, 0);
    __asm__ volatile("lldt %w0" ::"r"(LDT_SEL));
    segment(S, (u32)buffer, 15, RW, BIG);
    ldt[1] = gdt[S / 8];
    CHECK_EQ(catch (do_load_fs, (void *)(8 | 4)), -1);
    CHECK_EQ(catch (do_read4, (void *)12), -1);
    CHECK_EQ(catch (do_read4, (void *)13), 13);
    u32 selector;
    __asm__ volatile("sldt %0" : "=r"(selector));
    CHECK_EQ(selector, LDT_SEL);
    __asm__ volatile("lldt %w0" ::"r"(0));
    do_load_fs((void *)DATA);
}

static void queries(void) {
    u32 v, zero = 0;
    u8 ok;
    segment(S, 0, 0x12345, RO, BIG | GRANULAR);
    __asm__ volatile("lsl %2, %0\n setz %1" : "=r"(v), "=q"(ok) : "r"(S) : "cc");
    CHECK(ok);
    CHECK_EQ(v, 0x12345fff);
    __asm__ volatile("lar %2, %0\n setz %1" : "=r"(v), "=q"(ok) : "r"(S) : "cc");
    CHECK(ok);
    CHECK_EQ(v & 0xf0ff00, 0xc00000 | RO << 8);
    __asm__ volatile("verr %w1\n setz %0" : "=q"(ok) : "r"(S) : "cc");
    CHECK(ok);
    __asm__ volatile("verw %w1\n setz %0" : "=q"(ok) : "r"(S) : "cc");
    CHECK(!ok);
    __asm__ volatile("verr %w1\n setz %0" : "=q"(ok) : "r"(0x200) : "cc");
    CHECK(!ok);
    __asm__ volatile("lar %2, %0\n setz %1" : "=r"(v), "=q"(ok) : "r"(zero) : "cc");
    CHECK(!ok);
    v = 0x10;
    __asm__ volatile("arpl %w2, %w0\n setz %1" : "+r"(v), "=q"(ok) : "r"(3) : "cc");
    CHECK(ok);
    CHECK_EQ(v, 0x13);
}

/* --- far transfers -----------------------------------------------------------------------------
 */

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) far;
u32 gate_cs, gate_esp, gate_ss, gate_args[2];

__asm__(".globl near_target, far_target, gate_target, gate3_target, code16, user_gate, user_bad\n"
        "far_target: mov %cs, %eax\n    lret\n"
        "gate_target: mov %cs, gate_cs\n    lret\n"
        "gate3_target: mov %cs, gate_cs\n    mov %esp, gate_esp\n    mov %ss, gate_ss\n"
        "    mov 8(%esp), %eax\n    mov %eax, gate_args\n"
        "    mov 12(%esp), %eax\n    mov %eax, gate_args + 4\n    lret $8\n"
        "    .code16\n"
        "code16: mov $0x1234, %ax\n    mov $0x5678, %dx\n    lretl\n"
        "    .code32\n"
        "user_gate: push $0x22\n    push $0x11\n    lcall $0x48 + 3, $0\n    mov %cs, %ebx\n    "
        "int $0x80\n"
        "user_bad: lcall $0x48 + 3, $0\n    int $0x80\n");
extern char far_target[], gate_target[], gate3_target[], code16[];
void user_gate(void);
void user_bad(void);

static void do_far_call(void *arg) {
    (void)arg;
    __asm__ volatile("lcall *%0" ::"m"(far) : "eax", "edx", "memory");
}

static int far_call(u16 selector, void *offset) {
    far.selector = selector;
    far.offset = (u32)offset;
    return catch (do_far_call, NULL);
}

static void transfers(void) {
    CHECK_EQ(far_call(CODE, far_target), -1);
    segment(S, 0, 0xfffff, CONFORMING, BIG | GRANULAR);
    CHECK_EQ(far_call(S, far_target), -1);
    CHECK_EQ(far_call(DATA, far_target), 13);
    CHECK_EQ(last_frame.error, DATA);
    CHECK_EQ(far_call(0, far_target), 13);
    CHECK_EQ(last_frame.error, 0);
    CHECK_EQ(far_call(USER_CODE, far_target), 13); /* DPL is not CPL */
    CHECK_EQ(last_frame.error, USER_CODE & ~3);
    segment(S, 0, 0xfffff, XR & 0x7f, BIG | GRANULAR);
    CHECK_EQ(far_call(S, far_target), 11);
    CHECK_EQ(last_frame.error, S);
    segment(S, 0, 0xfff, XR, BIG);
    CHECK_EQ(far_call(S, far_target), 13); /* beyond the limit */
    CHECK_EQ(last_frame.error, 0);
    segment(S16, (u32)code16, 0xffff, XR, 0);
    u32 a, d;
    far.selector = S16;
    far.offset = 0;
    __asm__ volatile("xor %%eax, %%eax\n xor %%edx, %%edx\n lcall *%2"
                     : "=&a"(a), "=&d"(d)
                     : "m"(far)
                     : "memory");
    CHECK_EQ(a, 0x1234);
    CHECK_EQ(d, 0x5678);
}

static void call_gates(void) {
    call_gate(GATE, CODE, gate_target, 0, 0);
    CHECK_EQ(far_call(GATE, (void *)0xdeadbeef), -1); /* the offset is not used */
    CHECK_EQ(gate_cs & 0xffff, CODE);
    CHECK_EQ(run_user(user_bad), 13); /* the gate's DPL */
    CHECK_EQ(last_frame.error, GATE);
    call_gate(GATE, CODE, gate3_target, 3, 2);
    CHECK_EQ(run_user(user_gate), 0x80);
    CHECK_EQ(gate_cs & 0xffff, CODE);
    CHECK_EQ(gate_ss & 0xffff, DATA);
    CHECK_EQ(gate_esp, tss.esp0 - 24); /* SS, ESP, two parameters, CS, EIP */
    CHECK_EQ(gate_args[0], 0x11);
    CHECK_EQ(gate_args[1], 0x22);
    CHECK_EQ(last_frame.ebx & 0xffff, USER_CODE);
    CHECK_EQ(last_frame.ds & 0xffff, USER_DATA); /* loaded at CPL 3, not cleared by the return */
    call_gate(GATE, DATA, gate3_target, 3, 0);
    CHECK_EQ(run_user(user_bad), 13);
    CHECK_EQ(last_frame.error, DATA);
    gdt[GATE / 8] &= ~(1ull << 47);
    CHECK_EQ(run_user(user_bad), 11);
    CHECK_EQ(last_frame.error, GATE);
}

/* --- tasks -------------------------------------------------------------------------------------
 */

static struct tss32 tss2 __attribute__((aligned(128)));
static u8 stack2[2048] __attribute__((aligned(16)));
u32 task_eflags, task_tr, task_cr0, task_runs, task_ebx;

__asm__(
    ".globl task_entry\n"
    "task_entry:\n"
    "    pushf\n    pop task_eflags\n    str task_tr\n    mov %cr0, %eax\n    mov %eax, task_cr0\n"
    "    mov %ebx, task_ebx\n    incl task_runs\n    clts\n    iret\n"
    "    jmp task_entry\n");
extern char task_entry[];

static void do_task_call(void *arg) {
    (void)arg;
    __asm__ volatile("mov $0x1111, %%ebx\n lcall *%0\n" ::"m"(far) : "ebx", "memory");
}

static void do_task_int(void *arg) {
    (void)arg;
    __asm__ volatile("int $0x50");
}

static u32 busy(u32 selector) {
    return gdt[selector / 8] >> 41 & 1;
}

static void tasks(void) {
    tss2 = (struct tss32){.eip = (u32)task_entry,
                          .eflags = 2,
                          .esp = (u32)(stack2 + sizeof(stack2)),
                          .ebx = 0x2222,
                          .cs = CODE,
                          .ss = DATA,
                          .ds = DATA,
                          .es = DATA,
                          .io_base = sizeof(tss2)};
    segment(TSS2, (u32)&tss2, sizeof(tss2) - 1, 0x89, 0);
    CHECK_EQ(busy(TSS), 1);
    CHECK_EQ(far_call(TSS2 | 3, NULL), 13); /* RPL above DPL */
    far.selector = TSS2;
    CHECK_EQ(catch (do_task_call, NULL), -1);
    CHECK_EQ(task_runs, 1);
    CHECK_EQ(task_ebx, 0x2222);
    CHECK_EQ(task_tr & 0xffff, TSS2);
    CHECK_EQ(task_eflags & 1 << 14, 1 << 14); /* NT */
    CHECK_EQ(task_cr0 & 8, 8);                /* TS */
    CHECK_EQ(tss2.link & 0xffff, TSS);
    CHECK_EQ(tss.ebx, 0x1111);
    CHECK_EQ(busy(TSS), 1);
    CHECK_EQ(busy(TSS2), 0);
    u32 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    CHECK_EQ(tr & 0xffff, TSS);
    CHECK_EQ(catch (do_task_call, NULL), -1); /* goes on behind its IRET */
    CHECK_EQ(task_runs, 2);
    gdt[TASK_GATE / 8] = (u64)TSS2 << 16 | 0x85ull << 40;
    CHECK_EQ(far_call(TASK_GATE, NULL), -1);
    CHECK_EQ(task_runs, 3);
    idt_set(0x50, TSS2, NULL, 0x85);
    CHECK_EQ(catch (do_task_int, NULL), -1);
    CHECK_EQ(task_runs, 4);
    far.selector = TSS; /* busy */
    CHECK_EQ(catch (do_far_call, NULL), 13);
    CHECK_EQ(last_frame.error, TSS);
    segment(TSS2, (u32)&tss2, 60, 0x89, 0); /* too small: #TS */
    far.selector = TSS2;
    CHECK_EQ(catch (do_far_call, NULL), 10);
    CHECK_EQ(last_frame.error, TSS2);
    segment(TSS2, (u32)&tss2, sizeof(tss2) - 1, 0x09, 0);
    CHECK_EQ(catch (do_far_call, NULL), 11);
    CHECK_EQ(last_frame.error, TSS2);
    __asm__ volatile("clts");
}

/* --- instructions that 64-bit mode does not have -----------------------------------------------
 */

static void do_bound(void *arg) {
    static const int bounds[2] = {10, 20};
    __asm__ volatile("bound %0, %1" ::"r"(arg), "m"(bounds));
}

static void do_into(void *arg) {
    __asm__ volatile("mov %0, %%eax\n add %%eax, %%eax\n into" ::"r"(arg) : "eax", "cc");
}

static void do_aam0(void *arg) {
    (void)arg;
    __asm__ volatile("aam $0" ::: "eax");
}

static void old_instructions(void) {
    CHECK_EQ(catch (do_bound, (void *)10), -1);
    CHECK_EQ(catch (do_bound, (void *)21), 5);
    CHECK_EQ(catch (do_into, (void *)1), -1);
    CHECK_EQ(catch (do_into, (void *)0x7fffffff), 4);
    CHECK_EQ(catch (do_aam0, NULL), 0);
    u32 a;
    __asm__ volatile("aam" : "=a"(a) : "a"(37));
    CHECK_EQ(a, 0x0307);
    __asm__ volatile("aad" : "=a"(a) : "a"(0x0307));
    CHECK_EQ(a, 37);
    __asm__ volatile("add $0x19, %%al\n daa" : "=a"(a) : "a"(0x28) : "cc");
    CHECK_EQ(a & 0xff, 0x47);
    __asm__ volatile("sub $0x19, %%al\n das" : "=a"(a) : "a"(0x47) : "cc");
    CHECK_EQ(a & 0xff, 0x28);
    __asm__ volatile("add $9, %%al\n aaa" : "=a"(a) : "a"(8) : "cc");
    CHECK_EQ(a & 0xffff, 0x0107);
    __asm__ volatile("stc\n .byte 0xd6" : "=a"(a) : "a"(0) : "cc"); /* salc */
    CHECK_EQ(a & 0xff, 0xff);
    u32 before, pushed;
    __asm__ volatile("mov %%esp, %%ecx\n pusha\n mov 12(%%esp), %%edx\n mov %%edx, 20(%%esp)\n"
                     "popa"
                     : "=c"(before), "=d"(pushed)::"memory");
    CHECK_EQ(pushed, before); /* ESP as it was before PUSHA */
    static struct {
        u32 offset;
        u16 selector;
    } __attribute__((packed)) pointer = {0x12345678, DATA};
    __asm__ volatile("lfs %1, %0" : "=r"(a) : "m"(pointer));
    CHECK_EQ(a, 0x12345678);
    __asm__ volatile("les %1, %0" : "=r"(a) : "m"(pointer));
    CHECK_EQ(a, 0x12345678);
}

/* --- virtual-8086 mode -------------------------------------------------------------------------
 */

static void do_v86(void *arg) {
    __asm__ volatile("mov %0, %%eax\n"
                     "pushl $0\n pushl $0\n pushl $0x700\n pushl $0x700\n" /* gs fs ds es */
                     "pushl $0x700\n pushl $0x800\n"                       /* ss esp */
                     "pushl $0x23002\n pushl $0x700\n pushl $0\n"          /* VM, IOPL 3; cs; ip */
                     "iret\n" ::"r"(arg)
                     : "eax", "memory");
}

static int v86(const void *code, u32 size) {
    memcpy((void *)0x7000, code, size);
    return catch (do_v86, NULL);
}

static void virtual_8086(void) {
    /* mov ax, cs; mov bx, ds; mov word [0x100], 0x55aa; int 0x80 */
    CHECK_EQ(v86("\x8c\xc8\x8c\xdb\xc7\x06\x00\x01\xaa\x55\xcd\x80", 12), 0x80);
    CHECK_EQ(last_frame.eax & 0xffff, 0x700);
    CHECK_EQ(last_frame.ebx & 0xffff, 0x700);
    CHECK_EQ(*(u16 *)0x7100, 0x55aa);
    CHECK_EQ(last_frame.eflags & 1 << 17, 1 << 17);
    CHECK_EQ(v86("\xf4", 1), 13);        /* hlt */
    CHECK_EQ(v86("\x0f\x00\xc8", 3), 6); /* str is not recognised */
    CHECK_EQ(v86("\x66\xa1\xff\xff\x00\x00", 6),
             -1 + 14);                                  /* mov eax, [0xffff]: #GP, over the limit */
    CHECK_EQ(v86("\xfa\xfb\x9c\x58\xcd\x80", 6), 0x80); /* cli; sti; pushf; pop ax with IOPL 3 */
    CHECK_EQ(last_frame.eax & 0x3200, 0x3200);
}

void guest_main(void) {
    limits();
    types();
    loads();
    queries();
    transfers();
    call_gates();
    tasks();
    old_instructions();
    virtual_8086();
}
