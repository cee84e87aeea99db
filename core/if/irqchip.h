/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of the interrupt chips and the PIT as plain structures: what the models in core/irq and
 * core/time save, and what an engine with its own chips (KVM) converts to and from.
 */
#ifndef CORE_IF_IRQCHIP_H
#define CORE_IF_IRQCHIP_H

#include "core/base/types.h"

enum { IRQCHIP_MAX_VCPUS = 64, IOAPIC_PINS = 24 };

/*
 * Registers by offset / 16 as in the APIC page (SDM vol. 3, table 11-1): regs[0x2] is the ID, in
 * x2APIC mode all 32 bits of it, unshifted (as KVM_X2APIC_API_USE_32BIT_IDS). The current count
 * follows from timer_start_ns.
 */
struct lapic_state {
    u32 regs[64];
    u64 apic_base;      /* IA32_APIC_BASE */
    u64 tsc_deadline;   /* 0: not armed */
    u64 timer_start_ns; /* host clock when the running count was loaded; 0: stopped */
    u8 esr_pending;     /* errors since ESR was last written; they show with the next write */
    u8 sipi_vector;
    bool extint; /* an ExtINT message waits for the processor */
};

struct ioapic_state {
    u64 redirect[IOAPIC_PINS];
    u32 id;
    u32 select; /* IOREGSEL */
    u32 irr;    /* pins with a level or edge not yet accepted */
    u32 lines;  /* present level of the inputs */
};

struct pic_state { /* one 8259A; index 0 master, 1 slave */
    u8 irr, isr, imr;
    u8 lines;       /* present level of the inputs */
    u8 vector_base; /* ICW2 */
    u8 elcr, elcr_mask;
    u8 priority_add;
    u8 init_state; /* 0 none, 1..3: the next ICW expected is ICW2..ICW4 */
    bool init4, auto_eoi, rotate_on_auto_eoi, special_mask, special_fully_nested;
    bool read_isr, poll;
};

struct pit_channel_state {
    u32 count; /* 1..65536 */
    u16 latched_count;
    u8 count_latched, status_latched, status, read_state, write_state, write_latch;
    u8 rw_mode, mode;
    bool bcd, gate;
    u64 load_ns; /* host clock when count was loaded */
};

struct pit_state {
    struct pit_channel_state channel[3];
    bool speaker_data; /* port 0x61 bit 1 */
};

struct irqchip_state {
    u32 vcpu_count;
    struct lapic_state lapic[IRQCHIP_MAX_VCPUS];
    struct ioapic_state ioapic;
    struct pic_state pic[2];
    struct pit_state pit;
};

#endif
