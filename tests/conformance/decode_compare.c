/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One instruction through our decoder and through Zydis: validity, length, identity, sizes,
 * operands, flags and implicit registers must agree, or the difference must be of a class that
 * docs/decoder.md explains.
 */
#include "tests/conformance/decode_compare.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/cpu/cpuid.h"
#include "core/cpu/state.h"

static u16 id_by_name(const char *name) {
    for (u16 id = 1; id < INSN_COUNT; id++)
        if (!strcasecmp(insn_name(id), name))
            return id;
    return INSN_INVALID;
}

struct alias {
    const char *theirs;
    u16 id;
};

/* Zydis splits by operand size or names differently what is one identity here. */
static const struct alias aliases[] = {
    {"cwde", INSN_CBW},
    {"cdqe", INSN_CBW},
    {"cdq", INSN_CWD},
    {"cqo", INSN_CWD},
    {"pushad", INSN_PUSHA},
    {"popad", INSN_POPA},
    {"pushfd", INSN_PUSHF},
    {"pushfq", INSN_PUSHF},
    {"popfd", INSN_POPF},
    {"popfq", INSN_POPF},
    {"iretd", INSN_IRET},
    {"iretq", INSN_IRET},
    {"jecxz", INSN_JCXZ},
    {"jrcxz", INSN_JCXZ},
    {"jcxz", INSN_JCXZ},
    {"feni8087_nop", INSN_FNENI},
    {"fdisi8087_nop", INSN_FNDISI},
    {"fsetpm287_nop", INSN_FNSETPM},
};

static const char *const conditions[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                           "s", "ns", "p", "np", "l", "nl", "le", "nle"};

void compare_init(struct compare *c) {
    ZydisDecoderInit(&c->decoder[0], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c->decoder[1], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c->decoder[2], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (u32 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)m);
        c->id_of[m] = name ? id_by_name(name) : INSN_INVALID;
        for (u32 i = 0; name && i < ARRAY_LEN(aliases); i++)
            if (!strcmp(name, aliases[i].theirs))
                c->id_of[m] = aliases[i].id;
    }
}

static bool conditional_matches(const struct insn *a, const char *theirs) {
    const char *prefix = a->id == INSN_JCC ? "j" : a->id == INSN_SETCC ? "set" : "cmov";
    size_t n = strlen(prefix);
    return !strncmp(theirs, prefix, n) && !strcmp(theirs + n, conditions[a->cond]);
}

static bool string_matches(const struct insn *a, const ZydisDecodedInstruction *b) {
    const char *theirs = ZydisMnemonicGetString(b->mnemonic);
    size_t n = strlen(insn_name(a->id));
    static const char suffix[] = {0, 'b', 'w', 0, 'd', 0, 0, 0, 'q'};
    return !strncasecmp(theirs, insn_name(a->id), n) && theirs[n] == suffix[a->opsize] &&
           theirs[n + 1] == 0;
}

static bool mnemonic_matches(const struct compare *c, const struct insn *a,
                             const ZydisDecodedInstruction *b) {
    bool far = b->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    u16 id = c->id_of[b->mnemonic];
    if (a->id == INSN_JCC || a->id == INSN_SETCC || a->id == INSN_CMOVCC)
        return conditional_matches(a, ZydisMnemonicGetString(b->mnemonic));
    if (a->flags & INSN_STRING)
        return string_matches(a, b);
    if (far && id == INSN_CALL)
        id = INSN_CALL_FAR;
    if (far && id == INSN_JMP)
        id = INSN_JMP_FAR;
    if (far && id == INSN_RET)
        id = INSN_RET_FAR;
    return a->id == id;
}

/* --- registers
 * ------------------------------------------------------------------------------------- */

