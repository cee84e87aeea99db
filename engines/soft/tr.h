/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator: hot code of 64-bit mode, and of 32-bit mode with flat segments, as host code;
 * everything else, and any single instruction that it does not know, is the interpreter's.
 * docs/soft-engine.md has a drawing.
 *
 *   tr.c       when to translate, running, joining, outdating     tr_scan.c   what a trace holds
 *   tr_emit.c  bytes of host instructions                         tr_insn.c   copied instructions
 *   tr_mem.c   addresses, the inline translation cache, stacks    tr_flow.c   jumps, entries, exits
 *   tr_stub.c  ways in and out of generated code                  tr_miss.c   what it calls
 *   tr_cache.c memory, finding traces, forgetting them            tr_flags.c  flags at exits
 *   tr_page.c  whether code lies where it did                tr_cold.c  what is interpreted
 *   tr_sys.c   system instructions inline                         tr_str.c    strings, bit strings
 *   tr_share.c operands that are looked up once                tr_group.c the same, near one
 * another
 *
 * Registers in generated code: guest registers live in the host registers of the same number, RSP
 * too, but R13, R14 and R15, which live in c->s.gpr and are loaded where an instruction names them;
 * host R15 holds the address of a memory operand or part of it, R14 what is to be added to it, R13
 * is free. Compilers use those last, so hot loops seldom name them. GS is the vCPU.
 *
 * Guest flags are in RFLAGS, or in c->tr_flags, or they follow from registers (tr_flags.c): known
 * for each place in a trace. Where generated code is left they are exact, whoever will look at
 * them.
 *
 * A trace follows direct jumps within one guest page; its entries:
 *   X  indirect jumps (H_ADDR: rip): mode and page are checked; floating traces (tr_page.c) learn
 *      where they are
 *       P  jumps from another page: the same
 *   M  flags are in c->tr_flags                       R  flags are in RFLAGS
 *   L  flags are where the number in H_TEMP2 says (tr_flags.c), and nobody will read them
 *   APART  the same where the number in c->tr_lazy says; without an entry L: flags can be had by a
 *      certain recipe (tr_group.c)
 *   R and M from a trace of the same page that begins before it: no poll
 * All others poll c->request. Each way round passes one of them, since it cannot lead upwards only.
 * The page check (tr_page.c) finds out whether the fetch translation is that at the time of
 * translation, so joined jumps need no undoing when mappings change. When code changes the traces
 * of its page are taken out of all joins. An instruction over a page end begins a trace of its own,
 * which checks both pages.
 *
 * Lock rule: all belongs to the vCPU's thread, but tr_purge_page and request bits.
 */
#ifndef ENGINES_SOFT_TR_H
#define ENGINES_SOFT_TR_H

#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/look.h"
#include "engines/soft/tlb.h"

/* --- what the rest of the engine calls ---------------------------------------------------------
 */

struct soft_tr;
/* t: zeros. 0 also where the host cannot: c->tr stays NULL */
int soft_tr_create(struct soft_vcpu *c, struct soft_tr *t);
void soft_tr_destroy(struct soft_vcpu *c);
void soft_tr_flush(struct soft_vcpu *c);            /* all translations are void */
void soft_tr_run_begin(struct soft_vcpu *c);        /* on the thread that will run */
void soft_tr_blocks(struct soft_vcpu *c);           /* runs until something wants attention */
void soft_tr_purge(struct soft_vcpu *c);            /* serves SOFT_REQ_CODE */
void soft_tr_outdated(struct soft_vm *vm, u64 gpa); /* code there was written; any thread */
void soft_tr_context(struct soft_vcpu *c, u32 n);   /* address space n is the present one */
void soft_tr_stats(const struct soft_vcpu *c, struct engine_tr_stats *stats);

/* run.c */
struct soft_block *soft_find_next(struct soft_vcpu *c, u64 rip, u64 linear);
/* At next_rip, as the links of the block before it say, or NULL; by all other ways, and linked. */
struct soft_block *soft_linked_block(const struct soft_vcpu *c, const struct soft_block *from);
struct soft_block *soft_next_block(struct soft_vcpu *c, struct soft_block *from);

/* --- inside ------------------------------------------------------------------------------------
 */

enum { STEP_RUN_MAX = 12 }; /* times 15 bytes: struct tr_exit.len */
enum { TR_TRACE_MAX = 48, TR_REGIONS = 8, TR_NONE = 0xffffffff };

