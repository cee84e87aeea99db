/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which handler answers a request, and what is refused before one is asked: in Firecracker's order,
 * body present or not, path and method, id, JSON, then whether the time is right.
 *
 * As in Firecracker the first part of a path decides, and what follows the parts that are looked at
 * is ignored ("/version/x" is "/version").
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/api.h"
#include "cmd/manage.h"

const char api_not_before_start[] =
    "The requested operation is not supported before starting the microVM.";
const char api_not_after_start[] =
    "The requested operation is not supported after starting the microVM.";

enum { PARTS_MAX = 4, PART_SIZE = 128 };

/* When an operation is possible, and what the route has beside. */
enum { BOTH, BEFORE, AFTER };
enum { PLAIN, WITH_ID };

struct route {
    const char *method, *part[PARTS_MAX]; /* path, without the id; "" ends it */
    u8 kind, when;
    enum api_counter counter;
    const struct api_schema *schema; /* NULL: of the resource `arg`, or any JSON */
    api_handler handler;
    u32 arg;
};

#define SINGLE(name, which, counter)                                                               \
    { "PUT", {name}, PLAIN, BEFORE, counter, NULL, api_put_single, which }
#define MANY(name, which, counter)                                                                 \
    { "PUT", {name}, WITH_ID, BEFORE, counter, NULL, api_put_many, which }

