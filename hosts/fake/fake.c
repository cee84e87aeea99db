/* SPDX-License-Identifier: Apache-2.0 */
/* The deterministic host of the unit tests; see fake.h. Timers and posts run on the test's thread.
 */
#include "hosts/fake/fake.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hosts/linux/host.h"

#define START_NS  NSEC_PER_SEC
#define WALL_2026 (1767225600ull * NSEC_PER_SEC)

struct host_timer {
    void (*fn)(void *ctx);
    void *ctx;
    u64 deadline;
    struct host_timer *next;
};

struct fake_post {
    void (*fn)(void *ctx);
    void *ctx;
    struct fake_post *next;
};

static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static struct fake_host *fake_of(struct host *host) {
    return CONTAINER_OF(host, struct fake_host, host);
}

static bool alloc_fails(struct fake_host *f) {
    return f->fail_alloc >= 0 && f->fail_alloc-- == 0;
}

static void *fake_alloc(struct host *host, size_t size) {
    if (alloc_fails(fake_of(host))) {
        return NULL;
    }
    __atomic_fetch_add(&fake_of(host)->allocated, size, __ATOMIC_RELAXED);
    return linux_alloc(host, size);
}

static void fake_free(struct host *host, void *ptr, size_t size) {
    if (ptr) {
        __atomic_fetch_sub(&fake_of(host)->allocated, size, __ATOMIC_RELAXED);
    }
    linux_free(host, ptr, size);
}

static void *fake_pages(struct host *host, size_t size) {
    if (alloc_fails(fake_of(host))) {
        return NULL;
    }
    __atomic_fetch_add(&fake_of(host)->allocated, size, __ATOMIC_RELAXED);
    return linux_pages(host, size);
}

static void fake_pages_free(struct host *host, void *ptr, size_t size) {
    if (ptr) {
        __atomic_fetch_sub(&fake_of(host)->allocated, size, __ATOMIC_RELAXED);
    }
    linux_pages_free(host, ptr, size);
}

static int fake_ram_discard(struct host *host, u8 *hva, u64 size) {
    fake_of(host)->discarded += size;
    memset(hva, 0, size);
    return 0;
}

static void fake_pages_discard(struct host *host, void *ptr, size_t size) {
    fake_of(host)->trimmed += size;
    memset(ptr, 0, size);
}

static u64 fake_now(struct host *host) {
    return __atomic_load_n(&fake_of(host)->now, __ATOMIC_RELAXED);
}

static u64 fake_wall(struct host *host) {
    return fake_now(host) + fake_of(host)->wall_offset;
}

static u64 fake_tsc_hz(struct host *host) {
    return fake_of(host)->tsc_hz;
}

static struct host_timer *fake_timer_create(struct host *host, void (*fn)(void *ctx), void *ctx) {
    struct fake_host *f = fake_of(host);
    struct host_timer *t = calloc(1, sizeof(*t));
    if (!t) {
        return NULL;
    }
    *t = (struct host_timer){.fn = fn, .ctx = ctx, .deadline = HOST_FOREVER};
    pthread_mutex_lock(&fake_lock);
    t->next = f->timers;
    f->timers = t;
    pthread_mutex_unlock(&fake_lock);
    return t;
}

static void fake_timer_arm(struct host *host, struct host_timer *timer, u64 deadline_ns) {
    (void)host;
    pthread_mutex_lock(&fake_lock);
    timer->deadline = deadline_ns;
    pthread_mutex_unlock(&fake_lock);
}

static void fake_timer_cancel(struct host *host, struct host_timer *timer) {
    fake_timer_arm(host, timer, HOST_FOREVER);
}

static void fake_timer_destroy(struct host *host, struct host_timer *timer) {
    struct fake_host *f = fake_of(host);
    pthread_mutex_lock(&fake_lock);
    for (struct host_timer **at = &f->timers; *at; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            free(timer);
            break;
        }
    }
    pthread_mutex_unlock(&fake_lock);
}

static int fake_post_call(struct host *host, void (*fn)(void *ctx), void *ctx) {
    struct fake_post *p = calloc(1, sizeof(*p));
    if (!p) {
        return -ERR_NOMEM;
    }
    *p = (struct fake_post){.fn = fn, .ctx = ctx};
    pthread_mutex_lock(&fake_lock);
    struct fake_post **at = &fake_of(host)->posts;
    while (*at) {
        at = &(*at)->next;
    }
    *at = p;
    pthread_mutex_unlock(&fake_lock);
    return 0;
}

/* Threads of a test are real, the clock is not: sleep a moment and let the caller look again. */
static void fake_wait(struct host *host, u32 *word, u32 expected, u64 deadline_ns) {
    if (deadline_ns > fake_now(host)) {
        linux_wait(host, word, expected, linux_now(host) + NSEC_PER_SEC / 1000);
    }
}

