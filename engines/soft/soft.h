/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engine's processor: one struct soft_vcpu, the interpreter's micro-operations, and
 * the functions its files offer one another.
 *
 *   run.c   run loop: attention, events, block lookup     engine.c  struct engine_ops, state
 *   block.c decoded-block cache by physical page          smc.c     code pages, stopping vCPUs
 *   bind.c  struct insn -> struct uop, by family          int_*.c   integer instructions
 *   mem.c   loads and stores, the slow path               tlb.c     cached translations
 *   exc.c   exception and interrupt delivery              seg.c     segments, far transfers, tasks
 *   sys.c   CR, DR, MSR and other system instructions     str.c     string instructions
 *   tr.c    translation of hot blocks              tr_*.c    its parts (tr.h)
 *   vec.c   vector and x87 instructions on the real CPU   xsave.c   the XSAVE family
 *
 * Faults: a handler that meets a fault calls soft_fault, which does not return: it unwinds to the
 * run loop (jump.S), which delivers the exception with the RIP of the current instruction. So a
 * handler makes every access that can fault before it changes any register. `uop` says which
 * instruction is current; NEXT moves on.
 *
 * RIP: inside a block it is soft_rip(c). Between blocks it is c->next_rip; c->s.rip is written only
 * when the run loop is left. Whoever changes the control flow outside a block (soft_deliver) sets
 * c->next_rip.
 */
#ifndef ENGINES_SOFT_SOFT_H
#define ENGINES_SOFT_SOFT_H

#include "core/cpu/decode.h"
#include "core/cpu/state.h"
#include "core/if/engine.h"
#include "core/mem/ram.h"

struct soft_vcpu;
struct soft_vm;
struct soft_block;
struct uop;
struct tlb_entry;

/* Executes one instruction and then, by tail call, the rest of its block. */
typedef void (*uop_fn)(struct soft_vcpu *c, const struct uop *u);

/*
 * One decoded instruction. Operand registers are GPR numbers; byte registers ah ch dh bh are 16..19
 * (soft_gpr8 addresses them). ea is precomputed: segment base + base + index*scale + disp.
 */
struct uop {
    uop_fn fn;
    union {
        u64 imm;                 /* sign-extended immediate or branch displacement; UOP_KEPT: */
        const struct insn *insn; /* the full decoding, lives as long as the block: kept_insn */
    };
    s32 disp;
    u16 offset; /* of this instruction from the start of its block, bytes */
    u8 len;
    u8 opsize; /* 1, 2, 4, 8: operand size of the handler's family */
    u8 dst, src, src2;
    u8 base, index, scale_shift; /* MEM_NONE, MEM_RIP as in decode.h */
    u8 seg;
    u8 addrsize; /* 2, 4, 8: the effective address is cut to it */
    /* Where base, index and segment base are found, as byte offsets into struct soft_vcpu (its
     * member zero when there is none): an address without a branch. Integer handlers only. */
    u16 base_off, index_off, seg_off;
    u16 spare; /* a family's own, and UOP_KEPT */
};
_Static_assert(sizeof(struct uop) == 40, "decoded code lives longer when more of it fits");

#define UOP_KEPT 0x8000u /* of all families but integer's */

/* Where uop.insn points. */
struct kept_insn {
    struct insn insn;
    void (*stub)(void); /* vec.h */
};

static inline const struct kept_insn *uop_kept(const struct uop *u) {
    return (const struct kept_insn *)(const void *)u->insn;
}

/* What a load or store is, for paging. */
enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC, ACCESS_RMW };

/*
 * Privilege under which a translation was made, index of the translation caches.
 * MMU_SYS: supervisor access with SMAP not in force (AC set, or CR4.SMAP clear);
 * MMU_SMAP: supervisor access that must not touch user pages; implicit accesses (GDT, IDT, TSS,
 * exception frames) use MMU_SMAP when CR4.SMAP is set.
 */
enum mmu_index { MMU_USER, MMU_SYS, MMU_SMAP, MMU_COUNT };

