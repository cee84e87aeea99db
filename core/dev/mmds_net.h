/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service on the wire of a network card: a back end between the card and its own back
 * end, which takes out the frames that are for the service and lets all others pass.
 *
 *   virtio-net -> mmds_net -> back end of the host (or none)
 *                    \-> mmds_stack (mmds_tcp.h), on the event thread
 */
#ifndef CORE_DEV_MMDS_NET_H
#define CORE_DEV_MMDS_NET_H

#include "core/base/err.h"
#include "core/dev/mmds_tcp.h"
#include "core/if/backend.h"

/* Takes lower (may be NULL: a cable to nobody else) over and closes it with itself. opts: address,
 * mac, reply_max and respond are filled; respond is called on the event thread with no lock held.
 * 0 or -ERR_NOMEM. */
int mmds_net_create(struct host *host, struct net_backend *lower, const struct mmds_opts *opts,
                    struct net_backend **out, struct err *err);
/* Of one made above; event thread. */
void mmds_net_counters(struct net_backend *be, struct mmds_counters *out);

#endif
