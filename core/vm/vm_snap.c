/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving and loading a machine but for its memory:
 *
 *   MACH { vCPU count u32, memory bytes u64, TSC Hz u64, cpu_state per vCPU, interrupt chips,
 *          devices }
 *
 * TSCs: the states are read one after the other. A vCPU whose TSC agrees with the first one's (as
 * all do unless the guest moved one) is saved with the first one's value, so that they agree after
 * loading too.
 */
#include "core/irq/irqchip.h"
#include "core/vm/vm.h"

enum { MACHINE_VERSION = 1 };

#define MACHINE_TAG SNAP_TAG('M', 'A', 'C', 'H')

static u64 distance(u64 a, u64 b) {
    return (s64)(a - b) < 0 ? b - a : a - b;
}

static int save_vcpus(struct vm *vm, struct snap_writer *w) {
    u64 tsc = 0, near = vm->engine.tsc_hz / 1000; /* a millisecond */
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct cpu_state s;
        int rc = vcpu_state_get(&vm->vcpus[i], STATE_ALL, &s);
        if (rc) {
            return rc;
        }
        u64 first_now = vm->engine.ops->tsc_get(&vm->vcpus[0].engine);
        if (i == 0) {
            tsc = s.msr.tsc;
        } else if (distance(s.msr.tsc, first_now) < near) {
            s.msr.tsc = tsc;
        }
        cpu_state_save(&s, w);
    }
    return 0;
}

void vm_freeze(struct vm *vm) {
    vm_pause(vm);
    if (vm->freeze_count++ == 0) {
        device_pause_all(&vm->devices);
    }
}

void vm_thaw(struct vm *vm) {
    if (vm->freeze_count && --vm->freeze_count == 0) {
        device_resume_all(&vm->devices);
    }
    vm_resume(vm);
}

int vm_save(struct vm *vm, struct snap_writer *w) {
    vm_freeze(vm);
    size_t begin = snap_begin(w, MACHINE_TAG, MACHINE_VERSION);
    snap_put32(w, vm->vcpu_count);
    snap_put64(w, vm->backing.size);
    snap_put64(w, vm->engine.tsc_hz);
    int rc = save_vcpus(vm, w);
    rc = rc ? rc : irqchip_save(vm->irq, w);
    mutex_lock(vm->host, &vm->lock);
    device_save_all(&vm->devices, w);
    mutex_unlock(vm->host, &vm->lock);
    snap_end(w, begin);
    vm_thaw(vm);
    return rc ? rc : w->failed ? -ERR_RANGE : 0;
}

static int load_vcpus(struct vm *vm, struct snap_reader *r, struct err *err) {
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct cpu_state s;
        int rc = cpu_state_load(&s, r);
        rc = rc ? rc : vcpu_state_set(&vm->vcpus[i], STATE_ALL, &s);
        if (rc) {
            return ERR_SET(err, ERR_FORMAT, "saved state: processor %u is damaged: %s", i,
                           err_name(rc));
        }
    }
    return 0;
}

static int load_body(struct vm *vm, struct snap_reader *r, struct err *err) {
    u32 vcpus = snap_get32(r);
    u64 memory = snap_get64(r);
    snap_get64(r); /* the TSC frequency: for a person who looks, and for scaling later */
    if (r->failed || vcpus != vm->vcpu_count || memory != vm->backing.size) {
        return ERR_SET(err, ERR_FORMAT,
                       "saved state: made with %u processors and %llu MiB, this machine has %u and "
                       "%llu MiB",
                       vcpus, (unsigned long long)(memory / MIB), vm->vcpu_count,
                       (unsigned long long)(vm->backing.size / MIB));
    }
    int rc = load_vcpus(vm, r, err);
    if (rc) {
        return rc;
    }
    if (irqchip_load(vm->irq, r)) {
        return ERR_SET(err, ERR_FORMAT, "saved state: the interrupt chips are damaged");
    }
    mutex_lock(vm->host, &vm->lock);
    rc = device_load_all(&vm->devices, r);
    mutex_unlock(vm->host, &vm->lock);
    if (rc || snap_finish(r)) {
        return ERR_SET(err, ERR_FORMAT,
                       "saved state: a device is damaged, or the machines have different devices");
    }
    return 0;
}

static void reset_all(struct vm *vm) {
    vm_reset_vcpus(vm);
    irqchip_reset(vm->irq);
    mutex_lock(vm->host, &vm->lock);
    device_reset_all(&vm->devices);
    mutex_unlock(vm->host, &vm->lock);
}

int vm_load(struct vm *vm, struct snap_reader *r, struct err *err) {
    struct snap_reader body;
    vm_freeze(vm);
    int rc = snap_section(r, MACHINE_TAG, MACHINE_VERSION, &body)
                 ? load_body(vm, &body, err)
                 : ERR_SET(err, ERR_FORMAT, "saved state: this is no saved machine");
    if (rc) {
        reset_all(vm);
    }
    vm_thaw(vm);
    return rc;
}
