/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options to JSON and back, by tables of members; see snap_conf.h. Unknown members are refused:
 * they come from a newer program and mean a device that is not known here.
 */
#include "cmd/snap_conf.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/consoles.h"

enum kind { BOOL, UINT16, UINT32, UINT64, TEXT, PATH, SERIAL, MAC, LIMIT, LIST };

struct field {
    const char *key;
    enum kind kind;
    size_t at;
    u64 max; /* of a number */
};

struct conf {
    struct run_options *o;
    const char *name;
    struct err *err;
};

#define F(type, key, kind, member, max)                                                            \
    { key, kind, offsetof(type, member), max }
#define R(key, kind, member, max) F(struct run_options, key, kind, member, max)
#define D(key, kind, member, max) F(struct disk_option, key, kind, member, max)
#define N(key, kind, member, max) F(struct net_option, key, kind, member, max)
#define S(key, kind, member, max) F(struct share_option, key, kind, member, max)

static const struct field run_fields[] = {
    R("cpus", UINT32, cpus, MACHINE_MAX_VCPUS),
    R("memory", UINT64, memory, MACHINE_MAX_MEMORY),
    R("cmdline", TEXT, cmdline, 0),
    R("console", TEXT, console, 0),
    R("virtio-console", TEXT, virtio_console, 0),
    R("debugcon", TEXT, debugcon, 0),
    R("serial2", TEXT, serial[1], 0),
    R("serial3", TEXT, serial[2], 0),
    R("serial4", TEXT, serial[3], 0),
    R("name", TEXT, name, 0),
    R("api", TEXT, api, 0),
    R("translator", BOOL, translator.on, 0),
    R("code-cache", UINT32, translator.cache_mib, 512),
    R("mmio", BOOL, mmio, 0),
    R("mmio-cmdline", BOOL, mmio_cmdline, 0),
    R("rng", BOOL, rng, 0),
    R("rng-limit", LIMIT, rng_limit, 0),
    R("cloud-init-user-data", PATH, cloud_init.user_data, 0),
    R("cloud-init-meta-data", PATH, cloud_init.meta_data, 0),
    R("cloud-init-network-config", PATH, cloud_init.network_config, 0),
    R("vsock-cid", UINT64, vsock.cid, VSOCK_CID_MAX),
    R("vsock-path", PATH, vsock.path, 0),
    R("balloon", BOOL, balloon.present, 0),
    R("balloon-target", UINT32, balloon.opts.target_mib, MACHINE_MAX_MEMORY / MIB),
    R("balloon-deflate-on-oom", BOOL, balloon.opts.deflate_on_oom, 0),
    R("balloon-stats", UINT32, balloon.opts.stats_seconds, BALLOON_STATS_INTERVAL_MAX),
    R("balloon-reporting", BOOL, balloon.opts.reporting, 0),
    R("balloon-hinting", BOOL, balloon.opts.hinting, 0),
    R("test-devices", BOOL, test_devices, 0),
};

static const struct field disk_fields[] = {
    D("path", PATH, open.path, 0),
    D("format", UINT32, open.format, BLK_FORMAT_QCOW2),
    D("aio", UINT32, open.aio, BLK_AIO_IO_URING),
    D("readonly", BOOL, open.readonly, 0),
    D("snapshot", BOOL, open.snapshot, 0),
    D("backing", BOOL, open.backing, 0),
    D("backing-dir", PATH, open.backing_dir, 0),
    D("serial", SERIAL, serial, 0),
    D("queues", UINT32, queues, 64),
    D("pause-when-full", BOOL, pause_when_full, 0),
    D("limit", LIMIT, limit, 0),
    D("limit-always", BOOL, limit_always, 0),
};

static const struct field net_fields[] = {
    N("kind", UINT32, kind, NET_PASST),
    N("name", TEXT, name, 0),
    N("vlan", UINT16, vlan, 4094),
    N("user-mtu", UINT16, user.mtu, 65535),
    N("restricted", BOOL, user.restricted, 0),
    N("no-loopback", BOOL, user.no_loopback, 0),
    N("forwards", LIST, user.forward, 0),
    N("mac", MAC, mac, 0),
    N("mtu", UINT16, mtu, 65535),
    N("queues", UINT16, queues, 64),
    N("rx", LIMIT, rx, 0),
    N("tx", LIMIT, tx, 0),
};

static const struct field share_fields[] = {
    S("path", PATH, path, 0),
    S("tag", TEXT, tag, 0),
    S("readonly", BOOL, readonly, 0),
};

_Static_assert(sizeof(enum blk_format) == 4 && sizeof(enum blk_aio) == 4 &&
                   sizeof(enum net_kind) == 4,
               "stored as UINT32");

/* --- writing -----------------------------------------------------------------------------------
 */

static json_t *text_json(const char *text) {
    return text ? json_string(text) : json_null();
}

static json_t *path_json(const char *path) {
    char *real = path ? realpath(path, NULL) : NULL;
    json_t *o = text_json(real ? real : path);
    free(real);
    return o;
}

