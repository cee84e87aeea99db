/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firecracker's custom CPU templates (docs/cpu_templates there) as struct cpu_template: CPUID bits
 * and IA32_ARCH_CAPABILITIES. Other MSRs belong to the guest alone, and KVM's capabilities and the
 * registers of other architectures mean nothing here: they are refused.
 *
 * Numbers are texts, "0x1", "0b101", "7"; bitmaps "0b01xx": the lowest bit last, x for "as it is",
 * bits in front of it too, '_' between.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/api_config.h"

enum { MSR_ARCH_CAPABILITIES = 0x10a };

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int parse_number(const char *s, u64 max, u64 *out, struct api_text *e) {
    bool hex = !strncmp(s, "0x", 2), bin = !strncmp(s, "0b", 2);
    const char *digits = s + (hex || bin ? 2 : 0);
    char *end;
    errno = 0;
    unsigned long long n = strtoull(digits, &end, hex ? 16 : bin ? 2 : 10);
    if (!*digits || strchr("+- ", *digits) || *end || errno || n > max) {
        return api_refuse(e, "'%.60s' is not a number such as 0x1 or 0b1.", s);
    }
    *out = n;
    return 0;
}

static int parse_bitmap(const char *s, u32 bits, u64 *mask, u64 *value, struct api_text *e) {
    u32 n = 0;
    *mask = *value = 0;
    bool ok = !strncmp(s, "0b", 2) && s[2];
    for (const char *p = s + (ok ? 2 : 0); ok && *p; p++) {
        if (*p == '_') {
            continue;
        }
        ok = strchr("01x", *p) && n++ < bits;
        *mask = *mask << 1 | (*p != 'x');
        *value = *value << 1 | (*p == '1');
    }
    return ok ? 0
              : api_refuse(e, "'%.80s' is not a bitmap such as 0b01xx with up to %u bits.", s,
                           bits);
}

static int take_register(const json_t *r, u32 leaf, u32 subleaf, struct cpu_template *t,
                         struct api_text *e) {
    static const char *const names[] = {"eax", "ebx", "ecx", "edx"};
    const char *name = text(r, "register");
    struct cpu_modifier *m = &t->modifier[t->count];
    u64 mask, value;
    if (t->count == CPU_TEMPLATE_MAX) {
        return api_refuse(e, "more than %d registers of CPUID.", CPU_TEMPLATE_MAX);
    }
    int rc = parse_bitmap(text(r, "bitmap"), 32, &mask, &value, e);
    if (rc) {
        return rc;
    }
    *m = (struct cpu_modifier){
        .leaf = leaf, .subleaf = subleaf, .mask = (u32)mask, .value = (u32)value};
    while (m->reg < 3 && strcmp(names[m->reg], name) != 0) {
        m->reg++;
    }
    t->count++;
    return 0;
}

static int take_leaf(const json_t *v, struct cpu_template *t, struct api_text *e) {
    const json_t *list = json_object_get(v, "modifiers");
    u64 leaf = 0, subleaf = 0;
    int rc = parse_number(text(v, "leaf"), UINT32_MAX, &leaf, e);
    rc = rc ? rc : parse_number(text(v, "subleaf"), UINT32_MAX, &subleaf, e);
    for (size_t i = 0; !rc && i < json_array_size(list); i++) {
        rc = take_register(json_array_get(list, i), (u32)leaf, (u32)subleaf, t, e);
    }
    return rc;
}

static int take_msr(const json_t *v, struct cpu_template *t, struct api_text *e) {
    u64 address = 0;
    int rc = parse_number(text(v, "addr"), UINT32_MAX, &address, e);
    if (!rc && address != MSR_ARCH_CAPABILITIES) {
        rc = api_refuse(e,
                        "MSR 0x%llx cannot be modified: Sosia offers that for 0x10a "
                        "(IA32_ARCH_CAPABILITIES) only.",
                        (unsigned long long)address);
    }
    return rc ? rc : parse_bitmap(text(v, "bitmap"), 64, &t->arch_mask, &t->arch_value, e);
}

int api_cpu_template(const json_t *config, struct cpu_template *out, struct api_text *e) {
    const json_t *leaves = json_object_get(config, "cpuid_modifiers");
    const json_t *msrs = json_object_get(config, "msr_modifiers");
    static const char *const none[] = {"kvm_capabilities", "reg_modifiers", "vcpu_features"};
    *out = (struct cpu_template){0};
    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        const json_t *v = json_object_get(config, none[i]);
        if (v && !json_is_null(v) && (!json_is_array(v) || json_array_size(v))) {
            return api_refuse(e, "%s are not offered by Sosia.", none[i]);
        }
    }
    int rc = 0;
    for (size_t i = 0; !rc && i < json_array_size(leaves); i++) {
        rc = take_leaf(json_array_get(leaves, i), out, e);
    }
    for (size_t i = 0; !rc && i < json_array_size(msrs); i++) {
        rc = take_msr(json_array_get(msrs, i), out, e);
    }
    return rc;
}
