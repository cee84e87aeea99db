/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native side: a child process that runs batches of cases on the real processor.
 *
 * Fence: the child takes its cases from shared memory, handles faults on an alternate stack, and
 * may make three system calls (futex, rt_sigreturn, exit); anything else kills it. The parent
 * notices a child that died or hangs, marks the case and starts another child behind it.
 *
 * An ordinary case costs no signal and no system call: enter_case loads the state and jumps to the
 * code, whose last bytes jump (from 16- and 32-bit code: far) to the page CF_EXIT, which saves the
 * state. After a fault the handler takes it from the signal frame. FS and GS belong to the case, so
 * nothing here may use thread-local storage between entry and exit; RFLAGS.AC may be set when the
 * handler begins.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#undef PF_W /* a program header flag; also in core/cpu/state.h */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <asm/ldt.h>

#include "tests/conformance/conform.h"

/* No value that a random address is likely to be; the code below names it. */
#define PLACE 0x2a5f1000ull

struct place {
    u8 in[1024] ALIGNED(64);
    u8 out[1024];
    u64 gpr[16], gpr_out[16];
    u64 flags, flags_out; /* 2304 */
    u32 far_offset;       /* 2320 */
    u16 far_sel, unused;
    u64 host_rsp, host_fs, host_gs; /* 2328 */
    u64 fs, gs, fs_out, gs_out;     /* 2352 */
    u16 sel[8], sel_out[8];         /* 2384, 2400 */
    u32 mxcsr;                      /* 2416 */
};

_Static_assert(offsetof(struct place, gpr) == 2048 && offsetof(struct place, flags) == 2304 &&
                   offsetof(struct place, far_offset) == 2320 &&
                   offsetof(struct place, host_rsp) == 2328 && offsetof(struct place, fs) == 2352 &&
                   offsetof(struct place, sel) == 2384 && offsetof(struct place, mxcsr) == 2416,
               "the code below names these offsets");

/* clang-format off */
#define P(n) "0x2a5f1000+" #n
__asm__(
    ".pushsection .text\n"
    ".globl enter_case, exit_begin, exit_rest, exit_end\n"
    ".hidden enter_case, exit_begin, exit_rest, exit_end\n"
    "enter_case:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, " P(2328) "\n"
    "rdfsbase %rax\n mov %rax, %r8\n mov %r8, " P(2336) "\n"
    "rdgsbase %rax\n mov %rax, %r8\n mov %r8, " P(2344) "\n"
    "stmxcsr " P(2416) "\n"
    "mov $7, %eax\n xor %edx, %edx\n xrstor64 " P(0) "\n"
    "movzwl " P(2384) ", %ecx\n mov %ecx, %es\n"
    "movzwl " P(2390) ", %ecx\n mov %ecx, %ds\n"
    "movzwl " P(2392) ", %ecx\n mov %ecx, %fs\n"
    "movzwl " P(2394) ", %ecx\n mov %ecx, %gs\n"
    "mov " P(2352) ", %rcx\n wrfsbase %rcx\n"
    "mov " P(2360) ", %rcx\n wrgsbase %rcx\n"
    "movzwl " P(2388) ", %ecx\n mov %ecx, %ss\n"
    "pushq " P(2304) "\n popfq\n"
    "mov " P(2056) ", %rcx\n mov " P(2064) ", %rdx\n mov " P(2072) ", %rbx\n"
    "mov " P(2088) ", %rbp\n mov " P(2096) ", %rsi\n mov " P(2104) ", %rdi\n"
    "mov " P(2112) ", %r8\n mov " P(2120) ", %r9\n mov " P(2128) ", %r10\n mov " P(2136) ", %r11\n"
    "mov " P(2144) ", %r12\n mov " P(2152) ", %r13\n mov " P(2160) ", %r14\n mov " P(2168) ", %r15\n"
    "mov " P(2080) ", %rsp\n"
    "mov " P(2048) ", %rax\n"
    "ljmpl *" P(2320) "\n"
    "exit_begin:\n"
    "mov %rcx, " P(2184) "\n mov %rax, %rcx\n mov %rcx, " P(2176) "\n"
    "mov %rdx, " P(2192) "\n mov %rbx, " P(2200) "\n"
    "mov %rsp, " P(2208) "\n mov %rbp, " P(2216) "\n mov %rsi, " P(2224) "\n mov %rdi, " P(2232) "\n"
    "mov %r8, " P(2240) "\n mov %r9, " P(2248) "\n mov %r10, " P(2256) "\n mov %r11, " P(2264) "\n"
    "mov %r12, " P(2272) "\n mov %r13, " P(2280) "\n mov %r14, " P(2288) "\n mov %r15, " P(2296) "\n"
    "mov " P(2328) ", %rsp\n"
    "pushfq\n popq " P(2312) "\n"
    "pushq $0x202\n popfq\n"
    "mov %es, " P(2400) "\n mov %cs, " P(2402) "\n mov %ss, " P(2404) "\n"
    "mov %ds, " P(2406) "\n mov %fs, " P(2408) "\n mov %gs, " P(2410) "\n"
    "rdfsbase %rcx\n mov %rcx, " P(2368) "\n rdgsbase %rcx\n mov %rcx, " P(2376) "\n"
    "mov $7, %eax\n xor %edx, %edx\n xsave64 " P(1024) "\n"
    "exit_rest:\n"
    "xor %ecx, %ecx\n mov %ecx, %ds\n mov %ecx, %es\n mov %ecx, %fs\n mov %ecx, %gs\n"
    "mov $0x2b, %ecx\n mov %ecx, %ss\n"
    "mov " P(2336) ", %rcx\n wrfsbase %rcx\n mov " P(2344) ", %rcx\n wrgsbase %rcx\n"
    "fninit\n vzeroupper\n ldmxcsr " P(2416) "\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "ret\n"
    "exit_end:\n"
    ".popsection\n");
