/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8254 programmable interval timer and port 0x61. Intel 8254 data sheet.
 *
 *   0x40..0x42  counters 0..2      0x43  control word      0x61  gate and output of counter 2
 *   counter 0: output drives GSI 0, gate tied high
 *   counter 1: DRAM refresh, gate tied high; port 0x61 bit 4 shows its pulse
 *   counter 2: speaker, gate is port 0x61 bit 0
 *
 * Counters are not counted: their value follows from the clock and the time of loading. Left out:
 * the one clock between the write of a count and its loading.
 *
 * Lock rule: its own lock, below the board lock, above the lock of the interrupt chips.
 */
#ifndef CORE_TIME_PIT_H
#define CORE_TIME_PIT_H

#include "core/if/irqchip.h"
#include "core/if/mutex.h"
#include "core/time/vtimer.h"

struct irqchip;

#define PIT_HZ 1193182u

struct pit {
    struct mutex lock;
    struct host *host;
    struct irqchip *chip;
    struct vtimer timer; /* next rising edge of counter 0's output */
    struct pit_state s;
};

int pit_init(struct pit *pit, struct host *host, struct irqchip *chip);
void pit_fini(struct pit *pit);
void pit_reset(struct pit *pit);
/* port: 0x40..0x43 or 0x61 */
u8 pit_read(struct pit *pit, u16 port);
void pit_write(struct pit *pit, u16 port, u8 value);
void pit_get(struct pit *pit, struct pit_state *state);
/* -ERR_FORMAT when the state is impossible; nothing changed then. */
int pit_set(struct pit *pit, const struct pit_state *state);

#endif
