/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers between a disk device and its back end, each a block_backend of its own:
 *
 *   virtio-blk -> blk_limit (rate) -> blk_full (host disk full) -> back end of the host
 *
 * Each takes `lower` over and closes it with itself.
 */
#ifndef CORE_DEV_BLK_LIMIT_H
#define CORE_DEV_BLK_LIMIT_H

#include "core/base/err.h"
#include "core/dev/token_bucket.h"
#include "core/if/backend.h"
#include "core/if/host.h"

/* Requests wait, in order, until the limiter lets them pass. Every request is an operation; reads
 * and writes also cost their bytes. */
int blk_limit_create(struct host *host, struct block_backend *lower, const struct rate_limit *limit,
                     struct block_backend **out, struct err *err);
/* Replaces the limit of one made above, with full buckets; what waits is looked at again. */
void blk_limit_set(struct block_backend *be, const struct rate_limit *limit);

/* Told on the event thread, no lock held: requests are being held back (full), or none any more. */
typedef void (*blk_full_fn)(void *ctx, bool full);

/* A request that meets -ERR_NOSPACE is held and tried again twice a second, until there is room or
 * somebody drains, who gets the error. */
int blk_full_create(struct host *host, struct block_backend *lower, blk_full_fn fn, void *ctx,
                    struct block_backend **out, struct err *err);

#endif
