/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables for translated code; see look.h. What must be forgotten when: Intel SDM volume 3, section
 * 4.10; the callers in tlb.c decide. Forgetting more than needed is always allowed.
 */
#include "engines/soft/look.h"

#include "engines/soft/engine.h"
#include "engines/soft/verify.h"

static u32 slot_of(u64 linear) {
    return (u32)linear >> PAGE_SHIFT;
}

static u64 tag_of(u64 linear) {
    return linear | PAGE_MASK;
}

static u32 *head_of(struct soft_look *look, u64 gpa_page) {
    u64 page = gpa_page >> PAGE_SHIFT;
    return &look->page_head[(page ^ page >> 12) % LOOK_HEADS];
}

static u32 set_of(const struct soft_vcpu *c, u8 mmu) {
    return (u32)(c->tlb->now - c->tlb->context) * MMU_COUNT + mmu;
}

static u64 table_of(const struct soft_vcpu *c, u8 mmu) {
    const struct soft_look *look = c->tlb->look;
    const struct look_set *set = look->set[set_of(c, mmu)];
    return (u64)(uintptr_t)(set ? set : look->empty) + LOOK_BIAS;
}

void soft_look_select(struct soft_vcpu *c) {
    if (c->tlb->look) {
        c->look = table_of(c, c->mmu);
        c->look_ac[0] = table_of(c, c->mmu_ac[0]);
        c->look_ac[1] = table_of(c, c->mmu_ac[1]);
    }
}

/* --- life --------------------------------------------------------------------------------------
 */

static struct look_set *set_new(struct host *host) {
    static const u32 odd[] = {0, LOOK_SLOTS - 2, LOOK_SLOTS - 1};
    struct look_set *set = host->ops->pages(host, sizeof(*set));
    for (u32 i = 0; set && i < ARRAY_LEN(odd); i++) {
        set->read[odd[i]] = set->write[odd[i]] = look_none(odd[i]);
    }
    return set;
}

int soft_look_create(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    struct soft_look *look = host->ops->pages(host, sizeof(*look));
    if (!look) {
        return -ERR_NOMEM;
    }
    look->empty = set_new(host);
    if (!look->empty) {
        host->ops->pages_free(host, look, sizeof(*look));
        return -ERR_NOMEM;
    }
    u32 share = LOOK_TOUCHED_ALL / MAX(c->vm->ev->vcpu_count, 1u);
    look->touched_max = MIN(MAX(share, (u32)LOOK_TOUCHED_MIN), (u32)LOOK_TOUCHED_MAX);
    c->tlb->look = look;
    soft_look_select(c);
    return 0;
}

static void sets_free(struct soft_look *look, struct host *host) {
    for (u32 i = 0; i < LOOK_SETS; i++) {
        if (look->set[i]) {
            host->ops->pages_free(host, look->set[i], sizeof(*look->set[i]));
            look->set[i] = NULL;
        }
    }
}

void soft_look_destroy(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    struct soft_look *look = c->tlb ? c->tlb->look : NULL;
    if (look) {
        sets_free(look, host);
        host->ops->pages_free(host, look->empty, sizeof(*look->empty));
        host->ops->pages_free(host, look, sizeof(*look));
        c->tlb->look = NULL;
    }
}

static void reset(struct soft_vcpu *c) {
    struct soft_look *look = c->tlb->look;
    sets_free(look, c->vm->host);
    memset(look->set_head, 0, sizeof(look->set_head));
    memset(look->page_head, 0, sizeof(look->page_head));
    memset(look->region, 0, sizeof(look->region));
    look->touched = look->fills = 0;
    look->resets++;
    soft_look_select(c);
}

void soft_look_trim(struct soft_vcpu *c) {
    struct soft_look *look = c->tlb->look;
    struct host *host = c->vm->host;
    u8 *from = (u8 *)ALIGN_UP((uintptr_t)look->fill, (uintptr_t)PAGE_SIZE);
    u8 *to = (u8 *)ALIGN_DOWN((uintptr_t)(look->fill + LOOK_FILLS), (uintptr_t)PAGE_SIZE);
    reset(c);
    host->ops->pages_discard(host, from, (size_t)(to - from));
}

/* --- what is in them -----------------------------------------------------------------------------
 */

