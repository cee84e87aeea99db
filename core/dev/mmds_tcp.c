/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ARP and TCP of the metadata service; see mmds_tcp.h.
 *
 *   SYN -> [OPENING] --ACK--> [OPEN] --our FIN is out and acknowledged, and theirs has come--> free
 *            SYN-ACK            request -> respond -> reply, sent as the window allows
 *
 * One reply at a time: bytes of it have sequence numbers reply_seq .. reply_seq + reply_len, our
 * FIN the one behind. Input that comes meanwhile waits in `request`, whose room is the window that
 * we offer. What is not acknowledged within the time limit is sent again from the first byte on
 * (the wire loses nothing, but a guest's card may), with the limit doubled each time.
 */
#include "core/dev/mmds_tcp.h"

enum {
    ETH_HEADER = 14,
    IP_HEADER = 20,
    TCP_HEADER = 20,
    ARP_SIZE = 28,
    HEADERS = ETH_HEADER + IP_HEADER + TCP_HEADER,
    MSS_MAX = MMDS_FRAME_MAX - HEADERS,
    MSS_DEFAULT = 536, /* RFC 9293, 3.7.1 */
    MSS_MIN = 64,
    TRIES_MAX = 8,
    HTTP_PORT = 80,
};

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

#define RETRY_NS (300 * (NSEC_PER_SEC / 1000))

enum conn_state { CONN_FREE, CONN_OPENING, CONN_OPEN };

struct conn {
    enum conn_state state;
    u32 ip;
    u16 port;
    u8 mac[6];
    u32 rcv_nxt, snd_una, snd_nxt;
    u32 snd_max; /* behind all that was ever sent; snd_nxt goes back to send again */
    u32 fin_end; /* behind our FIN, once it was sent */
    bool fin_ever;
    u32 window; /* theirs */
    u16 mss;
    bool fin_due;     /* nothing comes behind the reply */
    bool fin_sent;    /* counted in snd_nxt */
    bool peer_closed; /* their FIN has come */
    u32 request_len;
    u32 reply_seq, reply_len; /* reply_len 0: none */
    u32 tries;
    u64 deadline; /* HOST_FOREVER: nothing waits for an acknowledgement */
    u64 used;     /* for eviction: a counter */
    char *reply;  /* reply_max bytes; NULL: none was needed yet */
    char request[MMDS_REQUEST_MAX];
};

struct mmds_stack {
    struct host *host;
    struct mmds_opts o;
    struct mmds_counters n;
    u64 clock; /* of `used` */
    struct conn conn[MMDS_CONNECTIONS];
};

/* A TCP segment that came in. */
struct segment {
    u32 ip, seq, ack;
    u16 port, window, mss; /* mss 0: not said */
    u8 flags;
    const u8 *mac;
    const u8 *data;
    u32 len;
};

/* --- bytes ------------------------------------------------------------------------------------ */

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

/* RFC 1071; sum carries on an earlier one. */
static u32 sum16(const u8 *p, size_t len, u32 sum) {
    for (; len > 1; len -= 2, p += 2) {
        sum += get16(p);
    }
    return len ? sum + (u32)(p[0] << 8) : sum;
}

static u16 sum_finish(u32 sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)~sum;
}

static bool seq_before(u32 a, u32 b) {
    return (s32)(a - b) < 0;
}

/* --- output ----------------------------------------------------------------------------------- */

static int output(struct mmds_stack *s, const u8 *frame, size_t len) {
    int rc = s->o.output(s->o.output_ctx, frame, len);
    s->n.tx_frames += rc ? 0 : 1;
    s->n.tx_bytes += rc ? 0 : len;
    s->n.tx_errors += rc ? 1 : 0;
    return rc;
}

static void put_eth(const struct mmds_stack *s, u8 *frame, const u8 *to, u16 type) {
    memcpy(frame, to, 6);
    memcpy(frame + 6, s->o.mac, 6);
    put16(frame + 12, type);
}

static void put_ip(const struct mmds_stack *s, u8 *ip, u32 to, u32 total) {
    memset(ip, 0, IP_HEADER);
    ip[0] = 0x45;
    put16(ip + 2, total);
    ip[6] = 0x40; /* do not fragment */
    ip[8] = 64;   /* TTL */
    ip[9] = 6;
    put32(ip + 12, s->o.address);
    put32(ip + 16, to);
    put16(ip + 10, sum_finish(sum16(ip, IP_HEADER, 0)));
}

