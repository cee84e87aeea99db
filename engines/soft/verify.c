/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock-step of translated code and interpreter; see verify.h.
 *
 * Not compared: FIP, FDP and FOP of the x87 unit. A difference that a device's DMA or
 * the accessed and dirty bits of a page walk explain is none; where another thread wrote memory
 * during a window and registers differ, the window is counted as unclear.
 */
#include "engines/soft/verify.h"

#include "core/base/fmt.h"
#include "core/mem/ram.h"
#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/look.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"

enum { XSAVE_USED = XS_YMMH + 256, LONGJMP_STOP = 2, WAIT_YIELDS = 1000000 };

/* --- life ---------------------------------------------------------------------------------------
 */

int soft_verify_create(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    struct soft_verify *v = host->ops->pages(host, sizeof(*v));
    if (!v) {
        return -ERR_NOMEM;
    }
    v->period = MAX(c->vm->ev->translator.verify, 1u);
    v->random = 0x9e3779b97f4a7c15;
    v->opened_over = true;
    c->verify = v;
    return 0;
}

void soft_verify_destroy(struct soft_vcpu *c) {
    if (c->verify) {
        c->vm->host->ops->pages_free(c->vm->host, c->verify, sizeof(*c->verify));
    }
    c->verify = NULL;
}

/* --- states ------------------------------------------------------------------------------------
 */

#define AT_XSAVE  offsetof(struct soft_vcpu, s.xsave)
#define AT_SECOND offsetof(struct soft_vcpu, fault_vector)

void verify_state_take(const struct soft_vcpu *c, struct verify_state *to) {
    const u8 *from = (const u8 *)c;
    size_t behind = AT_XSAVE + XSAVE_AREA_SIZE;
    memcpy(to->first, from, AT_XSAVE + XSAVE_USED);
    memcpy(to->first + behind, from + behind, sizeof(to->first) - behind);
    memcpy(to->second, from + AT_SECOND, sizeof(to->second));
    to->context = c->tlb->now;
    to->fip = c->vec->fip;
    to->fdp = c->vec->fdp;
    to->fop = c->vec->fop;
    to->pkru = soft_pkru_get(c);
}

void verify_state_put(struct soft_vcpu *c, const struct verify_state *from) {
    u8 *to = (u8 *)c;
    size_t behind = AT_XSAVE + XSAVE_AREA_SIZE;
    c->vec->x87_live = false;
    memcpy(to, from->first, AT_XSAVE + XSAVE_USED);
    memcpy(to + behind, from->first + behind, sizeof(from->first) - behind);
    memcpy(to + AT_SECOND, from->second, sizeof(from->second));
    c->tlb->now = from->context;
    c->vec->fip = from->fip;
    c->vec->fdp = from->fdp;
    c->vec->fop = from->fop;
    if (soft_pkru_get(c) != from->pkru) {
        soft_pkru_set(c, from->pkru);
        soft_tlb_flush_all(c);
    }
    soft_derived_update(c);
}

static bool same_segment(const struct segment *a, const struct segment *b) {
    return a->base == b->base && a->limit == b->limit && a->attr == b->attr && a->sel == b->sel;
}

static bool same_table(const struct desc_table *a, const struct desc_table *b) {
    return a->base == b->base && a->limit == b->limit;
}

static bool same_msrs(const struct cpu_msrs *a, const struct cpu_msrs *b) {
    size_t tsc = offsetof(struct cpu_msrs, tsc), behind = tsc + sizeof(a->tsc);
    return !memcmp(a, b, tsc) &&
           !memcmp((const u8 *)a + behind, (const u8 *)b + behind, sizeof(*a) - behind);
}

static bool same_events(const struct cpu_events *a, const struct cpu_events *b) {
    return a->exception_pending == b->exception_pending &&
           a->interrupt_pending == b->interrupt_pending && a->nmi_pending == b->nmi_pending &&
           a->nmi_blocked == b->nmi_blocked && a->shadow == b->shadow;
}

bool verify_same_system(const struct cpu_state *a, const struct cpu_state *b) {
    for (u32 i = 0; i < SEG_COUNT; i++) {
        if (!same_segment(&a->seg[i], &b->seg[i])) {
            return false;
        }
    }
    return same_segment(&a->ldtr, &b->ldtr) && same_segment(&a->tr, &b->tr) &&
           same_table(&a->gdtr, &b->gdtr) && same_table(&a->idtr, &b->idtr) && a->cr0 == b->cr0 &&
           a->cr2 == b->cr2 && a->cr3 == b->cr3 && a->cr4 == b->cr4 && a->cr8 == b->cr8 &&
           a->xcr0 == b->xcr0 && !memcmp(a->dr, b->dr, sizeof(a->dr)) && a->dr6 == b->dr6 &&
           a->dr7 == b->dr7 && same_msrs(&a->msr, &b->msr) && same_events(&a->events, &b->events);
}

