/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: memory, buses, interrupt chips, devices and processors, and its life.
 *
 *   vm_create -> (board adds devices, loads a kernel) -> vm_start -> runs ... -> stopped
 *                                                          |  ^                    |
 *                                                   vm_pause  vm_resume        vm_destroy
 *
 * Who calls what: create, start and destroy on the owner's thread. pause, resume, save and load on
 * any thread that is not a vCPU's. vm_request on any thread.
 */
#ifndef CORE_VM_VM_H
#define CORE_VM_VM_H

#include "core/base/snap.h"
#include "core/cpu/cpuid.h"
#include "core/dev/device.h"
#include "core/if/engine.h"
#include "core/if/mutex.h"
#include "core/if/trace.h"
#include "core/mem/bus.h"
#include "core/mem/ram.h"
#include "core/vm/vcpu.h"

struct irqchip;

/* RAM fills [0, VM_LOW_RAM_MAX) first and goes on at 4 GiB. */
#define VM_LOW_RAM_MAX 0xc0000000ull
#define VM_HIGH_RAM    (4 * GIB)

enum vm_stop_reason {
    STOP_NONE,         /* still running */
    STOP_POWEROFF,     /* the guest powered off: exit status 0 */
    STOP_RESET,        /* the guest reset the machine: exit status 0 (a reset ends the machine) */
    STOP_EXIT_CODE,    /* a test device asked for this exit status: stop.code */
    STOP_TRIPLE_FAULT, /* exit status 3; registers are in the log */
    STOP_ERROR,        /* the machine cannot go on, stop.text says why: exit status 3 */
    STOP_USER,         /* vm_stop was called: exit status 0 */
};

struct vm_stop {
    enum vm_stop_reason reason;
    int code;       /* process exit status that fits the reason */
    u32 vcpu;       /* which one, for TRIPLE_FAULT and ERROR */
    char text[200]; /* for a person: "guest powered off" */
};

/*
 * Set by the debugger: told on the vCPU's thread that it met EXIT_DEBUG. True: it takes the event;
 * all vCPUs are being paused on its behalf and it owes a vm_resume. False: a breakpoint of the
 * guest's own, which gets its #BP or #DB.
 */
typedef bool (*vm_debug_fn)(void *ctx, struct vcpu *vcpu, const struct vm_exit *exit);

struct vm_params {
    struct host *host;
    const struct engine_ops *engine;
    u32 vcpus;
    u64 memory; /* bytes */
    u64 tsc_hz; /* 0: the host's */
    u32 trace;
    const char *thread_name;        /* of the vCPUs' threads, " N" is added; NULL: "vcpu" */
    const struct engine_caps *caps; /* what the engine's probe said; NULL: it is asked */
    struct engine_translator translator;
    /* A machine to load a saved state into, both NULL otherwise. */
    struct host_ram *ram; /* guest RAM to use, `memory` bytes; taken over (hva becomes
                             NULL) when the machine can be created */
    const struct cpu_template *cpu_template; /* wishes for the processor; NULL: none */
    const struct engine_ops *portable; /* narrows it to what this engine has, too; NULL: does not */
    const struct cpuid_policy *cpuid;  /* the processor it had; see cpuid_policy_adopt */
};

struct vm {
    struct engine_vm engine; /* first: engine_vm and vm convert into each other */
    struct host *host;
    struct trace trace;
    struct ram ram;
    struct host_ram backing;
    struct bus pio, mmio;
    struct mutex lock;   /* the board lock; see core/if/mutex.h for the order */
    struct irqchip *irq; /* never NULL */
    u64 caps;            /* ENGINE_CAP_* */
    struct cpuid_policy cpuid;
    u64 cpuid_weaker; /* what cpuid_policy_adopt said */
    struct device_env env;
    struct device_list devices;

    struct vcpu *vcpus; /* vcpu_count of them */
    struct engine_vcpu **engine_vcpus;
    u32 vcpu_count;
    u32 created;         /* vCPUs that the engine knows: unwinding */
    bool engine_created; /* likewise */

