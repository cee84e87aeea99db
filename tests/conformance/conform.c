/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random instructions on the real processor, interpreted and translated (conform.h).
 *
 *   conform [--seconds N] [--count N] [--seed N] [--corpus FILE] [--side 64|32|32ldt|16]
 *           [--insn NAME] [--case LINE] [--forms] [--keep-going N] [--no-translator]
 *
 * Without --seed a fresh one is taken and printed. Failing cases are printed as one line each, made
 * small; a line goes into the corpus with its reason once it is understood. Exit status 1 when
 * something differs, 77 where the host cannot run it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/conformance/conform.h"

struct options {
    u64 seconds, count, seed, keep_going;
    const char *corpus, *line;
    bool forms, no_translator;
};

struct totals {
    u64 cases, lost, different, varied, own, vector[32];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    double sum = 0;
    for (int who = 0; who < 2; who++) {
        struct rusage u;
        getrusage(who ? RUSAGE_CHILDREN : RUSAGE_SELF, &u);
        sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    }
    return sum;
}

static void report(struct cf_run *run, const struct cf_case *t, const char *what) {
    static char line[CF_LINE], text[CF_LINE];
    char again[CF_WHAT] = "";
    struct cf_case small = *t;
    bool repeats = cf_run_one(run, &small, again);
    if (repeats && strncmp(again, "lost", 4)) { /* each try of those takes a second */
        cf_shrink(run, &small);
        cf_run_one(run, &small, again);
    }
    cf_format(&small, line);
    cf_disassemble(&small, text);
    printf("DIFFERENT %s%s\n  %s\n%s # %s\n", text, repeats ? "" : " (only once)",
           repeats ? again : what, line, text);
    fflush(stdout);
}

struct failure {
    struct cf_case t;
    struct cf_result want;
    u64 fault; /* where the engine had a page fault */
    bool lost; /* natively; want is of the engine then */
};

/* The processor, in a fresh child, gave another result the second time, one that the engine agrees
 * with: something outside the case, such as an interrupt, had a part in the first. */
static bool varies(struct cf_run *run, const struct failure *f) {
    char what[CF_WHAT], line[CF_LINE];
    if (cf_run_one(run, &f->t, what)) {
        return false;
    }
    const struct cf_result *again = &cf_native_batch(run->native, 0)->r[0];
    if (f->lost) {
        snprintf(what, sizeof(what), "lost only once");
    } else if (!cf_compare(&f->t, again, &f->want, false, what)) {
        return false;
    }
    cf_format(&f->t, line);
    printf("VARIES natively: %s\n%s\n", what, line);
    return true;
}

static void report_lost(const struct cf_case *t, const struct cf_loss *l) {
    static char line[CF_LINE];
    cf_format(t, line);
    printf("LOST: %s, status %x, signal %u vector %u rip %llx cr2 %llx\n%s\n",
           l->hung ? "hung" : "died", l->status, l->signal, l->trap, (unsigned long long)l->rip,
           (unsigned long long)l->cr2, line);
    fflush(stdout);
}

/* --- random cases ------------------------------------------------------------------------------
 */

static void fill(struct cf_gen *g, struct cf_batch *b) {
    u64 ram_seed = cf_random(&g->rng) | 1;
    for (u32 i = 0; i < CF_SLOTS; i++) {
        cf_generate(g, &b->t[i], i, ram_seed);
        for (u32 n = 0; n < b->t[i].insns; n++) {
            g->forms.form[g->chosen[n]].tries++;
        }
    }
    b->count = CF_SLOTS;
}

static u64 page_fault(const struct cf_result *r) {
    return r->vector == EXC_PF ? r->cr2 : 0;
}

