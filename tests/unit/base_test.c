/* SPDX-License-Identifier: Apache-2.0 */
/* core/base and core/if: formatting against the C library, errors, the saved-state stream, what log
 * lines are let through, trace lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "core/base/fmt.h"
#include "core/base/snap.h"
#include "core/if/log.h"
#include "core/if/trace.h"
#include "hosts/fake/fake.h"

/* --- fmt -------------------------------------------------------------------------------------- */

#define SAME(...)                                                                                  \
    do {                                                                                           \
        char want[128], got[128];                                                                  \
        int n = snprintf(want, sizeof(want), __VA_ARGS__);                                         \
        assert_int_equal(fmt_str(got, sizeof(got), __VA_ARGS__), n);                               \
        assert_string_equal(got, want);                                                            \
    } while (0)

static void test_fmt_integers(void **state) {
    (void)state;
    SAME("%d %i %u", 0, -1, 4294967295u);
    SAME("%d %d", INT32_MIN, INT32_MAX);
    SAME("%lld %llu", (long long)INT64_MIN, (unsigned long long)UINT64_MAX);
    SAME("%ld %lu %zu", -5l, 5ul, sizeof(int));
    SAME("%hhd %hhu %hd %hu", (signed char)-3, (unsigned char)250, (short)-300, (unsigned short)9);
    SAME("%x %X %#x %#X", 0xbeefu, 0xbeefu, 0xbeefu, 0xbeefu);
    SAME("[%8d] [%-8d] [%08d] [%-8x]", 42, 42, -42, 0xabu);
    SAME("[%.4d] [%8.4d] [%-8.4x] [%#10x] [%#010x]", 7, -7, 0x1fu, 0x1fu, 0x1fu);
    SAME("[%*d] [%.*d]", 6, 3, 4, 3);
    SAME("%016llx", 0x123456789abcdefull);
    SAME("100%% %c%c", 'o', 'k');
}

static size_t fmt_any(char *buf, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t n = fmt_vstr(buf, size, fmt, ap);
    va_end(ap);
    return n;
}

static void test_fmt_strings(void **state) {
    (void)state;
    const char raw[3] = {'a', 'b', 'c'}; /* not terminated: the precision bounds it */
    SAME("[%s] [%8s] [%-8s] [%.2s] [%5.1s]", "text", "right", "left", "cut", "one");
    SAME("[%.*s]", 3, raw);
    char got[32];
    const char *none = NULL;
    fmt_any(got, sizeof(got), "%s", none);
    assert_string_equal(got, "(null)");
    fmt_str(got, sizeof(got), "%p", (void *)0x1000);
    assert_string_equal(got, "0x1000");
}

static void test_fmt_limits(void **state) {
    (void)state;
    char buf[8] = "zzzzzzz";
    assert_int_equal(fmt_str(buf, 4, "%s", "abcdef"), 6);
    assert_string_equal(buf, "abc");
    assert_int_equal(buf[4], 'z');
    assert_int_equal(fmt_str(buf, 1, "%d", 12345), 5);
    assert_string_equal(buf, "");
    assert_int_equal(fmt_str(NULL, 0, "%d", 12345), 5);    /* measures */
    assert_int_equal(fmt_any(buf, sizeof(buf), "ab%"), 2); /* ends in the middle */
    assert_string_equal(buf, "ab");
    assert_int_equal(fmt_any(buf, sizeof(buf), "ab%-0#5.3l"), 2);
    fmt_any(buf, sizeof(buf), "%999999999999d", 1); /* an absurd width is bounded */
    assert_int_equal(strlen(buf), sizeof(buf) - 1);
}

static void test_strings(void **state) {
    (void)state;
    char buf[4];
    assert_int_equal(str_len(""), 0);
    assert_int_equal(str_len("four"), 4);
    assert_true(str_eq("", "") && str_eq("ab", "ab"));
    assert_false(str_eq("ab", "abc") || str_eq("abc", "ab") || str_eq("", "a"));
    assert_int_equal(str_copy(buf, sizeof(buf), "abcdef"), 6);
    assert_string_equal(buf, "abc");
    assert_int_equal(str_copy(buf, sizeof(buf), "abc"), 3);
    assert_string_equal(buf, "abc");
    assert_int_equal(str_copy(buf, 1, "abc"), 3);
    assert_string_equal(buf, "");
}

