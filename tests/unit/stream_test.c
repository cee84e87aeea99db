/* SPDX-License-Identifier: Apache-2.0 */
/* Consoles: pseudo-terminals in both directions, a device that refuses input, readers that do not
 * read, standard input as terminal, file and nothing, escape keys, output to a file. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/linux/stream.h"
#include "tests/unit/lib_host.h"

static struct real_host h;
static u32 left;

/* A device that takes as much as `room` says and remembers it. */
struct device {
    pthread_mutex_t lock;
    u8 got[1 << 17];
    u32 len;      /* atomic for the test's waiting */
    size_t room;  /* how much more it takes */
    u32 writable; /* calls */
};

static struct device dev;

static size_t device_receive(void *device, const u8 *data, size_t len) {
    struct device *d = device;
    pthread_mutex_lock(&d->lock);
    size_t n = MIN(MIN(len, d->room), sizeof(d->got) - d->len);
    memcpy(d->got + d->len, data, n);
    d->room -= n;
    __atomic_fetch_add(&d->len, (u32)n, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&d->lock);
    return n;
}

static void device_writable(void *device) {
    __atomic_fetch_add(&((struct device *)device)->writable, 1, __ATOMIC_RELEASE);
}

static void device_room(size_t room) {
    pthread_mutex_lock(&dev.lock);
    dev.room = room;
    pthread_mutex_unlock(&dev.lock);
}

static u32 device_len(void) {
    return __atomic_load_n(&dev.len, __ATOMIC_ACQUIRE);
}

static void attach(struct char_backend *be) {
    be->device = &dev;
    be->receive = device_receive;
    be->writable = device_writable;
}

static void on_leave(void *ctx) {
    (void)ctx;
    __atomic_fetch_add(&left, 1, __ATOMIC_RELEASE);
}

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, false);
    dev = (struct device){.room = SIZE_MAX};
    pthread_mutex_init(&dev.lock, NULL);
    left = 0;
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

/* The loop starts when devices are attached, as it does in the command. */
static void loop_start(void) {
    assert_int_equal(pthread_create(&h.thread, NULL, loop_main, NULL), 0);
    h.running = true;
}

static void finish(struct char_backend *be) {
    real_host_stop(&h);
    be->ops->close(be);
}

static void read_all(int fd, u8 *buf, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t n = read(fd, buf + at, len - at);
        assert_true(n > 0);
        at += (size_t)n;
    }
}

static struct char_backend *pty_open(int *fd) {
    char name[64];
    struct char_backend *be = NULL;
    assert_int_equal(con_pty_open(h.lh, NULL, name, sizeof(name), &be, NULL), 0);
    *fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(*fd >= 0);
    attach(be);
    loop_start();
    return be;
}

static size_t write_all(struct char_backend *be, const u8 *data, size_t len) {
    size_t at = 0;
    for (u64 end = now_ms() + 5000; at < len && now_ms() < end;) {
        u32 before = __atomic_load_n(&dev.writable, __ATOMIC_ACQUIRE);
        size_t n = be->ops->write(be, data + at, len - at);
        at += n;
        if (at < len) {
            assert_true(wait_until(&dev.writable, before + 1));
        }
    }
    return at;
}

/* --- pseudo-terminals ------------------------------------------------------------------------- */

static void test_pty(void **state) {
    (void)state;
    int fd;
    u8 buf[16];
    struct char_backend *be = pty_open(&fd);
    assert_int_equal(be->ops->write(be, (const u8 *)"a\r\nb\x7f\0", 6), 6);
    read_all(fd, buf, 6);
    assert_memory_equal(buf, "a\r\nb\x7f\0", 6); /* raw: nothing is changed */
    assert_int_equal(write(fd, "in\x03\x01x\n", 6), 6);
    assert_true(wait_until(&dev.len, 6));
    assert_memory_equal(dev.got, "in\x03\x01x\n", 6);
    close(fd); /* hung up by the user: goes on, and can be opened again */
    assert_int_equal(be->ops->write(be, (const u8 *)"z", 1), 1);
    finish(be);
}

/* Megabytes with a reader that takes its time: all arrive, in order, with refusals between. */
struct reader {
    int fd;
    size_t want, got;
    bool wrong;
};

