/* SPDX-License-Identifier: Apache-2.0 */
/* --share DIR,tag=T[,readonly]: the text of the option. */
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/item.h"
#include "cmd/share.h"
#include "core/virtio/fs.h"

static int take_tag(struct share_option *o, const struct item *it) {
    _Static_assert(VIRTIO_FS_TAG_MAX == 36, "the message says it");
    if (!it->value || !*it->value || strlen(it->value) > VIRTIO_FS_TAG_MAX) {
        return item_bad(it, "a name of 1 to 36 bytes");
    }
    o->tag = it->value;
    return 0;
}

static int take_one(struct share_option *o, const struct item *it) {
    if (!strcmp(it->key, "tag")) {
        return take_tag(o, it);
    }
    if (!strcmp(it->key, "readonly") || !strcmp(it->key, "ro")) {
        return item_flag(it, &o->readonly);
    }
    return item_unknown(it);
}

int share_option_parse(struct share_option *o, char *text, struct err *err) {
    *o = (struct share_option){.path = text};
    char *next = option_cut_name(text);
    struct item it = {.option = "--share", .of = text, .err = err};
    int rc = *text ? 0 : ERR_SET(err, ERR_INVAL, "--share: no folder named");
    while (!rc && item_next(&next, &it)) {
        rc = take_one(o, &it);
    }
    if (!rc && !o->tag) {
        rc = ERR_SET(err, ERR_INVAL,
                     "--share %s: the guest needs a name to mount it by: add ,tag=NAME", o->path);
    }
    return rc;
}
