/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How machines in the background ended: a file NAME.end in the runtime directory, for `sosia wait`
 * after the end. It is made, empty, when the machine gets its name, because the fenced process can
 * make none later; what is still empty when the machine is gone says that it died. Records go when
 * the name is taken again, after an hour, or when there are more than RECORDS_MAX.
 */
#ifndef CMD_REGISTRY_END_H
#define CMD_REGISTRY_END_H

#include <stdbool.h>

enum { RECORD_SECONDS = 3600, RECORDS_MAX = 64 };

/* A descriptor of the empty record, -1 when it cannot be made. dir_fd: the runtime directory. */
int record_create(int dir_fd, const char *name);
void record_write(int fd, int status);
/* empty: only when nothing was written. */
void record_remove(int dir_fd, const char *name, bool empty);
/* 0 and the status, or -ERR_NOTFOUND. */
int record_read(int dir_fd, const char *name, int *status);
/* Removes those that are too old or too many. */
void record_prune(int dir_fd);

#endif
