/* SPDX-License-Identifier: Apache-2.0 */
/* The option --log PLACE[,format=text|json][,level=L]: a file's name, fd=N or syslog. */
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"

static int parse_place(struct log_options *o, const char *place, struct err *err) {
    *o = (struct log_options){.fd = -1};
    if (!strcmp(place, "syslog")) {
        o->syslog = true;
    } else if (!strncmp(place, "fd=", 3)) {
        char *end;
        long fd = strtol(place + 3, &end, 10);
        if (end == place + 3 || *end || fd < 0 || fd > 65535) {
            return ERR_SET(err, ERR_INVAL, "--log %s: not the number of a descriptor", place);
        }
        o->fd = (int)fd;
    } else if (*place) {
        o->path = place;
    } else {
        return ERR_SET(err, ERR_INVAL, "--log: no file is named");
    }
    return 0;
}

static int parse_level(int *level, const char *name) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!strcmp(name, names[i])) {
            *level = (int)i;
            return 0;
        }
    }
    return -ERR_INVAL;
}

static int parse_word(struct run_options *o, const char *word, struct err *err) {
    int rc = -ERR_INVAL;
    if (!strncmp(word, "format=", 7)) {
        o->log_options.format = !strcmp(word + 7, "json") ? LOG_JSON : LOG_TEXT;
        rc = !strcmp(word + 7, "json") || !strcmp(word + 7, "text") ? 0 : rc;
    } else if (!strncmp(word, "level=", 6)) {
        rc = parse_level(&o->log_level, word + 6);
    }
    return rc ? ERR_SET(err, ERR_INVAL,
                        "--log: '%s' is not format=text|json or level=error|"
                        "warning|info|debug",
                        word)
              : 0;
}

int log_option_parse(struct run_options *o, const char *arg, struct err *err) {
    char *rest = (char *)(uintptr_t)run_options_keep(o, arg), *word;
    if (!rest) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = parse_place(&o->log_options, strsep(&rest, ","), err);
    while (!rc && (word = strsep(&rest, ","))) {
        rc = parse_word(o, word, err);
    }
    o->log = !rc;
    return rc;
}