static bool same_vectors(const struct soft_verify *v, const struct cpu_state *a,
                         const struct cpu_state *b) {
    const u8 *x = a->xsave, *y = b->xsave;
    u32 mxcsr = get32(x + XS_MXCSR) ^ get32(y + XS_MXCSR);
    return !memcmp(x, y, XS_FOP) && !(mxcsr & v->mxcsr) &&
           !memcmp(x + XS_ST, y + XS_ST, XS_LEGACY - XS_ST) &&
           !memcmp(x + XS_YMMH, y + XS_YMMH, 256);
}

/* --- pages -------------------------------------------------------------------------------------
 */

static _Noreturn void stop(struct soft_vcpu *c) {
    soft_longjmp(c->jump, LONGJMP_STOP);
}

static struct verify_page *page_find(struct soft_verify *v, u64 gpa) {
    for (u32 i = 0; i < v->page_count; i++) {
        if (v->page[i].gpa == gpa) {
            return &v->page[i];
        }
    }
    return NULL;
}

/* The page of gpa, its bytes of now kept; NULL when there is no room. */
__attribute__((no_sanitize_thread)) static struct verify_page *page_keep(struct soft_vcpu *c,
                                                                         u64 gpa) {
    struct soft_verify *v = c->verify;
    struct verify_page *p = page_find(v, gpa);
    u8 *ram = ram_ptr(c->vm->ram, gpa, PAGE_SIZE);
    if (p) {
        return p;
    }
    if (v->page_count == VERIFY_PAGES || !ram) {
        return NULL;
    }
    p = &v->page[v->page_count++];
    p->gpa = gpa;
    p->ram = ram;
    memcpy(p->old, ram, PAGE_SIZE);
    memcpy(p->now, p->old, PAGE_SIZE);
    return p;
}

void soft_verify_opened(struct soft_vcpu *c, struct tlb_entry *e, u64 gpa) {
    struct soft_verify *v = c->verify;
    if (v->opened_count < VERIFY_OPENED) {
        v->opened[v->opened_count++] = e;
    } else {
        v->opened_over = true;
    }
    if (v->phase == VERIFY_LIVE && !page_keep(c, gpa & ~PAGE_MASK)) {
        e->write = TLB_NONE;
        stop(c);
    }
}

void soft_verify_looked(struct soft_vcpu *c, struct look_set *set, u32 slot) {
    struct soft_verify *v = c->verify;
    if (v->looked_resets != c->tlb->look->resets) { /* those tables are gone */
        v->looked_resets = c->tlb->look->resets;
        v->looked_count = 0;
    }
    if (v->looked_count < VERIFY_OPENED) {
        v->looked[v->looked_count++] = (struct verify_look){.set = set, .slot = slot};
    } else {
        v->opened_over = true;
    }
}

/* Every page that generated code is going to write shall miss first. */
static void close_all(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    if (v->opened_over) {
        soft_tlb_drop_all_writes(c);
    }
    for (u32 i = 0; i < v->opened_count; i++) {
        v->opened[i]->write = TLB_NONE;
    }
    for (u32 i = 0; i < v->looked_count && v->looked_resets == c->tlb->look->resets; i++) {
        v->looked[i].set->write[v->looked[i].slot] = look_none(v->looked[i].slot);
    }
    v->opened_over = false;
    v->opened_count = v->looked_count = 0;
}

void soft_verify_access(struct soft_vcpu *c, bool write, struct mem_at *at) {
    struct soft_verify *v = c->verify;
    u64 page = at->gpa & ~PAGE_MASK;
    if (v->phase == VERIFY_NONE) {
        return;
    }
    if (!at->host || at->slow) {
        stop(c);
    }
    if (v->phase != VERIFY_SHADOW || at->rom) {
        return;
    }
    struct verify_page *p = write ? page_keep(c, page) : page_find(v, page);
    if (p) {
        at->host = p->now + (at->gpa & PAGE_MASK);
    } else if (write) {
        stop(c);
    }
}

