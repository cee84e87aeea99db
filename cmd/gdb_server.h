/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of the debugger: one listener, one connection at a time, core/vm/gdbstub behind it. */
#ifndef CMD_GDB_SERVER_H
#define CMD_GDB_SERVER_H

#include "core/base/err.h"
#include "hosts/linux/linux.h"

struct vm;
struct gdb_server;

/* where: "tcp:ADDRESS:PORT" or "unix:PATH". With wait the machine stays paused until a debugger
 * continues it; call before vm_start. */
int gdb_server_create(struct linux_host *lh, struct vm *vm, const char *where, bool wait,
                      struct gdb_server **out, struct err *err);
/* The machine has ended: tells a connected debugger. NULL is fine. */
void gdb_server_exited(struct gdb_server *server, int status);
void gdb_server_destroy(struct gdb_server *server); /* NULL is fine; the machine may still run */

#endif