/* idle.c: has the vCPU slept lately? */
struct soft_idle {
    u64 window, woke; /* host clock: when the window began, and the last sleep ended */
    u64 busy;         /* nanoseconds awake in this window */
    u32 light;        /* windows in a row in which it slept nearly all */
    u64 trims;
};

enum { TR_GROUPS = 8 }; /* of a trace */

struct soft_vcpu {
    struct cpu_state s; /* arithmetic flags in s.rflags are stale: aflags has them */
    u64 aflags;         /* FLAG_ARITH bits as the processor gave them; other bits are junk */

    struct engine_vcpu *ev;
    struct soft_vm *vm;

    /*
     * Derived from s; never saved. soft_mode_update (seg.c) computes the first group and ends with
     * soft_derived_update (tlb.c), which computes the second.
     */
    u8 mode; /* 16, 32, 64: decoder mode of CS */
    u8 cpl;
    u8 mmu; /* enum mmu_index for ordinary data accesses */
    u8 mmu_implicit;
    bool long_mode; /* EFER.LMA */
    bool seg_flat;  /* 32-bit: es cs ss ds have base 0 and limit 4 GiB, so checks can be skipped */
    u64 mode_key;   /* everything a decoded block depends on beside its bytes; below 2^24 */

    struct tlb_entry *dtlb; /* translations for c->mmu, or an empty table when each access must
                               take the slow path (alignment checks, watchpoints) */
    struct tlb_entry *itlb; /* translations for fetches */
    struct tlb_entry *dtlb_ac[2]; /* at CPL 0: dtlb with RFLAGS.AC clear and set, and c->mmu */
    u8 mmu_ac[2];
    u64 jump_key;          /* mode_key, CPL and address space: what a block link depends on */
    u64 cs_base, cs_limit; /* 0 and all ones in 64-bit mode */
    u64 addr_mask;         /* of linear addresses: all ones in 64-bit mode, else 4 GiB - 1 */
    u64 zero;              /* always 0 */
    u64 linear;            /* what the address micro-op computed for the next one */
    bool align_check;      /* CR0.AM, RFLAGS.AC and CPL 3 */
    /* 32-bit code: FS, GS are data that may be written, of 4 GiB: only their base counts. */
    bool seg_open[SEG_COUNT];

    /* The block being executed. */
    struct soft_block *block;
    const struct uop *uop; /* the current instruction */
    u64 block_rip;         /* RIP of the block's first byte: RIP of u = block_rip + u->offset */
    u64 next_rip;          /* where to go on when the block has ended */
    u32 leave;             /* non-zero: leave the run loop after this block (SOFT_LEAVE_*) */
    u32 request;           /* SOFT_REQ_*, set by other threads; atomic (smc.h) */
    u64 purge_page;        /* for SOFT_REQ_PURGE: atomic (smc.c) */
    u32 in_guest;          /* 1 while guest memory may be touched through cached translations */

    /* A fault on its way to the run loop. */
    u8 fault_vector;
    bool fault_has_error;
    u32 fault_error;
    u64 fault_cr2;

    /* Delivery of an event through the IDT (exc.c); only meaningful inside soft_deliver. */
    bool event_ext; /* #TS, #NP, #SS and #GP raised now carry EXT in their error code */
    u64 event_rip;  /* what a fault met during delivery pushes as its return address */

    /* One instruction at a time (debug.c). `one` is derived: TF, an interrupt shadow, breakpoints
     * or the debugger want a look after each instruction. It is part of mode_key: blocks are then
     * one instruction long, and REP strings do one iteration and stay at their RIP until done. */
    bool one;
    bool watch;        /* derived: data breakpoints are armed (soft_watch_page) */
    u64 watch_mark;    /* derived: which they are, mixed; a change forgets translations */
    bool shadow_fresh; /* this instruction began events.shadow: it lasts over the next one */
    bool step_armed;   /* TF was set when this instruction began */
    u32 dr6_pending;   /* DR6 bits that this instruction earned (B0..B3, BD, BS, BT) */
    u32 watch_pending; /* the same for the debugger's own registers */
    u64 tsc_offset;    /* soft_tsc = clock of the machine + this */

