/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's registers: which exist in which mode, what each takes, and their two windows,
 * the xAPIC page and the x2APIC MSRs. SDM volume 3, sections 11.4.1, 11.4.3, 11.6.1 and 11.12.
 *
 * Interrupt messages and EOIs leave after the lock was dropped: they take other local APICs' locks.
 */
#include "core/base/err.h"
#include "core/cpu/cpuid.h"
#include "core/irq/irqchip.h"
#include "core/irq/lapic_int.h"

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8ffu

#define R(reg)  (1ull << (reg))
#define R8(reg) (0xffull << (reg))
#define LVTS    (0x3full << LAPIC_LVT_TIMER)
#define COMMON_READ                                                                                \
    (R(LAPIC_ID) | R(LAPIC_VERSION) | R(LAPIC_TPR) | R(LAPIC_PPR) | R(LAPIC_LDR) | R(LAPIC_SVR) |  \
     R8(LAPIC_ISR) | R8(LAPIC_TMR) | R8(LAPIC_IRR) | R(LAPIC_ESR) | R(LAPIC_ICR) | LVTS |          \
     R(LAPIC_TIMER_INITIAL) | R(LAPIC_TIMER_CURRENT) | R(LAPIC_TIMER_DIVIDE))
#define COMMON_WRITE                                                                               \
    (R(LAPIC_TPR) | R(LAPIC_EOI) | R(LAPIC_SVR) | R(LAPIC_ESR) | R(LAPIC_ICR) | LVTS |             \
     R(LAPIC_TIMER_INITIAL) | R(LAPIC_TIMER_DIVIDE))

static const u64 xapic_exists =
    COMMON_READ | COMMON_WRITE | R(LAPIC_APR) | R(LAPIC_RRD) | R(LAPIC_DFR) | R(LAPIC_ICR_HIGH);
static const u64 xapic_write =
    COMMON_WRITE | R(LAPIC_ID) | R(LAPIC_LDR) | R(LAPIC_DFR) | R(LAPIC_ICR_HIGH);
static const u64 x2apic_read = COMMON_READ;
static const u64 x2apic_write = COMMON_WRITE | R(LAPIC_SELF_IPI);

/* What a register write sets off outside this local APIC. */
struct effect {
    bool eoi; /* a level-triggered interrupt ended */
    u8 eoi_vector;
    bool ipi;
    u8 shorthand; /* 0 dest field, 1 self, 2 all, 3 all but self */
    struct apic_msg msg;
};

static u32 reg_read(struct lapic *l, u32 reg) {
    switch (reg) {
    case LAPIC_PPR:
        return lapic_ppr(l);
    case LAPIC_TIMER_CURRENT:
        return lapic_timer_current(l);
    default:
        return l->regs[reg];
    }
}

/* --- writes -------------------------------------------------------------------------------------
 */

/* Bits of a register that a write may set; the others are reserved or read-only. */
static u32 writable_bits(const struct lapic *l, u32 reg) {
    switch (reg) {
    case LAPIC_TPR:
    case LAPIC_SELF_IPI:
        return 0xff;
    case LAPIC_EOI:
    case LAPIC_ESR:
        return 0;
    case LAPIC_ID:
    case LAPIC_LDR:
    case LAPIC_ICR_HIGH:
        return 0xff000000;
    case LAPIC_DFR:
        return 0xf0000000;
    case LAPIC_SVR:
        return SVR_VECTOR | SVR_ENABLED | (l->chip->directed_eoi ? SVR_SUPPRESS_EOI : 0);
    case LAPIC_ICR:
        return ICR_BITS;
    case LAPIC_LVT_TIMER:
        return LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE;
    case LAPIC_LVT_THERMAL:
    case LAPIC_LVT_PERF:
        return LVT_VECTOR | LVT_DELIVERY | LVT_MASKED;
    case LAPIC_LVT_LINT0:
    case LAPIC_LVT_LINT1:
        return LVT_VECTOR | LVT_DELIVERY | LVT_POLARITY | LVT_LEVEL | LVT_MASKED;
    case LAPIC_LVT_ERROR:
        return LVT_VECTOR | LVT_MASKED;
    case LAPIC_TIMER_DIVIDE:
        return LAPIC_TIMER_DIVIDE_BITS;
    default:
        return UINT32_MAX;
    }
}

