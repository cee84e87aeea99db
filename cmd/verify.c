/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `sosia verify`: sosia run --verify with the images as plain arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"

static const char help_text[] =
    "usage: sosia verify KERNEL [INITRD [MODULE...]] [OPTIONS of sosia run]\n\n"
    "Runs a guest on the software engine with translated code and interpreter in lock-step.\n"
    "The first difference is reported with both states and the instruction; exit status 4.\n"
    "Without one the exit status is that of `sosia run`. --verify=N looks at one in N places.\n";

/* Images are what comes before the first option. */
static int images_count(int argc, char **argv) {
    int n = 0;
    while (n + 1 < argc && argv[n + 1][0] != '-') {
        n++;
    }
    return n;
}

int cmd_verify(int argc, char **argv) {
    int images = images_count(argc, argv), n = 0;
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(help_text, argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_BAD_INPUT : 0;
    }
    char **args = calloc((size_t)argc + (size_t)images + 2, sizeof(*args));
    if (!args) {
        complain("out of memory");
        return EXIT_FAILURE_OTHER;
    }
    static char run[] = "run", verify[] = "--verify", kernel[] = "--kernel", initrd[] = "--initrd",
                module[] = "--module";
    args[n++] = run;
    args[n++] = verify;
    for (int i = 1; i <= images; i++) {
        args[n++] = i == 1 ? kernel : i == 2 ? initrd : module;
        args[n++] = argv[i];
    }
    for (int i = images + 1; i < argc; i++) {
        args[n++] = argv[i];
    }
    int status = cmd_run(n, args);
    free(args);
    return status;
}
