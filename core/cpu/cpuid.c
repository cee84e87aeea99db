/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the CPUID policy and answers CPUID from it. Which feature bits are offered is decided by
 * the table in cpuid_table.c; this file makes the leaves that are numbers: identity, caches,
 * topology, XSAVE sizes, clocks and the hypervisor's leaves (SDM volume 2, CPUID; AMD APM volume 3,
 * appendix E). Pure functions, no lock.
 *
 * The hypervisor leaves carry KVM's signature with no paravirtual device behind it: it is what
 * makes Linux use the x2APIC without an IOMMU, and both engines keep what it promises. Sosia's own
 * signature stands at 0x40000100.
 */
#include "core/cpu/cpuid.h"

#include "core/base/fmt.h"
#include "core/cpu/cpuid_table.h"
#include "core/cpu/state.h"

enum {
    LEAF_HV = 0x40000000,
    LEAF_HV_FEATURES = 0x40000001,
    LEAF_HV_TIMING = 0x40000010,
    LEAF_OWN = 0x40000100,
    LEAF_EXT = (int)0x80000000,
};

#define LEAF_EXT_MAX     0x80000008u
#define LEAF_EXT_MAX_AMD 0x80000021u

/* KVM_FEATURE_NOP_IO_DELAY: port 0x80 writes are not needed as a delay. */
#define HV_NOP_IO_DELAY BIT(1)

enum { PHYS_BITS_MAX = 46, PHYS_BITS_MIN = 36, VIRT_BITS = 48 };
enum { XSAVE_LEGACY_SIZE = 576, AVX_SIZE = 256, AVX_OFFSET = 576, PKRU_SIZE = 8, PKRU_INDEX = 9 };
enum { PKRU_OFFSET_INTEL = 2688 }; /* behind AVX-512's components */

/* IA32_ARCH_CAPABILITIES (SDM volume 4): only bits that say "not affected" or "always on". */
#define ARCH_CAP_RDCL_NO        BIT(0)
#define ARCH_CAP_IBRS_ALL       BIT(1)
#define ARCH_CAP_SKIP_L1DFL     BIT(3)
#define ARCH_CAP_SSB_NO         BIT(4)
#define ARCH_CAP_MDS_NO         BIT(5)
#define ARCH_CAP_IF_PSCHANGE_NO BIT(6)
#define ARCH_CAP_TAA_NO         BIT(8)
#define ARCH_CAP_SBDR_SSDP_NO   BIT(13)
#define ARCH_CAP_FBSDP_NO       BIT(14)
#define ARCH_CAP_PSDP_NO        BIT(15)
#define ARCH_CAP_BHI_NO         BIT(20)
#define ARCH_CAP_PBRSB_NO       BIT(24)
#define ARCH_CAP_GDS_NO         BIT(26)
#define ARCH_CAP_RFDS_NO        BIT(27)
#define ARCH_CAP_ITS_NO         BIT(62)
/*
 * What soft offers. The guest's mitigations work on the processor's predictors and buffers at the
 * guest's own privilege changes. Under soft there are none: guest kernel and guest user run in one
 * host process, so they would cost time and protect nothing. Under kvm the host's own bits decide.
 */
#define ARCH_CAP_SOFT                                                                              \
    (ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL | ARCH_CAP_SSB_NO |                \
     ARCH_CAP_MDS_NO | ARCH_CAP_IF_PSCHANGE_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO |         \
     ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO |                  \
     ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO)

/* Leaf 0x15: Linux takes the crystal's frequency for the APIC timer's too, so it must be that. */
#define CRYSTAL_HZ 1000000000ull
/* Linux multiplies crystal kHz by the numerator in 32 bits. */
#define RATIO_MAX (UINT32_MAX / (CRYSTAL_HZ / 1000))

/* --- the host ------------------------------------------------------------------------------------
 */

void cpuid_host(u32 leaf, u32 subleaf, u32 out[4]) {
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}

/* Each leaf is read once: inside a virtual machine CPUID costs microseconds, and features share
 * leaves. */
struct host_cache {
    u32 count;
    struct {
        u32 leaf, subleaf, value[4];
    } entry[48];
};

