/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `sosia stats`: the counters of a running machine, as it tells them. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/registry.h"

static const char help_text[] =
    "usage: sosia stats [--json|--prometheus] [MACHINE]\n\n"
    "Prints the counters of a running machine (its name, process number or control socket);\n"
    "without one, which machines there are.\n\n"
    "  --json           for programs\n"
    "  --prometheus     in Prometheus' text format\n";

static int print_name(void *ctx, const char *name, long pid) {
    (void)ctx;
    printf("%s %ld\n", name, pid);
    return 0;
}

static int show(const char *machine, const char *format, struct err *err) {
    json_t *reply = NULL;
    int rc = control_request(machine, json_pack("{s:s, s:s}", "request", "stats", "format", format),
                             NULL, 0, &reply, err);
    const char *text = json_string_value(json_object_get(reply, "text"));
    if (!rc && !strcmp(format, "json")) {
        json_dumpf(json_object_get(reply, "stats"), stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (!rc && text) {
        fputs(text, stdout);
    }
    json_decref(reply);
    return rc;
}

int cmd_stats(int argc, char **argv) {
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"prometheus", no_argument, NULL, 'p'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *format = "text";
    struct err err = {0};
    int id;
    optind = 0;
    while ((id = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (id == 'h' || id == '?') {
            fputs(help_text, id == 'h' ? stdout : stderr);
            return id == 'h' ? 0 : EXIT_BAD_INPUT;
        }
        format = id == 'j' ? "json" : "prometheus";
    }
    if (optind < argc - 1) {
        fputs(help_text, stderr);
        return EXIT_BAD_INPUT;
    }
    int rc =
        optind == argc ? registry_walk(print_name, NULL, &err) : show(argv[optind], format, &err);
    if (rc) {
        complain("stats: %s", err.text);
        return EXIT_BAD_INPUT;
    }
    return 0;
}
