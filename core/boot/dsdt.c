/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DSDT: processors, PCI root with its windows and interrupt routing, the ISA devices, virtio
 * windows, the generation identifier and the S5 state. Interrupts are static GSIs; there are no
 * link devices.
 */
#include "core/boot/dsdt.h"

#include "core/base/fmt.h"
#include "core/boot/layout.h"
#include "core/time/acpipm.h"

enum { SLOTS = 32, PINS = 4 };

static void name4(char out[5], char prefix, u32 n) {
    fmt_str(out, 5, "%c%03X", prefix, n & 0xfff);
}

static void add_cpus(const struct platform *p, struct aml *a) {
    for (u32 i = 0; i < p->vcpus; i++) {
        char name[5];
        name4(name, 'C', i);
        size_t dev = aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a, dev);
    }
}

static void add_prt(struct aml *a) {
    aml_name(a, "_PRT");
    size_t table = aml_package(a, SLOTS * PINS);
    for (u32 slot = 0; slot < SLOTS; slot++) {
        for (u32 pin = 0; pin < PINS; pin++) {
            size_t row = aml_package(a, 4);
            aml_int(a, (u64)slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, platform_pci_gsi(slot, pin));
            aml_end(a, row);
        }
    }
    aml_end(a, table);
}

static void add_pci(const struct platform *p, struct aml *a) {
    size_t dev = aml_device(a, "PCI0");
    aml_name_eisaid(a, "_HID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_BBN", 0);
    aml_name_int(a, "_SEG", 0);
    struct aml_resources r = aml_resources(a, "_CRS");
    aml_bus_numbers(a, 0, 0);
    aml_io(a, 0xcf8, 8);
    aml_io_window(a, 0x0000, 0x0cf7);
    aml_io_window(a, 0x0d00, 0xffff);
    if (p->mem32_size) {
        aml_memory_window32(a, (u32)p->mem32_base, (u32)(p->mem32_base + p->mem32_size - 1));
    }
    if (p->mem64_size) {
        aml_memory_window64(a, p->mem64_base, p->mem64_base + p->mem64_size - 1);
    }
    aml_resources_end(a, r);
    add_prt(a);
    aml_end(a, dev);
}

/* ECAM, chips and ACPI ports that no other device claims: Linux believes MCFG only then. */
static void add_motherboard(const struct platform *p, struct aml *a) {
    size_t dev = aml_device(a, "MBRD");
    aml_name_eisaid(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 0);
    struct aml_resources r = aml_resources(a, "_CRS");
    if (p->ecam_base) {
        aml_memory32(a, (u32)p->ecam_base, (u32)(p->ecam_buses * MIB));
    }
    aml_io(a, ACPIPM_PORT, ACPIPM_SIZE);
    aml_resources_end(a, r);
    aml_end(a, dev);
}

static void add_serial(const struct platform *p, struct aml *a) {
    for (u32 i = 0; i < p->serial_count; i++) {
        char name[5];
        fmt_str(name, sizeof(name), "COM%u", i + 1);
        size_t dev = aml_device(a, name);
        aml_name_eisaid(a, "_HID", "PNP0501");
        aml_name_int(a, "_UID", i);
        struct aml_resources r = aml_resources(a, "_CRS");
        aml_io(a, p->serial[i].port, 8);
        aml_irq(a, p->serial[i].irq);
        aml_resources_end(a, r);
        aml_end(a, dev);
    }
}

static void add_isa(struct aml *a, const char *name, const char *hid, u16 port, u8 length,
                    u16 port2, u8 irq) {
    size_t dev = aml_device(a, name);
    aml_name_eisaid(a, "_HID", hid);
    struct aml_resources r = aml_resources(a, "_CRS");
    aml_io(a, port, length);
    if (port2) {
        aml_io(a, port2, length);
    }
    aml_irq(a, irq);
    aml_resources_end(a, r);
    aml_end(a, dev);
}

static void add_virtio(const struct platform *p, struct aml *a) {
    for (u32 i = 0; i < p->mmio_count && p->mmio_in_acpi; i++) {
        char name[5];
        name4(name, 'V', i);
        size_t dev = aml_device(a, name);
        aml_name_string(a, "_HID", "LNRO0005");
        aml_name_int(a, "_UID", i);
        aml_name_int(a, "_CCA", 1);
        struct aml_resources r = aml_resources(a, "_CRS");
        aml_memory32(a, (u32)p->mmio[i].base, p->mmio[i].size);
        aml_interrupt(a, p->mmio[i].gsi);
        aml_resources_end(a, r);
        aml_end(a, dev);
    }
}

/* The virtual machine generation identifier (Microsoft, "Virtual Machine Generation ID", 2012):
 * ADDR is where it stands in memory, low and high half; an event says that it has changed. */
static void add_vmgenid(struct aml *a) {
    size_t dev = aml_device(a, "VGEN");
    aml_name_string(a, "_HID", "SOSI0001");
    aml_name_string(a, "_CID", "VM_Gen_Counter");
    aml_name_string(a, "_DDN", "VM_Gen_Counter");
    aml_name(a, "ADDR");
    size_t address = aml_package(a, 2);
    aml_int(a, (u32)LAYOUT_VMGENID);
    aml_int(a, LAYOUT_VMGENID >> 32);
    aml_end(a, address);
    aml_end(a, dev);
}

/* What the general-purpose events mean: method _Exx for edge-triggered event xx. */
static void add_events(struct aml *a) {
    char name[5];
    size_t scope = aml_scope(a, "\\_GPE");
    fmt_str(name, sizeof(name), "_E%02X", ACPIPM_GPE_VMGENID);
    size_t method = aml_method(a, name, 0);
    aml_notify(a, "_SB_", "VGEN", 0x80);
    aml_end(a, method);
    aml_end(a, scope);
}

static void add_s5(struct aml *a) {
    aml_name(a, "_S5_");
    size_t s5 = aml_package(a, 4);
    aml_int(a, ACPIPM_S5_SLP_TYP);
    aml_int(a, ACPIPM_S5_SLP_TYP);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a, s5);
}

void dsdt_build(const struct platform *p, struct aml *a) {
    size_t scope = aml_scope(a, "\\_SB_");
    add_cpus(p, a);
    if (p->pci) {
        add_pci(p, a);
    }
    add_motherboard(p, a);
    add_serial(p, a);
    add_isa(a, "RTC_", "PNP0B00", 0x70, 2, 0, 8);
    add_isa(a, "KBD_", "PNP0303", 0x60, 1, 0x64, 1);
    add_virtio(p, a);
    add_vmgenid(a);
    aml_end(a, scope);
    add_events(a);
    add_s5(a);
}
