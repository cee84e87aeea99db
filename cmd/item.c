/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of options; see item.h. */
#include "cmd/item.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"

char *option_cut_name(char *text) {
    char *to = text;
    for (char *from = text; *from; from++) {
        if (*from == ',' && from[1] != ',') {
            *to = 0;
            return from + 1;
        }
        from += *from == ',';
        *to++ = *from;
    }
    *to = 0;
    return NULL;
}

static void cut_value(struct item *it, char *text) {
    char *value = strchr(text, '=');
    it->key = text;
    it->value = NULL;
    if (value) {
        *value = 0;
        it->value = value + 1;
    }
}

bool item_next(char **rest, struct item *it) {
    char *text = *rest, *comma = text ? strchr(text, ',') : NULL;
    if (!text) {
        return false;
    }
    if (comma) {
        *comma++ = 0;
    }
    *rest = comma;
    cut_value(it, text);
    return true;
}

bool item_next_name(char **rest, struct item *it) {
    char *text = *rest, *next = text ? option_cut_name(text) : NULL;
    if (!text) {
        return false;
    }
    *rest = next;
    cut_value(it, text);
    return true;
}

/* --- values ----------------------------------------------------------------------------------- */

int item_bad(const struct item *it, const char *what) {
    return ERR_SET(it->err, ERR_INVAL, "%s%s%s: %s=%s: not %s", it->option, it->of ? " " : "",
                   it->of ? it->of : "", it->key, it->value ? it->value : "", what);
}

int item_unknown(const struct item *it) {
    return ERR_SET(it->err, ERR_INVAL, "%s%s%s: unknown option '%s'", it->option, it->of ? " " : "",
                   it->of ? it->of : "", it->key);
}

int item_flag(const struct item *it, bool *out) {
    if (it->value && strcmp(it->value, "on") && strcmp(it->value, "off")) {
        return item_bad(it, "on or off");
    }
    *out = !it->value || !strcmp(it->value, "on");
    return 0;
}

int item_number(const struct item *it, u64 min, u64 max, u64 *out) {
    char *end = NULL;
    errno = 0;
    unsigned long long n = it->value ? strtoull(it->value, &end, 10) : 0;
    if (!it->value || it->value[0] < '0' || it->value[0] > '9' || *end || errno || n < min ||
        n > max) {
        return item_bad(it, "a number in range");
    }
    *out = n;
    return 0;
}

int item_rate(const struct item *it, u64 *out) {
    size_t len = it->value ? strlen(it->value) : 0;
    bool unit = len && strchr("KMGTkmgt", it->value[len - 1]);
    if (unit && !parse_size(it->value, out) && *out) {
        return 0;
    }
    return item_number(it, 1, INT64_MAX, out);
}
