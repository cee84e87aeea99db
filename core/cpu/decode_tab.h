/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the decoder's opcode tables are written (SDM volume 2, appendix A). Each opcode of a map has
 * a short list of forms; the first whose condition matches is the instruction. Conditions, operand
 * codes and attributes are macros here, so that a table row reads like a row of the manual:
 *
 *     [0x01] = F(X(ADD, 0, LK, RW(Ev), R(Gv)))
 *
 * Operand codes follow the manual (E modrm r/m, G modrm reg, b byte, v operand size ...); where the
 * manual is loose (sizes that differ between register and memory) the code says both.
 * Private to the decoder: the short macro names must not leak into other headers.
 */
#ifndef CORE_CPU_DECODE_TAB_H
#define CORE_CPU_DECODE_TAB_H

#include "core/cpu/cpuid.h"
#include "core/cpu/decode.h"
#include "core/cpu/state.h"

/* Size codes: bytes of an operand, some depending on the effective sizes or on VEX.L. */
enum size_code {
    SIZE_0,
    SIZE_1,
    SIZE_2,
    SIZE_4,
    SIZE_8,
    SIZE_16,
    SIZE_32,
    SIZE_10,
    SIZE_64,
    SIZE_512,
    SIZE_V,    /* operand size; the ones before are fixed */
    SIZE_Z,    /* operand size, at most 4 */
    SIZE_Y,    /* 8 with REX.W or VEX.W in 64-bit mode, else 4 */
    SIZE_MODE, /* 8 in 64-bit mode, else 4 */
    SIZE_ADDR, /* address size */
    SIZE_P,    /* far pointer in memory: 2 + operand size */
    SIZE_S,    /* descriptor table register: 10 in 64-bit mode, else 6 */
    SIZE_A,    /* BOUND: twice the operand size */
    SIZE_X,    /* 16, or 32 with VEX.L */
    SIZE_XH,   /* half of SIZE_X */
    SIZE_XQ,   /* quarter */
    SIZE_XE,   /* eighth */
    SIZE_ENV,  /* x87 environment: 14 or 28 by operand size */
    SIZE_SAVE, /* x87 state: 94 or 108 */
    SIZE_COUNT
};

/* Where an operand comes from. */
enum spec_kind {
    SPEC_NONE,
    SPEC_RM,     /* modrm r/m: register of the class, or memory */
    SPEC_MEM,    /* the same; the condition has excluded registers */
    SPEC_REG,    /* modrm reg */
    SPEC_VVVV,   /* VEX.vvvv */
    SPEC_OPCODE, /* low three bits of the opcode, with REX.B */
    SPEC_SEG,    /* segment register in modrm reg */
    SPEC_CR,
    SPEC_DR,
    SPEC_ST,   /* ST(i), modrm rm */
    SPEC_MMRM, /* modrm r/m: MMX register or memory */
    SPEC_MMREG,
    SPEC_VSIB, /* memory with a vector index; value 1: the index is XMM whatever VEX.L */
    SPEC_LAST_ENCODED = SPEC_VSIB, /* up to here from opcode, modrm and VEX alone */
    SPEC_IS4,                      /* register in bits 7:4 of an immediate byte */
    SPEC_FIXED,                    /* the register in spec.value */
    SPEC_MOFFS,                    /* absolute address */
    SPEC_IMM,                      /* immediate, zero-extended */
    SPEC_SIMM,                     /* immediate, sign-extended */
    SPEC_ONE,                      /* the constant 1 */
    SPEC_REL,
    SPEC_FAR,
};

struct operand_spec {
    u8 kind;
    u8 reg_class;
    u8 reg_size, mem_size; /* enum size_code; for immediates: operand, encoding */
    u8 value;
    u8 aligned; /* memory must be aligned to its size */
};

