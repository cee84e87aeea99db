/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames; see packet.h. Left out: UDP segmentation, tunnels, IPv6 extension headers, jumbograms.
 */
#include "core/base/packet.h"

enum { ETH_P_IP = 0x0800, ETH_P_IPV6 = 0x86dd, ETH_P_8021Q = 0x8100, ETH_P_8021AD = 0x88a8 };
enum { IP4_LEN = 2, IP4_ID = 4, IP4_FRAG = 6, IP4_PROTO = 9, IP4_CSUM = 10, IP4_SRC = 12 };
enum { IP6_LEN = 4, IP6_NEXT = 6, IP6_SRC = 8, IP6_SIZE = 40 };
enum { TCP_SEQ = 4, TCP_ACK = 8, TCP_OFF = 12, TCP_FLAGS = 13, TCP_CSUM = 16, TCP_MIN = 20 };
enum { UDP_SIZE = 8 };
enum { GSO_SIZE_MIN = 8 }; /* the smallest segment that a TCP with all its options sends */
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_ACK_FLAG = 16, TCP_CWR = 128 };

static u16 get16(const u8 *p) {
    return (u16)(p[0] << 8 | p[1]);
}

static u32 get32(const u8 *p) {
    return (u32)get16(p) << 16 | get16(p + 2);
}

