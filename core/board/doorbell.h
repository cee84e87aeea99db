/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the engine's doorbells as the virtio devices want them. Devices ask with the board lock
 * held; the engine's removal waits for a callback that may want that lock. So wishes are noted here
 * and carried out on the event thread, removals first. Until then a notification costs an exit.
 */
#ifndef CORE_BOARD_DOORBELL_H
#define CORE_BOARD_DOORBELL_H

#include "core/if/engine.h"
#include "core/virtio/virtio.h"

struct doorbells;

struct doorbells *doorbells_create(struct host *host, struct engine_vm *engine);
/* A virtio_doorbell_fn; ctx is the struct doorbells. */
void doorbells_want(void *ctx, const struct virtio_doorbell *bell, bool add);
/* Carries out all wishes before it returns. Board lock not held. */
void doorbells_sync(struct doorbells *d);
/* After the devices have withdrawn all wishes: removes what is left. NULL is fine. */
void doorbells_destroy(struct doorbells *d);

#endif
