/* SPDX-License-Identifier: Apache-2.0 */
/* Character streams with a writer thread and flow-controlled input; see stream.h. */
#include "hosts/linux/stream.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CLOSE_WAIT_MS = 500, KICK_AGAIN_MS = 5 };

static struct stream *stream_of(struct char_backend *be) {
    return CONTAINER_OF(be, struct stream, be);
}

/* --- output ----------------------------------------------------------------------------------- */

static void call_writable(void *ctx) {
    struct stream *s = ctx;
    if (s->be.writable) {
        s->be.writable(s->be.device);
    }
}

/* Waits for room in a descriptor that somebody made non-blocking. */
static bool write_failed(int fd) {
    if (errno == EAGAIN) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        poll(&p, 1, 100);
        return false;
    }
    return errno != EINTR;
}

/* Of a write of len bytes that gave n: the bytes that are done with. */
static ssize_t note_drop(struct stream *s, ssize_t n, size_t len) {
    if (n < 0) {
        if (!s->dropped) {
            log_line(&s->lh->host, LOG_WARN,
                     "a console's file cannot be written: %s; its output "
                     "is dropped until it can",
                     strerror(errno));
        }
        s->dropped += len;
        return (ssize_t)len;
    }
    if (s->dropped) {
        log_line(&s->lh->host, LOG_WARN,
                 "a console's file can be written again: %llu bytes of it "
                 "were dropped",
                 (unsigned long long)s->dropped);
        s->dropped = 0;
    }
    return n;
}

/* The bytes that are done with: written, or thrown away; -1 when the descriptor is of no use. */
static ssize_t write_some(struct stream *s, const u8 *from, size_t len) {
    struct pollfd p = {.fd = s->out_fd, .events = POLLOUT};
    if (s->drop_after_ms) {
        s->dropping = !poll(&p, 1, s->dropping ? 0 : s->drop_after_ms);
        if (s->dropping) {
            return (ssize_t)len;
        }
    }
    ssize_t n = write(s->out_fd, from, len);
    if (n < 0 && !write_failed(s->out_fd)) {
        return 0;
    }
    return s->drop_errors ? note_drop(s, n, len) : n;
}

/* write_some without the lock. A write that hangs is interrupted by writer_stop's kicks. */
static void writer_step(struct stream *s) {
    size_t len = MIN(s->used, (size_t)STREAM_RING - s->head);
    const u8 *from = s->ring + s->head;
    pthread_mutex_unlock(&s->lock);
    ssize_t n = write_some(s, from, len);
    pthread_mutex_lock(&s->lock);
    if (n < 0) {
        s->broken = true;
    } else {
        s->head = (s->head + (size_t)n) % STREAM_RING;
        s->used -= (size_t)n;
    }
    if (s->starved) {
        s->starved = false;
        loop_post(s->lh->loop, call_writable, s);
    }
}

