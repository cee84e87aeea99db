/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three-byte opcode maps 0F38 and 0F3A without VEX (SDM volume 2, tables ): SSSE3,
 * SSE4, AES, PCLMULQDQ, SHA, GFNI, MOVBE, CRC32, ADX and a few system instructions. Every opcode of
 * these maps has a modrm byte; those of 0F3A also an immediate byte.
 */
#include "core/cpu/decode_tab.h"

/* clang-format off */

#define SSSE3(ID)                                                                                      \
    F(X(ID, NP, MX | FT(SSSE3), RW(Pq), R(Qq)), X(ID, P66, SS | FT(SSSE3), RW(Vdq), R(Wdqa)))
#define PABS(ID) F(X(ID, NP, MX | FT(SSSE3), W(Pq), R(Qq)), X(ID, P66, SS | FT(SSSE3), W(Vdq), R(Wdqa)))
#define S41(ID) F(X(ID, P66, SS | FT(SSE4_1), RW(Vdq), R(Wdqa)))
#define PMOVX(ID, src) F(X(ID, P66, SS | FT(SSE4_1), W(Vdq), R(src)))
#define AES(ID) F(X(ID, P66, SS | FT(AES), RW(Vdq), R(Wdqa)))
#define SHA(ID) F(X(ID, NP, SS | FT(SHA), RW(Vdq), R(Wdqa)))

const struct opcode_row decode_0f38[256] = {
    [0x00] = SSSE3(PSHUFB), [0x01] = SSSE3(PHADDW), [0x02] = SSSE3(PHADDD), [0x03] = SSSE3(PHADDSW),
    [0x04] = SSSE3(PMADDUBSW), [0x05] = SSSE3(PHSUBW), [0x06] = SSSE3(PHSUBD), [0x07] = SSSE3(PHSUBSW),
    [0x08] = SSSE3(PSIGNB), [0x09] = SSSE3(PSIGNW), [0x0a] = SSSE3(PSIGND), [0x0b] = SSSE3(PMULHRSW),
    [0x10] = F(X(PBLENDVB, P66, SS | FT(SSE4_1), RW(Vdq), R(Wdqa), R(xXMM0))),
    [0x14] = F(X(BLENDVPS, P66, SS | FT(SSE4_1), RW(Vdq), R(Wdqa), R(xXMM0))),
    [0x15] = F(X(BLENDVPD, P66, SS | FT(SSE4_1), RW(Vdq), R(Wdqa), R(xXMM0))),
    [0x17] = F(X(PTEST, P66, SS | FT(SSE4_1), R(Vdq), R(Wdqa))),
    [0x1c] = PABS(PABSB), [0x1d] = PABS(PABSW), [0x1e] = PABS(PABSD),
    [0x20] = PMOVX(PMOVSXBW, Wq), [0x21] = PMOVX(PMOVSXBD, Wd), [0x22] = PMOVX(PMOVSXBQ, Ww),
    [0x23] = PMOVX(PMOVSXWD, Wq), [0x24] = PMOVX(PMOVSXWQ, Wd), [0x25] = PMOVX(PMOVSXDQ, Wq),
    [0x28] = S41(PMULDQ), [0x29] = S41(PCMPEQQ),
    [0x2a] = F(X(MOVNTDQA, P66 | MM, SS | FT(SSE4_1), W(Vdq), R(Mdqa))),
    [0x2b] = S41(PACKUSDW),
    [0x30] = PMOVX(PMOVZXBW, Wq), [0x31] = PMOVX(PMOVZXBD, Wd), [0x32] = PMOVX(PMOVZXBQ, Ww),
    [0x33] = PMOVX(PMOVZXWD, Wq), [0x34] = PMOVX(PMOVZXWQ, Wd), [0x35] = PMOVX(PMOVZXDQ, Wq),
    [0x37] = F(X(PCMPGTQ, P66, SS | FT(SSE4_2), RW(Vdq), R(Wdqa))),
    [0x38] = S41(PMINSB), [0x39] = S41(PMINSD), [0x3a] = S41(PMINUW), [0x3b] = S41(PMINUD),
    [0x3c] = S41(PMAXSB), [0x3d] = S41(PMAXSD), [0x3e] = S41(PMAXUW), [0x3f] = S41(PMAXUD),
    [0x40] = S41(PMULLD),
    [0x41] = F(X(PHMINPOSUW, P66, SS | FT(SSE4_1), W(Vdq), R(Wdqa))),
    [0x80] = F(X(INVEPT, P66 | MM, FT(VMX), R(Gm), R(Mdq))),
    [0x81] = F(X(INVVPID, P66 | MM, FT(VMX), R(Gm), R(Mdq))),
    [0x82] = F(X(INVPCID, P66 | MM, FT(INVPCID), R(Gm), R(Mdq))),
    [0xc8] = F(X(SHA1NEXTE, NP, SS | FT(SHA), RW(Vdq), R(Wdqa))),
    [0xc9] = SHA(SHA1MSG1), [0xca] = SHA(SHA1MSG2),
    [0xcb] = F(X(SHA256RNDS2, NP, SS | FT(SHA), RW(Vdq), R(Wdqa), R(xXMM0))),
    [0xcc] = SHA(SHA256MSG1), [0xcd] = SHA(SHA256MSG2),
    [0xcf] = F(X(GF2P8MULB, P66, SS | FT(GFNI), RW(Vdq), R(Wdqa))),
    [0xdb] = F(X(AESIMC, P66, SS | FT(AES), W(Vdq), R(Wdqa))),
    [0xdc] = AES(AESENC), [0xdd] = AES(AESENCLAST), [0xde] = AES(AESDEC), [0xdf] = AES(AESDECLAST),
    [0xf0] = F(X(CRC32, PF2, FT(SSE4_2), RW(Gy), R(Eb)), X(MOVBE, NFX | MM, FT(MOVBE), W(Gv), R(Mv))),
    [0xf1] = F(X(CRC32, PF2, FT(SSE4_2), RW(Gy), R(Ev)), X(MOVBE, NFX | MM, FT(MOVBE), W(Mv), R(Gv))),
    [0xf5] = F(X(WRUSSD, P66 | MM | Q0, FT(CET), W(My), R(Gy)), X(WRUSSQ, P66 | MM | Q1, FT(CET), W(My), R(Gy))),
    [0xf6] = F(X(ADCX, P66, FT(ADX), RW(Gy), R(Ey)), X(ADOX, PF3, FT(ADX), RW(Gy), R(Ey)),
               X(WRSSD, NP | MM | Q0, FT(CET), W(My), R(Gy)), X(WRSSQ, NP | MM | Q1, FT(CET), W(My), R(Gy))),
    [0xf8] = F(X(MOVDIR64B, P66 | MM, FT(MOVDIR64B), R(Ga), R(M64)), X(ENQCMDS, PF3 | MM, FT(ENQCMD), R(Ga), R(M64)),
               X(ENQCMD, PF2 | MM, FT(ENQCMD), R(Ga), R(M64))),
    [0xf9] = F(X(MOVDIRI, NP | MM, FT(MOVDIRI), W(My), R(Gy))),
};

