/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest instruction asks of the machine; see core/if/callout.h. Ports and registers in
 * memory go to the buses under the board lock; the local APIC has its own and is reached without.
 */
#include "core/if/callout.h"

#include "core/irq/irqchip.h"
#include "core/vm/vm.h"

enum {
    MSR_APIC_BASE = 0x1b,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
};

u32 callout_pio_read(struct engine_vcpu *vcpu, u16 port, u32 size) {
    struct vm *vm = vm_of(vcpu->vm);
    mutex_lock(vm->host, &vm->lock);
    u32 value = (u32)bus_read(&vm->pio, port, size);
    mutex_unlock(vm->host, &vm->lock);
    TRACE(&vm->trace, TRACE_PIO, "vcpu %u: in  0x%04x size %u = 0x%x", vcpu->id, port, size, value);
    return value;
}

void callout_pio_write(struct engine_vcpu *vcpu, u16 port, u32 size, u32 value) {
    struct vm *vm = vm_of(vcpu->vm);
    TRACE(&vm->trace, TRACE_PIO, "vcpu %u: out 0x%04x size %u = 0x%x", vcpu->id, port, size, value);
    mutex_lock(vm->host, &vm->lock);
    bus_write(&vm->pio, port, size, value);
    mutex_unlock(vm->host, &vm->lock);
}

u64 callout_mmio_read(struct engine_vcpu *vcpu, u64 gpa, u32 size) {
    struct vm *vm = vm_of(vcpu->vm);
    struct lapic *lapic = irqchip_lapic(vm->irq, vcpu->id);
    u64 value;
    if (lapic && lapic_mmio_hit(lapic, gpa)) {
        value = lapic_mmio_read(lapic, (u32)(gpa & PAGE_MASK), size);
    } else {
        mutex_lock(vm->host, &vm->lock);
        value = bus_read(&vm->mmio, gpa, size);
        mutex_unlock(vm->host, &vm->lock);
    }
    TRACE(&vm->trace, TRACE_MMIO, "vcpu %u: read  0x%llx size %u = 0x%llx", vcpu->id,
          (unsigned long long)gpa, size, (unsigned long long)value);
    return value;
}

void callout_mmio_write(struct engine_vcpu *vcpu, u64 gpa, u32 size, u64 value) {
    struct vm *vm = vm_of(vcpu->vm);
    struct lapic *lapic = irqchip_lapic(vm->irq, vcpu->id);
    TRACE(&vm->trace, TRACE_MMIO, "vcpu %u: write 0x%llx size %u = 0x%llx", vcpu->id,
          (unsigned long long)gpa, size, (unsigned long long)value);
    if (lapic && lapic_mmio_hit(lapic, gpa)) {
        lapic_mmio_write(lapic, (u32)(gpa & PAGE_MASK), size, value);
        return;
    }
    mutex_lock(vm->host, &vm->lock);
    bus_write(&vm->mmio, gpa, size, value);
    mutex_unlock(vm->host, &vm->lock);
}

static bool apic_msr(u32 index) {
    return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
           (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

int callout_rdmsr(struct engine_vcpu *vcpu, u32 index, u64 *value) {
    struct vm *vm = vm_of(vcpu->vm);
    struct lapic *lapic = irqchip_lapic(vm->irq, vcpu->id);
    *value = 0;
    int rc = lapic && apic_msr(index) ? lapic_msr_read(lapic, index, value) : -ERR_INVAL;
    TRACE(&vm->trace, TRACE_MSR, "vcpu %u: rdmsr 0x%x = 0x%llx%s", vcpu->id, index,
          (unsigned long long)*value, rc ? " (#GP)" : "");
    return rc;
}

int callout_wrmsr(struct engine_vcpu *vcpu, u32 index, u64 value) {
    struct vm *vm = vm_of(vcpu->vm);
    struct lapic *lapic = irqchip_lapic(vm->irq, vcpu->id);
    int rc = lapic && apic_msr(index) ? lapic_msr_write(lapic, index, value) : -ERR_INVAL;
    TRACE(&vm->trace, TRACE_MSR, "vcpu %u: wrmsr 0x%x = 0x%llx%s", vcpu->id, index,
          (unsigned long long)value, rc ? " (#GP)" : "");
    return rc;
}

u64 callout_cr8_read(struct engine_vcpu *vcpu) {
    struct lapic *lapic = irqchip_lapic(vm_of(vcpu->vm)->irq, vcpu->id);
    return lapic ? lapic_cr8_get(lapic) : 0;
}

void callout_cr8_write(struct engine_vcpu *vcpu, u64 value) {
    struct lapic *lapic = irqchip_lapic(vm_of(vcpu->vm)->irq, vcpu->id);
    if (lapic) {
        lapic_cr8_set(lapic, value);
    }
}

void callout_tsc_changed(struct engine_vcpu *vcpu) {
    struct lapic *lapic = irqchip_lapic(vm_of(vcpu->vm)->irq, vcpu->id);
    if (lapic) {
        lapic_tsc_changed(lapic);
    }
}
