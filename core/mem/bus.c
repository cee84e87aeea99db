/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch of port and MMIO accesses to device regions; see bus.h. */
#include "core/mem/bus.h"

#include "core/base/err.h"

static u64 size_mask(u32 size) {
    return size >= 8 ? UINT64_MAX : BIT(size * 8) - 1;
}

int bus_map(struct bus *bus, struct bus_region *region) {
    struct bus_region **at = &bus->first;
    if (region->mapped || !region->size || region->base > bus->limit ||
        region->size - 1 > bus->limit - region->base) {
        return -ERR_RANGE;
    }
    while (*at && (*at)->base + ((*at)->size - 1) < region->base) {
        at = &(*at)->next;
    }
    if (*at && (*at)->base <= region->base + (region->size - 1)) {
        return -ERR_EXISTS;
    }
    region->next = *at;
    region->mapped = true;
    *at = region;
    return 0;
}

void bus_unmap(struct bus *bus, struct bus_region *region) {
    for (struct bus_region **at = &bus->first; *at; at = &(*at)->next) {
        if (*at == region) {
            *at = region->next;
            break;
        }
    }
    region->next = NULL;
    region->mapped = false;
    bus->last_hit = NULL;
}

struct bus_region *bus_find(struct bus *bus, u64 address) {
    struct bus_region *r = bus->last_hit;
    if (r && address - r->base < r->size) {
        return r;
    }
    for (r = bus->first; r && r->base <= address; r = r->next) {
        if (address - r->base < r->size) {
            bus->last_hit = r;
            return r;
        }
    }
    return NULL;
}

static u64 region_read(struct bus_region *r, u64 offset, u32 size) {
    u32 min = r->ops->min_access, max = r->ops->max_access;
    if (size >= min && size <= max) {
        return r->ops->read(r->device, r->region, offset, size) & size_mask(size);
    }
    if (size < min) {
        u64 aligned = ALIGN_DOWN(offset, (u64)min);
        u64 whole = r->ops->read(r->device, r->region, aligned, min);
        return (whole >> ((offset - aligned) * 8)) & size_mask(size);
    }
    u64 value = 0;
    for (u32 done = 0; done < size; done += max) {
        u64 part = r->ops->read(r->device, r->region, offset + done, max) & size_mask(max);
        value |= part << (done * 8);
    }
    return value;
}

static void region_write(struct bus_region *r, u64 offset, u32 size, u64 value) {
    u32 min = r->ops->min_access, max = r->ops->max_access;
    if (size < min) {
        return;
    }
    for (u32 done = 0; done < size; done += max) {
        u32 part = MIN(size, max);
        r->ops->write(r->device, r->region, offset + done, part,
                      (value >> (done * 8)) & size_mask(part));
    }
}

/* Power-of-two sizes that stay inside one region go to it whole; everything else goes by bytes. */
static bool whole(const struct bus_region *r, u64 address, u32 size) {
    return r && (size & (size - 1)) == 0 && size <= r->size - (address - r->base) &&
           (size >= r->ops->min_access ||
            (address & (r->ops->min_access - 1u)) + size <= r->ops->min_access);
}

u64 bus_read(struct bus *bus, u64 address, u32 size) {
    struct bus_region *r = bus_find(bus, address);
    if (whole(r, address, size)) {
        return region_read(r, address - r->base, size);
    }
    if (size == 1) {
        return 0xff;
    }
    u64 value = 0;
    for (u32 i = 0; i < size; i++) {
        u64 part = address + i <= bus->limit ? bus_read(bus, address + i, 1) : 0xff;
        value |= part << (i * 8);
    }
    return value;
}

void bus_write(struct bus *bus, u64 address, u32 size, u64 value) {
    struct bus_region *r = bus_find(bus, address);
    if (whole(r, address, size)) {
        region_write(r, address - r->base, size, value);
        return;
    }
    for (u32 i = 0; size > 1 && i < size && address + i <= bus->limit; i++) {
        bus_write(bus, address + i, 1, (value >> (i * 8)) & 0xff);
    }
}
