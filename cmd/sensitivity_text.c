/* SPDX-License-Identifier: Apache-2.0 */
/* The analyser's report as text; and what all reports say about a form: how engines treat it, its
 * place in Robin and Irvine's list, agreement with the host. */
#include <string.h>

#include "cmd/sensitivity.h"

/* --- Robin and Irvine's seventeen, table 1 of their paper --------------------------------------
 */

static bool moves_segment(const struct insn *i) {
    for (u32 n = 0; n < i->operand_count; n++) {
        if (i->op[n].kind == OPERAND_REG && i->op[n].reg_class == REG_SEG) {
            return true;
        }
    }
    return false;
}

static const char *robin_irvine_segment(const struct insn *i) {
    if (!moves_segment(i)) {
        return NULL;
    }
    switch (i->id) {
    case INSN_POP:
        return "POP";
    case INSN_PUSH:
        return "PUSH";
    case INSN_MOV:
        return "MOV";
    default:
        return NULL;
    }
}

const char *sens_robin_irvine(const struct insn *i) {
    static const struct {
        u16 id;
        const char *name;
    } list[] = {{INSN_SGDT, "SGDT"},   {INSN_SIDT, "SIDT"},     {INSN_SLDT, "SLDT"},
                {INSN_SMSW, "SMSW"},   {INSN_PUSHF, "PUSHF"},   {INSN_POPF, "POPF"},
                {INSN_LAR, "LAR"},     {INSN_LSL, "LSL"},       {INSN_VERR, "VERR"},
                {INSN_VERW, "VERW"},   {INSN_STR, "STR"},       {INSN_INT, "INT n"},
                {INSN_RET_FAR, "RET"}, {INSN_CALL_FAR, "CALL"}, {INSN_JMP_FAR, "JMP"}};
    for (u32 n = 0; n < ARRAY_LEN(list); n++) {
        if (list[n].id == i->id) {
            return list[n].name;
        }
    }
    return robin_irvine_segment(i);
}

/* --- engines -----------------------------------------------------------------------------------
 */

/* What KVM intercepts with nested paging and its own interrupt chips (arch/x86/kvm/svm/svm.c,
 * init_vmcb; vmx/vmx.c, vmcs_config): from its source, not measured. */
static bool kvm_intercepts(const struct insn *i) {
    switch (i->id) {
    case INSN_HLT:
    case INSN_CPUID:
    case INSN_IN:
    case INSN_OUT:
    case INSN_INS:
    case INSN_OUTS:
    case INSN_RDMSR:
    case INSN_WRMSR:
    case INSN_RDPMC:
    case INSN_INVD:
    case INSN_WBINVD:
    case INSN_MONITOR:
    case INSN_MWAIT:
    case INSN_XSETBV:
        return true;
    case INSN_MOV: /* to a control register */
        return i->op[0].kind == OPERAND_REG && i->op[0].reg_class == REG_CR;
    default:
        return false;
    }
}

const char *sens_handling(const char *engine, const struct sens_verdict *v,
                          const struct insn *insn) {
    static const char *const soft[] = {"identical", "inline", "callout"};
    if (!strcmp(engine, "kvm")) {
        return kvm_intercepts(insn) ? "trap" : "identical";
    }
    return v->soft_handling < ARRAY_LEN(soft) ? soft[v->soft_handling] : "callout";
}

/* --- agreement with the host -------------------------------------------------------------------
 */

static bool umip_instruction(const struct insn *i) {
    return i->id == INSN_SGDT || i->id == INSN_SIDT || i->id == INSN_SLDT || i->id == INSN_SMSW ||
           i->id == INSN_STR;
}

/* The Linux host is not the bare machine: why it may end otherwise. "": no reason is known. */
static const char *host_reason(const struct insn *i, const struct sens_native *n) {
    if (umip_instruction(i)) {
        return n->end == SENS_TRAP ? "the host has UMIP on" : "Linux emulates it under UMIP";
    }
    switch (i->id) {
    case INSN_INT:
    case INSN_INTO:
    case INSN_INT3:
    case INSN_INT1:
        return "the host's kernel takes it";
    case INSN_SYSCALL:
    case INSN_SYSENTER:
        return "returns from the host's kernel";
    case INSN_BT:
    case INSN_BTS:
    case INSN_BTR:
    case INSN_BTC:
        return "the machine has memory around the operand";
    case INSN_RDPMC:
        return "the host has CR4.PCE off";
    case INSN_LAR:
    case INSN_LSL:
    case INSN_VERR:
    case INSN_VERW:
        return "the host's descriptors are other ones";
    default:
        return "";
    }
}