static void host_query(void *ctx, u32 leaf, u32 subleaf, u32 out[4]) {
    struct host_cache *c = ctx;
    for (u32 i = 0; i < c->count; i++) {
        if (c->entry[i].leaf == leaf && c->entry[i].subleaf == subleaf) {
            memcpy(out, c->entry[i].value, sizeof(c->entry[i].value));
            return;
        }
    }
    cpuid_host(leaf, subleaf, out);
    if (c->count < ARRAY_LEN(c->entry)) {
        c->entry[c->count].leaf = leaf;
        c->entry[c->count].subleaf = subleaf;
        memcpy(c->entry[c->count++].value, out, sizeof(c->entry[0].value));
    }
}

static u64 host_xcr0(void) {
    u32 out[4], lo, hi;
    cpuid_host(1, 0, out);
    if (!(out[CPUID_ECX] & BIT(27))) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo | (u64)hi << 32;
}

/* A leaf of the source, zero where the leaf does not exist there. */
static void source_query(const struct cpuid_source *src, u32 leaf, u32 subleaf, u32 out[4]) {
    u32 top[4];
    src->query(src->ctx, leaf & 0x80000000u, 0, top);
    memset(out, 0, 4 * sizeof(u32));
    if (top[0] >= leaf && top[0] >> 31 == leaf >> 31) {
        src->query(src->ctx, leaf, subleaf, out);
    }
}

/* --- entries
 * -------------------------------------------------------------------------------------- */

static bool leaf_indexed(u32 leaf) {
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f;
}

static bool entry_is(const struct cpuid_entry *e, u32 leaf, u32 subleaf) {
    return e->leaf == leaf && (!leaf_indexed(leaf) || e->subleaf == subleaf);
}

static u32 *entry_reg(struct cpuid_entry *e, u32 reg) {
    return reg == CPUID_EAX   ? &e->eax
           : reg == CPUID_EBX ? &e->ebx
           : reg == CPUID_ECX ? &e->ecx
                              : &e->edx;
}

static const struct cpuid_entry *entry_find(const struct cpuid_policy *p, u32 leaf, u32 subleaf) {
    for (u32 i = 0; i < p->count; i++) {
        if (entry_is(&p->entry[i], leaf, subleaf)) {
            return &p->entry[i];
        }
    }
    return NULL;
}

/* Finds or inserts, keeping the order. The leaves made here are fewer than CPUID_MAX_ENTRIES. */
static struct cpuid_entry *entry_make(struct cpuid_policy *p, u32 leaf, u32 subleaf) {
    u32 at = 0;
    while (at < p->count && (p->entry[at].leaf < leaf ||
                             (p->entry[at].leaf == leaf && p->entry[at].subleaf < subleaf))) {
        at++;
    }
    if (at < p->count && entry_is(&p->entry[at], leaf, subleaf)) {
        return &p->entry[at];
    }
    if (p->count == CPUID_MAX_ENTRIES) {
        return &p->entry[CPUID_MAX_ENTRIES - 1];
    }
    memmove(&p->entry[at + 1], &p->entry[at], (p->count - at) * sizeof(p->entry[0]));
    p->count++;
    p->entry[at] =
        (struct cpuid_entry){.leaf = leaf, .subleaf = subleaf, .indexed = leaf_indexed(leaf)};
    return &p->entry[at];
}

static void entry_set(struct cpuid_policy *p, u32 leaf, u32 subleaf, const u32 v[4]) {
    struct cpuid_entry *e = entry_make(p, leaf, subleaf);
    e->eax = v[0], e->ebx = v[1], e->ecx = v[2], e->edx = v[3];
}

static void entry_copy(struct cpuid_policy *p, const struct cpuid_source *src, u32 leaf) {
    u32 v[4];
    source_query(src, leaf, 0, v);
    entry_set(p, leaf, 0, v);
}

/* --- feature bits
 * ---------------------------------------------------------------------------------- */

static bool bit_offered(const struct cpuid_policy *p, const struct cpuid_bit *b) {
    const struct cpuid_entry *e = entry_find(p, b->leaf, b->subleaf);
    if (!e) {
        return false;
    }
    const u32 v[4] = {e->eax, e->ebx, e->ecx, e->edx};
    return v[b->reg] >> b->bit & 1;
}

