/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that are copied: which they are, and their bytes with the memory operand redirected
 * to [H_ADDR] and registers without a host register loaded before and stored after.
 */
#include "core/cpu/cpuid.h"
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"

/* --- which -------------------------------------------------------------------------------------
 */

bool tr_names_memory_register(const struct insn *i) {
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (op->kind == OPERAND_REG && op->reg_class == REG_GPR && tr_in_memory(op->reg)) {
            return true;
        }
    }
    return false;
}

static bool names_class(const struct insn *i, u32 a, u32 b) {
    for (u32 n = 0; n < i->operand_count; n++) {
        u32 class = i->op[n].reg_class;
        if (i->op[n].kind == OPERAND_REG && (class == a || class == b)) {
            return true;
        }
    }
    return false;
}

static bool names_gpr(const struct insn *i) {
    return names_class(i, REG_GPR, REG_GPR);
}

static bool integer_known(u16 id) {
    switch (id) {
    case INSN_ADD:
    case INSN_OR:
    case INSN_ADC:
    case INSN_SBB:
    case INSN_AND:
    case INSN_SUB:
    case INSN_XOR:
    case INSN_CMP:
    case INSN_INC:
    case INSN_DEC:
    case INSN_NEG:
    case INSN_NOT:
    case INSN_MUL:
    case INSN_IMUL:
    case INSN_DIV:
    case INSN_IDIV:
    case INSN_TEST:
    case INSN_ROL:
    case INSN_ROR:
    case INSN_RCL:
    case INSN_RCR:
    case INSN_SHL:
    case INSN_SHR:
    case INSN_SAR:
    case INSN_SHLD:
    case INSN_SHRD:
    case INSN_BT:
    case INSN_BTS:
    case INSN_BTR:
    case INSN_BTC:
    case INSN_BSF:
    case INSN_BSR:
    case INSN_BSWAP:
    case INSN_CMC:
    case INSN_CLC:
    case INSN_STC:
    case INSN_LAHF:
    case INSN_SAHF:
    case INSN_CBW:
    case INSN_CWD:
    case INSN_MOV:
    case INSN_MOVZX:
    case INSN_MOVSX:
    case INSN_MOVSXD:
    case INSN_XCHG:
    case INSN_XADD:
    case INSN_CMPXCHG:
    case INSN_CMPXCHG8B:
    case INSN_CMPXCHG16B:
    case INSN_CMOVCC:
    case INSN_SETCC:
    case INSN_MOVNTI:
    case INSN_PAUSE:
    case INSN_LFENCE:
    case INSN_MFENCE:
    case INSN_SFENCE:
        return true;
    default:
        return vec_is_integer(id);
    }
}

static bool vector_refused(u16 id) {
    switch (id) {
    case INSN_MASKMOVDQU:
    case INSN_VMASKMOVDQU:
    case INSN_VMASKMOVPS:
    case INSN_VMASKMOVPD:
    case INSN_VPMASKMOVD:
    case INSN_VPMASKMOVQ:
    case INSN_VGATHERDPS:
    case INSN_VGATHERDPD:
    case INSN_VGATHERQPS:
    case INSN_VGATHERQPD:
    case INSN_VPGATHERDD:
    case INSN_VPGATHERDQ:
    case INSN_VPGATHERQD:
    case INSN_VPGATHERQQ:
        return true;
    default:
        return false;
    }
}

/* Does the mode let it execute? (vec.c has the faults.) */
static bool vector_allowed(const struct insn *i, u64 key) {
    if ((key & (KEY_TS | KEY_EM)) || !(key & KEY_OSFXSR)) {
        return false;
    }
    return i->enc != ENC_VEX || (key & KEY_AVX);
}

