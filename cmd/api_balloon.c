/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon through the API: its configuration, and what it does while the machine runs. */
#include <string.h>

#include "cmd/api.h"

enum { GET_CONFIG, GET_STATISTICS, GET_HINTING };
enum { PATCH_SIZE, PATCH_STATISTICS, PATCH_HINTING_START, PATCH_HINTING_STOP };

/* By enum balloon_stat. */
static const char *const stat_names[BALLOON_STATS] = {
    "swap_in",        "swap_out",         "major_faults", "minor_faults",        "free_memory",
    "total_memory",   "available_memory", "disk_caches",  "hugetlb_allocations", "hugetlb_failures",
    "oom_kill",       "alloc_stall",      "async_scan",   "direct_scan",         "async_reclaim",
    "direct_reclaim",
};

static json_t *config(const struct api *a) {
    return a->config.single[API_BALLOON];
}

static json_t *statistics(const struct balloon_stats *s) {
    json_t *out = json_pack("{s:I, s:I, s:I, s:I}", "target_pages", (json_int_t)s->target_pages,
                            "actual_pages", (json_int_t)s->actual_pages, "target_mib",
                            (json_int_t)s->target_mib, "actual_mib", (json_int_t)s->actual_mib);
    for (u32 i = 0; out && i < BALLOON_STATS; i++) {
        if (s->present & BIT(i)) {
            json_object_set_new(out, stat_names[i], json_integer((json_int_t)s->value[i]));
        }
    }
    return out;
}

static int refuse_state(struct api_text *e, int rc) {
    return api_refuse(e, "Balloon config error: %s",
                      rc == -ERR_STATE ? "Device is inactive, check if balloon driver is enabled "
                                         "in guest kernel."
                                       : "No balloon device found.");
}

static int get_hinting(struct api *a, json_t **out, struct api_text *e) {
    struct balloon_hinting h;
    int rc = pc_balloon_hinting_get(a->m->pc, &h);
    if (rc) {
        return refuse_state(e, rc);
    }
    *out = json_pack("{s:I, s:o}", "host_cmd", (json_int_t)h.host_cmd, "guest_cmd",
                     h.guest_known ? json_integer(h.guest_cmd) : json_null());
    return 0;
}

int api_get_balloon(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    struct balloon_stats s;
    if (!config(a)) {
        return api_refuse(e, "Balloon config error: No balloon device found.");
    }
    if (call->arg == GET_CONFIG) {
        *out = json_deep_copy(config(a));
        return 0;
    }
    if (call->arg == GET_HINTING) {
        return get_hinting(a, out, e);
    }
    int rc = pc_balloon_stats(a->m->pc, &s);
    if (rc) {
        return refuse_state(e, rc);
    }
    if (!s.interval) {
        return api_refuse(
            e, "Balloon config error: Statistics for the balloon device are not enabled");
    }
    *out = statistics(&s);
    return 0;
}

static int set_size(struct api *a, const json_t *body, struct api_text *e) {
    json_int_t mib = json_integer_value(json_object_get(body, "amount_mib"));
    int rc = pc_balloon_set_target(a->m->pc, (u32)mib);
    if (rc == -ERR_RANGE) {
        return api_refuse(e, "Balloon config error: Amount of pages requested is too large.");
    }
    if (rc) {
        return refuse_state(e, rc);
    }
    json_object_set_new(config(a), "amount_mib", json_integer(mib));
    return 0;
}

static int set_interval(struct api *a, const json_t *body, struct api_text *e) {
    json_int_t seconds = json_integer_value(json_object_get(body, "stats_polling_interval_s"));
    int rc = pc_balloon_set_interval(a->m->pc, (u32)seconds);
    if (rc == -ERR_STATE) {
        return api_refuse(e,
                          "Balloon config error: Cannot enable/disable the statistics after boot.");
    }
    if (rc) {
        return refuse_state(e, rc);
    }
    json_object_set_new(config(a), "stats_polling_interval_s", json_integer(seconds));
    return 0;
}

int api_patch_balloon(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    int rc;
    (void)out;
    if (!config(a)) {
        return api_refuse(e, "Balloon config error: No balloon device found.");
    }
    switch (call->arg) {
    case PATCH_SIZE:
        return set_size(a, call->body, e);
    case PATCH_STATISTICS:
        return set_interval(a, call->body, e);
    case PATCH_HINTING_START:
        rc = pc_balloon_hinting_start(
            a->m->pc, json_is_true(json_object_get(call->body, "acknowledge_on_stop")));
        break;
    default:
        rc = pc_balloon_hinting_stop(a->m->pc);
        break;
    }
    return rc ? refuse_state(e, rc) : 0;
}
