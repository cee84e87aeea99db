/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction decoder: bytes to length, identity and operands. Pure, table-driven, no state.
 * One decoder serves the software engine, instruction lengths on SVM without NRIP, and the tests.
 *
 * Intel SDM volume 2, chapter 2 (formats) and appendix A (opcode maps). Identity is INSN_ plus the
 * manual's mnemonic (INSN_MOVZX; all conditional forms are INSN_JCC, INSN_SETCC, INSN_CMOVCC with
 * the condition in `cond`); docs/decoder.md has the rest of what users need to know. EVEX encodings
 * are not decoded: no CPU policy of Sosia offers AVX-512.
 */
#ifndef CORE_CPU_DECODE_H
#define CORE_CPU_DECODE_H

#include "core/base/types.h"
#include "core/cpu/insn_id.h" /* enum insn_id */

enum { INSN_MAX_LEN = 15, INSN_MAX_OPERANDS = 4 };

enum insn_map { MAP_1BYTE, MAP_0F, MAP_0F38, MAP_0F3A, MAP_3DNOW, MAP_COUNT };
enum insn_enc { ENC_LEGACY, ENC_VEX };

enum operand_kind {
    OPERAND_NONE,
    OPERAND_REG,
    OPERAND_MEM,
    OPERAND_IMM, /* value in insn.imm (sign-extended as the instruction does), second in imm2 */
    OPERAND_REL, /* branch displacement, in insn.imm, relative to the next instruction */
    OPERAND_FAR, /* ptr16:16/32: offset in insn.imm, selector in insn.imm2 */
};

enum reg_class {
    REG_GPR, /* reg 0..15; size 1, 2, 4, 8; high_byte: ah ch dh bh are reg 0..3 */
    REG_SEG, /* enum seg_reg order: es cs ss ds fs gs */
    REG_CR,
    REG_DR,
    REG_ST,
    REG_MMX,
    REG_XMM,
    REG_YMM,
};

#define OPERAND_READ     BIT(0)
#define OPERAND_WRITE    BIT(1)
#define OPERAND_COND     BIT(2) /* the write may not happen (cmov to memory-less forms excluded) */
#define OPERAND_IMPLICIT BIT(3) /* not in the encoding: the accumulator of MUL, ST0, CL */

struct insn_operand {
    u8 kind;      /* enum operand_kind */
    u8 reg_class; /* enum reg_class, for OPERAND_REG (and for VSIB: the index's class) */
    u8 reg;
    bool high_byte;
    u8 flags; /* OPERAND_* bits */
    /*
     * Bytes of this operand; 0 where it has none (LEA's memory operand, XSAVE). For a vector
     * register that is the whole register (16, 32), however little of it the instruction uses; the
     * memory form says how much. An immediate that is sign-extended has the size it is extended to.
     */
    u16 size;
};

/*
 * The memory operand (at most one with modrm or moffs). The string instructions, XLAT, MASKMOVQ and
 * MONITOR have no operand for their memory: seg is then that of rSI, rBX+AL, rDI, rAX (the ES:rDI
 * of strings cannot be overridden), addrsize the address size, opsize the element size of strings.
 */
struct insn_mem {
    u8 seg; /* enum seg_reg that applies, with overrides and defaults resolved; valid always */
    bool seg_override;
    u8 base;      /* 0..15, MEM_NONE, or MEM_RIP */
    u8 index;     /* 0..15 or MEM_NONE */
    u8 scale;     /* 1, 2, 4, 8 */
    u8 disp_size; /* bytes in the encoding: 0, 1, 2, 4, 8 */
    s64 disp;     /* sign-extended (moffs: zero-extended); MEM_RIP: from the next instruction */
    bool vsib;    /* index is a vector register */
};

enum { MEM_NONE = 0xff, MEM_RIP = 0xfe };

/* In insn.prefixes. Of F2 and F3 the last one counts; so of the segment overrides. */
#define PREFIX_LOCK     BIT(0)
#define PREFIX_REP      BIT(1) /* F3 */
#define PREFIX_REPNE    BIT(2) /* F2 */
#define PREFIX_OPSIZE   BIT(3)
#define PREFIX_ADDRSIZE BIT(4)
#define PREFIX_SEG      BIT(5)
#define PREFIX_REX      BIT(6)

