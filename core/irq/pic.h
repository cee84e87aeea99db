/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pair of 8259A interrupt controllers of a PC and their edge/level control registers. Intel
 * 8259A data sheet; ELCR as in the 82371 (PIIX).
 *
 *   0x20 0x21  master, inputs 0..7; its input 2 is the slave
 *   0xa0 0xa1  slave, inputs 8..15
 *   0x4d0 0x4d1  ELCR: inputs that are level-triggered
 *
 * Left out: the 8085 mode, buffered mode, single mode.
 *
 * Lock rule: the lock of the interrupt chips is held for every call.
 */
#ifndef CORE_IRQ_PIC_H
#define CORE_IRQ_PIC_H

#include "core/if/irqchip.h"

struct pic {
    struct pic_state s[2];
    bool output; /* INTR of the master */
};

void pic_init(struct pic *pic);
void pic_reset(struct pic *pic);
/* port: 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 */
u8 pic_read(struct pic *pic, u16 port);
void pic_write(struct pic *pic, u16 port, u8 value);
void pic_set_line(struct pic *pic, u32 irq, bool level);
/* The interrupt acknowledge cycle: the vector, a spurious one (IRQ 7 or 15) when nothing waits. */
u8 pic_accept(struct pic *pic);
/* -ERR_FORMAT when the state is impossible; nothing changed then. */
int pic_set(struct pic *pic, const struct pic_state state[2]);

#endif