/* Runs b on the engine while the child runs it natively, then compares. */
static void run_batch(struct cf_run *run, struct cf_batch *b, u32 which, struct totals *sum,
                      const struct options *o) {
    static struct cf_result got[2][CF_SLOTS];
    struct cf_guest *side[] = {run->interp, run->trans};
    cf_native_start(run->native, which);
    for (u32 s = 0; s < 2; s++) {
        if (side[s]) {
            cf_guest_load(side[s], b->t, b->count);
            for (u32 i = 0; i < b->count; i++) {
                cf_guest_run(side[s], &b->t[i], &got[s][i]);
            }
        }
    }
    cf_native_wait(run->native);
    u32 reported = 0;
    static struct failure failed[CF_SLOTS];
    static char what[CF_SLOTS][CF_WHAT];
    for (u32 i = 0; i < b->count; i++) {
        sum->cases++;
        if (b->lost[i].lost) {
            sum->lost++;
            if (!cf_lost_explained(&b->lost[i], &got[0][i])) {
                report_lost(&b->t[i], &b->lost[i]);
                snprintf(what[reported], CF_WHAT, "lost");
                failed[reported++] =
                    (struct failure){b->t[i], got[0][i], page_fault(&got[0][i]), true};
            }
            continue;
        }
        sum->vector[b->r[i].vector & 31]++;
        for (u32 s = 0; s < 2; s++) {
            if (side[s] && cf_compare(&b->t[i], &b->r[i], &got[s][i], s == 1, what[reported])) {
                failed[reported++] =
                    (struct failure){b->t[i], b->r[i], page_fault(&got[s][i]), false};
                break;
            }
        }
    }
    for (u32 i = 0; i < reported; i++) { /* uses batch 0 */
        bool own = failed[i].fault && cf_native_owns(run->native, failed[i].fault);
        cf_native_renew(run->native); /* a case may have written to the child's memory */
        if (own) {
            sum->own++;
        } else if (varies(run, &failed[i])) {
            sum->varied++;
        } else if (sum->different++ < o->keep_going) {
            report(run, &failed[i].t, what[i]);
        }
    }
}

static void summary(const struct cf_gen *g, const struct totals *sum, u64 seed, double seconds) {
    u32 unused = 0;
    for (u32 i = 0; i < g->forms.count; i++) {
        unused += g->forms.form[i].tries == 0;
    }
    printf("%llu cases of %u forms (%u not reached), seed %llu, %.0f s, %llu lost, %llu varied, "
           "%llu in "
           "the child's own memory\n",
           (unsigned long long)sum->cases, g->forms.count, unused, (unsigned long long)seed,
           seconds, (unsigned long long)sum->lost, (unsigned long long)sum->varied,
           (unsigned long long)sum->own);
    printf("by vector:");
    for (u32 i = 0; i < 32; i++) {
        if (sum->vector[i]) {
            printf(" %u: %llu", i, (unsigned long long)sum->vector[i]);
        }
    }
    printf("\n");
}

static u64 run_random(struct cf_run *run, struct cf_gen *g, const struct options *o) {
    struct totals sum = {0};
    double begin = now(), told = begin;
    g->rng = o->seed;
    while (sum.cases < o->count && now() - begin < (double)o->seconds &&
           sum.different < o->keep_going) {
        struct cf_batch *b = cf_native_batch(run->native, 0);
        fill(g, b);
        run_batch(run, b, 0, &sum, o);
        if (now() - told > 600) {
            told = now();
            printf("%llu cases, %llu different\n", (unsigned long long)sum.cases,
                   (unsigned long long)sum.different);
            fflush(stdout);
        }
    }
    summary(g, &sum, o->seed, now() - begin);
    printf("%llu different\n", (unsigned long long)sum.different);
    fflush(stdout);
    cf_native_destroy(run->native);
    printf("%.0f cases a second of processor time\n", (double)sum.cases / cpu_seconds());
    return sum.different;
}

/* --- corpus ------------------------------------------------------------------------------------
 */

static u64 run_line(struct cf_run *run, const char *line) {
    struct cf_case t;
    char what[CF_WHAT];
    if (!cf_parse(&t, line)) {
        printf("not a case: %s\n", line);
        return 1;
    }
    if (!cf_run_one(run, &t, what)) {
        return 0;
    }
    report(run, &t, what);
    return 1;
}

static u64 run_corpus(struct cf_run *run, const char *path) {
    static char line[CF_LINE];
    u64 bad = 0, count = 0;
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "conform: %s: %s\n", path, strerror(errno));
        return 1;
    }
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        if (*line && *line != '#') {
            count++;
            bad += run_line(run, line);
        }
    }
    fclose(f);
    printf("%s: %llu cases, %llu different\n", path, (unsigned long long)count,
           (unsigned long long)bad);
    return bad;
}

