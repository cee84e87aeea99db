/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exception comes when several are due, what becomes of exceptions during the delivery of
 * exceptions, and the windows in which interrupts and NMIs wait (SDM vol. 3, table 6-2 for the
 * priorities, table 6-5 for double faults, 6.7.1 for NMIs, 6.8.3 for MOV SS, STI in vol. 2).
 *
 * Left out: what the manual leaves to the processor (alignment against page faults).
 */
#include "lib/guest.h"

#define CODE_VA 0x50000000ull
#define HOLE    0x50002000ull /* never mapped */

struct gate {
    u16 offset0, selector;
    u8 ist, attr;
    u16 offset1;
    u32 offset2, reserved;
} __attribute__((packed));

struct table_ptr {
    u16 limit;
    u64 base;
} __attribute__((packed));

enum { PRESENT = 0x80, DF = 8, NP = 11, GP = 13, PF = 14 };

static struct gate my_idt[256] __attribute__((aligned(4096)));
static struct table_ptr lib_idt;
static u8 *code_page;
static u8 ist_stack[4096] __attribute__((aligned(16)));

static void idt_own(void) {
    __asm__ volatile("sidt %0" : "=m"(lib_idt));
    memcpy(my_idt, (void *)lib_idt.base, sizeof(my_idt));
    struct table_ptr p = {sizeof(my_idt) - 1, (u64)my_idt};
    __asm__ volatile("lidt %0" ::"m"(p));
}

static void idt_back(void) {
    __asm__ volatile("lidt %0" ::"m"(lib_idt));
}

/* --- two faults of one instruction -------------------------------------------------------------
 */

static int run_at(u64 offset, const void *bytes, size_t size) {
    memset(code_page, 0x90, 4096);
    memcpy(code_page + offset, bytes, size);
    return run_user(CODE_VA + offset, HOLE, CODE_VA + 0x400);
}

/* RDI points to nothing, RSI to memory. */
#define USER(bytes) run_at(0, bytes, sizeof(bytes) - 1)

static void user_priorities(void) {
    CHECK_EQ(USER("\x8b\x07"), PF);        /* mov eax, [rdi]: the operand really faults */
    CHECK_EQ(USER("\xf0\x89\x07"), 6);     /* LOCK MOV: #UD before the operand */
    CHECK_EQ(USER("\xf0\x01\x07"), PF);    /* LOCK ADD is allowed */
    CHECK_EQ(USER("\x0f\x01\x17"), GP);    /* LGDT [rdi]: privilege before the operand */
    CHECK_EQ(USER("\x0f\x01\x3f"), GP);    /* INVLPG */
    CHECK_EQ(USER("\x0f\x00\x17"), GP);    /* LLDT */
    CHECK_EQ(USER("\x0f\xc7\x37"), 6);     /* VMPTRLD: undefined here, whatever the operand */
    CHECK_EQ(USER("\xf7\x37"), PF);        /* DIV [rdi]: the operand before the division */
    CHECK_EQ(USER("\xee"), GP);            /* OUT without permission */
    WRITE_CR(0, READ_CR(0) | 8);           /* TS */
    CHECK_EQ(USER("\xd9\x07"), 7);         /* FLD [rdi]: #NM before the operand */
    CHECK_EQ(USER("\x0f\x28\x07"), 7);     /* MOVAPS likewise */
    WRITE_CR(0, (READ_CR(0) & ~8ull) | 4); /* EM */
    CHECK_EQ(USER("\x0f\x28\x07"), 6);
    CHECK_EQ(USER("\xd9\x07"), 7);
    WRITE_CR(0, READ_CR(0) & ~4ull);
}

static void fetch_priorities(void) {
    CHECK_EQ(run_at(0xfff, "\x0f", 1), PF); /* the second byte is on a page that is not there */
    CHECK_EQ(last_fault.cr2, CODE_VA + 0x1000);
    CHECK_EQ(last_fault.rip, CODE_VA + 0xfff);
    CHECK_EQ(last_fault.error & ~0x10ull, 4);
    CHECK_EQ(run_at(0xffe, "\x0f\x0b", 2), 6); /* UD2 ends with the page: nothing else is fetched */
    /* 15 bytes are a legal instruction, 16 are #GP(0) */
    CHECK_EQ(USER("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90\xcd\x80"), 128);
    CHECK_EQ(USER("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"), GP);
    CHECK_EQ(last_fault.error, 0);
    /* an instruction breakpoint comes before the page fault of the fetch */
    u64 dr7 = 0x400 | 3;
    __asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" ::"r"(HOLE), "r"(dr7));
    CHECK_EQ(run_user(HOLE, 0, 0), 1);
    __asm__ volatile("mov %0, %%dr7; mov %1, %%dr6" ::"r"(0x400ull), "r"(0xffff0ff0ull));
    CHECK_EQ(run_user(HOLE, 0, 0), PF);
    CHECK_EQ(last_fault.rip, HOLE);
}