    bool window_wanted; /* intr_window */
    struct engine_debug debug;
    struct vm_exit *exit; /* filled by handlers that leave */
    struct engine_stats stats;

    void *jump[8]; /* soft_setjmp */

    /* The translator (tr.h), reached by generated code through GS; tr is NULL when it is off. */
    struct soft_tr *tr;
    struct soft_vcpu *tr_self;
    u64 look;        /* table for translated code + LOOK_BIAS (look.h) */
    u64 look_ac[2];  /* the same as dtlb_ac */
    u64 tr_flags;    /* guest flags outside RFLAGS: AH as LAHF leaves it, AL is OF */
    u32 tr_lazy;     /* where flags are when a trace begins that does not say (tr_flags.c) */
    u64 tr_resume;   /* where to go on in generated code */
    u64 tr_host_rsp; /* the monitor's stack while generated code runs */
    u64 tr_temp;     /* one instruction's own */
    u64 tr_addend[TR_GROUPS]; /* one trace's own: of its groups (tr_group.c) */
    u32 tr_exit;              /* why generated code was left: index of struct tr_exit */
    u32 tr_host_mxcsr;
    u32 tr_vec_live;  /* vector registers and MXCSR of the guest are in the processor */
    u64 tr_fault_rip; /* host RIP of a processor exception in generated code */
    u64 tr_fault_flags;
    u64 tr_purge_page; /* for SOFT_REQ_CODE, as purge_page: atomic */
    struct tr_jump {   /* indirect jumps: rip -> generated code (tr_jump_of) */
        u64 rip, host;
    } tr_jump[1 << 17] ALIGNED(32);
    u64 *tr_seen; /* tr_page.c: of the present address space */
    /* Floating traces (tr_page.c): what their addresses are off by, what stands for that and
     * jump_key; and for those of late, by (delta >> PAGE_SHIFT) % its length. */
    u64 tr_delta, tr_here;
    struct tr_here {
        u64 delta, key, id, unused;
    } tr_heres[4096];
    struct engine_tr_counted tr_counted; /* by generated code, when it is asked to */
    u8 tr_turns[16]; /* lock-step: the trace entered n-th stores byte n to the request word */

    struct soft_tlb *tlb;       /* tlb.h */
    struct soft_cache *cache;   /* block.h */
    struct soft_vec *vec;       /* vec.h */
    struct soft_idle idle;      /* idle.c */
    struct soft_verify *verify; /* verify.h; NULL: translated code is not checked */
};

/* Why the run loop is left after the current block. */
#define SOFT_LEAVE_EXIT BIT(0) /* c->exit is filled: return it */
#define SOFT_LEAVE_LOOP BIT(1) /* only go round: mode, interrupt flag or pending events changed */

/* Requests by other threads. */
#define SOFT_REQ_KICK  BIT(0) /* leave with EXIT_KICK */
#define SOFT_REQ_PURGE BIT(1) /* forget write translations (smc.c) */
#define SOFT_REQ_STOP  BIT(2) /* another vCPU wants to be alone */
#define SOFT_REQ_CODE  BIT(3) /* translated code is outdated (tr.c) */
/* In the uppermost byte, which only the vCPU's thread writes, by plain stores of that byte. */
#define SOFT_REQ_TURN  BIT(24) /* lock-step: no further trace is to be entered (verify.c) */
#define SOFT_REQ_OTHER (BIT(24) - 1)

/* --- the run loop, time (run.c, engine.c) ------------------------------------------------------
 */

/* The guest's TSC; set changes it for this vCPU (WRMSR of IA32_TSC). */
u64 soft_tsc(const struct soft_vcpu *c);
void soft_tsc_set(struct soft_vcpu *c, u64 value);

