/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU policy as text: what is offered, what is withheld although the host has it, and why. */
#include "core/base/fmt.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/cpuid_table.h"
#include "core/cpu/msr.h"
#include "core/cpu/state.h"

struct printer {
    const struct cpuid_policy *p;
    void (*line)(void *ctx, const char *text);
    void *ctx;
};

enum { LINE_SIZE = 160 };

static void PRINTF_LIKE(2, 3) print(struct printer *out, const char *fmt, ...) {
    char text[LINE_SIZE];
    va_list ap;
    va_start(ap, fmt);
    fmt_vstr(text, sizeof(text), fmt, ap);
    va_end(ap);
    out->line(out->ctx, text);
}

static bool host_has(const struct cpuid_bit *b) {
    u32 top[4], v[4];
    cpuid_host(b->leaf & 0x80000000u, 0, top);
    if (top[0] < b->leaf) {
        return false;
    }
    cpuid_host(b->leaf, b->subleaf, v);
    return v[b->reg] >> b->bit & 1;
}

static void print_identity(struct printer *out) {
    u32 v[4];
    char brand[49] = {0};
    for (u32 i = 0; i < 3; i++) {
        cpuid_query(out->p, 0, NULL, 0x80000002u + i, 0, v);
        memcpy(brand + 16 * i, v, sizeof(v));
    }
    const char *name = brand;
    while (*name == ' ') {
        name++;
    }
    cpuid_query(out->p, 0, NULL, 1, 0, v);
    u32 family = v[0] >> 8 & 0xf, model = v[0] >> 4 & 0xf;
    if (family == 0xf) {
        family += v[0] >> 20 & 0xff;
    }
    if (family == 6 || family >= 0xf) {
        model |= v[0] >> 12 & 0xf0;
    }
    print(out, "processor: %s, family %u, model %u, stepping %u, %u core(s) of one package",
          out->p->vendor, family, model, v[0] & 0xf, out->p->vcpus);
    print(out, "brand: %s", *name ? name : "(none)");
    print(out, "physical addresses: %u bits, linear addresses: 48 bits", out->p->phys_bits);
    print(out, "XCR0:%s%s%s%s, XSAVE area %u bytes", " x87",
          out->p->xcr0_allowed & XCR0_SSE ? " sse" : "",
          out->p->xcr0_allowed & XCR0_AVX ? " avx" : "",
          out->p->xcr0_allowed & XCR0_PKRU ? " pkru" : "", out->p->xsave_size);
}

static void print_clock(struct printer *out) {
    const struct cpuid_policy *p = out->p;
    u32 v[4];
    cpuid_query(p, 0, NULL, 0x15, 0, v);
    print(out, "TSC: %llu.%03u MHz, %s; the host's counter with an offset, never trapped",
          (unsigned long long)(p->tsc_hz / 1000000), (u32)(p->tsc_hz / 1000 % 1000),
          cpuid_policy_has(p, "constant_tsc") ? "invariant" : "not invariant");
    if (v[0]) {
        print(out, "TSC frequency in CPUID: %u/%u of a crystal of 1 GHz, also the APIC timer's",
              v[1], v[0]);
    }
}

static const char *withheld_why(const struct printer *out, const struct cpuid_bit *b) {
    if (b->rule == RULE_NEVER || b->rule == RULE_DERIVE) {
        return b->why;
    }
    if (!host_has(b)) {
        return "the host does not have it";
    }
    for (u32 i = 0; i < cpuid_needs_count; i++) {
        if (str_eq(cpuid_needs[i].name, b->name) &&
            !cpuid_policy_has(out->p, cpuid_needs[i].needs)) {
            return "the feature it builds on is missing";
        }
    }
    return b->rule == RULE_AMD && !out->p->amd
               ? "reserved by this vendor"
               : "the engine or the host's system does not allow it";
}

static void print_bits(struct printer *out, bool offered) {
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        bool has = cpuid_policy_has(out->p, b->name);
        if (b->rule == RULE_DERIVE || has != offered) {
            continue;
        }
        if (has) {
            print(out, "  + %-20s %s", b->name, b->why);
        } else if (host_has(b) || b->rule == RULE_HOST) {
            print(out, "  - %-20s %s", b->name, withheld_why(out, b));
        }
    }
}

static void print_msrs(struct printer *out) {
    char text[LINE_SIZE];
    size_t len = 0;
    u32 index;
    for (u32 i = 0; !msr_state_list(i, &index); i++) {
        if (len > 80) {
            print(out, " %s", text);
            len = 0;
        }
        len += fmt_str(text + len, sizeof(text) - len, " 0x%x", index);
    }
    if (len) {
        print(out, " %s", text);
    }
    print(out, "  local APIC (0x800-0x8ff, 0x1b) and TSC deadline (0x6e0): the machine's");
    print(out, "  IA32_ARCH_CAPABILITIES (0x10a): 0x%llx",
          (unsigned long long)out->p->arch_capabilities);
    print(out, "  any other MSR: #GP(0)");
}

void cpuid_policy_print(const struct cpuid_policy *p, void (*line)(void *ctx, const char *text),
                        void *ctx) {
    struct printer out = {.p = p, .line = line, .ctx = ctx};
    print_identity(&out);
    print_clock(&out);
    print(&out, "offered:");
    print_bits(&out, true);
    print(&out, "withheld:");
    print_bits(&out, false);
    print(&out, "MSRs kept by the processor and saved with it:");
    print_msrs(&out);
}
