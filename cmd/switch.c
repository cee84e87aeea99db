/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia switch`: what a switch between machines knows; and the process that is one. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"

static const char help_text[] =
    "usage: sosia switch NAME\n\n"
    "Shows the ports of the switch that machines joined with --net switch=NAME: VLAN, MAC "
    "address,\n"
    "frames and bytes sent, frames dropped because the source address was another port's "
    "(spoofed),\n"
    "because there were too many to all (flooded) or because the port did not take them (lost).\n\n"
    "  --serve NAME   be that switch until the last machine has left (machines start it "
    "themselves)\n"
    "  --help         this text\n";

int cmd_switch(int argc, char **argv) {
    struct err err = {0};
    int rc;
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(help_text, stdout);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "--serve")) {
        rc = switch_serve(argv[2], &err);
    } else if (argc == 2 && argv[1][0] != '-') {
        rc = switch_status(argv[1], STDOUT_FILENO, &err);
    } else {
        complain("switch: give the name of one; see `sosia switch --help`");
        return EXIT_BAD_INPUT;
    }
    if (rc) {
        complain("%s", err.text);
    }
    return !rc ? 0 : rc == -ERR_INVAL || rc == -ERR_NOTFOUND ? EXIT_BAD_INPUT : EXIT_FAILURE_OTHER;
}
