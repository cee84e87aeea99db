/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares core's decoder with Zydis over random bytes, random bytes shaped like instructions, and
 * the code of ELF files.
 *
 *   decode_zydis [--count N] [--seed N] [--mode 16|32|64|all] [--show N] [--elf FILE]...
 *
 * Prints a summary and the first differences of each kind. Exit status 1 when a difference is not
 * one of the classes that docs/decoder.md explains.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/conformance/decode_compare.h"

enum { MAX_KINDS = 4096, STREAM = 64 };

/* Differences of one kind: the same thing differs between the same two mnemonics in one mode. */
struct kind {
    struct compared first;
    u8 mode;
    u8 code[15];
    u64 count;
};

struct run {
    struct compare compare;
    u64 rng;
    u64 instructions, valid, explained, unexplained;
    struct kind kind[MAX_KINDS];
    u32 kinds, show;
};

static u64 random_next(u64 *s) {
    u64 z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void record(struct run *r, const struct compared *c, const u8 *code, u8 mode) {
    *(c->explained ? &r->explained : &r->unexplained) += 1;
    for (u32 i = 0; i < r->kinds; i++) {
        struct kind *k = &r->kind[i];
        if (k->mode == mode && !strcmp(k->first.what, c->what) && !strcmp(k->first.ours, c->ours) &&
            !strcmp(k->first.theirs, c->theirs) && k->first.explained == c->explained) {
            k->count++;
            return;
        }
    }
    if (r->kinds == MAX_KINDS)
        return;
    struct kind *k = &r->kind[r->kinds++];
    k->first = *c;
    k->mode = mode;
    k->count = 1;
    memcpy(k->code, code, sizeof(k->code));
}

static u8 step(struct run *r, const u8 *code, size_t avail, u8 mode) {
    struct compared c;
    compare_one(&r->compare, code, avail, mode, &c);
    r->instructions++;
    r->valid += c.valid;
    if (c.what[0])
        record(r, &c, code, mode);
    return c.len;
}

/* --- sources
 * --------------------------------------------------------------------------------------- */

static u8 put_prefixes(struct run *r, u8 *code, u8 mode) {
    static const u8 legacy[] = {0x66, 0x66, 0x66, 0xf2, 0xf3, 0xf2, 0xf3, 0xf0,
                                0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66};
    u64 x = random_next(&r->rng);
    u8 n = 0, count = (u8)((x & 7) < 4 ? 0 : (x & 7) < 6 ? 1 : (x & 7) == 6 ? 2 : x >> 8 & 3);
    for (u8 i = 0; i < count; i++)
        code[n++] = legacy[x >> (16 + 4 * i) & 15];
    if (mode == 64 && (x >> 40 & 3) == 0)
        code[n++] = (u8)(0x40 | (x >> 44 & 15));
    return n;
}

/* Prefixes, an escape, and whatever bytes stand behind: every opcode of every map comes often. */
static void put_form(struct run *r, u8 *code, u8 mode) {
    u8 n = put_prefixes(r, code, mode);
    u64 x = random_next(&r->rng);
    switch (x & 7) {
    case 0:
    case 1:
        break;
    case 2:
    case 3:
        code[n++] = 0x0f;
        break;
    case 4:
        code[n++] = 0x0f;
        code[n++] = x & 8 ? 0x38 : 0x3a;
        break;
    case 5:
        code[n++] = 0xc5;
        code[n++] = (u8)((x >> 8) | (mode == 64 ? 0 : 0xc0) | (x & 16 ? 0x78 : 0));
        break;
    case 6:
        code[n++] = 0xc4;
        code[n++] = (u8)((x >> 8 & 0xe0) | (mode == 64 ? 0 : 0xc0) | (1 + (x >> 24) % 3));
        code[n++] = (u8)((x >> 32) | (x & 16 ? 0x78 : 0));
        break;
    default:
        code[n++] = (u8)(0xd8 | (x >> 8 & 7));
    }
}

static void fill(struct run *r, u8 *code, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        u64 x = random_next(&r->rng);
        memcpy(code + i, &x, 8);
    }
}

/* A third of the instructions from uniform bytes, two thirds shaped. */
static void run_random(struct run *r, u64 count, u8 mode) {
    u8 code[STREAM];
    u64 end = r->instructions + count;
    while (r->instructions < end) {
        fill(r, code, STREAM);
        for (u8 at = 0, i = 0; i < 4 && at + 16 <= STREAM; i++)
            at = (u8)(at + step(r, code + at, STREAM - at, mode));
        for (u8 i = 0; i < 8; i++) {
            fill(r, code, 24);
            put_form(r, code, mode);
            step(r, code, 24, mode);
        }
    }
}

