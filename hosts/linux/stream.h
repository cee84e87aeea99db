/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all character back ends share: a writer thread behind a ring buffer, so that a slow terminal
 * never blocks the machine, and input read by the event loop and held back while the device is
 * full.
 */
#ifndef HOSTS_LINUX_STREAM_H
#define HOSTS_LINUX_STREAM_H

#include "hosts/linux/host.h"

enum { STREAM_RING = 64 * 1024, STREAM_INPUT = 4096 };

struct stream {
    struct char_backend be;
    struct linux_host *lh;
    int in_fd, out_fd; /* -1: none */
    /* Looks at input before the device does (escape keys); returns the bytes to pass on. May be
     * NULL. */
    size_t (*filter)(struct stream *s, u8 *data, size_t len);
    void (*closed)(struct stream *s); /* last call, before the memory is freed */

    pthread_t writer;
    bool writer_running, writer_done, stop, broken, starved; /* starved: a write found no room */
    /* Output that nobody takes for so long is thrown away, as on a line without a terminal; 0: kept
     * for ever. */
    int drop_after_ms;
    bool dropping; /* by the writer thread only */
    /* A write that fails costs its bytes, not the stream: `dropped` of them since the last that
     * went well (writer thread). */
    bool drop_errors;
    u64 dropped;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    u8 ring[STREAM_RING];
    size_t head, used;

    u8 input[STREAM_INPUT]; /* read but not yet taken by the device */
    size_t input_len;
    bool watching;
    bool polled;   /* in_fd is a file, which epoll refuses: read in posted steps instead */
    u32 resuming;  /* atomic: input_resume is posted */
    bool stepping; /* input_step is posted */
};

/* Starts on descriptors that the caller opened; they are closed by the stream when own is set. */
int stream_start(struct stream *s, struct linux_host *lh, int in_fd, int out_fd, struct err *err);

#endif
