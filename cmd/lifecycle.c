/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs ls, pause, resume, balloon, stop, kill and wait: questions to the control sockets of
 * running machines (manage.c answers). A machine whose event loop does not answer can still be
 * killed: its process gets a SIGKILL.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/registry.h"

enum { ANSWER_MS = 5000, STOP_SECONDS = 30, KILL_MS = 10000 };

static json_t *question(const char *what) {
    return json_pack("{s:s}", "request", what);
}

/* True: argv holds a call for help, or not exactly one machine's name; *status is to be returned.
 */
static bool usage_wrong(int argc, char **argv, const char *help, int *status) {
    bool asked = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    if (argc == 2 && argv[1][0] != '-') {
        return false;
    }
    fputs(help, asked ? stdout : stderr);
    *status = asked ? 0 : EXIT_BAD_INPUT;
    return true;
}

static int fail(const char *verb, const struct err *err) {
    complain("%s: %s", verb, err->text);
    return err->code == -ERR_NOTFOUND || err->code == -ERR_INVAL ? EXIT_BAD_INPUT
                                                                 : EXIT_FAILURE_OTHER;
}

/* --- ls --------------------------------------------------------------------------------------- */

struct listing {
    json_t *machines;
};

/* What the machine says of itself, or what is known without it. */
static int list_one(void *ctx, const char *name, long pid) {
    struct listing *l = ctx;
    struct control_client *c;
    json_t *o = NULL;
    if (!control_connect(name, &c, NULL)) {
        control_ask(c, question("info"), NULL, 0, ANSWER_MS, &o, NULL);
        control_close(c);
    }
    if (o) {
        json_object_del(o, "ok");
    } else {
        o = json_pack("{s:s, s:I, s:s}", "name", name, "pid", (json_int_t)pid, "state", "silent");
    }
    json_array_append_new(l->machines, o);
    return 0;
}

