/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One machine of this process: options -> board -> start -> end. `sosia run` and the API server
 * build and start machines with this, on the event thread of their host.
 *
 *   machine_create (files, disks, engine, networks, streams, board) -> machine_start -> loop runs
 *     -> on_stop -> machine_destroy
 */
#ifndef CMD_MACHINE_H
#define CMD_MACHINE_H

#include "cmd/boot_disk.h"
#include "cmd/cmd.h"
#include "cmd/consoles.h"
#include "core/board/pc.h"

enum { MACHINE_MAX_STREAMS = 8 };

struct agent_time;
struct control;
struct gdb_server;
struct manage;
struct perf_map;
struct registration;
struct restore;
struct snapshot;

struct machine {
    struct run_options o; /* what was asked for; owned */
    struct linux_host *lh;
    const struct engine_ops *engine;
    struct engine_caps caps;
    struct machine_config cfg; /* with the back ends; disk[i] and net[i] are o.disk[i], o.net[i] */
    struct blob module_file[OPT_MAX_MODULES];
    struct boot_disk boot;                            /* with --boot disk */
    struct char_backend *stream[MACHINE_MAX_STREAMS]; /* to close */
    u32 stream_count;
    struct machine_console console[CONSOLES_MAX]; /* those of the streams that have a hub */
    u32 console_count;
    struct char_backend *serial_limit; /* in front of a stream; NULL: none */
    struct pc *pc;                     /* NULL: not created */
    struct gdb_server *gdb;
    struct registration *reg; /* NULL: no name, there is no runtime directory (registry.h) */
    struct control *control;  /* its control socket: control_add; NULL likewise */
    struct manage *manage;
    struct restore *restore;   /* a machine from a snapshot (snapshot_open); NULL: a fresh one */
    struct snapshot *snapshot; /* what snapshot_save knows of earlier ones */
    struct perf_map *perf_map;
    struct agent_time *agent_time; /* of a restored machine that has gone on; or NULL */
    /* Optional: may put something in front of a card's back end (NULL: it has none), which it then
     * owns. */
    int (*wrap_net)(void *ctx, u32 i, struct net_backend **be, struct err *err);
    void *wrap_ctx;
    char **argv;         /* the command, for `sosia ls`; NULL: not told */
    u64 main_ns;         /* host clock when the command began; the caller fills it */
    u64 started_ns;      /* and when the vCPUs were let go */
    double ready_ms;     /* between the two */
    double ready_cpu_ms; /* processor time of the process up to then */
};

/* Builds what m->o describes on m->lh. 0, or a negative code with err filled; machine_destroy
 * cleans up in both cases. */
int machine_create(struct machine *m, struct err *err);
/* Lets the vCPUs go; when the machine ends on_stop is called on a vCPU's thread. They begin parked
 * when vm_pause was called before. */
int machine_start(struct machine *m, void (*on_stop)(void *ctx), void *ctx, struct err *err);
/* Stops it when it runs, closes the back ends, frees the options. Not the host. */
void machine_destroy(struct machine *m);

/* The guest of a restored machine goes on: it is told the time. */
void machine_goes_on(struct machine *m);

/* Asks the machine to end, for a person's reason; does nothing when there is none. */
void machine_stop(struct machine *m, const char *why);

/* engine_switch.c: the running machine goes on under another engine (not ENGINE_AUTO). When that is
 * not possible it goes on as it was, and err says why. */
int machine_switch_engine(struct machine *m, enum engine_choice choice, struct err *err);

/* run.c: a process that is one machine until that ends. options fills m->o, and m->restore for one
 * from a snapshot: 0, 1 when only help was asked for, or a negative code. Returns the exit status.
 */
typedef int (*machine_options_fn)(struct machine *m, int argc, char **argv, struct err *err);
int run_to_end(machine_options_fn options, int argc, char **argv);

/* machine_report.c: figures of the run on standard error, for benchmarks and the curious. */
void machine_print_stats(struct machine *m);

#endif
