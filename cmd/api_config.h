/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine as Firecracker's API describes it: one JSON value per resource, checked against the
 * tables of api_tables.c, with all presets filled in. The API server builds it request by request,
 * a configuration file at once; api_options.c turns it into options of `sosia run`.
 */
#ifndef CMD_API_CONFIG_H
#define CMD_API_CONFIG_H

#include <jansson.h>

#include "cmd/api_schema.h"
#include "cmd/cmd.h"

/* The resources that there is one of; the order is that of GET /vm/config. */
enum api_single {
    API_BALLOON,
    API_BOOT_SOURCE,
    API_CPU_CONFIG,
    API_ENTROPY,
    API_LOGGER,
    API_MACHINE_CONFIG,
    API_MEMORY_HOTPLUG,
    API_METRICS,
    API_MMDS_CONFIG,
    API_SERIAL,
    API_SOSIA,
    API_VSOCK,
    API_SINGLES
};

/* Those with an id. */
enum api_many { API_DRIVES, API_NETWORKS, API_PMEMS, API_MANIES };

struct api_config {
    json_t *single[API_SINGLES]; /* NULL: not given; machine-config always is */
    json_t *many[API_MANIES];    /* arrays in order of the devices; a root drive is first */
};

/* The tables. name: as in configuration files, "boot-source". */
struct api_resource {
    const char *name;
    const struct api_schema *schema;
    const char *id_field; /* of those with an id: "drive_id" */
    u32 most;
    const char *prefix; /* of messages that refuse a value: "Drive config error" */
};
extern const struct api_resource api_singles[API_SINGLES];
extern const struct api_resource api_manies[API_MANIES];

/* Bodies that change a resource or ask for something. */
extern const struct api_schema api_machine_patch, api_drive_patch, api_net_patch, api_pmem_patch,
    api_balloon_patch, api_balloon_stats_patch, api_hinting_start, api_memory_patch, api_action,
    api_vm_state, api_snapshot_create, api_snapshot_load;

/* Presets, and what boot_args are when none are given. */
extern const char api_default_boot_args[];

int api_config_init(struct api_config *c); /* 0 or -ERR_NOMEM */
void api_config_free(struct api_config *c);

/* Takes value (checked by the table) over in any case. 0, or -ERR_INVAL with a message such as
 * Firecracker's; then nothing has changed. */
int api_config_put(struct api_config *c, enum api_single which, json_t *value, struct api_text *e);
int api_config_put_many(struct api_config *c, enum api_many which, json_t *value,
                        struct api_text *e);
/* Only the fields that are given. */
int api_config_patch_machine(struct api_config *c, const json_t *patch, struct api_text *e);

/* The item with that id, or NULL; *index where it stands (may be NULL). */
json_t *api_config_find(const struct api_config *c, enum api_many which, const char *id,
                        size_t *index);
/* A rate limiter of an item: members of patch replace those of the same name. */
void api_merge_limiter(json_t *item, const char *field, const json_t *patch);
/* From what api_config_dump gave; c is initialised and has nothing yet. */
int api_config_restore(struct api_config *c, const char *text, struct api_text *e);
/* The answer to GET /vm/config. */
json_t *api_config_dump(const struct api_config *c);

/* "[A-Za-z0-9_]+" */
bool api_id_valid(const char *id);
/* Puts the reason of an error together. Returns -ERR_INVAL. */
int api_refuse(struct api_text *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* api_options.c: the machine of c as options of `sosia run`, which must be empty; strings are kept
 * in o. 0, or a negative code with err. */
int api_config_options(const struct api_config *c, struct run_options *o, struct err *err);
/* api_cpu.c: a checked cpu-config (NULL: none) as what the machine takes. 0 or -ERR_INVAL with the
 * text: something that Sosia cannot do, or not a number or a bitmap. */
int api_cpu_template(const json_t *config, struct cpu_template *out, struct api_text *e);
void api_serial_limit(const struct api_config *c, struct run_options *o);
/* A rate limiter's JSON (NULL: none). */
void api_rate_limit(const json_t *limiter, struct rate_limit *out);

/* config_file.c: sections of a configuration file. */
int api_config_load(struct api_config *c, const char *name, const char *text, size_t len,
                    struct err *err);

#endif
