/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: parsing, checksums against a slow one, cutting and joining TCP segments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/frames.h"

enum { FIN = 1, PSH = 8, ACK = 16, CWR = 128 };

static u8 frame[NET_FRAME_MAX], out[NET_FRAME_MAX];

static void parse(void **state) {
    (void)state;
    struct packet p;
    for (u32 ip = 4; ip <= 6; ip += 2) {
        for (u32 vlans = 0; vlans <= 2; vlans++) {
            struct frame_opts o = {.ip = ip, .proto = PACKET_TCP, .vlans = vlans, .options = 12};
            u32 len = frame_make(frame, &o, 100);
            packet_parse(&p, frame, len, len + 5);
            assert_int_equal(p.ip, ip);
            assert_int_equal(p.l3, 14 + 4 * vlans);
            assert_int_equal(p.payload - p.l4, 32);
            assert_int_equal(p.end, len);
            packet_parse(&p, frame, len, len - 1); /* shorter than it says */
            assert_int_equal(p.ip, 0);
            packet_parse(&p, frame, p.l3 + 60u, len);
        }
    }
    for (u32 have = 0; have < 80; have++) { /* nothing is read beyond what is there */
        u8 *exact = malloc(have + 1);
        memcpy(exact, frame, have);
        packet_parse(&p, exact, have, 100);
        packet_flow_hash(exact, have, 100);
        free(exact);
    }
}

static void parse_others(void **state) {
    (void)state;
    struct packet p;
    struct frame_opts o = {.ip = 4, .proto = PACKET_UDP};
    u32 len = frame_make(frame, &o, 10);
    packet_parse(&p, frame, len, len);
    assert_int_equal(p.proto, PACKET_UDP);
    frame[20] |= 0x20; /* more fragments */
    packet_parse(&p, frame, len, len);
    assert_int_equal(p.ip, 4);
    assert_int_equal(p.proto, 0);
    frame[14] = 0x44; /* a header of 16 bytes */
    packet_parse(&p, frame, len, len);
    assert_int_equal(p.ip, 0);
    o.vlans = 3;
    len = frame_make(frame, &o, 10);
    packet_parse(&p, frame, len, len);
    assert_int_equal(p.ip, 0);
    o = (struct frame_opts){.ip = 4, .proto = PACKET_TCP};
    len = frame_make(frame, &o, 10);
    frame[34 + 12] = 0x40; /* a TCP header of 16 bytes */
    packet_parse(&p, frame, len, len);
    assert_int_equal(p.proto, 0);
}

static void flow_hash(void **state) {
    (void)state;
    struct frame_opts a = {.ip = 4, .proto = PACKET_TCP, .port = 1}, b = a;
    u32 len = frame_make(frame, &a, 10);
    u32 one = packet_flow_hash(frame, len, len);
    memcpy(out, frame, len); /* the other direction */
    memcpy(out + 26, frame + 30, 4);
    memcpy(out + 30, frame + 26, 4);
    memcpy(out + 34, frame + 36, 2);
    memcpy(out + 36, frame + 34, 2);
    assert_int_equal(packet_flow_hash(out, len, len), one);
    b.port = 2;
    len = frame_make(frame, &b, 10);
    assert_int_not_equal(packet_flow_hash(frame, len, len), one);
    assert_int_equal(packet_flow_hash(frame, 14, 14), 0);
}

static void checksum(void **state) {
    (void)state;
    for (u32 n = 0; n < 70; n++) {
        for (u32 ip = 4; ip <= 6; ip += 2) {
            for (u32 proto = PACKET_TCP; proto <= PACKET_UDP; proto += 11) {
                struct frame_opts o = {.ip = ip, .proto = proto, .seq = n * 77};
                u32 len = frame_make(frame, &o, n);
                struct net_hdr h = frame_header(frame, len, 0);
                assert_true(packet_header_ok(&h, frame, len, len));
                assert_true(packet_checksum(frame, len, h.csum_start, h.csum_offset));
                assert_true(frame_good(frame, len));
            }
        }
    }
    assert_false(packet_checksum(frame, 60, 60, 0));
    assert_false(packet_checksum(frame, 60, 50, 9));
    assert_false(packet_checksum(frame, 60, 59, 0xffff));
    assert_true(packet_checksum(frame, 60, 50, 8));
}

