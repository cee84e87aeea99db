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
        if (t->floats) { /* + tr_delta, keeping flags */
            struct tr_at sum = {.base = (u8)to, .index = H_TEMP2};
            tr_gs_load(t, H_TEMP2, C_OFF(tr_delta));
            tr_mem(t, insn->addrsize == 8, 0x8d, to, &sum);
        }
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

u32 tr_seg_base(struct soft_tr *t, const struct insn *insn) {
    u32 seg = insn->mem.seg;
    if (seg != SEG_FS && seg != SEG_GS) {
        return 0;
    }
    tr_gs(t, tr_wide(t), 0x03, H_ADDR,
          C_OFF(s.seg) + seg * sizeof(struct segment) + offsetof(struct segment, base));
    if (tr_wide(t)) {
        return 0;
    }
    tr_gs(t, false, 0x80, 7, C_OFF(seg_open) + seg); /* cmp, 0 */
    tr_u8(t, 0);
    return tr_jcc(t, 4);
}

u32 tr_address(struct soft_tr *t, const struct insn *insn, u64 rip) {
    tr_offset(t, insn, rip, H_ADDR);
    return tr_seg_base(t, insn);
}

/* --- looks -------------------------------------------------------------------------------------
 */

enum {
    LOOK_READ = offsetof(struct look_set, read) - LOOK_BIAS,
    LOOK_WRITE = offsetof(struct look_set, write) - LOOK_BIAS,
    LOOK_ADDEND = offsetof(struct look_set, addend) - LOOK_BIAS,
};

/* H_TEMP2 = c->look; it may be there from the look before, and is behind STUB_MISS and STUB_STEP.
 */
static void load_table(struct soft_tr *t) {
    if (!t->look_held) {
        tr_gs_load(t, H_TEMP2, C_OFF(look));
        t->look_held = true;
    }
}

static s32 tags(bool write) {
    return write ? (s32)LOOK_WRITE : (s32)LOOK_READ;
}

static struct tr_exit *miss_new(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write) {
    struct tr_exit *e = &t->exits[tr_exit_new(t, TR_MISS, i->rip)];
    t->run.looks++;
    e->ea_disp = 0;
    e->after = 0;
    e->go_on = 0;
    e->first = e->count = 0;
    e->size = (u16)size;
    e->access = write ? ACCESS_WRITE : ACCESS_READ;
    e->len = (i->insn.flags & INSN_ALIGNED) || i->insn.id == INSN_CMPXCHG16B ? (u8)size : 0;
    return e;
}

/* FS and GS of 32-bit code that are not open (soft.h): the miss of the look just made sees to them.
 */
void tr_seg_odd(struct soft_tr *t, const struct insn *i, u32 from) {
    if (from) {
        t->late[t->late_count - 1].from[1] = from;
        t->exits[t->exit_count - 1].entry = i->mem.seg;
    }
}

/* jne to the late piece that makes the translation and then goes on at back */
static void miss_jump(struct soft_tr *t, const struct tr_exit *e, u32 back) {
    tr_late_new(t, LATE_MISS, (u32)(e - t->exits), tr_jcc(t, 5), back);
}

/* jrcxz over the jump to such a piece */
static void miss_unless_zero(struct soft_tr *t, const struct tr_exit *e, u32 back) {
    tr_u8(t, 0xe3);
    tr_u8(t, 5);
    tr_late_new(t, LATE_MISS, (u32)(e - t->exits), tr_jmp(t), back);
}

static void lea(struct soft_tr *t, bool wide, u32 to, struct tr_at at, s32 more) {
    at.disp += more;
    if (at.index == MEM_NONE && !at.disp) {
        tr_rr(t, wide, 0x89, at.base, to);
    } else {
        tr_mem(t, wide, 0x8d, to, &at);
    }
}

/* The tag of the last byte's page in reg, from its address. */
static void last_tag(struct soft_tr *t, u32 reg) {
    tr_rr(t, true, 0x81, 1, reg); /* or */
    tr_u32(t, PAGE_MASK);
}