static ZydisRegister gpr(u8 reg, u16 size, bool high) {
    static const ZydisRegister low[] = {ZYDIS_REGISTER_AL, ZYDIS_REGISTER_CL, ZYDIS_REGISTER_DL,
                                        ZYDIS_REGISTER_BL};
    if (size == 1)
        return high      ? (ZydisRegister)(ZYDIS_REGISTER_AH + reg)
               : reg < 4 ? low[reg]
                         : (ZydisRegister)(ZYDIS_REGISTER_SPL + reg - 4);
    if (size == 2)
        return (ZydisRegister)(ZYDIS_REGISTER_AX + reg);
    if (size == 4)
        return (ZydisRegister)(ZYDIS_REGISTER_EAX + reg);
    return (ZydisRegister)(ZYDIS_REGISTER_RAX + reg);
}

static ZydisRegister expected_register(const struct insn_operand *op) {
    switch (op->reg_class) {
    case REG_GPR:
        return gpr(op->reg, op->size, op->high_byte);
    case REG_SEG:
        return (ZydisRegister)(ZYDIS_REGISTER_ES + op->reg);
    case REG_CR:
        return (ZydisRegister)(ZYDIS_REGISTER_CR0 + op->reg);
    case REG_DR:
        return (ZydisRegister)(ZYDIS_REGISTER_DR0 + op->reg);
    case REG_ST:
        return (ZydisRegister)(ZYDIS_REGISTER_ST0 + op->reg);
    case REG_MMX:
        return (ZydisRegister)(ZYDIS_REGISTER_MM0 + op->reg);
    case REG_XMM:
        return (ZydisRegister)(ZYDIS_REGISTER_XMM0 + op->reg);
    default:
        return (ZydisRegister)(ZYDIS_REGISTER_YMM0 + op->reg);
    }
}

static int gpr_number(ZydisRegister r) {
    ZydisRegisterClass cls = ZydisRegisterGetClass(r);
    if (cls == ZYDIS_REGCLASS_GPR8) {
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            return (int)(r - ZYDIS_REGISTER_AH);
        return r < ZYDIS_REGISTER_AH ? (int)(r - ZYDIS_REGISTER_AL)
                                     : (int)(r - ZYDIS_REGISTER_SPL) + 4;
    }
    if (cls != ZYDIS_REGCLASS_GPR16 && cls != ZYDIS_REGCLASS_GPR32 && cls != ZYDIS_REGCLASS_GPR64)
        return -1;
    return ZydisRegisterGetId(r);
}

/* --- operands
 * -------------------------------------------------------------------------------------- */

static u64 mask_of(u16 bytes) {
    return bytes >= 8 ? ~0ull : (1ull << 8 * bytes) - 1;
}

static ZydisRegister expected_address_reg(const struct insn *a, u8 reg, bool vector) {
    if (reg == MEM_NONE)
        return ZYDIS_REGISTER_NONE;
    if (reg == MEM_RIP)
        return a->addrsize == 8 ? ZYDIS_REGISTER_RIP : ZYDIS_REGISTER_EIP;
    if (vector)
        return ZYDIS_REGISTER_NONE; /* compared by the caller */
    return gpr(reg, a->addrsize, false);
}

static const char *compare_memory(const struct insn *a, const struct insn_operand *op,
                                  const ZydisDecodedOperand *z) {
    const ZydisDecodedOperandMem *m = &z->mem;
    if (a->id != INSN_LEA && m->segment != (ZydisRegister)(ZYDIS_REGISTER_ES + a->mem.seg))
        return "segment";
    if (m->base != expected_address_reg(a, a->mem.base, false))
        return "base";
    if (a->mem.vsib) {
        ZydisRegister first = op->reg_class == REG_YMM ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0;
        if (m->index != (ZydisRegister)(first + a->mem.index))
            return "vsib index";
    } else if (m->index != expected_address_reg(a, a->mem.index, false)) {
        return "index";
    }
    if (m->index != ZYDIS_REGISTER_NONE && a->addrsize != 2 && m->scale != a->mem.scale)
        return "scale";
    if ((m->disp.value ^ a->mem.disp) & mask_of(a->has_modrm ? 8 : a->addrsize))
        return "displacement";
    return NULL;
}