static void run_code(struct run *r, const u8 *code, size_t size, u64 count, u8 mode) {
    for (size_t at = 0; at < size && count; count--)
        at += step(r, code + at, size - at, mode);
}

static void run_elf(struct run *r, const char *path, u64 count, u8 mode) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) || (size_t)st.st_size < sizeof(Elf64_Ehdr)) {
        fprintf(stderr, "decode_zydis: cannot read %s\n", path);
        exit(2);
    }
    size_t size = (size_t)st.st_size;
    u8 *file = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const Elf64_Ehdr *eh = (const void *)file;
    if (file == MAP_FAILED || memcmp(file, ELFMAG, SELFMAG) ||
        eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_shoff > size ||
        eh->e_shnum > (size - eh->e_shoff) / sizeof(Elf64_Shdr)) {
        fprintf(stderr, "decode_zydis: %s is not a 64-bit ELF file\n", path);
        exit(2);
    }
    const Elf64_Shdr *sh = (const void *)(file + eh->e_shoff);
    for (u32 i = 0; i < eh->e_shnum; i++)
        if ((sh[i].sh_flags & SHF_EXECINSTR) && sh[i].sh_type == SHT_PROGBITS &&
            sh[i].sh_offset <= size && sh[i].sh_size <= size - sh[i].sh_offset)
            run_code(r, file + sh[i].sh_offset, sh[i].sh_size, count, mode);
    munmap(file, size);
    close(fd);
}

/* --- report
 * ---------------------------------------------------------------------------------------- */

static void print_kind(const struct kind *k) {
    printf("%10llu  %2u-bit  %-24s %-18s %-18s ", (unsigned long long)k->count, k->mode,
           k->first.what, k->first.ours, k->first.theirs);
    for (u32 i = 0; i < sizeof(k->code); i++)
        printf("%02x ", k->code[i]);
    printf("%s\n", k->first.explained ? k->first.explained : "");
}

static int by_count(const void *a, const void *b) {
    const struct kind *x = a, *y = b;
    return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

static void print_explained(const struct run *r) {
    for (u32 i = 0; i < r->kinds; i++) {
        const char *name = r->kind[i].first.explained;
        u64 count = 0;
        for (u32 j = 0; name && j < r->kinds; j++) {
            if (r->kind[j].first.explained != name)
                continue;
            if (j < i)
                break;
            count += r->kind[j].count;
        }
        if (count)
            printf("%12llu  explained: %s\n", (unsigned long long)count, name);
    }
}

static int report(struct run *r, u64 seed) {
    printf("%12llu  compared (seed %llu), %llu valid in both\n",
           (unsigned long long)r->instructions, (unsigned long long)seed,
           (unsigned long long)r->valid);
    print_explained(r);
    printf("%12llu  not explained\n", (unsigned long long)r->unexplained);
    qsort(r->kind, r->kinds, sizeof(r->kind[0]), by_count);
    u32 shown = 0;
    for (u32 i = 0; i < r->kinds && shown < r->show; i++)
        if (!r->kind[i].first.explained && ++shown)
            print_kind(&r->kind[i]);
    return r->unexplained ? 1 : 0;
}

static void usage(void) {
    fprintf(stderr, "usage: decode_zydis [--count N] [--seed N] [--mode 16|32|64|all] [--show N] "
                    "[--elf FILE]...\n");
    exit(2);
}

int main(int argc, char **argv) {
    static struct run r;
    u64 count = 3000000, seed = 1;
    u8 only = 0;
    int elfs = 0;

    r.show = 40;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--count"))
            count = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--seed"))
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--show"))
            r.show = (u32)strtoul(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--mode"))
            only = (u8)strtoul(argv[i + 1], NULL, 0); /* "all": 0 */
        else if (!strcmp(argv[i], "--elf"))
            elfs++;
        else
            usage();
    }
    if (argc % 2 == 0)
        usage();
    r.rng = seed;
    compare_init(&r.compare);
    for (int i = 1; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--elf"))
            for (u8 mode = 16; mode <= 64; mode = (u8)(mode * 2))
                if (only ? mode == only : mode == 64)
                    run_elf(&r, argv[i + 1], ~0ull, mode);
    for (u8 mode = 16; mode <= 64 && !elfs; mode = (u8)(mode * 2))
        if (!only || mode == only)
            run_random(&r, only ? count : count / 3, mode);
    return report(&r, seed);
}