static struct tr_exit *miss_regs(struct soft_tr *t, const struct tr_insn *i, const struct tr_at *ea,
                                 u32 size, bool write) {
    struct tr_exit *e = miss_new(t, i, size, write);
    e->ea_how = (u8)(EA_REGS | ea->shift << 2 | (ea->index == MEM_NONE ? 0 : EA_INDEX));
    e->ea_regs = (u8)((ea->base & 15) | (ea->index == MEM_NONE ? 0 : ea->index << 4));
    e->ea_disp = ea->disp;
    return e;
}

enum { KEEP_ROOM = 4 * PAGE_SIZE }; /* for what look_keep adds to a displacement */

/*
 * Guest registers only, and RFLAGS stays as it is. RCX is the only register that can be tested; it
 * is in r15 meanwhile.
 *
 *   mov r13, table; mov r15, rcx; r14d = address >> 12
 *   rcx = (last byte + ~tag + 0x1000) >> 12     ~tag is -(page + 0x1000): 0 when it is in the page
 *   rcx == 0? mov rcx, r15; r14 = addend
 */
static struct tr_exit *look_keep(struct soft_tr *t, const struct tr_insn *i, const struct tr_at *ea,
                                 u32 size, bool write) {
    u32 back = t->used;
    struct tr_exit *e = miss_regs(t, i, ea, size, write);
    struct tr_at slot = {.base = H_TEMP2, .index = H_TEMP, .shift = 3, .disp = tags(write)};
    struct tr_at last = *ea;
    e->ea_how |= EA_KEPT;
    last.base = ea->base == GPR_RCX ? (u8)H_ADDR : ea->base;
    last.disp += (s32)size - 1 + (s32)PAGE_SIZE;
    load_table(t);
    tr_rr(t, true, 0x89, GPR_RCX, H_ADDR);
    if (ea->index == MEM_NONE && !ea->disp) {
        tr_shr_page(t, false, H_TEMP, ea->base);
    } else {
        lea(t, false, H_TEMP, *ea, 0);
        tr_shr_page(t, false, H_TEMP, H_TEMP);
    }
    tr_mem(t, true, 0x8b, GPR_RCX, &slot);
    tr_rr(t, true, 0xf7, 2, GPR_RCX); /* not */
    if (ea->index != MEM_NONE) {
        struct tr_at index = {.base = GPR_RCX, .shift = ea->shift, .disp = last.disp};
        index.index = ea->index == GPR_RCX ? (u8)H_ADDR : ea->index;
        lea(t, true, GPR_RCX, index, 0);
        last.disp = 0;
    }
    last.index = GPR_RCX;
    last.shift = 0;
    lea(t, true, GPR_RCX, last, 0);
    tr_shr_page(t, true, GPR_RCX, GPR_RCX);
    miss_unless_zero(t, e, back);
    tr_rr(t, true, 0x89, H_ADDR, GPR_RCX);
    slot.disp = LOOK_ADDEND;
    tr_mem(t, true, 0x8b, H_TEMP, &slot);
    return e;
}

/*
 * Guest registers only: critical is base -> index -> addend -> access, all else is beside it.
 *
 *   mov r13, table; r14d = address >> 12; r15 = last byte | fff; r15 == tag? r14 = addend
 */
static struct tr_exit *look_regs(struct soft_tr *t, const struct tr_insn *i, const struct tr_at *ea,
                                 u32 size, bool write) {
    u32 back = t->used;
    if (t->keeping) {
        return look_keep(t, i, ea, size, write);
    }
    struct tr_exit *e = miss_regs(t, i, ea, size, write);
    struct tr_at slot = {.base = H_TEMP2, .index = H_TEMP, .shift = 3, .disp = tags(write)};
    load_table(t);
    if (ea->index == MEM_NONE && !ea->disp) {
        tr_shr_page(t, false, H_TEMP, ea->base);
    } else {
        lea(t, false, H_TEMP, *ea, 0);
        tr_rr(t, false, 0xc1, 5, H_TEMP); /* shr */
        tr_u8(t, PAGE_SHIFT);
    }
    lea(t, true, H_ADDR, *ea, (s32)size - 1);
    last_tag(t, H_ADDR);
    tr_mem(t, true, 0x3b, H_ADDR, &slot);
    miss_jump(t, e, back);
    slot.disp = LOOK_ADDEND;
    tr_mem(t, true, 0x8b, H_TEMP, &slot);
    return e;
}

