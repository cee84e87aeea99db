/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines of the API's process. The file is written without waiting: a FIFO that nobody reads
 * loses lines, which are counted, and never holds the machine up.
 */
#include "cmd/api_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

void api_log_init(struct api_log *log, const char *id) {
    *log = (struct api_log){.fd = STDERR_FILENO, .level = API_LOG_INFO, .id = id};
}

void api_log_close(struct api_log *log) {
    if (log->own) {
        close(log->fd);
        log->own = false;
        log->fd = STDERR_FILENO;
    }
}

bool api_log_level(const char *name, enum api_level *out) {
    static const struct {
        const char *name;
        enum api_level level;
    } levels[] = {{"off", API_LOG_OFF},      {"error", API_LOG_ERROR}, {"warn", API_LOG_WARN},
                  {"warning", API_LOG_WARN}, {"info", API_LOG_INFO},   {"debug", API_LOG_DEBUG},
                  {"trace", API_LOG_TRACE}};
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (!strcasecmp(name, levels[i].name)) {
            *out = levels[i].level;
            return true;
        }
    }
    return false;
}

int api_open_output(const char *path) {
    int flags = O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = open(path, O_RDWR | flags, 0644);
    if (fd < 0) {
        fd = open(path, O_WRONLY | flags, 0644); /* what may only be written, such as a pipe */
    }
    return fd < 0 ? -errno : fd;
}

int api_log_configure(struct api_log *log, const json_t *body, char *why, size_t size) {
    const char *path = json_string_value(json_object_get(body, "log_path"));
    const char *level = json_string_value(json_object_get(body, "level"));
    const char *module = json_string_value(json_object_get(body, "module"));
    const json_t *show = json_object_get(body, "show_level");
    const json_t *origin = json_object_get(body, "show_log_origin");
    if (path) {
        int fd = api_open_output(path);
        if (fd < 0) {
            snprintf(why, size, "Failed to open target file: %s (os error %d)", strerror(-fd), -fd);
            return -ERR_INVAL;
        }
        api_log_close(log);
        log->fd = fd;
        log->own = true;
    }
    if (level) {
        api_log_level(level, &log->level);
    }
    if (module) {
        snprintf(log->module, sizeof(log->module), "%s", module);
    }
    log->show_level = show ? json_is_true(show) : log->show_level;
    log->show_origin = origin ? json_is_true(origin) : log->show_origin;
    return 0;
}

static int put_head(struct api_log *log, char *out, size_t size, enum api_level level,
                    const char *file, int line) {
    static const char *const names[] = {"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
    struct timespec now;
    struct tm tm;
    char when[32], origin[128] = "";
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    if (log->show_origin) {
        snprintf(origin, sizeof(origin), ":%s:%d", file, line);
    }
    return snprintf(out, size, "%s.%09ld [%s:main%s%s%s] ", when, now.tv_nsec, log->id,
                    log->show_level ? ":" : "", log->show_level ? names[level] : "", origin);
}

void api_log_line(struct api_log *log, enum api_level level, const char *module, const char *file,
                  int line, const char *fmt, ...) {
    char text[LINE_MAX_BYTES];
    va_list ap;
    if (log->mute || level > log->level ||
        (log->module[0] && strncmp(module, log->module, strlen(log->module)) != 0)) {
        return;
    }
    int at = put_head(log, text, sizeof(text) - 1, level, file, line);
    va_start(ap, fmt);
    int n = at < 0 ? -1 : vsnprintf(text + at, sizeof(text) - 1 - (size_t)at, fmt, ap);
    va_end(ap);
    if (n < 0) {
        return;
    }
    size_t len = MIN((size_t)(at + n), sizeof(text) - 2);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ') {
            text[i] = '?'; /* one line, whoever wrote it */
        }
    }
    text[len++] = '\n';
    if (write(log->fd, text, len) != (ssize_t)len) {
        log->missed++;
    }
}