static void *reader_main(void *arg) {
    struct reader *r = arg;
    u8 buf[3000];
    struct pollfd p = {.fd = r->fd, .events = POLLIN};
    while (r->got < r->want && poll(&p, 1, 10000) == 1) {
        ssize_t n = read(r->fd, buf, sizeof(buf));
        if (n <= 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++, r->got++) {
            r->wrong = r->wrong || buf[i] != (u8)(r->got * 7 % 251);
        }
    }
    return NULL;
}

static void test_pty_much(void **state) {
    (void)state;
    enum { MUCH = 1 << 19 };
    static u8 data[MUCH];
    int fd;
    pthread_t thread;
    struct char_backend *be = pty_open(&fd);
    struct reader r = {.fd = fd, .want = MUCH};
    for (size_t i = 0; i < MUCH; i++) {
        data[i] = (u8)(i * 7 % 251);
    }
    pthread_create(&thread, NULL, reader_main, &r);
    assert_int_equal(write_all(be, data, MUCH), MUCH);
    pthread_join(thread, NULL);
    assert_int_equal(r.got, MUCH);
    assert_false(r.wrong);
    assert_true(__atomic_load_n(&dev.writable, __ATOMIC_ACQUIRE) > 0);
    finish(be);
    close(fd);
}

/* Nobody reads: the writer is refused but never blocked, later the output is dropped; closing takes
 * a bounded time. */
static void test_pty_unread(void **state) {
    (void)state;
    static u8 data[STREAM_RING * 2];
    int fd;
    struct char_backend *be = pty_open(&fd);
    CONTAINER_OF(be, struct stream, be)->drop_after_ms = 300;
    u64 begin = now_ms();
    size_t n = be->ops->write(be, data, sizeof(data));
    assert_true(n <= STREAM_RING);
    assert_true(now_ms() - begin < 500);
    assert_true(wait_until(&dev.writable, 1)); /* a moment later there is room */
    assert_true(be->ops->write(be, data, 1) == 1);
    begin = now_ms();
    finish(be);
    assert_true(now_ms() - begin < 3000);
    close(fd);
}

/* The reader comes late, but reads: nothing is lost before the time is over. */
static void test_pty_late(void **state) {
    (void)state;
    int fd;
    u8 buf[20000], got[20000];
    struct char_backend *be = pty_open(&fd);
    for (size_t i = 0; i < sizeof(buf); i++) {
        buf[i] = (u8)i;
    }
    assert_int_equal(be->ops->write(be, buf, sizeof(buf)), sizeof(buf));
    sleep_ms(200);
    read_all(fd, got, sizeof(got));
    assert_memory_equal(buf, got, sizeof(got));
    u64 begin = now_ms();
    finish(be);
    assert_true(now_ms() - begin < 400); /* nothing is left to wait for */
    close(fd);
}

/* A device that takes nothing, a little, then all. */
static void test_flow_control(void **state) {
    (void)state;
    int fd;
    u8 data[12000];
    struct char_backend *be = pty_open(&fd);
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (u8)(i % 251);
    }
    device_room(0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (u64 end = now_ms() + 10000; sent < sizeof(data) && now_ms() < end;) {
        ssize_t n = write(fd, data + sent, MIN(sizeof(data) - sent, (size_t)1000));
        sent += n > 0 ? (size_t)n : 0;
        if (n <= 0) { /* both buffers are full: the device has to take some */
            device_room(100);
            be->ops->rx_ready(be);
            sleep_ms(1);
        }
    }
    assert_int_equal(sent, sizeof(data));
    device_room(10);
    be->ops->rx_ready(be);
    sleep_ms(20);
    assert_true(device_len() < sizeof(data));
    device_room(SIZE_MAX);
    for (int i = 0; i < 100; i++) {
        be->ops->rx_ready(be); /* many times: one resume */
    }
    assert_true(wait_until(&dev.len, sizeof(data)));
    assert_memory_equal(dev.got, data, sizeof(data));
    finish(be);
    close(fd);
}

