/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where translated code lies: is the fetch translation of its page still the one that the trace was
 * made from? Each pair (linear page, guest-physical page) under each mode_key has a slot, and each
 * address space (struct tlb_context) an array with a word per slot: the jump_key under which the
 * pair was last found true. The entries X and P of a trace compare that word with c->jump_key,
 * which changes with the mode and whenever a translation for fetches is forgotten.
 *
 * User code of 64-bit mode above 4 GiB floats: kernels put programs and libraries at new addresses
 * each time, so its traces know only distances. What they say of addresses is as when they were
 * translated; c->tr_delta, what they are off by now, is added at run time: to return addresses, to
 * RIP-relative operands, to the addresses of exits. Traces that are off by the same are joined;
 * indirect jumps, which know the address, set tr_delta (entry X, STUB_FLOAT). Their words hold
 * c->tr_here, a number that is given out for each pair (jump_key, tr_delta).
 *
 * The words of kernel code (CPL 0, 64-bit) are common to all address spaces, since its pages are
 * global: they hold when a translation of such a page was last forgotten, and the mode, which is
 * c->tr_here there. Where kernel code is met on a page that is not global (tlb.h: loose) they all
 * end with the next change of address space.
 *
 * Lock rule: all belongs to the vCPU's thread.
 */
#include "engines/soft/tr.h"

enum { SLOTS_PER_MIB = 512 };

static size_t seen_bytes(const struct soft_tr *t) {
    return (size_t)t->slot_max * (TLB_CONTEXTS + 1) * sizeof(u64);
}

static bool is_kernel(u64 key) {
    return (key & (KEY_MODE_64 | KEY_CPL)) == KEY_MODE_64;
}

void soft_tr_context(struct soft_vcpu *c, u32 n) {
    bool kernel = is_kernel(c->mode_key);
    c->tr_seen = c->tr->seen + (size_t)(kernel ? TLB_CONTEXTS : n) * c->tr->slot_max;
    if (kernel) {
        c->tr_here = c->tlb->global_generation << 24 | c->mode_key;
    } else if (c->cpl == 3) {
        tr_delta_set(c, c->tr_delta);
    }
}

int tr_pages_create(struct soft_vcpu *c, struct soft_tr *t, u32 mib) {
    struct host *host = c->vm->host;
    t->slot_max = SLOTS_PER_MIB;
    while (t->slot_max < mib * SLOTS_PER_MIB) {
        t->slot_max *= 2;
    }
    t->slots = host->ops->pages(host, t->slot_max * sizeof(*t->slots));
    t->seen = host->ops->pages(host, seen_bytes(t));
    return t->slots && t->seen ? 0 : -ERR_NOMEM;
}

void tr_pages_destroy(struct soft_tr *t, struct host *host) {
    if (t->slots) {
        host->ops->pages_free(host, t->slots, t->slot_max * sizeof(*t->slots));
    }
    if (t->seen) {
        host->ops->pages_free(host, t->seen, seen_bytes(t));
    }
}

void tr_pages_forget(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    t->slot_count = 0;
    memset(t->slots, 0, t->slot_max * sizeof(*t->slots));
    memset(t->seen, 0, seen_bytes(t));
}

void tr_pages_trim(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    struct host *host = c->vm->host;
    host->ops->pages_discard(host, t->slots, t->slot_max * sizeof(*t->slots));
    host->ops->pages_discard(host, t->seen, seen_bytes(t));
}

bool tr_pages_room(const struct soft_tr *t) {
    return t->slot_count + 2 < t->slot_max - t->slot_max / 4;
}

/* Of a page that the trace being made uses; the caller has seen to tr_pages_room. */
u32 tr_page_slot(struct soft_tr *t, u64 page, u64 gpa_page) {
    u64 key = t->c->mode_key;
    u64 h = (page ^ gpa_page >> 12 ^ key << 20) * 0x9e3779b97f4a7c15ull >> 40;
    for (;; h++) {
        struct tr_slot *s = &t->slots[h & (t->slot_max - 1)];
        if (s->page == page && s->gpa == gpa_page && s->key == key) {
            return (u32)(s - t->slots);
        }
        if (!s->key) { /* never 0: 64-bit code, or 32-bit */
            *s = (struct tr_slot){.page = page, .gpa = gpa_page, .key = key};
            t->slot_count++;
            return (u32)(s - t->slots);
        }
    }
}

