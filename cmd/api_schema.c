/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks JSON against the tables of api_schema.h. jansson parses; where in the text a value stands
 * is found afterwards, and only for an error, by walking over the text once more (struct walk),
 * which may rely on what jansson has accepted.
 *
 * Depth is limited by jansson (JSON_PARSER_MAX_DEPTH, 2048); the walk is a loop.
 */
#include "cmd/api_schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A body as it is being checked. */
struct check {
    const char *text; /* NULL: no positions */
    size_t len;
    bool *deprecated;
    struct api_text *e;
};

/* --- positions -------------------------------------------------------------------------------- */

enum where { AT_KEY, AT_VALUE_END, AT_OBJECT_END };

struct position {
    u32 line, column;
};

static size_t skip_string(const char *t, size_t len, size_t i) {
    for (i++; i < len && t[i] != '"'; i++) {
        i += t[i] == '\\';
    }
    return i < len ? i + 1 : len;
}

static size_t skip_space(const char *t, size_t len, size_t i) {
    while (i < len && strchr(" \t\r\n", t[i])) {
        i++;
    }
    return i;
}

/* Behind the value that begins at i. */
static size_t skip_value(const char *t, size_t len, size_t i) {
    u32 depth = 0;
    do {
        i = skip_space(t, len, i);
        if (i >= len) {
            return len;
        }
        if (t[i] == '"') {
            i = skip_string(t, len, i);
        } else if (t[i] == '{' || t[i] == '[') {
            depth++;
            i++;
        } else if (t[i] == '}' || t[i] == ']') {
            depth--;
            i++;
        } else if (t[i] == ',' || t[i] == ':') {
            i++;
        } else {
            while (i < len && !strchr(" \t\r\n,:]}", t[i])) {
                i++;
            }
        }
    } while (depth);
    return i;
}

static bool key_is(const char *t, size_t begin, size_t end, const char *key) {
    return end - begin == strlen(key) + 2 && !memcmp(t + begin + 1, key, strlen(key));
}

/* The offset in text of member key (outermost first); what it means is said by where. Keys written
 * with escapes are not found: then the end of the object is as good. */
static size_t find_member(const char *t, size_t len, size_t object, const char *key,
                          enum where where) {
    size_t i = skip_space(t, len, object);
    i = i < len && t[i] == '{' ? skip_space(t, len, i + 1) : len;
    while (i < len && t[i] == '"') {
        size_t key_end = skip_string(t, len, i);
        bool found = key_is(t, i, key_end, key);
        if (found && where == AT_KEY) {
            return key_end;
        }
        i = skip_space(t, len, key_end);
        i = skip_space(t, len, i < len ? i + 1 : len); /* the colon */
        if (found && where == AT_OBJECT_END) {
            return i; /* where the member's value begins */
        }
        i = skip_value(t, len, i);
        if (found) {
            return i;
        }
        i = skip_space(t, len, i);
        i = i < len && t[i] == ',' ? skip_space(t, len, i + 1) : len;
    }
    return len;
}

static struct position position_of(const char *t, size_t offset) {
    struct position p = {.line = 1};
    for (size_t i = 0; i < offset; i++) {
        p.column = t[i] == '\n' ? 0 : p.column + 1;
        p.line += t[i] == '\n';
    }
    return p;
}

/* --- errors ----------------------------------------------------------------------------------- */

/* Where checking is: a path of keys from the outermost object. */
struct spot {
    const struct spot *up;
    const char *key;
};

static size_t object_begin(const struct check *c, const struct spot *s) {
    size_t at = s->up ? object_begin(c, s->up) : 0;
    return s->key ? find_member(c->text, c->len, at, s->key, AT_OBJECT_END) : at;
}

static json_t *fail(struct check *c, const struct spot *object, const char *key, enum where where,
                    const char *fmt, ...) PRINTF_LIKE(5, 6);

static json_t *fail(struct check *c, const struct spot *object, const char *key, enum where where,
                    const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->e->text, sizeof(c->e->text), fmt, ap);
    va_end(ap);
    size_t used = strlen(c->e->text);
    if (c->text) {
        size_t begin = object_begin(c, object);
        size_t at = where == AT_OBJECT_END ? skip_value(c->text, c->len, begin)
                                           : find_member(c->text, c->len, begin, key, where);
        struct position p = position_of(c->text, MIN(at, c->len));
        snprintf(c->e->text + used, sizeof(c->e->text) - used, " at line %u column %u", p.line,
                 p.column);
    }
    return NULL;
}

