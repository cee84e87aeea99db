/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers that the debugger sees, in the order of their numbers, and the target description
 * made from the same table (GDB manual, appendix G.5.17: i386 features). x87, SSE and AVX live in
 * the XSAVE image (SDM volume 1, section 13.4); a component that XSTATE_BV calls initial reads as
 * its initial value.
 */
#include "core/base/fmt.h"
#include "core/vm/gdbstub_int.h"

enum reg_kind {
    KIND_GPR,
    KIND_RIP,
    KIND_FLAGS,
    KIND_SEG,
    KIND_ST,
    KIND_X87, /* control words */
    KIND_XMM,
    KIND_MXCSR,
    KIND_ORIG_RAX,
    KIND_BASE, /* FS and GS base */
    KIND_YMMH,
    KIND_SYS,
};

/* A run of registers of one kind; index counts from 0 in the run. */
struct reg_run {
    u8 kind, count, size;
    const char *const *names; /* count of them, or NULL: */
    const char *prefix;       /* name is prefix and index */
    const char *type;
    const char *feature; /* begins a feature when not NULL */
};

static const char *const gpr_names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const u8 gpr_order[] = {GPR_RAX, GPR_RBX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI,
                               GPR_RBP, GPR_RSP, GPR_R8,  GPR_R9,  GPR_R10, GPR_R11,
                               GPR_R12, GPR_R13, GPR_R14, GPR_R15};
static const char *const rip_names[] = {"rip"};
static const char *const flags_names[] = {"eflags"};
static const char *const seg_names[] = {"cs", "ss", "ds", "es", "fs", "gs"};
static const u8 seg_order[] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};
static const char *const x87_names[] = {"fctrl", "fstat", "ftag",  "fiseg",
                                        "fioff", "foseg", "fooff", "fop"};
static const char *const mxcsr_names[] = {"mxcsr"};
static const char *const orig_names[] = {"orig_rax"};
static const char *const base_names[] = {"fs_base", "gs_base"};
static const char *const sys_names[] = {"k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer"};

static const struct reg_run runs[] = {
    {KIND_GPR, 16, 8, gpr_names, NULL, "int64", "org.gnu.gdb.i386.core"},
    {KIND_RIP, 1, 8, rip_names, NULL, "code_ptr", NULL},
    {KIND_FLAGS, 1, 4, flags_names, NULL, "i386_eflags", NULL},
    {KIND_SEG, 6, 4, seg_names, NULL, "int32", NULL},
    {KIND_ST, 8, 10, NULL, "st", "i387_ext", NULL},
    {KIND_X87, 8, 4, x87_names, NULL, "int", NULL},
    {KIND_XMM, 16, 16, NULL, "xmm", "vec128", "org.gnu.gdb.i386.sse"},
    {KIND_MXCSR, 1, 4, mxcsr_names, NULL, "i386_mxcsr", NULL},
    {KIND_ORIG_RAX, 1, 8, orig_names, NULL, "int64", "org.gnu.gdb.i386.linux"},
    {KIND_BASE, 2, 8, base_names, NULL, "int64", "org.gnu.gdb.i386.segments"},
    {KIND_YMMH, 16, 16, NULL, "ymm", "uint128", "org.gnu.gdb.i386.avx"},
    {KIND_SYS, 7, 8, sys_names, NULL, "int64", "org.sosia.x86.system"},
};

/* Offsets in the XSAVE image. */
enum {
    X_FCW = 0,
    X_FSW = 2,
    X_FTW = 4,
    X_FOP = 6,
    X_FIP = 8,
    X_FCS = 12,
    X_FDP = 16,
    X_FDS = 20,
    X_MXCSR = 24,
    X_ST = 32,
    X_XMM = 160,
    X_BV = 512,
    X_YMMH = 576,
    FCW_INIT = 0x37f,
};

static const struct reg_run *run_of(u32 reg, u32 *index) {
    for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
        if (reg < runs[i].count) {
            *index = reg;
            return &runs[i];
        }
        reg -= runs[i].count;
    }
    return NULL;
}

u32 gdb_reg_count(void) {
    u32 n = 0;
    for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
        n += runs[i].count;
    }
    return n;
}

u32 gdb_reg_size(u32 reg) {
    u32 index;
    const struct reg_run *run = run_of(reg, &index);
    return run ? run->size : 0;
}

/* --- x87 ---------------------------------------------------------------------------------------
 */

static u64 xstate_bv(const struct cpu_state *s) {
    u64 bv;
    memcpy(&bv, s->xsave + X_BV, sizeof(bv));
    return bv;
}

/* Makes a component's bytes real before one of them is written. */
static void materialise(struct cpu_state *s, u64 component) {
    u64 bv = xstate_bv(s);
    u16 fcw = FCW_INIT;
    if (bv & component) {
        return;
    }
    if (component == XCR0_X87) {
        memset(s->xsave, 0, X_MXCSR);
        memset(s->xsave + X_ST, 0, X_XMM - X_ST);
        memcpy(s->xsave + X_FCW, &fcw, sizeof(fcw));
    } else if (component == XCR0_SSE) {
        memset(s->xsave + X_XMM, 0, 256);
    } else {
        memset(s->xsave + X_YMMH, 0, 256);
    }
    bv |= component;
    memcpy(s->xsave + X_BV, &bv, sizeof(bv));
}

