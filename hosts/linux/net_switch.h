/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine and a switch say to each other on a Unix socket (SOCK_SEQPACKET): one hello, one
 * welcome, then frames with their struct net_hdr in front, one a message, both ways.
 */
#ifndef HOSTS_LINUX_NET_SWITCH_H
#define HOSTS_LINUX_NET_SWITCH_H

#include <sys/un.h>

#include "core/base/err.h"

#define SWITCH_MAGIC 0x31575353u /* "SSW1" */

enum { SWITCH_PLUG = 1, SWITCH_STATUS = 2 };

struct switch_hello {
    u32 magic;
    u16 kind;
    u16 vlan;
    u8 mac[6];
    u8 generated; /* the switch may change the address until it is free */
    u8 pad;
};
_Static_assert(sizeof(struct switch_hello) == 16, "struct switch_hello");

struct switch_welcome {
    u32 magic;
    s32 result; /* 0, or the negative code of vswitch_plug */
    u8 mac[6];
    u16 port;
};
_Static_assert(sizeof(struct switch_welcome) == 16, "struct switch_welcome");

/* The socket of the switch NAME (letters, digits, - and _, at most 32) in the runtime directory,
 * which is made when it is missing. */
int switch_address(const char *name, struct sockaddr_un *out, struct err *err);

#endif
