/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware leaves: ACPI tables (ACPI 6.5, chapter 5), the MP table (MultiProcessor
 * Specification 1.4), and that the PM timer and the real-time clock run.
 */
#include "lib/guest.h"

static u32 u32_at(const u8 *p) {
    u32 v;
    memcpy(&v, p, 4);
    return v;
}

static u64 u64_at(const u8 *p) {
    u64 v;
    memcpy(&v, p, 8);
    return v;
}

static u16 u16_at(const u8 *p) {
    u16 v;
    memcpy(&v, p, 2);
    return v;
}

static void root(void) {
    const u8 *rsdp = acpi_rsdp();
    CHECK(rsdp != NULL);
    if (!rsdp) {
        return;
    }
    const u8 *tables = (const u8 *)(u64)u32_at(rsdp + 16);
    size_t width = 4;
    if (rsdp[15] >= 2) {
        CHECK(acpi_sum_ok(rsdp, u32_at(rsdp + 20)));
        tables = (const u8 *)u64_at(rsdp + 24);
        width = 8;
    }
    CHECK_EQ(memcmp(tables, width == 8 ? "XSDT" : "RSDT", 4), 0);
    CHECK(acpi_sum_ok(tables, u32_at(tables + 4)));
    CHECK_EQ((u32_at(tables + 4) - 36) % width, 0);
    for (size_t at = 36; at + width <= u32_at(tables + 4); at += width) {
        const u8 *t = (const u8 *)(width == 8 ? u64_at(tables + at) : u32_at(tables + at));
        print("%c%c%c%c ", t[0], t[1], t[2], t[3]);
        CHECK(u32_at(t + 4) >= 36 && u32_at(t + 4) < 0x100000);
        CHECK(acpi_sum_ok(t, u32_at(t + 4)));
    }
    print("\n");
}

static void fadt(void) {
    const u8 *t = acpi_find("FACP");
    CHECK(t != NULL);
    if (!t) {
        return;
    }
    const u8 *dsdt = (const u8 *)(u64)u32_at(t + 40);
    if (!dsdt) {
        dsdt = (const u8 *)u64_at(t + 140);
    }
    CHECK_EQ(memcmp(dsdt, "DSDT", 4), 0);
    CHECK(acpi_sum_ok(dsdt, u32_at(dsdt + 4)));
    u16 port = (u16)u32_at(t + 76);
    CHECK(port != 0);
    if (port) {
        u32 width = u32_at(t + 112) >> 8 & 1 ? 0xffffffff : 0xffffff; /* TMR_VAL_EXT */
        u64 outer = rdtsc();
        u32 a = inl(port);
        u64 inner = rdtsc();
        delay_us(20000);
        u64 least = tsc_us(rdtsc() - inner);
        u32 ticks = (inl(port) - a) & width;
        u64 most = tsc_us(rdtsc() - outer), counted = (u64)ticks * 1000000 / 3579545;
        CHECK(counted + least / 50 + 10 > least && counted < most + most / 50 + 10);
    }
}

static void madt(void) {
    const u8 *t = acpi_find("APIC");
    CHECK(t != NULL);
    if (!t) {
        return;
    }
    CHECK_EQ(u32_at(t + 36), LAPIC);
    u32 cpus = 0, ioapics = 0;
    const u8 *end = t + u32_at(t + 4);
    for (const u8 *e = t + 44; e < end && e[1]; e += e[1]) {
        cpus += e[0] == 0 && (e[4] & 1);
        if (e[0] == 1) {
            ioapics++;
            CHECK_EQ(u32_at(e + 4), 0xfec00000);
            CHECK_EQ(u32_at(e + 8), 0);
        }
    }
    CHECK_EQ(ioapics, 1);
    CHECK_EQ(cpus, ap_boot() + 1);
    print("%u processors\n", cpus);
}

static const u8 *mp_find(void) {
    static const u64 areas[][2] = {{0x9fc00, 0xa0000}, {0xf0000, 0x100000}, {0x80000, 0xa0000}};
    for (u32 i = 0; i < 3; i++) {
        for (u64 at = areas[i][0]; at < areas[i][1]; at += 16) {
            if (!memcmp((void *)at, "_MP_", 4) && acpi_sum_ok((void *)at, 16)) {
                return (const u8 *)at;
            }
        }
    }
    return NULL;
}

static void mp_table(void) {
    static const u8 sizes[] = {20, 8, 8, 8, 8};
    const u8 *floating = mp_find();
    CHECK(floating != NULL);
    if (!floating || !u32_at(floating + 4)) {
        return;
    }
    const u8 *t = (const u8 *)(u64)u32_at(floating + 4), *e = t + 44;
    CHECK_EQ(memcmp(t, "PCMP", 4), 0);
    CHECK(acpi_sum_ok(t, u16_at(t + 4)));
    u32 cpus = 0;
    for (u32 i = 0; i < u16_at(t + 34) && e[0] < 5; i++) {
        cpus += e[0] == 0 && (e[3] & 1);
        e += sizes[e[0]];
    }
    CHECK_EQ(e - t, u16_at(t + 4));
    CHECK(cpus >= 1);
}

static u8 cmos(u8 index) {
    outb(0x70, index);
    return inb(0x71);
}

static u32 field(u8 index) {
    u8 v = cmos(index);
    return cmos(11) & 4 ? v : (u32)(v >> 4) * 10 + (v & 15);
}

static void clock(void) {
    u64 start = rdtsc();
    while ((cmos(10) & 0x80) && tsc_us(rdtsc() - start) < 10000) {
    }
    u32 second = field(0), year = field(9), month = field(8), day = field(7);
    CHECK(second < 60 && field(2) < 60 && (cmos(4) & 0x7f) < 0x24);
    CHECK(day >= 1 && day <= 31 && month >= 1 && month <= 12);
    CHECK(year >= 20 && year < 99);
    CHECK_EQ(cmos(13) & 0x80, 0x80); /* the battery is good */
    while (field(0) == second && tsc_us(rdtsc() - start) < 2500000) {
    }
    CHECK_EQ(field(0), (second + 1) % 60);
    CHECK(tsc_us(rdtsc() - start) < 2000000);
    outb(0x70, 0x3f);
    u8 old = inb(0x71);
    outb(0x71, 0x5a);
    CHECK_EQ(cmos(0x3f), 0x5a);
    outb(0x71, old);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    root();
    fadt();
    mp_table();
    madt();
    clock();
}
