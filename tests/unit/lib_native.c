/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib_native.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>

/* clang-format off */
__asm__(
    ".pushsection .text\n"
    ".globl native_begin, native_slot, native_after, native_end\n"
    ".hidden native_begin, native_slot, native_after, native_end\n"
    "native_begin:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, 0x20000910\n"
    "stmxcsr 0x20000918\n"
    "mov $7, %eax\n xor %edx, %edx\n"
    "xrstor64 0x20000000\n"
    "pushq 0x20000900\n popfq\n"
    "mov 0x20000800, %rax\n mov 0x20000808, %rcx\n mov 0x20000810, %rdx\n mov 0x20000818, %rbx\n"
    "mov 0x20000820, %rsp\n mov 0x20000828, %rbp\n mov 0x20000830, %rsi\n mov 0x20000838, %rdi\n"
    "mov 0x20000840, %r8\n mov 0x20000848, %r9\n mov 0x20000850, %r10\n mov 0x20000858, %r11\n"
    "mov 0x20000860, %r12\n mov 0x20000868, %r13\n mov 0x20000870, %r14\n mov 0x20000878, %r15\n"
    "native_slot:\n"
    ".fill 15, 1, 0x90\n"
    "native_after:\n"
    "mov %rax, 0x20000880\n mov %rcx, 0x20000888\n mov %rdx, 0x20000890\n mov %rbx, 0x20000898\n"
    "mov %rsp, 0x200008a0\n mov %rbp, 0x200008a8\n mov %rsi, 0x200008b0\n mov %rdi, 0x200008b8\n"
    "mov %r8, 0x200008c0\n mov %r9, 0x200008c8\n mov %r10, 0x200008d0\n mov %r11, 0x200008d8\n"
    "mov %r12, 0x200008e0\n mov %r13, 0x200008e8\n mov %r14, 0x200008f0\n mov %r15, 0x200008f8\n"
    "mov 0x20000910, %rsp\n"
    "pushfq\n popq 0x20000908\n"
    "cld\n"
    "mov $7, %eax\n xor %edx, %edx\n"
    "xsave64 0x20000400\n"
    "fninit\n vzeroupper\n"
    "ldmxcsr 0x20000918\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "ret\n"
    "native_end:\n"
    ".popsection\n");
/* clang-format on */

extern const u8 native_begin[], native_slot[], native_after[], native_end[];

_Static_assert(offsetof(struct native_state, out) == 0x400 &&
                   offsetof(struct native_state, gpr) == 0x800 &&
                   offsetof(struct native_state, gpr_out) == 0x880 &&
                   offsetof(struct native_state, flags) == 0x900 &&
                   offsetof(struct native_state, host_rsp) == 0x910 &&
                   offsetof(struct native_state, mxcsr) == 0x918,
               "the template names these offsets");

static u64 mapped_ram;
static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction kept[ARRAY_LEN(fault_signals)];

void native_signals_keep(void) {
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        sigaction(fault_signals[i], NULL, &kept[i]);
    }
}

void native_signals_use(void) {
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        sigaction(fault_signals[i], &kept[i], NULL);
    }
}

static void on_signal(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    struct native_state *n = (struct native_state *)NATIVE_STATE;
    (void)info;
    if ((u64)g[REG_RIP] - NATIVE_CODE >= 4096 || !n->armed) {
        signal(sig, SIG_DFL);
        return;
    }
    n->fault = 0x100u | (u32)g[REG_TRAPNO];
    n->error = (u32)g[REG_ERR];
    n->address = (u64)g[REG_CR2];
    g[REG_RIP] = (greg_t)(NATIVE_CODE + (u64)(native_after - native_begin));
}

static void *map_at(u64 address, u64 size, int prot) {
    void *p = mmap((void *)address, size, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    return p == (void *)address ? p : NULL;
}

struct native_state *native_setup(u64 ram_size) {
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    static u8 stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct native_state *n = map_at(NATIVE_STATE, 4096, PROT_READ | PROT_WRITE);
    u8 *code = map_at(NATIVE_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    if (!n || !code || !map_at(NATIVE_RAM, ram_size, PROT_READ | PROT_WRITE) ||
        !map_at(NATIVE_RAM + ram_size, 4096, PROT_NONE)) {
        return NULL;
    }
    mapped_ram = ram_size;
    memcpy(code, native_begin, (size_t)(native_end - native_begin));
    sigaltstack(&ss, NULL); /* the instruction may run with any stack pointer */
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        sigaction(fault_signals[i], &sa, NULL);
    }
    return n;
}

void native_teardown(void) {
    munmap((void *)NATIVE_STATE, 4096);
    munmap((void *)NATIVE_CODE, 4096);
    munmap((void *)NATIVE_RAM, mapped_ram + 4096);
}

u64 native_rip(void) {
    return NATIVE_CODE + (u64)(native_slot - native_begin);
}

/* The native side's handlers in place of whatever is there, and back. */
static void signals_swap(bool in) {
    static struct sigaction other[ARRAY_LEN(fault_signals)];
    const struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        sigaction(fault_signals[i], in ? &sa : &other[i], in ? &other[i] : NULL);
    }
}

void native_run(struct native_state *n, const u8 *code, u32 len) {
    u8 *slot = (u8 *)native_rip();
    memset(slot, 0x90, 15);
    memcpy(slot, code, len);
    n->fault = 0;
    memset(n->out, 0, sizeof(n->out));
    signals_swap(true);
    n->armed = 1;
    __asm__ volatile("call *%0"
                     :
                     : "r"(NATIVE_CODE)
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc",
                       "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    n->armed = 0;
    signals_swap(false);
}

u64 native_random(u64 *seed) { /* xorshift64* */
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 0x2545f4914f6cdd1dull;
}
