/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes frames: header checks, checksums, cutting and joining. The frame lies in memory of exactly
 * its length; what is cut must be whole again when it is joined. */
#include <stdlib.h>
#include <string.h>

#include "core/base/packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u8 joined[NET_FRAME_MAX];

static void cut(const struct net_hdr *hdr, const u8 *frame, u32 len, u32 max) {
    static struct gso g;
    static struct gro join;
    struct packet p;
    struct net_hdr out;
    u32 head, part, done = 0;
    const u8 *payload;
    if (!gso_begin(&g, hdr, frame, len, max)) {
        return;
    }
    while (gso_next(&g, &head, &payload, &part)) {
        memcpy(joined, g.head, head);
        memcpy(joined + head, payload, part);
        packet_parse(&p, joined, head + part, head + part);
        if (p.end != head + part || p.proto != PACKET_TCP) {
            abort();
        }
        done += part;
        if (!gro_add(&join, joined, head + part)) {
            gro_flush(&join, &out);
            gro_add(&join, joined, head + part);
        }
    }
    u32 left = gro_flush(&join, &out);
    if (done != g.length || (left && !packet_header_ok(&out, join.frame, left, left))) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct gro join;
    struct net_hdr hdr, out;
    if (size < sizeof(hdr) + NET_FRAME_MIN || size > sizeof(hdr) + NET_FRAME_MAX) {
        return 0;
    }
    memcpy(&hdr, data, sizeof(hdr));
    u32 len = (u32)(size - sizeof(hdr)), have = MIN(len, (u32)NET_HEADERS_MAX);
    u8 *frame = malloc(len), *head = malloc(have);
    memcpy(frame, data + sizeof(hdr), len);
    memcpy(head, frame, have);
    packet_flow_hash(head, have, len);
    cut(&hdr, frame, len, hdr.num_buffers);
    if (!gro_add(&join, frame, len)) {
        gro_flush(&join, &out);
        gro_add(&join, frame, len);
    }
    if (packet_header_ok(&hdr, head, have, len)) {
        cut(&hdr, frame, len, 0);
        if (hdr.flags & NET_HDR_NEEDS_CSUM &&
            !packet_checksum(frame, len, hdr.csum_start, hdr.csum_offset)) {
            abort();
        }
    }
    free(frame);
    free(head);
    return 0;
}
