/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X of a PCI function: the capability, the vector table and the pending bits in a BAR of their
 * own. PCI Local Bus 3.0, section 6.8.2.
 *
 *   BAR + 0     table: count x { address u64, data u32, vector control u32 }
 *   BAR + 2048  pending bit array
 *
 * Lock rule: board lock held.
 */
#include "core/base/err.h"
#include "core/dev/pci.h"

enum {
    CAP_ID_MSIX = 0x11,
    CAP_MSIX_SIZE = 12,
    MSIX_CONTROL = 2, /* offsets in the capability */
    MSIX_TABLE = 4,
    MSIX_PBA = 8,
    ENTRY_SIZE = 16,
};

#define MSIX_CONTROL_MASKED   BIT(14)
#define MSIX_CONTROL_ENABLE   BIT(15)
#define VECTOR_CONTROL_MASKED 1u

_Static_assert(sizeof(struct pci_msix_entry) == ENTRY_SIZE, "MSI-X table entry");
_Static_assert(PCI_MSIX_MAX *ENTRY_SIZE <= PCI_MSIX_PBA, "table ends before the pending bits");

static u16 msix_control(const struct pci_device *pci) {
    return pci_get16(pci, pci->msix.cap + MSIX_CONTROL);
}

bool pci_msix_enabled(const struct pci_device *pci) {
    return pci->msix.count && (msix_control(pci) & MSIX_CONTROL_ENABLE);
}

static bool vector_open(const struct pci_device *pci, u32 vector) {
    return !(msix_control(pci) & MSIX_CONTROL_MASKED) &&
           !(pci->msix.entry[vector].control & VECTOR_CONTROL_MASKED);
}

static void vector_send(struct pci_device *pci, u32 vector) {
    const struct pci_msix_entry *entry = &pci->msix.entry[vector];
    pci->msix.pending[vector / 64] &= ~BIT(vector % 64);
    irq_msi(pci->dev.env->irq, entry->address, entry->data);
}

void pci_msix_notify(struct pci_device *pci, u16 vector) {
    if (vector >= pci->msix.count || !pci_msix_enabled(pci)) {
        return;
    }
    if (vector_open(pci, vector)) {
        vector_send(pci, vector);
    } else {
        pci->msix.pending[vector / 64] |= BIT(vector % 64);
    }
}

static void send_pending(struct pci_device *pci) {
    if (!pci_msix_enabled(pci)) {
        return;
    }
    for (u32 v = 0; v < pci->msix.count; v++) {
        if ((pci->msix.pending[v / 64] & BIT(v % 64)) && vector_open(pci, v)) {
            vector_send(pci, v);
        }
    }
}

static u64 msix_read(void *device, u32 region UNUSED, u64 offset, u32 size) {
    const struct pci_device *pci = device;
    const struct pci_msix *m = &pci->msix;
    u32 value = 0;
    if (offset & 3) {
        return 0; /* aligned doublewords only; others would reach across entries */
    }
    if (offset < m->count * (u64)ENTRY_SIZE) {
        memcpy(&value, (const u8 *)m->entry + offset, size);
    } else if (offset - PCI_MSIX_PBA < sizeof(m->pending)) {
        memcpy(&value, (const u8 *)m->pending + (offset - PCI_MSIX_PBA), size);
    }
    return value;
}

static void msix_write(void *device, u32 region UNUSED, u64 offset, u32 size, u64 value) {
    struct pci_device *pci = device;
    struct pci_msix *m = &pci->msix;
    u32 word = (u32)value;
    if ((offset & 3) || offset >= m->count * (u64)ENTRY_SIZE) {
        return;
    }
    if (offset % ENTRY_SIZE == offsetof(struct pci_msix_entry, control)) {
        word &= VECTOR_CONTROL_MASKED;
    } else if (offset % ENTRY_SIZE == 0) {
        word &= ~3u; /* a message is a naturally aligned doubleword */
    }
    memcpy((u8 *)m->entry + offset, &word, size);
    send_pending(pci);
}

static const struct bus_ops msix_bus_ops = {msix_read, msix_write, 4, 4};

int pci_msix_define(struct pci_device *pci, u32 bar, u16 vectors) {
    if (!vectors || vectors > PCI_MSIX_MAX || pci->msix.count) {
        return -ERR_INVAL;
    }
    int error = pci_bar_define(pci, bar, PCI_BAR_MEM32, false, PCI_MSIX_BAR_SIZE, &msix_bus_ops,
                               pci, "msix");
    if (error) {
        return error;
    }
    int cap = pci_cap_add(pci, CAP_ID_MSIX, CAP_MSIX_SIZE);
    if (cap < 0) {
        return cap;
    }
    pci_set16(pci, (u32)cap + MSIX_CONTROL, (u16)(vectors - 1));
    pci_set32(pci, (u32)cap + MSIX_TABLE, bar);
    pci_set32(pci, (u32)cap + MSIX_PBA, PCI_MSIX_PBA | bar);
    pci->write_mask[cap + MSIX_CONTROL + 1] = 0xc0;
    pci->msix.count = vectors;
    pci->msix.cap = (u8)cap;
    pci->msix.bar = (u8)bar;
    pci_msix_reset(pci);
    return 0;
}

void pci_msix_config_written(struct pci_device *pci) {
    send_pending(pci);
}

void pci_msix_reset(struct pci_device *pci) {
    memset(pci->msix.entry, 0, sizeof(pci->msix.entry));
    memset(pci->msix.pending, 0, sizeof(pci->msix.pending));
    for (u32 v = 0; v < pci->msix.count; v++) {
        pci->msix.entry[v].control = VECTOR_CONTROL_MASKED;
    }
}

void pci_msix_save(const struct pci_device *pci, struct snap_writer *w) {
    const struct pci_msix *m = &pci->msix;
    snap_put16(w, m->count);
    snap_put(w, m->entry, m->count * sizeof(m->entry[0]));
    snap_put(w, m->pending, sizeof(m->pending));
}

void pci_msix_load(struct pci_device *pci, struct snap_reader *r) {
    struct pci_msix *m = &pci->msix;
    if (snap_get16(r) != m->count) {
        r->failed = true;
        return;
    }
    snap_get(r, m->entry, m->count * sizeof(m->entry[0]));
    snap_get(r, m->pending, sizeof(m->pending));
    for (u32 v = 0; v < PCI_MSIX_MAX; v++) {
        m->entry[v].control &= VECTOR_CONTROL_MASKED;
        if (v >= m->count) {
            m->pending[v / 64] &= ~BIT(v % 64);
        }
    }
}
