/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data of the metadata service. Patches merge as RFC 7396 says. Recursion is as deep as the
 * values are, which jansson limits when it parses them.
 */
#include "cmd/mmds_store.h"

#include <stdio.h>

void mmds_store_free(struct mmds_store *s) {
    json_decref(s->data);
    s->data = NULL;
}

static int refuse(struct api_text *e, int rc, const char *why) {
    snprintf(e->text, sizeof(e->text), "%s", why);
    return rc;
}

static bool fits(const struct mmds_store *s, const json_t *v) {
    return json_dumpb(v, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY) <= s->limit;
}

int mmds_store_put(struct mmds_store *s, json_t *value, struct api_text *e) {
    if (!fits(s, value)) {
        json_decref(value);
        return refuse(e, -ERR_NOSPACE,
                      "MMDS limit exceeded error: The MMDS patch request doesn't fit.");
    }
    json_decref(s->data);
    s->data = value;
    return 0;
}

/* The merged value, or NULL when memory is out. */
static json_t *merge(const json_t *target, const json_t *patch) {
    const char *key;
    json_t *v;
    if (!json_is_object(patch)) {
        return json_deep_copy(patch);
    }
    json_t *out = json_is_object(target) ? json_copy((json_t *)(uintptr_t)target) : json_object();
    json_object_foreach((json_t *)(uintptr_t)patch, key, v) {
        if (json_is_null(v)) {
            json_object_del(out, key);
            continue;
        }
        json_t *merged = merge(json_object_get(out, key), v);
        if (!merged || json_object_set_new(out, key, merged)) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

int mmds_store_patch(struct mmds_store *s, const json_t *patch, struct api_text *e) {
    if (!s->data) {
        return refuse(e, -ERR_STATE, "MMDS error: The MMDS data store is not initialized.");
    }
    json_t *merged = merge(s->data, patch);
    return merged ? mmds_store_put(s, merged, e) : refuse(e, -ERR_NOMEM, "out of memory");
}
