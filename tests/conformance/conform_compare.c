/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must agree between the processor and the engine, and what need not, each with its reason
 * (docs/fidelity.md has the list).
 */
#include <stdio.h>
#include <string.h>

#include "tests/conformance/conform.h"

struct comparison {
    const struct cf_case *t;
    const struct cf_result *want, *got;
    char *what;
    bool translated;
    struct insn insn; /* where it stopped; INSN_INVALID at CF_EXIT */
};

static bool differ(const struct comparison *k, const char *what, u64 want, u64 got) {
    snprintf(k->what, CF_WHAT, "%s%s: processor %llx, engine %llx",
             k->translated ? "translated " : "", what, (unsigned long long)want,
             (unsigned long long)got);
    return true;
}

/* The instruction that faulted. */
static void find_insn(struct comparison *k) {
    const struct cf_view *v = &cf_view[k->t->side];
    u64 at = k->want->rip - (v->ldt ? 0 : CF_CODE) - k->t->entry;
    u8 bytes[CF_SLOT + 16] = {0};
    k->insn.id = INSN_INVALID;
    k->insn.flags = 0;
    if (at < k->t->len) {
        memcpy(bytes, k->t->code, k->t->len);
        if (insn_decode(&k->insn, bytes + at, 15, v->bits) != DECODE_OK) {
            k->insn = (struct insn){.id = INSN_INVALID};
        }
    }
}

/* --- what need not agree -----------------------------------------------------------------------
 */

static bool faulted(const struct comparison *k) {
    return k->want->vector != EXC_BP || k->want->rip != CF_EXIT + 1;
}

/* Several loads or stores, or masked ones: how far the processor gets before the fault is its own
 * affair, and which part it touches first. */
static bool in_parts(const struct comparison *k) {
    switch (k->insn.id) {
    case INSN_PUSHA:
    case INSN_POPA:
    case INSN_ENTER:
    case INSN_FNSAVE:
    case INSN_FNSTENV:
    case INSN_FRSTOR:
    case INSN_FLDENV:
    case INSN_FXSAVE:
    case INSN_FXSAVE64:
    case INSN_FXRSTOR:
    case INSN_FXRSTOR64:
    case INSN_FBSTP:
    case INSN_FSTP:
    case INSN_FLD:
    case INSN_FBLD:
    case INSN_IRET:
    case INSN_RET_FAR:
    case INSN_CALL_FAR:
    case INSN_MASKMOVDQU:
    case INSN_VMASKMOVDQU:
    case INSN_VMASKMOVPS:
    case INSN_VMASKMOVPD:
    case INSN_VPMASKMOVD:
    case INSN_VPMASKMOVQ:
        return faulted(k);
    default:
        return false;
    }
}

/* Control went to the code of other cases, which the two sides may not have in the same state. */
static bool strayed(const struct comparison *k) {
    u64 at = k->want->rip - (k->want->sel[SEG_CS] & 4 ? 0 : CF_CODE);
    u64 slot = k->t->entry & ~(CF_SLOT - 1u);
    return at < CF_CODE_BYTES && at - slot > CF_SLOT;
}

/* Control came to the page CF_EXIT by another door than the one each case has: in compatibility
 * mode, as when IRETQ leads to a jump there, or to its middle. Natively the code that saves the
 * state then runs as other instructions; the guest cannot execute that page. */
static bool left_wrongly(const struct comparison *k) {
    const struct cf_result *w = k->want, *g = k->got;
    if (w->vector != EXC_BP && w->sel[SEG_CS] != CF_SEL_CS64) {
        return w->rip - CF_EXIT < 4096;
    }
    return g->vector == EXC_PF && g->cr2 == g->rip && g->rip - CF_EXIT - 1 < 4095;
}

