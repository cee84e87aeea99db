/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia cpu`: the processor that guests see. */
#include <stdio.h>

#include "cmd/cmd.h"
#include "core/cpu/cpuid.h"

static void print_line(void *ctx, const char *text) {
    (void)ctx;
    puts(text);
}

int cmd_cpu(int argc, char **argv) {
    struct err err = {0};
    struct linux_host *lh;
    struct cpuid_policy policy;
    if (argc > 1) {
        bool help = argv[1][0] == '-' && (argv[1][1] == 'h' || argv[1][2] == 'h');
        fputs("usage: sosia cpu\n\nShows the processor that guests see: identity, features, what "
              "is withheld and why.\n",
              help ? stdout : stderr);
        return help ? 0 : EXIT_BAD_INPUT;
    }
    int rc = linux_host_create(&lh, &err);
    if (!rc) {
        struct host *host = linux_host_host(lh);
        rc = cpuid_policy_init(&policy, host->ops->tsc_hz(host), 1, &err);
        linux_host_destroy(lh);
    }
    if (rc) {
        complain("%s", err.text);
        return EXIT_FAILURE_OTHER;
    }
    cpuid_policy_print(&policy, print_line, NULL);
    return 0;
}