static void bit_set(struct cpuid_policy *p, const struct cpuid_bit *b, bool on) {
    u32 *reg = entry_reg(entry_make(p, b->leaf, b->subleaf), b->reg);
    *reg = on ? *reg | 1u << b->bit : *reg & ~(1u << b->bit);
}

static const struct cpuid_bit *bit_named(const char *name) {
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        if (str_eq(cpuid_bits[i].name, name)) {
            return &cpuid_bits[i];
        }
    }
    return NULL;
}

bool cpuid_policy_has(const struct cpuid_policy *p, const char *name) {
    const struct cpuid_bit *b = bit_named(name);
    return b && bit_offered(p, b);
}

static void bit_drop(struct cpuid_policy *p, const char *name) {
    const struct cpuid_bit *b = bit_named(name);
    if (b && bit_offered(p, b)) {
        bit_set(p, b, false);
    }
}

static int bits_offer(struct cpuid_policy *p, const struct cpuid_source *src, struct err *err) {
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        u32 v[4];
        source_query(src, b->leaf, b->subleaf, v);
        bool host = v[b->reg] >> b->bit & 1;
        if (b->rule == RULE_NEED && !host) {
            return ERR_SET(err, ERR_UNSUPPORTED, "this processor does not have %s", b->name);
        }
        bool offer = b->rule == RULE_EMUL || (b->rule == RULE_AMD && host && p->amd) ||
                     (host && (b->rule == RULE_NEED || b->rule == RULE_HOST));
        if (offer) {
            bit_set(p, b, true);
        }
    }
    return 0;
}

/* Takes back what lacks its foundation, and sums up what is left. */
static void bits_settle(struct cpuid_policy *p) {
    if (!(p->xcr0_allowed & XCR0_AVX)) {
        bit_drop(p, "avx");
    }
    if (!(p->xcr0_allowed & XCR0_PKRU)) {
        bit_drop(p, "pku");
    }
    for (u32 i = 0; i < cpuid_needs_count; i++) {
        if (!cpuid_policy_has(p, cpuid_needs[i].needs)) {
            bit_drop(p, cpuid_needs[i].name);
        }
    }
    p->features = 0;
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        if (b->feature != FEATURE_NONE && bit_offered(p, b)) {
            p->features |= BIT(b->feature);
        }
    }
    if (!cpuid_policy_has(p, "arch_capabilities")) {
        p->arch_capabilities = 0;
    }
    if (!cpuid_policy_has(p, "spec_ctrl")) {
        p->arch_capabilities &= ~(u64)ARCH_CAP_IBRS_ALL;
    }
}

/* --- leaves that are numbers
 * ----------------------------------------------------------------------- */

/* Components that the host has enabled, that exist at the place that the standard format gives. */
static void xsave_find(struct cpuid_policy *p, const struct cpuid_source *src) {
    u32 leaf1[4], avx[4], pkru[4];
    source_query(src, 1, 0, leaf1);
    source_query(src, 0xd, 2, avx);
    source_query(src, 0xd, PKRU_INDEX, pkru);
    p->xcr0_allowed = XCR0_X87;
    if (!(leaf1[CPUID_ECX] & BIT(26)) || (src->xcr0 & 3) != 3) {
        return;
    }
    p->xcr0_allowed |= XCR0_SSE;
    if ((src->xcr0 & XCR0_AVX) && avx[0] == AVX_SIZE && avx[1] == AVX_OFFSET) {
        p->xcr0_allowed |= XCR0_AVX;
    }
    if ((src->xcr0 & XCR0_PKRU) && pkru[0] == PKRU_SIZE && pkru[1] >= AVX_OFFSET + AVX_SIZE &&
        pkru[1] <= XSAVE_AREA_SIZE - PKRU_SIZE && !(pkru[1] & 7)) {
        p->xcr0_allowed |= XCR0_PKRU;
        p->pkru_offset = pkru[1];
        p->pkru_aligned = pkru[2] & BIT(1);
    }
}

static u32 xsave_standard(const struct cpuid_policy *p, u64 xcr0) {
    return xcr0 & XCR0_PKRU  ? p->pkru_offset + PKRU_SIZE
           : xcr0 & XCR0_AVX ? AVX_OFFSET + AVX_SIZE
                             : XSAVE_LEGACY_SIZE;
}

