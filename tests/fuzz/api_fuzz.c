/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests for the API without sockets: "METHOD PATH\nBODY", several in one input, each ended by a
 * byte 0x1e; the method is the two low bits of the first byte (@ GET, A PUT, B PATCH, C DELETE).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REQUESTS_MAX = 32, PATH_SIZE = 300 };

static void one(struct api *api, const char *text, size_t len) {
    static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE"};
    const char *end = memchr(text, '\n', len);
    size_t head = end ? (size_t)(end - text) : len;
    char path[PATH_SIZE];
    if (!head) {
        return;
    }
    size_t n = MIN(head - 1, sizeof(path) - 1);
    memcpy(path, text + 1, n);
    path[n] = 0;
    struct api_request q = {.method = methods[text[0] & 3],
                            .path = path,
                            .body = end ? end + 1 : NULL,
                            .len = end ? len - head - 1 : 0};
    struct api_reply r;
    api_handle(api, &q, &r);
    free(r.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct api api;
    if (api_init(&api, NULL, "fuzz")) {
        return 0;
    }
    api.log.mute = true;
    api.no_files = true;
    for (int i = 0; i < REQUESTS_MAX && size; i++) {
        const uint8_t *end = memchr(data, 0x1e, size);
        size_t len = end ? (size_t)(end - data) : size;
        one(&api, (const char *)data, len);
        data += len + (end ? 1 : 0);
        size -= len + (end ? 1 : 0);
    }
    struct err err = {0};
    struct run_options o = {0};
    api_config_options(&api.config, &o, &err);
    run_options_free(&o);
    api_free(&api);
    return 0;
}
