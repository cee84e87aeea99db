/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host instructions as bytes: the few forms that the translator adds to what it copies. Encodings:
 * Intel SDM volume 2, chapter 2. The caller has made room (tr.c).
 */
#include "engines/soft/tr.h"

void tr_u8(struct soft_tr *t, u32 v) {
    t->code.rw[t->used++] = (u8)v;
}

void tr_u16(struct soft_tr *t, u32 v) {
    u16 value = (u16)v;
    memcpy(t->code.rw + t->used, &value, 2);
    t->used += 2;
}

void tr_u32(struct soft_tr *t, u32 v) {
    memcpy(t->code.rw + t->used, &v, 4);
    t->used += 4;
}

void tr_u64(struct soft_tr *t, u64 v) {
    memcpy(t->code.rw + t->used, &v, 8);
    t->used += 8;
}

/* The register may be written: H_TEMP2 does not hold c->look from here on. */
static void named(struct soft_tr *t, u32 reg) {
    t->look_held &= reg != H_TEMP2;
}

static void rex(struct soft_tr *t, bool wide, u32 reg, u32 rm) {
    u32 v = 0x40 | (wide ? 8u : 0) | (reg & 8) >> 1 | (rm & 8) >> 3;
    if (v != 0x40) {
        tr_u8(t, v);
    }
}

static void opcode_bytes(struct soft_tr *t, u32 opcode) {
    if (opcode > 0xff) {
        tr_u8(t, opcode >> 8);
    }
    tr_u8(t, opcode);
}

void tr_imm(struct soft_tr *t, u32 reg, u64 v) {
    named(t, reg);
    if (v <= UINT32_MAX) {
        rex(t, false, 0, reg);
        tr_u8(t, 0xb8 | (reg & 7));
        tr_u32(t, (u32)v);
    } else if ((u64)(s64)(s32)v == v) {
        rex(t, true, 0, reg);
        tr_u8(t, 0xc7);
        tr_u8(t, 0xc0 | (reg & 7));
        tr_u32(t, (u32)v);
    } else {
        rex(t, true, 0, reg);
        tr_u8(t, 0xb8 | (reg & 7));
        tr_u64(t, v);
    }
}

void tr_gs(struct soft_tr *t, bool wide, u32 opcode, u32 reg, size_t offset) {
    named(t, reg);
    tr_u8(t, 0x65);
    rex(t, wide, reg, 0);
    opcode_bytes(t, opcode);
    tr_u8(t, 0x04 | (reg & 7) << 3);
    tr_u8(t, 0x25);
    tr_u32(t, (u32)offset);
}

void tr_gs_load(struct soft_tr *t, u32 reg, size_t offset) {
    tr_gs(t, true, 0x8b, reg, offset);
}

void tr_gs_store(struct soft_tr *t, u32 reg, size_t offset) {
    tr_gs(t, true, 0x89, reg, offset);
}

void tr_gs_imm(struct soft_tr *t, size_t offset, u32 v) {
    tr_gs(t, false, 0xc7, 0, offset);
    tr_u32(t, v);
}

void tr_rr(struct soft_tr *t, bool wide, u32 opcode, u32 reg, u32 rm) {
    named(t, reg);
    named(t, rm);
    rex(t, wide, reg, rm);
    opcode_bytes(t, opcode);
    tr_u8(t, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void tr_rm(struct soft_tr *t, bool wide, u32 opcode, u32 reg, u32 base, s32 disp) {
    bool byte = disp == (s8)disp;
    named(t, reg);
    rex(t, wide, reg, base);
    opcode_bytes(t, opcode);
    tr_u8(t, (byte ? 0x40u : 0x80u) | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == GPR_RSP) {
        tr_u8(t, 0x24);
    }
    if (byte) {
        tr_u8(t, (u32)disp);
    } else {
        tr_u32(t, (u32)disp);
    }
}

void tr_modrm(struct soft_tr *t, u32 reg, const struct tr_at *at) {
    bool no_base = at->base == MEM_NONE;
    bool sib = no_base || at->index != MEM_NONE || (at->base & 7) == GPR_RSP;
    bool none = no_base || (!at->disp && (at->base & 7) != GPR_RBP);
    bool byte = !none && at->disp == (s8)at->disp;
    u32 mod = none ? 0 : byte ? 0x40 : 0x80;
    u32 base = no_base ? 5u : at->base & 7u, index = at->index == MEM_NONE ? 4u : at->index & 7u;
    tr_u8(t, mod | (reg & 7) << 3 | (sib ? 4u : base));
    if (sib) {
        tr_u8(t, (u32)at->shift << 6 | index << 3 | base);
    }
    if (byte) {
        tr_u8(t, (u32)at->disp);
    } else if (no_base || !none) {
        tr_u32(t, (u32)at->disp);
    }
}

void tr_mem(struct soft_tr *t, bool wide, u32 opcode, u32 reg, const struct tr_at *at) {
    u32 v = 0x40 | (wide ? 8u : 0) | (reg & 8) >> 1;
    named(t, reg);
    v |= at->index != MEM_NONE ? (at->index & 8u) >> 2 : 0;
    v |= at->base != MEM_NONE ? (at->base & 8u) >> 3 : 0;
    if (v != 0x40) {
        tr_u8(t, v);
    }
    opcode_bytes(t, opcode);
    tr_modrm(t, reg, at);
}

void tr_shr_page(struct soft_tr *t, bool wide, u32 to, u32 from) {
    if (!t->host_bmi2) {
        tr_rr(t, false, 0x89, from, to);
        tr_rr(t, false, 0xc1, 5, to);
        tr_u8(t, PAGE_SHIFT);
        return;
    }
    tr_u8(t, 0xc4); /* shrx to, from, r13d */
    tr_u8(t, (to & 8 ? 0u : 0x80) | 0x40 | (from & 8 ? 0u : 0x20) | 2);
    tr_u8(t, (wide ? 0x80u : 0) | (~(u32)H_TEMP2 & 15) << 3 | 3);
    tr_u8(t, 0xf7);
    tr_u8(t, 0xc0 | (to & 7) << 3 | (from & 7));
}

u32 tr_jcc(struct soft_tr *t, u32 cond) {
    tr_u8(t, 0x0f);
    tr_u8(t, 0x80 | cond);
    tr_u32(t, 0);
    return t->used - 4;
}

u32 tr_jcxz(struct soft_tr *t, bool narrow) {
    if (narrow) {
        tr_u8(t, 0x67);
    }
    tr_u8(t, 0xe3); /* over the next */
    tr_u8(t, 2);
    tr_u8(t, 0xeb);
    tr_u8(t, 5);
    return tr_jmp(t);
}

u32 tr_jmp(struct soft_tr *t) {
    tr_u8(t, 0xe9);
    tr_u32(t, 0);
    return t->used - 4;
}

void tr_jmp_gs(struct soft_tr *t, size_t offset) {
    tr_gs(t, false, 0xff, 4, offset);
}

void tr_fix_here(struct soft_tr *t, u32 at) {
    t->look_held = false;
    tr_fix(t, at, t->used);
}

void tr_fix(struct soft_tr *t, u32 at, u32 to) {
    u32 rel = to - (at + 4);
    memcpy(t->code.rw + at, &rel, 4);
}
