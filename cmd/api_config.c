/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resources of a machine and the rules between them, as Firecracker's vmm_config has them. Values
 * have passed their tables (api_tables.c) before they come here. What a host file holds is not
 * looked at: that is the server's business (api_files.c) or the start's.
 */
#include "cmd/api_config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/board/config.h"

enum { FC_MAX_VCPUS = 32, BOOT_ARGS_MAX = 2048 };

int api_refuse(struct api_text *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    return -ERR_INVAL;
}

bool api_id_valid(const char *id) {
    size_t n = 0;
    while (isalnum((unsigned char)id[n]) || id[n] == '_') {
        n++;
    }
    return n && !id[n];
}

int api_config_init(struct api_config *c) {
    *c = (struct api_config){0};
    c->single[API_MACHINE_CONFIG] =
        json_pack("{s:i, s:i, s:b, s:b, s:s}", "vcpu_count", 1, "mem_size_mib", 128, "smt", 0,
                  "track_dirty_pages", 0, "huge_pages", "None");
    bool ok = c->single[API_MACHINE_CONFIG];
    for (u32 i = 0; i < API_MANIES; i++) {
        c->many[i] = json_array();
        ok = ok && c->many[i];
    }
    if (!ok) {
        api_config_free(c);
    }
    return ok ? 0 : -ERR_NOMEM;
}

void api_config_free(struct api_config *c) {
    for (u32 i = 0; i < API_SINGLES; i++) {
        json_decref(c->single[i]);
    }
    for (u32 i = 0; i < API_MANIES; i++) {
        json_decref(c->many[i]);
    }
    *c = (struct api_config){0};
}

json_t *api_config_find(const struct api_config *c, enum api_many which, const char *id,
                        size_t *index) {
    const char *field = api_manies[which].id_field;
    for (size_t i = 0; i < json_array_size(c->many[which]); i++) {
        json_t *item = json_array_get(c->many[which], i);
        if (!strcmp(json_string_value(json_object_get(item, field)), id)) {
            if (index) {
                *index = i;
            }
            return item;
        }
    }
    return NULL;
}

/* --- rules ------------------------------------------------------------------------------------ */

