/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug registers and #DB: instruction, data and I/O breakpoints, single step, the interrupt
 * shadow, and the debugger's own breakpoints, which leave the run loop instead of entering the
 * guest.
 *
 * The run loop executes one instruction at a time while c->one is set and calls begin and end
 * around it. What an instruction earns is collected in dr6_pending and delivered at its end; a MOV
 * SS or POP SS holds it back over the next instruction.
 *
 * Intel SDM volume 3, chapter 18. Left out: last-branch records, RTM.
 */
#include "engines/soft/block.h"
#include "engines/soft/sys.h"

enum { BP_EXEC, BP_WRITE, BP_IO, BP_ACCESS };

#define DR6_BS   BIT(14)
#define DR6_HITS 0xfull

static bool bp_enabled(u64 dr7, u32 n) {
    return dr7 >> (n * 2) & 3;
}
static u32 bp_kind(u64 dr7, u32 n) {
    return (u32)(dr7 >> (16 + n * 4)) & 3;
}
static u64 bp_length(u64 dr7, u32 n) {
    static const u8 length[] = {1, 2, 8, 4};
    return length[dr7 >> (18 + n * 4) & 3];
}

/* Which of the four execute at linear? */
static u32 match_exec(u64 dr7, const u64 *dr, u64 linear) {
    u32 hits = 0;
    for (u32 i = 0; i < 4; i++) {
        if (bp_enabled(dr7, i) && bp_kind(dr7, i) == BP_EXEC && dr[i] == linear) {
            hits |= 1u << i;
        }
    }
    return hits;
}

/* Which of the four see an access to [at, at+size)? io: ports instead of memory. */
static u32 match_data(u64 dr7, const u64 *dr, u64 at, u64 size, bool write, bool io) {
    u32 hits = 0;
    for (u32 i = 0; i < 4; i++) {
        u32 kind = bp_kind(dr7, i);
        u64 length = bp_length(dr7, i), base = dr[i] & ~(length - 1);
        bool wanted = io ? kind == BP_IO : kind == BP_ACCESS || (kind == BP_WRITE && write);
        if (bp_enabled(dr7, i) && wanted && at < base + length && base < at + size) {
            hits |= 1u << i;
        }
    }
    return hits;
}

static u64 debugger_dr7(const struct soft_vcpu *c) {
    return c->debug.enabled ? c->debug.dr7 : 0;
}

bool soft_watch_page(const struct soft_vcpu *c, u64 linear) {
    u64 page = linear & ~PAGE_MASK;
    return c->watch && (match_data(c->s.dr7, c->s.dr, page, PAGE_SIZE, true, false) ||
                        match_data(debugger_dr7(c), c->debug.dr, page, PAGE_SIZE, true, false));
}

void soft_watch(struct soft_vcpu *c, u64 linear, u32 size, bool write) {
    c->dr6_pending |= match_data(c->s.dr7, c->s.dr, linear, size, write, false);
    c->watch_pending |= match_data(debugger_dr7(c), c->debug.dr, linear, size, write, false);
}

void soft_watch_io(struct soft_vcpu *c, u16 port, u32 size) {
    if (c->s.cr4 & CR4_DE) {
        c->dr6_pending |= match_data(c->s.dr7, c->s.dr, port, size, true, true);
    }
}

/* --- #DB -------------------------------------------------------------------------------------- */

/* Delivers what is pending as a trap (or, with rip at the instruction, an instruction breakpoint:
 * neither sets RF in the pushed flags). */
static void deliver_db(struct soft_vcpu *c, u64 rip) {
    u64 hits = c->dr6_pending;
    c->dr6_pending = 0;
    c->s.dr6 = (c->s.dr6 & ~DR6_HITS) | hits;
    if ((c->leave & SOFT_LEAVE_EXIT) && c->exit && c->exit->kind == EXIT_HLT) {
        c->leave &= ~(u32)SOFT_LEAVE_EXIT; /* the trap ends the halt at once */
    }
    c->stats.exceptions++;
    soft_deliver(c, EXC_DB, EVENT_TRAP, false, 0, rip);
}

static void exit_debug(struct soft_vcpu *c, u64 rip, u64 dr6) {
    c->next_rip = rip;
    if (c->exit && !(c->leave & SOFT_LEAVE_EXIT)) {
        c->exit->kind = EXIT_DEBUG;
        c->exit->insn_len = 0;
        c->exit->debug.rip = rip;
        c->exit->debug.dr6 = dr6;
        c->exit->debug.int3 = false;
        c->leave |= SOFT_LEAVE_EXIT;
    }
}

void debug_step_fault(struct soft_vcpu *c) {
    if (c->debug.enabled && c->debug.single_step) {
        exit_debug(c, c->next_rip, DR6_BS);
    }
}

static u64 code_linear(const struct soft_vcpu *c, u64 rip) {
    return c->mode == 64 ? rip : (u32)(c->s.seg[SEG_CS].base + rip);
}

bool soft_insn_begin(struct soft_vcpu *c, u64 rip) {
    u64 linear = code_linear(c, rip);
    bool held = c->s.events.shadow & SHADOW_MOV_SS;
    bool resume = c->s.rflags & FLAG_RF;
    c->shadow_fresh = false;
    c->watch_pending = 0;
    if (!held && c->dr6_pending) {
        deliver_db(c, rip);
        debug_step_fault(c);
        return false;
    }
    if (!held && !resume) {
        u32 own = match_exec(debugger_dr7(c), c->debug.dr, linear);
        if (own) {
            exit_debug(c, rip, own);
            return false;
        }
        c->dr6_pending = match_exec(c->s.dr7, c->s.dr, linear);
        if (c->dr6_pending) {
            deliver_db(c, rip);
            debug_step_fault(c);
            return false;
        }
    }
    c->s.rflags &= ~(u64)FLAG_RF; /* good for one instruction */
    c->step_armed = c->s.rflags & FLAG_TF;
    return true;
}

/* IA32_DEBUGCTL.BTF: only taken branches are steps. */
static bool step_counts(const struct soft_vcpu *c) {
    bool falls_through = c->block && c->next_rip == c->block_rip + c->block->bytes;
    return !(c->s.msr.debugctl & BIT(1)) || !falls_through;
}

void soft_insn_end(struct soft_vcpu *c) {
    bool held = c->shadow_fresh && (c->s.events.shadow & SHADOW_MOV_SS);
    u64 rip = c->next_rip;
    if (!c->shadow_fresh) {
        c->s.events.shadow = 0;
    }
    if (c->step_armed && !held && step_counts(c)) {
        c->dr6_pending |= DR6_BS;
    }
    c->step_armed = false;
    soft_mode_update(c);
    if (c->dr6_pending && !held) {
        /* A breakpoint on the next instruction shows in the same DR6, as on the processor. */
        c->dr6_pending |= match_exec(c->s.dr7, c->s.dr, code_linear(c, rip));
        deliver_db(c, rip);
    }
    if (c->watch_pending || (c->debug.enabled && c->debug.single_step)) {
        exit_debug(c, c->next_rip, c->watch_pending | (c->debug.single_step ? (u64)DR6_BS : 0));
        c->watch_pending = 0;
    }
}
