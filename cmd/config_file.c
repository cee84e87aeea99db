/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machine configuration files in Firecracker's JSON format: the bodies of its API, a section each
 * (api_tables.c), and Sosia's own section "sosia". `sosia run --config` takes those that describe a
 * machine; `sosia api --config-file` takes all.
 */
#include <stdio.h>
#include <string.h>

#include "cmd/api_config.h"

enum { CONFIG_MAX_BYTES = 4 << 20 };

static int refuse(const char *name, const char *why, struct err *err) {
    int rc = ERR_SET(err, ERR_INVAL, "config %s: %s", name, why);
    for (char *p = err ? err->text : NULL; p && *p; p++) {
        if ((unsigned char)*p < ' ') {
            *p = '?'; /* one line, whatever the file's names are */
        }
    }
    return rc;
}

/* The whole file as one object of the tables' kind. */
static json_t *parse_sections(const char *text, size_t len, struct api_text *e) {
    struct api_field field[API_SINGLES + API_MANIES];
    u32 n = 0;
    for (u32 i = 0; i < API_SINGLES; i++) {
        field[n++] = (struct api_field){
            .name = api_singles[i].name,
            .type = i == API_CPU_CONFIG ? API_ANY : API_OBJECT, /* or the name of a file */
            .flags = i == API_BOOT_SOURCE ? API_REQUIRED : 0,
            .sub = api_singles[i].schema};
    }
    for (u32 i = 0; i < API_MANIES; i++) {
        field[n++] = (struct api_field){
            .name = api_manies[i].name, .type = API_LIST, .sub = api_manies[i].schema};
    }
    const struct api_schema file = {"struct VmmConfig", field, n};
    return api_parse(&file, text, len, NULL, e);
}

static json_t *cpu_file(const char *path, struct api_text *e) {
    struct blob file = {0};
    struct err err = {0};
    if (file_map("cpu-config", path, &file, &err)) {
        api_refuse(e, "%s", err.text);
        return NULL;
    }
    json_t *v = NULL;
    if (file.size > CONFIG_MAX_BYTES) {
        api_refuse(e, "cpu-config %s: larger than 4 MiB", path);
    } else {
        v = api_parse(api_singles[API_CPU_CONFIG].schema, (const char *)file.data, file.size, NULL,
                      e);
    }
    file_unmap(&file);
    return v;
}

static int put_single(struct api_config *c, enum api_single i, const json_t *v,
                      struct api_text *e) {
    json_t *copy = NULL;
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (i != API_CPU_CONFIG) {
        copy = json_deep_copy(v);
    } else {
        copy = json_is_string(v) ? cpu_file(json_string_value(v), e)
                                 : api_check(api_singles[i].schema, v, e);
    }
    return copy ? api_config_put(c, i, copy, e) : -ERR_INVAL;
}

static int put_sections(struct api_config *c, const json_t *root, struct api_text *e) {
    int rc = put_single(c, API_MACHINE_CONFIG,
                        json_object_get(root, api_singles[API_MACHINE_CONFIG].name), e);
    for (u32 i = 0; !rc && i < API_MANIES; i++) {
        const json_t *list = json_object_get(root, api_manies[i].name);
        for (size_t k = 0; !rc && k < json_array_size(list); k++) {
            rc = api_config_put_many(c, i, json_deep_copy(json_array_get(list, k)), e);
        }
    }
    for (u32 i = 0; !rc && i < API_SINGLES; i++) {
        if (i != API_MACHINE_CONFIG) {
            rc = put_single(c, i, json_object_get(root, api_singles[i].name), e);
        }
    }
    return rc;
}

int api_config_load(struct api_config *c, const char *name, const char *text, size_t len,
                    struct err *err) {
    struct api_text e = {0};
    json_t *root = parse_sections(text, len, &e);
    int rc = root ? put_sections(c, root, &e) : -ERR_INVAL;
    json_decref(root);
    return rc ? refuse(name, e.text, err) : 0;
}

/* --- sosia run --config ----------------------------------------------------------------------- */

/* What needs the API's process around it. */
static int check_for_run(const struct api_config *c, const char *name, struct err *err) {
    static const enum api_single own[] = {API_LOGGER, API_METRICS, API_MMDS_CONFIG};
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        if (c->single[own[i]]) {
            return ERR_SET(err, ERR_INVAL, "config %s: %s: only `sosia api --config-file` has it",
                           name, api_singles[own[i]].name);
        }
    }
    return 0;
}

int config_text_load(struct run_options *o, const char *name, const char *text, size_t len,
                     struct err *err) {
    struct api_config c;
    if (api_config_init(&c)) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = api_config_load(&c, name, text, len, err);
    rc = rc ? rc : check_for_run(&c, name, err);
    if (!rc) {
        struct err why = {0};
        rc = api_config_options(&c, o, &why);
        rc = rc ? refuse(name, why.text, err) : 0;
    }
    api_config_free(&c);
    return rc;
}

int config_file_load(struct run_options *o, const char *path, struct err *err) {
    struct blob file = {0};
    int rc = file_map("config", path, &file, err);
    if (rc) {
        return rc;
    }
    rc = file.size > CONFIG_MAX_BYTES
             ? ERR_SET(err, ERR_INVAL, "config %s: larger than 4 MiB", path)
             : config_text_load(o, path, (const char *)file.data, file.size, err);
    file_unmap(&file);
    return rc;
}
