/* SPDX-License-Identifier: Apache-2.0 */
/* The analyser's report as one page that needs nothing else: verdicts, the list beside Robin and
 * Irvine's, all forms in a table that can be filtered, and how it was found. */
#include <string.h>

#include "cmd/sensitivity.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<title>Instruction sensitivity</title>\n<style>\n"
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;"
    "color:#1b1b1f;background:#fff}\n"
    "h1{font-size:1.7rem}h2{margin-top:2.5rem;border-bottom:2px solid #ddd}"
    "table{border-collapse:collapse;width:100%;font-size:.86rem}\n"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .5rem;border-bottom:1px solid #ddd}\n"
    "th{background:#f3f3f6;position:sticky;top:0}code{font:.84rem ui-monospace,monospace}\n"
    ".bad{color:#a3001b;font-weight:600}.good{color:#00602b;font-weight:600}"
    ".verdict{padding:.7rem 1rem;border-left:.4rem solid #a3001b;background:#fbf2f3;margin:1rem "
    "0}\n"
    ".verdict.holds{border-color:#00602b;background:#f0f8f3}"
    "input,select{font:inherit;padding:.3rem;margin:0 .5rem .7rem 0}\n"
    "@media(prefers-color-scheme:dark){body{background:#17171b;color:#e6e6ea}th{background:#26262c}"
    "td,th{border-color:#3a3a42}.bad{color:#ff8a94}.good{color:#7fd8a0}"
    ".verdict{background:#2b1d20}.verdict.holds{background:#1b2a20}}\n</style>\n";

static const char method[] =
    "<h2>How it was found</h2>\n"
    "<p>Every encoding that the decoder knows and the processor offers was run in a bare machine, "
    "at CPL&nbsp;0 and at CPL&nbsp;3, with operands tried until it completes. Then one piece of "
    "machine state at a time was changed (flags, control and debug registers, descriptor tables, "
    "selectors, MSRs, the I/O bitmap, a port, the physical location, time) and the result "
    "compared: registers, flags, memory, vector state, where execution went.</p>\n<ul>\n"
    "<li><b>Privileged</b>: completes at CPL 0 and traps at CPL 3 with the same operands.</li>\n"
    "<li><b>Control-sensitive</b>: changes machine state outside the program's own.</li>\n"
    "<li><b>Behaviour-sensitive</b>: its result differs, without a trap, when such state or the "
    "CPL is changed. A trap is no silent difference: the monitor gets control.</li>\n"
    "<li>The program's own state: general, x87 and vector registers, arithmetic flags, PKRU, RIP "
    "and its memory.</li>\n"
    "<li><b>Theorem 1</b> (Popek and Goldberg 1974): a monitor by trap and emulate alone exists if "
    "all sensitive instructions are privileged. <b>Theorem 3</b>: a hybrid monitor, which "
    "interprets all supervisor code, exists if all instructions that are sensitive at CPL 3 are "
    "privileged.</li>\n"
    "<li>CR4.UMIP, CR4.TSD, CR4.PKE and CR4.FSGSBASE are off, off, on and on in the base runs, "
    "where the processor has them; what depends on them is listed as <i>traps depending on</i>."
    "</li>\n</ul>\n";

static const char script[] =
    "<script>\nfor(const t of document.querySelectorAll('section')){const "
    "q=t.querySelector('input')"
    ",c=t.querySelector('select'),f=()=>{const s=q.value.toLowerCase();for(const r of "
    "t.querySelectorAll('.forms tbody tr'))r.hidden=!r.textContent.toLowerCase().includes(s)||"
    "(c.value&&r.dataset.class!==c.value)};q.oninput=f;c.onchange=f;f()}\n</script>\n";

static void put(FILE *to, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", to);
            break;
        case '&':
            fputs("&amp;", to);
            break;
        default:
            fputc(*text, to);
        }
    }
}

static void cell_groups(FILE *to, u64 set) {
    char text[400];
    sens_groups_text(set, text, sizeof(text));
    fputs("<td>", to);
    put(to, text);
}

static void cell_ends(FILE *to, const struct sens_evidence *e) {
    char end[32];
    sens_end_text(&e->base, end, sizeof(end));
    fputs("<td>", to);
    put(to, end);
    u32 shown = 0;
    for (u32 k = 0; k < sens_knob_count; k++) {
        if (e->traps_by & BIT(k)) {
            fputs(shown++ ? ", " : "<br><small>traps depending on ", to);
            put(to, sens_knobs[k].name);
        }
    }
    fputs(shown ? "</small>" : "", to);
}

static void cell_native(FILE *to, const struct sens_form *f, const struct sens_verdict *v) {
    const char *why;
    int agrees = sens_agrees(f, v, &why);
    char end[32] = "";
    struct sens_result r = {
        .end = v->native[0].end, .vector = v->native[0].vector, .error = v->native[0].error};
    fputs("<td>", to);
    if (agrees < 0) {
        fputs("–", to);
        return;
    }
    sens_end_text(&r, end, sizeof(end));
    put(to, end);
    if (!agrees) {
        fputs("<br><small>", to);
        put(to, why[0] ? why : "differs, reason unknown");
        fputs("</small>", to);
    }
}

