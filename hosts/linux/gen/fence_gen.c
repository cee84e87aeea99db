/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seccomp filters of a machine's process: a program that runs when Sosia is built and writes
 * them as a C file (usage: fence_gen > fence_bpf.c), made with libseccomp. A process that starts
 * would spend a millisecond on it, and always come to the same. Lists, not flags, say what is
 * allowed; where an argument decides, it is compared:
 *
 *   mmap, mprotect   never PROT_EXEC: no code but what was there (or was mapped for the
 *                    translator) when the fence went up
 *   clone            threads only; clone3 hides its flags from a filter and says ENOSYS, after
 *                    which the C library takes clone
 *   tgkill           this process only (FENCE_BPF_PID stands for it: fence_seccomp.c)
 *   ioctl            terminals' size and modes (never TIOCSTI), KVM's own
 *   socket           by family
 *
 * io_uring executes system calls that no filter sees: the rings are restricted to reads, writes and
 * syncs when they are made (ring.c), and none can be made later.
 */
#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/types.h"
#include "hosts/linux/fence_bpf.h"

/* What every thread needs: memory, waiting, I/O on descriptors that are open. */
static const int common_calls[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(sync_file_range),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(close),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(sendto),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(recvmmsg),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(membarrier),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getcpu),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* The event thread, back ends and workers besides. */
static const int host_calls[] = {
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_gettime),
    SCMP_SYS(pipe2),
    SCMP_SYS(dup),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(listen),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(copy_file_range),
    SCMP_SYS(splice),
    SCMP_SYS(sendfile),
    SCMP_SYS(memfd_create),
    SCMP_SYS(fadvise64),
    SCMP_SYS(fstatfs),
    SCMP_SYS(flock),
    SCMP_SYS(getrusage),
    SCMP_SYS(times),
    SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    SCMP_SYS(seccomp), /* a further filter only narrows */
    SCMP_SYS(set_tid_address),
    SCMP_SYS(unlink), /* sockets of its own at the end; Landlock says where */
    SCMP_SYS(unlinkat),
};

/* With names to open: shared folders, an API that is told paths. */
static const int open_calls[] = {
    SCMP_SYS(open),       SCMP_SYS(openat),     SCMP_SYS(openat2),           SCMP_SYS(stat),
    SCMP_SYS(lstat),      SCMP_SYS(statx),      SCMP_SYS(newfstatat),        SCMP_SYS(access),
    SCMP_SYS(faccessat),  SCMP_SYS(faccessat2), SCMP_SYS(readlink),          SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64), SCMP_SYS(statfs),     SCMP_SYS(name_to_handle_at),
};

/* With names to make and change. */
static const int change_calls[] = {
    SCMP_SYS(creat),     SCMP_SYS(mkdir),     SCMP_SYS(mkdirat),    SCMP_SYS(rmdir),
    SCMP_SYS(rename),    SCMP_SYS(renameat),  SCMP_SYS(renameat2),  SCMP_SYS(link),
    SCMP_SYS(linkat),    SCMP_SYS(symlink),   SCMP_SYS(symlinkat),  SCMP_SYS(mknodat),
    SCMP_SYS(truncate),  SCMP_SYS(chmod),     SCMP_SYS(fchmod),     SCMP_SYS(fchmodat),
    SCMP_SYS(chown),     SCMP_SYS(fchown),    SCMP_SYS(fchownat),   SCMP_SYS(utimensat),
    SCMP_SYS(fsetxattr), SCMP_SYS(fgetxattr), SCMP_SYS(flistxattr), SCMP_SYS(fremovexattr),
    SCMP_SYS(setxattr),  SCMP_SYS(getxattr),  SCMP_SYS(listxattr),  SCMP_SYS(removexattr),
    SCMP_SYS(umask),     SCMP_SYS(syncfs),
};

/* Nothing of Sosia ever makes these once a guest runs. */
static const int deadly_calls[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(kcmp),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(move_mount),
    SCMP_SYS(fsopen),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setresgid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(personality),
};

