/* SPDX-License-Identifier: Apache-2.0 */
/* From places to back ends; see consoles.h. Each serial port and the virtio console has a hub in
 * front of its place, so that others can look on. */
#include "cmd/consoles.h"

#include <stdio.h>
#include <string.h>

#include "cmd/machine.h"

/* "file=PATH" with key "file": PATH; NULL: another place. */
static const char *value_of(const char *place, const char *key) {
    size_t len = strlen(key);
    bool mine = !strncmp(place, key, len) && (place[len] == '=' || place[len] == ':');
    return mine && place[len + 1] ? place + len + 1 : NULL;
}

int console_place_check(const char *option, const char *place, struct err *err) {
    static const char *const plain[] = {"stdio", "pty", "none", "null", "ring"};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        if (!strcmp(place, plain[i])) {
            return 0;
        }
    }
    if (value_of(place, "file") || value_of(place, "socket") || value_of(place, "pty")) {
        return 0;
    }
    return ERR_SET(err, ERR_INVAL,
                   "%s %s: not one of stdio, pty[=LINK], file=PATH, socket=PATH, ring, none",
                   option, place);
}

static bool goes_nowhere(const char *place) {
    return !place || !strcmp(place, "none") || !strcmp(place, "null");
}

static void on_leave(void *ctx) {
    machine_stop(ctx, "left with Ctrl-A x");
}

static int pty_open(struct machine *m, const char *what, const char *link,
                    struct char_backend **out, struct err *err) {
    char name[64] = "";
    int rc = con_pty_open(m->lh, link, name, sizeof(name), out, err);
    if (!rc) {
        complain("%s is at %s", what, name);
    }
    return rc;
}

/* The place itself; *out stays NULL for one that is only a ring. */
static int place_open(struct machine *m, const char *what, const char *place,
                      struct char_backend **out, struct err *err) {
    const char *path = value_of(place, "file");
    if (!strcmp(place, "stdio")) {
        return con_stdio_open(m->lh, on_leave, m, out, err);
    }
    if (!strncmp(place, "pty", 3)) {
        return pty_open(m, what, value_of(place, "pty"), out, err);
    }
    return path ? con_file_open(m->lh, path, out, err) : 0;
}

static int hub_open(struct machine *m, const char *what, const char *place, struct con_hub **out,
                    struct err *err) {
    struct char_backend *below = NULL;
    const char *path = value_of(place, "socket");
    if (path) {
        return con_socket_open(m->lh, path, out, err);
    }
    int rc = place_open(m, what, place, &below, err);
    rc = rc ? rc : con_hub_open(m->lh, below, out, err);
    if (rc && below) {
        below->ops->close(below);
    }
    return rc;
}

static int console_open(struct machine *m, const char *name, const char *what, const char *place,
                        struct char_backend **out, struct err *err) {
    struct machine_console *c = &m->console[m->console_count];
    int rc = hub_open(m, what, place, &c->hub, err);
    if (!rc) {
        snprintf(c->name, sizeof(c->name), "%s", name);
        m->console_count++;
        *out = con_hub_backend(c->hub);
        m->stream[m->stream_count++] = *out;
    }
    return rc;
}

int consoles_open(struct machine *m, struct err *err) {
    static const char *const names[] = {"serial0", "serial1", "serial2", "serial3"};
    static const char *const what[] = {"the serial console", "COM2", "COM3", "COM4"};
    const char *virtio = m->o.virtio_console;
    int rc = 0;
    for (u32 i = 0; i < MACHINE_SERIAL_PORTS && !rc; i++) {
        const char *place = i ? m->o.serial[i] : m->o.console ? m->o.console : "ring";
        rc = place ? console_open(m, names[i], what[i], place, &m->cfg.serial[i], err) : 0;
    }
    if (!rc && !goes_nowhere(virtio)) {
        rc = console_open(m, "virtio", "the virtio console", virtio, &m->cfg.console, err);
    }
    if (!rc && !goes_nowhere(m->o.debugcon)) {
        rc = place_open(m, "the debug port", m->o.debugcon, &m->cfg.debug, err);
        if (m->cfg.debug) {
            m->stream[m->stream_count++] = m->cfg.debug;
        }
    }
    return rc;
}

struct con_hub *console_find(struct machine *m, const char *name) {
    if (!name) {
        name =
            goes_nowhere(m->o.console) && !goes_nowhere(m->o.virtio_console) ? "virtio" : "serial0";
    }
    for (u32 i = 0; i < m->console_count; i++) {
        if (!strcmp(m->console[i].name, name)) {
            return m->console[i].hub;
        }
    }
    return NULL;
}
