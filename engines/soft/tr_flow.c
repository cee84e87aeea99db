/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control flow of generated code: entries, jumps, calls to the interpreter, and the late pieces
 * that are moved out of the way behind each trace. Also where the guest's flags are.
 */
#include "engines/soft/tr.h"

/* --- flags -------------------------------------------------------------------------------------
 */

void tr_flags_save(struct soft_tr *t) {
    tr_rr(t, true, 0x89, GPR_RAX, H_TEMP2); /* mov r13, rax */
    tr_u8(t, 0x9f);                         /* lahf */
    tr_rr(t, false, 0x0f90, 0, GPR_RAX);    /* seto al */
    tr_gs(t, false, 0x89, GPR_RAX, C_OFF(tr_flags));
    tr_rr(t, true, 0x89, H_TEMP2, GPR_RAX);
}

void tr_flags_restore(struct soft_tr *t) {
    tr_rr(t, true, 0x89, GPR_RAX, H_TEMP2);
    tr_gs(t, false, 0x8b, GPR_RAX, C_OFF(tr_flags));
    tr_u8(t, 0x04); /* add al, 0x7f: OF */
    tr_u8(t, 0x7f);
    tr_u8(t, 0x9e); /* sahf */
    tr_rr(t, true, 0x89, H_TEMP2, GPR_RAX);
}

void tr_flags_clobber(struct soft_tr *t, u16 live) {
    if (t->saved || t->lost || !live) {
        return;
    }
    t->lost = tr_flags_recipe(t);
    if (!t->lost) {
        tr_flags_save(t);
        t->saved = true;
    }
}

void tr_flags_settle(struct soft_tr *t) {
    if (t->lost >= FLAGS_AT_RECIPE) {
        tr_flags_remake(t);
    }
}

void tr_flags_keep(struct soft_tr *t) {
    tr_flags_settle(t);
    t->writer = TR_NONE;
}

void tr_flags_need(struct soft_tr *t) {
    if (t->saved) {
        tr_flags_restore(t);
        t->saved = false;
    } else {
        tr_flags_settle(t);
    }
}

/* --- exits -------------------------------------------------------------------------------------
 */

u32 tr_exit_new(struct soft_tr *t, u8 kind, u64 rip) {
    u32 n = t->exit_count++;
    t->exits[n] = (struct tr_exit){.rip = rip,
                                   .block = t->block,
                                   .kind = (u32)kind & 0x7f,
                                   .floats = t->floats,
                                   .target = TR_NONE,
                                   .next_in = TR_NONE,
                                   .flags = t->lost};
    return n;
}

void tr_late_new(struct soft_tr *t, u8 kind, u32 exit, u32 from, u32 back) {
    t->late[t->late_count++] = (struct tr_late){
        .from = {from}, .back = back, .exit = exit, .kind = kind, .saved = t->saved};
}

/* To a stub, with the exit's number where it expects it. */
static void put_exit(struct soft_tr *t, u32 exit, enum tr_stub stub) {
    tr_imm(t, H_TEMP, exit);
    u32 back = t->used + 2 - t->stub_jump[stub];
    if (t->stub_jump[stub] && back <= 128) {
        tr_u8(t, 0xeb);
        tr_u8(t, 0 - back);
        return;
    }
    t->stub_jump[stub] = t->used;
    tr_fix(t, tr_jmp(t), t->stub[stub]);
}

/* lea reg, [back]: where a stub goes on. Returns where the rel32 is. */
static u32 put_resume(struct soft_tr *t, u32 reg, u32 back) {
    tr_u8(t, 0x4c);
    tr_u8(t, 0x8d);
    tr_u8(t, 0x05 | (reg & 7) << 3);
    tr_u32(t, back - (t->used + 4));
    return t->used - 4;
}

/* --- entries -----------------------------------------------------------------------------------
 */

static void cmp_request(struct soft_tr *t) {
    tr_gs(t, false, 0x83, 7, C_OFF(request));
    tr_u8(t, 0);
}

