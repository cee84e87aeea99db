/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Task switches (SDM vol. 3, chapter 8): the busy flag, NT and the link (table 8-2), what is
 * checked in the old task and what in the new one (table 8-1), task gates, error codes, 16-bit
 * TSSs, the T flag and the local breakpoints. What fails in the new task has CS with RPL 3, so that
 * its handler gets a good stack.
 */
#include "lib/m32.h"

enum {
    T2 = FREE,
    T3 = FREE + 8,
    T16 = FREE + 16,
    GATE = FREE + 24,
    LDT_SEL = FREE + 32,
    NP_CODE = FREE + 40,
    NP_DATA = FREE + 48,
    READ_ONLY = FREE + 56,
    X_ONLY = FREE + 64,
    CODE16 = FREE + 72,
    STACK16 = FREE + 80,
    SMALL_CODE = FREE + 88,
    CONFORM = FREE + 96,
};
enum { NT = 1 << 14, TS = 8, BUSY = 2, TASK_GATE = 0x85, AVAILABLE = 0x89, AVAILABLE16 = 0x81 };

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di;
    u16 es, cs, ss, ds, ldt;
};

static struct tss32 t2 __attribute__((aligned(128))), t3 __attribute__((aligned(128)));
static struct tss16 t16 __attribute__((aligned(64)));
static u8 stack2[4096] __attribute__((aligned(16))), stack3[2048] __attribute__((aligned(16)));
static u8 inner[2048] __attribute__((aligned(16))), stack16[512] __attribute__((aligned(16)));
u32 seen_flags, seen_tr, seen_cr0, seen_ebx, seen_error, runs;
static u32 seen_busy, seen_dr7;
static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) far;

void task_look(void);
__asm__(
    ".globl body_iret, body_jump, body_nest, body_error, body_user, body16\n"
    ".macro note\n    pushf\n    pop seen_flags\n    str seen_tr\n    mov %cr0, %eax\n"
    "    mov %eax, seen_cr0\n    mov %ebx, seen_ebx\n    incl runs\n.endm\n"
    "body_iret:\n    note\n    call task_look\n    clts\n    iret\n    jmp body_iret\n"
    "body_jump:\n    note\n    call task_look\n    clts\n    ljmp $0x28, $0\n    jmp body_jump\n"
    "body_nest:\n    lcall $0x38, $0\n    clts\n    iret\n    jmp body_nest\n"
    "body_error:\n    pop seen_error\n    note\n    addl $2, tss + 32\n    clts\n    iret\n"
    "body_user:\n    int $0x80\n"
    "body16:\n    note\n    mov $0x4444, %bx\n    clts\n    iret\n    jmp body16\n");
extern char body_iret[], body_jump[], body_nest[], body_error[], body_user[], body16[];

static u32 busy(u32 selector) {
    return gdt[selector / 8] >> 41 & 1;
}

void task_look(void) {
    seen_busy = busy(TSS) | busy(T2) << 1 | busy(T3) << 2;
    __asm__ volatile("mov %%dr7, %0" : "=r"(seen_dr7));
}

static u32 tr_now(void) {
    u32 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    return tr & 0xffff;
}

/* Back to the first task, wherever a fault has left the processor. */
static void home(void) {
    if (tr_now() != TSS) {
        gdt[TSS / 8] &= ~((u64)BUSY << 40);
        __asm__ volatile("ltr %w0" ::"r"(TSS));
    }
    __asm__ volatile("lldt %w0; clts; mov %1, %%fs; mov %1, %%gs" ::"r"(0), "r"(DATA));
}

static void fresh(struct tss32 *t, u32 selector, const void *body, u8 *stack, u32 size) {
    *t = (struct tss32){.eip = (u32)body,
                        .eflags = 2,
                        .esp = (u32)stack + size,
                        .ebx = 0x2222,
                        .cs = CODE,
                        .ss = DATA,
                        .ds = DATA,
                        .es = DATA,
                        .esp0 = (u32)(inner + sizeof(inner)),
                        .ss0 = DATA,
                        .link = 0x7777,
                        .io_base = sizeof(*t)};
    segment(selector, (u32)t, sizeof(*t) - 1, AVAILABLE, 0);
}

