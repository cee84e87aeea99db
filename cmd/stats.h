/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of a machine as text, and the socket at which a running machine tells them. */
#ifndef CMD_STATS_H
#define CMD_STATS_H

#include "core/base/err.h"
#include "core/if/engine.h"

struct linux_host;
struct stats_server;
struct vm;

/* Enough for 64 vCPUs; a Unix socket's buffer takes it whole. */
enum { STATS_TEXT_MAX = 96 * 1024 };

/* Lines of text, cut when size is too small, 0-terminated; returns the length. Any thread, while
 * the vCPUs exist. */
size_t stats_text(struct vm *vm, const struct engine_ops *engine, char *out, size_t size);

/* Event thread. NULL where there is no place for the socket: the machine runs without. */
struct stats_server *stats_server_create(struct linux_host *lh, struct vm *vm,
                                         const struct engine_ops *engine);
void stats_server_destroy(struct stats_server *server); /* NULL is fine */

#endif
