/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of the agent's protocol: frames, windows, hostile answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/agent_session.h"

static struct agent_session s;

static void feed(const void *data, size_t len) {
    size_t room;
    u8 *to = agent_session_room(&s, &room);
    assert_true(len <= room);
    memcpy(to, data, len);
    agent_session_fed(&s, len);
}

static void feed_frame(u8 type, const void *data, u32 len) {
    const u8 head[AGENT_HEAD] = {(u8)len, (u8)(len >> 8), (u8)(len >> 16), (u8)(len >> 24), type};
    feed(head, sizeof(head));
    feed(data, len);
}

static int next(void) {
    struct err err = {0};
    int rc = agent_session_next(&s, &err);
    assert_int_equal(rc < 0, err.code < 0);
    return rc;
}

/* Up to a command that runs. */
static void begin(void) {
    static char ls[] = "ls", l[] = "-l", a[] = "A=b";
    char *argv[] = {ls, l}, *env[] = {a};
    struct agent_command c = {true, 25, 80, "me", "/", argv, env, 2, 1};
    agent_session_init(&s);
    feed("OK 107374", 9);
    assert_int_equal(next(), AGENT_NEEDS_MORE);
    feed("1824\n", 5);
    feed_frame(AGENT_HELLO, "SXAG\2\0\0\0", AGENT_HELLO_SIZE); /* of a later version */
    assert_int_equal(next(), AGENT_NEEDS_MORE);
    assert_int_equal(s.state, AGENT_STATE_GREETED);
    assert_memory_equal(s.out, "\10\0\0\0\1\0\0\0SXAG\1\0\0\0", 16);
    agent_session_sent(&s, s.out_len);
    assert_int_equal(agent_session_exec(&s, &c, NULL), 0);
    assert_int_equal(agent_session_input_room(&s), 0);
    static const char wanted[] = "\33\0\0\0\20\0\0\0"
                                 "\1\0\31\0\120\0\2\0\1\0\0\0"
                                 "me\0/\0ls\0-l\0A=b";
    assert_int_equal(s.out_len, sizeof(wanted));
    assert_memory_equal(s.out, wanted, sizeof(wanted));
    agent_session_sent(&s, s.out_len);
    feed_frame(AGENT_STARTED, "\1\2\0\0", 4);
    assert_int_equal(next(), AGENT_NEEDS_MORE);
    assert_int_equal(s.state, AGENT_STATE_RUNNING);
}

static void test_output(void **state) {
    (void)state;
    begin();
    feed_frame(AGENT_STDOUT, "hello", 5);
    feed_frame(AGENT_STDERR, "no", 2);
    feed_frame(AGENT_STDOUT, "", 0);
    feed_frame(0x77, "later", 5);
    feed_frame(AGENT_EXIT, "\1\11", 2);
    assert_int_equal(next(), AGENT_HAS_OUTPUT);
    assert_memory_equal(s.pending, "hello", 5);
    agent_session_took(&s, 3);
    assert_int_equal(next(), AGENT_HAS_OUTPUT);
    assert_int_equal(s.pending_len, 2);
    assert_memory_equal(s.pending, "lo", 2);
    agent_session_took(&s, 2);
    assert_int_equal(next(), AGENT_HAS_OUTPUT);
    assert_true(s.pending_error);
    assert_memory_equal(s.pending, "no", 2);
    agent_session_took(&s, 2);
    assert_int_equal(next(), AGENT_HAS_ENDED);
    assert_int_equal(next(), AGENT_HAS_ENDED);
    assert_true(s.by_signal && s.status == 9);
}