static json_t *limit_json(const struct rate_limit *l) {
    const u64 v[] = {l->bandwidth.size, l->bandwidth.refill_ms, l->bandwidth.burst,
                     l->ops.size,       l->ops.refill_ms,       l->ops.burst};
    json_t *a = json_array();
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        json_array_append_new(a, json_integer((json_int_t)v[i]));
    }
    return a;
}

static json_t *list_json(const struct net_user_opts *user) {
    json_t *a = json_array();
    for (u32 i = 0; i < user->forward_count; i++) {
        json_array_append_new(a, json_string(user->forward[i]));
    }
    return a;
}

static json_t *mac_json(const u8 *mac) {
    return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                        mac[5]);
}

static json_t *field_json(const struct field *f, const void *base) {
    const void *p = (const u8 *)base + f->at;
    switch (f->kind) {
    case BOOL:
        return json_boolean(*(const bool *)p);
    case UINT16:
        return json_integer(*(const u16 *)p);
    case UINT32:
        return json_integer(*(const u32 *)p);
    case UINT64:
        return json_integer((json_int_t) * (const u64 *)p);
    case TEXT:
        return text_json(*(const char *const *)p);
    case PATH:
        return path_json(*(const char *const *)p);
    case SERIAL:
        return json_string(p);
    case MAC:
        return mac_json(p);
    case LIMIT:
        return limit_json(p);
    default:
        return list_json(&((const struct net_option *)base)->user);
    }
}

static json_t *object_json(const struct field *f, size_t count, const void *base) {
    json_t *o = json_object();
    for (size_t i = 0; i < count; i++) {
        json_object_set_new(o, f[i].key, field_json(&f[i], base));
    }
    return o;
}

/* Random and generated addresses are what the machine got. */
static json_t *net_json(const struct machine *m, u32 i) {
    struct net_option n = m->o.net[i];
    memcpy(n.mac, m->cfg.net[i].mac, sizeof(n.mac));
    return object_json(net_fields, ARRAY_LEN(net_fields), &n);
}

static json_t *disk_json(const struct machine *m, u32 i) {
    struct disk_option d = m->o.disk[i];
    d.queues = m->cfg.disk[i].queues;
    return object_json(disk_fields, ARRAY_LEN(disk_fields), &d);
}