static bool vector_known(const struct soft_tr *t, const struct insn *i) {
    bool zero = i->id == INSN_VZEROUPPER || i->id == INSN_VZEROALL;
    if (!t->host_avx || (i->flags & (INSN_X87 | INSN_MMX)) || i->mem.vsib ||
        vector_refused(i->id) || names_class(i, REG_MMX, REG_ST) || (i->prefixes & PREFIX_LOCK)) {
        return false;
    }
    if (!zero && !names_class(i, REG_XMM, REG_YMM)) {
        return false;
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        /* without a memory operand a register that lives in memory is loaded into its own number */
        if (op->kind == OPERAND_REG && op->reg_class == REG_GPR && tr_in_memory(op->reg) &&
            insn_has_mem(i)) {
            return false;
        }
    }
    return vector_allowed(i, t->c->mode_key);
}

/* Outside 64-bit mode code may be read through CS, not written; FS and GS: tr_mem.c. */
bool tr_mem_known(const struct insn *i, bool write) {
    return i->addrsize >= 4 && !(i->mode != 64 && i->mem.seg == SEG_CS && write);
}

/* Outside 64-bit mode W counts as 0 where it would choose a general register's size; a copy would
 * have it again. */
static bool drops_w(const struct insn *i) {
    bool lengths = i->opcode == 0x60 || i->opcode == 0x61; /* VPCMPESTRM, VPCMPESTRI: EAX, EDX */
    bool sized = i->map == MAP_0F
                     ? i->opcode == 0x2a || i->opcode == 0x6e || i->opcode == 0x7e
                     : i->map == MAP_0F3A && (i->opcode == 0x16 || i->opcode == 0x22 || lengths);
    return i->mode != 64 && i->enc == ENC_VEX && (i->rex & 8) && (sized || names_gpr(i));
}

static bool operands_fit(const struct insn *i) {
    const struct insn_operand *mem = insn_mem_operand(i);
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (op->kind == OPERAND_FAR || op->kind == OPERAND_REL || (op->high_byte && mem)) {
            return false;
        }
    }
    if (!mem) {
        return !insn_has_mem(i) && !(i->prefixes & PREFIX_LOCK);
    }
    bool bit_string =
        (i->id == INSN_BT || i->id == INSN_BTS || i->id == INSN_BTR || i->id == INSN_BTC) &&
        i->op[1].kind == OPERAND_REG;
    return insn_has_mem(i) && mem->size >= 1 && mem->size <= 32 && !bit_string &&
           tr_mem_known(i, mem->flags & (OPERAND_WRITE | OPERAND_COND)) &&
           (s32)i->mem.disp == i->mem.disp;
}

/* A second encoding of 80, outside 64-bit mode. */
static bool is_82(const struct insn *i) {
    return i->map == MAP_1BYTE && i->opcode == 0x82;
}

bool tr_can_copy(const struct soft_tr *t, struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    /* VCVTPS2PH looks at its numbers before its address */
    if ((i->cpuid && (i->cpuid & ~t->c->vm->ev->cpuid->features)) || (i->flags & INSN_PRIVILEGED) ||
        !operands_fit(i) || i->id == INSN_VCVTPS2PH || drops_w(i) || is_82(i)) {
        return false;
    }
    if (i->flags & (INSN_SSE | INSN_AVX | INSN_MMX | INSN_X87) && i->id != INSN_MOVNTI) {
        ti->vector = vector_known(t, i);
        return ti->vector;
    }
    if (!integer_known(i->id)) {
        return false;
    }
    for (u32 n = 0; n < i->operand_count; n++) {
        if (i->op[n].kind == OPERAND_REG && i->op[n].reg_class != REG_GPR) {
            return false;
        }
    }
    return true;
}

/* --- bytes -------------------------------------------------------------------------------------
 */

/* Does modrm.reg extend the opcode? */
static bool reg_extends(const struct insn *i) {
    u32 op = i->opcode;
    if (i->map == MAP_1BYTE) {
        return op == 0x80 || op == 0x81 || op == 0x83 || op == 0x8f || op == 0xc0 || op == 0xc1 ||
               op == 0xc6 || op == 0xc7 || (op >= 0xd0 && op <= 0xd3) || op == 0xf6 || op == 0xf7 ||
               op == 0xfe || op == 0xff;
    }
    if (i->map == MAP_0F) {
        return (op >= 0x90 && op <= 0x9f) || op == 0xba || op == 0xc7 || op == 0xae;
    }
    return i->map == MAP_0F38 && op == 0xf3 && i->enc == ENC_VEX;
}

