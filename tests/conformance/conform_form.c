/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of instruction forms, taken from the decoder by trying every opcode of every map with
 * each mandatory prefix, REX.W, VEX.L and modrm, in 64-, 32- and 16-bit code. A form is what
 * decodes to one identity with one kind of operand; which modrm bits give it is kept as a set.
 * Encodings that are undefined are forms too: they must raise #UD.
 *
 * Left out are instructions whose result is not the program's own (cf_excluded), those that the
 * host has but the policy does not offer, and the undefined encodings that AVX-512 and AMX use.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/conform.h"

struct exclusion {
    u16 id;
    const char *why;
};

static const struct exclusion exclusions[] = {
    {INSN_SYSCALL, "enters the host's kernel"},
    {INSN_SYSENTER, "enters the host's kernel"},
    {INSN_VMCALL, "enters the host's hypervisor"},
    {INSN_VMMCALL, "enters the host's hypervisor"},
    {INSN_VMFUNC, "enters the host's hypervisor"},
    {INSN_CPUID, "the guest's processor is another"},
    {INSN_XGETBV, "the guest's processor is another"},
    {INSN_RDTSC, "time"},
    {INSN_RDTSCP, "time"},
    {INSN_RDPID, "which processor"},
    {INSN_RDPMC, "the host may allow it"},
    {INSN_RDRAND, "random"},
    {INSN_RDSEED, "random"},
    {INSN_SGDT, "UMIP: Linux emulates it"},
    {INSN_SIDT, "UMIP: Linux emulates it"},
    {INSN_SMSW, "UMIP: Linux emulates it"},
    {INSN_SLDT, "UMIP: Linux emulates it"},
    {INSN_STR, "UMIP: Linux emulates it"},
    {INSN_XSAVE, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XSAVE64, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XSAVEC, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XSAVEC64, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XSAVEOPT, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XSAVEOPT64, "depends on what the processor tracks: xsave_test.c"},
    {INSN_XRSTOR, "the host has more components: xsave_test.c"},
    {INSN_XRSTOR64, "the host has more components: xsave_test.c"},
    {INSN_IN, "the host's I/O permission"},
    {INSN_OUT, "the host's I/O permission"},
    {INSN_INS, "the host's I/O permission"},
    {INSN_OUTS, "the host's I/O permission"},
    {INSN_CLI, "the host's I/O permission"},
    {INSN_STI, "the host's I/O permission"},
};

const char *cf_excluded(const struct insn *insn) {
    for (size_t i = 0; i < ARRAY_LEN(exclusions); i++) {
        if (exclusions[i].id == insn->id) {
            return exclusions[i].why;
        }
    }
    if (insn->id == INSN_INT && insn->imm == 0x80) {
        return "enters the host's kernel";
    }
    return NULL;
}

/* Undefined for the decoder, but not for a processor with AVX-512 or AMX; prefixes; escapes. */
static bool other_encoding(const struct cf_form *f) {
    u32 o = f->opcode;
    if (f->vex) {
        bool mask = f->map == MAP_0F && ((o >= 0x41 && o <= 0x4b) || (o >= 0x90 && o <= 0x93) ||
                                         o == 0x98 || o == 0x99);
        bool shift = f->map == MAP_0F3A && o >= 0x30 && o <= 0x33;
        bool tile = f->map == MAP_0F38 && (o == 0x49 || o == 0x4b || o == 0x5c || o == 0x5e);
        bool newer = f->map == MAP_0F38 &&
                     (o == 0x50 || o == 0x51 || o == 0x52 || o == 0x53 || o == 0xb0 || o == 0xb1 ||
                      o == 0x72 || o == 0xda || o == 0xcb || o == 0xcc || o == 0xcd || o >= 0xe0);
        return mask || shift || tile || newer;
    }
    return f->map == MAP_1BYTE && (o == 0x62 || o == 0xc4 || o == 0xc5);
}

static bool is_prefix(u32 map, u32 opcode, u32 mode) {
    if (map == MAP_0F) {
        return opcode == 0x38 || opcode == 0x3a;
    }
    if (map != MAP_1BYTE) {
        return false;
    }
    bool segment = (opcode & 0xe7) == 0x26 || opcode == 0x64 || opcode == 0x65;
    bool rex = mode == 64 && (opcode & 0xf0) == 0x40;
    bool vex = opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62;
    return segment || rex || (vex && mode == 64) || opcode == 0x0f || opcode == 0x66 ||
           opcode == 0x67 || opcode == 0xf0 || opcode == 0xf2 || opcode == 0xf3;
}

static u32 put_legacy(const struct cf_form *f, u8 *code) {
    static const u8 prefix[] = {0, 0x66, 0xf3, 0xf2};
    u32 n = 0;
    if (f->pp) {
        code[n++] = prefix[f->pp];
    }
    if (f->wide) {
        code[n++] = 0x48;
    }
    if (f->map != MAP_1BYTE) {
        code[n++] = 0x0f;
    }
    if (f->map == MAP_0F38 || f->map == MAP_0F3A) {
        code[n++] = f->map == MAP_0F38 ? 0x38 : 0x3a;
    }
    return n;
}

