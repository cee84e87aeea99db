/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring 3 and the ways in and out: gates, IRET, SYSCALL and SYSRET, SYSENTER and SYSEXIT, SWAPGS,
 * compatibility mode, RSP0 and IST stacks, the I/O permission bitmap, and what user code may not do
 * (SDM vol. 3, chapter 6; vol. 1, 19.5; the instructions' pages in vol. 2).
 */
#include "lib/guest.h"

#define CODE_VA 0x50000000ull

enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK, GS_BASE = 0xc0000101, KERNEL_GS_BASE };
enum { SYSENTER_CS = 0x174, SYSENTER_ESP, SYSENTER_EIP, EFER = 0xc0000080 };

static u8 ist_stack[4096] __attribute__((aligned(16)));
static u8 *code_page;
struct entry_record {
    u64 rcx, r11, rsp, cs, ss, flags;
} entry_record;
u64 user_rsp;

/* syscall_entry notes what SYSCALL left and goes back with SYSRET to RCX (64 bit, or 32 when RAX is
 * 1), or ends the test as an exception when RAX is 2. */
__asm__(".globl syscall_entry, sysenter_entry\n"
        "syscall_entry:\n"
        "    mov %rcx, entry_record\n"
        "    mov %r11, entry_record + 8\n"
        "    mov %rsp, entry_record + 16\n"
        "    mov %rsp, user_rsp\n"
        "    lea kernel_stack + 4096, %rsp\n"
        "    xor %edx, %edx\n"
        "    mov %cs, %edx\n"
        "    mov %rdx, entry_record + 24\n"
        "    mov %ss, %edx\n"
        "    mov %rdx, entry_record + 32\n"
        "    pushf\n"
        "    pop entry_record + 40\n"
        "    cmp $1, %eax\n"
        "    je 1f\n"
        "    cmp $2, %eax\n"
        "    je 2f\n"
        "    mov user_rsp, %rsp\n"
        "    sysretq\n"
        "1:  mov user_rsp, %rsp\n"
        "    sysretl\n"
        "2:  int $0x80\n"
        "sysenter_entry:\n"
        "    mov %rsp, entry_record + 16\n"
        "    xor %edx, %edx\n"
        "    mov %cs, %edx\n"
        "    mov %rdx, entry_record + 24\n"
        "    mov %ss, %edx\n"
        "    mov %rdx, entry_record + 32\n"
        "    pushf\n"
        "    pop entry_record + 40\n"
        "    cmp $1, %eax\n"
        "    mov %rsi, %rdx\n" /* where to, RCX the stack */
        "    je 3f\n"
        "    sysexitq\n"
        "3:  sysexitl\n");
extern char syscall_entry[], sysenter_entry[];

static int run_bytes(const void *bytes, size_t size) {
    memset(code_page, 0x90, 256);
    memcpy(code_page, bytes, size);
    memcpy(code_page + size, "\xcd\x80", 2);
    return run_user(CODE_VA, 0, 0);
}

#define RUN(bytes) run_bytes(bytes, sizeof(bytes) - 1)

/* The vector and error code of user code, and that the instruction itself is reported. */
static void faults(const char *name, const void *bytes, size_t size, int vector, u64 error) {
    int v = run_bytes(bytes, size);
    bool ok =
        v == vector && (v == EXIT_USER || (last_fault.error == error && last_fault.rip == CODE_VA));
    if (!ok) {
        print("%s: vector %d error 0x%lx rip 0x%lx\n", name, v, last_fault.error, last_fault.rip);
    }
    CHECK(ok);
}

#define FAULTS(bytes, vector, error) faults(#bytes, bytes, sizeof(bytes) - 1, vector, error)

/* --- interrupts and their stacks ---------------------------------------------------------------
 */