/* Around anything slow or blocking (device callouts do it themselves in mem.c; IN, OUT, RDMSR and
 * the like should): other vCPUs need not wait for this one meanwhile. */
void soft_guest_leave(struct soft_vcpu *c);
void soft_guest_enter(struct soft_vcpu *c);

/* --- faults (exc.c) ----------------------------------------------------------------------------
 */

/* Raises an exception at the current instruction; does not return. */
_Noreturn void soft_fault(struct soft_vcpu *c, u8 vector, bool has_error, u32 error);
_Noreturn void soft_page_fault(struct soft_vcpu *c, u64 linear, u32 error);
static inline _Noreturn void soft_gp(struct soft_vcpu *c, u32 error) {
    soft_fault(c, EXC_GP, true, error);
}
static inline _Noreturn void soft_ud(struct soft_vcpu *c) {
    soft_fault(c, EXC_UD, false, 0);
}

/* exc.c. Delivers an event through the IDT (all modes; nested faults become #DF, then shutdown).
 * soft: INT n, INT3, INTO, whose return address is behind the instruction and whose gate's DPL is
 * checked. Sets c->next_rip and updates the mode. The run loop has already set DR6
 * (#DB), blocked NMIs (NMI) and taken the event out of c->s.events; soft_deliver itself sets CR2
 * from c->fault_cr2 for #PF. On shutdown it fills c->exit and sets SOFT_LEAVE_EXIT. */
enum soft_event { EVENT_FAULT, EVENT_TRAP, EVENT_SOFT, EVENT_EXTERNAL };
void soft_deliver(struct soft_vcpu *c, u8 vector, enum soft_event kind, bool has_error, u32 error,
                  u64 return_rip);
/* The run loop after a soft_longjmp from soft_fault: delivers c->fault_* at soft_rip(c) (the run
 * loop points c->uop at a uop with offset 0 when it was fetching). Like soft_deliver it never
 * faults itself; it leaves c->next_rip (and s.rip) at the handler, and may set SOFT_LEAVE_EXIT
 * (shutdown). */
void soft_handle_fault(struct soft_vcpu *c);

/* --- debug.c -----------------------------------------------------------------------------------
 */

/*
 * While c->one is set, around each instruction at RIP rip. begin: false when an instruction
 * breakpoint was delivered or left to the debugger instead (go round; c->leave tells). end: after
 * the instruction, c->next_rip being where it went on: ends the interrupt shadow, delivers or
 * reports single steps and data breakpoints. Neither is called for an instruction that faulted.
 */
bool soft_insn_begin(struct soft_vcpu *c, u64 rip);
void soft_insn_end(struct soft_vcpu *c);

/* mem.c: does an armed data breakpoint touch this page (then it must not enter the fast cache)? */
bool soft_watch_page(const struct soft_vcpu *c, u64 linear);
/* mem.c slow path, when c->watch, after the access is known not to fault. */
void soft_watch(struct soft_vcpu *c, u64 linear, u32 size, bool write);
void soft_watch_io(struct soft_vcpu *c, u16 port, u32 size); /* IN, OUT, INS, OUTS when c->watch */

/* --- mode and flags ----------------------------------------------------------------------------
 */

/* After a change of CR0, CR4, EFER, segments, RFLAGS.AC/VM/TF/RF, CPL, DR7: recomputes the derived
 * fields and ends with soft_derived_update. (seg.c) A change that affects control (IF, TF, RF,
 * shadow, mode, breakpoints) also ends the block and sets SOFT_LEAVE_LOOP. */
void soft_mode_update(struct soft_vcpu *c);
void soft_derived_update(struct soft_vcpu *c); /* tlb.c; cheap */

