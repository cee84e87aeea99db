/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of the agent's protocol; see agent_session.h. No locks: one thread. */
#include "cmd/agent_session.h"

#include <string.h>

enum { GREETING_MAX = 32 };

static const u8 magic[4] = AGENT_MAGIC;

static u32 get16(const u8 *p) {
    return p[0] | (u32)p[1] << 8;
}

static u32 get32(const u8 *p) {
    return get16(p) | get16(p + 2) << 16;
}

static void put16(u8 *p, u32 v) {
    p[0] = (u8)v;
    p[1] = (u8)(v >> 8);
}

static void put32(u8 *p, u32 v) {
    put16(p, v);
    put16(p + 2, v >> 16);
}

void agent_session_init(struct agent_session *s) {
    memset(s, 0, offsetof(struct agent_session, in)); /* pages of buffers are not touched */
    s->window = AGENT_WINDOW;
}

/* --- to the guest ----------------------------------------------------------------------------- */

/* Room for a payload of len bytes, or NULL: what was sent before has to leave first. */
static u8 *frame_begin(struct agent_session *s, enum agent_type type, size_t len) {
    if (sizeof(s->out) - s->out_len < AGENT_HEAD + len) {
        return NULL;
    }
    u8 *p = s->out + s->out_len;
    put32(p, (u32)len);
    put32(p + 4, type);
    s->out_len += AGENT_HEAD + len;
    return p + AGENT_HEAD;
}

static bool text_put(u8 **at, const u8 *end, const char *text) {
    size_t len = strlen(text) + 1;
    bool fits = len <= (size_t)(end - *at);
    if (fits) {
        memcpy(*at, text, len);
        *at += len;
    }
    return fits;
}

int agent_session_exec(struct agent_session *s, const struct agent_command *c, struct err *err) {
    u8 *head = s->out + s->out_len, *p = head + AGENT_HEAD, *data = p;
    bool fits = c->argc <= AGENT_ARGS_MAX && c->envc <= AGENT_ARGS_MAX &&
                sizeof(s->out) - s->out_len >= AGENT_HEAD + AGENT_PAYLOAD_MAX;
    const u8 *end = fits ? data + AGENT_PAYLOAD_MAX : data;
    if (fits) {
        put16(p, c->tty ? AGENT_FLAG_TTY : 0);
        put16(p + 2, c->rows);
        put16(p + 4, c->cols);
        put16(p + 6, c->argc);
        put16(p + 8, c->envc);
        put16(p + 10, 0);
        p += AGENT_EXEC_HEAD;
    }
    fits = fits && text_put(&p, end, c->user) && text_put(&p, end, c->dir);
    for (u32 i = 0; fits && i < c->argc; i++) {
        fits = text_put(&p, end, c->argv[i]);
    }
    for (u32 i = 0; fits && i < c->envc; i++) {
        fits = text_put(&p, end, c->env[i]);
    }
    if (!fits) {
        return ERR_SET(err, ERR_RANGE,
                       "the command and its variables are longer than %d bytes, or more than %d",
                       AGENT_PAYLOAD_MAX, AGENT_ARGS_MAX);
    }
    frame_begin(s, AGENT_EXEC, (size_t)(p - data));
    s->state = AGENT_STATE_ASKED;
    return 0;
}

void agent_session_set_time(struct agent_session *s, s64 seconds, u32 ns) {
    u8 *p = frame_begin(s, AGENT_SET_TIME, 12);
    if (p) {
        put32(p, (u32)seconds);
        put32(p + 4, (u32)((u64)seconds >> 32));
        put32(p + 8, ns);
        s->state = AGENT_STATE_ASKED;
    }
}

size_t agent_session_input_room(const struct agent_session *s) {
    return s->state == AGENT_STATE_RUNNING && !s->out_len ? MIN(s->window, (u32)AGENT_DATA_MAX) : 0;
}

void agent_session_input(struct agent_session *s, const u8 *data, size_t len) {
    u8 *p = frame_begin(s, AGENT_STDIN, len);
    if (p) {
        memcpy(p, data, len);
        s->window -= (u32)len;
    }
}

void agent_session_input_end(struct agent_session *s) {
    frame_begin(s, AGENT_STDIN_END, 0);
}

void agent_session_resize(struct agent_session *s, u32 rows, u32 cols) {
    u8 *p = frame_begin(s, AGENT_RESIZE, 4);
    if (p) {
        put16(p, rows);
        put16(p + 2, cols);
    }
}

void agent_session_signal(struct agent_session *s, int sig) {
    u8 *p = frame_begin(s, AGENT_SIGNAL, 1);
    if (p) {
        *p = (u8)sig;
    }
}

void agent_session_sent(struct agent_session *s, size_t len) {
    memmove(s->out, s->out + len, s->out_len - len);
    s->out_len -= len;
}

/* --- from the guest --------------------------------------------------------------------------- */

u8 *agent_session_room(struct agent_session *s, size_t *room) {
    *room = s->pending_len || s->state == AGENT_STATE_ENDED ? 0 : sizeof(s->in) - s->in_len;
    return s->in + s->in_len;
}

void agent_session_fed(struct agent_session *s, size_t len) {
    s->in_len += len;
}

static void drop(struct agent_session *s, size_t len) {
    memmove(s->in, s->in + len, s->in_len - len);
    s->in_len -= len;
}