/* clang-format on */

void enter_case(void);
extern const u8 exit_begin[], exit_rest[], exit_end[];

enum { IDLE, BATCH_0, BATCH_1 };
enum { HANG_MS = 1000, SLEEP_QUARTERS = 8, START_TRIES = 6000, STACK_BYTES = 1 << 16 };

struct shared {
    struct cf_batch batch[2];
    u32 work; /* futex: IDLE or which batch to run */
    u32 at;   /* case being run */
    u32 armed;
    struct cf_loss stray; /* a signal outside a case */
};

struct cf_native {
    struct shared *s;
    pid_t pid;
    u64 lost;
};

static struct place *const place = (struct place *)PLACE;
static struct shared *shared;
static u8 *const ram = (u8 *)CF_RAM;
static u8 ram_base[CF_RAM_BYTES];
static u8 *code; /* where CF_CODE can be written */

/* --- in the child ------------------------------------------------------------------------------
 */

u32 cf_exit_bytes(u8 *page) {
    u32 n = (u32)(exit_end - exit_begin);
    memcpy(page, exit_begin, n);
    return n;
}

static struct cf_result *result_now(void) {
    return &shared->batch[shared->work - BATCH_0].r[shared->at];
}

static void copy_xsave(struct cf_result *r, const u8 *image) {
    u64 bv;
    memcpy(&bv, image + CF_BV, 8);
    memcpy(r->xsave, image, CF_LEGACY);
    memcpy(r->xsave + CF_YMMH, image + CF_YMMH, 256);
    cf_xsave_canonical(r->xsave, bv);
}

/* Aligned accesses only until AC is clear. */
__attribute__((no_stack_protector)) static void on_signal(int sig, siginfo_t *info, void *context) {
    static const u8 order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                               REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                               REG_R12, REG_R13, REG_R14, REG_R15};
    __asm__ volatile("pushfq\n andq $~0x40000, (%%rsp)\n popfq\n cld" ::: "memory", "cc");
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    (void)info;
    if (!shared->armed) { /* the fence does not let it go on */
        shared->stray.signal = (u32)sig;
        shared->stray.trap = (u32)g[REG_TRAPNO];
        shared->stray.rip = (u64)g[REG_RIP];
        shared->stray.cr2 = (u64)g[REG_CR2];
        syscall(SYS_kill, 0, 0);
    }
    shared->armed = 0;
    struct cf_result *r = result_now();
    r->vector = (u32)g[REG_TRAPNO];
    r->error = (u32)g[REG_ERR];
    r->cr2 = (u64)g[REG_CR2];
    r->rip = (u64)g[REG_RIP];
    r->flags = (u64)g[REG_EFL];
    for (u32 i = 0; i < 16; i++) {
        r->gpr[i] = (u64)g[order[i]];
    }
    r->sel[SEG_CS] = (u16)g[REG_CSGSFS];
    r->sel[SEG_SS] = (u16)((u64)g[REG_CSGSFS] >> 48);
    __asm__ volatile("mov %%es, %0" : "=m"(r->sel[SEG_ES]));
    __asm__ volatile("mov %%ds, %0" : "=m"(r->sel[SEG_DS]));
    __asm__ volatile("mov %%fs, %0" : "=m"(r->sel[SEG_FS]));
    __asm__ volatile("mov %%gs, %0" : "=m"(r->sel[SEG_GS]));
    __asm__ volatile("rdfsbase %0" : "=r"(r->fs_base));
    __asm__ volatile("rdgsbase %0" : "=r"(r->gs_base));
    copy_xsave(r, (const u8 *)uc->uc_mcontext.fpregs);
    g[REG_RIP] = (greg_t)(CF_EXIT + (u64)(exit_rest - exit_begin));
    g[REG_RSP] = (greg_t)place->host_rsp;
    g[REG_CSGSFS] = (greg_t)(CF_SEL_CS64 | (u64)CF_SEL_DS << 48);
    g[REG_EFL] = 0x202;
}

