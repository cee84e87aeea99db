/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4), for the integrity of files. With the processor's SHA instructions where it
 * has them. Not for secrets: no care is taken of what stays in memory. */
#ifndef CORE_BASE_SHA256_H
#define CORE_BASE_SHA256_H

#include "core/base/types.h"

enum { SHA256_SIZE = 32, SHA256_BLOCK = 64 };

struct sha256 {
    u32 state[8];
    u64 length; /* bytes so far */
    u8 block[SHA256_BLOCK];
    bool fast; /* use the instructions */
};

/* One CPUID, which is slow in a virtual machine: a context may be copied instead. */
void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t size);
void sha256_final(struct sha256 *s, u8 out[SHA256_SIZE]);
void sha256(const void *data, size_t size, u8 out[SHA256_SIZE]);

#endif
