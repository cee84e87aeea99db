/* SPDX-License-Identifier: Apache-2.0 */
/* The network back ends of Linux without guests: forwards, the user network, passt's protocol, the
 * switch with its process, taps that are not there. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/linux/net_port.h"
#include "hosts/linux/net_switch.h"
#include "hosts/linux/net_user.h"
#include "tests/unit/frames.h"

static struct linux_host *lh;
static char dir[64];

/* --- a card ----------------------------------------------------------------------------------- */

struct card {
    struct net_backend *be;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    u32 frames;
    bool full, link, refused;
    struct net_hdr hdr; /* of the last frame */
    u32 len;
    u8 frame[NET_FRAME_MAX];
};

static int card_receive(void *device, const struct iov *iov, u32 count) {
    struct card *c = device;
    pthread_mutex_lock(&c->lock);
    bool full = c->full;
    c->refused = full;
    if (!full) {
        u8 all[PORT_FRAME];
        u32 n = 0;
        for (u32 i = 0; i < count; i++) {
            memcpy(all + n, iov[i].base, iov[i].len);
            n += (u32)iov[i].len;
        }
        memcpy(&c->hdr, all, sizeof(c->hdr));
        c->len = n - (u32)sizeof(c->hdr);
        memcpy(c->frame, all + sizeof(c->hdr), c->len);
        c->frames++;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return full ? -ERR_AGAIN : 0;
}

static void card_link(void *device, bool up) {
    struct card *c = device;
    pthread_mutex_lock(&c->lock);
    c->link = up;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void card_writable(void *device) {
    (void)device;
}

static struct card *card_connect(struct net_backend *be) {
    struct card *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->be = be;
    c->link = true;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    be->device = c;
    be->receive = card_receive;
    be->writable = card_writable;
    be->link = card_link;
    if (be->ops->set_offloads) {
        be->ops->set_offloads(be, be->offloads);
    }
    be->ops->start(be);
    return c;
}

static void card_set_full(struct card *c, bool full) {
    pthread_mutex_lock(&c->lock);
    c->full = full;
    pthread_mutex_unlock(&c->lock);
    if (!full) {
        c->be->ops->rx_ready(c->be);
    }
}

static void card_remove(struct card *c) {
    c->be->ops->stop(c->be);
    c->be->ops->close(c->be);
    free(c);
}

static void card_send(struct card *c, const struct net_hdr *hdr, const u8 *frame, u32 len) {
    static const struct net_hdr none;
    struct iov iov[2] = {{(void *)(uintptr_t)(hdr ? hdr : &none), sizeof(none)},
                         {(void *)(uintptr_t)frame, len}};
    assert_int_equal(c->be->ops->send(c->be, iov, 2), 0);
}

/* Waits for a condition of the card, under its lock; 5 s at most. */
#define AWAIT(c, condition)                                                                        \
    do {                                                                                           \
        struct timespec until;                                                                     \
        clock_gettime(CLOCK_REALTIME, &until);                                                     \
        until.tv_sec += 5;                                                                         \
        pthread_mutex_lock(&(c)->lock);                                                            \
        int timed_out = 0;                                                                         \
        while (!(condition) && !timed_out) {                                                       \
            timed_out = pthread_cond_timedwait(&(c)->changed, &(c)->lock, &until);                 \
        }                                                                                          \
        bool met = condition;                                                                      \
        pthread_mutex_unlock(&(c)->lock);                                                          \
        assert_true(met);                                                                          \
    } while (0)

/* --- user ------------------------------------------------------------------------------------- */

static void forwards(void **state) {
    (void)state;
    static const char *const good[] = {"tcp:127.0.0.1:2222-:22", "udp::53-10.0.2.15:53",
                                       "tcp:[::1]:80-[fec0::15]:80", "tcp::1-:65535"};
    static const char *const bad[] = {"",
                                      "tcp:",
                                      "tcp:127.0.0.1:2222",
                                      "sctp::1-:1",
                                      "tcp::0-:1",
                                      "tcp::65536-:1",
                                      "tcp::1-:1x",
                                      "tcp:127.0.0.1.1:1-:1",
                                      "tcp:[::1]:80-:80",
                                      "tcp:[::1:80-:80",
                                      "tcp:[127.0.0.1]:80-:80",
                                      "tcp::-1-:1",
                                      "tcp:host:80-:80",
                                      "tcp:[::1]x:80-[::1]:80"};
    struct net_forward f;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(net_forward_parse(good[i], &f, NULL), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(net_forward_parse(bad[i], &f, NULL), -ERR_INVAL);
    }
    assert_int_equal(net_forward_parse(good[0], &f, NULL), 0);
    struct sockaddr_in *a = (struct sockaddr_in *)(void *)&f.host;
    assert_int_equal(ntohs(a->sin_port), 2222);
    assert_int_equal(ntohl(a->sin_addr.s_addr), 0x7f000001);
}

static void user(void **state) {
    (void)state;
    struct net_backend *be;
    const struct net_user_opts opts = {0};
    u8 arp[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0,  1, 8, 6,
                  0,    1,    8,    0,    6,    4,    0, 1, 2, 0, 0,  0, 0, 1,
                  10,   0,    2,    15,   0,    0,    0, 0, 0, 0, 10, 0, 2, 2};
    if (net_user_open(lh, &opts, &be, NULL) == -ERR_NOTFOUND) {
        skip(); /* no libslirp */
    }
    struct card *c = card_connect(be);
    card_set_full(c, true);
    for (u32 i = 0; i < 3; i++) {
        card_send(c, NULL, arp, sizeof(arp));
    }
    AWAIT(c, c->refused);
    card_set_full(c, false);
    AWAIT(c, c->frames >= 3);
    card_remove(c);
}

static void port_in_use(void **state) {
    (void)state;
    struct net_backend *be;
    struct err err = {0};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    char text[64];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) ||
                         getsockname(fd, (struct sockaddr *)&a, &len),
                     0);
    snprintf(text, sizeof(text), "tcp:127.0.0.1:%u-:22", ntohs(a.sin_port));
    const struct net_user_opts opts = {.forward = {text}, .forward_count = 1};
    int rc = net_user_open(lh, &opts, &be, &err);
    close(fd);
    if (rc == -ERR_NOTFOUND) {
        skip();
    }
    assert_int_equal(rc, -ERR_IO);
    assert_non_null(strstr(err.text, text));
    assert_non_null(strstr(err.text, "in use"));
}

