/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x87 opcodes D8 to DF (SDM volume 2, tables ). The waiting forms (FINIT, FSTSW ...)
 * are FWAIT and the FN instruction: two instructions for the processor, and so here. Includes the
 * undocumented aliases that every processor executes (FCOM2, FXCH4, FSTP8 ... under their real
 * names), and the 8087/80287 leftovers FNENI, FNDISI and FNSETPM, which are no-operations.
 */
#include "core/cpu/decode_tab.h"

/* clang-format off */

#define FP INSN_X87
/* arithmetic with memory: /0 to /7 */
#define MEM_ARITH(p, M)                                                                                \
    X(p##ADD, MM | REG(0), FP, R(M)), X(p##MUL, MM | REG(1), FP, R(M)),              \
    X(p##COM, MM | REG(2), FP, R(M)), X(p##COMP, MM | REG(3), FP, R(M)),               \
    X(p##SUB, MM | REG(4), FP, R(M)), X(p##SUBR, MM | REG(5), FP, R(M)),             \
    X(p##DIV, MM | REG(6), FP, R(M)), X(p##DIVR, MM | REG(7), FP, R(M))
#define CMOV(n, ID) X(ID, RR | REG(n), FP, CW(ST0), R(STi))
#define ST0_ONLY(b, ID) X0(ID, RG(b), FP)

const struct opcode_row decode_x87[8] = {
    /* D8 */
    F(MEM_ARITH(F, Md),
      X(FADD, RR | REG(0), FP, RW(ST0), R(STi)), X(FMUL, RR | REG(1), FP, RW(ST0), R(STi)),
      X(FCOM, RR | REG(2), FP, R(STi)), X(FCOMP, RR | REG(3), FP, R(STi)),
      X(FSUB, RR | REG(4), FP, RW(ST0), R(STi)), X(FSUBR, RR | REG(5), FP, RW(ST0), R(STi)),
      X(FDIV, RR | REG(6), FP, RW(ST0), R(STi)), X(FDIVR, RR | REG(7), FP, RW(ST0), R(STi))),
    /* D9 */
    F(X(FLD, MM | REG(0), FP, R(Md)), X(FST, MM | REG(2), FP, W(Md)),
      X(FSTP, MM | REG(3), FP, W(Md)), X(FLDENV, MM | REG(4), FP, R(Menv)),
      X(FLDCW, MM | REG(5), FP, R(Mw)), X(FNSTENV, MM | REG(6), FP, W(Menv)), X(FNSTCW, MM | REG(7), FP, W(Mw)),
      X(FLD, RR | REG(0), FP, R(STi)), X(FXCH, RR | REG(1), FP, RW(STi)),
      ST0_ONLY(0xd0, FNOP), X(FSTPNCE, RR | REG(3), FP, W(STi)),
      ST0_ONLY(0xe0, FCHS), ST0_ONLY(0xe1, FABS), ST0_ONLY(0xe4, FTST), ST0_ONLY(0xe5, FXAM),
      ST0_ONLY(0xe8, FLD1), ST0_ONLY(0xe9, FLDL2T), ST0_ONLY(0xea, FLDL2E), ST0_ONLY(0xeb, FLDPI),
      ST0_ONLY(0xec, FLDLG2), ST0_ONLY(0xed, FLDLN2), ST0_ONLY(0xee, FLDZ),
      ST0_ONLY(0xf0, F2XM1), ST0_ONLY(0xf1, FYL2X), ST0_ONLY(0xf2, FPTAN), ST0_ONLY(0xf3, FPATAN),
      ST0_ONLY(0xf4, FXTRACT), ST0_ONLY(0xf5, FPREM1), ST0_ONLY(0xf6, FDECSTP), ST0_ONLY(0xf7, FINCSTP),
      ST0_ONLY(0xf8, FPREM), ST0_ONLY(0xf9, FYL2XP1), ST0_ONLY(0xfa, FSQRT), ST0_ONLY(0xfb, FSINCOS),
      ST0_ONLY(0xfc, FRNDINT), ST0_ONLY(0xfd, FSCALE), ST0_ONLY(0xfe, FSIN), ST0_ONLY(0xff, FCOS)),
    /* DA */
    F(MEM_ARITH(FI, Md),
      CMOV(0, FCMOVB), CMOV(1, FCMOVE), CMOV(2, FCMOVBE), CMOV(3, FCMOVU), ST0_ONLY(0xe9, FUCOMPP)),
    /* DB */
    F(X(FILD, MM | REG(0), FP, R(Md)), X(FISTTP, MM | REG(1), FP | FT(SSE3), W(Md)),
      X(FIST, MM | REG(2), FP, W(Md)), X(FISTP, MM | REG(3), FP, W(Md)),
      X(FLD, MM | REG(5), FP, R(M10)), X(FSTP, MM | REG(7), FP, W(M10)),
      CMOV(0, FCMOVNB), CMOV(1, FCMOVNE), CMOV(2, FCMOVNBE), CMOV(3, FCMOVNU),
      ST0_ONLY(0xe0, FNENI), ST0_ONLY(0xe1, FNDISI), ST0_ONLY(0xe2, FNCLEX), ST0_ONLY(0xe3, FNINIT),
      ST0_ONLY(0xe4, FNSETPM),
      X(FUCOMI, RR | REG(5), FP, R(ST0), R(STi)), X(FCOMI, RR | REG(6), FP, R(ST0), R(STi))),
    /* DC */
    F(MEM_ARITH(F, Mq),
      X(FADD, RR | REG(0), FP, RW(STi), R(ST0)), X(FMUL, RR | REG(1), FP, RW(STi), R(ST0)),
      X(FCOM, RR | REG(2), FP, R(STi)), X(FCOMP, RR | REG(3), FP, R(STi)),
      X(FSUBR, RR | REG(4), FP, RW(STi), R(ST0)), X(FSUB, RR | REG(5), FP, RW(STi), R(ST0)),
      X(FDIVR, RR | REG(6), FP, RW(STi), R(ST0)), X(FDIV, RR | REG(7), FP, RW(STi), R(ST0))),
    /* DD */
    F(X(FLD, MM | REG(0), FP, R(Mq)), X(FISTTP, MM | REG(1), FP | FT(SSE3), W(Mq)),
      X(FST, MM | REG(2), FP, W(Mq)), X(FSTP, MM | REG(3), FP, W(Mq)),
      X(FRSTOR, MM | REG(4), FP, R(Msave)), X(FNSAVE, MM | REG(6), FP, W(Msave)), X(FNSTSW, MM | REG(7), FP, W(Mw)),
      X(FFREE, RR | REG(0), FP, R(STi)), X(FXCH, RR | REG(1), FP, RW(STi)),
      X(FST, RR | REG(2), FP, W(STi)), X(FSTP, RR | REG(3), FP, W(STi)),
      X(FUCOM, RR | REG(4), FP, R(STi)), X(FUCOMP, RR | REG(5), FP, R(STi))),
    /* DE */
    F(MEM_ARITH(FI, Mw),
      X(FADDP, RR | REG(0), FP, RW(STi), R(ST0)), X(FMULP, RR | REG(1), FP, RW(STi), R(ST0)),
      X(FCOMP, RR | REG(2), FP, R(STi)), ST0_ONLY(0xd9, FCOMPP),
      X(FSUBRP, RR | REG(4), FP, RW(STi), R(ST0)), X(FSUBP, RR | REG(5), FP, RW(STi), R(ST0)),
      X(FDIVRP, RR | REG(6), FP, RW(STi), R(ST0)), X(FDIVP, RR | REG(7), FP, RW(STi), R(ST0))),
    /* DF */
    F(X(FILD, MM | REG(0), FP, R(Mw)), X(FISTTP, MM | REG(1), FP | FT(SSE3), W(Mw)),
      X(FIST, MM | REG(2), FP, W(Mw)), X(FISTP, MM | REG(3), FP, W(Mw)),
      X(FBLD, MM | REG(4), FP, R(M10)), X(FILD, MM | REG(5), FP, R(Mq)),
      X(FBSTP, MM | REG(6), FP, W(M10)), X(FISTP, MM | REG(7), FP, W(Mq)),
      X(FFREEP, RR | REG(0), FP, R(STi)), X(FXCH, RR | REG(1), FP, RW(STi)),
      X(FSTP, RR | REG(2), FP, W(STi)), X(FSTP, RR | REG(3), FP, W(STi)),
      X(FNSTSW, RG(0xe0), FP, W(rAX)),
      X(FUCOMIP, RR | REG(5), FP, R(ST0), R(STi)), X(FCOMIP, RR | REG(6), FP, R(ST0), R(STi))),
};