static u64 number(const json_t *object, const char *key) {
    return (u64)json_integer_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int machine_check(const struct api_config *c, const json_t *v, struct api_text *e) {
    u64 cpus = number(v, "vcpu_count"), mib = number(v, "mem_size_mib");
    const char *template = text(v, "cpu_template"), *pages = text(v, "huge_pages");
    bool smt = json_is_true(json_object_get(v, "smt"));
    if (!cpus || cpus > FC_MAX_VCPUS || (smt && cpus > 1 && cpus % 2)) {
        return api_refuse(e,
                          "The number of vCPUs must be greater than 0, less than %d and must be "
                          "1 or an even number if SMT is enabled.",
                          FC_MAX_VCPUS);
    }
    bool huge = pages && !strcmp(pages, "2M");
    if (!mib || (huge && mib % 2) || mib > MACHINE_MAX_MEMORY / MIB) {
        return api_refuse(e, "The memory size (MiB) is either 0, or not a multiple of the "
                             "configured page size.");
    }
    if (c->single[API_BALLOON] && number(c->single[API_BALLOON], "amount_mib") > mib) {
        return api_refuse(e, "The memory size (MiB) is smaller than the previously set balloon "
                             "device target size.");
    }
    if (template && strcmp(template, "None") != 0) {
        return api_refuse(e,
                          "CPU template %s is not offered: the processor that guests see is "
                          "Sosia's own (`sosia cpu` shows it).",
                          template);
    }
    return 0;
}

static int boot_check(const json_t *v, struct api_text *e) {
    const char *args = text(v, "boot_args");
    if (args && strlen(args) >= BOOT_ARGS_MAX) {
        return api_refuse(e, "The kernel command line is invalid: Inserting string would make "
                             "command line too long.");
    }
    return 0;
}

static int balloon_check(const struct api_config *c, const json_t *v, struct api_text *e) {
    if (number(v, "amount_mib") > number(c->single[API_MACHINE_CONFIG], "mem_size_mib")) {
        return api_refuse(e, "Amount of pages requested is too large.");
    }
    return 0;
}

static int vsock_check(const json_t *v, struct api_text *e) {
    if (number(v, "guest_cid") < 3) {
        return api_refuse(e, "The guest CID must be at least 3.");
    }
    return strlen(text(v, "uds_path")) ? 0 : api_refuse(e, "The path of the socket is empty.");
}

static int mmds_check(const struct api_config *c, const json_t *v, struct api_text *e) {
    const json_t *list = json_object_get(v, "network_interfaces");
    struct in_addr ip;
    if (!json_array_size(list)) {
        return api_refuse(e, "The list of network interface IDs that allow forwarding MMDS "
                             "requests is empty.");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *id = json_string_value(json_array_get(list, i));
        if (!api_config_find(c, API_NETWORKS, id, NULL)) {
            return api_refuse(e, "The list of network interface IDs provided contains at least one "
                                 "ID that does not correspond to any existing network interface.");
        }
    }
    /* RFC 3927: 169.254.1.0 to 169.254.254.255 */
    u32 host = inet_pton(AF_INET, text(v, "ipv4_address"), &ip) == 1 ? ntohl(ip.s_addr) : 0;
    if (host < 0xa9fe0100 || host > 0xa9fefeff) {
        return api_refuse(e, "The MMDS IPv4 address is not link local.");
    }
    return 0;
}

static int memory_check(const json_t *v, struct api_text *e) {
    (void)v;
    return api_refuse(e, "memory hotplug is not offered by Sosia; give the machine a balloon.");
}

static int cpu_check(const json_t *v, struct api_text *e) {
    struct cpu_template t;
    return api_cpu_template(v, &t, e);
}

static int single_check(const struct api_config *c, enum api_single which, const json_t *v,
                        struct api_text *e) {
    switch (which) {
    case API_MACHINE_CONFIG:
        return machine_check(c, v, e);
    case API_BOOT_SOURCE:
        return boot_check(v, e);
    case API_BALLOON:
        return balloon_check(c, v, e);
    case API_CPU_CONFIG:
        return cpu_check(v, e);
    case API_VSOCK:
        return vsock_check(v, e);
    case API_MMDS_CONFIG:
        return mmds_check(c, v, e);
    case API_MEMORY_HOTPLUG:
        return memory_check(v, e);
    default:
        return 0;
    }
}

/* "Machine config error: ..." */
static int with_prefix(const char *prefix, int rc, struct api_text *e) {
    struct api_text t = *e;
    return rc ? api_refuse(e, "%s: %.440s", prefix, t.text) : 0;
}

int api_config_put(struct api_config *c, enum api_single which, json_t *value, struct api_text *e) {
    int rc = with_prefix(api_singles[which].prefix, single_check(c, which, value, e), e);
    if (rc) {
        json_decref(value);
        return rc;
    }
    json_decref(c->single[which]);
    c->single[which] = value;
    return 0;
}

int api_config_patch_machine(struct api_config *c, const json_t *patch, struct api_text *e) {
    json_t *merged = json_deep_copy(c->single[API_MACHINE_CONFIG]);
    if (!merged || json_object_update(merged, (json_t *)(uintptr_t)patch)) {
        json_decref(merged);
        return api_refuse(e, "out of memory");
    }
    return api_config_put(c, API_MACHINE_CONFIG, merged, e);
}

/* --- drives, networks ------------------------------------------------------------------------- */

static bool is_root(const json_t *drive) {
    return json_is_true(json_object_get(drive, "is_root_device"));
}

static int drive_check(const struct api_config *c, const json_t *v, size_t index,
                       struct api_text *e) {
    bool path = text(v, "path_on_host");
    if (text(v, "socket")) {
        return api_refuse(e, "Unable to create the block device: vhost-user devices (socket) are "
                             "not offered by Sosia.");
    }
    if (!path) {
        return api_refuse(e, "Unable to create the block device: path_on_host is missing.");
    }
    for (size_t i = 0; is_root(v) && i < json_array_size(c->many[API_DRIVES]); i++) {
        if (i != index && is_root(json_array_get(c->many[API_DRIVES], i))) {
            return api_refuse(e, "A root block device already exists!");
        }
    }
    return 0;
}

static bool same_text(const json_t *a, const json_t *b, const char *key) {
    const char *x = text(a, key), *y = text(b, key);
    return x && y && !strcasecmp(x, y);
}

static int net_check(const struct api_config *c, const json_t *v, size_t index,
                     struct api_text *e) {
    const char *mac = text(v, "guest_mac"), *host = text(v, "host_dev_name");
    u64 mtu = number(v, "mtu");
    u8 bytes[6];
    if (!host == !text(v, "sosia_network")) {
        return api_refuse(e, "one of host_dev_name (a tap device) and sosia_network is needed.");
    }
    if (mac && mac_parse(mac, bytes)) {
        return api_refuse(e, "'%.40s' is not a MAC address.", mac);
    }
    if (json_object_get(v, "mtu") && mtu < 68) {
        return api_refuse(e, "the mtu must be 68 to 65535.");
    }
    for (size_t i = 0; i < json_array_size(c->many[API_NETWORKS]); i++) {
        const json_t *other = json_array_get(c->many[API_NETWORKS], i);
        if (i == index) {
            continue;
        }
        if (same_text(v, other, "guest_mac")) {
            return api_refuse(e, "The MAC address is already in use: %.40s", mac);
        }
        if (host && same_text(v, other, "host_dev_name")) {
            return api_refuse(e, "The host device name %.100s is already in use.", host);
        }
    }
    return 0;
}

static int many_check(const struct api_config *c, enum api_many which, const json_t *v,
                      size_t index, struct api_text *e) {
    if (index == SIZE_MAX && json_array_size(c->many[which]) == api_manies[which].most) {
        return api_refuse(e, "at most %u of %s are possible.", api_manies[which].most,
                          api_manies[which].name);
    }
    switch (which) {
    case API_DRIVES:
        return drive_check(c, v, index, e);
    case API_NETWORKS:
        return net_check(c, v, index, e);
    default:
        return api_refuse(e, "persistent memory devices are not offered by Sosia; use a drive.");
    }
}

int api_config_put_many(struct api_config *c, enum api_many which, json_t *value,
                        struct api_text *e) {
    const char *id = text(value, api_manies[which].id_field);
    size_t index = SIZE_MAX;
    int rc = 0;
    if (!api_id_valid(id)) {
        rc = api_refuse(
            e, "API Resource IDs can only contain alphanumeric characters and underscores.");
    } else {
        api_config_find(c, which, id, &index);
        rc = with_prefix(api_manies[which].prefix, many_check(c, which, value, index, e), e);
    }
    if (rc) {
        json_decref(value);
        return rc;
    }
    json_t *list = c->many[which];
    if (index != SIZE_MAX) {
        json_array_remove(list, index);
    }
    bool first = which == API_DRIVES && is_root(value);
    size_t at = first ? 0 : index != SIZE_MAX ? index : json_array_size(list);
    if (json_array_insert_new(list, MIN(at, json_array_size(list)), value)) {
        return api_refuse(e, "out of memory");
    }
    return 0;
}

void api_merge_limiter(json_t *item, const char *field, const json_t *patch) {
    static const char *const buckets[] = {"bandwidth", "ops"};
    json_t *have = json_object_get(item, field);
    if (!json_is_object(patch)) {
        return;
    }
    if (!have) {
        have = json_object();
        if (json_object_set_new(item, field, have)) {
            return;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(buckets); i++) {
        json_t *b = json_object_get(patch, buckets[i]);
        if (b && !number(b, "size")) {
            json_object_del(have, buckets[i]); /* switched off */
        } else if (b) {
            json_object_set_new(have, buckets[i], json_deep_copy(b));
        }
    }
}

json_t *api_config_dump(const struct api_config *c) {
    json_t *out = json_object();
    for (u32 i = 0; out && i < API_SINGLES; i++) {
        json_t *v = c->single[i] ? json_deep_copy(c->single[i]) : json_null();
        if (i == API_SOSIA && !c->single[i]) {
            continue;
        }
        json_object_set_new(out, api_singles[i].name, v);
    }
    for (u32 i = 0; out && i < API_MANIES; i++) {
        json_object_set_new(out, api_manies[i].name, json_deep_copy(c->many[i]));
    }
    return out;
}

int api_config_restore(struct api_config *c, const char *text, struct api_text *e) {
    json_t *root = api_parse_any(text, strlen(text), e);
    int rc = root ? 0 : -ERR_FORMAT;
    for (u32 i = 0; !rc && i < API_SINGLES; i++) {
        const json_t *v = json_object_get(root, api_singles[i].name);
        json_t *copy = v && !json_is_null(v) ? api_check(api_singles[i].schema, v, e) : NULL;
        if (copy) {
            json_decref(c->single[i]);
            c->single[i] = copy;
        }
        rc = v && !json_is_null(v) && !copy ? -ERR_FORMAT : 0;
    }
    for (u32 i = 0; !rc && i < API_MANIES; i++) {
        const json_t *list = json_object_get(root, api_manies[i].name);
        for (size_t k = 0; !rc && k < json_array_size(list) && k < api_manies[i].most; k++) {
            json_t *copy = api_check(api_manies[i].schema, json_array_get(list, k), e);
            rc = copy && !json_array_append_new(c->many[i], copy) ? 0 : -ERR_FORMAT;
        }
    }
    json_decref(root);
    return rc;
}
