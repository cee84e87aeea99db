/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small mutex: one atomic word, the host's wait/wake behind it. Not recursive.
 *
 *   0 free -- lock --> 1 held -- contended --> 2 held, somebody may sleep
 *
 * Lock order, outermost first: the board lock (struct vm.lock: buses, PCI, devices) > a device's
 * own lock > the interrupt chips' (PIC, IOAPIC) > a local APIC's lock > engine locks; the whole
 * list is in docs/architecture.md. A backend's completion callback and a timer callback run with no
 * lock held and take the board lock themselves.
 */
#ifndef CORE_IF_MUTEX_H
#define CORE_IF_MUTEX_H

#include "core/if/host.h"

struct mutex {
    u32 word;
};

void mutex_lock_slow(struct host *host, struct mutex *m);

static inline void mutex_lock(struct host *host, struct mutex *m) {
    u32 free_word = 0;
    if (UNLIKELY(!__atomic_compare_exchange_n(&m->word, &free_word, 1, false, __ATOMIC_ACQUIRE,
                                              __ATOMIC_RELAXED))) {
        mutex_lock_slow(host, m);
    }
}

static inline void mutex_unlock(struct host *host, struct mutex *m) {
    if (UNLIKELY(__atomic_exchange_n(&m->word, 0, __ATOMIC_RELEASE) == 2)) {
        host->ops->wake(host, &m->word, 1);
    }
}

#endif