/* An x87 exception that is pending comes before the next instruction's operand. */
static void x87_priority(void) {
    static const u16 control = 0x37e; /* invalid operation unmasked */
    WRITE_CR(0, READ_CR(0) | 0x20);   /* NE */
    __asm__ volatile("fninit; fldcw %0; fldz; fldz; fdivrp" ::"m"(control));
    CHECK_EQ(USER("\xd9\x07"), 16);
    CHECK_EQ(USER("\xdb\xe2\xd9\x07"), PF); /* FNCLEX first */
    __asm__ volatile("fninit");
}

/* A debug trap waits for the fault of its own instruction to be settled: no #DB, no RF lost. */
static void trap_and_fault(void) {
    struct user_context c = {CODE_VA, USER_CS, 0x102, 0x60000000 - 16, USER_SS, HOLE, 0};
    memcpy(code_page, "\x8b\x07", 2);
    CHECK_EQ(run_user_context(&c), PF);
    CHECK_EQ(last_frame.rflags & 0x100, 0x100);     /* TF is as it was */
    CHECK_EQ(last_frame.rflags & 0x10000, 0x10000); /* RF: a fault */
    memcpy(code_page, "\x90\x90", 2);
    CHECK_EQ(run_user_context(&c), 1);
    CHECK_EQ(last_fault.rip, CODE_VA + 1);
    CHECK_EQ(last_frame.rflags & 0x10000, 0); /* a trap */
    __asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ull));
}

/* --- faults while delivering -------------------------------------------------------------------
 */

static void do_ud(void *arg) {
    (void)arg;
    __asm__ volatile("ud2");
}
static void do_de(void *arg) {
    (void)arg;
    __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx");
}
static void do_gp(void *arg) {
    (void)arg;
    __asm__ volatile("mov %0, %%ds" ::"r"(0x1000));
}
static void do_pf(void *arg) {
    (void)*(volatile u32 *)arg;
}
static void do_int(void *arg) {
    (void)arg;
    __asm__ volatile("int $0x90");
}

static void gate_gone(u32 vector, bool gone) {
    my_idt[vector].attr =
        (u8)(gone ? my_idt[vector].attr & ~PRESENT : my_idt[vector].attr | PRESENT);
}

/* Raises first with its gate not present: #NP, or #DF with error code 0. */
static void nested(u32 first, void (*raise)(void *arg), int want, u64 error) {
    gate_gone(first, true);
    int v = catch (raise, (void *)HOLE);
    gate_gone(first, false);
    if (v != want || last_fault.error != error) {
        print("vector %u without a gate: %d error 0x%lx\n", first, v, last_fault.error);
    }
    CHECK_EQ(v, want);
    CHECK_EQ(last_fault.error, error);
}

static void double_faults(void) {
    nested(6, do_ud, NP, 6 * 8 + 3);        /* benign: serial; IDT and EXT bits */
    nested(0x90, do_int, NP, 0x90 * 8 + 2); /* INT n: not EXT */
    nested(0, do_de, DF, 0);                /* contributory after contributory */
    nested(GP, do_gp, DF, 0);
    nested(PF, do_pf, DF, 0);    /* contributory after #PF */
    my_idt[6].selector = 0x1000; /* #GP instead of #NP: the selector, EXT */
    CHECK_EQ(catch (do_ud, NULL), GP);
    CHECK_EQ(last_fault.error, 0x1001);
    my_idt[6].selector = 8;
    my_idt[6].attr = 0x8f & ~0x0f; /* type 0 is no gate */
    CHECK_EQ(catch (do_ud, NULL), GP);
    CHECK_EQ(last_fault.error, 6 * 8 + 3);
    my_idt[6].attr = 0x8e;
    my_idt[6].offset2 = 0x10000; /* a handler that is not canonical: #GP(EXT) */
    CHECK_EQ(catch (do_ud, NULL), GP);
    CHECK_EQ(last_fault.error & ~1ull, 0);
    my_idt[6].offset2 = 0;
}

