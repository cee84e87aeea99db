/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia run`: options to a machine, the machine to its end, its end to an exit status. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "cmd/boot_disk.h"
#include "cmd/cmd.h"
#include "cmd/gdb_server.h"
#include "cmd/perf_map.h"
#include "cmd/stats.h"
#include "core/board/pc.h"

enum { MAX_STREAMS = 4 };

struct run {
    struct run_options o;
    struct linux_host *lh;
    const struct engine_ops *engine;
    struct engine_caps caps;
    struct machine_config cfg;
    struct blob module_file[OPT_MAX_MODULES];
    struct boot_disk boot;                    /* with --boot disk */
    struct char_backend *stream[MAX_STREAMS]; /* to close */
    u32 stream_count;
    struct pc *pc;
    struct gdb_server *gdb;
    struct stats_server *stats;
    struct perf_map *perf_map;
    int signal_fd;
    u64 main_ns;     /* host clock when the command began, */
    u64 started_ns;  /* and when the vCPUs were let go */
    double ready_ms; /* between the two */
};

/* --- endings: the user's key, a signal, the guest --------------------------------------------- */

static void on_leave(void *ctx) {
    struct run *r = ctx;
    if (r->pc) {
        vm_stop(pc_vm(r->pc), STOP_USER, EXIT_GUEST_OFF, "left with Ctrl-A x");
    }
}

static void on_signal(void *ctx) {
    struct run *r = ctx;
    struct signalfd_siginfo info;
    if (read(r->signal_fd, &info, sizeof(info)) == sizeof(info) && r->pc) {
        vm_stop(pc_vm(r->pc), STOP_USER, EXIT_GUEST_OFF, "stopped by a signal");
    }
}

static void on_stop(void *ctx) {
    linux_host_quit(((struct run *)ctx)->lh);
}

static int signals_watch(struct run *r, struct err *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (r->signal_fd < 0 || linux_fd_watch(r->lh, r->signal_fd, on_signal, r)) {
        return ERR_SET(err, ERR_IO, "cannot watch signals: %s", strerror(errno));
    }
    return 0;
}

/* --- back ends -------------------------------------------------------------------------------- */

static int stream_open(struct run *r, const char *what, const char *where,
                       struct char_backend **out, struct err *err) {
    char name[64] = "";
    int rc = 0;
    *out = NULL;
    if (!strcmp(where, "stdio")) {
        rc = con_stdio_open(r->lh, on_leave, r, out, err);
    } else if (!strcmp(where, "pty")) {
        rc = con_pty_open(r->lh, name, sizeof(name), out, err);
        if (!rc) {
            complain("%s is at %s", what, name);
        }
    } else if (!strncmp(where, "file=", 5)) {
        rc = con_file_open(r->lh, where + 5, out, err);
    }
    if (*out) {
        r->stream[r->stream_count++] = *out;
    }
    return rc;
}

/* on-full=pause: the machine stands still until the host has room again. */
static void on_disk_full(void *ctx, bool full) {
    struct run *r = ctx;
    complain(full ? "the host's disk is full: the machine is paused until there is room"
                  : "the host's disk has room again: the machine goes on");
    if (r->pc && full) {
        vm_pause_begin(pc_vm(r->pc));
    } else if (r->pc) {
        vm_resume(pc_vm(r->pc));
    }
}

static int disks_open(struct run *r, struct err *err) {
    for (u32 i = 0; i < r->o.disk_count; i++) {
        struct disk_config *d = &r->cfg.disk[i];
        const struct disk_option *o = &r->o.disk[i];
        int rc = disk_open(r->lh, o, on_disk_full, r, &d->backend, err);
        if (rc) {
            return rc;
        }
        d->readonly = o->open.readonly;
        d->queues = o->queues ? o->queues : MIN(r->o.cpus, 8u);
        memcpy(d->serial, o->serial, sizeof(d->serial));
        r->cfg.disk_count++;
    }
    return 0;
}

/* Which machine this is, for addresses that stay the same: that with this disk, or this kernel. */
static int nets_open(struct run *r, struct err *err) {
    const char *file = r->o.disk_count ? r->o.disk[0].open.path : r->o.kernel;
    char *machine = realpath(file, NULL);
    int rc = 0;
    for (u32 i = 0; i < r->o.net_count && !rc; i++) {
        rc = net_open(r->lh, &r->o.net[i], machine ? machine : file, i, &r->cfg.net[i], err);
        r->cfg.net_count += rc ? 0 : 1;
    }
    free(machine);
    return rc;
}

static int streams_open(struct run *r, struct err *err) {
    int rc = stream_open(r, "the serial console", r->o.console, &r->cfg.serial[0], err);
    rc = rc ? rc : stream_open(r, "the virtio console", r->o.virtio_console, &r->cfg.console, err);
    return rc ? rc : stream_open(r, "the debug port", r->o.debugcon, &r->cfg.debug, err);
}

/* --- files ------------------------------------------------------------------------------------ */

/* "FILE ARGUMENTS": the command line of a module is the whole string, as boot loaders pass it. */
static int module_map(struct run *r, u32 i, struct err *err) {
    const char *text = r->o.module[i];
    size_t len = strcspn(text, " ");
    char path[4096];
    if (len >= sizeof(path)) {
        return ERR_SET(err, ERR_INVAL, "--module: name too long");
    }
    memcpy(path, text, len);
    path[len] = 0;
    const char *kept = run_options_keep(&r->o, path);
    if (!kept) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = file_map("module", kept, &r->module_file[i], err);
    if (!rc) {
        r->cfg.module[i] = (struct module_config){.file = r->module_file[i], .cmdline = text};
        r->cfg.module_count = i + 1;
    }
    return rc;
}

static int boot_map(struct run *r, struct err *err) {
    int rc = boot_disk_load(linux_host_host(r->lh), &r->o.disk[0].open, &r->boot, err);
    if (!rc) {
        r->cfg.kernel = r->boot.kernel;
        r->cfg.initrd = r->boot.initrd;
        r->cfg.cmdline = r->o.cmdline ? r->o.cmdline : r->boot.cmdline;
    }
    return rc;
}

static int files_map(struct run *r, struct err *err) {
    if (r->o.boot_disk) {
        return boot_map(r, err);
    }
    int rc = file_map("kernel", r->o.kernel, &r->cfg.kernel, err);
    if (!rc && r->o.initrd) {
        rc = file_map("initrd", r->o.initrd, &r->cfg.initrd, err);
    }
    for (u32 i = 0; !rc && i < r->o.module_count; i++) {
        rc = module_map(r, i, err);
    }
    return rc;
}

static void files_unmap(struct run *r) {
    file_unmap(&r->cfg.kernel);
    file_unmap(&r->cfg.initrd);
    for (u32 i = 0; i < r->o.module_count; i++) {
        file_unmap(&r->module_file[i]);
    }
}

/* --- the machine ------------------------------------------------------------------------------ */

static int memory_check(const struct run_options *o, struct err *err) {
    u64 host = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
    if (o->memory > host) {
        return ERR_SET(err, ERR_INVAL, "memory of %llu MiB: this host has %llu MiB",
                       (unsigned long long)(o->memory / MIB), (unsigned long long)(host / MIB));
    }
    return 0;
}

static void config_fill(struct run *r) {
    struct machine_config *c = &r->cfg;
    const struct run_options *o = &r->o;
    c->vcpus = o->cpus;
    c->memory = o->memory;
    c->cmdline = o->cmdline ? o->cmdline : "console=ttyS0";
    c->rng = o->rng;
    c->test_devices = o->test_devices;
    c->transport = o->mmio ? TRANSPORT_MMIO : TRANSPORT_PCI;
    c->mmio_cmdline = o->mmio_cmdline;
    c->trace = o->trace;
}

static int machine_create(struct run *r, struct err *err) {
    config_fill(r);
    int rc = memory_check(&r->o, err);
    rc = rc ? rc : files_map(r, err);
    rc = rc ? rc : disks_open(r, err);
    if (rc) {
        return rc;
    }
    r->engine = engine_select(linux_host_host(r->lh), r->o.engine, r->o.quiet, &r->caps, err);
    if (!r->engine) {
        return err->code;
    }
    r->cfg.caps = &r->caps;
    r->cfg.translator = r->o.translator;
    rc = r->o.perf_map ? perf_map_create(r->o.perf_map, &r->perf_map, err) : 0;
    if (r->perf_map) {
        perf_map_connect(r->perf_map, &r->cfg.translator);
    }
    rc = rc ? rc : nets_open(r, err);
    rc = rc ? rc : streams_open(r, err);
    rc = rc ? rc : pc_create(linux_host_host(r->lh), r->engine, &r->cfg, &r->pc, err);
    files_unmap(r);
    return rc;
}

/* Resident memory that is neither guest RAM (shared memory) nor shared with other processes' files.
 */
static u64 own_memory_kib(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1) {
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return kib;
}

static int machine_run(struct run *r, struct err *err) {
    struct vm *vm = pc_vm(r->pc);
    vm->on_stop = on_stop;
    vm->on_stop_ctx = r;
    if (r->o.gdb) {
        int rc = gdb_server_create(r->lh, vm, r->o.gdb, r->o.gdb_wait, &r->gdb, err);
        if (rc) {
            return rc;
        }
    }
    r->stats = stats_server_create(r->lh, vm, r->engine);
    r->started_ns = host_now(linux_host_host(r->lh));
    r->ready_ms = (double)(r->started_ns - r->main_ns) / 1e6;
    int rc = vm_start(vm, err);
    if (!rc) {
        linux_host_run(r->lh);
    }
    return rc;
}

/* From here on a signal ends the process: a back end that hangs must not keep it for ever. */
static void signals_unwatch(struct run *r) {
    sigset_t set;
    if (r->signal_fd >= 0) {
        linux_fd_unwatch(r->lh, r->signal_fd);
        close(r->signal_fd);
        r->signal_fd = -1;
        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
}

static void run_cleanup(struct run *r) {
    signals_unwatch(r);
    gdb_server_destroy(r->gdb);
    stats_server_destroy(r->stats);
    pc_destroy(r->pc);
    perf_map_destroy(r->perf_map);
    for (u32 i = 0; i < r->cfg.disk_count; i++) {
        r->cfg.disk[i].backend->ops->close(r->cfg.disk[i].backend);
    }
    for (u32 i = 0; i < r->cfg.net_count; i++) {
        if (r->cfg.net[i].backend) {
            r->cfg.net[i].backend->ops->close(r->cfg.net[i].backend);
        }
    }
    for (u32 i = 0; i < r->stream_count; i++) {
        r->stream[i]->ops->close(r->stream[i]);
    }
    files_unmap(r);
    linux_host_destroy(r->lh);
    run_options_free(&r->o);
}

static void print_nets(struct run *r) {
    struct virtio_net_stats s;
    for (u32 i = 0; pc_net_stats(r->pc, i, &s); i++) {
        complain("stats: net%u received %llu frames, %llu bytes, %llu dropped, %llu filtered, "
                 "%llu waits, %llu limited; sent %llu frames, %llu bytes, %llu dropped, %llu "
                 "waits, %llu limited",
                 i, (unsigned long long)s.rx_frames, (unsigned long long)s.rx_bytes,
                 (unsigned long long)s.rx_dropped, (unsigned long long)s.rx_filtered,
                 (unsigned long long)s.rx_waits, (unsigned long long)s.rx_limited,
                 (unsigned long long)s.tx_frames, (unsigned long long)s.tx_bytes,
                 (unsigned long long)s.tx_dropped, (unsigned long long)s.tx_waits,
                 (unsigned long long)s.tx_limited);
    }
}

/* Figures of the run, for benchmarks and the curious. */
static void print_stats(struct run *r) {
    static char text[STATS_TEXT_MAX];
    struct vm *vm = pc_vm(r->pc);
    struct engine_stats sum = {0};
    double seconds = (double)(host_now(linux_host_host(r->lh)) - r->started_ns) / 1e9;
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct engine_stats s = {0};
        r->engine->stats(vm->engine_vcpus[i], &s);
        sum.instructions += s.instructions;
        sum.exits += s.exits;
        sum.interrupts += s.interrupts;
        sum.exceptions += s.exceptions;
    }
    complain(
        "stats: %.3f s, %llu instructions (%.1f M/s), %llu exits, %llu interrupts, %llu exceptions",
        seconds, (unsigned long long)sum.instructions, (double)sum.instructions / seconds / 1e6,
        (unsigned long long)sum.exits, (unsigned long long)sum.interrupts,
        (unsigned long long)sum.exceptions);
    print_nets(r);
    stats_text(vm, r->engine, text, sizeof(text));
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) && *line;) {
        complain("stats: %s", line);
    }
    complain("stats: ready to run %.3f ms after the start of the command", r->ready_ms);
    complain("stats: %llu KiB of memory beside guest RAM", (unsigned long long)own_memory_kib());
}

/* What lock-step mode has seen; returns the exit status. */
static int report_verify(struct run *r, int status) {
    struct vm *vm = pc_vm(r->pc);
    struct engine_stats s = {0};
    r->engine->stats(vm->engine_vcpus[0], &s);
    complain("verify: %llu windows, %llu instructions compared, %llu unclear, %llu differences",
             (unsigned long long)s.verify.windows, (unsigned long long)s.verify.instructions,
             (unsigned long long)s.verify.unclear, (unsigned long long)s.verify.divergences);
    return s.verify.divergences ? EXIT_DIVERGED : status;
}

/* What the person is told when the machine has ended; an ordinary end needs no words. */
static int report_end(struct run *r, const struct vm_stop *stop) {
    if (stop->reason == STOP_TRIPLE_FAULT || stop->reason == STOP_ERROR) {
        complain("%s", stop->text);
    } else if (stop->reason == STOP_RESET && !r->o.quiet) {
        complain("the guest reset the machine");
    }
    return stop->code;
}

static int error_status(int rc) {
    return rc == -ERR_NOMEM || rc == -ERR_IO ? EXIT_FAILURE_OTHER : EXIT_BAD_INPUT;
}

int cmd_run(int argc, char **argv) {
    struct err err = {0};
    struct run *r = calloc(1, sizeof(*r));
    if (!r) {
        complain("out of memory");
        return EXIT_FAILURE_OTHER;
    }
    r->signal_fd = -1;
    int rc = run_options_parse(&r->o, argc, argv, &err);
    if (rc == 1) {
        run_options_free(&r->o);
        free(r);
        return 0;
    }
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    r->main_ns = (u64)begin.tv_sec * NSEC_PER_SEC + (u64)begin.tv_nsec;
    rc = rc ? rc : linux_host_create(&r->lh, &err);
    if (!rc) {
        linux_host_log_level(r->lh, r->o.trace ? LOG_DEBUG : LOG_WARN);
    }
    rc = rc ? rc : signals_watch(r, &err);
    rc = rc ? rc : machine_create(r, &err);
    rc = rc ? rc : machine_run(r, &err);
    struct vm_stop stop = {.code = error_status(rc)};
    if (!rc) {
        stop = vm_stop_get(pc_vm(r->pc));
        gdb_server_exited(r->gdb, stop.code);
        if (r->o.stats) {
            print_stats(r);
        }
        if (r->o.translator.verify) {
            stop.code = report_verify(r, stop.code);
        }
    }
    bool quiet = r->o.quiet;
    run_cleanup(r);
    if (rc) {
        complain("%s", err.text);
    } else {
        r->o.quiet = quiet;
        report_end(r, &stop);
    }
    free(r);
    return stop.code;
}
