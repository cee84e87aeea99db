/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trace points: lines about what a machine does, by category, for a person who debugs. Off unless
 * asked for (--trace pio,irq); a point that is off costs one load and one branch. Not limited in
 * number: whoever turns them on wants them all.
 */
#ifndef CORE_IF_TRACE_H
#define CORE_IF_TRACE_H

#include "core/base/err.h"
#include "core/if/log.h"

enum trace_category {
    TRACE_EXITS,      /* what made a vCPU leave the guest */
    TRACE_PIO,        /* port accesses */
    TRACE_MMIO,       /* accesses to registers in memory */
    TRACE_IRQ,        /* lines, MSIs, injected interrupts */
    TRACE_MSR,        /* MSRs that reach the machine */
    TRACE_VIRTIO,     /* negotiation, queues, requests */
    TRACE_PCI,        /* configuration space, BARs */
    TRACE_BOOT,       /* what the loaders put where */
    TRACE_VCPU,       /* INIT, SIPI, halt, pause */
    TRACE_GDB,        /* packets of the debugger */
    TRACE_TRANSLATOR, /* translations made, outdated and forgotten */
    TRACE_COUNT
};

struct trace {
    struct host *host;
    u32 mask; /* BIT(enum trace_category); fixed while the machine runs */
};

/* "exits,pio" or "all"; 0, or -ERR_INVAL with the unknown name recorded. */
int trace_parse(const char *list, u32 *mask, struct err *err);
const char *trace_name(enum trace_category category);

static inline bool trace_on(const struct trace *t, enum trace_category category) {
    return UNLIKELY(t && (t->mask & BIT(category)));
}

#define TRACE(t, category, ...)                                                                    \
    do {                                                                                           \
        if (trace_on((t), (category))) {                                                           \
            log_line((t)->host, LOG_INFO, __VA_ARGS__);                                            \
        }                                                                                          \
    } while (0)

#endif