static void gates(void) {
    CHECK_EQ(RUN("\x90"), EXIT_USER);
    CHECK_EQ(last_frame.cs, USER_CS);
    CHECK_EQ(last_frame.ss, USER_SS);
    CHECK_EQ(last_frame.rip, CODE_VA + 3);
    u64 top = (u64)(kernel_stack + sizeof(kernel_stack));
    CHECK_EQ(last_frame.rsp & 0xfff, 0);
    tss.rsp[0] = top - 8;                 /* aligned down to 16 before SS is pushed */
    CHECK_EQ(RUN("\x54\x58"), EXIT_USER); /* push rsp; pop rax */
    CHECK_EQ(last_frame.rax, last_frame.rsp);
    tss.rsp[0] = top;
    FAULTS("\xcd\x42", 13, 0x42 << 3 | 2); /* gate with DPL 0 */
    FAULTS("\xcc", 13, 3 << 3 | 2);
    FAULTS("\xcd\x0e", 13, 14 << 3 | 2);
    CHECK_EQ(RUN("\xf1"), 1); /* ICEBP asks no DPL, and is a trap */
    CHECK_EQ(last_fault.rip, CODE_VA + 1);
    FAULTS("\x0f\x0b", 6, 0);
    FAULTS("\xf7\xf1", 0, 0); /* div ecx; RCX is 0 */
}

static volatile u64 handler_frame;

static void on_ist(struct frame *f) {
    handler_frame = (u64)f;
}

static void ist(void) {
    extern char isr_stubs[];
    tss.ist[2] = (u64)(ist_stack + sizeof(ist_stack)); /* IST3 */
    idt_gate(0x43, isr_stubs + 0x43 * 16, 0xe, 3, 3);
    irq_handler(0x43, on_ist);
    CHECK_EQ(RUN("\xcd\x43"), EXIT_USER);
    CHECK_EQ(handler_frame + sizeof(struct frame), (u64)(ist_stack + sizeof(ist_stack)));
    __asm__ volatile("int $0x43"); /* from CPL 0 as well */
    CHECK_EQ(handler_frame + sizeof(struct frame), (u64)(ist_stack + sizeof(ist_stack)));
    idt_gate(0x43, isr_stubs + 0x43 * 16, 0xe, 3, 0);
    CHECK_EQ(RUN("\xcd\x43"), EXIT_USER);
    CHECK_EQ(handler_frame + sizeof(struct frame), tss.rsp[0]);
}

/* --- privileged instructions -------------------------------------------------------------------
 */

static void privileged(void) {
    FAULTS("\xf4", 13, 0);             /* hlt */
    FAULTS("\xfa", 13, 0);             /* cli, IOPL 0 */
    FAULTS("\xfb", 13, 0);             /* sti */
    FAULTS("\x0f\x06", 13, 0);         /* clts */
    FAULTS("\x0f\x08", 13, 0);         /* invd */
    FAULTS("\x0f\x09", 13, 0);         /* wbinvd */
    FAULTS("\x0f\x20\xc0", 13, 0);     /* mov rax, cr0 */
    FAULTS("\x0f\x22\xd8", 13, 0);     /* mov cr3, rax */
    FAULTS("\x44\x0f\x20\xc0", 13, 0); /* mov rax, cr8 */
    FAULTS("\x0f\x21\xc0", 13, 0);     /* mov rax, dr0 */
    FAULTS("\x0f\x30", 13, 0);         /* wrmsr */
    FAULTS("\x0f\x32", 13, 0);         /* rdmsr */
    FAULTS("\x0f\x01\x10", 13, 0);     /* lgdt [rax] */
    FAULTS("\x0f\x01\x18", 13, 0);     /* lidt [rax] */
    FAULTS("\x0f\x00\xd0", 13, 0);     /* lldt ax */
    FAULTS("\x0f\x00\xd8", 13, 0);     /* ltr ax */
    FAULTS("\x0f\x01\xf0", 13, 0);     /* lmsw ax */
    FAULTS("\x0f\x01\x38", 13, 0);     /* invlpg [rax] */
    FAULTS("\x0f\x01\xf8", 13, 0);     /* swapgs */
    FAULTS("\x48\x0f\x07", 13, 0);     /* sysretq */
    FAULTS("\x0f\x35", 13, 0);         /* sysexit */
    FAULTS("\xe4\x20", 13, 0);         /* in al, 0x20 */
    FAULTS("\xee", 13, 0);             /* out dx, al */
    FAULTS("\x6c", 13, 0);             /* insb */
    FAULTS("\x0f\x01\xd1", 6, 0);      /* xsetbv while CR4.OSXSAVE is 0 */
    FAULTS("\x0f\x31", EXIT_USER, 0);  /* rdtsc */
    FAULTS("\x9c\x9d", EXIT_USER, 0);  /* pushf; popf */
    WRITE_CR(4, READ_CR(4) | 4);       /* TSD */
    FAULTS("\x0f\x31", 13, 0);
    WRITE_CR(4, READ_CR(4) & ~4ull);
    FAULTS("\x0f\x33", 13, 0); /* rdpmc, CR4.PCE 0 */
    u32 r[4];
    cpuid(7, 0, r);
    FAULTS("\x0f\x01\xe0", EXIT_USER, 0); /* smsw eax */
    if (r[2] >> 2 & 1) {
        WRITE_CR(4, READ_CR(4) | 1 << 11); /* UMIP */
        FAULTS("\x0f\x01\xe0", 13, 0);
        FAULTS("\x0f\x00\xc8", 13, 0);         /* str eax */
        FAULTS("\x0f\x00\xc0", 13, 0);         /* sldt eax */
        FAULTS("\x0f\x01\x44\x24\xe0", 13, 0); /* sgdt [rsp-32] */
        FAULTS("\x0f\x01\x4c\x24\xe0", 13, 0); /* sidt */
        WRITE_CR(4, READ_CR(4) & ~(1ull << 11));
    }
    FAULTS("\x8e\xd8", EXIT_USER, 0); /* mov ds, 0 */
}

