/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pieces KEY[=VALUE] of an option's text, such as --disk FILE,readonly,queues=2: cut apart one
 * by one, in place, and their values read. Pure functions; err gets what is wrong with which piece.
 */
#ifndef CMD_ITEM_H
#define CMD_ITEM_H

#include "core/base/err.h"

/* One piece being read. The caller fills option, of and err. */
struct item {
    const char *option, *of; /* "--disk", and which of them, for messages; of may be NULL */
    const char *key, *value; /* value NULL: none given */
    struct err *err;
};

/* "NAME[,PIECE...]": cuts off the name, in which commas are doubled, as in QEMU. Returns what
 * follows the name's comma, or NULL. */
char *option_cut_name(char *text);
/* Cuts the next piece off *rest, NULL behind the last one; false: there is none. */
bool item_next(char **rest, struct item *it);
/* The same; commas inside a piece are doubled. */
bool item_next_name(char **rest, struct item *it);

/* These return -ERR_INVAL with err filled when the value is none, else 0. */
int item_flag(const struct item *it, bool *out); /* on, off, or nothing: on */
int item_number(const struct item *it, u64 min, u64 max, u64 *out);
/* So many a second, 1 at least; K, M, G and T are powers of 1024. */
int item_rate(const struct item *it, u64 *out);
/* what: "a number in range" */
int item_bad(const struct item *it, const char *what);
int item_unknown(const struct item *it);

#endif
