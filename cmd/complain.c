/* SPDX-License-Identifier: Apache-2.0 */
/* What a person is told: one line on standard error, and in the log when there is one. Apart from
 * main.c so that tests link it. */
#include <stdarg.h>
#include <stdio.h>

#include "cmd/cmd.h"

void complain(const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(stderr, "sosia: %s\n", text);
    linux_log_note(LOG_WARN, text);
}
