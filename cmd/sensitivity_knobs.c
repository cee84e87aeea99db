/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operands that let an instruction complete (some need a selector, an MSR's number, a control
 * register's value), tried one after another; and the knobs: pieces of machine state that are not
 * the program's own, each with one change.
 */
#include <string.h>

#include "cmd/sensitivity.h"
#include "core/cpu/msr.h"

/* --- operands ----------------------------------------------------------------------------------
 */

static void put(u8 *to, u64 value, u32 size) {
    memcpy(to, &value, size);
}

static void all(u64 *gpr, u64 value) {
    for (u32 n = 0; n < GPR_COUNT; n++) {
        gpr[n] = value;
    }
    gpr[GPR_RCX] = 1; /* a count */
}

static void fill_plain(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)s, (void)far;
    for (u32 n = 0; n < GPR_COUNT; n++) { /* a data selector for whoever takes one */
        gpr[n] = (u64)(n + 1) << 40 | (u64)(n + 1) << 12 | SENS_UDS;
    }
    gpr[GPR_RCX] = 3;
    gpr[GPR_RDX] = SENS_PORT;
    for (u32 n = 0; n < 0x1000; n += 8) {
        put(data + n, (u64)n << 32 | SENS_UDS, 8);
    }
}

static void fill_small(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)s, (void)far;
    all(gpr, 1);
    gpr[GPR_RAX] = 7; /* XCR0: x87, SSE, AVX */
    gpr[GPR_RCX] = 0;
    gpr[GPR_RDX] = 0;
    memset(data, 0, 0x1000);
    data[0] = 1;
}

static void fill_zero(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)s, (void)far;
    all(gpr, 0);
    memset(data, 0, 0x1000);
}

static void fill_one(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)s, (void)far;
    all(gpr, 1);
    memset(data, 0, 0x1000);
    data[0] = 1;
}

static void fill_msr(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    gpr[GPR_RAX] = 0x12345000;
    gpr[GPR_RCX] = MSR_KERNEL_GS_BASE;
    gpr[GPR_RDX] = 0;
}

static void fill_cr0(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, s->cr0 ^ CR0_TS);
}

static void fill_cr3(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, SENS_PT2);
}

static void fill_cr4(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, s->cr4 ^ CR4_TSD);
}

static void fill_cr8(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, 5);
}

static void fill_tss(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, SENS_TR2);
    put(data, SENS_TR2, 8);
}

static void fill_ldt(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, SENS_LDTR2);
    put(data, SENS_LDTR2, 8);
}

/* A far pointer in memory, for each operand size; and where SYSRET and SYSEXIT return to. */
static void fill_far(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data, u32 size) {
    fill_plain(s, far, gpr, data);
    put(data, SENS_TARGET, size);
    put(data + size, far, 2);
    gpr[GPR_RCX] = gpr[GPR_RDX] = SENS_TARGET;
    gpr[GPR_R11] = 0x202;
}

static void fill_far2(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    fill_far(s, far, gpr, data, 2);
}
static void fill_far4(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    fill_far(s, far, gpr, data, 4);
}
static void fill_far8(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    fill_far(s, far, gpr, data, 8);
}
/* The same with a data selector: LSS, LFS and LGS. */
static void fill_far_data(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    u16 sel = s->seg[SEG_DS].sel;
    fill_plain(s, far, gpr, data);
    put(data, SENS_RSP | (u64)sel << 32, 8);
}

static void fill_target(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, SENS_TARGET);
    put(data, SENS_TARGET, 8);
}

static void fill_gdt(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    put(data, SENS_GDT_LIMIT, 2);
    put(data + 2, SENS_GDT2, 8);
}

static void fill_idt(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    put(data, s->idtr.limit, 2);
    put(data + 2, SENS_IDT2, 8);
}

/* A stack segment or data segment of this privilege, in registers, memory and on the stack. */
static void fill_segment(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data) {
    (void)far;
    fill_plain(s, far, gpr, data);
    all(gpr, s->seg[SEG_SS].sel);
    put(data, s->seg[SEG_SS].sel, 8);
    memset(data + 8, 0, 8);
}

