/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator: policy and the run loop of translated code; see tr.h.
 *
 *   soft_tr_blocks: block --cold--> interpreter
 *                     |  hot: tr_scan, emit           exits: join the jump taken to what comes next
 *                     +----> generated code, joined traces, indirect jumps by table ----+
 *
 * A page whose code was written loses its traces: they are taken out of the joins that lead to them
 * and out of the table, and new ones are made when the code is hot again. A full cache: tr_cache.c.
 */
#include "engines/soft/tr.h"
#include "engines/soft/serialise.h"

#include "core/cpu/cpuid.h"
#include "core/if/mutex.h"
#include "core/if/trace.h"
#include "engines/soft/smc.h"
#include "engines/soft/tr_audit.h"
#include "engines/soft/vec.h"
#include "engines/soft/verify.h"

enum {
    HEAT = 6,
    CACHE_MIB = 19,
    CACHE_MIB_MAX = 512,
};

#define PURGE_NONE UINT64_MAX
#define PURGE_ALL  (UINT64_MAX - 1)

/* --- life ---------------------------------------------------------------------------------------
 */

static bool host_has_bmi2(void) {
    u32 leaf[4];
    cpuid_host(7, 0, leaf);
    return leaf[1] >> 8 & 1;
}

static bool host_has_avx(void) {
    u32 leaf[4];
    cpuid_host(1, 0, leaf);
    return (leaf[2] >> 28 & 1) && (leaf[2] >> 27 & 1);
}

static void release(struct soft_tr *t, struct host *host) {
    if (t->code.rx) {
        host->ops->fault_unhook(host, t->code.rx);
        host->ops->code_free(host, &t->code);
    }
    tr_cache_destroy(t, host);
    tr_pages_destroy(t, host);
    tr_audit_free(t, host);
}

int soft_tr_create(struct soft_vcpu *c, struct soft_tr *t) {
    struct host *host = c->vm->host;
    const struct engine_translator *o = &c->vm->ev->translator;
    u32 mib = o->cache_mib ? MIN(o->cache_mib, (u32)CACHE_MIB_MAX) : (u32)CACHE_MIB;
    if (!host->ops->thread_gs) {
        return 0;
    }
    int rc = host->ops->code_alloc(host, mib * MIB, &t->code);
    rc = rc ? rc : tr_cache_create(t, host);
    rc = rc ? rc : tr_pages_create(c, t, mib);
    rc = rc ? rc : host->ops->fault_hook(host, t->code.rx, t->code.size, tr_host_fault);
    rc = rc ? rc : soft_look_create(c);
    if (rc) {
        release(t, host);
        return rc;
    }
    t->c = c;
    t->heat = t->heat_min = o->heat ? o->heat : HEAT;
    t->host_avx = host_has_avx();
    t->host_bmi2 = host_has_bmi2();
    c->tr = t;
    c->tr_self = c;
    c->tr_host_mxcsr = c->vec->host_mxcsr;
    c->tr_purge_page = PURGE_NONE;
    tr_stubs(t);
    tr_cache_forget(c);
    return 0;
}

/* The counters that explain most, among the lines of --trace translator. */
static void trace_counts(const struct soft_vcpu *c) {
    const struct engine_tr_stats *s = &c->tr->stats;
    const struct engine_tr_counted *n = &c->tr_counted;
    TRACE(c->vm->ev->trace, TRACE_TRANSLATOR,
          "counts: %llu traces, entered %llu times, %llu looks missed, %llu indirect jumps not "
          "found, %llu instructions interpreted; with --stats=full: %llu instructions, %llu looks, "
          "%llu indirect jumps",
          (unsigned long long)s->blocks, (unsigned long long)s->entries,
          (unsigned long long)s->misses, (unsigned long long)s->left[TR_INDIRECT],
          (unsigned long long)c->stats.instructions, (unsigned long long)n->instructions,
          (unsigned long long)n->looks, (unsigned long long)n->jumps);
}