enum spec {
    NO_OPERAND,
    /* general registers or memory */
    Eb,
    Ew,
    Ed,
    Ev,
    Ey,
    Ez,
    Em,
    EvMw,
    EzMw,
    RdMb,
    RdMw,
    Rd,
    Rq,
    Ry,
    Rv,
    Rm,
    Gb,
    Gw,
    Gd,
    Gv,
    Gy,
    Gz,
    Gm,
    Ga,
    By,
    Zb,
    Zv,
    rAL,
    rAX,
    rvAX,
    rzAX,
    rCL,
    rDX,
    One,
    /* memory only */
    M0,
    Mb,
    Mw,
    Md,
    Mq,
    Mdq,
    Mdqa,
    Mv,
    Mx,
    Mxa,
    My,
    Mp,
    Ms,
    Ma,
    M10,
    Menv,
    Msave,
    M64,
    M512,
    /* segment, control and debug registers, x87 */
    Sw,
    sES,
    sCS,
    sSS,
    sDS,
    sFS,
    sGS,
    Cm,
    Dm,
    ST0,
    STi,
    /* immediates, branches, absolute addresses */
    Ib,
    Ibs,
    Ibz,
    Iw,
    Iz,
    Iv,
    Jb,
    Jz,
    Ap,
    Ob,
    Ov,
    /* MMX */
    Pq,
    Qq,
    Qd,
    Nq,
    /* vector registers or memory; a: aligned */
    Vdq,
    Vx,
    Udq,
    Ux,
    Wdq,
    Wdqa,
    Wq,
    Wd,
    Ww,
    Wb,
    Wx,
    Wxa,
    Wxh,
    Wxq,
    Wxe,
    Hdq,
    Hx,
    Lx,
    xXMM0,
    /* VSIB: element size, index register */
    Td_x,
    Tq_x,
    Tq_dq,
    SPEC_COUNT
};

/* A form: 24 bytes. op: enum spec in the low byte, OPERAND_* flags in the high byte. */
struct insn_form {
    u64 attr;
    u32 cond; /* mask << 16 | value, matched against the key of the instruction */
    u16 id;
    u16 op[INSN_MAX_OPERANDS];
};

struct opcode_row {
    const struct insn_form *form;
    u8 count;
    bool modrm;
};

/* --- conditions: what a form wants of the instruction's key
 * ---------------------------------------- */

#define KEY_PP_SHIFT  0 /* 0 none 1 66 2 F3 3 F2 */
#define KEY_MOD3      (1u << 2)
#define KEY_REG_SHIFT 3
#define KEY_RM_SHIFT  6
#define KEY_MODE64    (1u << 9)
#define KEY_W         (1u << 10) /* REX.W, VEX.W as encoded */
#define KEY_W64       (1u << 11) /* W, and 64-bit mode */
#define KEY_L         (1u << 12)
#define KEY_B         (1u << 13) /* REX.B */

#define COND(mask, value) ((u32)(mask) << 16 | (u32)(value))
#define ANY               0u
#define NP                COND(3, 0)
#define P66               COND(3, 1)
#define PF3               COND(3, 2)
#define PF2               COND(3, 3)
#define NFX               COND(2, 0) /* neither F2 nor F3 */
#define RR                COND(KEY_MOD3, KEY_MOD3)
#define MM                COND(KEY_MOD3, 0)
#define REG(n)            COND(7u << KEY_REG_SHIFT, (u32)(n) << KEY_REG_SHIFT)
#define RM(n)             (RR | COND(7u << KEY_RM_SHIFT, (u32)(n) << KEY_RM_SHIFT))
#define RG(b)             (REG((b) >> 3 & 7) | RM((b)&7)) /* the whole modrm byte, mod 3 */
#define O64               COND(KEY_MODE64, KEY_MODE64)
#define I64               COND(KEY_MODE64, 0)
#define W0                COND(KEY_W, 0)
#define W1                COND(KEY_W, KEY_W)
#define Q0                COND(KEY_W64, 0)
#define Q1                COND(KEY_W64, KEY_W64)
#define L0                COND(KEY_L, 0)
#define L1                COND(KEY_L, KEY_L)
#define B0                COND(KEY_B, 0)

/* --- attributes: INSN_* in the low 32 bits, feature + 1, then rules
 * -------------------------------- */

#define FEAT_SHIFT   32
#define FT(name)     ((u64)(FEATURE_##name + 1) << FEAT_SHIFT)
#define LK           INSN_LOCKABLE
#define MX           INSN_MMX
#define SS           INSN_SSE
#define AV           INSN_AVX
#define RULE_D64     BIT(40) /* operand size 64 by default in 64-bit mode */
#define RULE_F64     BIT(41) /* operand size 64 always in 64-bit mode */
#define RULE_BYTE    BIT(42) /* operand size 1 (byte string instructions) */
#define RULE_Z       BIT(43) /* operand size at most 4 */
#define RULE_CC      BIT(44) /* condition code in the opcode */
#define D64          RULE_D64
#define F64          RULE_F64
#define HIDDEN_SHIFT 48
#define HD(name)     ((u64)HIDDEN_##name << HIDDEN_SHIFT)

