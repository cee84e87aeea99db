/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory operands in generated code: the linear address, the inline look into the translation cache
 * (tlb.h), and stack instructions. A look that fails goes to a late piece that calls tr_miss_call
 * and then computes the address again.
 */
#include "engines/soft/tr.h"

void tr_load_gpr(struct soft_tr *t, u32 guest) {
    if (tr_in_memory(guest)) {
        tr_gs_load(t, guest, tr_gpr(guest));
    }
}

static u32 scale_bits(u32 scale) {
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

/* lea H_ADDR, [base + index * scale + disp]; base or index may be missing */
static void lea_address(struct soft_tr *t, const struct insn *insn, u32 to) {
    const struct insn_mem *m = &insn->mem;
    bool has_base = m->base != MEM_NONE, has_index = m->index != MEM_NONE;
    s32 disp = (s32)m->disp;
    u32 base = has_base ? m->base : 5u, index = has_index ? m->index : 4u;
    bool byte = has_base && disp == (s8)disp;
    u32 rex = 0x40 | (to & 8) >> 1 | (insn->addrsize == 8 ? 8u : 0) |
              (has_index ? (index & 8) >> 2 : 0) | (has_base ? (base & 8) >> 3 : 0);
    tr_u8(t, rex);
    tr_u8(t, 0x8d);
    tr_u8(t, (!has_base ? 0u : byte ? 0x40u : 0x80u) | (to & 7) << 3 | 4);
    tr_u8(t, scale_bits(has_index ? m->scale : 1) << 6 | (index & 7) << 3 | (base & 7));
    if (byte) {
        tr_u8(t, (u32)disp);
    } else {
        tr_u32(t, (u32)disp);
    }
}

/* The offset in the segment to a register. */
void tr_offset(struct soft_tr *t, const struct insn *insn, u64 rip, u32 to) {
    const struct insn_mem *m = &insn->mem;
    u64 mask = insn->addrsize == 8 ? UINT64_MAX : UINT32_MAX;
    if (m->base == MEM_RIP) {
        tr_imm(t, to, (rip + insn->len + (u64)m->disp) & mask);
    } else if (m->base == MEM_NONE && m->index == MEM_NONE) {
        tr_imm(t, to, (u64)m->disp & mask);
    } else {
        if (m->base != MEM_NONE) {
            tr_load_gpr(t, m->base);
        }
        if (m->index != MEM_NONE && m->index != m->base) {
            tr_load_gpr(t, m->index);
        }
        lea_address(t, insn, to);
    }
}

void tr_address(struct soft_tr *t, const struct insn *insn, u64 rip) {
    const struct insn_mem *m = &insn->mem;
    tr_offset(t, insn, rip, H_ADDR);
    if (m->seg == SEG_FS || m->seg == SEG_GS) {
        tr_gs(t, true, 0x03, H_ADDR,
              C_OFF(s.seg) + m->seg * sizeof(struct segment) + offsetof(struct segment, base));
    }
}

void tr_check(struct soft_tr *t, const struct tr_insn *i, u32 back, u32 size, bool write) {
    u32 exit = tr_exit_new(t, TR_MISS, i->rip);
    t->exits[exit].size = (u16)size;
    t->exits[exit].access = write ? ACCESS_WRITE : ACCESS_READ;
    t->exits[exit].len = (i->insn.flags & INSN_ALIGNED) || i->insn.id == INSN_CMPXCHG16B;
    tr_rr(t, false, 0x89, H_ADDR, H_TEMP); /* mov r14d, r15d */
    tr_rr(t, false, 0xc1, 5, H_TEMP);      /* shr r14d, 7 */
    tr_u8(t, PAGE_SHIFT - 5);
    tr_rr(t, false, 0x81, 4, H_TEMP); /* and r14d, index * 32 */
    tr_u32(t, (TLB_SIZE - 1) << 5);
    tr_gs(t, true, 0x03, H_TEMP, C_OFF(dtlb));
    if (size == 1) {
        tr_rr(t, true, 0x89, H_ADDR, H_TEMP2);
    } else {
        tr_rm(t, true, 0x8d, H_TEMP2, H_ADDR, (s32)size - 1);
    }
    tr_rr(t, true, 0x81, 4, H_TEMP2); /* and r13, -4096 */
    tr_u32(t, ~(u32)PAGE_MASK);
    tr_rm(t, true, 0x3b, H_TEMP2, H_TEMP,
          write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read));
    u32 from = tr_jcc(t, 5);
    tr_rm(t, true, 0x03, H_ADDR, H_TEMP, offsetof(struct tlb_entry, addend));
    tr_late_new(t, LATE_MISS, exit, from, back);
}

