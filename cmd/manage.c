/* SPDX-License-Identifier: Apache-2.0 */
/* The requests that every machine serves; see manage.h. */
#include "cmd/manage.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/control.h"
#include "cmd/machine.h"
#include "cmd/metrics.h"
#include "cmd/registry.h"
#include "cmd/stats.h"
#include "hosts/linux/feed.h"

enum { MAX_WAITING = CONTROL_MAX_CLIENTS, COMMAND_MAX = 4096, LOG_RING = 32 * 1024 };

struct manage {
    bool paused;      /* by request */
    struct feed *log; /* the last lines of the log */
    int status_fd;    /* /proc/self/status; -1: none */
    u64 start_wall;
    struct control_call *waiting[MAX_WAITING];
    u32 waiting_count;
    struct vm_stop stop; /* how it ended */
};

/* A line for the log: what became of the machine. */
PRINTF_LIKE(1, 2) static void note(const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    linux_log_note(LOG_INFO, text);
}

/* --- what machine this is --------------------------------------------------------------------- */

/* The command line; bytes that JSON cannot take become '?'. */
static json_t *command_json(char **argv) {
    char text[COMMAND_MAX];
    size_t n = 0;
    for (; argv && *argv; argv++) {
        for (const char *s = n ? " " : ""; s; s = s == *argv ? NULL : *argv) {
            size_t len = MIN(strlen(s), sizeof(text) - 1 - n);
            memcpy(text + n, s, len);
            n += len;
        }
    }
    text[n] = 0;
    json_t *o = json_string(text);
    for (size_t i = 0; !o && i < n; i++) {
        if ((u8)text[i] >= 0x80) {
            text[i] = '?';
        }
    }
    return o ? o : json_string(text);
}

static int handle_info(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    json_t *o = call->reply;
    u64 up = host_now(linux_host_host(m->lh)) - m->started_ns;
    (void)err;
    json_object_set_new(o, "name", json_string(registry_name(m->reg)));
    json_object_set_new(o, "pid", json_integer(getpid()));
    json_object_set_new(o, "version", json_string(SOSIA_VERSION));
    json_object_set_new(o, "state", json_string(metrics_state(m)));
    json_object_set_new(o, "engine", json_string(m->engine->name));
    json_object_set_new(o, "vcpus", json_integer(m->cfg.vcpus));
    json_object_set_new(o, "memory", json_integer((json_int_t)m->cfg.memory));
    json_object_set_new(o, "uptime", json_real((double)up / 1e9));
    json_object_set_new(o, "started", json_integer((json_int_t)(m->manage->start_wall)));
    json_object_set_new(o, "command", command_json(m->argv));
    return 0;
}

/* --- pause, resume, the ends ------------------------------------------------------------------ */

void manage_pause(struct machine *m) {
    if (!m->manage->paused) {
        m->manage->paused = true;
        note("paused by request");
        vm_pause(pc_vm(m->pc));
    }
}

void manage_resume(struct machine *m) {
    if (m->manage->paused) {
        m->manage->paused = false;
        note("resumed by request");
        vm_resume(pc_vm(m->pc));
        machine_goes_on(m);
    }
}

bool manage_paused(const struct machine *m) {
    return m->manage && m->manage->paused;
}

static int handle_pause(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    (void)err;
    manage_pause(m);
    json_object_set_new(call->reply, "state", json_string(metrics_state(m)));
    return 0;
}

static int handle_resume(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    (void)err;
    manage_resume(m);
    json_object_set_new(call->reply, "state", json_string(metrics_state(m)));
    return 0;
}

static int handle_power_button(void *ctx, struct control_call *call, struct err *err) {
    (void)call;
    (void)err;
    pc_power_button(((struct machine *)ctx)->pc);
    return 0;
}

static int handle_ctrl_alt_del(void *ctx, struct control_call *call, struct err *err) {
    (void)call;
    (void)err;
    pc_ctrl_alt_del(((struct machine *)ctx)->pc);
    return 0;
}

static int handle_kill(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    (void)call;
    (void)err;
    vm_stop(pc_vm(m->pc), STOP_USER, EXIT_GUEST_OFF, "stopped by request");
    return 0;
}

/* --- waiting for the end ---------------------------------------------------------------------- */

static void wait_gone(struct control_call *call) {
    struct manage *g = call->owner;
    for (u32 i = 0; i < g->waiting_count; i++) {
        if (g->waiting[i] == call) {
            g->waiting[i] = g->waiting[--g->waiting_count];
            control_done(call, -ERR_STATE, NULL);
            return;
        }
    }
}

static int handle_wait(void *ctx, struct control_call *call, struct err *err) {
    struct manage *g = ((struct machine *)ctx)->manage;
    if (g->waiting_count == MAX_WAITING) {
        return ERR_SET(err, ERR_NOSPACE, "too many wait for this machine");
    }
    call->owner = g;
    call->gone = wait_gone;
    g->waiting[g->waiting_count++] = call;
    return CONTROL_LATER;
}