/* The operand of i, at *ea by guest registers, in its group (tr_group.c). */
static void look_group(struct soft_tr *t, const struct tr_insn *i, const struct tr_at *ea, u32 size,
                       struct tr_at *at) {
    const struct tr_group *g = &t->group[i->group];
    size_t slot = C_OFF(tr_addend) + 8 * (i->group - 1u);
    if (i->reload) {
        tr_gs_load(t, H_TEMP, slot);
    } else if (!i->found) {
        struct tr_at low = *ea;
        low.disp -= g->off - g->lo;
        struct tr_exit *e = look_regs(t, i, &low, (u32)(g->hi - g->lo), g->write);
        e->first = (u8)(g->first - g->lo);
        e->len = e->len ? (u8)size : 0;
        e->ea_how |= (u8)(EA_GROUP | (g->write && g->quiet ? EA_QUIET : 0));
        if (g->spill) {
            tr_gs_store(t, H_TEMP, slot);
        }
    }
    *at = *ea;
    if (ea->index != MEM_NONE) {
        lea(t, true, H_ADDR, *ea, 0);
        *at = (struct tr_at){.base = H_ADDR};
    }
    at->index = H_TEMP;
}

/* A constant address, in one page: its slot is known. */
static void look_const(struct soft_tr *t, const struct tr_insn *i, u64 linear, u32 size, bool write,
                       struct tr_at *at) {
    u32 back = t->used;
    struct tr_exit *e = miss_new(t, i, size, write);
    s32 slot = (s32)((u32)linear >> PAGE_SHIFT) * 8;
    e->ea_how = EA_CONST;
    e->ea_disp = (s32)(linear & PAGE_MASK);
    load_table(t);
    tr_imm(t, H_ADDR, linear | PAGE_MASK);
    tr_rm(t, true, 0x3b, H_ADDR, H_TEMP2, slot + tags(write));
    miss_jump(t, e, back);
    tr_rm(t, true, 0x8b, H_TEMP, H_TEMP2, slot + (s32)LOOK_ADDEND);
    *at = (struct tr_at){.base = H_ADDR, .index = H_TEMP, .disp = e->ea_disp - (s32)PAGE_MASK};
}

/* H_ADDR: the linear address, and stays it; H_TEMP: the addend */
static void look_r15(struct soft_tr *t, const struct tr_insn *i, u32 back, u32 size, bool write) {
    struct tr_exit *e = miss_new(t, i, size, write);
    struct tr_at slot = {.base = H_TEMP2, .index = H_TEMP, .shift = 3};
    e->ea_how = EA_R15;
    load_table(t);
    tr_shr_page(t, false, H_TEMP, H_ADDR);
    tr_mem(t, true, 0x8d, H_TEMP2, &slot);
    lea(t, true, H_TEMP, (struct tr_at){.base = H_ADDR, .index = MEM_NONE}, (s32)size - 1);
    last_tag(t, H_TEMP);
    tr_rm(t, true, 0x3b, H_TEMP, H_TEMP2, tags(write));
    miss_jump(t, e, back);
    tr_rm(t, true, 0x8b, H_TEMP, H_TEMP2, LOOK_ADDEND);
}

void tr_check(struct soft_tr *t, const struct tr_insn *i, u32 back, u32 size, bool write) {
    look_r15(t, i, back, size, write);
    tr_rr(t, true, 0x01, H_TEMP, H_ADDR);
}

/* Before a look for i: it keeps flags, or they are saved, or follow from registers. */
static void look_flags(struct soft_tr *t, const struct tr_insn *i) {
    bool here = i->live_in && !t->saved && !t->lost && !i->found;
    t->keeping = here && tr_look_may_keep(t, i) && !tr_flags_recipe(t) &&
                 tr_flags_ahead(t, (u32)(i - t->trace)) != FLAGS_SAVE;
    if (!t->keeping && !i->found) {
        tr_flags_clobber(t, i->live_in);
    }
}

void tr_look_base(struct soft_tr *t, const struct tr_insn *i, u32 base, s32 disp, u32 size,
                  bool write, struct tr_at *at) {
    *at = (struct tr_at){.base = (u8)base, .index = MEM_NONE, .disp = disp};
    look_flags(t, i);
    if (i->group) {
        struct tr_at ea = *at;
        look_group(t, i, &ea, size, at);
        return;
    }
    if (tr_wide(t)) {
        look_regs(t, i, at, size, write);
    } else {
        u32 back = t->used;
        lea(t, false, H_ADDR, *at, 0);
        look_r15(t, i, back, size, write);
        *at = (struct tr_at){.base = H_ADDR};
    }
    at->index = H_TEMP;
}

