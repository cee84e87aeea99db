/* SPDX-License-Identifier: Apache-2.0 */
/* The analyser's report as JSON: {"modes": [{engine, mode, totals, theorems, forms: [...]}]}. */
#include <jansson.h>
#include <string.h>

#include "cmd/sensitivity.h"

static json_t *groups(u64 set) {
    json_t *list = json_array();
    for (u32 g = 0; g < SENS_GROUP_COUNT; g++) {
        if (set & BIT(g)) {
            json_array_append_new(list, json_string(sens_group_name(g)));
        }
    }
    return list;
}

static json_t *knobs(u64 set) {
    json_t *list = json_array();
    for (u32 k = 0; k < sens_knob_count; k++) {
        if (set & BIT(k)) {
            json_array_append_new(list, json_string(sens_knobs[k].name));
        }
    }
    return list;
}

static json_t *evidence(const struct sens_evidence *e) {
    char end[32];
    sens_end_text(&e->base, end, sizeof(end));
    return json_pack("{s:s, s:o, s:o, s:o}", "ends", end, "reads", groups(e->reads), "changes",
                     groups(e->writes), "traps_depending_on", knobs(e->traps_by));
}

static json_t *native(const struct sens_form *f, const struct sens_verdict *v) {
    static const char *const ways[] = {"plain", "tsc_disabled", "cpuid_faulting"};
    const char *why;
    int agrees = sens_agrees(f, v, &why);
    json_t *out = json_object();
    for (u32 n = 0; n < ARRAY_LEN(ways); n++) {
        const struct sens_native *a = &v->native[n];
        struct sens_result r = {.end = a->end, .vector = a->vector, .error = a->error};
        char end[32];
        sens_end_text(&r, end, sizeof(end));
        if (a->ran) {
            json_object_set_new(out, ways[n], json_string(end));
        }
    }
    if (agrees >= 0) {
        json_object_set_new(out, "agrees", json_boolean(agrees));
        json_object_set_new(out, "reason", json_string(why));
    }
    return out;
}

static json_t *form(const struct sens_report *r, u32 n) {
    const struct sens_form *f = &r->forms.form[n];
    const struct sens_verdict *v = &r->verdict[n];
    const char *robin = sens_robin_irvine(&f->insn);
    char code[2 * INSN_MAX_LEN + 1] = "";
    for (u32 k = 0; k < f->insn.len; k++) {
        snprintf(code + 2 * k, 3, "%02x", f->code[k]);
    }
    json_t *out = json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:s, s:s, s:o, s:o, s:o}", "instruction",
        insn_name(f->insn.id), "form", f->text, "code", code, "class", sens_class(v), "privileged",
        v->privileged, "control_sensitive", v->control, "behaviour_sensitive", v->behaviour,
        "user_sensitive", v->user_sensitive, "differs_between_cpls", v->mode_sensitive, "handling",
        sens_handling(r->engine, v, &f->insn), "operands", sens_operands[v->operands].name, "cpl0",
        evidence(&v->at[0]), "cpl3", evidence(&v->at[1]), "native", native(f, v));
    if (out && robin) {
        json_object_set_new(out, "robin_irvine", json_string(robin));
    }
    return out;
}

static json_t *mode(const struct sens_report *r) {
    struct sens_totals t = sens_count(r);
    json_t *forms = json_array();
    for (u32 n = 0; n < r->forms.count; n++) {
        if (r->verdict[n].exists) {
            json_array_append_new(forms, form(r, n));
        }
    }
    return json_pack(
        "{s:s, s:i, s:I, s:i, s:i, s:i, s:{s:b, s:i}, s:{s:b, s:i}, s:{s:i, s:i, s:i}, s:o}",
        "engine", r->engine, "mode", (int)r->mode, "runs", (json_int_t)r->runs, "forms_run",
        (int)t.exist, "privileged", (int)t.privileged, "sensitive", (int)t.sensitive, "theorem_1",
        "holds", !t.break1, "against", (int)t.break1, "theorem_3", "holds", !t.break3, "against",
        (int)t.break3, "native", "agree", (int)t.agree, "explained", (int)t.explained, "differ",
        (int)t.differ, "forms", forms);
}

int sens_json(const struct sens_report *r, u32 count, FILE *to) {
    json_t *modes = json_array();
    for (u32 n = 0; n < count; n++) {
        json_array_append_new(modes, mode(&r[n]));
    }
    json_t *root = json_pack("{s:o}", "modes", modes);
    int rc = !root || json_dumpf(root, to, JSON_INDENT(1)) ? -ERR_IO : 0;
    fputc('\n', to);
    json_decref(root);
    return rc;
}
