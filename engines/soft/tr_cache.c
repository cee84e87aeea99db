/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator's memory: the code cache and its tables, which translation belongs to a block, and
 * what happens when it is full.
 *
 *   region:     0        1        2       ...  7
 *   code      [ stubs... | traces | ...                ]   each region has its part of each array,
 *   exits     [ fault .. |        | ...                ]   so what was made together is forgotten
 *   blocks, points, singles, recipes, single_room                   together
 *
 * Regions are filled one after another. When all are full one is emptied: its traces are taken out
 * of joins, tables and chains. Which one is drawn by lot: programs larger than the cache that go
 * round in it (compilers) would meet each trace just after it was forgotten if the oldest went.
 * Decoded blocks (block.h) come and go on their own; a trace is found by the place of its code.
 *
 * Lock rule: all belongs to the vCPU's thread.
 */
#include "core/if/trace.h"
#include "engines/soft/tr.h"

enum {
    CODE_SPARE = 96 * 1024, /* more than the longest trace */
    EXITS_PER_MIB = 24 * 1024,
    BLOCKS_PER_MIB = 6 * 1024,
    POINTS_PER_MIB = 6 * 1024,
    SINGLES_PER_MIB = 4 * 1024,
    RECIPES_PER_MIB = 8 * 1024,
    SINGLE_BYTES_PER_MIB = 768 * 1024,
    EXIT_SPARE = 8 * TR_TRACE_MAX,
    HEAT_MAX = 64,
    CALM = 3, /* how many times what makes an eviction come soon; measured: docs/soft-engine.md */
};