static void put16(u8 *p, u32 v) {
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void put32(u8 *p, u32 v) {
    put16(p, v >> 16);
    put16(p + 2, v);
}

/* --- headers ---------------------------------------------------------------------------------- */

static void parse_l4(struct packet *p, const u8 *frame, u32 have, u8 proto, u32 l4) {
    u32 size;
    if (proto == PACKET_TCP && l4 + TCP_MIN <= have) {
        size = (u32)(frame[l4 + TCP_OFF] >> 4) * 4;
        size = size < TCP_MIN ? UINT16_MAX : size;
    } else if (proto == PACKET_UDP) {
        size = UDP_SIZE;
    } else {
        return;
    }
    if (l4 + size <= have && l4 + size <= p->end) {
        p->proto = proto;
        p->l4 = (u16)l4;
        p->payload = (u16)(l4 + size);
    }
}

static void parse_ip4(struct packet *p, const u8 *frame, u32 have, u32 len, u32 l3) {
    if (l3 + 20 > have || frame[l3] >> 4 != 4) {
        return;
    }
    u32 header = (frame[l3] & 15u) * 4, total = get16(frame + l3 + IP4_LEN);
    if (header < 20 || total < header || l3 + header > have || l3 + total > len) {
        return;
    }
    p->ip = 4;
    p->l3 = (u16)l3;
    p->end = l3 + total;
    if (!(get16(frame + l3 + IP4_FRAG) & 0x3fff)) { /* neither more fragments nor an offset */
        parse_l4(p, frame, have, frame[l3 + IP4_PROTO], l3 + header);
    }
}

static void parse_ip6(struct packet *p, const u8 *frame, u32 have, u32 len, u32 l3) {
    if (l3 + IP6_SIZE > have || frame[l3] >> 4 != 6) {
        return;
    }
    u32 total = IP6_SIZE + (u32)get16(frame + l3 + IP6_LEN);
    if (l3 + total > len) {
        return;
    }
    p->ip = 6;
    p->l3 = (u16)l3;
    p->end = l3 + total;
    parse_l4(p, frame, have, frame[l3 + IP6_NEXT], l3 + IP6_SIZE);
}

void packet_parse(struct packet *p, const u8 *frame, u32 have, u32 len) {
    u32 at = 12;
    *p = (struct packet){0};
    have = MIN(have, len);
    for (u32 tags = 0; at + 2 <= have; tags++, at += 4) {
        u16 type = get16(frame + at);
        if (type == ETH_P_IP) {
            parse_ip4(p, frame, have, len, at + 2);
            return;
        }
        if (type == ETH_P_IPV6) {
            parse_ip6(p, frame, have, len, at + 2);
            return;
        }
        if ((type != ETH_P_8021Q && type != ETH_P_8021AD) || tags == 2) {
            return;
        }
    }
}

bool packet_header_ok(struct net_hdr *hdr, const u8 *frame, u32 have, u32 len) {
    struct packet p;
    hdr->flags &= NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID;
    hdr->num_buffers = 0;
    if (!(hdr->flags & NET_HDR_NEEDS_CSUM)) {
        hdr->csum_start = hdr->csum_offset = 0;
    } else if (hdr->csum_start >= len || (u32)hdr->csum_start + hdr->csum_offset + 2 > len) {
        return false;
    }
    if (hdr->gso_type == NET_GSO_NONE) {
        hdr->gso_size = hdr->hdr_len = 0;
        return true;
    }
    packet_parse(&p, frame, have, len);
    u8 type = p.ip == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
    hdr->hdr_len = p.payload;
    return p.proto == PACKET_TCP && (hdr->gso_type & ~NET_GSO_ECN) == type &&
           (hdr->flags & NET_HDR_NEEDS_CSUM) && hdr->csum_start == p.l4 &&
           hdr->csum_offset == TCP_CSUM && hdr->gso_size >= GSO_SIZE_MIN && p.end > p.payload;
}

u32 packet_flow_hash(const u8 *frame, u32 have, u32 len) {
    struct packet p;
    packet_parse(&p, frame, have, len);
    if (!p.ip) {
        return 0;
    }
    /* addition does not care which side is the source */
    u32 hash = 0, count = p.ip == 4 ? 2 : 8;
    const u8 *address = frame + p.l3 + (p.ip == 4 ? (u32)IP4_SRC : (u32)IP6_SRC);
    for (u32 i = 0; i < count; i++) {
        hash += get32(address + i * 4) * 0x9e3779b1u;
    }
    if (p.proto) {
        hash += (u32)(get16(frame + p.l4) + get16(frame + p.l4 + 2)) * 0x85ebca6bu;
    }
    hash ^= hash >> 15;
    hash *= 0x2c1b3c6du;
    hash ^= hash >> 13;
    return hash ? hash : 1;
}

/* --- checksums -------------------------------------------------------------------------------- */

/* The ones' complement sum in the byte order of memory (RFC 1071, 2(B)); an odd last byte is padded
 * with zero, so only the last piece may be odd. */
static u64 sum_add(u64 sum, const u8 *data, u32 len) {
    u64 a = 0, b = 0;
    for (; len >= 16; data += 16, len -= 16) {
        u32 w[4];
        memcpy(w, data, 16);
        a += (u64)w[0] + w[1];
        b += (u64)w[2] + w[3];
    }
    for (; len >= 2; data += 2, len -= 2) {
        u16 w;
        memcpy(&w, data, 2);
        a += w;
    }
    if (len) {
        a += *data;
    }
    return sum + a + b;
}

static u16 sum_fold(u64 sum) {
    sum = (sum & UINT32_MAX) + (sum >> 32);
    sum = (sum & UINT32_MAX) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)sum;
}

/* sum in memory order, so the bytes go out as they are */
static void sum_store(u8 *at, u16 sum) {
    memcpy(at, &sum, 2);
}

static u64 sum_word(u64 sum, u32 value) {
    u8 be[4];
    put32(be, value);
    return sum_add(sum, be, 4);
}

static u64 pseudo_sum(const struct packet *p, const u8 *head, u32 l4_len) {
    u32 size = p->ip == 4 ? 8 : 32;
    u64 sum = sum_add(0, head + p->l3 + (p->ip == 4 ? (u32)IP4_SRC : (u32)IP6_SRC), size);
    return sum_word(sum_word(sum, p->proto), l4_len);
}

static void ip4_checksum(u8 *ip) {
    put16(ip + IP4_CSUM, 0);
    sum_store(ip + IP4_CSUM, (u16)~sum_fold(sum_add(0, ip, (ip[0] & 15u) * 4)));
}