/* The case reached CF_EXIT: as INT3 there would report it. */
static void result_plain(struct cf_result *r) {
    r->vector = EXC_BP;
    r->error = 0;
    r->cr2 = 0;
    r->rip = CF_EXIT + 1;
    r->flags = place->flags_out;
    memcpy(r->gpr, place->gpr_out, sizeof(r->gpr));
    memcpy(r->sel, place->sel_out, sizeof(r->sel));
    r->fs_base = place->fs_out;
    r->gs_base = place->gs_out;
    copy_xsave(r, place->out);
}

static void place_fill(const struct cf_case *t) {
    const struct cf_view *v = &cf_view[t->side];
    u64 bv = 7;
    memcpy(place->in, t->xsave, CF_LEGACY);
    memcpy(place->in + CF_YMMH, t->xsave + CF_YMMH, 256);
    memset(place->in + CF_BV, 0, 64);
    memcpy(place->in + CF_BV, &bv, 8);
    memset(place->out + CF_BV, 0, 64);
    memcpy(place->gpr, t->gpr, sizeof(place->gpr));
    place->flags = t->flags;
    place->fs = t->fs_base;
    place->gs = t->gs_base;
    memcpy(place->sel, t->sel, sizeof(t->sel));
    place->far_offset = (u32)((v->ldt ? 0 : CF_CODE) + t->entry);
    place->far_sel = v->cs;
}

static void run_case(const struct cf_case *t, struct cf_result *r) {
    place_fill(t);
    memcpy(ram + t->patch_at, t->patch, CF_PATCH);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    *(volatile u32 *)&shared->armed = 1;
    enter_case();
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (*(volatile u32 *)&shared->armed) {
        *(volatile u32 *)&shared->armed = 0;
        result_plain(r);
    }
    r->diffs = cf_ram_diff(ram, ram_base, r->diff);
}

static void ram_renew(u64 seed) {
    static u64 have = ~0ull;
    if (seed == have) {
        return;
    }
    have = seed;
    cf_ram_fill(ram_base, seed);
    syscall(SYS_mprotect, ram, CF_RAM_BYTES, PROT_READ | PROT_WRITE);
    memcpy(ram, ram_base, CF_RAM_BYTES);
    syscall(SYS_mprotect, ram + CF_RAM_WRITABLE, CF_RAM_BYTES - CF_RAM_WRITABLE, PROT_READ);
}

/* Slots are written ahead; what shares bytes with others is written when it is its turn. */
static void code_write(const struct cf_case *t) {
    u8 bytes[CF_SLOT];
    u32 n = cf_code_bytes(t, bytes);
    memcpy(code + t->entry, bytes, n);
}

static void run_batch(struct cf_batch *b) {
    for (u32 i = shared->at; i < b->count; i++) {
        code_write(&b->t[i]);
    }
    for (u32 i = shared->at; i < b->count; i++) {
        shared->at = i;
        ram_renew(b->t[i].ram_seed);
        if (b->t[i].entry >= CF_SLOTS * CF_SLOT) {
            code_write(&b->t[i]);
        }
        run_case(&b->t[i], &b->r[i]);
    }
    shared->at = b->count;
}

static void futex(u32 *word, int op, u32 value, const struct timespec *limit) {
    syscall(SYS_futex, word, op, value, limit, NULL, 0);
}

#define ALLOW(nr)                                                                                  \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static bool fence(void) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_futex),
        ALLOW(SYS_rt_sigreturn),
        ALLOW(SYS_mprotect),
        ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog p = {.len = ARRAY_LEN(f), .filter = f};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0;
}

