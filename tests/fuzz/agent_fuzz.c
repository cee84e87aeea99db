/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as what the agent in a guest sends, in pieces: output in order, an end, or a clean
 * error, never more kept than one frame. The first byte says how large the pieces are, the second
 * what is asked and when input goes along.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/agent_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(struct agent_session *s, uint8_t how) {
    static char program[] = "true", variable[] = "A=b";
    char *argv[] = {program}, *env[] = {variable};
    struct agent_command c = {how & 1, 24, 80, "root", "", argv, env, 1, 1};
    struct err err = {0};
    if (how & 2) {
        agent_session_set_time(s, -1, 999999999);
    } else if (agent_session_exec(s, &c, &err)) {
        __builtin_trap();
    }
}

/* What a loop does between two reads. */
static void answer(struct agent_session *s, uint8_t how) {
    static const u8 zeros[AGENT_DATA_MAX];
    if (s->state == AGENT_STATE_GREETED) {
        ask(s, how);
    }
    if (how & 4) {
        agent_session_sent(s, s->out_len);
        size_t room = agent_session_input_room(s);
        if (room > sizeof(zeros)) {
            __builtin_trap();
        }
        agent_session_input(s, zeros, room);
        agent_session_signal(s, 2);
        agent_session_resize(s, 1, 1);
    }
    if (s->out_len > sizeof(s->out) || s->window > AGENT_WINDOW || s->in_len > sizeof(s->in)) {
        __builtin_trap();
    }
}

/* Output goes in pieces of `step`; false: it is over. */
static bool take(struct agent_session *s, size_t step, uint8_t how) {
    for (;;) {
        struct err err = {0};
        int rc = agent_session_next(s, &err);
        if ((rc < 0) != (err.code < 0) || (rc == AGENT_HAS_OUTPUT) != (s->pending_len > 0)) {
            __builtin_trap();
        }
        if (rc != AGENT_HAS_OUTPUT) {
            answer(s, how);
            return rc == AGENT_NEEDS_MORE;
        }
        agent_session_took(s, MIN(step, s->pending_len));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct agent_session *s = malloc(sizeof(*s));
    size_t step = size ? data[0] * 64u + 1 : 0;
    uint8_t how = size > 1 ? data[1] : 0;
    if (!s) {
        return 0;
    }
    agent_session_init(s);
    for (size_t at = 2; at < size;) {
        size_t room;
        u8 *to = agent_session_room(s, &room);
        size_t n = MIN(MIN(step, size - at), room);
        if (!n) { /* there is always room for what a whole frame lacks */
            __builtin_trap();
        }
        memcpy(to, data + at, n);
        agent_session_fed(s, n);
        at += n;
        if (!take(s, step, how)) {
            break;
        }
    }
    free(s);
    return 0;
}
