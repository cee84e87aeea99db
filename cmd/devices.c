/* SPDX-License-Identifier: Apache-2.0 */
/* --balloon, --vsock and --cloud-init: from their text to the devices' configuration. */
#include "cmd/devices.h"

#include <string.h>

#include "cmd/cmd.h"
#include "cmd/item.h"
#include "core/virtio/vsock.h"

/* --- balloon -----------------------------------------------------------------------------------
 */

static int take_target(const struct item *it, u32 *mib) {
    u64 bytes = 0;
    if (!it->value || parse_size(it->value, &bytes) || bytes % MIB || bytes > MACHINE_MAX_MEMORY) {
        return item_bad(it, "a size in MiB such as 64 or 1G");
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
        rc = item_flag(it, &o->deflate_on_oom);
    } else if (!strcmp(it->key, "stats")) {
        rc = item_number(it, 0, BALLOON_STATS_INTERVAL_MAX, &seconds);
        o->stats_seconds = (u32)seconds;
    } else if (!strcmp(it->key, "reporting")) {
        rc = item_flag(it, &o->reporting);
    } else if (!strcmp(it->key, "hinting")) {
        rc = item_flag(it, &o->hinting);
    } else if (strcmp(it->key, "on") || it->value) {
        rc = item_unknown(it);
    }
    return rc;
}

int balloon_option_parse(struct balloon_config *b, char *text, struct err *err) {
    struct item it = {.option = "--balloon", .err = err};
    int rc = 0;
    *b = (struct balloon_config){.present = true};
    while (!rc && item_next_name(&text, &it)) {
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
    if (item_next_name(&text, &it)) {
        struct item cid = {.option = it.option, .key = "CID", .value = it.key, .err = err};
        rc =
            it.value ? item_unknown(&it) : item_number(&cid, VSOCK_CID_MIN, VSOCK_CID_MAX, &v->cid);
    }
    while (!rc && item_next_name(&text, &it)) {
        v->path = it.value;
        rc = strcmp(it.key, "path") ? item_unknown(&it) : 0;
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
    while (!rc && item_next_name(&text, &it)) {
        const char **path = !strcmp(it.key, "user-data")        ? &c->user_data
                            : !strcmp(it.key, "meta-data")      ? &c->meta_data
                            : !strcmp(it.key, "network-config") ? &c->network_config
                                                                : NULL;
        if (!path) {
            rc = item_unknown(&it);
        } else if (!it.value || !*it.value) {
            rc = item_bad(&it, "a file");
        } else {
            *path = it.value;
        }
    }
    if (!rc && !c->user_data) {
        rc = ERR_SET(err, ERR_INVAL, "--cloud-init: needs user-data=FILE");
    }
    return rc;
}
