/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoded-block cache; see block.h. Fetching: segment limit, canonical RIP, translation for
 * execution, bytes; code outside RAM is read through the bus and run one instruction at a time
 * without being kept.
 *
 * Lock rule: a cache belongs to its vCPU's thread. Code may change while it is decoded: see smc.h
 * for how that is noticed.
 */
#include "engines/soft/block.h"

#include "core/if/callout.h"
#include "engines/soft/engine.h"
#include "engines/soft/smc.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"

enum { DECODE_TRIES = 8, SINGLE_UOPS = 4 };
#define CACHE_HEAD ALIGN_UP(sizeof(struct soft_cache), (size_t)PAGE_SIZE) /* the arena follows */
#ifndef ARENA_SIZE
#define ARENA_SIZE (6 * MIB - CACHE_HEAD)
#endif
#define ARENA_SPARE                                                                                \
    (sizeof(struct soft_block) + BLOCK_UOPS_MAX * sizeof(struct uop) +                             \
     BLOCK_MAX * (sizeof(struct kept_insn) + 16) + 256)

/* --- the arena ---------------------------------------------------------------------------------
 */

int soft_cache_create(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    struct soft_cache *cache = host->ops->pages(host, CACHE_HEAD + ARENA_SIZE);
    if (!cache) {
        return -ERR_NOMEM;
    }
    cache->arena = (u8 *)cache + CACHE_HEAD;
    cache->size = cache->limit = ARENA_SIZE;
    cache->fetch.base = cache->fetch.index = MEM_NONE;
    c->cache = cache;
    return 0;
}

void soft_cache_destroy(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    if (c->cache) {
        host->ops->pages_free(host, c->cache, CACHE_HEAD + c->cache->size);
    }
    c->cache = NULL;
}

/* Decoded blocks only: translations stay. */
static void cache_empty(struct soft_vcpu *c) {
    struct soft_cache *cache = c->cache;
    if (cache->used) { /* else nothing was decoded yet, and fresh memory stays untouched */
        memset(cache->hash, 0, sizeof(cache->hash));
        memset(cache->jump, 0, sizeof(cache->jump));
    }
    cache->touched = MAX(cache->touched, cache->used);
    cache->used = 0;
    cache->resets++;
    c->block = NULL;
    c->uop = &cache->fetch;
}

void soft_cache_reset(struct soft_vcpu *c) {
    cache_empty(c);
    soft_tr_flush(c);
}

void soft_cache_join(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    host->ops->pages_join(host, c->cache, CACHE_HEAD + c->cache->size);
}

void soft_cache_limit(struct soft_vcpu *c, size_t bytes) {
    c->cache->limit = MIN(bytes, c->cache->size);
}

size_t soft_cache_touched(const struct soft_vcpu *c) {
    return MAX(c->cache->touched, c->cache->used);
}

void soft_cache_trim(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    cache_empty(c);
    host->ops->pages_discard(host, c->cache->arena, c->cache->size);
    c->cache->touched = 0;
}

static void *arena_take(struct soft_cache *cache, size_t size) {
    void *p = cache->arena + cache->used;
    cache->used += ALIGN_UP(size, (size_t)16);
    return p;
}

/* --- hash --------------------------------------------------------------------------------------
 */

_Static_assert(ARENA_SIZE / 16 < BIT(BLOCK_TAG_SHIFT), "places of blocks");

/* The head of the chain, and the block's bit in it. */
static u32 *hash_head(struct soft_cache *cache, u64 gpa, u64 key, u32 *tag) {
    u32 hash = soft_place_hash(gpa, key);
    *tag = 1u << (BLOCK_TAG_SHIFT + (hash >> BLOCK_HASH_BITS) % (32 - BLOCK_TAG_SHIFT));
    return &cache->hash[hash & ((1u << BLOCK_HASH_BITS) - 1)];
}

static struct soft_block *hash_block(const struct soft_cache *cache, u32 place) {
    u32 n = place & ((1u << BLOCK_TAG_SHIFT) - 1);
    return n ? (struct soft_block *)(void *)(cache->arena + 16 * (size_t)(n - 1)) : NULL;
}

