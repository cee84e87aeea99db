/* SPDX-License-Identifier: Apache-2.0 */
/* The smaller devices' options of `sosia run`: --balloon, --vsock. */
#ifndef CMD_DEVICES_H
#define CMD_DEVICES_H

#include "cmd/cloud_init.h"
#include "core/base/err.h"
#include "core/board/config.h"

/* "target=64M,deflate-on-oom,stats=5,reporting,hinting", or "on". text is cut in pieces. */
int balloon_option_parse(struct balloon_config *b, char *text, struct err *err);

struct vsock_option {
    u64 cid;          /* 0: no such device */
    const char *path; /* of the Unix socket; NULL: none, only `sosia exec` comes in */
};

/* "3,path=SOCKET" */
int vsock_option_parse(struct vsock_option *v, char *text, struct err *err);

#endif
