/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service's network: a host that answers ARP for one IPv4 address and serves TCP port
 * 80 there, for a guest at the other end of a wire without loss. RFC 826, 791, 9293; of TCP no
 * window scaling, no selective acknowledgement, no urgent data. What is asked and answered over it
 * is the owner's business (mmds_respond_fn).
 *
 * Frames are the guest's: every offset is checked. At most MMDS_CONNECTIONS connections, each with
 * a request of at most MMDS_REQUEST_MAX bytes and one answer; the least used one makes room.
 *
 * Lock rule: one thread at a time calls it; it calls back from within.
 */
#ifndef CORE_DEV_MMDS_TCP_H
#define CORE_DEV_MMDS_TCP_H

#include "core/if/host.h"

enum { MMDS_CONNECTIONS = 16, MMDS_REQUEST_MAX = 2560, MMDS_FRAME_MAX = 1514 };

struct mmds_answer {
    size_t consumed; /* bytes of the request that were used; 0: it is not complete yet */
    size_t length;   /* bytes written to out */
    bool close;      /* nothing comes after it */
};

/* request: what has come so far; full: no more will fit, so an answer is due. Writes at most size
 * bytes to out. */
typedef void (*mmds_respond_fn)(void *ctx, const char *request, size_t len, bool full, char *out,
                                size_t size, struct mmds_answer *answer);
/* Sends a frame to the guest: 0, or negative: there is no room, mmds_stack_work is called when
 * there is. */
typedef int (*mmds_output_fn)(void *ctx, const u8 *frame, size_t len);

struct mmds_opts {
    u32 address;      /* IPv4, as a number: 0xa9fea9fe */
    u8 mac[6];        /* of the service */
    size_t reply_max; /* bytes of an answer */
    mmds_respond_fn respond;
    void *respond_ctx;
    mmds_output_fn output;
    void *output_ctx;
};

struct mmds_counters {
    u64 rx_frames, rx_bad, tx_frames, tx_bytes, tx_errors; /* bad: cannot be meant for us */
    u64 opened, closed;
};

struct mmds_stack;

/* NULL: out of memory. */
struct mmds_stack *mmds_stack_create(struct host *host, const struct mmds_opts *opts);
void mmds_stack_destroy(struct mmds_stack *s); /* NULL is fine */

/* Is the frame (its first have bytes) for the service: ARP for its address, or IPv4 to it? */
bool mmds_stack_wants(u32 address, const u8 *frame, size_t have);
void mmds_stack_input(struct mmds_stack *s, const u8 *frame, size_t len);
/* Sends what can be sent, and again what was not acknowledged in time. Returns when to call it next
 * at the latest (host_now), or HOST_FOREVER. */
u64 mmds_stack_work(struct mmds_stack *s);
/* Forgets all connections (the guest was restored or reset). */
void mmds_stack_reset(struct mmds_stack *s);
void mmds_stack_counters(const struct mmds_stack *s, struct mmds_counters *out);

#endif