#define S41I(ID) F(X(ID, P66, SS | FT(SSE4_1), RW(Vdq), R(Wdqa), R(Ib)))

const struct opcode_row decode_0f3a[256] = {
    [0x08] = F(X(ROUNDPS, P66, SS | FT(SSE4_1), W(Vdq), R(Wdqa), R(Ib))),
    [0x09] = F(X(ROUNDPD, P66, SS | FT(SSE4_1), W(Vdq), R(Wdqa), R(Ib))),
    [0x0a] = F(X(ROUNDSS, P66, SS | FT(SSE4_1), RW(Vdq), R(Wd), R(Ib))),
    [0x0b] = F(X(ROUNDSD, P66, SS | FT(SSE4_1), RW(Vdq), R(Wq), R(Ib))),
    [0x0c] = S41I(BLENDPS), [0x0d] = S41I(BLENDPD), [0x0e] = S41I(PBLENDW),
    [0x0f] = F(X(PALIGNR, NP, MX | FT(SSSE3), RW(Pq), R(Qq), R(Ib)),
               X(PALIGNR, P66, SS | FT(SSSE3), RW(Vdq), R(Wdqa), R(Ib))),
    [0x14] = F(X(PEXTRB, P66, SS | FT(SSE4_1), W(RdMb), R(Vdq), R(Ib))),
    [0x15] = F(X(PEXTRW, P66, SS | FT(SSE4_1), W(RdMw), R(Vdq), R(Ib))),
    [0x16] = F(X(PEXTRD, P66 | W0, SS | FT(SSE4_1), W(Ey), R(Vdq), R(Ib)),
               X(PEXTRQ, P66 | W1, SS | FT(SSE4_1), W(Ey), R(Vdq), R(Ib))),
    [0x17] = F(X(EXTRACTPS, P66, SS | FT(SSE4_1), W(Ed), R(Vdq), R(Ib))),
    [0x20] = F(X(PINSRB, P66, SS | FT(SSE4_1), RW(Vdq), R(RdMb), R(Ib))),
    [0x21] = F(X(INSERTPS, P66, SS | FT(SSE4_1), RW(Vdq), R(Wd), R(Ib))),
    [0x22] = F(X(PINSRD, P66 | W0, SS | FT(SSE4_1), RW(Vdq), R(Ey), R(Ib)),
               X(PINSRQ, P66 | W1, SS | FT(SSE4_1), RW(Vdq), R(Ey), R(Ib))),
    [0x40] = S41I(DPPS), [0x41] = S41I(DPPD), [0x42] = S41I(MPSADBW),
    [0x44] = F(X(PCLMULQDQ, P66, SS | FT(PCLMUL), RW(Vdq), R(Wdqa), R(Ib))),
    [0x60] = F(X(PCMPESTRM, P66, SS | FT(SSE4_2) | HD(ESTRM), R(Vdq), R(Wdq), R(Ib))),
    [0x61] = F(X(PCMPESTRI, P66, SS | FT(SSE4_2) | HD(ESTRI), R(Vdq), R(Wdq), R(Ib))),
    [0x62] = F(X(PCMPISTRM, P66, SS | FT(SSE4_2), R(Vdq), R(Wdq), R(Ib))),
    [0x63] = F(X(PCMPISTRI, P66, SS | FT(SSE4_2) | HD(ISTRI), R(Vdq), R(Wdq), R(Ib))),
    [0xcc] = F(X(SHA1RNDS4, NP, SS | FT(SHA), RW(Vdq), R(Wdqa), R(Ib))),
    [0xce] = F(X(GF2P8AFFINEQB, P66, SS | FT(GFNI), RW(Vdq), R(Wdqa), R(Ib))),
    [0xcf] = F(X(GF2P8AFFINEINVQB, P66, SS | FT(GFNI), RW(Vdq), R(Wdqa), R(Ib))),
    [0xdf] = F(X(AESKEYGENASSIST, P66, SS | FT(AES), W(Vdq), R(Wdqa), R(Ib))),
    [0xf0] = F(X(HRESET, PF3 | RG(0xc0), FT(HRESET) | HD(AX_R), R(Ib))),
};
