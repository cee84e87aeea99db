/* SPDX-License-Identifier: Apache-2.0 */
/* Names of translated code for Linux perf. */
#ifndef CMD_PERF_MAP_H
#define CMD_PERF_MAP_H

#include "core/base/err.h"
#include "core/if/engine.h"

struct perf_map;

/* symbols: a file of guest symbols, or "". Makes /tmp/perf-PID.map. */
int perf_map_create(const char *symbols, struct perf_map **out, struct err *err);
/* Before the machine is created; the map must outlive its vCPUs. */
void perf_map_connect(struct perf_map *map, struct engine_translator *translator);
void perf_map_destroy(struct perf_map *map); /* NULL is fine */

#endif
