/* SPDX-License-Identifier: Apache-2.0 */
/* Building the E820 map; see e820.h. */
#include "core/boot/e820.h"

#include "core/boot/layout.h"

static void add(struct e820_map *map, u64 from, u64 to, u32 type) {
    if (from >= to || map->count == E820_MAX) {
        return;
    }
    u32 at = map->count;
    while (at > 0 && map->entry[at - 1].addr > from) {
        map->entry[at] = map->entry[at - 1];
        at--;
    }
    map->entry[at] = (struct e820_entry){.addr = from, .size = to - from, .type = type};
    map->count++;
}

/* Cuts what firmware owns out of one range of RAM. */
static void add_ram(struct e820_map *map, u64 from, u64 to) {
    if (from < LAYOUT_EBDA) {
        add(map, from, MIN(to, LAYOUT_EBDA), E820_RAM);
    }
    add(map, MAX(from, LAYOUT_HIGH), to, E820_RAM);
}

void e820_build(struct e820_map *map, const struct ram *ram, u64 hole, u64 hole_size) {
    *map = (struct e820_map){0};
    for (u32 i = 0; i < ram->count; i++) {
        add_ram(map, ram->slot[i].gpa, ram->slot[i].gpa + ram->slot[i].size);
    }
    add(map, LAYOUT_EBDA, LAYOUT_BASE_END, E820_RESERVED);
    add(map, LAYOUT_ROM, LAYOUT_ROM_END, E820_RESERVED);
    add(map, hole, hole + hole_size, E820_RESERVED);
}

u64 e820_low_end(const struct e820_map *map) {
    u64 end = 0;
    for (u32 i = 0; i < map->count; i++) {
        const struct e820_entry *e = &map->entry[i];
        if (e->type == E820_RAM && e->addr < 4 * GIB) {
            end = MAX(end, e->addr + e->size);
        }
    }
    return end;
}