static int add_all(scmp_filter_ctx ctx, u32 action, const int *calls, size_t count) {
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        rc = seccomp_rule_add(ctx, action, calls[i], 0);
    }
    return rc;
}

#define ALLOW_ALL(ctx, calls) add_all(ctx, SCMP_ACT_ALLOW, calls, ARRAY_LEN(calls))
#define ALLOW_ARG(ctx, call, ...)                                                                  \
    seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(call), 1, __VA_ARGS__)

static int deny_deadly(scmp_filter_ctx ctx) {
    return add_all(ctx, SCMP_ACT_KILL_PROCESS, deadly_calls, ARRAY_LEN(deadly_calls));
}

/* ioctl: the requests of KVM's descriptors, terminals' modes and sizes, sizes of block devices. */
static int ioctls(scmp_filter_ctx ctx) {
    static const u32 requests[] = {TCGETS,   TCSETS,  TCSETSW,      TCSETSF,    TIOCGWINSZ,
                                   FIONREAD, FIONBIO, BLKGETSIZE64, BLKDISCARD, BLKZEROOUT};
    int rc = ALLOW_ARG(ctx, ioctl, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, KVMIO << 8));
    for (size_t i = 0; i < ARRAY_LEN(requests) && !rc; i++) {
        /* the kernel looks at 32 bits of it */
        rc = ALLOW_ARG(ctx, ioctl, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, requests[i]));
    }
    return rc;
}

