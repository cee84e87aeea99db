/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sensitivity analyser: which instructions depend on or change machine state outside the
 * program's own, and do they all trap at CPL 3? Found by running every form, not from a list.
 *
 *   forms    sensitivity_forms.c    every encoding the decoder knows, one of each kind
 *   machine  sensitivity_machine.c  a bare machine on an engine; runs one instruction
 *   knobs    sensitivity_knobs.c    operands to try; pieces of machine state to vary, one at a time
 *   native   sensitivity_native.c   the same instructions at ring 3 of the host
 *   judge    sensitivity_judge.c    what the runs say about a form; the theorems
 *   reports  sensitivity_text.c, _json.c, _html.c
 *
 * Popek and Goldberg, "Formal requirements for virtualizable third generation architectures", 1974;
 * Robin and Irvine, "Analysis of the Intel Pentium's ability to support a secure virtual machine
 * monitor", 2000.
 */
#ifndef CMD_SENSITIVITY_H
#define CMD_SENSITIVITY_H

#include <stdio.h>

#include "cmd/cmd.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/decode.h"
#include "core/cpu/state.h"
#include "core/vm/vm.h"

/* --- forms -------------------------------------------------------------------------------------
 */

struct sens_form {
    u8 code[INSN_MAX_LEN + 1]; /* operands not filled in: see sens_place */
    struct insn insn;
    char text[56];
};

struct sens_forms {
    struct sens_form *form;
    u32 count;
    u32 withheld; /* encodings that the CPU policy does not offer: #UD */
};

/* All forms of mode (64 or 32) that the policy offers. 0 or -ERR_NOMEM. */
int sens_forms_list(struct sens_forms *out, u8 mode, const struct cpuid_policy *policy);
void sens_forms_free(struct sens_forms *forms);

/* --- the machine -------------------------------------------------------------------------------
 */

/* Addresses in the machine, and (from SENS_CODE on) in the native child. */
enum {
    SENS_RAM = 4 << 20,
    SENS_PT = 0x1000,
    SENS_GDT = 0x5000,
    SENS_GDT2 = 0x5800, /* copies at other places, for the knobs */
    SENS_IDT = 0x6000,
    SENS_IDT2 = 0x7000,
    SENS_HANDLER = 0x8000, /* vector n at 16 n; then SYSCALL's and SYSENTER's entries */
    SENS_HANDLER2 = 0x9800,
    SENS_TSS = 0xb000,
    SENS_TSS2 = 0xb800,
    SENS_LDT = 0xc000,
    SENS_LDT2 = 0xc800,
    SENS_PT2 = 0xd000,  /* a copy of the page tables */
    SENS_PT3 = 0x11000, /* another one, to the other half of memory */
    SENS_CODE_PAGE = 0x20000,
    SENS_CODE = 0x20400,  /* where the form stands: branches stay within the page */
    SENS_STACK = 0x30000, /* one page; the stack pointer starts in its middle */
    SENS_RSP = 0x30800,
    SENS_RSP0 = 0x33000,
    SENS_DATA = 0x40000,             /* one page */
    SENS_TARGET = SENS_CODE + 0x200, /* where far transfers and returns lead */
    SENS_LOW = 0x48000,              /* all of the above */
    SENS_TABLES = SENS_PT2 - SENS_GDT,
    SENS_PORT = 0x80, /* reads give sens_machine.port_value */
    SENS_STOP_PORT = 0xb0,
};

/* Linux' selectors, so that native runs find the same numbers. */
enum {
    SENS_CS32 = 0x08,
    SENS_CS64 = 0x10,
    SENS_DS = 0x18,
    SENS_UCS32 = 0x20 | 3,
    SENS_UDS = 0x28 | 3,
    SENS_UCS64 = 0x30 | 3,
    SENS_TR = 0x40,
    SENS_LDTR = 0x50,
    SENS_TR2 = 0x60,   /* available TSS */
    SENS_LDTR2 = 0x70, /* LDT */
    SENS_UDS2 = 0x80 | 3,
    SENS_DS2 = 0x88,
    SENS_CODE2 = 0x90, /* code segments like the first, for far transfers */
    SENS_UCODE2 = 0x98 | 3,
    SENS_GDT_LIMIT = 0xff,
};

enum sens_end {
    SENS_DONE,     /* the next instruction, or the target of a branch, was reached */
    SENS_TRAP,     /* an exception */
    SENS_INT,      /* went through the IDT, SYSCALL or SYSENTER on purpose */
    SENS_HALT,     /* the processor stopped or went on for ever */
    SENS_SHUTDOWN, /* triple fault: the instruction broke what handlers need */
    SENS_REFUSED,  /* the engine does not take this state */
};