/* What sets an instruction apart for those who execute or translate it; from the tables. */
#define INSN_PRIVILEGED   BIT(0) /* #GP(0) when CPL is not 0; not where #UD would come first */
#define INSN_BRANCH       BIT(1) /* may change RIP other than by its length */
#define INSN_ENDS_BLOCK   BIT(2) /* changes mode, mappings, interrupts or control flow */
#define INSN_READS_FLAGS  BIT(3) /* any arithmetic flag */
#define INSN_WRITES_FLAGS BIT(4) /* any arithmetic flag */
#define INSN_LOCKABLE     BIT(5) /* LOCK is allowed with a memory destination */
#define INSN_ALIGNED      BIT(6) /* #GP when the memory operand is not aligned to its size */
#define INSN_STRING       BIT(7)
#define INSN_X87          BIT(8)
#define INSN_MMX          BIT(9)  /* touches MMX registers */
#define INSN_SSE          BIT(10) /* needs CR4.OSFXSR; #NM when CR0.TS */
#define INSN_AVX          BIT(11) /* VEX-encoded vector: needs XCR0.AVX */
#define INSN_IO           BIT(12) /* needs IOPL or the I/O bitmap */
#define INSN_FLAGS_COND   BIT(13) /* writes no flags when its count is zero: shifts, REP CMPS */

struct insn {
    u16 id;  /* enum insn_id; INSN_INVALID when undefined */
    u8 len;  /* 1..15 */
    u8 mode; /* 16, 32 or 64 */
    u8 map, opcode, enc;
    u8 cond; /* condition code 0..15 of Jcc, SETcc, CMOVcc */
    u8 prefixes;
    u8 rex;      /* low 4 bits WRXB (VEX: the same bits, not inverted) */
    u8 opsize;   /* effective operand size in bytes: 2, 4, 8; 1 for the byte string instructions */
    u8 addrsize; /* effective address size in bytes: 2, 4, 8 */
    bool has_modrm;
    u8 modrm, sib;
    u8 vex_pp, vex_l,
        vex_v;       /* mandatory prefix 0 none 1 66 2 F3 3 F2 (also for legacy SSE); L; vvvv */
    u8 modrm_offset; /* offset in bytes of modrm, displacement and immediate in the encoding, */
    u8 disp_offset;  /* 0 when absent: what a translator patches */
    u8 imm_offset;
    u8 imm_size, imm2_size; /* bytes in the encoding */
    /*
     * The operands of the manual's syntax in its order; those that the mnemonic only implies (AL in
     * ADD AL, imm8; CL in SHL; ST0) have OPERAND_IMPLICIT. Registers that the syntax does not name
     * (MUL's accumulator, CPUID's four, rSP of PUSH, rCX of REP) are in the two masks.
     */
    u8 operand_count;
    u16 implicit_read, implicit_write; /* masks of enum gpr */
    u16 flags_read, flags_write;       /* FLAG_* of FLAG_ARITH; written includes undefined after */
    u32 flags;                         /* INSN_* */
    u64 cpuid; /* BIT(FEATURE_*) of core/cpu/cpuid.h, all needed; 0: baseline */
    u64 imm, imm2;
    struct insn_mem mem;
    struct insn_operand op[INSN_MAX_OPERANDS];
};

enum decode_status {
    DECODE_OK,
    DECODE_INVALID,  /* #UD; insn.len counts the bytes looked at */
    DECODE_TOO_LONG, /* more than 15 bytes: #GP(0) */
    DECODE_MORE,     /* avail ended first: fetch more (page end) */
};

/*
 * Decodes one instruction at code, of which avail bytes may be read. mode is 16, 32 or 64: the
 * default operand and address size of the code segment. Never reads past avail.
 */
enum decode_status insn_decode(struct insn *insn, const u8 *code, size_t avail, u8 mode);

/* The operand in memory, NULL when there is none. */
static inline const struct insn_operand *insn_mem_operand(const struct insn *insn) {
    for (u32 n = 0; n < insn->operand_count; n++) {
        if (insn->op[n].kind == OPERAND_MEM) {
            return &insn->op[n];
        }
    }
    return NULL;
}

/* Does ModRM name memory? (Not the same: MOVS and MOV from moffs have an operand in memory but no
 * ModRM; the operand of LEA is no access.) */
static inline bool insn_has_mem(const struct insn *insn) {
    return insn->has_modrm && insn->modrm < 0xc0;
}

/* "MOVZX"; never NULL. */
const char *insn_name(u16 id);

/* Intel syntax, for traces ("mov eax, dword ptr [rbx+0x10]"); returns the length. */
size_t insn_format(const struct insn *insn, u64 rip, char *buf, size_t size);

#endif
