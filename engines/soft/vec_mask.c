/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector instructions that touch memory element by element, or that leave memory out of it when a
 * mask says so: masked moves and gathers (Intel SDM volume 2, VMASKMOV, VPMASKMOV, VGATHER...,
 * MASKMOVQ, MASKMOVDQU), and VZEROALL, VZEROUPPER, whose reach depends on the mode.
 *
 * Elements that the mask leaves out are never touched, so they never fault. A gather that faults
 * keeps what it has loaded, with the mask elements of the loaded ones cleared: the restart goes on
 * from there. Masked stores probe every element before the first byte is written.
 */
#include "engines/soft/vec.h"

/* --- registers as bytes ------------------------------------------------------------------------
 */

/* Byte at of vector register n; elements of 1..8 bytes never straddle the halves. */
static u8 *reg_at(struct soft_vcpu *c, u32 n, u32 at) {
    return at < 16 ? vec_xmm(c, n) + at : vec_ymmh(c, n) + (at - 16);
}

static void reg_read(struct soft_vcpu *c, u32 n, u8 *out) {
    memcpy(out, vec_xmm(c, n), 16);
    memcpy(out + 16, vec_ymmh(c, n), 16);
}

static void reg_write(struct soft_vcpu *c, u32 n, const u8 *in) {
    memcpy(vec_xmm(c, n), in, 16);
    memcpy(vec_ymmh(c, n), in + 16, 16);
}

static u32 modrm_reg(const struct insn *i) {
    return (i->rex & 4u) << 1 | (i->modrm >> 3 & 7u);
}

static u64 cut(u64 v, u32 addrsize) {
    return addrsize == 8 ? v : addrsize == 4 ? (u32)v : (u16)v;
}

