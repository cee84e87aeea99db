/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person reads when translated code and interpreter have parted: the instruction that is to
 * blame, both states, the bytes of memory, and the instructions executed. To the host's log, a line
 * each, as errors.
 */
#include "core/base/fmt.h"
#include "core/mem/ram.h"
#include "engines/soft/engine.h"
#include "engines/soft/tlb.h"
#include "engines/soft/vec.h"
#include "engines/soft/verify.h"

static const char *const gpr_name[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                "r12", "r13", "r14", "r15"};

typedef unsigned long long ull;

static PRINTF_LIKE(2, 3) void line(struct soft_vcpu *c, const char *fmt, ...) {
    struct soft_verify *v = c->verify;
    va_list ap;
    va_start(ap, fmt);
    size_t n = fmt_vstr(v->text, sizeof(v->text), fmt, ap);
    va_end(ap);
    c->vm->host->ops->log(c->vm->host, LOG_ERROR, v->text, MIN(n, sizeof(v->text) - 1));
}

/* The instruction at rip as text; the page is mapped or the text says so. */
static void format_at(struct soft_vcpu *c, u64 rip, char *text, size_t size) {
    u64 linear = (rip + c->cs_base) & c->addr_mask;
    const struct tlb_entry *e = tlb_slot(c->itlb, linear);
    struct insn insn;
    size_t avail = MIN(PAGE_SIZE - (linear & PAGE_MASK), (u64)INSN_MAX_LEN);
    const u8 *code = (const u8 *)(uintptr_t)(linear + e->addend);
    if (e->exec != (linear & ~PAGE_MASK) || insn_decode(&insn, code, avail, c->mode) != DECODE_OK) {
        fmt_str(text, size, "(not shown)");
        return;
    }
    insn_format(&insn, rip, text, size);
}

static void one(struct soft_vcpu *c, const char *name, u64 before, u64 interpreted,
                u64 translated) {
    line(c, "%c %-7s %016llx  %016llx  %016llx", interpreted == translated ? ' ' : '*', name,
         (ull)before, (ull)interpreted, (ull)translated);
}

static void registers(struct soft_vcpu *c) {
    const struct soft_verify *v = c->verify;
    const struct cpu_state *a = verify_cpu(&v->before), *i = verify_cpu(&v->shadow),
                           *t = verify_cpu(&v->live);
    line(c, "          %-16s  %-16s  %-16s", "before", "interpreter", "translated");
    one(c, "rip", verify_rip(&v->before), verify_rip(&v->shadow), verify_rip(&v->live));
    for (u32 r = 0; r < GPR_COUNT; r++) {
        one(c, gpr_name[r], a->gpr[r], i->gpr[r], t->gpr[r]);
    }
    one(c, "rflags", verify_flags(&v->before), verify_flags(&v->shadow), verify_flags(&v->live));
    one(c, "mxcsr", get32(a->xsave + XS_MXCSR), get32(i->xsave + XS_MXCSR),
        get32(t->xsave + XS_MXCSR));
    one(c, "cr3", a->cr3, i->cr3, t->cr3);
    one(c, "gs base", a->seg[SEG_GS].base, i->seg[SEG_GS].base, t->seg[SEG_GS].base);
    if (!verify_same_system(i, t)) {
        line(c, "* segments, control registers, MSRs or pending events differ");
    }
}

static void vectors(struct soft_vcpu *c) {
    const struct cpu_state *i = verify_cpu(&c->verify->shadow), *t = verify_cpu(&c->verify->live);
    for (u32 at = 0; at < XS_YMMH + 256; at += 8) {
        u64 a = get64(i->xsave + at), b = get64(t->xsave + at);
        bool counted = at < XS_FIP || at >= XS_MXCSR + 8;
        if (a != b && counted && (at < XS_LEGACY || at >= XS_YMMH)) {
            bool upper = at >= XS_YMMH;
            u32 n = (at - (upper ? XS_YMMH : XS_XMM)) / 16;
            line(c, "* %s%u+%u: interpreter %016llx, translated %016llx",
                 at < XS_XMM ? "x87+"
                 : upper     ? "ymm upper "
                             : "xmm",
                 at < XS_XMM ? at : n, at % 16, (ull)a, (ull)b);
        }
    }
}

static void memory(struct soft_vcpu *c) {
    const struct soft_verify *v = c->verify;
    for (u32 n = 0; n < v->page_count; n++) {
        const struct verify_page *p = &v->page[n];
        u32 at = verify_page_differs(v, p) & ~7u;
        if (at < PAGE_SIZE) {
            line(c,
                 "* memory at guest-physical 0x%llx: before %016llx, interpreter %016llx, "
                 "translated %016llx",
                 (ull)(p->gpa + at), (ull)get64(p->old + at), (ull)get64(p->now + at),
                 (ull)get64(p->ram + at));
        }
    }
}

static void instructions(struct soft_vcpu *c, u32 count) {
    const struct soft_verify *v = c->verify;
    char text[128];
    u32 listed = MIN(count, (u32)VERIFY_LISTED);
    if (v->culprit) {
        u64 rip = v->listed[v->culprit - 1];
        format_at(c, rip, text, sizeof(text));
        line(c, "lock-step: the instruction: %016llx  %s", (ull)rip, text);
    }
    line(c, "lock-step: %u instructions of the interpreter, the last:", count);
    for (u32 n = listed > 64 ? listed - 64 : 0; n < listed; n++) {
        format_at(c, v->listed[n], text, sizeof(text));
        line(c, "%c %016llx  %s", n + 1 == v->culprit ? '>' : ' ', (ull)v->listed[n], text);
    }
}

static void outcome(struct soft_vcpu *c) {
    static const char *const text[] = {"went on", "raised an exception", "ended at an access"};
    static const char *const end[] = {"", "never came to its state",
                                      "came to what can be done once", "raised one",
                                      "came to an access that can be done once"};
    const struct soft_verify *v = c->verify;
    line(c,
         "lock-step: translated code and interpreter differ after %llu windows, %llu instructions",
         (ull)v->stats.windows, (ull)v->stats.instructions);
    line(c, "lock-step: translated code %s (exit %u); the interpreter %s", text[v->outcome],
         v->exit, end[v->ended]);
    if (v->ended == VERIFY_FAULT) {
        line(c, "lock-step: the interpreter's exception: vector %u, address 0x%llx",
             v->ended_vector, (ull)v->ended_cr2);
    }
    if (v->outcome == VERIFY_FAULTED) {
        struct verify_fault f = verify_fault(&v->live);
        line(c, "lock-step: translated code's exception: vector %u, error 0x%x, address 0x%llx",
             f.vector, f.error, (ull)f.cr2);
    }
}

void verify_report(struct soft_vcpu *c) {
    struct soft_verify *v = c->verify;
    u32 count = v->candidate && v->outcome != VERIFY_FAULTED ? v->candidate - 1 : v->steps;
    outcome(c);
    verify_shadow_again(c, count);
    verify_state_take(c, &v->shadow);
    verify_shadow_again(c, count); /* now that it is known what differs */
    registers(c);
    vectors(c);
    memory(c);
    instructions(c, count);
}
