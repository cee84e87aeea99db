/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the runs say about a form.
 *
 *   privileged          completes at CPL 0, traps at CPL 3 with the same operands
 *   control-sensitive   changes machine state outside the program's own
 *   behaviour-sensitive its result differs, without a trap, when such state or the CPL is varied
 *
 * A trap is no silent difference: it gives the monitor control. The program's own state is its
 * general, x87 and vector registers, arithmetic flags, PKRU, RIP and its memory.
 */
#include <string.h>

#include "cmd/sensitivity.h"
#include "core/base/fmt.h"

static const char *const group_names[] = {
#define X(name, text) text,
    SENS_GROUPS(X)
#undef X
};

const char *sens_group_name(u32 group) {
    return group < SENS_GROUP_COUNT ? group_names[group] : "?";
}

void sens_groups_text(u64 groups, char *buf, size_t size) {
    size_t n = 0;
    buf[0] = 0;
    for (u32 g = 0; g < SENS_GROUP_COUNT; g++) {
        if (groups & BIT(g)) {
            n += fmt_str(n < size ? buf + n : NULL, n < size ? size - n : 0, "%s%s", n ? ", " : "",
                         group_names[g]);
        }
    }
}

static const char *vector_name(u32 v) {
    static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
                                        "#NM", "#DF", "?",   "#TS", "#NP", "#SS", "#GP",
                                        "#PF", "?",   "#MF", "#AC", "#MC", "#XM"};
    return v < ARRAY_LEN(names) ? names[v] : "?";
}

void sens_end_text(const struct sens_result *r, char *buf, size_t size) {
    switch (r->end) {
    case SENS_DONE:
        fmt_str(buf, size, "completes");
        break;
    case SENS_TRAP:
        fmt_str(buf, size, r->error ? "%s(%x)" : "%s", vector_name(r->vector), r->error);
        break;
    case SENS_INT:
        fmt_str(buf, size, "enters the kernel");
        break;
    case SENS_HALT:
        fmt_str(buf, size, "stops the processor");
        break;
    case SENS_SHUTDOWN:
        fmt_str(buf, size, "leaves no way to handlers");
        break;
    default:
        fmt_str(buf, size, "not possible");
        break;
    }
}

/* --- comparing runs ----------------------------------------------------------------------------
 */

enum difference { SAME, BY_TRAP, SILENT };

static bool traps(const struct sens_result *r) {
    return r->end == SENS_TRAP;
}

static bool same_value(const struct sens_result *a, const struct sens_result *b) {
    return a->vector == b->vector && a->moved == b->moved && a->flags == b->flags &&
           a->memory == b->memory && a->vector_state == b->vector_state &&
           a->changed == b->changed && !memcmp(a->gpr, b->gpr, sizeof(a->gpr));
}

static enum difference compare(const struct sens_result *a, const struct sens_result *b) {
    if (a->end == SENS_REFUSED || b->end == SENS_REFUSED) {
        return SAME;
    }
    if (traps(a) || traps(b)) {
        bool same = traps(a) && traps(b) && a->vector == b->vector;
        return same ? SAME : BY_TRAP;
    }
    return a->end == b->end && same_value(a, b) ? SAME : SILENT;
}

/* --- a form ------------------------------------------------------------------------------------
 */

struct trial {
    struct sens_machine *m;
    const struct sens_form *form;
    u64 *runs;
};

static void run(const struct trial *t, u32 cpl, u32 operands, const struct sens_knob *knob,
                struct sens_result *r) {
    sens_run(t->m, t->form, cpl, &sens_operands[operands], knob, r);
    ++*t->runs;
}

/* Turns every knob under the base run in e. */
static void turn_knobs(const struct trial *t, u32 cpl, u32 operands, struct sens_evidence *e) {
    bool noisy = false;
    for (u32 k = 0; k < sens_knob_count; k++) {
        const struct sens_knob *knob = &sens_knobs[k];
        struct sens_result r;
        if ((knob->mode64_only && t->m->mode != 64) || (knob->cpl3_only && !cpl)) {
            continue;
        }
        run(t, cpl, operands, knob, &r);
        enum difference d = compare(&e->base, &r);
        if (d == SILENT && !noisy) {
            e->reads |= BIT(knob->group);
        } else if (d == BY_TRAP) {
            e->traps_by |= BIT(k);
        }
        noisy = noisy || (k == 0 && d == SILENT); /* time or chance hides smaller differences */
    }
}

