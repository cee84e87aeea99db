/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A text that many may read: the last bytes that were put in, for whoever comes later, and sockets
 * that follow it. Putting never waits: a follower that is slower than the ring is long loses what
 * was overwritten (and finds a line that says how much).
 *
 *   feed_put (any thread) --> ring, the last `size` bytes --> followers' sockets (event thread)
 *                                  bytes from a follower  --> input (a console's keyboard)
 */
#ifndef HOSTS_LINUX_FEED_H
#define HOSTS_LINUX_FEED_H

#include "hosts/linux/linux.h"

enum { FEED_MAX_FOLLOWERS = 32 };

enum {
    FEED_REPLAY = 1, /* begin with what the ring holds */
    FEED_FOLLOW = 2, /* stay for what comes; without it the socket is closed after the replay */
    FEED_INPUT = 4,  /* bytes from the socket are input; without it they are thrown away */
};

struct feed;

/* size: bytes of the ring, a power of two. */
int feed_create(struct linux_host *lh, size_t size, struct feed **out, struct err *err);
/* Event thread or after it. Closes the followers' sockets, after a last try to send what is left.
 * NULL is fine. */
void feed_destroy(struct feed *f);

/* Who gets input, before the first follower: takes up to len bytes and says how many (event
 * thread). After it took fewer it calls feed_input_resume (any thread) to be offered the rest. */
void feed_input(struct feed *f, size_t (*fn)(void *ctx, const u8 *data, size_t len), void *ctx);
void feed_input_resume(struct feed *f);

/* Any thread, never waits. */
void feed_put(struct feed *f, const void *data, size_t len);
/* Takes the stream socket fd over when it succeeds. Event thread. -ERR_INVAL: not such a socket;
 * -ERR_NOSPACE: too many. */
int feed_attach(struct feed *f, int fd, u32 flags, struct err *err);
/* Those who follow at the moment. */
u32 feed_followers(const struct feed *f);

#endif