static bool is_touched(const struct soft_look *look, u32 set, u32 slot) {
    u32 region = slot >> LOOK_REGION_BITS;
    return look->region[set][region / 64] >> (region % 64) & 1;
}

static void touch(struct soft_look *look, u32 set, u32 slot) {
    u32 region = slot >> LOOK_REGION_BITS;
    if (!is_touched(look, set, slot)) {
        look->region[set][region / 64] |= BIT(region % 64);
        look->touched++;
    }
}

static void list_add(struct soft_look *look, u32 set, u64 linear, u64 phys) {
    struct look_fill *f = &look->fill[look->fills];
    u32 *head = head_of(look, phys & ~PAGE_MASK);
    *f = (struct look_fill){.linear = linear | (phys & (PHYS_GLOBAL | PHYS_LARGE)),
                            .gpa = phys & ~PAGE_MASK,
                            .next_in_set = look->set_head[set],
                            .next_in_page = *head,
                            .set = set};
    look->set_head[set] = *head = ++look->fills;
}

/* --- giving back -------------------------------------------------------------------------------
 */

static void slot_clear(struct look_set *set, u64 linear) {
    u32 slot = slot_of(linear);
    set->read[slot] = set->write[slot] = look_none(slot);
}

static bool is_live(const struct look_set *set, u64 linear) {
    u64 tag = tag_of(linear & ~PAGE_MASK);
    return set->read[slot_of(linear)] == tag || set->write[slot_of(linear)] == tag;
}

/* The list anew, of global pages only; `keep`: where they are. Returns in how many regions. */
static u32 keep_global(struct soft_look *look) {
    u32 fills = look->fills, kept = 0;
    look->fills = 0;
    memset(look->set_head, 0, sizeof(look->set_head));
    memset(look->page_head, 0, sizeof(look->page_head));
    memset(look->keep, 0, sizeof(look->keep));
    for (u32 i = 0; i < fills; i++) {
        struct look_fill f = look->fill[i];
        u32 region = slot_of(f.linear) >> LOOK_REGION_BITS;
        if ((f.linear & PHYS_GLOBAL) && is_live(look->set[f.set], f.linear)) {
            list_add(look, f.set, f.linear & ~PAGE_MASK, f.gpa | (f.linear & PAGE_MASK));
            kept += !(look->keep[f.set][region / 64] >> (region % 64) & 1);
            look->keep[f.set][region / 64] |= BIT(region % 64);
        } else {
            slot_clear(look->set[f.set], f.linear);
        }
    }
    return kept;
}

static void give_back(struct soft_vcpu *c, struct look_set *set, u32 region) {
    struct host *host = c->vm->host;
    u32 slot = region << LOOK_REGION_BITS;
    size_t bytes = sizeof(u64) << LOOK_REGION_BITS;
    host->ops->pages_discard(host, &set->read[slot], bytes);
    host->ops->pages_discard(host, &set->write[slot], bytes);
    host->ops->pages_discard(host, &set->addend[slot], bytes);
}

/* Of one set: regions that hold nothing global. The first and the last have look_none. */
static void give_back_set(struct soft_vcpu *c, u32 n) {
    struct soft_look *look = c->tlb->look;
    for (u32 region = 1; region < LOOK_REGIONS - 1; region++) {
        u64 bit = BIT(region % 64);
        if ((look->region[n][region / 64] & ~look->keep[n][region / 64]) & bit) {
            give_back(c, look->set[n], region);
            look->region[n][region / 64] &= ~bit;
            look->touched--;
        }
    }
}

/* Makes room in the list and in memory. Lock-step has a list of tags that would have to follow. */
static void make_room(struct soft_vcpu *c) {
    struct soft_look *look = c->tlb->look;
    if (c->verify || keep_global(look) > look->touched_max / 4 * 3 ||
        look->fills > LOOK_FILLS / 2) {
        reset(c);
        return;
    }
    for (u32 n = 0; n < LOOK_SETS; n++) {
        if (look->set[n]) {
            give_back_set(c, n);
        }
    }
    if (look->touched > look->touched_max / 4 * 3) { /* first and last regions of many sets */
        reset(c);
        return;
    }
    look->resets++;
}

