/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service's data: a JSON value of bounded size that the API writes and guests read. */
#ifndef CMD_MMDS_STORE_H
#define CMD_MMDS_STORE_H

#include <jansson.h>

#include "cmd/api_schema.h"

enum { MMDS_STORE_LIMIT = 51200 }; /* bytes as JSON; --mmds-size-limit */

struct mmds_store {
    json_t *data; /* NULL: nothing was put yet */
    size_t limit;
};

void mmds_store_free(struct mmds_store *s);
/* Takes value over. 0, or -ERR_NOSPACE with the text. */
int mmds_store_put(struct mmds_store *s, json_t *value, struct api_text *e);
/* JSON merge patch (RFC 7396). 0, -ERR_STATE before the first put, -ERR_NOSPACE. */
int mmds_store_patch(struct mmds_store *s, const json_t *patch, struct api_text *e);

#endif
