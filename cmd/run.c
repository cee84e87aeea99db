/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia run`: options to a machine, the machine to its end, its end to an exit status. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/detach.h"
#include "cmd/end_signals.h"
#include "cmd/gdb_server.h"
#include "cmd/machine.h"
#include "cmd/registry.h"

struct run {
    struct machine m;
    int signal_fd;
    int word; /* with --detach: where to say that the machine runs */
};

/* --- endings: the user's key, a signal, the guest --------------------------------------------- */

static void on_signal(void *ctx) {
    struct run *r = ctx;
    if (end_signals_take(r->signal_fd)) {
        machine_stop(&r->m, "stopped by a signal");
    }
}

static void on_stop(void *ctx) {
    linux_host_quit(((struct run *)ctx)->m.lh);
}

static int signals_watch(struct run *r, struct err *err) {
    r->signal_fd = end_signals_watch(r->m.lh, on_signal, r);
    return r->signal_fd < 0 ? ERR_SET(err, ERR_IO, "cannot watch signals: %s", strerror(errno)) : 0;
}

/* --- reports ---------------------------------------------------------------------------------- */

/* What lock-step mode has seen; returns the exit status. */
static int report_verify(struct machine *m, int status) {
    struct vm *vm = pc_vm(m->pc);
    struct engine_stats s = {0};
    m->engine->stats(vm->engine_vcpus[0], &s);
    complain("verify: %llu windows, %llu instructions compared, %llu unclear, %llu differences",
             (unsigned long long)s.verify.windows, (unsigned long long)s.verify.instructions,
             (unsigned long long)s.verify.unclear, (unsigned long long)s.verify.divergences);
    return s.verify.divergences ? EXIT_DIVERGED : status;
}

/* What the person is told when the machine has ended; an ordinary end needs no words. */
static void report_end(const struct vm_stop *stop, bool quiet) {
    if (stop->reason == STOP_TRIPLE_FAULT || stop->reason == STOP_ERROR) {
        complain("%s", stop->text);
    } else if (stop->reason == STOP_RESET && !quiet) {
        complain("the guest reset the machine");
    }
}

static int error_status(int rc) {
    return rc == -ERR_NOMEM || rc == -ERR_IO ? EXIT_FAILURE_OTHER : EXIT_BAD_INPUT;
}

/* --- the command ------------------------------------------------------------------------------ */

static int log_begin(struct machine *m, struct err *err) {
    const struct run_options *o = &m->o;
    enum log_level usual = o->trace ? LOG_DEBUG : o->log ? LOG_INFO : LOG_WARN;
    linux_host_log_level(m->lh, o->log_level < 0 ? usual : (enum log_level)o->log_level);
    return o->log ? linux_log_open(&o->log_options, err) : 0;
}

static int run_machine(struct run *r, struct err *err) {
    int rc = linux_host_create(&r->m.lh, err);
    if (rc) {
        return rc;
    }
    rc = log_begin(&r->m, err);
    rc = rc ? rc : signals_watch(r, err);
    rc = rc ? rc : machine_create(&r->m, err);
    rc = rc ? rc : machine_start(&r->m, on_stop, r, err);
    if (!rc && r->m.o.detach) {
        detach_done(r->word, registry_name(r->m.reg));
    }
    if (!rc) {
        linux_host_run(r->m.lh);
    }
    return rc;
}

static void run_cleanup(struct run *r) {
    if (r->m.lh) {
        end_signals_unwatch(r->m.lh, &r->signal_fd);
    }
    machine_destroy(&r->m);
    linux_host_destroy(r->m.lh);
    linux_log_close();
}

static struct vm_stop run_result(struct run *r) {
    struct vm_stop stop = vm_stop_get(pc_vm(r->m.pc));
    gdb_server_exited(r->m.gdb, stop.code);
    if (r->m.o.stats) {
        machine_print_stats(&r->m);
    }
    if (r->m.o.translator.verify) {
        stop.code = report_verify(&r->m, stop.code);
    }
    return stop;
}

int run_to_end(machine_options_fn options, int argc, char **argv) {
    struct err err = {0};
    struct run *r = calloc(1, sizeof(*r));
    if (!r) {
        complain("out of memory");
        return EXIT_FAILURE_OTHER;
    }
    r->signal_fd = -1;
    r->m.argv = argv;
    r->m.main_ns = linux_now_ns();
    int rc = options(&r->m, argc, argv, &err);
    if (rc == 1) {
        run_options_free(&r->m.o);
        free(r);
        return 0;
    }
    int status = 0;
    rc = rc || !r->m.o.detach ? rc : detach_begin(&r->word, &status, &err);
    if (rc == 1) {
        run_options_free(&r->m.o);
        free(r);
        return status;
    }
    rc = rc ? rc : run_machine(r, &err);
    struct vm_stop stop = {.code = error_status(rc)};
    if (!rc) {
        stop = run_result(r);
    }
    bool quiet = r->m.o.quiet;
    run_cleanup(r);
    if (rc) {
        complain("%s", err.text);
    } else {
        report_end(&stop, quiet);
    }
    free(r);
    return stop.code;
}

static int run_options(struct machine *m, int argc, char **argv, struct err *err) {
    return run_options_parse(&m->o, argc, argv, err);
}

int cmd_run(int argc, char **argv) {
    return run_to_end(run_options, argc, argv);
}
