/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random instructions on the real processor, in the interpreter and in translated code: what the
 * parts share. docs/fidelity.md describes the method.
 *
 *   conform.c          command line, batches, counts     conform_form.c     the table of forms
 *   conform_gen.c      a random case                     conform_native.c   the processor
 *   conform_guest.c    the software engine               conform_compare.c  what must agree
 *   conform_text.c     one case as one line              conform_shrink.c   a failing case, smaller
 *
 * A case is a few instructions at CPL 3 and the complete state they start from. Both sides see the
 * same linear addresses:
 *
 *   21000000  CF_CODE   8 pages of code slots, 64 bytes each, not writable; then a hole
 *   21010000  CF_EXIT   where each case goes in the end: the code that saves the state natively;
 * the guest cannot execute it 30000000  CF_RAM    two writable pages, one read-only page, a hole
 */
#ifndef TESTS_CONFORMANCE_CONFORM_H
#define TESTS_CONFORMANCE_CONFORM_H

#include "core/base/types.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/decode.h"
#include "core/cpu/state.h"

#define CF_CODE 0x21000000ull
#define CF_EXIT 0x21010000ull
#define CF_RAM  0x30000000ull

enum {
    CF_CODE_BYTES = 0x8000,
    CF_SLOT = 64,
    CF_SLOTS = 256, /* the first four pages; the others are for code at page ends */
    CF_BODY = 48,   /* instructions of a case, bytes */
    CF_RAM_WRITABLE = 0x2000,
    CF_RAM_BYTES = 0x3000, /* with the read-only page */
    CF_LIMIT = 0x7fff,     /* of the code segments of the LDT */
    CF_DATA_LIMIT = CF_RAM_BYTES - 1,
    CF_INSNS = 6,
    CF_PATCH = 64,
    CF_DIFFS = 96,
    CF_LDT_ENTRIES = 8,
    CF_ENDLESS = 0x200, /* in place of a vector: the engine was stopped from outside */
};

/* Code segments: 64-bit; flat 32-bit; 32-bit and 16-bit segments of the LDT with base and limit. */
enum cf_side { CF_64, CF_32, CF_32_LDT, CF_16, CF_SIDES };

/* Selectors of the flat segments are Linux's own; the others are the LDT's. */
enum {
    CF_SEL_CS32 = 0x23,
    CF_SEL_DS = 0x2b,
    CF_SEL_CS64 = 0x33,
    CF_SEL_LDT_CS32 = 0x07,
    CF_SEL_LDT_DS32 = 0x0f,
    CF_SEL_LDT_CS16 = 0x17,
    CF_SEL_LDT_DS16 = 0x1f,
    CF_SEL_LDT_RO = 0x27,
    CF_SEL_LDT_DOWN = 0x2f,
    CF_SEL_LDT_XO = 0x37,
    CF_SEL_LDT_NP = 0x3f,
};

struct cf_ldt {
    u32 base, limit;
    unsigned contents : 2; /* of struct user_desc: 0 data, 1 expand-down, 2 code */
    bool wide, read_exec_only, not_present;
};
extern const struct cf_ldt cf_ldt[CF_LDT_ENTRIES];

struct cf_view {
    const char *name;
    u8 bits;
    bool ldt;
    u16 cs, data;
};
extern const struct cf_view cf_view[CF_SIDES];

/* Legacy area and header of an XSAVE image, then the upper halves of YMM at 576. */
enum {
    CF_FCW = 0,
    CF_FSW = 2,
    CF_FTW = 4,
    CF_FOP = 6,
    CF_FIP = 8,
    CF_FDP = 16,
    CF_MXCSR = 24,
    CF_ST = 32,
    CF_XMM = 160,
    CF_LEGACY = 416,
    CF_BV = 512,
    CF_YMMH = 576,
    CF_XSAVE = 832,
};

struct cf_case {
    u8 side, len, insns;
    u8 at[CF_INSNS]; /* where in code each instruction begins */
    u8 code[CF_BODY];
    u32 entry; /* of the first byte, offset from CF_CODE */
    u64 gpr[16], flags, fs_base, gs_base;
    u16 sel[SEG_COUNT];
    u32 patch_at; /* in CF_RAM */
    u8 patch[CF_PATCH];
    u64 ram_seed; /* the rest of CF_RAM: cf_ram_fill; 0: zeros */
    u8 xsave[CF_XSAVE] ALIGNED(64);
};

struct cf_diff {
    u64 value;
    u32 at; /* byte offset in CF_RAM, a multiple of 8 */
};

struct cf_result {
    u32 vector, error;
    u64 cr2, rip, flags, gpr[16], fs_base, gs_base;
    u16 sel[SEG_COUNT];
    u32 diffs; /* changed words of CF_RAM, in order */
    struct cf_diff diff[CF_DIFFS];
    u8 xsave[CF_XSAVE] ALIGNED(64);
};

/* --- helpers -----------------------------------------------------------------------------------
 */