bool packet_checksum(u8 *frame, u32 len, u16 start, u16 offset) {
    u32 at = (u32)start + offset;
    if (start >= len || at + 2 > len) {
        return false;
    }
    u16 sum = (u16)~sum_fold(sum_add(0, frame + start, len - start));
    sum_store(frame + at, sum ? sum : 0xffff); /* 0 means "none" in UDP */
    return true;
}

/* --- segmentation ----------------------------------------------------------------------------- */

bool gso_begin(struct gso *g, const struct net_hdr *hdr, const u8 *frame, u32 len,
               u32 max_payload) {
    u8 type = hdr->gso_type & (u8)~NET_GSO_ECN;
    packet_parse(&g->p, frame, len, len);
    if (g->p.proto != PACKET_TCP || g->p.payload > NET_HEADERS_MAX || !hdr->gso_size ||
        type != (g->p.ip == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6)) {
        return false;
    }
    g->frame = frame;
    g->size = hdr->gso_size;
    if (max_payload > g->size) {
        g->size = max_payload - max_payload % g->size;
    }
    g->at = 0;
    g->length = g->p.end - g->p.payload;
    g->tcp_seq = get32(frame + g->p.l4 + TCP_SEQ);
    g->tcp_flags = frame[g->p.l4 + TCP_FLAGS];
    g->ip_id = g->p.ip == 4 ? get16(frame + g->p.l3 + IP4_ID) : 0;
    memcpy(g->head, frame, g->p.payload);
    return true;
}

/* Lengths, identification, sequence number and flags of the segment at g->at. */
static void segment_headers(struct gso *g, u32 payload_len) {
    u8 *ip = g->head + g->p.l3, *tcp = g->head + g->p.l4;
    u8 flags = g->tcp_flags;
    if (g->p.ip == 4) {
        put16(ip + IP4_LEN, g->p.payload - g->p.l3 + payload_len);
        put16(ip + IP4_ID, g->ip_id++);
        ip4_checksum(ip);
    } else {
        put16(ip + IP6_LEN, g->p.payload - g->p.l3 - IP6_SIZE + payload_len);
    }
    if (g->at) {
        flags &= (u8)~TCP_CWR; /* once, in the first */
    }
    if (g->at + payload_len < g->length) {
        flags &= (u8) ~(TCP_FIN | TCP_PSH); /* in the last */
    }
    tcp[TCP_FLAGS] = flags;
    put32(tcp + TCP_SEQ, g->tcp_seq + g->at);
}

bool gso_next(struct gso *g, u32 *head_len, const u8 **payload, u32 *payload_len) {
    u32 n = MIN(g->size, g->length - g->at);
    if (!n) {
        return false;
    }
    u8 *tcp = g->head + g->p.l4;
    u32 tcp_header = g->p.payload - g->p.l4;
    *head_len = g->p.payload;
    *payload = g->frame + g->p.payload + g->at;
    *payload_len = n;
    segment_headers(g, n);
    put16(tcp + TCP_CSUM, 0);
    u64 sum = sum_add(pseudo_sum(&g->p, g->head, tcp_header + n), tcp, tcp_header);
    sum_store(tcp + TCP_CSUM, (u16)~sum_fold(sum_add(sum, *payload, n)));
    g->at += n;
    return true;
}

/* --- joining ---------------------------------------------------------------------------------- */

/* Can this frame begin a joined one: TCP data with nothing but ACK and PSH, no IP options? */
static bool gro_starts(const struct packet *p, const u8 *frame) {
    return p->proto == PACKET_TCP && p->end > p->payload &&
           p->l4 - p->l3 == (p->ip == 4 ? 20 : IP6_SIZE) &&
           (frame[p->l4 + TCP_FLAGS] & ~TCP_PSH) == TCP_ACK_FLAG;
}

/* Are the headers the same but for lengths, identification, sequence, PSH and checksums? The window
 * may move: the last one counts. */