const struct sens_operands sens_operands[] = {
    {"pattern", false, 0, false, fill_plain},
    {"small numbers", false, 0, false, fill_small},
    {"one", false, 0, false, fill_one},
    {"zero", false, 0, false, fill_zero},
    {"an MSR's number", false, 0, false, fill_msr},
    {"CR0 with TS", false, 0, false, fill_cr0},
    {"other page tables", false, 0, false, fill_cr3},
    {"CR4 with TSD", false, 0, false, fill_cr4},
    {"a priority", false, 0, false, fill_cr8},
    {"a TSS", false, 0, false, fill_tss},
    {"an LDT", false, 0, false, fill_ldt},
    {"a 16-bit far pointer", true, SENS_FAR, false, fill_far2},
    {"a 32-bit far pointer", true, SENS_FAR, false, fill_far4},
    {"a 64-bit far pointer", true, SENS_FAR, false, fill_far8},
    {"a data far pointer", true, 0, false, fill_far_data},
    {"a code address", false, SENS_NEAR, false, fill_target},
    {"another GDT", false, 0, false, fill_gdt},
    {"another IDT", false, 0, false, fill_idt},
    {"a segment", true, 0, true, fill_segment},
};
const u32 sens_operand_count = ARRAY_LEN(sens_operands);

/* Addresses are the same with all operands. */
void sens_operands_fill(const struct sens_operands *o, const struct cpu_state *s, u16 far, u64 *gpr,
                        u8 *data) {
    o->fill(s, far, gpr, data);
    gpr[GPR_RBX] = SENS_DATA;
    gpr[GPR_RSP] = SENS_RSP;
    gpr[GPR_RBP] = SENS_STACK + 0xc00;
    gpr[GPR_RSI] = SENS_DATA + 0x100;
    gpr[GPR_RDI] = SENS_DATA + 0x200;
    if (!(s->msr.efer & EFER_LMA)) {
        for (u32 n = 0; n < GPR_COUNT; n++) {
            gpr[n] = n < 8 ? (u32)gpr[n] : 0;
        }
    }
}

/* --- knobs -------------------------------------------------------------------------------------
 */

#define FLAG_KNOB(name, bits)                                                                      \
    static bool turn_##name(struct sens_machine *m) {                                              \
        m->s.rflags ^= (bits);                                                                     \
        return true;                                                                               \
    }
FLAG_KNOB(if, FLAG_IF)
FLAG_KNOB(iopl, FLAG_IOPL)
FLAG_KNOB(vif, FLAG_VIF)

#define CR_KNOB(name, reg, bit)                                                                    \
    static bool turn_##name(struct sens_machine *m) {                                              \
        m->s.reg ^= (bit);                                                                         \
        return true;                                                                               \
    }
CR_KNOB(ts, cr0, CR0_TS)
CR_KNOB(em, cr0, CR0_EM)
CR_KNOB(mp, cr0, CR0_MP)
CR_KNOB(ne, cr0, CR0_NE)
CR_KNOB(am, cr0, CR0_AM)
CR_KNOB(wp, cr0, CR0_WP)
CR_KNOB(cd, cr0, CR0_CD)
CR_KNOB(cr2, cr2, 0x5000)
CR_KNOB(tsd, cr4, CR4_TSD)
CR_KNOB(de, cr4, CR4_DE)
CR_KNOB(pce, cr4, CR4_PCE)
CR_KNOB(osfxsr, cr4, CR4_OSFXSR)
CR_KNOB(xmmexcpt, cr4, CR4_OSXMMEXCPT)
CR_KNOB(pge, cr4, CR4_PGE)
CR_KNOB(mce, cr4, CR4_MCE)
CR_KNOB(vme, cr4, CR4_VME)
CR_KNOB(pvi, cr4, CR4_PVI)
CR_KNOB(cr8, cr8, 3)
CR_KNOB(dr0, dr[0], 0x123000)
CR_KNOB(dr6, dr6, 1)
CR_KNOB(gd, dr7, BIT(13))
CR_KNOB(sce, msr.efer, EFER_SCE)
CR_KNOB(lstar, msr.lstar, SENS_HANDLER2 - SENS_HANDLER)
CR_KNOB(sfmask, msr.sfmask, FLAG_CF)
CR_KNOB(kernel_gs, msr.kernel_gs_base, 0x777000)
CR_KNOB(sysenter_eip, msr.sysenter_eip, 16)
CR_KNOB(tsc_aux, msr.tsc_aux, 5)
CR_KNOB(tsc, msr.tsc, 1ull << 45)
CR_KNOB(pat, msr.pat, 1)
CR_KNOB(fs_base, seg[SEG_FS].base, 0x3000)
CR_KNOB(gs_base, seg[SEG_GS].base, 0x3000)

