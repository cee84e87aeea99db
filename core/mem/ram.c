/* SPDX-License-Identifier: Apache-2.0 */
/* The map of guest RAM and checked access to it; see ram.h. No lock: fixed while the machine runs.
 */
#include "core/mem/ram.h"

#include "core/base/err.h"
#include "core/if/host.h"

int ram_add(struct ram *ram, u64 gpa, u64 size, u8 *hva, u32 flags) {
    if (!size || (gpa & PAGE_MASK) || (size & PAGE_MASK) || gpa + size < gpa) {
        return -ERR_RANGE;
    }
    if (ram->count == RAM_SLOTS_MAX) {
        return -ERR_NOMEM;
    }
    u32 at = 0;
    while (at < ram->count && ram->slot[at].gpa < gpa) {
        at++;
    }
    if (at > 0 && ram->slot[at - 1].gpa + ram->slot[at - 1].size > gpa) {
        return -ERR_RANGE;
    }
    if (at < ram->count && gpa + size > ram->slot[at].gpa) {
        return -ERR_RANGE;
    }
    memmove(&ram->slot[at + 1], &ram->slot[at], (ram->count - at) * sizeof(ram->slot[0]));
    ram->slot[at] = (struct ram_slot){.gpa = gpa, .size = size, .hva = hva, .flags = flags};
    ram->count++;
    return 0;
}

const struct ram_slot *ram_find(const struct ram *ram, u64 gpa) {
    for (u32 i = 0; i < ram->count; i++) {
        if (gpa - ram->slot[i].gpa < ram->slot[i].size) {
            return &ram->slot[i];
        }
    }
    return NULL;
}

void *ram_ptr(const struct ram *ram, u64 gpa, u64 size) {
    const struct ram_slot *slot = ram_find(ram, gpa);
    if (!slot || size > slot->size - (gpa - slot->gpa)) {
        return NULL;
    }
    return slot->hva + (gpa - slot->gpa);
}

int ram_read(const struct ram *ram, u64 gpa, void *buf, u64 size) {
    const void *p = ram_ptr(ram, gpa, size);
    if (!p) {
        return -ERR_FAULT;
    }
    memcpy(buf, p, size);
    return 0;
}

int ram_write(struct ram *ram, u64 gpa, const void *buf, u64 size) {
    void *p = ram_ptr(ram, gpa, size);
    if (!p) {
        return -ERR_FAULT;
    }
    memcpy(p, buf, size);
    ram_written(ram, gpa, size);
    return 0;
}

void ram_written(struct ram *ram, u64 gpa, u64 size) {
    if (!size) {
        return;
    }
    if (ram->dirty) {
        u64 first = ram_page_index(ram, gpa);
        u64 last = ram_page_index(ram, gpa + size - 1);
        for (u64 page = first; first != UINT64_MAX && page <= last && last != UINT64_MAX; page++) {
            __atomic_fetch_or(&ram->dirty[page / 64], BIT(page % 64), __ATOMIC_RELAXED);
        }
    }
    if (ram->written) {
        ram->written(ram->written_ctx, gpa, size);
    }
}

int ram_discard(struct ram *ram, struct host *host, u64 gpa, u64 size) {
    const struct ram_slot *slot = ram_find(ram, gpa);
    u8 *p = size ? ram_ptr(ram, gpa, size) : NULL;
    if (!p || ((gpa | size) & PAGE_MASK) || (slot->flags & RAM_READONLY)) {
        return -ERR_FAULT;
    }
    int rc = host->ops->ram_discard ? host->ops->ram_discard(host, p, size) : -ERR_UNSUPPORTED;
    if (!rc) {
        ram_written(ram, gpa, size);
    }
    return rc;
}

u64 ram_page_index(const struct ram *ram, u64 gpa) {
    u64 first = 0;
    for (u32 i = 0; i < ram->count; i++) {
        if (gpa - ram->slot[i].gpa < ram->slot[i].size) {
            return first + ((gpa - ram->slot[i].gpa) >> PAGE_SHIFT);
        }
        first += ram->slot[i].size >> PAGE_SHIFT;
    }
    return UINT64_MAX;
}

u64 ram_page_count(const struct ram *ram) {
    u64 pages = 0;
    for (u32 i = 0; i < ram->count; i++) {
        pages += ram->slot[i].size >> PAGE_SHIFT;
    }
    return pages;
}