static bool mask_set(const u8 *mask, u32 at, u32 size) {
    return mask[at + size - 1] >> 7;
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ --------------------------------------------
 */

static u32 vector_bytes(const struct insn *i) {
    return i->vex_l ? 32 : 16;
}

/* The operand is one: its elements wrap round 4 GiB, but not round the end of 16-bit addresses. */
static u64 element_linear(struct soft_vcpu *c, const struct uop *u, u64 ea, u32 at, u32 size,
                          enum access access) {
    u64 offset = c->mode == 64 ? ea + at : (u32)(ea + at);
    return soft_linear(c, u->seg, offset, size, access);
}

static void mask_load(struct soft_vcpu *c, const struct uop *u) {
    u8 mask[32], data[32] = {0};
    u32 size = u->opsize, bytes = vector_bytes(u->insn);
    u64 ea = soft_ea(c, u);
    reg_read(c, u->src2, mask);
    vec_align_off(c);
    for (u32 at = 0; at < bytes; at += size) {
        if (mask_set(mask, at, size)) {
            u64 linear = element_linear(c, u, ea, at, size, ACCESS_READ);
            u64 v = soft_lin_load(c, linear, size, c->mmu);
            memcpy(data + at, &v, size);
        }
    }
    vec_align_on(c);
    reg_write(c, u->dst, data);
    NEXT(c, u);
}

static void mask_store(struct soft_vcpu *c, const struct uop *u) {
    u8 mask[32], data[32];
    u64 linear[8] = {0};
    u32 size = u->opsize, bytes = vector_bytes(u->insn);
    u64 ea = soft_ea(c, u);
    reg_read(c, u->src2, mask);
    reg_read(c, u->dst, data);
    vec_align_off(c);
    for (u32 at = 0; at < bytes; at += size) {
        if (mask_set(mask, at, size)) {
            linear[at / size] = element_linear(c, u, ea, at, size, ACCESS_WRITE);
            soft_lin_probe(c, linear[at / size], size, ACCESS_WRITE, c->mmu);
        }
    }
    for (u32 at = 0; at < bytes; at += size) {
        if (mask_set(mask, at, size)) {
            soft_lin_write(c, linear[at / size], data + at, size, c->mmu);
        }
    }
    vec_align_on(c);
    NEXT(c, u);
}

/* --- MASKMOVQ, MASKMOVDQU: bytes to DS:rDI -----------------------------------------------------
 */

static void mask_bytes(struct soft_vcpu *c, const struct uop *u, const u8 *data, const u8 *mask,
                       u32 n) {
    u64 linear[16] = {0};
    u64 base = c->s.gpr[GPR_RDI];
    for (u32 at = n; at > 0; at -= 8) { /* whatever the mask says; the upper half first */
        u64 part = soft_linear(c, u->seg, cut(base + at - 8, u->addrsize), 8, ACCESS_WRITE);
        soft_lin_probe(c, part, 8, ACCESS_WRITE, c->mmu);
    }
    for (u32 at = 0; at < n; at++) {
        if (mask[at] & 0x80) {
            linear[at] = soft_linear(c, u->seg, cut(base + at, u->addrsize), 1, ACCESS_WRITE);
            soft_lin_probe(c, linear[at], 1, ACCESS_WRITE, c->mmu);
        }
    }
    for (u32 at = 0; at < n; at++) {
        if (mask[at] & 0x80) {
            soft_lin_store(c, linear[at], 1, data[at], c->mmu);
        }
    }
}

static void maskmovdqu(struct soft_vcpu *c, const struct uop *u) {
    u8 data[16], mask[16];
    memcpy(data, vec_xmm(c, u->dst), 16);
    memcpy(mask, vec_xmm(c, u->src), 16);
    mask_bytes(c, u, data, mask, 16);
    NEXT(c, u);
}

/* As each MMX instruction it makes all x87 registers valid and TOP 0. The registers are numbered
 * physically, the image from the top of the stack: turning TOP to 0 turns the image. */
static void mmx_enter(u8 *x) {
    u8 st[128];
    u32 top = get16(x + XS_FSW) >> 11 & 7;
    memcpy(st, x + XS_ST, sizeof(st));
    for (u32 n = 0; n < 8; n++) {
        memcpy(x + XS_ST + 16 * ((n + top) & 7), st + 16 * n, 16);
    }
    put16(x + XS_FSW, get16(x + XS_FSW) & (u16)~0x3800);
    x[XS_FTW] = 0xff;
}

static void maskmovq(struct soft_vcpu *c, const struct uop *u) {
    u8 data[8], mask[8], *x = c->s.xsave;
    soft_vec_leave(c);
    if (get16(x + XS_FSW) & 0x80) {
        soft_fault(c, EXC_MF, false, 0);
    }
    u32 top = get16(x + XS_FSW) >> 11 & 7;
    memcpy(data, x + XS_ST + 16 * ((u->dst + 8 - top) & 7), 8);
    memcpy(mask, x + XS_ST + 16 * ((u->src + 8 - top) & 7), 8);
    mask_bytes(c, u, data, mask, 8);
    mmx_enter(x);
    NEXT(c, u);
}

/* --- gathers -----------------------------------------------------------------------------------
 */

struct gather {
    u32 index_size, size, count;
    u32 dst, mask;
    u64 base;
    u8 index[32];
};

static u64 gather_offset(const struct gather *g, const struct uop *u, u32 n) {
    s64 index;
    if (g->index_size == 4) {
        index = (s32)get32(g->index + 4 * n);
    } else {
        index = (s64)get64(g->index + 8 * n);
    }
    u64 offset = g->base + ((u64)index << u->scale_shift) + (u64)(s64)u->insn->mem.disp;
    return cut(offset, u->addrsize);
}

/* With XMM registers the first element that is loaded clears the upper half of the destination: a
 * fault in a later one shows that. The manual leaves it open; this is what the processor does. */
static void gather_element(struct soft_vcpu *c, const struct uop *u, const struct gather *g,
                           u32 n) {
    u64 linear = soft_linear(c, u->seg, gather_offset(g, u, n), g->size, ACCESS_READ);
    u64 v = soft_lin_load(c, linear, g->size, c->mmu);
    memcpy(reg_at(c, g->dst, n * g->size), &v, g->size);
    if (!u->insn->vex_l) {
        memset(vec_ymmh(c, g->dst), 0, 16);
    }
}

/* What the processor does first, and what a fault in the first element already shows: each mask
 * element becomes its sign, and with XMM registers the upper halves become 0. */
static void gather_mask(struct soft_vcpu *c, const struct gather *g, u32 bytes) {
    for (u32 at = 0; at < bytes; at += g->size) {
        u8 *mask = reg_at(c, g->mask, at);
        memset(mask, mask[g->size - 1] >> 7 ? 0xff : 0, g->size);
    }
    if (bytes == 16) {
        memset(vec_ymmh(c, g->mask), 0, 16);
    }
}

static void gather_elements(struct soft_vcpu *c, const struct uop *u, const struct gather *g) {
    for (u32 n = 0; n < g->count; n++) {
        u8 *mask = reg_at(c, g->mask, n * g->size);
        if (mask[g->size - 1] >> 7) {
            gather_element(c, u, g, n);
        }
        memset(mask, 0, g->size);
    }
}

static void gather(struct soft_vcpu *c, const struct uop *u) {
    const struct insn *i = u->insn;
    struct gather g = {
        .index_size = i->opcode & 1 ? 8 : 4,
        .size = i->rex & 8 ? 8 : 4,
        .dst = u->dst,
        .mask = u->src2,
        .base = u->base == MEM_NONE ? 0 : c->s.gpr[u->base & 15],
    };
    g.count = vector_bytes(i) / MAX(g.index_size, g.size);
    reg_read(c, u->src, g.index);
    gather_mask(c, &g, vector_bytes(i));
    vec_align_off(c);
    gather_elements(c, u, &g);
    vec_align_on(c);
    for (u32 at = g.count * g.size; at < 32; at += 4) {
        memset(reg_at(c, g.dst, at), 0, 4);
    }
    memset(vec_xmm(c, g.mask), 0, 16);
    memset(vec_ymmh(c, g.mask), 0, 16);
    NEXT(c, u);
}

static void gather_ud(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_ud(c);
}

/* --- VZEROALL, VZEROUPPER ----------------------------------------------------------------------
 */

static void vzero(struct soft_vcpu *c, const struct uop *u) {
    u32 bytes = u->insn->mode == 64 ? 256 : 128; /* registers 8..15 are out of reach */
    memset(vec_ymmh(c, 0), 0, bytes);
    if (u->insn->vex_l) {
        memset(vec_xmm(c, 0), 0, bytes);
    }
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

static void bind_gather(struct bind *b) {
    struct uop *u = b->uop;
    const struct insn *i = b->insn;
    u->dst = (u8)modrm_reg(i);
    u->src = i->mem.index & 15;
    u->src2 = i->vex_v & 15;
    u->base = i->mem.base;
    u->scale_shift = (u8)(i->mem.scale == 8 ? 3 : i->mem.scale >> 1);
    bool clash = u->dst == u->src || u->dst == u->src2 || u->src == u->src2;
    u->fn = clash || u->addrsize == 2 ? gather_ud : gather;
}

static void bind_masked(struct bind *b, u8 size, bool store) {
    struct uop *u = b->uop;
    u->dst = (u8)modrm_reg(b->insn);
    u->src2 = b->insn->vex_v & 15;
    u->opsize = size;
    u->fn = store ? mask_store : mask_load;
}

static void bind_bytes(struct bind *b, bool mmx) {
    struct uop *u = b->uop;
    const struct insn *i = b->insn;
    u->dst = (u8)modrm_reg(i);
    u->src = (u8)((i->rex & 1) << 3 | (i->modrm & 7));
    u->seg = i->mem.seg_override ? i->mem.seg : SEG_DS;
    u->addrsize = i->addrsize;
    if (mmx) {
        u->dst &= 7;
        u->src &= 7;
    }
    u->fn = mmx ? maskmovq : maskmovdqu;
}

bool vec_bind_mask(struct bind *b) {
    const struct insn *i = b->insn;
    switch (i->id) {
    case INSN_VMASKMOVPS:
        bind_masked(b, 4, i->opcode == 0x2e);
        return true;
    case INSN_VMASKMOVPD:
        bind_masked(b, 8, i->opcode == 0x2f);
        return true;
    case INSN_VPMASKMOVD:
        bind_masked(b, 4, i->opcode == 0x8e);
        return true;
    case INSN_VPMASKMOVQ:
        bind_masked(b, 8, i->opcode == 0x8e);
        return true;
    case INSN_MASKMOVQ:
    case INSN_MASKMOVDQU:
    case INSN_VMASKMOVDQU:
        bind_bytes(b, i->id == INSN_MASKMOVQ);
        return true;
    case INSN_VZEROALL:
    case INSN_VZEROUPPER:
        b->uop->fn = vzero;
        return true;
    default:
        if (i->mem.vsib && i->enc == ENC_VEX) {
            bind_gather(b);
            return true;
        }
        return false;
    }
}