/* Host registers that hold no guest register. */
enum { H_TEMP2 = GPR_R13, H_TEMP = GPR_R14, H_ADDR = GPR_R15 };

enum tr_stub {
    STUB_EXIT,
    STUB_EXIT_FLAGS,
    STUB_MISS,
    STUB_MISS_FLAGS,
    STUB_STEP,
    STUB_INDIRECT,
    STUB_VLOAD,
    STUB_FLOAT,
    STUB_COUNT
};

enum tr_exit_kind {
    TR_FAULT,    /* index 0: a processor exception */
    TR_EDGE,     /* a direct jump that may be joined to its target */
    TR_SELF,     /* a trace that may not be run now */
    TR_INDIRECT, /* target in c->next_rip */
    TR_MISS,     /* memory access; generated code goes on when it returns */
    TR_STEP,     /* single instruction, likewise */
    TR_STEP_END, /* the same, but goes on where the instruction went */
};
_Static_assert(TR_STEP_END == (int)ENGINE_TR_STEP_END, "stats.left counts by kind");

enum {
    ENTRY_R,
    ENTRY_M,
    ENTRY_P,
    ENTRY_X,
    ENTRY_L,
    ENTRY_AHEAD_R,
    ENTRY_AHEAD_M,
    ENTRY_COUNT,
    ENTRY_APART = ENTRY_AHEAD_M, /* of an alone trace, which has none of those two */
};

struct tr_exit {
    u64 rip;   /* where to go on; of the instruction for MISS, STEP, INDIRECT */
    u32 block; /* whose */
    u32 patch; /* EDGE: where the rel32 is; MISS, STEP: where generated code goes on */
    u32 flags; /* where they are: FLAGS_AT_*; EDGE: or how they can be had (tr_flags.c) */
    u16 size;  /* MISS: bytes; STEP: instruction id; INDIRECT: what RSP was moved by */
    u8 kind : 7;
    bool floats : 1; /* as its block, which often is in no cache */
    u8 len; /* STEP: of the instruction; MISS: to how many bytes what is accessed first must be
               aligned; 0 */
    union {
        struct {          /* EDGE */
            u32 unjoined; /* where it leads when not joined */
            u32 next_in;  /* chain of those joined to the same block (MISS of a group, too); STEP:
                             index of its block */
            u32 target;   /* index of the block, TR_NONE */
        };
        struct { /* MISS */
            s32 ea_disp;
            u32 after; /* where generated code goes on behind the instructions, 0: nowhere; of a
                          group: next_in */
            s16 go_on; /* RIP behind, from rip; when `after`, generated code goes on there; of a
                          group: its late piece, from patch, 0: too far away to be joined */
            u8 first;  /* what is accessed first, from the address */
            u8 count;  /* instructions that share the look */
        };
    };
    u8 access; /* MISS; EDGE: enum tr_edge_tells */
    u8 entry;  /* EDGE: of the target; MISS: SEG_FS or SEG_GS when its limit and type have to be
                  looked at, else 0 */
    /* MISS: the linear address, from guest registers as they are at the exit */
    u8 ea_regs; /* base | index << 4 */
    u8 ea_how;  /* EA_* | shift << 2 | EA_INDEX | EA_QUIET */
};
_Static_assert(sizeof(struct tr_exit) == 40, "there are many");

/* Who tells an entry L of the target how flags can be had: nobody; generated code, before the jump;
 * the edge's late piece can, or what is in front of the jump at the trace's end, once it is made to
 * (tr_edge_join); it does. */
enum tr_edge_tells {
    EDGE_MUTE,
    EDGE_TOLD,
    EDGE_PIECE,
    EDGE_END,
    EDGE_TELLS = 4, /* beside the last two */
};

/* Where flags are at an exit: in c->tr_flags; where c->tr_lazy says; to be had by recipe number n -
 * FLAGS_AT_RECIPE. */
enum { FLAGS_AT_HOME, FLAGS_AT_LAZY, FLAGS_AT_RECIPE };

enum tr_recipe_op {
    RECIPE_ADD, /* a is the sum, b what was added */
    RECIPE_SUB, /* a is the difference, b what was subtracted */
    RECIPE_CMP, /* a and b were compared, */
    RECIPE_TEST,
    RECIPE_LOGIC, /* a is the result */
    RECIPE_NEG,
};

struct tr_recipe {
    u8 op, size, a, b; /* guest registers; b MEM_NONE: imm */
    s32 imm;
};

