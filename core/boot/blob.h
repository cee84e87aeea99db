/* SPDX-License-Identifier: Apache-2.0 */
/* A file that the host has read (or mapped) into memory. */
#ifndef CORE_BOOT_BLOB_H
#define CORE_BOOT_BLOB_H

#include "core/base/types.h"

struct blob {
    const u8 *data; /* NULL: there is none */
    u64 size;
    const char *name; /* for messages: the path as the user gave it; never NULL when data is set */
};

#endif
