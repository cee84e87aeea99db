/* SPDX-License-Identifier: Apache-2.0 */
/* The Linux host: memory, clocks, entropy, threads, kicks, sleeping and waking, log lines. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/if/log.h"
#include "core/if/mutex.h"
#include "tests/unit/lib_host.h"

enum { MS = 1000000, ROUNDS = 20000, LOCKERS = 4 };

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

/* --- memory ----------------------------------------------------------------------------------- */

static bool all_zero(const u8 *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

static void test_memory(void **state) {
    (void)state;
    const struct host_ops *ops = h.host->ops;
    u8 *p = ops->alloc(h.host, 1000);
    assert_non_null(p);
    assert_true(all_zero(p, 1000));
    assert_int_equal((uintptr_t)p % 16, 0);
    host_free(h.host, p, 1000);
    host_free(h.host, NULL, 0);
    p = ops->pages(h.host, 1 << 20);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_true(all_zero(p, 1 << 20));
    ops->pages_free(h.host, p, 1 << 20);
    ops->pages_free(h.host, NULL, 0);
    assert_null(ops->pages(h.host, SIZE_MAX & ~(size_t)4095));
}

static void test_ram(void **state) {
    (void)state;
    const struct host_ops *ops = h.host->ops;
    struct host_ram ram;
    struct stat st;
    assert_int_equal(ops->ram_alloc(h.host, 64 * MIB, &ram), 0);
    assert_true(ram.fd >= 0);
    assert_int_equal(fstat(ram.fd, &st), 0);
    assert_int_equal(st.st_size, 64 * MIB);
    ram.hva[64 * MIB - 1] = 1;
    assert_int_equal(fstat(ram.fd, &st), 0);
    assert_true(st.st_blocks * 512 < (s64)(8 * MIB)); /* only what was touched */
    ops->ram_free(h.host, &ram);
    ops->ram_free(h.host, &ram);
    assert_int_not_equal(ops->ram_alloc(h.host, 0, &ram), 0);
    assert_int_not_equal(ops->ram_alloc(h.host, UINT64_MAX & ~4095ull, &ram), 0);
}

static void test_code(void **state) {
    (void)state;
    struct host_code code;
    u32 (*fn)(void);
    assert_int_equal(h.host->ops->code_alloc(h.host, 8192, &code), 0);
    assert_ptr_not_equal(code.rw, code.rx);
    for (u8 i = 1; i < 4; i++) { /* what is written through one shows through the other */
        memcpy(code.rw + 4096, (u8[]){0xb8, i, 0, 0, 0, 0xc3}, 6);
        void *p = code.rx + 4096;
        memcpy(&fn, &p, sizeof(fn));
        assert_int_equal(fn(), i);
    }
    h.host->ops->code_free(h.host, &code);
    h.host->ops->code_free(h.host, &code);
}

static void stamp(u8 *p, size_t size, bool check) {
    for (size_t at = 0; at + 8 <= size; at += 4096) {
        u64 v = at * 0x9e3779b97f4a7c15u, got = 0;
        if (!check) {
            memcpy(p + at, &v, 8);
        }
        memcpy(&got, p + at, 8);
        assert_true(got == v);
    }
}

/* Larger pages or not: contents stay, whatever part is named, and other memory is left alone. */
static void test_join(void **state) {
    static const struct {
        size_t from, size;
    } part[] = {{0, 5 * MIB}, {4096, 5 * MIB - 4096}, {MIB, MIB},
                {3 * MIB, 0}, {2 * MIB, 8192},        {0, 5 * MIB}};
    const struct host_ops *ops = h.host->ops;
    struct host_code code;
    (void)state;
    u8 *p = ops->pages(h.host, 5 * MIB), *small = ops->pages(h.host, 4096);
    assert_int_equal(ops->code_alloc(h.host, 5 * MIB, &code), 0);
    assert_int_equal(((uintptr_t)p | (uintptr_t)code.rw | (uintptr_t)code.rx) & (2 * MIB - 1), 0);
    stamp(p, 5 * MIB, false);
    stamp(code.rw, 5 * MIB, false);
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        ops->pages_join(h.host, p + part[i].from, part[i].size);
        ops->pages_join(h.host, code.rw + part[i].from, part[i].size);
        ops->pages_join(h.host, code.rx + part[i].from, part[i].size);
        ops->pages_join(h.host, small, 4096);
        stamp(p, 5 * MIB, true);
        stamp(code.rx, 5 * MIB, true);
    }
    ops->pages_discard(h.host, p + 4096, 3 * MIB);
    ops->pages_discard(h.host, code.rw + 4096, 3 * MIB);
    assert_int_equal(p[8192] | p[2 * MIB + 4096] | code.rx[8192] | code.rx[2 * MIB + 4096], 0);
    assert_int_not_equal(p[4 * MIB] | p[4 * MIB + 1] | p[4 * MIB + 7], 0);
    assert_null(ops->pages(h.host, SIZE_MAX - 4096));
    ops->code_free(h.host, &code);
    assert_int_not_equal(ops->code_alloc(h.host, SIZE_MAX - 4096, &code), 0);
    ops->pages_free(h.host, p, 5 * MIB);
    ops->pages_free(h.host, small, 4096);
}

