/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sosia api`, also as `firecracker` through a link of that name: Firecracker's command line, a
 * machine that is made by requests or by a configuration file, and Firecracker's exit statuses.
 */
#include "cmd/api.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/api_server.h"
#include "cmd/end_signals.h"
#include "cmd/snap_file.h"

/* src/vmm/src/lib.rs, FcExitCode */
enum { FC_OK = 0, FC_GENERIC = 1, FC_BAD_CONFIG = 152, FC_BAD_ARGUMENTS = 153 };

enum { FLUSH_SECONDS = 60, CONFIG_MAX_BYTES = 4 << 20 };

#define DEFAULT_SOCKET "/run/firecracker.socket"
#define DEFAULT_ID     "anonymous-instance"

struct args {
    const char *socket, *id, *config, *metadata, *metrics_path;
    const char *log_path, *level, *module;
    bool show_level, show_origin, no_api, no_fence, filter, enable_pci, boot_timer, quiet;
    u64 max_payload, mmds_limit, start_us;
};

struct process {
    struct args args;
    struct api api;
    struct linux_host *lh;
    struct api_server *server;
    struct host_timer *flush;
    int signal_fd;
};

enum option_id {
    OPT_API_SOCK = 256,
    OPT_ID,
    OPT_CONFIG_FILE,
    OPT_NO_API,
    OPT_METADATA,
    OPT_SECCOMP_FILTER,
    OPT_NO_SECCOMP,
    OPT_LOG_PATH,
    OPT_LEVEL,
    OPT_MODULE,
    OPT_SHOW_LEVEL,
    OPT_SHOW_ORIGIN,
    OPT_METRICS_PATH,
    OPT_BOOT_TIMER,
    OPT_START_US,
    OPT_START_CPU_US,
    OPT_PARENT_CPU_US,
    OPT_MAX_PAYLOAD,
    OPT_MMDS_LIMIT,
    OPT_ENABLE_PCI,
    OPT_VERSION,
    OPT_SNAPSHOT_VERSION,
    OPT_DESCRIBE,
    OPT_QUIET,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"api-sock", required_argument, NULL, OPT_API_SOCK},
    {"id", required_argument, NULL, OPT_ID},
    {"config-file", required_argument, NULL, OPT_CONFIG_FILE},
    {"no-api", no_argument, NULL, OPT_NO_API},
    {"metadata", required_argument, NULL, OPT_METADATA},
    {"seccomp-filter", required_argument, NULL, OPT_SECCOMP_FILTER},
    {"no-seccomp", no_argument, NULL, OPT_NO_SECCOMP},
    {"log-path", required_argument, NULL, OPT_LOG_PATH},
    {"level", required_argument, NULL, OPT_LEVEL},
    {"module", required_argument, NULL, OPT_MODULE},
    {"show-level", no_argument, NULL, OPT_SHOW_LEVEL},
    {"show-log-origin", no_argument, NULL, OPT_SHOW_ORIGIN},
    {"metrics-path", required_argument, NULL, OPT_METRICS_PATH},
    {"boot-timer", no_argument, NULL, OPT_BOOT_TIMER},
    {"start-time-us", required_argument, NULL, OPT_START_US},
    {"start-time-cpu-us", required_argument, NULL, OPT_START_CPU_US},
    {"parent-cpu-time-us", required_argument, NULL, OPT_PARENT_CPU_US},
    {"http-api-max-payload-size", required_argument, NULL, OPT_MAX_PAYLOAD},
    {"mmds-size-limit", required_argument, NULL, OPT_MMDS_LIMIT},
    {"enable-pci", no_argument, NULL, OPT_ENABLE_PCI},
    {"version", no_argument, NULL, OPT_VERSION},
    {"snapshot-version", no_argument, NULL, OPT_SNAPSHOT_VERSION},
    {"describe-snapshot", required_argument, NULL, OPT_DESCRIBE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static const char help_text[] =
    "usage: sosia api [OPTIONS]\n"
    "       firecracker [OPTIONS]      (a link of that name to sosia)\n\n"
    "Serves Firecracker's API on a Unix socket for one machine; see docs/api.md.\n\n"
    "  --api-sock PATH          the socket (default: " DEFAULT_SOCKET ")\n"
    "  --id ID                  of the instance: 1 to 64 letters, digits and '-'\n"
    "  --config-file FILE       start this machine at once, without waiting for requests\n"
    "  --no-api                 no socket; needs --config-file\n"
    "  --metadata FILE          JSON for the metadata service\n"
    "  --log-path FILE          where the log goes (default: standard error)\n"
    "  --level LEVEL            Off, Error, Warn, Info (default), Debug, Trace\n"
    "  --module NAME            log lines of this module only\n"
    "  --show-level             levels in log lines\n"
    "  --show-log-origin        source file and line in log lines\n"
    "  --metrics-path FILE      where metrics go, every 60 s and on FlushMetrics\n"
    "  --http-api-max-payload-size BYTES   of a request's body (default: 51200)\n"
    "  --mmds-size-limit BYTES  of the metadata (default: that of a request's body)\n"
    "  --enable-pci             devices on PCI instead of MMIO\n"
    "  --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N\n"
    "                           when the process was started, for the metrics\n"
    "  --no-seccomp             no fence: keep rights and system calls (docs/security.md)\n"
    "  --seccomp-filter FILE, --boot-timer\n"
    "                           accepted for Firecracker's sake\n"
    "  --quiet                  no line about the engine\n"
    "  --version, --snapshot-version, --describe-snapshot FILE, --help\n\n"
    "Exit status: 0 the machine ended, 1 failure, 152 bad configuration, 153 bad arguments.\n";

/* --- arguments -------------------------------------------------------------------------------- */

static int bad_argument(const char *fmt, const char *what) {
    complain(fmt, what);
    return FC_BAD_ARGUMENTS;
}

static int take_number(const char *name, const char *arg, u64 *out) {
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(arg, &end, 10);
    if (arg[0] < '0' || arg[0] > '9' || *end || errno) {
        complain("--%s %s: not a number", name, arg);
        return FC_BAD_ARGUMENTS;
    }
    *out = n;
    return 0;
}

static int take_id(struct args *a, const char *arg) {
    size_t len = strlen(arg);
    if (!len || len > 64) {
        complain("Invalid instance ID: Invalid len (%zu);  the length must be between 1 and 64",
                 len);
        return FC_GENERIC;
    }
    for (size_t i = 0; i < len; i++) {
        bool ok = (arg[i] >= '0' && arg[i] <= '9') || (arg[i] >= 'a' && arg[i] <= 'z') ||
                  (arg[i] >= 'A' && arg[i] <= 'Z') || arg[i] == '-';
        if (!ok) {
            complain("Invalid instance ID: Invalid char (%c) at position %zu", arg[i], i);
            return FC_GENERIC;
        }
    }
    a->id = arg;
    return 0;
}

/* Options that print something and end. The negative of the exit status minus one. */
static int print_and_end(int id, const char *arg) {
    struct snap_file file;
    struct err err = {0};
    if (id == OPT_HELP) {
        fputs(help_text, stdout);
    } else if (id == OPT_VERSION) {
        puts("Firecracker v" API_FIRECRACKER_VERSION "\n\nSosia " SOSIA_VERSION);
    } else if (id == OPT_DESCRIBE && snap_file_load(arg, &file, &err)) {
        complain("%s", err.text);
        return -1 - FC_GENERIC;
    } else {
        printf("v%d.0.0\n", SNAP_VERSION);
    }
    if (id == OPT_DESCRIBE) {
        snap_file_free(&file);
    }
    return -1;
}

static int take_flag(struct args *a, int id) {
    switch (id) {
    case OPT_NO_API:
        a->no_api = true;
        break;
    case OPT_SHOW_LEVEL:
        a->show_level = true;
        break;
    case OPT_SHOW_ORIGIN:
        a->show_origin = true;
        break;
    case OPT_NO_SECCOMP:
        a->no_fence = true;
        break;
    case OPT_ENABLE_PCI:
        a->enable_pci = true;
        break;
    case OPT_QUIET:
        a->quiet = true;
        break;
    default:
        break; /* accepted, nothing to do */
    }
    return 0;
}

/* 0, an exit status, or what print_and_end returned. */
static int take_option(struct process *p, int id, const char *arg) {
    struct args *a = &p->args;
    u64 unused;
    switch (id) {
    case OPT_API_SOCK:
        a->socket = arg;
        return 0;
    case OPT_ID:
        return take_id(a, arg);
    case OPT_CONFIG_FILE:
        a->config = arg;
        return 0;
    case OPT_METADATA:
        a->metadata = arg;
        return 0;
    case OPT_LOG_PATH:
        a->log_path = arg;
        return 0;
    case OPT_LEVEL:
        a->level = arg;
        return 0;
    case OPT_MODULE:
        a->module = arg;
        return 0;
    case OPT_METRICS_PATH:
        a->metrics_path = arg;
        return 0;
    case OPT_START_US:
        return take_number("start-time-us", arg, &a->start_us);
    case OPT_START_CPU_US:
    case OPT_PARENT_CPU_US:
        return take_number("start-time-cpu-us", arg, &unused);
    case OPT_MAX_PAYLOAD:
        return take_number("http-api-max-payload-size", arg, &a->max_payload);
    case OPT_MMDS_LIMIT:
        return take_number("mmds-size-limit", arg, &a->mmds_limit);
    case OPT_VERSION:
    case OPT_SNAPSHOT_VERSION:
    case OPT_DESCRIBE:
    case OPT_HELP:
        return print_and_end(id, arg);
    default:
        return take_flag(a, id);
    }
}

/* One step of getopt_long: the faults that Firecracker finds while it reads. *seen: by index. */
static int take_one(struct process *p, int id, int index, char **argv, u64 *seen) {
    const char *name = argv[optind > 1 ? optind - 1 : 1];
    if (id == '?') {
        return bad_argument(
            "Arguments parsing error: Found argument '%s' which wasn't expected, or "
            "isn't valid in this context.",
            name);
    }
    if (id == ':') {
        return bad_argument("Arguments parsing error: The argument '%s' requires a value, but none "
                            "was supplied.",
                            name + strspn(name, "-"));
    }
    if (*seen & 1ull << index) {
        return bad_argument("Arguments parsing error: The argument '%s' was provided more than "
                            "once.",
                            long_options[index].name);
    }
    *seen |= 1ull << index;
    p->args.filter = p->args.filter || id == OPT_SECCOMP_FILTER;
    return take_option(p, id, optarg);
}

static int parse_args(struct process *p, int argc, char **argv) {
    struct args *a = &p->args;
    enum api_level level;
    int id, index = 0, rc = 0;
    u64 seen = 0;
    *a = (struct args){.socket = DEFAULT_SOCKET, .id = DEFAULT_ID, .max_payload = API_MAX_PAYLOAD};
    optind = 0;
    opterr = 0;
    while (!rc && (id = getopt_long(argc, argv, "+:", long_options, &index)) != -1) {
        rc = take_one(p, id, index, argv, &seen);
    }
    if (!rc && optind < argc) {
        rc = bad_argument("Arguments parsing error: Found argument '%s' which wasn't expected, or "
                          "isn't valid in this context.",
                          argv[optind]);
    }
    if (!rc && a->filter && a->no_fence) {
        rc = bad_argument("Arguments parsing error: Argument '%s' cannot be used together with "
                          "argument 'seccomp-filter'.",
                          "no-seccomp");
    }
    if (!rc && a->no_api && !a->config) {
        rc = bad_argument("Arguments parsing error: Argument '%s' required, but not found.",
                          "config-file");
    }
    if (!rc && a->level && !api_log_level(a->level, &level)) {
        complain("Invalid value for log level: %s", a->level);
        rc = FC_BAD_CONFIG;
    }
    return rc;
}

/* --- events ----------------------------------------------------------------------------------- */

static void on_signal(void *ctx) {
    struct process *p = ctx;
    if (!end_signals_take(p->signal_fd)) {
        return;
    }
    if (p->api.m) {
        machine_stop(p->api.m, "stopped by a signal");
    } else {
        linux_host_quit(p->lh);
    }
}

static void on_stop(void *ctx) {
    linux_host_quit(((struct process *)ctx)->lh);
}

static void on_flush(void *ctx) {
    struct process *p = ctx;
    struct host *host = linux_host_host(p->lh);
    if (p->api.state != API_NOT_STARTED) {
        api_metrics_flush(&p->api);
    }
    host->ops->timer_arm(host, p->flush, host_now(host) + FLUSH_SECONDS * NSEC_PER_SEC);
}

static int events_watch(struct process *p) {
    struct host *host = linux_host_host(p->lh);
    p->signal_fd = end_signals_watch(p->lh, on_signal, p);
    if (p->signal_fd < 0) {
        complain("cannot watch signals: %s", strerror(errno));
        return FC_GENERIC;
    }
    p->flush = host->ops->timer_create(host, on_flush, p);
    if (!p->flush) {
        complain("out of memory");
        return FC_GENERIC;
    }
    host->ops->timer_arm(host, p->flush, host_now(host) + FLUSH_SECONDS * NSEC_PER_SEC);
    return 0;
}

/* --- configuration from the command line ------------------------------------------------------ */

/* A request that the command line makes. Returns 0 or an exit status. */
static int own_request(struct process *p, const char *method, const char *path, json_t *body) {
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct api_request q = {method, path, text, text ? strlen(text) : 0};
    struct api_reply r = {0};
    api_handle(&p->api, &q, &r);
    int rc = r.status >= 300 ? FC_BAD_CONFIG : 0;
    if (rc) {
        complain("%s: %s", path + 1, r.body ? r.body : "failed");
    }
    free(r.body);
    free(text);
    json_decref(body);
    return rc;
}

static int apply_log(struct process *p) {
    const struct args *a = &p->args;
    if (a->log_path || a->level || a->module || a->show_level || a->show_origin) {
        json_t *body = json_pack("{s:s*, s:s*, s:s*, s:b, s:b}", "log_path", a->log_path, "level",
                                 a->level, "module", a->module, "show_level", a->show_level,
                                 "show_log_origin", a->show_origin);
        int rc = own_request(p, "PUT", "/logger", body);
        if (rc) {
            return rc;
        }
    }
    return a->metrics_path ? own_request(p, "PUT", "/metrics",
                                         json_pack("{s:s}", "metrics_path", a->metrics_path))
                           : 0;
}

static int apply_metadata(struct process *p) {
    struct blob file = {0};
    struct err err = {0};
    struct api_text e = {0};
    if (!p->args.metadata) {
        return 0;
    }
    if (file_map("metadata", p->args.metadata, &file, &err)) {
        complain("%s", err.text);
        return FC_BAD_CONFIG;
    }
    json_t *v = api_parse_any((const char *)file.data, file.size, &e);
    int rc = v ? mmds_store_put(&p->api.mmds, v, &e) : -ERR_INVAL;
    file_unmap(&file);
    if (rc) {
        complain("metadata %s: %s", p->args.metadata, e.text);
    }
    return rc ? FC_BAD_CONFIG : 0;
}

/* The sections that are more than data: log and metrics begin with them. */
static int apply_sections(struct process *p, struct api_config *c) {
    static const struct {
        enum api_single which;
        const char *path;
    } live[] = {{API_LOGGER, "/logger"}, {API_METRICS, "/metrics"}};
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(live) && !rc; i++) {
        json_t *v = c->single[live[i].which];
        c->single[live[i].which] = NULL;
        rc = v ? own_request(p, "PUT", live[i].path, v) : 0;
    }
    return rc;
}

static int load_config(struct process *p) {
    struct blob file = {0};
    struct err err = {0};
    int rc = file_map("config", p->args.config, &file, &err);
    if (!rc && file.size > CONFIG_MAX_BYTES) {
        rc = ERR_SET(&err, ERR_INVAL, "config %s: larger than 4 MiB", p->args.config);
    }
    rc = rc ? rc
            : api_config_load(&p->api.config, p->args.config, (const char *)file.data, file.size,
                              &err);
    file_unmap(&file);
    if (rc) {
        complain("%s", err.text);
        return FC_BAD_CONFIG;
    }
    return apply_sections(p, &p->api.config);
}

static int start_configured(struct process *p) {
    struct api_text e = {0};
    int rc = load_config(p);
    if (rc) {
        return rc;
    }
    if (api_start(&p->api, &e)) {
        complain("%s", e.text);
        return FC_BAD_CONFIG;
    }
    return 0;
}

/* --- the process ------------------------------------------------------------------------------ */

static int set_up(struct process *p) {
    struct err err = {0};
    struct args *a = &p->args;
    if (linux_host_create(&p->lh, &err) || api_init(&p->api, p->lh, a->id)) {
        complain("%s", err.text[0] ? err.text : "out of memory");
        return FC_GENERIC;
    }
    p->api.on_stop = on_stop;
    p->api.on_stop_ctx = p;
    p->api.no_fence = a->no_fence;
    p->api.pci = a->enable_pci;
    p->api.quiet = a->quiet ? API_QUIET : API_TALK;
    p->api.mmds.limit = a->mmds_limit ? a->mmds_limit : a->max_payload;
    if (a->start_us) {
        u64 now = host_now(linux_host_host(p->lh)) / 1000;
        p->api.start_us = now > a->start_us ? now - a->start_us : 0;
    }
    int rc = events_watch(p);
    rc = rc ? rc : apply_log(p);
    API_INFO(&p->api.log, "main", "Running Sosia %s with Firecracker's API v%s", SOSIA_VERSION,
             API_FIRECRACKER_VERSION);
    rc = rc ? rc : apply_metadata(p);
    if (!rc && !a->no_api &&
        api_server_create(&p->api, a->socket, a->max_payload, &p->server, &err)) {
        complain("%s", err.text);
        return FC_GENERIC;
    }
    if (!rc && p->server) {
        API_INFO(&p->api.log, "main", "Listening on API socket (\"%s\").", a->socket);
    }
    return rc || !a->config ? rc : start_configured(p);
}

/* How the machine ended, as Firecracker's exit status. */
static int exit_status(struct process *p) {
    if (p->api.fatal) {
        return FC_GENERIC;
    }
    if (!p->api.m || !p->api.m->pc) {
        return FC_OK;
    }
    struct vm_stop stop = vm_stop_get(pc_vm(p->api.m->pc));
    API_INFO(&p->api.log, "vmm", "The machine has ended: %s", stop.text);
    api_metrics_flush(&p->api);
    switch (stop.reason) {
    case STOP_ERROR:
        complain("%s", stop.text);
        return FC_GENERIC;
    case STOP_EXIT_CODE:
        return stop.code;
    default:
        return FC_OK; /* a triple fault, too: for Firecracker it is a way to shut down */
    }
}

static void tear_down(struct process *p) {
    struct host *host = p->lh ? linux_host_host(p->lh) : NULL;
    api_server_destroy(p->server);
    end_signals_unwatch(p->lh, &p->signal_fd);
    if (host && p->flush) {
        host->ops->timer_destroy(host, p->flush);
    }
    api_free(&p->api);
    linux_host_destroy(p->lh);
}

int cmd_api(int argc, char **argv) {
    struct process *p = calloc(1, sizeof(*p));
    if (!p) {
        complain("out of memory");
        return FC_GENERIC;
    }
    p->signal_fd = -1;
    int rc = parse_args(p, argc, argv);
    if (rc) {
        free(p);
        return rc < 0 ? -1 - rc : rc;
    }
    rc = set_up(p);
    if (!rc) {
        linux_host_run(p->lh);
        rc = exit_status(p);
    }
    tear_down(p);
    free(p);
    return rc;
}