void soft_tr_destroy(struct soft_vcpu *c) {
    soft_look_destroy(c);
    if (c->tr) {
        trace_counts(c);
        release(c->tr, c->vm->host);
    }
    c->tr = NULL;
}

void soft_tr_flush(struct soft_vcpu *c) {
    if (c->tr) {
        c->tr->stats.flushed_remap++;
        TRACE(c->vm->ev->trace, TRACE_TRANSLATOR, "flush: memory or features changed");
        trace_counts(c);
        tr_cache_forget(c);
    }
}

void soft_tr_run_begin(struct soft_vcpu *c) {
    if (c->tr) {
        struct host *host = c->vm->host;
        host->ops->thread_gs(host, c);
        host->ops->thread_fault_ctx(host, c);
    }
}

/* --- translating ---------------------------------------------------------------------------------
 */

static void put_target(struct soft_tr *t, const struct tr_insn *i) {
    const struct insn *insn = &i->insn;
    if (insn_has_mem(insn)) {
        struct tr_at at;
        tr_look(t, i, tr_word(t), false, &at);
        tr_mem(t, tr_wide(t), 0x8b, H_TEMP, &at);
    } else if (tr_in_memory(insn->op[0].reg)) {
        tr_gs_load(t, H_TEMP, tr_gpr(insn->op[0].reg));
    } else {
        tr_rr(t, tr_wide(t), 0x89, insn->op[0].reg, H_TEMP);
    }
}

static void put_call_indirect(struct soft_tr *t, const struct tr_insn *i) {
    put_target(t, i);
    tr_gs_store(t, H_TEMP, C_OFF(tr_temp));
    tr_stack_call(t, i);
    tr_gs_load(t, H_ADDR, C_OFF(tr_temp));
    tr_indirect(t, i, 0 - tr_word(t));
}

static void put_ret(struct soft_tr *t, const struct tr_insn *i) {
    u32 moved = tr_word(t) + (u32)i->insn.imm;
    struct tr_at at;
    tr_flags_keep(t);
    tr_flags_clobber(t, FLAG_ARITH);
    tr_look_base(t, i, GPR_RSP, 0, tr_word(t), false, &at);
    tr_mem(t, tr_wide(t), 0x8b, H_ADDR, &at);
    tr_rm(t, tr_wide(t), 0x8d, GPR_RSP, GPR_RSP, (s32)moved);
    tr_indirect(t, i, moved);
}

static void put_condition(struct soft_tr *t, const struct tr_insn *i) {
    u64 to = tr_target(i);
    if (i->insn.id == INSN_JCXZ) {
        tr_flags_settle(t);
        tr_edge(t, to, tr_jcxz(t, i->insn.addrsize == 4));
        t->look_held = false; /* a label: the audit (tr_audit.c) knows little behind it */
        return;
    }
    tr_flags_need(t);
    u32 hint = to <= i->rip ? tr_edge_hint(t, to) : (u32)FLAGS_AT_HOME;
    if (hint) {
        tr_imm(t, H_TEMP2, hint);
    }
    tr_edge(t, to, tr_jcc(t, i->insn.cond));
    if (hint) {
        t->exits[t->exit_count - 1].access = EDGE_TOLD;
    }
}

static void put_jump(struct soft_tr *t, const struct tr_insn *i) {
    u64 to = tr_target(i);
    switch (i->class) {
    case CLASS_CALL:
        tr_stack_call(t, i);
        FALLTHROUGH;
    case CLASS_JMP:
        if (!i->followed) {
            tr_edge_end(t, to);
        }
        break;
    case CLASS_JCC:
        put_condition(t, i);
        break;
    case CLASS_CALL_IND:
        put_call_indirect(t, i);
        break;
    case CLASS_RET:
        put_ret(t, i);
        break;
    default:
        put_target(t, i);
        tr_rr(t, true, 0x89, H_TEMP, H_ADDR);
        tr_indirect(t, i, 0);
        break;
    }
}

/* Behind instruction `at`: from which one do flags follow? */
static void note_writer(struct soft_tr *t, u32 at) {
    const struct tr_insn *i = &t->trace[at];
    if (i->insn.flags_write) {
        bool all = i->class == CLASS_COPY && tr_flags_killed(&i->insn) == FLAG_ARITH;
        t->writer = all ? at : TR_NONE;
    }
}

