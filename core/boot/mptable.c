/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MP table (Intel MultiProcessor Specification 1.4, chapter 4), for kernels that know or want
 * no ACPI: processors, PCI and ISA bus, IOAPIC, interrupt routing. Also the BIOS data area words
 * that say where base memory ends.
 *
 * The pins 16..23, which no ISA card can drive, are listed as ISA interrupts all the same: a driver
 * told of them on the command line (virtio_mmio.device=) finds them under their own number.
 */
#include "core/boot/layout.h"
#include "core/boot/platform.h"

struct mp_floating {
    char signature[4];
    u32 table;
    u8 length, revision, checksum, features[5];
} PACKED;

struct mp_header {
    char signature[4];
    u16 length;
    u8 revision, checksum;
    char oem_id[8], product_id[12];
    u32 oem_table;
    u16 oem_size, entries;
    u32 lapic;
    u16 extended_length;
    u8 extended_checksum, reserved;
} PACKED;

struct mp_processor {
    u8 type, apic_id, apic_version, flags;
    u32 signature, features;
    u32 reserved[2];
} PACKED;

struct mp_bus {
    u8 type, id;
    char name[6];
} PACKED;

struct mp_ioapic {
    u8 type, id, version, flags;
    u32 address;
} PACKED;

struct mp_interrupt { /* I/O and local: the same layout */
    u8 type, kind;
    u16 flags;
    u8 bus, irq, apic, pin;
} PACKED;

_Static_assert(sizeof(struct mp_floating) == 16, "MP floating pointer structure");
_Static_assert(sizeof(struct mp_header) == 44, "MP configuration table header");
_Static_assert(sizeof(struct mp_processor) == 20, "processor entry");
_Static_assert(sizeof(struct mp_interrupt) == 8, "interrupt entry");

enum {
    ENTRY_PROCESSOR = 0,
    ENTRY_BUS = 1,
    ENTRY_IOAPIC = 2,
    ENTRY_IO_INTERRUPT = 3,
    ENTRY_LOCAL_INTERRUPT = 4,
    KIND_INT = 0,
    KIND_NMI = 1,
    KIND_EXTINT = 3,
    FLAGS_LEVEL_HIGH = 0x0d,
    BUS_PCI = 0,
    BUS_ISA = 1,
    CPU_ENABLED = 1,
    CPU_BSP = 2,
    APIC_VERSION = 0x14,
    IOAPIC_VERSION = 0x11,
    APIC_ALL = 0xff,
    PINS = 24,
    SCI = 9,
};

struct table {
    u8 bytes[LAYOUT_MPTABLE_END - LAYOUT_MPTABLE - sizeof(struct mp_floating)];
    size_t len;
    u16 entries;
};

static u8 checksum(const void *data, size_t n) {
    const u8 *p = data;
    u8 sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum = (u8)(sum + p[i]);
    }
    return (u8)(0u - sum);
}

static void add(struct table *t, const void *entry, size_t n) {
    if (n <= sizeof(t->bytes) - t->len) {
        memcpy(t->bytes + t->len, entry, n);
        t->len += n;
        t->entries++;
    }
}

static void add_interrupt(struct table *t, u8 type, u8 kind, u16 flags, u8 bus, u32 irq, u8 apic,
                          u32 pin) {
    struct mp_interrupt e = {type, kind, flags, bus, (u8)irq, apic, (u8)pin};
    add(t, &e, sizeof(e));
}

static void add_processors(struct table *t, const struct platform *p) {
    for (u32 i = 0; i < p->vcpus; i++) {
        struct mp_processor e = {.type = ENTRY_PROCESSOR,
                                 .apic_id = (u8)i,
                                 .apic_version = APIC_VERSION,
                                 .flags = CPU_ENABLED | (i ? 0 : CPU_BSP),
                                 .signature = 0x600,
                                 .features = 0x201}; /* FPU, APIC */
        add(t, &e, sizeof(e));
    }
}

