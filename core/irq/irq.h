/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where devices send interrupts: numbered lines (GSIs) and message-signalled interrupts. Behind it
 * stand either the models of core/irq or the engine's own chips; devices cannot tell.
 *
 * GSI 0..15 are the ISA interrupts (the PIT's GSI 0 arrives at pin 2 of the IOAPIC), of which 10
 * and 11 are the PCI lines; 16..23 are free for virtio windows.
 */
#ifndef CORE_IRQ_IRQ_H
#define CORE_IRQ_IRQ_H

#include "core/base/types.h"

struct irqchip; /* core/irq/irqchip.h */

/* Level of an input. Edges are made by raising and lowering. Board lock held. */
void irq_set(struct irqchip *chip, u32 gsi, bool level);

enum { ISA_LINES = 16 };

/* As irq_set for an ISA line that several devices drive (COM1 and COM3): it is high while one of
 * them, numbered 0..7 by driver, holds it so. Board lock held. */
void irq_set_shared(struct irqchip *chip, u32 gsi, u32 driver, bool level);

/* A raise and a lower: an edge. */
void irq_pulse(struct irqchip *chip, u32 gsi);

/* Address and data as in SDM vol. 3, section 11.11. Any thread, any lock. */
void irq_msi(struct irqchip *chip, u64 address, u32 data);

#endif
