/* SPDX-License-Identifier: Apache-2.0 */
/* The sosia command: finds the verb and calls it. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "version")) {
        puts("sosia 0.1");
        return 0;
    }
    fputs("usage: sosia version\n", stderr);
    return 2;
}
