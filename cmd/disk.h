/* SPDX-License-Identifier: Apache-2.0 */
/* Disks of `sosia run`: what --disk and a configuration file say about one. */
#ifndef CMD_DISK_H
#define CMD_DISK_H

#include "core/dev/blk_limit.h"
#include "hosts/linux/linux.h"

struct disk_option {
    struct blk_options open;
    char serial[21]; /* empty: "sosia-diskN" */
    u32 queues;      /* 0: as many as vCPUs, at most 8 */
    bool pause_when_full;
    struct rate_limit limit; /* all zero: none */
    bool limit_always;       /* a limiter even so: it may be given limits while it runs */
};

/* "FILE[,readonly][,snapshot][,format=..]...": cuts text into pieces, which must live as long as d.
 * 0 or -ERR_INVAL. */
int disk_option_parse(struct disk_option *d, char *text, struct err *err);
/* full is told when the machine should stand still, with on-full=pause. */
int disk_open(struct linux_host *lh, const struct disk_option *d, blk_full_fn full, void *ctx,
              struct block_backend **out, struct err *err);

#endif
