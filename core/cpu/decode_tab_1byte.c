/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one-byte opcode map (SDM volume 2, table A-2). Prefix bytes, the escapes 0F, C4, C5 and 62,
 * and the x87 opcodes D8 to DF are handled by the decoder before it looks here.
 */
#include "core/cpu/decode_tab.h"

/* clang-format off */

/* ADD OR ADC SBB AND SUB XOR CMP: the six forms with modrm or the accumulator. A is RW, or R for CMP. */
#define ALU(o, ID, lk, A)                          \
    [(o) + 0] = F(X(ID, 0, lk, A(Eb), R(Gb))),     \
    [(o) + 1] = F(X(ID, 0, lk, A(Ev), R(Gv))),     \
    [(o) + 2] = F(X(ID, 0, 0, A(Gb), R(Eb))),      \
    [(o) + 3] = F(X(ID, 0, 0, A(Gv), R(Ev))),      \
    [(o) + 4] = G(X(ID, 0, 0, A(rAL), R(Ibz))),    \
    [(o) + 5] = G(X(ID, 0, 0, A(rvAX), R(Iz)))

#define GROUP1(E, I, c)                                                                                \
    F(X(ADD, REG(0) | (c), LK, RW(E), R(I)), X(OR, REG(1) | (c), LK, RW(E), R(I)),                     \
      X(ADC, REG(2) | (c), LK, RW(E), R(I)), X(SBB, REG(3) | (c), LK, RW(E), R(I)),                    \
      X(AND, REG(4) | (c), LK, RW(E), R(I)), X(SUB, REG(5) | (c), LK, RW(E), R(I)),                    \
      X(XOR, REG(6) | (c), LK, RW(E), R(I)), X(CMP, REG(7) | (c), 0, R(E), R(I)))

/* /6 is an alias of SHL */
#define GROUP2(E, C)                                                                                   \
    F(X(ROL, REG(0), 0, RW(E), R(C)), X(ROR, REG(1), 0, RW(E), R(C)), X(RCL, REG(2), 0, RW(E), R(C)),  \
      X(RCR, REG(3), 0, RW(E), R(C)), X(SHL, REG(4), 0, RW(E), R(C)), X(SHR, REG(5), 0, RW(E), R(C)),  \
      X(SHL, REG(6), 0, RW(E), R(C)), X(SAR, REG(7), 0, RW(E), R(C)))

#define ROW8(o, ...)                                                                                   \
    [(o) + 0] = __VA_ARGS__, [(o) + 1] = __VA_ARGS__, [(o) + 2] = __VA_ARGS__, [(o) + 3] = __VA_ARGS__, \
    [(o) + 4] = __VA_ARGS__, [(o) + 5] = __VA_ARGS__, [(o) + 6] = __VA_ARGS__, [(o) + 7] = __VA_ARGS__