/* jne to what lies before */
static void put_jne_back(struct soft_tr *t, u32 to) {
    u32 back = t->used + 2 - to;
    if (back <= 128) {
        tr_u8(t, 0x75);
        tr_u8(t, 0 - back);
    } else {
        tr_fix(t, tr_jcc(t, 5), to);
    }
}

/* jmp over less than 128 bytes; returns where the rel8 is. */
static u32 put_jmp_short(struct soft_tr *t) {
    tr_u8(t, 0xeb);
    tr_u8(t, 0);
    return t->used - 1;
}

static u32 put_self(struct soft_tr *t, u32 flags, enum tr_stub stub) {
    u32 at = t->used, exit = tr_exit_new(t, TR_SELF, t->rip);
    t->exits[exit].flags = flags;
    put_exit(t, exit, stub);
    return at;
}

/* Flags are live in RFLAGS: nothing here changes them before they are saved. Returns the jump to
 * the body. */
static u32 entry_r(struct soft_tr *t) {
    tr_rr(t, true, 0x89, GPR_RCX, H_ADDR);          /* mov r15, rcx */
    tr_gs(t, false, 0x8b, GPR_RCX, C_OFF(request)); /* mov ecx, [request] */
    tr_u8(t, 0xe3);                                 /* jrcxz */
    u32 at = t->used;
    tr_u8(t, 0);
    tr_rr(t, true, 0x89, H_ADDR, GPR_RCX);
    put_self(t, FLAGS_AT_HOME, STUB_EXIT_FLAGS);
    t->code.rw[at] = (u8)(t->used - (at + 1));
    tr_rr(t, true, 0x89, H_ADDR, GPR_RCX);
    return put_jmp_short(t);
}

static void page_check(struct soft_tr *t, u32 slot, u32 self) {
    tr_gs_load(t, H_ADDR,
               tr_uses_here(t->floats, t->c->mode_key) ? C_OFF(tr_here) : C_OFF(jump_key));
    tr_gs_load(t, H_TEMP, C_OFF(tr_seen));
    tr_rm(t, true, 0x3b, H_ADDR, H_TEMP, (s32)(slot * sizeof(u64)));
    put_jne_back(t, self);
}

/* A floating trace is entered at H_ADDR by an indirect jump: are the traces off by what they were
 * off by last? If not, by way of the piece `other`. */
static void put_float(struct soft_tr *t, u32 other) {
    tr_imm(t, H_TEMP, t->rip);
    tr_rr(t, true, 0x29, H_TEMP, H_ADDR); /* sub */
    tr_gs(t, true, 0x3b, H_ADDR, C_OFF(tr_delta));
    put_jne_back(t, other);
}

/* Returns where the rel32 is that leads to the page check. */
static u32 put_float_other(struct soft_tr *t) {
    u32 exit = t->exit_count - 1, at = put_resume(t, H_TEMP2, t->used);
    put_exit(t, exit, STUB_FLOAT);
    return at;
}

/* Lock-step: the next byte of tr_turns to the request word. Keeps flags. */
static void put_turn(struct soft_tr *t) {
    tr_gs_load(t, H_TEMP, C_OFF(tr_turns) + 1);
    tr_gs_store(t, H_TEMP, C_OFF(tr_turns));
    tr_gs(t, false, 0x88, H_TEMP, C_OFF(request) + 3);
}

/* R, from where flags are in RFLAGS, to behind the poll of M or, saved, to M. Returns the jump. */
static u32 put_entry_r(struct soft_tr *t, bool direct) {
    if (direct) {
        return entry_r(t);
    }
    tr_flags_save(t);
    return put_jmp_short(t);
}

/* In front of R. */
static void entry_apart(struct soft_tr *t, struct tr_block *b) {
    t->lost = tr_flags_number(t, &t->want_recipe);
    if (t->lost) {
        b->second_seen = t->lost;
        b->entry[ENTRY_APART] = t->used;
        tr_flags_remake(t);
    }
}

