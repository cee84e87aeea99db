/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IRET in 64-bit mode to every kind of CS and SS, NT, null SS, addresses that are not canonical,
 * compatibility mode, what it does to data segments and flags; SYSRET's flags and selectors; when
 * NMIs are blocked and what lets them in again.
 *
 * SDM vol. 2, IRET and SYSRET; vol. 3, 6.7.1 (NMIs: until the next IRET, also one that faults,
 * 6.7.1 and 25.3), 6.14.3 (IRET in IA-32e mode), 6.8.3.
 */
#include "lib/guest.h"

#define CODE_VA 0x50000000ull
#define STACK   (0x60000000ull - 64)

enum { S = 0x48, GP = 13, NP = 11, SS = 12, NT = 1 << 14, RF = 1 << 16, IF = 1 << 9 };
enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK };

static u8 *code_page;
static u64 spare; /* gdt[9], 16-bit code, which nothing here needs */

/* IRETQ at CPL 0 with five words. */
static struct words { u64 rip, cs, rflags, rsp, ss; } words;

static void do_iret(void *arg) {
    const struct words *w = arg;
    __asm__ volatile("pushq 32(%0)\n pushq 24(%0)\n pushq 16(%0)\n pushq 8(%0)\n pushq (%0)\n"
                     "xor %%eax, %%eax\n iretq" ::"r"(w)
                     : "memory", "rax");
}

static void user_words(void) {
    words = (struct words){CODE_VA, USER_CS, 2, STACK, USER_SS};
}

static void expect(int line, int vector, u64 error) {
    int v = catch (do_iret, &words);
    check_equal((u64)v, (u64)vector, __FILE__, line, "vector");
    if (v != EXIT_USER) {
        check_equal(last_fault.error, error, __FILE__, line, "error code");
        check_equal(last_frame.cs & 3, 0, __FILE__, line, "CPL of the fault");
    }
    user_words();
}
#define EXPECT(vector, error) expect(__LINE__, vector, error)

static void set_spare(u8 access, u8 flags) {
    gdt[S / 8] = 0x000f00000000ffffull | (u64)access << 40 | (u64)flags << 52;
}

/* --- CS ----------------------------------------------------------------------------------------
 */

static void code_segments(void) {
    user_words();
    EXPECT(EXIT_USER, 0);
    words.cs = 0;
    EXPECT(GP, 0);
    words.cs = 3;
    EXPECT(GP, 0);
    words.cs = 0x400 | 3;
    EXPECT(GP, 0x400);
    words.cs = 4 | 3; /* no LDT */
    EXPECT(GP, 4);
    words.cs = USER_SS;
    EXPECT(GP, USER_SS & ~3);
    words.cs = 8 | 3; /* DPL is not RPL */
    EXPECT(GP, 8);
    words.cs = USER_CS & ~3;
    EXPECT(GP, USER_CS & ~3);
    set_spare(0x7b, 0xa); /* not present */
    words.cs = S | 3;
    EXPECT(NP, S);
    set_spare(0xfb, 0xe); /* L and D */
    words.cs = S | 3;
    EXPECT(GP, S);
    set_spare(0x9f, 0xa); /* conforming, DPL 0: fine for any RPL */
    words.cs = S | 3;
    EXPECT(EXIT_USER, 0);
    set_spare(0xff, 0xa); /* conforming, DPL 3: above RPL 0 */
    words.cs = S;
    EXPECT(GP, S);
    set_spare(0xf9, 0xa); /* execute-only will do */
    words.cs = S | 3;
    EXPECT(EXIT_USER, 0);
    set_spare(0x89, 0); /* a TSS */
    words.cs = S;
    EXPECT(GP, S);
}

/* --- SS ----------------------------------------------------------------------------------------
 */

__asm__(".globl same_level\nsame_level: int $0x80\n");
extern char same_level[];

static void stack_segments(void) {
    user_words();
    words.ss = 0; /* to CPL 3: no */
    EXPECT(GP, 0);
    words.ss = 3;
    EXPECT(GP, 0);
    words.ss = 0x10;
    EXPECT(GP, 0x10);
    words.ss = USER_SS & ~3;
    EXPECT(GP, USER_SS & ~3);
    words.ss = 0x10 | 3;
    EXPECT(GP, 0x10);
    words.ss = USER_CS;
    EXPECT(GP, USER_CS & ~3);
    words.ss = 0x400 | 3;
    EXPECT(GP, 0x400);
    set_spare(0xf1, 0xc); /* read-only */
    words.ss = S | 3;
    EXPECT(GP, S);
    set_spare(0x73, 0xc);
    words.ss = S | 3;
    EXPECT(SS, S);
    set_spare(0xf7, 0xc); /* expand-down is writable */
    words.ss = S | 3;
    EXPECT(EXIT_USER, 0);
    /* a null SS is right for 64-bit code at CPL 0 */
    u64 rsp = (u64)(kernel_stack + sizeof(kernel_stack)) - 1024;
    words = (struct words){(u64)same_level, 8, 2, rsp, 0};
    EXPECT(EXIT_USER, 0);
    CHECK_EQ(last_frame.ss, 0);
    CHECK_EQ(last_frame.rsp, rsp);
    __asm__ volatile("mov %0, %%ss" ::"r"(0x10));
    words = (struct words){(u64)same_level, 8, 2, rsp, 3}; /* but its RPL is CPL */
    EXPECT(GP, 0);
    words = (struct words){(u64)same_level, 0x18, 2, rsp, 0}; /* and not for 32-bit code */
    EXPECT(GP, 0);
    words = (struct words){(u64)same_level, 8, 2, rsp, USER_SS};
    EXPECT(GP, USER_SS & ~3);
}