int sens_agrees(const struct sens_form *form, const struct sens_verdict *v, const char **why) {
    const struct sens_native *n = &v->native[SENS_PLAIN];
    const struct sens_result *r = &v->at[1].base;
    *why = "";
    if (!n->ran || r->end == SENS_REFUSED) {
        return -1;
    }
    bool same = n->end == SENS_TRAP
                    ? r->end == SENS_TRAP && r->vector == n->vector && r->error == n->error
                    : r->end == n->end;
    if (!same) {
        *why = host_reason(&form->insn, n);
    }
    return same;
}

/* --- text --------------------------------------------------------------------------------------
 */

const char *sens_class(const struct sens_verdict *v) {
    if (!sens_sensitive(v)) {
        return v->privileged ? "privileged" : "innocuous";
    }
    return v->privileged ? "sensitive, privileged" : "SENSITIVE, UNPRIVILEGED";
}

static void print_form(const struct sens_report *r, u32 n) {
    const struct sens_verdict *v = &r->verdict[n];
    const struct sens_form *f = &r->forms.form[n];
    char ends[2][32], reads[200], writes[200];
    sens_end_text(&v->at[0].base, ends[0], sizeof(ends[0]));
    sens_end_text(&v->at[1].base, ends[1], sizeof(ends[1]));
    sens_groups_text(v->at[0].reads | v->at[1].reads, reads, sizeof(reads));
    sens_groups_text(v->at[0].writes | v->at[1].writes, writes, sizeof(writes));
    printf("%-32s %-24s CPL 0 %s, CPL 3 %s; %s", f->text, sens_class(v), ends[0], ends[1],
           sens_handling(r->engine, v, &f->insn));
    printf("%s%s%s%s%s\n", reads[0] ? "; reads " : "", reads, writes[0] ? "; changes " : "", writes,
           v->mode_sensitive ? "; differs between CPLs" : "");
}

struct sens_totals sens_count(const struct sens_report *r) {
    struct sens_totals t = {0};
    for (u32 n = 0; n < r->forms.count; n++) {
        const struct sens_verdict *v = &r->verdict[n];
        const char *why;
        int agrees = sens_agrees(&r->forms.form[n], v, &why);
        t.exist += v->exists;
        t.privileged += v->privileged;
        t.sensitive += v->exists && sens_sensitive(v);
        t.break1 += sens_breaks_1(v);
        t.break3 += sens_breaks_3(v);
        t.agree += agrees > 0;
        t.differ += agrees == 0 && !why[0];
        t.explained += agrees == 0 && why[0];
    }
    return t;
}

static void print_native(const struct sens_report *r, const struct sens_totals *t) {
    if (!r->native) {
        return;
    }
    printf("Host at ring 3: %u forms end alike, %u otherwise for a known reason, %u unexplained\n",
           t->agree, t->explained, t->differ);
    for (u32 n = 0; n < r->forms.count; n++) {
        const char *why;
        const struct sens_native *a = &r->verdict[n].native[SENS_PLAIN];
        if (sens_agrees(&r->forms.form[n], &r->verdict[n], &why) == 0 && !why[0]) {
            char end[32];
            struct sens_result host = {.end = a->end, .vector = a->vector, .error = a->error};
            sens_end_text(&host, end, sizeof(end));
            printf("  %-32s host: %s; ", r->forms.form[n].text, end);
            sens_end_text(&r->verdict[n].at[1].base, end, sizeof(end));
            printf("machine: %s\n", end);
        }
    }
}

static void print_mode(const struct sens_report *r, bool all) {
    struct sens_totals t = sens_count(r);
    printf("%s, engine %s: %u forms, %llu runs; %u privileged, %u sensitive\n\n",
           r->mode == 64 ? "64-bit mode" : "Protected mode", r->engine, t.exist,
           (unsigned long long)r->runs, t.privileged, t.sensitive);
    printf("%s\n", all ? "All forms" : "Sensitive and unprivileged");
    for (u32 n = 0; n < r->forms.count; n++) {
        if (r->verdict[n].exists && (all || sens_breaks_1(&r->verdict[n]))) {
            print_form(r, n);
        }
    }
    printf("\nTheorem 1 (trap and emulate is enough): %s, %u forms are sensitive and do not trap\n",
           t.break1 ? "does not hold" : "holds", t.break1);
    printf("Theorem 3 (hybrid: interpret supervisor code): %s, %u forms are sensitive at CPL 3 and "
           "do not trap there\n",
           t.break3 ? "does not hold" : "holds", t.break3);
    print_native(r, &t);
    printf("\n");
}

void sens_text(const struct sens_report *r, u32 count, bool all) {
    for (u32 n = 0; n < count; n++) {
        print_mode(&r[n], all);
    }
}
