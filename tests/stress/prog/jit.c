/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A code generator that rewrites its own output: chains of small pieces (an operation on RAX, a
 * jump to the next piece) lie on several pages; between runs single operations or whole pieces are
 * rewritten, through the executable mapping or through an alias. C computes what must come out.
 * Also: code that rewrites an instruction just in front of itself, on its page, over a granule's
 * end and on the neighbouring page, and data written next to code on one page.
 */
#define _GNU_SOURCE
#include "stress.h"

enum { PAGES = 4, PIECES = 48, PIECE_MAX = 32 };

static u8 *code, *alias_of;
static u64 rnd;

static u64 rand_next(void) {
    return rnd_step(&rnd);
}

/* --- chains ------------------------------------------------------------------------------------
 */

struct piece {
    u32 at; /* offset in the code */
    u8 op;
    u32 imm;
};

static struct piece piece[PIECES];
static u32 piece_count;

static u64 piece_value(const struct piece *p, u64 v) {
    u64 imm = (u64)(s64)(int32_t)p->imm;
    switch (p->op) {
    case 0:
        return v + imm;
    case 1:
        return v ^ imm;
    case 2:
        return v - imm;
    case 3:
        return v << (p->imm & 31) | v >> ((64 - (p->imm & 31)) & 63);
    default:
        return v * imm;
    }
}

/* Writes the operation; returns its length. */
static u32 put_op(u8 *w, const struct piece *p) {
    static const u8 head[][3] = {
        {0x48, 0x05}, {0x48, 0x35}, {0x48, 0x2d}, {0x48, 0xc1, 0xc0}, {0x48, 0x69, 0xc0}};
    u32 n = p->op < 3 ? 2 : 3, len;
    memcpy(w, head[p->op], n);
    if (p->op == 3) {
        w[n] = p->imm & 31;
        len = n + 1;
    } else {
        memcpy(w + n, &p->imm, 4);
        len = n + 4;
    }
    while (len < 7) { /* all are equally long */
        w[len++] = 0x90;
    }
    return len;
}

static void put_jump(u8 *w, u32 from, u32 to) {
    int32_t rel = (int32_t)(to - (from + 5));
    w[0] = 0xe9;
    memcpy(w + 1, &rel, 4);
}

static u8 *writer(void) {
    return rand_next() & 1 ? code : alias_of;
}

static void piece_random(struct piece *p) {
    p->op = (u8)(rand_next() % 5);
    p->imm = (u32)rand_next() | 1;
}

static void put_piece(u32 n) {
    u8 *w = writer();
    u32 at = piece[n].at;
    u32 len = put_op(w + at, &piece[n]);
    if (n + 1 < piece_count) {
        put_jump(w + at + len, at + len, piece[n + 1].at);
    } else {
        w[at + len] = 0xc3;
    }
}

static void chain_new(void) {
    u32 slots = PAGES * PAGE / PIECE_MAX, start_at = (u32)rand_next();
    piece_count = 2 + (u32)(rand_next() % (PIECES - 2));
    for (u32 n = 0; n < piece_count; n++) {
        piece_random(&piece[n]);
        /* some over page ends and granules: any alignment within the slot */
        u32 slot = (start_at + n * (1 + 2 * (start_at % 31))) % (slots - 1);
        piece[n].at = slot * PIECE_MAX + (u32)(rand_next() % 18);
    }
    for (u32 n = 0; n < piece_count; n++) { /* two in one slot: next free one */
        for (u32 k = 0; k < n; k++) {
            if (piece[k].at / PIECE_MAX == piece[n].at / PIECE_MAX) {
                piece[n].at = (piece[n].at + PIECE_MAX) % ((slots - 1) * PIECE_MAX);
                k = (u32)-1;
            }
        }
    }
    for (u32 n = 0; n < piece_count; n++) {
        put_piece(n);
    }
}

