/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service: its TCP against a peer that loses, repeats and misbehaves, its back end
 * between a card and a network, its HTTP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/mmds_http.h"
#include "core/dev/mmds_net.h"
#include "hosts/fake/fake.h"

enum { ADDRESS = 0xa9fea9fe, FRAMES = 64, SYN = 2, ACK = 16, FIN = 1, RST = 4 };

static const u8 my_mac[6] = {2, 0, 0, 0, 0, 1};
static const u8 its_mac[6] = {6, 1, 0x23, 0x45, 0x67, 1};

static struct fake_host *fake;
static struct mmds_stack *stack;
static struct mmds_store store;
static struct mmds_service service;

/* What the service sent. */
static struct {
    u8 data[MMDS_FRAME_MAX];
    size_t len;
} sent[FRAMES];
static u32 sent_count;
static bool full;

static int on_output(void *ctx, const u8 *frame, size_t len) {
    (void)ctx;
    if (full) {
        return -ERR_AGAIN;
    }
    assert_true(sent_count < FRAMES && len <= MMDS_FRAME_MAX);
    memcpy(sent[sent_count].data, frame, len);
    sent[sent_count++].len = len;
    return 0;
}

static int setup(void **state) {
    (void)state;
    struct api_text e;
    fake = fake_host_create();
    store = (struct mmds_store){.limit = MMDS_STORE_LIMIT};
    json_t *v = json_loads("{\"a\": {\"b\": \"text\", \"c\": [1, \"two\", {\"d\": 3}], \"e\": {}},"
                           " \"x/y\": \"slash\", \"n\": 5, \"none\": null}",
                           0, NULL);
    assert_int_equal(mmds_store_put(&store, v, &e), 0);
    mmds_service_init(&service, &store, &fake->host);
    struct mmds_opts o = {.address = ADDRESS,
                          .reply_max = mmds_http_reply_max(store.limit),
                          .respond = mmds_http_respond,
                          .respond_ctx = &service,
                          .output = on_output};
    memcpy(o.mac, its_mac, 6);
    stack = mmds_stack_create(&fake->host, &o);
    sent_count = 0;
    full = false;
    return stack ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    mmds_stack_destroy(stack);
    mmds_store_free(&store);
    assert_int_equal(fake->allocated, 0);
    fake_host_destroy(fake);
    return 0;
}

/* --- a peer ----------------------------------------------------------------------------------- */

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
    put16(p + 2, v & 0xffff);
}

struct peer {
    u16 port, window, mss;
    u32 seq, ack;
    char text[80000]; /* received in order */
    size_t len;
    bool fin, rst, no_ack;
};

static size_t build(u8 *f, const struct peer *p, u8 flags, const char *data, size_t len) {
    bool mss = (flags & SYN) && p->mss;
    size_t head = 20 + (mss ? 4 : 0);
    memset(f, 0, 14 + 20 + head);
    memcpy(f, its_mac, 6);
    memcpy(f + 6, my_mac, 6);
    put16(f + 12, 0x0800);
    u8 *ip = f + 14, *tcp = ip + 20;
    ip[0] = 0x45;
    put16(ip + 2, (u32)(20 + head + len));
    ip[9] = 6;
    put32(ip + 12, 0xa9fe0002);
    put32(ip + 16, ADDRESS);
    put16(tcp, p->port);
    put16(tcp + 2, 80);
    put32(tcp + 4, p->seq);
    put32(tcp + 8, p->ack);
    tcp[12] = (u8)(head / 4 << 4);
    tcp[13] = flags;
    put16(tcp + 14, p->window);
    if (mss) {
        tcp[20] = 2;
        tcp[21] = 4;
        put16(tcp + 22, p->mss);
    }
    memcpy(tcp + head, data, len);
    return 14 + 20 + head + len;
}

static void send_to(struct peer *p, u8 flags, const char *data) {
    u8 f[4096];
    size_t len = build(f, p, flags, data, strlen(data));
    p->seq += (u32)strlen(data) + (flags & (SYN | FIN) ? 1 : 0);
    mmds_stack_input(stack, f, len);
}

static u32 sum(const u8 *p, size_t len, u32 s) {
    for (size_t i = 0; i < len; i += 2) {
        s += (u32)p[i] << 8 | (i + 1 < len ? p[i + 1] : 0);
    }
    while (s >> 16) {
        s = (s & 0xffff) + (s >> 16);
    }
    return s;
}

