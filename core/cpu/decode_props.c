/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What follows from an instruction's identity alone: privilege, control flow, string and I/O
 * nature, and the arithmetic flags read and written (SDM volume 1, appendix A). Writing includes
 * leaving a flag undefined. Privileged are those for which CPL is looked at before anything that
 * could raise #UD; not CLAC, STAC, MONITOR, MWAIT, SYSRET, XSETBV, LLDT and LTR.
 */
#include "core/cpu/decode_tab.h"

/* clang-format off */

#define CF FLAG_CF
#define PF FLAG_PF
#define AF FLAG_AF
#define ZF FLAG_ZF
#define SF FLAG_SF
#define OF FLAG_OF
#define ALL FLAG_ARITH
#define PRIV INSN_PRIVILEGED
#define ENDS INSN_ENDS_BLOCK
#define BR (INSN_BRANCH | INSN_ENDS_BLOCK)
#define P(id, fl, rd, wr) [INSN_##id] = {(u32)(fl), (u16)(rd), (u16)(wr)}

const struct insn_props decode_props[INSN_COUNT] = {
    /* integer */
    P(ADD, 0, 0, ALL), P(OR, 0, 0, ALL), P(ADC, 0, CF, ALL), P(SBB, 0, CF, ALL), P(AND, 0, 0, ALL),
    P(SUB, 0, 0, ALL), P(XOR, 0, 0, ALL), P(CMP, 0, 0, ALL), P(TEST, 0, 0, ALL), P(NEG, 0, 0, ALL),
    P(INC, 0, 0, ALL & ~CF), P(DEC, 0, 0, ALL & ~CF),
    P(MUL, 0, 0, ALL), P(IMUL, 0, 0, ALL), P(DIV, 0, 0, ALL), P(IDIV, 0, 0, ALL),
    P(DAA, 0, CF | AF, ALL), P(DAS, 0, CF | AF, ALL), P(AAA, 0, AF, ALL), P(AAS, 0, AF, ALL),
    P(AAM, 0, 0, ALL), P(AAD, 0, 0, ALL), P(SALC, 0, CF, 0),
    P(ROL, INSN_FLAGS_COND, 0, CF | OF), P(ROR, INSN_FLAGS_COND, 0, CF | OF),
    P(RCL, INSN_FLAGS_COND, CF, CF | OF), P(RCR, INSN_FLAGS_COND, CF, CF | OF),
    P(SHL, INSN_FLAGS_COND, 0, ALL), P(SHR, INSN_FLAGS_COND, 0, ALL), P(SAR, INSN_FLAGS_COND, 0, ALL),
    P(SHLD, INSN_FLAGS_COND, 0, ALL), P(SHRD, INSN_FLAGS_COND, 0, ALL),
    P(BT, 0, 0, ALL & ~ZF), P(BTS, 0, 0, ALL & ~ZF), P(BTR, 0, 0, ALL & ~ZF), P(BTC, 0, 0, ALL & ~ZF),
    P(BSF, 0, 0, ALL), P(BSR, 0, 0, ALL), P(XADD, 0, 0, ALL), P(CMPXCHG, 0, 0, ALL),
    P(CMPXCHG8B, 0, 0, ZF), P(CMPXCHG16B, 0, 0, ZF),
    P(CMC, 0, CF, CF), P(CLC, 0, 0, CF), P(STC, 0, 0, CF), P(SAHF, 0, 0, ALL & ~OF), P(LAHF, 0, ALL & ~OF, 0),
    P(PUSHF, 0, ALL, 0), P(POPF, ENDS, 0, ALL), P(POPCNT, 0, 0, ALL), P(LZCNT, 0, 0, ALL), P(TZCNT, 0, 0, ALL),
    P(ANDN, 0, 0, ALL), P(BEXTR, 0, 0, ALL), P(BLSI, 0, 0, ALL), P(BLSMSK, 0, 0, ALL), P(BLSR, 0, 0, ALL),
    P(BZHI, 0, 0, ALL), P(ADCX, 0, CF, CF), P(ADOX, 0, OF, OF), P(RDRAND, 0, 0, ALL), P(RDSEED, 0, 0, ALL),
    /* strings and ports; CMPS and SCAS under REP with a count of zero write no flags */
    P(MOVS, INSN_STRING, 0, 0), P(CMPS, INSN_STRING | INSN_FLAGS_COND, 0, ALL), P(STOS, INSN_STRING, 0, 0),
    P(LODS, INSN_STRING, 0, 0), P(SCAS, INSN_STRING | INSN_FLAGS_COND, 0, ALL),
    P(INS, INSN_STRING | INSN_IO, 0, 0), P(OUTS, INSN_STRING | INSN_IO, 0, 0), P(IN, INSN_IO, 0, 0), P(OUT, INSN_IO, 0, 0),
    /* control flow; the flags of Jcc, SETcc and CMOVcc depend on the condition */
    P(JCC, BR, 0, 0), P(JCXZ, BR, 0, 0), P(LOOP, BR, 0, 0), P(LOOPE, BR, ZF, 0), P(LOOPNE, BR, ZF, 0),
    P(JMP, BR, 0, 0), P(JMP_FAR, BR, 0, 0), P(CALL, BR, 0, 0), P(CALL_FAR, BR, 0, 0), P(RET, BR, 0, 0),
    P(RET_FAR, BR, 0, 0), P(IRET, BR, 0, ALL), P(INT, BR, ALL, 0), P(INT3, BR, ALL, 0), P(INT1, BR, ALL, 0),
    P(INTO, BR, ALL, 0), P(SYSCALL, BR, ALL, ALL), P(SYSRET, BR, 0, ALL), P(SYSENTER, BR, 0, 0),
    P(SYSEXIT, BR | PRIV, 0, 0), P(UD0, ENDS, 0, 0), P(UD1, ENDS, 0, 0), P(UD2, ENDS, 0, 0),
    P(XBEGIN, BR, 0, 0), P(XABORT, BR, 0, 0), P(XEND, ENDS, 0, 0), P(XTEST, 0, 0, ALL), P(RSM, BR, 0, ALL),
    P(UIRET, BR, 0, ALL),
    /* system */
    P(HLT, PRIV | ENDS, 0, 0), P(CLI, ENDS, 0, 0), P(STI, ENDS, 0, 0), P(CLTS, PRIV | ENDS, 0, 0),
    P(CLAC, ENDS, 0, 0), P(STAC, ENDS, 0, 0), P(INVD, PRIV | ENDS, 0, 0), P(WBINVD, PRIV | ENDS, 0, 0),
    P(INVLPG, PRIV | ENDS, 0, 0), P(INVPCID, PRIV | ENDS, 0, 0), P(LGDT, PRIV | ENDS, 0, 0),
    P(LIDT, PRIV | ENDS, 0, 0), P(LLDT, ENDS, 0, 0), P(LTR, ENDS, 0, 0), P(LMSW, PRIV | ENDS, 0, 0),
    P(SWAPGS, PRIV, 0, 0), P(RDMSR, PRIV, 0, 0), P(WRMSR, PRIV | ENDS, 0, 0), P(XSETBV, ENDS, 0, 0),
    P(XSAVES, PRIV, 0, 0), P(XSAVES64, PRIV, 0, 0), P(XRSTORS, PRIV | ENDS, 0, 0), P(XRSTORS64, PRIV | ENDS, 0, 0),
    P(XRSTOR, ENDS, 0, 0), P(XRSTOR64, ENDS, 0, 0), P(WRPKRU, ENDS, 0, 0), P(MONITOR, 0, 0, 0),
    P(MWAIT, ENDS, 0, 0), P(CPUID, 0, 0, 0), P(SERIALIZE, ENDS, 0, 0),
    P(LAR, 0, 0, ZF), P(LSL, 0, 0, ZF), P(VERR, 0, 0, ZF), P(VERW, 0, 0, ZF), P(ARPL, 0, 0, ZF),
    P(WRFSBASE, ENDS, 0, 0), P(WRGSBASE, ENDS, 0, 0), P(PAUSE, 0, 0, 0),
    /* never offered */
    P(VMCALL, ENDS, 0, ALL), P(VMLAUNCH, PRIV | ENDS, 0, ALL), P(VMRESUME, PRIV | ENDS, 0, ALL), P(VMXOFF, PRIV | ENDS, 0, ALL),
    P(VMXON, PRIV | ENDS, 0, ALL), P(VMCLEAR, PRIV, 0, ALL), P(VMPTRLD, PRIV, 0, ALL), P(VMPTRST, PRIV, 0, ALL),
    P(VMREAD, PRIV, 0, ALL), P(VMWRITE, PRIV, 0, ALL), P(VMFUNC, ENDS, 0, ALL), P(INVEPT, PRIV | ENDS, 0, ALL),
    P(INVVPID, PRIV | ENDS, 0, ALL), P(VMRUN, PRIV | ENDS, 0, 0), P(VMMCALL, ENDS, 0, 0), P(VMLOAD, PRIV, 0, 0),
    P(VMSAVE, PRIV, 0, 0), P(STGI, PRIV | ENDS, 0, 0), P(CLGI, PRIV | ENDS, 0, 0), P(SKINIT, PRIV | ENDS, 0, 0),
    P(INVLPGA, PRIV | ENDS, 0, 0), P(ENCLS, PRIV | ENDS, 0, ALL), P(ENCLU, ENDS, 0, ALL), P(ENCLV, PRIV | ENDS, 0, ALL),
    P(PCONFIG, PRIV | ENDS, 0, ALL), P(GETSEC, ENDS, 0, 0), P(UMWAIT, 0, 0, ALL), P(TPAUSE, 0, 0, ALL),
    P(ENQCMD, 0, 0, ALL), P(ENQCMDS, PRIV, 0, ALL), P(TESTUI, 0, 0, ALL), P(RSTORSSP, 0, 0, ALL),
    P(CLRSSBSY, PRIV, 0, ALL), P(SETSSBSY, PRIV, 0, 0), P(SAVEPREVSSP, 0, CF, 0), P(WRUSSD, PRIV, 0, 0),
    P(WRUSSQ, PRIV, 0, 0), P(RDPRU, 0, 0, ALL), P(HRESET, PRIV, 0, 0),
    /* x87 and vector comparisons */
    P(FCMOVB, 0, CF, 0), P(FCMOVE, 0, ZF, 0), P(FCMOVBE, 0, CF | ZF, 0), P(FCMOVU, 0, PF, 0),
    P(FCMOVNB, 0, CF, 0), P(FCMOVNE, 0, ZF, 0), P(FCMOVNBE, 0, CF | ZF, 0), P(FCMOVNU, 0, PF, 0),
    P(FCOMI, 0, 0, ALL), P(FCOMIP, 0, 0, ALL), P(FUCOMI, 0, 0, ALL), P(FUCOMIP, 0, 0, ALL),
    P(COMISS, 0, 0, ALL), P(COMISD, 0, 0, ALL), P(UCOMISS, 0, 0, ALL), P(UCOMISD, 0, 0, ALL),
    P(VCOMISS, 0, 0, ALL), P(VCOMISD, 0, 0, ALL), P(VUCOMISS, 0, 0, ALL), P(VUCOMISD, 0, 0, ALL),
    P(PTEST, 0, 0, ALL), P(VPTEST, 0, 0, ALL), P(VTESTPS, 0, 0, ALL), P(VTESTPD, 0, 0, ALL),
    P(PCMPESTRI, 0, 0, ALL), P(PCMPESTRM, 0, 0, ALL), P(PCMPISTRI, 0, 0, ALL), P(PCMPISTRM, 0, 0, ALL),
    P(VPCMPESTRI, 0, 0, ALL), P(VPCMPESTRM, 0, 0, ALL), P(VPCMPISTRI, 0, 0, ALL), P(VPCMPISTRM, 0, 0, ALL),
};

