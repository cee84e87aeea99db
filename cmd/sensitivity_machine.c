/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare machine in which one instruction runs: long mode (64) or protected mode with paging
 * (32), identity-mapped, all pages open to CPL 3, descriptor tables with Linux' selectors, one
 * handler per vector. A handler writes to a port, which ends the run. Behind the instruction, and
 * all over its page, stands INT3.
 *
 * Every run starts from the same memory and the same registers, changed by one knob at most; so a
 * difference between two runs is that knob's doing, or time's.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/sensitivity.h"
#include "core/cpu/msr.h"

enum { INT3 = 0xcc, STOP_WAIT_MS = 400, VECTORS = 256 };

/* --- memory image ------------------------------------------------------------------------------
 */

static void put(struct sens_machine *m, u64 at, u32 size, u64 value) {
    memcpy(m->image + at, &value, size);
}

static u64 descriptor(u32 base, u32 limit, u32 access, u32 flags) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static void fill_gdt(struct sens_machine *m, u64 at) {
    static const struct {
        u16 sel;
        u8 access, flags;
    } flat[] = {{SENS_CS32, 0x9b, 0xc},      {SENS_CS64, 0x9b, 0xa},
                {SENS_DS, 0x93, 0xc},        {SENS_UCS32 & ~7, 0xfb, 0xc},
                {SENS_UDS & ~7, 0xf3, 0xc},  {SENS_UCS64 & ~7, 0xfb, 0xa},
                {SENS_UDS2 & ~7, 0xf3, 0xc}, {SENS_DS2, 0x93, 0xc}};
    for (size_t n = 0; n < ARRAY_LEN(flat); n++) {
        put(m, at + flat[n].sel, 8, descriptor(0, 0xfffff, flat[n].access, flat[n].flags));
    }
    u32 flags = m->mode == 64 ? 0xa : 0xc;
    put(m, at + SENS_CODE2, 8, descriptor(0, 0xfffff, 0x9b, flags));
    put(m, at + (SENS_UCODE2 & ~7u), 8, descriptor(0, 0xfffff, 0xfb, flags));
    put(m, at + SENS_TR, 8, descriptor(SENS_TSS, 0xff, 0x8b, 0));
    put(m, at + SENS_TR2, 8, descriptor(SENS_TSS2, 0xff, 0x89, 0));
    put(m, at + SENS_LDTR, 8, descriptor(SENS_LDT, 0x7f, 0x82, 0));
    put(m, at + SENS_LDTR2, 8, descriptor(SENS_LDT2, 0x7f, 0x82, 0));
}

/* Gates for all vectors, DPL 3: a software interrupt works at CPL 3. */
static void fill_idt(struct sens_machine *m, u64 at) {
    bool wide = m->mode == 64;
    for (u32 v = 0; v < VECTORS; v++) {
        u64 handler = SENS_HANDLER + v * 16, sel = wide ? SENS_CS64 : SENS_CS32;
        u64 gate = (handler & 0xffff) | sel << 16 | 0xeeull << 40 | (handler >> 16) << 48;
        gate |= wide ? 1ull << 32 : 0; /* IST 1: whatever the form did to RSP */
        put(m, at + (u64)v * (wide ? 16 : 8), 8, gate);
    }
}

static void fill_handlers(struct sens_machine *m, u64 at) {
    for (u32 v = 0; v < VECTORS + 2; v++) { /* OUT stop, AL; JMP self */
        put(m, at + v * 16, 4, 0xfeeb0000u | SENS_STOP_PORT << 8 | 0xe6);
    }
}

static void fill_tables(struct sens_machine *m, u64 at) {
    if (m->mode == 64) {
        put(m, at, 8, (at + 0x1000) | 7);
        put(m, at + 0x1000, 8, (at + 0x2000) | 7);
        put(m, at + 0x2000, 8, 0xe7); /* 2 MiB, accessed, dirty */
        put(m, at + 0x2008, 8, 0x2000e7);
    } else {
        put(m, at, 4, 0xe7); /* 4 MiB */
    }
}

static void fill_tss(struct sens_machine *m, u64 at) {
    if (m->mode == 64) {
        put(m, at + 4, 8, SENS_RSP0);
        put(m, at + 36, 8, SENS_RSP0); /* IST 1 */
    } else {
        put(m, at + 4, 4, SENS_RSP0);
        put(m, at + 8, 4, SENS_DS);
    }
    put(m, at + 102, 2, 104);
    memset(m->image + at + 104, 0xff, 0x98); /* no port is open */
}

