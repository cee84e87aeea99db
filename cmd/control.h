/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of a running machine: NAME.ctl in the runtime directory, for programs of the
 * same user and root (peer credentials). A client sends one JSON object per line,
 *
 *   {"request": "pause"}                     file descriptors ride along by SCM_RIGHTS
 *
 * and gets one object per line back, in order:
 *
 *   {"ok": true, ...}   or   {"ok": false, "code": "invalid value", "error": "TEXT"}
 *
 * Adding a request: write a control_fn, put it in a table, give the table to control_add before
 * vm_start. Handlers run on the event thread and must not take long. One that does starts its work
 * elsewhere, returns CONTROL_LATER, and control_done is called when the work is done, on any
 * thread. A connection's next line waits until the last one is answered.
 *
 *   static int handle_balloon(void *ctx, struct control_call *call, struct err *err) {
 *       struct run *r = ctx;
 *       json_int_t mib = json_integer_value(json_object_get(call->request, "mib"));
 *       ...
 *       json_object_set_new(call->reply, "mib", json_integer(mib));
 *       return 0;
 *   }
 */
#ifndef CMD_CONTROL_H
#define CMD_CONTROL_H

#include <jansson.h>
#include <sys/types.h>

#include "core/base/err.h"

enum {
    CONTROL_LINE_MAX = 64 * 1024, /* bytes of one request, its newline included */
    CONTROL_MAX_FDS = 8,          /* descriptors with one request */
    CONTROL_MAX_CLIENTS = 32,
    CONTROL_MAX_TABLES = 8,
    CONTROL_LATER = 1, /* what a handler returns that will call control_done */
};

struct linux_host;
struct registration;
struct control;

/* One request while it is served. */
struct control_call {
    const json_t *request;   /* the object as it came */
    json_t *reply;           /* an empty object; the handler adds members. "ok" is set for it */
    int fd[CONTROL_MAX_FDS]; /* what came along; a handler that keeps one sets its place to -1 */
    u32 fd_count;
    pid_t peer_pid;
    uid_t peer_uid;
    /* For CONTROL_LATER, optional: the client has hung up. May end the call with control_done. */
    void (*gone)(struct control_call *call);
    void *owner; /* the handler's */
};

/* Returns 0 (answered with call->reply), a negative code with err filled, or CONTROL_LATER. ctx is
 * what control_add was given. Event thread. */
typedef int (*control_fn)(void *ctx, struct control_call *call, struct err *err);

struct control_verb {
    const char *name;
    control_fn fn;
};

/* Listens for the machine that reg stands for (NULL: nothing is served, calls below do nothing).
 * Event thread, or before it runs. 0 or a negative code with err filled. */
int control_create(struct linux_host *lh, struct registration *reg, struct control **out,
                   struct err *err);
/* Closes all; calls that are not done are answered "the machine has ended". Whoever still works on
 * one must have been waited for: it may not call control_done any more. NULL is fine. */
void control_destroy(struct control *c);

/* A table of requests, which stays valid as long as c; later tables do not hide earlier ones.
 * -ERR_NOSPACE when there are too many. c NULL is fine. */
int control_add(struct control *c, const struct control_verb *verbs, u32 count, void *ctx);

/* Ends a call whose handler returned CONTROL_LATER: rc 0 with call->reply, or a negative code and
 * err. Any thread; call is gone afterwards. */
void control_done(struct control_call *call, int rc, const struct err *err);

#endif