/* POPF at CPL 3 changes neither IF nor IOPL, silently. */
static void popf(void) {
    CHECK_EQ(RUN("\x68\x02\x32\x00\x00\x9d\x9c\x58"),
             EXIT_USER); /* push 0x3202; popf; pushf; pop rax */
    CHECK_EQ(last_frame.rax & 0x3200, 0);
    CHECK_EQ(RUN("\x68\x02\x00\x20\x00\x9d\x9c\x58"), EXIT_USER); /* ID may be changed */
    CHECK_EQ(last_frame.rax & 0x200000, 0x200000);
}

static void load_kernel_segment(void) {
    CHECK_EQ(RUN("\xb8\x10\x00\x00\x00\x8e\xd8"), 13); /* mov eax, 0x10; mov ds, eax */
    CHECK_EQ(last_fault.error, 0x10);
    CHECK_EQ(last_fault.rip, CODE_VA + 5);
    CHECK_EQ(RUN("\xb8\x2b\x00\x00\x00\x8e\xd8"), EXIT_USER);
    CHECK_EQ(RUN("\xb8\x08\x00\x00\x00\x8e\xd0"), 13); /* code into SS */
    CHECK_EQ(last_fault.error, 8);
}

/* --- ports -------------------------------------------------------------------------------------
 */

static void io_bitmap(void) {
    FAULTS("\xe4\xe1", 13, 0);
    tss.io_map[0xe1 / 8] &= (u8) ~(1 << (0xe1 & 7));
    FAULTS("\xe4\xe1", EXIT_USER, 0);
    FAULTS("\xe4\xe2", 13, 0);
    FAULTS("\x66\xe5\xe1", 13, 0); /* two ports: both bits count */
    tss.io_map[0xe2 / 8] &= (u8) ~(1 << (0xe2 & 7));
    FAULTS("\x66\xe5\xe1", EXIT_USER, 0);
    tss.io_base = sizeof(tss); /* beyond the limit: no bitmap at all */
    FAULTS("\xe4\xe1", 13, 0);
    tss.io_base = (u16) __builtin_offsetof(struct tss, io_map);
    struct user_context c = {CODE_VA, USER_CS, 0x3002, 0x60000000 - 16, USER_SS, 0, 0}; /* IOPL 3 */
    memcpy(code_page, "\xe4\xe0\xfa\xcd\x80", 5);
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    CHECK_EQ(last_frame.rflags & 0x3200, 0x3000);
}

