/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network frames as devices and back ends see them: virtio's frame header, where the protocol
 * headers of a frame lie, checksums in software, a large TCP segment cut into small ones (what a
 * card does for segmentation offload), and small ones joined into a large one.
 *
 *   Ethernet [VLAN [VLAN]] | IPv4 or IPv6 | TCP or UDP | payload
 *   0                      l3             l4           payload        end (link padding behind)
 *
 * Frames come from guests and from networks: every offset is checked against the length. All
 * functions work on frames that lie in one piece. Virtio 1.2, 5.1.6; RFC 791, 8200, 9293, 1071.
 * No state, no locks.
 */
#ifndef CORE_BASE_PACKET_H
#define CORE_BASE_PACKET_H

#include "core/base/types.h"

/* struct virtio_net_hdr (virtio 1.2, 5.1.6), little-endian. */
struct net_hdr {
    u8 flags;
    u8 gso_type;
    u16 hdr_len;     /* headers in front of the payload, a hint; bytes */
    u16 gso_size;    /* payload of each segment; bytes */
    u16 csum_start;  /* checksum from here to the end of the frame */
    u16 csum_offset; /* and put it here, counted from csum_start */
    u16 num_buffers; /* receive buffers that the frame takes; the device's business */
};
_Static_assert(sizeof(struct net_hdr) == 12, "struct virtio_net_hdr");

enum {
    NET_HDR_NEEDS_CSUM = 1, /* flags; the checksum field holds the sum of the pseudo header */
    NET_HDR_DATA_VALID = 2, /* flags; checksums have been verified */
    NET_GSO_NONE = 0,       /* gso_type */
    NET_GSO_TCPV4 = 1,
    NET_GSO_TCPV6 = 4,
    NET_GSO_ECN = 0x80, /* a bit on top */
};

enum {
    NET_FRAME_MIN = 14,             /* an Ethernet header */
    NET_FRAME_MAX = 65536 + 14 + 4, /* the largest segment with header and VLAN tag */
    NET_HEADERS_MAX = 14 + 8 + 60 + 60,
};

enum { PACKET_TCP = 6, PACKET_UDP = 17 };

struct packet {
    u8 ip;       /* 4, 6; 0: something else, and nothing below counts */
    u8 proto;    /* PACKET_TCP or PACKET_UDP; 0: something else, or a fragment */
    u16 l3;      /* offsets in the frame */
    u16 l4;      /* with proto */
    u16 payload; /* with proto */
    u32 end;     /* of the IP packet */
};

/* Looks at the first `have` bytes of a frame of `len` bytes. IPv6 extension headers count as
 * something else. */
void packet_parse(struct packet *p, const u8 *frame, u32 have, u32 len);

/* Is the header of a frame, whose first `have` bytes (NET_HEADERS_MAX, or all) are given, one that
 * can be carried out? Clears flags that mean nothing and fields that do not apply. */
bool packet_header_ok(struct net_hdr *hdr, const u8 *frame, u32 have, u32 len);

/* The same for both directions of a flow; 0 for frames that belong to none. */
u32 packet_flow_hash(const u8 *frame, u32 have, u32 len);

/* Does what NET_HDR_NEEDS_CSUM asks for; false when the offsets are outside. */
bool packet_checksum(u8 *frame, u32 len, u16 start, u16 offset);

/* --- segmentation ------------------------------------------------------------------------------
 */

struct gso {
    const u8 *frame;
    struct packet p;
    u32 size;   /* payload of a segment */
    u32 at;     /* payload bytes that were cut off */
    u32 length; /* payload bytes in all */
    u32 tcp_seq;
    u16 ip_id;
    u8 tcp_flags;
    u8 head[NET_HEADERS_MAX];
};

/* frame is what hdr with a gso_type describes; max_payload: make segments as large as that allows
 * (in multiples of gso_size), 0: gso_size. False: not a TCP segment that can be cut. */
bool gso_begin(struct gso *g, const struct net_hdr *hdr, const u8 *frame, u32 len, u32 max_payload);
/* The next segment with complete checksums: headers in g->head, payload in the frame, whose bytes
 * in front of it are not needed any more. False when there is no more. */
bool gso_next(struct gso *g, u32 *head_len, const u8 **payload, u32 *payload_len);

/* --- joining -----------------------------------------------------------------------------------
 */

struct gro {
    u32 len;      /* of the frame held; 0: none */
    u32 segments; /* joined in it */
    u32 size;     /* payload of its first segment */
    u32 next_seq;
    bool closed; /* takes nothing more */
    struct packet p;
    u8 frame[NET_FRAME_MAX];
};

/* Takes a frame, whose checksums are right, into g: true. False: it does not fit what is held;
 * flush and call again (into an empty g everything up to NET_FRAME_MAX goes). */
bool gro_add(struct gro *g, const u8 *frame, u32 len);
/* Finishes what is held: fills hdr; the frame is g->frame, its length is returned (0: none). Then
 * g is empty, and the frame stays valid until the next gro_add. */
u32 gro_flush(struct gro *g, struct net_hdr *hdr);

#endif