/* Bits that x2APIC mode ignores in a write instead of raising #GP: read-only status, and the focus
 * bit that older software still sets. */
static u32 ignored_bits(u32 reg) {
    if (reg >= LAPIC_LVT_TIMER && reg <= LAPIC_LVT_ERROR) {
        return LVT_STATUS | LVT_REMOTE_IRR;
    }
    return reg == LAPIC_ICR ? LVT_STATUS : reg == LAPIC_SVR ? 0x200u : 0;
}

static void write_eoi(struct lapic *l, struct effect *fx) {
    int vector = lapic_highest(l, LAPIC_ISR);
    if (vector < 0) {
        return;
    }
    lapic_bit_set(l, LAPIC_ISR, (u8)vector, false);
    if (lapic_bit(l, LAPIC_TMR, (u8)vector)) {
        lapic_eoi_lint(l, (u8)vector);
        fx->eoi = !(l->regs[LAPIC_SVR] & SVR_SUPPRESS_EOI);
        fx->eoi_vector = (u8)vector;
    }
    lapic_announce(l);
}

static void write_svr(struct lapic *l, u32 value) {
    l->regs[LAPIC_SVR] = value;
    if (!(value & SVR_ENABLED)) {
        for (u32 i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++) {
            l->regs[i] |= LVT_MASKED;
        }
        lapic_timer_update(l);
    }
    lapic_announce(l);
}

static void write_lvt(struct lapic *l, u32 reg, u32 value) {
    if (!(l->regs[LAPIC_SVR] & SVR_ENABLED)) {
        value |= LVT_MASKED;
    }
    if (reg == LAPIC_LVT_TIMER) {
        lapic_timer_lvt(l, value);
        return;
    }
    bool was_masked = l->regs[reg] & LVT_MASKED;
    l->regs[reg] = value | (value & LVT_LEVEL ? l->regs[reg] & LVT_REMOTE_IRR : 0);
    if (reg != LAPIC_LVT_LINT0 && reg != LAPIC_LVT_LINT1) {
        return;
    }
    /* A level that waits for being unmasked; ExtINT is found when the processor asks. */
    if (l->lint[reg - LAPIC_LVT_LINT0] && !(value & LVT_MASKED)) {
        if (value & LVT_LEVEL && was_masked) {
            lapic_fire_lvt(l, (enum lapic_reg)reg);
        }
        vcpu_attend(l->ev, ATTN_INTERRUPT);
    }
}

static void self_ipi(struct effect *fx, u8 vector) {
    fx->ipi = true;
    fx->shorthand = 1;
    fx->msg = (struct apic_msg){.vector = vector};
}

