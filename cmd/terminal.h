/* SPDX-License-Identifier: Apache-2.0 */
/* The terminal of the command while its keys go to a machine. */
#ifndef CMD_TERMINAL_H
#define CMD_TERMINAL_H

#include <stdbool.h>
#include <termios.h>

enum { ESCAPE_DEFAULT = 0x1d /* ^] */, ESCAPE_NONE = -1, ESCAPE_BAD = -2 };

/* Standard input passes every key on; false: it is no terminal. saved: for tcsetattr. */
bool terminal_raw(struct termios *saved);

/* "^]", "^A", a single character, or "none"; or ESCAPE_BAD. */
int escape_parse(const char *text);
/* As a person writes it. */
void escape_name(int escape, char out[4]);

#endif