/* Has the case a far transfer? It may have gone through compatibility mode and come back. */
static bool goes_far(const struct cf_case *t) {
    for (u32 n = 0; n < t->insns; n++) {
        struct insn i;
        u8 bytes[CF_BODY + 16] = {0};
        memcpy(bytes, t->code, t->len);
        bool ok = insn_decode(&i, bytes + t->at[n], 15, cf_view[t->side].bits) == DECODE_OK;
        if (ok && (i.id == INSN_JMP_FAR || i.id == INSN_CALL_FAR || i.id == INSN_RET_FAR ||
                   i.id == INSN_IRET)) {
            return true;
        }
    }
    return false;
}

/* Both faults are due; the manual leaves their order open. */
static bool either_fault(const struct comparison *k) {
    u32 w = k->want->vector, g = k->got->vector;
    /* the host forbids locks over the end of a cache line (split_lock_detect=fatal) */
    bool locks = (k->insn.prefixes & PREFIX_LOCK) || k->insn.id == INSN_XCHG;
    if (w == EXC_AC && locks && !(k->want->flags & FLAG_AC)) {
        return true;
    }
    if (k->want->rip != k->got->rip) {
        return false;
    }
    if (in_parts(k)) {
        return w != EXC_BP && g != EXC_BP;
    }
    /* an unaligned SSE operand beyond the limit of SS */
    if (w == EXC_GP && g == EXC_SS && (k->insn.flags & (INSN_SSE | INSN_AVX))) {
        return true;
    }
    /* CMPS and POP have two operands; so have MMX instructions: memory, and the x87 unit's state */
    bool mf = w == EXC_MF || g == EXC_MF;
    bool two = k->insn.id == INSN_CMPS || k->insn.id == INSN_POP;
    if (two || (mf && (k->insn.flags & INSN_MMX))) {
        return w != EXC_BP && g != EXC_BP;
    }
    /* an undefined instruction of more than 15 bytes: who knows where it ends */
    if (k->insn.id == INSN_INVALID && w == EXC_GP && g == EXC_UD && k->t->len >= 12) {
        return true;
    }
    /* an undefined instruction that goes on behind the end of the page or segment */
    u64 end = CF_CODE + CF_CODE_BYTES;
    if (k->insn.id == INSN_INVALID && g == EXC_UD &&
        ((w == EXC_PF && k->want->cr2 == end) || w == EXC_GP)) {
        return k->t->entry >= CF_CODE_BYTES - 16u;
    }
    return false;
}

/* The upper half belongs to the host's kernel: whether something is there is not ours to know. */
static u32 error_mask(const struct comparison *k) {
    return k->want->vector == EXC_PF && k->want->cr2 >= 0x7ffffffff000 ? ~(u32)PF_P : ~0u;
}

/* docs/soft-engine.md: a frame may show other arithmetic flags that the code was about to write. */
static u64 flags_mask(const struct comparison *k) {
    u64 mask = FLAG_DF | FLAG_TF | FLAG_AC | FLAG_ID | FLAG_NT | FLAG_IOPL | FLAG_IF;
    return k->translated && faulted(k) ? mask : mask | FLAG_ARITH;
}

/* An MMX instruction may have reset TOP before its operand faults. */
static bool vague_x87(const struct comparison *k) {
    return k->want->vector != EXC_BP && (k->insn.flags & INSN_MMX);
}

/* The bytes of two registers from `from` on; register 16: none. */
struct vague {
    u32 dst, mask, from;
};

/* A gather that faults has done all elements below the faulting one; those above, and what lies
 * above the vector, are the processor's choice (SDM volume 2, VPGATHERDD). */
static struct vague vague_gather(const struct comparison *k) {
    const struct insn *i = &k->insn;
    struct vague v = {16, 16, 32};
    if (!faulted(k) || !i->mem.vsib) {
        return v;
    }
    u32 size = i->rex & 8 ? 8 : 4;
    v.dst = (i->modrm >> 3 & 7) | (i->rex & 4u) << 1;
    v.mask = i->vex_v & 15;
    for (v.from = 0; v.from < 32; v.from += size) {
        u32 top = v.from + size - 1, high = top >= 16 ? CF_YMMH - 16 : CF_XMM;
        if (k->want->xsave[high + 16 * v.mask + top] >> 7) {
            break;
        }
    }
    return v;
}

