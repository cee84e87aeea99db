/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machine configuration files in Firecracker's JSON format: boot-source, drives, machine-config,
 * network-interfaces, entropy. Unknown members are refused, as Firecracker does; those it knows and
 * Sosia does not offer yet are refused with their names.
 */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "core/board/config.h"

enum { CONFIG_MAX_BYTES = 4 << 20 };

/* Defaults of Firecracker for boot_args. */
#define DEFAULT_BOOT_ARGS                                                                          \
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "             \
    "swiotlb=noforce"

#define DEFAULT_MEMORY (128 * MIB) /* without machine-config */

struct loader {
    struct run_options *o;
    const char *name; /* of the file */
    struct err *err;
    bool root_set;
    struct rate_limit *limit; /* being read, */
    struct token_bucket_config *bucket;
};

typedef int (*member_fn)(struct loader *l, const char *key, json_t *value);

struct member {
    const char *key;
    member_fn load; /* NULL: accepted and without effect */
};

static int bad(struct loader *l, const char *key, const char *why) {
    return ERR_SET(l->err, ERR_INVAL, "config %s: %s: %s", l->name, key, why);
}

static int load_object(struct loader *l, const char *what, json_t *object,
                       const struct member *members, size_t count) {
    const char *key;
    json_t *value;
    if (!json_is_object(object)) {
        return bad(l, what, "is not an object");
    }
    json_object_foreach(object, key, value) {
        size_t i = 0;
        while (i < count && strcmp(members[i].key, key)) {
            i++;
        }
        if (i == count) {
            return ERR_SET(l->err, ERR_INVAL, "config %s: %s: unknown field '%s'", l->name, what,
                           key);
        }
        int rc = members[i].load && !json_is_null(value) ? members[i].load(l, key, value) : 0;
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static int keep_string(struct loader *l, const char *key, json_t *value, const char **out) {
    if (!json_is_string(value)) {
        return bad(l, key, "is not a string");
    }
    if (strlen(json_string_value(value)) != json_string_length(value)) {
        return bad(l, key, "contains a NUL character");
    }
    *out = run_options_keep(l->o, json_string_value(value));
    return *out ? 0 : bad(l, key, "out of memory");
}

static int unsupported(struct loader *l, const char *key, json_t *value) {
    (void)value;
    return bad(l, key, "is not offered yet");
}

/* Fields that are checked but change nothing here. */
static int load_bool(struct loader *l, const char *key, json_t *value) {
    return json_is_boolean(value) ? 0 : bad(l, key, "is not true or false");
}

static int load_text(struct loader *l, const char *key, json_t *value) {
    return json_is_string(value) ? 0 : bad(l, key, "is not a string");
}

static int load_name(struct loader *l, const char *key, json_t *value, const char *const *names,
                     size_t count) {
    const char *s = json_string_value(value);
    for (size_t i = 0; s && i < count; i++) {
        if (!strcmp(s, names[i])) {
            return 0;
        }
    }
    return s ? ERR_SET(l->err, ERR_INVAL, "config %s: %s: '%s' is not offered", l->name, key, s)
             : bad(l, key, "is not a string");
}

/* --- boot-source ------------------------------------------------------------------------------ */

static int load_kernel(struct loader *l, const char *key, json_t *value) {
    return keep_string(l, key, value, &l->o->kernel);
}

static int load_boot_args(struct loader *l, const char *key, json_t *value) {
    return keep_string(l, key, value, &l->o->cmdline);
}

static int load_initrd(struct loader *l, const char *key, json_t *value) {
    return keep_string(l, key, value, &l->o->initrd);
}

static int load_boot_source(struct loader *l, const char *key, json_t *value) {
    static const struct member members[] = {
        {"kernel_image_path", load_kernel},
        {"boot_args", load_boot_args},
        {"initrd_path", load_initrd},
    };
    int rc = load_object(l, key, value, members, ARRAY_LEN(members));
    if (!rc && !l->o->kernel) {
        return bad(l, key, "has no kernel_image_path");
    }
    if (!rc && !l->o->cmdline) {
        l->o->cmdline = DEFAULT_BOOT_ARGS;
    }
    return rc;
}

/* --- machine-config --------------------------------------------------------------------------- */

static int load_count(struct loader *l, const char *key, json_t *value, u64 min, u64 max,
                      u64 *out) {
    if (!json_is_integer(value)) {
        return bad(l, key, "is not a whole number");
    }
    json_int_t v = json_integer_value(value);
    if (v < 0 || (u64)v < min || (u64)v > max) {
        return ERR_SET(l->err, ERR_INVAL, "config %s: %s: %lld is not from %llu to %llu", l->name,
                       key, (long long)v, (unsigned long long)min, (unsigned long long)max);
    }
    *out = (u64)v;
    return 0;
}

/* --- rate limiters ---------------------------------------------------------------------------- */

static int load_size(struct loader *l, const char *key, json_t *value) {
    return load_count(l, key, value, 0, INT64_MAX, &l->bucket->size);
}

static int load_burst(struct loader *l, const char *key, json_t *value) {
    return load_count(l, key, value, 0, INT64_MAX, &l->bucket->burst);
}

static int load_refill(struct loader *l, const char *key, json_t *value) {
    return load_count(l, key, value, 0, INT64_MAX, &l->bucket->refill_ms);
}

static int load_bucket(struct loader *l, const char *key, json_t *value) {
    static const struct member members[] = {
        {"size", load_size}, {"refill_time", load_refill}, {"one_time_burst", load_burst}};
    l->bucket = strcmp(key, "ops") ? &l->limit->bandwidth : &l->limit->ops;
    int rc = load_object(l, key, value, members, ARRAY_LEN(members));
    if (!rc && (!json_object_get(value, "size") || !json_object_get(value, "refill_time"))) {
        rc = bad(l, key, "needs size and refill_time");
    }
    return rc;
}

static int load_limit(struct loader *l, const char *key, json_t *value, struct rate_limit *limit) {
    static const struct member members[] = {{"bandwidth", load_bucket}, {"ops", load_bucket}};
    l->limit = limit;
    return load_object(l, key, value, members, ARRAY_LEN(members));
}

static int load_vcpus(struct loader *l, const char *key, json_t *value) {
    u64 n = 0;
    int rc = load_count(l, key, value, 1, MACHINE_MAX_VCPUS, &n);
    l->o->cpus = rc ? l->o->cpus : (u32)n;
    return rc;
}

static int load_mem(struct loader *l, const char *key, json_t *value) {
    u64 mib = 0;
    int rc = load_count(l, key, value, 1, MACHINE_MAX_MEMORY / MIB, &mib);
    l->o->memory = rc ? l->o->memory : mib * MIB;
    return rc;
}

static int load_huge(struct loader *l, const char *key, json_t *value) {
    static const char *const names[] = {"None", "2M"};
    return load_name(l, key, value, names, ARRAY_LEN(names));
}

/* Templates narrow the processor to that of an older one; Sosia has a policy of its own. */
static int load_template(struct loader *l, const char *key, json_t *value) {
    static const char *const names[] = {"None"};
    return load_name(l, key, value, names, ARRAY_LEN(names));
}

static int load_machine_config(struct loader *l, const char *key, json_t *value) {
    static const struct member members[] = {
        {"vcpu_count", load_vcpus}, {"mem_size_mib", load_mem},
        {"smt", load_bool},         {"track_dirty_pages", load_bool},
        {"huge_pages", load_huge},  {"cpu_template", load_template},
    };
    return load_object(l, key, value, members, ARRAY_LEN(members));
}

/* --- drives ----------------------------------------------------------------------------------- */

static struct disk_option *disk_now(struct loader *l) {
    return &l->o->disk[l->o->disk_count];
}

static int load_drive_path(struct loader *l, const char *key, json_t *value) {
    return keep_string(l, key, value, &disk_now(l)->open.path);
}

static int load_drive_readonly(struct loader *l, const char *key, json_t *value) {
    if (!json_is_boolean(value)) {
        return bad(l, key, "is not true or false");
    }
    disk_now(l)->open.readonly = json_is_true(value);
    return 0;
}

static int load_id(struct loader *l, const char *key, json_t *value) {
    const char *s = json_string_value(value);
    if (!s || !*s ||
        s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")]) {
        return bad(l, key,
                   "API Resource IDs can only contain alphanumeric characters and underscores");
    }
    return 0;
}

/* Firecracker adds root= for the drive that is marked as root. */
static int drive_root(struct loader *l, json_t *drive) {
    json_t *part = json_object_get(drive, "partuuid");
    char args[2048];
    int n;
    if (!json_is_true(json_object_get(drive, "is_root_device"))) {
        return 0;
    }
    if (l->root_set) {
        return bad(l, "drives", "more than one root device");
    }
    l->root_set = true;
    const char *mode = disk_now(l)->open.readonly ? "ro" : "rw";
    const char *before = l->o->cmdline ? l->o->cmdline : DEFAULT_BOOT_ARGS;
    if (json_is_string(part)) {
        n = snprintf(args, sizeof(args), "%s root=PARTUUID=%s %s", before, json_string_value(part),
                     mode);
    } else {
        n = snprintf(args, sizeof(args), "%s root=/dev/vda %s", before, mode);
    }
    if (n < 0 || (size_t)n >= sizeof(args)) {
        return bad(l, "boot_args", "too long");
    }
    l->o->cmdline = run_options_keep(l->o, args);
    return l->o->cmdline ? 0 : bad(l, "boot_args", "out of memory");
}

/* The root drive is /dev/vda: it goes first. */
static void drive_commit(struct loader *l, json_t *drive) {
    struct run_options *o = l->o;
    struct disk_option d = *disk_now(l);
    if (json_is_true(json_object_get(drive, "is_root_device"))) {
        memmove(&o->disk[1], &o->disk[0], o->disk_count * sizeof(o->disk[0]));
        o->disk[0] = d;
    }
    o->disk_count++;
}

static int load_drive_limit(struct loader *l, const char *key, json_t *value) {
    return load_limit(l, key, value, &disk_now(l)->limit);
}

static int load_cache(struct loader *l, const char *key, json_t *value) {
    static const char *const names[] = {"Unsafe", "Writeback"};
    return load_name(l, key, value, names, ARRAY_LEN(names));
}

static int load_io_engine(struct loader *l, const char *key, json_t *value) {
    static const char *const names[] = {"Sync", "Async"};
    int rc = load_name(l, key, value, names, ARRAY_LEN(names));
    if (!rc && !strcmp(json_string_value(value), "Sync")) {
        disk_now(l)->open.aio = BLK_AIO_THREADS;
    }
    return rc;
}

static int load_drive(struct loader *l, json_t *drive) {
    static const struct member members[] = {
        {"drive_id", load_id},         {"path_on_host", load_drive_path},
        {"is_root_device", load_bool}, {"is_read_only", load_drive_readonly},
        {"partuuid", load_text},       {"cache_type", load_cache},
        {"io_engine", load_io_engine}, {"rate_limiter", load_drive_limit},
        {"socket", unsupported},
    };
    if (l->o->disk_count == OPT_MAX_DISKS) {
        return bad(l, "drives", "too many");
    }
    /* as Firecracker: whatever the file's first bytes say */
    *disk_now(l) = (struct disk_option){.open.format = BLK_FORMAT_RAW};
    int rc = load_object(l, "drives", drive, members, ARRAY_LEN(members));
    if (!rc && !json_object_get(drive, "drive_id")) {
        rc = bad(l, "drives", "a drive has no drive_id");
    }
    if (!rc && !disk_now(l)->open.path) {
        rc = bad(l, "drives", "a drive has no path_on_host");
    }
    rc = rc ? rc : drive_root(l, drive);
    if (!rc) {
        drive_commit(l, drive);
    }
    return rc;
}

static int load_array(struct loader *l, const char *key, json_t *value,
                      int (*one)(struct loader *l, json_t *item)) {
    if (!json_is_array(value)) {
        return bad(l, key, "is not an array");
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        int rc = one(l, json_array_get(value, i));
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static int load_drives(struct loader *l, const char *key, json_t *value) {
    return load_array(l, key, value, load_drive);
}

/* --- network-interfaces, entropy -------------------------------------------------------------- */

/* "06:00:ac:10:00:02" */
static int load_mac(struct loader *l, const char *key, json_t *value) {
    const char *s = json_string_value(value);
    return s && !mac_parse(s, l->o->net[l->o->net_count].mac) ? 0
                                                              : bad(l, key, "is not a MAC address");
}

static int load_tap(struct loader *l, const char *key, json_t *value) {
    struct net_option *n = &l->o->net[l->o->net_count];
    if (!json_is_string(value)) {
        return bad(l, key, "is not a string");
    }
    n->kind = NET_TAP;
    n->name = run_options_keep(l->o, json_string_value(value));
    return n->name ? 0 : bad(l, key, "out of memory");
}

static int load_rx_limit(struct loader *l, const char *key, json_t *value) {
    return load_limit(l, key, value, &l->o->net[l->o->net_count].rx);
}

static int load_tx_limit(struct loader *l, const char *key, json_t *value) {
    return load_limit(l, key, value, &l->o->net[l->o->net_count].tx);
}

static int load_mtu(struct loader *l, const char *key, json_t *value) {
    u64 mtu = 0;
    int rc = load_count(l, key, value, 68, 65535, &mtu);
    l->o->net[l->o->net_count].mtu = (u16)mtu;
    return rc;
}

static int load_net(struct loader *l, json_t *item) {
    static const struct member members[] = {
        {"iface_id", load_id},
        {"host_dev_name", load_tap},
        {"guest_mac", load_mac},
        {"mtu", load_mtu},
        {"rx_rate_limiter", load_rx_limit},
        {"tx_rate_limiter", load_tx_limit},
    };
    if (l->o->net_count == OPT_MAX_NETS) {
        return bad(l, "network-interfaces", "too many");
    }
    l->o->net[l->o->net_count] = (struct net_option){0};
    int rc = load_object(l, "network-interfaces", item, members, ARRAY_LEN(members));
    if (!rc) {
        l->o->net_count++;
    }
    return rc;
}

static int load_nets(struct loader *l, const char *key, json_t *value) {
    return load_array(l, key, value, load_net);
}

static int load_entropy(struct loader *l, const char *key, json_t *value) {
    static const struct member members[] = {{"rate_limiter", unsupported}};
    l->o->rng = true;
    return load_object(l, key, value, members, ARRAY_LEN(members));
}

/* --- the file --------------------------------------------------------------------------------- */

static int load_root(struct loader *l, json_t *root) {
    /* boot-source before drives: a root drive appends to boot_args. */
    static const struct member members[] = {
        {"boot-source", NULL},
        {"drives", load_drives},
        {"machine-config", load_machine_config},
        {"network-interfaces", load_nets},
        {"entropy", load_entropy},
        {"cpu-config", unsupported},
        {"balloon", unsupported},
        {"vsock", unsupported},
        {"logger", unsupported},
        {"metrics", unsupported},
        {"mmds-config", unsupported},
        {"pmem", unsupported},
        {"memory-hotplug", unsupported},
    };
    json_t *boot = json_is_object(root) ? json_object_get(root, "boot-source") : NULL;
    if (json_is_object(root) && !boot) {
        return bad(l, "boot-source", "is missing");
    }
    int rc = boot ? load_boot_source(l, "boot-source", boot) : 0;
    return rc ? rc : load_object(l, "file", root, members, ARRAY_LEN(members));
}

int config_text_load(struct run_options *o, const char *name, const char *text, size_t len,
                     struct err *err) {
    struct loader l = {.o = o, .name = name, .err = err};
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        return ERR_SET(err, ERR_FORMAT, "config %s: line %d: %s", name, error.line, error.text);
    }
    o->rng = false;
    o->memory = DEFAULT_MEMORY;
    int rc = load_root(&l, root);
    json_decref(root);
    if (!rc) {
        o->mmio = true;
        o->mmio_cmdline = o->cmdline && strstr(o->cmdline, "acpi=off");
    }
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
