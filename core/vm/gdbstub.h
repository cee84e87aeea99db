/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debugger's stub: GDB's remote serial protocol over bytes that somebody else carries (GDB
 * manual, appendix E). Each vCPU is a thread (vCPU n is thread n + 1).
 *
 *   socket --> gdbstub_input --> packet --> command --> reply --> send
 *   vCPU thread: EXIT_DEBUG --> machine pauses --> posted to the event thread --> stop reply
 *
 * Lock rule: all functions here are called on the host's event thread (or, in tests, on the one
 * thread that also runs what was posted), and send is called on it. Not with the board lock held.
 */
#ifndef CORE_VM_GDBSTUB_H
#define CORE_VM_GDBSTUB_H

#include "core/vm/vm.h"

struct gdbstub;

/* send takes all bytes (it buffers). One stub per machine. */
int gdbstub_create(struct vm *vm, void (*send)(void *ctx, const u8 *data, size_t len), void *ctx,
                   struct gdbstub **out, struct err *err);
/* As gdbstub_disconnected, then frees. NULL is fine. */
void gdbstub_destroy(struct gdbstub *g);

/* A debugger connected: pauses the machine, which may be one that was not started yet. */
void gdbstub_connected(struct gdbstub *g);
/* It went away: breakpoints are removed, the machine runs on. */
void gdbstub_disconnected(struct gdbstub *g);
void gdbstub_input(struct gdbstub *g, const u8 *data, size_t len);
/* The machine has stopped for good: tells the debugger the exit status. */
void gdbstub_exited(struct gdbstub *g, int status);

#endif
