/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct cpu_state to and from KVM's structures. Linux, Documentation/virt/kvm/api.rst, 4.11-4.14
 * (registers), 4.31 (events), 4.33 (debug registers), 4.42-4.45 (XSAVE, XCRs).
 *
 * The page directory pointers of PAE paging are not in cpu_state: KVM_SET_SREGS reads them again
 * from the guest's memory, as MOV to CR3 does, so KVM_SET_SREGS2 would add nothing.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "core/if/log.h"
#include "engines/kvm/priv.h"

/* --- general registers
 * ---------------------------------------------------------------------------- */

static int gpr_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_regs r;
    if (ioctl(c->fd, KVM_GET_REGS, &r)) {
        return -ERR_IO;
    }
    const u64 order[GPR_COUNT] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                  r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
    memcpy(s->gpr, order, sizeof(order));
    s->rip = r.rip;
    s->rflags = r.rflags;
    return 0;
}

static int gpr_set(struct kvm_cpu *c, const struct cpu_state *s) {
    const u64 *g = s->gpr;
    struct kvm_regs r = {
        .rax = g[GPR_RAX],
        .rbx = g[GPR_RBX],
        .rcx = g[GPR_RCX],
        .rdx = g[GPR_RDX],
        .rsi = g[GPR_RSI],
        .rdi = g[GPR_RDI],
        .rsp = g[GPR_RSP],
        .rbp = g[GPR_RBP],
        .r8 = g[GPR_R8],
        .r9 = g[GPR_R9],
        .r10 = g[GPR_R10],
        .r11 = g[GPR_R11],
        .r12 = g[GPR_R12],
        .r13 = g[GPR_R13],
        .r14 = g[GPR_R14],
        .r15 = g[GPR_R15],
        .rip = s->rip,
        .rflags = s->rflags,
    };
    return ioctl(c->fd, KVM_SET_REGS, &r) ? -ERR_IO : 0;
}

/* --- segment and control registers
 * ------------------------------------------------------------------ */

static struct segment segment_from(const struct kvm_segment *k) {
    u32 attr = (k->type & SEG_ATTR_TYPE) | (k->s ? SEG_ATTR_S : 0) |
               (k->dpl & 3u) << SEG_ATTR_DPL_SHIFT | (k->present ? SEG_ATTR_P : 0) |
               (k->avl ? SEG_ATTR_AVL : 0) | (k->l ? SEG_ATTR_L : 0) | (k->db ? SEG_ATTR_DB : 0) |
               (k->g ? SEG_ATTR_G : 0) | (k->unusable ? SEG_ATTR_UNUSABLE : 0);
    return (struct segment){.base = k->base, .limit = k->limit, .attr = attr, .sel = k->selector};
}

static struct kvm_segment segment_to(const struct segment *s) {
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & SEG_ATTR_TYPE,
        .present = !!(s->attr & SEG_ATTR_P),
        .dpl = s->attr >> SEG_ATTR_DPL_SHIFT & 3,
        .db = !!(s->attr & SEG_ATTR_DB),
        .s = !!(s->attr & SEG_ATTR_S),
        .l = !!(s->attr & SEG_ATTR_L),
        .g = !!(s->attr & SEG_ATTR_G),
        .avl = !!(s->attr & SEG_ATTR_AVL),
        .unusable = !!(s->attr & SEG_ATTR_UNUSABLE),
    };
}

static int sreg_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_sregs k;
    if (ioctl(c->fd, KVM_GET_SREGS, &k)) {
        return -ERR_IO;
    }
    s->seg[SEG_ES] = segment_from(&k.es);
    s->seg[SEG_CS] = segment_from(&k.cs);
    s->seg[SEG_SS] = segment_from(&k.ss);
    s->seg[SEG_DS] = segment_from(&k.ds);
    s->seg[SEG_FS] = segment_from(&k.fs);
    s->seg[SEG_GS] = segment_from(&k.gs);
    s->ldtr = segment_from(&k.ldt);
    s->tr = segment_from(&k.tr);
    s->gdtr = (struct desc_table){.base = k.gdt.base, .limit = k.gdt.limit};
    s->idtr = (struct desc_table){.base = k.idt.base, .limit = k.idt.limit};
    s->cr0 = k.cr0;
    s->cr2 = k.cr2;
    s->cr3 = k.cr3;
    s->cr4 = k.cr4;
    s->cr8 = k.cr8;
    s->msr.efer = k.efer;
    s->msr.apic_base = k.apic_base;
    return 0;
}