/* --- err -------------------------------------------------------------------------------------- */

static void test_err(void **state) {
    (void)state;
    struct err err = {0};
    assert_int_equal(ERR_SET(&err, ERR_IO, "disk %s: %d", "a\nb", 7), -ERR_IO);
    int line = __LINE__ - 1;
    assert_int_equal(err.code, -ERR_IO);
    assert_int_equal(err.line, line);
    assert_non_null(strstr(err.file, "base_test.c"));
    assert_string_equal(err.text, "disk a?b: 7"); /* a message is one line */
    assert_int_equal(ERR_SET(&err, ERR_INVAL, "later"), -ERR_INVAL);
    assert_string_equal(err.text, "disk a?b: 7"); /* the first wins */
    assert_int_equal(err.code, -ERR_IO);
    assert_int_equal(ERR_SET(NULL, ERR_NOMEM, "nobody listens"), -ERR_NOMEM);
    struct err longer = {0};
    ERR_SET(&longer, ERR_RANGE, "%0500d", 1);
    assert_int_equal(strlen(longer.text), sizeof(longer.text) - 1);
    for (int i = -20; i < 20; i++) {
        assert_non_null(err_name(i));
        assert_string_equal(err_name(i), err_name(-i));
    }
    assert_string_equal(err_name(0), "no error");
    assert_string_equal(err_name(99), "unknown error");
}

/* --- snap ------------------------------------------------------------------------------------- */

#define TAG SNAP_TAG('T', 'E', 'S', 'T')

static void put_all(struct snap_writer *w) {
    size_t outer = snap_begin(w, TAG, 3);
    snap_put8(w, 0x12);
    snap_put16(w, 0x3456);
    snap_put32(w, 0x789abcde);
    snap_put64(w, 0xf0123456789abcde);
    size_t inner = snap_begin(w, TAG + 1, 1);
    snap_put(w, "bytes", 5);
    snap_end(w, inner);
    snap_put8(w, 1);
    snap_end(w, outer);
}

static void test_snap_round(void **state) {
    (void)state;
    u8 buf[128], text[5];
    struct snap_writer measure = {0}, w = {.buf = buf, .cap = sizeof(buf)};
    put_all(&measure);
    put_all(&w);
    assert_false(w.failed || measure.failed);
    assert_int_equal(measure.len, w.len);
    assert_memory_equal(buf, "TEST\3\0\0\0", 8);
    assert_int_equal(buf[8], w.len - 12);
    struct snap_reader r = {.buf = buf, .len = w.len}, s, t;
    assert_int_equal(snap_section(&r, TAG, 5, &s), 3);
    assert_int_equal(snap_finish(&r), 0);
    assert_int_equal(snap_get8(&s), 0x12);
    assert_int_equal(snap_get16(&s), 0x3456);
    assert_int_equal(snap_get32(&s), 0x789abcde);
    assert_true(snap_get64(&s) == 0xf0123456789abcde);
    assert_int_equal(snap_section(&s, TAG + 1, 1, &t), 1);
    snap_get(&t, text, 5);
    assert_memory_equal(text, "bytes", 5);
    assert_int_equal(snap_finish(&t), 0);
    assert_true(snap_get_bool(&s));
    assert_int_equal(snap_finish(&s), 0);
}

static void test_snap_full(void **state) {
    (void)state;
    u8 buf[64];
    struct snap_writer measure = {0};
    put_all(&measure);
    for (size_t cap = 0; cap < measure.len; cap++) { /* every size that is too small */
        struct snap_writer w = {.buf = buf, .cap = cap};
        memset(buf, 0xee, sizeof(buf));
        put_all(&w);
        assert_true(w.failed);
        assert_int_equal(buf[cap], 0xee);
    }
}

