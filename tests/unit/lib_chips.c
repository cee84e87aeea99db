/* SPDX-License-Identifier: Apache-2.0 */
/* See lib_chips.h. */
#include "tests/unit/lib_chips.h"

#include <stdlib.h>
#include <string.h>

static struct chips *of_vm(struct engine_vm *vm) {
    return (struct chips *)(void *)vm;
}

static void kick(struct engine_vcpu *v) {
    __atomic_fetch_add(&of_vm(v->vm)->kicks[v->id], 1, __ATOMIC_RELAXED);
}

static u64 tsc_get(struct engine_vcpu *v) {
    struct chips *c = of_vm(v->vm);
    return muldiv_down(c->fake->now, c->vm.tsc_hz, NSEC_PER_SEC) + c->tsc_offset;
}

static int irq_line(struct engine_vm *vm, u32 gsi, bool level) {
    struct chips *c = of_vm(vm);
    c->line_calls++;
    c->last_gsi = gsi;
    c->last_level = level;
    return 0;
}

static int msi(struct engine_vm *vm, u64 address, u32 data) {
    struct chips *c = of_vm(vm);
    c->msi_calls++;
    c->last_address = address;
    c->last_data = data;
    return 0;
}

static int irqchip_state_get(struct engine_vm *vm, struct irqchip_state *state) {
    memset(state, 0, sizeof(*state));
    state->vcpu_count = vm->vcpu_count;
    return 0;
}

static int irqchip_state_set(struct engine_vm *vm, const struct irqchip_state *state) {
    return state->vcpu_count == vm->vcpu_count ? 0 : -ERR_FORMAT;
}

static const struct engine_ops engine = {
    .name = "mock",
    .kick = kick,
    .tsc_get = tsc_get,
    .irq_line = irq_line,
    .msi = msi,
    .irqchip_get = irqchip_state_get,
    .irqchip_set = irqchip_state_set,
};

static void request(void *machine, int what, int code) {
    struct chips *c = machine;
    c->request = what;
    c->request_code = code;
    c->requests++;
}

void chips_setup(struct chips *c, u32 vcpus, u64 engine_flags) {
    memset(c, 0, sizeof(*c));
    c->fake = fake_host_create();
    c->cpuid.phys_bits = 40;
    c->vm.ops = &engine;
    c->vm.host = &c->fake->host;
    c->vm.cpuid = &c->cpuid;
    c->vm.tsc_hz = 2000000000;
    c->vm.vcpu_count = vcpus;
    c->vm.vcpus = c->vcpus;
    for (u32 i = 0; i < vcpus; i++) {
        c->vcpu[i].vm = &c->vm;
        c->vcpu[i].id = i;
        c->vcpus[i] = &c->vcpu[i];
    }
    c->pio.limit = 0xffff;
    c->mmio.limit = UINT64_MAX;
    if (irqchip_create(&c->vm, engine_flags, &c->irq, NULL) < 0 ||
        irqchip_map(c->irq, &c->pio, &c->mmio) < 0) {
        abort();
    }
    c->env = (struct device_env){.host = &c->fake->host,
                                 .lock = &c->lock,
                                 .pio = &c->pio,
                                 .mmio = &c->mmio,
                                 .irq = c->irq,
                                 .request = request,
                                 .machine = c};
    for (u32 i = 0; i < vcpus; i++) {
        chips_attention(c, i);
    }
}

void chips_teardown(struct chips *c) {
    device_remove_all(&c->list);
    irqchip_destroy(c->irq);
    fake_host_destroy(c->fake);
}

void chips_out(struct chips *c, u16 port, u8 value) {
    mutex_lock(&c->fake->host, &c->lock);
    bus_write(&c->pio, port, 1, value);
    mutex_unlock(&c->fake->host, &c->lock);
}

u8 chips_in(struct chips *c, u16 port) {
    mutex_lock(&c->fake->host, &c->lock);
    u8 value = (u8)bus_read(&c->pio, port, 1);
    mutex_unlock(&c->fake->host, &c->lock);
    return value;
}

u32 chips_apic_read(struct chips *c, u32 vcpu, u32 reg) {
    return (u32)lapic_mmio_read(irqchip_lapic(c->irq, vcpu), reg * 16, 4);
}

void chips_apic_write(struct chips *c, u32 vcpu, u32 reg, u32 value) {
    lapic_mmio_write(irqchip_lapic(c->irq, vcpu), reg * 16, 4, value);
}

void chips_apic_enable(struct chips *c, u32 vcpu) {
    chips_apic_write(c, vcpu, LAPIC_SVR, 0x1ff);
}

void chips_ioapic_write(struct chips *c, u32 reg, u32 value) {
    mutex_lock(&c->fake->host, &c->lock);
    bus_write(&c->mmio, IOAPIC_BASE, 4, reg);
    bus_write(&c->mmio, IOAPIC_BASE + 0x10, 4, value);
    mutex_unlock(&c->fake->host, &c->lock);
}

u32 chips_ioapic_read(struct chips *c, u32 reg) {
    mutex_lock(&c->fake->host, &c->lock);
    bus_write(&c->mmio, IOAPIC_BASE, 4, reg);
    u32 value = (u32)bus_read(&c->mmio, IOAPIC_BASE + 0x10, 4);
    mutex_unlock(&c->fake->host, &c->lock);
    return value;
}

void chips_ioapic_pin(struct chips *c, u32 pin, u64 entry) {
    chips_ioapic_write(c, 0x11 + 2 * pin, (u32)(entry >> 32));
    chips_ioapic_write(c, 0x10 + 2 * pin, (u32)entry);
}

u32 chips_attention(struct chips *c, u32 vcpu) {
    return __atomic_exchange_n(&c->vcpu[vcpu].attention, 0, __ATOMIC_SEQ_CST);
}

size_t chips_save(struct chips *c, u8 *buf, size_t cap) {
    struct snap_writer w = {.buf = buf, .cap = cap};
    mutex_lock(&c->fake->host, &c->lock);
    int rc = irqchip_save(c->irq, &w);
    device_save_all(&c->list, &w);
    mutex_unlock(&c->fake->host, &c->lock);
    if (rc < 0 || w.failed) {
        abort();
    }
    return w.len;
}

int chips_load(struct chips *c, const u8 *buf, size_t len) {
    struct snap_reader r = {.buf = buf, .len = len};
    mutex_lock(&c->fake->host, &c->lock);
    int rc = irqchip_load(c->irq, &r);
    rc = rc ? rc : device_load_all(&c->list, &r);
    mutex_unlock(&c->fake->host, &c->lock);
    return rc ? rc : snap_finish(&r);
}

u64 chips_random(u64 *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
