/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines; see log.h. */
#include "core/if/log.h"

#include "core/base/fmt.h"

enum { LINE_MAX_BYTES = 512, ADMIT_FIRST = 8, ADMIT_EVERY = 4096 };

void log_line(struct host *host, enum log_level level, const char *fmt, ...) {
    char text[LINE_MAX_BYTES];
    va_list ap;
    va_start(ap, fmt);
    size_t n = fmt_vstr(text, sizeof(text), fmt, ap);
    va_end(ap);
    host->ops->log(host, level, text, n < sizeof(text) ? n : sizeof(text) - 1);
}

bool log_admit(u32 *counter) {
    u32 n = __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    return n < ADMIT_FIRST || n % ADMIT_EVERY == 0;
}