static void chain_run(u64 v) {
    u64 want = v, got = v;
    for (u32 n = 0; n < piece_count; n++) {
        want = piece_value(&piece[n], want);
    }
    u8 *entry = code + piece[0].at;
    __asm__ volatile("call *%1" : "+a"(got) : "r"(entry) : "memory", "cc");
    if (got != want) {
        BAD("chain of %u gives %#llx, not %#llx", piece_count, (unsigned long long)got,
            (unsigned long long)want);
    }
}

static u64 chains(u64 end) {
    u64 rounds = 0;
    while (now_ns() < end && !stress_bad) {
        chain_new();
        for (u32 change = 0; change < 60; change++) {
            u32 runs = 1 + (u32)(rand_next() % (change % 8 ? 4 : 60));
            for (u32 r = 0; r < runs; r++) {
                chain_run(rand_next());
            }
            u32 n = (u32)(rand_next() % piece_count);
            piece_random(&piece[n]);
            if (rand_next() & 1) {
                put_piece(n);
            } else {
                put_op(writer() + piece[n].at, &piece[n]);
            }
            rounds += runs;
        }
    }
    return rounds;
}

/* --- code that changes what comes next
 * ------------------------------------------------------------ */

/* mov [rip+d], sil; (gap of nops); mov al, imm; ret: the store sets imm. */
static void self_once(u32 at, u32 gap, bool loop) {
    u8 *w = code + at;
    u32 imm_at = at + 7 + gap + 1;
    int32_t rel = (int32_t)(imm_at - (at + 7));
    static const u8 store[] = {0x40, 0x88, 0x35};
    memcpy(w, store, 3);
    memcpy(w + 3, &rel, 4);
    memset(w + 7, 0x90, gap);
    w[7 + gap] = 0xb0;
    w[8 + gap] = 0;
    w[9 + gap] = 0xc3;
    for (u32 i = 0; i < (loop ? 80u : 3u); i++) {
        u32 got, value = (u32)rand_next() & 0xff;
        __asm__ volatile("call *%2" : "=a"(got) : "S"(value), "r"(w) : "memory", "cc");
        CHECK_EQ(got & 0xff, value);
    }
}

static u64 self_modify(u64 end) {
    u64 rounds = 0;
    while (now_ns() < end && !stress_bad) {
        u32 gap = (u32)(rand_next() % 120);
        u32 near_page = PAGE - 130 + (u32)(rand_next() % 130);
        self_once(rand_next() & 1 ? near_page : (u32)(rand_next() % 3000), gap, rand_next() & 1);
        rounds++;
    }
    return rounds;
}

/* A counter on the page of the loop that counts: lock inc dword [rip+d]; dec esi; jnz; ret */
static u64 data_beside(u64 end) {
    static const u8 loop[] = {0xf0, 0xff, 0x05, 0, 0, 0, 0, 0xff, 0xce, 0x75, 0xf5, 0xc3};
    u64 rounds = 0;
    for (u32 distance = 12; now_ns() < end && !stress_bad; distance = (distance * 7 + 4) % 2000) {
        u32 at = 64 * (u32)(rand_next() % 30), counter = (at + 12 + distance) & ~3u;
        int32_t rel = (int32_t)(counter - (at + 7));
        memcpy(code + at, loop, sizeof(loop));
        memcpy(code + at + 3, &rel, 4);
        memset(code + counter, 0, 4);
        u32 count = 1 + (u32)(rand_next() % 5000), left = count, value;
        __asm__ volatile("call *%1" : "+S"(left) : "r"(code + at) : "memory", "cc");
        memcpy(&value, code + counter, 4);
        CHECK_EQ(value, count);
        rounds++;
    }
    return rounds;
}

int main(void) {
    stress_begin();
    rnd = rnd_seed();
    int fd = memfd_create("code", 0);
    NEED(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
    code = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0);
    alias_of = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEED(code != MAP_FAILED && alias_of != MAP_FAILED);
    u64 n = chains(stress_share(0.5));
    n += self_modify(stress_share(0.5));
    n += data_beside(stress_end);
    return stress_done("rewritten code", n);
}