void tr_entries(struct soft_tr *t) {
    struct tr_block *b = &t->blocks[t->block];
    bool two = b->second_generation != NULL, direct = !two && t->flags_at != FLAGS_SAVED;
    bool lazy = !two && tr_flags_lazy(t, &b->early), ahead = !two && !t->alone && !t->c->verify;
    u32 self = put_self(t, FLAGS_AT_HOME, STUB_EXIT);
    u32 other = t->used, other_back = t->floats ? put_float_other(t) : 0;
    u32 self_lazy = lazy ? put_self(t, FLAGS_AT_LAZY, STUB_EXIT) : self;
    if (t->alone && !lazy) {
        entry_apart(t, b);
    }
    b->entry[ENTRY_R] = t->used;
    u32 from_r = put_entry_r(t, direct);
    b->entry[ENTRY_X] = t->used;
    if (t->floats) {
        put_float(t, other);
        tr_fix(t, other_back, t->used);
    }
    b->entry[ENTRY_P] = t->used;
    page_check(t, b->slot, self);
    b->entry[ENTRY_M] = t->used;
    if (two) {
        page_check(t, b->second_slot, self);
    }
    if (lazy) {
        tr_rr(t, false, 0x31, H_TEMP2, H_TEMP2); /* xor: FLAGS_AT_HOME */
        b->entry[ENTRY_L] = t->used;
        tr_gs(t, false, 0x89, H_TEMP2, C_OFF(tr_lazy));
        b->entry[ENTRY_APART] = t->alone ? t->used : 0;
    }
    cmp_request(t);
    put_jne_back(t, self_lazy);
    if (!t->alone) {
        b->entry[ENTRY_AHEAD_M] = ahead && !lazy ? t->used : 0;
    }
    if (t->flags_at == FLAGS_LIVE) {
        tr_flags_restore(t);
    }
    t->code.rw[from_r] = (u8)((direct ? t->used : b->entry[ENTRY_M]) - (from_r + 1));
    b->entry[ENTRY_AHEAD_R] = ahead && direct ? t->used : 0;
    t->saved = t->flags_at == FLAGS_SAVED && !lazy;
    t->lost = t->flags_at == FLAGS_SAVED && lazy ? (u32)FLAGS_AT_LAZY : (u32)FLAGS_AT_HOME;
    t->writer = TR_NONE;
    if (t->c->verify) {
        put_turn(t);
    }
}

/* --- counting ----------------------------------------------------------------------------------
 */

static bool counts(const struct soft_tr *t) {
    return t->c->vm->ev->translator.count;
}

/* Adds a number to a counter, keeping flags; returns where the number is. */
static u32 put_add(struct soft_tr *t, size_t offset, u32 n) {
    tr_gs_load(t, H_TEMP, offset);
    tr_u8(t, 0x4d); /* lea r14, [r14 + n] */
    tr_u8(t, 0x8d);
    tr_u8(t, 0x80 | (H_TEMP & 7) << 3 | (H_TEMP & 7));
    tr_u32(t, n);
    u32 at = t->used - 4;
    tr_gs_store(t, H_TEMP, offset);
    return at;
}

void tr_count_begin(struct soft_tr *t) {
    if (counts(t)) {
        t->run.insns = t->run.looks = 0;
        t->run.at[0] = put_add(t, C_OFF(tr_counted.instructions), 0);
        t->run.at[1] = put_add(t, C_OFF(tr_counted.looks), 0);
    }
}

void tr_count_end(struct soft_tr *t) {
    if (counts(t)) {
        memcpy(t->code.rw + t->run.at[0], &t->run.insns, 4);
        memcpy(t->code.rw + t->run.at[1], &t->run.looks, 4);
    }
}

void tr_count_jump(struct soft_tr *t) {
    if (counts(t)) {
        (void)put_add(t, C_OFF(tr_counted.jumps), 1);
    }
}

/* --- jumps -------------------------------------------------------------------------------------
 */

static bool same_page(const struct soft_tr *t, u64 rip) {
    return !((rip ^ t->rip) >> PAGE_SHIFT);
}

u32 tr_edge_hint(struct soft_tr *t, u64 rip) {
    return same_page(t, rip) ? tr_flags_hint(t) : (u32)FLAGS_AT_HOME;
}

