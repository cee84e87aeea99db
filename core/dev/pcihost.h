/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI host bridge and root bus 0: configuration mechanism 1 (ports 0xcf8 and 0xcfc, PCI 3.0
 * section 3.2.2.3.2), the ECAM window (PCI Express 4.0, section 7.2.2; 1 MiB per bus, buses other
 * than 0 read all ones), the memory and I/O windows that it forwards to BARs, INTx routing, and
 * the reset register at 0xcf9.
 *
 *   pin A of slot n -> GSI 10 + (n & 1)      pin of function f: one further per function
 *
 * A BAR decodes while its address lies inside a window, outside RAM, and clear of every device
 * with a lower bus address (slot, then function, then BAR index) and of the chips on the bus: the
 * others stay silent until there is room. What decodes is a pure function of the configuration
 * spaces, so that a loaded machine decodes what the saved one did.
 *
 * Lock rule: board lock held.
 */
#ifndef CORE_DEV_PCIHOST_H
#define CORE_DEV_PCIHOST_H

#include "core/dev/pci.h"

enum { PCI_SLOTS = 32, PCI_FUNCTIONS = 8, PCI_GSI_BASE = 10, PCI_GSI_COUNT = 2 };

struct pci_window {
    u64 base;
    u64 size; /* 0: no window */
};

struct pci_host_opts {
    u64 ecam_base;           /* 0: no ECAM; 0xe0000000 */
    u32 ecam_buses;          /* MiB of the window; 1 is enough */
    struct pci_window mem32; /* 0xc1000000..0xdfffffff */
    struct pci_window mem64; /* above RAM */
    struct pci_window io;    /* 0x1000..0xffff */
};

struct pci_host {
    struct pci_device bridge; /* 0:0.0, and the struct device of the whole */
    struct pci_host_opts opts;
    struct bus_region ports; /* 0xcf8..0xcff */
    struct bus_region ecam;
    u32 address; /* CONFIG_ADDRESS */
    u8 reset_control;
    bool gsi_level[PCI_GSI_COUNT];
    struct pci_device *function[PCI_SLOTS * PCI_FUNCTIONS]; /* by devfn */
};

/* The caller owns host (zeroed) and adds &host->bridge.dev to its device list. */
int pci_host_init(struct pci_host *host, struct device_env *env, const struct pci_host_opts *opts,
                  struct err *err);

/* slot 1..31, or PCI_SLOT_AUTO for the first free one. Function 0. */
#define PCI_SLOT_AUTO (-1)
int pci_device_add(struct pci_host *host, struct pci_device *pci, int slot, struct err *err);
/* A further function 1..7 of a slot whose function 0 is there. */
int pci_function_add(struct pci_host *host, struct pci_device *pci, u32 slot, u32 function,
                     struct err *err);
void pci_host_detach(struct pci_host *host, struct pci_device *pci);

/*
 * What firmware does before a kernel starts: gives each BAR an address in the windows and enables
 * decoding. Call after all devices were added. Resets restore it.
 */
int pci_host_firmware(struct pci_host *host, struct err *err);

/* The GSI of a function's INTx pin, as ACPI's _PRT and the MP table must tell it. */
u32 pci_intx_gsi(u32 slot, u32 pin); /* pin 0 = A */

/* For pci.c: BAR registers or command changed; the level of a pin may have changed. */
void pci_host_remap(struct pci_host *host);
void pci_host_intx_update(struct pci_host *host);

#endif