/* An instruction, and those that share its look. */
static u32 put_copies(struct soft_tr *t, u32 at) {
    u32 n = tr_share(t, at, &t->share_write);
    for (u32 k = 0; k < n; k++) {
        const struct tr_insn *i = &t->trace[at + k];
        t->now = at + k;
        t->shared = k > 0;
        if (i->class == CLASS_LEA) {
            tr_lea(t, i);
        } else if (i->class == CLASS_COPY) {
            tr_copy(t, i);
        }
        note_writer(t, at + k);
    }
    t->shared = t->share_write = false;
    return n;
}

/* Returns how many instructions it took. */
static u32 put_one(struct soft_tr *t, u32 at) {
    const struct tr_insn *i = &t->trace[at];
    u32 n;
    switch (i->class) {
    case CLASS_NOP:
        return 1;
    case CLASS_COPY:
        return put_copies(t, at);
    case CLASS_LEA:
        tr_lea(t, i);
        return 1;
    case CLASS_MOFFS:
        tr_moffs(t, i);
        return 1;
    case CLASS_PUSH:
    case CLASS_POP:
        return tr_push_pop(t, at);
    case CLASS_LEAVE:
        tr_leave(t, i);
        return 1;
    case CLASS_PUSH_MEM:
        tr_push_mem(t, i);
        return 1;
    case CLASS_SYSTEM:
        tr_flags_keep(t);
        t->look_held = false;
        tr_system(t, i);
        t->look_held = false; /* c->look may be another */
        return 1;
    case CLASS_STRING:
        tr_flags_keep(t);
        t->look_held = false;
        tr_string(t, i);
        t->look_held = false; /* a step may come back here */
        return 1;
    case CLASS_STEP:
    case CLASS_STEP_END:
        tr_flags_keep(t);
        n = tr_step_run(t, at);
        tr_step(t, i, n, i->class == CLASS_STEP_END);
        t->look_held = false;
        return n;
    default:
        put_jump(t, i);
        return 1;
    }
}

/* Does control pass behind the last instruction, or by a followed jump to a place seen before? */
static bool falls_out(const struct tr_insn *last) {
    switch (last->class) {
    case CLASS_STEP_END:
    case CLASS_CALL_IND:
    case CLASS_JMP_IND:
    case CLASS_RET:
        return false;
    case CLASS_CALL:
    case CLASS_JMP:
        return last->followed;
    default:
        return true;
    }
}

/* Looks of n instructions from `at`, exits from `first`: what is behind, for those that the
 * interpreter has to do. */
static void note_behind(struct soft_tr *t, u32 at, u32 n, u32 first) {
    const struct tr_insn *last = &t->trace[at + n - 1];
    u64 next = at + n < t->trace_len ? last[1].rip : t->trace_next;
    for (u32 k = first; k < t->exit_count; k++) {
        struct tr_exit *e = &t->exits[k];
        if (e->kind == TR_MISS && !(e->ea_how & EA_GROUP)) {
            e->count = (u8)n;
            e->go_on = (s16)(next - e->rip);
            e->after = at + n < t->trace_len || falls_out(last) ? t->used : 0;
        }
    }
}

static void emit(struct soft_tr *t) {
    t->late_count = t->now = t->recipe_number = 0;
    memset(t->stub_jump, 0, sizeof(t->stub_jump));
    t->saved = false;
    t->lost = FLAGS_AT_HOME;
    tr_entries(t);
    t->look_held = false;
    tr_count_begin(t);
    for (u32 at = 0; at < t->trace_len;) {
        const struct tr_insn *i = &t->trace[at];
        bool step = i->class == CLASS_STEP || i->class == CLASS_STEP_END;
        u32 first = t->exit_count, n;
        t->run.insns += step ? 0 : 1;
        n = put_one(t, at);
        t->run.insns += step ? 0 : n - 1;
        note_behind(t, at, n, first);
        at += n;
        if (i->class == CLASS_JCC && at < t->trace_len) {
            tr_count_end(t);
            tr_count_begin(t);
        }
        if (i->class != CLASS_COPY) {
            note_writer(t, at - n);
        }
        t->now = at;
    }
    if (falls_out(&t->trace[t->trace_len - 1])) {
        tr_edge_end(t, t->trace_next);
    }
    tr_count_end(t);
    tr_late_pieces(t);
    t->blocks[t->block].to = t->used;
}

