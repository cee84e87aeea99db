/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines: to standard error, a file, a descriptor or syslog, as text or JSON; one place per
 * process. Each line is one write, so that threads do not mix within a line. A line that cannot be
 * written (a full disk) is dropped and counted; the next that can be is followed by the count.
 *
 *   standard error   sosia: warning: TEXT
 *   text             2026-01-31T12:00:00.123456Z warning TEXT
 *   JSON             {"time":"2026-01-31T12:00:00.123456Z","level":"warning","machine":"NAME",
 *                     "text":"TEXT"}
 *
 * One lock guards the place and the listener; it is innermost.
 */
#include "hosts/linux/host.h" /* before syslog.h, which has macros of the same names */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048, TEXT_BYTES = 1024, STAMP_BYTES = 32, NAME_BYTES = 64 };

static bool log_raw; /* one terminal per process */

static struct {
    pthread_mutex_t lock;
    bool open, to_syslog, own_fd;
    int fd;
    enum log_format format;
    enum log_level level; /* for linux_log_note */
    char name[NAME_BYTES];
    u64 dropped;
    linux_log_fn fn;
    void *ctx;
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .level = LOG_WARN};

void linux_host_log_raw(bool raw) {
    __atomic_store_n(&log_raw, raw, __ATOMIC_RELAXED);
}

static const char *level_name(enum log_level level) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    return (u32)level < ARRAY_LEN(names) ? names[level] : "info";
}

/* --- forms ------------------------------------------------------------------------------------ */

static void stamp(char out[STAMP_BYTES]) {
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(out, STAMP_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, STAMP_BYTES - n, ".%06ldZ", now.tv_nsec / 1000);
}

/* Escapes what JSON must not hold as it is; bytes that are no ASCII become '?', since a guest can
 * have a part in a line. */
static size_t escape(char *out, size_t size, const char *text, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len && n + 7 < size; i++) {
        u8 c = (u8)text[i];
        if (c == '"' || c == '\\') {
            out[n++] = '\\';
            out[n++] = (char)c;
        } else if (c < ' ') {
            n += (size_t)snprintf(out + n, size - n, "\\u%04x", c);
        } else {
            out[n++] = (char)(c < 127 ? c : '?');
        }
    }
    out[n] = 0;
    return n;
}

/* With its newline; the length. */
static size_t form_json(char *out, size_t size, const char *at, enum log_level level,
                        const char *text, size_t len) {
    char escaped[TEXT_BYTES + 512];
    escape(escaped, sizeof(escaped), text, len);
    int n = snprintf(out, size,
                     "{\"time\":\"%s\",\"level\":\"%s\",\"machine\":\"%s\",\"text\":\"%s\"}\n", at,
                     level_name(level), sink.name, escaped);
    return n > 0 ? MIN((size_t)n, size - 1) : 0;
}

static size_t form_text(char *out, size_t size, const char *at, enum log_level level,
                        const char *text, size_t len) {
    int n = snprintf(out, size, "%s %s %.*s\n", at, level_name(level), (int)len, text);
    return n > 0 ? MIN((size_t)n, size - 1) : 0;
}

/* --- places ----------------------------------------------------------------------------------- */

static void to_stderr(enum log_level level, const char *text, size_t len) {
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    char line[LINE_BYTES];
    int n = snprintf(line, sizeof(line), "sosia: %s%.*s%s\n",
                     (u32)level < ARRAY_LEN(names) ? names[level] : "", (int)len, text,
                     __atomic_load_n(&log_raw, __ATOMIC_RELAXED) ? "\r" : "");
    if (n > 0 && write(STDERR_FILENO, line, MIN((size_t)n, sizeof(line) - 1)) < 0) {
        return; /* nobody listens; there is nowhere to say so */
    }
}