void soft_verify_external(struct soft_vm *vm, u64 gpa, u64 size) {
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *c = __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
        struct soft_verify *v = c ? c->verify : NULL;
        if (!v) {
            continue;
        }
        u32 n = __atomic_fetch_add(&v->outside_count, 1, __ATOMIC_SEQ_CST);
        if (n < VERIFY_OUTSIDE) {
            __atomic_store_n(&v->outside[n].size, size, __ATOMIC_SEQ_CST);
            __atomic_store_n(&v->outside[n].gpa, gpa, __ATOMIC_SEQ_CST);
        }
        if (!__atomic_load_n(&v->walking, __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&v->foreign, 1, __ATOMIC_SEQ_CST);
        }
    }
}

static bool outside_wrote(const struct soft_verify *v, u64 gpa) {
    u32 count = __atomic_load_n(&v->outside_count, __ATOMIC_SEQ_CST);
    for (u32 i = 0; i < MIN(count, (u32)VERIFY_OUTSIDE); i++) {
        u64 at = __atomic_load_n(&v->outside[i].gpa, __ATOMIC_SEQ_CST);
        if (gpa - at < __atomic_load_n(&v->outside[i].size, __ATOMIC_SEQ_CST)) {
            return true;
        }
    }
    return count > VERIFY_OUTSIDE; /* not all are known */
}

__attribute__((no_sanitize_thread)) u32 verify_page_differs(const struct soft_verify *v,
                                                            const struct verify_page *p) {
    if (!memcmp(p->ram, p->now, PAGE_SIZE)) {
        return PAGE_SIZE;
    }
    for (u32 at = 0; at < PAGE_SIZE; at++) {
        if (((const volatile u8 *)p->ram)[at] != p->now[at] && !outside_wrote(v, p->gpa + at)) {
            return at;
        }
    }
    return PAGE_SIZE;
}

static bool same_memory(const struct soft_verify *v) {
    for (u32 i = 0; i < v->page_count; i++) {
        if (verify_page_differs(v, &v->page[i]) < PAGE_SIZE) {
            return false;
        }
    }
    return true;
}

/* --- live --------------------------------------------------------------------------------------
 */

static u64 random_next(struct soft_verify *v) {
    v->random ^= v->random << 13;
    v->random ^= v->random >> 7;
    v->random ^= v->random << 17;
    return v->random;
}

/* The trace that is entered n-th makes the entry of the next one fail (tr_flow.c). */
static void turns_set(struct soft_vcpu *c, u32 n) {
    for (u32 i = 0; i < ARRAY_LEN(c->tr_turns); i++) {
        c->tr_turns[i] = n && i >= n;
    }
    __atomic_fetch_and(&c->request, ~(u32)SOFT_REQ_TURN, __ATOMIC_SEQ_CST);
}

static void begin(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    soft_vec_leave(c);
    close_all(c);
    v->page_count = 0;
    v->outside_count = v->foreign = 0;
    v->turns = 1 + (u32)(random_next(v) % VERIFY_TURNS);
    memcpy(v->outer, c->jump, sizeof(v->outer));
    verify_state_take(c, &v->before);
    turns_set(c, v->turns);
    v->phase = VERIFY_LIVE;
}

/* Where generated code has stopped, as between two blocks. */
static void stand(struct soft_vcpu *c, u64 rip) {
    c->next_rip = c->block_rip = rip;
    c->uop = &c->cache->fetch;
    c->block = NULL;
}

static void live(struct soft_vcpu *c, const u8 *code) {
    struct soft_verify *v = c->verify;
    begin(c);
    int how = soft_setjmp(c->jump);
    if (how == 0) {
        v->outcome = VERIFY_WENT;
        v->exit = tr_enter(c, code);
    } else {
        v->outcome = how == LONGJMP_STOP ? VERIFY_STOPPED : VERIFY_FAULTED;
        v->exit = 0;
        c->next_rip = soft_rip(c);
        c->tr->force = true;
    }
    v->phase = VERIFY_NONE;
    stand(c, c->next_rip);
    /* A vector exception leaves its flag; the interpreter executes the instruction again. */
    v->mxcsr = c->tr->exits[c->tr_exit].kind == TR_FAULT ? ~0x3fu : UINT32_MAX;
    turns_set(c, 0);
    soft_vec_leave(c);
    verify_state_take(c, &v->live);
}

