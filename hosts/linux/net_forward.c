/* SPDX-License-Identifier: Apache-2.0 */
/* Port forwards of the user network in QEMU's notation; see net_user.h. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hosts/linux/net_user.h"

/* ADDRESS:PORT up to `end`; brackets around IPv6. Returns behind it, or NULL. */
static const char *address_parse(const char *text, char end, struct sockaddr_storage *out,
                                 socklen_t *len, const char *none) {
    char address[64] = "";
    const char *close = *text == '[' ? strchr(text, ']') : NULL;
    const char *colon = strchr(close ? close : text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (!colon || n >= sizeof(address)) {
        return NULL;
    }
    memcpy(address, text + (close ? 1 : 0), close ? (size_t)(close - text) - 1 : n);
    char *rest;
    unsigned long port = strtoul(colon + 1, &rest, 10);
    if (rest == colon + 1 || *rest != end || !port || port > 65535 || colon[1] == '-' ||
        colon[1] == '+') {
        return NULL;
    }
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((u16)port)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((u16)port)};
    *out = (struct sockaddr_storage){0};
    if (close && close[1] == ':' && inet_pton(AF_INET6, address, &a6.sin6_addr) == 1) {
        memcpy(out, &a6, sizeof(a6));
        *len = sizeof(a6);
    } else if (!close && inet_pton(AF_INET, *address ? address : none, &a4.sin_addr) == 1) {
        memcpy(out, &a4, sizeof(a4));
        *len = sizeof(a4);
    } else {
        return NULL;
    }
    return *rest ? rest + 1 : rest;
}

int net_forward_parse(const char *text, struct net_forward *out, struct err *err) {
    *out = (struct net_forward){.udp = !strncmp(text, "udp:", 4)};
    const char *at = out->udp || !strncmp(text, "tcp:", 4) ? text + 4 : NULL;
    at = at ? address_parse(at, '-', &out->host, &out->host_len, "0.0.0.0") : NULL;
    at = at ? address_parse(at, 0, &out->guest, &out->guest_len, "0.0.0.0") : NULL;
    if (!at || out->host.ss_family != out->guest.ss_family) {
        return ERR_SET(err, ERR_INVAL,
                       "hostfwd=%s: not as in tcp:127.0.0.1:2222-:22 "
                       "(tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT)",
                       text);
    }
    return 0;
}