/* Bits that the policy may not offer. */
static bool turn_cr4(struct sens_machine *m, u64 bit, const char *feature) {
    m->s.cr4 ^= bit;
    return cpuid_policy_has(&m->vm->cpuid, feature);
}
static bool turn_umip(struct sens_machine *m) {
    return turn_cr4(m, CR4_UMIP, "umip");
}
static bool turn_fsgsbase(struct sens_machine *m) {
    return turn_cr4(m, CR4_FSGSBASE, "fsgsbase");
}
static bool turn_pke(struct sens_machine *m) {
    return turn_cr4(m, CR4_PKE, "pku");
}
static bool turn_osxsave(struct sens_machine *m) {
    return turn_cr4(m, CR4_OSXSAVE, "xsave");
}

static bool turn_xcr0(struct sens_machine *m) {
    if (!(m->s.xcr0 & XCR0_AVX)) {
        return false;
    }
    m->s.xcr0 &= XCR0_X87 | XCR0_SSE;
    return true;
}

static bool turn_cr3(struct sens_machine *m) {
    m->s.cr3 = SENS_PT2;
    return true;
}

/* The same contents in the other half of memory, and the tables lead there. */
static bool turn_physical(struct sens_machine *m) {
    if (m->mode != 64) {
        return false;
    }
    m->s.cr3 = SENS_PT3; /* other tables at another place, lest old translations be used */
    m->view = m->memory + SENS_RAM / 2;
    memcpy(m->view, m->memory, SENS_LOW);
    return true;
}

static bool turn_gdtr(struct sens_machine *m) {
    m->s.gdtr.base = SENS_GDT2;
    return true;
}
static bool turn_gdt_limit(struct sens_machine *m) {
    m->s.gdtr.limit = 0x1ff;
    return true;
}
static bool turn_idtr(struct sens_machine *m) {
    m->s.idtr.base = SENS_IDT2;
    return true;
}
static bool turn_idt_limit(struct sens_machine *m) {
    m->s.idtr.limit -= 16;
    return true;
}
static bool turn_ldtr(struct sens_machine *m) {
    m->s.ldtr.sel = SENS_LDTR2;
    m->s.ldtr.base = SENS_LDT2;
    return true;
}
static bool turn_tr(struct sens_machine *m) {
    m->memory[SENS_GDT + SENS_TR2 + 5] |= 2;
    m->s.tr.sel = SENS_TR2;
    m->s.tr.base = SENS_TSS2;
    return true;
}

/* Gate 80h leads elsewhere. */
static bool turn_gate(struct sens_machine *m) {
    u32 size = m->mode == 64 ? 16 : 8;
    u64 to = SENS_HANDLER2 + 0x80 * 16;
    for (u32 at = SENS_IDT; at <= SENS_IDT2; at += SENS_IDT2 - SENS_IDT) {
        memcpy(m->memory + at + 0x80 * size, &to, 2);
    }
    return true;
}

/* The data descriptors that selectors in operands name: their limits and one AVL bit. */
static bool turn_descriptor(struct sens_machine *m) {
    static const u16 sels[] = {SENS_UDS & ~7, SENS_DS};
    for (u32 n = 0; n < ARRAY_LEN(sels); n++) {
        m->memory[SENS_GDT + sels[n]] ^= 0x10;
        m->memory[SENS_GDT + sels[n] + 6] ^= 0x10;
    }
    return true;
}
/* They become read-only and DPL 0. */
static bool turn_rights(struct sens_machine *m) {
    m->memory[SENS_GDT + (SENS_UDS & ~7) + 5] = 0x91;
    return true;
}

/* Equal segments by another selector. */
static bool turn_selectors(struct sens_machine *m) {
    bool user = m->s.seg[SEG_CS].sel & 3;
    for (u32 n = 0; n < SEG_COUNT; n++) {
        if (n != SEG_CS) {
            m->s.seg[n].sel = user ? SENS_UDS2 : SENS_DS2;
        }
    }
    return true;
}

static bool turn_io_bitmap(struct sens_machine *m) {
    memset(m->memory + SENS_TSS + 104, 0, 0x60);
    return true;
}
static bool turn_io_value(struct sens_machine *m) {
    m->port_value = 0x22222222;
    return true;
}
static bool turn_nothing(struct sens_machine *m) {
    (void)m;
    return true;
}