/* --- clocks, entropy -------------------------------------------------------------------------- */

static void test_clock(void **state) {
    (void)state;
    u64 a = host_now(h.host);
    for (int i = 0; i < 10000; i++) {
        u64 b = host_now(h.host);
        assert_true(b >= a);
        a = b;
    }
    u64 wall = h.host->ops->wall(h.host);
    assert_true(wall / NSEC_PER_SEC > 1700000000);
    assert_true(wall / NSEC_PER_SEC < 10000000000);
}

static void test_tsc_hz(void **state) {
    (void)state;
    u64 hz = h.host->ops->tsc_hz(h.host);
    assert_in_range(hz, 200000000, 20000000000);
    assert_int_equal(h.host->ops->tsc_hz(h.host), hz);
    u64 t0 = host_now(h.host), c0 = __builtin_ia32_rdtsc();
    sleep_ms(100);
    u64 t1 = host_now(h.host), c1 = __builtin_ia32_rdtsc();
    double measured = (double)(c1 - c0) * 1e9 / (double)(t1 - t0);
    assert_true(measured / (double)hz > 0.98 && measured / (double)hz < 1.02);
}

static void test_entropy(void **state) {
    (void)state;
    u8 a[1000] = {0}, b[1000] = {0};
    h.host->ops->entropy(h.host, a, sizeof(a));
    h.host->ops->entropy(h.host, b, sizeof(b));
    h.host->ops->entropy(h.host, b, 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_false(all_zero(a + 950, 50));
}

/* --- threads ---------------------------------------------------------------------------------- */

struct blocked {
    int fd[2];
    u32 entered, stop, returned, interrupted;
    char name[32];
};

static void block_in_read(void *ctx) {
    struct blocked *b = ctx;
    char c;
    pthread_getname_np(pthread_self(), b->name, sizeof(b->name));
    while (!__atomic_load_n(&b->stop, __ATOMIC_ACQUIRE)) {
        __atomic_fetch_add(&b->entered, 1, __ATOMIC_RELEASE);
        if (read(b->fd[0], &c, 1) < 0 && errno == EINTR) {
            __atomic_fetch_add(&b->interrupted, 1, __ATOMIC_RELEASE);
        }
    }
    __atomic_store_n(&b->returned, 1, __ATOMIC_RELEASE);
}

/* Also when whoever started the process had the signal blocked. */
static void kick_blocked(void) {
    struct blocked b = {0};
    assert_int_equal(pipe(b.fd), 0);
    struct host_thread *t =
        h.host->ops->thread_start(h.host, "a name that is long", block_in_read, &b);
    assert_non_null(t);
    for (u32 i = 1; i <= 20; i++) {
        assert_true(wait_until(&b.entered, i));
        sleep_ms(2); /* it sleeps in the kernel now */
        h.host->ops->thread_kick(h.host, t);
        assert_true(wait_until(&b.interrupted, i));
    }
    __atomic_store_n(&b.stop, 1, __ATOMIC_RELEASE);
    /* A kick between the look at the flag and the call is repeated here; engines use their own
     * means (KVM's immediate_exit). */
    for (int i = 0; i < 1000 && !__atomic_load_n(&b.returned, __ATOMIC_ACQUIRE); i++) {
        h.host->ops->thread_kick(h.host, t);
        sleep_ms(1);
    }
    h.host->ops->thread_join(h.host, t);
    assert_int_equal(b.returned, 1);
    assert_string_equal(b.name, "a name that is ");
    close(b.fd[0]);
    close(b.fd[1]);
}

static void test_kick(void **state) {
    (void)state;
    kick_blocked();
}

static void test_kick_inherited_mask(void **state) {
    (void)state;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    kick_blocked();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void set_word(void *ctx) {
    __atomic_store_n((u32 *)ctx, 1, __ATOMIC_RELEASE);
}

static void test_kick_ended(void **state) {
    (void)state;
    u32 word = 0;
    struct host_thread *t = h.host->ops->thread_start(h.host, "short", set_word, &word);
    assert_true(wait_until(&word, 1));
    sleep_ms(10);
    h.host->ops->thread_kick(h.host, t); /* gone already: no harm */
    h.host->ops->yield(h.host);
    h.host->ops->thread_join(h.host, t);
}

/* --- sleeping and waking ---------------------------------------------------------------------- */

static void test_wait_deadline(void **state) {
    (void)state;
    u32 word = 5;
    u64 begin = host_now(h.host);
    h.host->ops->wait(h.host, &word, 4, HOST_FOREVER); /* another value: returns at once */
    h.host->ops->wait(h.host, &word, 5, 0);            /* long past */
    h.host->ops->wait(h.host, &word, 5, begin);
    assert_true(host_now(h.host) - begin < 1000ull * MS);
    begin = host_now(h.host);
    while (host_now(h.host) < begin + 30 * MS) { /* may return early for no reason */
        h.host->ops->wait(h.host, &word, 5, begin + 30 * MS);
    }
    assert_true(host_now(h.host) - begin < 2000ull * MS);
    h.host->ops->wake(h.host, &word, 1); /* nobody there */
    h.host->ops->wake(h.host, &word, UINT32_MAX);
}

struct sleepers {
    u32 word, awake;
};

static void sleeper(void *ctx) {
    struct sleepers *s = ctx;
    while (!__atomic_load_n(&s->word, __ATOMIC_ACQUIRE)) {
        h.host->ops->wait(h.host, &s->word, 0, HOST_FOREVER);
    }
    __atomic_fetch_add(&s->awake, 1, __ATOMIC_RELEASE);
}

static void test_wake(void **state) {
    (void)state;
    struct sleepers s = {0};
    struct host_thread *t[LOCKERS];
    for (int i = 0; i < LOCKERS; i++) {
        t[i] = h.host->ops->thread_start(h.host, "sleeper", sleeper, &s);
    }
    sleep_ms(20);
    assert_int_equal(__atomic_load_n(&s.awake, __ATOMIC_ACQUIRE), 0);
    __atomic_store_n(&s.word, 1, __ATOMIC_RELEASE);
    h.host->ops->wake(h.host, &s.word, UINT32_MAX);
    assert_true(wait_until(&s.awake, LOCKERS));
    for (int i = 0; i < LOCKERS; i++) {
        h.host->ops->thread_join(h.host, t[i]);
    }
}

/* Two threads hand a word back and forth; one lost wake-up would hang (and alarm ends the test). */
static void ping(void *ctx) {
    u32 *word = ctx;
    for (u32 i = 1; i < ROUNDS; i += 2) {
        while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != i) {
            h.host->ops->wait(h.host, word, i - 1, HOST_FOREVER);
        }
        __atomic_store_n(word, i + 1, __ATOMIC_RELEASE);
        h.host->ops->wake(h.host, word, 1);
    }
}

static void test_ping_pong(void **state) {
    (void)state;
    u32 word = 0;
    struct host_thread *t = h.host->ops->thread_start(h.host, "ping", ping, &word);
    for (u32 i = 0; i < ROUNDS; i += 2) {
        while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != i) {
            h.host->ops->wait(h.host, &word, i - 1, HOST_FOREVER);
        }
        __atomic_store_n(&word, i + 1, __ATOMIC_RELEASE);
        h.host->ops->wake(h.host, &word, 1);
    }
    h.host->ops->thread_join(h.host, t);
    assert_int_equal(word, ROUNDS);
}

