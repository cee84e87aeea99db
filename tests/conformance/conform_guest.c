/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side: a machine of the software engine, long mode with paging, in which the case runs
 * at CPL 3 until something traps. The user pages are where the native side has them; everything of
 * the guest's kernel is at KERNEL.
 */
#include <sys/time.h>
#include <unistd.h>

#include "tests/unit/soft_machine.h"

#include "tests/conformance/conform.h"

/* in the upper half, where a case cannot tell it from the host's kernel (error_mask in
 * conform_compare.c) */
#define KERNEL 0xffffdb8000000000ull

enum {
    PAGE_TABLES = 0x1000, /* PML4; 2000, 3000 user; 4000, 9000 kernel */
    PT_CODE = 0x100000,   /* of CF_CODE's 2 MiB */
    PT_RAM = 0x101000,    /* of CF_RAM's */
    GUEST_RAM = 0x180000, /* physical */
    GUEST_CODE = 0x190000,
    GUEST_EXIT = 0x1a0000,
    KSEL_CS = 0x10,
    KSEL_TSS = 0x40,
    KSEL_LDT = 0x50,
    GDT_BYTES = 0x80,
};

struct cf_guest {
    struct sm *m;
    struct cpu_state base;
    u64 seed;
    u8 ram[CF_RAM_BYTES];
};

/* --- cases that do not end ---------------------------------------------------------------------
 */

enum { WATCH_MS = 900 };

static struct sm *volatile running; /* NULL between cases */
static volatile u64 turn;
static const struct cf_case *volatile current;

static void on_alarm(int sig) {
    static u64 seen;
    struct sm *m = running;
    (void)sig;
    if (m && seen == turn) {
        m->vm.ops->kick(&m->vcpu);
    }
    seen = turn;
}

/* The engine itself crashed: with which case? */
static void on_crash(int sig, siginfo_t *info, void *context) {
    static char line[CF_LINE];
    (void)info, (void)context;
    if (current) {
        cf_format(current, line);
        printf("CRASH signal %d%s\n%s\n", sig,
               running && running->vm.translator.on ? " translated" : "", line);
        fflush(stdout);
    }
    _exit(3);
}

static void watch_crashes(void) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction sa = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (u32 i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &sa, NULL);
    }
}

static void watch_begin(void) {
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART | SA_ONSTACK};
    struct itimerval often = {.it_interval = {.tv_usec = WATCH_MS * 1000},
                              .it_value = {.tv_usec = WATCH_MS * 1000}};
    sigaction(SIGPROF, &sa, NULL); /* processor time: other work on the host does not count */
    setitimer(ITIMER_PROF, &often, NULL);
}

/* --- set-up ------------------------------------------------------------------------------------
 */

static void map_pages(struct sm *m) {
    u64 user = PAGE_TABLES + 0x1000, dir = PAGE_TABLES + 0x2000, kernel = PAGE_TABLES + 0x3000;
    sm_put(m, PAGE_TABLES, 8, user | 7);
    sm_put(m, PAGE_TABLES + (KERNEL >> 39 & 511) * 8, 8, kernel | 3);
    sm_put(m, user, 8, dir | 7);
    sm_put(m, kernel, 8, 0xd000 | 3);
    sm_put(m, 0xd000, 8, 0x83); /* 4 MiB of RAM for the kernel */
    sm_put(m, 0xd008, 8, 0x200083);
    sm_put(m, dir + (CF_CODE >> 21) * 8, 8, PT_CODE | 7);
    sm_put(m, dir + (CF_RAM >> 21) * 8, 8, PT_RAM | 7);
    for (u64 i = 0; i < CF_CODE_BYTES >> 12; i++) {
        sm_put(m, PT_CODE + i * 8, 8, (GUEST_CODE + (i << 12)) | 5);
    }
    /* a fetch from there faults: so it may hold what the native side reads there */
    sm_put(m, PT_CODE + ((CF_EXIT & 0x1fffff) >> 12) * 8, 8, GUEST_EXIT | 5 | BIT(63));
    for (u64 i = 0; i < CF_RAM_BYTES >> 12; i++) {
        u64 flags = i < CF_RAM_WRITABLE >> 12 ? 7 : 5;
        sm_put(m, PT_RAM + i * 8, 8, (GUEST_RAM + (i << 12)) | flags | BIT(63));
    }
}

static u64 ldt_desc(const struct cf_ldt *e) {
    u32 access = 0x60 | (e->not_present ? 0 : 0x80) | 0x11;
    access |= (u32)e->contents << 2 | (e->read_exec_only ? 0 : 2);
    return sm_desc(e->base, e->limit, access, (e->wide ? 4u : 0u) | 1);
}

