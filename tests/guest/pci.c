/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI configuration (PCI 3.0, chapters 3.2.2.3.2 and 6; PCI Express 7.2.2): mechanism 1 at 0xcf8
 * and ECAM show the same registers, BARs are sized and moved, decoding follows the command
 * register, capabilities form a list, MSI-X is where it says.
 */
#include "lib/guest.h"

static u64 ecam;

static volatile u32 *ecam_at(u32 bdf, u32 reg) {
    return (volatile u32 *)(ecam + ((u64)bdf << 12) + reg);
}

static void mechanism(void) {
    outl(0xcf8, 0x80000000);
    CHECK_EQ(inl(0xcf8), 0x80000000);
    CHECK(pci_read(0, 0) != 0xffffffff);
    outl(0xcf8, 0); /* not enabled */
    CHECK_EQ(inl(0xcfc), 0xffffffff);
    u32 id = pci_read(0, 0);
    outl(0xcf8, 0x80000000);
    CHECK_EQ(inb(0xcfc), id & 0xff);
    CHECK_EQ(inb(0xcff), id >> 24);
    CHECK_EQ(inw(0xcfe), id >> 16);
    CHECK_EQ(pci_read(0xfff8, 0), 0xffffffff); /* bus 255 */
}

static void compare_ecam(void) {
    const u8 *mcfg = acpi_find("MCFG");
    if (!mcfg) {
        print("no ECAM here\n");
        return;
    }
    memcpy(&ecam, mcfg + 44, 8);
    u32 found = 0;
    for (u32 bdf = 0; bdf < 256; bdf++) {
        u32 id = pci_read(bdf, 0);
        CHECK_EQ(*ecam_at(bdf, 0), id);
        if (id == 0xffffffff) {
            continue;
        }
        found++;
        for (u32 reg = 0; reg < 256; reg += 4) {
            CHECK_EQ(*ecam_at(bdf, reg), pci_read(bdf, reg));
        }
        CHECK_EQ(*(volatile u8 *)ecam_at(bdf, 1), id >> 8 & 0xff);
        u32 line = pci_read(bdf, 0x3c);
        *ecam_at(bdf, 0x3c) = (line & ~0xffu) | 0x5a;
        CHECK_EQ(pci_read(bdf, 0x3c) & 0xff, 0x5a);
        pci_write(bdf, 0x3c, line);
        CHECK_EQ(*ecam_at(bdf, 0x3c), line);
        pci_write(bdf, 0, 0); /* read only */
        CHECK_EQ(pci_read(bdf, 0), id);
    }
    CHECK(found >= 2);
}

static void capabilities(u32 bdf) {
    if (!(pci_read(bdf, 4) >> 20 & 1)) {
        return;
    }
    u32 at = pci_read(bdf, 0x34) & 0xfc, n = 0;
    while (at && n++ < 48) {
        u32 cap = pci_read(bdf, at);
        CHECK(at >= 0x40);
        if ((cap & 0xff) == 0x11) {
            u32 table = pci_read(bdf, at + 4), pba = pci_read(bdf, at + 8);
            CHECK((table & 7) < 6 && (pba & 7) < 6);
            CHECK(table != pba);
            pci_write(bdf, at, cap | 0xc0000000);
            CHECK_EQ(pci_read(bdf, at), cap | 0xc0000000); /* enable and mask; the size stays */
            pci_write(bdf, at, cap);
        }
        at = cap >> 8 & 0xfc;
    }
    CHECK(n < 48);
}

static void size_bars(u32 bdf) {
    u32 command = pci_read(bdf, 4);
    pci_write(bdf, 4, command & ~3u & 0xffff);
    for (u32 i = 0; i < 6; i++) {
        u32 reg = 0x10 + i * 4, old = pci_read(bdf, reg);
        pci_write(bdf, reg, 0xffffffff);
        u32 mask = pci_read(bdf, reg);
        pci_write(bdf, reg, old);
        CHECK_EQ(pci_read(bdf, reg), old);
        if (!mask) {
            continue;
        }
        u32 flags = mask & 1 ? 3 : 15;
        CHECK_EQ(mask & flags, old & flags);
        u64 size = mask & ~flags;
        if ((mask & 7) == 4) {
            u32 high = pci_read(bdf, reg + 4);
            pci_write(bdf, reg + 4, 0xffffffff);
            size |= (u64)pci_read(bdf, reg + 4) << 32;
            pci_write(bdf, reg + 4, high);
            i++;
        } else {
            size |= 0xffffffff00000000ull;
        }
        size = 0 - size;
        CHECK(size && !(size & (size - 1)));
        CHECK_EQ(old & ~flags & (size - 1), 0); /* aligned to its size */
    }
    pci_write(bdf, 4, command & 0xffff);
}

/* The register of the BAR with virtio's common configuration, its address, and the offset in it. */
static u32 common_bar(u32 bdf, u64 *address, u32 *offset) {
    for (u32 at = pci_read(bdf, 0x34) & 0xfc; at; at = pci_read(bdf, at) >> 8 & 0xfc) {
        if ((pci_read(bdf, at) & 0xff0000ff) != 0x01000009) {
            continue;
        }
        u32 reg = 0x10 + (pci_read(bdf, at + 4) & 7) * 4, v = pci_read(bdf, reg);
        *offset = pci_read(bdf, at + 8);
        *address = v & ~15u;
        if ((v & 6) == 4) {
            *address |= (u64)pci_read(bdf, reg + 4) << 32;
        }
        return reg;
    }
    return 0;
}

/* The device feature select register of virtio's common configuration keeps what is written. */
static u32 probe(u64 at) {
    *(volatile u32 *)at = 1;
    u32 v = *(volatile u32 *)at;
    *(volatile u32 *)at = 0;
    return v << 16 | *(volatile u32 *)at;
}

static void move_bar(void) {
    u32 bdf = pci_find(0x10441af4);
    u64 at, fresh = 0xd8000000;
    if (bdf == ~0u) {
        print("no virtio-rng here\n");
        return;
    }
    u32 offset = 0, reg = common_bar(bdf, &at, &offset), command = pci_read(bdf, 4) & 0xffff;
    CHECK(reg != 0);
    if (!reg || at >> 32) {
        print("virtio-rng's BAR lies above 4 GiB: not moved\n");
        return;
    }
    pci_write(bdf, 4, command | 2);
    CHECK_EQ(probe(at + offset), 0x10000);
    pci_write(bdf, 4, command & ~2u);
    CHECK_EQ(*(volatile u32 *)(at + offset), 0xffffffff);
    pci_write(bdf, reg, (u32)fresh);
    pci_write(bdf, 4, command | 2);
    CHECK_EQ(probe(fresh + offset), 0x10000);
    CHECK_EQ(*(volatile u32 *)(at + offset), 0xffffffff);
    pci_write(bdf, reg, (u32)at); /* back, while decoding is on */
    CHECK_EQ(probe(at + offset), 0x10000);
    CHECK_EQ(*(volatile u32 *)(fresh + offset), 0xffffffff);
    pci_write(bdf, 4, command);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    mechanism();
    compare_ecam();
    for (u32 bdf = 8; bdf < 256; bdf++) {
        if (pci_read(bdf, 0) != 0xffffffff && (pci_read(bdf, 0xc) >> 16 & 0x7f) == 0) {
            capabilities(bdf);
            size_bars(bdf);
        }
    }
    move_bar();
}
