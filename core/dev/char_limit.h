/* SPDX-License-Identifier: Apache-2.0 */
/* A rate limit in front of a character stream: what a guest prints beyond it is lost. */
#ifndef CORE_DEV_CHAR_LIMIT_H
#define CORE_DEV_CHAR_LIMIT_H

#include "core/base/err.h"
#include "core/dev/token_bucket.h"
#include "core/if/backend.h"
#include "core/if/host.h"

/* limit: bytes. Stands between a device and lower, which stays the caller's; close frees this layer
 * only. 0 or -ERR_NOMEM. */
int char_limit_create(struct host *host, struct char_backend *lower,
                      const struct token_bucket_config *limit, struct char_backend **out,
                      struct err *err);
/* Bytes lost so far; any thread. */
u64 char_limit_dropped(struct char_backend *be);

#endif
