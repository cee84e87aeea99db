/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256: FIPS 180-4, section 6.2; the instructions SHA256RNDS2, SHA256MSG1 and SHA256MSG2 in SDM
 * volume 2. Pure functions, no lock.
 */
#include "core/base/sha256.h"

static const u32 k[64] ALIGNED(16) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static u32 rotate(u32 v, u32 n) {
    return v >> n | v << (32 - n);
}

static u32 load_be(const u8 *p) {
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

/* --- in C --------------------------------------------------------------------------------------
 */

static void schedule(u32 w[64], const u8 *block) {
    for (u32 i = 0; i < 16; i++) {
        w[i] = load_be(block + 4 * (size_t)i);
    }
    for (u32 i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10) + w[i - 16];
    }
}

/* One round; the caller names the variables in turn instead of moving their values. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                           \
    do {                                                                                           \
        u32 t = (h) + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +                             \
                ((g) ^ ((e) & ((f) ^ (g)))) + k[i] + w[i];                                         \
        (d) += t;                                                                                  \
        (h) = t + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +                                 \
              (((a) & (b)) | ((c) & ((a) | (b))));                                                 \
    } while (0)

static void block_plain(u32 state[8], const u8 *block) {
    u32 w[64];
    u32 a = state[0], b = state[1], c = state[2], d = state[3];
    u32 e = state[4], f = state[5], g = state[6], h = state[7];
    schedule(w, block);
    for (u32 i = 0; i < 64; i += 8) {
        ROUND(a, b, c, d, e, f, g, h, i);
        ROUND(h, a, b, c, d, e, f, g, i + 1);
        ROUND(g, h, a, b, c, d, e, f, i + 2);
        ROUND(f, g, h, a, b, c, d, e, i + 3);
        ROUND(e, f, g, h, a, b, c, d, i + 4);
        ROUND(d, e, f, g, h, a, b, c, i + 5);
        ROUND(c, d, e, f, g, h, a, b, i + 6);
        ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    const u32 add[8] = {a, b, c, d, e, f, g, h};
    for (u32 i = 0; i < 8; i++) {
        state[i] += add[i];
    }
}

/* --- by the processor --------------------------------------------------------------------------
 */

typedef int v4 __attribute__((vector_size(16)));
typedef unsigned int v4u __attribute__((vector_size(16)));
typedef char v16 __attribute__((vector_size(16)));

static bool has_instructions(void) {
    u32 a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (a < 7) {
        return false;
    }
    a = 7, c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b & BIT(29);
}

__attribute__((target("ssse3"))) static inline v4 load_words(const u8 *p) {
    v16 v;
    memcpy(&v, p, sizeof(v));
    return (v4)__builtin_shufflevector(v, v, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
}

/* Lanes, lowest first, are F E B A and H G D C, as the instructions want them. Four rounds per
 * turn; m holds the last 16 words of the schedule. */
__attribute__((target("sha,ssse3"))) static void blocks_fast(u32 state[8], const u8 *p,
                                                             size_t count) {
    v4 abef = {(int)state[5], (int)state[4], (int)state[1], (int)state[0]};
    v4 cdgh = {(int)state[7], (int)state[6], (int)state[3], (int)state[2]};
    for (; count; count--, p += SHA256_BLOCK) {
        v4 abef0 = abef, cdgh0 = cdgh, m[4];
#pragma GCC unroll 16
        for (u32 i = 0; i < 16; i++) {
            v4 kk, *w = &m[i & 3];
            memcpy(&kk, k + 4 * (size_t)i, sizeof(kk));
            if (i < 4) {
                *w = load_words(p + 16 * (size_t)i);
            } else {
                v4 last = m[(i + 3) & 3];
                v4 old = __builtin_shufflevector(m[(i + 2) & 3], last, 1, 2, 3, 4);
                v4 part = __builtin_ia32_sha256msg1(*w, m[(i + 1) & 3]);
                *w = __builtin_ia32_sha256msg2((v4)((v4u)part + (v4u)old), last);
            }
            v4 wk = (v4)((v4u)*w + (v4u)kk);
            cdgh = __builtin_ia32_sha256rnds2(cdgh, abef, wk);
            wk = __builtin_shufflevector(wk, wk, 2, 3, 0, 0);
            abef = __builtin_ia32_sha256rnds2(abef, cdgh, wk);
        }
        abef = (v4)((v4u)abef + (v4u)abef0);
        cdgh = (v4)((v4u)cdgh + (v4u)cdgh0);
    }
    const u32 out[8] = {(u32)abef[3], (u32)abef[2], (u32)cdgh[3], (u32)cdgh[2],
                        (u32)abef[1], (u32)abef[0], (u32)cdgh[1], (u32)cdgh[0]};
    memcpy(state, out, sizeof(out));
}

/* --- all ---------------------------------------------------------------------------------------
 */

static void blocks(struct sha256 *s, const u8 *p, size_t count) {
    if (s->fast) {
        blocks_fast(s->state, p, count);
        return;
    }
    for (; count; count--, p += SHA256_BLOCK) {
        block_plain(s->state, p);
    }
}

void sha256_init(struct sha256 *s) {
    *s = (struct sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                   0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
                         .fast = has_instructions()};
}

void sha256_update(struct sha256 *s, const void *data, size_t size) {
    const u8 *p = data;
    size_t have = s->length % SHA256_BLOCK;
    s->length += size;
    if (have) {
        size_t n = MIN(size, SHA256_BLOCK - have);
        memcpy(s->block + have, p, n);
        p += n;
        size -= n;
        if (have + n < SHA256_BLOCK) {
            return;
        }
        blocks(s, s->block, 1);
    }
    blocks(s, p, size / SHA256_BLOCK);
    p += size & ~(size_t)(SHA256_BLOCK - 1);
    memcpy(s->block, p, size % SHA256_BLOCK);
}

void sha256_final(struct sha256 *s, u8 out[SHA256_SIZE]) {
    static const u8 padding[SHA256_BLOCK] = {0x80};
    u64 bits = s->length * 8;
    u8 tail[8];
    for (u32 i = 0; i < 8; i++) {
        tail[i] = (u8)(bits >> (56 - 8 * i));
    }
    size_t have = s->length % SHA256_BLOCK;
    sha256_update(s, padding, (have < 56 ? 56 : 120) - have);
    sha256_update(s, tail, sizeof(tail));
    for (u32 i = 0; i < 32; i++) {
        out[i] = (u8)(s->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

void sha256(const void *data, size_t size, u8 out[SHA256_SIZE]) {
    struct sha256 s;
    sha256_init(&s);
    sha256_update(&s, data, size);
    sha256_final(&s, out);
}
