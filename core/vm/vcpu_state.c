/* SPDX-License-Identifier: Apache-2.0 */
/* A processor's registers as the machine sees them: the engine's, with what core keeps itself
 * (where it stands, and the views of the local APIC's registers); and their print for a person. */
#include "core/base/fmt.h"
#include "core/irq/irqchip.h"
#include "core/vm/vcpu.h"
#include "core/vm/vm.h"

struct state_call {
    u64 mask;
    struct cpu_state *get;
    const struct cpu_state *set;
    int result;
};

/* Without the engine's own chips core knows better where the processor stands. */
static void add_core_state(struct vcpu *v, struct cpu_state *s) {
    struct lapic *lapic = irqchip_lapic(v->vm->irq, v->engine.id);
    if (v->vm->caps & ENGINE_CAP_IRQCHIP) {
        return;
    }
    s->mp_state = v->mp_state;
    if (lapic) {
        s->cr8 = lapic_cr8_get(lapic);
        s->msr.apic_base = lapic->apic_base;
        s->msr.tsc_deadline = lapic->tsc_deadline;
    }
}

static void do_get(struct engine_vcpu *ev, void *ctx) {
    struct state_call *call = ctx;
    call->result = ev->vm->ops->state_get(ev, call->mask, call->get);
    if (!call->result) {
        add_core_state(vcpu_of(ev), call->get);
    }
}

static void do_set(struct engine_vcpu *ev, void *ctx) {
    struct state_call *call = ctx;
    struct vcpu *v = vcpu_of(ev);
    struct cpu_state s = *call->set;
    bool chips = v->vm->caps & ENGINE_CAP_IRQCHIP;
    if (!chips) {
        s.mp_state = MP_RUNNABLE;
    }
    call->result = ev->vm->ops->state_set(ev, call->mask, &s);
    if (!call->result && !chips && (call->mask & STATE_EVENTS)) {
        v->mp_state = call->set->mp_state;
    }
}

int vcpu_state_get(struct vcpu *v, u64 mask, struct cpu_state *state) {
    struct state_call call = {.mask = mask, .get = state};
    vcpu_call(v, do_get, &call);
    return call.result;
}

int vcpu_state_set(struct vcpu *v, u64 mask, const struct cpu_state *state) {
    struct state_call call = {.mask = mask, .set = state};
    if ((mask & STATE_EVENTS) && state->mp_state > MP_INIT_RECEIVED) {
        return -ERR_INVAL;
    }
    vcpu_call(v, do_set, &call);
    return call.result;
}

static void log_segment(struct host *host, enum log_level level, const char *name,
                        const struct segment *s) {
    log_line(host, level, "  %s %04x base %016llx limit %08x attr %05x", name, s->sel,
             (unsigned long long)s->base, s->limit, s->attr);
}

static void log_gprs(struct host *host, enum log_level level, const struct cpu_state *s) {
    static const char *const names[GPR_COUNT] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
                                                 "RSI", "RDI", "R8 ", "R9 ", "R10", "R11",
                                                 "R12", "R13", "R14", "R15"};
    for (u32 i = 0; i < GPR_COUNT; i += 4) {
        log_line(host, level, "  %s %016llx %s %016llx %s %016llx %s %016llx", names[i],
                 (unsigned long long)s->gpr[i], names[i + 1], (unsigned long long)s->gpr[i + 1],
                 names[i + 2], (unsigned long long)s->gpr[i + 2], names[i + 3],
                 (unsigned long long)s->gpr[i + 3]);
    }
}

void vcpu_log_registers(struct vcpu *v, enum log_level level) {
    static const char *const names[SEG_COUNT] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    struct host *host = v->vm->host;
    struct cpu_state s;
    if (v->vm->engine.ops->state_get(&v->engine, STATE_ALL, &s)) {
        log_line(host, level, "  (the registers cannot be read)");
        return;
    }
    log_line(host, level, "  RIP %016llx RFLAGS %08llx", (unsigned long long)s.rip,
             (unsigned long long)s.rflags);
    log_gprs(host, level, &s);
    for (u32 i = 0; i < SEG_COUNT; i++) {
        log_segment(host, level, names[i], &s.seg[i]);
    }
    log_segment(host, level, "LD", &s.ldtr);
    log_segment(host, level, "TR", &s.tr);
    log_line(host, level, "  GDT %016llx %04x IDT %016llx %04x", (unsigned long long)s.gdtr.base,
             s.gdtr.limit, (unsigned long long)s.idtr.base, s.idtr.limit);
    log_line(host, level, "  CR0 %08llx CR2 %016llx CR3 %016llx CR4 %08llx EFER %04llx",
             (unsigned long long)s.cr0, (unsigned long long)s.cr2, (unsigned long long)s.cr3,
             (unsigned long long)s.cr4, (unsigned long long)s.msr.efer);
}
