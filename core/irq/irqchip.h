/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interrupt chips of the machine: one local APIC per processor, the IOAPIC, the PIC pair and
 * the PIT, or, with ENGINE_CAP_IRQCHIP, the engine's own behind the same functions. Devices use
 * irq.h.
 *
 *   device -- irq_set(gsi) --+--> PIC (gsi 0..15) -- INTR/LINT0 --> local APIC --> irqchip_accept
 *                            +--> IOAPIC (gsi 0 at pin 2) --message--> local APICs
 *   device -- irq_msi --------------------------------- message -----> local APICs
 *   PIT channel 0 -- GSI 0
 *
 * Attention: local APICs announce with vcpu_attend: ATTN_INTERRUPT (ask irqchip_pending), ATTN_NMI,
 * ATTN_INIT (call irqchip_init_vcpu, wait for SIPI), ATTN_SIPI (irqchip_sipi_vector).
 *
 * Lock rule: `lock` covers PIC and IOAPIC; it lies below the board lock and devices' locks and
 * above the local APICs' locks. Every function here and in irq.h takes it itself, so callers may
 * hold the board lock or nothing.
 */
#ifndef CORE_IRQ_IRQCHIP_H
#define CORE_IRQ_IRQCHIP_H

#include "core/base/err.h"
#include "core/base/snap.h"
#include "core/if/engine.h"
#include "core/if/irqchip.h"
#include "core/if/mutex.h"
#include "core/irq/ioapic.h"
#include "core/irq/irq.h"
#include "core/irq/lapic.h"
#include "core/irq/pic.h"
#include "core/mem/bus.h"
#include "core/time/pit.h"

enum { IRQCHIP_REGIONS = 6 };

struct irqchip {
    struct mutex lock;
    struct engine_vm *vm;
    struct host *host;
    bool in_engine;
    bool directed_eoi; /* offered in the local APIC version; the IOAPIC has an EOI register then */
    u32 count;
    struct lapic *lapic;   /* count of them; NULL when in_engine */
    u32 next_lowest;       /* where the search for the lowest priority starts, atomic */
    u32 lines;             /* levels last set, by GSI, */
    u32 lines_known;       /* and which of them still hold after a load or reset; atomic, both */
    u8 drivers[ISA_LINES]; /* of an ISA line: who drives it high, by bit; board lock */
    struct ioapic ioapic;
    struct pic pic;
    struct pit pit;
    struct bus *pio, *mmio; /* NULL: not mapped */
    struct bus_region region[IRQCHIP_REGIONS];
};

/*
 * vm->vcpu_count, vm->vcpus, vm->host and vm->tsc_hz must be set; engine_flags are ENGINE_CAP_*.
 * Leaves the chips in reset state. 0, or a negative code with err filled.
 */
int irqchip_create(struct engine_vm *vm, u64 engine_flags, struct irqchip **out, struct err *err);
void irqchip_destroy(struct irqchip *chip);

/* Puts PIC, ELCR, IOAPIC, PIT and port 0x61 on the buses (nothing when the engine has them). Board
 * lock held or machine not running. The local APIC page is not on the bus: see lapic_mmio_hit. */
int irqchip_map(struct irqchip *chip, struct bus *pio, struct bus *mmio);

/* Machine reset. */
void irqchip_reset(struct irqchip *chip);
/* INIT of one processor. */
void irqchip_init_vcpu(struct irqchip *chip, u32 vcpu_id);

/* The local APIC of a processor, or NULL when the engine has them. */
struct lapic *irqchip_lapic(struct irqchip *chip, u32 vcpu_id);

/* --- without ENGINE_CAP_IRQCHIP; on the vCPU's thread ------------------------------------------
 */

/* Is there an interrupt to inject: from the local APIC, or the PIC's through it? */
bool irqchip_pending(struct irqchip *chip, u32 vcpu_id);
/* Acknowledges it: the vector, or -1 when there is none any more. The local APIC goes first. */
int irqchip_accept(struct irqchip *chip, u32 vcpu_id);
/* The page number (0..255) that the last SIPI to this processor named. */
u8 irqchip_sipi_vector(struct irqchip *chip, u32 vcpu_id);
/* Delivers a message to all that it addresses. Any thread, no local APIC's lock. */
void irqchip_route(struct irqchip *chip, const struct apic_msg *msg);
/* Used by local APICs: end of a level-triggered interrupt. */
void irqchip_eoi(struct irqchip *chip, u8 vector);

/* An NMI from outside: LINT1 of every processor. -ERR_UNSUPPORTED when the engine has the chips. */
int irqchip_nmi(struct irqchip *chip);

/* --- state ---------------------------------------------------------------------------------------
 */

/* Machine paused (or not started). In a saved stream times are relative, so that it can be loaded
 * at another time and on another host. Load guest TSCs before: a TSC deadline counts from them. */
int irqchip_get(struct irqchip *chip, struct irqchip_state *state);
int irqchip_set(struct irqchip *chip, const struct irqchip_state *state);
int irqchip_save(struct irqchip *chip, struct snap_writer *w);
int irqchip_load(struct irqchip *chip, struct snap_reader *r);

#endif
