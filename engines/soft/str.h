/* SPDX-License-Identifier: Apache-2.0 */
/* What the string instructions on memory (str.c) and on ports (str_io.c) share. */
#ifndef ENGINES_SOFT_STR_H
#define ENGINES_SOFT_STR_H

#include "engines/soft/soft.h"

/* uop.src of a string instruction. REP of MOVS, STOS, LODS, INS, OUTS counts as either. */
enum { STR_ONCE, STR_REPE, STR_REPNE };

/* Does at most max elements (at least one, unless it faults), advances the pointers, returns how
 * many; *stop when a comparison ended the repetition. */
typedef u64 (*str_chunk_fn)(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop);

/* Runs the instruction; false when it gave way with elements left: stay at its RIP. */
bool str_repeat(struct soft_vcpu *c, const struct uop *u, str_chunk_fn chunk);

u64 str_reg(const struct soft_vcpu *c, const struct uop *u, u8 reg); /* cut to the address size */
void str_advance(struct soft_vcpu *c, const struct uop *u, u8 reg, u64 elements);
void str_bind_fields(struct bind *b, u8 size);

bool str_bind_io(struct bind *b); /* str_io.c: INS, OUTS, IN, OUT */

#endif
