/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder's flow: prefixes, opcode and map, modrm, the form from the tables, memory operand,
 * operands, and the rules that forbid a combination (SDM volume 2, chapter 2). The knowledge of
 * single instructions is in the tables (decode_tab_*.c, decode_props.c).
 *
 *   [legacy prefixes] [REX] [0F [38|3A]] opcode [modrm [sib] [disp]] [imm]
 *   [67, segment]     VEX                opcode  modrm [sib] [disp]  [imm]
 *
 * Not decoded (DECODE_INVALID): EVEX, XOP, 3DNow!. No state, no locks.
 */
#include "core/cpu/decode_priv.h"

/* What a byte is before the opcode. */
enum prefix_kind {
    NOT_PREFIX,
    PREFIX_KIND_SEG,
    PREFIX_KIND_66,
    PREFIX_KIND_67,
    PREFIX_KIND_F0,
    PREFIX_KIND_REP,
    PREFIX_KIND_REX, /* only in 64-bit mode */
};

static const u8 prefix_kinds[256] = {
    [0x26] = PREFIX_KIND_SEG,          [0x2e] = PREFIX_KIND_SEG, [0x36] = PREFIX_KIND_SEG,
    [0x3e] = PREFIX_KIND_SEG,          [0x64] = PREFIX_KIND_SEG, [0x65] = PREFIX_KIND_SEG,
    [0x66] = PREFIX_KIND_66,           [0x67] = PREFIX_KIND_67,  [0xf0] = PREFIX_KIND_F0,
    [0xf2] = PREFIX_KIND_REP,          [0xf3] = PREFIX_KIND_REP, [0x40] = PREFIX_KIND_REX,
    [0x41 ... 0x4f] = PREFIX_KIND_REX,
};

static void prefix_segment(struct decoder *d, u8 byte) {
    u8 seg = byte >= 0x64 ? (u8)(SEG_FS + (byte & 1)) : (u8)(byte >> 3 & 3);
    if (d->insn->mode == 64 && seg < SEG_FS)
        return; /* ignored; an earlier FS or GS stays */
    d->seg = seg;
    d->insn->prefixes |= PREFIX_SEG;
}

/* A REX byte counts only directly before the opcode. */
static bool fetch_prefixes(struct decoder *d, u8 *opcode) {
    struct insn *insn = d->insn;
    u8 rex = 0;
    u8 b;

    for (;;) {
        if (d->p == d->end) {
            d->short_of_bytes = true;
            return false;
        }
        b = *d->p++;
        u8 kind = prefix_kinds[b];
        if (LIKELY(kind == NOT_PREFIX) || (kind == PREFIX_KIND_REX && insn->mode != 64))
            break;
        if (kind == PREFIX_KIND_REX) {
            rex = b;
            continue;
        }
        rex = 0;
        if (kind == PREFIX_KIND_66)
            d->opsize_prefix = true;
        else if (kind == PREFIX_KIND_67)
            insn->prefixes |= PREFIX_ADDRSIZE;
        else if (kind == PREFIX_KIND_F0)
            insn->prefixes |= PREFIX_LOCK;
        else if (kind == PREFIX_KIND_REP)
            d->rep = b;
        else
            prefix_segment(d, b);
    }
    if (rex) {
        insn->prefixes |= PREFIX_REX;
        insn->rex = rex & 15;
        d->has_rex = true;
    }
    if (d->opsize_prefix)
        insn->prefixes |= PREFIX_OPSIZE;
    if (d->rep)
        insn->prefixes |= d->rep == 0xf3 ? PREFIX_REP : PREFIX_REPNE;
    *opcode = b;
    return true;
}

/* C4 and C5 are VEX in 64-bit mode, and elsewhere when the next byte is not a memory modrm. */
static bool is_vex(struct decoder *d, u8 opcode) {
    if (opcode != 0xc4 && opcode != 0xc5)
        return false;
    if (d->insn->mode == 64)
        return true;
    return d->p < d->end && *d->p >= 0xc0;
}

static const struct opcode_row *vex_map(struct insn *insn, u8 map) {
    switch (map) {
    case 1:
        insn->map = MAP_0F;
        return decode_vex_0f;
    case 2:
        insn->map = MAP_0F38;
        return decode_vex_0f38;
    case 3:
        insn->map = MAP_0F3A;
        return decode_vex_0f3a;
    default:
        return NULL;
    }
}

/*
 * Outside 64-bit mode only eight registers exist: VEX.B and the high bit of vvvv are ignored. (An
 * unused vvvv must still have all four bits set, on real processors too.)
 */