static void header_check(void **state) {
    (void)state;
    struct frame_opts o = {.ip = 4, .proto = PACKET_TCP, .flags = ACK};
    u32 len = frame_make(frame, &o, 3000);
    struct net_hdr good = frame_header(frame, len, 1000), h = good;
    h.flags |= 0xfc;
    h.num_buffers = 9;
    h.hdr_len = 9999;
    assert_true(packet_header_ok(&h, frame, NET_HEADERS_MAX, len));
    assert_int_equal(h.flags, 1);
    assert_int_equal(h.num_buffers, 0);
    assert_int_equal(h.hdr_len, 54);
#define BAD(member, value)                                                                         \
    do {                                                                                           \
        h = good;                                                                                  \
        h.member = value;                                                                          \
        assert_false(packet_header_ok(&h, frame, NET_HEADERS_MAX, len));                           \
    } while (0)
    BAD(gso_type, NET_GSO_TCPV6);
    BAD(gso_type, 3);
    BAD(gso_size, 7);
    BAD(csum_start, 33);
    BAD(csum_offset, 6);
    BAD(flags, 0);
    BAD(csum_start, 0xffff);
    h = good;
    h.gso_type = 0;
    h.csum_offset = 0xffff;
    assert_false(packet_header_ok(&h, frame, NET_HEADERS_MAX, len));
    h = good;
    h.gso_type |= NET_GSO_ECN;
    assert_true(packet_header_ok(&h, frame, NET_HEADERS_MAX, len));
}

/* Cuts a frame of n bytes and puts the pieces together again. */
static void cut(u32 ip, u32 vlans, u32 n, u16 size, u32 max, u32 want) {
    static struct gso g;
    struct frame_opts o = {.ip = ip,
                           .proto = PACKET_TCP,
                           .vlans = vlans,
                           .options = 12,
                           .seq = 0xfffffff0,
                           .flags = ACK | PSH | FIN | CWR};
    u32 len = frame_make(frame, &o, n), head, part, done = 0, count = 0;
    struct net_hdr h = frame_header(frame, len, size);
    const u8 *payload;
    assert_true(gso_begin(&g, &h, frame, len, max));
    while (gso_next(&g, &head, &payload, &part)) {
        struct packet p;
        memcpy(out, g.head, head);
        memcpy(out + head, payload, part);
        assert_true(frame_good(out, head + part));
        packet_parse(&p, out, head + part, head + part);
        assert_int_equal(p.end, head + part);
        assert_int_equal(frame_get32(out + p.l4 + 4), 0xfffffff0 + done);
        assert_int_equal(out[p.l4 + 13] & CWR, done ? 0 : CWR);
        assert_int_equal(out[p.l4 + 13] & (PSH | FIN), done + part == n ? PSH | FIN : 0);
        if (ip == 4) {
            assert_int_equal(frame_get16(out + p.l3 + 4), (0xfffe + count) & 0xffff);
        }
        assert_memory_equal(out + p.payload, frame + g.p.payload + done, part);
        done += part;
        count++;
    }
    assert_int_equal(done, n);
    assert_int_equal(count, want);
}

static void segmentation(void **state) {
    (void)state;
    for (u32 ip = 4; ip <= 6; ip += 2) {
        cut(ip, 0, 4000, 1448, 0, 3);
        cut(ip, 1, 1, 1448, 0, 1);
        cut(ip, 2, 2896, 1448, 0, 2);
        cut(ip, 0, 999, 7, 0, 143);
        cut(ip, 0, 4000, 1000, 2999, 2);
        cut(ip, 0, 4000, 1000, 65000, 1);
    }
    struct frame_opts o = {.ip = 4, .proto = PACKET_UDP};
    u32 len = frame_make(frame, &o, 100);
    struct gso g;
    struct net_hdr h = {.gso_type = NET_GSO_TCPV4, .gso_size = 10};
    assert_false(gso_begin(&g, &h, frame, len, 0));
}