enum {
    EA_R15,
    EA_CONST,
    EA_REGS,
    EA_KIND = 3,
    EA_INDEX = 16,
    EA_QUIET = 32,
    EA_GROUP = 64,
    EA_KEPT = 128
}; /* it is in R15; its page is in R15; computed; QUIET: raises nothing (tr_share.c); GROUP: for a
      group, first is the leader's access (tr_group.c); KEPT: flags are in RFLAGS, RCX is in R15 */

struct tr_block {
    u64 rip, gpa, key; /* what tr_cache_find looks at is in one cache line */
    u64 second_gpa;    /* the page in which the first instruction ends */
    u32 next_rip;      /* chain of the hash by place, index + 1 */
    bool dead : 1;
    bool floats : 1;        /* rip is where it was translated: tr_page.c */
    bool alone : 1;         /* without groups, beside a trace with them (tr_group.c) */
    u16 early;              /* tr_flags_lazy */
    u32 seen, second_seen;  /* of generation, second_generation; alone: ENTRY_APART's recipe */
    u32 from, to;           /* its code */
    u32 exit_from, exit_to; /* its exits */
    const u32 *generation;
    const u32 *second_generation; /* NULL: it is one page */
    u32 entry[ENTRY_COUNT];       /* offsets in the code */
    u32 in;                       /* joined to it: chain of exits */
    u32 next_page[2];             /* of the same page (page_head): of the first, of the second */
    u32 slot, second_slot;        /* tr_page.c */
};
_Static_assert(sizeof(struct tr_block) <= 128, "two cache lines");

/* Where a processor exception is possible. */
struct tr_point {
    u64 rip;
    u32 host;
    bool flags_saved;
    bool floats;
    u32 flags; /* FLAGS_AT_*; HOME and not saved: in RFLAGS */
};

enum tr_class {
    CLASS_STEP,
    CLASS_STEP_END,
    CLASS_COPY,
    CLASS_NOP,
    CLASS_LEA,
    CLASS_MOFFS,
    CLASS_PUSH,
    CLASS_POP,
    CLASS_LEAVE,
    CLASS_PUSH_MEM,
    CLASS_SYSTEM, /* tr_sys.c */
    CLASS_STRING, /* tr_str.c */
    CLASS_CALL,
    CLASS_CALL_IND,
    CLASS_RET,
    CLASS_JMP,
    CLASS_JMP_IND,
    CLASS_JCC,
};

struct tr_insn {
    struct insn insn;
    u64 rip;
    u8 class;
    bool vector;   /* names vector registers */
    bool followed; /* a jump whose target comes next in the trace */
    bool found;    /* its operand was looked up by its group's leader, */
    bool reload;   /* and the addend is in the group's slot (tr_group.c) */
    u8 group;      /* 0: none */
    u16 live_in, live_out;
    u16 named, written; /* general registers: tr_regs_named */
};

/* Operands that share a look: tr_group.c. Offsets are from the sum of symbols. */
struct tr_group {
    u16 base, index; /* symbols */
    u8 scale, leader, count;
    bool write, quiet, spill; /* for any of them; the leader only reads; to the slot as well */
    s32 off, first;           /* of the leader's operand; of what it accesses first */
    s32 lo, hi;
};

struct tr_slot {
    u64 page, gpa, key;
};

/* An instruction of a trace by itself, for accesses that the interpreter does (tr_miss.c). */
enum { TR_SLOW = 512 };
struct tr_slow {
    u64 gpa, key;
    const u32 *generation;
    u32 seen, len;
    struct soft_block *block; /* NULL: free */
};

/* Of a near relative jump. */
static inline u64 tr_target(const struct tr_insn *i) {
    u64 to = i->rip + i->insn.len + i->insn.imm;
    return i->insn.mode == 64 ? to : (u32)to;
}

static inline size_t tr_slow_size(void) {
    return ALIGN_UP(soft_single_size(), (size_t)64);
}

/* A memory operand: base, index << shift, disp; base and index may be MEM_NONE. */
struct tr_at {
    u8 base, index, shift;
    s32 disp;
};

enum tr_flags_at { FLAGS_DEAD, FLAGS_LIVE, FLAGS_SAVED };