/* --- SYSCALL, SYSENTER, SWAPGS -----------------------------------------------------------------
 */

static void syscalls(void) {
    wrmsr(EFER, rdmsr(EFER) & ~1ull);
    FAULTS("\x0f\x05", 6, 0);
    wrmsr(EFER, rdmsr(EFER) | 1);
    wrmsr(STAR, (u64)0x23 << 48 | (u64)0x08 << 32);
    wrmsr(LSTAR, (u64)syscall_entry);
    wrmsr(FMASK, 0x401); /* DF and CF */
    CHECK_EQ(RUN("\xfd\xf9\x0f\x05\x8c\xca\x8c\xd3\x9c\x5d"),
             EXIT_USER); /* std; stc; syscall; cs; ss; flags */
    CHECK_EQ(entry_record.rcx, CODE_VA + 4);
    CHECK_EQ(entry_record.r11 & 0xfff, 0x403);
    CHECK_EQ(entry_record.flags & 0x401, 0);
    CHECK_EQ(entry_record.cs, 8);
    CHECK_EQ(entry_record.ss, 0x10);
    CHECK_EQ(last_frame.rdx & 0xffff, USER_CS);
    CHECK_EQ(last_frame.rbx & 0xffff, USER_SS);
    CHECK_EQ(last_frame.rbp & 0x401, 0x401); /* from R11 */
    CHECK_EQ(last_frame.rcx, CODE_VA + 4);
    /* mov al, 1; syscall; then in compatibility mode: cs; 0x48 is "dec eax" there */
    CHECK_EQ(RUN("\xb0\x01\x0f\x05\xfc\x8c\xca\x31\xc0\x48"), EXIT_USER);
    CHECK_EQ(last_frame.rdx & 0xffff, USER_CS32);
    CHECK_EQ(last_frame.cs, USER_CS32);
    CHECK_EQ((u32)last_frame.rax, 0xffffffff);
    CHECK_EQ(RUN("\xb0\x02\x0f\x05"), EXIT_USER);
    CHECK_EQ(last_frame.cs, 8);
}

static void do_sysret(void *arg) {
    __asm__ volatile("mov %0, %%rcx; mov $2, %%r11; sysretq" ::"r"(arg) : "rcx", "r11");
}

/* On Intel's processors the fault comes before CPL changes. */
static void sysret_noncanonical(void) {
    u32 r[4];
    cpuid(0, 0, r);
    if (r[1] == 0x756e6547) { /* "Genu" */
        CHECK_EQ(catch (do_sysret, (void *)(1ull << 47)), 13);
        CHECK_EQ(last_frame.cs, 8);
    }
}

static void sysenter(void) {
    wrmsr(SYSENTER_CS, 0);
    FAULTS("\x0f\x34", 13, 0);
    /* SYSEXIT to 32 bits takes CS+16 and CS+24, to 64 bits CS+32: here 0x18, 0x20, 0x28, 0x30, 0x38
     * do not fit, so only the way in and its selectors are checked, and the way out by its refusal.
     */
    wrmsr(SYSENTER_CS, 8);
    wrmsr(SYSENTER_ESP, (u64)(kernel_stack + 4096));
    wrmsr(SYSENTER_EIP, (u64)sysenter_entry);
    memcpy(code_page, "\x0f\x34", 2);
    memcpy(code_page + 32, "\x8c\xcb\x8c\xd5\xcd\x80", 6); /* mov ebx, cs; mov ebp, ss; int 0x80 */
    struct user_context c = {CODE_VA, USER_CS, 0x602, 0x60000000 - 16, USER_SS, 0, CODE_VA + 32};
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    CHECK_EQ(entry_record.cs, 8);
    CHECK_EQ(entry_record.ss, 0x10);
    CHECK_EQ(entry_record.rsp, (u64)(kernel_stack + 4096));
    CHECK_EQ(entry_record.flags & 0x600, 0x400); /* IF off, DF untouched */
    CHECK_EQ(last_frame.rbx, 8 + 32 + 3); /* SYSEXIT.64: CS + 32, SS + 40, from no descriptor */
    CHECK_EQ(last_frame.rbp, 8 + 40 + 3);
    wrmsr(SYSENTER_CS, 0);
    __asm__ volatile("cld");
}

