/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side of the device tests (tests/devices/run.py), a static program:
 *
 *   devtest fill MIB SEED         takes memory, fills it, says "filled", waits for a line on
 * standard input, checks that it holds what it should, gives it back devtest send CID PORT BYTES
 * SEED        connects, sends, reads the other side's verdict devtest receive CID PORT BYTES SEED
 * connects, receives and compares devtest echo PORT COUNT       listens, serves COUNT connections,
 * one process each: gives back what comes until the other side has shut down its half devtest
 * connect CID PORT      prints what connect says devtest many CID PORT COUNT   COUNT connections at
 * a time, each echoes a block devtest hold CID PORT         connects and waits; prints what ends
 * the connection
 *
 * Data is the output of a generator with this seed, so both sides know it.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 65536, MIB = 1 << 20 };

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void generate(uint64_t *state, void *to, size_t size) {
    uint64_t *p = to;
    for (size_t i = 0; i < size / sizeof(*p); i++) {
        p[i] = next(state);
    }
}

static int say(const char *what, int status) {
    printf("devtest: %s\n", what);
    fflush(stdout);
    return status;
}

/* --- memory ------------------------------------------------------------------------------------
 */

static int fill(size_t mib, uint64_t seed) {
    char line[16];
    uint64_t state = seed, expect[512];
    uint8_t *p = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return say("no memory", 1);
    }
    for (size_t at = 0; at < mib * MIB; at += sizeof(expect)) {
        generate(&state, p + at, sizeof(expect));
    }
    say("filled", 0);
    if (!fgets(line, sizeof(line), stdin)) {
        return say("no line", 1);
    }
    state = seed;
    for (size_t at = 0; at < mib * MIB; at += sizeof(expect)) {
        generate(&state, expect, sizeof(expect));
        if (memcmp(expect, p + at, sizeof(expect)) != 0) {
            return say("MEMORY CHANGED", 1);
        }
    }
    munmap(p, mib * MIB);
    return say("memory is right", 0);
}

/* --- vsock -------------------------------------------------------------------------------------
 */

static struct sockaddr_vm address(unsigned cid, unsigned port) {
    return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static int dial(unsigned cid, unsigned port) {
    struct sockaddr_vm to = address(cid, port);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to))) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

static int write_all(int fd, const uint8_t *p, size_t size) {
    while (size) {
        ssize_t n = send(fd, p, size, MSG_NOSIGNAL);
        if (n <= 0) {
            return -1;
        }
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

static int read_all(int fd, uint8_t *p, size_t size) {
    while (size) {
        ssize_t n = read(fd, p, size);
        if (n <= 0) {
            return -1;
        }
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

static int send_to(int fd, size_t bytes, uint64_t seed) {
    static uint8_t block[BLOCK];
    char verdict[32] = "";
    for (size_t at = 0; at < bytes; at += sizeof(block)) {
        generate(&seed, block, sizeof(block));
        if (write_all(fd, block, bytes - at < sizeof(block) ? bytes - at : sizeof(block))) {
            return say("send failed", 1);
        }
    }
    shutdown(fd, SHUT_WR); /* the other half stays open for the verdict */
    ssize_t n = read(fd, verdict, sizeof(verdict) - 1);
    if (n != 2 || memcmp(verdict, "ok", 2) != 0) {
        return say("sent, but what came was wrong", 1);
    }
    return say("sent and right", 0);
}

static int receive_from(int fd, size_t bytes, uint64_t seed) {
    static uint8_t block[BLOCK], got[BLOCK];
    for (size_t at = 0; at < bytes; at += sizeof(block)) {
        size_t n = bytes - at < sizeof(block) ? bytes - at : sizeof(block);
        generate(&seed, block, sizeof(block));
        if (read_all(fd, got, n) || memcmp(block, got, n) != 0) {
            return say("received something wrong", 1);
        }
    }
    if (read(fd, got, 1) != 0) {
        return say("no end", 1);
    }
    return say("received and right", 0);
}

static int echo_one(int fd) {
    static uint8_t block[BLOCK];
    ssize_t n;
    while ((n = read(fd, block, sizeof(block))) > 0) {
        if (write_all(fd, block, (size_t)n)) {
            return 1;
        }
    }
    return n ? 1 : 0;
}

static int echo(unsigned port, unsigned count) {
    struct sockaddr_vm at = address(VMADDR_CID_ANY, port);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0), failed = 0, status;
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 64)) {
        return say("cannot listen", 1);
    }
    say("listening", 0);
    for (unsigned i = 0; i < count; i++) {
        int peer = accept(fd, NULL, NULL);
        if (peer < 0) {
            return say("cannot accept", 1);
        }
        if (!fork()) {
            close(fd);
            _exit(echo_one(peer));
        }
        close(peer);
    }
    while (wait(&status) > 0) {
        failed += status != 0;
    }
    return failed ? say("an echo failed", 1) : say("echoed", 0);
}

static int many(unsigned cid, unsigned port, unsigned count) {
    static uint8_t block[BLOCK], got[BLOCK];
    static int fd[512];
    unsigned open = 0, wrong = 0;
    for (; open < count && open < 512 && (fd[open] = dial(cid, port)) >= 0; open++) {
    }
    for (unsigned i = 0; i < open; i++) {
        uint64_t seed = i + 1;
        generate(&seed, block, 4096);
        wrong += write_all(fd[i], block, 4096) != 0;
    }
    for (unsigned i = 0; i < open; i++) {
        uint64_t seed = i + 1;
        generate(&seed, block, 4096);
        wrong += read_all(fd[i], got, 4096) || memcmp(got, block, 4096) != 0;
        close(fd[i]);
    }
    printf("devtest: %u open, %u wrong\n", open, wrong);
    return open != count || wrong;
}

static int hold(int fd) {
    char c;
    say("holding", 0);
    ssize_t n = read(fd, &c, 1);
    printf("devtest: ended with %s\n", n ? strerror(errno) : "end of file");
    return 0;
}

static int with_socket(const char *verb, char **arg) {
    unsigned cid = (unsigned)strtoul(arg[0], NULL, 0), port = (unsigned)strtoul(arg[1], NULL, 0);
    int fd = dial(cid, port);
    if (fd < 0 || !strcmp(verb, "connect")) {
        printf("devtest: connect: %s\n", fd < 0 ? strerror(errno) : "connected");
        return fd < 0;
    }
    if (!strcmp(verb, "hold")) {
        return hold(fd);
    }
    size_t bytes = strtoull(arg[2], NULL, 0);
    uint64_t seed = strtoull(arg[3], NULL, 0);
    return strcmp(verb, "send") ? receive_from(fd, bytes, seed) : send_to(fd, bytes, seed);
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "fill") && argc == 4) {
        return fill(strtoul(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    }
    if (!strcmp(verb, "echo") && argc == 4) {
        return echo((unsigned)strtoul(argv[2], NULL, 0), (unsigned)strtoul(argv[3], NULL, 0));
    }
    if (!strcmp(verb, "many") && argc == 5) {
        return many((unsigned)strtoul(argv[2], NULL, 0), (unsigned)strtoul(argv[3], NULL, 0),
                    (unsigned)strtoul(argv[4], NULL, 0));
    }
    if (((!strcmp(verb, "send") || !strcmp(verb, "receive")) && argc == 6) ||
        ((!strcmp(verb, "connect") || !strcmp(verb, "hold")) && argc == 4)) {
        return with_socket(verb, argv + 2);
    }
    return say("unknown arguments", 2);
}