struct soft_tr {
    struct host_code code;
    u32 used, first; /* first: behind the stubs */
    u32 stub[STUB_COUNT];
    u32 stub_jump[STUB_COUNT]; /* the last jump there of the trace being made, 0: none */
    struct tr_exit *exits;
    struct tr_block *blocks;
    struct tr_point *points;
    struct audit *audit;         /* room for tr_audit, when it was asked; NULL */
    struct soft_block **singles; /* of STEP */
    u8 *single_room;             /* where they lie */
    size_t single_used;
    struct tr_slow slow[TR_SLOW];
    u8 *slow_room;             /* one single each */
    struct tr_recipe *recipes; /* tr_flags.c */
    u32 exit_count, block_count, point_count, single_count, recipe_count;
    u32 recipe_end, recipe_total; /* of the region, of all */
    u32 region, filled;           /* the one being filled; bit per region in use */
    struct tr_region_end {
        u32 block, point;
    } region_end[TR_REGIONS]; /* of those that are full */
    u32 lot;
    u32 heat, heat_min; /* executions before a block is translated: now, at least */
    u64 evicted_at;     /* stats.cold when the last region went */
    u8 lives[1 << 15];  /* how often code was decoded, by place, hashed */
    bool host_avx, host_bmi2;
    bool joined;                  /* large pages were asked for */
    bool force;                   /* interpret the next block */
    bool want_alone;              /* at next_rip, a trace without groups, */
    struct tr_recipe want_recipe; /* reached with flags that can be had so; size 0: otherwise */
    u32 hash[1 << 17];            /* by guest-physical address and key; index of the block + 1 */
    u64 heads[4096][8];  /* may a trace begin there? Bit per 8 bytes of a page, pages hashed */
    u32 page_head[4096]; /* (index of the block * 2 + which of its pages) + 1 */
    struct tr_slot *slots;
    u64 *seen; /* slot_max words for each address space */
    u32 slot_count, slot_max;
    u64 here_count;
    struct tr_near {
        u64 region, delta;
    } near[3][64]; /* deltas of late, by address / 64 KiB, 1 MiB, 16 MiB */
    struct engine_tr_stats stats;
    u32 step_count[INSN_COUNT];

    /* The trace being translated. */
    struct soft_vcpu *c;
    struct tr_insn trace[TR_TRACE_MAX];
    u32 trace_len;
    u64 trace_next; /* where it goes on when its last instruction is no jump */
    u64 rip, gpa;
    bool floats;
    u8 mode;                           /* 32 or 64 */
    const u8 *host_page, *second_page; /* second_page NULL: no instruction goes on there */
    u32 block;
    enum tr_flags_at flags_at; /* where the trace wants them when it begins */
    bool saved;                /* flags are in c->tr_flags */
    u32 lost;                  /* RFLAGS was destroyed, nobody will read it: FLAGS_AT_*, or 0 */
    struct {
        u32 insns, looks; /* of the instructions up to the next jump that may leave */
        u32 at[2];        /* where the code that adds them has the numbers */
    } run;
    bool alone; /* no groups, this time */
    struct tr_group group[TR_GROUPS + 1];
    u32 group_count;
    /* tr_share.c: is the operand where the one before was found? If not, will it be written later
     * on? Where it was found. */
    bool shared, share_write;
    struct tr_at share_at;
    u32 now, writer;              /* being translated; last that wrote all flags, or TR_NONE */
    u32 recipe_of, recipe_number; /* the recipe made last: of which writer; 0: none yet */
    u32 recipe_seen[1024];        /* numbers of the region's recipes, by what they say; 0: none */
    bool vec_done;                /* vector registers were seen to be loaded */
    bool look_held;               /* c->look is in H_TEMP2 (tr_mem.c) */
    bool keeping;                 /* the look being made keeps RFLAGS (tr_mem.c) */
    struct tr_late {
        u32 from[4]; /* rel32 to fix; 0: none */
        u32 back;    /* where the late piece returns to */
        u32 exit;
        u8 kind;
        bool saved;
    } late[6 * TR_TRACE_MAX];
    u32 late_count;
    u8 page[4096 + INSN_MAX_LEN];
    u32 page_bytes;  /* of page that may be used */
    u64 page_have;   /* bit per 64 bytes: copied into page */
    u64 seen_at[64]; /* bit per byte of the page: instructions in the trace */
};

/* What a vCPU looks at all the time, side by side, so that two large pages can hold it (host.h,
 * pages_join). */
struct soft_room {
    struct soft_vcpu vcpu;
    struct soft_tlb tlb ALIGNED(4096);
    struct soft_tr tr ALIGNED(4096);
};
#define SOFT_ROOM_SIZE (4 * MIB)
_Static_assert(sizeof(struct soft_room) <= SOFT_ROOM_SIZE, "two large pages");

enum { LATE_MISS, LATE_VLOAD, LATE_EDGE, LATE_INDIRECT, LATE_STEP };

