/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: timers, posted calls and watched descriptors, all run by one thread.
 *
 *   epoll --+-- timerfd   armed for the earliest timer, or earlier: re-arming costs a system call,
 *           |             so a timer that moves later leaves it alone; waking early is harmless
 *           +-- eventfd   posted work, quit
 *           +-- watched descriptors
 *
 * One mutex guards the lists; callbacks run without it. `running` names the object whose callback
 * runs so that destroy and unwatch can wait for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { MAX_EVENTS = 32 };

struct host_timer {
    void (*fn)(void *ctx);
    void *ctx;
    u64 deadline; /* HOST_FOREVER: not armed */
    size_t heap_index;
};

struct post {
    void (*fn)(void *ctx);
    void *ctx;
    u64 number;
    struct post *next;
};

struct watch {
    int fd;
    void (*fn)(void *ctx);
    void *ctx;
    bool dead;
    struct watch *next;
};

struct loop {
    int epoll, timerfd, eventfd;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* `running` changed */
    pthread_t thread;
    bool thread_known;
    bool quit;
    const void *running;
    u64 armed; /* what timerfd is set to; HOST_FOREVER: nothing */
    struct host_timer **heap;
    size_t heap_len, heap_cap;
    const void *running_ctx; /* and its argument */
    struct post *posts, **posts_tail;
    u64 post_count; /* ever posted */
    struct watch *watches;
};

/* --- timer heap: earliest deadline at index 0 ------------------------------------------------- */

static void heap_put(struct loop *l, size_t i, struct host_timer *t) {
    l->heap[i] = t;
    t->heap_index = i;
}

static void heap_up(struct loop *l, size_t i) {
    struct host_timer *t = l->heap[i];
    while (i && l->heap[(i - 1) / 2]->deadline > t->deadline) {
        heap_put(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(l, i, t);
}

static void heap_down(struct loop *l, size_t i) {
    struct host_timer *t = l->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= l->heap_len) {
            break;
        }
        if (child + 1 < l->heap_len && l->heap[child + 1]->deadline < l->heap[child]->deadline) {
            child++;
        }
        if (l->heap[child]->deadline >= t->deadline) {
            break;
        }
        heap_put(l, i, l->heap[child]);
        i = child;
    }
    heap_put(l, i, t);
}

