/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The forms at ring 3 of the host itself, each with the same addresses and operands as in the
 * machine, in child processes that cannot make system calls (seccomp) and hold nothing of ours.
 *
 * A signal handler starts a form by changing the context that it returns to; the INT3 behind the
 * form, or its fault, comes back through a signal, whose context tells vector and error code and
 * is put back to the first. A form may leave the process broken (protection keys, segment bases);
 * then the process dies and the parent goes on with the next form in a new one.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/sensitivity.h"

#ifndef ARCH_SET_FS
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#endif
#ifndef ARCH_CPUID_OFF
#define ARCH_SET_CPUID 0x1012
#endif

enum { INT3 = 0xcc, SIGNAL_STACK = 1 << 16 };

/* Shared with the child; what it has of state in its handlers. */
struct native_shared {
    u32 next;  /* form that is being run */
    u32 ended; /* 1: its result is complete */
};

static struct native_job {
    const struct sens_forms *forms;
    const u8 *operands;
    struct sens_native *result;
    struct native_shared *shared;
    mcontext_t resume;
    u64 fs_base;
    struct sens_native *now;
    u64 gpr[GPR_COUNT];
} job;

static const int gregs[GPR_COUNT] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};

/* The form may have changed FS, which libc and the stack protector need. */
__attribute__((no_stack_protector, noinline)) static void restore_fs(void) {
    long rc;
    __asm__ volatile("syscall"
                     : "=a"(rc)
                     : "a"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"(job.fs_base)
                     : "rcx", "r11", "memory");
}

__attribute__((no_stack_protector)) static void on_end(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    (void)info;
    restore_fs();
    u64 moved = (u64)g[REG_RIP] - SENS_CODE_PAGE;
    if (sig == SIGALRM) {
        job.now->end = SENS_HALT;
    } else if (sig == SIGTRAP && g[REG_TRAPNO] == EXC_BP && moved > 0 && moved <= 0x1000) {
        job.now->end = SENS_DONE;
    } else {
        job.now->end = SENS_TRAP;
        job.now->vector = (u16)g[REG_TRAPNO];
        job.now->error = (u32)g[REG_ERR];
    }
    job.now->ran = true;
    __atomic_store_n(&job.shared->ended, 1, __ATOMIC_SEQ_CST);
    memcpy(g, job.resume.gregs, sizeof(uc->uc_mcontext.gregs));
    if (uc->uc_mcontext.fpregs) {
        uc->uc_mcontext.fpregs->mxcsr = 0x1f80;
        uc->uc_mcontext.fpregs->cwd = 0x37f;
        uc->uc_mcontext.fpregs->swd = 0;
    }
}

static void on_start(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    (void)sig, (void)info;
    memcpy(job.resume.gregs, g, sizeof(job.resume.gregs));
    for (u32 n = 0; n < GPR_COUNT; n++) {
        g[gregs[n]] = (greg_t)job.gpr[n];
    }
    g[REG_RIP] = SENS_CODE;
    g[REG_EFL] = 0x202;
}

static bool map_page(u64 at, u64 size, int prot) {
    void *p =
        mmap((void *)at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)at;
}

static bool catch (int sig, void (*fn)(int, siginfo_t *, void *)) {
    struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    return sigaction(sig, &sa, NULL) == 0;
}

