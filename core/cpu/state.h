/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The complete architectural state of one processor. Every engine can get and set it, so a saved
 * machine does not depend on the engine that ran it. The local APIC is a device (core/irq/lapic.h).
 *
 * Intel SDM volume 3, sections 2 (control registers), 3 (segments), 13 (XSAVE area), volume 4
 * (MSRs).
 */
#ifndef CORE_CPU_STATE_H
#define CORE_CPU_STATE_H

#include "core/base/types.h"

enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT
};

enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/*
 * A segment register with its hidden part. attr has the layout of the VMX access rights
 * (SDM vol. 3, table 25-2): bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16
 * unusable.
 */
struct segment {
    u64 base;
    u32 limit; /* in bytes, already scaled by G: the last valid offset */
    u32 attr;
    u16 sel;
};

#define SEG_ATTR_TYPE      0xfu
#define SEG_ATTR_S         (1u << 4)
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P         (1u << 7)
#define SEG_ATTR_AVL       (1u << 12)
#define SEG_ATTR_L         (1u << 13)
#define SEG_ATTR_DB        (1u << 14)
#define SEG_ATTR_G         (1u << 15)
#define SEG_ATTR_UNUSABLE  (1u << 16)

struct desc_table {
    u64 base;
    u16 limit;
};

/* Where the processor stands between instructions (KVM_GET_MP_STATE, SDM vol. 3 section 9.4.3). */
enum mp_state { MP_RUNNABLE, MP_HALTED, MP_WAIT_SIPI, MP_INIT_RECEIVED };

/* Interrupt shadow: what inhibits interrupts for one instruction. */
#define SHADOW_STI    BIT(0)
#define SHADOW_MOV_SS BIT(1)

/* Events that belong to the processor but have not been delivered yet. */
struct cpu_events {
    bool exception_pending; /* to be delivered before the next instruction */
    bool exception_has_error;
    u8 exception_vector;
    u32 exception_error;
    u64 exception_cr2;      /* for #PF */
    bool interrupt_pending; /* accepted from the controller, being delivered */
    bool interrupt_soft;
    u8 interrupt_vector;
    bool nmi_pending; /* latched */
    bool nmi_blocked; /* until IRET */
    u8 shadow;        /* SHADOW_* */
};

enum { MTRR_FIXED_COUNT = 11, MTRR_VAR_COUNT = 8, XSAVE_AREA_SIZE = 4096 };

/* MSRs that hold state and have no other home in struct cpu_state. */
struct cpu_msrs {
    u64 efer;
    u64 star, lstar, cstar, sfmask;
    u64 kernel_gs_base; /* FS and GS base live in seg[] */
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 pat;
    u64 apic_base;    /* IA32_APIC_BASE */
    u64 tsc_deadline; /* IA32_TSC_DEADLINE; 0 when not armed */
    u64 tsc;          /* guest TSC at the moment of state_get */
    u64 tsc_adjust;
    u64 tsc_aux;
    u64 misc_enable;
    u64 debugctl;
    u64 spec_ctrl;
    u64 xss;
    u64 mcg_status, mcg_ctl;
    u64 mtrr_def_type;
    u64 mtrr_fixed[MTRR_FIXED_COUNT]; /* 250, 258, 259, 268..26f */
    u64 mtrr_base[MTRR_VAR_COUNT], mtrr_mask[MTRR_VAR_COUNT];
};

struct cpu_state {
    u64 gpr[GPR_COUNT];
    u64 rip;
    u64 rflags;
    struct segment seg[SEG_COUNT];
    struct segment ldtr, tr;
    struct desc_table gdtr, idtr;
    u64 cr0, cr2, cr3, cr4;
    u64 cr8; /* task priority, 0..15: a view of the local APIC's TPR */
    u64 xcr0;
    u64 dr[4];
    u64 dr6, dr7;
    struct cpu_msrs msr;
    struct cpu_events events;
    u32 mp_state; /* enum mp_state */
    /* Standard-format XSAVE image (SDM vol. 1, 13.4): legacy area, header, AVX at 576, PKRU at the
     * offset that CPUID leaf 0xd gives on this host. XSTATE_BV says which parts are not initial. */
    u8 xsave[XSAVE_AREA_SIZE] ALIGNED(64);
};

/* Groups of state for state_get and state_set. */
#define STATE_GPR    BIT(0) /* gpr, rip, rflags */
#define STATE_SREG   BIT(1) /* seg, ldtr, tr, gdtr, idtr, cr0..cr4, cr8, efer, apic_base */
#define STATE_DEBUG  BIT(2) /* dr, dr6, dr7 */
#define STATE_XSAVE  BIT(3) /* xcr0, xsave */
#define STATE_MSR    BIT(4) /* msr (all) */
#define STATE_EVENTS BIT(5) /* events, mp_state */
#define STATE_ALL    (BIT(6) - 1)

/* RFLAGS */
#define FLAG_CF    BIT(0)
#define FLAG_PF    BIT(2)
#define FLAG_AF    BIT(4)
#define FLAG_ZF    BIT(6)
#define FLAG_SF    BIT(7)
#define FLAG_TF    BIT(8)
#define FLAG_IF    BIT(9)
#define FLAG_DF    BIT(10)
#define FLAG_OF    BIT(11)
#define FLAG_IOPL  (BIT(12) | BIT(13))
#define FLAG_NT    BIT(14)
#define FLAG_RF    BIT(16)
#define FLAG_VM    BIT(17)
#define FLAG_AC    BIT(18)
#define FLAG_VIF   BIT(19)
#define FLAG_VIP   BIT(20)
#define FLAG_ID    BIT(21)
#define FLAG_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define CR4_PKE        BIT(22)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

#define XCR0_X87  BIT(0)
#define XCR0_SSE  BIT(1)
#define XCR0_AVX  BIT(2)
#define XCR0_PKRU BIT(9)

enum exception {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
};

/* Page-fault error code */
#define PF_P    BIT(0)
#define PF_W    BIT(1)
#define PF_U    BIT(2)
#define PF_RSVD BIT(3)
#define PF_I    BIT(4)
#define PF_PK   BIT(5)

/* The state after RESET (SDM vol. 3, table 10-1); APs start in MP_WAIT_SIPI. In core/cpu/reset.c.
 */
void cpu_state_reset(struct cpu_state *s, bool bsp);
/* After INIT: keeps what INIT keeps (caches, MSRs, FPU). */
void cpu_state_init(struct cpu_state *s, bool bsp);

/*
 * Could a processor be in this state? Looks at the groups of mask (STATE_*) and at what they have
 * in common; which features are offered is the caller's to check. 0 or -ERR_INVAL.
 */
int cpu_state_check(const struct cpu_state *s, u64 mask);

/* One section CPUS. Load checks everything; on -ERR_FORMAT *s is a reset processor that waits for a
 * SIPI. */
struct snap_writer;
struct snap_reader;
void cpu_state_save(const struct cpu_state *s, struct snap_writer *w);
int cpu_state_load(struct cpu_state *s, struct snap_reader *r);

#endif
