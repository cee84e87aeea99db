/* SPDX-License-Identifier: Apache-2.0 */
/* See lib_mock.h. */
#include "tests/unit/lib_mock.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem/ram.h"

struct mock_setup mock;

struct mock_vcpu *mock_of(struct engine_vcpu *vcpu) {
    return vcpu->priv;
}

static int probe(struct host *host, struct engine_caps *caps, struct err *err) {
    (void)host;
    if (mock.fail_probe) {
        return ERR_SET(err, ERR_UNSUPPORTED, "the mock engine was told to fail");
    }
    *caps = (struct engine_caps){.flags = mock.caps, .max_vcpus = mock.max_vcpus};
    return 0;
}

static int vm_create_op(struct engine_vm *vm, struct err *err) {
    (void)vm;
    (void)err;
    mock.maps = 0;
    mock.mapped = 0;
    return mock.fail_vm_create;
}

static void vm_destroy_op(struct engine_vm *vm) {
    (void)vm;
}

static int ram_map(struct engine_vm *vm, u64 gpa, u64 size, void *hva, u32 flags) {
    (void)flags;
    if (mock.fail_map || ram_ptr(vm->ram, gpa, size) != hva) {
        return mock.fail_map ? mock.fail_map : -ERR_INVAL;
    }
    mock.maps++;
    mock.mapped += size;
    return 0;
}

static int ram_unmap(struct engine_vm *vm, u64 gpa, u64 size) {
    (void)vm;
    (void)gpa;
    (void)size;
    return 0;
}

static int vcpu_create(struct engine_vcpu *vcpu, struct err *err) {
    (void)err;
    if (mock.fail_vcpu_create && vcpu->id) {
        return mock.fail_vcpu_create;
    }
    struct mock_vcpu *m = aligned_alloc(64, ALIGN_UP(sizeof(*m), 64));
    if (!m) {
        abort();
    }
    memset(m, 0, sizeof(*m));
    vcpu->priv = m;
    return 0;
}

static void vcpu_destroy(struct engine_vcpu *vcpu) {
    free(vcpu->priv);
}

static int vcpu_bind(struct engine_vcpu *vcpu) {
    mock_of(vcpu)->binds++;
    return 0;
}

int mock_idle(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    (void)m;
    while (!__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST)) {
        sched_yield();
    }
    exit->kind = EXIT_KICK;
    return 0;
}

static int run(struct engine_vcpu *vcpu, struct vm_exit *exit) {
    struct mock_vcpu *m = mock_of(vcpu);
    MOCK_BUMP(m->runs);
    if (__atomic_load_n(&vcpu->attention, __ATOMIC_SEQ_CST)) {
        exit->kind = EXIT_KICK;
        return 0;
    }
    return mock.script ? mock.script(vcpu, m, exit) : mock_idle(vcpu, m, exit);
}

static void kick(struct engine_vcpu *vcpu) {
    __atomic_fetch_add(&mock_of(vcpu)->kicks, 1, __ATOMIC_SEQ_CST);
}

static int state_get(struct engine_vcpu *vcpu, u64 mask, struct cpu_state *state) {
    (void)mask;
    *state = mock_of(vcpu)->s;
    return 0;
}

static int state_set(struct engine_vcpu *vcpu, u64 mask, const struct cpu_state *state) {
    struct mock_vcpu *m = mock_of(vcpu);
    int rc = cpu_state_check(state, mask);
    if (rc) {
        return rc;
    }
    struct cpu_state old = m->s;
    m->s = *state;
    if (!(mask & STATE_XSAVE)) {
        memcpy(m->s.xsave, old.xsave, sizeof(old.xsave));
        m->s.xcr0 = old.xcr0;
    }
    if (!(mask & STATE_MSR)) {
        u64 efer = m->s.msr.efer;
        m->s.msr = old.msr;
        m->s.msr.efer = efer;
    }
    return 0;
}

static u64 tsc_get(struct engine_vcpu *vcpu) {
    return mock_of(vcpu)->s.msr.tsc;
}

static bool can_interrupt(struct engine_vcpu *vcpu) {
    struct mock_vcpu *m = mock_of(vcpu);
    return !m->blocked && (m->s.rflags & FLAG_IF);
}

static void intr_window(struct engine_vcpu *vcpu, bool want) {
    struct mock_vcpu *m = mock_of(vcpu);
    m->windows += want;
    m->window = want;
}

static void inject_interrupt(struct engine_vcpu *vcpu, u8 vector) {
    struct mock_vcpu *m = mock_of(vcpu);
    if (m->injected_count < MOCK_MAX) {
        m->injected[m->injected_count] = vector;
        MOCK_BUMP(m->injected_count);
    }
}

static void inject_nmi(struct engine_vcpu *vcpu) {
    MOCK_BUMP(mock_of(vcpu)->nmis);
}

static int inject_exception(struct engine_vcpu *vcpu, u8 vector, bool has_error, u32 error) {
    struct mock_vcpu *m = mock_of(vcpu);
    (void)has_error;
    (void)error;
    if (m->exception_count < MOCK_MAX) {
        m->exceptions[m->exception_count] = vector;
        MOCK_BUMP(m->exception_count);
    }
    return 0;
}

static int debug_set(struct engine_vcpu *vcpu, const struct engine_debug *debug) {
    mock_of(vcpu)->debug = *debug;
    return 0;
}

static void stats(struct engine_vcpu *vcpu, struct engine_stats *out) {
    (void)vcpu;
    *out = (struct engine_stats){0};
}

const struct engine_ops mock_engine_ops = {
    .name = "mock",
    .probe = probe,
    .vm_create = vm_create_op,
    .vm_destroy = vm_destroy_op,
    .ram_map = ram_map,
    .ram_unmap = ram_unmap,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_bind = vcpu_bind,
    .run = run,
    .kick = kick,
    .state_get = state_get,
    .state_set = state_set,
    .tsc_get = tsc_get,
    .can_interrupt = can_interrupt,
    .intr_window = intr_window,
    .inject_interrupt = inject_interrupt,
    .inject_nmi = inject_nmi,
    .inject_exception = inject_exception,
    .debug_set = debug_set,
    .stats = stats,
};