static bool virtio_pin(const struct platform *p, u32 pin) {
    for (u32 i = 0; i < p->mmio_count; i++) {
        if (p->mmio[i].gsi == pin) {
            return true;
        }
    }
    return false;
}

/* ISA interrupts on their pins; the PIT (0) is on pin 2, and 10 and 11 are PCI's. */
static void add_isa(struct table *t, const struct platform *p, u8 ioapic) {
    for (u32 irq = 0; irq < PINS; irq++) {
        bool pci = p->pci && (irq == 10 || irq == 11);
        if (irq == 2 || pci) {
            continue;
        }
        u16 flags = irq == SCI || virtio_pin(p, irq) ? FLAGS_LEVEL_HIGH : 0;
        add_interrupt(t, ENTRY_IO_INTERRUPT, KIND_INT, flags, BUS_ISA, irq, ioapic, irq ? irq : 2);
    }
}

static void add_pci(struct table *t, u8 ioapic) {
    for (u32 slot = 0; slot < 32; slot++) {
        for (u32 pin = 0; pin < 4; pin++) {
            add_interrupt(t, ENTRY_IO_INTERRUPT, KIND_INT, FLAGS_LEVEL_HIGH, BUS_PCI,
                          slot << 2 | pin, ioapic, platform_pci_gsi(slot, pin));
        }
    }
}

static void add_all(struct table *t, const struct platform *p) {
    struct mp_bus pci = {ENTRY_BUS, BUS_PCI, "PCI   "}, isa = {ENTRY_BUS, BUS_ISA, "ISA   "};
    struct mp_ioapic ioapic = {ENTRY_IOAPIC, (u8)p->vcpus, IOAPIC_VERSION, 1, PLATFORM_IOAPIC_BASE};
    add_processors(t, p);
    if (p->pci) {
        add(t, &pci, sizeof(pci));
    }
    add(t, &isa, sizeof(isa));
    add(t, &ioapic, sizeof(ioapic));
    if (p->pci) {
        add_pci(t, ioapic.id);
    }
    add_isa(t, p, ioapic.id);
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, KIND_EXTINT, 0, BUS_ISA, 0, 0, 0);
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, KIND_NMI, 0, BUS_ISA, 0, APIC_ALL, 1);
}

static void finish(struct table *t) {
    struct mp_header h = {.signature = "PCMP",
                          .length = (u16)t->len,
                          .revision = 4,
                          .entries = t->entries,
                          .lapic = PLATFORM_LAPIC_BASE};
    memcpy(h.oem_id, "SOSIA   ", 8);
    memcpy(h.product_id, "PC          ", 12);
    memcpy(t->bytes, &h, sizeof(h));
    h.checksum = checksum(t->bytes, t->len);
    memcpy(t->bytes, &h, sizeof(h));
}

static int write_bda(struct ram *ram) {
    u16 ebda = (u16)(LAYOUT_EBDA >> 4), base_kib = (u16)(LAYOUT_EBDA / 1024);
    int rc = ram_write(ram, LAYOUT_BDA_EBDA, &ebda, sizeof(ebda));
    return rc ? rc : ram_write(ram, LAYOUT_BDA_BASE_KIB, &base_kib, sizeof(base_kib));
}

int mptable_write(const struct platform *p, struct ram *ram, struct err *err) {
    struct mp_floating f = {.signature = "_MP_", .length = 1, .revision = 4};
    struct table t = {.len = sizeof(struct mp_header)};
    u64 at = LAYOUT_MPTABLE + sizeof(f);
    add_all(&t, p);
    finish(&t);
    f.table = (u32)at;
    f.checksum = checksum(&f, sizeof(f));
    int rc = ram_write(ram, LAYOUT_MPTABLE, &f, sizeof(f));
    rc = rc ? rc : ram_write(ram, at, t.bytes, t.len);
    rc = rc ? rc : write_bda(ram);
    return rc ? ERR_SET(err, ERR_RANGE, "memory: less than 1 MiB, too small for the MP table") : 0;
}