static u32 mib_of(const struct soft_tr *t) {
    return (u32)(t->code.size / MIB);
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct table {
    void **at;
    size_t size;
};

enum { TABLES = 7 };

static void tables_of(struct soft_tr *t, struct table table[TABLES]) {
    size_t mib = mib_of(t);
    table[0] = (struct table){(void **)&t->exits, mib * EXITS_PER_MIB * sizeof(*t->exits)};
    table[1] = (struct table){(void **)&t->blocks, mib * BLOCKS_PER_MIB * sizeof(*t->blocks)};
    table[2] = (struct table){(void **)&t->points, mib * POINTS_PER_MIB * sizeof(*t->points)};
    table[3] = (struct table){(void **)&t->singles, mib * SINGLES_PER_MIB * sizeof(*t->singles)};
    table[4] = (struct table){(void **)&t->single_room, mib * SINGLE_BYTES_PER_MIB};
    table[5] = (struct table){(void **)&t->recipes, mib * RECIPES_PER_MIB * sizeof(*t->recipes)};
    table[6] = (struct table){(void **)&t->slow_room, TR_SLOW * tr_slow_size()};
}

int tr_cache_create(struct soft_tr *t, struct host *host) {
    struct table table[TABLES];
    tables_of(t, table);
    for (u32 n = 0; n < TABLES; n++) {
        *table[n].at = host->ops->pages(host, table[n].size);
        if (!*table[n].at) {
            return -ERR_NOMEM;
        }
    }
    t->lot = 1;
    t->recipe_total = mib_of(t) * RECIPES_PER_MIB;
    return 0;
}

void tr_cache_destroy(struct soft_tr *t, struct host *host) {
    struct table table[TABLES];
    tables_of(t, table);
    for (u32 n = 0; n < TABLES; n++) {
        if (*table[n].at) {
            host->ops->pages_free(host, *table[n].at, table[n].size);
        }
    }
}

/* --- regions -------------------------------------------------------------------------------------
 */

struct extent {
    u32 code, exit, block, point, single, recipe;
    size_t single_room;
};

/* Where region n begins. */
static struct extent region_begin(const struct soft_tr *t, u32 n) {
    u64 at = (u64)mib_of(t) * n;
    return (struct extent){.code = n ? (u32)(at * MIB / TR_REGIONS) : t->first,
                           .exit = n ? (u32)(at * EXITS_PER_MIB / TR_REGIONS) : 1,
                           .block = (u32)(at * BLOCKS_PER_MIB / TR_REGIONS),
                           .point = (u32)(at * POINTS_PER_MIB / TR_REGIONS),
                           .single = (u32)(at * SINGLES_PER_MIB / TR_REGIONS),
                           .recipe = (u32)(at * RECIPES_PER_MIB / TR_REGIONS),
                           .single_room = at * SINGLE_BYTES_PER_MIB / TR_REGIONS};
}

static void region_start(struct soft_tr *t, u32 n) {
    struct extent begin = region_begin(t, n);
    t->region = n;
    t->filled |= 1u << n;
    t->used = begin.code;
    t->exit_count = begin.exit;
    t->block_count = begin.block;
    t->point_count = begin.point;
    t->single_count = begin.single;
    t->single_used = begin.single_room;
    t->recipe_count = begin.recipe;
    t->recipe_end = region_begin(t, n + 1).recipe;
    memset(t->recipe_seen, 0, sizeof(t->recipe_seen));
}

bool tr_cache_room(const struct soft_tr *t) {
    struct extent end = region_begin(t, t->region + 1);
    return t->used + CODE_SPARE < end.code && t->exit_count + EXIT_SPARE < end.exit &&
           t->block_count + 1 < end.block && t->point_count + TR_TRACE_MAX < end.point &&
           t->single_count + TR_TRACE_MAX < end.single &&
           t->single_used + TR_TRACE_MAX * soft_single_size() < end.single_room;
}

/* No trace was made since all was forgotten, or ever: the tables are what they were, and a machine
 * that was just made or restored need not touch a megabyte of fresh memory to empty it. */
static bool nothing_made(const struct soft_tr *t) {
    return !(t->filled >> 1) && !t->block_count && !t->slot_count;
}

/* The table is large and mostly empty: whole pages go back to the host rather than being written.
 */
static void jumps_empty(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    u8 *begin = (u8 *)c->tr_jump, *end = begin + sizeof(c->tr_jump);
    u8 *first = begin + (-(uintptr_t)begin & PAGE_MASK), *last = end - ((uintptr_t)end & PAGE_MASK);
    if (host->ops->pages_discard) {
        memset(begin, 0, (size_t)(first - begin));
        host->ops->pages_discard(host, first, (size_t)(last - first));
        memset(last, 0, (size_t)(end - last));
    } else {
        memset(begin, 0, sizeof(c->tr_jump));
    }
}

void tr_cache_forget(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    if (!nothing_made(t)) {
        memset(t->page_head, 0, sizeof(t->page_head));
        memset(t->slow, 0, sizeof(t->slow));
        memset(t->hash, 0, sizeof(t->hash));
        memset(t->heads, 0, sizeof(t->heads));
        memset(t->region_end, 0, sizeof(t->region_end));
        jumps_empty(c);
        tr_pages_forget(c);
    }
    c->tr_jump[0] = tr_jump_empty(0);
    c->tr_jump[1] = tr_jump_empty(1);
    t->exits[0] = (struct tr_exit){.kind = TR_FAULT};
    t->filled = 0;
    region_start(t, 0);
    soft_derived_update(c);
}

u64 tr_cache_touched(const struct soft_tr *t) {
    u64 bytes = 0;
    for (u32 n = 0; n < TR_REGIONS; n++) {
        u32 begin = n ? region_begin(t, n).code : 0, end = region_begin(t, n + 1).code;
        if (t->filled >> n & 1) {
            bytes += (n == t->region ? t->used : end) - begin;
        }
    }
    return bytes;
}

void tr_cache_trim(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    struct host *host = c->vm->host;
    struct table table[TABLES];
    size_t kept = ALIGN_UP((size_t)t->first, (size_t)PAGE_SIZE); /* the stubs */
    tables_of(t, table);
    for (u32 n = 0; n < TABLES; n++) {
        host->ops->pages_discard(host, *table[n].at, table[n].size);
    }
    host->ops->pages_discard(host, t->code.rw + kept, t->code.size - kept);
    t->joined = false;
    tr_cache_forget(c);
    tr_pages_trim(c);
}

/* --- one region away -----------------------------------------------------------------------------
 */

struct victim {
    struct extent begin, end;
};

static bool exit_gone(const struct victim *v, u32 n) {
    return n != TR_NONE && n >= v->begin.exit && n < v->end.exit;
}

/* Joins that lead into the region lead to the monitor again; those out of it leave the chain. */
static void unjoin(struct soft_tr *t, const struct victim *v, struct tr_block *b, bool gone) {
    u32 *at = &b->in;
    while (*at != TR_NONE) {
        struct tr_exit *e = &t->exits[*at];
        u32 next = e->next_in;
        if (exit_gone(v, *at)) {
            *at = next;
            if (e->kind == TR_EDGE) {
                e->target = TR_NONE;
            }
        } else if (gone) {
            tr_edge_unjoin(t, *at);
            *at = next;
        } else {
            at = &e->next_in;
        }
    }
}

/* Of all blocks that are joined from the region. Those "alone" can be so by exits that do not say
 * where they lead (tr_group.c). To walk all chains would be to fetch most exits there are. */
static void leave_chains(struct soft_tr *t, const struct victim *v, u32 blocks_end) {
    u32 first = v->begin.block;
    u32 end = blocks_end > first ? t->blocks[blocks_end - 1].exit_to : v->begin.exit;
    for (u32 n = v->begin.exit; n < end; n++) {
        const struct tr_exit *e = &t->exits[n];
        if (e->kind == TR_EDGE && e->target != TR_NONE) {
            unjoin(t, v, &t->blocks[e->target], false);
        }
    }
}

static void note_head(struct soft_tr *t, u64 gpa) {
    u64 *page = t->heads[(gpa >> PAGE_SHIFT) % ARRAY_LEN(t->heads)];
    page[(gpa & PAGE_MASK) >> 9] |= BIT(gpa >> 3 & 63);
}

static u32 *hash_head(struct soft_tr *t, u64 gpa, u64 key) {
    return &t->hash[soft_place_hash(gpa, key) % ARRAY_LEN(t->hash)];
}

u32 *tr_cache_page(struct soft_tr *t, u64 gpa) {
    return &t->page_head[(gpa >> PAGE_SHIFT) % ARRAY_LEN(t->page_head)];
}

static void page_add(struct soft_tr *t, u32 block, u64 gpa, u32 which) {
    u32 *head = tr_cache_page(t, gpa);
    t->blocks[block].next_page[which] = *head;
    *head = (block << 1 | which) + 1;
}

void tr_cache_add(struct soft_tr *t, u32 block) {
    struct tr_block *b = &t->blocks[block];
    u32 *head = hash_head(t, b->gpa, b->key);
    while (*head && t->blocks[*head - 1].dead) {
        *head = t->blocks[*head - 1].next_rip;
    }
    b->next_rip = *head;
    *head = block + 1;
    note_head(t, b->gpa);
    page_add(t, block, b->gpa, 0);
    if (b->second_generation) {
        page_add(t, block, b->second_gpa, 1);
    }
}

static void drop_jumps(struct soft_vcpu *c, const struct victim *v) {
    u64 base = (u64)(uintptr_t)c->tr->code.rx;
    for (u32 i = 0; i < ARRAY_LEN(c->tr_jump); i++) {
        struct tr_jump *j = &c->tr_jump[i];
        if (j->host - base >= v->begin.code && j->host - base < v->end.code) {
            *j = tr_jump_empty(i);
        }
    }
}

static u32 blocks_end(const struct soft_tr *t, u32 n) {
    return n == t->region ? t->block_count : t->region_end[n].block;
}

/* Is the cache too small for the code that is hot? Is it dearer to translate it again and again, or
 * to interpret more of it? To fill a region takes about as long as to interpret a block for every
 * 16 bytes of it: that much without an eviction, and less is interpreted. */
static bool soon(const struct soft_tr *t, u64 times) {
    return t->stats.cold - t->evicted_at < times * (t->code.size / TR_REGIONS / 16);
}

static void adapt(struct soft_tr *t) {
    u32 more = MAX(t->heat, MIN(2 * t->heat, (u32)HEAT_MAX)), less = MAX(t->heat / 2, t->heat_min);
    if (!t->c->vm->ev->translator.heat) {
        t->heat = soon(t, 1) ? more : less;
    }
    t->evicted_at = t->stats.cold;
}

bool tr_cache_relax(struct soft_tr *t) {
    if (t->stats.evictions && soon(t, CALM)) {
        return false;
    }
    if (t->heat > t->heat_min) {
        adapt(t);
    }
    return t->heat == t->heat_min;
}

static void evict(struct soft_vcpu *c, u32 n) {
    struct soft_tr *t = c->tr;
    struct victim v = {region_begin(t, n), region_begin(t, n + 1)};
    memset(t->page_head, 0, sizeof(t->page_head));
    memset(t->hash, 0, sizeof(t->hash));
    memset(t->heads, 0, sizeof(t->heads));
    leave_chains(t, &v, blocks_end(t, n));
    for (u32 r = 0; r < TR_REGIONS; r++) {
        u32 end = t->filled >> r & 1 ? blocks_end(t, r) : 0;
        for (u32 b = region_begin(t, r).block; b < end; b++) {
            if (r == n || t->blocks[b].alone) {
                unjoin(t, &v, &t->blocks[b], r == n);
            }
            if (r != n && !t->blocks[b].dead) {
                tr_cache_add(t, b);
            }
        }
    }
    drop_jumps(c, &v);
    adapt(t);
    t->stats.evictions++;
    TRACE(c->vm->ev->trace, TRACE_TRANSLATOR, "flush: the cache is full, region %u goes", n);
}

/* xorshift */
static u32 draw(struct soft_tr *t, u32 below) {
    t->lot ^= t->lot << 13;
    t->lot ^= t->lot >> 17;
    t->lot ^= t->lot << 5;
    return t->lot % below;
}

/* Far more pages are in use than the processor has translations for. Code fills its memory from
 * the start; the tables are in use all over when the cache is full. */
static void join_pages(struct soft_vcpu *c, bool full) {
    struct soft_tr *t = c->tr;
    struct host *host = c->vm->host;
    if (t->joined || !host->ops->pages_join) {
        return;
    }
    size_t code = full ? t->code.size : region_begin(t, t->region + 1).code;
    host->ops->pages_join(host, t->code.rw, code);
    host->ops->pages_join(host, t->code.rx, code);
    if (full) {
        host->ops->pages_join(host, c, SOFT_ROOM_SIZE);
        soft_cache_join(c);
        t->joined = true;
    }
}

void tr_cache_make_room(struct soft_vcpu *c) {
    struct soft_tr *t = c->tr;
    u32 next = 0;
    t->region_end[t->region] =
        (struct tr_region_end){.block = t->block_count, .point = t->point_count};
    while (next < TR_REGIONS && (t->filled >> next & 1)) {
        next++;
    }
    join_pages(c, next == TR_REGIONS);
    if (next == TR_REGIONS) {
        next = (t->region + 1 + draw(t, TR_REGIONS - 1)) % TR_REGIONS;
        evict(c, next);
    }
    region_start(t, next);
}

/* --- finding -------------------------------------------------------------------------------------
 */

static struct tr_block *find(struct soft_tr *t, u64 gpa, u64 key, u64 rip, u64 second_gpa,
                             bool alone) {
    u32 n = tr_cache_head(t, gpa) ? *hash_head(t, gpa, key) : 0;
    for (; n; n = t->blocks[n - 1].next_rip) {
        struct tr_block *found = &t->blocks[n - 1];
        if (found->rip == rip && found->gpa == gpa && found->key == key &&
            found->second_gpa == second_gpa && found->alone == alone && !found->dead) {
            return found;
        }
    }
    return NULL;
}

struct tr_block *tr_cache_find(struct soft_tr *t, u64 gpa, u64 key, u64 rip, u64 second_gpa) {
    return find(t, gpa, key, rip, second_gpa, false);
}

struct tr_block *tr_cache_find_alone(struct soft_tr *t, u64 gpa, u64 key, u64 rip) {
    return find(t, gpa, key, rip, 0, true);
}

struct tr_block *tr_cache_find_floating(struct soft_tr *t, u64 gpa, u64 key, u64 second_gpa) {
    u32 n = tr_cache_head(t, gpa) ? *hash_head(t, gpa, key) : 0;
    for (; n; n = t->blocks[n - 1].next_rip) {
        struct tr_block *found = &t->blocks[n - 1];
        if (found->floats && !found->alone && found->gpa == gpa && found->key == key &&
            found->second_gpa == second_gpa && !found->dead) {
            return found;
        }
    }
    return NULL;
}

const struct tr_point *tr_point_find(const struct soft_tr *t, u32 host) {
    u32 n = (u32)((u64)host * TR_REGIONS / t->code.size);
    u32 low = region_begin(t, n).point;
    u32 high = n == t->region ? t->point_count : MAX(low, t->region_end[n].point);
    while (low < high) {
        u32 mid = low + (high - low) / 2;
        const struct tr_point *p = &t->points[mid];
        if (p->host == host) {
            return p;
        }
        if (p->host < host) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return NULL;
}
