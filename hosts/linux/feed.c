/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of bytes with followers; see feed.h. `total` counts every byte ever put in; the ring holds
 * the last `size` of them and each follower knows how far it has got. The lock guards ring, total
 * and posted; followers belong to the event thread. Sockets that take nothing at the moment are
 * waited for in an epoll instance of the feed's own, which the event loop watches.
 */
#include "hosts/linux/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { CHUNK = 4096, INPUT_MAX = 4096 };

struct follower {
    struct feed *feed;
    int fd;
    u32 flags;
    u64 at, end;     /* next byte to send; where a replay ends (without FEED_FOLLOW) */
    char notice[64]; /* what is sent before anything else: bytes were lost */
    size_t notice_at, notice_len;
    u8 input[INPUT_MAX];
    size_t input_len;
    bool watched, waiting, dead; /* waiting: the epoll instance tells when there is room */
    struct follower *next;
};

struct feed {
    struct linux_host *lh;
    pthread_mutex_t lock;
    u8 *ring;
    size_t size;
    u64 total;
    bool posted;        /* feed_flush is on its way */
    u32 resuming;       /* atomic: input_resume is on its way */
    u32 follower_count; /* atomic: feed_put looks */
    struct follower *followers;
    int epoll;
    size_t (*input)(void *ctx, const u8 *data, size_t len);
    void *input_ctx;
};

static void feed_flush(void *ctx);

/* --- putting ---------------------------------------------------------------------------------- */

/* Lock held. */
static void ring_put(struct feed *f, const u8 *data, size_t len) {
    if (len > f->size) {
        f->total += len - f->size;
        data += len - f->size;
        len = f->size;
    }
    size_t at = (size_t)f->total & (f->size - 1), first = MIN(len, f->size - at);
    memcpy(f->ring + at, data, first);
    memcpy(f->ring, data + first, len - first);
    f->total += len;
}

