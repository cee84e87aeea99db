/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP of the metadata service (RFC 9112, as much as clients of cloud metadata use): GET of a path
 * into the store, PUT of /latest/api/token. The answers and their texts are Firecracker's
 * (src/vmm/src/mmds).
 *
 * A token is expiry | nonce | HMAC-SHA256 of both, in hexadecimal: nothing has to be kept, and a
 * guest cannot make one. Times are those of the host's monotonic clock.
 */
#include "cmd/mmds_http.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/sha256.h"

enum {
    HEAD_MAX = 512, /* of an answer, and the texts of errors */
    PATH_SIZE = 1024,
    TOKEN_BODY = 16, /* bytes that are signed: expiry, nonce */
    TOKEN_BYTES = TOKEN_BODY + SHA256_SIZE,
    BLOCK = 64, /* of SHA-256 */
};

/* A request, cut in pieces; texts are not ended. */
struct http {
    const char *method, *uri;
    size_t method_len, uri_len;
    const char *token, *ttl; /* values of headers; NULL: not there */
    size_t token_len, ttl_len;
    size_t body_len;
    bool json, forwarded, close, bad;
};

/* An answer being made. */
struct reply {
    const char *status;
    const char *type;
    const char *allow; /* or NULL */
    const char *body;
    size_t len;
    char text[HEAD_MAX]; /* where the body is short */
};

size_t mmds_http_reply_max(size_t store_limit) {
    return store_limit + 2 * (size_t)HEAD_MAX;
}