/* Host address of the code page at linear page, NULL when it is not at gpa. */
static const u8 *code_page(struct soft_vcpu *c, u64 page, u64 gpa) {
    u64 phys;
    struct tlb_entry *e =
        soft_tlb_get(c, page, ACCESS_EXEC, c->cpl == 3 ? MMU_USER : MMU_SYS, &phys);
    bool here = !(phys & PHYS_MMIO) && !((gpa ^ phys) >> PAGE_SHIFT);
    return here ? (const u8 *)(uintptr_t)(page + e->addend) : NULL;
}

/* The second page is that of an instruction over the page's end. */
static void second_page(struct soft_tr *t, const struct soft_block *b) {
    struct tr_block *n = &t->blocks[t->block];
    const struct soft_second *s = block_second(b);
    n->second_gpa = s->gpa;
    n->second_generation = s->generation;
    n->second_seen = s->seen;
    n->second_slot = tr_page_slot(t, (t->rip & ~PAGE_MASK) + PAGE_SIZE, s->gpa);
}

/* Tells whoever wants to know that a trace was made. */
static void tell(const struct soft_vcpu *c, const struct tr_block *n, u32 from) {
    const struct soft_tr *t = c->tr;
    const struct engine_translator *o = &c->vm->ev->translator;
    TRACE(c->vm->ev->trace, TRACE_TRANSLATOR,
          "translate: 0x%llx at physical 0x%llx: %u instructions, %u bytes",
          (unsigned long long)n->rip, (unsigned long long)n->gpa, t->trace_len, t->used - from);
    if (o->named) {
        o->named(o->named_ctx, t->code.rx + from, t->used - from, n->rip);
    }
}

/* False: the machine ends with the reason. */
static bool audited(struct soft_vcpu *c) {
    struct vm_exit *exit = c->exit;
    if (tr_audit(c, c->tr->block, exit->error.text, sizeof(exit->error.text))) {
        return true;
    }
    exit->kind = EXIT_ERROR;
    c->leave |= SOFT_LEAVE_EXIT;
    return false;
}

/* The last page of 4 GiB, behind which EIP must not go. */
static bool at_the_end(const struct soft_vcpu *c, u64 rip) {
    return c->mode == 32 && rip >= UINT32_MAX - PAGE_MASK;
}

static struct tr_block *translate(struct soft_vcpu *c, struct soft_block *b, u64 rip) {
    struct soft_tr *t = c->tr;
    u64 page = rip & ~PAGE_MASK;
    t->floats = tr_floats(c, rip);
    t->rip = t->floats ? rip - c->tr_delta : rip;
    t->gpa = b->gpa;
    t->mode = c->mode;
    t->second_page = b->crosses ? code_page(c, page + PAGE_SIZE, block_second(b)->gpa) : NULL;
    t->host_page = code_page(c, page, b->gpa);
    if (!t->host_page || (b->crosses && !t->second_page) || at_the_end(c, rip) || !tr_scan(t, b)) {
        b->tr_no = true;
        return NULL;
    }
    t->block = t->block_count++;
    struct tr_block *n = &t->blocks[t->block];
    *n = (struct tr_block){.rip = t->rip,
                           .floats = t->floats,
                           .gpa = b->gpa,
                           .key = c->mode_key,
                           .generation = b->generation,
                           .seen = b->seen,
                           .in = TR_NONE,
                           .alone = t->alone,
                           .slot = tr_page_slot(t, t->rip & ~PAGE_MASK, b->gpa & ~PAGE_MASK)};
    if (b->crosses) {
        second_page(t, b);
    }
    tr_cache_add(t, t->block);
    u32 before = t->used;
    n->from = before;
    n->exit_from = t->exit_count;
    emit(t);
    n->exit_to = t->exit_count;
    if (c->vm->ev->translator.audit && !audited(c)) {
        return NULL;
    }
    t->stats.blocks++;
    t->stats.bytes_out += t->used - before;
    for (u32 k = 0; k < t->trace_len; k++) {
        t->stats.bytes_in += t->trace[k].insn.len;
    }
    tell(c, n, before);
    return n;
}

