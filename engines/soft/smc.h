/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes: which guest-physical pages hold decoded code, and who may write them how.
 *
 *   free ---- first block decoded: every vCPU forgets its fast write translation ----> watched
 *     ^                                                                                   |
 *     +------ many writes, none of which met code, and no code left on the page ----------+
 *
 * On a watched page all stores take the slow path, which looks whether the bytes lie in a 64-byte
 * granule that holds decoded code; only then are the page's blocks outdated (generation). A block
 * records the generation under which it was decoded and is run only while it is the present one.
 *
 * Races: a decoder marks granules and then compares the bytes again; a writer stores and then looks
 * at the granules; so one of them notices. A writer noticing clears the granules before it counts
 * the generation up, so that a decoder never marks under the new generation and loses the mark.
 * Granules that were marked before the decoder reads the bytes need no second look at these: a
 * writer that stores after that meets the mark, or another writer has taken it away and counts up.
 */
#ifndef ENGINES_SOFT_SMC_H
#define ENGINES_SOFT_SMC_H

#include "engines/soft/engine.h"

enum smc_watch { WATCH_NONE, WATCH_BEGUN, WATCH_DONE };

struct smc_page {
    u64 granules;   /* atomic: 64-byte pieces with decoded code */
    u64 writers;    /* atomic: vCPUs that may hold a fast write translation */
    u32 generation; /* atomic */
    u16 quiet;      /* stores since the last that met code; a hint, not exact */
    u8 watched;     /* atomic: enum smc_watch */
};

/* NULL when gpa is not RAM. */
struct smc_page *smc_page_of(struct soft_vm *vm, u64 gpa);

/* c is about to cache a fast write translation of gpa's page: true when it must not. */
bool smc_page_opened(struct soft_vcpu *c, u64 gpa);

/* Before code on the page is decoded. May leave and enter guest mode. */
void smc_watch(struct soft_vcpu *c, struct smc_page *page, u64 gpa);
/* Marks [offset, offset+size) of the page as code; false when it is not fully watched any more. */
bool smc_mark(struct smc_page *page, u32 offset, u32 size);

/* The same in two steps, cheaper where code lay before: what is marked before any of it is read;
 * and, when it is known how much was read, whether that was all marked and the page is watched
 * still. Then a later store is noticed, and nothing is to be compared. */
u64 smc_marked(const struct smc_page *page);
bool smc_was_marked(const struct smc_page *page, u64 marked, u32 offset, u32 size);

/* After a store of c to a page that was watched when its translation was made; within one page.
 * True when the page is free now, so that the translation may be made anew. */
bool smc_written(struct soft_vcpu *c, u64 gpa, u32 size);

/* struct ram.written: a device wrote. Any thread. */
void smc_device_wrote(void *ctx, u64 gpa, u64 size);

/* All vCPUs forget all write translations (dirty log). Not from a vCPU in guest mode. */
void smc_drop_all_writes(struct soft_vm *vm);
/* Serves SOFT_REQ_PURGE on c's thread. */
void smc_purge(struct soft_vcpu *c);

/* Runs alone: between the two no other vCPU executes guest instructions. No faults in between. */
void soft_stop_others(struct soft_vcpu *c);
void soft_resume_others(struct soft_vcpu *c);

#endif