void tr_edge(struct soft_tr *t, u64 rip, u32 from) {
    u32 exit = tr_exit_new(t, TR_EDGE, rip);
    struct tr_exit *e = &t->exits[exit];
    e->flags = tr_edge_hint(t, rip);
    e->access = e->flags ? EDGE_PIECE : EDGE_MUTE;
    tr_late_new(t, LATE_EDGE, exit, from, 0);
}

/* Where a piece that may be made to tell has its parts: mov r14d or r13d, imm32; jmp rel32. */
enum { PIECE_REG = 1, PIECE_NUMBER = 2, PIECE_JUMP = 7 };

/* To a stub with the exit's number; returns where the rel32 is. */
static u32 put_piece(struct soft_tr *t, u32 exit, enum tr_stub stub) {
    tr_imm(t, H_TEMP, exit);
    u32 at = tr_jmp(t);
    tr_fix(t, at, t->stub[stub]);
    return at;
}

void tr_edge_end(struct soft_tr *t, u64 rip) {
    bool near = same_page(t, rip);
    tr_flags_settle(t);
    u32 exit = tr_exit_new(t, TR_EDGE, rip);
    struct tr_exit *e = &t->exits[exit];
    e->flags = tr_edge_hint(t, rip);
    e->access = e->flags ? EDGE_END : EDGE_MUTE;
    if (!near && !t->saved) {
        tr_flags_save(t);
    }
    e->entry = !near ? ENTRY_P : t->saved ? ENTRY_M : ENTRY_R;
    enum tr_stub stub = e->entry == ENTRY_R ? STUB_EXIT_FLAGS : STUB_EXIT;
    e->patch = put_piece(t, exit, stub);
    e->unjoined = t->stub[stub];
}

static void piece_set(struct soft_tr *t, u32 at, u32 reg, u32 number, u32 to) {
    t->code.rw[at + PIECE_REG] = (u8)(0xb8 | (reg & 7));
    memcpy(t->code.rw + at + PIECE_NUMBER, &number, sizeof(number));
    tr_fix(t, at + PIECE_JUMP, to);
}

static u32 piece_of(const struct tr_exit *e) {
    return e->access == EDGE_END ? e->patch - PIECE_JUMP : e->unjoined;
}

void tr_edge_join(struct soft_tr *t, u32 exit, u32 entry, bool lazy) {
    struct tr_exit *e = &t->exits[exit];
    if (lazy && e->access >= EDGE_PIECE) {
        piece_set(t, piece_of(e), H_TEMP2, e->flags, entry);
        e->access |= EDGE_TELLS;
    } else {
        tr_fix(t, e->patch, entry);
    }
}

static enum tr_stub miss_stub(const struct tr_exit *e) {
    return e->ea_how & EA_KEPT ? STUB_MISS_FLAGS : STUB_MISS;
}

void tr_edge_unjoin(struct soft_tr *t, u32 exit) {
    struct tr_exit *e = &t->exits[exit];
    if (e->kind == TR_MISS) {
        piece_set(t, e->patch + (u32)e->go_on, H_TEMP, exit, t->stub[miss_stub(e)]);
        return;
    }
    if (e->access & EDGE_TELLS) {
        e->access &= (u8)~EDGE_TELLS;
        piece_set(t, piece_of(e), H_TEMP, exit, t->stub[STUB_EXIT_FLAGS]);
    }
    tr_fix(t, e->patch, e->unjoined);
    e->target = e->next_in = TR_NONE;
}

/* More registers change before the last exit that is reached from b with flags at FLAGS_AT_LAZY:
 * edges that bring recipes with those are joined anew, with flags. */
static void trust_less(struct soft_tr *t, struct tr_block *b, u16 early) {
    u32 *at = &b->in;
    if (!(early & ~b->early)) {
        return;
    }
    b->early |= early;
    while (*at != TR_NONE) {
        struct tr_exit *e = &t->exits[*at];
        u32 exit = *at, next = e->next_in;
        if (e->entry == ENTRY_R && e->access && !tr_flags_trusted(t, e->flags, b->early)) {
            tr_edge_unjoin(t, exit);
            *at = next;
        } else {
            at = &e->next_in;
        }
    }
}

