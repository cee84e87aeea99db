/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the sosia command share: exit statuses, options, files, engines. */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include "cmd/devices.h"
#include "cmd/disk.h"
#include "cmd/net.h"
#include "cmd/share.h"
#include "core/base/err.h"
#include "core/board/config.h"
#include "core/boot/blob.h"
#include "core/cpu/cpuid.h"
#include "core/if/engine.h"
#include "hosts/linux/linux.h"

#define SOSIA_VERSION "0.1.0"

/* Exit statuses of the command; with --test-devices also what isa-debug-exit gives. */
enum {
    EXIT_GUEST_OFF = 0,
    EXIT_FAILURE_OTHER = 1,
    EXIT_BAD_INPUT = 2,
    EXIT_GUEST_CRASH = 3,
    EXIT_DIVERGED = 4
};

enum {
    OPT_MAX_DISKS = 16,
    OPT_MAX_MODULES = 32,
    OPT_MAX_NETS = 8,
    OPT_MAX_SHARES = 8,
    OPT_STRINGS = 128
};

enum engine_choice { ENGINE_AUTO, ENGINE_KVM, ENGINE_SOFT };

/* What a person asked for, from the command line or a configuration file. Strings are owned by
 * `strings` or by argv. */
struct run_options {
    enum engine_choice engine;
    u32 cpus;
    u64 memory; /* bytes */
    const char *kernel, *initrd, *cmdline;
    const char *console, *virtio_console, *debugcon; /* places: consoles.h */
    const char *serial[MACHINE_SERIAL_PORTS]; /* COM2..COM4 from [1] on; NULL: no such port */
    bool detach;                              /* go into the background */
    bool log;                                 /* linux_log_open with this: */
    struct log_options log_options;
    int log_level; /* enum log_level, -1: not said */
    const char *gdb;
    bool gdb_wait;
    const char *config;
    struct token_bucket_config serial_limit; /* of COM1's output in bytes; all zero: none */
    struct cpu_template cpu;                 /* all zero: the processor is not narrowed */
    const char *api;         /* the machine as the API describes it, for snapshots; or NULL */
    const char *thread_name; /* of vCPUs; NULL: "vcpu" */
    const char *name;        /* of the machine; NULL: derived from its disk or kernel, */
    const char *name_like;   /* or, when not NULL, this one or with a number behind */
    struct disk_option disk[OPT_MAX_DISKS];
    u32 disk_count;
    struct net_option net[OPT_MAX_NETS];
    u32 net_count;
    struct rate_limit rng_limit; /* all zero: none */
    struct balloon_config balloon;
    struct share_option share[OPT_MAX_SHARES];
    u32 share_count;
    struct vsock_option vsock;
    struct cloud_init_option cloud_init;
    const char *module[OPT_MAX_MODULES]; /* "FILE[ ARGUMENTS]" */
    u32 module_count;
    struct engine_translator translator;
    bool boot_disk;       /* kernel and initial RAM disk are in the first disk */
    const char *perf_map; /* file of guest symbols, "" for none; NULL: no map */
    bool fence;           /* give rights away before the guest runs: hosts/linux/fence.h */
    bool paused;          /* begin paused, as `sosia pause` does */
    bool portable;        /* only what kvm has on this host, too: the machine can go there */
    bool merge_pages;     /* guest RAM is offered to the kernel's page merging */
    bool mmio, mmio_cmdline, rng, test_devices, quiet, stats;
    u32 trace;
    char *strings[OPT_STRINGS]; /* to free */
    u32 string_count;
};

/* run_options.c. Returns 0, 1 when only help was asked for (and printed), or -ERR_INVAL. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct err *err);
void run_options_free(struct run_options *o);
/* Keeps a copy of text as long as the options live; NULL when memory or room is gone. */
const char *run_options_keep(struct run_options *o, const char *text);
/* Keeps text in the place of *field, whose old text, when it was kept, is freed. 0 or -ERR_NOMEM.
 */
int run_options_replace(struct run_options *o, const char **field, const char *text);
/* "512M", "2G", "1048576K"; a plain number is MiB, as in QEMU. 0 or -ERR_INVAL. */
int parse_size(const char *text, u64 *bytes);
/* log_option.c */
int log_option_parse(struct run_options *o, const char *arg, struct err *err);

/* config_file.c: a JSON file in Firecracker's configuration format on top of the options. */
int config_file_load(struct run_options *o, const char *path, struct err *err);
int config_text_load(struct run_options *o, const char *name, const char *text, size_t len,
                     struct err *err);

/* file.c: maps a whole file read-only. what: "kernel", for messages. */
int file_map(const char *what, const char *path, struct blob *out, struct err *err);
void file_unmap(struct blob *blob);

/* engine_select.c: the engine to use, or NULL with err filled; says what auto chose on stderr.
 * caps gets what its probe found. */
const struct engine_ops *engine_select(struct host *host, enum engine_choice choice, bool quiet,
                                       struct engine_caps *caps, struct err *err);

/* One line on standard error: "sosia: TEXT". */
void complain(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* The verbs. Each returns the exit status of the process. */
int cmd_run(int argc, char **argv);
int cmd_jail(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_api(int argc, char **argv);
int cmd_cpu(int argc, char **argv);
int cmd_switch(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_sensitivity(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_kill(int argc, char **argv);
int cmd_balloon(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_engine(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_version(int argc, char **argv);

#endif
