/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded blocks of one vCPU: straight runs of at most BLOCK_MAX instructions within one page, kept
 * by guest-physical address and mode_key, independent of the linear address they run at. An
 * instruction that crosses a page has a block of its own, good for one pair of pages.
 *
 *   next RIP --> links of the block just run --> jump cache --> fetch translation, hash --> decode
 *
 * Links and the jump cache hold (linear address, jump_key) -> block: jump_key changes with the
 * mode, the address space and whenever a translation for fetches is forgotten. All memory comes
 * from one arena, which is emptied when full.
 */
#ifndef ENGINES_SOFT_BLOCK_H
#define ENGINES_SOFT_BLOCK_H

#include "engines/soft/soft.h"

enum {
    BLOCK_MAX = 64,
    BLOCK_LINKS = 2,
    BLOCK_HASH_BITS = 15,
    BLOCK_TAG_SHIFT = 20,
    BLOCK_JUMP_BITS = 13,
    BLOCK_UOPS_MAX = 2 * BLOCK_MAX + 1,
};

struct block_jump {
    u64 linear, key;
    struct soft_block *to;
};

struct soft_block {
    struct block_jump link[BLOCK_LINKS];
    const u32 *generation; /* of its page; compared with seen before each run */
    u32 seen;
    u16 bytes;       /* of code */
    u16 heat;        /* executions by the interpreter */
    u8 count;        /* instructions */
    u8 uops;         /* the closing one included */
    u8 next_link;    /* which link is replaced next */
    u8 repeat;       /* lock-step: may its instruction be executed twice? (verify.c) */
    bool crosses;    /* one instruction over a page end: block_second() counts, too */
    bool cached;     /* found by hash; others are run once */
    bool tr_no;      /* cannot be translated */
    bool translated; /* it was: the translator's table may know it */
    u64 gpa, key;
    u32 hash_next; /* of another block: its place in the arena, in steps of 16 bytes, + 1 */
    struct uop uop[];
};
_Static_assert(sizeof(struct soft_block) == 96, "as struct uop");
_Static_assert(BLOCK_UOPS_MAX <= 255, "u8");

/* The page of the rest, behind the micro-operations of a block that crosses. */
struct soft_second {
    u64 gpa;
    const u32 *generation;
    u32 seen;
};

static inline const struct soft_second *block_second(const struct soft_block *b) {
    return (const struct soft_second *)(const void *)&b->uop[b->uops];
}

struct soft_cache {
    u8 *arena;
    size_t limit; /* of it is used; at most size */
    size_t size, used;
    size_t touched;    /* most that was used before an emptying, since the memory was given back */
    u64 resets;        /* counts emptyings: pointers to blocks from before are dead */
    u32 no_generation; /* for code outside RAM: always 0 */
    struct uop fetch;  /* c->uop while an instruction is being fetched */
    /* hash_next of the first, and a bit for each block in the chain: BLOCK_TAG_SHIFT and up */
    u32 hash[1 << BLOCK_HASH_BITS];
    struct block_jump jump[1 << BLOCK_JUMP_BITS];
    /* scratch of the decoder */
    struct uop uop[BLOCK_UOPS_MAX];
    u8 bytes[BLOCK_MAX * 15];
};

int soft_cache_create(struct soft_vcpu *c);
void soft_cache_destroy(struct soft_vcpu *c);
/* Forgets everything (RAM was remapped, instructions became available). Not inside a block. */
void soft_cache_reset(struct soft_vcpu *c);
/* All of it is in use: host.h, pages_join, which the host has. */
void soft_cache_join(struct soft_vcpu *c);
/* How much memory decoded blocks may take from now on; more than there is: all of it. */
void soft_cache_limit(struct soft_vcpu *c, size_t bytes);
/* Forgets decoded blocks and gives their memory back; not inside one. */
size_t soft_cache_touched(const struct soft_vcpu *c); /* bytes of memory that blocks have taken */
void soft_cache_trim(struct soft_vcpu *c);

/* The block at c->next_rip, decoded if need be; raises what fetching and the first instruction's
 * limits raise. */
struct soft_block *soft_block_find(struct soft_vcpu *c, u64 rip, u64 linear);

static inline bool block_fresh(const struct soft_block *b) {
    return __atomic_load_n(b->generation, __ATOMIC_RELAXED) == b->seen;
}

static inline bool second_fresh(const struct soft_block *b) {
    const struct soft_second *s = block_second(b);
    return __atomic_load_n(s->generation, __ATOMIC_RELAXED) == s->seen;
}

static inline struct block_jump *jump_slot(struct soft_cache *cache, u64 linear, u64 key) {
    u64 h = linear ^ linear >> 13 ^ (key >> 24) * 0x9e5;
    return &cache->jump[h & ((1u << BLOCK_JUMP_BITS) - 1)];
}

/* Of the code at gpa under a mode key: 32 bits, for tables of blocks, of traces and of what was
 * seen of both. */
static inline u32 soft_place_hash(u64 gpa, u64 key) {
    return (u32)((gpa ^ key << 44) * 0x9e3779b97f4a7c15ull >> 32);
}

/* The block at gpa is likely to be asked for: what will be looked at comes nearer meanwhile. */
static inline void soft_block_ahead(const struct soft_vcpu *c, u64 gpa) {
    u32 hash = soft_place_hash(gpa, c->mode_key);
    __builtin_prefetch(&c->cache->hash[hash & ((1u << BLOCK_HASH_BITS) - 1)]);
}

/* One instruction, or count of them, as a block that no table knows, for the translator; len bytes
 * of code at gpa, all in one page. It lies at room + *used, which moves on by at most count *
 * soft_single_size(). */
struct soft_block *soft_block_single(struct soft_vcpu *c, u64 gpa, const u8 *bytes, u32 len,
                                     u32 count, u8 *room, size_t *used);
size_t soft_single_size(void);

/* Code in guest RAM, which may be changing: to copy it, and to compare it with a copy. */
void soft_code_copy(u8 *dst, const u8 *src, u32 n);
bool soft_code_same(const u8 *copy, const u8 *code, u32 n);

/* A store of c met code on gpa's page: if the block being executed lies there, it ends after the
 * current instruction. */
void soft_block_outdated(struct soft_vcpu *c, u64 gpa);

/* A copy that lives as long as the block being built, in front of which it lies. */
const struct insn *soft_block_keep_insn(struct soft_vcpu *c, const struct insn *insn);

/* bind.c: fills uop[0] (and uop[1] when an address micro-op comes first) for the instruction at
 * offset from the block's start; returns how many. last: the block ends here. */
u32 soft_bind(struct soft_vcpu *c, const struct insn *insn, u32 offset, struct uop *uop,
              bool *last);
/* Joins neighbours that often come together (comparison and jump). */
void soft_fuse(struct uop *uop, u32 count);

/* Micro-operations that are no instruction. */
void uop_invalid(struct soft_vcpu *c, const struct uop *u); /* #UD */
void uop_end(struct soft_vcpu *c, const struct uop *u);     /* the block's end: on to the next */
#define UOP_MOFFS 0x100u
void uop_linear(struct soft_vcpu *c, const struct uop *u); /* checked address -> c->linear */

#endif
