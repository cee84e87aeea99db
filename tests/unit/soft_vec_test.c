/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector unit against the real processor. Every encoding of the decoder's opcode maps that the
 * vector unit takes is run on both with random registers and memory: general registers, flags,
 * XMM, YMM, MXCSR, x87, memory and faults must come out the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_native.h"
#include "tests/unit/lib_vec.h"

enum { RAM_BYTES = 2 << 20, WINDOW = 0x100000, WINDOW_BYTES = 8192, MAX_FAILURES = 20 };

struct fixture {
    struct soft_vcpu *c;
    struct native_state *n;
    u64 seed;
    u32 forms, runs, faults, failures;
    u8 before[WINDOW_BYTES], native[WINDOW_BYTES];
};

static u8 *window(void) {
    return (u8 *)NATIVE_RAM + WINDOW;
}

static u64 rnd(struct fixture *f) {
    return native_random(&f->seed);
}

/* --- random state ------------------------------------------------------------------------------
 */

static double interesting(struct fixture *f) {
    static const double values[] = {0.0,  -0.0,  1.0,     -1.0,   0.5,    1.5,   2.0,
                                    3.0,  1e300, 1e-300,  1e-310, 5e-324, 7e9,   -2147483649.0,
                                    1e18, -1e19, 123.456, 0.1,    1e38,   1e-38, 65504.0};
    return values[rnd(f) % ARRAY_LEN(values)];
}

static void random_bytes(struct fixture *f, u8 *p, u32 size) {
    u32 kind = (u32)(rnd(f) % 4);
    for (u32 i = 0; i + 8 <= size; i += 8) {
        u64 v = rnd(f);
        double d = interesting(f);
        float a = (float)interesting(f), b = (float)interesting(f);
        if (kind == 1) {
            memcpy(&v, &d, 8);
        } else if (kind == 2) {
            memcpy(&v, &a, 4);
            memcpy((u8 *)&v + 4, &b, 4);
        } else if (kind == 3 && (v & 7) < 3) {
            v = v & 4 ? 0 : ~0ull;
        }
        memcpy(p + i, &v, 8);
    }
}

static void random_x87(struct fixture *f, u8 *x) {
    u32 kind = (u32)(rnd(f) % 4);
    put16(x + XS_FCW, (u16)(0x7f | (rnd(f) & 0xf00)));
    put16(x + XS_FSW, (u16)(rnd(f) & 0x7f00));
    x[XS_FTW] = kind == 0 ? 0 : kind == 1 ? 0xff : (u8)rnd(f);
    for (u32 i = 0; i < 8; i++) {
        u8 *st = x + XS_ST + 16 * i;
        long double v = (long double)interesting(f);
        memset(st, 0, 16);
        if (rnd(f) % 4) {
            memcpy(st, &v, 10);
        } else {
            put64(st, rnd(f));
            put16(st + 8, (u16)rnd(f));
        }
    }
}

static void random_state(struct fixture *f) {
    u8 *x = f->n->in;
    memset(x, 0, sizeof(f->n->in));
    random_x87(f, x);
    put32(x + XS_MXCSR, 0x1f80 | (u32)(rnd(f) & 0xe07f));
    random_bytes(f, x + XS_XMM, 256);
    random_bytes(f, x + XS_YMMH, 256);
    put64(x + XS_BV, 7);
    for (u32 i = 0; i < 16; i++) {
        f->n->gpr[i] = rnd(f) >> (rnd(f) % 60);
    }
    f->n->flags = 0x202 | (rnd(f) & FLAG_ARITH);
    for (u32 i = 0; i < WINDOW_BYTES; i += 64) {
        random_bytes(f, window() + i, 64);
    }
}

static void load_guest(struct fixture *f) {
    struct soft_vcpu *c = f->c;
    memcpy(c->s.gpr, f->n->gpr, sizeof(c->s.gpr));
    soft_rflags_set(c, f->n->flags);
    memcpy(c->s.xsave, f->n->in, 1024);
    soft_vec_state_loaded(c);
}

/* --- comparison --------------------------------------------------------------------------------
 */

static void complain(struct fixture *f, const u8 *code, u32 len, const char *what, u64 native,
                     u64 guest) {
    struct insn insn;
    char text[128];
    u8 padded[16] = {0};
    if (f->failures++ >= MAX_FAILURES) {
        return;
    }
    memcpy(padded, code, len);
    (void)insn_decode(&insn, padded, sizeof(padded), 64);
    insn_format(&insn, native_rip(), text, sizeof(text));
    fprintf(stderr, "%s: ", text);
    for (u32 i = 0; i < len; i++) {
        fprintf(stderr, "%02x", code[i]);
    }
    fprintf(stderr, ": %s: native %llx, guest %llx\n", what, (unsigned long long)native,
            (unsigned long long)guest);
}