static int sreg_set(struct kvm_cpu *c, const struct cpu_state *s) {
    struct kvm_sregs k = {
        .es = segment_to(&s->seg[SEG_ES]),
        .cs = segment_to(&s->seg[SEG_CS]),
        .ss = segment_to(&s->seg[SEG_SS]),
        .ds = segment_to(&s->seg[SEG_DS]),
        .fs = segment_to(&s->seg[SEG_FS]),
        .gs = segment_to(&s->seg[SEG_GS]),
        .ldt = segment_to(&s->ldtr),
        .tr = segment_to(&s->tr),
        .gdt = {.base = s->gdtr.base, .limit = s->gdtr.limit},
        .idt = {.base = s->idtr.base, .limit = s->idtr.limit},
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->msr.efer,
        .apic_base = s->msr.apic_base,
    };
    return ioctl(c->fd, KVM_SET_SREGS, &k) ? -ERR_INVAL : 0;
}

/* --- debug registers
 * ---------------------------------------------------------------------------------- */

static int debug_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_debugregs d;
    if (ioctl(c->fd, KVM_GET_DEBUGREGS, &d)) {
        return -ERR_IO;
    }
    memcpy(s->dr, d.db, sizeof(s->dr));
    s->dr6 = d.dr6;
    s->dr7 = d.dr7;
    return 0;
}

static int debug_set(struct kvm_cpu *c, const struct cpu_state *s) {
    struct kvm_debugregs d = {.dr6 = s->dr6, .dr7 = s->dr7};
    memcpy(d.db, s->dr, sizeof(s->dr));
    return ioctl(c->fd, KVM_SET_DEBUGREGS, &d) ? -ERR_IO : 0;
}

/* --- x87, vectors, protection keys
 * --------------------------------------------------------------------- */

enum { XSAVE_SW_RESERVED = 464, XSAVE_HEADER = 512, XSAVE_HEADER_END = 576 };

_Static_assert(sizeof(struct kvm_xsave) == XSAVE_AREA_SIZE, "the same image");

/*
 * The kernel's image may hold components that the guest cannot have, and bytes for the kernel's own
 * use; they are not part of the guest. The legacy area is always valid in it.
 */
static void xsave_clean(const struct kvm_cpu *c, struct cpu_state *s) {
    u64 bv;
    memcpy(&bv, s->xsave + XSAVE_HEADER, sizeof(bv));
    bv = (bv & c->m->policy.xcr0_allowed) | XCR0_X87 | XCR0_SSE;
    memset(s->xsave + XSAVE_SW_RESERVED, 0, XSAVE_HEADER_END - XSAVE_SW_RESERVED);
    memcpy(s->xsave + XSAVE_HEADER, &bv, sizeof(bv));
    const u32 avx_end = XSAVE_HEADER_END + 256, pkru = c->m->policy.pkru_offset;
    u32 from = bv & XCR0_AVX ? avx_end : XSAVE_HEADER_END;
    if (bv & XCR0_PKRU) {
        memset(s->xsave + from, 0, pkru - from);
        from = pkru + 8;
    }
    memset(s->xsave + from, 0, XSAVE_AREA_SIZE - from);
}

/* Without XSAVE in the guest's CPUID the kernel refuses XCR0, even the value it has. */
static bool has_xcrs(const struct kvm_cpu *c) {
    return c->m->policy.features & BIT(FEATURE_XSAVE);
}

