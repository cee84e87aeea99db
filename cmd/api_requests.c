/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that configure and that look: resources, logger, metrics. Host files that a
 * resource names are opened here once to tell about mistakes early, as Firecracker does.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/api.h"

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* --- host files ------------------------------------------------------------------------------- */

/* 0 or errno. */
static int try_open(const struct api *a, const char *path, int flags) {
    if (a->no_files) {
        return 0;
    }
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return errno;
    }
    close(fd);
    return 0;
}

static int check_boot_files(const struct api *a, const json_t *v, struct api_text *e) {
    const char *kernel = text(v, "kernel_image_path"), *initrd = text(v, "initrd_path");
    int error = try_open(a, kernel, O_RDONLY);
    if (error) {
        return api_refuse(e,
                          "Boot source error: The kernel file cannot be opened: %s (os error %d)",
                          strerror(error), error);
    }
    error = initrd ? try_open(a, initrd, O_RDONLY) : 0;
    if (error) {
        return api_refuse(e,
                          "Boot source error: The initrd file cannot be opened due to invalid path "
                          "or invalid permissions. %s (os error %d)",
                          strerror(error), error);
    }
    return 0;
}

static int check_drive_file(const struct api *a, const json_t *v, struct api_text *e) {
    const char *path = text(v, "path_on_host");
    bool readonly = json_is_true(json_object_get(v, "is_read_only"));
    int error = path ? try_open(a, path, readonly ? O_RDONLY : O_RDWR) : 0;
    return error ? api_refuse(e,
                              "Drive config error: Unable to create the virtio block device: "
                              "Virtio backend error: Error manipulating the backing file: %s (os "
                              "error %d) %.200s",
                              strerror(error), error, path)
                 : 0;
}

static int check_files(const struct api *a, const json_t *v, struct api_text *e) {
    if (json_object_get(v, "kernel_image_path")) {
        return check_boot_files(a, v, e);
    }
    return json_object_get(v, "path_on_host") ? check_drive_file(a, v, e) : 0;
}

/* --- looking ---------------------------------------------------------------------------------- */

int api_get_info(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    static const char *const states[] = {"Not started", "Running", "Paused"};
    (void)call;
    (void)e;
    *out = json_pack("{s:s, s:s, s:s, s:s}", "app_name", "Firecracker", "id", a->id, "state",
                     states[a->state], "vmm_version", API_FIRECRACKER_VERSION);
    return 0;
}

int api_get_version(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)a;
    (void)call;
    (void)e;
    *out = json_pack("{s:s}", "firecracker_version", API_FIRECRACKER_VERSION);
    return 0;
}

int api_get_config(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)call;
    (void)e;
    *out = api_config_dump(&a->config);
    return 0;
}

int api_get_machine(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)call;
    (void)e;
    *out = json_deep_copy(a->config.single[API_MACHINE_CONFIG]);
    return 0;
}

int api_get_sosia(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)call;
    (void)e;
    const json_t *own = a->config.single[API_SOSIA];
    *out = json_pack("{s:s, s:s, s:O?}", "version", SOSIA_VERSION, "engine",
                     a->m && a->m->engine ? a->m->engine->name : "not chosen yet", "config", own);
    return 0;
}

/* --- resources -------------------------------------------------------------------------------- */

static json_t *take_body(struct api_call *call) {
    json_t *body = call->body;
    call->body = NULL;
    return body;
}

int api_put_single(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)out;
    int rc = check_files(a, call->body, e);
    rc = rc ? rc : api_config_put(&a->config, call->arg, take_body(call), e);
    a->boot_path |= !rc && call->arg != API_SOSIA; /* also says how a snapshot is to run */
    return rc;
}

int api_put_many(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)out;
    int rc = call->arg == API_DRIVES ? check_files(a, call->body, e) : 0;
    rc = rc ? rc : api_config_put_many(&a->config, call->arg, take_body(call), e);
    a->boot_path |= !rc;
    return rc;
}

int api_patch_machine(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)out;
    if (!json_object_size(call->body)) {
        return api_refuse(e, "Empty PATCH request.");
    }
    int rc = api_config_patch_machine(&a->config, call->body, e);
    a->boot_path |= !rc;
    return rc;
}

static const char *const missing[] = {
    "persistent memory devices are not offered by Sosia; use a drive.",
    "memory hotplug is not offered by Sosia; give the machine a balloon.",
    "devices of a running machine cannot be removed.",
};

/* What the API knows and this machine has not. */
int api_refuse_missing(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)a;
    (void)out;
    return api_refuse(e, "The requested operation is not supported: %s", missing[call->arg]);
}

/* --- logger, metrics ---------------------------------------------------------------- */

int api_put_logger(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    char why[200] = "";
    (void)out;
    if (!a->no_files && api_log_configure(&a->log, call->body, why, sizeof(why))) {
        return api_refuse(e, "Logger error: %s", why);
    }
    return api_config_put(&a->config, API_LOGGER, take_body(call), e);
}

int api_put_metrics(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    struct api_metrics *m = &a->metrics;
    (void)out;
    if (a->config.single[API_METRICS]) {
        return api_refuse(
            e, "Metrics error: Cannot initialize the metrics system due to bad user input: "
               "Reinitialization of metrics not allowed.");
    }
    int fd = a->no_files ? -1 : api_open_output(text(call->body, "metrics_path"));
    if (fd < 0 && !a->no_files) {
        return api_refuse(e,
                          "Metrics error: Cannot initialize the metrics system due to bad user "
                          "input: %s (os error %d)",
                          strerror(-fd), -fd);
    }
    m->fd = fd;
    m->emit_id = json_is_true(json_object_get(call->body, "emit_id"));
    m->properties = json_incref(json_object_get(call->body, "properties"));
    return api_config_put(&a->config, API_METRICS, take_body(call), e);
}