static u32 xsave_compacted(const struct cpuid_policy *p, u64 xcr0) {
    u32 size = XSAVE_LEGACY_SIZE;
    if (xcr0 & XCR0_AVX) {
        size += AVX_SIZE;
    }
    if (xcr0 & XCR0_PKRU) {
        size = (p->pkru_aligned ? (u32)ALIGN_UP(size, 64u) : size) + PKRU_SIZE;
    }
    return size;
}

/* Leaf 0xd for exactly the components that are left after bits_settle. */
static void xsave_leaves(struct cpuid_policy *p) {
    bool xsave = cpuid_policy_has(p, "xsave");
    u64 allowed = XCR0_X87;
    if (xsave) {
        allowed |= XCR0_SSE | (cpuid_policy_has(p, "avx") ? XCR0_AVX : 0) |
                   (cpuid_policy_has(p, "pku") ? XCR0_PKRU : 0);
    }
    p->xcr0_allowed = allowed;
    p->pkru_offset = allowed & XCR0_PKRU ? p->pkru_offset : 0;
    p->xsave_size = xsave_standard(p, allowed);
    u32 size = p->xsave_size;
    bool avx = allowed & XCR0_AVX, pkru = allowed & XCR0_PKRU;
    entry_set(p, 0xd, 0, (const u32[]){xsave ? (u32)allowed : 0, 0, xsave ? size : 0, 0});
    entry_set(p, 0xd, 2, (const u32[]){avx ? AVX_SIZE : 0, avx ? AVX_OFFSET : 0, 0, 0});
    entry_set(p, 0xd, PKRU_INDEX,
              (const u32[]){pkru ? PKRU_SIZE : 0, p->pkru_offset,
                            pkru && p->pkru_aligned ? (u32)BIT(1) : 0, 0});
}

static u32 id_bits(u32 vcpus) {
    u32 bits = 0;
    while (1u << bits < vcpus) {
        bits++;
    }
    return bits;
}

static void identity_leaves(struct cpuid_policy *p, const struct cpuid_source *src) {
    u32 v[4], top[4];
    source_query(src, 0, 0, v);
    u32 max = !p->amd && v[0] >= 0x1f ? 0x1f : 0x16;
    entry_set(p, 0, 0, (const u32[]){max, v[1], v[2], v[3]});
    bool ext21 = false;
    source_query(src, LEAF_EXT_MAX_AMD, 0, top);
    ext21 = p->amd && (top[0] | top[1] | top[2]);
    u32 ext_max = ext21 ? LEAF_EXT_MAX_AMD : LEAF_EXT_MAX;
    u32 same = p->amd ? ~0u : 0;
    entry_set(p, 0x80000000u, 0, (const u32[]){ext_max, v[1] & same, v[2] & same, v[3] & same});
    for (u32 leaf = 0x80000002u; leaf <= 0x80000004u; leaf++) {
        entry_copy(p, src, leaf);
    }
    source_query(src, 1, 0, v);
    struct cpuid_entry *e = entry_make(p, 1, 0);
    e->eax = v[0];
    u32 line = v[1] & 0xff00;
    e->ebx = (line ? line : 0x800) | p->vcpus << 16;
    if (p->vcpus > 1) {
        e->edx |= 1u << 28;
    }
    e = entry_make(p, 0x80000001u, 0);
    source_query(src, 0x80000001u, 0, v);
    e->eax = p->amd ? v[0] : 0;
}

/* AMD repeats some bits of leaf 1 and tells cores from threads in another place. */
static void amd_leaves(struct cpuid_policy *p) {
    enum { REPEATED = 0x0183f3ff };
    u32 edx = entry_make(p, 1, 0)->edx;
    struct cpuid_entry *e = entry_make(p, 0x80000001u, 0);
    if (!p->amd) {
        return;
    }
    e->edx |= edx & REPEATED;
    if (p->vcpus > 1) {
        e->ecx |= 1u << 1;
    }
    entry_make(p, 0x80000008u, 0)->ecx = (p->vcpus - 1) | id_bits(p->vcpus) << 12;
}

