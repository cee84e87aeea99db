/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: which guest-physical ranges are backed by host memory, and the one checked way for
 * devices to reach it. Ranges are few, sorted and fixed while the machine runs.
 *
 *   0 ......... low end (at most 3 GiB) | hole for PCI and chips | 4 GiB ........ high end
 */
#ifndef CORE_MEM_RAM_H
#define CORE_MEM_RAM_H

#include "core/base/types.h"

enum { RAM_SLOTS_MAX = 8 };

#define RAM_READONLY BIT(0) /* the guest cannot write it (firmware) */

struct host;

struct ram_slot {
    u64 gpa;
    u64 size; /* bytes, multiple of 4096 */
    u8 *hva;
    u32 flags; /* RAM_* */
};

struct ram {
    u32 count;
    struct ram_slot slot[RAM_SLOTS_MAX]; /* sorted by gpa */
    /* One bit per page of the flat page numbering (ram_page_index); NULL while the log is off. */
    u64 *dirty;
    /* Told about each write that did not come from a vCPU (DMA), after it happened: an engine that
     * caches code must forget what it holds of those bytes. */
    void (*written)(void *ctx, u64 gpa, u64 size);
    void *written_ctx;
};

/* 0, -ERR_RANGE (overlap, misaligned, wraps) or -ERR_NOMEM (no slot left). */
int ram_add(struct ram *ram, u64 gpa, u64 size, u8 *hva, u32 flags);

/* The slot that holds gpa, or NULL. */
const struct ram_slot *ram_find(const struct ram *ram, u64 gpa);

/* Host address of [gpa, gpa+size), or NULL when any byte is outside one slot. size >= 1. */
void *ram_ptr(const struct ram *ram, u64 gpa, u64 size);

/* Checked copies; -ERR_FAULT (and nothing copied) when any byte is outside RAM. May cross slots'
 * pages but not slots. Writes call ram_written. */
int ram_read(const struct ram *ram, u64 gpa, void *buf, u64 size);
int ram_write(struct ram *ram, u64 gpa, const void *buf, u64 size);

/* After a device wrote through ram_ptr: dirty log and code caches. */
void ram_written(struct ram *ram, u64 gpa, u64 size);

/*
 * Gives the memory behind [gpa, gpa+size) back to the host: whole pages of one slot that is not
 * read-only. Their content changes as if a device had written it, and engines are told so.
 * 0, -ERR_FAULT (not such pages), -ERR_UNSUPPORTED (the host cannot; nothing changed).
 */
int ram_discard(struct ram *ram, struct host *host, u64 gpa, u64 size);

/* Pages of all slots numbered from 0 in slot order; UINT64_MAX when gpa is not RAM. */
u64 ram_page_index(const struct ram *ram, u64 gpa);
u64 ram_page_count(const struct ram *ram);

#endif