static bool compare_xsave(struct fixture *f, const u8 *code, u32 len) {
    const u8 *a = f->n->out, *b = f->c->s.xsave;
    u64 bv = get64(a + XS_BV);
    u8 canonical[1024];
    memcpy(canonical, a, sizeof(canonical)); /* what the init optimisation left out */
    if (!(bv & 1)) {
        vec_x87_init(canonical);
    }
    if (!(bv & 2)) {
        memset(canonical + XS_XMM, 0, 256);
    }
    if (!(bv & 4)) {
        memset(canonical + XS_YMMH, 0, 256);
    }
    a = canonical;
    for (u32 i = 0; i < XS_YMMH + 256; i += i == XS_XMM + 256 ? XS_YMMH - XS_XMM - 256 : 8) {
        u64 mask = i == XS_MXCSR ? 0xffffffff : ~0ull;
        if (i < XS_LEGACY || i >= XS_YMMH) {
            if ((get64(a + i) ^ get64(b + i)) & mask) {
                char what[32];
                snprintf(what, sizeof(what), "xsave+%u", i);
                complain(f, code, len, what, get64(a + i), get64(b + i));
                return false;
            }
        }
    }
    return true;
}

static bool compare(struct fixture *f, const u8 *code, u32 len, int fault, bool vague) {
    struct soft_vcpu *c = f->c;
    if ((u32)fault != f->n->fault) {
        complain(f, code, len, "fault", f->n->fault, (u64)fault);
        return false;
    }
    f->faults += fault != 0;
    for (u32 i = 0; i < 16; i++) {
        if (f->n->gpr_out[i] != c->s.gpr[i]) {
            complain(f, code, len, "gpr", f->n->gpr_out[i], c->s.gpr[i]);
            return false;
        }
    }
    if ((f->n->flags_out ^ c->aflags) & FLAG_ARITH) {
        complain(f, code, len, "flags", f->n->flags_out & FLAG_ARITH, c->aflags & FLAG_ARITH);
        return false;
    }
    for (u32 i = 0; i < WINDOW_BYTES; i += 8) {
        if (get64(window() + i) != get64(f->native + i)) {
            complain(f, code, len, "memory", get64(f->native + i), get64(window() + i));
            return false;
        }
    }
    return (fault && vague) || compare_xsave(f, code, len);
}

/* Runs code on both with the state in f->n. */
static bool run_both(struct fixture *f, const u8 *code, u32 len, bool vague) {
    struct insn insn;
    u8 padded[16] = {0};
    memcpy(padded, code, len);
    assert_int_equal(insn_decode(&insn, padded, 15, 64), DECODE_OK);
    len = insn.len;
    memcpy(f->before, window(), WINDOW_BYTES);
    native_run(f->n, code, len);
    memcpy(f->native, window(), WINDOW_BYTES);
    memcpy(window(), f->before, WINDOW_BYTES);
    load_guest(f);
    int fault = test_exec(f->c, code, len);
    f->runs++;
    return compare(f, code, len, fault, vague);
}

/* --- every encoding ----------------------------------------------------------------------------
 */

static bool interesting_insn(const struct fixture *f, const struct insn *i) {
    u32 vector = INSN_X87 | INSN_MMX | INSN_SSE | INSN_AVX;
    bool random = i->id == INSN_RDRAND || i->id == INSN_RDSEED;
    bool hint = i->id == INSN_MOVNTI || i->id == INSN_MOVDIRI;
    bool integer = (i->map == MAP_0F38 && i->opcode >= 0xf0) || i->id == INSN_RORX ||
                   i->id == INSN_POPCNT || i->id == INSN_LZCNT || i->id == INSN_TZCNT || hint;
    if (random || vec_is_xsave(i->id) || i->id == INSN_MOVDIR64B ||
        i->cpuid & ~f->c->ev->vm->cpuid->features) {
        return false;
    }
    return (i->flags & vector) || (integer && !(i->flags & INSN_PRIVILEGED));
}