static void fresh2(const void *body) {
    fresh(&t2, T2, body, stack2, sizeof(stack2));
}

static void do_call(void *arg) {
    (void)arg;
    __asm__ volatile("mov $0x1111, %%ebx\n lcall *%0" ::"m"(far) : "ebx", "memory");
}
static void do_jump(void *arg) {
    (void)arg;
    __asm__ volatile("ljmp *%0" ::"m"(far) : "memory");
}
static void do_iret(void *arg) {
    (void)arg;
    __asm__ volatile("pushf\n orl $0x4000, (%%esp)\n popf\n iret" ::: "memory");
}
static void do_int(void *arg) {
    (void)arg;
    __asm__ volatile("int $0x50" ::: "memory");
}
static void do_bad_fs(void *arg) {
    (void)arg;
    __asm__ volatile("mov %0, %%fs" ::"a"(0x123 & ~3)); /* two bytes: body_error skips them */
}

static int call_to(u32 selector) {
    far.selector = (u16)selector;
    return catch (do_call, NULL);
}
static int jump_to(u32 selector) {
    far.selector = (u16)selector;
    return catch (do_jump, NULL);
}

/* --- table 8-2 ---------------------------------------------------------------------------------
 */

static void by_call(void) {
    fresh2(body_iret);
    runs = 0;
    CHECK_EQ(call_to(T2), -1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(seen_busy, 3); /* old one stays busy, new one is */
    CHECK_EQ(seen_flags & NT, NT);
    CHECK_EQ(seen_cr0 & TS, TS);
    CHECK_EQ(seen_tr & 0xffff, T2);
    CHECK_EQ(seen_ebx, 0x2222);
    CHECK_EQ(t2.link & 0xffff, TSS);
    CHECK_EQ(tss.ebx, 0x1111);
    CHECK_EQ(busy(T2), 0);       /* IRET: not busy any more, */
    CHECK_EQ(t2.eflags & NT, 0); /* and NT clear in what is saved */
    CHECK_EQ(tr_now(), TSS);
    CHECK_EQ(call_to(T2), -1); /* goes on behind its IRET */
    CHECK_EQ(runs, 2);
}

static void by_jump(void) {
    fresh2(body_jump);
    CHECK_EQ(jump_to(T2), -1);
    CHECK_EQ(seen_busy, 2); /* the old one is available */
    CHECK_EQ(seen_flags & NT, 0);
    CHECK_EQ(t2.link, 0x7777); /* untouched */
    CHECK_EQ(tr_now(), TSS);
    CHECK_EQ(busy(TSS), 1);
    CHECK_EQ(busy(T2), 0);
    fresh2(body_jump);
    t2.eflags = 2 | NT; /* kept as the TSS has it */
    CHECK_EQ(jump_to(T2), -1);
    CHECK_EQ(seen_flags & NT, NT);
}

static void nested(void) {
    fresh2(body_nest);
    fresh(&t3, T3, body_iret, stack3, sizeof(stack3));
    CHECK_EQ(call_to(T2), -1);
    CHECK_EQ(seen_tr & 0xffff, T3);
    CHECK_EQ(seen_busy, 7);
    CHECK_EQ(t3.link & 0xffff, T2);
    CHECK_EQ(t2.link & 0xffff, TSS);
    CHECK_EQ(busy(T2) | busy(T3), 0);
}

/* --- gates -------------------------------------------------------------------------------------
 */

static void task_gate(u32 target, u8 attr) {
    gdt[GATE / 8] = (u64)target << 16 | (u64)attr << 40;
}

__asm__(".globl user_gate, user_int, user_call\n"
        "user_gate: lcall $0x48 + 3, $0\n    int $0x80\n"
        "user_int: int $0x50\n    int $0x80\n"
        "user_call: lcall $0x30 + 3, $0\n    int $0x80\n");
void user_gate(void);
void user_int(void);
void user_call(void);

static void gates(void) {
    fresh2(body_iret);
    task_gate(T2, TASK_GATE);
    runs = 0;
    CHECK_EQ(call_to(GATE), -1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(call_to(GATE | 3), 13); /* RPL above the gate's DPL */
    CHECK_EQ(last_frame.error, GATE);
    CHECK_EQ(run_user(user_gate), 13);
    CHECK_EQ(last_frame.error, GATE);
    task_gate(T2, TASK_GATE | 0x60); /* the gate's DPL counts, not that of the TSS */
    CHECK_EQ(run_user(user_gate), 0x80);
    CHECK_EQ(runs, 2);
    CHECK_EQ(run_user(user_call), 13); /* directly it does */
    CHECK_EQ(last_frame.error, T2);
    gdt[T2 / 8] |= 3ull << 45;
    CHECK_EQ(run_user(user_call), 0x80);
    CHECK_EQ(runs, 3);
    task_gate(T2, TASK_GATE & 0x7f);
    CHECK_EQ(call_to(GATE), 11);
    CHECK_EQ(last_frame.error, GATE);
    task_gate(T2 | 4, TASK_GATE); /* must be in the GDT */
    CHECK_EQ(call_to(GATE), 13);
    CHECK_EQ(last_frame.error, T2 | 4);
    task_gate(0x200, TASK_GATE);
    CHECK_EQ(call_to(GATE), 13);
    CHECK_EQ(last_frame.error, 0x200);
    task_gate(TSS, TASK_GATE); /* busy */
    CHECK_EQ(call_to(GATE), 13);
    CHECK_EQ(last_frame.error, TSS);
    task_gate(CODE, TASK_GATE);
    CHECK_EQ(call_to(GATE), 13);
    CHECK_EQ(last_frame.error, CODE);
}

static void interrupts(void) {
    fresh2(body_iret);
    runs = 0;
    idt_set(0x50, T2, NULL, TASK_GATE);
    CHECK_EQ(catch (do_int, NULL), -1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(seen_flags & NT, NT);
    CHECK_EQ(t2.link & 0xffff, TSS);
    CHECK_EQ(run_user(user_int), 13);
    CHECK_EQ(last_frame.error, 0x50 * 8 + 2);
    idt_set(0x50, T2, NULL, TASK_GATE & 0x7f);
    CHECK_EQ(catch (do_int, NULL), 11);
    CHECK_EQ(last_frame.error, 0x50 * 8 + 2);
    idt_set(0x50, TSS, NULL, TASK_GATE);
    CHECK_EQ(catch (do_int, NULL), 13);
    CHECK_EQ(last_frame.error & ~1u, TSS);
    /* a fault by a task gate: its error code is on the new task's stack */
    extern char isr_stubs[];
    fresh2(body_error);
    idt_set(13, T2, NULL, TASK_GATE);
    CHECK_EQ(catch (do_bad_fs, NULL), -1);
    idt_set(13, CODE, isr_stubs + 13 * 16, 0x8e);
    CHECK_EQ(seen_error, 0x120);
    CHECK_EQ(seen_tr & 0xffff, T2);
    CHECK_EQ(tr_now(), TSS);
}

/* --- what the old task is told -----------------------------------------------------------------
 */

static void old_faults(void) {
    fresh2(body_iret);
    CHECK_EQ(jump_to(TSS), 13); /* busy */
    CHECK_EQ(last_frame.error, TSS);
    gdt[T2 / 8] |= (u64)BUSY << 40;
    CHECK_EQ(call_to(T2), 13);
    CHECK_EQ(last_frame.error, T2);
    fresh2(body_iret);
    CHECK_EQ(call_to(T2 | 3), 13);
    CHECK_EQ(call_to(T2 | 4), 13);
    gdt[T2 / 8] &= ~(1ull << 47);
    CHECK_EQ(jump_to(T2), 11);
    CHECK_EQ(last_frame.error, T2);
    segment(T2, (u32)&t2, 0x66, AVAILABLE, 0);
    CHECK_EQ(call_to(T2), 10);
    CHECK_EQ(last_frame.error, T2);
    CHECK_EQ(tr_now(), TSS);
    segment(T16, (u32)&t16, 0x2a, AVAILABLE16, 0);
    CHECK_EQ(call_to(T16), 10);
    CHECK_EQ(last_frame.error, T16);
    /* IRET with NT: the link must name a busy TSS in the GDT */
    fresh2(body_iret);
    tss.link = T2;
    CHECK_EQ(catch (do_iret, NULL), 10);
    CHECK_EQ(last_frame.error, T2);
    tss.link = CODE;
    CHECK_EQ(catch (do_iret, NULL), 10);
    CHECK_EQ(last_frame.error, CODE);
    tss.link = T2 | 4;
    CHECK_EQ(catch (do_iret, NULL), 10);
    CHECK_EQ(last_frame.error, T2 | 4);
    tss.link = 0x200;
    CHECK_EQ(catch (do_iret, NULL), 10);
    CHECK_EQ(last_frame.error, 0x200);
    CHECK_EQ(tr_now(), TSS);
    tss.link = 0;
}

/* --- what the new task is told -----------------------------------------------------------------
 */

static void bad_task(int line, u32 *field, u32 value, int vector, u32 error) {
    u32 keep = *field;
    *field = value;
    int v = call_to(T2);
    u32 tr = tr_now();
    home();
    *field = keep;
    segment(T2, (u32)&t2, sizeof(t2) - 1, AVAILABLE, 0);
    check_equal((u32)v, (u32)vector, line, "vector in the new task");
    if (v != 0x80) {
        check_equal(last_frame.error, error, line, "error code in the new task");
    }
    check_equal(tr, T2, line, "TR in the new task");
}

#define BAD(field, value, vector, error)                                                           \
    (fresh2(body_user), user_task(), bad_task(__LINE__, &(field), (value), (vector), (error)))

static void user_task(void) {
    t2.cs = USER_CODE;
    t2.ss = t2.ds = t2.es = USER_DATA;
}

static void new_faults(void) {
    segment(NP_CODE, 0, 0xfffff, 0x7b, BIG | GRANULAR);
    segment(NP_DATA, 0, 0xfffff, 0x73, BIG | GRANULAR);
    segment(READ_ONLY, 0, 0xfffff, 0xf1, BIG | GRANULAR);
    segment(X_ONLY, 0, 0xfffff, 0xf9, BIG | GRANULAR);
    segment(SMALL_CODE, 0, 0xfff, 0xfb, BIG);
    segment(CONFORM, 0, 0xfffff, 0x9f, BIG | GRANULAR);
    BAD(t2.ebx, 5, 0x80, 0); /* nothing is wrong */
    BAD(t2.ldt, DATA, 10, DATA);
    BAD(t2.ldt, 8 | 4, 10, 8 | 4);
    BAD(t2.ldt, 0x200, 10, 0x200);
    segment(LDT_SEL, (u32)stack3, 15, LDT & 0x7f, 0);
    BAD(t2.ldt, LDT_SEL, 10, LDT_SEL); /* not present: #TS, not #NP */
    segment(LDT_SEL, (u32)stack3, 15, LDT, 0);
    BAD(t2.ldt, LDT_SEL, 0x80, 0);
    BAD(t2.cs, USER_DATA, 10, USER_DATA & ~3);
    BAD(t2.cs, CODE | 3, 10, CODE); /* not conforming: DPL is RPL */
    BAD(t2.cs, 0x200 | 3, 10, 0x200);
    BAD(t2.cs, NP_CODE | 3, 11, NP_CODE);
    BAD(t2.cs, CONFORM | 3, 0x80, 0);
    BAD(t2.ss, 0, 10, 0);
    BAD(t2.ss, DATA | 3, 10, DATA);                 /* DPL is not CPL */
    BAD(t2.ss, USER_DATA & ~3, 10, USER_DATA & ~3); /* nor RPL */
    BAD(t2.ss, READ_ONLY | 3, 10, READ_ONLY);
    BAD(t2.ss, USER_CODE, 10, USER_CODE & ~3);
    BAD(t2.ss, NP_DATA | 3, 12, NP_DATA);
    BAD(t2.ds, 0, 0x80, 0);
    BAD(t2.ds, READ_ONLY | 3, 0x80, 0);
    BAD(t2.ds, X_ONLY | 3, 10, X_ONLY);
    BAD(t2.es, DATA, 10, DATA); /* DPL below CPL */
    BAD(t2.fs, TSS | 3, 10, TSS);
    BAD(t2.gs, NP_DATA | 3, 11, NP_DATA);
    BAD(t2.fs, CONFORM | 3, 0x80, 0);
    BAD(t2.cs, SMALL_CODE | 3, 13, 0); /* EIP beyond the limit */
}

/* --- 16-bit TSS --------------------------------------------------------------------------------
 */

static void small(void) {
    segment(CODE16, (u32)body16, 0xffff, XR, BIG);
    segment(STACK16, (u32)stack16, sizeof(stack16) - 1, RW, 0);
    segment(T16, (u32)&t16, sizeof(t16) - 1, AVAILABLE16, 0);
    t16 = (struct tss16){.ip = 0,
                         .flags = 2,
                         .bx = 0x2222,
                         .sp = sizeof(stack16),
                         .cs = CODE16,
                         .ss = STACK16,
                         .ds = DATA,
                         .es = DATA};
    runs = 0;
    CHECK_EQ(call_to(T16), -1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(seen_tr & 0xffff, T16);
    CHECK_EQ(seen_ebx & 0xffff, 0x2222);
    CHECK_EQ(seen_flags & NT, NT);
    CHECK_EQ(t16.link, TSS);
    CHECK_EQ(t16.bx, 0x4444); /* saved by IRET */
    CHECK_EQ(t16.flags & NT, 0);
    CHECK_EQ(t16.cs, CODE16);
    CHECK_EQ(busy(T16), 0);
    CHECK_EQ(tr_now(), TSS);
    CHECK_EQ(call_to(T16), -1);
    CHECK_EQ(runs, 2);
    __asm__ volatile("mov %0, %%fs; mov %0, %%gs" ::"r"(DATA));
}

/* --- debugging ---------------------------------------------------------------------------------
 */

static u32 trap_dr6, trap_eip, trap_tr, traps;

static void on_debug(struct frame *f) {
    __asm__ volatile("mov %%dr6, %0" : "=r"(trap_dr6));
    trap_eip = f->eip;
    trap_tr = tr_now();
    traps++;
    __asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0));
}

static void debugging(void) {
    irq_handler(1, on_debug);
    fresh2(body_iret);
    t2.trap = 1;
    traps = 0;
    CHECK_EQ(call_to(T2), -1);
    CHECK_EQ(traps, 1);
    CHECK_EQ(trap_eip, (u32)body_iret);  /* before the new task's first instruction */
    CHECK_EQ(trap_dr6 & 0x8000, 0x8000); /* BT */
    CHECK_EQ(trap_tr, T2);
    /* L0, LE, G0, GE: a switch takes the local ones away (17.2.4) */
    fresh2(body_iret);
    __asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" ::"r"(0x12345), "r"(0x703));
    CHECK_EQ(call_to(T2), -1);
    CHECK_EQ(seen_dr7 & 0x303, 0x202);
    __asm__ volatile("mov %0, %%dr7" ::"r"(0x400));
}

void guest_main(void) {
    by_call();
    by_jump();
    nested();
    gates();
    interrupts();
    old_faults();
    new_faults();
    small();
    debugging();
}