/* --- the mutex of core/if on this host ----------------------------------------------------------
 */

struct locked {
    struct mutex m;
    u64 a, b; /* plain: only the mutex protects them */
    u32 torn;
};

static void locker(void *ctx) {
    struct locked *l = ctx;
    for (int i = 0; i < ROUNDS; i++) {
        mutex_lock(h.host, &l->m);
        l->torn |= l->a != l->b;
        l->a++;
        if (i % 64 == 0) {
            h.host->ops->yield(h.host); /* hold it long enough for others to sleep */
        }
        l->b++;
        mutex_unlock(h.host, &l->m);
    }
}

static void test_mutex(void **state) {
    (void)state;
    struct locked l = {0};
    struct host_thread *t[LOCKERS];
    for (int i = 0; i < LOCKERS; i++) {
        t[i] = h.host->ops->thread_start(h.host, "locker", locker, &l);
    }
    for (int i = 0; i < LOCKERS; i++) {
        h.host->ops->thread_join(h.host, t[i]);
    }
    assert_int_equal(l.a, LOCKERS * ROUNDS);
    assert_int_equal(l.b, LOCKERS * ROUNDS);
    assert_int_equal(l.torn, 0);
    assert_int_equal(l.m.word, 0);
}

/* --- log lines -------------------------------------------------------------------------------- */

