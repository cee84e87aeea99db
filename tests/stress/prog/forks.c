/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes: trees of forks with a bounded count, copy-on-write seen from both sides, exec of this
 * program itself, vfork, and threads that write while others fork.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sys/wait.h>

enum { DATA = 64 * PAGE / 8, DEPTH = 3, WIDTH = 3 };

static u64 *data;
static const char *self;
static _Atomic u64 rounds;
static atomic_bool quit;

static u64 checksum(void) {
    u64 sum = 0;
    for (u32 i = 0; i < DATA; i += 37) {
        sum = sum * 31 + data[i];
    }
    return sum;
}

static int wait_for(pid_t pid) {
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Each process changes its memory and starts WIDTH more below it; what they do must not be seen. */
static int tree(u32 depth, u64 seed) {
    for (u32 i = 0; i < DATA; i += 37) {
        data[i] ^= rnd_step(&seed);
    }
    u64 sum = checksum();
    if (depth) {
        pid_t child[WIDTH];
        for (u32 i = 0; i < WIDTH; i++) {
            child[i] = fork();
            if (child[i] == 0) {
                _exit(tree(depth - 1, seed + i));
            }
        }
        for (u32 i = 0; i < WIDTH; i++) {
            if (wait_for(child[i])) {
                return 1;
            }
        }
    }
    return checksum() != sum;
}

static void exec_self(bool quick) {
    char *argv[] = {(char *)(uintptr_t)self, "child", "7", NULL};
    char *envp[] = {NULL};
    pid_t pid = quick ? vfork() : fork();
    if (pid == 0) {
        execve(self, argv, envp);
        _exit(99);
    }
    CHECK_EQ(wait_for(pid), 49);
}

static void *scribble(void *arg) {
    volatile u64 *mine = arg;
    u64 n = 0;
    while (!quit) {
        for (u32 i = 0; i < 512; i++) {
            if (mine[i] != n) {
                BAD("a thread's page shows %llu, not %llu", (unsigned long long)mine[i],
                    (unsigned long long)n);
                return NULL;
            }
            mine[i] = n + 1;
        }
        n++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc == 3) {
        return atoi(argv[2]) * atoi(argv[2]);
    }
    self = "/proc/self/exe";
    stress_begin();
    data = (void *)map_pages(64, PROT_READ | PROT_WRITE);
    u64 seed = rnd_seed();
    pthread_t t = start(scribble, map_pages(1, PROT_READ | PROT_WRITE));
    while (stress_more()) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(tree(DEPTH, seed));
        }
        CHECK_EQ(wait_for(pid), 0);
        CHECK(checksum() == 0);
        exec_self(false);
        exec_self(true);
        rounds++;
    }
    quit = true;
    pthread_join(t, NULL);
    return stress_done("processes", rounds);
}