static void tcp_checksum(const struct mmds_stack *s, u8 *tcp, u32 to, u32 len) {
    u8 pseudo[12] = {0};
    put32(pseudo, s->o.address);
    put32(pseudo + 4, to);
    pseudo[9] = 6;
    put16(pseudo + 10, len);
    put16(tcp + 16, sum_finish(sum16(tcp, len, sum16(pseudo, sizeof(pseudo), 0))));
}

struct out { /* a segment to send */
    u32 ip, seq, ack;
    u16 port, window;
    u8 flags;
    const u8 *mac;
    const char *data;
    u32 len;
};

static int send_segment(struct mmds_stack *s, const struct out *o) {
    u8 frame[MMDS_FRAME_MAX];
    u8 *tcp = frame + ETH_HEADER + IP_HEADER;
    u32 head = TCP_HEADER + (o->flags & SYN ? 4 : 0);
    put_eth(s, frame, o->mac, 0x0800);
    memset(tcp, 0, head);
    put16(tcp, HTTP_PORT);
    put16(tcp + 2, o->port);
    put32(tcp + 4, o->seq);
    put32(tcp + 8, o->ack);
    tcp[12] = (u8)(head / 4 << 4);
    tcp[13] = o->flags;
    put16(tcp + 14, o->window);
    if (o->flags & SYN) { /* maximum segment size */
        tcp[20] = 2;
        tcp[21] = 4;
        put16(tcp + 22, MSS_MAX);
    }
    if (o->len) {
        memcpy(tcp + head, o->data, o->len);
    }
    put_ip(s, frame + ETH_HEADER, o->ip, IP_HEADER + head + o->len);
    tcp_checksum(s, tcp, o->ip, head + o->len);
    return output(s, frame, ETH_HEADER + IP_HEADER + head + o->len);
}

static u16 room(const struct conn *c) {
    return (u16)(MMDS_REQUEST_MAX - c->request_len);
}

static int conn_send(struct mmds_stack *s, const struct conn *c, u8 flags, u32 seq,
                     const char *data, u32 len) {
    struct out o = {.ip = c->ip,
                    .seq = seq,
                    .ack = c->rcv_nxt,
                    .port = c->port,
                    .window = room(c),
                    .flags = flags,
                    .mac = c->mac,
                    .data = data,
                    .len = len};
    return send_segment(s, &o);
}

/* RFC 9293, 3.10.7.1: what belongs to no connection. */
static void refuse(struct mmds_stack *s, const struct segment *g) {
    struct out o = {.ip = g->ip, .port = g->port, .mac = g->mac, .flags = RST};
    if (g->flags & RST) {
        return;
    }
    if (g->flags & ACK) {
        o.seq = g->ack;
    } else {
        o.flags |= ACK;
        o.ack = g->seq + g->len + (g->flags & SYN ? 1 : 0) + (g->flags & FIN ? 1 : 0);
    }
    send_segment(s, &o);
}

/* --- connections ------------------------------------------------------------------------------ */

static void conn_free(struct mmds_stack *s, struct conn *c) {
    host_free(s->host, c->reply, s->o.reply_max);
    *c = (struct conn){.deadline = HOST_FOREVER};
    s->n.closed++;
}

static struct conn *conn_find(struct mmds_stack *s, const struct segment *g) {
    for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
        struct conn *c = &s->conn[i];
        if (c->state != CONN_FREE && c->ip == g->ip && c->port == g->port) {
            return c;
        }
    }
    return NULL;
}

/* A free one, or the one that was used the longest ago. */
static struct conn *conn_new(struct mmds_stack *s) {
    struct conn *best = &s->conn[0];
    for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
        struct conn *c = &s->conn[i];
        if (c->state == CONN_FREE) {
            return c;
        }
        best = c->used < best->used ? c : best;
    }
    conn_send(s, best, RST | ACK, best->snd_nxt, NULL, 0);
    conn_free(s, best);
    return best;
}

static void arm(struct mmds_stack *s, struct conn *c) {
    c->deadline = host_now(s->host) + (RETRY_NS << MIN(c->tries, (u32)TRIES_MAX));
}