static void test_snap_hostile(void **state) {
    (void)state;
    u8 buf[128], text[16];
    struct snap_writer w = {.buf = buf, .cap = sizeof(buf)};
    put_all(&w);
    for (size_t len = 0; len < w.len; len++) { /* cut anywhere */
        struct snap_reader r = {.buf = buf, .len = len}, s;
        assert_int_equal(snap_section(&r, TAG, 5, &s), 0);
        assert_true(r.failed && s.failed);
        assert_int_equal(snap_get32(&s), 0);
        assert_int_equal(snap_finish(&r), -ERR_FORMAT);
    }
    struct snap_reader r = {.buf = buf, .len = w.len}, s;
    assert_int_equal(snap_section(&r, TAG + 9, 5, &s), 0); /* another tag */
    r = (struct snap_reader){.buf = buf, .len = w.len};
    assert_int_equal(snap_section(&r, TAG, 2, &s), 0); /* from the future */
    memset(buf + 4, 0, 4);
    r = (struct snap_reader){.buf = buf, .len = w.len};
    assert_int_equal(snap_section(&r, TAG, 5, &s), 0); /* version 0 */
    buf[4] = 1;
    memset(buf + 8, 0xff, 4);
    r = (struct snap_reader){.buf = buf, .len = w.len};
    assert_int_equal(snap_section(&r, TAG, 5, &s), 0); /* longer than the file */
    r = (struct snap_reader){.buf = buf, .len = 4};
    memset(text, 0xee, sizeof(text));
    snap_get(&r, text, sizeof(text)); /* beyond the end: zeros */
    assert_int_equal(text[0] | text[15], 0);
    assert_true(r.failed);
    buf[0] = 2;
    r = (struct snap_reader){.buf = buf, .len = 1};
    assert_false(snap_get_bool(&r));
    assert_true(r.failed); /* neither 0 nor 1 */
    r = (struct snap_reader){.buf = buf, .len = 2};
    snap_get8(&r);
    assert_int_equal(snap_finish(&r), -ERR_FORMAT); /* something is left over */
}

/* --- log, trace ------------------------------------------------------------------------------- */

static void test_log(void **state) {
    (void)state;
    u32 counter = 0, shown = 0;
    for (int i = 0; i < 20000; i++) {
        shown += log_admit(&counter) ? 1 : 0;
    }
    assert_int_equal(shown, 8 + 20000 / 4096);
    counter = UINT32_MAX; /* wraps without harm */
    log_admit(&counter);
    assert_int_equal(counter, 0);
    struct fake_host *fake = fake_host_create();
    counter = 0;
    for (int i = 0; i < 100; i++) {
        log_limited(&fake->host, &counter, LOG_WARN, "line %d", i);
    }
    assert_non_null(strstr(fake->log, "line 7"));
    assert_null(strstr(fake->log, "line 8"));
    fake_host_destroy(fake);
}

static void test_trace(void **state) {
    (void)state;
    struct err err = {0};
    u32 mask = 77, all = 0;
    assert_int_equal(trace_parse("", &mask, &err), 0);
    assert_int_equal(mask, 0);
    for (u32 i = 0; i < TRACE_COUNT; i++) {
        assert_int_equal(trace_parse(trace_name((enum trace_category)i), &mask, &err), 0);
        assert_int_equal(mask, BIT(i));
        all |= mask;
    }
    assert_string_equal(trace_name(TRACE_COUNT), "unknown");
    assert_int_equal(trace_parse("all", &mask, &err), 0);
    assert_int_equal(mask, all);
    assert_int_equal(trace_parse("pio,irq,pio", &mask, &err), 0);
    assert_int_equal(mask, BIT(TRACE_PIO) | BIT(TRACE_IRQ));
    mask = 5;
    static const char *const wrong[] = {"pi",  "pioo",     "pio,,irq", ",",
                                        "PIO", "pio, irq", "all,none"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        err = (struct err){0};
        assert_int_equal(trace_parse(wrong[i], &mask, &err), -ERR_INVAL);
        assert_int_equal(mask, 5); /* untouched */
        assert_true(err.text[0] != 0);
    }
    assert_int_equal(trace_parse("pio", &mask, NULL), 0);
    assert_false(trace_on(NULL, TRACE_PIO));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fmt_integers), cmocka_unit_test(test_fmt_strings),
        cmocka_unit_test(test_fmt_limits),   cmocka_unit_test(test_strings),
        cmocka_unit_test(test_err),          cmocka_unit_test(test_snap_round),
        cmocka_unit_test(test_snap_full),    cmocka_unit_test(test_snap_hostile),
        cmocka_unit_test(test_log),          cmocka_unit_test(test_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