/* Where exit e may go on in the alone trace; 0: nowhere, since somebody may look for flags where
 * they are not. */
static u32 apart_entry(struct soft_tr *t, const struct tr_exit *e, const struct tr_block *alone) {
    if (e->ea_how & EA_KEPT) {
        return alone->entry[ENTRY_R];
    }
    if (e->flags == FLAGS_AT_HOME) {
        return alone->entry[ENTRY_M];
    }
    bool lazy = alone->entry[ENTRY_L];
    if (e->flags == FLAGS_AT_LAZY && !lazy) {
        return 0;
    }
    if (e->flags == FLAGS_AT_LAZY) {
        trust_less(t, &t->blocks[e->block], alone->early);
        return alone->entry[ENTRY_APART];
    }
    if (lazy) {
        return tr_flags_trusted(t, e->flags, alone->early) ? alone->entry[ENTRY_L] : 0;
    }
    bool same = alone->entry[ENTRY_APART] &&
                !memcmp(&t->recipes[e->flags - FLAGS_AT_RECIPE],
                        &t->recipes[alone->second_seen - FLAGS_AT_RECIPE], sizeof(*t->recipes));
    return same ? alone->entry[ENTRY_APART] : 0;
}

bool tr_apart_join(struct soft_tr *t, u32 exit, struct tr_block *alone) {
    struct tr_exit *e = &t->exits[exit];
    u32 to = apart_entry(t, e, alone);
    if (!e->go_on || !to || t->blocks[e->block].dead) {
        return false;
    }
    piece_set(t, e->patch + (u32)e->go_on, H_TEMP2, e->flags, to);
    e->next_in = alone->in;
    alone->in = exit;
    return true;
}

void tr_table_op(struct soft_tr *t, bool wide, u32 opcode, u32 reg, size_t offset) {
    tr_u8(t, 0x65);
    tr_u8(t, 0x42u | (wide ? 8u : 0) | (reg & 8) >> 1);
    tr_u8(t, opcode);
    tr_u8(t, (reg & 7) << 3 | 4);
    tr_u8(t, 3u << 6 | (H_TEMP & 7) << 3 | 5);
    tr_u32(t, (u32)offset);
}

void tr_table_index(struct soft_tr *t) {
    tr_u8(t, 0x47); /* lea r14d, [r15 + r15]: entries of 16 bytes, addressed by steps of 8 */
    tr_u8(t, 0x8d);
    tr_u8(t, (H_TEMP & 7) << 3 | 4);
    tr_u8(t, (H_ADDR & 7) << 3 | (H_ADDR & 7));
    tr_rr(t, false, 0x81, 4, H_TEMP);
    tr_u32(t, 2 * (ARRAY_LEN(t->c->tr_jump) - 1));
}

void tr_indirect(struct soft_tr *t, const struct tr_insn *i, u32 moved) {
    u32 exit = tr_exit_new(t, TR_INDIRECT, i->rip);
    t->exits[exit].size = (u16)moved;
    tr_flags_keep(t);
    tr_flags_clobber(t, FLAG_ARITH);
    tr_count_jump(t);
    tr_table_index(t);
    tr_table_op(t, true, 0x3b, H_ADDR, C_OFF(tr_jump[0].rip)); /* cmp r15, its rip */
    u32 from = tr_jcc(t, 5);
    tr_table_op(t, false, 0xff, 4, C_OFF(tr_jump[0].host)); /* jmp */
    tr_late_new(t, LATE_INDIRECT, exit, from, 0);
}

u32 tr_step_run(const struct soft_tr *t, u32 at) {
    u32 n = 1, end = MIN(at + STEP_RUN_MAX, t->trace_len);
    const struct tr_insn *i = &t->trace[at];
    while (at + n < end && (i[n].insn.flags & (INSN_X87 | INSN_MMX)) &&
           (i->insn.flags & (INSN_X87 | INSN_MMX)) && i->class == CLASS_STEP &&
           i[n].class == CLASS_STEP) {
        n++;
    }
    return n;
}