    struct mutex calls;   /* one vcpu_call at a time; outermost */
    struct mutex control; /* pause, resume, work; outside the board lock */
    u32 pause_count;      /* > 0: vCPUs park; written under control */
    u32 park_word;    /* changes with each resume, work item and stop: parked vCPUs wait on it */
    u32 stopping;     /* set once, atomic */
    u32 stopped_word; /* 1 when every vCPU thread is about to exit: vm_wait waits on it */
    u32 alive;        /* vCPU threads that have not exited */
    bool started;
    u32 freeze_count; /* vm_freeze; the owner's thread */
    bool dirty_on;    /* vm_dirty_start */
    u64 *own_dirty;   /* ram.dirty, when the engine has none; NULL otherwise */

    char thread_name[12]; /* of vCPUs */

    struct mutex stop_lock; /* innermost */
    struct vm_stop stop;
    void (*on_stop)(void *ctx); /* once, when the last vCPU thread leaves; on that thread */
    void *on_stop_ctx;

    vm_debug_fn debug_fn;
    void *debug_ctx;
};

static inline struct vm *vm_of(struct engine_vm *engine) {
    return (struct vm *)(void *)engine;
}

/* Memory, engine, vCPUs (in reset state), interrupt chips, empty buses. *out owns it all. */
int vm_create(const struct vm_params *params, struct vm **out, struct err *err);
/* Stops what runs, joins threads, removes devices, frees. NULL is fine. */
void vm_destroy(struct vm *vm);

/* Starts the vCPU threads; they begin parked when vm_pause was called before. */
int vm_start(struct vm *vm, struct err *err);

/* Nested. pause returns when every vCPU stands still between two instructions. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
/* The first half of vm_pause: does not wait. Any thread, a vCPU's too. */
void vm_pause_begin(struct vm *vm);

/* All processors to their state after RESET. */
int vm_reset_vcpus(struct vm *vm);

/* Asks the machine to end; the first reason wins. Any thread, any lock. code: the status for
 * STOP_EXIT_CODE, the vCPU for STOP_TRIPLE_FAULT and STOP_ERROR. */
void vm_stop(struct vm *vm, enum vm_stop_reason reason, int code, const char *text);
/* device_env.request: enum machine_request. */
void vm_request(void *vm, int request, int code);

/* Waits until all vCPU threads have left (true) or the absolute deadline has passed (false). */
bool vm_wait(struct vm *vm, u64 deadline_ns);
/* A copy of why it stopped; reason STOP_NONE while it runs. */
struct vm_stop vm_stop_get(struct vm *vm);

/* Pauses the processors, and the devices when nothing of theirs is in flight any more: memory and
 * state stand still. Nested; one thread, neither a vCPU's nor with a lock. */
void vm_freeze(struct vm *vm);
void vm_thaw(struct vm *vm);

/*
 * Notes from now on which pages of RAM are written, by anybody. collect ORs a bit per page of the
 * flat numbering (ram_page_index), in whole u64 words, into bitmap and begins anew; the machine is
 * frozen. start may be called again. 0, -ERR_STATE (not started) or what start says in err.
 */
int vm_dirty_start(struct vm *vm, struct err *err);
int vm_dirty_collect(struct vm *vm, u64 *bitmap);
void vm_dirty_end(struct vm *vm); /* vm_destroy's */

/* Guest RAM out of a machine that has stopped and is about to be destroyed; it must not run again.
 */
struct host_ram vm_take_memory(struct vm *vm);

/*
 * The whole machine but RAM: vCPUs, interrupt chips, devices; pauses it meanwhile. load leaves the
 * machine in reset state when it fails; the caller then stops it. RAM is loaded before: devices
 * look into it.
 */
int vm_save(struct vm *vm, struct snap_writer *w);
int vm_load(struct vm *vm, struct snap_reader *r, struct err *err);

#endif
