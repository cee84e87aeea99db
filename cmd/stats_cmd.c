/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `sosia stats`: the counters of a running machine, as it tells them. */
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/registry.h"

static const char help_text[] =
    "usage: sosia stats [MACHINE]\n\n"
    "Prints the counters of a running machine (its name, process number or control socket);\n"
    "without one, which machines there are.\n";

static int print_name(void *ctx, const char *name, long pid) {
    (void)ctx;
    printf("%s %ld\n", name, pid);
    return 0;
}

int cmd_stats(int argc, char **argv) {
    struct err err = {0};
    json_t *reply = NULL;
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        bool help = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
        fputs(help_text, help ? stdout : stderr);
        return help ? 0 : EXIT_BAD_INPUT;
    }
    int rc = argc == 1 ? registry_walk(print_name, NULL, &err)
                       : control_request(argv[1], json_pack("{s:s}", "request", "stats"), NULL, 0,
                                         &reply, &err);
    if (rc) {
        complain("stats: %s", err.text);
        return EXIT_BAD_INPUT;
    }
    const char *text = json_string_value(json_object_get(reply, "text"));
    fputs(text ? text : "", stdout);
    json_decref(reply);
    return 0;
}