/* Machine state outside the program's own, in groups. */
/* clang-format off */
#define SENS_GROUPS(X) \
    X(IF, "RFLAGS.IF") \
    X(IOPL, "RFLAGS.IOPL") \
    X(VIF, "RFLAGS.VIF/VIP") \
    X(VM, "RFLAGS.VM/RF") \
    X(CR0, "CR0") \
    X(CR2, "CR2") \
    X(CR3, "CR3") \
    X(CR4, "CR4") \
    X(CR8, "CR8") \
    X(XCR0, "XCR0") \
    X(DR, "debug registers") \
    X(EFER, "EFER") \
    X(SYSCALL, "SYSCALL MSRs") \
    X(SYSENTER, "SYSENTER MSRs") \
    X(KERNEL_GS, "KERNEL_GS_BASE") \
    X(MSR, "other MSRs") \
    X(TSC, "time or chance") \
    X(TSC_AUX, "TSC_AUX") \
    X(GDTR, "GDTR") \
    X(IDTR, "IDTR") \
    X(LDTR, "LDTR") \
    X(TR, "TR") \
    X(SEG, "DS, ES, FS, GS") \
    X(SEG_BASE, "FS or GS base") \
    X(CPL, "CPL, CS, SS") \
    X(DESC, "descriptors") \
    X(IDT, "interrupt descriptors") \
    X(IO, "I/O") \
    X(IOBITMAP, "I/O bitmap") \
    X(PHYS, "physical location") \
    X(ACTIVITY, "activity") \
    X(NMI, "NMI blocking")
/* clang-format on */

enum sens_group {
#define X(name, text) SENS_G_##name,
    SENS_GROUPS(X)
#undef X
        SENS_GROUP_COUNT
};

struct sens_result {
    u8 end; /* enum sens_end */
    u16 vector;
    u32 error;
    s64 moved;          /* RIP - SENS_CODE where it ended */
    u64 gpr[GPR_COUNT]; /* 0 where unchanged */
    u64 flags;          /* bits that changed */
    u64 memory;         /* hash of the bytes that changed */
    u64 vector_state;   /* hash of the XSAVE area */
    u64 changed;        /* BIT(SENS_G_*): state that is not as it was before */
};

struct sens_machine {
    struct linux_host *lh;
    struct host *host;
    struct vm *vm;
    const struct engine_ops *ops;
    struct engine_vcpu *vcpu;
    struct bus_region region[2];
    u8 mode;
    u8 *image;  /* SENS_LOW bytes: memory before each run */
    u8 *memory; /* the guest's */
    u8 *view;   /* where the page tables lead: memory, or its other half */
    struct cpu_state base, s;
    u8 data[0x1000], stack[0x1000], tables[SENS_TABLES]; /* as the instruction found them */
    u32 port_value;
    u32 stopped, io; /* by the last run */
    bool wild;       /* it may have written anywhere */
    void *watchdog;
};

struct sens_operands;
struct sens_knob;

int sens_machine_create(struct sens_machine *m, const struct engine_ops *ops,
                        const struct engine_caps *caps, u8 mode, struct err *err);
void sens_machine_destroy(struct sens_machine *m);
/* knob may be NULL. */
void sens_run(struct sens_machine *m, const struct sens_form *form, u32 cpl,
              const struct sens_operands *operands, const struct sens_knob *knob,
              struct sens_result *result);
/* The code with its operands: at most 16 bytes; far transfers go to selector. */
void sens_place(u8 *to, const struct sens_form *form, u16 selector);
/* What lies at SENS_RSP: for branches what a far return or IRET of this form takes, else word. */
void sens_stack_frame(u8 *stack_page, const struct sens_form *form, u16 selector, u16 word);
u16 sens_code_selector(u8 mode, u32 cpl);

/* --- operands and knobs ------------------------------------------------------------------------
 */

enum { SENS_NEAR = 1, SENS_FAR };

struct sens_operands {
    const char *name;
    bool by_cpl;   /* the values depend on the CPL: no comparison between CPLs */
    u8 target;     /* something to jump to: SENS_NEAR, SENS_FAR, or 0 */
    bool on_stack; /* a data selector lies on the stack */
    /* Fills RAX, RCX, RDX and the upper registers, and the data page. */
    void (*fill)(const struct cpu_state *s, u16 far, u64 *gpr, u8 *data);
};