#define AX (1u << GPR_RAX)
#define CX (1u << GPR_RCX)
#define DX (1u << GPR_RDX)
#define BX (1u << GPR_RBX)
#define SP (1u << GPR_RSP)
#define BP (1u << GPR_RBP)
#define SI (1u << GPR_RSI)
#define DI (1u << GPR_RDI)
#define R11 (1u << GPR_R11)

const struct hidden_regs decode_hidden[HIDDEN_COUNT] = {
    [HIDDEN_AX] = {AX, AX},
    [HIDDEN_AX_R] = {AX, 0},
    [HIDDEN_AX_W] = {0, AX},
    [HIDDEN_AX_DXW] = {AX, DX},
    [HIDDEN_MUL] = {AX, AX | DX},
    [HIDDEN_DIV] = {AX | DX, AX | DX},
    [HIDDEN_STACK] = {SP, SP},
    [HIDDEN_FRAME] = {SP | BP, SP | BP},
    [HIDDEN_ALL] = {0xff, 0xff},
    [HIDDEN_SI] = {SI, SI},
    [HIDDEN_DI] = {DI, DI},
    [HIDDEN_SI_DI] = {SI | DI, SI | DI},
    [HIDDEN_LODS] = {SI, SI | AX},
    [HIDDEN_STOS] = {DI | AX, DI},
    [HIDDEN_INS] = {DI | DX, DI},
    [HIDDEN_OUTS] = {SI | DX, SI},
    [HIDDEN_XLAT] = {AX | BX, AX},
    [HIDDEN_CX] = {CX, CX},
    [HIDDEN_CX_R] = {CX, 0},
    [HIDDEN_DX_R] = {DX, 0},
    [HIDDEN_CX8] = {AX | BX | CX | DX, AX | DX},
    [HIDDEN_CPUID] = {AX | CX, AX | BX | CX | DX},
    [HIDDEN_DXAX_W] = {0, AX | DX},
    [HIDDEN_RDTSCP] = {0, AX | CX | DX},
    [HIDDEN_RDMSR] = {CX, AX | DX},
    [HIDDEN_WRMSR] = {AX | CX | DX, 0},
    [HIDDEN_DXAX_R] = {AX | DX, 0},
    [HIDDEN_SYSCALL] = {0, CX | R11},
    [HIDDEN_SYSRET] = {CX | R11, 0},
    [HIDDEN_SYSEXIT] = {CX | DX, SP},
    [HIDDEN_SP_W] = {0, SP},
    [HIDDEN_MONITOR] = {AX | CX | DX, 0},
    [HIDDEN_MWAIT] = {AX | CX, 0},
    [HIDDEN_DI_R] = {DI, 0},
    [HIDDEN_ESTRM] = {AX | DX, 0},
    [HIDDEN_ESTRI] = {AX | DX, CX},
    [HIDDEN_ISTRI] = {0, CX},
};
