/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The running machines of a user: the runtime directory (linux_runtime_dir) has for each
 *
 *   NAME.lock   the process number; locked (flock) as long as the machine lives, however it ends
 *   NAME.ctl    its control socket (control.h)
 *
 * A lock that can be taken belongs to a machine that died: whoever finds it removes both.
 */
#ifndef CMD_REGISTRY_H
#define CMD_REGISTRY_H

#include "core/base/err.h"

enum { REGISTRY_NAME_MAX = 48, REGISTRY_MAX_MACHINES = 4096 };

struct registration;

/* 1 to REGISTRY_NAME_MAX of letters, digits, '.', '_', '-', the first a letter or digit. */
bool registry_name_valid(const char *name);
/* A name out of any text ("/x/Debian 12.qcow2" becomes "Debian-12"); out has REGISTRY_NAME_MAX + 1
 * bytes. */
void registry_name_derive(const char *text, char *out);

/* Takes the name. unique: when a machine has it, "NAME-2", "NAME-3" ... are tried; else that is
 * -ERR_EXISTS. */
int registry_claim(const char *name, bool unique, struct registration **out, struct err *err);
/* Gives the name back and removes the files; what is open stays so. */
void registry_leave(struct registration *reg);
/* Likewise, and ends the registration. NULL is fine. */
void registry_release(struct registration *reg);

/* The machine leaves its exit status behind, bounded in number and time (registry_end.h): _record
 * before the fence, _ended at the end, before the release. */
void registry_record(struct registration *reg);
void registry_ended(struct registration *reg, int status);
/* Of a machine that has ended: 0, or -ERR_NOTFOUND. */
int registry_status(const char *name, int *status);
/* Removes records that are too old or too many. */
void registry_prune(void);

const char *registry_name(const struct registration *reg);
/* The control socket, bound and not yet listening; stays the registration's. */
int registry_socket(const struct registration *reg);
/* This process is the machine now (after a fork). */
void registry_set_pid(struct registration *reg);

/* Calls fn for each running machine, sorted by name; removes what the dead left. pid is 0 when it
 * cannot be told. 0, or what fn returned when that was not 0 (it ends the walk). */
int registry_walk(int (*fn)(void *ctx, const char *name, long pid), void *ctx, struct err *err);
/* A descriptor connected to the machine called name (or the number of its process), or a negative
 * code with err. */
int registry_connect(const char *name, struct err *err);

#endif