struct sens_knob {
    const char *name;
    u8 group; /* enum sens_group */
    bool mode64_only, cpl3_only;
    /* Changes one piece of state. false: cannot be varied here. */
    bool (*turn)(struct sens_machine *m);
};

/* Indirect branches only take operands that lead back to the code page. */
bool sens_operands_fit(const struct sens_operands *o, const struct sens_form *form);

extern const struct sens_operands sens_operands[];
extern const u32 sens_operand_count;
extern const struct sens_knob sens_knobs[];
extern const u32 sens_knob_count;
/* far: the code selector for far pointers. */
void sens_operands_fill(const struct sens_operands *o, const struct cpu_state *s, u16 far, u64 *gpr,
                        u8 *data);

/* --- native ------------------------------------------------------------------------------------
 */

struct sens_native {
    bool ran;
    u8 end; /* SENS_DONE, SENS_TRAP or SENS_HALT (took too long, or the process died) */
    u16 vector;
    u32 error;
};

enum sens_native_way { SENS_PLAIN, SENS_NO_TSC, SENS_NO_CPUID };

/* Each form with its operands (an index per form) at ring 3, in child processes without system
 * calls; 64-bit forms only. result: count of them. 0 or -ERR_*. */
int sens_native_run(const struct sens_forms *forms, const u8 *operands, enum sens_native_way way,
                    struct sens_native *result);

/* --- judgement ---------------------------------------------------------------------------------
 */

struct sens_evidence {
    u64 reads;    /* BIT(group): the result differed silently when it was varied */
    u64 traps_by; /* BIT(knob index): whether it traps depends on it */
    u64 writes;   /* BIT(group) */
    struct sens_result base;
};

struct sens_verdict {
    bool exists;                  /* does not #UD everywhere */
    bool privileged;              /* traps at CPL 3 and not at CPL 0 */
    bool mode_sensitive;          /* ends silently differently at CPL 3 and CPL 0 */
    bool control, behaviour;      /* at any CPL */
    bool user_sensitive;          /* at CPL 3 */
    u8 soft_handling;             /* enum soft_handling of engines/soft, with that engine */
    u8 operands;                  /* index of the operands that the evidence is from */
    struct sens_evidence at[2];   /* CPL 0, CPL 3 */
    struct sens_native native[3]; /* by enum sens_native_way */
};

struct sens_report {
    const char *engine;
    u8 mode;
    const struct cpuid_policy *policy;
    struct sens_forms forms;
    struct sens_verdict *verdict; /* forms.count */
    u64 runs;
    bool native;
};

static inline bool sens_sensitive(const struct sens_verdict *v) {
    return v->control || v->behaviour;
}
/* What breaks theorem 1, and theorem 3. */
static inline bool sens_breaks_1(const struct sens_verdict *v) {
    return v->exists && sens_sensitive(v) && !v->privileged;
}
static inline bool sens_breaks_3(const struct sens_verdict *v) {
    return v->exists && v->user_sensitive && !v->privileged;
}

void sens_judge(struct sens_machine *m, const struct sens_form *form, struct sens_verdict *v,
                u64 *runs);
const char *sens_group_name(u32 group);
/* "#GP(0)", "completes", ... */
void sens_end_text(const struct sens_result *r, char *buf, size_t size);
void sens_groups_text(u64 groups, char *buf, size_t size);
/* How an engine treats the form: "identical", "inline", "callout", "trap". */
const char *sens_handling(const char *engine, const struct sens_verdict *v,
                          const struct insn *insn);
/* "privileged", "SENSITIVE, UNPRIVILEGED", ... */
const char *sens_class(const struct sens_verdict *v);
/* Robin and Irvine's name for the instruction when it is one of the seventeen, else NULL. */
const char *sens_robin_irvine(const struct insn *insn);
/* Does host and engine end alike? -1: not run natively. 0: differ; why is static text or "". */
int sens_agrees(const struct sens_form *form, const struct sens_verdict *v, const char **why);

struct sens_totals {
    u32 exist, privileged, sensitive, break1, break3;
    u32 agree, differ, explained; /* with the host at ring 3 */
};
struct sens_totals sens_count(const struct sens_report *r);

void sens_text(const struct sens_report *r, u32 count, bool all);
int sens_json(const struct sens_report *r, u32 count, FILE *to);
int sens_html(const struct sens_report *r, u32 count, FILE *to);

#endif
