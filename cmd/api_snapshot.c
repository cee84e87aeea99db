/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots through the API: on top of snapshot.h, with Firecracker's requests. The configuration
 * as the API knows it rides along in the options (run_options.api), so that ids of drives and
 * networks mean the same after a restore. As with Firecracker a load that fails ends the process,
 * and whoever asks for it vouches for the files: disks that were written since are not refused.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/api.h"
#include "cmd/manage.h"
#include "cmd/snapshot.h"

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static u64 micros(struct api *a) {
    return host_now(linux_host_host(a->lh)) / 1000;
}

/* --- create ----------------------------------------------------------------------------------- */

/* The next incremental snapshot finds it from anywhere. */
static void absolute(const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX] = ".";
    if (slash) {
        snprintf(dir, sizeof(dir), "%.*s", (int)MAX(slash - path, 1), path);
    }
    char *real = realpath(dir, NULL);
    snprintf(out, size, "%s/%s", real ? real : dir, slash ? slash + 1 : path);
    free(real);
}

static int save(struct api *a, const json_t *body, struct err *err) {
    char state[SNAPSHOT_PATH_MAX], memory[SNAPSHOT_PATH_MAX];
    struct snapshot_files f;
    struct snapshot_result result;
    absolute(text(body, "snapshot_path"), state, sizeof(state));
    absolute(text(body, "mem_file_path"), memory, sizeof(memory));
    int rc = snapshot_files_create(&f, state, memory, err);
    if (rc) {
        return rc;
    }
    bool track =
        json_is_true(json_object_get(a->config.single[API_MACHINE_CONFIG], "track_dirty_pages"));
    struct snapshot_save o = {.state_fd = f.state_fd,
                              .memory_fd = f.memory_fd,
                              .state_path = state,
                              .memory_path = memory,
                              .incremental = !strcmp(text(body, "snapshot_type"), "Diff"),
                              .track = track};
    rc = snapshot_save(a->m, &o, &result, err);
    if (rc) {
        snapshot_files_abort(&f);
        return rc;
    }
    rc = snapshot_files_seal(&f, err);
    return rc ? (snapshot_files_abort(&f), rc) : snapshot_files_commit(&f, true, err);
}

/* What the API knows goes with the machine's options. */
static int config_keep(struct api *a) {
    json_t *dump = api_config_dump(&a->config);
    char *json = dump ? json_dumps(dump, JSON_COMPACT) : NULL;
    a->m->o.api = json;
    json_decref(dump);
    return json ? 0 : -ERR_NOMEM;
}

int api_create_snapshot(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    struct err err = {0};
    bool diff = !strcmp(text(call->body, "snapshot_type"), "Diff");
    (void)out;
    if (a->state != API_PAUSED) {
        return api_refuse(e, "Create snapshot error: Cannot save the microVM state: Operation not "
                             "allowed: save/restore unavailable while running");
    }
    u64 begin = micros(a);
    int rc = config_keep(a) ? ERR_SET(&err, ERR_NOMEM, "out of memory") : save(a, call->body, &err);
    free((char *)(uintptr_t)a->m->o.api);
    a->m->o.api = NULL;
    if (rc) {
        return api_refuse(e, "Create snapshot error: %.400s", err.text);
    }
    *(diff ? &a->metrics.latency.diff_create : &a->metrics.latency.full_create) = micros(a) - begin;
    return 0;
}

/* --- load ------------------------------------------------------------------------------------- */

struct loading {
    struct api *a;
    const json_t *body;
};

/* Of a machine that no API made: enough to name its devices. */
static void config_invent(struct api_config *c, const struct run_options *o) {
    char id[32];
    for (u32 i = 0; i < o->disk_count; i++) {
        snprintf(id, sizeof(id), "disk%u", i);
        json_array_append_new(c->many[API_DRIVES],
                              json_pack("{s:s, s:b, s:s?, s:b}", "drive_id", id, "is_root_device",
                                        0, "path_on_host", o->disk[i].open.path, "is_read_only",
                                        o->disk[i].open.readonly));
    }
    for (u32 i = 0; i < o->net_count; i++) {
        snprintf(id, sizeof(id), "net%u", i);
        json_array_append_new(c->many[API_NETWORKS], json_pack("{s:s}", "iface_id", id));
    }
}

/* The configuration's text is as hostile as the rest of the file; it must fit the devices. */
static int config_restore(struct api *a, struct run_options *o, struct err *err) {
    struct api_config fresh;
    struct api_text e = {0};
    if (api_config_init(&fresh)) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = o->api ? api_config_restore(&fresh, o->api, &e) : 0;
    if (!o->api) {
        config_invent(&fresh, o);
    }
    if (rc || json_array_size(fresh.many[API_DRIVES]) != o->disk_count ||
        json_array_size(fresh.many[API_NETWORKS]) != o->net_count) {
        api_config_free(&fresh);
        return ERR_SET(err, ERR_FORMAT, "the configuration in the snapshot is damaged: %.150s",
                       e.text);
    }
    json_t *m = fresh.single[API_MACHINE_CONFIG];
    json_object_set_new(m, "vcpu_count", json_integer(o->cpus));
    json_object_set_new(m, "mem_size_mib", json_integer((json_int_t)(o->memory / MIB)));
    for (u32 i = 0; i < API_SINGLES; i++) { /* what was given to this process stays */
        bool own = i == API_LOGGER || i == API_METRICS || i == API_SOSIA;
        if (own && a->config.single[i]) {
            json_decref(fresh.single[i]);
            fresh.single[i] = json_incref(a->config.single[i]);
        }
    }
    api_config_free(&a->config);
    a->config = fresh;
    return 0;
}