static void *map_at(u64 address, u64 size, int prot) {
    void *p = mmap((void *)address, size, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    return p == (void *)address ? p : NULL;
}

/* The parent's, so that a new child finds what the one before has left there. */
static int code_fd;

static bool code_create(void) {
    code_fd = memfd_create("code", 0);
    if (code_fd < 0 || ftruncate(code_fd, CF_CODE_BYTES)) {
        return false;
    }
    code = mmap(NULL, CF_CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, code_fd, 0);
    if (code == MAP_FAILED) {
        return false;
    }
    memset(code, 0xcc, CF_CODE_BYTES);
    return true;
}

/* Cases cannot write their own code, which would spoil that of others. */
static bool map_code(void) {
    void *p = mmap((void *)CF_CODE, CF_CODE_BYTES, PROT_READ | PROT_EXEC,
                   MAP_SHARED | MAP_FIXED_NOREPLACE, code_fd, 0);
    close(code_fd);
    return p == (void *)CF_CODE;
}

static bool ldt_write(void) {
    for (u32 i = 0; i < CF_LDT_ENTRIES; i++) {
        const struct cf_ldt *e = &cf_ldt[i];
        struct user_desc d = {.entry_number = i,
                              .base_addr = e->base,
                              .limit = e->limit,
                              .seg_32bit = e->wide,
                              .contents = e->contents,
                              .read_exec_only = e->read_exec_only,
                              .seg_not_present = e->not_present,
                              .useable = 1};
        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d))) {
            return false;
        }
    }
    return true;
}

static bool child_set_up(void) {
    static u8 stack[STACK_BYTES];
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    /* SS_AUTODISARM: a stack pointer of a case may point anywhere, also into this one */
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack), .ss_flags = (int)(1u << 31)};
    if (!map_at(PLACE, 4096, PROT_READ | PROT_WRITE) || !map_code() ||
        !map_at(CF_EXIT, 4096, PROT_READ | PROT_WRITE) ||
        !map_at(CF_RAM, CF_RAM_BYTES, PROT_READ) || !ldt_write()) {
        return false;
    }
    memcpy((u8 *)CF_EXIT, exit_begin, (size_t)(exit_end - exit_begin));
    mprotect((u8 *)CF_EXIT, 4096, PROT_READ | PROT_EXEC);
    sigaltstack(&ss, NULL);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &sa, NULL);
    }
    return fence();
}

static void child_main(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!child_set_up()) {
        _exit(77);
    }
    for (;;) {
        u32 work = __atomic_load_n(&shared->work, __ATOMIC_SEQ_CST);
        if (work == IDLE) {
            futex(&shared->work, FUTEX_WAIT, IDLE, NULL);
            continue;
        }
        run_batch(&shared->batch[work - BATCH_0]);
        __atomic_store_n(&shared->work, IDLE, __ATOMIC_SEQ_CST);
        futex(&shared->work, FUTEX_WAKE, 1, NULL);
    }
}

/* --- in the parent -----------------------------------------------------------------------------
 */

static bool child_start(struct cf_native *n) {
    fflush(NULL);
    shared->armed = 0;
    n->pid = fork();
    if (n->pid == 0) {
        child_main();
    }
    return n->pid > 0;
}

static u32 child_end(struct cf_native *n) {
    int status = 0;
    if (n->pid > 0) {
        kill(n->pid, SIGKILL);
        waitpid(n->pid, &status, 0);
        n->pid = 0;
    }
    return (u32)status;
}

struct cf_batch *cf_native_batch(struct cf_native *n, u32 which) {
    return &n->s->batch[which];
}

void cf_native_start(struct cf_native *n, u32 which) {
    struct cf_batch *b = &n->s->batch[which];
    memset(b->lost, 0, sizeof(b->lost));
    n->s->at = 0;
    __atomic_store_n(&n->s->work, BATCH_0 + which, __ATOMIC_SEQ_CST);
    futex(&n->s->work, FUTEX_WAKE, 1, NULL);
}

/* Has the child memory of its own about there? A random address may happen to lead to its stack. */
bool cf_native_owns(const struct cf_native *n, u64 address) {
    char path[64], line[512];
    unsigned long long from, to;
    bool owns = false;
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)n->pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%llx-%llx", &from, &to) == 2 && from != CF_CODE && from != CF_EXIT &&
            (from < CF_RAM || from >= CF_RAM + CF_RAM_BYTES)) {
            owns |= address + 64 > from && address < to + 64;
        }
    }
    if (f) {
        fclose(f);
    }
    return owns;
}

