/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control API of one machine: Firecracker's REST requests, from the parsed request to the
 * answer. What carries requests here is api_server.c (HTTP on a Unix socket); everything else knows
 * nothing of sockets, so that tests and the fuzzer call api_handle.
 *
 *   api_server.c -> api_router.c  path, method, body -> table -> handler
 *                     api_requests.c   resources before the start (api_config.h)
 *                     api_vm.c         start, pause, resume, changes while it runs
 *
 * All on the event thread.
 */
#ifndef CMD_API_H
#define CMD_API_H

#include "cmd/api_config.h"
#include "cmd/api_log.h"
#include "cmd/api_metrics.h"
#include "cmd/machine.h"
#include "cmd/mmds_http.h"
#include "cmd/mmds_store.h"

/* The version of Firecracker whose API this is. */
#define API_FIRECRACKER_VERSION "1.16.1"

enum api_state { API_NOT_STARTED, API_RUNNING, API_PAUSED };

struct api {
    struct linux_host *lh; /* NULL: nothing can be started (tests) */
    bool no_files;         /* do not touch the host's files (fuzzing) */
    bool pci;              /* --enable-pci: devices on PCI unless a request says where */
    bool no_fence;         /* --no-seccomp */
    char id[65];           /* of the instance */
    enum run_quiet { API_TALK, API_QUIET } quiet;
    struct api_config config;
    enum api_state state;
    bool boot_path;             /* something was configured: too late to load a snapshot */
    bool fatal;                 /* a snapshot failed to load: the process ends */
    struct machine *m;          /* NULL before the start */
    void (*on_stop)(void *ctx); /* of the machine; vCPU thread */
    void *on_stop_ctx;
    struct api_log log;
    struct api_metrics metrics;
    struct mmds_store mmds;
    struct mmds_service service;                     /* host NULL: no card has it */
    struct net_backend *mmds_card[MACHINE_MAX_NETS]; /* those that have it */
    u64 start_us, ready_us;                          /* of the process, for metrics; 0: unknown */
};

int api_init(struct api *a, struct linux_host *lh, const char *id); /* 0 or -ERR_NOMEM */
void api_free(struct api *a);

struct api_request {
    const char *method, *path; /* "PUT", "/drives/rootfs" */
    const char *body;
    size_t len; /* 0: no body */
};

struct api_reply {
    int status;       /* HTTP status */
    char *body;       /* to free; NULL: none */
    const char *type; /* of the body */
    bool deprecated;  /* a field was used that will go */
};

void api_handle(struct api *a, const struct api_request *q, struct api_reply *r);
/* The reply {"fault_message": text}. */
void api_reply_fault(struct api_reply *r, int status, const char *text);

/* --- between the files ------------------------------------------------------------------------ */

struct api_call {
    const char *id; /* the path's second part; "" when there is none */
    u32 arg;        /* of the route */
    json_t *body;   /* checked; the handler takes it over by setting it to NULL */
};

/* 0: *out (may stay NULL) is the answer. Negative: e has the message; -ERR_NOSPACE is status 413.
 */
typedef int (*api_handler)(struct api *a, struct api_call *call, json_t **out, struct api_text *e);

/* api_requests.c */
int api_get_info(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_get_version(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_get_config(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_get_machine(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_put_single(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_put_many(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_machine(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_put_logger(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_put_metrics(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_refuse_missing(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_get_sosia(struct api *a, struct api_call *call, json_t **out, struct api_text *e);

/* api_vm.c */
int api_put_action(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_vm(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_drive(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_net(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
/* api_mmds.c */
int api_get_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_put_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
/* machine.wrap_net: puts the service in front of a card's back end. */
int api_mmds_wrap(void *ctx, u32 i, struct net_backend **be, struct err *err);
/* Of all cards together. */
void api_mmds_counters(const struct api *a, struct mmds_counters *sum);

/* api_balloon.c */
int api_get_balloon(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_patch_balloon(struct api *a, struct api_call *call, json_t **out, struct api_text *e);

/* Ends the machine and forgets it; event thread. */
void api_machine_drop(struct api *a);
/* a->m with nothing of its own yet; options and machine_create follow. 0 or -ERR_NOMEM. */
int api_machine_new(struct api *a, struct err *err);

/* api_snapshot.c */
int api_create_snapshot(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
int api_load_snapshot(struct api *a, struct api_call *call, json_t **out, struct api_text *e);
/* api_vm.c: builds the machine of a->config and lets it run. */
int api_start(struct api *a, struct api_text *e);

/* The texts of operations at the wrong time. */
extern const char api_not_before_start[], api_not_after_start[];

#endif
