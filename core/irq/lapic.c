/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's interrupts: acceptance, priorities, local vector table, reset and state. SDM
 * volume 3, sections 11.4.7, 11.5 and 11.8. Registers are in lapic_reg.c; see lapic.h.
 */
#include "core/base/err.h"
#include "core/irq/irqchip.h"
#include "core/irq/lapic_int.h"

static void lock(struct lapic *l) {
    mutex_lock(l->timer.host, &l->lock);
}

static void unlock(struct lapic *l) {
    mutex_unlock(l->timer.host, &l->lock);
}

/* --- priorities ---------------------------------------------------------------------------------
 */

int lapic_highest(const struct lapic *l, enum lapic_reg base) {
    for (int i = 7; i >= 0; i--) {
        u32 word = l->regs[base + i];
        if (word) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

u8 lapic_ppr(const struct lapic *l) {
    int isr = lapic_highest(l, LAPIC_ISR);
    u8 tpr = (u8)l->regs[LAPIC_TPR];
    u8 in_service = isr < 0 ? 0 : (u8)(isr & 0xf0);
    return (tpr & 0xf0) >= in_service ? tpr : in_service;
}

int lapic_deliverable(const struct lapic *l) {
    int irr = lapic_soft_on(l) ? lapic_highest(l, LAPIC_IRR) : -1;
    return irr >= 0 && (irr & 0xf0) > (lapic_ppr(l) & 0xf0) ? irr : -1;
}

void lapic_announce(struct lapic *l) {
    if (lapic_deliverable(l) >= 0) {
        vcpu_attend(l->ev, ATTN_INTERRUPT);
    }
}

int lapic_pending(struct lapic *l) {
    lock(l);
    int vector = lapic_deliverable(l);
    unlock(l);
    return vector;
}

int lapic_accept(struct lapic *l) {
    lock(l);
    int vector = lapic_deliverable(l);
    if (vector >= 0) {
        lapic_bit_set(l, LAPIC_IRR, (u8)vector, false);
        lapic_bit_set(l, LAPIC_ISR, (u8)vector, true);
    }
    unlock(l);
    return vector;
}

int lapic_priority(struct lapic *l) {
    lock(l);
    int ppr = lapic_soft_on(l) ? lapic_ppr(l) : -1;
    unlock(l);
    return ppr;
}

/* --- acceptance ---------------------------------------------------------------------------------
 */

static void accept_fixed(struct lapic *l, u8 vector, bool level) {
    if (!lapic_soft_on(l)) {
        return;
    }
    if (vector < LAPIC_FIRST_LEGAL_VECTOR) {
        lapic_error(l, ESR_RECEIVE_VECTOR);
        return;
    }
    bool again = lapic_bit(l, LAPIC_IRR, vector);
    lapic_bit_set(l, LAPIC_IRR, vector, true);
    lapic_bit_set(l, LAPIC_TMR, vector, level);
    /* Not deliverable now: the EOI or the lower task priority will announce it. */
    if (!again && (vector & 0xf0) > (lapic_ppr(l) & 0xf0)) {
        vcpu_attend(l->ev, ATTN_INTERRUPT);
    }
}

/* The error interrupt's own vector may be illegal too: that ends here, without another error. */
void lapic_error(struct lapic *l, u8 bits) {
    u32 lvt = l->regs[LAPIC_LVT_ERROR];
    l->esr_pending |= bits;
    if (!(lvt & LVT_MASKED) && (lvt & LVT_VECTOR) >= LAPIC_FIRST_LEGAL_VECTOR) {
        accept_fixed(l, (u8)(lvt & LVT_VECTOR), false);
    }
}

static void fire(struct lapic *l, u8 delivery, u8 vector, bool level) {
    switch (delivery) {
    case DELIVERY_FIXED:
    case DELIVERY_LOWEST:
        accept_fixed(l, vector, level);
        break;
    case DELIVERY_NMI:
        vcpu_attend(l->ev, ATTN_NMI);
        break;
    case DELIVERY_INIT:
        vcpu_attend(l->ev, ATTN_INIT);
        break;
    case DELIVERY_SIPI:
        l->sipi_vector = vector;
        vcpu_attend(l->ev, ATTN_SIPI);
        break;
    case DELIVERY_EXTINT:
        l->extint = true;
        vcpu_attend(l->ev, ATTN_INTERRUPT);
        break;
    default: /* SMI: there is no system-management mode */
        break;
    }
}

void lapic_deliver(struct lapic *l, const struct apic_msg *msg) {
    lock(l);
    if (lapic_on(l)) {
        fire(l, msg->delivery, msg->vector, msg->level);
    }
    unlock(l);
}

static bool match_logical(const struct lapic *l, u32 dest, bool dest32) {
    u32 ldr = l->regs[LAPIC_LDR];
    if (lapic_x2(l)) {
        return (ldr >> 16) == (dest >> 16) && (ldr & dest & 0xffff);
    }
    if (dest32 && dest > 0xff) {
        return false;
    }
    ldr >>= 24;
    if (l->regs[LAPIC_DFR] >> 28 == 0xf) {
        return ldr & dest;
    }
    return (ldr >> 4 == dest >> 4 || dest >> 4 == 0xf) && (ldr & dest & 0xf);
}

bool lapic_match(struct lapic *l, const struct apic_msg *msg) {
    lock(l);
    bool match = false;
    u32 id = lapic_x2(l) ? l->regs[LAPIC_ID] : l->regs[LAPIC_ID] >> 24;
    if (!lapic_on(l)) {
        match = false;
    } else if (msg->dest == (msg->dest32 ? UINT32_MAX : 0xffu)) {
        match = true;
    } else if (msg->logical) {
        match = match_logical(l, msg->dest, msg->dest32);
    } else {
        match = id == msg->dest;
    }
    unlock(l);
    return match;
}

u8 lapic_sipi_vector(struct lapic *l) {
    lock(l);
    u8 vector = l->sipi_vector;
    unlock(l);
    return vector;
}

/* --- local interrupts ---------------------------------------------------------------------------
 */

static u8 lvt_delivery(u32 lvt) {
    return (u8)((lvt & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT);
}

/* ExtINT is not delivered from here: the processor asks lapic_takes_extint. */
void lapic_fire_lvt(struct lapic *l, enum lapic_reg reg) {
    u32 lvt = l->regs[reg];
    bool lint = reg == LAPIC_LVT_LINT0 || reg == LAPIC_LVT_LINT1;
    bool level = lint && (lvt & LVT_LEVEL) && lvt_delivery(lvt) == DELIVERY_FIXED;
    if (!lapic_on(l) || (lvt & LVT_MASKED) || lvt_delivery(lvt) == DELIVERY_EXTINT ||
        lvt_delivery(lvt) == DELIVERY_SIPI || (level && (lvt & LVT_REMOTE_IRR))) {
        return;
    }
    if (level) {
        l->regs[reg] |= LVT_REMOTE_IRR;
    }
    fire(l, lvt_delivery(lvt), (u8)(lvt & LVT_VECTOR), level);
}

static enum lapic_reg lint_reg(u32 pin) {
    return pin ? LAPIC_LVT_LINT1 : LAPIC_LVT_LINT0;
}

void lapic_lint_set(struct lapic *l, u32 pin, bool level) {
    lock(l);
    bool rise = level && !l->lint[pin & 1];
    l->lint[pin & 1] = level;
    if (rise) {
        lapic_fire_lvt(l, lint_reg(pin & 1));
        if (!(pin & 1)) {
            vcpu_attend(l->ev, ATTN_INTERRUPT); /* perhaps ExtINT */
        }
    }
    unlock(l);
}

void lapic_lint_restore(struct lapic *l, u32 pin, bool level) {
    lock(l);
    l->lint[pin & 1] = level;
    unlock(l);
}

/* A level-triggered LINT input that is still asserted after the EOI interrupts again. */
void lapic_eoi_lint(struct lapic *l, u8 vector) {
    for (u32 pin = 0; pin < 2; pin++) {
        u32 lvt = l->regs[lint_reg(pin)];
        if ((lvt & LVT_REMOTE_IRR) && (lvt & LVT_VECTOR) == vector) {
            l->regs[lint_reg(pin)] &= ~LVT_REMOTE_IRR;
            if (l->lint[pin]) {
                lapic_fire_lvt(l, lint_reg(pin));
            }
        }
    }
}

bool lapic_takes_extint(struct lapic *l) {
    lock(l);
    u32 lvt = l->regs[LAPIC_LVT_LINT0];
    bool takes = l->extint;
    if (!lapic_on(l)) {
        takes = lapic_is_bsp(l);
    } else if (!(lvt & LVT_MASKED) && lvt_delivery(lvt) == DELIVERY_EXTINT) {
        takes = true;
    }
    unlock(l);
    return takes;
}

void lapic_extint_done(struct lapic *l) {
    lock(l);
    l->extint = false;
    unlock(l);
}

/* --- life and state -----------------------------------------------------------------------------
 */

u32 lapic_x2_ldr(u32 id) {
    return (id >> 4) << 16 | 1u << (id & 15);
}

/* Everything but IA32_APIC_BASE and, in xAPIC mode, an ID that software changed. */
void lapic_clear(struct lapic *l) {
    u32 id = l->regs[LAPIC_ID];
    lapic_timer_stop(l);
    memset(l->regs, 0, sizeof(l->regs));
    l->regs[LAPIC_ID] = id;
    l->regs[LAPIC_VERSION] =
        LAPIC_VERSION_VALUE | (l->chip->directed_eoi ? LAPIC_VERSION_DIRECTED : 0);
    l->regs[LAPIC_DFR] = UINT32_MAX;
    l->regs[LAPIC_LDR] = lapic_x2(l) ? lapic_x2_ldr(id) : 0;
    l->regs[LAPIC_SVR] = SVR_VECTOR;
    for (u32 i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++) {
        l->regs[i] = LVT_MASKED;
    }
    l->esr_pending = 0;
    l->extint = false;
}

void lapic_reset(struct lapic *l, bool init) {
    lock(l);
    if (!init) {
        l->apic_base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (lapic_is_bsp(l) ? APIC_BASE_BSP : 0);
        l->regs[LAPIC_ID] = l->ev->id << 24;
        l->sipi_vector = 0;
    }
    lapic_clear(l);
    /* The PIC reaches the first processor until its software says otherwise: virtual wire mode, as
     * firmware leaves it (MP specification, section 3.6.2.2). */
    if (!init && lapic_is_bsp(l)) {
        l->regs[LAPIC_SVR] |= SVR_ENABLED;
        l->regs[LAPIC_LVT_LINT0] = DELIVERY_EXTINT << LVT_DELIVERY_SHIFT;
        l->regs[LAPIC_LVT_LINT1] = DELIVERY_NMI << LVT_DELIVERY_SHIFT;
    }
    unlock(l);
}

int lapic_init(struct lapic *l, struct irqchip *chip, struct engine_vcpu *ev) {
    memset(l, 0, sizeof(*l));
    l->chip = chip;
    l->ev = ev;
    int rc = vtimer_init(&l->timer, chip->host, lapic_timer_fn, l);
    if (rc == 0) {
        lapic_reset(l, false);
    }
    return rc;
}

void lapic_fini(struct lapic *l) {
    vtimer_fini(&l->timer);
}

void lapic_get(struct lapic *l, struct lapic_state *state) {
    lock(l);
    lapic_timer_update(l);
    memset(state, 0, sizeof(*state));
    memcpy(state->regs, l->regs, sizeof(state->regs));
    state->regs[LAPIC_PPR] = lapic_ppr(l);
    state->regs[LAPIC_TIMER_CURRENT] = lapic_timer_current(l);
    state->apic_base = l->apic_base;
    state->tsc_deadline = l->tsc_deadline;
    state->timer_start_ns = l->timer_start_ns;
    state->esr_pending = l->esr_pending;
    state->sipi_vector = l->sipi_vector;
    state->extint = l->extint;
    unlock(l);
}
