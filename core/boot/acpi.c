/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (ACPI 6.4, section 5.2):
 *
 *   RSDP --> XSDT, RSDT --> FADT --> FACS, DSDT
 *                       --> MADT
 *                       --> MCFG (with ECAM)
 *
 * The hardware is always in ACPI mode (no SMI command port). No HPET: the PM timer and the TSC
 * serve. Everything lies in the ROM window, which the E820 map marks as reserved.
 */
#include "core/boot/aml.h"
#include "core/boot/dsdt.h"
#include "core/boot/layout.h"
#include "core/boot/platform.h"
#include "core/time/acpipm.h"

struct header {
    char signature[4];
    u32 length;
    u8 revision, checksum;
    char oem_id[6], oem_table_id[8];
    u32 oem_revision;
    char creator_id[4];
    u32 creator_revision;
} PACKED;

struct rsdp {
    char signature[8];
    u8 checksum;
    char oem_id[6];
    u8 revision;
    u32 rsdt, length;
    u64 xsdt;
    u8 checksum_all, reserved[3];
} PACKED;

struct gas { /* generic address structure, 5.2.3.2 */
    u8 space, bits, offset, access;
    u64 address;
} PACKED;

struct fadt {
    struct header h;
    u32 facs, dsdt;
    u8 reserved0, pm_profile;
    u16 sci_int;
    u32 smi_cmd;
    u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    u32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
    u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
    u16 c2_latency, c3_latency, flush_size, flush_stride;
    u8 duty_offset, duty_width, day_alarm, month_alarm, century;
    u16 boot_arch;
    u8 reserved1;
    u32 flags;
    struct gas reset_reg;
    u8 reset_value;
    u16 arm_boot_arch;
    u8 minor;
    u64 x_facs, x_dsdt;
    struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
    struct gas sleep_control, sleep_status;
    u64 hypervisor_id;
} PACKED;

struct facs {
    char signature[4];
    u32 length, hardware_signature, waking_vector, global_lock, flags;
    u64 x_waking_vector;
    u8 version, reserved[31];
} PACKED;

_Static_assert(sizeof(struct header) == 36, "table header");
_Static_assert(sizeof(struct rsdp) == 36, "RSDP, revision 2");
_Static_assert(sizeof(struct fadt) == 276, "FADT, revision 6");
_Static_assert(sizeof(struct facs) == 64, "FACS");

enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_SLP_BUTTON = 1 << 5, /* none in fixed hardware */
    FADT_FIX_RTC = 1 << 6,    /* no wake status in fixed hardware */
    FADT_TMR_VAL_EXT = 1 << 8,
    FADT_RESET_REG = 1 << 10,
    BOOT_LEGACY_DEVICES = 1 << 0,
    BOOT_8042 = 1 << 1,
    BOOT_NO_VGA = 1 << 2,
    PROFILE_SERVER = 4,
    CMOS_CENTURY = 0x32,
    GAS_IO = 1,
    MADT_PCAT = 1,
    POLARITY_TRIGGER_LEVEL_HIGH = 0x0d, /* active high, level */
    TABLES_MAX = 3,
};

struct tables {
    u8 bytes[LAYOUT_ACPI_END - LAYOUT_ACPI];
    size_t len;
    bool failed;
    u32 address[TABLES_MAX]; /* for XSDT and RSDT */
    u32 count;
};

static u8 checksum(const void *data, size_t n) {
    const u8 *p = data;
    u8 sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum = (u8)(sum + p[i]);
    }
    return (u8)(0u - sum);
}

static void header_init(struct header *h, const char *signature, u8 revision, size_t length) {
    *h = (struct header){
        .length = (u32)length, .revision = revision, .oem_revision = 1, .creator_revision = 1};
    memcpy(h->signature, signature, 4);
    memcpy(h->oem_id, "SOSIA ", 6);
    memcpy(h->oem_table_id, "SOSIAPC ", 8);
    memcpy(h->creator_id, "SOSI", 4);
}

/* Room for n bytes, zeroed, at the next address aligned to align; NULL when the window is full. */
static u8 *take(struct tables *t, size_t n, size_t align, u32 *address) {
    size_t at = ALIGN_UP(t->len, align);
    if (t->failed || n > sizeof(t->bytes) - MIN(at, sizeof(t->bytes))) {
        t->failed = true;
        return NULL;
    }
    t->len = at + n;
    *address = (u32)(LAYOUT_ACPI + at);
    return t->bytes + at;
}

