/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of a machine in its snapshot: struct run_options as JSON, so that a restore
 * builds the same devices. A new option that changes what the guest sees gets a line in
 * snap_conf.c. */
#ifndef CMD_SNAP_CONF_H
#define CMD_SNAP_CONF_H

#include "cmd/machine.h"

/* What m runs with: paths made absolute, addresses as they were given out. malloc, or NULL. */
char *snap_conf_write(const struct machine *m);

/* Fills *o (zeroed) from it. Hostile: 0, or -ERR_FORMAT with err filled. */
int snap_conf_read(struct run_options *o, const char *name, const char *text, size_t size,
                   struct err *err);

#endif
