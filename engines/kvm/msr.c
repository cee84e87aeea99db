/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSRs of struct cpu_state to and from KVM. Which of them work on this host (SPEC_CTRL, XSS and
 * others come and go with the processor and the policy) is found by reading each once and writing
 * it back, not assumed.
 */
#include <sys/ioctl.h>

#include "core/cpu/msr.h"
#include "core/if/log.h"
#include "engines/kvm/priv.h"

struct msr_place {
    u32 index;
    u32 offset; /* in struct cpu_msrs */
};

#define PLACE(index, field)                                                                        \
    { index, offsetof(struct cpu_msrs, field) }
#define FIXED(index, n)                                                                            \
    { index, offsetof(struct cpu_msrs, mtrr_fixed) + 8 * (n) }
#define VAR(n)                                                                                     \
    {MSR_MTRR_VAR + 2 * (n), offsetof(struct cpu_msrs, mtrr_base) + 8 * (n)}, {                    \
        MSR_MTRR_VAR + 2 * (n) + 1, offsetof(struct cpu_msrs, mtrr_mask) + 8 * (n)                 \
    }

/*
 * In the order of setting. EFER and APIC_BASE go with the segment registers. The deadline comes
 * after the TSC, and is ignored while the local APIC's timer is in another mode.
 */
static const struct msr_place places[] = {
    PLACE(MSR_STAR, star),
    PLACE(MSR_LSTAR, lstar),
    PLACE(MSR_CSTAR, cstar),
    PLACE(MSR_SFMASK, sfmask),
    PLACE(MSR_KERNEL_GS_BASE, kernel_gs_base),
    PLACE(MSR_SYSENTER_CS, sysenter_cs),
    PLACE(MSR_SYSENTER_ESP, sysenter_esp),
    PLACE(MSR_SYSENTER_EIP, sysenter_eip),
    PLACE(MSR_PAT, pat),
    PLACE(MSR_TSC, tsc),
    PLACE(MSR_TSC_ADJUST, tsc_adjust),
    PLACE(MSR_TSC_AUX, tsc_aux),
    PLACE(MSR_TSC_DEADLINE, tsc_deadline),
    PLACE(MSR_MISC_ENABLE, misc_enable),
    PLACE(MSR_DEBUGCTL, debugctl),
    PLACE(MSR_SPEC_CTRL, spec_ctrl),
    PLACE(MSR_XSS, xss),
    PLACE(MSR_MCG_STATUS, mcg_status),
    PLACE(MSR_MCG_CTL, mcg_ctl),
    PLACE(MSR_MTRR_DEF_TYPE, mtrr_def_type),
    FIXED(MSR_MTRR_FIX64K_00000, 0),
    FIXED(MSR_MTRR_FIX16K_80000, 1),
    FIXED(MSR_MTRR_FIX16K_A0000, 2),
    FIXED(MSR_MTRR_FIX4K_C0000, 3),
    FIXED(MSR_MTRR_FIX4K_C0000 + 1, 4),
    FIXED(MSR_MTRR_FIX4K_C0000 + 2, 5),
    FIXED(MSR_MTRR_FIX4K_C0000 + 3, 6),
    FIXED(MSR_MTRR_FIX4K_C0000 + 4, 7),
    FIXED(MSR_MTRR_FIX4K_C0000 + 5, 8),
    FIXED(MSR_MTRR_FIX4K_C0000 + 6, 9),
    FIXED(MSR_MTRR_FIX4K_C0000 + 7, 10),
    VAR(0),
    VAR(1),
    VAR(2),
    VAR(3),
    VAR(4),
    VAR(5),
    VAR(6),
    VAR(7),
};

#define PLACES ARRAY_LEN(places)

_Static_assert(PLACES < 64, "one bit each in msr_present");
_Static_assert(MTRR_FIXED_COUNT == 11 && MTRR_VAR_COUNT == 8, "all MTRRs are listed");

int kvm_msr_read(struct kvm_cpu *c, u32 index, u64 *value) {
    struct kvm_msr_block list = {.count = 1, .entry[0].index = index};
    if (ioctl(c->fd, KVM_GET_MSRS, &list) != 1) {
        return -ERR_UNSUPPORTED;
    }
    *value = list.entry[0].data;
    return 0;
}