static void unhook(struct soft_cache *cache, u32 *head, const struct soft_block *gone) {
    u32 *at = head;
    while (hash_block(cache, *at) != gone) {
        at = &hash_block(cache, *at)->hash_next;
    }
    *at = (*at & ~((1u << BLOCK_TAG_SHIFT) - 1)) | gone->hash_next;
}

/* Blocks of other places are not looked at where the chain's bits tell: most of them would have to
 * be fetched from far. Unhooks the block when it is outdated. */
static struct soft_block *hash_find(struct soft_cache *cache, u64 gpa, u64 key) {
    u32 tag, *head = hash_head(cache, gpa, key, &tag);
    struct soft_block *b = *head & tag ? hash_block(cache, *head) : NULL;
    while (b && (b->gpa != gpa || b->key != key)) {
        b = hash_block(cache, b->hash_next);
    }
    if (b && !block_fresh(b)) {
        unhook(cache, head, b);
        return NULL;
    }
    return b;
}

static void hash_add(struct soft_cache *cache, struct soft_block *b) {
    u32 tag, *head = hash_head(cache, b->gpa, b->key, &tag);
    u32 tags = *head & ~((1u << BLOCK_TAG_SHIFT) - 1);
    b->hash_next = *head ^ tags;
    b->cached = true;
    *head = tags | tag | (u32)(((const u8 *)b - cache->arena) / 16 + 1);
}

struct unaligned {
    u64 word;
} __attribute__((packed, may_alias));

/* Code may be changing while it is read: that is found by other means (smc.h). */
__attribute__((no_sanitize_thread)) static inline u64 code_word(const u8 *at) {
    return ((const volatile struct unaligned *)(const volatile void *)at)->word;
}

__attribute__((no_sanitize_thread)) void soft_code_copy(u8 *dst, const u8 *src, u32 n) {
    u32 i = 0;
    for (; i + 8 <= n; i += 8) {
        u64 word = code_word(src + i);
        memcpy(dst + i, &word, 8);
    }
    for (; i < n; i++) {
        dst[i] = ((const volatile u8 *)src)[i];
    }
}

__attribute__((no_sanitize_thread)) bool soft_code_same(const u8 *copy, const u8 *code, u32 n) {
    u32 i = 0;
    for (; i + 8 <= n; i += 8) {
        u64 word = code_word(code + i);
        if (memcmp(copy + i, &word, 8)) {
            return false;
        }
    }
    for (; i < n; i++) {
        if (copy[i] != ((const volatile u8 *)code)[i]) {
            return false;
        }
    }
    return true;
}

/* --- decoding ----------------------------------------------------------------------------------
 */

/* What is being decoded. */
struct source {
    const u8 *bytes;
    const u8 *host; /* bytes is filled from there when it comes to it; NULL: it is full */
    u32 have;       /* bytes filled so far */
    u32 avail;      /* bytes that may be used */
    bool page_ends; /* avail ends where the page does, not the segment */
    u32 max;        /* instructions */
};

struct decoded {
    u32 uops, insns, bytes;
    bool crosses; /* nothing fits: the first instruction goes on in the next page */
};

void uop_invalid(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_ud(c);
}

static void uop_too_long(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_gp(c, 0);
}

void uop_end(struct soft_vcpu *c, const struct uop *u) {
    GOTO_RIP(c, c->block_rip + u->offset);
}

/* After an instruction whose store outdated this block. */
static void uop_stop(struct soft_vcpu *c, const struct uop *u) {
    GOTO_RIP(c, c->block_rip + u->offset);
}

static struct uop *put_plain(struct soft_cache *cache, struct decoded *d, uop_fn fn) {
    struct uop *u = &cache->uop[d->uops++];
    *u = (struct uop){.fn = fn, .offset = (u16)d->bytes, .base = MEM_NONE, .index = MEM_NONE};
    return u;
}

/* Most blocks are short: fills src->bytes, which is the scratch, no further than the instruction at
 * `at` can reach. */
