/* SPDX-License-Identifier: Apache-2.0 */
/* Consoles that several look at: the ring, followers that are slow or leave, input, hubs with and
 * without a back end below, listening sockets, log lines. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/linux/feed.h"
#include "hosts/linux/host.h"
#include "tests/unit/lib_host.h"

enum { RING = 4096 };

static struct real_host h;

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, false);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    real_host_teardown(&h);
    return 0;
}

static void *loop_main(void *arg) {
    (void)arg;
    linux_host_run(h.lh);
    return NULL;
}

static void loop_start(void) {
    assert_int_equal(pthread_create(&h.thread, NULL, loop_main, NULL), 0);
    h.running = true;
}

/* Attaches, while the loop does not run; our end of the pair. */
static int follow(struct feed *f, u32 flags) {
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(feed_attach(f, pair[1], flags, NULL), 0);
    return pair[0];
}

/* Reads until text is at the end of what came, or the end of file when it is NULL. */
static char *read_until(int fd, const char *text) {
    static char buf[1 << 20];
    size_t n = 0, len = text ? strlen(text) : 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (;;) {
        if (text && n >= len && !memcmp(buf + n - len, text, len)) {
            break;
        }
        assert_int_equal(poll(&p, 1, 10000), 1);
        ssize_t got = read(fd, buf + n, text ? 1 : sizeof(buf) - 1 - n);
        if (got <= 0) {
            assert_null(text);
            break;
        }
        n += (size_t)got;
    }
    buf[n] = 0;
    return buf;
}

static struct feed *feed_new(void) {
    struct feed *f;
    assert_int_equal(feed_create(h.lh, RING, &f, NULL), 0);
    return f;
}

static void test_replay(void **state) {
    struct feed *f = feed_new();
    char big[RING * 2 + 1];
    (void)state;
    feed_put(f, "hello ", 6);
    feed_put(f, "world", 5);
    int once = follow(f, FEED_REPLAY), live = follow(f, FEED_REPLAY | FEED_FOLLOW),
        fresh = follow(f, FEED_FOLLOW);
    loop_start();
    assert_string_equal(read_until(once, NULL), "hello world");
    assert_string_equal(read_until(live, "world"), "hello world");
    feed_put(f, "!", 1);
    assert_string_equal(read_until(live, "!"), "!");
    assert_string_equal(read_until(fresh, "!"), "!");
    real_host_stop(&h);
    memset(big, 'x', sizeof(big) - 1);
    memcpy(big + sizeof(big) - 4, "end", 3);
    feed_put(f, big, sizeof(big) - 1);
    int late = follow(f, FEED_REPLAY);
    loop_start();
    char *text = read_until(late, NULL);
    assert_int_equal(strlen(text), RING);
    assert_string_equal(text + RING - 3, "end");
    real_host_stop(&h);
    feed_destroy(f);
    close(once);
    close(live);
    close(fresh);
    close(late);
}

/* One that reads nothing loses, and is told how much; nobody waits for it. */
static void test_slow(void **state) {
    struct feed *f = feed_new();
    char line[64];
    (void)state;
    int slow = follow(f, FEED_FOLLOW), quick = follow(f, FEED_FOLLOW);
    loop_start();
    for (u32 i = 0; i < 20000; i++) {
        int n = snprintf(line, sizeof(line), "line %05u 0123456789012345678901234567890\n", i);
        feed_put(f, line, (size_t)n);
        if (i % 50 == 49) { /* keeps up */
            snprintf(line, sizeof(line), "line %05u 0123456789012345678901234567890\n", i);
            read_until(quick, line);
        }
    }
    char *text = read_until(slow, "line 19999 0123456789012345678901234567890\n");
    assert_non_null(strstr(text, "bytes lost]"));
    assert_int_equal(feed_followers(f), 2);
    close(slow);
    close(quick);
    for (int i = 0; i < 10000 && feed_followers(f); i++) {
        poll(NULL, 0, 1);
    }
    assert_int_equal(feed_followers(f), 0);
    real_host_stop(&h);
    feed_destroy(f);
}