static void swapgs(void) {
    u64 old = rdmsr(GS_BASE);
    wrmsr(GS_BASE, 0x1111000);
    wrmsr(KERNEL_GS_BASE, 0x2222000);
    __asm__ volatile("swapgs");
    CHECK_EQ(rdmsr(GS_BASE), 0x2222000);
    CHECK_EQ(rdmsr(KERNEL_GS_BASE), 0x1111000);
    wrmsr(GS_BASE, (u64)&entry_record);
    entry_record.rcx = 0xabcdef;
    u64 v;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(v));
    CHECK_EQ(v, 0xabcdef);
    wrmsr(GS_BASE, old);
}

/* --- IRET --------------------------------------------------------------------------------------
 */

static void iret(void) {
    struct user_context ok = {CODE_VA, USER_CS, 2, 0x60000000 - 16, USER_SS, 0, 0}, c = ok;
    memcpy(code_page, "\xcd\x80", 2);
    c.rip = 1ull << 47;
    CHECK_EQ(run_user_context(&c),
             13); /* not canonical: #GP(0), before or after the change of level */
    CHECK_EQ(last_fault.error, 0);
    c = ok;
    c.cs = 0x58 | 3; /* beyond the GDT */
    CHECK_EQ(run_user_context(&c), 13);
    CHECK_EQ(last_fault.error, 0x58);
    c.cs = USER_SS; /* data */
    CHECK_EQ(run_user_context(&c), 13);
    CHECK_EQ(last_fault.error, USER_SS & ~3u);
    c.cs = 0;
    CHECK_EQ(run_user_context(&c), 13);
    CHECK_EQ(last_fault.error, 0);
    c.cs = 0x08 | 3; /* DPL 0 code with RPL 3 */
    CHECK_EQ(run_user_context(&c), 13);
    CHECK_EQ(last_fault.error, 8);
    c = ok;
    c.ss = 0x10;
    CHECK_EQ(run_user_context(&c), 13);
    CHECK_EQ(last_fault.error, 0x10);
    c = ok;
    c.cs = USER_CS32;
    memcpy(code_page, "\x31\xc0\x48\xcd\x80", 5);
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    CHECK_EQ(last_frame.cs, USER_CS32);
    CHECK_EQ((u32)last_frame.rax, 0xffffffff);
    c = ok;
    c.rflags = 0x202 | 1 << 17; /* VM is ignored in 64-bit mode */
    memcpy(code_page, "\xcd\x80", 2);
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    CHECK_EQ(last_frame.rflags & (1 << 17), 0);
    CHECK_EQ(last_frame.rflags & 0x200, 0x200);
}

/* Alignment: CR0.AM, EFLAGS.AC and CPL 3. */
static void alignment(void) {
    struct user_context c = {CODE_VA, USER_CS, 0x40002, 0x60000000 - 16, USER_SS, CODE_VA + 128, 0};
    memcpy(code_page, "\x8b\x47\x01\xcd\x80", 5); /* mov eax, [rdi+1] */
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    WRITE_CR(0, READ_CR(0) | 1 << 18);
    CHECK_EQ(run_user_context(&c), 17);
    CHECK_EQ(last_fault.error, 0);
    c.rdi -= 2;
    CHECK_EQ(run_user_context(&c), 17);
    c.rdi = CODE_VA + 127;
    CHECK_EQ(run_user_context(&c), EXIT_USER);
    WRITE_CR(0, READ_CR(0) & ~(1ull << 18));
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    tss_load();
    map_user(CODE_VA, "\x90", 1);
    map_user(0x5fffe000, "", 1);
    code_page = (u8 *)(*page_entry(CODE_VA) & 0x000ffffffffff000ull);
    gates();
    ist();
    privileged();
    popf();
    load_kernel_segment();
    io_bitmap();
    syscalls();
    sysret_noncanonical();
    sysenter();
    swapgs();
    iret();
    alignment();
}