static inline void source_fill(struct soft_cache *cache, struct source *src, u32 at) {
    u32 end = MIN(at + INSN_MAX_LEN, src->avail);
    if (src->host && src->have < end) {
        u32 to = MIN(ALIGN_UP(end, 64u), src->avail);
        soft_code_copy(cache->bytes + src->have, src->host + src->have, to - src->have);
        src->have = to;
    }
}

/* Decodes one instruction; false when the block ends in front of it or because of it. */
static bool decode_one(struct soft_vcpu *c, struct source *src, struct decoded *d) {
    struct soft_cache *cache = c->cache;
    struct insn insn;
    u32 left = src->avail - d->bytes;
    source_fill(cache, src, d->bytes);
    enum decode_status status =
        left ? insn_decode(&insn, src->bytes + d->bytes, left, c->mode) : DECODE_MORE;
    if (status == DECODE_MORE) {
        if (d->insns == 0) {
            d->crosses = src->page_ends;
            if (!d->crosses) {
                put_plain(cache, d, uop_too_long); /* beyond the segment limit */
                d->insns = 1;
            }
        }
        return false;
    }
    if (status != DECODE_OK) {
        put_plain(cache, d, status == DECODE_INVALID ? uop_invalid : uop_too_long);
        d->bytes += MIN(left, status == DECODE_INVALID ? insn.len : INSN_MAX_LEN);
        d->insns++;
        return false;
    }
    bool last = (insn.flags & INSN_ENDS_BLOCK) != 0;
    d->uops += soft_bind(c, &insn, d->bytes, &cache->uop[d->uops], &last);
    d->bytes += insn.len;
    d->insns++;
    return !last;
}

static void decode_run(struct soft_vcpu *c, struct source *src, struct decoded *d) {
    *d = (struct decoded){0};
    while (d->insns < src->max && decode_one(c, src, d)) {
    }
    if (d->insns > 1) {
        soft_fuse(c->cache->uop, d->uops);
    }
    put_plain(c->cache, d, uop_end);
}

/* Before a block is decoded: room for it and for what the binder takes in front of it. */
static void block_room(struct soft_vcpu *c) {
    if (c->cache->limit < c->cache->used + 2 * ARENA_SPARE) {
        cache_empty(c);
    }
}

/* The block of what was decoded; its generations are the caller's to set. */
static struct soft_block *block_make(struct soft_vcpu *c, u64 gpa, const struct decoded *d,
                                     const struct soft_second *second) {
    struct soft_cache *cache = c->cache;
    size_t size = sizeof(struct soft_block) + d->uops * sizeof(struct uop);
    struct soft_block *b = arena_take(cache, size + (second ? sizeof(*second) : 0));
    memset(b, 0, sizeof(*b));
    b->gpa = gpa;
    b->key = c->mode_key;
    b->generation = &cache->no_generation;
    b->count = (u8)d->insns;
    b->bytes = (u16)d->bytes;
    b->uops = (u8)d->uops;
    memcpy(b->uop, cache->uop, d->uops * sizeof(struct uop));
    if (second) {
        b->crosses = true;
        memcpy(&b->uop[b->uops], second, sizeof(*second));
    }
    return b;
}

const struct insn *soft_block_keep_insn(struct soft_vcpu *c, const struct insn *insn) {
    struct kept_insn *copy = arena_take(c->cache, sizeof(*copy));
    copy->insn = *insn;
    copy->stub = NULL;
    return &copy->insn;
}

/* --- building ----------------------------------------------------------------------------------
 */

/* Where the code lies. */
struct place {
    u64 linear;
    u64 gpa;
    const u8 *host; /* NULL: not RAM */
    u32 in_page;    /* bytes to the page's end */
    u64 in_segment; /* bytes to the segment's end */
};

static u32 block_max(const struct soft_vcpu *c) {
    return c->mode_key & KEY_ONE ? 1 : BLOCK_MAX;
}

