/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the user network: port forwards (net_forward.c), libslirp's functions (net_slirp.c),
 * the back end itself (net_user.c). */
#ifndef HOSTS_LINUX_NET_USER_H
#define HOSTS_LINUX_NET_USER_H

#include <netinet/in.h>
#include <slirp/libslirp.h>
#include <sys/socket.h>

#include "core/base/err.h"

/* tcp|udp : host address : host port - guest address : guest port */
struct net_forward {
    bool udp;
    struct sockaddr_storage host, guest;
    socklen_t host_len, guest_len;
};

/* Reads "tcp:127.0.0.1:2222-:22", "udp::53-10.0.2.15:53" or "tcp:[::1]:80-:80". An empty host
 * address is any, as in QEMU; an empty guest address is the one that DHCP gives out. */
int net_forward_parse(const char *text, struct net_forward *out, struct err *err);

/* libslirp is loaded when a machine asks for a user network, so that others do not carry it. */
struct slirp_lib {
    __typeof__(&slirp_new) create;
    __typeof__(&slirp_cleanup) cleanup;
    __typeof__(&slirp_pollfds_fill) pollfds_fill;
    __typeof__(&slirp_pollfds_poll) pollfds_poll;
    __typeof__(&slirp_input) input;
    __typeof__(&slirp_add_hostxfwd) add_hostxfwd;
};

/* The library stays loaded. */
int slirp_lib_load(struct slirp_lib *lib, struct err *err);

#endif
