/* SPDX-License-Identifier: Apache-2.0 */
/* Talking to the agent of a guest: the connection and the loop around agent_session.h. */
#ifndef CMD_AGENT_CLIENT_H
#define CMD_AGENT_CLIENT_H

#include "cmd/agent_session.h"
#include "core/base/err.h"

/* Exit statuses of `sosia exec` beside the command's own, as with timeout(1), env(1), docker. */
enum {
    EXEC_TIMEOUT = 124,
    EXEC_FAILED = 125, /* the command was not started, or its end is not known */
    EXEC_CANNOT = 126,
    EXEC_NOT_FOUND = 127,
    EXEC_SIGNAL = 128, /* and the signal's number */
};

struct agent_exec {
    const char *machine;
    struct agent_command command;
    int escape;         /* the key that leaves, with a terminal; ESCAPE_NONE */
    int timeout_ms;     /* of the command; -1: none */
    int wait_ms;        /* for an agent that does not answer yet */
    int in, out, error; /* descriptors; in may be -1: nothing to read */
    bool set_time;      /* nothing but put the guest's clock right */
};

/* Does it; messages go to standard error under the name of the verb. The exit status for it. */
int agent_run(const char *verb, const struct agent_exec *e);

#endif