static u32 data(u32 ip, u32 seq, u32 n, u8 flags) {
    struct frame_opts o = {.ip = ip, .proto = PACKET_TCP, .seq = seq, .flags = flags};
    u32 len = frame_make(frame, &o, n);
    struct net_hdr h = frame_header(frame, len, 0);
    packet_checksum(frame, len, h.csum_start, h.csum_offset);
    return len;
}

static void joining(void **state) {
    (void)state;
    static struct gro g;
    static struct gso cutter;
    struct net_hdr h;
    for (u32 ip = 4; ip <= 6; ip += 2) {
        u32 at = 5, head, part, done = 0;
        const u8 *payload;
        for (u32 i = 0; i < 10; i++, at += 1000) {
            assert_true(gro_add(&g, frame, data(ip, at, 1000, ACK)));
        }
        assert_false(gro_add(&g, frame, data(ip, at + 1, 1000, ACK)));   /* a hole */
        assert_false(gro_add(&g, frame, data(ip, at, 1001, ACK)));       /* larger */
        assert_false(gro_add(&g, frame, data(ip, at, 1000, ACK | FIN))); /* the end */
        assert_true(gro_add(&g, frame, data(ip, at, 10, ACK)));          /* shorter: the last */
        assert_false(gro_add(&g, frame, data(ip, at + 10, 10, ACK)));
        u32 len = gro_flush(&g, &h);
        assert_true(packet_header_ok(&h, g.frame, len, len));
        assert_int_equal(h.gso_size, 1000);
        assert_true(gso_begin(&cutter, &h, g.frame, len, 0));
        while (gso_next(&cutter, &head, &payload, &part)) {
            memcpy(out, cutter.head, head);
            memcpy(out + head, payload, part);
            assert_true(frame_good(out, head + part));
            data(ip, 5 + done, part, ACK);
            assert_memory_equal(payload, frame + head, part);
            done += part;
        }
        assert_int_equal(done, 10010);
        packet_checksum(g.frame, len, h.csum_start, h.csum_offset);
        assert_true(frame_good(g.frame, len));
    }
    assert_int_equal(gro_flush(&g, &h), 0);
}

static void joining_alone(void **state) {
    (void)state;
    static struct gro g;
    struct net_hdr h;
    u32 len = data(4, 1, 100, ACK | PSH); /* ends what it begins */
    assert_true(gro_add(&g, frame, len));
    assert_false(gro_add(&g, frame, data(4, 101, 100, ACK)));
    assert_int_equal(gro_flush(&g, &h), len);
    assert_int_equal(h.flags, NET_HDR_DATA_VALID);
    assert_int_equal(h.gso_type, 0);
    assert_true(gro_add(&g, frame, data(4, 1, 0, ACK))); /* no data */
    assert_false(gro_add(&g, frame, data(4, 1, 0, ACK)));
    gro_flush(&g, &h);
    memset(frame, 0xff, 60);
    assert_true(gro_add(&g, frame, 60)); /* no IP */
    assert_int_equal(gro_flush(&g, &h), 60);
    assert_int_equal(h.flags, 0);
    u32 at = 0, count = 0;
    while (gro_add(&g, frame, data(6, at, 1400, ACK))) { /* 64 KiB at most */
        at += 1400;
        count++;
    }
    assert_int_equal(count, 46);
    assert_true(gro_flush(&g, &h) <= 65535 + 14);
    memset(frame, 0, sizeof(frame));
    assert_true(gro_add(&g, frame, sizeof(frame)));
    assert_int_equal(gro_flush(&g, &h), NET_FRAME_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse),    cmocka_unit_test(parse_others),  cmocka_unit_test(flow_hash),
        cmocka_unit_test(checksum), cmocka_unit_test(header_check),  cmocka_unit_test(segmentation),
        cmocka_unit_test(joining),  cmocka_unit_test(joining_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