static int xsave_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_xcrs x = {.nr_xcrs = 0};
    struct kvm_xsave area;
    if (ioctl(c->fd, KVM_GET_XSAVE, &area) || (has_xcrs(c) && ioctl(c->fd, KVM_GET_XCRS, &x))) {
        return -ERR_IO;
    }
    memcpy(s->xsave, &area, sizeof(area));
    xsave_clean(c, s);
    s->xcr0 = XCR0_X87;
    for (u32 i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++) {
        s->xcr0 = x.xcrs[i].xcr == 0 ? x.xcrs[i].value : s->xcr0;
    }
    return 0;
}

static int xsave_set(struct kvm_cpu *c, const struct cpu_state *s) {
    struct kvm_xsave area;
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = s->xcr0}};
    memcpy(&area, s->xsave, sizeof(area));
    if (has_xcrs(c) && ioctl(c->fd, KVM_SET_XCRS, &x)) {
        return -ERR_INVAL;
    }
    return ioctl(c->fd, KVM_SET_XSAVE, &area) ? -ERR_INVAL : 0;
}

/* --- events
 * ------------------------------------------------------------------------------------------------
 */

static u32 mp_state_from(u32 kvm) {
    switch (kvm) {
    case KVM_MP_STATE_HALTED:
        return MP_HALTED;
    case KVM_MP_STATE_UNINITIALIZED: /* waits for INIT, then SIPI */
    case KVM_MP_STATE_INIT_RECEIVED: /* waits for SIPI */
        return MP_WAIT_SIPI;
    default:
        return MP_RUNNABLE;
    }
}

static u32 mp_state_to(u32 state) {
    return state == MP_HALTED     ? KVM_MP_STATE_HALTED
           : state == MP_RUNNABLE ? KVM_MP_STATE_RUNNABLE
                                  : KVM_MP_STATE_INIT_RECEIVED;
}

/* An NMI on its way in (injected) has not arrived: it is latched again. */
static int events_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_vcpu_events k = {0};
    struct kvm_mp_state mp;
    struct kvm_sregs sregs;
    if (ioctl(c->fd, KVM_GET_MP_STATE, &mp) || ioctl(c->fd, KVM_GET_VCPU_EVENTS, &k) ||
        ioctl(c->fd, KVM_GET_SREGS, &sregs)) {
        return -ERR_IO;
    }
    s->mp_state = mp_state_from(mp.mp_state);
    bool exception = k.exception.injected || k.exception.pending;
    s->events = (struct cpu_events){
        .exception_pending = exception,
        .exception_has_error = exception && k.exception.has_error_code,
        .exception_vector = exception ? k.exception.nr : 0,
        .exception_error = exception ? k.exception.error_code : 0,
        .exception_cr2 = exception && k.exception.nr == EXC_PF ? sregs.cr2 : 0,
        .interrupt_pending = k.interrupt.injected,
        .interrupt_soft = k.interrupt.injected && k.interrupt.soft,
        .interrupt_vector = k.interrupt.injected ? k.interrupt.nr : 0,
        .nmi_pending = k.nmi.injected || k.nmi.pending,
        .nmi_blocked = k.nmi.masked && !k.nmi.injected,
        .shadow = (u8)((k.interrupt.shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0) |
                       (k.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0)),
    };
    return 0;
}

static int cr2_set(struct kvm_cpu *c, u64 cr2) {
    struct kvm_sregs k;
    if (ioctl(c->fd, KVM_GET_SREGS, &k)) {
        return -ERR_IO;
    }
    memset(k.interrupt_bitmap, 0, sizeof(k.interrupt_bitmap));
    k.cr2 = cr2;
    return ioctl(c->fd, KVM_SET_SREGS, &k) ? -ERR_IO : 0;
}