/* N cores of one package; level 3 is shared by all of them, the others belong to one core. */
static void cache_leaves(struct cpuid_policy *p, const struct cpuid_source *src) {
    u32 all = (1u << id_bits(p->vcpus)) - 1;
    if (p->amd) {
        entry_copy(p, src, 0x80000005u);
        entry_copy(p, src, 0x80000006u);
        return;
    }
    u32 v[4];
    source_query(src, 2, 0, v);
    entry_set(p, 2, 0, v);
    source_query(src, 0x80000006u, 0, v);
    entry_set(p, 0x80000006u, 0, (const u32[]){0, 0, v[2], 0});
    for (u32 i = 0; i < 5; i++) {
        source_query(src, 4, i, v);
        if (!(v[0] & 0x1f)) {
            break;
        }
        u32 level = v[0] >> 5 & 7;
        u32 sharing = level >= 3 ? all : 0;
        u32 cores = MIN(all, 63u);
        v[0] = (v[0] & 0x3ff) | sharing << 14 | cores << 26;
        entry_set(p, 4, i, v);
    }
}

static void topology_leaf(struct cpuid_policy *p, u32 leaf) {
    u32 bits = id_bits(p->vcpus);
    /* EAX shift to the next level, EBX processors at this level, ECX level type and number. */
    entry_set(p, leaf, 0, (const u32[]){0, 1, 1u << 8 | 0, 0});
    entry_set(p, leaf, 1, (const u32[]){bits, p->vcpus, 2u << 8 | 1, 0});
}

/* The best numerator/denominator for tsc/crystal with a numerator that fits (continued fraction).
 */
static void tsc_ratio(u64 tsc_hz, u32 *num, u32 *den) {
    u64 a = tsc_hz, b = CRYSTAL_HZ;
    u64 p0 = 0, p1 = 1, q0 = 1, q1 = 0;
    while (b) {
        u64 digit = a / b;
        u64 p2 = digit * p1 + p0, q2 = digit * q1 + q0;
        if (p2 > RATIO_MAX) {
            /* In between lie fractions that are better than the last one in the second half. */
            u64 part = (RATIO_MAX - p0) / p1;
            if (2 * part > digit) {
                p1 = part * p1 + p0;
                q1 = part * q1 + q0;
            }
            break;
        }
        p0 = p1, p1 = p2, q0 = q1, q1 = q2;
        u64 rest = a % b;
        a = b;
        b = rest;
    }
    *num = (u32)p1;
    *den = (u32)q1;
}

static void clock_leaves(struct cpuid_policy *p) {
    u32 num = 0, den = 0;
    u32 mhz = (u32)MIN(p->tsc_hz / 1000000, 0xffffull);
    if (p->tsc_hz && p->tsc_hz < CRYSTAL_HZ * 64) {
        tsc_ratio(p->tsc_hz, &num, &den);
    }
    if (num && den) {
        entry_set(p, 0x15, 0, (const u32[]){den, num, (u32)CRYSTAL_HZ, 0});
        entry_set(p, 0x16, 0, (const u32[]){mhz, mhz, 100, 0});
    }
    entry_set(p, LEAF_HV_TIMING, 0,
              (const u32[]){(u32)MIN(p->tsc_hz / 1000, UINT32_MAX), CRYSTAL_HZ / 1000, 0, 0});
}

void cpuid_policy_set_tsc(struct cpuid_policy *p, u64 tsc_hz) {
    p->tsc_hz = tsc_hz;
    clock_leaves(p);
}

static void hypervisor_leaves(struct cpuid_policy *p) {
    static const char kvm[12] = "KVMKVMKVM";
    static const char own[12] = {'S', 'o', 's', 'i', 'a', 'S', 'o', 's', 'i', 'a', ' ', ' '};
    u32 v[4] = {LEAF_HV_TIMING};
    memcpy(v + 1, kvm, sizeof(kvm));
    entry_set(p, LEAF_HV, 0, v);
    entry_set(p, LEAF_HV_FEATURES, 0, (const u32[]){HV_NOP_IO_DELAY, 0, 0, 0});
    v[0] = LEAF_OWN;
    memcpy(v + 1, own, sizeof(own));
    entry_set(p, LEAF_OWN, 0, v);
}

