/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of the API's process, in Firecracker's form:
 *
 *   2026-01-31T12:00:00.123456789 [ID:fc_api:INFO:cmd/api_vm.c:10] text
 *
 * where the level and the origin are there when asked for. Event thread.
 */
#ifndef CMD_API_LOG_H
#define CMD_API_LOG_H

#include <jansson.h>

#include "core/base/err.h"

enum api_level {
    API_LOG_OFF,
    API_LOG_ERROR,
    API_LOG_WARN,
    API_LOG_INFO,
    API_LOG_DEBUG,
    API_LOG_TRACE
};

struct api_log {
    int fd; /* not opened here: standard error */
    bool own;
    bool mute; /* tests */
    enum api_level level;
    bool show_level, show_origin;
    char module[64]; /* only lines of this module; "" for all */
    const char *id;
    u64 missed; /* lines that could not be written */
};

void api_log_init(struct api_log *log, const char *id);
void api_log_close(struct api_log *log);
/* A checked body of PUT /logger; what it does not name stays. 0 or -ERR_INVAL with the text. */
int api_log_configure(struct api_log *log, const json_t *body, char *why, size_t size);
/* "Warn", "WARNING"; false: no such level. */
bool api_log_level(const char *name, enum api_level *out);

void api_log_line(struct api_log *log, enum api_level level, const char *module, const char *file,
                  int line, const char *fmt, ...) PRINTF_LIKE(6, 7);

/* Opens a log or metrics file: a FIFO without a reader, too. */
int api_open_output(const char *path); /* the descriptor, or -errno */

#define API_ERROR(log, module, ...)                                                                \
    api_log_line((log), API_LOG_ERROR, (module), __FILE__, __LINE__, __VA_ARGS__)
#define API_WARN(log, module, ...)                                                                 \
    api_log_line((log), API_LOG_WARN, (module), __FILE__, __LINE__, __VA_ARGS__)
#define API_INFO(log, module, ...)                                                                 \
    api_log_line((log), API_LOG_INFO, (module), __FILE__, __LINE__, __VA_ARGS__)
#define API_DEBUG(log, module, ...)                                                                \
    api_log_line((log), API_LOG_DEBUG, (module), __FILE__, __LINE__, __VA_ARGS__)

#endif
