/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --cloud-init: what a new system is told at its first start, on a small read-only disk labelled
 * CIDATA, as cloud-init's NoCloud data source looks for it.
 */
#ifndef CMD_CLOUD_INIT_H
#define CMD_CLOUD_INIT_H

#include "hosts/linux/linux.h"

enum { CLOUD_INIT_MAX = 4 << 20 }; /* bytes of a file */

struct cloud_init_option { /* names of files; user_data NULL: no such disk */
    const char *user_data, *meta_data, *network_config;
};

/* "user-data=FILE[,meta-data=FILE][,network-config=FILE]" */
int cloud_init_parse(struct cloud_init_option *c, char *text, struct err *err);
/* The disk, in memory. Without meta-data there is an instance-id made from the other files, so that
 * a system that has seen others of these takes them up. */
int cloud_init_open(struct linux_host *lh, const struct cloud_init_option *c,
                    struct block_backend **out, struct err *err);

#endif
