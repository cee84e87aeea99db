/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel changing its own code under load: static keys (schedstats), tracepoints with their
 * static calls, the function tracer on thousands of functions, kprobes and uprobes, packet and
 * system call filters translated to code, while threads on all processors make system calls whose
 * results are known. Needs root; changes settings of the kernel, so it is for guests.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { WORKERS = 4 };

#define TRACING "/sys/kernel/tracing/"

static atomic_bool quit;
static _Atomic u64 rounds;
static u64 changes, missing;

static void set(const char *file, const char *value) {
    int fd = open(file, O_WRONLY | O_APPEND);
    if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t)strlen(value)) {
        missing++;
    } else {
        changes++;
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* --- load
 * ------------------------------------------------------------------------------------------- */

static void *ping(void *arg) {
    int there[2], back[2];
    u64 seed = (u64)(uintptr_t)arg;
    NEED(pipe(there) == 0 && pipe(back) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        u64 v;
        while (read(there[0], &v, 8) == 8 && v) {
            v = v * 3 + 1;
            if (write(back[1], &v, 8) != 8) {
                break;
            }
        }
        _exit(7);
    }
    pid_t me = getpid();
    while (!quit && !stress_bad) {
        u64 v = rnd_step(&seed) | 1, got = 0;
        CHECK_EQ(write(there[1], &v, 8), 8);
        CHECK_EQ(read(back[0], &got, 8), 8);
        CHECK_EQ(got, v * 3 + 1);
        CHECK_EQ(syscall(SYS_getpid), me);
        CHECK_EQ(lseek(-1, 0, SEEK_SET), (u64)-1);
        sched_yield();
        rounds++;
    }
    u64 zero = 0;
    int status;
    CHECK_EQ(write(there[1], &zero, 8), 8);
    NEED(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(WEXITSTATUS(status), 7);
    return NULL;
}

/* --- filters
 * ------------------------------------------------------------------------------------------ */

/* A socket filter of random arithmetic that takes packets whose byte 0 is above a bound. */
static void packet_filter(u64 *seed) {
    int s[2];
    struct sock_filter f[40];
    u16 n = 0;
    u8 bound = (u8)rnd_step(seed);
    NEED(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    u32 noise = (u32)(rnd_step(seed) % 30);
    for (u32 i = 0; i < noise; i++) {
        u32 r = (u32)rnd_step(seed);
        static const u16 ops[] = {BPF_ADD, BPF_SUB, BPF_XOR, BPF_OR, BPF_MUL};
        f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | ops[r % 5] | BPF_K, r >> 3);
    }
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0);
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, bound, 0, 1);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0xffff);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog prog = {n, f};
    NEED(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) == 0);
    for (u32 i = 0; i < 40; i++) {
        u8 sent = (u8)rnd_step(seed), got = 0;
        NEED(send(s[0], &sent, 1, MSG_DONTWAIT) == 1 || sent <= bound);
        ssize_t r = recv(s[1], &got, 1, MSG_DONTWAIT);
        CHECK_EQ(r == 1, sent > bound);
        CHECK(r != 1 || got == sent);
    }
    close(s[0]);
    close(s[1]);
    changes++;
}

static void call_filter(u64 *seed) {
    u16 code = (u16)(1 + rnd_step(seed) % 100);
    pid_t pid = fork();
    if (pid == 0) {
        struct sock_filter f[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog prog = {4, f};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
            _exit(50);
        }
        for (u32 i = 0; i < 50; i++) {
            long r;
            __asm__ volatile("syscall" : "=a"(r) : "0"(SYS_getppid) : "rcx", "r11", "memory");
            if (r != -(long)code || syscall(SYS_getuid) != 0) {
                _exit(51);
            }
        }
        _exit(0);
    }
    int status;
    NEED(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
    changes++;
}

/* --- pokes
 * -------------------------------------------------------------------------------------------- */

static void keys(void) {
    set("/proc/sys/kernel/sched_schedstats", "1");
    set("/proc/sys/kernel/task_delayacct", "1");
    set("/proc/sys/kernel/sched_schedstats", "0");
    set("/proc/sys/kernel/task_delayacct", "0");
}

static void tracepoints(const char *system) {
    char file[128];
    snprintf(file, sizeof(file), TRACING "events/%s/enable", system);
    set(file, "1");
    sched_yield();
    set(file, "0");
}

static void functions(const char *filter) {
    set(TRACING "set_ftrace_filter", filter);
    set(TRACING "current_tracer", "function");
    usleep(1000);
    set(TRACING "current_tracer", "nop");
}

static void probes(void) {
    set(TRACING "kprobe_events", "p:stress_p do_sys_openat2");
    set(TRACING "kprobe_events", "r:stress_r vfs_write");
    set(TRACING "events/kprobes/enable", "1");
    usleep(1000);
    set(TRACING "events/kprobes/enable", "0");
    set(TRACING "kprobe_events", "-:stress_p");
    set(TRACING "kprobe_events", "-:stress_r");
}

int main(void) {
    pthread_t t[WORKERS];
    stress_begin();
    u64 seed = rnd_seed();
    mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
    set("/proc/sys/net/core/bpf_jit_enable", "1");
    missing = 0;
    for (u64 i = 0; i < WORKERS; i++) {
        t[i] = start(ping, (void *)(uintptr_t)(i + 1));
    }
    for (u32 n = 0; stress_more(); n++) {
        keys();
        packet_filter(&seed);
        call_filter(&seed);
        tracepoints(n & 1 ? "sched" : "raw_syscalls");
        tracepoints(n & 1 ? "irq_vectors" : "kmem");
        functions("vfs_* sched* pipe_*");
        probes();
        if (n % 8 == 7) {
            functions("*");
        }
    }
    quit = true;
    for (u32 i = 0; i < WORKERS; i++) {
        pthread_join(t[i], NULL);
    }
    printf("  %llu changes, %llu settings that are not there\n", (unsigned long long)changes,
           (unsigned long long)missing);
    return stress_done("kernel code", rounds);
}
