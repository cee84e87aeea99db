/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of a conversation with the agent in a guest (agent_proto.h), without any input or
 * output of its own. What comes is hostile: it is checked, and no more than one frame is kept.
 *
 *   bytes from the guest -> agent_session_room, _fed -> agent_session_next -> output to write, end
 *   exec, input, signals -> agent_session_exec ...   -> s->out, s->out_len -> bytes for the guest
 */
#ifndef CMD_AGENT_SESSION_H
#define CMD_AGENT_SESSION_H

#include "cmd/agent_proto.h"
#include "core/base/err.h"

enum agent_state {
    AGENT_STATE_DIALLED, /* "OK PORT\n" comes: the hybrid socket's answer */
    AGENT_STATE_CONNECTED,
    AGENT_STATE_GREETED, /* a request may be made */
    AGENT_STATE_ASKED,
    AGENT_STATE_RUNNING,
    AGENT_STATE_ENDED,
};

struct agent_session {
    enum agent_state state;
    size_t in_len, out_len;
    u32 window;         /* bytes of input that may be sent */
    const u8 *pending;  /* output of the command, in `in` */
    size_t pending_len; /* not taken yet */
    size_t frame_len;   /* the frame it is in */
    bool pending_error; /* for standard error */
    /* When it has ended. */
    bool by_signal;
    u8 status;                     /* or the signal */
    u32 error;                     /* errno of Linux; 0: none */
    char text[AGENT_TEXT_MAX + 1]; /* why, printable */
    u8 in[AGENT_HEAD + AGENT_PAYLOAD_MAX];
    u8 out[2 * (AGENT_HEAD + AGENT_PAYLOAD_MAX)];
};

/* What to run. Strings end up in one frame: together at most AGENT_PAYLOAD_MAX bytes. */
struct agent_command {
    bool tty;
    u32 rows, cols;
    const char *user, *dir; /* "": as the agent finds best */
    char **argv, **env;
    u32 argc, envc;
};

void agent_session_init(struct agent_session *s);

/* Where what the guest sends is to be read to; *room may be 0 while output is pending. */
u8 *agent_session_room(struct agent_session *s, size_t *room);
void agent_session_fed(struct agent_session *s, size_t len);

enum { AGENT_NEEDS_MORE = 0, AGENT_HAS_OUTPUT = 1, AGENT_HAS_ENDED = 2 };
/* Goes through what came, up to the next output: one of the above, or -ERR_FORMAT with err filled
 * when the guest does not keep to the protocol. */
int agent_session_next(struct agent_session *s, struct err *err);
/* len bytes of the pending output were written. */
void agent_session_took(struct agent_session *s, size_t len);

/* These append to s->out. -ERR_RANGE (err filled): the command is too long. */
int agent_session_exec(struct agent_session *s, const struct agent_command *c, struct err *err);
void agent_session_set_time(struct agent_session *s, s64 seconds, u32 ns);
/* How much input may be passed now. */
size_t agent_session_input_room(const struct agent_session *s);
void agent_session_input(struct agent_session *s, const u8 *data, size_t len);
void agent_session_input_end(struct agent_session *s);
void agent_session_resize(struct agent_session *s, u32 rows, u32 cols);
void agent_session_signal(struct agent_session *s, int sig);
/* len bytes of s->out have been sent. */
void agent_session_sent(struct agent_session *s, size_t len);

#endif
