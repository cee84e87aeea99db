/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines on standard error, one write each so that threads do not mix within a line. */
#include <stdio.h>
#include <unistd.h>

#include "hosts/linux/host.h"

static bool log_raw; /* one terminal per process */

void linux_host_log_raw(bool raw) {
    __atomic_store_n(&log_raw, raw, __ATOMIC_RELAXED);
}

void linux_log(struct host *host, enum log_level level, const char *text, size_t len) {
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    if (level > linux_of(host)->log_level) {
        return;
    }
    char line[640];
    int n = snprintf(line, sizeof(line), "sosia: %s%.*s%s\n", names[level], (int)len, text,
                     __atomic_load_n(&log_raw, __ATOMIC_RELAXED) ? "\r" : "");
    if (n > 0) {
        size_t size = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
        if (write(STDERR_FILENO, line, size) < 0) {
            return; /* nobody listens; there is nowhere to say so */
        }
    }
}

void linux_host_log_level(struct linux_host *lh, enum log_level level) {
    lh->log_level = level;
}