static int events_set(struct kvm_cpu *c, const struct cpu_state *s) {
    const struct cpu_events *e = &s->events;
    struct kvm_mp_state mp = {.mp_state = mp_state_to(s->mp_state)};
    struct kvm_vcpu_events k = {
        .exception = {.injected = e->exception_pending,
                      .nr = e->exception_vector,
                      .has_error_code = e->exception_has_error,
                      .error_code = e->exception_error},
        .interrupt = {.injected = e->interrupt_pending,
                      .nr = e->interrupt_vector,
                      .soft = e->interrupt_soft,
                      .shadow = (u8)((e->shadow & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
                                     (e->shadow & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0))},
        .nmi = {.pending = e->nmi_pending, .masked = e->nmi_blocked},
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
    };
    if (e->exception_pending && e->exception_vector == EXC_PF && cr2_set(c, e->exception_cr2)) {
        return -ERR_IO;
    }
    if (ioctl(c->fd, KVM_SET_VCPU_EVENTS, &k)) {
        return -ERR_INVAL;
    }
    return ioctl(c->fd, KVM_SET_MP_STATE, &mp) ? -ERR_IO : 0;
}

int kvm_inject_exception(struct engine_vcpu *ev, u8 vector, bool has_error, u32 error) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    struct kvm_vcpu_events k = {0};
    kvm_vcpu_settle(c);
    if (vector > 31 || ioctl(c->fd, KVM_GET_VCPU_EVENTS, &k)) {
        return -ERR_INVAL;
    }
    if (k.exception.injected || k.exception.pending) {
        return -ERR_STATE;
    }
    k.exception.injected = 1;
    k.exception.nr = vector;
    k.exception.has_error_code = has_error;
    k.exception.error_code = error;
    k.flags = 0;
    return ioctl(c->fd, KVM_SET_VCPU_EVENTS, &k) ? -ERR_IO : 0;
}

/* --- all
 * ----------------------------------------------------------------------------------------------------
 */

struct group {
    u64 mask;
    int (*get)(struct kvm_cpu *c, struct cpu_state *s);
    int (*set)(struct kvm_cpu *c, const struct cpu_state *s);
    const char *name;
};

/* In the order of setting: the mode before what depends on it, events last. */
static const struct group groups[] = {
    {STATE_SREG, sreg_get, sreg_set, "segment and control registers"},
    {STATE_GPR, gpr_get, gpr_set, "general registers"},
    {STATE_XSAVE, xsave_get, xsave_set, "the XSAVE area"},
    {STATE_MSR, kvm_msrs_get, kvm_msrs_set, "MSRs"},
    {STATE_DEBUG, debug_get, debug_set, "debug registers"},
    {STATE_EVENTS, events_get, events_set, "events"},
};

int kvm_state_get(struct engine_vcpu *ev, u64 mask, struct cpu_state *s) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    kvm_vcpu_settle(c);
    for (u32 i = 0; i < ARRAY_LEN(groups); i++) {
        int rc = mask & groups[i].mask ? groups[i].get(c, s) : 0;
        if (rc) {
            log_line(c->m->host, LOG_ERROR, "kvm: vCPU %u: cannot read %s", ev->id, groups[i].name);
            return rc;
        }
    }
    return 0;
}

static bool xsave_allowed(const struct kvm_cpu *c, const struct cpu_state *s) {
    u64 bv;
    memcpy(&bv, s->xsave + XSAVE_HEADER, sizeof(bv));
    return !((s->xcr0 | (bv & ~(u64)XCR0_SSE)) & ~c->m->policy.xcr0_allowed);
}

int kvm_state_set(struct engine_vcpu *ev, u64 mask, const struct cpu_state *s) {
    struct kvm_cpu *c = kvm_cpu_of(ev);
    if (cpu_state_check(s, mask) || ((mask & STATE_XSAVE) && !xsave_allowed(c, s))) {
        return -ERR_INVAL;
    }
    kvm_vcpu_settle(c);
    for (u32 i = 0; i < ARRAY_LEN(groups); i++) {
        int rc = mask & groups[i].mask ? groups[i].set(c, s) : 0;
        if (rc) {
            log_line(c->m->host, LOG_ERROR, "kvm: vCPU %u: cannot set %s", ev->id, groups[i].name);
            return rc;
        }
    }
    return 0;
}