/* --- tr_emit.c ---------------------------------------------------------------------------------
 */

void tr_u8(struct soft_tr *t, u32 v);
void tr_u16(struct soft_tr *t, u32 v);
void tr_u32(struct soft_tr *t, u32 v);
void tr_u64(struct soft_tr *t, u64 v);
void tr_imm(struct soft_tr *t, u32 reg, u64 v); /* mov reg, v; keeps flags */
/* opcode reg, gs:[offset]; wide: REX.W. Prefix bytes other than REX come before. */
void tr_gs(struct soft_tr *t, bool wide, u32 opcode, u32 reg, size_t offset);
void tr_gs_load(struct soft_tr *t, u32 reg, size_t offset);  /* mov reg, gs:[offset] */
void tr_gs_store(struct soft_tr *t, u32 reg, size_t offset); /* mov gs:[offset], reg */
void tr_gs_imm(struct soft_tr *t, size_t offset, u32 v);     /* mov dword gs:[offset], v */
void tr_rr(struct soft_tr *t, bool wide, u32 opcode, u32 reg, u32 rm);
void tr_rm(struct soft_tr *t, bool wide, u32 opcode, u32 reg, u32 base, s32 disp);
void tr_mem(struct soft_tr *t, bool wide, u32 opcode, u32 reg, const struct tr_at *at);
void tr_modrm(struct soft_tr *t, u32 reg, const struct tr_at *at); /* ModRM, SIB, displacement */
/* to = from[31:12]; H_TEMP2 is c->look. wide: from[63:12], and the host has BMI2; keeps flags then
 */
void tr_shr_page(struct soft_tr *t, bool wide, u32 to, u32 from);
u32 tr_jcc(struct soft_tr *t, u32 cond);     /* returns where its rel32 is */
u32 tr_jmp(struct soft_tr *t);               /* likewise */
u32 tr_jcxz(struct soft_tr *t, bool narrow); /* when RCX is 0; narrow: ECX */
void tr_jmp_gs(struct soft_tr *t, size_t offset);
void tr_fix(struct soft_tr *t, u32 at, u32 to); /* rel32 at `at` leads to `to` */
void tr_fix_here(struct soft_tr *t, u32 at);    /* to a place within the trace: here */

#define C_OFF(member) offsetof(struct soft_vcpu, member)
/* Of the trace: does a stack slot, a pointer to code have 8 bytes? */
static inline bool tr_wide(const struct soft_tr *t) {
    return t->mode == 64;
}
static inline u32 tr_word(const struct soft_tr *t) {
    return tr_wide(t) ? 8 : 4;
}
/* Can code be translated in this mode? */
static inline bool tr_able(const struct soft_vcpu *c) {
    const u64 flat = KEY_MODE_32 | KEY_FLAT | KEY_SS_32 | KEY_PE;
    const u64 odd = KEY_MODE_64 | KEY_V86 | KEY_AC;
    u64 key = c->mode_key;
    return (key & (KEY_MODE_64 | KEY_AC)) == KEY_MODE_64 || (key & (flat | odd)) == flat;
}
/* The jump table is indexed by the address itself, in pairs: generated code looks at tr_jump_of
 * first and then at its neighbour. */
static inline struct tr_jump *tr_jump_of(struct soft_vcpu *c, u64 rip) {
    return &c->tr_jump[rip & (ARRAY_LEN(c->tr_jump) - 1)];
}
static inline struct tr_jump *tr_jump_other(struct soft_vcpu *c, u64 rip) {
    return tr_jump_of(c, rip ^ 1);
}
/* Generated code for rip that checks everything itself; 0: none. */
/* What stands in an empty entry: an address that is looked up elsewhere, so that no branch finds it
 * here, wherever the guest sends it. Zeros but for the first pair: fresh memory is an empty table.
 */
static inline struct tr_jump tr_jump_empty(size_t index) {
    return (struct tr_jump){.rip = index < 2 ? 2 : 0};
}

static inline u64 tr_jump_find(struct soft_vcpu *c, u64 rip) {
    const struct tr_jump *j = tr_jump_of(c, rip), *other = tr_jump_other(c, rip);
    return j->rip == rip ? j->host : other->rip == rip ? other->host : 0;
}
static inline size_t tr_gpr(u32 n) {
    return offsetof(struct soft_vcpu, s.gpr) + 8 * (size_t)n;
}
/* Guest registers without a host register. */
static inline bool tr_in_memory(u32 n) {
    return n >= H_TEMP2 && n <= H_ADDR;
}