static void conn_open(struct mmds_stack *s, const struct segment *g) {
    struct conn *c = conn_new(s);
    u32 iss;
    s->host->ops->entropy(s->host, &iss, sizeof(iss));
    *c = (struct conn){.state = CONN_OPENING,
                       .ip = g->ip,
                       .port = g->port,
                       .rcv_nxt = g->seq + 1,
                       .snd_una = iss,
                       .snd_nxt = iss + 1,
                       .snd_max = iss + 1,
                       .window = g->window,
                       .used = ++s->clock};
    c->mss = g->mss ? (u16)MIN(MAX(g->mss, MSS_MIN), MSS_MAX) : MSS_DEFAULT;
    memcpy(c->mac, g->mac, sizeof(c->mac));
    s->n.opened++;
    conn_send(s, c, SYN | ACK, iss, NULL, 0);
    arm(s, c);
}

/* Asks for an answer when none is under way. False: the connection was given up. */
static bool answer(struct mmds_stack *s, struct conn *c) {
    struct mmds_answer a = {0};
    if (c->reply_len || c->fin_due || !c->request_len) {
        return true;
    }
    if (!c->reply) {
        c->reply = host_alloc(s->host, s->o.reply_max);
    }
    if (!c->reply) {
        conn_send(s, c, RST | ACK, c->snd_nxt, NULL, 0);
        conn_free(s, c);
        return false;
    }
    s->o.respond(s->o.respond_ctx, c->request, c->request_len, !room(c), c->reply, s->o.reply_max,
                 &a);
    u32 used = (u32)MIN(a.consumed, (size_t)c->request_len);
    memmove(c->request, c->request + used, c->request_len - used);
    c->request_len -= used;
    c->reply_seq = c->snd_nxt;
    c->reply_len = used ? (u32)MIN(a.length, s->o.reply_max) : 0;
    c->fin_due = used && a.close;
    return true;
}

/* Sends of the reply and the FIN what the window takes. */
static void push(struct mmds_stack *s, struct conn *c) {
    bool sent = false;
    u32 end = c->reply_seq + c->reply_len;
    while (c->reply_len && seq_before(c->snd_nxt, end)) {
        u32 flight = c->snd_nxt - c->snd_una;
        u32 free = c->window > flight ? c->window - flight : 0;
        u32 n = MIN(MIN(end - c->snd_nxt, (u32)c->mss), free);
        u8 last = c->snd_nxt + n == end ? PSH : 0;
        if (!n ||
            conn_send(s, c, ACK | last, c->snd_nxt, c->reply + (c->snd_nxt - c->reply_seq), n)) {
            break;
        }
        c->snd_nxt += n;
        sent = true;
    }
    bool all = !c->reply_len || c->snd_nxt == end;
    if (c->fin_due && !c->fin_sent && all && !conn_send(s, c, FIN | ACK, c->snd_nxt, NULL, 0)) {
        c->snd_nxt++;
        c->fin_sent = c->fin_ever = sent = true;
        c->fin_end = c->snd_nxt;
    }
    c->snd_max = seq_before(c->snd_max, c->snd_nxt) ? c->snd_nxt : c->snd_max;
    bool waits = c->reply_len || c->snd_nxt != c->snd_una;
    if ((sent || c->deadline == HOST_FOREVER) && waits) {
        arm(s, c);
    }
}

/* --- input ------------------------------------------------------------------------------------ */

/* What they have got. False: the connection is gone. */
static bool take_ack(struct mmds_stack *s, struct conn *c, const struct segment *g) {
    c->window = g->window;
    if (seq_before(c->snd_max, g->ack) || seq_before(g->ack, c->snd_una)) {
        return true; /* old, or of something that was never sent */
    }
    if (seq_before(c->snd_nxt, g->ack)) { /* it had come, before it was sent again */
        c->snd_nxt = g->ack;
        c->fin_sent = c->fin_ever && g->ack == c->fin_end;
    }
    if (g->ack != c->snd_una) {
        c->snd_una = g->ack;
        c->tries = 0;
        c->deadline = HOST_FOREVER;
    }
    if (c->reply_len && !seq_before(c->snd_una, c->reply_seq + c->reply_len)) {
        c->reply_len = 0;
    }
    if (c->fin_sent && c->snd_una == c->snd_nxt && c->peer_closed) {
        conn_free(s, c);
        return false;
    }
    return true;
}