static u32 put_vex(const struct cf_form *f, u8 *code) {
    code[0] = 0xc4;
    code[1] = (u8)(0xe0 | f->map);
    code[2] = (u8)((f->wide ? 0x80 : 0) | 0x78 | f->vex_l << 2 | f->pp);
    return 3;
}

/* A memory operand that ends in any size of displacement: [0], so that nothing else is read. */
static enum decode_status try_modrm(const struct cf_form *f, u8 modrm, struct insn *insn) {
    u8 code[16] = {0};
    u32 n = f->vex ? put_vex(f, code) : put_legacy(f, code);
    code[n++] = f->opcode;
    code[n] = modrm;
    return insn_decode(insn, code, sizeof(code), f->mode);
}

static void add(struct cf_forms *fs, const struct cf_form *f) {
    if (fs->count % 1024 == 0) {
        fs->form = realloc(fs->form, (fs->count + 1024) * sizeof(*fs->form));
        if (!fs->form) {
            exit(1);
        }
    }
    fs->form[fs->count++] = *f;
}

/* Puts modrm into the form with the same identity among those of this opcode. */
static void enter(struct cf_forms *fs, u32 since, struct cf_form f, u8 modrm, bool has_modrm) {
    f.has_modrm = has_modrm;
    f.memory = has_modrm && modrm < 0xc0;
    for (u32 i = since; i < fs->count; i++) {
        struct cf_form *g = &fs->form[i];
        if (g->id == f.id && g->memory == f.memory && g->has_modrm == has_modrm) {
            g->allowed |= BIT(modrm & 63);
            return;
        }
    }
    f.allowed = BIT(modrm & 63);
    add(fs, &f);
}

static bool wanted(const struct cf_form *f, const struct insn *insn, enum decode_status st,
                   u64 features) {
    if (st != DECODE_OK) {
        return st == DECODE_INVALID && !other_encoding(f);
    }
    return !(insn->cpuid & ~features) && !cf_excluded(insn);
}

static void opcode_forms(struct cf_forms *fs, struct cf_form f, u64 features) {
    u32 since = fs->count;
    for (u32 modrm = 0; modrm < 256; modrm++) {
        struct insn insn;
        if (modrm >= 0x40 && modrm < 0xc0) {
            continue; /* as without displacement */
        }
        if (!f.vex && f.map == MAP_1BYTE && f.mode != 64 &&
            (f.opcode == 0xc4 || f.opcode == 0xc5 || f.opcode == 0x62) && modrm >= 0xc0) {
            continue; /* VEX, EVEX */
        }
        if (!f.vex && f.map == MAP_1BYTE && f.opcode == 0x8f && (modrm & 0x38)) {
            continue; /* XOP */
        }
        if (f.map == MAP_0F && f.opcode == 1 && modrm >= 0xc0) {
            continue; /* VMCALL, ENCLS and their kin, with prefixes: the host's hypervisor */
        }
        enum decode_status st = try_modrm(&f, (u8)modrm, &insn);
        if (!wanted(&f, &insn, st, features)) {
            continue;
        }
        f.id = st == DECODE_OK ? insn.id : INSN_INVALID;
        bool has = st == DECODE_OK ? insn.has_modrm : insn.has_modrm || f.map != MAP_1BYTE;
        if (!has && modrm) {
            break;
        }
        enter(fs, since, f, (u8)modrm, has);
    }
}

static void legacy_forms(struct cf_forms *fs, u8 mode, u64 features) {
    for (u32 n = 0; n < 4u * 256 * 4 * 2; n++) {
        struct cf_form f = {.mode = mode,
                            .map = (u8)(n >> 11),
                            .opcode = (u8)(n >> 3),
                            .pp = n >> 1 & 3,
                            .wide = n & 1};
        if (!is_prefix(f.map, f.opcode, mode) && (mode == 64 || !f.wide)) {
            opcode_forms(fs, f, features);
        }
    }
}

static void vex_forms(struct cf_forms *fs, u8 mode, u64 features) {
    for (u32 n = 0; n < 3u * 256 * 16; n++) {
        struct cf_form f = {.mode = mode,
                            .vex = true,
                            .map = (u8)(1 + (n >> 12)),
                            .opcode = (u8)(n >> 4),
                            .pp = n >> 2 & 3,
                            .wide = n >> 1 & 1,
                            .vex_l = n & 1};
        opcode_forms(fs, f, features);
    }
}

/* The undefined ones go last. */
static void sort_forms(struct cf_forms *f, u32 mode, u32 from) {
    u32 to = from;
    for (u32 i = from; i < f->count; i++) {
        if (f->form[i].id != INSN_INVALID) {
            struct cf_form one = f->form[i];
            f->form[i] = f->form[to];
            f->form[to++] = one;
        }
    }
    f->undefined[mode] = to;
}

void cf_forms_build(struct cf_forms *f, u64 features) {
    static const u8 modes[] = {64, 32, 16};
    memset(f, 0, sizeof(*f));
    for (u32 i = 0; i < ARRAY_LEN(modes); i++) {
        f->first[i] = f->count;
        legacy_forms(f, modes[i], features);
        vex_forms(f, modes[i], features);
        sort_forms(f, i, f->first[i]);
    }
    f->first[3] = f->count;
}
