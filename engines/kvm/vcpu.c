/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU of KVM: creation, the run loop, the kick.
 *
 * A kick must not be lost between the look at `attention` and the entry into the guest:
 *
 *   vCPU thread                         kicker
 *   immediate_exit = 0                  attention |= bits (or kicked = 1)
 *   in_run = 1                          immediate_exit = 1
 *   attention or kicked? leave          in_run? send the signal
 *   KVM_RUN
 *
 * If the look misses the kick, immediate_exit is set after it was cleared, so KVM_RUN returns at
 * once, or the signal interrupts it. The signal's handler is empty.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "core/cpu/msr.h"
#include "engines/kvm/priv.h"

enum { KICK_SIGNAL = SIGUSR1 };

/* --- creation
 * ---------------------------------------------------------------------------------------- */

static int cpuid_set(struct kvm_cpu *c) {
    const struct cpuid_policy *p = &c->m->policy;
    struct kvm_cpuid2 *all =
        calloc(1, sizeof(*all) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    if (!all) {
        return -ERR_NOMEM;
    }
    for (u32 i = 0; i < p->count; i++) {
        const struct cpuid_entry *e = &p->entry[i];
        u32 v[4];
        cpuid_query(p, c->ev->id, NULL, e->leaf, e->subleaf, v);
        all->entries[all->nent++] = (struct kvm_cpuid_entry2){
            .function = e->leaf,
            .index = e->subleaf,
            .flags = e->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = v[0],
            .ebx = v[1],
            .ecx = v[2],
            .edx = v[3],
        };
    }
    int rc = ioctl(c->fd, KVM_SET_CPUID2, all) ? -ERR_IO : 0;
    free(all);
    return rc;
}

/*
 * Where CPUID does not tell the host's frequency, the host measured it, and the kernel did so
 * better (over a second, against a better clock): the guest is told the kernel's figure.
 */
static void tsc_adopt(struct kvm_cpu *c, u64 have_khz) {
    struct engine_vm *vm = c->ev->vm;
    u64 have = have_khz * 1000, want = vm->tsc_hz;
    u64 off = want > have ? want - have : have - want;
    if (!c->m->tsc_settled && want == vm->host->ops->tsc_hz(vm->host) && off * 100 <= want) {
        vm->tsc_hz = have;
        cpuid_policy_set_tsc(&c->m->policy, have);
    }
    c->m->tsc_settled = true;
}

/* A frequency that is not the host's needs scaling, unless it is within KVM's tolerance (250 ppm).
 */
static int tsc_rate_set(struct kvm_cpu *c, struct err *err) {
    int have = ioctl(c->fd, KVM_GET_TSC_KHZ, 0);
    if (have <= 0 || !c->ev->vm->tsc_hz) {
        return 0;
    }
    tsc_adopt(c, (u64)have);
    u64 want = c->ev->vm->tsc_hz / 1000;
    u64 off = want > (u64)have ? want - (u64)have : (u64)have - want;
    if (off * 4000 <= want) {
        return 0;
    }
    if (want > INT32_MAX || ioctl(c->fd, KVM_SET_TSC_KHZ, (long)want)) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "kvm: a guest TSC of %llu kHz is not possible on this host of %d kHz",
                       (unsigned long long)want, have);
    }
    return 0;
}

/* As many machine check banks as core/cpu/msr.c has; KVM's default differs from version to version.
 */
static void mce_set(struct kvm_cpu *c) {
    struct cpu_state *s = calloc(1, sizeof(*s));
    u64 cap;
    if (s && msr_read(s, &c->m->policy, MSR_MCG_CAP, &cap) == 0) {
        ioctl(c->fd, KVM_X86_SETUP_MCE, &cap); /* not fatal: the guest looks at the MSR */
    }
    free(s);
}

static int cpu_open(struct kvm_cpu *c, struct err *err) {
    c->fd = ioctl(c->m->fd, KVM_CREATE_VCPU, (long)c->ev->id);
    if (c->fd < 0) {
        return ERR_SET(err, ERR_IO, "kvm: cannot create vCPU %u: %s", c->ev->id, strerror(errno));
    }
    c->run = mmap(NULL, c->m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED) {
        c->run = NULL;
        return ERR_SET(err, ERR_NOMEM, "kvm: cannot map vCPU %u: %s", c->ev->id, strerror(errno));
    }
    int rc = tsc_rate_set(c, err);
    if (!rc && cpuid_set(c)) {
        rc = ERR_SET(err, ERR_IO, "kvm: KVM_SET_CPUID2 failed: %s", strerror(errno));
    }
    mce_set(c);
    return rc;
}

int kvm_vcpu_create(struct engine_vcpu *ev, struct err *err) {
    struct kvm_machine *m = kvm_machine_of(ev->vm);
    struct kvm_cpu *c = host_alloc(m->host, sizeof(*c));
    if (!c) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    c->ev = ev;
    c->m = m;
    c->fd = -1;
    ev->priv = c;
    int rc = cpu_open(c, err);
    if (!rc && kvm_msr_probe(c)) {
        rc = ERR_SET(err, ERR_IO, "kvm: vCPU %u: cannot read MSRs", ev->id);
    }
    if (rc) {
        kvm_vcpu_destroy(ev);
        return rc;
    }
    kvm_tsc_note(c);
    return 0;
}

void kvm_vcpu_destroy(struct engine_vcpu *ev) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    if (!c) {
        return;
    }
    if (c->run) {
        munmap(c->run, c->m->run_size);
    }
    if (c->fd >= 0) {
        close(c->fd);
    }
    host_free(c->m->host, c, sizeof(*c));
    ev->priv = NULL;
}

/* --- kick
 * -------------------------------------------------------------------------------------------- */

