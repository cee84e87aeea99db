/* SPDX-License-Identifier: Apache-2.0 */
/* Compares one decoded instruction with Zydis; private to the decode_zydis program. */
#ifndef TESTS_CONFORMANCE_DECODE_COMPARE_H
#define TESTS_CONFORMANCE_DECODE_COMPARE_H

#include <Zydis/Zydis.h>

#include "core/cpu/decode.h"

struct compare {
    ZydisDecoder decoder[3]; /* 16, 32, 64 */
    u16 id_of[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

struct compared {
    char what[48]; /* the first thing that differs, empty when nothing does */
    char ours[24]; /* the two mnemonics */
    char theirs[24];
    const char *explained; /* name of the class in docs/decoder.md, NULL: not explained */
    u8 len;                /* by which to go on: Zydis's, or ours, or 1 */
    bool valid;            /* both found an instruction */
};

void compare_init(struct compare *c);
void compare_one(const struct compare *c, const u8 *code, size_t avail, u8 mode,
                 struct compared *result);

#endif
