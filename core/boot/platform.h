/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware tables tell an operating system about the machine: filled by the board from what it
 * has really built, read by the ACPI, MP and SMBIOS writers.
 */
#ifndef CORE_BOOT_PLATFORM_H
#define CORE_BOOT_PLATFORM_H

#include "core/base/err.h"
#include "core/mem/ram.h"

enum { PLATFORM_MAX_MMIO = 32, PLATFORM_MAX_SERIAL = 4 };

struct platform_mmio { /* a virtio-mmio window */
    u64 base;
    u32 size;
    u32 gsi;
};

struct platform_serial {
    u16 port;
    u8 irq;
};

struct platform {
    u32 vcpus;
    u64 ecam_base; /* 0: none */
    u32 ecam_buses;
    u64 mem32_base, mem32_size; /* PCI windows; size 0: none */
    u64 mem64_base, mem64_size;
    bool pci;
    struct platform_serial serial[PLATFORM_MAX_SERIAL];
    u32 serial_count;
    struct platform_mmio mmio[PLATFORM_MAX_MMIO];
    u32 mmio_count;
    bool mmio_in_acpi; /* list them in the DSDT (else the command line names them) */
    u8 uuid[16];
};

/* The GSI of pin (0 = A) of a slot on bus 0: the same rule as pci_intx_gsi of core/dev/pcihost.h,
 * which the board checks against this. */
static inline u32 platform_pci_gsi(u32 slot, u32 pin) {
    return 10 + ((slot + pin) & 1);
}

#define PLATFORM_IOAPIC_BASE 0xfec00000u
#define PLATFORM_LAPIC_BASE  0xfee00000u

/* Writes the tables at LAYOUT_ACPI; *rsdp becomes the address of the RSDP. */
int acpi_write(const struct platform *p, struct ram *ram, u64 *rsdp, struct err *err);
/* Writes floating pointer and table at LAYOUT_MPTABLE, and the BIOS data area. */
int mptable_write(const struct platform *p, struct ram *ram, struct err *err);
/* Writes a 64-bit SMBIOS entry point and the least set of structures at LAYOUT_SMBIOS. */
int smbios_write(const struct platform *p, struct ram *ram, struct err *err);

#endif