static void *writer_main(void *arg) {
    struct stream *s = arg;
    linux_kick_accept();
    pthread_setname_np(pthread_self(), "console");
    pthread_mutex_lock(&s->lock);
    while (!s->stop || (s->used && !s->broken)) {
        if (s->used && !s->broken) {
            writer_step(s);
            continue;
        }
        s->used = 0;
        pthread_cond_wait(&s->changed, &s->lock);
    }
    s->writer_done = true;
    pthread_cond_broadcast(&s->changed); /* writer_stop waits for the end */
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static size_t stream_write(struct char_backend *be, const u8 *data, size_t len) {
    struct stream *s = stream_of(be);
    if (s->out_fd < 0) {
        return len;
    }
    pthread_mutex_lock(&s->lock);
    if (s->broken) { /* nobody listens any more: the machine goes on */
        pthread_mutex_unlock(&s->lock);
        return len;
    }
    size_t taken = MIN(len, STREAM_RING - s->used);
    for (size_t i = 0; i < taken; i++) {
        s->ring[(s->head + s->used + i) % STREAM_RING] = data[i];
    }
    if (taken && !s->used) {
        pthread_cond_broadcast(&s->changed);
    }
    s->used += taken;
    s->starved = s->starved || taken < len;
    pthread_mutex_unlock(&s->lock);
    return taken;
}

/* --- input ------------------------------------------------------------------------------------ */

static void input_offer(struct stream *s) {
    if (s->input_len && s->be.receive) {
        size_t n = s->be.receive(s->be.device, s->input, s->input_len);
        memmove(s->input, s->input + n, s->input_len - n);
        s->input_len -= n;
    }
}

static void input_ready(void *ctx);

static void input_step(void *ctx) {
    struct stream *s = ctx;
    s->stepping = false;
    if (s->watching) {
        input_ready(s);
        s->stepping = s->watching && !loop_post(s->lh->loop, input_step, s);
    }
}

static void input_watch(struct stream *s, bool on) {
    if (on && !s->watching && s->in_fd >= 0) {
        s->polled = loop_watch(s->lh->loop, s->in_fd, input_ready, s) != 0;
        s->watching = true;
        if (s->polled && !s->stepping) {
            s->stepping = !loop_post(s->lh->loop, input_step, s);
        }
    } else if (!on && s->watching) {
        if (!s->polled) {
            loop_unwatch(s->lh->loop, s->in_fd);
        }
        s->watching = false;
    }
}

static void input_ready(void *ctx) {
    struct stream *s = ctx;
    size_t room = sizeof(s->input) - s->input_len;
    ssize_t n = room ? read(s->in_fd, s->input + s->input_len, room) : 0;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (room && n <= 0) { /* end of input: stop looking, or the loop would spin */
        input_watch(s, false);
        s->in_fd = -1;
        return;
    }
    size_t len = (size_t)n;
    if (s->filter) {
        len = s->filter(s, s->input + s->input_len, len);
    }
    s->input_len += len;
    input_offer(s);
    if (s->input_len == sizeof(s->input)) {
        input_watch(s, false); /* until the device says rx_ready */
    }
}

static void input_resume(void *ctx) {
    struct stream *s = ctx;
    __atomic_store_n(&s->resuming, 0, __ATOMIC_RELEASE);
    input_offer(s);
    input_watch(s, s->input_len < sizeof(s->input));
}

static void stream_rx_ready(struct char_backend *be) {
    struct stream *s = stream_of(be);
    if (!__atomic_exchange_n(&s->resuming, 1, __ATOMIC_ACQ_REL) &&
        loop_post(s->lh->loop, input_resume, s)) {
        __atomic_store_n(&s->resuming, 0, __ATOMIC_RELEASE);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

/* Waits up to ms for a word from the writer; lock held. False: none came. */
static bool writer_wait(struct stream *s, u32 ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms * 1000000l;
    until.tv_sec += until.tv_nsec / (long)NSEC_PER_SEC;
    until.tv_nsec %= (long)NSEC_PER_SEC;
    return pthread_cond_timedwait(&s->changed, &s->lock, &until) != ETIMEDOUT;
}

/* Gives the reader of our output a moment to take what is left, but not for ever: then the writer
 * is kicked out of its system call, again and again, since a kick may come just before it. */
static void writer_stop(struct stream *s) {
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->writer_done && writer_wait(s, CLOSE_WAIT_MS)) {
    }
    s->broken = true;
    while (!s->writer_done) {
        linux_kick(s->writer);
        writer_wait(s, KICK_AGAIN_MS);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->writer, NULL);
}

static void stream_close(struct char_backend *be) {
    struct stream *s = stream_of(be);
    loop_forget(s->lh->loop, s); /* input_resume would watch again */
    input_watch(s, false);
    if (s->writer_running) {
        writer_stop(s);
    }
    loop_forget(s->lh->loop, s);
    if (s->closed) {
        s->closed(s);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}

static const struct char_backend_ops stream_ops = {
    .write = stream_write, .rx_ready = stream_rx_ready, .close = stream_close};

int stream_start(struct stream *s, struct linux_host *lh, int in_fd, int out_fd, struct err *err) {
    s->be.ops = &stream_ops;
    s->lh = lh;
    s->in_fd = in_fd;
    s->out_fd = out_fd;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (out_fd >= 0) {
        s->writer_running = !linux_spawn(lh, &s->writer, writer_main, s);
        if (!s->writer_running) {
            return ERR_SET(err, ERR_NOMEM, "console: cannot start a thread");
        }
    }
    input_watch(s, true);
    return 0;
}