/* Points the memory operand at the window: its base register, and the displacement it has. */
static void aim(struct fixture *f, const struct insn *i, u32 offset) {
    u64 at = NATIVE_RAM + WINDOW + offset;
    if (i->id == INSN_MASKMOVQ || i->id == INSN_MASKMOVDQU || i->id == INSN_VMASKMOVDQU) {
        f->n->gpr[GPR_RDI] = at;
    } else if (insn_has_mem(i) && i->mem.base < 16) {
        u64 scaled = 0;
        if (!i->mem.vsib && i->mem.index < 16 && i->mem.index != i->mem.base) {
            f->n->gpr[i->mem.index] = rnd(f) & 0xfff;
            scaled = f->n->gpr[i->mem.index] * i->mem.scale;
        } else if (rnd(f) % 4 == 0 || (!i->mem.vsib && i->mem.index == i->mem.base)) {
            at = 0x3000000; /* nothing there */
        }
        f->n->gpr[i->mem.base] = at - (u64)i->mem.disp - scaled;
    }
    if (i->mem.vsib) { /* small indices */
        u8 *lo = f->n->in + XS_XMM + 16 * i->mem.index,
           *hi = f->n->in + XS_YMMH + 16 * i->mem.index;
        for (u32 n = 0; n < 16; n += 4) {
            bool wide = i->opcode & 1;
            put32(lo + n, wide && (n & 4) ? 0 : (u32)(rnd(f) & 0x3f));
            put32(hi + n, wide && (n & 4) ? 0 : (u32)(rnd(f) & 0x3f));
        }
    }
}

static void run_form(struct fixture *f, const u8 *code, u32 len, const struct insn *i) {
    static const u32 offsets[] = {0x400, 0x400, 0x400, 0x404, 0x421, 0xff8, 0xff0};
    bool memory = insn_has_mem(i);
    /* Where processors differ: MMX may have reset TOP before its operand faults, a gather may have
     * tidied its mask and the upper halves, a converting store may have set flags. */
    bool vague = (i->flags & INSN_MMX) || i->mem.vsib || i->id == INSN_VCVTPS2PH;
    for (u32 n = 0; n < ARRAY_LEN(offsets); n++) {
        random_state(f);
        aim(f, i, memory ? offsets[n] : 0x400);
        if (!run_both(f, code, len, vague) || f->failures > MAX_FAILURES) {
            return;
        }
    }
    /* The last bytes of the RAM, which ends the host's mapping too: what the decoder says of the
     * operand's size must be what the processor touches. */
    static const u32 room[] = {1, 2, 4, 8, 10, 16, 28, 32};
    for (u32 n = 0; n < ARRAY_LEN(room) && memory && !i->mem.vsib; n++) {
        random_state(f);
        aim(f, i, RAM_BYTES - WINDOW - room[n]);
        if (!run_both(f, code, len, vague) || f->failures > MAX_FAILURES) {
            return;
        }
    }
}

/* One opcode with one choice of prefix, W and L, with register and memory operands. */
static void try_code(struct fixture *f, u8 *code, u32 len) {
    struct insn i;
    if (insn_decode(&i, code, 15, 64) == DECODE_OK && interesting_insn(f, &i)) {
        f->forms++;
        run_form(f, code, i.len, &i);
    }
    (void)len;
}

static void put_operand_bytes(struct fixture *f, u8 *p, u8 modrm) {
    p[0] = modrm;
    if (modrm < 0xc0) { /* [base+disp8], base not rsp; or with an index for gathers */
        p[1] = (modrm & 7) == 4 ? (u8)(0x05 | (rnd(f) & 7) << 3 | (rnd(f) & 0xc0)) : 0x10;
        p[2] = 0x10;
    }
    for (u32 n = modrm < 0xc0 ? 3 : 1; n < 8; n++) {
        p[n] = (u8)rnd(f);
    }
}

static u8 pick_modrm(struct fixture *f, u32 way, u8 reg) {
    static const u8 bases[] = {0, 1, 2, 3, 5, 6, 7};
    if (way == 0) {
        return (u8)(0xc0 | reg << 3 | (rnd(f) & 7));
    }
    return (u8)(0x40 | reg << 3 | (way == 2 ? 4 : bases[rnd(f) % ARRAY_LEN(bases)]));
}

static void try_legacy(struct fixture *f, u8 map, u8 opcode, u8 prefix, u8 reg, u32 way) {
    u8 code[24], *p = code;
    bool rex = rnd(f) & 1;
    if (prefix == 4) {
        *p++ = 0x66;
        *p++ = 0xf2;
    } else if (prefix) {
        *p++ = prefix == 1 ? 0x66 : prefix == 2 ? 0xf3 : 0xf2;
    }
    if (rex && map != MAP_1BYTE) {
        *p++ = (u8)(0x40 | (rnd(f) & (way == 2 ? 0xc : 0xd)));
    }
    if (map != MAP_1BYTE) {
        *p++ = 0x0f;
    }
    if (map == MAP_0F38 || map == MAP_0F3A) {
        *p++ = map == MAP_0F38 ? 0x38 : 0x3a;
    }
    *p++ = opcode;
    put_operand_bytes(f, p, pick_modrm(f, way, reg));
    try_code(f, code, 0);
}