/* What is at gpa and runs at rip. Floating traces: as far off as those that ran last, or, when
 * that need not be, wherever they were translated; from here on they are off by tr_delta. */
static struct tr_block *find_at(struct soft_vcpu *c, u64 rip, u64 gpa, u64 second, bool same) {
    struct soft_tr *t = c->tr;
    if (!tr_floats(c, rip)) {
        return tr_cache_find(t, gpa, c->mode_key, rip, second);
    }
    struct tr_block *n = tr_cache_find(t, gpa, c->mode_key, rip - c->tr_delta, second);
    if (!n && !same) {
        n = tr_cache_find_floating(t, gpa, c->mode_key, second);
        if (n) {
            tr_delta_set(c, rip - n->rip);
        }
    }
    return n;
}

/* The translation of the code at rip by its place alone, without a decoded block; NULL: there may
 * be none. Raises what fetching does. */
static struct tr_block *find_place(struct soft_vcpu *c, u64 rip, bool same) {
    u64 phys;
    if (c->mode != 64 || (u64)((s64)(rip << 16) >> 16) != rip) {
        return NULL;
    }
    c->block = NULL;
    c->block_rip = rip;
    c->uop = &c->cache->fetch;
    soft_tlb_get(c, rip, ACCESS_EXEC, c->cpl == 3 ? MMU_USER : MMU_SYS, &phys);
    u64 gpa = (phys & ~PAGE_MASK) | (rip & PAGE_MASK);
    return phys & PHYS_MMIO ? NULL : find_at(c, rip, gpa, 0, same);
}

/* The translation of b at rip; NULL: interpret it. */
static struct tr_block *find(struct soft_vcpu *c, struct soft_block *b, u64 rip, bool same) {
    struct soft_tr *t = c->tr;
    if (b->tr_no || !b->cached) {
        return NULL;
    }
    bool looked = c->mode == 64 && !b->crosses;   /* find_place did */
    if (!looked && (b->translated || !b->heat)) { /* decoded anew it may have been before */
        struct tr_block *n = find_at(c, rip, b->gpa, b->crosses ? block_second(b)->gpa : 0, same);
        b->translated |= n != NULL;
        if (n) {
            return n;
        }
    }
    if (!b->heat) {
        b->heat = tr_former_lives(t, b);
    }
    if (++b->heat < t->heat) {
        return NULL;
    }
    b->heat = 1;
    b->translated = true;
    if (!same && tr_floats(c, rip)) {
        tr_delta_set(c, tr_delta_guess(c, rip, b->gpa));
    }
    return translate(c, b, rip);
}

/* A trace of b without groups, because one with them found its bytes in two pages or the like.
 * NULL: interpret b, this time. */
static struct tr_block *find_alone(struct soft_vcpu *c, struct soft_block *b, u64 rip) {
    struct soft_tr *t = c->tr;
    bool floats = tr_floats(c, rip);
    struct tr_block *n = tr_cache_find_alone(t, b->gpa, b->key, floats ? rip - c->tr_delta : rip);
    n = n && n->floats == floats ? n : NULL;
    if (n || b->tr_no || !b->cached || b->crosses || ++b->heat < t->heat) {
        return n;
    }
    b->heat = 1;
    t->alone = true;
    n = translate(c, b, rip);
    t->alone = false;
    return n;
}

/* --- joining -------------------------------------------------------------------------------------
 */

