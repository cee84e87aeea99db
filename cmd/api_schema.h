/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bodies of API requests may contain, as tables, and the texts for those that do not fit.
 * The texts are those that Firecracker's JSON library (serde_json) gives, with line and column,
 * since clients match them.
 */
#ifndef CMD_API_SCHEMA_H
#define CMD_API_SCHEMA_H

#include <jansson.h>

#include "core/base/err.h"

enum api_type {
    API_BOOL,
    API_UINT, /* 0..max */
    API_STRING,
    API_PATH, /* a string without NUL */
    API_ENUM, /* one of names */
    API_OBJECT,
    API_LIST, /* of objects of sub */
    API_STRINGS,
    API_ANY,
};

enum { API_REQUIRED = 1, API_DEPRECATED = 2 };

struct api_schema;

struct api_field {
    const char *name;
    enum api_type type;
    unsigned flags;
    u64 max;                      /* API_UINT */
    const char *const *names;     /* API_ENUM, ended by NULL */
    const struct api_schema *sub; /* API_OBJECT, API_LIST */
    const char *preset;           /* JSON text that takes the place of a missing field; or NULL */
};

struct api_schema {
    const char *name; /* the structure's name in messages */
    const struct api_field *field;
    u32 count;
};

struct api_text { /* of an error; cut when too long */
    char text[512];
};

/*
 * Parses text and checks it against s. The result has null members removed and presets filled in;
 * the caller owns it. NULL: e has the reason. *deprecated is set when such a field was used (may be
 * NULL).
 */
json_t *api_parse(const struct api_schema *s, const char *text, size_t len, bool *deprecated,
                  struct api_text *e);
/* The same for a value out of a larger document: no positions in the messages. value is borrowed
 * and not changed. */
json_t *api_check(const struct api_schema *s, const json_t *value, struct api_text *e);
/* Any JSON value, with the same texts. */
json_t *api_parse_any(const char *text, size_t len, struct api_text *e);

#endif
