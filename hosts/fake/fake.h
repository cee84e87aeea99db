/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host of the unit tests: a clock that stands still until the test moves it, timers and posted
 * calls that run inside fake_advance and fake_run_posted, entropy and allocation that repeat
 * exactly, disks in memory with delayed completions. Threads, code memory, guest RAM and fault
 * hooks are real (those of the Linux host).
 */
#ifndef HOSTS_FAKE_FAKE_H
#define HOSTS_FAKE_FAKE_H

#include "core/if/backend.h"
#include "core/if/host.h"

enum { FAKE_LOG_SIZE = 8192 };

struct fake_host {
    struct host host; /* pass &fake->host */
    u64 now;          /* ns; starts at 1 s */
    u64 wall_offset;  /* wall = now + wall_offset; default 2026-01-01 00:00:00 UTC */
    u64 tsc_hz;       /* default 2 GHz */
    u64 rng;
    u64 allocated;  /* bytes of alloc and pages that were not freed */
    u64 discarded;  /* bytes of guest RAM given back */
    u64 trimmed;    /* bytes of pages and code memory given back */
    s64 fail_alloc; /* counts down with each alloc/pages; at 0 NULL is returned. -1: never */
    char log[FAKE_LOG_SIZE]; /* the last lines, NUL-terminated */
    size_t log_len;
    struct host_timer *timers;
    struct fake_post *posts;
};

struct fake_host *fake_host_create(void);
void fake_host_destroy(struct fake_host *fake); /* aborts the test when timers are left */

/* Moves the clock, running each timer that is due at its time, and posted calls after each. */
void fake_advance(struct fake_host *fake, u64 ns);
/* Runs what was posted, and what that posts, until nothing is left. */
void fake_run_posted(struct fake_host *fake);
/* Deadline of the earliest armed timer, HOST_FOREVER when there is none. */
u64 fake_next_timer(struct fake_host *fake);

/* A disk in memory. Requests complete in fake_disk_complete (all, oldest first), not before. */
struct fake_disk {
    struct block_backend be;
    struct fake_host *fake;
    u8 *data;
    struct block_req *queue[256];
    u32 queued;
    int fail_next; /* status of the next completion, then 0 again */
    u64 reads, writes, flushes;
};
struct fake_disk *fake_disk_create(struct fake_host *fake, u64 size);
u32 fake_disk_complete(struct fake_disk *disk); /* returns how many */
void fake_disk_destroy(struct fake_disk *disk);

/* A character stream: what the device wrote is in out; fake_char_input offers bytes to the device.
 */
struct fake_char {
    struct char_backend be;
    u8 out[65536];
    size_t out_len;
    size_t accept; /* how many more bytes write takes; default SIZE_MAX */
    u32 rx_ready_calls;
};
struct fake_char *fake_char_create(void);
size_t fake_char_input(struct fake_char *ch, const void *data, size_t len);
void fake_char_destroy(struct fake_char *ch);

/* A network: frames that the device sent are kept, fake_net_input offers one. */
struct fake_net {
    struct net_backend be;
    u8 frame[64][2048];
    size_t frame_len[64];
    u32 frames;
    u32 rx_ready_calls;
    bool full; /* send answers -ERR_AGAIN */
};
struct fake_net *fake_net_create(bool vnet_hdr, u64 offloads);
int fake_net_input(struct fake_net *net, const void *data, size_t len);
void fake_net_destroy(struct fake_net *net);

#endif
