/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded instructions as Intel syntax text, for traces: "mov eax, dword ptr [rbx+0x10]". Branch
 * targets are absolute; a segment is written when an override chose it.
 */
#include "core/base/fmt.h"
#include "core/cpu/decode.h"
#include "core/cpu/state.h"

struct text {
    char *buf;
    size_t size, len; /* len: as if size were unlimited */
};

PRINTF_LIKE(2, 3)
static void put(struct text *t, const char *fmt, ...) {
    size_t room = t->len < t->size ? t->size - t->len : 0;
    va_list ap;
    va_start(ap, fmt);
    t->len += fmt_vstr(room ? t->buf + t->len : NULL, room, fmt, ap);
    va_end(ap);
}

static void put_lower(struct text *t, const char *name) {
    for (; *name; name++)
        put(t, "%c", *name >= 'A' && *name <= 'Z' ? *name + 32 : *name);
}

static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};

/* --- mnemonic
 * -------------------------------------------------------------------------------------- */

static const char *const conditions[16] = {"o", "no", "b", "ae", "e", "ne", "be", "a",
                                           "s", "ns", "p", "np", "l", "ge", "le", "g"};

static void put_prefixes(struct text *t, const struct insn *insn) {
    if (insn->prefixes & PREFIX_LOCK)
        put(t, "lock ");
    if ((insn->flags & INSN_STRING) && (insn->prefixes & PREFIX_REP))
        put(t, "rep ");
    if ((insn->flags & INSN_STRING) && (insn->prefixes & PREFIX_REPNE))
        put(t, "repne ");
    if ((insn->flags & INSN_STRING) && insn->mem.seg_override)
        put(t, "%s ", segments[insn->mem.seg]);
}

/* Names that depend on the operand size: by 2, 4, 8 bytes. */
static const char *sized_name(const struct insn *insn) {
    static const struct {
        u16 id;
        const char *name[3];
    } sized[] = {
        {INSN_CBW, {"cbw", "cwde", "cdqe"}},     {INSN_CWD, {"cwd", "cdq", "cqo"}},
        {INSN_IRET, {"iret", "iretd", "iretq"}}, {INSN_PUSHA, {"pusha", "pushad", "pushad"}},
        {INSN_POPA, {"popa", "popad", "popad"}}, {INSN_PUSHF, {"pushf", "pushfd", "pushfq"}},
        {INSN_POPF, {"popf", "popfd", "popfq"}},
    };
    for (u32 i = 0; i < ARRAY_LEN(sized); i++)
        if (sized[i].id == insn->id)
            return sized[i].name[insn->opsize / 4];
    if (insn->id == INSN_JCXZ)
        return insn->addrsize == 2 ? "jcxz" : insn->addrsize == 4 ? "jecxz" : "jrcxz";
    return NULL;
}

static void put_mnemonic(struct text *t, const struct insn *insn) {
    static const char suffix[] = {'?', 'b', 'w', '?', 'd', '?', '?', '?', 'q'};
    const char *name = sized_name(insn);
    if (name) {
        put(t, "%s", name);
    } else if (insn->id == INSN_JCC || insn->id == INSN_SETCC || insn->id == INSN_CMOVCC) {
        name = insn->id == INSN_JCC ? "j" : insn->id == INSN_SETCC ? "set" : "cmov";
        put(t, "%s%s", name, conditions[insn->cond & 15]);
    } else if (insn->id == INSN_JMP_FAR || insn->id == INSN_CALL_FAR) {
        put(t, insn->id == INSN_JMP_FAR ? "jmp far" : "call far");
    } else if (insn->id == INSN_RET_FAR) {
        put(t, "retf");
    } else {
        put_lower(t, insn_name(insn->id));
        if (insn->flags & INSN_STRING)
            put(t, "%c", suffix[insn->opsize & 15]);
    }
}

/* --- operands
 * -------------------------------------------------------------------------------------- */

static void put_gpr(struct text *t, u8 reg, u16 size, bool high) {
    static const char *const name[8] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    if (high)
        put(t, "%ch", "acdb"[reg & 3]);
    else if (reg >= 8)
        put(t, "r%u%s", reg, size == 1 ? "b" : size == 2 ? "w" : size == 4 ? "d" : "");
    else if (size == 1)
        put(t, reg < 4 ? "%cl" : "%c%cl", name[reg][0], name[reg][1]);
    else
        put(t, "%s%s", size == 8 ? "r" : size == 4 ? "e" : "", name[reg]);
}