/* --- the parts ----------------------------------------------------------------------------------
 */

int tr_cache_create(struct soft_tr *t, struct host *host);
void tr_cache_destroy(struct soft_tr *t, struct host *host);
void tr_cache_forget(struct soft_vcpu *c); /* everything */
void tr_cache_trim(struct soft_vcpu *c);   /* everything, and its memory */
/* Is there room for one more trace? If not, make_room forgets part: block and exit numbers that
 * somebody remembers may be others' afterwards. */
bool tr_cache_room(const struct soft_tr *t);
void tr_cache_make_room(struct soft_vcpu *c);
/* To be called when code is decoded. Did the cache have room for long? Then code may become hot
 * sooner again; true: as soon as at the start. */
bool tr_cache_relax(struct soft_tr *t);
u64 tr_cache_touched(const struct soft_tr *t); /* bytes of code memory that were ever used */
/* The live translation of the code at gpa, made under key, that runs at rip; second_gpa: the page
 * in which its first instruction ends, 0: the same. */
struct tr_block *tr_cache_find(struct soft_tr *t, u64 gpa, u64 key, u64 rip, u64 second_gpa);
/* A floating one, wherever it was translated. */
struct tr_block *tr_cache_find_floating(struct soft_tr *t, u64 gpa, u64 key, u64 second_gpa);
struct tr_block *tr_cache_find_alone(struct soft_tr *t, u64 gpa, u64 key, u64 rip);
/* May one begin at gpa? False is sure. */
static inline bool tr_cache_head(const struct soft_tr *t, u64 gpa) {
    const u64 *page = t->heads[(gpa >> PAGE_SHIFT) % ARRAY_LEN(t->heads)];
    return page[(gpa & PAGE_MASK) >> 9] >> (gpa >> 3 & 63) & 1;
}
/* To the tables by place and by page; rip, gpa and key are set, and second_*. */
void tr_cache_add(struct soft_tr *t, u32 block);
u32 *tr_cache_page(struct soft_tr *t, u64 gpa); /* page_head of gpa's page */
const struct tr_point *tr_point_find(const struct soft_tr *t, u32 host); /* NULL: none there */

bool tr_scan(struct soft_tr *t, const struct soft_block *b); /* fills t->trace */
/* Flags whose value before the instruction cannot be seen behind it. Those that the manual calls
 * undefined are often left as they were, and guests see what the processor does. */
u16 tr_flags_killed(const struct insn *i);
bool tr_can_copy(const struct soft_tr *t, struct tr_insn *i);
/* Is the memory operand one that a look can serve: no 16-bit address, a segment that allows it? */
bool tr_mem_known(const struct insn *i, bool write);

/* Does it leave H_TEMP as it was, or the addend that it took for its operand there? */
bool tr_copy_keeps_temp(const struct tr_insn *i);
void tr_copy(struct soft_tr *t, const struct tr_insn *i);
void tr_push_mem(struct soft_tr *t, const struct tr_insn *i);
void tr_lea(struct soft_tr *t, const struct tr_insn *i);
void tr_moffs(struct soft_tr *t, const struct tr_insn *i);
void tr_load_gpr(struct soft_tr *t, u32 guest); /* when it lives in memory: into its own number */

/* Linear address -> H_ADDR; returns what tr_seg_odd wants. */
u32 tr_address(struct soft_tr *t, const struct insn *insn, u64 rip);
void tr_offset(struct soft_tr *t, const struct insn *insn, u64 rip, u32 to);
/* How many instructions from `at` on can share the look of the first (1: none but it); write: one
 * behind the first writes. */
u32 tr_share(const struct soft_tr *t, u32 at, bool *write);
u16 tr_regs_written(const struct insn *i); /* tr_flags.c: mask of enum gpr */
/* tr_insn.c: is a register named that lives in memory? */
bool tr_names_memory_register(const struct insn *i);
/* Mask of enum gpr: operands but AH to BH; flags: OPERAND_*, those with one of them, 0: all. */
u16 tr_regs_named(const struct insn *i, u32 flags);
/* Looks up i's memory operand, or disp(base): *at is where it is in the host, by guest registers,
 * H_ADDR and H_TEMP, none of which may change before. H_TEMP2 is free, and H_ADDR when it is not
 * the base. */
void tr_look(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write, struct tr_at *at);
void tr_look_base(struct soft_tr *t, const struct tr_insn *i, u32 base, s32 disp, u32 size,
                  bool write, struct tr_at *at);
