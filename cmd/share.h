/* SPDX-License-Identifier: Apache-2.0 */
/* Shared folders of `sosia run`: what --share says about one. */
#ifndef CMD_SHARE_H
#define CMD_SHARE_H

#include "core/base/err.h"

struct share_option {
    const char *path, *tag;
    bool readonly;
};

/* "DIR,tag=T[,readonly]": cuts text into pieces, which must live as long as o. 0 or -ERR_INVAL. */
int share_option_parse(struct share_option *o, char *text, struct err *err);

#endif
