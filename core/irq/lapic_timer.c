/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's timer: one-shot, periodic and TSC-deadline. SDM volume 3, section 11.5.4.
 *
 * Nothing counts: the current count follows from the clock and the time at which the initial count
 * was loaded. A host timer stands behind it for the interrupt. One tick of the bus clock is one
 * nanosecond, so a count of n lasts n << shift nanoseconds. See lapic.h for the lock rule.
 */
#include "core/irq/lapic_int.h"

/* A shorter period is a guest that wants to keep the host's event thread busy. The count stays
 * exact; only interrupts come less often. */
enum { MIN_PERIOD_NS = 20000 };

_Static_assert(LAPIC_BUS_HZ == NSEC_PER_SEC, "a tick of the bus clock is a nanosecond");

static u32 divide_shift(const struct lapic *l) {
    u32 dcr = l->regs[LAPIC_TIMER_DIVIDE];
    return (((dcr & 8) >> 1 | (dcr & 3)) + 1) & 7;
}

static u64 period_ns(const struct lapic *l) {
    return (u64)l->regs[LAPIC_TIMER_INITIAL] << divide_shift(l);
}

static u32 timer_mode(const struct lapic *l) {
    return l->regs[LAPIC_LVT_TIMER] & LVT_TIMER_MODE;
}

/* The start of a count that was loaded from a saved state may lie before the host's clock began, so
 * times are compared modulo 2^64. 0 is kept for "stopped". */
static u64 start_at(u64 ns) {
    return ns ? ns : 1;
}

static u64 elapsed_ns(const struct lapic *l, u64 now) {
    s64 elapsed = (s64)(now - l->timer_start_ns);
    return elapsed > 0 ? (u64)elapsed : 0;
}

static void update_deadline(struct lapic *l, u64 now) {
    if (!l->tsc_deadline) {
        vtimer_cancel(&l->timer);
        return;
    }
    u64 tsc = l->ev->vm->ops->tsc_get(l->ev);
    if (tsc >= l->tsc_deadline) {
        l->tsc_deadline = 0;
        vtimer_cancel(&l->timer);
        lapic_fire_lvt(l, LAPIC_LVT_TIMER);
        return;
    }
    u64 hz = l->ev->vm->tsc_hz;
    u64 delta = hz ? muldiv_up(l->tsc_deadline - tsc, NSEC_PER_SEC, hz) : UINT64_MAX;
    vtimer_arm(&l->timer, delta < HOST_FOREVER - now ? now + delta : HOST_FOREVER);
}

static void update_count(struct lapic *l, u64 now) {
    u64 period = period_ns(l);
    bool periodic = timer_mode(l) == LVT_TIMER_PERIODIC;
    if (!l->timer_start_ns || !period) {
        vtimer_cancel(&l->timer);
        return;
    }
    u64 elapsed = elapsed_ns(l, now);
    if (elapsed >= period) {
        l->timer_start_ns = periodic ? start_at(now - elapsed % period) : 0;
        lapic_fire_lvt(l, LAPIC_LVT_TIMER);
    }
    /* A masked timer only counts; unmasking comes through here again. */
    if (!l->timer_start_ns || (l->regs[LAPIC_LVT_TIMER] & LVT_MASKED)) {
        vtimer_cancel(&l->timer);
        return;
    }
    u64 next = l->timer_start_ns + period;
    vtimer_arm(&l->timer, periodic ? MAX(next, now + MIN_PERIOD_NS) : next);
}

void lapic_timer_update(struct lapic *l) {
    u64 now = host_now(l->timer.host);
    if (timer_mode(l) == LVT_TIMER_DEADLINE) {
        update_deadline(l, now);
    } else {
        update_count(l, now);
    }
}

void lapic_timer_fn(void *ctx) {
    struct lapic *l = ctx;
    struct host *host = l->timer.host;
    mutex_lock(host, &l->lock);
    if (vtimer_due(&l->timer, host_now(host))) {
        lapic_timer_update(l);
    }
    mutex_unlock(host, &l->lock);
}

void lapic_timer_stop(struct lapic *l) {
    l->timer_start_ns = 0;
    l->tsc_deadline = 0;
    vtimer_cancel(&l->timer);
}

void lapic_timer_lvt(struct lapic *l, u32 value) {
    u32 old = timer_mode(l), mode = value & LVT_TIMER_MODE;
    lapic_timer_update(l); /* what has fallen due until now is the old setting's */
    if (mode == LVT_TIMER_MODE) {
        mode = value & LVT_TIMER_PERIODIC; /* reserved: as if bit 18 were clear */
        value &= ~LVT_TIMER_DEADLINE;
    }
    if (old != mode && (old == LVT_TIMER_DEADLINE || mode == LVT_TIMER_DEADLINE)) {
        lapic_timer_stop(l);
        l->regs[LAPIC_TIMER_INITIAL] = 0;
    }
    l->regs[LAPIC_LVT_TIMER] = value;
    lapic_timer_update(l);
}

void lapic_timer_initial(struct lapic *l, u32 value) {
    if (timer_mode(l) == LVT_TIMER_DEADLINE) {
        return;
    }
    lapic_timer_update(l);
    l->regs[LAPIC_TIMER_INITIAL] = value;
    l->timer_start_ns = value ? start_at(host_now(l->timer.host)) : 0;
    lapic_timer_update(l);
}

/* The count that is left goes on at the new speed. */
void lapic_timer_divide(struct lapic *l, u32 value) {
    lapic_timer_update(l);
    u32 left = lapic_timer_current(l);
    l->regs[LAPIC_TIMER_DIVIDE] = value;
    if (l->timer_start_ns) {
        u64 done = (u64)(l->regs[LAPIC_TIMER_INITIAL] - left) << divide_shift(l);
        l->timer_start_ns = start_at(host_now(l->timer.host) - done);
    }
    lapic_timer_update(l);
}

void lapic_timer_deadline(struct lapic *l, u64 value) {
    if (timer_mode(l) == LVT_TIMER_DEADLINE) {
        l->tsc_deadline = value;
        lapic_timer_update(l);
    }
}

u32 lapic_timer_current(const struct lapic *l) {
    u64 period = period_ns(l);
    if (timer_mode(l) == LVT_TIMER_DEADLINE || !l->timer_start_ns || !period) {
        return 0;
    }
    u64 elapsed = elapsed_ns(l, host_now(l->timer.host));
    if (timer_mode(l) == LVT_TIMER_PERIODIC) {
        elapsed %= period;
    }
    return elapsed < period ? l->regs[LAPIC_TIMER_INITIAL] - (u32)(elapsed >> divide_shift(l)) : 0;
}

void lapic_tsc_changed(struct lapic *l) {
    mutex_lock(l->timer.host, &l->lock);
    lapic_timer_update(l);
    mutex_unlock(l->timer.host, &l->lock);
}
