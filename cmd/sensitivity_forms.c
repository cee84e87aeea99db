/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every instruction form: all opcodes of all maps with all mandatory prefixes, operand sizes, VEX
 * lengths, ModRM extensions, memory and register operands, as far as the decoder takes them; forms
 * that differ only in ordinary registers count once. Memory operands are [rBX].
 */
#include <stdlib.h>
#include <string.h>

#include "cmd/sensitivity.h"

enum { MODRM_RBX = 3, MODRM_REG = 0xc0, FILLER = 0x80, KEYS = 1 << 15 };

struct lister {
    struct sens_forms *out;
    const struct cpuid_policy *policy;
    u64 *key;
    u32 room;
    u8 mode;
    bool failed;
};

static u64 mix(u64 key, u64 value) {
    key = (key + 0x632be59bd9b4e019ull) * 0x9e3779b97f4a7c15ull;
    return (key ^ key >> 31 ^ value) * 0xd6e8feb86659fd93ull;
}

/* What makes it another form. */
static u64 form_key(const struct insn *i) {
    bool in_opcode = !i->has_modrm && i->operand_count && i->op[0].kind == OPERAND_REG &&
                     i->op[0].reg_class == REG_GPR && !(i->op[0].flags & OPERAND_IMPLICIT);
    u8 opcode = in_opcode ? i->opcode & ~7 : i->opcode;
    u64 key = mix(i->id, (u64)i->map << 16 | (u64)i->enc << 8 | opcode);
    key = mix(key, (u64)i->vex_pp << 16 | (u64)i->vex_l << 8 | i->cond);
    char text[56];
    insn_format(i, 0, text, sizeof(text));
    for (const char *c = text; *c && *c != ' ';
         c++) { /* pushf, pushfq: no operand shows the size */
        key = mix(key, (u8)*c);
    }
    if (i->id == INSN_RET_FAR || (i->operand_count && i->op[0].kind == OPERAND_FAR)) {
        key = mix(key, i->opsize);
    }
    if (i->flags & INSN_STRING) {
        key = mix(key, i->prefixes & (PREFIX_REP | PREFIX_REPNE));
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        bool special =
            op->kind == OPERAND_REG &&
            (op->reg_class == REG_SEG || op->reg_class == REG_CR || op->reg_class == REG_DR);
        u64 shape = (u64)op->size << 32 | (u64)op->kind << 16 | (u64)op->reg_class << 8;
        key = mix(key, shape | (special ? op->reg : 0));
    }
    return key;
}

/* Enters the key; true when it was there already, or the table is full. */
static bool known(struct lister *l, u64 key) {
    key |= 1; /* 0 is an empty place */
    for (u32 n = 0; n < KEYS; n++) {
        u64 *at = &l->key[(key + n) % KEYS];
        if (*at == key) {
            return true;
        }
        if (!*at) {
            *at = key;
            return false;
        }
    }
    return true;
}

static bool grow(struct lister *l) {
    if (l->out->count < l->room) {
        return true;
    }
    u32 room = l->room ? l->room * 2 : 1024;
    struct sens_form *form = realloc(l->out->form, room * sizeof(*form));
    l->out->form = form ? form : l->out->form;
    l->failed = l->failed || !form;
    l->room = l->failed ? l->room : room;
    return !l->failed;
}

static void try_code(struct lister *l, const u8 *code, u32 map, u32 opcode, u32 enc, bool modrm) {
    struct insn i;
    if (insn_decode(&i, code, INSN_MAX_LEN, l->mode) != DECODE_OK || i.id == INSN_INVALID ||
        i.map != map || i.opcode != opcode || i.enc != enc || i.has_modrm != modrm) {
        return;
    }
    u64 key = form_key(&i);
    if (known(l, key)) {
        return;
    }
    if (i.cpuid & ~l->policy->features) {
        l->out->withheld++;
        return;
    }
    if (!grow(l)) {
        return;
    }
    struct sens_form *f = &l->out->form[l->out->count++];
    memset(f, 0, sizeof(*f));
    memcpy(f->code, code, i.len);
    f->insn = i;
    insn_format(&i, SENS_CODE, f->text, sizeof(f->text));
}

/* ModRM with every extension; every rm too, where it makes another instruction. */
static void try_modrm(struct lister *l, u8 *code, u32 at, u32 map, u32 opcode, u32 enc) {
    for (u32 reg = 0; reg < 8; reg++) {
        for (u32 rm = 0; rm < 8; rm++) {
            code[at] = (u8)(MODRM_REG | reg << 3 | rm);
            try_code(l, code, map, opcode, enc, true);
        }
        code[at] = (u8)(reg << 3 | MODRM_RBX);
        try_code(l, code, map, opcode, enc, true);
    }
}

