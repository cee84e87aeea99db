/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processor exceptions in generated code: signals turned into calls of the engine's hook. Signals
 * are a matter of the whole process, so the table of ranges is too; entries are published
 * atomically and read without a lock by the handlers. Signals from elsewhere go to whoever handled
 * them before.
 */
#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "hosts/linux/host.h"

#define AUTODISARM (1u << 31) /* SS_AUTODISARM of linux/signal.h */

enum { MAX_RANGES = 256, STACK_BYTES = 64 * 1024 };

struct range {
    const u8 *start; /* NULL: free; written last */
    size_t size;
    host_fault_fn fn;
};

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static struct range ranges[MAX_RANGES];
static struct sigaction previous[ARRAY_LEN(fault_signals)];
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread void *fault_ctx;

static host_fault_fn range_find(u64 rip) {
    for (size_t i = 0; i < MAX_RANGES; i++) {
        const u8 *start = __atomic_load_n(&ranges[i].start, __ATOMIC_ACQUIRE);
        if (start && rip - (u64)(uintptr_t)start < ranges[i].size) {
            return ranges[i].fn;
        }
    }
    return NULL;
}

/* Order of registers in ucontext (see sys/ucontext.h) for each GPR in encoding order. */
static const int greg_of_gpr[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                    REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                    REG_R12, REG_R13, REG_R14, REG_R15};

static void fault_from_context(struct host_fault *f, const ucontext_t *uc) {
    const greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) {
        f->gpr[i] = (u64)g[greg_of_gpr[i]];
    }
    f->rip = (u64)g[REG_RIP];
    f->rflags = (u64)g[REG_EFL];
    f->vector = (u32)g[REG_TRAPNO];
    f->error = (u32)g[REG_ERR];
    f->addr = f->vector == 14 ? (u64)g[REG_CR2] : 0;
    f->ctx = fault_ctx;
    f->fpregs = uc->uc_mcontext.fpregs;
}

static void fault_to_context(const struct host_fault *f, ucontext_t *uc) {
    greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) {
        g[greg_of_gpr[i]] = (greg_t)f->gpr[i];
    }
    g[REG_RIP] = (greg_t)f->rip;
    g[REG_EFL] = (greg_t)f->rflags;
}

/* Not ours: as if this handler had never been there. */
static void fault_pass_on(int signal, siginfo_t *info, void *context) {
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        if (fault_signals[i] != signal) {
            continue;
        }
        if ((previous[i].sa_flags & SA_SIGINFO) && previous[i].sa_sigaction) {
            previous[i].sa_sigaction(signal, info, context);
            return;
        }
        sigaction(signal, &previous[i], NULL); /* the instruction faults again, with that action */
    }
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    host_fault_fn fn = range_find((u64)uc->uc_mcontext.gregs[REG_RIP]);
    struct host_fault fault;
    if (fn) {
        fault_from_context(&fault, uc);
        if (fn(&fault)) {
            fault_to_context(&fault, uc);
            return;
        }
    }
    fault_pass_on(signal, info, context);
}

/* With every hook again: somebody (a test framework, a library) may have put theirs in between. */
static void handlers_install(void) {
    struct sigaction now, sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++) {
        sigaction(fault_signals[i], NULL, &now);
        if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_fault) {
            previous[i] = now;
            sigaction(fault_signals[i], &sa, NULL);
        }
    }
}

int linux_fault_hook(struct host *host, const u8 *start, size_t size, host_fault_fn fn) {
    (void)host;
    int rc = -ERR_NOMEM;
    pthread_mutex_lock(&ranges_lock);
    handlers_install();
    for (size_t i = 0; i < MAX_RANGES; i++) {
        if (!ranges[i].start) {
            ranges[i].size = size;
            ranges[i].fn = fn;
            __atomic_store_n(&ranges[i].start, start, __ATOMIC_RELEASE);
            rc = 0;
            break;
        }
    }
    pthread_mutex_unlock(&ranges_lock);
    return rc;
}

void linux_fault_unhook(struct host *host, const u8 *start) {
    (void)host;
    pthread_mutex_lock(&ranges_lock);
    for (size_t i = 0; i < MAX_RANGES; i++) {
        if (ranges[i].start == start) {
            __atomic_store_n(&ranges[i].start, NULL, __ATOMIC_RELEASE);
        }
    }
    pthread_mutex_unlock(&ranges_lock);
}

void linux_thread_fault_ctx(struct host *host, void *ctx) {
    (void)host;
    fault_ctx = ctx;
}

void linux_thread_gs(struct host *host, void *base) {
    (void)host;
    syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

/* SS_AUTODISARM: generated code may run with any stack pointer, also one that points into the
 * alternate stack, and the kernel must not take that for a handler that is running. */
void *linux_fault_stack_enter(void) {
    void *stack = malloc(STACK_BYTES);
    if (stack) {
        stack_t ss = {.ss_sp = stack, .ss_size = STACK_BYTES, .ss_flags = (int)AUTODISARM};
        sigaltstack(&ss, NULL);
    }
    return stack;
}

void linux_fault_stack_leave(void *stack) {
    stack_t ss = {.ss_flags = SS_DISABLE};
    if (stack) {
        sigaltstack(&ss, NULL);
        free(stack);
    }
}