static void test_window(void **state) {
    static u8 data[AGENT_DATA_MAX];
    size_t sent = 0;
    (void)state;
    begin();
    for (size_t n; (n = agent_session_input_room(&s)) > 0; sent += n) {
        agent_session_input(&s, data, n);
        assert_int_equal(s.out_len, AGENT_HEAD + n);
        assert_int_equal(agent_session_input_room(&s), 0); /* not before it is sent */
        agent_session_sent(&s, s.out_len);
    }
    assert_int_equal(sent, AGENT_WINDOW);
    feed_frame(AGENT_CREDIT, "\5\0\0\0", 4);
    assert_int_equal(next(), AGENT_NEEDS_MORE);
    assert_int_equal(agent_session_input_room(&s), 5);
    feed_frame(AGENT_CREDIT, "\0\0\2\0", 4); /* more than was taken */
    assert_int_equal(next(), -ERR_FORMAT);
}

static void test_error(void **state) {
    (void)state;
    begin();
    s.state = AGENT_STATE_ASKED;
    feed_frame(AGENT_ERROR, "\2\0x\33[2J\200", 8);
    assert_int_equal(next(), AGENT_HAS_ENDED);
    assert_int_equal(s.error, 2);
    assert_string_equal(s.text, "x?[2J?");
}

static void test_time(void **state) {
    (void)state;
    begin();
    s.state = AGENT_STATE_GREETED;
    agent_session_set_time(&s, 0x123456789, 5);
    assert_memory_equal(s.out, "\14\0\0\0\25\0\0\0\211\147\105\43\1\0\0\0\5\0\0\0", 20);
    feed_frame(AGENT_DONE, "", 0);
    assert_int_equal(next(), AGENT_HAS_ENDED);
    assert_int_equal(s.error, 0);
}

static void test_too_long(void **state) {
    static char word[40000];
    char *argv[] = {word, word};
    struct agent_command c = {false, 0, 0, "", "", argv, NULL, 2, 0};
    struct err err = {0};
    (void)state;
    memset(word, 'x', sizeof(word) - 1);
    agent_session_init(&s);
    assert_int_equal(agent_session_exec(&s, &c, &err), -ERR_RANGE);
    assert_int_equal(s.out_len, 0);
    c.argc = 1;
    assert_int_equal(agent_session_exec(&s, &c, NULL), 0);
    assert_int_equal(s.out_len, AGENT_HEAD + AGENT_EXEC_HEAD + 2 + sizeof(word));
}

/* What no agent sends, in each state. */
static void test_hostile(void **state) {
    static const struct {
        enum agent_state state;
        u8 type;
        u32 len;
        const char *data;
    } bad[] = {
        {AGENT_STATE_CONNECTED, AGENT_STDOUT, 1, "x"},
        {AGENT_STATE_CONNECTED, AGENT_HELLO, 8, "SXAX\1\0\0\0"},
        {AGENT_STATE_CONNECTED, AGENT_HELLO, 8, "SXAG\0\0\0\0"},
        {AGENT_STATE_CONNECTED, AGENT_HELLO, 7, "SXAG\1\0\0"},
        {AGENT_STATE_GREETED, AGENT_STDOUT, 1, "x"},
        {AGENT_STATE_ASKED, AGENT_STDOUT, 1, "x"},
        {AGENT_STATE_ASKED, AGENT_STARTED, 3, "123"},
        {AGENT_STATE_ASKED, AGENT_ERROR, 1, "1"},
        {AGENT_STATE_RUNNING, AGENT_EXIT, 1, "1"},
        {AGENT_STATE_RUNNING, AGENT_CREDIT, 3, "123"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        begin();
        s.state = bad[i].state;
        feed_frame(bad[i].type, bad[i].data, bad[i].len);
        assert_int_equal(next(), -ERR_FORMAT);
    }
    begin();
    feed("\1\0\1\0\41\0\0\0", 8); /* a frame of 65537 bytes */
    assert_int_equal(next(), -ERR_FORMAT);
    agent_session_init(&s);
    feed("SSH-2.0-OpenSSH_9.2p1\r\n", 23);
    assert_int_equal(next(), -ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),   cmocka_unit_test(test_window),
        cmocka_unit_test(test_error),    cmocka_unit_test(test_time),
        cmocka_unit_test(test_too_long), cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
