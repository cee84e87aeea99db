/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What guests read from the metadata service over HTTP: values of the store as JSON or as EC2's
 * plain text, and with version 2 only for holders of a session token. Event thread.
 */
#ifndef CMD_MMDS_HTTP_H
#define CMD_MMDS_HTTP_H

#include "cmd/mmds_store.h"
#include "core/dev/mmds_tcp.h"

enum { MMDS_TOKEN_TTL_MAX = 21600 }; /* seconds */

struct mmds_service {
    const struct mmds_store *store;
    struct host *host;
    bool v2;          /* tokens are required */
    bool imds_compat; /* plain text whatever is asked for */
    u8 key[32];       /* that tokens are signed with; random */
    u64 no_token, invalid_token, accepted, errors;
};

void mmds_service_init(struct mmds_service *s, const struct mmds_store *store, struct host *host);
/* As mmds_respond_fn; ctx is the struct mmds_service. */
void mmds_http_respond(void *ctx, const char *request, size_t len, bool full, char *out,
                       size_t size, struct mmds_answer *answer);
/* Room for any answer of a store with this limit. */
size_t mmds_http_reply_max(size_t store_limit);

#endif
