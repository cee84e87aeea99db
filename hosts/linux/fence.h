/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fence: what the process of a machine may still do once its guest runs. docs/security.md says
 * against whom.
 *
 * Before linux_fence each part says what it will need later (an address family, a path);
 * linux_fence then gives everything else away for good: capabilities, new privileges, names of
 * files (Landlock), system calls (seccomp, all threads; vCPU threads a narrower set), inherited
 * descriptors, core dumps. A call outside the filter fails with EPERM; one that only an intruder
 * makes (execve, ptrace, process_vm_readv, ...) ends the process with SIGSYS.
 *
 * Threads that vCPUs want (workers) are started by a thread outside the narrow set: linux_spawn.
 */
#ifndef HOSTS_LINUX_FENCE_H
#define HOSTS_LINUX_FENCE_H

#include <pthread.h>

#include "core/base/err.h"
#include "hosts/linux/linux.h"

struct fence;

/* One per host; holds what was asked for. NULL: no memory. */
struct fence *fence_create(void);
void fence_destroy(struct fence *f);

/* pthread_create with all signals blocked in the new thread, by the spawner when there is one. 0 or
 * an errno. */
int linux_spawn(struct linux_host *lh, pthread_t *out, void *(*fn)(void *), void *arg);

/* First call of a vCPU thread: the narrower set. Nothing when there is no fence. */
void fence_enter_vcpu(struct fence *f);

/* --- parts of it ------------------------------------------------------------------------------ */

struct fence_path {
    char *path;
    u32 rights; /* FENCE_* */
};

/* fence_landlock.c: a rule set by which names in paths stay reachable, nothing else; a descriptor,
 * or -ERR_UNSUPPORTED when the kernel has no Landlock. tcp: TCP sockets may be bound and connected.
 * enter puts the calling thread behind it (async-signal-safe). */
bool fence_landlock_enter(int ruleset);
int fence_landlock_rules(const struct fence_path *paths, u32 count, bool tcp);

/* fence_seccomp.c: the filter of all threads goes into force; that of vCPU threads is returned as a
 * BPF program (free it). needs: FENCE_*. */
struct sock_fprog;
int fence_seccomp(u32 needs, struct sock_fprog *vcpu, struct err *err);

#endif
