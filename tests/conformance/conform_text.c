/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A case as one line, the form of the regression corpus (conform.txt):
 *
 *   64 0fc8+c5f877 rax=7f fl=202 mx=1fa0 x5=HEX at=400 mem=HEX seed=1 # disassembly
 *
 * Instructions are joined by +. What is not named has its default: registers 0, RFLAGS 202, the x87
 * and SSE units as after FNINIT and LDMXCSR 1f80, segments those of the side, CF_RAM zeros.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/conform.h"

static const char *const gpr_name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_name[] = {"es", "cs", "ss", "ds", "fs", "gs"};

static bool is_zero(const u8 *p, u32 n) {
    for (u32 i = 0; i < n; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

static void defaults(struct cf_case *t, u8 side) {
    static const u8 mxcsr[] = {0x80, 0x1f};
    memset(t, 0, sizeof(*t));
    t->side = side;
    t->flags = 0x202;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        t->sel[i] = i >= SEG_FS ? 0 : cf_view[side].data;
    }
    t->sel[SEG_CS] = cf_view[side].cs;
    t->xsave[CF_FCW] = 0x7f;
    t->xsave[CF_FCW + 1] = 3;
    memcpy(t->xsave + CF_MXCSR, mxcsr, 2);
}

/* --- writing -----------------------------------------------------------------------------------
 */

struct out {
    char *p;
    size_t left;
};

__attribute__((format(printf, 2, 3))) static void put(struct out *o, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(o->p, o->left, format, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < o->left) {
        o->p += n;
        o->left -= (size_t)n;
    }
}

static void put_hex(struct out *o, const u8 *p, u32 n) {
    for (u32 i = 0; i < n; i++) {
        put(o, "%02x", p[i]);
    }
}

static void put_bytes(struct out *o, const char *name, u32 index, const u8 *p, u32 n) {
    if (!is_zero(p, n)) {
        put(o, " %s%u=", name, index);
        put_hex(o, p, n);
    }
}

static void put_xsave(struct out *o, const u8 *x) {
    static const u8 usual[CF_ST] = {0x7f, 3, [CF_MXCSR] = 0x80, [CF_MXCSR + 1] = 0x1f};
    if (memcmp(x, usual, 28)) {
        put(o, " fpu=");
        put_hex(o, x, 28);
    }
    for (u32 i = 0; i < 8; i++) {
        put_bytes(o, "st", i, x + CF_ST + 16 * i, 10);
    }
    for (u32 i = 0; i < 16; i++) {
        put_bytes(o, "x", i, x + CF_XMM + 16 * i, 16);
        put_bytes(o, "y", i, x + CF_YMMH + 16 * i, 16);
    }
}

void cf_disassemble(const struct cf_case *t, char *text) {
    struct out o = {text, CF_LINE};
    u8 bytes[CF_BODY + 16] = {0};
    memcpy(bytes, t->code, t->len);
    *text = 0;
    for (u32 i = 0; i < t->insns; i++) {
        struct insn insn;
        char one[160];
        bool ok = insn_decode(&insn, bytes + t->at[i], 15, cf_view[t->side].bits) == DECODE_OK;
        if (ok) {
            insn_format(&insn, (cf_view[t->side].ldt ? 0 : CF_CODE) + t->entry + t->at[i], one,
                        sizeof(one));
        }
        put(&o, "%s%s", i ? "; " : "", ok ? one : "undefined");
    }
}

void cf_format(const struct cf_case *t, char *line) {
    struct out o = {line, CF_LINE};
    struct cf_case d;
    defaults(&d, t->side);
    put(&o, "%s ", cf_view[t->side].name);
    for (u32 i = 0; i < t->insns; i++) {
        u32 end = i + 1 < t->insns ? t->at[i + 1] : t->len;
        put(&o, "%s", i ? "+" : "");
        put_hex(&o, t->code + t->at[i], end - t->at[i]);
    }
    put(&o, " entry=%x", t->entry);
    for (u32 i = 0; i < 16; i++) {
        if (t->gpr[i]) {
            put(&o, " %s=%llx", gpr_name[i], (unsigned long long)t->gpr[i]);
        }
    }
    if (t->flags != 0x202) {
        put(&o, " fl=%llx", (unsigned long long)t->flags);
    }
    for (u32 i = 0; i < SEG_COUNT; i++) {
        if (t->sel[i] != d.sel[i]) {
            put(&o, " %s=%x", seg_name[i], t->sel[i]);
        }
    }
    if (t->fs_base) {
        put(&o, " fsbase=%llx", (unsigned long long)t->fs_base);
    }
    if (t->gs_base) {
        put(&o, " gsbase=%llx", (unsigned long long)t->gs_base);
    }
    put_xsave(&o, t->xsave);
    if (t->patch_at || !is_zero(t->patch, CF_PATCH)) {
        put(&o, " at=%x", t->patch_at);
        if (!is_zero(t->patch, CF_PATCH)) {
            put(&o, " mem=");
            put_hex(&o, t->patch, CF_PATCH);
        }
    }
    if (t->ram_seed) {
        put(&o, " seed=%llx", (unsigned long long)t->ram_seed);
    }
}

/* --- reading -----------------------------------------------------------------------------------
 */

static u32 digit(char c) {
    return (u32)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

/* Returns the bytes read, at most max. */
static u32 read_hex(const char **p, u8 *to, u32 max) {
    u32 n = 0;
    while (n < max && isxdigit((*p)[0]) && isxdigit((*p)[1])) {
        to[n++] = (u8)(digit((*p)[0]) << 4 | digit((*p)[1]));
        *p += 2;
    }
    return n;
}

static bool read_code(struct cf_case *t, const char **p) {
    do {
        if (t->insns == CF_INSNS) {
            return false;
        }
        *p += **p == '+';
        t->at[t->insns++] = t->len;
        u32 n = read_hex(p, t->code + t->len, (u32)(CF_BODY - t->len));
        t->len = (u8)(t->len + n);
        if (!n) {
            return false;
        }
    } while (**p == '+');
    return true;
}

/* st0=, x5=, y15=: where in the image, or NULL. */
static u8 *vector_place(struct cf_case *t, const char *name, size_t len, u32 *size) {
    char *end;
    u32 skip = !strncmp(name, "st", 2) ? 2 : 1;
    u32 n = (u32)strtoul(name + skip, &end, 10);
    if (end != name + len || n >= (skip == 2 ? 8u : 16u)) {
        return NULL;
    }
    *size = skip == 2 ? 10 : 16;
    return t->xsave + (skip == 2 ? CF_ST : *name == 'x' ? CF_XMM : CF_YMMH) + 16 * n;
}

static u64 *number_place(struct cf_case *t, const char *name, size_t len) {
    struct {
        const char *name;
        u64 *to;
    } fields[] = {
        {"fl", &t->flags},
        {"fsbase", &t->fs_base},
        {"gsbase", &t->gs_base},
        {"seed", &t->ram_seed},
    };
    for (u32 i = 0; i < 16; i++) {
        if (strlen(gpr_name[i]) == len && !memcmp(gpr_name[i], name, len)) {
            return &t->gpr[i];
        }
    }
    for (u32 i = 0; i < ARRAY_LEN(fields); i++) {
        if (strlen(fields[i].name) == len && !memcmp(fields[i].name, name, len)) {
            return fields[i].to;
        }
    }
    return NULL;
}

static bool read_field(struct cf_case *t, const char **p) {
    const char *name = *p, *equals = strchr(name, '=');
    u32 size = 0;
    if (!equals) {
        return false;
    }
    size_t len = (size_t)(equals - name);
    const char *v = equals + 1;
    u64 *number = number_place(t, name, len);
    u64 value = strtoull(v, NULL, 16);
    if (number) {
        *number = value;
    } else if (len == 5 && !memcmp(name, "entry", 5)) {
        t->entry = (u32)value % CF_CODE_BYTES;
    } else if (len == 2 && !memcmp(name, "at", 2)) {
        t->patch_at = (u32)value % (CF_RAM_WRITABLE - CF_PATCH + 1);
    } else if (len == 3 && !memcmp(name, "fpu", 3)) {
        read_hex(&v, t->xsave, 28);
    } else if (len == 3 && !memcmp(name, "mem", 3)) {
        read_hex(&v, t->patch, CF_PATCH);
    } else if (len == 2 && name[1] == 's') {
        for (u32 i = 0; i < SEG_COUNT; i++) {
            if (!memcmp(name, seg_name[i], 2)) {
                t->sel[i] = (u16)value;
            }
        }
    } else {
        u8 *to = vector_place(t, name, len, &size);
        if (!to) {
            return false;
        }
        read_hex(&v, to, size);
    }
    *p = equals + 1 + strcspn(equals + 1, " \n");
    return true;
}

bool cf_parse(struct cf_case *t, const char *line) {
    u32 side = 0;
    size_t len = strcspn(line, " \n");
    while (side < CF_SIDES &&
           (strlen(cf_view[side].name) != len || memcmp(cf_view[side].name, line, len))) {
        side++;
    }
    if (side == CF_SIDES || line[len] != ' ') {
        return false;
    }
    defaults(t, (u8)side);
    const char *p = line + len + 1;
    if (!read_code(t, &p)) {
        return false;
    }
    for (;;) {
        p += strspn(p, " ");
        if (*p == 0 || *p == '\n' || *p == '#') {
            return true;
        }
        if (!read_field(t, &p)) {
            return false;
        }
    }
}