/* Data in order is kept as far as there is room; the rest comes again. */
static void take_data(struct conn *c, const struct segment *g) {
    u32 skip = c->rcv_nxt - g->seq;
    if (c->peer_closed || seq_before(c->rcv_nxt, g->seq) || skip > g->len) {
        return;
    }
    u32 n = MIN(g->len - skip, (u32)room(c));
    if (n) {
        memcpy(c->request + c->request_len, g->data + skip, n);
    }
    c->request_len += n;
    c->rcv_nxt += n;
    if ((g->flags & FIN) && skip + n == g->len) {
        c->rcv_nxt++;
        c->peer_closed = true;
    }
}

static void conn_segment(struct mmds_stack *s, struct conn *c, const struct segment *g) {
    bool in_window = g->seq - c->rcv_nxt <= MMDS_REQUEST_MAX;
    if (g->flags & RST) {
        if (in_window) {
            conn_free(s, c);
        }
        return;
    }
    if (g->flags & SYN) { /* ours was lost, or theirs is a new one (RFC 5961: they will reset) */
        conn_send(s, c, c->state == CONN_OPENING ? SYN | ACK : ACK,
                  c->state == CONN_OPENING ? c->snd_una : c->snd_nxt, NULL, 0);
        return;
    }
    if (!(g->flags & ACK)) {
        return;
    }
    if (c->state == CONN_OPENING) {
        if (g->ack != c->snd_nxt) {
            refuse(s, g);
            return;
        }
        c->state = CONN_OPEN;
    }
    u32 before = c->rcv_nxt;
    if (!take_ack(s, c, g)) {
        return;
    }
    take_data(c, g);
    if (!answer(s, c)) {
        return;
    }
    c->fin_due |= c->peer_closed; /* behind the reply */
    if (c->fin_sent && c->peer_closed && c->snd_una == c->snd_nxt) {
        conn_send(s, c, ACK, c->snd_nxt, NULL, 0);
        conn_free(s, c);
        return;
    }
    u32 sent = c->snd_nxt;
    push(s, c);
    bool news = before != c->rcv_nxt || g->len || (g->flags & FIN);
    if (news && sent == c->snd_nxt) {
        conn_send(s, c, ACK, c->snd_nxt, NULL, 0);
    }
}

/* Options (RFC 9293, 3.1): only the segment size is of interest. */
static u16 find_mss(const u8 *option, u32 len) {
    for (u32 i = 0; i < len && option[i];) {
        if (option[i] == 1) { /* no operation */
            i++;
            continue;
        }
        if (i + 1 >= len || option[i + 1] < 2 || i + option[i + 1] > len) {
            return 0;
        }
        if (option[i] == 2 && option[i + 1] == 4) {
            return get16(option + i + 2);
        }
        i += option[i + 1];
    }
    return 0;
}

/* Lengths are checked against the frame; checksums are not: the frame never was on a wire, and a
 * guest leaves them to its card. */
static bool parse_tcp(const u8 *frame, size_t len, struct segment *g) {
    const u8 *ip = frame + ETH_HEADER;
    if (len < HEADERS || ip[0] >> 4 != 4) {
        return false;
    }
    u32 head = (u32)(ip[0] & 15) * 4, total = get16(ip + 2);
    if (head < IP_HEADER || total < head + TCP_HEADER || total > len - ETH_HEADER || ip[9] != 6 ||
        (get16(ip + 6) & 0x3fff)) { /* a fragment */
        return false;
    }
    const u8 *tcp = ip + head;
    u32 offset = (u32)(tcp[12] >> 4) * 4;
    if (offset < TCP_HEADER || head + offset > total || get16(tcp + 2) != HTTP_PORT) {
        return false;
    }
    *g = (struct segment){.ip = get32(ip + 12),
                          .seq = get32(tcp + 4),
                          .ack = get32(tcp + 8),
                          .port = get16(tcp),
                          .window = get16(tcp + 14),
                          .flags = tcp[13],
                          .mac = frame + 6,
                          .data = tcp + offset,
                          .len = total - head - offset};
    g->mss = g->flags & SYN ? find_mss(tcp + TCP_HEADER, offset - TCP_HEADER) : 0;
    return true;
}