/* Closing while a resume is posted, and with the loop still running on its thread. */
static void test_close_early(void **state) {
    (void)state;
    int fd;
    struct char_backend *be = pty_open(&fd);
    device_room(0);
    assert_int_equal(write(fd, "abc", 3), 3);
    sleep_ms(10);
    be->ops->rx_ready(be);
    be->ops->close(be);
    sleep_ms(10);
    close(fd);
}

static void test_no_leak(void **state) {
    (void)state;
    int before = dup(0);
    close(before);
    for (int i = 0; i < 20; i++) {
        char name[64];
        struct char_backend *be = NULL;
        assert_int_equal(con_pty_open(h.lh, NULL, name, sizeof(name), &be, NULL), 0);
        be->ops->close(be);
    }
    int after = dup(0);
    close(after);
    assert_int_equal(before, after);
}

/* --- files ------------------------------------------------------------------------------------ */

static void test_file(void **state) {
    (void)state;
    char path[] = "/tmp/stream_test.XXXXXX";
    u8 buf[64];
    struct char_backend *be = NULL;
    struct err err = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (int i = 0; i < 2; i++) { /* the second appends */
        assert_int_equal(con_file_open(h.lh, path, &be, &err), 0);
        assert_int_equal(be->ops->write(be, (const u8 *)"line\n", 5), 5);
        be->ops->rx_ready(be);
        be->ops->close(be);
    }
    assert_int_equal(read(fd, buf, sizeof(buf)), 10);
    assert_memory_equal(buf, "line\nline\n", 10);
    close(fd);
    unlink(path);
    assert_int_not_equal(con_file_open(h.lh, "/nonexistent/file", &be, &err), 0);
    assert_non_null(strstr(err.text, "/nonexistent/file"));
}

/* A full disk: the machine goes on. */
static void test_file_full(void **state) {
    (void)state;
    static u8 data[STREAM_RING];
    struct char_backend *be = NULL;
    assert_int_equal(con_file_open(h.lh, "/dev/full", &be, NULL), 0);
    for (int i = 0; i < 10; i++) {
        be->ops->write(be, data, sizeof(data));
        sleep_ms(10);
    }
    assert_int_equal(be->ops->write(be, data, sizeof(data)), sizeof(data));
    be->ops->close(be);
}

/* --- standard input and output: in a child, so that the test keeps its own ----------------------
 */

static void sigfail(const char *what) {
    fprintf(stderr, "%s\n", what);
    _exit(1);
}

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            sigfail(#cond);                                                                        \
        }                                                                                          \
    } while (0)

static struct char_backend *stdio_open(int in, int out) {
    struct char_backend *be = NULL;
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    CHECK(!linux_host_create(&h.lh, NULL));
    CHECK(!con_stdio_open(h.lh, on_leave, NULL, &be, NULL));
    attach(be);
    CHECK(!pthread_create(&h.thread, NULL, loop_main, NULL));
    return be;
}

static void stdio_close(struct char_backend *be) {
    linux_host_quit(h.lh);
    pthread_join(h.thread, NULL);
    be->ops->close(be);
    linux_host_destroy(h.lh);
}

static void child_end(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static double cpu_seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* End of input must not spin, and output goes on after it. */
static void test_stdin_end(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        int in[2], out[2];
        u8 buf[8];
        alarm(20);
        CHECK(!pipe(in) && !pipe(out));
        CHECK(write(in[1], "hello", 5) == 5);
        close(in[1]);
        struct char_backend *be = stdio_open(in[0], out[1]);
        CHECK(wait_until(&dev.len, 5));
        double before = cpu_seconds();
        sleep_ms(200);
        CHECK(cpu_seconds() - before < 0.1);
        be->ops->rx_ready(be);
        CHECK(be->ops->write(be, (const u8 *)"ok", 2) == 2);
        CHECK(read(out[0], buf, 2) == 2);
        stdio_close(be);
        _exit(0);
    }
    child_end(pid);
}