/* General registers used beside the operands; the table is in decode_props.c. */
enum hidden_set {
    HIDDEN_NONE,
    HIDDEN_AX,     /* rAX read and written */
    HIDDEN_AX_R,   /* rAX read */
    HIDDEN_AX_W,   /* rAX written */
    HIDDEN_AX_DXW, /* rAX read, rDX written: CWD */
    HIDDEN_MUL,    /* rAX read, rAX and rDX written */
    HIDDEN_DIV,    /* rAX and rDX read and written */
    HIDDEN_STACK,  /* rSP */
    HIDDEN_FRAME,  /* rSP and rBP: ENTER, LEAVE */
    HIDDEN_ALL,    /* PUSHA, POPA */
    HIDDEN_SI,     /* strings */
    HIDDEN_DI,
    HIDDEN_SI_DI,
    HIDDEN_LODS, /* rSI, rAX written */
    HIDDEN_STOS, /* rDI, rAX read */
    HIDDEN_INS,  /* rDI, rDX read */
    HIDDEN_OUTS, /* rSI, rDX read */
    HIDDEN_XLAT, /* rAX read and written, rBX read */
    HIDDEN_CX,   /* rCX read and written: LOOP */
    HIDDEN_CX_R, /* JCXZ */
    HIDDEN_DX_R, /* MULX */
    HIDDEN_CX8,  /* CMPXCHG8B, CMPXCHG16B */
    HIDDEN_CPUID,
    HIDDEN_DXAX_W, /* RDTSC */
    HIDDEN_RDTSCP,
    HIDDEN_RDMSR,   /* rCX read, rDX:rAX written: RDMSR, RDPMC, XGETBV, RDPKRU */
    HIDDEN_WRMSR,   /* rCX, rDX, rAX read */
    HIDDEN_DXAX_R,  /* XSAVE family */
    HIDDEN_SYSCALL, /* rCX and r11 written */
    HIDDEN_SYSRET,  /* rCX and r11 read */
    HIDDEN_SYSEXIT, /* rCX, rDX read, rSP written */
    HIDDEN_SP_W,
    HIDDEN_MONITOR, /* rAX, rCX, rDX read */
    HIDDEN_MWAIT,   /* rAX, rCX read */
    HIDDEN_DI_R,    /* MASKMOVQ */
    HIDDEN_ESTRM,   /* rAX, rDX read */
    HIDDEN_ESTRI,   /* and rCX written */
    HIDDEN_ISTRI,   /* rCX written */
    HIDDEN_COUNT
};

/* --- rows
 * ----------------------------------------------------------------------------------------- */

#define R(s)   ((u16)((u16)(s) | OPERAND_READ << 8))
#define W(s)   ((u16)((u16)(s) | OPERAND_WRITE << 8))
#define RW(s)  ((u16)((u16)(s) | (OPERAND_READ | OPERAND_WRITE) << 8))
#define CW(s)  ((u16)((u16)(s) | (OPERAND_WRITE | OPERAND_COND) << 8))
#define RCW(s) ((u16)((u16)(s) | (OPERAND_READ | OPERAND_WRITE | OPERAND_COND) << 8))
#define N(s)   ((u16)(s)) /* neither read nor written: LEA, INVLPG, NOP */

#define X(name, c, a, ...)                                                                         \
    {                                                                                              \
        (a), (c), INSN_##name, {                                                                   \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define X0(name, c, a)                                                                             \
    {                                                                                              \
        (a), (c), INSN_##name, {                                                                   \
            0                                                                                      \
        }                                                                                          \
    }
#define ROW(has_modrm, ...)                                                                        \
    {                                                                                              \
        (const struct insn_form[]){__VA_ARGS__},                                                   \
            (u8)ARRAY_LEN(((const struct insn_form[]){__VA_ARGS__})), has_modrm                    \
    }
#define F(...) ROW(true, __VA_ARGS__)  /* with a modrm byte */
#define G(...) ROW(false, __VA_ARGS__) /* without */

extern const struct operand_spec decode_specs[SPEC_COUNT];
extern const struct opcode_row decode_1byte[256];
extern const struct opcode_row decode_0f[256];
extern const struct opcode_row decode_0f38[256];
extern const struct opcode_row decode_0f3a[256];
extern const struct opcode_row decode_x87[8]; /* D8 to DF */
extern const struct opcode_row decode_vex_0f[256];
extern const struct opcode_row decode_vex_0f38[256];
extern const struct opcode_row decode_vex_0f3a[256];

/* What follows from the identity alone. */
struct insn_props {
    u32 flags; /* INSN_* */
    u16 flags_read, flags_write;
};
extern const struct insn_props decode_props[INSN_COUNT];

struct hidden_regs {
    u16 read, write; /* masks of enum gpr */
};
extern const struct hidden_regs decode_hidden[HIDDEN_COUNT];

#endif