struct fields {
    u32 reg, rm, v;
    bool reg_gpr, rm_gpr, v_gpr;
    bool mem;
    struct tr_at at; /* where it is */
    u8 opcode;
    bool in_place; /* rm has no host register: the memory it lives in is the operand */
};

static void fields_of(const struct tr_insn *ti, struct fields *f) {
    const struct insn *i = &ti->insn;
    f->mem = insn_has_mem(i);
    f->reg = (u32)(i->rex & 4) << 1 | (i->modrm >> 3 & 7);
    f->rm = (u32)(i->rex & 1) << 3 | (i->modrm & 7);
    f->v = i->vex_v;
    f->reg_gpr = i->has_modrm && !ti->vector && !reg_extends(i);
    f->rm_gpr = i->has_modrm && !ti->vector && !f->mem;
    f->v_gpr = i->enc == ENC_VEX && !ti->vector;
    f->opcode = i->opcode;
    f->in_place = false;
}

static bool is_gpr(const struct insn_operand *op, u32 reg) {
    return op->kind == OPERAND_REG && op->reg_class == REG_GPR && op->reg == reg;
}

u16 tr_regs_named(const struct insn *i, u32 flags) {
    u32 mask = 0;
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        bool whole = op->kind == OPERAND_REG && op->reg_class == REG_GPR && !op->high_byte;
        mask |= whole && (!flags || (op->flags & flags)) ? 1u << op->reg : 0;
    }
    return (u16)mask;
}

/* Is there a register that lives in memory? Then much has to be looked at. */
static bool names_odd(const struct tr_insn *ti) {
    return ti->named >> H_TEMP2 & 7;
}

static bool gpr_named(const struct tr_insn *ti, u32 reg, bool write) {
    return (write ? ti->written : ti->named) >> reg & 1;
}

/* May its rm be memory as well, with the same effect? */
static bool takes_memory(const struct insn *i) {
    switch (i->id) {
    case INSN_BT:
    case INSN_BTS:
    case INSN_BTR:
    case INSN_BTC:
        return i->op[1].kind == OPERAND_IMM;
    case INSN_ROL: /* by an immediate OF may be left alone in registers only (rotate.S) */
    case INSN_ROR:
        return (i->opcode & 0xfe) != 0xc0;
    case INSN_XCHG: /* would be locked */
    case INSN_XADD:
    case INSN_CMPXCHG:
    case INSN_BSF: /* may leave the register as it was: not followed here */
    case INSN_BSR:
        return false;
    default:
        return i->has_modrm && i->modrm >= 0xc0;
    }
}

/* ADD to CMP, and MOV, have a form for either direction; TEST has none. */
static bool has_directions(const struct insn *i) {
    return i->map == MAP_1BYTE && i->enc == ENC_LEGACY &&
           ((i->opcode < 0x40 && (i->opcode & 7) < 4) || (i->opcode & 0xfc) == 0x88);
}

/* Writing 4 bytes of a register clears the others, which memory would keep. */
static bool writes_half(const struct insn *i, u32 reg) {
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (is_gpr(op, reg) && op->size == 4 && (op->flags & (OPERAND_WRITE | OPERAND_COND))) {
            return true;
        }
    }
    return false;
}