static void row(FILE *to, const struct sens_report *r, u32 n) {
    const struct sens_form *f = &r->forms.form[n];
    const struct sens_verdict *v = &r->verdict[n];
    const char *class = sens_class(v), *robin = sens_robin_irvine(&f->insn);
    fprintf(to, "<tr data-class=\"%s\"><td><code>", class);
    put(to, f->text);
    fprintf(to, "</code><td class=\"%s\">%s%s%s", sens_breaks_1(v) ? "bad" : "", class,
            v->control ? "<br><small>control</small>" : "",
            v->behaviour ? "<br><small>behaviour</small>" : "");
    cell_ends(to, &v->at[0]);
    cell_ends(to, &v->at[1]);
    cell_groups(to, v->at[0].reads | v->at[1].reads);
    cell_groups(to, v->at[0].writes | v->at[1].writes);
    cell_native(to, f, v);
    fprintf(to, "<td>%s<td>%s%s%s</tr>\n", sens_handling(r->engine, v, &f->insn),
            robin ? "Robin and Irvine: " : "", robin ? robin : "",
            v->mode_sensitive ? "<br><small>differs between CPLs</small>" : "");
}

static void verdict(FILE *to, u32 against, const char *title, const char *meaning) {
    fprintf(to, "<div class=\"verdict %s\"><b>%s %s.</b> %s", against ? "" : "holds", title,
            against ? "does not hold" : "holds", meaning);
    if (against) {
        fprintf(to, " %u forms stand against it.", against);
    }
    fputs("</div>\n", to);
}

/* The instructions that break theorem 1, by name, with what UMIP changed. */
static void robin_table(FILE *to, const struct sens_report *r) {
    static const char *const names[] = {"SGDT", "SIDT", "SLDT",  "SMSW", "PUSHF", "POPF",
                                        "LAR",  "LSL",  "VERR",  "VERW", "POP",   "PUSH",
                                        "CALL", "JMP",  "INT n", "RET",  "STR",   "MOV"};
    fputs("<h3>Robin and Irvine's seventeen, found again</h3><table><thead><tr><th>Instruction"
          "<th>Found<th>With UMIP</thead><tbody>\n",
          to);
    for (u32 k = 0; k < ARRAY_LEN(names); k++) {
        u32 found = 0, forms = 0;
        bool umip = false;
        for (u32 n = 0; n < r->forms.count; n++) {
            const char *name = sens_robin_irvine(&r->forms.form[n].insn);
            if (name && !strcmp(name, names[k]) && r->verdict[n].exists) {
                forms++;
                found += sens_breaks_1(&r->verdict[n]);
                for (u32 b = 0; b < sens_knob_count; b++) {
                    umip = umip || (r->verdict[n].at[1].traps_by & BIT(b) &&
                                    !strcmp(sens_knobs[b].name, "CR4.UMIP"));
                }
            }
        }
        fprintf(to, "<tr><td>%s<td>%s (%u of %u forms)<td>%s</tr>\n", names[k],
                found   ? "sensitive, unprivileged"
                : forms ? "not sensitive here"
                        : "does not exist",
                found, forms, umip ? "traps at CPL 3" : "unchanged");
    }
    fputs("</tbody></table>\n<p>JMP and CALL, RET and INT n share a row in some copies of the "
          "list, hence seventeen.</p>\n",
          to);
}

static void mode_section(FILE *to, const struct sens_report *r) {
    struct sens_totals t = sens_count(r);
    fprintf(to,
            "<section><h2>%s, engine %s</h2>\n<p>%u forms, %llu runs: %u privileged, %u sensitive."
            "</p>\n",
            r->mode == 64 ? "64-bit mode" : "Protected mode", r->engine, t.exist,
            (unsigned long long)r->runs, t.privileged, t.sensitive);
    verdict(to, t.break1, "Theorem 1",
            "Trap and emulate alone makes a monitor for this machine only if it holds.");
    verdict(to, t.break3, "Theorem 3",
            "A hybrid monitor, which interprets supervisor code, is enough only if it holds.");
    if (r->native) {
        fprintf(to,
                "<p>On the host itself at ring 3, %u forms end alike, %u otherwise for a known "
                "reason, %u without one.</p>\n",
                t.agree, t.explained, t.differ);
    }
    robin_table(to, r);
    fputs("<h3>All forms</h3><input placeholder=\"filter, e.g. popf\" aria-label=\"filter\">"
          "<select aria-label=\"class\"><option value=\"SENSITIVE, UNPRIVILEGED\" selected>"
          "sensitive, unprivileged<option value=\"sensitive, privileged\">sensitive, privileged"
          "<option value=\"privileged\">privileged only<option value=\"innocuous\">innocuous"
          "<option value=\"\">all</select>\n<table "
          "class=\"forms\"><thead><tr><th>Form<th>Class<th>CPL 0<th>CPL 3"
          "<th>Reads silently<th>Changes<th>Host, ring 3<th>Engine<th>Notes</thead><tbody>\n",
          to);
    for (u32 n = 0; n < r->forms.count; n++) {
        if (r->verdict[n].exists) {
            row(to, r, n);
        }
    }
    fputs("</tbody></table></section>\n", to);
}

int sens_html(const struct sens_report *r, u32 count, FILE *to) {
    fputs(head, to);
    fputs("<h1>Which instructions are sensitive, and do they trap?</h1>\n", to);
    for (u32 n = 0; n < count; n++) {
        mode_section(to, &r[n]);
    }
    fputs(method, to);
    fputs(script, to);
    return ferror(to) ? -ERR_IO : 0;
}
