/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The running machine behind the API: start, pause, resume, and what can change while it runs.
 * Event thread; a failed start leaves the API as it was before.
 */
#include <stdlib.h>
#include <string.h>

#include "cmd/api.h"
#include "cmd/manage.h"
#include "cmd/snapshot.h"

static void options_default(struct run_options *o) {
    *o = (struct run_options){.cpus = 1,
                              .memory = 128 * MIB,
                              .console = "stdio",
                              .virtio_console = "none",
                              .debugcon = "none",
                              .thread_name = "fc_vcpu",
                              .translator = {.on = true}};
}

void api_machine_drop(struct api *a) {
    if (a->m) {
        machine_destroy(a->m);
        free(a->m);
        a->m = NULL;
        memset(a->mmds_card, 0, sizeof(a->mmds_card));
    }
}

int api_machine_new(struct api *a, struct err *err) {
    a->m = calloc(1, sizeof(*a->m));
    if (!a->m) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    a->m->lh = a->lh;
    a->m->main_ns = host_now(linux_host_host(a->lh));
    a->m->wrap_net = api_mmds_wrap;
    a->m->wrap_ctx = a;
    linux_fence_need(a->lh, FENCE_OPEN); /* requests name files later */
    return 0;
}

static int machine_make(struct api *a, struct err *err) {
    int rc = api_machine_new(a, err);
    if (rc) {
        return rc;
    }
    options_default(&a->m->o);
    a->m->o.fence = !a->no_fence;
    a->m->o.quiet = a->quiet == API_QUIET;
    rc = api_config_options(&a->config, &a->m->o, err);
    if (a->pci && !json_object_get(a->config.single[API_SOSIA], "transport")) {
        a->m->o.mmio = a->m->o.mmio_cmdline = false;
    }
    return rc ? rc : machine_create(a->m, err);
}

/* Incremental snapshots need to know what was written from the start on. */
static int track(struct api *a, struct err *err) {
    const json_t *m = a->config.single[API_MACHINE_CONFIG];
    return json_is_true(json_object_get(m, "track_dirty_pages")) ? snapshot_track(a->m, err) : 0;
}

int api_start(struct api *a, struct api_text *e) {
    struct err err = {0};
    if (!a->config.single[API_BOOT_SOURCE]) {
        return api_refuse(e, "Start microvm error: Cannot start microvm without kernel "
                             "configuration.");
    }
    if (!a->lh) {
        return api_refuse(e, "Start microvm error: there is no host to start it on");
    }
    int rc = machine_make(a, &err);
    rc = rc ? rc : track(a, &err);
    rc = rc ? rc : machine_start(a->m, a->on_stop, a->on_stop_ctx, &err);
    if (rc) {
        api_machine_drop(a);
        return api_refuse(e, "Start microvm error: %.400s", err.text);
    }
    a->state = API_RUNNING;
    API_INFO(&a->log, "vmm", "The machine runs on the %s engine.", a->m->engine->name);
    return 0;
}

int api_init(struct api *a, struct linux_host *lh, const char *id) {
    *a = (struct api){.lh = lh, .mmds = {.limit = MMDS_STORE_LIMIT}};
    size_t len = MIN(strlen(id), sizeof(a->id) - 1);
    memcpy(a->id, id, len);
    api_log_init(&a->log, a->id);
    api_metrics_init(&a->metrics);
    return api_config_init(&a->config);
}

void api_free(struct api *a) {
    api_machine_drop(a);
    api_config_free(&a->config);
    mmds_store_free(&a->mmds);
    api_metrics_close(&a->metrics);
    api_log_close(&a->log);
}

/* --- actions, states -------------------------------------------------------------------------- */

int api_put_action(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    const char *type = json_string_value(json_object_get(call->body, "action_type"));
    bool start = !strcmp(type, "InstanceStart");
    (void)out;
    if (start != (a->state == API_NOT_STARTED)) {
        return api_refuse(e, "%s", start ? api_not_after_start : api_not_before_start);
    }
    if (start) {
        return api_start(a, e);
    }
    if (!strcmp(type, "SendCtrlAltDel")) {
        pc_ctrl_alt_del(a->m->pc);
        return 0;
    }
    return api_metrics_flush(a) ? api_refuse(e, "Internal VMM error: Error writing the metrics")
                                : 0;
}

