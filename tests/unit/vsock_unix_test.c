/* SPDX-License-Identifier: Apache-2.0 */
/* The Unix sockets behind the socket device: greetings, numbers, ends, names. A real event loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/lib_host.h"

enum { WAIT_MS = 20000 };

static struct real_host h;
static struct vsock_backend *be;
static char dir[] = "/tmp/vsock-test.XXXXXX", path[64];
/* what was last called back; written on the event thread, read with seen() */
static int incoming_sock, incoming_port, connected_sock, connected_ok, events;

static int get(int *p) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void set(int *p, int value) {
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

static void on_incoming(void *device, u32 sock, u32 port) {
    (void)device;
    set(&incoming_port, (int)port);
    set(&incoming_sock, (int)sock);
}

static void on_connected(void *device, u32 sock, bool ok) {
    (void)device;
    set(&connected_ok, ok);
    set(&connected_sock, (int)sock);
}

static void on_event(void *device, u32 sock) {
    (void)device;
    (void)sock;
    __atomic_fetch_add(&events, 1, __ATOMIC_SEQ_CST);
}

/* Waits until *p is not `value` any more. */
static int changed(int *p, int value) {
    for (int ms = 0; get(p) == value && ms < WAIT_MS; ms++) {
        usleep(1000);
    }
    assert_int_not_equal(get(p), value);
    return get(p);
}

static struct sockaddr_un name_of(const char *suffix) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof(at.sun_path), "%.60s%s", path, suffix);
    return at;
}

static int dial(void) {
    struct sockaddr_un at = name_of("");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void setup(void) {
    struct err err = {0};
    real_host_setup(&h, true);
    snprintf(path, sizeof(path), "%s/v.sock", dir);
    if (vsock_unix_open(h.lh, path, &be, &err)) {
        fail_msg("%s", err.text);
    }
    be->incoming = on_incoming;
    be->connected = on_connected;
    be->event = on_event;
    incoming_sock = connected_sock = -1;
    be->ops->start(be);
}

static void teardown(void) {
    be->ops->stop(be);
    be->ops->destroy(be);
    assert_int_not_equal(access(path, F_OK), 0); /* its name is gone */
    real_host_teardown(&h);
}

static bool closed(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char c;
    return poll(&p, 1, WAIT_MS) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) <= 0;
}

static void test_greeting(void **state) {
    (void)state;
    char reply[32] = "";
    setup();
    int fd = dial();
    /* in pieces, and with data right behind it */
    assert_int_equal(write(fd, "conn", 4), 4);
    usleep(20000);
    assert_int_equal(get(&incoming_sock), -1);
    assert_int_equal(write(fd, "ect  4294967295\nhello", 21), 21);
    u32 n = (u32)changed(&incoming_sock, -1);
    assert_int_equal((u32)get(&incoming_port), UINT32_MAX);
    struct iov v = {reply, sizeof(reply)};
    assert_int_equal(be->ops->read(be, n, &v, 1), 5);
    assert_memory_equal(reply, "hello", 5);
    assert_int_equal(be->ops->read(be, n, &v, 1), -ERR_AGAIN);
    be->ops->accepted(be, n, 1u << 30);
    assert_int_equal(read(fd, reply, sizeof(reply)), 14);
    assert_memory_equal(reply, "OK 1073741824\n", 14);
    int before = get(&events);
    assert_int_equal(write(fd, "x", 1), 1);
    changed(&events, before);
    assert_false(be->ops->hung_up(be, n));
    be->ops->shutdown(be, n, false, true);
    assert_true(closed(fd));
    close(fd);
    assert_int_equal(be->ops->read(be, n, &v, 1), 1);
    assert_int_equal(be->ops->read(be, n, &v, 1), 0);
    assert_true(be->ops->hung_up(be, n));
    assert_int_equal(be->ops->write(be, n, &v, 1), -ERR_IO);
    be->ops->close(be, n);
    teardown();
}

static void test_bad_greetings(void **state) {
    (void)state;
    static const char *const bad[] = {"CONNECT\n",
                                      "CONNECT \n",
                                      "CONNECT 4294967296\n",
                                      "CONNECT -1\n",
                                      "CONNECT 1 2\n",
                                      "CONNECT 12345678901",
                                      "DISCONNECT 1\n",
                                      "\n",
                                      "CONNECT1\n",
                                      "CONNECT 1x\n",
                                      "CONNECT                         1\n"};
    setup();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int fd = dial();
        assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
        if (!strchr(bad[i], '\n')) {
            shutdown(fd, SHUT_WR);
        }
        assert_true(closed(fd));
        close(fd);
    }
    assert_int_equal(get(&incoming_sock), -1);
    /* those that say nothing: the oldest have to go, and one that speaks still gets through */
    int silent[100];
    for (u32 i = 0; i < ARRAY_LEN(silent); i++) {
        silent[i] = dial();
    }
    assert_true(closed(silent[0]));
    int fd = dial();
    assert_int_equal(write(fd, "CONNECT 5\n", 10), 10);
    be->ops->close(be, (u32)changed(&incoming_sock, -1));
    assert_true(closed(fd));
    close(fd);
    for (u32 i = 0; i < ARRAY_LEN(silent); i++) {
        close(silent[i]);
    }
    teardown();
}