/* --- consoles and log ------------------------------------------------------------------------- */

/* Gives descriptor i of the call to the feed. */
static int attach_fd(struct control_call *call, u32 i, struct feed *f, u32 flags, struct err *err) {
    if (i >= call->fd_count) {
        return ERR_SET(err, ERR_INVAL, "a socket must come with this request");
    }
    int rc = feed_attach(f, call->fd[i], flags, err);
    if (!rc) {
        call->fd[i] = -1;
    }
    return rc;
}

static int console_hub(struct machine *m, struct control_call *call, struct con_hub **out,
                       struct err *err) {
    const char *name = json_string_value(json_object_get(call->request, "port"));
    *out = console_find(m, name);
    return *out ? 0
                : ERR_SET(err, ERR_NOTFOUND, "the machine has no console '%.20s'",
                          name ? name : "serial0");
}

/* {"request": "console", "port": "serial0", "replay": true} and one end of a socket pair */
static int handle_console(void *ctx, struct control_call *call, struct err *err) {
    struct con_hub *hub;
    bool replay = !json_is_false(json_object_get(call->request, "replay"));
    int rc = console_hub(ctx, call, &hub, err);
    return rc ? rc
              : attach_fd(call, 0, con_hub_feed(hub),
                          FEED_FOLLOW | FEED_INPUT | (replay ? FEED_REPLAY : 0), err);
}

/* {"request": "logs", "follow": false, "port": "serial0"} and two sockets: one for the console's
 * text, one for the log. */
static int handle_logs(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    struct con_hub *hub;
    u32 flags =
        FEED_REPLAY | (json_is_true(json_object_get(call->request, "follow")) ? FEED_FOLLOW : 0);
    int rc = console_hub(m, call, &hub, err);
    rc = rc ? rc : attach_fd(call, 0, con_hub_feed(hub), flags, err);
    return rc ? rc : attach_fd(call, 1, m->manage->log, flags, err);
}

static void on_log_line(void *ctx, const char *line, size_t len) {
    feed_put(ctx, line, len);
}

/* --- counters --------------------------------------------------------------------------------- */

static int stats_text_reply(struct machine *m, json_t *reply) {
    char *text = malloc(STATS_TEXT_MAX);
    if (text) {
        stats_text(pc_vm(m->pc), m->engine, text, STATS_TEXT_MAX);
        json_object_set_new(reply, "text", json_string(text));
    }
    free(text);
    return text ? 0 : -ERR_NOMEM;
}

/* {"request": "stats", "format": "text"|"json"|"prometheus"} */
static int handle_stats(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    const char *format = json_string_value(json_object_get(call->request, "format"));
    int rc = 0;
    if (!format || !strcmp(format, "text")) {
        rc = stats_text_reply(m, call->reply);
    } else if (!strcmp(format, "json")) {
        json_object_set_new(call->reply, "stats", metrics_json(m));
    } else if (!strcmp(format, "prometheus")) {
        json_t *metrics = metrics_json(m);
        char *text = metrics_prometheus(metrics);
        json_decref(metrics);
        rc = text ? json_object_set_new(call->reply, "text", json_string(text)) : -ERR_NOMEM;
        free(text);
    } else {
        return ERR_SET(err, ERR_INVAL, "format '%.20s': not text, json or prometheus", format);
    }
    return rc ? ERR_SET(err, ERR_NOMEM, "out of memory") : 0;
}

/* --- memory balloon --------------------------------------------------------------------------- */

/* {"request": "balloon"} or {"request": "balloon", "mib": 64}, the new target */
static int handle_balloon(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    struct balloon_stats s;
    const json_t *mib = json_object_get(call->request, "mib");
    json_int_t want = json_integer_value(mib);
    if (mib && (!json_is_integer(mib) || want < 0 || want > UINT32_MAX)) {
        return ERR_SET(err, ERR_INVAL, "mib: not a number of MiB");
    }
    int rc = mib ? pc_balloon_set_target(m->pc, (u32)want) : 0;
    if (rc == -ERR_RANGE) {
        return ERR_SET(err, ERR_RANGE, "a balloon of %lld MiB: the machine has %llu MiB",
                       (long long)want, (unsigned long long)(m->cfg.memory / MIB));
    }
    rc = rc ? rc : pc_balloon_stats(m->pc, &s);
    if (rc) {
        return ERR_SET(err, (enum err_code) - rc,
                       "the machine has no balloon; start it with --balloon");
    }
    json_object_set_new(call->reply, "target_mib", json_integer(s.target_mib));
    json_object_set_new(call->reply, "actual_mib", json_integer(s.actual_mib));
    return 0;
}

/* --- sockets of the guest ----------------------------------------------------------------------
 */

/* {"request": "vsock", "port": 512} and one stream socket, which becomes a connection to that port
 * of the guest: "OK NUMBER\n" comes when the guest takes it, the end of it when not. */
