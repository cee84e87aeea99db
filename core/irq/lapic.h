/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC of one processor: xAPIC page and x2APIC MSRs, timer, local vector table,
 * interrupts on their way to the core. Intel SDM volume 3, chapter 11 (APIC).
 *
 * Left out: SMI delivery (ignored), CMCI, the arbitration register of the APIC bus.
 *
 * Lock rule: each local APIC has its own lock, below the lock of the interrupt chips (irqchip.h),
 * never two at a time. All functions here take what they need and may be called with the board lock
 * held or not, on any thread; lapic_mmio_write, lapic_msr_write and lapic_cr8_set act for the
 * processor itself, on its own thread.
 */
#ifndef CORE_IRQ_LAPIC_H
#define CORE_IRQ_LAPIC_H

#include "core/if/engine.h"
#include "core/if/irqchip.h"
#include "core/if/mutex.h"
#include "core/time/vtimer.h"

struct irqchip;

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_PAGE_SIZE    0x1000u
/* The clock of the timer before its divider, as in KVM: what CPUID leaf 0x40000010 must say. */
#define LAPIC_BUS_HZ 1000000000ull

#define APIC_BASE_BSP  BIT(8)
#define APIC_BASE_EXTD BIT(10) /* x2APIC mode */
#define APIC_BASE_EN   BIT(11)

/* Indexes into lapic_state.regs: page offset / 16, MSR 0x800 + index (SDM table 11-1, 11-6). */
enum lapic_reg {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_RRD = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10,
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_LVT_CMCI = 0x2f, /* not present */
    LAPIC_ICR = 0x30,
    LAPIC_ICR_HIGH = 0x31,
    LAPIC_LVT_TIMER = 0x32,
    LAPIC_LVT_THERMAL = 0x33,
    LAPIC_LVT_PERF = 0x34,
    LAPIC_LVT_LINT0 = 0x35,
    LAPIC_LVT_LINT1 = 0x36,
    LAPIC_LVT_ERROR = 0x37,
    LAPIC_TIMER_INITIAL = 0x38,
    LAPIC_TIMER_CURRENT = 0x39,
    LAPIC_TIMER_DIVIDE = 0x3e,
    LAPIC_SELF_IPI = 0x3f,
};

enum apic_delivery {
    DELIVERY_FIXED = 0,
    DELIVERY_LOWEST = 1,
    DELIVERY_SMI = 2,
    DELIVERY_NMI = 4,
    DELIVERY_INIT = 5,
    DELIVERY_SIPI = 6,
    DELIVERY_EXTINT = 7,
};

/* An interrupt message: from an ICR, an IOAPIC pin or an MSI. */
struct apic_msg {
    u32 dest;
    bool logical;
    bool dest32; /* dest is an x2APIC destination of 32 bits; else 8 bits, 0xff is everybody */
    bool level;  /* trigger mode */
    u8 delivery; /* enum apic_delivery */
    u8 vector;
};

struct lapic {
    struct mutex lock;
    struct irqchip *chip;
    struct engine_vcpu *ev;
    struct vtimer timer;

    u32 regs[64];
    u64 apic_base;
    u64 tsc_deadline;
    u64 timer_start_ns; /* when the running count was loaded; 0: stopped */
    u8 esr_pending;     /* errors since the last write to ESR */
    u8 sipi_vector;     /* of the last SIPI that arrived */
    bool extint;        /* an ExtINT message waits: the vector comes from the PIC */
    bool lint[2];       /* levels of LINT0 (the PIC's INTR) and LINT1 (NMI) */
};

int lapic_init(struct lapic *l, struct irqchip *chip, struct engine_vcpu *ev);
void lapic_fini(struct lapic *l);

/* Power-up state; with init, what the INIT signal leaves: APIC ID and IA32_APIC_BASE stay. */
void lapic_reset(struct lapic *l, bool init);

/* Does this guest-physical address reach the APIC page of this processor now? */
bool lapic_mmio_hit(struct lapic *l, u64 gpa);
/* offset within the page; size 1..8. */
u64 lapic_mmio_read(struct lapic *l, u32 offset, u32 size);
void lapic_mmio_write(struct lapic *l, u32 offset, u32 size, u64 value);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800..0x8ff. 0, or -ERR_INVAL: #GP(0). */
int lapic_msr_read(struct lapic *l, u32 index, u64 *value);
int lapic_msr_write(struct lapic *l, u32 index, u64 value);

u64 lapic_cr8_get(struct lapic *l);
void lapic_cr8_set(struct lapic *l, u64 value);

/* The highest vector that may be delivered now (above the processor priority), or -1. */
int lapic_pending(struct lapic *l);
/* Takes it: IRR to ISR. -1 when there is none. */
int lapic_accept(struct lapic *l);

bool lapic_match(struct lapic *l, const struct apic_msg *msg);
/* Priority for lowest-priority delivery: the PPR, or -1 when it takes no such interrupts now. */
int lapic_priority(struct lapic *l);
/* Delivers to this one, whatever msg->dest says. */
void lapic_deliver(struct lapic *l, const struct apic_msg *msg);

/* Level of LINT0 or LINT1. */
void lapic_lint_set(struct lapic *l, u32 pin, bool level);
/* The same after a state was loaded: no edge, what one did is in the state. */
void lapic_lint_restore(struct lapic *l, u32 pin, bool level);
/* Does it pass the PIC's INTR on: APIC off (the first processor only), LINT0 as ExtINT, or an
 * ExtINT message? */
bool lapic_takes_extint(struct lapic *l);
/* The ExtINT message, if there was one, has been served. */
void lapic_extint_done(struct lapic *l);

u8 lapic_sipi_vector(struct lapic *l);

/* After the guest's TSC was written: the deadline now falls due at another time. */
void lapic_tsc_changed(struct lapic *l);

void lapic_get(struct lapic *l, struct lapic_state *state);
/* -ERR_FORMAT when it is no state a local APIC can be in; nothing changed then. */
int lapic_set(struct lapic *l, const struct lapic_state *state);

#endif