static const struct route routes[] = {
    {"GET", {""}, PLAIN, BOTH, API_N_GET_INFO, NULL, api_get_info},
    {"GET", {"version"}, PLAIN, BOTH, API_N_GET_VERSION, NULL, api_get_version},
    {"GET", {"vm", "config"}, PLAIN, BOTH, API_N_NONE, NULL, api_get_config},
    {"GET", {"machine-config"}, PLAIN, BOTH, API_N_GET_MACHINE, NULL, api_get_machine},
    {"GET", {"mmds"}, PLAIN, BOTH, API_N_GET_MMDS, NULL, api_get_mmds},
    {"GET", {"balloon", "statistics"}, PLAIN, AFTER, API_N_NONE, NULL, api_get_balloon, 1},
    {"GET", {"balloon", "hinting", "status"}, PLAIN, AFTER, API_N_NONE, NULL, api_get_balloon, 2},
    {"GET", {"balloon"}, PLAIN, BOTH, API_N_NONE, NULL, api_get_balloon, 0},
    {"GET", {"hotplug", "memory"}, PLAIN, AFTER, API_N_GET_HOTPLUG, NULL, api_refuse_missing, 1},
    {"GET", {"sosia", "metrics"}, PLAIN, BOTH, API_N_NONE, NULL, NULL},
    {"GET", {"sosia"}, PLAIN, BOTH, API_N_NONE, NULL, api_get_sosia},

    {"PUT", {"actions"}, PLAIN, BOTH, API_N_PUT_ACTIONS, &api_action, api_put_action},
    SINGLE("balloon", API_BALLOON, API_N_NONE),
    SINGLE("boot-source", API_BOOT_SOURCE, API_N_PUT_BOOT_SOURCE),
    SINGLE("cpu-config", API_CPU_CONFIG, API_N_PUT_CPU),
    SINGLE("entropy", API_ENTROPY, API_N_NONE),
    SINGLE("machine-config", API_MACHINE_CONFIG, API_N_PUT_MACHINE),
    SINGLE("serial", API_SERIAL, API_N_PUT_SERIAL),
    SINGLE("vsock", API_VSOCK, API_N_PUT_VSOCK),
    SINGLE("sosia", API_SOSIA, API_N_NONE),
    {"PUT",
     {"mmds", "config"},
     PLAIN,
     BEFORE,
     API_N_PUT_MMDS,
     NULL,
     api_put_single,
     API_MMDS_CONFIG},
    {"PUT", {"mmds"}, PLAIN, BOTH, API_N_PUT_MMDS, NULL, api_put_mmds, API_SINGLES},
    {"PUT",
     {"hotplug", "memory"},
     PLAIN,
     BEFORE,
     API_N_PUT_HOTPLUG,
     NULL,
     api_put_single,
     API_MEMORY_HOTPLUG},
    {"PUT", {"logger"}, PLAIN, BEFORE, API_N_PUT_LOGGER, NULL, api_put_logger, API_LOGGER},
    {"PUT", {"metrics"}, PLAIN, BEFORE, API_N_PUT_METRICS, NULL, api_put_metrics, API_METRICS},
    MANY("drives", API_DRIVES, API_N_PUT_DRIVE),
    MANY("network-interfaces", API_NETWORKS, API_N_PUT_NETWORK),
    MANY("pmem", API_PMEMS, API_N_PUT_PMEM),
    {"PUT",
     {"snapshot", "create"},
     PLAIN,
     AFTER,
     API_N_NONE,
     &api_snapshot_create,
     api_create_snapshot},
    {"PUT", {"snapshot", "load"}, PLAIN, BEFORE, API_N_NONE, &api_snapshot_load, api_load_snapshot},

    {"PATCH",
     {"balloon", "statistics"},
     PLAIN,
     AFTER,
     API_N_NONE,
     &api_balloon_stats_patch,
     api_patch_balloon,
     1},
    {"PATCH",
     {"balloon", "hinting", "start"},
     PLAIN,
     AFTER,
     API_N_NONE,
     &api_hinting_start,
     api_patch_balloon,
     2},
    {"PATCH", {"balloon", "hinting", "stop"}, PLAIN, AFTER, API_N_NONE, NULL, api_patch_balloon, 3},
    {"PATCH", {"balloon"}, PLAIN, AFTER, API_N_NONE, &api_balloon_patch, api_patch_balloon, 0},
    {"PATCH",
     {"drives"},
     WITH_ID,
     AFTER,
     API_N_PATCH_DRIVE,
     &api_drive_patch,
     api_patch_drive,
     API_DRIVES},
    {"PATCH",
     {"machine-config"},
     PLAIN,
     BEFORE,
     API_N_PATCH_MACHINE,
     &api_machine_patch,
     api_patch_machine},
    {"PATCH", {"mmds"}, PLAIN, BOTH, API_N_PATCH_MMDS, NULL, api_patch_mmds, API_SINGLES},
    {"PATCH",
     {"network-interfaces"},
     WITH_ID,
     AFTER,
     API_N_PATCH_NETWORK,
     &api_net_patch,
     api_patch_net,
     API_NETWORKS},
    {"PATCH", {"pmem"}, WITH_ID, AFTER, API_N_PATCH_PMEM, &api_pmem_patch, api_refuse_missing, 0},
    {"PATCH",
     {"hotplug", "memory"},
     PLAIN,
     AFTER,
     API_N_PATCH_HOTPLUG,
     &api_memory_patch,
     api_refuse_missing,
     1},
    {"PATCH", {"vm"}, PLAIN, AFTER, API_N_NONE, &api_vm_state, api_patch_vm},

    {"DELETE", {"drives"}, WITH_ID, AFTER, API_N_NONE, NULL, api_refuse_missing, 2},
    {"DELETE", {"network-interfaces"}, WITH_ID, AFTER, API_N_NONE, NULL, api_refuse_missing, 2},
    {"DELETE", {"pmem"}, WITH_ID, AFTER, API_N_NONE, NULL, api_refuse_missing, 2},
};

struct path {
    char part[PARTS_MAX][PART_SIZE]; /* "" behind the last */
};

/* --- replies ---------------------------------------------------------------------------------- */

static void reply_json(struct api_reply *r, int status, json_t *v) {
    r->status = status;
    r->body = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    r->type = "application/json";
    if (v && !r->body) {
        r->status = 500;
    }
    json_decref(v);
}

/* Text of a request in a message need not be UTF-8. */
static json_t *lenient_string(const char *text) {
    json_t *s = json_string(text);
    if (!s) {
        char *copy = strdup(text);
        for (char *p = copy; p && *p; p++) {
            if ((unsigned char)*p >= 0x80) {
                *p = '?';
            }
        }
        s = copy ? json_string(copy) : NULL;
        free(copy);
    }
    return s;
}

