/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits of devices as token buckets, with the meaning of Firecracker's RateLimiter: a bucket
 * of `size` tokens that refills from empty in refill_ms, and a burst of extra tokens that exists
 * once. A limiter has a bucket of bytes and a bucket of operations; both must agree.
 *
 *   token_bucket_config --init--> token_bucket    burst, then budget (0..size), then debt
 *
 * A request larger than the bucket is let through when the bucket is full, and leaves a debt that
 * is paid before anything else passes: the rate holds over time and no request waits for ever.
 *
 * Times are nanoseconds of the host's monotonic clock. Lock rule: the owner's lock.
 */
#ifndef CORE_DEV_TOKEN_BUCKET_H
#define CORE_DEV_TOKEN_BUCKET_H

#include "core/base/snap.h"
#include "core/base/types.h"

struct token_bucket_config {
    u64 size;      /* tokens; 0: no limit */
    u64 refill_ms; /* from empty to full; 0: no limit */
    u64 burst;     /* tokens that are there once, beyond size */
};

struct rate_limit {                       /* all zero: no limit */
    struct token_bucket_config bandwidth; /* bytes */
    struct token_bucket_config ops;
};

struct token_bucket {
    u64 size;     /* 0: no limit */
    u64 num, den; /* num tokens come in den ns; num * den fits 63 bits */
    u64 burst, budget, debt;
    u64 last_ns; /* tokens are accounted for up to here */
};

struct rate_limiter {
    struct token_bucket bandwidth, ops;
};

/* The bucket starts full. */
void token_bucket_init(struct token_bucket *b, const struct token_bucket_config *cfg, u64 now_ns);
/* 0 when `tokens` may be spent now, else nanoseconds (at least 1) until to ask again. */
u64 token_bucket_wait(struct token_bucket *b, u64 tokens, u64 now_ns);
/* After wait returned 0. */
void token_bucket_spend(struct token_bucket *b, u64 tokens);
/* Gives back what was spent on something that did not happen. */
void token_bucket_give(struct token_bucket *b, u64 tokens);

void rate_limiter_init(struct rate_limiter *rl, const struct rate_limit *cfg, u64 now_ns);
bool rate_limiter_active(const struct rate_limiter *rl);
/* Takes one operation of so many bytes from both buckets, or nothing. 0: taken; else nanoseconds
 * until to ask again. */
u64 rate_limiter_take(struct rate_limiter *rl, u64 bytes, u64 now_ns);
void rate_limiter_give(struct rate_limiter *rl, u64 bytes);

/* Tokens and ages; the configuration belongs to whoever creates the device. */
void rate_limiter_save(const struct rate_limiter *rl, struct snap_writer *w, u64 now_ns);
/* Into a limiter that was initialised; values beyond its sizes are cut. */
void rate_limiter_load(struct rate_limiter *rl, struct snap_reader *r, u64 now_ns);

#endif
