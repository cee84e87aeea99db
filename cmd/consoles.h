/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where serial ports and consoles of a machine go. A place is
 *
 *   stdio           the terminal of the command
 *   pty[=LINK]      a pseudo-terminal, with a symbolic link to it
 *   file=PATH       appended to a file
 *   socket=PATH     a Unix stream socket that listens
 *   ring            nothing but what all have: the last 64 KiB, for `sosia console` and `sosia
 * logs` none            as ring for a serial port; no device otherwise
 *
 * ':' may stand for '='.
 */
#ifndef CMD_CONSOLES_H
#define CMD_CONSOLES_H

#include "core/base/err.h"
#include "hosts/linux/linux.h"

enum { CONSOLES_MAX = 8 };

struct machine;

/* A console that can be attached to: "serial0".."serial3" (COM1..COM4), "virtio". */
struct machine_console {
    char name[12];
    struct con_hub *hub;
};

/* 0, or -ERR_INVAL with a message that begins with option. */
int console_place_check(const char *option, const char *place, struct err *err);
/* Opens what the options ask for and fills machine.cfg; all is in machine.stream, to be closed. */
int consoles_open(struct machine *m, struct err *err);
/* The console of this name; NULL: COM1, or virtio when COM1 goes nowhere and that is there. NULL:
 * there is none of this name. */
struct con_hub *console_find(struct machine *m, const char *name);

#endif