const struct opcode_row decode_1byte[256] = {
    ALU(0x00, ADD, LK, RW),
    [0x06] = G(X(PUSH, I64, D64 | HD(STACK), R(sES))),
    [0x07] = G(X(POP, I64, D64 | HD(STACK), W(sES))),
    ALU(0x08, OR, LK, RW),
    [0x0e] = G(X(PUSH, I64, D64 | HD(STACK), R(sCS))),
    ALU(0x10, ADC, LK, RW),
    [0x16] = G(X(PUSH, I64, D64 | HD(STACK), R(sSS))),
    [0x17] = G(X(POP, I64, D64 | HD(STACK) | INSN_ENDS_BLOCK, W(sSS))),
    ALU(0x18, SBB, LK, RW),
    [0x1e] = G(X(PUSH, I64, D64 | HD(STACK), R(sDS))),
    [0x1f] = G(X(POP, I64, D64 | HD(STACK), W(sDS))),
    ALU(0x20, AND, LK, RW),
    [0x27] = G(X0(DAA, I64, HD(AX))),
    ALU(0x28, SUB, LK, RW),
    [0x2f] = G(X0(DAS, I64, HD(AX))),
    ALU(0x30, XOR, LK, RW),
    [0x37] = G(X0(AAA, I64, HD(AX))),
    ALU(0x38, CMP, 0, R),
    [0x3f] = G(X0(AAS, I64, HD(AX))),
    ROW8(0x40, G(X(INC, I64, 0, RW(Zv)))), /* REX in 64-bit mode */
    ROW8(0x48, G(X(DEC, I64, 0, RW(Zv)))),
    ROW8(0x50, G(X(PUSH, 0, D64 | HD(STACK), R(Zv)))),
    ROW8(0x58, G(X(POP, 0, D64 | HD(STACK), W(Zv)))),
    [0x60] = G(X0(PUSHA, I64, HD(ALL))),
    [0x61] = G(X0(POPA, I64, HD(ALL))),
    [0x62] = F(X(BOUND, I64 | MM, 0, R(Gv), R(Ma))),
    [0x63] = F(X(ARPL, I64, 0, RW(Ew), R(Gw)), X(MOVSXD, O64, 0, W(Gv), R(Ez))),
    [0x68] = G(X(PUSH, 0, D64 | HD(STACK), R(Iz))),
    [0x69] = F(X(IMUL, 0, 0, W(Gv), R(Ev), R(Iz))),
    [0x6a] = G(X(PUSH, 0, D64 | HD(STACK), R(Ibs))),
    [0x6b] = F(X(IMUL, 0, 0, W(Gv), R(Ev), R(Ibs))),
    [0x6c] = G(X0(INS, 0, RULE_BYTE | HD(INS))),
    [0x6d] = G(X0(INS, 0, RULE_Z | HD(INS))),
    [0x6e] = G(X0(OUTS, 0, RULE_BYTE | HD(OUTS))),
    [0x6f] = G(X0(OUTS, 0, RULE_Z | HD(OUTS))),
    ROW8(0x70, G(X(JCC, 0, F64 | RULE_CC, R(Jb)))),
    ROW8(0x78, G(X(JCC, 0, F64 | RULE_CC, R(Jb)))),
    [0x80] = GROUP1(Eb, Ibz, 0),
    [0x81] = GROUP1(Ev, Iz, 0),
    [0x82] = GROUP1(Eb, Ibz, I64),
    [0x83] = GROUP1(Ev, Ibs, 0),
    [0x84] = F(X(TEST, 0, 0, R(Eb), R(Gb))),
    [0x85] = F(X(TEST, 0, 0, R(Ev), R(Gv))),
    [0x86] = F(X(XCHG, 0, LK, RW(Eb), RW(Gb))),
    [0x87] = F(X(XCHG, 0, LK, RW(Ev), RW(Gv))),
    [0x88] = F(X(MOV, 0, 0, W(Eb), R(Gb))),
    [0x89] = F(X(MOV, 0, 0, W(Ev), R(Gv))),
    [0x8a] = F(X(MOV, 0, 0, W(Gb), R(Eb))),
    [0x8b] = F(X(MOV, 0, 0, W(Gv), R(Ev))),
    [0x8c] = F(X(MOV, 0, 0, W(EvMw), R(Sw))),
    [0x8d] = F(X(LEA, MM, 0, W(Gv), N(M0))),
    [0x8e] = F(X(MOV, REG(2), INSN_ENDS_BLOCK, W(Sw), R(Ew)), X(MOV, REG(0), 0, W(Sw), R(Ew)),
               X(MOV, REG(3), 0, W(Sw), R(Ew)), X(MOV, REG(4), 0, W(Sw), R(Ew)),
               X(MOV, REG(5), 0, W(Sw), R(Ew))),
    [0x8f] = F(X(POP, REG(0), D64 | HD(STACK), W(Ev))),
    [0x90] = G(X0(PAUSE, PF3, 0), X0(NOP, B0, 0), X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x91] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x92] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x93] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x94] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x95] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x96] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x97] = G(X(XCHG, 0, 0, RW(Zv), RW(rvAX))),
    [0x98] = G(X0(CBW, 0, HD(AX))),
    [0x99] = G(X0(CWD, 0, HD(AX_DXW))),
    [0x9a] = G(X(CALL_FAR, I64, HD(STACK), R(Ap))),
    [0x9b] = G(X0(FWAIT, 0, INSN_X87)),
    [0x9c] = G(X0(PUSHF, 0, D64 | HD(STACK))),
    [0x9d] = G(X0(POPF, 0, D64 | HD(STACK))),
    [0x9e] = G(X0(SAHF, 0, HD(AX_R))),
    [0x9f] = G(X0(LAHF, 0, HD(AX_W))),
    [0xa0] = G(X(MOV, 0, 0, W(rAL), R(Ob))),
    [0xa1] = G(X(MOV, 0, 0, W(rvAX), R(Ov))),
    [0xa2] = G(X(MOV, 0, 0, W(Ob), R(rAL))),
    [0xa3] = G(X(MOV, 0, 0, W(Ov), R(rvAX))),
    [0xa4] = G(X0(MOVS, 0, RULE_BYTE | HD(SI_DI))),
    [0xa5] = G(X0(MOVS, 0, HD(SI_DI))),
    [0xa6] = G(X0(CMPS, 0, RULE_BYTE | HD(SI_DI))),
    [0xa7] = G(X0(CMPS, 0, HD(SI_DI))),
    [0xa8] = G(X(TEST, 0, 0, R(rAL), R(Ibz))),
    [0xa9] = G(X(TEST, 0, 0, R(rvAX), R(Iz))),
    [0xaa] = G(X0(STOS, 0, RULE_BYTE | HD(STOS))),
    [0xab] = G(X0(STOS, 0, HD(STOS))),
    [0xac] = G(X0(LODS, 0, RULE_BYTE | HD(LODS))),
    [0xad] = G(X0(LODS, 0, HD(LODS))),
    [0xae] = G(X0(SCAS, 0, RULE_BYTE | HD(STOS))),
    [0xaf] = G(X0(SCAS, 0, HD(STOS))),
    ROW8(0xb0, G(X(MOV, 0, 0, W(Zb), R(Ibz)))),
    ROW8(0xb8, G(X(MOV, 0, 0, W(Zv), R(Iv)))),
    [0xc0] = GROUP2(Eb, Ib),
    [0xc1] = GROUP2(Ev, Ib),
    [0xc2] = G(X(RET, 0, F64 | HD(STACK), R(Iw))),
    [0xc3] = G(X0(RET, 0, F64 | HD(STACK))),
    [0xc4] = F(X(LES, I64 | MM, 0, W(Gv), R(Mp))), /* VEX when mod is 3 or in 64-bit mode */
    [0xc5] = F(X(LDS, I64 | MM, 0, W(Gv), R(Mp))),
    [0xc6] = F(X(MOV, REG(0), 0, W(Eb), R(Ibz)), X(XABORT, RG(0xf8), FT(RTM), R(Ib))),
    [0xc7] = F(X(MOV, REG(0), 0, W(Ev), R(Iz)), X(XBEGIN, RG(0xf8), FT(RTM), R(Jz))),
    [0xc8] = G(X(ENTER, 0, D64 | HD(FRAME), R(Iw), R(Ib))),
    [0xc9] = G(X0(LEAVE, 0, D64 | HD(FRAME))),
    [0xca] = G(X(RET_FAR, 0, HD(STACK), R(Iw))),
    [0xcb] = G(X0(RET_FAR, 0, HD(STACK))),
    [0xcc] = G(X0(INT3, 0, 0)),
    [0xcd] = G(X(INT, 0, 0, R(Ib))),
    [0xce] = G(X0(INTO, I64, 0)),
    [0xcf] = G(X0(IRET, 0, HD(STACK))),
    [0xd0] = GROUP2(Eb, One),
    [0xd1] = GROUP2(Ev, One),
    [0xd2] = GROUP2(Eb, rCL),
    [0xd3] = GROUP2(Ev, rCL),
    [0xd4] = G(X(AAM, I64, HD(AX), R(Ib))),
    [0xd5] = G(X(AAD, I64, HD(AX), R(Ib))),
    [0xd6] = G(X0(SALC, I64, HD(AX_W))),
    [0xd7] = G(X0(XLAT, 0, HD(XLAT))),
    [0xe0] = G(X(LOOPNE, 0, F64 | HD(CX), R(Jb))),
    [0xe1] = G(X(LOOPE, 0, F64 | HD(CX), R(Jb))),
    [0xe2] = G(X(LOOP, 0, F64 | HD(CX), R(Jb))),
    [0xe3] = G(X(JCXZ, 0, F64 | HD(CX_R), R(Jb))),
    [0xe4] = G(X(IN, 0, 0, W(rAL), R(Ib))),
    [0xe5] = G(X(IN, 0, RULE_Z, W(rzAX), R(Ib))),
    [0xe6] = G(X(OUT, 0, 0, R(Ib), R(rAL))),
    [0xe7] = G(X(OUT, 0, RULE_Z, R(Ib), R(rzAX))),
    [0xe8] = G(X(CALL, 0, F64 | HD(STACK), R(Jz))),
    [0xe9] = G(X(JMP, 0, F64, R(Jz))),
    [0xea] = G(X(JMP_FAR, I64, 0, R(Ap))),
    [0xeb] = G(X(JMP, 0, F64, R(Jb))),
    [0xec] = G(X(IN, 0, 0, W(rAL), R(rDX))),
    [0xed] = G(X(IN, 0, RULE_Z, W(rzAX), R(rDX))),
    [0xee] = G(X(OUT, 0, 0, R(rDX), R(rAL))),
    [0xef] = G(X(OUT, 0, RULE_Z, R(rDX), R(rzAX))),
    [0xf1] = G(X0(INT1, 0, 0)),
    [0xf4] = G(X0(HLT, 0, 0)),
    [0xf5] = G(X0(CMC, 0, 0)),
    [0xf6] = F(X(TEST, REG(0), 0, R(Eb), R(Ibz)), X(TEST, REG(1), 0, R(Eb), R(Ibz)),
               X(NOT, REG(2), LK, RW(Eb)), X(NEG, REG(3), LK, RW(Eb)),
               X(MUL, REG(4), HD(AX), R(Eb)), X(IMUL, REG(5), HD(AX), R(Eb)),
               X(DIV, REG(6), HD(AX), R(Eb)), X(IDIV, REG(7), HD(AX), R(Eb))),
    [0xf7] = F(X(TEST, REG(0), 0, R(Ev), R(Iz)), X(TEST, REG(1), 0, R(Ev), R(Iz)),
               X(NOT, REG(2), LK, RW(Ev)), X(NEG, REG(3), LK, RW(Ev)),
               X(MUL, REG(4), HD(MUL), R(Ev)), X(IMUL, REG(5), HD(MUL), R(Ev)),
               X(DIV, REG(6), HD(DIV), R(Ev)), X(IDIV, REG(7), HD(DIV), R(Ev))),
    [0xf8] = G(X0(CLC, 0, 0)),
    [0xf9] = G(X0(STC, 0, 0)),
    [0xfa] = G(X0(CLI, 0, 0)),
    [0xfb] = G(X0(STI, 0, 0)),
    [0xfc] = G(X0(CLD, 0, 0)),
    [0xfd] = G(X0(STD, 0, 0)),
    [0xfe] = F(X(INC, REG(0), LK, RW(Eb)), X(DEC, REG(1), LK, RW(Eb))),
    [0xff] = F(X(INC, REG(0), LK, RW(Ev)), X(DEC, REG(1), LK, RW(Ev)),
               X(CALL, REG(2), F64 | HD(STACK), R(Ev)), X(CALL_FAR, REG(3) | MM, HD(STACK), R(Mp)),
               X(JMP, REG(4), F64, R(Ev)), X(JMP_FAR, REG(5) | MM, 0, R(Mp)),
               X(PUSH, REG(6), D64 | HD(STACK), R(Ev))),
};
