/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does KVM execute guests here, or does it only emulate them? Some hosts load a KVM without
 * hardware virtualisation under it: /dev/kvm opens, every call works, and a guest makes about a
 * million instructions a second. So a guest of two instructions counts down in a loop for a few
 * milliseconds, and its speed decides.
 *
 * The time limit is a signal that is blocked on this thread and let through only inside KVM_RUN
 * (KVM_SET_SIGNAL_MASK): it cannot come too early, and no handler has to be installed. The timer
 * repeats, in case it fires while the thread is blocked elsewhere.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fmt.h"
#include "engines/kvm/kvm.h"
#include "engines/kvm/priv.h"

enum {
    LOOP_COUNT = 100000, /* two instructions each */
    INSN_PER_ROUND = 2,
    SLICE_NS = 3000000,    /* of the first slice; each one is twice as long */
    FAST_INSN_PER_US = 10, /* the slowest hardware, even emulated, is well above; emulation below */
    GUEST_CODE = 0x1000,
    GUEST_SIZE = 0x2000,
    INSN_MIN = 1000, /* in a slice: it gets on; emulation makes three times that */
    SLICES_SLOW = 3,
    SLICES_MAX = 8,
    KERNEL_SIGSET_SIZE = 8,
};

struct probe {
    int dev, vm, vcpu;
    u8 *ram;
    struct kvm_run *run;
    size_t run_size;
    timer_t timer;
    bool timer_made;
    int signal;
    sigset_t before; /* the thread's mask */
    u64 insn, ns;    /* of the last slice */
};

static const u8 guest_code[] = {
    0xff, 0xc9, /* loop: dec ecx */
    0x75, 0xfc, /*       jnz loop */
    0xe6, 0x80, /*       out 0x80, al */
    0xf4,       /*       hlt */
};

/* The thread's own time: what others do on a busy host does not count. */
static u64 clock_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* --- a machine of one vCPU and two pages
 * ---------------------------------------------------------------- */

static int vm_open(struct probe *p) {
    do {
        p->vm = ioctl(p->dev, KVM_CREATE_VM, 0);
    } while (p->vm < 0 && errno == EINTR);
    if (p->vm < 0 || kvm_set_hidden_pages(p->vm)) {
        return -ERR_IO;
    }
    p->ram = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->ram == MAP_FAILED) {
        p->ram = NULL;
        return -ERR_NOMEM;
    }
    memcpy(p->ram + GUEST_CODE, guest_code, sizeof(guest_code));
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE,
                                                 .userspace_addr = (u64)(uintptr_t)p->ram};
    return ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) ? -ERR_IO : 0;
}

/* Flat 32-bit protected mode without paging: every processor can run it directly. */
static int vcpu_mode(struct probe *p) {
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = GUEST_CODE, .rcx = LOOP_COUNT, .rflags = 2};
    if (ioctl(p->vcpu, KVM_GET_SREGS, &s)) {
        return -ERR_IO;
    }
    struct kvm_segment data = {
        .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cs = data;
    s.cs.selector = 8;
    s.cs.type = 11;
    s.cr0 |= CR0_PE;
    return ioctl(p->vcpu, KVM_SET_SREGS, &s) || ioctl(p->vcpu, KVM_SET_REGS, &r) ? -ERR_IO : 0;
}

static int vcpu_open(struct probe *p) {
    int size = ioctl(p->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0 || size < (int)sizeof(struct kvm_run)) {
        return -ERR_IO;
    }
    p->run_size = (size_t)size;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (p->run == MAP_FAILED) {
        p->run = NULL;
        return -ERR_NOMEM;
    }
    return vcpu_mode(p);
}

/* --- the time limit
 * ------------------------------------------------------------------------------------------ */

static int limit_open(struct probe *p) {
    sigset_t set;
    p->signal = SIGRTMIN + 3;
    sigemptyset(&set);
    sigaddset(&set, p->signal);
    if (pthread_sigmask(SIG_BLOCK, &set, &p->before)) {
        return -ERR_IO;
    }
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = p->signal};
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    p->timer_made = timer_create(CLOCK_MONOTONIC, &ev, &p->timer) == 0;
    struct {
        u32 len;
        u8 set[KERNEL_SIGSET_SIZE]; /* as struct kvm_signal_mask */
    } mask = {.len = KERNEL_SIGSET_SIZE};
    sigset_t inside = p->before;
    sigdelset(&inside, p->signal);
    memcpy(mask.set, &inside, sizeof(mask.set));
    return !p->timer_made || ioctl(p->vcpu, KVM_SET_SIGNAL_MASK, &mask) ? -ERR_IO : 0;
}

/* Takes signals that wait, so that the next KVM_RUN does not return before it has begun. */
static void limit_drain(const struct probe *p) {
    struct timespec none = {0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, p->signal);
    while (sigtimedwait(&set, NULL, &none) > 0) {
    }
}

static int limit_arm(struct probe *p, u64 ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / NSEC_PER_SEC),
                         .tv_nsec = (long)(ns % NSEC_PER_SEC)};
    struct itimerspec when = {.it_value = t, .it_interval = t};
    struct itimerspec off = {0};
    if (timer_settime(p->timer, 0, &off, NULL)) {
        return -ERR_IO;
    }
    limit_drain(p);
    return timer_settime(p->timer, 0, &when, NULL) ? -ERR_IO : 0;
}