static void address_leaf(struct cpuid_policy *p) {
    struct cpuid_entry *e = entry_make(p, 0x80000008u, 0);
    e->eax = p->phys_bits | VIRT_BITS << 8;
}

static u8 phys_bits(const struct cpuid_source *src) {
    u32 v[4];
    source_query(src, 0x80000008u, 0, v);
    u32 bits = v[0] & 0xff;
    return (u8)(bits < PHYS_BITS_MIN ? PHYS_BITS_MIN : MIN(bits, (u32)PHYS_BITS_MAX));
}

static void vendor_find(struct cpuid_policy *p, const struct cpuid_source *src) {
    u32 v[4];
    source_query(src, 0, 0, v);
    memcpy(p->vendor, &v[1], 4);
    memcpy(p->vendor + 4, &v[3], 4);
    memcpy(p->vendor + 8, &v[2], 4);
    p->amd = str_eq(p->vendor, "AuthenticAMD") || str_eq(p->vendor, "HygonGenuine");
}

/* --- the policy
 * ------------------------------------------------------------------------------------- */

int cpuid_policy_build(struct cpuid_policy *p, const struct cpuid_source *host, u64 tsc_hz,
                       u32 vcpus, struct err *err) {
    *p = (struct cpuid_policy){.tsc_hz = tsc_hz, .vcpus = vcpus};
    if (!vcpus || vcpus > 255) {
        return ERR_SET(err, ERR_INVAL, "%u processors: 1 to 255 can be described", vcpus);
    }
    vendor_find(p, host);
    p->arch_capabilities = ARCH_CAP_SOFT;
    p->phys_bits = phys_bits(host);
    xsave_find(p, host);
    int rc = bits_offer(p, host, err);
    if (rc) {
        return rc;
    }
    bits_settle(p);
    xsave_leaves(p);
    identity_leaves(p, host);
    cache_leaves(p, host);
    topology_leaf(p, 0xb);
    if (entry_find(p, 0, 0)->eax >= 0x1f) {
        topology_leaf(p, 0x1f);
    }
    clock_leaves(p);
    hypervisor_leaves(p);
    address_leaf(p);
    amd_leaves(p);
    return 0;
}

int cpuid_policy_init(struct cpuid_policy *p, u64 tsc_hz, u32 vcpus, struct err *err) {
    struct host_cache cache = {.count = 0};
    struct cpuid_source host = {.query = host_query, .ctx = &cache, .xcr0 = host_xcr0()};
    return cpuid_policy_build(p, &host, tsc_hz, vcpus, err);
}

/* --- beyond the processor
 * --------------------------------------------------------------------------- */

static bool template_asks(const struct cpu_template *t, const struct cpuid_bit *b) {
    for (u32 i = 0; t && i < MIN(t->count, (u32)CPU_TEMPLATE_MAX); i++) {
        const struct cpu_modifier *m = &t->modifier[i];
        if (m->leaf == b->leaf && m->subleaf == b->subleaf && m->reg == b->reg &&
            (m->mask & m->value) >> b->bit & 1) {
            return true;
        }
    }
    return false;
}

/* Component 9 where Intel's processors have it, or where the saved machine has it. */
static void pkru_place(struct cpuid_policy *p, const struct cpuid_policy *saved) {
    u32 at = saved ? saved->pkru_offset : 0;
    bool good = at >= AVX_OFFSET + AVX_SIZE && at <= XSAVE_AREA_SIZE - PKRU_SIZE && !(at & 7);
    p->xcr0_allowed |= XCR0_PKRU;
    p->pkru_offset = good ? at : PKRU_OFFSET_INTEL;
    p->pkru_aligned = good && saved->pkru_aligned;
}

void cpuid_policy_emulate(struct cpuid_policy *p, u64 emulates, const struct cpu_template *t,
                          const struct cpuid_policy *saved) {
    const struct cpuid_bit *pku = bit_named("pku");
    bool wanted = template_asks(t, pku) || (saved && bit_offered(saved, pku));
    if (!(emulates & BIT(FEATURE_PKU)) || !wanted || bit_offered(p, pku)) {
        return;
    }
    pkru_place(p, saved);
    bit_set(p, pku, true);
    bits_settle(p);
    xsave_leaves(p);
}

