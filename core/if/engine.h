/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How instructions execute: the contract between the machine (core/vm) and an engine.
 *
 *   core/vm run loop                                engine
 *   ----------------                                ------
 *   inject what is due ----- inject_* ------------> |
 *   run(vcpu, &exit) ------------------------------> guest executes
 *   |   <----- callout_* (core/if/callout.h) ------- software engines settle port I/O, MMIO, CPUID
 *   |                                                and MSRs by direct calls on the vCPU's thread
 *   switch (exit.kind) <---- one exit record -------
 *
 * An engine sees struct engine_vm and struct engine_vcpu, never the machine behind them, and hangs
 * its own state off `priv`. Calls on a vCPU are made by that vCPU's thread, except kick.
 */
#ifndef CORE_IF_ENGINE_H
#define CORE_IF_ENGINE_H

#include "core/base/err.h"
#include "core/base/types.h"
#include "core/if/host.h"

struct cpu_state;
struct cpuid_policy;  /* core/cpu/cpuid.h */
struct ram;           /* core/mem/ram.h */
struct irqchip_state; /* core/if/irqchip.h */
struct trace;         /* core/if/trace.h */

struct engine_ops;

struct engine_vm {
    const struct engine_ops *ops;
    struct host *host;
    struct ram *ram;
    const struct cpuid_policy *cpuid;
    u32 vcpu_count;
    u64 tsc_hz;                /* what the guest is told */
    const struct trace *trace; /* core/if/trace.h; may be NULL */
    /* What the software engine's translator may do; other engines ignore it. */
    struct engine_translator {
        bool on;
        u32 heat;      /* executions before a block is translated; 0: a good value, and more when
                          there is little room */
        u32 cache_mib; /* room for generated code per vCPU; 0: a good value */
        u32 verify;    /* lock-step with the interpreter: one of so many entries of generated code
                          is checked; 0: none. One vCPU only. */
        bool audit;    /* the decoder looks at all generated code (tr_audit.c) */
        bool count;    /* generated code counts what it does: stats.tr.counted */
        /* When not NULL: told of each translation, where it lies and the address of the guest's
         * instruction. On the vCPUs' threads. */
        void (*named)(void *ctx, const void *code, size_t size, u64 rip);
        void *named_ctx;
    } translator;
    struct engine_vcpu **vcpus; /* vcpu_count of them, filled before the first run */
    void *priv;
};

/*
 * attention: why this vCPU should leave the guest; set with atomic OR by any thread, followed by
 * kick. The engine returns EXIT_KICK when it sees a non-zero word at an instruction boundary (the
 * soft engine polls it at block boundaries); core clears the bits it serves.
 */
#define ATTN_INTERRUPT BIT(0) /* the local APIC or PIC may have an interrupt */
#define ATTN_NMI       BIT(1)
#define ATTN_INIT      BIT(2)
#define ATTN_SIPI      BIT(3)
#define ATTN_PAUSE     BIT(4) /* stop at the next boundary: pause, snapshot, debugger */
#define ATTN_WORK      BIT(5) /* cross-vCPU work is queued by core */

struct engine_vcpu {
    struct engine_vm *vm;
    u32 id;        /* 0.. vcpu_count-1; also the initial APIC id */
    u32 attention; /* ATTN_*, atomic */
    u32 sleeping;  /* core waits on the attention word (halted, parked): wake instead of kick */
    void *priv;
};

enum exit_kind {
    EXIT_KICK,        /* attention was seen, or a signal arrived */
    EXIT_INTR_WINDOW, /* an interrupt could be taken now, as asked with intr_window */
    EXIT_HLT,
    EXIT_SHUTDOWN, /* triple fault */
    EXIT_IO,       /* kvm: port access; data is filled in by core for reads */
    EXIT_MMIO,     /* kvm: as EXIT_IO */
    EXIT_DEBUG,    /* breakpoint or single step that belongs to the debugger */
    EXIT_ERROR,    /* the engine cannot go on; error.text says why */
};