static void try_legacy(struct lister *l, u32 prefix, bool rex_w, u32 map, u32 opcode) {
    u8 code[32];
    u32 n = 0;
    memset(code, 0, sizeof(code));
    if (prefix) {
        code[n++] = (u8)prefix;
    }
    if (rex_w) {
        code[n++] = 0x48;
    }
    if (map != MAP_1BYTE) {
        code[n++] = 0x0f;
    }
    if (map == MAP_0F38 || map == MAP_0F3A) {
        code[n++] = map == MAP_0F38 ? 0x38 : 0x3a;
    }
    code[n++] = (u8)opcode;
    code[n] = FILLER; /* an immediate where there is no ModRM */
    try_code(l, code, map, opcode, ENC_LEGACY, false);
    code[n + 1] = FILLER;
    try_modrm(l, code, n, map, opcode, ENC_LEGACY);
}

static void try_vex(struct lister *l, u32 map, u32 bits, u32 opcode) {
    u8 code[32];
    memset(code, 0, sizeof(code));
    code[0] = 0xc4;
    code[1] = (u8)(0xe0 | map); /* no extended registers */
    code[3] = (u8)opcode;
    code[5] = FILLER;
    /* vvvv: none, then a register */
    for (u32 v = 0; v < 2; v++) {
        code[2] = (u8)((bits & 8) << 4 | (v ? 0x0d : 0x0f) << 3 | (bits & 7));
        try_modrm(l, code, 4, map, opcode, ENC_VEX);
    }
}

static void list_all(struct lister *l) {
    static const u8 prefixes[] = {0, 0x66, 0xf3, 0xf2};
    for (u32 map = MAP_1BYTE; map <= MAP_0F3A; map++) {
        for (u32 opcode = 0; opcode < 256; opcode++) {
            for (u32 p = 0; p < 4; p++) {
                try_legacy(l, prefixes[p], false, map, opcode);
                if (l->mode == 64) {
                    try_legacy(l, prefixes[p], true, map, opcode);
                }
            }
        }
    }
    for (u32 map = MAP_0F; map <= MAP_0F3A; map++) {
        for (u32 opcode = 0; opcode < 256; opcode++) {
            for (u32 bits = 0; bits < 16; bits++) {
                try_vex(l, map, bits, opcode);
            }
        }
    }
}

int sens_forms_list(struct sens_forms *out, u8 mode, const struct cpuid_policy *policy) {
    struct lister l = {.out = out, .policy = policy, .mode = mode};
    *out = (struct sens_forms){0};
    l.key = calloc(KEYS, sizeof(*l.key));
    l.failed = !l.key;
    if (l.key) {
        list_all(&l);
    }
    free(l.key);
    if (l.failed) {
        sens_forms_free(out);
        return -ERR_NOMEM;
    }
    return 0;
}

void sens_forms_free(struct sens_forms *forms) {
    free(forms->form);
    *forms = (struct sens_forms){0};
}

/* --- operands in the encoding ------------------------------------------------------------------
 */

u16 sens_code_selector(u8 mode, u32 cpl) {
    if (mode == 64) {
        return cpl ? SENS_UCS64 : SENS_CS64;
    }
    return cpl ? SENS_UCS32 : SENS_CS32;
}

static void put(u8 *to, u64 value, u32 size) {
    for (u32 n = 0; n < size; n++) {
        to[n] = (u8)(value >> 8 * n);
    }
}

void sens_place(u8 *to, const struct sens_form *form, u16 selector) {
    const struct insn *i = &form->insn;
    memcpy(to, form->code, i->len);
    for (u32 n = 0; n < i->operand_count; n++) {
        if (i->op[n].kind == OPERAND_FAR) {
            put(to + i->imm_offset, SENS_TARGET, i->imm_size);
            put(to + i->imm_offset + i->imm_size, selector, 2);
        } else if (i->op[n].kind == OPERAND_MEM && !i->has_modrm && i->disp_offset) {
            put(to + i->disp_offset, SENS_DATA, i->mem.disp_size);
        }
    }
}

void sens_stack_frame(u8 *stack_page, const struct sens_form *form, u16 selector, u16 word) {
    u8 *at = stack_page + (SENS_RSP - SENS_STACK);
    u32 size = form->insn.opsize > 1 ? form->insn.opsize : 2;
    u16 ss = selector & 3 ? SENS_UDS : SENS_DS;
    const u64 frame[] = {SENS_TARGET, selector, 0x246, SENS_RSP, ss};
    if (!(form->insn.flags & INSN_BRANCH)) {
        put(at, word ? word : 0x246, 8); /* a selector, or flags for POPF */
        return;
    }
    for (u32 n = 0; n < ARRAY_LEN(frame); n++) {
        put(at + n * size, frame[n], size);
    }
}

bool sens_operands_fit(const struct sens_operands *o, const struct sens_form *form) {
    const struct insn *i = &form->insn;
    bool indirect = (i->flags & INSN_BRANCH) && i->operand_count &&
                    (i->op[0].kind == OPERAND_REG || i->op[0].kind == OPERAND_MEM);
    bool far = i->id == INSN_CALL_FAR || i->id == INSN_JMP_FAR;
    return !indirect || o->target == (far ? SENS_FAR : SENS_NEAR);
}