/* --- tap -------------------------------------------------------------------------------------- */

static void no_tap(void **state) {
    (void)state;
    struct net_backend *be;
    struct err err = {0};
    assert_int_equal(net_tap_open(lh, "nowhere0", &be, &err), -ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "no such interface"));
    assert_int_equal(net_tap_open(lh, "a-name-longer-than-any-interface", &be, NULL),
                     -ERR_NOTFOUND);
    assert_true(net_tap_open(lh, "lo", &be, NULL) < 0);
}

/* --- passt ------------------------------------------------------------------------------------ */

static int passt_listen(char *path, size_t size) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(path, size, "%s/passt", dir);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/passt", dir);
    unlink(a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1), 0);
    return fd;
}

static void passt_frame(int fd, const u8 *frame, u32 len) {
    u8 prefix[4] = {0, (u8)(len >> 16), (u8)(len >> 8), (u8)len};
    assert_int_equal(send(fd, prefix, 4, MSG_MORE), 4);
    assert_int_equal(send(fd, frame, len, 0), len);
}

static u32 read_frame(int fd, u8 *frame) {
    u8 prefix[4];
    assert_int_equal(recv(fd, prefix, 4, MSG_WAITALL), 4);
    u32 len = (u32)prefix[1] << 16 | (u32)prefix[2] << 8 | prefix[3];
    assert_int_equal(recv(fd, frame, len, MSG_WAITALL), len);
    return len;
}

