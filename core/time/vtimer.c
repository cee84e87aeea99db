/* SPDX-License-Identifier: Apache-2.0 */
/* One-shot timers of devices and clock arithmetic; see vtimer.h. */
#include "core/time/vtimer.h"

#include "core/base/err.h"

int vtimer_init(struct vtimer *t, struct host *host, void (*fn)(void *ctx), void *ctx) {
    t->host = host;
    t->deadline = HOST_FOREVER;
    t->timer = host->ops->timer_create(host, fn, ctx);
    return t->timer ? 0 : -ERR_NOMEM;
}

void vtimer_fini(struct vtimer *t) {
    if (t->timer) {
        t->host->ops->timer_destroy(t->host, t->timer);
    }
    t->timer = NULL;
    t->deadline = HOST_FOREVER;
}

void vtimer_arm(struct vtimer *t, u64 deadline) {
    if (deadline == HOST_FOREVER) {
        vtimer_cancel(t);
    } else if (t->deadline != deadline) {
        t->deadline = deadline;
        t->host->ops->timer_arm(t->host, t->timer, deadline);
    }
}

void vtimer_cancel(struct vtimer *t) {
    if (t->deadline != HOST_FOREVER) {
        t->deadline = HOST_FOREVER;
        t->host->ops->timer_cancel(t->host, t->timer);
    }
}

bool vtimer_due(struct vtimer *t, u64 now) {
    if (t->deadline == HOST_FOREVER) {
        return false;
    }
    if (t->deadline > now) {
        t->host->ops->timer_arm(t->host, t->timer, t->deadline);
        return false;
    }
    t->deadline = HOST_FOREVER;
    return true;
}

static u64 muldiv(u64 a, u64 b, u64 c, u64 round) {
    u64 whole, rest = ((a % c) * b + round) / c;
    if (__builtin_mul_overflow(a / c, b, &whole) || whole > UINT64_MAX - rest) {
        return UINT64_MAX;
    }
    return whole + rest;
}

u64 muldiv_down(u64 a, u64 b, u64 c) {
    return muldiv(a, b, c, 0);
}

u64 muldiv_up(u64 a, u64 b, u64 c) {
    return muldiv(a, b, c, c - 1);
}