static void try_vex(struct fixture *f, u8 map, u8 opcode, u8 pp, u8 reg, u32 way, u8 wl) {
    u8 code[24];
    code[0] = 0xc4;
    code[1] = (u8)(map | 0x40 | (rnd(f) & (way == 2 ? 0xa0 : 0xa0)));
    for (u32 n = 0; n < 2; n++) { /* vvvv in use, or not */
        code[2] = (u8)((wl & 2) << 6 | (n ? 15 : (rnd(f) & 15)) << 3 | (wl & 1) << 2 | pp);
        code[3] = opcode;
        put_operand_bytes(f, code + 4, pick_modrm(f, way, reg));
        try_code(f, code, 0);
    }
}

static void test_every_form(void **state) {
    struct fixture *f = *state;
    native_signals_use();
    for (u32 map = MAP_0F; map <= MAP_0F3A; map++) {
        for (u32 op = 0; op < 256; op++) {
            for (u32 reg = 0; reg < 8; reg++) {
                for (u32 way = 0; way < 2; way++) {
                    for (u8 prefix = 0; prefix < 5; prefix++) {
                        try_legacy(f, (u8)map, (u8)op, prefix, (u8)reg, way);
                    }
                }
            }
        }
    }
    fprintf(stderr, "legacy: %u forms, %u runs, %u faults\n", f->forms, f->runs, f->faults);
    assert_int_equal(f->failures, 0);
    assert_true(f->forms > 300);
}

static void test_every_vex_form(void **state) {
    struct fixture *f = *state;
    native_signals_use();
    for (u32 map = 1; map <= 3; map++) {
        for (u32 op = 0; op < 256; op++) {
            for (u32 n = 0; n < 8 * 3 * 4 * 4; n++) {
                try_vex(f, (u8)map, (u8)op, n & 3, (u8)(n >> 2 & 7), (n >> 7) % 3, n >> 5 & 3);
            }
        }
    }
    fprintf(stderr, "vex: %u forms, %u runs, %u faults\n", f->forms, f->runs, f->faults);
    assert_int_equal(f->failures, 0);
    assert_true(f->forms > 300);
}

static void test_every_x87_form(void **state) {
    struct fixture *f = *state;
    native_signals_use();
    for (u32 op = 0xd8; op < 0xe0; op++) {
        for (u32 modrm = 0xc0; modrm < 0x100; modrm++) {
            u8 code[24] = {(u8)op, (u8)modrm};
            try_code(f, code, 2);
        }
        for (u8 reg = 0; reg < 8; reg++) {
            try_legacy(f, MAP_1BYTE, (u8)op, 0, reg, 1);
            try_legacy(f, MAP_1BYTE, (u8)op, 1, reg, 1);
        }
    }
    u8 fwait[16] = {0x9b};
    try_code(f, fwait, 1);
    fprintf(stderr, "x87: %u forms, %u runs, %u faults\n", f->forms, f->runs, f->faults);
    assert_int_equal(f->failures, 0);
    assert_true(f->forms > 300);
}

/* --- exceptions that the guest has unmasked -----------------------------------------------------
 */

