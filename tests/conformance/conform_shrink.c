/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a failing case smaller: whatever can have its default and still fail gets it. */
#include <stdio.h>
#include <string.h>

#include "tests/conformance/conform.h"

bool cf_run_one(struct cf_run *run, const struct cf_case *t, char *what) {
    static struct cf_result got;
    struct cf_batch *b = cf_native_batch(run->native, 0);
    b->count = 1;
    b->t[0] = *t;
    cf_native_start(run->native, 0);
    cf_native_wait(run->native);
    struct cf_guest *side[] = {run->interp, run->trans};
    for (u32 i = 0; i < 2; i++) {
        if (!side[i]) {
            continue;
        }
        cf_guest_load(side[i], t, 1);
        cf_guest_run(side[i], t, &got);
        if (b->lost[0].lost) {
            snprintf(what, CF_WHAT, "lost: %s, status %x, signal %u",
                     b->lost[0].hung ? "hung" : "died", b->lost[0].status, b->lost[0].signal);
            return !cf_lost_explained(&b->lost[0], &got);
        }
        if (cf_compare(t, &b->r[0], &got, i == 1, what)) {
            return true;
        }
    }
    return false;
}

static void try_bytes(struct cf_run *run, struct cf_case *t, void *field, const void *to,
                      u32 size) {
    u8 old[512];
    char what[CF_WHAT];
    if (!memcmp(field, to, size)) {
        return;
    }
    memcpy(old, field, size);
    memcpy(field, to, size);
    if (!cf_run_one(run, t, what)) {
        memcpy(field, old, size);
    }
}

static void try_drop(struct cf_run *run, struct cf_case *t, u32 n) {
    struct cf_case old = *t;
    char what[CF_WHAT];
    u32 end = n + 1 < t->insns ? t->at[n + 1] : t->len, size = end - t->at[n];
    memmove(t->code + t->at[n], t->code + end, (u32)(t->len - end));
    t->len = (u8)(t->len - size);
    t->insns--;
    for (u32 i = n; i < t->insns; i++) {
        t->at[i] = (u8)(old.at[i + 1] - size);
    }
    if (!cf_run_one(run, t, what)) {
        *t = old;
    }
}

void cf_shrink(struct cf_run *run, struct cf_case *t) {
    static const u8 zero[256], fpu[CF_ST] = {0x7f, 3, [CF_MXCSR] = 0x80, [CF_MXCSR + 1] = 0x1f};
    const u64 flags = 0x202;
    for (u32 n = t->insns; n-- > 0 && t->insns > 1;) {
        try_drop(run, t, n);
    }
    try_bytes(run, t, t->xsave + CF_XMM, zero, 256);
    try_bytes(run, t, t->xsave + CF_YMMH, zero, 256);
    try_bytes(run, t, t->xsave + CF_ST, zero, 128);
    try_bytes(run, t, t->xsave, fpu, CF_MXCSR);
    try_bytes(run, t, t->xsave + CF_MXCSR, fpu + CF_MXCSR, 4);
    for (u32 i = 0; i < 16; i++) {
        try_bytes(run, t, t->xsave + CF_XMM + 16 * i, zero, 16);
        try_bytes(run, t, t->xsave + CF_YMMH + 16 * i, zero, 16);
        if (i < 8) {
            try_bytes(run, t, t->xsave + CF_ST + 16 * i, zero, 16);
        }
        try_bytes(run, t, &t->gpr[i], zero, 8);
    }
    try_bytes(run, t, &t->ram_seed, zero, 8);
    try_bytes(run, t, t->patch, zero, CF_PATCH);
    for (u32 i = 0; i < CF_PATCH; i += 8) {
        try_bytes(run, t, t->patch + i, zero, 8);
    }
    try_bytes(run, t, &t->flags, &flags, 8);
    for (u32 bit = 0; bit < 22; bit++) {
        u64 one = (t->flags & ~BIT(bit)) | 0x202;
        try_bytes(run, t, &t->flags, &one, 8);
    }
    if (cf_view[t->side].bits == 64) {
        try_bytes(run, t, &t->fs_base, zero, 8);
        try_bytes(run, t, &t->gs_base, zero, 8);
    }
}