static void fill_image(struct sens_machine *m) {
    memset(m->image, 0, SENS_LOW);
    fill_tables(m, SENS_PT);
    fill_tables(m, SENS_PT2);
    fill_tables(m, SENS_PT3);
    put(m, SENS_PT3 + 0x2000, 8, SENS_RAM / 2 | 0xe7);
    fill_gdt(m, SENS_GDT);
    fill_gdt(m, SENS_GDT2);
    fill_idt(m, SENS_IDT);
    fill_idt(m, SENS_IDT2);
    fill_handlers(m, SENS_HANDLER);
    fill_handlers(m, SENS_HANDLER2);
    fill_tss(m, SENS_TSS);
    fill_tss(m, SENS_TSS2);
    memset(m->image + SENS_CODE_PAGE, INT3, 0x1000);
}

/* --- processor ---------------------------------------------------------------------------------
 */

static struct segment segment(u16 sel, u32 attr) {
    return (struct segment){.sel = sel, .limit = 0xffffffff, .attr = attr};
}

static void base_system(struct sens_machine *m, struct cpu_state *s) {
    const struct cpuid_policy *p = &m->vm->cpuid;
    bool wide = m->mode == 64;
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = SENS_PT;
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PCE | (wide ? CR4_PAE : CR4_PSE);
    s->cr4 |= p->features & BIT(FEATURE_XSAVE) ? CR4_OSXSAVE : 0;
    s->cr4 |= p->features & BIT(FEATURE_FSGSBASE) ? CR4_FSGSBASE : 0;
    s->cr4 |= p->features & BIT(FEATURE_PKU) && wide ? CR4_PKE : 0;
    s->xcr0 = p->features & BIT(FEATURE_XSAVE) ? p->xcr0_allowed : XCR0_X87;
    s->msr.efer = EFER_SCE | EFER_NXE | (wide ? EFER_LME | EFER_LMA : 0);
    s->msr.star = (u64)(SENS_UCS32) << 48 | (u64)(wide ? SENS_CS64 : SENS_CS32) << 32;
    s->msr.lstar = SENS_HANDLER + VECTORS * 16;
    s->msr.cstar = s->msr.lstar;
    s->msr.sysenter_cs = SENS_CS64;
    s->msr.sysenter_eip = SENS_HANDLER + (VECTORS + 1) * 16;
    s->msr.sysenter_esp = SENS_RSP0;
}

static void base_state(struct sens_machine *m) {
    struct cpu_state *s = &m->base;
    cpu_state_reset(s, true);
    base_system(m, s);
    s->rflags = 2;
    s->rip = SENS_CODE;
    s->gdtr = (struct desc_table){SENS_GDT, SENS_GDT_LIMIT};
    s->idtr = (struct desc_table){SENS_IDT, m->mode == 64 ? 0xfff : 0x7ff};
    s->tr = (struct segment){.sel = SENS_TR, .base = SENS_TSS, .limit = 0xff, .attr = 0x8b};
    s->ldtr = (struct segment){.sel = SENS_LDTR, .base = SENS_LDT, .limit = 0x7f, .attr = 0x82};
}

static void set_privilege(struct sens_machine *m, u32 cpl) {
    struct cpu_state *s = &m->s;
    u32 dpl = cpl << SEG_ATTR_DPL_SHIFT;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = segment(cpl ? SENS_UDS : SENS_DS, 0xc093 | dpl);
    }
    s->seg[SEG_CS] =
        segment(sens_code_selector(m->mode, cpl), (m->mode == 64 ? 0xa09b : 0xc09b) | dpl);
}

/* --- callbacks ---------------------------------------------------------------------------------
 */

static void stop_write(void *ctx, u32 region, u64 offset, u32 size, u64 value) {
    struct sens_machine *m = ctx;
    (void)offset, (void)size, (void)value;
    if (region == 0) {
        m->stopped = 1;
        __atomic_fetch_or(&m->vcpu->attention, ATTN_PAUSE, __ATOMIC_SEQ_CST);
        m->ops->kick(m->vcpu);
    } else {
        m->io++;
    }
}

static u64 port_read(void *ctx, u32 region, u64 offset, u32 size) {
    struct sens_machine *m = ctx;
    (void)offset, (void)size;
    m->io += region != 0;
    return m->port_value;
}

static const struct bus_ops port_ops = {
    .read = port_read, .write = stop_write, .min_access = 1, .max_access = 4};