/* "integer `5`", as serde describes what it met. */
static const char *describe(const json_t *v, char *out, size_t size) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "map";
    case JSON_ARRAY:
        return "sequence";
    case JSON_STRING:
        snprintf(out, size, "string \"%.100s\"", json_string_value(v));
        return out;
    case JSON_INTEGER:
        snprintf(out, size, "integer `%lld`", (long long)json_integer_value(v));
        return out;
    case JSON_REAL:
        snprintf(out, size, "floating point `%g`", json_real_value(v));
        return out;
    case JSON_TRUE:
        return "boolean `true`";
    case JSON_FALSE:
        return "boolean `false`";
    default:
        return "null";
    }
}

static const char *expected(const struct api_field *f) {
    switch (f->type) {
    case API_BOOL:
        return "a boolean";
    case API_UINT:
        return f->max <= UINT8_MAX    ? "u8"
               : f->max <= UINT16_MAX ? "u16"
               : f->max <= UINT32_MAX ? "u32"
                                      : "u64";
    case API_STRING:
        return "a string";
    case API_PATH:
        return "path string";
    case API_ENUM:
        return "string or map";
    case API_OBJECT:
        return f->sub->name;
    default:
        return "a sequence";
    }
}

/* "`a`, `b`" or "`a` or `b`", as serde lists what it knows. */
static void list_names(char *out, size_t size, const char *const *names, u32 count) {
    size_t at = 0;
    out[0] = 0;
    for (u32 i = 0; i < count && at < size; i++) {
        const char *between = !i ? "" : count == 2 ? " or " : ", ";
        int n = snprintf(out + at, size - at, "%s`%s`", between, names[i]);
        at += n > 0 ? (size_t)n : size;
    }
}

static json_t *unknown(struct check *c, const struct spot *object, const struct api_schema *s,
                       const char *key) {
    const char *names[32] = {0};
    char list[400];
    u32 n = 0;
    for (u32 i = 0; i < s->count && n < ARRAY_LEN(names); i++) {
        names[n++] = s->field[i].name;
    }
    list_names(list, sizeof(list), names, n);
    return fail(c, object, key, AT_KEY,
                n ? "unknown field `%.100s`, expected %s%s"
                  : "unknown field `%.100s`, there are no fields%s%s",
                key, n > 2 ? "one of " : "", list);
}

static json_t *bad_name(struct check *c, const struct spot *object, const struct api_field *f,
                        const char *given) {
    char list[400];
    u32 n = 0;
    while (f->names[n]) {
        n++;
    }
    list_names(list, sizeof(list), f->names, n);
    return fail(c, object, f->name, AT_VALUE_END, "unknown variant `%.100s`, expected %s%s", given,
                n > 2 ? "one of " : "", list);
}

static json_t *bad_type(struct check *c, const struct spot *object, const struct api_field *f,
                        const json_t *v) {
    char what[128];
    bool range = f->type == API_UINT && json_is_integer(v);
    return fail(c, object, f->name, AT_VALUE_END, "invalid %s: %s, expected %s",
                range ? "value" : "type", describe(v, what, sizeof(what)), expected(f));
}

/* --- checking --------------------------------------------------------------------------------- */

static json_t *check_object(struct check *c, const struct spot *spot, const struct api_schema *s,
                            const json_t *object);

static bool has_nul(const json_t *v) {
    return strlen(json_string_value(v)) != json_string_length(v);
}