static void check_frame(const u8 *f, size_t len) {
    u8 pseudo[12] = {0};
    u32 total = get16(f + 16);
    assert_int_equal(total + 14, len);
    assert_memory_equal(f, my_mac, 6);
    assert_memory_equal(f + 6, its_mac, 6);
    assert_int_equal(sum(f + 14, 20, 0), 0xffff);
    memcpy(pseudo, f + 14 + 12, 8);
    pseudo[9] = 6;
    put16(pseudo + 10, total - 20);
    assert_int_equal(sum(f + 34, total - 20, sum(pseudo, 12, 0)), 0xffff);
}

/* Takes what was sent; acknowledges what came in order. */
static void take(struct peer *p) {
    u32 n = sent_count, before = p->ack;
    for (u32 i = 0; i < n; i++) {
        const u8 *f = sent[i].data, *tcp = f + 34;
        check_frame(f, sent[i].len);
        assert_int_equal(get16(tcp + 2), p->port);
        u32 seq = get32(tcp + 4), data = get16(f + 16) - 20u - (u32)(tcp[12] >> 4) * 4;
        p->rst |= tcp[13] & RST;
        if (tcp[13] & SYN) {
            p->ack = seq + 1;
        } else if (seq == p->ack && !p->fin) {
            assert_true(p->len + data < sizeof(p->text));
            memcpy(p->text + p->len, tcp + (tcp[12] >> 4) * 4, data);
            p->len += data;
            p->ack += data;
            if (tcp[13] & FIN) {
                p->fin = true;
                p->ack++;
            }
        }
    }
    sent_count = 0;
    p->text[p->len] = 0;
    if (p->ack != before && !p->no_ack) {
        send_to(p, ACK, "");
    }
}

static struct peer *connect_peer(u16 port) {
    static struct peer p;
    memset(&p, 0, sizeof(p));
    p.port = port;
    p.window = 8000;
    p.mss = 1000;
    p.seq = 0xfffffff0; /* wraps */
    send_to(&p, SYN, "");
    assert_int_equal(sent_count, 1);
    assert_int_equal(sent[0].data[34 + 13], SYN | ACK);
    take(&p);
    assert_int_equal(sent_count, 0);
    return &p;
}

