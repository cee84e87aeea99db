/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token buckets; see token_bucket.h. Refilling is lazy: tokens are counted when somebody asks, from
 * the time that passed. Left out: groups that share one bucket. Lock rule: the owner's lock.
 */
#include "core/dev/token_bucket.h"

#include "core/time/vtimer.h"

#define NSEC_PER_MSEC 1000000ull

static u64 gcd(u64 a, u64 b) {
    while (b) {
        u64 rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* num/den = size/refill, reduced so that muldiv can work with them: exactly where that is possible,
 * with a relative error below 2^-30 where the numbers are astronomic. */
static void set_rate(struct token_bucket *b, u64 refill_ns) {
    u64 product, g = gcd(b->size, refill_ns);
    b->num = b->size / g;
    b->den = refill_ns / g;
    while (__builtin_mul_overflow(b->num, b->den, &product) || product >> 62) {
        if (b->num > b->den) {
            b->num >>= 1;
            b->den = MAX(b->den / 2, 1ull);
        } else {
            b->den >>= 1;
            b->num = MAX(b->num / 2, 1ull);
        }
    }
}

void token_bucket_init(struct token_bucket *b, const struct token_bucket_config *cfg, u64 now_ns) {
    *b = (struct token_bucket){.last_ns = now_ns, .num = 1, .den = 1};
    if (cfg->size && cfg->refill_ms) {
        u64 ns;
        b->size = cfg->size;
        b->burst = cfg->burst;
        b->budget = cfg->size;
        if (__builtin_mul_overflow(cfg->refill_ms, NSEC_PER_MSEC, &ns)) {
            ns = UINT64_MAX;
        }
        set_rate(b, ns);
    }
}

static void refill(struct token_bucket *b, u64 now_ns) {
    if (now_ns <= b->last_ns) {
        return;
    }
    u64 tokens = muldiv_down(now_ns - b->last_ns, b->num, b->den);
    u64 missing = b->size - b->budget; /* the debt comes on top */
    if (tokens >= b->debt && tokens - b->debt >= missing) {
        b->debt = 0;
        b->budget = b->size;
        b->last_ns = now_ns;
        return;
    }
    u64 paid = MIN(tokens, b->debt);
    b->debt -= paid;
    b->budget += tokens - paid;
    b->last_ns += muldiv_up(tokens, b->den, b->num); /* the rest of a token is not lost */
}

u64 token_bucket_wait(struct token_bucket *b, u64 tokens, u64 now_ns) {
    if (!b->size) {
        return 0;
    }
    refill(b, now_ns);
    u64 need = tokens - MIN(tokens, b->burst);
    need = MIN(need, b->size); /* the rest becomes debt */
    if (!need || (!b->debt && need <= b->budget)) {
        return 0;
    }
    u64 missing = need - MIN(need, b->budget);
    missing = missing > UINT64_MAX - b->debt ? UINT64_MAX : missing + b->debt;
    u64 ns = muldiv_up(missing, b->den, b->num), passed = now_ns - MIN(now_ns, b->last_ns);
    return ns > passed ? ns - passed : 1;
}

void token_bucket_spend(struct token_bucket *b, u64 tokens) {
    if (!b->size) {
        return;
    }
    u64 part = MIN(tokens, b->burst);
    b->burst -= part;
    tokens -= part;
    part = MIN(tokens, b->budget);
    b->budget -= part;
    tokens -= part;
    b->debt = tokens > UINT64_MAX - b->debt ? UINT64_MAX : b->debt + tokens;
}

void token_bucket_give(struct token_bucket *b, u64 tokens) {
    u64 paid = MIN(tokens, b->debt);
    b->debt -= paid;
    b->budget += MIN(tokens - paid, b->size - b->budget);
}

void rate_limiter_init(struct rate_limiter *rl, const struct rate_limit *cfg, u64 now_ns) {
    token_bucket_init(&rl->bandwidth, &cfg->bandwidth, now_ns);
    token_bucket_init(&rl->ops, &cfg->ops, now_ns);
}

bool rate_limiter_active(const struct rate_limiter *rl) {
    return rl->bandwidth.size || rl->ops.size;
}

u64 rate_limiter_take(struct rate_limiter *rl, u64 bytes, u64 now_ns) {
    u64 a = token_bucket_wait(&rl->bandwidth, bytes, now_ns);
    u64 b = token_bucket_wait(&rl->ops, 1, now_ns);
    if (a || b) {
        return MAX(a, b);
    }
    token_bucket_spend(&rl->bandwidth, bytes);
    token_bucket_spend(&rl->ops, 1);
    return 0;
}

void rate_limiter_give(struct rate_limiter *rl, u64 bytes) {
    token_bucket_give(&rl->bandwidth, bytes);
    token_bucket_give(&rl->ops, 1);
}

static void bucket_save(const struct token_bucket *b, struct snap_writer *w, u64 now_ns) {
    snap_put64(w, b->burst);
    snap_put64(w, b->budget);
    snap_put64(w, b->debt);
    snap_put64(w, now_ns - MIN(now_ns, b->last_ns));
}

static void bucket_load(struct token_bucket *b, struct snap_reader *r, u64 now_ns) {
    u64 burst = snap_get64(r), budget = snap_get64(r), debt = snap_get64(r), age = snap_get64(r);
    if (b->size && !r->failed) {
        b->burst = MIN(burst, b->burst);
        b->budget = MIN(budget, b->size);
        b->debt = debt;
        b->last_ns = now_ns - MIN(now_ns, age);
    }
}

void rate_limiter_save(const struct rate_limiter *rl, struct snap_writer *w, u64 now_ns) {
    bucket_save(&rl->bandwidth, w, now_ns);
    bucket_save(&rl->ops, w, now_ns);
}

void rate_limiter_load(struct rate_limiter *rl, struct snap_reader *r, u64 now_ns) {
    bucket_load(&rl->bandwidth, r, now_ns);
    bucket_load(&rl->ops, r, now_ns);
}