static int override_nets(struct api *a, const json_t *list, struct run_options *o,
                         struct err *err) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        size_t index = 0;
        json_t *net = api_config_find(&a->config, API_NETWORKS, text(v, "iface_id"), &index);
        const char *name = run_options_keep(o, text(v, "host_dev_name"));
        if (!net || !name) {
            return ERR_SET(err, ERR_INVAL, "Unknown Network Device: %.60s", text(v, "iface_id"));
        }
        o->net[index].kind = NET_TAP;
        o->net[index].name = name;
        json_object_set(net, "host_dev_name", json_object_get(v, "host_dev_name"));
    }
    return 0;
}

static int override_vsock(struct api *a, const json_t *v, struct run_options *o, struct err *err) {
    json_t *path = json_object_get(v, "uds_path");
    if (!v) {
        return 0;
    }
    if (!o->vsock.cid) {
        return ERR_SET(err, ERR_INVAL, "Vsock override: the snapshot has no vsock device");
    }
    o->vsock.path = run_options_keep(o, json_string_value(path));
    if (a->config.single[API_VSOCK]) {
        json_object_set(a->config.single[API_VSOCK], "uds_path", path);
    }
    return o->vsock.path ? 0 : ERR_SET(err, ERR_NOMEM, "out of memory");
}

/* Of PUT /sosia only that counts for a snapshot; the guest does not see it. */
static void choose_engine(const struct api *a, struct run_options *o) {
    const json_t *own = a->config.single[API_SOSIA];
    const char *engine = text(own, "engine");
    if (engine && strcmp(engine, "auto") != 0) {
        o->engine = !strcmp(engine, "kvm") ? ENGINE_KVM : ENGINE_SOFT;
    }
    if (own) {
        o->translator.on = json_is_true(json_object_get(own, "translator"));
    }
}

static int adjust(void *ctx, struct run_options *o, struct err *err) {
    struct loading *l = ctx;
    choose_engine(l->a, o);
    int rc = config_restore(l->a, o, err);
    rc = rc ? rc : override_nets(l->a, json_object_get(l->body, "network_overrides"), o, err);
    rc = rc ? rc : override_vsock(l->a, json_object_get(l->body, "vsock_override"), o, err);
    o->name_like = o->name;
    o->name = NULL;
    for (u32 i = 0; i < o->disk_count; i++) {
        o->disk[i].limit_always = true; /* PATCH sets it */
    }
    api_serial_limit(&l->a->config, o);
    o->api = NULL;
    o->thread_name = "fc_vcpu";
    o->fence = !l->a->no_fence;
    o->quiet = l->a->quiet == API_QUIET;
    return rc;
}

static int load(struct api *a, const json_t *body, struct err *err) {
    const json_t *backend = json_object_get(body, "mem_backend");
    const char *type = text(backend, "backend_type"), *path = text(backend, "backend_path");
    bool uffd = type && !strcmp(type, "Uffd");
    bool track = json_is_true(json_object_get(body, "track_dirty_pages")) ||
                 json_is_true(json_object_get(body, "enable_diff_snapshots"));
    bool careful = json_is_true(json_object_get(body, "sosia_check"));
    struct loading l = {.a = a, .body = body};
    struct snapshot_open how = {.state_path = text(body, "snapshot_path"),
                                .memory_path = uffd   ? NULL
                                               : path ? path
                                                      : text(body, "mem_file_path"),
                                .uffd_path = uffd ? path : NULL,
                                .check = careful,
                                .force = !careful,
                                .track = track,
                                .adjust = adjust,
                                .adjust_ctx = &l};
    int rc = api_machine_new(a, err);
    rc = rc ? rc : snapshot_open(&how, &a->m->o, &a->m->restore, err);
    rc = rc ? rc : machine_create(a->m, err);
    if (rc) {
        return rc;
    }
    vm_pause_begin(pc_vm(a->m->pc)); /* no instruction before the client says so */
    rc = machine_start(a->m, a->on_stop, a->on_stop_ctx, err);
    if (!rc) {
        manage_pause(a->m);
        vm_resume(pc_vm(a->m->pc));
    }
    return rc;
}

/* Exactly one of the two says where the memory is. */
static int check_backend(const json_t *body, struct api_text *e) {
    bool file = json_object_get(body, "mem_file_path");
    bool backend = json_object_get(body, "mem_backend");
    if (file == backend) {
        return api_refuse(e, "An error occurred when deserializing the json body of a request: %s.",
                          file ? "too many fields: either `mem_backend` or `mem_file_path` "
                                 "exclusively is required"
                               : "missing field: either `mem_backend` or `mem_file_path` is "
                                 "required");
    }
    return 0;
}

int api_load_snapshot(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    struct err err = {0};
    (void)out;
    int rc = check_backend(call->body, e);
    if (rc) {
        return rc;
    }
    if (a->boot_path) {
        return api_refuse(e, "Load snapshot error: Loading a microVM snapshot not allowed after "
                             "configuring boot-specific resources.");
    }
    if (!a->lh) {
        return api_refuse(e, "Load snapshot error: there is no host to load it on");
    }
    u64 begin = micros(a);
    if (load(a, call->body, &err)) {
        a->fatal = true;
        api_machine_drop(a);
        return api_refuse(e, "Load snapshot error: Failed to restore from snapshot: %.400s",
                          err.text);
    }
    a->state = API_PAUSED;
    if (json_is_true(json_object_get(call->body, "resume_vm"))) {
        manage_resume(a->m);
        a->state = API_RUNNING;
    }
    a->metrics.latency.load = micros(a) - begin;
    return 0;
}