static void passt(void **state) {
    (void)state;
    static u8 frame[NET_FRAME_MAX];
    struct net_backend *be;
    struct err err = {0};
    char path[108];
    int listener = passt_listen(path, sizeof(path));
    assert_int_equal(net_passt_open(lh, path, &be, NULL), 0);
    int fd = accept(listener, NULL, NULL);
    struct card *c = card_connect(be);
    struct frame_opts o = {.ip = 4, .proto = PACKET_TCP, .flags = 0x10};
    u32 len = frame_make(frame, &o, 65000); /* the guest's: one piece, with its checksum */
    struct net_hdr h = frame_header(frame, len, 1448);
    card_send(c, &h, frame, len);
    assert_int_equal(read_frame(fd, frame), len);
    assert_true(frame_good(frame, len));
    card_set_full(c, true); /* passt's: kept while the card is full, then joined */
    for (u32 i = 0; i < 5; i++, o.seq += 1000) {
        len = frame_make(frame, &o, 1000);
        h = frame_header(frame, len, 0);
        packet_checksum(frame, len, h.csum_start, h.csum_offset);
        passt_frame(fd, frame, len);
    }
    AWAIT(c, c->refused);
    card_set_full(c, false);
    u32 bytes = 0, seen = 0;
    while (bytes < 5000) {
        AWAIT(c, c->frames > seen || c->refused);
        pthread_mutex_lock(&c->lock);
        seen = c->frames;
        bytes = c->len ? frame_get32(c->frame + 38) + c->len - 54 : 0; /* up to the last one */
        pthread_mutex_unlock(&c->lock);
    }
    static const u8 nonsense[4] = {0xff, 0xff, 0xff, 0xff};
    assert_int_equal(send(fd, nonsense, 4, 0), 4);
    AWAIT(c, !c->link);
    card_send(c, NULL, frame, 60); /* into the void */
    card_remove(c);
    close(fd);
    close(listener);
    unlink(path);
    assert_int_equal(net_passt_open(lh, path, &be, &err), -ERR_IO);
    assert_non_null(strstr(err.text, "passt --socket"));
}

/* --- switch ----------------------------------------------------------------------------------- */

static void *serve(void *arg) {
    struct err *err = arg;
    return (void *)(intptr_t)switch_serve("unit", err);
}

static struct card *join(u16 vlan, u8 n, bool generated, u8 *mac) {
    struct net_backend *be;
    const struct net_switch_opts opts = {.name = "unit", .vlan = vlan, .generated_mac = generated};
    u8 own[6] = {2, 0, 0, 0, 0, n};
    struct err err = {0};
    if (net_switch_open(lh, &opts, own, &be, &err)) {
        fail_msg("%s", err.text);
    }
    if (mac) {
        memcpy(mac, own, 6);
    }
    return card_connect(be);
}

static void frame_from(u8 *frame, u8 src, u8 dst) {
    static const u8 start[6] = {2};
    memset(frame, 0, 60);
    memcpy(frame, start, 6);
    memcpy(frame + 6, start, 6);
    frame[5] = dst;
    frame[11] = src;
    if (dst == 0xff) {
        memset(frame, 0xff, 6);
    }
}

static int stranger(const void *hello, size_t len) {
    struct sockaddr_un a;
    assert_int_equal(switch_address("unit", &a, NULL), 0);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    send(fd, hello, len, MSG_NOSIGNAL);
    return fd;
}

