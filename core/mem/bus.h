/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two buses of a PC: ports (16-bit addresses) and memory-mapped registers. A region says which
 * access sizes its device understands; the bus splits and merges so that devices stay short.
 * Nobody there: reads give all ones, writes vanish (as on a real bus with pull-ups).
 *
 * Lock rule: all calls with the board lock held.
 */
#ifndef CORE_MEM_BUS_H
#define CORE_MEM_BUS_H

#include "core/base/types.h"

struct bus_region;

struct bus_ops {
    /* offset from the region's base; size within [min_access, max_access], power of two. */
    u64 (*read)(void *device, u32 region, u64 offset, u32 size);
    void (*write)(void *device, u32 region, u64 offset, u32 size, u64 value);
    u8 min_access; /* bytes: 1, 2, 4 or 8; smaller reads are cut from a larger one, */
    u8 max_access; /* larger accesses are split; smaller writes than min are dropped */
};

struct bus_region {
    u64 base;
    u64 size;
    const struct bus_ops *ops;
    void *device;
    u32 region;       /* handed back to ops, to tell a device's regions apart */
    const char *name; /* static storage */
    bool mapped;
    struct bus_region *next; /* owned by the bus: regions sorted by base */
};

struct bus {
    struct bus_region *first;
    struct bus_region *last_hit;
    u64 limit; /* highest valid address: 0xffff for ports */
};

/* The caller owns the region while mapped. -ERR_RANGE, or -ERR_EXISTS when it overlaps another. */
int bus_map(struct bus *bus, struct bus_region *region);
void bus_unmap(struct bus *bus, struct bus_region *region);
struct bus_region *bus_find(struct bus *bus, u64 address);

/* size 1..8; an access that leaves its region is finished byte by byte at the neighbours. */
u64 bus_read(struct bus *bus, u64 address, u32 size);
void bus_write(struct bus *bus, u64 address, u32 size, u64 value);

#endif