/* H_ADDR: linear -> host; back: where the address is computed again after a miss. */
void tr_check(struct soft_tr *t, const struct tr_insn *i, u32 back, u32 size, bool write);
/* The same for i's operand: host address in H_ADDR. */
void tr_operand(struct soft_tr *t, const struct tr_insn *i, u32 size, bool write);
/* The offset in H_ADDR, of i's segment, becomes a linear address. Behind the look that comes next
 * the jump that is returned goes to tr_seg_odd; 0: none. */
u32 tr_seg_base(struct soft_tr *t, const struct insn *i);
void tr_seg_odd(struct soft_tr *t, const struct insn *i, u32 from);
u32 tr_stack_run(const struct soft_tr *t, u32 at); /* how many PUSH or POP are one run */
void tr_groups(struct soft_tr *t);                 /* tr_group.c: of the trace */
u32 tr_push_pop(struct soft_tr *t, u32 at);        /* translates a run of them; returns how many */
void tr_stack_call(struct soft_tr *t, const struct tr_insn *i);
void tr_leave(struct soft_tr *t, const struct tr_insn *i);
/* disp(%rsp), checked, to H_ADDR */
void tr_stack_operand(struct soft_tr *t, const struct tr_insn *i, s32 disp, u32 size, bool write);

bool tr_sys_known(const struct soft_tr *t, const struct insn *i);
void tr_system(struct soft_tr *t, const struct tr_insn *i);
bool tr_string_known(const struct insn *i);
void tr_string(struct soft_tr *t, const struct tr_insn *i);

void tr_flags_save(struct soft_tr *t);
void tr_flags_restore(struct soft_tr *t);
void tr_flags_clobber(struct soft_tr *t, u16 live); /* RFLAGS will be lost */
void tr_flags_need(struct soft_tr *t);              /* RFLAGS must be the guest's */
void tr_flags_settle(struct soft_tr *t); /* they must be in RFLAGS or saved: no recipe any more */
void tr_flags_keep(struct soft_tr *t);   /* the same, and for all that comes next */

void tr_entries(struct soft_tr *t);
/* Counting (translator.count): a run of instructions begins, ends; an indirect jump. */
void tr_count_begin(struct soft_tr *t);
void tr_count_end(struct soft_tr *t);
void tr_count_jump(struct soft_tr *t);
void tr_edge(struct soft_tr *t, u64 rip, u32 from); /* from: rel32 that leads there */
/* The trace ends with a jump to rip. */
void tr_edge_end(struct soft_tr *t, u64 rip);
/* How flags can be had at rip, for an edge from t->now; FLAGS_AT_HOME: by saving them. */
u32 tr_edge_hint(struct soft_tr *t, u64 rip);
/* An edge to a trace of the same page: lazy, by way of its entry L, else to `entry`. And undone. */
void tr_edge_join(struct soft_tr *t, u32 exit, u32 entry, bool lazy);
void tr_edge_unjoin(struct soft_tr *t, u32 exit);
/* The misses of a group's look lead to the alone trace that begins there, without C code; false:
 * flags do not allow it. Undone by tr_edge_unjoin, too. */
bool tr_apart_join(struct soft_tr *t, u32 exit, struct tr_block *alone);
void tr_indirect(struct soft_tr *t, const struct tr_insn *i, u32 moved);
/* The interpreter does count instructions from i on: one, or a run of x87 and MMX instructions. */
void tr_step(struct soft_tr *t, const struct tr_insn *i, u32 count, bool end);
u32 tr_step_run(const struct soft_tr *t, u32 at); /* how many it may do at once */
/* The jumps `from`, count of them (at most 4, 0: none), lead to a step behind the trace, which goes
 * on here. Flags are saved where they start and here. */
void tr_step_late(struct soft_tr *t, const struct tr_insn *i, const u32 *from, u32 count);
void tr_late_pieces(struct soft_tr *t);
u32 tr_exit_new(struct soft_tr *t, u8 kind, u64 rip);
/* For the target in H_ADDR: where tr_jump_of is, in steps of 8 bytes, to H_TEMP. */
void tr_table_index(struct soft_tr *t);
/* opcode reg, gs:[H_TEMP * 8 + offset] */
void tr_table_op(struct soft_tr *t, bool wide, u32 opcode, u32 reg, size_t offset);
void tr_late_new(struct soft_tr *t, u8 kind, u32 exit, u32 from, u32 back);