static void exchange(struct peer *p) {
    for (int i = 0; i < 1000 && sent_count; i++) {
        take(p);
    }
    assert_int_equal(sent_count, 0);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

/* --- TCP -------------------------------------------------------------------------------------- */

static void test_arp(void **state) {
    (void)state;
    u8 f[60] = {0};
    memset(f, 0xff, 6);
    memcpy(f + 6, my_mac, 6);
    put16(f + 12, 0x0806);
    memcpy(f + 14, "\0\1\10\0\6\4\0\1", 8);
    memcpy(f + 22, my_mac, 6);
    put32(f + 28, 0xa9fe0002);
    put32(f + 38, ADDRESS);
    assert_true(mmds_stack_wants(ADDRESS, f, 42));
    mmds_stack_input(stack, f, sizeof(f));
    assert_int_equal(sent_count, 1);
    const u8 *r = sent[0].data;
    assert_memory_equal(r, my_mac, 6);
    assert_int_equal(get16(r + 20), 2);
    assert_memory_equal(r + 22, its_mac, 6);
    assert_int_equal(get32(r + 28), ADDRESS);
    assert_memory_equal(r + 32, my_mac, 6);
    put32(f + 38, ADDRESS + 1);
    assert_false(mmds_stack_wants(ADDRESS, f, 42));
    for (size_t n = 0; n < 42; n++) {
        assert_false(mmds_stack_wants(ADDRESS + 1, f, n));
    }
}

static void test_request(void **state) {
    (void)state;
    struct peer *p = connect_peer(1000);
    send_to(p, ACK, GET("/a/b"));
    exchange(p);
    assert_non_null(strstr(p->text, "HTTP/1.1 200 OK\r\n"));
    assert_non_null(strstr(p->text, "Content-Length: 4\r\n\r\ntext"));
    p->len = 0; /* again on the same connection, in pieces */
    send_to(p, ACK, "GET /a/");
    send_to(p, ACK, "b HTTP/1.1\r\n");
    exchange(p);
    assert_int_equal(p->len, 0);
    send_to(p, ACK, "\r\n");
    exchange(p);
    assert_non_null(strstr(p->text, "\r\n\r\ntext"));
    send_to(p, FIN | ACK, "");
    exchange(p);
    assert_true(p->fin);
    struct mmds_counters n;
    mmds_stack_counters(stack, &n);
    assert_int_equal(n.opened, 1);
    assert_int_equal(n.closed, 1);
}

static void test_pipelined(void **state) {
    (void)state;
    struct peer *p = connect_peer(1000);
    send_to(p, ACK, GET("/a/b") GET("/n") GET("/x~1y"));
    exchange(p);
    assert_non_null(strstr(p->text, "\r\n\r\ntextHTTP/1.1 501"));
    assert_non_null(strstr(p->text, "\r\n\r\nslash"));
}

static void put_big(size_t len) {
    struct api_text e;
    char *text = malloc(len + 1);
    memset(text, 'z', len);
    text[len] = 0;
    assert_int_equal(mmds_store_put(&store, json_pack("{s:s}", "big", text), &e), 0);
    free(text);
}

static void test_large_and_lost(void **state) {
    (void)state;
    put_big(40000);
    struct peer *p = connect_peer(1000);
    send_to(p, ACK, GET("/big"));
    u32 rounds = 0;
    while (p->len < 40000 && rounds++ < 3000) {
        if (sent_count > 2 && rounds % 5 == 0) {
            sent_count--; /* the last one is lost */
        }
        take(p);
        if (!sent_count) {
            fake_advance(fake, NSEC_PER_SEC / 2);
            mmds_stack_work(stack);
        }
    }
    char *body = strstr(p->text, "\r\n\r\n");
    assert_non_null(body);
    exchange(p);
    assert_int_equal(strspn(body + 4, "z"), 40000);
    assert_int_equal(strlen(body + 4), 40000);
}

static void test_windows(void **state) {
    (void)state;
    put_big(5000);
    struct peer *p = connect_peer(1000);
    p->window = 0;
    send_to(p, ACK, GET("/big"));
    assert_int_equal(sent_count, 1); /* an acknowledgement, no data */
    take(p);
    assert_int_equal(p->len, 0);
    p->window = 300;
    send_to(p, ACK, "");
    assert_int_equal(sent_count, 1);
    assert_int_equal(get16(sent[0].data + 16), 20 + 20 + 300);
    exchange(p);
    assert_non_null(strstr(p->text, "zzz"));
    assert_true(p->len > 5000);
}

static void test_no_room_in_the_card(void **state) {
    (void)state;
    struct peer *p = connect_peer(1000);
    full = true;
    send_to(p, ACK, GET("/a/b"));
    assert_int_equal(sent_count, 0);
    full = false;
    assert_true(mmds_stack_work(stack) < HOST_FOREVER);
    exchange(p);
    assert_non_null(strstr(p->text, "text"));
    assert_true(mmds_stack_work(stack) == HOST_FOREVER);
}

static void test_gives_up(void **state) {
    (void)state;
    struct peer *p = connect_peer(1000);
    p->no_ack = true;
    send_to(p, ACK, GET("/a/b"));
    u32 segments = 0;
    for (int i = 0; i < 20; i++) {
        segments += sent_count;
        take(p);
        fake_advance(fake, 100 * NSEC_PER_SEC);
        mmds_stack_work(stack);
    }
    assert_true(p->rst);
    assert_true(segments > 5 && segments < 12);
    assert_true(mmds_stack_work(stack) == HOST_FOREVER);
}

static void test_strangers(void **state) {
    (void)state;
    struct peer p = {.port = 7, .window = 100, .seq = 5, .ack = 77};
    send_to(&p, ACK, "x"); /* no connection */
    assert_int_equal(sent_count, 1);
    assert_int_equal(sent[0].data[47], RST);
    assert_int_equal(get32(sent[0].data + 38), 77);
    sent_count = 0;
    send_to(&p, RST, "");
    assert_int_equal(sent_count, 0);
    struct peer *c = connect_peer(8);
    u32 seq = c->seq;
    c->seq = seq - 100000; /* far outside the window */
    send_to(c, RST, "");
    c->seq = seq;
    send_to(c, ACK, GET("/a/b"));
    exchange(c);
    assert_non_null(strstr(c->text, "text"));
    send_to(c, RST, "");
    send_to(c, ACK, "x");
    assert_int_equal(sent_count, 1);
    assert_int_equal(sent[0].data[47], RST);
}

static void test_too_long(void **state) {
    (void)state;
    char text[2001];
    memset(text, 'q', 2000);
    text[2000] = 0;
    struct peer *p = connect_peer(9);
    send_to(p, ACK, text);
    exchange(p);
    send_to(p, ACK, text);
    exchange(p);
    assert_non_null(strstr(p->text, "HTTP/1.1 400"));
    assert_true(p->fin);
}

static void test_many(void **state) {
    (void)state;
    for (u16 i = 0; i < 3 * MMDS_CONNECTIONS; i++) {
        struct peer p = {.port = (u16)(100 + i), .window = 1000};
        send_to(&p, SYN, "");
        sent_count = 0;
    }
    struct mmds_counters n;
    mmds_stack_counters(stack, &n);
    assert_int_equal(n.opened, 3 * MMDS_CONNECTIONS);
    assert_int_equal(n.closed, 2 * MMDS_CONNECTIONS);
    mmds_stack_reset(stack);
    assert_true(mmds_stack_work(stack) == HOST_FOREVER);
}

/* --- HTTP ------------------------------------------------------------------------------------- */

static char answer_text[70000];

static const char *ask(const char *request) {
    struct mmds_answer a = {0};
    mmds_http_respond(&service, request, strlen(request), false, answer_text,
                      sizeof(answer_text) - 1, &a);
    answer_text[a.length] = 0;
    assert_int_equal(a.consumed, strlen(request));
    return answer_text;
}

static void expect_answer(const char *request, const char *status, const char *body) {
    const char *text = ask(request);
    const char *got = strstr(text, "\r\n\r\n");
    if (strncmp(text + 9, status, 3) != 0 || !got || strcmp(got + 4, body) != 0) {
        fail_msg("%s -> %s", request, text);
    }
}

#define JSON(path) "GET " path " HTTP/1.1\r\naccept: application/json\r\n\r\n"

static void test_paths(void **state) {
    (void)state;
    expect_answer(GET("/"), "200", "a/\nx/y\nn\nnone");
    expect_answer(GET("/a"), "200", "b\nc\ne/");
    expect_answer(GET("/a/"), "200", "b\nc\ne/");
    expect_answer(GET("///a//b"), "200", "text");
    expect_answer(GET("http://169.254.169.254/a/b"), "200", "text");
    expect_answer(GET("/a/c/1"), "200", "two");
    expect_answer(GET("/a/c/01"), "404", "Resource not found: /a/c/01.");
    expect_answer(GET("/a/c/3"), "404", "Resource not found: /a/c/3.");
    expect_answer(GET("/a/c"), "501", "Cannot retrieve value. The value has an unsupported type.");
    expect_answer(GET("http://x"), "400", "Invalid URI.");
    expect_answer(JSON("/a/c"), "200", "[1,\"two\",{\"d\":3}]");
    expect_answer(JSON("/a/b"), "200", "\"text\"");
    expect_answer(JSON("/n"), "200", "5");
    expect_answer(JSON("/zz"), "404", "Resource not found: /zz.");
    service.imds_compat = true;
    expect_answer(JSON("/a/b"), "200", "text");
    expect_answer("POST /a HTTP/1.1\r\n\r\n", "405", "Not allowed HTTP method.");
    assert_non_null(strstr(answer_text, "\r\nAllow: GET, PUT\r\n"));
    expect_answer("GET /a\r\n\r\n", "400", "Invalid HTTP request.");
    expect_answer("GET /a/b HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345", "200", "text");
    struct mmds_answer a = {0};
    mmds_http_respond(&service, "GET /a HTT", 10, false, answer_text, 1000, &a);
    assert_int_equal(a.consumed, 0);
}

#define TTL(ttl) "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: " ttl "\r\n\r\n"

static void test_tokens(void **state) {
    (void)state;
    char request[512], token[200];
    service.v2 = true;
    expect_answer(GET("/a/b"), "401",
                  "No MMDS token provided. Use `X-metadata-token` header to specify the session "
                  "token.");
    assert_non_null(strstr(ask(TTL("60")), "HTTP/1.1 200"));
    snprintf(token, sizeof(token), "%s", strstr(answer_text, "\r\n\r\n") + 4);
    assert_int_equal(strlen(token), 96);
    snprintf(request, sizeof(request), "GET /a/b HTTP/1.1\r\nX-metadata-token: %s\r\n\r\n", token);
    expect_answer(request, "200", "text");
    snprintf(request, sizeof(request), "GET /a/b HTTP/1.1\r\nx-aws-ec2-metadata-token:%s\r\n\r\n",
             token);
    expect_answer(request, "200", "text");
    fake->now += 61 * NSEC_PER_SEC;
    expect_answer(request, "401", "MMDS token not valid.");
    fake->now -= 61 * NSEC_PER_SEC;
    for (size_t i = 0; i < 96; i += 5) {
        char *at = strstr(request, token);
        at[i] = at[i] == '0' ? '1' : '0';
        expect_answer(request, "401", "MMDS token not valid.");
        memcpy(at, token, 96);
    }
    expect_answer(request, "200", "text");
    static const char *const wrong[] = {TTL("0"), TTL("21601"), TTL("x"), TTL("-1"), TTL("")};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_non_null(strstr(ask(wrong[i]), "400"));
        assert_non_null(strstr(answer_text, "between 1 and 21600"));
    }
    assert_non_null(strstr(ask("PUT /latest/api/token HTTP/1.1\r\n\r\n"), "not found"));
    assert_non_null(strstr(ask("PUT /latest HTTP/1.1\r\n\r\n"), "404"));
    assert_non_null(strstr(ask("PUT /latest/api/token HTTP/1.1\r\nX-Forwarded-For: me\r\n\r\n"),
                           "X-Forwarded-For"));
    assert_int_equal(service.no_token, 1);
}