static void format_uptime(char *out, size_t size, double seconds) {
    unsigned long s = seconds > 0 ? (unsigned long)seconds : 0;
    if (s < 3600) {
        snprintf(out, size, "%lu:%02lu", s / 60, s % 60);
    } else if (s < 100ul * 3600) {
        snprintf(out, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(out, size, "%lud%02luh", s / 86400, s / 3600 % 24);
    }
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "-";
}

static void list_print(const json_t *machines) {
    size_t i;
    json_t *o;
    printf("%-24s %8s %-8s %-6s %5s %8s %10s  %s\n", "NAME", "PID", "STATE", "ENGINE", "VCPUS",
           "MEMORY", "UPTIME", "COMMAND");
    json_array_foreach(machines, i, o) {
        char up[32];
        format_uptime(up, sizeof(up), json_real_value(json_object_get(o, "uptime")));
        printf("%-24s %8lld %-8s %-6s %5lld %7lldM %10s  ", text_of(o, "name"),
               (long long)json_integer_value(json_object_get(o, "pid")), text_of(o, "state"),
               text_of(o, "engine"), (long long)json_integer_value(json_object_get(o, "vcpus")),
               (long long)json_integer_value(json_object_get(o, "memory")) >> 20, up);
        for (const char *s = text_of(o, "command"); *s; s++) { /* nothing that moves the cursor */
            putchar((unsigned char)*s < ' ' || *s == 127 ? '?' : *s);
        }
        putchar('\n');
    }
}

int cmd_ls(int argc, char **argv) {
    static const char help[] = "usage: sosia ls [--json]\n\nLists the running machines.\n";
    bool json = argc == 2 && !strcmp(argv[1], "--json");
    bool asked = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    struct err err = {0};
    if (argc > 1 && !json) {
        fputs(help, asked ? stdout : stderr);
        return asked ? 0 : EXIT_BAD_INPUT;
    }
    struct listing l = {.machines = json_array()};
    int rc = registry_walk(list_one, &l, &err);
    if (rc) {
        json_decref(l.machines);
        return fail("ls", &err);
    }
    if (json) {
        json_dumpf(l.machines, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        list_print(l.machines);
    }
    json_decref(l.machines);
    return 0;
}

/* --- pause, resume ---------------------------------------------------------------------------- */

static int ask_once(const char *verb, const char *machine) {
    struct err err = {0};
    int rc = control_request(machine, question(verb), NULL, 0, NULL, &err);
    return rc ? fail(verb, &err) : 0;
}

int cmd_pause(int argc, char **argv) {
    int status;
    return usage_wrong(argc, argv,
                       "usage: sosia pause MACHINE\n\nLets a machine stand still until `sosia "
                       "resume`.\n",
                       &status)
               ? status
               : ask_once("pause", argv[1]);
}

int cmd_resume(int argc, char **argv) {
    int status;
    return usage_wrong(argc, argv, "usage: sosia resume MACHINE\n\nLets a paused machine go on.\n",
                       &status)
               ? status
               : ask_once("resume", argv[1]);
}

/* --- memory ----------------------------------------------------------------------------------- */

static int balloon_ask(const char *machine, const char *size) {
    struct err err = {0};
    json_t *request = question("balloon"), *reply = NULL;
    u64 bytes = 0;
    int rc = 0;
    if (size && (parse_size(size, &bytes) || bytes % MIB)) {
        rc = ERR_SET(&err, ERR_INVAL, "'%s' is not a size of whole MiB such as 64 or 1G", size);
    } else if (size) {
        json_object_set_new(request, "mib", json_integer((json_int_t)(bytes / MIB)));
    }
    if (rc) {
        json_decref(request);
        return fail("balloon", &err);
    }
    rc = control_request(machine, request, NULL, 0, &reply, &err);
    if (rc) {
        return fail("balloon", &err);
    }
    printf("target %lld MiB, balloon %lld MiB\n",
           (long long)json_integer_value(json_object_get(reply, "target_mib")),
           (long long)json_integer_value(json_object_get(reply, "actual_mib")));
    json_decref(reply);
    return 0;
}

int cmd_balloon(int argc, char **argv) {
    static const char help[] =
        "usage: sosia balloon MACHINE [SIZE]\n\n"
        "Asks the guest to give up so much of its memory (a plain number is MiB; 0: nothing) and\n"
        "prints how far it is. The machine must have a balloon (sosia run --balloon).\n";
    bool two = argc == 3 && argv[1][0] != '-';
    int status;
    if (!two && usage_wrong(argc, argv, help, &status)) {
        return status;
    }
    return balloon_ask(argv[1], two ? argv[2] : NULL);
}

/* --- the ends --------------------------------------------------------------------------------- */

/* The answer to "wait" comes when the machine has ended and its files are closed. -ERR_IO: it ended
 * without a word. */
static int await_end(struct control_client *c, int timeout_ms, json_t **reply, struct err *err) {
    return control_ask(c, question("wait"), NULL, 0, timeout_ms, reply, err);
}

static int kill_machine(const char *machine, struct err *err) {
    struct control_client *c;
    int rc = control_connect(machine, &c, err);
    if (rc) {
        return rc;
    }
    pid_t pid = control_pid(c);
    struct err own = {0};
    rc = control_ask(c, question("kill"), NULL, 0, ANSWER_MS, NULL, &own);
    rc = rc ? rc : await_end(c, KILL_MS, NULL, &own);
    if (rc == -ERR_AGAIN && pid > 1) {
        kill(pid, SIGKILL); /* its end of the connection was open a moment ago: it is the one */
        rc = 0;
    }
    control_close(c);
    return rc == -ERR_IO || rc == -ERR_STATE ? 0 : rc; /* gone, which was wanted */
}

int cmd_kill(int argc, char **argv) {
    struct err err = {0};
    int status;
    if (usage_wrong(argc, argv,
                    "usage: sosia kill MACHINE\n\nEnds a machine at once, as pulling the plug "
                    "does.\n",
                    &status)) {
        return status;
    }
    return kill_machine(argv[1], &err) ? fail("kill", &err) : 0;
}

/* 0: it has ended; 1: it is still there. */
static int stop_gently(const char *machine, int timeout_ms, struct err *err) {
    struct control_client *c;
    int rc = control_connect(machine, &c, err);
    if (rc) {
        return rc;
    }
    rc = control_ask(c, question("resume"), NULL, 0, ANSWER_MS, NULL, NULL);
    rc = rc ? rc : control_ask(c, question("power-button"), NULL, 0, ANSWER_MS, NULL, NULL);
    rc = rc ? rc : await_end(c, timeout_ms, NULL, NULL);
    control_close(c);
    return rc == -ERR_AGAIN ? 1 : 0;
}

int cmd_stop(int argc, char **argv) {
    static const char help[] =
        "usage: sosia stop [--timeout SECONDS] MACHINE\n\n"
        "Presses the machine's power button and waits for it to shut down; after the timeout\n"
        "(default 30) it is killed.\n";
    static const struct option options[] = {
        {"timeout", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {0}};
    long seconds = STOP_SECONDS;
    char *end = NULL;
    int id;
    optind = 0;
    while ((id = getopt_long(argc, argv, "t:h", options, NULL)) != -1) {
        seconds = id == 't' ? strtol(optarg, &end, 10) : seconds;
        if (id == 'h' || id == '?' || (end && *end) || seconds < 0 || seconds > 1000000) {
            fputs(help, id == 'h' ? stdout : stderr);
            return id == 'h' ? 0 : EXIT_BAD_INPUT;
        }
    }
    if (optind != argc - 1) {
        fputs(help, stderr);
        return EXIT_BAD_INPUT;
    }
    struct err err = {0};
    int rc = stop_gently(argv[optind], (int)seconds * 1000, &err);
    if (rc == 1) {
        complain("stop: %s did not shut down in %ld s: killed", argv[optind], seconds);
        rc = kill_machine(argv[optind], &err);
    }
    return rc ? fail("stop", &err) : 0;
}

int cmd_wait(int argc, char **argv) {
    struct control_client *c;
    struct err err = {0};
    json_t *reply = NULL;
    int status;
    if (usage_wrong(argc, argv,
                    "usage: sosia wait MACHINE\n\nWaits for the end of a machine; its exit status "
                    "is that of\nthe machine, 1 when it died. A machine of the background "
                    "that has ended already is\nremembered for an hour, until its name is taken "
                    "again.\n",
                    &status)) {
        return status;
    }
    int rc = control_connect(argv[1], &c, &err);
    if (!rc) {
        rc = await_end(c, -1, &reply, &err);
        control_close(c);
    }
    if (rc && !registry_status(argv[1], &status)) {
        return status; /* it ended before, or just now */
    }
    status = rc ? fail("wait", &err) : (int)json_integer_value(json_object_get(reply, "status"));
    json_decref(reply);
    return status;
}