static const struct opcode_row *fetch_vex(struct decoder *d, u8 opcode) {
    struct insn *insn = d->insn;
    u64 b1 = 0, b2, op;
    u8 map = 1;

    if ((insn->prefixes & (PREFIX_LOCK | PREFIX_OPSIZE | PREFIX_REX)) || d->rep)
        return NULL;
    if (!decode_fetch(d, 1, &b2))
        return NULL;
    if (opcode == 0xc4) {
        b1 = b2;
        map = b1 & 31;
        if (!decode_fetch(d, 1, &b2))
            return NULL;
        insn->rex = (u8)((~b1 >> 5 & 7) | (b2 >> 7) << 3);
    } else {
        insn->rex = (u8)((~b2 >> 7 & 1) << 2);
    }
    insn->enc = ENC_VEX;
    insn->vex_pp = b2 & 3;
    insn->vex_l = b2 >> 2 & 1;
    d->vvvv = insn->vex_v = ~b2 >> 3 & 15;
    if (insn->mode != 64) {
        insn->rex &= REX_W;
        insn->vex_v &= 7;
    }
    d->has_rex = true;
    const struct opcode_row *rows = vex_map(insn, map);
    if (!rows || !decode_fetch(d, 1, &op))
        return NULL;
    insn->opcode = (u8)op;
    return &rows[op];
}

static const struct opcode_row *fetch_0f(struct decoder *d) {
    struct insn *insn = d->insn;
    const struct opcode_row *rows = decode_0f;
    u64 op;

    if (!decode_fetch(d, 1, &op))
        return NULL;
    insn->map = MAP_0F;
    if (op == 0x38 || op == 0x3a) {
        rows = op == 0x38 ? decode_0f38 : decode_0f3a;
        insn->map = op == 0x38 ? MAP_0F38 : MAP_0F3A;
        if (!decode_fetch(d, 1, &op))
            return NULL;
    }
    insn->opcode = (u8)op;
    return &rows[op];
}

static const struct opcode_row *fetch_opcode(struct decoder *d) {
    u8 opcode;
    if (!fetch_prefixes(d, &opcode))
        return NULL;
    d->insn->opcode = opcode;
    if (opcode == 0x0f)
        return fetch_0f(d);
    if (opcode >= 0xd8 && opcode <= 0xdf)
        return &decode_x87[opcode - 0xd8];
    if ((opcode == 0xc4 || opcode == 0xc5) && d->p == d->end) {
        d->short_of_bytes = true;
        return NULL;
    }
    if (is_vex(d, opcode))
        return fetch_vex(d, opcode);
    return &decode_1byte[opcode];
}

/* MOV to and from control and debug registers ignores modrm.mod. */
static bool mod_ignored(const struct insn *insn) {
    return insn->map == MAP_0F && insn->enc == ENC_LEGACY && (insn->opcode & 0xfc) == 0x20;
}

static bool fetch_modrm(struct decoder *d) {
    struct insn *insn = d->insn;
    if (d->p == d->end) {
        d->short_of_bytes = true;
        return false;
    }
    insn->has_modrm = true;
    insn->modrm_offset = (u8)(d->p - d->start);
    insn->modrm = *d->p++;
    d->mod3 = insn->modrm >= 0xc0 || mod_ignored(insn);
    return true;
}

/* Of several mandatory prefixes F2 and F3 go before 66, and the last of those two counts. */
static u8 legacy_pp(const struct decoder *d) {
    if (d->rep)
        return d->rep == 0xf3 ? 2 : 3;
    return d->opsize_prefix ? 1 : 0;
}

static u32 form_key(const struct decoder *d) {
    const struct insn *insn = d->insn;
    u32 key = insn->enc == ENC_VEX ? insn->vex_pp : legacy_pp(d);
    key |= d->mod3 ? KEY_MOD3 : 0;
    key |= (u32)(insn->modrm >> 3 & 7) << KEY_REG_SHIFT;
    key |= (u32)(insn->modrm & 7) << KEY_RM_SHIFT;
    key |= insn->mode == 64 ? KEY_MODE64 : 0;
    if (insn->rex & REX_W)
        key |= insn->mode == 64 ? KEY_W | KEY_W64 : KEY_W;
    key |= insn->rex & REX_B ? KEY_B : 0;
    key |= insn->vex_l ? KEY_L : 0;
    return key;
}

static const struct insn_form *find_form(const struct decoder *d, const struct opcode_row *row) {
    u32 key = form_key(d);
    for (u8 i = 0; i < row->count; i++) {
        u32 cond = row->form[i].cond;
        if ((key & cond >> 16) == (cond & 0xffff))
            return &row->form[i];
    }
    return NULL;
}

static u8 default_opsize(const struct decoder *d, u64 attr, bool prefix) {
    const struct insn *insn = d->insn;
    if (insn->mode == 64) {
        if ((attr & RULE_F64) || (insn->rex & REX_W))
            return 8;
        if (prefix)
            return 2;
        return attr & RULE_D64 ? 8 : 4;
    }
    return (insn->mode == 16) != prefix ? 2 : 4;
}

