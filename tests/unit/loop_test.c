/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: timers, posted calls, watched descriptors, quitting; from other threads and from
 * inside its own callbacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/lib_host.h"

enum { TIMERS = 200, MS = 1000000 };

static struct real_host h;
static struct loop *loop;
static char order[512];
static u32 order_len;

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, true);
    loop = h.lh->loop;
    order_len = 0;
    return 0;
}

static int setup_idle(void **state) {
    (void)state;
    real_host_setup(&h, false);
    loop = h.lh->loop;
    order_len = 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    real_host_teardown(&h);
    return 0;
}

static void count(void *ctx) {
    __atomic_fetch_add((u32 *)ctx, 1, __ATOMIC_RELEASE);
}

static void note(void *ctx) {
    order[order_len % sizeof(order)] = (char)(uintptr_t)ctx;
    __atomic_fetch_add(&order_len, 1, __ATOMIC_RELEASE);
}

static void *letter(char c) {
    return (void *)(uintptr_t)c;
}

static u64 in_ms(u64 ms) {
    return linux_now(NULL) + ms * MS;
}

/* --- timers ----------------------------------------------------------------------------------- */

static void test_timers_fire_in_order(void **state) {
    (void)state;
    struct host_timer *t[3];
    for (int i = 0; i < 3; i++) {
        t[i] = loop_timer_create(loop, note, letter((char)('a' + i)));
        assert_non_null(t[i]);
    }
    u64 base = in_ms(20);
    loop_timer_arm(loop, t[2], base + 20 * MS);
    loop_timer_arm(loop, t[0], base);
    loop_timer_arm(loop, t[1], base + 10 * MS);
    assert_true(wait_until(&order_len, 3));
    assert_memory_equal(order, "abc", 3);
    assert_true(linux_now(NULL) >= base + 20 * MS);
    for (int i = 0; i < 3; i++) {
        loop_timer_destroy(loop, t[i]);
    }
}

static void test_timer_moves(void **state) {
    (void)state;
    u32 fired = 0;
    struct host_timer *t = loop_timer_create(loop, count, &fired);
    loop_timer_arm(loop, t, in_ms(20));
    loop_timer_arm(loop, t, in_ms(120)); /* later: the wake-up at 20 ms must not run it */
    sleep_ms(60);
    assert_int_equal(__atomic_load_n(&fired, __ATOMIC_ACQUIRE), 0);
    assert_true(wait_until(&fired, 1));
    loop_timer_arm(loop, t, in_ms(60000));
    loop_timer_arm(loop, t, in_ms(5)); /* earlier */
    assert_true(wait_until(&fired, 2));
    loop_timer_arm(loop, t, 0); /* long past: at once */
    assert_true(wait_until(&fired, 3));
    loop_timer_arm(loop, t, HOST_FOREVER - 1);
    loop_timer_arm(loop, t, HOST_FOREVER);
    sleep_ms(10);
    assert_int_equal(__atomic_load_n(&fired, __ATOMIC_ACQUIRE), 3);
    loop_timer_destroy(loop, t);
}

static void test_timer_cancel(void **state) {
    (void)state;
    u32 fired = 0;
    struct host_timer *t = loop_timer_create(loop, count, &fired);
    loop_timer_arm(loop, t, in_ms(30));
    loop_timer_cancel(loop, t);
    loop_timer_cancel(loop, t);
    sleep_ms(60);
    assert_int_equal(__atomic_load_n(&fired, __ATOMIC_ACQUIRE), 0);
    loop_timer_arm(loop, t, in_ms(1));
    assert_true(wait_until(&fired, 1));
    loop_timer_destroy(loop, t);
    loop_timer_destroy(loop, NULL);
}

struct many {
    struct host_timer *timer;
    u64 deadline;
    bool early;
    u32 *fired;
};

static void many_fired(void *ctx) {
    struct many *m = ctx;
    m->early = linux_now(NULL) < m->deadline;
    count(m->fired);
}

/* A heap of many, armed, moved, cancelled and destroyed in an order that is not theirs. */
static void test_many_timers(void **state) {
    (void)state;
    static struct many m[TIMERS];
    u32 fired = 0, rng = 1;
    u64 base = linux_now(NULL);
    for (u32 i = 0; i < TIMERS; i++) {
        m[i] = (struct many){.fired = &fired};
        m[i].timer = loop_timer_create(loop, many_fired, &m[i]);
        rng = rng * 1103515245 + 12345;
        loop_timer_arm(loop, m[i].timer, base + (u64)60000 * MS + rng);
        m[i].deadline = base + (u64)(20 + (rng >> 16) % 50) * MS;
    }
    for (u32 i = 0; i < TIMERS; i += 2) {
        loop_timer_arm(loop, m[i].timer, m[i].deadline);
    }
    for (u32 i = 1; i < TIMERS; i += 4) {
        loop_timer_destroy(loop, m[i].timer);
        m[i].timer = NULL;
    }
    assert_true(wait_until(&fired, TIMERS / 2));
    sleep_ms(20);
    assert_int_equal(__atomic_load_n(&fired, __ATOMIC_ACQUIRE), TIMERS / 2);
    for (u32 i = 0; i < TIMERS; i++) {
        assert_false(m[i].early);
        loop_timer_destroy(loop, m[i].timer);
    }
}

