/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports that only show something: 0xe9 (Bochs and QEMU: each byte written goes to a character
 * stream, reads give 0xe9), 0x80 (POST code) and 0xed (I/O delay), which keep the last byte.
 *
 * Output here has no flow control: a byte that the backend refuses is lost.
 * Lock rule: the board lock is held for every call.
 */
#ifndef CORE_DEV_DEBUGPORT_H
#define CORE_DEV_DEBUGPORT_H

#include "core/dev/device.h"
#include "core/if/backend.h"

/* backend may be NULL: bytes vanish. */
int debugport_add(struct device_list *list, struct device_env *env, struct char_backend *backend,
                  struct err *err);

#endif