static void test_unmasked_simd(void **state) {
    struct fixture *f = *state;
    static const u8 codes[][6] = {
        {0xf2, 0x0f, 0x5e, 0xc1},             /* divsd xmm0, xmm1 */
        {0xf3, 0x0f, 0x51, 0xc1},             /* sqrtss */
        {0x66, 0x0f, 0x58, 0xc1},             /* addpd */
        {0x0f, 0x59, 0xc1},                   /* mulps */
        {0xf2, 0x0f, 0x5a, 0xc1},             /* cvtsd2ss */
        {0xf2, 0x0f, 0x2d, 0xc1},             /* cvtsd2si eax, xmm1 */
        {0x0f, 0x2e, 0xc1},                   /* ucomiss */
        {0x0f, 0x2d, 0xc9},                   /* cvtps2pi mm1, xmm1 */
        {0xc5, 0xfd, 0x59, 0xc1},             /* vmulpd ymm0, ymm0, ymm1 */
        {0xc4, 0xe2, 0xf5, 0x98, 0xc2},       /* vfmadd132pd ymm0, ymm1, ymm2 */
        {0xc4, 0xe3, 0x7d, 0x1d, 0xc8, 0x04}, /* vcvtps2ph xmm0, ymm1, 4 */
    };
    native_signals_use();
    for (u32 n = 0; n < 20000; n++) {
        const u8 *code = codes[rnd(f) % ARRAY_LEN(codes)];
        random_state(f);
        u32 keep = rnd(f) % 4 ? ~0u : 0xffff1fff;
        put32(f->n->in + XS_MXCSR, (u32)(rnd(f) & 0xffff & keep));
        f->n->in[XS_FSW] = 0;
        run_both(f, code, 6, false);
    }
    fprintf(stderr, "unmasked: %u faults of %u\n", f->faults, f->runs);
    assert_int_equal(f->failures, 0);
    assert_true(f->faults > 1000);
    f->c->s.cr4 &= ~CR4_OSXMMEXCPT;
    random_state(f);
    memset(f->n->in + XS_XMM, 0, 256);
    put32(f->n->in + XS_MXCSR, 0);
    load_guest(f);
    assert_int_equal(test_exec(f->c, codes[0], 4), 0x106); /* #UD */
    assert_int_equal(get32(f->c->s.xsave + XS_MXCSR), 1);
    f->c->s.cr4 |= CR4_OSXMMEXCPT;
}

static void test_unmasked_x87(void **state) {
    struct fixture *f = *state;
    native_signals_use();
    for (u32 n = 0; n < 20000; n++) {
        u8 code[16] = {(u8)(0xd8 + rnd(f) % 8), (u8)(0xc0 + rnd(f) % 64)};
        u32 len = 2;
        struct insn i;
        if (rnd(f) & 1) { /* mem forms: [rbx] */
            code[1] = (u8)(3 | (rnd(f) & 7) << 3);
        }
        if (rnd(f) % 8 == 0) {
            code[0] = 0x9b;
            len = 1;
        }
        if (insn_decode(&i, code, sizeof(code), 64) != DECODE_OK || i.id == INSN_FNSTENV ||
            i.id == INSN_FNSAVE) {
            continue;
        }
        random_state(f);
        f->n->gpr[GPR_RBX] = NATIVE_RAM + WINDOW + 0x400;
        u16 fcw = (u16)(0x40 | (rnd(f) & 0xf3f));
        u16 fsw = (u16)(rnd(f) & 0x7f7f);
        put16(f->n->in + XS_FCW, fcw);
        put16(f->n->in + XS_FSW, rnd(f) & 1 ? fsw & 0x7f40 : x87_summary(fsw, fcw));
        run_both(f, code, len, false);
    }
    fprintf(stderr, "x87 unmasked: %u faults of %u\n", f->faults, f->runs);
    assert_int_equal(f->failures, 0);
    assert_true(f->faults > 1000);
}

/* FNSTENV, FNSAVE, FLDENV, FRSTOR in the formats that 64-bit mode has. */
static void test_environment(void **state) {
    struct fixture *f = *state;
    static const u8 codes[][4] = {
        {0xd9, 0x33},       {0xd9, 0x23},       {0xdd, 0x33},       {0xdd, 0x23},
        {0x66, 0xd9, 0x33}, {0x66, 0xd9, 0x23}, {0x66, 0xdd, 0x33}, {0x66, 0xdd, 0x23},
    };
    native_signals_use();
    for (u32 n = 0; n < 8000; n++) {
        random_state(f);
        u16 fcw = (u16)(0x40 | (rnd(f) & 0xf3f)), fsw = (u16)(rnd(f) & 0x7f7f);
        put16(f->n->in + XS_FCW, fcw);
        put16(f->n->in + XS_FSW, rnd(f) & 1 ? fsw & 0x7f40 : x87_summary(fsw, fcw));
        put64(f->n->in + XS_FIP, rnd(f) & 0xffffffff);
        put64(f->n->in + XS_FDP, rnd(f) & 0xffffffff);
        put16(f->n->in + XS_FOP, rnd(f) & 0x7ff);
        f->n->gpr[GPR_RBX] = NATIVE_RAM + WINDOW + (rnd(f) & 1 ? 0x400 : 0xff0);
        run_both(f, codes[n % 8], 3, false);
    }
    assert_int_equal(f->failures, 0);
}

/* --- what the control registers forbid ----------------------------------------------------------
 */