/* tr_page.c */
int tr_pages_create(struct soft_vcpu *c, struct soft_tr *t, u32 mib);
void tr_pages_destroy(struct soft_tr *t, struct host *host);
void tr_pages_forget(struct soft_vcpu *c);
void tr_pages_trim(struct soft_vcpu *c); /* after that: gives the memory back */
bool tr_pages_room(const struct soft_tr *t);
u32 tr_page_slot(struct soft_tr *t, u64 page, u64 gpa_page);
/* Does the trace's code lie where it did? Notes that it does; raises what fetching does. */
bool tr_verify(struct soft_vcpu *c, const struct tr_block *b);
/* Is it c->tr_here that the words of its pages are compared with? */
bool tr_uses_here(bool floats, u64 key);
/* Does code at rip float: may its traces run elsewhere than where they were translated? */
bool tr_floats(const struct soft_vcpu *c, u64 rip);
/* Floating traces lie delta further on than where they were translated. */
void tr_delta_set(struct soft_vcpu *c, u64 delta);
void tr_delta_note(struct soft_vcpu *c, u64 rip); /* the present one was right at rip */
u64 tr_delta_guess(const struct soft_vcpu *c, u64 rip, u64 gpa);
/* Where an exit's rip, which is as at the time of translation, is now; from there on. */
static inline u64 tr_off_by(const struct soft_vcpu *c, const struct tr_exit *e) {
    return e->floats ? c->tr_delta : 0;
}

void tr_stubs(struct soft_tr *t);
u32 tr_miss_call(struct soft_vcpu *c, u64 r15); /* non-zero: leave generated code */
u32 tr_step_call(struct soft_vcpu *c);
bool tr_host_fault(struct host_fault *fault);
/* Runs generated code from an entry; returns the exit that was taken, 0 when it is not to be
 * joined. */
u32 tr_enter(struct soft_vcpu *c, const u8 *code);
/* tr_flags.c */
void tr_flags_home(struct soft_vcpu *c, u32 at); /* from where they are to aflags, tr_flags */
void tr_flags_out(struct soft_vcpu *c);          /* aflags -> tr_flags */
/* At t->now, where RFLAGS would be saved: how to do without, or FLAGS_AT_HOME. */
u32 tr_flags_recipe(struct soft_tr *t);
/* The number in this region of a recipe that can be followed in generated code; FLAGS_AT_HOME. */
u32 tr_flags_number(struct soft_tr *t, const struct tr_recipe *r);
void tr_flags_remake(struct soft_tr *t); /* follows the recipe t->lost: RFLAGS is the guest's */
/* For a jump at t->now, or behind the last instruction: what an entry L may be told, FLAGS_AT_HOME:
 * nothing. */
u32 tr_flags_hint(struct soft_tr *t);
/* Are flags that the trace finds never read, and written again within it before they must be in one
 * place? *early: registers that change before its last exit of that kind. */
bool tr_flags_lazy(const struct soft_tr *t, u16 *early);
bool tr_flags_trusted(const struct soft_tr *t, u32 hint, u16 early);
/* Flags are in RFLAGS at instruction n, which looks: will they be wanted there, after so few looks
 * that these had better keep them, or is the next that is written the only look to come? */
enum tr_flags_ahead { FLAGS_SAVE, FLAGS_KEEP_ONCE, FLAGS_KEEP_WANTED };
enum tr_flags_ahead tr_flags_ahead(const struct soft_tr *t, u32 n);
/* tr_cold.c */
/* Executions that a block decoded anew begins with: the number of its former lives. Else code that
 * all together does not fit where decoded blocks are, as that of many short programs, would never
 * become hot. Not when the code cache is too small, too. */
u16 tr_former_lives(struct soft_tr *t, const struct soft_block *b);
/* The block at rip when it is at hand and will be interpreted for sure; NULL: look further. (Its
 * translation would have been made from it, and it would know.) */
struct soft_block *tr_known_cold(const struct soft_vcpu *c, u64 rip);
/* Runs b, and what comes behind it as long as that is cold code. */
void tr_interpret(struct soft_vcpu *c, struct soft_block *b, bool able);
/* Is the loop of blocks to be left? */
static inline bool tr_must_look(const struct soft_vcpu *c) {
    return c->leave | __atomic_load_n(&c->request, __ATOMIC_RELAXED) |
           __atomic_load_n(&c->ev->attention, __ATOMIC_RELAXED);
}
/* tr_scan.c */
bool tr_may_exit(const struct tr_insn *i);
/* tr_mem.c: could i's look, if it makes one, keep flags? */
bool tr_look_may_keep(const struct soft_tr *t, const struct tr_insn *i);

#endif