bool soft_verify_may_step(const struct soft_vcpu *c, const struct tr_exit *e) {
    if (c->verify->phase != VERIFY_LIVE) {
        return true;
    }
    switch (e->size) {
    case INSN_SYSCALL:
    case INSN_SYSRET:
    case INSN_IRET:
    case INSN_CLI:
    case INSN_POPF:
        return true;
    case INSN_RDTSC:
    case INSN_RDTSCP:
    case INSN_RDRAND:
    case INSN_RDSEED:
    case INSN_RDMSR:
    case INSN_WRMSR:
    case INSN_HLT:
    case INSN_IN:
    case INSN_OUT:
    case INSN_INS:
    case INSN_OUTS:
        return false;
    default:
        return e->kind != TR_STEP_END;
    }
}

/* --- shadow ------------------------------------------------------------------------------------
 */

static bool repeatable_insn(const struct insn *i) {
    switch (i->id) {
    case INSN_RDTSC:
    case INSN_RDTSCP:
    case INSN_RDRAND:
    case INSN_RDSEED:
    case INSN_HLT:
        return false;
    case INSN_MOV: /* CR8 is the local APIC's */
        return !(i->op[0].kind == OPERAND_REG && i->op[0].reg_class == REG_CR && i->op[0].reg == 8);
    default:
        return !(i->flags & INSN_IO);
    }
}

/* RDMSR and WRMSR of what belongs to the machine. */
static bool repeatable_msr(const struct soft_vcpu *c) {
    u32 index = (u32)c->s.gpr[GPR_RCX];
    return index >= 0xc0000080 && index <= 0xc0000103;
}

enum { REPEAT_UNKNOWN, REPEAT_YES, REPEAT_NO, REPEAT_MSR };

static bool repeatable(struct soft_vcpu *c, struct soft_block *b) {
    if (b->repeat == REPEAT_UNKNOWN) {
        struct insn insn;
        u32 avail = (u32)MIN(PAGE_SIZE - (b->gpa & PAGE_MASK), (u64)INSN_MAX_LEN);
        const u8 *code = ram_ptr(c->vm->ram, b->gpa, avail);
        enum decode_status s = code ? insn_decode(&insn, code, avail, c->mode) : DECODE_MORE;
        bool msr = s == DECODE_OK && (insn.id == INSN_RDMSR || insn.id == INSN_WRMSR);
        bool ok = s == DECODE_OK ? repeatable_insn(&insn) : code && s != DECODE_MORE;
        b->repeat = msr ? REPEAT_MSR : ok || b->crosses ? REPEAT_YES : REPEAT_NO;
    }
    return b->repeat == REPEAT_MSR ? repeatable_msr(c) : b->repeat == REPEAT_YES;
}

static bool is_repeating(const struct soft_block *b) {
    const struct uop *u = &b->uop[0];
    return (u->spare & UOP_KEPT) && (u->insn->flags & INSN_STRING) &&
           (u->insn->prefixes & (PREFIX_REP | PREFIX_REPNE));
}

static void run(struct soft_vcpu *c, struct soft_block *b, u64 rip) {
    c->block = b;
    c->block_rip = rip;
    c->uop = b->uop;
    b->uop[0].fn(c, b->uop);
}

/* A string instruction that generated code has left in the middle is stopped at the same count. */
static bool run_partly(struct soft_vcpu *c, struct soft_block *b, u64 rip) {
    u32 size = b->uop[0].addrsize;
    u64 have = soft_gpr_get(c, GPR_RCX, size), want, left, flags = c->aflags;
    memcpy(&want, &verify_cpu(&c->verify->live)->gpr[GPR_RCX], sizeof(want));
    want &= size == 8 ? UINT64_MAX : BIT(8 * size) - 1;
    if (rip != verify_rip(&c->verify->live) || !want || want >= have || !is_repeating(b)) {
        return false;
    }
    soft_gpr_set(c, GPR_RCX, size, have - want);
    run(c, b, rip);
    left = soft_gpr_get(c, GPR_RCX, size);
    soft_gpr_set(c, GPR_RCX, size, left + want);
    c->next_rip = left ? c->next_rip : rip;
    if (!left && c->verify->outcome == VERIFY_FAULTED) { /* CMPS, SCAS: as before the repetition */
        c->aflags = flags;
    }
    return true;
}