static void join(struct soft_tr *t, u32 exit, struct tr_block *to) {
    struct tr_exit *e = &t->exits[exit];
    const struct tr_block *from = &t->blocks[e->block];
    bool near = e->entry != ENTRY_P;
    if (e->target != TR_NONE || e->rip != to->rip || from->key != to->key || from->dead ||
        from->floats != to->floats || (near && (from->gpa ^ to->gpa) >> PAGE_SHIFT)) {
        return;
    }
    bool lazy = e->entry == ENTRY_R && e->access && to->entry[ENTRY_L] &&
                tr_flags_trusted(t, e->flags, to->early);
    u32 ahead = near && to->rip > from->rip
                    ? to->entry[e->entry == ENTRY_R ? ENTRY_AHEAD_R : ENTRY_AHEAD_M]
                    : 0;
    lazy = lazy && !ahead;
    tr_edge_join(t, exit, ahead ? ahead : to->entry[lazy ? ENTRY_L : e->entry], lazy);
    e->target = (u32)(to - t->blocks);
    e->next_in = to->in;
    to->in = exit;
    t->stats.links++;
}

static void jump_set(struct soft_vcpu *c, const struct tr_block *to) {
    u64 rip = to->rip + (to->floats ? c->tr_delta : 0);
    struct tr_jump *j = tr_jump_of(c, rip);
    if (j->rip != rip) { /* what was there becomes second choice */
        *tr_jump_other(c, rip) = *j;
    }
    *j = (struct tr_jump){.rip = rip, .host = (u64)(uintptr_t)c->tr->code.rx + to->entry[ENTRY_X]};
}

static void kill(struct soft_vcpu *c, struct tr_block *b) {
    struct soft_tr *t = c->tr;
    struct tr_jump *j[] = {tr_jump_of(c, b->rip), tr_jump_other(c, b->rip)};
    for (u32 n = b->in; n != TR_NONE;) {
        u32 next = t->exits[n].next_in;
        tr_edge_unjoin(t, n);
        n = next;
    }
    for (u32 k = 0; k < ARRAY_LEN(j); k++) {
        if (j[k]->host == (u64)(uintptr_t)t->code.rx + b->entry[ENTRY_X]) {
            *j[k] = tr_jump_empty((size_t)(j[k] - c->tr_jump));
        }
    }
    if (b->floats) { /* the table may have it under more addresses: they lead to its exit */
        t->code.rw[b->entry[ENTRY_P]] = 0xe9; /* jmp */
        tr_fix(t, b->entry[ENTRY_P] + 1, b->from);
    }
    b->in = TR_NONE;
    b->dead = true;
    t->stats.kills++;
    TRACE(c->vm->ev->trace, TRACE_TRANSLATOR, "outdate: 0x%llx at physical 0x%llx",
          (unsigned long long)b->rip, (unsigned long long)b->gpa);
}

static bool outdated(const struct tr_block *b) {
    return __atomic_load_n(b->generation, __ATOMIC_SEQ_CST) != b->seen ||
           (b->second_generation &&
            __atomic_load_n(b->second_generation, __ATOMIC_SEQ_CST) != b->second_seen);
}

static void kill_outdated(struct soft_vcpu *c, u32 *at) {
    struct soft_tr *t = c->tr;
    while (*at) {
        struct tr_block *b = &t->blocks[(*at - 1) >> 1];
        u32 *next = &b->next_page[(*at - 1) & 1];
        if (!b->dead && outdated(b)) {
            kill(c, b);
        }
        if (b->dead) {
            *at = *next;
        } else {
            at = next;
        }
    }
}

void soft_tr_purge(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    __atomic_fetch_and(&c->request, ~(u32)SOFT_REQ_CODE, __ATOMIC_SEQ_CST);
    u64 page = __atomic_exchange_n(&c->tr_purge_page, PURGE_NONE, __ATOMIC_SEQ_CST);
    if (!t || page == PURGE_NONE) {
        return;
    }
    if (page != PURGE_ALL) {
        kill_outdated(c, tr_cache_page(t, page));
    } else {
        for (u32 i = 0; i < ARRAY_LEN(t->page_head); i++) {
            kill_outdated(c, &t->page_head[i]);
        }
    }
    serialise();
}