static void put_reg(struct text *t, const struct insn_operand *op) {
    static const char *const prefix[] = {
        [REG_CR] = "cr",  [REG_DR] = "dr",   [REG_ST] = "st",
        [REG_MMX] = "mm", [REG_XMM] = "xmm", [REG_YMM] = "ymm",
    };
    if (op->reg_class == REG_GPR)
        put_gpr(t, op->reg, op->size, op->high_byte);
    else if (op->reg_class == REG_SEG)
        put(t, "%s", segments[op->reg & 7]);
    else
        put(t, "%s%u", prefix[op->reg_class], op->reg);
}

static const char *size_name(u16 size) {
    switch (size) {
    case 1:
        return "byte ptr ";
    case 2:
        return "word ptr ";
    case 4:
        return "dword ptr ";
    case 6:
        return "fword ptr ";
    case 8:
        return "qword ptr ";
    case 10:
        return "tbyte ptr ";
    case 16:
        return "xmmword ptr ";
    case 32:
        return "ymmword ptr ";
    default:
        return "";
    }
}

static void put_disp(struct text *t, s64 disp, bool alone) {
    if (alone)
        put(t, "0x%llx", (unsigned long long)disp);
    else if (disp < 0)
        put(t, "-0x%llx", (unsigned long long)(0 - (u64)disp));
    else if (disp > 0)
        put(t, "+0x%llx", (unsigned long long)disp);
}

static void put_mem(struct text *t, const struct insn *insn, const struct insn_operand *op) {
    const struct insn_mem *mem = &insn->mem;
    bool none = mem->base == MEM_NONE && mem->index == MEM_NONE;
    u64 mask = insn->addrsize == 8 ? ~0ull : (1ull << 8 * insn->addrsize) - 1;

    put(t, "%s[", size_name(op->size));
    if (mem->seg_override)
        put(t, "%s:", segments[mem->seg & 7]);
    if (mem->base == MEM_RIP)
        put(t, insn->addrsize == 8 ? "rip" : "eip");
    else if (mem->base != MEM_NONE)
        put_gpr(t, mem->base, insn->addrsize, false);
    if (mem->index != MEM_NONE) {
        if (mem->base != MEM_NONE)
            put(t, "+");
        if (mem->vsib)
            put(t, "%s%u", op->reg_class == REG_YMM ? "ymm" : "xmm", mem->index);
        else
            put_gpr(t, mem->index, insn->addrsize, false);
        if (mem->scale > 1)
            put(t, "*%u", mem->scale);
    }
    put_disp(t, none ? (s64)((u64)mem->disp & mask) : mem->disp, none);
    put(t, "]");
}

static u64 branch_target(const struct insn *insn, u64 rip) {
    u64 target = rip + insn->len + insn->imm;
    if (insn->mode == 64)
        return target;
    return insn->opsize == 2 ? target & 0xffff : target & 0xffffffff;
}

static void put_operand(struct text *t, const struct insn *insn, const struct insn_operand *op,
                        u64 imm, u64 rip) {
    u64 mask = op->size >= 8 ? ~0ull : (1ull << 8 * op->size) - 1;
    switch (op->kind) {
    case OPERAND_REG:
        put_reg(t, op);
        break;
    case OPERAND_MEM:
        put_mem(t, insn, op);
        break;
    case OPERAND_REL:
        put(t, "0x%llx", (unsigned long long)branch_target(insn, rip));
        break;
    case OPERAND_FAR:
        put(t, "0x%llx:0x%llx", (unsigned long long)insn->imm2, (unsigned long long)insn->imm);
        break;
    default:
        put(t, "0x%llx", (unsigned long long)(imm & mask));
    }
}

size_t insn_format(const struct insn *insn, u64 rip, char *buf, size_t size) {
    struct text t = {buf, size, 0};
    bool second = false;

    if (size)
        buf[0] = 0;
    put_prefixes(&t, insn);
    put_mnemonic(&t, insn);
    for (u8 i = 0; i < insn->operand_count && i < INSN_MAX_OPERANDS; i++) {
        const struct insn_operand *op = &insn->op[i];
        put(&t, i ? ", " : " ");
        put_operand(&t, insn, op, second ? insn->imm2 : insn->imm, rip);
        second |= op->kind == OPERAND_IMM;
    }
    return t.len;
}