static void write_icr(struct lapic *l, u32 value, struct effect *fx) {
    u8 delivery = (u8)((value >> 8) & 7), vector = (u8)value;
    l->regs[LAPIC_ICR] = value;
    if ((delivery == DELIVERY_FIXED || delivery == DELIVERY_LOWEST) &&
        vector < LAPIC_FIRST_LEGAL_VECTOR) {
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    /* INIT level de-assert only synchronised the arbitration of old APIC buses. */
    if ((delivery == DELIVERY_INIT && (value & ICR_LEVEL) && !(value & ICR_ASSERT)) ||
        delivery == DELIVERY_EXTINT || delivery == 3) {
        return;
    }
    fx->ipi = true;
    fx->shorthand = (u8)((value >> ICR_SHORTHAND_SHIFT) & 3);
    fx->msg.dest = lapic_x2(l) ? l->regs[LAPIC_ICR_HIGH] : l->regs[LAPIC_ICR_HIGH] >> 24;
    fx->msg.dest32 = lapic_x2(l);
    fx->msg.logical = value & ICR_LOGICAL;
    fx->msg.delivery = delivery;
    fx->msg.vector = vector; /* the trigger mode matters to INIT only: IPIs are edges */
}

static void reg_write(struct lapic *l, u32 reg, u32 value, struct effect *fx) {
    switch (reg) {
    case LAPIC_TPR:
        l->regs[reg] = value;
        lapic_announce(l);
        break;
    case LAPIC_EOI:
        write_eoi(l, fx);
        break;
    case LAPIC_SVR:
        write_svr(l, value);
        break;
    case LAPIC_DFR:
        l->regs[reg] = value | 0x0fffffff;
        break;
    case LAPIC_ESR:
        l->regs[reg] = l->esr_pending;
        l->esr_pending = 0;
        break;
    case LAPIC_ICR:
        write_icr(l, value, fx);
        break;
    case LAPIC_SELF_IPI:
        if (value < LAPIC_FIRST_LEGAL_VECTOR) {
            lapic_error(l, ESR_SEND_VECTOR);
        } else {
            self_ipi(fx, (u8)value);
        }
        break;
    case LAPIC_TIMER_INITIAL:
        lapic_timer_initial(l, value);
        break;
    case LAPIC_TIMER_DIVIDE:
        lapic_timer_divide(l, value);
        break;
    default:
        if (reg >= LAPIC_LVT_TIMER && reg <= LAPIC_LVT_ERROR) {
            write_lvt(l, reg, value);
        } else {
            l->regs[reg] = value;
        }
        break;
    }
}

/* --- what leaves --------------------------------------------------------------------------------
 */

static void send_shorthand(struct lapic *l, const struct effect *fx) {
    struct irqchip *chip = l->chip;
    if (fx->shorthand == 1) {
        lapic_deliver(l, &fx->msg);
        return;
    }
    if (fx->msg.delivery == DELIVERY_LOWEST) { /* lowest among all is one of them */
        struct apic_msg all = fx->msg;
        all.dest = UINT32_MAX;
        all.dest32 = true;
        irqchip_route(chip, &all);
        return;
    }
    for (u32 i = 0; i < chip->count; i++) {
        if (&chip->lapic[i] != l || fx->shorthand == 2) {
            lapic_deliver(&chip->lapic[i], &fx->msg);
        }
    }
}

static void run_effect(struct lapic *l, const struct effect *fx) {
    if (fx->eoi) {
        irqchip_eoi(l->chip, fx->eoi_vector);
    }
    if (fx->ipi && fx->shorthand) {
        send_shorthand(l, fx);
    } else if (fx->ipi) {
        irqchip_route(l->chip, &fx->msg);
    }
}

/* --- xAPIC page ---------------------------------------------------------------------------------
 */

bool lapic_mmio_hit(struct lapic *l, u64 gpa) {
    return (l->apic_base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN &&
           ALIGN_DOWN(gpa, PAGE_SIZE) == ALIGN_DOWN(l->apic_base, PAGE_SIZE);
}

u64 lapic_mmio_read(struct lapic *l, u32 offset, u32 size) {
    u32 reg = (offset & 0xfff) / 16, shift = (offset & 15) * 8;
    u32 value = 0;
    mutex_lock(l->timer.host, &l->lock);
    if (reg > LAPIC_SELF_IPI || !(xapic_exists & R(reg))) {
        lapic_error(l, ESR_REGISTER);
    } else if (reg != LAPIC_EOI && shift < 32) {
        value = reg_read(l, reg) >> shift;
    }
    mutex_unlock(l->timer.host, &l->lock);
    return size >= 4 ? value : value & (u32)(BIT(size * 8) - 1);
}

/* Registers take aligned 32-bit stores only; wider ones set the first, as hardware may. */
void lapic_mmio_write(struct lapic *l, u32 offset, u32 size, u64 value) {
    u32 reg = (offset & 0xfff) / 16;
    struct effect fx = {0};
    if (size < 4 || (offset & 15)) {
        return;
    }
    mutex_lock(l->timer.host, &l->lock);
    if (reg > LAPIC_SELF_IPI || !(xapic_exists & R(reg))) {
        lapic_error(l, ESR_REGISTER);
    } else if (xapic_write & R(reg)) {
        reg_write(l, reg, (u32)value & writable_bits(l, reg), &fx);
    }
    mutex_unlock(l->timer.host, &l->lock);
    run_effect(l, &fx);
}

/* --- MSRs ---------------------------------------------------------------------------------------
 */

static u64 apic_base_bits(const struct lapic *l) {
    const struct cpuid_policy *cpuid = l->ev->vm->cpuid;
    u32 bits = cpuid && cpuid->phys_bits >= 32 && cpuid->phys_bits <= 52 ? cpuid->phys_bits : 36;
    return (BIT(bits) - PAGE_SIZE) | APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN;
}

/* SDM figure 11-27: from disabled and from x2APIC no way leads directly to each other or back. */
static bool base_transition_ok(u64 old, u64 value) {
    bool on = value & APIC_BASE_EN, x2 = value & APIC_BASE_EXTD;
    bool old_on = old & APIC_BASE_EN, old_x2 = old & APIC_BASE_EXTD;
    if (x2) {
        return on && old_on;
    }
    return !on || !old_x2;
}

static int write_apic_base(struct lapic *l, u64 value) {
    u64 old = l->apic_base;
    if ((value & ~apic_base_bits(l)) || !base_transition_ok(old, value)) {
        return -ERR_INVAL;
    }
    l->apic_base = value;
    if ((old & APIC_BASE_EN) && !(value & APIC_BASE_EN)) {
        lapic_clear(l);
        l->regs[LAPIC_ID] = l->ev->id << 24;
        l->regs[LAPIC_LDR] = 0;
        if (l->lint[0]) { /* now the PIC may reach the processor directly */
            vcpu_attend(l->ev, ATTN_INTERRUPT);
        }
    } else if (!(old & APIC_BASE_EXTD) && (value & APIC_BASE_EXTD)) {
        l->regs[LAPIC_ID] = l->ev->id;
        l->regs[LAPIC_LDR] = lapic_x2_ldr(l->ev->id);
        l->regs[LAPIC_DFR] = UINT32_MAX;
        l->regs[LAPIC_ICR_HIGH] = 0;
    }
    return 0;
}

static int x2_read(struct lapic *l, u32 reg, u64 *value) {
    if (!lapic_x2(l) || reg > LAPIC_SELF_IPI || !(x2apic_read & R(reg))) {
        return -ERR_INVAL;
    }
    *value = reg_read(l, reg);
    if (reg == LAPIC_ICR) {
        *value |= (u64)l->regs[LAPIC_ICR_HIGH] << 32;
    }
    return 0;
}

static int x2_write(struct lapic *l, u32 reg, u64 value, struct effect *fx) {
    if (!lapic_x2(l) || reg > LAPIC_SELF_IPI || !(x2apic_write & R(reg))) {
        return -ERR_INVAL;
    }
    u32 bits = writable_bits(l, reg);
    u64 allowed = bits | ignored_bits(reg) | (reg == LAPIC_ICR ? 0xffffffff00000000ull : 0);
    if (value & ~allowed) {
        return -ERR_INVAL;
    }
    if (reg == LAPIC_ICR) {
        l->regs[LAPIC_ICR_HIGH] = (u32)(value >> 32);
    }
    reg_write(l, reg, (u32)value & bits, fx);
    return 0;
}

int lapic_msr_read(struct lapic *l, u32 index, u64 *value) {
    int rc = 0;
    mutex_lock(l->timer.host, &l->lock);
    if (index == MSR_APIC_BASE) {
        *value = l->apic_base;
    } else if (index == MSR_TSC_DEADLINE) {
        *value = l->tsc_deadline;
    } else if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
        rc = x2_read(l, index - MSR_X2APIC_FIRST, value);
    } else {
        rc = -ERR_INVAL;
    }
    mutex_unlock(l->timer.host, &l->lock);
    return rc;
}

int lapic_msr_write(struct lapic *l, u32 index, u64 value) {
    struct effect fx = {0};
    int rc = 0;
    mutex_lock(l->timer.host, &l->lock);
    if (index == MSR_APIC_BASE) {
        rc = write_apic_base(l, value);
    } else if (index == MSR_TSC_DEADLINE) {
        lapic_timer_deadline(l, value);
    } else if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
        rc = x2_write(l, index - MSR_X2APIC_FIRST, value, &fx);
    } else {
        rc = -ERR_INVAL;
    }
    mutex_unlock(l->timer.host, &l->lock);
    run_effect(l, &fx);
    return rc;
}

