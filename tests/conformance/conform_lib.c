/* SPDX-License-Identifier: Apache-2.0 */
/* What both sides of the comparison build from a case: segments, code bytes, memory. */
#include <string.h>

#include "tests/conformance/conform.h"

const struct cf_ldt cf_ldt[CF_LDT_ENTRIES] = {
    {.base = CF_CODE, .limit = CF_LIMIT, .contents = 2, .wide = true},
    {.base = CF_RAM, .limit = CF_DATA_LIMIT, .wide = true},
    {.base = CF_CODE, .limit = CF_LIMIT, .contents = 2},
    {.base = CF_RAM, .limit = CF_DATA_LIMIT},
    {.base = CF_RAM, .limit = CF_DATA_LIMIT, .wide = true, .read_exec_only = true},
    {.base = CF_RAM, .limit = 0xfff, .contents = 1, .wide = true},
    {.base = CF_CODE, .limit = CF_LIMIT, .contents = 2, .wide = true, .read_exec_only = true},
    {.base = CF_RAM, .limit = CF_DATA_LIMIT, .wide = true, .not_present = true},
};

const struct cf_view cf_view[CF_SIDES] = {
    [CF_64] = {"64", 64, false, CF_SEL_CS64, CF_SEL_DS},
    [CF_32] = {"32", 32, false, CF_SEL_CS32, CF_SEL_DS},
    [CF_32_LDT] = {"32ldt", 32, true, CF_SEL_LDT_CS32, CF_SEL_LDT_DS32},
    [CF_16] = {"16", 16, true, CF_SEL_LDT_CS16, CF_SEL_LDT_DS16},
};

u64 cf_random(u64 *s) {
    u64 z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

void cf_ram_fill(u8 *ram, u64 seed) {
    u64 s = seed;
    for (u32 i = 0; i < CF_RAM_BYTES; i += 8) {
        u64 v = seed ? cf_random(&s) : 0;
        if (i >= CF_RAM_WRITABLE) { /* as a 16-bit return address: beyond the limit */
            v |= seed ? 0x8080808080808080 : 0;
        }
        memcpy(ram + i, &v, 8);
    }
}

static u32 put_exit(const struct cf_case *t, u8 *p) {
    u64 here = CF_CODE + t->entry + t->len;
    u32 at = (u32)CF_EXIT, n = 0;
    u16 sel = CF_SEL_CS64;
    if (cf_view[t->side].bits == 64) {
        u32 rel = (u32)(CF_EXIT - here - 5);
        p[0] = 0xe9;
        memcpy(p + 1, &rel, 4);
        return 5;
    }
    if (cf_view[t->side].bits == 16) {
        p[n++] = 0x66;
    }
    p[n++] = 0xea;
    memcpy(p + n, &at, 4);
    memcpy(p + n + 4, &sel, 2);
    return n + 6;
}

u32 cf_code_bytes(const struct cf_case *t, u8 *out) {
    bool slot = t->entry < CF_SLOTS * CF_SLOT;
    memset(out, 0xcc, CF_SLOT);
    memcpy(out, t->code, t->len);
    u32 n = t->len + put_exit(t, out + t->len);
    return slot ? CF_SLOT : MIN(n, CF_CODE_BYTES - t->entry);
}

u32 cf_ram_diff(u8 *ram, const u8 *base, struct cf_diff *diff) {
    u32 n = 0;
    for (u32 line = 0; line < CF_RAM_WRITABLE; line += 64) {
        if (!memcmp(ram + line, base + line, 64)) {
            continue;
        }
        for (u32 at = line; at < line + 64; at += 8) {
            u64 now, was;
            memcpy(&now, ram + at, 8);
            memcpy(&was, base + at, 8);
            if (now != was && n < CF_DIFFS) {
                diff[n] = (struct cf_diff){.at = at, .value = now};
            }
            n += now != was;
        }
        memcpy(ram + line, base + line, 64);
    }
    return n;
}

void cf_xsave_canonical(u8 *x, u64 bv) {
    if (!(bv & 1)) {
        memset(x, 0, CF_MXCSR);
        memset(x + CF_ST, 0, CF_XMM - CF_ST);
        x[CF_FCW] = 0x7f;
        x[CF_FCW + 1] = 3;
    }
    if (!(bv & 2)) {
        memset(x + CF_XMM, 0, 256);
    }
    if (!(bv & 4)) {
        memset(x + CF_YMMH, 0, 256);
    }
}