/* mode_key. A change of it sets SOFT_LEAVE_LOOP. */
#define KEY_MODE_32   BIT(0) /* neither: 16-bit code */
#define KEY_MODE_64   BIT(1)
#define KEY_CPL       (BIT(2) | BIT(3))
#define KEY_CPL_SHIFT 2
#define KEY_FLAT      BIT(4) /* seg_flat */
#define KEY_SS_32     BIT(5) /* SS.B: 32-bit stack; 0 in 64-bit mode, which does not look at it */
#define KEY_PE        BIT(6) /* protected mode, V86 included */
#define KEY_V86       BIT(7)
#define KEY_LMA       BIT(8)
#define KEY_ONE       BIT(9)  /* c->one */
#define KEY_AC        BIT(10) /* alignment checks are in force: CR0.AM, RFLAGS.AC, CPL 3 */
#define KEY_MP        BIT(11)
#define KEY_EM        BIT(12)
#define KEY_TS        BIT(13)
#define KEY_OSFXSR    BIT(14)
#define KEY_XMMEXC    BIT(15) /* CR4.OSXMMEXCPT */
#define KEY_OSXSAVE   BIT(16)
#define KEY_AVX       BIT(17) /* CR4.OSXSAVE and XCR0.AVX and XCR0.SSE */

static inline u64 soft_rflags(const struct soft_vcpu *c) {
    return (c->s.rflags & ~(u64)FLAG_ARITH) | (c->aflags & FLAG_ARITH);
}
/* Writes all of RFLAGS; callers that change IF, TF, AC, VM, RF also call soft_mode_update. */
static inline void soft_rflags_set(struct soft_vcpu *c, u64 v) {
    c->s.rflags = v;
    c->aflags = v;
}

static inline u64 soft_rip(const struct soft_vcpu *c) { /* of the current instruction */
    return c->block_rip + c->uop->offset;
}
static inline u64 soft_rip_after(const struct soft_vcpu *c) {
    return c->block_rip + c->uop->offset + c->uop->len;
}

/* --- memory (mem.c) ----------------------------------------------------------------------------
 */

/*
 * Guest virtual memory at a linear address, size 1, 2, 4, 8, under an explicit privilege. Page
 * crossings, MMIO, code pages and watchpoints are handled; a fault does not return.
 */
u64 soft_lin_load(struct soft_vcpu *c, u64 linear, u32 size, enum mmu_index mmu);
void soft_lin_store(struct soft_vcpu *c, u64 linear, u32 size, u64 value, enum mmu_index mmu);
/* Any size up to 4096; all or nothing for stores: both pages are probed before a byte is written.
 */
void soft_lin_read(struct soft_vcpu *c, u64 linear, void *buf, u32 size, enum mmu_index mmu);
void soft_lin_write(struct soft_vcpu *c, u64 linear, const void *buf, u32 size, enum mmu_index mmu);

/*
 * Host address of [linear, linear+size) for access, or NULL when it is not plain RAM in one page
 * (MMIO, page crossing; use the functions above). Faults like the access itself. For ACCESS_WRITE
 * and ACCESS_RMW the page is marked dirty and code on it invalidated before this returns.
 */
void *soft_lin_ptr(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                   enum mmu_index mmu);

/* Linear address of seg:offset with the segment checks of the mode (limit, type, canonical);
 * raises #GP or #SS. Ordinary data accesses. */
u64 soft_linear(struct soft_vcpu *c, u8 seg, u64 offset, u32 size, enum access access);

/* Effective address (offset, cut to the address size) of the uop's memory operand. */
u64 soft_ea(struct soft_vcpu *c, const struct uop *u);

/* The uop's memory operand: effective address, segment checks, access with c->mmu. */
u64 soft_load(struct soft_vcpu *c, const struct uop *u, u32 size);
void soft_store(struct soft_vcpu *c, const struct uop *u, u32 size, u64 value);

/* Stack accesses under SS with the stack's address size (2, 4, 8); sp is passed and returned so
 * that RSP changes only when everything succeeded. */
u64 soft_push(struct soft_vcpu *c, u64 sp, u32 size, u64 value); /* returns the new sp */
u64 soft_pop(struct soft_vcpu *c, u64 sp, u32 size, u64 *value); /* returns the new sp */
u64 soft_sp(const struct soft_vcpu *c);                          /* cut to the stack size */
void soft_sp_set(struct soft_vcpu *c, u64 sp);                   /* keeps the upper part */