/* A regular file, which epoll refuses, longer than the buffer; the device takes it in portions. */
static void test_stdin_file(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        char path[] = "/tmp/stream_test.XXXXXX";
        u8 data[3 * STREAM_INPUT + 5];
        alarm(20);
        int fd = mkstemp(path);
        unlink(path);
        for (size_t i = 0; i < sizeof(data); i++) {
            data[i] = (u8)(2 + i % 200); /* no Ctrl-A */
        }
        CHECK(write(fd, data, sizeof(data)) == (ssize_t)sizeof(data));
        lseek(fd, 0, SEEK_SET);
        device_room(0);
        struct char_backend *be = stdio_open(fd, open("/dev/null", O_WRONLY));
        sleep_ms(50);
        double before = cpu_seconds();
        sleep_ms(100);
        CHECK(cpu_seconds() - before < 0.05);
        for (u64 end = now_ms() + 5000; device_len() < sizeof(data) && now_ms() < end;) {
            device_room(1000);
            be->ops->rx_ready(be);
            sleep_ms(1);
        }
        CHECK(device_len() == sizeof(data) && !memcmp(dev.got, data, sizeof(data)));
        stdio_close(be);
        _exit(0);
    }
    child_end(pid);
}

static void test_stdin_null(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        alarm(20);
        int null = open("/dev/null", O_RDWR);
        struct char_backend *be = stdio_open(null, null);
        double before = cpu_seconds();
        sleep_ms(100);
        CHECK(cpu_seconds() - before < 0.05);
        CHECK(device_len() == 0);
        stdio_close(be);
        _exit(0);
    }
    child_end(pid);
}

/* Standard output is a full pipe: the writer blocks in the kernel, and closing gets it out. */
static void test_stdout_blocked(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        static u8 data[STREAM_RING];
        int out[2];
        alarm(20);
        CHECK(!pipe(out));
        struct char_backend *be = stdio_open(open("/dev/null", O_RDONLY), out[1]);
        for (int i = 0; i < 4; i++) {
            be->ops->write(be, data, sizeof(data));
            sleep_ms(20);
        }
        u64 begin = now_ms();
        stdio_close(be);
        CHECK(now_ms() - begin < 5000);
        _exit(0);
    }
    child_end(pid);
}

static void pty_pair(int *master, int *slave) {
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(*master >= 0 && !grantpt(*master) && !unlockpt(*master));
    *slave = open(ptsname(*master), O_RDWR | O_NOCTTY);
    CHECK(*slave >= 0);
}

/* Keys one by one and many at once; the terminal is as before afterwards. */
static void test_escape_keys(void **state) {
    (void)state;
    pid_t pid = fork();
    if (!pid) {
        int master, slave;
        u8 buf[256];
        struct termios before, raw, after;
        alarm(20);
        pty_pair(&master, &slave);
        CHECK(!tcgetattr(slave, &before));
        struct char_backend *be = stdio_open(slave, slave);
        CHECK(!tcgetattr(slave, &raw) && !(raw.c_lflag & (ICANON | ECHO | ISIG)));
        CHECK(write(master, "a\x03\x01", 3) == 3); /* Ctrl-C is the guest's */
        sleep_ms(20);
        CHECK(write(master, "a\x01\x01", 3) == 3);
        CHECK(write(master, "b\x01qc", 4) == 4);
        CHECK(wait_until(&dev.len, 7));
        CHECK(!memcmp(dev.got,
                      "a\x03\x01\x01"
                      "bqc",
                      7));
        CHECK(!__atomic_load_n(&left, __ATOMIC_ACQUIRE));
        CHECK(write(master, "\x01h", 2) == 2);
        ssize_t n = read(master, buf, sizeof(buf) - 1);
        CHECK(n > 0);
        buf[n] = 0;
        CHECK(strstr((char *)buf, "Ctrl-A x"));
        CHECK(write(master, "\x01x", 2) == 2);
        CHECK(wait_until(&left, 1));
        CHECK(device_len() == 7);
        stdio_close(be);
        CHECK(!tcgetattr(slave, &after));
        CHECK(after.c_lflag == before.c_lflag && after.c_iflag == before.c_iflag);
        _exit(0);
    }
    child_end(pid);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_pty),
        T(test_pty_much),
        T(test_pty_unread),
        T(test_pty_late),
        T(test_flow_control),
        T(test_close_early),
        T(test_no_leak),
        T(test_file),
        T(test_file_full),
        T(test_stdin_end),
        T(test_stdin_file),
        T(test_stdin_null),
        T(test_stdout_blocked),
        T(test_escape_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
