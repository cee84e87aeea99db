/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the local APIC model only. l->lock is held for all of these. */
#ifndef CORE_IRQ_LAPIC_INT_H
#define CORE_IRQ_LAPIC_INT_H

#include "core/irq/lapic.h"

#define LVT_VECTOR         0xffu
#define LVT_DELIVERY_SHIFT 8
#define LVT_DELIVERY       0x700u
#define LVT_STATUS         0x1000u
#define LVT_POLARITY       0x2000u
#define LVT_REMOTE_IRR     0x4000u
#define LVT_LEVEL          0x8000u
#define LVT_MASKED         0x10000u
#define LVT_TIMER_MODE     0x60000u
#define LVT_TIMER_PERIODIC 0x20000u
#define LVT_TIMER_DEADLINE 0x40000u

#define SVR_VECTOR       0xffu
#define SVR_ENABLED      0x100u
#define SVR_SUPPRESS_EOI 0x1000u

#define ESR_SEND_VECTOR    0x20u
#define ESR_RECEIVE_VECTOR 0x40u
#define ESR_REGISTER       0x80u

#define ICR_BITS            0xccfffu
#define ICR_LOGICAL         0x800u
#define ICR_ASSERT          0x4000u
#define ICR_LEVEL           0x8000u
#define ICR_SHORTHAND_SHIFT 18

#define LAPIC_VERSION_VALUE      0x50014u /* 6 LVT entries, integrated APIC */
#define LAPIC_VERSION_DIRECTED   0x1000000u
#define LAPIC_FIRST_LEGAL_VECTOR 16
#define LAPIC_TIMER_DIVIDE_BITS  0xbu

static inline bool lapic_x2(const struct lapic *l) {
    return l->apic_base & APIC_BASE_EXTD;
}
static inline bool lapic_on(const struct lapic *l) {
    return l->apic_base & APIC_BASE_EN;
}
static inline bool lapic_soft_on(const struct lapic *l) {
    return lapic_on(l) && (l->regs[LAPIC_SVR] & SVR_ENABLED);
}
static inline bool lapic_is_bsp(const struct lapic *l) {
    return l->ev->id == 0;
}

/* A 256-bit vector register (ISR, TMR, IRR). */
static inline bool lapic_bit(const struct lapic *l, enum lapic_reg base, u8 vector) {
    return l->regs[base + vector / 32] >> (vector % 32) & 1;
}
static inline void lapic_bit_set(struct lapic *l, enum lapic_reg base, u8 vector, bool on) {
    u32 bit = 1u << (vector % 32);
    u32 *reg = &l->regs[base + vector / 32];
    *reg = on ? *reg | bit : *reg & ~bit;
}
int lapic_highest(const struct lapic *l, enum lapic_reg base); /* -1: none set */

u8 lapic_ppr(const struct lapic *l);
int lapic_deliverable(const struct lapic *l); /* vector or -1 */
void lapic_announce(struct lapic *l);         /* attention when something is deliverable */
void lapic_error(struct lapic *l, u8 bits);
void lapic_fire_lvt(struct lapic *l, enum lapic_reg lvt);
void lapic_eoi_lint(struct lapic *l, u8 vector);
void lapic_clear(struct lapic *l);
u32 lapic_x2_ldr(u32 id);

/* lapic_timer.c */
void lapic_timer_fn(void *ctx);
/* Raises what has fallen due by now; then the timer is armed for what comes next. */
void lapic_timer_update(struct lapic *l);
void lapic_timer_stop(struct lapic *l);
void lapic_timer_lvt(struct lapic *l, u32 value);
void lapic_timer_initial(struct lapic *l, u32 value);
void lapic_timer_divide(struct lapic *l, u32 value);
void lapic_timer_deadline(struct lapic *l, u64 value);
u32 lapic_timer_current(const struct lapic *l);

#endif
