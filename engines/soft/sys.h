/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the system files of the software engine share: descriptors, explicit stacks, far transfers,
 * task switches. Private to exc.c, seg.c, far.c, iret.c, task.c, syscall.c and sys*.c.
 *
 * Intel SDM volume 3, chapters 3 (segments), 6 (privilege), 7 (interrupts), 8 (tasks).
 */
#ifndef ENGINES_SOFT_SYS_H
#define ENGINES_SOFT_SYS_H

#include "engines/soft/soft.h"

/* Descriptor types of system segments (S = 0), SDM vol. 3, table 3-2. */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS = 9,
    DESC_TSS_BUSY = 11,
    DESC_CALL = 12,
    DESC_INT = 14,
    DESC_TRAP = 15,
};

/* Type bits of code and data segments (S = 1). */
#define TYPE_CODE       8u
#define TYPE_CONFORMING 4u /* code */
#define TYPE_READABLE   2u /* code */
#define TYPE_DOWN       4u /* data: expands down */
#define TYPE_WRITABLE   2u /* data */
#define TYPE_ACCESSED   1u

/* Attributes of segments that no descriptor describes. */
#define ATTR_REAL_DATA 0x93u   /* present, DPL 0, writable data, accessed */
#define ATTR_V86       0xf3u   /* the same with DPL 3 */
#define ATTR_FLAT_CS64 0xa09bu /* G, L, present, DPL 0, code */
#define ATTR_FLAT_CS32 0xc09bu
#define ATTR_FLAT_SS   0xc093u

/* A descriptor as it lies in its table. */
struct desc {
    u64 raw;
    u64 high;   /* second half of a 16-byte system descriptor (desc_read_high) */
    u64 linear; /* where it lies */
    u16 sel;
};

static inline u32 desc_attr(const struct desc *d) {
    return (u32)(d->raw >> 40) & 0xf0ffu;
}
static inline u32 desc_type(const struct desc *d) {
    return (u32)(d->raw >> 40) & 0xfu;
}
static inline u32 desc_dpl(const struct desc *d) {
    return (u32)(d->raw >> 45) & 3u;
}
static inline bool desc_present(const struct desc *d) {
    return d->raw >> 47 & 1;
}
static inline bool desc_is_segment(const struct desc *d) { /* code or data, not system */
    return d->raw >> 44 & 1;
}
static inline bool desc_is_code(const struct desc *d) {
    return desc_is_segment(d) && (desc_type(d) & TYPE_CODE);
}
static inline bool desc_is_conforming(const struct desc *d) {
    return desc_is_code(d) && (desc_type(d) & TYPE_CONFORMING);
}
static inline bool desc_is_writable_data(const struct desc *d) {
    return desc_is_segment(d) && !(desc_type(d) & TYPE_CODE) && (desc_type(d) & TYPE_WRITABLE);
}
static inline u64 desc_base(const struct desc *d) {
    return (d->raw >> 16 & 0xffffff) | (d->raw >> 32 & 0xff000000);
}
u32 desc_limit(const struct desc *d); /* scaled by G */

static inline bool sel_is_null(u16 sel) {
    return (sel & ~3u) == 0;
}
static inline u16 sel_error(u16 sel) {
    return sel & 0xfffc;
}

static inline bool is_canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}
static inline bool in_real_mode(const struct soft_vcpu *c) {
    return !(c->s.cr0 & CR0_PE);
}
static inline bool in_v86(const struct soft_vcpu *c) {
    return (c->s.cr0 & CR0_PE) && (c->s.rflags & FLAG_VM);
}
static inline bool in_protected(const struct soft_vcpu *c) { /* neither real nor V86 */
    return (c->s.cr0 & CR0_PE) && !(c->s.rflags & FLAG_VM);
}
static inline u32 iopl(const struct soft_vcpu *c) {
    return (u32)(c->s.rflags >> 12) & 3u;
}