u64 lapic_cr8_get(struct lapic *l) {
    return (l->regs[LAPIC_TPR] >> 4) & 15; /* only its own processor writes it */
}

void lapic_cr8_set(struct lapic *l, u64 value) {
    mutex_lock(l->timer.host, &l->lock);
    l->regs[LAPIC_TPR] = (u32)(value & 15) << 4;
    lapic_announce(l);
    mutex_unlock(l->timer.host, &l->lock);
}

/* --- loading a state ----------------------------------------------------------------------------
 */

static bool state_ok(const struct lapic *l, const struct lapic_state *s) {
    u64 base = s->apic_base;
    bool x2 = base & APIC_BASE_EXTD;
    if ((base & ~apic_base_bits(l)) || (x2 && !(base & APIC_BASE_EN))) {
        return false;
    }
    if (x2 && s->regs[LAPIC_ID] != l->ev->id) {
        return false;
    }
    /* Vectors 0..15 are never accepted. */
    return !((s->regs[LAPIC_IRR] | s->regs[LAPIC_ISR]) & 0xffff);
}

/* Keeps of each register only what it can hold, whatever the state says. LVT entries may be
 * unmasked while software has the APIC off: KVM resets into that state. */
static void take_regs(struct lapic *l, const u32 *regs) {
    u64 plain = R(LAPIC_TPR) | R(LAPIC_SVR) | R(LAPIC_ICR) | LVTS | R(LAPIC_TIMER_INITIAL) |
                R(LAPIC_TIMER_DIVIDE) | R8(LAPIC_ISR) | R8(LAPIC_TMR) | R8(LAPIC_IRR) |
                R(LAPIC_ICR_HIGH) | R(LAPIC_DFR) | R(LAPIC_LDR) | R(LAPIC_ID);
    bool x2 = lapic_x2(l);
    lapic_clear(l);
    for (u32 i = 0; i < 64; i++) {
        bool whole = x2 && (i == LAPIC_ICR_HIGH || i == LAPIC_ID);
        if (plain & R(i)) {
            u32 keep = i == LAPIC_LVT_LINT0 || i == LAPIC_LVT_LINT1 ? LVT_REMOTE_IRR : 0;
            l->regs[i] = regs[i] & (whole ? UINT32_MAX : writable_bits(l, i) | keep);
        }
    }
    l->regs[LAPIC_ESR] = regs[LAPIC_ESR] & 0xff;
    l->regs[LAPIC_DFR] |= 0x0fffffff;
    if (x2) {
        l->regs[LAPIC_LDR] = lapic_x2_ldr(l->ev->id);
        l->regs[LAPIC_DFR] = UINT32_MAX;
    }
    if ((l->regs[LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_MODE) {
        l->regs[LAPIC_LVT_TIMER] &= ~LVT_TIMER_DEADLINE;
    }
}

static void take_timer(struct lapic *l, const struct lapic_state *s) {
    bool deadline = (l->regs[LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;
    u64 now = host_now(l->timer.host);
    l->tsc_deadline = deadline ? s->tsc_deadline : 0;
    l->timer_start_ns = deadline || !l->regs[LAPIC_TIMER_INITIAL] ? 0 : s->timer_start_ns;
    if (l->timer_start_ns && (s64)(now - l->timer_start_ns) < 0) {
        l->timer_start_ns = now ? now : 1; /* a start in the future */
    }
    lapic_timer_update(l);
}

int lapic_set(struct lapic *l, const struct lapic_state *state) {
    mutex_lock(l->timer.host, &l->lock);
    int rc = state_ok(l, state) ? 0 : -ERR_FORMAT;
    if (rc == 0) {
        l->apic_base = state->apic_base;
        take_regs(l, state->regs);
        take_timer(l, state);
        l->esr_pending = state->esr_pending;
        l->sipi_vector = state->sipi_vector;
        l->extint = state->extint;
        vcpu_attend(l->ev, ATTN_INTERRUPT);
    }
    mutex_unlock(l->timer.host, &l->lock);
    return rc;
}
