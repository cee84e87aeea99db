/* SPDX-License-Identifier: Apache-2.0 */
/* The API's HTTP server with its thread and the event loop: requests, pipelines, its end. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/api_server.h"

enum { CLIENTS = 4, REQUESTS = 50 };

static struct linux_host *lh;
static struct api api;
static struct api_server *server;
static char path[64];

static int setup(void **state) {
    (void)state;
    struct err err = {0};
    snprintf(path, sizeof(path), "/tmp/api_server_test.%d", (int)getpid());
    unlink(path);
    if (linux_host_create(&lh, &err) || api_init(&api, lh, "id")) {
        return -1;
    }
    api.log.mute = true;
    api.no_files = true;
    return api_server_create(&api, path, 1000, &server, &err);
}

static int teardown(void **state) {
    (void)state;
    api_server_destroy(server);
    api_free(&api);
    linux_host_destroy(lh);
    return access(path, F_OK) ? 0 : -1;
}

static int connect_client(void) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(at.sun_path, path, strlen(path));
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Reads until text has come n times. */
static bool read_until(int fd, const char *text, int n) {
    char buf[8192];
    size_t len = 0;
    while (len < sizeof(buf) - 1) {
        ssize_t got = read(fd, buf + len, sizeof(buf) - 1 - len);
        if (got <= 0) {
            return false;
        }
        len += (size_t)got;
        buf[len] = 0;
        int found = 0;
        for (const char *p = buf; (p = strstr(p, text)); p++) {
            found++;
        }
        if (found == n) {
            return true;
        }
    }
    return false;
}

static bool say(int fd, const char *text) {
    return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static u32 failures, clients;

/* One of several at once, two requests at a time. */
static void *client(void *arg) {
    static const char two[] =
        "GET /version HTTP/1.1\r\n\r\nPUT /mmds HTTP/1.1\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    int fd = connect_client();
    bool ok = fd >= 0;
    for (int i = 0; i < REQUESTS && ok; i++) {
        ok = say(fd, two) && read_until(fd, "HTTP/1.1 20", 2);
    }
    __atomic_fetch_add(&failures, !ok, __ATOMIC_SEQ_CST);
    close(fd);
    if (!__atomic_sub_fetch(&clients, 1, __ATOMIC_SEQ_CST)) {
        linux_host_quit(lh);
    }
    (void)arg;
    return NULL;
}

static void test_several_clients(void **state) {
    (void)state;
    pthread_t thread[CLIENTS];
    clients = CLIENTS;
    failures = 0;
    for (int i = 0; i < CLIENTS; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, client, NULL), 0);
    }
    linux_host_run(lh);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_int_equal(failures, 0);
    assert_int_equal(api.metrics.count[API_N_GET_VERSION], CLIENTS * REQUESTS);
    assert_int_equal(api.metrics.count[API_N_PUT_MMDS], CLIENTS * REQUESTS);
}

static void *late_client(void *arg) {
    int fd = connect_client();
    bool *answered = arg;
    *answered = fd >= 0 && say(fd, "GET / HTTP/1.1\r\n\r\n") && read_until(fd, "has ended", 1);
    close(fd);
    return NULL;
}

/* The event loop does not run any more: who still asks is told, and nothing hangs. */
static void test_end(void **state) {
    (void)state;
    pthread_t thread;
    bool answered = false;
    assert_int_equal(pthread_create(&thread, NULL, late_client, &answered), 0);
    usleep(1000); /* the request may be waiting by now or not: both must end */
    api_server_destroy(server);
    server = NULL;
    pthread_join(thread, NULL);
}

static void test_in_use(void **state) {
    (void)state;
    struct api_server *second = NULL;
    struct err err = {0};
    assert_int_equal(api_server_create(&api, path, 1000, &second, &err), -ERR_IO);
    assert_non_null(strstr(err.text, "Check that it is not already used"));
    assert_null(second);
    assert_int_equal(access(path, F_OK), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {T(test_several_clients), T(test_end), T(test_in_use)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