void soft_tr_outdated(struct soft_vm *vm, u64 gpa) {
    u64 page = gpa & ~PAGE_MASK;
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *c = __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
        if (!c || !c->tr) {
            continue;
        }
        u64 none = PURGE_NONE;
        if (!__atomic_compare_exchange_n(&c->tr_purge_page, &none, page, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST) &&
            none != page) {
            __atomic_store_n(&c->tr_purge_page, PURGE_ALL, __ATOMIC_SEQ_CST);
        }
        __atomic_fetch_or(&c->request, SOFT_REQ_CODE, __ATOMIC_SEQ_CST);
    }
}

/* --- running -------------------------------------------------------------------------------------
 */

/* A processor exception: the interpreter does that instruction and meets it again. */
static void after_fault(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    const struct tr_point *p =
        tr_point_find(t, (u32)(c->tr_fault_rip - (u64)(uintptr_t)t->code.rx));
    t->force = true;
    if (!p) {
        c->exit->kind = EXIT_ERROR;
        static const char text[] = "soft engine: exception in generated code";
        memcpy(c->exit->error.text, text, sizeof(text));
        c->leave |= SOFT_LEAVE_EXIT;
        return;
    }
    c->next_rip = p->rip + (p->floats ? c->tr_delta : 0);
    if (p->flags || p->flags_saved) {
        tr_flags_home(c, p->flags);
    } else {
        c->aflags = c->tr_fault_flags;
    }
}

/* The branch to an address that is not canonical faults itself: undo what it did. */
static void after_indirect(struct soft_vcpu *c, const struct tr_exit *e) {
    u64 rip = c->next_rip;
    if ((u64)((s64)(rip << 16) >> 16) != rip) { /* never in 32-bit code */
        s64 moved = (s16)e->size;
        c->s.gpr[GPR_RSP] -= (u64)moved;
        c->next_rip = e->rip + tr_off_by(c, e);
        c->tr->force = true;
        if (moved < 0) { /* CALL has pushed, perhaps over its operand: not to be repeated */
            c->block_rip = c->next_rip;
            soft_fault(c, EXC_GP, true, 0);
        }
    }
}

typedef void (*enter_fn)(struct soft_vcpu *c, const u8 *code);

static void call_code(struct soft_vcpu *c, const u8 *code) {
    struct soft_tr *t = c->tr;
    enter_fn fn;
    memcpy(&fn, &t->code.rx, sizeof(fn));
    tr_flags_out(c);
    c->block = NULL;
    c->uop = &c->cache->fetch;
    c->block_rip = c->next_rip;
    t->stats.entries++;
    fn(c, code);
    c->block = NULL;
    c->uop = &c->cache->fetch;
    const struct tr_exit *e = &t->exits[c->tr_exit];
    if (e->kind != TR_FAULT) { /* at MISS and STEP C code has settled it */
        tr_flags_home(c, e->kind == TR_SELF ? e->flags : (u32)FLAGS_AT_HOME);
    }
}

/* A trace could not be entered: perhaps only because it was not verified lately. */
static bool again(struct soft_vcpu *c, const struct tr_exit *e, const u8 **code) {
    const struct tr_block *b = &c->tr->blocks[e->block];
    if (b->floats) { /* it may have been about to be off by something else (STUB_FLOAT) */
        tr_delta_set(c, c->tr_delta);
    }
    c->next_rip = c->block_rip = e->rip + tr_off_by(c, e);
    if (tr_must_look(c) || !tr_verify(c, b)) {
        return false;
    }
    *code = c->tr->code.rx + b->entry[ENTRY_X];
    return true;
}

u32 tr_enter(struct soft_vcpu *c, const u8 *code) {
    struct soft_tr *t = c->tr;
    u32 exit;
    const struct tr_exit *e;
    do {
        call_code(c, code);
        exit = c->tr_exit;
        e = &t->exits[exit];
        t->stats.left[e->kind]++;
    } while (e->kind == TR_SELF && again(c, e, &code));
    switch (e->kind) {
    case TR_FAULT:
        after_fault(c);
        return 0;
    case TR_EDGE:
    case TR_SELF:
        c->next_rip = e->rip + tr_off_by(c, e);
        return exit;
    case TR_INDIRECT:
        after_indirect(c, e);
        return exit;
    case TR_MISS:
        return 0; /* next_rip is set */
    default:
        return exit;
    }
}