static int exec_with_key(struct fixture *f, u64 key, const char *code, u32 len) {
    u64 before = f->c->mode_key;
    random_state(f);
    f->n->in[XS_FSW] = 0;
    load_guest(f);
    f->c->mode_key = key;
    int fault = test_exec(f->c, (const u8 *)code, len);
    f->c->mode_key = before;
    return fault;
}

static void test_forbidden(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *code;
        u32 len;
        u64 set, clear;
        int fault;
    } rows[] = {
        {"\xd9\xe8", 2, KEY_TS, 0, 0x107}, /* fld1 */
        {"\xd9\xe8", 2, KEY_EM, 0, 0x107},
        {"\xd9\xe8", 2, 0, KEY_OSFXSR, 0},
        {"\x9b", 1, KEY_TS, 0, 0x107}, /* fwait with MP */
        {"\x9b", 1, KEY_TS, KEY_MP, 0},
        {"\x9b", 1, KEY_EM, 0, 0},
        {"\x0f\x77", 2, KEY_EM, 0, 0x106}, /* emms */
        {"\x0f\x77", 2, KEY_TS, 0, 0x107},
        {"\x0f\xfc\xc1", 3, 0, KEY_OSFXSR, 0},     /* paddb mm */
        {"\x0f\x58\xc1", 3, 0, KEY_OSFXSR, 0x106}, /* addps */
        {"\x0f\x58\xc1", 3, KEY_EM, 0, 0x106},
        {"\x0f\x58\xc1", 3, KEY_TS, 0, 0x107},
        {"\xc5\xf8\x58\xc1", 4, KEY_EM, KEY_OSFXSR, 0}, /* vaddps */
        {"\xc5\xf8\x58\xc1", 4, 0, KEY_AVX, 0x106},
        {"\xc5\xf8\x58\xc1", 4, KEY_TS, 0, 0x107},
        {"\xc5\xf8\x58\xc1", 4, KEY_V86, 0, 0x106},
        {"\xc4\xe2\x78\xf2\xc1", 5, KEY_TS | KEY_EM, KEY_AVX, 0}, /* andn */
        {"\xc4\xe2\x78\xf2\xc1", 5, 0, KEY_PE, 0x106},
        {"\x0f\xae\x03", 3, KEY_TS, 0, 0x107}, /* fxsave */
        {"\x0f\xae\x03", 3, KEY_EM, 0, 0x107},
        {"\x0f\xae\x23", 3, 0, KEY_OSXSAVE, 0x106}, /* xsave */
        {"\x0f\xae\x23", 3, KEY_TS, 0, 0x107},
        {"\x0f\xc7\x2b", 3, 3ull << KEY_CPL_SHIFT, 0, 0x10d},    /* xsaves */
        {"\x0f\xae\x13", 3, 0, KEY_OSFXSR, 0x106},               /* ldmxcsr */
        {"\xf3\x0f\xb8\xc1", 4, KEY_TS | KEY_EM, KEY_OSFXSR, 0}, /* popcnt */
    };
    native_signals_use();
    for (u32 n = 0; n < ARRAY_LEN(rows); n++) {
        u64 key = (f->c->mode_key | rows[n].set) & ~rows[n].clear;
        int fault = exec_with_key(f, key, rows[n].code, rows[n].len);
        bool supervisor =
            rows[n].fault == 0x10d && !(f->c->ev->vm->cpuid->features & BIT(FEATURE_XSAVES));
        if (fault != (supervisor ? 0x106 : rows[n].fault)) {
            fail_msg("row %u: fault %x", n, (unsigned)fault);
        }
    }
}