void api_reply_fault(struct api_reply *r, int status, const char *text) {
    reply_json(r, status, json_pack("{s:o}", "fault_message", lenient_string(text)));
}

/* --- finding the route ------------------------------------------------------------------------ */

static void split(const char *path, struct path *out) {
    if (!strncmp(path, "http://", 7)) { /* as to a proxy: the host does not matter */
        path += 7 + strcspn(path + 7, "/?");
    }
    const char *query = strchr(path, '?');
    const char *end = query ? query : path + strlen(path);
    *out = (struct path){0};
    while (*path == '/') {
        path++;
    }
    for (u32 i = 0; i < PARTS_MAX && path < end; i++) {
        size_t len = 0;
        while (path + len < end && path[len] != '/') {
            len++;
        }
        snprintf(out->part[i], PART_SIZE, "%.*s", (int)MIN(len, (size_t)PART_SIZE - 1), path);
        path += len + (path + len < end);
    }
}

static bool parts_match(const struct route *t, const struct path *p) {
    for (u32 i = 0; i < PARTS_MAX && t->part[i]; i++) {
        if (strcmp(t->part[i], p->part[i]) != 0) {
            return false;
        }
    }
    return true;
}

static const struct route *find_route(const char *method, const struct path *p) {
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (!strcmp(routes[i].method, method) && parts_match(&routes[i], p)) {
            return &routes[i];
        }
    }
    return NULL;
}

/* Parts behind the first of paths that have several. */
static const char *unknown_tail(const char *method, const struct path *p) {
    bool get = !strcmp(method, "GET"), put = !strcmp(method, "PUT");
    if (!strcmp(p->part[0], "balloon") && !put) {
        return p->part[1];
    }
    return !strcmp(p->part[0], "mmds") && !get ? p->part[1] : "";
}

static int refuse_route(const struct api_request *q, const struct path *p, struct api_text *e) {
    if (!strcmp(p->part[0], "snapshot") && p->part[1][0]) {
        return api_refuse(e, "Invalid request method and/or path: %.16s snapshot/%.100s.",
                          q->method, p->part[1]);
    }
    return api_refuse(e, "Invalid request method and/or path: %.16s %.100s.", q->method,
                      p->part[0]);
}

/* Which bodies a method may not have, or must. */
static int check_body(const struct api_request *q, const struct route *t, struct api_text *e) {
    bool stop = t && t->handler == api_patch_balloon && t->arg >= 2; /* hinting: body optional */
    if (!strcmp(q->method, "GET") && q->len) {
        return api_refuse(e, "GET request cannot have a body.");
    }
    if (!strcmp(q->method, "PUT") && !q->len) {
        return api_refuse(e, "Empty PUT request.");
    }
    if (!strcmp(q->method, "PATCH") && !q->len && !stop) {
        return api_refuse(e, "Empty PATCH request.");
    }
    return 0;
}

static int check_id(const char *id, struct api_text *e) {
    if (!id[0]) {
        return api_refuse(e, "The ID cannot be empty.");
    }
    if (!api_id_valid(id)) {
        return api_refuse(
            e, "API Resource IDs can only contain alphanumeric characters and underscores.");
    }
    return 0;
}

static const struct api_schema *schema_of(const struct route *t) {
    if (t->schema) {
        return t->schema;
    }
    if (t->kind == WITH_ID) {
        return t->arg < API_MANIES ? api_manies[t->arg].schema : NULL;
    }
    return t->arg < API_SINGLES ? api_singles[t->arg].schema : NULL;
}

static const char *id_field(const struct route *t) {
    return t->handler == api_put_many || t->handler == api_patch_drive ||
                   t->handler == api_patch_net
               ? api_manies[t->arg].id_field
               : "id";
}

static json_t *parse_body(const struct api_request *q, const struct route *t, bool *deprecated,
                          struct api_text *e) {
    const struct api_schema *s = schema_of(t);
    struct api_text why = {0};
    if (!q->len && t->handler == api_patch_balloon) {
        return json_pack("{s:b}", "acknowledge_on_stop", 1);
    }
    json_t *body =
        s ? api_parse(s, q->body, q->len, deprecated, &why) : api_parse_any(q->body, q->len, &why);
    if (!body) {
        api_refuse(e, "An error occurred when deserializing the json body of a request: %.420s.",
                   why.text);
    }
    return body;
}

