/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of JSON from a stream of bytes, bounded; see control_parse.h. */
#include "cmd/control_parse.h"

#include <stdlib.h>
#include <string.h>

char *control_lines_room(struct control_lines *l, size_t *room) {
    if (!l->data) {
        l->data = malloc(CONTROL_LINE_MAX);
    } else if (l->at) {
        memmove(l->data, l->data + l->at, l->used - l->at);
        l->used -= l->at;
        l->at = 0;
    }
    *room = l->data ? CONTROL_LINE_MAX - l->used : 0;
    return l->data ? l->data + l->used : NULL;
}

void control_lines_fed(struct control_lines *l, size_t len) {
    l->used += len;
}

static int parse(const char *text, size_t len, json_t **out, struct err *err) {
    json_error_t why;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!o) {
        return ERR_SET(err, ERR_FORMAT, "not JSON: column %d: %s", why.column, why.text);
    }
    if (!json_is_object(o) || !json_is_string(json_object_get(o, "request"))) {
        json_decref(o);
        return ERR_SET(err, ERR_FORMAT, "not an object with a string \"request\"");
    }
    *out = o;
    return 1;
}

int control_lines_next(struct control_lines *l, json_t **out, struct err *err) {
    size_t left = l->used - l->at;
    char *from = left ? l->data + l->at : NULL;
    char *end = left ? memchr(from, '\n', left) : NULL;
    if (!end) {
        return left < CONTROL_LINE_MAX
                   ? 0
                   : ERR_SET(err, ERR_RANGE, "a line longer than %d bytes", CONTROL_LINE_MAX);
    }
    l->at += (size_t)(end - from) + 1;
    return parse(from, (size_t)(end - from), out, err);
}

void control_lines_free(struct control_lines *l) {
    free(l->data);
    *l = (struct control_lines){0};
}
