/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the trace categories; see trace.h. */
#include "core/if/trace.h"

#include "core/base/fmt.h"

static const char *const names[TRACE_COUNT] = {
    [TRACE_EXITS] = "exits",
    [TRACE_PIO] = "pio",
    [TRACE_MMIO] = "mmio",
    [TRACE_IRQ] = "irq",
    [TRACE_MSR] = "msr",
    [TRACE_VIRTIO] = "virtio",
    [TRACE_PCI] = "pci",
    [TRACE_BOOT] = "boot",
    [TRACE_VCPU] = "vcpu",
    [TRACE_GDB] = "gdb",
    [TRACE_TRANSLATOR] = "translator",
};

const char *trace_name(enum trace_category category) {
    return category < TRACE_COUNT ? names[category] : "unknown";
}

static bool name_is(const char *name, const char *at, size_t len) {
    return str_len(name) == len && memcmp(name, at, len) == 0;
}

static u32 mask_of(const char *at, size_t len) {
    if (name_is("all", at, len)) {
        return (u32)BIT(TRACE_COUNT) - 1;
    }
    for (u32 i = 0; i < TRACE_COUNT; i++) {
        if (name_is(names[i], at, len)) {
            return (u32)BIT(i);
        }
    }
    return 0;
}

int trace_parse(const char *list, u32 *mask, struct err *err) {
    u32 all = 0;
    while (*list) {
        size_t len = 0;
        while (list[len] && list[len] != ',') {
            len++;
        }
        u32 bits = mask_of(list, len);
        if (!bits) {
            return ERR_SET(err, ERR_INVAL,
                           "trace: unknown category \"%.*s\" (exits, pio, mmio, irq, msr, virtio, "
                           "pci, boot, vcpu, gdb, translator, all)",
                           (int)MIN(len, (size_t)40), list);
        }
        all |= bits;
        list += len + (list[len] == ',');
    }
    *mask = all;
    return 0;
}