/* Is the operand's address a sum of guest registers that have host registers? */
static bool plain_regs(const struct insn *insn, u32 size) {
    const struct insn_mem *m = &insn->mem;
    bool seg = m->seg == SEG_FS || m->seg == SEG_GS;
    bool base = m->base != MEM_NONE && m->base != MEM_RIP && !tr_in_memory(m->base);
    bool index = m->index == MEM_NONE || !tr_in_memory(m->index);
    bool room = m->disp + (s64)size <= INT32_MAX && m->disp >= INT32_MIN;
    return !seg && base && index && room && insn->addrsize == 8;
}

static bool const_address(const struct soft_tr *t, const struct insn *insn, u64 rip, u32 size,
                          u64 *linear) {
    const struct insn_mem *m = &insn->mem;
    u64 mask = insn->addrsize == 8 ? UINT64_MAX : UINT32_MAX;
    bool known =
        (m->base == MEM_RIP && !t->floats) || (m->base == MEM_NONE && m->index == MEM_NONE);
    *linear = ((m->base == MEM_RIP ? rip + insn->len : 0) + (u64)m->disp) & mask;
    return known && m->seg != SEG_FS && m->seg != SEG_GS &&
           (*linear & PAGE_MASK) + size <= PAGE_SIZE;
}

bool tr_look_may_keep(const struct soft_tr *t, const struct tr_insn *i) {
    if (!tr_wide(t) || !t->host_bmi2) {
        return false;
    }
    switch (i->class) {
    case CLASS_PUSH:
    case CLASS_POP:
    case CLASS_LEAVE:
    case CLASS_CALL:
        return true;
    case CLASS_COPY:
        return insn_has_mem(&i->insn) && plain_regs(&i->insn, KEEP_ROOM);
    default:
        return false;
    }
}

void tr_look(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write, struct tr_at *at) {
    const struct insn_mem *m = &i->insn.mem;
    u64 linear;
    look_flags(t, i);
    if (const_address(t, &i->insn, i->rip, size, &linear)) {
        look_const(t, i, linear, size, write, at);
        return;
    }
    *at = (struct tr_at){.base = H_ADDR, .index = H_TEMP};
    if (!plain_regs(&i->insn, size)) {
        u32 back = t->used, odd = tr_address(t, &i->insn, i->rip);
        look_r15(t, i, back, size, write);
        tr_seg_odd(t, &i->insn, odd);
        return;
    }
    struct tr_at ea = {.base = m->base, .index = m->index, .disp = (s32)m->disp};
    ea.shift = m->index == MEM_NONE ? 0 : (u8)scale_bits(m->scale);
    if (i->group) {
        look_group(t, i, &ea, size, at);
        return;
    }
    look_regs(t, i, &ea, size, write);
    if (ea.index == MEM_NONE) {
        *at = (struct tr_at){.base = ea.base, .index = H_TEMP, .disp = ea.disp};
    } else {
        lea(t, true, H_ADDR, ea, 0);
    }
}

void tr_operand(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write) {
    struct tr_at at;
    tr_look(t, i, size, write, &at);
    tr_mem(t, true, 0x8d, H_ADDR, &at);
}

/* --- stacks ------------------------------------------------------------------------------------
 */

void tr_stack_operand(struct soft_tr *t, const struct tr_insn *i, s32 disp, u32 size, bool write) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RSP, disp, size, write, &at);
    tr_mem(t, true, 0x8d, H_ADDR, &at);
}

static void move_rsp(struct soft_tr *t, s32 by) {
    tr_rm(t, tr_wide(t), 0x8d, GPR_RSP, GPR_RSP, by);
}

