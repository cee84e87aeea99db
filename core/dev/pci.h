/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI function: configuration space with write masks, base address registers, the capability
 * list, INTx and MSI-X. PCI Local Bus 3.0, chapter 6 (configuration space, 6.2.5 BARs, 6.8.2
 * MSI-X). The bus it sits on is core/dev/pcihost.h.
 *
 * A device embeds struct pci_device as its first member, fills it with pci_device_init,
 * pci_bar_define and so on, hangs it on the bus with pci_device_add, and calls pci_device_reset,
 * _save, _load and _remove from its own device_ops.
 *
 * Not modelled: power management, expansion ROMs, bridges, plain MSI, the PCI Express capability.
 * Lock rule: the board lock is held for every call; pci_msix_notify too.
 */
#ifndef CORE_DEV_PCI_H
#define CORE_DEV_PCI_H

#include "core/dev/device.h"

struct pci_host;
struct pci_device;

enum {
    PCI_CONFIG_SIZE = 256,
    PCI_BARS = 6,
    PCI_MSIX_MAX = 128, /* vectors of one function */
    PCI_MSIX_BAR_SIZE = 4096,
    PCI_MSIX_PBA = 2048, /* offset of the pending bits in the MSI-X BAR; the table is at 0 */
};

/* Configuration registers (PCI 3.0, figure 6-1), offsets. */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_SUBCLASS = 0x0a,
    PCI_CLASS = 0x0b,
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};

#define PCI_COMMAND_IO           BIT(0)
#define PCI_COMMAND_MEMORY       BIT(1)
#define PCI_COMMAND_MASTER       BIT(2)
#define PCI_COMMAND_INTX_DISABLE BIT(10)

#define PCI_STATUS_INTERRUPT    BIT(3)
#define PCI_STATUS_CAPABILITIES BIT(4)

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    u8 kind; /* enum pci_bar_kind; the register after a PCI_BAR_MEM64 is its upper half */
    bool prefetch;
    u64 size;                 /* bytes, a power of two */
    struct bus_region region; /* .mapped says whether it decodes now, .base where */
    bool wanted;              /* scratch of pcihost.c: should decode, at target */
    u64 target;
};

struct pci_msix_entry {
    u64 address;
    u32 data;
    u32 control; /* bit 0: masked */
};

struct pci_msix {
    u16 count; /* 0: the function has no MSI-X */
    u8 cap;    /* offset of the capability */
    u8 bar;
    struct pci_msix_entry entry[PCI_MSIX_MAX];
    u64 pending[PCI_MSIX_MAX / 64];
};

/* Hooks of the device behind the function; any may be NULL. */
struct pci_ops {
    /* Before [offset, offset+size) of config is read: bring it up to date. */
    void (*config_read)(struct pci_device *pci, u32 offset, u32 size);
    /* After config was written through the masks. */
    void (*config_write)(struct pci_device *pci, u32 offset, u32 size);
    /* A BAR began or ended to decode, or moved: bar[index].region tells. */
    void (*bar_moved)(struct pci_device *pci, u32 index);
};

struct pci_device {
    struct device dev;
    const struct pci_ops *ops;
    struct pci_host *host; /* NULL before pci_device_add */
    u8 devfn;              /* slot << 3 | function */
    bool intx;             /* the level the device asks for */
    bool intx_line;        /* the level that reaches the GSI */
    u8 config[PCI_CONFIG_SIZE];
    u8 write_mask[PCI_CONFIG_SIZE];   /* 1: the guest may write the bit */
    u8 reset_config[PCI_CONFIG_SIZE]; /* what reset restores: pci_device_add, pci_host_firmware */
    u8 cap_end;                       /* first byte not used by a capability */
    struct pci_bar bar[PCI_BARS];
    struct pci_msix msix;
};

struct pci_ids {
    u16 vendor, device, subsystem_vendor, subsystem;
    u32 class_code; /* class << 16 | subclass << 8 | programming interface */
    u8 revision;
};

/* Fills a header type 0. dev->dev.ops and .env are the caller's to set. */
void pci_device_init(struct pci_device *pci, const struct pci_ids *ids, const struct pci_ops *ops);

/*
 * Defines BAR index before pci_device_add: size a power of two (at least 16 for memory, 4 for I/O).
 * ops and device get the accesses, with the BAR's index as region. -ERR_INVAL on nonsense.
 */
int pci_bar_define(struct pci_device *pci, u32 index, enum pci_bar_kind kind, bool prefetch,
                   u64 size, const struct bus_ops *ops, void *device, const char *name);

/* The address in the register (not necessarily decoded now). */
u64 pci_bar_address(const struct pci_device *pci, u32 index);
/* As a write of the register by firmware. */
void pci_bar_set_address(struct pci_device *pci, u32 index, u64 address);

/*
 * Appends a capability of size bytes (with its two header bytes) and returns its offset, or a
 * negative error when config space is full. Its content starts as zeros and read only.
 */
int pci_cap_add(struct pci_device *pci, u8 id, u8 size);

/* A BAR of PCI_MSIX_BAR_SIZE (32-bit memory) with table and PBA, and the capability. */
int pci_msix_define(struct pci_device *pci, u32 bar, u16 vectors);
bool pci_msix_enabled(const struct pci_device *pci);
/* Sends the vector's message, or leaves it pending while masked. Vectors out of range: nothing. */
void pci_msix_notify(struct pci_device *pci, u16 vector);
/* The MSI-X part of a configuration write, of reset, and of saving; for pci.c. */
void pci_msix_config_written(struct pci_device *pci);
void pci_msix_reset(struct pci_device *pci);
void pci_msix_save(const struct pci_device *pci, struct snap_writer *w);
void pci_msix_load(struct pci_device *pci, struct snap_reader *r);

/* Pin A (shown in the header, with the line) and its level. */
void pci_intx_define(struct pci_device *pci);
void pci_intx_set(struct pci_device *pci, bool level);

bool pci_bus_master(const struct pci_device *pci);

u16 pci_get16(const struct pci_device *pci, u32 offset);
u32 pci_get32(const struct pci_device *pci, u32 offset);
void pci_set16(struct pci_device *pci, u32 offset, u16 value);
void pci_set32(struct pci_device *pci, u32 offset, u32 value);

/* A configuration access; size 1, 2 or 4, naturally aligned, below PCI_CONFIG_SIZE. */
u32 pci_config_read(struct pci_device *pci, u32 offset, u32 size);
void pci_config_write(struct pci_device *pci, u32 offset, u32 size, u32 value);

/* Parts of the owner's device_ops. Reset restores what pci_host_firmware left: addresses and
 * decoding stay, because nobody would assign them again before a kernel starts. */
void pci_device_reset(struct pci_device *pci);
void pci_device_save(const struct pci_device *pci, struct snap_writer *w);
int pci_device_load(struct pci_device *pci, struct snap_reader *r);
void pci_device_remove(struct pci_device *pci);

#endif
