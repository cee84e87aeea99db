/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's side of `sosia ls`, pause, resume, stop, kill, wait and stats: requests of the
 * control socket (docs/manage.md lists them), event thread.
 */
#ifndef CMD_MANAGE_H
#define CMD_MANAGE_H

#include "core/base/err.h"

struct machine;

/* Takes the machine's name (machine.reg). Before the machine is built, so that a name in use costs
 * nothing. Without a runtime directory that is an error only when a name was asked for. */
int manage_register(struct machine *m, struct err *err);
/* Opens the control socket (machine.control); before vm_start. */
int manage_start(struct machine *m, struct err *err);
/* The machine stands still: notes why, for those who wait. */
void manage_end(struct machine *m);
/* The last step, when all files are closed: tells who waits, gives the name back. These two may
 * come without the first two. */
void manage_release(struct machine *m);

/* /proc/self/status, opened before the process gives up its rights; -1: there is none. */
int manage_status_fd(const struct machine *m);

/* Pauses as `sosia pause` does: once, however often it is asked. */
void manage_pause(struct machine *m);
void manage_resume(struct machine *m);
bool manage_paused(const struct machine *m);

#endif
