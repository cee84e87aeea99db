/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions on the system flags: CLI, STI, PUSHF, POPF, CLAC, STAC, with IOPL, virtual-8086 mode
 * and its extensions (VME, PVI).
 *
 * Intel SDM volume 2, the instructions; volume 3, sections 2.3, 7.8.1 and 22.3 to 22.4.
 */
#include "engines/soft/sys.h"

void flags_load(struct soft_vcpu *c, u64 value, u64 mask) {
    u64 old = soft_rflags(c);
    u64 flags = (old & ~mask) | (value & mask) | 2;
    if (!(c->s.dr7 & 0xff) && !(c->debug.enabled && (c->debug.dr7 & 0xff))) {
        flags &= ~(u64)FLAG_RF; /* nothing for it to hold back */
    }
    soft_rflags_set(c, flags);
    soft_mode_update(c);
    if ((flags & FLAG_IF) && !(old & FLAG_IF)) {
        c->leave |= SOFT_LEAVE_LOOP; /* an interrupt may be waiting */
    }
}

/* Who rules over IF: 0 IF itself, 1 VIF in its place (VME, PVI), -1 nobody: #GP. */
enum if_rule { IF_REAL, IF_VIRTUAL, IF_DENIED };

static enum if_rule if_rule(const struct soft_vcpu *c) {
    if (in_real_mode(c) || iopl(c) == 3) {
        return IF_REAL;
    }
    if (in_v86(c)) {
        return c->s.cr4 & CR4_VME ? IF_VIRTUAL : IF_DENIED;
    }
    if (c->cpl <= iopl(c)) {
        return IF_REAL;
    }
    return c->cpl == 3 && (c->s.cr4 & CR4_PVI) ? IF_VIRTUAL : IF_DENIED;
}

static void op_cli(struct soft_vcpu *c, const struct uop *u) {
    enum if_rule rule = if_rule(c);
    if (rule == IF_DENIED) {
        soft_gp(c, 0);
    }
    c->s.rflags &= ~(u64)(rule == IF_REAL ? FLAG_IF : FLAG_VIF);
    NEXT(c, u);
}

static void op_sti(struct soft_vcpu *c, const struct uop *u) {
    enum if_rule rule = if_rule(c);
    (void)u;
    if (rule == IF_DENIED || (rule == IF_VIRTUAL && (c->s.rflags & FLAG_VIP))) {
        soft_gp(c, 0);
    }
    if (rule == IF_VIRTUAL) {
        c->s.rflags |= FLAG_VIF;
    } else if (!(c->s.rflags & FLAG_IF)) {
        c->s.rflags |= FLAG_IF;
        c->s.events.shadow |= SHADOW_STI;
        c->shadow_fresh = true;
        soft_mode_update(c);
        c->leave |= SOFT_LEAVE_LOOP;
    }
    GOTO_RIP(c, soft_rip_after(c));
}

/* V86 below IOPL 3: only the 16-bit forms, and only with VME. */
static bool v86_virtual(struct soft_vcpu *c, u32 opsize) {
    if (!in_v86(c) || iopl(c) == 3) {
        return false;
    }
    if (!(c->s.cr4 & CR4_VME) || opsize != 2) {
        soft_gp(c, 0);
    }
    return true;
}

/* The 16-bit image that V86 code sees under VME: IOPL 3, and VIF as IF. */
static u64 virtual_image(const struct soft_vcpu *c) {
    u64 flags = soft_rflags(c) | 2 | FLAG_IOPL;
    return c->s.rflags & FLAG_VIF ? flags | FLAG_IF : flags & ~(u64)FLAG_IF;
}

static void op_pushf(struct soft_vcpu *c, const struct uop *u) {
    struct stack st;
    u64 flags = v86_virtual(c, u->opsize) ? virtual_image(c) : soft_rflags(c) | 2;
    stack_current(c, &st);
    stack_push(c, &st, u->opsize, flags & ~(u64)(FLAG_VM | FLAG_RF));
    stack_commit_sp(c, &st);
    NEXT(c, u);
}

/* Loads a 16-bit image under VME: IF goes to VIF. */
void flags_load_virtual(struct soft_vcpu *c, u64 value) {
    if ((value & FLAG_TF) || ((value & FLAG_IF) && (c->s.rflags & FLAG_VIP))) {
        soft_gp(c, 0);
    }
    value = (value & 0xffff) | (value & FLAG_IF ? FLAG_VIF : 0);
    flags_load(c, value, FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_VIF);
}

static void op_popf(struct soft_vcpu *c, const struct uop *u) {
    u64 mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    struct stack st;
    bool virtual = v86_virtual(c, u->opsize);
    stack_current(c, &st);
    u64 value = stack_pop(c, &st, u->opsize);
    if (virtual) {
        flags_load_virtual(c, value);
        stack_commit_sp(c, &st);
        GOTO_RIP(c, soft_rip_after(c));
    }
    if (c->cpl <= iopl(c)) {
        mask |= FLAG_IF;
    }
    if (c->cpl == 0) {
        mask |= FLAG_IOPL;
    }
    if (u->opsize != 2) {
        mask |= FLAG_AC | FLAG_ID | FLAG_RF;
        value &= ~(u64)FLAG_RF;
    }
    stack_commit_sp(c, &st);
    flags_load(c, value, mask);
    GOTO_RIP(c, soft_rip_after(c));
}

/* Only c->mmu depends on AC at CPL 0, so the block goes on. */
static void set_ac(struct soft_vcpu *c, bool on) {
    if (c->cpl != 0 || in_v86(c)) {
        soft_ud(c);
    }
    c->s.rflags = on ? c->s.rflags | FLAG_AC : c->s.rflags & ~(u64)FLAG_AC;
    soft_mode_update(c);
}

static void op_clac(struct soft_vcpu *c, const struct uop *u) {
    set_ac(c, false);
    NEXT(c, u);
}

static void op_stac(struct soft_vcpu *c, const struct uop *u) {
    set_ac(c, true);
    NEXT(c, u);
}

bool bind_sys_flags(struct bind *b) {
    struct uop *u = b->uop;
    u->opsize = b->insn->opsize;
    switch (b->insn->id) {
    case INSN_CLI:
        u->fn = op_cli;
        return true;
    case INSN_STI:
        u->fn = op_sti;
        b->last = true;
        return true;
    case INSN_PUSHF:
        u->fn = op_pushf;
        return true;
    case INSN_POPF:
        u->fn = op_popf;
        b->last = true;
        return true;
    case INSN_CLAC:
        u->fn = op_clac;
        return true;
    case INSN_STAC:
        u->fn = op_stac;
        return true;
    default:
        return false;
    }
}