static const char *compare_immediate(const struct insn *a, const struct insn_operand *op, u8 nth,
                                     const ZydisDecodedOperand *z) {
    u64 ours = nth ? a->imm2 : a->imm;
    if (op->kind == OPERAND_REL)
        return z->imm.is_relative && z->imm.value.s == (s64)ours ? NULL : "branch target";
    if ((z->imm.value.u & mask_of(op->size)) != (ours & mask_of(op->size)))
        return "immediate";
    return NULL;
}

/* Hints and invalidations name an address and access nothing; Zydis says that they read. */
static bool address_only(const struct insn_operand *op) {
    return op->kind == OPERAND_MEM && !(op->flags & (OPERAND_READ | OPERAND_WRITE));
}

static const char *compare_actions(const struct insn_operand *op, const ZydisDecodedOperand *z) {
    if (address_only(op))
        return NULL;
    bool read = z->actions & (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_CONDREAD);
    bool write = z->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE);
    if (write != !!(op->flags & OPERAND_WRITE))
        return "write action";
    /* what is not written for certain keeps its value, which one may call a read or not */
    if (read != !!(op->flags & OPERAND_READ) && !(op->flags & OPERAND_COND))
        return "read action";
    return NULL;
}

static const char *compare_operand(const struct insn *a, const struct insn_operand *op, u8 nth_imm,
                                   const ZydisDecodedOperand *z) {
    const char *what = NULL;
    switch (op->kind) {
    case OPERAND_REG:
        if (z->type != ZYDIS_OPERAND_TYPE_REGISTER)
            return "operand kind";
        if (z->reg.value != expected_register(op))
            return "register";
        break;
    case OPERAND_MEM:
        if (z->type != ZYDIS_OPERAND_TYPE_MEMORY)
            return "operand kind";
        what = compare_memory(a, op, z);
        if (!what && op->size && !address_only(op) && z->size != op->size * 8)
            what = "memory size";
        break;
    case OPERAND_FAR:
        if (z->type != ZYDIS_OPERAND_TYPE_POINTER)
            return "operand kind";
        if (z->ptr.offset != a->imm || z->ptr.segment != a->imm2)
            return "far pointer";
        break;
    default:
        if (z->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return "operand kind";
        what = compare_immediate(a, op, nth_imm, z);
    }
    return what ? what : compare_actions(op, z);
}

/* Instructions whose memory is not an operand here, only a segment and sizes. */
static bool implied_memory(const struct insn *a) {
    return (a->flags & INSN_STRING) || a->id == INSN_XLAT || a->id == INSN_MASKMOVQ ||
           a->id == INSN_MASKMOVDQU || a->id == INSN_VMASKMOVDQU || a->id == INSN_MONITOR;
}

static const char *compare_implied_memory(const struct insn *a, const ZydisDecodedInstruction *b,
                                          const ZydisDecodedOperand *z) {
    if (b->address_width != a->addrsize * 8)
        return "address size";
    for (u8 i = 0; i < b->operand_count; i++) {
        if (z[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        int base = gpr_number(z[i].mem.base);
        if (base == GPR_RDI && (a->flags & INSN_STRING))
            continue;
        if (z[i].mem.segment != (ZydisRegister)(ZYDIS_REGISTER_ES + a->mem.seg))
            return "implied segment";
    }
    return NULL;
}

/* They end in #UD: only length, identity and the address of their memory are compared. */
static const u64 never_offered = BIT(FEATURE_VMX) | BIT(FEATURE_SVM) | BIT(FEATURE_SMX) |
                                 BIT(FEATURE_SGX) | BIT(FEATURE_WAITPKG) | BIT(FEATURE_CET) |
                                 BIT(FEATURE_UINTR) | BIT(FEATURE_HRESET) | BIT(FEATURE_RTM) |
                                 BIT(FEATURE_ENQCMD) | BIT(FEATURE_OTHER);

/* Nothing uses the operands of these; Zydis gives some of them a second one or a fixed size. */
static bool unused_operands(const struct insn *a) {
    return a->id == INSN_NOP || a->id == INSN_UD0 || a->id == INSN_UD1;
}

static const char *compare_unused(const struct insn *a, const ZydisDecodedInstruction *b,
                                  const ZydisDecodedOperand *z) {
    for (u8 i = 0; i < a->operand_count; i++)
        for (u8 k = 0; k < b->operand_count_visible; k++)
            if (a->op[i].kind == OPERAND_MEM && z[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
                return compare_memory(a, &a->op[i], &z[k]);
    return NULL;
}

/* Zydis writes "fucomp st0, st1" but "fucom st1"; we have the manual's one operand for both. */
static bool extra_st0(const struct insn *a, const ZydisDecodedInstruction *b,
                      const ZydisDecodedOperand *z, u8 at) {
    return (a->flags & INSN_X87) && at == 0 && z->id == 0 &&
           b->operand_count_visible == a->operand_count + 1 &&
           z->type == ZYDIS_OPERAND_TYPE_REGISTER && z->reg.value == ZYDIS_REGISTER_ST0;
}

static const char *compare_operands(const struct insn *a, const ZydisDecodedInstruction *b,
                                    const ZydisDecodedOperand *z) {
    u8 nth_imm = 0, i = 0;
    if (unused_operands(a) || (a->cpuid & never_offered))
        return compare_unused(a, b, z);
    for (u8 k = 0; k < b->operand_count_visible; k++) {
        if (z[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        if (implied_memory(a) && z[k].visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT)
            continue;
        if (extra_st0(a, b, &z[k], i))
            continue;
        if (i >= a->operand_count)
            return "operand count";
        const char *what = compare_operand(a, &a->op[i], nth_imm, &z[k]);
        if (what)
            return what;
        nth_imm = (u8)(nth_imm + (a->op[i].kind == OPERAND_IMM));
        i++;
    }
    if (i == 2 && a->operand_count == 3 && a->op[2].reg_class == REG_XMM &&
        (a->op[2].flags & OPERAND_IMPLICIT))
        return NULL; /* <XMM0> is in the manual's syntax, and hidden in Zydis */
    return i == a->operand_count ? NULL : "operand count";
}

/* --- implicit registers, flags
 * ---------------------------------------------------------------------- */

static const char *compare_hidden(const struct insn *a, const ZydisDecodedInstruction *b,
                                  const ZydisDecodedOperand *z) {
    u16 read = 0, write = 0;
    if ((a->cpuid & never_offered) || a->id == INSN_MOVDIR64B)
        return NULL; /* MOVDIR64B: the register that holds the address is an operand here */
    for (u8 i = 0; i < b->operand_count; i++) {
        bool hidden = z[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
                      (implied_memory(a) && z[i].visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT);
        if (hidden && z[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            int n = gpr_number(z[i].reg.value);
            if (n >= 0 && (z[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
                read |= (u16)(1u << n);
            if (n >= 0 && (z[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                write |= (u16)(1u << n);
        }
        if (hidden && z[i].type == ZYDIS_OPERAND_TYPE_MEMORY && gpr_number(z[i].mem.base) >= 0)
            read |= (u16)(1u << gpr_number(z[i].mem.base));
    }
    if (read & ~a->implicit_read)
        return "implicit register read";
    if (write & ~a->implicit_write)
        return "implicit register written";
    return NULL;
}

static const char *compare_flags(const struct insn *a, const ZydisDecodedInstruction *b) {
    const ZydisAccessedFlags *f = b->cpu_flags;
    u64 read = 0, write = 0;
    if (a->cpuid & never_offered)
        return NULL;
    if (f) {
        read = f->tested & FLAG_ARITH;
        write = (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAG_ARITH;
    }
    if (read != a->flags_read)
        return "flags read";
    return write == a->flags_write ? NULL : "flags written";
}

static const char *compare_valid(const struct compare *c, const struct insn *a,
                                 const ZydisDecodedInstruction *b, const ZydisDecodedOperand *z) {
    const char *what = NULL;
    if (a->len != b->length)
        return "length";
    if (!mnemonic_matches(c, a, b))
        return "mnemonic";
    if (b->attributes & ZYDIS_ATTRIB_HAS_MODRM ? !a->has_modrm : a->has_modrm)
        return "modrm";
    what = implied_memory(a) ? compare_implied_memory(a, b, z) : NULL;
    if (!what)
        what = compare_operands(a, b, z);
    if (!what)
        what = compare_flags(a, b);
    if (!what)
        what = compare_hidden(a, b, z);
    if (!what && (b->meta.category == ZYDIS_CATEGORY_STRINGOP) != !!(a->flags & INSN_STRING) &&
        b->meta.category != ZYDIS_CATEGORY_IOSTRINGOP)
        what = "string category";
    if (a->cpuid & never_offered)
        return what;
    if (!what && !!(b->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != !!(a->flags & INSN_PRIVILEGED))
        what = "privilege";
    if (!what && !(b->attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) != !(a->flags & INSN_LOCKABLE) &&
        !(a->has_modrm && a->modrm >= 0xc0))
        what = "lockable";
    return what;
}

/* --- differences that docs/decoder.md explains
 * ------------------------------------------------------- */

static const char *explain_ours_invalid(const ZydisDecodedInstruction *b) {
    switch (b->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        return "EVEX";
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
        return "MVEX";
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
        return "XOP";
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
        return "3DNow!";
    default:
        break;
    }
    const char *set = ZydisISASetGetString(b->meta.isa_set);
    if (!strncmp(set, "AVX512", 6) || !strncmp(set, "KNC", 3))
        return "AVX-512 mask instructions";
    if (!strncmp(set, "AMX", 3))
        return "AMX";
    if (!strncmp(set, "VIA_", 4) || !strncmp(set, "PADLOCK", 7))
        return "VIA PadLock";
    if (!strcmp(set, "TDX"))
        return "TDX";
    if (!strncmp(set, "KEYLOCKER", 9))
        return "Key Locker";
    if (!strncmp(set, "AMD_INVLPGB", 11) || !strcmp(set, "SNP") || !strcmp(set, "MCOMMIT"))
        return "AMD system instructions";
    if (!strcmp(set, "XOP") || !strcmp(set, "TBM") || !strcmp(set, "LWP"))
        return "XOP";
    if (b->mnemonic == ZYDIS_MNEMONIC_FEMMS)
        return "3DNow!";
    if (b->meta.isa_set == ZYDIS_ISA_SET_FMA4)
        return "FMA4";
    if (b->meta.isa_set == ZYDIS_ISA_SET_SSE4A)
        return "SSE4A";
    return NULL;
}

static bool saves_flags(const struct insn *a) {
    return a->id == INSN_SYSCALL || a->id == INSN_INT || a->id == INSN_INT3 || a->id == INSN_INT1 ||
           a->id == INSN_INTO;
}

static bool vector_test(const struct insn *a) {
    return a->id == INSN_VPTEST || a->id == INSN_VTESTPS || a->id == INSN_VTESTPD;
}

static bool no_base(const struct insn *a) {
    return (a->rex & 1) && (a->prefixes & PREFIX_ADDRSIZE) && (a->modrm & 0xc7) == 4 &&
           (a->sib & 7) == 5;
}

static bool undefined_first(const struct insn *a) {
    static const u16 ids[] = {INSN_CLAC,   INSN_STAC,   INSN_MONITOR, INSN_MWAIT,
                              INSN_SYSRET, INSN_XSETBV, INSN_LLDT,    INSN_LTR};
    for (u32 i = 0; i < ARRAY_LEN(ids); i++)
        if (a->id == ids[i])
            return true;
    return false;
}

static const char *explain(const struct insn *a, const ZydisDecodedInstruction *b,
                           const char *what) {
    if (a->id == INSN_INVALID && b->length)
        return explain_ours_invalid(b);
    if (a->id == INSN_NOP && a->map == MAP_0F && (a->opcode == 0x1a || a->opcode == 0x1b))
        return "MPX";
    if (a->id == INSN_NOP && b->mnemonic == ZYDIS_MNEMONIC_CLDEMOTE)
        return "CLDEMOTE is a hint";
    if (a->id == INSN_NOP &&
        (b->mnemonic == ZYDIS_MNEMONIC_RDSSPD || b->mnemonic == ZYDIS_MNEMONIC_RDSSPQ))
        return "RDSSP is a NOP without CET";
    if (!strcmp(what, "segment") && (b->attributes & ZYDIS_ATTRIB_HAS_NOTRACK))
        return "3E on indirect branches";
    if (!strcmp(what, "base") && no_base(a))
        return "67, REX.B and no base";
    if (!strcmp(what, "flags read") && saves_flags(a))
        return "flags that an event saves";
    if (!strcmp(what, "flags read") && (a->flags & INSN_STRING))
        return "REP CMPS and SCAS do not read ZF";
    if (!strcmp(what, "read action") && (a->flags & INSN_SSE) && a->op[0].reg_class == REG_XMM &&
        (a->op[0].flags & OPERAND_READ))
        return "merging writes";
    if (!strcmp(what, "flags written") && vector_test(a))
        return "flags of VPTEST and VTESTP";
    if (!strcmp(what, "privilege") && undefined_first(a))
        return "privileged, but #UD comes first";
    if (!strcmp(what, "privilege") && a->id == INSN_LGDT)
        return "LGDT is privileged";
    if (!strcmp(what, "memory size") && a->id == INSN_MOVSXD && a->opsize == 2)
        return "MOVSXD r16, r/m16";
    return NULL;
}

static void lower(char *out, size_t size, const char *name) {
    size_t i = 0;
    for (; name && name[i] && i + 1 < size; i++)
        out[i] = (char)tolower((unsigned char)name[i]);
    out[i] = 0;
}

void compare_one(const struct compare *c, const u8 *code, size_t avail, u8 mode,
                 struct compared *result) {
    ZydisDecodedInstruction b = {0};
    ZydisDecodedOperand z[ZYDIS_MAX_OPERAND_COUNT];
    struct insn a;
    enum decode_status ours = insn_decode(&a, code, avail, mode);
    ZyanStatus theirs = ZydisDecoderDecodeFull(&c->decoder[mode / 32], code, avail, &b, z);
    const char *what = NULL;

    result->valid = ours == DECODE_OK && ZYAN_SUCCESS(theirs);
    if (result->valid)
        what = compare_valid(c, &a, &b, z);
    else if (ours == DECODE_OK)
        what = "only ours is valid";
    else if (ZYAN_SUCCESS(theirs))
        what = "only Zydis is valid";
    result->len = ZYAN_SUCCESS(theirs) ? b.length : ours == DECODE_OK ? a.len : 1;
    result->what[0] = 0;
    if (!what)
        return;
    snprintf(result->what, sizeof(result->what), "%s", what);
    lower(result->ours, sizeof(result->ours), insn_name(a.id));
    if (!ZYAN_SUCCESS(theirs))
        b.length = 0;
    snprintf(result->theirs, sizeof(result->theirs), "%s",
             ZYAN_SUCCESS(theirs) ? ZydisMnemonicGetString(b.mnemonic) : "(invalid)");
    result->explained = explain(&a, &b, what);
}
