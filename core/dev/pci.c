/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI function: header type 0, write masks, BARs, capabilities, INTx. PCI Local Bus 3.0,
 * chapter 6. MSI-X is in msix.c. Left out: see pci.h. Lock rule: board lock held.
 */
#include "core/dev/pci.h"

#include "core/base/err.h"
#include "core/dev/pcihost.h"

enum { BAR_IO_FLAG = 1, BAR_MEM64_FLAG = 4, BAR_PREFETCH_FLAG = 8, CAP_FIRST = 0x40 };

u16 pci_get16(const struct pci_device *pci, u32 offset) {
    u16 v;
    memcpy(&v, pci->config + offset, sizeof(v));
    return v;
}

u32 pci_get32(const struct pci_device *pci, u32 offset) {
    u32 v;
    memcpy(&v, pci->config + offset, sizeof(v));
    return v;
}

void pci_set16(struct pci_device *pci, u32 offset, u16 value) {
    memcpy(pci->config + offset, &value, sizeof(value));
}

void pci_set32(struct pci_device *pci, u32 offset, u32 value) {
    memcpy(pci->config + offset, &value, sizeof(value));
}

void pci_device_init(struct pci_device *pci, const struct pci_ids *ids, const struct pci_ops *ops) {
    pci->ops = ops;
    pci_set16(pci, PCI_VENDOR_ID, ids->vendor);
    pci_set16(pci, PCI_DEVICE_ID, ids->device);
    pci_set16(pci, PCI_SUBSYSTEM_VENDOR_ID, ids->subsystem_vendor);
    pci_set16(pci, PCI_SUBSYSTEM_ID, ids->subsystem);
    pci->config[PCI_REVISION_ID] = ids->revision;
    pci->config[PCI_CLASS_PROG] = (u8)ids->class_code;
    pci->config[PCI_SUBCLASS] = (u8)(ids->class_code >> 8);
    pci->config[PCI_CLASS] = (u8)(ids->class_code >> 16);
    pci->write_mask[PCI_COMMAND] =
        PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | 0x40 /* parity error response */;
    pci->write_mask[PCI_COMMAND + 1] = 0x05; /* SERR# enable, INTx disable */
    pci->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
    pci->write_mask[PCI_INTERRUPT_LINE] = 0xff;
    pci->cap_end = CAP_FIRST;
}

/* --- base address registers ------------------------------------------------------------------- */

static bool bar_free(const struct pci_device *pci, u32 index) {
    return index < PCI_BARS && pci->bar[index].kind == PCI_BAR_NONE &&
           (index == 0 || pci->bar[index - 1].kind != PCI_BAR_MEM64);
}

static bool bar_size_ok(enum pci_bar_kind kind, u64 size) {
    if (!size || (size & (size - 1))) {
        return false;
    }
    switch (kind) {
    case PCI_BAR_IO:
        return size >= 4 && size <= 256;
    case PCI_BAR_MEM32:
        return size >= 16 && size <= GIB;
    case PCI_BAR_MEM64:
        return size >= 16 && size <= 64 * GIB;
    default:
        return false;
    }
}

int pci_bar_define(struct pci_device *pci, u32 index, enum pci_bar_kind kind, bool prefetch,
                   u64 size, const struct bus_ops *ops, void *device, const char *name) {
    u32 reg = PCI_BAR0 + index * 4;
    if (!bar_free(pci, index) || !bar_size_ok(kind, size) || pci->host ||
        (kind == PCI_BAR_MEM64 && !bar_free(pci, index + 1))) {
        return -ERR_INVAL;
    }
    struct pci_bar *bar = &pci->bar[index];
    bar->kind = (u8)kind;
    bar->prefetch = prefetch && kind != PCI_BAR_IO;
    bar->size = size;
    bar->region = (struct bus_region){
        .size = size, .ops = ops, .device = device, .region = index, .name = name};
    u64 mask = ~(size - 1);
    u32 low = (u32)mask, high = (u32)(mask >> 32);
    u8 flags = 0;
    if (kind == PCI_BAR_IO) {
        flags = BAR_IO_FLAG;
    } else {
        flags = (u8)((kind == PCI_BAR_MEM64 ? BAR_MEM64_FLAG : 0) |
                     (bar->prefetch ? BAR_PREFETCH_FLAG : 0));
    }
    pci->config[reg] = flags;
    memcpy(pci->write_mask + reg, &low, sizeof(low));
    if (kind == PCI_BAR_MEM64) {
        memcpy(pci->write_mask + reg + 4, &high, sizeof(high));
    }
    return 0;
}

u64 pci_bar_address(const struct pci_device *pci, u32 index) {
    const struct pci_bar *bar = &pci->bar[index];
    u32 reg = PCI_BAR0 + index * 4;
    u64 address = pci_get32(pci, reg);
    if (bar->kind == PCI_BAR_MEM64) {
        address |= (u64)pci_get32(pci, reg + 4) << 32;
    }
    return address & ~(bar->size - 1);
}

