/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine may ask of the machine while a guest instruction executes. Direct calls, defined
 * in core/vm/callout.c; they take the locks they need and run on the vCPU's thread.
 */
#ifndef CORE_IF_CALLOUT_H
#define CORE_IF_CALLOUT_H

#include "core/if/engine.h"

/* Port I/O, size 1, 2 or 4. Nothing there: reads give all ones, writes vanish. */
u32 callout_pio_read(struct engine_vcpu *vcpu, u16 port, u32 size);
void callout_pio_write(struct engine_vcpu *vcpu, u16 port, u32 size, u32 value);

/* Memory that is not RAM (the caller has checked), size 1..8; the local APIC page included. */
u64 callout_mmio_read(struct engine_vcpu *vcpu, u64 gpa, u32 size);
void callout_mmio_write(struct engine_vcpu *vcpu, u64 gpa, u32 size, u64 value);

/*
 * MSRs that belong to the machine rather than to the processor core: IA32_APIC_BASE, the x2APIC
 * range 0x800-0x8ff, IA32_TSC_DEADLINE, and those of core/cpu/msr.h that need no engine.
 * Return 0, or -ERR_INVAL: the engine raises #GP(0).
 */
int callout_rdmsr(struct engine_vcpu *vcpu, u32 index, u64 *value);
int callout_wrmsr(struct engine_vcpu *vcpu, u32 index, u64 value);

/* CR8 is the local APIC's task priority, value 0..15. */
u64 callout_cr8_read(struct engine_vcpu *vcpu);
void callout_cr8_write(struct engine_vcpu *vcpu, u64 value);

/* The guest has written its TSC or IA32_TSC_ADJUST (tsc_get tells the new value already): a TSC
 * deadline falls due at another time. */
void callout_tsc_changed(struct engine_vcpu *vcpu);

#endif