/* Copies a finished table; its checksum is the header's byte 9. */
static u32 add(struct tables *t, void *table, size_t n) {
    u32 address = 0;
    struct header h;
    memcpy(&h, table, sizeof(h));
    h.checksum = 0;
    memcpy(table, &h, sizeof(h));
    h.checksum = checksum(table, n);
    memcpy(table, &h, sizeof(h));
    u8 *at = take(t, n, 16, &address);
    if (at) {
        memcpy(at, table, n);
    }
    return address;
}

static void list(struct tables *t, u32 address) {
    if (t->count < TABLES_MAX) {
        t->address[t->count++] = address;
    }
}

static u32 add_facs(struct tables *t) {
    struct facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};
    u32 address = 0;
    u8 *at = take(t, sizeof(facs), 64, &address);
    if (at) {
        memcpy(at, &facs, sizeof(facs));
    }
    return address;
}

/* The definition block is built in place, behind its header. */
static u32 add_dsdt(struct tables *t, const struct platform *p) {
    u32 address = 0;
    struct header h;
    u8 *at = take(t, sizeof(h), 16, &address);
    if (!at) {
        return 0;
    }
    struct aml aml = {.buf = at + sizeof(h), .cap = sizeof(t->bytes) - t->len};
    dsdt_build(p, &aml);
    t->failed = t->failed || aml.failed;
    t->len += aml.len;
    header_init(&h, "DSDT", 2, sizeof(h) + aml.len);
    memcpy(at, &h, sizeof(h));
    h.checksum = checksum(at, h.length);
    memcpy(at, &h, sizeof(h));
    return address;
}

static struct gas io_gas(u16 port, u8 bytes) {
    return (struct gas){.space = GAS_IO,
                        .bits = (u8)(bytes * 8),
                        .access = bytes == 4 ? 3 : bytes,
                        .address = port};
}

static void add_fadt(struct tables *t, u32 facs, u32 dsdt) {
    struct fadt f = {
        .facs = facs,
        .dsdt = dsdt,
        .pm_profile = PROFILE_SERVER,
        .sci_int = ACPIPM_SCI_GSI,
        .pm1a_evt = ACPIPM_PM1A_EVT,
        .pm1a_cnt = ACPIPM_PM1A_CNT,
        .pm_tmr = ACPIPM_TMR,
        .gpe0 = ACPIPM_GPE0,
        .gpe0_len = ACPIPM_GPE0_LEN,
        .pm1_evt_len = ACPIPM_PM1A_EVT_LEN,
        .pm1_cnt_len = ACPIPM_PM1A_CNT_LEN,
        .pm_tmr_len = ACPIPM_TMR_LEN,
        .c2_latency = 0xfff, /* no C2, no C3 */
        .c3_latency = 0xfff,
        .century = CMOS_CENTURY,
        .boot_arch = BOOT_LEGACY_DEVICES | BOOT_8042 | BOOT_NO_VGA,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT |
                 FADT_RESET_REG,
        .reset_reg = io_gas(ACPIPM_RESET_PORT, 1),
        .reset_value = ACPIPM_RESET_VALUE,
        .minor = 4,
        .x_dsdt = dsdt,
        .x_pm1a_evt = io_gas(ACPIPM_PM1A_EVT, ACPIPM_PM1A_EVT_LEN),
        .x_pm1a_cnt = io_gas(ACPIPM_PM1A_CNT, ACPIPM_PM1A_CNT_LEN),
        .x_pm_tmr = io_gas(ACPIPM_TMR, ACPIPM_TMR_LEN),
        .x_gpe0 = io_gas(ACPIPM_GPE0, ACPIPM_GPE0_LEN),
    };
    f.x_pm1a_evt.access = 2;
    f.x_gpe0.access = 1;
    memcpy(&f.hypervisor_id, "Sosia\0\0\0", 8);
    header_init(&f.h, "FACP", 6, sizeof(f));
    list(t, add(t, &f, sizeof(f)));
}

static u8 *put(u8 *at, const void *entry, size_t n) {
    memcpy(at, entry, n);
    return at + n;
}

/* GSI of an ISA interrupt that is not what the ISA bus says: type 2. */
static u8 *put_override(u8 *at, u8 irq, u32 gsi, u16 flags) {
    u8 e[10] = {2, sizeof(e), 0, irq, (u8)gsi, 0, 0, 0, (u8)flags, 0};
    return put(at, e, sizeof(e));
}

