/* SPDX-License-Identifier: Apache-2.0 */
/* --share DIR,tag=T[,readonly]: the text of the option. */
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/share.h"
#include "core/virtio/fs.h"

static int take_one(struct share_option *o, char *key, struct err *err) {
    char *value = strchr(key, '=');
    if (value) {
        *value++ = 0;
    }
    if (!strcmp(key, "tag") && value && *value && strlen(value) <= VIRTIO_FS_TAG_MAX) {
        o->tag = value;
    } else if (!strcmp(key, "tag")) {
        return ERR_SET(err, ERR_INVAL, "--share %s: tag=%s: not a name of 1 to %d bytes", o->path,
                       value ? value : "", VIRTIO_FS_TAG_MAX);
    } else if ((!strcmp(key, "readonly") || !strcmp(key, "ro")) &&
               (!value || !strcmp(value, "on") || !strcmp(value, "off"))) {
        o->readonly = !value || !strcmp(value, "on");
    } else {
        return ERR_SET(err, ERR_INVAL, "--share %s: unknown option '%s%s%s'", o->path, key,
                       value ? "=" : "", value ? value : "");
    }
    return 0;
}

int share_option_parse(struct share_option *o, char *text, struct err *err) {
    *o = (struct share_option){.path = text};
    char *next = option_cut_name(text);
    int rc = *text ? 0 : ERR_SET(err, ERR_INVAL, "--share: no folder named");
    while (next && !rc) {
        char *key = next;
        next = strchr(next, ',');
        if (next) {
            *next++ = 0;
        }
        rc = take_one(o, key, err);
    }
    if (!rc && !o->tag) {
        rc = ERR_SET(err, ERR_INVAL,
                     "--share %s: the guest needs a name to mount it by: add ,tag=NAME", o->path);
    }
    return rc;
}