static void list_forms(const struct cf_gen *g) {
    for (u32 i = 0; i < g->forms.count; i++) {
        const struct cf_form *f = &g->forms.form[i];
        printf("%u %s map %u opcode %02x pp %u W %d L %d %s %s\n", f->mode,
               f->vex ? "VEX" : "legacy", f->map, f->opcode, f->pp, f->wide, f->vex_l,
               f->memory ? "memory" : "register",
               f->id == INSN_INVALID ? "undefined" : insn_name(f->id));
    }
}

/* --- command line ------------------------------------------------------------------------------
 */

static u32 side_by_name(const char *name) {
    for (u32 i = 0; i < CF_SIDES; i++) {
        if (!strcmp(name, cf_view[i].name)) {
            return 1u << i;
        }
    }
    fprintf(stderr, "conform: no side %s\n", name);
    exit(2);
}

static const char *option(struct options *o, struct cf_gen *g, const char *name, const char *v) {
    u64 n = strtoull(v, NULL, 0);
    if (!strcmp(name, "--seconds")) {
        o->seconds = n;
    } else if (!strcmp(name, "--count")) {
        o->count = n;
    } else if (!strcmp(name, "--seed")) {
        o->seed = n;
    } else if (!strcmp(name, "--keep-going")) {
        o->keep_going = n;
    } else if (!strcmp(name, "--corpus")) {
        o->corpus = v;
    } else if (!strcmp(name, "--case")) {
        o->line = v;
    } else if (!strcmp(name, "--insn")) {
        g->only = v;
    } else if (!strcmp(name, "--side")) {
        g->side_mask = side_by_name(v);
    } else {
        fprintf(stderr, "conform: unknown option %s\n", name);
        exit(2);
    }
    return name;
}

static void options_parse(struct options *o, struct cf_gen *g, int argc, char **argv) {
    if (getrandom(&o->seed, 4, 0) != 4) {
        o->seed = (u64)time(NULL);
    }
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--forms")) {
            o->forms = true;
        } else if (!strcmp(argv[i], "--no-translator")) {
            o->no_translator = true;
        } else if (i + 1 < argc) {
            option(o, g, argv[i], argv[i + 1]);
            i++;
        } else {
            fprintf(stderr, "conform: %s needs a value\n", argv[i]);
            exit(2);
        }
    }
    if (o->seconds == 0 && o->count == 0) {
        o->seconds = o->corpus || o->line ? 0 : 10;
    }
    o->seconds = o->count && !o->seconds ? UINT64_MAX >> 12 : o->seconds;
    o->count = o->count ? o->count : UINT64_MAX;
}

static bool has_mnemonic(const struct cf_gen *g) {
    for (u32 i = 0; i < g->forms.count; i++) {
        if (!strcmp(g->only, insn_name(g->forms.form[i].id))) {
            return true;
        }
    }
    fprintf(stderr, "conform: no form of %s\n", g->only);
    return false;
}

int main(int argc, char **argv) {
    static struct cf_gen g = {.side_mask = (1u << CF_SIDES) - 1};
    struct options o = {.keep_going = 20};
    struct cf_run run = {0};
    u64 bad = 0;
    options_parse(&o, &g, argc, argv);
    run.native = cf_native_create();
    if (!run.native) {
        printf("SKIPPED conformance: needs an Intel processor with AVX2, FSGSBASE, modify_ldt\n");
        return 77;
    }
    run.interp = cf_guest_create(false);
    run.trans = o.no_translator ? NULL : cf_guest_create(true);
    g.features = cf_guest_features(run.interp);
    cf_forms_build(&g.forms, g.features);
    if (g.only && !has_mnemonic(&g)) {
        return 2;
    }
    if (o.forms) {
        list_forms(&g);
        return 0;
    }
    if (o.corpus) {
        bad += run_corpus(&run, o.corpus);
    }
    if (o.line) {
        bad += run_line(&run, o.line);
    }
    if (o.seconds) {
        printf("seed %llu\n", (unsigned long long)o.seed);
        fflush(stdout);
        bad += run_random(&run, &g, &o);
    }
    printf("conformance: %d passed, %d failed\n", bad == 0, bad != 0);
    return bad != 0;
}