/* Checks that [linear, linear+size) could be accessed, without accessing; faults if not. */
void soft_lin_probe(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                    enum mmu_index mmu);

/* --- translation caches (tlb.c) ----------------------------------------------------------------
 */

/* Whoever changes CR0.PG/WP, CR4.PAE/PSE/PGE/PCIDE/SMEP/SMAP/PKE, EFER.NXE/LMA or PKRU calls
 * soft_tlb_flush_all; MOV CR3 calls soft_tlb_cr3 after s.cr3 has the new value (without bit 63). */

void soft_tlb_flush_all(struct soft_vcpu *c);              /* all PCIDs, global pages too */
void soft_tlb_flush_context(struct soft_vcpu *c);          /* current PCID, not global pages */
void soft_tlb_flush_page(struct soft_vcpu *c, u64 linear); /* INVLPG */
void soft_tlb_invpcid(struct soft_vcpu *c, u32 type, u16 pcid, u64 linear);
void soft_tlb_cr3(struct soft_vcpu *c, u64 cr3, bool keep); /* after MOV CR3: keep is bit 63 */

/* --- instruction families: fill uop->fn (and more); false: not mine ----------------------------
 */

struct bind {
    struct soft_vcpu *c;
    const struct insn *insn;
    struct uop *uop; /* address fields, len, offset, insn are filled already */
    bool last;       /* set by the family: the block ends after this one */
    bool linear;     /* set by bind_integer: needs an address micro-op in front */
    u8 access_size;  /* with linear: bytes and enum access of the operand, for the checks */
    u8 access;
};
bool bind_integer(struct bind *b); /* int_*.c */
bool bind_system(
    struct bind *b); /* sys.c, seg.c, exc.c: INT, IRET, far transfers, POPF, STI, ... */
bool bind_string(struct bind *b); /* str.c: MOVS..., INS, OUTS with and without REP; also IN, OUT */
bool bind_vector(struct bind *b); /* vec.c: x87, MMX, SSE, AVX, BMI on host registers; xsave.c */

/* Every handler ends with one of these. */
#define NEXT(c, u)                                                                                 \
    do {                                                                                           \
        (c)->uop = (u) + 1;                                                                        \
        return (u)[1].fn((c), (u) + 1);                                                            \
    } while (0)

/* Ends the block: the run loop goes on at rip. */
#define GOTO_RIP(c, rip)                                                                           \
    do {                                                                                           \
        (c)->next_rip = (rip);                                                                     \
        return;                                                                                    \
    } while (0)

static inline u8 *soft_gpr8(struct soft_vcpu *c, u8 r) {
    return r < 16 ? (u8 *)&c->s.gpr[r] : (u8 *)&c->s.gpr[r - 16] + 1;
}

/* Writes a GPR with the rule of the size: 4 zero-extends, 1 and 2 merge. */
static inline void soft_gpr_set(struct soft_vcpu *c, u8 r, u32 size, u64 v) {
    switch (size) {
    case 1:
        *soft_gpr8(c, r) = (u8)v;
        break;
    case 2:
        *(u16 *)&c->s.gpr[r] = (u16)v;
        break;
    case 4:
        c->s.gpr[r] = (u32)v;
        break;
    default:
        c->s.gpr[r] = v;
        break;
    }
}

static inline u64 soft_gpr_get(struct soft_vcpu *c, u8 r, u32 size) {
    switch (size) {
    case 1:
        return *soft_gpr8(c, r);
    case 2:
        return (u16)c->s.gpr[r];
    case 4:
        return (u32)c->s.gpr[r];
    default:
        return c->s.gpr[r];
    }
}

/* jump.S: returns 0 when set, and again with the value given to soft_longjmp. */
int soft_setjmp(void **jump) __attribute__((returns_twice));
_Noreturn void soft_longjmp(void **jump, int value);

#endif
