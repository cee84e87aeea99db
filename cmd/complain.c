/* SPDX-License-Identifier: Apache-2.0 */
/* What a person is told: one line on standard error. Apart from main.c so that tests link it. */
#include <stdarg.h>
#include <stdio.h>

#include "cmd/cmd.h"

void complain(const char *fmt, ...) {
    va_list ap;
    fputs("sosia: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}