static void limit_close(struct probe *p) {
    if (!p->signal) {
        return;
    }
    if (p->timer_made) {
        timer_delete(p->timer);
    }
    limit_drain(p);
    pthread_sigmask(SIG_SETMASK, &p->before, NULL);
}

/* --- the measurement
 * ------------------------------------------------------------------------------------------- */

/* One slice: until the loop has ended or the time limit strikes.
 */
static int slice(struct probe *p, u64 limit_ns, u64 *left) {
    struct kvm_regs r;
    if (limit_arm(p, limit_ns)) {
        return -ERR_IO;
    }
    u64 start = clock_now();
    int rc = ioctl(p->vcpu, KVM_RUN, 0);
    int code = errno;
    p->ns = clock_now() - start;
    bool finished = rc == 0 && p->run->exit_reason == KVM_EXIT_IO;
    if ((!finished && !(rc < 0 && code == EINTR)) || ioctl(p->vcpu, KVM_GET_REGS, &r)) {
        return -ERR_IO;
    }
    u64 now_left = finished ? 0 : MIN(r.rcx, *left);
    p->insn = (*left - now_left) * INSN_PER_ROUND;
    *left = now_left;
    return 0;
}

/*
 * An emulator is slow evenly: three slices in a row that get on, but slowly. A slice that gets
 * nowhere says nothing (the first entry into a guest builds page tables; a machine that is itself
 * emulated may spend a slice on its own clock interrupts), and the next one is longer.
 */
static int measure(struct probe *p) {
    u64 left = LOOP_COUNT;
    u32 slow = 0;
    for (u32 i = 0; i < SLICES_MAX; i++) {
        int rc = slice(p, (u64)SLICE_NS << i, &left);
        if (rc || !left) {
            return rc;
        }
        slow = p->insn >= INSN_MIN ? slow + 1 : 0;
        if (slow == SLICES_SLOW) {
            break;
        }
    }
    return 0;
}

static void probe_close(struct probe *p) {
    limit_close(p);
    if (p->run) {
        munmap(p->run, p->run_size);
    }
    if (p->vcpu >= 0) {
        close(p->vcpu);
    }
    if (p->vm >= 0) {
        close(p->vm);
    }
    if (p->ram) {
        munmap(p->ram, GUEST_SIZE);
    }
}

static int speed(int dev, u64 *insn_per_ms, struct err *err) {
    struct probe p = {.dev = dev, .vm = -1, .vcpu = -1};
    int rc = vm_open(&p);
    rc = rc ? rc : vcpu_open(&p);
    rc = rc ? rc : limit_open(&p);
    rc = rc ? rc : measure(&p);
    if (rc) {
        rc = ERR_SET(err, ERR_UNSUPPORTED, "/dev/kvm: a guest of two instructions does not run: %s",
                     p.run ? "unexpected exit" : strerror(errno));
    } else {
        *insn_per_ms = p.insn * 1000000 / MAX(p.ns, 1ull);
    }
    probe_close(&p);
    return rc;
}

static void fill(int dev, struct host *host, struct engine_caps *caps) {
    int most = kvm_has(dev, KVM_CAP_MAX_VCPUS);
    caps->flags = ENGINE_CAP_IRQCHIP | ENGINE_CAP_DIRTY_LOG;
    if (kvm_has(dev, KVM_CAP_IOEVENTFD) && host->ops->fd_watch) {
        caps->flags |= ENGINE_CAP_DOORBELL;
    }
    caps->max_vcpus = most ? (u32)most : 4; /* the documented default */
}

static int judge(u64 insn_per_ms, struct engine_caps *caps, struct err *err) {
    u64 whole = insn_per_ms / 1000, tenths = insn_per_ms / 100 % 10;
    bool fast = whole >= FAST_INSN_PER_US;
    fmt_str(caps->note, sizeof(caps->note),
            fast ? "KVM executes guests: %llu.%llu instr/us"
                 : "KVM here only emulates (%llu.%llu M instr/s)",
            (unsigned long long)whole, (unsigned long long)tenths);
    return fast ? 0 : ERR_SET(err, ERR_UNSUPPORTED, "%s", caps->note);
}

int kvm_present(struct host *host, struct engine_caps *caps, struct err *err) {
    *caps = (struct engine_caps){0};
    int dev = kvm_dev_open(err);
    if (dev < 0) {
        return dev;
    }
    int rc = kvm_dev_check(dev, err);
    if (!rc) {
        fill(dev, host, caps);
    }
    close(dev);
    return rc;
}

int kvm_probe(struct host *host, struct engine_caps *caps, struct err *err) {
    u64 insn_per_ms = 0;
    *caps = (struct engine_caps){0};
    int dev = kvm_dev_open(err);
    if (dev < 0) {
        str_copy(caps->note, sizeof(caps->note), "no usable /dev/kvm");
        return dev;
    }
    int rc = kvm_dev_check(dev, err);
    if (rc) {
        str_copy(caps->note, sizeof(caps->note), "/dev/kvm lacks what is needed");
    } else {
        fill(dev, host, caps);
        rc = speed(dev, &insn_per_ms, err);
        if (rc) {
            str_copy(caps->note, sizeof(caps->note), "/dev/kvm opens, but runs no guest");
        } else {
            rc = judge(insn_per_ms, caps, err);
        }
    }
    close(dev);
    return rc;
}
