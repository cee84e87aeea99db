/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What debuggers do, by ptrace: single-step a child through loops, calls, system calls and rep
 * strings and compare each RIP with the list known; breakpoints by INT3 into code that is hot;
 * data breakpoints in debug registers; and single-stepping oneself by the trap flag.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

static u64 rounds;
static u8 *code;
static volatile u64 *shared;

/* mov ecx, 5; 1: add eax, ecx; nop; call f; dec ecx; jnz 1; mov ecx, 3; rep stosb; ret; f: inc rax;
 * ret */
static const u8 program[] = {
    0xb9, 5,    0,    0, 0, /* 0 */
    0x01, 0xc8,             /* 5 */
    0x90,                   /* 7 */
    0xe8, 13,   0,    0, 0, /* 8 -> 26 */
    0xff, 0xc9,             /* 13 */
    0x75, 0xf4,             /* 15 -> 5 */
    0xb9, 3,    0,    0, 0, /* 17 */
    0xf3, 0xaa,             /* 22 */
    0xc3,                   /* 24 */
    0x90,                   /* 25 */
    0x48, 0xff, 0xc0,       /* 26 */
    0xc3,                   /* 29 */
};

static u32 expected(u16 *at) {
    u32 n = 0;
    for (u32 i = 0; i < 5; i++) {
        if (i == 0) {
            at[n++] = 5;
        }
        at[n++] = 7, at[n++] = 8, at[n++] = 26, at[n++] = 29, at[n++] = 13, at[n++] = 15;
        at[n++] = i < 4 ? 5 : 17;
    }
    at[n++] = 22, at[n++] = 22, at[n++] = 22, at[n++] = 24;
    return n;
}

static u64 run_program(void) {
    u64 a = 0;
    u8 buf[16], *to = buf;
    __asm__ volatile("call *%2" : "+a"(a), "+D"(to) : "r"(code) : "rcx", "memory", "cc");
    return a;
}

/* --- by ptrace
 * ------------------------------------------------------------------------------------- */

static int child_main(void) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    for (u32 i = 0; i < 60; i++) {
        run_program();
        shared[8]++;
        *(volatile u64 *)&shared[0] = i;
        syscall(SYS_getppid);
    }
    return 0;
}

static pid_t child_start(void) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        _exit(child_main());
    }
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    return pid;
}

static u64 rip_of(pid_t pid) {
    errno = 0;
    u64 v = (u64)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
    CHECK_EQ(errno, 0);
    return v;
}

/* Steps until the child stands at the code, then through it. */
static void steps(void) {
    pid_t pid = child_start();
    u16 at[64];
    u32 count = expected(at), passes = 0;
    int status;
    for (u32 n = 0; n < 200000 && passes < 6 && !stress_bad; n++) {
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
        NEED(waitpid(pid, &status, 0) == pid);
        if (!WIFSTOPPED(status)) {
            BAD("the child ended while it was stepped: %#x", status);
            return;
        }
        if (rip_of(pid) != (u64)(uintptr_t)code) {
            continue;
        }
        for (u32 i = 0; i < count; i++) {
            ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
            NEED(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
            CHECK_EQ(WSTOPSIG(status), SIGTRAP);
            CHECK_EQ(rip_of(pid) - (u64)(uintptr_t)code, at[i]);
        }
        passes++;
        rounds++;
    }
    CHECK_EQ(passes, 6);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
}

static void breakpoints(void) {
    pid_t pid = child_start();
    int status;
    u32 hits = 0;
    u64 place = (u64)(uintptr_t)code + 26;
    u64 word = (u64)ptrace(PTRACE_PEEKTEXT, pid, place, 0);
    for (;;) {
        ptrace(PTRACE_POKETEXT, pid, place, (word & ~0xffull) | 0xcc);
        ptrace(PTRACE_CONT, pid, 0, 0);
        NEED(waitpid(pid, &status, 0) == pid);
        if (WIFEXITED(status)) {
            break;
        }
        CHECK_EQ(rip_of(pid), place + 1);
        hits++;
        ptrace(PTRACE_POKETEXT, pid, place, word);
        ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rip), place);
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
        NEED(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
        CHECK_EQ(rip_of(pid), place + 3);
        if (stress_bad) {
            kill(pid, SIGKILL);
        }
    }
    CHECK_EQ(hits, 60 * 5);
    rounds += hits;
}

static void watchpoints(void) {
    pid_t pid = child_start();
    int status;
    u32 hits = 0;
    size_t dr = offsetof(struct user, u_debugreg);
    if (ptrace(PTRACE_POKEUSER, pid, dr, &shared[0]) ||
        ptrace(PTRACE_POKEUSER, pid, dr + 7 * 8, 1 | 1 << 16 | 2 << 18)) {
        BAD("no debug registers");
    }
    for (;;) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        NEED(waitpid(pid, &status, 0) == pid);
        if (WIFEXITED(status)) {
            break;
        }
        CHECK_EQ(ptrace(PTRACE_PEEKUSER, pid, dr + 6 * 8, 0) & 1, 1);
        CHECK_EQ(shared[0], hits);
        hits++;
        if (stress_bad) {
            kill(pid, SIGKILL);
        }
    }
    CHECK_EQ(hits, 60);
    rounds += hits;
}

/* --- by the trap flag
 * -------------------------------------------------------------------------------- */

static volatile u32 traps, wrong;

static void on_trap(int sig, siginfo_t *info, void *ctx) {
    static u16 at[64];
    static u32 count;
    u64 rip = (u64)((ucontext_t *)ctx)->uc_mcontext.gregs[REG_RIP] - (u64)(uintptr_t)code;
    (void)sig;
    (void)info;
    if (!count) {
        count = expected(at);
    }
    if (rip < sizeof(program) && rip) {
        wrong += traps >= count || at[traps] != rip;
        traps++;
    }
}

static void trap_flag(void) {
    on_signal(SIGTRAP, on_trap);
    for (u32 i = 0; i < 5; i++) {
        u64 a = 0;
        u8 buf[16], *to = buf;
        traps = wrong = 0;
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; call *%2\n\t"
                         "pushf; andl $~0x100, (%%rsp); popf"
                         : "+a"(a), "+D"(to)
                         : "r"(code)
                         : "rcx", "memory", "cc");
        CHECK_EQ(wrong, 0);
        CHECK_EQ(traps, 40);
        CHECK_EQ(a, 20);
        for (u32 k = 0; k < 40; k++) {
            CHECK_EQ(run_program(), 20);
        }
        rounds++;
    }
    signal(SIGTRAP, SIG_DFL);
}

int main(void) {
    stress_begin();
    code = map_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(shared != MAP_FAILED);
    memcpy(code, program, sizeof(program));
    while (stress_more()) {
        trap_flag();
        breakpoints();
        watchpoints();
        steps();
    }
    return stress_done("stepping", rounds);
}