static void timerfd_set(struct loop *l, u64 deadline) {
    struct itimerspec its = {0};
    if (deadline != HOST_FOREVER) {
        deadline = deadline ? deadline : 1; /* zero would disarm */
        its.it_value.tv_sec = (time_t)(deadline / NSEC_PER_SEC);
        its.it_value.tv_nsec = (long)(deadline % NSEC_PER_SEC);
    }
    timerfd_settime(l->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
    l->armed = deadline;
}

struct host_timer *loop_timer_create(struct loop *l, void (*fn)(void *ctx), void *ctx) {
    struct host_timer *t = calloc(1, sizeof(*t));
    if (!t) {
        return NULL;
    }
    t->fn = fn;
    t->ctx = ctx;
    t->deadline = HOST_FOREVER;
    pthread_mutex_lock(&l->lock);
    if (l->heap_len == l->heap_cap) {
        size_t cap = l->heap_cap ? l->heap_cap * 2 : 16;
        struct host_timer **heap = realloc(l->heap, cap * sizeof(*heap));
        if (!heap) {
            pthread_mutex_unlock(&l->lock);
            free(t);
            return NULL;
        }
        l->heap = heap;
        l->heap_cap = cap;
    }
    heap_put(l, l->heap_len++, t);
    pthread_mutex_unlock(&l->lock);
    return t;
}

/* Every timer stays in the heap; one that is not armed has the deadline HOST_FOREVER. */
static void timer_move(struct loop *l, struct host_timer *t, u64 deadline) {
    u64 before = t->deadline;
    t->deadline = deadline;
    if (deadline < before) {
        heap_up(l, t->heap_index);
    } else {
        heap_down(l, t->heap_index);
    }
}

void loop_timer_arm(struct loop *l, struct host_timer *t, u64 deadline) {
    pthread_mutex_lock(&l->lock);
    timer_move(l, t, deadline);
    if (l->heap[0]->deadline < l->armed) {
        timerfd_set(l, l->heap[0]->deadline);
    }
    pthread_mutex_unlock(&l->lock);
}

void loop_timer_cancel(struct loop *l, struct host_timer *t) {
    pthread_mutex_lock(&l->lock);
    timer_move(l, t, HOST_FOREVER);
    pthread_mutex_unlock(&l->lock);
}

static bool on_loop_thread(struct loop *l) {
    return l->thread_known && pthread_equal(l->thread, pthread_self());
}

static void wait_not_running(struct loop *l, const void *object) {
    while (l->running == object && !on_loop_thread(l)) {
        pthread_cond_wait(&l->idle, &l->lock);
    }
}

void loop_timer_destroy(struct loop *l, struct host_timer *t) {
    if (!t) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    timer_move(l, t, HOST_FOREVER);
    wait_not_running(l, t);
    size_t i = t->heap_index;
    struct host_timer *last = l->heap[--l->heap_len];
    if (last != t) {
        heap_put(l, i, last);
        heap_up(l, i);
        heap_down(l, last->heap_index);
    }
    pthread_mutex_unlock(&l->lock);
    free(t);
}

/* Runs one callback without the lock; `object` can be waited for meanwhile. */
static void run_unlocked(struct loop *l, const void *object, void (*fn)(void *ctx), void *ctx) {
    l->running = object;
    l->running_ctx = ctx;
    pthread_mutex_unlock(&l->lock);
    fn(ctx);
    pthread_mutex_lock(&l->lock);
    l->running = NULL;
    l->running_ctx = NULL;
    pthread_cond_broadcast(&l->idle);
}

static void run_timers(struct loop *l) {
    u64 now = linux_now(NULL);
    while (l->heap_len && l->heap[0]->deadline <= now) {
        struct host_timer *t = l->heap[0];
        timer_move(l, t, HOST_FOREVER);
        run_unlocked(l, t, t->fn, t->ctx);
    }
    u64 next = l->heap_len ? l->heap[0]->deadline : HOST_FOREVER;
    if (next != l->armed && (next < l->armed || l->armed <= now)) {
        timerfd_set(l, next);
    }
}

/* --- posted calls ----------------------------------------------------------------------------- */

static void loop_wake(struct loop *l) {
    u64 one = 1;
    ssize_t n = write(l->eventfd, &one, sizeof(one)); /* a full counter is awake already */
    (void)n;
}

int loop_post(struct loop *l, void (*fn)(void *ctx), void *ctx) {
    struct post *p = malloc(sizeof(*p));
    if (!p) {
        return -ERR_NOMEM;
    }
    *p = (struct post){.fn = fn, .ctx = ctx};
    pthread_mutex_lock(&l->lock);
    bool first = !l->posts;
    p->number = l->post_count++;
    *l->posts_tail = p;
    l->posts_tail = &p->next;
    pthread_mutex_unlock(&l->lock);
    if (first) {
        loop_wake(l);
    }
    return 0;
}

/* What callbacks post meanwhile waits for the next round, so that descriptors get their turn. */
static void run_posts(struct loop *l) {
    u64 end = l->post_count;
    while (l->posts && l->posts->number < end) {
        struct post *p = l->posts;
        l->posts = p->next;
        if (!p->next) {
            l->posts_tail = &l->posts;
        }
        run_unlocked(l, p, p->fn, p->ctx);
        free(p);
    }
    if (l->posts) {
        loop_wake(l);
    }
}

static void posts_remove(struct loop *l, const void *ctx) {
    for (struct post **at = &l->posts; *at;) {
        struct post *p = *at;
        if (p->ctx == ctx) {
            *at = p->next;
            free(p);
        } else {
            at = &p->next;
        }
    }
    l->posts_tail = &l->posts;
    while (*l->posts_tail) {
        l->posts_tail = &(*l->posts_tail)->next;
    }
}

void loop_forget(struct loop *l, const void *ctx) {
    pthread_mutex_lock(&l->lock);
    posts_remove(l, ctx);
    while (l->running_ctx == ctx && !on_loop_thread(l)) {
        pthread_cond_wait(&l->idle, &l->lock);
        posts_remove(l, ctx);
    }
    pthread_mutex_unlock(&l->lock);
}

/* --- descriptors ------------------------------------------------------------------------------ */

static struct watch *watch_find(struct loop *l, int fd) {
    for (struct watch *w = l->watches; w; w = w->next) {
        if (w->fd == fd && !w->dead) {
            return w;
        }
    }
    return NULL;
}

int loop_watch(struct loop *l, int fd, void (*fn)(void *ctx), void *ctx) {
    struct watch *w = calloc(1, sizeof(*w));
    if (!w) {
        return -ERR_NOMEM;
    }
    *w = (struct watch){.fd = fd, .fn = fn, .ctx = ctx};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = w};
    pthread_mutex_lock(&l->lock);
    int rc = epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) ? -ERR_IO : 0;
    if (rc) {
        free(w);
    } else {
        w->next = l->watches;
        l->watches = w;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

/* The entry is freed by the loop (reap) because a batch of events may still point at it. */
void loop_unwatch(struct loop *l, int fd) {
    pthread_mutex_lock(&l->lock);
    struct watch *w = watch_find(l, fd);
    if (w) {
        epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
        w->dead = true;
        wait_not_running(l, w);
    }
    pthread_mutex_unlock(&l->lock);
}

static void reap_watches(struct loop *l) {
    for (struct watch **at = &l->watches; *at;) {
        struct watch *w = *at;
        if (w->dead) {
            *at = w->next;
            free(w);
        } else {
            at = &w->next;
        }
    }
}

static void drain_fd(int fd) {
    u64 value;
    ssize_t n = read(fd, &value, sizeof(value));
    (void)n;
}

static void dispatch(struct loop *l, const struct epoll_event *ev) {
    if (ev->data.ptr == &l->timerfd || ev->data.ptr == &l->eventfd) {
        drain_fd(*(int *)ev->data.ptr);
        return; /* timers and posts are looked at after every wake-up */
    }
    struct watch *w = ev->data.ptr;
    if (!w->dead) {
        run_unlocked(l, w, w->fn, w->ctx);
    }
}

void loop_run(struct loop *l) {
    struct epoll_event events[MAX_EVENTS];
    pthread_mutex_lock(&l->lock);
    l->thread = pthread_self();
    l->thread_known = true;
    while (!__atomic_load_n(&l->quit, __ATOMIC_ACQUIRE)) {
        pthread_mutex_unlock(&l->lock);
        int n = epoll_wait(l->epoll, events, MAX_EVENTS, -1);
        pthread_mutex_lock(&l->lock);
        for (int i = 0; i < n; i++) {
            dispatch(l, &events[i]);
        }
        run_timers(l);
        run_posts(l);
        reap_watches(l);
    }
    __atomic_store_n(&l->quit, false, __ATOMIC_RELAXED);
    l->thread_known = false;
    pthread_mutex_unlock(&l->lock);
}

void loop_run_idle(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    if (!l->thread_known) {
        run_posts(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void loop_quit(struct loop *l) {
    __atomic_store_n(&l->quit, true, __ATOMIC_RELEASE);
    loop_wake(l);
}

static int loop_add_own(struct loop *l, int *fd) {
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = fd};
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, *fd, &ev);
}

int loop_create(struct loop **out) {
    struct loop *l = calloc(1, sizeof(*l));
    if (!l) {
        return -ERR_NOMEM;
    }
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    l->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->armed = HOST_FOREVER;
    l->posts_tail = &l->posts;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->idle, NULL);
    if (l->epoll < 0 || l->timerfd < 0 || l->eventfd < 0 || loop_add_own(l, &l->timerfd) ||
        loop_add_own(l, &l->eventfd)) {
        loop_destroy(l);
        return -ERR_IO;
    }
    *out = l;
    return 0;
}

static void close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

void loop_destroy(struct loop *l) {
    if (!l) {
        return;
    }
    while (l->posts) {
        struct post *p = l->posts;
        l->posts = p->next;
        free(p);
    }
    while (l->watches) {
        struct watch *w = l->watches;
        l->watches = w->next;
        free(w);
    }
    for (size_t i = 0; i < l->heap_len; i++) {
        free(l->heap[i]);
    }
    free(l->heap);
    close_fd(l->epoll);
    close_fd(l->timerfd);
    close_fd(l->eventfd);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->idle);
    free(l);
}