static size_t log_of(char *buf, size_t size, enum log_level level, const char *text) {
    int fd[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(fd), 0);
    dup2(fd[1], STDERR_FILENO);
    log_line(h.host, level, "%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd[1]);
    ssize_t n = read(fd[0], buf, size - 1);
    close(fd[0]);
    buf[n > 0 ? n : 0] = 0;
    return (size_t)n;
}

static void test_log(void **state) {
    (void)state;
    char buf[1024], text[2000];
    assert_int_equal(log_of(buf, sizeof(buf), LOG_INFO, "quiet"), 0); /* default: warnings */
    log_of(buf, sizeof(buf), LOG_WARN, "look");
    assert_string_equal(buf, "sosia: warning: look\n");
    linux_host_log_level(h.lh, LOG_DEBUG);
    log_of(buf, sizeof(buf), LOG_INFO, "hello");
    assert_string_equal(buf, "sosia: hello\n");
    linux_host_log_raw(true);
    log_of(buf, sizeof(buf), LOG_ERROR, "bad");
    linux_host_log_raw(false);
    assert_string_equal(buf, "sosia: error: bad\r\n");
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    size_t n = log_of(buf, sizeof(buf), LOG_ERROR, text); /* cut, still one line */
    assert_in_range(n, 500, 640);
    assert_int_equal(buf[n - 1], '\n');
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_memory),     T(test_ram),           T(test_code),
        T(test_join),       T(test_clock),         T(test_tsc_hz),
        T(test_entropy),    T(test_kick),          T(test_kick_inherited_mask),
        T(test_kick_ended), T(test_wait_deadline), T(test_wake),
        T(test_ping_pong),  T(test_mutex),         T(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
