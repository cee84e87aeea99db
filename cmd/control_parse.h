/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes from a control socket to requests: one JSON object with a "request" string per line. */
#ifndef CMD_CONTROL_PARSE_H
#define CMD_CONTROL_PARSE_H

#include <jansson.h>

#include "cmd/control.h"

struct control_lines {
    char *data;      /* CONTROL_LINE_MAX bytes, from the first feed on */
    size_t at, used; /* what is in [at, used) has not been looked at */
};

/* Where to read into, and how much; *room is 0 when a line is too long for the buffer (then
 * control_lines_next says so). NULL: out of memory. */
char *control_lines_room(struct control_lines *l, size_t *room);
void control_lines_fed(struct control_lines *l, size_t len);
/* 1: *out is the next request (json_decref it). 0: no whole line yet. Negative, with err filled: a
 * bad line, which is gone; -ERR_RANGE: a line too long, the connection is of no use any more. */
int control_lines_next(struct control_lines *l, json_t **out, struct err *err);
void control_lines_free(struct control_lines *l);

#endif