void agent_session_took(struct agent_session *s, size_t len) {
    s->pending += len;
    s->pending_len -= len;
    if (!s->pending_len) {
        s->pending = NULL;
        drop(s, s->frame_len);
        s->frame_len = 0;
    }
}

static int malformed(struct err *err) {
    return ERR_SET(err, ERR_FORMAT, "what answers in the guest does not speak as an agent does");
}

/* "OK 1073741824\n" */
static int take_greeting(struct agent_session *s, struct err *err) {
    const u8 *end = memchr(s->in, '\n', MIN(s->in_len, (size_t)GREETING_MAX));
    if (!end) {
        return s->in_len >= GREETING_MAX ? malformed(err) : AGENT_NEEDS_MORE;
    }
    if (end - s->in < 3 || memcmp(s->in, "OK ", 3) != 0) {
        return malformed(err);
    }
    drop(s, (size_t)(end - s->in) + 1);
    s->state = AGENT_STATE_CONNECTED;
    return 0;
}

static int take_hello(struct agent_session *s, const u8 *data, size_t len, struct err *err) {
    if (len < AGENT_HELLO_SIZE || memcmp(data, magic, sizeof(magic)) != 0 || !get16(data + 4)) {
        return malformed(err);
    }
    u8 *p = frame_begin(s, AGENT_HELLO, AGENT_HELLO_SIZE);
    if (p) {
        memcpy(p, magic, sizeof(magic));
        put32(p + 4, AGENT_VERSION);
    }
    s->state = AGENT_STATE_GREETED;
    return 0;
}

static int take_error(struct agent_session *s, const u8 *data, size_t len, struct err *err) {
    if (len < 2 || len > 2 + AGENT_TEXT_MAX) {
        return malformed(err);
    }
    s->error = get16(data) ? get16(data) : 1;
    for (size_t i = 2; i < len; i++) { /* nothing that moves a terminal's cursor */
        char c = (char)data[i];
        s->text[i - 2] = c;
        if (c < ' ' || c == 127) {
            s->text[i - 2] = '?';
        }
    }
    s->state = AGENT_STATE_ENDED;
    return AGENT_HAS_ENDED;
}

static int take_output(struct agent_session *s, u8 type, const u8 *data, size_t len) {
    if (!len) {
        return 0;
    }
    s->pending = data;
    s->pending_len = len;
    s->pending_error = type == AGENT_STDERR;
    s->frame_len = AGENT_HEAD + len;
    return AGENT_HAS_OUTPUT;
}

static int take_running(struct agent_session *s, u8 type, const u8 *data, size_t len,
                        struct err *err) {
    u32 credit;
    switch (type) {
    case AGENT_STDOUT:
    case AGENT_STDERR:
        return take_output(s, type, data, len);
    case AGENT_CREDIT:
        credit = len == 4 ? get32(data) : UINT32_MAX;
        if (credit > AGENT_WINDOW - s->window) {
            return malformed(err);
        }
        s->window += credit;
        return 0;
    case AGENT_EXIT:
        if (len != 2) {
            return malformed(err);
        }
        s->by_signal = data[0];
        s->status = data[1];
        s->state = AGENT_STATE_ENDED;
        return AGENT_HAS_ENDED;
    case AGENT_ERROR:
        return take_error(s, data, len, err);
    default:
        return 0; /* of a later version */
    }
}

static int take_asked(struct agent_session *s, u8 type, const u8 *data, size_t len,
                      struct err *err) {
    switch (type) {
    case AGENT_STARTED:
        s->state = AGENT_STATE_RUNNING;
        return len == 4 ? 0 : malformed(err);
    case AGENT_DONE:
        s->state = AGENT_STATE_ENDED;
        return AGENT_HAS_ENDED;
    case AGENT_ERROR:
        return take_error(s, data, len, err);
    default:
        return malformed(err);
    }
}

static int take_frame(struct agent_session *s, u8 type, const u8 *data, size_t len,
                      struct err *err) {
    switch (s->state) {
    case AGENT_STATE_CONNECTED:
        return type == AGENT_HELLO ? take_hello(s, data, len, err) : malformed(err);
    case AGENT_STATE_ASKED:
        return take_asked(s, type, data, len, err);
    case AGENT_STATE_RUNNING:
        return take_running(s, type, data, len, err);
    default:
        return malformed(err); /* it speaks without being asked */
    }
}

int agent_session_next(struct agent_session *s, struct err *err) {
    if (s->pending_len) {
        return AGENT_HAS_OUTPUT;
    }
    if (s->state == AGENT_STATE_DIALLED) {
        int rc = take_greeting(s, err);
        if (rc || s->state == AGENT_STATE_DIALLED) {
            return rc;
        }
    }
    while (s->state != AGENT_STATE_ENDED && s->in_len >= AGENT_HEAD) {
        size_t len = get32(s->in);
        if (len > AGENT_PAYLOAD_MAX) {
            return malformed(err);
        }
        if (s->in_len < AGENT_HEAD + len) {
            break;
        }
        int rc = take_frame(s, s->in[4], s->in + AGENT_HEAD, len, err);
        if (rc) {
            return rc;
        }
        drop(s, AGENT_HEAD + len);
    }
    return s->state == AGENT_STATE_ENDED ? AGENT_HAS_ENDED : AGENT_NEEDS_MORE;
}