/* Lock held. A partial line is what a full disk leaves; it counts as written. */
static void to_file(const char *line, size_t len) {
    char note[96];
    ssize_t n = write(sink.fd, line, len);
    if (n < 0) {
        sink.dropped++;
    } else if (sink.dropped) {
        int size = snprintf(note, sizeof(note),
                            sink.format == LOG_JSON ? "{\"dropped_lines\":%llu}\n"
                                                    : "%llu lines could not be written\n",
                            (unsigned long long)sink.dropped);
        sink.dropped = write(sink.fd, note, (size_t)size) < 0 ? sink.dropped : 0;
    }
}

static void to_syslog(enum log_level level, const char *line, size_t len, const char *text,
                      size_t text_len) {
    static const int priority[] = {LOG_ERR, LOG_WARNING, 6 /* info */, 7 /* debug */};
    int p = (u32)level < ARRAY_LEN(priority) ? priority[level] : 6;
    if (sink.format == LOG_JSON) {
        syslog(p, "%.*s", (int)len - 1, line);
    } else {
        syslog(p, "%s: %.*s", sink.name, (int)text_len, text);
    }
}

/* To everything but standard error; false: there was no such place. */
static bool emit(enum log_level level, const char *text, size_t len) {
    char at[STAMP_BYTES], line[LINE_BYTES];
    len = MIN(len, (size_t)TEXT_BYTES);
    stamp(at);
    pthread_mutex_lock(&sink.lock);
    bool open = sink.open;
    bool wanted = level <= sink.level;
    if (sink.fn) {
        sink.fn(sink.ctx, line, form_text(line, sizeof(line), at, level, text, len));
    }
    if (open && wanted) {
        size_t n = sink.format == LOG_JSON ? form_json(line, sizeof(line), at, level, text, len)
                                           : form_text(line, sizeof(line), at, level, text, len);
        if (sink.to_syslog) {
            to_syslog(level, line, n, text, len);
        } else {
            to_file(line, n);
        }
    }
    pthread_mutex_unlock(&sink.lock);
    return open;
}

void linux_log(struct host *host, enum log_level level, const char *text, size_t len) {
    if (level <= linux_of(host)->log_level && !emit(level, text, len)) {
        to_stderr(level, text, len);
    }
}

void linux_log_note(enum log_level level, const char *text) {
    emit(level, text, strlen(text));
}

/* --- choosing --------------------------------------------------------------------------------- */

void linux_log_close(void) {
    pthread_mutex_lock(&sink.lock);
    if (sink.open && sink.own_fd) {
        close(sink.fd);
    }
    if (sink.open && sink.to_syslog) {
        closelog();
    }
    sink.open = sink.own_fd = sink.to_syslog = false;
    sink.fd = -1;
    pthread_mutex_unlock(&sink.lock);
}

int linux_log_open(const struct log_options *o, struct err *err) {
    int fd = o->fd;
    if (o->path) {
        fd = open(o->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
        if (fd < 0) {
            return ERR_SET(err, ERR_INVAL, "log %s: %s", o->path, strerror(errno));
        }
    } else if (!o->syslog && fcntl(fd, F_GETFD) < 0) {
        return ERR_SET(err, ERR_INVAL, "log: descriptor %d is not open", fd);
    }
    linux_log_close();
    pthread_mutex_lock(&sink.lock);
    sink.fd = fd;
    sink.own_fd = o->path != NULL;
    sink.to_syslog = o->syslog;
    sink.format = o->format;
    sink.open = true;
    if (o->syslog) {
        openlog("sosia", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    }
    pthread_mutex_unlock(&sink.lock);
    return 0;
}

void linux_log_name(const char *name) {
    pthread_mutex_lock(&sink.lock);
    snprintf(sink.name, sizeof(sink.name), "%s", name);
    pthread_mutex_unlock(&sink.lock);
}

void linux_log_listen(linux_log_fn fn, void *ctx) {
    pthread_mutex_lock(&sink.lock);
    sink.fn = fn;
    sink.ctx = ctx;
    pthread_mutex_unlock(&sink.lock);
}

void linux_host_log_level(struct linux_host *lh, enum log_level level) {
    pthread_mutex_lock(&sink.lock);
    sink.level = level;
    pthread_mutex_unlock(&sink.lock);
    lh->log_level = level;
}
