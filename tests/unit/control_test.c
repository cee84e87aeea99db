/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: questions and answers, descriptors, late answers, clients that misbehave. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/control.h"
#include "cmd/control_client.h"
#include "cmd/control_parse.h"
#include "cmd/registry.h"
#include "tests/unit/lib_host.h"

static struct real_host h;
static char base[64];
static struct registration *reg;
static struct control *control;
static struct control_call *late; /* atomic */
static u32 gone, served;

/* --- requests --------------------------------------------------------------------------------- */

static int serve_echo(void *ctx, struct control_call *call, struct err *err) {
    (void)err;
    assert_ptr_equal(ctx, &h);
    assert_int_equal(call->peer_pid, getpid());
    __atomic_fetch_add(&served, 1, __ATOMIC_RELEASE);
    json_object_set(call->reply, "back", json_object_get(call->request, "text"));
    return 0;
}

static int serve_fail(void *ctx, struct control_call *call, struct err *err) {
    (void)ctx;
    (void)call;
    return ERR_SET(err, ERR_NOSPACE, "no room for \"it\"");
}

/* Writes to each descriptor that came. */
static int serve_fds(void *ctx, struct control_call *call, struct err *err) {
    (void)ctx;
    (void)err;
    for (u32 i = 0; i < call->fd_count; i++) {
        char c = (char)('a' + i);
        assert_int_equal(write(call->fd[i], &c, 1), 1);
    }
    json_object_set_new(call->reply, "count", json_integer(call->fd_count));
    return 0;
}

static void on_gone(struct control_call *call) {
    (void)call;
    __atomic_store_n(&gone, 1, __ATOMIC_RELEASE);
    control_done(call, -ERR_STATE, NULL);
}

static int serve_late(void *ctx, struct control_call *call, struct err *err) {
    (void)ctx;
    (void)err;
    call->gone = on_gone;
    __atomic_store_n(&late, call, __ATOMIC_RELEASE);
    return CONTROL_LATER;
}

static int serve_large(void *ctx, struct control_call *call, struct err *err) {
    (void)ctx;
    (void)err;
    char *text = malloc(1 << 20);
    memset(text, 'x', 1 << 20);
    json_object_set_new(call->reply, "text", json_stringn(text, 1 << 20));
    free(text);
    return 0;
}

static const struct control_verb verbs[] = {
    {"echo", serve_echo}, {"fail", serve_fail},   {"fds", serve_fds},
    {"late", serve_late}, {"large", serve_large},
};

/* --- setting ---------------------------------------------------------------------------------- */

static void *loop_main(void *arg) {
    (void)arg;
    linux_host_run(h.lh);
    return NULL;
}

static int setup(void **state) {
    (void)state;
    snprintf(base, sizeof(base), "/tmp/control_test.XXXXXX");
    assert_non_null(mkdtemp(base));
    setenv("XDG_RUNTIME_DIR", base, 1);
    real_host_setup(&h, false);
    late = NULL;
    gone = served = 0;
    assert_int_equal(registry_claim("test", false, &reg, NULL), 0);
    assert_int_equal(control_create(h.lh, reg, &control, NULL), 0);
    assert_int_equal(control_add(control, verbs, ARRAY_LEN(verbs), &h), 0);
    assert_int_equal(pthread_create(&h.thread, NULL, loop_main, NULL), 0);
    h.running = true;
    return 0;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    real_host_stop(&h);
    control_destroy(control);
    registry_release(reg);
    real_host_teardown(&h);
    snprintf(command, sizeof(command), "rm -rf %s", base);
    return system(command);
}

static struct control_client *client(void) {
    struct control_client *c;
    assert_int_equal(control_connect("test", &c, NULL), 0);
    return c;
}

static json_t *question(const char *what) {
    return json_pack("{s:s, s:s}", "request", what, "text", "h\u00e4llo");
}

static int raw_socket(void) {
    int fd = registry_connect("test", NULL);
    assert_true(fd >= 0);
    return fd;
}