/* Is byte `at` of the image in there? */
static bool is_vague(const struct vague *v, u32 at) {
    bool high = at >= CF_YMMH;
    if (at < CF_XMM || v->dst > 15) {
        return false;
    }
    u32 n = (at - (high ? CF_YMMH : CF_XMM)) / 16, byte = at % 16 + (high ? 16 : 0);
    return (n == v->dst || n == v->mask) && byte >= v->from;
}

static u64 vague_word(const struct vague *v, u32 at) {
    u64 mask = UINT64_MAX;
    for (u32 n = 0; n < 8; n++) {
        mask &= is_vague(v, at + n) ? ~(0xffull << 8 * n) : UINT64_MAX;
    }
    return mask;
}

/* --- comparison --------------------------------------------------------------------------------
 */

static bool compare_fault(const struct comparison *k) {
    const struct cf_result *w = k->want, *g = k->got;
    if (w->vector != g->vector) {
        return differ(k, "vector", w->vector, g->vector);
    }
    if (w->rip != g->rip) {
        return differ(k, "rip", w->rip, g->rip);
    }
    bool error = w->vector == 8 || (w->vector >= 10 && w->vector <= 14);
    if (error && !in_parts(k) && ((w->error ^ g->error) & error_mask(k))) {
        return differ(k, "error code", w->error, g->error);
    }
    if (w->vector == EXC_PF && w->cr2 != g->cr2 && !in_parts(k)) {
        return differ(k, "cr2", w->cr2, g->cr2);
    }
    return false;
}

/* LSL of the entry whose limit is the number of the processor that the child happens to run on. */
static bool is_cpu_number(const struct comparison *k, u32 reg) {
    struct insn i;
    u8 bytes[CF_BODY + 16] = {0};
    memcpy(bytes, k->t->code, k->t->len);
    u32 at = k->t->at[k->t->insns - 1];
    return insn_decode(&i, bytes + at, 15, cf_view[k->t->side].bits) == DECODE_OK &&
           i.id == INSN_LSL && reg == ((i.modrm >> 3 & 7) | (i.rex & 4u) << 1) &&
           (k->got->flags & FLAG_ZF) && (k->got->gpr[reg] & 0xffff) == 0;
}

static bool compare_registers(const struct comparison *k) {
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const struct cf_result *w = k->want, *g = k->got;
    bool wide = cf_view[k->t->side].bits == 64;
    bool upper = wide && w->sel[SEG_CS] == CF_SEL_CS64 && !goes_far(k->t);
    char name[16];
    for (u32 i = 0; i < (wide ? 16u : 8u) && !in_parts(k); i++) {
        /* who leaves 64-bit mode has no upper halves to rely on */
        u64 mask = upper ? UINT64_MAX : UINT32_MAX;
        if (((w->gpr[i] ^ g->gpr[i]) & mask) && !is_cpu_number(k, i)) {
            snprintf(name, sizeof(name), "gpr %u", i);
            return differ(k, name, w->gpr[i] & mask, g->gpr[i] & mask);
        }
    }
    u64 mask = flags_mask(k);
    if ((w->flags ^ g->flags) & mask) {
        return differ(k, "flags", w->flags & mask, g->flags & mask);
    }
    for (u32 i = 0; i < SEG_COUNT; i++) {
        /* Linux returns by IRET, which makes null selectors 0: behind a fault, and behind any
         * interrupt */
        bool null = !(w->sel[i] & ~3) && !(g->sel[i] & ~3) && (faulted(k) || w->sel[i] == 0);
        if (w->sel[i] != g->sel[i] && !(null && i != SEG_CS && i != SEG_SS)) {
            return differ(k, seg[i], w->sel[i], g->sel[i]);
        }
    }
    if (wide && w->fs_base != g->fs_base) {
        return differ(k, "fs base", w->fs_base, g->fs_base);
    }
    return wide && w->gs_base != g->gs_base && differ(k, "gs base", w->gs_base, g->gs_base);
}