void cf_native_renew(struct cf_native *n) {
    child_end(n);
    if (!child_start(n)) {
        fprintf(stderr, "conform: no native child\n");
        exit(1);
    }
}

/* The child is gone, or stands still: goes on behind the case that did it. */
static void recover(struct cf_native *n, u32 work, bool hung, u32 status) {
    struct cf_batch *b = &n->s->batch[work - BATCH_0];
    status |= child_end(n);
    n->lost++;
    if (n->s->at < b->count) {
        struct cf_loss *loss = &b->lost[n->s->at++];
        *loss = n->s->stray;
        loss->lost = true;
        loss->hung = hung;
        loss->status = status;
    }
    memset(&n->s->stray, 0, sizeof(n->s->stray));
    if (n->lost > 1000 || !child_start(n)) {
        fprintf(stderr, "conform: cannot keep a native child alive\n");
        exit(1);
    }
}

/* Milliseconds of processor time: a child that only waits for its turn does not hang. */
static u64 child_ms(const struct cf_native *n) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(n->pid, &clock) || clock_gettime(clock, &t)) {
        return 0;
    }
    return (u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000;
}

/* No case makes a system call that sleeps: the kernel has put it to sleep (cf_lost_explained). */
static bool child_sleeps(const struct cf_native *n) {
    char path[64], state = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)n->pid);
    FILE *f = fopen(path, "r");
    bool read = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
    if (f) {
        fclose(f);
    }
    return read && state == 'S';
}

struct progress {
    u32 at, asleep; /* the case; quarters of a second in which it was seen asleep */
    u64 since;      /* processor time when it was first seen */
};

static bool child_hangs(const struct cf_native *n, struct progress *p) {
    u32 at = __atomic_load_n(&n->s->at, __ATOMIC_SEQ_CST);
    u64 ms = child_ms(n);
    if (at != p->at) {
        *p = (struct progress){.at = at, .since = ms};
    }
    p->asleep = child_sleeps(n) ? p->asleep + 1 : 0;
    return ms >= p->since + HANG_MS || p->asleep >= SLEEP_QUARTERS;
}

void cf_native_wait(struct cf_native *n) {
    u32 work;
    struct progress p = {.at = UINT32_MAX};
    while ((work = __atomic_load_n(&n->s->work, __ATOMIC_SEQ_CST)) != IDLE) {
        struct timespec limit = {.tv_nsec = 250000000};
        int status = 0;
        futex(&n->s->work, FUTEX_WAIT, work, &limit);
        if (__atomic_load_n(&n->s->work, __ATOMIC_SEQ_CST) == IDLE) {
            return;
        }
        bool hangs = child_hangs(n, &p);
        bool gone = waitpid(n->pid, &status, WNOHANG) == n->pid;
        if (gone || hangs) {
            n->pid = gone ? 0 : n->pid;
            recover(n, work, !gone, (u32)status);
            p.at = UINT32_MAX;
        }
    }
}

/* Left open by the manuals, many details differ by vendor; the engine follows Intel's. */
static bool able(void) {
    u32 r[4];
    cpuid_host(0, 0, r);
    return r[1] == 0x756e6547 && __builtin_cpu_supports("avx2") && (getauxval(AT_HWCAP2) & 2);
}

struct cf_native *cf_native_create(void) {
    static struct cf_native n;
    if (!able()) {
        return NULL;
    }
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return NULL;
    }
    n.s = shared;
    shared->batch[0].count = 0;
    if (!code_create() || !child_start(&n)) {
        return NULL;
    }
    cf_native_start(&n, 0); /* an empty batch: is it there? */
    for (u32 i = 0; __atomic_load_n(&shared->work, __ATOMIC_SEQ_CST) != IDLE; i++) {
        int status;
        if (waitpid(n.pid, &status, WNOHANG) == n.pid || i >= START_TRIES) {
            n.pid = i >= START_TRIES ? n.pid : 0;
            child_end(&n);
            return NULL;
        }
        usleep(20000);
    }
    return &n;
}

void cf_native_destroy(struct cf_native *n) {
    child_end(n);
    close(code_fd);
    munmap(code, CF_CODE_BYTES);
    munmap(n->s, sizeof(*n->s));
}