/* Without a memory operand of its own the instruction can work on a register where it lives. */
static void find_in_place(const struct tr_insn *ti, struct fields *f) {
    const struct insn *i = &ti->insn;
    bool test = i->map == MAP_1BYTE && i->enc == ENC_LEGACY && (i->opcode & 0xfe) == 0x84;
    if (!names_odd(ti) || f->mem || ti->vector || !takes_memory(i)) {
        return;
    }
    if (!tr_in_memory(f->rm) && f->reg_gpr && tr_in_memory(f->reg) && (test || has_directions(i)) &&
        !writes_half(i, f->reg)) {
        u32 reg = f->reg;
        f->reg = f->rm;
        f->rm = reg;
        f->opcode ^= test ? 0 : 2;
    }
    /* what has no such operand ignores rm: LFENCE */
    f->in_place = tr_in_memory(f->rm) && gpr_named(ti, f->rm, false) &&
                  !(f->reg_gpr && f->reg == f->rm) && !(f->v_gpr && f->v == f->rm) &&
                  !writes_half(i, f->rm);
}

static void put_prefixes(struct soft_tr *t, const struct insn *i) {
    if (i->prefixes & PREFIX_LOCK) {
        tr_u8(t, 0xf0);
    }
    if (i->prefixes & PREFIX_OPSIZE) {
        tr_u8(t, 0x66);
    }
    if (i->prefixes & PREFIX_REPNE) {
        tr_u8(t, 0xf2);
    } else if (i->prefixes & PREFIX_REP) {
        tr_u8(t, 0xf3);
    }
}

static void put_legacy(struct soft_tr *t, const struct insn *i, const struct fields *f) {
    u32 rex = 0x40 | (i->rex & 8u) | (f->reg & 8) >> 1 | (f->in_place ? 0 : (f->rm & 8) >> 3);
    rex |= f->mem && f->at.index != MEM_NONE ? (f->at.index & 8u) >> 2 : 0;
    put_prefixes(t, i);
    if (!i->has_modrm) {
        rex = 0x40 | (i->rex & 9u);
    }
    if (rex != 0x40 || (i->prefixes & PREFIX_REX)) {
        tr_u8(t, rex);
    }
    if (i->map != MAP_1BYTE) {
        tr_u8(t, 0x0f);
    }
    if (i->map == MAP_0F38 || i->map == MAP_0F3A) {
        tr_u8(t, i->map == MAP_0F38 ? 0x38 : 0x3a);
    }
    tr_u8(t, f->opcode);
}

static void put_vex(struct soft_tr *t, const struct insn *i, const struct fields *f) {
    tr_u8(t, 0xc4);
    bool high_index = f->mem && f->at.index != MEM_NONE && (f->at.index & 8);
    tr_u8(t, (f->reg & 8 ? 0u : 0x80) | (high_index ? 0u : 0x40) |
                 (f->rm & 8 && !f->in_place ? 0u : 0x20) |
                 (i->map == MAP_0F     ? 1u
                  : i->map == MAP_0F38 ? 2u
                                       : 3u));
    tr_u8(t, (i->rex & 8u) << 4 | (~f->v & 15) << 3 | (u32)i->vex_l << 2 | i->vex_pp);
    tr_u8(t, i->opcode);
}

/* 40 to 4F, INC and DEC of a register, are prefixes in 64-bit mode. */
static bool is_short_inc(const struct insn *i) {
    return i->map == MAP_1BYTE && i->enc == ENC_LEGACY && (i->opcode & 0xf0) == 0x40;
}

/* VZEROUPPER and VZEROALL know eight registers outside 64-bit mode. */
static bool put_zero(struct soft_tr *t, const struct insn *i) {
    if (i->mode == 64 || (i->id != INSN_VZEROUPPER && i->id != INSN_VZEROALL)) {
        return false;
    }
    for (u32 n = 0; n < 8; n++) { /* vmovaps n, n or vxorps n, n, n: the upper half becomes 0 */
        u32 v = i->id == INSN_VZEROALL ? n : 0;
        tr_u8(t, 0xc5);
        tr_u8(t, 0x80 | (~v & 15) << 3);
        tr_u8(t, i->id == INSN_VZEROALL ? 0x57 : 0x28);
        tr_u8(t, 0xc0 | n << 3 | n);
    }
    return true;
}

/* A register in the last byte: outside 64-bit mode its highest bit is ignored. */
static u32 imm_mask(const struct insn *i) {
    bool is4 = i->enc == ENC_VEX && i->map == MAP_0F3A && i->opcode >= 0x4a && i->opcode <= 0x4c;
    return is4 && i->mode != 64 ? 0x7f : 0xff;
}