static int memory(scmp_filter_ctx ctx) {
    int rc = ALLOW_ARG(ctx, mmap, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    rc = rc ? rc : ALLOW_ARG(ctx, mprotect, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* what fstat is made of: no name, only a descriptor */
    return rc ? rc : ALLOW_ARG(ctx, newfstatat, SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
}

static int by_argument(scmp_filter_ctx ctx) {
    int rc = ALLOW_ARG(ctx, tgkill, SCMP_A0(SCMP_CMP_EQ, FENCE_BPF_PID));
    rc = rc ? rc : ALLOW_ARG(ctx, prctl, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    rc = rc ? rc : ALLOW_ARG(ctx, prctl, SCMP_A0(SCMP_CMP_EQ, PR_SET_VMA));
    rc = rc ? rc : ALLOW_ARG(ctx, arch_prctl, SCMP_A0(SCMP_CMP_LE, 0x1004)); /* FS and GS base */
    rc = rc ? rc : ALLOW_ARG(ctx, prlimit64, SCMP_A2(SCMP_CMP_EQ, 0));
    static const int fcntls[] = {F_GETFD,         F_SETFD,     F_GETFL,     F_SETFL,
                                 F_DUPFD_CLOEXEC, F_OFD_SETLK, F_OFD_GETLK, F_GETPIPE_SZ};
    for (size_t i = 0; i < ARRAY_LEN(fcntls) && !rc; i++) {
        rc = ALLOW_ARG(ctx, fcntl, SCMP_A1(SCMP_CMP_EQ, (u64)fcntls[i]));
    }
    return rc ? rc : memory(ctx);
}

static int threads(scmp_filter_ctx ctx) {
    int rc = ALLOW_ARG(ctx, clone, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    return rc ? rc : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

static int sockets(scmp_filter_ctx ctx, enum fence_sockets may) {
    int rc = ALLOW_ARG(ctx, socketpair, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    if (!rc && may >= FENCE_SOCKETS_INET) {
        rc = ALLOW_ARG(ctx, socket, SCMP_A0(SCMP_CMP_EQ, AF_INET));
        rc = rc ? rc : ALLOW_ARG(ctx, socket, SCMP_A0(SCMP_CMP_EQ, AF_INET6));
    }
    if (!rc && may) { /* a resolver may be asked by a Unix socket */
        rc = ALLOW_ARG(ctx, socket, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    }
    if (!rc && may) {
        static const int calls[] = {SCMP_SYS(connect), SCMP_SYS(bind)};
        rc = ALLOW_ALL(ctx, calls);
    }
    return rc;
}

static int names(scmp_filter_ctx ctx, enum fence_names may) {
    int rc = may ? ALLOW_ALL(ctx, open_calls) : 0;
    if (!rc && may >= FENCE_NAMES_CHANGE) {
        rc = ALLOW_ALL(ctx, change_calls);
        /* setfsuid and the like stay out: files belong to whom the monitor runs as */
    }
    return rc;
}

static scmp_filter_ctx filter_new(void) {
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (ctx &&
        (seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) ||
         ALLOW_ALL(ctx, common_calls) || by_argument(ctx) || ioctls(ctx) || deny_deadly(ctx))) {
        seccomp_release(ctx);
        ctx = NULL;
    }
    if (ctx) {
        (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a search tree */
    }
    return ctx;
}

/* libseccomp writes a program into a descriptor only. */
static int program_of(scmp_filter_ctx ctx, struct sock_filter *out, size_t *count) {
    FILE *f = tmpfile();
    int rc = f ? seccomp_export_bpf(ctx, fileno(f)) : -1;
    if (!rc) {
        rewind(f);
        *count = fread(out, sizeof(*out), FENCE_BPF_MAX, f);
        rc = *count && *count < FENCE_BPF_MAX ? 0 : -1;
    }
    if (f) {
        fclose(f);
    }
    return rc;
}

/* Exactly one comparison with the process's number, or the loader would patch something else. */
static bool program_fits(const struct sock_filter *p, size_t count) {
    u32 pids = 0;
    for (size_t i = 0; i < count; i++) {
        pids += p[i].code == (BPF_JMP | BPF_JEQ | BPF_K) && p[i].k == FENCE_BPF_PID;
    }
    return pids == 1;
}

static int write_program(scmp_filter_ctx ctx, u32 n, u32 *length) {
    static struct sock_filter p[FENCE_BPF_MAX];
    size_t count = 0;
    if (program_of(ctx, p, &count) || !program_fits(p, count)) {
        return -1;
    }
    printf("static const struct sock_filter program_%u[] = {\n", n);
    for (size_t i = 0; i < count; i++) {
        printf("    {0x%x, %u, %u, 0x%x},\n", p[i].code, p[i].jt, p[i].jf, p[i].k);
    }
    puts("};\n");
    *length = (u32)count;
    return 0;
}

/* Program n of fence_programs; FENCE_BPF_VCPU is that of the vCPUs' threads. */
static scmp_filter_ctx filter_of(u32 n) {
    scmp_filter_ctx ctx = filter_new();
    if (ctx && n != FENCE_BPF_VCPU &&
        (ALLOW_ALL(ctx, host_calls) || threads(ctx) ||
         sockets(ctx, (enum fence_sockets)(n / FENCE_NAMES_LEVELS)) ||
         names(ctx, (enum fence_names)(n % FENCE_NAMES_LEVELS)))) {
        seccomp_release(ctx);
        ctx = NULL;
    }
    return ctx;
}

int main(void) {
    u32 length[FENCE_BPF_COUNT];
    /* the program must not depend on the kernel of the machine that builds */
    (void)seccomp_api_set(3);
    puts("/* made by hosts/linux/gen/fence_gen.c */\n#include <linux/filter.h>\n\n"
         "#include \"hosts/linux/fence_bpf.h\"\n");
    for (u32 n = 0; n < FENCE_BPF_COUNT; n++) {
        scmp_filter_ctx ctx = filter_of(n);
        if (!ctx || write_program(ctx, n, &length[n])) {
            fprintf(stderr, "fence_gen: libseccomp does not make filter %u\n", n);
            return 1;
        }
        seccomp_release(ctx);
    }
    puts("const struct fence_bpf fence_programs[FENCE_BPF_COUNT] = {");
    for (u32 n = 0; n < FENCE_BPF_COUNT; n++) {
        printf("    {program_%u, %u},\n", n, length[n]);
    }
    puts("};");
    return 0;
}