static void fake_entropy(struct host *host, void *buf, size_t size) {
    struct fake_host *f = fake_of(host);
    for (size_t i = 0; i < size; i++) {
        f->rng ^= f->rng << 13;
        f->rng ^= f->rng >> 7;
        f->rng ^= f->rng << 17;
        ((u8 *)buf)[i] = (u8)(f->rng >> 32);
    }
}

static void fake_log(struct host *host, enum log_level level, const char *text, size_t len) {
    struct fake_host *f = fake_of(host);
    (void)level;
    pthread_mutex_lock(&fake_lock);
    if (len + 2 > sizeof(f->log) - f->log_len) {
        f->log_len = 0;
    }
    if (len + 2 <= sizeof(f->log)) {
        memcpy(f->log + f->log_len, text, len);
        f->log_len += len;
        f->log[f->log_len++] = '\n';
        f->log[f->log_len] = 0;
    }
    pthread_mutex_unlock(&fake_lock);
}

static const struct host_ops fake_ops = {
    .alloc = fake_alloc,
    .free = fake_free,
    .pages = fake_pages,
    .pages_free = fake_pages_free,
    .ram_alloc = linux_ram_alloc,
    .ram_free = linux_ram_free,
    .ram_discard = fake_ram_discard,
    .pages_discard = fake_pages_discard,
    .pages_join = linux_pages_join,
    .code_alloc = linux_code_alloc,
    .code_free = linux_code_free,
    .now = fake_now,
    .wall = fake_wall,
    .tsc_hz = fake_tsc_hz,
    .timer_create = fake_timer_create,
    .timer_arm = fake_timer_arm,
    .timer_cancel = fake_timer_cancel,
    .timer_destroy = fake_timer_destroy,
    .post = fake_post_call,
    .thread_start = linux_thread_start,
    .thread_join = linux_thread_join,
    .thread_kick = linux_thread_kick,
    .yield = linux_yield,
    .wait = fake_wait,
    .wake = linux_wake,
    .entropy = fake_entropy,
    .log = fake_log,
    .fault_hook = linux_fault_hook,
    .fault_unhook = linux_fault_unhook,
    .thread_fault_ctx = linux_thread_fault_ctx,
    .thread_gs = linux_thread_gs,
};

/* Of the calling thread, for good: generated code runs with any stack pointer. */
static void signal_stack(void) {
    static __thread u8 stack[64 * 1024];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)}, old;
    if (sigaltstack(NULL, &old) == 0 && (old.ss_flags & SS_DISABLE)) {
        sigaltstack(&ss, NULL);
    }
}

struct fake_host *fake_host_create(void) {
    struct fake_host *f = calloc(1, sizeof(*f));
    if (!f) {
        abort();
    }
    f->host.ops = &fake_ops;
    f->now = START_NS;
    f->wall_offset = WALL_2026;
    f->tsc_hz = 2000000000ull;
    f->rng = 0x9e3779b97f4a7c15ull;
    f->fail_alloc = -1;
    signal_stack();
    return f;
}

void fake_host_destroy(struct fake_host *f) {
    if (f->timers) {
        fputs("fake host: a timer was not destroyed\n", stderr);
        abort();
    }
    while (f->posts) {
        struct fake_post *p = f->posts;
        f->posts = p->next;
        free(p);
    }
    free(f);
}

void fake_run_posted(struct fake_host *f) {
    pthread_mutex_lock(&fake_lock);
    while (f->posts) {
        struct fake_post *p = f->posts;
        f->posts = p->next;
        pthread_mutex_unlock(&fake_lock);
        p->fn(p->ctx);
        free(p);
        pthread_mutex_lock(&fake_lock);
    }
    pthread_mutex_unlock(&fake_lock);
}

static struct host_timer *earliest(struct fake_host *f) {
    struct host_timer *best = NULL;
    for (struct host_timer *t = f->timers; t; t = t->next) {
        if (t->deadline != HOST_FOREVER && (!best || t->deadline < best->deadline)) {
            best = t;
        }
    }
    return best;
}

u64 fake_next_timer(struct fake_host *f) {
    pthread_mutex_lock(&fake_lock);
    struct host_timer *t = earliest(f);
    u64 deadline = t ? t->deadline : HOST_FOREVER;
    pthread_mutex_unlock(&fake_lock);
    return deadline;
}

void fake_advance(struct fake_host *f, u64 ns) {
    u64 end = f->now + ns;
    fake_run_posted(f);
    for (;;) {
        pthread_mutex_lock(&fake_lock);
        struct host_timer *t = earliest(f);
        if (!t || t->deadline > end) {
            pthread_mutex_unlock(&fake_lock);
            break;
        }
        if (t->deadline > f->now) {
            f->now = t->deadline;
        }
        t->deadline = HOST_FOREVER;
        pthread_mutex_unlock(&fake_lock);
        t->fn(t->ctx);
        fake_run_posted(f);
    }
    __atomic_store_n(&f->now, end, __ATOMIC_RELAXED);
}
