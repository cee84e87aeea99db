/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A learning Ethernet switch without its sockets: which port a frame goes to. IEEE 802.1Q, bridges
 * with access ports: each port belongs to one VLAN, given when it is plugged, and a frame only ever
 * goes to ports of the VLAN it came from, whatever is written in it. Tags inside frames are
 * payload.
 *
 *   frame from port p -- source address: learn, or refuse --> table of (VLAN, address) -> port
 *                     -- destination: known? that port; else all of the VLAN but p, within limits
 *
 * Ports belong to hostile guests:
 * - the address that a port was plugged with is its own: others that use it as source are dropped;
 * - a learnt address moves to another port only after the first was silent for VSWITCH_MOVE_NS;
 * - a port holds at most VSWITCH_MACS_PER_PORT addresses, so none is pushed out by a flood;
 * - frames to all are limited to VSWITCH_FLOODS in VSWITCH_FLOOD_NS per port.
 *
 * Left out: spanning tree (ports are machines, not bridges), multicast snooping, trunk ports.
 * No locks: one thread.
 */
#ifndef HOSTS_LINUX_VSWITCH_H
#define HOSTS_LINUX_VSWITCH_H

#include "core/base/types.h"

enum {
    VSWITCH_PORTS = 256,
    VSWITCH_VLAN_MAX = 4094, /* 0: a network of its own for ports that name none */
    VSWITCH_MACS_PER_PORT = 64,
    VSWITCH_SLOTS = 32768, /* twice what all ports may hold; a power of two */
    VSWITCH_FLOODS = 1000,
};
#define VSWITCH_MOVE_NS  (10 * NSEC_PER_SEC)
#define VSWITCH_AGE_NS   (300 * NSEC_PER_SEC)
#define VSWITCH_FLOOD_NS (NSEC_PER_SEC / 10)

struct vswitch_mac {
    u64 key; /* VLAN << 48 | address, + 1; 0: free */
    u64 seen_ns;
    u16 port;
    bool pinned;
};

struct vswitch_port {
    bool used;
    u16 vlan;
    u8 mac[6];
    u32 macs; /* entries of the table */
    u64 aged_ns;
    u64 flood_window;
    u32 floods;
    u64 frames, bytes;    /* from the port */
    u64 spoofed, flooded; /* dropped: a source that is another's; beyond the limit */
    u64 lost;             /* to the port: it did not take them (the server counts) */
};

struct vswitch {
    struct vswitch_port port[VSWITCH_PORTS];
    u32 high; /* ports from here on were never used */
    struct vswitch_mac table[VSWITCH_SLOTS];
};

struct vswitch_set {
    u64 bits[VSWITCH_PORTS / 64];
};

static inline bool vswitch_has(const struct vswitch_set *s, u32 port) {
    return s->bits[port / 64] >> (port % 64) & 1;
}

/*
 * Plugs a port into a VLAN. mac: its address; with `generated`, one that another port of the VLAN
 * has already is changed until it is free, else that is an error. The port's number, -ERR_RANGE
 * (VLAN), -ERR_NOMEM (all ports taken), -ERR_EXISTS (address), -ERR_INVAL (a group's address).
 */
int vswitch_plug(struct vswitch *sw, u16 vlan, u8 mac[6], bool generated, u64 now_ns);
/* Its addresses are forgotten. */
void vswitch_unplug(struct vswitch *sw, u32 port);
/* A frame of at least 14 bytes from a port: the ports it goes to. */
void vswitch_frame(struct vswitch *sw, u32 port, const u8 *frame, u32 len, u64 now_ns,
                   struct vswitch_set *to);

#endif
