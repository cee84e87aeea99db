/* SPDX-License-Identifier: Apache-2.0 */
/* Frames for the tests of the network: TCP and UDP over IPv4 and IPv6, and a slow, plain check of
 * their checksums. */
#ifndef TESTS_UNIT_FRAMES_H
#define TESTS_UNIT_FRAMES_H

#include <string.h>

#include "core/base/packet.h"

static inline void frame_put16(u8 *p, u32 v) {
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static inline u32 frame_get16(const u8 *p) {
    return (u32)p[0] << 8 | p[1];
}

static inline u32 frame_get32(const u8 *p) {
    return frame_get16(p) << 16 | frame_get16(p + 2);
}

/* RFC 1071, word by word. */
static inline u32 frame_sum(const u8 *p, u32 len) {
    u32 sum = 0;
    for (u32 i = 0; i < len; i++) {
        sum += i & 1 ? p[i] : (u32)p[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static inline u32 frame_pseudo(const u8 *f, const struct packet *p) {
    u32 len = p->end - p->l4;
    u32 sum = p->ip == 4 ? frame_sum(f + p->l3 + 12, 8) : frame_sum(f + p->l3 + 8, 32);
    sum += p->proto + len;
    return (sum & 0xffff) + (sum >> 16);
}

/* Are the checksums of IPv4 and of TCP or UDP right? */
static inline bool frame_good(const u8 *f, u32 len) {
    struct packet p;
    packet_parse(&p, f, len, len);
    if (!p.proto || (p.ip == 4 && frame_sum(f + p.l3, p.l4 - p.l3) != 0xffff)) {
        return false;
    }
    u32 sum = frame_pseudo(f, &p) + frame_sum(f + p.l4, p.end - p.l4);
    return (sum & 0xffff) + (sum >> 16) == 0xffff;
}

struct frame_opts {
    u32 ip;      /* 4 or 6 */
    u32 proto;   /* PACKET_TCP, PACKET_UDP */
    u32 vlans;   /* tags */
    u32 options; /* bytes of TCP options, a multiple of 4 */
    u32 seq, port;
    u8 flags; /* TCP */
};

/* Ethernet to TCP or UDP with n bytes of payload 0, 1, 2 ... (from seq on). The checksum field
 * holds the sum of the pseudo header, as for NET_HDR_NEEDS_CSUM. Returns the length. */
static inline u32 frame_make(u8 *f, const struct frame_opts *o, u32 n) {
    struct packet p = {.ip = (u8)o->ip, .proto = (u8)o->proto, .l3 = (u16)(14 + 4 * o->vlans)};
    u32 l4_size = o->proto == PACKET_TCP ? 20 + o->options : 8;
    p.l4 = (u16)(p.l3 + (o->ip == 4 ? 20 : 40));
    p.payload = (u16)(p.l4 + l4_size);
    p.end = p.payload + n;
    memset(f, 0, p.payload);
    memcpy(f, "\x02\0\0\1\2\3\x02\0\0\0\0\7", 12);
    for (u32 i = 0; i < o->vlans; i++) {
        frame_put16(f + 12 + 4 * i, 0x8100);
        f[15 + 4 * i] = 7;
    }
    u8 *ip = f + p.l3, *l4 = f + p.l4;
    frame_put16(ip - 2, o->ip == 4 ? 0x0800 : 0x86dd);
    if (o->ip == 4) {
        ip[0] = 0x45;
        frame_put16(ip + 2, p.end - p.l3);
        frame_put16(ip + 4, 0xfffe);
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = p.proto;
        memcpy(ip + 12, "\x0a\0\x02\x0f\x0a\0\x02\x02", 8);
        frame_put16(ip + 10, ~frame_sum(ip, 20) & 0xffff);
    } else {
        ip[0] = 0x60;
        frame_put16(ip + 4, p.end - p.l4);
        ip[6] = p.proto;
        ip[7] = 64;
        memset(ip + 8, 0xfe, 32);
        ip[39] = 2;
    }
    frame_put16(l4, 1000 + o->port);
    frame_put16(l4 + 2, 80);
    if (o->proto == PACKET_TCP) {
        frame_put16(l4 + 4, o->seq >> 16);
        frame_put16(l4 + 6, o->seq);
        l4[12] = (u8)(l4_size / 4 << 4);
        l4[13] = o->flags;
        frame_put16(l4 + 14, 0x7210);
    } else {
        frame_put16(l4 + 4, p.end - p.l4);
    }
    for (u32 i = 0; i < n; i++) {
        f[p.payload + i] = (u8)((o->seq + i) * 7 >> 1);
    }
    frame_put16(l4 + (o->proto == PACKET_TCP ? 16 : 6), frame_pseudo(f, &p));
    return p.end;
}

/* What the driver says about such a frame. */
static inline struct net_hdr frame_header(const u8 *f, u32 len, u16 gso_size) {
    struct packet p;
    packet_parse(&p, f, len, len);
    struct net_hdr h = {.flags = NET_HDR_NEEDS_CSUM,
                        .csum_start = p.l4,
                        .csum_offset = p.proto == PACKET_TCP ? 16 : 6};
    if (gso_size) {
        h.gso_type = p.ip == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
        h.gso_size = gso_size;
        h.hdr_len = p.payload;
    }
    return h;
}

#endif
