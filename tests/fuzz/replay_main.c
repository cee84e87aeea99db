/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz harness without a fuzzer: every file of the corpus folder, then mutations of them and
 * random inputs from a fixed seed, so that the harness is a plain, repeatable test.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_MAX = 1 << 20, ROUNDS = 3000, RANDOM_MAX = 2048 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t rng_state = 0x5051a5eedull;

static uint64_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* The harness gets a heap copy of the exact size so that ASan sees the first byte past it. */
static void run_copy(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) {
        abort();
    }
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_mutations(uint8_t *data, size_t size) {
    for (int i = 0; size && i < 200; i++) {
        size_t at = rng() % size;
        uint8_t old = data[at];
        data[at] = (uint8_t)rng();
        run_copy(data, i % 8 ? size : at);
        data[at] = old;
    }
}

static int run_file(const char *path, uint8_t *buf) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        return 0;
    }
    size_t n = fread(buf, 1, INPUT_MAX, f);
    fclose(f);
    run_copy(buf, n);
    run_mutations(buf, n);
    return 1;
}

int main(int argc, char **argv) {
    uint8_t *buf = malloc(INPUT_MAX);
    int files = 0;
    DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
    if (!buf) {
        return 1;
    }
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] != '.' && snprintf(path, sizeof(path), "%s/%s", argv[1], e->d_name) > 0) {
            files += run_file(path, buf);
        }
    }
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = rng() % RANDOM_MAX;
        for (size_t k = 0; k < n; k++) {
            buf[k] = (uint8_t)rng();
        }
        run_copy(buf, n);
    }
    printf("%d files and %d random inputs\n", files, ROUNDS);
    free(buf);
    if (dir) {
        closedir(dir);
    }
    return 0;
}
