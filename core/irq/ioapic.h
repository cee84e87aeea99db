/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O APIC: 24 inputs, each with an entry that says where its interrupt goes. Intel 82093AA
 * data sheet; the pins' meaning is in core/irq/irq.h.
 *
 *   pin level --> IRR --(unmasked, and for level: no remote IRR)--> message to local APICs
 *                  ^                                                    | remote IRR set
 *                  +--------- still asserted? <------------------- EOI of the vector
 *
 * irq_set gives levels as "asserted" or not, so the polarity bit is kept but has no effect (KVM
 * does the same). Version 0x11, the one without an EOI register, unless the chip has directed EOI.
 *
 * Lock rule: the lock of the interrupt chips is held for every call; messages go out under it.
 */
#ifndef CORE_IRQ_IOAPIC_H
#define CORE_IRQ_IOAPIC_H

#include "core/if/irqchip.h"

struct irqchip;

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x1000ull /* the registers lie in the first 256 bytes */

#define IOAPIC_VECTOR          0xffull
#define IOAPIC_DELIVERY_SHIFT  8
#define IOAPIC_DELIVERY        0x700ull
#define IOAPIC_LOGICAL         BIT(11)
#define IOAPIC_DELIVERY_STATUS BIT(12)
#define IOAPIC_POLARITY        BIT(13)
#define IOAPIC_REMOTE_IRR      BIT(14)
#define IOAPIC_LEVEL           BIT(15)
#define IOAPIC_MASKED          BIT(16)
#define IOAPIC_DEST_SHIFT      56

struct ioapic {
    struct irqchip *chip;
    struct ioapic_state s;
    bool has_eoi; /* version 0x20 with the EOI register */
};

void ioapic_init(struct ioapic *io, struct irqchip *chip, bool has_eoi);
void ioapic_reset(struct ioapic *io);
u32 ioapic_read(struct ioapic *io, u32 offset);
void ioapic_write(struct ioapic *io, u32 offset, u32 value);
void ioapic_set_line(struct ioapic *io, u32 pin, bool level);
/* A local APIC finished a level-triggered interrupt with this vector. */
void ioapic_eoi(struct ioapic *io, u8 vector);
/* -ERR_FORMAT when the state is impossible; nothing changed then. */
int ioapic_set(struct ioapic *io, const struct ioapic_state *state);

#endif
