/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's clock after a restore: put right through the agent, if one answers. */
#ifndef CMD_AGENT_TIME_H
#define CMD_AGENT_TIME_H

struct agent_time;
struct machine;

/* Begins to, on the event thread; the guest runs, or will in a moment. NULL: the machine has no
 * sockets, or it cannot be tried. Nothing that goes wrong is an error. */
struct agent_time *agent_time_begin(struct machine *m);
/* Before the machine's devices go. NULL is fine. */
void agent_time_end(struct agent_time *t);

#endif