/* An engine that leaves with EXIT_IO wants its ports served here. */
static void serve_io(struct sens_machine *m, struct vm_exit *exit) {
    u32 region = exit->io.port == SENS_STOP_PORT ? 0 : 1;
    for (u32 n = 0; n < exit->io.count; n++) {
        if (exit->io.write) {
            stop_write(m, region, 0, exit->io.size, 0);
        } else {
            u32 value = (u32)port_read(m, 1, 0, exit->io.size);
            memcpy((u8 *)exit->io.data + n * exit->io.size, &value, exit->io.size);
        }
    }
}

/* --- watchdog: a run that does not end ---------------------------------------------------------
 */

struct watchdog {
    struct sens_machine *m;
    pthread_t thread;
    u32 running, quit, fired;
};

static void *watch(void *ctx) {
    struct watchdog *w = ctx;
    u32 last = 0;
    while (!__atomic_load_n(&w->quit, __ATOMIC_SEQ_CST)) {
        struct timespec pause = {.tv_nsec = STOP_WAIT_MS * 500000l};
        nanosleep(&pause, NULL);
        u32 now = __atomic_load_n(&w->running, __ATOMIC_SEQ_CST);
        if (now && now == last) { /* the same run as half the time ago */
            __atomic_store_n(&w->fired, 1, __ATOMIC_SEQ_CST);
            __atomic_fetch_or(&w->m->vcpu->attention, ATTN_PAUSE, __ATOMIC_SEQ_CST);
            w->m->ops->kick(w->m->vcpu);
        }
        last = now;
    }
    return NULL;
}

/* --- life --------------------------------------------------------------------------------------
 */

static int map_ports(struct sens_machine *m) {
    static const u16 port[] = {SENS_STOP_PORT, SENS_PORT};
    int rc = 0;
    for (u32 n = 0; n < ARRAY_LEN(port) && !rc; n++) {
        m->region[n] = (struct bus_region){.base = port[n],
                                           .size = n ? 4 : 1,
                                           .ops = &port_ops,
                                           .device = m,
                                           .region = n,
                                           .name = "sensitivity"};
        rc = bus_map(&m->vm->pio, &m->region[n]);
    }
    return rc;
}

static int start_watchdog(struct sens_machine *m) {
    struct watchdog *w = calloc(1, sizeof(*w));
    if (!w) {
        return -ERR_NOMEM;
    }
    w->m = m;
    if (pthread_create(&w->thread, NULL, watch, w)) {
        free(w);
        return -ERR_NOMEM;
    }
    m->watchdog = w;
    return 0;
}

static int open_machine(struct sens_machine *m, const struct engine_ops *ops,
                        const struct engine_caps *caps, struct err *err) {
    /* The translator is there to say how it would treat a form; nothing gets hot enough for it. */
    struct vm_params params = {.host = m->host,
                               .engine = ops,
                               .caps = caps,
                               .vcpus = 1,
                               .memory = SENS_RAM,
                               .translator = {.on = true, .heat = UINT32_MAX, .cache_mib = 1}};
    int rc = vm_create(&params, &m->vm, err);
    if (rc) {
        return rc;
    }
    m->vcpu = &m->vm->vcpus[0].engine;
    m->memory = m->vm->backing.hva;
    m->image = malloc(SENS_LOW);
    if (!m->image || map_ports(m) || ops->vcpu_bind(m->vcpu) || start_watchdog(m)) {
        return ERR_SET(err, ERR_NOMEM, "the analyser's machine cannot be set up");
    }
    return 0;
}

int sens_machine_create(struct sens_machine *m, const struct engine_ops *ops,
                        const struct engine_caps *caps, u8 mode, struct err *err) {
    *m = (struct sens_machine){.ops = ops, .mode = mode};
    int rc = linux_host_create(&m->lh, err);
    if (!rc) {
        m->host = linux_host_host(m->lh);
        rc = open_machine(m, ops, caps, err);
    }
    if (rc) {
        sens_machine_destroy(m);
    } else if (m->image) {
        fill_image(m);
        memcpy(m->memory, m->image, SENS_LOW);
        base_state(m);
    }
    return rc;
}

void sens_machine_destroy(struct sens_machine *m) {
    struct watchdog *w = m->watchdog;
    if (w) {
        __atomic_store_n(&w->quit, 1, __ATOMIC_SEQ_CST);
        pthread_join(w->thread, NULL);
        free(w);
    }
    if (m->vm) {
        vm_destroy(m->vm);
    }
    free(m->image);
    if (m->lh) {
        linux_host_destroy(m->lh);
    }
    *m = (struct sens_machine){0};
}