/* A gather that meets an inaccessible page keeps what it has and can go on. */
static void test_gather_restart(void **state) {
    struct fixture *f = *state;
    static const u8 code[] = {0xc4, 0xe2, 0x6d,
                              0x90, 0x04, 0x8b}; /* vpgatherdd ymm0,[rbx+ymm1*4],ymm2 */
    native_signals_use();
    random_state(f);
    u8 *x = f->n->in;
    f->n->gpr[GPR_RBX] = NATIVE_RAM + WINDOW;
    for (u32 n = 0; n < 8; n++) {
        u32 at = n < 4 ? XS_XMM + 4 * n : XS_YMMH + 4 * (n - 4);
        put32(x + at + 16, n == 5 ? 0x1000000 : n);
        put32(x + at + 32, n == 2 ? 0 : 0x80000000);
        put32(x + at, 0xabcd0000 + n);
        put32(window() + 4 * n, 0x100 + n);
    }
    load_guest(f);
    assert_int_equal(test_exec(f->c, code, 6), 0x10e);
    assert_int_equal(f->c->fault_cr2, NATIVE_RAM + WINDOW + 0x4000000);
    x = f->c->s.xsave;
    for (u32 n = 0; n < 8; n++) {
        u32 at = n < 4 ? XS_XMM + 4 * n : XS_YMMH + 4 * (n - 4);
        bool loaded = n < 5 && n != 2;
        assert_int_equal(get32(x + at), loaded ? 0x100 + n : 0xabcd0000 + n);
        assert_int_equal(get32(x + at + 32), n >= 5 ? 0xffffffff : 0);
    }
    put32(x + XS_YMMH + 4 + 16, 5); /* the page is there now */
    assert_int_equal(test_exec(f->c, code, 6), 0);
    for (u32 n = 0; n < 8; n++) {
        u32 at = n < 4 ? XS_XMM + 4 * n : XS_YMMH + 4 * (n - 4);
        assert_int_equal(get32(x + at), n == 2 ? 0xabcd0002 : 0x100 + n);
        assert_int_equal(get32(x + at + 32), 0);
    }
}

/* --- 32- and 16-bit code -------------------------------------------------------------------------
 */

static void exec_in_mode(struct fixture *f, u8 mode, const char *code, u32 len) {
    struct soft_vcpu *c = f->c;
    u64 key = c->mode_key;
    c->mode = mode;
    c->mode_key &= ~KEY_MODE_64;
    c->mode_key |= mode == 32 ? KEY_MODE_32 : 0;
    assert_int_equal(test_exec(c, (const u8 *)code, len), 0);
    c->mode = 64;
    c->mode_key = key;
}

/* Encodings that mean something else than in 64-bit mode. */
static void test_other_modes(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    native_signals_use();
    random_state(f);
    load_guest(f);
    c->s.gpr[GPR_RAX] = 0x12345678;
    c->s.gpr[GPR_RCX] = 0xffff00ff;
    exec_in_mode(f, 16, "\xf3\x0f\xb8\xc1", 4); /* popcnt ax, cx */
    assert_int_equal(c->s.gpr[GPR_RAX], 0x12340008);
    exec_in_mode(f, 32, "\xf3\x0f\xb8\xc1", 4); /* popcnt eax, ecx */
    assert_int_equal(c->s.gpr[GPR_RAX], 24);
    exec_in_mode(f, 16, "\x66\xf3\x0f\xb8\xc1", 5);
    assert_int_equal(c->s.gpr[GPR_RAX], 24);
    memset(vec_xmm(c, 1), 0xee, 16);
    exec_in_mode(f, 32, "\xc4\xe1\xf9\x6e\xc9", 5); /* vmovq's W in 32-bit mode: vmovd */
    assert_int_equal(get64(vec_xmm(c, 1)), 0xffff00ff);
    assert_int_equal(get64(vec_ymmh(c, 1)), 0);
    c->s.gpr[GPR_RBX] = NATIVE_RAM + WINDOW;
    put64(window(), 0x1122334455667788);
    exec_in_mode(f, 32, "\xc4\xe1\xf9\x6e\x0b", 5); /* the same from memory: 4 bytes */
    assert_int_equal(get64(vec_xmm(c, 1)), 0x55667788);
    memset(vec_xmm(c, 0), 0xff, 256);
    memset(vec_ymmh(c, 0), 0xff, 256);
    exec_in_mode(f, 32, "\xc5\xfc\x77", 3); /* vzeroall */
    assert_int_equal(get64(vec_xmm(c, 7)), 0);
    assert_int_equal(get64(vec_xmm(c, 8)), ~0ull);
    assert_int_equal(get64(vec_ymmh(c, 8)), ~0ull);
    c->s.gpr[GPR_RAX] = 1;
    c->s.gpr[GPR_RBX] = 0xaabb00;
    exec_in_mode(f, 32, "\xf2\x0f\x38\xf0\xc7", 5); /* crc32 eax, bh */
    u32 crc = (u32)c->s.gpr[GPR_RAX];
    c->s.gpr[GPR_RAX] = 1;
    c->s.gpr[GPR_RBX] = 0xbb;
    exec_in_mode(f, 32, "\xf2\x0f\x38\xf0\xc3", 5); /* crc32 eax, bl */
    assert_int_equal(c->s.gpr[GPR_RAX], crc);
}