static void push_one(struct soft_tr *t, const struct tr_insn *i, u32 done, const struct tr_at *at) {
    const struct insn_operand *op = &i->insn.op[0];
    if (op->kind == OPERAND_IMM) {
        tr_mem(t, tr_wide(t), 0xc7, 0, at);
        tr_u32(t, (u32)i->insn.imm);
        return;
    }
    u32 reg = op->reg;
    if (reg == GPR_RSP) { /* as it was before this push */
        tr_rm(t, tr_wide(t), 0x8d, H_TEMP2, GPR_RSP, -(s32)(tr_word(t) * done));
        reg = H_TEMP2;
    } else if (tr_in_memory(reg)) {
        tr_gs_load(t, H_TEMP2, tr_gpr(reg));
        reg = H_TEMP2;
    }
    tr_mem(t, tr_wide(t), 0x89, reg, at);
}

static void pop_one(struct soft_tr *t, const struct tr_insn *i, const struct tr_at *at) {
    u32 reg = i->insn.op[0].reg, host = tr_in_memory(reg) ? (u32)H_TEMP2 : reg;
    tr_mem(t, tr_wide(t), 0x8b, host, at);
    if (tr_in_memory(reg)) {
        tr_gs_store(t, host, tr_gpr(reg));
    }
}

u32 tr_stack_run(const struct soft_tr *t, u32 at) {
    const struct tr_insn *first = &t->trace[at];
    u32 n = 1, most = t->alone ? 1 : 15; /* alone: each in its page */
    while (at + n < t->trace_len && n < most && first[n].class == first->class) {
        n++;
    }
    return n;
}

u32 tr_push_pop(struct soft_tr *t, u32 at) {
    const struct tr_insn *first = &t->trace[at];
    bool push = first->class == CLASS_PUSH;
    u32 n = tr_stack_run(t, at), word = tr_word(t);
    struct tr_at stack;
    tr_look_base(t, first, GPR_RSP, push ? -(s32)(word * n) : 0, word * n, push, &stack);
    if (!first->group) {
        t->exits[t->exit_count - 1].first = push ? (u8)(word * (n - 1)) : 0;
    }
    for (u32 k = 0; k < n; k++) {
        struct tr_at slot = stack;
        if (push) {
            slot.disp += (s32)(word * (n - 1 - k));
            push_one(t, &first[k], k, &slot);
        } else {
            slot.disp += (s32)(word * k);
            pop_one(t, &first[k], &slot);
        }
    }
    move_rsp(t, push ? -(s32)(word * n) : (s32)(word * n));
    return n;
}

/* H_TEMP2 to the stack */
static void push_temp(struct soft_tr *t, const struct tr_at *stack) {
    tr_mem(t, tr_wide(t), 0x89, H_TEMP2, stack);
    move_rsp(t, -(s32)tr_word(t));
}

void tr_push_mem(struct soft_tr *t, const struct tr_insn *i) {
    struct tr_at at;
    u32 word = tr_word(t);
    tr_look(t, i, word, false, &at);
    tr_mem(t, tr_wide(t), 0x8b, H_ADDR, &at);
    tr_gs_store(t, H_ADDR, C_OFF(tr_temp));
    tr_look_base(t, i, GPR_RSP, -(s32)word, word, true, &at);
    tr_gs_load(t, H_TEMP2, C_OFF(tr_temp));
    push_temp(t, &at);
}

/* The return address to the stack. */
void tr_stack_call(struct soft_tr *t, const struct tr_insn *i) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RSP, -(s32)tr_word(t), tr_word(t), true, &at);
    tr_imm(t, H_TEMP2, i->rip + i->insn.len);
    if (t->floats && (i->found || t->keeping)) { /* keeping flags */
        struct tr_at sum = {.base = H_TEMP2, .index = H_ADDR};
        tr_gs_load(t, H_ADDR, C_OFF(tr_delta));
        tr_mem(t, true, 0x8d, H_TEMP2, &sum);
    } else if (t->floats) {
        tr_gs(t, true, 0x03, H_TEMP2, C_OFF(tr_delta));
    }
    push_temp(t, &at);
}

void tr_leave(struct soft_tr *t, const struct tr_insn *i) {
    struct tr_at at;
    tr_look_base(t, i, GPR_RBP, 0, tr_word(t), false, &at);
    tr_mem(t, tr_wide(t), 0x8b, H_ADDR, &at);
    tr_rm(t, tr_wide(t), 0x8d, GPR_RSP, GPR_RBP, (s32)tr_word(t));
    tr_rr(t, true, 0x89, H_ADDR, GPR_RBP);
}
