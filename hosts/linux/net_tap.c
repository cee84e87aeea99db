/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap device of the host as network back end. The kernel knows virtio's frame header
 * (IFF_VNET_HDR), so checksums and segmentation are left to it in both directions. The device must
 * exist: who made it decides who may use it and what it is connected to.
 * Manual: Linux, Documentation/networking/tuntap.rst. Left out: several queues of one tap.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hosts/linux/net_port.h"

enum { TAP_FRAMES_PER_INPUT = 64 };

struct net_tap {
    struct net_port port;
    u8 rx[PORT_FRAME];
};

_Static_assert(sizeof(struct iov) == sizeof(struct iovec), "struct iov is struct iovec");

static int tap_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct net_port *p = net_port_of(be);
    ssize_t n;
    do {
        n = writev(p->fd, (const struct iovec *)(const void *)iov, (int)count);
    } while (n < 0 && errno == EINTR);
    /* any other failure loses the frame: the interface is down, or the kernel refuses it */
    return n < 0 && errno == EAGAIN ? net_port_full(p) : 0;
}

static void tap_input(struct net_port *p) {
    struct net_tap *t = CONTAINER_OF(p, struct net_tap, port);
    for (u32 i = 0; i < TAP_FRAMES_PER_INPUT; i++) {
        ssize_t n = read(p->fd, t->rx, sizeof(t->rx));
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            net_port_hangup(p, "the tap device is gone");
        }
        if (n <= 0 || !net_port_deliver(p, &(struct iov){t->rx, (size_t)n}, 1)) {
            return;
        }
    }
}

static void tap_set_offloads(struct net_backend *be, u64 offloads) {
    struct net_port *p = net_port_of(be);
    unsigned long f = 0;
    if (offloads & NET_F_GUEST_CSUM) {
        f |= TUN_F_CSUM;
        f |= offloads & NET_F_GUEST_TSO4 ? TUN_F_TSO4 : 0;
        f |= offloads & NET_F_GUEST_TSO6 ? TUN_F_TSO6 : 0;
        f |= offloads & NET_F_GUEST_ECN && f & (TUN_F_TSO4 | TUN_F_TSO6) ? TUN_F_TSO_ECN : 0;
    }
    ioctl(p->fd, TUNSETOFFLOAD, f);
}

static void tap_free(struct net_port *p) {
    free(CONTAINER_OF(p, struct net_tap, port));
}

static const struct net_backend_ops tap_ops = {.send = tap_send,
                                               .set_offloads = tap_set_offloads,
                                               .rx_ready = net_port_rx_ready,
                                               .start = net_port_start,
                                               .stop = net_port_stop,
                                               .close = net_port_close};

static int tap_attach(struct net_port *p, const char *name, struct err *err) {
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int hdr_size = sizeof(struct net_hdr);
    if (strlen(name) >= IFNAMSIZ || !if_nametoindex(name)) {
        return ERR_SET(err, ERR_NOTFOUND,
                       "--net tap=%s: there is no such interface; make it with `ip tuntap add "
                       "dev %s mode tap user $USER`",
                       name, name);
    }
    memcpy(ifr.ifr_name, name, strlen(name));
    p->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (p->fd < 0) {
        return ERR_SET(err, ERR_IO, "--net tap=%s: /dev/net/tun: %s", name, strerror(errno));
    }
    if (ioctl(p->fd, TUNSETIFF, &ifr)) {
        const char *why = errno == EBUSY    ? "another process uses it"
                          : errno == EPERM  ? "it belongs to another user"
                          : errno == EINVAL ? "it is not a tap device (or one for several queues)"
                                            : strerror(errno);
        return ERR_SET(err, ERR_IO, "--net tap=%s: %s", name, why);
    }
    if (ioctl(p->fd, TUNSETVNETHDRSZ, &hdr_size)) {
        return ERR_SET(err, ERR_IO, "--net tap=%s: header size: %s", name, strerror(errno));
    }
    return 0;
}

int net_tap_open(struct linux_host *lh, const char *name, struct net_backend **out,
                 struct err *err) {
    struct net_tap *t = calloc(1, sizeof(*t));
    if (!t) {
        return ERR_SET(err, ERR_NOMEM, "--net tap: out of memory");
    }
    struct net_port *p = &t->port;
    p->be =
        (struct net_backend){.ops = &tap_ops, .vnet_hdr = true, .offloads = NET_F_TX | NET_F_RX};
    p->input = tap_input;
    p->free = tap_free;
    int rc = net_port_init(p, lh, "tap", name, err);
    rc = rc ? rc : tap_attach(p, name, err);
    if (rc) {
        net_port_close(&p->be);
        return rc;
    }
    *out = &p->be;
    return 0;
}