/* --- addresses and flags -----------------------------------------------------------------------
 */

static void addresses(void) {
    u64 rsp = (u64)(kernel_stack + sizeof(kernel_stack)) - 1024;
    words = (struct words){1ull << 47, 8, 2, rsp, 0x10};
    EXPECT(GP, 0);
    words = (struct words){0xffff7fffffffffffull, 8, 2, rsp, 0x10};
    EXPECT(GP, 0);
    /* RSP is loaded as it is: whoever uses it learns */
    words.rsp = 1ull << 47;
    EXPECT(EXIT_USER, 0);
    CHECK_EQ(last_frame.rsp, 1ull << 47);
    words.rsp = (1ull << 47) + 64;
    memcpy(code_page, "\x50\xcd\x80", 3); /* push rax */
    CHECK_EQ(catch (do_iret, &words), SS);
    CHECK_EQ(last_fault.error, 0);
    CHECK_EQ(last_frame.cs, USER_CS);
    memcpy(code_page, "\xcd\x80", 2);
    /* compatibility mode: RIP against the limit, 32 bits of RSP */
    user_words();
    words.cs = USER_CS32;
    words.rsp |= 0xabcdull << 32;
    EXPECT(EXIT_USER, 0);
    CHECK_EQ(last_frame.cs, USER_CS32);
    CHECK_EQ((u32)last_frame.rsp, STACK);
    gdt[S / 8] = 0x0040fb000000ffffull; /* 64 KiB */
    words.cs = S | 3;
    EXPECT(GP, 0);
}

static void flags(void) {
    user_words();
    words.rflags = NT | 2; /* the image's NT does no harm */
    EXPECT(EXIT_USER, 0);
    CHECK_EQ(last_frame.rflags & NT, NT);
    __asm__ volatile("pushf\n orl $0x4000, (%rsp)\n popf"); /* the processor's own does */
    EXPECT(GP, 0);
    CHECK_EQ(last_frame.rflags & NT, NT);
    __asm__ volatile("pushf\n andl $~0x4000, (%rsp)\n popf");
    words.rflags = ~0ull & ~(u64)(1 << 8 | IF | NT); /* reserved bits and VM are nothing */
    EXPECT(EXIT_USER, 0);
    /* VIF and VIP go with IOPL */
    CHECK_EQ(last_frame.rflags & ~(u64)RF, 0x3c3cd7);
    /* at CPL 3: neither IOPL nor IF */
    memcpy(code_page, "\x48\xcf", 2); /* iretq, with a frame on the user's stack */
    u64 *frame = (u64 *)(STACK);
    frame[0] = CODE_VA + 16;
    frame[1] = USER_CS;
    frame[2] = 2 | 0x3000 | IF | 1;
    frame[3] = STACK;
    frame[4] = USER_SS;
    memcpy(code_page + 16, "\xcd\x80", 2);
    EXPECT(EXIT_USER, 0);
    CHECK_EQ(last_frame.rip, CODE_VA + 18);
    CHECK_EQ(last_frame.rflags & (0x3000 | IF | 1), 1);
    frame[1] = 8; /* to an inner level: no */
    CHECK_EQ((u64) catch (do_iret, &words), GP);
    CHECK_EQ(last_fault.error, 8);
    CHECK_EQ(last_frame.cs, USER_CS);
    memcpy(code_page, "\xcd\x80", 2);
}

/* Data segments that CPL 3 may not have become null. */
static void data_segments(void) {
    u32 ds, es, fs;
    user_words();
    set_spare(0x9f, 0xc);                                     /* conforming code stays */
    memcpy(code_page, "\x8c\xdb\x8c\xc1\x8c\xe2\xcd\x80", 8); /* ebx = ds, ecx = es, edx = fs */
    __asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs" ::"r"(0x10), "r"(USER_SS), "r"(S));
    int v = catch (do_iret, &words);
    ds = (u32)last_frame.rbx;
    es = (u32)last_frame.rcx;
    fs = (u32)last_frame.rdx;
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs" ::"r"(0x10), "r"(0));
    CHECK_EQ((u64)v, EXIT_USER);
    CHECK_EQ(ds, 0);
    CHECK_EQ(es, USER_SS);
    CHECK_EQ(fs, S);
    memcpy(code_page, "\xcd\x80", 2);
}

/* --- SYSRET ------------------------------------------------------------------------------------
 */

