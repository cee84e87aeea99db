/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics of the API's process: Firecracker's JSON lines (counters tell what was added since the
 * line before), and the same as totals in Prometheus' text format. Event thread.
 */
#ifndef CMD_API_METRICS_H
#define CMD_API_METRICS_H

#include <jansson.h>

#include "core/base/err.h"

struct api;

/* What requests are counted as; the names in api_metrics.c have the same order. */
enum api_counter {
    API_N_NONE,
    API_N_GET_INFO,
    API_N_GET_MACHINE,
    API_N_GET_MMDS,
    API_N_GET_VERSION,
    API_N_GET_HOTPLUG,
    API_N_PUT_ACTIONS,
    API_N_PUT_BOOT_SOURCE,
    API_N_PUT_DRIVE,
    API_N_PUT_LOGGER,
    API_N_PUT_MACHINE,
    API_N_PUT_CPU,
    API_N_PUT_METRICS,
    API_N_PUT_NETWORK,
    API_N_PUT_MMDS,
    API_N_PUT_VSOCK,
    API_N_PUT_PMEM,
    API_N_PUT_SERIAL,
    API_N_PUT_HOTPLUG,
    API_N_PATCH_DRIVE,
    API_N_PATCH_NETWORK,
    API_N_PATCH_MACHINE,
    API_N_PATCH_MMDS,
    API_N_PATCH_HOTPLUG,
    API_N_PATCH_PMEM,
    API_N_COUNT
};

/* What took how long, in microseconds; 0: did not happen. */
struct api_latencies {
    u64 full_create, diff_create, load, pause, resume;
};

struct api_metrics {
    int fd; /* -1: not configured */
    bool emit_id;
    json_t *properties; /* string values for each line; may be NULL */
    json_t *last;       /* totals at the last line */
    u64 count[API_N_COUNT], fails[API_N_COUNT];
    u64 deprecated;
    u64 flushed, missed;
    struct api_latencies latency;
};

void api_metrics_init(struct api_metrics *m);
void api_metrics_close(struct api_metrics *m);
void api_metrics_request(struct api_metrics *m, enum api_counter counter, int rc, bool deprecated);
/* Writes a line; 0 (also when not configured) or -ERR_IO. */
int api_metrics_flush(struct api *a);
/* All groups, as totals; to decref. */
json_t *api_metrics_totals(struct api *a);
/* Prometheus' text; to free. NULL: out of memory. */
char *api_metrics_text(struct api *a);

#endif