static void connect(struct soft_vcpu *c, u32 exit, struct tr_block *to) {
    struct soft_tr *t = c->tr;
    if (exit && t->exits[exit].kind == TR_EDGE) {
        join(t, exit, to);
    } else {
        jump_set(c, to);
    }
}

static inline u32 enter(struct soft_vcpu *c, const u8 *code) {
    return UNLIKELY(c->verify) ? soft_verify_enter(c, code) : tr_enter(c, code);
}

/* Runs what is at next_rip by way of its block. exit: how generated code was left, or 0. */
static u32 run_found(struct soft_vcpu *c, u32 exit) {
    struct soft_tr *t = c->tr;
    bool able = tr_able(c);
    struct soft_block *cold =
        able && !t->force && !t->want_alone ? tr_known_cold(c, c->next_rip) : NULL;
    if (cold) {
        cold->heat++;
        tr_interpret(c, cold, able);
        return 0;
    }
    if (UNLIKELY(!tr_cache_room(t))) {
        tr_cache_make_room(c);
        exit = 0;
    }
    if (UNLIKELY(!tr_pages_room(t))) {
        t->stats.flushed_slots++;
        TRACE(c->vm->ev->trace, TRACE_TRANSLATOR, "flush: too many pages of code");
        tr_cache_forget(c);
        exit = 0;
    }
    u64 rip = c->next_rip;
    bool same = exit && t->exits[exit].kind == TR_EDGE && t->exits[exit].floats;
    bool alone = t->want_alone;
    t->want_alone = false;
    struct tr_block *n = able && !t->force && !alone ? find_place(c, rip, same) : NULL;
    if (!n) {
        struct soft_block *b = soft_find_next(c, rip, (rip + c->cs_base) & c->addr_mask);
        n = !able || t->force ? NULL : alone ? find_alone(c, b, rip) : find(c, b, rip, same);
        if (!n) {
            if (!(c->leave & SOFT_LEAVE_EXIT)) {
                tr_interpret(c, b, able);
            }
            return 0;
        }
    }
    if (n->floats) {
        tr_delta_note(c, rip);
    }
    if (!n->alone) {
        connect(c, exit, n);
    }
    return enter(c, t->code.rx + n->entry[ENTRY_M]);
}

void soft_tr_blocks(struct soft_vcpu *c) {
    u32 exit = 0;
    do {
        u64 host = exit || c->tr->force || c->tr->want_alone ? 0 : tr_jump_find(c, c->next_rip);
        if (host) {
            exit = enter(c, (const u8 *)(uintptr_t)host); /* entry X checks all */
        } else {
            exit = run_found(c, exit);
        }
    } while (LIKELY(!tr_must_look(c)));
}

void soft_tr_stats(const struct soft_vcpu *c, struct engine_tr_stats *stats) {
    const struct soft_tr *t = c->tr;
    if (!t) {
        return;
    }
    *stats = t->stats;
    stats->code_bytes = tr_cache_touched(t);
    stats->jump_misses = t->stats.left[TR_INDIRECT];
    stats->counting = c->vm->ev->translator.count;
    stats->counted = c->tr_counted;
    for (u32 id = 0; id < INSN_COUNT; id++) {
        u64 count = t->step_count[id];
        for (u32 k = 0; k < ARRAY_LEN(stats->step_top); k++) {
            if (count > stats->step_top[k].count) {
                u32 last = ARRAY_LEN(stats->step_top) - 1;
                memmove(&stats->step_top[k + 1], &stats->step_top[k],
                        (last - k) * sizeof(stats->step_top[0]));
                stats->step_top[k].id = (u16)id;
                stats->step_top[k].count = count;
                break;
            }
        }
    }
}