struct slow {
    u32 entered, left;
    struct host_timer *timer;
};

static void slow_fn(void *ctx) {
    struct slow *s = ctx;
    __atomic_store_n(&s->entered, 1, __ATOMIC_RELEASE);
    sleep_ms(50);
    loop_timer_arm(loop, s->timer, in_ms(0)); /* as a periodic timer does */
    __atomic_store_n(&s->left, 1, __ATOMIC_RELEASE);
}

static void test_destroy_waits(void **state) {
    (void)state;
    struct slow s = {0};
    s.timer = loop_timer_create(loop, slow_fn, &s);
    loop_timer_arm(loop, s.timer, in_ms(0));
    assert_true(wait_until(&s.entered, 1));
    loop_timer_destroy(loop, s.timer);
    assert_int_equal(__atomic_load_n(&s.left, __ATOMIC_ACQUIRE), 1);
    s.left = 0;
    sleep_ms(20);
    assert_int_equal(s.left, 0); /* it does not run again although it armed itself */
}

static void suicide_fn(void *ctx) {
    struct slow *s = ctx;
    loop_timer_destroy(loop, s->timer);
    __atomic_store_n(&s->left, 1, __ATOMIC_RELEASE);
}

static void test_destroy_inside(void **state) {
    (void)state;
    struct slow s = {0};
    s.timer = loop_timer_create(loop, suicide_fn, &s);
    loop_timer_arm(loop, s.timer, in_ms(0));
    assert_true(wait_until(&s.left, 1));
}

/* --- posts ------------------------------------------------------------------------------------ */

static void test_post_order(void **state) {
    (void)state;
    for (int i = 0; i < 256; i++) {
        assert_int_equal(loop_post(loop, note, letter((char)i)), 0);
    }
    assert_true(wait_until(&order_len, 256));
    for (int i = 0; i < 256; i++) {
        assert_int_equal((u8)order[i], i);
    }
}

static void post_again(void *ctx) {
    if (order_len < 100) {
        loop_post(loop, post_again, ctx);
    }
    note(ctx);
}

/* A call that posts itself for ever must not starve the others. */
static void test_post_inside(void **state) {
    (void)state;
    u32 fired = 0;
    loop_post(loop, post_again, letter('p'));
    loop_post(loop, count, &fired);
    assert_true(wait_until(&fired, 1));
    assert_true(wait_until(&order_len, 100));
}

static void *poster(void *arg) {
    for (int i = 0; i < 2000; i++) {
        loop_post(loop, count, arg);
    }
    return NULL;
}

static void test_post_from_threads(void **state) {
    (void)state;
    u32 sum = 0;
    pthread_t t[4];
    for (int i = 0; i < 4; i++) {
        pthread_create(&t[i], NULL, poster, &sum);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
    }
    assert_true(wait_until(&sum, 8000));
}

static void slow_count(void *ctx) {
    __atomic_fetch_add((u32 *)ctx, 1, __ATOMIC_RELEASE);
    sleep_ms(40);
    __atomic_fetch_add((u32 *)ctx, 1, __ATOMIC_RELEASE);
}

static void test_forget(void **state) {
    (void)state;
    u32 a = 0, b = 0;
    loop_post(loop, slow_count, &a);
    assert_true(wait_until(&a, 1));
    loop_post(loop, count, &a);
    loop_post(loop, count, &b);
    loop_post(loop, count, &a);
    loop_forget(loop, &a); /* waits for the one that runs, takes back the others */
    assert_int_equal(__atomic_load_n(&a, __ATOMIC_ACQUIRE), 2);
    assert_true(wait_until(&b, 1));
    loop_post(loop, count, &b); /* the end of the list is where it should be */
    assert_true(wait_until(&b, 2));
    assert_int_equal(a, 2);
}

static void test_idle(void **state) {
    (void)state;
    u32 fired = 0;
    loop_post(loop, count, &fired);
    loop_post(loop, post_again, letter('x'));
    loop_run_idle(loop);
    assert_int_equal(fired, 1);
    assert_int_equal(order_len, 1); /* what it posted waits for the next round */
    loop_forget(loop, letter('x'));
    loop_run_idle(loop);
    assert_int_equal(order_len, 1);
}

/* --- descriptors ------------------------------------------------------------------------------ */

struct pipe_watch {
    int fd[2];
    u32 calls;
    bool unwatch, slow;
    struct pipe_watch *other; /* to unwatch from this one's callback */
};

static void pipe_ready(void *ctx) {
    struct pipe_watch *p = ctx;
    char c;
    assert_int_equal(read(p->fd[0], &c, 1), 1);
    if (p->slow) {
        __atomic_store_n(&p->calls, 1, __ATOMIC_RELEASE);
        sleep_ms(50);
    }
    if (p->unwatch) {
        loop_unwatch(loop, p->fd[0]);
    }
    if (p->other) {
        loop_unwatch(loop, p->other->fd[0]);
    }
    __atomic_fetch_add(&p->calls, 1, __ATOMIC_RELEASE);
}