static u32 limit_reg(const struct cpuid_entry *entry, u32 count, const struct cpuid_bit *b) {
    for (u32 i = 0; i < count; i++) {
        if (entry_is(&entry[i], b->leaf, b->subleaf)) {
            struct cpuid_entry e = entry[i];
            return *entry_reg(&e, b->reg);
        }
    }
    return 0;
}

void cpuid_policy_settle(struct cpuid_policy *p) {
    bits_settle(p);
    xsave_leaves(p);
    address_leaf(p);
}

void cpuid_policy_limit(struct cpuid_policy *p, const struct cpuid_entry *entry, u32 count,
                        u64 arch_capabilities) {
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        if (b->rule != RULE_DERIVE && bit_offered(p, b)) {
            bit_set(p, b, limit_reg(entry, count, b) >> b->bit & 1);
        }
    }
    for (u32 i = 0; i < count; i++) {
        if (entry_is(&entry[i], 0xd, 0)) {
            p->xcr0_allowed &= entry[i].eax | XCR0_X87;
        } else if (entry[i].leaf == 0x80000008u && (entry[i].eax & 0xff) >= PHYS_BITS_MIN) {
            p->phys_bits = MIN(p->phys_bits, (u8)entry[i].eax);
        }
    }
    p->arch_capabilities &= arch_capabilities;
    cpuid_policy_settle(p);
}

/* --- CPUID on a vCPU
 * -------------------------------------------------------------------------------- */

static void query_runtime(const struct cpuid_policy *p, u32 vcpu_id, const struct cpu_state *s,
                          u32 leaf, u32 subleaf, u32 out[4]) {
    u64 xcr0 = s ? s->xcr0 : XCR0_X87;
    switch (leaf) {
    case 1:
        out[CPUID_EBX] = (out[CPUID_EBX] & 0x00ffffff) | vcpu_id << 24;
        out[CPUID_ECX] |= s && (s->cr4 & CR4_OSXSAVE) ? 1u << 27 : 0;
        if (s && !(s->msr.apic_base & BIT(11))) {
            out[CPUID_EDX] &= ~(1u << 9);
        }
        break;
    case 7:
        out[CPUID_ECX] |= !subleaf && s && (s->cr4 & CR4_PKE) ? 1u << 4 : 0;
        break;
    case 0xb:
    case 0x1f:
        out[CPUID_EDX] = vcpu_id;
        out[CPUID_ECX] = (out[CPUID_ECX] & ~0xffu) | (subleaf & 0xff);
        break;
    case 0xd:
        if (subleaf == 0 && out[CPUID_EAX]) {
            out[CPUID_EBX] = xsave_standard(p, xcr0);
        } else if (subleaf == 1 && (out[CPUID_EAX] & BIT(1))) {
            out[CPUID_EBX] = xsave_compacted(p, xcr0);
        }
        break;
    default:
        break;
    }
}

/* Beyond the last leaf of its range: Intel repeats the last basic leaf, AMD gives zeros. */
static u32 query_leaf(const struct cpuid_policy *p, u32 leaf) {
    u32 base = leaf & 0xf0000000u;
    if (base == LEAF_HV && leaf >= LEAF_OWN) {
        base = LEAF_OWN;
    }
    const struct cpuid_entry *top = entry_find(p, base, 0);
    if (p->amd || (top && leaf <= top->eax)) {
        return leaf;
    }
    return entry_find(p, 0, 0) ? entry_find(p, 0, 0)->eax : 0;
}

void cpuid_query(const struct cpuid_policy *p, u32 vcpu_id, const struct cpu_state *s, u32 leaf,
                 u32 subleaf, u32 out[4]) {
    memset(out, 0, 4 * sizeof(u32));
    leaf = query_leaf(p, leaf);
    const struct cpuid_entry *e = entry_find(p, leaf, subleaf);
    if (e) {
        out[0] = e->eax, out[1] = e->ebx, out[2] = e->ecx, out[3] = e->edx;
    }
    if (e || leaf == 0xb || (leaf == 0x1f && entry_find(p, leaf, 0))) {
        query_runtime(p, vcpu_id, s, leaf, subleaf, out);
    }
}
