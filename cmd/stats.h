/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of a machine: as text, and summed up. */
#ifndef CMD_STATS_H
#define CMD_STATS_H

#include "core/base/err.h"
#include "core/if/engine.h"

struct vm;

/* Enough for 64 vCPUs. */
enum { STATS_TEXT_MAX = 96 * 1024 };

/* Lines of text, cut when size is too small, 0-terminated; returns the length. Any thread, while
 * the vCPUs exist. */
size_t stats_text(struct vm *vm, const struct engine_ops *engine, char *out, size_t size);

/* Of all vCPUs: instructions, exits, interrupts, exceptions, tr.code_bytes; the rest is 0. As
 * above. */
void stats_sum(struct vm *vm, const struct engine_ops *engine, struct engine_stats *sum);

#endif
