/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia run --detach`: the machine in a process of its own, once it runs. */
#ifndef CMD_DETACH_H
#define CMD_DETACH_H

#include "core/base/err.h"

/*
 * Splits the process, before it has threads. Returns in the child, with *word a descriptor for
 * detach_done, and 0. In the parent, which waits for the child's word, 1, with the exit status in
 * *status: the machine runs (its name is printed), or has failed (the child has said why).
 */
int detach_begin(int *word, int *status, struct err *err);
/* The machine called name runs: lets the parent go, and the terminal. */
void detach_done(int word, const char *name);

#endif
