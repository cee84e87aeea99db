/* SPDX-License-Identifier: Apache-2.0 */
/* The signals by which a machine's process is asked to end: SIGINT, SIGTERM, SIGHUP. */
#ifndef CMD_END_SIGNALS_H
#define CMD_END_SIGNALS_H

#include <stdbool.h>

struct linux_host;

/* They call fn on the event thread from now on. A descriptor, or -1 with errno. */
int end_signals_watch(struct linux_host *lh, void (*fn)(void *ctx), void *ctx);
/* In fn: has one come? */
bool end_signals_take(int fd);
/* From here on one ends the process: a back end that hangs must not keep it for ever. *fd becomes
 * -1, and may be that before. */
void end_signals_unwatch(struct linux_host *lh, int *fd);

#endif
