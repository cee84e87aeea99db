/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM engine's table of operations. Interrupts are injected by the chips in the kernel. */
#include "engines/kvm/kvm.h"

#include <sys/ioctl.h>

#include "engines/kvm/priv.h"

static bool can_interrupt(struct engine_vcpu *ev) {
    return kvm_cpu_of(ev)->run->ready_for_interrupt_injection;
}

static void intr_window(struct engine_vcpu *ev, bool want) {
    (void)ev;
    (void)want;
}

static void inject_interrupt(struct engine_vcpu *ev, u8 vector) {
    (void)ev;
    (void)vector;
}

static void inject_nmi(struct engine_vcpu *ev) {
    ioctl(kvm_cpu_of(ev)->fd, KVM_NMI, 0);
}

static void stats(struct engine_vcpu *ev, struct engine_stats *out) {
    *out = kvm_cpu_of(ev)->stats;
}

const struct engine_ops kvm_engine_ops = {
    .name = "kvm",
    .probe = kvm_probe,
    .cpuid_limit = kvm_cpuid_limit,
    .vm_create = kvm_vm_create,
    .vm_destroy = kvm_vm_destroy,
    .ram_map = kvm_ram_map,
    .ram_unmap = kvm_ram_unmap,
    .dirty_log = kvm_dirty_log,
    .dirty_get = kvm_dirty_get,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .vcpu_bind = kvm_vcpu_bind,
    .run = kvm_vcpu_run,
    .kick = kvm_vcpu_kick,
    .state_get = kvm_state_get,
    .state_set = kvm_state_set,
    .tsc_get = kvm_tsc_get,
    .can_interrupt = can_interrupt,
    .intr_window = intr_window,
    .inject_interrupt = inject_interrupt,
    .inject_nmi = inject_nmi,
    .inject_exception = kvm_inject_exception,
    .debug_set = kvm_debug_set,
    .irq_line = kvm_irq_line,
    .msi = kvm_msi,
    .irqchip_get = kvm_irqchip_get,
    .irqchip_set = kvm_irqchip_set,
    .doorbell_add = kvm_doorbell_add,
    .doorbell_remove = kvm_doorbell_remove,
    .stats = stats,
};
