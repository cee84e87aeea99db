/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a decoded instruction to micro-operations: asks each family in turn, prepares the address of
 * integer handlers, refuses what the CPU policy does not offer.
 *
 * Addresses: where the segment cannot matter (64-bit mode, flat 32-bit segments) an operand is base
 * + index * scale + displacement + segment base, each read at a byte offset into struct soft_vcpu.
 * All other operands get uop_linear in front, which leaves a checked linear address in c->linear.
 */
#include "core/cpu/cpuid.h"
#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/int.h"

#define OFFSET(member) ((u16)offsetof(struct soft_vcpu, member))

static u16 gpr_offset(u8 r) {
    return (u16)(offsetof(struct soft_vcpu, s.gpr) + r * sizeof(u64));
}

/* of 1, 2, 4 or 8 */
static u8 log2_of(u8 scale) {
    return (u8)((scale >> 1) - (scale >> 3));
}

static void fill(struct uop *u, const struct insn *insn, u32 offset) {
    *u = (struct uop){
        .imm = insn->imm,
        .disp = (s32)insn->mem.disp,
        .offset = (u16)offset,
        .len = insn->len,
        .opsize = insn->opsize,
        .base = insn->mem.base,
        .index = insn->mem.index,
        .scale_shift = log2_of(insn->mem.scale),
        .seg = insn->mem.seg,
        .addrsize = insn->addrsize,
        .base_off = OFFSET(zero),
        .index_off = OFFSET(zero),
        .seg_off = OFFSET(zero),
    };
}

/* Can the operand's address be used without looking at its segment? */
static bool is_simple(const struct soft_vcpu *c, const struct bind *b) {
    const struct insn_mem *m = &b->insn->mem;
    s64 disp = m->disp + (m->base == MEM_RIP ? b->uop->offset + b->uop->len : 0);
    if (m->disp_size == 8 || disp != (s32)disp) {
        return false;
    }
    if (c->mode == 64) {
        return b->insn->addrsize == 8;
    }
    bool flat = m->seg <= SEG_DS && (m->seg != SEG_CS || b->access == ACCESS_READ);
    return c->mode == 32 && c->seg_flat && b->insn->addrsize == 4 && flat;
}

static void address_simple(struct uop *u, const struct insn_mem *m, bool long_mode) {
    if (m->base == MEM_RIP) {
        u->base_off = OFFSET(block_rip);
        u->disp += u->offset + u->len;
    } else if (m->base != MEM_NONE) {
        u->base_off = gpr_offset(m->base);
    }
    if (m->index != MEM_NONE) {
        u->index_off = gpr_offset(m->index);
    }
    if (long_mode && (m->seg == SEG_FS || m->seg == SEG_GS)) {
        u->seg_off = (u16)(offsetof(struct soft_vcpu, s.seg) + m->seg * sizeof(struct segment) +
                           offsetof(struct segment, base));
    }
}

/* Puts uop_linear in front of the operation in b->uop. */
static void address_checked(struct uop *first, const struct bind *b) {
    struct uop op = *first;
    first->fn = uop_linear;
    first->opsize = b->access_size;
    bool moffs = b->insn->mem.disp_size == 8;
    first->spare = (u16)(b->access | (moffs ? UOP_MOFFS : 0));
    first->imm = (u64)b->insn->mem.disp;
    op.base_off = OFFSET(linear);
    op.disp = 0;
    op.scale_shift = 0;
    first[1] = op;
}

static bool offered(const struct soft_vcpu *c, const struct insn *insn) {
    return !insn->cpuid || !(insn->cpuid & ~c->vm->ev->cpuid->features);
}

static void uop_privilege(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_gp(c, 0);
}

static void bind_others(struct bind *b) {
    b->uop->insn = soft_block_keep_insn(b->c, b->insn);
    b->uop->spare = UOP_KEPT;
    if (bind_system(b) || bind_string(b) || bind_vector(b)) {
        return;
    }
    b->uop->fn = uop_invalid;
    b->last = true;
}

u32 soft_bind(struct soft_vcpu *c, const struct insn *insn, u32 offset, struct uop *uop,
              bool *last) {
    struct bind b = {.c = c, .insn = insn, .uop = uop, .last = *last};
    u32 count = 1;
    fill(uop, insn, offset);
    if (!offered(c, insn)) {
        uop->fn = uop_invalid;
        b.last = true;
    } else if ((insn->flags & INSN_PRIVILEGED) && c->cpl != 0) {
        uop->fn = uop_privilege;
        b.last = true;
    } else if (!bind_integer(&b)) {
        bind_others(&b);
    } else if (b.linear) {
        if (is_simple(c, &b)) {
            address_simple(uop, &insn->mem, c->mode == 64);
        } else {
            address_checked(uop, &b);
            count = 2;
        }
    }
    *last = b.last;
    return count;
}

bool bind_integer(struct bind *b) {
    return bind_mov(b) || bind_alu(b) || bind_branch(b) || bind_stack(b) || bind_shift(b) ||
           bind_bit(b) || bind_muldiv(b) || bind_misc(b);
}