/* An address in a system structure: wraps at 4 GiB outside long mode. */
static inline u64 sys_linear(const struct soft_vcpu *c, u64 base, u64 offset) {
    return c->long_mode ? base + offset : (u32)(base + offset);
}
/* Loads and stores of system structures (GDT, LDT, IDT, TSS): supervisor whatever the CPL. */
u64 sys_load(struct soft_vcpu *c, u64 base, u64 offset, u32 size);
void sys_store(struct soft_vcpu *c, u64 base, u64 offset, u32 size, u64 value);

/* --- seg.c -------------------------------------------------------------------------------------
 */

/* False when sel lies outside its table; null selectors are the caller's business. */
bool desc_read(struct soft_vcpu *c, u16 sel, struct desc *d);
/* The same, raising vector with the selector as error code. */
void desc_fetch(struct soft_vcpu *c, u16 sel, struct desc *d, u8 vector);
/* Long mode: the second half of a system descriptor; raises vector(sel) beyond the limit. */
void desc_read_high(struct soft_vcpu *c, struct desc *d, u8 vector);
/* Atomic change of the access byte in memory: accessed (1) and busy (2) bits. */
void desc_set_bits(struct soft_vcpu *c, struct desc *d, u8 bits);
void desc_clear_bits(struct soft_vcpu *c, struct desc *d, u8 bits);
void desc_mark_accessed(struct soft_vcpu *c, struct desc *d);

void seg_from_desc(struct segment *seg, u16 sel, const struct desc *d);
void seg_set_null(struct segment *seg, u16 sel, u32 dpl);
void seg_set_real(struct soft_vcpu *c, u8 seg, u16 sel); /* real and virtual-8086 mode */
void seg_set_flat(struct segment *seg, u16 sel, u32 attr);

/* MOV, POP, LDS...: all checks of the mode, then the register is loaded. Not for CS. */
void soft_load_segment(struct soft_vcpu *c, u8 seg, u16 sel);
/* Reads and checks a new SS for privilege level cpl; vector is what a bad one raises (#TS in stack
 * switches, #GP in returns); not present is #SS. */
void seg_check_stack(struct soft_vcpu *c, u16 sel, u32 cpl, struct desc *d, u8 vector);
/* After a return to an outer level: data segments that it may not have become null. */
void seg_drop_privileged(struct soft_vcpu *c);

/* Where control goes: filled by the checks, committed by cs_commit. */
struct target {
    struct desc d;
    u16 sel;
    u64 rip;
    u32 cpl;
};
/* #GP(0) unless rip is inside the target segment (or canonical). */
void target_check_rip(struct soft_vcpu *c, struct target *t);
/* Loads CS and RIP; changes neither SS nor the derived state. */
void target_commit(struct soft_vcpu *c, struct target *t);
/* Sets where execution goes on. */
static inline void soft_goto(struct soft_vcpu *c, u64 rip) {
    c->next_rip = rip;
    c->s.rip = rip;
}

/* --- stacks (stack.c) --------------------------------------------------------------------------
 */

/* A stack that is not (yet) SS:RSP. Registers change only in stack_commit. */
struct stack {
    struct segment seg;
    u64 sp;
    u64 mask;  /* 0xffff, 0xffffffff or all ones */
    u32 error; /* error code of #SS */
    enum mmu_index mmu;
};
void stack_current(struct soft_vcpu *c, struct stack *st);
/* SS from a descriptor (or the null SS of 64-bit mode when d is NULL) at privilege cpl. */
void stack_new(struct soft_vcpu *c, struct stack *st, const struct desc *d, u16 sel, u64 sp,
               u32 cpl);
void stack_push(struct soft_vcpu *c, struct stack *st, u32 size, u64 value);
u64 stack_pop(struct soft_vcpu *c, struct stack *st, u32 size);
void stack_skip(struct stack *st, u64 bytes);
void stack_commit_sp(struct soft_vcpu *c, const struct stack *st);
/* SS:ESP for an inner level from the 16- or 32-bit TSS, checked; #TS and #SS. */
void stack_from_tss(struct soft_vcpu *c, struct stack *st, u32 cpl, struct desc *d);
/* RSPn (n = cpl) or, when ist is not 0, ISTn from the 64-bit TSS. */
u64 rsp_from_tss(struct soft_vcpu *c, u32 cpl, u32 ist);