static bool completes(const struct sens_result *r) {
    return r->end != SENS_TRAP && r->end != SENS_REFUSED;
}

static u32 score(const struct sens_result *base) {
    u32 n = 0;
    for (u64 c = base[0].changed | base[1].changed; c; c &= c - 1) {
        n++;
    }
    return n + (completes(&base[0]) ? 40 : 0) + (completes(&base[1]) ? 40 : 0);
}

/* With these operands: adds to what is known. */
static void examine(const struct trial *t, u32 operands, const struct sens_result *base,
                    struct sens_verdict *v) {
    for (u32 n = 0; n < 2; n++) {
        struct sens_evidence e = {.base = base[n]};
        if (completes(&base[n])) {
            turn_knobs(t, n ? 3 : 0, operands, &e);
            e.writes = base[n].changed;
        }
        v->at[n].reads |= e.reads;
        v->at[n].writes |= e.writes;
        v->at[n].traps_by |= e.traps_by;
    }
    struct sens_result a = base[0], b = base[1];
    a.changed = b.changed = 0; /* counted by themselves */
    if (!sens_operands[operands].by_cpl && completes(&a) && completes(&b) && compare(&a, &b)) {
        v->mode_sensitive = true;
    }
    v->privileged = v->privileged || (completes(&a) && !completes(&b));
}

static void conclude(struct sens_verdict *v) {
    bool user_completes = completes(&v->at[1].base);
    v->control = v->at[0].writes || v->at[1].writes;
    v->behaviour = v->at[0].reads || v->at[1].reads || v->mode_sensitive;
    v->user_sensitive = user_completes && (v->at[1].writes || v->at[1].reads || v->mode_sensitive);
    v->privileged = v->privileged && !user_completes;
}

enum { EXAMINED_MAX = 4 };

static u64 outcome(const struct sens_result *r) {
    u64 key = r->changed ^ (u64)r->end << 60 ^ r->flags;
    for (u32 n = 0; n < GPR_COUNT; n++) {
        key = (key ^ r->gpr[n]) * 0x9e3779b97f4a7c15ull;
    }
    return key;
}

/* Base runs with all operands; the most telling few are then examined with all knobs. */
void sens_judge(struct sens_machine *m, const struct sens_form *form, struct sens_verdict *v,
                u64 *runs) {
    struct trial t = {m, form, runs};
    struct sens_result base[32][2] = {0};
    u64 seen[EXAMINED_MAX];
    u32 best = 0, examined = 0, points[32] = {0};
    memset(v, 0, sizeof(*v));
    for (u32 o = 0; o < sens_operand_count; o++) {
        run(&t, 0, o, NULL, &base[o][0]);
        run(&t, 3, o, NULL, &base[o][1]);
        points[o] = score(base[o]);
        best = points[o] > points[best] ? o : best;
        bool undefined = traps(&base[o][0]) && base[o][0].vector == EXC_UD;
        v->exists = v->exists || !undefined || completes(&base[o][1]);
    }
    v->operands = (u8)best;
    v->at[0].base = base[best][0];
    v->at[1].base = base[best][1];
    for (u32 n = 0; v->exists && n < sens_operand_count; n++) {
        u32 o = (n + best) % sens_operand_count;
        u64 key = outcome(&base[o][0]) * 31 + outcome(&base[o][1]);
        bool old = !completes(&base[o][0]) && !completes(&base[o][1]);
        for (u32 k = 0; k < examined; k++) {
            old = old || seen[k] == key;
        }
        if (!old && examined < EXAMINED_MAX) {
            seen[examined++] = key;
            examine(&t, o, base[o], v);
        }
    }
    conclude(v);
}
