/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia sensitivity`: options, the runs, the report. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/sensitivity.h"
#include "engines/kvm/kvm.h"
#include "engines/soft/engine.h"

struct options {
    enum engine_choice engine;
    bool json, all, native;
    const char *html, *only;
    u32 mode; /* 0: both */
};

static const char help[] =
    "usage: sosia sensitivity [OPTIONS]\n\n"
    "Runs every instruction form at CPL 0 and CPL 3, with machine state varied one piece at a "
    "time,\n"
    "and says which are privileged, which are sensitive, and what follows for virtualisation\n"
    "(Popek and Goldberg's theorems 1 and 3).\n\n"
    "  --engine auto|soft|kvm  where the forms run (default: auto)\n"
    "  --mode 64|32            only 64-bit mode, or only protected mode (default: both)\n"
    "  --no-native             do not run the forms on the host itself at ring 3\n"
    "  --only NAME             only instructions of this name (MOV, POPF, ...)\n"
    "  --all                   list all forms, not only those that matter\n"
    "  --json                  the result as JSON on standard output\n"
    "  --html FILE             a report as one self-contained page\n";

static bool engine_of(const char *name, enum engine_choice *choice) {
    static const char *const names[] = {"auto", "kvm", "soft"};
    for (u32 n = 0; n < ARRAY_LEN(names); n++) {
        if (!strcmp(name, names[n])) {
            *choice = (enum engine_choice)n;
            return true;
        }
    }
    return false;
}

/* An option with a value; NULL when it is another option. *bad: the value is missing or wrong. */
static bool parse_value(struct options *o, const char *name, const char *value, bool *bad) {
    if (!strcmp(name, "--engine")) {
        *bad = !value || !engine_of(value, &o->engine);
    } else if (!strcmp(name, "--mode")) {
        o->mode = value ? (u32)atoi(value) : 0;
        *bad = o->mode != 32 && o->mode != 64;
    } else if (!strcmp(name, "--html")) {
        o->html = value;
        *bad = !value;
    } else if (!strcmp(name, "--only")) {
        o->only = value;
        *bad = !value;
    } else {
        return false;
    }
    return true;
}

/* 0, 1 when help was printed, or -ERR_INVAL. */
static int parse(struct options *o, int argc, char **argv) {
    *o = (struct options){.engine = ENGINE_AUTO, .native = true};
    for (int n = 1; n < argc; n++) {
        bool bad = false;
        if (!strcmp(argv[n], "--help") || !strcmp(argv[n], "-h")) {
            fputs(help, stdout);
            return 1;
        } else if (!strcmp(argv[n], "--json")) {
            o->json = true;
        } else if (!strcmp(argv[n], "--all")) {
            o->all = true;
        } else if (!strcmp(argv[n], "--no-native")) {
            o->native = false;
        } else if (parse_value(o, argv[n], n + 1 < argc ? argv[n + 1] : NULL, &bad) && !bad) {
            n++;
        } else {
            complain("sensitivity: %s '%s'; see `sosia sensitivity --help`",
                     bad ? "wrong or missing value of" : "unknown option", argv[n]);
            return -ERR_INVAL;
        }
    }
    return 0;
}

/* --- the runs ----------------------------------------------------------------------------------
 */

static void keep_only(struct sens_forms *f, const char *name) {
    u32 kept = 0;
    for (u32 n = 0; n < f->count; n++) {
        if (!strcmp(insn_name(f->form[n].insn.id), name)) {
            f->form[kept++] = f->form[n];
        }
    }
    f->count = kept;
}

static void progress(const char *what, u32 done, u32 of) {
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%s %u of %u%s", what, done, of, done == of ? "\n" : "");
    }
}

static int run_native(struct sens_report *r) {
    u8 *operands = malloc(r->forms.count + 1);
    struct sens_native *result = calloc(r->forms.count + 1, sizeof(*result));
    for (u32 way = SENS_PLAIN; operands && result && way <= SENS_NO_CPUID; way++) {
        for (u32 n = 0; n < r->forms.count; n++) {
            operands[n] = r->verdict[n].operands;
        }
        memset(result, 0, r->forms.count * sizeof(*result));
        if (!sens_native_run(&r->forms, operands, (enum sens_native_way)way, result)) {
            for (u32 n = 0; n < r->forms.count; n++) {
                r->verdict[n].native[way] = result[n];
            }
            r->native = r->native || way == SENS_PLAIN;
        }
    }
    free(operands);
    free(result);
    return 0;
}

static int analyse(struct sens_report *r, const struct engine_ops *ops,
                   const struct engine_caps *caps, u8 mode, const struct options *o,
                   struct err *err) {
    struct sens_machine *m = calloc(1, sizeof(*m));
    int rc = m ? sens_machine_create(m, ops, caps, mode, err) : -ERR_NOMEM;
    if (rc) {
        free(m);
        return rc;
    }
    *r = (struct sens_report){.engine = ops->name, .mode = mode};
    rc = sens_forms_list(&r->forms, mode, &m->vm->cpuid);
    if (!rc && o->only) {
        keep_only(&r->forms, o->only);
    }
    r->verdict = rc ? NULL : calloc(r->forms.count + 1, sizeof(*r->verdict));
    for (u32 n = 0; r->verdict && n < r->forms.count; n++) {
        sens_judge(m, &r->forms.form[n], &r->verdict[n], &r->runs);
        if (ops == &soft_engine_ops) {
            r->verdict[n].soft_handling = (u8)soft_tr_handling(m->vcpu, &r->forms.form[n].insn);
        }
        progress(mode == 64 ? "64-bit forms" : "32-bit forms", n + 1, r->forms.count);
    }
    rc = r->verdict ? 0 : ERR_SET(err, ERR_NOMEM, "no memory for the forms");
    sens_machine_destroy(m);
    free(m);
    if (r->verdict && o->native && mode == 64) {
        rc = run_native(r);
    }
    return rc;
}

static int write_html(const struct sens_report *r, u32 count, const char *path) {
    FILE *to = fopen(path, "w");
    int rc = to ? sens_html(r, count, to) : -ERR_IO;
    if (to && fclose(to)) {
        rc = -ERR_IO;
    }
    if (rc) {
        complain("%s: %s", path, strerror(errno));
    }
    return rc;
}

static int report(const struct sens_report *r, u32 count, const struct options *o) {
    int rc = 0;
    if (o->json) {
        rc = sens_json(r, count, stdout);
    } else {
        sens_text(r, count, o->all);
    }
    if (!rc && o->html) {
        rc = write_html(r, count, o->html);
    }
    if (fflush(stdout) || ferror(stdout)) {
        complain("standard output: %s", strerror(errno));
        rc = -ERR_IO;
    }
    return rc;
}

static const struct engine_ops *choose(const struct options *o, struct engine_caps *caps,
                                       struct err *err) {
    struct linux_host *lh;
    if (linux_host_create(&lh, err)) {
        return NULL;
    }
    const struct engine_ops *ops = engine_select(linux_host_host(lh), o->engine, true, caps, err);
    linux_host_destroy(lh);
    return ops;
}

int cmd_sensitivity(int argc, char **argv) {
    struct options o;
    struct err err = {0};
    struct sens_report r[2] = {0};
    int rc = parse(&o, argc, argv);
    if (rc) {
        return rc > 0 ? 0 : EXIT_BAD_INPUT;
    }
    struct engine_caps caps = {0};
    const struct engine_ops *ops = choose(&o, &caps, &err);
    u32 count = 0;
    rc = ops ? 0 : -ERR_UNSUPPORTED;
    for (u32 mode = 64; !rc && mode >= 32; mode -= 32) {
        if (!o.mode || o.mode == mode) {
            rc = analyse(&r[count], ops, &caps, (u8)mode, &o, &err);
            count += !rc;
        }
    }
    if (rc) {
        complain("sensitivity: %s", err.text[0] ? err.text : err_name(rc));
    } else {
        rc = report(r, count, &o);
    }
    for (u32 n = 0; n < ARRAY_LEN(r); n++) {
        sens_forms_free(&r[n].forms);
        free(r[n].verdict);
    }
    return rc ? EXIT_FAILURE_OTHER : 0;
}