/* One line, or what came before the end. */
static char *raw_line(int fd) {
    static char line[8192];
    size_t n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (n < sizeof(line) - 1 && poll(&p, 1, 10000) == 1 && read(fd, line + n, 1) == 1) {
        if (line[n++] == '\n') {
            break;
        }
    }
    line[n] = 0;
    return line;
}

static void raw_send(int fd, const char *text) {
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_ask(void **state) {
    struct control_client *c = client();
    json_t *reply = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(control_pid(c), getpid());
    for (int i = 0; i < 3; i++) {
        assert_int_equal(control_ask(c, question("echo"), NULL, 0, 10000, &reply, &err), 0);
        assert_string_equal(json_string_value(json_object_get(reply, "back")), "h\u00e4llo");
        json_decref(reply);
    }
    assert_int_equal(control_ask(c, question("fail"), NULL, 0, 10000, &reply, &err), -ERR_NOSPACE);
    assert_string_equal(err.text, "no room for \"it\"");
    err = (struct err){0};
    assert_int_equal(control_ask(c, question("nothing"), NULL, 0, 10000, NULL, &err),
                     -ERR_UNSUPPORTED);
    assert_int_equal(control_ask(c, question("echo"), NULL, 0, 10000, NULL, NULL), 0);
    control_close(c);
    assert_int_equal(control_request("test", question("echo"), NULL, 0, NULL, NULL), 0);
    assert_int_equal(control_request("other", question("echo"), NULL, 0, NULL, NULL),
                     -ERR_NOTFOUND);
}

static void test_descriptors(void **state) {
    struct control_client *c = client();
    int pipes[CONTROL_MAX_FDS][2], fds[CONTROL_MAX_FDS];
    char got;
    (void)state;
    for (u32 i = 0; i < CONTROL_MAX_FDS; i++) {
        assert_int_equal(pipe(pipes[i]), 0);
        fds[i] = pipes[i][1];
    }
    json_t *reply = NULL;
    assert_int_equal(control_ask(c, question("fds"), fds, CONTROL_MAX_FDS, 10000, &reply, NULL), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "count")), CONTROL_MAX_FDS);
    json_decref(reply);
    assert_int_equal(control_ask(c, question("echo"), fds, 3, 10000, NULL, NULL), 0);
    for (u32 i = 0; i < CONTROL_MAX_FDS; i++) {
        close(pipes[i][1]);
        assert_int_equal(read(pipes[i][0], &got, 1), 1);
        assert_int_equal(got, 'a' + (int)i);
        assert_int_equal(read(pipes[i][0], &got, 1), 0); /* nobody else holds it any more */
        close(pipes[i][0]);
    }
    control_close(c);
}

static struct control_call *await_late(void) {
    for (int i = 0; i < 10000 && !__atomic_load_n(&late, __ATOMIC_ACQUIRE); i++) {
        poll(NULL, 0, 1);
    }
    assert_non_null(late);
    return late;
}

static void *finish_late(void *arg) {
    struct control_call *call = await_late();
    json_object_set_new(call->reply, "slow", json_true());
    control_done(call, 0, NULL);
    return arg;
}

static void test_late(void **state) {
    struct control_client *c = client();
    pthread_t t;
    json_t *reply = NULL;
    (void)state;
    assert_int_equal(pthread_create(&t, NULL, finish_late, NULL), 0);
    assert_int_equal(control_ask(c, question("late"), NULL, 0, 20000, &reply, NULL), 0);
    assert_true(json_is_true(json_object_get(reply, "slow")));
    json_decref(reply);
    pthread_join(t, NULL);
    assert_int_equal(control_ask(c, question("echo"), NULL, 0, 10000, NULL, NULL), 0);
    control_close(c);
}

/* What is asked meanwhile waits, and is answered in order. */
static void test_late_order(void **state) {
    int fd = raw_socket();
    (void)state;
    raw_send(fd, "{\"request\":\"late\"}\n{\"request\":\"echo\",\"text\":\"2\"}\n");
    struct control_call *call = await_late();
    assert_int_equal(__atomic_load_n(&served, __ATOMIC_ACQUIRE), 0);
    control_done(call, 0, NULL);
    assert_string_equal(raw_line(fd), "{\"ok\":true}\n");
    assert_string_equal(raw_line(fd), "{\"back\":\"2\",\"ok\":true}\n");
    close(fd);
}

