/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's counters for programs: as JSON (`sosia stats --json`, `sosia top`) and in Prometheus'
 * text format, version 0.0.4 (`sosia stats --prometheus`, the API's /metrics). Event thread, while
 * the machine exists. Counters only grow while a machine lives; names and units are in
 * docs/manage.md.
 */
#ifndef CMD_METRICS_H
#define CMD_METRICS_H

#include <jansson.h>

#include "core/base/types.h"

struct machine;

/* "running", "paused", "stopping". */
const char *metrics_state(struct machine *m);
/* A new object; NULL: out of memory. */
json_t *metrics_json(struct machine *m);
/* What metrics_json gave as Prometheus' text; to be freed. NULL: out of memory. */
char *metrics_prometheus(const json_t *metrics);

#endif
