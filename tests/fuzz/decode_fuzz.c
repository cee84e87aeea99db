/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction decoder on arbitrary bytes. Input: a byte that chooses the mode, then code. What
 * must hold of any result: lengths and offsets inside the instruction, registers inside their
 * files, text inside its buffer, and the same answer when exactly the instruction's bytes are
 * there.
 */
#include <stdlib.h>
#include <string.h>

#include "core/cpu/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok) {
    if (!ok)
        abort();
}

static void check_operand(const struct insn *insn, const struct insn_operand *op) {
    require(op->kind >= OPERAND_REG && op->kind <= OPERAND_FAR);
    if (op->kind == OPERAND_REG) {
        require(op->reg < 16);
        require(op->reg_class != REG_SEG || op->reg < 6);
        require(op->reg_class != REG_GPR || op->size == 1 || op->size == 2 || op->size == 4 ||
                op->size == 8);
    }
    if (op->kind == OPERAND_MEM) {
        require(insn->mem.base < 16 || insn->mem.base >= MEM_RIP);
        require(insn->mem.index < 16 || insn->mem.index == MEM_NONE);
        require(insn->mem.seg < 6);
    }
}

static void check_valid(const struct insn *insn, const u8 *code, u8 mode) {
    struct insn again;
    char text[128];

    require(insn->len >= 1 && insn->len <= INSN_MAX_LEN);
    require(insn->id > INSN_INVALID && insn->id < INSN_COUNT);
    require(insn->operand_count <= INSN_MAX_OPERANDS);
    require(insn->imm_offset + insn->imm_size + insn->imm2_size <= insn->len);
    require(insn->disp_offset + insn->mem.disp_size <= insn->len);
    for (u8 i = 0; i < insn->operand_count; i++)
        check_operand(insn, &insn->op[i]);
    require(insn_format(insn, 0x1000, text, sizeof(text)) < sizeof(text));
    u8 *exact = malloc(insn->len);
    require(exact != NULL);
    memcpy(exact, code, insn->len);
    require(insn_decode(&again, exact, insn->len, mode) == DECODE_OK);
    require(memcmp(&again, insn, sizeof(again)) == 0);
    require(insn_decode(&again, exact, insn->len - 1u, mode) == DECODE_MORE);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const u8 modes[] = {16, 32, 64, 64};
    if (size == 0)
        return 0;
    u8 mode = modes[data[0] & 3];
    for (size_t at = 1; at < size;) {
        struct insn insn;
        enum decode_status status = insn_decode(&insn, data + at, size - at, mode);
        require(insn.len <= size - at && insn.len <= INSN_MAX_LEN);
        require(status != DECODE_MORE || size - at < INSN_MAX_LEN);
        if (status == DECODE_OK)
            check_valid(&insn, data + at, mode);
        at += status == DECODE_OK ? insn.len : 1;
    }
    return 0;
}