int kvm_msr_write(struct kvm_cpu *c, u32 index, u64 value) {
    struct kvm_msr_block list = {.count = 1, .entry[0] = {.index = index, .data = value}};
    return ioctl(c->fd, KVM_SET_MSRS, &list) == 1 ? 0 : -ERR_UNSUPPORTED;
}

int kvm_msr_probe(struct kvm_cpu *c) {
    u64 present = 0, value;
    if (c->m->policy.arch_capabilities) {
        kvm_msr_write(c, MSR_ARCH_CAPABILITIES, c->m->policy.arch_capabilities);
    }
    if (c->m->msr_present) {
        return 0;
    }
    for (u32 i = 0; i < PLACES; i++) {
        u32 index = places[i].index;
        if (kvm_msr_read(c, index, &value) == 0 &&
            (index == MSR_TSC || kvm_msr_write(c, index, value) == 0)) {
            present |= BIT(i);
        }
    }
    c->m->msr_present = present;
    return present ? 0 : -ERR_IO;
}

static u64 *field(struct cpu_msrs *m, u32 i) {
    return (u64 *)(void *)((u8 *)m + places[i].offset);
}

int kvm_msrs_get(struct kvm_cpu *c, struct cpu_state *s) {
    struct kvm_msr_block list = {.count = 0};
    for (u32 i = 0; i < PLACES; i++) {
        if (c->m->msr_present & BIT(i)) {
            list.entry[list.count++].index = places[i].index;
        }
    }
    if (ioctl(c->fd, KVM_GET_MSRS, &list) != (int)list.count) {
        return -ERR_IO;
    }
    for (u32 i = 0, n = 0; i < PLACES; i++) {
        *field(&s->msr, i) = c->m->msr_present & BIT(i) ? list.entry[n++].data : 0;
    }
    kvm_tsc_note(c);
    return 0;
}

/* Mask of what this host lacks: fine as long as the state does not use it. */
static int absent_check(struct kvm_cpu *c, const struct cpu_state *s) {
    struct cpu_msrs copy = s->msr;
    for (u32 i = 0; i < PLACES; i++) {
        if (!(c->m->msr_present & BIT(i)) && *field(&copy, i)) {
            log_line(c->m->host, LOG_ERROR,
                     "kvm: vCPU %u: MSR 0x%x is 0x%llx in the state, and this host lacks it",
                     c->ev->id, places[i].index, (unsigned long long)*field(&copy, i));
            return -ERR_UNSUPPORTED;
        }
    }
    return 0;
}

/* KVM takes a TSC within a second of what it expects for an attempt to bring processors into step,
 * and keeps its own value (kvm_synchronize_tsc in Linux' arch/x86/kvm/x86.c): a machine restored in
 * its first second would see time go back. A value far off in between makes the next one count; the
 * other processors are then brought into step with the first, which is what is wanted. */
static void tsc_unsettle(struct kvm_cpu *c, u64 tsc) {
    if (c->ev->id == 0 && tsc) {
        (void)kvm_msr_write(c, MSR_TSC, tsc + 16 * c->ev->vm->tsc_hz);
    }
}

int kvm_msrs_set(struct kvm_cpu *c, const struct cpu_state *s) {
    struct kvm_msr_block list = {.count = 0};
    struct cpu_msrs copy = s->msr;
    int rc = absent_check(c, s);
    if (rc) {
        return rc;
    }
    for (u32 i = 0; i < PLACES; i++) {
        if (c->m->msr_present & BIT(i)) {
            list.entry[list.count++] =
                (struct kvm_msr_entry){.index = places[i].index, .data = *field(&copy, i)};
        }
    }
    tsc_unsettle(c, copy.tsc);
    int done = ioctl(c->fd, KVM_SET_MSRS, &list);
    kvm_tsc_note(c);
    if (done == (int)list.count) {
        return 0;
    }
    u32 at = done < 0 ? 0 : (u32)done;
    log_line(c->m->host, LOG_ERROR, "kvm: vCPU %u: MSR 0x%x refuses 0x%llx", c->ev->id,
             list.entry[at].index, (unsigned long long)list.entry[at].data);
    return -ERR_INVAL;
}
