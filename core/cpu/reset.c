/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What RESET and INIT make of a processor: Intel SDM volume 3, table 10-1 (IA-32 and Intel 64
 * processor states following power-up, reset, or INIT). The local APIC resets itself
 * (core/irq/lapic.c). Left out: built-in self test results. Pure functions, no lock.
 */
#include "core/cpu/cpuid.h"
#include "core/cpu/state.h"

/* Types of the hidden part after reset: data read/write accessed, 16-bit LDT, busy TSS. */
#define ATTR_DATA (0x3u | SEG_ATTR_S | SEG_ATTR_P)
#define ATTR_CODE (0xbu | SEG_ATTR_S | SEG_ATTR_P)
#define ATTR_LDT  (0x2u | SEG_ATTR_P)
#define ATTR_TSS  (0xbu | SEG_ATTR_P)

#define CR0_RESET (CR0_CD | CR0_NW | CR0_ET)
#define DR6_RESET 0xffff0ff0u
#define DR7_RESET 0x400u
#define PAT_RESET 0x0007040600070406ull

/* IA32_APIC_BASE: enabled at its usual address, bit 8 on the bootstrap processor. */
#define APIC_BASE_RESET  (0xfee00000u | BIT(11))
#define APIC_BASE_BSP    BIT(8)
#define MISC_ENABLE_FAST BIT(0)  /* fast strings */
#define MISC_ENABLE_BTS  BIT(11) /* branch trace storage unavailable */
#define MISC_ENABLE_PEBS BIT(12) /* processor event based sampling unavailable */

enum { XSAVE_FCW = 0, XSAVE_FTW = 4, XSAVE_MXCSR = 24, XSAVE_BV = 512 };
enum { FCW_RESET = 0x40, MXCSR_RESET = 0x1f80 };

static struct segment segment_real(u16 sel, u64 base, u32 attr) {
    return (struct segment){.base = base, .limit = 0xffff, .attr = attr, .sel = sel};
}

/* What RESET and INIT have in common: everything that decides how the next instruction executes. */
static void execution_reset(struct cpu_state *s) {
    u32 leaf1[4];
    cpuid_host(1, 0, leaf1);
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[GPR_RDX] = leaf1[0]; /* the policy passes the host's signature on */
    s->rip = 0xfff0;
    s->rflags = 0x2;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = segment_real(0, 0, ATTR_DATA);
    }
    s->seg[SEG_CS] = segment_real(0xf000, 0xffff0000, ATTR_CODE);
    s->ldtr = segment_real(0, 0, ATTR_LDT);
    s->tr = segment_real(0, 0, ATTR_TSS);
    s->gdtr = (struct desc_table){.base = 0, .limit = 0xffff};
    s->idtr = s->gdtr;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
    s->msr.efer = 0;
    memset(s->dr, 0, sizeof(s->dr));
    s->dr6 = DR6_RESET;
    s->dr7 = DR7_RESET;
    s->events = (struct cpu_events){0};
}

static void xsave_reset(struct cpu_state *s) {
    static const u16 fcw = FCW_RESET;
    static const u32 mxcsr = MXCSR_RESET;
    static const u64 bv = XCR0_X87 | XCR0_SSE;
    memset(s->xsave, 0, sizeof(s->xsave));
    memcpy(s->xsave + XSAVE_FCW, &fcw, sizeof(fcw));
    s->xsave[XSAVE_FTW] = 0xff; /* abridged: all eight hold +0.0 */
    memcpy(s->xsave + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
    memcpy(s->xsave + XSAVE_BV, &bv, sizeof(bv));
}

void cpu_state_reset(struct cpu_state *s, bool bsp) {
    memset(&s->msr, 0, sizeof(s->msr));
    execution_reset(s);
    s->cr0 = CR0_RESET;
    s->xcr0 = XCR0_X87;
    xsave_reset(s);
    s->msr.pat = PAT_RESET;
    s->msr.apic_base = APIC_BASE_RESET | (bsp ? APIC_BASE_BSP : 0);
    s->msr.misc_enable = MISC_ENABLE_FAST | MISC_ENABLE_BTS | MISC_ENABLE_PEBS;
    s->mp_state = bsp ? MP_RUNNABLE : MP_WAIT_SIPI;
}

void cpu_state_init(struct cpu_state *s, bool bsp) {
    execution_reset(s);
    s->cr0 = (s->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    s->mp_state = bsp ? MP_RUNNABLE : MP_WAIT_SIPI;
}