static void add_madt(struct tables *t, const struct platform *p) {
    u8 table[sizeof(struct header) + 8 + 64 * 8 + 12 + 4 * 10 + 6];
    u8 *at = table + sizeof(struct header);
    u32 base[2] = {PLATFORM_LAPIC_BASE, MADT_PCAT};
    at = put(at, base, sizeof(base));
    for (u32 i = 0; i < p->vcpus && i < 64; i++) {
        u8 cpu[8] = {0, sizeof(cpu), (u8)i, (u8)i, 1}; /* local APIC, enabled */
        at = put(at, cpu, sizeof(cpu));
    }
    u8 ioapic[12] = {1, sizeof(ioapic), 0, 0};
    u32 ioapic_base = PLATFORM_IOAPIC_BASE;
    memcpy(ioapic + 4, &ioapic_base, 4);
    at = put(at, ioapic, sizeof(ioapic));
    at = put_override(at, 0, 2, 0);
    at = put_override(at, ACPIPM_SCI_GSI, ACPIPM_SCI_GSI, POLARITY_TRIGGER_LEVEL_HIGH);
    at = put_override(at, 10, 10, POLARITY_TRIGGER_LEVEL_HIGH);
    at = put_override(at, 11, 11, POLARITY_TRIGGER_LEVEL_HIGH);
    u8 nmi[6] = {4, sizeof(nmi), 0xff, 0, 0, 1}; /* LINT1 of all */
    at = put(at, nmi, sizeof(nmi));

    struct header h;
    header_init(&h, "APIC", 5, (size_t)(at - table));
    memcpy(table, &h, sizeof(h));
    list(t, add(t, table, (size_t)(at - table)));
}

static void add_mcfg(struct tables *t, const struct platform *p) {
    struct {
        struct header h;
        u64 reserved, base;
        u16 segment;
        u8 first, last;
        u32 reserved2;
    } PACKED m = {.base = p->ecam_base, .last = (u8)(p->ecam_buses - 1)};
    if (!p->pci || !p->ecam_base) {
        return;
    }
    header_init(&m.h, "MCFG", 1, sizeof(m));
    list(t, add(t, &m, sizeof(m)));
}

static void add_root(struct tables *t, struct rsdp *rsdp) {
    struct {
        struct header h;
        u64 entry[TABLES_MAX];
    } PACKED xsdt = {0};
    struct {
        struct header h;
        u32 entry[TABLES_MAX];
    } PACKED rsdt = {0};
    for (u32 i = 0; i < t->count; i++) {
        xsdt.entry[i] = t->address[i];
        rsdt.entry[i] = t->address[i];
    }
    size_t xsdt_len = sizeof(struct header) + t->count * sizeof(u64);
    size_t rsdt_len = sizeof(struct header) + t->count * sizeof(u32);
    header_init(&xsdt.h, "XSDT", 1, xsdt_len);
    header_init(&rsdt.h, "RSDT", 1, rsdt_len);
    *rsdp = (struct rsdp){.revision = 2, .length = sizeof(*rsdp)};
    memcpy(rsdp->signature, "RSD PTR ", 8);
    memcpy(rsdp->oem_id, "SOSIA ", 6);
    rsdp->xsdt = add(t, &xsdt, xsdt_len);
    rsdp->rsdt = add(t, &rsdt, rsdt_len);
    rsdp->checksum = checksum(rsdp, 20);
    rsdp->checksum_all = checksum(rsdp, sizeof(*rsdp));
}

static int build(struct tables *t, const struct platform *p) {
    struct rsdp rsdp;
    u32 address;
    u8 *first = take(t, sizeof(rsdp), 16, &address);
    u32 facs = add_facs(t), dsdt = add_dsdt(t, p);
    add_fadt(t, facs, dsdt);
    add_madt(t, p);
    add_mcfg(t, p);
    add_root(t, &rsdp);
    if (t->failed || !first) {
        return -ERR_RANGE;
    }
    memcpy(first, &rsdp, sizeof(rsdp));
    return 0;
}

int acpi_write(const struct platform *p, struct ram *ram, u64 *rsdp, struct err *err) {
    u8 *window = ram_ptr(ram, LAYOUT_ACPI, LAYOUT_ACPI_END - LAYOUT_ACPI);
    struct tables t;
    if (!window) {
        return ERR_SET(err, ERR_RANGE, "memory: less than 1 MiB, too small for the ACPI tables");
    }
    memset(&t, 0, sizeof(t));
    if (build(&t, p)) {
        return ERR_SET(err, ERR_RANGE, "the ACPI tables do not fit their window");
    }
    *rsdp = LAYOUT_ACPI;
    return ram_write(ram, LAYOUT_ACPI, t.bytes, t.len);
}