/* A 66 that selected the form does not change the operand size. */
static void set_sizes(struct decoder *d, const struct insn_form *form) {
    struct insn *insn = d->insn;
    u32 mask = form->cond >> 16 & 3;
    bool mandatory = insn->enc == ENC_VEX || mask == 3;

    if (mandatory && insn->enc == ENC_LEGACY)
        insn->vex_pp = form->cond & 3;
    bool prefix = d->opsize_prefix && !(mandatory && (form->cond & 3) == 1);
    insn->opsize = default_opsize(d, form->attr, prefix);
    if (form->attr & RULE_BYTE)
        insn->opsize = 1;
    else if ((form->attr & RULE_Z) && insn->opsize > 4)
        insn->opsize = 4;
}

static void set_identity(struct decoder *d, const struct insn_form *form) {
    static const u16 cond_flags[8] = {
        FLAG_OF, FLAG_CF, FLAG_ZF,           FLAG_CF | FLAG_ZF,
        FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF, FLAG_ZF | FLAG_SF | FLAG_OF};
    struct insn *insn = d->insn;
    const struct insn_props *props = &decode_props[form->id];
    const struct hidden_regs *hidden = &decode_hidden[form->attr >> HIDDEN_SHIFT & 0xff];
    u8 feature = form->attr >> FEAT_SHIFT & 0x7f;

    insn->id = form->id;
    insn->flags = (u32)form->attr | props->flags;
    insn->cpuid = feature ? BIT(feature - 1) : 0;
    if (insn->flags & INSN_AVX)
        insn->cpuid |= BIT(FEATURE_AVX);
    insn->flags_read = props->flags_read;
    insn->flags_write = props->flags_write;
    if (form->attr & RULE_CC) {
        insn->cond = insn->opcode & 15;
        insn->flags_read = cond_flags[insn->cond >> 1];
    }
    if (insn->flags_read)
        insn->flags |= INSN_READS_FLAGS;
    if (insn->flags_write)
        insn->flags |= INSN_WRITES_FLAGS;
    insn->implicit_read = hidden->read;
    insn->implicit_write = hidden->write;
    if ((insn->flags & INSN_STRING) && d->rep) {
        insn->implicit_read |= 1u << GPR_RCX;
        insn->implicit_write |= 1u << GPR_RCX;
    }
}

static bool set_operands(struct decoder *d, const struct insn_form *form) {
    struct insn *insn = d->insn;
    for (u8 i = 0; i < INSN_MAX_OPERANDS && form->op[i]; i++) {
        struct insn_operand *op = &insn->op[i];
        op->flags = (u8)(form->op[i] >> 8);
        insn->operand_count = (u8)(i + 1);
        if (!decode_operand(d, &decode_specs[form->op[i] & 0xff], op))
            return false;
    }
    return true;
}

/* LOCK needs a memory destination; an unused VEX.vvvv must be 1111 (0 here, where it is inverted).
 */
static bool combination_valid(const struct decoder *d) {
    const struct insn *insn = d->insn;
    if ((insn->prefixes & PREFIX_LOCK) && (!(insn->flags & INSN_LOCKABLE) || d->mod3))
        return false;
    return d->vvvv == 0 || d->vvvv_used;
}

static void default_segment(struct decoder *d) {
    struct insn *insn = d->insn;
    insn->mem.base = insn->mem.index = MEM_NONE;
    insn->mem.scale = 1;
    insn->mem.seg = d->seg < SEG_COUNT ? d->seg : SEG_DS;
    insn->mem.seg_override = d->seg < SEG_COUNT;
}

static bool decode(struct decoder *d) {
    const struct opcode_row *row = fetch_opcode(d);
    struct insn *insn = d->insn;

    if (!row || row->count == 0 || (row->modrm && !fetch_modrm(d)))
        return false;
    const struct insn_form *form = find_form(d, row);
    if (!form)
        return false;
    insn->addrsize = insn->mode == 64 ? 8 : insn->mode / 8;
    if (insn->prefixes & PREFIX_ADDRSIZE)
        insn->addrsize = insn->addrsize == 4 ? 2 : 4;
    set_sizes(d, form);
    set_identity(d, form);
    default_segment(d);
    if (row->modrm && !d->mod3 && !decode_modrm_memory(d))
        return false;
    return set_operands(d, form) && combination_valid(d);
}

enum decode_status insn_decode(struct insn *insn, const u8 *code, size_t avail, u8 mode) {
    struct decoder d = {.insn = insn, .start = code, .p = code, .seg = SEG_COUNT};

    memset(insn, 0, sizeof(*insn));
    insn->mode = mode;
    d.end = code + MIN(avail, INSN_MAX_LEN);
    bool ok = decode(&d);
    insn->len = (u8)(d.p - code);
    if (LIKELY(ok))
        return DECODE_OK;
    insn->id = INSN_INVALID;
    if (!d.short_of_bytes)
        return DECODE_INVALID;
    return avail >= INSN_MAX_LEN ? DECODE_TOO_LONG : DECODE_MORE;
}

static const char *const names[INSN_COUNT] = {
    "(invalid)",
#define I(name) #name,
#include "core/cpu/insn_id.def"
#undef I
};

const char *insn_name(u16 id) {
    return id < INSN_COUNT ? names[id] : "(unknown)";
}