static void put_descriptors(struct sm *m) {
    u64 tss = KERNEL + SM_TSS, ldt = KERNEL + SM_LDT;
    sm_gdt(m, KSEL_CS, sm_desc(0, 0xfffff, 0x9b, 0xa));
    sm_gdt(m, 0x18, sm_desc(0, 0xfffff, 0x93, 0xc));
    sm_gdt(m, CF_SEL_CS32, sm_desc(0, 0xfffff, 0xfb, 0xc));
    sm_gdt(m, CF_SEL_DS, sm_desc(0, 0xfffff, 0xf3, 0xc));
    sm_gdt(m, CF_SEL_CS64, sm_desc(0, 0xfffff, 0xfb, 0xa));
    sm_gdt(m, 0x78, sm_desc(0, 0, 0xf5, 0x4)); /* Linux keeps the processor's number there */
    sm_gdt(m, KSEL_TSS, sm_desc((u32)tss, 0x67, 0x8b, 0));
    sm_put(m, SM_GDT + KSEL_TSS + 8, 8, tss >> 32);
    sm_gdt(m, KSEL_LDT, sm_desc((u32)ldt, CF_LDT_ENTRIES * 8 - 1, 0x82, 0));
    sm_put(m, SM_GDT + KSEL_LDT + 8, 8, ldt >> 32);
    for (u32 i = 0; i < CF_LDT_ENTRIES; i++) {
        sm_put(m, SM_LDT + i * 8, 8, ldt_desc(&cf_ldt[i]));
    }
    for (u32 v = 0; v < 32; v++) {
        u32 access = v == EXC_BP || v == EXC_OF ? 0xee : 0x8e;
        sm_gate(m, SM_IDT + v * 16, KSEL_CS, KERNEL + SM_HANDLER + v * 16, access, 1, true);
    }
    sm_put(m, SM_TSS + 4, 8, KERNEL + SM_RSP0);
    sm_put(m, SM_TSS + 36, 8, KERNEL + SM_IST1);
    sm_put(m, SM_TSS + 102, 2, 104);
    memset(m->hram.hva + SM_HANDLER, 0xf4, 0x1000);
}

static struct segment seg_flat(u16 sel, u32 attr) {
    return (struct segment){.sel = sel, .attr = attr, .limit = UINT32_MAX};
}

static void base_state(struct cf_guest *g) {
    struct cpu_state *s = &g->base;
    cpu_state_reset(s, true);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = PAGE_TABLES;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->msr.efer = EFER_NXE | EFER_LME | EFER_LMA | EFER_SCE;
    s->xcr0 = 7;
    s->gdtr = (struct desc_table){KERNEL + SM_GDT, GDT_BYTES - 1};
    s->idtr = (struct desc_table){KERNEL + SM_IDT, 32 * 16 - 1};
    s->tr = (struct segment){.sel = KSEL_TSS, .base = KERNEL + SM_TSS, .limit = 0x67, .attr = 0x8b};
    s->ldtr = (struct segment){
        .sel = KSEL_LDT, .base = KERNEL + SM_LDT, .limit = CF_LDT_ENTRIES * 8 - 1, .attr = 0x82};
}

struct cf_guest *cf_guest_create(bool translator) {
    struct cf_guest *g = calloc(1, sizeof(*g));
    if (!g) {
        return NULL;
    }
    if (translator) {
        setenv("SOSIA_TEST_TRANSLATOR", "1", 1);
    } else {
        unsetenv("SOSIA_TEST_TRANSLATOR");
    }
    if (!translator) {
        watch_crashes(); /* before the engine's own handlers, which pass on what is not theirs */
    }
    g->m = sm_create();
    watch_begin();
    memset(g->m->hram.hva, 0, SM_RAM);
    map_pages(g->m);
    put_descriptors(g->m);
    cf_exit_bytes(g->m->hram.hva + GUEST_EXIT);
    memset(g->m->hram.hva + GUEST_CODE, 0xcc, CF_CODE_BYTES);
    ram_written(&g->m->ram, 0, SM_RAM);
    base_state(g);
    g->seed = ~0ull;
    g->m->s = g->base;
    if (g->m->vm.ops->state_set(&g->m->vcpu, STATE_ALL, &g->base)) {
        sm_fail("state_set refused the state");
    }
    return g;
}

void cf_guest_destroy(struct cf_guest *g) {
    if (g) {
        sm_destroy(g->m);
        free(g);
    }
}

u64 cf_guest_features(const struct cf_guest *g) {
    return g->m->policy.features;
}

/* --- cases -------------------------------------------------------------------------------------
 */

/* The hidden part of a segment register that Linux's GDT or the LDT would give. */
static struct segment seg_of(u16 sel, bool code) {
    if ((sel & ~3) == 0) {
        return (struct segment){.sel = sel, .attr = SEG_ATTR_UNUSABLE};
    }
    if (sel == CF_SEL_CS64) {
        return seg_flat(sel, 0xa0fb);
    }
    if (!(sel & 4)) {
        return seg_flat(sel, code ? 0xc0fb : 0xc0f3);
    }
    const struct cf_ldt *e = &cf_ldt[sel >> 3];
    u64 d = ldt_desc(e);
    return (struct segment){
        .sel = sel, .base = e->base, .limit = e->limit, .attr = (u32)(d >> 40) & 0xf0ff};
}

static void ram_renew(struct cf_guest *g, u64 seed) {
    if (seed == g->seed) {
        return;
    }
    g->seed = seed;
    cf_ram_fill(g->ram, seed);
    memcpy(g->m->hram.hva + GUEST_RAM, g->ram, CF_RAM_BYTES);
}

