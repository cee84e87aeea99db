/* SPDX-License-Identifier: Apache-2.0 */
/* Raw mode and the key that leaves it; see terminal.h. */
#include "cmd/terminal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool terminal_raw(struct termios *saved) {
    struct termios t;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, saved)) {
        return false;
    }
    t = *saved;
    cfmakeraw(&t);
    return !tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

int escape_parse(const char *text) {
    if (!strcmp(text, "none")) {
        return ESCAPE_NONE;
    }
    if (text[0] == '^' && text[1] && !text[2]) {
        return text[1] & 0x1f;
    }
    return text[0] && !text[1] ? (unsigned char)text[0] : ESCAPE_BAD;
}

void escape_name(int escape, char out[4]) {
    bool control = escape >= 0 && escape < 32;
    snprintf(out, 4, "%s%c", control ? "^" : "", control ? escape + 64 : escape);
}
