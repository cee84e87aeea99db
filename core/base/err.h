/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: a function that can fail returns 0 or one of a few negative codes. Where a person will
 * read about it, it also takes a `struct err *` and records the message and where it was born.
 */
#ifndef CORE_BASE_ERR_H
#define CORE_BASE_ERR_H

#include "core/base/types.h"

enum err_code {
    ERR_INVAL = 1,   /* an argument or a value in a configuration is wrong */
    ERR_NOMEM,       /* out of memory */
    ERR_RANGE,       /* address, size or index outside what is allowed */
    ERR_IO,          /* the host's storage, network or file failed */
    ERR_FORMAT,      /* an image, a table or a file is damaged or not what it claims */
    ERR_UNSUPPORTED, /* known, but not offered here */
    ERR_NOTFOUND,
    ERR_EXISTS,
    ERR_PERM,
    ERR_AGAIN,   /* not now; try later */
    ERR_STATE,   /* not allowed in the present state */
    ERR_FAULT,   /* guest memory access outside RAM */
    ERR_NOSPACE, /* the host's file system or quota is full */
};

struct err {
    int code;         /* negative enum err_code, 0 when nothing was recorded */
    int line;         /* where the error was born */
    const char *file; /* static storage */
    char text[256];   /* names the thing, the reason and what to do; no newline */
};

/* Records an error (err may be NULL) and returns -code. The first error recorded wins. */
int err_record(struct err *err, enum err_code code, const char *file, int line, const char *fmt,
               ...) PRINTF_LIKE(5, 6);

#define ERR_SET(err, code, ...) err_record((err), (code), __FILE__, __LINE__, __VA_ARGS__)

/* A short name for a code, positive or negative ("invalid value"); never NULL. */
const char *err_name(int code);

#endif