void pci_bar_set_address(struct pci_device *pci, u32 index, u64 address) {
    u32 reg = PCI_BAR0 + index * 4;
    pci_config_write(pci, reg, 4, (u32)address);
    if (pci->bar[index].kind == PCI_BAR_MEM64) {
        pci_config_write(pci, reg + 4, 4, (u32)(address >> 32));
    }
}

/* --- capabilities ----------------------------------------------------------------------------- */

int pci_cap_add(struct pci_device *pci, u8 id, u8 size) {
    u32 at = pci->cap_end;
    if (size < 2 || pci->host || at + size > PCI_CONFIG_SIZE - 4) {
        return -ERR_NOMEM;
    }
    pci->config[at] = id;
    pci->config[at + 1] = 0;
    u32 link = PCI_CAPABILITIES;
    for (u32 guard = 0; pci->config[link] && guard < 48; guard++) {
        link = pci->config[link] + 1u;
    }
    pci->config[link] = (u8)at;
    pci->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    pci->cap_end = (u8)ALIGN_UP(at + size, 4u);
    return (int)at;
}

/* --- INTx ------------------------------------------------------------------------------------- */

void pci_intx_define(struct pci_device *pci) {
    pci->config[PCI_INTERRUPT_PIN] = 1;
}

static void intx_update(struct pci_device *pci) {
    u16 command = pci_get16(pci, PCI_COMMAND);
    pci->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTERRUPT;
    if (pci->intx) {
        pci->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    }
    pci->intx_line = pci->intx && !(command & PCI_COMMAND_INTX_DISABLE) && !pci_msix_enabled(pci);
    if (pci->host) {
        pci_host_intx_update(pci->host);
    }
}

void pci_intx_set(struct pci_device *pci, bool level) {
    if (pci->config[PCI_INTERRUPT_PIN] && pci->intx != level) {
        pci->intx = level;
        intx_update(pci);
    }
}

bool pci_bus_master(const struct pci_device *pci) {
    return pci_get16(pci, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

/* --- configuration space ---------------------------------------------------------------------- */

u32 pci_config_read(struct pci_device *pci, u32 offset, u32 size) {
    u32 value = 0;
    if (offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset || size > sizeof(value)) {
        return 0;
    }
    if (pci->ops && pci->ops->config_read) {
        pci->ops->config_read(pci, offset, size);
    }
    memcpy(&value, pci->config + offset, size);
    return value;
}

static bool touches(u32 offset, u32 size, u32 from, u32 bytes) {
    return offset < from + bytes && from < offset + size;
}

void pci_config_write(struct pci_device *pci, u32 offset, u32 size, u32 value) {
    if (offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset || size > sizeof(value)) {
        return;
    }
    for (u32 i = 0; i < size; i++) {
        u8 mask = pci->write_mask[offset + i];
        u8 byte = (u8)(value >> (i * 8));
        pci->config[offset + i] = (u8)((pci->config[offset + i] & ~mask) | (byte & mask));
    }
    if (!pci->host) {
        return;
    }
    bool msix = pci->msix.count && touches(offset, size, pci->msix.cap + 2u, 2);
    if (touches(offset, size, PCI_BAR0, PCI_BARS * 4) || touches(offset, size, PCI_COMMAND, 2)) {
        pci_host_remap(pci->host);
    }
    if (msix) {
        pci_msix_config_written(pci);
    }
    if (msix || touches(offset, size, PCI_COMMAND, 2)) {
        intx_update(pci);
    }
    if (pci->ops && pci->ops->config_write) {
        pci->ops->config_write(pci, offset, size);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

void pci_device_reset(struct pci_device *pci) {
    memcpy(pci->config, pci->reset_config, sizeof(pci->config));
    pci->intx = false;
    pci_msix_reset(pci);
    intx_update(pci);
    pci_host_remap(pci->host);
}

void pci_device_save(const struct pci_device *pci, struct snap_writer *w) {
    snap_put(w, pci->config, sizeof(pci->config));
    snap_put8(w, pci->intx);
    pci_msix_save(pci, w);
}

/* Only what the guest could have written is taken: the rest of the header is the device's own. */
int pci_device_load(struct pci_device *pci, struct snap_reader *r) {
    u8 config[PCI_CONFIG_SIZE];
    snap_get(r, config, sizeof(config));
    pci->intx = snap_get_bool(r);
    pci_msix_load(pci, r);
    if (r->failed || memcmp(config, pci->config, PCI_COMMAND)) {
        pci_device_reset(pci);
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < PCI_CONFIG_SIZE; i++) {
        u8 mask = pci->write_mask[i];
        pci->config[i] = (u8)((pci->config[i] & ~mask) | (config[i] & mask));
    }
    intx_update(pci);
    pci_host_remap(pci->host);
    return 0;
}

void pci_device_remove(struct pci_device *pci) {
    if (pci->host) {
        pci->intx = false;
        intx_update(pci);
        pci_host_detach(pci->host, pci);
    }
}
