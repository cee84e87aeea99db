/* SPDX-License-Identifier: Apache-2.0 */
/* --balloon, --vsock and --cloud-init: from their text to the devices' configuration. */
#include "cmd/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "core/virtio/vsock.h"

/* One option being read. */
struct item {
    const char *option, *key, *value; /* value NULL: none given */
    struct err *err;
};

/* Cuts the next "KEY[=VALUE]" off *rest. Commas inside a value are doubled, as in QEMU. */
static bool next_item(char **rest, struct item *it) {
    char *from = *rest, *to = *rest;
    if (!from) {
        return false;
    }
    it->key = from;
    it->value = NULL;
    for (; *from && (*from != ',' || from[1] == ','); from++) {
        from += *from == ',';
        *to++ = *from;
    }
    *rest = *from ? from + 1 : NULL;
    *to = 0;
    char *value = strchr(it->key, '=');
    if (value) {
        *value = 0;
        it->value = value + 1;
    }
    return true;
}

static int bad_value(const struct item *it, const char *what) {
    return ERR_SET(it->err, ERR_INVAL, "%s: %s=%s: not %s", it->option, it->key,
                   it->value ? it->value : "", what);
}

static int unknown(const struct item *it) {
    return ERR_SET(it->err, ERR_INVAL, "%s: unknown option '%s'", it->option, it->key);
}

static int take_flag(const struct item *it, bool *out) {
    if (it->value && strcmp(it->value, "on") && strcmp(it->value, "off")) {
        return bad_value(it, "on or off");
    }
    *out = !it->value || !strcmp(it->value, "on");
    return 0;
}

static int take_number(const struct item *it, u64 min, u64 max, u64 *out) {
    char *end = NULL;
    errno = 0;
    unsigned long long n = it->value ? strtoull(it->value, &end, 10) : 0;
    if (!it->value || it->value[0] < '0' || it->value[0] > '9' || *end || errno || n < min ||
        n > max) {
        return bad_value(it, "a number in range");
    }
    *out = n;
    return 0;
}

/* --- balloon -----------------------------------------------------------------------------------
 */

static int take_target(const struct item *it, u32 *mib) {
    u64 bytes = 0;
    if (!it->value || parse_size(it->value, &bytes) || bytes % MIB || bytes > MACHINE_MAX_MEMORY) {
        return bad_value(it, "a size in MiB such as 64 or 1G");
    }
    *mib = (u32)(bytes / MIB);
    return 0;
}

static int balloon_take(struct balloon_opts *o, const struct item *it) {
    u64 seconds = 0;
    int rc = 0;
    if (!strcmp(it->key, "target")) {
        rc = take_target(it, &o->target_mib);
    } else if (!strcmp(it->key, "deflate-on-oom")) {
        rc = take_flag(it, &o->deflate_on_oom);
    } else if (!strcmp(it->key, "stats")) {
        rc = take_number(it, 0, BALLOON_STATS_INTERVAL_MAX, &seconds);
        o->stats_seconds = (u32)seconds;
    } else if (!strcmp(it->key, "reporting")) {
        rc = take_flag(it, &o->reporting);
    } else if (!strcmp(it->key, "hinting")) {
        rc = take_flag(it, &o->hinting);
    } else if (strcmp(it->key, "on") || it->value) {
        rc = unknown(it);
    }
    return rc;
}

int balloon_option_parse(struct balloon_config *b, char *text, struct err *err) {
    struct item it = {.option = "--balloon", .err = err};
    int rc = 0;
    *b = (struct balloon_config){.present = true};
    while (!rc && next_item(&text, &it)) {
        rc = balloon_take(&b->opts, &it);
    }
    return rc;
}

/* --- vsock -------------------------------------------------------------------------------------
 */

int vsock_option_parse(struct vsock_option *v, char *text, struct err *err) {
    struct item it = {.option = "--vsock", .err = err};
    int rc = 0;
    *v = (struct vsock_option){0};
    if (next_item(&text, &it)) {
        struct item cid = {.option = it.option, .key = "CID", .value = it.key, .err = err};
        rc = it.value ? unknown(&it) : take_number(&cid, VSOCK_CID_MIN, VSOCK_CID_MAX, &v->cid);
    }
    while (!rc && next_item(&text, &it)) {
        v->path = it.value;
        rc = strcmp(it.key, "path") ? unknown(&it) : 0;
    }
    if (!rc && (!v->path || !*v->path)) {
        rc = ERR_SET(err, ERR_INVAL, "--vsock: needs CID,path=SOCKET");
    }
    return rc;
}

/* --- cloud-init --------------------------------------------------------------------------------
 */

int cloud_init_parse(struct cloud_init_option *c, char *text, struct err *err) {
    struct item it = {.option = "--cloud-init", .err = err};
    int rc = 0;
    *c = (struct cloud_init_option){0};
    while (!rc && next_item(&text, &it)) {
        const char **path = !strcmp(it.key, "user-data")        ? &c->user_data
                            : !strcmp(it.key, "meta-data")      ? &c->meta_data
                            : !strcmp(it.key, "network-config") ? &c->network_config
                                                                : NULL;
        if (!path) {
            rc = unknown(&it);
        } else if (!it.value || !*it.value) {
            rc = bad_value(&it, "a file");
        } else {
            *path = it.value;
        }
    }
    if (!rc && !c->user_data) {
        rc = ERR_SET(err, ERR_INVAL, "--cloud-init: needs user-data=FILE");
    }
    return rc;
}