static void test_dial(void **state) {
    (void)state;
    setup();
    struct sockaddr_un at = name_of("_77");
    int n = be->ops->connect(be, 77);
    assert_true(n >= 0);
    assert_int_equal(changed(&connected_sock, -1), n);
    assert_false(get(&connected_ok)); /* nobody listens */
    be->ops->close(be, (u32)n);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(listener, 1), 0);
    set(&connected_sock, -1);
    n = be->ops->connect(be, 77);
    assert_int_equal(changed(&connected_sock, -1), n);
    assert_true(get(&connected_ok));
    int peer = accept(listener, NULL, NULL);
    /* a peer that does not read: the write ends, and goes on when it does */
    static char block[65536], got[65536];
    const struct iov v = {block, sizeof(block)};
    u64 put = 0, took = 0;
    s64 r;
    while ((r = be->ops->write(be, (u32)n, &v, 1)) > 0) {
        put += (u64)r;
    }
    assert_int_equal(r, -ERR_AGAIN);
    int before = get(&events);
    while (took < put) {
        ssize_t k = read(peer, got, sizeof(got));
        assert_true(k > 0);
        took += (u64)k;
    }
    changed(&events, before);
    assert_true(be->ops->write(be, (u32)n, &v, 1) > 0);
    be->ops->close(be, (u32)n);
    close(peer);
    close(listener);
    unlink(at.sun_path);
    teardown();
}

/* A socket of the caller's becomes a connection, also where there is no name to connect to. */
static void test_adopt(void **state) {
    struct err err = {0};
    char reply[16] = "";
    int pair[2];
    (void)state;
    real_host_setup(&h, false);
    assert_int_equal(vsock_unix_open(h.lh, NULL, &be, &err), 0);
    be->incoming = on_incoming;
    be->connected = on_connected;
    be->event = on_event;
    incoming_sock = -1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(vsock_unix_adopt(be, pair[1], 512), -ERR_NOSPACE); /* no device yet */
    assert_int_equal(get(&incoming_sock), -1);
    be->ops->start(be);
    assert_int_equal(vsock_unix_adopt(be, pair[1], 512), 0);
    assert_int_equal(get(&incoming_port), 512);
    u32 n = (u32)get(&incoming_sock);
    be->ops->accepted(be, n, 7);
    assert_int_equal(read(pair[0], reply, sizeof(reply)), 5);
    assert_memory_equal(reply, "OK 7\n", 5);
    struct iov v = {reply, sizeof(reply)};
    assert_int_equal(be->ops->read(be, n, &v, 1), -ERR_AGAIN); /* it does not block */
    assert_true(be->ops->connect(be, 5) >= 0);                 /* which nobody can be there for */
    be->ops->close(be, n);
    assert_true(closed(pair[0]));
    close(pair[0]);
    be->ops->stop(be);
    be->ops->destroy(be);
    real_host_teardown(&h);
}

/* As many as there are numbers; then none, until one is given back. */
static void test_numbers(void **state) {
    (void)state;
    setup();
    for (u32 i = 0; i < be->max; i++) {
        assert_true(be->ops->connect(be, 1) >= 0);
    }
    assert_int_equal(be->ops->connect(be, 1), -ERR_NOSPACE);
    be->ops->close(be, 9);
    int n = -1;
    for (int ms = 0; n < 0 && ms < WAIT_MS; ms++) { /* not before the event thread came by */
        n = be->ops->connect(be, 1);
        usleep(n < 0 ? 1000 : 0);
    }
    assert_int_equal(n, 9);
    teardown();
}

static void test_names(void **state) {
    (void)state;
    struct vsock_backend *other;
    struct err err = {0};
    char longer[200];
    setup();
    assert_int_equal(vsock_unix_open(h.lh, path, &other, &err), -ERR_IO); /* in use */
    assert_non_null(strstr(err.text, path));
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    err.code = 0;
    assert_int_equal(vsock_unix_open(h.lh, longer, &other, &err), -ERR_INVAL);
    longer[97] = 0; /* room for it, not for "_4294967295" */
    err.code = 0;
    assert_int_equal(vsock_unix_open(h.lh, longer, &other, &err), -ERR_INVAL);
    err.code = 0;
    assert_int_equal(vsock_unix_open(h.lh, "/nowhere/x", &other, &err), -ERR_IO);
    teardown();
    /* left by a process that was killed */
    struct sockaddr_un at = name_of("");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    close(fd);
    setup();
    teardown();
    /* a file that is no socket stays */
    FILE *f = fopen(path, "w");
    fclose(f);
    real_host_setup(&h, true);
    assert_int_equal(vsock_unix_open(h.lh, path, &other, NULL), -ERR_IO);
    real_host_teardown(&h);
    assert_int_equal(unlink(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting), cmocka_unit_test(test_bad_greetings),
        cmocka_unit_test(test_dial),     cmocka_unit_test(test_adopt),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_names),
    };
    if (!mkdtemp(dir)) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