void feed_put(struct feed *f, const void *data, size_t len) {
    pthread_mutex_lock(&f->lock);
    if (len) { /* without bytes it only wakes the followers */
        ring_put(f, data, len);
    }
    bool post = !f->posted && __atomic_load_n(&f->follower_count, __ATOMIC_RELAXED);
    f->posted = f->posted || post;
    pthread_mutex_unlock(&f->lock);
    if (post && loop_post(f->lh->loop, feed_flush, f)) {
        pthread_mutex_lock(&f->lock);
        f->posted = false; /* the next byte tries again */
        pthread_mutex_unlock(&f->lock);
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

/* Up to size bytes from position *at on; what was overwritten is skipped and counted in *lost. */
static size_t ring_get(struct feed *f, u64 *at, u64 end, u8 *out, size_t size, u64 *lost) {
    pthread_mutex_lock(&f->lock);
    u64 oldest = f->total > f->size ? f->total - f->size : 0;
    *lost = *at < oldest ? oldest - *at : 0;
    *at += *lost;
    u64 left = MIN(end, f->total) > *at ? MIN(end, f->total) - *at : 0;
    size_t len = (size_t)MIN(left, (u64)size);
    size_t from = (size_t)*at & (f->size - 1), first = MIN(len, f->size - from);
    memcpy(out, f->ring + from, first);
    memcpy(out + first, f->ring, len - first);
    pthread_mutex_unlock(&f->lock);
    return len;
}

static void wait_for_room(struct follower *w) {
    struct epoll_event ev = {.events = EPOLLOUT | EPOLLONESHOT};
    int op = w->waiting ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    w->dead = w->dead || epoll_ctl(w->feed->epoll, op, w->fd, &ev);
    w->waiting = true;
}

/* Bytes sent; 0: there is no room now, or nobody there any more. */
static size_t try_send(struct follower *w, const void *data, size_t len) {
    ssize_t n;
    do {
        n = send(w->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        wait_for_room(w);
    } else if (n < 0) {
        w->dead = true;
    }
    return n > 0 ? (size_t)n : 0;
}

static void note_lost(struct follower *w, u64 lost) {
    int n = snprintf(w->notice, sizeof(w->notice), "\r\n[%llu bytes lost]\r\n",
                     (unsigned long long)lost);
    w->notice_len = n > 0 ? (size_t)n : 0;
    w->notice_at = 0;
}

/* One step; false: nothing more can be sent now. */
static bool follower_step(struct follower *w) {
    u8 buf[CHUNK];
    u64 lost = 0;
    if (w->notice_at < w->notice_len) {
        size_t n = try_send(w, w->notice + w->notice_at, w->notice_len - w->notice_at);
        w->notice_at += n;
        return n > 0;
    }
    size_t len = ring_get(w->feed, &w->at, w->end, buf, sizeof(buf), &lost);
    if (lost) {
        note_lost(w, lost);
        return true;
    }
    if (!len) {
        w->dead = w->dead || !(w->flags & FEED_FOLLOW);
        return false;
    }
    size_t n = try_send(w, buf, len);
    w->at += n;
    return n > 0;
}

/* --- followers -------------------------------------------------------------------------------- */

static void watch_stop(struct follower *w) {
    if (w->watched) {
        loop_unwatch(w->feed->lh->loop, w->fd);
        w->watched = false;
    }
}

static void follower_free(struct follower *w) {
    watch_stop(w);
    close(w->fd); /* leaves the epoll instance with it */
    free(w);
}

static void remove_dead(struct feed *f) {
    for (struct follower **at = &f->followers; *at;) {
        struct follower *w = *at;
        if (w->dead) {
            *at = w->next;
            __atomic_fetch_sub(&f->follower_count, 1, __ATOMIC_RELAXED);
            follower_free(w);
        } else {
            at = &w->next;
        }
    }
}

/* As much as a ring holds for each: then others of the event thread have their turn. */
static void feed_flush(void *ctx) {
    struct feed *f = ctx;
    bool more = false;
    pthread_mutex_lock(&f->lock);
    f->posted = false;
    pthread_mutex_unlock(&f->lock);
    for (struct follower *w = f->followers; w; w = w->next) {
        size_t steps = f->size / CHUNK + 2;
        while (steps && !w->dead && follower_step(w)) {
            steps--;
        }
        more = more || !steps;
    }
    remove_dead(f);
    if (more) {
        feed_put(f, NULL, 0);
    }
}

static void on_room(void *ctx) {
    struct feed *f = ctx;
    struct epoll_event events[FEED_MAX_FOLLOWERS];
    if (epoll_wait(f->epoll, events, FEED_MAX_FOLLOWERS, 0) > 0) {
        feed_flush(f);
    }
}

/* --- input ------------------------------------------------------------------------------------ */

static void on_readable(void *ctx);

static void input_offer(struct follower *w) {
    struct feed *f = w->feed;
    if (!(w->flags & FEED_INPUT) || !f->input) {
        w->input_len = 0;
    }
    size_t n = w->input_len ? f->input(f->input_ctx, w->input, w->input_len) : 0;
    memmove(w->input, w->input + n, w->input_len - n);
    w->input_len -= n;
    if (w->input_len == sizeof(w->input)) {
        watch_stop(w); /* until the device has room */
    } else if (!w->watched && !w->dead) {
        w->watched = !loop_watch(f->lh->loop, w->fd, on_readable, w);
    }
}

static void on_readable(void *ctx) {
    struct follower *w = ctx;
    size_t room = sizeof(w->input) - w->input_len;
    ssize_t n = recv(w->fd, w->input + w->input_len, room, MSG_DONTWAIT);
    if (n > 0) {
        w->input_len += (size_t)n;
        input_offer(w);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        w->dead = true;
        remove_dead(w->feed);
    }
}

static void input_resume(void *ctx) {
    struct feed *f = ctx;
    __atomic_store_n(&f->resuming, 0, __ATOMIC_RELEASE);
    for (struct follower *w = f->followers; w; w = w->next) {
        input_offer(w);
    }
}

void feed_input(struct feed *f, size_t (*fn)(void *ctx, const u8 *data, size_t len), void *ctx) {
    f->input = fn;
    f->input_ctx = ctx;
}

void feed_input_resume(struct feed *f) {
    if (__atomic_load_n(&f->follower_count, __ATOMIC_RELAXED) &&
        !__atomic_exchange_n(&f->resuming, 1, __ATOMIC_ACQ_REL) &&
        loop_post(f->lh->loop, input_resume, f)) {
        __atomic_store_n(&f->resuming, 0, __ATOMIC_RELEASE);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

int feed_attach(struct feed *f, int fd, u32 flags, struct err *err) {
    int type = 0;
    socklen_t len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM) {
        return ERR_SET(err, ERR_INVAL, "the descriptor is not a stream socket");
    }
    if (f->follower_count >= FEED_MAX_FOLLOWERS) {
        return ERR_SET(err, ERR_NOSPACE, "%d are attached already", FEED_MAX_FOLLOWERS);
    }
    struct follower *w = calloc(1, sizeof(*w));
    if (!w) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    *w = (struct follower){.feed = f, .fd = fd, .flags = flags};
    pthread_mutex_lock(&f->lock);
    w->at = !(flags & FEED_REPLAY) ? f->total : f->total > f->size ? f->total - f->size : 0;
    w->end = flags & FEED_FOLLOW ? UINT64_MAX : f->total;
    pthread_mutex_unlock(&f->lock);
    w->watched = !loop_watch(f->lh->loop, fd, on_readable, w);
    if (!w->watched) {
        free(w);
        return ERR_SET(err, ERR_IO, "the descriptor cannot be watched");
    }
    w->next = f->followers;
    f->followers = w;
    __atomic_fetch_add(&f->follower_count, 1, __ATOMIC_RELAXED);
    feed_put(f, NULL, 0); /* flushes soon */
    return 0;
}

u32 feed_followers(const struct feed *f) {
    return __atomic_load_n(&f->follower_count, __ATOMIC_RELAXED);
}

int feed_create(struct linux_host *lh, size_t size, struct feed **out, struct err *err) {
    struct feed *f = calloc(1, sizeof(*f));
    *out = NULL;
    if (!f) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    f->lh = lh;
    f->size = size;
    f->ring = malloc(size);
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&f->lock, NULL);
    if (!f->ring || f->epoll < 0 || loop_watch(lh->loop, f->epoll, on_room, f)) {
        feed_destroy(f);
        return ERR_SET(err, ERR_NOMEM, "no memory or descriptor for a console's text");
    }
    *out = f;
    return 0;
}

void feed_destroy(struct feed *f) {
    if (!f) {
        return;
    }
    loop_forget(f->lh->loop, f);
    feed_flush(f); /* the last words */
    loop_forget(f->lh->loop, f);
    while (f->followers) {
        f->followers->dead = true;
        remove_dead(f);
    }
    if (f->epoll >= 0) {
        loop_unwatch(f->lh->loop, f->epoll);
        close(f->epoll);
    }
    pthread_mutex_destroy(&f->lock);
    free(f->ring);
    free(f);
}