static void on_kick(int signal) {
    (void)signal;
}

/* The host's threads have a handler already; a thread of somebody else would die of the signal. */
static int kick_prepare(void) {
    struct sigaction sa;
    if (sigaction(KICK_SIGNAL, NULL, &sa)) {
        return -ERR_IO;
    }
    if (!(sa.sa_flags & SA_SIGINFO) && (sa.sa_handler == SIG_DFL || sa.sa_handler == SIG_IGN)) {
        sa = (struct sigaction){.sa_handler = on_kick};
        sigemptyset(&sa.sa_mask);
        if (sigaction(KICK_SIGNAL, &sa, NULL)) {
            return -ERR_IO;
        }
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    return pthread_sigmask(SIG_UNBLOCK, &set, NULL) ? -ERR_IO : 0;
}

int kvm_vcpu_bind(struct engine_vcpu *ev) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    int rc = kick_prepare();
    if (!rc) {
        __atomic_store_n(&c->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    }
    return rc;
}

void kvm_vcpu_kick(struct engine_vcpu *ev) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    __atomic_store_n(&c->kicked, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->in_run, __ATOMIC_SEQ_CST)) {
        syscall(SYS_tgkill, getpid(), __atomic_load_n(&c->tid, __ATOMIC_SEQ_CST), KICK_SIGNAL);
    }
}

/* --- run
 * --------------------------------------------------------------------------------------------- */

/* Takes the kick: what comes later ends the next run. */
static bool kick_seen(struct kvm_cpu *c) {
    u32 kicked = __atomic_exchange_n(&c->kicked, 0, __ATOMIC_SEQ_CST);
    return kicked || __atomic_load_n(&c->ev->attention, __ATOMIC_SEQ_CST);
}

static void exit_errno(struct vm_exit *exit, int code) {
    exit->kind = EXIT_ERROR;
    fmt_str(exit->error.text, sizeof(exit->error.text), "KVM_RUN: %s", strerror(code));
}

/* One KVM_RUN. True: *exit is filled. */
static bool enter(struct kvm_cpu *c, struct vm_exit *exit) {
    __atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&c->in_run, 1, __ATOMIC_SEQ_CST);
    bool leave = kick_seen(c);
    if (leave && !c->io_pending) {
        __atomic_store_n(&c->in_run, 0, __ATOMIC_SEQ_CST);
        exit->kind = EXIT_KICK;
        return true;
    }
    if (leave) { /* only completes the last exit */
        __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    }
    c->io_pending = false;
    int rc = ioctl(c->fd, KVM_RUN, 0);
    int code = errno;
    __atomic_store_n(&c->in_run, 0, __ATOMIC_SEQ_CST);
    if (rc >= 0) {
        return kvm_exit_translate(c, exit);
    }
    if (code == EINTR || code == EAGAIN) {
        kick_seen(c);
        exit->kind = EXIT_KICK;
    } else {
        exit_errno(exit, code);
    }
    return true;
}

int kvm_vcpu_run(struct engine_vcpu *ev, struct vm_exit *exit) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    exit->insn_len = 0;
    bool done = false;
    if (c->held) {
        c->held = false;
        done = kvm_exit_translate(c, exit);
    }
    while (!done) {
        done = enter(c, exit);
    }
    c->stats.exits++;
    return 0;
}

void kvm_vcpu_settle(struct kvm_cpu *c) {
    if (!c->io_pending || c->held) {
        return;
    }
    c->io_pending = false;
    __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (ioctl(c->fd, KVM_RUN, 0) >= 0) {
        c->held = true; /* the instruction has another access: its exit is for the next run */
    }
}

/* --- debug, time
 * --------------------------------------------------------------------------------------- */

int kvm_debug_set(struct engine_vcpu *ev, const struct engine_debug *debug) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    struct kvm_guest_debug g = {0};
    if (debug->enabled) {
        g.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        g.control |= debug->single_step ? KVM_GUESTDBG_SINGLESTEP : 0;
        g.control |= debug->dr7 ? KVM_GUESTDBG_USE_HW_BP : 0;
        memcpy(g.arch.debugreg, debug->dr, sizeof(debug->dr));
        g.arch.debugreg[7] = debug->dr7;
    }
    return ioctl(c->fd, KVM_SET_GUEST_DEBUG, &g) ? -ERR_UNSUPPORTED : 0;
}

static u64 host_tsc(void) {
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (u64)hi << 32;
}

void kvm_tsc_note(struct kvm_cpu *c) {
    u64 guest;
    if (kvm_msr_read(c, MSR_TSC, &guest) == 0) {
        __atomic_store_n(&c->tsc_host, host_tsc(), __ATOMIC_RELAXED);
        __atomic_store_n(&c->tsc_guest, guest, __ATOMIC_RELAXED);
    }
}

/* Reading the vCPU's own MSR would wait until another thread leaves KVM_RUN. */
u64 kvm_tsc_get(struct engine_vcpu *ev) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    pid_t tid = __atomic_load_n(&c->tid, __ATOMIC_RELAXED);
    if (!tid || tid == (pid_t)syscall(SYS_gettid)) {
        kvm_tsc_note(c);
    }
    u64 passed = host_tsc() - __atomic_load_n(&c->tsc_host, __ATOMIC_RELAXED);
    u64 host_hz = c->m->host->ops->tsc_hz(c->m->host), guest_hz = ev->vm->tsc_hz;
    if (host_hz && guest_hz && host_hz != guest_hz) {
        passed = (u64)((unsigned __int128)passed * guest_hz / host_hz);
    }
    return __atomic_load_n(&c->tsc_guest, __ATOMIC_RELAXED) + passed;
}