/* A block within one page of RAM. The last try is run once and not kept. */
static struct soft_block *build_in_page(struct soft_vcpu *c, const struct place *at,
                                        bool *crosses) {
    struct smc_page *page = smc_page_of(c->vm, at->gpa);
    struct soft_cache *cache = c->cache;
    u32 avail = MIN(at->in_page, (u32)sizeof(cache->bytes));
    bool whole = at->in_segment >= avail;
    struct source src = {.bytes = cache->bytes, .avail = avail, .max = block_max(c)};
    if (!whole) {
        src.avail = (u32)at->in_segment;
    }
    src.page_ends = whole && avail == at->in_page;
    struct soft_block *b = NULL;
    struct decoded d;
    for (u32 tries = 0; tries < DECODE_TRIES; tries++) {
        smc_watch(c, page, at->gpa);
        block_room(c);
        u32 seen = __atomic_load_n(&page->generation, __ATOMIC_SEQ_CST);
        u64 marked = smc_marked(page);
        src.host = at->host;
        src.have = 0;
        decode_run(c, &src, &d);
        *crosses = d.crosses;
        if (d.crosses) {
            return NULL;
        }
        b = block_make(c, at->gpa, &d, NULL);
        b->generation = &page->generation;
        b->seen = seen;
        u32 first = (u32)(at->gpa & PAGE_MASK), size = MAX(d.bytes, 1u);
        if (smc_was_marked(page, marked, first, size) ||
            (smc_mark(page, first, size) && soft_code_same(cache->bytes, at->host, d.bytes))) {
            if (whole) {
                hash_add(cache, b);
            }
            return b;
        }
    }
    b->generation = &cache->no_generation;
    b->seen = 0;
    return b;
}

/* The page after at's, for the rest of an instruction. */
static void next_page(struct soft_vcpu *c, const struct place *at, struct place *next) {
    u64 phys;
    u64 linear = (at->linear + at->in_page) & c->addr_mask;
    struct tlb_entry *e =
        soft_tlb_get(c, linear, ACCESS_EXEC, c->cpl == 3 ? MMU_USER : MMU_SYS, &phys);
    *next = (struct place){.linear = linear, .gpa = phys & ~PAGE_MASK, .in_page = PAGE_SIZE};
    next->host = phys & PHYS_MMIO ? NULL : (const u8 *)(uintptr_t)(linear + e->addend);
}

static void read_code(struct soft_vcpu *c, const struct place *at, u8 *buf, u32 n) {
    if (at->host) {
        soft_code_copy(buf, at->host, n);
        return;
    }
    soft_guest_leave(c);
    for (u32 i = 0; i < n; i++) {
        buf[i] = (u8)callout_mmio_read(c->ev, at->gpa + i, 1);
    }
    soft_guest_enter(c);
}

static void watch_part(struct soft_vcpu *c, const struct place *at, const u32 **generation,
                       u32 *seen) {
    struct smc_page *page = at->host ? smc_page_of(c->vm, at->gpa) : NULL;
    if (!page) {
        return;
    }
    for (u32 tries = 0; tries < DECODE_TRIES; tries++) {
        smc_watch(c, page, at->gpa);
        *seen = __atomic_load_n(&page->generation, __ATOMIC_SEQ_CST);
        /* Marked before the bytes are read, so a change from here on is noticed. */
        if (smc_mark(page, (u32)(at->gpa & PAGE_MASK), MIN(at->in_page, (u32)INSN_MAX_LEN))) {
            break;
        }
    }
    *generation = &page->generation;
}

/* One instruction, over a page end or outside RAM. */
static struct soft_block *build_odd(struct soft_vcpu *c, const struct place *at) {
    struct soft_cache *cache = c->cache;
    struct place next = {0};
    u32 first = MIN(at->in_page, (u32)INSN_MAX_LEN), rest = INSN_MAX_LEN - first;
    struct source src = {.bytes = cache->bytes, .avail = first, .max = 1};
    struct soft_second second = {.generation = &cache->no_generation};
    const u32 *generation = &cache->no_generation;
    u32 seen = 0;
    struct decoded d;
    block_room(c);
    watch_part(c, at, &generation, &seen);
    read_code(c, at, cache->bytes, first);
    src.page_ends = rest && at->in_segment > first;
    src.avail = (u32)MIN(at->in_segment, first);
    decode_run(c, &src, &d);
    bool crosses = d.crosses;
    if (crosses) {
        next_page(c, at, &next); /* may raise #PF */
        watch_part(c, &next, &second.generation, &second.seen);
        second.gpa = next.gpa;
        read_code(c, &next, cache->bytes + first, rest);
        src.page_ends = false;
        src.avail = (u32)MIN(at->in_segment, INSN_MAX_LEN);
        decode_run(c, &src, &d);
    }
    struct soft_block *b = block_make(c, at->gpa, &d, crosses ? &second : NULL);
    b->generation = generation;
    b->seen = seen;
    if (at->host && (!b->crosses || next.host) && at->in_segment >= INSN_MAX_LEN) {
        hash_add(cache, b);
    }
    return b;
}