struct vm_exit {
    enum exit_kind kind;
    u8 insn_len; /* 0: unknown */
    union {
        struct {
            u16 port;
            u8 size; /* 1, 2, 4 */
            bool write;
            u32 count; /* string I/O: that many elements in data */
            void *data;
        } io;
        struct {
            u64 gpa;
            u32 size; /* 1..8 */
            bool write;
            u8 *data;
        } mmio;
        struct {
            u64 rip;
            u64 dr6;   /* BS, B0..B3 as in DR6 */
            bool int3; /* a software breakpoint (int3) that the debugger may own */
        } debug;
        struct {
            char text[160];
        } error;
    };
};

#define ENGINE_CAP_IRQCHIP   BIT(0) /* PIC, IOAPIC, local APICs and PIT are the engine's */
#define ENGINE_CAP_DOORBELL  BIT(1) /* doorbell_add works */
#define ENGINE_CAP_DIRTY_LOG BIT(2)

struct engine_caps {
    u64 flags; /* ENGINE_CAP_* */
    u32 max_vcpus;
    char note[120]; /* one line for a person: what was found */
};

struct engine_debug {
    bool enabled; /* int3 and the debug registers below belong to the debugger */
    bool single_step;
    u64 dr[4];
    u64 dr7; /* 0: no hardware breakpoints */
};

/* Why translated code was left for the run loop. */
enum engine_tr_left {
    ENGINE_TR_EXCEPTION, /* of the processor, in a copied instruction */
    ENGINE_TR_EDGE,      /* a direct jump that was not joined to its target yet, or may not be */
    ENGINE_TR_ENTRY,     /* a trace was not entered: request, page or mode not checked */
    ENGINE_TR_INDIRECT,  /* the target of a return or indirect jump was not in the table */
    ENGINE_TR_SLOW,      /* an access that the interpreter has to make */
    ENGINE_TR_STEP,      /* behind an instruction of the interpreter */
    ENGINE_TR_STEP_END,  /* likewise, one that always may go elsewhere */
    ENGINE_TR_LEFT
};

struct engine_stats {
    u64 instructions; /* 0 where not counted; of translated code only what was interpreted */
    u64 exits;
    u64 interrupts;
    u64 exceptions;
    /* The translator's; 0 where there is none. */
    struct engine_tr_stats {
        u64 blocks, bytes_in, bytes_out; /* translated, guest bytes, code made of them */
        u64 entries;                     /* of translated code by the run loop */
        u64 cold;                        /* blocks that the run loop left to the interpreter */
        u64 left[ENGINE_TR_LEFT];        /* why translated code was left, see below */
        u64 misses;                      /* of the inline translation cache */
        u64 slow;                        /* accesses left to the interpreter */
        u64 crossed;                     /* of these, those over a page end */
        u64 jump_misses;                 /* targets that the table of jumps did not have */
        bool counting;                   /* translator.count: */
        struct engine_tr_counted {
            u64 instructions; /* in translated code, those left to the interpreter not included; an
                                 exception in the middle of a run between two jumps counts it all */
            u64 looks;        /* into the inline translation cache, with misses */
            u64 jumps;        /* into the table of jumps, with misses */
        } counted;
        u64 steps;                        /* single instructions done by the interpreter */
        u64 links, kills;                 /* jumps joined; traces outdated because code changed */
        u64 flushed_remap, flushed_slots; /* everything forgotten: RAM or features changed; too many
                                             pages of code */
        u64 evictions;                    /* regions of the cache emptied to make room */
        u64 code_bytes;                   /* of the code cache, touched so far */
        struct {
            u16 id; /* enum insn_id */
            u64 count;
        } step_top[8]; /* the most frequent of the steps */
    } tr;
    /* Of lock-step mode; 0 where it is off. */
    struct engine_verify_stats {
        u64 windows, instructions; /* compared; of the interpreter */
        u64 unclear;               /* windows in which a device wrote memory and registers differ */
        u64 divergences;
    } verify;
};