static void code_put(struct cf_guest *g, const struct cf_case *t) {
    u8 bytes[CF_SLOT];
    u32 n = cf_code_bytes(t, bytes);
    memcpy(g->m->hram.hva + GUEST_CODE + t->entry, bytes, n);
}

void cf_guest_load(struct cf_guest *g, const struct cf_case *t, u32 count) {
    for (u32 i = 0; i < count; i++) {
        code_put(g, &t[i]);
    }
    ram_written(&g->m->ram, GUEST_CODE, CF_CODE_BYTES);
}

static void state_fill(const struct cf_guest *g, const struct cf_case *t, struct cpu_state *s) {
    const struct cf_view *v = &cf_view[t->side];
    u64 bv = 7;
    memcpy(s->gpr, t->gpr, sizeof(s->gpr));
    s->rip = (v->ldt ? 0 : CF_CODE) + t->entry;
    s->rflags = t->flags | FLAG_IF | 2;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = seg_of(t->sel[i], i == SEG_CS);
    }
    s->seg[SEG_FS].base = t->fs_base;
    s->seg[SEG_GS].base = t->gs_base;
    s->cr2 = 0;
    memcpy(s->xsave, t->xsave, CF_LEGACY);
    memset(s->xsave + CF_BV, 0, 64);
    memcpy(s->xsave + CF_BV, &bv, 8);
    memcpy(s->xsave + CF_YMMH, t->xsave + CF_YMMH, 256);
    s->events = g->base.events;
    s->mp_state = MP_RUNNABLE;
}

/* The fetch from CF_EXIT, in the form that the native side gives it: INT3. */
static void result_exit(struct cf_result *r) {
    if (r->vector == EXC_PF && r->rip == CF_EXIT && r->cr2 == CF_EXIT) {
        r->vector = EXC_BP;
        r->error = 0;
        r->cr2 = 0;
        r->rip = CF_EXIT + 1;
    }
}

static void result_take(struct cf_guest *g, struct cf_result *r) {
    struct sm *m = g->m;
    const struct cpu_state *s = &m->s;
    u64 at = s->rip - 1 - (KERNEL + SM_HANDLER);
    r->vector = m->exit.kind == EXIT_HLT && at < 0x200 ? (u32)at / 16 : 0x100u + m->exit.kind;
    if (m->exit.kind == EXIT_KICK) {
        r->vector = CF_ENDLESS;
    }
    bool error = r->vector == 8 || (r->vector >= 10 && r->vector <= 14) || r->vector == EXC_AC;
    u64 sp = s->gpr[GPR_RSP] - KERNEL;
    u64 frame[6] = {0};
    if (sp < SM_RAM - sizeof(frame)) {
        memcpy(frame, m->hram.hva + sp + (error ? 0 : -8), sizeof(frame));
    }
    r->error = error ? (u32)frame[0] : 0;
    r->rip = frame[1];
    r->flags = frame[3];
    r->cr2 = s->cr2;
    memcpy(r->gpr, s->gpr, sizeof(r->gpr));
    r->gpr[GPR_RSP] = frame[4];
    result_exit(r);
    for (u32 i = 0; i < SEG_COUNT; i++) {
        r->sel[i] = s->seg[i].sel;
    }
    r->sel[SEG_CS] = (u16)frame[2];
    r->sel[SEG_SS] = (u16)frame[5];
    r->fs_base = s->seg[SEG_FS].base;
    r->gs_base = s->seg[SEG_GS].base;
    u64 bv;
    memcpy(&bv, s->xsave + CF_BV, 8);
    memcpy(r->xsave, s->xsave, CF_LEGACY);
    memcpy(r->xsave + CF_YMMH, s->xsave + CF_YMMH, 256);
    cf_xsave_canonical(r->xsave, bv);
}

void cf_guest_run(struct cf_guest *g, const struct cf_case *t, struct cf_result *r) {
    const u64 groups = STATE_GPR | STATE_SREG | STATE_XSAVE | STATE_EVENTS;
    struct sm *m = g->m;
    u8 *ram = m->hram.hva + GUEST_RAM;
    ram_renew(g, t->ram_seed);
    if (t->entry >= CF_SLOTS * CF_SLOT) {
        code_put(g, t);
        ram_written(&m->ram, GUEST_CODE + (t->entry & ~4095ull), 8192);
    }
    memcpy(ram + t->patch_at, t->patch, CF_PATCH);
    state_fill(g, t, &m->s);
    if (m->vm.ops->state_set(&m->vcpu, groups, &m->s)) {
        sm_fail("state_set refused the state");
    }
    m->exit.kind = EXIT_KICK;
    turn++;
    current = t;
    running = m;
    if (m->vm.ops->run(&m->vcpu, &m->exit) || m->vm.ops->state_get(&m->vcpu, groups, &m->s)) {
        sm_fail("run failed");
    }
    running = NULL;
    result_take(g, r);
    r->diffs = cf_ram_diff(ram, g->ram, r->diff);
}
