/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of the crash test, in the guest: rounds of random writes to a disk, an fsync, and then a
 * line that says so. What it writes follows from the seed, so that the host can tell afterwards
 * what must be there (tests/storage/crash.py has the same generator).
 *
 * usage: load DEVICE SEED BLOCKS
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BLOCK = 4096, SECTOR = 512 };

static uint64_t state;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static int write_block(int fd, uint64_t block, uint64_t round) {
    uint64_t words[BLOCK / 8];
    for (size_t i = 0; i < BLOCK / 8; i += 2) {
        words[i] = block * (BLOCK / SECTOR) + i * 8 / SECTOR;
        words[i + 1] = round;
    }
    return pwrite(fd, words, BLOCK, (off_t)(block * BLOCK)) == BLOCK ? 0 : -1;
}

static int zero_block(int fd, uint64_t block) {
    uint64_t range[2] = {block * BLOCK, BLOCK};
    return ioctl(fd, BLKZEROOUT, range);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        return 2;
    }
    int fd = open(argv[1], O_RDWR);
    uint64_t blocks = strtoull(argv[3], NULL, 0);
    state = strtoull(argv[2], NULL, 0);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    for (uint64_t round = 1;; round++) {
        for (uint64_t n = 1 + next() % 12; n > 0; n--) {
            uint64_t block = next() % blocks;
            int rc = next() % 8 ? write_block(fd, block, round) : zero_block(fd, block);
            if (rc) {
                perror("write");
                return 1;
            }
        }
        if (fsync(fd)) {
            perror("fsync");
            return 1;
        }
        printf("synced %llu\n", (unsigned long long)round);
        fflush(stdout);
    }
}
