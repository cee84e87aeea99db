/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPUID policy in saved machines, and whether another host or engine can be the saved
 * processor. A guest does not look at CPUID again after it has booted: it must find each
 * instruction and register that it was promised. Pure functions, no lock.
 */
#include "core/base/fmt.h"
#include "core/base/snap.h"
#include "core/cpu/cpuid.h"
#include "core/cpu/cpuid_table.h"
#include "core/cpu/state.h"

enum { VERSION = 1, PHYS_BITS_MIN = 32, PHYS_BITS_MAX = 52 };

#define TAG SNAP_TAG('C', 'P', 'I', 'D')

/* --- saving and loading ------------------------------------------------------------------------
 */

void cpuid_policy_save(const struct cpuid_policy *p, struct snap_writer *w) {
    size_t begin = snap_begin(w, TAG, VERSION);
    snap_put32(w, p->count);
    for (u32 i = 0; i < p->count; i++) {
        const struct cpuid_entry *e = &p->entry[i];
        const u32 v[6] = {e->leaf, e->subleaf, e->eax, e->ebx, e->ecx, e->edx};
        for (u32 k = 0; k < ARRAY_LEN(v); k++) {
            snap_put32(w, v[k]);
        }
        snap_put8(w, e->indexed);
    }
    snap_put64(w, p->xcr0_allowed);
    snap_put32(w, p->pkru_offset);
    snap_put8(w, p->pkru_aligned);
    snap_put8(w, p->phys_bits);
    snap_put(w, p->vendor, sizeof(p->vendor));
    snap_put32(w, p->vcpus);
    snap_put64(w, p->tsc_hz);
    snap_put64(w, p->arch_capabilities);
    snap_end(w, begin);
}

static void get_entries(struct cpuid_policy *p, struct snap_reader *r) {
    for (u32 i = 0; i < p->count; i++) {
        struct cpuid_entry *e = &p->entry[i];
        u32 *const v[6] = {&e->leaf, &e->subleaf, &e->eax, &e->ebx, &e->ecx, &e->edx};
        for (u32 k = 0; k < ARRAY_LEN(v); k++) {
            *v[k] = snap_get32(r);
        }
        e->indexed = snap_get_bool(r);
    }
}