bool tr_uses_here(bool floats, u64 key) {
    return floats || is_kernel(key);
}

/* linear: the address that a fault shows */
static bool page_is(struct soft_vcpu *c, const struct tr_block *b, u64 linear, u64 gpa, u32 slot) {
    u64 phys;
    soft_tlb_get(c, linear, ACCESS_EXEC, c->cpl == 3 ? MMU_USER : MMU_SYS, &phys);
    if ((phys & PHYS_MMIO) || (gpa ^ phys) >> PAGE_SHIFT) {
        return false;
    }
    c->tlb->loose |= !b->floats && is_kernel(b->key) && !(phys & PHYS_GLOBAL);
    c->tr_seen[slot] = tr_uses_here(b->floats, b->key) ? c->tr_here : c->jump_key;
    return true;
}

bool tr_verify(struct soft_vcpu *c, const struct tr_block *b) {
    u64 rip = b->rip + (b->floats ? c->tr_delta : 0), next = (rip & ~PAGE_MASK) + PAGE_SIZE;
    if (b->dead || b->key != c->mode_key || !page_is(c, b, rip, b->gpa, b->slot)) {
        return false;
    }
    return !b->second_generation || page_is(c, b, next, b->second_gpa, b->second_slot);
}

/* --- floating traces ---------------------------------------------------------------------------
 */

bool tr_floats(const struct soft_vcpu *c, u64 rip) {
    return c->cpl == 3 && c->mode == 64 && rip >> 32;
}

void tr_delta_set(struct soft_vcpu *c, u64 delta) {
    struct tr_here *h = &c->tr_heres[(delta >> PAGE_SHIFT) % ARRAY_LEN(c->tr_heres)];
    if (h->delta != delta || h->key != c->jump_key) { /* no jump_key has bit 63 */
        *h = (struct tr_here){
            .delta = delta, .key = c->jump_key, .id = BIT(63) | ++c->tr->here_count};
    }
    c->tr_delta = delta;
    c->tr_here = h->id;
}

static struct tr_near *near_of(const struct soft_tr *t, u32 k, u64 rip, u64 *region) {
    *region = (rip >> (16 + 4 * k)) + 1; /* 0: free */
    return (struct tr_near *)(uintptr_t)&t->near[k][*region % ARRAY_LEN(t->near[k])];
}

void tr_delta_note(struct soft_vcpu *c, u64 rip) {
    u64 region;
    for (u32 k = 0; k < ARRAY_LEN(c->tr->near); k++) {
        struct tr_near *n = near_of(c->tr, k, rip, &region);
        *n = (struct tr_near){.region = region, .delta = c->tr_delta};
    }
}

/* As other traces of that page, or of neighbours: traces that are off by the same can be joined. */
u64 tr_delta_guess(const struct soft_vcpu *c, u64 rip, u64 gpa) {
    const struct soft_tr *t = c->tr;
    u64 region;
    for (u32 at = t->page_head[(gpa >> PAGE_SHIFT) % ARRAY_LEN(t->page_head)]; at;) {
        const struct tr_block *b = &t->blocks[(at - 1) >> 1];
        if (b->floats && !b->dead && !((b->gpa ^ gpa) >> PAGE_SHIFT)) {
            return (rip - b->rip) & ~PAGE_MASK;
        }
        at = b->next_page[(at - 1) & 1];
    }
    for (u32 k = 0; k < ARRAY_LEN(t->near); k++) {
        const struct tr_near *n = near_of(t, k, rip, &region);
        if (n->region == region) {
            return n->delta;
        }
    }
    return 0;
}