/* --- for the translator ------------------------------------------------------------------------
 */

size_t soft_single_size(void) {
    return sizeof(struct soft_block) + SINGLE_UOPS * sizeof(struct uop) +
           2 * sizeof(struct kept_insn) + 64;
}

struct soft_block *soft_block_single(struct soft_vcpu *c, u64 gpa, const u8 *bytes, u32 len,
                                     u32 count, u8 *room, size_t *used) {
    struct source src = {.bytes = bytes, .avail = len, .max = count};
    struct soft_cache *cache = c->cache;
    struct decoded d;
    u8 *arena = cache->arena;
    size_t arena_used = cache->used;
    cache->arena = room; /* what the binder takes lies there, too */
    cache->used = *used;
    decode_run(c, &src, &d);
    struct soft_block *b = block_make(c, gpa, &d, NULL);
    *used = cache->used;
    cache->arena = arena;
    cache->used = arena_used;
    return b;
}

/* --- finding -----------------------------------------------------------------------------------
 */

static void locate(struct soft_vcpu *c, u64 rip, u64 linear, struct place *at) {
    u64 phys;
    if (c->mode == 64 ? (u64)((s64)(linear << 16) >> 16) != linear : rip > c->cs_limit) {
        soft_gp(c, 0);
    }
    struct tlb_entry *e =
        soft_tlb_get(c, linear, ACCESS_EXEC, c->cpl == 3 ? MMU_USER : MMU_SYS, &phys);
    at->linear = linear;
    at->gpa = (phys & ~PAGE_MASK) | (linear & PAGE_MASK);
    at->host = phys & PHYS_MMIO ? NULL : (const u8 *)(uintptr_t)(linear + e->addend);
    at->in_page = (u32)(PAGE_SIZE - (linear & PAGE_MASK));
    at->in_segment = c->mode == 64 ? UINT64_MAX : c->cs_limit - rip + 1;
}

/* Is a block that was found good here: its second page, the segment's end? */
static bool block_fits(struct soft_vcpu *c, const struct soft_block *b, const struct place *at) {
    struct place next;
    if (b->bytes > at->in_segment) {
        return false;
    }
    if (!b->crosses) {
        return true;
    }
    next_page(c, at, &next);
    return next.gpa == block_second(b)->gpa && second_fresh(b);
}

struct soft_block *soft_block_find(struct soft_vcpu *c, u64 rip, u64 linear) {
    struct place at;
    bool crosses = false;
    c->block = NULL;
    c->block_rip = rip;
    c->uop = &c->cache->fetch;
    locate(c, rip, linear, &at);
    struct soft_block *b = at.host ? hash_find(c->cache, at.gpa, c->mode_key) : NULL;
    if (b && block_fits(c, b, &at)) {
        return b;
    }
    b = at.host ? build_in_page(c, &at, &crosses) : NULL;
    return b ? b : build_odd(c, &at);
}

void soft_block_outdated(struct soft_vcpu *c, u64 gpa) {
    struct soft_block *b = c->block;
    if (!b || c->uop < b->uop || c->uop >= b->uop + b->uops) {
        return;
    }
    if ((b->gpa ^ gpa) >> PAGE_SHIFT &&
        !(b->crosses && !((block_second(b)->gpa ^ gpa) >> PAGE_SHIFT))) {
        return;
    }
    for (struct uop *u = b->uop + (c->uop - b->uop) + 1; u < b->uop + b->uops; u++) {
        u->fn = uop_stop;
    }
}