static u64 micros(struct api *a) {
    return host_now(linux_host_host(a->lh)) / 1000;
}

int api_patch_vm(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    const char *state = json_string_value(json_object_get(call->body, "state"));
    bool pause = !strcmp(state, "Paused");
    u64 begin = micros(a);
    (void)out;
    (void)e;
    if (pause && a->state == API_RUNNING) {
        manage_pause(a->m);
        a->state = API_PAUSED;
        a->metrics.latency.pause = micros(a) - begin;
    } else if (!pause && a->state == API_PAUSED) {
        manage_resume(a->m);
        a->state = API_RUNNING;
        a->metrics.latency.resume = micros(a) - begin;
    }
    return 0;
}

/* --- drives and networks ---------------------------------------------------------------------- */

/* Another file behind a disk; the guest sees its new size. */
static int change_file(struct api *a, size_t index, const json_t *drive, struct api_text *e) {
    struct disk_option option = a->m->o.disk[index];
    struct disk_config *d = &a->m->cfg.disk[index];
    struct block_backend *be = NULL, *old = d->backend;
    struct err err = {0};
    option.pause_when_full = false;
    option.open.path = json_string_value(json_object_get(drive, "path_on_host"));
    int rc = disk_open(a->lh, &option, NULL, NULL, &be, &err);
    rc = rc ? rc : pc_disk_change(a->m->pc, (u32)index, be, &err);
    if (rc) {
        if (be) {
            be->ops->close(be);
        }
        return api_refuse(e,
                          "Drive config error: Unable to patch the block device: %.300s. Please "
                          "verify the request arguments.",
                          err.text);
    }
    d->backend = be;
    old->ops->close(old);
    /* what a snapshot names from now on, from wherever it is restored */
    char *real = realpath(option.open.path, NULL);
    rc = run_options_replace(&a->m->o, &a->m->o.disk[index].open.path,
                             real ? real : option.open.path);
    free(real);
    if (rc) {
        return api_refuse(e, "Drive config error: out of memory");
    }
    snapshot_disk_changed(a->m, (u32)index);
    return 0;
}

int api_patch_drive(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    size_t index = 0;
    json_t *drive = api_config_find(&a->config, API_DRIVES, call->id, &index);
    json_t *path = json_object_get(call->body, "path_on_host");
    json_t *limiter = json_object_get(call->body, "rate_limiter");
    (void)out;
    if (!drive) {
        return api_refuse(e, "Drive config error: Unable to patch the block device: Invalid block "
                             "device ID - not found. Please verify the request arguments.");
    }
    int rc = path ? change_file(a, index, call->body, e) : 0;
    if (rc) {
        return rc;
    }
    api_merge_limiter(drive, "rate_limiter", limiter);
    if (path) {
        json_object_set(drive, "path_on_host", path);
    }
    struct rate_limit limit = {0};
    api_rate_limit(json_object_get(drive, "rate_limiter"), &limit);
    a->m->o.disk[index].limit = limit;
    blk_limit_set(a->m->cfg.disk[index].backend, &limit);
    return 0;
}

int api_patch_net(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    static const char *const names[] = {"rx_rate_limiter", "tx_rate_limiter"};
    size_t index = 0;
    json_t *net = api_config_find(&a->config, API_NETWORKS, call->id, &index);
    (void)out;
    if (!net) {
        return api_refuse(e, "Network config error: Invalid interface ID - not found.");
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        json_t *patch = json_object_get(call->body, names[i]);
        struct rate_limit limit = {0};
        if (!patch) {
            continue;
        }
        api_merge_limiter(net, names[i], patch);
        api_rate_limit(json_object_get(net, names[i]), &limit);
        *(i ? &a->m->o.net[index].tx : &a->m->o.net[index].rx) = limit;
        pc_net_limit(a->m->pc, (u32)index, i ? NULL : &limit, i ? &limit : NULL);
    }
    return 0;
}