static void test_refused(void **state) {
    struct feed *f = feed_new();
    struct err err = {0};
    int pair[2], fd[FEED_MAX_FOLLOWERS];
    (void)state;
    assert_int_equal(pipe(pair), 0);
    assert_int_equal(feed_attach(f, pair[1], FEED_FOLLOW, &err), -ERR_INVAL);
    close(pair[0]);
    close(pair[1]);
    for (u32 i = 0; i < FEED_MAX_FOLLOWERS; i++) {
        fd[i] = follow(f, FEED_FOLLOW);
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(feed_attach(f, pair[1], FEED_FOLLOW, NULL), -ERR_NOSPACE);
    close(pair[0]);
    close(pair[1]);
    feed_destroy(f);
    for (u32 i = 0; i < FEED_MAX_FOLLOWERS; i++) {
        close(fd[i]);
    }
}

/* --- hubs ------------------------------------------------------------------------------------- */

/* A device that takes `room` bytes. */
struct device {
    char got[1 << 16];
    u32 len;     /* atomic */
    size_t room; /* atomic */
};

static struct device dev;

static size_t device_receive(void *device, const u8 *data, size_t len) {
    struct device *d = device;
    size_t n = MIN(MIN(len, __atomic_load_n(&d->room, __ATOMIC_ACQUIRE)), sizeof(d->got) - d->len);
    memcpy(d->got + d->len, data, n);
    __atomic_fetch_sub(&d->room, n, __ATOMIC_RELEASE);
    __atomic_fetch_add(&d->len, (u32)n, __ATOMIC_RELEASE);
    return n;
}

static void device_attach(struct char_backend *be, size_t room) {
    dev = (struct device){.room = room};
    be->device = &dev;
    be->receive = device_receive;
}

static void test_hub(void **state) {
    char path[] = "/tmp/feed_test.XXXXXX", text[64] = "";
    struct char_backend *file;
    struct con_hub *hub;
    (void)state;
    close(mkstemp(path));
    assert_int_equal(con_file_open(h.lh, path, &file, NULL), 0);
    assert_int_equal(con_hub_open(h.lh, file, &hub, NULL), 0);
    struct char_backend *be = con_hub_backend(hub);
    device_attach(be, 4);
    int fd = follow(con_hub_feed(hub), FEED_FOLLOW | FEED_INPUT);
    loop_start();
    assert_int_equal(be->ops->write(be, (const u8 *)"output\n", 7), 7);
    read_until(fd, "output\n");
    char input[10000];
    memset(input, 'k', sizeof(input));
    assert_int_equal(write(fd, input, sizeof(input)), sizeof(input));
    assert_true(wait_until(&dev.len, 4)); /* and no more: the device is full */
    for (u32 at = 4; at < sizeof(input); at += 999) {
        assert_int_equal(__atomic_load_n(&dev.len, __ATOMIC_ACQUIRE), at);
        __atomic_store_n(&dev.room, 999, __ATOMIC_RELEASE);
        be->ops->rx_ready(be);
        assert_true(wait_until(&dev.len, MIN(at + 999, (u32)sizeof(input))));
    }
    real_host_stop(&h);
    be->ops->close(be);
    close(fd);
    fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, text, sizeof(text)), 7);
    assert_string_equal(text, "output\n");
    close(fd);
    unlink(path);
}

