/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines and trace points. A guest can provoke log lines, so each site that it can reach uses
 * log_limited, which lets the first few of a site through and then one in 4096.
 */
#ifndef CORE_IF_LOG_H
#define CORE_IF_LOG_H

#include "core/if/host.h"

void log_line(struct host *host, enum log_level level, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* True when this occurrence should be shown; counter belongs to the device or vCPU. */
bool log_admit(u32 *counter);

#define log_limited(host, counter, level, ...)                                                     \
    do {                                                                                           \
        if (log_admit(counter)) {                                                                  \
            log_line((host), (level), __VA_ARGS__);                                                \
        }                                                                                          \
    } while (0)

#endif