/* --- filling -----------------------------------------------------------------------------------
 */

static struct look_set *set_get(struct soft_vcpu *c, u32 n) {
    struct soft_look *look = c->tlb->look;
    if (look->touched >= look->touched_max || look->fills >= LOOK_FILLS) {
        make_room(c);
    }
    if (!look->set[n]) {
        look->set[n] = set_new(c->vm->host);
        if (look->set[n]) {
            touch(look, n, 0);
            touch(look, n, LOOK_SLOTS - 1);
        }
        soft_look_select(c);
    }
    return look->set[n];
}

bool soft_look_fill(struct soft_vcpu *c, u64 linear, const struct tlb_entry *e, u64 phys,
                    enum access access) {
    struct soft_look *look = c->tlb->look;
    u64 page = linear & ~PAGE_MASK;
    if ((access == ACCESS_READ ? e->read : e->write) != page) {
        return false;
    }
    u32 n = set_of(c, c->mmu), slot = slot_of(page);
    struct look_set *set = set_get(c, n);
    if (!set) {
        return false;
    }
    touch(look, n, slot);
    bool same = (set->read[slot] | set->write[slot]) == tag_of(page) &&
                set->addend[slot] == e->addend && !(phys & PHYS_LARGE);
    if (!same) {
        list_add(look, n, page, phys);
    }
    set->addend[slot] = e->addend;
    set->read[slot] = e->read == page ? tag_of(page) : look_none(slot);
    set->write[slot] = e->write == page ? tag_of(page) : look_none(slot);
    if (UNLIKELY(c->verify) && e->write == page) {
        soft_verify_looked(c, set, slot);
    }
    return true;
}

/* --- forgetting --------------------------------------------------------------------------------
 */

static void set_clear(struct soft_look *look, u32 n, bool keep_global) {
    u32 at = look->set_head[n];
    look->set_head[n] = 0;
    while (at) {
        struct look_fill *f = &look->fill[at - 1];
        u32 next = f->next_in_set;
        if (keep_global && (f->linear & PHYS_GLOBAL)) {
            f->next_in_set = look->set_head[n];
            look->set_head[n] = at;
        } else {
            slot_clear(look->set[n], f->linear);
        }
        at = next;
    }
}

void soft_look_clear(struct soft_look *look, u32 context, bool keep_global) {
    for (u32 m = 0; look && m < MMU_COUNT; m++) {
        set_clear(look, context * MMU_COUNT + m, keep_global);
    }
}

static bool drop_large(struct soft_look *look, u32 n, u64 linear) {
    bool others = false;
    for (u32 at = look->set_head[n]; at; at = look->fill[at - 1].next_in_set) {
        u64 page = look->fill[at - 1].linear;
        u32 shift = tlb_large_shift(page);
        if (shift && !((page ^ linear) >> shift)) {
            slot_clear(look->set[n], page);
        } else {
            others |= shift && tlb_large_like(page, shift, linear);
        }
    }
    return others;
}

bool soft_look_drop_page(struct soft_look *look, u32 context, u64 linear, bool large) {
    bool others = false;
    for (u32 m = 0; look && m < MMU_COUNT; m++) {
        u32 n = context * MMU_COUNT + m;
        if (look->set[n] && is_touched(look, n, slot_of(linear))) {
            slot_clear(look->set[n], linear);
        }
        if (large) {
            others |= drop_large(look, n, linear);
        }
    }
    return others;
}

/* The slot may hold another page by now: its next write only looks again. */
static void write_clear(struct soft_look *look, const struct look_fill *f) {
    u32 slot = slot_of(f->linear);
    if (look->set[f->set]) {
        look->set[f->set]->write[slot] = look_none(slot);
    }
}

void soft_look_drop_writes(struct soft_look *look, u64 gpa_page) {
    u32 at = look ? *head_of(look, gpa_page) : 0;
    while (at) {
        const struct look_fill *f = &look->fill[at - 1];
        if (f->gpa == gpa_page) {
            write_clear(look, f);
        }
        at = f->next_in_page;
    }
}

void soft_look_drop_all_writes(struct soft_look *look) {
    for (u32 i = 0; look && i < look->fills; i++) {
        write_clear(look, &look->fill[i]);
    }
}