static int connect_to(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void test_socket(void **state) {
    char path[64];
    struct con_hub *hub, *second;
    struct err err = {0};
    (void)state;
    snprintf(path, sizeof(path), "/tmp/feed_test.%d.sock", (int)getpid());
    assert_int_equal(con_socket_open(h.lh, path, &hub, &err), 0);
    assert_int_equal(con_socket_open(h.lh, path, &second, &err), -ERR_INVAL); /* in use */
    struct char_backend *be = con_hub_backend(hub);
    device_attach(be, 100);
    assert_int_equal(be->ops->write(be, (const u8 *)"before\n", 7), 7);
    loop_start();
    int a = connect_to(path), b = connect_to(path);
    assert_string_equal(read_until(a, "before\n"), "before\n");
    assert_string_equal(read_until(b, "before\n"), "before\n");
    assert_int_equal(write(a, "key", 3), 3);
    assert_true(wait_until(&dev.len, 3));
    be->ops->write(be, (const u8 *)"after\n", 6);
    read_until(a, "after\n");
    read_until(b, "after\n");
    real_host_stop(&h);
    be->ops->close(be);
    assert_int_equal(access(path, F_OK), -1);
    close(a);
    close(b);
}

static void test_pty_link(void **state) {
    char path[64], name[64], to[64] = "";
    struct char_backend *be;
    struct err err = {0};
    (void)state;
    snprintf(path, sizeof(path), "/tmp/feed_test.%d.pty", (int)getpid());
    assert_int_equal(symlink("/nowhere", path), 0); /* of a machine before */
    assert_int_equal(con_pty_open(h.lh, path, name, sizeof(name), &be, NULL), 0);
    assert_true(readlink(path, to, sizeof(to) - 1) > 0);
    assert_string_equal(to, name);
    be->ops->close(be);
    assert_int_equal(access(path, F_OK), -1);
    close(open(path, O_CREAT | O_WRONLY, 0600)); /* a file is not replaced */
    assert_int_equal(con_pty_open(h.lh, path, name, sizeof(name), &be, &err), -ERR_INVAL);
    unlink(path);
}

/* --- a full disk ------------------------------------------------------------------------------ */

/* /dev/full gives ENOSPC to every write: the machine goes on, and is told once. */
static u32 warnings;

static void count_lines(void *ctx, const char *line, size_t len) {
    (void)ctx;
    (void)len;
    if (strstr(line, "cannot be written")) {
        __atomic_fetch_add(&warnings, 1, __ATOMIC_RELEASE);
    }
}

static void test_full(void **state) {
    struct char_backend *be;
    u8 data[4096] = {0};
    (void)state;
    if (con_file_open(h.lh, "/dev/full", &be, NULL)) {
        skip();
    }
    warnings = 0;
    linux_log_listen(count_lines, NULL);
    loop_start();
    for (size_t sent = 0; sent < 64 * sizeof(data);) {
        size_t n = be->ops->write(be, data, sizeof(data));
        sent += n;
        poll(NULL, 0, n ? 0 : 1);
    }
    assert_true(wait_until(&warnings, 1));
    real_host_stop(&h);
    be->ops->close(be);
    linux_log_listen(NULL, NULL);
    assert_int_equal(warnings, 1);
}

/* --- the log ---------------------------------------------------------------------------------- */

static void test_log(void **state) {
    char path[] = "/tmp/feed_test.XXXXXX", text[4096] = "";
    struct log_options o = {.path = path, .fd = -1, .format = LOG_JSON};
    struct host *host = linux_host_host(h.lh);
    (void)state;
    close(mkstemp(path));
    assert_int_equal(linux_log_open(&o, NULL), 0);
    linux_host_log_level(h.lh, LOG_INFO);
    linux_log_name("test");
    log_line(host, LOG_WARN, "quote \" back \\ new\nline \x1b[2J \xff");
    log_line(host, LOG_DEBUG, "not this");
    linux_log_note(LOG_INFO, "noted");
    linux_log_note(LOG_DEBUG, "nor this");
    linux_log_close();
    int fd = open(path, O_RDONLY);
    assert_true(read(fd, text, sizeof(text) - 1) > 0);
    close(fd);
    assert_non_null(strstr(text, "\"level\":\"warning\",\"machine\":\"test\",\"text\":\"quote \\\" "
                                 "back \\\\ new\\u000aline \\u001b[2J ?\"}\n"));
    assert_non_null(strstr(text, "\"text\":\"noted\""));
    assert_null(strstr(text, "this"));
    unlink(path);
    o.path = "/nowhere/log";
    assert_int_equal(linux_log_open(&o, NULL), -ERR_INVAL);
    o.path = NULL;
    o.fd = 9999;
    assert_int_equal(linux_log_open(&o, NULL), -ERR_INVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_replay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hub, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pty_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
