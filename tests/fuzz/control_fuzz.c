/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as what a control socket receives, in pieces: each line is a request or a clean error,
 * and none is lost. The first byte says how large the pieces are.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cmd/control_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes what is whole; false: the stream is of no use any more. */
static bool take_all(struct control_lines *l, size_t *lines) {
    for (;;) {
        struct err err = {0};
        json_t *o = NULL;
        int rc = control_lines_next(l, &o, &err);
        if ((rc < 0) != (err.code < 0) || (rc == 1) != (o != NULL)) {
            __builtin_trap();
        }
        json_decref(o);
        if (rc == 0 || rc == -ERR_RANGE) {
            return rc == 0;
        }
        ++*lines;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct control_lines l = {0};
    size_t step = size ? data[0] * 64u + 1 : 0, lines = 0, expected = 0, room;
    bool good = true;
    for (size_t at = 1; at < size && good;) {
        char *to = control_lines_room(&l, &room);
        size_t n = MIN(MIN(step, size - at), room);
        if (!to || !n) {
            break;
        }
        memcpy(to, data + at, n);
        for (size_t i = 0; i < n; i++) {
            expected += to[i] == '\n';
        }
        control_lines_fed(&l, n);
        at += n;
        good = take_all(&l, &lines);
    }
    if (lines != expected) {
        __builtin_trap();
    }
    control_lines_free(&l);
    return 0;
}
