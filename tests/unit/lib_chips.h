/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine without processors for the tests of chips and devices: the fake host, an engine that
 * only counts what it is told, interrupt chips on two buses, and an empty device list.
 */
#ifndef TESTS_UNIT_LIB_CHIPS_H
#define TESTS_UNIT_LIB_CHIPS_H

#include "core/cpu/cpuid.h"
#include "core/dev/device.h"
#include "core/irq/irqchip.h"
#include "hosts/fake/fake.h"

enum { CHIPS_VCPUS = 4 };

struct chips {
    struct engine_vm vm; /* first: the engine's functions find the rest from it */
    struct fake_host *fake;
    struct engine_vcpu vcpu[CHIPS_VCPUS];
    struct engine_vcpu *vcpus[CHIPS_VCPUS];
    struct cpuid_policy cpuid;
    struct irqchip *irq;
    struct bus pio, mmio;
    struct mutex lock;
    struct device_env env;
    struct device_list list;
    u32 kicks[CHIPS_VCPUS];
    u64 tsc_offset;
    void *user;                          /* the test's own */
    int request, request_code, requests; /* last one, and how many */
    /* What an engine with its own chips was told. */
    u32 line_calls, last_gsi, msi_calls, last_data;
    bool last_level;
    u64 last_address;
};

/* The caller's structure may be on the stack. */
void chips_setup(struct chips *c, u32 vcpus, u64 engine_flags);
void chips_teardown(struct chips *c);

void chips_out(struct chips *c, u16 port, u8 value);
u8 chips_in(struct chips *c, u16 port);

/* The local APIC page of a processor, by register index. */
u32 chips_apic_read(struct chips *c, u32 vcpu, u32 reg);
void chips_apic_write(struct chips *c, u32 vcpu, u32 reg, u32 value);
/* Software enable with spurious vector 0xff. */
void chips_apic_enable(struct chips *c, u32 vcpu);
void chips_ioapic_write(struct chips *c, u32 reg, u32 value);
u32 chips_ioapic_read(struct chips *c, u32 reg);
/* Redirection entry of a pin. */
void chips_ioapic_pin(struct chips *c, u32 pin, u64 entry);

/* Attention bits of a processor, cleared by the call. */
u32 chips_attention(struct chips *c, u32 vcpu);

/* Saves the device list into buf (capacity cap); returns the length. */
size_t chips_save(struct chips *c, u8 *buf, size_t cap);
int chips_load(struct chips *c, const u8 *buf, size_t len);

u64 chips_random(u64 *state);

#endif