u64 cf_random(u64 *s);
static inline u64 cf_below(u64 *s, u64 n) {
    return (u64)(((unsigned __int128)cf_random(s) * n) >> 64);
}
void cf_ram_fill(u8 *ram, u64 seed); /* CF_RAM_BYTES */
/* The bytes at CF_CODE + entry: the case and how it leaves; returns how many, at most CF_SLOT. */
u32 cf_code_bytes(const struct cf_case *t, u8 *out);
/* Collects what differs from base and puts base back. */
u32 cf_ram_diff(u8 *ram, const u8 *base, struct cf_diff *diff);
/* Parts that XSTATE_BV calls initial become so in bytes. */
void cf_xsave_canonical(u8 *x, u64 bv);

/* --- conform_form.c ----------------------------------------------------------------------------
 */

/* Encodings that differ only in registers, displacement and immediate. */
struct cf_form {
    u16 id; /* INSN_INVALID: must be #UD */
    u8 mode, map, opcode, pp, vex_l;
    bool vex, wide, memory, has_modrm;
    u64 allowed; /* modrm bits 5:0 that give this form */
    u64 tries, faults;
};

struct cf_forms {
    struct cf_form *form;
    u32 count;
    u32 first[4], undefined[3]; /* by mode: 64, 32, 16, end; from where on they are undefined */
};
void cf_forms_build(struct cf_forms *f, u64 features);
const char *cf_excluded(const struct insn *insn); /* why a form is left out; NULL */

/* --- conform_gen.c -----------------------------------------------------------------------------
 */

struct cf_gen {
    u64 rng;
    struct cf_forms forms;
    u64 features;
    const char *only; /* mnemonic: no others */
    u32 side_mask;
    u32 chosen[CF_INSNS]; /* forms of the last case */
};
void cf_generate(struct cf_gen *g, struct cf_case *t, u32 slot, u64 ram_seed);

/* --- conform_native.c --------------------------------------------------------------------------
 */

/* How a case was lost: the child died of it or did not come back. */
struct cf_loss {
    bool lost, hung;
    u32 status; /* of waitpid */
    u32 signal; /* that came when no case ran; 0: none */
    u32 trap;   /* vector and address of that */
    u64 rip, cr2;
};

/* What parent and child share: one batch. */
struct cf_batch {
    u32 count;
    struct cf_case t[CF_SLOTS];
    struct cf_result r[CF_SLOTS];
    struct cf_loss lost[CF_SLOTS];
};

/* What stands at CF_EXIT, for whoever reads there. */
u32 cf_exit_bytes(u8 *page);

struct cf_native;
struct cf_native *cf_native_create(void); /* NULL: cannot (no modify_ldt, places taken); says why */
void cf_native_destroy(struct cf_native *n);
struct cf_batch *cf_native_batch(struct cf_native *n, u32 which); /* 0, 1 */
void cf_native_start(struct cf_native *n, u32 which);
bool cf_native_owns(const struct cf_native *n, u64 address);
void cf_native_renew(struct cf_native *n); /* another child */
void cf_native_wait(struct cf_native *n);  /* runs what a dead child has left, too */

/* --- conform_guest.c ---------------------------------------------------------------------------
 */

struct cf_guest;
struct cf_guest *cf_guest_create(bool translator);
void cf_guest_destroy(struct cf_guest *g);
u64 cf_guest_features(const struct cf_guest *g);
/* All code must be there before the first runs, as on the native side. */
void cf_guest_load(struct cf_guest *g, const struct cf_case *t, u32 count);
void cf_guest_run(struct cf_guest *g, const struct cf_case *t, struct cf_result *r);

/* --- conform_compare.c -------------------------------------------------------------------------
 */

enum { CF_WHAT = 160 };
/* The first difference that has no explanation, into what; false: they agree. */
bool cf_compare(const struct cf_case *t, const struct cf_result *want, const struct cf_result *got,
                bool translated, char *what);

/* Linux takes a page fault above 4 GiB that 16- or 32-bit code raises for an erratum of the K8
 * (is_errata100 in arch/x86/mm/fault.c) and repeats the instruction for ever. A far call into a
 * 64-bit segment does so, which pushes by all of RSP. It takes #AC while RFLAGS.AC is 0 for a split
 * lock and repeats that, too, sleeping in between (handle_user_split_lock): IRET raises it by the
 * AC that it pops. And a jump may lead to itself on both sides. */
bool cf_lost_explained(const struct cf_loss *loss, const struct cf_result *got);

/* --- conform_text.c ----------------------------------------------------------------------------
 */

enum { CF_LINE = 8192 };
void cf_format(const struct cf_case *t, char *line);      /* without newline */
bool cf_parse(struct cf_case *t, const char *line);       /* false: not a case */
void cf_disassemble(const struct cf_case *t, char *text); /* CF_LINE */

/* --- conform_shrink.c --------------------------------------------------------------------------
 */

struct cf_run {
    struct cf_native *native;
    struct cf_guest *interp, *trans; /* trans may be NULL */
};
/* One case on all sides: true when one of them differs from the processor; what says how. */
bool cf_run_one(struct cf_run *run, const struct cf_case *t, char *what);
void cf_shrink(struct cf_run *run, struct cf_case *t);

#endif