/* --- a run
 * -------------------------------------------------------------------------------------
 */

/* n is a multiple of 8. */
static u64 hash(const u8 *p, size_t n) {
    u64 h = 0xcbf29ce484222325ull, word;
    for (size_t i = 0; i < n; i += sizeof(word)) {
        memcpy(&word, p + i, sizeof(word));
        h = (h ^ word) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 32;
    }
    return h;
}

/* Of the bytes from p that are not as they were: place and value. */
static u64 hash_changes(const u8 *p, const u8 *before, size_t n) {
    u64 h = 0;
    if (!memcmp(p, before, n)) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        h = p[i] == before[i] ? h : (h ^ (i << 8 | p[i])) * 0x9e3779b97f4a7c15ull;
    }
    return h;
}

/* Pages that runs and knobs change; page tables only get accessed bits, which are set already.
 */
static void restore(struct sens_machine *m) {
    if (m->wild) {
        memcpy(m->memory, m->image, SENS_LOW);
        memset(m->memory + SENS_LOW, 0, SENS_RAM - SENS_LOW);
        ram_written(&m->vm->ram, 0, SENS_RAM);
        m->wild = false;
    }
    static const struct {
        u32 at, size;
    } dirty[] = {{SENS_GDT, SENS_HANDLER - SENS_GDT},
                 {SENS_TSS, SENS_PT2 - SENS_TSS},
                 {SENS_CODE_PAGE, 0x1000},
                 {SENS_STACK, 0x1000},
                 {SENS_RSP0 - 0x1000, 0x1000},
                 {SENS_DATA, SENS_LOW - SENS_DATA}};
    for (size_t n = 0; n < ARRAY_LEN(dirty); n++) {
        memcpy(m->memory + dirty[n].at, m->image + dirty[n].at, dirty[n].size);
    }
}

/* Everything that a run may have changed, as it was; then the instruction and its stack. */
static void prepare(struct sens_machine *m, const struct sens_form *form, u32 cpl,
                    const struct sens_operands *operands) {
    restore(m);
    u16 far = cpl ? SENS_UCODE2 : SENS_CODE2;
    sens_place(m->memory + SENS_CODE, form, far);
    m->s = m->base;
    set_privilege(m, cpl);
    sens_stack_frame(m->memory + SENS_STACK, form, far,
                     operands->on_stack ? m->s.seg[SEG_SS].sel : 0);
    sens_operands_fill(operands, &m->s, far, m->s.gpr, m->memory + SENS_DATA);
    if ((form->insn.flags & INSN_STRING) && (form->insn.prefixes & (PREFIX_REP | PREFIX_REPNE))) {
        m->s.gpr[GPR_RCX] = 3;
    }
    memcpy(m->data, m->memory + SENS_DATA, sizeof(m->data));
    memcpy(m->stack, m->memory + SENS_STACK, sizeof(m->stack));
    m->view = m->memory;
    m->port_value = 0x11111111;
    m->stopped = m->io = 0;
}

static bool run_engine(struct sens_machine *m, struct vm_exit *exit) {
    struct watchdog *w = m->watchdog;
    static u32 serial;
    __atomic_store_n(&m->vcpu->attention, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->running, ++serial ? serial : ++serial, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->fired, 0, __ATOMIC_SEQ_CST);
    int rc;
    bool more;
    do { /* a kick may be an old one */
        rc = m->ops->run(m->vcpu, exit);
        if (!rc && exit->kind == EXIT_IO) {
            serve_io(m, exit);
        }
        more = exit->kind == EXIT_IO ||
               (exit->kind == EXIT_KICK && !__atomic_load_n(&w->fired, __ATOMIC_SEQ_CST));
    } while (!rc && more && !m->stopped);
    __atomic_store_n(&w->running, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&m->vcpu->attention, 0, __ATOMIC_SEQ_CST);
    return !rc && !m->ops->state_get(m->vcpu, STATE_ALL, &m->s);
}

struct frame {
    u64 error, rip, cs, flags, rsp, ss;
};

static u64 word(const struct sens_machine *m, u64 at, u32 index) {
    u64 value = 0;
    u32 size = m->mode == 64 ? 8 : 4;
    at += (u64)index * size;
    if (at <= SENS_LOW - size) {
        memcpy(&value, m->view + at, size);
    }
    return value;
}

