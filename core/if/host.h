/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the monitor stands on. A host (a Linux process, bare metal, the fake host of the unit tests)
 * fills struct host_ops; core and the engines reach memory, time, threads and the outside only
 * through it. All calls may be made from any thread unless noted; none may be made from a fault
 * hook.
 */
#ifndef CORE_IF_HOST_H
#define CORE_IF_HOST_H

#include "core/base/types.h"

struct host;
struct host_timer;
struct host_thread;

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

#define HOST_FOREVER UINT64_MAX

/* Guest RAM: one contiguous host mapping, zero-filled, lazily populated. */
struct host_ram {
    u8 *hva;   /* page aligned */
    u64 size;  /* bytes, a multiple of 4096 */
    int fd;    /* memfd on Linux (offset 0 is hva), -1 where there is none */
    bool file; /* fd is a file that is mapped privately: it does not see what is written */
};

/* Memory for generated code, mapped twice: never writable and executable through one mapping. */
struct host_code {
    u8 *rw;
    u8 *rx;
    size_t size;
};

/*
 * A processor exception raised while host code inside a registered range ran (see fault_hook).
 * The hook edits regs to say where to go on; it runs on the faulting thread, asynchronously to it,
 * and may touch only its own structures.
 */
struct host_fault {
    u32 vector;  /* 0 #DE, 4 #OF, 6 #UD, 13 #GP, 14 #PF, 16 #MF, 17 #AC, 19 #XM */
    u32 error;   /* page-fault error code where known */
    u64 addr;    /* CR2 for #PF; 0 where unknown */
    u64 gpr[16]; /* in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    u64 rip;
    u64 rflags;
    void *ctx;    /* what thread_fault_ctx set for this thread */
    void *fpregs; /* the FXSAVE/XSAVE image of the interrupted code; NULL where not available */
};

/* Returns true when handled (resume with the edited registers), false to treat it as a crash. */
typedef bool (*host_fault_fn)(struct host_fault *fault);

struct host_ops {
    /* Zeroed memory for the monitor's own use, 16-byte aligned; NULL when there is none. */
    void *(*alloc)(struct host *host, size_t size);
    void (*free)(struct host *host, void *ptr, size_t size);
    /* Zeroed, page-aligned, lazily populated: for large tables. */
    void *(*pages)(struct host *host, size_t size);
    void (*pages_free)(struct host *host, void *ptr, size_t size);

    int (*ram_alloc)(struct host *host, u64 size, struct host_ram *out);
    void (*ram_free)(struct host *host, struct host_ram *ram);
    /*
     * Optional (may be NULL): the memory behind [hva, hva+size) of guest RAM, whole pages, goes
     * back to the host. The mapping stays: what is read there next is zeros, or for memory that was
     * loaded from a file what stands there. 0, or -ERR_UNSUPPORTED with nothing changed.
     */
    int (*ram_discard)(struct host *host, u8 *hva, u64 size);
    /* Optional: whole pages of pages() or code_alloc() (through rw) go back to the host and are
     * zero when touched again. */
    void (*pages_discard)(struct host *host, void *ptr, size_t size);
    /* Optional: what pages() or code_alloc() gave (either mapping) is in use all over from ptr on,
     * size bytes: the host may put larger pages behind what is whole of them. Contents stay. */
    void (*pages_join)(struct host *host, void *ptr, size_t size);
    int (*code_alloc)(struct host *host, size_t size, struct host_code *out);
    void (*code_free)(struct host *host, struct host_code *code);

    u64 (*now)(struct host *host);    /* monotonic nanoseconds */
    u64 (*wall)(struct host *host);   /* nanoseconds since 1970-01-01 UTC */
    u64 (*tsc_hz)(struct host *host); /* frequency of this processor's TSC; 0 when unknown */

    /*
     * One-shot timers. fn runs on the host's event thread with no lock held. arm replaces an
     * earlier deadline (absolute, in the clock of now); a cancelled timer may still be running.
     */
    struct host_timer *(*timer_create)(struct host *host, void (*fn)(void *ctx), void *ctx);
    void (*timer_arm)(struct host *host, struct host_timer *timer, u64 deadline_ns);
    void (*timer_cancel)(struct host *host, struct host_timer *timer);
    void (*timer_destroy)(struct host *host, struct host_timer *timer); /* waits for a running fn */

    /* Runs fn(ctx) once on the event thread, in order of posting. Returns 0 or -ERR_NOMEM. */
    int (*post)(struct host *host, void (*fn)(void *ctx), void *ctx);

    struct host_thread *(*thread_start)(struct host *host, const char *name, void (*fn)(void *ctx),
                                        void *ctx);
    void (*thread_join)(struct host *host, struct host_thread *thread);
    /* Interrupts a thread of this host that is blocked in the kernel (KVM_RUN); never lost. */
    void (*thread_kick)(struct host *host, struct host_thread *thread);
    void (*yield)(struct host *host);

    /*
     * Futex semantics: sleeps while *word == expected, until woken or until the absolute deadline
     * (HOST_FOREVER: none). May return early for no reason.
     */
    void (*wait)(struct host *host, u32 *word, u32 expected, u64 deadline_ns);
    void (*wake)(struct host *host, u32 *word, u32 count);

    void (*entropy)(struct host *host, void *buf, size_t size); /* cryptographic quality */
    void (*log)(struct host *host, enum log_level level, const char *text, size_t len);

    /* Exceptions with RIP in [start, start+size) go to fn. One range per engine instance. */
    int (*fault_hook)(struct host *host, const u8 *start, size_t size, host_fault_fn fn);
    void (*fault_unhook)(struct host *host, const u8 *start);
    /* What struct host_fault.ctx shows on the calling thread. */
    void (*thread_fault_ctx)(struct host *host, void *ctx);
    /* Optional: sets the GS base of the calling thread, for generated code; the C code of the host
     * does not use GS. Generated code may run with any value in RSP: every signal handler of the
     * thread must be on an alternate stack. */
    void (*thread_gs)(struct host *host, void *base);

    /*
     * Optional (NULL where the host has no descriptors): calls fn on the event thread whenever fd
     * is readable; fn drains it. One watch per fd. 0 or negative. unwatch returns when fn is not
     * running any more, unless called from fn itself.
     */
    int (*fd_watch)(struct host *host, int fd, void (*fn)(void *ctx), void *ctx);
    void (*fd_unwatch)(struct host *host, int fd);
};

/* A host embeds this as its first member. */
struct host {
    const struct host_ops *ops;
};

static inline void *host_alloc(struct host *host, size_t size) {
    return host->ops->alloc(host, size);
}

static inline void host_free(struct host *host, void *ptr, size_t size) {
    if (ptr) {
        host->ops->free(host, ptr, size);
    }
}

static inline u64 host_now(struct host *host) {
    return host->ops->now(host);
}

#endif