static void pipe_open(struct pipe_watch *p) {
    assert_int_equal(pipe(p->fd), 0);
    assert_int_equal(loop_watch(loop, p->fd[0], pipe_ready, p), 0);
}

static void pipe_close(struct pipe_watch *p) {
    loop_unwatch(loop, p->fd[0]);
    close(p->fd[0]);
    close(p->fd[1]);
}

static void test_watch(void **state) {
    (void)state;
    struct pipe_watch p = {0};
    pipe_open(&p);
    assert_int_not_equal(loop_watch(loop, p.fd[0], pipe_ready, &p), 0); /* one watch per fd */
    assert_int_not_equal(loop_watch(loop, 999, pipe_ready, &p), 0);
    assert_int_equal(write(p.fd[1], "xyz", 3), 3);
    assert_true(wait_until(&p.calls, 3));
    loop_unwatch(loop, p.fd[0]);
    loop_unwatch(loop, p.fd[0]);
    assert_int_equal(write(p.fd[1], "x", 1), 1);
    sleep_ms(20);
    assert_int_equal(__atomic_load_n(&p.calls, __ATOMIC_ACQUIRE), 3);
    assert_int_equal(loop_watch(loop, p.fd[0], pipe_ready, &p), 0); /* again: the byte is there */
    assert_true(wait_until(&p.calls, 4));
    pipe_close(&p);
}

static void test_unwatch_inside(void **state) {
    (void)state;
    struct pipe_watch a = {.unwatch = true};
    pipe_open(&a);
    assert_int_equal(write(a.fd[1], "xy", 2), 2);
    assert_true(wait_until(&a.calls, 1));
    sleep_ms(20);
    assert_int_equal(__atomic_load_n(&a.calls, __ATOMIC_ACQUIRE), 1);
    pipe_close(&a);
}

static void both_ready(void *ctx) {
    struct pipe_watch *p = ctx;
    assert_int_equal(write(p[0].fd[1], "x", 1), 1);
    assert_int_equal(write(p[1].fd[1], "x", 1), 1);
}

/* Both are in one batch of events; whichever comes first takes the other off. */
static void test_unwatch_other_inside(void **state) {
    (void)state;
    struct pipe_watch p[2] = {{.other = &p[1]}, {.other = &p[0]}};
    pipe_open(&p[0]);
    pipe_open(&p[1]);
    loop_post(loop, both_ready, p);
    sleep_ms(50);
    assert_int_equal(__atomic_load_n(&p[0].calls, __ATOMIC_ACQUIRE) +
                         __atomic_load_n(&p[1].calls, __ATOMIC_ACQUIRE),
                     1);
    pipe_close(&p[0]);
    pipe_close(&p[1]);
}

static void test_unwatch_waits(void **state) {
    (void)state;
    struct pipe_watch p = {.slow = true};
    pipe_open(&p);
    assert_int_equal(write(p.fd[1], "x", 1), 1);
    assert_true(wait_until(&p.calls, 1));
    loop_unwatch(loop, p.fd[0]);
    assert_int_equal(__atomic_load_n(&p.calls, __ATOMIC_ACQUIRE), 2);
    pipe_close(&p);
}

/* --- quitting --------------------------------------------------------------------------------- */

static void quit_fn(void *ctx) {
    note(ctx);
    loop_quit(loop);
}

static void test_quit(void **state) {
    (void)state;
    struct host_timer *t = loop_timer_create(loop, quit_fn, letter('t'));
    loop_timer_arm(loop, t, in_ms(5));
    loop_run(loop);
    assert_int_equal(order_len, 1);
    loop_quit(loop); /* before: returns at once */
    loop_run(loop);
    loop_post(loop, quit_fn, letter('p'));
    loop_run(loop);
    assert_memory_equal(order, "tp", 2);
    loop_timer_destroy(loop, t);
}

/* What is left over is freed, not run. */
static void test_destroy_with_leftovers(void **state) {
    (void)state;
    struct loop *l;
    u32 fired = 0;
    int fd[2];
    assert_int_equal(loop_create(&l), 0);
    assert_int_equal(pipe(fd), 0);
    loop_post(l, count, &fired);
    loop_watch(l, fd[0], count, &fired);
    loop_timer_arm(l, loop_timer_create(l, count, &fired), 0);
    loop_destroy(l);
    loop_destroy(NULL);
    assert_int_equal(fired, 0);
    close(fd[0]);
    close(fd[1]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define I(name) cmocka_unit_test_setup_teardown(name, setup_idle, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_timers_fire_in_order),
        T(test_timer_moves),
        T(test_timer_cancel),
        T(test_many_timers),
        T(test_destroy_waits),
        T(test_destroy_inside),
        T(test_post_order),
        T(test_post_inside),
        T(test_post_from_threads),
        T(test_forget),
        I(test_idle),
        T(test_watch),
        T(test_unwatch_inside),
        T(test_unwatch_other_inside),
        T(test_unwatch_waits),
        I(test_quit),
        I(test_destroy_with_leftovers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
