/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory operand of a modrm byte: SIB, displacement and the default segment, with 16-, 32- and
 * 64-bit addresses (SDM volume 2, tables 2-1 to 2-3).
 */
#include "core/cpu/decode_priv.h"

static void use_stack_segment(struct decoder *d) {
    if (d->seg == SEG_COUNT)
        d->insn->mem.seg = SEG_SS;
}

static bool fetch_disp(struct decoder *d, u8 size) {
    struct insn *insn = d->insn;
    u64 v;
    if (size == 0)
        return true;
    insn->disp_offset = (u8)(d->p - d->start);
    if (!decode_fetch(d, size, &v))
        return false;
    insn->mem.disp = decode_sign_extend(v, size);
    insn->mem.disp_size = size;
    return true;
}

static bool memory_16(struct decoder *d) {
    static const u8 base[8] = {GPR_RBX, GPR_RBX, GPR_RBP, GPR_RBP,
                               GPR_RSI, GPR_RDI, GPR_RBP, GPR_RBX};
    static const u8 index[8] = {GPR_RSI,  GPR_RDI,  GPR_RSI,  GPR_RDI,
                                MEM_NONE, MEM_NONE, MEM_NONE, MEM_NONE};
    struct insn *insn = d->insn;
    u8 mod = insn->modrm >> 6, rm = insn->modrm & 7;

    if (mod == 0 && rm == 6)
        return fetch_disp(d, 2);
    insn->mem.base = base[rm];
    insn->mem.index = index[rm];
    if (base[rm] == GPR_RBP)
        use_stack_segment(d);
    return fetch_disp(d, mod);
}

/* Base 5 with mod 0 is a displacement alone; index 4 without REX.X is no index. */
static bool memory_sib(struct decoder *d) {
    struct insn *insn = d->insn;
    u8 mod = insn->modrm >> 6;
    if (d->p == d->end) {
        d->short_of_bytes = true;
        return false;
    }
    insn->sib = *d->p++;
    u8 index = (u8)((insn->sib >> 3 & 7) | (insn->rex & REX_X) << 2);
    if (index != GPR_RSP) {
        insn->mem.index = index;
        insn->mem.scale = (u8)(1 << (insn->sib >> 6));
    }
    if ((insn->sib & 7) == 5 && mod == 0)
        return fetch_disp(d, 4);
    insn->mem.base = (u8)((insn->sib & 7) | (insn->rex & REX_B) << 3);
    if (insn->mem.base == GPR_RSP || insn->mem.base == GPR_RBP)
        use_stack_segment(d);
    return fetch_disp(d, mod == 2 ? 4 : mod);
}

bool decode_modrm_memory(struct decoder *d) {
    struct insn *insn = d->insn;
    u8 mod = insn->modrm >> 6, rm = insn->modrm & 7;

    if (insn->addrsize == 2)
        return memory_16(d);
    if (rm == 4)
        return memory_sib(d);
    if (mod == 0 && rm == 5) {
        insn->mem.base = insn->mode == 64 ? MEM_RIP : MEM_NONE;
        return fetch_disp(d, 4);
    }
    insn->mem.base = (u8)(rm | (insn->rex & REX_B) << 3);
    if (insn->mem.base == GPR_RBP)
        use_stack_segment(d);
    return fetch_disp(d, mod == 2 ? 4 : mod);
}