static int check_time(const struct api *a, const struct route *t, struct api_text *e) {
    if (t->when == AFTER && a->state == API_NOT_STARTED) {
        return api_refuse(e, "%s", api_not_before_start);
    }
    if (t->when == BEFORE && a->state != API_NOT_STARTED) {
        return api_refuse(e, "%s", api_not_after_start);
    }
    return 0;
}

/* --- the request ------------------------------------------------------------------------------ */

static int call_route(struct api *a, const struct api_request *q, const struct route *t,
                      const struct path *p, bool *deprecated, json_t **out, struct api_text *e) {
    struct api_call call = {.id = p->part[1], .arg = t->arg};
    bool body = q->len || !strcmp(q->method, "PATCH");
    int rc = t->kind == WITH_ID ? check_id(call.id, e) : 0;
    if (!rc && body && strcmp(q->method, "DELETE") != 0) {
        call.body = parse_body(q, t, deprecated, e);
        rc = call.body ? 0 : -ERR_INVAL;
    }
    if (!rc && call.body && t->kind == WITH_ID) {
        const char *inside = json_string_value(json_object_get(call.body, id_field(t)));
        rc = inside && !strcmp(inside, call.id)
                 ? 0
                 : api_refuse(e, "The id from the path does not match the id from the body!");
    }
    rc = rc ? rc : check_time(a, t, e);
    rc = rc ? rc : t->handler(a, &call, out, e);
    json_decref(call.body);
    return rc;
}

/* Prometheus' text is the only answer that is not JSON. */
static void reply_metrics(struct api *a, struct api_reply *r) {
    r->status = 200;
    r->type = "text/plain; version=0.0.4";
    r->body = api_metrics_text(a);
    if (!r->body) {
        api_reply_fault(r, 500, "out of memory");
    }
}

static int route_request(struct api *a, const struct api_request *q, const struct route **t,
                         struct api_reply *r, json_t **out, struct api_text *e) {
    struct path p;
    split(q->path, &p);
    *t = find_route(q->method, &p);
    int rc = check_body(q, *t, e);
    if (rc) {
        return rc;
    }
    if (!*t) {
        return refuse_route(q, &p, e);
    }
    const char *tail = (*t)->kind == PLAIN && !(*t)->part[1] ? unknown_tail(q->method, &p) : "";
    if (tail[0]) {
        return api_refuse(e, "Unrecognized %s request path `%.100s`.", (*t)->method, tail);
    }
    if (!(*t)->handler) {
        reply_metrics(a, r);
        return 0;
    }
    return call_route(a, q, *t, &p, &r->deprecated, out, e);
}

void api_handle(struct api *a, const struct api_request *q, struct api_reply *r) {
    const struct route *t = NULL;
    struct api_text e = {0};
    json_t *out = NULL;
    *r = (struct api_reply){0};
    if (a->m && a->state != API_NOT_STARTED) { /* `sosia pause` may have been there */
        a->state = manage_paused(a->m) ? API_PAUSED : API_RUNNING;
    }
    API_INFO(&a->log, "api_server", "The API server received a %s request on \"%s\".", q->method,
             q->path);
    int rc = route_request(a, q, &t, r, &out, &e);
    api_metrics_request(&a->metrics, t ? t->counter : API_N_NONE, rc, r->deprecated);
    if (rc) {
        json_decref(out);
        api_reply_fault(r, rc == -ERR_NOSPACE ? 413 : 400, e.text);
        API_ERROR(&a->log, "api_server", "Received Error. Status code: %s. Message: %s",
                  rc == -ERR_NOSPACE ? "413 Payload too large" : "400 Bad Request", e.text);
        return;
    }
    if (!r->status) {
        reply_json(r, out ? 200 : 204, out);
    }
    API_INFO(&a->log, "api_server", "The request was executed successfully. Status code: %d %s.",
             r->status, r->status == 204 ? "No Content" : "OK");
}