static bool gro_same_flow(const struct gro *g, const struct packet *p, const u8 *frame) {
    const u8 *held = g->frame;
    u32 l3 = p->l3, l4 = p->l4;
    if (g->p.l3 != l3 || g->p.l4 != l4 || g->p.payload != p->payload || g->p.ip != p->ip ||
        memcmp(held, frame, l3) != 0) {
        return false;
    }
    if (p->ip == 4) {
        if (held[l3 + 1] != frame[l3 + 1] || held[l3 + 8] != frame[l3 + 8] ||
            memcmp(held + l3 + IP4_SRC, frame + l3 + IP4_SRC, 8) != 0) {
            return false;
        }
    } else if (memcmp(held + l3, frame + l3, 4) != 0 || held[l3 + 7] != frame[l3 + 7] ||
               memcmp(held + l3 + IP6_SRC, frame + l3 + IP6_SRC, 32) != 0) {
        return false;
    }
    return memcmp(held + l4, frame + l4, 4) == 0 &&
           memcmp(held + l4 + TCP_ACK, frame + l4 + TCP_ACK, 5) == 0 &&
           memcmp(held + l4 + TCP_MIN, frame + l4 + TCP_MIN, p->payload - l4 - TCP_MIN) == 0;
}

static void gro_start(struct gro *g, const struct packet *p, const u8 *frame, u32 len) {
    memcpy(g->frame, frame, len);
    g->len = len;
    g->segments = 1;
    g->p = *p;
    g->closed = !gro_starts(p, frame);
    if (!g->closed) {
        g->len = p->end; /* without the padding of the link */
        g->size = p->end - p->payload;
        g->next_seq = get32(frame + p->l4 + TCP_SEQ) + g->size;
        g->closed = frame[p->l4 + TCP_FLAGS] & TCP_PSH;
    }
}

bool gro_add(struct gro *g, const u8 *frame, u32 len) {
    struct packet p;
    packet_parse(&p, frame, len, len);
    if (!g->len) {
        gro_start(g, &p, frame, MIN(len, (u32)NET_FRAME_MAX));
        return true;
    }
    u32 n = p.end - p.payload;
    if (g->closed || !gro_starts(&p, frame) || n > g->size || !gro_same_flow(g, &p, frame) ||
        get32(frame + p.l4 + TCP_SEQ) != g->next_seq || g->len + n - p.l3 > UINT16_MAX) {
        return false;
    }
    memcpy(g->frame + g->len, frame + p.payload, n);
    g->len += n;
    g->next_seq += n;
    g->segments++;
    u8 *tcp = g->frame + p.l4;
    memcpy(tcp + 14, frame + p.l4 + 14, 2); /* window */
    tcp[TCP_FLAGS] |= frame[p.l4 + TCP_FLAGS];
    g->closed = n < g->size || (tcp[TCP_FLAGS] & TCP_PSH);
    return true;
}

static void gro_headers(struct gro *g) {
    u8 *ip = g->frame + g->p.l3, *tcp = g->frame + g->p.l4;
    if (g->p.ip == 4) {
        put16(ip + IP4_LEN, g->len - g->p.l3);
        ip4_checksum(ip);
    } else {
        put16(ip + IP6_LEN, g->len - g->p.l3 - IP6_SIZE);
    }
    sum_store(tcp + TCP_CSUM, sum_fold(pseudo_sum(&g->p, g->frame, g->len - g->p.l4)));
}

u32 gro_flush(struct gro *g, struct net_hdr *hdr) {
    u32 len = g->len;
    *hdr = (struct net_hdr){0};
    if (g->p.proto && len) {
        hdr->flags = NET_HDR_DATA_VALID;
    }
    if (g->segments > 1 && len) {
        gro_headers(g);
        *hdr = (struct net_hdr){.flags = NET_HDR_NEEDS_CSUM,
                                .gso_type = g->p.ip == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
                                .hdr_len = g->p.payload,
                                .gso_size = (u16)g->size,
                                .csum_start = g->p.l4,
                                .csum_offset = TCP_CSUM};
    }
    g->len = 0;
    g->segments = 0;
    return len;
}