/* --- on the wire of a card -------------------------------------------------------------------- */

static u32 card_frames;
static size_t card_len;
static bool card_full;
static u32 card_writable;

static int card_receive(void *device, const struct iov *iov, u32 count) {
    (void)device;
    if (card_full) {
        return -ERR_AGAIN;
    }
    card_frames++;
    card_len = 0;
    for (u32 i = 0; i < count; i++) {
        card_len += iov[i].len;
    }
    return 0;
}

static void card_writable_now(void *device) {
    (void)device;
    card_writable++;
}

static void test_wire(void **state) {
    (void)state;
    for (int vnet = 0; vnet < 2; vnet++) {
        struct fake_net *lower = fake_net_create(vnet, 0);
        struct mmds_opts o = {.address = ADDRESS,
                              .reply_max = mmds_http_reply_max(store.limit),
                              .respond = mmds_http_respond,
                              .respond_ctx = &service};
        struct net_backend *be = NULL;
        assert_int_equal(mmds_net_create(&fake->host, &lower->be, &o, &be, NULL), 0);
        assert_int_equal(be->vnet_hdr, vnet);
        be->receive = card_receive;
        be->writable = card_writable_now;
        be->ops->start(be);
        u8 f[200] = {0};
        struct peer p = {.port = 5, .window = 1000};
        size_t head = vnet ? 12 : 0, len = build(f + head, &p, SYN, "", 0);
        struct iov iov[2] = {{f, 20}, {f + 20, head + len - 20}};
        card_frames = 0;
        assert_int_equal(be->ops->send(be, iov, 2), 0); /* for the service */
        assert_int_equal(lower->frames, 0);
        assert_int_equal(card_frames, 0);
        card_full = true;
        fake_advance(fake, 1000);
        assert_int_equal(card_frames, 0);
        card_full = false;
        be->ops->rx_ready(be);
        fake_advance(fake, NSEC_PER_SEC); /* it is sent again */
        assert_true(card_frames >= 1);
        assert_int_equal(card_len, head + 14 + 20 + 24);
        put32(f + head + 14 + 16, ADDRESS + 1); /* for somebody else */
        assert_int_equal(be->ops->send(be, iov, 2), 0);
        assert_int_equal(lower->frames, 1);
        lower->full = true;
        assert_int_equal(be->ops->send(be, iov, 2), -ERR_AGAIN);
        lower->be.writable(lower->be.device);
        assert_int_equal(card_writable, vnet + 1);
        u32 before = card_frames;
        fake_net_input(lower, f, 60);
        assert_int_equal(card_frames, before + 1);
        be->ops->stop(be);
        be->ops->close(be);
        fake_net_destroy(lower);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_arp),       T(test_request),
        T(test_pipelined), T(test_large_and_lost),
        T(test_windows),   T(test_no_room_in_the_card),
        T(test_gives_up),  T(test_strangers),
        T(test_too_long),  T(test_many),
        T(test_paths),     T(test_tokens),
        T(test_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
