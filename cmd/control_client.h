/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of control.h: what `sosia ls`, `pause`, `snapshot` ... talk to a machine with. */
#ifndef CMD_CONTROL_CLIENT_H
#define CMD_CONTROL_CLIENT_H

#include <jansson.h>
#include <sys/types.h>

#include "core/base/err.h"

struct control_client;

/* machine: a name, a process number, or a path with a slash to a control socket. -ERR_NOTFOUND when
 * there is none. */
int control_connect(const char *machine, struct control_client **out, struct err *err);
void control_close(struct control_client *c); /* NULL is fine */

/* The machine's process, by the socket's credentials. */
pid_t control_pid(const struct control_client *c);

/* Sends request (the reference is taken) with fds and waits for the answer, at most timeout_ms
 * (-1: for ever). 0 with *reply (json_decref it; NULL when not wanted), else a negative code with
 * err: what the machine said, -ERR_AGAIN for time, -ERR_IO when it hung up. */
int control_ask(struct control_client *c, json_t *request, const int *fds, u32 fd_count,
                int timeout_ms, json_t **reply, struct err *err);

/* The three at once: for one question without time limit. */
int control_request(const char *machine, json_t *request, const int *fds, u32 fd_count,
                    json_t **reply, struct err *err);

#endif