/* Two bits per physical register from the abridged tag and the values: SDM volume 1, 10.5.1.1. */
static u16 full_tags(const u8 *x) {
    u32 top = (x[X_FSW + 1] >> 3) & 7, tags = 0;
    for (u32 phys = 0; phys < 8; phys++) {
        const u8 *st = x + X_ST + 16 * ((phys - top) & 7);
        u64 mantissa;
        u16 exponent;
        u32 tag = 0;
        memcpy(&mantissa, st, 8);
        memcpy(&exponent, st + 8, 2);
        exponent &= 0x7fff;
        if (!(x[X_FTW] & BIT(phys))) {
            tag = 3;
        } else if (!exponent && !mantissa) {
            tag = 1;
        } else if (exponent == 0x7fff || !exponent || !(mantissa >> 63)) {
            tag = 2;
        }
        tags |= tag << (2 * phys);
    }
    return (u16)tags;
}

static u8 abridged_tags(u16 tags) {
    u8 out = 0;
    for (u32 i = 0; i < 8; i++) {
        if (((tags >> (2 * i)) & 3) != 3) {
            out |= (u8)BIT(i);
        }
    }
    return out;
}

static u32 x87_read(const struct cpu_state *s, u32 index) {
    static const u8 offsets[] = {X_FCW, X_FSW, X_FTW, X_FCS, X_FIP, X_FDS, X_FDP, X_FOP};
    const u8 *x = s->xsave;
    u32 wide;
    u16 v;
    if (!(xstate_bv(s) & XCR0_X87)) {
        return index == 0 ? FCW_INIT : index == 2 ? 0xffff : 0;
    }
    if (index == 2) {
        return full_tags(x);
    }
    if (index == 4 || index == 6) {
        memcpy(&wide, x + offsets[index], 4);
        return wide;
    }
    memcpy(&v, x + offsets[index], 2);
    return v;
}

static void x87_write(struct cpu_state *s, u32 index, u32 value) {
    static const u8 offsets[] = {X_FCW, X_FSW, X_FTW, X_FCS, X_FIP, X_FDS, X_FDP, X_FOP};
    materialise(s, XCR0_X87);
    if (index == 2) {
        s->xsave[X_FTW] = abridged_tags((u16)value);
    } else {
        memcpy(s->xsave + offsets[index], &value, index == 4 || index == 6 ? 4 : 2);
    }
}

/* --- reading and writing -----------------------------------------------------------------------
 */

static u64 *sys_reg(struct cpu_state *s, u32 index) {
    u64 *const regs[] = {
        &s->msr.kernel_gs_base, &s->cr0, &s->cr2, &s->cr3, &s->cr4, &s->cr8, &s->msr.efer};
    return regs[index];
}

static void vector_read(const struct cpu_state *s, u64 component, u32 offset, u32 size, u8 *buf) {
    if (xstate_bv(s) & component) {
        memcpy(buf, s->xsave + offset, size);
    } else {
        memset(buf, 0, size);
    }
}

static int vector_write(struct cpu_state *s, u64 component, u32 offset, u32 size, const u8 *buf) {
    materialise(s, component);
    memcpy(s->xsave + offset, buf, size);
    return STATE_XSAVE;
}

u32 gdb_reg_read(const struct cpu_state *s, u32 reg, u8 *buf) {
    u32 i = 0, v32;
    u64 v64 = 0;
    const struct reg_run *run = run_of(reg, &i);
    if (!run) {
        return 0;
    }
    switch (run->kind) {
    case KIND_GPR:
        v64 = s->gpr[gpr_order[i]];
        break;
    case KIND_RIP:
        v64 = s->rip;
        break;
    case KIND_FLAGS:
        v64 = s->rflags;
        break;
    case KIND_SEG:
        v64 = s->seg[seg_order[i]].sel;
        break;
    case KIND_X87:
        v64 = x87_read(s, i);
        break;
    case KIND_MXCSR:
        memcpy(&v32, s->xsave + X_MXCSR, 4);
        v64 = v32;
        break;
    case KIND_ORIG_RAX:
        v64 = UINT64_MAX;
        break;
    case KIND_BASE:
        v64 = s->seg[i ? SEG_GS : SEG_FS].base;
        break;
    case KIND_SYS:
        v64 = *sys_reg((struct cpu_state *)s, i);
        break;
    case KIND_ST:
        vector_read(s, XCR0_X87, X_ST + 16 * i, 10, buf);
        return run->size;
    case KIND_XMM:
        vector_read(s, XCR0_SSE, X_XMM + 16 * i, 16, buf);
        return run->size;
    default:
        vector_read(s, XCR0_AVX, X_YMMH + 16 * i, 16, buf);
        return run->size;
    }
    memcpy(buf, &v64, run->size);
    return run->size;
}