/* From CPL 3 with a stack that is not there: #PF while pushing. */
static void stack_faults(void) {
    u64 good = tss.rsp[0];
    tss.ist[0] = (u64)(ist_stack + sizeof(ist_stack));
    my_idt[PF].ist = my_idt[DF].ist = 1;
    tss.rsp[0] = HOLE + 0x800;
    CHECK_EQ(USER("\x0f\x0b"), PF); /* #UD, then #PF: serial */
    CHECK_EQ(last_fault.error, 2);  /* a supervisor's write */
    CHECK_EQ(last_fault.cr2, HOLE + 0x800 - 8);
    CHECK_EQ(last_frame.cs, USER_CS);
    CHECK_EQ(USER("\xf4"), PF); /* #GP, then #PF: serial, too */
    CHECK_EQ(last_fault.cr2, HOLE + 0x800 - 8);
    my_idt[PF].ist = 0;
    CHECK_EQ(USER("\x8b\x07"), DF); /* #PF, then #PF */
    CHECK_EQ(last_fault.error, 0);
    CHECK_EQ(last_frame.rip, CODE_VA);
    tss.rsp[0] = 1ull << 47; /* not canonical: #SS(0), EXT for an exception */
    my_idt[12].ist = 1;
    CHECK_EQ(USER("\x0f\x0b"), 12);
    CHECK_EQ(last_fault.error & ~1ull, 0);
    CHECK_EQ(USER("\xf4"), DF); /* #GP, then #SS */
    my_idt[12].ist = my_idt[DF].ist = 0;
    tss.rsp[0] = good;
    CHECK_EQ(USER("\xcd\x80"), EXIT_USER);
}

/* --- windows -----------------------------------------------------------------------------------
 */

enum { VECTOR = 0x61 };
static volatile u32 irqs, nmis, nmi_depth, deepest;
static volatile u64 irq_rip;

static void on_irq(struct frame *f) {
    irqs++;
    irq_rip = f->rip;
    mmio_write(LAPIC + 0xb0, 0);
}

static void self(u32 command) {
    mmio_write(LAPIC + 0x300, 0x40000 | command);
    while (mmio_read(LAPIC + 0x300) & 0x1000) {
    }
}

static void on_nmi(struct frame *f) {
    (void)f;
    nmis++;
    nmi_depth++;
    deepest = nmi_depth > deepest ? nmi_depth : deepest;
    if (nmis == 1) { /* two more while blocked: one is kept */
        self(0x400);
        self(0x400);
        for (u32 i = 0; i < 1000; i++) {
            __asm__ volatile("pause");
        }
    }
    nmi_depth--;
}

static void windows(void) {
    u64 at;
    irq_handler(VECTOR, on_irq);
    irq_handler(2, on_nmi);
    mmio_write(LAPIC + 0xf0, 0x1ff);
    mmio_write(LAPIC + 0x80, 0);
    irq_off();
    self(VECTOR);
    delay_us(1000);
    CHECK_EQ(irqs, 0);
    /* STI holds interrupts back over one instruction; CLI there leaves no window at all */
    __asm__ volatile("sti; cli; nop; nop");
    CHECK_EQ(irqs, 0);
    __asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=r"(at));
    CHECK_EQ(irqs, 1);
    CHECK_EQ(irq_rip, at);
    /* POPF has no shadow */
    self(VECTOR);
    __asm__ volatile("pushf; orl $0x200, (%%rsp); lea 1f(%%rip), %0; popf; 1: nop; cli" : "=r"(at));
    CHECK_EQ(irqs, 2);
    CHECK_EQ(irq_rip, at);
    /* MOV SS holds them back behind STI's own instruction */
    self(VECTOR);
    __asm__ volatile("mov %%ss, %%eax; lea 1f(%%rip), %0; sti; mov %%eax, %%ss; nop; 1: nop; cli"
                     : "=r"(at)::"eax");
    CHECK_EQ(irqs, 3);
    CHECK(irq_rip == at || irq_rip == at - 1);
    /* NMIs come with IF clear, wait for IRET, and only one waits */
    self(0x400);
    delay_us(100);
    CHECK_EQ(nmis, 2);
    CHECK_EQ(deepest, 1);
    /* single step before an interrupt that is pending as well */
    struct user_context c = {CODE_VA, USER_CS, 0x302, 0x60000000 - 16, USER_SS, 0, 0};
    memcpy(code_page, "\x90\x90\x90", 3);
    irqs = 0;
    CHECK_EQ(run_user_context(&c), 1);
    CHECK_EQ(last_fault.rip, CODE_VA + 1);
    CHECK_EQ(irqs, 0);
    __asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ull));
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    tss_load();
    map_user(CODE_VA, "\x90", 1);
    code_page = (u8 *)(*page_entry(CODE_VA) & 0x000ffffffffff000ull);
    map_page(CODE_VA + 0x1000, 0, 0);
    map_page(HOLE, 0, 0);
    user_priorities();
    fetch_priorities();
    x87_priority();
    trap_and_fault();
    idt_own();
    double_faults();
    stack_faults();
    idt_back();
    windows();
}