static void do_sysretq(void *arg) {
    __asm__ volatile("mov %0, %%r11\n mov %1, %%rcx\n xor %%eax, %%eax\n sysretq" ::"r"(arg),
                     "r"(CODE_VA)
                     : "rcx", "r11");
}
static void do_sysretl(void *arg) {
    __asm__ volatile("mov %0, %%r11\n mov %1, %%rcx\n xor %%eax, %%eax\n sysretl" ::"r"(arg),
                     "r"(CODE_VA | 5ull << 32)
                     : "rcx", "r11");
}

static void sysret(void) {
    map_page(0x5ffff000, (u64)spare_page[0], 7);
    wrmsr(STAR, (u64)0x23 << 48 | (u64)0x08 << 32);
    CHECK_EQ(catch (do_sysretq, (void *)(0x3c7fd7ull & ~(u64)(1 << 8 | IF))), EXIT_USER);
    CHECK_EQ(last_frame.cs, USER_CS);
    CHECK_EQ(last_frame.ss, USER_SS);
    CHECK_EQ(last_frame.rip, CODE_VA + 2);
    /* RF and VM are cleared, bit 1 is set, all others are R11's */
    CHECK_EQ(last_frame.rflags & (RF | 1 << 17 | 1 << 3 | 1 << 5), 0);
    CHECK_EQ(last_frame.rflags & (0xcd7 | NT | 0x3000 | 1 << 21), 0xcd7 | NT | 0x3000 | 1 << 21);
    CHECK_EQ(catch (do_sysretl, (void *)2ull), EXIT_USER);
    CHECK_EQ(last_frame.cs, USER_CS32);
    CHECK_EQ(last_frame.rip, CODE_VA + 2);          /* ECX */
    wrmsr(STAR, (u64)0x20 << 48 | (u64)0x08 << 32); /* RPL 3 comes by itself */
    CHECK_EQ(catch (do_sysretq, (void *)2ull), EXIT_USER);
    CHECK_EQ(last_frame.cs, USER_CS);
    CHECK_EQ(last_frame.ss, USER_SS);
}

/* --- NMI ---------------------------------------------------------------------------------------
 */

static volatile u32 nmis, nested, phase, faults;

static void self_nmi(void) {
    mmio_write(LAPIC + 0x300, 0x40400);
    while (mmio_read(LAPIC + 0x300) & 0x1000) {
    }
    for (u32 i = 0; i < 200; i++) {
        __asm__ volatile("pause");
    }
}

static void on_gp(struct frame *f) {
    faults++;
    f->rip += 2; /* the IRETQ */
}

static void on_nmi(struct frame *f) {
    (void)f;
    u32 now = nmis++;
    if (now) {
        return;
    }
    self_nmi();
    nested = nmis;    /* 1: it waits */
    if (phase == 1) { /* an IRET to the next instruction lets it in */
        __asm__ volatile("mov %%rsp, %%rcx\n pushq $0x10\n push %%rcx\n pushf\n pushq $8\n"
                         "lea 1f(%%rip), %%rax\n push %%rax\n iretq\n1:" ::
                             : "rax", "rcx", "memory");
        nested = nmis;
    } else if (phase == 2) { /* and one that faults does, too */
        __asm__ volatile("mov %%rsp, %%rbx\n pushq $0x10\n push %%rbx\n pushf\n pushq $0x400\n"
                         "push $0\n iretq\n mov %%rbx, %%rsp" ::
                             : "rax", "rbx", "memory");
        nested = nmis;
    } else if (phase == 3) { /* other exceptions and returns do not */
        __asm__ volatile("mov %%rsp, %%rcx\n pushq $8\n lea 1f(%%rip), %%rax\n push %%rax\n lretq\n"
                         "1:" ::
                             : "rax", "rcx", "memory");
        nested = nmis;
    }
}

static void nmi_phase(u32 n) {
    nmis = nested = faults = 0;
    phase = n;
    self_nmi();
}

static void nmi(void) {
    irq_handler(2, on_nmi);
    irq_handler(GP, on_gp);
    mmio_write(LAPIC + 0xf0, 0x1ff);
    nmi_phase(0);
    CHECK_EQ(nested, 1);
    CHECK_EQ(nmis, 2); /* behind the handler's IRET */
    nmi_phase(1);
    CHECK_EQ(nested, 2);
    nmi_phase(2);
    CHECK_EQ(faults, 1);
    CHECK_EQ(nested, 2);
    nmi_phase(3);
    CHECK_EQ(nested, 1);
    CHECK_EQ(nmis, 2);
    /* INT 2 is an ordinary interrupt: it blocks nothing */
    nmis = nested = 0;
    phase = 0;
    __asm__ volatile("int $2");
    CHECK_EQ(nested, 2);
    CHECK_EQ(nmis, 2);
    irq_handler(GP, NULL);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    tss_load();
    map_user(CODE_VA, "\xcd\x80", 2);
    map_page(0x5ffff000, (u64)spare_page[0], 7);
    code_page = (u8 *)(*page_entry(CODE_VA) & 0x000ffffffffff000ull);
    spare = gdt[S / 8];
    code_segments();
    stack_segments();
    addresses();
    flags();
    data_segments();
    gdt[S / 8] = spare;
    sysret();
    nmi();
}