/* A selector alone says nothing about the segment outside real mode: only the same one goes. */
static int seg_write(struct cpu_state *s, u32 seg, u16 sel) {
    if (s->seg[seg].sel == sel) {
        return 0;
    }
    if ((s->cr0 & CR0_PE) && !(s->rflags & FLAG_VM)) {
        return -ERR_UNSUPPORTED;
    }
    s->seg[seg].sel = sel;
    s->seg[seg].base = (u64)sel << 4;
    return STATE_SREG;
}

static int sys_write(struct cpu_state *s, u32 index, u64 value) {
    *sys_reg(s, index) = value;
    return index == 0 ? STATE_MSR : STATE_SREG;
}

int gdb_reg_write(struct cpu_state *s, u32 reg, const u8 *buf) {
    u32 i = 0;
    u64 v = 0;
    const struct reg_run *run = run_of(reg, &i);
    if (!run) {
        return -ERR_INVAL;
    }
    memcpy(&v, buf, MIN(run->size, 8u));
    switch (run->kind) {
    case KIND_GPR:
        s->gpr[gpr_order[i]] = v;
        return STATE_GPR;
    case KIND_RIP:
        s->rip = v;
        return STATE_GPR;
    case KIND_FLAGS:
        s->rflags = v | BIT(1);
        return STATE_GPR;
    case KIND_SEG:
        return seg_write(s, seg_order[i], (u16)v);
    case KIND_X87:
        x87_write(s, i, (u32)v);
        return STATE_XSAVE;
    case KIND_MXCSR:
        v &= 0xffff;
        memcpy(s->xsave + X_MXCSR, &v, 4);
        return STATE_XSAVE;
    case KIND_ORIG_RAX:
        return 0;
    case KIND_BASE:
        s->seg[i ? SEG_GS : SEG_FS].base = v;
        return STATE_SREG;
    case KIND_SYS:
        return sys_write(s, i, v);
    case KIND_ST:
        return vector_write(s, XCR0_X87, X_ST + 16 * i, 10, buf);
    case KIND_XMM:
        return vector_write(s, XCR0_SSE, X_XMM + 16 * i, 16, buf);
    default:
        return s->xcr0 & XCR0_AVX ? vector_write(s, XCR0_AVX, X_YMMH + 16 * i, 16, buf)
                                  : -ERR_UNSUPPORTED;
    }
}

/* --- target description ------------------------------------------------------------------------
 */

static const char types_core[] =
    "<flags id=\"i386_eflags\" size=\"4\">"
    "<field name=\"\" start=\"22\" end=\"31\"/><field name=\"ID\" start=\"21\" end=\"21\"/>"
    "<field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"VIF\" start=\"19\" end=\"19\"/>"
    "<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
    "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
    "<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
    "<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
    "<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
    "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
    "<field name=\"CF\" start=\"0\" end=\"0\"/></flags>";

static const char types_sse[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\">"
    "<field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
    "<field name=\"uint128\" type=\"uint128\"/></union>"
    "<flags id=\"i386_mxcsr\" size=\"4\">"
    "<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>"
    "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>"
    "<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>"
    "<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>"
    "<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>"
    "<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>"
    "<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/>"
    "</flags>";

struct text {
    char *buf;
    size_t size, len;
};

static void append(struct text *t, const char *s) {
    size_t n = str_len(s);
    if (n < t->size - t->len) {
        memcpy(t->buf + t->len, s, n + 1);
        t->len += n;
    }
}

static void append_reg(struct text *t, const struct reg_run *run, u32 i) {
    char name[16], line[128];
    if (run->names) {
        str_copy(name, sizeof(name), run->names[i]);
    } else {
        fmt_str(name, sizeof(name), "%s%u%s", run->prefix, i, run->kind == KIND_YMMH ? "h" : "");
    }
    fmt_str(line, sizeof(line), "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>", name,
            run->size * 8u, run->type);
    append(t, line);
}

static void open_feature(struct text *t, const struct reg_run *run, bool first) {
    append(t, first ? "<feature name=\"" : "</feature><feature name=\"");
    append(t, run->feature);
    append(t, "\">");
    if (run->kind == KIND_GPR) {
        append(t, types_core);
    } else if (run->kind == KIND_XMM) {
        append(t, types_sse);
    }
}

size_t gdb_target_xml(char *buf, size_t size) {
    struct text t = {.buf = buf, .size = size};
    append(&t, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
               "<target><architecture>i386:x86-64</architecture>");
    for (size_t r = 0; r < ARRAY_LEN(runs); r++) {
        if (runs[r].feature) {
            open_feature(&t, &runs[r], r == 0);
        }
        for (u32 i = 0; i < runs[r].count; i++) {
            append_reg(&t, &runs[r], i);
        }
    }
    append(&t, "</feature></target>");
    return t.len;
}