static void input_tcp(struct mmds_stack *s, const u8 *frame, size_t len) {
    struct segment g;
    if (!parse_tcp(frame, len, &g)) {
        s->n.rx_bad++;
        return;
    }
    struct conn *c = conn_find(s, &g);
    if (c) {
        c->used = ++s->clock;
        conn_segment(s, c, &g);
    } else if ((g.flags & (SYN | ACK | RST)) == SYN) {
        conn_open(s, &g);
    } else {
        refuse(s, &g);
    }
}

/* RFC 826: a request for our address. */
static void input_arp(struct mmds_stack *s, const u8 *frame) {
    u8 out[60] = {0};
    const u8 *arp = frame + ETH_HEADER;
    if (get16(arp + 6) != 1) {
        return;
    }
    put_eth(s, out, arp + 8, 0x0806);
    memcpy(out + ETH_HEADER, arp, 8);
    put16(out + ETH_HEADER + 6, 2);
    memcpy(out + ETH_HEADER + 8, s->o.mac, 6);
    put32(out + ETH_HEADER + 14, s->o.address);
    memcpy(out + ETH_HEADER + 18, arp + 8, 10);
    output(s, out, sizeof(out));
}

bool mmds_stack_wants(u32 address, const u8 *frame, size_t have) {
    static const u8 ethernet_ipv4[6] = {0, 1, 8, 0, 6, 4};
    if (have < ETH_HEADER + IP_HEADER) {
        return false;
    }
    if (get16(frame + 12) == 0x0800) {
        return get32(frame + ETH_HEADER + 16) == address;
    }
    return get16(frame + 12) == 0x0806 && have >= ETH_HEADER + ARP_SIZE &&
           !memcmp(frame + ETH_HEADER, ethernet_ipv4, sizeof(ethernet_ipv4)) &&
           get32(frame + ETH_HEADER + 24) == address;
}

void mmds_stack_input(struct mmds_stack *s, const u8 *frame, size_t len) {
    s->n.rx_frames++;
    if (!mmds_stack_wants(s->o.address, frame, len)) {
        s->n.rx_bad++;
    } else if (get16(frame + 12) == 0x0806) {
        input_arp(s, frame);
    } else {
        input_tcp(s, frame, len);
    }
}

/* --- time ------------------------------------------------------------------------------------- */

static void conn_retry(struct mmds_stack *s, struct conn *c) {
    c->deadline = HOST_FOREVER;
    if (c->tries++ == TRIES_MAX) {
        conn_send(s, c, RST | ACK, c->snd_nxt, NULL, 0);
        conn_free(s, c);
        return;
    }
    if (c->state == CONN_OPENING) {
        conn_send(s, c, SYN | ACK, c->snd_una, NULL, 0);
        arm(s, c);
        return;
    }
    c->snd_nxt = c->snd_una; /* from the first byte that was not acknowledged */
    c->fin_sent = false;
    if (!c->window && c->reply_len) { /* a closed window: one byte asks how it is (3.8.6.1) */
        c->window = 1;
    }
    push(s, c);
    if (c->deadline == HOST_FOREVER) {
        arm(s, c);
    }
}

u64 mmds_stack_work(struct mmds_stack *s) {
    u64 now = host_now(s->host), next = HOST_FOREVER;
    for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
        struct conn *c = &s->conn[i];
        if (c->state == CONN_FREE) {
            continue;
        }
        if (c->deadline <= now) {
            conn_retry(s, c);
        } else if (c->state == CONN_OPEN) {
            push(s, c);
        }
        next = MIN(next, c->deadline);
    }
    return next;
}

/* --- life ------------------------------------------------------------------------------------- */

struct mmds_stack *mmds_stack_create(struct host *host, const struct mmds_opts *opts) {
    struct mmds_stack *s = host_alloc(host, sizeof(*s));
    if (!s) {
        return NULL;
    }
    s->host = host;
    s->o = *opts;
    for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
        s->conn[i].deadline = HOST_FOREVER;
    }
    return s;
}

void mmds_stack_reset(struct mmds_stack *s) {
    for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
        if (s->conn[i].state != CONN_FREE) {
            conn_free(s, &s->conn[i]);
        }
    }
}

void mmds_stack_destroy(struct mmds_stack *s) {
    if (s) {
        mmds_stack_reset(s);
        host_free(s->host, s, sizeof(*s));
    }
}

void mmds_stack_counters(const struct mmds_stack *s, struct mmds_counters *out) {
    *out = s->n;
}
