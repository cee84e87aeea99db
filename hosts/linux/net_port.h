/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all network back ends of Linux share: a thread of their own that waits for the descriptor,
 * delivers frames to the device and keeps the one that found no buffer, and the way back.
 *
 *   guest -> send (vCPU or event thread, board lock held) ------------> descriptor
 *   descriptor -> port thread: input -> port_deliver -> device, or kept until rx_ready
 *
 * `blocked` and what is kept belong to the port thread; send and rx_ready only set atomics and wake
 * it.
 */
#ifndef HOSTS_LINUX_NET_PORT_H
#define HOSTS_LINUX_NET_PORT_H

#include "core/base/packet.h"
#include "hosts/linux/host.h"

/* VIRTIO_NET_F_* (virtio 1.2, 5.1.3) that back ends speak about. */
#define NET_F_CSUM       BIT(0)
#define NET_F_GUEST_CSUM BIT(1)
#define NET_F_GUEST_TSO4 BIT(7)
#define NET_F_GUEST_TSO6 BIT(8)
#define NET_F_GUEST_ECN  BIT(9)
#define NET_F_HOST_TSO4  BIT(11)
#define NET_F_HOST_TSO6  BIT(12)
#define NET_F_HOST_ECN   BIT(13)
#define NET_F_TX         (NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)
#define NET_F_RX         (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN)

enum { PORT_FRAME = sizeof(struct net_hdr) + NET_FRAME_MAX };

struct net_port {
    struct net_backend be;
    struct linux_host *lh;
    const char *kind; /* "tap", for messages */
    char name[64];
    int fd;      /* -1: none, or gone */
    int wake_fd; /* eventfd */
    pthread_t thread;
    bool running;
    u32 quit, ready, want_write; /* atomic */
    bool blocked;
    struct iov kept[2]; /* of the frame that was refused; the memory stays as it is */
    u32 kept_count;

    /* fd is readable or hung up, the device takes frames: a bounded number of them. */
    void (*input)(struct net_port *p);
    /* fd takes data again, after net_port_full. May be NULL. */
    void (*output)(struct net_port *p);
    /* Instead of waiting for fd: the whole body of the thread. May be NULL. */
    void (*run)(struct net_port *p);
    /* The device took the frame that was kept: go on with what is buffered. May be NULL. */
    void (*resumed)(struct net_port *p);
    /* Last call; frees the port. */
    void (*free)(struct net_port *p);
};

/* Fills the common part; ops is usually net_port_ops(send). */
int net_port_init(struct net_port *p, struct linux_host *lh, const char *kind, const char *name,
                  struct err *err);
/* For struct net_backend_ops. */
void net_port_start(struct net_backend *be);
void net_port_stop(struct net_backend *be);
void net_port_close(struct net_backend *be);
void net_port_rx_ready(struct net_backend *be);

static inline struct net_port *net_port_of(struct net_backend *be) {
    return CONTAINER_OF(be, struct net_port, be);
}

void net_port_wake(struct net_port *p);
/* The descriptor takes nothing now: asks for writable; returns -ERR_AGAIN. Any thread. */
int net_port_full(struct net_port *p);
/* Port thread. False: the device has no room, the frame is kept and nothing more may be
 * delivered until `resumed`. */
bool net_port_deliver(struct net_port *p, const struct iov *iov, u32 count);
/* Port thread: the other side is gone. Pulls the cable and says so once. */
void net_port_hangup(struct net_port *p, const char *why);
/* Port thread: takes rx_ready into account. */
void net_port_retry(struct net_port *p);
bool net_port_quitting(struct net_port *p);

#endif
