/* SPDX-License-Identifier: Apache-2.0 */
/* Networks of `sosia run`: what --net and a configuration file say about a card. */
#ifndef CMD_NET_H
#define CMD_NET_H

#include "core/board/config.h"
#include "hosts/linux/linux.h"

enum net_kind { NET_NONE, NET_USER, NET_TAP, NET_SWITCH, NET_PASST };

struct net_option {
    enum net_kind kind;
    const char *name; /* of the tap, the switch or passt's socket */
    u16 vlan;
    struct net_user_opts user;
    u8 mac[6]; /* all zero: generated */
    u16 mtu;   /* 0: not offered */
    u16 queues;
    struct rate_limit rx, tx;
};

/* "user[,hostfwd=...]", "tap=NAME", "switch=NAME[,vlan=N]", "passt=SOCKET" or "none", and options
 * for all: cuts text into pieces, which must live as long as n. 0 or -ERR_INVAL. */
int net_option_parse(struct net_option *n, char *text, struct err *err);
/* "06:00:ac:10:00:02"; 0 or -ERR_INVAL. */
int mac_parse(const char *text, u8 mac[6]);
/* A MAC address that stays the same as long as machine (a string that says which one it is), host
 * and index do. */
void mac_generate(const char *machine, u32 index, u8 mac[6]);
/* Opens what n names and fills cfg. */
int net_open(struct linux_host *lh, const struct net_option *n, const char *machine, u32 index,
             struct net_config *cfg, struct err *err);

#endif