/* Only what the handlers and the end need; everything else fails. */
static bool forbid_calls(void) {
    static const u32 allowed[] = {SYS_rt_sigreturn,   SYS_exit_group, SYS_arch_prctl,
                                  SYS_tgkill,         SYS_getpid,     SYS_gettid,
                                  SYS_rt_sigprocmask, SYS_setitimer};
    struct sock_filter code[32];
    u16 n = 0;
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (u32 k = 0; k < ARRAY_LEN(allowed); k++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[k], 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    struct sock_fprog prog = {.len = n, .filter = code};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
}

static bool child_ready(enum sens_native_way way) {
    static const int ends[] = {SIGSEGV, SIGILL, SIGTRAP, SIGFPE, SIGBUS, SIGALRM};
    struct rlimit none = {0};
    u8 *stack =
        mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t ss = {.ss_sp = stack, .ss_size = SIGNAL_STACK};
    bool ok = stack != MAP_FAILED && !sigaltstack(&ss, NULL) && catch (SIGUSR1, on_start);
    for (size_t n = 0; n < ARRAY_LEN(ends); n++) {
        ok = ok && catch (ends[n], on_end);
    }
    setrlimit(RLIMIT_CORE, &none);
    syscall(SYS_arch_prctl, ARCH_GET_FS, &job.fs_base);
    ok = ok && map_page(SENS_CODE_PAGE, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC) &&
         map_page(SENS_STACK, 0x1000, PROT_READ | PROT_WRITE) &&
         map_page(SENS_DATA, 0x1000, PROT_READ | PROT_WRITE);
    if (way == SENS_NO_TSC) {
        ok = ok && !prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
    } else if (way == SENS_NO_CPUID) {
        ok = ok && !syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    }
    return ok && forbid_calls();
}

static void run_form(u32 n) {
    const struct sens_form *f = &job.forms->form[n];
    struct cpu_state s;
    memset(&s, 0, sizeof(s));
    s.seg[SEG_CS].sel = SENS_UCS64;
    s.seg[SEG_CS].attr = SEG_ATTR_L;
    s.seg[SEG_SS].sel = s.seg[SEG_DS].sel = SENS_UDS;
    s.cr0 = CR0_PE;
    s.msr.efer = EFER_LMA;
    memset((void *)SENS_CODE_PAGE, INT3, 0x1000);
    memset((void *)SENS_STACK, 0, 0x1000);
    sens_place((u8 *)SENS_CODE, f, SENS_UCS64);
    sens_stack_frame((u8 *)SENS_STACK, f, SENS_UCS64,
                     sens_operands[job.operands[n]].on_stack ? SENS_UDS : 0);
    sens_operands_fill(&sens_operands[job.operands[n]], &s, SENS_UCS64, job.gpr, (u8 *)SENS_DATA);
    if ((f->insn.flags & INSN_STRING) && (f->insn.prefixes & (PREFIX_REP | PREFIX_REPNE))) {
        job.gpr[GPR_RCX] = 3;
    }
    job.now = &job.result[n];
    __atomic_store_n(&job.shared->ended, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&job.shared->next, n, __ATOMIC_SEQ_CST);
    struct itimerval limit = {.it_value = {.tv_usec = 200000}}, off = {0};
    setitimer(ITIMER_REAL, &limit, NULL);
    raise(SIGUSR1);
    setitimer(ITIMER_REAL, &off, NULL);
}

static void child(u32 first, enum sens_native_way way) {
    if (!child_ready(way)) {
        _exit(2);
    }
    for (u32 n = first; n < job.forms->count; n++) {
        run_form(n);
    }
    _exit(0);
}

/* Runs children until all forms have been tried. */
static int run_children(enum sens_native_way way) {
    u32 first = 0, count = job.forms->count;
    while (first < count) {
        job.shared->next = first;
        job.shared->ended = 0;
        pid_t pid = fork();
        int status;
        if (pid == 0) {
            child(first, way);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid) {
            return -ERR_IO;
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
            return -ERR_UNSUPPORTED;
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            return 0;
        }
        u32 at = job.shared->next;
        if (!job.shared->ended) { /* died in it */
            job.result[at].ran = true;
            job.result[at].end = SENS_HALT;
        }
        first = at + 1;
    }
    return 0;
}

int sens_native_run(const struct sens_forms *forms, const u8 *operands, enum sens_native_way way,
                    struct sens_native *result) {
    size_t size = 4096 + forms->count * sizeof(*result);
    u8 *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return -ERR_NOMEM;
    }
    job = (struct native_job){.forms = forms,
                              .operands = operands,
                              .shared = (struct native_shared *)(void *)shared,
                              .result = (struct sens_native *)(void *)(shared + 4096)};
    fflush(NULL);
    int rc = run_children(way);
    memcpy(result, job.result, forms->count * sizeof(*result));
    munmap(shared, size);
    return rc;
}