/* Of count instructions. */
static u32 step_exit(struct soft_tr *t, const struct tr_insn *i, u32 count, bool end) {
    u32 exit = tr_exit_new(t, end ? TR_STEP_END : TR_STEP, i->rip);
    u32 n = t->single_count, len = (u32)(i[count - 1].rip - i->rip) + i[count - 1].insn.len;
    t->single_count += count; /* it may take that much room */
    t->exits[exit].len = (u8)len;
    t->exits[exit].size = i->insn.id;
    t->exits[exit].next_in = n;
    t->singles[n] = soft_block_single(t->c, (t->gpa & ~PAGE_MASK) | (i->rip & PAGE_MASK),
                                      t->page + (i->rip & PAGE_MASK), len, count, t->single_room,
                                      &t->single_used);
    return exit;
}

void tr_step(struct soft_tr *t, const struct tr_insn *i, u32 count, bool end) {
    u32 exit = step_exit(t, i, count, end);
    tr_flags_clobber(t, FLAG_ARITH);
    put_exit(t, exit, STUB_STEP);
    t->exits[exit].patch = t->used;
    t->saved = true;
}

void tr_step_late(struct soft_tr *t, const struct tr_insn *i, const u32 *from, u32 count) {
    tr_late_new(t, LATE_STEP, step_exit(t, i, 1, false), 0, t->used);
    memcpy(t->late[t->late_count - 1].from, from, count * sizeof(*from));
}

/* --- late pieces -------------------------------------------------------------------------------
 */

static void late_edge(struct soft_tr *t, const struct tr_late *l) {
    struct tr_exit *e = &t->exits[l->exit];
    e->patch = l->from[0];
    e->unjoined = t->used;
    e->entry = l->saved ? ENTRY_M : ENTRY_R;
    if (e->access == EDGE_PIECE) {
        (void)put_piece(t, l->exit, STUB_EXIT_FLAGS);
        return;
    }
    if (same_page(t, e->rip)) {
        put_exit(t, l->exit, l->saved ? STUB_EXIT : STUB_EXIT_FLAGS);
        return;
    }
    if (!l->saved) {
        tr_flags_save(t);
    }
    e->entry = ENTRY_P;
    e->patch = put_piece(t, l->exit, STUB_EXIT);
    e->unjoined = t->stub[STUB_EXIT];
}

static void late_miss(struct soft_tr *t, const struct tr_late *l) {
    struct tr_exit *e = &t->exits[l->exit];
    e->patch = l->back;
    if (!(e->ea_how & EA_GROUP)) {
        put_exit(t, l->exit, miss_stub(e));
        return;
    }
    if (e->ea_how & EA_KEPT) { /* as the alone trace wants it */
        tr_rr(t, true, 0x89, H_ADDR, GPR_RCX);
    }
    u32 off = t->used - l->back;
    e->go_on = (s16)(off <= INT16_MAX ? off : 0);
    (void)put_piece(t, l->exit, miss_stub(e));
}

void tr_late_pieces(struct soft_tr *t) {
    for (u32 n = 0; n < t->late_count; n++) {
        const struct tr_late *l = &t->late[n];
        for (u32 k = 0; k < ARRAY_LEN(l->from) && l->from[k]; k++) {
            tr_fix(t, l->from[k], t->used);
        }
        switch (l->kind) {
        case LATE_MISS:
            late_miss(t, l);
            break;
        case LATE_VLOAD:
            (void)put_resume(t, H_TEMP, l->back);
            tr_fix(t, tr_jmp(t), t->stub[STUB_VLOAD]);
            break;
        case LATE_STEP:
            t->exits[l->exit].patch = l->back;
            put_exit(t, l->exit, STUB_STEP);
            break;
        case LATE_INDIRECT:
            put_exit(t, l->exit, STUB_INDIRECT);
            break;
        default:
            late_edge(t, l);
            break;
        }
    }
}
