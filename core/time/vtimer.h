/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A one-shot timer of a device: a host timer that remembers whether it is armed and for when, so
 * that re-arming for the same time costs nothing and a late callback can be recognised.
 *
 * Lock rule: the owner's lock is held for arm, cancel and due. The callback runs on the host's
 * event thread with no lock held; it takes the owner's lock and asks vtimer_due, which says false
 * when the timer was cancelled or moved meanwhile.
 */
#ifndef CORE_TIME_VTIMER_H
#define CORE_TIME_VTIMER_H

#include "core/if/host.h"

struct vtimer {
    struct host *host;
    struct host_timer *timer;
    u64 deadline; /* ns of the host's clock; HOST_FOREVER: not armed */
};

int vtimer_init(struct vtimer *t, struct host *host, void (*fn)(void *ctx), void *ctx);
/* Waits for a running callback: not with a lock held that the callback takes. */
void vtimer_fini(struct vtimer *t);
void vtimer_arm(struct vtimer *t, u64 deadline);
void vtimer_cancel(struct vtimer *t);
/* In the callback: true when it is armed and due, and then it counts as disarmed. When it is armed
 * for later the host timer is armed anew. */
bool vtimer_due(struct vtimer *t, u64 now);

/* a * b / c rounded down or up, saturating: clock conversions without 128-bit arithmetic.
 * 0 < c, and b * c must fit 64 bits. */
u64 muldiv_down(u64 a, u64 b, u64 c);
u64 muldiv_up(u64 a, u64 b, u64 c);

#endif
