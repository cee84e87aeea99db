/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The firmware's memory map (ACPI 6.4, section 15): what the guest may use. One list feeds the
 * Linux zero page, PVH and Multiboot.
 */
#ifndef CORE_BOOT_E820_H
#define CORE_BOOT_E820_H

#include "core/base/types.h"
#include "core/mem/ram.h"

enum { E820_RAM = 1, E820_RESERVED = 2, E820_MAX = 32 };

struct e820_entry {
    u64 addr;
    u64 size;
    u32 type;
} PACKED;

_Static_assert(sizeof(struct e820_entry) == 20, "as in the zero page");

struct e820_map {
    u32 count;
    struct e820_entry entry[E820_MAX];
};

/* RAM without the EBDA and the ROM window, plus the reserved range [hole, hole+size) (ECAM) when
 * size is not 0. Sorted, not overlapping. */
void e820_build(struct e820_map *map, const struct ram *ram, u64 hole, u64 hole_size);

/* First byte behind usable RAM below 4 GiB. */
u64 e820_low_end(const struct e820_map *map);

#endif