static void put_insn(struct soft_tr *t, const struct tr_insn *ti, const struct fields *f) {
    const struct insn *i = &ti->insn;
    if (is_short_inc(i)) {
        put_prefixes(t, i);
        tr_u8(t, 0xff);
        tr_u8(t, 0xc0 | (i->opcode & 15u));
        return;
    }
    if (put_zero(t, i)) {
        return;
    }
    if (f->in_place) {
        tr_u8(t, 0x65); /* GS */
    }
    if (i->enc == ENC_VEX) {
        put_vex(t, i, f);
    } else {
        put_legacy(t, i, f);
    }
    if (f->mem) {
        tr_modrm(t, f->reg, &f->at);
    } else if (f->in_place) {
        struct tr_at at = {.base = MEM_NONE, .index = MEM_NONE, .disp = (s32)tr_gpr(f->rm)};
        tr_modrm(t, f->reg, &at);
    } else if (i->has_modrm) {
        tr_u8(t, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7));
    }
    for (u32 n = 0; n < (u32)i->imm_size + i->imm2_size; n++) {
        tr_u8(t, t->page[(ti->rip & PAGE_MASK) + i->imm_offset + n] & imm_mask(i));
    }
}

static bool flags_needed(const struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    return i->flags_read || (i->flags_write && (ti->live_out & ~tr_flags_killed(i)));
}

/* Locked ones: the host may forbid them over two cache lines (#AC); then the interpreter makes the
 * other vCPUs stand still. */
static void put_point(struct soft_tr *t, const struct tr_insn *ti) {
    u16 id = ti->insn.id;
    bool locked = (ti->insn.prefixes & PREFIX_LOCK) || id == INSN_XCHG;
    if (ti->vector || locked || id == INSN_DIV || id == INSN_IDIV || id == INSN_CMPXCHG16B) {
        t->points[t->point_count++] = (struct tr_point){.rip = ti->rip,
                                                        .host = t->used,
                                                        .floats = t->floats,
                                                        .flags_saved = t->saved,
                                                        .flags = t->lost};
    }
}

static void vector_need(struct soft_tr *t, const struct tr_insn *ti) {
    if (t->vec_done) {
        return;
    }
    tr_flags_clobber(t, ti->live_in);
    tr_gs(t, false, 0x83, 7, C_OFF(tr_vec_live)); /* cmp, 0 */
    tr_u8(t, 0);
    u32 from = tr_jcc(t, 4);
    tr_late_new(t, LATE_VLOAD, 0, from, t->used);
    t->vec_done = true;
}

/* Host registers for the guest's that live in memory. */
struct homes {
    u8 host[3];
};

static u8 *home(struct homes *h, u32 guest) {
    return &h->host[guest - H_TEMP2];
}

static void find_operand(struct soft_tr *t, const struct tr_insn *ti, struct fields *f) {
    const struct insn_operand *mem = insn_mem_operand(&ti->insn);
    bool write = mem->flags & (OPERAND_WRITE | OPERAND_COND);
    if (t->shared) {
        f->at = t->share_at;
        return;
    }
    tr_look(t, ti, mem->size, write || t->share_write, &f->at);
    if (t->share_write && !write) {
        t->exits[t->exit_count - 1].ea_how |= EA_QUIET;
    }
    t->share_at = f->at;
}