void mmds_service_init(struct mmds_service *s, const struct mmds_store *store, struct host *host) {
    *s = (struct mmds_service){.store = store, .host = host};
    host->ops->entropy(host, s->key, sizeof(s->key));
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* RFC 2104 */
static void hmac(const u8 key[32], const u8 *data, size_t len, u8 out[SHA256_SIZE]) {
    u8 pad[BLOCK];
    struct sha256 h;
    for (int i = 0; i < BLOCK; i++) {
        pad[i] = (i < 32 ? key[i] : 0) ^ 0x36;
    }
    sha256_init(&h);
    sha256_update(&h, pad, BLOCK);
    sha256_update(&h, data, len);
    sha256_final(&h, out);
    for (int i = 0; i < BLOCK; i++) {
        pad[i] ^= 0x36 ^ 0x5c;
    }
    sha256_init(&h);
    sha256_update(&h, pad, BLOCK);
    sha256_update(&h, out, SHA256_SIZE);
    sha256_final(&h, out);
}

static void token_make(const struct mmds_service *s, u32 ttl, char *out, size_t size) {
    u8 token[TOKEN_BYTES];
    u64 expiry = host_now(s->host) + ttl * NSEC_PER_SEC;
    memcpy(token, &expiry, sizeof(expiry));
    s->host->ops->entropy(s->host, token + sizeof(expiry), TOKEN_BODY - sizeof(expiry));
    hmac(s->key, token, TOKEN_BODY, token + TOKEN_BODY);
    for (size_t i = 0; i < sizeof(token) && 2 * i + 2 < size; i++) {
        snprintf(out + 2 * i, 3, "%02x", token[i]);
    }
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool token_valid(const struct mmds_service *s, const char *text, size_t len) {
    u8 token[TOKEN_BYTES], want[SHA256_SIZE];
    u8 differs = 0;
    u64 expiry;
    if (len != 2 * sizeof(token)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(token); i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        token[i] = (u8)(high << 4 | low);
    }
    hmac(s->key, token, TOKEN_BODY, want);
    for (size_t i = 0; i < sizeof(want); i++) { /* in the same time, right or wrong */
        differs |= token[TOKEN_BODY + i] ^ want[i];
    }
    memcpy(&expiry, token, sizeof(expiry));
    return !differs && host_now(s->host) < expiry;
}

/* --- reading requests ------------------------------------------------------------------------- */

static bool is_name(const char *at, size_t len, const char *name) {
    return len == strlen(name) && !strncasecmp(at, name, len);
}

static void take_header(struct http *h, const char *name, size_t name_len, const char *value,
                        size_t len) {
    if (is_name(name, name_len, "X-metadata-token") ||
        is_name(name, name_len, "X-aws-ec2-metadata-token")) {
        h->token = value;
        h->token_len = len;
    } else if (is_name(name, name_len, "X-metadata-token-ttl-seconds") ||
               is_name(name, name_len, "X-aws-ec2-metadata-token-ttl-seconds")) {
        h->ttl = value;
        h->ttl_len = len;
    } else if (is_name(name, name_len, "X-Forwarded-For")) {
        h->forwarded = true;
    } else if (is_name(name, name_len, "Accept")) {
        h->json = len >= 16 && !strncasecmp(value, "application/json", 16);
    } else if (is_name(name, name_len, "Connection")) {
        h->close = is_name(value, len, "close");
    } else if (is_name(name, name_len, "Content-Length")) {
        h->bad |= !len || len > 9;
        for (size_t i = 0; i < len && !h->bad; i++) {
            h->bad = !isdigit((unsigned char)value[i]);
            h->body_len = h->body_len * 10 + (size_t)(value[i] - '0');
        }
    }
}

static const char *find(const char *at, const char *end, const char *what) {
    return at < end ? memmem(at, (size_t)(end - at), what, strlen(what)) : NULL;
}

/* "GET /path HTTP/1.1"; of "http://host/path" the host is left out. */
static void take_line(struct http *h, const char *at, const char *end) {
    const char *space = memchr(at, ' ', (size_t)(end - at));
    const char *uri = space ? space + 1 : end;
    const char *stop = uri < end ? memchr(uri, ' ', (size_t)(end - uri)) : NULL;
    if (!space || !stop || end - stop != 9 || strncmp(stop + 1, "HTTP/1.", 7) != 0) {
        h->bad = true;
        return;
    }
    h->method = at;
    h->method_len = (size_t)(space - at);
    h->close = stop[8] == '0';
    if (stop - uri > 7 && !strncmp(uri, "http://", 7)) {
        const char *path = memchr(uri + 7, '/', (size_t)(stop - uri - 7));
        uri = path ? path : stop;
    }
    h->uri = uri;
    h->uri_len = (size_t)(stop - uri);
}

/* The head is complete: it ends at end. */
static void parse(struct http *h, const char *at, const char *end) {
    const char *next = find(at, end, "\r\n");
    take_line(h, at, next);
    for (at = next + 2; at < end; at = next + 2) {
        next = find(at, end, "\r\n");
        const char *colon = memchr(at, ':', (size_t)(next - at));
        if (!colon) {
            h->bad |= next != at;
            continue;
        }
        const char *value = colon + 1, *last = next;
        while (value < last && *value == ' ') {
            value++;
        }
        while (last > value && last[-1] == ' ') {
            last--;
        }
        take_header(h, at, (size_t)(colon - at), value, (size_t)(last - value));
    }
}

/* --- the store -------------------------------------------------------------------------------- */

/* One step of a JSON pointer (RFC 6901): part is changed. */
static const json_t *step(const json_t *v, char *part) {
    char *to = part;
    for (const char *from = part; *from; from++) {
        if (from[0] == '~' && (from[1] == '0' || from[1] == '1')) {
            *to++ = *++from == '0' ? '~' : '/';
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
    if (json_is_array(v)) {
        char *end;
        unsigned long n = strtoul(part, &end, 10);
        bool number = isdigit((unsigned char)part[0]) && !*end && (part[0] != '0' || !part[1]);
        return number ? json_array_get(v, n) : NULL;
    }
    return json_object_get(v, part);
}

static const json_t *lookup(const json_t *v, const char *uri, size_t len) {
    char path[PATH_SIZE];
    char *rest = path, *part;
    if (len >= sizeof(path)) {
        return NULL;
    }
    memcpy(path, uri, len);
    path[len] = 0;
    while (v && (part = strsep(&rest, "/"))) {
        v = *part ? step(v, part) : v; /* several slashes are one */
    }
    return v;
}

/* Keys of an object, one a line, those of objects with a slash behind; or a string. */
static char *plain_text(const json_t *v) {
    char *text = NULL;
    size_t len = 0;
    const char *key;
    json_t *member;
    bool first = true;
    if (json_is_string(v)) {
        return strdup(json_string_value(v));
    }
    FILE *f = json_is_object(v) ? open_memstream(&text, &len) : NULL;
    if (!f) {
        return NULL;
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, member) {
        fprintf(f, "%s%s%s", first ? "" : "\n", key, json_is_object(member) ? "/" : "");
        first = false;
    }
    fclose(f);
    return text;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void say(struct reply *r, const char *status, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void say(struct reply *r, const char *status, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->text, sizeof(r->text), fmt, ap);
    va_end(ap);
    r->status = status;
    r->body = r->text;
    r->len = strlen(r->text);
}

static void get(struct mmds_service *s, const struct http *h, struct reply *r, char **owned) {
    const json_t *v = lookup(s->store->data, h->uri, h->uri_len);
    bool json = h->json && !s->imds_compat;
    if (!v) {
        say(r, "404", "Resource not found: %.*s.", (int)MIN(h->uri_len, (size_t)300), h->uri);
        return;
    }
    *owned = json ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : plain_text(v);
    if (!*owned) {
        say(r, "501", "Cannot retrieve value. The value has an unsupported type.");
        return;
    }
    r->status = "200";
    r->type = json ? "application/json" : "text/plain";
    r->body = *owned;
    r->len = strlen(*owned);
    s->accepted++;
}

static void get_checked(struct mmds_service *s, const struct http *h, struct reply *r,
                        char **owned) {
    bool valid = h->token && token_valid(s, h->token, h->token_len);
    s->no_token += !h->token;
    s->invalid_token += h->token && !valid;
    if (!s->v2 || valid) {
        get(s, h, r, owned);
    } else if (!h->token) {
        say(r, "401",
            "No MMDS token provided. Use `X-metadata-token` header to specify the session token.");
    } else {
        say(r, "401", "MMDS token not valid.");
    }
}

/* Of tokens only the path /latest/api/token, with any number of slashes. */
static bool is_token_path(const struct http *h) {
    static const char want[] = "/latest/api/token";
    size_t k = 0;
    for (size_t i = 0; i < h->uri_len; i++) {
        if (i && h->uri[i] == '/' && h->uri[i - 1] == '/') {
            continue;
        }
        if (k >= sizeof(want) - 1 || h->uri[i] != want[k++]) {
            return false;
        }
    }
    return k == sizeof(want) - 1;
}

static void put(struct mmds_service *s, const struct http *h, struct reply *r) {
    char ttl[16] = "";
    if (h->forwarded) {
        say(r, "400", "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For");
        return;
    }
    if (!is_token_path(h)) {
        say(r, "404", "Resource not found: %.*s.", (int)MIN(h->uri_len, (size_t)300), h->uri);
        return;
    }
    if (!h->ttl) {
        say(r, "400",
            "Token time to live value not found. Use `X-metadata-token-ttl-seconds` header to "
            "specify the token's lifetime.");
        return;
    }
    memcpy(ttl, h->ttl, MIN(h->ttl_len, sizeof(ttl) - 1));
    char *end;
    unsigned long seconds = strtoul(ttl, &end, 10);
    if (!isdigit((unsigned char)ttl[0]) || *end || !seconds || seconds > MMDS_TOKEN_TTL_MAX) {
        say(r, "400",
            "Invalid time to live value provided for token: %.15s. Please provide a value between "
            "1 and %d.",
            ttl, MMDS_TOKEN_TTL_MAX);
        return;
    }
    say(r, "200", "%s", "");
    token_make(s, (u32)seconds, r->text, sizeof(r->text));
    r->len = strlen(r->text);
    s->accepted++;
}

static void decide(struct mmds_service *s, const struct http *h, struct reply *r, char **owned) {
    if (h->bad) {
        say(r, "400", "Invalid HTTP request.");
    } else if (!h->uri_len) {
        say(r, "400", "Invalid URI.");
    } else if (h->method_len == 3 && !memcmp(h->method, "GET", 3)) {
        get_checked(s, h, r, owned);
    } else if (h->method_len == 3 && !memcmp(h->method, "PUT", 3)) {
        put(s, h, r);
    } else {
        say(r, "405", "Not allowed HTTP method.");
        r->allow = "Allow: GET, PUT\r\n";
    }
    s->errors += r->status[0] != '2';
}

static const char *reason(const char *status) {
    static const char *const reasons[][2] = {
        {"200", "OK"},        {"400", "Bad Request"},        {"401", "Unauthorized"},
        {"404", "Not Found"}, {"405", "Method Not Allowed"}, {"501", "Not Implemented"}};
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (!strcmp(status, reasons[i][0])) {
            return reasons[i][1];
        }
    }
    return "";
}

static size_t write_reply(const struct reply *r, bool close, char *out, size_t size) {
    int n = snprintf(out, size,
                     "HTTP/1.1 %s %s\r\nServer: Sosia MMDS\r\nConnection: %s\r\n%sContent-Type: "
                     "%s\r\nContent-Length: %zu\r\n\r\n",
                     r->status, reason(r->status), close ? "close" : "keep-alive",
                     r->allow ? r->allow : "", r->type, r->len);
    if (n < 0 || (size_t)n > size || r->len > size - (size_t)n) {
        return 0;
    }
    memcpy(out + n, r->body, r->len);
    return (size_t)n + r->len;
}

void mmds_http_respond(void *ctx, const char *request, size_t len, bool full, char *out,
                       size_t size, struct mmds_answer *answer) {
    struct mmds_service *s = ctx;
    struct http h = {0};
    struct reply r = {.type = "text/plain"};
    char *owned = NULL;
    const char *end = find(request, request + len, "\r\n\r\n");
    if (end) {
        parse(&h, request, end + 2);
    }
    size_t whole = end ? (size_t)(end + 4 - request) + (h.bad ? 0 : h.body_len) : len + 1;
    if (whole > len && !full && whole <= MMDS_REQUEST_MAX + 1) {
        return; /* the rest will come */
    }
    h.bad |= whole > len;
    h.close |= h.bad;
    decide(s, &h, &r, &owned);
    answer->consumed = h.bad ? len : whole;
    answer->close = h.close;
    answer->length = write_reply(&r, h.close, out, size);
    free(owned);
}