/* The real-address formats, which 64-bit code cannot produce: by the manual's figures. */
static void test_real_environment(void **state) {
    struct fixture *f = *state;
    struct soft_vcpu *c = f->c;
    u64 key = c->mode_key;
    native_signals_use();
    random_state(f);
    u8 *x = f->n->in;
    vec_x87_init(x);
    put64(x + XS_FIP, 0x000abcde);
    put64(x + XS_FDP, 0x00054321);
    put16(x + XS_FOP, 0x5a5);
    load_guest(f);
    c->s.gpr[GPR_RBX] = NATIVE_RAM + WINDOW;
    c->mode_key &= ~KEY_PE;
    assert_int_equal(test_exec(c, (const u8 *)"\x66\xd9\x33", 3), 0);
    assert_int_equal(get16(window()), FCW_DEFAULT);
    assert_int_equal(get16(window() + 4), 0xffff);
    assert_int_equal(get16(window() + 6), 0xbcde);
    assert_int_equal(get16(window() + 8), 0xa5a5);
    assert_int_equal(get16(window() + 10), 0x4321);
    assert_int_equal(get16(window() + 12), 0x5000);
    assert_int_equal(test_exec(c, (const u8 *)"\x66\xd9\x23", 3), 0);
    assert_int_equal(get64(c->s.xsave + XS_FIP), 0xabcde);
    assert_int_equal(get16(c->s.xsave + XS_FOP), 0x5a5);
    assert_int_equal(test_exec(c, (const u8 *)"\xd9\x33", 2), 0);
    assert_int_equal(get16(window() + 12), 0xbcde);
    assert_int_equal(get32(window() + 16), 0xa5a5);
    assert_int_equal(get16(window() + 20), 0x4321);
    assert_int_equal(get32(window() + 24), 0x5000);
    assert_int_equal(test_exec(c, (const u8 *)"\xd9\x23", 2), 0);
    assert_int_equal(get64(c->s.xsave + XS_FDP), 0x54321);
    c->mode_key = key;
}

/* --- a full pool --------------------------------------------------------------------------------
 */

static void test_pool_full(void **state) {
    struct fixture *f = *state;
    static const u8 ops[] = {0xfc, 0xfd, 0xfe, 0xd4, 0xef, 0xeb, 0xdb, 0xdf, 0xf8,
                             0xf9, 0xfa, 0xfb, 0x74, 0x75, 0x76, 0x64, 0x65, 0x66};
    native_signals_use();
    random_state(f);
    load_guest(f);
    for (u32 n = 0; n < ARRAY_LEN(ops) * 4096; n++) { /* three registers each: 4096 stubs */
        u32 dst = n & 15, a = n >> 4 & 15, b = n >> 8 & 15;
        u8 code[] = {0xc4, (u8)(0x41 | (dst < 8) << 7 | (b < 8) << 5), (u8)(0x05 | (~a & 15) << 3),
                     ops[n >> 12], (u8)(0xc0 | (dst & 7) << 3 | (b & 7))};
        if (test_exec(f->c, code, 5)) {
            fail();
        }
    }
    for (u32 n = 0; n < 4000; n++) {
        u8 code[] = {0xc4, (u8)(0x42 | (rnd(f) & 0xa0)), (u8)((rnd(f) & 0xf8) | 1),
                     (u8)(0x98 + rnd(f) % 8), (u8)(0xc0 | rnd(f))};
        random_state(f);
        run_both(f, code, 5, false);
    }
    assert_int_equal(f->failures, 0);
}

/* --- set-up ------------------------------------------------------------------------------------
 */

static struct fixture *fixture_create(void) {
    struct fixture *f = calloc(1, sizeof(*f));
    f->n = native_setup(RAM_BYTES);
    if (!f->n) {
        fputs("cannot map the fixed addresses of the native runner\n", stderr);
        exit(1);
    }
    f->c = test_vcpu_create(RAM_BYTES);
    f->seed = 0x1234567;
    native_signals_keep();
    return f;
}

static int begin(void **state) {
    struct fixture *f = *state;
    f->forms = f->runs = f->faults = f->failures = 0;
    return 0;
}

#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, begin, NULL, f)

int main(void) {
    struct fixture *f = fixture_create();
    const struct CMUnitTest tests[] = {
        TEST(test_every_form),       TEST(test_every_vex_form), TEST(test_every_x87_form),
        TEST(test_unmasked_simd),    TEST(test_unmasked_x87),   TEST(test_other_modes),
        TEST(test_real_environment), TEST(test_pool_full),      TEST(test_environment),
        TEST(test_forbidden),        TEST(test_gather_restart),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_vcpu_destroy(f->c);
    native_teardown();
    free(f);
    return rc;
}
