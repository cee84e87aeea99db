/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtual processor as core sees it: its thread, its run loop, and where it stands between
 * instructions. The registers belong to the engine; the local APIC to the interrupt chips.
 *
 *        vcpu_thread
 *   +-> serve attention (pause, work, INIT, SIPI, NMI)
 *   |   parked? wait       halted or waiting for SIPI? wait on the attention word
 *   |   inject what is due
 *   |   engine run
 *   +-- handle the exit
 *
 * With ENGINE_CAP_IRQCHIP the engine does halting, INIT, SIPI and injection; mp_state here then
 * stays MP_RUNNABLE.
 */
#ifndef CORE_VM_VCPU_H
#define CORE_VM_VCPU_H

#include "core/cpu/state.h"
#include "core/if/engine.h"

struct vm;

typedef void (*vcpu_work_fn)(struct engine_vcpu *vcpu, void *ctx);

struct vcpu_counters {
    u64 exits[EXIT_ERROR + 1]; /* by enum exit_kind */
    u64 interrupts, nmis;
};

struct vcpu {
    struct engine_vcpu engine; /* first: engine_vcpu and vcpu convert into each other */
    struct vm *vm;
    struct host_thread *thread;
    u32 mp_state; /* enum mp_state; own thread, or any while parked */
    u32 state;    /* VCPU_*, written under vm->control, waited on */
    u32 hold;     /* debugger: stays parked while others run; written while paused, atomic */
    bool quiet;   /* debugger: takes no interrupts while it steps; written while paused */

    vcpu_work_fn work; /* under vm->control */
    void *work_ctx;
    u32 work_done; /* waited on */

    struct vcpu_counters counters;
    u32 log_counter;
};

enum { VCPU_CREATED, VCPU_RUNNING, VCPU_PARKED, VCPU_EXITED };

static inline struct vcpu *vcpu_of(struct engine_vcpu *ev) {
    return (struct vcpu *)(void *)ev;
}

/* The thread's function; ctx is the struct vcpu. */
void vcpu_thread(void *ctx);

/*
 * Runs fn on the vCPU's thread (the engine contract asks that) between two instructions, the
 * machine paused meanwhile, and returns when it is done. Before the start and after the stop fn
 * runs on the caller's thread. Not from a vCPU thread.
 */
void vcpu_call(struct vcpu *vcpu, vcpu_work_fn fn, void *ctx);

/* Complete state incl. mp_state, by vcpu_call. mask: STATE_*. */
int vcpu_state_get(struct vcpu *vcpu, u64 mask, struct cpu_state *state);
int vcpu_state_set(struct vcpu *vcpu, u64 mask, const struct cpu_state *state);

/* Registers for a person, several lines through the log; on the vCPU's thread or by vcpu_call. */
void vcpu_log_registers(struct vcpu *vcpu, enum log_level level);

#endif
