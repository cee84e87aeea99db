/* SPDX-License-Identifier: Apache-2.0 */
/* Instruction identities: INSN_ and the manual's mnemonic, one per line of insn_id.def. */
#ifndef CORE_CPU_INSN_ID_H
#define CORE_CPU_INSN_ID_H

enum insn_id {
    INSN_INVALID,
#define I(name) INSN_##name,
#include "core/cpu/insn_id.def"
#undef I
    INSN_COUNT
};

#endif
