/* SPDX-License-Identifier: Apache-2.0 */
/* Recording and naming of errors; see err.h. */
#include "core/base/err.h"

#include "core/base/fmt.h"

/* A message is one line, also when it quotes a file name or a file with control characters. */
static void text_clean(char *text) {
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f) {
            *text = '?';
        }
    }
}

int err_record(struct err *err, enum err_code code, const char *file, int line, const char *fmt,
               ...) {
    if (err && !err->code) {
        va_list ap;
        err->code = -(int)code;
        err->file = file;
        err->line = line;
        va_start(ap, fmt);
        fmt_vstr(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        text_clean(err->text);
    }
    return -(int)code;
}

const char *err_name(int code) {
    switch (code < 0 ? -code : code) {
    case 0:
        return "no error";
    case ERR_INVAL:
        return "invalid value";
    case ERR_NOMEM:
        return "out of memory";
    case ERR_RANGE:
        return "out of range";
    case ERR_IO:
        return "input/output error";
    case ERR_FORMAT:
        return "bad format";
    case ERR_UNSUPPORTED:
        return "not supported";
    case ERR_NOTFOUND:
        return "not found";
    case ERR_EXISTS:
        return "already exists";
    case ERR_PERM:
        return "not permitted";
    case ERR_AGAIN:
        return "try again";
    case ERR_STATE:
        return "not allowed in this state";
    case ERR_FAULT:
        return "bad guest address";
    case ERR_NOSPACE:
        return "no space left";
    default:
        return "unknown error";
    }
}