/* One instruction. False: it can be done only once. */
static bool step(struct soft_vcpu *c) {
    u64 rip = c->next_rip;
    bool one = c->one;
    if (one && !soft_insn_begin(c, rip)) {
        return false;
    }
    c->mode_key |= KEY_ONE; /* blocks of one instruction */
    c->jump_key |= KEY_ONE;
    c->leave = 0;
    struct soft_block *b = soft_find_next(c, rip, (rip + c->cs_base) & c->addr_mask);
    if (!repeatable(c, b)) {
        stand(c, rip);
        return false;
    }
    if (!run_partly(c, b, rip)) {
        run(c, b, rip);
    }
    if (one) {
        soft_insn_end(c);
    }
    return true;
}

static bool same_registers(const struct soft_vcpu *c) {
    const struct cpu_state *want = verify_cpu(&c->verify->live);
    return c->next_rip == verify_rip(&c->verify->live) &&
           !memcmp(c->s.gpr, want->gpr, sizeof(want->gpr));
}

static bool same_all(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    const struct cpu_state *want = verify_cpu(&v->live);
    if (!same_registers(c) || ((soft_rflags(c) ^ verify_flags(&v->live)) & ~FLAG_RF)) {
        return false;
    }
    soft_vec_leave(c);
    return verify_same_system(&c->s, want) && same_vectors(v, &c->s, want) && same_memory(v);
}

struct verify_fault verify_fault(const struct verify_state *s) {
    struct verify_fault f;
    memcpy(&f.vector, s->second, sizeof(f.vector));
    memcpy(&f.has_error, s->second + offsetof(struct soft_vcpu, fault_has_error) - AT_SECOND, 1);
    memcpy(&f.error, s->second + offsetof(struct soft_vcpu, fault_error) - AT_SECOND, 4);
    memcpy(&f.cr2, s->second + offsetof(struct soft_vcpu, fault_cr2) - AT_SECOND, 8);
    return f;
}

static bool same_fault(struct soft_vcpu *c) {
    struct verify_fault want = verify_fault(&c->verify->live);
    return c->fault_vector == want.vector && c->fault_has_error == want.has_error &&
           (!want.has_error || c->fault_error == want.error) &&
           (want.vector != EXC_PF || c->fault_cr2 == want.cr2) && same_all(c);
}

static void shadow_begin(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    for (u32 i = 0; i < v->page_count; i++) {
        memcpy(v->page[i].now, v->page[i].old, PAGE_SIZE);
    }
    verify_state_put(c, &v->before);
    v->steps = 0;
    v->ended = VERIFY_LONG;
    v->phase = VERIFY_SHADOW;
    soft_derived_update(c);
}

static void shadow_end(struct soft_vcpu *c) {
    soft_vec_leave(c);
    c->verify->phase = VERIFY_NONE;
}

/* For a report: of the times that the interpreter comes by, the one that is most alike. */
static void candidate(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    const struct cpu_state *want = verify_cpu(&v->live);
    u32 alike = 1 + ((soft_rflags(c) ^ verify_flags(&v->live)) & FLAG_ARITH ? 0 : 1);
    for (u32 r = 0; r < GPR_COUNT; r++) {
        alike += c->s.gpr[r] == want->gpr[r];
    }
    if (alike > v->likeness) {
        v->likeness = alike;
        v->candidate = v->steps + 1;
    }
}

/* Until the interpreter has come to the same state, or cannot any more. */
static enum verify_end shadow_walk(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    while (v->steps < VERIFY_STEPS) {
        if (c->next_rip == verify_rip(&v->live)) {
            if (v->outcome != VERIFY_FAULTED && same_all(c)) {
                return VERIFY_SAME;
            }
            candidate(c);
        }
        if (!step(c)) {
            return VERIFY_ONCE;
        }
        v->steps++;
    }
    return VERIFY_LONG;
}

static bool shadow(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    v->candidate = v->likeness = 0;
    shadow_begin(c);
    int how = soft_setjmp(c->jump);
    if (how == 0) {
        v->ended = (u8)shadow_walk(c);
    } else {
        stand(c, soft_rip(c));
        v->ended_vector = c->fault_vector;
        v->ended_cr2 = c->fault_cr2;
        v->ended = how == LONGJMP_STOP                             ? VERIFY_ACCESS
                   : v->outcome == VERIFY_FAULTED && same_fault(c) ? VERIFY_SAME
                                                                   : VERIFY_FAULT;
    }
    verify_state_take(c, &v->shadow);
    shadow_end(c);
    return v->ended == VERIFY_SAME;
}

/* --- a report's second look --------------------------------------------------------------------
 */