/* --- task.c ------------------------------------------------------------------------------------
 */

enum task_cause { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* Switches to the TSS sel/d, whose type and presence the caller has checked. next_rip is saved as
 * the old task's EIP. Returns after the commit, with everything loaded. */
void task_switch(struct soft_vcpu *c, struct desc *d, enum task_cause cause, u64 next_rip);
/* Through a task gate (already checked itself): checks the TSS it names. */
void task_gate(struct soft_vcpu *c, u16 tss_sel, enum task_cause cause, u64 next_rip);

/* --- transfers (far.c, iret.c, syscall.c) ------------------------------------------------------
 */

/* A far pointer in memory: size bytes of offset, then the selector. */
u64 soft_load_far(struct soft_vcpu *c, const struct uop *u, u32 size, u16 *sel);
void far_jmp(struct soft_vcpu *c, u16 sel, u64 offset, u32 opsize);
void far_call(struct soft_vcpu *c, u16 sel, u64 offset, u32 opsize);
void far_ret(struct soft_vcpu *c, u32 opsize, u32 drop);
void soft_iret(struct soft_vcpu *c, u32 opsize);
void soft_syscall(struct soft_vcpu *c);
void soft_sysret(struct soft_vcpu *c, u32 opsize);
void soft_sysenter(struct soft_vcpu *c);
void soft_sysexit(struct soft_vcpu *c, u32 opsize);

/* Checks the code segment that RET or IRET returns to and fills the target. */
void return_check_cs(struct soft_vcpu *c, u16 sel, u64 rip, struct target *t);
/* Loads SS for a return whose target is t: a null SS is allowed in 64-bit mode below CPL 3. */
void return_load_stack(struct soft_vcpu *c, const struct target *t, u16 ss, u64 sp);

/* A debugger's single step that ended in a fault stops at the handler (debug.c). */
void debug_step_fault(struct soft_vcpu *c);

/* The usual cases of the above and of events in 64-bit mode (short.c): true when all was done, else
 * nothing was. */
struct short_event {
    u8 vector; /* not #DB */
    bool fault, has_error;
    u32 error;
    u64 rip;
};
bool short_syscall(struct soft_vcpu *c);
bool short_sysret(struct soft_vcpu *c); /* 64-bit operand size */
bool short_iret(struct soft_vcpu *c);   /* likewise */
bool short_deliver(struct soft_vcpu *c, const struct short_event *e);

/* --- flags (sys_flags.c) -----------------------------------------------------------------------
 */

/* Replaces the bits of mask in RFLAGS, wakes the run loop when interrupts become possible, and
 * updates the mode. */
void flags_load(struct soft_vcpu *c, u64 value, u64 mask);
/* The 16-bit image of V86 code under VME (POPF, IRET): IF goes to VIF; may raise #GP(0). */
void flags_load_virtual(struct soft_vcpu *c, u64 value);

/* --- control registers (sys_cr.c) --------------------------------------------------------------
 */

void soft_write_cr0(struct soft_vcpu *c, u64 value);
void soft_write_cr3(struct soft_vcpu *c, u64 value);
void soft_write_cr4(struct soft_vcpu *c, u64 value);
/* PAE paging outside long mode: are the four PDPTEs at cr3 free of reserved bits? */
bool soft_pdpte_valid(struct soft_vcpu *c, u64 cr3);

/* --- families of bind_system: false when the instruction is not theirs --------------------------
 */

bool bind_sys_flags(struct bind *b);
bool bind_sys_cr(struct bind *b);
bool bind_sys_desc(struct bind *b);
bool bind_sys_misc(struct bind *b);
bool bind_sys_transfer(struct bind *b);
bool bind_sys_seg(struct bind *b);

#endif