static int handle_vsock(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    const json_t *port = json_object_get(call->request, "port");
    json_int_t n = json_integer_value(port);
    if (!m->cfg.vsock.backend) {
        return ERR_SET(err, ERR_STATE,
                       "the machine has no sockets to its guest; start it with --agent or --vsock");
    }
    if (m->manage->paused) {
        return ERR_SET(err, ERR_STATE, "the machine is paused: nobody there can answer");
    }
    if (!json_is_integer(port) || n < 0 || n > UINT32_MAX) {
        return ERR_SET(err, ERR_INVAL, "port: not a number from 0 to 4294967295");
    }
    if (call->fd_count != 1) {
        return ERR_SET(err, ERR_INVAL, "a socket must come with this request");
    }
    int rc = vsock_unix_adopt(m->cfg.vsock.backend, call->fd[0], (u32)n);
    if (rc) {
        return ERR_SET(err, (enum err_code) - rc, "too many connections to the guest");
    }
    call->fd[0] = -1;
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

static const struct control_verb verbs[] = {
    {"info", handle_info},
    {"pause", handle_pause},
    {"resume", handle_resume},
    {"power-button", handle_power_button},
    {"ctrl-alt-del", handle_ctrl_alt_del},
    {"kill", handle_kill},
    {"wait", handle_wait},
    {"console", handle_console},
    {"logs", handle_logs},
    {"stats", handle_stats},
    {"balloon", handle_balloon},
    {"vsock", handle_vsock},
};

static int name_take(struct machine *m, struct err *err) {
    char derived[REGISTRY_NAME_MAX + 1];
    const char *disk = m->o.disk_count ? m->o.disk[0].open.path : NULL;
    struct err own = {0};
    if (m->o.name) {
        return registry_claim(m->o.name, false, &m->reg, err);
    }
    disk = m->o.name_like ? m->o.name_like : disk;
    registry_name_derive(disk ? disk : m->o.kernel ? m->o.kernel : "", derived);
    int rc = registry_claim(derived, true, &m->reg, &own);
    if (rc && m->o.detach) {
        return ERR_SET(err, (enum err_code) - rc, "%s", own.text);
    }
    if (rc && !m->o.quiet) {
        complain("%s; the machine runs without a control socket", own.text);
    }
    return 0;
}

int manage_register(struct machine *m, struct err *err) {
    m->manage = calloc(1, sizeof(*m->manage));
    if (!m->manage) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    m->manage->status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    int rc = feed_create(m->lh, LOG_RING, &m->manage->log, err);
    rc = rc ? rc : name_take(m, err);
    if (!rc && m->o.detach && m->reg) { /* else whoever started it gets its exit status */
        registry_record(m->reg);
    }
    if (!rc) {
        linux_log_listen(on_log_line, m->manage->log);
        linux_log_name(m->reg ? registry_name(m->reg) : "-");
    }
    return rc;
}

int manage_status_fd(const struct machine *m) {
    return m->manage ? m->manage->status_fd : -1;
}

int manage_start(struct machine *m, struct err *err) {
    m->manage->start_wall = (u64)time(NULL);
    int rc = control_create(m->lh, m->reg, &m->control, err);
    rc = rc ? rc : control_add(m->control, verbs, ARRAY_LEN(verbs), m);
    if (!rc) {
        note("started: engine %s, %u vCPUs, %llu MiB", m->engine->name, m->cfg.vcpus,
             (unsigned long long)(m->cfg.memory / MIB));
    }
    return rc;
}

void manage_end(struct machine *m) {
    if (m->manage && m->pc) {
        m->manage->stop = vm_stop_get(pc_vm(m->pc));
        note("ended with status %d: %s", m->manage->stop.code, m->manage->stop.text);
    }
}

static void tell_waiting(struct manage *g) {
    for (u32 i = 0; i < g->waiting_count; i++) {
        json_t *reply = g->waiting[i]->reply;
        json_object_set_new(reply, "status", json_integer(g->stop.code));
        json_object_set_new(reply, "reason", json_string(g->stop.text));
        control_done(g->waiting[i], 0, NULL);
    }
    g->waiting_count = 0;
}

void manage_release(struct machine *m) {
    if (m->manage && m->reg && m->manage->stop.reason != STOP_NONE) {
        registry_ended(m->reg, m->manage->stop.code);
    }
    if (m->reg) {
        registry_leave(m->reg); /* who is told may start another of that name */
    }
    if (m->manage) {
        tell_waiting(m->manage);
    }
    control_destroy(m->control);
    if (m->manage) {
        linux_log_listen(NULL, NULL);
        feed_destroy(m->manage->log);
        if (m->manage->status_fd >= 0) {
            close(m->manage->status_fd);
        }
    }
    free(m->manage);
    registry_release(m->reg);
    m->control = NULL;
    m->manage = NULL;
    m->reg = NULL;
}