const struct sens_knob sens_knobs[] = {
    {"nothing but time", SENS_G_TSC, false, false, turn_nothing},
    {"TSC", SENS_G_TSC, false, false, turn_tsc},
    {"IF", SENS_G_IF, false, false, turn_if},
    {"IOPL", SENS_G_IOPL, false, false, turn_iopl},
    {"VIF", SENS_G_VIF, false, false, turn_vif},
    {"CR0.TS", SENS_G_CR0, false, false, turn_ts},
    {"CR0.EM", SENS_G_CR0, false, false, turn_em},
    {"CR0.MP", SENS_G_CR0, false, false, turn_mp},
    {"CR0.NE", SENS_G_CR0, false, false, turn_ne},
    {"CR0.AM", SENS_G_CR0, false, false, turn_am},
    {"CR0.WP", SENS_G_CR0, false, false, turn_wp},
    {"CR0.CD", SENS_G_CR0, false, false, turn_cd},
    {"CR2", SENS_G_CR2, false, false, turn_cr2},
    {"CR3", SENS_G_CR3, false, false, turn_cr3},
    {"CR4.TSD", SENS_G_CR4, false, false, turn_tsd},
    {"CR4.DE", SENS_G_CR4, false, false, turn_de},
    {"CR4.PCE", SENS_G_CR4, false, false, turn_pce},
    {"CR4.OSFXSR", SENS_G_CR4, false, false, turn_osfxsr},
    {"CR4.OSXMMEXCPT", SENS_G_CR4, false, false, turn_xmmexcpt},
    {"CR4.PGE", SENS_G_CR4, false, false, turn_pge},
    {"CR4.MCE", SENS_G_CR4, false, false, turn_mce},
    {"CR4.VME", SENS_G_CR4, false, false, turn_vme},
    {"CR4.PVI", SENS_G_CR4, false, false, turn_pvi},
    {"CR4.UMIP", SENS_G_CR4, false, false, turn_umip},
    {"CR4.FSGSBASE", SENS_G_CR4, false, false, turn_fsgsbase},
    {"CR4.PKE", SENS_G_CR4, true, false, turn_pke},
    {"CR4.OSXSAVE", SENS_G_CR4, false, false, turn_osxsave},
    {"XCR0", SENS_G_XCR0, false, false, turn_xcr0},
    {"CR8", SENS_G_CR8, true, false, turn_cr8},
    {"DR0", SENS_G_DR, false, false, turn_dr0},
    {"DR6", SENS_G_DR, false, false, turn_dr6},
    {"DR7.GD", SENS_G_DR, false, false, turn_gd},
    {"EFER.SCE", SENS_G_EFER, false, false, turn_sce},
    {"LSTAR", SENS_G_SYSCALL, true, false, turn_lstar},
    {"SFMASK", SENS_G_SYSCALL, true, false, turn_sfmask},
    {"KERNEL_GS_BASE", SENS_G_KERNEL_GS, true, false, turn_kernel_gs},
    {"SYSENTER_EIP", SENS_G_SYSENTER, false, false, turn_sysenter_eip},
    {"TSC_AUX", SENS_G_TSC_AUX, false, false, turn_tsc_aux},
    {"PAT", SENS_G_MSR, false, false, turn_pat},
    {"FS base", SENS_G_SEG_BASE, false, false, turn_fs_base},
    {"GS base", SENS_G_SEG_BASE, false, false, turn_gs_base},
    {"GDTR base", SENS_G_GDTR, false, false, turn_gdtr},
    {"GDTR limit", SENS_G_GDTR, false, false, turn_gdt_limit},
    {"IDTR base", SENS_G_IDTR, false, false, turn_idtr},
    {"IDTR limit", SENS_G_IDTR, false, false, turn_idt_limit},
    {"an IDT gate", SENS_G_IDT, false, false, turn_gate},
    {"LDTR", SENS_G_LDTR, false, false, turn_ldtr},
    {"TR", SENS_G_TR, false, false, turn_tr},
    {"a descriptor's limit", SENS_G_DESC, false, false, turn_descriptor},
    {"a descriptor's rights", SENS_G_DESC, false, false, turn_rights},
    {"selectors", SENS_G_SEG, false, false, turn_selectors},
    {"the I/O bitmap", SENS_G_IOBITMAP, false, true, turn_io_bitmap},
    {"an I/O port", SENS_G_IO, false, false, turn_io_value},
    {"physical location", SENS_G_PHYS, true, false, turn_physical},
};
const u32 sens_knob_count = ARRAY_LEN(sens_knobs);

_Static_assert(ARRAY_LEN(sens_knobs) <= 64, "knobs fit one mask");