int cpuid_policy_load(struct cpuid_policy *p, struct snap_reader *r) {
    struct snap_reader sub;
    *p = (struct cpuid_policy){0};
    if (!snap_section(r, TAG, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    u32 count = snap_get32(&sub);
    if (count > CPUID_MAX_ENTRIES) {
        return -ERR_FORMAT;
    }
    p->count = count;
    get_entries(p, &sub);
    p->xcr0_allowed = snap_get64(&sub);
    p->pkru_offset = snap_get32(&sub);
    p->pkru_aligned = snap_get_bool(&sub);
    p->phys_bits = snap_get8(&sub);
    snap_get(&sub, p->vendor, sizeof(p->vendor));
    p->vcpus = snap_get32(&sub);
    p->tsc_hz = snap_get64(&sub);
    p->arch_capabilities = snap_get64(&sub);
    bool ok = !snap_finish(&sub) && !p->vendor[sizeof(p->vendor) - 1] &&
              p->phys_bits >= PHYS_BITS_MIN && p->phys_bits <= PHYS_BITS_MAX;
    return ok ? 0 : -ERR_FORMAT;
}

/* --- can this host be that processor? ----------------------------------------------------------
 */

static const struct cpuid_entry *find(const struct cpuid_policy *p, u32 leaf, u32 subleaf) {
    for (u32 i = 0; i < p->count; i++) {
        const struct cpuid_entry *e = &p->entry[i];
        if (e->leaf == leaf && (!e->indexed || e->subleaf == subleaf)) {
            return e;
        }
    }
    return NULL;
}

static u32 reg_of(const struct cpuid_policy *p, u32 leaf, u32 subleaf, u32 reg) {
    const struct cpuid_entry *e = find(p, leaf, subleaf);
    const u32 v[4] = {e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0};
    return v[reg];
}

/* Bits of registers with features that the saved processor has and this one has not, by name where
 * they have one; true when there were any. */
static bool list_missing(const struct cpuid_policy *here, const struct cpuid_policy *saved,
                         char *text, size_t size) {
    size_t at = 0;
    bool any = false;
    text[0] = 0;
    for (u32 i = 0; i < cpuid_bits_count; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        u32 missing =
            reg_of(saved, b->leaf, b->subleaf, b->reg) & ~reg_of(here, b->leaf, b->subleaf, b->reg);
        any = any || missing;
        if ((missing >> b->bit & 1) && at < size) {
            at += fmt_str(text + at, size - at, "%s%s", at ? ", " : "", b->name);
        }
    }
    return any;
}

/* Leaves of features must be there once only: the first one found is the one that was checked. */
static bool entries_valid(const struct cpuid_policy *p) {
    for (u32 i = 1; i < p->count; i++) {
        const struct cpuid_entry *a = &p->entry[i - 1], *b = &p->entry[i];
        if (a->leaf > b->leaf ||
            (a->leaf == b->leaf && (!b->indexed || !a->indexed || a->subleaf >= b->subleaf))) {
            return false;
        }
    }
    return true;
}

/* The paravirtual promises count as features. */
static bool hypervisor_leaf_held(const struct cpuid_policy *here,
                                 const struct cpuid_policy *saved) {
    return !(reg_of(saved, 0x40000001u, 0, CPUID_EAX) & ~reg_of(here, 0x40000001u, 0, CPUID_EAX));
}

static int check(const struct cpuid_policy *here, const struct cpuid_policy *saved,
                 struct err *err) {
    char names[160];
    if (!entries_valid(saved) || saved->vcpus != here->vcpus) {
        return ERR_SET(err, ERR_FORMAT, "saved processor: the description is damaged");
    }
    if (!str_eq(here->vendor, saved->vendor)) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "saved processor: it is of %s, this host's of %s; the guest uses what "
                       "differs between them",
                       saved->vendor, here->vendor);
    }
    if (list_missing(here, saved, names, sizeof(names))) {
        return ERR_SET(err, ERR_UNSUPPORTED, "saved processor: this host and engine lack %s",
                       names[0] ? names : "some of its features");
    }
    if (saved->xcr0_allowed & ~here->xcr0_allowed ||
        ((saved->xcr0_allowed & XCR0_PKRU) &&
         (saved->pkru_offset != here->pkru_offset || saved->pkru_aligned != here->pkru_aligned))) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "saved processor: its XSAVE state is laid out in another way than here");
    }
    if (saved->phys_bits > here->phys_bits) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "saved processor: physical addresses have %u bits, here they have %u",
                       saved->phys_bits, here->phys_bits);
    }
    if (!hypervisor_leaf_held(here, saved)) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "saved processor: a paravirtual feature is not offered here");
    }
    return 0;
}

int cpuid_policy_adopt(struct cpuid_policy *p, const struct cpuid_policy *saved, u64 *weaker,
                       struct err *err) {
    int rc = check(p, saved, err);
    if (rc) {
        return rc;
    }
    p->count = saved->count;
    memcpy(p->entry, saved->entry, sizeof(p->entry));
    for (u32 i = 0; i < p->count; i++) {
        u32 leaf = p->entry[i].leaf;
        p->entry[i].indexed = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f;
    }
    p->xcr0_allowed = saved->xcr0_allowed;
    p->phys_bits = saved->phys_bits;
    p->tsc_hz = saved->tsc_hz;
    *weaker = saved->arch_capabilities & ~p->arch_capabilities;
    p->arch_capabilities = saved->arch_capabilities;
    cpuid_policy_settle(p);
    return 0;
}