/* Did the last instruction change something that differs in the end? */
static bool guilty(const struct soft_vcpu *c, const struct verify_state *was, u64 flags_before) {
    const struct cpu_state *want = verify_cpu(&c->verify->live),
                           *end = verify_cpu(&c->verify->shadow);
    const struct cpu_state *old = verify_cpu(was);
    for (u32 r = 0; r < GPR_COUNT; r++) {
        if (want->gpr[r] != end->gpr[r] && c->s.gpr[r] != old->gpr[r]) {
            return true;
        }
    }
    u64 flags = verify_flags(&c->verify->live) ^ verify_flags(&c->verify->shadow);
    if ((soft_rflags(c) ^ flags_before) & flags) {
        return true;
    }
    for (u32 at = 0; at < XSAVE_USED; at++) {
        if (want->xsave[at] != end->xsave[at] && c->s.xsave[at] != old->xsave[at]) {
            return true;
        }
    }
    return false;
}

static void again_walk(struct soft_vcpu *c, u32 steps, struct verify_state *was) {
    struct soft_verify *v = c->verify;
    u8 byte[VERIFY_PAGES];
    u32 at[VERIFY_PAGES], pages = v->page_count;
    for (u32 i = 0; i < pages; i++) { /* `now` still is what the first look left */
        at[i] = verify_page_differs(v, &v->page[i]) % PAGE_SIZE;
    }
    shadow_begin(c);
    while (v->steps < steps) {
        for (u32 i = 0; i < pages; i++) {
            byte[i] = v->page[i].now[at[i]];
        }
        u64 rip = c->next_rip, flags = soft_rflags(c);
        verify_state_take(c, was);
        v->listed[v->steps % VERIFY_LISTED] = rip;
        if (!step(c)) {
            return;
        }
        bool mine = guilty(c, was, flags);
        for (u32 i = 0; i < pages; i++) {
            mine |= byte[i] != v->page[i].now[at[i]] && byte[i] != v->page[i].ram[at[i]];
        }
        v->culprit = mine ? v->steps % VERIFY_LISTED + 1 : v->culprit;
        v->steps++;
    }
}

void verify_shadow_again(struct soft_vcpu *c, u32 steps) {
    struct soft_verify *v = c->verify;
    struct host *host = c->vm->host;
    struct verify_state *was = host->ops->pages(host, sizeof(*was));
    v->culprit = 0;
    if (!was) {
        return;
    }
    if (soft_setjmp(c->jump) == 0) {
        again_walk(c, steps, was);
    } else {
        stand(c, soft_rip(c));
    }
    shadow_end(c);
    host->ops->pages_free(host, was, sizeof(*was));
}

/* --- a window ----------------------------------------------------------------------------------
 */

/* A device may have written memory and not have said so yet. */
static bool others_wrote(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    struct host *host = c->vm->host;
    u64 end = host_now(host) + NSEC_PER_SEC / 4;
    for (u32 n = 0; n < WAIT_YIELDS && host_now(host) < end; n++) { /* a clock may stand still */
        if (__atomic_load_n(&v->foreign, __ATOMIC_SEQ_CST)) {
            return true;
        }
        host->ops->yield(host);
    }
    return false;
}

static void diverged(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    v->stats.divergences++;
    verify_report(c);
    memcpy(c->jump, v->outer, sizeof(v->outer));
    verify_state_put(c, &v->live);
    c->exit->kind = EXIT_ERROR;
    fmt_str(c->exit->error.text, sizeof(c->exit->error.text),
            "lock-step: translated code and interpreter differ at RIP 0x%llx",
            (unsigned long long)verify_rip(&v->live));
    c->leave |= SOFT_LEAVE_EXIT;
}

static u32 window(struct soft_vcpu *c, const u8 *code) {
    struct soft_verify *v = c->verify;
    u64 resets = c->cache->resets;
    live(c, code);
    bool same = shadow(c);
    v->stats.windows++;
    v->stats.instructions += v->steps;
    if (!same && !others_wrote(c)) {
        diverged(c);
        return 0;
    }
    v->stats.unclear += !same;
    memcpy(c->jump, v->outer, sizeof(v->outer));
    verify_state_put(c, &v->live);
    if (v->outcome == VERIFY_FAULTED) {
        soft_longjmp(c->jump, 1);
    }
    return resets == c->cache->resets ? v->exit : 0;
}

u32 soft_verify_enter(struct soft_vcpu *c, const u8 *code) {
    struct soft_verify *v = c->verify;
    if (v->countdown) {
        v->countdown--;
        return tr_enter(c, code);
    }
    v->countdown = v->period - 1;
    return window(c, code);
}