struct engine_ops {
    const char *name;
    /* Can this engine run guests here? Cheap, but real: an engine that only opens does not count.
     */
    int (*probe)(struct host *host, struct engine_caps *caps, struct err *err);
    /* Optional: narrows a policy (cpuid_policy_limit) to what this engine can offer on this host.
     * Called between cpuid_policy_init and vm_create. */
    int (*cpuid_limit)(struct host *host, struct cpuid_policy *policy, struct err *err);
    /* BIT(FEATURE_*) of core/cpu/cpuid.h that it offers on processors without them, when asked. */
    u64 cpuid_emulates;
    int (*vm_create)(struct engine_vm *vm, struct err *err);
    void (*vm_destroy)(struct engine_vm *vm);
    /* RAM of the guest at gpa; flags RAM_* of core/mem/ram.h. Page aligned, never overlapping. */
    int (*ram_map)(struct engine_vm *vm, u64 gpa, u64 size, void *hva, u32 flags);
    int (*ram_unmap)(struct engine_vm *vm, u64 gpa, u64 size);
    /* Dirty log: on/off for all RAM; get ORs one bit per page of [gpa, gpa+size) into bitmap and
     * clears. */
    int (*dirty_log)(struct engine_vm *vm, bool on);
    int (*dirty_get)(struct engine_vm *vm, u64 gpa, u64 size, u64 *bitmap);

    int (*vcpu_create)(struct engine_vcpu *vcpu, struct err *err);
    void (*vcpu_destroy)(struct engine_vcpu *vcpu);
    /* Once on the thread that will call run. */
    int (*vcpu_bind)(struct engine_vcpu *vcpu);
    /* Runs the guest until something needs core. Returns 0 with *exit filled, or a negative error.
     */
    int (*run)(struct engine_vcpu *vcpu, struct vm_exit *exit);
    /* Any thread: makes run return soon with EXIT_KICK, also when it is about to be entered. */
    void (*kick)(struct engine_vcpu *vcpu);

    /* mask: STATE_* of core/cpu/state.h. set checks what it is given: -ERR_INVAL, nothing changed.
     */
    int (*state_get)(struct engine_vcpu *vcpu, u64 mask, struct cpu_state *state);
    int (*state_set)(struct engine_vcpu *vcpu, u64 mask, const struct cpu_state *state);

    u64 (*tsc_get)(struct engine_vcpu *vcpu); /* the guest's TSC now; any thread */

    /* Without ENGINE_CAP_IRQCHIP: is RFLAGS.IF set and no shadow, no event being delivered? */
    bool (*can_interrupt)(struct engine_vcpu *vcpu);
    void (*intr_window)(struct engine_vcpu *vcpu, bool want);      /* ask for EXIT_INTR_WINDOW */
    void (*inject_interrupt)(struct engine_vcpu *vcpu, u8 vector); /* only when can_interrupt */
    void (*inject_nmi)(struct engine_vcpu *vcpu);                  /* latched until deliverable */
    /* As if the instruction at RIP had raised it. #BP: RIP stands at the int3 (after EXIT_DEBUG
     * with int3), and the guest's handler returns behind it. */
    int (*inject_exception)(struct engine_vcpu *vcpu, u8 vector, bool has_error, u32 error);
    int (*debug_set)(struct engine_vcpu *vcpu, const struct engine_debug *debug);

    /* With ENGINE_CAP_IRQCHIP. */
    int (*irq_line)(struct engine_vm *vm, u32 gsi, bool level);
    int (*msi)(struct engine_vm *vm, u64 address, u32 data);
    int (*irqchip_get)(struct engine_vm *vm, struct irqchip_state *state);
    int (*irqchip_set)(struct engine_vm *vm, const struct irqchip_state *state);

    /* With ENGINE_CAP_DOORBELL: a guest write there calls fn on the event thread, without an exit.
     * size 0: any size; match: only this value when has_match. */
    int (*doorbell_add)(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                        u64 match, void (*fn)(void *ctx), void *ctx);
    int (*doorbell_remove)(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                           u64 match);

    void (*stats)(struct engine_vcpu *vcpu, struct engine_stats *stats);
    /* Optional: the vCPU is about to sleep until something comes (rests), and has woken. On its own
     * thread; the engine may use the time to put its house in order, for a few milliseconds. */
    void (*idle)(struct engine_vcpu *vcpu, bool rests);
};

static inline void vcpu_attend(struct engine_vcpu *vcpu, u32 bits) {
    __atomic_fetch_or(&vcpu->attention, bits, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&vcpu->sleeping, __ATOMIC_SEQ_CST)) {
        vcpu->vm->host->ops->wake(vcpu->vm->host, &vcpu->attention, 1);
    } else {
        vcpu->vm->ops->kick(vcpu);
    }
}

#endif