static json_t *check_list(struct check *c, const struct spot *spot, const struct api_field *f,
                          const json_t *v) {
    /* elements have no position of their own: that of the whole list is given */
    struct check inner = {.e = c->e, .deprecated = c->deprecated};
    const struct spot none = {0};
    json_t *out = json_array();
    for (size_t i = 0; out && i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);
        json_t *copy = NULL;
        if (f->type == API_STRINGS) {
            copy = json_is_string(item) && !has_nul(item) ? json_deep_copy(item) : NULL;
            if (!copy) {
                char what[128];
                fail(c, spot, f->name, AT_VALUE_END, "invalid type: %s, expected a string",
                     describe(item, what, sizeof(what)));
            }
        } else {
            copy = check_object(&inner, &none, f->sub, item);
            if (!copy) {
                struct api_text t = *c->e;
                fail(c, spot, f->name, AT_VALUE_END, "%s", t.text);
            }
        }
        if (!copy || json_array_append_new(out, copy)) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *check_value(struct check *c, const struct spot *spot, const struct api_field *f,
                           const json_t *v) {
    const struct spot below = {.up = spot, .key = f->name};
    bool ok = false;
    switch (f->type) {
    case API_BOOL:
        ok = json_is_boolean(v);
        break;
    case API_UINT:
        ok = json_is_integer(v) && json_integer_value(v) >= 0 &&
             (u64)json_integer_value(v) <= f->max;
        break;
    case API_STRING:
    case API_PATH:
        ok = json_is_string(v) && !has_nul(v);
        break;
    case API_ENUM:
        for (u32 i = 0; json_is_string(v) && f->names[i] && !ok; i++) {
            ok = !strcmp(f->names[i], json_string_value(v));
        }
        if (!ok && json_is_string(v)) {
            return bad_name(c, spot, f, json_string_value(v));
        }
        break;
    case API_OBJECT:
        if (json_is_object(v)) {
            return check_object(c, &below, f->sub, v);
        }
        break;
    case API_LIST:
    case API_STRINGS:
        if (json_is_array(v)) {
            return check_list(c, spot, f, v);
        }
        break;
    case API_ANY:
        ok = true;
        break;
    }
    return ok ? json_deep_copy(v) : bad_type(c, spot, f, v);
}

static const struct api_field *find_field(const struct api_schema *s, const char *key) {
    for (u32 i = 0; i < s->count; i++) {
        if (!strcmp(s->field[i].name, key)) {
            return &s->field[i];
        }
    }
    return NULL;
}

static bool add_presets(struct check *c, const struct spot *spot, const struct api_schema *s,
                        json_t *out) {
    for (u32 i = 0; i < s->count; i++) {
        const struct api_field *f = &s->field[i];
        if (json_object_get(out, f->name)) {
            continue;
        }
        if (f->flags & API_REQUIRED) {
            fail(c, spot, NULL, AT_OBJECT_END, "missing field `%s`", f->name);
            return false;
        }
        if (f->preset) {
            json_object_set_new(out, f->name, json_loads(f->preset, JSON_DECODE_ANY, NULL));
        }
    }
    return true;
}

static json_t *check_object(struct check *c, const struct spot *spot, const struct api_schema *s,
                            const json_t *object) {
    char what[128];
    const char *key;
    json_t *v;
    if (!json_is_object(object)) {
        return fail(c, spot, NULL, AT_OBJECT_END, "invalid type: %s, expected %s",
                    describe(object, what, sizeof(what)), s->name);
    }
    json_t *out = json_object();
    json_object_foreach((json_t *)(uintptr_t)object, key, v) {
        const struct api_field *f = find_field(s, key);
        json_t *copy = NULL;
        if (!f) {
            unknown(c, spot, s, key);
        } else if (json_is_null(v) && !(f->flags & API_REQUIRED) && f->type != API_ANY) {
            continue;
        } else {
            copy = check_value(c, spot, f, v);
        }
        if (!copy || json_object_set_new(out, key, copy)) {
            json_decref(out);
            return NULL;
        }
        if (c->deprecated && (f->flags & API_DEPRECATED)) {
            *c->deprecated = true;
        }
    }
    if (!out || !add_presets(c, spot, s, out)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

/* --- entry points ----------------------------------------------------------------------------- */

/* jansson's own words where serde's are not known. */
static void syntax_error(const char *text, size_t len, const json_error_t *error,
                         struct api_text *e) {
    const char *why = error->text;
    struct position p = position_of(text, MIN((size_t)MAX(error->position, 0), len));
    char key[100];
    if (json_error_code(error) == json_error_premature_end_of_input) {
        why = "EOF while parsing a value";
        p = position_of(text, len);
    } else if (json_error_code(error) == json_error_duplicate_key &&
               sscanf(error->text, "duplicate object key near '\"%80[^\"']", key) == 1) {
        snprintf(e->text, sizeof(e->text), "duplicate field `%s` at line %u column %u", key, p.line,
                 p.column);
        return;
    }
    snprintf(e->text, sizeof(e->text), "%s at line %u column %u", why, p.line, p.column);
}

json_t *api_parse_any(const char *text, size_t len, struct api_text *e) {
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root) {
        syntax_error(text, len, &error, e);
    }
    return root;
}

json_t *api_parse(const struct api_schema *s, const char *text, size_t len, bool *deprecated,
                  struct api_text *e) {
    struct check c = {.text = text, .len = len, .deprecated = deprecated, .e = e};
    const struct spot top = {0};
    json_t *root = api_parse_any(text, len, e);
    if (!root) {
        return NULL;
    }
    json_t *out = check_object(&c, &top, s, root);
    json_decref(root);
    return out;
}

json_t *api_check(const struct api_schema *s, const json_t *value, struct api_text *e) {
    struct check c = {.e = e};
    const struct spot top = {0};
    return check_object(&c, &top, s, value);
}