static bool compare_xsave(const struct comparison *k) {
    const u8 *w = k->want->xsave, *g = k->got->xsave;
    struct vague vague = vague_gather(k);
    for (u32 i = 0; i < CF_XSAVE; i += 8) {
        u64 a, b, mask = i == CF_MXCSR ? UINT32_MAX : UINT64_MAX;
        bool x87 = i < CF_FIP || (i >= CF_ST && i < CF_XMM);
        if ((i >= CF_LEGACY && i < CF_YMMH) || (x87 && vague_x87(k))) {
            continue;
        }
        memcpy(&a, w + i, 8);
        memcpy(&b, g + i, 8);
        u64 off = (a ^ b) & mask;
        if (off && (off & vague_word(&vague, i))) {
            char name[24];
            snprintf(name, sizeof(name), "xsave+%u", i);
            return differ(k, name, a & mask, b & mask);
        }
    }
    return false;
}

static bool compare_memory(const struct comparison *k) {
    const struct cf_result *w = k->want, *g = k->got;
    char name[24];
    u32 n = MIN(MIN(w->diffs, g->diffs), (u32)CF_DIFFS);
    for (u32 i = 0; i < n; i++) {
        if (w->diff[i].at != g->diff[i].at) {
            snprintf(name, sizeof(name), "memory changed at");
            return differ(k, name, w->diff[i].at, g->diff[i].at);
        }
        if (w->diff[i].value != g->diff[i].value) {
            snprintf(name, sizeof(name), "memory+%x", w->diff[i].at);
            return differ(k, name, w->diff[i].value, g->diff[i].value);
        }
    }
    return w->diffs != g->diffs && differ(k, "words of memory changed", w->diffs, g->diffs);
}

/* Nearly always; what is below takes its time. */
static bool same(const struct cf_result *w, const struct cf_result *g) {
    return w->vector == g->vector && w->error == g->error && w->cr2 == g->cr2 && w->rip == g->rip &&
           !((w->flags ^ g->flags) & ~(u64)FLAG_RF) && w->fs_base == g->fs_base &&
           w->gs_base == g->gs_base && w->diffs == g->diffs &&
           !memcmp(w->gpr, g->gpr, sizeof(w->gpr)) && !memcmp(w->sel, g->sel, sizeof(w->sel)) &&
           !memcmp(w->diff, g->diff, MIN(w->diffs, (u32)CF_DIFFS) * sizeof(w->diff[0])) &&
           !memcmp(w->xsave, g->xsave, CF_LEGACY) &&
           !memcmp(w->xsave + CF_YMMH, g->xsave + CF_YMMH, 256);
}

bool cf_compare(const struct cf_case *t, const struct cf_result *want, const struct cf_result *got,
                bool translated, char *what) {
    struct comparison k = {t, want, got, what, translated, {0}};
    if (same(want, got)) {
        return false;
    }
    find_insn(&k);
    if (strayed(&k) || left_wrongly(&k) || (want->vector != got->vector && either_fault(&k))) {
        return false;
    }
    return compare_fault(&k) || compare_registers(&k) || compare_xsave(&k) ||
           (!in_parts(&k) && compare_memory(&k));
}

bool cf_lost_explained(const struct cf_loss *loss, const struct cf_result *got) {
    u16 cs = got->sel[SEG_CS];
    bool erratum = got->vector == EXC_PF && got->cr2 >> 32 && (cs == CF_SEL_CS32 || (cs & 4));
    bool not_split = got->vector == EXC_AC && !(got->flags & FLAG_AC);
    return loss->hung && (erratum || not_split || got->vector == CF_ENDLESS);
}