/* The operand's place, and registers that it leaves free: one needs at most two. */
static void put_operand(struct soft_tr *t, const struct tr_insn *ti, struct fields *f,
                        struct homes *h) {
    find_operand(t, ti, f);
    u8 spare[2] = {H_TEMP2, H_ADDR};
    u32 named = 0;
    for (u32 g = H_TEMP2; g <= H_ADDR; g++) {
        named += gpr_named(ti, g, false);
    }
    if (f->at.base == H_ADDR && named > 1) {
        tr_mem(t, true, 0x8d, H_ADDR, &f->at);
        f->at = (struct tr_at){.base = H_ADDR, .index = MEM_NONE};
        spare[1] = H_TEMP;
    }
    for (u32 g = H_TEMP2, n = 0; g <= H_ADDR; g++) {
        *home(h, g) = gpr_named(ti, g, false) ? spare[n++ & 1] : (u8)g;
    }
    f->reg = f->reg_gpr && tr_in_memory(f->reg) ? *home(h, f->reg) : f->reg;
    f->v = f->v_gpr && tr_in_memory(f->v) ? *home(h, f->v) : f->v;
    f->rm = f->at.base;
}

/* Is register g, which has no host register, wanted in one? */
static bool needs_home(const struct tr_insn *ti, const struct fields *f, u32 g) {
    return gpr_named(ti, g, false) && !(f->in_place && f->rm == g);
}

/* Does what it was before matter? */
static bool is_read(const struct insn *i, u32 g) {
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (is_gpr(op, g) && ((op->flags & (OPERAND_READ | OPERAND_COND)) || op->size < 4)) {
            return true;
        }
    }
    return false;
}

bool tr_copy_keeps_temp(const struct tr_insn *ti) {
    struct fields f;
    u32 named = 0;
    if (!names_odd(ti)) {
        return true;
    }
    fields_of(ti, &f);
    find_in_place(ti, &f);
    for (u32 g = H_TEMP2; g <= H_ADDR; g++) {
        named += needs_home(ti, &f, g);
    }
    return f.mem ? named < 2 || ti->insn.mem.index == MEM_NONE : !needs_home(ti, &f, H_TEMP);
}

void tr_copy(struct soft_tr *t, const struct tr_insn *ti) {
    struct homes homes = {{H_TEMP2, H_TEMP, H_ADDR}};
    struct fields f;
    fields_of(ti, &f);
    find_in_place(ti, &f);
    if (ti->vector) {
        vector_need(t, ti);
    }
    if (f.mem) {
        put_operand(t, ti, &f, &homes);
    }
    if (flags_needed(ti)) {
        tr_flags_need(t);
    }
    for (u32 g = H_TEMP2; g <= H_ADDR; g++) {
        if (needs_home(ti, &f, g) && is_read(&ti->insn, g)) {
            tr_gs_load(t, *home(&homes, g), tr_gpr(g));
        }
    }
    put_point(t, ti);
    put_insn(t, ti, &f);
    for (u32 g = H_TEMP2; g <= H_ADDR; g++) {
        if (needs_home(ti, &f, g) && gpr_named(ti, g, true)) {
            tr_gs_store(t, *home(&homes, g), tr_gpr(g));
        }
    }
    if (ti->insn.flags_write) {
        t->saved = false;
        t->lost = FLAGS_AT_HOME;
    }
}

/* --- relatives ---------------------------------------------------------------------------------
 */

void tr_lea(struct soft_tr *t, const struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    u32 reg = i->op[0].reg;
    u32 to = tr_in_memory(reg) ? (u32)H_ADDR : reg;
    tr_offset(t, i, ti->rip, to);
    if (i->opsize == 4 && i->addrsize == 8) {
        tr_rr(t, false, 0x89, to, to);
    }
    if (tr_in_memory(reg)) {
        tr_gs_store(t, to, tr_gpr(reg));
    }
}

/* MOV between the accumulator and an absolute address */
void tr_moffs(struct soft_tr *t, const struct tr_insn *ti) {
    const struct insn *i = &ti->insn;
    bool write = i->opcode >= 0xa2;
    tr_operand(t, ti, insn_mem_operand(i)->size, write);
    if (i->prefixes & PREFIX_OPSIZE) {
        tr_u8(t, 0x66);
    }
    tr_u8(t, 0x41 | (i->rex & 8u));
    tr_u8(t, (write ? 0x88u : 0x8au) | (i->opcode & 1));
    tr_u8(t, GPR_RAX << 3 | (H_ADDR & 7));
}