static void test_late_gone(void **state) {
    int fd = raw_socket();
    (void)state;
    raw_send(fd, "{\"request\":\"late\"}\n");
    await_late();
    close(fd);
    for (int i = 0; i < 10000 && !__atomic_load_n(&gone, __ATOMIC_ACQUIRE); i++) {
        poll(NULL, 0, 1);
    }
    assert_int_equal(gone, 1);
    assert_int_equal(control_request("test", question("echo"), NULL, 0, NULL, NULL), 0);
}

/* A call that nobody ends is answered when the machine does. */
static void test_late_end(void **state) {
    int fd = raw_socket();
    (void)state;
    raw_send(fd, "{\"request\":\"late\"}\n");
    await_late();
    real_host_stop(&h);
    control_destroy(control);
    control = NULL;
    assert_non_null(strstr(raw_line(fd), "the machine has ended"));
    close(fd);
}

static void test_large_answer(void **state) {
    struct control_client *c = client();
    json_t *reply = NULL;
    (void)state;
    assert_int_equal(control_ask(c, question("large"), NULL, 0, 20000, &reply, NULL), 0);
    assert_int_equal(json_string_length(json_object_get(reply, "text")), 1 << 20);
    json_decref(reply);
    control_close(c);
}

static void test_bad_lines(void **state) {
    int fd = raw_socket();
    (void)state;
    raw_send(fd, "nonsense\n[]\n{}\n{\"request\":3}\n\n{\"request\":\"echo\"");
    for (int i = 0; i < 5; i++) {
        assert_non_null(strstr(raw_line(fd), "\"ok\":false"));
    }
    raw_send(fd, ",\"text\":\"x\"}\n");
    assert_string_equal(raw_line(fd), "{\"back\":\"x\",\"ok\":true}\n");
    close(fd);
    fd = raw_socket();
    char *longer = malloc(CONTROL_LINE_MAX + 1);
    memset(longer, 'y', CONTROL_LINE_MAX);
    longer[CONTROL_LINE_MAX] = 0;
    raw_send(fd, longer);
    assert_non_null(strstr(raw_line(fd), "longer than"));
    assert_string_equal(raw_line(fd), ""); /* and it hangs up */
    free(longer);
    close(fd);
}

static void test_many_clients(void **state) {
    int fd[CONTROL_MAX_CLIENTS + 4];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        fd[i] = raw_socket();
        send(fd[i], "{\"request\":\"echo\"}\n", 19, MSG_NOSIGNAL);
        const char *line = raw_line(fd[i]);
        assert_string_equal(line, i < CONTROL_MAX_CLIENTS ? "{\"ok\":true}\n" : "");
    }
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        close(fd[i]);
    }
    int rc = -1;
    for (int i = 0; i < 1000 && rc; i++) { /* until their ends have been noticed */
        rc = control_request("test", question("echo"), NULL, 0, NULL, NULL);
        poll(NULL, 0, rc ? 5 : 0);
    }
    assert_int_equal(rc, 0);
}

static void test_parser(void **state) {
    struct control_lines l = {0};
    struct err err = {0};
    json_t *o = NULL;
    size_t room;
    (void)state;
    const char *text = "{\"request\":\"a\"}\n{\"request\":\"b\"}\n{\"req";
    for (size_t i = 0; i < strlen(text); i++) { /* byte by byte */
        *control_lines_room(&l, &room) = text[i];
        control_lines_fed(&l, 1);
        int rc = control_lines_next(&l, &o, &err);
        assert_int_equal(rc, text[i] == '\n');
        if (rc) {
            json_decref(o);
        }
    }
    char *to = control_lines_room(&l, &room);
    memset(to, ' ', room);
    control_lines_fed(&l, room);
    control_lines_room(&l, &room);
    assert_int_equal(room, 0);
    assert_int_equal(control_lines_next(&l, &o, &err), -ERR_RANGE);
    control_lines_free(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ask, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_clients, setup, teardown),
        cmocka_unit_test(test_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