static bool has_error(u32 vector) {
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* What the processor pushed for the handler of this vector. */
static struct frame read_frame(const struct sens_machine *m, u32 vector, bool error) {
    u64 at = m->s.gpr[GPR_RSP];
    struct frame f = {0};
    u32 n = 0;
    (void)vector;
    f.error = error ? word(m, at, n++) : 0;
    f.rip = word(m, at, n++);
    f.cs = word(m, at, n++);
    f.flags = word(m, at, n++);
    bool outer = m->mode == 64 || (f.cs & 3);
    f.rsp = outer ? word(m, at, n++) : at + (u64)n * 4;
    f.ss = outer ? word(m, at, n) : m->s.seg[SEG_SS].sel;
    return f;
}

#define CHANGED(group, condition) ((condition) ? BIT(SENS_G_##group) : 0)

static u64 changed_msrs(const struct cpu_msrs *a, const struct cpu_msrs *b) {
    bool other = a->pat != b->pat || a->apic_base != b->apic_base ||
                 a->misc_enable != b->misc_enable || a->debugctl != b->debugctl ||
                 a->spec_ctrl != b->spec_ctrl || a->xss != b->xss ||
                 a->mtrr_def_type != b->mtrr_def_type || a->mcg_status != b->mcg_status ||
                 a->tsc_deadline != b->tsc_deadline || a->tsc_adjust != b->tsc_adjust;
    return CHANGED(EFER, a->efer != b->efer) | CHANGED(MSR, other) |
           CHANGED(SYSCALL, a->star != b->star || a->lstar != b->lstar || a->cstar != b->cstar ||
                                a->sfmask != b->sfmask) |
           CHANGED(SYSENTER, a->sysenter_cs != b->sysenter_cs ||
                                 a->sysenter_esp != b->sysenter_esp ||
                                 a->sysenter_eip != b->sysenter_eip) |
           CHANGED(KERNEL_GS, a->kernel_gs_base != b->kernel_gs_base) |
           CHANGED(TSC_AUX, a->tsc_aux != b->tsc_aux);
}

static u64 changed_segments(const struct cpu_state *a, const struct cpu_state *b) {
    bool sel = false, base = false;
    static const u8 segs[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    for (u32 n = 0; n < ARRAY_LEN(segs); n++) {
        sel = sel || a->seg[segs[n]].sel != b->seg[segs[n]].sel;
        base = base || a->seg[segs[n]].base != b->seg[segs[n]].base;
    }
    return CHANGED(SEG, sel) | CHANGED(SEG_BASE, base) |
           CHANGED(GDTR, a->gdtr.base != b->gdtr.base || a->gdtr.limit != b->gdtr.limit) |
           CHANGED(IDTR, a->idtr.base != b->idtr.base || a->idtr.limit != b->idtr.limit) |
           CHANGED(LDTR, a->ldtr.sel != b->ldtr.sel) | CHANGED(TR, a->tr.sel != b->tr.sel);
}

static u64 changed_state(const struct sens_machine *m, const struct cpu_state *a) {
    const struct cpu_state *b = &m->s;
    bool tables = memcmp(m->view + SENS_GDT, m->tables, SENS_TABLES) != 0;
    return changed_msrs(&a->msr, &b->msr) | changed_segments(a, b) |
           CHANGED(CR0, a->cr0 != b->cr0) | CHANGED(CR2, a->cr2 != b->cr2) |
           CHANGED(CR3, a->cr3 != b->cr3) | CHANGED(CR4, a->cr4 != b->cr4) |
           CHANGED(CR8, a->cr8 != b->cr8) | CHANGED(XCR0, a->xcr0 != b->xcr0) |
           CHANGED(DR,
                   memcmp(a->dr, b->dr, sizeof(a->dr)) || a->dr6 != b->dr6 || a->dr7 != b->dr7) |
           CHANGED(DESC, tables) | CHANGED(IO, m->io) |
           CHANGED(NMI, a->events.nmi_blocked != b->events.nmi_blocked);
}

static u64 changed_flags(u64 changed) {
    return CHANGED(IF, changed & FLAG_IF) | CHANGED(IOPL, changed & FLAG_IOPL) |
           CHANGED(VIF, changed & (FLAG_VIF | FLAG_VIP)) | CHANGED(VM, changed & FLAG_VM);
}

/* Where execution went: the handler that ran, and what it found on its stack. */
static void evaluate(struct sens_machine *m, const struct cpu_state *before, u32 cpl,
                     struct sens_result *r) {
    u64 at = m->s.rip - SENS_HANDLER;
    at = at >= SENS_HANDLER2 - SENS_HANDLER ? at - (SENS_HANDLER2 - SENS_HANDLER) : at;
    bool second = m->s.rip >= SENS_HANDLER2;
    u32 vector = (u32)(at / 16);
    struct frame f = {0};
    if (vector < VECTORS) {
        f = read_frame(m, vector, has_error(vector));
        if (has_error(vector) && f.cs != before->seg[SEG_CS].sel && vector != EXC_DF) {
            f = read_frame(m, vector, false); /* INT n has no error code */
        }
    }
    u64 begin = before->rip;
    bool int3 = vector == EXC_BP && !second;
    r->vector = (u16)(vector + (second ? 0x200 : 0));
    r->moved = (s64)(f.rip - begin);
    for (u32 n = 0; n < GPR_COUNT; n++) {
        u64 now = n == GPR_RSP ? f.rsp : m->s.gpr[n];
        r->gpr[n] = now == before->gpr[n] ? 0 : now;
    }
    if (vector >= VECTORS) {
        r->end = SENS_INT;
        r->changed = BIT(SENS_G_CPL);
        return;
    }
    r->error = (u32)f.error;
    r->flags = (f.flags ^ before->rflags) &
               ~(u64)(FLAG_RF | FLAG_AF); /* AF: undefined behind shifts and logic */
    if (f.rip - SENS_CODE_PAGE > 0x1000) {
        return; /* jumped to where these operands lead, and met something there */
    }
    if (f.rip == begin && !(vector == EXC_DB)) {
        r->end = SENS_TRAP;
        return;
    }
    bool own_int3 = m->view[SENS_CODE] == INT3 && f.rip == begin + 1;
    r->end = int3 && f.rip - SENS_CODE_PAGE <= 0x1000 && !own_int3 ? SENS_DONE : SENS_INT;
    u64 top = f.rsp >= SENS_STACK && f.rsp < SENS_STACK + 0x1000 ? f.rsp : SENS_RSP;
    r->memory =
        hash_changes(m->view + SENS_DATA, m->data, sizeof(m->data)) ^
        hash_changes(m->view + top, m->stack + (top - SENS_STACK), SENS_STACK + 0x1000 - top) << 1;
    r->vector_state = hash(m->s.xsave, XSAVE_AREA_SIZE);
    r->changed = changed_state(m, before) | changed_flags(r->flags) |
                 CHANGED(CPL, r->end == SENS_INT || f.cs != before->seg[SEG_CS].sel ||
                                  (f.ss != before->seg[SEG_SS].sel && (cpl || m->mode == 64)));
}

/* A bit string's offset leads anywhere around its operand. */
static bool reaches_far(const struct insn *i) {
    return i->op[0].kind == OPERAND_MEM && i->op[1].kind == OPERAND_REG &&
           (i->id == INSN_BTS || i->id == INSN_BTR || i->id == INSN_BTC);
}

void sens_run(struct sens_machine *m, const struct sens_form *form, u32 cpl,
              const struct sens_operands *operands, const struct sens_knob *knob,
              struct sens_result *r) {
    struct vm_exit exit;
    memset(r, 0, sizeof(*r));
    r->end = SENS_REFUSED;
    if (!sens_operands_fit(operands, form)) {
        return;
    }
    prepare(m, form, cpl, operands);
    if (knob && !knob->turn(m)) {
        return;
    }
    memcpy(m->tables, m->view + SENS_GDT, SENS_TABLES);
    ram_written(&m->vm->ram, SENS_CODE_PAGE + (u64)(m->view - m->memory), 0x1000);
    struct cpu_state before = m->s;
    if (m->ops->state_set(m->vcpu, STATE_ALL, &m->s) || !run_engine(m, &exit)) {
        return;
    }
    if (exit.kind == EXIT_SHUTDOWN) {
        r->end = SENS_SHUTDOWN;
        r->changed = BIT(SENS_G_CPL);
    } else if (!m->stopped) {
        r->end = m->s.rip - SENS_CODE_PAGE <= 0x1000 ? SENS_HALT : SENS_REFUSED;
        r->changed = BIT(SENS_G_ACTIVITY);
    } else {
        evaluate(m, &before, cpl, r);
    }
    m->wild = (r->end != SENS_DONE && r->end != SENS_TRAP) || reaches_far(&form->insn);
}