static void switch_ports(struct card *a, struct card *b, struct card *other) {
    static u8 frame[NET_FRAME_MAX];
    frame_from(frame, 1, 2);
    card_send(a, NULL, frame, 60);
    AWAIT(b, b->frames == 1);
    assert_int_equal(b->len, 60);
    struct net_hdr h = {.flags = NET_HDR_DATA_VALID}; /* not to be believed */
    frame_from(frame, 2, 0xff);
    card_send(b, &h, frame, sizeof(frame)); /* the largest there is, to all */
    AWAIT(a, a->frames == 1);
    assert_int_equal(a->len, sizeof(frame));
    assert_int_equal(a->hdr.flags, 0);
    frame_from(frame, 1, 2);
    card_send(b, NULL, frame, 60); /* b says it is a */
    frame_from(frame, 2, 1);
    card_send(b, NULL, frame, 60);
    AWAIT(a, a->frames == 2);
    card_set_full(b, true); /* does not read: a's frames are lost, a goes on */
    frame_from(frame, 1, 2);
    struct iov iov[2] = {{&h, sizeof(h)}, {frame, sizeof(frame)}};
    for (u32 i = 0; i < 200; i++) {
        a->be->ops->send(a->be, iov, 2);
    }
    card_set_full(b, false);
    AWAIT(b, b->frames > 1);
    assert_int_equal(other->frames, 0); /* another VLAN */
}

static void switch_server(void **state) {
    (void)state;
    struct err err = {0};
    pthread_t server;
    u8 mac[6];
    void *rc;
    pthread_create(&server, NULL, serve, &err);
    struct card *a = join(0, 1, false, NULL), *b = join(0, 2, false, NULL);
    struct card *other = join(9, 1, false, NULL), *twin = join(9, 1, true, mac);
    assert_int_equal(mac[5], 2);
    switch_ports(a, b, other);
    struct switch_hello taken = {
        .magic = SWITCH_MAGIC, .kind = SWITCH_PLUG, .mac = {2, 0, 0, 0, 0, 1}};
    int fd = stranger(&taken, sizeof(taken));
    struct switch_welcome w = {0};
    assert_int_equal(recv(fd, &w, sizeof(w), 0), sizeof(w));
    assert_int_equal(w.result, -ERR_EXISTS);
    close(fd);
    close(stranger("what?", 5));
    close(stranger("", 0));
    int text[2];
    char status[2000];
    assert_int_equal(pipe(text), 0);
    assert_int_equal(switch_status("unit", text[1], NULL), 0);
    ssize_t n = read(text[0], status, sizeof(status) - 1);
    assert_true(n > 0);
    status[n] = 0;
    assert_non_null(strstr(status, "port 0 vlan 0 mac 02:00:00:00:00:01"));
    assert_non_null(strstr(status, "spoofed 1"));
    assert_non_null(strstr(status, "port 2 vlan 9"));
    close(text[0]);
    close(text[1]);
    card_remove(a);
    card_remove(b);
    card_remove(twin);
    card_remove(other);
    pthread_join(server, &rc); /* it ends by itself */
    assert_int_equal((int)(intptr_t)rc, 0);
    assert_int_equal(switch_status("unit", 1, &err), -ERR_NOTFOUND);
}

static void bad_names(void **state) {
    (void)state;
    struct sockaddr_un a;
    assert_int_equal(switch_address("", &a, NULL), -ERR_INVAL);
    assert_int_equal(switch_address("../x", &a, NULL), -ERR_INVAL);
    assert_int_equal(switch_address("012345678901234567890123456789012", &a, NULL), -ERR_INVAL);
    assert_int_equal(switch_address("01234567890123456789012345678901", &a, NULL), 0);
    char other[80];
    snprintf(other, sizeof(other), "%s/sosia", dir);
    chmod(other, 0777);
    assert_int_equal(switch_address("x", &a, NULL), -ERR_PERM);
    chmod(other, 0700);
}

static int setup(void **state) {
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/net_linux_test.XXXXXX");
    return !mkdtemp(dir) || setenv("XDG_RUNTIME_DIR", dir, 1) || linux_host_create(&lh, NULL);
}

static int teardown(void **state) {
    (void)state;
    char path[100];
    linux_host_destroy(lh);
    snprintf(path, sizeof(path), "rm -rf %s", dir);
    return system(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forwards),      cmocka_unit_test(user),  cmocka_unit_test(port_in_use),
        cmocka_unit_test(no_tap),        cmocka_unit_test(passt), cmocka_unit_test(bad_names),
        cmocka_unit_test(switch_server),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
