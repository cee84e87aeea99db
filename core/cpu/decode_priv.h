/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's working state while it reads one instruction; private to core/cpu/decode*.c. */
#ifndef CORE_CPU_DECODE_PRIV_H
#define CORE_CPU_DECODE_PRIV_H

#include "core/cpu/decode_tab.h"

/* insn.rex: the same bits for REX and (not inverted) VEX */
#define REX_B 1
#define REX_X 2
#define REX_R 4
#define REX_W 8

struct decoder {
    struct insn *insn;
    const u8 *start, *p;
    const u8 *end; /* no byte from here on may be read: avail, or 15 bytes */
    bool has_rex;  /* REX or VEX: no high byte registers */
    bool mod3;     /* modrm names a register */
    u8 vvvv;       /* all four bits, also where only three count */
    bool vvvv_used;
    bool short_of_bytes;
    bool opsize_prefix; /* 66 was seen */
    u8 rep;             /* the last of F2 and F3, or 0 */
    u8 seg;             /* overriding segment, SEG_COUNT for none */
};

static inline bool decode_fetch(struct decoder *d, u8 size, u64 *v) {
    u16 v16;
    u32 v32;
    if (UNLIKELY((size_t)(d->end - d->p) < size)) {
        d->short_of_bytes = true;
        return false;
    }
    switch (size) {
    case 1:
        *v = *d->p;
        break;
    case 2:
        memcpy(&v16, d->p, 2);
        *v = v16;
        break;
    case 4:
        memcpy(&v32, d->p, 4);
        *v = v32;
        break;
    default:
        memcpy(v, d->p, 8);
    }
    d->p += size;
    return true;
}

static inline s64 decode_sign_extend(u64 v, u8 size) {
    u8 shift = (u8)(64 - 8 * size);
    return size == 0 ? 0 : (s64)(v << shift) >> shift;
}

bool decode_operand(struct decoder *d, const struct operand_spec *spec, struct insn_operand *op);
bool decode_modrm_memory(struct decoder *d);

#endif
