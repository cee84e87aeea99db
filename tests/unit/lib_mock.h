/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine for tests: keeps the state it is given, records what it is asked, and instead of
 * running a guest calls a script that makes up the next exit.
 */
#ifndef TESTS_UNIT_LIB_MOCK_H
#define TESTS_UNIT_LIB_MOCK_H

#include "core/cpu/state.h"
#include "core/if/engine.h"

enum { MOCK_MAX = 64 };

struct mock_vcpu {
    struct cpu_state s;
    struct engine_debug debug;
    u32 runs, kicks, nmis, binds, windows;
    bool window;
    bool blocked; /* can_interrupt says no */
    u8 injected[MOCK_MAX];
    u32 injected_count;
    u8 exceptions[MOCK_MAX];
    u32 exception_count;
    u32 step; /* the script's own */
};

/* Counters that a test watches while the vCPU runs; gives the old value. */
#define MOCK_BUMP(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_SEQ_CST)

/* Fills *exit; return value of run. NULL: mock_idle. */
typedef int (*mock_script)(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit);

struct mock_setup {
    u64 caps;
    u32 max_vcpus;
    mock_script script;
    int fail_vm_create, fail_vcpu_create, fail_probe, fail_map; /* error codes to return */
    u32 maps;
    u64 mapped; /* bytes */
};

extern struct mock_setup mock; /* set before vm_create; tests have one machine at a time */
extern const struct engine_ops mock_engine_ops;

struct mock_vcpu *mock_of(struct engine_vcpu *vcpu);
/* Yields until attention is called for, then EXIT_KICK. */
int mock_idle(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit);

#endif
