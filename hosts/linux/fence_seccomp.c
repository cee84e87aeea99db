/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting the seccomp filters in force. What they allow is in gen/fence_gen.c, which makes them
 * when Sosia is built; here the one that fits is chosen and gets the number of this process.
 *
 * io_uring executes system calls that no filter sees: the rings are restricted to reads, writes and
 * syncs when they are made (ring.c), and none can be made later.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hosts/linux/fence.h"
#include "hosts/linux/fence_bpf.h"

static u32 program_for(u32 needs) {
    u32 sockets = needs & FENCE_INET   ? FENCE_SOCKETS_INET
                  : needs & FENCE_UNIX ? FENCE_SOCKETS_UNIX
                                       : FENCE_SOCKETS_NONE;
    u32 names = needs & (FENCE_WRITE | FENCE_OPEN) ? FENCE_NAMES_CHANGE
                : needs & FENCE_READ               ? FENCE_NAMES_OPEN
                                                   : FENCE_NAMES_NONE;
    return sockets * FENCE_NAMES_LEVELS + names;
}

/* A copy for this process. */
static int program_get(u32 n, struct sock_fprog *out) {
    const struct fence_bpf *from = &fence_programs[n];
    size_t size = from->length * sizeof(*from->filter);
    out->filter = malloc(size);
    if (!out->filter) {
        return -ERR_NOMEM;
    }
    out->len = (unsigned short)from->length;
    memcpy(out->filter, from->filter, size);
    for (u32 i = 0; i < from->length; i++) {
        struct sock_filter *f = &out->filter[i];
        if (f->code == (BPF_JMP | BPF_JEQ | BPF_K) && f->k == FENCE_BPF_PID) {
            f->k = (u32)getpid();
        }
    }
    return 0;
}

int fence_seccomp(u32 needs, struct sock_fprog *vcpu, struct err *err) {
    struct sock_fprog all = {0};
    int rc = program_get(FENCE_BPF_VCPU, vcpu);
    rc = rc ? rc : program_get(program_for(needs), &all);
    if (rc) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &all);
    free(all.filter);
    return result ? ERR_SET(err, ERR_UNSUPPORTED,
                            "fence: the kernel takes no filter of system calls (error %d); "
                            "`--fence off` runs without",
                            result < 0 ? errno : ESRCH)
                  : 0;
}