void tr_operand(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write) {
    tr_flags_clobber(t, i->live_in);
    u32 back = t->used;
    tr_address(t, &i->insn, i->rip);
    tr_check(t, i, back, size, write);
}

/* --- stacks ------------------------------------------------------------------------------------
 */

void tr_stack_operand(struct soft_tr *t, const struct tr_insn *i, s32 disp, u32 size, bool write) {
    tr_flags_clobber(t, i->live_in);
    u32 back = t->used;
    tr_rm(t, true, 0x8d, H_ADDR, GPR_RSP, disp);
    tr_check(t, i, back, size, write);
}

static void move_rsp(struct soft_tr *t, s32 by) {
    tr_rm(t, true, 0x8d, GPR_RSP, GPR_RSP, by);
}

static void push_one(struct soft_tr *t, const struct tr_insn *i, u32 done, s32 at) {
    const struct insn_operand *op = &i->insn.op[0];
    if (op->kind == OPERAND_IMM) {
        tr_rm(t, true, 0xc7, 0, H_ADDR, at);
        tr_u32(t, (u32)i->insn.imm);
        return;
    }
    u32 reg = op->reg;
    if (reg == GPR_RSP) { /* as it was before this push */
        tr_rm(t, true, 0x8d, H_TEMP, GPR_RSP, -8 * (s32)done);
        reg = H_TEMP;
    } else if (tr_in_memory(reg)) {
        tr_gs_load(t, H_TEMP, tr_gpr(reg));
        reg = H_TEMP;
    }
    tr_rm(t, true, 0x89, reg, H_ADDR, at);
}

static void pop_one(struct soft_tr *t, const struct tr_insn *i, s32 at) {
    u32 reg = i->insn.op[0].reg, host = tr_in_memory(reg) ? (u32)H_TEMP : reg;
    tr_rm(t, true, 0x8b, host, H_ADDR, at);
    if (tr_in_memory(reg)) {
        tr_gs_store(t, host, tr_gpr(reg));
    }
}

u32 tr_push_pop(struct soft_tr *t, u32 at) {
    const struct tr_insn *first = &t->trace[at];
    bool push = first->class == CLASS_PUSH;
    u32 n = 1;
    while (at + n < t->trace_len && n < 15 && first[n].class == first->class) {
        n++;
    }
    tr_stack_operand(t, first, push ? -8 * (s32)n : 0, 8 * n, push);
    t->exits[t->exit_count - 1].unjoined = push ? 8 * (n - 1) : 0;
    for (u32 k = 0; k < n; k++) {
        if (push) {
            push_one(t, &first[k], k, 8 * (s32)(n - 1 - k));
        } else {
            pop_one(t, &first[k], 8 * (s32)k);
        }
    }
    move_rsp(t, push ? -8 * (s32)n : 8 * (s32)n);
    return n;
}

void tr_push_mem(struct soft_tr *t, const struct tr_insn *i) {
    tr_operand(t, i, 8, false);
    tr_rm(t, true, 0x8b, H_TEMP, H_ADDR, 0);
    tr_gs_store(t, H_TEMP, C_OFF(tr_temp));
    tr_stack_operand(t, i, -8, 8, true);
    tr_gs_load(t, H_TEMP, C_OFF(tr_temp));
    tr_rm(t, true, 0x89, H_TEMP, H_ADDR, 0);
    move_rsp(t, -8);
}

/* The return address to the stack. */
void tr_stack_call(struct soft_tr *t, const struct tr_insn *i, bool value_in_temp) {
    (void)value_in_temp;
    tr_stack_operand(t, i, -8, 8, true);
    tr_imm(t, H_TEMP, i->rip + i->insn.len);
    tr_rm(t, true, 0x89, H_TEMP, H_ADDR, 0);
    move_rsp(t, -8);
}

void tr_leave(struct soft_tr *t, const struct tr_insn *i) {
    tr_flags_clobber(t, i->live_in);
    u32 back = t->used;
    tr_rr(t, true, 0x89, GPR_RBP, H_ADDR);
    tr_check(t, i, back, 8, false);
    tr_rm(t, true, 0x8d, GPR_RSP, GPR_RBP, 8);
    tr_rm(t, true, 0x8b, GPR_RBP, H_ADDR, 0);
}
