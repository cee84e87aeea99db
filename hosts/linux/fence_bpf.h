/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seccomp programs that hosts/linux/gen/fence_gen.c makes at build time: one for each
 * combination of what a machine's process may still do with sockets and names, and one for vCPU
 * threads. Classic BPF, see linux/filter.h.
 */
#ifndef HOSTS_LINUX_FENCE_BPF_H
#define HOSTS_LINUX_FENCE_BPF_H

#include "core/base/types.h"

enum fence_sockets { FENCE_SOCKETS_NONE, FENCE_SOCKETS_UNIX, FENCE_SOCKETS_INET };
enum fence_names { FENCE_NAMES_NONE, FENCE_NAMES_OPEN, FENCE_NAMES_CHANGE };

enum {
    FENCE_NAMES_LEVELS = FENCE_NAMES_CHANGE + 1,
    FENCE_SOCKETS_LEVELS = FENCE_SOCKETS_INET + 1,
    /* before it: sockets * FENCE_NAMES_LEVELS + names */
    FENCE_BPF_VCPU = FENCE_SOCKETS_LEVELS * FENCE_NAMES_LEVELS,
    FENCE_BPF_COUNT,
    FENCE_BPF_MAX = 4096,     /* instructions: BPF_MAXINSNS */
    FENCE_BPF_PID = 0x7f5a5a, /* more than any process's number (PID_MAX_LIMIT, 2^22) */
};

struct sock_filter;
struct fence_bpf {
    const struct sock_filter *filter;
    u32 length;
};

extern const struct fence_bpf fence_programs[FENCE_BPF_COUNT];

#endif