char *snap_conf_write(const struct machine *m) {
    json_t *o = object_json(run_fields, ARRAY_LEN(run_fields), &m->o);
    json_t *disks = json_array(), *nets = json_array(), *shares = json_array();
    for (u32 i = 0; i < m->o.disk_count; i++) {
        json_array_append_new(disks, disk_json(m, i));
    }
    for (u32 i = 0; i < m->o.net_count; i++) {
        json_array_append_new(nets, net_json(m, i));
    }
    for (u32 i = 0; i < m->o.share_count; i++) {
        json_array_append_new(shares,
                              object_json(share_fields, ARRAY_LEN(share_fields), &m->o.share[i]));
    }
    json_object_set_new(o, "disks", disks);
    json_object_set_new(o, "shares", shares);
    json_object_set_new(o, "nets", nets);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* --- reading -----------------------------------------------------------------------------------
 */

static int bad(const struct conf *c, const char *key) {
    return ERR_SET(c->err, ERR_FORMAT, "%s: configuration: '%s' is wrong or unknown here", c->name,
                   key);
}

static int read_number(const struct field *f, const json_t *v, void *p) {
    json_int_t n = json_integer_value(v);
    u64 max = f->kind == UINT16 ? MIN(f->max, 0xffffull) : f->max;
    if (!json_is_integer(v) || n < 0 || (u64)n > max) {
        return -ERR_FORMAT;
    }
    if (f->kind == UINT16) {
        *(u16 *)p = (u16)n;
    } else if (f->kind == UINT32) {
        *(u32 *)p = (u32)n;
    } else {
        *(u64 *)p = (u64)n;
    }
    return 0;
}

static int read_text(const struct conf *c, const json_t *v, const char **out) {
    const char *s = json_string_value(v);
    if (json_is_null(v)) {
        *out = NULL;
        return 0;
    }
    if (!s || strlen(s) != json_string_length(v)) {
        return -ERR_FORMAT;
    }
    *out = run_options_keep(c->o, s);
    return *out ? 0 : -ERR_FORMAT;
}

static int read_limit(const json_t *v, struct rate_limit *l) {
    u64 *const out[] = {&l->bandwidth.size, &l->bandwidth.refill_ms, &l->bandwidth.burst,
                        &l->ops.size,       &l->ops.refill_ms,       &l->ops.burst};
    if (!json_is_array(v) || json_array_size(v) != ARRAY_LEN(out)) {
        return -ERR_FORMAT;
    }
    for (size_t i = 0; i < ARRAY_LEN(out); i++) {
        const json_t *n = json_array_get(v, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0) {
            return -ERR_FORMAT;
        }
        *out[i] = (u64)json_integer_value(n);
    }
    return 0;
}

static int read_list(const struct conf *c, const json_t *v, struct net_user_opts *user) {
    if (!json_is_array(v) || json_array_size(v) > NET_USER_FORWARDS) {
        return -ERR_FORMAT;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        int rc = read_text(c, json_array_get(v, i), &user->forward[i]);
        if (rc || !user->forward[i]) {
            return -ERR_FORMAT;
        }
        user->forward_count = (u32)i + 1;
    }
    return 0;
}

static int read_serial(const json_t *v, char serial[21]) {
    const char *s = json_string_value(v);
    if (!s || strlen(s) > 20) {
        return -ERR_FORMAT;
    }
    memset(serial, 0, 21);
    for (u32 i = 0; s[i]; i++) {
        serial[i] = s[i];
    }
    return 0;
}

static int read_field(const struct conf *c, const struct field *f, const json_t *v, void *base) {
    void *p = (u8 *)base + f->at;
    switch (f->kind) {
    case BOOL:
        *(bool *)p = json_is_true(v);
        return json_is_boolean(v) ? 0 : -ERR_FORMAT;
    case TEXT:
    case PATH:
        return read_text(c, v, p);
    case SERIAL:
        return read_serial(v, p);
    case MAC:
        return json_is_string(v) ? mac_parse(json_string_value(v), p) : -ERR_FORMAT;
    case LIMIT:
        return read_limit(v, p);
    case LIST:
        return read_list(c, v, &((struct net_option *)base)->user);
    default:
        return read_number(f, v, p);
    }
}

static int read_object(const struct conf *c, const struct field *f, size_t count, json_t *o,
                       void *base) {
    const char *key;
    json_t *v;
    if (!json_is_object(o)) {
        return bad(c, "object");
    }
    json_object_foreach(o, key, v) {
        size_t i = 0;
        while (i < count && strcmp(f[i].key, key)) {
            i++;
        }
        if (i < count ? read_field(c, &f[i], v, base)
                      : base != c->o || (strcmp(key, "disks") && strcmp(key, "nets") &&
                                         strcmp(key, "shares"))) {
            return bad(c, key);
        }
    }
    return 0;
}

static int read_disks(const struct conf *c, json_t *a) {
    if (!json_is_array(a) || json_array_size(a) > OPT_MAX_DISKS) {
        return bad(c, "disks");
    }
    for (size_t i = 0; i < json_array_size(a); i++) {
        struct disk_option *d = &c->o->disk[i];
        int rc = read_object(c, disk_fields, ARRAY_LEN(disk_fields), json_array_get(a, i), d);
        if (rc || !d->open.path) {
            return rc ? rc : bad(c, "path");
        }
        c->o->disk_count++;
    }
    return 0;
}

static int read_nets(const struct conf *c, json_t *a) {
    if (!json_is_array(a) || json_array_size(a) > OPT_MAX_NETS) {
        return bad(c, "nets");
    }
    for (size_t i = 0; i < json_array_size(a); i++) {
        struct net_option *n = &c->o->net[i];
        int rc = read_object(c, net_fields, ARRAY_LEN(net_fields), json_array_get(a, i), n);
        bool named = n->kind != NET_NONE && n->kind != NET_USER;
        if (rc || (named && !n->name)) {
            return rc ? rc : bad(c, "name");
        }
        c->o->net_count++;
    }
    return 0;
}

/* Machines that were saved before there were any have none. */
static int read_shares(const struct conf *c, json_t *a) {
    if (a && (!json_is_array(a) || json_array_size(a) > OPT_MAX_SHARES)) {
        return bad(c, "shares");
    }
    for (size_t i = 0; i < json_array_size(a); i++) {
        struct share_option *s = &c->o->share[i];
        int rc = read_object(c, share_fields, ARRAY_LEN(share_fields), json_array_get(a, i), s);
        if (rc || !s->path || !s->tag) {
            return rc ? rc : bad(c, "path");
        }
        c->o->share_count++;
    }
    return 0;
}

static int check(const struct conf *c) {
    const struct run_options *o = c->o;
    if (!o->cpus || o->memory < MACHINE_MIN_MEMORY || (o->memory & PAGE_MASK)) {
        return bad(c, "cpus or memory");
    }
    const char *const places[] = {o->console,   o->virtio_console, o->debugcon,
                                  o->serial[1], o->serial[2],      o->serial[3]};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        if (i < 3 ? !places[i] || console_place_check(c->name, places[i], c->err)
                  : places[i] && console_place_check(c->name, places[i], c->err)) {
            return bad(c, "console");
        }
    }
    return 0;
}

int snap_conf_read(struct run_options *o, const char *name, const char *text, size_t size,
                   struct err *err) {
    struct conf c = {.o = o, .name = name, .err = err};
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    o->log_level = -1;
    o->fence = true;
    o->console = o->virtio_console = o->debugcon = "none";
    int rc = root ? read_object(&c, run_fields, ARRAY_LEN(run_fields), root, o) : bad(&c, "JSON");
    rc = rc ? rc : read_disks(&c, json_object_get(root, "disks"));
    rc = rc ? rc : read_nets(&c, json_object_get(root, "nets"));
    rc = rc ? rc : read_shares(&c, json_object_get(root, "shares"));
    json_decref(root);
    return rc ? rc : check(&c);
}
